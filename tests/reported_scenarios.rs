//! The programs of `tests/data/reported` as scenarios: one file each in `sim-scenarios/reported`, restarts, kills and changed bytes
//! included, and what happens is what the real QEMU 10.0.2 showed.
//!
//! The files are written by this test (`INSTA_UPDATE=always`), from `program.json` and, as expectations, QEMU's replies in `real.jsonl`; where
//! QEMU crashes, those in `instead.jsonl`. What the model refuses by a name is in a table (`REFUSED`).
//! Held against the recording are commands, replies and events (in order; apart where the recording's client did not wait), what a
//! process says that does not start, and the content of all images at the end.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/harness.rs"]
mod harness;
#[path = "common/program.rs"]
mod program;

use blockjob_sim::base::Json;
use blockjob_sim::invariant::Invariant;
use blockjob_sim::quirk::Quirks;
use blockjob_sim::scenario;
use blockjob_sim::scenario::plan::{
    Backing, EventPattern, Expect, Fails, FileOp, ImageFormat, Limits, Plan, PlannedFile, PlannedStep, ProcessOp,
    Qcow2Options, Schedule, StepKind, WriteData,
};
use blockjob_sim::scenario::write::to_yaml;
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use blockjob_sim::trace::compare::{ClientLine, client_lines};
use blockjob_sim::trace::{Level, canonical};
use harness::trial;
use program::{list, neutral, text};
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

/// Where the bitmap directory of `s.qcow2` has the name of its entry, in `lp1808928-dirname`; its script looks that up.
const NAME_IN_DIRECTORY: u64 = 1_507_328 + 24;

/// Commands that the model refuses by a name where QEMU goes on, counted from 1, and replies that are others because of that.
const REFUSED: &[(&str, &[(usize, &str)])] = &[
    ("blockdev-create-errors", &[(67, "not simulated: extended-l2"), (68, "[]"), (69, "Job not found")]),
    (
        "gl1139-protocols",
        &[
            (1, "not simulated: rbd"),
            (2, "not simulated: iscsi"),
            (3, "not simulated: http"),
            (4, "not simulated: https"),
            (5, "not simulated: ssh"),
            (9, "not simulated: vvfat"),
            (11, "not simulated: host_device"),
            (13, "not simulated: nfs"),
            (14, "not simulated: gluster"),
            (15, "not simulated: ftp"),
        ],
    ),
];

/// The same of processes that do not start.
const REFUSED_TO_START: &[(&str, &str)] =
    &[("cmdl-53", "not simulated: vvfat"), ("gl1139-cmdline-1", "not simulated: rbd")];

/// The recordings' client waited until nothing came for so long, where it waited.
const REST: blockjob_sim::base::time::Span = blockjob_sim::base::time::Span::from_nanos(200_000_000);

fn to_json(value: &Value) -> Json {
    canonical::parse(&value.to_string()).expect("JSON")
}

fn to_value(json: &Json) -> Value {
    serde_json::from_str(&canonical::to_string(json)).expect("JSON")
}

fn size(value: &Value) -> u64 {
    match value {
        Value::String(text) => blockjob_sim::base::units::parse_size(text).expect("a size"),
        other => other.as_u64().expect("a number"),
    }
}

fn format(name: &str) -> ImageFormat {
    if name == "raw" { ImageFormat::Raw } else { ImageFormat::Qcow2 }
}

fn file(step: &Value) -> FileOp {
    if let Some(create) = step.get("create") {
        assert!(create.get("options").is_none(), "{create}");
        let backing = create.get("backing").map(|backing| match backing {
            Value::String(file) => {
                Backing { file: file.as_str().into(), format: format(text(create, "backing-format")) }
            }
            other => Backing { file: text(other, "file").into(), format: format(text(other, "format")) },
        });
        return FileOp::Create {
            file: text(create, "file").into(),
            format: format(text(create, "format")),
            size: create.get("size").map(size),
            options: Qcow2Options::default(),
            backing,
        };
    }
    let write = step.get("write").unwrap_or_else(|| panic!("what is {step}?"));
    FileOp::Write {
        file: text(write, "file").into(),
        format: format(text(write, "format")),
        offset: size(&write["offset"]),
        length: size(&write["length"]),
        data: WriteData::Pattern(u8::try_from(size(&write["pattern"])).expect("a byte")),
    }
}

/// What a shell script of a program does to images. One that only looks at them does nothing: the list of images at the end has all of it.
fn script(script: &str) -> Vec<FileOp> {
    let (dirname, autoclear) = (script.contains("d[dof+24]=0"), script.contains("d[88:96]=bytes(8)"));
    let s: Arc<str> = "s.qcow2".into();
    let bytes = |at, bytes: &[u8]| FileOp::Bytes { file: s.clone(), at, bytes: bytes.to_vec() };
    let check = |leaks| FileOp::Check { file: s.clone(), leaks, corruptions: 0 };
    match script {
        _ if dirname => vec![bytes(NAME_IN_DIRECTORY, &[0]), check(0)],
        // The clusters of the bitmap have no owner any more.
        _ if autoclear => vec![bytes(88, &[0; 8]), check(3)],
        "qemu-img create -q -f qcow2 t.qcow2 4M" => {
            vec![file(&json!({ "create": { "file": "t.qcow2", "format": "qcow2", "size": "4M" } }))]
        }
        _ if script.contains("qemu-img info") => Vec::new(),
        _ => panic!("what does {script}?"),
    }
}

/// Reads the recording along with the program.
struct Converter<'a> {
    real: &'a [Value],
    at: usize,
    alive: bool,
    /// The client waited after each command until nothing came any more.
    calm: bool,
    steps: Vec<StepKind>,
    /// The last command makes a file.
    creates: bool,
    /// What processes said that did not start.
    stderr: Vec<String>,
}

impl Converter<'_> {
    /// The reply of the command that was recorded next, if there is one.
    fn reply(&mut self) -> Option<Value> {
        let is_end = |line: &Value| line.get("reply").is_some() || line.get("exit").is_some();
        let end = self.real[self.at..].iter().position(is_end)?;
        self.at += end + 1;
        let reply = self.real[self.at - 1].get("reply").cloned()?;
        if reply.is_string() {
            self.alive = false;
        }
        Some(reply)
    }

    fn expect(&mut self) -> Expect {
        match self.reply() {
            Some(reply) if reply.get("return").is_some() => Expect::Return(None),
            Some(reply) if reply.get("error").is_some() => {
                let member = |name| Some(text(&reply["error"], name).replace("#blockN", "#block0").into());
                Expect::Error { class: member("class"), desc: member("desc") }
            }
            _ => Expect::Any,
        }
    }

    /// A process starts with these arguments. Whether it does is known from the recording.
    fn start(&mut self, args: &[Value]) -> (Vec<Arc<str>>, Option<Arc<str>>) {
        let args = args.iter().map(|arg| arg.as_str().expect("text").into()).collect();
        self.alive = !matches!(self.real.get(self.at), Some(line) if line["start"] == "failed");
        let mut error = None;
        if !self.alive {
            self.at += 2;
            error = Some(self.stderr.remove(0).into());
        }
        (args, error)
    }

    fn step(&mut self, step: &Value) {
        if let Some(command) = step.get("qmp") {
            if self.alive {
                let expect = self.expect();
                self.creates = command["execute"] == "blockdev-create";
                self.steps.push(StepKind::Qmp { command: to_json(command), expect });
                self.rests();
            }
        } else if let Some(line) = step.get("hmp") {
            if self.alive {
                self.reply();
                let line = line.as_str().expect("text").into();
                self.steps.push(StepKind::Hmp { line, output: None, returns: None, fails: Fails::Any });
            }
        } else if step.get("idle").is_some() {
            self.steps.push(StepKind::Idle);
            // Making a file takes the host a while in which the process rests.
            if std::mem::take(&mut self.creates) {
                self.steps.push(StepKind::Sleep(REST));
            }
        } else if let Some(event) = step.get("event") {
            let data = event.get("data").map(to_json);
            self.steps.push(StepKind::Event(EventPattern { name: text(event, "event").into(), data, without: vec![] }));
        } else if step.get("quit").is_some() {
            self.quit();
        } else if step.get("kill9").is_some() {
            self.steps.push(StepKind::Process(ProcessOp::Kill));
            self.past("exit");
            self.alive = false;
        } else if let Some(args) = step.get("start") {
            let (args, error) = self.start(args.as_array().expect("a list"));
            self.steps.push(StepKind::Process(ProcessOp::Start { args, error }));
        } else if let Some(sh) = step.get("sh") {
            self.steps.extend(script(sh.as_str().expect("text")).into_iter().map(StepKind::File));
            self.past("sh");
        } else {
            panic!("what is {step}?");
        }
    }

    /// What comes after a while: unplugged devices go when nothing refers to them any more.
    fn rests(&mut self) {
        let later = self.real[self.at..].iter().take_while(|line| line.get("event").is_some());
        if self.calm && later.into_iter().any(|line| line["event"] == "DEVICE_DELETED") {
            self.steps.push(StepKind::Sleep(REST));
        }
    }

    fn past(&mut self, member: &str) {
        let rest = &self.real[self.at..];
        self.at += rest.iter().position(|line| line.get(member).is_some()).map_or(rest.len(), |found| found + 1);
    }

    fn quit(&mut self) {
        if self.alive {
            let expect = self.expect();
            self.steps.push(StepKind::Qmp { command: to_json(&json!({ "execute": "quit" })), expect });
            if self.real.get(self.at).is_some_and(|line| line.get("exit").is_some()) {
                self.at += 1;
            }
            self.alive = false;
        }
    }
}

fn convert(program: &Value, real: &[Value]) -> Plan {
    let stderr = real.iter().find_map(|line| line.get("stderr")).and_then(Value::as_str).unwrap_or_default();
    let failed = real.iter().filter(|line| line["start"] == "failed").count();
    let said = stderr.split("PROG: ").skip(1).map(|message| message.trim_end().to_owned());
    let stderr = if failed > 0 { said.collect() } else { Vec::new() };
    let mut converter = Converter {
        real,
        at: 0,
        alive: false,
        calm: program.get("calm").is_some(),
        steps: Vec::new(),
        creates: false,
        stderr,
    };
    let (mut args, error) = converter.start(list(program, "args"));
    if error.is_some() {
        let args = std::mem::take(&mut args);
        converter.steps.push(StepKind::Process(ProcessOp::Start { args, error }));
    }
    for step in list(program, "steps") {
        converter.step(step);
    }
    converter.quit();
    let aborts = real.iter().any(|line| line["exit"] == -6);
    Plan {
        about: format!("As reported: {}.", text(program, "about")).into(),
        files: list(program, "files").iter().map(|step| PlannedFile::new(file(step))).collect(),
        args,
        steps: converter.steps.into_iter().map(PlannedStep::new).collect(),
        limits: Limits::default(),
        quirks: Quirks::default(),
        expect_violation: aborts.then_some(Invariant::NoAbort),
        schedule: Schedule::Calm,
    }
}

/// Whether a client sent that line.
fn is_sent(line: &Value) -> bool {
    line.get("command").is_some() || line.get("hmp").is_some()
}

/// What is expected of the model: what QEMU did, but for what the model refuses by a name, and for what it does where QEMU crashes
/// (`instead.jsonl`, in the place of all behind the command of which QEMU dies).
fn expected(name: &str, mut real: Vec<Value>, instead: Option<&[Value]>) -> Vec<Value> {
    if let Some(instead) = instead {
        let dies = real.iter().position(|line| line["exit"].as_i64().is_some_and(|status| status < 0));
        let dies = dies.expect("QEMU dies of it");
        let mut command = real[..dies].iter().rposition(is_sent).expect("a command");
        // The model may have gone its own way one command before.
        if instead.iter().find(|line| is_sent(line)) == Some(&real[command]) {
            command = real[..command].iter().rposition(is_sent).expect("another command");
        }
        real.truncate(command + 1);
        real.extend_from_slice(instead);
    }
    if let Some((_, text)) = REFUSED_TO_START.iter().find(|(refused, _)| *refused == name) {
        return vec![json!({ "start": "failed" }), json!({ "exit": 1 }), json!({ "stderr": format!("PROG: {text}") })];
    }
    for (number, reply) in REFUSED.iter().find(|(refused, _)| *refused == name).map_or(&[][..], |(_, rows)| rows) {
        let command = real.iter().enumerate().filter(|(_, line)| is_sent(line)).nth(number - 1).expect("a command").0;
        let next = real[command + 1..].iter().position(is_sent).expect("another command") + command + 1;
        let reply = match serde_json::from_str::<Value>(reply) {
            Ok(value) => json!({ "return": value }),
            Err(_) => json!({ "error": { "class": "GenericError", "desc": reply } }),
        };
        real.splice(command + 1..next, [json!({ "reply": reply })]);
    }
    real
}

/// What a client saw, in the form of the recordings.
fn seen(lines: Vec<ClientLine>) -> Vec<Value> {
    let line = |line: ClientLine| {
        let mut value = match line {
            ClientLine::Command(command) => {
                let command = to_value(&command);
                match command["arguments"].get("command-line") {
                    Some(line) if command["execute"] == "human-monitor-command" => json!({ "hmp": line }),
                    _ => json!({ "command": command }),
                }
            }
            ClientLine::Reply(reply) => json!({ "reply": to_value(&reply) }),
            ClientLine::Event { name, data } => match to_value(&data) {
                Value::Object(members) if members.is_empty() => json!({ "event": &*name }),
                data => json!({ "event": &*name, "data": data }),
            },
        };
        neutral(&mut value);
        value
    };
    lines.into_iter().map(line).collect()
}

fn first_difference(what: &str, real: &[&Value], ours: &[&Value]) {
    let length = real.len().max(ours.len());
    if let Some(i) = (0..length).find(|&i| real.get(i) != ours.get(i)) {
        panic!("{what} {i}\nQEMU: {:?}\nours: {:?}", real.get(i), ours.get(i));
    }
}

fn sha256(bytes: &[u8]) -> String {
    let mut child =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum starts");
    child.stdin.take().expect("piped").write_all(bytes).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

fn run(dir: &Path, name: &str) {
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect("a file");
    let program: Value = serde_json::from_str(&read("program.json")).expect("JSON");
    let lines =
        |text: String| text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>();
    let instead = dir.join("instead.jsonl").exists().then(|| lines(read("instead.jsonl")));
    let before = lines(read("real.jsonl"));
    let real = expected(name, before.clone(), instead.as_deref());
    let yaml = to_yaml(&convert(&program, &real));
    let path = format!("sim-scenarios/reported/{name}.yaml");
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        fs::create_dir_all("sim-scenarios/reported").expect("a folder");
        fs::write(&path, &yaml).expect("a file");
    }
    let stands = fs::read_to_string(&path).unwrap_or_default();
    assert!(stands == yaml, "{path} is not what its program gives (INSTA_UPDATE=always writes it)");
    let plan = scenario::load_str(&path, &yaml).unwrap_or_else(|error| panic!("{error:?}"));

    let options = RunOptions { level: Some(Level::Client), ..RunOptions::default() };
    let (outcome, sim) = sim::run_with(&plan, &mut sim::chooser(&plan.schedule), &options);
    match (&outcome, plan.expect_violation) {
        (Outcome::Passed, None) => {}
        (Outcome::Violated { invariant, .. }, Some(wanted)) if *invariant == wanted.name() => {}
        _ => panic!("{outcome}"),
    }
    let mut sim = sim.expect("a run");
    let ours = seen(client_lines(&sim.world.trace));
    let told = |line: &&Value| {
        ["command", "hmp", "event"].iter().any(|name| line.get(name).is_some())
            || line.get("reply").is_some_and(Value::is_object)
    };
    let ours: Vec<&Value> = ours.iter().collect();
    let real_lines: Vec<&Value> = match &instead {
        // QEMU sends events before it dies, which the model sends too.
        Some(instead) => {
            let before: Vec<&Value> = before.iter().filter(told).collect();
            let same = before.iter().zip(&ours).take_while(|(real, ours)| real == ours).count();
            before[..same].iter().copied().chain(instead.iter().filter(told)).collect()
        }
        None => real.iter().filter(told).collect(),
    };
    if program.get("calm").is_some() {
        first_difference("line", &real_lines, &ours);
    } else {
        let apart = |lines: &[&'_ Value], events: bool| -> Vec<Value> {
            lines.iter().filter(|line| line.get("event").is_some() == events).map(|line| (*line).clone()).collect()
        };
        for events in [false, true] {
            let (real, ours) = (apart(&real_lines, events), apart(&ours, events));
            first_difference("line", &real.iter().collect::<Vec<_>>(), &ours.iter().collect::<Vec<_>>());
        }
    }
    for image in real.iter().filter(|line| line.get("image").is_some()) {
        let (name, Some(size)) = (text(image, "image"), image["size"].as_u64()) else { continue };
        let data = sim.world.files.read(name, 0, size).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(sha256(&data.to_bytes()), text(image, "content"), "{name}");
    }
}

fn main() -> ExitCode {
    let mut names: Vec<String> = fs::read_dir("tests/data/reported")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().expect("a name in UTF-8"))
        .collect();
    names.sort();
    assert!(names.len() > 50, "the programs are there");
    let all = names
        .into_iter()
        .map(|name| trial(name.clone(), move || run(&Path::new("tests/data/reported").join(&name), &name)));
    harness::main(all.collect())
}
