//! READY is said once.

use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::world::World;
use crate::world::arena::JobId;
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};

/// [`Invariant::ReadyOnce`]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadyOnce {
    /// Jobs with a state READY, and whether they said so.
    jobs: Vec<(JobId, bool)>,
}

impl Watch for ReadyOnce {
    const INVARIANT: Invariant = Invariant::ReadyOnce;
    const HEARS: SeenKinds = SeenKinds::of(&[SeenKind::JobEnd, SeenKind::ChainBegins, SeenKind::Ready]);

    fn see(&mut self, seen: &Seen, _world: &World) -> Result<(), Broken> {
        match seen {
            Seen::ChainBegins(begins) if begins.kind.is_mirror() => self.jobs.push((begins.job, false)),
            Seen::Ready { job, id } => {
                if let Some((_, said)) = self.jobs.iter_mut().find(|(known, _)| known == job)
                    && std::mem::replace(said, true)
                {
                    return Self::broken(format!("job {id}"), "BLOCK_JOB_READY is sent again".into());
                }
            }
            Seen::JobEnd { job, id, cancelled, failed, .. } => {
                if let Some(at) = self.jobs.iter().position(|(known, _)| known == job)
                    && !self.jobs.swap_remove(at).1
                    && !cancelled
                    && !failed
                {
                    return Self::broken(format!("job {id}"), "it succeeded, and was never READY".into());
                }
            }
            _ => {}
        }
        Ok(())
    }
}
