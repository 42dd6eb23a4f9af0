//! `blockjob-sim shrink`.
#![expect(clippy::disallowed_methods, reason = "the shell writes the result to a real file")]

use crate::base::counted;
use crate::cli::output::Output;
use crate::cli::run::replay;
use crate::cli::{EXIT_USAGE, files};
use crate::shrink::{self, Shrunk};
use crate::sim;
use crate::sim::outcome::{Outcome, RunOptions};
use crate::trace::{Level, text};
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `shrink`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  the smaller failure was printed or saved\n  1  the failure does not come about again\n  2  a mistake in the arguments or in the file"
)]
pub(in crate::cli) struct ShrinkArgs {
    /// The failure file
    file: PathBuf,
    /// Write the scenario into this folder, as in sim-scenarios/regress, instead of printing it; below a folder sim-scenarios its
    /// snapshot is written too, into snapshots beside that
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Make at most this many runs
    #[arg(long, value_name = "N", default_value_t = shrink::MAX_RUNS)]
    runs: u32,
}

/// Makes a failure small and prints it as a scenario; 1 stands for a failure that does not come about again.
pub(in crate::cli) fn shrink(args: &ShrinkArgs, out: &mut Output) -> u8 {
    let Some(failure) = replay::failure(&args.file, out) else { return EXIT_USAGE };
    let shrunk = match shrink::shrink(&failure, args.runs) {
        Ok(shrunk) => shrunk,
        Err(error) => {
            out.error(&format!("{}: {error}", args.file.display()));
            return 1;
        }
    };
    let mut said = format!("{}\nbefore: {}\nafter:  {}\n", shrunk.verdict, shrunk.before, shrunk.after);
    said.push_str(&format!(
        "{}, {} of them until the schedule was small\n",
        counted(u64::from(shrunk.runs), "run"),
        shrunk.schedule_runs
    ));
    let code = match &args.save {
        None => {
            out.print(&shrunk.to_yaml());
            0
        }
        Some(folder) => match save(folder, &args.file, &shrunk) {
            Ok(written) => {
                said.push_str(&written);
                0
            }
            Err(why) => {
                out.complain(&said);
                out.error(&format!("--save: {why}"));
                return EXIT_USAGE;
            }
        },
    };
    out.complain(&said);
    code
}

/// Writes the scenario into a folder, under the name of the invariant and of the failure's file, and its snapshot; says where.
fn save(folder: &Path, file: &Path, shrunk: &Shrunk) -> Result<String, String> {
    let told = |path: &Path, error: std::io::Error| format!("{}: {}", path.display(), files::plain(&error));
    std::fs::create_dir_all(folder).map_err(|error| told(folder, error))?;
    let kind = shrunk.verdict.invariant.as_ref().unwrap_or(&shrunk.verdict.outcome);
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    // A failure's file begins with its kind already.
    let name = if stem.starts_with(&**kind) { stem } else { format!("{kind}-{stem}") };
    let path = folder.join(format!("{name}.yaml"));
    crate::serve::outfile::write(&path, shrunk.to_yaml().as_bytes()).map_err(|error| told(&path, error))?;
    let mut said = format!("written to {}\n", path.display());
    let Some((root, below)) = scenarios_above(folder) else { return Ok(said) };
    let options = RunOptions { level: Some(Level::Client), ..RunOptions::default() };
    let run = sim::run(&shrunk.plan, sim::chooser(&shrunk.plan.schedule), &options);
    if run.outcome != Outcome::Passed {
        said.push_str("no snapshot: it fails until what it shows is fixed, then INSTA_UPDATE=always cargo test --test scenarios\n");
        return Ok(said);
    }
    let scenario = Path::new("sim-scenarios").join(&below).join(format!("{name}.yaml"));
    let snapshot = root.join("snapshots").join(&below);
    std::fs::create_dir_all(&snapshot).map_err(|error| told(&snapshot, error))?;
    let snapshot = snapshot.join(format!("{name}.snap"));
    let lines = text::short_lines(run.trace.iter(), text::SNAPSHOT_WIDTH);
    let head = format!("---\nsource: tests/scenarios.rs\ndescription: blockjob-sim run {}\n---\n", scenario.display());
    crate::serve::outfile::write(&snapshot, (head + &lines).as_bytes()).map_err(|error| told(&snapshot, error))?;
    said.push_str(&format!("its snapshot: {}; `cargo test --test scenarios` runs it\n", snapshot.display()));
    Ok(said)
}

/// The folder that holds the `sim-scenarios` which this one is below of, and the way from there.
fn scenarios_above(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let parts: Vec<_> = folder.components().collect();
    let at = parts.iter().rposition(|part| part.as_os_str() == "sim-scenarios")?;
    let below: PathBuf = parts[at + 1..].iter().collect();
    (!below.as_os_str().is_empty()).then(|| (parts[..at].iter().collect(), below))
}
