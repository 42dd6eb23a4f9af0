//! Arguments of the commands that start or steer block jobs.

use std::sync::Arc;

use super::enums::{BitmapSyncMode, JobType, MirrorCopyMode, NewImageMode, OnCbwError, OnError, SyncMode};
use crate::qmp::declare::{members, members_by_hand};
use crate::qmp::visit::{Visit, Visitor};

members! {
    /// What both backup commands have in common (`BackupCommon`).
    pub struct BackupCommon {
        /// Name of the job; the device name if absent.
        job_id: Option<Arc<str>>,
        /// Node or device to copy.
        device: Arc<str>,
        /// What to copy.
        sync: SyncMode,
        /// Bytes per second, 0 for no limit.
        speed: Option<i64>,
        /// The bitmap that says what to copy, or records it.
        bitmap: Option<Arc<str>>,
        /// When the bitmap is brought up to date.
        bitmap_mode: Option<BitmapSyncMode>,
        /// Write compressed; default false.
        compress: Option<bool>,
        /// Default report.
        on_source_error: Option<OnError>,
        /// Default report.
        on_target_error: Option<OnError>,
        /// Which side fails when the filter cannot copy; by default the guest's.
        on_cbw_error: Option<OnCbwError> [since OnCbwErrorOfBackups],
        /// Default true.
        auto_finalize: Option<bool>,
        /// Default true.
        auto_dismiss: Option<bool>,
        /// Node name of the filter; made up if absent.
        filter_node_name: Option<Arc<str>>,
        /// Discard what was copied from the source; default false.
        discard_source: Option<bool> [since DiscardSource],
        /// Tuning.
        x_perf: Option<BackupPerf>,
    }
}

members! {
    /// Tuning of a backup (`BackupPerf`).
    pub struct BackupPerf {
        /// Default false.
        use_copy_range: Option<bool>,
        /// Requests in flight; default 64.
        max_workers: Option<i64>,
        /// Bytes per request, 0 for no limit.
        max_chunk: Option<i64>,
        /// Least cluster size of the copy in bytes; default 0.
        min_cluster_size: Option<u64> [since MinClusterSize],
    }
}

members! {
    /// `blockdev-backup` (`BlockdevBackup`).
    pub struct BlockdevBackup {
        /// What both commands share.
        common: BackupCommon [flat],
        /// Node or device to copy to.
        target: Arc<str>,
    }
}

members! {
    /// `drive-backup` (`DriveBackup`).
    pub struct DriveBackup {
        /// What both commands share.
        common: BackupCommon [flat],
        /// File name of the target.
        target: Arc<str>,
        /// Format of the target.
        format: Option<Arc<str>>,
        /// Default absolute-paths.
        mode: Option<NewImageMode>,
    }
}

members! {
    /// `blockdev-mirror`.
    pub struct BlockdevMirror {
        /// Name of the job; the device name if absent.
        job_id: Option<Arc<str>>,
        /// Node or device to copy.
        device: Arc<str>,
        /// Node or device to copy to.
        target: Arc<str>,
        /// Node to replace at the end.
        replaces: Option<Arc<str>>,
        /// What to copy.
        sync: SyncMode,
        /// Bytes per second, 0 for no limit.
        speed: Option<i64>,
        /// Bytes per dirty bit.
        granularity: Option<u32>,
        /// Bytes in flight at most.
        buf_size: Option<i64>,
        /// Default report.
        on_source_error: Option<OnError>,
        /// Default report.
        on_target_error: Option<OnError>,
        /// Node name of the filter; made up if absent.
        filter_node_name: Option<Arc<str>>,
        /// Default background.
        copy_mode: Option<MirrorCopyMode>,
        /// Default true.
        auto_finalize: Option<bool>,
        /// Default true.
        auto_dismiss: Option<bool>,
        /// The target reads as zeroes.
        target_is_zero: Option<bool> [since TargetIsZero],
    }
}

members! {
    /// `drive-mirror` (`DriveMirror`).
    pub struct DriveMirror {
        /// Name of the job; the device name if absent.
        job_id: Option<Arc<str>>,
        /// Node or device to copy.
        device: Arc<str>,
        /// File name of the target.
        target: Arc<str>,
        /// Format of the target.
        format: Option<Arc<str>>,
        /// Node name of the target.
        node_name: Option<Arc<str>>,
        /// Node to replace at the end.
        replaces: Option<Arc<str>>,
        /// What to copy.
        sync: SyncMode,
        /// Default absolute-paths.
        mode: Option<NewImageMode>,
        /// Bytes per second, 0 for no limit.
        speed: Option<i64>,
        /// Bytes per dirty bit.
        granularity: Option<u32>,
        /// Bytes in flight at most.
        buf_size: Option<i64>,
        /// Default report.
        on_source_error: Option<OnError>,
        /// Default report.
        on_target_error: Option<OnError>,
        /// Default true.
        unmap: Option<bool>,
        /// Default background.
        copy_mode: Option<MirrorCopyMode>,
        /// Default true.
        auto_finalize: Option<bool>,
        /// Default true.
        auto_dismiss: Option<bool>,
    }
}

members! {
    /// `block-commit`.
    pub struct BlockCommit {
        /// Name of the job; the device name if absent.
        job_id: Option<Arc<str>>,
        /// Device or root node.
        device: Arc<str>,
        /// Node to commit into.
        base_node: Option<Arc<str>>,
        /// File name of the image to commit into.
        base: Option<Arc<str>>,
        /// Topmost node to commit.
        top_node: Option<Arc<str>>,
        /// File name of the topmost image to commit.
        top: Option<Arc<str>>,
        /// Backing file string to write into the image above top.
        backing_file: Option<Arc<str>>,
        /// Default false.
        backing_mask_protocol: Option<bool> [since BackingMaskProtocol],
        /// Bytes per second, 0 for no limit.
        speed: Option<i64>,
        /// Default report.
        on_error: Option<OnError>,
        /// Node name of the filter; made up if absent.
        filter_node_name: Option<Arc<str>>,
        /// Default true.
        auto_finalize: Option<bool>,
        /// Default true.
        auto_dismiss: Option<bool>,
    }
}

members! {
    /// `block-stream`.
    pub struct BlockStream {
        /// Name of the job; the device name if absent.
        job_id: Option<Arc<str>>,
        /// Device or node to fill.
        device: Arc<str>,
        /// File name of the image that stays.
        base: Option<Arc<str>>,
        /// Node that stays.
        base_node: Option<Arc<str>>,
        /// Backing file string to write into the image.
        backing_file: Option<Arc<str>>,
        /// Default false.
        backing_mask_protocol: Option<bool> [since BackingMaskProtocol],
        /// Lowest node to take data from.
        bottom: Option<Arc<str>>,
        /// Bytes per second, 0 for no limit.
        speed: Option<i64>,
        /// Default report.
        on_error: Option<OnError>,
        /// Node name of the filter; made up if absent.
        filter_node_name: Option<Arc<str>>,
        /// Default true.
        auto_finalize: Option<bool>,
        /// Default true.
        auto_dismiss: Option<bool>,
    }
}

/// `block-job-change` (`BlockJobChangeOptions`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockJobChange {
    /// What the client called the job.
    pub id: Arc<str>,
    /// The type the caller thinks it has.
    pub job_type: JobType,
    /// Given exactly when the type is mirror.
    pub copy_mode: Option<MirrorCopyMode>,
}

members_by_hand!(BlockJobChange);

impl BlockJobChange {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BlockJobChange> {
        let id = v.str("id")?;
        let job_type = v.enum_("type")?;
        let copy_mode = if job_type == JobType::Mirror { Some(v.enum_("copy-mode")?) } else { None };
        Ok(BlockJobChange { id, job_type, copy_mode })
    }
}
