//! What changed between the versions of QEMU that are simulated: a table, each change once.
//!
//! A change has the release in which it came. Between two releases that were measured lie some that were not: there the release is what
//! QEMU's documents or its log say. The model asks [`Version::has`] in the place where a change matters.

use super::Version;
use std::fmt;

/// What a client notices a change by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// Commands that there are.
    Commands,
    /// Arguments that commands and options take.
    Arguments,
    /// Members of answers and events.
    Fields,
    /// Texts of errors.
    Texts,
    /// Which error of several it is, what is done before, and the order of events.
    Order,
    /// Which job is paused by what, and how often.
    Pauses,
    /// What the human monitor prints.
    Console,
}

impl Area {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Area; 7] =
        [Area::Commands, Area::Arguments, Area::Fields, Area::Texts, Area::Order, Area::Pauses, Area::Console];

    /// As `versions` prints it above the changes of the area.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Area::Commands => "Commands",
            Area::Arguments => "Arguments",
            Area::Fields => "Members of answers and events",
            Area::Texts => "Texts of errors",
            Area::Order => "Order, and which error of several",
            Area::Pauses => "Pauses of jobs",
            Area::Console => "Human monitor",
        }
    }
}

/// How a change is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// Real versions before and after it were seen to differ.
    Measured,
    /// It is read in QEMU's schema, documents or source.
    Read,
}

impl Evidence {
    /// As the table has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Evidence::Measured => "measured",
            Evidence::Read => "read",
        }
    }
}

/// What is known of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeFacts {
    /// By which the code asks whether this version has it.
    pub change: Change,
    /// As `versions` lists it.
    pub name: &'static str,
    /// The release in which it came.
    pub since: (u8, u8),
    /// What shows it.
    pub area: Area,
    /// How it is known.
    pub evidence: Evidence,
    /// The commit, by its hash and subject, or where its release is said; empty where neither is known, and the release is the measured one.
    pub source: &'static str,
    /// What is so from then on, in a sentence.
    pub says: &'static str,
}

macro_rules! changes {
    ($($variant:ident = $name:literal, ($major:literal, $minor:literal), $area:ident, $evidence:ident, $source:literal, $says:literal;)*) => {
        /// A change of QEMU that a client can notice.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Change {
            $(#[doc = $says] $variant,)*
        }

        /// All changes: first those of the oldest release.
        pub const TABLE: &[ChangeFacts] = &[$(ChangeFacts {
            change: Change::$variant,
            name: $name,
            since: ($major, $minor),
            area: Area::$area,
            evidence: Evidence::$evidence,
            source: $source,
            says: $says,
        },)*];
    };
}

changes! {
    FormatSpecificOfFiles = "format-specific-of-files", (8, 0), Fields, Measured, "`since` of ImageInfoSpecificKind in the schema",
        "The `image` of a `file` node has `format-specific`.";
    HeadingInTheMonitor = "heading-in-the-monitor", (8, 0), Console, Measured, "",
        "`Format specific information:` of qemu-io's `info` is part of the reply to human-monitor-command; before, QEMU printed it to its own output.";
    DrainAllThroughParents = "drain-all-through-parents", (8, 0), Order, Measured, "a82a3bd13507 block: Remove ignore_bds_parents parameter from drain_begin/end.",
        "Where all nodes are drained, each tells the nodes above it, so that jobs are paused and resumed in another order.";
    GraphLock = "graph-lock", (8, 0), Pauses, Measured, "aead9dc9d1ac graph-lock: Introduce a lock to protect block graph operations",
        "Whoever changes the graph (blockdev-add, blockdev-del, block_resize, qemu-io, the begin and end of jobs, quit) takes its lock, which drains all nodes: each job on them is paused and resumed once more.";
    TransactionApi = "transaction-api", (8, 1), Order, Measured, "8187f63c9c64 blockdev: refactor transaction to use Transaction API",
        "A transaction commits its last action first, so its jobs start last to first; and it refuses `completion-mode=grouped` before anything is prepared, with `transaction` in the text not written large.";
    ZoneAppendStats = "zone-append-stats", (8, 1), Fields, Measured, "`since` in the schema",
        "`query-blockstats` counts zone appends.";
    DiscardNoUnref = "discard-no-unref", (8, 1), Arguments, Measured, "`since` in the schema",
        "The qcow2 driver takes `discard-no-unref`.";
    SizesBelowZero = "sizes-below-zero", (8, 1), Texts, Measured, "b87ac9665105 cutils: Use parse_uint in qemu_strtosz for negative rejection",
        "A driver's option that is a size below zero is `out of range`, not one that `expects a non-negative number below 2^64`.";
    JobsResumedAtShutdown = "jobs-resumed-at-shutdown", (8, 1), Pauses, Measured, "ca2a5e630dc1 qemu_cleanup: begin drained section after vm_shutdown()",
        "A process that ends drains and undrains all nodes, so that jobs go on once more, and drains them again to cancel its jobs; before, one section was both.";
    ResizeSaysWhy = "resize-says-why", (8, 2), Texts, Measured, "",
        "block_resize of a node in use says by what (`Node 'X' is busy: …`, not `Device 'X' is in use`).";
    MirrorBitmapOfFilter = "mirror-bitmap-of-filter", (8, 2), Fields, Measured, "058cfca5645a block/mirror: move dirty bitmap to filter",
        "The bitmap of what a mirror still has to copy is listed at its filter, and not at the source.";
    MirrorTellsSynced = "mirror-tells-synced", (8, 2), Fields, Measured, "`since` in the schema",
        "query-block-jobs tells of a mirror whether it is `actively-synced`.";
    DrainsOfChangedEdges = "drains-of-changed-edges", (8, 2), Pauses, Measured, "5c0ef4954f4c block: Mark bdrv_replace_node_common() GRAPH_WRLOCK",
        "Appending a node drains both nodes, and taking a filter away drains the node below it, so that other jobs of that node are paused when a backup ends.";
    BlockJobChange = "block-job-change", (8, 2), Commands, Measured, "`since` in the schema",
        "There is block-job-change.";
    SingleStepGone = "singlestep-gone", (9, 0), Fields, Measured, "docs/about/removed-features",
        "`query-status` does not tell `singlestep`.";
    BackingMaskProtocol = "backing-mask-protocol", (9, 0), Arguments, Measured, "`since` in the schema",
        "block-commit and block-stream take `backing-mask-protocol`.";
    ScsiDiskOfJobNodes = "scsi-disk-of-job-nodes", (9, 0), Order, Measured, "",
        "A disk can be plugged into a virtio-scsi controller although a job uses its node.";
    DiscardSource = "discard-source", (9, 1), Arguments, Measured, "0fd05c8d807d qapi: blockdev-backup: add discard-source parameter",
        "drive-backup and blockdev-backup take `discard-source`.";
    CopyBitmapOfFilter = "copy-bitmap-of-filter", (9, 1), Fields, Measured, "006e845b5a4c block/copy-before-write: create block_copy bitmap in filter node",
        "The bitmap of what a backup still has to copy is listed at its filter, and not at the source.";
    FilterReadsSource = "filter-reads-source", (9, 1), Fields, Measured, "137b4d4bd506 block/copy-before-write: fix permission",
        "The filter of a backup takes the permission to read its source whoever uses it (x-debug-query-block-graph), and not only where somebody writes.";
    DeviceAddTyped = "device-add-typed", (9, 2), Arguments, Measured, "qdev-monitor: avoid QemuOpts in QMP device_add",
        "The properties of device_add have the types of JSON: before, all were texts, so that `\"on\"` was a boolean, what is no text, number or boolean did not count, and an ID was refused as `Duplicate ID 'X' for device`.";
    MinClusterSize = "min-cluster-size", (9, 2), Arguments, Measured, "`since` in the schema",
        "Backups (`x-perf`) and copy-before-write take `min-cluster-size`.";
    NodeActive = "node-active", (10, 0), Fields, Measured, "`since` in the schema",
        "Nodes are active or not: query-block and query-named-block-nodes tell, blockdev-add takes `active`, block-export-add `allow-inactive`, and there is blockdev-set-active.";
    HandshakeMaxSeconds = "handshake-max-seconds", (10, 0), Arguments, Measured, "`since` in the schema",
        "nbd-server-start takes `handshake-max-seconds`.";
    GraphLockDrained = "graph-lock-drained", (10, 1), Pauses, Measured, "6b89e851fabf block: add bdrv_graph_wrlock_drained() convenience wrapper",
        "Whoever changes the graph waits until all jobs are quiet, and they go on when the change is made: a pause is seen where there was none before, and one section covers all edges of a node that is closed.";
    ZeroStatus = "zero-status", (10, 1), Order, Read, "c33159dec790 block: Expand block status mode from bool to flags",
        "Where it matters whether something reads as zeroes (what qcow2 copies into a new cluster, what a commit finds), holes of files are looked for, in as many pieces as there are.";
    MirrorSkipsZeroes = "mirror-skips-zeroes", (10, 1), Order, Measured, "7e277545b908 mirror: Skip writing zeroes when target is already zero",
        "A mirror finds out first whether its target reads as zeroes, and then writes none: its ready may come before the reply that started it. `sync=top` of blockdev-mirror is not `full` any more where there is no backing file.";
    TargetIsZero = "target-is-zero", (10, 1), Arguments, Measured, "d17a34bfb94b mirror: Allow QMP override to declare target already zero",
        "blockdev-mirror takes `target-is-zero`.";
    CommitWritesZeroes = "commit-writes-zeroes", (10, 1), Order, Read, "6f3199f99600 block: allow commit to unmap zero blocks",
        "The commit of an intermediate image writes what reads as zeroes as zeroes, and does not read it.";
    NodeChildren = "node-children", (10, 1), Fields, Measured, "`since` in the schema",
        "query-block and query-named-block-nodes list the `children` of a node.";
    OnCbwErrorOfBackups = "on-cbw-error", (10, 1), Arguments, Measured, "`since` in the schema",
        "drive-backup and blockdev-backup take `on-cbw-error`.";
    ImageLimits = "image-limits", (10, 2), Fields, Measured, "d2634e18286a block: Expose block limits for images in QMP",
        "The `image` of a node has `limits`, those below it too.";
    MonitorErrors = "monitor-errors", (10, 2), Console, Measured, "",
        "What `commit` of the human monitor says of an error begins with `Error: `.";
    MirrorBitmapWithFilter = "mirror-bitmap-with-filter", (10, 2), Fields, Read, "0f51f9c342 mirror: Fix missed dirty bitmap writes during startup",
        "The bitmap of a mirror is there before its job, and is never `recording`: the filter sets it.";
    FlatQueryBlock = "flat-query-block", (11, 0), Arguments, Measured, "",
        "query-block takes `flat`.";
    UnplugsAtOnce = "unplugs-at-once", (11, 0), Order, Measured, "",
        "A disk that device_del unplugs is gone before the reply (mostly: in 6 to 10 runs of 12 to 14), and not some 10 ms after it.";
    StreamLeavesWritable = "stream-leaves-writable", (11, 0), Fields, Measured, "",
        "The image of a stream that was read-only before is not made so again.";
}

impl Change {
    /// What is known of it.
    #[must_use]
    pub fn about(self) -> &'static ChangeFacts {
        &TABLE[self as usize]
    }

    /// The oldest version that is simulated and has it.
    #[must_use]
    pub fn first(self) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.has(self))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.about().name)
    }
}

impl Version {
    /// Whether a change had come when this version was released.
    #[must_use]
    pub fn has(self, change: Change) -> bool {
        let (major, minor, _) = self.numbers();
        change.about().since <= (major, minor)
    }

    /// What changed from one version to a later one.
    pub fn changes(self, to: Version) -> impl Iterator<Item = &'static ChangeFacts> {
        TABLE.iter().filter(move |about| !self.has(about.change) && to.has(about.change))
    }
}
