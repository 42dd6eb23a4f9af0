//! Monitors and their languages: QMP, the human monitor, the test protocol, and what a console prints.

pub(super) mod console;
pub(super) mod describe;
pub(super) mod hmp;
pub(super) mod pretty;
pub(super) mod qmp;
pub(super) mod qtest;
pub(super) mod readline;
