//! `blockjob-sim fuzz`.

pub(super) mod save;
mod workers;

use crate::base::{counted, part_of};
use crate::cli::about::quirks::AlwaysWatchArgs;
use crate::cli::interrupt::{EXIT_INTERRUPTED, Stop};
use crate::cli::kinds::KindArg;
use crate::cli::output::Output;
use crate::cli::search::campaign_file::{self, CampaignFile};
use crate::cli::search::campaign_page;
use crate::cli::{EXIT_CODES, EXIT_USAGE, files, seeds};
use crate::explore::saved::{Blocks, CampaignHead, CampaignPart};
use crate::explore::{
    ANOTHER_RUN, Campaign, CampaignSource, CampaignStage, EXHAUST, FailedRun, PORTFOLIO, StartPoint, Strategy, Tally,
};
use crate::generate;
use crate::scenario::Plan;
use crate::scenario::plan::Schedule;
use crate::serve::outfile;
use crate::sim::outcome::{RunOptions, Runner};
use crate::trace::Level;
use clap::Args;
use save::Save;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use workers::{INTERRUPTED, LATE, Shared, Worked, work};

/// Arguments of `fuzz`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct FuzzArgs {
    /// The scenario file whose schedules are explored
    #[arg(required_unless_present = "generate")]
    file: Option<PathBuf>,
    /// Explore generated scenarios, one for each seed, instead of a file
    #[arg(long, conflicts_with = "file")]
    generate: bool,
    /// The kind of client in the generated scenarios; without it, the seed decides
    #[arg(long, requires = "generate")]
    kind: Option<KindArg>,
    /// Draw backups and bitmaps only: no mirrors, commits and streams, hotplug, resets, reopening and odd arguments
    #[arg(long, requires = "generate")]
    backups_only: bool,
    /// Exports of the NBD server, and clients of it, among the commands
    #[arg(long, requires = "generate")]
    exports: bool,
    /// Explore these seeds only, as in 0..1000 (1000 not included)
    #[arg(long, value_name = "A..B", value_parser = seeds, conflicts_with = "runs")]
    seeds: Option<Range<u64>>,
    /// Make this many runs, unless the campaign ends earlier
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Stop after this many seconds; the number of runs then depends on the machine
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Number of worker threads; the result does not depend on it
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Draw schedules by this strategy instead of going up the ladder; several take turns (`help strategies`)
    #[arg(long, value_name = "NAME")]
    strategy: Vec<Strategy>,
    /// First try every schedule, if the scenario has no more states than this; 0: skip that
    #[arg(long, value_name = "N", default_value_t = EXHAUST)]
    max_states: usize,
    #[command(flatten)]
    watch: AlwaysWatchArgs,
    /// Run each seed twice and report where the two runs differ
    #[arg(long)]
    check_determinism: bool,
    /// Also vary which request each fault of the scenario hits; then only broken invariants and crashes count as failures
    #[arg(long)]
    faults: bool,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
    /// Run part I of N, counted from 0; `merge` joins the states of all parts
    #[arg(long, value_name = "I/N", value_parser = shard, requires = "state")]
    shard: Option<(u64, u64)>,
    /// Save the progress and results of the campaign in this directory
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Continue the campaign in the directory of --state, or begin it if there is none
    #[arg(long, requires = "state")]
    resume: bool,
    /// Directory for failure files; default: that of --state, or `failures`
    #[arg(long, value_name = "DIR")]
    failures: Option<PathBuf>,
    /// List the marks that were not reached
    #[arg(long)]
    marks: bool,
    /// Write pages about the campaign into this directory: index.html, and one for each kind of failure
    #[arg(long, value_name = "DIR", conflicts_with = "shard")]
    report: Option<PathBuf>,
}

fn shard(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("`{text}` is no part: expected I/N with I below N, as in 0/4");
    let (part, of) = text.split_once('/').ok_or_else(wrong)?;
    let (part, of) = (part.parse().map_err(|_| wrong())?, of.parse().map_err(|_| wrong())?);
    if part < of { Ok((part, of)) } else { Err(wrong()) }
}

/// Explores schedules of a scenario, or generated scenarios, until something ends the campaign.
pub(in crate::cli) fn fuzz(args: &FuzzArgs, runner: Runner, out: &mut Output) -> u8 {
    let watch = args.watch.watch();
    let drawn = drawn(args);
    let options =
        RunOptions { level: Some(Level::Client), quirks: watch.quirks(), check: true, ..RunOptions::default() };
    let (plan, source) = match &args.file {
        None => (None, CampaignSource::Generated(Box::new(move |seed| generate::with(&drawn, seed).plan))),
        Some(file) => {
            let Some(plan) = files::scenario(file, out) else { return EXIT_USAGE };
            one_schedule_only(&plan, out);
            match StartPoint::watched(&plan, &options) {
                Ok(start) => (Some(plan), CampaignSource::Scenario(Box::new(start))),
                Err(outcome) => {
                    out.error(&crate::cli::search::explore::ended_early(file, &outcome));
                    return outcome.exit_code().max(1);
                }
            }
        }
    };
    for (option, dir) in [("--report", &args.report), ("--failures", &args.failures)] {
        if let Some(Err(error)) = dir.as_ref().map(|dir| outfile::probe_dir(dir)) {
            out.error(&format!(
                "{option}: {}: {}",
                dir.as_deref().unwrap_or("".as_ref()).display(),
                files::plain(&error)
            ));
            return EXIT_USAGE;
        }
    }
    let campaign = Arc::new(campaign(args));
    let mut head = campaign_file::head(args.file.as_deref(), &drawn, &watch, &campaign);
    head.parts = args.shard.map(|(_, of)| of);
    let (mut file, known, was) = match open_state(args, &head) {
        Ok(opened) => opened,
        Err(problem) => {
            out.error(&problem);
            return EXIT_USAGE;
        }
    };
    if let (Some((part, _)), Some(state), None) = (args.shard, &mut file, was)
        && let Err(problem) = state.part(CampaignPart { part, done: false })
    {
        out.error(&problem);
        return EXIT_USAGE;
    }
    let save = Save {
        name: head.file.clone(),
        plan,
        runner,
        options,
        dir: args.failures.clone().or_else(|| args.state.clone()).unwrap_or_else(|| "failures".into()),
        drawn,
    };
    let shared = Shared {
        tally: Tally::new(campaign.clone()),
        issued: (0, 0),
        waiting: known,
        file,
        trouble: None,
        saved: BTreeSet::new(),
    };
    let stop = Stop::on_signals();
    let Worked { tally, trouble, file } = work(args, shared, &campaign, &Arc::new(source), &save, &stop, out);
    if let Some(part) = args.shard {
        return part_is_over(part, trouble, was, file, &tally, &stop, out);
    }
    let again = |found: &FailedRun| match save.write(found) {
        Ok(path) => format!("blockjob-sim replay {}", path.display()),
        Err(problem) => format!("{}  ({problem})", head.again(found)),
    };
    let mut unwritten = if trouble.is_some() { EXIT_USAGE } else { 0 };
    if let Some(dir) = &args.report {
        let about = campaign_page::CampaignInfo {
            name: &save.name,
            plan: save.plan.as_ref(),
            plan_of: &|found| save.plan.clone().or_else(|| found.seed.map(|seed| generate::with(&drawn, seed).plan)),
            again: &again,
            runner,
            options,
            watch: &watch,
        };
        if let Err(problem) = campaign_page::write(dir, &tally, &about) {
            out.error(&format!("--report: {problem}"));
            unwritten = EXIT_USAGE;
        }
    }
    let code = tell(&tally, args.marks, &again, out);
    if args.check_determinism && !tally.found.iter().any(|found| found.text.contains(ANOTHER_RUN)) {
        out.print("each seed was run twice: both runs were the same\n");
    }
    // What was found is said all the same; the directory of --state has the blocks that could be written.
    if let Some(problem) = trouble {
        out.error(&problem);
    }
    if stop.asked() { EXIT_INTERRUPTED } else { code.max(unwritten) }
}

/// A scenario that holds in one schedule only fails in others, and that is no news.
pub(in crate::cli) fn one_schedule_only(plan: &Plan, out: &mut Output) {
    if plan.schedule != Schedule::Any {
        out.complain(
            "note: this scenario says itself that what it expects comes about in one schedule only (`schedule:`)\n",
        );
    }
}

/// What generated scenarios are drawn from.
fn drawn(args: &FuzzArgs) -> generate::Options {
    generate::Options {
        kind: args.kind.map(KindArg::of_generator),
        all_kinds: !args.backups_only,
        exports: args.exports,
        ..generate::Options::default()
    }
}

fn campaign(args: &FuzzArgs) -> Campaign {
    let strategies = if args.strategy.is_empty() { &PORTFOLIO[..] } else { &args.strategy };
    let mut campaign = match &args.seeds {
        Some(range) => Campaign::seeds(strategies, range.start, range.end),
        // Two runs of a seed are compared, so there have to be seeds.
        None if args.generate || args.check_determinism || !args.strategy.is_empty() => {
            Campaign { runs: args.runs, ..Campaign::seeds(strategies, 0, u64::MAX) }
        }
        None => Campaign::ladder(args.max_states, args.runs),
    };
    if args.max_states == 0 {
        campaign.stages.retain(|stage| !matches!(stage, CampaignStage::Exhaust(_)));
    }
    campaign.keep_going = args.keep_going;
    campaign.check_determinism = args.check_determinism;
    campaign.faults = args.faults;
    if args.time.is_some() && args.seeds.is_none() {
        campaign.runs = u64::MAX;
    }
    campaign
}

/// What `--state` and `--resume` give: the file, the blocks it has, whose part it is.
fn open_state(
    args: &FuzzArgs,
    head: &CampaignHead,
) -> Result<(Option<CampaignFile>, Blocks, Option<CampaignPart>), String> {
    let Some(dir) = &args.state else { return Ok((None, Blocks::new(), None)) };
    if !args.resume {
        return Ok((Some(CampaignFile::create(dir, head)?), Blocks::new(), None));
    }
    let (file, saved) = CampaignFile::resume(dir, head)?;
    match (args.shard, saved.part) {
        (Some((part, of)), Some(was)) if part != was.part => {
            Err(format!("{}: this is part {} of {of}, not part {part}", dir.display(), was.part))
        }
        _ => Ok((Some(file), saved.blocks, saved.part)),
    }
}

/// Says whether a part of a campaign is done, in its file too.
fn part_is_over(
    (part, of): (u64, u64),
    trouble: Option<String>,
    was: Option<CampaignPart>,
    file: Option<CampaignFile>,
    tally: &Tally,
    stop: &Stop,
    out: &mut Output,
) -> u8 {
    let not_done = format!("part {part} of {of} is not done; --resume goes on with it");
    let late = tally.over.as_deref() == Some(LATE);
    if trouble.is_none() && (stop.asked() || late) {
        out.print(&format!("{}: {not_done}\n", if late { LATE } else { INTERRUPTED }));
        return EXIT_INTERRUPTED;
    }
    let said = match (file, was) {
        (Some(mut file), None | Some(CampaignPart { done: false, .. })) => file.part(CampaignPart { part, done: true }),
        _ => Ok(()),
    };
    if let Some(problem) = trouble.or(said.err()) {
        out.error(&format!("{problem}; {not_done}"));
        return EXIT_USAGE;
    }
    out.print(&format!("part {part} of {of} is done; `merge` joins the parts\n"));
    0
}

/// Tells what was found; gives the exit code.
pub(in crate::cli) fn tell(tally: &Tally, marks: bool, again: &dyn Fn(&FailedRun) -> String, out: &mut Output) -> u8 {
    out.print(&tally.report(marks));
    if let Some(why) = &tally.over {
        out.print(&format!("over: {why}\n"));
    }
    if tally.failed == 0 {
        out.print("no run failed\n");
        return 0;
    }
    out.print(&format!("FAILED: {}\n", counted(tally.failed, "run")));
    for found in &tally.found {
        let schedule = match (&found.strategy, found.seed) {
            (Some(strategy), Some(seed)) => format!("{strategy}, seed {seed}"),
            _ => "a schedule of few deviations".to_owned(),
        };
        let times = tally.kinds.get(&found.kind).cloned().unwrap_or_default();
        out.print(&format!(
            "\n{} ({}), first by {schedule}\n{}\n  again: {}\n",
            found.kind,
            part_of(times.runs, tally.failed, "failed run"),
            found.text,
            again(found)
        ));
        // The words of the first one stand above.
        let others = times.words.iter().skip(1).map(|(words, runs)| (words.as_str(), *runs));
        let rest = times.runs - times.words.iter().map(|(_, runs)| runs).sum::<u64>().min(times.runs);
        for (words, runs) in others.chain((rest > 0).then_some(("yet other words", rest))) {
            out.print(&format!("  of this kind, {} with: {words}\n", counted(runs, "run")));
        }
    }
    let listed: Vec<&str> = tally.found.iter().map(|found| found.kind.as_str()).collect();
    for (kind, times) in tally.kinds.iter().filter(|(kind, _)| !listed.contains(&kind.as_str())) {
        out.print(&format!("\n{kind} ({})\n", part_of(times.runs, tally.failed, "failed run")));
    }
    let crashed = tally.found.iter().any(|found| found.outcome == "crash");
    if crashed { 3 } else { 1 }
}
