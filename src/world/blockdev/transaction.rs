//! The `transaction` command and the two backup commands, which are transactions of one action (`blockdev.c`).
//!
//! Actions are prepared in order; then all are committed and cleaned up in reverse order, or, if one failed, aborted and cleaned
//! up in reverse order, the failing one first.

use super::external_snapshot::ExternalSnapshot;
use crate::base::Json;
use crate::bitmap::{BitmapId, CheckFlags, DirtyBitmap, HBitmap};
use crate::qmp::error::QmpError;
use crate::qmp::types::{
    ActionCompletionMode, BackupCommon, BackupPerf, BitmapSyncMode, BlockdevBackup, DriveBackup, NewImageMode, OnError,
    SyncMode, Transaction as TransactionArgs, TransactionAction,
};
use crate::quirk::Quirk;
use crate::trace::{Level, RecordKind, TxnPhase};
use crate::world::World;
use crate::world::arena::{JobId, NodeId, TranId, TxnId, used_after_free};
use crate::world::block::graph::OpenFlags;
use crate::world::block::open::spec::OpenSpec;
use crate::world::frame::{Flow, Frame};
use crate::world::job::JobFlags;
use crate::world::job::backup::BackupArgs;
use crate::world::value::Val;
use crate::world::watch::feed::Seen;
use crate::world::watch::marks::Place;
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
    /// `blockdev_backup_action`, `drive_backup_action`: the drained source and the job.
    Backup(Option<NodeId>, Option<JobId>),
    /// `external_snapshot_action`
    Snapshot(ExternalSnapshot),
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

impl World {
    /// `qmp_transaction`. Leaves `Val::Done`.
    pub(in crate::world) fn qmp_transaction(&mut self, args: &TransactionArgs) -> Flow {
        let grouped = args.completion_mode == Some(ActionCompletionMode::Grouped);
        if grouped {
            for action in &args.actions {
                if !matches!(action, TransactionAction::BlockdevBackup(_) | TransactionAction::DriveBackup(_)) {
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
        self.seq([Frame::DrainAll, Frame::TranPrepare(tran, 0)])
    }

    /// `blockdev_do_action`
    pub(in crate::world) fn blockdev_do_action(&mut self, action: TransactionAction) -> Flow {
        self.qmp_transaction(&TransactionArgs { actions: vec![action], completion_mode: None })
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
    pub(in crate::world) fn tran_prepare(&mut self, tran: TranId, index: usize) -> Flow {
        if self.feed.on && index == 0 {
            let standing = self.standing();
            self.feed.seen.push(Seen::TranBegin(tran, standing));
        }
        let t = &mut self.trans[tran];
        let Some(action) = t.actions.get(index).cloned() else {
            let last = t.states.len();
            return self.seq([Frame::TranCommit(tran, last), Frame::TranClean(tran, last), Frame::TranEnd(tran)]);
        };
        t.states.push(ActionState::Nothing);
        let txn = t.txn;
        self.trace_tran(TxnPhase::Prepare, tran, index);
        self.stack.push(Frame::TranPrepared(tran, index));
        match action {
            TransactionAction::BlockdevBackup(args) => self.blockdev_backup_action(tran, index, args, txn),
            TransactionAction::DriveBackup(args) => self.drive_backup_action(tran, index, args, txn),
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
    pub(in crate::world) fn tran_prepared(&mut self, tran: TranId, index: usize) -> Flow {
        match self.take_done() {
            Ok(()) => self.seq([Frame::TranPrepare(tran, index + 1)]),
            Err(err) => {
                self.trace_tran(TxnPhase::Refuse, tran, index);
                let t = &mut self.trans[tran];
                t.error = Some(err);
                let last = t.states.len();
                self.seq([Frame::TranAbort(tran, last), Frame::TranClean(tran, last), Frame::TranEnd(tran)])
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

    /// Commits action `index - 1` and those before it.
    pub(in crate::world) fn tran_commit(&mut self, tran: TranId, index: usize) -> Flow {
        let Some(index) = index.checked_sub(1) else { return Flow::Go };
        self.trace_tran(TxnPhase::Commit, tran, index);
        self.stack.push(Frame::TranCommit(tran, index));
        match self.trans[tran].states[index].clone() {
            ActionState::Backup(_, Some(_)) if self.quirks.has(Quirk::TxnStartInPrepare) => Flow::Go,
            ActionState::Backup(_, Some(job)) => self.seq([Frame::JobStart(job)]),
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
    pub(in crate::world) fn tran_abort(&mut self, tran: TranId, left: usize) -> Flow {
        let Some(index) = left.checked_sub(1) else { return Flow::Go };
        self.stack.push(Frame::TranAbort(tran, index));
        let fifo = self.quirks.has(Quirk::TxnAbortFifo);
        let index = if fifo { self.trans[tran].states.len() - left } else { index };
        self.trace_tran(TxnPhase::Abort, tran, index);
        match self.trans[tran].states[index].clone() {
            ActionState::Backup(_, Some(job)) if self.jobs.get(job).is_none() => {}
            ActionState::Backup(_, Some(job)) => {
                self.reach(Place::UndoBackup);
                return self.seq([Frame::JobCancelSync(job)]);
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
                self.reach(Place::UndoBitmapRestored);
                if let Some(bitmap) = self.bitmap_to_undo(tran, index, bs, id) {
                    bitmap.restore(old);
                }
            }
            ActionState::BitmapSwitched(bs, id, was) => {
                self.reach(Place::UndoBitmapSwitched);
                if let Some(bitmap) = self.bitmap_to_undo(tran, index, bs, id) {
                    bitmap.set_enabled(was);
                }
            }
            ActionState::BitmapRemoved(bs, id) => {
                self.reach(Place::UndoBitmapKept);
                if let Some(bitmap) = self.graph.nodes.get_mut(bs).and_then(|node| node.bitmaps.get_mut(id)) {
                    bitmap.set_skip_store(false);
                    bitmap.set_busy(false);
                }
            }
            ActionState::Nothing | ActionState::Backup(_, None) => {}
        }
        Flow::Go
    }

    /// The bitmap that an action changed. Unlike QEMU, which goes on with the one that it found then even if a job with
    /// bitmap-mode=always has replaced it when it was cancelled, this looks it up again. There is none if its node, a backup's filter, went
    /// along with its job while another action drained it.
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
        let superseded = self.graph.nodes.get(bs).is_none_or(|node| node.bitmaps.get(id).is_none());
        self.reach(if superseded { Place::UndoBitmapSuperseded } else { Place::UndoBitmapAdded });
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
    pub(in crate::world) fn tran_clean(&mut self, tran: TranId, index: usize) -> Flow {
        let Some(index) = index.checked_sub(1) else { return Flow::Go };
        self.trace_tran(TxnPhase::Clean, tran, index);
        self.stack.push(Frame::TranClean(tran, index));
        let t = &self.trans[tran];
        let leaves = self.quirks.has(Quirk::TxnEarlyFailLeavesDrain)
            && matches!(
                (&t.actions[index], &t.states[index]),
                (TransactionAction::DriveBackup(_), ActionState::Backup(_, None))
            );
        if let ActionState::Backup(Some(bs), _) = t.states[index]
            && !leaves
        {
            // The second backup action by one device drains the first one's filter, which is gone once that job was cancelled, or
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
    pub(in crate::world) fn tran_end(&mut self, tran: TranId) -> Flow {
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

    /// `blockdev_backup_action`
    fn blockdev_backup_action(
        &mut self,
        tran: TranId,
        index: usize,
        args: Box<BlockdevBackup>,
        txn: Option<TxnId>,
    ) -> Flow {
        let nodes = self.lookup_bs(&args.common.device).and_then(|bs| Ok((bs, self.lookup_bs(&args.target)?)));
        let (source, target) = match nodes {
            Ok(nodes) => nodes,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        self.trans[tran].states[index] = ActionState::Backup(Some(source), None);
        let common = Box::new(args.common);
        self.seq([
            Frame::DrainedBegin(source),
            Frame::BackupCommon { common, source, target, txn },
            Frame::TranJob(tran, index),
        ])
    }

    /// Notes the job of a backup action.
    pub(in crate::world) fn tran_job(&mut self, tran: TranId, index: usize) -> Flow {
        let Val::Job(job) = std::mem::take(&mut self.reg) else { unreachable!("a job or an error") };
        let early = self.quirks.has(Quirk::TxnStartInPrepare);
        let mut starts = None;
        let done = job.map(|job| {
            if let ActionState::Backup(drained, slot) = &mut self.trans[tran].states[index] {
                *slot = Some(job);
                // A drained section did not hold up a job's start then.
                starts = drained.take_if(|_| early).map(|bs| (bs, job));
            }
        });
        match starts {
            Some((bs, job)) => {
                self.seq([Frame::DrainedEnd(bs), Frame::JobStart(job), Frame::Give(Box::new(Val::Done(done)))])
            }
            None => self.ret(Val::Done(done)),
        }
    }

    /// `do_backup_common`. Leaves `Val::Job`.
    pub(in crate::world) fn do_backup_common(
        &mut self,
        common: &BackupCommon,
        source: NodeId,
        target: NodeId,
        txn: Option<TxnId>,
    ) -> Flow {
        // A job that ended while its source was drained took its filter with it. Unlike QEMU, which goes on with memory that it freed,
        // the name is then no longer one of a node.
        if let Some(err) = self.vanished(&[source, target], &common.device) {
            return self.ret(Val::Job(Err(err)));
        }
        match self.backup_args(common, source, target, txn) {
            Ok(args) => self.backup_job_create(Box::new(args)),
            Err(err) => self.ret(Val::Job(Err(err))),
        }
    }

    /// The error if one of the nodes is gone.
    fn vanished(&self, nodes: &[NodeId], device: &str) -> Option<QmpError> {
        let gone = nodes.iter().any(|bs| self.graph.nodes.get(*bs).is_none_or(|node| node.driver.is_none()));
        let text = || QmpError::generic(format!("Cannot find device='{device}' nor node-name='{device}'"));
        gone.then(text)
    }

    fn backup_args(
        &self,
        common: &BackupCommon,
        source: NodeId,
        target: NodeId,
        txn: Option<TxnId>,
    ) -> Result<BackupArgs, QmpError> {
        let generic = |text: String| Err(QmpError::generic(text));
        let (mut sync_mode, mut bitmap_mode) = (common.sync, common.bitmap_mode);
        if matches!(sync_mode, SyncMode::Bitmap | SyncMode::Incremental) && common.bitmap.is_none() {
            return generic(format!("must provide a valid bitmap name for '{}' sync mode", sync_mode.name()));
        }
        if sync_mode == SyncMode::Incremental {
            if bitmap_mode.is_some_and(|mode| mode != BitmapSyncMode::OnSuccess) {
                return generic("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'".to_owned());
            }
            sync_mode = SyncMode::Bitmap;
            bitmap_mode = Some(BitmapSyncMode::OnSuccess);
        }
        let mut sync_bitmap = None;
        if let Some(name) = &common.bitmap {
            let Some(id) = self.graph.nodes[source].bitmaps.find(name) else {
                return generic(format!("Bitmap '{name}' could not be found"));
            };
            let Some(mode) = bitmap_mode else {
                return generic("Bitmap sync mode must be given when providing a bitmap".to_owned());
            };
            self.bitmap_check(source, id, CheckFlags::ALLOW_RO)?;
            if sync_mode == SyncMode::None {
                return generic("sync mode 'none' does not produce meaningful bitmap outputs".to_owned());
            }
            if mode == BitmapSyncMode::Never && sync_mode != SyncMode::Bitmap {
                return generic(format!(
                    "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '{}'",
                    sync_mode.name()
                ));
            }
            sync_bitmap = Some(id);
        } else if bitmap_mode.is_some() {
            return generic("Cannot specify bitmap sync mode without a bitmap".to_owned());
        }
        let perf = common.x_perf.clone().unwrap_or(BackupPerf {
            use_copy_range: None,
            max_workers: None,
            max_chunk: None,
            min_cluster_size: None,
        });
        Ok(BackupArgs {
            flags: JobFlags {
                id: common.job_id.clone(),
                auto_finalize: common.auto_finalize.unwrap_or(true),
                auto_dismiss: common.auto_dismiss.unwrap_or(true),
                speed: common.speed.unwrap_or(0),
            },
            source,
            target,
            sync_mode,
            sync_bitmap,
            bitmap_mode: bitmap_mode.unwrap_or(BitmapSyncMode::OnSuccess),
            compress: common.compress.unwrap_or(false),
            discard_source: common.discard_source.unwrap_or(false),
            filter_node_name: common.filter_node_name.clone(),
            perf,
            on_source_error: common.on_source_error.unwrap_or(OnError::Report),
            on_target_error: common.on_target_error.unwrap_or(OnError::Report),
            txn,
        })
    }

    /// `drive_backup_action`
    fn drive_backup_action(&mut self, tran: TranId, index: usize, args: Box<DriveBackup>, txn: Option<TxnId>) -> Flow {
        let bs = match self.lookup_bs(&args.common.device) {
            Ok(bs) => bs,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        if !self.graph.nodes[bs].has_drv() {
            return self.ret(Val::Done(Err(QmpError::generic("Device has no medium"))));
        }
        self.trans[tran].states[index] = ActionState::Backup(Some(bs), None);
        self.seq([Frame::DrainedBegin(bs), Frame::DriveBackupDrained { args, bs, txn }, Frame::TranJob(tran, index)])
    }

    /// `drive_backup_action`, in its drained section: makes the target. Leaves `Val::Job`.
    pub(in crate::world) fn drive_backup_drained(
        &mut self,
        mut args: Box<DriveBackup>,
        bs: NodeId,
        txn: Option<TxnId>,
    ) -> Flow {
        if let Some(err) = self.vanished(&[bs], &args.common.device).or_else(|| self.op_blocked(bs)) {
            return self.ret(Val::Job(Err(err)));
        }
        let existing = args.mode == Some(NewImageMode::Existing);
        if args.format.is_none() && !existing {
            args.format = Some(self.graph.nodes[bs].drv().format_name().into());
        }
        let mut backing = None;
        match args.common.sync {
            SyncMode::Top => match self.graph.cow_bs(self.graph.skip_filters(bs)) {
                Some(below) => backing = Some(below),
                None => args.common.sync = SyncMode::Full,
            },
            SyncMode::None => backing = Some(bs),
            _ => {}
        }
        let next = Frame::DriveBackupCreated { args: args.clone(), bs, txn };
        if existing {
            self.reg = Val::Done(Ok(()));
            return self.seq([next]);
        }
        let format = args.format.clone().expect("just set");
        let backing =
            backing.map(|node| (self.filename_of(node), Arc::from(self.graph.nodes[node].drv().format_name())));
        let size = self.bdrv_getlength(bs);
        let look = args.common.sync != SyncMode::None;
        self.seq([Frame::ImgCreate { path: args.target.clone(), format, backing, look, size }, next])
    }

    /// `drive_backup_action`, after the image was created: opens it.
    pub(in crate::world) fn drive_backup_created(
        &mut self,
        args: Box<DriveBackup>,
        bs: NodeId,
        txn: Option<TxnId>,
    ) -> Flow {
        if let Err(err) = self.take_done() {
            return self.ret(Val::Job(Err(err)));
        }
        let none = args.common.sync == SyncMode::None;
        let flags = OpenFlags {
            rdwr: true,
            unmap: true,
            no_backing: none,
            auto_read_only: false,
            force_share: false,
            ..self.graph.nodes[bs].flags
        };
        // The flags of the source are the target's, and among them that it is a protocol: an existing image is then not probed.
        let mut spec = match (&args.format, self.graph.nodes[bs].drv().has_protocol_name()) {
            (None, true) => OpenSpec::from_protocol_name(&args.target, flags),
            (format, _) => OpenSpec::from_filename(&args.target, format.as_deref(), flags),
        };
        spec.detect_zeroes = crate::world::block::graph::DetectZeroes::Unmap;
        self.seq([Frame::BdrvOpen(Arc::new(spec)), Frame::DriveBackupOpened { args, bs, txn }])
    }

    /// `drive_backup_action`, after the target was opened: the job.
    pub(in crate::world) fn drive_backup_opened(
        &mut self,
        args: Box<DriveBackup>,
        bs: NodeId,
        txn: Option<TxnId>,
    ) -> Flow {
        let Val::Node(opened) = std::mem::take(&mut self.reg) else { unreachable!("a node or an error") };
        let target = match opened {
            Ok(target) => target,
            Err(err) => return self.ret(Val::Job(Err(err))),
        };
        let job = Frame::BackupCommon { common: Box::new(args.common.clone()), source: bs, target, txn };
        let release = Frame::KeepOver(Box::new(Frame::BdrvUnref(target)));
        if self.quirks.has(Quirk::RejectedBackupLeaksTarget)
            && let Some(name) = &args.common.bitmap
            && let Some(id) = self.graph.nodes[bs].bitmaps.find(name)
            && self.bitmap_check(bs, id, CheckFlags::DEFAULT).is_err()
        {
            return self.seq([job]);
        }
        if args.common.sync == SyncMode::None {
            let backing = Frame::SetBackingHd { bs: target, backing: bs };
            return self.seq([backing, Frame::JobOrError(Box::new(job)), release]);
        }
        self.seq([job, release])
    }

    /// Runs the frame that makes a job, unless what came before failed.
    pub(in crate::world) fn job_or_error(&mut self, frame: Frame) -> Flow {
        match self.take_done() {
            Ok(()) => self.seq([frame]),
            Err(err) => self.ret(Val::Job(Err(err))),
        }
    }

    /// `qmp_blockdev_*` that only polls for a job: shutdown. `quit` ends with the reply.
    pub(in crate::world) fn shutdown(&mut self, reason: &str) -> Flow {
        self.emit("SHUTDOWN", Json::dict(vec![("guest", false.into()), ("reason", reason.into())]));
        self.quitting = true;
        // `vm_shutdown` drains and flushes; jobs are cancelled in a drained section that is never ended.
        self.seq([Frame::DrainAll, Frame::FlushAll, Frame::DrainAllBegin, Frame::JobCancelSyncAll, Frame::CloseAll])
    }

    /// A signal asks the process to end. To be called in the main loop; the process has ended when it is there again.
    pub fn host_shutdown(&mut self) {
        assert!(self.in_main_loop());
        self.shutdown("host-signal");
    }
}
