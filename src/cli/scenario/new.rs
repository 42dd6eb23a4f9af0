//! `blockjob-sim new`: a scenario to start from, of each job.
#![expect(clippy::disallowed_methods, reason = "it writes a scenario where the user wants it")]

use crate::cli::output::Output;
use crate::cli::run::quoted;
use crate::cli::{EXIT_USAGE, files};
use clap::{Args, ValueEnum};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `new`.
#[derive(Debug, Args)]
pub(in crate::cli) struct NewArgs {
    /// Name of the scenario; the file NAME.yaml is made. `-` prints it instead
    name: PathBuf,
    /// The job that the scenario is about
    #[arg(long, value_name = "JOB", default_value = "backup")]
    job: Job,
}

/// A job that there is a scenario of.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Job {
    /// A full backup to another image
    Backup,
    /// A copy that stays in sync until the guest goes on with it
    Mirror,
    /// An overlay is merged into its backing file
    Commit,
    /// A backing file is merged into its overlay
    Stream,
}

/// What every scenario begins with.
const HEAD: &str = "\
# yaml-language-server: $schema=blockjob-sim.schema.json
# (`blockjob-sim schema > blockjob-sim.schema.json` makes that file; `blockjob-sim help scenario` explains all steps)
";

/// A disk with something on it, and a guest that writes while a job is at work: it passes under every seed.
pub const BACKUP: &str = "\
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

/// The same with a mirror.
pub const MIRROR: &str = "\
about: A disk is mirrored while a guest writes to it, and then the guest goes on with the copy.
files:
  - create: {file: disk.qcow2, format: qcow2, size: 4M}
  - write: {file: disk.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
  - create: {file: copy.qcow2, format: qcow2, size: 4M}
args:
  - -drive
  - if=none,id=drive0,file=disk.qcow2,format=qcow2,node-name=disk
  - -blockdev
  - driver=qcow2,node-name=target,file.driver=file,file.filename=copy.qcow2
steps:
  - qmp: {execute: blockdev-mirror, arguments: {job-id: job0, device: drive0, target: target, sync: full}}
  - hmp: qemu-io drive0 \"write -P 0x42 512k 64k\"
  - wait: job0
    until: ready
  - qmp: {execute: block-job-complete, arguments: {device: job0}}
  - wait: job0
  - same: [disk.qcow2, copy.qcow2]
";

/// An overlay that is committed, active layer and all.
pub const COMMIT: &str = "\
about: An overlay is committed into its backing file while a guest writes, and then the guest goes on with the backing file.
files:
  - create: {file: base.qcow2, format: qcow2, size: 4M}
  - write: {file: base.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
  - create: {file: overlay.qcow2, format: qcow2, backing: {file: base.qcow2, format: qcow2}}
  - write: {file: overlay.qcow2, format: qcow2, pattern: 0x42, offset: 512K, length: 1M}
  - create: {file: after.qcow2, format: qcow2, size: 4M}
  - write: {file: after.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 512K}
  - write: {file: after.qcow2, format: qcow2, pattern: 0x42, offset: 512K, length: 1M}
  - write: {file: after.qcow2, format: qcow2, pattern: 0x43, offset: 1M, length: 64K}
args:
  - -drive
  - if=none,id=drive0,file=overlay.qcow2,format=qcow2,node-name=overlay
steps:
  - qmp: {execute: block-commit, arguments: {job-id: job0, device: drive0}}
  - hmp: qemu-io drive0 \"write -P 0x43 1M 64k\"
  - wait: job0
    until: ready
  - qmp: {execute: block-job-complete, arguments: {device: job0}}
  - wait: job0
  - same: [after.qcow2, base.qcow2]
";

/// An overlay that takes over all that it reads from below.
pub const STREAM: &str = "\
about: An overlay is streamed while a guest writes, and then it no longer needs its backing file.
files:
  - create: {file: base.qcow2, format: qcow2, size: 4M}
  - write: {file: base.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
  - create: {file: overlay.qcow2, format: qcow2, backing: {file: base.qcow2, format: qcow2}}
  - create: {file: after.qcow2, format: qcow2, size: 4M}
  - write: {file: after.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
  - write: {file: after.qcow2, format: qcow2, pattern: 0x42, offset: 512K, length: 64K}
args:
  - -drive
  - if=none,id=drive0,file=overlay.qcow2,format=qcow2,node-name=overlay
steps:
  - qmp: {execute: block-stream, arguments: {job-id: job0, device: drive0}}
  - hmp: qemu-io drive0 \"write -P 0x42 512k 64k\"
  - wait: job0
  - zero: {file: base.qcow2, format: qcow2, offset: 0, length: 1M}
  - same: [after.qcow2, overlay.qcow2]
";

/// Writes the file; one that is there stays.
pub(in crate::cli) fn new(args: &NewArgs, out: &mut Output) -> u8 {
    let steps = match args.job {
        Job::Backup => BACKUP,
        Job::Mirror => MIRROR,
        Job::Commit => COMMIT,
        Job::Stream => STREAM,
    };
    let text = format!("{HEAD}{steps}");
    if args.name.as_os_str() == "-" {
        out.print(&text);
        return 0;
    }
    let mut path = args.name.clone();
    if path.extension().is_none_or(|ending| ending != "yaml" && ending != "yml") {
        let mut name = path.into_os_string();
        name.push(".yaml");
        path = name.into();
    }
    if let Some(folder) = path.parent().filter(|folder| *folder != Path::new(""))
        && let Err(error) = std::fs::create_dir_all(folder)
    {
        out.error(&format!("{}: {}", folder.display(), files::plain(&error)));
        return EXIT_USAGE;
    }
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    if let Err(error) = made.and_then(|mut file| file.write_all(text.as_bytes())) {
        out.error(&format!("{}: {}", path.display(), files::plain(&error)));
        return EXIT_USAGE;
    }
    let name = quoted(&path.to_string_lossy());
    out.remark(&format!(
        "{name} is made; next:\n  blockjob-sim run {name}\n  blockjob-sim test {name} --seeds 0..100\n"
    ));
    0
}
