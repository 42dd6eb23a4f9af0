//! What a real QEMU runs in, and what must not outlive the command that started it: a directory with a name that nobody can guess, and
//! the process itself.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell makes directories, and a thread that waits for signals needs to know which process runs"
)]

use super::{Trouble, trouble};
use nix::sys::signal::{SigSet, Signal, raise};
use rustix::process::{Pid, Signal as Kill, kill_process_group};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use tempfile::TempDir;

/// In place of a process: the command is ending.
const ENDING: i32 = -1;
/// What ends a command from outside.
const SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Under what a scenario is carried out.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Images may name nothing outside of their directory ([`super::confine`]).
    pub confined: bool,
    /// The process that runs; 0: none.
    running: Arc<AtomicI32>,
}

impl Guard {
    /// One of a command that runs nothing yet.
    #[must_use]
    pub fn new(confined: bool) -> Guard {
        Guard { confined, running: Arc::default() }
    }

    /// A process was started. Whether it may go on: not if the command is ending.
    #[must_use]
    pub(super) fn runs(&self, pid: u32) -> bool {
        let pid = i32::try_from(pid).unwrap_or_default();
        self.running.compare_exchange(0, pid, Ordering::SeqCst, Ordering::SeqCst) != Err(ENDING)
    }

    /// The process is about to be waited for, after which its number may be another's.
    pub(super) fn ends(&self, pid: u32) {
        let pid = i32::try_from(pid).unwrap_or_default();
        _ = self.running.compare_exchange(pid, 0, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// A directory of this command alone, readable by its user alone. It goes when this is dropped, and when a signal ends the command.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Makes one where the system has its temporary files (`TMPDIR`).
    ///
    /// # Errors
    /// What the host says.
    pub fn new() -> Result<Scratch, Trouble> {
        let above = std::env::temp_dir();
        let mut builder = tempfile::Builder::new();
        builder.prefix("blockjob-sim-").rand_bytes(16).permissions(fs::Permissions::from_mode(0o700));
        let dir = builder.tempdir_in(&above);
        let dir = dir.map_err(|error| trouble(&format!("no directory can be made in {} (TMPDIR)", above.display()), &error.kind()))?;
        Ok(Scratch { dir })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// From now on a signal that ends the command ends its QEMU first, and removes `dir`. For a command that has no thread yet.
///
/// # Errors
/// What the system says.
pub fn end_with_signals(guard: &Guard, dir: Option<&Scratch>) -> Result<(), Trouble> {
    let mut set = SigSet::empty();
    // What is ignored stays so, as under `nohup`.
    let ignored = ignored();
    for signal in SIGNALS.into_iter().filter(|signal| ignored & 1 << (*signal as i32 - 1) == 0) {
        set.add(signal);
    }
    set.thread_block().map_err(|error| trouble("signals", &error))?;
    let (guard, dir) = (guard.clone(), dir.map(|dir| dir.path().to_owned()));
    std::thread::spawn(move || {
        let Ok(signal) = set.wait() else { return };
        let pid = guard.running.swap(ENDING, Ordering::SeqCst);
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process_group(pid, Kill::KILL);
        }
        // A process that is just being started may still put something there.
        for _ in 0..50 {
            match &dir {
                Some(dir) if fs::remove_dir_all(dir).is_err() && dir.exists() => {}
                _ => break,
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        // As if nobody had waited for it.
        let _ = set.thread_unblock();
        let _ = raise(signal);
    });
    Ok(())
}

/// The signals that this process ignores, a bit each.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
