//! The process and its host: daemons, process ids, signals, inherited descriptors, files that are written.

pub(super) mod daemon;
pub(super) mod fds;
pub mod outfile;
pub(super) mod pidfile;
pub(super) mod signals;
