//! An image and its backing chain, opened by a tool: one request at a time.

use super::{Format, HostError, HostFiles, not_found};
use crate::base::errno::Errno;
use crate::block::content::{Data, WriteTag};
use crate::block::event::BlkdebugEvent;
use crate::block::qcow2::{
    CreateOptions, Fault, FileTraits, OpenOptions, Qcow2, Qcow2Answer, Qcow2Ask, Qcow2Call, Qcow2Child, Qcow2Result,
    Qcow2Status, StoreBitmap, StoredBitmap,
};
use std::sync::Arc;

/// Backing chains longer than this are taken for loops.
const MAX_DEPTH: usize = 200;

/// Something that reached the file of the image, in the notation of traces: an event, or a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageStep {
    /// An event for blkdebug.
    Event(BlkdebugEvent),
    /// A read: offset and length.
    Read(u64, u64),
    /// A write of data: offset and length.
    Write(u64, u64),
    /// `BDRV_REQ_ZERO_WRITE`: offset and length.
    Zero(u64, u64),
    /// `bdrv_co_pdiscard`: offset and length.
    Discard(u64, u64),
    /// A flush of a file that was written since the last.
    Flush,
}

/// An open image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    path: String,
    /// The driver's state; none for raw.
    qcow2: Option<Box<Qcow2>>,
    backing: Option<Box<Image>>,
    bitmaps: Vec<StoredBitmap>,
    written: bool,
    /// The image was found corrupt: `bs->drv == NULL`.
    dropped: bool,
    /// What reached the file, if that is recorded.
    pub trace: Option<Vec<ImageStep>>,
}

/// `qcow2_co_create` on an empty file.
pub(super) fn create(files: &mut HostFiles, path: &str, options: CreateOptions) -> Result<(), HostError> {
    let mut image = Image::closed(path);
    image.drive(files, Qcow2Call::create(options)).map(drop).map_err(|fault| HostError::new(path, fault))
}

/// The file that an image names as its backing file, and its format where the name says it: `json:{…}` describes nodes, of which the lowest
/// names the file. A name that describes no file stays as it is, and is not found.
fn plain_name(name: &str) -> (String, Option<Format>) {
    let whole = || (name.strip_prefix("file:").unwrap_or(name).trim_start_matches("./").to_owned(), None);
    let Some(text) = name.strip_prefix("json:") else { return whole() };
    let Ok(mut node) = serde_json::from_str::<serde_json::Value>(text) else { return whole() };
    let driver = node.get("driver").and_then(serde_json::Value::as_str);
    let format = match driver {
        // A file by itself, whatever stands in it.
        Some("file") => Some(Format::Raw),
        other => other.and_then(Format::from_name),
    };
    for _ in 0..MAX_DEPTH {
        let named = ["filename", "file.filename"].iter().find_map(|key| node.get(key)?.as_str());
        if let Some(file) = named {
            return (file.to_owned(), format);
        }
        match node.get("file").or_else(|| node.get("image")).cloned() {
            Some(below) => node = below,
            None => break,
        }
    }
    whole()
}

impl Image {
    fn closed(path: &str) -> Image {
        Image {
            path: path.to_owned(),
            qcow2: Some(Box::new(Qcow2::new(FileTraits::default()))),
            backing: None,
            bitmaps: Vec::new(),
            written: false,
            dropped: false,
            trace: None,
        }
    }

    /// Opens an image and, read-only, what it is based on. Without `format`, the first bytes tell.
    ///
    /// # Errors
    /// If a file of the chain is missing or is no image of its format.
    pub fn open(files: &mut HostFiles, path: &str, format: Option<Format>, writable: bool) -> Result<Image, HostError> {
        Image::open_at(files, path, format, &OpenOptions { writable, ..OpenOptions::default() }, 0)
    }

    /// [`Image::open`], with options for the first image of the chain.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_with(
        files: &mut HostFiles,
        path: &str,
        format: Option<Format>,
        options: &OpenOptions,
    ) -> Result<Image, HostError> {
        Image::open_at(files, path, format, options, 0)
    }

    fn open_at(
        files: &mut HostFiles,
        path: &str,
        format: Option<Format>,
        options: &OpenOptions,
        depth: usize,
    ) -> Result<Image, HostError> {
        if files.get(path).is_none() {
            return Err(not_found(path));
        }
        if depth > MAX_DEPTH {
            return Err(HostError::new(path, Errno::ELOOP));
        }
        let mut image = Image::open_one(files, path, format, options)?;
        let named = image.qcow2.as_ref().and_then(|q| {
            let format = q.backing_format().and_then(Format::from_name);
            q.backing_file().map(|file| (file.to_owned(), format))
        });
        if let Some((file, format)) = named {
            let options = OpenOptions { writable: false, ..OpenOptions::default() };
            let (file, said) = plain_name(&file);
            let backing = Image::open_at(files, &file, said.or(format), &options, depth + 1)?;
            image.set_backing(Some(Box::new(backing)));
        }
        Ok(image)
    }

    /// Opens an image without what it is based on.
    pub(super) fn open_one(
        files: &mut HostFiles,
        path: &str,
        format: Option<Format>,
        options: &OpenOptions,
    ) -> Result<Image, HostError> {
        let format = match format {
            Some(format) => format,
            None => files.probe(path)?,
        };
        let mut image = Image::closed(path);
        if format == Format::Raw {
            image.qcow2 = None;
            return Ok(image);
        }
        let opened = image.drive(files, Qcow2Call::open(options.clone()));
        match opened.map_err(|fault| HostError::new(path, fault))? {
            Qcow2Result::Opened(bitmaps) => image.bitmaps = bitmaps,
            _ => image.bitmaps.clear(),
        }
        Ok(image)
    }

    /// Attaches another backing image.
    pub(super) fn set_backing(&mut self, backing: Option<Box<Image>>) -> Option<Box<Image>> {
        if let Some(q) = &mut self.qcow2 {
            q.has_backing = backing.is_some();
        }
        std::mem::replace(&mut self.backing, backing)
    }

    /// The image that this one is based on.
    #[must_use]
    pub fn backing(&self) -> Option<&Image> {
        self.backing.as_deref()
    }

    /// The file of the image.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The qcow2 driver's state, unless the image is raw.
    #[must_use]
    pub fn qcow2(&self) -> Option<&Qcow2> {
        self.qcow2.as_deref()
    }

    /// The bitmaps that were in the image when it was opened.
    #[must_use]
    pub fn bitmaps(&self) -> &[StoredBitmap] {
        &self.bitmaps
    }

    /// Size of the disk in bytes; of a raw image 0 (its file tells).
    #[must_use]
    pub fn size(&self) -> u64 {
        self.qcow2.as_ref().map_or(0, |q| q.size())
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub fn size_in(&self, files: &HostFiles) -> u64 {
        match &self.qcow2 {
            Some(q) => q.size(),
            None => files.get(&self.path).map_or(0, |file| file.size),
        }
    }

    fn note(&mut self, step: ImageStep) {
        if let Some(trace) = &mut self.trace {
            trace.push(step);
        }
    }

    /// Runs an operation of the qcow2 driver to its end.
    ///
    /// # Errors
    /// Those of the operation; `EINVAL` for a raw image, `ENOMEDIUM` for one that was found corrupt.
    pub fn drive(&mut self, files: &mut HostFiles, op: Qcow2Call) -> Result<Qcow2Result, Fault> {
        if self.dropped { Err(Errno::ENOMEDIUM.into()) } else { self.drive_on(files, op) }
    }

    fn drive_on(&mut self, files: &mut HostFiles, mut op: Qcow2Call) -> Result<Qcow2Result, Fault> {
        if let Some(q) = &mut self.qcow2 {
            // A procedure that nobody follows need not run again after each of its writes.
            q.file.events = self.trace.is_some();
        }
        let mut got = Qcow2Answer::Done;
        loop {
            let Some(q) = &mut self.qcow2 else { return Err(Errno::EINVAL.into()) };
            got = match op.resume(q, got) {
                Qcow2Ask::Done(result) => return result,
                Qcow2Ask::Event(event) => {
                    self.note(ImageStep::Event(event));
                    Qcow2Answer::Done
                }
                Qcow2Ask::Start { slot, task } => {
                    let result = self.drive_on(files, *task);
                    op.task_done(slot, result);
                    Qcow2Answer::Done
                }
                Qcow2Ask::DropDriver => {
                    self.dropped = true;
                    Qcow2Answer::Done
                }
                ask => self.perform(files, ask).unwrap_or_else(Qcow2Answer::Failed),
            };
        }
    }

    /// Does what an operation asks for.
    fn perform(&mut self, files: &mut HostFiles, ask: Qcow2Ask) -> Result<Qcow2Answer, Errno> {
        Ok(match ask {
            Qcow2Ask::Read { child: Qcow2Child::Backing, offset, len } => match &mut self.backing {
                Some(backing) => Qcow2Answer::Data(backing.read(files, offset, len).map_err(|fault| fault.errno)?),
                None => Qcow2Answer::Data(Data::zeroes(len)),
            },
            Qcow2Ask::Read { child: Qcow2Child::File, offset, len } => {
                self.note(ImageStep::Read(offset, len));
                let file = files.get(&self.path).ok_or(Errno::ENOENT)?;
                Qcow2Answer::Data(file.content.read(offset, len))
            }
            Qcow2Ask::BlockStatusAbove { offset, len, want_zero } => {
                Qcow2Answer::Status(self.status_above(files, want_zero, offset, len).map_err(|fault| fault.errno)?)
            }
            Qcow2Ask::GetLength => Qcow2Answer::Number(files.get(&self.path).map_or(0, |file| file.size)),
            Qcow2Ask::GetAllocatedSize => Qcow2Answer::Number(
                files.get(&self.path).map_or(0, |file| file.content.allocated_bytes().next_multiple_of(512)),
            ),
            Qcow2Ask::Flush => {
                if std::mem::take(&mut self.written) {
                    self.note(ImageStep::Flush);
                }
                Qcow2Answer::Done
            }
            ask => {
                self.change(files, ask)?;
                Qcow2Answer::Done
            }
        })
    }

    fn change(&mut self, files: &mut HostFiles, ask: Qcow2Ask) -> Result<(), Errno> {
        let file = files.change(&self.path).ok_or(Errno::ENOENT)?;
        let step = match ask {
            Qcow2Ask::Write { offset, data } => {
                file.content.write(offset, &data);
                file.size = file.size.max(offset + data.len());
                ImageStep::Write(offset, data.len())
            }
            Qcow2Ask::WriteZeroes { offset, len, may_unmap, .. } => {
                // Without, there are unwritten extents, which count as data once their pages were read; and what an image's tables are
                // read with, the host reads ahead.
                if may_unmap {
                    file.content.zero(offset, len);
                } else {
                    file.content.write(offset, &Data::zeroes(len));
                }
                file.size = file.size.max(offset + len);
                ImageStep::Zero(offset, len)
            }
            Qcow2Ask::Discard { offset, len } => {
                file.content.zero(offset, len);
                ImageStep::Discard(offset, len)
            }
            Qcow2Ask::Truncate { size } => {
                files.truncate(&self.path, size);
                self.written = true;
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.written = true;
        self.note(step);
        Ok(())
    }

    /// `bdrv_pread`: behind the end there is zero.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn read(&mut self, files: &mut HostFiles, offset: u64, len: u64) -> Result<Data, Fault> {
        let size = self.size_in(files);
        let inside = len.min(size.saturating_sub(offset));
        let mut data = match &self.qcow2 {
            _ if inside == 0 => Data::new(),
            None => files.get(&self.path).ok_or(Errno::ENOENT)?.content.read(offset, inside),
            Some(_) => match self.drive(files, Qcow2Call::preadv(offset, inside))? {
                Qcow2Result::Data(data) => data,
                _ => return Err(Errno::EIO.into()),
            },
        };
        data.append(&Data::zeroes(len - inside));
        Ok(data)
    }

    /// `bdrv_co_block_status` of this layer alone.
    fn status(&mut self, files: &mut HostFiles, want_zero: bool, offset: u64, len: u64) -> Result<Qcow2Status, Fault> {
        let size = self.size_in(files);
        if offset >= size {
            return Ok(Qcow2Status { flags: Qcow2Status::EOF, ..Qcow2Status::default() });
        }
        let len = len.min(size - offset);
        let mut status = match &self.qcow2 {
            None => raw_status(files, &self.path, want_zero, offset, len),
            Some(_) => match self.drive(files, Qcow2Call::block_status(offset, len))? {
                Qcow2Result::Status(status) => status,
                _ => return Err(Errno::EIO.into()),
            },
        };
        if status.flags & (Qcow2Status::DATA | Qcow2Status::ZERO) != 0 {
            status.flags |= Qcow2Status::ALLOCATED;
        } else {
            let short = self.backing.as_ref().is_none_or(|backing| want_zero && offset >= backing.size_in(files));
            status.flags |= if short { Qcow2Status::ZERO } else { 0 };
        }
        if want_zero && status.flags & Qcow2Status::RECURSE != 0 {
            let below = raw_status(files, &self.path, true, status.map, status.len);
            status.len = below.len.max(1).min(status.len);
            status.flags |= below.flags & Qcow2Status::ZERO;
        }
        status.flags |= if offset + status.len == size { Qcow2Status::EOF } else { 0 };
        Ok(status)
    }

    /// `bdrv_co_common_block_status_above`, through the whole chain.
    ///
    /// # Errors
    /// Those of the drivers.
    pub fn status_above(
        &mut self,
        files: &mut HostFiles,
        want_zero: bool,
        offset: u64,
        len: u64,
    ) -> Result<Qcow2Status, Fault> {
        self.status_in_chain(files, want_zero, offset, len).map(|(status, _)| status)
    }

    /// The status that `qemu-img map` shows: of the first layer that says something, and how far down that is.
    pub(super) fn status_for_map(
        &mut self,
        files: &mut HostFiles,
        offset: u64,
        len: u64,
    ) -> Result<(Qcow2Status, u64), Fault> {
        let top = self.status(files, true, offset, len)?;
        match &mut self.backing {
            Some(backing) if top.flags & (Qcow2Status::ZERO | Qcow2Status::DATA) == 0 => {
                let (below, depth) = backing.status_for_map(files, offset, top.len)?;
                Ok((below, depth + 1))
            }
            _ => Ok((top, 0)),
        }
    }

    /// The status through the whole chain, and how far down the layer is that decides.
    pub(super) fn status_with_depth(
        &mut self,
        files: &mut HostFiles,
        offset: u64,
        len: u64,
    ) -> Result<(Qcow2Status, u64), Fault> {
        self.status_in_chain(files, true, offset, len)
    }

    fn status_in_chain(
        &mut self,
        files: &mut HostFiles,
        want_zero: bool,
        offset: u64,
        len: u64,
    ) -> Result<(Qcow2Status, u64), Fault> {
        let top = self.status(files, want_zero, offset, len)?;
        if top.len == 0 || top.flags & Qcow2Status::ALLOCATED != 0 {
            return Ok((top, 0));
        }
        let Some(backing) = &mut self.backing else { return Ok((top, 0)) };
        let (mut below, depth) = backing.status_in_chain(files, want_zero, offset, top.len)?;
        if below.len == 0 {
            below = Qcow2Status { flags: Qcow2Status::ZERO | Qcow2Status::ALLOCATED, len: top.len, map: 0 };
        }
        below.flags &= !Qcow2Status::EOF;
        below.flags |= if top.flags & Qcow2Status::EOF != 0 && below.len == top.len { Qcow2Status::EOF } else { 0 };
        Ok((below, depth + 1))
    }

    /// `bdrv_pwrite`
    ///
    /// # Errors
    /// Those of the driver.
    pub fn write(&mut self, files: &mut HostFiles, offset: u64, data: Data) -> Result<(), Fault> {
        self.mark_dirty(offset, data.len());
        if self.qcow2.is_some() {
            return self.drive(files, Qcow2Call::pwritev(offset, data)).map(drop);
        }
        Ok(self.change(files, Qcow2Ask::Write { offset, data })?)
    }

    /// `bdrv_pwrite` with `BDRV_REQ_WRITE_COMPRESSED`
    ///
    /// # Errors
    /// Those of the driver; `ENOTSUP` for a raw image.
    pub fn write_compressed(&mut self, files: &mut HostFiles, offset: u64, data: Data) -> Result<(), Fault> {
        if self.qcow2.is_none() {
            return Err(Errno::ENOTSUP.into());
        }
        self.mark_dirty(offset, data.len());
        self.drive(files, Qcow2Call::pwritev_compressed(offset, data)).map(drop)
    }

    /// `bdrv_pwrite_zeroes`: what the driver cannot do becomes a plain write.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn write_zeroes(&mut self, files: &mut HostFiles, offset: u64, len: u64, may_unmap: bool) -> Result<(), Fault> {
        self.mark_dirty(offset, len);
        let Some(q) = &self.qcow2 else {
            return Ok(self.change(files, Qcow2Ask::WriteZeroes { offset, len, may_unmap, no_fallback: false })?);
        };
        for (at, n) in pieces(offset, len, q.cluster_size()) {
            match self.drive(files, Qcow2Call::pwrite_zeroes(at, n, may_unmap)) {
                Ok(_) => {}
                Err(fault) if fault.errno == Errno::ENOTSUP => self.write(files, at, Data::zeroes(n))?,
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// `bdrv_pdiscard`: parts that the driver cannot discard are left alone.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn discard(&mut self, files: &mut HostFiles, offset: u64, len: u64) -> Result<(), Fault> {
        self.mark_dirty(offset, len);
        let Some(q) = &self.qcow2 else { return Ok(self.change(files, Qcow2Ask::Discard { offset, len })?) };
        for (at, n) in pieces(offset, len, q.cluster_size()) {
            match self.drive(files, Qcow2Call::pdiscard(at, n)) {
                Err(fault) if fault.errno != Errno::ENOTSUP => return Err(fault),
                _ => {}
            }
        }
        Ok(())
    }

    /// `bdrv_co_truncate`
    ///
    /// # Errors
    /// Those of the driver; a qcow2 image with bitmaps cannot be resized here, as that would have to resize them.
    pub fn truncate(&mut self, files: &mut HostFiles, size: u64) -> Result<(), Fault> {
        if self.qcow2.is_none() {
            return Ok(self.change(files, Qcow2Ask::Truncate { size })?);
        }
        // Data of the backing file must not appear in the new area.
        let old = self.size();
        let zero = size > old && self.backing.as_ref().is_some_and(|backing| backing.size_in(files) > old);
        self.drive(files, Qcow2Call::truncate(size, zero, Arc::new([]))).map(drop)
    }

    /// `bdrv_set_dirty`: the bitmaps that record note the write.
    fn mark_dirty(&mut self, offset: u64, len: u64) {
        let recording = |bitmap: &&mut StoredBitmap| bitmap.enabled && !bitmap.readonly && !bitmap.inconsistent;
        for bitmap in self.bitmaps.iter_mut().filter(recording).filter(|_| len > 0) {
            let (first, last) = (offset / bitmap.granularity, (offset + len - 1) / bitmap.granularity);
            let (from, to) = (first / 8, last / 8);
            // Between the bytes at the ends, which other bits share, all are set.
            let shared = |at: u64| {
                let bits = (at * 8).max(first)..=(at * 8 + 7).min(last);
                let set = bits.fold(0, |set, bit| set | 1u8 << (bit % 8));
                Data::pattern(bitmap.bits.byte_at(at).unwrap_or(0) | set, 1, WriteTag(0))
            };
            let mut marked = shared(from);
            if to > from {
                marked.append(&Data::pattern(0xff, to - from - 1, WriteTag(0)));
                marked.append(&shared(to));
            }
            let all = bitmap.bits.len();
            let rest = bitmap.bits.slice(to + 1, all);
            bitmap.bits = Data::concat([&bitmap.bits.slice(0, from), &marked, &rest]).slice(0, all);
        }
    }

    /// `bdrv_flush`
    ///
    /// # Errors
    /// Those of the driver.
    pub fn flush(&mut self, files: &mut HostFiles) -> Result<(), Fault> {
        self.note(ImageStep::Event(BlkdebugEvent::FlushToOs));
        if self.qcow2.is_some() {
            self.drive(files, Qcow2Call::flush_to_os())?;
        }
        if self.written {
            self.note(ImageStep::Event(BlkdebugEvent::FlushToDisk));
            self.note(ImageStep::Flush);
            self.written = false;
        }
        Ok(())
    }

    /// Closes the image: its bitmaps go back into it. What QEMU would print.
    pub fn close(mut self, files: &mut HostFiles) -> Vec<String> {
        self.close_in_place(files)
    }

    pub(super) fn close_in_place(&mut self, files: &mut HostFiles) -> Vec<String> {
        let mut messages = Vec::new();
        if let Err(fault) = self.flush(files) {
            messages.push(fault.to_string());
        }
        let bitmaps: Vec<StoreBitmap> = std::mem::take(&mut self.bitmaps)
            .into_iter()
            .rev()
            .filter(|bitmap| !bitmap.inconsistent)
            .map(|StoredBitmap { name, granularity, enabled, readonly, bits, .. }| StoreBitmap {
                name,
                granularity,
                enabled,
                readonly,
                bits,
            })
            .collect();
        if self.qcow2.is_some()
            && let Ok(Qcow2Result::Closed(printed)) =
                self.drive(files, Qcow2Call::close(Arc::from(bitmaps), &self.path.clone()))
        {
            messages.extend(printed);
        }
        messages
    }
}

/// The block status of a file (block/file-posix.c:raw_co_block_status).
fn raw_status(files: &HostFiles, path: &str, want_zero: bool, offset: u64, len: u64) -> Qcow2Status {
    let Some(file) = files.get(path) else { return Qcow2Status::default() };
    if !want_zero {
        return Qcow2Status { flags: Qcow2Status::DATA | Qcow2Status::OFFSET_VALID, len, map: offset };
    }
    let (data, n) = file.content.status(offset, len);
    let kind = if data { Qcow2Status::DATA } else { Qcow2Status::ZERO };
    Qcow2Status { flags: kind | Qcow2Status::OFFSET_VALID, len: n, map: offset }
}

/// Cuts a range into what lies before the first whole cluster, the whole ones, and what lies behind
/// (block/io.c:bdrv_co_do_pwrite_zeroes, bdrv_co_pdiscard).
fn pieces(offset: u64, len: u64, cluster: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset + len;
    let head = offset.next_multiple_of(cluster).min(end);
    let tail = (end / cluster * cluster).max(head);
    [(offset, head), (head, tail), (tail, end)]
        .into_iter()
        .filter(|(from, to)| from < to)
        .map(|(from, to)| (from, to - from))
}
