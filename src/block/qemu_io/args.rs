//! Options and operands of qemu-io commands, in the ways of glibc's `getopt`.

use super::{Output, Report, WriteData, size};
use crate::block::accounting::AcctType;
use crate::block::cvtnum::c_int;

/// The options of the request commands.
#[derive(Default)]
pub(super) struct Flags {
    pub(super) vmstate: bool,
    pub(super) compressed: bool,
    pub(super) machine: bool,
    pub(super) fua: bool,
    pub(super) length: Option<u64>,
    pub(super) no_fallback: bool,
    pub(super) pattern: Option<u8>,
    pub(super) quiet: bool,
    pub(super) registered: bool,
    pub(super) source: bool,
    pub(super) start: Option<u64>,
    pub(super) unmap: bool,
    pub(super) dump: bool,
    pub(super) zero: bool,
}

impl Flags {
    /// Takes the options in and returns the operands. `writes` tells a writing command, `bad_option` words what
    /// `getopt` complains about.
    ///
    /// # Errors
    /// What is printed instead of running the command.
    pub(super) fn scan<'a>(
        &mut self,
        args: &[&'a str],
        spec: &str,
        writes: bool,
        bad_option: impl Fn(&str) -> Output,
    ) -> Result<Vec<&'a str>, Output> {
        let parsed = getopt(args, spec);
        for option in parsed.options {
            let (flag, arg) = match option {
                Opt::Flag(flag, arg) => (flag, arg.unwrap_or_default()),
                Opt::Wrong(complaint) => return Err(bad_option(&complaint)),
            };
            match flag {
                'b' => self.vmstate = true,
                'c' => self.compressed = true,
                'C' => self.machine = true,
                'f' => self.fua = true,
                'i' => {
                    let (kind, name) = if writes { (AcctType::Write, "write") } else { (AcctType::Read, "read") };
                    let output = Output::line(&format!("injecting invalid {name} request"));
                    return Err(Output { invalid: Some(kind), ..output });
                }
                'l' => self.length = Some(size(arg)?),
                'n' => self.no_fallback = true,
                'P' => self.pattern = Some(pattern(arg)?),
                'q' => self.quiet = true,
                'r' => self.registered = true,
                's' if writes => self.source = true,
                's' => self.start = Some(size(arg)?),
                'u' => self.unmap = true,
                'v' => self.dump = true,
                'z' => self.zero = true,
                // `p` is accepted and means nothing.
                _ => (),
            }
        }
        Ok(parsed.operands)
    }

    /// What the request prints on success.
    pub(super) fn report(&self) -> Report {
        match (self.quiet, self.machine) {
            (true, _) => Report::Quiet,
            (false, true) => Report::Machine,
            (false, false) => Report::Human,
        }
    }

    /// What a write puts down.
    pub(super) fn write_data(&self) -> WriteData {
        let pattern = self.pattern.unwrap_or(0xcd);
        if self.zero {
            WriteData::Zeroes { unmap: self.unmap, no_fallback: self.no_fallback }
        } else if self.compressed {
            WriteData::Compressed(pattern)
        } else {
            WriteData::Pattern(pattern)
        }
    }
}

/// `qemu-io-cmds.c:parse_pattern`
fn pattern(arg: &str) -> Result<u8, Output> {
    let n = c_int(arg).filter(|n| !n.negative || n.magnitude == Some(0)).and_then(|n| n.magnitude);
    n.and_then(|n| u8::try_from(n).ok()).ok_or_else(|| Output::line(&format!("{arg} is not a valid pattern byte")))
}

pub(super) enum Opt<'a> {
    Flag(char, Option<&'a str>),
    /// glibc's complaint, without the program name.
    Wrong(String),
}

pub(super) struct Parsed<'a> {
    /// Up to the first wrong one.
    pub(super) options: Vec<Opt<'a>>,
    pub(super) operands: Vec<&'a str>,
    /// The first word that is an option (or `--`), which glibc moves before all operands.
    pub(super) first_option: Option<&'a str>,
}

/// glibc's `getopt`, which looks for options also behind operands.
pub(super) fn getopt<'a>(args: &[&'a str], spec: &str) -> Parsed<'a> {
    let mut parsed = Parsed { options: Vec::new(), operands: Vec::new(), first_option: None };
    let mut words = args.iter().copied();
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix('-').filter(|l| !l.is_empty()) else {
            parsed.operands.push(word);
            continue;
        };
        parsed.first_option.get_or_insert(word);
        if letters == "-" {
            parsed.operands.extend(words);
            break;
        }
        for (at, letter) in letters.char_indices() {
            let Some(place) = spec.find(letter).filter(|_| letter != ':') else {
                parsed.options.push(Opt::Wrong(format!("invalid option -- '{letter}'")));
                return parsed;
            };
            if !spec[place + 1..].starts_with(':') {
                parsed.options.push(Opt::Flag(letter, None));
                continue;
            }
            let attached = &letters[at + letter.len_utf8()..];
            let arg = if attached.is_empty() { words.next() } else { Some(attached) };
            parsed.options.push(match arg {
                Some(arg) => Opt::Flag(letter, Some(arg)),
                None => Opt::Wrong(format!("option requires an argument -- '{letter}'")),
            });
            break;
        }
    }
    parsed
}
