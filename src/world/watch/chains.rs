//! What is told of the jobs on backing chains, mirror, commit and stream: what their device reads as when they begin, when the target
//! takes the place of the source, and when they end.

use super::feed::Seen;
use crate::host::Frozen;
use crate::qmp::types::MirrorCopyMode;
use crate::quirk::{KnownCause, Quirk};
use crate::world::World;
use crate::world::arena::{JobId, NodeId};
use crate::world::block::driver::Driver;
use crate::world::job::hooks::JobDriver;
use crate::world::watch::marks::CodePlace;
use std::sync::Arc;

/// A job on a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// `blockdev-mirror`, `drive-mirror`
    Mirror,
    /// `block-commit` of an active layer.
    ActiveCommit,
    /// `block-commit`
    Commit,
    /// `block-stream`
    Stream,
}

impl ChainKind {
    /// Whether it has a state READY, and a pivot.
    #[must_use]
    pub fn is_mirror(self) -> bool {
        matches!(self, ChainKind::Mirror | ChainKind::ActiveCommit)
    }
}

/// A layer: its node, the node's name, whether it is writable.
pub type Layer = (NodeId, Arc<str>, bool);

/// A job on a chain begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChainBegins {
    /// A mirror, commit or stream.
    pub job: JobId,
    /// `job->id`
    pub id: Arc<str>,
    /// What it is.
    pub kind: ChainKind,
    /// The topmost layer of the chain that it works on.
    pub node: NodeId,
    /// A mirror's filter: it hears of nothing that does not go through it.
    pub filter: Option<NodeId>,
    /// The node that it writes to, if that is not the topmost layer.
    pub target: Option<NodeId>,
    /// What the topmost layer reads as.
    pub content: Frozen,
    /// All layers, the topmost first.
    pub layers: Vec<Layer>,
    /// The target is to read as the source when it takes its place.
    pub promised: bool,
}

impl ChainBegins {
    /// Whether a node reads the same while and after the job writes to its target: its topmost layer, and the filter above that.
    #[must_use]
    pub fn leaves(&self, node: NodeId) -> bool {
        node == self.node || self.filter == Some(node)
    }
}

/// It ends; its clean callback was called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChainEnds {
    /// A mirror, commit or stream.
    pub job: JobId,
    /// It has an error, or was cancelled by force.
    pub failed: bool,
    /// It was cancelled, by force or not.
    pub cancelled: bool,
    /// It was told to complete.
    pub completes: bool,
    /// What the device reads as now.
    pub content: Frozen,
    /// All layers below the device now.
    pub layers: Vec<Layer>,
}

/// What follows from a defect that QEMU 10.0.2 has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Excuse {
    /// The one that it is excused for.
    pub job: JobId,
    /// What in QEMU is to blame.
    pub known: KnownCause,
    /// For which bytes it holds, from and to; for all that is said of the job.
    pub range: Option<(u64, u64)>,
}

impl World {
    fn layers(&self, top: NodeId) -> Vec<Layer> {
        let mut layers = Vec::new();
        let mut at = self.graph.nodes.get(top).map(|_| self.graph.skip_filters(top));
        while let Some(bs) = at {
            let node = &self.graph.nodes[bs];
            layers.push((bs, node.node_name.clone(), node.flags.rdwr));
            at = self.graph.backing_chain_next(bs);
        }
        layers
    }

    /// The lowest node that follows a filter where that is made writable, or the node itself.
    fn opened_along(&self, mut node: NodeId) -> NodeId {
        while let Some(below) = self.graph.filter_bs(node)
            && self.graph.nodes[below].inherits_from == Some(node)
        {
            node = below;
        }
        node
    }

    /// A mirror begins, or the commit of an active layer.
    pub(in crate::world) fn see_mirror_begins(&mut self, job: JobId) {
        if !self.feed.on {
            return;
        }
        let s = self.jobs[job].mirror();
        let kind = match self.jobs[job].driver {
            JobDriver::CommitActive(_) => ChainKind::ActiveCommit,
            _ => ChainKind::Mirror,
        };
        let whole = s.copies_all();
        let promised = whole || kind == ChainKind::ActiveCommit || s.follows_source();
        let read_only = s.base_ro;
        let (source, target) = (self.mirror_source(job), self.mirror_target(job));
        let read_only = read_only.then_some(target);
        self.see_chain_begins(job, kind, source, Some(target), promised, read_only);
    }

    /// A job on a chain begins. `read_only` is a node that was made writable for it.
    pub(in crate::world) fn see_chain_begins(
        &mut self,
        job: JobId,
        kind: ChainKind,
        top: NodeId,
        target: Option<NodeId>,
        promised: bool,
        read_only: Option<NodeId>,
    ) {
        if !self.feed.on {
            return;
        }
        let node = self.graph.skip_filters(top);
        let read_only = read_only.map(|node| self.opened_along(node));
        self.feed.chains.push((job, node));
        let mut layers = self.layers(node);
        layers.iter_mut().filter(|(layer, ..)| Some(*layer) == read_only).for_each(|(.., writable)| *writable = false);
        let begins = ChainBegins {
            job,
            id: self.jobs[job].id.clone(),
            kind,
            node,
            filter: kind.is_mirror().then(|| self.jobs[job].mirror().top),
            target: target.map(|target| self.graph.skip_filters(target)),
            content: self.frozen(node),
            layers,
            promised,
        };
        self.feed.seen.push(Seen::ChainBegins(Box::new(begins)));
    }

    /// The target has taken the place of the source.
    pub(in crate::world) fn see_pivot(&mut self, job: JobId, target: NodeId) {
        if !self.feed.on {
            return;
        }
        let to = self.graph.skip_filters(target);
        for (_, node) in self.feed.chains.iter_mut().filter(|(other, _)| *other == job) {
            *node = to;
        }
        let content = Box::new(self.frozen(to));
        self.feed.seen.push(Seen::Pivot { job, to, content });
    }

    /// A job's end, if it is one on a chain.
    pub(in crate::world) fn see_chain_ends(&mut self, job: JobId) {
        let Some(at) = self.feed.chains.iter().position(|(other, _)| *other == job) else { return };
        let (_, node) = self.feed.chains.remove(at);
        let j = &self.jobs[job];
        let ends = ChainEnds {
            job,
            failed: j.ret.is_some(),
            cancelled: j.cancelled,
            completes: match &j.driver {
                JobDriver::Mirror(s) | JobDriver::CommitActive(s) => s.should_complete,
                _ => false,
            },
            content: self.frozen(node),
            layers: self.layers(node),
        };
        self.feed.seen.push(Seen::ChainEnds(Box::new(ends)));
    }

    /// What follows from a defect that QEMU 10.0.2 has is not held against the job.
    pub(in crate::world) fn see_excuse(&mut self, job: JobId, known: impl Into<KnownCause>, range: Option<(u64, u64)>) {
        let known = known.into();
        match known {
            KnownCause::Quirk(Quirk::MirrorStartupMissedWrite) => self.reach(CodePlace::MirrorMissesWrite),
            KnownCause::Quirk(_) => self.reach(CodePlace::FailedHalfDone),
            KnownCause::Page(_) => {}
        }
        self.see(|| Seen::Excuse(Excuse { job, known, range }));
    }

    /// A copy-on-read filter has a read succeed that it has not done, for whoever reads through it.
    pub(in crate::world) fn see_read_undone(&mut self, filter: NodeId) {
        if !self.feed.on {
            return;
        }
        for job in self.jobs.list.clone() {
            if self.jobs[job].nodes.iter().any(|child| self.stands_on(self.graph.children[*child].bs, filter)) {
                self.see_excuse(job, KnownCause::Page("reads-undone-below-a-stream"), None);
            }
        }
        self.see(|| Seen::ReadUndone);
    }

    /// The sources of mirrors that drain them themselves, as they end.
    pub fn draining_mirrors(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.jobs.list.iter().filter_map(|job| match &self.jobs[*job].driver {
            JobDriver::Mirror(s) | JobDriver::CommitActive(s) if s.in_drain => Some(s.source),
            _ => None,
        })
    }

    /// Whether a mirror was told of an error, and would end for it at its next turn.
    pub(in crate::world) fn has_error_to_end_for(&self, job: JobId) -> bool {
        matches!(&self.jobs[job].driver, JobDriver::Mirror(s) if s.ret.is_err())
    }

    /// Source and target of each mirror that says they are in sync, where nothing is under way.
    pub(in crate::world) fn see_synced(&mut self) {
        if !self.feed.on {
            return;
        }
        for job in self.jobs.list.clone() {
            let JobDriver::Mirror(s) = &self.jobs[job].driver else { continue };
            let busy = s.in_flight > 0 || s.in_active_write_counter > 0 || s.prepared || s.target.is_none();
            let whole = s.copies_all();
            if !s.actively_synced || s.copy_mode != MirrorCopyMode::WriteBlocking || busy || !whole {
                continue;
            }
            let (source, target) = (self.mirror_source(job), self.mirror_target(job));
            if [s.top, source].iter().any(|node| self.graph.nodes[*node].in_flight > 0) {
                continue;
            }
            let target = Box::new(self.frozen(target));
            let dirty = self.mirror_bits(job).areas().map(|(start, len)| (start, start + len)).collect();
            self.feed.seen.push(Seen::Synced { job, target, dirty });
        }
    }

    /// A guest's discard ends at the filter of a job.
    pub(in crate::world) fn see_swallowed(&mut self) {
        self.reach(CodePlace::DiscardSwallowed);
        let co = self.current();
        self.see(|| Seen::DiscardSwallowed(co));
    }

    /// Whether a node is a filter that a job has put there.
    #[must_use]
    pub(in crate::world) fn is_job_filter(&self, node: NodeId) -> bool {
        let n = &self.graph.nodes[node];
        !n.monitor_owned && n.driver.as_ref().is_some_and(Driver::is_job_filter)
    }
}
