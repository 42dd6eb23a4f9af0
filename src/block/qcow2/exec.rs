//! Running a procedure under the driver's lock again and again, each time one answer further.
//!
//! Long loops set checkpoints, so that not everything is run again for each of their requests.

use super::cache::{CacheState, CachedTable, Saved, Slot, Which};
use super::op::{Qcow2Answer, Qcow2Ask, Qcow2Child};
use super::state::Qcow2;
use crate::base::errno::{Errno, Ret};
use crate::block::content::{Data, Table};
use crate::block::event::BlkdebugEvent;
use std::collections::VecDeque;
use std::fmt;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What QEMU returns, negated.
    pub errno: Errno,
    /// What QEMU puts into its `Error`, complete; `None` where it only has the errno.
    pub message: Option<Box<str>>,
}

impl Fault {
    pub(crate) fn new(errno: Errno, message: impl Into<String>) -> Fault {
        Fault { errno, message: Some(message.into().into_boxed_str()) }
    }

    /// `error_setg_errno`: the message, a colon, and the text of the errno.
    pub(super) fn of(errno: Errno, message: impl fmt::Display) -> Fault {
        Fault::new(errno, format!("{message}: {errno}"))
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        Fault { errno, message: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => f.write_str(message),
            None => self.errno.fmt(f),
        }
    }
}

/// A number as C's `%#x` prints it: no prefix for 0.
pub(super) struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("0") } else { write!(f, "{:#x}", self.0) }
    }
}

/// Why a procedure does not go on.
#[derive(Clone, Debug)]
pub(super) enum Stop {
    /// It needs an answer that is not there yet. Nobody may treat this as a failure.
    Wait,
    Fail(Fault),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::Fail(errno.into())
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fail(fault)
    }
}

pub(super) type Res<T = ()> = Result<T, Stop>;

/// Looking at a failure without mistaking the wait for an answer for one.
pub(super) trait Caught<T> {
    /// The failure as a value.
    fn caught(self) -> Result<Result<T, Fault>, Stop>;
    /// Puts a message in front of the failure's errno, as `error_setg_errno` does.
    fn say(self, message: &str) -> Res<T>;
    /// The same, with a message that is only made where it is needed.
    fn say_with(self, message: impl FnOnce() -> String) -> Res<T>;
}

impl<T> Caught<T> for Res<T> {
    fn caught(self) -> Result<Result<T, Fault>, Stop> {
        match self {
            Ok(value) => Ok(Ok(value)),
            Err(Stop::Fail(fault)) => Ok(Err(fault)),
            Err(Stop::Wait) => Err(Stop::Wait),
        }
    }

    fn say(self, message: &str) -> Res<T> {
        match self {
            Err(Stop::Fail(fault)) => Err(Fault::of(fault.errno, message).into()),
            other => other,
        }
    }

    fn say_with(self, message: impl FnOnce() -> String) -> Res<T> {
        match self {
            Err(Stop::Fail(fault)) => Err(Fault::of(fault.errno, message()).into()),
            other => other,
        }
    }
}

/// How to take back one change of the state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Undo {
    L1(u32, u64),
    L1Table(triomphe::Arc<Table>),
    Reft(u32, u64),
    ReftTable(triomphe::Arc<Table>),
    /// Entry of a cached table.
    Entry(Which, u32, u32, u64),
    /// What is kept about a slot's table.
    Place(Which, CachedTable),
    /// Everything of a slot.
    Slot(Which, Slot),
    /// The slot was not there.
    NoSlot(Which, u32),
    /// All slots.
    Slots(Which, Vec<Slot>),
}

/// A procedure under way: the answers so far, and how to get back to where it began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Exec {
    /// The procedure waits for an answer.
    waiting: bool,
    answers: Vec<Qcow2Answer>,
    /// Events that are due before anything else.
    events: VecDeque<BlkdebugEvent>,
    /// Events of this procedure that were already put into `events`.
    fired: usize,
    ask: Option<Qcow2Ask>,
    /// What will be asked next if all that is asked before succeeds.
    ahead: VecDeque<Qcow2Ask>,
    /// How far a procedure had come at its last checkpoint.
    progress: u64,
}

impl Exec {
    /// Whether an answer belongs to the procedure and not to the operation around it.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    pub fn answer(&mut self, got: Qcow2Answer) {
        self.answers.push(got);
    }

    pub fn next_event(&mut self) -> Option<BlkdebugEvent> {
        self.events.pop_front()
    }

    /// Whether events are due before anything else.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What the procedure needs, after [`Exec::run`] gave nothing.
    pub fn take_ask(&mut self) -> Qcow2Ask {
        self.ask.take().unwrap_or(Qcow2Ask::Flush)
    }

    /// Fires an event outside of a procedure.
    pub fn event(&mut self, q: &Qcow2, event: BlkdebugEvent) {
        if q.file.events {
            self.events.push_back(event);
        }
    }

    /// Runs the procedure; `None` if it needs an answer first, and then must be run again with the same arguments.
    pub fn run<T>(&mut self, q: &mut Qcow2, procedure: impl FnOnce(&mut Cx<'_>) -> Res<T>) -> Option<Result<T, Fault>> {
        if let Some(next) = self.ahead.pop_front() {
            if matches!(self.answers.last(), Some(Qcow2Answer::Done)) {
                self.ask = Some(next);
                return None;
            }
            self.ahead.clear();
        }
        q.sc.mark();
        let (undo, caches) = (std::mem::take(&mut q.scratch), q.caches);
        let mut cx = Cx {
            q,
            ex: self,
            at: 0,
            seen: 0,
            undo,
            saved: Default::default(),
            cache_discards: false,
            caches,
            ahead: false,
        };
        let out = procedure(&mut cx);
        let Cx { mut undo, caches, ahead, .. } = cx;
        let out = match out {
            Ok(value) if !ahead => Ok(value),
            Err(Stop::Fail(fault)) if !ahead => Err(fault),
            Ok(_) | Err(_) => {
                for step in undo.drain(..).rev() {
                    q.take_back(step);
                }
                q.scratch = undo;
                q.caches = caches;
                q.sc.rewind();
                self.waiting = true;
                return None;
            }
        };
        undo.clear();
        q.scratch = undo;
        q.sc.keep();
        self.waiting = false;
        self.answers.clear();
        self.fired = 0;
        self.progress = 0;
        Some(out)
    }
}

impl Qcow2 {
    fn take_back(&mut self, step: Undo) {
        match step {
            Undo::L1(index, old) => triomphe::Arc::make_mut(&mut self.l1).set(index, old),
            Undo::L1Table(old) => self.l1 = old,
            Undo::Reft(index, old) => triomphe::Arc::make_mut(&mut self.reftable).set(index, old),
            Undo::ReftTable(old) => self.reftable = old,
            Undo::Entry(which, slot, index, old) => self.tables[which as usize].set_entry(slot, index, old),
            Undo::Place(which, old) => self.tables[which as usize].set_place(old),
            Undo::Slot(which, old) => self.tables[which as usize].insert(old),
            Undo::NoSlot(which, slot) => self.tables[which as usize].remove(slot),
            Undo::Slots(which, old) => self.tables[which as usize].slots = old,
        }
    }
}

/// What a procedure works with: the state, and requests to the file.
pub(super) struct Cx<'a> {
    pub q: &'a mut Qcow2,
    ex: &'a mut Exec,
    at: usize,
    seen: usize,
    pub(super) undo: Vec<Undo>,
    /// For each cache, the places about which `undo` knows how they were.
    pub(super) saved: [Saved; 2],
    /// `cache_discards`: discards are collected, to be sent at the end of the procedure.
    pub cache_discards: bool,
    /// How the caches were at the start.
    caches: [CacheState; 2],
    /// An answer is lacking; the procedure goes on as if it were good, only to see what it will ask next.
    ahead: bool,
}

/// How many requests a procedure looks ahead.
const AHEAD: usize = 64;

impl Cx<'_> {
    /// Commits what was done so far: the procedure will be run again from here on, for which it must ask for its
    /// [`Cx::progress`]. Only for loops of which nothing else in the procedure is left to be done before.
    pub fn checkpoint(&mut self, progress: u64) {
        if self.ahead {
            return;
        }
        self.ex.progress = progress;
        self.ex.answers.drain(..self.at);
        self.at = 0;
        self.ex.fired -= self.seen;
        self.seen = 0;
        self.undo.clear();
        self.saved.iter_mut().for_each(Saved::clear);
        self.caches = self.q.caches;
        self.q.sc.mark();
    }

    /// What the last checkpoint said; 0 before the first.
    pub fn progress(&self) -> u64 {
        self.ex.progress
    }

    /// `BLKDBG_EVENT` on the file child.
    pub fn event(&mut self, event: BlkdebugEvent) {
        self.seen += 1;
        if self.seen > self.ex.fired {
            self.ex.fired = self.seen;
            if self.q.file.events {
                self.ex.events.push_back(event);
            }
        }
    }

    /// A request, answered once: later runs find the answer in the list.
    ///
    /// Most requests of a procedure are writes and flushes in a row, and most succeed. So that it need not run again after each of them, it
    /// goes on as if the answer were there, and what it asks then is sent, one after the other, as long as all goes well. Where events
    /// are wanted it does not, as they would come too early.
    pub fn ask(&mut self, ask: impl FnOnce() -> Qcow2Ask) -> Res<Qcow2Answer> {
        let Some(got) = self.ex.answers.get(self.at) else {
            let ask = ask();
            let goes_on = matches!(ask, Qcow2Ask::Write { .. } | Qcow2Ask::WriteZeroes { .. } | Qcow2Ask::Flush)
                && !self.q.file.events
                && self.ex.ahead.len() < AHEAD;
            if self.ahead {
                self.ex.ahead.push_back(ask);
            } else {
                self.ex.ask = Some(ask);
            }
            if !goes_on {
                return Err(Stop::Wait);
            }
            self.ahead = true;
            return Ok(Qcow2Answer::Done);
        };
        self.at += 1;
        match got {
            Qcow2Answer::Failed(errno) => Err((*errno).into()),
            got => Ok(got.clone()),
        }
    }

    /// `bdrv_pread` from the file.
    pub fn read(&mut self, offset: u64, len: u64) -> Res<Data> {
        match self.ask(|| Qcow2Ask::Read { child: Qcow2Child::File, offset, len })? {
            Qcow2Answer::Data(data) => Ok(data),
            _ => Ok(Data::zeroes(len)),
        }
    }

    /// `bdrv_pwrite` to the file.
    pub fn write(&mut self, offset: u64, data: impl FnOnce() -> Data) -> Res {
        self.ask(|| Qcow2Ask::Write { offset, data: data() }).map(drop)
    }

    /// `bdrv_flush` of the file.
    pub fn flush_file(&mut self) -> Res {
        self.ask(|| Qcow2Ask::Flush).map(drop)
    }

    /// `bdrv_pwrite_sync`
    pub fn write_sync(&mut self, offset: u64, data: impl FnOnce() -> Data) -> Res {
        self.write(offset, data)?;
        self.flush_file()
    }

    /// `bdrv_pwrite_zeroes` without flags.
    pub fn write_zeroes(&mut self, offset: u64, len: u64) -> Res {
        self.ask(|| Qcow2Ask::WriteZeroes { offset, len, no_fallback: false, may_unmap: false }).map(drop)
    }

    /// Length of the file, in bytes.
    pub fn file_length(&mut self) -> Res<u64> {
        self.ask(|| Qcow2Ask::GetLength).map(Qcow2Answer::number)
    }

    /// Gives an errno as failure.
    pub fn fail<T>(errno: Errno) -> Res<T> {
        Err(errno.into())
    }
}

/// An errno out of a failure whose message does not matter.
pub(super) fn errno_of<T>(result: Result<T, Fault>) -> Ret<T> {
    result.map_err(|fault| fault.errno)
}
