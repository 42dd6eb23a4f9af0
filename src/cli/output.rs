//! Writing: colours only where they are wanted, and a quiet end when nobody reads any more.
#![expect(clippy::disallowed_methods, reason = "the shell writes to the terminal")]

use anstream::AutoStream;
use clap::ColorChoice;
use std::io::{self, IsTerminal, Write};

/// Standard output and standard error.
pub(super) struct Output {
    out: AutoStream<io::Stdout>,
    err: AutoStream<io::Stderr>,
    /// Whether standard error shows colours.
    pub colour_err: bool,
    /// Whether standard output shows colours.
    pub colour_out: bool,
    /// Whether a progress line may be shown.
    pub progress: bool,
    /// The reader of standard output has gone.
    closed: bool,
    /// Something could not be written, though somebody was there to read it.
    pub failed: bool,
}

impl Output {
    pub fn new(color: ColorChoice) -> Self {
        let choice = match color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        let out = AutoStream::new(io::stdout(), choice);
        let err = AutoStream::new(io::stderr(), choice);
        Output {
            colour_out: out.current_choice() != anstream::ColorChoice::Never,
            colour_err: err.current_choice() != anstream::ColorChoice::Never,
            progress: io::stderr().is_terminal(),
            out,
            err,
            closed: false,
            failed: false,
        }
    }

    /// Writes to standard output. A closed pipe swallows this and all that follows; any other trouble is told once.
    pub fn print(&mut self, text: &str) {
        if self.closed {
            return;
        }
        if let Err(error) = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            self.closed = true;
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.failed = true;
                self.complain(&format!("cannot write to standard output: {error}\n"));
            }
        }
    }

    /// Writes to standard error; there is nobody left to tell if that fails.
    pub fn complain(&mut self, text: &str) {
        if let Err(error) = self.err.write_all(text.as_bytes()) {
            self.failed |= error.kind() != io::ErrorKind::BrokenPipe;
        }
    }

    /// Replaces the progress line, on a terminal only.
    pub fn progress(&mut self, text: &str) {
        if self.progress {
            self.complain(&format!("\r\x1b[K{text}"));
        }
    }
}
