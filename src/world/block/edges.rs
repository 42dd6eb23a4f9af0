//! Changing the graph: attaching, replacing, referencing and closing nodes (`block.c`, `block/block-backend.c`).

use crate::qmp::error::QmpError;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{BackendId, ChildId, JobId, NodeId};
use crate::world::block::blockers::Blocker;
use crate::world::block::drain::DrainFrame;
use crate::world::block::driver::Driver;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::{Graph, Node};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;

/// `bdrv_set_file_or_backing_noperm`, of a node that can't have a backing file.
pub(in crate::world) fn no_backing(node: &Node) -> QmpError {
    let (format, name) = (node.drv().format_name(), &node.node_name);
    QmpError::generic(format!("Driver '{format}' of node '{name}' does not support backing files"))
}

impl Graph {
    /// `bdrv_is_inserted`: whether a node, and all below it, have their drivers.
    #[must_use]
    pub fn is_inserted(&self, node: NodeId) -> bool {
        let n = &self.nodes[node];
        !self.any_dropped || (!n.dropped && n.children.iter().all(|child| self.is_inserted(self.bs(*child))))
    }
}

/// What a node needs a child for (`BdrvChildRole`, as far as permissions depend on it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `BDRV_CHILD_FILTERED`: the parent passes requests on.
    Filtered,
    /// `BDRV_CHILD_IMAGE`: data and metadata of a format.
    Image,
    /// `BDRV_CHILD_FILTERED` for a raw node without offset and size: `raw_child_perm` trims what it does not need.
    RawImage,
    /// `BDRV_CHILD_DATA`: data only.
    Data,
    /// `BDRV_CHILD_COW`: a backing file.
    Cow,
    /// The parent is no node.
    Root,
}

/// Who holds the upper end of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parent {
    /// A node (`child_of_bds`).
    Node(NodeId),
    /// A backend (`child_root`).
    Backend(BackendId),
    /// A block job (`child_job`).
    Job(JobId),
}

/// `BdrvChild`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Child {
    /// `file`, `backing`, `image`, `target`, `root`, `main node`
    pub name: &'static str,
    /// What the parent needs it for.
    pub role: Role,
    /// `opaque` and `klass`: who uses the node.
    pub parent: Parent,
    /// `bs`: the node that is used.
    pub bs: NodeId,
    /// Permissions taken.
    pub perm: u8,
    /// Permissions left to others.
    pub shared: u8,
    /// `quiesced_parent`: the parent was told to be quiet because of this edge.
    pub quiesced_parent: bool,
    /// `frozen`: a job relies on where the edge leads to.
    pub frozen: bool,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum EdgesFrame {
    /// `bdrv_replace_child_bs` of a backend's root, in the write lock.
    ReplaceRoot {
        blk: BackendId,
        new: NodeId,
    },
    AttachToNode {
        parent: NodeId,
        name: &'static str,
        role: Role,
        bs: NodeId,
    },
    ReplaceNode {
        from: NodeId,
        to: NodeId,
    },
    RefreshPerms(NodeId),
    SetBackingHd {
        bs: NodeId,
        backing: NodeId,
    },
}

impl EdgesFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            EdgesFrame::ReplaceRoot { blk, new } => w.replace_root(blk, new),
            EdgesFrame::AttachToNode { parent, name, role, bs } => w.attach_to_node(parent, name, role, bs),
            EdgesFrame::ReplaceNode { from, to } => {
                let done = w.replace_node(from, to, false);
                w.ret(Val::Done(done))
            }
            EdgesFrame::RefreshPerms(node) => {
                w.perms_of(&[node]).expect("giving up permissions cannot cause a conflict");
                Flow::Go
            }
            EdgesFrame::SetBackingHd { bs, backing } => w.set_backing_hd(bs, backing),
        }
    }
}

impl World {
    /// `bdrv_attach_child_noperm` + permission update. The caller holds the write lock and, on failure, its own reference.
    ///
    /// # Errors
    /// The permission conflict that stands in the way; the graph is then as before.
    pub(in crate::world) fn attach_child(
        &mut self,
        bs: NodeId,
        name: &'static str,
        role: Role,
        parent: Parent,
        perm: u8,
        shared: u8,
    ) -> Result<ChildId, QmpError> {
        if let Parent::Node(parent) = parent {
            self.no_cycle(bs, name, parent)?;
        }
        self.refuse_inactive(bs, name, role, parent, perm)?;
        let child = self.attach_child_noperm(Child {
            name,
            role,
            parent,
            bs,
            perm,
            shared,
            quiesced_parent: false,
            frozen: false,
        });
        self.bdrv_ref(bs);
        let root = match parent {
            Parent::Node(parent) if self.graph.nodes[parent].driver.is_some() => parent,
            _ => bs,
        };
        if let Err(err) = self.perms_of(&[root]) {
            self.detach_child(child);
            // The reference is given back without closing: the caller still holds its own.
            self.graph.nodes[bs].refcnt -= 1;
            return Err(err);
        }
        Ok(child)
    }

    /// `bdrv_attach_child_noperm` allows no node below itself.
    pub(super) fn no_cycle(&self, bs: NodeId, name: &str, parent: NodeId) -> Result<(), QmpError> {
        if !self.has_child(bs, parent) {
            return Ok(());
        }
        let of = |node: NodeId| &self.graph.nodes[node].node_name;
        let text = format!("Making '{}' a {name} child of '{}' would create a cycle", of(bs), of(parent));
        Err(QmpError::generic(text))
    }

    /// Whether a node that may be gone is this one, or stands on it.
    #[must_use]
    pub fn stands_on(&self, bs: NodeId, below: NodeId) -> bool {
        self.graph.nodes.get(bs).is_some() && self.has_child(bs, below)
    }

    /// `bdrv_recurse_has_child`
    fn has_child(&self, bs: NodeId, child: NodeId) -> bool {
        bs == child || self.graph.nodes[bs].children.iter().any(|edge| self.has_child(self.graph.bs(*edge), child))
    }

    /// `bdrv_attach_child_noperm`. The reference to the lower node is the caller's.
    pub(super) fn attach_child_noperm(&mut self, edge: Child) -> ChildId {
        let (bs, parent) = (edge.bs, edge.parent);
        let child = self.graph.children.insert(edge);
        self.parent_drained_begin_single(child);
        if let Parent::Node(parent) = parent {
            self.graph.nodes[parent].children.insert(0, child);
        }
        self.graph.nodes[bs].parents.insert(0, child);
        if self.graph.nodes[bs].quiesce_counter == 0 {
            self.parent_drained_end_single(child);
        }
        child
    }

    /// `bdrv_child_cb_attach`: the parent knows what the new edge is to it.
    pub(super) fn note_child(&mut self, parent: NodeId, child: ChildId) {
        let (name, bs) = (self.graph.children[child].name, self.graph.bs(child));
        let node = &mut self.graph.nodes[parent];
        match name {
            "file" | "image" | "raw" => node.file = Some(child),
            // Its driver knows it by its name.
            "test" => {}
            "backing" if node.driver.as_ref().is_some_and(Driver::is_filter) => node.backing = Some(child),
            "backing" => {
                node.backing = Some(child);
                self.qcow2(parent).q.has_backing = true;
                let user = self.graph.device_or_node_name(parent);
                self.graph.nodes[bs].op_blockers.insert(0, Blocker::Overlay(parent, user));
            }
            "target" => self.cbw(parent).target = Some(child),
            _ => {
                if let Some(Driver::Quorum(quorum)) = &mut node.driver {
                    quorum.children.push(child);
                }
            }
        }
    }

    /// The inverse of attaching, without dropping the reference to the lower node.
    pub(super) fn detach_child(&mut self, child: ChildId) {
        let c = self.graph.children[child].clone();
        if c.frozen {
            let subject = format!("node {}", self.graph.nodes[c.bs].node_name);
            let reason = "bdrv_replace_child_noperm: the link to it is frozen";
            Self::qemu_is_known_to_abort("reopen-above-a-commit", subject, reason);
        }
        self.graph.nodes[c.bs].parents.retain(|p| *p != child);
        if let Parent::Node(parent) = c.parent {
            let node = &mut self.graph.nodes[parent];
            node.children.retain(|x| *x != child);
            if node.file == Some(child) {
                node.file = None;
            }
            if let Some(Driver::Quorum(quorum)) = &mut node.driver {
                quorum.children.retain(|x| *x != child);
            }
            if node.backing == Some(child) {
                node.backing = None;
                if let Some(Driver::Qcow2(qcow2)) = &mut node.driver {
                    qcow2.q.has_backing = false;
                }
                self.graph.nodes[c.bs].op_blockers.retain(|blocker| !blocker.is_overlay(parent));
            }
        }
        if c.quiesced_parent {
            self.parent_drained_end_single(child);
        }
        self.graph.children.remove(child);
    }

    /// `bdrv_root_unref_child` under the write lock: the reference is dropped by a bottom half.
    pub(in crate::world) fn root_unref_child(&mut self, child: ChildId) {
        let bs = self.graph.bs(child);
        self.detach_child(child);
        self.perms_of(&[bs]).expect("taking a user away cannot cause a conflict");
        self.bh_schedule(crate::world::aio::queue::Bh::BdrvUnref(bs));
    }

    /// `bdrv_replace_node_noperm` with `auto_skip`, then permissions: moves the parents of `from` to `to`.
    ///
    /// # Errors
    /// The permission conflict; the graph is then as before.
    pub(in crate::world) fn replace_node(
        &mut self,
        from: NodeId,
        to: NodeId,
        detach_subchain: bool,
    ) -> Result<(), QmpError> {
        let parents = self.graph.nodes[from].parents.clone();
        let moved: Vec<ChildId> = parents.into_iter().filter(|child| self.should_update_child(*child, to)).collect();
        self.replace_parents(from, to, &moved, detach_subchain)
    }

    /// `bdrv_replace_node_noperm` without `auto_skip`: an edge that may not be moved is an error.
    ///
    /// # Errors
    /// Such an edge, or the permission conflict; the graph is then as before.
    pub(in crate::world) fn replace_node_strictly(&mut self, from: NodeId, to: NodeId) -> Result<(), QmpError> {
        let parents = self.graph.nodes[from].parents.clone();
        if let Some(child) = parents.iter().find(|child| !self.should_update_child(**child, to)) {
            let (name, from) = (self.graph.children[*child].name, &self.graph.nodes[from].node_name);
            return Err(QmpError::generic(format!("Should not change '{name}' link to '{from}'")));
        }
        self.replace_parents(from, to, &parents, false)
    }

    fn replace_parents(
        &mut self,
        from: NodeId,
        to: NodeId,
        moved: &[ChildId],
        detach_subchain: bool,
    ) -> Result<(), QmpError> {
        // Taking a filter away cannot fail.
        let before = (!detach_subchain).then(|| self.graph.clone());
        if let Some(child) = moved.iter().find(|child| self.graph.children[**child].frozen) {
            let (name, from) = (self.graph.children[*child].name, &self.graph.nodes[from].node_name);
            return Err(QmpError::generic(format!("Cannot change '{name}' link to '{from}'")));
        }
        // `bdrv_replace_child_commit` gives the edges' references back in bottom halves; the last one closes the node.
        self.bdrv_ref(from);
        for child in moved {
            self.replace_child_noperm(*child, to);
        }
        if detach_subchain && let Some(edge) = self.graph.filter_child(from) {
            self.detach_and_schedule_unref(edge);
        }
        if let Err(err) = self.perms_of(&[from, to]) {
            if let Some(before) = before {
                self.graph = before;
            }
            return Err(err);
        }
        if self.graph.nodes[from].refcnt == 1 {
            self.bh_schedule(crate::world::aio::queue::Bh::BdrvUnref(from));
        } else {
            self.graph.nodes[from].refcnt -= 1;
        }
        Ok(())
    }

    /// `bdrv_set_backing_hd_drained`: another backing file, or none. Both nodes are drained, and the caller holds the write lock.
    ///
    /// # Errors
    /// A frozen link, or a permission conflict; the graph is then as before.
    pub(in crate::world) fn set_backing_hd_drained(
        &mut self,
        bs: NodeId,
        backing: Option<NodeId>,
    ) -> Result<(), QmpError> {
        let node = &self.graph.nodes[bs];
        if let Some(edge) = node.backing.filter(|edge| self.graph.children[*edge].frozen) {
            let child = &self.graph.children[edge];
            let (from, to) = (&node.node_name, &self.graph.nodes[child.bs].node_name);
            let text = format!("Cannot change frozen '{}' link from '{from}' to '{to}'", child.name);
            return Err(QmpError::generic(text));
        }
        if !node.drv().is_filter() && !node.drv().supports_backing() {
            return Err(no_backing(node));
        }
        let role = if node.drv().is_filter() { Role::Filtered } else { Role::Cow };
        if let Some(backing) = backing {
            self.no_cycle(backing, "backing", bs)?;
            self.refuse_inactive(backing, "backing", role, Parent::Node(bs), 0)?;
        }
        let (old, before) = (node.backing, self.graph.clone());
        let inherits = backing.filter(|backing| self.graph.inherits_from_recursive(*backing, bs));
        let gone = old.map(|edge| self.graph.bs(edge));
        if let (Some(edge), Some(below)) = (old, gone) {
            self.detach_child(edge);
            let node = &mut self.graph.nodes[below];
            if node.inherits_from == Some(bs) {
                node.inherits_from = None;
            }
        }
        if let Some(backing) = backing {
            self.bdrv_ref(backing);
            let (parent, shared) = (Parent::Node(bs), perm::ALL);
            let (perm, quiesced_parent, frozen) = (0, false, false);
            let edge = Child { name: "backing", role, parent, bs: backing, perm, shared, quiesced_parent, frozen };
            let edge = self.attach_child_noperm(edge);
            self.note_child(bs, edge);
        }
        if let Some(backing) = inherits {
            self.graph.nodes[backing].inherits_from = Some(bs);
        }
        self.refresh_limits(bs);
        // Below the node that is let go of, the permissions stay as they were.
        if let Err(err) = self.perms_of(&[bs]) {
            self.graph = before;
            return Err(err);
        }
        if let Some(below) = gone {
            self.bh_schedule(crate::world::aio::queue::Bh::BdrvUnref(below));
        }
        Ok(())
    }

    fn detach_and_schedule_unref(&mut self, edge: ChildId) {
        let bs = self.graph.bs(edge);
        self.detach_child(edge);
        self.bh_schedule(crate::world::aio::queue::Bh::BdrvUnref(bs));
    }

    /// `should_update_child`
    fn should_update_child(&self, child: ChildId, to: NodeId) -> bool {
        if matches!(self.graph.children[child].parent, Parent::Job(_)) {
            return false;
        }
        let mut queue = vec![to];
        let mut seen = vec![to];
        while let Some(node) = queue.pop() {
            for edge in &self.graph.nodes[node].children {
                if *edge == child {
                    return false;
                }
                let below = self.graph.bs(*edge);
                if !seen.contains(&below) {
                    seen.push(below);
                    queue.push(below);
                }
            }
        }
        true
    }

    /// `bdrv_replace_child_noperm`: both ends are drained.
    fn replace_child_noperm(&mut self, child: ChildId, to: NodeId) {
        let from = self.graph.bs(child);
        self.graph.nodes[from].parents.retain(|p| *p != child);
        self.graph.nodes[from].refcnt -= 1;
        self.graph.children[child].bs = to;
        self.graph.nodes[to].parents.insert(0, child);
        self.graph.nodes[to].refcnt += 1;
        // `bdrv_child_cb_detach` and `bdrv_child_cb_attach`: the edge becomes the first of its parent's.
        if let Parent::Node(parent) = self.graph.children[child].parent {
            let children = &mut self.graph.nodes[parent].children;
            children.retain(|c| *c != child);
            children.insert(0, child);
            // `bdrv_backing_detach` and `bdrv_backing_attach`: what the overlay blocks goes along.
            if self.graph.nodes[from].op_blockers.iter().any(|blocker| blocker.is_overlay(parent))
                && self.graph.nodes[parent].backing == Some(child)
            {
                self.graph.nodes[from].op_blockers.retain(|blocker| !blocker.is_overlay(parent));
                let user = self.graph.device_or_node_name(parent);
                self.graph.nodes[to].op_blockers.insert(0, Blocker::Overlay(parent, user));
            }
        }
        if self.graph.nodes[to].quiesce_counter == 0 && self.graph.children[child].quiesced_parent {
            self.parent_drained_end_single(child);
        }
    }

    /// `bdrv_replace_child_bs` of a backend's root, in the write lock. Leaves `Val::Done`.
    fn replace_root(&mut self, blk: BackendId, new: NodeId) -> Flow {
        let root = self.graph.backends[blk].root.expect("it had one when the command began");
        let old = self.graph.bs(root);
        let before = self.graph.clone();
        self.replace_child_noperm(root, new);
        let done = self.perms_of(&[new, old]);
        if done.is_err() {
            self.graph = before;
        }
        self.ret(Val::Done(done))
    }

    /// `bdrv_set_backing_hd`. Leaves `Val::Done`.
    fn set_backing_hd(&mut self, bs: NodeId, backing: NodeId) -> Flow {
        self.bdrv_ref(bs);
        let attach = EdgesFrame::AttachToNode { parent: bs, name: "backing", role: Role::Cow, bs: backing }.into();
        if self.quirks.since(Change::GraphLockDrained) {
            return self.seq([
                GraphLockFrame::GraphWrlock.into(),
                attach,
                Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
                Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(bs).into())),
            ]);
        }
        self.seq([
            DrainFrame::DrainedBegin(bs).into(),
            GraphLockFrame::GraphWrlock.into(),
            attach,
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
            DrainFrame::DrainedEnd(bs).into(),
            Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(bs).into())),
        ])
    }

    /// A node opens its own edge to another (`bdrv_open_child`, by reference). Leaves `Val::Done`.
    fn attach_to_node(&mut self, parent: NodeId, name: &'static str, role: Role, bs: NodeId) -> Flow {
        let node = &self.graph.nodes[parent];
        if name == "backing" && !node.drv().supports_backing() && !node.drv().is_filter() {
            return self.ret(Val::Done(Err(no_backing(node))));
        }
        let result = self.attach_child(bs, name, role, Parent::Node(parent), 0, perm::ALL);
        let done = result.map(|child| self.note_child(parent, child));
        self.ret(Val::Done(done))
    }
}
