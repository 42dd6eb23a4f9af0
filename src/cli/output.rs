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
    /// Whether only results and errors are printed.
    pub quiet: bool,
    /// The reader of standard output has gone.
    closed: bool,
    /// Something could not be written, though somebody was there to read it.
    pub failed: bool,
}

impl Output {
    pub fn new(color: ColorChoice, quiet: bool) -> Self {
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
            progress: !quiet && io::stderr().is_terminal(),
            quiet,
            out,
            err,
            closed: false,
            failed: false,
        }
    }

    /// Writes to standard output. A closed pipe swallows this and all that follows; any other error is reported once.
    pub fn print(&mut self, text: &str) {
        if self.closed {
            return;
        }
        if let Err(error) = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            self.closed = true;
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.failed = true;
                self.error(&format!("cannot write to standard output: {}", crate::cli::files::plain(&error)));
            }
        }
    }

    /// Writes to standard error; there is nobody left to tell if that fails.
    pub fn complain(&mut self, text: &str) {
        if let Err(error) = self.err.write_all(text.as_bytes()) {
            self.failed |= error.kind() != io::ErrorKind::BrokenPipe;
        }
    }

    /// An error, in the form that wrong arguments have it too.
    pub fn error(&mut self, message: &str) {
        // A mistake in a file comes with its lines, and is in that form already.
        if anstream::adapter::strip_str(message).to_string().starts_with("error: ") {
            return self.complain(message);
        }
        let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
        self.complain(&format!("{style}error:{style:#} {}\n", message.trim_end()));
    }

    /// Writes to standard error what is good to know and no error: not with `--quiet`.
    pub fn remark(&mut self, text: &str) {
        if !self.quiet {
            self.complain(text);
        }
    }

    /// Replaces the progress line, on a terminal only. What does not fit into a line is cut off.
    pub fn progress(&mut self, text: &str) {
        if self.progress {
            let columns = columns().unwrap_or(80).saturating_sub(1);
            let text: String = text.chars().take(columns).collect();
            self.complain(&format!("\r\x1b[K{text}"));
        }
    }

    /// Columns of the terminal that standard output is; `None` if it is none.
    pub fn columns(&self) -> Option<usize> {
        if io::stdout().is_terminal() { columns() } else { None }
    }
}

/// Columns of the terminal.
fn columns() -> Option<usize> {
    crossterm::terminal::size().ok().map(|(columns, _)| usize::from(columns)).filter(|columns| *columns > 0)
}
