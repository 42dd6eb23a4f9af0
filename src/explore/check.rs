//! Campaigns for tests: a few lines, failures as values.
//!
//! ```
//! use blockjob_sim::explore::{self, Strategy};
//! # let text = "about: A clear.\nfiles: [{create: {file: a, format: qcow2, size: 1M}}]\nargs: ['-drive', 'if=none,id=d,file=a,format=qcow2']\nsteps: [{qmp: {execute: query-jobs}}]\n";
//! let plan = blockjob_sim::scenario::load("a.yaml", &mut |_| Ok(text.to_owned())).unwrap().unwrap();
//! let report = explore::check(&plan).strategy(Strategy::Urw).runs(100).run().unwrap();
//! assert!(report.found.is_empty(), "{:?}", report.found);
//! ```

use super::campaign::{Campaign, CampaignSource, CampaignStage, EXHAUST, Worker};
use super::exhaust::StartPoint;
use super::strategy::Strategy;
use super::tally::Tally;
use crate::quirk::Quirks;
use crate::scenario::Plan;
use crate::sim::outcome::{Outcome, RunOptions};
use crate::trace::Level;
use std::sync::Arc;

/// A campaign that is being put together.
pub struct Check<'a> {
    what: CheckInput<'a>,
    strategies: Vec<Strategy>,
    runs: u64,
    first: u64,
    keep_going: bool,
    faults: bool,
    quirks: Quirks,
}

enum CheckInput<'a> {
    Plan(&'a Plan),
    Generated(fn(u64) -> Plan),
}

/// Explores the schedules of a scenario: the whole ladder, unless a strategy is named. All invariants are watched.
#[must_use]
pub fn check(plan: &Plan) -> Check<'_> {
    Check::new(CheckInput::Plan(plan))
}

/// Explores a scenario for each seed.
#[must_use]
pub fn check_generated(plan: fn(u64) -> Plan) -> Check<'static> {
    Check::new(CheckInput::Generated(plan))
}

impl<'a> Check<'a> {
    fn new(what: CheckInput<'a>) -> Check<'a> {
        Check {
            what,
            strategies: Vec::new(),
            runs: 1000,
            first: 0,
            keep_going: false,
            faults: false,
            quirks: Quirks::default(),
        }
    }

    /// Draws schedules by this strategy; with several, they take turns.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategies.push(strategy);
        self
    }

    /// How many runs there are at most; 1000 if it is not said.
    #[must_use]
    pub fn runs(mut self, runs: u64) -> Self {
        self.runs = runs;
        self
    }

    /// The first seed; 0 if it is not said.
    #[must_use]
    pub fn first_seed(mut self, seed: u64) -> Self {
        self.first = seed;
        self
    }

    /// Goes on after a failure.
    #[must_use]
    pub fn keep_going(mut self) -> Self {
        self.keep_going = true;
        self
    }

    /// Quirks in force beside those of the scenario.
    #[must_use]
    pub fn quirks(mut self, quirks: Quirks) -> Self {
        self.quirks = quirks;
        self
    }

    /// Leaves open where faults strike, too.
    #[must_use]
    pub fn faults(mut self) -> Self {
        self.faults = true;
        self
    }

    /// Does it, in this thread.
    ///
    /// # Errors
    /// How the run ended, if it did not get to where exploring starts.
    pub fn run(self) -> Result<Tally, Outcome> {
        let options =
            RunOptions { level: Some(Level::Client), quirks: self.quirks, check: true, ..RunOptions::default() };
        let source = match self.what {
            CheckInput::Plan(plan) => CampaignSource::Scenario(Box::new(StartPoint::watched(plan, &options)?)),
            CheckInput::Generated(plan) => CampaignSource::Generated(Box::new(plan)),
        };
        let end = self.first.saturating_add(self.runs);
        let mut campaign = match (&source, self.strategies.as_slice()) {
            (CampaignSource::Scenario(_), []) => Campaign::ladder(EXHAUST, self.runs),
            (_, []) => Campaign::seeds(&super::PORTFOLIO, self.first, end),
            (_, strategies) => Campaign::seeds(strategies, self.first, end),
        };
        if let Some(CampaignStage::Seeds(_, first, _)) = campaign.stages.last_mut() {
            *first = self.first;
        }
        campaign.keep_going = self.keep_going;
        campaign.faults = self.faults;
        let campaign = Arc::new(campaign);
        let mut worker = Worker::new(campaign.clone(), Arc::new(source), options);
        let mut tally = Tally::new(campaign);
        while tally.over.is_none() {
            let (stage, number) = tally.next();
            let left = tally.left();
            tally.take(&worker.block(stage, number, left, &mut |_| true));
        }
        Ok(tally)
    }
}
