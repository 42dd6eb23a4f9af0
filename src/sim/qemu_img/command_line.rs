//! A command line of qemu-img, as `getopt_long` reads it: options may stand behind operands.

use super::{Done, Stop, usage};
use std::sync::Arc;

/// An option: its names, the short one first, and whether a value follows.
pub(super) struct Opt {
    names: &'static str,
    takes_value: bool,
}

impl Opt {
    pub(super) const fn flag(names: &'static str) -> Opt {
        Opt { names, takes_value: false }
    }

    pub(super) const fn value(names: &'static str) -> Opt {
        Opt { names, takes_value: true }
    }

    fn name(&self) -> &'static str {
        self.names.split(' ').next().unwrap_or_default()
    }

    fn is(&self, word: &str) -> bool {
        self.names.split(' ').any(|name| name == word)
    }
}

/// Options of the real one that this one lacks, of any of its commands.
const LACKING: [&str; 14] = [
    "p",
    "t",
    "T",
    "r",
    "U",
    "c",
    "h",
    "help",
    "object",
    "image-opts",
    "force-share",
    "compress",
    "preallocation",
    "o",
];

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Options by their first name, in order, with their values.
    pub options: Vec<(&'static str, Option<String>)>,
    pub operands: Vec<String>,
}

impl Line {
    pub(super) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(known, _)| *known == name)
    }

    /// The last value of an option.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(known, _)| *known == name)?.1.as_deref()
    }
}

/// Reads the words behind a command.
pub(super) fn read(command: &str, known: &[Opt], words: &[Arc<str>]) -> Done<Line> {
    let mut line = Line::default();
    let mut words = words.iter().map(|word| &**word);
    while let Some(word) = words.next() {
        if word == "--" {
            line.operands.extend(words.by_ref().map(str::to_owned));
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let Some(opt) = known.iter().find(|opt| opt.is(name) && name.len() > 1) else {
                return unknown(command, name, &format!("unrecognized option '{word}'"));
            };
            let value = if opt.takes_value { value.or_else(|| words.next().map(str::to_owned)) } else { None };
            if opt.takes_value && value.is_none() {
                return usage(command, &format!("qemu-img {command}: option '{word}' requires an argument"));
            }
            line.options.push((opt.name(), value));
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            for (at, letter) in letters.char_indices() {
                let name = letter.to_string();
                let Some(opt) = known.iter().find(|opt| opt.is(&name)) else {
                    return unknown(command, &name, &format!("invalid option -- '{letter}'"));
                };
                if !opt.takes_value {
                    line.options.push((opt.name(), None));
                    continue;
                }
                let rest = &letters[at + letter.len_utf8()..];
                let value = if rest.is_empty() { words.next() } else { Some(rest) };
                let Some(value) = value else {
                    return usage(command, &format!("qemu-img {command}: option requires an argument -- '{letter}'"));
                };
                line.options.push((opt.name(), Some(value.to_owned())));
                break;
            }
        } else {
            line.operands.push(word.to_owned());
        }
    }
    Ok(line)
}

fn unknown<T>(command: &str, name: &str, text: &str) -> Done<T> {
    if LACKING.contains(&name) {
        return Err(Stop::Lacks(format!("qemu-img {command} with the option {name}")));
    }
    usage(command, &format!("qemu-img {command}: {text}"))
}
