//! Making a failure small: first its schedule, then its scenario, while it stays the same kind of failure.
//!
//! A schedule is a list of deviations, each counted by what it is about ([`crate::choice::Deviation`]), so that taking one out leaves
//! the others what they were; without any it is calm. What is tried, in this order: no deviation at all; those of one kind alone; a
//! bisection for each that is needed; each one left out; a single early command instead of several. Then the scenario: steps,
//! actions, arguments, faults, drives, images, sizes; and the schedule once more.
//!
//! A smaller candidate is taken when it fails in the same way ([`Verdict::same_kind`]) twice in a row. Where an expectation is not met, the
//! same way is the same step; and where the scenario passes in the calm schedule, so must a smaller one: it is the order of events that
//! breaks it, and not what was taken out.

mod json;
mod schedule;
mod slice;
mod structure;

use crate::choice::{Calm, Deviate, Deviation, DeviationRecorder, Deviations, Replay, ReplayMode};
use crate::failure::{Failure, Verdict};
use crate::invariant::Invariant;
use crate::scenario::plan::{FileOp, Plan, PlannedStep, Schedule, StepKind};
use crate::scenario::write::{self, Remarks};
use crate::sim::outcome::{Outcome, RunOptions};
use crate::sim::{self, Sim};
use crate::trace::Level;
use std::fmt;
use std::sync::Arc;

/// How many runs are made at most, unless the caller says otherwise.
pub const MAX_RUNS: u32 = 3_000;

/// How much there is to read in a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Choices that are not calm.
    pub deviations: usize,
    /// Of the client, procedures expanded.
    pub steps: usize,
    /// Operations on files before the start.
    pub files: usize,
    /// Arguments of the process.
    pub args: usize,
    /// Fault rules.
    pub faults: usize,
    /// Bytes of the scenario's text.
    pub text: usize,
}

impl Counts {
    fn of(plan: &Plan, deviations: usize) -> Counts {
        let text = write::to_yaml(plan);
        let files = plan.files.iter().filter(|file| !matches!(file.op, FileOp::Text { .. })).count();
        // A rule without an `errno` is one, too.
        let faults = text.matches("errno").count().max(text.matches("inject-error").count());
        Counts { deviations, steps: plan.steps.len(), files, args: plan.args.len(), faults, text: text.len() }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { deviations, steps, files, args, faults, text } = self;
        write!(
            f,
            "preemptions {deviations}, steps {steps}, files {files}, arguments {args}, faults {faults}, bytes {text}"
        )
    }
}

/// A failure that was made small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The scenario, with its schedule in it.
    pub plan: Plan,
    /// The deviations that are left.
    pub deviations: Vec<Deviation>,
    /// How it fails.
    pub verdict: Verdict,
    /// How much there was.
    pub before: Counts,
    /// How much there is left.
    pub after: Counts,
    /// Runs until the schedule was small.
    pub schedule_runs: u32,
    /// Runs in all.
    pub runs: u32,
    /// Comments for the file: the counts, the steps that matter, the events that led to the failure.
    pub remarks: Remarks,
}

impl Shrunk {
    /// The scenario as a file.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        write::with_remarks(&self.plan, &self.remarks)
    }
}

/// Why a failure cannot be made small.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShrinkError {
    /// It does not fail any more, or in another way.
    #[error("the failure does not come about again: {0}")]
    Gone(String),
}

/// What a failing run was like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    verdict: Verdict,
    /// The step that was under way.
    step: Option<usize>,
    dispatches: u64,
    /// Deviations that were carried out.
    met: Vec<Deviation>,
}

/// Runs candidates and counts.
struct Tester {
    wanted: Verdict,
    /// The step whose expectation is not met, by the number that it had at first.
    expects: Option<u32>,
    /// Whether the scenario passes in the calm schedule.
    calm: bool,
    options: RunOptions,
    runs: u32,
    max_runs: u32,
}

impl Tester {
    /// How a candidate fails, if it does in the wanted way.
    fn once(&mut self, plan: &Plan, list: &[Deviation]) -> Option<Seen> {
        self.runs += 1;
        let deviations = Arc::new(Deviations { list: list.to_vec() });
        let mut preempt = Deviate::new(deviations, ReplayMode::Lenient);
        let (outcome, sim) = sim::run_with(plan, &mut preempt, &self.options);
        let verdict = Verdict::of(&outcome).filter(|verdict| verdict.same_kind(&self.wanted))?;
        if self.expects != expects(&outcome) {
            return None;
        }
        let dispatches = sim.map_or(0, |sim| sim.world.steps);
        Some(Seen { verdict, step: step_of(&outcome), dispatches, met: preempt.met().cloned().collect() })
    }

    /// The same, seen twice, and not without the order of events that it takes.
    fn twice(&mut self, plan: &Plan, list: &[Deviation]) -> Option<Seen> {
        let first = self.once(plan, list)?;
        if self.calm && !self.passes_calm(plan) {
            return None;
        }
        (self.once(plan, list).as_ref() == Some(&first)).then_some(first)
    }

    /// Whether a scenario passes in the calm schedule.
    fn passes_calm(&mut self, plan: &Plan) -> bool {
        self.runs += 1;
        sim::run_with(plan, &mut Calm, &self.options).0 == Outcome::Passed
    }

    fn spent(&self) -> bool {
        self.runs >= self.max_runs
    }
}

/// The step whose expectation was not met, by its first number, which it carries in place of a line.
fn expects(outcome: &Outcome) -> Option<u32> {
    match outcome {
        Outcome::Failed { at: Some(at), .. } | Outcome::Stuck { at: Some(at), .. } => Some(at.pos.line),
        _ => None,
    }
}

/// The plan with steps that carry their numbers, and so can be told when others are gone.
fn numbered(mut plan: Plan) -> Plan {
    let with = |(number, step): (usize, &PlannedStep)| {
        let mut step = step.clone();
        step.pos.line = u32::try_from(number + 1).unwrap_or(u32::MAX);
        step
    };
    plan.steps = plan.steps.iter().enumerate().map(with).collect();
    plan
}

fn step_of(outcome: &Outcome) -> Option<usize> {
    let at = match outcome {
        Outcome::Failed { at, .. }
        | Outcome::Violated { at, .. }
        | Outcome::Stuck { at, .. }
        | Outcome::Limit { at, .. }
        | Outcome::Crash { at, .. } => at.as_ref(),
        Outcome::Passed | Outcome::Diverged(_) => None,
    };
    at.map(|at| at.step as usize)
}

/// A scenario and a schedule on their way to becoming small.
#[derive(Clone, Debug)]
struct Candidate {
    plan: Plan,
    list: Vec<Deviation>,
}

/// Makes a failure small, with at most so many runs.
///
/// # Errors
/// When the failure does not come about again.
pub fn shrink(failure: &Failure, max_runs: u32) -> Result<Shrunk, ShrinkError> {
    let mut plan = failure.plan.clone().without_places();
    (plan.expect_violation, plan.schedule) = (None, Schedule::Any);
    let plan = numbered(plan);
    let options = RunOptions { check: failure.verdict.invariant.is_some(), ..RunOptions::default() };
    let mut tester = Tester { wanted: failure.verdict.clone(), expects: None, calm: false, options, runs: 0, max_runs };
    let list = recorded(failure, &plan, &mut tester)?;
    // A broken invariant is the same failure wherever and whenever it breaks.
    tester.calm = tester.expects.is_some() && tester.passes_calm(&plan);
    let before = Counts::of(&plan, deviations(&list).len());
    let mut candidate = Candidate { plan, list };
    let seen = tester.once(&candidate.plan, &candidate.list);
    let mut seen = seen.ok_or_else(|| ShrinkError::Gone("not under its deviations alone".to_owned()))?;
    schedule::minimise(&mut candidate, &mut seen, &mut tester);
    let schedule_runs = tester.runs;
    structure::minimise(&mut candidate, &mut seen, &mut tester);
    schedule::minimise(&mut candidate, &mut seen, &mut tester);
    // What became possible by that.
    structure::minimise(&mut candidate, &mut seen, &mut tester);

    let Candidate { plan, list } = candidate;
    let mut plan = plan.without_places();
    let after = Counts::of(&plan, deviations(&list).len());
    let mut remarks = Remarks::default();
    remarks.head.push(format!("Shrunk from {} ({}).", failure.name, found_by(failure)));
    remarks.head.push(format!("before: {before}"));
    remarks.head.push(format!("after:  {after}"));
    slice::mark(&plan, &list, &tester.options, &mut remarks);
    plan.about = about(&seen.verdict).into();
    plan.schedule = match list.is_empty() {
        true => Schedule::Calm,
        false => Schedule::Deviations(Arc::new(Deviations { list: list.clone() })),
    };
    // With a quirk it is wrong on purpose; without one it is to pass one day.
    if !plan.quirks.is_empty() {
        plan.expect_violation = seen.verdict.invariant.as_ref().and_then(|name| Invariant::find(name));
    }
    let (runs, deviations, verdict) = (tester.runs, deviations(&list), seen.verdict);
    Ok(Shrunk { plan, deviations, verdict, before, after, schedule_runs, runs, remarks })
}

fn deviations(list: &[Deviation]) -> Vec<Deviation> {
    list.iter().filter(|deviation| !schedule::is_mode(deviation)).cloned().collect()
}

/// The deviations of the recorded run.
fn recorded(failure: &Failure, plan: &Plan, tester: &mut Tester) -> Result<Vec<Deviation>, ShrinkError> {
    tester.runs += 1;
    let mut recorder = DeviationRecorder::new(Replay::new(failure.choices.clone(), ReplayMode::Strict));
    let (outcome, _) = sim::run_with(plan, &mut recorder, &tester.options);
    match Verdict::of(&outcome) {
        Some(verdict) if verdict.same_kind(&tester.wanted) => {
            tester.expects = expects(&outcome);
            Ok(recorder.list.list)
        }
        Some(verdict) => Err(ShrinkError::Gone(format!("was {}, is {verdict}", tester.wanted))),
        None => Err(ShrinkError::Gone("the run passes".to_owned())),
    }
}

fn found_by(failure: &Failure) -> String {
    let seed = failure.seed.map(|seed| format!(", seed {seed}")).unwrap_or_default();
    format!("strategy {}{seed}", failure.strategy)
}

fn about(verdict: &Verdict) -> String {
    match (&verdict.invariant, &verdict.subject) {
        (Some(invariant), Some(subject)) => {
            format!("The invariant {invariant} is broken for {subject}: {}", verdict.reason)
        }
        _ => format!("The run ends as {verdict}"),
    }
}

/// The plan with these steps only; deviations of steps follow them, or go with them.
fn with_steps(candidate: &Candidate, keep: &[bool]) -> Candidate {
    let steps: Vec<PlannedStep> =
        candidate.plan.steps.iter().zip(keep).filter(|(_, keep)| **keep).map(|(step, _)| step.clone()).collect();
    let list = candidate.list.iter().filter_map(|deviation| schedule::moved(deviation, keep)).collect();
    Candidate { plan: Plan { steps: steps.into(), ..candidate.plan.clone() }, list }
}

/// Whether a step sends a command.
fn sends(kind: &StepKind) -> bool {
    matches!(kind, StepKind::Qmp { .. } | StepKind::Hmp { .. } | StepKind::Send { .. })
}

/// A run with a trace that says what led to what.
fn traced(plan: &Plan, list: &[Deviation], options: &RunOptions) -> Option<Sim> {
    let mut preempt = Deviate::new(Arc::new(Deviations { list: list.to_vec() }), ReplayMode::Lenient);
    sim::run_with(plan, &mut preempt, &RunOptions { level: Some(Level::Io), ..*options }).1
}
