//! Which method of [`World`] each frame runs.

use super::World;
use super::aio::coroutine::Wait;
use super::aio::queue::{Bh, Ctx};
use super::aio::step::Cond;
use super::aio::timer::TimerKind;
use super::arena::{NodeId, ReqId};
use super::frame::{Flow, Frame, files_with_frames};
use super::value::Val;
use crate::trace::LaterWork;
use crate::world::block::graph::GraphFrame;
use crate::world::job::txn::TxnFrame;

// A frame is one of a file, so that two tables of jumps say what runs. The `run` of those through which all I/O goes stands in this function,
// and this one in the loop that runs coroutines (`inline(always)`): to call them would cost a run some per cent.
macro_rules! run_frames {
    ($($(#[$when:meta])? $file:ident($($path:ident)::+) $($moves:ident)?,)*) => {
        impl Frame {
            /// Runs the frame.
            #[inline(always)]
            pub(super) fn run(self, w: &mut World) -> Flow {
                match self {
                Frame::Poll(_) => unreachable!("only the main thread polls, and its step looks for this frame itself"),
                Frame::BhLoop(ctx) => w.bh_loop(ctx),
                Frame::Handlers => w.handlers(),
                Frame::RunTimers => w.run_timers(),
                Frame::Complete(id) => w.complete(id),
                Frame::More | Frame::MoreHere | Frame::MoreBetween => {
                    unreachable!("`World::step` asks whether there is more")
                }
                Frame::Enter(co) => {
                    w.aio_co_wake(co);
                    Flow::Go
                }
                Frame::Wake(co) => {
                    w.aio_co_wake(co);
                    Flow::Go
                }
                Frame::WakeWithReg(co) => {
                    let value = w.take_val();
                    w.wake_with(co, value);
                    Flow::Go
                }
                Frame::CoReturn(cell) => {
                    w.aio.cells[cell.0 as usize] = Some(w.take_val());
                    Flow::Go
                }
                Frame::TakeCell(cell) => {
                    let value = w.take_cell(cell);
                    w.ret(value)
                }
                Frame::RunCo(frame) => {
                    w.leave(Val::None);
                    w.run_co(*frame)
                }
                Frame::OnMain(frame) => w.co_call_main(*frame, "the main thread"),
                Frame::Give(value) => w.ret(*value),
                Frame::KeepOver(frame) => {
                    let kept = w.take_val();
                    w.seq([*frame, Frame::Give(Box::new(kept))])
                }
                Frame::Idle => unreachable!("starting the process stops here"),
                Frame::IfOk(frames) => {
                    if !w.peek().is_err() {
                        w.leave(Val::None);
                        w.push_all(frames.into_vec());
                    }
                    Flow::Go
                }
                Frame::Sleep(span) => {
                    let co = w.current();
                    w.timer_set(w.now + span, crate::world::aio::timer::TimerKind::CoSleep(co));
                    Flow::Yield(Wait::Sleep)
                }
                Frame::BhPoll => w.aio_bh_poll(),
                    $($(#[$when])? Frame::$file(frame) => frame.run(w),)*
                }
            }
        }
    };
}

files_with_frames!(run_frames);

impl Frame {
    /// [`Frame::run`], called: for who runs few frames.
    #[inline(never)]
    pub(super) fn call(self, w: &mut World) -> Flow {
        self.run(w)
    }
}

impl World {
    pub(super) fn run_bh(&mut self, bh: Bh, ctx: Ctx) -> Flow {
        self.trace.set_cause(None);
        match bh.work() {
            Some(LaterWork::Command) => self.trace.set_cause(self.trace.kept_cause(LaterWork::Command)),
            Some(work) => self.trace.take_cause(work),
            None => {}
        }
        match bh {
            Bh::CoSchedule => {
                let queue = match ctx {
                    Ctx::Main => &mut self.aio.main,
                    Ctx::Iohandler => &mut self.aio.iohandler,
                };
                for co in std::mem::take(&mut queue.scheduled_coroutines) {
                    self.cos[co].scheduled = false;
                    self.co_enter(co, ctx);
                }
                Flow::Go
            }
            Bh::JobExit(job) => self.seq([TxnFrame::JobExit(job).into()]),
            Bh::BdrvUnref(bs) => self.seq([GraphFrame::BdrvUnref(bs).into()]),
            Bh::CoCall(..) if self.aio.closing => Flow::Go,
            Bh::CoDrain { co, bs, begin } => self.co_drain(co, bs, begin),
            Bh::BlkExpDelete(export) => self.blk_exp_delete(export),
            Bh::NbdAccept => self.nbd_accept(),
            Bh::NbdReplies(node) => {
                self.nbd_replies(node);
                Flow::Go
            }
            Bh::NbdWakeRead(conn) => {
                self.nbd_wake_read(conn);
                Flow::Go
            }
            Bh::QmpPop | Bh::QmpDispatch | Bh::QmpReply => self.monitor_bh(&bh, ctx),
            Bh::CoCall(co, frame) => self.seq([*frame, Frame::WakeWithReg(co)]),
        }
    }

    pub(super) fn poll_holds(&mut self, cond: &Cond) -> bool {
        match cond {
            Cond::Drain(bs) => {
                let busy = self.bdrv_drain_poll(*bs, false);
                self.nbd_wake_quiescing();
                busy
            }
            Cond::DrainAll => {
                let all: Vec<NodeId> = self.graph.all_states();
                let busy = all.into_iter().any(|bs| self.bdrv_drain_poll(bs, true));
                self.nbd_wake_quiescing();
                busy
            }
            Cond::Exports => !self.exports.list.is_empty(),
            Cond::NbdConnections => self.exports.server.as_ref().is_some_and(|server| !server.conns.is_empty()),
            Cond::Readers => self.aio.readers > 0,
            Cond::Cell(cell) => self.aio.cells[cell.0 as usize].is_none(),
            Cond::JobCompleted(job) => {
                self.job_enter(*job);
                !self.jobs.get(*job).is_none_or(|j| j.status.is_completed())
            }
            Cond::Backend(blk) => self.graph.backends[*blk].in_flight > 0,
            Cond::Break(node, tag) => !node.is_some_and(|node| self.blkdebug_is_suspended(node, tag)),
        }
    }

    /// `timerlistgroup_run_timers`
    pub(super) fn run_timers(&mut self) -> Flow {
        let Some(timer) = self.next_timer().filter(|t| t.deadline <= self.now).cloned() else {
            return Flow::Go;
        };
        self.timer_del(timer.kind);
        self.push(Frame::RunTimers);
        self.trace.set_cause(None);
        match timer.kind {
            TimerKind::JobSleep(job) => {
                self.trace.take_cause(LaterWork::JobSleep(job.0));
                self.job_enter(job);
            }
            TimerKind::CoSleep(co) => {
                self.trace.take_cause(LaterWork::CoSleep(co.0));
                self.aio_co_wake(co);
            }
            TimerKind::NbdHandshake(conn) => self.nbd_handshake_timer(conn),
            TimerKind::NbdOpen(node) => self.nbd_open_timer(node),
            TimerKind::NbdDelay(node) => self.nbd_delay_timer(node),
            TimerKind::NbdRetry(node) => self.nbd_retry_timer(node),
            TimerKind::Throttle(who, write) => {
                self.trace.take_cause(LaterWork::Throttle(who.number(), write));
                self.throttle_timer(who, write);
            }
        }
        Flow::Go
    }

    /// `Frame::Complete`: the device did its work; the coroutine goes on.
    pub(super) fn complete(&mut self, id: ReqId) -> Flow {
        let Some(i) = self.aio.in_flight.iter().position(|r| r.id == id) else { return Flow::Go };
        let mut request = self.aio.in_flight.remove(i);
        self.trace.set_cause(None);
        self.trace.take_cause(LaterWork::Device(id.0));
        let value = match request.worked.take() {
            Some(value) => *value,
            None => self.device_work(&request),
        };
        self.wake_with(request.co, value);
        Flow::Go
    }
}
