//! A scenario explored to its end, and the schedules found there as lists of choices.

use super::alike::Reduction;
use super::count::Count;
use super::graph::ClientTrace;
use super::join::WorkerStates;
use super::search::{Caps, Search};
use crate::choice::{Calm, ChoiceLog, ChoicePoint, Choose, MODE_FAULTS, MODE_ORDER, Recorder};
use crate::scenario::Plan;
use crate::sim::outcome::{Outcome, RunOptions};
use crate::sim::{MAX_TRACE, Sim};
use crate::trace::Trace;

/// A run that stands where exploring starts.
#[derive(Clone, Debug)]
pub struct StartPoint {
    /// Where the scenario's mark `start` was met, or at the beginning.
    pub sim: Sim,
    /// The choices up to there, all of them calm.
    pub log: ChoiceLog,
}

impl StartPoint {
    /// The same for a campaign: the trace holds what comes behind the start, and nothing before it.
    ///
    /// # Errors
    /// How the run ended before it got there.
    pub fn watched(plan: &Plan, options: &RunOptions) -> Result<StartPoint, Outcome> {
        let mut start = StartPoint::of(plan, options)?;
        start.sim.world.trace = Trace::new(options.level, usize::try_from(MAX_TRACE).unwrap_or(usize::MAX));
        Ok(start)
    }

    /// The very start of a scenario: nothing is left out, and nothing was chosen yet.
    ///
    /// # Errors
    /// What is wrong with its files or arguments.
    pub fn of_all(plan: &Plan, options: &RunOptions) -> Result<StartPoint, Outcome> {
        Ok(StartPoint { sim: Sim::new(plan, options)?, log: ChoiceLog::default() })
    }

    /// Runs a scenario calmly to where exploring starts.
    ///
    /// # Errors
    /// How the run ended before it got there.
    pub fn of(plan: &Plan, options: &RunOptions) -> Result<StartPoint, Outcome> {
        let mut sim = Sim::new(plan, options)?;
        let mut calm = Recorder::new(Calm);
        sim.run_to_start(&mut calm)?;
        sim.world.trace.checkpoint();
        Ok(StartPoint { sim, log: calm.log })
    }
}

/// What an exhaustive search found. If its cap was met, nothing is counted, and there are the ends that were found until then: with
/// several workers not always the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// States, ends included.
    pub states: usize,
    /// One for each alternative of each state's choice.
    pub transitions: usize,
    /// Transitions of the longest schedule.
    pub depth: usize,
    /// Complete schedules; with cycles, those that go round none.
    pub schedules: Count,
    /// Transitions that close a cycle.
    pub cycles: usize,
    /// States from which no end can be reached.
    pub without_end: usize,
    /// All client traces, those that need the fewest deviations first; `None` if there were too many.
    pub traces: Option<Vec<ClientTrace>>,
    /// All ends.
    pub ends: Vec<Outcome>,
    /// The cap that stopped the search before its end.
    pub capped: Option<String>,
}

impl Exhausted {
    /// What a search found.
    #[must_use]
    pub fn of(search: &Search, parts: Vec<WorkerStates>) -> Exhausted {
        let capped = search.capped();
        let whole = capped.is_none();
        let so_far = if whole { Vec::new() } else { WorkerStates::ends(&parts) };
        let graph = search.graph(parts);
        Exhausted {
            states: graph.states(),
            transitions: graph.transitions(),
            depth: graph.depth(),
            schedules: graph.schedules(),
            cycles: graph.cycles(),
            without_end: if whole { graph.without_end() } else { 0 },
            traces: if whole { graph.traces(TRACES) } else { None },
            ends: if whole { graph.ends() } else { so_far },
            capped,
        }
    }

    /// Whether every schedule was tried and every one ended well.
    #[must_use]
    pub fn proved(&self) -> bool {
        self.capped.is_none() && self.without_end == 0 && self.ends.iter().all(|end| *end == Outcome::Passed)
    }
}

/// Whether a run ended only because the client's script no longer fitted: an expectation was not met, or it waits for an event that does
/// not come. Where faults are open that is to be expected.
#[must_use]
pub fn off_script(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed { .. } => true,
        Outcome::Stuck { waits, .. } => {
            waits.first().is_some_and(|first| first.starts_with("client: waits for the event"))
        }
        _ => false,
    }
}

/// How many pairs of a state and a trace up to it are kept.
const TRACES: usize = 20_000_000;

/// Tries every order from where exploring starts, each state once.
#[must_use]
pub fn exhaust(start: &StartPoint, caps: Caps) -> Exhausted {
    exhaust_in(MODE_ORDER, start, caps)
}

/// The same with another answer to [`ChoicePoint::Mode`].
#[must_use]
pub fn exhaust_in(mode: u32, start: &StartPoint, caps: Caps) -> Exhausted {
    let search = Search::new(&start.sim, mode, caps, 1);
    let found = search.work();
    Exhausted::of(&search, vec![found])
}

/// The same without orders that nobody can tell apart; nothing if the cap is met, if an order mattered after all, or if faults are open, as no
/// order is left out then.
pub(super) fn reduced_in(mode: u32, start: &StartPoint, caps: Caps) -> Option<Exhausted> {
    if mode & MODE_FAULTS != 0 {
        return None;
    }
    let search = Search::reduced(&start.sim, mode, caps, 1, Reduction::Alike);
    let part = search.work();
    let found = Exhausted::of(&search, vec![part]);
    (found.capped.is_none() && !search.doubtful()).then_some(found)
}

/// Answers from a list, and calmly behind its end.
struct Picks<'a> {
    mode: u32,
    picks: std::slice::Iter<'a, u32>,
}

impl Choose for Picks<'_> {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        match point {
            ChoicePoint::Mode => self.mode,
            _ => self.picks.next().copied().unwrap_or(0).min(among - 1),
        }
    }

    fn wants_mode(&self) -> bool {
        true
    }
}

/// The run of a schedule that a search found, given as its answers: its choices from the scenario's start on, its trace (as the start's
/// options had it), its outcome.
#[must_use]
pub fn listed(mode: u32, start: &StartPoint, picks: &[u32]) -> (ChoiceLog, Trace, Outcome) {
    let mut sim = start.sim.clone();
    let picks = Picks { mode, picks: picks.iter() };
    let mut recorder = Recorder { inner: picks, log: start.log.clone() };
    let outcome = sim.finish_caught(&mut recorder);
    (recorder.log, sim.world.trace, outcome)
}
