//! How fast a job may go (`include/qemu/ratelimit.h`).

use crate::base::units::{MILLIS, Nanos, Shift};

/// `BLOCK_JOB_SLICE_TIME`, in nanoseconds.
const SLICE_TIME: Nanos = 100 * MILLIS;

/// `RateLimit` (`include/qemu/ratelimit.h`)
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Bytes a slice; 0 before a speed was set.
    quota: u64,
    slice_start: Nanos,
    slice_end: Nanos,
    dispatched: u64,
    unlimited: bool,
}

impl RateLimit {
    /// `ratelimit_set_speed` with slices of 100 ms; 0 is unlimited.
    pub fn set_speed(&mut self, speed: u64) {
        self.unlimited = speed == 0;
        self.quota = (speed / (1000 * MILLIS / SLICE_TIME)).max(1);
    }

    /// `ratelimit_calculate_delay`: books `n` bytes and says how long to wait before the next.
    pub fn calculate_delay(&mut self, now: Nanos, n: u64) -> Nanos {
        if self.unlimited || self.quota == 0 {
            return 0;
        }
        if self.slice_end < now {
            self.slice_start = now;
            self.slice_end = now.saturating_add(SLICE_TIME);
            self.dispatched = 0;
        }
        self.dispatched = self.dispatched.saturating_add(n);
        if self.dispatched < self.quota {
            return 0;
        }
        // QEMU computes dispatched / quota in floating point and cuts the product to whole nanoseconds.
        let slices = u128::from(self.dispatched) * u128::from(SLICE_TIME) / u128::from(self.quota);
        self.slice_end = self.slice_start.saturating_add(u64::try_from(slices).unwrap_or(u64::MAX / 2));
        self.slice_end.saturating_sub(now)
    }

    /// The clock is set to another time. What a slice that is over was like no longer matters.
    pub fn rebase(&mut self, shift: Shift) {
        if self.slice_end < shift.from {
            (self.slice_start, self.slice_end, self.dispatched) = (0, 0, 0);
        } else {
            self.slice_start = shift.of(self.slice_start);
            self.slice_end = shift.of(self.slice_end);
        }
    }

    /// Whether [`rebase`](RateLimit::rebase) would change anything.
    #[must_use]
    pub fn has_times(&self) -> bool {
        (self.slice_start, self.slice_end, self.dispatched) != (0, 0, 0)
    }
}
