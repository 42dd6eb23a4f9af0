//! `x-blockdev-change`: a child is added to a node, or taken from it (`blockdev.c:qmp_x_blockdev_change`). Only quorum can do that, which
//! the model lacks; what is left is how it is refused.

use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum BlockdevChangeFrame {
    Locked { parent: Arc<str>, child: Option<Arc<str>>, node: Option<Arc<str>> },
}

impl BlockdevChangeFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BlockdevChangeFrame::Locked { parent, child, node } => {
                let err = w.blockdev_change_refused(&parent, child.as_deref(), node.as_deref());
                w.ret(Val::Done(Err(err)))
            }
        }
    }
}

impl World {
    /// `qmp_x_blockdev_change`: locks the graph before it looks at anything. Leaves `Val::Done`.
    pub(in crate::world) fn x_blockdev_change(
        &mut self,
        parent: Arc<str>,
        child: Option<Arc<str>>,
        node: Option<Arc<str>>,
    ) -> Flow {
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            BlockdevChangeFrame::Locked { parent, child, node }.into(),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
        ])
    }

    fn blockdev_change_refused(&self, parent: &str, child: Option<&str>, node: Option<&str>) -> QmpError {
        let bs = match self.lookup_bs(parent) {
            Ok(bs) => bs,
            Err(err) => return err,
        };
        let name = self.graph.device_or_node_name(bs);
        QmpError::generic(match (child, node) {
            (Some(_), Some(_)) => "The parameters child and node are in conflict".to_owned(),
            (None, None) => "Either child or node must be specified".to_owned(),
            (Some(child), None) => {
                let mut children = self.graph.nodes[bs].children.iter();
                if children.any(|edge| self.graph.children[*edge].name == child) {
                    format!("The node {name} does not support removing a child")
                } else {
                    format!("Node '{parent}' does not have child '{child}'")
                }
            }
            (None, Some(node)) => match self.graph.find_node(node) {
                None => format!("Node '{node}' not found"),
                Some(_) => format!("The node {name} does not support adding a child"),
            },
        })
    }
}
