//! The event loop: bottom halves, coroutines, timers, requests in flight, and the main thread's stack
//! (`util/async.c`, `util/aio-posix.c`, `util/qemu-coroutine.c`).
//!
//! The main thread's C stack and every coroutine's stack are vectors of [`Frame`]s, so a nested `aio_poll` is data like all else.

pub mod coroutine;
pub mod device;
pub(in crate::world) mod idle;
pub(super) mod latency;
pub(super) mod open_orders;
pub mod queue;
pub(in crate::world) mod stack;
pub mod step;
pub(super) mod subjects;
pub mod timer;

use crate::base::Spare;
use crate::base::time::Instant;
use crate::choice::{ChoicePoint, Choose};
use crate::trace::LaterWork;
use crate::world::World;
use crate::world::arena::CoId;
use crate::world::frame::Frame;
use crate::world::value::Val;
use device::DeviceRequest;
use queue::BhQueue;
pub use step::Stepped;
use timer::Timer;

/// Event-loop state of the process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Aio {
    /// The running stack: the main thread's between steps.
    stack: Vec<Frame>,
    /// The register: what the last frame left for the next.
    reg: Val,
    /// Coroutines were found not to yield any more.
    pub starved: bool,
    /// Bottom halves of `qemu_aio_context`.
    pub main: BhQueue,
    /// Bottom halves of `iohandler_ctx`.
    pub iohandler: BhQueue,
    /// Requests in flight, oldest first.
    pub in_flight: Vec<DeviceRequest>,
    /// Where the disk has rates: when it has done all that it was sent.
    disk_free: idle::DiskFree,
    /// Timers in the order they were set.
    pub timers: Vec<Timer>,
    /// Cells that polling main frames wait for.
    pub cells: Vec<Option<Val>>,
    /// `bdrv_graph` reader count.
    pub readers: u32,
    /// Whether the graph is locked for writing.
    pub has_writer: bool,
    /// `co_queue_wakeup` of the running coroutine, above those of its callers; nobody's between steps.
    wakeups: Vec<CoId>,
    /// `qemu_coroutine_self()`; `None` outside of coroutines.
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

crate::base::time::rebase!(Aio {
    moves: stack, main, iohandler, in_flight, disk_free, timers;
    // Stacks without frames.
    stays: spare_stacks;
    rest: reg, starved, cells, readers, has_writer, wakeups, current, order, bh_order, faults,
        closing, host_waiter
});

/// The last time at which a timer goes off, in 146 years: so times can be added to each other.
const LAST: Instant = Instant::from_nanos(1 << 62);

impl World {
    /// The work of [`World::step`].
    fn dispatch(&mut self, choose: &mut dyn Choose) -> Stepped {
        assert!(self.aio.current.is_none());
        self.monitor.goes_on();
        if self.aio.faults {
            self.place_faults(choose);
        }
        if self.host_answers() {
            return Stepped::Ran;
        }
        let mut ran = false;
        while let Some(top) = self.aio.stack.last() {
            if self.steps > self.most_steps {
                return Stepped::Ran;
            }
            self.steps += 1;
            match *top {
                Frame::Idle => return Stepped::Ran,
                Frame::Poll(ref cond) => {
                    if ran && self.aio.order {
                        return Stepped::Ran;
                    }
                    ran = true;
                    let cond = cond.clone();
                    let below = self.aio.stack.len() - 1;
                    let holds = self.poll_holds(&cond);
                    assert!(
                        self.aio.stack.len() == below + 1,
                        "who looks whether to poll on calls nothing on the main stack"
                    );
                    if holds {
                        self.trace.keep_cause(LaterWork::Poll(below as u32));
                        return if self.aio_poll(choose) { Stepped::Ran } else { Stepped::Hang };
                    }
                    self.pop();
                    self.leave(Val::None);
                    self.trace.take_cause(LaterWork::Poll(below as u32));
                    continue;
                }
                Frame::More | Frame::MoreHere | Frame::MoreBetween => {
                    let point = match top {
                        Frame::MoreBetween => ChoicePoint::BhOrder,
                        _ => ChoicePoint::WorkNext,
                    };
                    let matters = match top {
                        Frame::More => self.more_matters(),
                        _ => !self.aio.in_flight.is_empty(),
                    };
                    if !matters {
                        self.pop();
                        return Stepped::Ran;
                    }
                    if ran {
                        return Stepped::Ran;
                    }
                    ran = true;
                    self.ask_for_more(choose, point);
                    continue;
                }
                Frame::Complete(id) => {
                    if self.host_works_first(id) {
                        return Stepped::Ran;
                    }
                    if self.another_may_have_worked(id) {
                        if ran {
                            return Stepped::Ran;
                        }
                        ran = true;
                        self.ask_who_worked_first(choose, id);
                        continue;
                    }
                }
                _ => {}
            }
            ran = true;
            self.pop().call(self);
            // A nested `aio_bh_poll` may have to look at the clock again; worlds are cloned only between steps. A file of the
            // real host is brought in between two steps as well.
            if self.aio.stack.is_empty() || self.files.waits() || self.nbd_asks_host() || self.aio.starved {
                return Stepped::Ran;
            }
        }
        self.main_loop_wait(choose)
    }
}
