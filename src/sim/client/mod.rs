//! The client: carries out a scenario's steps, one after the other, over the simulated connection.
//!
//! What the process puts out stands in a pipe until the client reads it. While it waits for a reply or an event it reads record
//! after record, up to the one it waits for. Before it sends, a calm client lets the process come to rest and reads all there is;
//! whether it sends earlier, and how much it then leaves unread, are choices.

mod end;
mod nbd;
mod read;
mod send;

use super::look;
use super::nbd::NbdClients;
use super::outcome::{Outcome, StepAt};
use super::setup::{file_cost, file_op};
use super::{MAX_CLUSTERS, MAX_STEPS, MAX_TIME};
use crate::base::time::{Instant, Rebase, Shift, Span};
use crate::base::{Json, Kept};
use crate::choice::{ChoicePoint, Choose, MODES};
use crate::qmp::json::{Parsed, Parser};
use crate::scenario::plan::{EventPattern, Plan, PlannedStep, StepKind};
use crate::trace::{Level, RecordKind, ScenarioNote};
use crate::world::World;
use crate::world::out::{Event, Output};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub use read::note_read;
pub use send::note_sent;

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
enum StepState {
    /// The step has not begun.
    Before,
    /// A command was sent.
    Reply,
    /// Until then.
    Sleep(Instant),
}

impl Rebase for StepState {
    fn has_instants(&self) -> bool {
        matches!(self, StepState::Sleep(_))
    }

    fn rebase(&mut self, shift: Shift) {
        match self {
            StepState::Before | StepState::Reply => {}
            StepState::Sleep(until) => *until = shift.of(*until).max(shift.to),
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
    state: StepState,
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
    /// What the monitor makes of the bytes that were sent to it.
    wire: Parser,
    /// Values among the bytes that were sent last, and mistakes, whose turn has not come.
    owed: VecDeque<Parsed>,
    /// How many of them were answered.
    answered: usize,
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
        forced, strict, failed, wire, owed, answered, nbd, nbd_connects
});

/// Whether it is a step that looks at a process that rests.
fn looks(kind: &StepKind) -> bool {
    use StepKind::{Bitmap, Idle, NoEvents, NoJobs, Same};
    matches!(kind, Idle | Bitmap(_) | Same(_) | NoJobs | NoEvents { .. })
}

/// The mark where exploring starts; a scenario without it is explored from its first step.
pub const START: &str = "start";

impl Client {
    /// A client before its first step.
    #[must_use]
    pub fn new(plan: &Plan) -> Client {
        Client {
            steps: Steps(plan.steps.clone()),
            step: 0,
            state: StepState::Before,
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
            wire: Parser::new(),
            owed: VecDeque::new(),
            answered: 0,
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
        if !self.nbd.is_empty() {
            self.nbd.pump(world);
        }
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
            (StepState::Reply, kind) => self.read_reply(world, kind),
            (StepState::Sleep(until), _) => self.sleep(world, choose, *until),
            (StepState::Before, StepKind::Qmp { command, .. }) => self.send(world, choose, || command.clone()),
            (StepState::Before, StepKind::Hmp { line, .. }) => self.send(world, choose, || {
                let arguments = Json::dict(vec![("command-line", Json::Str(line.clone()))]);
                Json::dict(vec![("execute", "human-monitor-command".into()), ("arguments", arguments)])
            }),
            (StepState::Before, StepKind::Send { bytes, .. }) => self.send_bytes(world, choose, bytes),
            (StepState::Before, StepKind::Event(pattern)) => self.wait_event(world, pattern),
            (StepState::Before, StepKind::Sleep(span)) => {
                self.state = StepState::Sleep(world.now + *span);
                Act::Acted
            }
            (StepState::Before, StepKind::At { frames, time }) => {
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
            (StepState::Before, StepKind::File(op)) => {
                if let Some(outcome) = self.spend(file_cost(world, op)) {
                    return Act::Done(outcome);
                }
                let done = file_op(world, op);
                self.checked(done)
            }
            (StepState::Before, StepKind::Nbd(step)) => self.nbd_step(world, choose, step),
            (StepState::Before, StepKind::Mark(name)) => {
                self.note(world, "mark", name.clone());
                self.next()
            }
            (StepState::Before, StepKind::Process(op)) => self.process(world, choose, op),
            (StepState::Before, StepKind::Idle) => self.look(world, |_, _| Ok(())),
            (StepState::Before, StepKind::Bitmap(check)) => self.look(world, |_, world| look::bitmap(world, check)),
            (StepState::Before, StepKind::Same(images)) => self.look(world, |_, world| look::same(world, images)),
            (StepState::Before, StepKind::NoJobs) => self.look(world, |_, world| look::no_jobs(world)),
            (StepState::Before, StepKind::NoEvents { except }) => {
                self.look(world, |queue, _| look::no_events(queue, except))
            }
        }
    }

    /// Whether it waits for the process to say something, and nothing new was said: most steps of a run find it so.
    fn only_waits(&self, world: &World) -> bool {
        let all_seen = match self.state {
            StepState::Reply => true,
            StepState::Before => {
                let event = matches!(self.steps.get(self.step), Some(PlannedStep { kind: StepKind::Event(_), .. }));
                event && self.seen == self.queue.len()
            }
            StepState::Sleep(_) => false,
        };
        all_seen && world.out.is_empty()
    }

    /// Whether it looks at nothing before the process says something more or comes to rest: it waits, or it is about to send a command, and
    /// when it does that is asked of whoever chooses. What the process has put out may be read meanwhile.
    #[must_use]
    pub fn only_listens(&self, world: &World) -> bool {
        let patient = self.ready_since.is_none_or(|since| world.now - since <= PATIENCE);
        let listens = match (&self.state, self.steps.get(self.step).map(|step| &step.kind)) {
            (StepState::Reply, _) => {
                let replied = world.out.iter().any(|output| matches!(output, Output::Reply { .. }));
                !replied && self.goes_on_quietly(self.step + 1, world)
            }
            (StepState::Before, Some(StepKind::Event(pattern))) => {
                let came = self.has_come(pattern, self.seen, world);
                !came && (world.jobs.list.len() == 1 || self.goes_on_quietly(self.step + 1, world))
            }
            (StepState::Before, Some(StepKind::Qmp { .. } | StepKind::Hmp { .. })) => patient && !self.forced,
            (StepState::Before, Some(kind)) => patient && looks(kind),
            (StepState::Before, None) => patient,
            (StepState::Sleep(_), _) => false,
        };
        self.nbd.is_empty() && self.owed.is_empty() && self.started && self.failed.is_none() && listens
    }

    /// Whether an event that fits stands in the queue from its place `from` on, or among what was not read yet.
    fn has_come(&self, pattern: &EventPattern, from: usize, world: &World) -> bool {
        let fits = |event: &Event| read::fits(pattern, event);
        let unread = world.out.iter().any(|output| matches!(output, Output::Event { event, .. } if fits(event)));
        unread || self.queue.iter().skip(from).any(fits)
    }

    /// Whether the client, at the step of this number, touches no file of the host and no process before it waits, sends or looks again.
    fn goes_on_quietly(&self, from: usize, world: &World) -> bool {
        for step in self.steps.iter().skip(from) {
            match &step.kind {
                StepKind::Mark(_) => {}
                StepKind::Event(pattern) if self.has_come(pattern, 0, world) => {}
                StepKind::Event(_) | StepKind::Qmp { .. } | StepKind::Hmp { .. } => return true,
                kind => return looks(kind),
            }
        }
        true
    }

    pub(super) fn next(&mut self) -> Act {
        self.step += 1;
        self.seen = 0;
        self.state = StepState::Before;
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

    /// Events of a process that is gone do not matter any more.
    pub(super) fn forget_events(&mut self) {
        self.queue.change().clear();
        self.seen = 0;
        self.stdout.clear();
        self.wire = Parser::new();
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

    /// A step that only looks, with the process at rest and all read.
    fn look(&mut self, world: &mut World, look: impl FnOnce(&VecDeque<Event>, &World) -> Result<(), String>) -> Act {
        if !self.at_rest(world) {
            self.read_all(world);
            return Act::Waits;
        }
        self.read_all(world);
        let done = look(&self.queue, world);
        self.checked(done)
    }

    pub(super) fn note(&self, world: &mut World, what: &'static str, text: Arc<str>) {
        note(world, what, text);
    }

    pub(super) fn at(&self) -> Option<StepAt> {
        let step = self.steps.get(self.step)?;
        let number = u32::try_from(self.step).unwrap_or(u32::MAX);
        Some(StepAt { step: number, pos: step.pos.clone(), calls: step.calls.clone() })
    }
}

/// What the client does next comes of what it has just read.
fn note(world: &mut World, what: &'static str, text: Arc<str>) {
    world.trace.set_cause(None);
    world.trace.emit(Level::Job, world.now, || RecordKind::Note(ScenarioNote { what, text }));
}

fn is_mark(kind: &StepKind, name: &str) -> bool {
    matches!(kind, StepKind::Mark(mark) if **mark == *name)
}
