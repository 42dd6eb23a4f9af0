//! Holding client traces together: ours and what a client of the real QEMU saw.
//!
//! Times do not count, nor does what differs from one machine to the next: the value of `actual-size`, the digits of generated
//! node names (`#block123`), and the order of members in `json:` file names.

use super::{RecordKind, Trace, canonical};
use crate::base::Json;
use std::fmt;
use std::sync::Arc;

/// A line of a client trace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientLine {
    /// A command, where it was sent.
    Command(Json),
    /// A reply, where it was read.
    Reply(Json),
    /// An event, where it was read.
    Event {
        /// QEMU's name of it, such as `BLOCK_JOB_COMPLETED`.
        name: Arc<str>,
        /// Its `data`.
        data: Json,
    },
}

impl ClientLine {
    /// The line as JSON, without a time.
    #[must_use]
    pub fn json(&self) -> Json {
        match self {
            ClientLine::Command(command) => Json::dict(vec![("command", command.clone())]),
            ClientLine::Reply(reply) => Json::dict(vec![("reply", reply.clone())]),
            ClientLine::Event { name, data } => {
                Json::dict(vec![("data", data.clone()), ("event", Json::Str(name.clone()))])
            }
        }
    }
}

impl fmt::Display for ClientLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&canonical::to_string(&self.json()))
    }
}

/// The client's view of a trace.
#[must_use]
pub fn client_lines(trace: &Trace) -> Vec<ClientLine> {
    let lines = trace.iter().filter_map(|record| match &record.kind {
        RecordKind::Command(command) => Some(ClientLine::Command(command.clone())),
        RecordKind::Reply(reply) => Some(ClientLine::Reply(reply.clone())),
        RecordKind::Event { name, data } => Some(ClientLine::Event { name: (*name).into(), data: data.clone() }),
        _ => None,
    });
    lines.collect()
}

/// The first place where two traces differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Lines before it, which are the same.
    pub index: usize,
    /// The line of the first trace; `None`: its end.
    pub a: Option<ClientLine>,
    /// The line of the second trace; `None`: its end.
    pub b: Option<ClientLine>,
    /// The place within the lines, as in `reply.return[0].file`; empty where they differ altogether.
    pub path: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.index + 1)?;
        if !self.path.is_empty() {
            write!(f, ", at {}", self.path)?;
        }
        let show = |line: &Option<ClientLine>| line.as_ref().map_or("(the end)".to_owned(), ToString::to_string);
        write!(f, ":\n  a: {}\n  b: {}", show(&self.a), show(&self.b))
    }
}

/// Compares two traces line by line.
#[must_use]
pub fn first_difference(a: &[ClientLine], b: &[ClientLine]) -> Option<Difference> {
    for index in 0..a.len().max(b.len()) {
        let (a, b) = (a.get(index), b.get(index));
        let path = match (a, b) {
            (Some(a), Some(b)) => match place(&a.json(), &b.json()) {
                None => continue,
                Some(path) => path.trim_start_matches('.').to_owned(),
            },
            _ => String::new(),
        };
        return Some(Difference { index, a: a.cloned(), b: b.cloned(), path });
    }
    None
}

/// Where two values differ, if they do.
fn place(a: &Json, b: &Json) -> Option<String> {
    match (a, b) {
        _ if same(a, b) => None,
        (Json::Dict(members), Json::Dict(others)) => {
            for (key, value) in members.iter() {
                match b.get(key) {
                    Some(other) if ignored(key) || same(value, other) => {}
                    Some(other) => return Some(format!(".{key}{}", place(value, other).unwrap_or_default())),
                    None => return Some(format!(".{key}")),
                }
            }
            others.iter().find(|(key, _)| a.get(key).is_none()).map(|(key, _)| format!(".{key}"))
        }
        (Json::List(items), Json::List(others)) if items.len() == others.len() => {
            let (i, (a, b)) = items.iter().zip(others.iter()).enumerate().find(|(_, (a, b))| !same(a, b))?;
            Some(format!("[{i}]{}", place(a, b).unwrap_or_default()))
        }
        _ => Some(String::new()),
    }
}

/// Members whose value is the host's matter.
#[must_use]
pub fn ignored(key: &str) -> bool {
    let time = matches!(key, "idle_time_ns" | "rd_total_time_ns" | "wr_total_time_ns" | "flush_total_time_ns");
    time || matches!(key, "actual-size" | "package")
}

/// Equality but for what differs from machine to machine (see above).
#[must_use]
pub fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Str(a), Json::Str(b)) => same_text(a, b),
        (Json::List(a), Json::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same(a, b)),
        (Json::Dict(members), Json::Dict(others)) => {
            members.len() == others.len()
                && members.iter().all(|(key, a)| b.get(key).is_some_and(|b| ignored(key) || same(a, b)))
        }
        _ => a == b,
    }
}

/// Equality of texts but for generated node names and the spelling of `json:` file names.
#[must_use]
pub fn same_text(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    if let (Some(a), Some(b)) = (a.strip_prefix("json:"), b.strip_prefix("json:"))
        && let (Ok(a), Ok(b)) = (canonical::parse(a), canonical::parse(b))
    {
        return same(&a, &b);
    }
    a.contains("#block") && without_generated(a) == without_generated(b)
}

/// `text` without the digits that follow `#block`.
fn without_generated(text: &str) -> String {
    let mut parts = text.split("#block");
    let mut out = parts.next().unwrap_or("").to_owned();
    for part in parts {
        out.push_str("#block");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}
