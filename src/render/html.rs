//! The page for a browser: everything in one file, nothing fetched from anywhere.
//!
//! The page's own script draws; what it draws is in the page as JSON, made here from the same [`Model`] as the other pictures.

use super::model::Model;
use super::read::{RecKind, RequestState, ShownRun};
use super::style::{STATES, escape};
use crate::base::Json;
use crate::base::time::Instant;
use crate::trace::canonical;
use crate::trace::compare::same_text;
use std::fmt::Write;
use std::sync::Arc;

const PAGE: &str = include_str!("page/page.html");
const CSS: &str = include_str!("page/page.css");
const SCRIPTS: [&str; 3] = [include_str!("page/model.js"), include_str!("page/view.js"), include_str!("page/panel.js")];

/// Kinds of records as the page knows them, with the room that one takes.
const KINDS: &[(&str, u64)] = &[
    ("command", 60),
    ("reply", 14),
    ("error", 14),
    ("status-event", 14),
    ("event", 14),
    ("bad-event", 14),
    ("status", 60),
    ("pause", 0),
    ("progress", 0),
    ("transaction", 4),
    ("group", 4),
    ("submit", 1),
    ("done", 1),
    ("failed", 1),
    ("fault", 40),
    ("blkdebug", 4),
    ("bitmap", 4),
    ("drain", 0),
    ("coroutine", 0),
    ("note", 0),
];

fn kind_name(kind: &RecKind) -> &'static str {
    match kind {
        RecKind::Command { .. } => "command",
        RecKind::Reply { error: None, .. } => "reply",
        RecKind::Reply { error: Some(_), .. } => "error",
        RecKind::Event { name, status: Some(_), .. } if name == "JOB_STATUS_CHANGE" => "status-event",
        RecKind::Event { name, error, .. } if error.is_some() || is_bad(name) => "bad-event",
        RecKind::Event { .. } => "event",
        RecKind::Status { .. } => "status",
        RecKind::Pause { .. } => "pause",
        RecKind::Progress { .. } => "progress",
        RecKind::Txn { .. } => "transaction",
        RecKind::Group { .. } => "group",
        RecKind::Request { phase: RequestState::Submit, .. } => "submit",
        RecKind::Request { phase: RequestState::Done, .. } => "done",
        RecKind::Request { phase: RequestState::Failed(_), .. } => "failed",
        RecKind::Fault { .. } => "fault",
        RecKind::Blkdebug { .. } => "blkdebug",
        RecKind::Bitmap { .. } => "bitmap",
        RecKind::Drain { .. } => "drain",
        RecKind::Graph { .. } => "graph",
        RecKind::Copying { .. } => "copying",
        RecKind::Co { .. } => "coroutine",
        RecKind::Note { .. } => "note",
    }
}

fn is_bad(event: &str) -> bool {
    event.ends_with("ERROR") || event.ends_with("CANCELLED")
}

/// Where two runs part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The record in each run; its length where one has ended.
    pub at: [usize; 2],
    /// What stands there.
    pub text: [String; 2],
}

/// The first place where two runs differ: in what the client saw, or if that is the same, in anything but times.
#[must_use]
pub fn difference(a: &ShownRun, b: &ShownRun) -> Option<Difference> {
    let client = |source: &ShownRun| -> Vec<usize> {
        let is_client =
            |kind: &RecKind| matches!(kind, RecKind::Command { .. } | RecKind::Reply { .. } | RecKind::Event { .. });
        (0..source.records.len()).filter(|i| is_client(&source.records[*i].kind)).collect()
    };
    let all = |source: &ShownRun| -> Vec<usize> { (0..source.records.len()).collect() };
    part(a, b, &client(a), &client(b)).or_else(|| part(a, b, &all(a), &all(b)))
}

fn part(a: &ShownRun, b: &ShownRun, in_a: &[usize], in_b: &[usize]) -> Option<Difference> {
    for i in 0..in_a.len().max(in_b.len()) {
        let at = [in_a.get(i).copied(), in_b.get(i).copied()];
        let texts = [at[0].map(|i| whole(&a.records[i].kind)), at[1].map(|i| whole(&b.records[i].kind))];
        if let [Some(x), Some(y)] = &texts
            && same_text(x, y)
        {
            continue;
        }
        let text = texts.map(|text| text.unwrap_or_else(|| "(has ended)".to_owned()));
        return Some(Difference { at: [at[0].unwrap_or(a.records.len()), at[1].unwrap_or(b.records.len())], text });
    }
    None
}

/// Line and details of a record.
fn whole(kind: &RecKind) -> String {
    match details(kind) {
        Some(details) if !details.is_empty() => format!("{} {details}", kind.line()),
        _ => kind.line(),
    }
}

fn details(kind: &RecKind) -> Option<&str> {
    match kind {
        RecKind::Command { detail, .. } | RecKind::Reply { detail, .. } | RecKind::Event { detail, .. } => Some(detail),
        _ => None,
    }
}

/// Draws a run, with a second one below it if there is one; `from` is the record to begin with.
#[must_use]
pub fn draw(first: &ShownRun, second: Option<&ShownRun>, from: Option<usize>) -> String {
    let data = data(first, second, from);
    let title = escape(&format!("{} – {}", first.title, first.schedule));
    let script = SCRIPTS.join("\n");
    let mut out = String::with_capacity(data.len() + script.len() + 20_000);
    let mut rest = PAGE;
    for (mark, text) in
        [("@TITLE@", title.as_str()), ("@CSS@", CSS), ("@DATA@", data.as_str()), ("@JS@", script.as_str())]
    {
        let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
        out.push_str(before);
        out.push_str(text);
        rest = after;
    }
    out.push_str(rest);
    out
}

fn data(first: &ShownRun, second: Option<&ShownRun>, from: Option<usize>) -> String {
    let mut out = String::from("{\"kinds\":[");
    for (i, (name, weight)) in KINDS.iter().enumerate() {
        _ = write!(out, "{}{{\"name\":\"{name}\",\"weight\":{weight}}}", comma(i));
    }
    out.push_str("],\"states\":[");
    for (i, (name, fill, ink)) in STATES.iter().enumerate() {
        _ = write!(out, "{}[\"{name}\",\"{fill}\",\"{ink}\"]", comma(i));
    }
    _ = write!(out, "],\"from\":{},\"difference\":", from.unwrap_or(0));
    match second.and_then(|second| difference(first, second)) {
        Some(Difference { at, text }) => {
            _ = write!(out, "{{\"at\":[{},{}],\"text\":[{},{}]}}", at[0], at[1], string(&text[0]), string(&text[1]));
        }
        None => out.push_str("null"),
    }
    out.push_str(",\"runs\":[");
    run(first, &mut out);
    if let Some(second) = second {
        out.push(',');
        run(second, &mut out);
    }
    out.push_str("]}");
    // No end of the script, nor a comment, may stand in what the page reads as JSON.
    out.replace('<', "\\u003c")
}

fn comma(i: usize) -> &'static str {
    if i == 0 { "" } else { "," }
}

fn string(text: &str) -> String {
    let mut out = String::new();
    canonical::write_str(text, &mut out);
    out
}

/// `"name":[…],`
fn list<T>(out: &mut String, name: &str, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut String, T)) {
    _ = write!(out, "\"{name}\":[");
    for (i, item) in items.into_iter().enumerate() {
        out.push_str(comma(i));
        write(out, item);
    }
    out.push_str("],");
}

fn run(source: &ShownRun, out: &mut String) {
    let model = Model::of(source);
    let about = [source.schedule.as_str(), source.outcome.as_deref().unwrap_or("")];
    let about = about.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" · ");
    _ = write!(out, "{{\"title\":{},\"about\":{},", string(&source.title), string(&about));
    let has_status = source.records.iter().any(|record| matches!(record.kind, RecKind::Status { .. }));
    let bad = source.outcome.as_deref().is_some_and(|outcome| outcome != "passed");
    _ = write!(out, "\"hasStatus\":{has_status},\"bad\":{bad},");
    records(source, &model, out);
    list(out, "commands", &model.commands, |out, command| {
        let name = string(format!("{} {}", command.name, command.subject).trim());
        _ = write!(out, "[{},{},{name},{}]", command.span.from, command.span.to, u8::from(command.error.is_some()));
    });
    list(out, "events", &model.events, |out, event| {
        let RecKind::Event { name, subject, status, error, .. } = &source.records[*event].kind else { return };
        let state = status.as_ref().filter(|_| name == "JOB_STATUS_CHANGE").map_or("null".to_owned(), |s| string(s));
        let bad = u8::from(error.is_some() || is_bad(name));
        _ = write!(out, "[{event},{state},{},{bad}]", string(format!("{name} {subject}").trim()));
    });
    jobs(source, &model, out);
    list(out, "graphs", &source.graphs, |out, (from, text)| _ = write!(out, "[{from},{}]", string(text)));
    list(out, "nodes", &model.nodes, |out, node| {
        _ = write!(out, "{{\"name\":{},\"rows\":{},\"requests\":[", string(&source.node_label(&node.name)), node.rows);
        for (i, r) in node.requests.iter().enumerate() {
            let failed = r.failed.unwrap_or(0);
            _ = write!(out, "{}{},{},{},{failed},{}", comma(i), r.span.from, r.span.to, r.row, string(&r.op));
        }
        _ = write!(out, "],\"faults\":{:?}}}", node.faults);
    });
    list(out, "bitmaps", &model.bitmaps, |out, bitmap| {
        let (node, name) = (string(&bitmap.node), string(&bitmap.name));
        _ = write!(out, "{{\"node\":{node},\"name\":{name},\"max\":{},", bitmap.max);
        list(out, "counts", &bitmap.counts, |out, (at, count)| {
            _ = write!(out, "[{at},{}]", count.map_or("null".to_owned(), |count| count.to_string()));
        });
        list(out, "busy", &bitmap.busy, |out, span| _ = write!(out, "[{},{}]", span.from, span.to));
        out.pop();
        out.push('}');
    });
    out.pop();
    out.push('}');
}

fn records(source: &ShownRun, model: &Model, out: &mut String) {
    let mut last = Instant::START;
    list(out, "dt", &source.records, |out, record| {
        _ = write!(out, "{}", (record.time - last).as_nanos());
        last = record.time;
    });
    list(out, "cause", source.records.iter().enumerate(), |out, (i, record)| match record.cause.filter(|c| *c < i) {
        Some(cause) => _ = write!(out, "{cause}"),
        None => out.push_str("-1"),
    });
    list(out, "kind", &source.records, |out, record| {
        let name = kind_name(&record.kind);
        _ = write!(out, "{}", KINDS.iter().position(|(known, _)| *known == name).unwrap_or(0));
    });
    list(out, "of", &source.records, |out, record| match lane(model, &record.kind) {
        Some(lane) => _ = write!(out, "{lane}"),
        None => out.push_str("-1"),
    });
    list(out, "line", &source.records, |out, record| canonical::write_str(&record.kind.line(), out));
    out.push_str("\"details\":{");
    let mut first = true;
    for (i, record) in source.records.iter().enumerate() {
        if let Some(details) = details(&record.kind).filter(|details| !details.is_empty() && *details != "{}") {
            _ = write!(out, "{}\"{i}\":{}", if first { "" } else { "," }, string(details));
            first = false;
        }
    }
    out.push_str("},");
}

/// The number of the lane that shows a record: the client's is 0, then jobs, nodes, bitmaps.
fn lane(model: &Model, kind: &RecKind) -> Option<usize> {
    let job = |id: &str| model.jobs.iter().position(|job| &*job.id == id).map(|i| 1 + i);
    let node = |name: &str| model.nodes.iter().position(|node| &*node.name == name).map(|i| 1 + model.jobs.len() + i);
    match kind {
        RecKind::Command { .. } | RecKind::Reply { .. } | RecKind::Event { .. } => Some(0),
        RecKind::Status { job: id, .. }
        | RecKind::Pause { job: id, .. }
        | RecKind::Progress { job: id, .. }
        | RecKind::Copying { job: id, .. }
        | RecKind::Group { job: id, .. } => job(id),
        RecKind::Request { node: name, .. }
        | RecKind::Fault { node: name, .. }
        | RecKind::Blkdebug { node: name, .. }
        | RecKind::Drain { node: name, .. } => node(name),
        RecKind::Bitmap { node, name, .. } => {
            let at = model.bitmaps.iter().position(|bitmap| bitmap.node == *node && bitmap.name == *name)?;
            Some(1 + model.jobs.len() + model.nodes.len() + at)
        }
        RecKind::Txn { .. } | RecKind::Graph { .. } | RecKind::Co { .. } | RecKind::Note { .. } => None,
    }
}

fn jobs(source: &ShownRun, model: &Model, out: &mut String) {
    let of = |id: &Arc<str>, kind: &RecKind| match kind {
        RecKind::Pause { job, count } if job == id => Some(vec![*count]),
        RecKind::Progress { job, current, total } if job == id => Some(vec![*current, *total]),
        _ => None,
    };
    list(out, "jobs", &model.jobs, |out, job| {
        _ = write!(out, "{{\"id\":{},", string(&job.id));
        list(out, "states", &job.states, |out, (span, state)| {
            _ = write!(out, "[{},{},{}]", span.from, span.to, string(state));
        });
        list(out, "groups", &job.groups, |out, (from, group)| _ = write!(out, "[{from},{group}]"));
        for (name, values) in [("pauses", 1), ("progress", 2)] {
            let found = source.records.iter().enumerate();
            let found = found.filter_map(|(i, r)| of(&job.id, &r.kind).filter(|v| v.len() == values).map(|v| (i, v)));
            list(out, name, found, |out, (i, values)| {
                _ = write!(out, "[{i}");
                values.iter().for_each(|value| _ = write!(out, ",{value}"));
                out.push(']');
            });
        }
        out.pop();
        out.push('}');
    });
}

/// What the page holds as JSON, for tests.
#[must_use]
pub fn data_of(page: &str) -> Option<Json> {
    let (_, rest) = page.split_once("id=\"data\">")?;
    canonical::parse(rest.split_once("</script>")?.0).ok()
}
