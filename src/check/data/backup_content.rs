//! A backup's target reads as its source did at the job's start.

use crate::base::Kept;
use crate::bitmap::HBitmap;
use crate::check::Watch;
use crate::host::Frozen;
use crate::invariant::{Broken, Invariant};
use crate::qmp::types::SyncMode;
use crate::quirk::KnownCause;
use crate::world::World;
use crate::world::arena::{JobId, NodeId};
use crate::world::block::backend::BlkRequest;
use crate::world::watch::chains::Excuse;
use crate::world::watch::feed::{BackupBegins, Seen, Settled};
use crate::world::watch::kinds::{SeenKind, SeenKinds};

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
    jobs: Vec<Copied>,
}

/// A backup under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Copied {
    begins: Kept<BackupBegins>,
    /// Somebody else wrote to its target, discards its source, or has changed what that is.
    shared: bool,
    /// The page about a defect of QEMU's that it met.
    page: Option<&'static str>,
}

impl BackupContent {
    /// Marks the jobs that copy to this node; whether there are any.
    fn written_by_others(&mut self, node: NodeId) -> bool {
        let mut any = false;
        for job in self.jobs.iter_mut().filter(|job| job.begins.target_node == node) {
            (job.shared, any) = (true, true);
        }
        any
    }

    fn take(&mut self, job: JobId) -> Option<Copied> {
        let at = self.jobs.iter().position(|copied| copied.begins.job == job)?;
        Some(self.jobs.swap_remove(at))
    }
}

impl Watch for BackupContent {
    const INVARIANT: Invariant = Invariant::BackupContent;
    const HEARS: SeenKinds = SeenKinds::of(&[
        SeenKind::BackupBegins,
        SeenKind::Settled,
        SeenKind::GuestBegin,
        SeenKind::Changed,
        SeenKind::Excuse,
    ]);

    fn see(&mut self, seen: &Seen, world: &World) -> Result<(), Broken> {
        match seen {
            Seen::BackupBegins(begins) => {
                let shared = self.written_by_others(begins.target_node);
                // An overlay may have come between the other's filter and its source, and this one discards there.
                let below =
                    |other: &BackupBegins| begins.discards && world.stands_on(begins.source_node, other.source_node);
                self.jobs.iter_mut().filter(|other| below(&other.begins)).for_each(|other| other.shared = true);
                self.jobs.push(Copied { begins: Kept::new((**begins).clone()), shared, page: None });
            }
            Seen::GuestBegin { node, request, .. }
                if matches!(**request, BlkRequest::Write { .. } | BlkRequest::Discard { .. }) =>
            {
                let _ = self.written_by_others(*node);
            }
            Seen::Changed(node) => {
                let changed = |begins: &BackupBegins| world.stands_on(begins.source_node, *node);
                self.jobs.iter_mut().filter(|job| changed(&job.begins)).for_each(|job| job.shared = true);
            }
            Seen::Excuse(Excuse { job, known: KnownCause::Page(page), .. }) => {
                self.jobs.iter_mut().filter(|copied| copied.begins.job == *job).for_each(|job| job.page = Some(page));
            }
            Seen::Settled(settled) => {
                if let Some(Copied { begins, shared: false, page }) = self.take(settled.job) {
                    let known = |broken: Broken| page.map_or(broken.clone(), |page| broken.known(page));
                    return compare(&begins, settled).map_err(known);
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
pub(in crate::check) fn clean_parts(bits: &HBitmap) -> Vec<(u64, u64)> {
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
