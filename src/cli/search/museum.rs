//! `blockjob-sim museum`: how soon each quirk is found, as a table.

use super::museum_time;
use crate::cli::output::Output;
use crate::cli::{EXIT_USAGE, files, report};
use crate::explore::{self, PORTFOLIO, Strategy};
use crate::generate;
use crate::quirk::{Origin, Quirk, QuirkInfo, Quirks, TABLE};
use crate::scenario::plan::Plan;
use crate::sim::outcome::{Outcome, RunOptions, Runner};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `museum`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  each quirk was found\n  1  a quirk was not found by any strategy\n  2  a mistake in the arguments or in a scenario file"
)]
pub struct MuseumArgs {
    /// Only these quirks
    #[arg(value_parser = str::parse::<Quirk>)]
    names: Vec<Quirk>,
    /// Searches for each quirk, each from another seed; figures are medians over them [default: 20, with --time 5]
    #[arg(long, value_name = "N")]
    pub(super) starts: Option<u64>,
    /// Runs after which a search gives up [default: 1000, with --time 4000]
    #[arg(long, value_name = "N")]
    pub(super) runs: Option<u64>,
    /// Search as `fuzz` does by default, in the quirk's own scenario and in generated ones, and tell both: runs, dispatches, processor time
    #[arg(long, conflicts_with_all = ["strategy", "generated"])]
    time: bool,
    /// Search with this strategy only, instead of with all (`help strategies`, or ladder); may be given more than once
    #[arg(long, value_name = "NAME")]
    strategy: Vec<Way>,
    /// Search generated scenarios instead of the one written for the quirk; with `walk`, unless --strategy names another
    #[arg(long)]
    generated: bool,
    /// With --generated: scenarios of all jobs, not of backups only
    #[arg(long, requires = "generated")]
    all_kinds: bool,
    /// Folder with the scenarios
    #[arg(long, default_value = "sim-scenarios/museum", value_name = "DIR")]
    pub(super) scenarios: PathBuf,
}

/// Searches for each quirk, and runs of each, unless the command line says otherwise.
const STARTS: u64 = 20;
const RUNS: u64 = 1000;

impl MuseumArgs {
    fn starts(&self) -> u64 {
        self.starts.unwrap_or(STARTS)
    }

    fn runs(&self) -> u64 {
        self.runs.unwrap_or(RUNS)
    }
}

/// How schedules are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Seeds of a strategy, one after the other.
    Seeds(Strategy),
    /// The ladder that `fuzz` goes up by itself.
    Ladder,
}

impl Way {
    fn name(self) -> String {
        match self {
            Way::Seeds(strategy) => strategy.to_string(),
            Way::Ladder => "ladder".to_owned(),
        }
    }

    /// All searches find the same, wherever they begin.
    fn without_chance(self) -> bool {
        self == Way::Seeds(Strategy::Calm)
    }
}

impl std::str::FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Way, String> {
        if text == "ladder" {
            return Ok(Way::Ladder);
        }
        text.parse().map(Way::Seeds).map_err(|error: String| format!("{error}, ladder"))
    }
}

/// What a search found: after how many runs, after what time, and whether chance had a part in it.
#[derive(Clone, Copy, Debug)]
struct First {
    runs: u64,
    time: Duration,
    by_chance: bool,
}

/// Searches, and prints the table.
pub(in crate::cli) fn museum(args: &MuseumArgs, runner: Runner, out: &mut Output) -> u8 {
    let pieces: Vec<&QuirkInfo> = TABLE
        .iter()
        .filter(|about| about.origin != Origin::Seeded)
        .filter(|about| args.names.is_empty() || args.names.contains(&about.quirk))
        .collect();
    if !args.generated && !args.scenarios.is_dir() {
        let folder = args.scenarios.display();
        out.error(&format!("{folder}: there is no such folder; --scenarios names the one with the museum's scenarios"));
        return EXIT_USAGE;
    }
    if args.time {
        return museum_time::table(args, &pieces, runner, out);
    }
    let all = || Strategy::ALL.into_iter().map(Way::Seeds).chain([Way::Ladder]);
    let ways: Vec<Way> = match (args.strategy.is_empty(), args.generated) {
        (false, _) => args.strategy.clone(),
        (true, false) => all().collect(),
        (true, true) => vec![Way::Seeds(Strategy::Walk)],
    };
    let heads: String = ways.iter().map(|way| format!(" {} |", way.name())).collect();
    let mut lost = 0;
    let mut head = Some(format!("| quirk | breaks |{heads}\n|---|---|{}\n", "---:|".repeat(ways.len())));
    for about in pieces {
        let file = args.scenarios.join(format!("{}.yaml", about.name));
        let plan = match (!args.generated).then(|| plan_of(&file, out)).transpose() {
            Ok(plan) => plan,
            Err(code) => return code,
        };
        // Behind the first look for a scenario: who calls this outside of a clone gets an error and no table.
        out.print(&head.take().unwrap_or_default());
        let mut row = format!("| `{}` | {} |", about.name, about.breaks.name());
        let mut found = false;
        for way in &ways {
            let cell = searches(about, plan.as_ref(), *way, args, runner);
            found |= cell.is_some();
            row.push_str(&cell.map_or_else(|| " – |".to_owned(), |(runs, time)| format!(" {runs}, {} |", shown(time))));
        }
        lost += u8::from(!found);
        out.print(&format!("{row}\n"));
    }
    u8::from(lost > 0 && !args.generated)
}

/// The median of all searches for a quirk in one way.
fn searches(
    about: &QuirkInfo,
    plan: Option<&Plan>,
    way: Way,
    args: &MuseumArgs,
    runner: Runner,
) -> Option<(u64, Duration)> {
    let mut found = Vec::new();
    for start in 0..args.starts().max(1) {
        // Half of them in vain are enough.
        if found.iter().filter(|first: &&Option<First>| first.is_none()).count() as u64 > args.starts() / 2 {
            return None;
        }
        let first = match (way, plan) {
            (Way::Seeds(strategy), _) => search(about, plan, strategy, start, args, runner),
            (Way::Ladder, Some(plan)) => ladder(about, plan, start, args),
            (Way::Ladder, None) => search_generated_in_turn(about, start, args, runner),
        };
        found.push(first);
        let again = first.is_none_or(|first| first.by_chance) && !(way.without_chance() && plan.is_some());
        if !again {
            break;
        }
    }
    median(found)
}

/// The scenario in a file; where there is none, the exit code.
pub(super) fn plan_of(file: &Path, out: &mut Output) -> Result<Plan, u8> {
    match files::plan(file) {
        Ok(Some(plan)) => Ok(plan),
        Ok(None) => {
            out.error(&files::definitions_only(file));
            Err(EXIT_USAGE)
        }
        Err(error) => {
            out.complain(&report::render(&error, crate::cli::scenario::check::WIDTH, out.colour_err));
            Err(EXIT_USAGE)
        }
    }
}

/// Runs with one strategy until the first violation.
fn search(
    about: &QuirkInfo,
    plan: Option<&Plan>,
    strategy: Strategy,
    start: u64,
    args: &MuseumArgs,
    runner: Runner,
) -> Option<First> {
    let begin = cpu_time();
    let runs = if strategy == Strategy::Calm && plan.is_some() { 1 } else { args.runs() };
    let first = (0..runs).find(|run| found_by(about, plan, strategy, start * FAR + run, args, runner))?;
    Some(First {
        runs: first + 1,
        time: cpu_time().saturating_sub(begin),
        by_chance: strategy != Strategy::Calm || plan.is_none(),
    })
}

/// Generated scenarios, with the strategies of the ladder in turn, as `fuzz --generate` does it.
fn search_generated_in_turn(about: &QuirkInfo, start: u64, args: &MuseumArgs, runner: Runner) -> Option<First> {
    let begin = cpu_time();
    let turn = |run: u64| PORTFOLIO[(run % PORTFOLIO.len() as u64) as usize];
    let first = (0..args.runs()).find(|run| found_by(about, None, turn(*run), start * FAR + run, args, runner))?;
    Some(First { runs: first + 1, time: cpu_time().saturating_sub(begin), by_chance: true })
}

/// How far apart the seeds are with which searches begin.
pub(super) const FAR: u64 = 1_000_000;

/// Whether a seed shows the quirk.
fn found_by(
    about: &QuirkInfo,
    plan: Option<&Plan>,
    strategy: Strategy,
    seed: u64,
    args: &MuseumArgs,
    runner: Runner,
) -> bool {
    let quirks = Quirks::NONE.with(about.quirk);
    let options = RunOptions { quirks, check: true, ..RunOptions::default() };
    let drawn;
    let plan = match plan {
        Some(plan) => plan,
        None => {
            let options = generate::Options { all_kinds: args.all_kinds, ..generate::Options::default() };
            drawn = generate::with(&options, seed).plan;
            &drawn
        }
    };
    violated(&runner(plan, strategy.chooser(seed), &options).outcome)
        // What fails without the quirk, too, is not its doing.
        && !violated(&runner(plan, strategy.chooser(seed), &RunOptions { quirks: Quirks::NONE.without(about.quirk), ..options }).outcome)
}

/// Goes up the ladder until the first violation. A stage that exhausts has a run for each of the client's traces.
fn ladder(about: &QuirkInfo, plan: &Plan, start: u64, args: &MuseumArgs) -> Option<First> {
    let begin = cpu_time();
    let quirks = Quirks::NONE.with(about.quirk);
    let tally = explore::check(plan).quirks(quirks).runs(args.runs()).first_seed(start * FAR).run().ok()?;
    let found = tally.found.first()?;
    let runs = found.seed.map_or(tally.runs, |seed| tally.runs.min(seed - start * FAR + 1));
    Some(First { runs, time: cpu_time().saturating_sub(begin), by_chance: found.seed.is_some() })
}

/// Time that this thread has had a processor.
pub(super) fn cpu_time() -> Duration {
    let told = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(told).unwrap_or_default()
}

pub(super) fn violated(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Violated { .. })
}

/// The median of searches; `None` if fewer than half found anything.
fn median(mut searches: Vec<Option<First>>) -> Option<(u64, Duration)> {
    searches.sort_by_key(|found| found.map_or(u64::MAX, |first| first.runs));
    let middle = searches.len().saturating_sub(1) / 2;
    let first = searches.get(middle).copied().flatten()?;
    let mut times: Vec<Duration> = searches.iter().flatten().map(|first| first.time).collect();
    times.sort();
    Some((first.runs, times[times.len() / 2]))
}

/// The one in the middle, of an even number the lower; what is `None` is above all.
pub(super) fn median_of<T: Ord + Copy>(figures: impl Iterator<Item = Option<T>>) -> Option<T> {
    let mut figures: Vec<Option<T>> = figures.collect();
    figures.sort_by_key(|figure| (figure.is_none(), *figure));
    figures.get(figures.len().saturating_sub(1) / 2).copied().flatten()
}

pub(super) fn shown(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..10_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        10_000..10_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{} s", micros / 1_000_000),
    }
}
