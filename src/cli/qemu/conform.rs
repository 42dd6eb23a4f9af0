//! `blockjob-sim conform`.

use crate::base::counted;
use crate::cli::interrupt::EXIT_INTERRUPTED;
use crate::cli::kinds::KindArg;
use crate::cli::output::Output;
use crate::cli::{EXIT_USAGE, files, seeds};
use crate::interop::confine;
use crate::interop::conform::allowed::LIST;
use crate::interop::conform::program::{ProgramKind, generated, program};
use crate::interop::conform::shrink::shrink;
use crate::interop::conform::{self, Bench, Judged, Program, Verdict, found};
use crate::interop::scratch::{Guard, Scratch, SoFar, end_with_signals};
use crate::validate::{Effort, unexpecting};
use clap::Args;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

/// Arguments of `conform`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  QEMU and the model agree\n  1  something differs\n  2  a mistake in the arguments or in a scenario file, or QEMU does not start\n  130  interrupted (Ctrl-C, SIGTERM, SIGHUP); what was compared until then is printed"
)]
pub(in crate::cli) struct ConformArgs {
    /// The QEMU to compare with: a program, or a command line of it
    #[arg(long, value_name = "CMD", default_value = "qemu-system-x86_64")]
    qemu: String,
    /// Scenario files to run instead of generated programs, at the pace of --kind (of the first, if several are given); their expectations are ignored
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Seeds of the programs
    #[arg(long, value_name = "A..B", value_parser = seeds, default_value = "0..100")]
    seeds: Range<u64>,
    /// The kinds of clients; without it, all
    #[arg(long, value_delimiter = ',')]
    kind: Vec<KindArg>,
    /// Directory for images; default: a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Use a second generator, which makes smaller programs and more often names objects that do not exist
    #[arg(long)]
    small: bool,
    /// Shrink the programs that differ, running them on both sides
    #[arg(long)]
    shrink: bool,
    /// Attempts to find a schedule that reproduces the real trace, for each kind of schedule
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    tries: u32,
    /// Also run scenarios that may touch files outside of their directory: allow any option, command and file name
    #[arg(long)]
    trust: bool,
    /// Show the program of each difference
    #[arg(long)]
    show: bool,
    /// Directory for programs that differ, or crash or hang QEMU: a failure file, the trace, and for the latter a shell script
    #[arg(long, value_name = "DIR", default_value = "failures")]
    failures: PathBuf,
}

/// Runs the programs; 0 if all agree.
pub(in crate::cli) fn conform(args: &ConformArgs, out: &mut Output) -> u8 {
    let command: Vec<String> = args.qemu.split_whitespace().map(str::to_owned).collect();
    let kinds = match args.kind.is_empty() {
        true => ProgramKind::ALL.to_vec(),
        false => args.kind.iter().map(|kind| kind.of_conform()).collect(),
    };
    // Programs from seeds are ours; files may come from anywhere.
    let guard = Guard::new(!args.trust && !args.files.is_empty());
    let scratch = match args.dir {
        Some(_) => Ok(None),
        None => Scratch::new().map(Some),
    };
    let scratch = match scratch.and_then(|dir| end_with_signals(&guard, dir.as_ref(), EXIT_INTERRUPTED).map(|()| dir)) {
        Ok(scratch) => scratch,
        Err(trouble) => {
            out.error(&format!("{trouble}"));
            return EXIT_USAGE;
        }
    };
    let dir = args.dir.clone().or(scratch.as_ref().map(|dir| dir.path().to_owned())).unwrap_or_default();
    let bench = Bench { command, dir, effort: Effort { tries: args.tries, ..Effort::default() }, guard };
    if let Err(trouble) = bench.starts() {
        out.error(&format!("--qemu {}: {trouble}", args.qemu));
        return EXIT_USAGE;
    }
    match args.files.is_empty() {
        true => kinds.iter().map(|kind| conform_kind(args, &bench, *kind, out)).max().unwrap_or(0),
        false => conform_files(args, &bench, kinds[0], out),
    }
}

fn conform_kind(args: &ConformArgs, bench: &Bench, kind: ProgramKind, out: &mut Output) -> u8 {
    let small = if args.small { "-small" } else { "" };
    let programs = args.seeds.clone().map(|seed| Program {
        name: format!("{}{small}-{seed}", kind.name()),
        seed: Some(seed),
        plan: if args.small { program(kind, seed) } else { generated(kind, seed) },
        pace: conform::pace(kind, seed),
    });
    conform_all(args, bench, kind.name(), programs, out)
}

fn conform_files(args: &ConformArgs, bench: &Bench, kind: ProgramKind, out: &mut Output) -> u8 {
    let mut programs = Vec::new();
    for file in &args.files {
        let Some(plan) = files::scenario(file, out) else { return EXIT_USAGE };
        if let Err(trouble) = if args.trust { Ok(()) } else { confine::check(&plan) } {
            out.error(&format!("{trouble}"));
            return EXIT_USAGE;
        }
        // What both do is compared, not what the file expects of either.
        let plan = unexpecting(&plan);
        let name = file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        programs.push(Program { name, seed: None, plan, pace: conform::pace(kind, args.seeds.start) });
    }
    conform_all(args, bench, "files", programs.into_iter(), out)
}

/// How many programs came out how.
#[derive(Default)]
struct Counts {
    total: u64,
    calm: u64,
    timed: u64,
    differing: u64,
    /// Equal, and both stopped where the scenario waits for what neither sends.
    unmet: u64,
    allowed: BTreeMap<&'static str, u64>,
}

fn conform_all(
    args: &ConformArgs,
    bench: &Bench,
    what: &str,
    programs: impl Iterator<Item = Program>,
    out: &mut Output,
) -> u8 {
    let mut counts = Counts::default();
    for program in programs {
        out.progress(&program.name);
        bench.guard.tell(SoFar { out: counts.told(what), err: interrupted(&program.name, out) });
        let pace = program.pace;
        let judged = bench.one(&program.plan, pace);
        let judged = judged.map(|judged| if args.shrink { shrink(bench, judged, pace) } else { judged });
        bench.guard.goes_on();
        counts.total += 1;
        out.progress("");
        match judged {
            Ok(judged) => tell(args, &program, &judged, &mut counts, out),
            Err(trouble) => {
                out.error(&format!("{}: {trouble}", program.name));
                if counts.total == 1 {
                    return EXIT_USAGE;
                }
                counts.differing += 1;
            }
        }
    }
    out.print(&counts.told(what));
    u8::from(counts.differing > 0)
}

/// What is said when a signal ends the command while it is at this program.
fn interrupted(name: &str, out: &Output) -> String {
    let clear = if out.progress { "\r\x1b[K" } else { "" };
    format!("{clear}interrupted: {name} was not compared to its end, nor what comes after it\n")
}

impl Counts {
    /// How many programs of this kind came out how.
    fn told(&self, what: &str) -> String {
        let Counts { total, calm, timed, differing, unmet, allowed } = self;
        let known: u64 = allowed.values().sum();
        let mut text = format!(
            "{what}: {}: {calm} equal in the calm schedule, {timed} equal in another one, {known} with known differences, \
             {differing} with new differences\n",
            counted(*total, "program"),
        );
        if *unmet > 0 {
            text.push_str(&format!(
                "  {unmet} of the equal ones stopped where the scenario expects what neither side does\n"
            ));
        }
        for (name, times) in allowed {
            let reason = LIST.iter().find(|(known, _)| known == name).map_or("", |(_, reason)| reason);
            text.push_str(&format!("  {times} × {name}: {reason}\n"));
        }
        text
    }
}

/// Says what differs and whose fault that is, and keeps it; also what QEMU does wrong where the model foresaw it.
fn tell(args: &ConformArgs, program: &Program, judged: &Judged, counts: &mut Counts, out: &mut Output) {
    match &judged.verdict {
        Verdict::Agrees => counts.calm += 1,
        Verdict::AgreesInTime(_) => counts.timed += 1,
        Verdict::Allowed(name) => *counts.allowed.entry(name).or_default() += 1,
        Verdict::Differs { .. } => counts.differing += 1,
    }
    let differing = match &judged.verdict {
        Verdict::Differs { plan, differences } => Some((plan, differences)),
        _ => None,
    };
    if let (Some((step, what)), None, None) = (&judged.real.stuck, &judged.real.ending, &differing) {
        counts.unmet += 1;
        let place = program.plan.steps.get(*step).map(|step| &step.pos).filter(|pos| !pos.file.is_empty());
        let place = place.map_or_else(String::new, |pos| format!("{}:{}: ", pos.file, pos.line));
        out.print(&format!(
            "{}: {place}what step {} of the scenario expects fails on both, QEMU and the model: {what}\n",
            program.name,
            step + 1
        ));
    }
    if differing.is_none() && judged.broken.is_none() {
        return;
    }
    let name = &program.name;
    out.print(&format!("{name}:\n"));
    for differs in differing.iter().flat_map(|(_, differences)| *differences) {
        out.print(&format!("  {}: {}\n", differs.what, differs.how.replace('\n', "\n    ")));
    }
    let broken = judged.broken.as_ref().map(|broken| broken.to_string().replace('\n', "\n    "));
    match (broken, &judged.verdict) {
        (Some(broken), Verdict::Allowed(known)) => out.print(&format!("  QEMU is wrong: {broken} (known: {known})\n")),
        (Some(broken), _) => out.print(&format!("  QEMU is wrong: {broken}\n")),
        (None, _) => out.print("  the model is wrong: QEMU breaks no contract that its client can see\n"),
    }
    if let Some((plan, _)) = differing.filter(|_| args.show || args.shrink) {
        out.print(&conform::told(plan));
    }
    match found::keep(&args.failures, program, judged) {
        Ok(paths) => {
            let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            out.print(&format!("{name} kept: {}\n", paths.join(" ")));
        }
        Err(trouble) => out.error(&format!("{name}: {trouble}")),
    }
}
