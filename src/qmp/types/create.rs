//! Arguments of `blockdev-create` (`BlockdevCreateOptions`).

use std::sync::Arc;

use super::blockdev::{BlockdevRef, Driver};
use super::enums::{PreallocMode, Qcow2CompressionType, Qcow2Version};
use crate::base::Json;
use crate::qmp::visit::{At, Visit, Visitor};

/// `blockdev-create`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockdevCreate {
    /// Name of the job.
    pub job_id: Arc<str>,
    /// What to create.
    pub options: CreateOptions,
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

/// Creating a host file (`BlockdevCreateOptionsFile`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CreateFile {
    /// Name of the host file.
    pub filename: Arc<str>,
    /// Bytes.
    pub size: u64,
    /// Default off.
    pub preallocation: Option<PreallocMode>,
    /// Default false.
    pub nocow: Option<bool>,
    /// Bytes.
    pub extent_size_hint: Option<u64>,
}

/// Creating a qcow2 image (`BlockdevCreateOptionsQcow2`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CreateQcow2 {
    /// The node to write it to.
    pub file: BlockdevRef,
    /// External data file.
    pub data_file: Option<BlockdevRef>,
    /// Default false.
    pub data_file_raw: Option<bool>,
    /// Default false.
    pub extended_l2: Option<bool>,
    /// Bytes of the virtual disk.
    pub size: u64,
    /// Default v3.
    pub version: Option<Qcow2Version>,
    /// Backing file name for the header.
    pub backing_file: Option<Arc<str>>,
    /// Backing file format for the header.
    pub backing_fmt: Option<Driver>,
    /// Encryption, not looked at.
    pub encrypt: Option<Json>,
    /// Bytes; default 65536.
    pub cluster_size: Option<u64>,
    /// Default off.
    pub preallocation: Option<PreallocMode>,
    /// Default false.
    pub lazy_refcounts: Option<bool>,
    /// Default 16.
    pub refcount_bits: Option<i64>,
    /// Default zlib.
    pub compression_type: Option<Qcow2CompressionType>,
}

impl BlockdevCreate {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BlockdevCreate> {
        Ok(BlockdevCreate { job_id: v.str("job-id")?, options: v.with("options", CreateOptions::visit)? })
    }
}

impl CreateOptions {
    /// Drivers that can create images, whose branch of `BlockdevCreateOptions` has members that are not read here.
    pub const UNREAD: [&str; 12] =
        ["gluster", "luks", "nfs", "parallels", "qcow", "qed", "rbd", "ssh", "vdi", "vhdx", "vmdk", "vpc"];

    fn visit(at: At<'_>) -> Visit<CreateOptions> {
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

    /// The driver.
    #[must_use]
    pub fn driver(&self) -> Driver {
        match self {
            CreateOptions::File(_) => Driver::File,
            CreateOptions::Qcow2(_) => Driver::Qcow2,
            CreateOptions::Other(driver, _) => *driver,
        }
    }
}

impl CreateFile {
    fn visit(v: &mut Visitor<'_>) -> Visit<CreateFile> {
        Ok(CreateFile {
            filename: v.str("filename")?,
            size: v.size("size")?,
            preallocation: v.opt_enum("preallocation")?,
            nocow: v.opt_bool("nocow")?,
            extent_size_hint: v.opt_size("extent-size-hint")?,
        })
    }
}

impl CreateQcow2 {
    fn visit(v: &mut Visitor<'_>) -> Visit<CreateQcow2> {
        Ok(CreateQcow2 {
            file: v.with("file", BlockdevRef::visit)?,
            data_file: v.opt_with("data-file", BlockdevRef::visit)?,
            data_file_raw: v.opt_bool("data-file-raw")?,
            extended_l2: v.opt_bool("extended-l2")?,
            size: v.size("size")?,
            version: v.opt_enum("version")?,
            backing_file: v.opt_str("backing-file")?,
            backing_fmt: v.opt_enum("backing-fmt")?,
            encrypt: v.opt_with("encrypt", |at| {
                at.object()?.leave();
                Ok(at.any().clone())
            })?,
            cluster_size: v.opt_size("cluster-size")?,
            preallocation: v.opt_enum("preallocation")?,
            lazy_refcounts: v.opt_bool("lazy-refcounts")?,
            refcount_bits: v.opt_int("refcount-bits")?,
            compression_type: v.opt_enum("compression-type")?,
        })
    }
}
