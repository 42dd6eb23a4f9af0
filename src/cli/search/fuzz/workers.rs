//! The workers of a campaign: who does which block, and whose results count.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell has workers, clocks and files; runs have none"
)]

use super::FuzzArgs;
use super::save::Save;
use crate::base::{counted, grouped};
use crate::cli::interrupt::Stop;
use crate::cli::output::Output;
use crate::cli::search::campaign_file::{self, CampaignFile};
use crate::explore::{Block, Campaign, CampaignSource, Tally, Worker};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the workers share.
pub(super) struct Shared {
    pub(super) tally: Tally,
    /// The block to be given out next.
    pub(super) issued: (usize, u64),
    /// Results whose turn has not come.
    pub(super) waiting: BTreeMap<(usize, u64), Block>,
    pub(super) file: Option<CampaignFile>,
    pub(super) trouble: Option<String>,
    /// Kinds of failures that have a file.
    pub(super) saved: BTreeSet<String>,
}

impl Shared {
    /// Writes a block down.
    fn write(&mut self, block: &Block) {
        if let Some(Err(problem)) = self.file.as_mut().map(|file| file.add(block)) {
            self.trouble = Some(problem);
        }
    }
}

/// Why a campaign is over that ran out of `--time`.
pub(super) const LATE: &str = "the time is over";
/// Why one is over that was sent a signal.
pub(super) const INTERRUPTED: &str = "interrupted";

/// What is left when all workers have stopped.
pub(super) struct Worked {
    pub(super) tally: Tally,
    /// Why the state could not be written.
    pub(super) trouble: Option<String>,
    pub(super) file: Option<CampaignFile>,
}

/// Has the workers do blocks until the campaign is over.
pub(super) fn work(
    args: &FuzzArgs,
    shared: Shared,
    campaign: &Arc<Campaign>,
    source: &Arc<CampaignSource>,
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
