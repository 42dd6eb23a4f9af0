//! `blockdev-add` and `blockdev-del` (`blockdev.c`).

use crate::qmp::error::QmpError;
use crate::qmp::types::BlockdevOptions;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::graph::GraphFrame;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::spec::OpenSpec;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum BlockdevFrame {
    BlockdevAdded,
}

impl BlockdevFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BlockdevFrame::BlockdevAdded => w.blockdev_added(),
        }
    }
}

impl World {
    /// `qmp_blockdev_add`
    pub(in crate::world) fn blockdev_add(&mut self, options: &BlockdevOptions) -> Flow {
        if options.node_name.is_none() {
            let text = "'node-name' must be specified for the root node";
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        let spec = Arc::new(OpenSpec::from_options(options, None));
        self.seq([OpenFrame::BdrvOpen(spec).into(), BlockdevFrame::BlockdevAdded.into()])
    }

    /// The end of `qmp_blockdev_add`.
    fn blockdev_added(&mut self) -> Flow {
        let node: Result<NodeId, QmpError> = self.take();
        let done = node.map(|bs| self.graph.nodes[bs].monitor_owned = true);
        self.ret(Val::Done(done))
    }

    /// `qmp_blockdev_del`
    pub(in crate::world) fn blockdev_del(&mut self, name: &str) -> Flow {
        let checked = self.blockdev_del_checks(name);
        match checked {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(bs) => {
                self.graph.nodes[bs].monitor_owned = false;
                self.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.seq([GraphFrame::BdrvUnref(bs).into()])
            }
        }
    }

    fn blockdev_del_checks(&self, name: &str) -> Result<NodeId, QmpError> {
        let Some(bs) = self.graph.find_node(name) else {
            return Err(QmpError::generic(format!("Failed to find node with node-name='{name}'")));
        };
        if self.graph.has_blk(bs) {
            return Err(QmpError::generic(format!("Node {name} is in use")));
        }
        if let Some(err) = self.op_blocked(bs) {
            return Err(err);
        }
        let n = &self.graph.nodes[bs];
        if !n.monitor_owned {
            return Err(QmpError::generic(format!("Node {name} is not owned by the monitor")));
        }
        if n.refcnt > 1 {
            let name = self.graph.device_or_node_name(bs);
            return Err(QmpError::generic(format!("Block device {name} is in use")));
        }
        Ok(bs)
    }
}
