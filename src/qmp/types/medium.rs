//! Arguments of the commands about media of removable drives.

use std::sync::Arc;

use crate::qmp::declare::{enums, members};

members! {
    /// A drive, by its own name or that of its device; exactly one is to be given.
    pub struct DriveName {
        /// The drive.
        device: Option<Arc<str>>,
        /// The guest device.
        id: Option<Arc<str>>,
    }
}

impl DriveName {
    /// A drive by its device.
    #[must_use]
    pub fn of_device(id: Arc<str>) -> DriveName {
        DriveName { device: None, id: Some(id) }
    }
}

enums! {
    /// Whether a new medium may be written to (`BlockdevChangeReadOnlyMode`).
    pub enum ReadOnlyMode {
        Retain = "retain",
        ReadOnly = "read-only",
        ReadWrite = "read-write",
    }
}

members! {
    /// `blockdev-change-medium`
    pub struct ChangeMedium {
        /// Whose medium.
        drive: DriveName [flat],
        /// The file that is put in.
        filename: Arc<str>,
        /// Its format; found out if absent.
        format: Option<Arc<str>>,
        /// Default false.
        force: Option<bool>,
        /// Default retain.
        read_only_mode: Option<ReadOnlyMode>,
    }
}

impl ChangeMedium {
    /// Whether the medium is to be written to; `None`: as the one before.
    #[must_use]
    pub fn read_write(&self) -> Option<bool> {
        match self.read_only_mode {
            None | Some(ReadOnlyMode::Retain) => None,
            Some(ReadOnlyMode::ReadOnly) => Some(false),
            Some(ReadOnlyMode::ReadWrite) => Some(true),
        }
    }
}
