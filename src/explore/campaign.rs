//! Campaigns: many runs in stages, with the same result however they are shared out.
//!
//! A stage is a row of *blocks*. What a block does depends on its stage and its number alone, so blocks may be done in any order, by any
//! number of workers, on several machines. A [`Tally`] takes their results in the order of their numbers, and it alone decides when a
//! stage or the campaign is over; results behind that point do not count. That is why one worker and ten find the same.

use super::atlas::{Atlas, STATES};
use super::digest::mix;
use super::exhaust::{StartPoint, exhaust_in, listed, off_script, reduced_in};
use super::run::{Ran, differs, finish, recorded};
use super::search::Caps;
use super::strategy::Strategy;
use crate::choice::{ChoicePoint, Choose, MODE_FAULTS, MODE_ORDER};
use crate::scenario::Plan;
use crate::sim::outcome::{Outcome, RunOptions, StepAt, error_class};
use crate::trace::Level;
use crate::world::watch::marks::Marks;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What stands before a number of schedules of which some were left out.
pub(super) const AT_LEAST: &str = "at least ";

/// Runs in a block of seeds.
pub const BLOCK: u64 = 64;

/// Gives the scenario of a seed.
pub type Drawing = Box<dyn Fn(u64) -> Plan + Send + Sync>;

/// What is explored.
pub enum CampaignSource {
    /// Schedules of one scenario, from where exploring starts.
    Scenario(Box<StartPoint>),
    /// A scenario for each seed.
    Generated(Drawing),
}

/// A part of a campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CampaignStage {
    /// Every schedule, each state once, while there are no more states than this.
    Exhaust(usize),
    /// Every schedule with exactly so many choices that are not calm.
    Preempt(u32),
    /// Seeds from the first to before the second, taken in turn by these strategies.
    Seeds(Vec<String>, u64, u64),
}

/// What a campaign does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    /// Its parts, in order.
    pub stages: Vec<CampaignStage>,
    /// Runs, all stages together.
    pub runs: u64,
    /// Goes on after a failure.
    pub keep_going: bool,
    /// Runs each seed twice and compares.
    pub check_determinism: bool,
    /// Where faults strike is open too. Runs that end because the scenario's script no longer fits are no failures then.
    pub faults: bool,
}

/// The default ladder's strategies for seeds.
pub const PORTFOLIO: [Strategy; 6] =
    [Strategy::Urw, Strategy::Pct(2), Strategy::Pct(3), Strategy::Pct(4), Strategy::Uniform, Strategy::Walk];

/// States up to which the ladder exhausts a scenario: seconds, also where a state takes long.
pub const EXHAUST: usize = 10_000;

impl Campaign {
    /// Exhaust if it is small; else all schedules with none, one and two deviations; then a portfolio.
    #[must_use]
    pub fn ladder(exhaust: usize, runs: u64) -> Campaign {
        let stages = vec![
            CampaignStage::Exhaust(exhaust),
            CampaignStage::Preempt(0),
            CampaignStage::Preempt(1),
            CampaignStage::Preempt(2),
            CampaignStage::seeds(&PORTFOLIO, 0, u64::MAX),
        ];
        Campaign { stages, runs, keep_going: false, check_determinism: false, faults: false }
    }

    /// The answer to [`ChoicePoint::Mode`] in its runs.
    #[must_use]
    pub fn mode(&self) -> u32 {
        if self.faults { MODE_ORDER | MODE_FAULTS } else { MODE_ORDER }
    }

    fn failed(&self, outcome: &Outcome) -> bool {
        *outcome != Outcome::Passed && !(self.faults && off_script(outcome))
    }

    /// Seeds alone.
    #[must_use]
    pub fn seeds(strategies: &[Strategy], first: u64, end: u64) -> Campaign {
        let stages = vec![CampaignStage::seeds(strategies, first, end)];
        Campaign { stages, runs: end - first, keep_going: false, check_determinism: false, faults: false }
    }
}

impl CampaignStage {
    /// Seeds taken in turn by these strategies.
    #[must_use]
    pub fn seeds(strategies: &[Strategy], first: u64, end: u64) -> CampaignStage {
        CampaignStage::Seeds(strategies.iter().map(Strategy::to_string).collect(), first, end)
    }

    /// Its name in reports.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            CampaignStage::Exhaust(_) => "exhaust".to_owned(),
            CampaignStage::Preempt(bound) => format!("deviations = {bound}"),
            CampaignStage::Seeds(strategies, ..) => strategies.join(", "),
        }
    }
}

/// How to come to a failure again, and what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRun {
    /// The strategy, where it was one.
    pub strategy: Option<String>,
    /// The seed, where there was one.
    pub seed: Option<u64>,
    /// What was not calm, from the scenario's start on.
    pub choices: String,
    /// [`Outcome::word`]
    pub outcome: String,
    /// The invariant's name, or what else identifies the kind of failure.
    pub kind: String,
    /// All there is to say.
    pub text: String,
}

impl FailedRun {
    fn new(strategy: Option<String>, seed: Option<u64>, choices: String, kind: String, outcome: &Outcome) -> FailedRun {
        FailedRun { strategy, seed, choices, outcome: outcome.word().to_owned(), kind, text: outcome.to_string() }
    }
}

/// The kind of a failure, and in which words it is told. A broken invariant is told by its name, for each kind of thing; an expectation
/// that is not met by its step and the error that came instead, where all runs are of one scenario (`of_one`).
fn kind(outcome: &Outcome, of_one: bool) -> (String, String) {
    let word = outcome.word();
    let at = |at: &Option<StepAt>| {
        at.as_ref().filter(|_| of_one).map_or_else(String::new, |at| format!(" in step {}", at.step + 1))
    };
    match outcome {
        Outcome::Violated { invariant, subject, reason, .. } => {
            (format!("{invariant} ({})", subject.split(' ').next().unwrap_or_default()), format!("{subject}: {reason}"))
        }
        Outcome::Failed { at: step, reason } => {
            let class = error_class(reason).map_or_else(String::new, |class| format!(" ({class})"));
            (format!("{word}{}{class}", at(step)), reason.clone())
        }
        Outcome::Stuck { at: step, waits } | Outcome::Limit { at: step, waits, .. } => {
            (format!("{word}{}", at(step)), waits.first().cloned().unwrap_or_default())
        }
        other => (word.to_owned(), other.to_string()),
    }
}

/// How often one kind of failure came, and in which words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Runs that failed so.
    pub runs: u64,
    /// The words with the number of their runs, in the order in which they came; of more than [`WORDS`] only the first.
    pub words: Vec<(String, u64)>,
}

/// In how many words a kind of failure is told.
const WORDS: usize = 8;

impl Times {
    fn count(&mut self, words: &str, runs: u64) {
        if let Some((_, times)) = self.words.iter_mut().find(|(known, _)| known == words) {
            *times = times.saturating_add(runs);
        } else if self.words.len() < WORDS {
            self.words.push((words.to_owned(), runs));
        }
    }

    /// Takes in those of another block.
    pub fn join(&mut self, other: &Times) {
        self.runs = self.runs.saturating_add(other.runs);
        other.words.iter().for_each(|(words, runs)| self.count(words, *runs));
    }
}

/// What came of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Number of the stage.
    pub stage: usize,
    /// Its own number in the stage.
    pub number: u64,
    /// Runs made.
    pub runs: u64,
    /// Failed ones among them.
    pub failed: u64,
    /// The first failure of each kind, in order; of more than `TOLD` kinds, those that came first.
    pub found: Vec<FailedRun>,
    /// How often each kind came.
    #[serde(default)]
    pub kinds: BTreeMap<String, Times>,
    /// Digests of schedules, each once.
    pub schedules: Vec<u64>,
    /// Digests of client traces, each once.
    pub traces: Vec<u64>,
    /// What was reached.
    pub marks: Vec<u64>,
    /// Of a stage that exhausts: states, transitions, schedules; nothing if it gave up.
    pub exhausted: Option<(usize, usize, String)>,
    /// There is no block of this number, the stage is shorter.
    pub beyond: bool,
    /// Runs of generated scenarios that were ended by a known defect of QEMU's, by its page in `docs/findings`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub known: BTreeMap<String, u64>,
}

/// Kinds of failures that the result of a block lists; the others are only counted.
pub const TOLD: usize = 16;

/// How a failure begins where a seed was run twice, and the runs differ.
pub const ANOTHER_RUN: &str = "the same seed gave another run";

impl Block {
    fn take(&mut self, campaign: &Campaign, ran: &Ran, of_one: bool, found: impl FnOnce(String) -> FailedRun) {
        self.runs += 1;
        self.schedules.push(ran.schedule);
        self.traces.push(ran.trace.0);
        self.reach(&ran.marks);
        if campaign.failed(&ran.outcome) {
            self.fail(&ran.outcome, of_one, found);
        }
    }

    /// A run failed.
    fn fail(&mut self, outcome: &Outcome, of_one: bool, found: impl FnOnce(String) -> FailedRun) {
        self.failed += 1;
        let (kind, words) = kind(outcome, of_one);
        let times = self.kinds.entry(kind.clone()).or_default();
        let first = times.runs == 0;
        times.runs += 1;
        times.count(&words, 1);
        if first && self.found.len() < TOLD {
            self.found.push(found(kind));
        }
    }

    fn reach(&mut self, marks: &Marks) {
        let mut all = Marks::of_words(&self.marks);
        all.join(marks);
        self.marks = all.words().to_vec();
    }

    fn done(mut self) -> Block {
        for digests in [&mut self.schedules, &mut self.traces] {
            digests.sort_unstable();
            digests.dedup();
        }
        self
    }
}

/// Who hears of each run before it is made: strategy and seed, or the list of choices. False: nobody wants the rest of the block.
pub type Before<'a> = &'a mut dyn FnMut(&dyn Fn() -> String) -> bool;

/// Does the blocks of a campaign.
pub struct Worker {
    /// What is done.
    pub campaign: Arc<Campaign>,
    /// What is explored.
    pub source: Arc<CampaignSource>,
    /// Options of runs of generated scenarios.
    pub options: RunOptions,
    /// Runs with one deviation, by which those with two are found: kept once they are known.
    parents: Option<Arc<Vec<Parent>>>,
    /// The states that its runs went through.
    atlas: Option<Atlas>,
}

/// A schedule with one deviation, and among how many each later choice was.
#[derive(Debug)]
struct Parent {
    deviations: Vec<(u32, u32)>,
    among: Vec<u8>,
}

impl Worker {
    /// A worker that has done nothing yet.
    #[must_use]
    pub fn new(campaign: Arc<Campaign>, source: Arc<CampaignSource>, options: RunOptions) -> Worker {
        Worker { campaign, source, options, parents: None, atlas: None }
    }

    /// Does a block of a stage that may make so many runs ([`super::Tally::left`]).
    pub fn block(&mut self, stage: usize, number: u64, left: u64, before: Before<'_>) -> Block {
        let block = Block { stage, number, ..Block::default() };
        let source = self.source.clone();
        match (&self.campaign.clone().stages[stage], &*source) {
            (CampaignStage::Exhaust(states), CampaignSource::Scenario(start)) => {
                exhaust_block(&self.campaign, block, start, *states, before)
            }
            (CampaignStage::Preempt(bound), CampaignSource::Scenario(start)) => {
                self.preempt_block(block, start, (*bound, left), before)
            }
            (CampaignStage::Seeds(strategies, first, end), source) => {
                self.seeds_block(block, source, strategies, *first..(*end).min(first.saturating_add(left)), before)
            }
            (_, CampaignSource::Generated(_)) => Block { beyond: true, ..block },
        }
    }

    /// A run of the scenario that is explored, from where exploring starts.
    fn run<C: Choose>(&mut self, start: &StartPoint, choose: impl Fn() -> C) -> Ran {
        self.atlas.get_or_insert_with(|| Atlas::new(start, STATES)).run(start, choose)
    }

    fn parents(&mut self, start: &StartPoint) -> Arc<Vec<Parent>> {
        if let Some(parents) = &self.parents {
            return parents.clone();
        }
        let mode = self.campaign.mode();
        let mut parents = Vec::new();
        children(&calm_parent(mode, start), &mut |deviations| {
            let mut script = Deviations::new(mode, deviations);
            drop(finish(start.sim.clone(), &mut script));
            parents.push(Parent { deviations: deviations.to_vec(), among: script.among });
        });
        self.parents.insert(Arc::new(parents)).clone()
    }

    /// What a tally would make of a block that finds nothing but new schedules, without doing it; `None` for one that has to be done
    /// to know. So the parts of a campaign know, each by itself, which blocks there are.
    pub fn foreseen(&mut self, stage: usize, number: u64, left: u64) -> Option<Block> {
        let source = self.source.clone();
        let runs = match (&self.campaign.stages[stage], &*source) {
            (CampaignStage::Exhaust(_), CampaignSource::Scenario(_)) if number == 0 => return None,
            (CampaignStage::Preempt(0), CampaignSource::Scenario(_)) => (number == 0).then_some(1),
            (CampaignStage::Preempt(1), CampaignSource::Scenario(start)) => {
                (number == 0).then(|| count_children(&calm_parent(self.campaign.mode(), start)).min(left))
            }
            (CampaignStage::Preempt(_), CampaignSource::Scenario(start)) => {
                let parents = self.parents(start);
                let own = usize::try_from(number).ok().and_then(|number| parents.get(number)).map(count_children);
                own.map(|own| own.min(left.saturating_sub(before(&parents, number))))
            }
            (CampaignStage::Seeds(_, first, end), _) => {
                let left = (end - first).min(left).saturating_sub(number.saturating_mul(BLOCK));
                (left > 0).then_some(left.min(BLOCK))
            }
            (_, _) => None,
        };
        let block = Block { stage, number, beyond: runs.is_none(), runs: runs.unwrap_or(0), ..Block::default() };
        Some(Block { schedules: vec![mix(stage as u64, number)], ..block })
    }

    fn seeds_block(
        &mut self,
        mut block: Block,
        source: &CampaignSource,
        strategies: &[String],
        seeds: std::ops::Range<u64>,
        before: Before<'_>,
    ) -> Block {
        let mode = self.campaign.mode();
        let options = RunOptions { level: Some(Level::Client), ..self.options };
        let from = block.number.saturating_mul(BLOCK);
        if from >= seeds.end - seeds.start {
            return Block { beyond: true, ..block };
        }
        for number in from..(from + BLOCK).min(seeds.end - seeds.start) {
            let seed = seeds.start + number;
            let name = &strategies[(number % strategies.len() as u64) as usize];
            let strategy: Strategy = name.parse().expect("a campaign holds names of strategies");
            if !before(&|| format!("--strategy {name} --seed {seed}")) {
                break;
            }
            let begin = || match source {
                CampaignSource::Scenario(start) => Ok((**start).clone()),
                CampaignSource::Generated(plan) => StartPoint::of_all(&plan(seed), &options),
            };
            let mut ran = match source {
                CampaignSource::Scenario(start) => self.run(start, || strategy.chooser_in(mode, seed)),
                CampaignSource::Generated(_) => match begin() {
                    Ok(start) => {
                        // Nobody shares it, so that nothing of it is copied. It is made again where it is wanted again.
                        let mut ran = finish(start.sim, strategy.chooser_in(mode, seed));
                        // Equal choices are another schedule in another scenario.
                        ran.schedule = mix(ran.schedule, seed);
                        ran
                    }
                    Err(outcome) => {
                        block.runs += 1;
                        block.fail(&outcome, false, |kind| {
                            FailedRun::new(Some(name.clone()), Some(seed), String::new(), kind, &outcome)
                        });
                        continue;
                    }
                },
            };
            let again = || begin().expect("it did begin");
            if self.campaign.check_determinism
                && let Some(difference) = differs(&again(), strategy.chooser_in(mode, seed))
            {
                let reason = format!("{ANOTHER_RUN}: {difference}");
                let outcome = Outcome::Crash { at: None, message: reason };
                block.fail(&outcome, false, |kind| {
                    FailedRun::new(Some(name.clone()), Some(seed), String::new(), kind, &outcome)
                });
            }
            if let (CampaignSource::Generated(_), Some(page)) = (source, ran.outcome.page()) {
                *block.known.entry(page.to_owned()).or_default() += 1;
                ran.outcome = Outcome::Passed;
            }
            block.take(&self.campaign, &ran, matches!(source, CampaignSource::Scenario(_)), |kind| {
                let (log, _, outcome) = recorded(&again(), strategy.chooser_in(mode, seed));
                FailedRun::new(Some(name.clone()), Some(seed), log.deviations().one_line(), kind, &outcome)
            });
        }
        block.done()
    }

    fn preempt_block(
        &mut self,
        mut block: Block,
        start: &StartPoint,
        (bound, mut left): (u32, u64),
        before: Before<'_>,
    ) -> Block {
        let campaign = self.campaign.clone();
        let mode = campaign.mode();
        if bound < 2 {
            if block.number > 0 {
                return Block { beyond: true, ..block };
            }
            let calm = calm_parent(mode, start);
            if bound == 0 {
                self.deviate(&mut block, start, &[], &mut left, before);
            } else {
                children(&calm, &mut |deviations| self.deviate(&mut block, start, deviations, &mut left, before));
            }
            return block.done();
        }
        let parents = self.parents(start);
        match usize::try_from(block.number).ok().and_then(|number| parents.get(number)) {
            None => Block { beyond: true, ..block },
            Some(parent) => {
                left = left.saturating_sub(self::before(&parents, block.number));
                children(parent, &mut |deviations| self.deviate(&mut block, start, deviations, &mut left, before));
                block.done()
            }
        }
    }

    /// A run with these deviations, if one more may be made.
    fn deviate(
        &mut self,
        block: &mut Block,
        start: &StartPoint,
        deviations: &[(u32, u32)],
        left: &mut u64,
        before: Before<'_>,
    ) {
        let Some(fewer) = left.checked_sub(1) else { return };
        *left = fewer;
        let mode = self.campaign.mode();
        if !before(&|| format!("deviations {deviations:?}")) {
            return *left = 0;
        }
        let ran = self.run(start, || Deviations::new(mode, deviations));
        block.take(&self.campaign, &ran, true, |kind| {
            let (log, _, outcome) = recorded(start, Deviations::new(mode, deviations));
            FailedRun::new(None, None, log.deviations().one_line(), kind, &outcome)
        });
    }
}

fn exhaust_block(
    campaign: &Campaign,
    mut block: Block,
    start: &StartPoint,
    states: usize,
    before: Before<'_>,
) -> Block {
    if block.number > 0 {
        return Block { beyond: true, ..block };
    }
    if !before(&|| "all schedules".to_owned()) {
        return block;
    }
    let mode = campaign.mode();
    let caps = Caps { states, ..Caps::default() };
    let plain = exhaust_in(mode, start, caps);
    let whole = plain.capped.is_none();
    // What is too large with each order may be small without those that nobody can tell apart. Then schedules are not counted.
    let found = if whole { Some(plain) } else { reduced_in(mode, start, caps) };
    let Some(found) = found else { return block };
    let traces = found.traces.unwrap_or_default();
    for trace in &traces {
        block.runs += 1;
        block.traces.push(trace.digest.0);
        let mut script = Deviations::new(mode, &[]);
        script.picks = Some(trace.picks.clone());
        let ran = finish(start.sim.clone(), &mut script);
        block.schedules.push(ran.schedule);
        block.reach(&ran.marks);
        if campaign.failed(&trace.outcome) {
            block.fail(&trace.outcome, true, |kind| {
                let (log, _, outcome) = listed(campaign.mode(), start, &trace.picks);
                FailedRun::new(None, None, log.deviations().one_line(), kind, &outcome)
            });
        }
    }
    let least = if whole { "" } else { AT_LEAST };
    block.exhausted = Some((found.states, found.transitions, format!("{least}{}", found.schedules.decimal())));
    block.done()
}

/// The calm schedule, and among how many its choices were.
fn calm_parent(mode: u32, start: &StartPoint) -> Parent {
    let mut script = Deviations::new(mode, &[]);
    drop(finish(start.sim.clone(), &mut script));
    Parent { deviations: Vec::new(), among: script.among }
}

/// Takes deviations: place and pick.
type Each<'a> = dyn FnMut(&[(u32, u32)]) + 'a;

/// All schedules with one deviation more, behind the last.
fn children(parent: &Parent, each: &mut Each<'_>) {
    let first = parent.deviations.last().map_or(0, |(at, _)| *at as usize + 1);
    let mut deviations = parent.deviations.clone();
    for at in first..parent.among.len() {
        for pick in 1..u32::from(parent.among[at]) {
            deviations.push((at as u32, pick));
            each(&deviations);
            deviations.pop();
        }
    }
}

/// How many schedules with two deviations stand before those of the parent of this number.
fn before(parents: &[Parent], number: u64) -> u64 {
    let number = usize::try_from(number).unwrap_or(usize::MAX).min(parents.len());
    parents[..number].iter().map(count_children).sum()
}

/// How many these are.
fn count_children(parent: &Parent) -> u64 {
    let first = parent.deviations.last().map_or(0, |(at, _)| *at as usize + 1);
    parent.among.iter().skip(first).map(|among| u64::from(among.saturating_sub(1))).sum()
}

/// Calm, but for the choices of these numbers; or the answers of a list.
struct Deviations<'a> {
    mode: u32,
    list: &'a [(u32, u32)],
    picks: Option<Vec<u32>>,
    among: Vec<u8>,
}

impl<'a> Deviations<'a> {
    fn new(mode: u32, list: &'a [(u32, u32)]) -> Self {
        Deviations { mode, list, picks: None, among: Vec::new() }
    }
}

impl Choose for Deviations<'_> {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        if point == ChoicePoint::Mode {
            return self.mode;
        }
        let at = self.among.len();
        self.among.push(u8::try_from(among).unwrap_or(u8::MAX));
        let pick = match &self.picks {
            Some(picks) => picks.get(at).copied().unwrap_or(0),
            None => match self.list.first() {
                Some((next, pick)) if *next as usize == at => {
                    self.list = &self.list[1..];
                    *pick
                }
                _ => 0,
            },
        };
        pick.min(among - 1)
    }

    fn wants_mode(&self) -> bool {
        true
    }
}
