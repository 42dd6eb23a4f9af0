//! What those who drive a world ask of its event loop: whether it rests, and until when.

use super::timer::TimerKind;
use crate::base::units::Nanos;
use crate::world::World;

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

    /// Whether nothing is ready and nothing is in flight: only timers can still go off.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        self.in_main_loop() && !self.aio.main.ready() && !self.aio.iohandler.ready() && self.aio.in_flight.is_empty()
    }

    /// The timers with their deadlines, in the order they were set.
    pub fn timers(&self) -> impl Iterator<Item = (TimerKind, Nanos)> {
        self.aio.timers.iter().map(|t| (t.kind, t.deadline))
    }

    /// When the next timer or request is due, for whoever paces the world against a wall clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        let timer = self.next_timer().map(|t| t.deadline);
        let request = self.aio.in_flight.iter().filter_map(|r| r.due).min();
        timer.into_iter().chain(request).min()
    }

    /// Whether coroutines put out message after message and do not yield, so that the main loop does not go on: a job that ignores errors
    /// which come at once and do not end. QEMU runs on for ever, and answers nobody; the model's process stands still from then on.
    pub(super) fn starves(&mut self, before: usize) -> bool {
        if self.out.len().saturating_sub(before) > STARVED && !self.aio.starved {
            self.aio.starved = true;
            self.error_report(&hang_text());
        }
        self.aio.starved
    }
}
