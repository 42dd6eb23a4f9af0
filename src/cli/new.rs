//! `blockjob-sim new`: a scenario to start from.

use super::output::Output;
use super::run::quoted;
use super::{EXIT_USAGE, files};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `new`.
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Name of the scenario; the file NAME.yaml is made. `-` prints it instead
    name: PathBuf,
}

/// What every scenario begins with; it passes under every seed.
pub const TEMPLATE: &str = "\
# yaml-language-server: $schema=blockjob-sim.schema.json
# (`blockjob-sim schema > blockjob-sim.schema.json` makes that file; `blockjob-sim help scenario` explains all steps)
about: A full backup of a disk, with a guest that writes meanwhile, holds what the disk held before.
files:
  - create: {file: disk.qcow2, format: qcow2, size: 4M}
  - write: {file: disk.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
  - create: {file: backup.qcow2, format: qcow2, size: 4M}
  - create: {file: before.qcow2, format: qcow2, size: 4M}
  - write: {file: before.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
args:
  - -drive
  - if=none,id=drive0,file=disk.qcow2,format=qcow2,node-name=disk
  - -blockdev
  - driver=qcow2,node-name=target,file.driver=file,file.filename=backup.qcow2
steps:
  - qmp: {execute: blockdev-backup, arguments: {job-id: job0, device: drive0, target: target, sync: full}}
  - hmp: qemu-io drive0 \"write -P 0x42 512k 64k\"
  - wait: job0
  - same: [before.qcow2, backup.qcow2]
";

/// Writes the file; one that is there stays.
pub(super) fn new(args: &NewArgs, out: &mut Output) -> u8 {
    if args.name.as_os_str() == "-" {
        out.print(TEMPLATE);
        return 0;
    }
    let mut path = args.name.clone();
    if path.extension().is_none_or(|ending| ending != "yaml" && ending != "yml") {
        let mut name = path.into_os_string();
        name.push(".yaml");
        path = name.into();
    }
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    if let Err(error) = made.and_then(|mut file| file.write_all(TEMPLATE.as_bytes())) {
        out.error(&format!("{}: {}", path.display(), files::plain(&error)));
        return EXIT_USAGE;
    }
    let name = quoted(&path.to_string_lossy());
    out.remark(&format!(
        "{name} is made; next:\n  blockjob-sim run {name}\n  blockjob-sim test {name} --seeds 0..100\n"
    ));
    0
}
