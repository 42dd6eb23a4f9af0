//! Drained sections: of a node, of all (`block/io.c:bdrv_drained_begin`, `bdrv_drain_all_begin`).
//!
//! A drained section is opened from a node upwards: every parent is told to be quiet. Jobs answer by pausing, which a client
//! sees as `paused` and, when the section ends, `running`.

use crate::job::status::JobStatus;
use crate::quirk::Quirk;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::step::Cond;
use crate::world::arena::{ChildId, CoId, Member, NodeId};
use crate::world::block::edges::Parent;
use crate::world::frame::{Flow, Frame};
use crate::world::watch::feed::Seen;
use crate::world::watch::feed::WatchFrame;
use crate::world::watch::marks::CodePlace;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum DrainFrame {
    DrainedBegin(NodeId),
    DrainedEnd(NodeId),
    DrainAll,
    DrainAllBegin,
    DrainAllEnd,
}

impl DrainFrame {
    /// Runs the frame.
    #[inline(always)]
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            DrainFrame::DrainedBegin(bs) => w.drained_begin(bs),
            DrainFrame::DrainedEnd(bs) => w.bdrv_drained_end(bs),
            DrainFrame::DrainAll => w.drain_all(),
            DrainFrame::DrainAllBegin => {
                w.drain_all_begin_nopoll();
                w.seq([Frame::Poll(Cond::DrainAll)])
            }
            DrainFrame::DrainAllEnd => {
                w.drain_all_end();
                Flow::Go
            }
        }
    }
}

impl World {
    /// `bdrv_parent_drained_begin_single`
    pub(in crate::world) fn parent_drained_begin_single(&mut self, child: ChildId) {
        let c = &mut self.graph.children[child];
        assert!(!c.quiesced_parent, "{child:?} is quiesced already");
        c.quiesced_parent = true;
        match c.parent {
            Parent::Node(bs) => self.drained_begin_nopoll(bs),
            Parent::Backend(blk) => {
                let backend = &mut self.graph.backends[blk];
                backend.quiesce_counter += 1;
                if backend.quiesce_counter == 1 {
                    self.nbd_drained_begin(blk);
                    if !self.throttling.groups.is_empty() {
                        self.throttle_restart_member(Member::Backend(blk));
                    }
                }
            }
            Parent::Job(job) => {
                if self.jobs[job].status == JobStatus::Running {
                    self.reach(CodePlace::DrainPausesJob);
                }
                self.job_pause(job);
            }
        }
    }

    /// `bdrv_parent_drained_end_single`
    pub(in crate::world) fn parent_drained_end_single(&mut self, child: ChildId) {
        let c = &mut self.graph.children[child];
        assert!(c.quiesced_parent, "{child:?} is not quiesced");
        c.quiesced_parent = false;
        match c.parent {
            Parent::Node(bs) => self.drained_end(bs),
            Parent::Backend(blk) => self.blk_root_drained_end(blk),
            Parent::Job(job) => self.job_resume(job),
        }
    }

    /// `block/block-backend.c:blk_root_drained_end`: requests that waited for the end of the section go on.
    fn blk_root_drained_end(&mut self, blk: crate::world::arena::BackendId) {
        let backend = &mut self.graph.backends[blk];
        backend.quiesce_counter -= 1;
        if backend.quiesce_counter == 0 {
            let queued = std::mem::take(&mut backend.queued_requests);
            self.nbd_drained_end(blk);
            for co in queued {
                self.aio_co_wake(co);
            }
        }
    }

    /// `bdrv_do_drained_begin` without polling, from the main thread.
    fn drained_begin_nopoll(&mut self, bs: NodeId) {
        let node = &mut self.graph.nodes[bs];
        node.quiesce_counter += 1;
        if node.quiesce_counter == 1 {
            let mut i = 0;
            while let Some(&child) = self.graph.nodes[bs].parents.get(i) {
                self.parent_drained_begin_single(child);
                i += 1;
            }
            self.throttle_drain_begin(bs);
        }
    }

    /// `bdrv_do_drained_end` from the main thread.
    pub(in crate::world) fn drained_end(&mut self, bs: NodeId) {
        let node = &mut self.graph.nodes[bs];
        assert!(node.quiesce_counter > 0, "{bs:?} is not drained");
        node.quiesce_counter -= 1;
        if node.quiesce_counter == 0 {
            self.see(|| Seen::Undrained(bs));
            let mut i = 0;
            // Of a section that drained all, nodes above were not told once.
            let all_told = self.quirks.since(Change::DrainAllThroughParents);
            while let Some(&child) = self.graph.nodes[bs].parents.get(i) {
                if all_told || self.graph.children[child].quiesced_parent {
                    self.parent_drained_end_single(child);
                }
                i += 1;
            }
        }
    }

    /// `bdrv_drain_poll`: whether a drained node still has requests or a parent that is not quiet.
    #[must_use]
    pub(in crate::world) fn bdrv_drain_poll(&self, bs: NodeId, ignore_bds_parents: bool) -> bool {
        let Some(node) = self.graph.nodes.get(bs).filter(|_| !self.quirks.has(Quirk::SeededDrainDoesNotWait)) else {
            return false;
        };
        let parents_busy = node.parents.iter().any(|child| match self.graph.children[*child].parent {
            Parent::Node(parent) => !ignore_bds_parents && self.bdrv_drain_poll(parent, false),
            Parent::Backend(blk) => self.nbd_drained_poll(blk) || self.graph.backends[blk].in_flight > 0,
            Parent::Job(job) => self.child_job_drained_poll(job),
        });
        parents_busy || node.in_flight > 0
    }

    /// `bdrv_drained_begin`: quiesce, then poll until nothing is under way.
    fn drained_begin(&mut self, bs: NodeId) -> Flow {
        if let Some(co) = self.aio.current {
            self.node_inc_in_flight(bs);
            self.bh_schedule(crate::world::aio::queue::Bh::CoDrain { co, bs, begin: true });
            return Flow::Yield(Wait::Bh("bdrv_drained_begin"));
        }
        self.drained_begin_nopoll(bs);
        if self.feed.on {
            self.push(WatchFrame::DrainSeen(bs).into());
        }
        self.seq([Frame::Poll(Cond::Drain(bs))])
    }

    /// `bdrv_drained_end`
    fn bdrv_drained_end(&mut self, bs: NodeId) -> Flow {
        if let Some(co) = self.aio.current {
            self.node_inc_in_flight(bs);
            self.bh_schedule(crate::world::aio::queue::Bh::CoDrain { co, bs, begin: false });
            return Flow::Yield(Wait::Bh("bdrv_drained_end"));
        }
        self.polled_section_ends(bs);
        Flow::Go
    }

    /// `bdrv_drained_end`, from the main thread, of a section that [`World::drained_begin`] began.
    pub(in crate::world) fn polled_section_ends(&mut self, bs: NodeId) {
        self.see(|| Seen::DrainEnds(bs));
        self.drained_end(bs);
    }

    /// `bdrv_co_drain_bh_cb`
    pub(in crate::world) fn co_drain(&mut self, co: CoId, bs: NodeId, begin: bool) -> Flow {
        self.node_dec_in_flight(bs);
        if self.aio.closing {
            return Flow::Go;
        }
        self.seq([
            if begin { DrainFrame::DrainedBegin(bs).into() } else { DrainFrame::DrainedEnd(bs).into() },
            Frame::Wake(co),
        ])
    }

    /// `bdrv_drain_all_begin_nopoll`
    pub(in crate::world) fn drain_all_begin_nopoll(&mut self) {
        self.graph.drain_all_count += 1;
        let mut next = 0;
        while let Some(bs) = self.graph.state_from(next) {
            match self.quirks.since(Change::DrainAllThroughParents) {
                true => self.drained_begin_nopoll(bs),
                false => self.drained_begin_below_nodes(bs),
            }
            next = bs.0 + 1;
        }
    }

    /// `bdrv_do_drained_begin` with `ignore_bds_parents`: parents that are nodes are not told, as each is drained itself.
    fn drained_begin_below_nodes(&mut self, bs: NodeId) {
        let node = &mut self.graph.nodes[bs];
        node.quiesce_counter += 1;
        if node.quiesce_counter == 1 {
            let mut i = 0;
            while let Some(&child) = self.graph.nodes[bs].parents.get(i) {
                if !matches!(self.graph.children[child].parent, Parent::Node(_)) {
                    self.parent_drained_begin_single(child);
                }
                i += 1;
            }
            self.throttle_drain_begin(bs);
        }
    }

    /// `bdrv_drain_all_end`
    pub(in crate::world) fn drain_all_end(&mut self) {
        let mut next = 0;
        while let Some(bs) = self.graph.state_from(next) {
            self.drained_end(bs);
            next = bs.0 + 1;
        }
        self.graph.drain_all_count -= 1;
    }

    /// `bdrv_drain_all`
    fn drain_all(&mut self) -> Flow {
        self.drain_all_begin_nopoll();
        self.seq([Frame::Poll(Cond::DrainAll), DrainFrame::DrainAllEnd.into()])
    }

    /// `bdrv_try_change_aio_context`: there is one context, and what can be seen of a change is the section in which it is made. What stands on
    /// the stack comes after it.
    pub(in crate::world) fn try_change_aio_context(&mut self) {
        if self.quirks.since(Change::GraphLockDrained) {
            self.push(DrainFrame::DrainAll.into());
        }
    }

    /// Whether a drained section that is opened and closed at once would change nothing: no job has an edge to a node, no reader and
    /// no queued request is about, nor an NBD client, which waits anew behind the section. Most graph changes are made so, and walking
    /// the whole graph twice for each was most of their cost.
    pub(super) fn nobody_sees_a_drain(&self) -> bool {
        self.aio.readers == 0
            && self.exports.readers.is_empty()
            && self.jobs.list.iter().all(|job| self.jobs[*job].nodes.is_empty())
            && self.graph.backends.iter().all(|(_, backend)| backend.queued_requests.is_empty())
            && self.throttling.groups.is_empty()
    }
}
