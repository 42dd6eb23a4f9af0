//! `validate`: is this client trace one that the model can produce?
//!
//! The answer is a list of choices that produces it, or the longest part of it that a schedule was found for, with what the model
//! gave next instead. The search (`search`) follows the trace: what the process puts out has a fixed order, so a schedule is given
//! up at the first output that is not the trace's next one.

mod guide;
pub mod logs;
pub mod mutate;
pub mod search;
pub mod target;

pub use search::{Answer, HANG, Refusal, search, validate, validate_like, validate_printed};

use crate::scenario::nbd::{MAY_BE_REFUSED, NbdAction, NbdAnswer, NbdStep};
use crate::scenario::plan::{Expect, Fails, Plan, PlannedStep, Pos, StepKind};
use crate::trace::compare::ClientLine;
use std::sync::Arc;

/// How long a search may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Attempts: continuations from a kept state.
    pub tries: u32,
    /// Steps of the model, over all attempts.
    pub steps: u64,
    /// Where random choices come from. Only with 0 is the calm schedule tried first: others find others. Odd ones look among schedules
    /// first in which requests are done in any order.
    pub seed: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Effort { tries: 3_000, steps: 20_000_000, seed: 0 }
    }
}

/// The plan without what it expects: only what it does, and when it waits.
#[must_use]
pub fn unexpecting(plan: &Plan) -> Plan {
    let bare_step = |step: &PlannedStep| -> PlannedStep {
        let kind = match &step.kind {
            StepKind::Qmp { command, .. } => StepKind::Qmp { command: command.clone(), expect: Expect::Any },
            StepKind::Hmp { line, .. } => {
                StepKind::Hmp { line: line.clone(), output: None, returns: None, fails: Fails::Any }
            }
            StepKind::Send { bytes, .. } => StepKind::Send { bytes: bytes.clone(), replies: None },
            StepKind::Nbd(step) => StepKind::Nbd(NbdStep { action: unexpecting_nbd(&step.action), ..step.clone() }),
            StepKind::Bitmap(_)
            | StepKind::Same(_)
            | StepKind::NoJobs
            | StepKind::NoEvents { .. }
            | StepKind::Mark(_) => StepKind::Idle,
            other => other.clone(),
        };
        PlannedStep { kind, ..step.clone() }
    };
    let steps = plan.steps.iter().map(bare_step).collect();
    Plan { steps, expect_violation: None, ..plan.clone() }
}

/// What a client of the NBD server does, without what it expects. That it waits for the end of its connection is no expectation.
fn unexpecting_nbd(action: &NbdAction) -> NbdAction {
    match action.clone() {
        NbdAction::Answer(NbdAnswer::Closed) => NbdAction::Answer(NbdAnswer::Closed),
        NbdAction::Answer(_) => NbdAction::Answer(NbdAnswer::Any),
        NbdAction::Connect { export, replies, contexts, silent, .. } => {
            NbdAction::Connect { export, replies, contexts, silent, refused: Some(MAY_BE_REFUSED.into()) }
        }
        other => other,
    }
}

/// The same. One that sends nothing sends what the trace does.
#[must_use]
pub fn bare(plan: &Plan, trace: &[ClientLine]) -> Plan {
    let bare = unexpecting(plan);
    let sends = |step: &PlannedStep| matches!(step.kind, StepKind::Qmp { .. } | StepKind::Hmp { .. });
    if bare.steps.iter().any(sends) { bare } else { Plan { steps: commands(trace), ..bare } }
}

/// Steps that send what the trace says was sent.
fn commands(trace: &[ClientLine]) -> Arc<[PlannedStep]> {
    let step = |(number, line): (usize, &ClientLine)| match line {
        ClientLine::Command(command) => {
            let line = u32::try_from(number + 1).unwrap_or(u32::MAX);
            let pos = Pos { file: "the trace".into(), line, column: 1 };
            let kind = StepKind::Qmp { command: command.clone(), expect: Expect::Any };
            Some(PlannedStep { pos, calls: Arc::new([]), kind })
        }
        _ => None,
    };
    trace.iter().enumerate().filter_map(step).collect()
}
