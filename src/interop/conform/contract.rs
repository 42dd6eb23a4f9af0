//! What a client can hold QEMU to by what it saw alone: those invariants that show in replies, events and images.
//!
//! The watchers of [`crate::check`] look into a world; a real process has none to look into. What is told here is sure: where a
//! trace leaves open whether something was broken, nothing is said.

use super::super::carry::Carried;
use super::super::qemu::Ending;
use super::commands::{actions, job_id, text};
use super::reports::{Report, Reports};
use crate::base::Json;
use crate::invariant::{Broken, Invariant};
use crate::job::status::{JobStatus, JobVerb, can_transition, verb_allowed};
use crate::trace::compare::ClientLine;
use std::collections::VecDeque;
use std::sync::Arc;

/// The first contract that QEMU broke in this run, its end included.
#[must_use]
pub fn broken(real: &Carried) -> Option<Broken> {
    let aborted = |how: String| {
        let said = real.stderr.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("warning: "));
        let said: String = said.map(|line| format!(": {}", line.trim())).collect();
        Some(Broken::new(Invariant::NoAbort, "the process", format!("{how}{said}")))
    };
    broken_in(&real.lines).or_else(|| match &real.ending {
        Some(Ending::Killed(signal)) => aborted(format!("it was ended by {signal}")),
        // One that did not start has said what it does not like.
        Some(Ending::Exited(code)) if !real.version.is_empty() && (*code != 0 || !told_to_quit(&real.lines)) => {
            aborted(format!("it left with code {code}, and was not told to"))
        }
        // Who waits for a request that the client has stopped waits for the client.
        Some(Ending::Hung) if !said(&real.lines, " \"break ") => {
            let what = real.stuck.as_ref().map_or("it does not end".to_owned(), |(_, what)| what.clone());
            Some(Broken::new(Invariant::ComesToRest, "the process", format!("it hangs: {what}")))
        }
        _ => None,
    })
}

fn told_to_quit(lines: &[ClientLine]) -> bool {
    let quits =
        |line: &ClientLine| matches!(line, ClientLine::Command(command) if text(command, "execute") == Some("quit"));
    said(lines, "quit") || lines.iter().any(quits)
}

/// Whether a command of the human monitor has these words.
fn said(lines: &[ClientLine], words: &str) -> bool {
    let line = |command: &Json| text(command.get("arguments")?, "command-line").map(|line| line.contains(words));
    lines.iter().any(|l| matches!(l, ClientLine::Command(command) if line(command) == Some(true)))
}

/// The first contract that a client's trace, whole from the start of the process, shows to be broken.
#[must_use]
pub fn broken_in(lines: &[ClientLine]) -> Option<Broken> {
    let mut seen = Seen::default();
    lines.iter().find_map(|line| match line {
        ClientLine::Command(command) => {
            seen.command(command);
            None
        }
        ClientLine::Reply(reply) => seen.reply(reply).err(),
        ClientLine::Event { name, data } => seen.event(name, data).err(),
    })
}

/// How a job ended, as its last event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `BLOCK_JOB_COMPLETED` without an error.
    Success,
    /// With one, or `BLOCK_JOB_CANCELLED`.
    Failure,
}

/// A job from `created` to `null`.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Its name, which another one may have later.
    pub id: Arc<str>,
    /// As the last event said.
    pub status: JobStatus,
    started: bool,
    /// Its end, once it was told.
    pub end: Option<End>,
    progress: u64,
}

/// A command without a reply yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// As it was sent.
    pub command: Json,
    /// How many jobs had been made when it was sent.
    jobs: usize,
    /// No job was there since it was sent.
    pub no_jobs: bool,
    /// The job that it is about, with the status that it has had since it was sent.
    verb: Option<(JobVerb, usize, JobStatus)>,
    /// Jobs that were gone when it was sent.
    gone: Vec<Arc<str>>,
}

/// What a client has seen so far.
#[derive(Default)]
struct Seen {
    jobs: Vec<Job>,
    groups: Vec<Vec<usize>>,
    /// Names given to jobs that have no last event of their own.
    plain: Vec<Arc<str>>,
    pending: VecDeque<Pending>,
    reports: Reports,
}

fn verb(command: &Json) -> Option<(JobVerb, &str)> {
    let name = text(command, "execute")?;
    let word = name.strip_prefix("block-job-").or_else(|| name.strip_prefix("job-"))?;
    let verb = JobVerb::ALL.into_iter().find(|verb| verb.name() == word)?;
    let arguments = command.get("arguments")?;
    Some((verb, text(arguments, "id").or_else(|| text(arguments, "device"))?))
}

fn job(id: &str) -> String {
    format!("job {id}")
}

impl Seen {
    /// The last job of that name.
    fn last(&self, id: &str) -> Option<usize> {
        self.jobs.iter().rposition(|job| *job.id == *id)
    }

    /// The job of that name that is not gone.
    fn live(&self, id: &str) -> Option<usize> {
        self.last(id).filter(|at| self.jobs[*at].status != JobStatus::Null)
    }

    fn command(&mut self, command: &Json) {
        let live = || self.jobs.iter().filter(|job| job.status != JobStatus::Null);
        let about = verb(command).and_then(|(verb, id)| self.live(id).map(|at| (verb, at, self.jobs[at].status)));
        let gone = self.jobs.iter().filter(|job| live().all(|other| other.id != job.id)).map(|job| job.id.clone());
        let pending = Pending {
            command: command.clone(),
            jobs: self.jobs.len(),
            no_jobs: live().next().is_none(),
            // What waits in front of it may change what it finds.
            verb: about.filter(|_| self.pending.is_empty()),
            gone: if self.pending.is_empty() { gone.collect() } else { Vec::new() },
        };
        self.pending.push_back(pending);
        if text(command, "execute") == Some("blockdev-create") {
            let id = command.get("arguments").and_then(|arguments| text(arguments, "job-id"));
            self.plain.extend(id.map(Arc::from));
        }
    }

    fn reply(&mut self, reply: &Json) -> Result<(), Broken> {
        let Some(pending) = self.pending.pop_front() else { return Ok(()) };
        let returned = reply.get("return");
        self.verb_taken(&pending, reply)?;
        let name = text(&pending.command, "execute").unwrap_or_default();
        if let Some(returned) = returned {
            match name {
                "transaction" => self.group(&pending)?,
                "query-jobs" | "query-block-jobs" => self.told_jobs(&pending, returned)?,
                _ => {}
            }
        }
        let report = Report::of(name, returned);
        self.reports.reply(&pending, returned.is_some(), report, &self.jobs)
    }

    /// A verb is taken or refused as the status says that the job had all the time.
    fn verb_taken(&self, pending: &Pending, reply: &Json) -> Result<(), Broken> {
        let Some((verb, at, status)) = pending.verb else { return Ok(()) };
        if reply.get("return").is_some() && !verb_allowed(verb, status) {
            let reason = format!("verb '{}' was taken in status '{status}'", verb.name());
            return Err(Broken::new(Invariant::JobTables, job(&self.jobs[at].id), reason));
        }
        let refused = format!("in state '{status}' cannot accept command verb '{}'", verb.name());
        let said = reply.get("error").and_then(|error| text(error, "desc")).unwrap_or_default();
        if said.contains(&refused) && verb_allowed(verb, status) {
            let reason = format!("verb '{}' was refused in status '{status}'", verb.name());
            return Err(Broken::new(Invariant::JobTables, job(&self.jobs[at].id), reason));
        }
        Ok(())
    }

    /// A transaction has succeeded: its jobs are those that came since it was sent, if they are a group.
    fn group(&mut self, pending: &Pending) -> Result<(), Broken> {
        let properties = pending.command.get("arguments").and_then(|arguments| arguments.get("properties"));
        if properties.and_then(|properties| text(properties, "completion-mode")) != Some("grouped") {
            return Ok(());
        }
        let ids = actions(&pending.command).into_iter().filter(|(name, _)| name.ends_with("-backup"));
        let members = ids.filter_map(|(_, data)| self.last(job_id(data)?).filter(|at| *at >= pending.jobs));
        let members: Vec<usize> = members.collect();
        self.groups.push(members);
        self.groups_agree()
    }

    /// The jobs of a group all succeed or all fail.
    fn groups_agree(&self) -> Result<(), Broken> {
        for group in &self.groups {
            let of = |end| group.iter().map(|at| &self.jobs[*at]).find(|job| job.end == Some(end));
            if let (Some(good), Some(bad)) = (of(End::Success), of(End::Failure)) {
                let reason = format!("it committed, though job {} of its group aborted", bad.id);
                return Err(Broken::new(Invariant::GroupCompletion, job(&good.id), reason));
            }
        }
        Ok(())
    }

    /// `query-jobs` and `query-block-jobs`: nobody is told of who was gone already, and progress is that of a job that goes on.
    fn told_jobs(&mut self, pending: &Pending, returned: &Json) -> Result<(), Broken> {
        for told in returned.as_list().unwrap_or_default() {
            let Some(id) = text(told, "id").or_else(|| text(told, "device")) else { continue };
            if pending.gone.iter().any(|gone| **gone == *id) && self.last(id).is_some_and(|at| at < pending.jobs) {
                return Err(Broken::new(Invariant::NothingLeft, job(id), "it is listed after it was 'null'"));
            }
            let number = |a: &str, b: &str| told.get(a).or_else(|| told.get(b)).and_then(Json::as_u64);
            let Some(at) = self.last(id) else { continue };
            let (Some(offset), Some(len)) = (number("current-progress", "offset"), number("total-progress", "len"))
            else {
                continue;
            };
            self.progress(at, offset, len)?;
        }
        Ok(())
    }

    fn progress(&mut self, at: usize, offset: u64, len: u64) -> Result<(), Broken> {
        let was = std::mem::replace(&mut self.jobs[at].progress, offset);
        let reason = if offset > len {
            format!("its offset {offset} is beyond its length {len}")
        } else if offset < was {
            format!("its offset went back from {was} to {offset}")
        } else {
            return Ok(());
        };
        Err(Broken::new(Invariant::JobEvents, job(&self.jobs[at].id), reason))
    }

    fn event(&mut self, name: &str, data: &Json) -> Result<(), Broken> {
        match name {
            "JOB_STATUS_CHANGE" => {
                let (Some(id), Some(to)) = (text(data, "id"), text(data, "status").and_then(JobStatus::from_name))
                else {
                    return Ok(());
                };
                self.status(id, to)
            }
            "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED" => self.ended(name, data),
            _ => Ok(()),
        }
    }

    fn status(&mut self, id: &str, to: JobStatus) -> Result<(), Broken> {
        let told = |invariant, reason: String| Err(Broken::new(invariant, job(id), reason));
        for pending in &mut self.pending {
            pending.no_jobs = false;
        }
        if to == JobStatus::Created {
            if self.live(id).is_some() {
                return told(Invariant::JobEvents, "it was created while another one of its name was there".to_owned());
            }
            let id = Arc::from(id);
            self.jobs.push(Job { id, status: to, started: false, end: None, progress: 0 });
            return Ok(());
        }
        let Some(at) = self.live(id) else {
            return told(
                Invariant::JobEvents,
                format!("it became '{to}' after it was 'null', or before it was created"),
            );
        };
        for pending in &mut self.pending {
            pending.verb = pending.verb.filter(|(_, of, _)| *of != at);
        }
        let plain = self.plain.iter().any(|plain| **plain == *id);
        let job = &mut self.jobs[at];
        let from = std::mem::replace(&mut job.status, to);
        job.started |= to == JobStatus::Running;
        if !can_transition(from, to) {
            return told(Invariant::JobTables, format!("it went from '{from}' to '{to}'"));
        }
        if to == JobStatus::Concluded && job.started && !plain && job.end.is_none() {
            return told(
                Invariant::JobEvents,
                "it was started and concluded without COMPLETED or CANCELLED".to_owned(),
            );
        }
        Ok(())
    }

    /// `BLOCK_JOB_COMPLETED` or `BLOCK_JOB_CANCELLED`
    fn ended(&mut self, name: &str, data: &Json) -> Result<(), Broken> {
        let Some(id) = text(data, "device") else { return Ok(()) };
        let told = |reason: String| Err(Broken::new(Invariant::JobEvents, job(id), reason));
        let Some(at) = self.live(id) else {
            return told(format!("{name} was sent after it was 'null', or before it was created"));
        };
        let success = name == "BLOCK_JOB_COMPLETED" && data.get("error").is_none();
        let job = &mut self.jobs[at];
        if !job.started {
            return told(format!("{name} was sent though it was never started"));
        }
        if job.end.replace(if success { End::Success } else { End::Failure }).is_some() {
            return told(format!("{name} was sent though it had ended already"));
        }
        let number = |key: &str| data.get(key).and_then(Json::as_u64);
        if let (Some(offset), Some(len)) = (number("offset"), number("len")) {
            self.progress(at, offset, len)?;
            if success && offset != len {
                return told(format!("it succeeded with offset {offset} short of len {len}"));
            }
        }
        self.groups_agree()
    }
}
