//! Traces: what happened in a run, as typed records with their virtual time.
//!
//! Records come at four levels of detail ([`Level`]); each level shows those before it too. The client level holds what a QMP
//! client sees, in the client's order: a command where it was sent, an event where it was read. Two forms: [`text`] for people,
//! [`jsonl`] for machines. [`compare`] holds client traces together, ours and those of the real QEMU.

pub mod canonical;
mod cause;
pub mod compare;
pub mod jsonl;
mod record;
pub mod text;

pub use cause::{Cause, LaterWork};
pub use record::{Copying, Record, RecordKind, RequestPhase, ScenarioNote, TxnPhase};

use crate::base::time::Instant;
use cause::Causes;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// How much a trace tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Commands, replies and events, as a QMP client sees them.
    Client,
    /// Jobs: status, pause counts, progress, steps of transactions, groups; and the scenario's own steps.
    Job,
    /// I/O: requests, faults, bitmaps, drained sections.
    Io,
    /// Coroutine switches.
    Co,
}

impl Level {
    /// All levels, from the shortest trace to the longest, with their names.
    pub const ALL: [(&'static str, Level); 4] =
        [("client", Level::Client), ("job", Level::Job), ("io", Level::Io), ("co", Level::Co)];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Level::ALL[self as usize].0
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        let known = Level::ALL.iter().find(|(name, _)| *name == text);
        known.map(|(_, level)| *level).ok_or_else(|| format!("`{text}` is no level: expected client, job, io or co"))
    }
}

/// The records of a run. Copies share what stood before the last [`Trace::checkpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trace {
    level: Option<Level>,
    limit: usize,
    frozen: Vec<Arc<Vec<Record>>>,
    tail: Vec<Record>,
    len: usize,
    overflowed: bool,
    /// Kept from level `io` on: it costs time.
    causes: Option<Box<Causes>>,
    /// Bitmaps as records last told of them, by node and name: dirty bytes, and whether a job uses it.
    pub bitmaps: BTreeMap<(Arc<str>, Arc<str>), (u64, bool)>,
    /// Filters of jobs on chains as records last told of them, and the node below each.
    pub filters: BTreeMap<Arc<str>, Arc<str>>,
    /// What mirrors have still to copy, as records last told of it, by job.
    pub copying: BTreeMap<Arc<str>, Copying>,
}

impl Trace {
    /// An empty trace that keeps records up to `level` (`None`: none at all) and at most `limit` of them.
    #[must_use]
    pub fn new(level: Option<Level>, limit: usize) -> Self {
        let causes = level.filter(|level| *level >= Level::Io).map(|_| Box::default());
        Trace {
            level,
            limit,
            frozen: Vec::new(),
            tail: Vec::new(),
            len: 0,
            overflowed: false,
            causes,
            bitmaps: BTreeMap::new(),
            filters: BTreeMap::new(),
            copying: BTreeMap::new(),
        }
    }

    /// A trace that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Trace::new(None, 0)
    }

    /// Whether records of `level` are kept: ask before building one.
    #[inline]
    #[must_use]
    pub fn wants(&self, level: Level) -> bool {
        self.level.is_some_and(|wanted| wanted >= level)
    }

    /// Keeps what `kind` builds, at `time`, if records of `level` are wanted.
    #[inline]
    pub fn emit(&mut self, level: Level, time: Instant, kind: impl FnOnce() -> RecordKind) {
        if self.wants(level) {
            let kind = kind();
            assert_eq!(kind.level(), level, "{kind:?}");
            let cause = self.cause();
            let leads = kind.leads();
            let kept = self.push(Record { time, kind, cause });
            if leads && kept {
                self.set_cause(u32::try_from(self.len - 1).ok());
            }
        }
    }

    /// The record that led to what happens now; `None` where that is not known or not kept.
    #[inline]
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.causes.as_ref().and_then(|causes| causes.now)
    }

    /// Says what leads to all that comes now.
    #[inline]
    pub fn set_cause(&mut self, cause: Cause) {
        if let Some(causes) = &mut self.causes {
            causes.now = cause;
        }
    }

    /// Number of the newest record, as a cause.
    #[must_use]
    pub fn newest(&self) -> Cause {
        self.causes.as_ref().and_then(|_| u32::try_from(self.len.checked_sub(1)?).ok())
    }

    /// Work is put off: it keeps its cause.
    #[inline]
    pub fn keep_cause(&mut self, work: LaterWork) {
        if let Some(causes) = &mut self.causes {
            match work {
                LaterWork::Poll(_) => causes.keep_first(work),
                _ => causes.keep(work),
            }
        }
    }

    /// Work is taken up that was put off, if it was.
    #[inline]
    pub fn take_cause(&mut self, work: LaterWork) {
        if let Some(causes) = &mut self.causes
            && let Some(cause) = causes.take(work)
        {
            causes.now = cause;
        }
    }

    /// The cause kept for `work`, which stays there.
    #[must_use]
    pub fn kept_cause(&self, work: LaterWork) -> Cause {
        self.causes.as_ref().and_then(|causes| causes.get(work))
    }

    /// Keeps a record, if there is room. Whether there was.
    fn push(&mut self, record: Record) -> bool {
        if self.len >= self.limit {
            self.overflowed = true;
            return false;
        }
        self.tail.push(record);
        self.len += 1;
        true
    }

    /// Whether a record had to be thrown away because the trace is full.
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The level up to which records are kept.
    #[must_use]
    pub fn level(&self) -> Option<Level> {
        self.level
    }

    /// Lets later copies share all records so far.
    pub fn checkpoint(&mut self) {
        if !self.tail.is_empty() {
            self.frozen.push(Arc::new(std::mem::take(&mut self.tail)));
        }
    }

    /// All records, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.frozen.iter().flat_map(|part| part.iter()).chain(&self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Json;

    fn note(text: &str) -> RecordKind {
        RecordKind::Note(ScenarioNote { what: "mark", text: text.into() })
    }

    #[test]
    fn only_what_is_wanted_is_built() {
        let mut trace = Trace::new(Some(Level::Client), 10);
        trace.emit(Level::Job, Instant::START, || unreachable!());
        trace.emit(Level::Client, Instant::START, || RecordKind::Command(Json::empty()));
        assert_eq!(trace.len(), 1);
        let mut off = Trace::off();
        off.emit(Level::Client, Instant::START, || unreachable!());
        assert!(off.is_empty() && !off.overflowed());
    }

    #[test]
    fn copies_go_their_own_ways() {
        let mut a = Trace::new(Some(Level::Co), 4);
        a.emit(Level::Job, Instant::from_nanos(1), || note("a"));
        a.checkpoint();
        let mut b = a.clone();
        a.emit(Level::Job, Instant::from_nanos(2), || note("b"));
        for _ in 0..4 {
            b.emit(Level::Job, Instant::from_nanos(3), || note("c"));
        }
        assert_eq!((a.iter().count(), b.iter().count()), (2, 4));
        assert_eq!((a.overflowed(), b.overflowed()), (false, true));
        assert_eq!(a.iter().next(), b.iter().next());
    }

    #[test]
    fn levels_have_names() {
        for (name, level) in Level::ALL {
            assert_eq!((level.name(), name.parse()), (name, Ok(level)));
        }
        assert!("all".parse::<Level>().is_err());
    }
}
