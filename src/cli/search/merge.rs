//! `blockjob-sim merge`: the parts of a campaign, joined.

use crate::cli::about::quirks::WatchArgs;
use crate::cli::output::Output;
use crate::cli::search::campaign_file::{self, Parts};
use crate::cli::search::campaign_page;
use crate::cli::search::fuzz::{save::Save, tell};
use crate::cli::{EXIT_CODES, EXIT_USAGE, files};
use crate::explore::saved::CampaignHead;
use crate::explore::{FailedRun, Tally};
use crate::generate;
use crate::sim::outcome::{RunOptions, Runner};
use crate::trace::Level;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `merge`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct MergeArgs {
    /// Directories that `fuzz --state` wrote, or the `campaign.jsonl` in them: all parts of one campaign
    #[arg(required = true)]
    parts: Vec<PathBuf>,
    /// Directory for failure files, as `fuzz` writes them; the scenario has to be where it was
    #[arg(long, value_name = "DIR")]
    failures: Option<PathBuf>,
    /// Write pages about the campaign into this directory: index.html, and one for each kind of failure
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// List the marks that were not reached
    #[arg(long)]
    marks: bool,
}

/// Joins the parts of a campaign: what it prints and writes is what one big run would have printed and written.
pub(in crate::cli) fn merge(args: &MergeArgs, runner: Runner, out: &mut Output) -> u8 {
    match merged(args, runner, out) {
        Ok(code) => code,
        Err(problem) => {
            if !problem.is_empty() {
                out.error(&problem);
            }
            EXIT_USAGE
        }
    }
}

fn merged(args: &MergeArgs, runner: Runner, out: &mut Output) -> Result<u8, String> {
    let parts = campaign_file::read_all(&args.parts)?;
    let head = &parts.head;
    let tally = joined(&parts)?;
    let files = args.failures.is_some() || args.report.is_some();
    // With nowhere to write to, the scenario is not asked for: parts can be joined where it is not.
    let save = if files { Some(save(head, args.failures.as_deref(), runner, out)?) } else { None };
    let again = |found: &FailedRun| match &save {
        Some(save) if args.failures.is_some() => match save.write(found) {
            Ok(path) => format!("blockjob-sim replay {}", path.display()),
            Err(problem) => format!("{}  ({problem})", head.again(found)),
        },
        _ => head.again(found),
    };
    if let (Some(dir), Some(save)) = (&args.report, &save) {
        let about = campaign_page::CampaignInfo {
            name: &save.name,
            plan: save.plan.as_ref(),
            plan_of: &|found| {
                save.plan.clone().or_else(|| found.seed.map(|seed| generate::with(&save.drawn, seed).plan))
            },
            again: &again,
            runner,
            options: save.options,
            watch: &WatchArgs::parse(&head.watch)?,
        };
        campaign_page::write(dir, &tally, &about).map_err(|problem| format!("--report: {problem}"))?;
    }
    Ok(tell(&tally, args.marks, &again, out))
}

/// Takes the blocks in, in the order of one big run.
fn joined(parts: &Parts) -> Result<Tally, String> {
    let mut tally = Tally::new(Arc::new(parts.head.campaign.clone()));
    while tally.over.is_none() {
        match parts.blocks.get(&tally.next()) {
            Some(block) => tally.take(block),
            None => return Err(missing(parts, tally.next())),
        }
    }
    Ok(tally)
}

/// What is still to do, given the first block that is missing.
fn missing(parts: &Parts, (stage, number): (usize, u64)) -> String {
    let Some(of) = parts.head.parts else {
        return format!("the campaign is not done: block {number} of stage {stage} is missing");
    };
    let undone: Vec<u64> = (0..of).filter(|part| parts.known.get(part) != Some(&true)).collect();
    if undone.is_empty() {
        // Somebody took lines out.
        return format!(
            "part {} of {of} says that it is done, and block {number} of stage {stage} is missing",
            number % of
        );
    }
    let (begun, missing): (Vec<u64>, Vec<u64>) = undone.iter().partition(|part| parts.known.contains_key(part));
    let mut text = format!("{} of {of} parts are not here yet", undone.len());
    for (parts, what) in [(missing, "missing"), (begun, "begun and not done")] {
        if !parts.is_empty() {
            let names: Vec<String> = parts.iter().map(|part| format!("{part}/{of}")).collect();
            text.push_str(&format!("; {what}: {}", names.join(" ")));
        }
    }
    format!("{text} (each is done by the campaign's command with `--shard` and `--resume`)")
}

/// What writes failure files, from what the parts say of their campaign.
fn save(head: &CampaignHead, dir: Option<&Path>, runner: Runner, out: &mut Output) -> Result<Save, String> {
    let watch = WatchArgs::parse(&head.watch)?;
    let (mut plan, mut drawn) = (None, generate::Options::default());
    match head.file.strip_prefix("--generate") {
        Some(words) => drawn = generate::Options::of_switches(words)?,
        // What is wrong with it has been said.
        None => plan = Some(files::scenario(Path::new(&head.file), out).ok_or_else(String::new)?),
    }
    let options =
        RunOptions { level: Some(Level::Client), quirks: watch.quirks(), check: true, ..RunOptions::default() };
    Ok(Save {
        name: head.file.clone(),
        plan,
        runner,
        options,
        dir: dir.unwrap_or("failures".as_ref()).to_owned(),
        drawn,
    })
}
