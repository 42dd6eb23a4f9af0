//! `qemu-img rebase`: an image gets another backing file.

use super::{Format, HostError, HostFiles, Image};
use crate::base::errno::Errno;
use crate::block::qcow2::{Fault, OpenOptions, Qcow2Call, Qcow2Status};

impl HostFiles {
    /// `qemu-img rebase -u`: only the header changes, and so what the image reads as.
    ///
    /// # Errors
    /// If the image cannot be opened or written.
    pub fn rebase_unsafe(&mut self, path: &str, backing: Option<&str>, format: Option<&str>) -> Result<(), HostError> {
        let mut image = Image::open_one(self, path, None, &OpenOptions::default())?;
        let changed = self.change_backing(&mut image, backing, format);
        image.close(self);
        changed.map_err(|fault| HostError::new(path, fault))
    }

    /// `qemu-img rebase`: what the new chain lacks is copied into the image first, so that it reads the same.
    ///
    /// # Errors
    /// If an image cannot be opened, read or written.
    pub fn rebase(&mut self, path: &str, backing: Option<&str>, format: Option<&str>) -> Result<(), HostError> {
        let mut image = Image::open(self, path, None, true)?;
        let mut new = match backing {
            Some(file) => Some(Image::open(self, file, format.and_then(Format::from_name), false)?),
            None => None,
        };
        let result = self
            .copy_difference(&mut image, new.as_mut())
            .and_then(|()| self.change_backing(&mut image, backing, format));
        image.close(self);
        result.map_err(|fault| HostError::new(path, fault))
    }

    /// `bdrv_change_backing_file`, which wants a format where there is a name.
    fn change_backing(&mut self, image: &mut Image, backing: Option<&str>, format: Option<&str>) -> Result<(), Fault> {
        if image.qcow2().is_none() {
            return Err(Errno::ENOTSUP.into());
        }
        if backing.is_some() && format.is_none() {
            return Err(Errno::EINVAL.into());
        }
        image.drive(self, Qcow2Call::change_backing_file(backing, format)).map(drop)
    }

    fn copy_difference(&mut self, image: &mut Image, mut new: Option<&mut Image>) -> Result<(), Fault> {
        let size = image.size_in(self);
        let old_size = image.backing().map_or(0, |backing| backing.size_in(self));
        let cluster = image.qcow2().map_or(65_536, |q| q.cluster_size());
        let mut at = 0;
        while at < size {
            let (status, depth) = image.status_with_depth(self, at, size - at)?;
            let same_zero = match &mut new {
                _ if depth == 0 && status.flags & Qcow2Status::ALLOCATED != 0 => true,
                None => status.flags & Qcow2Status::ZERO != 0,
                Some(_) => false,
            };
            if same_zero {
                at += status.len.max(1);
                continue;
            }
            let len = ((at / cluster + 1) * cluster).min(size).min(at + status.len.max(1)) - at;
            let old = image.read(self, at, len)?;
            let same = match &mut new {
                Some(new) => new.read(self, at, len)?.same_bytes(&old),
                None => old.is_zero(),
            };
            // Where the old backing file has ended, nothing is read: zeroes are known to be some.
            if !same && at >= old_size {
                image.write_zeroes(self, at, len, false)?;
            } else if !same {
                image.write(self, at, old)?;
            }
            at += len;
        }
        Ok(())
    }
}
