//! A group completes as one: all of its jobs commit, or all abort; each does so once, and cleans up after.

use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::job::status::JobStatus;
use crate::world::World;
use crate::world::arena::{JobId, TxnId};
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};
use std::sync::Arc;

/// How far a job is in its ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Settled,
    Cleaned,
    Ended,
}

/// [`Invariant::GroupCompletion`]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GroupCompletion {
    ending: Vec<(JobId, Stage)>,
    /// What the first job of a grouped transaction did: it committed, or not.
    groups: Vec<(TxnId, bool, Arc<str>)>,
}

impl GroupCompletion {
    /// Moves a job on to a stage, from the one that has to come before it.
    fn advance(&mut self, job: JobId, id: &str, from: Option<Stage>, to: Stage, what: &str) -> Result<(), Broken> {
        let at = self.ending.iter().position(|(j, _)| *j == job);
        if at.map(|at| self.ending[at].1) != from {
            return Self::broken(format!("job {id}"), format!("{what} out of turn, or twice"));
        }
        match at {
            Some(at) => self.ending[at].1 = to,
            None => self.ending.push((job, to)),
        }
        Ok(())
    }
}

impl Watch for GroupCompletion {
    const INVARIANT: Invariant = Invariant::GroupCompletion;
    const HEARS: SeenKinds = SeenKinds::of(&[
        SeenKind::JobStatus,
        SeenKind::JobEnd,
        SeenKind::Settled,
        SeenKind::Cleaned,
        SeenKind::JobFreed,
    ]);

    fn see(&mut self, seen: &Seen, _world: &World) -> Result<(), Broken> {
        match seen {
            Seen::Settled(settled) => {
                let what = if settled.committed { "commit was called" } else { "abort was called" };
                self.advance(settled.job, &settled.id, None, Stage::Settled, what)?;
                let (Some(group), true) = (settled.group, settled.grouped) else { return Ok(()) };
                match self.groups.iter().find(|(known, ..)| *known == group) {
                    None => self.groups.push((group, settled.committed, settled.id.clone())),
                    Some((_, committed, other)) if *committed != settled.committed => {
                        let word = |committed: bool| if committed { "committed" } else { "aborted" };
                        let reason = format!(
                            "it {}, though job {other} of its group {}",
                            word(settled.committed),
                            word(*committed)
                        );
                        return Self::broken(format!("job {}", settled.id), reason);
                    }
                    Some(_) => {}
                }
                Ok(())
            }
            Seen::Cleaned { job, id } => {
                self.advance(*job, id, Some(Stage::Settled), Stage::Cleaned, "clean was called")
            }
            Seen::JobEnd { job, id, .. } => {
                self.advance(*job, id, Some(Stage::Cleaned), Stage::Ended, "its last event was sent")
            }
            Seen::JobStatus { job, id, from, to: JobStatus::Concluded, .. } if from != &JobStatus::Concluded => {
                if self.ending.iter().any(|(j, stage)| j == job && *stage != Stage::Settled) {
                    return Ok(());
                }
                Self::broken(format!("job {id}"), "it concluded without commit or abort, and clean".into())
            }
            Seen::JobFreed { job, .. } => {
                self.ending.retain(|(j, _)| j != job);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
