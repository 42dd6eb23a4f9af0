//! The page of a campaign: `fuzz --report DIR`.
#![expect(clippy::disallowed_methods, reason = "the shell writes files")]

use crate::base::{counted, grouped, part_of};
use crate::choice::{ChoiceLog, Chooser, Replay, ReplayMode, Walk};
use crate::cli::about::quirks::WatchArgs;
use crate::cli::run::quoted;
use crate::explore::{FailedRun, Fingerprint, Tally, told};
use crate::render::read::ShownRun;
use crate::render::report::{Campaign, Failure, Mark, StageRow, TraceCount, draw};
use crate::render::{html, svg};
use crate::scenario::plan::Plan;
use crate::shrink::{Shrunk, shrink};
use crate::sim::outcome::{RunOptions, Runner};
use crate::trace::Level;
use crate::trace::compare::client_lines;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Seeds by which distinct traces are counted, as a campaign itself keeps no count of each.
const SAMPLE: u64 = 300;

/// What a page is made from, beside the tally.
pub(in crate::cli) struct CampaignInfo<'a> {
    /// The scenario, or that scenarios were generated.
    pub name: &'a str,
    /// Its plan; `None` where scenarios were generated.
    pub plan: Option<&'a Plan>,
    /// Gives the scenario of a failure.
    pub plan_of: &'a dyn Fn(&FailedRun) -> Option<Plan>,
    /// Gives the command that shows a failure again.
    pub again: &'a dyn Fn(&FailedRun) -> String,
    /// Who runs.
    pub runner: Runner,
    /// With what.
    pub options: RunOptions,
    /// The same, as it is written on a command line.
    pub watch: &'a WatchArgs,
}

/// Writes `index.html` into `dir`, and a page for each kind of failure.
pub(in crate::cli) fn write(dir: &Path, tally: &Tally, about: &CampaignInfo<'_>) -> Result<(), String> {
    let trouble =
        |path: &Path, error: std::io::Error| format!("{}: {}", path.display(), crate::cli::files::plain(&error));
    std::fs::create_dir_all(dir).map_err(|error| trouble(dir, error))?;
    let mut failures: Vec<Failure> = Vec::new();
    for found in &tally.found {
        if failures.iter().any(|failure| failure.title == found.kind) {
            continue;
        }
        let mut failure = Failure {
            title: found.kind.clone(),
            text: found.text.clone(),
            again: (about.again)(found),
            count: tally.kinds.get(&found.kind).map_or(1, |times| times.runs),
            ..Failure::default()
        };
        let small = small(found, about);
        if let Some(small) = &small {
            let file = format!("failure-{}.yaml", failures.len() + 1);
            let path = dir.join(&file);
            crate::serve::outfile::write(&path, small.to_yaml().as_bytes()).map_err(|error| trouble(&path, error))?;
            failure.text.push_str(&format!(
                "\n\nmade small, as below; the scenario is {file}\nbefore: {}\nafter:  {}",
                small.before, small.after
            ));
        }
        if let Some(source) = small.as_ref().map(|small| shown_small(small, about)).or_else(|| shown(found, about)) {
            failure.picture = svg::draw(&source, &svg::Options::default());
            failure.page = format!("failure-{}.html", failures.len() + 1);
            let path = dir.join(&failure.page);
            crate::serve::outfile::write(&path, html::draw(&source, None, None).as_bytes())
                .map_err(|error| trouble(&path, error))?;
        }
        failures.push(failure);
    }
    let mut campaign = summary(tally, about);
    campaign.failures = failures;
    if let Some(plan) = about.plan {
        campaign.traces = traces(plan, about);
    }
    let path = dir.join("index.html");
    crate::serve::outfile::write(&path, draw(&campaign).as_bytes()).map_err(|error| trouble(&path, error))
}

/// Runs that making a failure small may take: pages are for looking at, `shrink` takes its time.
const SMALL: u32 = 400;

/// A failure made small; `None` for one that does not come about again, or that no smaller one is known of.
fn small(found: &FailedRun, about: &CampaignInfo<'_>) -> Option<Shrunk> {
    let mut plan = (about.plan_of)(found)?;
    plan.quirks = plan.quirks.union(about.options.quirks);
    let log: ChoiceLog = found.choices.parse().ok()?;
    let options = RunOptions { record_choices: true, ..about.options };
    let run = (about.runner)(&plan, Chooser::Replay(Replay::new(Arc::new(log), ReplayMode::Strict)), &options);
    let strategy = found.strategy.as_deref().unwrap_or("few deviations");
    let failure = crate::failure::Failure::of(about.name, &plan, strategy, found.seed, &run)?;
    shrink(&failure, SMALL).ok()
}

/// Its run, in detail.
fn shown_small(small: &Shrunk, about: &CampaignInfo<'_>) -> ShownRun {
    let mut plan = small.plan.clone();
    plan.expect_violation = None;
    let options = RunOptions { level: Some(Level::Io), record_choices: false, ..about.options };
    let run = (about.runner)(&plan, crate::sim::chooser(&plan.schedule), &options);
    let mut source = ShownRun::of_trace(about.name, "made small", &run.trace);
    source.outcome = Some(crate::cli::run::timeline::in_short(&run.outcome));
    source
}

/// The run of a failure, once more and in detail.
fn shown(found: &FailedRun, about: &CampaignInfo<'_>) -> Option<ShownRun> {
    let plan = (about.plan_of)(found)?;
    let log: ChoiceLog = found.choices.parse().ok()?;
    let options = RunOptions { level: Some(Level::Io), record_choices: false, ..about.options };
    let run = (about.runner)(&plan, Chooser::Replay(Replay::new(Arc::new(log), ReplayMode::Lenient)), &options);
    let schedule = match (&found.strategy, found.seed) {
        (Some(strategy), Some(seed)) => format!("{strategy}, seed {seed}"),
        _ => "few deviations".to_owned(),
    };
    let mut source = ShownRun::of_trace(about.name, &schedule, &run.trace);
    source.outcome = Some(crate::cli::run::timeline::in_short(&run.outcome));
    Some(source)
}

fn summary(tally: &Tally, about: &CampaignInfo<'_>) -> Campaign {
    let number = |n: u64| grouped(&n.to_string());
    let count = |(count, exact): (u64, bool)| format!("{}{}", if exact { "" } else { "about " }, number(count));
    let mut figures = vec![
        ("runs".to_owned(), number(tally.runs)),
        ("failed".to_owned(), number(tally.failed)),
        ("distinct schedules".to_owned(), count(tally.schedules.count())),
        ("distinct client traces".to_owned(), count(tally.traces.count())),
    ];
    if let Some((states, transitions, schedules)) = &tally.exhausted {
        let all = format!(
            "{} schedules, by {} and {}",
            told(schedules),
            counted(*states as u64, "state"),
            counted(*transitions as u64, "transition")
        );
        figures.push(("exhausted".to_owned(), all));
    }
    let outcome = match (tally.failed, &tally.over) {
        (0, Some(over)) => format!("no run failed; over: {over}"),
        (0, None) => "no run failed".to_owned(),
        (failed, _) => format!("{} failed", part_of(failed, tally.runs, "run")),
    };
    let stage = |stage: &crate::explore::StageReport| StageRow {
        name: stage.name.clone(),
        runs: stage.runs,
        failed: stage.failed,
        new_traces: stage.new.1,
        ended: stage.ended.clone(),
    };
    Campaign {
        title: format!("{}{}", about.name, about.watch.written()),
        outcome,
        passed: tally.failed == 0,
        figures,
        stages: tally.stages.iter().map(stage).collect(),
        marks: tally.all_marks().into_iter().map(|(name, reached)| Mark { name, count: u64::from(reached) }).collect(),
        ..Campaign::default()
    }
}

/// Distinct client traces of the scenario under seeds, most frequent first.
fn traces(plan: &Plan, about: &CampaignInfo<'_>) -> Vec<TraceCount> {
    let options = RunOptions { level: Some(Level::Client), record_choices: false, ..about.options };
    let mut counts: BTreeMap<Vec<String>, (u64, u64)> = BTreeMap::new();
    for seed in 0..SAMPLE {
        let run = (about.runner)(plan, Chooser::Walk(Box::new(Walk::new(seed))), &options);
        let lines = client_lines(&run.trace).iter().map(ToString::to_string).collect();
        counts.entry(lines).or_insert((0, seed)).0 += 1;
    }
    let mut traces: Vec<TraceCount> = counts
        .into_iter()
        .map(|(lines, (count, seed))| TraceCount {
            name: format!("{:08x}, {}", Fingerprint::of(&lines) as u32, counted(lines.len() as u64, "line")),
            count,
            again: format!("blockjob-sim run {} --seed {seed}{}", quoted(about.name), about.watch.written()),
        })
        .collect();
    traces.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
    traces
}
