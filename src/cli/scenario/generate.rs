//! `blockjob-sim generate`.

use crate::cli::kinds::KindArg;
use crate::cli::output::Output;
use crate::generate::{self, Options};
use clap::Args;

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub(in crate::cli) struct GenerateArgs {
    /// The seed
    #[arg(long, value_name = "N")]
    seed: u64,
    /// The kind of client; without it, the seed decides
    #[arg(long)]
    kind: Option<KindArg>,
    /// Leave out what is known to crash QEMU 10.0.2, for programs that will run on a real QEMU
    #[arg(long)]
    no_crashes: bool,
    /// Draw backups and bitmaps only: no mirrors, commits and streams, hotplug, resets, reopening and odd arguments
    #[arg(long)]
    backups_only: bool,
    /// Print the knobs alone
    #[arg(long)]
    knobs: bool,
}

/// Prints a generated scenario.
pub(in crate::cli) fn generate(args: &GenerateArgs, out: &mut Output) -> u8 {
    let options = Options {
        kind: args.kind.map(KindArg::of_generator),
        crashes: !args.no_crashes,
        all_kinds: !args.backups_only,
    };
    let generated = generate::with(&options, args.seed);
    out.print(&if args.knobs { generated.knobs.table() } else { generated.to_yaml() });
    0
}
