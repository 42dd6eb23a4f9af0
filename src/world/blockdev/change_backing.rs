//! `change-backing-file`: another name in the header of an image (`blockdev.c:qmp_change_backing_file`).

use crate::block::qcow2::Op;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::driver::Driver;
use crate::world::block::driver::qcow2::Qcow2Frame;
use crate::world::block::edges::Parent;
use crate::world::block::open::reopen::Reopen;
use crate::world::block::open::reopen::ReopenFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ChangeBackingFrame {
    ChangeBacking { node: NodeId, file: Arc<str> },
    ChangedBacking { node: NodeId, file: Arc<str> },
}

impl From<ChangeBackingFrame> for Frame {
    fn from(frame: ChangeBackingFrame) -> Frame {
        Frame::ChangeBacking(frame)
    }
}

impl ChangeBackingFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ChangeBackingFrame::ChangeBacking { node, file } => w.change_backing(node, file),
            ChangeBackingFrame::ChangedBacking { node, file } => w.changed_backing(node, file),
        }
    }
}

impl World {
    /// `qmp_change_backing_file`. Leaves `Val::Done`.
    pub(in crate::world) fn change_backing_file(&mut self, device: &str, image: &str, file: Arc<str>) -> Flow {
        let node = match self.change_backing_checks(device, image) {
            Ok(node) => node,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        let change = ChangeBackingFrame::ChangeBacking { node, file }.into();
        if self.graph.nodes[node].flags.rdwr {
            return self.seq([change]);
        }
        let [writable, as_before] = [false, true].map(|ro| Reopen::set_read_only(self, node, ro));
        self.seq([
            ReopenFrame::Reopen(Box::new(writable)).into(),
            Frame::if_ok([change, Frame::KeepOver(Box::new(ReopenFrame::Reopen(Box::new(as_before)).into()))]),
        ])
    }

    fn change_backing_checks(&self, device: &str, image: &str) -> Result<NodeId, QmpError> {
        let fail = |text: &str| Err(QmpError::generic(text));
        let bs = self.lookup_bs(device)?;
        let is_child = |edge: &_| matches!(self.graph.children[*edge].parent, Parent::Node(_));
        if self.graph.nodes[bs].parents.iter().any(is_child) {
            return fail("Need a root block node");
        }
        if !self.graph.is_inserted(bs) {
            return fail("Device has no medium");
        }
        let Some(node) = self.graph.find_node(image) else {
            return fail(&format!("Cannot find device='' nor node-name='{image}'"));
        };
        if self.graph.backing_chain_next(node).is_none() {
            return fail("not allowing backing file change on an image without a backing file");
        }
        if let Some(err) = self.op_blocked(bs).or_else(|| self.cow_blocked(bs)) {
            return Err(err);
        }
        if !self.graph.chain_contains(bs, node) {
            return fail(&format!("'{device}' and image file are not in the same chain"));
        }
        Ok(node)
    }

    /// `bdrv_change_backing_file`. Leaves `Val::Done`.
    pub(in crate::world) fn change_backing(&mut self, node: NodeId, file: Arc<str>) -> Flow {
        let format = self.graph.nodes[node].drv().format_name();
        if !matches!(self.graph.nodes[node].drv(), Driver::Qcow2(_)) {
            let text = format!("Could not change backing file to '{file}': {}", crate::base::Errno::ENOTSUP);
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        let op = Box::new(Op::change_backing_file(Some(&file), Some(format)));
        self.leave(Val::None);
        self.seq([
            Frame::RunCo(Box::new(Qcow2Frame::Qcow2Op { node, op }.into())),
            ChangeBackingFrame::ChangedBacking { node, file }.into(),
        ])
    }

    /// After the header was written.
    fn changed_backing(&mut self, node: NodeId, file: Arc<str>) -> Flow {
        let done = match self.take_val().errno() {
            Some(errno) => Err(QmpError::generic(format!("Could not change backing file to '{file}': {errno}"))),
            None => {
                let n = &mut self.graph.nodes[node];
                n.backing_format = n.drv().format_name().into();
                n.auto_backing_file = file.clone();
                n.backing_file = file;
                Ok(())
            }
        };
        self.ret(Val::Done(done))
    }
}
