//! A paused job is quiet.

use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::job::status::JobStatus;
use crate::world::World;
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};

/// [`Invariant::PausedQuiet`]
///
/// Copies on behalf of a guest's write are none of the job's: they go on while it is paused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PausedQuiet;

impl Watch for PausedQuiet {
    const INVARIANT: Invariant = Invariant::PausedQuiet;
    const HEARS: SeenKinds = SeenKinds::of(&[SeenKind::Copies]);

    fn see(&mut self, seen: &Seen, _world: &World) -> Result<(), Broken> {
        match seen {
            Seen::Copies { id, status } if *status != JobStatus::Running => {
                Self::broken(format!("job {id}"), format!("it begins to copy something while it is '{status}'"))
            }
            _ => Ok(()),
        }
    }
}
