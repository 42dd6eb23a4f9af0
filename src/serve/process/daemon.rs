//! `-daemonize`: the process that was started waits until its successor listens, and leaves it behind (`os-posix.c:os_daemonize`).
//!
//! QEMU forks. Rust has no fork without `unsafe`, so this program starts itself again, with the same arguments and [`CHILD`] behind them,
//! in a session of its own. Its standard input is a pipe to the first process, to which it writes one zero byte when it listens; the
//! first one's exit code is 0 then. If the pipe ends without it, something went wrong, and the error stands on standard error.

use crate::serve::chardev::plain;
use rustix::fs::{Mode, OFlags};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// The environment variable that marks the second process.
pub(in crate::serve) const CHILD: &str = "sim-daemon-child";

/// Starts the second process and waits until it listens. The exit code.
///
/// # Errors
/// It can't be started.
pub(in crate::serve) fn start() -> Result<u8, String> {
    let failed = |e: std::io::Error| format!("-daemonize: {}", plain(&e));
    let (mut reader, writer) = std::io::pipe().map_err(failed)?;
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg0(name).args(args).arg(format!("--{CHILD}")).stdin(Stdio::from(writer));
    let child = command.spawn().map_err(failed)?;
    // The writing end goes with it, so that the pipe ends when the child does.
    drop(command);
    drop(child);
    let mut status = [1];
    let read = reader.read(&mut status);
    Ok(u8::from(!(matches!(read, Ok(1)) && status[0] == 0)))
}

/// The second process begins: away from the terminal.
pub(in crate::serve) fn begin() {
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::WGRP | Mode::RWXO);
}

/// It listens (`os_setup_post`): the first process may go, and nothing is read from or written to where it was started from.
///
/// # Errors
/// There is no `/dev/null`, or the first process has gone.
pub(in crate::serve) fn ready() -> Result<(), String> {
    let failed = |errno: rustix::io::Errno| format!("-daemonize: {errno}");
    rustix::process::chdir("/").map_err(|errno| format!("not able to chdir to /: {errno}"))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let pipe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(failed)?;
    rustix::stdio::dup2_stdin(&null).map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(failed)?;
    rustix::stdio::dup2_stderr(&null).map_err(failed)?;
    rustix::io::write(&pipe, &[0]).map(drop).map_err(failed)
}
