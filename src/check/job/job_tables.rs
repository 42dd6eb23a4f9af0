//! The tables of job statuses and verbs, held against what jobs do.

use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::job::status::{can_transition, verb_allowed};
use crate::world::World;
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};

/// [`Invariant::JobTables`]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct JobTables;

impl Watch for JobTables {
    const INVARIANT: Invariant = Invariant::JobTables;
    const HEARS: SeenKinds = SeenKinds::of(&[SeenKind::JobStatus, SeenKind::Verb]);

    fn see(&mut self, seen: &Seen, _world: &World) -> Result<(), Broken> {
        match seen {
            Seen::JobStatus { id, from, to, .. } if !can_transition(*from, *to) => Self::broken(
                format!("job {id}"),
                format!("its status went from '{from}' to '{to}', which is not in the table"),
            ),
            Seen::Verb { id, verb, status, taken } if verb_allowed(*verb, *status) != *taken => {
                let did = if *taken { "taken" } else { "refused" };
                Self::broken(
                    format!("job {id}"),
                    format!("'{verb}' was {did} in status '{status}', unlike the table says"),
                )
            }
            _ => Ok(()),
        }
    }
}
