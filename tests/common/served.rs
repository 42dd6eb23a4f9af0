//! A served process, and a client of it.
#![allow(dead_code, reason = "each test takes what it needs")]

use blockjob_sim::base::Json;
use blockjob_sim::qmp::json::parse_one;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing takes longer, not even on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A served process.
pub struct Served {
    pub child: Child,
    pub dir: tempfile::TempDir,
}

impl Served {
    /// `blockjob-sim qemu`, with a monitor at [`Served::path`].
    pub fn start(args: &[&str]) -> Served {
        let quiet = ["qemu", "-nodefaults", "-display", "none", "-S", "-qmp", "unix:qmp.sock,server=on,wait=off"];
        Served::spawn(&[&quiet, args].concat())
    }

    /// `blockjob-sim serve`, likewise.
    pub fn serve(args: &[&str]) -> Served {
        Served::spawn(&[&["serve", "--socket", "qmp.sock"], args].concat())
    }

    fn spawn(args: &[&str]) -> Served {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"));
        command.args(args).current_dir(dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Served { child: command.spawn().expect("the program starts"), dir }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("qmp.sock")
    }

    pub fn connect(&self) -> Client {
        connect(&self.path())
    }

    /// Its exit code, and what it printed on both streams.
    pub fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                let mut text = String::new();
                self.child.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
                self.child.stderr.take().expect("piped").read_to_string(&mut text).expect("text");
                return (status.code(), text);
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Memory in use, in KiB.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn connect(path: &Path) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Client::new(stream),
            Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One connection.
pub struct Client {
    pub stream: UnixStream,
    pub lines: BufReader<UnixStream>,
    /// Events that came before a reply.
    pub queue: Vec<Json>,
}

impl Client {
    pub fn new(stream: UnixStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let lines = BufReader::new(stream.try_clone().expect("a copy"));
        Client { stream, lines, queue: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the process reads");
    }

    /// The next line without its end, which is CR LF; `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        self.lines.read_until(b'\n', &mut line).expect("a line in time");
        let text = String::from_utf8(line).expect("UTF-8");
        if text.is_empty() {
            return None;
        }
        Some(text.strip_suffix("\r\n").unwrap_or_else(|| panic!("no CR LF: {text:?}")).to_owned())
    }

    pub fn json(&mut self) -> Json {
        let line = self.line().expect("not the end");
        parse_one(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Greeting and negotiation.
    pub fn negotiate(mut self) -> Client {
        assert!(self.json().get("QMP").is_some());
        self.command(r#"{"execute": "qmp_capabilities"}"#);
        self
    }

    /// Sends, and reads up to the reply; gives the names of events before it.
    pub fn command(&mut self, text: &str) -> (Json, Vec<String>) {
        self.send(text.as_bytes());
        let mut events = Vec::new();
        loop {
            let json = self.json();
            match json.get("event").and_then(Json::as_str).map(str::to_owned) {
                Some(name) => {
                    events.push(name);
                    self.queue.push(json);
                }
                None => return (json, events),
            }
        }
    }

    pub fn ok(&mut self, text: &str) -> Json {
        let (reply, _) = self.command(text);
        reply.get("return").unwrap_or_else(|| panic!("{text}: {reply:?}")).clone()
    }

    /// The oldest event of that name that was not asked for yet.
    pub fn event(&mut self, name: &str) -> Json {
        let is_it = |json: &Json| json.get("event").and_then(Json::as_str) == Some(name);
        let json = match self.queue.iter().position(is_it) {
            Some(i) => self.queue.remove(i),
            None => loop {
                let json = self.json();
                if is_it(&json) {
                    break json;
                }
            },
        };
        json.get("data").cloned().unwrap_or(Json::Null)
    }
}

pub const NODES: [&str; 4] = [
    "-blockdev",
    "driver=null-co,node-name=n0,size=67108864,read-zeroes=on",
    "-blockdev",
    r#"{"driver": "null-co", "node-name": "n1", "size": 67108864}"#,
];
pub const BACKUP: &str =
    r#"{"execute": "blockdev-backup", "arguments": {"job-id": "j", "device": "n0", "target": "n1", "sync": "full"}}"#;

/// The text of the error that a command gets, or nothing.
pub fn said(client: &mut Client, command: &str) -> String {
    let reply = client.command(command).0;
    reply.get("error").and_then(|error| error.get("desc")).and_then(Json::as_str).unwrap_or_default().to_owned()
}

/// Sends a line with a descriptor beside it.
pub fn send_with_fd(client: &Client, text: &str, file: &std::fs::File) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    let fds = [file.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let parts = [std::io::IoSlice::new(text.as_bytes())];
    sendmsg(&client.stream, &parts, &mut control, SendFlags::empty()).expect("it is sent");
}

pub fn with_nodes<'a>(more: &[&'a str]) -> Vec<&'a str> {
    NODES.iter().chain(more).copied().collect()
}
