//! `blockjob-sim qemu`, and the program under a name that begins with `qemu-system`.
#![expect(
    clippy::disallowed_methods,
    reason = "QEMU's options are no clap options: the arguments are read as they come"
)]

use std::ffi::OsStr;
use std::path::Path;

/// Serves if this is how the program was called. The exit code.
pub(in crate::cli) fn called_as_qemu() -> Option<u8> {
    let mut args = std::env::args_os();
    let name = args.next()?;
    let name = Path::new(&name).file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
    let mut args = args.map(|arg| arg.to_string_lossy().into_owned());
    if name.starts_with("qemu-system") {
        return Some(serve(&name, &args.collect::<Vec<_>>()));
    }
    if args.next()? == "qemu" {
        return Some(serve("blockjob-sim", &args.collect::<Vec<_>>()));
    }
    None
}

/// Where invariants are checked, the broken one is reported; otherwise the process aborts as QEMU does.
fn serve(name: &str, args: &[String]) -> u8 {
    if args.iter().any(|arg| arg == "--sim-check") {
        crate::cli::quiet_aborts();
    }
    crate::serve::main(name, args)
}
