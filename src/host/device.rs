//! What the host's kernel does for a process that has a file open.

use super::{File, HostFiles};
use crate::base::errno::{Errno, Ret};
use crate::block::content::{BLOCK, Content, Data};
use std::sync::Arc;

impl HostFiles {
    /// Whether there is such a file.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.get(path).is_some()
    }

    /// Whether a file could be made there: the folder must hold a file already.
    #[must_use]
    pub fn can_create(&self, path: &str) -> bool {
        if let Some(look) = self.look_at(path) {
            return look.create.is_ok();
        }
        match path.rfind('/') {
            None => !path.is_empty(),
            Some(slash) => self.iter().any(|(other, _)| other.starts_with(&path[..=slash])),
        }
    }

    /// Length of a file in bytes; 0 if there is none.
    #[must_use]
    pub fn size(&self, path: &str) -> u64 {
        self.get(path).map_or(0, |file| file.size)
    }

    /// Bytes of a file that take space.
    #[must_use]
    pub fn allocated(&self, path: &str) -> u64 {
        self.get(path).map_or(0, |file| file.content.allocated_bytes())
    }

    /// `open(O_CREAT | O_TRUNC)` and `ftruncate`: an empty file of this length.
    pub fn create_sparse(&mut self, path: &str, size: u64) {
        self.put(path, Arc::new(File { content: Content::new(), size }));
    }

    /// `raw_co_create`, and so `qemu-img create -f raw`: a new file of this length.
    pub fn create(&mut self, path: &str, size: u64) {
        self.create_sparse(path, 0);
        self.truncate(path, size);
    }

    /// `pread`. What lies behind the end reads as zero, as QEMU pads short reads.
    #[must_use]
    pub fn pread(&self, path: &str, offset: u64, bytes: u64) -> Data {
        self.get(path).map_or_else(|| Data::zeroes(bytes), |file| file.content.read(offset, bytes))
    }

    /// `pwrite`
    pub fn pwrite(&mut self, path: &str, offset: u64, data: &Data) {
        if let Some(file) = self.change(path) {
            file.content.write(offset, data);
            file.size = file.size.max(offset + data.len());
        }
    }

    /// `handle_aiocb_copy_range`: what the source has is copied; `ENOSPC` where it ends before the range does.
    pub fn copy_range(&mut self, from: &str, at: u64, to: &str, offset: u64, bytes: u64) -> Ret {
        let there = bytes.min(self.size(from).saturating_sub(at));
        if there > 0 {
            let data = self.read_in(from, at, there);
            self.pwrite(to, offset, &data);
        }
        if there < bytes { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// `fallocate`: zeroes a range. The file grows where the range ends behind its end.
    pub fn zero(&mut self, path: &str, offset: u64, bytes: u64) {
        if let Some(file) = self.change(path) {
            // ZERO_RANGE leaves unwritten extents: holes to SEEK_DATA, until somebody reads their pages. What the page cache holds is not
            // simulated; of images made before the start, whose pages tools have just read, all is data (`Image::change`).
            file.content.zero(offset, bytes);
            file.size = file.size.max(offset + bytes);
        }
    }

    /// `fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)`
    pub fn punch(&mut self, path: &str, offset: u64, bytes: u64) {
        if let Some(file) = self.change(path) {
            file.content.zero(offset, bytes);
        }
    }

    /// `handle_aiocb_truncate`. A file that was empty gets its first block written, by which later ones learn how the host aligns; so
    /// there is data at its beginning.
    pub fn truncate(&mut self, path: &str, size: u64) {
        if let Some(file) = self.change(path) {
            let was_empty = file.size == 0;
            file.content.truncate(size);
            file.size = size;
            if was_empty && size > 0 {
                // `allocate_first_block`
                self.pwrite(path, 0, &Data::zeroes(if size < BLOCK { 512 } else { BLOCK }));
            }
        }
    }

    /// `lseek(SEEK_DATA)` and `lseek(SEEK_HOLE)`: whether there is data at an offset, and for how many bytes that holds. File
    /// systems know this by [`BLOCK`]s.
    #[must_use]
    pub fn status(&self, path: &str, offset: u64, bytes: u64) -> (bool, u64) {
        let Some(file) = self.get(path) else { return (false, bytes) };
        let start = offset / BLOCK * BLOCK;
        let end = (offset + bytes).div_ceil(BLOCK) * BLOCK;
        let (data, run) = file.content.status(start, end - start);
        let data = data || run < BLOCK;
        let mut at = start;
        while at < end {
            let (here, run) = file.content.status(at, end - at);
            let (here, run) = if here {
                (true, run.div_ceil(BLOCK) * BLOCK)
            } else if run < BLOCK {
                (true, BLOCK)
            } else {
                (false, run / BLOCK * BLOCK)
            };
            if here != data {
                break;
            }
            at += run;
        }
        (data, at.min(offset + bytes) - offset)
    }
}
