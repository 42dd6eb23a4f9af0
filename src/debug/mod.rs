//! Stepping through a run, forwards and backwards, and off the way it took.
//!
//! A run is plain data, so going back is going to the last copy before and forwards from there. What was chosen up to here stays;
//! a choice that is still to come can be made another way, and all that follows is another run.

mod view;

pub use view::{Lines, View};

use crate::choice::{Choice, ChoiceLog, ChoicePoint, Choose, Chooser};
use crate::scenario::plan::Plan;
use crate::sim::Sim;
use crate::sim::outcome::{Outcome, RunOptions};
use crate::trace::{Record, RecordKind};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Steps between two copies of the run.
const EVERY: u64 = 128;
/// Steps after which a search for a place gives up.
const FAR: u64 = 5_000_000;

/// Asks another, unless the answer was laid down; keeps what was asked.
#[derive(Clone, Debug)]
struct Asker {
    inner: Chooser,
    forced: BTreeMap<u32, u32>,
    log: ChoiceLog,
    count: u32,
}

impl Choose for Asker {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        // Asked in any case, so that what it draws later does not shift.
        let own = self.inner.choose(point, among);
        let pick = self.forced.get(&self.count).copied().filter(|pick| *pick < among).unwrap_or(own);
        self.count += 1;
        self.log.push(Choice { point, among, pick });
        pick
    }

    fn wants_mode(&self) -> bool {
        self.inner.wants_mode()
    }

    fn wants_bh_order(&self) -> bool {
        self.inner.wants_bh_order()
    }
}

/// A place in a run.
#[derive(Clone, Debug)]
struct RunPlace {
    sim: Sim,
    asker: Asker,
    step: u64,
    outcome: Option<Outcome>,
}

impl RunPlace {
    fn step(&mut self) {
        if self.outcome.is_some() {
            return;
        }
        let (sim, asker) = (&mut self.sim, &mut self.asker);
        let done = catch_unwind(AssertUnwindSafe(|| sim.step(asker)));
        self.step += 1;
        self.outcome = done.unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message");
            Some(Outcome::Crash { at: None, message: text.to_owned() })
        });
    }

    fn records(&self) -> usize {
        self.sim.world.trace.len()
    }
}

/// Where to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// That many dispatches.
    Steps(u64),
    /// The next thing that the client sends or reads.
    Event,
    /// The next change of a job: of this one, or of any.
    Job(Option<String>),
    /// The next injected fault or failed request.
    Fault,
    /// Before the next choice.
    Choice,
    /// The next record of the trace, whatever it is.
    Record,
    /// The end of the run.
    End,
}

/// A choice that the next dispatch will ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComingChoice {
    /// How many were made before.
    pub index: u32,
    /// What is asked, among how many, and what will be answered.
    pub choice: Choice,
}

/// A run that is stepped through.
#[derive(Clone, Debug)]
pub struct Debugger {
    now: RunPlace,
    /// Copies of the run, oldest first; the first is its begin.
    kept: Vec<RunPlace>,
}

impl Debugger {
    /// Stands before the first dispatch of a run.
    ///
    /// # Errors
    /// What is wrong with the scenario's files or arguments.
    pub fn new(plan: &Plan, chooser: Chooser, options: &RunOptions) -> Result<Debugger, Outcome> {
        let sim = Sim::new(plan, options)?;
        let asker = Asker { inner: chooser, forced: BTreeMap::new(), log: ChoiceLog::default(), count: 0 };
        let now = RunPlace { sim, asker, step: 0, outcome: None };
        Ok(Debugger { kept: vec![now.clone()], now })
    }

    /// The run as it stands.
    #[must_use]
    pub fn sim(&self) -> &Sim {
        &self.now.sim
    }

    /// Dispatches so far.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.now.step
    }

    /// How the run ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.now.outcome.as_ref()
    }

    /// What was chosen so far.
    #[must_use]
    pub fn choices(&self) -> &ChoiceLog {
        &self.now.asker.log
    }

    /// Records from number `from` on.
    pub fn records(&self, from: usize) -> impl Iterator<Item = &Record> {
        self.now.sim.world.trace.iter().skip(from)
    }

    /// Goes one dispatch further.
    fn forth(&mut self) {
        if self.now.step.is_multiple_of(EVERY) && self.kept.last().is_none_or(|place| place.step < self.now.step) {
            self.now.sim.world.trace.checkpoint();
            self.kept.push(self.now.clone());
        }
        self.now.step();
    }

    /// Goes to a step, back or forth. The last one there is, if the run is shorter.
    pub fn go_to(&mut self, step: u64) {
        if step < self.now.step {
            let at = self.kept.iter().rposition(|place| place.step <= step).unwrap_or(0);
            self.now = self.kept[at].clone();
        }
        while self.now.step < step && self.now.outcome.is_none() {
            self.forth();
        }
    }

    /// Goes forth to a goal. Whether it was met; else the run has ended.
    pub fn forth_to(&mut self, goal: &Goal) -> bool {
        let start = self.now.step;
        if let Goal::Steps(steps) = goal {
            self.go_to(start.saturating_add(*steps));
            return self.now.outcome.is_none();
        }
        loop {
            let before = self.now.records();
            if self.now.outcome.is_some() || self.now.step - start > FAR {
                return *goal == Goal::End;
            }
            self.forth();
            if *goal == Goal::Choice && self.now.outcome.is_none() && !self.coming().is_empty() {
                return true;
            }
            if self.now.sim.world.trace.iter().skip(before).any(|record| meets(record, goal)) {
                return true;
            }
        }
    }

    /// Goes back to the last place where a goal was met before. Whether there was one; else it stands at the begin.
    pub fn back_to(&mut self, goal: &Goal) -> bool {
        let here = self.now.step;
        if let Goal::Steps(steps) = goal {
            self.go_to(here.saturating_sub(*steps));
            return here >= *steps;
        }
        // Piece by piece, from the last copy before.
        let mut end = here;
        while end > 0 {
            let at = self.kept.iter().rposition(|place| place.step < end).unwrap_or(0);
            let begin = self.kept[at].step;
            self.now = self.kept[at].clone();
            let mut found = None;
            while self.now.step < end {
                let before = self.now.records();
                if *goal == Goal::Choice && self.now.step < end && !self.coming().is_empty() {
                    found = Some(self.now.step);
                }
                self.now.step();
                if self.now.step < end && self.now.sim.world.trace.iter().skip(before).any(|r| meets(r, goal)) {
                    found = Some(self.now.step);
                }
            }
            if let Some(step) = found {
                self.go_to(step);
                return true;
            }
            end = begin;
        }
        self.go_to(0);
        false
    }

    /// The choices that the next dispatch will ask for.
    #[must_use]
    pub fn coming(&self) -> Vec<ComingChoice> {
        let mut next = self.now.clone();
        next.asker.log = ChoiceLog::default();
        next.step();
        let asked = next.asker.log.entries().iter().enumerate();
        let first = self.now.asker.count;
        asked
            .map(|(i, entry)| ComingChoice { index: first + u32::try_from(i).unwrap_or(0), choice: entry.choice })
            .collect()
    }

    /// The records that come next, if the choice of that number is made so: `count` of them at most.
    #[must_use]
    pub fn what_if(&self, index: u32, pick: u32, count: usize) -> Vec<Record> {
        let mut next = self.now.clone();
        next.asker.forced.insert(index, pick);
        let from = next.records();
        for _ in 0..400 {
            next.step();
            if next.outcome.is_some() || next.records() >= from + count {
                break;
            }
        }
        next.sim.world.trace.iter().skip(from).take(count).cloned().collect()
    }

    /// Makes a coming choice another way. All that comes after is another run.
    ///
    /// # Errors
    /// There is no such choice to come, or no such alternative.
    pub fn take(&mut self, index: u32, pick: u32) -> Result<(), String> {
        let coming = self.coming();
        let Some(asked) = coming.iter().find(|asked| asked.index == index) else {
            return Err(format!("choice @{index} is not asked for next"));
        };
        if pick >= asked.choice.among {
            return Err(format!(
                "choice @{index} is among {}: expected 0 to {}",
                asked.choice.among,
                asked.choice.among - 1
            ));
        }
        self.now.asker.forced.retain(|at, _| *at < index);
        self.now.asker.forced.insert(index, pick);
        // Copies from here on know nothing of it.
        let step = self.now.step;
        self.kept.retain(|place| place.step < step);
        self.kept.push(self.now.clone());
        Ok(())
    }
}

/// Whether a record is what is looked for.
fn meets(record: &Record, goal: &Goal) -> bool {
    match goal {
        Goal::Record => true,
        Goal::Event => {
            matches!(record.kind, RecordKind::Command(_) | RecordKind::Reply(_) | RecordKind::Event { .. })
        }
        Goal::Job(wanted) => match &record.kind {
            RecordKind::JobStatus { job, .. } => wanted.as_ref().is_none_or(|wanted| **job == **wanted),
            _ => false,
        },
        Goal::Fault => match &record.kind {
            RecordKind::Fault { .. } => true,
            RecordKind::Request { phase, .. } => matches!(phase, crate::trace::RequestPhase::Complete(Some(_))),
            _ => false,
        },
        Goal::Steps(_) | Goal::Choice | Goal::End => false,
    }
}
