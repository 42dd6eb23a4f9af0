//! Standard output and standard error of the served process. Nobody need read them: what can't be written now waits, and nobody else
//! waits for it.

use crate::world::out::Output;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd};

/// What nobody reads is kept up to this size; what comes later is lost.
const TOO_MUCH: usize = 64 << 20;
/// Bytes that a pipe takes whenever it can be written to (`PIPE_BUF`).
const PIPE_BUF: usize = 4096;
/// Bytes that a terminal takes then.
const TERMINAL: usize = 256;

/// Writes some of `bytes`, as many as go without waiting. The descriptor stays as it is: it is shared with whoever started the process,
/// and must not be made non-blocking.
///
/// # Errors
/// `EAGAIN` where it would have to wait; else what the system says.
pub(in crate::serve) fn write_now(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if fds[0].revents().is_empty() {
        return Err(Errno::AGAIN);
    }
    let most = if rustix::termios::isatty(fd) { TERMINAL } else { PIPE_BUF };
    rustix::io::write(fd, &bytes[..bytes.len().min(most)])
}

/// One of the two.
#[derive(Debug)]
struct Stream {
    fd: BorrowedFd<'static>,
    waiting: VecDeque<u8>,
    failed: Option<Errno>,
}

impl Stream {
    fn new(fd: BorrowedFd<'static>) -> Stream {
        Stream { fd, waiting: VecDeque::new(), failed: None }
    }

    fn write(&mut self, text: &str) {
        if self.waiting.len() + text.len() > TOO_MUCH {
            self.failed = Some(Errno::NOBUFS);
        } else {
            self.waiting.extend(text.as_bytes());
        }
        self.flush();
    }

    fn flush(&mut self) {
        while !self.waiting.is_empty() {
            match write_now(self.fd, self.waiting.as_slices().0) {
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    // Whoever has closed it does not want it.
                    if errno != Errno::PIPE {
                        self.failed = Some(errno);
                    }
                    self.waiting.clear();
                }
            }
        }
    }
}

/// Both.
#[derive(Debug)]
pub(in crate::serve) struct Console {
    program: String,
    out: Stream,
    err: Stream,
}

impl Console {
    /// Of the process, whose messages begin with `program`.
    pub(in crate::serve) fn new(program: &str) -> Console {
        let (out, err) = (Stream::new(rustix::stdio::stdout()), Stream::new(rustix::stdio::stderr()));
        Console { program: program.to_owned(), out, err }
    }

    /// What the world put out, if it goes to the standard streams.
    pub(in crate::serve) fn put(&mut self, output: &Output) {
        match output {
            Output::Stdout(text) => self.out.write(text),
            Output::Stderr(text) => self.err.write(text),
            Output::Report(text) => self.complain(text),
            Output::Event { .. } | Output::Reply { .. } => {}
        }
    }

    /// A message, with the program's name before it.
    pub(in crate::serve) fn complain(&mut self, text: &str) {
        let line = format!("{}: {text}\n", self.program);
        self.err.write(&line);
    }

    /// Writes what can be written now.
    pub(in crate::serve) fn flush(&mut self) {
        self.out.flush();
        self.err.flush();
    }

    /// What waits to be written to.
    pub(in crate::serve) fn clogged(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.out, &self.err].into_iter().filter(|s| !s.waiting.is_empty()).map(|s| s.fd.as_fd())
    }

    /// Why some of it could not be written.
    pub(in crate::serve) fn trouble(&self) -> Option<String> {
        let named = [("standard output", &self.out), ("standard error", &self.err)];
        named
            .into_iter()
            .find_map(|(name, stream)| Some(format!("Could not write to {name}: {}", text(stream.failed?))))
    }
}

/// What the system says of an error.
pub(in crate::serve) fn text(errno: Errno) -> String {
    crate::serve::chardev::plain(&errno.into())
}
