//! Jobs and their groups: the life cycle that all job types share (`job.c`, `blockjob.c`).
//!
//! A job's coroutine runs [`JobFrame::JobCoEntry`]; everything that ends or cancels a job runs on the main thread's stack, because it
//! may poll.

pub mod backup;
pub mod block_job;
pub mod commands;
pub mod commit;
pub mod create;
pub mod hooks;
pub mod mirror;
pub mod stream;
#[cfg(test)]
pub mod tests;
pub(in crate::world) mod txn;
pub(super) mod verbs;

use crate::base::Json;
use crate::base::errno::Errno;
use crate::base::id::id_wellformed;
use crate::base::time::Span;
use crate::block::ratelimit::RateLimit;
use crate::choice::Subject;
use crate::invariant::{Broken, Invariant};
use crate::job::status::{JobStatus, JobType, can_transition};
use crate::qmp::error::QmpError;
use crate::trace::{Level, RecordKind};
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::queue::Bh;
use crate::world::aio::timer::TimerKind;
use crate::world::arena::{Arena, ChildId, CoId, JobId, TxnId};
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::watch::feed::Seen;
use crate::world::watch::marks::CodePlace;
use block_job::IoStatus;
use hooks::JobDriver;
use std::sync::Arc;

/// `Job` and `BlockJob`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    /// `job->id`
    pub id: Arc<str>,
    /// `JobDriver.job_type`
    pub job_type: JobType,
    /// Where it is in its life.
    pub status: JobStatus,
    /// References.
    pub refcnt: u32,
    /// Reasons to pause: creation, drained sections, the user.
    pub pause_count: u32,
    /// Stands at a pause point, or was not started.
    pub paused: bool,
    /// The user, or an error with action stop, paused it.
    pub user_paused: bool,
    /// The coroutine runs, or waits for something that is no job yield.
    pub busy: bool,
    /// Asked to cancel.
    pub cancelled: bool,
    /// Asked to cancel by force.
    pub force_cancel: bool,
    /// The coroutine has returned.
    pub deferred_to_main_loop: bool,
    /// Finalises itself.
    pub auto_finalize: bool,
    /// Dismisses itself.
    pub auto_dismiss: bool,
    /// Its result; `None` is success.
    pub ret: Option<Errno>,
    /// The error's text.
    pub err: Option<Arc<str>>,
    /// Its coroutine, once started. Stale when `deferred_to_main_loop`.
    pub co: Option<CoId>,
    /// `txn`: its group, which is completed and cancelled together.
    pub txn: Option<TxnId>,
    /// Progress so far, in bytes for block jobs.
    pub progress_current: u64,
    /// Progress at the end.
    pub progress_total: u64,
    /// Edges to the nodes it works on, newest first.
    pub nodes: Vec<ChildId>,
    /// Bytes a second, 0 is unlimited.
    pub speed: i64,
    /// `BlockJob.limit`: what `speed` allows. A kind of job with a `set_speed` of its own may go by another limit instead.
    pub limit: RateLimit,
    /// `iostatus`
    pub iostatus: IoStatus,
    /// The driver's state.
    pub driver: JobDriver,
}

crate::base::time::rebase!(Job {
    moves: limit, driver;
    rest: id, job_type, status, refcnt, pause_count, paused, user_paused, busy, cancelled, force_cancel,
        deferred_to_main_loop, auto_finalize, auto_dismiss, ret, err, co, txn, progress_current, progress_total,
        nodes, speed, iostatus
});

/// `JobTxn`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobTxn {
    /// Members, newest first.
    pub jobs: Vec<JobId>,
    /// The group is being torn down.
    pub aborting: bool,
    /// Made by a grouped transaction.
    pub grouped: bool,
}

/// What a job wants to do with a node, and what it lets others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Perms {
    /// `perm`
    pub perm: u8,
    /// `shared_perm`
    pub shared: u8,
}

impl Perms {
    /// Nothing is wanted, and all is shared.
    pub const NONE: Perms = Perms { perm: 0, shared: perm::ALL };
}

/// The members that a block job's events share.
fn block_job_progress(j: &Job) -> Vec<(&'static str, Json)> {
    vec![
        ("type", Json::str(j.job_type.name())),
        ("device", Json::Str(j.id.clone())),
        ("len", Json::uint(j.progress_total)),
        ("offset", Json::uint(j.progress_current)),
        ("speed", Json::Int(j.speed)),
    ]
}

/// How a job is created.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobFlags {
    /// `job-id` as given.
    pub id: Option<Arc<str>>,
    /// `auto-finalize`
    pub auto_finalize: bool,
    /// `auto-dismiss`
    pub auto_dismiss: bool,
    /// `speed`
    pub speed: i64,
}

/// All jobs and groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Jobs {
    jobs: Arena<JobId, Job>,
    /// Jobs, newest first.
    pub list: Vec<JobId>,
    /// Groups.
    pub txns: Arena<TxnId, JobTxn>,
}

crate::base::time::rebase!(Jobs {
    moves: jobs;
    rest: list, txns
});

impl Default for Jobs {
    fn default() -> Self {
        Jobs { jobs: Arena::unique(), list: Vec::new(), txns: Arena::unique() }
    }
}

impl std::ops::Index<JobId> for Jobs {
    type Output = Job;
    fn index(&self, id: JobId) -> &Job {
        &self.jobs[id]
    }
}

impl std::ops::IndexMut<JobId> for Jobs {
    fn index_mut(&mut self, id: JobId) -> &mut Job {
        &mut self.jobs[id]
    }
}

impl Jobs {
    /// The job, if it was not freed.
    #[must_use]
    pub fn get(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(id)
    }

    /// Frees a job; its id is never given again.
    pub(super) fn free(&mut self, id: JobId) {
        self.list.retain(|job| *job != id);
        self.jobs.remove(id);
    }

    /// `job_get`
    #[must_use]
    pub fn find(&self, id: &str) -> Option<JobId> {
        self.list.iter().copied().find(|j| &*self.jobs[*j].id == id)
    }
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum JobFrame {
    JobCoEntry(JobId),
    JobRun(JobId),
    JobRunDone(JobId),
    JobRatelimitSlept(JobId),
    JobPausePoint(JobId),
    JobPausePointHooked(JobId),
    JobPausePointWoken(JobId, JobStatus),
    JobYield(JobId),
    JobStart(JobId),
    JobEarlyFail(JobId),
}

impl JobFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            JobFrame::JobCoEntry(job) => w.job_co_entry(job),
            JobFrame::JobRun(job) => w.job_run(job),
            JobFrame::JobRunDone(job) => w.job_run_done(job),
            JobFrame::JobRatelimitSlept(job) => w.job_ratelimit_slept(job),
            JobFrame::JobPausePoint(job) => w.job_pause_point(job),
            JobFrame::JobPausePointHooked(job) => w.job_pause_point_hooked(job),
            JobFrame::JobPausePointWoken(job, status) => w.job_pause_point_woken(job, status),
            JobFrame::JobYield(job) => w.job_yield(job),
            JobFrame::JobStart(job) => w.job_start(job),
            JobFrame::JobEarlyFail(job) => w.job_early_fail(job),
        }
    }
}

impl World {
    /// `job_txn_new`
    pub(in crate::world) fn job_txn_new(&mut self, grouped: bool) -> TxnId {
        self.jobs.txns.insert(JobTxn { jobs: Vec::new(), aborting: false, grouped })
    }

    /// `job_state_transition_locked`
    ///
    /// # Panics
    /// If the table does not allow it: QEMU would abort, too.
    pub(in crate::world) fn job_state_transition(&mut self, job: JobId, to: JobStatus) {
        let j = &mut self.jobs[job];
        let from = j.status;
        if !can_transition(from, to) {
            let reason = format!("transition from '{from}' to '{to}' is not in the table");
            panic!("{}", Broken::new(Invariant::JobTables, format!("job {}", j.id), reason));
        }
        j.status = to;
        if self.feed.on {
            let seen = Seen::JobStatus { job, id: j.id.clone(), kind: j.job_type, from, to };
            self.feed.seen.push(seen);
        }
        let j = &self.jobs[job];
        if from != to {
            let id = j.id.clone();
            let job = || RecordKind::JobStatus { job: id.clone(), from: from.name(), to: to.name() };
            self.trace.emit(Level::Job, self.now, job);
            self.emit_job_status(id, to);
        }
    }

    /// `job_create`
    ///
    /// # Errors
    /// A malformed or used ID.
    pub(in crate::world) fn job_create(
        &mut self,
        flags: &JobFlags,
        kind: JobType,
        txn: Option<TxnId>,
    ) -> Result<JobId, QmpError> {
        let Some(id) = flags.id.clone() else {
            return Err(QmpError::generic("An explicit job ID is required"));
        };
        if !id_wellformed(&id) {
            return Err(QmpError::generic(format!("Invalid job ID '{id}'")));
        }
        if self.jobs.find(&id).is_some() {
            return Err(QmpError::generic(format!("Job ID '{id}' already in use")));
        }
        let job = self.jobs.jobs.insert(Job {
            id,
            job_type: kind,
            status: JobStatus::Undefined,
            refcnt: 1,
            pause_count: 1,
            paused: true,
            user_paused: false,
            busy: false,
            cancelled: false,
            force_cancel: false,
            deferred_to_main_loop: false,
            auto_finalize: flags.auto_finalize,
            auto_dismiss: flags.auto_dismiss,
            ret: None,
            err: None,
            co: None,
            txn: None,
            progress_current: 0,
            progress_total: 0,
            nodes: Vec::new(),
            speed: 0,
            limit: RateLimit::default(),
            iostatus: IoStatus::Ok,
            driver: JobDriver::Unset,
        });
        self.job_state_transition(job, JobStatus::Created);
        self.jobs.list.insert(0, job);
        if let Some(group) = txn.filter(|txn| self.jobs.txns[*txn].grouped) {
            let (id, group) = (self.jobs[job].id.clone(), group.0);
            self.trace.emit(Level::Job, self.now, || RecordKind::Group { job: id, what: "joins", group });
        }
        let txn = txn.unwrap_or_else(|| self.job_txn_new(false));
        self.jobs[job].txn = Some(txn);
        self.jobs.txns[txn].jobs.insert(0, job);
        Ok(job)
    }

    /// `job_start`
    fn job_start(&mut self, job: JobId) -> Flow {
        let co = self.co_create([JobFrame::JobCoEntry(job).into()]);
        self.cos[co].task = Subject::job(job.0);
        let j = &mut self.jobs[job];
        assert!(j.co.is_none() && j.paused, "the job is started once");
        j.co = Some(co);
        j.pause_count -= 1;
        j.busy = true;
        j.paused = false;
        self.job_state_transition(job, JobStatus::Running);
        self.seq([Frame::Enter(co)])
    }

    /// `job_co_entry`
    fn job_co_entry(&mut self, job: JobId) -> Flow {
        self.seq([JobFrame::JobPausePoint(job).into(), JobFrame::JobRun(job).into(), JobFrame::JobRunDone(job).into()])
    }

    /// `job->driver->run`
    fn job_run(&mut self, job: JobId) -> Flow {
        (self.job_hooks(job).run)(self, job)
    }

    /// The end of `job_co_entry`.
    fn job_run_done(&mut self, job: JobId) -> Flow {
        let ret = self.take_ret();
        let j = &mut self.jobs[job];
        j.ret = ret.err();
        j.deferred_to_main_loop = true;
        j.busy = true;
        self.bh_schedule(Bh::JobExit(job));
        Flow::Go
    }

    /// `job_is_cancelled_locked`: by force.
    #[must_use]
    pub(in crate::world) fn job_is_cancelled(&self, job: JobId) -> bool {
        self.jobs[job].force_cancel
    }

    /// `job_pause_point`, up to the driver's pause hook.
    fn job_pause_point(&mut self, job: JobId) -> Flow {
        let j = &self.jobs[job];
        if j.pause_count == 0 || j.force_cancel {
            return Flow::Go;
        }
        self.push(JobFrame::JobPausePointHooked(job).into());
        match self.job_hooks(job).pause {
            Some(pause) => pause(self, job),
            None => Flow::Go,
        }
    }

    /// `job_pause_point`, after the hook: go to sleep if there still is a reason.
    fn job_pause_point_hooked(&mut self, job: JobId) -> Flow {
        let j = &self.jobs[job];
        if j.pause_count == 0 || j.force_cancel {
            return Flow::Go;
        }
        let status = j.status;
        let asleep = if status == JobStatus::Ready { JobStatus::Standby } else { JobStatus::Paused };
        self.job_state_transition(job, asleep);
        self.jobs[job].paused = true;
        self.push(JobFrame::JobPausePointWoken(job, status).into());
        self.job_do_yield(job)
    }

    /// `job_pause_point`, after it was entered again.
    fn job_pause_point_woken(&mut self, job: JobId, status: JobStatus) -> Flow {
        self.jobs[job].paused = false;
        self.job_state_transition(job, status);
        match self.job_hooks(job).resume {
            Some(resume) => resume(self, job),
            None => Flow::Go,
        }
    }

    /// `job_sleep_ns`, called as the last thing of a frame: sleeps that long, unless the job is cancelled or is to pause.
    fn job_sleep_ns(&mut self, job: JobId, span: Span) -> Flow {
        let j = &self.jobs[job];
        assert!(j.busy, "job '{}' sleeps while it works", j.id);
        if j.force_cancel {
            return Flow::Go;
        }
        let pauses = j.pause_count > 0;
        self.push(JobFrame::JobPausePoint(job).into());
        if pauses {
            return Flow::Go;
        }
        self.timer_set(self.now + span, TimerKind::JobSleep(job));
        self.job_do_yield(job)
    }

    /// `block_job_ratelimit_processed_bytes`
    fn block_job_ratelimit_processed_bytes(&mut self, job: JobId, bytes: u64) {
        let now = self.now;
        self.jobs[job].limit.calculate_delay(now, bytes);
    }

    /// `block_job_ratelimit_sleep`: sleeps at least once, and on until the speed allows more.
    fn block_job_ratelimit_sleep(&mut self, job: JobId) -> Flow {
        let now = self.now;
        let delay = self.jobs[job].limit.calculate_delay(now, 0);
        if delay > Span::ZERO {
            self.push(JobFrame::JobRatelimitSlept(job).into());
        }
        self.job_sleep_ns(job, delay)
    }

    /// `block_job_ratelimit_sleep`, after a sleep that was due: the speed may have changed meanwhile.
    fn job_ratelimit_slept(&mut self, job: JobId) -> Flow {
        if self.job_is_cancelled(job) { Flow::Go } else { self.block_job_ratelimit_sleep(job) }
    }

    /// `job_transition_to_ready`
    fn job_transition_to_ready(&mut self, job: JobId) {
        self.job_state_transition(job, JobStatus::Ready);
        self.job_event_ready(job);
    }

    /// `job_event_ready_locked`
    fn job_event_ready(&mut self, job: JobId) {
        let id = self.jobs[job].id.clone();
        self.see(|| Seen::Ready { job, id });
        let j = &self.jobs[job];
        if j.job_type.is_block_job() {
            self.emit("BLOCK_JOB_READY", Json::dict(block_job_progress(j)));
        }
    }

    /// `job_do_yield_locked`; a timer that was set before wakes it.
    fn job_do_yield(&mut self, job: JobId) -> Flow {
        self.jobs[job].busy = false;
        Flow::Yield(Wait::JobEnter(job))
    }

    /// `job_yield`
    fn job_yield(&mut self, job: JobId) -> Flow {
        let j = &self.jobs[job];
        if j.force_cancel {
            return Flow::Go;
        }
        let pauses = j.pause_count > 0;
        self.push(JobFrame::JobPausePoint(job).into());
        if !pauses { self.job_do_yield(job) } else { Flow::Go }
    }

    /// `job_enter_cond_locked` without a condition.
    pub(in crate::world) fn job_enter(&mut self, job: JobId) {
        self.job_enter_cond(job, |_, _| true);
    }

    /// `job_enter_cond_locked`
    fn job_enter_cond(&mut self, job: JobId, cond: fn(&World, JobId) -> bool) {
        let Some(j) = self.jobs.get(job) else { return };
        let Some(co) = j.co else { return };
        if j.deferred_to_main_loop || j.busy || !cond(self, job) {
            return;
        }
        self.timer_del(TimerKind::JobSleep(job));
        self.jobs[job].busy = true;
        self.aio_co_wake(co);
    }

    /// `job_enter_cond_locked` with `job_timer_pending`: ends a sleep.
    pub(super) fn job_enter_if_asleep(&mut self, job: JobId) {
        self.job_enter_cond(job, |w, job| w.timer_pending(TimerKind::JobSleep(job)));
    }

    /// `block_job_user_resume`
    fn block_job_user_resume(&mut self, job: JobId) {
        self.jobs[job].iostatus = IoStatus::Ok;
    }

    /// `job_pause_locked`
    pub(in crate::world) fn job_pause(&mut self, job: JobId) {
        let j = &mut self.jobs[job];
        j.pause_count += 1;
        self.trace.emit(Level::Job, self.now, || RecordKind::JobPause { job: j.id.clone(), count: j.pause_count });
        if !j.paused {
            self.job_enter(job);
        }
    }

    /// `job_resume_locked`
    pub(in crate::world) fn job_resume(&mut self, job: JobId) {
        let j = &mut self.jobs[job];
        assert!(j.pause_count > 0, "job '{}' is not paused", j.id);
        j.pause_count -= 1;
        self.trace.emit(Level::Job, self.now, || RecordKind::JobPause { job: j.id.clone(), count: j.pause_count });
        if j.pause_count == 0 {
            self.job_enter_cond(job, |w, job| !w.timer_pending(TimerKind::JobSleep(job)));
        }
    }

    /// `job_progress_update`
    pub(in crate::world) fn job_progress_update(&mut self, job: JobId, done: u64) {
        let j = &mut self.jobs[job];
        j.progress_current += done;
        let (current, total) = (j.progress_current, j.progress_total);
        self.trace.emit(Level::Job, self.now, || RecordKind::JobProgress { job: j.id.clone(), current, total });
        self.see(|| Seen::Progress { job, current, total });
    }

    /// `job_progress_increase_remaining`
    pub(in crate::world) fn job_progress_increase_remaining(&mut self, job: JobId, delta: u64) {
        let j = &mut self.jobs[job];
        j.progress_total += delta;
        let (current, total) = (j.progress_current, j.progress_total);
        self.trace.emit(Level::Job, self.now, || RecordKind::JobProgress { job: j.id.clone(), current, total });
        self.see(|| Seen::Progress { job, current, total });
    }

    /// `job_progress_set_remaining`
    pub(in crate::world) fn job_progress_set_remaining(&mut self, job: JobId, remaining: u64) {
        let j = &mut self.jobs[job];
        j.progress_total = j.progress_current + remaining;
        let (current, total) = (j.progress_current, j.progress_total);
        self.trace.emit(Level::Job, self.now, || RecordKind::JobProgress { job: j.id.clone(), current, total });
        self.see(|| Seen::Progress { job, current, total });
    }

    /// The end of a creation that failed after the client saw `created` (`job_early_fail`); keeps the error in the register.
    fn job_early_fail(&mut self, job: JobId) -> Flow {
        self.reach(CodePlace::EarlyFail);
        let err = self.take_val();
        self.push(Frame::Give(Box::new(err)));
        self.job_do_dismiss(job)
    }
}
