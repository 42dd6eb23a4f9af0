//! qtest's protocol: a line in, a line out (`system/qtest.c`).
//!
//! There is no memory and no port to read or write: reads give zeroes, writes are accepted. What the clock commands move is the time of
//! the world: sleeps that end by then are over. Unlike in QEMU, where jobs sleep by another clock, that holds for jobs too.
//! What is asked and answered goes to a log as well, which is standard error unless `-qtest-log` names a file.

use std::fs::File;
use std::io::Write as _;
use std::time::Instant;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Asked {
    /// Nothing that has to do with the world: this is the answer.
    Answer(String),
    /// `clock_step [NS]`; without a number, to the next timer.
    ClockStep(Option<u64>),
    /// `clock_set NS`
    ClockSet(u64),
}

/// The last time that the clock may show, in 146 years: what comes later has room.
pub(in crate::serve) const LAST: u64 = 1 << 62;
/// Lines that are longer are no lines.
const MAX_LINE: usize = 1 << 20;

/// Where the log goes.
#[derive(Debug)]
pub(in crate::serve) enum Log {
    /// To standard error.
    Stderr,
    /// To this file.
    File(File),
    /// To nobody: `none`, or a file that cannot be opened, of which QEMU says nothing.
    Nobody,
}

impl Log {
    /// As `-qtest-log` asks for it.
    pub(in crate::serve) fn of(option: Option<&str>) -> Log {
        match option {
            None => Log::Stderr,
            Some("none") => Log::Nobody,
            Some(path) => File::create(path).map_or(Log::Nobody, Log::File),
        }
    }

    /// Takes a text; gives it back if it belongs on standard error.
    pub(in crate::serve) fn put(&mut self, text: String) -> Option<String> {
        match self {
            Log::Stderr => Some(text),
            Log::File(file) => {
                let _ = file.write_all(text.as_bytes());
                None
            }
            Log::Nobody => None,
        }
    }
}

/// The connection's side of it.
#[derive(Debug)]
pub(in crate::serve) struct Qtest {
    /// The port it listens at.
    pub port: usize,
    /// What it says the time is.
    pub clock: u64,
    line: Vec<u8>,
    /// Since when a client is there.
    since: Option<Instant>,
}

impl Qtest {
    pub(in crate::serve) fn new(port: usize) -> Qtest {
        Qtest { port, clock: 0, line: Vec::new(), since: None }
    }

    /// Takes bytes in; gives the lines that are complete.
    pub(in crate::serve) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => lines.push(String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end().to_owned()),
                _ if self.line.len() < MAX_LINE => self.line.push(*byte),
                _ => {}
            }
        }
        lines
    }

    /// A client is there: what the log says of that.
    pub(in crate::serve) fn opened(&mut self) -> String {
        self.since = Some(Instant::now());
        format!("[I {}] OPENED\n", self.elapsed())
    }

    /// What the log says of a line and of its answer.
    pub(in crate::serve) fn heard(&self, line: &str, answer: &str) -> String {
        let words: String = line.split(' ').map(|word| format!(" {word}")).collect();
        format!("[R +{}]{words}\n[S +{}] {answer}", self.elapsed(), self.elapsed())
    }

    /// The client has gone, or the process ends: what the log says of that, if there was a client.
    pub(in crate::serve) fn closed(&mut self) -> Option<String> {
        self.line.clear();
        self.since?;
        let text = format!("[I +{}] CLOSED\n", self.elapsed());
        self.since = None;
        Some(text)
    }

    /// The time since the client came, as the log has it.
    fn elapsed(&self) -> String {
        let elapsed = self.since.map_or_else(Default::default, |since| since.elapsed());
        format!("{}.{:06}", elapsed.as_secs(), elapsed.subsec_micros())
    }
}

/// Reads a line.
pub(in crate::serve) fn parse(line: &str) -> Asked {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |i: usize| words.get(i).and_then(|word| number(word));
    let fail = |why: String| Asked::Answer(format!("FAIL {why}\n"));
    let ok = |what: &str| Asked::Answer(if what.is_empty() { "OK\n".to_owned() } else { format!("OK {what}\n") });
    match *words.first().unwrap_or(&"") {
        "" => fail("Unknown command ''".to_owned()),
        "clock_step" => Asked::ClockStep(number(1)),
        "clock_set" => number(1).map_or_else(|| fail("clock_set needs a time".to_owned()), Asked::ClockSet),
        "endianness" => ok("little"),
        "inb" | "inw" | "inl" => ok("0x0000"),
        "readb" | "readw" | "readl" | "readq" => ok("0x0000000000000000"),
        "read" => match number(2) {
            Some(size) if size <= 1 << 16 => {
                ok(&format!("0x{}", "00".repeat(usize::try_from(size).unwrap_or(0).max(1))))
            }
            _ => fail("read needs an address and a size".to_owned()),
        },
        "irq_intercept_in" | "irq_intercept_out" | "set_irq_in" | "outb" | "outw" | "outl" | "writeb" | "writew"
        | "writel" | "writeq" | "write" | "b64write" | "memset" | "module_load" => ok(""),
        other => fail(format!("Unknown command '{other}'")),
    }
}

/// A number as C reads it.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_read() {
        let mut qtest = Qtest::new(0);
        assert!(qtest.feed(b"clock_st").is_empty());
        assert_eq!(qtest.feed(b"ep 0x10\nendianness\r\n"), ["clock_step 0x10", "endianness"]);
        assert_eq!(parse("clock_step 0x10"), Asked::ClockStep(Some(16)));
        assert_eq!(parse("clock_step"), Asked::ClockStep(None));
        assert_eq!(parse("endianness"), Asked::Answer("OK little\n".into()));
        assert_eq!(parse("bogus 1"), Asked::Answer("FAIL Unknown command 'bogus'\n".into()));
        assert_eq!(parse("read 0x0 2"), Asked::Answer("OK 0x0000\n".into()));
    }

    #[test]
    fn the_log_has_what_was_asked_and_answered() {
        let zeroes =
            |text: &str| -> String { text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect() };
        let mut qtest = Qtest::new(0);
        assert_eq!(qtest.closed(), None);
        assert_eq!(zeroes(&qtest.opened()), "[I 0.000000] OPENED\n");
        let said = qtest.heard("bogus  x", "FAIL Unknown command 'bogus'\n");
        assert_eq!(zeroes(&said), "[R +0.000000] bogus  x\n[S +0.000000] FAIL Unknown command 'bogus'\n");
        assert_eq!(qtest.closed().as_deref().map(zeroes).as_deref(), Some("[I +0.000000] CLOSED\n"));
        assert_eq!(qtest.closed(), None);
    }
}
