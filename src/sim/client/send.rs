//! When the client sends: whether it waits for the process to rest, and how much it leaves unread, are choices.

use super::{Act, Client, PATIENCE, StepState};
use crate::base::{Json, Kept};
use crate::choice::{Addressee, ChoicePoint, Choose, Subject};
use crate::qmp::json::{Parsed, Parser};
use crate::scenario::nbd::NbdAction;
use crate::scenario::plan::StepKind;
use crate::sim::outcome::Outcome;
use crate::trace::{LaterWork, Level, RecordKind};
use crate::world::World;

impl Client {
    pub(super) fn send(&mut self, world: &mut World, choose: &mut dyn Choose, command: impl FnOnce() -> Json) -> Act {
        if !self.wire.is_between_values() {
            let reason = "the monitor has read the beginning of a value: `send` its end first".to_owned();
            return Act::Done(Outcome::Failed { at: self.at(), reason });
        }
        let soon = match self.goes_out(world, choose) {
            Ok(soon) => soon,
            Err(act) => return act,
        };
        let command = command();
        note_sent(world, &command);
        self.wire = Parser::new();
        self.last = Some(Kept::new(command.clone()));
        self.hand_over(world, soon, Ok(command))
    }

    /// Sends bytes as they are. Each value that ends among them has a reply, and so has each mistake; one is taken at a time.
    pub(super) fn send_bytes(&mut self, world: &mut World, choose: &mut dyn Choose, bytes: &[u8]) -> Act {
        let soon = match self.goes_out(world, choose) {
            Ok(soon) => soon,
            Err(act) => return act,
        };
        let shown = Json::str(&String::from_utf8_lossy(bytes));
        note_sent(world, &shown);
        self.last = Some(Kept::new(shown));
        self.answered = 0;
        self.owed = self.wire.feed(bytes).into();
        match self.owed.pop_front() {
            Some(first) => self.hand_over(world, soon, first),
            None => self.sent_in_vain(),
        }
    }

    /// The bytes that were sent end no value: no reply comes.
    fn sent_in_vain(&mut self) -> Act {
        self.sent += 1;
        let wanted = match self.steps.get(self.step).map(|step| &step.kind) {
            Some(StepKind::Send { replies: Some(replies), .. }) => replies.len(),
            _ => 0,
        };
        let done =
            if wanted == 0 { Ok(()) } else { Err(format!("expected {wanted} replies, and none comes to these bytes")) };
        self.checked(done)
    }

    fn hand_over(&mut self, world: &mut World, soon: bool, request: Parsed) -> Act {
        self.stdout.clear();
        self.sent += 1;
        if soon {
            world.submit_soon(self.id, request);
        } else {
            world.submit_parsed(self.id, request);
        }
        self.state = StepState::Reply;
        Act::Acted
    }

    /// Waits for the moment to send, and reads as much as is read before. Whether it is so soon that the dispatcher finds the request
    /// before it goes to sleep; else what is done in its place.
    fn goes_out(&mut self, world: &mut World, choose: &mut dyn Choose) -> Result<bool, Act> {
        if world.monitor.clients.is_empty() {
            let reason = "there is no process that could be asked: `start` starts one".to_owned();
            return Err(Act::Done(Outcome::Failed { at: self.at(), reason }));
        }
        let step = u32::try_from(self.step).unwrap_or(u32::MAX);
        let about = &mut |_| Addressee::Step(step);
        let forced = std::mem::take(&mut self.forced);
        let mut soon = false;
        if !forced && !self.at_rest(world) {
            let among = if world.monitor.just_looked() { 3 } else { 2 };
            match if world.in_main_loop() { self.decide(choose, among) } else { 0 } {
                0 => return Err(Act::Waits),
                pick => soon = pick == 2,
            }
        }
        if !forced && self.lets_it_sleep(world, choose) {
            return Err(Act::Waits);
        }
        let unread = u32::try_from(world.out.len()).unwrap_or(u32::MAX);
        let left =
            if unread == 0 || forced { 0 } else { choose.choose_about(ChoicePoint::ClientRead, unread + 1, about) };
        while world.out.len() > left as usize {
            self.read_one(world);
        }
        Ok(soon)
    }

    /// Whether a signal strikes now: as a command would be sent, when the process is at rest, or where a choice says so.
    pub(in crate::sim) fn may_strike(&mut self, world: &mut World, choose: &mut dyn Choose) -> bool {
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

    /// Whether the client goes on now (1) although the process is not at rest, or did so just before the dispatcher, having
    /// written its last reply, looked for another request (2).
    pub(super) fn decide(&self, choose: &mut dyn Choose, among: u32) -> u32 {
        let left = u32::try_from(self.steps.len() - self.step).unwrap_or(u32::MAX);
        let of = |i| match i {
            0 => Subject { task: Subject::PROCESS, left: 1 },
            _ => Subject { task: Subject::CLIENT, left },
        };
        let step = u32::try_from(self.step).unwrap_or(u32::MAX);
        choose.choose_of(ChoicePoint::ClientSend, among, &of, &mut |_| Addressee::Step(step))
    }

    /// Whether the process is at rest, or the client's patience at its end.
    pub(super) fn at_rest(&mut self, world: &World) -> bool {
        let since = *self.ready_since.get_or_insert(world.now);
        world.at_rest() || (world.in_main_loop() && world.now - since > PATIENCE)
    }

    /// Whether the client waits for the next timer of a process that only sleeps, as when a job has used up its rate.
    pub(super) fn lets_it_sleep(&mut self, world: &World, choose: &mut dyn Choose) -> bool {
        let waits =
            world.at_rest() && world.next_deadline().is_some() && choose.choose(ChoicePoint::ClientWait, 2) == 1;
        if waits {
            // Its patience begins anew when the timer has gone off.
            self.ready_since = world.next_deadline();
        }
        waits
    }

    /// Whether a command was sent whose reply has not come.
    #[must_use]
    pub fn waits_for_reply(&self) -> bool {
        self.state == StepState::Reply
    }

    /// Whether the client could ask for a choice now: true where in doubt.
    pub(in crate::sim) fn may_choose(&self, world: &World) -> bool {
        let sends = match self.steps.get(self.step).map(|s| &s.kind) {
            Some(StepKind::Qmp { .. } | StepKind::Hmp { .. } | StepKind::Send { .. } | StepKind::Process(_)) => true,
            Some(StepKind::Nbd(step)) => !matches!(step.action, NbdAction::Answer(_)),
            _ => false,
        };
        let anywhere =
            matches!(self.steps.get(self.step).map(|s| &s.kind), Some(StepKind::Nbd(s)) if s.action.is_servers());
        let quiet = world.at_rest() && world.out.is_empty() && world.next_deadline().is_none();
        match self.state {
            StepState::Reply => false,
            StepState::Before if world.at_rest() && world.next_deadline().is_some() => true,
            StepState::Before => sends && (anywhere || world.in_main_loop()) && !quiet,
            StepState::Sleep(_) => world.in_main_loop() && !world.at_rest(),
        }
    }
}

/// What the trace says when a client sends a command.
pub fn note_sent(world: &mut World, command: &Json) {
    world.trace.set_cause(world.trace.kept_cause(LaterWork::Read));
    world.trace.emit(Level::Client, world.now, || RecordKind::Command(command.clone()));
}
