//! `blockjob-sim timeline`: a picture of a run, of the file of a trace, or of a failure.
#![expect(clippy::disallowed_methods, reason = "the shell writes files")]

use super::output::Output;
use super::quirks::WatchArgs;
use super::{EXIT_USAGE, files, report, run};
use crate::choice::{ChoiceLog, Chooser, Mode, Replay, Walk};
use crate::render::read::{Kind, Source};
use crate::render::{svg, term};
use crate::sim::outcome::{Outcome, RunOptions, Runner};
use crate::trace::Level;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `timeline`.
#[derive(Debug, Args)]
pub(super) struct TimelineArgs {
    /// A scenario file, which is run; or a trace in JSON lines, ours or a recording of QEMU
    file: PathBuf,
    /// Where the picture goes; without, a timeline for the terminal is printed
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Form of the picture, where the name of the file does not say it
    #[arg(long = "as", value_name = "FORMAT")]
    form: Option<Form>,
    /// Run the scenario with choices from this seed
    #[arg(long, value_name = "N", conflicts_with = "replay")]
    seed: Option<u64>,
    /// Run the scenario with the choices of this list: a file, or the list itself
    #[arg(long, value_name = "CHOICES")]
    replay: Option<String>,
    /// How much of the run is shown: client, job, io or co
    #[arg(long, default_value = "io", value_parser = str::parse::<Level>)]
    level: Level,
    /// Begin at this time in milliseconds, or at the scenario's mark of this name
    #[arg(long, value_name = "MS|MARK")]
    from: Option<String>,
    /// Which trace of a file that holds several, from 1
    #[arg(long, value_name = "N", default_value = "1")]
    nth: usize,
    /// Columns of the terminal
    #[arg(long, value_name = "N")]
    width: Option<usize>,
    #[command(flatten)]
    watch: WatchArgs,
}

/// Forms of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// Text for a terminal
    Text,
    /// A still picture
    Svg,
}

impl Form {
    /// By the ending of a file's name.
    fn of(path: &Path) -> Option<Form> {
        match path.extension()?.to_str()? {
            "txt" => Some(Form::Text),
            "svg" => Some(Form::Svg),
            _ => None,
        }
    }
}

/// A run of a scenario, under a seed, a list of choices, or neither.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    /// The scenario or trace.
    pub file: &'a Path,
    /// The seed.
    pub seed: Option<u64>,
    /// The list of choices.
    pub replay: Option<&'a str>,
    /// Level of the trace.
    pub level: Level,
    /// Which trace of a file.
    pub nth: usize,
    /// Quirks and invariants.
    pub watch: &'a WatchArgs,
}

/// Reads or runs what is to be shown.
///
/// # Errors
/// A message, ready to be printed.
pub(super) fn source(wanted: &Wanted<'_>, runner: Runner, out: &Output) -> Result<Source, String> {
    let name = wanted.file.to_string_lossy();
    let is_scenario = wanted.file.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    if !is_scenario {
        let text = files::text(wanted.file).map_err(|why| format!("{name}: {why}\n"))?;
        let nth = wanted.nth.checked_sub(1).ok_or("--nth counts from 1\n")?;
        return Source::parse(&name, &text, nth).map_err(|error| format!("{name}: {error}\n"));
    }
    let plan = match files::plan(wanted.file) {
        Ok(Some(plan)) => plan,
        Ok(None) => return Err(format!("{name}: this file holds only definitions, it is included by scenarios\n")),
        Err(error) => return Err(report::render(&error, super::check::WIDTH, out.colour_err)),
    };
    let seed = wanted.seed.or(if wanted.replay.is_none() { plan.schedule.seed() } else { None });
    let (schedule, chooser) = match (seed, wanted.replay) {
        (Some(seed), _) => (format!("seed {seed}"), Chooser::Walk(Box::new(Walk::new(seed)))),
        (None, Some(choices)) => {
            let log: ChoiceLog = run::choices(choices).map_err(|problem| format!("--replay: {problem}\n"))?;
            ("replay".to_owned(), Chooser::Replay(Replay::new(Arc::new(log), Mode::Strict)))
        }
        (None, None) => ("calm".to_owned(), Chooser::Calm),
    };
    let (quirks, check) = (wanted.watch.quirks(), wanted.watch.check);
    let options = RunOptions { level: Some(wanted.level), record_choices: false, quirks, check };
    let run = runner(&plan, chooser, &options);
    let mut source = Source::of_trace(&name, &schedule, &run.trace);
    let first = run.outcome.to_string();
    source.outcome = Some(match &run.outcome {
        Outcome::Passed => "passed".to_owned(),
        other => format!("{}: {}", other.word(), first.lines().next().unwrap_or_default()),
    });
    Ok(source)
}

/// The record where the picture is to begin.
pub(super) fn start(source: &Source, from: &str) -> Result<usize, String> {
    let mark = source
        .records
        .iter()
        .position(|record| matches!(&record.kind, Kind::Note { what, text } if what == "mark" && text == from));
    if let Some(mark) = mark {
        return Ok(mark);
    }
    let wrong = || {
        let marks = source.records.iter().filter_map(|record| match &record.kind {
            Kind::Note { what, text } if what == "mark" => Some(format!(" `{text}`")),
            _ => None,
        });
        let marks: String = marks.collect();
        let known = if marks.is_empty() { " (it has none)".to_owned() } else { marks };
        format!("--from {from}: expected milliseconds, as in 15.17, or a mark of the scenario:{known}\n")
    };
    let (whole, rest) = from.split_once('.').unwrap_or((from, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(rest) || rest.len() > 6 {
        return Err(wrong());
    }
    let number = format!("{whole}{rest:0<6}").parse::<u64>().map_err(|_| wrong())?;
    source
        .records
        .iter()
        .position(|record| record.time >= number)
        .ok_or_else(|| format!("--from {from}: the run is over by then\n"))
}

/// The command.
pub(super) fn timeline(args: &TimelineArgs, runner: Runner, out: &mut Output) -> u8 {
    match draw(args, runner, out) {
        Ok(text) => match &args.output {
            None => out.print(&text),
            Some(path) => {
                if let Err(error) = std::fs::write(path, text) {
                    out.complain(&format!("{}: {error}\n", path.display()));
                    return EXIT_USAGE;
                }
            }
        },
        Err(message) => {
            out.complain(&message);
            return EXIT_USAGE;
        }
    }
    0
}

fn draw(args: &TimelineArgs, runner: Runner, out: &Output) -> Result<String, String> {
    let form = match (args.form, &args.output) {
        (Some(form), _) => form,
        (None, None) => Form::Text,
        (None, Some(path)) => Form::of(path).ok_or_else(|| {
            format!("{}: the name does not say which form: expected .svg, .txt, or --as FORMAT\n", path.display())
        })?,
    };
    let wanted = Wanted {
        file: &args.file,
        seed: args.seed,
        replay: args.replay.as_deref(),
        level: args.level,
        nth: args.nth,
        watch: &args.watch,
    };
    let source = source(&wanted, runner, out)?;
    let from = args.from.as_deref().map(|from| start(&source, from)).transpose()?;
    Ok(match form {
        Form::Text => {
            let colour = args.output.is_none() && out.colour_out;
            let width = args.width.unwrap_or(110).clamp(60, 400);
            term::draw(&source, &term::Options { width, colour, from })
        }
        Form::Svg => svg::draw(&source, &svg::Options { from, heading: None }),
    })
}
