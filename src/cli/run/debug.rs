//! `blockjob-sim debug`: steps through a run, on a screen of its own, or line by line for scripts.
#![expect(clippy::disallowed_methods, reason = "the shell reads from the terminal")]

use crate::base::counted;
use crate::choice::{Chooser, Replay, ReplayMode, Walk};
use crate::cli::about::quirks::WatchArgs;
use crate::cli::output::Output;
use crate::cli::run::debug_screen;
use crate::cli::{EXIT_USAGE, files, report, run};
use crate::debug::{Debugger, Goal, View};
use crate::scenario::plan::{Plan, Schedule};
use crate::sim;
use crate::sim::outcome::RunOptions;
use crate::trace::{Level, text};
use clap::Args;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;

/// What the line mode says to `help`.
const HELP: &str = "\
moving; each also as `back …`, and with a number where it says N
  step [N]       N dispatches               event      the next thing the client sends or reads
  record         the next record            job [ID]   the next change of a job
  fault          the next fault             choice     before the next choice
  start, end     to the begin, to the end   goto N     to dispatch N
looking
  where jobs groups bitmaps requests waiting graph choices all      trace [N]   the last N records
changing
  take PICK [@INDEX]   make a choice that comes next another way
  chosen               the choices so far, as a list for --replay
help, quit
";

/// Records that a move shows at most.
const SHOWN: usize = 40;

/// Arguments of `debug`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DebugArgs {
    /// The scenario file, or a failure file
    file: PathBuf,
    /// Make choices at random from this seed
    #[arg(long, value_name = "N", conflicts_with = "replay")]
    seed: Option<u64>,
    /// Make the choices of this list: a file, or the list itself
    #[arg(long, value_name = "CHOICES")]
    replay: Option<String>,
    /// Read commands from standard input, a line each, instead of taking the screen
    #[arg(long)]
    lines: bool,
    #[command(flatten)]
    watch: WatchArgs,
}

/// The command.
pub(in crate::cli) fn debug(args: &DebugArgs, out: &mut Output) -> u8 {
    let debugger = match start(args, out) {
        Ok(debugger) => debugger,
        Err(message) => {
            out.error(&message);
            return EXIT_USAGE;
        }
    };
    if args.lines || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return lines(debugger, out);
    }
    match debug_screen::show(debugger, &args.file.to_string_lossy()) {
        Ok(chosen) => {
            if chosen.lines().count() > 1 {
                out.remark("the choices that were made, for `blockjob-sim run --replay`:\n");
                out.print(&chosen);
            }
            0
        }
        Err(error) => {
            out.error(&format!("the screen cannot be used: {}; try --lines", crate::cli::files::plain(&error)));
            EXIT_USAGE
        }
    }
}

fn start(args: &DebugArgs, out: &Output) -> Result<Debugger, String> {
    let name = args.file.to_string_lossy();
    let (quirks, check) = (args.watch.quirks(), args.watch.check);
    let options = RunOptions { level: Some(Level::Io), record_choices: false, quirks, check };
    if let Some(failure) = crate::cli::run::timeline::failure(&args.file)? {
        let chooser = Chooser::Replay(Replay::new(failure.choices.clone(), ReplayMode::Lenient));
        let options = RunOptions { check: check || failure.verdict.invariant.is_some(), ..options };
        return Debugger::new(&failure.plan, chooser, &options).map_err(|outcome| format!("{outcome}\n"));
    }
    let plan = match files::plan(&args.file) {
        Ok(Some(plan)) => plan,
        Ok(None) => return Err(format!("{name}: this file holds only definitions, it is included by scenarios\n")),
        Err(error) => return Err(report::render(&error, crate::cli::scenario::check::WIDTH, out.colour_err)),
    };
    let chooser = match (args.seed, &args.replay) {
        (Some(seed), _) => Chooser::Walk(Box::new(Walk::new(seed))),
        (None, Some(choices)) => {
            let log = run::choices(choices).map_err(|problem| format!("--replay: {problem}\n"))?;
            // Not strict: once another way is taken, the list may fit no more.
            Chooser::Replay(Replay::new(Arc::new(log), ReplayMode::Lenient))
        }
        (None, None) => as_scheduled(&plan, &options),
    };
    Debugger::new(&plan, chooser, &options).map_err(|outcome| format!("{outcome}\n"))
}

/// The scenario's own schedule, as a list of choices: deviations are addressed by who is asked, and the debugger asks by number.
fn as_scheduled(plan: &Plan, options: &RunOptions) -> Chooser {
    if matches!(plan.schedule, Schedule::Any | Schedule::Calm) {
        return Chooser::Calm;
    }
    let options = RunOptions { level: None, record_choices: true, ..*options };
    let run = sim::run(plan, sim::chooser(&plan.schedule), &options);
    Chooser::Replay(Replay::new(Arc::new(run.choices), ReplayMode::Lenient))
}

fn lines(mut debugger: Debugger, out: &mut Output) -> u8 {
    let interactive = std::io::stdin().is_terminal();
    let mut obeyed = 0;
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let words: Vec<&str> = line.split_whitespace().collect();
        if !interactive && !words.is_empty() {
            out.print(&format!("> {}\n", words.join(" ")));
        }
        obeyed += usize::from(!words.is_empty());
        match obey(&mut debugger, &words) {
            Ok(Some(text)) => out.print(&text),
            Ok(None) => return 0,
            Err(problem) => out.print(&format!("{problem}\n")),
        }
    }
    // Without `quit`: where the run stands would be lost.
    let commands = if obeyed == 0 { ", without a command: `help` lists them" } else { "" };
    out.print(&format!(
        "the input has ended{commands}; the run stands at\n{}",
        section(&debugger, "where", View::Where)
    ));
    0
}

/// Does what a line says. What is to be printed; `None` to end.
fn obey(debugger: &mut Debugger, words: &[&str]) -> Result<Option<String>, String> {
    let number = |word: &str| word.parse::<u64>().map_err(|_| format!("`{word}` is no number"));
    let text = match words {
        [] => String::new(),
        ["quit" | "q"] => return Ok(None),
        ["help" | "?"] => HELP.to_owned(),
        ["all"] => View::ALL.iter().map(|(name, view)| section(debugger, name, *view)).collect(),
        ["chosen"] => debugger.choices().deviations().to_string(),
        ["trace", count] => {
            let count = usize::try_from(number(count)?).unwrap_or(usize::MAX);
            debugger.view_trace(count).iter().map(|line| format!("{line}\n")).collect()
        }
        ["take", pick] => {
            let first =
                debugger.coming().first().map(|asked| asked.index).ok_or("no choice comes next: try `choice`")?;
            take(debugger, first, number(pick)?)?
        }
        ["take", pick, at] => {
            let index = at.strip_prefix('@').unwrap_or(at);
            take(debugger, u32::try_from(number(index)?).map_err(|_| "no such choice")?, number(pick)?)?
        }
        ["start"] => {
            debugger.go_to(0);
            section(debugger, "where", View::Where)
        }
        ["goto", step] => {
            let step = number(step)?;
            debugger.go_to(step);
            section(debugger, "where", View::Where)
        }
        ["back", rest @ ..] => {
            let found = debugger.back_to(&goal(if rest.is_empty() { &["step"] } else { rest })?);
            let note = if found { "" } else { "nothing of that kind before: at the begin\n" };
            format!("{note}{}{}", last_record(debugger), section(debugger, "where", View::Where))
        }
        [word] if View::ALL.iter().any(|(name, _)| name == word) => {
            let (name, view) = View::ALL.iter().find(|(name, _)| name == word).expect("just looked");
            section(debugger, name, *view)
        }
        goal_words => {
            let goal = goal(goal_words)?;
            let before = debugger.sim().world.trace.len();
            debugger.forth_to(&goal);
            let mut text = new_records(debugger, before);
            text.push_str(&section(debugger, "where", View::Where));
            if goal == Goal::Choice {
                text.push_str(&section(debugger, "choices", View::Choices));
            }
            text
        }
    };
    Ok(Some(text))
}

fn take(debugger: &mut Debugger, index: u32, pick: u64) -> Result<String, String> {
    debugger.take(index, u32::try_from(pick).unwrap_or(u32::MAX))?;
    Ok(section(debugger, "choices", View::Choices))
}

fn goal(words: &[&str]) -> Result<Goal, String> {
    Ok(match words {
        ["step" | "s"] => Goal::Steps(1),
        ["step" | "s", count] => Goal::Steps(count.parse().map_err(|_| format!("`{count}` is no number"))?),
        ["event" | "e"] => Goal::Event,
        ["record" | "r"] => Goal::Record,
        ["job" | "j"] => Goal::Job(None),
        ["job" | "j", id] => Goal::Job(Some((*id).to_owned())),
        ["fault" | "f"] => Goal::Fault,
        ["choice" | "c"] => Goal::Choice,
        ["end"] => Goal::End,
        other => return Err(format!("`{}` is no command: try `help`", other.join(" "))),
    })
}

fn section(debugger: &Debugger, name: &str, view: View) -> String {
    let lines = debugger.view(view);
    if view == View::Where {
        return lines.iter().map(|line| format!("{line}\n")).collect();
    }
    let none = if lines.is_empty() { "  none\n" } else { "" };
    let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    format!("{name}:\n{none}{lines}")
}

fn last_record(debugger: &Debugger) -> String {
    let mut out = String::new();
    if let Some(record) = debugger.records(debugger.sim().world.trace.len().saturating_sub(1)).next() {
        text::write_line(record, &mut out);
    }
    out
}

fn new_records(debugger: &Debugger, before: usize) -> String {
    let count = debugger.sim().world.trace.len().saturating_sub(before);
    let mut out = String::new();
    if count > SHOWN {
        out.push_str(&format!("  … {} before these\n", counted((count - SHOWN) as u64, "record")));
    }
    for record in debugger.records(before + count.saturating_sub(SHOWN)) {
        text::write_line(record, &mut out);
    }
    out
}
