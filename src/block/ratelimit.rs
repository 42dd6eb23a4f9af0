//! How fast a job may go (`include/qemu/ratelimit.h`).

use crate::base::time::{Instant, Rebase, Shift, Span, timeless};

/// `BLOCK_JOB_SLICE_TIME`
const SLICE_TIME: Span = Span::from_millis(100);

/// `RateLimit` (`include/qemu/ratelimit.h`)
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Bytes a slice; 0 before a speed was set.
    quota: u64,
    slice_start: Instant,
    slice_end: Instant,
    dispatched: u64,
    unlimited: bool,
}

impl RateLimit {
    /// `ratelimit_set_speed` with slices of 100 ms; 0 is unlimited.
    pub fn set_speed(&mut self, speed: u64) {
        self.unlimited = speed == 0;
        self.quota = (speed / (Span::SECOND.as_nanos() / SLICE_TIME.as_nanos())).max(1);
    }

    /// `ratelimit_calculate_delay`: books `n` bytes and says how long to wait before the next.
    pub fn calculate_delay(&mut self, now: Instant, n: u64) -> Span {
        if self.unlimited || self.quota == 0 {
            return Span::ZERO;
        }
        if self.slice_end < now {
            self.slice_start = now;
            self.slice_end = now + SLICE_TIME;
            self.dispatched = 0;
        }
        self.dispatched = self.dispatched.saturating_add(n);
        if self.dispatched < self.quota {
            return Span::ZERO;
        }
        // QEMU computes dispatched / quota in floating point and cuts the product to whole nanoseconds.
        let slices = u128::from(self.dispatched) * u128::from(SLICE_TIME.as_nanos()) / u128::from(self.quota);
        self.slice_end = self.slice_start + Span::from_nanos(u64::try_from(slices).unwrap_or(u64::MAX / 2));
        self.slice_end - now
    }
}

/// What a slice that is over was like no longer matters.
impl Rebase for RateLimit {
    fn has_instants(&self) -> bool {
        (self.slice_start, self.slice_end, self.dispatched) != (Instant::START, Instant::START, 0)
    }

    fn rebase(&mut self, shift: Shift) {
        let RateLimit { quota, slice_start, slice_end, dispatched, unlimited } = self;
        timeless(&(quota, unlimited));
        if *slice_end < shift.from {
            (*slice_start, *slice_end, *dispatched) = (Instant::START, Instant::START, 0);
        } else {
            slice_start.rebase(shift);
            slice_end.rebase(shift);
        }
    }
}
