//! What the steps of a scenario may be.

use super::error::{Fault, Read};
use super::fields::{Fields, unknown};
use super::plan::{
    Backing, BitmapCheck, EventPattern, Expect, Extent, Fails, FileOp, ImageFormat, Limits, ProcessOp, Qcow2Options,
    Schedule, Signal, StepKind, WriteData,
};
use super::tree::{Node, Value};
use crate::base::errno::Errno;
use crate::base::time::Instant;
use crate::base::units::BDRV_MAX_LENGTH;
use crate::host::{DiskRates, Failing, HostChange, Request};
use crate::invariant::Invariant;
use crate::quirk::{self, Quirk, Quirks, Switch};
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

/// Reads what stands behind a step's first key; the whole step is at hand for keys beside it.
type Reader = fn(&Node, &mut Fields<'_>) -> Read<StepKind>;

/// All steps by their first key, apart from `call`.
const STEPS: &[(&str, Reader)] = &[
    ("qmp", qmp),
    ("hmp", hmp),
    ("event", event),
    ("sleep", |node, _| Ok(StepKind::Sleep(node.duration()?))),
    ("at", at),
    ("idle", |node, _| node.only_true().map(|()| StepKind::Idle)),
    ("bitmap", bitmap),
    ("same", same),
    ("create", |node, _| create(node).map(StepKind::File)),
    ("write", |node, _| write("write", node).map(StepKind::File)),
    ("zero", |node, _| write("zero", node).map(StepKind::File)),
    ("discard", |node, _| write("discard", node).map(StepKind::File)),
    ("rebase", |node, _| rebase(node).map(StepKind::File)),
    ("content", |node, _| content(node).map(StepKind::File)),
    ("text", |node, _| text(node).map(StepKind::File)),
    ("host", |node, _| host(node).map(StepKind::File)),
    ("nbd", super::nbd::read),
    ("no-jobs", |node, _| node.only_true().map(|()| StepKind::NoJobs)),
    ("no-events", no_events),
    ("mark", |node, _| Ok(StepKind::Mark(node.text()?))),
    ("bytes", |node, _| bytes(node).map(StepKind::File)),
    ("resize", |node, _| resize(node).map(StepKind::File)),
    ("check", |node, _| check(node).map(StepKind::File)),
    ("start", start),
    ("kill", |node, _| node.only_true().map(|()| StepKind::Process(ProcessOp::Kill))),
    ("signal", |node, _| Ok(StepKind::Process(ProcessOp::Signal(node.word(Signal::NAMES)?)))),
];

/// What qemu-io takes as a length (`BDRV_REQUEST_MAX_BYTES`).
const MAX_LENGTH: u64 = (i32::MAX as u64) & !511;

const FORMATS: &[(&str, ImageFormat)] = &[("raw", ImageFormat::Raw), ("qcow2", ImageFormat::Qcow2)];

/// Reads a step.
pub(super) fn step(node: &Node) -> Read<StepKind> {
    let first = match &node.value {
        Value::Map(members) => members.first(),
        _ => None,
    };
    let Some((key, value)) = first else {
        let expected = format!("expected `kind: …`, found {}", node.describe());
        return Err(Fault::new(node.span, "a step is a mapping whose first key says what it does", expected));
    };
    let Some((name, read)) = STEPS.iter().find(|(name, _)| *name == &*key.name) else {
        if &*key.name == "call" {
            return Err(Fault::new(key.span, "nothing may stand beside `call`", "expected this key alone"));
        }
        let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).chain(["wait", "call"]).collect();
        return Err(unknown(key, "kind of step", &names));
    };
    let mut fields = Fields::of(name, node)?;
    fields.opt(name);
    let kind = read(value, &mut fields)?;
    fields.end()?;
    Ok(kind)
}

/// Reads an entry of `files`.
pub(super) fn file_op(node: &Node) -> Read<FileOp> {
    match step(node)? {
        StepKind::File(op) => Ok(op),
        _ => {
            let fault = Fault::new(node.span, "this step needs a running QEMU", "expected something done to a file");
            Err(fault.help(
                "under `files` stand create, write, zero, discard, rebase, content, text, host, bytes, resize, check, and calls of procedures made of these",
            ))
        }
    }
}

/// Reads the `limits` of a scenario.
pub(super) fn limits(node: &Node) -> Read<Limits> {
    let mut fields = Fields::of("limits", node)?;
    let limits = Limits {
        steps: fields.opt("steps").map(Node::uint).transpose()?,
        time: fields.opt("time").map(Node::duration).transpose()?,
        trace: fields.opt("trace").map(Node::uint).transpose()?,
    };
    fields.end()?;
    Ok(limits)
}

/// Reads the `schedule` of a scenario: `calm`, `seed N`, `{choices: …}` or `{preemptions: …}`.
pub(super) fn schedule(node: &Node) -> Read<Schedule> {
    if let Value::Map(_) = &node.value {
        let mut fields = Fields::of("schedule", node)?;
        let (choices, preemptions) = (fields.opt("choices"), fields.opt("preemptions"));
        fields.end()?;
        return match (choices, preemptions) {
            (Some(list), None) => Ok(Schedule::Choices(Arc::new(parsed(list)?))),
            (None, Some(list)) => Ok(Schedule::Preemptions(Arc::new(parsed(list)?))),
            _ => Err(Fault::new(node.span, "this is not a schedule", "expected `choices` or `preemptions`")),
        };
    }
    let text = node.text()?;
    if &*text == "calm" {
        return Ok(Schedule::Calm);
    }
    let seed = text.strip_prefix("seed ").and_then(|seed| seed.parse().ok());
    let expected = format!("expected `calm`, `seed N`, `{{choices: …}}` or `{{preemptions: …}}`, found `{text}`");
    seed.map(Schedule::Seed).ok_or_else(|| Fault::new(node.span, "this is not a schedule", expected))
}

/// A list in its text form, or as a YAML list of its lines.
fn parsed<T: FromStr<Err: Display>>(node: &Node) -> Read<T> {
    let text = match &node.value {
        Value::List(_) => node.texts()?.join("\n"),
        _ => node.text()?.to_string(),
    };
    text.parse().map_err(|error: T::Err| Fault::new(node.span, "this list cannot be read", error.to_string()))
}

/// Reads the `quirks` of a scenario.
pub(super) fn quirks(node: &Node) -> Read<Quirks> {
    let table: Vec<(&'static str, Quirk)> = quirk::TABLE.iter().map(|about| (about.name, about.quirk)).collect();
    let switch = |name: &Node| match name.text()?.parse() {
        Ok(switch) => Ok(switch),
        Err(_) => name.word(&table).map(Switch::On),
    };
    node.list()?.iter().map(switch).collect()
}

/// Reads what stands behind `expect-violation`.
pub(super) fn invariant(node: &Node) -> Read<Invariant> {
    let table: Vec<(&'static str, Invariant)> = Invariant::ALL.iter().map(|known| (known.name(), *known)).collect();
    node.word(&table)
}

/// A command that is to succeed has to be well formed; one that is to fail is sent as it stands, to see what QEMU says of it.
fn qmp(node: &Node, beside: &mut Fields<'_>) -> Read<StepKind> {
    let returns = beside.opt("returns");
    if let Some(reply) = beside.opt("reply") {
        if reply.text().is_ok_and(|word| &*word == "any") && returns.is_none() && beside.opt("error").is_none() {
            return Ok(StepKind::Qmp { command: node.object()?, expect: Expect::Any });
        }
        return Err(Fault::new(
            reply.span,
            "this is no expectation",
            "expected `reply: any`, without `error` or `returns`",
        ));
    }
    let expect = match beside.opt("error") {
        Some(error) if returns.is_some() => {
            let expected = "expected `error` or `returns`, not both";
            return Err(Fault::new(error.span, "a reply is an error or has a return value", expected));
        }
        Some(error) => expected_error(error)?,
        None => {
            let mut fields = Fields::of("qmp", node)?;
            let (out_of_band, command) = (fields.opt("exec-oob"), fields.opt("execute"));
            if let (Some(_), Some(command)) = (out_of_band, command) {
                let expected = "expected `execute` or `exec-oob`, not both";
                return Err(Fault::new(command.span, "a command is sent in one way", expected));
            }
            out_of_band.or(command).map_or_else(|| fields.req("execute"), Ok)?.text()?;
            fields.opt("arguments").map(Node::object).transpose()?;
            fields.opt("id");
            fields.end()?;
            Expect::Return(returns.map(Node::json))
        }
    };
    Ok(StepKind::Qmp { command: node.object()?, expect })
}

fn expected_error(node: &Node) -> Read<Expect> {
    if let Value::Str(word) = &node.value {
        if &**word == "any" {
            return Ok(Expect::Error { class: None, desc: None });
        }
        let fault = Fault::new(node.span, "`error` needs a mapping", "expected `{class: …, desc: …}` or `any`");
        return Err(fault);
    }
    let mut fields = Fields::of("error", node)?;
    let class = fields.opt("class").map(Node::text).transpose()?;
    let desc = fields.opt("desc").map(Node::text).transpose()?;
    fields.end()?;
    Ok(Expect::Error { class, desc })
}

fn hmp(node: &Node, beside: &mut Fields<'_>) -> Read<StepKind> {
    let output = beside.opt("output").map(Node::text).transpose()?;
    let returns = beside.opt("returns").map(Node::text).transpose()?;
    let fails = match beside.opt("fails") {
        None => Fails::unsaid(output.as_deref(), returns.as_deref()),
        Some(Node { value: Value::Bool(fails), .. }) => {
            if *fails {
                Fails::Yes
            } else {
                Fails::No
            }
        }
        Some(node) if matches!(&node.value, Value::Str(word) if &**word == "any") => Fails::Any,
        Some(node) => {
            let expected = format!("expected `true`, `false` or `any`, found {}", node.describe());
            return Err(Fault::new(node.span, "`fails` says whether the command fails", expected));
        }
    };
    Ok(StepKind::Hmp { line: node.text()?, output, returns, fails })
}

fn event(node: &Node, _beside: &mut Fields<'_>) -> Read<StepKind> {
    if let Value::Str(name) = &node.value {
        return Ok(StepKind::Event(EventPattern { name: name.clone(), data: None, without: Vec::new() }));
    }
    let mut fields = Fields::of("event", node)?;
    let pattern = EventPattern {
        name: fields.req("event")?.text()?,
        data: fields.opt("data").map(Node::object).transpose()?,
        without: fields.opt("without").map_or(Ok(Vec::new()), Node::texts)?,
    };
    fields.end()?;
    Ok(StepKind::Event(pattern))
}

fn bitmap(node: &Node, _beside: &mut Fields<'_>) -> Read<StepKind> {
    let mut fields = Fields::of("bitmap", node)?;
    let check = BitmapCheck {
        node: fields.req("node")?.text()?,
        name: fields.req("name")?.text()?,
        absent: fields.opt("absent").map_or(Ok(false), Node::boolean)?,
        ranges: fields.opt("ranges").map(ranges).transpose()?,
        count: fields.opt("count").map(Node::size).transpose()?,
        granularity: fields.opt("granularity").map(Node::size).transpose()?,
        busy: fields.opt("busy").map(Node::boolean).transpose()?,
        recording: fields.opt("recording").map(Node::boolean).transpose()?,
        persistent: fields.opt("persistent").map(Node::boolean).transpose()?,
        inconsistent: fields.opt("inconsistent").map(Node::boolean).transpose()?,
    };
    fields.end()?;
    Ok(StepKind::Bitmap(check))
}

/// Pairs of offset and length in bytes.
fn ranges(node: &Node) -> Read<Vec<(u64, u64)>> {
    let pair = |node: &Node| match node.list()? {
        [offset, length] => Ok((offset.size()?, length.size()?)),
        _ => Err(Fault::new(node.span, "this is no range", "expected `[offset, length]`")),
    };
    node.list()?.iter().map(pair).collect()
}

fn same(node: &Node, _beside: &mut Fields<'_>) -> Read<StepKind> {
    let images = node.texts()?;
    if images.len() < 2 {
        return Err(Fault::new(node.span, "`same` compares images with each other", "expected two or more file names"));
    }
    Ok(StepKind::Same(images))
}

fn no_events(node: &Node, _beside: &mut Fields<'_>) -> Read<StepKind> {
    let mut except = Vec::new();
    if matches!(node.value, Value::Map(_)) {
        let mut fields = Fields::of("no-events", node)?;
        except = fields.req("except")?.texts()?;
        fields.end()?;
    } else {
        node.only_true()?;
    }
    Ok(StepKind::NoEvents { except })
}

fn create(node: &Node) -> Read<FileOp> {
    let mut fields = Fields::of("create", node)?;
    let file = fields.req("file")?.text()?;
    let format = fields.req("format")?.word(FORMATS)?;
    let size = fields.opt("size").map(image_size).transpose()?;
    let backing = fields.opt("backing").map(backing_file).transpose()?;
    let cluster_size = fields.opt("cluster-size");
    let compat = fields.opt("compat");
    let lazy_refcounts = fields.opt("lazy-refcounts");
    fields.end()?;
    if size.is_none() && backing.is_none() {
        return Err(Fault::new(
            node.span,
            "`create` lacks the member `size`",
            "expected `size`, or `backing` to take it from",
        ));
    }
    if format == ImageFormat::Raw {
        let strays = [cluster_size, compat, lazy_refcounts];
        if let Some(stray) = strays.into_iter().flatten().next() {
            return Err(Fault::new(
                stray.span,
                "a raw image has no such option",
                "expected nothing here, or `format: qcow2`",
            ));
        }
        if backing.is_some() {
            return Err(Fault::new(node.span, "a raw image has no backing file", "expected `format: qcow2`"));
        }
    }
    let options = Qcow2Options {
        cluster_size: cluster_size.map(qcow2_cluster_size).transpose()?,
        compat_v3: compat
            .map(|node| node.word(&[("1.1", true), ("v3", true), ("0.10", false), ("v2", false)]))
            .transpose()?,
        lazy_refcounts: lazy_refcounts.map(Node::boolean).transpose()?,
    };
    Ok(FileOp::Create { file, format, size, options, backing })
}

/// A size that `qemu-img create` takes.
fn image_size(node: &Node) -> Read<u64> {
    let size = node.size()?;
    if size <= BDRV_MAX_LENGTH {
        return Ok(size);
    }
    Err(Fault::new(node.span, "no image is that large", format!("expected at most {BDRV_MAX_LENGTH} bytes")))
}

fn qcow2_cluster_size(node: &Node) -> Read<u64> {
    let size = node.size()?;
    if size.is_power_of_two() && (512..=2 << 20).contains(&size) {
        return Ok(size);
    }
    Err(Fault::new(node.span, "qcow2 has no such cluster size", "expected a power of two from 512 to 2M"))
}

fn backing_file(node: &Node) -> Read<Backing> {
    let mut fields = Fields::of("backing", node)?;
    let file = fields.req("file")?.text()?;
    let format = fields.req("format")?.word(FORMATS)?;
    fields.end()?;
    Ok(Backing { file, format })
}

fn write(what: &'static str, node: &Node) -> Read<FileOp> {
    let mut fields = Fields::of(what, node)?;
    let file = fields.req("file")?.text()?;
    let format = fields.req("format")?.word(FORMATS)?;
    let offset = fields.req("offset")?.size()?;
    let length = fields.req("length")?;
    let data = match what {
        "zero" => WriteData::Zero,
        "discard" => WriteData::Discard,
        _ => WriteData::Pattern(pattern_byte(fields.req("pattern")?)?),
    };
    fields.end()?;
    let span = length.span;
    let length = length.size()?;
    if length > MAX_LENGTH {
        let expected = format!("expected at most {MAX_LENGTH} bytes, found {length}");
        return Err(Fault::new(span, "qemu-io changes less than 2 GiB at once", expected));
    }
    if length == 0 || offset.checked_add(length).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Fault::new(span, "this range has no bytes or too many", "expected offset and length within 2^63"));
    }
    Ok(FileOp::Write { file, format, offset, length, data })
}

fn pattern_byte(node: &Node) -> Read<u8> {
    let wrong =
        || Fault::new(node.span, "a pattern is one byte", format!("expected 0 to 0xff, found {}", node.describe()));
    node.size().ok().and_then(|n| u8::try_from(n).ok()).ok_or_else(wrong)
}

fn rebase(node: &Node) -> Read<FileOp> {
    let mut fields = Fields::of("rebase", node)?;
    let file = fields.req("file")?.text()?;
    let backing = match fields.req("backing")? {
        Node { value: Value::Null, .. } => None,
        node => Some(backing_file(node)?),
    };
    fields.end()?;
    Ok(FileOp::Rebase { file, backing })
}

fn at(node: &Node, _beside: &mut Fields<'_>) -> Read<StepKind> {
    let mut fields = Fields::of("at", node)?;
    let kind =
        StepKind::At { frames: fields.req("frames")?.uint()?, time: Instant::START + fields.req("time")?.duration()? };
    fields.end()?;
    Ok(kind)
}

fn content(node: &Node) -> Read<FileOp> {
    let mut fields = Fields::of("content", node)?;
    let (file, size) = (fields.req("file")?.text()?, fields.req("size")?);
    let data = fields.req("data")?.list()?;
    fields.end()?;
    let span = size.span;
    let size = size.size()?;
    let data = data.iter().map(extent).collect::<Read<Vec<Extent>>>()?;
    let end = |e: &Extent| (e.bytes.len() as u64).checked_mul(e.times).and_then(|len| e.at.checked_add(len));
    if size > i64::MAX as u64 || data.iter().any(|e| end(e).is_none_or(|end| end > size)) {
        return Err(Fault::new(span, "the file is shorter than its data, or too long", "expected more, up to 2^63"));
    }
    Ok(FileOp::Content { file, size, data })
}

fn extent(node: &Node) -> Read<Extent> {
    let mut fields = Fields::of("data", node)?;
    let (at, hex) = (fields.req("at")?.size()?, fields.req("hex")?);
    let times = fields.opt("times").map_or(Ok(1), Node::size)?;
    fields.end()?;
    match digits(&hex.text()?) {
        Some(bytes) if times == 1 || (times > 1 && bytes.len() == 1) => Ok(Extent { at, bytes, times }),
        _ => Err(Fault::new(
            hex.span,
            "these are no bytes",
            "expected pairs of hexadecimal digits; one pair where `times` is given",
        )),
    }
}

fn text(node: &Node) -> Read<FileOp> {
    let mut fields = Fields::of("text", node)?;
    let op = FileOp::Text { file: fields.req("file")?.text()?, content: fields.req("content")?.text()? };
    fields.end()?;
    Ok(op)
}

fn bytes(node: &Node) -> Read<FileOp> {
    let mut fields = Fields::of("bytes", node)?;
    let op = FileOp::Bytes {
        file: fields.req("file")?.text()?,
        at: length(fields.req("at")?)?,
        bytes: hex(fields.req("hex")?)?,
    };
    fields.end()?;
    Ok(op)
}

fn resize(node: &Node) -> Read<FileOp> {
    let mut fields = Fields::of("resize", node)?;
    let op = FileOp::Resize { file: fields.req("file")?.text()?, size: image_size(fields.req("size")?)? };
    fields.end()?;
    Ok(op)
}

fn check(node: &Node) -> Read<FileOp> {
    let mut fields = Fields::of("check", node)?;
    let file = fields.req("file")?.text()?;
    let leaks = fields.opt("leaks").map_or(Ok(0), Node::uint)?;
    let corruptions = fields.opt("corruptions").map_or(Ok(0), Node::uint)?;
    fields.end()?;
    Ok(FileOp::Check { file, leaks, corruptions })
}

/// `start: ARGS`, with `error:` beside it where the process must not start.
fn start(node: &Node, beside: &mut Fields<'_>) -> Read<StepKind> {
    let args = node.texts()?;
    let error = beside.opt("error").map(Node::text).transpose()?;
    Ok(StepKind::Process(ProcessOp::Start { args, error }))
}

/// Pairs of hexadecimal digits, at least one.
fn digits(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    digits
        .filter(|digits| !digits.is_empty() && digits.len().is_multiple_of(2))
        .map(|digits| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn hex(node: &Node) -> Read<Vec<u8>> {
    let expected = "expected pairs of hexadecimal digits";
    digits(&node.text()?).ok_or_else(|| Fault::new(node.span, "these are no bytes", expected))
}

/// What the host refuses: `capacity`, how fast its `disk` is, or of one `file` one of `limit`, `fail` and `size`.
fn host(node: &Node) -> Read<FileOp> {
    let mut fields = Fields::of("host", node)?;
    let (capacity, file) = (fields.opt("capacity"), fields.opt("file"));
    let (limit, fail, size) = (fields.opt("limit"), fields.opt("fail"), fields.opt("size"));
    if let (None, None, Some(node)) = (capacity, file, fields.opt("disk")) {
        fields.end()?;
        return Ok(FileOp::Host(HostChange::Disk(disk(node)?)));
    }
    let change = match (capacity, file, limit, fail, size) {
        (Some(capacity), None, None, None, None) => HostChange::Capacity(bound(capacity)?),
        (None, Some(file), Some(limit), None, None) => HostChange::Limit(file.text()?, bound(limit)?),
        (None, Some(file), None, None, Some(size)) => HostChange::Resize(file.text()?, length(size)?),
        (None, Some(file), None, Some(fail), None) if is_none(fail) => HostChange::Mend(file.text()?),
        (None, Some(file), None, Some(fail), None) => {
            let failing = Failing {
                on: fail.word(Request::NAMES)?,
                errno: errno(fields.req("errno")?)?,
                after: fields.opt("after").map_or(Ok(0), Node::uint)?,
                times: fields.opt("times").map(Node::uint).transpose()?,
            };
            HostChange::Fail(file.text()?, failing)
        }
        _ => {
            let expected = "expected `capacity`, `disk`, or `file` and one of `limit`, `fail` and `size`";
            return Err(Fault::new(node.span, "this is nothing that a host does", expected));
        }
    };
    fields.end()?;
    Ok(FileOp::Host(change))
}

/// How fast the disk is: `none`, or what it does in a second.
fn disk(node: &Node) -> Read<Option<DiskRates>> {
    if is_none(node) {
        return Ok(None);
    }
    let mut fields = Fields::of("disk", node)?;
    let (bytes, requests) = (fields.req("bytes")?, fields.req("requests")?);
    let rates = DiskRates { bytes: bytes.size()?, requests: requests.uint()? };
    for (node, number) in [(bytes, rates.bytes), (requests, rates.requests)] {
        if number == 0 {
            return Err(Fault::new(node.span, "a disk that does nothing", "expected more than 0 a second"));
        }
    }
    fields.end()?;
    Ok(Some(rates))
}

fn is_none(node: &Node) -> bool {
    matches!(&node.value, Value::Str(word) if &**word == "none")
}

/// A size, or `none`.
fn bound(node: &Node) -> Read<Option<u64>> {
    if is_none(node) { Ok(None) } else { node.size().map(Some) }
}

/// The length of a file.
fn length(node: &Node) -> Read<u64> {
    let size = node.size()?;
    if size > i64::MAX as u64 {
        return Err(Fault::new(node.span, "no file is that long", "expected less than 2^63"));
    }
    Ok(size)
}

fn errno(node: &Node) -> Read<Errno> {
    let name = node.text()?;
    Errno::by_name(&name).ok_or_else(|| {
        let expected = format!("expected a name such as `EIO` or `ENOSPC`, found `{name}`");
        Fault::new(node.span, "this is no errno of Linux", expected)
    })
}
