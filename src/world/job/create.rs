//! The job of `blockdev-create` (`block/create.c`).

use super::JobFlags;
use super::hooks::{JobDriver, JobHooks, WatchHooks};
use crate::base::errno::Errno;
use crate::job::status::JobType;
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::types::{BlockdevCreate, CreateOptions};
use crate::world::World;
use crate::world::arena::JobId;
use crate::world::block::create::AfterCreate;
use crate::world::block::open::unsupported;
use crate::world::frame::{Flow, Frame};
use crate::world::job::JobFrame;
use crate::world::job::commands::JobCommands;
use crate::world::monitor::MonitorFrame;
use crate::world::value::Val;

/// `BlockdevCreateJob`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CreateJob {
    /// What to create.
    pub options: CreateOptions,
}

/// `blockdev_create_job_driver`
pub(in crate::world) const HOOKS: JobHooks = JobHooks {
    job_type: JobType::Create,
    run: World::create_run,
    pause: None,
    resume: None,
    user_resume: None,
    complete: None,
    prepare: None,
    commit: None,
    abort: None,
    clean: None,
    cancel: None,
    block: None,
    watch: WatchHooks { may_rest: None, bitmap: None, target: None },
};

/// `qmp_blockdev_create`
pub(in crate::world) const COMMANDS: JobCommands = JobCommands {
    qmp: |w, command| match command {
        Command::BlockdevCreate(args) => Ok(w.blockdev_create(*args)),
        other => Err(other),
    },
    hmp: &[],
    actions: None,
    listed_as: None,
};

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum CreateFrame {
    CreateDone(JobId),
}

impl CreateFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            CreateFrame::CreateDone(job) => w.create_done(job),
        }
    }
}

impl World {
    /// `qmp_blockdev_create`
    fn blockdev_create(&mut self, args: BlockdevCreate) -> Flow {
        let refused = match (unsupported::create_option(&args.options), &args.options) {
            (Some(name), _) => Some(format!("not simulated: {name}")),
            (None, CreateOptions::Other(..)) => Some("Driver does not support blockdev-create".to_owned()),
            (None, _) => None,
        };
        if let Some(text) = refused {
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        if let CreateOptions::File(file) = &args.options
            && !self.files.look(&file.filename, false)
        {
            return self.seq([MonitorFrame::QmpCommand.into()]);
        }
        let flags = JobFlags { id: Some(args.job_id), auto_finalize: true, auto_dismiss: false, speed: 0 };
        match self.job_create(&flags, JobType::Create, None) {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(job) => {
                self.jobs[job].driver = JobDriver::Create(Box::new(CreateJob { options: args.options }));
                self.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.seq([JobFrame::JobStart(job).into()])
            }
        }
    }

    /// `blockdev_create_run`
    pub(in crate::world) fn create_run(&mut self, job: JobId) -> Flow {
        self.job_progress_set_remaining(job, 1);
        let JobDriver::Create(create) = &self.jobs[job].driver else { unreachable!("a create job") };
        let options = create.options.clone();
        self.push(CreateFrame::CreateDone(job).into());
        match options {
            CreateOptions::File(file) => {
                if let Err(text) = self.may_create(&file.filename) {
                    return self.ret(Val::Done(Err(QmpError::generic(text))));
                }
                // `raw_co_create` leaves the rounding to its callers; a worker thread makes the file as long as it is to be.
                self.raw_create(file.filename.clone(), file.size, false, Box::new(AfterCreate::Job))
            }
            CreateOptions::Qcow2(qcow2) => self.create_qcow2(&qcow2),
            CreateOptions::Other(driver, _) => unreachable!("{} was refused by the command", driver.name()),
        }
    }

    /// The end of `blockdev_create_run`.
    fn create_done(&mut self, job: JobId) -> Flow {
        let done = self.take_done();
        self.jobs[job].progress_current += 1;
        match done {
            Ok(()) => self.ret(Val::Ret(Ok(()))),
            Err(err) => {
                self.jobs[job].err = Some(err.desc);
                self.ret(Val::err(Errno::EINVAL))
            }
        }
    }
}
