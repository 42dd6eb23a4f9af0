//! Commands that act on one job (`job-qmp.c`, and the `qmp_block_job_*` of `blockdev.c`).

use crate::job::status::{JobStatus, JobVerb};
use crate::qmp::command::Command;
use crate::qmp::error::{ErrorClass, QmpError};
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::arena::JobId;
use crate::world::frame::{Flow, Frame};
use crate::world::job::txn::TxnFrame;
use crate::world::value::Val;
use crate::world::watch::feed::Seen;

#[derive(Clone, Copy)]
enum Family {
    Block,
    Job,
}

impl World {
    /// The commands that act on one job. The two families differ in how they look it up (`find_job`, `find_block_job`).
    pub(in crate::world) fn job_command(&mut self, command: Command) -> Flow {
        use Command as C;
        let (family, name) = match &command {
            C::BlockJobCancel { device, .. }
            | C::BlockJobPause { device }
            | C::BlockJobResume { device }
            | C::BlockJobComplete { device }
            | C::BlockJobSetSpeed { device, .. } => (Family::Block, device.clone()),
            C::BlockJobFinalize { id } | C::BlockJobDismiss { id } => (Family::Block, id.clone()),
            C::BlockJobChange(args) => (Family::Block, args.id.clone()),
            C::JobPause { id }
            | C::JobResume { id }
            | C::JobCancel { id }
            | C::JobComplete { id }
            | C::JobDismiss { id }
            | C::JobFinalize { id } => (Family::Job, id.clone()),
            other => unreachable!("{other:?} is no job command"),
        };
        let job = match self.find_job(family, &name) {
            Ok(job) => job,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        match command {
            C::BlockJobPause { .. } | C::JobPause { .. } => self.job_user_pause(job),
            C::BlockJobResume { .. } | C::JobResume { .. } => self.job_user_resume(job),
            C::BlockJobCancel { force, .. } => self.block_job_cancel(job, &name, force.unwrap_or(false)),
            C::JobCancel { .. } => self.job_user_cancel(job, true),
            C::BlockJobComplete { .. } | C::JobComplete { .. } => self.job_complete(job),
            C::BlockJobSetSpeed { speed, .. } => self.block_job_set_speed(job, speed),
            C::BlockJobFinalize { .. } | C::JobFinalize { .. } => self.job_finalize(job),
            C::BlockJobDismiss { .. } | C::JobDismiss { .. } => self.job_dismiss(job),
            C::BlockJobChange(options) => self.block_job_change(job, &options),
            other => unreachable!("{other:?} is no job command"),
        }
    }

    fn find_job(&self, family: Family, name: &str) -> Result<JobId, QmpError> {
        let found = self.jobs.find(name);
        match family {
            Family::Job => found.ok_or_else(|| QmpError::generic("Job not found")),
            Family::Block => found
                .filter(|job| self.jobs[*job].job_type.is_block_job())
                .ok_or_else(|| QmpError::new(ErrorClass::DeviceNotActive, format!("Block job '{name}' not found"))),
        }
    }

    /// `job_user_pause_locked`
    fn job_user_pause(&mut self, job: JobId) -> Flow {
        let done = self.job_apply_verb(job, JobVerb::Pause).and_then(|()| {
            if self.jobs[job].user_paused {
                return Err(QmpError::generic("Job is already paused"));
            }
            self.jobs[job].user_paused = true;
            self.job_pause(job);
            Ok(())
        });
        self.ret(Val::Done(done))
    }

    /// `job_user_resume_locked`
    fn job_user_resume(&mut self, job: JobId) -> Flow {
        let j = &self.jobs[job];
        if !j.user_paused || j.pause_count == 0 {
            let err = QmpError::generic("Can't resume a job that was not paused");
            return self.ret(Val::Done(Err(err)));
        }
        let done = self.job_apply_verb(job, JobVerb::Resume).map(|()| {
            if let Some(user_resume) = self.job_hooks(job).user_resume {
                user_resume(self, job);
            }
            self.jobs[job].user_paused = false;
            self.job_resume(job);
        });
        self.ret(Val::Done(done))
    }

    /// `qmp_block_job_cancel`
    fn block_job_cancel(&mut self, job: JobId, name: &str, force: bool) -> Flow {
        if self.jobs[job].user_paused && !force {
            let text = format!("The block job for device '{name}' is currently paused");
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        self.job_user_cancel(job, force)
    }

    /// `job_user_cancel_locked`
    fn job_user_cancel(&mut self, job: JobId, force: bool) -> Flow {
        match self.job_apply_verb(job, JobVerb::Cancel) {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(()) => {
                self.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.seq([TxnFrame::JobCancel(job, force).into()])
            }
        }
    }

    /// `job_complete_locked`
    fn job_complete(&mut self, job: JobId) -> Flow {
        if let Err(err) = self.job_apply_verb(job, JobVerb::Complete) {
            return self.ret(Val::Done(Err(err)));
        }
        match self.job_hooks(job).complete.filter(|_| !self.jobs[job].cancelled) {
            Some(complete) => complete(self, job),
            None => {
                let text = format!("The active block job '{}' cannot be completed", self.jobs[job].id);
                self.ret(Val::Done(Err(QmpError::generic(text))))
            }
        }
    }

    /// `qmp_job_finalize`
    fn job_finalize(&mut self, job: JobId) -> Flow {
        if self.jobs[job].txn.is_none() && self.quirks.has(Quirk::FinalizeTwiceAssert) {
            Self::qemu_aborts(format!("job {}", self.jobs[job].id), "job_finalize: it is in no group");
        }
        match self.job_apply_verb(job, JobVerb::Finalize) {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(()) => {
                self.jobs[job].refcnt += 1;
                self.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.seq([TxnFrame::JobDoFinalize(job).into(), TxnFrame::JobUnref(job).into()])
            }
        }
    }

    /// `job_dismiss_locked`
    fn job_dismiss(&mut self, job: JobId) -> Flow {
        match self.job_apply_verb(job, JobVerb::Dismiss) {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(()) => {
                self.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.job_do_dismiss(job)
            }
        }
    }

    /// `job_apply_verb_locked`
    ///
    /// # Errors
    /// QEMU's refusal.
    pub(in crate::world) fn job_apply_verb(&mut self, job: JobId, verb: JobVerb) -> Result<(), QmpError> {
        let j = &self.jobs[job];
        let mut done = crate::job::status::apply_verb(&j.id, verb, j.status).map_err(QmpError::generic);
        if verb == JobVerb::Pause && self.quirks.has(Quirk::SeededVerbInAnyStatus) {
            done = Ok(());
        }
        let standby = verb == JobVerb::Complete && j.status == JobStatus::Standby;
        if standby && self.quirks.has(Quirk::CompleteRefusedInStandby) {
            let text = format!("Job '{}' in state 'standby' cannot accept command verb 'complete'", j.id);
            done = Err(QmpError::generic(text));
        }
        let (id, status, taken) = (j.id.clone(), j.status, done.is_ok());
        self.see(|| Seen::Verb { id, verb, status, taken });
        done
    }
}
