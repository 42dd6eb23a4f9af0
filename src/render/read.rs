//! What a picture is made from: records, taken from a trace or read from its JSON lines.
//!
//! Both ways lead through the JSON form of a record, so that a run, a file of a run and a recording of the real QEMU give the same
//! picture where they tell the same.

use crate::base::Json;
use crate::base::counted;
use crate::base::time::Instant;
use crate::base::units::size_text;
use crate::trace::jsonl::{self, TraceError};
use crate::trace::{Trace, canonical};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A record, as far as pictures know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rec {
    /// Virtual time in nanoseconds; in a file without times, the number of the line in microseconds.
    pub time: Instant,
    /// Number of the record that led to it.
    pub cause: Option<usize>,
    /// What happened.
    pub kind: RecKind,
}

/// What happened in a record; the fields are those of [`crate::trace::RecordKind`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `RecordKind`, explained there")]
pub enum RecKind {
    Command { name: String, subject: String, detail: String },
    Reply { error: Option<String>, detail: String },
    Event { name: String, subject: String, status: Option<String>, error: Option<String>, detail: String },
    Status { job: Arc<str>, from: String, to: String },
    Pause { job: Arc<str>, count: u64 },
    Progress { job: Arc<str>, current: u64, total: u64 },
    Txn { step: String, index: u64, action: String },
    Group { job: Arc<str>, what: String, group: u64 },
    Request { id: u64, node: Arc<str>, op: String, offset: u64, bytes: u64, who: String, phase: RequestState },
    Fault { node: Arc<str>, rule: u64, errno: u64, op: String, offset: u64, bytes: u64 },
    Blkdebug { node: Arc<str>, event: String, from: u64, to: u64 },
    Bitmap { node: Arc<str>, name: Arc<str>, what: String, offset: u64, bytes: u64, count: u64 },
    Drain { node: Arc<str>, what: String },
    Graph { what: String, node: Arc<str>, other: Arc<str> },
    Copying { job: Arc<str>, len: u64, dirty: Vec<(u64, u64)>, active: Vec<(u64, u64)> },
    Co { co: u64, entry: String, what: String },
    Note { what: String, text: String },
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// It begins.
    Submit,
    /// It ended well.
    Done,
    /// It ended with this errno.
    Failed(u64),
}

/// A run to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShownRun {
    /// What it is, in a few words: the file.
    pub title: String,
    /// How choices were made: `calm`, `seed 3`; for recordings the real QEMU's version.
    pub schedule: String,
    /// How it ended, if that is known and worth a word.
    pub outcome: Option<String>,
    /// The records, in their order.
    pub records: Vec<Rec>,
    /// What is known of nodes beside their names: driver and file.
    pub nodes: BTreeMap<Arc<str>, String>,
    /// The node graph as text, each time that it changes: from which record on, and what it is.
    pub graphs: Vec<(usize, String)>,
}

impl ShownRun {
    /// What a node's lane is called: its name, and what is known of it.
    #[must_use]
    pub fn node_label(&self, name: &str) -> String {
        self.nodes.get(name).map_or_else(|| name.to_owned(), |about| format!("{name} · {about}"))
    }

    /// The node graph when this record was made, as text; nothing where it is not known.
    #[must_use]
    pub fn graph_at(&self, record: usize) -> Option<&str> {
        self.graphs.iter().rev().find(|(from, _)| *from <= record).map(|(_, text)| text.as_str())
    }

    /// From the trace of a run.
    #[must_use]
    pub fn of_trace(title: &str, schedule: &str, trace: &Trace) -> ShownRun {
        let records = trace.iter().filter_map(|record| rec(&jsonl::value(record, true), record.time)).collect();
        ShownRun {
            title: title.to_owned(),
            schedule: schedule.to_owned(),
            outcome: None,
            records,
            nodes: BTreeMap::new(),
            graphs: Vec::new(),
        }
    }

    /// From JSON lines. A file of recordings holds several traces, each behind a header: `nth` says which, from 0.
    ///
    /// # Errors
    /// A line that is no record, and a trace that is not there.
    pub fn parse(title: &str, text: &str, nth: usize) -> Result<ShownRun, TraceError> {
        let mut source = ShownRun { title: title.to_owned(), ..ShownRun::default() };
        let (mut headers, mut records, mut last) = (0_usize, 0_usize, Instant::START);
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |problem: String| TraceError { line: i + 1, problem };
            let value = canonical::parse(line).map_err(wrong)?;
            if let Some(header) = header(&value) {
                headers += 1;
                if headers == nth + 1 {
                    source.schedule = header;
                    if let Some(Json::Str(name)) = value.get("scenario").or_else(|| value.get("case"))
                        && !name.is_empty()
                    {
                        source.title = name.to_string();
                    }
                }
                continue;
            }
            if headers.max(1) != nth + 1 {
                continue;
            }
            let time = value.get("time").and_then(Json::as_u64).unwrap_or(records as u64 * 1000);
            let time = Instant::from_nanos(time).max(last);
            last = time;
            records += 1;
            let known = rec(&value, time).ok_or_else(|| wrong("this is no record of a trace".to_owned()))?;
            source.records.push(known);
        }
        if records == 0 && headers.max(1) <= nth {
            let problem =
                format!("this file has {}, and no number {}", counted(headers.max(1) as u64, "trace"), nth + 1);
            return Err(TraceError { line: text.lines().count().max(1), problem });
        }
        Ok(source)
    }
}

/// What a header says of who chose; `None` for a line that is none.
fn header(value: &Json) -> Option<String> {
    let word = |key| value.get(key).and_then(Json::as_str);
    if let Some(version) = word("qemu") {
        return Some(format!("QEMU {version}"));
    }
    word("format").map(|_| word("schedule").unwrap_or_default().to_owned())
}

/// A record out of its JSON form; `None` for what is none.
fn rec(value: &Json, time: Instant) -> Option<Rec> {
    let cause = value.get("cause").and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok());
    Some(Rec { time, cause, kind: kind(value)? })
}

fn kind(value: &Json) -> Option<RecKind> {
    if let Some(command) = value.get("command") {
        return Some(self::command(command));
    }
    if let Some(reply) = value.get("reply") {
        let error = reply.get("error").map(|error| string(error, "desc"));
        let detail = reply.get("return").or_else(|| reply.get("error")).map(short).unwrap_or_default();
        return Some(RecKind::Reply { error, detail });
    }
    if let Some(name) = value.get("event").and_then(Json::as_str) {
        let data = value.get("data").cloned().unwrap_or_else(Json::empty);
        return Some(RecKind::Event {
            name: name.to_owned(),
            subject: subject(&data),
            status: data.get("status").and_then(Json::as_str).map(str::to_owned),
            error: data.get("error").and_then(Json::as_str).map(str::to_owned),
            detail: short(&data),
        });
    }
    let members = value.as_dict()?;
    let (name, f) = members.iter().find(|(key, _)| &**key != "time" && &**key != "cause")?;
    let (text, number) = (|key: &str| string(f, key), |key: &str| f.get(key).and_then(Json::as_u64).unwrap_or(0));
    let arc = |key: &str| -> Arc<str> { text(key).into() };
    Some(match &**name {
        "job-status" => RecKind::Status { job: arc("job"), from: text("from"), to: text("to") },
        "job-pause" => RecKind::Pause { job: arc("job"), count: number("count") },
        "job-progress" => RecKind::Progress { job: arc("job"), current: number("current"), total: number("total") },
        "transaction" => RecKind::Txn { step: text("step"), index: number("index"), action: text("action") },
        "group" => RecKind::Group { job: arc("job"), what: text("what"), group: number("group") },
        "request" => RecKind::Request {
            id: number("id"),
            node: arc("node"),
            op: text("op"),
            offset: number("offset"),
            bytes: number("bytes"),
            who: text("who"),
            phase: match &*text("phase") {
                "submit" => RequestState::Submit,
                "failed" => RequestState::Failed(number("errno")),
                _ => RequestState::Done,
            },
        },
        "fault" => RecKind::Fault {
            node: arc("node"),
            rule: number("rule"),
            errno: number("errno"),
            op: text("op"),
            offset: number("offset"),
            bytes: number("bytes"),
        },
        "blkdebug-state" => {
            RecKind::Blkdebug { node: arc("node"), event: text("event"), from: number("from"), to: number("to") }
        }
        "bitmap" => RecKind::Bitmap {
            node: arc("node"),
            name: arc("name"),
            what: text("what"),
            offset: number("offset"),
            bytes: number("bytes"),
            count: number("count"),
        },
        "graph" => RecKind::Graph { what: text("what"), node: arc("node"), other: arc("other") },
        "copying" => RecKind::Copying {
            job: arc("job"),
            len: number("len"),
            dirty: ranges(f, "dirty"),
            active: ranges(f, "in-flight"),
        },
        "drain" => RecKind::Drain { node: arc("node"), what: text("what") },
        "coroutine" => RecKind::Co { co: number("co"), entry: text("entry"), what: text("what") },
        "note" => RecKind::Note { what: text("what"), text: text("text") },
        _ => return None,
    })
}

fn command(command: &Json) -> RecKind {
    let name = command.get("execute").or_else(|| command.get("exec-oob")).and_then(Json::as_str).unwrap_or("?");
    let arguments = command.get("arguments").cloned().unwrap_or_else(Json::empty);
    let mut subject = subject(&arguments);
    let mut detail = if arguments.as_dict().is_some_and(<[_]>::is_empty) { String::new() } else { short(&arguments) };
    let mut name = name.to_owned();
    if let ("human-monitor-command", Some(line)) = (&*name, arguments.get("command-line").and_then(Json::as_str)) {
        detail = line.to_owned();
        name = line.split(' ').next().unwrap_or("hmp").to_owned();
        subject = line.split(' ').nth(1).unwrap_or_default().to_owned();
    }
    if let Some(actions) = arguments.get("actions").and_then(Json::as_list) {
        subject = format!("{} action{}", actions.len(), if actions.len() == 1 { "" } else { "s" });
    }
    RecKind::Command { name, subject, detail }
}

/// A list of ranges, each `[offset, bytes]`.
fn ranges(value: &Json, key: &str) -> Vec<(u64, u64)> {
    let range = |range: &Json| match range.as_list()? {
        [offset, bytes] => Some((offset.as_u64()?, bytes.as_u64()?)),
        _ => None,
    };
    let list = value.get(key).and_then(Json::as_list).unwrap_or_default();
    list.iter().filter_map(range).collect()
}

fn string(value: &Json, key: &str) -> String {
    value.get(key).and_then(Json::as_str).unwrap_or_default().to_owned()
}

/// What a command or an event is about.
fn subject(data: &Json) -> String {
    let keys = ["id", "job-id", "device", "node", "node-name"];
    keys.iter().find_map(|key| data.get(key).and_then(Json::as_str)).unwrap_or("").to_owned()
}

/// A value as text, cut where it gets too long for a picture.
fn short(value: &Json) -> String {
    let text = canonical::to_string(value);
    match text.char_indices().nth(600) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The text of an errno that an injected fault may have.
#[must_use]
pub fn errno_name(errno: u64) -> String {
    u32::try_from(errno).map_or_else(|_| errno.to_string(), |n| crate::base::Errno(n).to_string())
}

impl RecKind {
    /// One line on the record, without its time.
    #[must_use]
    pub fn line(&self) -> String {
        let range = |offset: &u64, bytes: &u64| format!("+{} @{}", size_text(*bytes), size_text(*offset));
        let words =
            |parts: &[&str]| parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ");
        match self {
            RecKind::Command { name, subject, .. } => words(&["command", name, subject]),
            RecKind::Reply { error: Some(error), .. } => format!("error reply: {error}"),
            RecKind::Reply { error: None, .. } => "reply".to_owned(),
            RecKind::Event { name, subject, status, error, .. } => {
                words(&["event", name, subject, status.as_deref().unwrap_or(""), error.as_deref().unwrap_or("")])
            }
            RecKind::Status { job, from, to } => format!("{job}: {from} → {to}"),
            RecKind::Pause { job, count } => format!("{job}: pause count {count}"),
            RecKind::Progress { job, current, total } => format!("{job}: progress {current}/{total}"),
            RecKind::Txn { step, index, action } => format!("transaction: {step} {index} {action}"),
            RecKind::Group { job, what, group } => format!("{job}: {what} (group {group})"),
            RecKind::Request { id, node, op, offset, bytes, who, phase } => {
                let end = match phase {
                    RequestState::Submit => "submit".to_owned(),
                    RequestState::Done => "done".to_owned(),
                    RequestState::Failed(errno) => format!("failed: {}", errno_name(*errno)),
                };
                format!("{node}: {op} {} #{id} for {who}, {end}", range(offset, bytes))
            }
            RecKind::Fault { node, rule, errno, op, offset, bytes } => {
                format!("{node}: fault by rule {rule}: {op} {}: {}", range(offset, bytes), errno_name(*errno))
            }
            RecKind::Blkdebug { node, event, from, to } => format!("{node}: {event}, state {from} → {to}"),
            RecKind::Bitmap { node, name, what, count, .. } => {
                format!("{node}/{name}: {what}, {} dirty", size_text(*count))
            }
            RecKind::Graph { what, node, other } if what == "pivot" => format!("pivot: {node} → {other}"),
            RecKind::Graph { what, node, other } => format!("{node} {what} over {other}"),
            RecKind::Copying { job, dirty, active, .. } => {
                let sum = |all: &[(u64, u64)]| size_text(all.iter().map(|(_, bytes)| bytes).sum());
                format!("{job}: {} dirty, {} in flight", sum(dirty), sum(active))
            }
            RecKind::Drain { node, what } => format!("{node}: drain {what}"),
            RecKind::Co { co, entry, what } => format!("coroutine {co}: {what} {entry}"),
            RecKind::Note { what, text } => format!("{what}: {text}"),
        }
    }
}
