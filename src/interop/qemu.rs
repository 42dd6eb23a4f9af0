//! One real process with QEMU's command line, and the QMP connection to it.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell starts processes, talks over sockets and reads clocks"
)]

use super::scratch::Guard;
use super::{Trouble, trouble};
use crate::base::Json;
use crate::scenario::plan::Signal;
use crate::trace::canonical;
use crate::validate;
use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Options of a program that is named without any.
const ALONE: [&str; 8] = ["-accel", "tcg", "-S", "-nodefaults", "-display", "none", "-bios", FIRMWARE];

/// The name of the [`firmware`], in the working directory. It is no image.
pub(super) const FIRMWARE: &str = "qmp.firmware";

/// How long a process may take from its start to its greeting.
const START: Duration = Duration::from_secs(30);
/// A process that owes an answer and does nothing for this long hangs.
const HANG: Duration = Duration::from_nanos(validate::HANG.as_nanos());
/// A process that owes an answer for this long hangs, whatever it does.
const SPIN: Duration = Duration::from_secs(60);
/// How long a client waits for a process that never comes to rest.
const PATIENCE: Duration = Duration::from_millis(60);
/// Name of the socket, in the working directory.
const SOCKET: &str = "qmp.sock";

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It left with this code.
    Exited(i32),
    /// A signal ended it: `SIGABRT`, `SIGSEGV`, …
    Killed(String),
    /// It did not answer, and was killed.
    Hung,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Exited(code) => write!(f, "QEMU left with code {code}"),
            Ending::Killed(signal) => write!(f, "QEMU was ended by {signal}"),
            Ending::Hung => f.write_str("QEMU hangs"),
        }
    }
}

/// What was to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A reply or an event, without its time.
    Message(Json),
    /// The process is at rest and nothing came.
    Nothing,
    /// The connection is closed.
    End,
}

/// What came of starting a process.
pub enum Started {
    /// It runs, and was negotiated with.
    Runs(Box<Qemu>),
    /// It ended before its greeting.
    Not(Ending),
}

/// A running process.
pub struct Qemu {
    child: Child,
    stream: UnixStream,
    /// What came in and is no whole line yet.
    partial: Vec<u8>,
    /// Whole lines that nobody asked for yet.
    lines: std::collections::VecDeque<Vec<u8>>,
    closed: bool,
    dir: PathBuf,
    guard: Guard,
    /// It was waited for, and its number may be another's.
    over: bool,
    /// The version in the greeting.
    pub version: String,
}

/// What the guest's processor runs once it is let go (`cont`): `cli; hlt`, at the place where an x86 begins. The firmware that QEMU comes with
/// resets controllers and reads disks, and resets the machine where it finds nothing to start: the model has no such guest.
fn firmware() -> Vec<u8> {
    const SIZE: usize = 65_536;
    let mut code = vec![0xf4; SIZE];
    code[SIZE - 16..SIZE - 12].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    code
}

/// Puts down what a program that is named without options needs in `dir`, and returns its options.
pub(super) fn alone(dir: &Path) -> Result<[&'static str; 8], Trouble> {
    fs::write(dir.join(FIRMWARE), firmware()).map_err(|error| trouble(FIRMWARE, &error))?;
    Ok(ALONE)
}

impl Qemu {
    /// Starts `command` (words, the first a program) in `dir` with `args`, and negotiates.
    ///
    /// # Errors
    /// If there is no such program, or it does not speak QMP.
    pub fn start(command: &[String], dir: &Path, args: &[&str], guard: &Guard) -> Result<Started, Trouble> {
        let Some((program, first)) = command.split_first() else {
            return Err(Trouble("no program is named: expected a command such as `qemu-system-x86_64`".to_owned()));
        };
        let out = |name: &str| fs::File::create(dir.join(name)).map_err(|error| trouble(name, &error));
        let mut process = buffered_by_line(program);
        process.args(first);
        if first.is_empty() {
            process.args(alone(dir)?);
        }
        process.args(["-qmp", &format!("unix:{SOCKET},server=on,wait=off")]).args(args);
        process.current_dir(dir).stdin(Stdio::null()).stdout(out("stdout")?).stderr(out("stderr")?);
        // A group of its own: what is started by a wrapper ends with it.
        process.process_group(0);
        let mut child = process.spawn().map_err(|error| trouble(program, &error))?;
        if !guard.runs(child.id()) {
            kill(&child);
            let _ = child.wait();
            return Err(Trouble("the command is ending".to_owned()));
        }
        let began = Instant::now();
        let stream = loop {
            if let Ok(stream) = UnixStream::connect(dir.join(SOCKET)) {
                break stream;
            }
            if let Ok(Some(status)) = child.try_wait() {
                guard.ends(child.id());
                return Ok(Started::Not(ending(status)));
            }
            if began.elapsed() > START {
                kill(&child);
                guard.ends(child.id());
                let _ = child.wait();
                return Err(Trouble(format!("{program} gave no greeting within {} s", START.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let dir = dir.to_owned();
        let mut qemu = Qemu {
            child,
            stream,
            partial: Vec::new(),
            lines: std::collections::VecDeque::new(),
            closed: false,
            dir,
            guard: guard.clone(),
            over: false,
            version: String::new(),
        };
        // The socket is there before the drives are opened, which may fail.
        match qemu.answer()? {
            Received::Message(greeting) => qemu.negotiate(program, &greeting)?,
            Received::End => return Ok(Started::Not(qemu.end(false))),
            Received::Nothing => return Ok(Started::Not(Ending::Hung)),
        }
        Ok(Started::Runs(Box::new(qemu)))
    }

    fn negotiate(&mut self, program: &str, greeting: &Json) -> Result<(), Trouble> {
        let version = greeting.get("QMP").and_then(|q| q.get("version")).and_then(|v| v.get("qemu"));
        let part = |name: &str| version.and_then(|v| v.get(name)).and_then(Json::as_u64).unwrap_or(0);
        self.version = format!("{}.{}.{}", part("major"), part("minor"), part("micro"));
        self.send(&Json::dict(vec![("execute", "qmp_capabilities".into())]))?;
        match self.answer()? {
            Received::Message(reply) if reply.get("return").is_some() => Ok(()),
            other => Err(Trouble(format!("{program} did not negotiate: {other:?}"))),
        }
    }

    /// Sends a command. Nothing stands behind it: QEMU's monitor thread spins over a line's end until the main thread is done with
    /// the command.
    ///
    /// # Errors
    /// Other than a closed connection, which the next read shows.
    pub fn send(&mut self, command: &Json) -> Result<(), Trouble> {
        self.send_bytes(canonical::to_string(command).as_bytes())
    }

    /// Sends bytes as they are; likewise.
    ///
    /// # Errors
    /// What the host says.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        match self.stream.write_all(bytes) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Err(trouble("sending a command", &error))
            }
            _ => Ok(()),
        }
    }

    /// The next message if one stands ready.
    pub fn ready(&mut self) -> Result<Option<Json>, Trouble> {
        self.fill(Duration::ZERO)?;
        self.next_line()
    }

    /// The next message; the process owes one. [`Received::Nothing`] if it hangs.
    pub fn answer(&mut self) -> Result<Received, Trouble> {
        let began = Instant::now();
        let mut idle = Instant::now();
        let mut cpu = self.cpu_time();
        loop {
            if let Some(message) = self.next_line()? {
                return Ok(Received::Message(message));
            }
            if self.closed {
                return Ok(Received::End);
            }
            self.fill(Duration::from_millis(50))?;
            let now = self.cpu_time();
            if now != cpu {
                (cpu, idle) = (now, Instant::now());
            }
            if idle.elapsed() > HANG || began.elapsed() > SPIN {
                return Ok(Received::Nothing);
            }
        }
    }

    /// The next message, or [`Received::Nothing`] once the process is at rest, or after a while if it never is.
    pub fn until_rest(&mut self) -> Result<Received, Trouble> {
        let began = Instant::now();
        let mut calm = 0;
        let mut cpu = self.cpu_time();
        loop {
            if let Some(message) = self.next_line()? {
                return Ok(Received::Message(message));
            }
            if self.closed {
                return Ok(Received::End);
            }
            let asleep = self.asleep();
            let now = self.cpu_time();
            calm = if asleep && now == cpu { calm + 1 } else { 0 };
            cpu = now;
            self.fill(Duration::from_micros(700))?;
            if self.lines.is_empty() && !self.closed && (calm > 5 || began.elapsed() > PATIENCE * 20) {
                return Ok(Received::Nothing);
            }
        }
    }

    /// Whether every thread of the process sleeps.
    fn asleep(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let Ok(tasks) = tasks else { return true };
        tasks.flatten().all(|task| {
            let stat = stat(&task.path().join("stat"));
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()) == Some("S")
        })
    }

    /// Ticks of processor time that it has used.
    fn cpu_time(&self) -> u64 {
        let stat = stat(Path::new(&format!("/proc/{}/stat", self.child.id())));
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        [11, 12].iter().filter_map(|n| fields.get(*n)).filter_map(|field| field.parse::<u64>().ok()).sum()
    }

    fn next_line(&mut self) -> Result<Option<Json>, Trouble> {
        let Some(line) = self.lines.pop_front() else { return Ok(None) };
        let text = String::from_utf8_lossy(&line);
        let message = canonical::parse(text.trim()).map_err(|error| trouble("what the process sent", &error))?;
        Ok(Some(without(&message, "timestamp")))
    }

    /// Takes in what came, waiting for so long.
    fn fill(&mut self, wait: Duration) -> Result<(), Trouble> {
        if self.closed {
            return Ok(());
        }
        let set = match wait.is_zero() {
            true => self.stream.set_nonblocking(true),
            false => self.stream.set_nonblocking(false).and_then(|()| self.stream.set_read_timeout(Some(wait))),
        };
        set.map_err(|error| trouble("the socket", &error))?;
        let mut block = [0; 65_536];
        loop {
            match self.stream.read(&mut block) {
                Ok(0) => self.closed = true,
                Ok(n) => {
                    for byte in &block[..n] {
                        if *byte == b'\n' {
                            self.lines.push_back(std::mem::take(&mut self.partial));
                        } else {
                            self.partial.push(*byte);
                        }
                    }
                    if n == block.len() {
                        continue;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => self.closed = true,
            }
            break;
        }
        // Writing goes on blocking.
        self.stream.set_nonblocking(false).map_err(|error| trouble("the socket", &error))
    }

    /// Asks the process to end.
    ///
    /// # Errors
    /// What the host says.
    pub fn signal(&self, signal: Signal) -> Result<(), Trouble> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let signal = match signal {
            Signal::Term => rustix::process::Signal::TERM,
            Signal::Int => rustix::process::Signal::INT,
            Signal::Hup => rustix::process::Signal::HUP,
        };
        let sent = pid.map_or(Ok(()), |pid| rustix::process::kill_process(pid, signal));
        sent.map_err(|error| trouble("a signal", &std::io::Error::from(error)))
    }

    /// Waits for the process to end; one that does not is killed.
    #[must_use]
    pub fn end(mut self, hangs: bool) -> Ending {
        let began = Instant::now();
        while !hangs && began.elapsed() < HANG * 2 {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.over = true;
                    return ending(status);
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(_) => break,
            }
        }
        Ending::Hung
    }

    /// What it printed so far, on standard output and standard error.
    #[must_use]
    pub fn printed(&self) -> (String, String) {
        printed(&self.dir)
    }
}

/// Ends a process and what it started.
fn kill(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// A line of `/proc`, in one read: it is asked for all the time.
fn stat(path: &Path) -> String {
    let mut block = [0; 1024];
    let n = fs::File::open(path).and_then(|mut file| file.read(&mut block)).unwrap_or(0);
    String::from_utf8_lossy(&block[..n]).into_owned()
}

fn ending(status: std::process::ExitStatus) -> Ending {
    match status.signal() {
        Some(signal) => Ending::Killed(signal_name(signal)),
        None => Ending::Exited(status.code().unwrap_or(-1)),
    }
}

/// What a process printed that ran in `dir`.
#[must_use]
pub fn printed(dir: &Path) -> (String, String) {
    let read = |name: &str| fs::read(dir.join(name)).map(|b| String::from_utf8_lossy(&b).into_owned());
    (read("stdout").unwrap_or_default(), read("stderr").unwrap_or_default())
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if !self.over {
            kill(&self.child);
        }
        self.guard.ends(self.child.id());
        let _ = self.child.wait();
        let _ = fs::remove_file(self.dir.join(SOCKET));
    }
}

/// A QEMU that prints to a file keeps up to a block of text back, and loses it in a crash; `stdbuf`, where there is one, helps.
fn buffered_by_line(program: &str) -> Command {
    const STDBUF: &str = "/usr/bin/stdbuf";
    // Of a program that is not there the error must not be stdbuf's.
    if !Path::new(STDBUF).exists() || !can_be_found(program) {
        return Command::new(program);
    }
    let mut command = Command::new(STDBUF);
    command.args(["-oL", program]);
    command
}

/// Whether there is such a program, where the system looks for programs.
fn can_be_found(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

/// A copy of `json` without one of its members.
fn without(json: &Json, member: &str) -> Json {
    match json {
        Json::Dict(members) => {
            let kept: Vec<_> = members.iter().filter(|(key, _)| **key != *member).cloned().collect();
            Json::Dict(std::sync::Arc::new(kept))
        }
        other => other.clone(),
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        6 => "SIGABRT".to_owned(),
        7 => "SIGBUS".to_owned(),
        8 => "SIGFPE".to_owned(),
        9 => "SIGKILL".to_owned(),
        11 => "SIGSEGV".to_owned(),
        15 => "SIGTERM".to_owned(),
        other => format!("signal {other}"),
    }
}
