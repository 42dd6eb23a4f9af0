//! The command language of qemu-io, as `human-monitor-command "qemu-io …"` takes it (`qemu-io-cmds.c`): a line in, a
//! typed command or QEMU's complaint out. What commands print is in [`crate::block::qemu_io::text`].

mod args;
pub mod text;
mod typed;

use crate::base::units::SECTOR;
use crate::block::accounting::AcctType;
use crate::block::cvtnum::{c_int, cvtnum, cvtnum_error};

use args::{Flags, Opt, getopt};
use std::sync::Arc;
pub use typed::{
    CacheMode, Command, Output, Perms, Prealloc, QemuIo, REQUEST_MAX_BYTES, Read, Reopen, Report, Submit, Verify,
    Write, WriteData,
};

/// Reads one command line; none if it is empty (`qemu-io-cmds.c:qemuio_command`). Words are separated by blanks only;
/// there is no quoting.
#[must_use]
pub fn parse(line: &str) -> Option<Command> {
    let words: Vec<&str> = line.split(' ').filter(|w| !w.is_empty()).collect();
    let (name, args) = words.split_first()?;
    let refuse = |stderr| Command { perms: Perms::default(), what: Err(Output { stderr, ..Output::default() }) };
    let Some(info) = COMMANDS.iter().find(|c| c.name == *name || c.alias == Some(name)) else {
        return Some(refuse(format!("command \"{name}\" not found\n")));
    };
    if args.len() < info.min || info.max.is_some_and(|max| args.len() > max) {
        return Some(refuse(info.bad_count(name, args.len())));
    }
    Some(Command { perms: info.perms, what: info.parse(name, args) })
}

struct Info {
    name: &'static str,
    alias: Option<&'static str>,
    min: usize,
    /// None for any number.
    max: Option<usize>,
    perms: Perms,
    /// Arguments and description, which only commands with options ever print.
    usage: (&'static str, &'static str),
}

const NONE: Perms = Perms { write: false, resize: false };
const WRITE: Perms = Perms { write: true, resize: false };
const RESIZE: Perms = Perms { write: true, resize: true };

const fn plain(name: &'static str, alias: Option<&'static str>, min: usize, max: usize) -> Info {
    Info { name, alias, min, max: Some(max), perms: NONE, usage: ("", "") }
}

const fn options(
    name: &'static str,
    alias: Option<&'static str>,
    perms: Perms,
    usage: (&'static str, &'static str),
) -> Info {
    Info { name, alias, min: 2, max: None, perms, usage }
}

const READS: &str = "reads a number of bytes at a specified offset";
const WRITES: &str = "writes a number of bytes at a specified offset";

const COMMANDS: [Info; 29] = [
    plain("abort", None, 0, 0),
    plain("aio_flush", None, 0, 0),
    options(
        "aio_read",
        None,
        NONE,
        ("[-Ciqrv] [-P pattern] off len [len..]", "asynchronously reads a number of bytes"),
    ),
    options(
        "aio_write",
        None,
        WRITE,
        ("[-Cfiqruz] [-P pattern] off len [len..]", "asynchronously writes a number of bytes"),
    ),
    plain("alloc", Some("a"), 1, 2),
    plain("break", None, 2, 2),
    options("discard", Some("d"), WRITE, ("[-Cq] off len", "discards a number of bytes at a specified offset")),
    plain("flush", Some("f"), 0, 0),
    plain("help", Some("?"), 0, 1),
    plain("info", Some("i"), 0, 0),
    plain("length", Some("l"), 0, 0),
    plain("map", None, 0, 0),
    options("read", Some("r"), NONE, ("[-abCqrv] [-P pattern [-s off] [-l len]] off len", READS)),
    options("readv", None, NONE, ("[-Cqrv] [-P pattern] off len [len..]", READS)),
    plain("remove_break", None, 1, 1),
    Info {
        max: None,
        usage: ("[(-r|-w)] [-c cache] [-o options]", "reopens an image with new options"),
        ..plain("reopen", None, 0, 0)
    },
    plain("resume", None, 1, 1),
    plain("sigraise", None, 1, 1),
    plain("sleep", None, 1, 1),
    Info {
        name: "truncate",
        alias: Some("t"),
        min: 1,
        max: Some(3),
        perms: RESIZE,
        usage: ("[-m prealloc_mode] off", "truncates the current file at the given offset"),
    },
    plain("wait_break", None, 1, 1),
    options("write", Some("w"), WRITE, ("[-bcCfnqruz] [-P pattern | -s source_file] off len", WRITES)),
    options("writev", None, WRITE, ("[-Cfqr] [-P pattern] off len [len..]", WRITES)),
    plain("zone_append", Some("zap"), 3, 4),
    plain("zone_close", Some("zc"), 2, 2),
    plain("zone_finish", Some("zf"), 2, 2),
    plain("zone_open", Some("zo"), 2, 2),
    plain("zone_report", Some("zrp"), 2, 2),
    plain("zone_reset", Some("zrs"), 2, 2),
];

impl Info {
    /// `typed` is the name as the user wrote it.
    fn bad_count(&self, typed: &str, n: usize) -> String {
        let min = self.min;
        let expected = match self.max {
            None => format!("at least {min} arguments"),
            Some(max) if max == min => format!("{min} arguments"),
            Some(max) => format!("between {min} and {max} arguments"),
        };
        format!("bad argument count {n} to {typed}, expected {expected}\n")
    }

    fn usage(&self) -> Output {
        let (args, description) = self.usage;
        Output::line(&format!("{} {args} -- {description}", self.name))
    }

    /// What `getopt` complains about, followed by the usage.
    fn bad_option(&self, typed: &str, complaint: &str) -> Output {
        Output { stderr: format!("{typed}: {complaint}\n"), ..self.usage() }
    }

    fn parse(&self, typed: &str, args: &[&str]) -> Result<QemuIo, Output> {
        let tag = |i: usize| Arc::from(args[i]);
        match self.name {
            "read" => self.read(typed, args),
            "readv" | "aio_read" => self.read_vector(typed, args),
            "write" => self.write(typed, args),
            "writev" | "aio_write" => self.write_vector(typed, args),
            "discard" => self.discard(typed, args),
            "truncate" => self.truncate(typed, args),
            "aio_flush" => Ok(QemuIo::AioFlush),
            "flush" => Ok(QemuIo::Flush),
            "info" => Ok(QemuIo::Info),
            "length" => Ok(QemuIo::Length),
            "map" => Ok(QemuIo::Map),
            "alloc" => {
                let offset = size(args[0])?;
                let bytes = args.get(1).map_or(Ok(SECTOR), |arg| size(arg))?;
                Ok(QemuIo::Alloc { offset, bytes })
            }
            "break" => Ok(QemuIo::Break { event: tag(0), tag: tag(1) }),
            "remove_break" => Ok(QemuIo::RemoveBreak { tag: tag(0) }),
            "resume" => Ok(QemuIo::Resume { tag: tag(0) }),
            "wait_break" => Ok(QemuIo::WaitBreak { tag: tag(0) }),
            "sleep" => sleep(args[0]),
            "reopen" => self.reopen(typed, args),
            name => Ok(QemuIo::NotSimulated(name)),
        }
    }

    fn reopen(&self, typed: &str, args: &[&str]) -> Result<QemuIo, Output> {
        let parsed = getopt(args, "c:o:rw");
        let mut reopen = Reopen::default();
        for option in parsed.options {
            match option {
                Opt::Wrong(complaint) => return Err(self.bad_option(typed, &complaint)),
                Opt::Flag('c', mode) => {
                    let mode = mode.unwrap_or_default();
                    let wrong = || Output::report(format!("Invalid cache option: {mode}"));
                    reopen.cache = Some(CacheMode::of(mode).ok_or_else(wrong)?);
                }
                Opt::Flag('o', text) => reopen.options.push(text.unwrap_or_default().into()),
                Opt::Flag(flag, _) => {
                    if reopen.read_only.replace(flag == 'r').is_some() {
                        return Err(Output::report("Only one -r/-w option may be given".to_owned()));
                    }
                }
            }
        }
        if parsed.operands.is_empty() { Ok(QemuIo::Reopen(Box::new(reopen))) } else { Err(self.usage()) }
    }

    fn read(&self, typed: &str, args: &[&str]) -> Result<QemuIo, Output> {
        let mut flags = Flags::default();
        let operands = flags.scan(args, "bCl:pP:qrs:v", self.perms.write, |c| self.bad_option(typed, c))?;
        let [offset_arg, count_arg] = operands[..] else { return Err(self.usage()) };
        let (offset, bytes) = (size(offset_arg)?, size(count_arg)?);
        if bytes > REQUEST_MAX_BYTES {
            return Err(Output::line(&format!("length cannot exceed {REQUEST_MAX_BYTES}, given {count_arg}")));
        }
        if flags.pattern.is_none() && (flags.length.is_some() || flags.start.is_some()) {
            return Err(self.usage());
        }
        let start = flags.start.unwrap_or(0);
        let verified = flags.length.or(bytes.checked_sub(start));
        let Some(verified) = verified.filter(|n| n.checked_add(start).is_some_and(|end| end <= bytes)) else {
            return Err(Output::line("pattern verification range exceeds end of read data"));
        };
        if flags.vmstate {
            sector_aligned(offset, bytes)?;
            if flags.registered {
                return Err(Output::line("I/O buffer registration is not supported when reading from vmstate"));
            }
            return Ok(QemuIo::NotSimulated("read -b"));
        }
        let verify = flags.pattern.map(|pattern| Verify { pattern, start, bytes: verified });
        Ok(QemuIo::Read(Read {
            submit: Submit::Plain,
            offset,
            bytes,
            verify,
            dump: flags.dump,
            report: flags.report(),
        }))
    }

    fn read_vector(&self, typed: &str, args: &[&str]) -> Result<QemuIo, Output> {
        let (submit, spec) = if self.name == "readv" { (Submit::Vector, "CP:qrv") } else { (Submit::Aio, "CiP:qrv") };
        let mut flags = Flags::default();
        let operands = flags.scan(args, spec, self.perms.write, |c| self.bad_option(typed, c))?;
        let [offset, lengths @ ..] = &operands[..] else { return Err(self.usage()) };
        if lengths.is_empty() {
            return Err(self.usage());
        }
        let offset = size(offset)?;
        let invalid = (submit == Submit::Aio).then_some(AcctType::Read);
        let bytes = vector(lengths).map_err(|output| Output { invalid, ..output })?;
        let verify = flags.pattern.map(|pattern| Verify { pattern, start: 0, bytes });
        Ok(QemuIo::Read(Read { submit, offset, bytes, verify, dump: flags.dump, report: flags.report() }))
    }

    fn write(&self, typed: &str, args: &[&str]) -> Result<QemuIo, Output> {
        let mut flags = Flags::default();
        let operands = flags.scan(args, "bcCfnpP:qrs:uz", self.perms.write, |c| self.bad_option(typed, c))?;
        let [offset_arg, count_arg] = operands[..] else { return Err(self.usage()) };
        let exclusive = [flags.zero, flags.pattern.is_some(), flags.source];
        for (wrong, text) in [
            (flags.vmstate && flags.zero, "-b and -z cannot be specified at the same time"),
            (flags.fua && (flags.vmstate || flags.compressed), "-f and -b or -c cannot be specified at the same time"),
            (flags.no_fallback && !flags.zero, "-n requires -z to be specified"),
            (flags.unmap && !flags.zero, "-u requires -z to be specified"),
            (
                exclusive.into_iter().filter(|f| *f).count() > 1,
                "Only one of -z, -P, and -s can be specified at the same time",
            ),
        ] {
            if wrong {
                return Err(Output::line(text));
            }
        }
        let (offset, bytes) = (size(offset_arg)?, size(count_arg)?);
        if bytes > REQUEST_MAX_BYTES && !flags.no_fallback {
            let text = format!("length cannot exceed {REQUEST_MAX_BYTES} without -n, given {count_arg}");
            return Err(Output::line(&text));
        }
        if flags.vmstate || flags.compressed {
            sector_aligned(offset, bytes)?;
        }
        if flags.zero && flags.registered {
            return Err(Output::line("cannot combine zero write with registered I/O buffer"));
        }
        if flags.source {
            return Ok(QemuIo::NotSimulated("write -s"));
        }
        if flags.vmstate {
            return Ok(QemuIo::NotSimulated("write -b"));
        }
        let data = flags.write_data();
        Ok(QemuIo::Write(Write { submit: Submit::Plain, offset, bytes, data, fua: flags.fua, report: flags.report() }))
    }

    fn write_vector(&self, typed: &str, args: &[&str]) -> Result<QemuIo, Output> {
        let (submit, spec) =
            if self.name == "writev" { (Submit::Vector, "CfP:qr") } else { (Submit::Aio, "CfiP:qruz") };
        let mut flags = Flags::default();
        let operands = flags.scan(args, spec, self.perms.write, |c| self.bad_option(typed, c))?;
        let [offset, lengths @ ..] = &operands[..] else { return Err(self.usage()) };
        if lengths.is_empty() {
            return Err(self.usage());
        }
        for (wrong, text) in [
            (flags.zero && lengths.len() > 1, "-z supports only a single length parameter"),
            (flags.unmap && !flags.zero, "-u requires -z to be specified"),
            // QEMU means to refuse -z with -P here, but never notes that -P was given.
            (flags.zero && flags.registered, "cannot combine zero write with registered I/O buffer"),
        ] {
            if wrong {
                return Err(Output::line(text));
            }
        }
        let offset = size(offset)?;
        let invalid = (submit == Submit::Aio).then_some(AcctType::Write);
        let bytes = match flags.zero {
            true => size(lengths[0])?,
            false => vector(lengths).map_err(|output| Output { invalid, ..output })?,
        };
        let data = flags.write_data();
        Ok(QemuIo::Write(Write { submit, offset, bytes, data, fua: flags.fua, report: flags.report() }))
    }

    fn discard(&self, typed: &str, args: &[&str]) -> Result<QemuIo, Output> {
        let mut flags = Flags::default();
        let operands = flags.scan(args, "Cq", self.perms.write, |c| self.bad_option(typed, c))?;
        let [offset_arg, count_arg] = operands[..] else { return Err(self.usage()) };
        let (offset, bytes) = (size(offset_arg)?, size(count_arg)?);
        if bytes > REQUEST_MAX_BYTES {
            return Err(Output::line(&format!("length cannot exceed {REQUEST_MAX_BYTES}, given {count_arg}")));
        }
        Ok(QemuIo::Discard { offset, bytes, report: flags.report() })
    }

    fn truncate(&self, typed: &str, args: &[&str]) -> Result<QemuIo, Output> {
        let mut prealloc = Prealloc::Off;
        let parsed = getopt(args, "m:");
        for option in &parsed.options {
            let mode = match option {
                Opt::Flag(_, mode) => mode.unwrap_or_default(),
                Opt::Wrong(complaint) => return Err(self.bad_option(typed, complaint)),
            };
            prealloc = match mode {
                "off" => Prealloc::Off,
                "metadata" => Prealloc::Metadata,
                "falloc" => Prealloc::Falloc,
                "full" => Prealloc::Full,
                _ => return Err(Output::report(format!("Invalid preallocation mode '{mode}'"))),
            };
        }
        // QEMU does not count the operands: further ones are ignored, and a missing one is no number. Its message
        // always shows the first word, which is an option if there is one.
        let operand = parsed.operands.first().copied().unwrap_or_default();
        let first_word = parsed.first_option.unwrap_or(operand);
        let offset = cvtnum(operand).map_err(|e| Output::line(&cvtnum_error(e, first_word)))?;
        Ok(QemuIo::Truncate { offset, prealloc })
    }
}

fn sleep(arg: &str) -> Result<QemuIo, Output> {
    match c_int(arg) {
        Some(n) if !n.negative || n.magnitude == Some(0) => {
            let most = i64::MAX as u64;
            Ok(QemuIo::Sleep { milliseconds: n.magnitude.map_or(most, |m| m.min(most)) })
        }
        _ => Err(Output::line(&format!("{arg} is not a valid number"))),
    }
}

fn size(arg: &str) -> Result<u64, Output> {
    cvtnum(arg).map_err(|e| Output::line(&cvtnum_error(e, arg)))
}

/// The sum of the lengths of an I/O vector (`qemu-io-cmds.c:create_iovec`).
fn vector(lengths: &[&str]) -> Result<u64, Output> {
    let mut total = 0;
    for arg in lengths {
        let len = size(arg)?;
        if len > REQUEST_MAX_BYTES {
            return Err(Output::line(&format!("Argument '{arg}' exceeds maximum size {REQUEST_MAX_BYTES}")));
        }
        if total > REQUEST_MAX_BYTES - len {
            let text = format!("The total number of bytes exceed the maximum size {REQUEST_MAX_BYTES}");
            return Err(Output::line(&text));
        }
        total += len;
    }
    Ok(total)
}

fn sector_aligned(offset: u64, bytes: u64) -> Result<(), Output> {
    for (value, name) in [(offset, "offset"), (bytes, "count")] {
        if !value.is_multiple_of(SECTOR) {
            return Err(Output::line(&format!("{value} is not a sector-aligned value for '{name}'")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
