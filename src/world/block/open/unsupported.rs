//! Options of nodes and drives that QEMU has and the model lacks. Each is refused by name: nothing is silently ignored.
//!
//! Options that change neither what a client sees nor what an image holds are accepted: how the host file is accessed (`aio`,
//! `aio-max-batch`, `drop-cache`, and `x-check-cache-dropped`, which looks only where a migration ends), when a cache is cleaned (`cache-clean-interval`), which metadata writes are checked
//! (`overlap-check`), what a guest device does on errors (`werror`, `rerror`).

use crate::qmp::drive::DriveOptions;
use crate::qmp::error::QmpError;
use crate::qmp::types::{BlockdevOptions, CreateOptions, DriverOptions, PreallocMode};

/// The first option of a node that is not simulated.
#[must_use]
pub fn node_option(options: &BlockdevOptions) -> Option<&'static str> {
    match &options.driver {
        DriverOptions::File(file) => first(&[(file.pr_manager.is_some(), "pr-manager")]),
        DriverOptions::Qcow2(qcow2) => first(&[
            (qcow2.encrypt.is_some(), "encrypt"),
            (qcow2.data_file.is_some(), "data-file"),
            (qcow2.pass_discard_other == Some(true), "pass-discard-other"),
        ]),
        _ => None,
    }
}

/// The first option of a drive that is not simulated.
#[must_use]
pub fn drive_option(drive: &DriveOptions) -> Option<&'static str> {
    first(&[
        (drive.snapshot, "snapshot=on"),
        (
            drive.node.as_dict().is_some_and(|dict| dict.iter().any(|(key, _)| key.starts_with("stats-intervals"))),
            "stats-intervals",
        ),
    ])
}

/// The first option of `blockdev-create` that is not simulated, or its driver.
#[must_use]
pub fn create_option(options: &CreateOptions) -> Option<&'static str> {
    let allocates = |mode: Option<PreallocMode>| mode.is_some_and(|mode| mode != PreallocMode::Off);
    match options {
        CreateOptions::File(file) => first(&[(allocates(file.preallocation), "preallocation")]),
        CreateOptions::Qcow2(qcow2) => first(&[
            (qcow2.data_file.is_some(), "data-file"),
            (qcow2.data_file_raw == Some(true), "data-file-raw"),
            (qcow2.extended_l2 == Some(true), "extended-l2"),
            (qcow2.encrypt.is_some(), "encrypt"),
            // With a backing file it is refused, unless L2 entries are extended.
            (allocates(qcow2.preallocation) && qcow2.backing_file.is_none(), "preallocation"),
        ]),
        CreateOptions::Other(driver, _) => CreateOptions::UNREAD.into_iter().find(|name| *name == driver.name()),
    }
}

fn first(options: &[(bool, &'static str)]) -> Option<&'static str> {
    options.iter().find(|(given, _)| *given).map(|(_, name)| *name)
}

/// What QEMU has and the model lacks.
#[must_use]
pub fn not_simulated(name: &str) -> QmpError {
    QmpError::generic(format!("not simulated: {name}"))
}
