//! Arguments of the commands that start or steer block jobs.

use std::sync::Arc;

use super::enums::{BitmapSyncMode, JobType, MirrorCopyMode, NewImageMode, OnError, SyncMode};
use crate::qmp::visit::{At, Visit, Visitor};

/// What both backup commands have in common (`BackupCommon`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackupCommon {
    /// Name of the job; the device name if absent.
    pub job_id: Option<Arc<str>>,
    /// Node or device to copy.
    pub device: Arc<str>,
    /// What to copy.
    pub sync: SyncMode,
    /// Bytes per second, 0 for no limit.
    pub speed: Option<i64>,
    /// The bitmap that says what to copy, or records it.
    pub bitmap: Option<Arc<str>>,
    /// When the bitmap is brought up to date.
    pub bitmap_mode: Option<BitmapSyncMode>,
    /// Write compressed; default false.
    pub compress: Option<bool>,
    /// Default report.
    pub on_source_error: Option<OnError>,
    /// Default report.
    pub on_target_error: Option<OnError>,
    /// Default true.
    pub auto_finalize: Option<bool>,
    /// Default true.
    pub auto_dismiss: Option<bool>,
    /// Node name of the filter; made up if absent.
    pub filter_node_name: Option<Arc<str>>,
    /// Discard what was copied from the source; default false.
    pub discard_source: Option<bool>,
    /// Tuning.
    pub x_perf: Option<BackupPerf>,
}

/// Tuning of a backup (`BackupPerf`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackupPerf {
    /// Default false.
    pub use_copy_range: Option<bool>,
    /// Requests in flight; default 64.
    pub max_workers: Option<i64>,
    /// Bytes per request, 0 for no limit.
    pub max_chunk: Option<i64>,
    /// Least cluster size of the copy in bytes; default 0.
    pub min_cluster_size: Option<u64>,
}

impl BackupCommon {
    fn visit(v: &mut Visitor<'_>) -> Visit<BackupCommon> {
        Ok(BackupCommon {
            job_id: v.opt_str("job-id")?,
            device: v.str("device")?,
            sync: v.enum_("sync")?,
            speed: v.opt_int("speed")?,
            bitmap: v.opt_str("bitmap")?,
            bitmap_mode: v.opt_enum("bitmap-mode")?,
            compress: v.opt_bool("compress")?,
            on_source_error: v.opt_enum("on-source-error")?,
            on_target_error: v.opt_enum("on-target-error")?,
            auto_finalize: v.opt_bool("auto-finalize")?,
            auto_dismiss: v.opt_bool("auto-dismiss")?,
            filter_node_name: v.opt_str("filter-node-name")?,
            discard_source: v.opt_bool("discard-source")?,
            x_perf: v.opt_with("x-perf", BackupPerf::visit)?,
        })
    }
}

impl BackupPerf {
    fn visit(at: At<'_>) -> Visit<BackupPerf> {
        let mut v = at.object()?;
        let perf = BackupPerf {
            use_copy_range: v.opt_bool("use-copy-range")?,
            max_workers: v.opt_int("max-workers")?,
            max_chunk: v.opt_int("max-chunk")?,
            min_cluster_size: v.opt_size("min-cluster-size")?,
        };
        v.finish()?;
        Ok(perf)
    }
}

/// `blockdev-backup` (`BlockdevBackup`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockdevBackup {
    /// What both commands share.
    pub common: BackupCommon,
    /// Node or device to copy to.
    pub target: Arc<str>,
}

impl BlockdevBackup {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BlockdevBackup> {
        Ok(BlockdevBackup { common: BackupCommon::visit(v)?, target: v.str("target")? })
    }
}

/// `drive-backup` (`DriveBackup`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DriveBackup {
    /// What both commands share.
    pub common: BackupCommon,
    /// File name of the target.
    pub target: Arc<str>,
    /// Format of the target.
    pub format: Option<Arc<str>>,
    /// Default absolute-paths.
    pub mode: Option<NewImageMode>,
}

impl DriveBackup {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<DriveBackup> {
        Ok(DriveBackup {
            common: BackupCommon::visit(v)?,
            target: v.str("target")?,
            format: v.opt_str("format")?,
            mode: v.opt_enum("mode")?,
        })
    }
}

/// `blockdev-mirror`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockdevMirror {
    /// Name of the job; the device name if absent.
    pub job_id: Option<Arc<str>>,
    /// Node or device to copy.
    pub device: Arc<str>,
    /// Node or device to copy to.
    pub target: Arc<str>,
    /// Node to replace at the end.
    pub replaces: Option<Arc<str>>,
    /// What to copy.
    pub sync: SyncMode,
    /// Bytes per second, 0 for no limit.
    pub speed: Option<i64>,
    /// Bytes per dirty bit.
    pub granularity: Option<u32>,
    /// Bytes in flight at most.
    pub buf_size: Option<i64>,
    /// Default report.
    pub on_source_error: Option<OnError>,
    /// Default report.
    pub on_target_error: Option<OnError>,
    /// Node name of the filter; made up if absent.
    pub filter_node_name: Option<Arc<str>>,
    /// Default background.
    pub copy_mode: Option<MirrorCopyMode>,
    /// Default true.
    pub auto_finalize: Option<bool>,
    /// Default true.
    pub auto_dismiss: Option<bool>,
}

impl BlockdevMirror {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BlockdevMirror> {
        Ok(BlockdevMirror {
            job_id: v.opt_str("job-id")?,
            device: v.str("device")?,
            target: v.str("target")?,
            replaces: v.opt_str("replaces")?,
            sync: v.enum_("sync")?,
            speed: v.opt_int("speed")?,
            granularity: v.opt_uint32("granularity")?,
            buf_size: v.opt_int("buf-size")?,
            on_source_error: v.opt_enum("on-source-error")?,
            on_target_error: v.opt_enum("on-target-error")?,
            filter_node_name: v.opt_str("filter-node-name")?,
            copy_mode: v.opt_enum("copy-mode")?,
            auto_finalize: v.opt_bool("auto-finalize")?,
            auto_dismiss: v.opt_bool("auto-dismiss")?,
        })
    }
}

/// `drive-mirror` (`DriveMirror`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DriveMirror {
    /// Name of the job; the device name if absent.
    pub job_id: Option<Arc<str>>,
    /// Node or device to copy.
    pub device: Arc<str>,
    /// File name of the target.
    pub target: Arc<str>,
    /// Format of the target.
    pub format: Option<Arc<str>>,
    /// Node name of the target.
    pub node_name: Option<Arc<str>>,
    /// Node to replace at the end.
    pub replaces: Option<Arc<str>>,
    /// What to copy.
    pub sync: SyncMode,
    /// Default absolute-paths.
    pub mode: Option<NewImageMode>,
    /// Bytes per second, 0 for no limit.
    pub speed: Option<i64>,
    /// Bytes per dirty bit.
    pub granularity: Option<u32>,
    /// Bytes in flight at most.
    pub buf_size: Option<i64>,
    /// Default report.
    pub on_source_error: Option<OnError>,
    /// Default report.
    pub on_target_error: Option<OnError>,
    /// Default true.
    pub unmap: Option<bool>,
    /// Default background.
    pub copy_mode: Option<MirrorCopyMode>,
    /// Default true.
    pub auto_finalize: Option<bool>,
    /// Default true.
    pub auto_dismiss: Option<bool>,
}

impl DriveMirror {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<DriveMirror> {
        Ok(DriveMirror {
            job_id: v.opt_str("job-id")?,
            device: v.str("device")?,
            target: v.str("target")?,
            format: v.opt_str("format")?,
            node_name: v.opt_str("node-name")?,
            replaces: v.opt_str("replaces")?,
            sync: v.enum_("sync")?,
            mode: v.opt_enum("mode")?,
            speed: v.opt_int("speed")?,
            granularity: v.opt_uint32("granularity")?,
            buf_size: v.opt_int("buf-size")?,
            on_source_error: v.opt_enum("on-source-error")?,
            on_target_error: v.opt_enum("on-target-error")?,
            unmap: v.opt_bool("unmap")?,
            copy_mode: v.opt_enum("copy-mode")?,
            auto_finalize: v.opt_bool("auto-finalize")?,
            auto_dismiss: v.opt_bool("auto-dismiss")?,
        })
    }
}

/// `block-commit`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockCommit {
    /// Name of the job; the device name if absent.
    pub job_id: Option<Arc<str>>,
    /// Device or root node.
    pub device: Arc<str>,
    /// Node to commit into.
    pub base_node: Option<Arc<str>>,
    /// File name of the image to commit into.
    pub base: Option<Arc<str>>,
    /// Topmost node to commit.
    pub top_node: Option<Arc<str>>,
    /// File name of the topmost image to commit.
    pub top: Option<Arc<str>>,
    /// Backing file string to write into the image above top.
    pub backing_file: Option<Arc<str>>,
    /// Default false.
    pub backing_mask_protocol: Option<bool>,
    /// Bytes per second, 0 for no limit.
    pub speed: Option<i64>,
    /// Default report.
    pub on_error: Option<OnError>,
    /// Node name of the filter; made up if absent.
    pub filter_node_name: Option<Arc<str>>,
    /// Default true.
    pub auto_finalize: Option<bool>,
    /// Default true.
    pub auto_dismiss: Option<bool>,
}

impl BlockCommit {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BlockCommit> {
        Ok(BlockCommit {
            job_id: v.opt_str("job-id")?,
            device: v.str("device")?,
            base_node: v.opt_str("base-node")?,
            base: v.opt_str("base")?,
            top_node: v.opt_str("top-node")?,
            top: v.opt_str("top")?,
            backing_file: v.opt_str("backing-file")?,
            backing_mask_protocol: v.opt_bool("backing-mask-protocol")?,
            speed: v.opt_int("speed")?,
            on_error: v.opt_enum("on-error")?,
            filter_node_name: v.opt_str("filter-node-name")?,
            auto_finalize: v.opt_bool("auto-finalize")?,
            auto_dismiss: v.opt_bool("auto-dismiss")?,
        })
    }
}

/// `block-stream`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockStream {
    /// Name of the job; the device name if absent.
    pub job_id: Option<Arc<str>>,
    /// Device or node to fill.
    pub device: Arc<str>,
    /// File name of the image that stays.
    pub base: Option<Arc<str>>,
    /// Node that stays.
    pub base_node: Option<Arc<str>>,
    /// Backing file string to write into the image.
    pub backing_file: Option<Arc<str>>,
    /// Default false.
    pub backing_mask_protocol: Option<bool>,
    /// Lowest node to take data from.
    pub bottom: Option<Arc<str>>,
    /// Bytes per second, 0 for no limit.
    pub speed: Option<i64>,
    /// Default report.
    pub on_error: Option<OnError>,
    /// Node name of the filter; made up if absent.
    pub filter_node_name: Option<Arc<str>>,
    /// Default true.
    pub auto_finalize: Option<bool>,
    /// Default true.
    pub auto_dismiss: Option<bool>,
}

impl BlockStream {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BlockStream> {
        Ok(BlockStream {
            job_id: v.opt_str("job-id")?,
            device: v.str("device")?,
            base: v.opt_str("base")?,
            base_node: v.opt_str("base-node")?,
            backing_file: v.opt_str("backing-file")?,
            backing_mask_protocol: v.opt_bool("backing-mask-protocol")?,
            bottom: v.opt_str("bottom")?,
            speed: v.opt_int("speed")?,
            on_error: v.opt_enum("on-error")?,
            filter_node_name: v.opt_str("filter-node-name")?,
            auto_finalize: v.opt_bool("auto-finalize")?,
            auto_dismiss: v.opt_bool("auto-dismiss")?,
        })
    }
}

/// `block-job-change` (`BlockJobChangeOptions`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockJobChange {
    /// The job.
    pub id: Arc<str>,
    /// The type the caller thinks it has.
    pub job_type: JobType,
    /// Given exactly when the type is mirror.
    pub copy_mode: Option<MirrorCopyMode>,
}

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
