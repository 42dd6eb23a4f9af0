//! Arguments of the commands about media of removable drives.

use std::sync::Arc;

use crate::qmp::visit::{QapiEnum, Visit, Visitor};

/// A drive, by its own name or that of its device; exactly one is to be given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DriveName {
    /// The drive.
    pub device: Option<Arc<str>>,
    /// The guest device.
    pub id: Option<Arc<str>>,
}

impl DriveName {
    /// Reads the two members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<DriveName> {
        Ok(DriveName { device: v.opt_str("device")?, id: v.opt_str("id")? })
    }
}

#[derive(Clone, Copy)]
enum ReadOnlyMode {
    Retain,
    ReadOnly,
    ReadWrite,
}

impl QapiEnum for ReadOnlyMode {
    const TABLE: &'static [(ReadOnlyMode, &'static str)] = &[
        (ReadOnlyMode::Retain, "retain"),
        (ReadOnlyMode::ReadOnly, "read-only"),
        (ReadOnlyMode::ReadWrite, "read-write"),
    ];
}

/// `blockdev-change-medium`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChangeMedium {
    /// Whose medium.
    pub drive: DriveName,
    /// The new one.
    pub filename: Arc<str>,
    /// Its format; found out if absent.
    pub format: Option<Arc<str>>,
    /// Default false.
    pub force: Option<bool>,
    /// Whether it is to be written to; as the old one if absent.
    pub read_write: Option<bool>,
}

impl ChangeMedium {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<ChangeMedium> {
        Ok(ChangeMedium {
            drive: DriveName::visit(v)?,
            filename: v.str("filename")?,
            format: v.opt_str("format")?,
            force: v.opt_bool("force")?,
            read_write: match v.opt_enum("read-only-mode")? {
                None | Some(ReadOnlyMode::Retain) => None,
                Some(ReadOnlyMode::ReadOnly) => Some(false),
                Some(ReadOnlyMode::ReadWrite) => Some(true),
            },
        })
    }
}
