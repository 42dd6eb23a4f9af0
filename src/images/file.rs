//! One real file: opening it, where it has data, reading and writing.

use super::Errno;
use crate::block::content::Data;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{AccessFlags, Whence, access, lseek64};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes that are rendered and written at once.
const PIECE: u64 = 1 << 20;

/// How a hole is made that leaves the file's length as it is.
const PUNCH: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);

/// A real file that is open.
#[derive(Debug)]
pub struct Opened {
    file: File,
    /// Why it is not open for writing, or that it is.
    pub write: Result<(), Errno>,
    /// Device and inode.
    pub identity: (u64, u64),
    /// Whether it is a plain file.
    pub is_regular: bool,
}

/// The number behind an error of the host.
pub fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, |errno| Errno(errno.unsigned_abs()))
}

fn errno_from(errno: nix::Error) -> Errno {
    Errno((errno as i32).unsigned_abs())
}

/// Why no file of this name can be made, or that it can.
pub fn folder_of(name: &str) -> Result<(), Errno> {
    let folder = match Path::new(name).parent() {
        _ if name.is_empty() => return Err(Errno::ENOENT),
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => return Err(Errno::EISDIR),
    };
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(errno_from)?;
    if folder.is_dir() { Ok(()) } else { Err(Errno::ENOTDIR) }
}

impl Opened {
    /// Opens a file for reading, and for writing where that is allowed.
    pub fn open(name: &str) -> Result<Opened, Errno> {
        let mut options = OpenOptions::new();
        // A pipe must not make us wait for its other end.
        options.read(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY);
        match options.clone().write(true).open(name) {
            Ok(file) => Opened::of(file, Ok(())),
            Err(error) => match errno_of(&error) {
                errno @ (Errno::EACCES | Errno::EROFS | Errno::EPERM | Errno::EISDIR | Errno::ETXTBSY) => {
                    let file = options.open(name).map_err(|error| errno_of(&error))?;
                    Opened::of(file, Err(errno))
                }
                errno => Err(errno),
            },
        }
    }

    /// `open(O_CREAT)`
    pub fn create(name: &str) -> Result<Opened, Errno> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o644);
        let file = options.open(name).map_err(|error| errno_of(&error))?;
        Opened::of(file, Ok(()))
    }

    /// The first descriptor of a set that may be written, or else one that may be read.
    pub fn of_set(fds: &[OwnedFd]) -> Result<Opened, Errno> {
        let mode = |fd: &OwnedFd| {
            let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL).unwrap_or(0);
            flags & nix::libc::O_ACCMODE
        };
        let writable = fds.iter().find(|fd| mode(fd) == nix::libc::O_RDWR);
        let fd = writable.or_else(|| fds.iter().find(|fd| mode(fd) == nix::libc::O_RDONLY)).ok_or(Errno::EACCES)?;
        let file = File::from(fd.try_clone().map_err(|error| errno_of(&error))?);
        Opened::of(file, if writable.is_some() { Ok(()) } else { Err(Errno::EACCES) })
    }

    fn of(file: File, write: Result<(), Errno>) -> Result<Opened, Errno> {
        let meta = file.metadata().map_err(|error| errno_of(&error))?;
        Ok(Opened { file, write, identity: (meta.dev(), meta.ino()), is_regular: meta.is_file() })
    }

    /// Locks are taken and looked for on it (`F_OFD_SETLK`).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.len())
    }

    /// Where the file has data: offset, length. All of it where the file system does not tell.
    pub fn data(&self) -> Vec<(u64, u64)> {
        let size = self.size();
        let mut found = Vec::new();
        let mut at = 0;
        while at < size {
            let Ok(offset) = i64::try_from(at) else { break };
            let start = match lseek64(&self.file, offset, Whence::SeekData) {
                Ok(start) => start,
                Err(nix::Error::ENXIO) => break,
                Err(_) => {
                    found.push((at, size - at));
                    break;
                }
            };
            let end = lseek64(&self.file, start, Whence::SeekHole).map_or(size, |end| end.unsigned_abs()).min(size);
            let start = start.unsigned_abs();
            if end <= start {
                break;
            }
            found.push((start, end - start));
            at = end;
        }
        found
    }

    /// Bytes of the file; behind its end there are zeroes.
    pub fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; usize::try_from(len).map_err(|_| Errno::ENOMEM)?];
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno_of(&error)),
            }
        }
        Ok(buffer)
    }

    /// Writes all of `data`.
    pub fn write(&self, offset: u64, data: &Data) -> Result<(), Errno> {
        let mut at = offset;
        for run in data.runs() {
            let run = Data::from_run(run);
            let mut from = 0;
            while from < run.len() {
                let piece = run.slice(from, PIECE);
                self.file.write_all_at(&piece.to_bytes(), at).map_err(|error| errno_of(&error))?;
                from += piece.len();
                at += piece.len();
            }
        }
        Ok(())
    }

    /// `handle_aiocb_write_zeroes`, and with `unmap` `handle_aiocb_write_zeroes_unmap`: the file grows where the range ends behind its end.
    pub fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Errno> {
        let beyond = offset + len > self.size();
        let hole = |file: &Opened| file.fallocate(PUNCH, offset, len);
        if unmap {
            match hole(self) {
                Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EBUSY) => {}
                Ok(()) if beyond => return self.truncate(offset + len),
                other => return other,
            }
        }
        match self.fallocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, len) {
            Err(Errno::EOPNOTSUPP | Errno::EINVAL) => {}
            other => return other,
        }
        match hole(self) {
            Ok(()) => match self.fallocate(FallocateFlags::empty(), offset, len) {
                Err(Errno::EOPNOTSUPP) => {}
                other => return other,
            },
            Err(Errno::EOPNOTSUPP | Errno::EINVAL) => {}
            other => return other,
        }
        self.write(offset, &Data::zeroes(len))
    }

    /// Makes a hole; where the file system has none, zeroes are written up to the end of the file.
    pub fn punch(&self, offset: u64, len: u64) -> Result<(), Errno> {
        match self.fallocate(PUNCH, offset, len) {
            Err(Errno::EOPNOTSUPP) => {
                let len = len.min(self.size().saturating_sub(offset));
                self.write(offset, &Data::zeroes(len))
            }
            other => other,
        }
    }

    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> Result<(), Errno> {
        if len == 0 {
            return Ok(());
        }
        let number = |n: u64| i64::try_from(n).map_err(|_| Errno::EFBIG);
        fallocate(&self.file, flags, number(offset)?, number(len)?).map_err(errno_from)
    }

    /// `ftruncate`
    pub fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.file.set_len(size).map_err(|error| errno_of(&error))
    }
}
