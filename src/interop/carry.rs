//! Carrying out a scenario on a real process: its steps, one after the other, as the model's own client does them.
#![expect(clippy::disallowed_methods, reason = "the shell waits in real time")]

use super::nbd::{NO_ANSWER, NbdClients};
use super::qemu::{Ending, Qemu, Received, Started, printed};
use super::scratch::Guard;
use super::{Trouble, confine, files};
use crate::base::Json;
use crate::job::status::JobStatus;
use crate::qmp::json::Parser;
use crate::scenario::nbd::NbdAction;
use crate::scenario::plan::{EventPattern, Plan, ProcessOp, StepKind};
use crate::trace::canonical;
use crate::trace::compare::ClientLine;
use std::path::Path;
use std::time::Duration;

/// When the client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientPace {
    /// When the process is at rest, all is read, and its wait is met.
    Calm,
    /// As soon as its wait is met. The gaps of up to so many microseconds before it sends come from the seed.
    Racing {
        /// Where the gaps come from.
        seed: u64,
        /// The longest gap, in microseconds.
        gap: u32,
    },
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Carried {
    /// What the client saw.
    pub lines: Vec<ClientLine>,
    /// What clients of the NBD server were answered; of those that do not wait, that depends on when they asked, and is `None`.
    pub answers: Option<Vec<String>>,
    /// What the process printed on standard output.
    pub stdout: String,
    /// What it printed on standard error.
    pub stderr: String,
    /// How it ended; `None`: it was stopped by the client, alive.
    pub ending: Option<Ending>,
    /// The step that could not be done, with what it waited for. If the process is alive, nothing is wrong with it: the scenario waits for
    /// what it does not send.
    pub stuck: Option<(usize, String)>,
    /// What it waited for may come yet: a job sleeps as long as its speed says, and a client cannot wait for that.
    pub sleeps: bool,
    /// QEMU's version; empty if it did not start.
    pub version: String,
}

/// The client of a real process.
struct Client {
    qemu: Qemu,
    lines: Vec<ClientLine>,
    /// Numbers of lines with events that nobody waited for yet.
    queue: Vec<usize>,
    gaps: Option<Gaps>,
    nbd: NbdClients,
    /// What the monitor makes of bytes that are sent as they are.
    wire: Parser,
}

/// The pauses of a racing client before it sends, one after the other.
#[derive(Debug)]
pub(super) struct Gaps {
    stream: crate::choice::Stream,
    longest: u32,
}

impl Gaps {
    /// Those of a seed.
    pub(super) fn new(seed: u64, longest: u32) -> Gaps {
        Gaps { stream: crate::choice::Stream::new(seed, 100), longest }
    }

    /// The next one, in microseconds. Most are short.
    pub(super) fn next(&mut self) -> u32 {
        let gap = self.stream.below(self.longest + 1);
        if self.stream.below(2) == 0 { 0 } else { gap }
    }
}

/// The command that runs a line of the human monitor.
pub(super) fn hmp(line: &std::sync::Arc<str>) -> Json {
    let arguments = Json::dict(vec![("command-line", Json::Str(line.clone()))]);
    Json::dict(vec![("execute", "human-monitor-command".into()), ("arguments", arguments)])
}

/// Why the steps were not all done.
enum Stop {
    Closed,
    Hangs(String),
    /// What the scenario waits for does not come, from a process that answers and has nothing to do.
    Unmet(String),
    /// It may come yet, from a process that answers and has a job that its speed makes sleep.
    Sleeps(String),
    Trouble(Trouble),
}

/// What a process from which nothing comes is at.
enum At {
    /// It does not answer, or has a job that is under way and does nothing.
    Work,
    /// It has jobs that are under way, and all of them sleep for their speed.
    Sleep,
    /// Nothing: its jobs, if there are any, wait for the client.
    Rest,
}

impl At {
    /// Why a step that waits in vain ends.
    fn stop(self, what: String) -> Stop {
        match self {
            At::Work => Stop::Hangs(what),
            At::Sleep => Stop::Sleeps(what),
            At::Rest => Stop::Unmet(what),
        }
    }
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Stop {
        Stop::Trouble(trouble)
    }
}

/// Carries out `plan` in `dir`, which holds nothing yet, under `guard`.
///
/// # Errors
/// If the images cannot be made or the process cannot be started, or if an image names what it may not.
pub fn carry(command: &[String], plan: &Plan, dir: &Path, pace: ClientPace, guard: &Guard) -> Result<Carried, Trouble> {
    files::make(plan, dir)?;
    let within = || if guard.confined { confine::images(dir) } else { Ok(()) };
    within()?;
    let args: Vec<&str> = plan.args.iter().map(|arg| &**arg).collect();
    let signals = plan.steps.iter().any(|step| matches!(step.kind, StepKind::Process(ProcessOp::Signal(_))));
    let command = if signals { hearing(command, dir)? } else { command.to_vec() };
    let qemu = match Qemu::start(&command, dir, &args, guard)? {
        Started::Runs(qemu) => *qemu,
        Started::Not(ending) => {
            let (stdout, stderr) = printed(dir);
            let lines = Vec::new();
            let (ending, version) = (Some(ending), String::new());
            return Ok(Carried { lines, answers: None, stdout, stderr, ending, stuck: None, sleeps: false, version });
        }
    };
    let version = qemu.version.clone();
    let gaps = match pace {
        ClientPace::Calm => None,
        ClientPace::Racing { seed, gap } => Some(Gaps::new(seed, gap)),
    };
    let mut client =
        Client { qemu, lines: Vec::new(), queue: Vec::new(), gaps, nbd: NbdClients::of(dir), wire: Parser::new() };
    let (mut stuck, mut closed, mut hangs, mut sleeps) = (None, false, false, false);
    for (number, step) in plan.steps.iter().enumerate() {
        if matches!(step.kind, StepKind::Qmp { .. } | StepKind::Hmp { .. } | StepKind::Send { .. }) {
            within()?;
        }
        match client.step(&step.kind, dir) {
            Ok(()) => {}
            Err(Stop::Trouble(trouble)) => return Err(trouble),
            Err(Stop::Closed) => {
                closed = true;
                if number + 1 < plan.steps.len() {
                    stuck = Some((number, "the connection was closed".to_owned()));
                }
                break;
            }
            Err(Stop::Hangs(what)) => {
                (stuck, hangs) = (Some((number, what)), true);
                break;
            }
            Err(Stop::Unmet(what)) => {
                stuck = Some((number, what));
                break;
            }
            Err(Stop::Sleeps(what)) => {
                (stuck, sleeps) = (Some((number, what)), true);
                break;
            }
        }
    }
    if stuck.is_none() && !closed {
        match client.rest() {
            Ok(()) => {}
            Err(Stop::Closed) => closed = true,
            Err(Stop::Trouble(trouble)) => return Err(trouble),
            Err(Stop::Hangs(_) | Stop::Unmet(_) | Stop::Sleeps(_)) => {}
        }
    }
    // `qemu-img` may read them next.
    within()?;
    let ending = (closed || hangs).then(|| client.qemu.end(hangs));
    let (stdout, stderr) = printed(dir);
    let answers = (pace == ClientPace::Calm).then_some(client.nbd.answers);
    Ok(Carried { lines: client.lines, answers, stdout, stderr, ending, stuck, sleeps, version })
}

/// The command with all signals let through. Those that end this command from outside are blocked here, as a thread of its own takes them
/// ([`super::scratch`]), and what is started inherits that.
fn hearing(command: &[String], dir: &Path) -> Result<Vec<String>, Trouble> {
    const UNBLOCK: &str =
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_SETMASK, []); os.execvp(sys.argv[1], sys.argv[1:])";
    let mut heard = ["python3", "-c", UNBLOCK].map(str::to_owned).to_vec();
    heard.extend_from_slice(command);
    if command.len() == 1 {
        heard.extend(super::qemu::alone(dir)?.map(str::to_owned));
    }
    Ok(heard)
}

/// What is said of scenarios that start or kill processes.
pub(super) const ONE_PROCESS: &str = "a scenario of more than one process cannot be carried out on a real QEMU";

impl Client {
    fn step(&mut self, kind: &StepKind, dir: &Path) -> Result<(), Stop> {
        match kind {
            StepKind::Qmp { command, .. } => {
                self.nbd.note(command, dir);
                self.command(command)
            }
            StepKind::Hmp { line, .. } => self.command(&hmp(line)),
            StepKind::Send { bytes, .. } => {
                let shown = Json::str(&String::from_utf8_lossy(bytes));
                let replies = self.wire.feed(bytes).len();
                self.send(&shown, bytes, replies)
            }
            StepKind::Event(pattern) => self.event(pattern),
            StepKind::Sleep(span) => {
                std::thread::sleep(Duration::from_nanos(span.as_nanos()));
                self.drain()
            }
            StepKind::File(op) => Ok(files::change(op, dir)?),
            StepKind::Process(ProcessOp::Signal(signal)) => {
                self.rest()?;
                Ok(self.qemu.signal(*signal)?)
            }
            StepKind::Process(_) => Err(Stop::Trouble(Trouble(ONE_PROCESS.to_owned()))),
            StepKind::Nbd(step) => {
                // What waits for an answer waits for the client alone.
                if self.gaps.is_none() && !matches!(step.action, NbdAction::Answer(_)) {
                    self.rest()?;
                }
                match self.nbd.step(step) {
                    Err(what) if what == NO_ANSWER => Err(self.at()?.stop(what)),
                    done => done.map_err(Stop::Hangs),
                }
            }
            // Where the simulated process stood says nothing of a real one.
            StepKind::Mark(_) | StepKind::At { .. } => Ok(()),
            StepKind::Idle | StepKind::Bitmap(_) | StepKind::Same(_) | StepKind::NoJobs | StepKind::NoEvents { .. } => {
                self.rest()
            }
        }
    }

    /// Takes in a message. Whether it was a reply.
    fn note(&mut self, message: &Json) -> bool {
        if let Some(name) = message.get("event").and_then(Json::as_str) {
            let data = message.get("data").cloned().unwrap_or_else(Json::empty);
            self.queue.push(self.lines.len());
            self.lines.push(ClientLine::Event { name: name.into(), data });
            return false;
        }
        self.lines.push(ClientLine::Reply(message.clone()));
        true
    }

    /// Reads until the process is at rest.
    fn rest(&mut self) -> Result<(), Stop> {
        loop {
            match self.qemu.until_rest()? {
                Received::Message(message) => _ = self.note(&message),
                Received::Nothing => return Ok(()),
                Received::End => return Err(Stop::Closed),
            }
        }
    }

    /// Reads what stands ready.
    fn drain(&mut self) -> Result<(), Stop> {
        while let Some(message) = self.qemu.ready()? {
            self.note(&message);
        }
        Ok(())
    }

    fn command(&mut self, command: &Json) -> Result<(), Stop> {
        self.send(command, canonical::to_string(command).as_bytes(), 1)
    }

    /// Sends bytes, which are told as `shown`, and reads so many replies.
    fn send(&mut self, shown: &Json, bytes: &[u8], replies: usize) -> Result<(), Stop> {
        match &mut self.gaps {
            None => self.rest()?,
            Some(gaps) => {
                let gap = gaps.next();
                if gap > 0 {
                    std::thread::sleep(Duration::from_micros(u64::from(gap)));
                }
                self.drain()?;
            }
        }
        self.lines.push(ClientLine::Command(shown.clone()));
        self.qemu.send_bytes(bytes)?;
        let mut left = replies;
        while left > 0 {
            match self.qemu.answer()? {
                Received::Message(message) => left -= usize::from(self.note(&message)),
                Received::Nothing => return Err(Stop::Hangs("no reply came".to_owned())),
                Received::End => return Err(Stop::Closed),
            }
        }
        Ok(())
    }

    fn event(&mut self, pattern: &EventPattern) -> Result<(), Stop> {
        loop {
            let fits = self.queue.iter().position(|number| match &self.lines[*number] {
                ClientLine::Event { name, data } => pattern.matches(name, data),
                _ => false,
            });
            if let Some(at) = fits {
                self.queue.remove(at);
                return Ok(());
            }
            match self.qemu.answer()? {
                Received::Message(message) => _ = self.note(&message),
                Received::Nothing => {
                    let what = format!("the event {pattern} did not come");
                    let lines = self.lines.len();
                    let at = self.at()?;
                    // What comes after so long a wait may be what is waited for.
                    if self.lines.len() == lines {
                        return Err(at.stop(what));
                    }
                }
                Received::End => return Err(Stop::Closed),
            }
        }
    }

    /// What a process from which nothing comes is at. A job that is ready, pending, concluded or paused waits for its client; one with a
    /// speed that is not busy sleeps until it may go on, which may be a day later. What is asked for that is no part of the trace.
    fn at(&mut self) -> Result<At, Stop> {
        let Some(jobs) = self.ask("query-jobs")? else { return Ok(At::Work) };
        let under_way = |job: &&Json| {
            let status = job.get("status").and_then(Json::as_str).and_then(JobStatus::from_name);
            matches!(status, Some(JobStatus::Running | JobStatus::Aborting))
        };
        let under_way = jobs.iter().filter(under_way).count();
        if under_way == 0 {
            return Ok(At::Rest);
        }
        let Some(jobs) = self.ask("query-block-jobs")? else { return Ok(At::Work) };
        let sleeps = |job: &&Json| {
            let speed = job.get("speed").and_then(Json::as_u64).unwrap_or(0);
            let running = job.get("status").and_then(Json::as_str) == Some(JobStatus::Running.name());
            running && speed > 0 && job.get("busy") == Some(&Json::Bool(false))
        };
        Ok(if jobs.iter().filter(sleeps).count() == under_way { At::Sleep } else { At::Work })
    }

    /// The list that a query replies with; `None`: no reply came.
    fn ask(&mut self, query: &str) -> Result<Option<Vec<Json>>, Stop> {
        self.qemu.send(&Json::dict(vec![("execute", query.into())]))?;
        loop {
            let message = match self.qemu.answer()? {
                Received::Message(message) => message,
                Received::Nothing => return Ok(None),
                Received::End => return Err(Stop::Closed),
            };
            if message.get("event").is_some() {
                self.note(&message);
                continue;
            }
            return Ok(Some(message.get("return").and_then(Json::as_list).unwrap_or_default().to_vec()));
        }
    }
}
