//! `blockjob-sim check`.

use super::output::Output;
use super::{EXIT_USAGE, files, report};
use std::path::PathBuf;

/// Columns of a report.
pub(super) const WIDTH: usize = 120;

/// Reads each file and shows its first mistake.
pub(super) fn check(paths: &[PathBuf], out: &mut Output) -> u8 {
    let mut code = 0;
    for path in paths {
        match files::plan(path) {
            Ok(Some(plan)) => {
                out.print(&format!("{}: ok, steps: {}; {}\n", path.display(), plan.steps.len(), plan.about))
            }
            Ok(None) => out.print(&format!("{}: ok, definitions only\n", path.display())),
            Err(error) => {
                out.complain(&report::render(&error, WIDTH, out.colour_err));
                code = EXIT_USAGE;
            }
        }
    }
    code
}
