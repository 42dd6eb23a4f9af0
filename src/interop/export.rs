//! A scenario as a script that needs nothing of ours: Python's standard library, `qemu-img`, `qemu-io` and a QEMU.
//!
//! The script makes the images, starts QEMU and sends the commands over its QMP socket. Without a schedule what it forces of an order is
//! the moment each command is sent: when QEMU is at rest, as a calm client does, or right behind the reply before it. With a schedule
//! it forces the order that the model gives then, by the moments of commands and by what [`super::force`] has.
//!
//! Texts of the scenario stand in it as literals ([`super::quote`]). Whatever ends it, its QEMU and its directory go with it.

use super::carry::ONE_PROCESS;
use super::force::{self, Forced, HeldBy, Hold};
use super::quote::{file_name, python};
use crate::base::Json;
use crate::base::time::Span;
use crate::choice::Choose;
use crate::host::HostChange;
use crate::scenario::plan::{Backing, Expect, Extent, FileOp, ImageFormat, Plan, PlannedStep, StepKind, WriteData};
use crate::sim::Sim;
use crate::sim::outcome::{Outcome, RunOptions};
use crate::trace::canonical;
use crate::trace::compare::ClientLine;
use crate::validate::target::line;
use std::sync::Arc;

/// The part of the script that is always the same.
const DRIVER: &str = concat!("\n", include_str!("export_driver.py"));

fn word(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
    }
}

/// A call of a function of the script with these words.
fn call(name: &str, words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| python(word)).collect();
    format!("{name}({})\n", quoted.join(", "))
}

/// A real host can't be made to refuse something from a script: it ends there.
const NO_HOST: &str = "echo 'what a host refuses cannot be set from a script' >&2; exit 1";

/// What is said of scenarios that send bytes to the monitor which are no commands.
pub(super) const RAW_BYTES: &str = "bytes that are no command are not sent from a script";

/// What makes or changes a file from outside.
#[derive(Debug)]
pub(super) enum Tool<'a> {
    /// A program of QEMU's.
    Run(Vec<String>),
    /// The file anew, with bytes in it.
    Content { file: &'a str, size: u64, data: &'a [Extent] },
    /// The file anew, with this text.
    Text { file: &'a str, content: &'a str },
}

/// What is done to a file from outside.
pub(super) fn tools(op: &FileOp) -> Tool<'_> {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let based = |backing: &Backing| words(&["-b", &backing.file, "-F", word(backing.format)]);
    match op {
        FileOp::Create { file, format, size, options, backing } => {
            let mut all = words(&["qemu-img", "create", "-q", "-f", word(*format)]);
            let mut given = Vec::new();
            given.extend(options.cluster_size.map(|size| format!("cluster_size={size}")));
            given.extend(options.compat_v3.map(|v3| format!("compat={}", if v3 { "1.1" } else { "0.10" })));
            given.extend(options.lazy_refcounts.map(|on| format!("lazy_refcounts={}", if on { "on" } else { "off" })));
            if !given.is_empty() {
                all.extend(["-o".to_owned(), given.join(",")]);
            }
            all.extend(backing.as_ref().map(based).unwrap_or_default());
            all.push(file_name(file));
            all.extend(size.map(|size| size.to_string()));
            Tool::Run(all)
        }
        FileOp::Write { file, format, offset, length, data } => {
            let command = match data {
                WriteData::Pattern(byte) => format!("write -P {byte} {offset} {length}"),
                WriteData::Zero => format!("write -z {offset} {length}"),
                WriteData::Discard => format!("discard {offset} {length}"),
            };
            Tool::Run(words(&["qemu-io", "-f", word(*format), "-c", &command, &file_name(file)]))
        }
        FileOp::Rebase { file, backing } => {
            let mut all = words(&["qemu-img", "rebase", "-u", "-f", "qcow2"]);
            all.extend(backing.as_ref().map_or_else(|| words(&["-b", ""]), based));
            all.push(file_name(file));
            Tool::Run(all)
        }
        FileOp::Content { file, size, data } => Tool::Content { file, size: *size, data },
        FileOp::Text { file, content } => Tool::Text { file, content },
        FileOp::Bytes { file, at, bytes } => {
            let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
            let script = "printf \"$2\" | dd of=\"$0\" bs=1 seek=\"$1\" conv=notrunc status=none";
            Tool::Run(words(&["sh", "-c", script, file, &at.to_string(), &octal]))
        }
        FileOp::Resize { file, size } => {
            Tool::Run(words(&["qemu-img", "resize", "-q", "--shrink", &file_name(file), &size.to_string()]))
        }
        // It says with its exit code that it found something, as the scenario expects.
        FileOp::Check { file, .. } => {
            Tool::Run(words(&["sh", "-c", "qemu-img check \"$0\" || true", &file_name(file)]))
        }
        FileOp::QemuImg(img) => {
            let ends = format!("\"$@\"; [ $? = {} ]", img.status);
            let mut all = words(&["sh", "-c", &ends, "sh", "qemu-img"]);
            all.extend(img.words.iter().map(|word| word.to_string()));
            Tool::Run(all)
        }
        FileOp::Host(HostChange::Resize(file, size)) => {
            Tool::Run(words(&["truncate", "-s", &size.to_string(), "--", file]))
        }
        // The real disk is as fast as it is.
        FileOp::Host(HostChange::Disk(_)) => Tool::Run(words(&["true"])),
        FileOp::Host(_) => Tool::Run(words(&["sh", "-c", NO_HOST])),
    }
}

/// What is done to a file from outside, as calls of `run`.
fn file(op: &FileOp) -> String {
    match tools(op) {
        Tool::Run(words) => {
            let made = match op {
                FileOp::Create { file, .. } if file.contains('/') => call("made", &[file.to_string()]),
                _ => String::new(),
            };
            made + &call("run", &words)
        }
        Tool::Content { file, size, data } => {
            let mut out = format!("with open(made({}), \"wb\") as f:\n    f.truncate({size})\n", python(file));
            for extent in data {
                let hex: String = extent.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                out.push_str(&format!(
                    "    f.seek({})\n    f.write(bytes.fromhex(\"{hex}\") * {})\n",
                    extent.at, extent.times
                ));
            }
            out
        }
        Tool::Text { file, content } => {
            format!("with open(made({}), \"wb\") as f:\n    f.write({}.encode())\n", python(file), python(content))
        }
    }
}

/// What every script begins with: what it is for, as a literal that nobody reads but people, and what it needs.
fn head(plan: &Plan, remarks: &[String]) -> String {
    let mut out = String::from("#!/usr/bin/env python3\n");
    for text in std::iter::once(&*plan.about).chain(remarks.iter().map(String::as_str)) {
        out.push_str(&format!("{}\n", python(text)));
    }
    out.push_str("import atexit, json, os, shutil, signal, socket, subprocess, sys, tempfile, time\n\n");
    out.push_str("QEMU = sys.argv[1:] or [\"qemu-system-x86_64\"]\nREST = 0.3\n");
    // The script leaves the directory that a name is relative to.
    out.push_str("if \"/\" in QEMU[0]:\n    QEMU[0] = os.path.abspath(QEMU[0])\n");
    out.push_str(DRIVER);
    out
}

/// Making the files and starting QEMU.
fn start(plan: &Plan) -> String {
    let mut out: String = plan.files.iter().map(|planned| file(&planned.op)).collect();
    out.push_str(
        "qmp = Qmp(QEMU + [\"-accel\", \"tcg\", \"-S\", \"-nodefaults\", \"-display\", \"none\",\n    \
         \"-qmp\", \"unix:qmp.sock,server=on,wait=off\"",
    );
    for arg in &plan.args {
        out.push_str(&format!(",\n    {}", python(arg)));
    }
    out.push_str("])\nqmp.message(10)\nqmp.own({\"execute\": \"qmp_capabilities\"})\n");
    out
}

/// The script. `calm`: each command waits until QEMU is at rest.
#[must_use]
pub fn script(plan: &Plan, calm: bool) -> String {
    let when = if calm { "when QEMU is at rest" } else { "right behind the reply before it" };
    let mut out =
        head(plan, &[format!("Each command is sent {when}. The order in which requests complete is not forced.")]);
    out.push('\n');
    out.push_str(&start(plan));
    let talks = |step: &PlannedStep| {
        matches!(
            step.kind,
            StepKind::Qmp { .. } | StepKind::Hmp { .. } | StepKind::Event(_) | StepKind::Sleep(_) | StepKind::File(_)
        )
    };
    let last = plan.steps.iter().rposition(talks);
    for (number, step) in plan.steps.iter().enumerate() {
        // QEMU has parts of open images in its caches. Where nothing more is sent they are closed, which is sure; elsewhere flushed.
        if let StepKind::Same(_) = &step.kind {
            out.push_str(if last < Some(number) { "qmp.end()\n" } else { "qmp.rest()\nqmp.flush()\n" });
        }
        out.push_str(&one(&step.kind, calm));
    }
    out.push_str("qmp.rest()\n");
    out
}

/// A line of the trace as far as its order counts; `None` for a command.
fn short(line: &ClientLine) -> Option<String> {
    match line {
        ClientLine::Command(_) => None,
        ClientLine::Reply(reply) => Some(if reply.get("error").is_some() { "error" } else { "return" }.to_owned()),
        ClientLine::Event { name, data } => {
            let text = |key: &str| data.get(key).and_then(Json::as_str);
            let mut words: Vec<&str> = vec![name];
            words.extend(text("id").or_else(|| text("device")));
            words.extend(text("status"));
            words.extend(text("action"));
            words.extend(data.get("error").map(|_| "error"));
            Some(words.join(" "))
        }
    }
}

/// How often a script tries an order that it cannot force.
const TRIES: u32 = 60;
/// How often it tries one that it forces: on a busy machine a command may be late.
const TRIES_FORCED: u32 = 5;

/// What a run gave, in the order in which the process gave it: a command stands behind what was given when it was sent, whether the client had
/// read that or not. A script cannot have QEMU wait for a client that does not read, but it can wait itself.
#[must_use]
pub fn given(plan: &Plan, choose: &mut dyn Choose) -> Vec<ClientLine> {
    let mut sim = match Sim::new(plan, &RunOptions::default()) {
        Ok(sim) => sim,
        Err(_) => return Vec::new(),
    };
    let mut lines = Vec::new();
    loop {
        let (sent, before) = (sim.client.sent(), sim.client.taken() + sim.world.out.len());
        let outcome = sim.step_caught(choose);
        if sim.client.sent() > sent {
            lines.extend(sim.client.last_command().cloned().map(ClientLine::Command));
        } else {
            let known = before.saturating_sub(sim.client.taken());
            lines.extend(sim.world.out.iter().skip(known).filter_map(line));
        }
        if outcome.is_some() || choose.diverged().is_some() {
            refused_late(&mut lines);
            return lines;
        }
    }
}

/// A verb that is refused gives nothing but its error: whatever came before that was there first, and can be waited for.
fn refused_late(lines: &mut [ClientLine]) {
    let verb = |line: &ClientLine| match line {
        ClientLine::Command(command) => {
            let name = command.get("execute").and_then(Json::as_str).unwrap_or_default();
            Some(name.starts_with("job-") || name.starts_with("block-job-"))
        }
        _ => None,
    };
    for at in 0..lines.len() {
        let refused = matches!(&lines[at], ClientLine::Reply(reply) if reply.get("error").is_some());
        let command = lines[..at].iter().rposition(|line| verb(line).is_some());
        if let Some(command) = command.filter(|command| refused && verb(&lines[*command]) == Some(true)) {
            lines[command..at].rotate_left(1);
        }
    }
}

/// The script that forces the order of `lines`, which is a run of `plan`; what cannot be forced comes with it.
///
/// It sends each command when what stands before it has come, holds jobs back as [`force`] says, and compares the order in
/// the end. Where a part cannot be forced, it tries again until it comes by itself. Of a run that failed there is nothing to send behind the
/// step that did, and nothing to compare behind what it gave: the real process goes on. `wait` is how long the run took.
#[must_use]
pub fn in_order(plan: &Plan, lines: &[ClientLine], outcome: &Outcome, wait: Span) -> (String, Vec<String>) {
    let failed = match outcome {
        Outcome::Passed => None,
        Outcome::Failed { at, .. }
        | Outcome::Stuck { at, .. }
        | Outcome::Limit { at, .. }
        | Outcome::Violated { at, .. }
        | Outcome::Crash { at, .. } => at.as_ref(),
        Outcome::Diverged(_) => None,
    };
    let mut plan = plan.clone();
    if let Some(at) = failed {
        plan.steps = plan.steps.iter().take(at.step as usize + 1).cloned().collect();
    }
    let drive = |source: &str| plan.args.iter().any(|arg| !arg.starts_with('{') && force::defines(arg, source));
    let forced = force::force(lines, drive);
    let plan = force::prepared(&plan, &forced);
    let mut remarks = vec![
        "Forces an order of replies and events: exit code 0 if QEMU gives it, 3 if not.".to_owned(),
        "Commands are sent when what stands before them has come; jobs are held back by breakpoints and throttling."
            .to_owned(),
    ];
    if failed.is_some() {
        let how = outcome.to_string();
        remarks.push(format!(
            "The order is that of a run that failed, up to there: {}",
            how.lines().next().unwrap_or_default()
        ));
    }
    remarks.extend(
        forced.cannot.iter().map(|what| format!("Cannot be forced, and so is tried again until it comes: {what}")),
    );
    let mut out = head(&plan, &remarks);
    out.push_str(&format!(
        "\n# Seconds without a reply or event, after which none comes any more.\nWAIT = {}\n",
        10 + wait.as_millis().div_ceil(1_000)
    ));
    let tries = if forced.cannot.is_empty() { TRIES_FORCED } else { TRIES };
    let outputs: Vec<String> = lines.iter().filter_map(short).collect();
    out.push_str("\nEXPECTED = [\n");
    for output in &outputs {
        out.push_str(&format!("    {},\n", python(output)));
    }
    out.push_str("]\n\ndef attempt():\n");
    let mut body = start(&plan);
    body.push_str("try:\n");
    let mut steps = String::new();
    let mut sent = Sent { lines, forced: &forced, command: 0, throttled: Vec::new() };
    for step in plan.steps.iter() {
        steps.push_str(&sent.step(&step.kind));
    }
    steps.push_str(&format!("qmp.seen({})\n", outputs.len()));
    if failed.is_none() {
        steps.push_str("qmp.rest()\n");
    }
    body.push_str(&indented(&steps));
    body.push_str("except Missing as missing:\n    print(missing)\nqmp.process.kill()\nqmp.process.wait()\n");
    body.push_str(if failed.is_some() { "return qmp.outputs[:len(EXPECTED)]\n" } else { "return qmp.outputs\n" });
    out.push_str(&indented(&body));
    out.push_str(&format!(
        "\nfor number in range({tries}):\n    there = os.path.join(HERE, str(number))\n    os.mkdir(there)\n    os.chdir(there)\n    \
         got = attempt()\n    shutil.rmtree(there, ignore_errors=True)\n    if got == EXPECTED:\n        \
         print(\"QEMU gave this order, in attempt\", number + 1, \"of at most {tries}\")\n        sys.exit(0)\n    \
         at = next((i for i, (a, b) in enumerate(zip(got, EXPECTED)) if a != b), min(len(got), len(EXPECTED)))\n    \
         side = lambda all: all[at] if at < len(all) else \"nothing more\"\n    \
         print(\"attempt %d of at most {tries} gave another order: at output %d expected %r, got %r\" % \
         (number + 1, at + 1, side(EXPECTED), side(got)))\nsys.exit(3)\n"
    ));
    (out, forced.cannot)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// The steps of a script that forces an order, one after the other.
struct Sent<'a> {
    lines: &'a [ClientLine],
    forced: &'a Forced,
    /// How many commands were sent.
    command: usize,
    /// Sources that are slow.
    throttled: Vec<Arc<str>>,
}

impl Sent<'_> {
    /// How many outputs the client has read when the next command is sent.
    fn before(&self) -> usize {
        let mut commands = 0;
        let before = self.lines.iter().take_while(|line| {
            commands += usize::from(matches!(line, ClientLine::Command(_)));
            commands <= self.command
        });
        before.filter(|line| !matches!(line, ClientLine::Command(_))).count()
    }

    fn step(&mut self, kind: &StepKind) -> String {
        let command = match kind {
            StepKind::Qmp { command, .. } => command.clone(),
            StepKind::Hmp { line, .. } => super::carry::hmp(line),
            StepKind::File(op) => return format!("qmp.seen({})\nqmp.rest()\n{}", self.before(), file(op)),
            _ => return String::new(),
        };
        let own = |command: &Json| format!("qmp.own({})\n", loads(command));
        let limit = |source: &str, reads: u32| {
            own(&Json::dict(vec![
                ("execute", "qom-set".into()),
                (
                    "arguments",
                    Json::dict(vec![
                        ("path", Json::str(&format!("/objects/{}", force::group(source)))),
                        ("property", "limits".into()),
                        ("value", Json::dict(vec![("iops-read", Json::uint(u64::from(reads)))])),
                    ]),
                ),
            ]))
        };
        let qemu_io =
            |source: &str, line: &str| own(&super::carry::hmp(&format!("qemu-io {source} \"{line}\"").into()));
        let mut out = format!("qmp.seen({})\n", self.before());
        for source in std::mem::take(&mut self.throttled) {
            out.push_str(&limit(&source, 0));
        }
        let holds = self.forced.holds.iter().filter(|hold| hold.command == self.command);
        let mut after = String::new();
        for Hold { source, by, .. } in holds {
            match by {
                HeldBy::Break { job, status } => {
                    out.push_str(&qemu_io(source, "break read_aio held"));
                    after.push_str(&format!("qmp.told({}, {})\n", python(status), python(job)));
                    after.push_str(&qemu_io(source, "resume held"));
                }
                HeldBy::Throttle(reads) => {
                    out.push_str(&limit(source, *reads));
                    self.throttled.push(source.clone());
                }
            }
        }
        self.command += 1;
        out + &format!("qmp.command({})\n", loads(&command)) + &after
    }
}

/// A value as Python reads it.
fn loads(json: &Json) -> String {
    format!("json.loads({})", python(&canonical::to_string(json)))
}

fn one(kind: &StepKind, calm: bool) -> String {
    let rest = if calm { "qmp.rest()\n" } else { "" };
    match kind {
        StepKind::Qmp { command, expect } => {
            let note = match expect {
                Expect::Error { .. } => "  # an error is expected",
                _ => "",
            };
            format!("{rest}qmp.command({}){note}\n", loads(command))
        }
        StepKind::Hmp { line, .. } => {
            format!("{rest}qmp.command({})\n", loads(&super::carry::hmp(line)))
        }
        StepKind::Event(pattern) => {
            let data = pattern.data.clone().unwrap_or_else(Json::empty);
            format!("qmp.event({}, {})\n", python(&pattern.name), loads(&data))
        }
        StepKind::Sleep(span) => {
            format!("time.sleep({}.{:09})\n", span.as_nanos() / 1_000_000_000, span.as_nanos() % 1_000_000_000)
        }
        StepKind::File(op) => file(op),
        StepKind::Process(_) => {
            call("run", &["sh", "-c", &format!("echo '{ONE_PROCESS}' >&2; exit 1")].map(str::to_owned))
        }
        StepKind::Send { .. } => {
            call("run", &["sh", "-c", &format!("echo '{RAW_BYTES}' >&2; exit 1")].map(str::to_owned))
        }
        StepKind::Mark(name) => format!("{}\n", python(name)),
        // Where the simulated process stood says nothing of a real one.
        StepKind::At { .. } | StepKind::Nbd(_) => String::new(),
        StepKind::Idle | StepKind::NoJobs | StepKind::NoEvents { .. } | StepKind::Bitmap(_) => {
            "qmp.rest()\n".to_owned()
        }
        StepKind::Same(images) => images
            .windows(2)
            .map(|pair| call("run", &["qemu-img", "compare", "-U", "--", &pair[0], &pair[1]].map(str::to_owned)))
            .collect(),
    }
}
