//! What pictures show of jobs on chains: filters that come and go, the pivot, and what a mirror has still to copy. It is looked at from
//! outside between two steps, for traces that want it.

use crate::trace::{Copying, Level, RecordKind};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::job::hooks::JobDriver;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Ranges that are told of at most.
const RANGES: usize = 64;

impl World {
    /// Notes in the trace what has become of filters and copies since the last look.
    pub(in crate::world) fn watch_chains(&mut self) {
        self.watch_filters();
        self.watch_copying();
    }

    fn watch_filters(&mut self) {
        let mut now: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
        for (id, node) in self.graph.nodes.iter() {
            // That of a backup is drawn by what is copied through it.
            let on_chain = node.driver.as_ref().is_some_and(|driver| !driver.row().copies_before_write);
            if on_chain && self.is_job_filter(id) && !node.parents.is_empty() {
                let below = self.graph.filter_bs(id).map_or_else(|| "".into(), |below| self.name_of(below));
                now.insert(node.node_name.clone(), below);
            }
        }
        if now == self.trace.filters {
            return;
        }
        let before = std::mem::replace(&mut self.trace.filters, now.clone());
        let gone =
            before.iter().filter(|(node, _)| !now.contains_key(*node)).map(|(node, below)| ("leaves", node, below));
        let come =
            now.iter().filter(|(node, _)| !before.contains_key(*node)).map(|(node, below)| ("enters", node, below));
        for (what, node, other) in gone.chain(come) {
            let (node, other) = (node.clone(), other.clone());
            self.trace.emit(Level::Io, self.now, || RecordKind::Graph { what, node, other });
        }
    }

    fn name_of(&self, node: NodeId) -> Arc<str> {
        self.graph.nodes[node].node_name.clone()
    }

    /// The target takes the place of the source.
    pub(in crate::world) fn trace_pivot(&mut self, from: NodeId, to: NodeId) {
        let (node, other) = (self.name_of(from), self.name_of(to));
        self.trace.emit(Level::Io, self.now, || RecordKind::Graph { what: "pivot", node, other });
    }

    fn watch_copying(&mut self) {
        let mut now: BTreeMap<Arc<str>, Copying> = BTreeMap::new();
        for id in &self.jobs.list {
            let job = &self.jobs[*id];
            let (JobDriver::Mirror(s) | JobDriver::CommitActive(s)) = &job.driver else { continue };
            let Some(bitmap) = s.dirty_bitmap else { continue };
            let len = s.bdev_length;
            let dirty = self.bits(s.top, bitmap).areas().take(RANGES).collect();
            let real = s.ops.iter().filter(|op| op.is_in_flight && !op.is_pseudo_op);
            let active = real.take(RANGES).map(|op| (op.offset, op.bytes)).collect();
            now.insert(job.id.clone(), Copying { len, dirty, active });
        }
        if now == self.trace.copying {
            return;
        }
        let before = std::mem::replace(&mut self.trace.copying, now.clone());
        for job in before.keys().filter(|job| !now.contains_key(*job)) {
            let (job, copying) = (job.clone(), Copying::default());
            self.trace.emit(Level::Io, self.now, || RecordKind::Copying { job, copying });
        }
        for (job, copying) in now {
            if before.get(&job) != Some(&copying) {
                self.trace.emit(Level::Io, self.now, || RecordKind::Copying { job, copying });
            }
        }
    }
}
