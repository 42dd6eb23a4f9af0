//! What each block driver is, a row each: the constants of QEMU's `BlockDriver`.
//!
//! Where a decision depends on what a driver is and not on its state, it asks the row, so that a new driver answers all such questions
//! in one place.

use super::Driver;

/// Where block status comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFrom {
    /// The driver knows (`bdrv_co_block_status`).
    Driver,
    /// It is that of the node below, at the same or a shifted place (`BDRV_BLOCK_RAW`; a filter without `bdrv_co_block_status`).
    Below,
}

/// Which flags of zero writes reach the driver (`supported_zero_flags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroFlags {
    /// None.
    None,
    /// Its own ones.
    Own,
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

/// A driver's constants.
#[derive(Debug)]
pub struct Row {
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
    /// `bdrv_co_copy_range_from`, `bdrv_co_copy_range_to`
    pub has_copy_range: bool,
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
    /// `bdrv_refresh_filename` gives the name of the node below.
    pub named_as_below: bool,
    /// `supported_zero_flags`
    pub zero_flags: ZeroFlags,
    /// What traces tell of its requests is told of those to its device.
    pub traced_at_device: bool,
    /// `bdrv_co_getlength` gives the length of the node below, so that a resize shows through.
    pub length_of_below: bool,
    /// `bdrv_reopen_prepare`: other options and flags can be given to an open node.
    pub can_reopen: bool,
    /// It reads and writes its image there, and so does it in a coroutine.
    pub reopen_does_io: bool,
    /// `mutable_opts`
    pub mutable_opts: MutableOpts,
    /// A list of options has read its options, so that they are compared as text (`qemu_opts_to_qdict`).
    pub options_are_text: bool,
}

/// What most filters over `file` are.
const FILTER: Row = Row {
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
    has_copy_range: false,
    has_change_backing_file: false,
    has_make_empty: false,
    has_add_child: false,
    has_debug_breakpoint: false,
    lists_children: false,
    named_as_below: false,
    zero_flags: ZeroFlags::OfBelow,
    traced_at_device: false,
    length_of_below: true,
    can_reopen: true,
    reopen_does_io: false,
    mutable_opts: MutableOpts::Only(&[]),
    options_are_text: false,
};

/// What protocol drivers are.
const PROTOCOL: Row = Row {
    has_protocol_name: true,
    is_protocol: true,
    is_filter: false,
    status: StatusFrom::Driver,
    length_of_below: false,
    zero_flags: ZeroFlags::None,
    ..FILTER
};

const FILE: Row = Row {
    format_name: "file",
    has_copy_range: true,
    zero_flags: ZeroFlags::Own,
    traced_at_device: true,
    mutable_opts: MutableOpts::Only(&["x-check-cache-dropped", "drop-cache"]),
    options_are_text: true,
    ..PROTOCOL
};

const NULL_CO: Row = Row { format_name: "null-co", has_pwrite_zeroes: false, has_pdiscard: false, ..PROTOCOL };

const NULL_AIO: Row = Row { format_name: "null-aio", ..NULL_CO };

const NBD: Row = Row { format_name: "nbd", zero_flags: ZeroFlags::Own, ..PROTOCOL };

const RAW: Row = Row {
    format_name: "raw",
    is_filter: false,
    length_of_below: false,
    has_copy_range: true,
    mutable_opts: MutableOpts::Only(&["offset", "size"]),
    ..FILTER
};

const BLKDEBUG: Row = Row { format_name: "blkdebug", has_protocol_name: true, has_debug_breakpoint: true, ..FILTER };

const COPY_BEFORE_WRITE: Row = Row {
    format_name: "copy-before-write",
    is_job_filter: true,
    copies_before_write: true,
    can_reopen: false,
    flush: FlushTo::Below,
    named_as_below: true,
    ..FILTER
};

const COPY_ON_READ: Row = Row { format_name: "copy-on-read", is_job_filter: true, can_reopen: false, ..FILTER };

const THROTTLE: Row = Row { format_name: "throttle", mutable_opts: MutableOpts::Only(&["throttle-group"]), ..FILTER };

const MIRROR_TOP: Row = Row {
    format_name: "mirror_top",
    is_job_filter: true,
    filtered_child_is_backing: true,
    flush: FlushTo::Below,
    named_as_below: true,
    zero_flags: ZeroFlags::NoFallbackOfBelow,
    can_reopen: false,
    ..FILTER
};

/// What stands above a node in tests only: over `backing`, it passes all on.
#[cfg(test)]
const TEST_FILTER: Row = Row {
    format_name: "test-filter",
    filtered_child_is_backing: true,
    named_as_below: true,
    can_reopen: false,
    ..FILTER
};

const COMMIT_TOP: Row = Row {
    format_name: "commit_top",
    is_job_filter: true,
    filtered_child_is_backing: true,
    has_pwrite_zeroes: false,
    has_pdiscard: false,
    named_as_below: true,
    zero_flags: ZeroFlags::None,
    can_reopen: false,
    ..FILTER
};

const QCOW2: Row = Row {
    format_name: "qcow2",
    is_filter: false,
    supports_backing: true,
    status: StatusFrom::Driver,
    has_copy_range: true,
    has_change_backing_file: true,
    has_make_empty: true,
    reopen_does_io: true,
    mutable_opts: MutableOpts::AllBut(&["driver", "node-name", "force-share", "active"]),
    zero_flags: ZeroFlags::Own,
    length_of_below: false,
    ..FILTER
};

const SNAPSHOT_ACCESS: Row = Row {
    format_name: "snapshot-access",
    is_filter: false,
    status: StatusFrom::Driver,
    named_as_below: true,
    zero_flags: ZeroFlags::None,
    length_of_below: false,
    can_reopen: false,
    ..FILTER
};

const COMPRESS: Row = Row { format_name: "compress", can_reopen: false, ..FILTER };

const BLKVERIFY: Row = Row {
    format_name: "blkverify",
    flush: FlushTo::Test,
    zero_flags: ZeroFlags::None,
    has_protocol_name: true,
    has_pwrite_zeroes: false,
    has_pdiscard: false,
    length_of_below: false,
    can_reopen: false,
    ..FILTER
};

const QUORUM: Row = Row {
    format_name: "quorum",
    flush: FlushTo::AllBelow,
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
    pub fn row(&self) -> &'static Row {
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
