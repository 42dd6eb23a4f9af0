//! What a kind of job does at each point of its life: QEMU's `JobDriver` and `BlockJobDriver`, as tables.
//!
//! The life cycle (`mod.rs`, `txn.rs`), the verbs and the monitor call a job's hooks and know no kind of job. A new kind is a file with
//! a table of its own and a line in [`job_drivers!`](self) below. Each table names every hook, so that the compiler asks about
//! all of them; `None` is QEMU's `NULL`.

use super::Job;
use crate::base::Json;
use crate::host::Frozen;
use crate::job::status::JobType;
use crate::qmp::error::QmpError;
use crate::qmp::types::BlockJobChange;
use crate::world::World;
use crate::world::arena::JobId;
use crate::world::frame::Flow;
use crate::world::watch::feed::BitmapEnd;

/// `JobDriver` (`include/qemu/job.h`)
pub struct JobHooks {
    /// `job_type`
    pub job_type: JobType,
    /// `run`: the job itself, in its coroutine. Leaves `Val::Ret`.
    pub run: fn(&mut World, JobId) -> Flow,
    /// `pause`: in the coroutine, before it stands still at a pause point.
    pub pause: Option<fn(&mut World, JobId) -> Flow>,
    /// `resume`: in the coroutine, after it stood still at a pause point.
    pub resume: Option<fn(&mut World, JobId) -> Flow>,
    /// `user_resume`: before the user's pause ends.
    pub user_resume: Option<fn(&mut World, JobId)>,
    /// `complete`: the user asks a READY job to end; without it no job of this kind can be asked. Leaves `Val::Done`.
    pub complete: Option<fn(&mut World, JobId) -> Flow>,
    /// `prepare`: the last step that may fail, before anybody of the group commits. Leaves `Val::Ret`.
    pub prepare: Option<fn(&mut World, JobId) -> Flow>,
    /// `commit`: all of the group succeeded.
    pub commit: Option<fn(&mut World, JobId) -> Flow>,
    /// `abort`: the job failed, was cancelled, or another one of its group was.
    pub abort: Option<fn(&mut World, JobId) -> Flow>,
    /// `clean`: after `commit` or `abort`.
    pub clean: Option<fn(&mut World, JobId) -> Flow>,
    /// `cancel`: says whether the job is cancelled by force, whatever was asked. Without it always.
    pub cancel: Option<fn(&mut World, JobId, bool) -> bool>,
    /// What block jobs have on top.
    pub block: Option<BlockJobHooks>,
    /// What watchers ask; QEMU has nothing of the kind.
    pub watch: WatchHooks,
}

/// Changes options of a running job.
type Change = fn(&mut World, JobId, &BlockJobChange) -> Result<(), QmpError>;
/// Members that a job adds to its entry in `query-block-jobs`.
type Query = fn(&World, JobId) -> Vec<(&'static str, Json)>;

/// `BlockJobDriver` (`include/block/blockjob_int.h`)
pub struct BlockJobHooks {
    /// `drained_poll`: whether the job has requests under way though it was told to pause. Without it, as long as it is busy.
    pub drained_poll: Option<fn(&World, JobId) -> bool>,
    /// `set_speed`: after the job's own limit was set, in bytes a second; 0 is unlimited.
    pub set_speed: Option<fn(&mut World, JobId, i64)>,
    /// `change`: `block-job-change`.
    pub change: Option<Change>,
    /// `query`: what `query-block-jobs` shows on top.
    pub query: Option<Query>,
}

/// What those who watch a run want to know of a job that only its own file can say.
pub struct WatchHooks {
    /// Whether the job may rest while it runs until somebody tells it to go on. Without it, a running job that does nothing is stuck.
    pub may_rest: Option<fn(&Job) -> bool>,
    /// Its bitmap, before `commit` or `abort`.
    pub bitmap: Option<fn(&World, JobId) -> Option<BitmapEnd>>,
    /// What it leaves in its target, if it succeeded.
    pub target: Option<fn(&World, JobId) -> Option<Frozen>>,
}

/// Declares [`JobDriver`]: a kind of job, its state (with `moves`, if it holds instants), its table.
macro_rules! job_drivers {
    ($($(#[doc = $doc:literal])* $(#[cfg($when:meta)])? $kind:ident($state:ty) $($moves:ident)? => $hooks:expr,)*) => {
        /// What kind of job it is, with its own state.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum JobDriver {
            /// The job was created (`job_create`), its own part is still missing.
            Unset,
            $($(#[doc = $doc])* $(#[cfg($when)])? $kind($state),)*
        }

        crate::base::time::rebase!(enum JobDriver {
            Unset,
            $($(#[cfg($when)])? $kind(state) $($moves)?,)*
        });

        impl JobDriver {
            /// The table of its kind; a job whose own part is missing has none.
            #[must_use]
            pub fn hooks(&self) -> Option<&'static JobHooks> {
                match self {
                    JobDriver::Unset => None,
                    $($(#[cfg($when)])? JobDriver::$kind(_) => Some(&$hooks),)*
                }
            }
        }
    };
}

job_drivers! {
    /// `block/backup.c`
    Backup(super::backup::BackupJob) => super::backup::HOOKS,
    /// `block/commit.c`
    Commit(Box<super::commit::CommitJob>) => super::commit::HOOKS,
    /// `block/mirror.c`
    Mirror(Box<super::mirror::MirrorJob>) moves => super::mirror::HOOKS,
    /// `block/mirror.c`: the commit of an active layer
    CommitActive(Box<super::mirror::MirrorJob>) moves => super::mirror::COMMIT_ACTIVE_HOOKS,
    /// `block/stream.c`
    Stream(Box<super::stream::StreamJob>) => super::stream::HOOKS,
    /// `block/create.c`: `blockdev-create`
    Create(Box<super::create::CreateJob>) => super::create::HOOKS,
    /// Of unit tests.
    #[cfg(test)]
    Test(Box<super::tests::TestJob>) => super::tests::HOOKS,
}

impl World {
    /// The table of a job's kind.
    ///
    /// # Panics
    /// If its own part is missing: such a job is neither started nor ended but by `job_early_fail`.
    #[must_use]
    pub(in crate::world) fn job_hooks(&self, job: JobId) -> &'static JobHooks {
        self.jobs[job].driver.hooks().expect("a job gets its own part before it is started")
    }
}
