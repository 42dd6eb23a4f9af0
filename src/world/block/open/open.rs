//! Opening nodes: `blockdev-add` trees, file names, probing, backing files (`block.c:bdrv_open_inherit`).

use super::reopen_options::UNMAP_WITHOUT_DISCARD;
use super::runtime_options::RuntimeOptions;
use super::spec::{DriverSpec, OpenSpec};
use crate::base::Kept;
use crate::base::errno::Errno;
use crate::base::units::{BDRV_MAX_LENGTH, GIB, SECTOR};
use crate::block::event::BlkdebugEvent;
use crate::block::probe::probe;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::{BackendId, Member, NodeId};
use crate::world::block::backend::BackendFrame;
use crate::world::block::driver::Driver;
use crate::world::block::driver::blkdebug::BlkdebugDriver;
use crate::world::block::driver::blkdebug::BlkdebugFrame;
use crate::world::block::driver::copies::Fans;
use crate::world::block::driver::copies::quorum::Quorum;
use crate::world::block::driver::copy_before_write::CbwState;
use crate::world::block::driver::copy_on_read::CopyOnRead;
use crate::world::block::driver::null::NullDriver;
use crate::world::block::driver::raw::RawDriver;
use crate::world::block::edges::EdgesFrame;
use crate::world::block::edges::Role;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::{DetectZeroes, Node, OpenFlags};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::IoFrame;
use crate::world::block::io::request::IoFlags;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// A node that is being opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Opening {
    /// How.
    pub spec: Arc<OpenSpec>,
    /// Made by `bdrv_new`, without a driver yet.
    pub bs: NodeId,
    /// The node below, opened first for probing.
    pub file_bs: Option<NodeId>,
    /// The backend that probes it.
    pub probe: Option<BackendId>,
}

/// What comes next for a node that is being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenStage {
    /// The node below was opened, or not.
    FileOpened,
    /// The backend for probing has it.
    ProbeAttached,
    /// Its first bytes were read.
    Probed,
    /// Name it and attach its child.
    Driver,
    /// A filter's own child was opened.
    ChildOpened,
    /// The child was attached.
    ChildAttached,
    /// A quorum's child of that number was opened.
    CopyOpened(usize),
    /// It was attached.
    CopyAttached(usize),
    /// The target of a copy-before-write filter was opened.
    TargetOpened,
    /// It was attached.
    TargetAttached,
    /// The filter is ready.
    CbwOpened,
    /// An NBD server answered, or did not.
    NbdOpened,
    /// The format's header was read.
    FormatOpened,
    /// The backend for probing is gone.
    ProbeGone,
    /// The backing node was opened.
    BackingOpened,
    /// The backing node was attached.
    BackingAttached,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum OpenFrame {
    BdrvOpen(Arc<OpenSpec>),
    Open(Box<Opening>, OpenStage),
    OpenDone(Box<Opening>),
    OpenFail(Box<Opening>, QmpError),
    OpenFormatFailed(Box<Opening>, QmpError),
    OpenBackingFile(NodeId),
    OpenedBackingFile(NodeId),
}

impl OpenFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            OpenFrame::BdrvOpen(spec) => w.bdrv_open(&spec),
            OpenFrame::Open(opening, stage) => w.open_stage(opening, stage),
            OpenFrame::OpenDone(opening) => w.open_done(opening),
            OpenFrame::OpenFail(opening, err) => w.open_fail(&opening, err),
            OpenFrame::OpenBackingFile(node) => w.open_backing_file(node),
            OpenFrame::OpenedBackingFile(node) => w.opened_backing_file(node),
            OpenFrame::OpenFormatFailed(opening, err) => w.open_format_failed(opening, err),
        }
    }
}

impl World {
    /// `bdrv_open_inherit`. Leaves `Val::Node` with a reference for the caller.
    fn bdrv_open(&mut self, spec: &Arc<OpenSpec>) -> Flow {
        if let Some(name) = &spec.reference {
            let found = self.lookup_bs(name);
            if let Ok(bs) = &found {
                self.bdrv_ref(*bs);
            }
            return self.ret(Val::Node(found));
        }
        let mut node = Node::new();
        node.flags = spec.flags;
        node.detect_zeroes = spec.detect_zeroes;
        node.explicit_options = Kept::new(spec.explicit.clone());
        node.options = Kept::new(RuntimeOptions::opened(&spec.explicit, spec.flags));
        let bs = self.bdrv_new(node);
        let opening = Box::new(Opening { spec: spec.clone(), bs, file_bs: None, probe: None });
        if let Some(err) = &spec.error {
            // The node is there before its options are looked at, and goes as any other does.
            return self.open_failed(&opening, err.clone());
        }
        match &spec.file {
            Some(file) if spec.driver.opens_file_first() => {
                let file = file.clone();
                self.seq([OpenFrame::BdrvOpen(file).into(), OpenFrame::Open(opening, OpenStage::FileOpened).into()])
            }
            _ => self.seq([OpenFrame::Open(opening, OpenStage::Driver).into()]),
        }
    }

    /// One stage of opening a node.
    fn open_stage(&mut self, o: Box<Opening>, stage: OpenStage) -> Flow {
        match stage {
            OpenStage::FileOpened => self.open_file_opened(o),
            OpenStage::ProbeAttached => self.open_probe_attached(o),
            OpenStage::Probed => self.open_probed(o),
            OpenStage::Driver => self.open_driver(o),
            OpenStage::ChildOpened => self.open_child_opened(o),
            OpenStage::ChildAttached => self.open_child_attached(o),
            OpenStage::TargetOpened => self.open_target_opened(o),
            OpenStage::TargetAttached => self.open_target_attached(o),
            OpenStage::CopyOpened(index) => self.open_copy_opened(o, index),
            OpenStage::CopyAttached(index) => match self.take_done() {
                Ok(()) => self.open_copies(o, index + 1),
                Err(err) => self.driver_open_failed(o, err),
            },
            OpenStage::CbwOpened => match self.take_done() {
                Ok(()) => self.open_done(o),
                Err(err) => self.driver_open_failed(o, err),
            },
            OpenStage::NbdOpened => self.open_nbd_opened(o),
            OpenStage::FormatOpened => self.open_format_opened(o),
            OpenStage::ProbeGone => self.open_backing(o),
            OpenStage::BackingOpened => self.open_backing_opened(o),
            OpenStage::BackingAttached => self.open_backing_attached(o),
        }
    }

    pub(super) fn open_failed(&mut self, o: &Opening, err: QmpError) -> Flow {
        self.push(Frame::Give(Box::new(Val::Node(Err(err)))));
        self.push(GraphFrame::BdrvUnref(o.bs).into());
        if let Some(probe) = o.probe {
            self.push(BackendFrame::BlkUnref(probe).into());
        }
        Flow::Go
    }

    pub(super) fn take_node(&mut self) -> Result<NodeId, QmpError> {
        self.take()
    }

    fn open_file_opened(&mut self, mut o: Box<Opening>) -> Flow {
        match self.take_node() {
            Err(err) => self.open_failed(&o, err),
            Ok(file_bs) => {
                o.file_bs = Some(file_bs);
                let probe = self.blk_new("".into(), 0, perm::ALL);
                o.probe = Some(probe);
                self.seq([
                    BackendFrame::BlkInsertBs(probe, file_bs).into(),
                    Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(file_bs).into())),
                    OpenFrame::Open(o, OpenStage::ProbeAttached).into(),
                ])
            }
        }
    }

    fn open_probe_attached(&mut self, o: Box<Opening>) -> Flow {
        if let Err(err) = self.take_done() {
            return self.open_failed(&o, err);
        }
        if matches!(o.spec.driver, DriverSpec::Probe) {
            let file = o.file_bs.expect("just opened");
            let bytes = self.bdrv_getlength(file).min(2048);
            return self.seq([
                Frame::RunCo(Box::new(IoFrame::Preadv { node: file, offset: 0, bytes, flags: IoFlags::NONE }.into())),
                OpenFrame::Open(o, OpenStage::Probed).into(),
            ]);
        }
        self.open_driver(o)
    }

    /// `find_image_format`
    fn open_probed(&mut self, mut o: Box<Opening>) -> Flow {
        let data = match self.take_data() {
            Ok(data) => data,
            Err(errno) => {
                let text = format!("Could not read image for determining its format: {errno}");
                return self.open_failed(&o, QmpError::generic(text));
            }
        };
        let format = probe(&data.to_bytes());
        if !matches!(format, "raw" | "qcow2") {
            return self.open_failed(&o, super::unsupported::not_simulated(format));
        }
        match o.spec.probed(format) {
            Ok(spec) => o.spec = Arc::new(spec),
            Err(err) => return self.open_failed(&o, err),
        }
        self.open_driver(o)
    }

    /// `bdrv_open_common` up to the driver's children.
    fn open_driver(&mut self, mut o: Box<Opening>) -> Flow {
        let bs = o.bs;
        let spec = o.spec.clone();
        if self.wants_host_file(&spec.driver) {
            return self.seq([OpenFrame::Open(o, OpenStage::Driver).into()]);
        }
        if let Err(text) = self.assign_node_name(bs, spec.node_name.as_deref()) {
            return self.open_failed(&o, QmpError::generic(text));
        }
        self.graph.nodes[bs].spec = Some(Kept::new(spec.clone()));
        let node = &mut self.graph.nodes[bs];
        if node.flags.copy_on_read {
            if !node.flags.rdwr {
                return self.open_failed(&o, QmpError::generic("Can't use copy-on-read on read-only device"));
            }
            node.copy_on_read += 1;
        }
        if spec.detect_zeroes == DetectZeroes::Unmap && !spec.flags.unmap {
            return self.driver_open_failed(o, QmpError::generic(UNMAP_WITHOUT_DISCARD));
        }
        if let Some(wrong) = spec.refused.as_ref().filter(|_| !matches!(spec.driver, DriverSpec::Qcow2 { .. })) {
            let err = QmpError::generic(wrong.text(self.quirks));
            return self.driver_open_failed(o, err);
        }
        match &spec.driver {
            DriverSpec::Probe => unreachable!("probing comes first"),
            DriverSpec::File { filename, .. } if filename.is_empty() => {
                self.driver_open_failed(o, QmpError::generic("The 'file' block driver requires a file name"))
            }
            DriverSpec::File { filename, locking, native } => match self.open_host_file(bs, filename, *locking) {
                Ok(()) if *native && !spec.flags.nocache => {
                    let text = "aio=native was specified, but it requires cache.direct=on, which was not specified.";
                    self.driver_open_failed(o, QmpError::generic(text))
                }
                Ok(()) => self.open_done(o),
                Err(err) => self.driver_open_failed(o, err),
            },
            DriverSpec::Null { latency, .. } if i64::try_from(latency.as_nanos()).is_err() => {
                self.driver_open_failed(o, QmpError::generic("latency-ns is invalid"))
            }
            DriverSpec::Null { aio, size, latency, read_zeroes } => {
                let null = NullDriver { aio: *aio, latency: *latency, read_zeroes: *read_zeroes };
                let node = &mut self.graph.nodes[bs];
                // A part of a sector counts as one.
                node.size = size.map_or(GIB, i64::unsigned_abs).next_multiple_of(512);
                node.driver = Some(Driver::Null(null));
                self.open_done(o)
            }
            DriverSpec::Raw { offset, size } => {
                let raw = RawDriver { offset: *offset, size: *size, probed: spec.probed };
                let plain = *offset == 0 && size.is_none();
                self.graph.nodes[bs].driver = Some(Driver::Raw(raw));
                let role = if plain { Role::RawImage } else { Role::Data };
                self.open_attach_file(o, role)
            }
            DriverSpec::Qcow2 { .. } => {
                self.graph.nodes[bs].driver = Some(Driver::Qcow2(Box::default()));
                self.open_attach_file(o, Role::Image)
            }
            DriverSpec::CopyBeforeWrite { break_snapshot, timeout, .. } => {
                let state = CbwState { break_snapshot: *break_snapshot, timeout: *timeout, ..CbwState::new(0, false) };
                self.graph.nodes[bs].driver = Some(Driver::Cbw(Box::new(state)));
                self.open_attach_file(o, Role::Filtered)
            }
            DriverSpec::SnapshotAccess => {
                self.graph.nodes[bs].driver = Some(Driver::SnapshotAccess);
                self.open_attach_file(o, Role::Data)
            }
            DriverSpec::Throttle { group } => {
                self.graph.nodes[bs].driver = Some(Driver::Throttle(group.clone()));
                self.open_attach_file(o, Role::Filtered)
            }
            DriverSpec::CopyOnRead { .. } => {
                self.graph.nodes[bs].driver = Some(Driver::CopyOnRead(CopyOnRead::default()));
                self.open_attach_file(o, Role::Filtered)
            }
            DriverSpec::Nbd(config) => {
                let config = config.clone();
                self.push(OpenFrame::Open(o, OpenStage::NbdOpened).into());
                self.nbd_open(bs, &config)
            }
            DriverSpec::Compress => {
                self.graph.nodes[bs].driver = Some(Driver::Compress);
                self.open_attach_file(o, Role::Filtered)
            }
            DriverSpec::Blkverify { .. } => {
                self.graph.nodes[bs].driver = Some(Driver::Blkverify(Fans::default()));
                let raw = spec.file.clone().expect("blkverify has a raw node");
                o.file_bs = None;
                self.seq([OpenFrame::BdrvOpen(raw).into(), OpenFrame::Open(o, OpenStage::ChildOpened).into()])
            }
            DriverSpec::Quorum { children, config } => {
                if let Some(text) = Quorum::refused(*config, children.len()) {
                    return self.driver_open_failed(o, QmpError::generic(text));
                }
                self.graph.nodes[bs].driver = Some(Driver::Quorum(Box::new(Quorum::new(*config))));
                self.open_copies(o, 0)
            }
            DriverSpec::Blkdebug { rules, limits, take, unshare, config, .. } => {
                let engine = match self.blkdebug_engine(rules, config.as_ref(), *limits) {
                    Ok(engine) => engine,
                    Err(text) => return self.driver_open_failed(o, QmpError::generic(text)),
                };
                let driver = BlkdebugDriver {
                    engine,
                    take_child_perms: *take,
                    unshare_child_perms: *unshare,
                    config: config.clone(),
                };
                self.graph.nodes[bs].driver = Some(Driver::Blkdebug(Box::new(driver)));
                let image = spec.file.clone().expect("blkdebug has an image");
                o.file_bs = None;
                self.seq([OpenFrame::BdrvOpen(image).into(), OpenFrame::Open(o, OpenStage::ChildOpened).into()])
            }
        }
    }

    /// Notes in whose options a node was described; one that was named by another is its own.
    pub(super) fn inherits(&mut self, bs: NodeId, parent: NodeId, spec: Option<&OpenSpec>) {
        if spec.is_none_or(|spec| spec.reference.is_none()) {
            self.graph.nodes[bs].inherits_from = Some(parent);
        }
    }

    fn open_attach_file(&mut self, o: Box<Opening>, role: Role) -> Flow {
        let file = o.file_bs.expect("the file was opened first");
        let parent = o.bs;
        self.inherits(file, parent, o.spec.file.as_deref());
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            EdgesFrame::AttachToNode { parent, name: "file", role, bs: file }.into(),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
            OpenFrame::Open(o, OpenStage::ChildAttached).into(),
        ])
    }

    fn open_child_opened(&mut self, mut o: Box<Opening>) -> Flow {
        match self.take_node() {
            Err(err) => self.driver_open_failed(o, err),
            Ok(image) => {
                o.file_bs = Some(image);
                let parent = o.bs;
                self.inherits(image, parent, o.spec.file.as_deref());
                let name = if matches!(o.spec.driver, DriverSpec::Blkverify { .. }) { "raw" } else { "image" };
                self.seq([
                    GraphLockFrame::GraphWrlock.into(),
                    EdgesFrame::AttachToNode { parent, name, role: Role::Filtered, bs: image }.into(),
                    Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
                    Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(image).into())),
                    OpenFrame::Open(o, OpenStage::ChildAttached).into(),
                ])
            }
        }
    }

    /// What QEMU prints where it may write to an image that it takes for a raw one.
    fn warn_of_guess(&mut self, bs: NodeId) {
        let name = self.filename_of(self.below(bs));
        self.console_error(&format!(
            "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         Automatically detecting the format is \
             dangerous for raw images, write operations on block 0 will be restricted.\n         Specify the 'raw' format explicitly to \
             remove the restrictions."
        ));
    }

    fn open_child_attached(&mut self, o: Box<Opening>) -> Flow {
        if let Err(err) = self.take_done() {
            return self.driver_open_failed(o, err);
        }
        let bs = o.bs;
        match self.graph.nodes[bs].drv() {
            Driver::Raw(raw) => {
                let raw = raw.clone();
                if raw.probed && self.graph.nodes[bs].flags.rdwr {
                    self.warn_of_guess(bs);
                }
                match self.open_raw(bs, &raw) {
                    Ok(()) => self.open_done(o),
                    Err(text) => self.driver_open_failed(o, QmpError::generic(text)),
                }
            }
            Driver::Blkdebug(_) => self.open_blkdebug(o),
            Driver::Cbw(_) => {
                let DriverSpec::CopyBeforeWrite { target, .. } = &o.spec.driver else { unreachable!("it opens one") };
                let target = target.clone();
                self.seq([OpenFrame::BdrvOpen(target).into(), OpenFrame::Open(o, OpenStage::TargetOpened).into()])
            }
            Driver::Blkverify(_) => {
                let DriverSpec::Blkverify { test } = &o.spec.driver else { unreachable!("it opens one") };
                let test = test.clone();
                self.seq([OpenFrame::BdrvOpen(test).into(), OpenFrame::Open(o, OpenStage::TargetOpened).into()])
            }
            Driver::Compress => match self.compress_open(bs) {
                Ok(()) => self.open_done(o),
                Err(text) => self.driver_open_failed(o, QmpError::generic(text)),
            },
            Driver::Throttle(group) => {
                let group = group.clone();
                if self.throttling.group(&group).is_none() {
                    let text = format!("Throttle group '{group}' does not exist");
                    return self.driver_open_failed(o, QmpError::generic(text));
                }
                self.graph.nodes[bs].size = self.bdrv_getlength(self.below(bs));
                self.throttle_register(Member::Node(bs), &group);
                self.open_done(o)
            }
            Driver::SnapshotAccess => {
                self.graph.nodes[bs].size = self.bdrv_getlength(self.below(bs));
                self.open_done(o)
            }
            Driver::CopyOnRead(_) => {
                let DriverSpec::CopyOnRead { bottom } = &o.spec.driver else { unreachable!("it has a bottom or none") };
                let bottom = bottom.clone();
                match self.cor_open(bs, bottom.as_deref()) {
                    Ok(()) => self.open_done(o),
                    Err(err) => self.driver_open_failed(o, err),
                }
            }
            Driver::Qcow2(_) => {
                let open = self.qcow2_open_frame(bs);
                self.seq([Frame::RunCo(Box::new(open)), OpenFrame::Open(o, OpenStage::FormatOpened).into()])
            }
            other => unreachable!("{other:?} has no child"),
        }
    }

    /// The end of `nbd_open`.
    fn open_nbd_opened(&mut self, o: Box<Opening>) -> Flow {
        let bs = o.bs;
        match self.take_done() {
            Ok(()) => {
                self.nbd_opened(bs);
                let size = self.nbd(bs).map_or(0, |nbd| nbd.info.size);
                self.graph.nodes[bs].size = size.next_multiple_of(SECTOR);
                self.open_done(o)
            }
            Err(err) => {
                let (None, Some(errno)) = (Some(&err.desc).filter(|desc| !desc.is_empty()), err.errno) else {
                    return self.driver_open_failed(o, err);
                };
                let text = match o.spec.by_name.as_deref() {
                    Some(name) => format!("Could not open '{name}': {errno}"),
                    None => format!("Could not open image: {errno}"),
                };
                self.driver_open_failed(o, QmpError::generic(text))
            }
        }
    }

    fn open_blkdebug(&mut self, o: Box<Opening>) -> Flow {
        let bs = o.bs;
        let image = self.below(bs);
        let align = self.graph.nodes[image].bl.request_alignment;
        let size = self.bdrv_getlength(image);
        self.graph.nodes[bs].size = size;
        let driver = self.blkdebug_mut(bs).expect("it is a blkdebug");
        if let Err(text) = driver.engine.limits().check(align) {
            return self.driver_open_failed(o, QmpError::generic(text));
        }
        self.seq([
            Frame::RunCo(Box::new(BlkdebugFrame::BlkdebugEvent { node: bs, event: BlkdebugEvent::None }.into())),
            OpenFrame::OpenDone(o).into(),
        ])
    }

    fn open_format_opened(&mut self, o: Box<Opening>) -> Flow {
        match self.take_done() {
            Ok(()) => self.open_done(o),
            Err(err) => {
                // Measured: a format that refuses its image takes the graph lock once more than a protocol.
                self.push(OpenFrame::OpenFormatFailed(o, err).into());
                self.seq([GraphLockFrame::LockGraph(1).into()])
            }
        }
    }

    /// A format refused its image.
    fn open_format_failed(&mut self, o: Box<Opening>, err: QmpError) -> Flow {
        self.driver_open_failed(o, err)
    }

    /// `bdrv_open_driver`, where the driver refuses: its children go under the graph lock, whether it has any or not.
    pub(super) fn driver_open_failed(&mut self, o: Box<Opening>, err: QmpError) -> Flow {
        let bs = o.bs;
        self.nbd_close(bs);
        self.graph.nodes[bs].driver = None;
        self.push(OpenFrame::OpenFail(o, err).into());
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            GraphFrame::UnrefFile(bs).into(),
            GraphLockFrame::GraphWrunlock.into(),
        ])
    }

    /// The end of an opening that failed.
    fn open_fail(&mut self, o: &Opening, err: QmpError) -> Flow {
        self.open_failed(o, err)
    }

    /// The end of `bdrv_open_common`; the backend for probing goes.
    pub(super) fn open_done(&mut self, mut o: Box<Opening>) -> Flow {
        let bs = o.bs;
        let null_size =
            if let DriverSpec::Null { size, .. } = &o.spec.driver { size.map(i64::unsigned_abs) } else { None };
        // `bdrv_co_refresh_total_sectors`
        if null_size.unwrap_or(self.graph.nodes[bs].size) > BDRV_MAX_LENGTH {
            let text = format!("Could not refresh total sector count: {}", Errno::EFBIG);
            // The driver is open, and is closed with the node.
            return self.open_failed(&o, QmpError::generic(text));
        }
        self.refresh_limits(bs);
        match o.probe.take() {
            Some(probe) => {
                self.seq([BackendFrame::BlkUnref(probe).into(), OpenFrame::Open(o, OpenStage::ProbeGone).into()])
            }
            None => self.open_backing(o),
        }
    }

    /// The end of `bdrv_open_inherit`: options that nobody took.
    pub(super) fn open_end(&mut self, o: &Opening) -> Flow {
        let Some((key, protocol)) = &o.spec.unknown else { return self.ret(Val::Node(Ok(o.bs))) };
        let driver = self.graph.nodes[o.bs].drv();
        // A driver that was named may be a protocol too (`bdrv_fill_options`).
        let protocol = *protocol || driver.has_protocol_name();
        let driver = driver.format_name();
        let text = match protocol {
            true => format!("Block protocol '{driver}' doesn't support the option '{key}'"),
            false => format!("Block format '{driver}' does not support the option '{key}'"),
        };
        self.open_failed(o, QmpError::generic(text))
    }
}

/// Flags of a node as a child inherits them (`bdrv_inherited_options`).
#[must_use]
pub fn inherited(parent: OpenFlags) -> OpenFlags {
    OpenFlags { unmap: true, no_backing: false, copy_on_read: false, ..parent }
}

/// The default of `detect-zeroes`.
pub const NO_DETECTION: DetectZeroes = DetectZeroes::Off;
