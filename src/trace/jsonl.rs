//! The form for machines: JSON lines. A header comes first, then one object a record, members sorted.
//!
//! ```json
//! {"format": "blockjob-sim trace", "level": "client", "scenario": "x.yaml", "schedule": "calm", "version": 1}
//! {"command": {"arguments": {…}, "execute": "drive-backup"}, "time": 0}
//! {"data": {"id": "j0", "status": "created"}, "event": "JOB_STATUS_CHANGE", "time": 0}
//! {"reply": {"return": {}}, "time": 0}
//! {"job-status": {"from": "created", "job": "j0", "to": "running"}, "time": 0}
//! ```
//!
//! From level `io` on a record may have a `cause`: the number of the record that led to it, the first one being 0.

use super::compare::ClientLine;
use super::{Level, Record, RecordKind, RequestPhase, Trace, canonical};
use crate::base::Json;
use std::sync::Arc;

/// Version of the form. It grows when a member is removed or changes its meaning, not when one is added.
pub const VERSION: u64 = 1;

/// What the first line says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// File name of the scenario.
    pub scenario: Arc<str>,
    /// How choices were made: `calm`, `seed 5`, `replay`.
    pub schedule: Arc<str>,
    /// Level of detail.
    pub level: Level,
}

impl Header {
    /// The first line, without its end.
    #[must_use]
    pub fn line(&self) -> String {
        canonical::to_string(&Json::dict(vec![
            ("format", Json::str("blockjob-sim trace")),
            ("level", Json::str(self.level.name())),
            ("scenario", Json::Str(self.scenario.clone())),
            ("schedule", Json::Str(self.schedule.clone())),
            ("version", Json::uint(VERSION)),
        ]))
    }
}

/// The whole trace: header and records, those above its level left out.
#[must_use]
pub fn to_string(header: &Header, trace: &Trace, times: bool) -> String {
    let mut out = header.line();
    out.push('\n');
    for record in trace.iter().filter(|record| record.kind.level() <= header.level) {
        // A number of a record means something where no record is left out.
        canonical::write(&json(record, times, trace.level() == Some(header.level)), &mut out);
        out.push('\n');
    }
    out
}

/// A record as JSON; `times` says whether with its `time`.
#[must_use]
pub fn value(record: &Record, times: bool) -> Json {
    json(record, times, true)
}

fn json(record: &Record, times: bool, causes: bool) -> Json {
    let mut members = match &record.kind {
        RecordKind::Command(command) => vec![("command", command.clone())],
        RecordKind::Reply(reply) => vec![("reply", reply.clone())],
        RecordKind::Event { name, data } => vec![("data", data.clone()), ("event", Json::str(name))],
        other => {
            let (name, fields) = inner(other);
            vec![(name, Json::dict(fields))]
        }
    };
    if let Some(cause) = record.cause.filter(|_| causes) {
        members.push(("cause", Json::uint(u64::from(cause))));
    }
    if times {
        members.push(("time", Json::uint(record.time.as_nanos())));
    }
    Json::dict(members)
}

/// Name and fields of a record that no client sees.
fn inner(kind: &RecordKind) -> (&'static str, Vec<(&'static str, Json)>) {
    let text = |text: &Arc<str>| Json::Str(text.clone());
    match kind {
        RecordKind::Command(value) | RecordKind::Reply(value) | RecordKind::Event { data: value, .. } => {
            ("client", vec![("value", value.clone())])
        }
        RecordKind::JobStatus { job, from, to } => {
            ("job-status", vec![("job", text(job)), ("from", Json::str(from)), ("to", Json::str(to))])
        }
        RecordKind::JobPause { job, count } => {
            ("job-pause", vec![("job", text(job)), ("count", Json::uint(u64::from(*count)))])
        }
        RecordKind::JobProgress { job, current, total } => {
            ("job-progress", vec![("job", text(job)), ("current", Json::uint(*current)), ("total", Json::uint(*total))])
        }
        RecordKind::Txn { phase, index, action } => (
            "transaction",
            vec![
                ("step", Json::str(phase.name())),
                ("index", Json::uint(u64::from(*index))),
                ("action", Json::str(action)),
            ],
        ),
        RecordKind::Group { job, what, group } => {
            ("group", vec![("job", text(job)), ("what", Json::str(what)), ("group", Json::uint(u64::from(*group)))])
        }
        RecordKind::Request { id, node, op, offset, bytes, who, phase } => {
            let mut fields = vec![
                ("id", Json::uint(*id)),
                ("node", text(node)),
                ("op", Json::str(op)),
                ("offset", Json::uint(*offset)),
                ("bytes", Json::uint(*bytes)),
                ("who", text(who)),
                ("phase", Json::str(phase.name())),
            ];
            if let RequestPhase::Complete(Some(errno)) = phase {
                fields.push(("errno", Json::uint(u64::from(errno.0))));
            }
            ("request", fields)
        }
        RecordKind::Fault { node, rule, errno, op, offset, bytes } => (
            "fault",
            vec![
                ("node", text(node)),
                ("rule", Json::uint(u64::from(*rule))),
                ("errno", Json::uint(u64::from(errno.0))),
                ("op", Json::str(op)),
                ("offset", Json::uint(*offset)),
                ("bytes", Json::uint(*bytes)),
            ],
        ),
        RecordKind::BlkdebugState { node, event, from, to } => (
            "blkdebug-state",
            vec![
                ("node", text(node)),
                ("event", Json::str(event)),
                ("from", Json::uint(u64::from(*from))),
                ("to", Json::uint(u64::from(*to))),
            ],
        ),
        RecordKind::Bitmap { node, name, what, offset, bytes, count } => (
            "bitmap",
            vec![
                ("node", text(node)),
                ("name", text(name)),
                ("what", Json::str(what)),
                ("offset", Json::uint(*offset)),
                ("bytes", Json::uint(*bytes)),
                ("count", Json::uint(*count)),
            ],
        ),
        RecordKind::Graph { what, node, other } => {
            ("graph", vec![("what", Json::str(what)), ("node", text(node)), ("other", text(other))])
        }
        RecordKind::Copying { job, copying } => {
            let range = |(offset, bytes): &(u64, u64)| Json::list(vec![Json::uint(*offset), Json::uint(*bytes)]);
            let ranges = |all: &[(u64, u64)]| Json::list(all.iter().map(range).collect::<Vec<_>>());
            let (dirty, active) = (ranges(&copying.dirty), ranges(&copying.active));
            let len = Json::uint(copying.len);
            ("copying", vec![("job", text(job)), ("len", len), ("dirty", dirty), ("in-flight", active)])
        }
        RecordKind::Drain { node, what } => ("drain", vec![("node", text(node)), ("what", Json::str(what))]),
        RecordKind::Co { co, entry, what } => (
            "coroutine",
            vec![("co", Json::uint(u64::from(*co))), ("entry", Json::str(entry)), ("what", Json::str(what))],
        ),
        RecordKind::Note(note) => ("note", vec![("what", Json::str(note.what)), ("text", text(&note.text))]),
    }
}

/// What is wrong with the text of a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TraceError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}

/// Reads the client's view out of JSON lines, of ours or of a recording of the real QEMU. The header and records of other
/// levels are passed over.
///
/// # Errors
/// A line that is no JSON object, or a record of no known shape at client level.
pub fn parse_client(text: &str) -> Result<Vec<ClientLine>, TraceError> {
    let mut lines = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |problem: &str| TraceError { line: i + 1, problem: problem.to_owned() };
        let value = canonical::parse(line).map_err(|problem| wrong(&problem))?;
        if value.as_dict().is_none() {
            return Err(wrong("expected a JSON object"));
        }
        let client = match (value.get("command"), value.get("reply"), value.get("event")) {
            (Some(command), None, None) => ClientLine::Command(command.clone()),
            (None, Some(reply), None) => ClientLine::Reply(reply.clone()),
            (None, None, Some(Json::Str(name))) => {
                ClientLine::Event { name: name.clone(), data: value.get("data").cloned().unwrap_or_else(Json::empty) }
            }
            (None, None, None) => continue,
            _ => return Err(wrong("expected one of `command`, `reply` and `event`")),
        };
        lines.push(client);
    }
    Ok(lines)
}
