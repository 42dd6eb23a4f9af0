//! Exhaustive search with deduplication: every schedule of a scenario, each state once.
//!
//! A *state* is what a run looks like just before a choice, without what time it is, how many steps it took and what was traced. What
//! the invariants remember is part of it. A *transition* is one way to answer what is asked there, and all that follows up to the next
//! choice. The search goes depth first over clones; which client records each transition gave is kept, so that the traces of all
//! schedules can be told afterwards although each state is entered once ([`super::graph`]).

use super::digest::Fingerprint;
use super::graph::Graph;
use crate::choice::{Choice, ChoicePoint, Choose};
use crate::sim::Sim;
use crate::sim::outcome::Outcome;
use crate::trace::{Level, Trace};
use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;

/// When a search gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caps {
    /// States.
    pub states: usize,
    /// Transitions.
    pub transitions: usize,
    /// Frames between two choices.
    pub steps: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Caps { states: 5_000_000, transitions: 50_000_000, steps: 10_000_000 }
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
fn next_picks(asked: &[Choice]) -> Option<Vec<u32>> {
    let at = asked.iter().rposition(|choice| choice.pick + 1 < choice.among)?;
    Some(asked[..at].iter().map(|choice| choice.pick).chain([asked[at].pick + 1]).collect())
}

/// What came of a step: the run behind it, what was asked and answered, the outcome if there was one.
type Taken = (Sim, Vec<Choice>, Option<Outcome>);

/// A run up to its next choice.
enum Advanced {
    /// The run just before the choice, and what comes of calm answers.
    Choice(Box<Sim>, Box<Taken>),
    /// It ended before.
    End(Outcome),
}

/// A state whose transitions are being taken.
struct Open {
    node: u32,
    before: Sim,
    /// What was found of the calm answers already.
    calm: Option<Box<Taken>>,
    /// The answers to take next.
    next: Option<Vec<u32>>,
}

/// A search under way.
pub struct Search {
    caps: Caps,
    mode: u32,
    /// Fingerprints of states, by the numbers of their nodes.
    known: IndexSet<u128, FxBuildHasher>,
    stack: Vec<Open>,
    /// The graph so far.
    pub graph: Graph,
    /// The cap that was met.
    pub capped: Option<String>,
}

impl Search {
    /// Begins at `start`, a run that stands where exploring starts ([`Sim::run_to_start`]).
    #[must_use]
    pub fn new(start: &Sim, mode: u32, caps: Caps) -> Search {
        let mut sim = start.clone();
        sim.world.trace = Trace::new(Some(Level::Client), usize::MAX);
        let mut search =
            Search { caps, mode, known: IndexSet::default(), stack: Vec::new(), graph: Graph::default(), capped: None };
        search.arrive(None, &[], sim, None);
        search
    }

    /// Takes up to `transitions` further; whether there is more to do.
    pub fn go_on(&mut self, transitions: usize) -> bool {
        (0..transitions).all(|_| self.capped.is_none() && self.one())
    }

    /// How many states the way from the start to where the search is has.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.stack.len()
    }

    fn one(&mut self) -> bool {
        let mode = self.mode;
        let Some(open) = self.stack.last_mut() else { return false };
        let from = open.node;
        let (sim, asked, outcome) = match (open.calm.take(), open.next.take()) {
            (Some(calm), _) => *calm,
            (None, Some(picks)) => {
                let mut sim = open.before.clone();
                let mut script = Script::new(&picks, mode);
                let outcome = sim.step_caught(&mut script);
                (sim, script.asked, outcome)
            }
            (None, None) => {
                self.graph.close(from);
                self.stack.pop();
                return true;
            }
        };
        open.next = next_picks(&asked);
        self.arrive(Some(from), &asked, sim, outcome);
        true
    }

    /// Follows a run to its next choice and notes the transition that leads there.
    fn arrive(&mut self, from: Option<u32>, asked: &[Choice], mut sim: Sim, outcome: Option<Outcome>) {
        let mut records = Vec::new();
        drain(&mut sim, &mut records);
        let advanced = match outcome {
            Some(outcome) => Advanced::End(outcome),
            None => self.advance(sim, &mut records),
        };
        let (state, outcome, run) = match advanced {
            // Of an end only the outcome matters: nothing comes behind it.
            Advanced::End(outcome) => (Fingerprint::of(&format!("{outcome:?}")), Some(outcome), None),
            Advanced::Choice(mut before, calm) => {
                before.rebase();
                (Fingerprint::of(&*before), None, Some((before, calm)))
            }
        };
        let (node, new) = self.known.insert_full(state);
        let node = u32::try_from(node).expect("capped far below");
        if new {
            self.graph.add_node(outcome);
        }
        match from {
            Some(from) => self.graph.add_edge(from, node, asked, &records),
            None => self.graph.set_root(node, records),
        }
        if new && let Some((before, calm)) = run {
            self.graph.open(node);
            self.stack.push(Open { node, before: *before, calm: Some(calm), next: None });
        }
        if self.known.len() > self.caps.states {
            self.capped = Some(format!("{} states", self.caps.states));
        } else if self.graph.transitions() > self.caps.transitions {
            self.capped = Some(format!("{} transitions", self.caps.transitions));
        }
    }

    /// Runs on to the next choice.
    fn advance(&self, mut sim: Sim, records: &mut Vec<u64>) -> Advanced {
        let first = sim.world.steps;
        loop {
            let before = sim.may_choose().then(|| sim.fork());
            let mut script = Script::new(&[], self.mode);
            let outcome = sim.step_caught(&mut script);
            if !script.asked.is_empty() {
                let before = before.expect("a choice was asked for where none could be");
                return Advanced::Choice(Box::new(before), Box::new((sim, script.asked, outcome)));
            }
            drain(&mut sim, records);
            if let Some(outcome) = outcome {
                return Advanced::End(outcome);
            }
            if sim.world.steps - first > self.caps.steps {
                let what = format!("more than {} steps without a choice", self.caps.steps);
                return Advanced::End(Outcome::Limit { at: None, what, waits: sim.world.waiting() });
            }
        }
    }
}

/// Takes what was traced out of the run, as hashes.
fn drain(sim: &mut Sim, records: &mut Vec<u64>) {
    if !sim.world.trace.is_empty() {
        records.extend(sim.world.trace.iter().map(|record| Fingerprint::of(&record.kind) as u64));
        sim.world.trace = Trace::new(Some(Level::Client), usize::MAX);
    }
}
