//! The options of the block drivers the model knows (`BlockdevOptionsFile` and its like).

use std::sync::Arc;

use super::bitmap::BitmapRef;
use super::blockdev::{BlockdevRef, BlockdevRefOrNull};
use super::enums::{
    AioOption, BlkdebugIoType, BlockPermission, OnCbwError, OnOffAuto, Qcow2EncryptionFormat, Qcow2OverlapCheckMode,
    QuorumReadPattern,
};
use super::export::SocketAddress;
use crate::base::Json;
use crate::block::event::BlkdebugEvent;
use crate::qmp::visit::{At, QapiEnum, Visit, Visitor};

/// `file` (`BlockdevOptionsFile`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileOptions {
    /// Name of the host file.
    pub filename: Arc<str>,
    /// Persistent reservation manager object.
    pub pr_manager: Option<Arc<str>>,
    /// Lock the file; default auto.
    pub locking: Option<OnOffAuto>,
    /// Default threads.
    pub aio: Option<AioOption>,
    /// Default 0.
    pub aio_max_batch: Option<i64>,
    /// Default true.
    pub drop_cache: Option<bool>,
    /// Default false.
    pub x_check_cache_dropped: Option<bool>,
}

impl FileOptions {
    pub(super) fn visit(v: &mut Visitor<'_>) -> Visit<FileOptions> {
        Ok(FileOptions {
            filename: v.str("filename")?,
            pr_manager: v.opt_str("pr-manager")?,
            locking: v.opt_enum("locking")?,
            aio: v.opt_enum("aio")?,
            aio_max_batch: v.opt_int("aio-max-batch")?,
            drop_cache: v.opt_bool("drop-cache")?,
            x_check_cache_dropped: v.opt_bool("x-check-cache-dropped")?,
        })
    }
}

/// `null-co` and `null-aio` (`BlockdevOptionsNull`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NullOptions {
    /// It is `null-aio`.
    pub aio: bool,
    /// Size in bytes; default 1 GiB.
    pub size: Option<i64>,
    /// Nanoseconds each request takes; default 0.
    pub latency_ns: Option<u64>,
    /// Reads fill the buffer with zeroes; default false.
    pub read_zeroes: Option<bool>,
}

impl NullOptions {
    pub(super) fn visit(v: &mut Visitor<'_>, aio: bool) -> Visit<NullOptions> {
        Ok(NullOptions {
            aio,
            size: v.opt_int("size")?,
            latency_ns: v.opt_with("latency-ns", |at| at.uint())?,
            read_zeroes: v.opt_bool("read-zeroes")?,
        })
    }
}

/// `raw` (`BlockdevOptionsRaw`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RawOptions {
    /// The image.
    pub file: BlockdevRef,
    /// Bytes to skip in it.
    pub offset: Option<i64>,
    /// Bytes of it to use.
    pub size: Option<i64>,
}

impl RawOptions {
    pub(super) fn visit(v: &mut Visitor<'_>) -> Visit<RawOptions> {
        Ok(RawOptions {
            file: v.with("file", BlockdevRef::visit)?,
            offset: v.opt_int("offset")?,
            size: v.opt_int("size")?,
        })
    }
}

/// `qcow2` (`BlockdevOptionsQcow2`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Qcow2Options {
    /// The image.
    pub file: BlockdevRef,
    /// The backing image; what the header says if absent.
    pub backing: Option<BlockdevRefOrNull>,
    /// Default: what the header says.
    pub lazy_refcounts: Option<bool>,
    /// Default: true if the node has discard=unmap.
    pub pass_discard_request: Option<bool>,
    /// Default true.
    pub pass_discard_snapshot: Option<bool>,
    /// Default false.
    pub pass_discard_other: Option<bool>,
    /// Default false.
    pub discard_no_unref: Option<bool>,
    /// Default cached.
    pub overlap_check: Option<Qcow2OverlapChecks>,
    /// Bytes of both metadata caches.
    pub cache_size: Option<i64>,
    /// Bytes of the L2 cache.
    pub l2_cache_size: Option<i64>,
    /// Bytes of an L2 cache entry.
    pub l2_cache_entry_size: Option<i64>,
    /// Bytes of the refcount cache.
    pub refcount_cache_size: Option<i64>,
    /// Seconds.
    pub cache_clean_interval: Option<i64>,
    /// Encryption.
    pub encrypt: Option<Qcow2Encryption>,
    /// External data file.
    pub data_file: Option<BlockdevRef>,
}

impl Qcow2Options {
    pub(super) fn visit(v: &mut Visitor<'_>) -> Visit<Qcow2Options> {
        Ok(Qcow2Options {
            file: v.with("file", BlockdevRef::visit)?,
            backing: v.opt_with("backing", BlockdevRefOrNull::visit)?,
            lazy_refcounts: v.opt_bool("lazy-refcounts")?,
            pass_discard_request: v.opt_bool("pass-discard-request")?,
            pass_discard_snapshot: v.opt_bool("pass-discard-snapshot")?,
            pass_discard_other: v.opt_bool("pass-discard-other")?,
            discard_no_unref: v.opt_bool("discard-no-unref")?,
            overlap_check: v.opt_with("overlap-check", Qcow2OverlapChecks::visit)?,
            cache_size: v.opt_int("cache-size")?,
            l2_cache_size: v.opt_int("l2-cache-size")?,
            l2_cache_entry_size: v.opt_int("l2-cache-entry-size")?,
            refcount_cache_size: v.opt_int("refcount-cache-size")?,
            cache_clean_interval: v.opt_int("cache-clean-interval")?,
            encrypt: v.opt_with("encrypt", Qcow2Encryption::visit)?,
            data_file: v.opt_with("data-file", BlockdevRef::visit)?,
        })
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

impl Qcow2OverlapChecks {
    fn visit(at: At<'_>) -> Visit<Qcow2OverlapChecks> {
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

/// Encryption of a qcow2 image (`BlockdevQcow2Encryption`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Qcow2Encryption {
    /// How it is encrypted.
    pub format: Qcow2EncryptionFormat,
    /// Secret object with the key.
    pub key_secret: Option<Arc<str>>,
}

impl Qcow2Encryption {
    fn visit(at: At<'_>) -> Visit<Qcow2Encryption> {
        let mut v = at.object()?;
        let encryption = Qcow2Encryption { format: v.enum_("format")?, key_secret: v.opt_str("key-secret")? };
        v.finish()?;
        Ok(encryption)
    }
}

impl QapiEnum for BlkdebugEvent {
    const TABLE: &'static [(BlkdebugEvent, &'static str)] = &BlkdebugEvent::ALL;
}

/// `blkdebug` (`BlockdevOptionsBlkdebug`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlkdebugOptions {
    /// The node below.
    pub image: BlockdevRef,
    /// File name of a rules file.
    pub config: Option<Arc<str>>,
    /// Request alignment in bytes.
    pub align: Option<i64>,
    /// Bytes.
    pub max_transfer: Option<i32>,
    /// Bytes.
    pub opt_write_zero: Option<i32>,
    /// Bytes.
    pub max_write_zero: Option<i32>,
    /// Bytes.
    pub opt_discard: Option<i32>,
    /// Bytes.
    pub max_discard: Option<i32>,
    /// Rules that fail requests.
    pub inject_error: Option<Vec<InjectErrorOptions>>,
    /// Rules that change the state variable.
    pub set_state: Option<Vec<SetStateOptions>>,
    /// Permissions taken on the image beyond those needed.
    pub take_child_perms: Option<Vec<BlockPermission>>,
    /// Permissions not shared on the image.
    pub unshare_child_perms: Option<Vec<BlockPermission>>,
}

impl BlkdebugOptions {
    pub(super) fn visit(v: &mut Visitor<'_>) -> Visit<BlkdebugOptions> {
        Ok(BlkdebugOptions {
            image: v.with("image", BlockdevRef::visit)?,
            config: v.opt_str("config")?,
            align: v.opt_int("align")?,
            max_transfer: v.opt_int32("max-transfer")?,
            opt_write_zero: v.opt_int32("opt-write-zero")?,
            max_write_zero: v.opt_int32("max-write-zero")?,
            opt_discard: v.opt_int32("opt-discard")?,
            max_discard: v.opt_int32("max-discard")?,
            inject_error: v.opt_list("inject-error", InjectErrorOptions::visit)?,
            set_state: v.opt_list("set-state", SetStateOptions::visit)?,
            take_child_perms: v.opt_list("take-child-perms", |at| at.enumeration())?,
            unshare_child_perms: v.opt_list("unshare-child-perms", |at| at.enumeration())?,
        })
    }
}

/// A rule that fails requests (`BlkdebugInjectErrorOptions`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InjectErrorOptions {
    /// What sets it off.
    pub event: BlkdebugEvent,
    /// State it applies in, 0 for any; default any.
    pub state: Option<i64>,
    /// Requests to fail; default all but block-status.
    pub iotype: Option<BlkdebugIoType>,
    /// Default 5 (EIO).
    pub errno: Option<i64>,
    /// Sector of 512 bytes the request must cover, -1 for any.
    pub sector: Option<i64>,
    /// Default false.
    pub once: Option<bool>,
    /// Default false.
    pub immediately: Option<bool>,
}

impl InjectErrorOptions {
    fn visit(at: At<'_>) -> Visit<InjectErrorOptions> {
        let mut v = at.object()?;
        let rule = InjectErrorOptions {
            event: v.enum_("event")?,
            state: v.opt_int("state")?,
            iotype: v.opt_enum("iotype")?,
            errno: v.opt_int("errno")?,
            sector: v.opt_int("sector")?,
            once: v.opt_bool("once")?,
            immediately: v.opt_bool("immediately")?,
        };
        v.finish()?;
        Ok(rule)
    }
}

/// A rule that changes the state variable (`BlkdebugSetStateOptions`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetStateOptions {
    /// What sets it off.
    pub event: BlkdebugEvent,
    /// State it applies in, 0 for any; default any.
    pub state: Option<i64>,
    /// The state afterwards.
    pub new_state: i64,
}

impl SetStateOptions {
    fn visit(at: At<'_>) -> Visit<SetStateOptions> {
        let mut v = at.object()?;
        let rule =
            SetStateOptions { event: v.enum_("event")?, state: v.opt_int("state")?, new_state: v.int("new_state")? };
        v.finish()?;
        Ok(rule)
    }
}

/// `copy-before-write` (`BlockdevOptionsCbw`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CbwOptions {
    /// The node that is written to.
    pub file: BlockdevRef,
    /// The node old data is copied to.
    pub target: BlockdevRef,
    /// What to copy; everything if absent.
    pub bitmap: Option<BitmapRef>,
    /// Default break-guest-write.
    pub on_cbw_error: Option<OnCbwError>,
    /// Seconds, 0 for no limit; default 0.
    pub cbw_timeout: Option<u32>,
    /// Least cluster size of the copy in bytes; default 0.
    pub min_cluster_size: Option<u64>,
}

impl CbwOptions {
    pub(super) fn visit(v: &mut Visitor<'_>) -> Visit<CbwOptions> {
        Ok(CbwOptions {
            file: v.with("file", BlockdevRef::visit)?,
            target: v.with("target", BlockdevRef::visit)?,
            bitmap: v.opt_with("bitmap", |at| {
                let mut v = at.object()?;
                let bitmap = BitmapRef::visit(&mut v)?;
                v.finish()?;
                Ok(bitmap)
            })?,
            on_cbw_error: v.opt_enum("on-cbw-error")?,
            cbw_timeout: v.opt_uint32("cbw-timeout")?,
            min_cluster_size: v.opt_size("min-cluster-size")?,
        })
    }
}

/// `copy-on-read` (`BlockdevOptionsCor`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CorOptions {
    /// The node that is filled.
    pub file: BlockdevRef,
    /// Lowest node to take data from.
    pub bottom: Option<Arc<str>>,
}

impl CorOptions {
    pub(super) fn visit(v: &mut Visitor<'_>) -> Visit<CorOptions> {
        Ok(CorOptions { file: v.with("file", BlockdevRef::visit)?, bottom: v.opt_str("bottom")? })
    }
}

/// `quorum` (`BlockdevOptionsQuorum`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QuorumOptions {
    /// The process ends where the two nodes differ; default false.
    pub blkverify: Option<bool>,
    /// The nodes.
    pub children: Vec<BlockdevRef>,
    /// How many have to agree.
    pub vote_threshold: i64,
    /// What is read and not agreed on is written again; default false.
    pub rewrite_corrupted: Option<bool>,
    /// Default quorum.
    pub read_pattern: Option<QuorumReadPattern>,
}

impl QuorumOptions {
    pub(super) fn visit(v: &mut Visitor<'_>) -> Visit<QuorumOptions> {
        Ok(QuorumOptions {
            blkverify: v.opt_bool("blkverify")?,
            children: v.list("children", BlockdevRef::visit)?,
            vote_threshold: v.int("vote-threshold")?,
            rewrite_corrupted: v.opt_bool("rewrite-corrupted")?,
            read_pattern: v.opt_enum("read-pattern")?,
        })
    }
}

/// `blkverify` (`BlockdevOptionsBlkverify`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlkverifyOptions {
    /// The node under test.
    pub test: BlockdevRef,
    /// The one that it is compared with.
    pub raw: BlockdevRef,
}

impl BlkverifyOptions {
    pub(super) fn visit(v: &mut Visitor<'_>) -> Visit<BlkverifyOptions> {
        Ok(BlkverifyOptions { test: v.with("test", BlockdevRef::visit)?, raw: v.with("raw", BlockdevRef::visit)? })
    }
}

/// `throttle` (`BlockdevOptionsThrottle`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ThrottleOptions {
    /// Name of the group object.
    pub throttle_group: Arc<str>,
    /// The node that is throttled.
    pub file: BlockdevRef,
}

impl ThrottleOptions {
    pub(super) fn visit(v: &mut Visitor<'_>) -> Visit<ThrottleOptions> {
        Ok(ThrottleOptions { throttle_group: v.str("throttle-group")?, file: v.with("file", BlockdevRef::visit)? })
    }
}

/// `preallocate` (`BlockdevOptionsPreallocate`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PreallocateOptions {
    /// The node below.
    pub file: BlockdevRef,
    /// Bytes; default 1 MiB.
    pub prealloc_align: Option<i64>,
    /// Bytes; default 128 MiB.
    pub prealloc_size: Option<i64>,
}

impl PreallocateOptions {
    pub(super) fn visit(v: &mut Visitor<'_>) -> Visit<PreallocateOptions> {
        Ok(PreallocateOptions {
            file: v.with("file", BlockdevRef::visit)?,
            prealloc_align: v.opt_int("prealloc-align")?,
            prealloc_size: v.opt_int("prealloc-size")?,
        })
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
