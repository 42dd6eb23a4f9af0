//! Source and target agree while `actively-synced` is true.

use super::{Followed, Requests, Wrong};
use crate::host::Frozen;
use crate::invariant::Invariant;

/// [`Invariant::ActivelySynced`]
pub(super) const INVARIANT: Invariant = Invariant::ActivelySynced;

/// It is looked at when a guest's request ends, and when the job comes to say it; only with all of the disk copied.
pub(super) fn judge(job: &Followed, target: &Frozen, requests: &Requests) -> Option<Wrong> {
    let (known, differs) = job.differs(target, requests)?;
    let reason = format!("`actively-synced` is true, and its target differs at {differs}");
    Some(job.wrong(INVARIANT, known, reason))
}
