//! Arguments of `blockdev-create` (`BlockdevCreateOptions`).

use std::sync::Arc;

use super::blockdev::{BlockdevRef, Driver};
use super::enums::{PreallocMode, Qcow2CompressionType, Qcow2Version};
use crate::base::Json;
use crate::qmp::declare::{members, values};
use crate::qmp::visit::{ValueAt, Visit};

members! {
    /// `blockdev-create`.
    pub struct BlockdevCreate {
        /// Name of the job.
        job_id: Arc<str>,
        /// What to create.
        options: CreateOptions,
    }
}

/// What to create.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CreateOptions {
    /// `file`
    File(Box<CreateFile>),
    /// `qcow2`
    Qcow2(Box<CreateQcow2>),
    /// A driver without options here (its `create` job fails) or one the model does not know.
    Other(Driver, Json),
}

members! {
    /// Creating a host file (`BlockdevCreateOptionsFile`).
    pub struct CreateFile {
        /// Name of the host file.
        filename: Arc<str>,
        /// Bytes.
        size: u64,
        /// Default off.
        preallocation: Option<PreallocMode>,
        /// Default false.
        nocow: Option<bool>,
        /// Bytes.
        extent_size_hint: Option<u64>,
    }
}

members! {
    /// Creating a qcow2 image (`BlockdevCreateOptionsQcow2`).
    pub struct CreateQcow2 {
        /// The node to write it to.
        file: BlockdevRef,
        /// External data file.
        data_file: Option<BlockdevRef>,
        /// Default false.
        data_file_raw: Option<bool>,
        /// Default false.
        extended_l2: Option<bool>,
        /// Bytes of the virtual disk.
        size: u64,
        /// Default v3.
        version: Option<Qcow2Version>,
        /// Backing file name for the header.
        backing_file: Option<Arc<str>>,
        /// Backing file format for the header.
        backing_fmt: Option<Driver>,
        /// Encryption, not looked at.
        encrypt: Option<Json> [opt_with unread],
        /// Bytes; default 65536.
        cluster_size: Option<u64>,
        /// Default off.
        preallocation: Option<PreallocMode>,
        /// Default false.
        lazy_refcounts: Option<bool>,
        /// Default 16.
        refcount_bits: Option<i64>,
        /// Default zlib.
        compression_type: Option<Qcow2CompressionType>,
    }
}

/// An object whose members are not looked at.
fn unread(at: ValueAt<'_>) -> Visit<Json> {
    at.object()?.leave();
    Ok(at.any().clone())
}

values!(CreateOptions);

impl CreateOptions {
    /// Drivers that can create images, whose branch of `BlockdevCreateOptions` has members that are not read here.
    pub const UNREAD: [&str; 12] =
        ["gluster", "luks", "nfs", "parallels", "qcow", "qed", "rbd", "ssh", "vdi", "vhdx", "vmdk", "vpc"];

    fn visit(at: ValueAt<'_>) -> Visit<CreateOptions> {
        let mut v = at.object()?;
        let driver: Driver = v.enum_("driver")?;
        let options = match driver {
            Driver::File => CreateOptions::File(Box::new(CreateFile::visit(&mut v)?)),
            Driver::Qcow2 => CreateOptions::Qcow2(Box::new(CreateQcow2::visit(&mut v)?)),
            Driver::Other(name) if Self::UNREAD.contains(&name) => {
                v.leave();
                return Ok(CreateOptions::Other(driver, at.any().clone()));
            }
            _ => CreateOptions::Other(driver, at.any().clone()),
        };
        v.finish()?;
        Ok(options)
    }

    /// The tag of the union, `driver`.
    #[must_use]
    pub fn driver(&self) -> Driver {
        match self {
            CreateOptions::File(_) => Driver::File,
            CreateOptions::Qcow2(_) => Driver::Qcow2,
            CreateOptions::Other(driver, _) => *driver,
        }
    }
}
