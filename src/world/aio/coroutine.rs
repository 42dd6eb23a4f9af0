//! Coroutines: made, entered, woken (`util/qemu-coroutine.c`, `util/async.c`).

use super::queue::{Bh, Ctx};
use super::step::Cond;
use crate::choice::Subject;
use crate::trace::LaterWork;
use crate::world::World;
use crate::world::arena::{CellId, CoId, JobId, ReqId};
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

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

crate::base::time::rebase!(Coroutine {
    moves: frames;
    rest: reg, wait, ctx, running, scheduled, task
});

impl World {
    /// `qemu_coroutine_create`: a coroutine that will run `frames`, the last one first.
    pub(in crate::world) fn co_create<const N: usize>(&mut self, frames: [Frame; N]) -> CoId {
        let task = self.aio.current.map_or(Subject::PROCESS, |co| self.cos[co].task);
        let mut stack = self.aio.spare_stacks.take();
        // As deep as that of a request to a qcow2 image.
        stack.reserve(12);
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
    pub(in crate::world) fn aio_co_schedule(&mut self, ctx: Ctx, co: CoId) {
        let coroutine = &mut self.cos[co];
        assert!(!coroutine.scheduled, "{co:?} was already scheduled");
        coroutine.scheduled = true;
        self.trace.keep_cause(LaterWork::Co(co.0));
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
    pub(in crate::world) fn aio_co_wake(&mut self, co: CoId) {
        if self.cos[co].ctx != Ctx::Main {
            self.aio_co_schedule(Ctx::Iohandler, co);
        } else if self.aio.current.is_some() {
            self.aio.wakeups.push(co);
            self.trace.keep_cause(LaterWork::Co(co.0));
        } else {
            self.co_enter(co, Ctx::Main);
        }
    }

    /// Leaves a result for a waiting coroutine and wakes it.
    pub(in crate::world) fn wake_with(&mut self, co: CoId, value: Val) {
        self.cos[co].reg = value;
        self.aio_co_wake(co);
    }

    /// `qemu_aio_coroutine_enter`: runs the coroutine until it yields, then those it woke, depth first.
    pub(in crate::world) fn co_enter(&mut self, co: CoId, ctx: Ctx) {
        // Those that it woke stand above the ones of whoever enters it.
        let others = self.aio.wakeups.len();
        self.co_run(co, ctx);
        // Of those woken by one, the first goes first; the list is almost always empty.
        self.aio.wakeups[others..].reverse();
        let before = self.out.len();
        while self.aio.wakeups.len() > others {
            if self.starves(before) {
                self.aio.wakeups.truncate(others);
                return;
            }
            let next = self.aio.wakeups.pop().expect("there is one");
            let waiting = self.aio.wakeups.len();
            self.co_run(next, ctx);
            self.aio.wakeups[waiting..].reverse();
        }
    }

    /// Runs one coroutine until it yields or ends. It leaves those that it woke, in order, on top of [`Aio::wakeups`](super::Aio).
    fn co_run(&mut self, to: CoId, ctx: Ctx) {
        let coroutine = &mut self.cos[to];
        assert!(!coroutine.running, "{to:?} re-entered recursively");
        assert!(!coroutine.scheduled, "{to:?} entered while it is scheduled");
        coroutine.running = true;
        coroutine.ctx = ctx;
        coroutine.wait = None;
        let before = self.trace.cause();
        self.trace.take_cause(LaterWork::Co(to.0));
        let frames = std::mem::take(&mut coroutine.frames);
        let reg = std::mem::take(&mut coroutine.reg);
        let caller = self.aio.current.replace(to);
        let caller_frames = std::mem::replace(&mut self.aio.stack, frames);
        let caller_reg = std::mem::replace(&mut self.aio.reg, reg);
        let wait = self.run_frames();
        let frames = std::mem::replace(&mut self.aio.stack, caller_frames);
        self.leave(caller_reg);
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
                self.cos.free(to);
                self.aio.spare_stacks.give(frames);
            }
        }
    }

    fn run_frames(&mut self) -> Option<Wait> {
        let before = self.out.len();
        while !self.aio.stack.is_empty() {
            if self.steps > self.most_steps {
                return Some(Wait::Queue("nothing: it has used all steps"));
            }
            self.steps += 1;
            if let Flow::Yield(wait) = self.pop().run(self) {
                return Some(wait);
            }
            if self.starves(before) {
                return Some(Wait::Queue("nothing: it does not yield"));
            }
        }
        None
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
    pub(in crate::world) fn run_co(&mut self, frame: Frame) -> Flow {
        if self.aio.current.is_some() {
            return self.seq([frame]);
        }
        let cell = self.new_cell();
        let co = self.co_create([Frame::CoReturn(cell), frame]);
        self.seq([Frame::Enter(co), Frame::Poll(Cond::Cell(cell)), Frame::TakeCell(cell)])
    }

    /// A fresh cell for a result.
    fn new_cell(&mut self) -> CellId {
        let free = self.aio.cells.iter().position(|cell| cell == &Some(Val::Free));
        let slot = free.unwrap_or_else(|| {
            self.aio.cells.push(None);
            self.aio.cells.len() - 1
        });
        self.aio.cells[slot] = None;
        CellId(u32::try_from(slot).expect("few cells"))
    }

    /// Takes the result out of a cell and frees it.
    pub(in crate::world) fn take_cell(&mut self, cell: CellId) -> Val {
        let slot = cell.0 as usize;
        let value = self.aio.cells[slot].replace(Val::Free).expect("the cell was filled");
        while self.aio.cells.last() == Some(&Some(Val::Free)) {
            self.aio.cells.pop();
        }
        value
    }

    /// Yields the running coroutine and has it entered again in the next round (`qemu_co_sleep`-free rescheduling).
    pub(in crate::world) fn co_reschedule(&mut self) -> Flow {
        let co = self.current();
        self.aio_co_schedule(Ctx::Main, co);
        Flow::Yield(Wait::Reschedule)
    }

    /// Runs a main-thread frame on behalf of the running coroutine and yields until it is done.
    pub(in crate::world) fn co_call_main(&mut self, frame: Frame, what: &'static str) -> Flow {
        let co = self.current();
        self.bh_schedule(Bh::CoCall(co, Box::new(frame)));
        Flow::Yield(Wait::Bh(what))
    }

    /// The same, once the main thread is back in its own loop: whoever polls does not run it.
    pub(in crate::world) fn co_call_main_loop(&mut self, frame: Frame, what: &'static str) -> Flow {
        let call = Bh::CoCall(self.current(), Box::new(frame));
        if let Some(work) = call.work() {
            self.trace.keep_cause(work);
        }
        self.aio.iohandler.schedule(call);
        Flow::Yield(Wait::Bh(what))
    }
}
