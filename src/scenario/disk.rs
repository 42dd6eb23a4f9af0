//! Scenarios in real files, for tests: all else of this module gets its texts from whoever calls it.
#![expect(clippy::disallowed_methods, reason = "reads scenario files, and nothing else does here")]

use super::{Plan, ScenarioError, load, with_steps};
use std::path::Path;

/// Reads a scenario from a file, with the files that it includes.
///
/// ```no_run
/// use blockjob_sim::{choice::Chooser, scenario, sim};
///
/// let plan = scenario::load_file("tests/backup.yaml")?;
/// let run = sim::run(&plan, Chooser::seed(7), &Default::default());
/// println!("{}", run.outcome);
/// # Ok::<(), Box<scenario::ScenarioError>>(())
/// ```
///
/// # Errors
/// The first mistake, with its place; also that the file cannot be read, or holds only definitions.
pub fn load_file(path: impl AsRef<Path>) -> Result<Plan, Box<ScenarioError>> {
    let name = path.as_ref().to_string_lossy();
    let mut read = |name: &str| std::fs::read_to_string(name).map_err(|error| error.to_string());
    with_steps(&name, load(&name, &mut read)?)
}
