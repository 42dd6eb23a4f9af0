//! Source and target agree while `actively-synced` is true.

use super::{Followed, Requests, Wrong};
use crate::host::Frozen;
use crate::invariant::Invariant;
use crate::quirk::KnownCause;
use crate::world::watch::chains::Excuse;

/// [`Invariant::ActivelySynced`]
pub(super) const INVARIANT: Invariant = Invariant::ActivelySynced;

/// It is looked at when a guest's request ends, and when the job comes to say it; only with all of the disk copied.
///
/// QEMU says it with something left to copy in one case: when that was written during the flush before READY.
pub(super) fn judge(job: &Followed, target: &Frozen, dirty: &[(u64, u64)], requests: &Requests) -> Option<Wrong> {
    let known = KnownCause::Page("mirror-change-during-its-flush");
    let left: Vec<Excuse> = dirty.iter().map(|range| Excuse { job: job.job, known, range: Some(*range) }).collect();
    let (known, differs) = job.differs_but(target, requests, &left)?;
    let reason = format!("`actively-synced` is true, and its target differs at {differs}");
    Some(job.wrong(INVARIANT, known, reason))
}
