//! Children that a node is given for others when it is opened again (`block.c:bdrv_reopen_parse_file_or_backing`,
//! `bdrv_set_file_or_backing_noperm`).

use super::reopen::{Reopen, ReopenFrame, ReopenStage};
use super::reopen_options::no_node;
use super::spec::OpenSpec;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::{ChildId, NodeId};
use crate::world::block::drain::DrainFrame;
use crate::world::block::edges::{Child, Parent, Role};
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::perms::perm;
use crate::world::frame::Flow;
use std::sync::Arc;

/// A child that is taken for another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Swap {
    pub(super) parent: NodeId,
    pub(super) name: &'static str,
    pub(super) role: Role,
    pub(super) old: Option<NodeId>,
    pub(super) new: Option<NodeId>,
    /// The edge to the new child, so that it can be taken away again.
    pub(super) edge: Option<ChildId>,
}

impl World {
    /// `bdrv_reopen_parse_file_or_backing`
    #[expect(clippy::option_option, reason = "`null` and absent differ")]
    pub(super) fn reopen_child(
        &self,
        bs: NodeId,
        name: &'static str,
        key: &str,
        edge: Option<ChildId>,
        wanted: Option<Option<&Arc<OpenSpec>>>,
    ) -> Result<Option<Swap>, QmpError> {
        let Some(wanted) = wanted else { return Ok(None) };
        let old = edge.map(|edge| self.graph.bs(edge));
        let new = match wanted {
            None => None,
            Some(spec) => match &spec.reference {
                // Described in place: it is no other child.
                None => return Ok(None),
                Some(reference) => {
                    let found = self.graph.find_node(reference);
                    let new = found.ok_or_else(|| QmpError::generic(no_node(reference)))?;
                    self.no_cycle(new, key, bs)?;
                    self.refuse_inactive(new, key, Role::Data, Parent::Node(bs), 0)?;
                    Some(new)
                }
            },
        };
        if old == new || old.is_some_and(|old| Some(self.graph.skip_implicit_filters(old)) == new) {
            return Ok(None);
        }
        if old.is_some_and(|old| self.graph.nodes[old].implicit) {
            let text = format!("Cannot replace implicit {key} child of {}", self.graph.nodes[bs].node_name);
            return Err(QmpError::generic(text));
        }
        let role = edge.map_or(Role::Cow, |edge| self.graph.children[edge].role);
        Ok(Some(Swap { parent: bs, name, role, old, new, edge: None }))
    }

    /// Changes the next child that the node being prepared wants changed.
    pub(super) fn reopen_swap(&mut self, mut r: Box<Reopen>, i: usize) -> Flow {
        let Some(swap) = r.wanted.first() else { return self.reopen_at(r, ReopenStage::Prepare(i + 1)) };
        let old = swap.old;
        r.at = ReopenStage::Swapping(i);
        match old {
            Some(old) => {
                self.bdrv_ref(old);
                self.seq([
                    DrainFrame::DrainedBegin(old).into(),
                    GraphLockFrame::GraphWrlockOnly.into(),
                    ReopenFrame::Reopen(r).into(),
                ])
            }
            None => self.seq([GraphLockFrame::GraphWrlock.into(), ReopenFrame::Reopen(r).into()]),
        }
    }

    pub(super) fn reopen_swapping(&mut self, mut r: Box<Reopen>, i: usize) -> Flow {
        let mut swap = r.wanted.remove(0);
        let old = swap.old;
        if let (Some(err), Some(old)) = (self.frozen_link(swap.parent, swap.name), old) {
            r.error = Some(err);
            r.at = ReopenStage::Undo;
            return self.seq([
                GraphLockFrame::GraphWrunlock.into(),
                DrainFrame::DrainedEnd(old).into(),
                GraphFrame::BdrvUnref(old).into(),
                GraphLockFrame::GraphWrlock.into(),
                ReopenFrame::ReopenUnswap(r).into(),
            ]);
        }
        // A job may end before the rest of the command is done.
        self.see_all_changed();
        self.take_edge(swap.parent, swap.name);
        if let Some(new) = swap.new {
            self.bdrv_ref(new);
            swap.edge = Some(self.put_edge(&swap, new));
        }
        r.swaps.push(swap);
        r.at = ReopenStage::Swap(i);
        match old {
            Some(old) => self.seq([
                GraphLockFrame::GraphWrunlock.into(),
                DrainFrame::DrainedEnd(old).into(),
                GraphFrame::BdrvUnref(old).into(),
                ReopenFrame::Reopen(r).into(),
            ]),
            None => self.seq([GraphLockFrame::GraphWrunlock.into(), ReopenFrame::Reopen(r).into()]),
        }
    }

    /// `bdrv_set_file_or_backing_noperm`: the text that refuses to change a frozen link.
    pub(super) fn frozen_link(&self, parent: NodeId, name: &str) -> Option<QmpError> {
        let node = &self.graph.nodes[parent];
        let edge = if name == "backing" { node.backing } else { node.file };
        let child = edge.map(|edge| &self.graph.children[edge]).filter(|child| child.frozen)?;
        let (from, to) = (&node.node_name, &self.graph.nodes[child.bs].node_name);
        Some(QmpError::generic(format!("Cannot change frozen '{name}' link from '{from}' to '{to}'")))
    }

    pub(super) fn take_edge(&mut self, parent: NodeId, name: &str) {
        let node = &self.graph.nodes[parent];
        if let Some(edge) = if name == "backing" { node.backing } else { node.file } {
            self.detach_child(edge);
        }
    }

    pub(super) fn put_edge(&mut self, swap: &Swap, bs: NodeId) -> ChildId {
        let edge = self.attach_child_noperm(Child {
            name: swap.name,
            role: swap.role,
            parent: Parent::Node(swap.parent),
            bs,
            perm: 0,
            shared: perm::ALL,
            quiesced_parent: false,
            frozen: false,
        });
        self.note_child(swap.parent, edge);
        edge
    }
}
