//! Media of removable drives: trays, `eject`, `blockdev-change-medium` and its parts (`block/qapi-system.c`).

use crate::base::Json;
use crate::qmp::error::QmpError;
use crate::qmp::types::{ChangeMedium, DriveName};
use crate::world::World;
use crate::world::aio::step::Cond;
use crate::world::arena::{BackendId, NodeId};
use crate::world::block::backend::BackendFrame;
use crate::world::block::drain::DrainFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::{DetectZeroes, OpenFlags};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::spec::OpenSpec;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// What is still to be done with a drive, in this order; what is done is taken out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MediumOp {
    name: DriveName,
    blk: BackendId,
    /// Open the tray first, with or without force.
    open: Option<bool>,
    remove: bool,
    insert: Option<NodeId>,
    inserted: bool,
    close: bool,
    /// A reference that is given back in the end.
    held: Option<NodeId>,
}

impl DriveName {
    fn text(&self) -> Arc<str> {
        self.id.clone().or_else(|| self.device.clone()).unwrap_or_default()
    }

    /// Where QEMU prefers the other one.
    fn device_first(&self) -> Arc<str> {
        self.device.clone().or_else(|| self.id.clone()).unwrap_or_default()
    }
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum MediumFrame {
    MediumOpened(Box<MediumOp>),
    MediumStep(Box<MediumOp>),
    MediumGone(BackendId),
}

impl MediumFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            MediumFrame::MediumOpened(op) => w.medium_opened(op),
            MediumFrame::MediumStep(op) => w.medium_step(op),
            MediumFrame::MediumGone(blk) => w.medium_gone(blk),
        }
    }
}

impl World {
    fn medium_op(&self, name: &DriveName) -> Result<MediumOp, QmpError> {
        let blk = self.blk_of(name.device.as_ref(), name.id.as_ref())?;
        let (open, insert, held) = (None, None, None);
        Ok(MediumOp { name: name.clone(), blk, open, remove: false, insert, inserted: false, close: false, held })
    }

    fn medium_run(&mut self, op: Result<MediumOp, QmpError>) -> Flow {
        match op {
            Ok(op) => self.medium_step(Box::new(op)),
            Err(err) => self.ret(Val::Done(Err(err))),
        }
    }

    /// `qmp_eject`. Leaves `Val::Done`.
    pub(in crate::world) fn eject(&mut self, name: &DriveName, force: bool) -> Flow {
        let op = self.medium_op(name).map(|op| MediumOp { open: Some(force), remove: true, ..op });
        self.medium_run(op)
    }

    /// `qmp_blockdev_open_tray`. Leaves `Val::Done`.
    pub(in crate::world) fn open_tray(&mut self, name: &DriveName, force: bool) -> Flow {
        let done = self.medium_op(name).and_then(|op| self.do_open_tray(&op, force));
        self.ret(Val::Done(done))
    }

    /// `qmp_blockdev_close_tray`. Leaves `Val::Done`.
    pub(in crate::world) fn close_tray(&mut self, name: &DriveName) -> Flow {
        let op = self.medium_op(name).map(|op| MediumOp { close: true, ..op });
        self.medium_run(op)
    }

    /// `qmp_blockdev_remove_medium`. Leaves `Val::Done`.
    pub(in crate::world) fn remove_medium(&mut self, name: &DriveName) -> Flow {
        let op = self.medium_op(name).map(|op| MediumOp { remove: true, ..op });
        self.medium_run(op)
    }

    /// `qmp_blockdev_insert_medium`. Leaves `Val::Done`.
    pub(in crate::world) fn insert_medium(&mut self, name: &DriveName, node: &str) -> Flow {
        let op = self.medium_op(name).and_then(|op| {
            let Some(bs) = self.graph.find_node(node) else {
                return Err(QmpError::generic(format!("Node '{node}' not found")));
            };
            if self.graph.has_blk(bs) {
                return Err(QmpError::generic(format!("Node '{node}' is already in use")));
            }
            Ok(MediumOp { insert: Some(bs), ..op })
        });
        self.medium_run(op)
    }

    /// `qmp_blockdev_change_medium`. Leaves `Val::Done`.
    pub(in crate::world) fn change_medium(&mut self, args: &ChangeMedium) -> Flow {
        let op = match self.medium_op(&args.drive) {
            Ok(op) => op,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        let root = self.graph.blk_bs(op.blk).map(|bs| self.graph.nodes[bs].flags);
        let before = root.unwrap_or(self.graph.backends[op.blk].last_flags);
        let rdwr = args.read_write().unwrap_or(before.rdwr);
        let flags = OpenFlags { rdwr, no_backing: false, auto_read_only: false, force_share: false, ..before };
        let mut spec = OpenSpec::from_filename(&args.filename, args.format.as_deref(), flags);
        spec.detect_zeroes = DetectZeroes::Off;
        let op = MediumOp { open: Some(args.force.unwrap_or(false)), remove: true, close: true, ..op };
        self.seq([OpenFrame::BdrvOpen(Arc::new(spec)).into(), MediumFrame::MediumOpened(Box::new(op)).into()])
    }

    /// The new medium was opened, or not.
    fn medium_opened(&mut self, mut op: Box<MediumOp>) -> Flow {
        let opened: Result<NodeId, QmpError> = self.take();
        match opened {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(bs) => {
                (op.insert, op.held) = (Some(bs), Some(bs));
                self.medium_step(op)
            }
        }
    }

    /// The next thing to do. Leaves `Val::Done` in the end.
    fn medium_step(&mut self, mut op: Box<MediumOp>) -> Flow {
        if let Some(force) = op.open.take()
            && let Err(err) = self.do_open_tray(&op, force)
        {
            return self.medium_end(&op, Err(err));
        }
        if std::mem::take(&mut op.remove) {
            return self.medium_remove(op);
        }
        if let Some(bs) = op.insert.take() {
            if let Some(text) = self.no_insertion(op.blk) {
                return self.medium_end(&op, Err(QmpError::generic(text)));
            }
            op.inserted = true;
            return self.seq([BackendFrame::BlkInsertBs(op.blk, bs).into(), MediumFrame::MediumStep(op).into()]);
        }
        if std::mem::take(&mut op.inserted) {
            if let Err(err) = self.take_done() {
                return self.medium_end(&op, Err(err));
            }
            if !self.graph.backends[op.blk].tray {
                self.medium_moved(op.blk, true);
            }
        }
        if op.close {
            let backend = &self.graph.backends[op.blk];
            if !self.is_removable(op.blk) {
                let text = format!("Device '{}' is not removable", op.name.device_first());
                return self.medium_end(&op, Err(QmpError::generic(text)));
            }
            if backend.tray && backend.tray_open {
                self.medium_moved(op.blk, true);
            }
        }
        self.medium_end(&op, Ok(()))
    }

    fn medium_end(&mut self, op: &MediumOp, done: Result<(), QmpError>) -> Flow {
        match op.held {
            Some(bs) => {
                self.push(Frame::Give(Box::new(Val::Done(done))));
                self.seq([GraphFrame::BdrvUnref(bs).into()])
            }
            None => self.ret(Val::Done(done)),
        }
    }

    /// `blk_dev_has_removable_media`
    fn is_removable(&self, blk: BackendId) -> bool {
        let backend = &self.graph.backends[blk];
        backend.dev.is_none() || backend.removable
    }

    /// `do_open_tray`. That there is no tray (`-ENOSYS`) matters to none of its callers. No guest runs that could lock a medium.
    fn do_open_tray(&mut self, op: &MediumOp, _force: bool) -> Result<(), QmpError> {
        let backend = &self.graph.backends[op.blk];
        let name = op.name.text();
        if !self.is_removable(op.blk) {
            return Err(QmpError::generic(format!("Device '{name}' is not removable")));
        }
        if backend.tray && !backend.tray_open {
            self.medium_moved(op.blk, false);
        }
        Ok(())
    }

    /// `blk_dev_change_media_cb`
    fn medium_moved(&mut self, blk: BackendId, load: bool) {
        if !self.graph.backends[blk].tray {
            self.renew_device_perm(blk, load);
            return;
        }
        let backend = &mut self.graph.backends[blk];
        if backend.tray_open != load {
            return;
        }
        backend.tray_open = !load;
        let data = Json::dict(vec![
            ("device", Json::Str(backend.name.clone())),
            ("id", Json::Str(backend.dev.clone().unwrap_or_default())),
            ("tray-open", (!load).into()),
        ]);
        self.emit("DEVICE_TRAY_MOVED", data);
    }

    /// `blockdev_remove_medium`
    fn medium_remove(&mut self, op: Box<MediumOp>) -> Flow {
        let backend = &self.graph.backends[op.blk];
        let (attached, name) = (backend.dev.is_some(), op.name.device_first());
        let text = if attached && !backend.removable {
            Some(format!("Device '{name}' is not removable"))
        } else if attached && backend.tray && !backend.tray_open {
            Some(format!("Tray of device '{name}' is not open"))
        } else {
            None
        };
        if let Some(text) = text {
            return self.medium_end(&op, Err(QmpError::generic(text)));
        }
        let blk = op.blk;
        let Some(bs) = self.graph.blk_bs(blk) else { return self.medium_step(op) };
        if let Some(err) = self.op_blocked(bs) {
            return self.medium_end(&op, Err(err));
        }
        self.graph.backends[blk].last_flags = self.graph.nodes[bs].flags;
        self.exports_eject(blk);
        self.bdrv_ref(bs);
        self.seq([
            DrainFrame::DrainedBegin(bs).into(),
            Frame::Poll(Cond::Backend(blk)),
            DrainFrame::DrainedEnd(bs).into(),
            GraphFrame::BdrvUnref(bs).into(),
            GraphLockFrame::GraphWrlock.into(),
            MediumFrame::MediumGone(blk).into(),
            GraphLockFrame::GraphWrunlock.into(),
            MediumFrame::MediumStep(op).into(),
        ])
    }

    /// `blk_remove_bs`
    fn medium_gone(&mut self, blk: BackendId) -> Flow {
        let root = self.graph.backends[blk].root.take().expect("there was a medium");
        self.root_unref_child(root);
        if !self.graph.backends[blk].tray {
            self.medium_moved(blk, false);
        }
        Flow::Go
    }

    /// Why a medium can't be inserted (`qmp_blockdev_insert_anon_medium`).
    fn no_insertion(&self, blk: BackendId) -> Option<&'static str> {
        let backend = &self.graph.backends[blk];
        if backend.dev.is_some() && !backend.removable {
            return Some("Device is not removable");
        }
        if backend.dev.is_some() && backend.tray && !backend.tray_open {
            return Some("Tray of the device is not open");
        }
        backend.root.is_some().then_some("There already is a medium in the device")
    }
}
