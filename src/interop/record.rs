//! Recordings: client traces of a real QEMU, the distinct ones with how often each was seen.
#![expect(clippy::disallowed_methods, reason = "the shell makes directories")]

use super::carry::{Carried, ClientPace, carry};
use super::scratch::{Guard, Scratch};
use super::{Trouble, trouble};
use crate::base::Json;
use crate::scenario::plan::Plan;
use crate::trace::canonical;
use crate::trace::compare::{ClientLine, first_difference};
use std::fmt;
use std::fs;

/// What was seen of one scenario.
#[derive(Debug)]
pub struct Recording {
    name: String,
    version: String,
    runs: u32,
    /// Distinct traces, each with its count.
    seen: Vec<(u32, Vec<ClientLine>)>,
}

impl Recording {
    /// An empty one, of the scenario with this name.
    #[must_use]
    pub fn new(name: &str) -> Recording {
        Recording { name: name.to_owned(), version: String::new(), runs: 0, seen: Vec::new() }
    }

    /// Takes in a run. A process that outlives its scenario is killed, which leaves no line.
    pub fn add(&mut self, carried: Carried) {
        self.runs += 1;
        self.version = carried.version;
        let lines = carried.lines;
        match self.seen.iter_mut().find(|(_, known)| first_difference(known, &lines).is_none()) {
            Some((count, _)) => *count += 1,
            None => self.seen.push((1, lines)),
        }
    }
}

/// JSON lines: a header that says which QEMU it was and how often this was seen, then the trace; the most frequent first.
impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut seen: Vec<&(u32, Vec<ClientLine>)> = self.seen.iter().collect();
        seen.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        for (count, lines) in seen {
            let header = Json::dict(vec![
                ("case", Json::str(&self.name)),
                ("of", Json::uint(u64::from(self.runs))),
                ("qemu", Json::str(&self.version)),
                ("seen", Json::uint(u64::from(*count))),
            ]);
            writeln!(f, "{}", canonical::to_string(&header))?;
            for line in lines {
                writeln!(f, "{line}")?;
            }
        }
        Ok(())
    }
}

/// Carries the plan out once, in a directory within `scratch` that is removed again.
///
/// # Errors
/// If the images cannot be made or the process cannot be started.
pub fn once(
    command: &[String],
    plan: &Plan,
    pace: ClientPace,
    guard: &Guard,
    scratch: &Scratch,
) -> Result<Carried, Trouble> {
    let dir = scratch.path().join("run");
    fs::create_dir(&dir).map_err(|error| trouble(&dir.display().to_string(), &error))?;
    let carried = carry(command, plan, &dir, pace, guard);
    let _ = fs::remove_dir_all(&dir);
    let carried = carried?;
    match carried.version.is_empty() {
        true => Err(Trouble(format!("QEMU does not start: {}", carried.stderr.trim()))),
        false => Ok(carried),
    }
}
