//! `blockjob-sim record`: scenarios on a real QEMU.

use crate::base::counted;
use crate::cli::interrupt::EXIT_INTERRUPTED;
use crate::cli::output::Output;
use crate::cli::{EXIT_USAGE, files};
use crate::interop::carry::ClientPace;
use crate::interop::confine;
use crate::interop::record::{self, Recording};
use crate::interop::scratch::{Guard, Scratch, SoFar, end_with_signals};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `record`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  all scenarios were run\n  1  QEMU hung or crashed, or a step could not be done\n  2  a mistake in the arguments or in a scenario file, or QEMU does not start\n  130  interrupted (Ctrl-C, SIGTERM, SIGHUP); what was recorded until then is printed"
)]
pub(in crate::cli) struct RecordArgs {
    /// Scenario files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The QEMU: a program, or a command line of it
    #[arg(long, value_name = "CMD", default_value = "qemu-system-x86_64")]
    qemu: String,
    /// Run each scenario this often, and print the distinct traces, the most frequent first
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Send commands without waiting for QEMU to come to rest; the gaps between them come from this seed
    #[arg(long, value_name = "SEED")]
    racing: Option<u64>,
    /// Also run scenarios that may touch files outside of their directory: allow any option, command and file name
    #[arg(long)]
    trust: bool,
}

/// Records; 1 if a scenario could not be carried out to its end.
pub(in crate::cli) fn record(args: &RecordArgs, out: &mut Output) -> u8 {
    let command: Vec<String> = args.qemu.split_whitespace().map(str::to_owned).collect();
    let guard = Guard::new(!args.trust);
    let scratch =
        match Scratch::new().and_then(|dir| end_with_signals(&guard, Some(&dir), EXIT_INTERRUPTED).map(|()| dir)) {
            Ok(scratch) => scratch,
            Err(trouble) => {
                out.error(&trouble.to_string());
                return EXIT_USAGE;
            }
        };
    let mut code = 0;
    for file in &args.files {
        let Some(plan) = files::scenario(file, out) else { return EXIT_USAGE };
        if let Err(trouble) = if args.trust { Ok(()) } else { confine::check(&plan) } {
            out.error(&trouble.to_string());
            return EXIT_USAGE;
        }
        let name = file.with_extension("").to_string_lossy().trim_start_matches("sim-scenarios/").to_owned();
        let mut recording = Recording::new(&name);
        for run in 0..args.repeat {
            out.progress(&format!("{name} {}/{}", run + 1, args.repeat));
            let pace = args
                .racing
                .map_or(ClientPace::Calm, |seed| ClientPace::Racing { seed: seed + u64::from(run), gap: 2_000 });
            let clear = if out.progress { "\r\x1b[K" } else { "" };
            guard.tell(SoFar {
                out: recording.to_string(),
                err: format!(
                    "{clear}interrupted: {name} was run {run} of {}\n",
                    counted(u64::from(args.repeat), "time")
                ),
            });
            let once = record::once(&command, &plan, pace, &guard, &scratch);
            guard.goes_on();
            match once {
                Ok(carried) => {
                    if let Some((step, what)) = &carried.stuck {
                        out.progress("");
                        let end = match &carried.ending {
                            None => "; QEMU is at rest and answers".to_owned(),
                            Some(ending) => format!("; {ending}"),
                        };
                        out.complain(&format!("{name}: step {}: {what}{end}\n", step + 1));
                        code = 1;
                    }
                    recording.add(carried);
                }
                Err(trouble) => {
                    out.error(&format!("{name}: {trouble}"));
                    return EXIT_USAGE;
                }
            }
        }
        out.progress("");
        out.print(&recording.to_string());
    }
    code
}
