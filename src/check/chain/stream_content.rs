//! A stream never changes what its node reads as.

use super::{Followed, Requests, Wrong};
use crate::invariant::Invariant;
use crate::world::watch::chains::{ChainEnds, ChainKind};

/// [`Invariant::StreamContent`]
pub(super) const INVARIANT: Invariant = Invariant::StreamContent;

/// However it ends.
pub(super) fn judge(job: &Followed, ends: &ChainEnds, requests: &Requests) -> Option<Wrong> {
    let (known, differs) = job.differs(&ends.content, requests).filter(|_| job.kind == ChainKind::Stream)?;
    Some(job.wrong(INVARIANT, known, format!("its node reads differently after it, at {differs}")))
}
