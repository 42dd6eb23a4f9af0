//! The enums of the block layer's schema.

use crate::qmp::visit::QapiEnum;

macro_rules! qapi_enums {
    ($($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ })+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $(#[doc = concat!("`", $text, "`")] $(#[$vdoc])* $variant,)+ }

        impl QapiEnum for $name {
            const TABLE: &'static [($name, &'static str)] = &[$(($name::$variant, $text),)+];
        }

        impl $name {
            /// The values with their names, in schema order.
            pub const TABLE: &'static [($name, &'static str)] = <$name as QapiEnum>::TABLE;

            /// The name in QMP.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }
    )+ };
}

qapi_enums! {
    /// What a copying job copies (`MirrorSyncMode`).
    SyncMode {
        Top = "top",
        Full = "full",
        None = "none",
        Incremental = "incremental",
        Bitmap = "bitmap",
    }
    /// When a bitmap given to a backup is brought up to date (`BitmapSyncMode`).
    BitmapSyncMode {
        OnSuccess = "on-success",
        Never = "never",
        Always = "always",
    }
    /// What a job does on an I/O error (`BlockdevOnError`).
    OnError {
        Report = "report",
        Ignore = "ignore",
        Enospc = "enospc",
        Stop = "stop",
        Auto = "auto",
    }
    /// How a new image comes to be (`NewImageMode`).
    NewImageMode {
        Existing = "existing",
        AbsolutePaths = "absolute-paths",
    }
    /// How the jobs of a transaction end (`ActionCompletionMode`).
    ActionCompletionMode {
        Individual = "individual",
        Grouped = "grouped",
    }
    /// How mirror copies guest writes (`MirrorCopyMode`).
    MirrorCopyMode {
        Background = "background",
        WriteBlocking = "write-blocking",
    }
    /// Job types (`JobType`).
    JobType {
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
    DiscardOption {
        Ignore = "ignore",
        Unmap = "unmap",
    }
    /// Whether zero writes are recognised (`BlockdevDetectZeroesOptions`).
    DetectZeroes {
        Off = "off",
        On = "on",
        Unmap = "unmap",
    }
    /// `OnOffAuto`.
    OnOffAuto {
        Auto = "auto",
        On = "on",
        Off = "off",
    }
    /// How host files are accessed (`BlockdevAioOptions`).
    AioOption {
        Threads = "threads",
        Native = "native",
        IoUring = "io_uring",
    }
    /// How much a new image preallocates (`PreallocMode`).
    PreallocMode {
        Off = "off",
        Metadata = "metadata",
        Falloc = "falloc",
        Full = "full",
    }
    /// qcow2 format versions (`BlockdevQcow2Version`).
    Qcow2Version {
        V2 = "v2",
        V3 = "v3",
    }
    /// qcow2 compression (`Qcow2CompressionType`).
    Qcow2CompressionType {
        Zlib = "zlib",
        Zstd = "zstd",
    }
    /// qcow2 overlap check templates (`Qcow2OverlapCheckMode`).
    Qcow2OverlapCheckMode {
        None = "none",
        Constant = "constant",
        Cached = "cached",
        All = "all",
    }
    /// qcow2 encryption formats (`BlockdevQcow2EncryptionFormat`).
    Qcow2EncryptionFormat {
        Aes = "aes",
        Luks = "luks",
    }
    /// Which side fails when copy-before-write cannot copy (`OnCbwError`).
    OnCbwError {
        BreakGuestWrite = "break-guest-write",
        BreakSnapshot = "break-snapshot",
    }
    /// Whom a quorum asks when it reads (`QuorumReadPattern`).
    QuorumReadPattern {
        Quorum = "quorum",
        Fifo = "fifo",
    }
    /// The requests a blkdebug rule can fail (`BlkdebugIOType`).
    BlkdebugIoType {
        Read = "read",
        Write = "write",
        WriteZeroes = "write-zeroes",
        Discard = "discard",
        Flush = "flush",
        BlockStatus = "block-status",
    }
    /// Permissions on block nodes (`BlockPermission`).
    BlockPermission {
        ConsistentRead = "consistent-read",
        Write = "write",
        WriteUnchanged = "write-unchanged",
        Resize = "resize",
    }
    /// Monitor capabilities (`QMPCapability`).
    QmpCapability {
        Oob = "oob",
    }
}
