//! The commands of qemu-io, and those of qemu-img that tell about an image.

use super::{Format, HostError, HostFiles, Image};
use crate::base::errno::Errno;
use crate::block::content::{Data, WriteTag};
use crate::block::qcow2::{Fault, OpenOptions, Qcow2Status};

/// What `qemu-img info` tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QemuImgInfo {
    /// `file format`
    pub format: Format,
    /// `virtual size` in bytes.
    pub virtual_size: u64,
    /// `cluster_size` in bytes.
    pub cluster_size: Option<u64>,
    /// `backing file`
    pub backing_file: Option<String>,
    /// `backing file format`
    pub backing_format: Option<String>,
    /// `compat`: format version.
    pub version: Option<u32>,
    /// `lazy refcounts`
    pub lazy_refcounts: bool,
    /// `refcount bits`
    pub refcount_bits: Option<u32>,
    /// `corrupt`
    pub corrupt: bool,
    /// `bitmaps`: name, granularity, flag `in-use`, flag `auto`.
    pub bitmaps: Vec<(String, u64, bool, bool)>,
}

/// An entry of `qemu-img map`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MapEntry {
    /// In bytes of the disk.
    pub start: u64,
    /// In bytes.
    pub length: u64,
    /// How far down the chain; 0 is the image itself.
    pub depth: u64,
    /// Whether any layer has it.
    pub present: bool,
    /// Whether it reads as zero.
    pub zero: bool,
    /// Whether it holds data.
    pub data: bool,
    /// Where in the file it lies.
    pub offset: Option<u64>,
}

/// `bdrv_check_request32`, as far as the image's size goes: nothing behind its end is touched.
fn inside(files: &HostFiles, image: &Image, offset: u64, len: u64) -> Result<(), Fault> {
    let end = offset.checked_add(len);
    if end.is_some_and(|end| end <= image.size_in(files)) { Ok(()) } else { Err(Errno::EIO.into()) }
}

impl HostFiles {
    /// Opens an image for writing, does something with it, closes it.
    fn with<T>(
        &mut self,
        path: &str,
        format: Option<Format>,
        options: &OpenOptions,
        work: impl FnOnce(&mut HostFiles, &mut Image) -> Result<T, Fault>,
    ) -> Result<T, HostError> {
        let mut image = Image::open_with(self, path, format, options)?;
        let result = work(self, &mut image);
        image.close(self);
        result.map_err(|fault| HostError::new(path, fault))
    }

    /// `qemu-io -c 'write -P BYTE OFFSET LEN'`
    ///
    /// # Errors
    /// If the image cannot be opened or written.
    pub fn write(&mut self, path: &str, offset: u64, len: u64, byte: u8, tag: WriteTag) -> Result<(), HostError> {
        let data = Data::pattern(byte, len, tag);
        self.with(path, None, &OpenOptions::default(), |files, image| {
            inside(files, image, offset, len)?;
            image.write(files, offset, data)
        })
    }

    /// `qemu-io -c 'write -z OFFSET LEN'`, with `-u` if `unmap`.
    ///
    /// # Errors
    /// If the image cannot be opened or written.
    pub fn write_zeroes(&mut self, path: &str, offset: u64, len: u64, unmap: bool) -> Result<(), HostError> {
        self.with(path, None, &OpenOptions::default(), |files, image| {
            inside(files, image, offset, len)?;
            image.write_zeroes(files, offset, len, unmap)
        })
    }

    /// `qemu-io -d unmap -c 'discard OFFSET LEN'`
    ///
    /// # Errors
    /// If the image cannot be opened or written.
    pub fn discard(&mut self, path: &str, offset: u64, len: u64) -> Result<(), HostError> {
        let options = OpenOptions { discard_request: true, ..OpenOptions::default() };
        self.with(path, None, &options, |files, image| {
            inside(files, image, offset, len)?;
            image.discard(files, offset, len)
        })
    }

    /// `qemu-io -r -c 'read OFFSET LEN'`
    ///
    /// # Errors
    /// If the image cannot be opened or read.
    pub fn read(&mut self, path: &str, offset: u64, len: u64) -> Result<Data, HostError> {
        let options = OpenOptions { writable: false, ..OpenOptions::default() };
        self.with(path, None, &options, |files, image| {
            inside(files, image, offset, len)?;
            image.read(files, offset, len)
        })
    }

    /// `qemu-img resize`, with `--shrink` where that is needed.
    ///
    /// # Errors
    /// If the image cannot be opened or resized.
    pub fn resize(&mut self, path: &str, size: u64) -> Result<(), HostError> {
        self.with(path, None, &OpenOptions::default(), |files, image| image.truncate(files, size))
    }

    /// `qemu-img info`
    ///
    /// # Errors
    /// If the image cannot be opened. Its backing file need not be there.
    pub fn info(&mut self, path: &str) -> Result<QemuImgInfo, HostError> {
        let options = OpenOptions { writable: false, ..OpenOptions::default() };
        let image = Image::open_one(self, path, None, &options)?;
        let q = image.qcow2();
        let bitmap = |bitmap: &crate::block::qcow2::StoredBitmap| {
            (bitmap.name.clone(), bitmap.granularity, bitmap.inconsistent, bitmap.enabled)
        };
        Ok(QemuImgInfo {
            format: if q.is_some() { Format::Qcow2 } else { Format::Raw },
            virtual_size: image.size_in(self),
            cluster_size: q.map(|q| q.cluster_size()),
            backing_file: q.and_then(|q| q.backing_file().map(str::to_owned)),
            backing_format: q.and_then(|q| q.backing_format().map(str::to_owned)),
            version: q.map(|q| q.version()),
            lazy_refcounts: q.is_some_and(|q| q.lazy_refcounts()),
            refcount_bits: q.map(|q| q.refcount_bits()),
            corrupt: q.is_some_and(|q| q.is_corrupt()),
            bitmaps: image.bitmaps().iter().map(bitmap).collect(),
        })
    }

    /// `qemu-img map --output=json`
    ///
    /// # Errors
    /// If the image cannot be opened or read.
    pub fn map(&mut self, path: &str) -> Result<Vec<MapEntry>, HostError> {
        let mut image = Image::open(self, path, None, false)?;
        let size = image.size_in(self);
        let mut map: Vec<MapEntry> = Vec::new();
        let mut at = 0;
        while at < size {
            let (status, depth) =
                image.status_for_map(self, at, size - at).map_err(|fault| HostError::new(path, fault))?;
            let has = |flag| status.flags & flag != 0;
            let entry = MapEntry {
                start: at,
                length: status.len,
                depth,
                present: has(Qcow2Status::ALLOCATED),
                zero: has(Qcow2Status::ZERO),
                data: has(Qcow2Status::DATA),
                offset: has(Qcow2Status::OFFSET_VALID).then_some(status.map),
            };
            at += status.len.max(1);
            match map.last_mut() {
                Some(last) if last.continues(&entry) => last.length += entry.length,
                _ => map.push(entry),
            }
        }
        Ok(map)
    }
}

impl MapEntry {
    fn continues(&self, next: &MapEntry) -> bool {
        let same = |e: &MapEntry| (e.depth, e.present, e.zero, e.data);
        let offset = self.offset.map(|offset| offset + self.length);
        same(self) == same(next) && (offset == next.offset)
    }
}
