//! How jobs end: completion, groups, finalisation, cancelling (`job.c:job_completed_locked` and what follows).

use super::block_job::IoStatus;
use crate::base::errno::Errno;
use crate::job::status::JobStatus;
use crate::quirk::Quirk;
use crate::trace::{LaterWork, Level, RecordKind};
use crate::world::World;
use crate::world::aio::step::Cond;
use crate::world::arena::{JobId, TxnId};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::job::block_job::BlockJobFrame;
use crate::world::watch::feed::{BitmapEnd, Seen};
use crate::world::watch::marks::CodePlace;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
#[expect(clippy::enum_variant_names, reason = "they are named as the functions of `job.c`")]
pub enum TxnFrame {
    JobPrepared { job: JobId, members: Box<[JobId]>, at: u32 },
    JobSettled { job: JobId, failed: bool, committed: bool, before: Option<Box<BitmapEnd>> },
    JobExit(JobId),
    JobCompleted(JobId),
    JobDoFinalize(JobId),
    JobTxnAbortLoop(TxnId),
    JobFinalizeSingle(JobId),
    JobFinalEvents(JobId),
    JobUnref(JobId),
    JobFree(JobId),
    JobCancel(JobId, bool),
    JobCancelSync(JobId),
    JobCancelSyncAll,
}

impl TxnFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            TxnFrame::JobPrepared { job, members, at } => w.job_prepared(job, &members, at),
            TxnFrame::JobSettled { job, failed, committed, before } => w.job_settled(job, failed, committed, before),
            TxnFrame::JobExit(job) => w.job_exit(job),
            TxnFrame::JobCompleted(job) => w.job_completed(job),
            TxnFrame::JobDoFinalize(job) => w.job_do_finalize(job),
            TxnFrame::JobTxnAbortLoop(txn) => w.job_txn_abort_loop(txn),
            TxnFrame::JobFinalizeSingle(job) => w.job_finalize_single(job),
            TxnFrame::JobFinalEvents(job) => w.job_final_events(job),
            TxnFrame::JobUnref(job) => w.job_unref(job),
            TxnFrame::JobFree(job) => w.job_free(job),
            TxnFrame::JobCancel(job, force) => w.job_cancel(job, force),
            TxnFrame::JobCancelSync(job) => w.job_cancel_sync(job),
            TxnFrame::JobCancelSyncAll => w.job_cancel_sync_all(),
        }
    }
}

impl World {
    /// `job_exit`
    fn job_exit(&mut self, job: JobId) -> Flow {
        self.jobs[job].refcnt += 1;
        self.jobs[job].busy = false;
        if self.quirks.has(Quirk::TxnCleanupBeforeConverge) {
            // Closing the target drains it, which runs the bottom halves that are ready: also those of other jobs that have ended.
            self.push(TxnFrame::JobUnref(job).into());
            self.push(TxnFrame::JobCompleted(job).into());
            return self.aio_bh_poll();
        }
        self.seq([TxnFrame::JobCompleted(job).into(), TxnFrame::JobUnref(job).into()])
    }

    /// `job_update_rc_locked`
    fn job_update_rc(&mut self, job: JobId) {
        let j = &mut self.jobs[job];
        if j.ret.is_none() && j.force_cancel {
            j.ret = Some(Errno::ECANCELED);
        }
        if j.ret == Some(Errno::ECANCELED) {
            // The job notices at the end of a request of its own, but what led to its abort is what cancelled it.
            self.trace.take_cause(LaterWork::JobCancel(job.0));
        }
        let j = &mut self.jobs[job];
        if let Some(ret) = j.ret {
            if j.err.is_none() {
                j.err = Some(ret.to_string().into());
            }
            self.job_state_transition(job, JobStatus::Aborting);
        }
    }

    /// `job_completed_locked`
    fn job_completed(&mut self, job: JobId) -> Flow {
        self.job_update_rc(job);
        if self.jobs[job].ret.is_some() { self.job_txn_abort(job) } else { self.job_txn_success(job) }
    }

    fn txn_of(&self, job: JobId) -> TxnId {
        self.jobs[job].txn.expect("a job that is not finalised belongs to a group")
    }

    /// `job_completed_txn_success_locked`
    fn job_txn_success(&mut self, job: JobId) -> Flow {
        self.job_state_transition(job, JobStatus::Waiting);
        let txn = self.txn_of(job);
        let members = self.jobs.txns[txn].jobs.clone();
        if members.iter().any(|j| !self.jobs[*j].status.is_completed()) {
            self.reach(CodePlace::GroupWaits);
            return Flow::Go;
        }
        for member in &members {
            self.job_state_transition(*member, JobStatus::Pending);
            if !self.jobs[*member].auto_finalize {
                self.emit_block_job_pending(*member);
            }
        }
        if members.iter().all(|j| self.jobs[*j].auto_finalize) {
            return self.job_do_finalize(job);
        }
        self.reach(CodePlace::GroupToFinalize);
        Flow::Go
    }

    /// `job_do_finalize_locked`
    fn job_do_finalize(&mut self, job: JobId) -> Flow {
        let members = self.jobs.txns[self.txn_of(job)].jobs.clone();
        self.job_prepare_from(job, &members, 0)
    }

    /// `job_txn_apply_locked` with `job_prepare_locked`, from the member of this number on; then commits all, or aborts.
    fn job_prepare_from(&mut self, job: JobId, members: &[JobId], from: usize) -> Flow {
        for (at, member) in members.iter().enumerate().skip(from) {
            let j = &self.jobs[*member];
            // A result that is already bad stops the group as one that fails here.
            if j.ret.is_some() {
                return self.job_txn_abort(job);
            }
            if let Some(prepare) = self.job_hooks(*member).prepare {
                self.jobs[job].refcnt += 1;
                self.push(TxnFrame::JobUnref(job).into());
                self.push(TxnFrame::JobPrepared { job, members: members.into(), at: at as u32 }.into());
                return prepare(self, *member);
            }
        }
        self.jobs[job].refcnt += 1;
        self.push(TxnFrame::JobUnref(job).into());
        for member in members.iter().rev() {
            self.push(TxnFrame::JobFinalizeSingle(*member).into());
        }
        Flow::Go
    }

    /// `job_prepare_locked`, after the hook.
    fn job_prepared(&mut self, job: JobId, members: &[JobId], at: u32) -> Flow {
        let member = members[at as usize];
        self.jobs[member].ret = self.take_ret().err();
        self.job_update_rc(member);
        if self.jobs[member].ret.is_some() {
            return self.job_txn_abort(job);
        }
        self.job_prepare_from(job, members, at as usize + 1)
    }

    /// `job_completed_txn_abort_locked`
    fn job_txn_abort(&mut self, job: JobId) -> Flow {
        let txn = self.txn_of(job);
        if self.jobs.txns[txn].aborting {
            return Flow::Go;
        }
        self.jobs.txns[txn].aborting = true;
        if self.jobs.txns[txn].grouped {
            let (id, group) = (self.jobs[job].id.clone(), txn.0);
            self.trace.emit(Level::Job, self.now, || RecordKind::Group { job: id, what: "aborts", group });
        }
        self.jobs[job].refcnt += 1;
        for other in self.jobs.txns[txn].jobs.clone() {
            if other != job {
                match self.jobs[other].status {
                    JobStatus::Created => self.reach(CodePlace::PeerCancelledBeforeStart),
                    JobStatus::Running | JobStatus::Paused => self.reach(CodePlace::PeerCancelledRunning),
                    JobStatus::Waiting | JobStatus::Pending => self.reach(CodePlace::PeerCancelledWaiting),
                    _ => {}
                }
                self.job_cancel_async(other, true);
            }
        }
        self.seq([TxnFrame::JobTxnAbortLoop(txn).into(), TxnFrame::JobUnref(job).into()])
    }

    /// `job_txn_unref` of the last member; a transaction that is under way holds its group, too.
    fn drop_group(&mut self, txn: TxnId) {
        if !self.trans.iter().any(|(_, tran)| tran.txn == Some(txn)) {
            self.jobs.txns.remove(txn);
        }
    }

    /// The loop of `job_completed_txn_abort_locked`: always the head.
    fn job_txn_abort_loop(&mut self, txn: TxnId) -> Flow {
        let Some(head) = self.jobs.txns[txn].jobs.first().copied() else {
            self.drop_group(txn);
            return Flow::Go;
        };
        if self.jobs[head].status.is_completed() {
            return self.seq([TxnFrame::JobFinalizeSingle(head).into(), TxnFrame::JobTxnAbortLoop(txn).into()]);
        }
        if self.jobs[head].co.is_none() && !self.quirks.has(Quirk::GroupedUndoWaitsForUnstarted) {
            // Unlike QEMU, which waits for it and hangs: a job that was never started will not end by itself.
            self.job_update_rc(head);
            return self.seq([TxnFrame::JobFinalizeSingle(head).into(), TxnFrame::JobTxnAbortLoop(txn).into()]);
        }
        self.jobs[head].refcnt += 1;
        self.seq([
            Frame::Poll(Cond::JobCompleted(head)),
            TxnFrame::JobUnref(head).into(),
            TxnFrame::JobFinalizeSingle(head).into(),
            TxnFrame::JobTxnAbortLoop(txn).into(),
        ])
    }

    /// `job_finalize_single_locked`
    fn job_finalize_single(&mut self, job: JobId) -> Flow {
        assert!(self.jobs[job].status.is_completed());
        let was = self.jobs[job].ret.is_some();
        self.job_update_rc(job);
        let failed = self.jobs[job].ret.is_some();
        let aborts = if self.quirks.has(Quirk::TxnCommitOnCancelledPeer) { was } else { failed };
        let (id, what) = (self.jobs[job].id.clone(), if aborts { "abort" } else { "commit" });
        let group = self.jobs[job].txn.map_or(0, |txn| txn.0);
        self.trace.emit(Level::Job, self.now, || RecordKind::Group { job: id, what, group });
        let hooks = self.job_hooks(job);
        let before = if self.feed.on { hooks.watch.bitmap.and_then(|bitmap| bitmap(self, job)) } else { None };
        self.push(TxnFrame::JobFinalEvents(job).into());
        let settled = TxnFrame::JobSettled { job, failed, committed: !aborts, before: before.map(Box::new) }.into();
        self.hook_then(job, if aborts { hooks.abort } else { hooks.commit }, settled)
    }

    /// Calls a hook, then runs a frame ([`World::call_then`]).
    fn hook_then(&mut self, job: JobId, hook: Option<fn(&mut World, JobId) -> Flow>, then: Frame) -> Flow {
        let Some(hook) = hook else { return then.run(self) };
        self.call_then(|w| hook(w, job), then)
    }

    /// `job_finalize_single_locked`, after `job_commit` or `job_abort`: `job_clean`.
    fn job_settled(&mut self, job: JobId, failed: bool, committed: bool, before: Option<Box<BitmapEnd>>) -> Flow {
        if self.feed.on {
            self.see_settled(job, failed, committed, before.map(|before| *before));
        }
        match self.job_hooks(job).clean {
            Some(clean) => clean(self, job),
            None => Flow::Go,
        }
    }

    /// The rest of `job_finalize_single_locked`: events, leave the group, conclude.
    fn job_final_events(&mut self, job: JobId) -> Flow {
        let id = self.jobs[job].id.clone();
        if self.feed.on {
            self.feed.seen.push(Seen::Cleaned { job, id: id.clone() });
            self.see_chain_ends(job);
        }
        let group = self.jobs[job].txn.map_or(0, |txn| txn.0);
        self.trace.emit(Level::Job, self.now, || RecordKind::Group { job: id, what: "clean", group });
        let j = &self.jobs[job];
        let started = j.co.is_some();
        if started && j.job_type.is_block_job() {
            self.emit_block_job_end(job);
        }
        self.job_txn_del_job(job);
        self.job_state_transition(job, JobStatus::Concluded);
        if self.jobs[job].auto_dismiss || !started {
            return self.job_do_dismiss(job);
        }
        Flow::Go
    }

    /// `job_txn_del_job_locked`
    fn job_txn_del_job(&mut self, job: JobId) {
        if let Some(txn) = self.jobs[job].txn.take()
            && let Some(group) = self.jobs.txns.get_mut(txn)
        {
            let early = self.trans.iter().any(|(_, tran)| tran.txn == Some(txn)) && !group.aborting;
            if !(early && self.quirks.has(Quirk::TxnDanglingMember)) {
                group.jobs.retain(|j| *j != job);
            }
            let (empty, aborting) = (group.jobs.is_empty(), group.aborting);
            if empty && !aborting {
                self.drop_group(txn);
            }
        }
    }

    /// `job_do_dismiss_locked`
    pub(super) fn job_do_dismiss(&mut self, job: JobId) -> Flow {
        if !self.jobs[job].auto_dismiss && self.jobs[job].co.is_some() && self.quirks.has(Quirk::SeededTwoEnds) {
            self.emit_block_job_end(job);
        }
        let j = &mut self.jobs[job];
        j.busy = false;
        j.paused = false;
        j.deferred_to_main_loop = true;
        self.job_txn_del_job(job);
        self.job_state_transition(job, JobStatus::Null);
        self.seq([TxnFrame::JobUnref(job).into()])
    }

    /// `job_unref_locked`; the last one frees the job, and a block job takes the graph lock for that.
    fn job_unref(&mut self, job: JobId) -> Flow {
        let j = &mut self.jobs[job];
        j.refcnt -= 1;
        if j.refcnt > 0 {
            return Flow::Go;
        }
        assert!(j.status == JobStatus::Null, "job '{}' is freed in state '{}'", j.id, j.status.name());
        if j.job_type.is_block_job() {
            return self.seq([
                GraphLockFrame::GraphWrlock.into(),
                BlockJobFrame::JobRemoveAllBdrv(job).into(),
                GraphLockFrame::GraphWrunlock.into(),
                TxnFrame::JobFree(job).into(),
            ]);
        }
        self.job_free(job)
    }

    /// The end of `job_unref_locked`.
    fn job_free(&mut self, job: JobId) -> Flow {
        if self.feed.on {
            let id = self.jobs[job].id.clone();
            self.feed.seen.push(Seen::JobFreed { job, id });
        }
        self.jobs.free(job);
        Flow::Go
    }

    /// `job_cancel_async_locked`
    fn job_cancel_async(&mut self, job: JobId, mut force: bool) {
        let hooks = self.jobs[job].driver.hooks();
        // A job without the hook is always cancelled by force.
        force = match hooks.and_then(|hooks| hooks.cancel) {
            Some(cancel) => cancel(self, job, force),
            None => true,
        };
        if self.jobs[job].user_paused {
            let j = &self.jobs[job];
            if j.iostatus != IoStatus::Ok && self.quirks.has(Quirk::CancelPausedOnErrorAssert) {
                Self::qemu_aborts(format!("job {}", j.id), "block_job_iostatus_reset: the user has not paused it");
            }
            if let Some(user_resume) = hooks.and_then(|hooks| hooks.user_resume) {
                user_resume(self, job);
            }
            let j = &mut self.jobs[job];
            j.user_paused = false;
            assert!(j.pause_count > 0, "a user pause counts");
            j.pause_count -= 1;
        }
        let j = &mut self.jobs[job];
        if force || !j.deferred_to_main_loop {
            j.cancelled = true;
            if force && !j.force_cancel {
                self.trace.keep_cause(LaterWork::JobCancel(job.0));
            }
            j.force_cancel |= force;
        }
    }

    /// `job_cancel_locked`
    fn job_cancel(&mut self, job: JobId, force: bool) -> Flow {
        if self.jobs[job].status == JobStatus::Concluded {
            self.reach(CodePlace::CancelConcluded);
            return self.job_do_dismiss(job);
        }
        let j = &self.jobs[job];
        let place = match j.status {
            JobStatus::Created => Some(CodePlace::CancelBeforeStart),
            _ if j.user_paused && j.iostatus != IoStatus::Ok => Some(CodePlace::CancelStoppedByError),
            _ if j.user_paused => Some(CodePlace::CancelUserPaused),
            JobStatus::Running | JobStatus::Paused => Some(CodePlace::CancelRunning),
            JobStatus::Waiting => Some(CodePlace::CancelWaiting),
            JobStatus::Pending => Some(CodePlace::CancelPending),
            _ => None,
        };
        if let Some(place) = place {
            self.reach(place);
        }
        self.job_cancel_async(job, force);
        let j = &self.jobs[job];
        if j.co.is_none() {
            return self.job_completed(job);
        }
        if j.deferred_to_main_loop {
            if j.force_cancel {
                return self.job_txn_abort(job);
            }
            return Flow::Go;
        }
        self.job_enter(job);
        Flow::Go
    }

    /// `job_cancel_sync`
    fn job_cancel_sync(&mut self, job: JobId) -> Flow {
        self.jobs[job].refcnt += 1;
        self.seq([
            TxnFrame::JobCancel(job, true).into(),
            Frame::Poll(Cond::JobCompleted(job)),
            TxnFrame::JobUnref(job).into(),
        ])
    }

    /// `job_cancel_sync_all`: the newest job, until none is left.
    pub(in crate::world) fn job_cancel_sync_all(&mut self) -> Flow {
        match self.jobs.list.first().copied() {
            Some(job) => {
                self.reach(CodePlace::CancelAll);
                self.seq([TxnFrame::JobCancelSync(job).into(), TxnFrame::JobCancelSyncAll.into()])
            }
            None => Flow::Go,
        }
    }
}
