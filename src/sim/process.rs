//! Processes that end and start while a scenario runs: the files of the host are what stays.
//!
//! A [`World`] is one process. The runner takes the files out of one that has ended, or was killed, and puts them into the next. The trace,
//! the clock and the number of steps go on, so that a run of several processes is one run.

use super::client::{Act, Client};
use super::outcome::Outcome;
use crate::choice::Choose;
use crate::host::HostFiles;
use crate::scenario::plan::ProcessOp;
use crate::trace::Trace;
use crate::world::World;
use std::sync::Arc;

/// A process that has ended.
fn nobody(files: HostFiles) -> World {
    let mut world = World::new(files);
    world.quitting = true;
    world
}

impl Client {
    /// Carries out a step that concerns the process as a whole.
    pub(super) fn process(&mut self, world: &mut World, choose: &mut dyn Choose, op: &ProcessOp) -> Act {
        match op {
            ProcessOp::Start { args, error } => self.start_another(world, args, error.as_deref()),
            ProcessOp::Kill => {
                if !self.may_strike(world, choose) {
                    return Act::Waits;
                }
                self.read_all(world);
                self.note(world, "signal", "KILL".into());
                let files = std::mem::take(&mut world.files);
                self.replace(world, nobody(files));
                self.restarted()
            }
            ProcessOp::Signal(signal) => {
                if !self.may_strike(world, choose) {
                    return Act::Waits;
                }
                self.note(world, "signal", signal.name().into());
                if !world.quitting {
                    world.host_shutdown();
                }
                self.next()
            }
        }
    }

    /// Waits until the process has ended; then the next one starts.
    fn start_another(&mut self, world: &mut World, args: &[Arc<str>], error: Option<&str>) -> Act {
        // One that nobody has asked anything yet is none: a scenario may begin with a start that fails.
        if self.sent() > 0 && !world.quitting {
            let reason = "the process before has not ended: `quit`, `signal` or `kill` ends it".to_owned();
            return self.fails(reason);
        }
        if !world.at_rest() {
            self.read_all(world);
            return Act::Waits;
        }
        self.read_all(world);
        let mut next = World::new(std::mem::take(&mut world.files));
        next.quirks = world.quirks;
        next.now = world.now;
        next.writers = std::mem::take(&mut world.writers);
        (next.steps, next.most_steps) = (world.steps, world.most_steps);
        let booted = next.boot(args);
        if let Some(outcome) = self.over_limit(&next) {
            return Act::Done(outcome);
        }
        let shown = args.iter().map(|arg| &**arg).collect::<Vec<_>>().join(" ");
        if booted.is_err() {
            next = nobody(std::mem::take(&mut next.files));
        }
        self.replace(world, next);
        self.note(world, "start", shown.into());
        if booted.is_ok() {
            self.connect(world);
        }
        match (booted, error) {
            (Ok(()), None) => self.restarted(),
            (Err(said), Some(wanted)) if said.contains(wanted) => {
                self.note(world, "console", said.into());
                self.restarted()
            }
            (Ok(()), Some(wanted)) => self.fails(format!("expected QEMU not to start, because of: {wanted}")),
            (Err(said), Some(wanted)) => self.fails(format!("expected {wanted:?} in what QEMU says, got {said:?}")),
            (Err(said), None) => self.fails(format!("QEMU does not start: {said}")),
        }
    }

    /// Puts the next process in the place of the one before. What watches goes on; what is open in a run stays open.
    fn replace(&mut self, world: &mut World, mut next: World) {
        let order = (world.aio.order, world.aio.faults, world.aio.bh_order);
        next.trace = std::mem::replace(&mut world.trace, Trace::off());
        next.now = next.now.max(world.now);
        (next.steps, next.most_steps) = (world.steps, world.most_steps);
        next.quirks = world.quirks;
        next.feed = std::mem::take(&mut world.feed);
        next.feed.seen.clear();
        if next.writers.is_empty() {
            next.writers = std::mem::take(&mut world.writers);
        }
        (next.aio.order, next.aio.faults, next.aio.bh_order) = order;
        *world = next;
        self.forget_events();
    }

    fn restarted(&mut self) -> Act {
        match self.next() {
            Act::Acted => Act::Restarted,
            other => other,
        }
    }

    fn fails(&self, reason: String) -> Act {
        Act::Done(Outcome::Failed { at: self.at(), reason })
    }
}
