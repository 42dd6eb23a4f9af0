//! Changing the graph: attaching, replacing, referencing and closing nodes (`block.c`, `block/block-backend.c`).

use super::driver::Driver;
use super::graph::{Backend, Child, Graph, Node, Parent, Role};
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::{BackendId, ChildId, NodeId};
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

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

impl World {
    pub(super) fn perms_of(&mut self, roots: &[NodeId]) -> Result<(), QmpError> {
        let jobs = &self.jobs;
        let desc = |job| {
            let j = &jobs[job];
            format!("{} job '{}'", j.job_type.name(), j.id)
        };
        self.graph.refresh_perms(roots, &desc).map_err(QmpError::generic)
    }

    /// `bdrv_ref`
    pub fn bdrv_ref(&mut self, bs: NodeId) {
        self.graph.nodes[bs].refcnt += 1;
    }

    /// `bdrv_attach_child_noperm` + permission update. The caller holds the write lock and, on failure, its own reference.
    ///
    /// # Errors
    /// The permission conflict that stands in the way; the graph is then as before.
    pub fn attach_child(
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
    pub(in crate::world) fn note_child(&mut self, parent: NodeId, child: ChildId) {
        let (name, bs) = (self.graph.children[child].name, self.graph.bs(child));
        let node = &mut self.graph.nodes[parent];
        match name {
            "file" | "image" => node.file = Some(child),
            "backing" if node.driver.as_ref().is_some_and(Driver::is_filter) => node.backing = Some(child),
            "backing" => {
                node.backing = Some(child);
                self.qcow2(parent).q.has_backing = true;
                let user = self.graph.device_or_node_name(parent);
                self.graph.nodes[bs].cow_blockers.insert(0, (parent, user));
            }
            _ => self.cbw(parent).target = Some(child),
        }
    }

    /// The inverse of attaching, without dropping the reference to the lower node.
    pub(super) fn detach_child(&mut self, child: ChildId) {
        let c = self.graph.children[child].clone();
        self.graph.nodes[c.bs].parents.retain(|p| *p != child);
        if let Parent::Node(parent) = c.parent {
            let node = &mut self.graph.nodes[parent];
            node.children.retain(|x| *x != child);
            if node.file == Some(child) {
                node.file = None;
            }
            if node.backing == Some(child) {
                node.backing = None;
                if let Some(Driver::Qcow2(qcow2)) = &mut node.driver {
                    qcow2.q.has_backing = false;
                }
                self.graph.nodes[c.bs].cow_blockers.retain(|(n, _)| *n != parent);
            }
        }
        if c.quiesced_parent {
            self.parent_drained_end_single(child);
        }
        self.graph.children.remove(child);
    }

    /// `bdrv_root_unref_child` under the write lock: the reference is dropped by a bottom half.
    pub fn root_unref_child(&mut self, child: ChildId) {
        let bs = self.graph.bs(child);
        self.detach_child(child);
        self.perms_of(&[bs]).expect("taking a user away cannot cause a conflict");
        self.bh_schedule(crate::world::aio::Bh::BdrvUnref(bs));
    }

    /// `bdrv_unref`
    pub(in crate::world) fn bdrv_unref(&mut self, bs: NodeId) -> Flow {
        let node = &mut self.graph.nodes[bs];
        assert!(node.refcnt > 0, "{bs:?} has no reference left");
        node.refcnt -= 1;
        if node.refcnt > 0 {
            return Flow::Go;
        }
        let was_named = self.graph.named.iter().position(|n| *n == bs);
        if let Some(i) = was_named {
            self.graph.named.remove(i);
        }
        self.seq([Frame::BdrvClose(bs), Frame::BdrvFree(bs)])
    }

    /// `bdrv_close`
    pub(in crate::world) fn bdrv_close(&mut self, bs: NodeId) -> Flow {
        self.seq([
            Frame::DrainedBegin(bs),
            Frame::RunCo(Box::new(Frame::BdrvCoFlush(bs))),
            Frame::DrainedBegin(bs),
            Frame::DrainedEnd(bs),
            Frame::DriverClose(bs),
            Frame::GraphWrlock,
            Frame::UnrefChildren(bs),
            Frame::GraphWrunlock,
        ])
    }

    /// `bdrv_close`'s loop over the children.
    pub(in crate::world) fn unref_children(&mut self, bs: NodeId) -> Flow {
        for child in self.graph.nodes[bs].children.clone() {
            self.root_unref_child(child);
        }
        Flow::Go
    }

    /// The end of `bdrv_close`, and `bdrv_delete`.
    pub(in crate::world) fn bdrv_free(&mut self, bs: NodeId) -> Flow {
        self.drained_end(bs);
        while self.graph.nodes[bs].quiesce_counter > 0 {
            self.drained_end(bs);
        }
        self.graph.nodes.remove(bs);
        Flow::Go
    }

    /// `bdrv_replace_node_noperm` with `auto_skip`, then permissions: moves the parents of `from` to `to`.
    ///
    /// # Errors
    /// The permission conflict; the graph is then as before.
    pub fn replace_node(&mut self, from: NodeId, to: NodeId, detach_subchain: bool) -> Result<(), QmpError> {
        // Taking a filter away cannot fail.
        let before = (!detach_subchain).then(|| self.graph.clone());
        let parents = self.graph.nodes[from].parents.clone();
        let moved: Vec<ChildId> = parents.into_iter().filter(|child| self.should_update_child(*child, to)).collect();
        if let Some(child) = moved.iter().find(|child| self.graph.children[**child].frozen) {
            let (name, from) = (self.graph.children[*child].name, &self.graph.nodes[from].node_name);
            return Err(QmpError::generic(format!("Cannot change '{name}' link to '{from}'")));
        }
        for child in moved {
            self.replace_child_noperm(child, to);
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
        Ok(())
    }

    /// `bdrv_set_backing_hd_drained`: another backing file, or none. Both nodes are drained, and the caller holds the write lock.
    ///
    /// # Errors
    /// A frozen link, or a permission conflict; the graph is then as before.
    pub fn set_backing_hd_drained(&mut self, bs: NodeId, backing: Option<NodeId>) -> Result<(), QmpError> {
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
        if let Some(backing) = backing {
            self.no_cycle(backing, "backing", bs)?;
        }
        let role = if node.drv().is_filter() { Role::Filtered } else { Role::Cow };
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
            let (parent, shared) = (Parent::Node(bs), super::graph::perm::ALL);
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
            self.bh_schedule(crate::world::aio::Bh::BdrvUnref(below));
        }
        Ok(())
    }

    fn detach_and_schedule_unref(&mut self, edge: ChildId) {
        let bs = self.graph.bs(edge);
        self.detach_child(edge);
        self.bh_schedule(crate::world::aio::Bh::BdrvUnref(bs));
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
            if self.graph.nodes[from].cow_blockers.iter().any(|(n, _)| *n == parent)
                && self.graph.nodes[parent].backing == Some(child)
            {
                self.graph.nodes[from].cow_blockers.retain(|(n, _)| *n != parent);
                let user = self.graph.device_or_node_name(parent);
                self.graph.nodes[to].cow_blockers.insert(0, (parent, user));
            }
        }
        if self.graph.nodes[to].quiesce_counter == 0 && self.graph.children[child].quiesced_parent {
            self.parent_drained_end_single(child);
        }
    }

    /// `bdrv_replace_child_bs` of a backend's root, in the write lock. Leaves `Val::Done`.
    pub(in crate::world) fn replace_root(&mut self, blk: BackendId, new: NodeId) -> Flow {
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

    /// `blk_new`
    pub fn blk_new(&mut self, name: Arc<str>, perm: u8, shared: u8) -> BackendId {
        self.graph.backends.insert(Backend {
            name,
            root: None,
            perm,
            shared,
            quiesce_counter: 0,
            in_flight: 0,
            queued_requests: Vec::new(),
            write_cache: true,
            allow_write_beyond_eof: false,
            disable_request_queuing: false,
            dev: None,
            removable: false,
            tray: false,
            tray_open: false,
            iostatus_enabled: false,
            last_flags: super::graph::OpenFlags::default(),
            stats: Arc::default(),
        })
    }

    /// `blk_insert_bs`, as frames: write lock, attach, unlock. Leaves `Val::Done`.
    pub(in crate::world) fn blk_insert_bs(&mut self, blk: BackendId, bs: NodeId) -> Flow {
        self.seq([Frame::GraphWrlock, Frame::BlkAttach(blk, bs), Frame::KeepOver(Box::new(Frame::GraphWrunlock))])
    }

    /// The attaching itself.
    pub(in crate::world) fn blk_attach(&mut self, blk: BackendId, bs: NodeId) -> Flow {
        let backend = &self.graph.backends[blk];
        let (perm, shared) = (backend.perm, backend.shared);
        let result = self.attach_child(bs, "root", Role::Root, Parent::Backend(blk), perm, shared);
        let done = result.map(|child| self.graph.backends[blk].root = Some(child));
        self.ret(Val::Done(done))
    }

    /// `blk_set_perm`
    ///
    /// # Errors
    /// The permission conflict; the backend then keeps what it had.
    pub fn blk_set_perm(&mut self, blk: BackendId, perm: u8, shared: u8) -> Result<(), QmpError> {
        if let Some(root) = self.graph.backends[blk].root {
            let child = &mut self.graph.children[root];
            let old = (child.perm, child.shared);
            (child.perm, child.shared) = (perm, shared);
            let bs = child.bs;
            if let Err(err) = self.perms_of(&[bs]) {
                let child = &mut self.graph.children[root];
                (child.perm, child.shared) = old;
                return Err(err);
            }
        }
        let backend = &mut self.graph.backends[blk];
        (backend.perm, backend.shared) = (perm, shared);
        Ok(())
    }

    /// `blk_unref` of the last reference: `blk_remove_bs`, then gone.
    pub(in crate::world) fn blk_unref(&mut self, blk: BackendId) -> Flow {
        if self.graph.backends[blk].root.is_none() {
            self.graph.backends.remove(blk);
            return Flow::Go;
        }
        // `blk_drain`
        let bs = self.graph.blk_bs(blk).expect("it has a root");
        self.bdrv_ref(bs);
        let idle = Frame::Poll(crate::world::aio::Cond::Backend(blk));
        // Both `blk_unref` and `blk_remove_bs` drain.
        self.seq([
            Frame::DrainedBegin(bs),
            idle.clone(),
            Frame::DrainedEnd(bs),
            Frame::DrainedBegin(bs),
            idle,
            Frame::DrainedEnd(bs),
            Frame::BdrvUnref(bs),
            Frame::GraphWrlock,
            Frame::BlkDetach(blk),
            Frame::GraphWrunlock,
        ])
    }

    /// The detaching itself.
    pub(in crate::world) fn blk_detach(&mut self, blk: BackendId) -> Flow {
        let root = self.graph.backends[blk].root.take().expect("it has a root");
        self.root_unref_child(root);
        self.graph.backends.remove(blk);
        Flow::Go
    }
}
