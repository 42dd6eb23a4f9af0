//! `blockjob-sim run`.

pub(in crate::cli) mod debug;
pub(in crate::cli) mod debug_screen;
pub(in crate::cli) mod gallery;
pub(in crate::cli) mod replay;
pub(in crate::cli) mod shrink;
pub(in crate::cli) mod test;
pub(in crate::cli) mod timeline;

use crate::base::counted;
use crate::choice::{Bytes, ChoiceLog, Chooser, Replay, ReplayMode};
use crate::cli::about::quirks::WatchArgs;
use crate::cli::output::Output;
use crate::cli::scenario::check::WIDTH;
use crate::cli::{EXIT_USAGE, Format, RunArgs, files, report};
use crate::explore::Strategy;
use crate::invariant::Broken;
use crate::scenario::plan::{Plan, Schedule};
use crate::sim;
use crate::sim::outcome::{Outcome, Run, RunOptions, Runner};
use crate::trace::jsonl::{self, Header};
use crate::trace::{RecordKind, text};
use anstyle::{AnsiColor, Style};
use std::path::Path;
use std::sync::Arc;

/// Runs scenarios and prints their traces; what came of each goes to standard error.
pub(in crate::cli) fn run(args: &RunArgs, runner: Runner, out: &mut Output) -> u8 {
    let found = match files::named(&args.files, &args.filter) {
        Ok(found) => found,
        Err(problem) => {
            out.error(&problem);
            return EXIT_USAGE;
        }
    };
    if found.is_empty() {
        out.error(&files::none(&args.files, &args.filter));
        return EXIT_USAGE;
    }
    let several = found.len() > 1;
    let mut code = 0;
    for (_, file) in &found {
        if several {
            out.remark(&format!("{}:\n", file.display()));
        }
        code = code.max(one(args, file, several, runner, out));
    }
    code
}

/// Runs one scenario; of several, those that only hold definitions are passed over.
fn one(args: &RunArgs, file: &Path, several: bool, runner: Runner, out: &mut Output) -> u8 {
    let name = file.to_string_lossy();
    let plan = match files::plan(file) {
        Ok(Some(plan)) => plan,
        Ok(None) if several => {
            out.remark("this file holds only definitions\n");
            return 0;
        }
        Ok(None) => {
            out.error(&files::definitions_only(file));
            return EXIT_USAGE;
        }
        Err(error) => {
            out.complain(&report::render(&error, WIDTH, out.colour_err));
            return EXIT_USAGE;
        }
    };
    let seed = args.seed.or(if args.replay.is_none() { plan.schedule.seed() } else { None });
    let chooser = match chooser(args, &plan) {
        Ok(chooser) => chooser,
        Err(problem) => {
            let option = if args.bytes.is_some() { "--bytes" } else { "--replay" };
            out.error(&format!("{option}: {problem}"));
            return EXIT_USAGE;
        }
    };
    let (quirks, check) = (args.watch.quirks(), args.watch.check);
    let options = RunOptions { level: (!args.choices).then_some(args.level), record_choices: true, quirks, check };
    let run = runner(&plan, chooser, &options);
    if args.choices {
        out.print(&listed(&run.choices));
    } else if args.format == Format::Jsonl {
        let schedule = match (seed, &args.replay, &plan.schedule) {
            (Some(seed), _, _) => schedule(args.strategy, seed),
            (None, Some(_), _) | (None, None, Schedule::Choices(_) | Schedule::Deviations(_)) => "replay".to_owned(),
            (None, None, _) => "calm".to_owned(),
        };
        let header = Header { scenario: (&*name).into(), schedule: schedule.into(), level: args.level };
        out.print(&jsonl::to_string(&header, &run.trace, !args.no_times));
    } else {
        print_text(&run, out);
    }
    if run.outcome == Outcome::Passed {
        out.remark(&summary(args, file, &run));
    } else {
        out.complain(&summary(args, file, &run));
    }
    run.outcome.exit_code()
}

/// Who makes the choices.
fn chooser(args: &RunArgs, plan: &Plan) -> Result<Chooser, String> {
    if let Some(seed) = args.seed {
        return Ok(args.strategy.chooser(seed));
    }
    if let Some(file) = &args.bytes {
        return Ok(Chooser::Bytes(Bytes::new(&files::bytes(file)?)));
    }
    let Some(choices) = &args.replay else { return Ok(sim::chooser(&plan.schedule)) };
    let log = self::choices(choices)?;
    let mode = if args.lenient { ReplayMode::Lenient } else { ReplayMode::Strict };
    Ok(Chooser::Replay(Replay::new(Arc::new(log), mode)))
}

/// A list of choices: the text of one, or the name of its file.
pub(in crate::cli) fn choices(choices: &str) -> Result<ChoiceLog, String> {
    let inline = choices.trim_start().starts_with(['@', '#']) || choices.trim_start().starts_with("total");
    let (name, text) = match inline {
        true => ("the list", choices.to_owned()),
        false => (choices, files::text(Path::new(choices)).map_err(|why| format!("{choices}: {why}"))?),
    };
    text.parse().map_err(|error| format!("{name}: {error}"))
}

/// The schedule of a seed, for the header of a trace.
fn schedule(strategy: Strategy, seed: u64) -> String {
    if strategy == Strategy::Walk { format!("seed {seed}") } else { format!("{strategy} seed {seed}") }
}

/// The deviations of a run as a list that `--replay` takes; where there are none, it says so.
pub(in crate::cli) fn listed(choices: &ChoiceLog) -> String {
    let deviations = choices.deviations();
    format!("{}{deviations}", if deviations.is_empty() { "# calm: no choice deviates\n" } else { "" })
}

pub(in crate::cli) fn print_text(run: &Run, out: &mut Output) {
    if !out.colour_out {
        out.print(&text::to_string(&run.trace));
        return;
    }
    let mut shown = String::new();
    for record in run.trace.iter() {
        let style = style_of(&record.kind);
        let mut line = String::new();
        text::write_line(record, &mut line);
        shown.push_str(&format!("{style}{}{style:#}\n", line.trim_end()));
    }
    out.print(&shown);
}

/// How a record looks on a terminal.
fn style_of(kind: &RecordKind) -> Style {
    let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    match kind {
        RecordKind::Command(_) => Style::new().bold(),
        RecordKind::Reply(reply) if reply.get("error").is_some() => colour(AnsiColor::Red),
        RecordKind::Event { data, .. } if data.get("error").is_some() => colour(AnsiColor::Red),
        RecordKind::Event { .. } => colour(AnsiColor::Cyan),
        RecordKind::Fault { .. } => colour(AnsiColor::Red),
        RecordKind::Note(_) => colour(AnsiColor::Yellow),
        RecordKind::JobStatus { .. } | RecordKind::Txn { .. } | RecordKind::Group { .. } => colour(AnsiColor::Green),
        RecordKind::Co { .. } => Style::new().dimmed(),
        _ => Style::new(),
    }
}

/// How the run ended, and the command that reproduces it.
fn summary(args: &RunArgs, file: &Path, run: &Run) -> String {
    let mut text = format!("{}\n{}\n", run.outcome, figures(run));
    for finding in &run.findings {
        let Broken { invariant, subject, reason, .. } = &finding.broken;
        text.push_str(&format!("QEMU's {}: {}: {subject}: {reason}\n", finding.known, invariant.name()));
    }
    if run.trace.overflowed() {
        text.push_str("the trace is full: what came later is not in it (limits: trace)\n");
    }
    if run.outcome != Outcome::Passed {
        let seed = args.seed.map(|seed| (args.strategy, seed));
        text.push_str(&format!("again: {}\n", again(file, seed, args.replay.as_deref(), &args.watch)));
        // `timeline` draws no other strategies.
        if args.bytes.is_none() && seed.is_none_or(|(strategy, _)| strategy == Strategy::Walk) {
            let command = again(file, seed, args.replay.as_deref(), &args.watch);
            text.push_str(&format!("look:  {} -o out.html\n", command.replacen(" run ", " timeline ", 1)));
        }
    }
    text
}

/// How much there was of everything.
pub(in crate::cli) fn figures(run: &Run) -> String {
    let choices = counted(run.choices.len() as u64, "choice");
    let calm = match (run.choices.len(), run.choices.deviations().len()) {
        (0, _) => String::new(),
        (1, 0) => ", calm".to_owned(),
        (_, 0) => ", all calm".to_owned(),
        (_, few) => format!(", {few} of them not calm"),
    };
    format!("{} of virtual time, {}, {choices}{calm}", run.time, counted(run.dispatches, "dispatch"))
}

/// The command that gives the same run once more.
pub(in crate::cli) fn again(
    file: &Path,
    seed: Option<(Strategy, u64)>,
    replay: Option<&str>,
    watch: &WatchArgs,
) -> String {
    let mut command = format!("blockjob-sim run {}", quoted(&file.to_string_lossy()));
    if let Some((strategy, seed)) = seed {
        if strategy != Strategy::Walk {
            command.push_str(&format!(" --strategy {strategy}"));
        }
        command.push_str(&format!(" --seed {seed}"));
    }
    if let Some(replay) = replay {
        command.push_str(&format!(" --replay {}", quoted(replay)));
    }
    command.push_str(&watch.written());
    command
}

/// A word as a shell takes it.
pub(in crate::cli) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,%@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
