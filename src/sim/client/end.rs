//! How a run ends before its last step: nobody can go on, a limit is met, an invariant is broken.

use super::{Client, StepState};
use crate::base::time::Instant;
use crate::invariant::{Broken, FindingPage};
use crate::scenario::nbd::NbdAction;
use crate::scenario::plan::{PlannedFile, StepKind};
use crate::sim::outcome::{Outcome, StepAt};
use crate::sim::{MAX_CLUSTERS, look};
use crate::world::World;

impl Client {
    /// Nothing can run: either the client can act, or nobody can.
    pub(in crate::sim) fn idle(&mut self, world: &mut World) -> Option<Outcome> {
        let waits_for_event = self.state == StepState::Before
            && match self.steps.get(self.step).map(|s| &s.kind) {
                Some(StepKind::Event(_) | StepKind::At { .. }) => true,
                Some(StepKind::Nbd(step)) => self.nbd_connects || matches!(step.action, NbdAction::Answer(_)),
                _ => false,
            };
        if waits_for_event || self.state == StepState::Reply {
            return Some(self.stuck(world));
        }
        None
    }

    /// The outcome of a run that cannot go on.
    pub(in crate::sim) fn stuck(&self, world: &World) -> Outcome {
        let mut waits = self.waits();
        if waits.is_empty() {
            waits.push("client: waits for the process".to_owned());
        }
        waits.extend(world.waiting());
        Outcome::Stuck { at: self.at(), waits }
    }

    /// What the client waits for, and which event came instead.
    pub(super) fn waits(&self) -> Vec<String> {
        match (&self.state, self.steps.get(self.step).map(|s| &s.kind)) {
            (StepState::Reply, _) => vec!["client: waits for a reply".to_owned()],
            (StepState::Before, Some(StepKind::Event(pattern))) => {
                let waits = format!("client: waits for the event {pattern}");
                std::iter::once(waits).chain(look::near_miss(pattern, self.queue.iter())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// How many dispatches the run gets.
    pub(in crate::sim) fn max_steps(&self) -> u64 {
        self.max_steps
    }

    /// The outcome of a run that met a limit.
    pub(in crate::sim) fn over_limit(&self, world: &World) -> Option<Outcome> {
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

    /// A step changes so many clusters of an image: the outcome, if all together are too many.
    pub(in crate::sim) fn spend(&mut self, clusters: u64) -> Option<Outcome> {
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

    /// The outcome of a broken invariant.
    pub(in crate::sim) fn violated(&self, world: &World, broken: Broken) -> Outcome {
        let Broken { invariant, subject, reason, page } = broken;
        let (step, time) = (world.steps, world.now);
        Outcome::Violated {
            at: self.at(),
            invariant: invariant.name(),
            subject: subject.into(),
            reason: reason.into(),
            page: page.and_then(FindingPage::find),
            step,
            time,
        }
    }

    /// The outcome of a panic.
    pub(in crate::sim) fn crashed(&self, message: &str) -> Outcome {
        Outcome::Crash { at: self.at(), message: message.to_owned() }
    }

    /// The outcome of a file operation that failed before the start.
    pub(in crate::sim) fn failed_file(&self, file: &PlannedFile, reason: String) -> Outcome {
        let at = StepAt { step: 0, pos: file.pos.clone(), calls: file.calls.clone() };
        Outcome::Failed { at: Some(at), reason }
    }
}
