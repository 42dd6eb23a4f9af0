//! `change-backing-file`: another name in the header of an image (`blockdev.c:qmp_change_backing_file`).

use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::backing_name::BackingNameFrame;
use crate::world::block::open::reopen::Reopen;
use crate::world::block::open::reopen::ReopenFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ChangeBackingFrame {
    ChangedBacking(Arc<str>),
}

impl ChangeBackingFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ChangeBackingFrame::ChangedBacking(file) => w.changed_backing(&file),
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
        let format = Some(self.graph.nodes[node].drv().format_name().into());
        let change = BackingNameFrame::ChangeBackingFile { node, file: Some(file.clone()), format }.into();
        let told = ChangeBackingFrame::ChangedBacking(file).into();
        if self.graph.nodes[node].flags.rdwr {
            return self.seq([change, told]);
        }
        let [writable, as_before] = [false, true].map(|ro| Reopen::set_read_only(self, node, ro));
        self.seq([
            ReopenFrame::Reopen(Box::new(writable)).into(),
            Frame::if_ok([change, told, Frame::KeepOver(Box::new(ReopenFrame::Reopen(Box::new(as_before)).into()))]),
        ])
    }

    fn change_backing_checks(&self, device: &str, image: &str) -> Result<NodeId, QmpError> {
        let fail = |text: &str| Err(QmpError::generic(text));
        let bs = self.qmp_get_root_bs(device)?;
        let Some(node) = self.graph.find_node(image) else {
            return fail(&format!("Cannot find device='' nor node-name='{image}'"));
        };
        if self.graph.backing_chain_next(node).is_none() {
            return fail("not allowing backing file change on an image without a backing file");
        }
        if let Some(err) = self.op_blocked(bs) {
            return Err(err);
        }
        if !self.graph.chain_contains(bs, node) {
            return fail(&format!("'{device}' and image file are not in the same chain"));
        }
        Ok(node)
    }

    /// The end of `qmp_change_backing_file`.
    fn changed_backing(&mut self, file: &str) -> Flow {
        let fail = |errno| QmpError::generic(format!("Could not change backing file to '{file}': {errno}"));
        let done = self.take_ret().map_err(fail);
        self.ret(Val::Done(done))
    }
}
