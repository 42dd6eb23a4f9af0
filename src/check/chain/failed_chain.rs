//! A job that fails leaves the chain that it found.

use super::{Followed, Requests, Wrong};
use crate::invariant::Invariant;
use crate::world::watch::chains::ChainEnds;

/// [`Invariant::FailedChain`]
pub(super) const INVARIANT: Invariant = Invariant::FailedChain;

/// Layers are not looked at where the device has gone with its node, nor where another job on the same chain has ended meanwhile, or the user has changed the chain.
pub(super) fn judge(job: &Followed, ends: &ChainEnds, requests: &Requests) -> Option<Wrong> {
    if !ends.failed {
        return None;
    }
    if !job.shared && !job.opened && !job.layers.is_empty() && !ends.layers.is_empty() && job.layers != ends.layers {
        let tell = |(_, name, writable): &(_, std::sync::Arc<str>, bool)| {
            format!("{name}{}", if *writable { "" } else { " (read-only)" })
        };
        let [before, after] =
            [&job.layers, &ends.layers].map(|all| all.iter().map(tell).collect::<Vec<_>>().join(" on "));
        let reason = format!("it failed, and its chain is {after}, where it was {before}");
        return Some(job.wrong(INVARIANT, job.excused(), reason));
    }
    let (known, differs) = job.differs(&ends.content, requests)?;
    Some(job.wrong(INVARIANT, known, format!("it failed, and the device reads differently, at {differs}")))
}
