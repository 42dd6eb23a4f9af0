//! Jobs on nodes: their edges, their errors, their events (`blockjob.c`).

use super::{JobFlags, Perms, block_job_progress};
use crate::base::Json;
use crate::base::errno::Errno;
use crate::job::status::{JobType, JobVerb};
use crate::qmp::error::QmpError;
use crate::qmp::types::{BlockJobChange, OnError};
use crate::world::World;
use crate::world::arena::{JobId, NodeId, TxnId};
use crate::world::block::blockers::Blocker;
use crate::world::block::edges::{Parent, Role};
use crate::world::frame::Flow;
use crate::world::value::Val;
use crate::world::watch::feed::Seen;
use crate::world::watch::marks::CodePlace;

/// `BlockDeviceIoStatus`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IoStatus {
    /// No error.
    #[default]
    Ok,
    /// Stopped by another error.
    Failed,
    /// Stopped because the target was full.
    Nospace,
}

impl IoStatus {
    /// QMP's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            IoStatus::Ok => "ok",
            IoStatus::Failed => "failed",
            IoStatus::Nospace => "nospace",
        }
    }
}

/// `BlockErrorAction`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorAction {
    /// Go on as if nothing had happened.
    Ignore,
    /// Fail the job.
    Report,
    /// Pause it until the user resumes it.
    Stop,
}

impl ErrorAction {
    /// QMP's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ErrorAction::Ignore => "ignore",
            ErrorAction::Report => "report",
            ErrorAction::Stop => "stop",
        }
    }
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum BlockJobFrame {
    JobRemoveAllBdrv(JobId),
    JobAddBdrv { job: JobId, name: &'static str, bs: NodeId },
}

impl BlockJobFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BlockJobFrame::JobRemoveAllBdrv(job) => w.job_remove_all_bdrv(job),
            BlockJobFrame::JobAddBdrv { job, name, bs } => {
                let perms = crate::world::job::Perms::NONE;
                w.block_job_add_bdrv(job, name, bs, perms).expect("a job takes no permissions on its target");
                Flow::Go
            }
        }
    }
}

impl World {
    /// `block_job_create`, between lock and unlock; `bs` is the node it works on, with what the job wants of it and lets others do.
    ///
    /// # Errors
    /// A bad ID, a permission conflict or a negative speed. In the last two cases the client saw `created`; `JobFrame::JobEarlyFail`
    /// shows `null`.
    pub(in crate::world) fn block_job_create(
        &mut self,
        flags: &JobFlags,
        kind: JobType,
        txn: Option<TxnId>,
        bs: NodeId,
        perms: Perms,
    ) -> Result<JobId, (QmpError, Option<JobId>)> {
        let mut flags = flags.clone();
        if flags.id.is_none() {
            flags.id = Some(self.graph.device_name(bs));
        }
        let job = self.job_create(&flags, kind, txn).map_err(|err| (err, None))?;
        self.block_job_add_bdrv(job, "main node", bs, perms).map_err(|err| (err, Some(job)))?;
        if flags.speed < 0 {
            let err = QmpError::generic("Parameter 'speed' expects a non-negative value");
            return Err((err, Some(job)));
        }
        let j = &mut self.jobs[job];
        j.speed = flags.speed;
        j.limit.set_speed(flags.speed.unsigned_abs());
        Ok(job)
    }

    /// `block_job_add_bdrv`
    ///
    /// # Errors
    /// The text of the permission conflict that stands in the way.
    pub(in crate::world) fn block_job_add_bdrv(
        &mut self,
        job: JobId,
        name: &'static str,
        bs: NodeId,
        perms: Perms,
    ) -> Result<(), QmpError> {
        let child = self.attach_child(bs, name, Role::Root, Parent::Job(job), perms.perm, perms.shared)?;
        self.jobs[job].nodes.insert(0, child);
        self.graph.nodes[bs].op_blockers.insert(0, Blocker::Job(job));
        Ok(())
    }

    /// `block_job_remove_all_bdrv`, between lock and unlock.
    fn job_remove_all_bdrv(&mut self, job: JobId) -> Flow {
        for child in std::mem::take(&mut self.jobs[job].nodes) {
            let bs = self.graph.bs(child);
            self.graph.nodes[bs].op_blockers.retain(|blocker| *blocker != Blocker::Job(job));
            self.root_unref_child(child);
        }
        Flow::Go
    }

    /// `child_job_drained_poll`
    #[must_use]
    pub(in crate::world) fn child_job_drained_poll(&self, job: JobId) -> bool {
        let j = &self.jobs[job];
        if !j.busy || j.status.is_completed() {
            return false;
        }
        let poll = j.driver.hooks().and_then(|hooks| hooks.block.as_ref()).and_then(|block| block.drained_poll);
        poll.is_none_or(|poll| poll(self, job))
    }

    /// `block_job_error_action`: the event, and for `stop` the pause.
    pub(super) fn block_job_error_action(
        &mut self,
        job: JobId,
        on_error: OnError,
        is_read: bool,
        error: Errno,
    ) -> ErrorAction {
        let action = match on_error {
            OnError::Report => ErrorAction::Report,
            OnError::Ignore => ErrorAction::Ignore,
            OnError::Stop => ErrorAction::Stop,
            OnError::Enospc | OnError::Auto if error == Errno::ENOSPC => ErrorAction::Stop,
            OnError::Enospc | OnError::Auto => ErrorAction::Report,
        };
        self.reach(match (on_error, action, is_read) {
            (OnError::Report, _, true) => CodePlace::SourceReport,
            (OnError::Report, _, false) => CodePlace::TargetReport,
            (OnError::Ignore, _, true) => CodePlace::SourceIgnore,
            (OnError::Ignore, _, false) => CodePlace::TargetIgnore,
            (OnError::Stop, _, true) => CodePlace::SourceStop,
            (OnError::Stop, _, false) => CodePlace::TargetStop,
            (OnError::Enospc | OnError::Auto, ErrorAction::Stop, true) => CodePlace::SourceEnospcStops,
            (OnError::Enospc | OnError::Auto, ErrorAction::Stop, false) => CodePlace::TargetEnospcStops,
            (OnError::Enospc | OnError::Auto, _, true) => CodePlace::SourceEnospcReports,
            (OnError::Enospc | OnError::Auto, _, false) => CodePlace::TargetEnospcReports,
        });
        let id = self.jobs[job].id.clone();
        let operation = if is_read { "read" } else { "write" };
        self.emit(
            "BLOCK_JOB_ERROR",
            Json::dict(vec![
                ("device", Json::Str(id)),
                ("operation", operation.into()),
                ("action", action.name().into()),
            ]),
        );
        if action == ErrorAction::Stop {
            if !self.jobs[job].user_paused {
                self.job_pause(job);
                self.jobs[job].user_paused = true;
            }
            let j = &mut self.jobs[job];
            if j.iostatus == IoStatus::Ok {
                j.iostatus = if error == Errno::ENOSPC { IoStatus::Nospace } else { IoStatus::Failed };
            }
        }
        action
    }

    /// `BLOCK_JOB_COMPLETED` or `BLOCK_JOB_CANCELLED`
    pub(super) fn emit_block_job_end(&mut self, job: JobId) {
        let j = &self.jobs[job];
        let mut data = block_job_progress(j);
        let name = if j.force_cancel { "BLOCK_JOB_CANCELLED" } else { "BLOCK_JOB_COMPLETED" };
        if !j.force_cancel && j.ret.is_some() {
            data.push(("error", Json::Str(j.err.clone().unwrap_or_default())));
        }
        if self.feed.on {
            let (cancelled, failed) = (j.force_cancel, j.ret.is_some());
            let (id, offset, len) = (j.id.clone(), j.progress_current, j.progress_total);
            let forgiven = self.has_error_to_end_for(job);
            self.feed.seen.push(Seen::JobEnd { job, id, cancelled, failed, forgiven, offset, len });
        }
        self.emit(name, Json::dict(data));
    }

    pub(super) fn emit_block_job_pending(&mut self, job: JobId) {
        let j = &self.jobs[job];
        if j.job_type.is_block_job() {
            let data = vec![("type", Json::str(j.job_type.name())), ("id", Json::Str(j.id.clone()))];
            self.emit("BLOCK_JOB_PENDING", Json::dict(data));
        }
    }

    /// `block_job_set_speed_locked`
    pub(super) fn block_job_set_speed(&mut self, job: JobId, speed: i64) -> Flow {
        let done = self.job_apply_verb(job, JobVerb::SetSpeed).and_then(|()| {
            if speed < 0 {
                return Err(QmpError::generic("Parameter 'speed' expects a non-negative value"));
            }
            self.set_speed(job, speed);
            Ok(())
        });
        self.ret(Val::Done(done))
    }

    fn set_speed(&mut self, job: JobId, speed: i64) {
        let j = &mut self.jobs[job];
        let old_speed = std::mem::replace(&mut j.speed, speed);
        j.limit.set_speed(speed.unsigned_abs());
        if let Some(set_speed) = self.job_hooks(job).block.as_ref().and_then(|block| block.set_speed) {
            set_speed(self, job, speed);
        }
        if speed == 0 || speed > old_speed {
            self.job_enter_if_asleep(job);
        }
    }

    /// `block_job_change_locked`
    pub(super) fn block_job_change(&mut self, job: JobId, options: &BlockJobChange) -> Flow {
        let done = self.job_apply_verb(job, JobVerb::Change).and_then(|()| {
            match self.job_hooks(job).block.as_ref().and_then(|block| block.change) {
                Some(change) => change(self, job, options),
                None => Err(QmpError::generic("Job type does not support change")),
            }
        });
        self.ret(Val::Done(done))
    }
}
