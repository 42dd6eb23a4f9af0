//! `blockjob-sim serve`: a QMP server, without QEMU's option style.

use crate::cli::output::Output;
use crate::serve;
use clap::Args;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ServeArgs {
    /// Listen at this path; without it, QMP is on standard input and output
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,
    /// Start only when a client has connected
    #[arg(long, requires = "socket")]
    wait: bool,
    /// A block node: `driver=…,node-name=…`, or JSON
    #[arg(long, value_name = "OPTIONS")]
    blockdev: Vec<String>,
    /// A drive, as QEMU's -drive
    #[arg(long, value_name = "OPTIONS")]
    drive: Vec<String>,
    /// What takes time by the wall clock: sleeps (real), nothing (asap), or requests too (disk, disk:hdd, disk:ssd, disk:nvme, disk:bytes=SIZE,requests=N)
    #[arg(long, value_name = "PACE", default_value = "real")]
    pace: String,
    /// Choose orders, durations, and the moments at which commands are executed, from this seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write the run as a scenario to this file
    #[arg(long, value_name = "FILE")]
    record: Option<String>,
    /// Write the trace as JSON lines to this file
    #[arg(long, value_name = "FILE")]
    trace: Option<String>,
    /// Switch a quirk on, a bug of an older QEMU (`blockjob-sim quirks`); may be given more than once
    #[arg(long, value_name = "NAME")]
    quirk: Vec<String>,
    /// End when an invariant is broken
    #[arg(long)]
    check: bool,
}

/// Serves. The exit code.
pub(in crate::cli) fn serve(args: &ServeArgs, out: &mut Output) -> u8 {
    // For people; a program that starts it waits for the socket.
    if let Some(path) = args.socket.as_ref().filter(|_| out.progress) {
        out.remark(&format!("QMP at {path}; Ctrl-C ends it\n"));
    }
    serve::main("blockjob-sim", &as_qemu(args))
}

/// The same in QEMU's options.
fn as_qemu(args: &ServeArgs) -> Vec<String> {
    let mut out: Vec<String> = ["-nodefaults", "-display", "none", "-S"].map(str::to_owned).to_vec();
    let mut add = |option: &str, value: &str| out.extend([option.to_owned(), value.to_owned()]);
    match &args.socket {
        Some(path) => {
            let wait = if args.wait { "on" } else { "off" };
            add("-qmp", &format!("unix:{},server=on,wait={wait}", path.replace(',', ",,")));
        }
        None => add("-qmp", "stdio"),
    }
    args.blockdev.iter().for_each(|value| add("-blockdev", value));
    args.drive.iter().for_each(|value| add("-drive", value));
    add("--sim-pace", &args.pace);
    if let Some(seed) = args.seed {
        add("--sim-seed", &seed.to_string());
    }
    for (option, value) in [("--sim-record", &args.record), ("--sim-trace", &args.trace)] {
        if let Some(value) = value {
            add(option, value);
        }
    }
    args.quirk.iter().for_each(|value| add("--sim-quirk", value));
    if args.check {
        out.push("--sim-check".to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::ServeArgs;
    use crate::serve::sim_options::SimOptions;
    use clap::Args;

    /// `serve` names the simulator's options as they are behind `--sim-`. Without the trace's level: who wants detail records a scenario.
    #[test]
    fn serve_has_the_options_of_the_simulator() {
        let command = ServeArgs::augment_args(clap::Command::new("serve"));
        for name in SimOptions::NAMES.iter().filter(|name| **name != "level") {
            assert!(command.get_arguments().any(|arg| arg.get_long() == Some(name)), "serve lacks --{name}");
        }
    }
}
