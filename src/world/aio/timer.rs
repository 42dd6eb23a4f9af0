//! Timers of the main loop (`util/qemu-timer.c`).

use super::LAST;
use super::device::DeviceRequest;
use crate::base::time::{Instant, Span};
use crate::trace::LaterWork;
use crate::world::World;
use crate::world::arena::{CoId, ConnId, JobId, NodeId};

/// Where orders are open, a request is done before timers that are further away than this, ten minutes: a job that looks every now and then whether it has
/// something to do would keep it waiting for ever.
const PATIENCE: Span = Span::from_secs(600);

/// And it is done when so many timers went off before it: a mirror that is ready looks ten times a second.
const PASSES: u32 = 64;

/// What a timer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimerKind {
    /// `job.c:job_sleep_timer_cb`
    JobSleep(JobId),
    /// `util/qemu-coroutine-sleep.c:co_sleep_cb`
    CoSleep(CoId),
    /// `block/throttle-groups.c:timer_cb`; for writes, or for reads.
    Throttle(crate::world::arena::Member, bool),
    /// `nbd/server.c:nbd_handshake_timer_cb`
    NbdHandshake(ConnId),
    /// `block/nbd.c:open_timer_cb`
    NbdOpen(NodeId),
    /// `block/nbd.c:reconnect_delay_timer_cb`
    NbdDelay(NodeId),
    /// The sleep of `nbd/client-connection.c:connect_thread_func`.
    NbdRetry(NodeId),
}

/// A timer of `QEMU_CLOCK_REALTIME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Timer {
    /// When it fires.
    pub deadline: Instant,
    /// What it does then.
    pub kind: TimerKind,
}

crate::base::time::rebase!(Timer {
    moves: deadline;
    rest: kind
});

impl World {
    /// `timer_mod`
    pub(in crate::world) fn timer_set(&mut self, deadline: Instant, kind: TimerKind) {
        self.timer_del(kind);
        match kind {
            TimerKind::JobSleep(job) => self.trace.keep_cause(LaterWork::JobSleep(job.0)),
            TimerKind::CoSleep(co) => self.trace.keep_cause(LaterWork::CoSleep(co.0)),
            TimerKind::Throttle(who, write) => self.trace.keep_cause(LaterWork::Throttle(who.number(), write)),
            // What it ends is told of by who notices it.
            TimerKind::NbdHandshake(_) | TimerKind::NbdOpen(_) | TimerKind::NbdDelay(_) | TimerKind::NbdRetry(_) => {}
        }
        // A timer that is further away than all times is one that never goes off.
        self.aio.timers.push(Timer { deadline: deadline.min(LAST.max(self.now)), kind });
    }

    /// `timer_del`
    pub(in crate::world) fn timer_del(&mut self, kind: TimerKind) {
        self.aio.timers.retain(|t| t.kind != kind);
    }

    /// `timer_pending`
    #[must_use]
    pub(in crate::world) fn timer_pending(&self, kind: TimerKind) -> bool {
        self.aio.timers.iter().any(|t| t.kind == kind)
    }

    /// The next timer, where it may go off before requests that are in flight: none of them takes longer than [`PATIENCE`], or than
    /// [`PASSES`] timers.
    pub(super) fn timer_on_offer(&self) -> Option<Timer> {
        let next = self.next_timer()?;
        let waits = |request: &DeviceRequest| request.passed >= PASSES || next.deadline > request.sent + PATIENCE;
        (!self.aio.in_flight.iter().any(waits)).then(|| next.clone())
    }

    pub(in crate::world) fn next_timer(&self) -> Option<&Timer> {
        // `min_by_key` gives the first of equals: the one that was set first.
        self.aio.timers.iter().min_by_key(|t| t.deadline)
    }
}
