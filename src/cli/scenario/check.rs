//! `blockjob-sim check`.

use crate::base::{counted, part_of};
use crate::cli::output::Output;
use crate::cli::{EXIT_USAGE, files, report};
use crate::scenario::Library;
use std::path::PathBuf;

/// Columns of a report.
pub(in crate::cli) const WIDTH: usize = 120;

/// Reads each file and shows its mistakes.
pub(in crate::cli) fn check(paths: &[PathBuf], out: &mut Output) -> u8 {
    let found = match files::named(paths, &[]) {
        Ok(found) => found,
        Err(problem) => {
            out.error(&problem);
            return EXIT_USAGE;
        }
    };
    if found.is_empty() {
        out.error(&files::none(paths, &[]));
        return EXIT_USAGE;
    }
    let (mut library, mut mistakes, mut wrong) = (Library::default(), 0, 0);
    for (_, path) in &found {
        match files::checked(&mut library, path) {
            Ok(_) if out.quiet => {}
            Ok(Some(plan)) => {
                let about = plan.about.split_whitespace().collect::<Vec<_>>().join(" ");
                out.print(&format!("{}: ok, {}: {about}\n", path.display(), counted(plan.steps.len() as u64, "step")))
            }
            Ok(None) => out.print(&format!("{}: ok, definitions only\n", path.display())),
            Err(errors) => {
                for error in &errors {
                    out.complain(&report::render(error, WIDTH, out.colour_err));
                }
                (mistakes, wrong) = (mistakes + errors.len(), wrong + 1);
            }
        }
    }
    if mistakes > 1 {
        out.complain(&format!(
            "{} in {}\n",
            counted(mistakes as u64, "mistake"),
            part_of(wrong, found.len() as u64, "file")
        ));
    }
    if mistakes > 0 { EXIT_USAGE } else { 0 }
}
