//! The enums of the block layer's schema.

use crate::qmp::declare::enums;

enums! {
    /// What a copying job copies (`MirrorSyncMode`).
    pub enum SyncMode {
        Top = "top",
        Full = "full",
        None = "none",
        Incremental = "incremental",
        Bitmap = "bitmap",
    }
    /// When a bitmap given to a backup is brought up to date (`BitmapSyncMode`).
    pub enum BitmapSyncMode {
        OnSuccess = "on-success",
        Never = "never",
        Always = "always",
    }
    /// What a job does on an I/O error (`BlockdevOnError`).
    pub enum OnError {
        Report = "report",
        Ignore = "ignore",
        Enospc = "enospc",
        Stop = "stop",
        Auto = "auto",
    }
    /// How a new image comes to be (`NewImageMode`).
    pub enum NewImageMode {
        Existing = "existing",
        AbsolutePaths = "absolute-paths",
    }
    /// How the jobs of a transaction end (`ActionCompletionMode`).
    pub enum ActionCompletionMode {
        Individual = "individual",
        Grouped = "grouped",
    }
    /// How mirror copies guest writes (`MirrorCopyMode`).
    pub enum MirrorCopyMode {
        Background = "background",
        WriteBlocking = "write-blocking",
    }
    /// Job types (`JobType`).
    pub enum JobType {
        Commit = "commit",
        Stream = "stream",
        Mirror = "mirror",
        Backup = "backup",
        Create = "create",
        Amend = "amend",
        SnapshotLoad = "snapshot-load",
        SnapshotSave = "snapshot-save",
        SnapshotDelete = "snapshot-delete",
    }
    /// What becomes of discard requests (`BlockdevDiscardOptions`).
    pub enum DiscardOption {
        Ignore = "ignore",
        Unmap = "unmap",
    }
    /// Whether zero writes are recognised (`BlockdevDetectZeroesOptions`).
    pub enum DetectZeroes {
        Off = "off",
        On = "on",
        Unmap = "unmap",
    }
    /// `OnOffAuto`.
    pub enum OnOffAuto {
        Auto = "auto",
        On = "on",
        Off = "off",
    }
    /// How host files are accessed (`BlockdevAioOptions`).
    pub enum AioOption {
        Threads = "threads",
        Native = "native",
        IoUring = "io_uring",
    }
    /// How much a new image preallocates (`PreallocMode`).
    pub enum PreallocMode {
        Off = "off",
        Metadata = "metadata",
        Falloc = "falloc",
        Full = "full",
    }
    /// qcow2 format versions (`BlockdevQcow2Version`).
    pub enum Qcow2Version {
        V2 = "v2",
        V3 = "v3",
    }
    /// qcow2 compression (`Qcow2CompressionType`).
    pub enum Qcow2CompressionType {
        Zlib = "zlib",
        Zstd = "zstd",
    }
    /// qcow2 overlap check templates (`Qcow2OverlapCheckMode`).
    pub enum Qcow2OverlapCheckMode {
        None = "none",
        Constant = "constant",
        Cached = "cached",
        All = "all",
    }
    /// qcow2 encryption formats (`BlockdevQcow2EncryptionFormat`).
    pub enum Qcow2EncryptionFormat {
        Aes = "aes",
        Luks = "luks",
    }
    /// Which side fails when copy-before-write cannot copy (`OnCbwError`).
    pub enum OnCbwError {
        BreakGuestWrite = "break-guest-write",
        BreakSnapshot = "break-snapshot",
    }
    /// Whom a quorum asks when it reads (`QuorumReadPattern`).
    pub enum QuorumReadPattern {
        Quorum = "quorum",
        Fifo = "fifo",
    }
    /// The requests a blkdebug rule can fail (`BlkdebugIOType`).
    pub enum BlkdebugIoType {
        Read = "read",
        Write = "write",
        WriteZeroes = "write-zeroes",
        Discard = "discard",
        Flush = "flush",
        BlockStatus = "block-status",
    }
    /// Permissions on block nodes (`BlockPermission`).
    pub enum BlockPermission {
        ConsistentRead = "consistent-read",
        Write = "write",
        WriteUnchanged = "write-unchanged",
        Resize = "resize",
    }
    /// Monitor capabilities (`QMPCapability`).
    pub enum QmpCapability {
        Oob = "oob",
    }
}
