//! `blockdev-snapshot` and `blockdev-snapshot-sync`: a new image on top of a node (`blockdev.c:external_snapshot_action`).

use super::transaction::ActionState;
use crate::qmp::error::QmpError;
use crate::qmp::types::{BlockdevSnapshotSync, NewImageMode, TransactionAction};
use crate::quirk::KnownCause;
use crate::world::World;
use crate::world::arena::{NodeId, TranId};
use crate::world::block::create::{ImgCreateFrame, NewImage};
use crate::world::block::drain::DrainFrame;
use crate::world::block::edges::EdgesFrame;
use crate::world::block::edges::Role;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::OpenFlags;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::flush::FlushFrame;
use crate::world::block::open::active::ActiveFrame;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::reopen::Reopen;
use crate::world::block::open::reopen::ReopenFrame;
use crate::world::block::open::spec::OpenSpec;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// `ExternalSnapshotState`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExternalSnapshot {
    /// The node that becomes the backing file, drained.
    pub old: NodeId,
    /// The overlay, with a reference.
    pub new: Option<NodeId>,
    /// It is above the old node.
    pub appended: bool,
}

/// What comes next for a snapshot that is being prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotStage {
    /// The old node is drained.
    Drained,
    /// It was flushed.
    Flushed,
    /// The new image was made.
    Created,
    /// It was opened.
    Opened,
    /// It is inactive, as the old node is.
    Inactive,
    /// The old node is its backing file.
    Attached,
    /// It stands in the old one's place.
    Replaced,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ExternalSnapshotFrame {
    DropBacking(NodeId),
    Snapshot(TranId, usize, SnapshotStage),
}

impl ExternalSnapshotFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ExternalSnapshotFrame::DropBacking(node) => w.drop_backing(node),
            ExternalSnapshotFrame::Snapshot(tran, index, stage) => w.snapshot_stage(tran, index, stage),
        }
    }
}

impl World {
    /// `external_snapshot_action`. Leaves `Val::Done`.
    pub(super) fn external_snapshot_action(&mut self, tran: TranId, index: usize, action: &TransactionAction) -> Flow {
        let (device, node) = match action {
            TransactionAction::Snapshot(args) => (Some(&args.node), Some(&args.node)),
            TransactionAction::SnapshotSync(args) => (args.device.as_ref(), args.node_name.as_ref()),
            other => unreachable!("{} takes no snapshot", other.name()),
        };
        let old = match self.bdrv_lookup_bs(device.map(|name| &**name), node.map(|name| &**name)) {
            Ok(old) => old,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        self.trans[tran].states[index] = ActionState::Snapshot(ExternalSnapshot { old, new: None, appended: false });
        self.seq([
            DrainFrame::DrainedBegin(old).into(),
            ExternalSnapshotFrame::Snapshot(tran, index, SnapshotStage::Drained).into(),
        ])
    }

    fn external_snapshot(&mut self, tran: TranId, index: usize) -> &mut ExternalSnapshot {
        match &mut self.trans[tran].states[index] {
            ActionState::Snapshot(state) => state,
            other => unreachable!("a snapshot, not {other:?}"),
        }
    }

    /// One stage of preparing a snapshot. Leaves `Val::Done` in the end.
    fn snapshot_stage(&mut self, tran: TranId, index: usize, stage: SnapshotStage) -> Flow {
        let fail = |w: &mut World, text: String| w.ret(Val::Done(Err(QmpError::generic(text))));
        let ExternalSnapshot { old, new, .. } = *self.external_snapshot(tran, index);
        let next = |stage| ExternalSnapshotFrame::Snapshot(tran, index, stage).into();
        match stage {
            SnapshotStage::Drained => {
                // A job that ended while its filter was drained took it along.
                if self.graph.nodes.get(old).is_none() {
                    let reason = "external_snapshot_action: the node went while it was drained";
                    Self::qemu_is_known_to_use_freed("snapshot-as-a-backup-ends", format!("{old:?}"), reason);
                }
                if !self.graph.is_inserted(old) {
                    let name = self.graph.device_or_node_name(old);
                    return fail(self, format!("Device '{name}' has no medium"));
                }
                if let Some(err) = self.op_blocked(old) {
                    return self.ret(Val::Done(Err(err)));
                }
                if self.graph.nodes[old].flags.rdwr {
                    let flush = Frame::RunCo(Box::new(FlushFrame::BdrvCoFlush(old).into()));
                    return self.seq([flush, next(SnapshotStage::Flushed)]);
                }
                self.seq([next(SnapshotStage::Flushed)])
            }
            SnapshotStage::Flushed => {
                if let Err(errno) = self.take_ret() {
                    let name = self.graph.device_or_node_name(old);
                    return fail(self, format!("Write to node '{name}' failed: {errno}"));
                }
                self.snapshot_create(tran, index, old)
            }
            SnapshotStage::Created => {
                if let Err(err) = self.take_done() {
                    return self.ret(Val::Done(Err(err)));
                }
                let spec = match &self.trans[tran].actions[index] {
                    TransactionAction::Snapshot(args) => OpenSpec::reference(args.overlay.clone()),
                    TransactionAction::SnapshotSync(args) => self.overlay_spec(&args.clone(), old),
                    other => unreachable!("{} takes no snapshot", other.name()),
                };
                self.seq([OpenFrame::BdrvOpen(Arc::new(spec)).into(), next(SnapshotStage::Opened)])
            }
            SnapshotStage::Opened => {
                let opened: Result<NodeId, QmpError> = self.take();
                let new = match opened {
                    Ok(new) => new,
                    Err(err) => return self.ret(Val::Done(Err(err))),
                };
                self.external_snapshot(tran, index).new = Some(new);
                if let Some(text) = self.no_overlay(new) {
                    return fail(self, text.to_owned());
                }
                if self.graph.is_inactive(old) && !self.graph.is_inactive(new) {
                    return self.seq([ActiveFrame::Inactivate(new).into(), next(SnapshotStage::Inactive)]);
                }
                self.leave(Val::Done(Ok(())));
                self.snapshot_stage(tran, index, SnapshotStage::Inactive)
            }
            SnapshotStage::Inactive => {
                if let Err(err) = self.take_done() {
                    return self.ret(Val::Done(Err(err)));
                }
                let new = new.expect("it was opened");
                self.seq([
                    DrainFrame::DrainedBegin(old).into(),
                    DrainFrame::DrainedBegin(new).into(),
                    GraphLockFrame::GraphWrlockOnly.into(),
                    EdgesFrame::AttachToNode { parent: new, name: "backing", role: Role::Cow, bs: old }.into(),
                    next(SnapshotStage::Attached),
                ])
            }
            SnapshotStage::Attached => {
                let new = new.expect("it was opened");
                let frames = [
                    DrainFrame::DrainedEnd(new).into(),
                    DrainFrame::DrainedEnd(old).into(),
                    GraphLockFrame::GraphWrunlock.into(),
                ];
                for frame in frames {
                    self.push(Frame::KeepOver(Box::new(frame)));
                }
                match self.take_done() {
                    Err(err) => self.ret(Val::Done(Err(err))),
                    Ok(()) => {
                        self.seq([EdgesFrame::ReplaceNode { from: old, to: new }.into(), next(SnapshotStage::Replaced)])
                    }
                }
            }
            SnapshotStage::Replaced => {
                let done = self.take_done();
                let new = new.expect("it was opened");
                match &done {
                    Ok(()) => {
                        self.external_snapshot(tran, index).appended = true;
                        self.refresh_limits(new);
                    }
                    Err(_) => {
                        let edge = self.graph.nodes[new].backing.expect("just attached");
                        self.root_unref_child(edge);
                    }
                }
                self.ret(Val::Done(done))
            }
        }
    }

    /// `blockdev-snapshot-sync` makes the overlay first.
    fn snapshot_create(&mut self, tran: TranId, index: usize, old: NodeId) -> Flow {
        let next = ExternalSnapshotFrame::Snapshot(tran, index, SnapshotStage::Created).into();
        let TransactionAction::SnapshotSync(args) = self.trans[tran].actions[index].clone() else {
            self.leave(Val::Done(Ok(())));
            return self.seq([next]);
        };
        let name = args.snapshot_node_name.as_deref();
        let text = match name {
            None if args.node_name.is_some() => Some("New overlay node-name missing"),
            Some(name) if self.graph.lookup(Some(name), Some(name)).is_some() => {
                Some("New overlay node-name already in use")
            }
            _ => None,
        };
        if let Some(text) = text {
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        if args.mode == Some(NewImageMode::Existing) {
            self.leave(Val::Done(Ok(())));
            return self.seq([next]);
        }
        let (size, format) = (self.bdrv_getlength(old), self.graph.nodes[old].drv().format_name());
        let backing = Some((self.filename_of(old), Arc::from(format)));
        let format = args.format.clone().unwrap_or_else(|| "qcow2".into());
        self.seq([
            ImgCreateFrame::ImgCreate(Box::new(NewImage {
                path: args.snapshot_file.clone(),
                format,
                backing,
                look: false,
                size,
            }))
            .into(),
            next,
        ])
    }

    /// How the overlay of `blockdev-snapshot-sync` is opened: as its backing file was, without one.
    fn overlay_spec(&self, args: &BlockdevSnapshotSync, old: NodeId) -> OpenSpec {
        let flags =
            OpenFlags { no_backing: true, force_share: false, copy_on_read: false, ..self.graph.nodes[old].flags };
        let format = args.format.as_deref().unwrap_or("qcow2");
        let mut spec = OpenSpec::from_filename(&args.snapshot_file, Some(format), flags);
        spec.name(args.snapshot_node_name.as_ref());
        spec
    }

    /// Why a node can't be an overlay.
    fn no_overlay(&self, new: NodeId) -> Option<&'static str> {
        let node = &self.graph.nodes[new];
        let driver = node.drv();
        if self.graph.cumulative_perm(new).0 & perm::CONSISTENT_READ != 0 {
            return Some("The overlay is already in use");
        }
        if driver.is_filter() {
            return Some("Filters cannot be used as overlays");
        }
        if node.backing.is_some() {
            return Some("The overlay already has a backing image");
        }
        (!driver.supports_backing()).then_some("The overlay does not support backing images")
    }

    /// `external_snapshot_commit`: the backing file becomes read-only. If that fails nobody is told.
    pub(super) fn external_snapshot_commit(&mut self, state: ExternalSnapshot) -> Flow {
        if self.graph.nodes[state.old].copy_on_read > 0 {
            return Flow::Go;
        }
        let reopen = Reopen::set_read_only(self, state.old, true);
        self.seq([ReopenFrame::Reopen(Box::new(reopen)).into(), Frame::Give(Box::new(Val::None))])
    }

    /// `external_snapshot_abort`
    pub(super) fn external_snapshot_abort(&mut self, state: ExternalSnapshot) -> Flow {
        let (Some(new), true) = (state.new, state.appended) else { return Flow::Go };
        let old = state.old;
        self.see_detour(new);
        self.bdrv_ref(old);
        self.seq([
            DrainFrame::DrainedBegin(old).into(),
            GraphLockFrame::GraphWrlockOnly.into(),
            ExternalSnapshotFrame::DropBacking(new).into(),
            GraphLockFrame::GraphWrunlock.into(),
            DrainFrame::DrainedEnd(old).into(),
            DrainFrame::DrainedBegin(new).into(),
            GraphLockFrame::GraphWrlockOnly.into(),
            EdgesFrame::ReplaceNode { from: new, to: old }.into(),
            GraphLockFrame::GraphWrunlock.into(),
            DrainFrame::DrainedEnd(new).into(),
            GraphFrame::BdrvUnref(old).into(),
        ])
    }

    /// Jobs whose node stands on an overlay that is given up: when it has no backing file any more, and before it leaves, they go on
    /// for a moment, and read zeroes.
    fn see_detour(&mut self, overlay: NodeId) {
        for job in self.jobs.list.clone() {
            let nodes = &self.jobs[job].nodes;
            if nodes.iter().any(|edge| self.stands_on(self.graph.bs(*edge), overlay)) {
                self.see_excuse(job, KnownCause::Page("aborted-snapshot-below-a-backup"), None);
            }
        }
    }

    /// `bdrv_set_backing_hd` to none, the change itself.
    pub(in crate::world) fn drop_backing(&mut self, node: NodeId) -> Flow {
        if let Some(edge) = self.graph.nodes[node].backing {
            self.root_unref_child(edge);
        }
        Flow::Go
    }

    /// `external_snapshot_clean`
    pub(super) fn external_snapshot_clean(&mut self, state: ExternalSnapshot) -> Flow {
        if self.graph.nodes.get(state.old).is_some_and(|node| node.quiesce_counter > 0) {
            self.polled_section_ends(state.old);
        }
        match state.new {
            Some(new) => self.seq([GraphFrame::BdrvUnref(new).into()]),
            None => Flow::Go,
        }
    }
}
