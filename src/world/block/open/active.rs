//! Nodes that are active or not (`block.c`): one that is inactive writes nothing, as another process may be using its image. It is how a
//! migration hands images over, and what `blockdev-set-active` sets.

use crate::base::errno::{Errno, Ret};
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::{BackendId, ChildId, NodeId};
use crate::world::block::backend::BdrvNext;
use crate::world::block::drain::DrainFrame;
use crate::world::block::edges::{Parent, Role};
use crate::world::block::graph::{Graph, OpenFlags};
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;

/// The page of `docs/findings` about what QEMU does not expect of inactive nodes.
const PAGE: &str = "inactive-node-in-use";

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ActiveFrame {
    Activate(NodeId),
    /// `bdrv_activate`, behind the children.
    ActivateItself(NodeId),
    Invalidated(NodeId),
    ActivateAll,
    Inactivate(NodeId),
    InactivateRecurse(NodeId),
    /// `bdrv_inactivate_recurse`, once the driver has written what it holds.
    DriverInactivated(NodeId),
    SetInactive(NodeId),
    InactivateChildren(NodeId),
    InactivateAll,
    /// `bdrv_inactivate_all` for one node.
    InactivateRoot(NodeId),
    /// The error of a command, which begins so.
    Inactivated(&'static str),
}

impl ActiveFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ActiveFrame::Activate(node) => w.bdrv_activate(node),
            ActiveFrame::ActivateItself(node) => w.activate_itself(node),
            ActiveFrame::Invalidated(node) => w.invalidated(node),
            ActiveFrame::ActivateAll => w.bdrv_activate_all(),
            ActiveFrame::Inactivate(node) => w.bdrv_inactivate(node),
            ActiveFrame::InactivateRecurse(node) => w.bdrv_inactivate_recurse(node),
            ActiveFrame::DriverInactivated(node) => w.driver_inactivated(node),
            ActiveFrame::SetInactive(node) => w.set_inactive(node),
            ActiveFrame::InactivateChildren(node) => w.inactivate_children(node),
            ActiveFrame::InactivateAll => w.bdrv_inactivate_all(),
            ActiveFrame::InactivateRoot(node) => w.inactivate_root(node),
            ActiveFrame::Inactivated(text) => w.inactivated(text),
        }
    }
}

impl OpenFlags {
    /// `bdrv_is_writable`
    #[must_use]
    pub fn writable(self) -> bool {
        self.rdwr && !self.inactive
    }
}

impl Graph {
    /// Whether any node is inactive.
    #[must_use]
    pub fn any_inactive(&self) -> bool {
        self.nodes.iter().any(|(_, node)| node.flags.inactive)
    }

    /// `bdrv_is_inactive`
    #[must_use]
    pub fn is_inactive(&self, node: NodeId) -> bool {
        self.nodes.get(node).is_some_and(|node| node.flags.inactive)
    }

    /// `bdrv_has_bds_parent`: whether a node stands on it; with `active`, one that is active.
    fn has_bds_parent(&self, node: NodeId, active: bool) -> bool {
        self.nodes[node].parents.iter().any(|edge| match self.children[*edge].parent {
            Parent::Node(parent) => !active || !self.nodes[parent].flags.inactive,
            Parent::Backend(_) | Parent::Job(_) => false,
        })
    }

    /// `blk_can_inactivate`
    #[must_use]
    pub fn can_inactivate(&self, blk: BackendId) -> bool {
        let backend = &self.backends[blk];
        backend.dev.is_some()
            || !backend.name.is_empty()
            || backend.perm & !perm::CONSISTENT_READ == 0
            || backend.force_allow_inactivate
    }

    /// The nodes that `bdrv_next` comes to.
    fn bdrv_all(&self) -> Vec<NodeId> {
        let mut it = BdrvNext::default();
        std::iter::from_fn(|| self.bdrv_next(&mut it)).collect()
    }
}

impl World {
    /// What `bdrv_attach_child_noperm` and `bdrv_attach_child_common` refuse of a node that is inactive.
    pub(in crate::world) fn refuse_inactive(
        &self,
        bs: NodeId,
        name: &str,
        role: Role,
        parent: Parent,
        perm: u8,
    ) -> Result<(), QmpError> {
        let nodes = &self.graph.nodes;
        if !nodes[bs].flags.inactive {
            return Ok(());
        }
        let taken = match parent {
            Parent::Node(parent) if !nodes[parent].flags.inactive => {
                let (child, parent) = (&nodes[bs].node_name, &nodes[parent].node_name);
                let text = format!("Inactive '{child}' can't be a {name} child of active '{parent}'");
                return Err(QmpError::generic(text));
            }
            Parent::Node(parent) => match &nodes[parent].driver {
                Some(driver) => {
                    let (taken, shared) = self.graph.cumulative_perm(parent);
                    (driver.row().child_perm)(&nodes[parent], role, taken, shared).0
                }
                None => 0,
            },
            Parent::Backend(_) | Parent::Job(_) => perm,
        };
        if taken & !perm::CONSISTENT_READ == 0 {
            return Ok(());
        }
        Err(QmpError::generic(format!("Permission '{}' unavailable on inactive node", perm::names(taken))))
    }

    /// A request changes a node that is inactive (`bdrv_co_write_req_prepare`).
    pub(in crate::world) fn write_to_inactive(&self, node: NodeId) -> ! {
        let reason = "bdrv_co_write_req_prepare: the node is inactive";
        Self::qemu_is_known_to_abort(PAGE, format!("node {}", self.graph.nodes[node].node_name), reason)
    }

    /// `qmp_blockdev_set_active`. Leaves `Val::Done`.
    pub(in crate::world) fn blockdev_set_active(&mut self, name: Option<&str>, active: bool) -> Flow {
        let frame = match name.map(|name| self.graph.find_node(name).ok_or(name)) {
            None if active => ActiveFrame::ActivateAll,
            None => ActiveFrame::InactivateAll,
            Some(Ok(node)) if active => ActiveFrame::Activate(node),
            Some(Ok(node)) => ActiveFrame::Inactivate(node),
            Some(Err(name)) => {
                let text = format!("Failed to find node with node-name='{name}'");
                return self.ret(Val::Done(Err(QmpError::generic(text))));
            }
        };
        self.seq([frame.into()])
    }

    /// `bdrv_activate`. Leaves `Val::Done`.
    fn bdrv_activate(&mut self, node: NodeId) -> Flow {
        self.leave(Val::Done(Ok(())));
        let Some(n) = self.graph.nodes.get(node).filter(|n| n.has_drv()) else { return Flow::Go };
        let children: Vec<NodeId> = n.children.iter().map(|edge| self.graph.bs(*edge)).collect();
        self.push(Frame::if_ok([ActiveFrame::ActivateItself(node).into()]));
        for child in children.into_iter().rev() {
            self.push(Frame::if_ok([ActiveFrame::Activate(child).into()]));
        }
        Flow::Go
    }

    /// The node itself, once all below it are active.
    ///
    /// Unlike QEMU, which opens an image anew under the reads that are in flight, it waits for these.
    fn activate_itself(&mut self, node: NodeId) -> Flow {
        let Some(n) = self.graph.nodes.get_mut(node) else { return Flow::Go };
        if !n.flags.inactive {
            return self.activate_parents(node);
        }
        n.flags.inactive = false;
        let (busy, invalidate) = (n.in_flight > 0, n.drv().row().invalidate_cache);
        if let Err(err) = self.perms_of(&[node]) {
            self.graph.nodes[node].flags.inactive = true;
            return self.ret(Val::Done(Err(err)));
        }
        self.leave(Val::Done(Ok(())));
        let Some(invalidate) = invalidate else { return self.invalidated(node) };
        let reopen = Frame::RunCo(Box::new(invalidate(node)));
        if busy {
            return self.seq([
                DrainFrame::DrainedBegin(node).into(),
                reopen,
                Frame::KeepOver(Box::new(DrainFrame::DrainedEnd(node).into())),
                ActiveFrame::Invalidated(node).into(),
            ]);
        }
        self.seq([reopen, ActiveFrame::Invalidated(node).into()])
    }

    /// Behind `bdrv_invalidate_cache`.
    fn invalidated(&mut self, node: NodeId) -> Flow {
        if let Err(err) = self.take_done() {
            let n = &mut self.graph.nodes[node];
            (n.flags.inactive, n.dropped) = (true, true);
            self.graph.any_dropped = true;
            let text = format!("Could not reopen qcow2 layer: {}", err.desc);
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        self.refresh_total_sectors(node);
        self.activate_parents(node)
    }

    /// The end of `bdrv_activate`: backends take and share again what they did (`blk_root_activate`).
    fn activate_parents(&mut self, node: NodeId) -> Flow {
        for edge in self.graph.nodes[node].parents.clone() {
            let Parent::Backend(blk) = self.graph.children[edge].parent else { continue };
            let backend = &mut self.graph.backends[blk];
            if !std::mem::take(&mut backend.disable_perm) {
                continue;
            }
            let (taken, shared) = (backend.perm, backend.shared);
            let all = self.blk_set_perm(blk, taken, perm::ALL);
            self.graph.backends[blk].shared = shared;
            if let Err(err) = all.and_then(|()| self.blk_set_perm(blk, taken, shared)) {
                self.graph.backends[blk].disable_perm = true;
                self.graph.nodes[node].flags.inactive = true;
                return self.ret(Val::Done(Err(err)));
            }
        }
        self.ret(Val::Done(Ok(())))
    }

    /// `bdrv_activate_all`. Leaves `Val::Done`.
    fn bdrv_activate_all(&mut self) -> Flow {
        self.leave(Val::Done(Ok(())));
        for node in self.graph.bdrv_all().into_iter().rev() {
            self.push(Frame::if_ok([ActiveFrame::Activate(node).into()]));
        }
        Flow::Go
    }

    /// `bdrv_inactivate`. Leaves `Val::Done`.
    fn bdrv_inactivate(&mut self, node: NodeId) -> Flow {
        if self.graph.has_bds_parent(node, true) {
            return self.ret(Val::Done(Err(QmpError::generic("Node has active parent node"))));
        }
        self.seq([
            ActiveFrame::InactivateRecurse(node).into(),
            ActiveFrame::Inactivated("Failed to inactivate node").into(),
        ])
    }

    /// `bdrv_inactivate_recurse`. Leaves `Val::Ret`.
    fn bdrv_inactivate_recurse(&mut self, node: NodeId) -> Flow {
        let Some(n) = self.graph.nodes.get(node) else { return self.ret(Val::Ret(Ok(()))) };
        if !n.has_drv() {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        if n.flags.inactive || self.graph.has_bds_parent(node, true) {
            return self.ret(Val::Ret(Ok(())));
        }
        let inactivate = n.drv().row().inactivate;
        self.leave(Val::Ret(Ok(())));
        match inactivate {
            Some(inactivate) => {
                self.seq([Frame::RunCo(Box::new(inactivate(node))), ActiveFrame::DriverInactivated(node).into()])
            }
            None => self.driver_inactivated(node),
        }
    }

    /// Users that let go of their permissions do so, and where one keeps them, the node stays active.
    fn driver_inactivated(&mut self, node: NodeId) -> Flow {
        let done: Ret = self.take_ret().and_then(|()| self.inactivate_parents(node));
        if done.is_err() {
            return self.ret(Val::Ret(done));
        }
        if self.graph.cumulative_perm(node).0 & (perm::WRITE | perm::WRITE_UNCHANGED) != 0 {
            return self.ret(Val::err(Errno::EPERM));
        }
        self.seq([
            DrainFrame::DrainedBegin(node).into(),
            ActiveFrame::SetInactive(node).into(),
            DrainFrame::DrainedEnd(node).into(),
            ActiveFrame::InactivateChildren(node).into(),
        ])
    }

    /// `blk_root_inactivate` of all backends of the node.
    fn inactivate_parents(&mut self, node: NodeId) -> Ret {
        for edge in self.graph.nodes[node].parents.clone() {
            let Parent::Backend(blk) = self.graph.children[edge].parent else { continue };
            if self.graph.backends[blk].disable_perm {
                continue;
            }
            if !self.graph.can_inactivate(blk) {
                return Err(Errno::EPERM);
            }
            self.graph.backends[blk].disable_perm = true;
            self.give_up_perms(edge);
        }
        Ok(())
    }

    /// `bdrv_child_try_set_perm` to nothing, with all shared.
    fn give_up_perms(&mut self, edge: ChildId) {
        let child = &mut self.graph.children[edge];
        (child.perm, child.shared) = (0, perm::ALL);
        let node = child.bs;
        self.perms_of(&[node]).expect("giving up permissions cannot cause a conflict");
    }

    /// In a drained section.
    fn set_inactive(&mut self, node: NodeId) -> Flow {
        self.graph.nodes[node].flags.inactive = true;
        Flow::Go
    }

    /// The rest of `bdrv_inactivate_recurse`.
    fn inactivate_children(&mut self, node: NodeId) -> Flow {
        self.leave(Val::Ret(Ok(())));
        // What is asked for has become less, so errors do not matter.
        let _ = self.perms_of(&[node]);
        let children: Vec<NodeId> = self.graph.nodes[node].children.iter().map(|edge| self.graph.bs(*edge)).collect();
        for child in children.into_iter().rev() {
            self.push(Frame::if_ok([ActiveFrame::InactivateRecurse(child).into()]));
        }
        Flow::Go
    }

    /// `bdrv_inactivate_all`. Leaves `Val::Done`.
    fn bdrv_inactivate_all(&mut self) -> Flow {
        self.leave(Val::Ret(Ok(())));
        self.push(ActiveFrame::Inactivated("Failed to inactivate all nodes").into());
        for node in self.graph.bdrv_all().into_iter().rev() {
            self.push(Frame::if_ok([ActiveFrame::InactivateRoot(node).into()]));
        }
        Flow::Go
    }

    /// A node with others above it is covered by them.
    fn inactivate_root(&mut self, node: NodeId) -> Flow {
        if self.graph.nodes.get(node).is_none() || self.graph.has_bds_parent(node, false) {
            return self.ret(Val::Ret(Ok(())));
        }
        self.bdrv_inactivate_recurse(node)
    }

    /// What a command says of it.
    fn inactivated(&mut self, text: &str) -> Flow {
        let done = self.take_ret().map_err(|errno| QmpError::generic(format!("{text}: {errno}")));
        self.ret(Val::Done(done))
    }

    /// `qcow2_inactivate`, behind the writing: bitmaps that were stored are in the image alone.
    pub(in crate::world) fn release_stored_bitmaps(&mut self, node: NodeId) {
        let bitmaps = &self.graph.nodes[node].bitmaps;
        let stored = |b: &&crate::bitmap::DirtyBitmap| b.name().is_some() && b.to_be_stored() && !b.inconsistent();
        let stored: Vec<_> = bitmaps.iter().filter(stored).map(|b| (b.id(), b.busy())).collect();
        for (id, busy) in stored {
            if busy {
                let reason = "bdrv_release_dirty_bitmap_locked: a bitmap is in use";
                Self::qemu_is_known_to_abort(PAGE, format!("node {}", self.graph.nodes[node].node_name), reason);
            }
            self.graph.nodes[node].bitmaps.release(id);
        }
    }
}
