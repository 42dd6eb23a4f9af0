//! The client: carries out a scenario's steps, one after the other, over the simulated connection.
//!
//! What the process puts out stands in a pipe until the client reads it. While it waits for a reply or an event it reads record
//! after record, up to the one it waits for. Before it sends, a calm client lets the process come to rest and reads all there is;
//! whether it sends earlier, and how much it then leaves unread, are choices.

use super::look;
use super::nbd::NbdClients;
use super::outcome::{At, Outcome};
use super::setup::{file_cost, file_op};
use super::{MAX_CLUSTERS, MAX_STEPS, MAX_TIME};
use crate::base::time::{Instant, Rebase, Shift, Span};
use crate::base::{Json, Kept};
use crate::choice::{ChoicePoint, Choose, MODES, Subject, Who};
use crate::invariant::Broken;
use crate::scenario::nbd::{NbdAction, NbdStep};
use crate::scenario::pattern;
use crate::scenario::plan::{EventPattern, Expect, Fails, Plan, PlannedFile, PlannedStep, StepKind};
use crate::trace::compare::same_text;
use crate::trace::{Later, Level, Note, RecordKind};
use crate::world::World;
use crate::world::out::{Event, Output};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// How long, in virtual time, a calm client waits for a process that never comes to rest; then it sends its next command all the same.
pub const PATIENCE: Span = Span::from_millis(250);

/// What the client can do.
#[derive(Debug)]
pub(super) enum Act {
    /// It did something.
    Acted,
    /// It waits for the process.
    Waits,
    /// The world is another process now.
    Restarted,
    /// The scenario is over.
    Done(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// The step has not begun.
    Before,
    /// A command was sent.
    Reply,
    /// Until then.
    Sleep(Instant),
}

impl Rebase for State {
    fn has_instants(&self) -> bool {
        matches!(self, State::Sleep(_))
    }

    fn rebase(&mut self, shift: Shift) {
        match self {
            State::Before | State::Reply => {}
            State::Sleep(until) => *until = shift.of(*until).max(shift.to),
        }
    }
}

/// The steps of a scenario. They are the same all through a run, so they add nothing to the hash of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Steps(Arc<[PlannedStep]>);

impl Hash for Steps {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.len().hash(state);
    }
}

impl std::ops::Deref for Steps {
    type Target = [PlannedStep];

    fn deref(&self) -> &[PlannedStep] {
        &self.0
    }
}

/// The client's side of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    steps: Steps,
    /// Number of the step that is under way.
    pub step: usize,
    state: State,
    /// Its number at the monitor.
    id: u32,
    /// Events that were read and not waited for, oldest first.
    queue: Kept<VecDeque<Event>>,
    /// How many of them do not fit what the client waits for.
    seen: usize,
    /// What the process printed since the last command was sent.
    stdout: String,
    /// How many commands were sent.
    sent: usize,
    /// How many outputs of the process were taken in.
    taken: usize,
    /// The last of them.
    last: Option<Kept<Json>>,
    /// Since when it would have liked to send.
    ready_since: Option<Instant>,
    max_steps: u64,
    max_time: Span,
    /// Clusters that steps which change files may still touch.
    clusters: u64,
    /// The step before which exploring starts.
    start: usize,
    /// Whether it has started.
    started: bool,
    /// Frames run when the last reply was read.
    replied: u64,
    /// The next command is sent whatever the process does (`at`).
    forced: bool,
    /// Requests that the guest does not wait for must succeed.
    strict: bool,
    /// What qemu-io said of one that did not.
    failed: Option<Arc<str>>,
    /// Clients of the NBD server.
    nbd: NbdClients,
    /// One of them has connected and negotiates.
    nbd_connects: bool,
}

crate::base::time::rebase!(Client {
    moves: state, ready_since;
    // Without timers the clock stands still, so how long the client has waited is what it has waited for timers. What a scenario says of times
    // is the same all through a run.
    stays: steps;
    rest: step, id, queue, seen, stdout, sent, taken, last, max_steps, max_time, clusters, start, started, replied,
        forced, strict, failed, nbd, nbd_connects
});

/// The mark where exploring starts; a scenario without it is explored from its first step.
pub const START: &str = "start";

impl Client {
    /// A client before its first step.
    #[must_use]
    pub fn new(plan: &Plan) -> Client {
        Client {
            steps: Steps(plan.steps.clone()),
            step: 0,
            state: State::Before,
            id: 0,
            queue: Kept::new(VecDeque::new()),
            seen: 0,
            stdout: String::new(),
            sent: 0,
            taken: 0,
            last: None,
            ready_since: None,
            max_steps: plan.limits.steps.unwrap_or(MAX_STEPS),
            max_time: plan.limits.time.unwrap_or(MAX_TIME),
            clusters: MAX_CLUSTERS,
            start: plan.steps.iter().position(|s| is_mark(&s.kind, START)).unwrap_or(0),
            started: false,
            replied: 0,
            forced: false,
            strict: look::all_must_succeed(&plan.steps),
            failed: None,
            nbd: NbdClients::default(),
            nbd_connects: false,
        }
    }

    /// Connects, with the negotiation behind it.
    pub fn connect(&mut self, world: &mut World) {
        self.id = world.connect(true);
    }

    /// How many commands were sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// How many outputs of the process were taken in, text on its console included.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// The command that was sent last.
    #[must_use]
    pub fn last_command(&self) -> Option<&Json> {
        self.last.as_deref()
    }

    /// Whether the step that comes next is the mark of that name.
    #[must_use]
    pub fn at_mark(&self, name: &str) -> bool {
        self.steps.get(self.step).is_some_and(|step| is_mark(&step.kind, name))
    }

    /// Whether the client stands where exploring starts, and has not gone on yet.
    #[must_use]
    pub fn at_start(&self) -> bool {
        !self.started && self.step == self.start
    }

    /// Asks, where exploring starts, what is to be left open.
    pub(super) fn start(&mut self, world: &mut World, choose: &mut dyn Choose) {
        self.started = true;
        if choose.wants_mode() {
            world.set_mode(choose.choose(ChoicePoint::Mode, MODES));
        }
        if choose.wants_bh_order() {
            world.aio.bh_order = choose.choose(ChoicePoint::BhOrder, 2) == 1;
        }
    }

    /// Does what can be done without the process running.
    pub(super) fn act(&mut self, world: &mut World, choose: &mut dyn Choose) -> Act {
        self.nbd.pump(world);
        if self.only_waits(world) {
            return Act::Waits;
        }
        if let Some(what) = self.failed.take() {
            let reason =
                format!("a request that the guest had sent failed: {what} (`fails: any` on its step allows that)");
            return Act::Done(Outcome::Failed { at: self.at(), reason });
        }
        let steps = self.steps.0.clone();
        let Some(step) = steps.get(self.step) else { return self.last_words(world, choose) };
        match (&self.state, &step.kind) {
            (State::Reply, kind) => self.read_reply(world, kind),
            (State::Sleep(until), _) => self.sleep(world, choose, *until),
            (State::Before, StepKind::Qmp { command, .. }) => self.send(world, choose, || command.clone()),
            (State::Before, StepKind::Hmp { line, .. }) => self.send(world, choose, || {
                let arguments = Json::dict(vec![("command-line", Json::Str(line.clone()))]);
                Json::dict(vec![("execute", "human-monitor-command".into()), ("arguments", arguments)])
            }),
            (State::Before, StepKind::Event(pattern)) => self.wait_event(world, pattern),
            (State::Before, StepKind::Sleep(span)) => {
                self.state = State::Sleep(world.now + *span);
                Act::Acted
            }
            (State::Before, StepKind::At { frames, time }) => {
                if world.steps - self.replied < *frames {
                    return Act::Waits;
                }
                world.now = world.now.max(*time);
                if let Some(outcome) = self.over_limit(world) {
                    return Act::Done(outcome);
                }
                self.replied = 0;
                let act = self.next();
                self.forced = true;
                act
            }
            (State::Before, StepKind::File(op)) => {
                if let Some(outcome) = self.spend(file_cost(world, op)) {
                    return Act::Done(outcome);
                }
                let done = file_op(world, op);
                self.checked(done)
            }
            (State::Before, StepKind::Nbd(step)) => self.nbd_step(world, choose, step),
            (State::Before, StepKind::Mark(name)) => {
                self.note(world, "mark", name.clone());
                self.next()
            }
            (State::Before, StepKind::Process(op)) => self.process(world, choose, op),
            (State::Before, looks) => {
                if !self.at_rest(world) {
                    self.read_all(world);
                    return Act::Waits;
                }
                let done = self.look(world, looks);
                self.checked(done)
            }
        }
    }

    /// Whether it waits for the process to say something, and nothing new was said: most steps of a run find it so.
    fn only_waits(&self, world: &World) -> bool {
        let all_seen = match self.state {
            State::Reply => true,
            State::Before => {
                let event = matches!(self.steps.get(self.step), Some(PlannedStep { kind: StepKind::Event(_), .. }));
                event && self.seen == self.queue.len()
            }
            State::Sleep(_) => false,
        };
        all_seen && world.out.is_empty()
    }

    pub(super) fn next(&mut self) -> Act {
        self.step += 1;
        self.seen = 0;
        self.state = State::Before;
        self.ready_since = None;
        Act::Acted
    }

    fn checked(&mut self, result: Result<(), String>) -> Act {
        match result {
            Ok(()) => self.next(),
            Err(reason) => Act::Done(Outcome::Failed { at: self.at(), reason }),
        }
    }

    /// After the last step: what is still to come is read, so that the trace has it.
    fn last_words(&mut self, world: &mut World, choose: &mut dyn Choose) -> Act {
        self.read_all(world);
        let over = self.at_rest(world) && !self.lets_it_sleep(world, choose);
        if over { Act::Done(Outcome::Passed) } else { Act::Waits }
    }

    /// Whether the process is at rest, or the client's patience at its end.
    fn at_rest(&mut self, world: &World) -> bool {
        let since = *self.ready_since.get_or_insert(world.now);
        world.at_rest() || (world.in_main_loop() && world.now - since > PATIENCE)
    }

    /// Whether the client waits for the next timer of a process that only sleeps, as when a job has used up its rate.
    fn lets_it_sleep(&mut self, world: &World, choose: &mut dyn Choose) -> bool {
        let waits =
            world.at_rest() && world.next_deadline().is_some() && choose.choose(ChoicePoint::ClientWait, 2) == 1;
        if waits {
            // Its patience begins anew when the timer has gone off.
            self.ready_since = world.next_deadline();
        }
        waits
    }

    fn send(&mut self, world: &mut World, choose: &mut dyn Choose, command: impl FnOnce() -> Json) -> Act {
        if world.monitor.clients.is_empty() {
            let reason = "there is no process that could be asked: `start` starts one".to_owned();
            return Act::Done(Outcome::Failed { at: self.at(), reason });
        }
        let step = u32::try_from(self.step).unwrap_or(u32::MAX);
        let about = &mut |_| Who::Step(step);
        let forced = std::mem::take(&mut self.forced);
        let mut soon = false;
        if !forced && !self.at_rest(world) {
            let among = if world.monitor.just_looked() { 3 } else { 2 };
            match if world.in_main_loop() { self.decide(choose, among) } else { 0 } {
                0 => return Act::Waits,
                pick => soon = pick == 2,
            }
        }
        if !forced && self.lets_it_sleep(world, choose) {
            return Act::Waits;
        }
        let unread = u32::try_from(world.out.len()).unwrap_or(u32::MAX);
        let left =
            if unread == 0 || forced { 0 } else { choose.choose_about(ChoicePoint::ClientRead, unread + 1, about) };
        while world.out.len() > left as usize {
            self.read_one(world);
        }
        let command = command();
        note_sent(world, &command);
        self.stdout.clear();
        self.sent += 1;
        self.last = Some(Kept::new(command.clone()));
        if soon {
            world.submit_soon(self.id, command);
        } else {
            world.submit(self.id, command);
        }
        self.state = State::Reply;
        Act::Acted
    }

    /// Whether a signal strikes now: as a command would be sent, when the process is at rest, or where a choice says so.
    pub(super) fn may_strike(&mut self, world: &mut World, choose: &mut dyn Choose) -> bool {
        if std::mem::take(&mut self.forced) {
            return true;
        }
        let rests = self.at_rest(world);
        let strikes = rests || (world.in_main_loop() && self.decide(choose, 2) == 1);
        if !strikes {
            return false;
        }
        !self.lets_it_sleep(world, choose)
    }

    /// Events of a process that is gone do not matter any more.
    pub(super) fn forget_events(&mut self) {
        self.queue.change().clear();
        self.seen = 0;
        self.stdout.clear();
    }

    /// A step of an NBD client: it sends when the process is at rest, or, by choice, earlier; servers act also while it polls.
    fn nbd_step(&mut self, world: &mut World, choose: &mut dyn Choose, step: &NbdStep) -> Act {
        let name = &step.client;
        if let NbdAction::Answer(expected) = &step.action {
            let answered = self.nbd.answered(name, expected);
            if let Ok(Some(text)) = &answered {
                self.note(world, "nbd", format!("{name}: {text}").into());
            }
            return if answered == Ok(None) { Act::Waits } else { self.checked(answered.map(drop)) };
        }
        let serves = step.action.is_servers();
        let (vain, polls) = (serves && world.polls_in_vain(), !serves && !world.in_main_loop());
        if !vain && !self.nbd_connects && !self.at_rest(world) && (polls || self.decide(choose, 2) == 0) {
            return Act::Waits;
        }
        let done = match &step.action {
            NbdAction::Connect { export, replies, contexts, refused, silent } => {
                if !self.nbd_connects {
                    let connected = self.nbd.connect(world, name, export, (*replies, contexts), *silent);
                    self.nbd_connects = connected.is_ok() && !*silent;
                    return if self.nbd_connects { Act::Acted } else { self.checked(connected) };
                }
                let negotiated = match self.nbd.negotiated(name) {
                    Ok(None) => return Act::Waits,
                    Ok(Some(())) => Ok(()),
                    Err(why) => Err(why),
                };
                self.nbd_connects = false;
                match (refused, negotiated) {
                    (None, negotiated) => negotiated,
                    (Some(_), Ok(())) => Err("the server did not refuse the client".to_owned()),
                    (Some(wanted), Err(why)) if same_text(wanted, &why) => Ok(()),
                    (Some(wanted), Err(why)) => Err(format!("expected to be refused with {wanted:?}, got {why:?}")),
                }
            }
            NbdAction::Ask { kind, offset, length, pattern, flags } => {
                self.nbd.ask(world, name, (*kind, *flags), (*offset, *length), *pattern)
            }
            NbdAction::Disconnect | NbdAction::Gone => {
                self.nbd.leave(world, name, step.action == NbdAction::Disconnect)
            }
            NbdAction::Stall(on) => self.nbd.stall(name, *on),
            NbdAction::Answer(_) => Ok(()),
            action @ (NbdAction::Serve(_) | NbdAction::Server(_)) => super::nbd::serve(world, name, action),
        };
        self.checked(done)
    }

    /// Whether a command was sent whose reply has not come.
    #[must_use]
    pub fn waits_for_reply(&self) -> bool {
        self.state == State::Reply
    }

    /// Whether the client could ask for a choice now: true where in doubt.
    pub(super) fn may_choose(&self, world: &World) -> bool {
        let sends = match self.steps.get(self.step).map(|s| &s.kind) {
            Some(StepKind::Qmp { .. } | StepKind::Hmp { .. } | StepKind::Process(_)) => true,
            Some(StepKind::Nbd(step)) => !matches!(step.action, NbdAction::Answer(_)),
            _ => false,
        };
        let anywhere =
            matches!(self.steps.get(self.step).map(|s| &s.kind), Some(StepKind::Nbd(s)) if s.action.is_servers());
        let quiet = world.at_rest() && world.out.is_empty() && world.next_deadline().is_none();
        match self.state {
            State::Reply => false,
            State::Before if world.at_rest() && world.next_deadline().is_some() => true,
            State::Before => sends && (anywhere || world.in_main_loop()) && !quiet,
            State::Sleep(_) => world.in_main_loop() && !world.at_rest(),
        }
    }

    /// How many of the steps that were made still count, if they are forgotten up to now.
    pub(super) fn rebase_steps(&mut self, steps: u64) -> u64 {
        match std::mem::take(&mut self.replied) {
            0 => 0,
            replied => steps - replied,
        }
    }

    /// A time of day that leaves room on both sides: for what began before, and up to the end of the run's time.
    pub(super) fn noon(&self) -> Instant {
        Instant::START + self.max_time / 2
    }

    /// Whether the client goes on now (1) although the process is not at rest, or did so just before the dispatcher, having
    /// written its last reply, looked for another request (2).
    fn decide(&self, choose: &mut dyn Choose, among: u32) -> u32 {
        let left = u32::try_from(self.steps.len() - self.step).unwrap_or(u32::MAX);
        let of = |i| match i {
            0 => Subject { task: Subject::PROCESS, left: 1 },
            _ => Subject { task: Subject::CLIENT, left },
        };
        let step = u32::try_from(self.step).unwrap_or(u32::MAX);
        choose.choose_of(ChoicePoint::ClientSend, among, &of, &mut |_| Who::Step(step))
    }

    /// Reads the next record. A reply is given back, an event goes to the queue.
    fn read_one(&mut self, world: &mut World) -> Option<Json> {
        let output = world.out.pop_front()?;
        self.taken += 1;
        note_read(world, &output);
        match output {
            Output::Event { event, .. } => {
                self.queue.change().push_back(event);
                None
            }
            Output::Reply { reply, .. } => Some(reply),
            Output::Stdout(text) | Output::Stderr(text) => {
                if self.strict && !self.waits_for_hmp() {
                    self.failed = crate::block::qemu_io_text::failure(&text).map(Into::into);
                }
                self.stdout.push_str(&text);
                None
            }
            Output::Report(text) => {
                self.stdout.push_str(&format!("{text}\n"));
                None
            }
        }
    }

    /// Whether it waits for the reply of a command of the human monitor, which may itself print what is read.
    fn waits_for_hmp(&self) -> bool {
        let hmp = matches!(self.steps.get(self.step), Some(PlannedStep { kind: StepKind::Hmp { .. }, .. }));
        hmp && self.state == State::Reply
    }

    pub(super) fn read_all(&mut self, world: &mut World) {
        while !world.out.is_empty() {
            self.read_one(world);
        }
    }

    fn read_reply(&mut self, world: &mut World, kind: &StepKind) -> Act {
        while !world.out.is_empty() {
            if let Some(reply) = self.read_one(world) {
                // Only where it matters: else two states would differ by it alone.
                if matches!(
                    self.steps.get(self.step + 1).map(|s| &s.kind),
                    Some(StepKind::At { .. } | StepKind::File(_))
                ) {
                    self.replied = world.steps;
                }
                let done = self.check_reply(kind, &reply);
                return self.checked(done);
            }
        }
        Act::Waits
    }

    fn check_reply(&self, kind: &StepKind, reply: &Json) -> Result<(), String> {
        match kind {
            StepKind::Qmp { expect: Expect::Any, .. } => Ok(()),
            StepKind::Qmp { expect: Expect::Return(wanted), .. } => match (reply.get("return"), wanted) {
                (None, _) => Err(format!("expected a return value, got {}", shown(reply))),
                (Some(got), Some(wanted)) => pattern::check(wanted, got).map_err(|m| m.to_string()),
                (Some(_), None) => Ok(()),
            },
            StepKind::Qmp { expect: Expect::Error { class, desc }, .. } => {
                let Some(error) = reply.get("error") else {
                    return Err(format!("expected an error, got {}", shown(reply)));
                };
                for (key, wanted) in [("class", class), ("desc", desc)] {
                    let got = error.get(key).and_then(Json::as_str).unwrap_or_default();
                    if let Some(wanted) = wanted
                        && !same_text(wanted, got)
                    {
                        return Err(format!("error {key}: expected {wanted:?}, got {got:?}"));
                    }
                }
                Ok(())
            }
            StepKind::Hmp { line, output, returns, fails } => {
                let Some(got) = reply.get("return").and_then(Json::as_str) else {
                    return Err(format!("expected a return value, got {}", shown(reply)));
                };
                if let Some(wanted) = returns
                    && !same_text(wanted, got)
                {
                    return Err(format!("returned text: expected {wanted:?}, got {got:?}"));
                }
                match (fails, look::hmp_failure(line, got, &self.stdout)) {
                    (Fails::No, Some(why)) => {
                        return Err(format!(
                            "the command failed: {why} (`fails: true` or `output:` says that this is expected)"
                        ));
                    }
                    (Fails::Yes, None) => {
                        return Err(format!("expected the command to fail, and it printed {:?}", self.stdout));
                    }
                    _ => {}
                }
                match output {
                    Some(part) if !self.stdout.contains(&**part) && !got.contains(&**part) => {
                        Err(format!("expected {part:?} in what was printed, got {:?}", self.stdout))
                    }
                    _ => Ok(()),
                }
            }
            other => unreachable!("{other:?} sends no command"),
        }
    }

    fn wait_event(&mut self, world: &mut World, pattern: &EventPattern) -> Act {
        loop {
            while let Some(event) = self.queue.get(self.seen) {
                if *event.name() == *pattern.name && pattern.matches(event.name(), &event.data()) {
                    self.queue.change().remove(self.seen);
                    return self.next();
                }
                self.seen += 1;
            }
            if world.out.is_empty() {
                return Act::Waits;
            }
            self.read_one(world);
        }
    }

    fn sleep(&mut self, world: &mut World, choose: &mut dyn Choose, until: Instant) -> Act {
        // Who sleeps reads nothing; it may find part of what one turn of the process said when it wakes up. Where times are not open, the
        // end is so far from all that is said that it finds all of it.
        if !world.aio.order {
            self.read_all(world);
        }
        if world.now >= until {
            return self.over_limit(world).map_or_else(|| self.next(), Act::Done);
        }
        let first = world.next_deadline().is_none_or(|due| due > until);
        // Where times are not open, a sleep may end whenever no timer comes first.
        let early = world.aio.order && first && world.in_main_loop();
        if (world.at_rest() && first) || (early && self.decide(choose, 2) == 1) {
            world.now = until;
            return self.over_limit(world).map_or_else(|| self.next(), Act::Done);
        }
        Act::Waits
    }

    /// The steps that only look, with the process at rest.
    fn look(&mut self, world: &mut World, kind: &StepKind) -> Result<(), String> {
        self.read_all(world);
        match kind {
            StepKind::Idle => Ok(()),
            StepKind::Bitmap(check) => look::bitmap(world, check),
            StepKind::Same(images) => look::same(world, images),
            StepKind::NoJobs => match world.jobs.list.first() {
                None => Ok(()),
                Some(job) => {
                    let j = &world.jobs[*job];
                    Err(format!("expected no job, found '{}' in state '{}'", j.id, j.status.name()))
                }
            },
            StepKind::NoEvents { except } => {
                match self.queue.iter().find(|e| !except.iter().any(|name| **name == *e.name())) {
                    None => Ok(()),
                    Some(e) => Err(format!("expected no further event, found {} {}", e.name(), shown(&e.data()))),
                }
            }
            other => unreachable!("{other:?} does more than look"),
        }
    }

    /// A step changes so many clusters of an image: the outcome, if all together are too many.
    pub(super) fn spend(&mut self, clusters: u64) -> Option<Outcome> {
        match self.clusters.checked_sub(clusters) {
            Some(left) => {
                self.clusters = left;
                None
            }
            None => {
                let what = format!("more than {MAX_CLUSTERS} clusters changed by steps that change files");
                Some(Outcome::Limit { at: self.at(), what, waits: Vec::new() })
            }
        }
    }

    pub(super) fn note(&self, world: &mut World, what: &'static str, text: Arc<str>) {
        note(world, what, text);
    }

    pub(super) fn at(&self) -> Option<At> {
        let step = self.steps.get(self.step)?;
        let number = u32::try_from(self.step).unwrap_or(u32::MAX);
        Some(At { step: number, pos: step.pos.clone(), calls: step.calls.clone() })
    }

    /// Nothing can run: either the client can act, or nobody can.
    pub(super) fn idle(&mut self, world: &mut World) -> Option<Outcome> {
        let waits_for_event = self.state == State::Before
            && match self.steps.get(self.step).map(|s| &s.kind) {
                Some(StepKind::Event(_) | StepKind::At { .. }) => true,
                Some(StepKind::Nbd(step)) => self.nbd_connects || matches!(step.action, NbdAction::Answer(_)),
                _ => false,
            };
        if waits_for_event || self.state == State::Reply {
            return Some(self.stuck(world));
        }
        None
    }

    /// The outcome of a run that cannot go on.
    pub(super) fn stuck(&self, world: &World) -> Outcome {
        let mut waits = self.waits();
        if waits.is_empty() {
            waits.push("client: waits for the process".to_owned());
        }
        waits.extend(world.waiting());
        Outcome::Stuck { at: self.at(), waits }
    }

    /// What the client waits for, and which event came instead.
    fn waits(&self) -> Vec<String> {
        match (&self.state, self.steps.get(self.step).map(|s| &s.kind)) {
            (State::Reply, _) => vec!["client: waits for a reply".to_owned()],
            (State::Before, Some(StepKind::Event(pattern))) => {
                let waits = format!("client: waits for the event {pattern}");
                std::iter::once(waits).chain(look::near_miss(pattern, self.queue.iter())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The outcome of a run that met a limit.
    pub(super) fn over_limit(&self, world: &World) -> Option<Outcome> {
        let what = if world.steps > self.max_steps {
            format!("more than {} steps", self.max_steps)
        } else if world.now - Instant::START > self.max_time {
            format!("more than {} ms of virtual time", self.max_time.as_millis())
        } else if world.trace.overflowed() {
            format!("more than {} records in the trace", world.trace.len())
        } else {
            return None;
        };
        // A job that is ready sleeps and wakes for ever: a client that waits for its end meets the limit, and is never stuck.
        let mut waits = self.waits();
        waits.extend(world.waiting());
        Some(Outcome::Limit { at: self.at(), what, waits })
    }

    /// The outcome of a broken invariant.
    pub(super) fn violated(&self, world: &World, broken: Broken) -> Outcome {
        let Broken { invariant, subject, reason } = broken;
        let (step, time) = (world.steps, world.now);
        Outcome::Violated {
            at: self.at(),
            invariant: invariant.name(),
            subject: subject.into(),
            reason: reason.into(),
            step,
            time,
        }
    }

    /// The outcome of a panic.
    pub(super) fn crashed(&self, message: &str) -> Outcome {
        Outcome::Crash { at: self.at(), message: message.to_owned() }
    }

    /// The outcome of a file operation that failed before the start.
    pub(super) fn failed_file(&self, file: &PlannedFile, reason: String) -> Outcome {
        let at = At { step: 0, pos: file.pos.clone(), calls: file.calls.clone() };
        Outcome::Failed { at: Some(at), reason }
    }
}

/// What the client does next comes of what it has just read.
fn note(world: &mut World, what: &'static str, text: Arc<str>) {
    world.trace.set_cause(None);
    world.trace.emit(Level::Job, world.now, || RecordKind::Note(Note { what, text }));
}

/// What the trace says when a client reads something.
pub fn note_read(world: &mut World, output: &Output) {
    match output {
        Output::Event { event, cause, .. } => {
            world.trace.set_cause(*cause);
            let kind = || RecordKind::Event { name: event.name(), data: event.data() };
            world.trace.emit(Level::Client, world.now, kind);
            was_read(world);
        }
        Output::Reply { reply, .. } => {
            world.trace.set_cause(world.trace.kept_cause(Later::Command));
            world.trace.emit(Level::Client, world.now, || RecordKind::Reply(reply.clone()));
            was_read(world);
        }
        Output::Stdout(text) | Output::Stderr(text) | Output::Report(text) => {
            note(world, "console", text.trim_end().into())
        }
    }
}

/// What the trace says when a client sends a command.
pub fn note_sent(world: &mut World, command: &Json) {
    world.trace.set_cause(world.trace.kept_cause(Later::Read));
    world.trace.emit(Level::Client, world.now, || RecordKind::Command(command.clone()));
}

fn was_read(world: &mut World) {
    world.trace.set_cause(world.trace.newest());
    world.trace.keep_cause(Later::Read);
}

fn is_mark(kind: &StepKind, name: &str) -> bool {
    matches!(kind, StepKind::Mark(mark) if **mark == *name)
}

fn shown(json: &Json) -> String {
    crate::trace::canonical::to_string(json)
}
