//! `blockjob-sim conform`.

use super::kinds::KindArg;
use super::output::Output;
use super::{EXIT_USAGE, files, seeds};
use crate::interop::confine;
use crate::interop::conform::allowed::LIST;
use crate::interop::conform::program::{ProgramKind, generated, program};
use crate::interop::conform::shrink::shrink;
use crate::interop::conform::{self, Bench, Judged, Program, Verdict, found};
use crate::interop::scratch::{Guard, Scratch, end_with_signals};
use crate::validate::{Effort, unexpecting};
use clap::Args;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

/// Arguments of `conform`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  QEMU and the model agree\n  1  something differs\n  2  a mistake in the arguments or in a scenario file, or QEMU does not start"
)]
pub(super) struct ConformArgs {
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
pub(super) fn conform(args: &ConformArgs, out: &mut Output) -> u8 {
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
    let scratch = match scratch.and_then(|dir| end_with_signals(&guard, dir.as_ref()).map(|()| dir)) {
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
        counts.total += 1;
        out.progress(&program.name);
        let pace = program.pace;
        let judged = bench.one(&program.plan, pace);
        let judged = judged.map(|judged| if args.shrink { shrink(bench, judged, pace) } else { judged });
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
    let Counts { total, calm, timed, differing, allowed } = counts;
    out.print(&format!(
        "{what}: {total} programs: {calm} equal in the calm schedule, {timed} equal in another one, {} with known differences, {differing} with new differences\n",
        allowed.values().sum::<u64>(),
    ));
    for (name, times) in &allowed {
        let reason = LIST.iter().find(|(known, _)| known == name).map_or("", |(_, reason)| reason);
        out.print(&format!("  {times} × {name}: {reason}\n"));
    }
    u8::from(differing > 0)
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
