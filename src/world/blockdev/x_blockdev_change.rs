//! `x-blockdev-change`: a child is added to a node, or taken from it (`blockdev.c:qmp_x_blockdev_change`). Only a quorum can do that.

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
                let done = w.blockdev_change(&parent, child.as_deref(), node.as_deref());
                w.ret(Val::Done(done))
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

    fn blockdev_change(&mut self, parent: &str, child: Option<&str>, node: Option<&str>) -> Result<(), QmpError> {
        let bs = self.lookup_bs(parent)?;
        let name = self.graph.device_or_node_name(bs);
        let can_change = self.graph.nodes[bs].driver.as_ref().is_some_and(|driver| driver.row().has_add_child);
        let refused = match (child, node) {
            (Some(_), Some(_)) => "The parameters child and node are in conflict".to_owned(),
            (None, None) => "Either child or node must be specified".to_owned(),
            (Some(child), None) => {
                let edges = self.graph.nodes[bs].children.iter();
                let edge = edges.copied().find(|edge| self.graph.children[*edge].name == child);
                match edge {
                    None => format!("Node '{parent}' does not have child '{child}'"),
                    Some(edge) if can_change => return self.quorum_del_child(bs, edge),
                    Some(_) => format!("The node {name} does not support removing a child"),
                }
            }
            (None, Some(node)) => match self.graph.find_node(node) {
                None => format!("Node '{node}' not found"),
                Some(_) if !can_change => format!("The node {name} does not support adding a child"),
                Some(new) if !self.graph.nodes[new].parents.is_empty() => {
                    format!("The node {node} already has a parent")
                }
                Some(new) => return self.quorum_add_child(bs, new),
            },
        };
        Err(QmpError::generic(refused))
    }
}
