//! The checker: watches a run from outside and says when an invariant does not hold.
//!
//! After each step it takes what stands in the world's feed, so what it costs follows from what happened and not from the size of
//! the world. What it remembers is plain data, part of the state of a run. The list of watchers below is the register: one file an
//! invariant.

mod job_events;
mod job_tables;
mod transaction_undone;

use crate::invariant::{Broken, Invariant};
use crate::world::World;
use crate::world::feed::Seen;

/// Watches for one invariant.
trait Watch {
    /// Which.
    const INVARIANT: Invariant;

    /// Looks at one thing that happened in the step that just ended.
    fn see(&mut self, seen: &Seen, world: &World) -> Result<(), Broken>;

    /// Says that it does not hold.
    fn broken(subject: String, reason: String) -> Result<(), Broken> {
        Err(Broken::new(Self::INVARIANT, subject, reason))
    }
}

macro_rules! watchers {
    ($($field:ident: $watcher:path,)*) => {
        /// What the watchers of all invariants remember.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
        pub struct Checker {
            $($field: $watcher,)*
        }

        /// The invariants that have a watcher. `used-after-free` has none: whoever uses an id that was freed ends the step.
        pub const WATCHED: &[Invariant] = &[$(<$watcher as Watch>::INVARIANT,)*];

        impl Checker {
            fn see(&mut self, seen: &Seen, world: &World) -> Result<(), Broken> {
                $(self.$field.see(seen, world)?;)*
                Ok(())
            }
        }
    };
}

watchers! {
    job_tables: job_tables::JobTables,
    job_events: job_events::JobEvents,
    transaction_undone: transaction_undone::TransactionUndone,
}

impl Checker {
    /// A checker that watches `world` from now on.
    #[must_use]
    pub fn watching(world: &mut World) -> Checker {
        world.feed.on = true;
        Checker::default()
    }

    /// Looks at what happened in the step that just ended.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    #[inline]
    pub fn step(&mut self, world: &mut World) -> Result<(), Broken> {
        if world.feed.seen.is_empty() { Ok(()) } else { self.look(world) }
    }

    fn look(&mut self, world: &mut World) -> Result<(), Broken> {
        let mut seen = std::mem::take(&mut world.feed.seen);
        let checked = seen.iter().try_for_each(|seen| self.see(seen, world));
        seen.clear();
        world.feed.seen = seen;
        checked
    }
}
