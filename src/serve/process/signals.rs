//! Signals that end the process, read like any other input.

use crate::scenario::plan;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd as _, BorrowedFd};

/// The signals that wait.
#[derive(Debug)]
pub(in crate::serve) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// From now on, signals that end the process are read here.
    ///
    /// # Errors
    /// The system has no such thing.
    pub(in crate::serve) fn catch() -> Result<Signals, String> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
            set.add(signal);
        }
        let caught = set
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC));
        caught.map(|fd| Signals { fd }).map_err(|errno| format!("signals: {}", errno.desc()))
    }

    /// What to wait for.
    pub(in crate::serve) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The next one, and what QEMU says of it.
    pub(in crate::serve) fn read(&self) -> Option<(plan::Signal, String)> {
        let info = self.fd.read_signal().ok().flatten()?;
        let (number, pid) = (info.ssi_signo, info.ssi_pid);
        let signal = match i32::try_from(number).map(Signal::try_from) {
            Ok(Ok(Signal::SIGINT)) => plan::Signal::Int,
            Ok(Ok(Signal::SIGHUP)) => plan::Signal::Hup,
            _ => plan::Signal::Term,
        };
        if pid == 0 {
            return Some((signal, format!("terminating on signal {number}")));
        }
        let name = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let name = if name.is_empty() { "<unknown process>".into() } else { String::from_utf8_lossy(name) };
        Some((signal, format!("terminating on signal {number} from pid {pid} ({name})")))
    }
}
