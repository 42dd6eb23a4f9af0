//! Bottom halves, and the contexts that they run in (`util/async.c`).

use crate::base::time::{Rebase, Shift, timeless};
use crate::trace::LaterWork;
use crate::world::World;
use crate::world::arena::{CoId, ConnId, ExportId, JobId, NodeId};
use crate::world::frame::{Flow, Frame};
use std::collections::VecDeque;

/// The two `AioContext`s of the main thread. A nested `aio_poll` runs only [`Ctx::Main`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ctx {
    /// `qemu_aio_context`: block layer and jobs.
    Main,
    /// `iohandler_ctx`: the QMP dispatcher.
    Iohandler,
}

/// A bottom half: a callback that runs in the next round of its context.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bh {
    /// `util/async.c:co_schedule_bh_cb`: enters the scheduled coroutines in the order they were scheduled.
    CoSchedule,
    /// `job.c:job_exit`
    JobExit(JobId),
    /// `block.c:bdrv_schedule_unref_bh`
    BdrvUnref(NodeId),
    /// `block/io.c:bdrv_co_drain_bh_cb`: a coroutine asked for a drained section.
    CoDrain {
        /// The coroutine that waits.
        co: CoId,
        /// The node to drain.
        bs: NodeId,
        /// Begin or end of the section.
        begin: bool,
    },
    /// `qapi/qmp-dispatch.c:do_qmp_dispatch_bh`: runs the handler of the command that is being dispatched.
    QmpDispatch,
    /// `monitor_qmp_dispatcher_co`: looks for the next request.
    QmpPop,
    /// The dispatcher writes the reply of the command that has ended.
    QmpReply,
    /// `block/export/export.c:blk_exp_delete_bh`
    BlkExpDelete(ExportId),
    /// `blockdev-nbd.c:nbd_accept`: somebody has connected.
    NbdAccept,
    /// `nbd/server.c:nbd_wake_read_bh`
    NbdWakeRead(ConnId),
    /// `block/nbd.c:nbd_receive_replies`: something came for the requests of a node.
    NbdReplies(NodeId),
    /// A graph operation on behalf of a coroutine (the `no_co_wrapper`s, such as `blk_co_new_with_bs` and `blk_co_unref`).
    CoCall(CoId, Box<Frame>),
}

impl Bh {
    /// Whether it writes the reply of a command that is done, or looks for another one.
    #[must_use]
    pub fn ends_command(&self) -> bool {
        matches!(self, Bh::QmpReply | Bh::QmpPop)
    }

    /// Under what its cause is kept; [`Bh::CoSchedule`] has none, the coroutines that it enters have theirs.
    pub(in crate::world) fn work(&self) -> Option<LaterWork> {
        match self {
            Bh::CoSchedule | Bh::BlkExpDelete(_) | Bh::NbdAccept | Bh::NbdWakeRead(_) | Bh::NbdReplies(_) => None,
            Bh::JobExit(job) => Some(LaterWork::JobExit(job.0)),
            Bh::BdrvUnref(bs) => Some(LaterWork::Unref(bs.0)),
            Bh::CoDrain { co, .. } | Bh::CoCall(co, _) => Some(LaterWork::CoBh(co.0)),
            Bh::QmpDispatch | Bh::QmpPop | Bh::QmpReply => Some(LaterWork::Command),
        }
    }
}

impl Rebase for Bh {
    fn has_instants(&self) -> bool {
        matches!(self, Bh::CoCall(_, frame) if frame.has_instants())
    }

    fn rebase(&mut self, shift: Shift) {
        match self {
            Bh::CoCall(_, frame) => frame.rebase(shift),
            Bh::JobExit(job) => timeless(job),
            Bh::BlkExpDelete(export) => timeless(export),
            Bh::NbdWakeRead(conn) => timeless(conn),
            Bh::NbdAccept => {}
            Bh::BdrvUnref(node) | Bh::NbdReplies(node) => timeless(node),
            Bh::CoDrain { co, bs, begin } => timeless(&(co, bs, begin)),
            Bh::CoSchedule | Bh::QmpDispatch | Bh::QmpPop | Bh::QmpReply => {}
        }
    }
}

/// One context's bottom halves. `list` holds the newest last and is drained from its end: newest first, as QEMU's list does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BhQueue {
    list: Vec<Bh>,
    slices: VecDeque<Vec<Bh>>,
    pub(in crate::world) scheduled_coroutines: Vec<CoId>,
}

crate::base::time::rebase!(BhQueue { moves: list, slices; rest: scheduled_coroutines });

impl BhQueue {
    /// `aio_bh_enqueue`
    pub fn schedule(&mut self, bh: Bh) {
        self.list.push(bh);
    }

    /// Whether a round of this context would run something.
    #[must_use]
    pub fn ready(&self) -> bool {
        !self.list.is_empty() || !self.slices.is_empty()
    }

    pub(super) fn begin_poll(&mut self) {
        self.slices.push_back(std::mem::take(&mut self.list));
    }

    /// Whether more bottom halves of this round are to come.
    fn is_amid(&self) -> bool {
        self.slices.front().is_some_and(|slice| !slice.is_empty())
    }

    pub(super) fn next(&mut self) -> Option<Bh> {
        while let Some(slice) = self.slices.front_mut() {
            if let Some(bh) = slice.pop() {
                return Some(bh);
            }
            let emptied = self.slices.pop_front();
            // Its room serves those of the next round.
            if self.list.capacity() == 0 {
                self.list = emptied.unwrap_or_default();
            }
        }
        None
    }

    /// Takes out what gives up a node, oldest first: before there was a lock to hold meanwhile, nobody put that off.
    pub(in crate::world) fn take_unrefs(&mut self) -> Vec<NodeId> {
        let (unrefs, rest) = std::mem::take(&mut self.list).into_iter().partition(|bh| matches!(bh, Bh::BdrvUnref(_)));
        self.list = rest;
        let unrefs: Vec<Bh> = unrefs;
        unrefs.into_iter().filter_map(|bh| if let Bh::BdrvUnref(bs) = bh { Some(bs) } else { None }).collect()
    }

    /// The bottom halves that wait, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Bh> {
        self.slices.iter().flatten().chain(self.list.iter())
    }
}

impl World {
    /// `aio_bh_schedule_oneshot(qemu_get_aio_context(), ...)`
    pub(in crate::world) fn bh_schedule(&mut self, bh: Bh) {
        if let Some(work) = bh.work() {
            self.trace.keep_cause(work);
        }
        self.aio.main.schedule(bh);
    }

    /// `Frame::BhLoop`: `aio_bh_poll`, one bottom half at a time.
    pub(in crate::world) fn bh_loop(&mut self, ctx: Ctx) -> Flow {
        let queue = match ctx {
            Ctx::Main => &mut self.aio.main,
            Ctx::Iohandler => &mut self.aio.iohandler,
        };
        let Some(bh) = queue.next() else { return Flow::Go };
        let more = queue.is_amid() && self.aio.order && self.aio.bh_order;
        self.aio.stack.push(Frame::BhLoop(ctx));
        if more {
            self.aio.stack.push(Frame::MoreBetween);
        }
        self.run_bh(bh, ctx)
    }

    /// `aio_bh_poll` called by itself (`bdrv_graph_wrunlock`). The thread pool tells by a bottom half what is done, so that requests may
    /// come to their end here, too; what the main thread does next finds them so.
    pub(in crate::world) fn aio_bh_poll(&mut self) -> Flow {
        self.aio.main.begin_poll();
        if self.aio.order && !self.aio.in_flight.is_empty() {
            return self.seq([Frame::MoreHere, Frame::BhLoop(Ctx::Main)]);
        }
        self.seq([Frame::BhLoop(Ctx::Main)])
    }
}
