//! What a node of the block graph reads as, kept at one moment and read later.
//!
//! Taking one costs a few references; what is read is found out when it is asked for, through a copy of the driver's state, so that
//! metadata that has not reached the file is seen too.

use super::File;
use crate::base::errno::Errno;
use crate::block::content::Data;
use crate::block::qcow2::{Fault, Qcow2, Qcow2Answer, Qcow2Ask, Qcow2Call, Qcow2Child, Qcow2Result, Qcow2Status};
use std::sync::Arc;

/// Bytes that are compared in one go.
const STEP: u64 = 2 << 20;

/// A node and what is below it, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Frozen {
    /// What it reads as is not known.
    Unknown,
    /// It reads as zero.
    Zero,
    /// Bytes of the host, without a format.
    File {
        /// Where it stands on the host.
        path: Arc<str>,
        /// What it holds.
        file: Arc<File>,
    },
    /// A part of the node below.
    Shifted {
        /// Where it begins.
        offset: u64,
        /// How long it is; `None`: to the end.
        size: Option<u64>,
        /// What stands below the part that is shown.
        below: Box<Frozen>,
    },
    /// A qcow2 image.
    Qcow2(Box<Image>),
}

/// A qcow2 image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    /// The driver's state.
    pub driver: Qcow2,
    /// The image's file.
    pub file: Frozen,
    /// The node that it is based on.
    pub backing: Option<Frozen>,
}

/// Where two things first differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differs {
    /// First byte that differs.
    pub offset: u64,
    /// What both have there.
    pub detail: String,
}

impl Image {
    fn drive(&mut self, mut op: Qcow2Call) -> Result<Qcow2Result, Fault> {
        let mut got = Qcow2Answer::Done;
        loop {
            got = match op.resume(&mut self.driver, got) {
                Qcow2Ask::Done(result) => return result,
                Qcow2Ask::Start { slot, task } => {
                    let result = self.drive(*task);
                    op.task_done(slot, result);
                    Qcow2Answer::Done
                }
                Qcow2Ask::Read { child, offset, len } => {
                    let below = match child {
                        Qcow2Child::File => Some(&mut self.file),
                        Qcow2Child::Backing => self.backing.as_mut(),
                    };
                    match below.map_or(Ok(Data::zeroes(len)), |below| below.read(offset, len)) {
                        Ok(data) => Qcow2Answer::Data(data),
                        Err(errno) => Qcow2Answer::Failed(errno),
                    }
                }
                Qcow2Ask::Write { offset, data } => {
                    self.file.write(offset, &data);
                    Qcow2Answer::Done
                }
                Qcow2Ask::GetLength => Qcow2Answer::Number(self.file.size().unwrap_or(0)),
                Qcow2Ask::BlockStatusAbove { .. } | Qcow2Ask::GetAllocatedSize => Qcow2Answer::Failed(Errno::ENOTSUP),
                _ => Qcow2Answer::Done,
            };
        }
    }
}

impl Frozen {
    /// Its length, where it has one.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        match self {
            Frozen::Unknown | Frozen::Zero => None,
            Frozen::File { file, .. } => Some(file.size),
            Frozen::Shifted { offset, size, below } => {
                let all = below.size().map(|all| all.saturating_sub(*offset));
                (*size).map_or(all, |size| Some(all.map_or(size, |all| all.min(size))))
            }
            Frozen::Qcow2(image) => Some(image.driver.size()),
        }
    }

    /// Whether what is written there can be read back: not from a null device.
    #[must_use]
    pub fn keeps_writes(&self) -> bool {
        match self {
            Frozen::Unknown | Frozen::Zero => false,
            Frozen::File { .. } => true,
            Frozen::Shifted { below, .. } => below.keeps_writes(),
            Frozen::Qcow2(image) => image.file.keeps_writes(),
        }
    }

    /// Path of the file that holds the image.
    #[must_use]
    pub fn path(&self) -> Option<&Arc<str>> {
        match self {
            Frozen::Unknown | Frozen::Zero => None,
            Frozen::File { path, .. } => Some(path),
            Frozen::Shifted { below, .. } => below.path(),
            Frozen::Qcow2(image) => image.file.path(),
        }
    }

    /// What it is based on.
    #[must_use]
    pub fn backing(&self) -> Option<&Frozen> {
        match self {
            Frozen::Qcow2(image) => image.backing.as_ref(),
            _ => None,
        }
    }

    /// Bytes of a cluster, for images that have them.
    #[must_use]
    pub fn cluster_size(&self) -> Option<u64> {
        match self {
            Frozen::Qcow2(image) => Some(image.driver.cluster_size()),
            _ => None,
        }
    }

    /// A driver that reads may write a table back to make room for another.
    fn write(&mut self, offset: u64, data: &Data) {
        if let Frozen::File { file, .. } = self {
            let file = Arc::make_mut(file);
            file.content.write(offset, data);
            file.size = file.size.max(offset + data.len());
        }
    }

    /// Reads; behind the end there is zero.
    ///
    /// # Errors
    /// Those of the driver; `ENODATA` where what it reads as is not known.
    pub fn read(&mut self, offset: u64, len: u64) -> Result<Data, Errno> {
        let inside = self.size().map_or(len, |size| len.min(size.saturating_sub(offset)));
        let mut data = match self {
            Frozen::Unknown => return Err(Errno::ENOTSUP),
            Frozen::Zero => Data::zeroes(inside),
            _ if inside == 0 => Data::new(),
            Frozen::File { file, .. } => file.content.read(offset, inside),
            Frozen::Shifted { offset: by, below, .. } => below.read(offset + *by, inside)?,
            Frozen::Qcow2(image) => match image.drive(Qcow2Call::preadv(offset, inside)) {
                Ok(Qcow2Result::Data(data)) => data,
                Ok(_) => return Err(Errno::EIO),
                Err(fault) => return Err(fault.errno),
            },
        };
        data.append(&Data::zeroes(len - inside));
        Ok(data)
    }

    /// The status of this layer: whether it has the bytes itself, whether they are known to be zero, and for how many that holds.
    pub fn status(&mut self, offset: u64, len: u64) -> (bool, bool, u64) {
        let size = self.size().unwrap_or(u64::MAX);
        if offset >= size {
            return (false, true, len);
        }
        let len = len.min(size - offset);
        match self {
            Frozen::Unknown => (true, false, len),
            Frozen::Zero => (true, true, len),
            Frozen::File { file, .. } => {
                let (data, len) = file.content.status(offset, len);
                (true, !data, len)
            }
            Frozen::Shifted { offset: by, below, .. } => below.status(offset + *by, len),
            Frozen::Qcow2(image) => match image.drive(Qcow2Call::block_status(offset, len)) {
                Ok(Qcow2Result::Status(status)) if status.len > 0 => {
                    let has = |flag| status.flags & flag != 0;
                    (has(Qcow2Status::DATA | Qcow2Status::ZERO), has(Qcow2Status::ZERO), status.len.min(len))
                }
                _ => (true, false, len),
            },
        }
    }

    /// Whether the bytes are known to be zero, through all layers, and for how many that answer holds.
    pub fn reads_zero(&mut self, offset: u64, len: u64) -> (bool, u64) {
        let (own, zero, len) = self.status(offset, len);
        match self {
            Frozen::Qcow2(image) if !own && !zero => match &mut image.backing {
                Some(below) => below.reads_zero(offset, len),
                None => (true, len),
            },
            _ => (zero, len),
        }
    }

    /// The first byte of a range at which the two read differently. What cannot be read is passed over.
    pub fn difference(&mut self, other: &mut Frozen, offset: u64, len: u64) -> Option<Differs> {
        let end = offset.saturating_add(len);
        let mut at = offset;
        while at < end {
            let (here, n) = self.reads_zero(at, end - at);
            let (there, m) = other.reads_zero(at, end - at);
            let same = n.min(m).max(1);
            if here && there {
                at += same;
                continue;
            }
            let len = same.min(STEP).min(end - at);
            if let (Ok(a), Ok(b)) = (self.read(at, len), other.read(at, len))
                && let Some(difference) = a.first_difference(&b)
            {
                return Some(Differs { offset: at + difference.offset, detail: difference.to_string() });
            }
            at += len;
        }
        None
    }
}
