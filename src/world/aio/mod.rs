//! The event loop: bottom halves, coroutines, timers, requests in flight, and the main thread's stack
//! (`util/async.c`, `util/aio-posix.c`, `util/qemu-coroutine.c`).
//!
//! The main thread's C stack and every coroutine's stack are vectors of [`Frame`]s, so a nested `aio_poll` is data like all else.

pub(in crate::world) mod idle;
pub(super) mod open_orders;
pub(super) mod subjects;

use super::World;
use super::arena::{CellId, CoId, JobId, NodeId, ReqId};
use super::frame::{Flow, Frame};
use super::value::Val;
use crate::base::Spare;
use crate::base::units::{MICROS, Nanos};
use crate::block::content::Data;
use crate::choice::{ChoicePoint, Choose, Subject};
use crate::trace::Later;
pub use idle::Stepped;
use std::collections::VecDeque;
use std::sync::Arc;

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
    /// A graph operation on behalf of a coroutine (the `no_co_wrapper`s, such as `blk_co_new_with_bs` and `blk_co_unref`).
    CoCall(CoId, Box<Frame>),
}

impl Bh {
    /// Under what its cause is kept; [`Bh::CoSchedule`] has none, the coroutines that it enters have theirs.
    fn work(&self) -> Option<Later> {
        match self {
            Bh::CoSchedule => None,
            Bh::JobExit(job) => Some(Later::JobExit(job.0)),
            Bh::BdrvUnref(bs) => Some(Later::Unref(bs.0)),
            Bh::CoDrain { co, .. } | Bh::CoCall(co, _) => Some(Later::CoBh(co.0)),
            Bh::QmpDispatch | Bh::QmpPop | Bh::QmpReply => Some(Later::Command),
        }
    }
}

/// One context's bottom halves. `list` holds the newest last and is drained from its end: newest first, as QEMU's list does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BhQueue {
    list: Vec<Bh>,
    slices: VecDeque<Vec<Bh>>,
    scheduled_coroutines: Vec<CoId>,
}

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

    fn next(&mut self) -> Option<Bh> {
        while let Some(slice) = self.slices.front_mut() {
            if let Some(bh) = slice.pop() {
                return Some(bh);
            }
            self.slices.pop_front();
        }
        None
    }

    /// The bottom halves that wait, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Bh> {
        self.slices.iter().flatten().chain(self.list.iter())
    }
}

/// What a coroutine that yielded waits for. Only for diagnosis and checks: whoever wakes it knows it by its id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// A request at a device.
    Device(ReqId),
    /// `job_enter`, or the job's sleep timer.
    JobEnter(JobId),
    /// A timer of its own (`qemu_co_sleep`).
    Sleep,
    /// A `CoQueue` or `CoMutex`, with the reason in words.
    Queue(&'static str),
    /// Being entered again by its own bottom half.
    Reschedule,
    /// A bottom half that works for it on the main stack.
    Bh(&'static str),
    /// `blkdebug`: suspended at a breakpoint.
    Suspended(Arc<str>),
    /// A free slot of, or the end of, an `AioTaskPool`.
    TaskPool,
    /// The end of the copy call that the job started (`backup_pause`, `backup_loop`).
    CopyCall,
    /// The next QMP request.
    Request,
    /// What the real host does to a file.
    Host,
}

/// A coroutine: a stack of frames that waits to be entered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coroutine {
    /// Frames, innermost last. Empty while it runs.
    pub frames: Vec<Frame>,
    /// What the next frame finds as the result of what it waited for.
    pub reg: Val,
    /// What it waits for.
    pub wait: Option<Wait>,
    /// The context it last ran in.
    pub ctx: Ctx,
    /// Whether it is the running one, or a caller of it.
    pub running: bool,
    /// Whether a `CoSchedule` bottom half will enter it.
    pub scheduled: bool,
    /// For whom it works, in the words of [`Subject::task`](crate::choice::Subject::task): as the coroutine that made it.
    pub task: u32,
}

/// What a device does for a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DeviceOp {
    /// `pread`
    Read,
    /// `pwrite`
    Write(Data),
    /// `copy_file_range`
    Copy {
        /// The file to copy from.
        from: Arc<str>,
        /// Byte offset there.
        at: u64,
    },
    /// `fallocate(FALLOC_FL_ZERO_RANGE)`, or with `unmap` `FALLOC_FL_PUNCH_HOLE`
    Zero {
        /// Whether the range may become a hole.
        unmap: bool,
    },
    /// `fallocate(FALLOC_FL_PUNCH_HOLE)`
    Discard,
    /// `fdatasync`
    Flush,
    /// `ftruncate`
    Truncate,
    /// A null device that only takes its time.
    Nothing,
}

/// A request in flight below the lowest node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceRequest {
    /// Its number, the lowest free one.
    pub id: ReqId,
    /// The protocol node that sent it.
    pub node: NodeId,
    /// What is to be done.
    pub op: DeviceOp,
    /// Byte offset in the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// When it was sent.
    pub sent: Nanos,
    /// When it will be done; chosen at the first look after it was sent.
    pub due: Option<Nanos>,
    /// The coroutine that waits for it.
    pub co: CoId,
    /// What came of it, if a worker thread has done it already and nobody has noticed yet.
    pub worked: Option<Box<Val>>,
}

/// What a timer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimerKind {
    /// `job.c:job_sleep_timer_cb`
    JobSleep(JobId),
    /// `util/qemu-coroutine-sleep.c:co_sleep_cb`
    CoSleep(CoId),
    /// `block/throttle-groups.c:timer_cb`; for writes, or for reads.
    Throttle(super::block::driver::throttle::Member, bool),
}

/// A timer of `QEMU_CLOCK_REALTIME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Timer {
    /// When it fires.
    pub deadline: Nanos,
    /// What it does then.
    pub kind: TimerKind,
}

/// Until when the main thread polls (`AIO_WAIT_WHILE`): it goes on while the condition holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cond {
    /// `bdrv_drain_poll_top_level`
    Drain(NodeId),
    /// `bdrv_drain_all_poll`
    DrainAll,
    /// `bdrv_graph_wrlock`: readers are about.
    Readers,
    /// A coroutine has not left its result yet.
    Cell(CellId),
    /// `job_finish_sync_locked`: enters the job, then looks whether it is completed.
    JobCompleted(JobId),
    /// `blk_drain`
    Backend(super::arena::BackendId),
    /// `wait_break`: no request is suspended under this tag. Where nobody suspends any, it waits for ever.
    Break(Option<NodeId>, Arc<str>),
}

/// Event-loop state of the process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Aio {
    /// Coroutines were found not to yield any more.
    pub starved: bool,
    /// Bottom halves of `qemu_aio_context`.
    pub main: BhQueue,
    /// Bottom halves of `iohandler_ctx`.
    pub iohandler: BhQueue,
    /// Requests in flight, oldest first.
    pub in_flight: Vec<DeviceRequest>,
    /// Timers in the order they were set.
    pub timers: Vec<Timer>,
    /// Cells that polling main frames wait for.
    pub cells: Vec<Option<Val>>,
    /// `bdrv_graph` reader count.
    pub readers: u32,
    /// Whether the graph is locked for writing.
    pub has_writer: bool,
    /// Coroutines of the running coroutine's `co_queue_wakeup`.
    wakeups: Vec<CoId>,
    /// The running coroutine.
    pub current: Option<CoId>,
    /// Orders are open and times are not: any request in flight may be done next, and only timers move the clock.
    pub order: bool,
    /// Where they are, requests may be found done between bottom halves, too.
    pub bh_order: bool,
    /// Where faults strike is open.
    pub faults: bool,
    /// `bdrv_close_all` is under way: what coroutines wait for is gone.
    pub closing: bool,
    /// The coroutine that waits for the real host.
    pub host_waiter: Option<CoId>,
    /// Stacks of coroutines that are gone.
    spare_stacks: Spare<Frame>,
}

/// Virtual time that one round of the event loop takes, so that no loop is free.
const ROUND: Nanos = MICROS;
/// The last time at which a timer goes off, in 146 years: so times can be added to each other.
const LAST: Nanos = 1 << 62;

impl World {
    /// `aio_bh_schedule_oneshot(qemu_get_aio_context(), ...)`
    pub fn bh_schedule(&mut self, bh: Bh) {
        if let Some(work) = bh.work() {
            self.trace.keep_cause(work);
        }
        self.aio.main.schedule(bh);
    }

    /// `qemu_coroutine_create`: a coroutine that will run `frames`, the last one first.
    pub fn co_create<const N: usize>(&mut self, frames: [Frame; N]) -> CoId {
        let task = self.aio.current.map_or(Subject::PROCESS, |co| self.cos[co].task);
        let mut stack = self.aio.spare_stacks.take();
        stack.extend(frames);
        self.cos.insert(Coroutine {
            frames: stack,
            reg: Val::None,
            wait: None,
            ctx: Ctx::Main,
            running: false,
            scheduled: false,
            task,
        })
    }

    /// `aio_co_schedule`
    pub fn aio_co_schedule(&mut self, ctx: Ctx, co: CoId) {
        let coroutine = &mut self.cos[co];
        assert!(!coroutine.scheduled, "{co:?} was already scheduled");
        coroutine.scheduled = true;
        self.trace.keep_cause(Later::Co(co.0));
        let queue = match ctx {
            Ctx::Main => &mut self.aio.main,
            Ctx::Iohandler => &mut self.aio.iohandler,
        };
        if queue.scheduled_coroutines.is_empty() {
            queue.schedule(Bh::CoSchedule);
        }
        queue.scheduled_coroutines.push(co);
    }

    /// `aio_co_wake`: enters the coroutine, or queues it behind the running one.
    pub fn aio_co_wake(&mut self, co: CoId) {
        if self.cos[co].ctx != Ctx::Main {
            self.aio_co_schedule(Ctx::Iohandler, co);
        } else if self.aio.current.is_some() {
            self.aio.wakeups.push(co);
            self.trace.keep_cause(Later::Co(co.0));
        } else {
            self.co_enter(co, Ctx::Main);
        }
    }

    /// Leaves a result for a waiting coroutine and wakes it.
    pub fn wake_with(&mut self, co: CoId, value: Val) {
        self.cos[co].reg = value;
        self.aio_co_wake(co);
    }

    /// `qemu_aio_coroutine_enter`: runs the coroutine until it yields, then those it woke, depth first.
    pub fn co_enter(&mut self, co: CoId, ctx: Ctx) {
        let mut pending = self.co_run(co, ctx);
        // Those woken last go first; the list is almost always empty.
        pending.reverse();
        let before = self.out.len();
        while let Some(next) = pending.pop() {
            if self.starves(before) {
                return;
            }
            let woken = self.co_run(next, ctx);
            pending.extend(woken.into_iter().rev());
        }
    }

    /// Runs one coroutine until it yields or ends. Gives those that it woke, in order.
    fn co_run(&mut self, to: CoId, ctx: Ctx) -> Vec<CoId> {
        let coroutine = &mut self.cos[to];
        assert!(!coroutine.running, "{to:?} re-entered recursively");
        assert!(!coroutine.scheduled, "{to:?} entered while it is scheduled");
        coroutine.running = true;
        coroutine.ctx = ctx;
        coroutine.wait = None;
        let before = self.trace.cause();
        self.trace.take_cause(Later::Co(to.0));
        let frames = std::mem::take(&mut coroutine.frames);
        let reg = std::mem::take(&mut coroutine.reg);
        let caller = self.aio.current.replace(to);
        let caller_frames = std::mem::replace(&mut self.stack, frames);
        let caller_reg = std::mem::replace(&mut self.reg, reg);
        let caller_wakeups = std::mem::take(&mut self.aio.wakeups);
        let wait = self.run_frames();
        let woken = std::mem::replace(&mut self.aio.wakeups, caller_wakeups);
        let frames = std::mem::replace(&mut self.stack, caller_frames);
        self.reg = caller_reg;
        self.aio.current = caller;
        self.trace.set_cause(before);
        match wait {
            Some(wait) => {
                let coroutine = &mut self.cos[to];
                coroutine.frames = frames;
                coroutine.running = false;
                coroutine.wait = Some(wait);
            }
            None => {
                self.cos.remove(to);
                self.aio.spare_stacks.give(frames);
            }
        }
        woken
    }

    fn run_frames(&mut self) -> Option<Wait> {
        let before = self.out.len();
        while let Some(frame) = self.stack.pop() {
            self.steps += 1;
            if let Flow::Yield(wait) = frame.run(self) {
                return Some(wait);
            }
            if self.starves(before) {
                return Some(Wait::Queue("nothing: it does not yield"));
            }
        }
        None
    }

    /// Pushes frames so that they run in the order given.
    pub fn seq<const N: usize>(&mut self, frames: [Frame; N]) -> Flow {
        self.stack.extend(frames.into_iter().rev());
        Flow::Go
    }

    /// Ends the running frame with a result for the one below.
    pub fn ret(&mut self, value: Val) -> Flow {
        self.reg = value;
        Flow::Go
    }

    /// The running coroutine.
    ///
    /// # Panics
    /// Outside of coroutine context.
    #[must_use]
    pub fn current(&self) -> CoId {
        self.aio.current.expect("only in coroutine context")
    }

    /// From the main thread: runs `frame` in a new coroutine and polls for its result (QEMU's generated `co_wrapper`s).
    pub fn run_co(&mut self, frame: Frame) -> Flow {
        if self.aio.current.is_some() {
            return self.seq([frame]);
        }
        let cell = self.new_cell();
        let co = self.co_create([Frame::CoReturn(cell), frame]);
        self.seq([Frame::Enter(co), Frame::Poll(Cond::Cell(cell)), Frame::TakeCell(cell)])
    }

    /// A fresh cell for a result.
    pub fn new_cell(&mut self) -> CellId {
        let free = self.aio.cells.iter().position(|cell| cell == &Some(Val::Free));
        let slot = free.unwrap_or_else(|| {
            self.aio.cells.push(None);
            self.aio.cells.len() - 1
        });
        self.aio.cells[slot] = None;
        CellId(u32::try_from(slot).expect("few cells"))
    }

    /// Takes the result out of a cell and frees it.
    pub fn take_cell(&mut self, cell: CellId) -> Val {
        let slot = cell.0 as usize;
        let value = self.aio.cells[slot].replace(Val::Free).expect("the cell was filled");
        while self.aio.cells.last() == Some(&Some(Val::Free)) {
            self.aio.cells.pop();
        }
        value
    }

    /// `timer_mod`
    pub fn timer_set(&mut self, deadline: Nanos, kind: TimerKind) {
        self.timer_del(kind);
        self.trace.keep_cause(match kind {
            TimerKind::JobSleep(job) => Later::JobSleep(job.0),
            TimerKind::CoSleep(co) => Later::CoSleep(co.0),
            TimerKind::Throttle(who, write) => Later::Throttle(who.number(), write),
        });
        // A timer that is further away than all times is one that never goes off.
        self.aio.timers.push(Timer { deadline: deadline.min(LAST.max(self.now)), kind });
    }

    /// `timer_del`
    pub fn timer_del(&mut self, kind: TimerKind) {
        self.aio.timers.retain(|t| t.kind != kind);
    }

    /// `timer_pending`
    #[must_use]
    pub fn timer_pending(&self, kind: TimerKind) -> bool {
        self.aio.timers.iter().any(|t| t.kind == kind)
    }

    fn poll_holds(&mut self, cond: &Cond) -> bool {
        match cond {
            Cond::Drain(bs) => self.bdrv_drain_poll(*bs, false),
            Cond::DrainAll => {
                let all: Vec<NodeId> = self.graph.all_states();
                all.into_iter().any(|bs| self.bdrv_drain_poll(bs, true))
            }
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

    /// The work of [`World::step`].
    pub(super) fn dispatch(&mut self, choose: &mut dyn Choose) -> Stepped {
        assert!(self.aio.current.is_none());
        self.monitor.goes_on();
        if self.aio.faults {
            self.place_faults(choose);
        }
        if self.host_answers() {
            return Stepped::Ran;
        }
        let mut ran = false;
        while let Some(frame) = self.stack.pop() {
            self.steps += 1;
            if matches!(frame, Frame::Idle) {
                self.stack.push(frame);
                return Stepped::Ran;
            }
            if let Frame::Poll(cond) = frame {
                if ran && self.aio.order {
                    self.stack.push(Frame::Poll(cond));
                    return Stepped::Ran;
                }
                ran = true;
                if self.poll_holds(&cond) {
                    self.trace.keep_cause(Later::Poll(self.stack.len() as u32));
                    self.stack.push(Frame::Poll(cond));
                    return if self.aio_poll(choose) { Stepped::Ran } else { Stepped::Hang };
                }
                self.reg = Val::None;
                self.trace.take_cause(Later::Poll(self.stack.len() as u32));
            } else if let Frame::More | Frame::MoreHere | Frame::MoreBetween = frame {
                let matters = match frame {
                    Frame::More => self.more_matters(),
                    _ => !self.aio.in_flight.is_empty(),
                };
                if !matters {
                    return Stepped::Ran;
                }
                let point =
                    if matches!(frame, Frame::MoreBetween) { ChoicePoint::BhOrder } else { ChoicePoint::WorkNext };
                self.stack.push(frame);
                if ran {
                    return Stepped::Ran;
                }
                ran = true;
                self.ask_for_more(choose, point);
            } else if let Frame::Complete(id) = frame
                && self.host_works_first(id)
            {
                return Stepped::Ran;
            } else if let Frame::Complete(id) = frame
                && self.another_may_have_worked(id)
            {
                self.stack.push(frame);
                if ran {
                    return Stepped::Ran;
                }
                ran = true;
                self.ask_who_worked_first(choose, id);
            } else {
                ran = true;
                frame.run(self);
                // A nested `aio_bh_poll` may have to look at the clock again; worlds are cloned only between steps. A file of the
                // real host is brought in between two steps as well.
                if self.stack.is_empty() || self.files.waits() || self.aio.starved {
                    return Stepped::Ran;
                }
            }
        }
        self.main_loop_wait(choose)
    }

    /// `aio_poll(qemu_get_aio_context(), true)`
    fn aio_poll(&mut self, choose: &mut dyn Choose) -> bool {
        self.now = self.now.saturating_add(if self.aio.order { 0 } else { ROUND });
        if self.aio.main.ready() {
            self.poll_nonblocking(choose);
            return true;
        }
        self.block_for_event(choose)
    }

    /// `os_host_main_loop_wait`: the sources of both contexts, `qemu_aio_context` first.
    fn main_loop_wait(&mut self, choose: &mut dyn Choose) -> Stepped {
        self.now = self.now.saturating_add(if self.aio.order { 0 } else { ROUND });
        if self.aio.main.ready() || self.aio.iohandler.ready() {
            if self.aio.iohandler.ready() {
                self.aio.iohandler.begin_poll();
                self.stack.push(Frame::BhLoop(Ctx::Iohandler));
            }
            self.poll_nonblocking(choose);
            return Stepped::Ran;
        }
        if self.block_for_event(choose) { Stepped::Ran } else { Stepped::Idle }
    }

    fn poll_nonblocking(&mut self, choose: &mut dyn Choose) {
        if self.aio.order {
            return self.poll_in_any_order(choose);
        }
        self.assign_latencies(choose);
        if self.aio.main.ready() {
            self.aio.main.begin_poll();
            self.seq([Frame::BhLoop(Ctx::Main), Frame::Handlers]);
        } else {
            self.stack.push(Frame::Handlers);
        }
        // A request may be done just when this round begins: its completion is the newest bottom half then.
        if !self.aio.in_flight.is_empty() {
            let among = u32::try_from(self.aio.in_flight.len()).expect("few requests") + 1;
            let order = self.by_due();
            let of =
                |i: u32| if i == 0 { self.subject(Subject::PROCESS) } else { self.subject_of(order[i as usize - 1]) };
            let about = &mut |alternative| self.alternative_who(alternative as usize - 1);
            let pick = choose.choose_of(ChoicePoint::WorkNext, among, &of, about);
            if pick > 0 {
                self.stack.push(Frame::Complete(order[pick as usize - 1]));
            }
        }
    }

    /// `Frame::BhLoop`: `aio_bh_poll`, one bottom half at a time.
    pub(in crate::world) fn bh_loop(&mut self, ctx: Ctx) -> Flow {
        let queue = match ctx {
            Ctx::Main => &mut self.aio.main,
            Ctx::Iohandler => &mut self.aio.iohandler,
        };
        let Some(bh) = queue.next() else { return Flow::Go };
        let more = queue.is_amid() && self.aio.order && self.aio.bh_order;
        self.stack.push(Frame::BhLoop(ctx));
        if more {
            self.stack.push(Frame::MoreBetween);
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

    fn run_bh(&mut self, bh: Bh, ctx: Ctx) -> Flow {
        self.trace.set_cause(None);
        match bh.work() {
            Some(Later::Command) => self.trace.set_cause(self.trace.kept_cause(Later::Command)),
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
            Bh::JobExit(job) => self.seq([Frame::JobExit(job)]),
            Bh::BdrvUnref(bs) => self.seq([Frame::BdrvUnref(bs)]),
            Bh::CoCall(..) if self.aio.closing => Flow::Go,
            Bh::CoDrain { co, bs, begin } => self.co_drain(co, bs, begin),
            Bh::QmpPop | Bh::QmpDispatch | Bh::QmpReply => self.monitor_bh(&bh, ctx),
            Bh::CoCall(co, frame) => self.seq([*frame, Frame::WakeWithReg(co)]),
        }
    }

    /// Blocks until a request is done or a timer is due, and handles that one.
    fn block_for_event(&mut self, choose: &mut dyn Choose) -> bool {
        if self.aio.order {
            return self.block_for_any_event(choose);
        }
        self.assign_latencies(choose);
        let timer = self.next_timer().cloned();
        let requests = self.aio.in_flight.len();
        let (first, due) = match self.aio.in_flight.iter().min_by_key(|r| r.due) {
            Some(request) => (Some(request.id), request.due.unwrap_or(Nanos::MAX)),
            None => (None, Nanos::MAX),
        };
        let timer_first = timer.as_ref().is_some_and(|t| t.deadline < due);
        let among = requests + usize::from(timer.is_some());
        if among == 0 {
            return false;
        }
        // The alternatives: requests as they are due, and the timer (`None`) among them. A calm loop needs no list.
        let nth = |order: &[ReqId], pick: usize| match (timer_first, pick) {
            (true, 0) => None,
            (true, pick) => Some(order[pick - 1]),
            (false, pick) => order.get(pick).copied(),
        };
        let mut pick = 0;
        let mut picked = if timer_first { None } else { first };
        if among > 1 {
            let order = self.by_due();
            let of = |i: u32| match nth(&order, i as usize) {
                Some(request) => self.subject_of(request),
                None => self.subject_of_timer(timer.as_ref()),
            };
            let about = &mut |i: u32| match nth(&order, i as usize) {
                Some(request) => self.who_of(request),
                None => self.timer_who(timer.as_ref()),
            };
            pick = choose.choose_of(ChoicePoint::CompleteNext, u32::try_from(among).expect("few requests"), &of, about);
            picked = nth(&order, pick as usize);
        }
        if picked.is_none() && choose.sleeps_wait() {
            if requests == 0 {
                return false;
            }
            // The request that is done first goes before the timer.
            pick = u32::from(timer_first);
            choose.amend(pick);
            picked = first;
        }
        match (picked, timer) {
            (Some(id), _) => {
                if pick == 0 {
                    self.now = self.now.max(due);
                }
                self.stack.push(Frame::Complete(id));
            }
            (None, Some(timer)) => {
                self.now = self.now.max(timer.deadline);
                self.stack.push(Frame::RunTimers);
            }
            (None, None) => unreachable!("an alternative was picked that was not offered"),
        }
        true
    }

    /// `Frame::Handlers`: requests that are done by now, then timers that are due.
    pub(in crate::world) fn handlers(&mut self) -> Flow {
        let done = self.aio.in_flight.iter().filter(|r| r.due.is_some_and(|due| due <= self.now));
        // The first of those that are due at the same time is the oldest.
        match done.min_by_key(|r| r.due).map(|r| r.id) {
            Some(id) => self.seq([Frame::Complete(id), Frame::Handlers]),
            None => self.run_timers(),
        }
    }

    /// `timerlistgroup_run_timers`
    pub(in crate::world) fn run_timers(&mut self) -> Flow {
        let Some(timer) = self.next_timer().filter(|t| t.deadline <= self.now).cloned() else {
            return Flow::Go;
        };
        self.timer_del(timer.kind);
        self.stack.push(Frame::RunTimers);
        self.trace.set_cause(None);
        match timer.kind {
            TimerKind::JobSleep(job) => {
                self.trace.take_cause(Later::JobSleep(job.0));
                self.job_enter(job);
            }
            TimerKind::CoSleep(co) => {
                self.trace.take_cause(Later::CoSleep(co.0));
                self.aio_co_wake(co);
            }
            TimerKind::Throttle(who, write) => {
                self.trace.take_cause(Later::Throttle(who.number(), write));
                self.throttle_timer(who, write);
            }
        }
        Flow::Go
    }

    /// Yields the running coroutine and has it entered again in the next round (`qemu_co_sleep`-free rescheduling).
    pub fn co_reschedule(&mut self) -> Flow {
        let co = self.current();
        self.aio_co_schedule(Ctx::Main, co);
        Flow::Yield(Wait::Reschedule)
    }

    /// Runs a main-thread frame on behalf of the running coroutine and yields until it is done.
    pub fn co_call_main(&mut self, frame: Frame, what: &'static str) -> Flow {
        let co = self.current();
        self.bh_schedule(Bh::CoCall(co, Box::new(frame)));
        Flow::Yield(Wait::Bh(what))
    }
}
