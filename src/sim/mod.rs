//! Runs: a world, the client that executes the steps of a scenario, and how the run ends.
//!
//! [`run`] makes a whole run and gives its [`Outcome`] and its trace; [`RunOptions`] say how much the trace tells. [`Sim`] is a run in
//! the middle: it goes on step by step, or to its end, and can be cloned at any point. [`lint`] finds mistakes of a scenario without a run.

mod client;
pub mod graph;
pub mod lint;
mod look;
mod names;
mod nbd;
pub mod outcome;
mod process;
mod qemu_img;
mod setup;

pub use client::{Client, PATIENCE, START, note_read, note_sent};
pub use setup::file_op;

use crate::base::time::{Instant, Rebase, Shift, Span, timeless};
use crate::check::Checker;
use crate::choice::{Choose, Chooser, Deviate, Recorder, Replay, ReplayMode, Walk};
use crate::host::HostFiles;
use crate::invariant::Broken;
use crate::scenario::plan::{Plan, Schedule};
use crate::trace::Trace;
use crate::world::World;
use crate::world::aio::Stepped;
use outcome::{Outcome, Run, RunOptions, StepAt};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Frames after which a run is given up, unless the scenario says otherwise.
pub const MAX_STEPS: u64 = 50_000_000;
/// Virtual time after which a run is given up, unless the scenario says otherwise.
pub const MAX_TIME: Span = Span::from_secs(24 * 3600);
/// Records that a trace holds at most, unless the scenario says otherwise.
pub const MAX_TRACE: u64 = 1_000_000;
/// Clusters of images that the file steps of a run may change, all together.
pub const MAX_CLUSTERS: u64 = 4_000_000;

/// A run in the middle: plain data, so that it can be cloned and continued twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sim {
    /// QEMU with its files.
    pub world: World,
    /// Who drives it.
    pub client: Client,
    /// Who watches it, if anyone does.
    pub check: Option<Box<Checker>>,
}

impl Sim {
    /// Makes the images and starts the process.
    ///
    /// # Errors
    /// What is wrong with the scenario's files or arguments.
    pub fn new(plan: &Plan, options: &RunOptions) -> Result<Sim, Outcome> {
        let mut world = World::new(HostFiles::new());
        world.quirks = plan.quirks.union(options.quirks);
        let mut client = Client::new(plan);
        for file in &plan.files {
            if let Some(outcome) = client.spend(setup::file_cost(&world, &file.op)) {
                return Err(outcome);
            }
            file_op(&mut world, &file.op).map_err(|reason| client.failed_file(file, reason))?;
        }
        world.most_steps = client.max_steps();
        let booted = world.boot(&plan.args);
        if let Some(outcome) = client.over_limit(&world) {
            return Err(outcome);
        }
        booted.map_err(|reason| Outcome::Failed { at: None, reason })?;
        let limit = usize::try_from(plan.limits.trace.unwrap_or(MAX_TRACE)).unwrap_or(usize::MAX);
        world.trace = Trace::new(options.level, limit);
        world.steps = 0;
        client.connect(&mut world);
        let mut sim = Sim { world, client, check: None };
        if options.check || plan.expect_violation.is_some() {
            sim.watch();
        }
        Ok(sim)
    }

    /// Watches all invariants from now on.
    pub fn watch(&mut self) {
        self.check = Some(Box::new(Checker::watching(&mut self.world)));
    }

    /// Goes one step further: the client acts if it can, else the world runs a dispatch. The outcome, when there is one.
    #[inline]
    pub fn step(&mut self, choose: &mut dyn Choose) -> Option<Outcome> {
        if self.check.is_some() { self.watched_step(choose) } else { self.plain_step(choose) }
    }

    /// A step with the invariants watched. Where the process would abort because one is broken, the step ends in a panic that
    /// says which.
    fn watched_step(&mut self, choose: &mut dyn Choose) -> Option<Outcome> {
        let stepped = catch_unwind(AssertUnwindSafe(|| self.plain_step(choose)));
        let outcome = match stepped {
            Ok(outcome) => outcome,
            Err(payload) => match Broken::from_panic(&panic_text(&*payload)) {
                Some(broken) => return Some(self.violated(broken)),
                None => resume_unwind(payload),
            },
        };
        let check = self.check.as_mut()?;
        let mut checked = check.step(&mut self.world);
        if checked.is_ok() && matches!(outcome, Some(Outcome::Passed | Outcome::Stuck { .. })) {
            checked = check.end(&self.world);
        }
        if checked.is_ok() && matches!(outcome, Some(Outcome::Limit { .. })) {
            checked = check.limit(&self.world);
        }
        match checked {
            Ok(()) => outcome,
            Err(broken) => Some(self.violated(broken)),
        }
    }

    /// What the process put out until then is read, so that the trace has it.
    fn violated(&mut self, broken: Broken) -> Outcome {
        self.client.read_all(&mut self.world);
        self.client.violated(&self.world, broken)
    }

    fn plain_step(&mut self, choose: &mut dyn Choose) -> Option<Outcome> {
        if self.client.at_start() {
            self.client.start(&mut self.world, choose);
        }
        match self.client.act(&mut self.world, choose) {
            client::Act::Acted => None,
            client::Act::Restarted => {
                if self.check.is_some() {
                    self.watch();
                }
                None
            }
            client::Act::Done(outcome) => Some(outcome),
            client::Act::Waits => match self.world_step(choose) {
                Stepped::Ran => self.client.over_limit(&self.world),
                Stepped::Idle => self.client.idle(&mut self.world),
                Stepped::Hang => Some(self.client.stuck(&self.world)),
            },
        }
    }

    fn world_step(&mut self, choose: &mut dyn Choose) -> Stepped {
        let stepped = self.world.step(choose);
        self.world.watch_bitmaps();
        stepped
    }

    /// [`Sim::step`], with a panic of the simulator as an outcome.
    pub fn step_caught(&mut self, choose: &mut dyn Choose) -> Option<Outcome> {
        let stepped = catch_unwind(AssertUnwindSafe(|| self.step(choose)));
        stepped.unwrap_or_else(|payload| Some(self.client.crashed(&panic_text(&*payload))))
    }

    /// [`Sim::finish`], with a panic of the simulator as an outcome.
    pub fn finish_caught(&mut self, choose: &mut dyn Choose) -> Outcome {
        let finished = catch_unwind(AssertUnwindSafe(|| self.finish(choose)));
        finished.unwrap_or_else(|payload| self.client.crashed(&panic_text(&*payload)))
    }

    /// Whether [`Sim::step`] could ask for a choice now: true where in doubt. Only where orders are open
    /// ([`MODE_ORDER`](crate::choice::MODE_ORDER)).
    #[must_use]
    pub fn may_choose(&self) -> bool {
        self.client.at_start() || self.client.may_choose(&self.world) || self.world.may_choose()
    }

    /// Sets the clock to a time that is the same for all runs of a scenario and forgets the number of steps, so that runs which differ only
    /// in these are equal.
    pub fn rebase(&mut self) {
        let Sim { world, client, check } = self;
        timeless(check);
        let from = world.now;
        world.set_clock(client.noon());
        client.rebase(Shift { from, to: world.now });
        world.steps = client.rebase_steps(world.steps);
    }

    /// Runs to the end.
    pub fn finish(&mut self, choose: &mut dyn Choose) -> Outcome {
        loop {
            if let Some(outcome) = self.step(choose) {
                // What a process put out before it hung is read, so that the trace has it.
                if let Outcome::Stuck { .. } = outcome {
                    self.client.read_all(&mut self.world);
                }
                return outcome;
            }
            if let Some(divergence) = choose.diverged() {
                return Outcome::Diverged(divergence.clone());
            }
        }
    }

    /// Runs until the client stands where exploring starts: before the mark [`START`], or before the first step.
    ///
    /// # Errors
    /// The outcome, if the run ended before.
    pub fn run_to_start(&mut self, choose: &mut dyn Choose) -> Result<(), Outcome> {
        while !self.client.at_start() {
            if let Some(outcome) = self.step(choose) {
                return Err(outcome);
            }
        }
        Ok(())
    }

    /// Runs until the client stands before the step that is marked `name`. Whether it got there.
    pub fn run_to_mark(&mut self, name: &str, choose: &mut dyn Choose) -> Result<(), Outcome> {
        while !self.client.at_mark(name) {
            if let Some(outcome) = self.step(choose) {
                return Err(outcome);
            }
        }
        Ok(())
    }
}

/// Runs a scenario from its start to its end with somebody who decides: for callers that want to have that one back, or the world. What
/// the scenario says of violations that it expects does not count here.
pub fn run_with(plan: &Plan, choose: &mut dyn Choose, options: &RunOptions) -> (Outcome, Option<Sim>) {
    match Sim::new(plan, options) {
        Err(outcome) => (outcome, None),
        Ok(mut sim) => {
            let finished = catch_unwind(AssertUnwindSafe(|| sim.finish(choose)));
            let outcome = finished.unwrap_or_else(|payload| sim.client.crashed(&panic_text(&*payload)));
            (outcome, Some(sim))
        }
    }
}

/// Runs a scenario from its start to its end. A panic of the simulator becomes [`Outcome::Crash`].
#[must_use]
pub fn run(plan: &Plan, chooser: Chooser, options: &RunOptions) -> Run {
    match Sim::new(plan, options) {
        Ok(sim) => run_from(plan, sim, chooser, options),
        Err(outcome) => {
            let mut recorder = Recorder::new(chooser);
            let outcome = as_expected(plan, finish_replay(&mut recorder.inner, outcome));
            Run {
                outcome,
                trace: Trace::off(),
                choices: recorder.log,
                time: Instant::START,
                dispatches: 0,
                findings: Vec::new(),
            }
        }
    }
}

/// [`run`] from a run in the middle, as [`Sim::new`] or a checkpoint has it. Making the images and starting the process ask for no
/// choice: who runs a scenario many times does that once, and goes on with a clone each time.
#[must_use]
pub fn run_from(plan: &Plan, mut sim: Sim, chooser: Chooser, options: &RunOptions) -> Run {
    let mut recorder = Recorder::new(chooser);
    let finished = catch_unwind(AssertUnwindSafe(|| {
        if options.record_choices { sim.finish(&mut recorder) } else { sim.finish(&mut recorder.inner) }
    }));
    let outcome = finished.unwrap_or_else(|payload| sim.client.crashed(&panic_text(&*payload)));
    let outcome = as_expected(plan, finish_replay(&mut recorder.inner, outcome));
    let World { trace, now, steps, .. } = sim.world;
    let findings = sim.check.map_or_else(Vec::new, |check| check.findings().to_vec());
    Run { outcome, trace, choices: recorder.log, time: now, dispatches: steps, findings }
}

fn finish_replay(chooser: &mut Chooser, outcome: Outcome) -> Outcome {
    let (mode, difference) = match chooser {
        Chooser::Replay(replay) => {
            replay.finish();
            (replay.mode(), replay.first_difference())
        }
        Chooser::Preempt(preempt) => {
            preempt.finish();
            (preempt.mode(), preempt.first_difference())
        }
        _ => return outcome,
    };
    match (&outcome, difference) {
        (Outcome::Passed, Some(divergence)) if mode == ReplayMode::Strict => Outcome::Diverged(divergence.clone()),
        _ => outcome,
    }
}

/// Who makes the choices of a scenario when the caller asks for nothing else.
#[must_use]
pub fn chooser(schedule: &Schedule) -> Chooser {
    match schedule {
        Schedule::Any | Schedule::Calm => Chooser::Calm,
        Schedule::Seed(seed) => Chooser::Walk(Box::new(Walk::new(*seed))),
        Schedule::Choices(log) => Chooser::Replay(Replay::new(log.clone(), ReplayMode::Strict)),
        Schedule::Deviations(list) => Chooser::Preempt(Box::new(Deviate::new(list.clone(), ReplayMode::Strict))),
    }
}

/// A scenario that breaks an invariant on purpose passes when it did.
fn as_expected(plan: &Plan, outcome: Outcome) -> Outcome {
    let Some(wanted) = plan.expect_violation else { return outcome };
    match outcome {
        Outcome::Violated { invariant, .. } if invariant == wanted.name() => Outcome::Passed,
        Outcome::Passed => {
            let reason = format!("expected the invariant {} to be broken, and it holds", wanted.name());
            let step = plan.steps.len().saturating_sub(1);
            let at = plan.steps.last().map(|last| StepAt {
                step: u32::try_from(step).unwrap_or(u32::MAX),
                pos: last.pos.clone(),
                calls: last.calls.clone(),
            });
            Outcome::Failed { at, reason }
        }
        other => other,
    }
}

/// What was handed to `panic!`; a payload that is no string has none.
#[must_use]
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}
