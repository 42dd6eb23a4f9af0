//! What a campaign has found so far, and what it does next.

use super::campaign::{AT_LEAST, Block, Campaign, CampaignStage, FailedRun, Times};
use super::sketch::Sketch;
use crate::base::{counted, grouped};
use crate::world::watch::marks::{KINDS, Marks, catalogue};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kinds of failures that are kept; the others are counted.
const KEPT: usize = 100;
/// Runs that a bound on deviations gets at most.
const MOST_BOUNDED: u64 = 100_000;
/// A strategy stops when so many runs, and half of all it made, gave no new schedule.
const DRY: u64 = 2048;

/// What came of a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageReport {
    /// The mark's name, as the report lists it.
    pub name: String,
    /// Runs made in it.
    pub runs: u64,
    /// Schedules and client traces that were new in it; of a sketch that is full, those that it noticed.
    pub new: (u64, u64),
    /// Failed runs.
    pub failed: u64,
    /// Why it ended; empty while it goes on.
    pub ended: String,
}

/// The results of blocks, taken in their order.
#[derive(Clone, Debug)]
pub struct Tally {
    campaign: Arc<Campaign>,
    stage: usize,
    number: u64,
    /// Runs since the last new schedule.
    dry: u64,
    /// Runs made.
    pub runs: u64,
    /// Failed ones among them.
    pub failed: u64,
    /// The first failure of each kind, in order.
    pub found: Vec<FailedRun>,
    /// Failures by kind.
    pub kinds: BTreeMap<String, Times>,
    /// Runs that were ended by a known defect of QEMU's, by its page in `docs/findings`.
    pub known: BTreeMap<String, u64>,
    /// Schedules that were run.
    pub schedules: Sketch,
    /// Client traces that came of them.
    pub traces: Sketch,
    /// What was reached.
    pub marks: Marks,
    /// States, transitions and schedules of a scenario that was exhausted.
    pub exhausted: Option<(usize, usize, String)>,
    /// A report for each stage that has begun.
    pub stages: Vec<StageReport>,
    /// Why the campaign is over.
    pub over: Option<String>,
}

impl Tally {
    /// Of a campaign that has not begun.
    #[must_use]
    pub fn new(campaign: Arc<Campaign>) -> Tally {
        let mut tally = Tally {
            campaign,
            stage: 0,
            number: 0,
            dry: 0,
            runs: 0,
            failed: 0,
            found: Vec::new(),
            kinds: BTreeMap::new(),
            known: BTreeMap::new(),
            schedules: Sketch::default(),
            traces: Sketch::default(),
            marks: Marks::default(),
            exhausted: None,
            stages: Vec::new(),
            over: None,
        };
        tally.begin(0);
        tally
    }

    fn begin(&mut self, stage: usize) {
        (self.stage, self.number, self.dry) = (stage, 0, 0);
        match self.campaign.stages.get(stage) {
            Some(stage) => self.stages.push(StageReport { name: stage.name(), ..StageReport::default() }),
            None => self.over = Some("all stages are done".to_owned()),
        }
    }

    /// Stage and number of the block to be taken next.
    #[must_use]
    pub fn next(&self) -> (usize, u64) {
        (self.stage, self.number)
    }

    /// How many runs the stage that goes on may make, all its blocks together.
    #[must_use]
    pub fn left(&self) -> u64 {
        let made = self.runs - self.stages.last().map_or(0, |stage| stage.runs);
        self.campaign.runs.saturating_sub(made)
    }

    /// Takes in what came of the next block.
    ///
    /// # Panics
    /// If it is another one.
    pub fn take(&mut self, block: &Block) {
        assert!((block.stage, block.number) == self.next() && self.over.is_none(), "blocks are taken in their order");
        self.number += 1;
        let campaign = self.campaign.clone();
        let stage = &campaign.stages[self.stage];
        if block.beyond {
            return self.end_stage("all tried");
        }
        self.add(block);
        let so_far = self.stages.last().map_or(0, |stage| stage.runs);
        self.exhausted = block.exhausted.clone().or(self.exhausted.take());
        if block.failed > 0 && !campaign.keep_going {
            self.over("a run failed");
        } else if let CampaignStage::Exhaust(states) = stage {
            match &block.exhausted {
                Some(_) => self.over("every schedule was tried"),
                None => self.end_stage(&format!("more than {}", counted(*states as u64, "state"))),
            }
        } else if self.runs >= campaign.runs {
            self.over("all runs are made");
        } else if matches!(stage, CampaignStage::Preempt(2..)) && so_far >= (campaign.runs / 2).min(MOST_BOUNDED) {
            self.end_stage("there are more");
        } else if matches!(stage, CampaignStage::Seeds(..)) && self.dry >= DRY.max(so_far / 2) {
            self.end_stage(&format!("no new schedule in {}", counted(self.dry, "run")));
        }
    }

    fn add(&mut self, block: &Block) {
        let new = block.schedules.iter().filter(|digest| self.schedules.insert(**digest)).count() as u64;
        let new_traces = block.traces.iter().filter(|digest| self.traces.insert(**digest)).count() as u64;
        self.dry = if new > 0 { 0 } else { self.dry.saturating_add(block.runs) };
        self.runs = self.runs.saturating_add(block.runs);
        self.failed = self.failed.saturating_add(block.failed);
        for (page, runs) in &block.known {
            let met = self.known.entry(page.clone()).or_default();
            *met = met.saturating_add(*runs);
        }
        self.marks.join(&Marks::of_words(&block.marks));
        for found in &block.found {
            let known = self.kinds.contains_key(&found.kind);
            if !known && self.found.len() < KEPT {
                self.found.push(found.clone());
            }
        }
        for (kind, times) in &block.kinds {
            self.kinds.entry(kind.clone()).or_default().join(times);
        }
        if let Some(stage) = self.stages.last_mut() {
            stage.runs = stage.runs.saturating_add(block.runs);
            stage.failed = stage.failed.saturating_add(block.failed);
            stage.new.0 += new;
            stage.new.1 += new_traces;
        }
    }

    fn end_stage(&mut self, why: &str) {
        if let Some(stage) = self.stages.last_mut() {
            why.clone_into(&mut stage.ended);
        }
        self.begin(self.stage + 1);
    }

    fn over(&mut self, why: &str) {
        if let Some(stage) = self.stages.last_mut() {
            why.clone_into(&mut stage.ended);
        }
        self.over = Some(why.to_owned());
    }

    /// What `fuzz` prints at its end: a line for each stage, the failures, the marks.
    #[must_use]
    pub fn report(&self, all_marks: bool) -> String {
        let mut text = String::new();
        for stage in &self.stages {
            let ended = if stage.ended.is_empty() { "stopped" } else { &stage.ended };
            let failed = if stage.failed > 0 { format!(", {} failed", number(stage.failed)) } else { String::new() };
            text.push_str(&format!(
                "{:<44} {:>15}, {} and {} new{failed}; {ended}\n",
                stage.name,
                counted(stage.runs, "run"),
                counted(stage.new.0, "schedule"),
                counted(stage.new.1, "client trace"),
            ));
        }
        let of = |sketch: &Sketch| {
            let (count, exact) = sketch.count();
            format!("{}{}", if exact { "" } else { "about " }, number(count))
        };
        text.push_str(&format!("runs                 {}\n", number(self.runs)));
        match &self.exhausted {
            Some((states, transitions, schedules)) => text.push_str(&format!(
                "schedules            all{}{}, by {} and {}\nclient traces        {}, which is all\n",
                if schedules.starts_with(AT_LEAST) { ", " } else { " " },
                told(schedules),
                counted(*states as u64, "state"),
                counted(*transitions as u64, "transition"),
                of(&self.traces),
            )),
            None => text.push_str(&format!(
                "distinct schedules   {}\nclient traces        {}\n",
                of(&self.schedules),
                of(&self.traces)
            )),
        }
        for (page, runs) in &self.known {
            text.push_str(&format!("ended by QEMU's      docs/findings/{page}.md: {} runs\n", number(*runs)));
        }
        text.push_str(&if all_marks { self.coverage() } else { self.reached() });
        text
    }

    /// How many marks of each kind were reached, in a line.
    fn reached(&self) -> String {
        let catalogue = catalogue();
        let counts: Vec<String> = KINDS
            .iter()
            .map(|kind| {
                let of_kind = || catalogue.iter().filter(|mark| mark.kind == *kind);
                let reached = of_kind().filter(|mark| self.marks.has(mark.bit)).count();
                format!("{kind} {reached} of {}", of_kind().count())
            })
            .collect();
        format!("marks reached        {} (--marks lists the others)\n", counts.join(", "))
    }

    /// Marks reached and missed.
    fn coverage(&self) -> String {
        let catalogue = catalogue();
        let mut text = String::new();
        for kind in KINDS {
            let of_kind = || catalogue.iter().filter(|mark| mark.kind == kind);
            let reached = of_kind().filter(|mark| self.marks.has(mark.bit)).count();
            text.push_str(&format!("{:<20} {reached} of {} reached\n", format!("{kind} marks"), of_kind().count()));
            let missed = |rare: bool| {
                let missed = of_kind().filter(|mark| !self.marks.has(mark.bit) && mark.rare == rare);
                missed.map(|mark| mark.name.as_str()).collect::<Vec<_>>().join("; ")
            };
            for (rare, label) in [(false, "never reached"), (true, "rare, not reached")] {
                let missed = missed(rare);
                if !missed.is_empty() {
                    text.push_str(&format!("  {label}: {missed}\n"));
                }
            }
        }
        text
    }

    /// All marks by name, and whether they were reached.
    #[must_use]
    pub fn all_marks(&self) -> Vec<(String, bool)> {
        catalogue()
            .into_iter()
            .map(|mark| (format!("{}: {}", mark.kind, mark.name), self.marks.has(mark.bit)))
            .collect()
    }

    /// Marks that are not rare and were never reached.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        let missed = catalogue().into_iter().filter(|mark| !mark.rare && !self.marks.has(mark.bit));
        missed.map(|mark| mark.name).collect()
    }
}

fn number(n: u64) -> String {
    grouped(&n.to_string())
}

/// A number of schedules, or the least that it is.
#[must_use]
pub fn told(schedules: &str) -> String {
    match schedules.strip_prefix(AT_LEAST) {
        Some(number) => format!("{AT_LEAST}{}", grouped(number)),
        None => grouped(schedules),
    }
}
