//! `blockjob-sim export`: a scenario as a script for a real QEMU.

use crate::base::time::Instant;
use crate::choice::{Chooser, Replay, ReplayMode, Walk};
use crate::cli::output::Output;
use crate::cli::{EXIT_USAGE, files};
use crate::interop::confine;
use crate::interop::export::{given, in_order, script};
use crate::scenario::plan::Schedule;
use crate::sim;
use crate::sim::outcome::{Outcome, RunOptions};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  the script was printed\n  2  a mistake in the arguments or in a scenario file"
)]
pub(in crate::cli) struct ExportArgs {
    /// The scenario file
    file: PathBuf,
    /// Kind of script
    #[arg(long = "as", value_name = "FORM", default_value = "qmp-script")]
    form: Form,
    /// Send each command immediately after the previous reply, instead of when QEMU is at rest
    #[arg(long)]
    racing: bool,
    /// Force the order of events that the model has under this seed; without it, that of the scenario's own `schedule`
    #[arg(long, value_name = "N", conflicts_with = "racing")]
    seed: Option<u64>,
    /// Force the order of events that the model has with these choices: a list, or a file with it
    #[arg(long, value_name = "LIST", conflicts_with_all = ["racing", "seed"])]
    replay: Option<String>,
    /// Also export scenarios that may touch files outside of the script's directory: allow any option, command and file name
    #[arg(long)]
    trust: bool,
}

/// Forms of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A Python script that makes the images, starts QEMU and drives it over QMP
    QmpScript,
}

/// Prints the script.
pub(in crate::cli) fn export(args: &ExportArgs, out: &mut Output) -> u8 {
    let Some(plan) = files::scenario(&args.file, out) else { return EXIT_USAGE };
    if let Err(trouble) = if args.trust { Ok(()) } else { confine::check(&plan) } {
        out.error(&trouble.to_string());
        return EXIT_USAGE;
    }
    let chosen = match (&args.replay, args.seed, &plan.schedule) {
        (Some(list), _, _) => match crate::cli::run::choices(list) {
            Ok(log) => Chooser::Replay(Replay::new(Arc::new(log), ReplayMode::Strict)),
            Err(problem) => {
                out.error(&format!("--replay: {problem}"));
                return EXIT_USAGE;
            }
        },
        (None, Some(seed), _) => Chooser::Walk(Box::new(Walk::new(seed))),
        (None, None, Schedule::Any | Schedule::Calm) => {
            let Form::QmpScript = args.form;
            out.print(&script(&plan, !args.racing));
            return 0;
        }
        (None, None, schedule) => sim::chooser(schedule),
    };
    let mut chooser = chosen.clone();
    let run = sim::run(&plan, chosen, &RunOptions::default());
    let outcome = run.outcome;
    if let Outcome::Diverged(_) | Outcome::Crash { .. } = &outcome {
        out.error(&format!("{}: {outcome}", args.file.display()));
        return outcome.exit_code();
    }
    let (script, cannot) = in_order(&plan, &given(&plan, &mut chooser), &outcome, run.time - Instant::START);
    out.print(&script);
    if outcome != Outcome::Passed {
        out.remark(&format!("the run fails, and the script goes as far as it does: {outcome}\n"));
    }
    for what in cannot {
        out.remark(&format!("cannot be forced, the script tries until it comes: {what}\n"));
    }
    0
}
