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
        Err(outcome) => Modelled { outcome, lines: Vec::new(), console: String::new(), files: HostFiles::new() },
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
    Modelled { outcome, lines: client_lines(trace), console: console(trace), files: sim.world.files.clone() }
}

fn console(trace: &Trace) -> String {
    let mut text = String::new();
    for record in trace.iter() {
        if let RecordKind::Note(note) = &record.kind
            && note.what == "console"
        {
            text.push_str(&note.text);
            text.push('\n');
        }
    }
    text
}
