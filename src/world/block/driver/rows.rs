//! What each block driver is, a row each: the constants of QEMU's `BlockDriver`.
//!
//! Where a decision depends on what a driver is and not on its state, it asks the row, so that a new driver answers all such questions
//! in one place.

use super::Driver;
use super::info::DriverInfo;
use super::qcow2::Qcow2Frame;
use crate::base::Json;
use crate::base::errno::Ret;
use crate::host::Frozen;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::edges::Role;
use crate::world::block::filename::Described;
use crate::world::block::graph::Node;
use crate::world::block::io::copy_range::CopyRange;
use crate::world::block::perms::{default_child_perm, perm};
use crate::world::frame::{Flow, Frame};
use std::sync::Arc;

/// Where block status comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFrom {
    /// The driver knows (`bdrv_co_block_status`).
    Driver,
    /// It is that of the node below, at the same or a shifted place (`BDRV_BLOCK_RAW`; a filter without `bdrv_co_block_status`).
    Below,
}

/// Flags of zero writes that reach a driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroSupport {
    /// `BDRV_REQ_MAY_UNMAP`
    pub may_unmap: bool,
    /// `BDRV_REQ_NO_FALLBACK`
    pub no_fallback: bool,
}

impl ZeroSupport {
    /// All of them.
    pub const ALL: ZeroSupport = ZeroSupport { may_unmap: true, no_fallback: true };
}

/// Which flags of zero writes reach the driver (`supported_zero_flags`).
#[derive(Clone, Copy, Debug)]
pub enum ZeroFlags {
    /// `supported_zero_flags` is 0.
    None,
    /// Those that it says.
    Own(fn(&World, NodeId) -> ZeroSupport),
    /// Those of the node below.
    OfBelow,
    /// Those that all of its children have.
    OfAllBelow,
    /// Those of the node below, but for `BDRV_REQ_MAY_UNMAP`.
    NoFallbackOfBelow,
}

/// Where a flush goes (`bdrv_co_flush`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushTo {
    /// First to the driver's own caches, then to its disk, then to its children: it has no `bdrv_co_flush`.
    OwnCaches,
    /// To the node below at once.
    Below,
    /// To all of its children.
    AllBelow,
    /// To the child with which the other one is compared.
    Test,
}

/// Options that a driver takes when an open node is given others, and takes as absent (`mutable_opts`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MutableOpts {
    /// These.
    Only(&'static [&'static str]),
    /// All but these.
    AllBut(&'static [&'static str]),
}

impl MutableOpts {
    /// Whether it takes an option.
    #[must_use]
    pub fn has(self, key: &str) -> bool {
        match self {
            MutableOpts::Only(these) => these.contains(&key),
            MutableOpts::AllBut(these) => !these.contains(&key),
        }
    }
}

/// `bdrv_child_perm`: what a node asks of a child with this role, where its own users take and share these permissions.
type ChildPerm = fn(&Node, Role, u8, u8) -> (u8, u8);
/// `bdrv_co_get_info`
type GetInfo = fn(&World, NodeId) -> Option<DriverInfo>;
/// `bdrv_co_copy_range_from`, `bdrv_co_copy_range_to`. Leaves `Val::Ret`.
type CopyRangeHook = fn(&mut World, CopyRange) -> Flow;
/// `bdrv_refresh_filename`: the exact name, empty where there is none.
type RefreshFilename = fn(&World, NodeId, Described<'_>) -> Arc<str>;

/// A driver's constants, and its hooks beside those of requests: `None` is QEMU's `NULL`.
#[derive(Debug)]
pub struct DriverRow {
    /// `format_name`
    pub format_name: &'static str,
    /// It has a `protocol_name`, so that a node of it is opened under `BDRV_O_PROTOCOL`.
    pub has_protocol_name: bool,
    /// Nothing is below it.
    pub is_protocol: bool,
    /// `is_filter`
    pub is_filter: bool,
    /// It is the filter of a kind of job, and reads as the node below.
    pub is_job_filter: bool,
    /// What a write or a discard changes is copied before.
    pub copies_before_write: bool,
    /// `filtered_child_is_backing`: the node that it filters is `bs->backing`, not `bs->file`.
    pub filtered_child_is_backing: bool,
    /// `supports_backing`
    pub supports_backing: bool,
    /// `bdrv_co_block_status`
    pub status: StatusFrom,
    /// `bdrv_co_pwrite_zeroes`
    pub has_pwrite_zeroes: bool,
    /// `bdrv_co_pdiscard`
    pub has_pdiscard: bool,
    /// `bdrv_co_flush`
    pub flush: FlushTo,
    /// `bdrv_co_copy_range_from`
    pub copy_range_from: Option<CopyRangeHook>,
    /// `bdrv_co_copy_range_to`
    pub copy_range_to: Option<CopyRangeHook>,
    /// `bdrv_co_change_backing_file`
    pub has_change_backing_file: bool,
    /// `bdrv_make_empty`
    pub has_make_empty: bool,
    /// `bdrv_add_child`, `bdrv_del_child`: children come and go while it is open.
    pub has_add_child: bool,
    /// `bdrv_debug_breakpoint`: requests can be held at a place in a driver.
    pub has_debug_breakpoint: bool,
    /// `bdrv_gather_child_options`: its children stand in a list among its options, not each under a name of its own.
    pub lists_children: bool,
    /// `bdrv_refresh_filename`
    pub refresh_filename: Option<RefreshFilename>,
    /// `bdrv_child_perm`
    pub child_perm: ChildPerm,
    /// `bdrv_co_get_info`; without it, a filter's is that of the node below.
    pub get_info: Option<GetInfo>,
    /// `bdrv_co_get_allocated_file_size`, in bytes; without it, that of the node below, but for drivers with a protocol name.
    pub get_allocated_file_size: Option<fn(&World, NodeId) -> Ret<u64>>,
    /// `bdrv_get_specific_info`
    pub get_specific_info: Option<fn(&World, NodeId) -> Json>,
    /// `bdrv_recurse_can_replace`: whether the second node may take the first one's place for its users.
    pub recurse_can_replace: Option<fn(&World, NodeId, NodeId) -> bool>,
    /// What it reads as, for watchers; without it, as the node that it filters.
    pub frozen: Option<fn(&World, NodeId) -> Frozen>,
    /// `supported_zero_flags`
    pub zero_flags: ZeroFlags,
    /// What traces tell of its requests is told of those to its device.
    pub traced_at_device: bool,
    /// `bdrv_co_getlength` gives the length of the node below, so that a resize shows through.
    pub length_of_below: bool,
    /// `bdrv_reopen_prepare`: other options and flags can be given to an open node.
    pub can_reopen: bool,
    /// `bdrv_inactivate`: writes what is held in memory. Leaves `Val::Ret`.
    pub inactivate: Option<fn(NodeId) -> Frame>,
    /// `bdrv_co_invalidate_cache`: reads its image anew. Leaves `Val::Done`.
    pub invalidate_cache: Option<fn(NodeId) -> Frame>,
    /// It reads and writes its image there, and so does it in a coroutine.
    pub reopen_does_io: bool,
    /// `mutable_opts`
    pub mutable_opts: MutableOpts,
    /// A list of options has read its options, so that they are compared as text (`qemu_opts_to_qdict`).
    pub options_are_text: bool,
}

/// `bdrv_child_perm` of a node that reads only, whoever writes (`snapshot_access_child_perm`, `bdrv_commit_top_child_perm`).
fn takes_nothing(_: &Node, _: Role, _: u8, _: u8) -> (u8, u8) {
    (0, perm::ALL)
}

/// What most filters over `file` are.
const FILTER: DriverRow = DriverRow {
    format_name: "",
    has_protocol_name: false,
    is_protocol: false,
    is_filter: true,
    is_job_filter: false,
    copies_before_write: false,
    filtered_child_is_backing: false,
    supports_backing: false,
    status: StatusFrom::Below,
    has_pwrite_zeroes: true,
    has_pdiscard: true,
    flush: FlushTo::OwnCaches,
    copy_range_from: None,
    copy_range_to: None,
    has_change_backing_file: false,
    has_make_empty: false,
    has_add_child: false,
    has_debug_breakpoint: false,
    lists_children: false,
    refresh_filename: None,
    child_perm: default_child_perm,
    get_info: None,
    get_allocated_file_size: None,
    get_specific_info: None,
    recurse_can_replace: None,
    frozen: None,
    zero_flags: ZeroFlags::OfBelow,
    traced_at_device: false,
    length_of_below: true,
    can_reopen: true,
    inactivate: None,
    invalidate_cache: None,
    reopen_does_io: false,
    mutable_opts: MutableOpts::Only(&[]),
    options_are_text: false,
};

/// What protocol drivers are.
const PROTOCOL: DriverRow = DriverRow {
    has_protocol_name: true,
    is_protocol: true,
    is_filter: false,
    status: StatusFrom::Driver,
    length_of_below: false,
    zero_flags: ZeroFlags::None,
    ..FILTER
};

const FILE: DriverRow = DriverRow {
    format_name: "file",
    copy_range_from: Some(World::file_copy_range_from),
    copy_range_to: Some(World::file_copy_range_to),
    refresh_filename: Some(World::file_refresh_filename),
    get_info: Some(|_, _| Some(DriverInfo::default())),
    get_allocated_file_size: Some(World::file_allocated_size),
    get_specific_info: Some(|_, _| Json::dict(vec![("type", "file".into()), ("data", Json::empty())])),
    frozen: Some(World::file_frozen),
    zero_flags: ZeroFlags::Own(|_, _| ZeroSupport::ALL),
    traced_at_device: true,
    mutable_opts: MutableOpts::Only(&["x-check-cache-dropped", "drop-cache"]),
    options_are_text: true,
    ..PROTOCOL
};

const NULL_CO: DriverRow = DriverRow {
    format_name: "null-co",
    has_pwrite_zeroes: false,
    has_pdiscard: false,
    refresh_filename: Some(World::null_refresh_filename),
    get_allocated_file_size: Some(|_, _| Ok(0)),
    frozen: Some(World::null_frozen),
    ..PROTOCOL
};

const NULL_AIO: DriverRow = DriverRow { format_name: "null-aio", ..NULL_CO };

const NBD: DriverRow = DriverRow {
    format_name: "nbd",
    refresh_filename: Some(World::nbd_refresh_filename),
    frozen: Some(World::nbd_frozen),
    zero_flags: ZeroFlags::Own(World::nbd_zero_flags),
    ..PROTOCOL
};

const RAW: DriverRow = DriverRow {
    format_name: "raw",
    is_filter: false,
    length_of_below: false,
    copy_range_from: Some(World::raw_copy_range_from),
    copy_range_to: Some(World::raw_copy_range_to),
    child_perm: super::raw::child_perm,
    get_info: Some(|w, node| w.bdrv_get_info(w.below(node))),
    frozen: Some(World::raw_frozen),
    mutable_opts: MutableOpts::Only(&["offset", "size"]),
    ..FILTER
};

const BLKDEBUG: DriverRow = DriverRow {
    format_name: "blkdebug",
    has_protocol_name: true,
    has_debug_breakpoint: true,
    refresh_filename: Some(World::blkdebug_refresh_filename),
    child_perm: super::blkdebug::child_perm,
    ..FILTER
};

const COPY_BEFORE_WRITE: DriverRow = DriverRow {
    format_name: "copy-before-write",
    is_job_filter: true,
    copies_before_write: true,
    can_reopen: false,
    flush: FlushTo::Below,
    child_perm: super::copy_before_write::child_perm,
    refresh_filename: Some(World::filename_of_below),
    ..FILTER
};

const COPY_ON_READ: DriverRow = DriverRow {
    format_name: "copy-on-read",
    is_job_filter: true,
    can_reopen: false,
    child_perm: super::copy_on_read::child_perm,
    ..FILTER
};

const THROTTLE: DriverRow =
    DriverRow { format_name: "throttle", mutable_opts: MutableOpts::Only(&["throttle-group"]), ..FILTER };

const MIRROR_TOP: DriverRow = DriverRow {
    format_name: "mirror_top",
    is_job_filter: true,
    filtered_child_is_backing: true,
    flush: FlushTo::Below,
    child_perm: super::mirror_top::child_perm,
    refresh_filename: Some(World::filename_of_below),
    zero_flags: ZeroFlags::NoFallbackOfBelow,
    can_reopen: false,
    ..FILTER
};

/// What stands above a node in tests only: over `backing`, it passes all on.
#[cfg(test)]
const TEST_FILTER: DriverRow = DriverRow {
    format_name: "test-filter",
    filtered_child_is_backing: true,
    refresh_filename: Some(World::filename_of_below),
    can_reopen: false,
    ..FILTER
};

const COMMIT_TOP: DriverRow = DriverRow {
    format_name: "commit_top",
    is_job_filter: true,
    filtered_child_is_backing: true,
    child_perm: takes_nothing,
    has_pwrite_zeroes: false,
    has_pdiscard: false,
    refresh_filename: Some(World::filename_of_below),
    zero_flags: ZeroFlags::None,
    can_reopen: false,
    ..FILTER
};

const QCOW2: DriverRow = DriverRow {
    format_name: "qcow2",
    is_filter: false,
    supports_backing: true,
    status: StatusFrom::Driver,
    copy_range_from: Some(World::qcow2_copy_range_from),
    copy_range_to: Some(World::qcow2_copy_range_to),
    get_info: Some(World::qcow2_get_info),
    get_specific_info: Some(World::qcow2_get_specific_info),
    frozen: Some(World::qcow2_frozen),
    has_change_backing_file: true,
    has_make_empty: true,
    inactivate: Some(|node| Qcow2Frame::Qcow2Inactivate(node).into()),
    invalidate_cache: Some(|node| Qcow2Frame::Qcow2Open(node).into()),
    reopen_does_io: true,
    mutable_opts: MutableOpts::AllBut(&["driver", "node-name", "force-share", "active"]),
    zero_flags: ZeroFlags::Own(World::qcow2_zero_flags),
    length_of_below: false,
    ..FILTER
};

const SNAPSHOT_ACCESS: DriverRow = DriverRow {
    format_name: "snapshot-access",
    is_filter: false,
    status: StatusFrom::Driver,
    child_perm: takes_nothing,
    frozen: Some(|_, _| Frozen::Unknown),
    refresh_filename: Some(World::filename_of_below),
    zero_flags: ZeroFlags::None,
    length_of_below: false,
    can_reopen: false,
    ..FILTER
};

const COMPRESS: DriverRow = DriverRow { format_name: "compress", can_reopen: false, ..FILTER };

const BLKVERIFY: DriverRow = DriverRow {
    format_name: "blkverify",
    flush: FlushTo::Test,
    refresh_filename: Some(World::blkverify_refresh_filename),
    recurse_can_replace: Some(World::blkverify_recurse_can_replace),
    zero_flags: ZeroFlags::None,
    has_protocol_name: true,
    has_pwrite_zeroes: false,
    has_pdiscard: false,
    length_of_below: false,
    can_reopen: false,
    ..FILTER
};

const QUORUM: DriverRow = DriverRow {
    format_name: "quorum",
    flush: FlushTo::AllBelow,
    child_perm: super::copies::quorum::child_perm,
    get_allocated_file_size: Some(World::quorum_allocated_size),
    recurse_can_replace: Some(World::quorum_recurse_can_replace),
    has_add_child: true,
    lists_children: true,
    zero_flags: ZeroFlags::OfAllBelow,
    is_filter: false,
    status: StatusFrom::Driver,
    has_pdiscard: false,
    length_of_below: false,
    can_reopen: false,
    ..FILTER
};

impl Driver {
    /// The driver's row.
    #[must_use]
    pub fn row(&self) -> &'static DriverRow {
        match self {
            Driver::File(_) => &FILE,
            Driver::Null(null) if null.aio => &NULL_AIO,
            Driver::Null(_) => &NULL_CO,
            Driver::Raw(_) => &RAW,
            Driver::Blkdebug(_) => &BLKDEBUG,
            Driver::Cbw(_) => &COPY_BEFORE_WRITE,
            Driver::Qcow2(_) => &QCOW2,
            Driver::SnapshotAccess => &SNAPSHOT_ACCESS,
            Driver::Throttle(_) => &THROTTLE,
            Driver::CopyOnRead(_) => &COPY_ON_READ,
            Driver::MirrorTop(_) => &MIRROR_TOP,
            Driver::CommitTop => &COMMIT_TOP,
            #[cfg(test)]
            Driver::TestFilter => &TEST_FILTER,
            Driver::Compress => &COMPRESS,
            Driver::Blkverify(_) => &BLKVERIFY,
            Driver::Quorum(_) => &QUORUM,
            Driver::Nbd(_) => &NBD,
        }
    }

    /// `format_name`
    #[must_use]
    pub fn format_name(&self) -> &'static str {
        self.row().format_name
    }

    /// `is_filter`
    #[must_use]
    pub fn is_filter(&self) -> bool {
        self.row().is_filter
    }

    /// Whether it is the filter of a kind of job, which reads as the node below.
    #[must_use]
    pub fn is_job_filter(&self) -> bool {
        self.row().is_job_filter
    }

    /// `supports_backing`
    #[must_use]
    pub fn supports_backing(&self) -> bool {
        self.row().supports_backing
    }

    /// Whether its block status is the one of the node below.
    #[must_use]
    pub fn has_raw_status(&self) -> bool {
        self.row().status == StatusFrom::Below
    }

    /// Whether it is a protocol driver: nothing is below it.
    #[must_use]
    pub fn is_protocol(&self) -> bool {
        self.row().is_protocol
    }

    /// Whether it has a `protocol_name`.
    #[must_use]
    pub fn has_protocol_name(&self) -> bool {
        self.row().has_protocol_name
    }

    /// Whether it has `bdrv_co_pwrite_zeroes`.
    #[must_use]
    pub fn has_pwrite_zeroes(&self) -> bool {
        self.row().has_pwrite_zeroes
    }

    /// Whether it has `bdrv_co_pdiscard`.
    #[must_use]
    pub fn has_pdiscard(&self) -> bool {
        self.row().has_pdiscard
    }
}
