//! Jobs on backing chains, mirror, commit and stream: what their device has to read as is followed here, and each invariant says
//! in a file of its own where that is held against what there is.

mod active_sync;
mod cancelled_mirror;
mod commit_content;
mod failed_chain;
mod pivot_content;
mod stream_content;

use super::data::disk::{Disk, Requests};
use crate::host::Frozen;
use crate::invariant::{Broken, Invariant};
use crate::quirk::KnownCause;
use crate::world::World;
use crate::world::arena::{JobId, NodeId};
use crate::world::block::backend::BlkRequest;
use crate::world::watch::chains::{ChainBegins, ChainEnds, ChainKind, Excuse, Layer};
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};
use std::sync::Arc;

/// The invariants that are judged here.
pub(super) const JUDGED: [Invariant; 6] = [
    pivot_content::INVARIANT,
    cancelled_mirror::INVARIANT,
    commit_content::INVARIANT,
    stream_content::INVARIANT,
    failed_chain::INVARIANT,
    active_sync::INVARIANT,
];

/// A job under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Followed {
    job: JobId,
    id: Arc<str>,
    kind: ChainKind,
    /// The topmost layer, and what took its place.
    nodes: Vec<NodeId>,
    filter: Option<NodeId>,
    target: Option<NodeId>,
    layers: Vec<Layer>,
    /// What the device has to read as.
    disk: Disk,
    /// The target is to read as the source when it takes its place.
    promised: bool,
    /// The target took the place of the source.
    pivoted: bool,
    /// Somebody else wrote to the layers or to the target, or exchanged them.
    shared: bool,
    /// Another job, or the command that starts one, may have made layers of it writable.
    opened: bool,
    excuses: Vec<Excuse>,
}

/// What is found wrong of a job, and whose fault it is, if it is known.
pub(super) struct Wrong {
    /// The bug of QEMU 10.0.2 that leads to it.
    pub(super) known: Option<KnownCause>,
    /// The invariant that does not hold.
    pub(super) broken: Broken,
}

/// All that are under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Chains {
    requests: Requests,
    jobs: Vec<Followed>,
}

impl Followed {
    fn new(begins: &ChainBegins) -> Followed {
        Followed {
            job: begins.job,
            id: begins.id.clone(),
            kind: begins.kind,
            nodes: vec![begins.node],
            filter: begins.filter,
            target: begins.target,
            layers: begins.layers.clone(),
            disk: Disk::new(begins.content.clone()),
            promised: begins.promised,
            pivoted: false,
            shared: false,
            opened: false,
            excuses: Vec::new(),
        }
    }

    /// Where something reads differently from what the device has to read as: without a known reason if there is such a place.
    fn differs(&self, content: &Frozen, requests: &Requests) -> Option<(Option<KnownCause>, String)> {
        self.differs_but(content, requests, &[])
    }

    /// The same, with excuses that hold only now.
    fn differs_but(
        &self,
        content: &Frozen,
        requests: &Requests,
        now: &[Excuse],
    ) -> Option<(Option<KnownCause>, String)> {
        if self.shared {
            return None;
        }
        let excuses = || now.iter().chain(&self.excuses);
        let mut skip: Vec<(u64, u64)> = self.nodes.iter().flat_map(|node| requests.writing(*node)).collect();
        let under_way = skip.len();
        skip.extend(excuses().map(|excuse| excuse.range.unwrap_or((0, u64::MAX))));
        if let Some(differs) = self.disk.difference(content, &skip) {
            return Some((None, differs));
        }
        let known = excuses().next()?.known;
        self.disk.difference(content, &skip[..under_way]).map(|differs| (Some(known), differs))
    }

    /// A reason why nothing of it can be trusted.
    fn excused(&self) -> Option<KnownCause> {
        self.excuses.iter().find(|excuse| excuse.range.is_none()).map(|excuse| excuse.known)
    }

    fn wrong(&self, invariant: Invariant, known: Option<KnownCause>, reason: String) -> Wrong {
        Wrong { known, broken: Broken::new(invariant, format!("job {}", self.id), reason) }
    }

    /// Whether a write to a node that passes these changes what nobody but the job is to change.
    fn is_foreign(&self, path: &[NodeId]) -> bool {
        let goes_to = |node: NodeId| path.contains(&node);
        if self.nodes.iter().any(|node| goes_to(*node)) {
            // A mirror hears of nothing that goes around its filter.
            return !self.pivoted && self.filter.is_some_and(|filter| !goes_to(filter));
        }
        self.target.is_some_and(goes_to) || self.layers.iter().skip(1).any(|(node, ..)| goes_to(*node))
    }
}

impl Chains {
    /// What it hears.
    pub(super) const HEARS: SeenKinds = SeenKinds::of(&[
        SeenKind::BackupBegins,
        SeenKind::GuestBegin,
        SeenKind::GuestEnd,
        SeenKind::Changed,
        SeenKind::Opened,
        SeenKind::PaddingLost,
        SeenKind::ChainBegins,
        SeenKind::ChainEnds,
        SeenKind::Pivot,
        SeenKind::Synced,
        SeenKind::Excuse,
    ]);

    /// Looks at one thing that happened.
    pub(super) fn see(&mut self, seen: &Seen, world: &World) -> Option<Wrong> {
        match seen {
            Seen::GuestBegin { co, path, request, .. } => {
                self.requests.begin(*co, path[path.len() - 1], request);
                if matches!(**request, BlkRequest::Write { .. } | BlkRequest::Discard { .. }) {
                    self.jobs.iter_mut().for_each(|job| job.shared |= job.is_foreign(path));
                }
            }
            Seen::GuestEnd { co, ok, .. } => {
                let request = self.requests.end(*co).filter(super::data::disk::Request::writes)?;
                for job in self.jobs.iter_mut().filter(|job| job.nodes.contains(&request.node)) {
                    job.disk.ended(request.clone(), *ok, None).expect("it is no read");
                }
            }
            Seen::PaddingLost => self.jobs.iter_mut().for_each(|job| job.shared = true),
            Seen::Changed(node) => {
                let changed = |job: &Followed| job.target != Some(*node) && world.stands_on(job.nodes[0], *node);
                self.jobs.iter_mut().for_each(|job| job.shared |= changed(job));
            }
            Seen::Opened(node) => {
                let opened = |job: &Followed| job.layers.iter().any(|(layer, ..)| layer == node);
                self.jobs.iter_mut().for_each(|job| job.opened |= opened(job));
            }
            Seen::BackupBegins(begins) => {
                let changes = |node: NodeId| {
                    node == begins.target_node || begins.discards && world.stands_on(node, begins.source_node)
                };
                let changed = |job: &Followed| job.layers.iter().any(|(node, ..)| changes(*node));
                self.jobs.iter_mut().for_each(|job| job.shared |= changed(job));
            }
            Seen::ChainBegins(begins) => {
                let changes = |job: &Followed| begins.target.is_some_and(|to| world.stands_on(job.nodes[0], to));
                self.jobs.iter_mut().for_each(|job| job.shared |= !begins.leaves(job.nodes[0]) && changes(job));
                // It makes layers of its own writable.
                let opens = !begins.kind.is_mirror();
                let same =
                    |job: &Followed| job.layers.iter().any(|(node, ..)| begins.layers.iter().any(|(n, ..)| n == node));
                self.jobs.iter_mut().filter(|job| opens && same(job)).for_each(|job| job.opened = true);
                self.jobs.push(Followed::new(begins));
            }
            Seen::Excuse(excuse) => self.job(excuse.job)?.excuses.push(excuse.clone()),
            Seen::Pivot { job, to, content } => {
                let followed = self.job(*job)?;
                (followed.pivoted, followed.target) = (true, None);
                followed.nodes.push(*to);
                let followed = self.jobs.iter().find(|followed| followed.job == *job)?;
                return pivot_content::judge(followed, content, &self.requests);
            }
            Seen::Synced { job, target, dirty } => {
                let followed = self.jobs.iter().find(|followed| followed.job == *job)?;
                return active_sync::judge(followed, target, dirty, &self.requests);
            }
            Seen::ChainEnds(ends) => return self.ends(ends),
            _ => {}
        }
        None
    }

    fn job(&mut self, job: JobId) -> Option<&mut Followed> {
        self.jobs.iter_mut().find(|followed| followed.job == job)
    }

    fn ends(&mut self, ends: &ChainEnds) -> Option<Wrong> {
        let at = self.jobs.iter().position(|followed| followed.job == ends.job)?;
        let followed = self.jobs.remove(at);
        // Others that are under way on the same nodes lose them, or find others there.
        let same = |job: &Followed| job.layers.iter().any(|(node, ..)| followed.layers.iter().any(|(n, ..)| n == node));
        self.jobs.iter_mut().filter(|job| same(job)).for_each(|job| job.layers.clear());
        let judges = [failed_chain::judge, cancelled_mirror::judge, commit_content::judge, stream_content::judge];
        judges.iter().find_map(|judge| judge(&followed, ends, &self.requests))
    }
}
