//! What shells and `man` want to know of this command: `blockjob-sim completions` and `man`.

use crate::cli::output::Output;
use crate::cli::{Cli, EXIT_USAGE};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ManArgs {
    /// One of the commands; without, the whole
    command: Option<String>,
}

/// Prints the script of a shell.
pub(in crate::cli) fn completions(args: &CompletionsArgs, out: &mut Output) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "blockjob-sim", &mut script);
    out.print(&String::from_utf8_lossy(&script));
    0
}

/// Prints a manual page.
pub(in crate::cli) fn man(args: &ManArgs, out: &mut Output) -> u8 {
    let mut command = Cli::command();
    command.build();
    if let Some(name) = &args.command {
        match command.find_subcommand(name) {
            Some(found) => {
                let long: &'static str = Box::leak(format!("blockjob-sim-{name}").into_boxed_str());
                command = found.clone().name(long);
            }
            None => {
                out.error(&format!("there is no command `{name}`"));
                return EXIT_USAGE;
            }
        }
    }
    let mut page = Vec::new();
    match clap_mangen::Man::new(command).render(&mut page) {
        Ok(()) => {
            out.print(&String::from_utf8_lossy(&page));
            0
        }
        Err(error) => {
            out.error(&error.to_string());
            EXIT_USAGE
        }
    }
}
