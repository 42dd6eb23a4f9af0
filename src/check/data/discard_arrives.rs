//! A discard arrives.

use crate::check::chain::Wrong;
use crate::invariant::{Broken, Invariant};
use crate::quirk::Quirk;
use crate::world::arena::{CoId, NodeId};
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};

/// [`Invariant::DiscardArrives`]
pub(in crate::check) const INVARIANT: Invariant = Invariant::DiscardArrives;

/// A discard under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Discard {
    co: CoId,
    /// Where it is to arrive.
    node: NodeId,
    arrived: bool,
    /// It ended at the filter of a job.
    swallowed: bool,
}

/// What is remembered of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::check) struct DiscardArrives {
    discards: Vec<Discard>,
}

impl DiscardArrives {
    /// What it hears.
    pub(in crate::check) const HEARS: SeenKinds =
        SeenKinds::of(&[SeenKind::GuestBegin, SeenKind::GuestEnd, SeenKind::Discards, SeenKind::DiscardSwallowed]);

    /// Looks at one thing that happened. QEMU 10.0.2 itself breaks it.
    pub(in crate::check) fn see(&mut self, seen: &Seen) -> Option<Wrong> {
        match seen {
            Seen::GuestBegin { co, path, discards: true, .. } => {
                let node = path[path.len() - 1];
                self.discards.push(Discard { co: *co, node, arrived: false, swallowed: false });
            }
            Seen::Discards { co, node } => {
                let here = |discard: &&mut Discard| discard.co == *co && discard.node == *node;
                self.discards.iter_mut().find(here)?.arrived = true;
            }
            Seen::DiscardSwallowed(co) => {
                self.discards.iter_mut().find(|discard| discard.co == *co)?.swallowed = true;
            }
            Seen::GuestEnd { co, ok, .. } => {
                let at = self.discards.iter().position(|discard| discard.co == *co)?;
                let discard = self.discards.swap_remove(at);
                if *ok && !discard.arrived {
                    let known = discard.swallowed.then_some(Quirk::FilterSwallowsDiscard.into());
                    let reason = "it succeeds, and was not passed on to the node below";
                    return Some(Wrong { known, broken: Broken::new(INVARIANT, "a guest's discard", reason) });
                }
            }
            _ => {}
        }
        None
    }
}
