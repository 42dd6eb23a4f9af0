//! Carries out a whole program: images, processes that start, end and are killed, QMP, the human monitor, shell commands.

#![allow(dead_code, reason = "each test takes what it needs")]

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing takes longer, not even on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nothing comes for this long: the process is at rest.
const REST: Duration = Duration::from_millis(200);

/// The name under which the program is called: QEMU's options are its arguments then.
const CALLED: &str = "qemu-system-x86_64";

struct Process {
    child: Child,
    stream: Option<UnixStream>,
    /// What was read and is not yet a whole line.
    rest: Vec<u8>,
}

struct Runner {
    dir: tempfile::TempDir,
    out: Vec<Value>,
    process: Option<Process>,
    started: usize,
    calm: bool,
    /// How the process before ended that was killed, where none was started after it.
    killed: Option<Value>,
}

/// What happened with the served program, line by line, in the form of the recordings.
pub fn carry_out(program: &Value) -> Vec<Value> {
    carry_out_by(Path::new(env!("CARGO_BIN_EXE_blockjob-sim")), program)
}

/// What happened with the program at this path: ours, or QEMU.
pub fn carry_out_by(qemu: &Path, program: &Value) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink(qemu, dir.path().join(CALLED)).expect("a link");
    let calm = program.get("calm").is_some();
    let mut runner = Runner { dir, out: Vec::new(), process: None, started: 0, calm, killed: None };
    for file in list(program, "files") {
        runner.prepare(file);
    }
    runner.start(list(program, "args"), true);
    for step in list(program, "steps") {
        runner.step(step);
    }
    runner.quit();
    runner.images();
    for (what, name) in [("stderr", "stderr.log"), ("stdout", "stdout.log")] {
        let text = fs::read(runner.dir.path().join(name)).unwrap_or_default();
        let text = speeds(&String::from_utf8_lossy(&text).replace(&format!("{CALLED}:"), "PROG:"));
        runner.out.push(json!({ what: text }));
    }
    std::mem::take(&mut runner.out)
}

pub fn list<'a>(of: &'a Value, member: &str) -> &'a [Value] {
    of.get(member).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn text<'a>(of: &'a Value, member: &str) -> &'a str {
    of.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// How long qemu-io's requests took is the machine's affair.
fn speeds(text: &str) -> String {
    let line = |line: &str| match line.split_once(" ops; ") {
        Some((before, _)) => format!("{before} ops; X (X and X)"),
        None => line.to_owned(),
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Names that QEMU makes up have a number that depends on the version.
fn numbers(text: &str) -> String {
    let mut parts = text.split("#block");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(if rest.len() < part.len() { "#blockN" } else { "#block" });
        out.push_str(rest);
    }
    out
}

/// What the host decides, not QEMU.
pub fn neutral(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("timestamp");
            if let Some(size) = members.get_mut("actual-size") {
                *size = json!(0);
            }
            for (name, member) in members.iter_mut() {
                if name.ends_with("_ns") && member.is_number() {
                    *member = json!(0);
                }
                neutral(member);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(neutral),
        Value::String(text) => *text = numbers(&speeds(text)),
        _ => {}
    }
}

/// A test that fails leaves no process behind.
impl Drop for Runner {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

impl Runner {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a tool beside the images; its status, and what it printed on standard output.
    fn tool(&self, program: &str, args: &[&str]) -> (i32, String) {
        let done = Command::new(program).args(args).current_dir(self.path()).stdin(Stdio::null()).output();
        let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
        (done.status.code().unwrap_or(-1), String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn prepare(&self, file: &Value) {
        if let Some(create) = file.get("create") {
            let format = text(create, "format");
            let mut args = vec!["create", "-q", "-f", format];
            if let Some(options) = create.get("options").and_then(Value::as_str) {
                args.extend(["-o", options]);
            }
            match create.get("backing") {
                Some(Value::String(backing)) => args.extend(["-b", backing, "-F", text(create, "backing-format")]),
                Some(backing) => args.extend(["-b", text(backing, "file"), "-F", text(backing, "format")]),
                None => {}
            }
            args.extend([text(create, "file"), text(create, "size")]);
            let (status, _) = self.tool("qemu-img", &args);
            assert_eq!(status, 0, "{create}");
        } else if let Some(write) = file.get("write") {
            let number =
                |name: &str| write.get(name).map_or("0".to_owned(), |value| value.to_string().replace('"', ""));
            let command = format!("write -P {} {} {}", number("pattern"), number("offset"), number("length"));
            let (status, _) = self.tool("qemu-io", &["-f", text(write, "format"), "-c", &command, text(write, "file")]);
            assert_eq!(status, 0, "{write}");
        } else {
            panic!("what is {file}?");
        }
    }

    /// Starts the process; of one that fails to start, and of all after the first, this is told.
    fn start(&mut self, args: &[Value], first: bool) {
        self.started += 1;
        self.killed = None;
        let socket = format!("qmp{}.sock", self.started);
        let open =
            |name: &str| fs::OpenOptions::new().create(true).append(true).open(self.path().join(name)).expect("a file");
        let mut command = Command::new(self.path().join(CALLED));
        command.args(["-nodefaults", "-display", "none", "-S", "-qmp"]);
        command.arg(format!("unix:{socket},server=on,wait=off"));
        command.args(args.iter().map(|arg| arg.as_str().expect("an argument is text")));
        command.current_dir(self.path()).stdin(Stdio::null()).stdout(open("stdout.log")).stderr(open("stderr.log"));
        let mut child = command.spawn().expect("the program starts");
        let path = self.path().join(&socket);
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                self.out.push(json!({ "start": "failed" }));
                self.out.push(json!({ "exit": status.code() }));
                return;
            }
            if let Ok(stream) = UnixStream::connect(&path) {
                break stream;
            }
            assert!(Instant::now() < deadline, "{}: no connection", path.display());
            std::thread::sleep(Duration::from_millis(2));
        };
        let _ = first;
        self.process = Some(Process { child, stream: Some(stream), rest: Vec::new() });
        let greeting = self.line(PATIENCE);
        match greeting.is_some_and(|line| line.get("QMP").is_some()) {
            true => {
                self.send(&json!({ "execute": "qmp_capabilities" }));
                self.line(PATIENCE);
            }
            // It ended between the opening of its socket and that of its disks.
            false => {
                let process = self.process.take().expect("a process");
                let status = ended(process.child);
                self.out.push(json!({ "start": "failed" }));
                self.out.push(status);
            }
        }
    }

    fn send(&mut self, command: &Value) {
        let stream = self.process.as_mut().and_then(|process| process.stream.as_mut());
        let _ = stream.expect("a connection").write_all(command.to_string().as_bytes());
    }

    /// The next line, if it comes in time.
    fn line(&mut self, patience: Duration) -> Option<Value> {
        let process = self.process.as_mut()?;
        let stream = process.stream.as_mut()?;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(end) = process.rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = process.rest.drain(..=end).collect();
                let mut value: Value = serde_json::from_slice(&line).expect("JSON");
                neutral(&mut value);
                return Some(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            stream.set_read_timeout(Some(left)).expect("a timeout");
            let mut buffer = [0; 65_536];
            match stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => process.rest.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(_) => return None,
            }
        }
    }

    /// All that comes until nothing comes any more.
    fn rest(&mut self) {
        while let Some(line) = self.line(REST) {
            self.out.push(line);
        }
    }

    /// Sends, and takes down what comes up to the reply; with `calm` up to rest.
    fn command(&mut self, shown: Value, sent: &Value) {
        if self.process.is_none() {
            return;
        }
        if !self.calm {
            while let Some(line) = self.line(Duration::from_millis(1)) {
                self.out.push(line);
            }
        }
        self.out.push(shown);
        self.send(sent);
        loop {
            match self.line(PATIENCE) {
                Some(line) if line.get("event").is_some() => self.out.push(line),
                Some(line) => {
                    self.out.push(json!({ "reply": line }));
                    break;
                }
                None => {
                    self.out.push(json!({ "reply": "NONE: closed" }));
                    let process = self.process.take().expect("a process");
                    self.out.push(ended(process.child));
                    return;
                }
            }
        }
        if self.calm {
            self.rest();
        }
    }

    fn step(&mut self, step: &Value) {
        if let Some(command) = step.get("qmp") {
            self.command(json!({ "command": command }), command);
        } else if let Some(line) = step.get("hmp") {
            let command = json!({ "execute": "human-monitor-command", "arguments": { "command-line": line } });
            self.command(json!({ "hmp": line }), &command);
        } else if step.get("idle").is_some() {
            self.rest();
        } else if let Some(event) = step.get("event") {
            self.wait_for(event);
        } else if step.get("quit").is_some() {
            self.quit();
        } else if step.get("kill9").is_some() {
            self.kill();
        } else if let Some(args) = step.get("start") {
            assert!(self.process.is_none(), "the process before has ended");
            self.start(args.as_array().expect("a list"), false);
        } else if let Some(script) = step.get("sh") {
            let (status, out) = self.tool("sh", &["-c", script.as_str().expect("text")]);
            self.out.push(json!({ "sh": script, "rc": status, "out": out }));
        } else {
            panic!("what is {step}?");
        }
    }

    fn wait_for(&mut self, wanted: &Value) {
        let has =
            |line: &Value| wanted.as_object().is_some_and(|wanted| wanted.iter().all(|(k, v)| line.get(k) == Some(v)));
        // It may have come with the reply to the last command.
        let since = self.out.iter().rposition(|line| line.get("command").is_some()).unwrap_or(0);
        if self.out[since..].iter().any(has) {
            return;
        }
        while let Some(line) = self.line(PATIENCE) {
            let found = has(&line);
            self.out.push(line);
            if found {
                return;
            }
        }
        panic!("{wanted} does not come");
    }

    fn quit(&mut self) {
        let command = json!({ "execute": "quit" });
        self.command(json!({ "command": command }), &command);
        while let Some(line) = self.line(PATIENCE) {
            self.out.push(line);
        }
        if let Some(process) = self.process.take() {
            self.out.push(ended(process.child));
        }
        // The recordings tell it again at their end.
        self.out.extend(self.killed.take());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.child.kill().expect("it runs");
            let status = ended(process.child);
            self.killed = Some(status.clone());
            self.out.push(status);
        }
    }

    /// Each image, as qemu-img tells of it.
    fn images(&mut self) {
        let mut names: Vec<PathBuf> =
            fs::read_dir(self.path()).expect("a directory").map(|e| e.expect("a name").path()).collect();
        names.sort();
        for path in names {
            let name = path.file_name().and_then(|name| name.to_str()).expect("text");
            let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
            if ["qcow2", "raw", "img"].contains(&end) {
                let image = self.image(name);
                self.out.push(image);
            }
        }
    }

    fn image(&self, name: &str) -> Value {
        let parsed = |(_, out): (i32, String)| serde_json::from_str::<Value>(&out).unwrap_or(Value::Null);
        let info = parsed(self.tool("qemu-img", &["info", "--output", "json", name]));
        let format = text(&info, "format").to_owned();
        let data = &info["format-specific"]["data"];
        let map = parsed(self.tool("qemu-img", &["map", "--output", "json", name]));
        let map = allocated(&map);
        let (_, sum) = self.tool(
            "sh",
            &["-c", &format!("qemu-img convert -f {format} -O raw {name} .out; sha256sum < .out; rm .out")],
        );
        let mut image = json!({
            "image": name, "format": format, "size": info["virtual-size"], "map": map, "content": sum.trim_end(),
            "backing": info["backing-filename"], "bfmt": info["backing-filename-format"], "cluster": info["cluster-size"],
            "bitmaps": data["bitmaps"], "compat": data["compat"], "corrupt": data["corrupt"], "lazy": data["lazy-refcounts"],
            "dirty": info["dirty-flag"],
        });
        if format == "qcow2" {
            let (status, out) = self.tool("sh", &["-c", &format!("qemu-img check {name} 2>&1")]);
            let says: Vec<&str> =
                out.lines().filter(|line| line.contains("refcount=") || line.contains("ERROR")).collect();
            image["check"] = json!([status, says.join("\n")]);
        }
        image
    }
}

/// Which ranges are allocated, and at what depth.
fn allocated(map: &Value) -> Vec<Value> {
    let mut ranges: Vec<(u64, u64, Value, Value)> = Vec::new();
    for range in map.as_array().into_iter().flatten() {
        let number = |name: &str| range[name].as_u64().expect("a number");
        let (start, length) = (number("start"), number("length"));
        match ranges.last_mut() {
            Some(last) if last.2 == range["depth"] && last.3 == range["present"] => last.1 += length,
            _ => ranges.push((start, length, range["depth"].clone(), range["present"].clone())),
        }
    }
    ranges.into_iter().map(|(start, length, depth, present)| json!([start, length, depth, present])).collect()
}

/// How a process ended.
fn ended(mut child: Child) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return match status.code() {
                Some(code) => json!({ "exit": code }),
                None => json!({ "exit": -std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0) }),
            };
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the process does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
