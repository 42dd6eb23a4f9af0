//! `validate`: is this client trace one that the model can produce?
//!
//! The answer is a list of choices that produces it, or the longest part of it that a schedule was found for, with what the model
//! gave next instead. The search ([`search`]) follows the trace: what the process puts out has a fixed order, so a schedule is given
//! up at the first output that is not the trace's next one.

mod guide;
pub mod logs;
pub mod mutate;
pub mod search;
pub mod target;

pub use search::{Answer, Effort, HANG, Refusal, search, validate, validate_like, validate_printed};

use crate::scenario::nbd::{NbdAction, NbdStep};
use crate::scenario::plan::{Expect, Fails, Plan, PlannedStep, Pos, StepKind};
use crate::trace::compare::ClientLine;
use std::sync::Arc;

/// The plan without what it expects: only what it does, and when it waits.
#[must_use]
pub fn unexpecting(plan: &Plan) -> Plan {
    let bare_step = |step: &PlannedStep| -> PlannedStep {
        let kind = match &step.kind {
            StepKind::Qmp { command, .. } => StepKind::Qmp { command: command.clone(), expect: Expect::Any },
            StepKind::Hmp { line, .. } => {
                StepKind::Hmp { line: line.clone(), output: None, returns: None, fails: Fails::Any }
            }
            // Servers are part of what the process finds around it.
            StepKind::Nbd(NbdStep { action: NbdAction::Serve(_) | NbdAction::Server(_), .. }) => step.kind.clone(),
            StepKind::Bitmap(_)
            | StepKind::Same(_)
            | StepKind::NoJobs
            | StepKind::Nbd(_)
            | StepKind::NoEvents { .. }
            | StepKind::Mark(_) => StepKind::Idle,
            other => other.clone(),
        };
        PlannedStep { kind, ..step.clone() }
    };
    let steps = plan.steps.iter().map(bare_step).collect();
    Plan { steps, expect_violation: None, ..plan.clone() }
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
