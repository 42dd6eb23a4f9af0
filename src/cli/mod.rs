//! The command line: one command a file, in a folder with those on the same subject.
//!
//! This is the only part that reads files and writes to the terminal. What it prints goes through `output`, which keeps
//! colours off pipes and ends quietly when the reader has gone.

mod about;
mod files;
mod interrupt;
mod kinds;
mod output;
mod qemu;
pub mod report;
mod run;
mod scenario;
mod search;

use crate::base::nearest;
use crate::explore::Strategy;
use crate::invariant::Broken;
use crate::sim::outcome::Runner;
use crate::trace::Level;
use about::{help, quirks, shells};
use clap::{Args, ColorChoice, CommandFactory, Parser, Subcommand, ValueEnum};
use output::Output;
use qemu::{conform, export, record, serve, validate};
use run::{debug, gallery, replay, shrink, test, timeline};
use scenario::{check, generate, new, schema};
use search::{explore, fuzz, merge, museum};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code for mistakes in scenario files and arguments.
pub const EXIT_USAGE: u8 = 2;

/// What stands below `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  all passed
  1  an expectation was not met, an invariant was broken, or a run got stuck or met a limit
  2  a mistake in the arguments or in a scenario file, or output that could not be written
  3  the simulator crashed: a bug of its own
  4  a replayed list of choices does not fit the run
  130  interrupted (Ctrl-C, SIGTERM, SIGHUP); the report covers the runs until then";

/// Simulates QEMU's block jobs, deterministically: a run depends on the scenario and its choices, and on nothing else.
#[derive(Debug, Parser)]
#[command(name = "blockjob-sim", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
struct Cli {
    /// When to use colours
    #[arg(long, global = true, default_value = "auto", value_name = "WHEN")]
    color: ColorChoice,
    /// Print results and errors only: no progress, no remarks, no lines for what passed
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios and print what a client of QEMU sees
    Run(RunArgs),
    /// Run every scenario of directories and files, and list the failures
    Test(TestArgs),
    /// Write a scenario to start from
    New(new::NewArgs),
    /// Draw a run or a trace: on the terminal, as a page, a still picture, a sequence diagram, or for Perfetto
    Timeline(timeline::TimelineArgs),
    /// Reproduce a failure from its file
    Replay(replay::ReplayArgs),
    /// Make a failure smaller: fewest deviations, then fewest steps, faults, drives, bytes
    Shrink(shrink::ShrinkArgs),
    /// Print a scenario generated from a seed
    Generate(generate::GenerateArgs),
    /// Try every schedule of a scenario, each state once, and list what a client can see; checks all invariants
    Explore(explore::ExploreArgs),
    /// Run a campaign: many schedules of a scenario, by a ladder of strategies or by one; checks all invariants
    Fuzz(fuzz::FuzzArgs),
    /// Join the parts of a campaign that `fuzz --shard` made
    Merge(merge::MergeArgs),
    /// Draw the pictures of docs/gallery
    Gallery(gallery::GalleryArgs),
    /// Step through a run, forwards and backwards, and take other alternatives
    Debug(debug::DebugArgs),
    /// Look for mistakes in scenario files, without running them
    Check(CheckArgs),
    /// Print the JSON Schema of scenario files, by which editors complete and check them
    Schema,
    /// Print a shell's completion script for this command
    Completions(shells::CompletionsArgs),
    /// Print the manual page, of this command or of one of its commands
    Man(shells::ManArgs),
    /// List the quirks (bugs of older QEMUs) that can be switched on, or the invariants that are checked
    Quirks(quirks::QuirksArgs),
    /// Measure how soon each quirk is found, as a table
    Museum(museum::MuseumArgs),
    /// Stand for QEMU in tests of QMP clients: takes QEMU's options (`blockjob-sim qemu -help`)
    #[command(disable_help_flag = true)]
    Qemu {
        /// QEMU's options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run random programs on a real QEMU and on the model, and say what differs
    Conform(conform::ConformArgs),
    /// Turn a scenario into a script for a real QEMU that does not need this program
    Export(export::ExportArgs),
    /// Run scenarios on a real QEMU and print the client traces
    Record(record::RecordArgs),
    /// Check whether the model can produce the trace of a real client
    Validate(validate::ValidateArgs),
    /// Serve QMP at a socket, or on standard input and output
    Serve(serve::ServeArgs),
    /// Explain a command or a topic: trace, scenario, choices, strategies
    Help {
        /// A command or a topic
        topic: Option<String>,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
struct RunArgs {
    /// Scenario files, or directories of them; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Run only scenarios whose name contains this text; may be given more than once
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// Make choices at random from this seed; without, the schedule is calm
    #[arg(long, value_name = "N", conflicts_with = "replay")]
    seed: Option<u64>,
    /// How choices are drawn from the seed: calm, walk, uniform, pct:D, urw, preempt:N or delay:N (`help strategies`)
    #[arg(long, value_name = "NAME", default_value = "walk", requires = "seed")]
    strategy: Strategy,
    /// Make the choices of this list: a file, or the list itself as `@17 complete-next 2/5, …`
    #[arg(long, value_name = "CHOICES")]
    replay: Option<String>,
    /// Make a choice of each byte of this file, for fuzzers; zero, and what comes after the end, is calm
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "replay"])]
    bytes: Option<PathBuf>,
    /// Continue with calm choices where the list of --replay does not fit, instead of ending with code 4
    #[arg(long, requires = "replay")]
    lenient: bool,
    #[command(flatten)]
    watch: quirks::WatchArgs,
    /// Detail of the trace: client, job, io or co (`help trace`)
    #[arg(long, default_value = "client", value_parser = str::parse::<Level>)]
    level: Level,
    /// Form of the trace
    #[arg(long, default_value = "text")]
    format: Format,
    /// Leave times out of JSON lines
    #[arg(long)]
    no_times: bool,
    /// Print the list of deviations (choices that were not calm) instead of the trace
    #[arg(long)]
    choices: bool,
}

/// Form of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line a record, in columns
    Text,
    /// JSON lines
    Jsonl,
}

/// Arguments of `test`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
struct TestArgs {
    /// Directories with scenarios, or scenario files; `-` is standard input
    #[arg(default_value = test::DEFAULT_DIR, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Run only scenarios whose name contains this text; may be given more than once
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// List the scenarios instead of running them
    #[arg(long)]
    list: bool,
    /// Stop at the first scenario that fails
    #[arg(long)]
    fail_fast: bool,
    /// Run each scenario under these seeds too, as in 0..1000 (1000 not included), or under one
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: Option<Range<u64>>,
    /// Number of worker threads; the result does not depend on it
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    #[command(flatten)]
    watch: quirks::WatchArgs,
    /// Write a JUnit report to this file
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes:\n  0  no mistakes\n  2  mistakes")]
struct CheckArgs {
    /// Scenario files, or directories of them; `-` is standard input
    #[arg(required = true, value_name = "PATH")]
    files: Vec<PathBuf>,
}

/// Reads `A..B` (B not included) or a single seed.
fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("`{text}` is no range of seeds: expected A..B with A below B, or one number");
    let number = |part: &str| part.parse::<u64>().map_err(|_| wrong());
    let range = match text.split_once("..") {
        Some((a, b)) => number(a)?..number(b)?,
        None => number(text)?..number(text)?.checked_add(1).ok_or_else(wrong)?,
    };
    if range.is_empty() { Err(wrong()) } else { Ok(range) }
}

/// The whole command: reads the arguments, does what they say with `runner`, gives the exit code.
#[must_use]
pub fn main(runner: Runner) -> ExitCode {
    if let Some(code) = qemu::stand_in::called_as_qemu() {
        return code.into();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Also `--help` and `--version`; a closed pipe must not turn them into a panic.
            let unwritten = error.print().is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe);
            return if error.use_stderr() || unwritten { EXIT_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    quiet_aborts();
    let mut out = Output::new(cli.color, cli.quiet);
    let code = match &cli.command {
        Command::Run(args) => run::run(args, runner, &mut out),
        Command::Test(args) => test::test(args, runner, &mut out),
        Command::Gallery(args) => gallery::gallery(args, runner, &mut out),
        Command::Debug(args) => debug::debug(args, &mut out),
        Command::Timeline(args) => timeline::timeline(args, runner, &mut out),
        Command::Replay(args) => replay::replay(args, runner, &mut out),
        Command::Shrink(args) => shrink::shrink(args, &mut out),
        Command::Generate(args) => generate::generate(args, &mut out),
        Command::Explore(args) => explore::explore(args, &mut out),
        Command::Fuzz(args) => fuzz::fuzz(args, runner, &mut out),
        Command::Merge(args) => merge::merge(args, runner, &mut out),
        Command::Check(args) => check::check(&args.files, &mut out),
        Command::New(args) => new::new(args, &mut out),
        Command::Schema => schema::schema(&mut out),
        Command::Completions(args) => shells::completions(args, &mut out),
        Command::Man(args) => shells::man(args, &mut out),
        Command::Quirks(args) => quirks::quirks(args, &mut out),
        Command::Museum(args) => museum::museum(args, runner, &mut out),
        Command::Serve(args) => serve::serve(args, &mut out),
        // Behind `--color` alone.
        Command::Qemu { args } => crate::serve::main("blockjob-sim", args),
        Command::Conform(args) => conform::conform(args, &mut out),
        Command::Export(args) => export::export(args, &mut out),
        Command::Record(args) => record::record(args, &mut out),
        Command::Validate(args) => validate::validate(args, &mut out),
        Command::Help { topic } => explain(topic.as_deref(), &mut out),
    };
    // Whoever was to read it would take what is there for all there is.
    if code == 0 && out.failed { EXIT_USAGE.into() } else { code.into() }
}

/// A process that aborts because an invariant is broken is an outcome of its run and reported there, without a panic's message beside it.
fn quiet_aborts() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let broken = info.payload_as_str().and_then(Broken::from_panic);
        if broken.is_none() {
            usual(info);
        }
    }));
}

/// `help [TOPIC]`.
fn explain(topic: Option<&str>, out: &mut Output) -> u8 {
    let mut command = Cli::command();
    let Some(topic) = topic else {
        out.print(&command.render_long_help().to_string());
        return 0;
    };
    if let Some(text) = help::topic(topic) {
        out.print(&text);
        return 0;
    }
    if let Some(sub) = command.find_subcommand_mut(topic) {
        out.print(&sub.clone().bin_name(format!("blockjob-sim {topic}")).render_long_help().to_string());
        return 0;
    }
    let commands: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let known: Vec<&str> = commands.iter().chain(&help::TOPICS).copied().collect();
    let near = nearest(topic, &known).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    out.error(&format!("no help on `{topic}`: {near}expected {}", known.join(", ")));
    EXIT_USAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ranges_of_seeds() {
        assert_eq!(seeds("0..1000"), Ok(0..1000));
        assert_eq!(seeds("7"), Ok(7..8));
        for wrong in ["", "5..5", "a..b", "1...2", "18446744073709551615"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }
}
