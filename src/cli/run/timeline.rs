//! `blockjob-sim timeline`: a picture of a run, of the file of a trace, or of a failure.

use crate::choice::{ChoiceLog, Chooser, Replay, ReplayMode, Walk};
use crate::cli::about::quirks::WatchArgs;
use crate::cli::output::Output;
use crate::cli::{EXIT_USAGE, files, report, run};
use crate::failure::{Failure, FailureError};
use crate::quirk::{Quirk, Quirks};
use crate::render::read::{RecKind, ShownRun};
use crate::render::{html, mermaid, perfetto, svg, term};
use crate::sim::outcome::{Outcome, RunOptions, Runner};
use crate::trace::Level;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `timeline`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  drawn, whether the run passed or not\n  2  a mistake in the arguments or in a file"
)]
pub(in crate::cli) struct TimelineArgs {
    /// A scenario file, which is run; a failure file; or a trace in JSON lines, ours or a recording of QEMU
    file: PathBuf,
    /// File of the picture; without it, a timeline for the terminal is printed
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Format of the picture, if the file name does not say it
    #[arg(long = "as", alias = "format", value_name = "FORMAT")]
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
    /// Print the node graph instead: as it is at --from, or at the end
    #[arg(long, conflicts_with_all = ["beside", "beside_seed", "beside_replay", "beside_quirk"])]
    graph: bool,
    /// Which trace of a file that holds several, from 1
    #[arg(long, value_name = "N", default_value = "1")]
    nth: usize,
    /// A second run, shown below the first on a page: another scenario or trace
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// The second run: the same scenario (or that of --beside) under this seed
    #[arg(long, value_name = "N", conflicts_with = "beside_replay")]
    beside_seed: Option<u64>,
    /// The second run: the same scenario (or that of --beside) with these choices
    #[arg(long, value_name = "CHOICES")]
    beside_replay: Option<String>,
    /// The second run: the same scenario (or that of --beside) with this quirk on
    #[arg(long, value_name = "NAME", value_parser = str::parse::<Quirk>)]
    beside_quirk: Vec<Quirk>,
    /// Columns of the picture for a terminal; default: those of the terminal, or 110
    #[arg(long, value_name = "N")]
    width: Option<usize>,
    #[command(flatten)]
    watch: WatchArgs,
}

/// Forms of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Form {
    /// Text for a terminal
    Text,
    /// A page for a browser
    Html,
    /// A still picture
    Svg,
    /// A sequence diagram in Mermaid's language
    Mmd,
    /// Trace events, which Perfetto and chrome://tracing open
    Json,
}

impl Form {
    /// By the ending of a file's name.
    fn of(path: &Path) -> Option<Form> {
        match path.extension()?.to_str()? {
            "txt" => Some(Form::Text),
            "html" | "htm" => Some(Form::Html),
            "svg" => Some(Form::Svg),
            "mmd" | "mermaid" => Some(Form::Mmd),
            "json" => Some(Form::Json),
            _ => None,
        }
    }
}

/// A run of a scenario, under a seed, a list of choices, or neither.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Wanted<'a> {
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
    /// Quirks beside those of the scenario.
    pub quirks: Quirks,
    /// Whether invariants are watched.
    pub check: bool,
}

/// Reads or runs what is to be shown.
///
/// # Errors
/// A message, ready to be printed.
pub(in crate::cli) fn source(wanted: &Wanted<'_>, runner: Runner, out: &Output) -> Result<ShownRun, String> {
    let name = wanted.file.to_string_lossy();
    let is_scenario = wanted.file.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    if is_scenario && let Some(failure) = failure(wanted.file)? {
        let options = RunOptions { level: Some(wanted.level), check: wanted.check, ..RunOptions::default() };
        let shown = failure.replay(runner, ReplayMode::Lenient, &options);
        let seed = failure.seed.map_or(String::new(), |seed| format!(", seed {seed}"));
        let mut source = ShownRun::of_trace(&name, &format!("{}{seed}", failure.strategy), &shown.run.trace);
        source.outcome = Some(in_short(&shown.run.outcome));
        return Ok(source);
    }
    if !is_scenario {
        let text = files::text(wanted.file).map_err(|why| format!("{name}: {why}\n"))?;
        let nth = wanted.nth.checked_sub(1).ok_or("--nth counts from 1\n")?;
        return ShownRun::parse(&name, &text, nth).map_err(|error| format!("{name}: {error}\n"));
    }
    let plan = match files::plan(wanted.file) {
        Ok(Some(plan)) => plan,
        Ok(None) => return Err(format!("{name}: this file holds only definitions, it is included by scenarios\n")),
        Err(error) => return Err(report::render(&error, crate::cli::scenario::check::WIDTH, out.colour_err)),
    };
    let seed = wanted.seed.or(if wanted.replay.is_none() { plan.schedule.seed() } else { None });
    let (schedule, chooser) = match (seed, wanted.replay) {
        (Some(seed), _) => (format!("seed {seed}"), Chooser::Walk(Box::new(Walk::new(seed)))),
        (None, Some(choices)) => {
            let log: ChoiceLog = run::choices(choices).map_err(|problem| format!("--replay: {problem}\n"))?;
            ("replay".to_owned(), Chooser::Replay(Replay::new(Arc::new(log), ReplayMode::Strict)))
        }
        (None, None) => ("calm".to_owned(), Chooser::Calm),
    };
    let (quirks, check) = (wanted.quirks, wanted.check);
    let options = RunOptions { level: Some(wanted.level), record_choices: false, quirks, check };
    let nodes = crate::sim::graph::nodes(&plan, &mut chooser.clone(), &options);
    let run = runner(&plan, chooser, &options);
    let quirks: String = plan.quirks.iter().chain(quirks.iter()).map(|quirk| format!(", quirk {quirk}")).collect();
    let mut source = ShownRun::of_trace(&name, &format!("{schedule}{quirks}"), &run.trace);
    (source.nodes, source.graphs) = (nodes.about, nodes.graphs);
    source.outcome = Some(in_short(&run.outcome));
    Ok(source)
}

/// The failure in a file; `None` for a file of another kind.
pub(in crate::cli) fn failure(file: &Path) -> Result<Option<Failure>, String> {
    let name = file.to_string_lossy();
    match files::text(file) {
        Ok(text) if text.starts_with("failure:") => match Failure::from_text(&name, &text) {
            Ok(failure) => Ok(Some(failure)),
            Err(FailureError::Yaml(error)) => Err(report::render(&error, crate::cli::scenario::check::WIDTH, false)),
            Err(error) => Err(format!("{error}\n")),
        },
        // Whoever reads the scenario tells what is wrong with it.
        _ => Ok(None),
    }
}

/// How a run ended, in a line without its place.
pub(in crate::cli) fn in_short(outcome: &Outcome) -> String {
    let text = outcome.to_string();
    let first = text.lines().next().unwrap_or_default();
    let at = first.find(&format!("{} ", outcome.word()));
    at.map_or(first, |at| &first[at..]).to_owned()
}

/// The record where the picture is to begin.
pub(in crate::cli) fn start(source: &ShownRun, from: &str) -> Result<usize, String> {
    let mark = source
        .records
        .iter()
        .position(|record| matches!(&record.kind, RecKind::Note { what, text } if what == "mark" && text == from));
    if let Some(mark) = mark {
        return Ok(mark);
    }
    let wrong = || {
        let marks = source.records.iter().filter_map(|record| match &record.kind {
            RecKind::Note { what, text } if what == "mark" => Some(format!(" `{text}`")),
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
        .position(|record| record.time.as_nanos() >= number)
        .ok_or_else(|| format!("--from {from}: the run is over by then\n"))
}

/// The command.
pub(in crate::cli) fn timeline(args: &TimelineArgs, runner: Runner, out: &mut Output) -> u8 {
    match draw(args, runner, out) {
        Ok(text) => match &args.output {
            None => out.print(&text),
            Some(path) => {
                if let Err(error) = crate::serve::outfile::write(path, text.as_bytes()) {
                    out.error(&format!("{}: {}", path.display(), files::plain(&error)));
                    return EXIT_USAGE;
                }
            }
        },
        Err(message) => {
            out.error(&message);
            return EXIT_USAGE;
        }
    }
    0
}

/// The run that is to stand beside the first.
fn second(
    args: &TimelineArgs,
    first: &Wanted<'_>,
    form: Form,
    runner: Runner,
    out: &Output,
) -> Result<Option<ShownRun>, String> {
    let asked = args.beside.is_some()
        || args.beside_seed.is_some()
        || args.beside_replay.is_some()
        || !args.beside_quirk.is_empty();
    if !asked {
        return Ok(None);
    }
    if form != Form::Html {
        return Err("a second run can stand beside the first on a page only: -o FILE.html\n".to_owned());
    }
    let wanted = Wanted {
        file: args.beside.as_deref().unwrap_or(first.file),
        seed: args.beside_seed.or(if args.beside_replay.is_some() { None } else { first.seed }),
        replay: args.beside_replay.as_deref().or(if args.beside_seed.is_some() { None } else { first.replay }),
        quirks: args.beside_quirk.iter().copied().chain(first.quirks.iter()).collect(),
        ..first.clone()
    };
    source(&wanted, runner, out).map(Some)
}

/// The node graph at a record.
fn graph(source: &ShownRun, form: Form, from: Option<usize>) -> Result<String, String> {
    if form != Form::Text {
        return Err(
            "the node graph is text: without -o, or -o FILE.txt; a page (-o FILE.html) shows it at each instant\n"
                .into(),
        );
    }
    let text = source.graph_at(from.unwrap_or(usize::MAX));
    text.map(|text| format!("{text}\n")).ok_or_else(|| "a trace holds no nodes: give the scenario\n".to_owned())
}

fn draw(args: &TimelineArgs, runner: Runner, out: &Output) -> Result<String, String> {
    let form = match (args.form, &args.output) {
        (Some(form), _) => form,
        (None, None) => Form::Text,
        (None, Some(path)) => Form::of(path).ok_or_else(|| {
            format!(
                "{}: the name does not say which form: expected .html, .svg, .mmd, .json, .txt, or --as FORMAT\n",
                path.display()
            )
        })?,
    };
    let wanted = Wanted {
        file: &args.file,
        seed: args.seed,
        replay: args.replay.as_deref(),
        level: args.level,
        nth: args.nth,
        quirks: args.watch.quirks(),
        check: args.watch.check,
    };
    let second = second(args, &wanted, form, runner, out)?;
    let source = source(&wanted, runner, out)?;
    let from = args.from.as_deref().map(|from| start(&source, from)).transpose()?;
    if args.graph {
        return graph(&source, form, from);
    }
    Ok(match form {
        Form::Text => {
            let colour = args.output.is_none() && out.colour_out;
            let terminal = if args.output.is_none() { out.columns() } else { None };
            let width = args.width.or(terminal).unwrap_or(110).clamp(60, 400);
            term::draw(&source, &term::Options { width, colour, from })
        }
        Form::Html => html::draw(&source, second.as_ref(), from),
        Form::Svg => svg::draw(&source, &svg::Options { from, ..svg::Options::default() }),
        Form::Mmd => mermaid::draw(&source, from),
        Form::Json => perfetto::draw(&source),
    })
}
