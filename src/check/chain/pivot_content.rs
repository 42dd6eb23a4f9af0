//! After a pivot the device reads as before it.

use super::{Followed, Requests, Wrong};
use crate::host::Frozen;
use crate::invariant::Invariant;

/// [`Invariant::PivotContent`]
pub(super) const INVARIANT: Invariant = Invariant::PivotContent;

/// Nothing is promised of a `blockdev-mirror` that copies the topmost layer, or nothing, to a target without a backing file.
pub(super) fn judge(job: &Followed, content: &Frozen, requests: &Requests) -> Option<Wrong> {
    let (known, differs) = job.differs(content, requests).filter(|_| job.promised)?;
    let reason = format!("the device reads differently after the pivot, at {differs}");
    Some(job.wrong(INVARIANT, known, reason))
}
