//! The `transaction` command, and commands that are transactions of one action (`blockdev.c`).
//!
//! Which actions start jobs, the tables of commands that start jobs say ([`JobActions`]).
//!
//! Actions are prepared in order; then all are committed and cleaned up in reverse order, or, if one failed, aborted and cleaned
//! up in reverse order, the failing one first.

use super::JOB_COMMANDS;
use super::external_snapshot::ExternalSnapshot;
use crate::bitmap::{BitmapId, CheckFlags, DirtyBitmap, HBitmap};
use crate::qmp::error::QmpError;
use crate::qmp::types::{ActionCompletionMode, Transaction as TransactionArgs, TransactionAction};
use crate::quirk::Quirk;
use crate::trace::{Level, RecordKind, TxnPhase};
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{JobId, NodeId, TranId, TxnId, used_after_free};
use crate::world::block::drain::DrainFrame;
use crate::world::frame::Flow;
use crate::world::job::JobFrame;
use crate::world::job::commands::JobActions;
use crate::world::job::txn::TxnFrame;
use crate::world::value::Val;
use crate::world::watch::feed::Seen;
use crate::world::watch::marks::CodePlace;
use std::sync::Arc;

/// What an action has done so far, as its commit, abort and clean need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ActionState {
    /// Nothing to undo.
    Nothing,
    /// `block_dirty_bitmap_add_action`
    BitmapAdded(NodeId, BitmapId),
    /// `block_dirty_bitmap_clear_action`, `block_dirty_bitmap_merge_action`: the data from before.
    BitmapReplaced(NodeId, BitmapId, HBitmap),
    /// `block_dirty_bitmap_enable_action`, `block_dirty_bitmap_disable_action`: whether it was enabled.
    BitmapSwitched(NodeId, BitmapId, bool),
    /// `block_dirty_bitmap_remove_action`
    BitmapRemoved(NodeId, BitmapId),
    /// An action that starts a job.
    Job(JobAction),
    /// `external_snapshot_action`
    Snapshot(ExternalSnapshot),
}

/// What an action that starts a job has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobAction {
    /// The node that it drained until it is cleaned up.
    pub(super) drained: Option<NodeId>,
    /// Its job, once there is one.
    pub(super) job: Option<JobId>,
    /// The drained section does not end if there is no job yet: with a quirk.
    pub(super) leaves_drain: bool,
}

impl JobAction {
    /// One that has drained a node.
    pub(super) fn draining(bs: NodeId) -> JobAction {
        JobAction { drained: Some(bs), job: None, leaves_drain: false }
    }
}

/// `Transaction`, with its actions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// The actions asked for.
    pub actions: Arc<[TransactionAction]>,
    /// States of those registered, in the order of registration.
    pub states: Vec<ActionState>,
    /// The group, for grouped completion.
    pub txn: Option<TxnId>,
    /// The error that stopped it.
    pub error: Option<QmpError>,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum TransactionFrame {
    TranPrepare(TranId, usize),
    TranPrepared(TranId, usize),
    TranCommit(TranId, usize),
    TranAbort(TranId, usize),
    TranClean(TranId, usize),
    TranEnd(TranId),
}

impl TransactionFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            TransactionFrame::TranPrepare(tran, index) => w.tran_prepare(tran, index),
            TransactionFrame::TranPrepared(tran, index) => w.tran_prepared(tran, index),
            TransactionFrame::TranCommit(tran, index) => w.tran_commit(tran, index),
            TransactionFrame::TranAbort(tran, index) => w.tran_abort(tran, index),
            TransactionFrame::TranClean(tran, index) => w.tran_clean(tran, index),
            TransactionFrame::TranEnd(tran) => w.tran_end(tran),
        }
    }
}

/// The tables of actions that start jobs.
fn job_actions() -> impl Iterator<Item = &'static JobActions> {
    JOB_COMMANDS.iter().filter_map(|commands| commands.actions.as_ref())
}

/// Whether an action can be one of a group: those that start jobs can. `abort` fails in its own way where each is asked when it is prepared.
fn groupable(action: &TransactionAction) -> bool {
    job_actions().any(|actions| actions.names.contains(&action.name()))
}

impl World {
    /// `qmp_transaction`. Leaves `Val::Done`.
    pub(in crate::world) fn qmp_transaction(&mut self, args: &TransactionArgs) -> Flow {
        let grouped = args.properties.and_then(|p| p.completion_mode) == Some(ActionCompletionMode::Grouped);
        if grouped && self.quirks.since(Change::TransactionApi) {
            for action in &args.actions {
                if !groupable(action) {
                    let text = format!(
                        "Action '{}' does not support transaction property completion-mode = grouped",
                        action.name()
                    );
                    return self.ret(Val::Done(Err(QmpError::generic(text))));
                }
            }
        }
        let txn = grouped.then(|| self.job_txn_new(true));
        let actions: Arc<[TransactionAction]> = args.actions.clone().into();
        let tran = self.trans.insert(Transaction { actions, states: Vec::new(), txn, error: None });
        self.seq([DrainFrame::DrainAll.into(), TransactionFrame::TranPrepare(tran, 0).into()])
    }

    /// `blockdev_do_action`
    pub(in crate::world) fn blockdev_do_action(&mut self, action: TransactionAction) -> Flow {
        self.qmp_transaction(&TransactionArgs { actions: vec![action], properties: None })
    }

    fn trace_tran(&mut self, phase: TxnPhase, tran: TranId, index: usize) {
        let actions = &self.trans[tran].actions;
        let (number, action) = (u32::try_from(index).unwrap_or(u32::MAX), actions[index].name());
        if self.feed.on {
            self.feed.marks.note_txn(phase, action);
        }
        self.trace.emit(Level::Job, self.now, || RecordKind::Txn { phase, index: number, action });
    }

    /// Prepares the next action, or goes on to committing.
    fn tran_prepare(&mut self, tran: TranId, index: usize) -> Flow {
        if self.feed.on && index == 0 {
            let standing = self.standing();
            self.feed.seen.push(Seen::TranBegin(tran, standing));
        }
        let t = &mut self.trans[tran];
        let Some(action) = t.actions.get(index).cloned() else {
            let last = t.states.len();
            return self.seq([
                TransactionFrame::TranCommit(tran, last).into(),
                TransactionFrame::TranClean(tran, last).into(),
                TransactionFrame::TranEnd(tran).into(),
            ]);
        };
        t.states.push(ActionState::Nothing);
        let txn = t.txn;
        self.trace_tran(TxnPhase::Prepare, tran, index);
        self.push(TransactionFrame::TranPrepared(tran, index).into());
        if txn.is_some()
            && !self.quirks.since(Change::TransactionApi)
            && !groupable(&action)
            && action != TransactionAction::Abort
        {
            let name = action.name();
            let text = format!("Action '{name}' does not support Transaction property completion-mode = grouped");
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        if let Some(actions) = job_actions().find(|actions| actions.names.contains(&action.name())) {
            return (actions.prepare)(self, (tran, index), action, txn);
        }
        match action {
            action @ (TransactionAction::Snapshot(_) | TransactionAction::SnapshotSync(_)) => {
                self.external_snapshot_action(tran, index, &action)
            }
            action => {
                let result = self.bitmap_action(&action);
                if let Ok(state) = &result {
                    self.trans[tran].states[index] = state.clone();
                }
                if let (Ok(ActionState::BitmapRemoved(bs, id)), TransactionAction::BitmapRemove(args)) =
                    (&result, &action)
                    && self.graph.nodes[*bs].bitmaps.get(*id).is_some_and(|b| b.persistent())
                {
                    return self.remove_stored_bitmap(*bs, &args.name);
                }
                self.ret(Val::Done(result.map(drop)))
            }
        }
    }

    /// After an action was prepared.
    fn tran_prepared(&mut self, tran: TranId, index: usize) -> Flow {
        match self.take_done() {
            Ok(()) => self.seq([TransactionFrame::TranPrepare(tran, index + 1).into()]),
            Err(err) => {
                self.trace_tran(TxnPhase::Refuse, tran, index);
                let t = &mut self.trans[tran];
                t.error = Some(err);
                let last = t.states.len();
                self.seq([
                    TransactionFrame::TranAbort(tran, last).into(),
                    TransactionFrame::TranClean(tran, last).into(),
                    TransactionFrame::TranEnd(tran).into(),
                ])
            }
        }
    }

    /// The actions about bitmaps, `abort`, and those that are not simulated.
    fn bitmap_action(&mut self, action: &TransactionAction) -> Result<ActionState, QmpError> {
        match action {
            TransactionAction::Abort => Err(QmpError::generic("Transaction aborted using Abort action")),
            TransactionAction::BitmapAdd(args) => {
                let (bs, id) = self.bitmap_add(args)?;
                Ok(ActionState::BitmapAdded(bs, id))
            }
            TransactionAction::BitmapClear(args) => {
                let (bs, id) = self.bitmap_lookup(args)?;
                self.bitmap_check(bs, id, CheckFlags::DEFAULT)?;
                let old = self.graph.nodes[bs].bitmaps.get_mut(id).expect("just found").clear();
                self.see_fresh_bitmap(bs, id);
                Ok(ActionState::BitmapReplaced(bs, id, old))
            }
            TransactionAction::BitmapEnable(args) | TransactionAction::BitmapDisable(args) => {
                let (bs, id) = self.bitmap_lookup(args)?;
                if self.quirks.has(Quirk::BusyBitmapUnguarded) {
                    if self.graph.nodes[bs].bitmaps.get(id).is_some_and(|bitmap| bitmap.successor().is_some()) {
                        let subject = format!("bitmap {} of {}", args.name, self.graph.nodes[bs].node_name);
                        Self::qemu_aborts(subject, "bdrv_enable_dirty_bitmap: it is frozen");
                    }
                } else {
                    self.bitmap_check(bs, id, CheckFlags::ALLOW_RO)?;
                }
                let bitmap = self.graph.nodes[bs].bitmaps.get_mut(id).expect("just found");
                let was = bitmap.enabled();
                bitmap.set_enabled(matches!(action, TransactionAction::BitmapEnable(_)));
                let name = bitmap.name().cloned();
                self.see_stale_bitmap(bs, name);
                Ok(ActionState::BitmapSwitched(bs, id, was))
            }
            TransactionAction::BitmapMerge(args) => {
                let (bs, id, old) = self.bitmap_merge(args)?;
                Ok(ActionState::BitmapReplaced(bs, id, old))
            }
            TransactionAction::BitmapRemove(args) => {
                let (bs, id) = self.bitmap_lookup(args)?;
                self.bitmap_check(bs, id, CheckFlags::REMOVE)?;
                let bitmap = self.graph.nodes[bs].bitmaps.get_mut(id).expect("just found");
                bitmap.set_skip_store(true);
                bitmap.set_busy(true);
                Ok(ActionState::BitmapRemoved(bs, id))
            }
            other => Err(QmpError::generic(format!("not simulated: {}", other.name()))),
        }
    }

    /// Which action is committed or cleaned up when as many are left after it: the transaction API takes the newest first.
    fn tran_turn(&self, tran: TranId, left: usize) -> usize {
        match self.quirks.since(Change::TransactionApi) {
            true => left,
            false => self.trans[tran].states.len() - 1 - left,
        }
    }

    /// Commits action `index - 1` and those before it.
    fn tran_commit(&mut self, tran: TranId, index: usize) -> Flow {
        let Some(left) = index.checked_sub(1) else { return Flow::Go };
        self.push(TransactionFrame::TranCommit(tran, left).into());
        let index = self.tran_turn(tran, left);
        self.trace_tran(TxnPhase::Commit, tran, index);
        match self.trans[tran].states[index].clone() {
            ActionState::Job(_) if self.quirks.has(Quirk::TxnStartInPrepare) => Flow::Go,
            ActionState::Job(JobAction { job: Some(job), .. }) => self.seq([JobFrame::JobStart(job).into()]),
            ActionState::Snapshot(state) => self.external_snapshot_commit(state),
            ActionState::BitmapRemoved(bs, id) => {
                let bitmaps = &mut self.graph.nodes[bs].bitmaps;
                if let Some(bitmap) = bitmaps.get_mut(id) {
                    bitmap.set_busy(false);
                }
                let released = bitmaps.release(id);
                self.see_stale_bitmap(bs, released.and_then(|bitmap| bitmap.name().cloned()));
                Flow::Go
            }
            _ => Flow::Go,
        }
    }

    /// Aborts action `left - 1` and those before it.
    fn tran_abort(&mut self, tran: TranId, left: usize) -> Flow {
        let Some(index) = left.checked_sub(1) else { return Flow::Go };
        self.push(TransactionFrame::TranAbort(tran, index).into());
        let fifo = self.quirks.has(Quirk::TxnAbortFifo);
        let index = if fifo { self.trans[tran].states.len() - left } else { index };
        self.trace_tran(TxnPhase::Abort, tran, index);
        match self.trans[tran].states[index].clone() {
            ActionState::Job(JobAction { job: Some(job), .. }) if self.jobs.get(job).is_some() => {
                self.reach(CodePlace::UndoJob);
                return self.seq([TxnFrame::JobCancelSync(job).into()]);
            }
            ActionState::Snapshot(state) => return self.external_snapshot_abort(state),
            ActionState::BitmapAdded(bs, id) => self.bitmap_add_abort(tran, index, bs, id),
            ActionState::Nothing if self.quirks.has(Quirk::TxnUndoUnprepared) => {
                if let TransactionAction::BitmapClear(args) = &self.trans[tran].actions[index] {
                    let subject = format!("bitmap {}", args.name);
                    Self::qemu_aborts(subject, "bdrv_undo_clear_dirty_bitmap: nothing was saved");
                }
            }
            ActionState::BitmapReplaced(bs, id, old) => {
                self.reach(CodePlace::UndoBitmapRestored);
                if let Some(bitmap) = self.bitmap_to_undo(tran, index, bs, id) {
                    bitmap.restore(old);
                }
            }
            ActionState::BitmapSwitched(bs, id, was) => {
                self.reach(CodePlace::UndoBitmapSwitched);
                if let Some(bitmap) = self.bitmap_to_undo(tran, index, bs, id) {
                    bitmap.set_enabled(was);
                }
            }
            ActionState::BitmapRemoved(bs, id) => {
                self.reach(CodePlace::UndoBitmapKept);
                if let Some(bitmap) = self.graph.nodes.get_mut(bs).and_then(|node| node.bitmaps.get_mut(id)) {
                    bitmap.set_skip_store(false);
                    bitmap.set_busy(false);
                }
            }
            ActionState::Nothing | ActionState::Job(_) => {}
        }
        Flow::Go
    }

    /// The bitmap that an action changed. Unlike QEMU, which goes on with the one that it found then even if a job with
    /// bitmap-mode=always has replaced it when it was cancelled, this looks it up again. There is none if its node, the filter of a job, went
    /// along with that job while another action drained it.
    fn bitmap_to_undo(&mut self, tran: TranId, index: usize, bs: NodeId, id: BitmapId) -> Option<&mut DirtyBitmap> {
        let bitmaps = &self.graph.nodes.get(bs)?.bitmaps;
        let now = match bitmaps.get(id) {
            Some(_) => id,
            None => {
                let name = match &self.trans[tran].actions[index] {
                    TransactionAction::BitmapAdd(args) => &args.name,
                    TransactionAction::BitmapClear(args)
                    | TransactionAction::BitmapEnable(args)
                    | TransactionAction::BitmapDisable(args) => &args.name,
                    TransactionAction::BitmapMerge(args) => &args.target,
                    _ => return None,
                };
                bitmaps.find(name)?
            }
        };
        self.graph.nodes[bs].bitmaps.get_mut(now)
    }

    /// `block_dirty_bitmap_add_abort`
    fn bitmap_add_abort(&mut self, tran: TranId, index: usize, bs: NodeId, id: BitmapId) {
        if !self.quirks.since(Change::TransactionApi) {
            // It looks the bitmap up by its name.
            if let TransactionAction::BitmapAdd(args) = &self.trans[tran].actions[index]
                && let Some(now) = self.graph.nodes.get(bs).and_then(|node| node.bitmaps.find(&args.name))
            {
                self.reach(CodePlace::UndoBitmapAdded);
                self.graph.nodes[bs].bitmaps.release(now);
            }
            return;
        }
        let superseded = self.graph.nodes.get(bs).is_none_or(|node| node.bitmaps.get(id).is_none());
        self.reach(if superseded { CodePlace::UndoBitmapSuperseded } else { CodePlace::UndoBitmapAdded });
        if superseded && self.quirks.has(Quirk::BitmapAddUndoAfterAbdicate) {
            used_after_free(&id);
        }
        if let Some(bitmap) = self.bitmap_to_undo(tran, index, bs, id) {
            let id = bitmap.id();
            if bitmap.busy() {
                // Only with a quirk: whoever uses it was undone before.
                let name = bitmap.name().map_or("", |name| name);
                Self::qemu_aborts(format!("bitmap {name}"), "bdrv_release_dirty_bitmap: it is in use");
            }
            self.graph.nodes[bs].bitmaps.release(id);
        }
    }

    /// Cleans up after action `index - 1` and those before it.
    fn tran_clean(&mut self, tran: TranId, index: usize) -> Flow {
        let Some(left) = index.checked_sub(1) else { return Flow::Go };
        self.push(TransactionFrame::TranClean(tran, left).into());
        let index = self.tran_turn(tran, left);
        self.trace_tran(TxnPhase::Clean, tran, index);
        if let ActionState::Job(JobAction { drained: Some(bs), job, leaves_drain }) = self.trans[tran].states[index]
            && (job.is_some() || !leaves_drain)
        {
            // The second such action by one device drains the filter of the first one's job, which is gone once that was cancelled, or
            // hangs on one that is. Unlike QEMU, which aborts there (`bdrv_do_drained_end`), there is nothing left to end.
            if self.graph.nodes.get(bs).is_some_and(|node| node.quiesce_counter > 0) {
                self.polled_section_ends(bs);
            }
        }
        if let ActionState::Snapshot(state) = self.trans[tran].states[index] {
            return self.external_snapshot_clean(state);
        }
        Flow::Go
    }

    /// The end of a transaction.
    fn tran_end(&mut self, tran: TranId) -> Flow {
        let t = self.trans.remove(tran).expect("it is under way");
        if let Some(txn) = t.txn
            && self.jobs.txns.get(txn).is_some_and(|group| group.jobs.is_empty())
        {
            self.jobs.txns.remove(txn);
        }
        let done = t.error.clone().map_or(Ok(()), Err);
        if self.feed.on {
            let seen = if done.is_ok() { Seen::TranEnd(tran) } else { Seen::TranFailed(tran, self.standing()) };
            self.feed.seen.push(seen);
        }
        self.ret(Val::Done(done))
    }
}
