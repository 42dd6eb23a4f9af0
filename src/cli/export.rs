//! `blockjob-sim export`: a scenario as a script for a real QEMU.

use super::output::Output;
use super::{EXIT_USAGE, files};
use crate::interop::export::script;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The scenario file
    file: PathBuf,
    /// What to make of it
    #[arg(long = "as", value_name = "FORM", default_value = "qmp-script")]
    form: Form,
    /// Send each command right behind the reply before it, instead of when QEMU is at rest
    #[arg(long)]
    racing: bool,
}

/// Forms of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A Python script that makes the images, starts QEMU and drives it over QMP
    QmpScript,
}

/// Prints the script.
pub(super) fn export(args: &ExportArgs, out: &mut Output) -> u8 {
    let Some(plan) = files::scenario(&args.file, out) else { return EXIT_USAGE };
    match args.form {
        Form::QmpScript => out.print(&script(&plan, !args.racing)),
    }
    0
}
