//! The lock of the graph (`block/graph-lock.c`).

use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::queue::Ctx;
use crate::world::aio::step::Cond;
use crate::world::frame::{Flow, Frame};

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum GraphLockFrame {
    /// Takes and gives back the graph lock that often.
    LockGraph(u32),
    GraphWrlock,
    GraphWrlockTaken,
    GraphWrunlock,
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
            GraphLockFrame::GraphWrlock => w.graph_wrlock(),
            GraphLockFrame::GraphWrlockTaken => w.graph_wrlock_taken(),
            GraphLockFrame::GraphWrunlock => w.graph_wrunlock(),
            GraphLockFrame::Rdlock => w.graph_co_rdlock(),
            GraphLockFrame::Rdunlock => {
                w.aio.readers -= 1;
                Flow::Go
            }
        }
    }
}

impl World {
    /// `bdrv_graph_wrlock`: drains everything without waiting, waits for readers only, and undrains before it returns.
    fn graph_wrlock(&mut self) -> Flow {
        assert!(!self.aio.has_writer, "the graph is locked for writing already");
        if self.nobody_sees_a_drain() {
            self.aio.has_writer = true;
            return Flow::Go;
        }
        self.drain_all_begin_nopoll();
        self.seq([Frame::Poll(Cond::Readers), GraphLockFrame::GraphWrlockTaken.into()])
    }

    /// The second half of `bdrv_graph_wrlock`.
    fn graph_wrlock_taken(&mut self) -> Flow {
        self.aio.has_writer = true;
        self.drain_all_end();
        Flow::Go
    }

    /// `bdrv_graph_wrunlock`: lets readers in, then runs the bottom halves that the locked section left.
    fn graph_wrunlock(&mut self) -> Flow {
        self.aio.has_writer = false;
        for co in std::mem::take(&mut self.graph_readers_waiting) {
            self.co_enter(co, Ctx::Main);
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
