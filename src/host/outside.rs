//! What stands between the files of the simulated host and real ones, for a process that is served: which names the process is
//! about to look at, and what it did to its files, in order.
//!
//! This is plain data. Whoever runs the world (`crate::images`) looks between steps at [`HostFiles::wanted`] and brings the file
//! in, or at [`HostFiles::asked`], carries that out and tells by [`HostFiles::answered`] what came of it. Only then the world goes on: what
//! was refused never happened in it. In a run without real files there is none of this.

use super::{File, HostFiles};
use crate::base::errno::{Errno, Ret};
use crate::block::content::{Content, Data, Fill, Run, WriteTag};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The writer of data that stands in a real file and was not read yet.
pub const UNREAD: WriteTag = WriteTag(u32::MAX);

/// Runs of at most this many bytes are never forgotten: they are metadata, or cost little.
const SMALL: u64 = 4096;

/// What came of looking at a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileLook {
    /// The name under which the file is kept: two names of one file have the same.
    pub path: Arc<str>,
    /// Why it cannot be opened for reading, or that it can.
    pub read: Result<(), Errno>,
    /// Why it cannot be opened for writing, or that it can.
    pub write: Result<(), Errno>,
    /// Why it cannot be made anew, or that it can.
    pub create: Result<(), Errno>,
    /// Whether it is a plain file.
    pub is_regular: bool,
}

/// Something that is to be done to a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostOp {
    /// `open(O_CREAT)`, and cut to nothing.
    Create,
    /// `pread`: offset, length.
    Read(u64, u64),
    /// `pwrite`
    Write(u64, Data),
    /// `fallocate(FALLOC_FL_ZERO_RANGE)`, or with `unmap` a hole that may make the file longer: offset, length.
    Zero {
        /// First byte.
        offset: u64,
        /// Length.
        bytes: u64,
        /// Whether the range becomes a hole.
        unmap: bool,
    },
    /// `fallocate(FALLOC_FL_PUNCH_HOLE)`: offset, length.
    Punch(u64, u64),
    /// `ftruncate`
    Truncate(u64),
    /// `copy_file_range`
    Copy {
        /// The file to copy from.
        from: Arc<str>,
        /// Byte offset there.
        at: u64,
        /// Byte offset in this file.
        offset: u64,
        /// Length.
        bytes: u64,
    },
    /// `fdatasync`
    Flush,
}

/// The state of the connection to real files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Outside {
    /// The name that the process waits for, and whether it will read the file at once.
    wanted: Option<(Arc<str>, bool)>,
    /// A name that was looked at for the one who asked.
    fresh: Option<Arc<str>>,
    looks: BTreeMap<Arc<str>, FileLook>,
    /// What the process waits for to be done to a file.
    asked: Option<(Arc<str>, HostOp)>,
    /// What came of it.
    answer: Option<Ret>,
}

impl HostFiles {
    /// From now on names are looked up in the real world.
    pub fn connect(&mut self) {
        self.outside = Some(Box::default());
    }

    /// Whether names are looked up in the real world.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.outside.is_some()
    }

    /// Whether the process can go on with `name`. If not, it has to wait for [`HostFiles::looked`]. With `whole`, the whole file is
    /// read at once.
    pub fn look(&mut self, name: &Arc<str>, whole: bool) -> bool {
        let Some(outside) = &mut self.outside else { return true };
        if outside.fresh.take_if(|fresh| fresh == name).is_some() {
            return true;
        }
        outside.wanted = Some((name.clone(), whole));
        false
    }

    /// Whether the process waits for a file.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.outside.as_ref().is_some_and(|outside| outside.wanted.is_some() || outside.asked.is_some())
    }

    /// The name that the process waits for, and whether the whole file is wanted.
    #[must_use]
    pub fn wanted(&self) -> Option<(Arc<str>, bool)> {
        self.outside.as_ref()?.wanted.clone()
    }

    /// What came of looking at the name that the process waited for; it goes on.
    pub fn looked(&mut self, look: FileLook) {
        if let Some(outside) = &mut self.outside
            && let Some((name, _)) = outside.wanted.take()
        {
            outside.fresh = Some(name.clone());
            outside.looks.insert(name, look);
        }
    }

    /// The last look at a name.
    #[must_use]
    pub fn look_at(&self, name: &str) -> Option<&FileLook> {
        self.outside.as_ref()?.looks.get(name)
    }

    /// The name under which the file called `name` is kept.
    #[must_use]
    pub fn key(&self, name: &Arc<str>) -> Arc<str> {
        self.look_at(name).map_or_else(|| name.clone(), |look| look.path.clone())
    }

    /// Has something done to a real file. The process has to wait for [`HostFiles::answered`].
    pub fn ask(&mut self, path: &Arc<str>, op: HostOp) {
        if let Some(outside) = &mut self.outside {
            outside.asked = Some((path.clone(), op));
        }
    }

    /// What is to be done to a real file.
    #[must_use]
    pub fn asked(&self) -> Option<(Arc<str>, HostOp)> {
        self.outside.as_ref()?.asked.clone()
    }

    /// What came of it; the process goes on.
    pub fn answered(&mut self, answer: Ret) {
        if let Some(outside) = &mut self.outside {
            outside.asked = None;
            outside.answer = Some(answer);
        }
    }

    /// Whether it is known what came of what was asked.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        self.outside.as_ref().is_some_and(|outside| outside.answer.is_some())
    }

    /// Takes what came of what was asked.
    pub fn take_answer(&mut self) -> Option<Ret> {
        self.outside.as_mut()?.answer.take()
    }

    /// A change of a real file was refused, maybe when a part of it was done: what stands in that range is read anew.
    pub fn have_failed(&mut self, path: &str, size: u64, offset: u64, bytes: u64) {
        let Some(file) = self.change(path) else { return };
        let len = bytes.min(size.saturating_sub(offset));
        if len > 0 {
            file.content.write(offset, &Data::zeroes(len).with_tag(UNREAD));
        }
        file.content.truncate(size);
        file.size = size;
    }

    /// A real file of this length came in, with data at these ranges (offset, length), which is not read yet.
    pub fn bring_in(&mut self, path: &Arc<str>, size: u64, data: &[(u64, u64)]) {
        let mut content = Content::new();
        for &(offset, len) in data {
            content.write(offset, &Data::zeroes(len).with_tag(UNREAD));
        }
        self.put(path, Arc::new(File { content, size }));
    }

    /// The parts of a range that were not read yet: offset, length.
    #[must_use]
    pub fn unread(&self, path: &str, offset: u64, bytes: u64) -> Vec<(u64, u64)> {
        let Some(file) = self.get(path) else { return Vec::new() };
        let mut at = offset;
        let mut parts = Vec::new();
        for run in file.content.read(offset, bytes).runs() {
            if run.tag() == UNREAD {
                parts.push((at, run.len()));
            }
            at += run.len();
        }
        parts
    }

    /// [`HostFiles::pread`], by which time a real file's data must have been read.
    ///
    /// # Panics
    /// If it was not.
    #[must_use]
    pub fn read_in(&self, path: &str, offset: u64, bytes: u64) -> Data {
        let data = self.pread(path, offset, bytes);
        assert!(
            self.outside.is_none() || data.runs().all(|run| run.tag() != UNREAD),
            "'{path}' was not read at {offset}"
        );
        data
    }

    /// Data of a real file that was read.
    pub fn have_read(&mut self, path: &str, offset: u64, data: &Data) {
        if let Some(file) = self.change(path) {
            file.content.write(offset, data);
        }
    }

    /// Forgets the bulky data of a file, all of which stands in the real one.
    pub fn forget_data(&mut self, path: &str) {
        let Some(file) = self.change(path) else { return };
        let bulky = |run: &Run| matches!(run.fill(), Fill::Bytes { .. }) && run.len() > SMALL;
        let ranges: Vec<(u64, u64)> =
            file.content.extents().filter(|(_, run)| bulky(run)).map(|(at, run)| (at, run.len())).collect();
        for (at, len) in ranges {
            file.content.write(at, &Data::zeroes(len).with_tag(UNREAD));
        }
    }
}
