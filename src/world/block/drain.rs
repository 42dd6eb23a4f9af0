//! Drained sections and the graph lock (`block/io.c`, `block/graph-lock.c`).
//!
//! A drained section is opened from a node upwards: every parent is told to be quiet. Jobs answer by pausing, which a client
//! sees as `paused` and, when the section ends, `running`.

use super::driver::throttle::Member;
use super::graph::{Node, Parent};
use crate::job::status::JobStatus;
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::aio::{Cond, Ctx, Wait};
use crate::world::arena::{ChildId, CoId, NodeId};
use crate::world::frame::{Flow, Frame};
use crate::world::watch::feed::Seen;
use crate::world::watch::marks::Place;

impl World {
    /// `bdrv_parent_drained_begin_single`
    pub fn parent_drained_begin_single(&mut self, child: ChildId) {
        let c = &mut self.graph.children[child];
        assert!(!c.quiesced_parent, "{child:?} is quiesced already");
        c.quiesced_parent = true;
        match c.parent {
            Parent::Node(bs) => self.drained_begin_nopoll(bs),
            Parent::Backend(blk) => {
                let backend = &mut self.graph.backends[blk];
                backend.quiesce_counter += 1;
                if backend.quiesce_counter == 1 && !self.throttling.groups.is_empty() {
                    self.throttle_restart_member(Member::Backend(blk));
                }
            }
            Parent::Job(job) => {
                if self.jobs[job].status == JobStatus::Running {
                    self.reach(Place::DrainPausesJob);
                }
                self.job_pause(job);
            }
        }
    }

    /// `bdrv_parent_drained_end_single`
    pub fn parent_drained_end_single(&mut self, child: ChildId) {
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
            for co in std::mem::take(&mut backend.queued_requests) {
                self.aio_co_wake(co);
            }
        }
    }

    /// `bdrv_do_drained_begin` without polling, from the main thread.
    pub fn drained_begin_nopoll(&mut self, bs: NodeId) {
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
    pub fn drained_end(&mut self, bs: NodeId) {
        let node = &mut self.graph.nodes[bs];
        assert!(node.quiesce_counter > 0, "{bs:?} is not drained");
        node.quiesce_counter -= 1;
        if node.quiesce_counter == 0 {
            self.see(|| Seen::Undrained(bs));
            let mut i = 0;
            while let Some(&child) = self.graph.nodes[bs].parents.get(i) {
                self.parent_drained_end_single(child);
                i += 1;
            }
        }
    }

    /// `bdrv_drain_poll`: whether a drained node still has requests or a parent that is not quiet.
    #[must_use]
    pub fn bdrv_drain_poll(&self, bs: NodeId, ignore_bds_parents: bool) -> bool {
        let Some(node) = self.graph.nodes.get(bs).filter(|_| !self.quirks.has(Quirk::SeededDrainDoesNotWait)) else {
            return false;
        };
        let parents_busy = node.parents.iter().any(|child| match self.graph.children[*child].parent {
            Parent::Node(parent) => !ignore_bds_parents && self.bdrv_drain_poll(parent, false),
            Parent::Backend(blk) => self.graph.backends[blk].in_flight > 0,
            Parent::Job(job) => self.child_job_drained_poll(job),
        });
        parents_busy || node.in_flight > 0
    }

    /// `bdrv_drained_begin`: quiesce, then poll until nothing is under way.
    pub(in crate::world) fn drained_begin(&mut self, bs: NodeId) -> Flow {
        if let Some(co) = self.aio.current {
            self.node_inc_in_flight(bs);
            self.bh_schedule(crate::world::aio::Bh::CoDrain { co, bs, begin: true });
            return Flow::Yield(Wait::Bh("bdrv_drained_begin"));
        }
        self.drained_begin_nopoll(bs);
        if self.feed.on {
            self.stack.push(Frame::DrainSeen(bs));
        }
        self.seq([Frame::Poll(Cond::Drain(bs))])
    }

    /// `bdrv_drained_end`
    pub(in crate::world) fn bdrv_drained_end(&mut self, bs: NodeId) -> Flow {
        if let Some(co) = self.aio.current {
            self.node_inc_in_flight(bs);
            self.bh_schedule(crate::world::aio::Bh::CoDrain { co, bs, begin: false });
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
        self.seq([if begin { Frame::DrainedBegin(bs) } else { Frame::DrainedEnd(bs) }, Frame::Wake(co)])
    }

    /// `bdrv_new`: a node that comes while all are drained is drained as often.
    pub(in crate::world) fn bdrv_new(&mut self, mut node: Node) -> NodeId {
        node.quiesce_counter = self.graph.drain_all_count;
        self.graph.nodes.insert(node)
    }

    /// `bdrv_drain_all_begin_nopoll`
    pub fn drain_all_begin_nopoll(&mut self) {
        self.graph.drain_all_count += 1;
        let mut next = 0;
        while let Some(bs) = self.graph.state_from(next) {
            self.drained_begin_nopoll(bs);
            next = bs.0 + 1;
        }
    }

    /// `bdrv_drain_all_end`
    pub fn drain_all_end(&mut self) {
        let mut next = 0;
        while let Some(bs) = self.graph.state_from(next) {
            self.drained_end(bs);
            next = bs.0 + 1;
        }
        self.graph.drain_all_count -= 1;
    }

    /// `bdrv_drain_all`
    pub(in crate::world) fn drain_all(&mut self) -> Flow {
        self.drain_all_begin_nopoll();
        self.seq([Frame::Poll(Cond::DrainAll), Frame::DrainAllEnd])
    }

    /// Whether a drained section that is opened and closed at once would change nothing: no job has an edge to a node, no reader and
    /// no queued request is about. Most graph changes are made so, and walking the whole graph twice for each was most of their cost.
    fn nobody_sees_a_drain(&self) -> bool {
        self.aio.readers == 0
            && self.jobs.list.iter().all(|job| self.jobs[*job].nodes.is_empty())
            && self.graph.backends.iter().all(|(_, backend)| backend.queued_requests.is_empty())
            && self.throttling.groups.is_empty()
    }

    /// `bdrv_graph_wrlock`: drains everything without waiting, waits for readers only, and undrains before it returns.
    pub(in crate::world) fn graph_wrlock(&mut self) -> Flow {
        assert!(!self.aio.has_writer, "the graph is locked for writing already");
        if self.nobody_sees_a_drain() {
            self.aio.has_writer = true;
            return Flow::Go;
        }
        self.drain_all_begin_nopoll();
        self.seq([Frame::Poll(Cond::Readers), Frame::GraphWrlockTaken])
    }

    /// The second half of `bdrv_graph_wrlock`.
    pub(in crate::world) fn graph_wrlock_taken(&mut self) -> Flow {
        self.aio.has_writer = true;
        self.drain_all_end();
        Flow::Go
    }

    /// `bdrv_graph_wrunlock`: lets readers in, then runs the bottom halves that the locked section left.
    pub(in crate::world) fn graph_wrunlock(&mut self) -> Flow {
        self.aio.has_writer = false;
        for co in std::mem::take(&mut self.graph_readers_waiting) {
            self.co_enter(co, Ctx::Main);
        }
        self.aio_bh_poll()
    }

    /// `bdrv_graph_co_rdlock`
    pub(in crate::world) fn graph_co_rdlock(&mut self) -> Flow {
        if self.aio.has_writer {
            let co = self.current();
            self.graph_readers_waiting.push(co);
            self.stack.push(Frame::Rdlock);
            return Flow::Yield(Wait::Queue("the graph lock"));
        }
        self.aio.readers += 1;
        Flow::Go
    }

    /// `bdrv_inc_in_flight`
    pub fn node_inc_in_flight(&mut self, bs: NodeId) {
        self.graph.nodes[bs].in_flight += 1;
    }

    /// `bdrv_dec_in_flight`
    pub fn node_dec_in_flight(&mut self, bs: NodeId) {
        let node = &mut self.graph.nodes[bs];
        assert!(node.in_flight > 0, "{bs:?} has no request in flight");
        node.in_flight -= 1;
    }
}
