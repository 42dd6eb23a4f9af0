//! What is to be opened: the options of a node with all that it inherits, ready to be carried out by `open.rs`.

use super::blkdebug_spec::blkdebug_spec;
use super::nbd_name::nbd_config;
use super::open::{NO_DETECTION, inherited};
use super::runtime_options::{RuntimeOptions, WrongSize};
use super::string_options::{says_more, with_drivers, with_member};
use super::unsupported;
use crate::base::Json;
use crate::base::time::Span;
use crate::block::blkdebug::{Limits, Rule};
use crate::qmp::error::QmpError;
use crate::qmp::types::{
    AioOption, BitmapRef, BlockdevOptions, BlockdevRef, BlockdevRefOrNull, CacheOptions,
    DetectZeroes as DetectZeroesOption, DiscardOption, DriverOptions, OnCbwError, OnOffAuto, QuorumReadPattern,
};
use crate::world::block::driver::copies::quorum::QuorumConfig;
use crate::world::block::driver::nbd::NbdConfig;
use crate::world::block::graph::{DetectZeroes, OpenFlags};
use std::sync::Arc;

/// How to open a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OpenSpec {
    /// An existing node or device; then nothing else counts.
    pub reference: Option<Arc<str>>,
    /// What QEMU says instead of opening it.
    pub error: Option<QmpError>,
    /// `node-name`
    pub node_name: Option<Arc<str>>,
    /// The driver and its own options.
    pub driver: DriverSpec,
    /// The driver was guessed from the content.
    pub probed: bool,
    /// Generic options, inherited ones included.
    pub flags: OpenFlags,
    /// `detect-zeroes`
    pub detect_zeroes: DetectZeroes,
    /// `file`, if the driver has one and it is described and not referred to.
    pub file: Option<Arc<OpenSpec>>,
    /// `backing`, or what the image's header says.
    pub backing: BackingSpec,
    /// What was said of the backing file, where the image says the rest: `backing.node-name` and the like.
    pub backing_options: Option<Json>,
    /// The whole description, where the format is to be found out first.
    pub to_be_probed: Option<Json>,
    /// The file name that it was opened by, where that is no file of the host.
    pub by_name: Option<Arc<str>>,
    /// The first option that the driver does not know, and whether the node is opened as a protocol.
    pub unknown: Option<(Arc<str>, bool)>,
    /// The options given that change the data (`append_strong_runtime_options`), flat, without `driver` and `filename`.
    pub given: Json,
    /// An option on account of which the driver does not open.
    pub refused: Option<WrongSize>,
    /// What was said of this node, not inherited: it stays when the node is opened again.
    pub explicit: RuntimeOptions,
}

/// The backing file of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackingSpec {
    /// What the image says.
    FromImage,
    /// `"backing": null`: whatever the image says is not opened.
    None,
    /// This one.
    Spec(Arc<OpenSpec>),
}

/// A driver with its options.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DriverSpec {
    /// To be found out.
    Probe,
    /// `file`
    File {
        /// Name on the simulated host.
        filename: Arc<str>,
        /// `locking`
        locking: bool,
        /// `aio=native`
        native: bool,
    },
    /// `null-co`, `null-aio`
    Null {
        /// It is `null-aio`.
        aio: bool,
        /// In bytes.
        size: Option<i64>,
        /// `latency-ns`: how long a request takes.
        latency: Span,
        /// `read-zeroes`
        read_zeroes: bool,
    },
    /// `raw`
    Raw {
        /// Bytes skipped in the file.
        offset: u64,
        /// Bytes used of it.
        size: Option<u64>,
    },
    /// `qcow2`
    Qcow2 {
        /// `pass-discard-request`
        discard_request: Option<bool>,
        /// `discard-no-unref`
        discard_no_unref: bool,
        /// `lazy-refcounts`
        lazy_refcounts: Option<bool>,
        /// `cache-size`, `l2-cache-size`, `l2-cache-entry-size`, `refcount-cache-size`, in bytes.
        caches: [Option<u64>; 4],
    },
    /// `copy-before-write`
    CopyBeforeWrite {
        /// Where old data is copied to.
        target: Arc<OpenSpec>,
        /// `on-cbw-error=break-snapshot`
        break_snapshot: bool,
        /// `min-cluster-size`
        min_cluster: u64,
        /// `cbw-timeout`, in nanoseconds; 0 is none.
        timeout: Span,
        /// `bitmap`: what to copy.
        bitmap: Option<BitmapRef>,
    },
    /// `snapshot-access`
    SnapshotAccess,
    /// `throttle`
    Throttle {
        /// `throttle-group`
        group: Arc<str>,
    },
    /// `copy-on-read`
    CopyOnRead {
        /// `bottom`
        bottom: Option<Arc<str>>,
    },
    /// `compress`
    Compress,
    /// `quorum`
    Quorum {
        /// `children`, by index.
        children: Arc<[Arc<OpenSpec>]>,
        /// Votes, and what is done with those outvoted.
        config: QuorumConfig,
    },
    /// `nbd`
    Nbd(Box<NbdConfig>),
    /// `blkverify`
    Blkverify {
        /// The node under test.
        test: Arc<OpenSpec>,
    },
    /// `blkdebug`
    Blkdebug {
        /// Rules given as options.
        rules: Arc<[Rule]>,
        /// `config`
        config: Option<Arc<str>>,
        /// Alignment and limits.
        limits: Limits,
        /// `take-child-perms`
        take: u8,
        /// `unshare-child-perms`
        unshare: u8,
    },
}

impl DriverSpec {
    /// qcow2 with nothing set.
    #[must_use]
    pub fn qcow2() -> DriverSpec {
        DriverSpec::Qcow2 { discard_request: None, discard_no_unref: false, lazy_refcounts: None, caches: [None; 4] }
    }

    /// `null-co` or `null-aio` with nothing set.
    #[must_use]
    pub fn null(aio: bool) -> DriverSpec {
        DriverSpec::Null { aio, size: None, latency: Span::ZERO, read_zeroes: false }
    }

    /// Whether `bdrv_open_inherit` opens `file` before the driver does, as for every format.
    #[must_use]
    pub fn opens_file_first(&self) -> bool {
        match self {
            DriverSpec::Probe | DriverSpec::Raw { .. } | DriverSpec::Qcow2 { .. } => true,
            // Filters too, where the node below goes by the name of `file`.
            DriverSpec::CopyBeforeWrite { .. }
            | DriverSpec::SnapshotAccess
            | DriverSpec::Throttle { .. }
            | DriverSpec::Compress
            | DriverSpec::CopyOnRead { .. } => true,
            DriverSpec::File { .. }
            | DriverSpec::Null { .. }
            | DriverSpec::Nbd(_)
            | DriverSpec::Quorum { .. }
            | DriverSpec::Blkverify { .. }
            | DriverSpec::Blkdebug { .. } => false,
        }
    }

    /// The driver of a format name.
    #[must_use]
    pub fn format(name: &str) -> Option<DriverSpec> {
        match name {
            "raw" => Some(DriverSpec::Raw { offset: 0, size: None }),
            "qcow2" => Some(DriverSpec::qcow2()),
            _ => None,
        }
    }
}

/// Formats and protocols that QEMU knows and the model does not.
#[must_use]
pub fn is_known_format(name: &str) -> bool {
    use crate::qmp::visit::QapiEnum;
    crate::qmp::types::Driver::TABLE.iter().any(|(_, known)| *known == name)
}

impl OpenSpec {
    /// A spec without options.
    #[must_use]
    pub fn new(driver: DriverSpec, flags: OpenFlags) -> OpenSpec {
        OpenSpec {
            reference: None,
            error: None,
            node_name: None,
            driver,
            probed: false,
            flags,
            detect_zeroes: NO_DETECTION,
            file: None,
            backing: BackingSpec::FromImage,
            backing_options: None,
            to_be_probed: None,
            by_name: None,
            unknown: None,
            given: Json::empty(),
            refused: None,
            explicit: RuntimeOptions::default(),
        }
    }

    pub(super) fn failing(error: QmpError) -> OpenSpec {
        OpenSpec { error: Some(error), ..OpenSpec::new(DriverSpec::Probe, OpenFlags::default()) }
    }

    /// A reference to an existing node.
    #[must_use]
    pub fn reference(name: Arc<str>) -> OpenSpec {
        OpenSpec { reference: Some(name), ..OpenSpec::new(DriverSpec::Probe, OpenFlags::default()) }
    }

    /// Gives the node a name, as one of its options: it is compared with that when the node is opened again.
    pub fn name(&mut self, name: Option<&Arc<str>>) {
        let Some(name) = name else { return };
        self.node_name = Some(name.clone());
        let mut own = self.explicit.own.as_dict().unwrap_or_default().to_vec();
        own.push(("node-name".into(), Json::Str(name.clone())));
        self.explicit.own = Json::Dict(Arc::new(own));
    }

    /// `bdrv_open` of a file name: with the format given, or to be probed.
    #[must_use]
    pub fn from_filename(filename: &str, format: Option<&str>, flags: OpenFlags) -> OpenSpec {
        if let Some(json) = filename.strip_prefix("json:") {
            return OpenSpec::from_json_filename(json, format, flags);
        }
        let driver = match format {
            None => DriverSpec::Probe,
            // A protocol by its own name has no format above it.
            Some("file") => return OpenSpec::host_file(filename, flags),
            Some("nbd") => return OpenSpec::nbd_by_name(filename, flags),
            Some(name) => match DriverSpec::format(name) {
                Some(driver) => driver,
                None if is_known_format(name) => {
                    return OpenSpec::failing(QmpError::generic(format!("not simulated: {name}")));
                }
                None => return OpenSpec::failing(QmpError::generic(format!("Unknown driver '{name}'"))),
            },
        };
        let mut spec = OpenSpec::new(driver, flags);
        let below = inherited(flags);
        spec.file = Some(Arc::new(match crate::block::blkdebug::parse_filename(filename) {
            Err(text) => OpenSpec::failing(QmpError::generic(text)),
            Ok(_) if !filename.starts_with("blkdebug:") => OpenSpec::host_file(filename, below),
            Ok((config, image)) => {
                let limits = Limits::default();
                let config: Option<Arc<str>> = config.map(Into::into);
                let given = config.iter().map(|config| ("config", Json::Str(config.clone()))).collect();
                let driver = DriverSpec::Blkdebug { rules: Arc::new([]), config, limits, take: 0, unshare: 0 };
                let mut filter = OpenSpec { given: Json::dict(given), ..OpenSpec::new(driver, below) };
                filter.file = Some(Arc::new(OpenSpec::host_file(image, below)));
                filter
            }
        }));
        spec
    }

    /// `bdrv_open` of a file name without a format, under `BDRV_O_PROTOCOL`: what it holds is not looked at.
    #[must_use]
    pub fn from_protocol_name(filename: &str, flags: OpenFlags) -> OpenSpec {
        if filename.starts_with("json:") {
            return OpenSpec::from_json_filename(filename, None, flags);
        }
        let below = OpenSpec::from_filename(filename, None, flags).file;
        match below.filter(|_| filename.starts_with("blkdebug:")) {
            Some(filter) => OpenSpec::clone(&filter),
            None => OpenSpec::host_file(filename, flags),
        }
    }

    fn host_file(filename: &str, flags: OpenFlags) -> OpenSpec {
        let filename = filename.strip_prefix("file:").unwrap_or(filename);
        if let Some(null) = null_filename(filename) {
            return null.map_or_else(OpenSpec::failing, |aio| OpenSpec::new(DriverSpec::null(aio), flags));
        }
        if let Some((protocol, _)) = filename.split_once(':')
            && !protocol.contains('/')
        {
            if matches!(protocol, "nbd" | "nbd+tcp" | "nbd+unix") {
                return OpenSpec::nbd_by_name(filename, flags);
            }
            return match protocol_driver(protocol) {
                Some(driver) => not_simulated(driver),
                None => OpenSpec::failing(QmpError::generic(format!("Unknown protocol '{protocol}'"))),
            };
        }
        OpenSpec::new(DriverSpec::File { filename: filename.into(), locking: true, native: false }, flags)
    }

    /// What the description says now that the format has been found out.
    ///
    /// # Errors
    /// QEMU's complaint about a value.
    pub fn probed(&self, format: &str) -> Result<OpenSpec, QmpError> {
        let mut spec = OpenSpec { probed: true, to_be_probed: None, ..self.clone() };
        spec.driver = DriverSpec::format(format).expect("a format that can be probed");
        if let Some(node) = &self.to_be_probed {
            let read = with_drivers(&with_member(node, "driver", format.into()), self.flags)?;
            spec.driver = read.driver;
            spec.unknown = read.unknown;
            spec.backing = read.backing;
            spec.backing_options = read.backing_options;
        }
        Ok(spec)
    }

    /// The backing file that an image names, by its full name.
    #[must_use]
    pub fn backing_of(filename: &str, format: Option<&str>, overlay: &OpenSpec) -> OpenSpec {
        let options = overlay.backing_options.as_ref();
        if let Some(options) = options.filter(|options| filename.is_empty() || says_more(options)) {
            let flags = OpenFlags { rdwr: false, auto_read_only: false, ..inherited(overlay.flags) };
            return OpenSpec::backing_by_options(filename, format, options, flags);
        }
        let text = |key: &str| options.and_then(|options| options.get(key)).and_then(Json::as_str);
        let rdwr = text("read-only") == Some("off");
        let flags = OpenFlags { rdwr, auto_read_only: false, ..inherited(overlay.flags) };
        let mut spec = OpenSpec::from_filename(filename, format, flags);
        spec.node_name = text("node-name").map(Into::into).or(spec.node_name);
        match options.and_then(|options| options.get("backing")) {
            Some(Json::Str(name)) => spec.backing = BackingSpec::Spec(Arc::new(OpenSpec::reference(name.clone()))),
            backing => spec.backing_options = backing.cloned(),
        }
        spec
    }

    /// `BDRV_O_NATIVE_AIO`, for all below.
    pub fn access_natively(&mut self) {
        if let DriverSpec::File { native, .. } = &mut self.driver {
            *native = true;
        }
        if let Some(file) = &mut self.file {
            Arc::make_mut(file).access_natively();
        }
    }

    /// What is wrong with the protocol of a file name, of which a new image is to be made (`bdrv_find_protocol`).
    #[must_use]
    pub fn unknown_protocol(filename: &str) -> Option<QmpError> {
        let named = filename.starts_with("json:") || filename.starts_with("blkdebug:");
        if named || null_filename(filename).is_some() {
            return None;
        }
        OpenSpec::host_file(filename, OpenFlags::default()).error
    }

    /// The host file at the bottom.
    #[must_use]
    pub fn filename(&self) -> Option<&str> {
        match &self.driver {
            DriverSpec::File { filename, .. } => Some(filename),
            _ => self.file.as_deref().and_then(OpenSpec::filename),
        }
    }

    /// `blockdev-add` and `-blockdev`. `parent` is what an inline child inherits.
    #[must_use]
    pub fn from_options(options: &BlockdevOptions, parent: Option<OpenFlags>) -> OpenSpec {
        let flags = node_flags(options, parent);
        let below = Some(inherited(flags));
        // What is opened before the node knows its own options is active all the same.
        let first = Some(OpenFlags { inactive: parent.is_some_and(|flags| flags.inactive), ..inherited(flags) });
        let (driver, file, backing) = match &options.driver {
            DriverOptions::File(file) => {
                let locking = file.locking != Some(OnOffAuto::Off);
                let native = file.aio == Some(AioOption::Native);
                (DriverSpec::File { filename: file.filename.clone(), locking, native }, None, None)
            }
            DriverOptions::Null(null) => {
                let driver = DriverSpec::Null {
                    aio: null.aio,
                    size: null.size,
                    latency: Span::from_nanos(null.latency_ns.unwrap_or(0)),
                    read_zeroes: null.read_zeroes.unwrap_or(false),
                };
                (driver, None, None)
            }
            DriverOptions::Raw(raw) => {
                let offset = raw.offset.unwrap_or(0).unsigned_abs();
                (DriverSpec::Raw { offset, size: raw.size.map(i64::unsigned_abs) }, Some(child(&raw.file, first)), None)
            }
            DriverOptions::Qcow2(qcow2) => {
                let driver = DriverSpec::Qcow2 {
                    discard_request: qcow2.pass_discard_request,
                    discard_no_unref: qcow2.discard_no_unref == Some(true),
                    lazy_refcounts: qcow2.lazy_refcounts,
                    caches: [
                        qcow2.cache_size,
                        qcow2.l2_cache_size,
                        qcow2.l2_cache_entry_size,
                        qcow2.refcount_cache_size,
                    ]
                    .map(|size| size.map(i64::unsigned_abs)),
                };
                let backing = qcow2.backing.as_ref().map(|b| match b {
                    BlockdevRefOrNull::Null => BackingSpec::None,
                    BlockdevRefOrNull::Ref(r) => {
                        let inherits = OpenFlags { rdwr: false, auto_read_only: false, ..inherited(flags) };
                        BackingSpec::Spec(child(r, Some(inherits)))
                    }
                });
                (driver, Some(child(&qcow2.file, first)), backing)
            }
            DriverOptions::Blkdebug(blkdebug) => {
                // A filter's child inherits everything.
                let pass = Some(OpenFlags { no_backing: false, ..inherited(flags) });
                (blkdebug_spec(blkdebug), Some(child(&blkdebug.image, pass)), None)
            }
            DriverOptions::CopyBeforeWrite(cbw) => {
                let driver = DriverSpec::CopyBeforeWrite {
                    target: child(&cbw.target, below),
                    break_snapshot: cbw.on_cbw_error == Some(OnCbwError::BreakSnapshot),
                    min_cluster: cbw.min_cluster_size.unwrap_or(0),
                    timeout: Span::from_secs(cbw.cbw_timeout.unwrap_or(0).into()),
                    bitmap: cbw.bitmap.clone(),
                };
                (driver, Some(child(&cbw.file, first)), None)
            }
            DriverOptions::SnapshotAccess(file) => (DriverSpec::SnapshotAccess, Some(child(file, first)), None),
            DriverOptions::CopyOnRead(cor) => {
                (DriverSpec::CopyOnRead { bottom: cor.bottom.clone() }, Some(child(&cor.file, first)), None)
            }
            DriverOptions::Throttle(throttle) => {
                let driver = DriverSpec::Throttle { group: throttle.throttle_group.clone() };
                (driver, Some(child(&throttle.file, first)), None)
            }
            DriverOptions::Compress(file) => (DriverSpec::Compress, Some(child(file, first)), None),
            DriverOptions::Quorum(quorum) => {
                let children = quorum.children.iter().map(|one| child(one, below)).collect();
                let config = QuorumConfig {
                    threshold: quorum.vote_threshold,
                    blkverify: quorum.blkverify.unwrap_or(false),
                    rewrite: quorum.rewrite_corrupted.unwrap_or(false),
                    fifo: quorum.read_pattern == Some(QuorumReadPattern::Fifo),
                };
                (DriverSpec::Quorum { children, config }, None, None)
            }
            DriverOptions::Blkverify(blkverify) => {
                let driver = DriverSpec::Blkverify { test: child(&blkverify.test, below) };
                // A filter's child inherits everything.
                let pass = Some(OpenFlags { no_backing: false, ..inherited(flags) });
                (driver, Some(child(&blkverify.raw, pass)), None)
            }
            DriverOptions::Nbd(nbd) => (DriverSpec::Nbd(Box::new(nbd_config(nbd))), None, None),
            DriverOptions::Preallocate(_) => return not_simulated("preallocate"),
            DriverOptions::Other(name, _) => {
                return OpenSpec { explicit: RuntimeOptions::explicit(options), ..not_simulated(name) };
            }
        };
        let explicit = RuntimeOptions::explicit(options);
        OpenSpec {
            error: unsupported::node_option(options).map(unsupported::not_simulated),
            node_name: options.node_name.clone(),
            detect_zeroes: match options.detect_zeroes {
                None | Some(DetectZeroesOption::Off) => DetectZeroes::Off,
                Some(DetectZeroesOption::On) => DetectZeroes::On,
                Some(DetectZeroesOption::Unmap) => DetectZeroes::Unmap,
            },
            file,
            backing: backing.unwrap_or(BackingSpec::FromImage),
            given: match &driver {
                DriverSpec::Nbd(_) => super::strong_options::strong_of_nested("nbd", &options.given),
                _ => super::strong_options::strong_options(&options.driver, parent.is_some()),
            },
            refused: explicit.out_of_range(&driver),
            explicit,
            unknown: RuntimeOptions::empty(options).map(|name| (name, false)),
            ..OpenSpec::new(driver, flags)
        }
    }
}

/// `null_co_parse_filename`, `null_aio_parse_filename`: whether it is the latter, if it is one of them.
pub(super) fn null_filename(name: &str) -> Option<Result<bool, QmpError>> {
    let (driver, rest) = name.split_once(':').filter(|(driver, _)| matches!(*driver, "null-co" | "null-aio"))?;
    if rest != "//" {
        let text = format!("The only allowed filename for this driver is '{driver}://'");
        return Some(Err(QmpError::generic(text)));
    }
    Some(Ok(driver == "null-aio"))
}

/// The driver of a protocol in a file name that QEMU has, as Debian builds it, and the model lacks (`bdrv_find_protocol`).
fn protocol_driver(protocol: &str) -> Option<&'static str> {
    Some(match protocol {
        "fat" => "vvfat",
        "ftp" => "ftp",
        "ftps" => "ftps",
        "gluster" | "gluster+tcp" | "gluster+unix" => "gluster",
        "host_cdrom" => "host_cdrom",
        "host_device" => "host_device",
        "http" => "http",
        "https" => "https",
        "iscsi" | "iser" => "iscsi",
        "nfs" => "nfs",
        "nvme" => "nvme",
        "rbd" => "rbd",
        "ssh" => "ssh",
        _ => return None,
    })
}

fn not_simulated(name: &str) -> OpenSpec {
    OpenSpec::failing(QmpError::generic(format!("not simulated: {name}")))
}

fn child(reference: &BlockdevRef, parent: Option<OpenFlags>) -> Arc<OpenSpec> {
    Arc::new(match reference {
        BlockdevRef::Reference(name) => OpenSpec::reference(name.clone()),
        BlockdevRef::Definition(options) => OpenSpec::from_options(options, parent),
    })
}

fn node_flags(options: &BlockdevOptions, parent: Option<OpenFlags>) -> OpenFlags {
    let base = parent.unwrap_or(OpenFlags { rdwr: true, ..OpenFlags::default() });
    let cache = options.cache.unwrap_or(CacheOptions { direct: None, no_flush: None });
    OpenFlags {
        rdwr: options.read_only.map_or(base.rdwr, |ro| !ro),
        unmap: options.discard.map_or(base.unmap, |d| d == DiscardOption::Unmap),
        no_flush: cache.no_flush.unwrap_or(base.no_flush),
        nocache: cache.direct.unwrap_or(base.nocache),
        no_backing: false,
        force_share: options.force_share.unwrap_or(base.force_share),
        auto_read_only: options.auto_read_only.unwrap_or(base.auto_read_only),
        copy_on_read: base.copy_on_read,
        inactive: base.inactive || options.active == Some(false),
    }
}
