//! A backup's target reads as its source did at the job's start.

use super::Watch;
use crate::base::Kept;
use crate::bitmap::HBitmap;
use crate::host::Frozen;
use crate::invariant::{Broken, Invariant};
use crate::qmp::types::SyncMode;
use crate::world::World;
use crate::world::arena::{JobId, NodeId};
use crate::world::block::backend::BlkRequest;
use crate::world::watch::feed::{BackupBegins, Seen, Settled};
use crate::world::watch::kinds::{Kind, Kinds};

/// [`Invariant::BackupContent`]
///
/// What it holds for: all of the disk with `full`; what the top layer had with `top`; the clusters that were dirty with `bitmap`, and,
/// if the target has no backing file, whole clusters of the target around them, as these hide what will lie below. With `none`
/// there is nothing to hold: such a job ends by being cancelled, and then QEMU promises nothing.
///
/// Nor is there for a target that somebody else writes to while it is copied to, a guest or another job: QEMU lets them. And where
/// another backup of the same node discards what it has copied, its filter stands below the first one's, which hears of nothing
/// (docs/findings/discard-below-another-backup.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BackupContent {
    /// Each with whether somebody else wrote to its target, or discards its source.
    jobs: Vec<(Kept<BackupBegins>, bool)>,
}

impl BackupContent {
    /// Marks the jobs that copy to this node; whether there are any.
    fn written_by_others(&mut self, node: NodeId) -> bool {
        let mut any = false;
        for (_, shared) in self.jobs.iter_mut().filter(|(begins, _)| begins.target_node == node) {
            (*shared, any) = (true, true);
        }
        any
    }

    fn take(&mut self, job: JobId) -> Option<(Kept<BackupBegins>, bool)> {
        let at = self.jobs.iter().position(|(begins, _)| begins.job == job)?;
        Some(self.jobs.swap_remove(at))
    }
}

impl Watch for BackupContent {
    const INVARIANT: Invariant = Invariant::BackupContent;
    const HEARS: Kinds = Kinds::of(&[Kind::BackupBegins, Kind::Settled, Kind::GuestBegin]);

    fn see(&mut self, seen: &Seen, _world: &World) -> Result<(), Broken> {
        match seen {
            Seen::BackupBegins(begins) => {
                let shared = self.written_by_others(begins.target_node);
                let below = |other: &BackupBegins| begins.discards && other.source_node == begins.source_node;
                self.jobs.iter_mut().filter(|(other, _)| below(other)).for_each(|(_, spoilt)| *spoilt = true);
                self.jobs.push((Kept::new((**begins).clone()), shared));
            }
            Seen::GuestBegin { node, request, .. }
                if matches!(**request, BlkRequest::Write { .. } | BlkRequest::Discard { .. }) =>
            {
                let _ = self.written_by_others(*node);
            }
            Seen::Settled(settled) => {
                if let Some((begins, false)) = self.take(settled.job) {
                    return compare(&begins, settled);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The parts that have to be the same, as start and length.
fn scope(begins: &BackupBegins, source: &mut Frozen, target: &Frozen) -> Vec<(u64, u64)> {
    match begins.mode {
        SyncMode::Full => vec![(0, begins.len)],
        SyncMode::None => Vec::new(),
        SyncMode::Top => {
            let mut parts = Vec::new();
            let mut at = 0;
            while at < begins.len {
                let (own, _, len) = source.status(at, begins.len - at);
                if own {
                    parts.push((at, len));
                }
                at += len.max(1);
            }
            parts
        }
        SyncMode::Bitmap | SyncMode::Incremental => {
            let Some((_, bits)) = &begins.bitmap else { return Vec::new() };
            let unit = if target.backing().is_none() { target.cluster_size().unwrap_or(1) } else { 1 };
            let round = |(start, len): (u64, u64)| {
                let first = start / unit * unit;
                (first, (start + len).next_multiple_of(unit).min(begins.len).saturating_sub(first))
            };
            bits.areas().map(round).collect()
        }
    }
}

fn compare(begins: &BackupBegins, settled: &Settled) -> Result<(), Broken> {
    let Some(target) = &settled.target else { return Ok(()) };
    if settled.failed || !target.keeps_writes() {
        return Ok(());
    }
    let (mut source, mut target) = (begins.source.clone(), target.clone());
    for (start, len) in scope(begins, &mut source, &target) {
        if let Some(differs) = source.difference(&mut target, start, len) {
            let reason = format!(
                "its target differs at byte {} from what the source had when it began: {}",
                differs.offset, differs.detail
            );
            return BackupContent::broken(format!("job {}", settled.id), reason);
        }
    }
    Ok(())
}

/// The parts of a disk whose bits are clear.
pub(super) fn clean_parts(bits: &HBitmap) -> Vec<(u64, u64)> {
    let mut parts = Vec::new();
    let mut at = 0;
    for (start, len) in bits.areas() {
        if start > at {
            parts.push((at, start - at));
        }
        at = start + len;
    }
    if at < bits.size() {
        parts.push((at, bits.size() - at));
    }
    parts
}
