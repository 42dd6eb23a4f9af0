//! The feed: what happened in a step, for whoever checks the process from outside.
//!
//! It is off unless someone watches, and then costs a test; it does not depend on the level of the trace. Whoever watches takes
//! what stands in it after each step, so that worlds are compared and cloned with an empty one. The world never reads it.

use super::World;
use super::arena::{JobId, NodeId, TranId};
use crate::bitmap::DirtyBitmap;
use crate::job::status::{JobStatus, JobType, JobVerb};
use std::sync::Arc;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// A job changed its status.
    JobStatus {
        /// The job.
        job: JobId,
        /// Its ID.
        id: Arc<str>,
        /// Its kind.
        kind: JobType,
        /// Old status.
        from: JobStatus,
        /// New status.
        to: JobStatus,
    },
    /// A verb was asked of a job.
    Verb {
        /// The job's ID.
        id: Arc<str>,
        /// What was asked.
        verb: JobVerb,
        /// Its status then.
        status: JobStatus,
        /// Whether it was taken.
        taken: bool,
    },
    /// `BLOCK_JOB_COMPLETED` or `BLOCK_JOB_CANCELLED` was sent.
    JobEnd {
        /// The job.
        job: JobId,
        /// Its ID.
        id: Arc<str>,
        /// It was CANCELLED.
        cancelled: bool,
        /// It had an error.
        failed: bool,
        /// `offset`
        offset: u64,
        /// `len`
        len: u64,
    },
    /// A job's progress.
    Progress {
        /// The job.
        job: JobId,
        /// Bytes done.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A transaction begins to prepare its first action; how things stand.
    TranBegin(TranId, Box<Standing>),
    /// A transaction has ended.
    TranEnd(TranId),
    /// A transaction has failed and was undone; how things stand.
    TranFailed(TranId, Box<Standing>),
}

/// What a transaction that fails has to leave as it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Named bitmaps: node, its name, the bitmap.
    pub bitmaps: Vec<(NodeId, Arc<str>, DirtyBitmap)>,
    /// Jobs, by ID.
    pub jobs: Vec<(JobId, Arc<str>)>,
    /// Drained nodes: node, its name, how often.
    pub drained: Vec<(NodeId, Arc<str>, u32)>,
}

/// See the module's first lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Feed {
    /// Somebody watches.
    pub on: bool,
    /// What happened since it was last taken, oldest first.
    pub seen: Vec<Seen>,
}

impl World {
    /// Notes what happened, if somebody watches.
    #[inline]
    pub(super) fn see(&mut self, seen: impl FnOnce() -> Seen) {
        if self.feed.on {
            self.feed.seen.push(seen());
        }
    }

    /// How bitmaps, jobs and drained sections stand. Copies share their bits.
    pub(super) fn standing(&self) -> Box<Standing> {
        let mut standing = Standing { bitmaps: Vec::new(), jobs: Vec::new(), drained: Vec::new() };
        for (id, node) in self.graph.nodes.iter() {
            let named = node.bitmaps.iter().filter(|bitmap| bitmap.name().is_some());
            standing.bitmaps.extend(named.map(|bitmap| (id, node.node_name.clone(), bitmap.clone())));
            if node.quiesce_counter > 0 {
                standing.drained.push((id, node.node_name.clone(), node.quiesce_counter));
            }
        }
        standing.jobs.extend(self.jobs.list.iter().map(|job| (*job, self.jobs[*job].id.clone())));
        Box::new(standing)
    }
}
