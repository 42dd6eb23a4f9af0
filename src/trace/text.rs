//! The form for people: one line a record, in fixed columns.
//!
//! ```text
//!    time (ms)  kind  subject       what                       details
//!     0.000000  cmd   j0            drive-backup               {"device": "drive0", …}
//!     0.000000  job   j0            status                     undefined -> created
//!     1.250000  ev    j0            JOB_STATUS_CHANGE          running
//!     1.250000  ret                 return                     {}
//! ```

use super::{Record, RecordKind, RequestPhase, Trace, canonical};
use crate::base::Json;
use crate::base::units::size_text;
use std::fmt::Write;

/// Longer lines are cut in snapshots.
pub const SNAPSHOT_WIDTH: usize = 180;

/// Lines of records as they stand in snapshots: none longer than this.
pub fn short_lines<'a>(records: impl Iterator<Item = &'a Record>, width: usize) -> String {
    let mut out = String::new();
    for record in records {
        let mut line = String::new();
        write_line(record, &mut line);
        let line = line.trim_end();
        match line.char_indices().nth(width) {
            Some((end, _)) => out.extend([&line[..end], "…\n"]),
            None => out.extend([line, "\n"]),
        }
    }
    out
}

/// What `blockjob-sim help trace` says.
pub const HELP: &str = "\
A trace is what happened in a run, one record a line:

  time      milliseconds of virtual time since QEMU started, to the nanosecond
  kind      what sort of record it is (below)
  subject   what it is about: a job, a node or a device
  what      what happened to it
  details   the rest

Levels of detail; each shows the records of those before it too:

  client    what a QMP client sees, in its own order
    cmd     a command, where the client sent it: its name and arguments
    ret     a reply, where the client read it: the return value
    err     a reply that is an error: its class and text
    ev      an event, where the client read it: its name and data
  job       jobs, and the scenario itself
    job     status (old -> new), pause (the count), progress (bytes done/in all)
    txn     a step of a transaction: prepare, refuse, commit, abort, clean; the action's number and type
    grp     a job's group: joins, aborts; and what its end does to the job: commit, abort, clean
    sc      the scenario: marks, expectations met or failed, files changed from outside
  io        inside the block layer
    req     a request: submit, done or failed; its number, operation, +bytes @offset, and who asked
    flt     a blkdebug rule that made a request fail: the rule's number, the error, the request
    dbg     a blkdebug state: the event, old -> new
    bmp     a dirty bitmap node/name: what happened to which bytes, and the dirty bytes then
    gph     the filter of a mirror, commit or stream enters or leaves; a pivot
    cpy     what a mirror has still to copy, and what it copies
    drn     a drained section
  co        coroutines
    co      enter, yield, end; the entry function under QEMU's name

JSON lines (--format jsonl): the first line is a header with the version of the form; then one object a record. At
level client these are {\"command\": …}, {\"reply\": …} and {\"data\": …, \"event\": …}, each with \"time\" in nanoseconds;
the other records have one member named for their kind, which holds their fields. Members are sorted. From level io on
a record may have a \"cause\": the number of the record that led to it, the first record being 0.
";

/// The whole trace, a line a record.
#[must_use]
pub fn to_string(trace: &Trace) -> String {
    let mut out = String::new();
    for record in trace.iter() {
        write_line(record, &mut out);
    }
    out
}

/// Appends the line of a record, with its end.
pub fn write_line(record: &Record, out: &mut String) {
    let start = out.len();
    let columns = columns(&record.kind);
    let (whole, rest) = (record.time.as_nanos() / 1_000_000, record.time.as_nanos() % 1_000_000);
    _ = write!(
        out,
        "{whole:>6}.{rest:06}  {:<4}  {:<12}  {:<25}  {}",
        columns.kind, columns.subject, columns.what, columns.details
    );
    out.truncate(start + out[start..].trim_end().len());
    out.push('\n');
}

/// The parts of a line.
struct Columns<'a> {
    kind: &'static str,
    subject: &'a str,
    what: &'a str,
    details: String,
}

fn columns(kind: &RecordKind) -> Columns<'_> {
    let line = |kind, subject, what, details| Columns { kind, subject, what, details };
    match kind {
        // Bytes that were sent as they are.
        RecordKind::Command(text @ Json::Str(_)) => line("cmd", "", "send", canonical::to_string(text)),
        RecordKind::Command(command) => {
            let arguments = command.get("arguments");
            let name = command.get("execute").or_else(|| command.get("exec-oob")).and_then(Json::as_str).unwrap_or("");
            let details = match (name, arguments.and_then(|a| a.get("command-line")).and_then(Json::as_str)) {
                ("human-monitor-command", Some(text)) => text.to_owned(),
                _ => arguments.map(canonical::to_string).unwrap_or_default(),
            };
            line("cmd", arguments.map_or("", subject_of), name, details)
        }
        RecordKind::Reply(reply) => match (reply.get("error"), reply.get("return")) {
            (Some(error), _) => {
                let text = |key| error.get(key).and_then(Json::as_str).unwrap_or("");
                line("err", "", text("class"), text("desc").to_owned())
            }
            (None, Some(value)) => line("ret", "", "return", canonical::to_string(value)),
            (None, None) => line("ret", "", "", canonical::to_string(reply)),
        },
        RecordKind::Event { name, data } => line("ev", subject_of(data), name, event_details(data)),
        RecordKind::JobStatus { job, from, to } => line("job", job, "status", format!("{from} -> {to}")),
        RecordKind::JobPause { job, count } => line("job", job, "pause", count.to_string()),
        RecordKind::JobProgress { job, current, total } => line("job", job, "progress", format!("{current}/{total}")),
        RecordKind::Txn { phase, index, action } => line("txn", "", phase.name(), format!("{index} {action}")),
        RecordKind::Group { job, what, group: _ } => line("grp", job, what, String::new()),
        RecordKind::Request { id, node, op, offset, bytes, who, phase } => {
            let mut details = format!("#{id} {op} {} for {who}", range(*offset, *bytes));
            if let RequestPhase::Complete(Some(errno)) = phase {
                _ = write!(details, ": {errno}");
            }
            line("req", node, phase.name(), details)
        }
        RecordKind::Fault { node, rule, errno, op, offset, bytes } => {
            line("flt", node, "inject-error", format!("rule {rule}: {op} {}: {errno}", range(*offset, *bytes)))
        }
        RecordKind::BlkdebugState { node, event, from, to } => line("dbg", node, event, format!("{from} -> {to}")),
        RecordKind::Bitmap { node, name, what, offset, bytes, count } => {
            line("bmp", node, what, format!("{name} {} count {count}", range(*offset, *bytes)))
        }
        RecordKind::Graph { what, node, other } => {
            let details = if *what == "pivot" { format!("to {other}") } else { format!("over {other}") };
            line("gph", node, what, details)
        }
        RecordKind::Copying { job, copying } => {
            let ranges = |all: &[(u64, u64)]| {
                all.iter().map(|(offset, bytes)| range(*offset, *bytes)).collect::<Vec<_>>().join(", ")
            };
            let details = format!("dirty {}; in flight {}", ranges(&copying.dirty), ranges(&copying.active));
            line("cpy", job, "ranges", details)
        }
        RecordKind::Drain { node, what } => line("drn", node, what, String::new()),
        RecordKind::Co { co, entry, what } => line("co", "", what, format!("{entry} #{co}")),
        RecordKind::Note(note) => line("sc", "", note.what, note.text.to_string()),
    }
}

/// `+64K @1M`
fn range(offset: u64, bytes: u64) -> String {
    format!("+{} @{}", size_text(bytes), size_text(offset))
}

/// What a command or event is about.
fn subject_of(data: &Json) -> &str {
    let keys = ["id", "job-id", "device", "node", "node-name"];
    keys.iter().find_map(|key| data.get(key).and_then(Json::as_str)).unwrap_or("")
}

/// The data of an event without what the subject says: a status change is its status, others `key value` pairs.
fn event_details(data: &Json) -> String {
    let Some(members) = data.as_dict() else { return canonical::to_string(data) };
    let subject = subject_of(data);
    let mut rest: Vec<_> = members
        .iter()
        .filter(|(key, value)| {
            !(matches!(&**key, "id" | "device" | "node" | "node-name") && value.as_str() == Some(subject))
        })
        .collect();
    if let [(key, Json::Str(status))] = rest[..]
        && &**key == "status"
    {
        return status.to_string();
    }
    rest.sort_by(|(a, _), (b, _)| a.cmp(b));
    let pairs: Vec<String> = rest
        .iter()
        .map(|(key, value)| match value {
            Json::Str(text) if !text.contains(' ') && !text.is_empty() => format!("{key}={text}"),
            _ => format!("{key}={}", canonical::to_string(value)),
        })
        .collect();
    pairs.join(" ")
}
