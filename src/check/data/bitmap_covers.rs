//! A dirty bitmap has every write since it was cleared, and a chain of incremental backups restores the drive.

use super::backup_content::clean_parts;
use crate::base::Kept;
use crate::bitmap::HBitmap;
use crate::check::Watch;
use crate::host::Frozen;
use crate::invariant::{Broken, Invariant};
use crate::qmp::types::{BitmapSyncMode, SyncMode};
use crate::world::World;
use crate::world::arena::{JobId, NodeId, TranId};
use crate::world::watch::feed::{BackupBegins, Seen, Settled};
use crate::world::watch::kinds::{SeenKind, SeenKinds};
use std::sync::Arc;

/// A bitmap, and what its node read as when it was last clean.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Since {
    node: NodeId,
    name: Arc<str>,
    content: Kept<Frozen>,
}

/// [`Invariant::BitmapCovers`]
///
/// Where a bitmap is clean, its node reads as it did when the bitmap was last known to be empty: added, cleared, or given up by a
/// job that copied what it held. So backups of what it holds, each on top of the one before, restore the drive; that is also looked
/// at directly, where a target is based on such a backup. As with `last-write`, what QEMU overwrites around an unaligned write is left
/// out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BitmapCovers {
    bitmaps: Vec<Since>,
    /// The list as it was before the transaction that is under way, and the jobs that were there: what becomes of those stands,
    /// though the transaction is undone.
    before: Option<(TranId, Vec<Since>, Vec<JobId>)>,
    /// What their sources and targets read as when they began.
    jobs: Vec<(JobId, Kept<Frozen>, Kept<Frozen>)>,
    /// Images that read as a drive did: path, and what the drive read as.
    complete: Vec<(Arc<str>, Kept<Frozen>)>,
}

impl BitmapCovers {
    fn forget(&mut self, node: NodeId, name: &str) {
        self.bitmaps.retain(|since| since.node != node || *since.name != *name);
    }

    fn fresh(&mut self, node: NodeId, name: &Arc<str>, content: Kept<Frozen>) {
        self.forget(node, name);
        self.bitmaps.push(Since { node, name: name.clone(), content });
    }

    fn held(&self, node: NodeId, name: &str) -> Option<&Since> {
        self.bitmaps.iter().find(|since| since.node == node && *since.name == *name)
    }

    /// Holds the clean parts of a bitmap against what the node read as when it was empty.
    fn hold(&self, node: NodeId, name: &str, bits: &HBitmap, now: &Frozen) -> Result<(), Broken> {
        let Some(since) = self.held(node, name) else { return Ok(()) };
        if *since.content == *now {
            return Ok(());
        }
        let (mut then, mut now) = ((*since.content).clone(), now.clone());
        for (start, len) in clean_parts(bits) {
            if let Some(differs) = then.difference(&mut now, start, len) {
                let reason = format!(
                    "byte {} is clean, but was changed since the bitmap was last empty: {}",
                    differs.offset, differs.detail
                );
                return Self::broken(format!("bitmap {name}"), reason);
            }
        }
        Ok(())
    }

    fn begins(&mut self, begins: &BackupBegins) -> Result<(), Broken> {
        let source = Kept::new(begins.source.clone());
        self.jobs.push((begins.job, source, Kept::new(begins.target.clone())));
        match &begins.bitmap {
            Some((name, bits)) => self.hold(begins.source_node, name, bits, &begins.source),
            None => Ok(()),
        }
    }

    fn settled(&mut self, settled: &Settled) -> Result<(), Broken> {
        let Some(at) = self.jobs.iter().position(|(job, ..)| *job == settled.job) else { return Ok(()) };
        let (_, source, target) = self.jobs.swap_remove(at);
        let Some(end) = &settled.bitmap else { return Ok(()) };
        if !settled.failed {
            self.chain(settled, &source, &target)?;
        }
        let given_up = match end.mode {
            BitmapSyncMode::OnSuccess => !settled.failed,
            BitmapSyncMode::Always => true,
            BitmapSyncMode::Never => false,
        };
        // What was not copied stays in the bitmap; all else reads now as it did at the start, or is in the bitmap for what came after.
        if given_up && self.held(end.node, &end.name).is_some() {
            self.fresh(end.node, &end.name, source.clone());
        }
        if let Some((_, before, jobs)) = &mut self.before
            && given_up
            && jobs.contains(&settled.job)
        {
            for since in before.iter_mut().filter(|since| since.node == end.node && since.name == end.name) {
                since.content = source.clone();
            }
        }
        match &end.after {
            Some(_) => Ok(()),
            None => {
                self.forget(end.node, &end.name);
                Ok(())
            }
        }
    }

    /// A target that is based on a complete image, had nothing of its own in front of it, and holds what changed since, is complete.
    fn chain(&mut self, settled: &Settled, source: &Kept<Frozen>, before: &Kept<Frozen>) -> Result<(), Broken> {
        let (Some(target), Some(end)) = (&settled.target, &settled.bitmap) else { return Ok(()) };
        let since = self.held(end.node, &end.name).map(|since| since.content.clone());
        let below = target.backing().and_then(Frozen::path);
        let len = end.before.size();
        let Some((_, content)) = self.complete.iter().find(|(path, _)| Some(path) == below) else { return Ok(()) };
        let Some(since) = since else { return Ok(()) };
        let differs = |other: &Frozen| other.clone().difference(&mut (**content).clone(), 0, len).is_some();
        if differs(&since) || differs(before) {
            return Ok(());
        }
        let (mut then, mut chain) = ((**source).clone(), target.clone());
        if let Some(differs) = then.difference(&mut chain, 0, len) {
            let reason = format!(
                "the chain that ends in its target differs at byte {} from what the drive had when it began: {}",
                differs.offset, differs.detail
            );
            return Self::broken(format!("job {}", settled.id), reason);
        }
        self.complete(target, source);
        Ok(())
    }

    fn complete(&mut self, target: &Frozen, source: &Kept<Frozen>) {
        if let Some(path) = target.path() {
            self.complete.retain(|(known, _)| known != path);
            self.complete.push((path.clone(), source.clone()));
        }
    }
}

impl Watch for BitmapCovers {
    const INVARIANT: Invariant = Invariant::BitmapCovers;
    const HEARS: SeenKinds = SeenKinds::of(&[
        SeenKind::BackupBegins,
        SeenKind::Settled,
        SeenKind::TranBegin,
        SeenKind::TranEnd,
        SeenKind::TranFailed,
        SeenKind::Unrecorded,
        SeenKind::BitmapFresh,
        SeenKind::BitmapStale,
        SeenKind::Changed,
        SeenKind::PaddingLost,
        SeenKind::ReadUndone,
        SeenKind::ChainBegins,
    ]);

    fn see(&mut self, seen: &Seen, world: &World) -> Result<(), Broken> {
        match seen {
            Seen::Unrecorded { node, bitmap, byte } => {
                let reason = format!("byte {byte} was written, and the bitmap does not have it");
                return Self::broken(format!("bitmap {bitmap} of {node}"), reason);
            }
            Seen::BitmapFresh { node, name, content } => self.fresh(*node, name, Kept::new((**content).clone())),
            Seen::BitmapStale { node, name } => self.forget(*node, name),
            Seen::PaddingLost | Seen::ReadUndone => self.bitmaps.clear(),
            Seen::ChainBegins(begins) => {
                if let Some(target) = begins.target {
                    self.bitmaps.retain(|since| begins.leaves(since.node) || !world.stands_on(since.node, target));
                }
            }
            Seen::Changed(node) => self.bitmaps.retain(|since| !world.stands_on(since.node, *node)),
            Seen::TranBegin(tran, _) => {
                let jobs = self.jobs.iter().map(|(job, ..)| *job).collect();
                self.before = Some((*tran, self.bitmaps.clone(), jobs));
            }
            Seen::TranEnd(_) => self.before = None,
            Seen::TranFailed(tran, _) => {
                if let Some((of, before, _)) = self.before.take()
                    && of == *tran
                {
                    self.bitmaps = before;
                }
            }
            Seen::BackupBegins(begins) => {
                let done = self.begins(begins);
                if begins.mode != SyncMode::Full && begins.bitmap.is_none() {
                    self.jobs.retain(|(job, ..)| *job != begins.job);
                }
                return done;
            }
            Seen::Settled(settled) => {
                let full = settled.bitmap.is_none() && !settled.failed;
                if full
                    && let Some(target) = &settled.target
                    && let Some((_, source, ..)) = self.jobs.iter().find(|(job, ..)| *job == settled.job).cloned()
                {
                    self.complete(target, &source);
                }
                return self.settled(settled);
            }
            _ => {}
        }
        Ok(())
    }
}
