//! `blockjob-sim conform`.

use super::output::Output;
use super::{EXIT_USAGE, seeds};
use crate::interop::conform::allowed::LIST;
use crate::interop::conform::program::{Kind, generated, program};
use crate::interop::conform::shrink::shrink;
use crate::interop::conform::{self, Bench, Verdict};
use crate::validate::Effort;
use clap::Args;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

/// Arguments of `conform`.
#[derive(Debug, Args)]
pub(super) struct ConformArgs {
    /// The QEMU to compare with: a program, or a command line of it
    #[arg(long, value_name = "CMD", default_value = "qemu-system-x86_64")]
    qemu: String,
    /// Seeds of the programs
    #[arg(long, value_name = "A..B", value_parser = seeds, default_value = "0..100")]
    seeds: Range<u64>,
    /// Kinds of programs; without, all
    #[arg(long, value_delimiter = ',', value_parser = str::parse::<Kind>)]
    kind: Vec<Kind>,
    /// Where images are made; without, a directory of its own that is removed again
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Draw programs from a second source of their own, which makes smaller ones and names things that are not there more often
    #[arg(long)]
    small: bool,
    /// Make what differs smaller, on both sides
    #[arg(long)]
    shrink: bool,
    /// Attempts at finding a schedule that gives the real trace
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    tries: u32,
    /// Show the program of each difference
    #[arg(long)]
    show: bool,
}

/// Runs the programs; 0 if all agree.
pub(super) fn conform(args: &ConformArgs, out: &mut Output) -> u8 {
    let command: Vec<String> = args.qemu.split_whitespace().map(str::to_owned).collect();
    let kinds = if args.kind.is_empty() { Kind::ALL.to_vec() } else { args.kind.clone() };
    let dir = args.dir.clone().unwrap_or_else(conform::scratch);
    let bench = Bench { command, dir, effort: Effort { tries: args.tries, ..Effort::default() } };
    let code = kinds.iter().map(|kind| conform_kind(args, &bench, *kind, out)).max().unwrap_or(0);
    if args.dir.is_none() {
        conform::clear(&bench.dir);
    }
    code
}

fn conform_kind(args: &ConformArgs, bench: &Bench, kind: Kind, out: &mut Output) -> u8 {
    let (mut calm, mut timed, mut differing) = (0u64, 0u64, Vec::new());
    let mut allowed: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in args.seeds.clone() {
        out.progress(&format!("{} {seed}", kind.name()));
        let pace = conform::pace(kind, seed);
        let plan = if args.small { program(kind, seed) } else { generated(kind, seed) };
        let verdict = bench.one(&plan, pace).and_then(|verdict| match verdict {
            Verdict::Differs { plan, differences } if args.shrink => {
                let (plan, differences) = shrink(bench, plan, differences, pace)?;
                Ok(Verdict::Differs { plan, differences })
            }
            other => Ok(other),
        });
        out.progress("");
        match verdict {
            Err(trouble) => {
                out.complain(&format!("{} {seed}: {trouble}\n", kind.name()));
                if args.seeds.start == seed {
                    return EXIT_USAGE;
                }
                differing.push(seed);
            }
            Ok(Verdict::Agrees) => calm += 1,
            Ok(Verdict::AgreesInTime(_)) => timed += 1,
            Ok(Verdict::Allowed(name)) => *allowed.entry(name).or_default() += 1,
            Ok(Verdict::Differs { plan, differences }) => {
                differing.push(seed);
                out.print(&format!("{} {seed}:\n", kind.name()));
                for differs in &differences {
                    out.print(&format!("  {}: {}\n", differs.what, differs.how.replace('\n', "\n    ")));
                }
                if args.show || args.shrink {
                    out.print(&conform::told(&plan));
                }
            }
        }
    }
    let total = args.seeds.end - args.seeds.start;
    out.print(&format!(
        "{}: {total} programs: {calm} agree calm, {timed} in another schedule, {} differ as is known, {} differ\n",
        kind.name(),
        allowed.values().sum::<u64>(),
        differing.len()
    ));
    for (name, times) in &allowed {
        let reason = LIST.iter().find(|(known, _)| known == name).map_or("", |(_, reason)| reason);
        out.print(&format!("  {times} × {name}: {reason}\n"));
    }
    u8::from(!differing.is_empty())
}
