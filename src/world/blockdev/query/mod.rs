//! The query commands (`block/qapi.c`, `job-qmp.c`, `blockjob.c`).

mod node;
mod stats;
mod xdbg;

use crate::base::Json;
use crate::qmp::names;
use crate::version::Version;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::JobId;
use crate::world::job::Job;

/// `query-version`
#[must_use]
pub fn version(of: Version) -> Json {
    let (major, minor, micro) = of.numbers();
    let number = |n: u8| Json::uint(n.into());
    let qemu = Json::dict(vec![("major", number(major)), ("minor", number(minor)), ("micro", number(micro))]);
    Json::dict(vec![("qemu", qemu), ("package", "".into())])
}

/// `query-commands`
#[must_use]
pub fn commands(of: Version) -> Json {
    Json::list(names::commands(of).into_iter().map(|name| Json::dict(vec![("name", name.into())])).collect())
}

impl World {
    /// `query-status`
    #[must_use]
    pub(in crate::world) fn query_status(&self) -> Json {
        let status = match (self.running, self.ran) {
            (true, _) => "running",
            (false, true) => "paused",
            (false, false) => "prelaunch",
        };
        let mut members = vec![("status", status.into())];
        if !self.quirks.since(Change::SingleStepGone) {
            members.push(("singlestep", false.into()));
        }
        members.push(("running", self.running.into()));
        Json::dict(members)
    }

    /// `query-block-jobs`
    #[must_use]
    pub(in crate::world) fn query_block_jobs(&self) -> Json {
        let jobs = self.jobs.list.iter().filter(|id| self.jobs[**id].job_type.is_block_job());
        Json::list(jobs.map(|id| self.block_job_info(*id)).collect())
    }

    /// `query-jobs`
    #[must_use]
    pub(in crate::world) fn query_jobs(&self) -> Json {
        Json::list(self.jobs.list.iter().map(|id| job_info(&self.jobs[*id])).collect())
    }

    /// `block_job_query_locked`
    fn block_job_info(&self, job: JobId) -> Json {
        let j = &self.jobs[job];
        let mut members = vec![
            ("type", j.job_type.name().into()),
            ("device", Json::Str(j.id.clone())),
            ("len", Json::uint(j.progress_total)),
            ("offset", Json::uint(j.progress_current)),
            ("busy", j.busy.into()),
            ("paused", (j.pause_count > 0).into()),
            ("speed", Json::Int(j.speed)),
            ("io-status", j.iostatus.name().into()),
            ("ready", j.status.is_ready().into()),
            ("status", j.status.name().into()),
            ("auto-finalize", j.auto_finalize.into()),
            ("auto-dismiss", j.auto_dismiss.into()),
        ];
        if let Some(ret) = j.ret {
            let text = j.err.clone().unwrap_or_else(|| ret.to_string().into());
            members.push(("error", Json::Str(text)));
        }
        if let Some(query) = j.driver.hooks().and_then(|hooks| hooks.block.as_ref()).and_then(|block| block.query) {
            members.extend(query(self, job));
        }
        Json::dict(members)
    }
}

/// `job_query_single_locked`
fn job_info(j: &Job) -> Json {
    let mut members = vec![
        ("id", Json::Str(j.id.clone())),
        ("type", j.job_type.name().into()),
        ("status", j.status.name().into()),
        ("current-progress", Json::uint(j.progress_current)),
        ("total-progress", Json::uint(j.progress_total)),
    ];
    if let Some(err) = &j.err {
        members.push(("error", Json::Str(err.clone())));
    }
    Json::dict(members)
}
