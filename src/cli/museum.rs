//! `blockjob-sim museum`: how soon each wrong behaviour is found, as a table.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell measures how long a search takes")]

use super::output::Output;
use super::{EXIT_USAGE, files, report};
use crate::choice::{Chooser, Walk};
use crate::quirk::{About, Origin, Quirk, Quirks, TABLE};
use crate::scenario::plan::Plan;
use crate::sim::outcome::{Outcome, RunOptions, Runner};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Arguments of `museum`.
#[derive(Debug, Args)]
pub struct MuseumArgs {
    /// Tell only of these quirks
    #[arg(value_parser = str::parse::<Quirk>)]
    names: Vec<Quirk>,
    /// Searches for each quirk, each from another seed; figures are medians over them
    #[arg(long, default_value_t = 20, value_name = "N")]
    starts: u64,
    /// Runs after which a search is given up
    #[arg(long, default_value_t = 1000, value_name = "N")]
    runs: u64,
    /// Search among generated scenarios, and not in the one written for the quirk
    #[arg(long)]
    generated: bool,
    /// Folder with the scenarios
    #[arg(long, default_value = "sim-scenarios/museum", value_name = "DIR")]
    scenarios: PathBuf,
}

/// Who makes the choices of the run of a seed.
type Way = fn(u64) -> Chooser;

const WAYS: &[(&str, Way)] = &[("calm", |_| Chooser::Calm), ("walk", |seed| Chooser::Walk(Box::new(Walk::new(seed))))];

/// Searches, and prints the table.
pub(super) fn museum(args: &MuseumArgs, runner: Runner, out: &mut Output) -> u8 {
    let ways: &[(&str, Way)] = if args.generated { &WAYS[1..] } else { WAYS };
    let heads: String = ways.iter().map(|(name, _)| format!(" {name}: runs | time |")).collect();
    out.print(&format!("| quirk | breaks |{heads}\n|---|---|{}\n", "---:|---:|".repeat(ways.len())));
    let mut lost = 0;
    for about in TABLE.iter().filter(|about| about.origin == Origin::Qemu) {
        if !args.names.is_empty() && !args.names.contains(&about.quirk) {
            continue;
        }
        let file = args.scenarios.join(format!("{}.yaml", about.name));
        let plan = match plan_of(&file, args.generated, out) {
            Ok(plan) => plan,
            Err(code) => return code,
        };
        let mut row = format!("| `{}` | {} |", about.name, about.breaks.name());
        let mut found = false;
        for (name, way) in ways {
            // A schedule without chance needs no second search.
            let starts = if *name == "calm" && !args.generated { 1 } else { args.starts };
            let runs = if *name == "calm" { 1 } else { args.runs };
            let searches = (0..starts).map(|start| search(about, plan.as_ref(), *way, start, runs, runner));
            let cell = median(searches.collect());
            found |= cell.is_some();
            row.push_str(
                &cell.map_or_else(|| " – | – |".to_owned(), |(runs, time)| format!(" {runs} | {} |", shown(time))),
            );
        }
        lost += u8::from(!found);
        out.print(&format!("{row}\n"));
    }
    u8::from(lost > 0 && !args.generated)
}

fn plan_of(file: &Path, generated: bool, out: &mut Output) -> Result<Option<Plan>, u8> {
    if generated {
        return Ok(None);
    }
    match files::plan(file) {
        Ok(Some(plan)) => Ok(Some(plan)),
        Ok(None) => {
            out.complain(&format!("{}: this file holds only definitions\n", file.display()));
            Err(EXIT_USAGE)
        }
        Err(error) => {
            out.complain(&report::render(&error, super::check::WIDTH, out.colour_err));
            Err(EXIT_USAGE)
        }
    }
}

/// Runs until the first violation: how many runs, and how long they took.
fn search(
    about: &About,
    plan: Option<&Plan>,
    way: Way,
    start: u64,
    runs: u64,
    runner: Runner,
) -> Option<(u64, Duration)> {
    let quirks = Quirks::NONE.with(about.quirk);
    let options = RunOptions { quirks, check: true, ..RunOptions::default() };
    let begin = Instant::now();
    for run in 0..runs {
        let seed = start * 1_000_000 + run;
        let drawn;
        let plan = match plan {
            Some(plan) => plan,
            None => {
                drawn = crate::generate::scenario(seed).plan;
                &drawn
            }
        };
        if violated(&runner(plan, way(seed), &options).outcome)
            // What fails without the quirk, too, is not its doing.
            && !violated(&runner(plan, way(seed), &RunOptions { quirks: Quirks::NONE, ..options }).outcome)
        {
            return Some((run + 1, begin.elapsed()));
        }
    }
    None
}

fn violated(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Violated { .. })
}

/// The median of searches; `None` if fewer than half found anything.
fn median(mut searches: Vec<Option<(u64, Duration)>>) -> Option<(u64, Duration)> {
    searches.sort_by_key(|found| found.map_or(u64::MAX, |(runs, _)| runs));
    let middle = searches.len().saturating_sub(1) / 2;
    let (runs, _) = searches.get(middle).copied().flatten()?;
    let mut times: Vec<Duration> = searches.iter().flatten().map(|(_, time)| *time).collect();
    times.sort();
    Some((runs, times[times.len() / 2]))
}

fn shown(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..10_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        10_000..10_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{} s", micros / 1_000_000),
    }
}
