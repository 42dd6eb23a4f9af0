//! `blockjob-sim fuzz` and `merge`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell has workers, clocks and files; runs have none"
)]

use super::campaign_file::{self, CampaignFile};
use super::campaign_page;
use super::interrupt::{EXIT_INTERRUPTED, Stop};
use super::kinds::KindArg;
use super::output::Output;
use super::quirks::AlwaysWatchArgs;
use super::{EXIT_CODES, EXIT_USAGE, files, seeds};
use crate::base::{counted, grouped, part_of};
use crate::choice::{ChoiceLog, Chooser, Mode, Replay};
use crate::explore::saved::{Blocks, Head, Part};
use crate::explore::{
    ANOTHER_RUN, Block, Campaign, EXHAUST, Fingerprint, Found, PORTFOLIO, Source, Stage, Start, Strategy, Tally, Worker,
};
use crate::failure::Failure;
use crate::generate;
use crate::scenario::Plan;
use crate::scenario::plan::Schedule;
use crate::serve::outfile;
use crate::sim::outcome::{RunOptions, Runner};
use crate::trace::Level;
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Arguments of `fuzz`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct FuzzArgs {
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

/// What the workers share.
struct Shared {
    tally: Tally,
    /// The block to be given out next.
    issued: (usize, u64),
    /// Results whose turn has not come.
    waiting: BTreeMap<(usize, u64), Block>,
    file: Option<CampaignFile>,
    trouble: Option<String>,
    /// Kinds of failures that have a file.
    saved: BTreeSet<String>,
}

impl Shared {
    /// Writes a block down.
    fn write(&mut self, block: &Block) {
        if let Some(Err(problem)) = self.file.as_mut().map(|file| file.add(block)) {
            self.trouble = Some(problem);
        }
    }
}

/// Explores schedules of a scenario, or generated scenarios, until something ends the campaign.
pub(super) fn fuzz(args: &FuzzArgs, runner: Runner, out: &mut Output) -> u8 {
    let watch = args.watch.watch();
    let drawn = drawn(args);
    let options =
        RunOptions { level: Some(Level::Client), quirks: watch.quirks(), check: true, ..RunOptions::default() };
    let (plan, source) = match &args.file {
        None => (None, Source::Generated(Box::new(move |seed| generate::with(&drawn, seed).plan))),
        Some(file) => {
            let Some(plan) = files::scenario(file, out) else { return EXIT_USAGE };
            one_schedule_only(&plan, out);
            match Start::watched(&plan, &options) {
                Ok(start) => (Some(plan), Source::Scenario(Box::new(start))),
                Err(outcome) => {
                    out.error(&super::explore::ended_early(file, &outcome));
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
        && let Err(problem) = state.part(Part { part, done: false })
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
    let again = |found: &Found| match save.write(found) {
        Ok(path) => format!("blockjob-sim replay {}", path.display()),
        Err(problem) => format!("{}  ({problem})", head.again(found)),
    };
    let mut unwritten = if trouble.is_some() { EXIT_USAGE } else { 0 };
    if let Some(dir) = &args.report {
        let about = campaign_page::About {
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
pub(super) fn one_schedule_only(plan: &Plan, out: &mut Output) {
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

/// Writes failures to files.
pub(super) struct Save {
    /// The scenario, or that scenarios are generated.
    pub name: String,
    /// Its plan; `None` where scenarios are generated.
    pub plan: Option<Plan>,
    /// Who runs.
    pub runner: Runner,
    /// With what.
    pub options: RunOptions,
    /// Where the files go.
    pub dir: PathBuf,
    /// What is generated.
    pub drawn: generate::Options,
}

impl Save {
    /// Makes the run once more and writes down all there is to it. The name follows from the failure.
    pub fn write(&self, found: &Found) -> Result<PathBuf, String> {
        let mut plan = match (&self.plan, found.seed) {
            (Some(plan), _) => plan.clone(),
            (None, Some(seed)) => generate::with(&self.drawn, seed).plan,
            (None, None) => return Err("it has no seed".to_owned()),
        };
        plan.quirks = plan.quirks.union(self.options.quirks);
        let log: ChoiceLog = found.choices.parse().map_err(|error| format!("{error}"))?;
        let options = RunOptions { record_choices: true, ..self.options };
        let chooser = Chooser::Replay(Replay::new(Arc::new(log), Mode::Strict));
        let run = (self.runner)(&plan, chooser, &options);
        let strategy = found.strategy.as_deref().unwrap_or("few deviations");
        let name = match &self.plan {
            Some(_) => self.name.clone(),
            None => format!("{}, seed {}", self.name, found.seed.unwrap_or_default()),
        };
        let failure = Failure::of(&name, &plan, strategy, found.seed, &run).ok_or("run again, it passes")?;
        let slug = |text: &str| -> String {
            let plain = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect::<String>();
            plain.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
        };
        let which = match found.seed {
            Some(seed) => format!("{}-{seed}", slug(strategy)),
            None => format!("{:08x}", Fingerprint::of(&found.choices) as u32),
        };
        let path = self.dir.join(format!("{}-{which}.yaml", slug(&found.kind)));
        let trouble = |error: std::io::Error| format!("{}: {}", path.display(), files::plain(&error));
        std::fs::create_dir_all(&self.dir).map_err(trouble)?;
        outfile::write(&path, failure.to_text().as_bytes()).map_err(trouble)?;
        Ok(path)
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
        campaign.stages.retain(|stage| !matches!(stage, Stage::Exhaust(_)));
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
fn open_state(args: &FuzzArgs, head: &Head) -> Result<(Option<CampaignFile>, Blocks, Option<Part>), String> {
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
    was: Option<Part>,
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
        (Some(mut file), None | Some(Part { done: false, .. })) => file.part(Part { part, done: true }),
        _ => Ok(()),
    };
    if let Some(problem) = trouble.or(said.err()) {
        out.error(&format!("{problem}; {not_done}"));
        return EXIT_USAGE;
    }
    out.print(&format!("part {part} of {of} is done; `merge` joins the parts\n"));
    0
}

/// Why a campaign is over that ran out of `--time`.
const LATE: &str = "the time is over";
/// Why one is over that was sent a signal.
const INTERRUPTED: &str = "interrupted";

/// What is left when all workers have stopped.
struct Worked {
    tally: Tally,
    /// Why the state could not be written.
    trouble: Option<String>,
    file: Option<CampaignFile>,
}

/// Has the workers do blocks until the campaign is over.
fn work(
    args: &FuzzArgs,
    shared: Shared,
    campaign: &Arc<Campaign>,
    source: &Arc<Source>,
    save: &Save,
    stop: &Stop,
    out: &mut Output,
) -> Worked {
    let machine = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.unwrap_or(machine).clamp(1, 256);
    let began = Instant::now();
    let end = args.time.map(|seconds| began + Duration::from_secs(seconds));
    let (lock, bell, over) = (Mutex::new(shared), Condvar::new(), Condvar::new());
    let shared = || lock.lock().unwrap_or_else(PoisonError::into_inner);
    if args.shard.is_none() {
        fold(&mut shared(), save);
    }
    std::thread::scope(|scope| {
        for number in 0..jobs {
            let worker = Worker::new(campaign.clone(), source.clone(), save.options);
            let (lock, bell, over) = (&lock, &bell, &over);
            let running = args.state.as_ref().map(|dir| dir.join(format!("running-{number}")));
            scope.spawn(move || {
                one_worker(worker, lock, bell, args.shard, jobs, running, (save, stop));
                over.notify_one();
            });
        }
        loop {
            let mut state = shared();
            let late = end.is_some_and(|end| Instant::now() >= end);
            if (stop.asked() || late) && state.tally.over.is_none() {
                state.tally.over = Some(if late { LATE } else { INTERRUPTED }.to_owned());
            }
            if state.tally.over.is_some() || state.trouble.is_some() {
                bell.notify_all();
                break;
            }
            let line = progress(&state.tally, began, campaign, end);
            let (state, _) =
                over.wait_timeout(state, Duration::from_millis(200)).unwrap_or_else(PoisonError::into_inner);
            drop(state);
            out.progress(&line);
        }
    });
    out.progress("");
    let shared = lock.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Shared { mut tally, trouble, file, .. } = shared;
    if trouble.is_some() && tally.over.is_none() {
        tally.over = Some("the state could not be written".to_owned());
    }
    // A search makes its few runs at once, in the end: their rate says nothing.
    if tally.exhausted.is_none() {
        let micros = began.elapsed().as_micros().max(1);
        let rate = u128::from(tally.runs) * 1_000_000 / micros;
        out.remark(&format!("{} runs/s, {}\n", grouped(&rate.to_string()), counted(jobs as u64, "worker")));
    }
    Worked { tally, trouble, file }
}

fn progress(tally: &Tally, began: Instant, campaign: &Campaign, end: Option<Instant>) -> String {
    let micros = began.elapsed().as_micros().max(1);
    let rate = u128::from(tally.runs) * 1_000_000 / micros;
    let left = match end {
        Some(end) => Some(end.saturating_duration_since(Instant::now()).as_secs()),
        // A stage that is searched as a whole makes its runs at once, in the end.
        None if rate == 0 => None,
        None => u64::try_from(u128::from(campaign.runs - tally.runs.min(campaign.runs)) / rate).ok(),
    };
    let left = left.filter(|left| *left < 100 * 3600).map(|left| {
        let (hours, minutes, seconds) = (left / 3600, left / 60 % 60, left % 60);
        if hours > 0 {
            format!(", at most {hours}:{minutes:02}:{seconds:02} left")
        } else {
            format!(", at most {minutes}:{seconds:02} left")
        }
    });
    let stage = tally.stages.last().map_or("", |stage| stage.name.as_str());
    format!(
        "{stage}: {}, {}/s, {}, {}, {} failed{}",
        counted(tally.runs, "run"),
        grouped(&rate.to_string()),
        counted(tally.schedules.count().0, "schedule"),
        counted(tally.traces.count().0, "trace"),
        tally.failed,
        left.unwrap_or_default(),
    )
}

/// How long what a worker does between two looks at the others' results should take: long beside a wait for the lock, short beside a
/// person's patience.
const TURN: Duration = Duration::from_millis(4);
/// Blocks of a turn at most.
const MOST_BLOCKS: u64 = 256;

/// Takes blocks and does them: as many in a turn as fit into it. How many these are changes nothing, as results count in the order of
/// their numbers.
fn one_worker(
    mut worker: Worker,
    lock: &Mutex<Shared>,
    bell: &Condvar,
    shard: Option<(u64, u64)>,
    jobs: usize,
    running: Option<PathBuf>,
    (save, stop): (&Save, &Stop),
) {
    let mut running = running.and_then(|path| std::fs::File::create(path).ok());
    let locked = || lock.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut turn, mut done, mut at) = (1, Vec::new(), 0);
    let mut state = locked();
    loop {
        if state.tally.over.is_some() || state.trouble.is_some() {
            bell.notify_all();
            return;
        }
        let left = state.tally.left();
        let (stage, numbers) = match shard {
            Some(part) => match next_of_part(&mut state, &mut worker, part) {
                Some((stage, number)) => (stage, number..number + 1),
                None => continue,
            },
            None => {
                let (stage, number) = state.issued;
                let (_, next) = state.tally.next();
                if stage != at {
                    // Its blocks may take longer.
                    (at, turn) = (stage, 1);
                }
                if number >= next + 4 * jobs as u64 * turn {
                    state = bell.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let end = (number..number + turn).find(|number| state.waiting.contains_key(&(stage, *number)));
                state.issued.1 = end.map_or(number + turn, |end| end.max(number + 1));
                (stage, number..end.unwrap_or(number + turn))
            }
        };
        drop(state);
        let mut before = |what: &dyn Fn() -> String| {
            if let Some(file) = &mut running {
                campaign_file::overwrite(file, &what());
            }
            !stop.asked()
        };
        let began = Instant::now();
        for number in numbers {
            let block = worker.block(stage, number, left, &mut before);
            // It may have ended before its end.
            if stop.asked() {
                return;
            }
            let last = block.beyond || (block.failed > 0 && !worker.campaign.keep_going);
            done.push(block);
            if last {
                break;
            }
        }
        let took = began.elapsed();
        if took < TURN / 2 {
            turn = (turn * 2).min(MOST_BLOCKS);
        } else if took > TURN * 2 {
            turn = (turn / 2).max(1);
        }
        state = locked();
        for block in done.drain(..) {
            take_in(&mut state, block, shard, &worker, save);
        }
        bell.notify_all();
    }
}

/// Takes in what a worker did.
fn take_in(state: &mut Shared, block: Block, shard: Option<(u64, u64)>, worker: &Worker, save: &Save) {
    // What belongs to a part counts even if another worker has come to the part's end meanwhile.
    if shard.is_none() && (state.tally.over.is_some() || state.issued.0 != block.stage) {
        return;
    }
    state.write(&block);
    if shard.is_none() {
        state.waiting.insert((block.stage, block.number), block);
        return fold(state, save);
    }
    keep(state, &block, save);
    if block.failed > 0 && !worker.campaign.keep_going && state.tally.over.is_none() {
        // What other parts do after this block does not count, whatever the result.
        state.tally.over = Some("a run failed".to_owned());
    }
}

/// The next block that a part of a campaign has to do. Its tally is of foreseen results, `merge` takes in the real ones: it may come
/// to an end earlier, and never later. A stage that exhausts is done by every part, as what comes next depends on it.
fn next_of_part(state: &mut Shared, worker: &mut Worker, (part, of): (u64, u64)) -> Option<(usize, u64)> {
    let (stage, number) = state.tally.next();
    let known = state.waiting.remove(&(stage, number));
    let was_known = known.is_some();
    let left = state.tally.left();
    match worker.foreseen(stage, number, left) {
        Some(block) => {
            let mine = number % of == part && !was_known;
            if mine && block.beyond {
                state.write(&Block { schedules: Vec::new(), ..block.clone() });
            }
            state.tally.take(&block);
            (mine && !block.beyond).then_some((stage, number))
        }
        None => {
            let block = known.unwrap_or_else(|| worker.block(stage, number, left, &mut |_| true));
            if !was_known {
                state.write(&block);
            }
            state.tally.take(&block);
            None
        }
    }
}

/// Writes a file for each kind of failure that has none. The file is written again in the end; this one is there in case there is no end.
fn keep(state: &mut Shared, block: &Block, save: &Save) {
    for found in &block.found {
        if state.saved.insert(found.kind.clone()) {
            let _ = save.write(found);
        }
    }
}

/// Takes in all results whose turn has come. Only these count, and only their failures get files: what a worker did behind the end of
/// the campaign depends on who was faster.
fn fold(state: &mut Shared, save: &Save) {
    while state.tally.over.is_none() {
        let Some(block) = state.waiting.remove(&state.tally.next()) else { break };
        state.tally.take(&block);
        keep(state, &block, save);
        if state.tally.next().0 != block.stage {
            state.issued = state.tally.next();
        }
    }
}

/// Tells what was found; gives the exit code.
pub(super) fn tell(tally: &Tally, marks: bool, again: &dyn Fn(&Found) -> String, out: &mut Output) -> u8 {
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
