//! `BlockdevOptions`: how `blockdev-add` and `-blockdev` describe a node.

use std::sync::Arc;

use super::drivers::{
    BlkdebugOptions, BlkverifyOptions, CbwOptions, CorOptions, FileOptions, NbdOptions, NullOptions,
    PreallocateOptions, Qcow2Options, QuorumOptions, RawOptions, ThrottleOptions,
};
use super::enums::{DetectZeroes, DiscardOption};
use crate::base::Json;
use crate::qmp::declare::{Value, members, values};
use crate::qmp::error::QmpError;
use crate::qmp::json::parse_one;
use crate::qmp::keyval::parse_keyval;
use crate::qmp::visit::{InputVisitor, QapiEnum, ValueAt, Visit, Visitor};

/// A node to be opened (`BlockdevOptions`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockdevOptions {
    /// The driver and its own options.
    pub driver: DriverOptions,
    /// Name of the node; made up if absent.
    pub node_name: Option<Arc<str>>,
    /// Default ignore.
    pub discard: Option<DiscardOption>,
    /// Cache mode.
    pub cache: Option<CacheOptions>,
    /// Default true.
    pub active: Option<bool>,
    /// Default false.
    pub read_only: Option<bool>,
    /// Fall back to read-only when write access is refused; default false.
    pub auto_read_only: Option<bool>,
    /// Share all permissions; default false.
    pub force_share: Option<bool>,
    /// Default off.
    pub detect_zeroes: Option<DetectZeroes>,
    /// The whole object, as it was given.
    pub given: Json,
}

members! {
    /// Cache mode of a node (`BlockdevCacheOptions`).
    #[derive(Copy, Default)]
    pub struct CacheOptions {
        /// Default false.
        direct: Option<bool>,
        /// Default false.
        no_flush: Option<bool>,
    }
}

/// A driver with its options; the drivers the model knows have a branch of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DriverOptions {
    /// `file`
    File(Box<FileOptions>),
    /// `null-co` and `null-aio`
    Null(NullOptions),
    /// `raw`
    Raw(Box<RawOptions>),
    /// `qcow2`
    Qcow2(Box<Qcow2Options>),
    /// `blkdebug`
    Blkdebug(Box<BlkdebugOptions>),
    /// `copy-before-write`
    CopyBeforeWrite(Box<CbwOptions>),
    /// `copy-on-read`
    CopyOnRead(Box<CorOptions>),
    /// `throttle`
    Throttle(Box<ThrottleOptions>),
    /// `preallocate`
    Preallocate(Box<PreallocateOptions>),
    /// `snapshot-access`: the copy-before-write filter below.
    SnapshotAccess(Box<BlockdevRef>),
    /// `quorum`
    Quorum(Box<QuorumOptions>),
    /// `blkverify`
    Blkverify(Box<BlkverifyOptions>),
    /// `compress`: the node below.
    Compress(Box<BlockdevRef>),
    /// `nbd`
    Nbd(Box<NbdOptions>),
    /// Any other driver QEMU knows; its options were not looked at.
    Other(&'static str, Json),
}

/// A child: a node to be opened, or the name of one (`BlockdevRef`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BlockdevRef {
    /// A definition in place.
    Definition(Box<BlockdevOptions>),
    /// A node or device name.
    Reference(Arc<str>),
}

/// A backing child (`BlockdevRefOrNull`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BlockdevRefOrNull {
    /// A definition or a name.
    Ref(BlockdevRef),
    /// None, whatever the image says.
    Null,
}

/// `BlockdevDriver`: what the tag of the union can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Driver {
    /// `file`
    File,
    /// `null-co`
    NullCo,
    /// `null-aio`
    NullAio,
    /// `raw`
    Raw,
    /// `qcow2`
    Qcow2,
    /// `blkdebug`
    Blkdebug,
    /// `copy-before-write`
    CopyBeforeWrite,
    /// `copy-on-read`
    CopyOnRead,
    /// `throttle`
    Throttle,
    /// `preallocate`
    Preallocate,
    /// `snapshot-access`
    SnapshotAccess,
    /// `quorum`
    Quorum,
    /// `blkverify`
    Blkverify,
    /// `compress`
    Compress,
    /// `nbd`
    Nbd,
    /// A driver that QEMU has and the model has not.
    Other(&'static str),
}

impl QapiEnum for Driver {
    /// The drivers of a QEMU 10.0.2 as Debian builds it.
    const TABLE: &'static [(Driver, &'static str)] = &[
        (Driver::Blkdebug, "blkdebug"),
        (Driver::Other("blklogwrites"), "blklogwrites"),
        (Driver::Other("blkreplay"), "blkreplay"),
        (Driver::Blkverify, "blkverify"),
        (Driver::Other("bochs"), "bochs"),
        (Driver::Other("cloop"), "cloop"),
        (Driver::Compress, "compress"),
        (Driver::CopyBeforeWrite, "copy-before-write"),
        (Driver::CopyOnRead, "copy-on-read"),
        (Driver::Other("dmg"), "dmg"),
        (Driver::File, "file"),
        (Driver::SnapshotAccess, "snapshot-access"),
        (Driver::Other("ftp"), "ftp"),
        (Driver::Other("ftps"), "ftps"),
        (Driver::Other("gluster"), "gluster"),
        (Driver::Other("host_cdrom"), "host_cdrom"),
        (Driver::Other("host_device"), "host_device"),
        (Driver::Other("http"), "http"),
        (Driver::Other("https"), "https"),
        (Driver::Other("iscsi"), "iscsi"),
        (Driver::Other("luks"), "luks"),
        (Driver::Nbd, "nbd"),
        (Driver::Other("nfs"), "nfs"),
        (Driver::NullAio, "null-aio"),
        (Driver::NullCo, "null-co"),
        (Driver::Other("nvme"), "nvme"),
        (Driver::Other("parallels"), "parallels"),
        (Driver::Preallocate, "preallocate"),
        (Driver::Other("qcow"), "qcow"),
        (Driver::Qcow2, "qcow2"),
        (Driver::Other("qed"), "qed"),
        (Driver::Quorum, "quorum"),
        (Driver::Raw, "raw"),
        (Driver::Other("rbd"), "rbd"),
        (Driver::Other("replication"), "replication"),
        (Driver::Other("ssh"), "ssh"),
        (Driver::Throttle, "throttle"),
        (Driver::Other("vdi"), "vdi"),
        (Driver::Other("vhdx"), "vhdx"),
        (Driver::Other("vmdk"), "vmdk"),
        (Driver::Other("vpc"), "vpc"),
        (Driver::Other("vvfat"), "vvfat"),
    ];
}

impl Driver {
    /// The name in QMP.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|(driver, _)| *driver == self).map_or("", |(_, name)| name)
    }
}

impl DriverOptions {
    /// The tag of the union, `driver`.
    #[must_use]
    pub fn driver(&self) -> Driver {
        match self {
            DriverOptions::File(_) => Driver::File,
            DriverOptions::Null(null) if null.aio => Driver::NullAio,
            DriverOptions::Null(_) => Driver::NullCo,
            DriverOptions::Raw(_) => Driver::Raw,
            DriverOptions::Qcow2(_) => Driver::Qcow2,
            DriverOptions::Blkdebug(_) => Driver::Blkdebug,
            DriverOptions::CopyBeforeWrite(_) => Driver::CopyBeforeWrite,
            DriverOptions::CopyOnRead(_) => Driver::CopyOnRead,
            DriverOptions::Throttle(_) => Driver::Throttle,
            DriverOptions::Preallocate(_) => Driver::Preallocate,
            DriverOptions::SnapshotAccess(_) => Driver::SnapshotAccess,
            DriverOptions::Quorum(_) => Driver::Quorum,
            DriverOptions::Blkverify(_) => Driver::Blkverify,
            DriverOptions::Compress(_) => Driver::Compress,
            DriverOptions::Nbd(_) => Driver::Nbd,
            DriverOptions::Other(name, _) => Driver::Other(name),
        }
    }
}

/// How deep node definitions may be nested. QEMU allows what its JSON parser allows; this bounds our stack.
const MAX_NESTED_NODES: usize = 128;

impl BlockdevOptions {
    /// Reads a whole object, superfluous members included.
    ///
    /// # Errors
    /// What QEMU says about the options.
    pub fn visit(at: ValueAt<'_>) -> Visit<BlockdevOptions> {
        if at.depth() > MAX_NESTED_NODES {
            return Err(QmpError::generic("not simulated: node definitions nested this deep"));
        }
        let mut v = at.object()?;
        let driver: Driver = v.enum_("driver")?;
        let node_name = v.opt_str("node-name")?;
        let discard = v.opt_enum("discard")?;
        let cache = v.opt_with("cache", CacheOptions::value)?;
        let active = v.opt_bool("active")?;
        let read_only = v.opt_bool("read-only")?;
        let auto_read_only = v.opt_bool("auto-read-only")?;
        let force_share = v.opt_bool("force-share")?;
        let detect_zeroes = v.opt_enum("detect-zeroes")?;
        let given = at.any().clone();
        let driver = Self::visit_driver(driver, at.any(), &mut v)?;
        if matches!(driver, DriverOptions::Other(..)) {
            v.leave();
        } else {
            v.finish()?;
        }
        Ok(BlockdevOptions {
            driver,
            node_name,
            discard,
            cache,
            active,
            read_only,
            auto_read_only,
            force_share,
            detect_zeroes,
            given,
        })
    }

    /// Reads the argument of `-blockdev`: JSON if it starts with a brace, otherwise `key=value` options
    /// of which the first may be the driver alone (`qobject_input_visitor_new_str`).
    ///
    /// # Errors
    /// What QEMU says about the text or the options.
    pub fn from_option(text: &str) -> Result<BlockdevOptions, QmpError> {
        let (value, mode) = if text.starts_with('{') {
            (parse_one(text)?, InputVisitor::Json)
        } else {
            (parse_keyval(text, Some("driver"))?, InputVisitor::Keyval)
        };
        BlockdevOptions::visit(ValueAt::root(&value, mode))
    }

    /// Reads options whose scalars are all text, as [`crate::qmp::drive`] makes them.
    ///
    /// # Errors
    /// What QEMU says about the options when they come as `key=value`.
    pub fn from_texts(options: &Json) -> Result<BlockdevOptions, QmpError> {
        BlockdevOptions::visit(ValueAt::root(options, InputVisitor::Keyval))
    }

    fn visit_driver(driver: Driver, whole: &Json, v: &mut Visitor<'_>) -> Visit<DriverOptions> {
        Ok(match driver {
            Driver::File => DriverOptions::File(Box::new(FileOptions::visit(v)?)),
            Driver::NullCo => DriverOptions::Null(NullOptions::visit(v)?),
            Driver::NullAio => DriverOptions::Null(NullOptions { aio: true, ..NullOptions::visit(v)? }),
            Driver::Raw => DriverOptions::Raw(Box::new(RawOptions::visit(v)?)),
            Driver::Qcow2 => DriverOptions::Qcow2(Box::new(Qcow2Options::visit(v)?)),
            Driver::Blkdebug => DriverOptions::Blkdebug(Box::new(BlkdebugOptions::visit(v)?)),
            Driver::CopyBeforeWrite => DriverOptions::CopyBeforeWrite(Box::new(CbwOptions::visit(v)?)),
            Driver::CopyOnRead => DriverOptions::CopyOnRead(Box::new(CorOptions::visit(v)?)),
            Driver::Throttle => DriverOptions::Throttle(Box::new(ThrottleOptions::visit(v)?)),
            Driver::Preallocate => DriverOptions::Preallocate(Box::new(PreallocateOptions::visit(v)?)),
            Driver::SnapshotAccess => DriverOptions::SnapshotAccess(Box::new(v.with("file", BlockdevRef::visit)?)),
            Driver::Quorum => DriverOptions::Quorum(Box::new(QuorumOptions::visit(v)?)),
            Driver::Blkverify => DriverOptions::Blkverify(Box::new(BlkverifyOptions::visit(v)?)),
            Driver::Compress => DriverOptions::Compress(Box::new(v.with("file", BlockdevRef::visit)?)),
            Driver::Nbd => DriverOptions::Nbd(Box::new(NbdOptions::visit(v)?)),
            Driver::Other(name) => DriverOptions::Other(name, whole.clone()),
        })
    }
}

values!(BlockdevOptions, BlockdevRef, BlockdevRefOrNull);

impl BlockdevRef {
    /// Reads the alternate.
    ///
    /// # Errors
    /// Neither object nor string, or what QEMU says about the options.
    pub fn visit(at: ValueAt<'_>) -> Visit<BlockdevRef> {
        match at.any() {
            Json::Dict(_) => Ok(BlockdevRef::Definition(Box::new(BlockdevOptions::visit(at)?))),
            Json::Str(name) => Ok(BlockdevRef::Reference(name.clone())),
            _ => Err(at.no_branch("BlockdevRef")),
        }
    }
}

impl BlockdevRefOrNull {
    /// Reads the alternate.
    ///
    /// # Errors
    /// Neither object, string nor null, or what QEMU says about the options.
    pub fn visit(at: ValueAt<'_>) -> Visit<BlockdevRefOrNull> {
        match at.any() {
            Json::Null => Ok(BlockdevRefOrNull::Null),
            Json::Dict(_) | Json::Str(_) => Ok(BlockdevRefOrNull::Ref(BlockdevRef::visit(at)?)),
            _ => Err(at.no_branch("BlockdevRefOrNull")),
        }
    }
}
