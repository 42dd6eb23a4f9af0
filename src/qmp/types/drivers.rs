//! The options of the block drivers the model knows (`BlockdevOptionsFile` and its like).

use std::sync::Arc;

use super::bitmap::BitmapRef;
use super::blockdev::{BlockdevRef, BlockdevRefOrNull};
use super::enums::{
    AioOption, BlkdebugIoType, BlockPermission, OnCbwError, OnOffAuto, Qcow2EncryptionFormat, Qcow2OverlapCheckMode,
    QuorumReadPattern,
};
use super::socket::SocketAddress;
use crate::base::Json;
use crate::block::event::BlkdebugEvent;
use crate::qmp::declare::{members, values};
use crate::qmp::visit::{QapiEnum, ValueAt, Visit, Visitor};

members! {
    /// `file` (`BlockdevOptionsFile`).
    pub struct FileOptions {
        /// Name of the host file.
        filename: Arc<str>,
        /// Persistent reservation manager object.
        pr_manager: Option<Arc<str>>,
        /// Lock the file; default auto.
        locking: Option<OnOffAuto>,
        /// Default threads.
        aio: Option<AioOption>,
        /// Default 0.
        aio_max_batch: Option<i64>,
        /// Default true.
        drop_cache: Option<bool>,
        /// Default false.
        x_check_cache_dropped: Option<bool>,
    }
}

members! {
    /// `null-co` and `null-aio` (`BlockdevOptionsNull`).
    pub struct NullOptions {
        /// It is `null-aio`.
        aio: bool [init false],
        /// Size in bytes; default 1 GiB.
        size: Option<i64>,
        /// Nanoseconds each request takes; default 0.
        latency_ns: Option<u64> [opt_with |at| at.uint()],
        /// Reads fill the buffer with zeroes; default false.
        read_zeroes: Option<bool>,
    }
}

members! {
    /// `raw` (`BlockdevOptionsRaw`).
    pub struct RawOptions {
        /// The image.
        file: BlockdevRef,
        /// Bytes to skip in it.
        offset: Option<i64>,
        /// Bytes of it to use.
        size: Option<i64>,
    }
}

members! {
    /// `qcow2` (`BlockdevOptionsQcow2`).
    pub struct Qcow2Options {
        /// The image.
        file: BlockdevRef,
        /// The backing image; what the header says if absent.
        backing: Option<BlockdevRefOrNull>,
        /// Default: what the header says.
        lazy_refcounts: Option<bool>,
        /// Default: true if the node has discard=unmap.
        pass_discard_request: Option<bool>,
        /// Default true.
        pass_discard_snapshot: Option<bool>,
        /// Default false.
        pass_discard_other: Option<bool>,
        /// Default false.
        discard_no_unref: Option<bool> [since DiscardNoUnref],
        /// Default cached.
        overlap_check: Option<Qcow2OverlapChecks>,
        /// Bytes of both metadata caches.
        cache_size: Option<i64>,
        /// Bytes of the L2 cache.
        l2_cache_size: Option<i64>,
        /// Bytes of an L2 cache entry.
        l2_cache_entry_size: Option<i64>,
        /// Bytes of the refcount cache.
        refcount_cache_size: Option<i64>,
        /// Seconds.
        cache_clean_interval: Option<i64>,
        /// Encryption.
        encrypt: Option<Qcow2Encryption>,
        /// External data file.
        data_file: Option<BlockdevRef>,
    }
}

/// Which metadata writes are checked for overlaps (`Qcow2OverlapChecks`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Qcow2OverlapChecks {
    /// A named set.
    Mode(Qcow2OverlapCheckMode),
    /// A set and what differs from it.
    Flags(Qcow2OverlapCheckFlags),
}

/// `Qcow2OverlapCheckFlags`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Qcow2OverlapCheckFlags {
    /// The set to start from.
    pub template: Option<Qcow2OverlapCheckMode>,
    /// The flags in the order of [`Qcow2OverlapCheckFlags::NAMES`].
    pub flags: [Option<bool>; 9],
}

impl Qcow2OverlapCheckFlags {
    /// The names of the flags.
    pub const NAMES: [&'static str; 9] = [
        "main-header",
        "active-l1",
        "active-l2",
        "refcount-table",
        "refcount-block",
        "snapshot-table",
        "inactive-l1",
        "inactive-l2",
        "bitmap-directory",
    ];
}

values!(Qcow2OverlapChecks);

impl Qcow2OverlapChecks {
    fn visit(at: ValueAt<'_>) -> Visit<Qcow2OverlapChecks> {
        match at.any() {
            Json::Str(_) => Ok(Qcow2OverlapChecks::Mode(at.enumeration()?)),
            Json::Dict(_) => {
                let mut v = at.object()?;
                let template = v.opt_enum("template")?;
                let mut flags = [None; 9];
                for (flag, name) in flags.iter_mut().zip(Qcow2OverlapCheckFlags::NAMES) {
                    *flag = v.opt_bool(name)?;
                }
                v.finish()?;
                Ok(Qcow2OverlapChecks::Flags(Qcow2OverlapCheckFlags { template, flags }))
            }
            _ => Err(at.no_branch("Qcow2OverlapChecks")),
        }
    }
}

members! {
    /// Encryption of a qcow2 image (`BlockdevQcow2Encryption`).
    pub struct Qcow2Encryption {
        /// How it is encrypted.
        format: Qcow2EncryptionFormat,
        /// Secret object with the key.
        key_secret: Option<Arc<str>>,
    }
}

impl QapiEnum for BlkdebugEvent {
    const TABLE: &'static [(BlkdebugEvent, &'static str)] = &BlkdebugEvent::ALL;
}

members! {
    /// `blkdebug` (`BlockdevOptionsBlkdebug`).
    pub struct BlkdebugOptions {
        /// The node below.
        image: BlockdevRef,
        /// File name of a rules file.
        config: Option<Arc<str>>,
        /// Request alignment in bytes.
        align: Option<i64>,
        /// Bytes.
        max_transfer: Option<i32>,
        /// Bytes.
        opt_write_zero: Option<i32>,
        /// Bytes.
        max_write_zero: Option<i32>,
        /// Bytes.
        opt_discard: Option<i32>,
        /// Bytes.
        max_discard: Option<i32>,
        /// Rules that fail requests.
        inject_error: Option<Vec<InjectErrorOptions>>,
        /// Rules that change the state variable.
        set_state: Option<Vec<SetStateOptions>>,
        /// Permissions taken on the image beyond those needed.
        take_child_perms: Option<Vec<BlockPermission>>,
        /// Permissions not shared on the image.
        unshare_child_perms: Option<Vec<BlockPermission>>,
    }
}

members! {
    /// A rule that fails requests (`BlkdebugInjectErrorOptions`).
    pub struct InjectErrorOptions {
        /// What sets it off.
        event: BlkdebugEvent,
        /// State it applies in, 0 for any; default any.
        state: Option<i64>,
        /// Requests to fail; default all but block-status.
        iotype: Option<BlkdebugIoType>,
        /// Default 5 (EIO).
        errno: Option<i64>,
        /// Sector of 512 bytes the request must cover, -1 for any.
        sector: Option<i64>,
        /// Default false.
        once: Option<bool>,
        /// Default false.
        immediately: Option<bool>,
    }
}

members! {
    /// A rule that changes the state variable (`BlkdebugSetStateOptions`).
    pub struct SetStateOptions {
        /// What sets it off.
        event: BlkdebugEvent,
        /// State it applies in, 0 for any; default any.
        state: Option<i64>,
        /// `BlkdebugSetStateOptions.new_state`: what later rules see.
        new_state as "new_state": i64,
    }
}

members! {
    /// `copy-before-write` (`BlockdevOptionsCbw`).
    pub struct CbwOptions {
        /// The node that is written to.
        file: BlockdevRef,
        /// The node old data is copied to.
        target: BlockdevRef,
        /// What to copy; everything if absent.
        bitmap: Option<BitmapRef>,
        /// Default break-guest-write.
        on_cbw_error: Option<OnCbwError>,
        /// Seconds, 0 for no limit; default 0.
        cbw_timeout: Option<u32>,
        /// Least cluster size of the copy in bytes; default 0.
        min_cluster_size: Option<u64> [since MinClusterSize],
    }
}

members! {
    /// `copy-on-read` (`BlockdevOptionsCor`).
    pub struct CorOptions {
        /// The node that is filled.
        file: BlockdevRef,
        /// Lowest node to take data from.
        bottom: Option<Arc<str>>,
    }
}

members! {
    /// `quorum` (`BlockdevOptionsQuorum`).
    pub struct QuorumOptions {
        /// The process ends where the two nodes differ; default false.
        blkverify: Option<bool>,
        /// At least one; each is asked.
        children: Vec<BlockdevRef>,
        /// How many have to agree.
        vote_threshold: i64,
        /// What is read and not agreed on is written again; default false.
        rewrite_corrupted: Option<bool>,
        /// Default quorum.
        read_pattern: Option<QuorumReadPattern>,
    }
}

members! {
    /// `blkverify` (`BlockdevOptionsBlkverify`).
    pub struct BlkverifyOptions {
        /// The node under test.
        test: BlockdevRef,
        /// The one that it is compared with.
        raw: BlockdevRef,
    }
}

members! {
    /// `throttle` (`BlockdevOptionsThrottle`).
    pub struct ThrottleOptions {
        /// Name of the group object.
        throttle_group: Arc<str>,
        /// The node that is throttled.
        file: BlockdevRef,
    }
}

members! {
    /// `preallocate` (`BlockdevOptionsPreallocate`).
    pub struct PreallocateOptions {
        /// The node below.
        file: BlockdevRef,
        /// Bytes; default 1 MiB.
        prealloc_align: Option<i64>,
        /// Bytes; default 128 MiB.
        prealloc_size: Option<i64>,
    }
}

/// `nbd` (`BlockdevOptionsNbd`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NbdOptions {
    /// Where the server listens.
    pub server: SocketAddress,
    /// Name of the export; default "".
    pub export: Option<Arc<str>>,
    /// Credentials.
    pub tls_creds: Option<Arc<str>>,
    /// Whose certificate is expected.
    pub tls_hostname: Option<Arc<str>>,
    /// A context in the place of `base:allocation`.
    pub x_dirty_bitmap: Option<Arc<str>>,
    /// Seconds; default 0.
    pub reconnect_delay: Option<u32>,
    /// Seconds; default 0.
    pub open_timeout: Option<u32>,
}

impl NbdOptions {
    pub(super) fn visit(v: &mut Visitor<'_>) -> Visit<NbdOptions> {
        Ok(NbdOptions {
            server: v.with("server", SocketAddress::flat)?,
            export: v.opt_str("export")?,
            tls_creds: v.opt_str("tls-creds")?,
            tls_hostname: v.opt_str("tls-hostname")?,
            x_dirty_bitmap: v.opt_str("x-dirty-bitmap")?,
            reconnect_delay: v.opt_uint32("reconnect-delay")?,
            open_timeout: v.opt_uint32("open-timeout")?,
        })
    }
}
