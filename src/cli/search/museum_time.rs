//! `blockjob-sim museum --time`: what it takes until each piece is first seen, in the scenario that was written for it and in generated
//! ones alone, as a table.
//!
//! Both searches are those that `fuzz` makes when it is told nothing else: the ladder for a file, and strategies in turn with
//! `--generate`. Processor time says what a user waits for, and differs from machine to machine; runs and dispatches do not.

use super::museum::{FAR, MuseumArgs, cpu_time, median_of, plan_of, shown, violated};
use crate::base::{counted, grouped};
use crate::cli::output::Output;
use crate::explore::{self, PORTFOLIO};
use crate::failure::TOOL;
use crate::generate;
use crate::quirk::{QuirkInfo, Quirks};
use crate::scenario::plan::Plan;
use crate::sim::outcome::{Outcome, RunOptions, Runner};
use crate::trace::Level;
use std::time::Duration;

/// Searches for each piece, unless the command line says otherwise.
pub(super) const STARTS: u64 = 5;
/// Runs after which a search gives up, unless the command line says otherwise.
pub(super) const RUNS: u64 = 4_000;

/// What a search took until it saw a piece for the first time.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    runs: u64,
    /// Dispatches of the main loop, in all runs together; 0 where nobody counts them.
    dispatches: u64,
    time: Duration,
}

/// The median of several searches, each figure for itself; `None` for one that is not reached by half of them.
#[derive(Clone, Copy, Debug)]
struct Middle {
    runs: Option<u64>,
    dispatches: Option<u64>,
    time: Option<Duration>,
}

impl Middle {
    /// Of searches of which some found nothing.
    fn of(searches: &[Option<Took>]) -> Middle {
        Middle {
            runs: median_of(searches.iter().map(|took| took.map(|took| took.runs))),
            dispatches: median_of(searches.iter().map(|took| took.map(|took| took.dispatches))),
            time: median_of(searches.iter().map(|took| took.map(|took| took.time))),
        }
    }

    /// Of the medians of all pieces.
    fn of_all(pieces: &[Middle]) -> Middle {
        Middle {
            runs: median_of(pieces.iter().map(|piece| piece.runs)),
            dispatches: median_of(pieces.iter().map(|piece| piece.dispatches)),
            time: median_of(pieces.iter().map(|piece| piece.time)),
        }
    }

    /// Cells of the table: runs, dispatches where they count, time.
    fn cells(&self, runs: u64, with_dispatches: bool) -> String {
        let number = |number: u64| grouped(&number.to_string());
        let (Some(found), Some(time)) = (self.runs, self.time) else {
            let empty = if with_dispatches { " – | – |" } else { " – |" };
            return format!(" > {} |{empty}", number(runs));
        };
        let dispatches = self.dispatches.filter(|_| with_dispatches);
        let dispatches = dispatches.map_or_else(String::new, |dispatches| format!(" {} |", number(dispatches)));
        format!(" {} |{dispatches} {} |", number(found), shown(time))
    }
}

/// Searches, and prints the table.
pub(super) fn table(args: &MuseumArgs, pieces: &[&QuirkInfo], runner: Runner, out: &mut Output) -> u8 {
    let (starts, runs) = (args.starts.unwrap_or(STARTS).max(1), args.runs.unwrap_or(RUNS));
    let (mut own, mut generated) = (Vec::new(), Vec::new());
    for about in pieces {
        let plan = match plan_of(&args.scenarios.join(format!("{}.yaml", about.name)), out) {
            Ok(plan) => plan,
            Err(code) => return code,
        };
        if own.is_empty() {
            // Behind the first look for a scenario: who calls this outside of a clone gets an error and no table.
            out.print(
                "| piece | breaks | own scenario, runs | time | generated, runs | dispatches | time |\n\
                 |---|---|---:|---:|---:|---:|---:|\n",
            );
        }
        let mine = Middle::of(&searches(starts, |start| ladder(about, &plan, start, runs)));
        let drawn = Middle::of(&searches(starts, |start| among_generated(about, start, runs, runner)));
        let (breaks, mine_cells, drawn_cells) = (about.breaks.name(), mine.cells(runs, false), drawn.cells(runs, true));
        out.print(&format!("| `{}` | {breaks} |{mine_cells}{drawn_cells}\n", about.name));
        own.push(mine);
        generated.push(drawn);
    }
    let (mine, drawn) = (Middle::of_all(&own), Middle::of_all(&generated));
    out.print(&format!("| median of all | |{}{}\n\n", mine.cells(runs, false), drawn.cells(runs, true)));
    let found = |pieces: &[Middle]| pieces.iter().filter(|piece| piece.runs.is_some()).count();
    out.print(&format!(
        "{TOOL}: of {}, {} found in their own scenarios, {} in generated ones; medians of {} of up to {} each.\n",
        counted(pieces.len() as u64, "piece"),
        found(&own),
        found(&generated),
        if starts == 1 { "1 search".to_owned() } else { format!("{starts} searches") },
        counted(runs, "run"),
    ));
    u8::from(found(&own) < own.len())
}

/// Searches from several seeds. More than half of them in vain are enough.
fn searches(starts: u64, search: impl Fn(u64) -> Option<Took>) -> Vec<Option<Took>> {
    let mut found = Vec::new();
    let in_vain = |found: &[Option<Took>]| found.iter().filter(|took| took.is_none()).count() as u64;
    for start in 0..starts {
        if in_vain(&found) > starts / 2 {
            found.resize(usize::try_from(starts).unwrap_or(usize::MAX), None);
            break;
        }
        found.push(search(start));
    }
    found
}

/// Goes up the ladder until the first violation.
fn ladder(about: &QuirkInfo, plan: &Plan, start: u64, runs: u64) -> Option<Took> {
    let begin = cpu_time();
    let quirks = Quirks::NONE.with(about.quirk);
    let tally = explore::check(plan).quirks(quirks).runs(runs).first_seed(start * FAR).run().ok()?;
    let found = tally.found.first()?;
    let runs = found.seed.map_or(tally.runs, |seed| tally.runs.min(seed - start * FAR + 1));
    Some(Took { runs, dispatches: 0, time: cpu_time().saturating_sub(begin) })
}

/// Generated scenarios until one shows the piece, which runs clean without it.
fn among_generated(about: &QuirkInfo, start: u64, runs: u64, runner: Runner) -> Option<Took> {
    let begin = cpu_time();
    let drawn = generate::Options { all_kinds: true, ..generate::Options::default() };
    let options = RunOptions { level: Some(Level::Client), check: true, ..RunOptions::default() };
    let mut dispatches = 0;
    for run in 0..runs {
        let seed = start * FAR + run;
        let plan = generate::with(&drawn, seed).plan;
        let strategy = PORTFOLIO[(run % PORTFOLIO.len() as u64) as usize];
        let ran = |quirks| runner(&plan, strategy.chooser(seed), &RunOptions { quirks, ..options });
        let on = ran(Quirks::NONE.with(about.quirk));
        dispatches += on.dispatches;
        // A defect that the model has in any case, and that has a page of its own, is not this one.
        let other = !about.quirk.is_live() && on.outcome.page().is_some();
        if violated(&on.outcome) && !other && ran(Quirks::NONE.without(about.quirk)).outcome == Outcome::Passed {
            return Some(Took { runs: run + 1, dispatches, time: cpu_time().saturating_sub(begin) });
        }
    }
    None
}
