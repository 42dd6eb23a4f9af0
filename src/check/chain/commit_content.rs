//! A commit never loses a guest's byte.

use super::{Followed, Requests, Wrong};
use crate::invariant::Invariant;
use crate::world::watch::chains::{ChainEnds, ChainKind};

/// [`Invariant::CommitContent`]
pub(super) const INVARIANT: Invariant = Invariant::CommitContent;

/// For one that fails, [`super::failed_chain`] says so.
pub(super) fn judge(job: &Followed, ends: &ChainEnds, requests: &Requests) -> Option<Wrong> {
    if !matches!(job.kind, ChainKind::Commit | ChainKind::ActiveCommit) || ends.failed {
        return None;
    }
    let (known, differs) = job.differs(&ends.content, requests)?;
    Some(job.wrong(INVARIANT, known, format!("the chain reads differently after it, at {differs}")))
}
