//! `blockjob-sim generate`.

use super::kinds::KindArg;
use super::output::Output;
use crate::generate::{self, Options};
use clap::Args;

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// The seed that everything is drawn from
    #[arg(long, value_name = "N")]
    seed: u64,
    /// What kind of client the program stands for; without, the seed says
    #[arg(long)]
    kind: Option<KindArg>,
    /// Leave out what QEMU 10.0.2 is known to crash on, for programs that a real QEMU is to run
    #[arg(long)]
    no_crashes: bool,
    /// Print the knobs alone
    #[arg(long)]
    knobs: bool,
}

/// Prints a generated scenario.
pub(super) fn generate(args: &GenerateArgs, out: &mut Output) -> u8 {
    let options = Options { kind: args.kind.map(KindArg::of_generator), crashes: !args.no_crashes };
    let generated = generate::with(&options, args.seed);
    out.print(&if args.knobs { generated.knobs.table() } else { generated.to_yaml() });
    0
}
