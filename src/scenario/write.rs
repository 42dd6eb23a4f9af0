//! Plans as scenario files: YAML that a person can read, and that loads back to the same plan.
//!
//! What fits on a line stands on a line, everything else in blocks. Procedures are gone from a plan, so the text is longer than
//! the file it came from; places are those of the new text.

use super::plan::{
    Backing, BitmapCheck, EventPattern, Expect, Extent, Fails, FileOp, ImageFormat, Plan, ProcessOp, Schedule,
    StepKind, WriteData,
};
use crate::base::Json;
use crate::base::time;
use crate::base::units::size_text;
use crate::host::HostChange;
use std::fmt::Write;

/// Columns that a line has at most, where a value can be broken at all.
const WIDTH: usize = 118;

/// Remarks that are written as comments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// Above everything else, line by line.
    pub head: Vec<String>,
    /// Above steps: number of the step from 0, and a line. By ascending number.
    pub steps: Vec<(usize, String)>,
    /// Below the last step.
    pub tail: Vec<String>,
}

/// The text of a scenario file for `plan`.
#[must_use]
pub fn to_yaml(plan: &Plan) -> String {
    with_remarks(plan, &Remarks::default())
}

/// The same, with comments.
#[must_use]
pub fn with_remarks(plan: &Plan, remarks: &Remarks) -> String {
    let mut out = String::new();
    comments(&remarks.head, "", &mut out);
    member("about", &Yaml::text(&plan.about), &mut out);
    if !plan.quirks.is_empty() {
        member("quirks", &Yaml::List(plan.quirks.names().map(|name| Yaml::plain(&name)).collect()), &mut out);
    }
    if let Some(invariant) = plan.expect_violation {
        member("expect-violation", &Yaml::plain(invariant.name()), &mut out);
    }
    if let Some(schedule) = schedule(&plan.schedule) {
        member("schedule", &schedule, &mut out);
    }
    let limits = [
        ("steps", plan.limits.steps.map(|n| Yaml::plain(n.to_string()))),
        ("time", plan.limits.time.map(|time| Yaml::plain(duration(time)))),
        ("trace", plan.limits.trace.map(|n| Yaml::plain(n.to_string()))),
    ];
    let limits: Vec<_> = limits.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    if !limits.is_empty() {
        member("limits", &Yaml::Map(limits), &mut out);
    }
    if !plan.files.is_empty() {
        out.push_str("files:\n");
        for file in &plan.files {
            item(&file_op(&file.op), "  ", &mut out);
        }
    }
    if !plan.args.is_empty() {
        out.push_str("args:\n");
        for arg in &plan.args {
            item(&Yaml::text(arg), "  ", &mut out);
        }
    }
    if plan.steps.is_empty() {
        out.push_str("steps: []\n");
    } else {
        out.push_str("steps:\n");
    }
    let mut above = remarks.steps.iter().peekable();
    for (number, planned) in plan.steps.iter().enumerate() {
        while let Some((_, line)) = above.next_if(|(at, _)| *at <= number) {
            comments(std::slice::from_ref(line), "  ", &mut out);
        }
        item(&step(&planned.kind), "  ", &mut out);
    }
    comments(&remarks.tail, "", &mut out);
    out
}

/// The text of one step on one line, as in messages.
#[must_use]
pub fn step_line(kind: &StepKind) -> String {
    flow(&step(kind)).trim_start_matches('{').trim_end_matches('}').to_owned()
}

fn comments(lines: &[String], indent: &str, out: &mut String) {
    for line in lines {
        // A remark may come from anywhere; a control character would end the comment or the file's being YAML, and for readers of
        // YAML 1.1 so do the separators of Unicode.
        let ends = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
        let clean: String = line.chars().map(|c| if ends(c) { ' ' } else { c }).collect();
        _ = writeln!(out, "{}", format!("{indent}# {clean}").trim_end());
    }
}

/// A value on its way to becoming text.
#[derive(Clone)]
pub(super) enum Yaml {
    /// As it is written.
    Scalar(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    pub(super) fn plain(text: impl Into<String>) -> Yaml {
        Yaml::Scalar(text.into())
    }

    /// A text that nothing is filled into.
    fn text(text: &str) -> Yaml {
        Yaml::Scalar(scalar(text))
    }

    /// A text in steps or files, where `$` would begin a parameter.
    pub(super) fn filled(text: &str) -> Yaml {
        Yaml::Scalar(scalar(&text.replace('$', "$$")))
    }

    pub(super) fn bool(value: bool) -> Yaml {
        Yaml::plain(if value { "true" } else { "false" })
    }

    pub(super) fn size(bytes: u64) -> Yaml {
        Yaml::plain(size_text(bytes))
    }

    pub(super) fn map<'a>(members: impl IntoIterator<Item = (&'a str, Option<Yaml>)>) -> Yaml {
        Yaml::Map(members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
    }
}

/// A document that is no scenario: nothing is filled into its texts. The blocks come last, line by line as they are.
#[must_use]
pub fn document(members: &[(&str, Json)], blocks: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (key, value) in members {
        member(key, &value_of(value, false), &mut out);
    }
    for (key, text) in blocks {
        _ = writeln!(out, "{key}: |");
        text.lines().for_each(|line| _ = writeln!(out, "{}", format!("  {line}").trim_end()));
    }
    out
}

fn json(value: &Json) -> Yaml {
    value_of(value, true)
}

fn value_of(value: &Json, filled: bool) -> Yaml {
    match value {
        Json::Null => Yaml::plain("null"),
        Json::Bool(b) => Yaml::bool(*b),
        Json::Int(n) => Yaml::plain(n.to_string()),
        Json::Uint(n) => Yaml::plain(n.to_string()),
        Json::Number(n) => Yaml::plain(&**n),
        Json::Str(s) if filled => Yaml::filled(s),
        Json::Str(s) => Yaml::text(s),
        Json::List(items) => Yaml::List(items.iter().map(|item| value_of(item, filled)).collect()),
        Json::Dict(members) => {
            Yaml::Map(members.iter().map(|(key, value)| (scalar(key), value_of(value, filled))).collect())
        }
    }
}

/// The value of `schedule`; `None` where it may be left out.
fn schedule(schedule: &Schedule) -> Option<Yaml> {
    let lines = |key: &str, text: String| {
        let lines = text.lines().map(Yaml::text).collect();
        Some(Yaml::Map(vec![(key.to_owned(), Yaml::List(lines))]))
    };
    match schedule {
        Schedule::Any => None,
        Schedule::Calm => Some(Yaml::plain("calm")),
        Schedule::Seed(seed) => Some(Yaml::plain(format!("seed {seed}"))),
        Schedule::Choices(log) => lines("choices", log.to_string()),
        Schedule::Preemptions(list) => lines("preemptions", list.to_string()),
    }
}

fn step(kind: &StepKind) -> Yaml {
    let yes = || Some(Yaml::bool(true));
    let text = |text: &str| Some(Yaml::filled(text));
    match kind {
        StepKind::Qmp { command, expect } => {
            let (returns, error) = match expect {
                Expect::Any => (None, None),
                Expect::Return(pattern) => (pattern.as_ref().map(json), None),
                Expect::Error { class: None, desc: None } => (None, Some(Yaml::plain("any"))),
                Expect::Error { class, desc } => {
                    let class = class.as_ref().map(|class| Yaml::filled(class));
                    (None, Some(Yaml::map([("class", class), ("desc", desc.as_ref().map(|desc| Yaml::filled(desc)))])))
                }
            };
            let reply = (*expect == Expect::Any).then(|| Yaml::plain("any"));
            Yaml::map([("qmp", Some(json(command))), ("returns", returns), ("error", error), ("reply", reply)])
        }
        StepKind::Hmp { line, output, returns, fails } => {
            let said = *fails != Fails::unsaid(output.as_deref(), returns.as_deref());
            let fails = match fails {
                Fails::No => "false",
                Fails::Yes => "true",
                Fails::Any => "any",
            };
            Yaml::map([
                ("hmp", text(line)),
                ("output", output.as_ref().map(|output| Yaml::filled(output))),
                ("returns", returns.as_ref().map(|returns| Yaml::filled(returns))),
                ("fails", said.then(|| Yaml::plain(fails))),
            ])
        }
        StepKind::Event(pattern) => Yaml::map([("event", Some(event(pattern)))]),
        StepKind::Sleep(time) => Yaml::map([("sleep", Some(Yaml::plain(duration(*time))))]),
        StepKind::At { frames, time } => {
            let (frames, time) = (Yaml::plain(frames.to_string()), Yaml::plain(duration(*time - time::Instant::START)));
            Yaml::map([("at", Some(Yaml::map([("frames", Some(frames)), ("time", Some(time))])))])
        }
        StepKind::Idle => Yaml::map([("idle", yes())]),
        StepKind::Bitmap(check) => Yaml::map([("bitmap", Some(bitmap(check)))]),
        StepKind::Same(images) => {
            Yaml::map([("same", Some(Yaml::List(images.iter().map(|image| Yaml::filled(image)).collect())))])
        }
        StepKind::File(op) => file_op(op),
        StepKind::NoJobs => Yaml::map([("no-jobs", yes())]),
        StepKind::NoEvents { except } if except.is_empty() => Yaml::map([("no-events", yes())]),
        StepKind::NoEvents { except } => {
            let names = Yaml::List(except.iter().map(|name| Yaml::filled(name)).collect());
            Yaml::map([("no-events", Some(Yaml::map([("except", Some(names))])))])
        }
        StepKind::Nbd(step) => super::nbd::write(step),
        StepKind::Mark(name) => Yaml::map([("mark", text(name))]),
        StepKind::Process(ProcessOp::Start { args, error }) => {
            let args = Yaml::List(args.iter().map(|arg| Yaml::filled(arg)).collect());
            Yaml::map([("start", Some(args)), ("error", error.as_ref().map(|error| Yaml::filled(error)))])
        }
        StepKind::Process(ProcessOp::Kill) => Yaml::map([("kill", yes())]),
        StepKind::Process(ProcessOp::Signal(signal)) => Yaml::map([("signal", text(signal.name()))]),
    }
}

fn event(pattern: &EventPattern) -> Yaml {
    let without = (!pattern.without.is_empty())
        .then(|| Yaml::List(pattern.without.iter().map(|member| Yaml::filled(member)).collect()));
    if pattern.data.is_none() && without.is_none() {
        return Yaml::filled(&pattern.name);
    }
    Yaml::map([
        ("event", Some(Yaml::filled(&pattern.name))),
        ("data", pattern.data.as_ref().map(json)),
        ("without", without),
    ])
}

fn bitmap(check: &BitmapCheck) -> Yaml {
    Yaml::map([
        ("node", Some(Yaml::filled(&check.node))),
        ("name", Some(Yaml::filled(&check.name))),
        ("absent", check.absent.then(|| Yaml::bool(true))),
        ("ranges", check.ranges.as_ref().map(|areas| Yaml::List(areas.iter().map(range).collect()))),
        ("count", check.count.map(|n| Yaml::plain(n.to_string()))),
        ("granularity", check.granularity.map(Yaml::size)),
        ("busy", check.busy.map(Yaml::bool)),
        ("recording", check.recording.map(Yaml::bool)),
        ("persistent", check.persistent.map(Yaml::bool)),
        ("inconsistent", check.inconsistent.map(Yaml::bool)),
    ])
}

fn range((offset, length): &(u64, u64)) -> Yaml {
    Yaml::List(vec![Yaml::size(*offset), Yaml::size(*length)])
}

fn format_name(format: ImageFormat) -> Yaml {
    Yaml::plain(match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
    })
}

fn backing(backing: &Backing) -> Yaml {
    Yaml::map([("file", Some(Yaml::filled(&backing.file))), ("format", Some(format_name(backing.format)))])
}

fn file_op(op: &FileOp) -> Yaml {
    let text = |text: &str| Some(Yaml::filled(text));
    let (name, value) = match op {
        FileOp::Create { file, format, size, options, backing: below } => {
            let compat = options.compat_v3.map(|v3| Yaml::text(if v3 { "1.1" } else { "0.10" }));
            let members = Yaml::map([
                ("file", text(file)),
                ("format", Some(format_name(*format))),
                ("size", size.map(Yaml::size)),
                ("backing", below.as_ref().map(backing)),
                ("cluster-size", options.cluster_size.map(Yaml::size)),
                ("compat", compat),
                ("lazy-refcounts", options.lazy_refcounts.map(Yaml::bool)),
            ]);
            ("create", members)
        }
        FileOp::Write { file, format, offset, length, data } => {
            let (name, pattern) = match data {
                WriteData::Pattern(byte) => ("write", Some(Yaml::plain(format!("{byte:#04x}")))),
                WriteData::Zero => ("zero", None),
                WriteData::Discard => ("discard", None),
            };
            let members = Yaml::map([
                ("file", text(file)),
                ("format", Some(format_name(*format))),
                ("pattern", pattern),
                ("offset", Some(Yaml::size(*offset))),
                ("length", Some(Yaml::size(*length))),
            ]);
            (name, members)
        }
        FileOp::Rebase { file, backing: below } => {
            let below = below.as_ref().map_or_else(|| Yaml::plain("null"), backing);
            ("rebase", Yaml::map([("file", text(file)), ("backing", Some(below))]))
        }
        FileOp::Content { file, size, data } => {
            let extent = |e: &Extent| {
                let hex: String = e.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let times = (e.times != 1).then(|| Yaml::plain(e.times.to_string()));
                Yaml::map([
                    ("at", Some(Yaml::size(e.at))),
                    ("hex", Some(Yaml::plain(format!("\"{hex}\"")))),
                    ("times", times),
                ])
            };
            let data = Yaml::List(data.iter().map(extent).collect());
            ("content", Yaml::map([("file", text(file)), ("size", Some(Yaml::size(*size))), ("data", Some(data))]))
        }
        FileOp::Host(change) => ("host", host(change)),
        FileOp::Bytes { file, at, bytes } => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let hex = Yaml::plain(format!("\"{hex}\""));
            ("bytes", Yaml::map([("file", text(file)), ("at", Some(Yaml::size(*at))), ("hex", Some(hex))]))
        }
        FileOp::Resize { file, size } => {
            ("resize", Yaml::map([("file", text(file)), ("size", Some(Yaml::size(*size)))]))
        }
        FileOp::Check { file, leaks, corruptions } => {
            let number = |n: u64| (n > 0).then(|| Yaml::plain(n.to_string()));
            let members = [("file", text(file)), ("leaks", number(*leaks)), ("corruptions", number(*corruptions))];
            ("check", Yaml::map(members))
        }
        FileOp::Text { file, content } => ("text", Yaml::map([("file", text(file)), ("content", text(content))])),
    };
    Yaml::map([(name, Some(value))])
}

fn host(change: &HostChange) -> Yaml {
    let text = |text: &str| Some(Yaml::filled(text));
    let bound = |bytes: Option<u64>| Some(bytes.map_or_else(|| Yaml::plain("none"), Yaml::size));
    let number = |n: u64| Yaml::plain(n.to_string());
    match change {
        HostChange::Capacity(bytes) => Yaml::map([("capacity", bound(*bytes))]),
        HostChange::Disk(None) => Yaml::map([("disk", text("none"))]),
        HostChange::Disk(Some(rates)) => {
            let rates = [("bytes", Some(Yaml::size(rates.bytes))), ("requests", Some(number(rates.requests)))];
            Yaml::map([("disk", Some(Yaml::map(rates)))])
        }
        HostChange::Limit(file, bytes) => Yaml::map([("file", text(file)), ("limit", bound(*bytes))]),
        HostChange::Resize(file, size) => Yaml::map([("file", text(file)), ("size", Some(Yaml::size(*size)))]),
        HostChange::Mend(file) => Yaml::map([("file", text(file)), ("fail", text("none"))]),
        HostChange::Fail(file, failing) => Yaml::map([
            ("file", text(file)),
            ("fail", text(failing.on.name())),
            ("errno", text(failing.errno.name().unwrap_or("EIO"))),
            ("after", (failing.after > 0).then(|| number(failing.after))),
            ("times", failing.times.map(number)),
        ]),
    }
}

/// The largest unit that leaves no rest.
fn duration(span: time::Span) -> String {
    use time::Span;
    let units = [
        ("h", Span::from_secs(3600)),
        ("m", Span::from_secs(60)),
        ("s", Span::SECOND),
        ("ms", Span::MILLISECOND),
        ("us", Span::MICROSECOND),
    ];
    let unit = units.iter().find(|(_, unit)| span >= *unit && span % *unit == Span::ZERO);
    unit.map_or_else(|| format!("{}ns", span.as_nanos()), |(name, unit)| format!("{}{name}", span / *unit))
}

/// A text as a scalar: bare where nothing can mistake it, in single quotes where it can be read so, in double quotes otherwise.
fn scalar(text: &str) -> String {
    if is_bare(text) {
        return text.to_owned();
    }
    let printable =
        |c: char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    if text.chars().all(|c| printable(c) && c != '\'') {
        return format!("'{text}'");
    }
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if printable(c) => out.push(c),
            c => _ = write!(out, "\\U{:08x}", u32::from(c)),
        }
    }
    out.push('"');
    out
}

/// Whether a text may stand without quotes, also between brackets, and is still read as a text.
fn is_bare(text: &str) -> bool {
    const WORDS: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let mut chars = text.chars();
    let first = chars.next();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == '/')
        && chars.all(|c| is_name(c) || c == ' ')
        && !text.ends_with(' ')
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
        && !["inf", "nan", ".inf", ".nan"].iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// The whole value on one line.
fn flow(value: &Yaml) -> String {
    match value {
        Yaml::Scalar(text) => text.clone(),
        Yaml::List(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Yaml::Map(members) => {
            let members: Vec<String> = members.iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect();
            format!("{{{}}}", members.join(", "))
        }
    }
}

/// A member of the top level.
fn member(key: &str, value: &Yaml, out: &mut String) {
    _ = write!(out, "{key}:");
    behind_key(value, "", key.len() + 2, out);
}

/// An entry of a list at `indent`.
fn item(value: &Yaml, indent: &str, out: &mut String) {
    match value {
        // The first key says what the entry is; further keys stand below it.
        Yaml::Map(members) if !members.is_empty() => {
            let line = flow(value);
            if members.len() > 1 && indent.len() + 2 + line.len() <= WIDTH {
                _ = writeln!(out, "{indent}- {line}");
                return;
            }
            let inner = format!("{indent}  ");
            for (i, (key, value)) in members.iter().enumerate() {
                _ = write!(out, "{indent}{}{key}:", if i == 0 { "- " } else { "  " });
                behind_key(value, &inner, inner.len() + key.len() + 2, out);
            }
        }
        Yaml::List(items) if indent.len() + 2 + flow(value).len() > WIDTH && !items.is_empty() => {
            _ = writeln!(out, "{indent}-");
            items.iter().for_each(|nested| item(nested, &format!("{indent}  "), out));
        }
        _ => _ = writeln!(out, "{indent}- {}", flow(value)),
    }
}

/// What stands behind `key:`, which is at `indent`; `used` columns of the line are taken.
fn behind_key(value: &Yaml, indent: &str, used: usize, out: &mut String) {
    let line = flow(value);
    let inner = format!("{indent}  ");
    match value {
        Yaml::List(items) if used + line.len() > WIDTH && !items.is_empty() => {
            out.push('\n');
            items.iter().for_each(|nested| item(nested, &inner, out));
        }
        Yaml::Map(members) if used + line.len() > WIDTH && !members.is_empty() => {
            out.push('\n');
            for (key, value) in members {
                _ = write!(out, "{inner}{key}:");
                behind_key(value, &inner, inner.len() + key.len() + 2, out);
            }
        }
        _ => _ = writeln!(out, " {line}"),
    }
}
