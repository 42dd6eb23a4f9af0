//! `blockjob-sim replay`.

use crate::choice::ReplayMode;
use crate::cli::output::Output;
use crate::cli::run::{figures, print_text};
use crate::cli::scenario::check::WIDTH;
use crate::cli::{EXIT_CODES, EXIT_USAGE, files, report};
use crate::failure::{Failure, FailureError};
use crate::sim::outcome::{Outcome, RunOptions, Runner};
use crate::trace::Level;
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `replay`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct ReplayArgs {
    /// The failure file
    file: PathBuf,
    /// Continue with calm choices where the recorded ones no longer fit, instead of ending with code 4
    #[arg(long)]
    lenient: bool,
    /// Detail of the trace: client, job, io or co (`help trace`)
    #[arg(long, default_value = "client", value_parser = str::parse::<Level>)]
    level: Level,
}

/// Reads a failure file; says what is wrong with it if it is none.
pub(in crate::cli) fn failure(path: &Path, out: &mut Output) -> Option<Failure> {
    let name = path.to_string_lossy();
    let text = match files::text(path) {
        Ok(text) => text,
        Err(why) => {
            out.error(&format!("{name}: {why}"));
            return None;
        }
    };
    match Failure::from_text(&name, &text) {
        Ok(failure) => Some(failure),
        Err(FailureError::Yaml(error)) => {
            out.complain(&report::render(&error, WIDTH, out.colour_err));
            None
        }
        Err(error) => {
            out.error(&error.to_string());
            None
        }
    }
}

/// Shows a failure again.
pub(in crate::cli) fn replay(args: &ReplayArgs, runner: Runner, out: &mut Output) -> u8 {
    let Some(failure) = failure(&args.file, out) else { return EXIT_USAGE };
    let mode = if args.lenient { ReplayMode::Lenient } else { ReplayMode::Strict };
    let options = RunOptions { level: Some(args.level), ..RunOptions::default() };
    let shown = failure.replay(runner, mode, &options);
    print_text(&shown.run, out);
    let mut said = format!("{}\n{}\n", shown.run.outcome, figures(&shown.run));
    if shown.same {
        said.push_str("the same failure, and the same trace\n");
    } else {
        for line in &shown.differences {
            said.push_str(&format!("{line}\n"));
        }
        if matches!(shown.run.outcome, Outcome::Diverged(_)) {
            said.push_str("--lenient goes on calmly from there\n");
        }
    }
    out.complain(&said);
    shown.run.outcome.exit_code()
}
