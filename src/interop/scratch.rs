//! What a real QEMU runs in, and what must not outlive the command that started it: a directory with a name that nobody can guess, and
//! the process itself.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell makes directories, and a thread that waits for signals needs to know which process runs"
)]

use super::{Trouble, trouble};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, Signal as Kill, kill_process_group};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// What the command has done so far.
    so_far: Arc<Mutex<SoFar>>,
}

/// What a command says when a signal ends it.
#[derive(Clone, Debug, Default)]
pub struct SoFar {
    /// On standard output.
    pub out: String,
    /// On standard error.
    pub err: String,
}

impl Guard {
    /// One of a command that runs nothing yet.
    #[must_use]
    pub fn new(confined: bool) -> Guard {
        Guard { confined, ..Guard::default() }
    }

    /// What is said from now on if a signal ends the command.
    pub fn tell(&self, so_far: SoFar) {
        *self.so_far.lock().unwrap_or_else(PoisonError::into_inner) = so_far;
    }

    /// Comes back unless the command is ending: what came of its QEMU then says nothing.
    pub fn goes_on(&self) {
        while self.running.load(Ordering::SeqCst) == ENDING {
            std::thread::park();
        }
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
        let dir = dir.map_err(|error| {
            trouble(&format!("no directory can be made in {} (TMPDIR)", above.display()), &error.kind())
        })?;
        Ok(Scratch { dir })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// From now on a signal that ends the command ends its QEMU first, removes `dir`, and says what was done so far ([`Guard::tell`]). The
/// exit code is that of other commands which are interrupted, `code`. For a command that has no thread yet.
///
/// # Errors
/// What the system says.
pub fn end_with_signals(guard: &Guard, dir: Option<&Scratch>, code: u8) -> Result<(), Trouble> {
    let mut set = SigSet::empty();
    // What is ignored stays so, as under `nohup`.
    let ignored = ignored();
    for signal in SIGNALS.into_iter().filter(|signal| ignored & 1 << (*signal as i32 - 1) == 0) {
        set.add(signal);
    }
    set.thread_block().map_err(|error| trouble("signals", &error))?;
    let (guard, dir) = (guard.clone(), dir.map(|dir| dir.path().to_owned()));
    std::thread::spawn(move || {
        if set.wait().is_err() {
            return;
        }
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
        let so_far = guard.so_far.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let _ = io::stdout().write_all(so_far.out.as_bytes()).and_then(|()| io::stdout().flush());
        let _ = io::stderr().write_all(so_far.err.as_bytes());
        std::process::exit(i32::from(code));
    });
    Ok(())
}

/// The signals that this process ignores, a bit each.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
