//! A scenario as a script that needs nothing of ours: Python's standard library, `qemu-img`, `qemu-io` and a QEMU.
//!
//! The script makes the images, starts QEMU and sends the commands over its QMP socket. What it forces of an order is the moment each
//! command is sent: when QEMU is at rest, as a calm client does, or right behind the reply before it. Which request of several in
//! flight completes first it cannot force, unless the scenario itself does, by `break` and `resume` of qemu-io on a blkdebug node.

use crate::base::Json;
use crate::scenario::plan::{Backing, Expect, FileOp, ImageFormat, Plan, StepKind, WriteData};
use crate::trace::canonical;

/// The part of the script that is always the same.
const DRIVER: &str = r##"
def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

class Qmp:
    def __init__(self, command):
        self.process = subprocess.Popen(command)
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(500):
            try:
                self.socket.connect("qmp.sock")
                break
            except OSError:
                time.sleep(0.02)
        self.data, self.events = b"", []

    def message(self, wait):
        self.socket.settimeout(wait)
        while b"\n" not in self.data:
            try:
                more = self.socket.recv(65536)
            except (socket.timeout, ConnectionResetError):
                return None
            if not more:
                return None
            self.data += more
        line, self.data = self.data.split(b"\n", 1)
        message = json.loads(line)
        message.pop("timestamp", None)
        if "QMP" not in message:
            print("  <", json.dumps(message, sort_keys=True))
        if "event" in message:
            self.events.append(message)
        return message

    def rest(self):
        while self.message(REST) is not None:
            pass

    def command(self, command):
        print(">", json.dumps(command, sort_keys=True))
        self.socket.sendall(json.dumps(command).encode() + b"\n")
        while True:
            message = self.message(10)
            if message is None:
                self.dead("no reply")
            if "return" in message or "error" in message:
                return

    def event(self, name, data):
        fits = lambda e: e["event"] == name and all(e.get("data", {}).get(k) == v for k, v in data.items())
        while True:
            for event in self.events:
                if fits(event):
                    self.events.remove(event)
                    return
            if self.message(10) is None:
                self.dead("the event %s did not come" % name)

    def dead(self, what):
        try:
            code = self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            sys.exit("QEMU hangs: " + what)
        sys.exit("QEMU ended with %d (negative: a signal): %s" % (code, what))
"##;

fn word(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
    }
}

/// Words as Python writes them: those of JSON.
fn call(name: &str, words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| canonical::to_string(&Json::str(word))).collect();
    format!("{name}({})\n", quoted.join(", "))
}

/// What is done to a file from outside, as calls of `run`.
fn file(op: &FileOp) -> String {
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
            all.push(file.to_string());
            all.extend(size.map(|size| size.to_string()));
            call("run", &all)
        }
        FileOp::Write { file, format, offset, length, data } => {
            let command = match data {
                WriteData::Pattern(byte) => format!("write -P {byte} {offset} {length}"),
                WriteData::Zero => format!("write -z {offset} {length}"),
                WriteData::Discard => format!("discard {offset} {length}"),
            };
            call("run", &words(&["qemu-io", "-f", word(*format), "-c", &command, file]))
        }
        FileOp::Rebase { file, backing } => {
            let mut all = words(&["qemu-img", "rebase", "-u", "-f", "qcow2"]);
            all.extend(backing.as_ref().map_or_else(|| words(&["-b", ""]), based));
            all.push(file.to_string());
            call("run", &all)
        }
        FileOp::Content { file, size, data } => {
            let file = canonical::to_string(&Json::str(file));
            let mut out = format!("with open({file}, \"wb\") as f:\n    f.truncate({size})\n");
            for extent in data {
                let hex: String = extent.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                out.push_str(&format!(
                    "    f.seek({})\n    f.write(bytes.fromhex(\"{hex}\") * {})\n",
                    extent.at, extent.times
                ));
            }
            out
        }
        FileOp::Text { file, content } => {
            let (file, content) = (Json::str(file), Json::str(content));
            format!("open({}, \"w\").write({})\n", canonical::to_string(&file), canonical::to_string(&content))
        }
    }
}

/// The script. `calm`: each command waits until QEMU is at rest.
#[must_use]
pub fn script(plan: &Plan, calm: bool) -> String {
    let mut out = String::from("#!/usr/bin/env python3\n");
    out.push_str(&format!("# {}\n", plan.about.replace('\n', " ")));
    out.push_str(match calm {
        true => "# Each command is sent when QEMU is at rest. The order in which requests complete is not forced.\n",
        false => "# Each command is sent right behind the reply before it. The order in which requests complete is not forced.\n",
    });
    out.push_str("import json, os, socket, subprocess, sys, tempfile, time\n\n");
    out.push_str("QEMU = sys.argv[1:] or [\"qemu-system-x86_64\"]\nREST = 0.3\n");
    out.push_str(DRIVER);
    out.push_str("\nos.chdir(tempfile.mkdtemp())\n");
    for planned in &plan.files {
        out.push_str(&file(&planned.op));
    }
    let args: Vec<String> = plan.args.iter().map(|arg| canonical::to_string(&Json::Str(arg.clone()))).collect();
    out.push_str(
        "qmp = Qmp(QEMU + [\"-accel\", \"tcg\", \"-S\", \"-nodefaults\", \"-display\", \"none\",\n    \
         \"-qmp\", \"unix:qmp.sock,server=on,wait=off\"",
    );
    for arg in args {
        out.push_str(&format!(",\n    {arg}"));
    }
    out.push_str("])\nqmp.message(10)\nqmp.command({\"execute\": \"qmp_capabilities\"})\n");
    for step in plan.steps.iter() {
        out.push_str(&one(&step.kind, calm));
    }
    out.push_str("qmp.rest()\nqmp.process.kill()\n");
    out
}

fn one(kind: &StepKind, calm: bool) -> String {
    let rest = if calm { "qmp.rest()\n" } else { "" };
    let loads = |json: &Json| format!("json.loads({})", canonical::to_string(&Json::str(&canonical::to_string(json))));
    match kind {
        StepKind::Qmp { command, expect } => {
            let note = match expect {
                Expect::Error { .. } => "  # an error is expected",
                _ => "",
            };
            format!("{rest}qmp.command({}){note}\n", loads(command))
        }
        StepKind::Hmp { line, .. } => {
            let arguments = Json::dict(vec![("command-line", Json::Str(line.clone()))]);
            let command = Json::dict(vec![("execute", "human-monitor-command".into()), ("arguments", arguments)]);
            format!("{rest}qmp.command({})\n", loads(&command))
        }
        StepKind::Event(pattern) => {
            let data = pattern.data.clone().unwrap_or_else(Json::empty);
            format!("qmp.event({}, {})\n", canonical::to_string(&Json::Str(pattern.name.clone())), loads(&data))
        }
        StepKind::Sleep(ns) => format!("time.sleep({}.{:09})\n", ns / 1_000_000_000, ns % 1_000_000_000),
        StepKind::File(op) => file(op),
        StepKind::Mark(name) => format!("# {name}\n"),
        // Where the simulated process stood says nothing of a real one.
        StepKind::At { .. } => String::new(),
        StepKind::Idle | StepKind::NoJobs | StepKind::NoEvents { .. } | StepKind::Bitmap(_) => {
            "qmp.rest()\n".to_owned()
        }
        StepKind::Same(images) => images
            .windows(2)
            .map(|pair| call("run", &["qemu-img", "compare", "-U", &pair[0], &pair[1]].map(str::to_owned)))
            .collect(),
    }
}
