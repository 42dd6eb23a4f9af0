//! The lock of the graph (`block/graph-lock.c`).

use crate::version::changes::Change;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::queue::Ctx;
use crate::world::aio::step::Cond;
use crate::world::block::graph::GraphFrame;
use crate::world::frame::{Flow, Frame};

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum GraphLockFrame {
    /// Takes and gives back the graph lock that often.
    LockGraph(u32),
    /// `bdrv_graph_wrlock_drained`; before that was there, `bdrv_graph_wrlock`.
    GraphWrlock,
    /// `bdrv_graph_wrlock` of somebody who has drained what he changes.
    GraphWrlockOnly,
    GraphWrlockTaken {
        undrain: bool,
    },
    GraphWrunlock,
    DrainedSectionEnds,
    Rdlock,
    Rdunlock,
}

impl GraphLockFrame {
    /// Runs the frame.
    #[inline(always)]
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            GraphLockFrame::LockGraph(0) => Flow::Go,
            GraphLockFrame::LockGraph(n) => w.seq([
                GraphLockFrame::GraphWrlock.into(),
                GraphLockFrame::GraphWrunlock.into(),
                GraphLockFrame::LockGraph(n - 1).into(),
            ]),
            GraphLockFrame::GraphWrlock => w.graph_wrlock(w.quirks.since(Change::GraphLockDrained)),
            GraphLockFrame::GraphWrlockOnly => w.graph_wrlock(false),
            GraphLockFrame::GraphWrlockTaken { undrain } => w.graph_wrlock_taken(undrain),
            GraphLockFrame::GraphWrunlock => w.graph_wrunlock(),
            GraphLockFrame::DrainedSectionEnds => w.drained_section_ends(),
            GraphLockFrame::Rdlock => w.graph_co_rdlock(),
            GraphLockFrame::Rdunlock => {
                w.aio.readers -= 1;
                Flow::Go
            }
        }
    }
}

impl World {
    /// `bdrv_graph_wrlock`: drains everything without waiting, waits for readers only, and undrains before it returns. With `drained` it
    /// waits until all is quiet, and the section lasts until the lock is given back.
    fn graph_wrlock(&mut self, drained: bool) -> Flow {
        if !self.quirks.since(Change::GraphLock) {
            return Flow::Go;
        }
        assert!(!self.aio.has_writer, "the graph is locked for writing already");
        let quiesced = self.graph.wrlock_quiesced > 0;
        if !quiesced && self.nobody_sees_a_drain() {
            self.aio.has_writer = true;
            return Flow::Go;
        }
        if drained {
            self.graph.wrlock_quiesced += 1;
            self.drain_all_begin_nopoll();
            return self.seq([
                Frame::Poll(Cond::DrainAll),
                Frame::Poll(Cond::Readers),
                GraphLockFrame::GraphWrlockTaken { undrain: false }.into(),
            ]);
        }
        // Within somebody's section there is nothing to drain.
        if !quiesced {
            self.drain_all_begin_nopoll();
        }
        self.seq([Frame::Poll(Cond::Readers), GraphLockFrame::GraphWrlockTaken { undrain: !quiesced }.into()])
    }

    /// The second half of `bdrv_graph_wrlock`.
    fn graph_wrlock_taken(&mut self, undrain: bool) -> Flow {
        self.aio.has_writer = true;
        if undrain {
            self.drain_all_end();
        }
        Flow::Go
    }

    /// The end of `bdrv_graph_wrunlock`: of the section that [`World::graph_wrlock`] began, unless one who locked in between has ended it.
    fn drained_section_ends(&mut self) -> Flow {
        if self.graph.wrlock_quiesced > 0 {
            self.graph.wrlock_quiesced -= 1;
            self.drain_all_end();
        }
        Flow::Go
    }

    /// `bdrv_graph_wrunlock`: lets readers in, then runs the bottom halves that the locked section left.
    fn graph_wrunlock(&mut self) -> Flow {
        if !self.quirks.since(Change::GraphLock) {
            let unrefs = self.aio.main.take_unrefs();
            self.push_all(unrefs.into_iter().map(|bs| GraphFrame::BdrvUnref(bs).into()).collect());
            return Flow::Go;
        }
        self.aio.has_writer = false;
        for co in std::mem::take(&mut self.graph_readers_waiting) {
            self.co_enter(co, Ctx::Main);
        }
        if self.graph.wrlock_quiesced > 0 {
            // Whether it is still to be ended is looked at behind the bottom halves.
            self.push(GraphLockFrame::DrainedSectionEnds.into());
        }
        self.aio_bh_poll()
    }

    /// `bdrv_graph_co_rdlock`
    fn graph_co_rdlock(&mut self) -> Flow {
        if self.aio.has_writer {
            let co = self.current();
            self.graph_readers_waiting.push(co);
            self.push(GraphLockFrame::Rdlock.into());
            return Flow::Yield(Wait::Queue("the graph lock"));
        }
        self.aio.readers += 1;
        Flow::Go
    }
}
