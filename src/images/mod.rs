//! Real image files behind the files of a served world.
//!
//! The world keeps its disks in memory ([`HostFiles`](crate::host::HostFiles)) and does no I/O. [`Images`] stands between it and the real host:
//!
//! * a file is looked at when the process first looks at its name: its length and where it has data, but none of the data;
//! * data is read when a request for it comes to its end, and only then;
//! * what a request does is done to the real file when the request comes to its end, before anybody is told of it; where the host refuses,
//!   the request fails with what the host said. A process that is killed leaves what QEMU would leave: every write that was done, and none
//!   of what its caches held;
//! * the bytes that QEMU locks for permissions are locked here too, so that its tools and we keep away from each other.

#![expect(clippy::disallowed_types, reason = "this is the part of the shell that opens images")]

mod file;
mod locks;

use crate::base::errno::{Errno, Ret};
use crate::block::content::{Data, WriteTag};
use crate::host::{Failing, FileLook, HostOp, Request};
use crate::world::World;
use file::{Opened, folder_of};
use locks::Locks;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Bytes of data that may be kept in memory before what stands in the real files is forgotten.
const KEEP: u64 = 256 << 20;

/// A real file that the process has open.
#[derive(Debug)]
struct Held {
    file: Opened,
    locks: Locks,
}

/// Blocks of zeroes of this size become runs of zeroes: large tables are mostly empty.
const BLOCK: usize = 4096;

/// The bytes of a buffer, with what is zero told apart.
fn sparse(buffer: Vec<u8>) -> Data {
    let is_zero = |block: &[u8]| block.iter().all(|&byte| byte == 0);
    if !buffer.chunks(BLOCK).any(is_zero) {
        return Data::bytes(buffer.into(), WriteTag(0));
    }
    let buffer: Arc<[u8]> = buffer.into();
    let whole = Data::bytes(buffer.clone(), WriteTag(0));
    let mut data = Data::new();
    for (at, block) in (0..).step_by(BLOCK).zip(buffer.chunks(BLOCK)) {
        let len = block.len() as u64;
        data.append(&if is_zero(block) { Data::zeroes(len) } else { whole.slice(at, len) });
    }
    data
}

/// The real files of a served world.
#[derive(Debug, Default)]
pub struct Images {
    held: BTreeMap<Arc<str>, Held>,
    /// Descriptors that were handed over, by set (`-add-fd`, `add-fd`).
    fdsets: BTreeMap<i64, Vec<OwnedFd>>,
    /// Bytes that came into memory since data was last forgotten.
    kept: u64,
    /// Files that were found on the host since somebody asked.
    found: Vec<Arc<str>>,
    /// Files were changed since somebody asked.
    changed: bool,
    /// Requests of each kind that came to each file, but for reads of what is known.
    counts: BTreeMap<(Arc<str>, &'static str), u64>,
    /// What the host refused since somebody asked.
    refused: Vec<(Arc<str>, Failing)>,
}

impl Images {
    /// Connects a world to the real host.
    #[must_use]
    pub fn connect(world: &mut World) -> Images {
        world.files.connect();
        Images::default()
    }

    /// A descriptor that files called `/dev/fdset/SET` are opened through.
    pub fn add_fd(&mut self, set: i64, fd: OwnedFd) {
        self.fdsets.entry(set).or_default().push(fd);
    }

    /// Drops the descriptors for which that does not hold; files that were opened through them stay open.
    pub fn retain_fds(&mut self, keep: impl Fn(&OwnedFd) -> bool) {
        self.fdsets.values_mut().for_each(|fds| fds.retain(&keep));
        self.fdsets.retain(|_, fds| !fds.is_empty());
    }

    /// Whether there are any.
    #[must_use]
    pub fn has_fds(&self) -> bool {
        !self.fdsets.is_empty()
    }

    /// To be called before each step of the world: does what the step needs of the host.
    pub fn before_step(&mut self, world: &mut World) {
        if let Some((name, whole)) = world.files.wanted() {
            self.look(world, &name, whole);
        }
        if let Some((path, op)) = world.files.asked() {
            let answer = self.carry_out(world, &path, &op);
            self.note(&path, &op, answer);
            world.files.answered(answer);
        }
    }

    /// Makes the locks on the real files what the world takes them to be, and closes those that nobody has open. To be called before
    /// anything that the world put out is passed on, and at the end.
    pub fn sync(&mut self, world: &mut World) {
        // A file that is being made has no node yet.
        if !world.files.waits() && !world.files.has_answer() {
            self.drop_unused(world);
        }
        for (path, held) in &mut self.held {
            let wanted = locks::wanted(world, path);
            held.locks.set(held.file.fd(), wanted);
        }
        if self.kept > KEEP {
            self.kept = 0;
            for path in self.held.keys() {
                world.files.forget_data(path);
            }
        }
    }

    /// Counts a request, and keeps it if it was refused.
    fn note(&mut self, path: &Arc<str>, op: &HostOp, answer: Ret) {
        let Some(on) = Request::of(op) else { return };
        let count = self.counts.entry((path.clone(), on.name())).or_default();
        if let Err(errno) = answer {
            self.refused.push((path.clone(), Failing { on, errno, after: *count, times: Some(1) }));
            return;
        }
        *count += 1;
    }

    /// What the host refused since this was last asked, as rules of a simulated host that does the same: for whoever records a run.
    pub fn take_refused(&mut self) -> Vec<(Arc<str>, Failing)> {
        std::mem::take(&mut self.refused)
    }

    /// Whether real files were changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Looks again which locks other processes hold. To be called when a command arrives.
    pub fn refresh_locks(&mut self, world: &mut World) {
        let found = self.held.iter().map(|(path, held)| (path.clone(), locks::foreign(held.file.fd())));
        world.graph.foreign_locks = found.filter(|(_, locks)| *locks != (0, 0)).collect();
    }

    /// Looks at a name: what stands there comes in, unless the process has it open already.
    fn look(&mut self, world: &mut World, name: &Arc<str>, whole: bool) {
        self.sync(world);
        let opened = match self.fdset_of(name) {
            Some(opened) => opened,
            None => Opened::open(name),
        };
        let look = match opened {
            Ok(opened) => {
                let mut look = FileLook {
                    path: self.key_of(name, &opened),
                    read: Ok(()),
                    write: opened.write,
                    create: opened.write,
                    is_regular: opened.is_regular,
                };
                if opened.is_regular {
                    self.take(world, &look.path, opened);
                }
                if whole {
                    let size = world.files.size(&look.path);
                    look.read = self.read(world, &look.path, 0, size);
                }
                look
            }
            Err(errno) => {
                if self.held.remove(name).is_some() || world.files.exists(name) {
                    world.files.remove(name);
                }
                let create = if errno == Errno::ENOENT { folder_of(name) } else { Err(errno) };
                FileLook { path: name.clone(), read: Err(errno), write: Err(errno), create, is_regular: true }
            }
        };
        self.refresh_locks(world);
        world.files.looked(look);
    }

    /// A file of a descriptor set.
    fn fdset_of(&self, name: &str) -> Option<Result<Opened, Errno>> {
        let set: i64 = name.strip_prefix("/dev/fdset/")?.parse().ok()?;
        let fds = self.fdsets.get(&set).map(Vec::as_slice).unwrap_or_default();
        Some(Opened::of_set(fds))
    }

    /// The name under which a file is kept: the one by which it was opened first.
    fn key_of(&self, name: &Arc<str>, opened: &Opened) -> Arc<str> {
        let same = self.held.iter().find(|(_, held)| held.file.identity == opened.identity);
        same.map_or_else(|| name.clone(), |(path, _)| path.clone())
    }

    fn take(&mut self, world: &mut World, path: &Arc<str>, opened: Opened) {
        if locks::in_use(world, path)
            && let Some(held) = self.held.get_mut(path)
        {
            if held.file.write.is_err() && opened.write.is_ok() {
                let mut locks = Locks::default();
                locks.set(opened.fd(), held.locks.held());
                *held = Held { file: opened, locks };
            }
            return;
        }
        world.files.bring_in(path, opened.size(), &opened.data());
        self.held.insert(path.clone(), Held { file: opened, locks: Locks::default() });
        self.found.push(path.clone());
    }

    /// Files that came in since this was last asked, as they were found: for whoever records a run.
    pub fn take_found(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.found)
    }

    /// Reads what is still missing of a range.
    fn read(&mut self, world: &mut World, path: &Arc<str>, offset: u64, bytes: u64) -> Ret {
        let parts = world.files.unread(path, offset, bytes);
        if parts.is_empty() {
            return Ok(());
        }
        let file = &self.held.get(path).ok_or(Errno::EBADF)?.file;
        for (at, len) in parts {
            let buffer = file.read(at, len)?;
            self.kept += len;
            world.files.have_read(path, at, &sparse(buffer));
        }
        Ok(())
    }

    /// Does to a real file what is asked for. What the host refuses may have been done in part: that is looked at again.
    fn carry_out(&mut self, world: &mut World, path: &Arc<str>, op: &HostOp) -> Ret {
        self.changed |= !matches!(op, HostOp::Read(..) | HostOp::Flush);
        let (offset, bytes) = match op {
            HostOp::Read(offset, bytes) => return self.read(world, path, *offset, *bytes),
            HostOp::Flush => return Ok(()),
            HostOp::Create => return self.create(path),
            HostOp::Write(offset, data) => (*offset, data.len()),
            HostOp::Zero { offset, bytes, .. } | HostOp::Copy { offset, bytes, .. } | HostOp::Punch(offset, bytes) => {
                (*offset, *bytes)
            }
            HostOp::Truncate(size) => (*size, 0),
        };
        let copied = match op {
            HostOp::Copy { from, at, bytes, .. } => {
                let there = (*bytes).min(world.files.size(from).saturating_sub(*at));
                self.read(world, from, *at, there)?;
                world.files.read_in(from, *at, there)
            }
            _ => Data::new(),
        };
        let file = &self.held.get(path).ok_or(Errno::EBADF)?.file;
        let done = match op {
            HostOp::Write(offset, data) => {
                self.kept += data.len();
                file.write(*offset, data)
            }
            HostOp::Copy { offset, .. } => {
                self.kept += copied.len();
                file.write(*offset, &copied)
            }
            HostOp::Zero { offset, bytes, unmap } => file.zero(*offset, *bytes, *unmap),
            HostOp::Punch(offset, bytes) => file.punch(*offset, *bytes),
            HostOp::Truncate(size) => {
                let was_empty = file.size() == 0;
                let done = file.truncate(*size);
                if was_empty && *size > 0 && done.is_ok() {
                    // `allocate_first_block`, whose failure nobody looks at.
                    let _ = file.write(0, &Data::zeroes(if *size < 4096 { 512 } else { 4096 }));
                }
                done
            }
            HostOp::Create | HostOp::Read(..) | HostOp::Flush => Ok(()),
        };
        if done.is_err() {
            world.files.have_failed(path, file.size(), offset, bytes);
        }
        done
    }

    /// A file that is empty, made where there is none.
    fn create(&mut self, path: &Arc<str>) -> Ret {
        if let Some(held) = self.held.get(path).filter(|held| held.file.write.is_ok()) {
            return held.file.truncate(0);
        }
        let file = Opened::create(path)?;
        self.held.insert(path.clone(), Held { file, locks: Locks::default() });
        Ok(())
    }

    /// Closes files that no node has open any more; their data is forgotten, as others may change it now.
    fn drop_unused(&mut self, world: &mut World) {
        let unused: Vec<Arc<str>> = self.held.keys().filter(|path| !locks::in_use(world, path)).cloned().collect();
        for path in unused {
            self.held.remove(&path);
            world.files.remove(&path);
        }
    }
}
