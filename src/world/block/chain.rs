//! Backing chains: what is below a node through filters and overlays, frozen links, and filters that come and go (`block.c`).

use crate::qmp::error::QmpError;
use crate::quirk::Quirk;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{ChildId, NodeId};
use crate::world::block::drain::DrainFrame;
use crate::world::block::edges::EdgesFrame;
use crate::world::block::edges::{Parent, Role};
use crate::world::block::graph::Graph;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;

impl Graph {
    /// `bdrv_filter_child`: the edge to the node that a filter filters.
    #[must_use]
    pub fn filter_child(&self, node: NodeId) -> Option<ChildId> {
        let n = &self.nodes[node];
        if n.dropped {
            return None;
        }
        let row = n.driver.as_ref()?.row();
        match (row.is_filter, row.filtered_child_is_backing) {
            (false, _) => None,
            (true, false) => n.file,
            (true, true) => n.backing,
        }
    }

    /// `bdrv_cow_child`: the edge to the backing file of a format node.
    #[must_use]
    pub fn cow_child(&self, node: NodeId) -> Option<ChildId> {
        let n = &self.nodes[node];
        n.backing.filter(|_| n.has_drv() && n.driver.as_ref().is_some_and(|driver| !driver.is_filter()))
    }

    /// `bdrv_filter_or_cow_child`
    #[must_use]
    pub fn filter_or_cow_child(&self, node: NodeId) -> Option<ChildId> {
        self.filter_child(node).or_else(|| self.cow_child(node))
    }

    /// `bdrv_primary_child`: the edge to the node that requests are passed on to, or where a format has its metadata.
    #[must_use]
    pub fn primary_child(&self, node: NodeId) -> Option<ChildId> {
        self.filter_child(node).or(self.nodes[node].file)
    }

    /// `bdrv_filter_bs`: the node that a filter filters.
    #[must_use]
    pub fn filter_bs(&self, node: NodeId) -> Option<NodeId> {
        self.filter_child(node).map(|edge| self.bs(edge))
    }

    /// `bdrv_cow_bs`: the backing file of a format node.
    #[must_use]
    pub fn cow_bs(&self, node: NodeId) -> Option<NodeId> {
        self.cow_child(node).map(|edge| self.bs(edge))
    }

    /// `bdrv_filter_or_cow_bs`
    #[must_use]
    pub fn filter_or_cow_bs(&self, node: NodeId) -> Option<NodeId> {
        self.filter_or_cow_child(node).map(|edge| self.bs(edge))
    }

    /// `bdrv_is_root_node`: nothing but backends is above it.
    #[must_use]
    pub fn is_root_node(&self, node: NodeId) -> bool {
        self.nodes[node].parents.iter().all(|edge| matches!(self.children[*edge].parent, Parent::Backend(_)))
    }

    /// `bdrv_skip_filters`
    #[must_use]
    pub fn skip_filters(&self, mut node: NodeId) -> NodeId {
        while let Some(below) = self.filter_bs(node) {
            node = below;
        }
        node
    }

    /// `bdrv_skip_implicit_filters`
    #[must_use]
    pub fn skip_implicit_filters(&self, mut node: NodeId) -> NodeId {
        while let Some(below) = self.filter_bs(node).filter(|_| self.nodes[node].implicit) {
            node = below;
        }
        node
    }

    /// `bdrv_backing_chain_next`
    #[must_use]
    pub fn backing_chain_next(&self, node: NodeId) -> Option<NodeId> {
        self.cow_bs(self.skip_filters(node)).map(|n| self.skip_filters(n))
    }

    /// `bdrv_chain_contains`
    #[must_use]
    pub fn chain_contains(&self, top: NodeId, base: NodeId) -> bool {
        let mut node = Some(top);
        while let Some(n) = node {
            if n == base {
                return true;
            }
            node = self.filter_or_cow_bs(n);
        }
        false
    }

    /// `bdrv_find_overlay`: the overlay right above `bs`, filters left out, in the chain of `active`; with none, the lowest one.
    #[must_use]
    pub fn find_overlay(&self, active: NodeId, bs: Option<NodeId>) -> Option<NodeId> {
        let bs = bs.map(|bs| self.skip_filters(bs));
        let mut active = Some(self.skip_filters(active));
        while let Some(node) = active {
            let next = self.backing_chain_next(node);
            if next == bs {
                return Some(node);
            }
            active = next;
        }
        None
    }

    /// `bdrv_inherits_from_recursive`
    #[must_use]
    pub fn inherits_from_recursive(&self, child: NodeId, parent: NodeId) -> bool {
        let mut node = Some(child);
        while let Some(at) = node.filter(|at| *at != parent) {
            node = self.nodes.get(at).and_then(|node| node.inherits_from);
        }
        node.is_some()
    }

    /// `bdrv_find_base`: the lowest node of a chain, filters left out.
    #[must_use]
    pub fn find_base(&self, node: NodeId) -> NodeId {
        let mut node = self.skip_filters(node);
        while let Some(next) = self.backing_chain_next(node) {
            node = next;
        }
        node
    }

    /// `bdrv_is_backing_chain_frozen`: the text that refuses to change a link between `bs` and `base`.
    ///
    /// # Errors
    /// A link is frozen.
    pub fn backing_chain_unfrozen(&self, bs: NodeId, base: Option<NodeId>) -> Result<(), QmpError> {
        for (node, edge) in self.chain_edges(bs, base) {
            let child = &self.children[edge];
            if child.frozen {
                let (from, to) = (&self.nodes[node].node_name, &self.nodes[child.bs].node_name);
                let text = format!("Cannot change frozen '{}' link from '{from}' to '{to}'", child.name);
                return Err(QmpError::generic(text));
            }
        }
        Ok(())
    }

    /// `bdrv_freeze_backing_chain`: until the chain is unfrozen, no link between `bs` and `base` may change.
    ///
    /// # Errors
    /// A link is frozen already, or leads to the filter of a job, which takes itself away.
    pub fn freeze_backing_chain(&mut self, bs: NodeId, base: Option<NodeId>) -> Result<(), QmpError> {
        self.backing_chain_unfrozen(bs, base)?;
        let edges = self.chain_edges(bs, base);
        for (_, edge) in &edges {
            let child = &self.children[*edge];
            if self.nodes[child.bs].never_freeze {
                let text = format!("Cannot freeze '{}' link to '{}'", child.name, self.nodes[child.bs].node_name);
                return Err(QmpError::generic(text));
            }
        }
        for (_, edge) in edges {
            self.children[edge].frozen = true;
        }
        Ok(())
    }

    /// `bdrv_unfreeze_backing_chain`
    pub fn unfreeze_backing_chain(&mut self, bs: NodeId, base: Option<NodeId>) {
        for (_, edge) in self.chain_edges(bs, base) {
            assert!(self.children[edge].frozen, "the chain was frozen");
            self.children[edge].frozen = false;
        }
    }

    /// The links from `bs` down to `base`, each with its upper node.
    fn chain_edges(&self, bs: NodeId, base: Option<NodeId>) -> Vec<(NodeId, ChildId)> {
        let (mut edges, mut node) = (Vec::new(), bs);
        while Some(node) != base
            && let Some(edge) = self.filter_or_cow_child(node)
        {
            edges.push((node, edge));
            node = self.bs(edge);
        }
        edges
    }
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ChainFrame {
    DropFilter { filter: NodeId, below: NodeId },
    BdrvAppend { new: NodeId, top: NodeId },
    BdrvAppended { new: NodeId, top: NodeId },
    InsertNode { node: NodeId, below: NodeId },
    NodeInserted(NodeId),
    FilterDrop(NodeId),
    FilterDropDrained { filter: NodeId, below: NodeId },
}

impl ChainFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ChainFrame::DropFilter { filter, below } => {
                w.replace_node(filter, below, true).expect("dropping a filter cannot cause a conflict");
                Flow::Go
            }
            ChainFrame::BdrvAppend { new, top } => w.bdrv_append(new, top),
            ChainFrame::BdrvAppended { new, top } => w.bdrv_appended(new, top),
            ChainFrame::InsertNode { node, below } => w.insert_node(node, below),
            ChainFrame::NodeInserted(node) => w.node_inserted(node),
            ChainFrame::FilterDrop(filter) => w.filter_drop(filter),
            ChainFrame::FilterDropDrained { filter, below } => w.filter_drop_drained(filter, below),
        }
    }
}

impl World {
    /// `bdrv_append`: `new` takes the place of `top`, which becomes what it filters or its backing file. Leaves `Val::Done`.
    pub(in crate::world) fn bdrv_append(&mut self, new: NodeId, top: NodeId) -> Flow {
        let role = if self.graph.nodes[new].drv().is_filter() { Role::Filtered } else { Role::Cow };
        if !self.quirks.since(Change::DrainsOfChangedEdges) || self.quirks.since(Change::GraphLockDrained) {
            // Nobody, or the lock, drains the two.
            return self.seq([
                GraphLockFrame::GraphWrlock.into(),
                EdgesFrame::AttachToNode { parent: new, name: "backing", role, bs: top }.into(),
                Frame::if_ok([
                    EdgesFrame::ReplaceNode { from: top, to: new }.into(),
                    ChainFrame::BdrvAppended { new, top }.into(),
                ]),
                Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
            ]);
        }
        self.seq([
            DrainFrame::DrainedBegin(top).into(),
            DrainFrame::DrainedBegin(new).into(),
            GraphLockFrame::GraphWrlock.into(),
            EdgesFrame::AttachToNode { parent: new, name: "backing", role, bs: top }.into(),
            Frame::if_ok([
                EdgesFrame::ReplaceNode { from: top, to: new }.into(),
                ChainFrame::BdrvAppended { new, top }.into(),
            ]),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
            Frame::KeepOver(Box::new(DrainFrame::DrainedEnd(top).into())),
            Frame::KeepOver(Box::new(DrainFrame::DrainedEnd(new).into())),
        ])
    }

    /// The end of `bdrv_append`, still with the graph locked.
    fn bdrv_appended(&mut self, new: NodeId, top: NodeId) -> Flow {
        let done = self.take_done();
        if done.is_err() {
            self.drop_backing(new);
        }
        self.refresh_limits(top);
        self.ret(Val::Done(done))
    }

    /// `bdrv_insert_node`, once the new node was opened (`Val::Done`): it takes the place of `below`, which it filters. Leaves `Val::Node`.
    fn insert_node(&mut self, node: NodeId, below: NodeId) -> Flow {
        if let Err(mut err) = self.take_done() {
            err.desc = format!("Could not create node: {}", err.desc).into();
            self.push(Frame::Give(Box::new(Val::Node(Err(err)))));
            return self.seq([
                GraphLockFrame::GraphWrlock.into(),
                GraphFrame::UnrefFile(node).into(),
                GraphLockFrame::GraphWrunlock.into(),
                GraphFrame::BdrvUnref(node).into(),
            ]);
        }
        self.bdrv_ref(below);
        self.seq([
            DrainFrame::DrainedBegin(below).into(),
            DrainFrame::DrainedBegin(node).into(),
            GraphLockFrame::GraphWrlockOnly.into(),
            EdgesFrame::ReplaceNode { from: below, to: node }.into(),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
            DrainFrame::DrainedEnd(node).into(),
            DrainFrame::DrainedEnd(below).into(),
            Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(below).into())),
            ChainFrame::NodeInserted(node).into(),
        ])
    }

    /// The end of `bdrv_insert_node`.
    fn node_inserted(&mut self, node: NodeId) -> Flow {
        if let Err(mut err) = self.take_done() {
            err.desc = format!("Could not replace node: {}", err.desc).into();
            self.push(Frame::Give(Box::new(Val::Node(Err(err)))));
            return self.seq([GraphFrame::BdrvUnref(node).into()]);
        }
        self.ret(Val::Node(Ok(node)))
    }

    /// `bdrv_drop_filter` and giving the filter up (`bdrv_cbw_drop`, `bdrv_cor_filter_drop`)
    pub(in crate::world) fn filter_drop(&mut self, filter: NodeId) -> Flow {
        // Else its place could not be taken.
        self.cor_unfreeze(filter);
        let below = self.graph.filter_bs(filter).expect("the filter is in place");
        self.bdrv_ref(below);
        let drained = self.drained_for_drop(filter, below);
        self.seq([DrainFrame::DrainedBegin(drained).into(), ChainFrame::FilterDropDrained { filter, below }.into()])
    }

    /// Whom `bdrv_drop_filter` drains: the node below, or once the filter.
    fn drained_for_drop(&self, filter: NodeId, below: NodeId) -> NodeId {
        if self.quirks.since(Change::DrainsOfChangedEdges) { below } else { filter }
    }

    /// `bdrv_drop_filter`, once the node below is drained. If that was another job's filter, its job may have ended meanwhile and have
    /// taken it away. Unlike QEMU, which goes on with the freed node and aborts, the one below that is drained then.
    fn filter_drop_drained(&mut self, filter: NodeId, below: NodeId) -> Flow {
        if self.graph.filter_bs(filter) != Some(below) {
            if self.quirks.has(Quirk::DropFilterOverFreedNode) {
                let subject = format!("node {}", self.graph.nodes[filter].node_name);
                Self::qemu_aborts(
                    subject,
                    "bdrv_replace_node_common: from->quiesce_counter is 0, the node below it was freed",
                );
            }
            let drained = self.drained_for_drop(filter, below);
            return self.seq([
                DrainFrame::DrainedEnd(drained).into(),
                GraphFrame::BdrvUnref(below).into(),
                ChainFrame::FilterDrop(filter).into(),
            ]);
        }
        let drained = self.drained_for_drop(filter, below);
        self.seq([
            GraphLockFrame::GraphWrlockOnly.into(),
            ChainFrame::DropFilter { filter, below }.into(),
            GraphLockFrame::GraphWrunlock.into(),
            DrainFrame::DrainedEnd(drained).into(),
            GraphFrame::BdrvUnref(below).into(),
            GraphFrame::BdrvUnref(filter).into(),
        ])
    }
}
