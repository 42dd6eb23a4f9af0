//! What qemu-io commands print when they run (`qemu-io-cmds.c`). All texts are for standard output and end their lines,
//! unless they say otherwise.

use std::fmt::Write as _;

use crate::base::Errno;
use crate::base::time::Span;
use crate::block::cvtnum::{bytes_text, cvtstr, decimal};
use crate::block::qemu_io::{Read, Report, Submit, Write};

/// The outcome of a request for printing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Done {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// How long it took. After `aio_write -z` QEMU forgets to note the start and shows the host's uptime.
    pub elapsed: Span,
}

impl Read {
    /// The line for a failed read.
    #[must_use]
    pub fn failed(&self, errno: Errno) -> String {
        // aio_read calls itself readv here.
        let name = if self.submit == Submit::Plain { "read" } else { "readv" };
        format!("{name} failed: {errno}\n")
    }

    /// Everything a successful read prints; `data` is what was read.
    #[must_use]
    pub fn succeeded(&self, data: &[u8], elapsed: Span) -> String {
        let mut text = String::new();
        if let Some(verify) = self.verify {
            let (start, end) = (verify.start as usize, (verify.start + verify.bytes) as usize);
            if data.get(start..end).is_none_or(|part| part.iter().any(|b| *b != verify.pattern)) {
                text += &pattern_failed(self.offset + verify.start, verify.bytes);
            }
        }
        if self.report == Report::Quiet {
            return text;
        }
        if self.dump {
            text += &dump(data, self.offset);
        }
        text + &report("read", self.report, Done { offset: self.offset, bytes: self.bytes, elapsed })
    }
}

impl Write {
    /// The line for a failed write.
    #[must_use]
    pub fn failed(&self, errno: Errno) -> String {
        let name = match self.submit {
            Submit::Plain => "write",
            Submit::Vector => "writev",
            Submit::Aio => "aio_write",
        };
        format!("{name} failed: {errno}\n")
    }

    /// Everything a successful write prints.
    #[must_use]
    pub fn succeeded(&self, elapsed: Span) -> String {
        report("wrote", self.report, Done { offset: self.offset, bytes: self.bytes, elapsed })
    }
}

/// The line for a failed discard.
#[must_use]
pub fn discard_failed(errno: Errno) -> String {
    format!("discard failed: {errno}\n")
}

/// The line for data that is not the pattern; range in bytes.
#[must_use]
pub fn pattern_failed(offset: u64, bytes: u64) -> String {
    format!("Pattern verification failed at offset {offset}, {bytes} bytes\n")
}

/// What a successful request prints (`qemu-io-cmds.c:print_report`); `done` is `read`, `wrote` or `discard`.
#[must_use]
pub fn report(verb: &str, report: Report, done: Done) -> String {
    let Done { offset, bytes, elapsed } = done;
    match report {
        Report::Quiet => String::new(),
        Report::Machine => {
            let (time, rate, ops) = (clock(elapsed), per_second(bytes, elapsed, 3), per_second(1, elapsed, 3));
            format!("{bytes},1,{time},{rate},{ops}\n")
        }
        Report::Human => {
            let time = if elapsed < Span::SECOND { format!("{} sec", hundredths(elapsed)) } else { clock(elapsed) };
            let (size, rate, ops) = (bytes_text(bytes), rate_text(bytes, elapsed), per_second(1, elapsed, 4));
            format!(
                "{verb} {bytes}/{bytes} bytes at offset {offset}\n{size}, 1 ops; {time} ({rate}/sec and {ops} ops/sec)\n"
            )
        }
    }
}

/// In nanoseconds.
const SECOND: u128 = Span::SECOND.as_nanos() as u128;

/// `h:mm:ss.hh`
fn clock(elapsed: Span) -> String {
    let seconds = elapsed / Span::SECOND;
    format!("{}:{:02}:{}", seconds / 3600, seconds / 60 % 60, hundredths(elapsed % Span::from_secs(60)))
}

/// Seconds with two decimals, two digits before the point. `printf` rounds the `double` next to the number, which
/// decides the case of exactly half a hundredth.
fn hundredths(elapsed: Span) -> String {
    const HUNDREDTH: Span = Span::from_millis(10);
    let (whole, rest) = (elapsed / HUNDREDTH, elapsed % HUNDREDTH);
    let up =
        if rest == HUNDREDTH / 2 { double_is_above(elapsed).unwrap_or(whole % 2 == 1) } else { rest > HUNDREDTH / 2 };
    let rounded = whole + u64::from(up);
    format!("{:02}.{:02}", rounded / 100, rounded % 100)
}

/// Whether the `double` nearest to the seconds it took is above them; none if it is equal.
fn double_is_above(elapsed: Span) -> Option<bool> {
    let den = SECOND;
    let mut num = u128::from(elapsed.as_nanos());
    while num < den << 52 {
        num <<= 1;
    }
    let (mantissa, rest) = (num / den, num % den);
    let up = rest * 2 > den || (rest * 2 == den && mantissa % 2 == 1);
    if rest == 0 { None } else { Some(up) }
}

fn rate_text(bytes: u64, elapsed: Span) -> String {
    match (bytes, elapsed) {
        // What the division of doubles gives on x86.
        (0, Span::ZERO) => "-nan bytes".to_owned(),
        (_, Span::ZERO) => "inf EiB".to_owned(),
        _ => cvtstr(u128::from(bytes) * SECOND, u128::from(elapsed.as_nanos())),
    }
}

fn per_second(n: u64, elapsed: Span, decimals: u32) -> String {
    match (n, elapsed) {
        (0, Span::ZERO) => "-nan".to_owned(),
        (_, Span::ZERO) => "inf".to_owned(),
        _ => decimal(u128::from(n) * SECOND, u128::from(elapsed.as_nanos()), decimals),
    }
}

/// Data as `read -v` prints it (`qemu-io-cmds.c:dump_buffer`).
#[must_use]
pub fn dump(data: &[u8], offset: u64) -> String {
    let mut text = String::with_capacity(data.len() * 5);
    for (row, at) in data.chunks(16).zip((0u64..).step_by(16)) {
        let _ = write!(text, "{:08x}:  ", offset.wrapping_add(at));
        for byte in row {
            let _ = write!(text, "{byte:02x} ");
        }
        text.push(' ');
        text.extend(row.iter().map(|b| if b.is_ascii_alphanumeric() { char::from(*b) } else { '.' }));
        text.push('\n');
    }
    text
}

/// What `length` prints, or its failure; bytes.
#[must_use]
pub fn length(result: Result<u64, Errno>) -> String {
    match result {
        Ok(bytes) => format!("{}\n", bytes_text(bytes)),
        Err(errno) => format!("getlength: {errno}\n"),
    }
}

/// What `alloc` prints: how many of `bytes` bytes from `offset` are allocated; `bytes` ends where the image does if
/// the range went beyond by more than whole extents.
#[must_use]
pub fn alloc(allocated: u64, bytes: u64, offset: u64) -> String {
    format!("{allocated}/{bytes} bytes allocated at offset {}\n", bytes_text(offset))
}

/// What `alloc` prints if the block status cannot be had.
#[must_use]
pub fn alloc_failed(errno: Errno) -> String {
    format!("is_allocated failed: {errno}\n")
}

/// The line of `map` for one extent; range in bytes.
#[must_use]
pub fn map_line(offset: u64, bytes: u64, allocated: bool) -> String {
    let state = if allocated { "    allocated" } else { "not allocated" };
    let (size, place) = (bytes_text(bytes), bytes_text(offset));
    format!("{size} (0x{bytes:x}) bytes {state} at offset {place} (0x{offset:x})\n")
}

/// What `map` *reports* (not on standard output, no line end) if the block status cannot be had.
#[must_use]
pub fn map_failed(errno: Errno) -> String {
    format!("Failed to get allocation status: {errno}")
}

/// What `info` prints: the names of the node's driver, then what the driver knows of itself: cluster size and offset
/// of the VM state in bytes.
#[must_use]
pub fn info(format_name: &str, protocol_name: Option<&str>, sizes: Option<(u64, u64)>) -> String {
    let mut text = format!("format name: {format_name}\n");
    if let Some(name) = protocol_name {
        let _ = writeln!(text, "format name: {name}");
    }
    let Some((cluster_size, vm_state_offset)) = sizes else { return text };
    let _ = writeln!(text, "cluster size: {}", bytes_text(cluster_size));
    let _ = writeln!(text, "vm state offset: {}", bytes_text(vm_state_offset));
    text
}

/// What `break` prints if it fails: ENOENT for an unknown event, ENOTSUP without blkdebug.
#[must_use]
pub fn break_failed(errno: Errno) -> String {
    format!("Could not set breakpoint: {errno}\n")
}

/// What `remove_break` prints if it fails.
#[must_use]
pub fn remove_break_failed(tag: &str, errno: Errno) -> String {
    format!("Could not remove breakpoint {tag}: {errno}\n")
}

/// What `resume` prints if it fails.
#[must_use]
pub fn resume_failed(errno: Errno) -> String {
    format!("Could not resume request: {errno}\n")
}

/// The first line by which a command of qemu-io says that a request failed; `text` is what was printed. What it says of a line that it does
/// not understand is not among these: [`crate::block::qemu_io::parse`] has that.
#[must_use]
pub fn failure(text: &str) -> Option<&str> {
    const VERBS: &[&str] =
        &["read", "readv", "write", "writev", "aio_read", "aio_write", "discard", "is_allocated", "flush", "truncate"];
    const BEGINNINGS: &[&str] = &[
        "Pattern verification failed at offset",
        "getlength: ",
        "Could not set breakpoint: ",
        "Could not remove breakpoint ",
        "Could not resume request: ",
    ];
    let fails = |line: &&str| {
        let verb = line.split_once(" failed: ").map_or("", |(verb, _)| verb);
        VERBS.contains(&verb) || BEGINNINGS.iter().any(|beginning| line.starts_with(beginning))
    };
    text.lines().find(fails)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(bytes: u64, elapsed: Span) -> Done {
        Done { offset: 65536, bytes, elapsed }
    }

    #[test]
    fn reports_look_like_qemu_io_s() {
        assert_eq!(
            report("wrote", Report::Human, done(65536, Span::MILLISECOND)),
            "wrote 65536/65536 bytes at offset 65536\n64 KiB, 1 ops; 00.00 sec (62.500 MiB/sec and 1000.0000 ops/sec)\n"
        );
        assert_eq!(
            report("read", Report::Human, done(0, Span::MILLISECOND)),
            "read 0/0 bytes at offset 65536\n0 bytes, 1 ops; 00.00 sec (0 bytes/sec and 1000.0000 ops/sec)\n"
        );
        assert_eq!(
            report("discard", Report::Human, done(512, Span::from_millis(3_723_456))),
            "discard 512/512 bytes at offset 65536\n512 bytes, 1 ops; 1:02:03.46 (0.137507 bytes/sec and 0.0003 ops/sec)\n"
        );
        assert_eq!(
            report("wrote", Report::Machine, done(512, Span::from_millis(4))),
            "512,1,0:00:00.00,128000.000,250.000\n"
        );
        assert_eq!(report("wrote", Report::Quiet, done(512, Span::from_nanos(1))), "");
        assert!(
            report("wrote", Report::Human, done(512, Span::ZERO)).contains("00.00 sec (inf EiB/sec and inf ops/sec)")
        );
        assert!(report("wrote", Report::Human, done(0, Span::ZERO)).contains("(-nan bytes/sec and inf ops/sec)"));
    }

    #[test]
    fn hundredths_round_like_printf() {
        for (elapsed, text) in [
            (Span::ZERO, "00.00"),
            (Span::from_millis(5), "00.01"),
            (Span::from_millis(15), "00.01"),
            (Span::from_millis(25), "00.03"),
            (Span::from_millis(125), "00.12"),
            (Span::from_millis(375), "00.38"),
            (Span::from_millis(995), "00.99"),
            (Span::from_micros(999_600), "01.00"),
        ] {
            assert_eq!(hundredths(elapsed), text, "{elapsed:?}");
        }
    }

    #[test]
    fn dumps_sixteen_bytes_a_line() {
        let data: Vec<u8> = (0x30..0x44).collect();
        assert_eq!(
            dump(&data, 512),
            "00000200:  30 31 32 33 34 35 36 37 38 39 3a 3b 3c 3d 3e 3f  0123456789......\n\
             00000210:  40 41 42 43  .ABC\n"
        );
    }

    #[test]
    fn the_other_texts() {
        assert_eq!(
            map_line(0, 65536, true) + &map_line(65536, 983_040, false),
            "64 KiB (0x10000) bytes     allocated at offset 0 bytes (0x0)\n\
             960 KiB (0xf0000) bytes not allocated at offset 64 KiB (0x10000)\n"
        );
        assert_eq!(alloc(65536, 2 << 20, 0), "65536/2097152 bytes allocated at offset 0 bytes\n");
        assert_eq!(length(Ok(2 << 20)), "2 MiB\n");
        assert_eq!(
            info("qcow2", None, Some((65536, 512 << 20))),
            "format name: qcow2\ncluster size: 64 KiB\nvm state offset: 512 MiB\n"
        );
        assert_eq!(break_failed(Errno::ENOTSUP), "Could not set breakpoint: Operation not supported\n");
        assert_eq!(
            remove_break_failed("A", Errno::ENOENT),
            "Could not remove breakpoint A: No such file or directory\n"
        );
    }
}
