//! What caused what: while a run is watched closely, each record names the record that led to it.
//!
//! A cause is handed on as the event loop hands work on. What runs in one breath forms a chain: a request that ends, the fault it met,
//! the job that turns to aborting, the group that follows. Where work is put off (a bottom half, a coroutine, a timer, a request at a
//! device, a main thread that polls), the cause is kept under a [`LaterWork`] and taken up when that work is taken up.
//!
//! The world writes this and never reads it: with the trace off there is none of it, and the same things happen.

use std::collections::BTreeMap;

/// Number of a record in its trace, from 0.
pub type Cause = Option<u32>;

/// Work that was put off, by what will take it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaterWork {
    /// A coroutine that was woken.
    Co(u32),
    /// A request at a device.
    Device(u32),
    /// A bottom half that works for a coroutine.
    CoBh(u32),
    /// The bottom half that ends a job.
    JobExit(u32),
    /// A job that was asked to cancel: its end, whatever it does until it notices.
    JobCancel(u32),
    /// The bottom half that drops a node.
    Unref(u32),
    /// A job's timer.
    JobSleep(u32),
    /// The timer of a member of a throttle group, for writes or for reads.
    Throttle(u64, bool),
    /// A coroutine's timer.
    CoSleep(u32),
    /// The main thread, where it polls at this depth of its stack.
    Poll(u32),
    /// A copy call that failed: whoever looks at its result.
    Call(u32),
    /// The command that was sent last.
    Command,
    /// What the client does after it has read something.
    Read,
}

/// The cause of what happens now, and those kept for later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Causes {
    pub now: Cause,
    later: BTreeMap<LaterWork, Cause>,
}

impl Causes {
    pub fn keep(&mut self, work: LaterWork) {
        self.later.insert(work, self.now);
    }

    /// Keeps it only where nothing is kept yet: a poll that goes on is still the same poll.
    pub fn keep_first(&mut self, work: LaterWork) {
        self.later.entry(work).or_insert(self.now);
    }

    /// Goes on with what was kept; `None` for work that nobody put off.
    pub fn take(&mut self, work: LaterWork) -> Option<Cause> {
        self.later.remove(&work)
    }

    pub fn get(&self, work: LaterWork) -> Cause {
        self.later.get(&work).copied().flatten()
    }
}
