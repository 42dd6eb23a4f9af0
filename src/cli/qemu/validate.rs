//! `blockjob-sim validate`: is this trace one that the model can produce?

use crate::base::counted;
use crate::choice::{ChoiceLog, Chooser, Replay, ReplayMode};
use crate::cli::output::Output;
use crate::cli::{EXIT_USAGE, files};
use crate::scenario::Plan;
use crate::sim;
use crate::sim::outcome::{Outcome, RunOptions};
use crate::trace::compare::ClientLine;
use crate::validate::{self, Answer, Effort, logs};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `validate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  the model can produce the trace\n  1  no such schedule was found\n  2  a mistake in the arguments or in a file"
)]
pub(in crate::cli) struct ValidateArgs {
    /// The trace: JSON lines as `record` writes them, a QMP log of QEMU's iotests, or libvirt's log
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    /// The scenario with the images and QEMU's arguments; if it has no commands, those of the trace are sent
    #[arg(long, value_name = "FILE")]
    scenario: PathBuf,
    /// Attempts to find a schedule, for each kind of schedule
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    tries: u32,
}

/// 0 if each trace of the file is possible, 1 if one is not.
pub(in crate::cli) fn validate(args: &ValidateArgs, out: &mut Output) -> u8 {
    let Some(plan) = files::scenario(&args.scenario, out) else { return EXIT_USAGE };
    let name = args.trace.display().to_string();
    let text = match files::text(&args.trace) {
        Ok(text) => text,
        Err(problem) => {
            out.error(&format!("{name}: {problem}"));
            return EXIT_USAGE;
        }
    };
    let traces = match logs::read(&text) {
        Ok(traces) => traces,
        Err(problem) => {
            out.error(&format!("{name}: {problem}"));
            return EXIT_USAGE;
        }
    };
    let mut code = 0;
    for (number, trace) in traces.iter().enumerate() {
        let of = if traces.len() > 1 { format!("{name}, trace {}", number + 1) } else { name.clone() };
        let bare = validate::bare(&plan, trace);
        match validate::validate(&bare, trace, Effort { tries: args.tries, ..Effort::default() }) {
            Answer::Possible(choices) => {
                out.print(&format!("{of}: possible, by these choices:\n{}", crate::cli::run::listed(&choices)));
                if let Some(outcome) = unmet(&plan, &bare, choices) {
                    out.print(&format!(
                        "what the scenario expects fails in it, on the model as in the trace:\n{outcome}\n"
                    ));
                }
            }
            // Nobody says of such a trace that a signal ended it.
            Answer::Dies(choices, broken) => {
                out.print(&format!("{of}: possible, and the process dies ({broken}):\n{}", choices.deviations()));
            }
            Answer::Refused(refusal) => {
                code = 1;
                let lines = trace.len();
                out.print(&format!(
                    "{of}: no schedule gives it, after {}; the longest part that fits ends before line {} of {lines}\n",
                    counted(u64::from(refusal.tries), "attempt"),
                    refusal.matched + 1
                ));
                let came = refusal.came.as_ref().map_or("(the end)".to_owned(), ClientLine::to_string);
                out.print(&format!("  the trace has {came}\n"));
                for line in &refusal.allowed {
                    let who = if matches!(line, ClientLine::Command(_)) { "scenario sends" } else { "model gives" };
                    out.print(&format!("  the {who} {line}\n"));
                }
                if let Some(reason) = &refusal.reason {
                    out.print(&format!("  {reason}\n"));
                }
            }
        }
    }
    code
}

/// How the scenario itself ends with these choices, if what it expects is not met. One that sends what the trace does expects nothing.
fn unmet(plan: &Plan, bare: &Plan, choices: ChoiceLog) -> Option<Outcome> {
    let whole = if plan.steps.len() == bare.steps.len() { plan } else { bare };
    let chooser = Chooser::Replay(Replay::new(Arc::new(choices), ReplayMode::Lenient));
    let outcome = sim::run(whole, chooser, &RunOptions::default()).outcome;
    matches!(outcome, Outcome::Failed { .. } | Outcome::Stuck { .. } | Outcome::Limit { .. }).then_some(outcome)
}
