//! A mirror that is cancelled leaves its source to the device, as the guest left it.

use super::{Followed, Requests, Wrong};
use crate::invariant::Invariant;
use crate::world::watch::chains::ChainEnds;

/// [`Invariant::CancelledMirror`]
pub(super) const INVARIANT: Invariant = Invariant::CancelledMirror;

/// One that fails of itself is the business of [`super::failed_chain`]; one that was told to complete before moves the device, if the
/// cancel is a soft one.
pub(super) fn judge(job: &Followed, ends: &ChainEnds, requests: &Requests) -> Option<Wrong> {
    if !job.kind.is_mirror() || !ends.cancelled || ends.completes {
        return None;
    }
    if job.pivoted {
        return Some(job.wrong(
            INVARIANT,
            job.excused(),
            "it was cancelled, and the device was moved to its target".into(),
        ));
    }
    let (known, differs) = job.differs(&ends.content, requests)?;
    Some(job.wrong(INVARIANT, known, format!("it was cancelled, and its source reads differently, at {differs}")))
}
