//! What a scenario from anywhere may have a real QEMU do: nothing that reaches out of its directory.
//!
//! It is a list of what is allowed: options, commands, lines of the human monitor, drivers, and as file names those that stay in the
//! directory. Whoever trusts a scenario says so (`--trust`). Images are looked at as well, as a header names files: after they are
//! made, and before each command, as a guest may write a header.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell looks at real files")]

use super::{Trouble, trouble};
use crate::base::Json;
use crate::qmp::drive::split_options;
use crate::qmp::json::Parser;
use crate::qmp::json::parse_one;
use crate::scenario::nbd::NbdAction;
use crate::scenario::plan::{Backing, FileOp, Plan, ProcessOp, StepKind};
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Options of the command line; those of the second list take no value.
const OPTIONS: &[&str] = &["-accel", "-blockdev", "-device", "-display", "-drive", "-machine", "-M", "-object"];
const FLAGS: &[&str] = &["-S", "-nodefaults"];

/// Commands of QMP, beside all `query-…`, which only tell. The last is none, and stands for what QEMU says then.
const COMMANDS: &[&str] = &[
    "block-commit",
    "block-dirty-bitmap-add",
    "block-dirty-bitmap-clear",
    "block-dirty-bitmap-disable",
    "block-dirty-bitmap-enable",
    "block-dirty-bitmap-merge",
    "block-dirty-bitmap-remove",
    "block-export-add",
    "block-export-del",
    "block-job-cancel",
    "block-job-change",
    "block-job-complete",
    "block-job-dismiss",
    "block-job-finalize",
    "block-job-pause",
    "block-job-resume",
    "block-job-set-speed",
    "block-set-write-threshold",
    "block-stream",
    "block_resize",
    "block_set_io_throttle",
    "blockdev-add",
    "blockdev-backup",
    "blockdev-change-medium",
    "blockdev-close-tray",
    "blockdev-create",
    "blockdev-del",
    "blockdev-insert-medium",
    "blockdev-mirror",
    "blockdev-open-tray",
    "blockdev-remove-medium",
    "blockdev-reopen",
    "blockdev-set-active",
    "blockdev-snapshot",
    "blockdev-snapshot-delete-internal-sync",
    "blockdev-snapshot-internal-sync",
    "blockdev-snapshot-sync",
    "change-backing-file",
    "cont",
    "device-list-properties",
    "device_add",
    "device_del",
    "drive-backup",
    "drive-mirror",
    "eject",
    "human-monitor-command",
    "job-cancel",
    "job-complete",
    "job-dismiss",
    "job-finalize",
    "job-pause",
    "job-resume",
    "nbd-server-add",
    "nbd-server-remove",
    "nbd-server-start",
    "nbd-server-stop",
    "object-add",
    "object-del",
    "qmp_capabilities",
    "qom-get",
    "qom-list",
    "qom-list-properties",
    "qom-list-types",
    "qom-set",
    "quit",
    "stop",
    "system_powerdown",
    "system_reset",
    "transaction",
    "x-blockdev-change",
    "x-debug-block-dirty-bitmap-sha256",
    "x-debug-query-block-graph",
    "foo",
];

/// Commands of the human monitor; the last is none.
const LINES: &[&str] = &[
    "block_job_cancel",
    "block_job_complete",
    "block_job_pause",
    "block_job_resume",
    "block_job_set_speed",
    "block_resize",
    "block_set_io_throttle",
    "block_stream",
    "change",
    "commit",
    "cont",
    "device_add",
    "device_del",
    "drive_add",
    "drive_backup",
    "drive_del",
    "drive_mirror",
    "eject",
    "info",
    "nbd_server_add",
    "nbd_server_remove",
    "nbd_server_stop",
    "object_add",
    "object_del",
    "qemu-io",
    "quit",
    "snapshot_blkdev",
    "stop",
    "system_powerdown",
    "system_reset",
    "foo",
    "nbd_server_start",
];

/// Commands of qemu-io in its short and long forms; the last is none. `open` is none of them, nor is `sigraise`.
const QEMU_IO: &[&str] = &[
    "aio_flush",
    "aio_read",
    "aio_write",
    "alloc",
    "break",
    "discard",
    "d",
    "flush",
    "f",
    "info",
    "i",
    "length",
    "l",
    "map",
    "read",
    "r",
    "readv",
    "rv",
    "remove_break",
    "reopen",
    "resume",
    "truncate",
    "t",
    "wait_break",
    "write",
    "w",
    "writev",
    "wv",
    "badcmd",
];

/// Drivers and formats; the last three are none, and stand for what QEMU says then. `copy-before-wri` is what a header has room for.
const DRIVERS: &[&str] = &[
    "blkdebug",
    "blkverify",
    "compress",
    "copy-before-wri",
    "copy-before-write",
    "copy-on-read",
    "file",
    "nbd",
    "null-aio",
    "null-co",
    "preallocate",
    "qcow2",
    "quorum",
    "raw",
    "snapshot-access",
    "throttle",
    "nonsense",
    "nope",
    "zzz",
];

/// What stands behind a file in lines of the human monitor: formats, and modes of `change`; the last is none.
const FORMATS: &[&str] = &["qcow2", "raw", "read-only", "read-write", "retain", "foo"];

/// Guest devices that have to do with disks; the last is none.
const DEVICES: &[&str] = &[
    "floppy",
    "ide-cd",
    "ide-hd",
    "isa-fdc",
    "nvme",
    "scsi-cd",
    "scsi-hd",
    "sd-card",
    "sdhci-pci",
    "usb-storage",
    "virtio-blk",
    "virtio-blk-device",
    "virtio-blk-pci",
    "virtio-scsi",
    "virtio-scsi-pci",
    "foo",
];

/// What `object-add` may make: neither opens a file.
const OBJECTS: &[&str] = &["iothread", "throttle-group"];

/// Members whose values are names of nodes, jobs and the like, and never those of files.
const NAMES: &[&str] = &[
    "base-node",
    "bitmap",
    "bitmaps",
    "device",
    "filter-node-name",
    "group",
    "id",
    "job-id",
    "name",
    "node",
    "node-name",
    "replaces",
    "serial",
    "snapshot-node-name",
    "tag",
    "throttle-group",
    "top-node",
    "x-dirty-bitmap",
];

/// Why something is not allowed.
type Allowed = Result<(), String>;

fn listed(what: &str, word: &str, list: &[&str]) -> Allowed {
    if list.contains(&word) {
        Ok(())
    } else {
        Err(format!("{what} `{word}` is none of those that are allowed: {}", list.join(", ")))
    }
}

/// Whether a scenario stays in its directory.
///
/// # Errors
/// The first place where it may not, and why.
pub fn check(plan: &Plan) -> Result<(), Trouble> {
    let refused = |place: &dyn std::fmt::Display, why: String| {
        Trouble(format!(
            "{place}: {why} (a scenario may not reach out of its directory; --trust if you know where it comes from)"
        ))
    };
    for planned in &plan.files {
        file(&planned.op).map_err(|why| refused(&planned.pos, why))?;
    }
    args(&plan.args).map_err(|why| refused(&"args", why))?;
    for planned in plan.steps.iter() {
        let allowed = match &planned.kind {
            StepKind::Qmp { command, .. } => qmp(command),
            StepKind::Hmp { line, .. } => hmp(line),
            StepKind::File(op) => file(op),
            StepKind::Same(images) => images.iter().try_for_each(|image| reference(image)),
            // What is no command does nothing, and what is one is checked as such.
            StepKind::Send { bytes, .. } => Parser::new().feed(bytes).iter().flatten().try_for_each(qmp),
            StepKind::Event(_)
            | StepKind::Sleep(_)
            | StepKind::At { .. }
            | StepKind::Idle
            | StepKind::Bitmap(_)
            | StepKind::NoJobs
            | StepKind::NoEvents { .. }
            | StepKind::Mark(_) => Ok(()),
            StepKind::Nbd(step) => match &step.action {
                NbdAction::Serve(server) => name(&step.client).and_then(|()| name(&server.file)),
                _ => Ok(()),
            },
            StepKind::Process(ProcessOp::Start { args: all, .. }) => args(all),
            StepKind::Process(_) => Ok(()),
        };
        allowed.map_err(|why| refused(&planned.pos, why))?;
    }
    Ok(())
}

/// A name of a file as the host takes it.
fn name(text: &str) -> Allowed {
    match text {
        _ if text.starts_with('/') => Err(format!("`{text}` is an absolute file name")),
        _ if text.split('/').any(|part| part == "..") => Err(format!("`{text}` leads out of the directory by `..`")),
        _ if text.contains('\0') => Err("a file name has a NUL".to_owned()),
        _ => Ok(()),
    }
}

/// A name of a file as QEMU takes it, which may begin with a protocol.
fn reference(text: &str) -> Allowed {
    let protocol = text.split_once(':').filter(|(before, _)| !before.contains('/'));
    match protocol {
        None => name(text),
        Some(("json", rest)) => {
            let node = parse_one(rest).map_err(|_| format!("`{text}` is no JSON"))?;
            values("", &node)
        }
        Some(("file", rest)) => name(rest),
        Some(("blkdebug", rest)) => {
            let (config, image) = rest.split_once(':').unwrap_or((rest, ""));
            name(config)?;
            reference(image)
        }
        // Servers on a network are none that a scenario may reach.
        Some(("nbd", rest)) if rest.starts_with("unix:") => {
            let path = rest.strip_prefix("unix:").unwrap_or(rest);
            name(path.split(":exportname=").next().unwrap_or(path))
        }
        Some(("nbd+unix", rest)) => name(rest.split_once("socket=").map_or(rest, |(_, path)| path)),
        Some(("null-co" | "null-aio", rest)) => name(rest.strip_prefix("//").unwrap_or(rest)),
        Some((protocol, _)) => {
            Err(format!("`{text}` is of the protocol `{protocol}`: expected file, json, blkdebug, null-co, null-aio"))
        }
    }
}

/// A value and all below it: what could be a file name must stay inside.
fn values(key: &str, value: &Json) -> Allowed {
    if let Some(members) = value.as_dict() {
        return members.iter().try_for_each(|(key, value)| values(key, value));
    }
    if let Some(list) = value.as_list() {
        return list.iter().try_for_each(|value| values(key, value));
    }
    match (value.as_str(), value.as_bool()) {
        (Some(text), _) => word(key, text),
        (None, Some(true)) => word(key, "on"),
        _ => Ok(()),
    }
}

/// A text that is the value of `key`, which may be a path as in `file.driver`.
fn word(key: &str, text: &str) -> Allowed {
    match key.rsplit('.').next().unwrap_or_default() {
        "driver" | "format" | "backing-fmt" | "backing_fmt" => listed("the driver", text, DRIVERS),
        "qom-type" => listed("the object", text, OBJECTS),
        // A drive with `snapshot=on` has a file elsewhere.
        "snapshot" if text != "off" => Err(format!("`snapshot={text}` makes a file elsewhere")),
        "host" => Err(format!("the host `{text}` is reached over a network")),
        "cid" => Err(format!("the machine `{text}` is reached by vsock")),
        // Its name is none of a file: it may be anybody's.
        "abstract" if text != "off" => Err("an abstract socket stands in no directory".to_owned()),
        last if NAMES.contains(&last) => Ok(()),
        _ => reference(text),
    }
}

/// `key=value,…`, or JSON. The word in front, which needs no key, is one of `kinds` if they are given.
fn options(text: &str, kind: &str, kinds: Option<&[&str]>) -> Allowed {
    if text.starts_with('{') {
        let json = parse_one(text).map_err(|_| format!("`{text}` is no JSON"))?;
        return members(&json, kind, kinds);
    }
    let first = text.split([',', '=']).next().unwrap_or_default();
    let implied = !text[first.len()..].starts_with('=');
    for (number, (key, value)) in split_options(text).into_iter().enumerate() {
        match kinds {
            // A word alone stands as the key, or as the value of an implied one.
            Some(kinds) if number == 0 && implied => listed("the kind", first, kinds)?,
            Some(kinds) if key == kind => listed("the kind", &value, kinds)?,
            _ => {
                reference(&key)?;
                word(&key, &value)?;
            }
        }
    }
    Ok(())
}

/// The members of a dictionary, of which one says what kind of thing it is.
fn members(json: &Json, kind: &str, kinds: Option<&[&str]>) -> Allowed {
    for (key, value) in json.as_dict().unwrap_or_default().iter() {
        match (kinds, value.as_str()) {
            (Some(kinds), Some(text)) if **key == *kind => listed("the kind", text, kinds)?,
            _ => values(key, value)?,
        }
    }
    Ok(())
}

fn args(args: &[std::sync::Arc<str>]) -> Allowed {
    let mut args = args.iter();
    while let Some(option) = args.next() {
        if FLAGS.contains(&&**option) {
            continue;
        }
        listed("the option", option, OPTIONS)?;
        let Some(value) = args.next() else { return Ok(()) };
        match &**option {
            "-device" => options(value, "driver", Some(DEVICES))?,
            "-object" => options(value, "qom-type", Some(OBJECTS))?,
            "-display" => listed("the display", value, &["none"])?,
            _ => options(value, "", None)?,
        }
    }
    Ok(())
}

fn qmp(command: &Json) -> Allowed {
    // What is no object is no command.
    for (key, value) in command.as_dict().unwrap_or_default().iter() {
        let (true, Some(name)) = (matches!(&**key, "execute" | "exec-oob"), value.as_str()) else { continue };
        if !name.starts_with("query-") {
            listed("the command", name, COMMANDS)?;
        }
    }
    let of = |wanted: &str| {
        let mut members = command.as_dict().unwrap_or_default().iter();
        members.any(|(key, value)| matches!(&**key, "execute" | "exec-oob") && value.as_str() == Some(wanted))
    };
    for (key, arguments) in command.as_dict().unwrap_or_default().iter() {
        if &**key != "arguments" {
            continue;
        }
        if of("nbd-server-start") {
            // Nothing listens on a network.
            let addr = arguments.get("addr").and_then(|addr| addr.get("type")).and_then(Json::as_str);
            listed("the address", addr.unwrap_or("unix"), &["unix"])?;
            values("", arguments)?;
        } else if of("device_add") {
            members(arguments, "driver", Some(DEVICES))?;
        } else if of("qom-get") || of("qom-list") {
            // They read, and what they name as `path` is an object of QEMU, no file.
        } else if of("qom-set") {
            // Other properties of objects name files of the host, or chardevs.
            for (key, value) in arguments.as_dict().unwrap_or_default().iter().filter(|(key, _)| &**key == "property") {
                listed(key, value.as_str().unwrap_or_default(), &["drive", "share-rw", "nosuch"])?;
            }
        } else if of("human-monitor-command") {
            for (key, value) in arguments.as_dict().unwrap_or_default().iter() {
                match value.as_str() {
                    Some(line) if &**key == "command-line" => hmp(line)?,
                    _ => values(key, value)?,
                }
            }
        } else {
            values("", arguments)?;
        }
    }
    Ok(())
}

fn hmp(line: &str) -> Allowed {
    // As the monitor reads a line, but for escapes in quotes, which make no new letters of a file name.
    let bare: String = line.chars().filter(|c| !matches!(c, '"' | '\'' | '\\')).collect();
    let mut words = bare.split_whitespace();
    let Some(first) = words.next() else { return Ok(()) };
    let command = first.split('/').next().unwrap_or_default();
    listed("the command", command, LINES)?;
    if command == "qemu-io" {
        // Its target, perhaps behind `-d`, then a command and its words, of which none is a file.
        let mut words = words.skip_while(|word| *word == "-d").skip(1);
        let Some(io) = words.next() else { return Ok(()) };
        listed("the command of qemu-io", io, QEMU_IO)?;
        return words.try_for_each(|word| match word.contains('/') || word.contains("..") {
            true => Err(format!("`{word}` may be a file")),
            false => Ok(()),
        });
    }
    match command {
        "device_add" => words.try_for_each(|word| options(word, "driver", Some(DEVICES))),
        "nbd_server_start" => {
            words.filter(|word| !word.starts_with('-')).try_for_each(|word| match word.strip_prefix("unix:") {
                Some(path) => name(path),
                None => Err(format!("`{word}` listens on a network: expected unix:PATH")),
            })
        }
        "object_add" => words.try_for_each(|word| options(word, "qom-type", Some(OBJECTS))),
        "drive_add" => words.try_for_each(|word| options(word, "", None)),
        "change" | "drive_backup" | "drive_mirror" | "snapshot_blkdev" => {
            // A device, a file, a format, a mode.
            let mut words = words.filter(|word| !word.starts_with('-'));
            words.by_ref().take(2).try_for_each(reference)?;
            words.try_for_each(|word| listed("the format", word, FORMATS))
        }
        _ => words.try_for_each(reference),
    }
}

fn file(op: &FileOp) -> Allowed {
    let (file, backing): (&str, Option<&Backing>) = match op {
        FileOp::Create { file, backing, .. } | FileOp::Rebase { file, backing } => (file, backing.as_ref()),
        FileOp::Write { file, .. }
        | FileOp::Content { file, .. }
        | FileOp::Text { file, .. }
        | FileOp::Bytes { file, .. }
        | FileOp::Resize { file, .. }
        | FileOp::Check { file, .. } => (file, None),
        FileOp::QemuImg(img) => {
            return img.words[1..].iter().filter(|word| !word.starts_with('-')).try_for_each(|word| reference(word));
        }
        FileOp::Host(change) => match change.file() {
            Some(file) => (file, None),
            None => return Ok(()),
        },
    };
    name(file)?;
    match file {
        "" => Err("a file has no name".to_owned()),
        _ => backing.map_or(Ok(()), |backing| reference(&backing.file)),
    }
}

/// Whether the images in `dir` name nothing outside of it.
///
/// # Errors
/// The image that does.
pub fn images(dir: &Path) -> Result<(), Trouble> {
    for entry in fs::read_dir(dir).map_err(|error| trouble("the working directory", &error))?.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            images(&entry.path())?;
        } else if kind.is_file() {
            let path = entry.path();
            header(&path).map_err(|why| Trouble(format!("{}: {why}", entry.file_name().to_string_lossy())))?;
        }
    }
    Ok(())
}

/// Whether the header of an image, as far as it has one, names nothing outside.
fn header(path: &Path) -> Allowed {
    let Ok(mut file) = fs::File::open(path) else { return Ok(()) };
    let mut head = Vec::new();
    if (&mut file).take(2048).read_to_end(&mut head).is_err() {
        return Ok(());
    }
    let mut read = |at: u64, length: u64| {
        let mut bytes = Vec::new();
        let got =
            file.seek(SeekFrom::Start(at)).and_then(|_| (&mut file).take(length.min(1 << 16)).read_to_end(&mut bytes));
        got.map(|_| bytes).unwrap_or_default()
    };
    let forms: [(&[u8], &str); 4] =
        [(b"KDMV", "vmdk"), (b"COWD", "vmdk"), (b"QED\0", "qed"), (b"QFI\xfb\0\0\0\x01", "qcow")];
    if let Some((_, form)) = forms.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(format!("an image of the format {form} may name other files, and is not looked into"));
    }
    if head.split(|byte| *byte == b'\n').any(|line| line.trim_ascii_start().starts_with(b"version=")) {
        return Err("the description of a vmdk image may name other files, and is not looked into".to_owned());
    }
    if !head.starts_with(b"QFI\xfb") {
        return Ok(());
    }
    let number = |bytes: &[u8], at: usize, length: usize| {
        bytes.get(at..at + length).map_or(0, |bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let (offset, length) = (number(&head, 8, 8), number(&head, 16, 4));
    if offset != 0 {
        // A C string.
        let text = read(offset, length);
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = str::from_utf8(text).map_err(|_| "the name of its backing file is no text".to_owned())?;
        reference(text).map_err(|why| format!("as backing file {why}"))?;
    }
    let mut at = if number(&head, 4, 4) < 3 { 72 } else { number(&head, 100, 4) };
    // Extensions stand in the first cluster, which is at most 2 MiB long.
    while at < 2 << 20 {
        let extension = read(at, 8);
        let (kind, length) = (number(&extension, 0, 4), number(&extension, 4, 4));
        if kind == 0 {
            break;
        }
        let text = read(at + 8, length);
        let text = String::from_utf8_lossy(text.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        match kind {
            0x4441_5441 => reference(&text).map_err(|why| format!("as data file {why}"))?,
            0xe279_2aca => listed("the format of the backing file", &text, DRIVERS)?,
            _ => {}
        }
        at += 8 + length.next_multiple_of(8);
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::disallowed_macros, reason = "a test reads the scenarios of the repository")]
#[path = "confine_tests.rs"]
mod tests;
