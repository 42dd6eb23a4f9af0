//! The leaky buckets that throttling counts with (`util/throttle.c`).
//!
//! QEMU computes in floating point; here a level is a whole number of billionths, so that nothing depends on rounding.

use crate::base::time::{Instant, Span, rebase};

/// Billionths.
const UNIT: u128 = 1_000_000_000;
/// `THROTTLE_VALUE_MAX`
const VALUE_MAX: u64 = 1_000_000_000_000_000;
/// Names of the buckets, as objects have them.
pub const NAMES: [&str; 6] = ["bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"];

/// What a bucket is set to (`LeakyBucket` without its levels).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Average a second; 0 is no limit.
    pub avg: u64,
    /// Burst a second; 0 is none.
    pub max: u64,
    /// Seconds of a burst.
    pub burst_length: u64,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit { avg: 0, max: 0, burst_length: 1 }
    }
}

/// `ThrottleConfig`, in the order of [`NAMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// See [`NAMES`].
    pub buckets: [Limit; 6],
    /// Bytes that count as one operation; 0 is any number.
    pub op_size: u64,
}

impl Limits {
    /// Sets what `bps-total`, `bps-total-max`, `bps-total-max-length`, `iops-size` and the like name. Other names do nothing.
    pub fn set(&mut self, name: &str, value: u64) {
        if name == "iops-size" {
            self.op_size = value;
            return;
        }
        for (bucket, known) in self.buckets.iter_mut().zip(NAMES) {
            match name.strip_prefix(known) {
                Some("") => bucket.avg = value,
                Some("-max") => bucket.max = value,
                Some("-max-length") => bucket.burst_length = value,
                _ => {}
            }
        }
    }

    /// `throttle_enabled`
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.buckets.iter().any(|bucket| bucket.avg > 0)
    }

    /// `throttle_is_valid`
    ///
    /// # Errors
    /// What contradicts what.
    pub fn check(&self) -> Result<(), String> {
        let fail = |text: &str| Err(text.to_owned());
        let both = |values: [u64; 6]| {
            let [bps, bps_read, bps_write, iops, iops_read, iops_write] = values.map(|value| value > 0);
            bps && (bps_read || bps_write) || iops && (iops_read || iops_write)
        };
        if both(self.buckets.map(|limit| limit.avg)) || both(self.buckets.map(|limit| limit.max)) {
            return fail("bps/iops/max total values and read/write values cannot be used at the same time");
        }
        if self.op_size > 0 && self.buckets[3..].iter().all(|bucket| bucket.avg == 0) {
            return fail("iops size requires an iops value to be set");
        }
        for bucket in &self.buckets {
            if bucket.avg > VALUE_MAX || bucket.max > VALUE_MAX {
                return Err(format!("bps/iops/max values must be within [0, {VALUE_MAX}]"));
            }
            if bucket.burst_length == 0 {
                return fail("the burst length cannot be 0");
            }
            if bucket.burst_length > 1 && bucket.max == 0 {
                return fail("burst length set without burst rate");
            }
            if bucket.max > 0 && bucket.burst_length > VALUE_MAX / bucket.max {
                return fail("burst length too high for this burst rate");
            }
            if bucket.max > 0 && bucket.avg == 0 {
                return fail("bps_max/iops_max require corresponding bps/iops values");
            }
            if bucket.max > 0 && bucket.max < bucket.avg {
                return fail("bps_max/iops_max cannot be lower than bps/iops");
            }
        }
        Ok(())
    }
}

/// `ThrottleState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ThrottleState {
    /// What it is set to.
    pub limits: Limits,
    levels: [u128; 6],
    burst_levels: [u128; 6],
    previous_leak: Instant,
}

impl ThrottleState {
    /// Empty buckets.
    #[must_use]
    pub fn new(limits: Limits) -> ThrottleState {
        ThrottleState { limits, levels: [0; 6], burst_levels: [0; 6], previous_leak: Instant::START }
    }

    /// `throttle_config`
    pub fn configure(&mut self, limits: Limits, now: Instant) {
        *self = ThrottleState { previous_leak: now, ..ThrottleState::new(limits) };
    }

    /// `throttle_do_leak`
    fn leak(&mut self, now: Instant) {
        let passed = u128::from((now - self.previous_leak).as_nanos());
        self.previous_leak = self.previous_leak.max(now);
        for (i, bucket) in self.limits.buckets.iter().enumerate() {
            self.levels[i] = self.levels[i].saturating_sub(u128::from(bucket.avg) * passed);
            if bucket.burst_length > 1 {
                self.burst_levels[i] = self.burst_levels[i].saturating_sub(u128::from(bucket.max) * passed);
            }
        }
    }

    /// `throttle_compute_wait`
    fn bucket_wait(&self, i: usize) -> u128 {
        let Limit { avg, max, burst_length } = self.limits.buckets[i];
        let (avg, max) = (u128::from(avg), u128::from(max));
        if avg == 0 {
            return 0;
        }
        let (size, burst_size) = match max {
            // Short bursts pass in any case.
            0 => (avg * UNIT / 10, 0),
            max => (max * u128::from(burst_length) * UNIT, max * UNIT / 10),
        };
        let extra = self.levels[i].saturating_sub(size);
        if extra > 0 {
            return extra / avg;
        }
        if burst_length > 1 { self.burst_levels[i].saturating_sub(burst_size) / max } else { 0 }
    }

    /// `throttle_schedule_timer`: how long a request of this kind has to wait.
    pub fn wait(&mut self, now: Instant, write: bool) -> Option<Span> {
        self.leak(now);
        let own = if write { 2 } else { 1 };
        let longest = [0, 3, own, 3 + own].into_iter().map(|i| self.bucket_wait(i)).max().unwrap_or(0);
        (longest > 0).then(|| u64::try_from(longest).map_or(Span::MAX, Span::from_nanos))
    }

    /// `throttle_account`
    pub fn account(&mut self, write: bool, bytes: u64) {
        let own = if write { 2 } else { 1 };
        let bytes = u128::from(bytes) * UNIT;
        let units = match u128::from(self.limits.op_size) * UNIT {
            size if size > 0 && bytes > size => bytes * UNIT / size,
            _ => UNIT,
        };
        for (i, amount) in [(0, bytes), (own, bytes), (3, units), (3 + own, units)] {
            self.levels[i] = self.levels[i].saturating_add(amount);
            if self.limits.buckets[i].burst_length > 1 {
                self.burst_levels[i] = self.burst_levels[i].saturating_add(amount);
            }
        }
    }
}

rebase!(ThrottleState { moves: previous_leak; rest: limits, levels, burst_levels });

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(bucket: usize, avg: u64, max: u64, burst_length: u64) -> Limits {
        let mut limits = Limits::default();
        limits.buckets[bucket] = Limit { avg, max, burst_length };
        limits
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn a_tenth_of_a_second_passes_at_once() {
        let mut state = ThrottleState::new(limits(0, 1000, 0, 1));
        state.account(false, 100);
        assert_eq!(state.wait(at(0), false), None);
        state.account(true, 50);
        assert_eq!(state.wait(at(0), true), Some(Span::from_nanos(50_000_000)));
        assert_eq!(state.wait(at(30_000_000), true), Some(Span::from_nanos(20_000_000)));
        assert_eq!(state.wait(at(50_000_000), true), None);
    }

    #[test]
    fn reads_and_writes_have_buckets_of_their_own() {
        let mut state = ThrottleState::new(limits(2, 1000, 0, 1));
        state.account(true, 1000);
        assert_eq!(state.wait(at(0), false), None);
        assert_eq!(state.wait(at(0), true), Some(Span::from_nanos(900_000_000)));
    }

    #[test]
    fn bursts_are_limited_in_length_and_rate() {
        let mut state = ThrottleState::new(limits(3, 10, 100, 2));
        for _ in 0..10 {
            state.account(false, 512);
        }
        assert_eq!(state.wait(at(0), false), None);
        state.account(false, 512);
        assert_eq!(
            state.wait(at(0), false),
            Some(Span::from_nanos(10_000_000)),
            "no more than a tenth of a second at the burst's rate"
        );
        for _ in 0..190 {
            state.account(false, 512);
        }
        assert_eq!(
            state.wait(at(0), false),
            Some(Span::from_nanos(100_000_000)),
            "one operation more than the burst may have"
        );
    }

    #[test]
    fn large_operations_count_several_times() {
        let mut state = ThrottleState::new(Limits { op_size: 4096, ..limits(3, 10, 0, 1) });
        state.account(false, 8192);
        assert_eq!(state.wait(at(0), false), Some(Span::from_nanos(100_000_000)));
    }

    #[test]
    fn limits_that_contradict_each_other() {
        let mut both = limits(0, 1, 0, 1);
        both.buckets[1].avg = 1;
        assert!(both.check().unwrap_err().contains("at the same time"));
        assert!(limits(0, 1, 0, 0).check().unwrap_err().contains("cannot be 0"));
        assert!(limits(0, 0, 5, 1).check().unwrap_err().contains("require corresponding"));
        assert!(limits(0, 5, 4, 1).check().unwrap_err().contains("cannot be lower"));
        assert!(limits(0, 1, 0, 2).check().unwrap_err().contains("without burst rate"));
        assert!(limits(0, VALUE_MAX + 1, 0, 1).check().unwrap_err().contains("within [0, "));
        assert_eq!(limits(0, 5, 10, 3).check(), Ok(()));
    }
}
