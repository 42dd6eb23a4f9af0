//! What a backend counts of the requests of its guest (block/accounting.c:BlockAcctStats). In this machine, where no guest runs, these
//! are the ones of `aio_read`, `aio_write` and `aio_flush` of qemu-io.

use crate::base::time::{Instant, Rebase, Shift, Span, timeless};

/// A kind of request (`enum BlockAcctType`). Appending to zones is not simulated, so it counts nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AcctType {
    /// `BLOCK_ACCT_READ`
    Read,
    /// `BLOCK_ACCT_WRITE`
    Write,
    /// `BLOCK_ACCT_FLUSH`
    Flush,
}

/// What is counted of one kind of request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// `nr_bytes`
    pub bytes: u64,
    /// `nr_ops`: those that succeeded.
    pub operations: u64,
    /// `failed_ops`
    pub failed: u64,
    /// `invalid_ops`: those that were not even sent.
    pub invalid: u64,
    /// `total_time_ns`
    pub time: Span,
}

/// The counters of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Accounting {
    counters: [Counters; 3],
    /// `last_access_time_ns`, if there was one.
    pub last_access: Option<Instant>,
    /// `stats-account-invalid`: invalid requests count as an access.
    pub account_invalid: bool,
    /// `stats-account-failed`: failed requests count as an access, and their time is added.
    pub account_failed: bool,
}

impl Default for Accounting {
    /// `block_acct_init`
    fn default() -> Accounting {
        Accounting { counters: Default::default(), last_access: None, account_invalid: true, account_failed: true }
    }
}

impl Accounting {
    /// `block_acct_setup`
    #[must_use]
    pub fn new(account_invalid: bool, account_failed: bool) -> Accounting {
        Accounting { account_invalid, account_failed, ..Accounting::default() }
    }

    /// The counters of one kind.
    #[must_use]
    pub fn of(&self, kind: AcctType) -> &Counters {
        &self.counters[kind as usize]
    }

    /// `block_acct_done`, `block_acct_failed`: a request of so many bytes that began at `start` is over at `now`.
    pub fn done(&mut self, kind: AcctType, bytes: u64, start: Instant, now: Instant, failed: bool) {
        let counters = &mut self.counters[kind as usize];
        if failed {
            counters.failed += 1;
        } else {
            counters.bytes += bytes;
            counters.operations += 1;
        }
        if !failed || self.account_failed {
            counters.time += now - start;
            self.last_access = Some(now);
        }
    }

    /// `block_acct_invalid`
    pub fn invalid(&mut self, kind: AcctType, now: Instant) {
        self.counters[kind as usize].invalid += 1;
        if self.account_invalid {
            self.last_access = Some(now);
        }
    }
}

/// How long ago the last access is at most after the clock was set. Beside a job that wakes up for ever no two states would be equal if that
/// went on to grow.
const LONG_AGO: Span = Span::from_secs(1);

impl Rebase for Accounting {
    fn has_instants(&self) -> bool {
        self.last_access.is_some()
    }

    fn rebase(&mut self, shift: Shift) {
        let Accounting { counters, last_access, account_invalid, account_failed } = self;
        timeless(&(counters, account_invalid, account_failed));
        if let Some(last) = last_access {
            last.rebase(shift);
            let earliest = shift.to.as_nanos().saturating_sub(LONG_AGO.as_nanos());
            *last = (*last).max(Instant::from_nanos(earliest));
        }
    }
}
