//! What the client reads: replies, which it checks, and events, which it keeps until a step waits for them.

use super::{Act, Client, StepState, note};
use crate::base::Json;
use crate::scenario::pattern;
use crate::scenario::plan::{EventPattern, Expect, Fails, PlannedStep, StepKind};
use crate::sim::look;
use crate::trace::compare::same_text;
use crate::trace::{LaterWork, Level, RecordKind};
use crate::world::World;
use crate::world::out::{Event, Output};

impl Client {
    /// Reads the next record. A reply is given back, an event goes to the queue.
    pub(super) fn read_one(&mut self, world: &mut World) -> Option<Json> {
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
                    self.failed = crate::block::qemu_io::text::failure(&text).map(Into::into);
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
    pub(super) fn waits_for_hmp(&self) -> bool {
        let hmp = matches!(self.steps.get(self.step), Some(PlannedStep { kind: StepKind::Hmp { .. }, .. }));
        hmp && self.state == StepState::Reply
    }

    pub(in crate::sim) fn read_all(&mut self, world: &mut World) {
        while !world.out.is_empty() {
            self.read_one(world);
        }
    }

    pub(super) fn read_reply(&mut self, world: &mut World, kind: &StepKind) -> Act {
        while !world.out.is_empty() {
            if let Some(reply) = self.read_one(world) {
                // Only where it matters: else two states would differ by it alone.
                if matches!(
                    self.steps.get(self.step + 1).map(|s| &s.kind),
                    Some(StepKind::At { .. } | StepKind::File(_))
                ) {
                    self.replied = world.steps;
                }
                if let StepKind::Send { replies, .. } = kind {
                    return self.read_another(world, replies.as_deref(), &reply);
                }
                let done = self.check_reply(kind, &reply);
                return self.checked(done);
            }
        }
        Act::Waits
    }

    /// A reply to bytes that were sent as they are; what stands behind the value that it belongs to is looked at now.
    fn read_another(&mut self, world: &mut World, replies: Option<&[Json]>, reply: &Json) -> Act {
        let number = self.answered;
        self.answered += 1;
        let next = self.owed.pop_front();
        let done = match (replies, replies.and_then(|replies| replies.get(number))) {
            (None, _) => Ok(()),
            (Some(_), Some(wanted)) => pattern::check(wanted, reply).map_err(|m| format!("reply {}: {m}", number + 1)),
            (Some(replies), None) => Err(format!("expected {} replies, got one more: {}", replies.len(), shown(reply))),
        };
        match (next, done) {
            (Some(next), Ok(())) => {
                world.submit_parsed(self.id, next);
                Act::Acted
            }
            (None, Ok(())) if replies.is_some_and(|replies| replies.len() > self.answered) => {
                let wanted = replies.map_or(0, <[Json]>::len);
                self.checked(Err(format!("expected {wanted} replies, and these bytes have {}", self.answered)))
            }
            (_, done) => self.checked(done),
        }
    }

    pub(super) fn check_reply(&self, kind: &StepKind, reply: &Json) -> Result<(), String> {
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

    pub(super) fn wait_event(&mut self, world: &mut World, pattern: &EventPattern) -> Act {
        loop {
            while let Some(event) = self.queue.get(self.seen) {
                if fits(pattern, event) {
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
}

/// Whether an event is one that is meant.
pub(super) fn fits(pattern: &EventPattern, event: &Event) -> bool {
    match event {
        Event::JobStatus { id, status } => {
            pattern.matches_texts(event.name(), &[("id", &**id), ("status", status.name())])
        }
        Event::Other { name, data } => pattern.matches(name, data),
    }
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
            world.trace.set_cause(world.trace.kept_cause(LaterWork::Command));
            world.trace.emit(Level::Client, world.now, || RecordKind::Reply(reply.clone()));
            was_read(world);
        }
        Output::Stdout(text) | Output::Stderr(text) | Output::Report(text) => {
            note(world, "console", text.trim_end().into())
        }
    }
}

pub(super) fn was_read(world: &mut World) {
    world.trace.set_cause(world.trace.newest());
    world.trace.keep_cause(LaterWork::Read);
}

pub(super) fn shown(json: &Json) -> String {
    crate::trace::canonical::to_string(json)
}
