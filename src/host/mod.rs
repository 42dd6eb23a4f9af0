//! What qemu-img and qemu-io do to image files while no simulated QEMU has them open.
//!
//! [`HostFiles`] is the file system of the simulated host. Its functions do what the commands of these tools do, through the
//! same qcow2 driver as a simulated QEMU, so that the files come out the same.

mod check;
mod compare;
mod device;
mod disk;
mod faults;
mod frozen;
mod image;
mod io;
pub mod network;
mod outside;
mod rebase;

pub use check::CheckResult;
pub use compare::Mismatch;
pub use disk::DiskRates;
pub use faults::{Failing, HostChange, Request};
pub use frozen::{Differs, Frozen, Image as FrozenImage};
pub use image::{Image, ImageStep};
pub use io::{MapEntry, QemuImgInfo};
pub use outside::{FileLook, HostOp, UNREAD};

use crate::base::Kept;
use crate::base::errno::Errno;
use crate::block::content::{Content, Data, WriteTag};
use crate::block::qcow2::{CreateOptions, Fault};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A file of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct File {
    /// What it holds.
    pub content: Content,
    /// Its length in bytes. `content` has nothing behind it.
    pub size: u64,
}

/// An image format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The file is the disk.
    Raw,
    /// See [`crate::block::qcow2`].
    Qcow2,
}

impl Format {
    /// The format of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Format> {
        match name {
            "raw" => Some(Format::Raw),
            "qcow2" => Some(Format::Qcow2),
            _ => None,
        }
    }

    /// The name, as `-f` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

/// Why a command failed: about which file, and what the tool says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostError {
    /// Path of the file.
    pub path: String,
    /// What went wrong there.
    pub fault: Fault,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}': {}", self.path, self.fault)
    }
}

impl std::error::Error for HostError {}

impl HostError {
    fn new(path: &str, fault: impl Into<Fault>) -> HostError {
        HostError { path: path.to_owned(), fault: fault.into() }
    }
}

/// The files of the host, by path. Cloning is cheap, and clones share what they have not changed since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostFiles {
    files: Kept<BTreeMap<Arc<str>, Arc<File>>>,
    /// Where the files are real ones.
    outside: Option<Box<outside::Outside>>,
    /// What the simulated host refuses.
    rules: Option<Box<faults::Rules>>,
    /// How fast its disk is.
    disk: Option<DiskRates>,
    /// Servers that others run, by where they listen.
    servers: BTreeMap<Arc<str>, network::NbdServer>,
}

impl HostFiles {
    /// No files.
    #[must_use]
    pub fn new() -> HostFiles {
        HostFiles::default()
    }

    /// The file at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Arc<File>> {
        self.files.get(path)
    }

    /// Puts a file there, in the place of the one that was there.
    pub fn put(&mut self, path: &str, file: Arc<File>) {
        self.files.change().insert(path.into(), file);
    }

    /// Removes a file: whether it was there.
    pub fn remove(&mut self, path: &str) -> bool {
        self.files.contains_key(path) && self.files.change().remove(path).is_some()
    }

    /// Paths and files, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<File>)> {
        self.files.iter().map(|(path, file)| (&**path, file))
    }

    /// A file about to be changed.
    fn change(&mut self, path: &str) -> Option<&mut File> {
        self.files.change().get_mut(path).map(Arc::make_mut)
    }

    /// The bytes of a file, all of them: only for what is known to be short.
    #[must_use]
    pub fn export(&self, path: &str) -> Option<Vec<u8>> {
        self.get(path).map(|file| file.content.read(0, file.size).to_bytes())
    }

    /// Puts a file with these bytes there. Blocks of 4096 zeroes become holes.
    pub fn import(&mut self, path: &str, bytes: &[u8]) {
        let mut file = File { content: Content::new(), size: bytes.len() as u64 };
        for (at, block) in (0..).step_by(4096).zip(bytes.chunks(4096)) {
            if block.iter().any(|&byte| byte != 0) {
                file.content.write(at, &Data::bytes(block.into(), WriteTag(0)));
            }
        }
        self.put(path, Arc::new(file));
    }

    /// `qemu-img create -f qcow2`. With a backing file and no `size`, the size is that of the backing file.
    ///
    /// # Errors
    /// As the tool; the file is not there then.
    pub fn create_qcow2(&mut self, path: &str, size: Option<u64>, options: &CreateOptions) -> Result<(), HostError> {
        let mut options = options.clone();
        if let Some(size) = size {
            options.size = size;
        } else if let Some(backing) = options.backing_file.clone() {
            let format = options.backing_format.as_deref().and_then(Format::from_name);
            options.size = Image::open(self, &backing, format, false)?.size();
        }
        // What is out of range stays so, and is refused.
        options.size = options.size.checked_next_multiple_of(512).unwrap_or(options.size);
        self.create(path, 0);
        let created = image::create(self, path, options);
        if created.is_err() {
            self.remove(path);
        }
        created
    }

    /// The format of a file, found out by its first bytes (`qcow2_probe`).
    ///
    /// # Errors
    /// If there is no such file.
    pub fn probe(&self, path: &str) -> Result<Format, HostError> {
        let file = self.get(path).ok_or_else(|| not_found(path))?;
        let head = file.content.read(0, 8);
        let is_qcow2 = file.size >= 112 && head.be_at(0, 4) == 0x5146_49fb && head.be_at(4, 4) >= 2;
        Ok(if is_qcow2 { Format::Qcow2 } else { Format::Raw })
    }
}

fn not_found(path: &str) -> HostError {
    HostError::new(path, Errno::ENOENT)
}
