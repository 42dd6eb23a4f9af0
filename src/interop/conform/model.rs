//! A program on the model, with all that is compared afterwards.

use crate::choice::Choose;
use crate::host::HostFiles;
use crate::scenario::plan::Plan;
use crate::sim::Sim;
use crate::sim::outcome::{Outcome, RunOptions};
use crate::trace::compare::{ClientLine, client_lines};
use crate::trace::{Level, RecordKind, Trace};

/// What came of it.
#[derive(Clone, Debug)]
pub struct Modelled {
    /// How the run ended.
    pub outcome: Outcome,
    /// What the client saw.
    pub lines: Vec<ClientLine>,
    /// What clients of the NBD server were answered.
    pub answers: Vec<String>,
    /// What the process printed.
    pub console: String,
    /// The files it left.
    pub files: HostFiles,
}

/// Runs it, without a net: a panic is the caller's.
#[must_use]
pub fn run(plan: &Plan, choose: &mut dyn Choose) -> Modelled {
    let options = RunOptions { level: Some(Level::Job), ..RunOptions::default() };
    match Sim::new(plan, &options) {
        Err(outcome) => {
            let (lines, answers) = (Vec::new(), Vec::new());
            Modelled { outcome, lines, answers, console: String::new(), files: HostFiles::new() }
        }

        Ok(mut sim) => {
            let outcome = sim.finish(choose);
            of(outcome, &sim)
        }
    }
}

/// What a finished run left.
#[must_use]
pub fn of(outcome: Outcome, sim: &Sim) -> Modelled {
    let trace = &sim.world.trace;
    let answers = notes(trace, "nbd").map(ToString::to_string).collect();
    let console = notes(trace, "console").map(|line| format!("{line}\n")).collect();
    Modelled { outcome, lines: client_lines(trace), answers, console, files: sim.world.files.clone() }
}

fn notes<'a>(trace: &'a Trace, what: &'static str) -> impl Iterator<Item = &'a str> {
    trace.iter().filter_map(move |record| match &record.kind {
        RecordKind::Note(note) if note.what == what => Some(&*note.text),
        _ => None,
    })
}
