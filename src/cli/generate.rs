//! `blockjob-sim generate`.

use super::output::Output;
use crate::generate::{self, Kind, Options};
use clap::Args;

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// The seed that everything is drawn from
    #[arg(long, value_name = "N")]
    seed: u64,
    /// Kind of program: well-behaved, hostile or racing; without, the seed says
    #[arg(long, value_parser = str::parse::<Kind>)]
    kind: Option<Kind>,
    /// Leave out what QEMU 10.0.2 is known to crash on, for programs that a real QEMU is to run
    #[arg(long)]
    no_crashes: bool,
    /// Print the knobs alone
    #[arg(long)]
    knobs: bool,
}

/// Prints a generated scenario.
pub(super) fn generate(args: &GenerateArgs, out: &mut Output) -> u8 {
    let options = Options { kind: args.kind, crashes: !args.no_crashes };
    let generated = generate::with(&options, args.seed);
    out.print(&if args.knobs { generated.knobs.table() } else { generated.to_yaml() });
    0
}
