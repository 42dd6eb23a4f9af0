//! Exhaustive search with deduplication: every schedule of a scenario, each state once.
//!
//! A *state* is what a run looks like just before a choice, without what time it is, how many steps it took and what was traced. What
//! the invariants remember is part of it. A *transition* is one way to answer what is asked there, and all that follows up to the next
//! choice. The search goes depth first over clones; which client records each transition gave is kept, so that the traces of all
//! schedules can be told afterwards although each state is entered once ([`super::graph`]).
//!
//! Any number of workers may search: each goes depth first from what it found itself, and hands the state nearest to the start over when
//! another has nothing to do. What they found is put together afterwards in the order of one that searches alone, so that nothing tells
//! how many there were.

#![expect(clippy::disallowed_types, reason = "workers share which states are known; each has runs of its own")]

use super::alike::{Reduction, Spared, failed};
use super::digest::Fingerprint;
use super::graph::Graph;
use super::join::{Taking, WorkerStates, join};
use crate::base::counted;
use crate::choice::{Choice, ChoicePoint, Choose};
use crate::sim::Sim;
use crate::sim::outcome::Outcome;
use crate::trace::{Level, Trace};
use crate::world::arena::JobId;
use rustc_hash::FxHashSet;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// When a search gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caps {
    /// Most states that are entered, ends included.
    pub states: usize,
    /// Frames between two choices.
    pub steps: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Caps { states: 5_000_000, steps: 10_000_000 }
    }
}

/// Answers from a list, calmly beyond its end, and keeps what was asked.
struct Script<'a> {
    picks: &'a [u32],
    asked: Vec<Choice>,
    mode: u32,
}

impl<'a> Script<'a> {
    fn new(picks: &'a [u32], mode: u32) -> Self {
        Script { picks, asked: Vec::new(), mode }
    }
}

impl Choose for Script<'_> {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        if point == ChoicePoint::Mode {
            return self.mode;
        }
        let pick = self.picks.get(self.asked.len()).copied().unwrap_or(0);
        self.asked.push(Choice { point, among, pick });
        pick
    }

    fn wants_mode(&self) -> bool {
        true
    }
}

/// The answers that come next in order, or nothing after the last.
fn next_picks(asked: &[Choice], spared: &Spared) -> Option<Vec<u32>> {
    let next = |choice: &Choice| (choice.pick + 1..choice.among).find(|pick| !spared.has(choice.point, *pick));
    let (at, pick) = asked.iter().enumerate().rev().find_map(|(at, choice)| Some((at, next(choice)?)))?;
    Some(asked[..at].iter().map(|choice| choice.pick).chain([pick]).collect())
}

/// What came of a step: the run behind it, what was asked and answered, the outcome if there was one.
type Taken = (Sim, Vec<Choice>, Option<Outcome>);

/// Where a run comes to when it is followed to its next choice.
enum Arrived {
    /// A state that was entered before.
    Known(u128),
    /// A new state: the run just before the choice, and where the calm alternative leads.
    New(u128, Box<Sim>, Box<Taken>),
    /// The run is over before it asks again.
    End(Outcome),
}

/// A state whose transitions are being taken.
struct Open {
    state: u128,
    before: Sim,
    /// What was found of the calm answers already.
    calm: Option<Box<Taken>>,
    /// The answers to take next.
    next: Option<Vec<u32>>,
    /// Answers that are left out.
    spared: Spared,
    taken: Vec<Taking>,
}

/// States that wait for somebody to go on with them, and how many have nothing to do.
#[derive(Default)]
struct Pool {
    open: Vec<Open>,
    idle: usize,
}

/// Known states stand in this many sets, each with a lock of its own.
const SHARDS: usize = 64;

/// A search, for any number of workers.
pub struct Search {
    caps: Caps,
    mode: u32,
    reduction: Reduction,
    /// Jobs of which orders were left out, and those that met an error, a bit each.
    spared: AtomicU64,
    failed: AtomicU64,
    workers: usize,
    known: Vec<Mutex<FxHashSet<u128>>>,
    states: AtomicUsize,
    /// Nobody need go on: the cap is met, or a worker broke down.
    over: AtomicBool,
    /// Why somebody from outside ended the search.
    stopped: Mutex<Option<String>>,
    pool: Mutex<Pool>,
    bell: Condvar,
    /// Somebody has nothing to do.
    hungry: AtomicBool,
    root: u128,
    root_records: Vec<u64>,
    root_end: Option<Outcome>,
}

/// A worker that goes, or breaks down: whoever waits for something to do looks again whether there will be any. The lock is taken for
/// that, so that nobody is between his look and his wait.
struct Leaving<'a> {
    search: &'a Search,
    done: bool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.search.over.store(true, Ordering::Relaxed);
        }
        let _pool = locked(&self.search.pool);
        self.search.bell.notify_all();
    }
}

fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Search {
    /// Begins at `start`, a run that stands where exploring starts ([`Sim::run_to_start`]). As many as `workers` must [`Search::work`].
    #[must_use]
    pub fn new(start: &Sim, mode: u32, caps: Caps, workers: usize) -> Search {
        Search::reduced(start, mode, caps, workers, Reduction::None)
    }

    /// The same, leaving out orders that nobody can tell apart. If the search turns out to be [`Search::doubtful`], what it found proves
    /// nothing.
    #[must_use]
    pub fn reduced(start: &Sim, mode: u32, caps: Caps, workers: usize, reduction: Reduction) -> Search {
        let mut search = Search {
            caps,
            mode,
            reduction,
            spared: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            workers,
            known: (0..SHARDS).map(|_| Mutex::default()).collect(),
            states: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            stopped: Mutex::default(),
            pool: Mutex::default(),
            bell: Condvar::new(),
            hungry: AtomicBool::new(false),
            root: 0,
            root_records: Vec::new(),
            root_end: None,
        };
        let mut sim = start.clone();
        sim.world.trace = Trace::new(Some(Level::Client), usize::MAX);
        let mut records = Vec::new();
        match search.follow(sim, None, &mut records) {
            Arrived::Known(_) => unreachable!("nothing is known yet"),
            Arrived::New(state, before, calm) => {
                search.root = state;
                search.enter(state);
                let open = search.open(state, *before, calm);
                locked(&search.pool).open.push(open);
            }
            Arrived::End(outcome) => search.root_end = Some(outcome),
        }
        search.root_records = records;
        search
    }

    /// How many states are known, ends included.
    #[must_use]
    pub fn states(&self) -> usize {
        self.states.load(Ordering::Relaxed)
    }

    /// How many states may still come before the cap is met.
    #[must_use]
    pub fn room(&self) -> usize {
        self.caps.states.saturating_sub(self.states())
    }

    /// Ends the search; what was found until then proves nothing.
    pub fn stop(&self, why: &str) {
        locked(&self.stopped).get_or_insert_with(|| why.to_owned());
        self.over.store(true, Ordering::Relaxed);
        let _pool = locked(&self.pool);
        self.bell.notify_all();
    }

    /// The cap that was met, or why the search was stopped.
    #[must_use]
    pub fn capped(&self) -> Option<String> {
        if let Some(why) = locked(&self.stopped).clone() {
            return Some(why);
        }
        (self.states() > self.caps.states)
            .then(|| format!("{} (--max-states)", counted(self.caps.states as u64, "state")))
    }

    fn knows(&self, state: u128) -> bool {
        locked(&self.known[state as usize % SHARDS]).contains(&state)
    }

    /// Whether a state is new.
    fn enter(&self, state: u128) -> bool {
        let new = locked(&self.known[state as usize % SHARDS]).insert(state);
        if new && self.states.fetch_add(1, Ordering::Relaxed) >= self.caps.states {
            self.over.store(true, Ordering::Relaxed);
        }
        new
    }

    /// A state that was just entered.
    fn open(&self, state: u128, before: Sim, calm: Box<Taken>) -> Open {
        let spared = Spared::of(&before, self.reduction);
        for job in &spared.jobs {
            self.spared.fetch_or(bit(*job), Ordering::Relaxed);
        }
        Open { state, before, calm: Some(calm), next: None, spared, taken: Vec::new() }
    }

    /// Whether a job of which orders were left out met an error: another order might have met another one.
    #[must_use]
    pub fn doubtful(&self) -> bool {
        self.spared.load(Ordering::Relaxed) & self.failed.load(Ordering::Relaxed) != 0
    }

    /// Searches until nobody has anything left to do, or the cap is met.
    #[must_use]
    pub fn work(&self) -> WorkerStates {
        let mut part = WorkerStates::default();
        let mut stack = VecDeque::new();
        let mut leaving = Leaving { search: self, done: false };
        while !self.over.load(Ordering::Relaxed) {
            if stack.is_empty() {
                match self.fetch() {
                    Some(open) => stack.push_back(open),
                    None => break,
                }
            }
            self.one(&mut stack, &mut part);
            if stack.len() > 1 && self.hungry.load(Ordering::Relaxed) {
                self.hand_over(&mut stack);
            }
        }
        leaving.done = true;
        part
    }

    /// Something to do; waits for it. `None` when there is nothing left.
    fn fetch(&self) -> Option<Open> {
        let mut pool = locked(&self.pool);
        pool.idle += 1;
        loop {
            if let Some(open) = pool.open.pop() {
                pool.idle -= 1;
                self.hungry.store(pool.idle > pool.open.len(), Ordering::Relaxed);
                return Some(open);
            }
            if pool.idle == self.workers || self.over.load(Ordering::Relaxed) {
                return None;
            }
            self.hungry.store(true, Ordering::Relaxed);
            pool = self.bell.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What is nearest to the start has most behind it.
    fn hand_over(&self, stack: &mut VecDeque<Open>) {
        let mut pool = locked(&self.pool);
        pool.open.extend(stack.pop_front());
        self.hungry.store(pool.idle > pool.open.len(), Ordering::Relaxed);
        self.bell.notify_one();
    }

    /// Takes the next transition of the state that was entered last.
    fn one(&self, stack: &mut VecDeque<Open>, part: &mut WorkerStates) {
        let Some(open) = stack.back_mut() else { return };
        let (sim, asked, outcome) = match (open.calm.take(), open.next.take()) {
            (Some(calm), _) => *calm,
            (None, Some(picks)) => {
                let mut sim = open.before.clone();
                let mut script = Script::new(&picks, self.mode);
                let outcome = sim.step_caught(&mut script);
                (sim, script.asked, outcome)
            }
            (None, None) => {
                part.states.extend(stack.pop_back().map(|open| (open.state, open.taken)));
                return;
            }
        };
        open.next = next_picks(&asked, &open.spared);
        let mut records = Vec::new();
        let arrived = self.follow(sim, outcome, &mut records);
        let to = match &arrived {
            Arrived::Known(state) | Arrived::New(state, ..) => *state,
            // Of an end only the outcome matters: nothing comes behind it.
            Arrived::End(outcome) => Fingerprint::of(&format!("{outcome:?}")),
        };
        open.taken.push(Taking { to, asked, records });
        match arrived {
            Arrived::New(state, before, calm) if self.enter(state) => {
                stack.push_back(self.open(state, *before, calm));
            }
            Arrived::End(outcome) if self.enter(to) => part.ends.push((to, outcome)),
            // Known, or entered by another worker meanwhile.
            _ => {}
        }
    }

    /// Runs on to the next choice. Looks up whether the state there is known before it follows the calm alternative.
    fn follow(&self, mut sim: Sim, mut outcome: Option<Outcome>, records: &mut Vec<u64>) -> Arrived {
        let mut ran = 0;
        loop {
            drain(&mut sim, records);
            if self.reduction != Reduction::None {
                let failed = failed(&sim.world).fold(0, |bits, job| bits | bit(job));
                self.failed.fetch_or(failed, Ordering::Relaxed);
            }
            if let Some(outcome) = outcome {
                return Arrived::End(outcome);
            }
            if ran > self.caps.steps {
                let what = format!("more than {} without a choice", counted(self.caps.steps, "step"));
                return Arrived::End(Outcome::Limit { at: None, what, waits: sim.world.waiting() });
            }
            let before = if sim.may_choose() {
                sim.rebase();
                let state = Fingerprint::of(&sim);
                if self.knows(state) {
                    return Arrived::Known(state);
                }
                Some((state, sim.clone()))
            } else {
                None
            };
            let steps = sim.world.steps;
            let mut script = Script::new(&[], self.mode);
            outcome = sim.step_caught(&mut script);
            ran += sim.world.steps - steps;
            if !script.asked.is_empty() {
                let (state, before) = before.expect("a choice was asked for where none could be");
                return Arrived::New(state, Box::new(before), Box::new((sim, script.asked, outcome)));
            }
        }
    }

    /// What the workers found, put together. Empty if the cap was met: what was found until then depends on who was faster.
    #[must_use]
    pub fn graph(&self, mut parts: Vec<WorkerStates>) -> Graph {
        if self.capped().is_some() {
            return Graph::default();
        }
        let ends = self.root_end.iter().map(|end| (self.root, end.clone())).collect();
        parts.push(WorkerStates { states: Vec::new(), ends });
        join(self.root, self.root_records.clone(), parts)
    }
}

/// The bit of a job; those beyond the 63rd share one.
fn bit(job: JobId) -> u64 {
    1 << job.0.min(63)
}

/// Takes what was traced out of the run, as hashes.
fn drain(sim: &mut Sim, records: &mut Vec<u64>) {
    if !sim.world.trace.is_empty() {
        records.extend(sim.world.trace.iter().map(|record| Fingerprint::of(&record.kind) as u64));
        sim.world.trace = Trace::new(Some(Level::Client), usize::MAX);
    }
}
