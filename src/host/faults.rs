//! What the simulated host refuses: a file system that is full, files that may not grow, requests that fail.
//!
//! What is refused changes nothing. Unlike Linux, which may do the first part of a write, because how much it does depends on the file
//! system.

use super::{DiskRates, HostFiles, HostOp};
use crate::base::errno::{Errno, Ret};
use crate::block::content::BLOCK;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kinds of requests, by the names that traces give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// `pread`
    Read,
    /// `pwrite`, and copies by the host to the file.
    Write,
    /// `fallocate(FALLOC_FL_ZERO_RANGE)`
    WriteZeroes,
    /// `fallocate(FALLOC_FL_PUNCH_HOLE)`
    Discard,
    /// `fdatasync`
    Flush,
    /// `ftruncate`
    Truncate,
}

impl Request {
    /// All of them by name.
    pub const NAMES: &[(&str, Request)] = &[
        ("read", Request::Read),
        ("write", Request::Write),
        ("write-zeroes", Request::WriteZeroes),
        ("discard", Request::Discard),
        ("flush", Request::Flush),
        ("truncate", Request::Truncate),
    ];

    /// As scenarios have it behind `fail`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Request::NAMES.iter().find(|(_, request)| *request == self).map_or("", |(name, _)| name)
    }

    /// The kind of what is asked of the host; none for new files.
    #[must_use]
    pub fn of(op: &HostOp) -> Option<Request> {
        Some(match op {
            HostOp::Create => return None,
            HostOp::Read(..) => Request::Read,
            HostOp::Write(..) | HostOp::Copy { .. } => Request::Write,
            HostOp::Zero { .. } => Request::WriteZeroes,
            HostOp::Punch(..) => Request::Discard,
            HostOp::Truncate(_) => Request::Truncate,
            HostOp::Flush => Request::Flush,
        })
    }
}

/// Requests to a file that fail.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failing {
    /// Which.
    pub on: Request,
    /// With what.
    pub errno: Errno,
    /// So many go well before.
    pub after: u64,
    /// So many fail; `None`: all from then on.
    pub times: Option<u64>,
}

impl Failing {
    /// Whether the next such request fails.
    fn strikes(&mut self) -> bool {
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        match &mut self.times {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// A change of what the host refuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostChange {
    /// Bytes that all files together may take; `None`: no bound. `ENOSPC` where there is no room.
    Capacity(Option<u64>),
    /// How long a file may be, in bytes, as `RLIMIT_FSIZE` has it; `None`: no bound. `EFBIG` beyond.
    Limit(Arc<str>, Option<u64>),
    /// Requests to a file fail, besides those that fail already.
    Fail(Arc<str>, Failing),
    /// No request to a file fails any more.
    Mend(Arc<str>),
    /// Somebody else makes a file this long, in bytes.
    Resize(Arc<str>, u64),
    /// The disk is so fast from now on, with one request after the other; `None`: the time of a request does not depend on others.
    Disk(Option<DiskRates>),
}

impl HostChange {
    /// The file that it is about, if it is about one.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        match self {
            HostChange::Capacity(_) | HostChange::Disk(_) => None,
            HostChange::Limit(file, _)
            | HostChange::Fail(file, _)
            | HostChange::Mend(file)
            | HostChange::Resize(file, _) => Some(file),
        }
    }
}

/// What the host refuses for one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct FileRules {
    limit: Option<u64>,
    failing: Vec<Failing>,
}

/// What the simulated host refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Rules {
    capacity: Option<u64>,
    files: BTreeMap<Arc<str>, FileRules>,
}

impl HostFiles {
    /// Changes what the host refuses.
    ///
    /// # Errors
    /// There is no such file to make longer or shorter.
    pub fn change_host(&mut self, change: &HostChange) -> Result<(), String> {
        if let HostChange::Disk(rates) = change {
            self.disk = *rates;
            return Ok(());
        }
        let rules = self.rules.get_or_insert_default();
        match change {
            HostChange::Disk(_) => {}
            HostChange::Capacity(bytes) => rules.capacity = *bytes,
            HostChange::Limit(file, bytes) => rules.files.entry(file.clone()).or_default().limit = *bytes,
            HostChange::Fail(file, failing) => {
                rules.files.entry(file.clone()).or_default().failing.push(failing.clone());
            }
            HostChange::Mend(file) => rules.files.entry(file.clone()).or_default().failing.clear(),
            HostChange::Resize(file, size) => {
                let Some(file) = self.change(file) else {
                    return Err(format!("'{file}': {}", Errno::ENOENT));
                };
                file.content.truncate(*size);
                file.size = *size;
            }
        }
        Ok(())
    }

    /// Whether the host may refuse anything.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        self.rules.is_some()
    }

    /// Whether the host does what is asked.
    ///
    /// # Errors
    /// Why not.
    pub fn verdict(&mut self, path: &str, op: &HostOp) -> Ret {
        let Some(rules) = &mut self.rules else { return Ok(()) };
        let capacity = rules.capacity;
        if let Some(file) = rules.files.get_mut(path) {
            let request = Request::of(op);
            let mut failing = file.failing.iter_mut().filter(|failing| Some(failing.on) == request);
            if let Some(failing) = failing.find_map(|failing| failing.strikes().then_some(failing)) {
                return Err(failing.errno);
            }
            if let Some(limit) = file.limit
                && Self::end(op).is_some_and(|end| end > limit)
            {
                return Err(Errno::EFBIG);
            }
        }
        let Some(capacity) = capacity else { return Ok(()) };
        let needed = match op {
            HostOp::Write(offset, data) => self.holes(path, *offset, data.len()),
            HostOp::Copy { offset, bytes, .. } | HostOp::Zero { offset, bytes, unmap: false } => {
                self.holes(path, *offset, *bytes)
            }
            _ => 0,
        };
        if needed == 0 {
            return Ok(());
        }
        let taken: u64 =
            self.iter().map(|(path, file)| file.size.next_multiple_of(BLOCK) - self.holes(path, 0, file.size)).sum();
        if needed > capacity.saturating_sub(taken) { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Where a change that may make a file longer ends.
    fn end(op: &HostOp) -> Option<u64> {
        match op {
            HostOp::Write(offset, data) => Some(offset.saturating_add(data.len())),
            HostOp::Copy { offset, bytes, .. } | HostOp::Zero { offset, bytes, .. } => {
                Some(offset.saturating_add(*bytes))
            }
            HostOp::Truncate(size) => Some(*size),
            _ => None,
        }
    }

    /// Bytes of the blocks of a range that have no room on the disk yet.
    fn holes(&self, path: &str, offset: u64, bytes: u64) -> u64 {
        let (mut at, mut holes) = (offset / BLOCK * BLOCK, 0);
        let end = offset.saturating_add(bytes).div_ceil(BLOCK) * BLOCK;
        while at < end {
            let (data, len) = self.status(path, at, end - at);
            holes += if data { 0 } else { len };
            at += len.max(1);
        }
        holes
    }
}
