//! Who forbids operations on a node (`bdrv_op_block`, `bdrv_op_is_blocked`): jobs that work on it, nodes whose backing file it is, and
//! mirrors that will replace it.

use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::{JobId, NodeId};
use std::sync::Arc;

/// `BdrvOpBlocker`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Blocker {
    /// A job that works on the node.
    Job(JobId),
    /// A node whose backing file it is (`bdrv_backing_attach`), by the name that it had then.
    Overlay(NodeId, Arc<str>),
}

impl Blocker {
    /// Whether it is this overlay.
    #[must_use]
    pub fn is_overlay(&self, node: NodeId) -> bool {
        matches!(self, Blocker::Overlay(overlay, _) if *overlay == node)
    }
}

impl World {
    /// `bdrv_op_is_blocked`: the text that refuses an operation on a node, of the one who blocked it last.
    #[must_use]
    pub(in crate::world) fn op_blocked(&self, bs: NodeId) -> Option<QmpError> {
        self.blocked_by(bs, |_| true)
    }

    /// The same of operations that overlays allow: to commit to the node, to stream to it, to back it up or to it.
    #[must_use]
    pub(in crate::world) fn op_blocked_by_job(&self, bs: NodeId) -> Option<QmpError> {
        self.blocked_by(bs, |blocker| matches!(blocker, Blocker::Job(_)))
    }

    fn blocked_by(&self, bs: NodeId, counts: impl Fn(&Blocker) -> bool) -> Option<QmpError> {
        let node = &self.graph.nodes[bs];
        let why = if node.replace_blockers.is_empty() {
            match node.op_blockers.iter().find(|blocker| counts(blocker))? {
                Blocker::Job(job) => {
                    format!("block device is in use by block job: {}", self.jobs[*job].job_type.name())
                }
                Blocker::Overlay(_, user) => format!("node is used as backing hd of '{user}'"),
            }
        } else {
            "block device is in use by block-job-complete".to_owned()
        };
        Some(QmpError::generic(format!("Node '{}' is busy: {why}", self.graph.device_or_node_name(bs))))
    }
}
