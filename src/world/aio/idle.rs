//! What those who drive a world ask of its event loop: whether it rests, and until when.

use super::step::Cond;
use super::timer::TimerKind;
use crate::base::time::{Instant, Rebase, Shift};
use crate::choice::Choose;
use crate::world::World;
use crate::world::frame::Frame;

/// Messages that coroutines may put out before they yield.
const STARVED: usize = 5_000;

/// What is said of a process that [`World::starves`].
pub(in crate::world) fn hang_text() -> String {
    format!(
        "the process hangs: its main loop does not go on, while coroutines put out more than {STARVED} messages (the limit)"
    )
}

impl World {
    /// Whether the main loop (not a nested poll) is what would run next.
    #[must_use]
    pub fn in_main_loop(&self) -> bool {
        self.aio.stack.is_empty() && !self.aio.starved
    }

    /// Whether the main thread polls for something that others have to bring: nothing is ready, and nothing is in flight.
    #[must_use]
    pub fn polls_in_vain(&self) -> bool {
        matches!(self.aio.stack.last(), Some(Frame::Poll(_))) && !self.aio.main.ready() && self.aio.in_flight.is_empty()
    }

    /// Whether nothing is ready and nothing is in flight: only timers can still go off, and not yet. A job that sleeps for no time, as a
    /// stream does before each chunk, does not rest.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        let is_due = |timer: Instant| timer <= self.now;
        self.in_main_loop()
            && !self.aio.main.ready()
            && !self.aio.iohandler.ready()
            && self.aio.in_flight.is_empty()
            && !self.next_timer().is_some_and(|timer| is_due(timer.deadline))
    }

    /// Whether orders are open, and the main loop waits for requests and timers, or is in a round with bottom halves to run and nothing else.
    /// Then the number of the alternative that is the oldest request.
    #[must_use]
    pub fn looks_at_requests(&self) -> Option<u32> {
        let odd = self.aio.faults || self.aio.bh_order || self.aio.closing || self.aio.starved || self.quitting;
        if !self.aio.order || odd || self.files.waits() {
            return None;
        }
        if self.aio.stack.is_empty() && !self.anything_ready() {
            return Some(0);
        }
        let round =
            self.aio.stack.iter().all(|frame| matches!(frame, Frame::Handlers | Frame::More | Frame::BhLoop(_)));
        let asks = matches!(self.aio.stack.last(), None | Some(Frame::More));
        let due = self.next_timer().is_some_and(|timer| timer.deadline <= self.now);
        (round && asks && !due && self.monitor.clients.len() == 1).then_some(1)
    }

    /// The timers with their deadlines, in the order they were set.
    pub fn timers(&self) -> impl Iterator<Item = (TimerKind, Instant)> {
        self.aio.timers.iter().map(|t| (t.kind, t.deadline))
    }

    /// When the next timer or request is due, for whoever paces the world against a wall clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let timer = self.next_timer().map(|t| t.deadline);
        let request = self.aio.in_flight.iter().filter_map(|r| r.due).min();
        timer.into_iter().chain(request).min()
    }

    /// Until when the main thread would block now, nothing being ready; `None` if it has something to do, or nothing to wait for. Says of
    /// each request when it is due, as the loop would do next.
    pub fn blocks_until(&mut self, choose: &mut dyn Choose) -> Option<Instant> {
        if self.aio.order || self.aio.starved || self.aio.main.ready() || self.files.waits() {
            return None;
        }
        let blocks = match self.aio.stack.last() {
            None => !self.aio.iohandler.ready(),
            // To ask whether the job is completed enters it.
            Some(Frame::Poll(Cond::JobCompleted(_))) => false,
            Some(Frame::Poll(cond)) => {
                let cond = cond.clone();
                self.poll_holds(&cond)
            }
            Some(_) => false,
        };
        if !blocks {
            return None;
        }
        self.assign_latencies(choose);
        self.next_deadline()
    }

    /// Whether coroutines put out message after message and do not yield, so that the main loop does not go on: a job that ignores errors
    /// which come at once and do not end. QEMU runs on for ever, and answers nobody; the model's process stands still from then on.
    #[inline]
    pub(super) fn starves(&mut self, before: usize) -> bool {
        if self.out.len().saturating_sub(before) > STARVED {
            self.starved();
        }
        self.aio.starved
    }

    #[cold]
    fn starved(&mut self) {
        if !self.aio.starved {
            self.aio.starved = true;
            self.error_report(&hang_text());
        }
    }
}

/// When the disk has done all that it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct DiskFree(pub(super) Instant);

impl Rebase for DiskFree {
    fn has_instants(&self) -> bool {
        true
    }

    /// A disk that has nothing to do is as one that never had.
    fn rebase(&mut self, shift: Shift) {
        self.0 = if self.0 <= shift.from { Instant::START } else { shift.of(self.0) };
    }
}
