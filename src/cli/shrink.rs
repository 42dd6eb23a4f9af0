//! `blockjob-sim shrink`.
#![expect(clippy::disallowed_methods, reason = "the shell writes the result to a real file")]

use super::output::Output;
use super::{EXIT_USAGE, replay};
use crate::shrink::{self, Shrunk};
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `shrink`.
#[derive(Debug, Args)]
pub(super) struct ShrinkArgs {
    /// The failure file
    file: PathBuf,
    /// Write the scenario into this folder, as in sim-scenarios/regress, instead of printing it
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Make at most so many runs
    #[arg(long, value_name = "N", default_value_t = shrink::MAX_RUNS)]
    runs: u32,
}

/// Makes a failure small and prints it as a scenario; 1 stands for a failure that does not come about again.
pub(super) fn shrink(args: &ShrinkArgs, out: &mut Output) -> u8 {
    let Some(failure) = replay::failure(&args.file, out) else { return EXIT_USAGE };
    let shrunk = match shrink::shrink(&failure, args.runs) {
        Ok(shrunk) => shrunk,
        Err(error) => {
            out.complain(&format!("{}: {error}\n", args.file.display()));
            return 1;
        }
    };
    let mut said = format!("{}\nbefore: {}\nafter:  {}\n", shrunk.verdict, shrunk.before, shrunk.after);
    said.push_str(&format!("{} runs, {} of them until the schedule was small\n", shrunk.runs, shrunk.schedule_runs));
    let code = match &args.save {
        None => {
            out.print(&shrunk.to_yaml());
            0
        }
        Some(folder) => match save(folder, &args.file, &shrunk) {
            Ok(path) => {
                said.push_str(&format!("written to {}\n", path.display()));
                said.push_str("its snapshot: INSTA_UPDATE=always cargo test --test scenarios\n");
                0
            }
            Err(why) => {
                said.push_str(&format!("{}: {why}\n", folder.display()));
                EXIT_USAGE
            }
        },
    };
    out.complain(&said);
    code
}

/// Writes the scenario into a folder, under the name of the invariant and of the failure's file.
fn save(folder: &Path, file: &Path, shrunk: &Shrunk) -> Result<PathBuf, String> {
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let kind = shrunk.verdict.invariant.as_ref().unwrap_or(&shrunk.verdict.outcome);
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let path = folder.join(format!("{kind}-{stem}.yaml"));
    std::fs::write(&path, shrunk.to_yaml()).map_err(|error| error.to_string())?;
    Ok(path)
}
