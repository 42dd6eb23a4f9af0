//! The grammar of what a job tells: statuses, progress, and the event that ends it.

use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::job::status::{JobStatus, JobType};
use crate::world::World;
use crate::world::arena::JobId;
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};
use std::sync::Arc;

/// A job that has not reached `null`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Told {
    job: JobId,
    id: Arc<str>,
    kind: JobType,
    started: bool,
    ended: bool,
    current: u64,
}

/// [`Invariant::JobEvents`]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct JobEvents {
    jobs: Vec<Told>,
}

impl JobEvents {
    fn told(&mut self, job: JobId) -> Option<&mut Told> {
        self.jobs.iter_mut().find(|told| told.job == job)
    }

    fn status(&mut self, job: JobId, id: &Arc<str>, to: JobStatus, kind: JobType) -> Result<(), Broken> {
        let subject = || format!("job {id}");
        if to == JobStatus::Created {
            let told = Told { job, id: id.clone(), kind, started: false, ended: false, current: 0 };
            self.jobs.push(told);
            return Ok(());
        }
        let Some(told) = self.told(job) else {
            return Self::broken(subject(), format!("it became '{to}' after it was 'null'"));
        };
        match to {
            JobStatus::Running => told.started = true,
            JobStatus::Concluded if told.started && told.kind.is_block_job() && !told.ended => {
                return Self::broken(subject(), "it was started and concluded without COMPLETED or CANCELLED".into());
            }
            JobStatus::Null => self.jobs.retain(|told| told.job != job),
            _ => {}
        }
        Ok(())
    }

    fn progress(&mut self, job: JobId, current: u64, total: u64) -> Result<(), Broken> {
        let Some(told) = self.told(job) else { return Ok(()) };
        let was = std::mem::replace(&mut told.current, current);
        let (subject, mirror) = (format!("job {}", told.id), told.kind == JobType::Mirror);
        if current < was {
            return Self::broken(subject, format!("its offset went back from {was} to {current}"));
        }
        if current > total {
            let beyond = Self::broken(subject, format!("its offset {current} is beyond its length {total}"));
            return if mirror { beyond.map_err(whole_clusters) } else { beyond };
        }
        Ok(())
    }
}

/// It counts the whole clusters that it copied of its target, and not what it had to copy.
fn whole_clusters(broken: Broken) -> Broken {
    broken.known("mirror-counts-whole-clusters")
}

impl Watch for JobEvents {
    const INVARIANT: Invariant = Invariant::JobEvents;
    const HEARS: SeenKinds = SeenKinds::of(&[SeenKind::JobStatus, SeenKind::JobEnd, SeenKind::Progress]);

    fn see(&mut self, seen: &Seen, _world: &World) -> Result<(), Broken> {
        match seen {
            Seen::JobStatus { job, id, to, kind, .. } => self.status(*job, id, *to, *kind),
            Seen::Progress { job, current, total } => self.progress(*job, *current, *total),
            Seen::JobEnd { job, id, cancelled, failed, forgiven, offset, len } => {
                let name = if *cancelled { "CANCELLED" } else { "COMPLETED" };
                let subject = format!("job {id}");
                let Some(told) = self.told(*job) else {
                    return Self::broken(subject, format!("{name} was sent after it was 'null'"));
                };
                if !told.started {
                    return Self::broken(subject, format!("{name} was sent though it was never started"));
                }
                if std::mem::replace(&mut told.ended, true) {
                    return Self::broken(subject, format!("{name} was sent though it had ended already"));
                }
                if offset > len {
                    let mirror = told.kind == JobType::Mirror;
                    let beyond = Self::broken(subject, format!("{name} says offset {offset} beyond len {len}"));
                    return if mirror { beyond.map_err(whole_clusters) } else { beyond };
                }
                if !cancelled && !failed && offset != len {
                    let short = Self::broken(subject, format!("it succeeded with offset {offset} short of len {len}"));
                    let known = |broken: Broken| broken.known("mirror-forgives-a-failed-write");
                    return if *forgiven { short.map_err(known) } else { short };
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
