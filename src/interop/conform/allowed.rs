//! Differences that are known and have a reason: a short list, printed with every report.

use super::super::carry::Carried;
use super::super::qemu::Ending;
use super::commands::{actions, text};
use super::compare::Differs;
use crate::base::Json;
use crate::invariant::{Broken, Invariant};
use crate::scenario::plan::{FileOp, ImageFormat, Plan, StepKind};
use crate::trace::canonical;
use crate::trace::compare::ClientLine;

/// Each with its name and its reason.
pub const LIST: &[(&str, &str)] = &[
    (
        "crash: enable of a missing bitmap in a transaction",
        "QEMU touches the bitmap that it did not find; the model gives the error",
    ),
    ("crash: merge of no bitmaps", "QEMU frees a bitmap that it never made; the model merges nothing"),
    (
        "crash: two backups by one device in a transaction",
        "QEMU aborts in bdrv_do_drained_end; the model says that the device is in use",
    ),
    (
        "crash: a second backup of a device while the first one ends",
        "QEMU uses a node that is gone, or aborts in bdrv_do_drained_end; the model refuses the backup or runs it",
    ),
    (
        "freed memory: a second backup of a device while the first one ends",
        "QEMU goes on with a node that is gone and does not crash; what it finds there is not defined, such as an error of a read",
    ),
    (
        "crash: a bitmap changed and given to a backup in a transaction that fails",
        "QEMU undoes the change of a bitmap that the backup has replaced, and touches freed memory; the model undoes both",
    ),
    (
        "crash: two backups of a node that end together",
        "QEMU takes a filter away over another one that it freed, and aborts in bdrv_replace_node_common; the model looks again",
    ),
    (
        "crash: a backup of the node below a format that grows",
        "QEMU aborts in hbitmap_set, as the write is behind the end of what the backup covers; the model has it written",
    ),
    (
        "holes of the host",
        "a file zeroed without unmapping has unwritten extents, which ext4 calls data when their pages were read since, ahead of a reader \
         too; the model takes them for holes, and copies them in other pieces",
    ),
    (
        "crash: a backup ends over an overlay that only its filter holds",
        "QEMU drops the filter, with it the overlay, and ends the drain of the freed node; the model holds the overlay until then",
    ),
    (
        FORETOLD,
        "the trace is the model's up to its end, where the model's run is over as broken `no-abort`, of what gives the signal that ended QEMU",
    ),
    (
        FORETOLD_FREED,
        "the trace is the model's up to its end, where QEMU uses freed memory, as the model says, and a signal ends it",
    ),
    (
        FREED,
        "the trace is the model's up to where QEMU uses freed memory, as the model says; what it finds there, and so what follows, is not \
         defined",
    ),
    (
        "crash: a resize that failed late",
        "QEMU keeps the new size of the node and the old one of its bitmaps, and fails an assertion, as the model does",
    ),
    (
        "crash: a min-cluster-size of 256 MiB or more",
        "QEMU makes a bitmap with what fits 32 bits of it, or asks for more memory than all copies share; the model gives an error",
    ),
    (
        "hang: grouped backups in a transaction that is refused",
        "QEMU undoes the last of them, and waits for ever for one that was never started; the model undoes all",
    ),
];

/// The name of crashes that end the model's run too.
const FORETOLD: &str = "crash: foretold by the model";
/// That of those for which it ends as freed memory is used.
const FORETOLD_FREED: &str = "crash: freed memory, foretold by the model";
/// The name of what comes after memory was used that the model says is freed.
pub const FREED: &str = "freed memory: foretold by the model";

/// The name of a crash of which the model's run ends too, after the same trace.
#[must_use]
pub fn foretold(broken: &Broken) -> &'static str {
    if broken.invariant == Invariant::UsedAfterFree { FORETOLD_FREED } else { FORETOLD }
}

/// The name as the list has it.
fn name(wanted: &str) -> &'static str {
    LIST.iter().find(|(name, _)| *name == wanted).map_or("", |(name, _)| name)
}

/// The name of a known crash of QEMU that this run ended with.
#[must_use]
pub fn crash(real: &Carried) -> Option<&'static str> {
    let Some(Ending::Killed(_)) = &real.ending else { return None };
    let command = real.lines.iter().rev().find_map(|line| match line {
        ClientLine::Command(command) => Some(command),
        _ => None,
    })?;
    let actions = actions(command);
    let grouped = command.get("execute").and_then(Json::as_str) == Some("transaction");
    if grouped && actions.iter().any(|(name, _)| *name == "block-dirty-bitmap-enable") {
        return Some(LIST[0].0);
    }
    let empty = |data: &Json| data.get("bitmaps").and_then(Json::as_list).is_some_and(<[Json]>::is_empty);
    if actions.iter().any(|(name, data)| *name == "block-dirty-bitmap-merge" && empty(data)) {
        return Some(LIST[1].0);
    }
    let too_large = ["bdrv_create_dirty_bitmap: Assertion `is_power_of_2", "co_get_from_shres: Assertion"];
    if too_large.iter().any(|place| real.stderr.contains(place))
        && canonical::to_string(command).contains("min-cluster-size")
    {
        return Some(name("crash: a min-cluster-size of 256 MiB or more"));
    }
    let backups = actions.iter().filter(|(name, _)| name.ends_with("-backup")).count();
    if backups > 1 && real.stderr.contains("bdrv_do_drained_end") {
        return Some(LIST[2].0);
    }
    if real.stderr.contains("bdrv_do_drained_end") && overlay_below_a_filter(&real.lines) {
        return Some(name("crash: a backup ends over an overlay that only its filter holds"));
    }
    // What ends there is freed memory: an assertion, or a signal, once another job has ended.
    let since = real.lines.iter().rev().take_while(|line| !matches!(line, ClientLine::Command(_)));
    let ended = |line: &ClientLine| match line {
        ClientLine::Event { data, .. } => {
            matches!(data.get("status").and_then(Json::as_str), Some("concluded" | "null"))
        }
        _ => false,
    };
    let places = ["bdrv_do_drained_end", "drive_backup_action: Assertion", "bdrv_insert_node: Assertion"];
    // A warning is of something else.
    let mut said = real.stderr.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("warning: "));
    let silent = said.next().is_none();
    let freed = places.iter().any(|place| real.stderr.contains(place)) || silent;
    if backups == 1 && freed && since.into_iter().any(ended) {
        return Some(LIST[3].0);
    }
    let late = ["update the image size", "flush the L2 table cache", "flush the refcount block cache"];
    let resized = real.lines.iter().any(|line| match line {
        ClientLine::Reply(reply) => {
            let reply = canonical::to_string(reply);
            late.iter().any(|what| reply.contains(&format!("Failed to {what}")))
        }
        _ => false,
    });
    if resized && ["hbitmap_set", "hbitmap_merge", "hbitmap_free"].iter().any(|place| real.stderr.contains(place)) {
        return Some(name("crash: a resize that failed late"));
    }
    if real.stderr.contains("from->quiesce_counter") {
        return Some(name("crash: two backups of a node that end together"));
    }
    let backed_up = |line: &ClientLine| match line {
        ClientLine::Command(command) => canonical::to_string(command).contains("-backup"),
        _ => false,
    };
    if !resized && real.stderr.contains("hbitmap_set") && real.lines.iter().any(backed_up) {
        return Some(name("crash: a backup of the node below a format that grows"));
    }
    let replaced = |data: &Json| data.get("bitmap-mode").and_then(Json::as_str) == Some("always");
    let places = ["qemu_mutex_lock_impl", "hbitmap_free", "free", "corrupt", "bdrv_restore_dirty_bitmap: Assertion"];
    let touched = places.iter().any(|place| real.stderr.contains(place)) || silent;
    if grouped && touched && actions.iter().any(|(name, data)| name.ends_with("-backup") && replaced(data)) {
        return Some(name("crash: a bitmap changed and given to a backup in a transaction that fails"));
    }
    None
}

/// Whether a node that was asked to be backed up got an overlay by its own name, which then stands between it and the backup's filter.
fn overlay_below_a_filter(lines: &[ClientLine]) -> bool {
    let mut copied: Vec<&str> = Vec::new();
    lines.iter().any(|line| {
        let ClientLine::Command(command) = line else { return false };
        copied.extend(backups(command).map(|(_, device)| device));
        let mut overlays = actions(command).into_iter().filter(|(name, _)| name.starts_with("blockdev-snapshot"));
        overlays.any(|(_, data)| {
            text(data, "node-name").or_else(|| text(data, "node")).is_some_and(|node| copied.contains(&node))
        })
    })
}

/// The name of a known use of freed memory that QEMU survived, in the part of the trace that the model can give: a backup looked up a
/// drive by its name, and an older backup of that drive was gone before its own job was made.
#[must_use]
pub fn freed(plan: &Plan, fits: &[ClientLine]) -> Option<&'static str> {
    let hit = fits.iter().enumerate().any(|(at, line)| {
        let ClientLine::Command(command) = line else { return false };
        let mut drives = backups(command).filter_map(|(_, device)| names_of_drive(plan, device));
        drives.any(|(id, node)| {
            let of_drive = |(_, device): &(Option<&str>, &str)| *device == id || Some(*device) == node;
            let older = fits[..at].iter().filter_map(|line| match line {
                ClientLine::Command(command) => Some(backups(command).filter(of_drive)),
                _ => None,
            });
            let older: Vec<&str> = older.flatten().map(|(job, _)| job.unwrap_or(id)).collect();
            let until_made = fits[at + 1..].iter().map_while(|line| match line {
                ClientLine::Event { data, .. } => Some(data).filter(|data| status(data) != Some("created")),
                _ => None,
            });
            let job = |data: &Json| data.get("id").and_then(Json::as_str).map(str::to_owned);
            let mut gone = until_made.filter(|data| status(data) == Some("null")).filter_map(job);
            gone.any(|job| older.contains(&&*job))
        })
    });
    hit.then(|| name("freed memory: a second backup of a device while the first one ends"))
}

fn status(data: &Json) -> Option<&str> {
    text(data, "status")
}

/// The backups that a command asks for: the job's name, where there is one (else it is the drive's), and the device.
fn backups(command: &Json) -> impl Iterator<Item = (Option<&str>, &str)> {
    actions(command)
        .into_iter()
        .filter(|(name, _)| name.ends_with("-backup"))
        .filter_map(|(_, data)| Some((text(data, "job-id"), text(data, "device")?)))
}

/// The drive of that name, as `-drive` made it, with the name of its node.
fn names_of_drive<'a>(plan: &'a Plan, drive: &'a str) -> Option<(&'a str, Option<&'a str>)> {
    let option = |arg: &'a str, key: &str| arg.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
    let arg = plan.args.iter().find(|arg| option(arg, "id") == Some(drive))?;
    Some((drive, option(arg, "node-name")))
}

/// The name of a known hang of QEMU that this run ended with: the last command is a grouped transaction of which one job was undone, and
/// others were made and never heard of again.
#[must_use]
pub fn hang(real: &Carried) -> Option<&'static str> {
    let Some(Ending::Hung) = &real.ending else { return None };
    let at = real.lines.iter().rposition(|line| matches!(line, ClientLine::Command(_)))?;
    let ClientLine::Command(command) = &real.lines[at] else { return None };
    let properties = command.get("arguments").and_then(|arguments| arguments.get("properties"));
    if properties.and_then(|p| p.get("completion-mode")).and_then(Json::as_str) != Some("grouped") {
        return None;
    }
    let jobs_that_are = |status: &str| {
        let told = real.lines[at..].iter().filter_map(|line| match line {
            ClientLine::Event { data, .. } if data.get("status").and_then(Json::as_str) == Some(status) => {
                data.get("id").and_then(Json::as_str)
            }
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let (made, gone) = (jobs_that_are("created"), jobs_that_are("null"));
    let last = made.last()?;
    let undone = gone.last() == Some(last) && made.iter().any(|job| !gone.contains(job));
    undone.then(|| name("hang: grouped backups in a transaction that is refused"))
}

/// The name of a known difference that these are, all of them.
#[must_use]
pub fn difference(plan: &Plan, differences: &[Differs]) -> Option<&'static str> {
    let says = |wanted: &str| {
        let step = |kind: &StepKind| match kind {
            StepKind::Qmp { command, .. } => canonical::to_string(command).contains(wanted),
            StepKind::Hmp { line, .. } => line.contains(wanted),
            _ => false,
        };
        plan.steps.iter().any(|planned| step(&planned.kind))
    };
    // Where `validate` found no schedule, its answer counts, and not where a calm run went another way.
    let ordered = differences.iter().any(|differs| differs.what == "order");
    let counts = |differs: &&Differs| !(ordered && matches!(&*differs.what, "trace" | "console"));
    let all = |known: &dyn Fn(&Differs) -> bool| differences.iter().filter(counts).all(known);
    // Which clusters are there changes how long files are, and so what a list of nodes says.
    let allocated = |differs: &Differs| match &*differs.what {
        "trace" => differs.how.contains("image.virtual-size"),
        "order" => differs.how.contains("QEMU gave\n  {\"reply\": {\"return\": [{\"active\": "),
        what => what.starts_with("allocation of "),
    };
    let raw = plan.files.iter().any(|file| matches!(&file.op, FileOp::Create { format: ImageFormat::Raw, .. }));
    let known =
        |differs: &Differs| allocated(differs) || (differs.what == "order" && in_other_pieces(plan, &differs.how));
    if raw && says("write -z ") && all(&known) {
        return Some(name("holes of the host"));
    }
    None
}

/// Whether a trace fits up to where one job goes on, in QEMU or in the model, and in the other does not, and that job copies from a node
/// that was zeroed: what is data is copied in other pieces than what is a hole. In QEMU there may be more data: so the job may have
/// reads to wait for, while a command has its reply, and in the model be done at once.
fn in_other_pieces(plan: &Plan, how: &str) -> bool {
    let status = |line: &str| -> Option<String> {
        let json = canonical::parse(line.trim()).ok()?;
        let changes = json.get("event").and_then(Json::as_str) == Some("JOB_STATUS_CHANGE");
        json.get("data")?.get("id")?.as_str().filter(|_| changes).map(str::to_owned)
    };
    let Some((gave, could)) =
        how.split_once("QEMU gave\n").and_then(|(_, rest)| rest.split_once("the model could give\n"))
    else {
        return false;
    };
    let replied = canonical::parse(gave.trim()).is_ok_and(|json| json.get("reply").is_some());
    let of_model = could.lines().next().and_then(status);
    let Some(job) = status(gave).or(of_model.filter(|_| replied)) else { return false };
    let mut ours = could.lines().map(status);
    let commands = plan.steps.iter().filter_map(|planned| match &planned.kind {
        StepKind::Qmp { command, .. } => Some(command),
        _ => None,
    });
    let zeroed = |device: &str| {
        let line = format!("qemu-io {device} \"write -z ");
        plan.steps.iter().any(|p| matches!(&p.kind, StepKind::Hmp { line: said, .. } if said.starts_with(&line)))
    };
    let mut sources = commands.flat_map(backups);
    ours.all(|id| id.as_ref() == Some(&job)) && sources.any(|(id, device)| id == Some(&job) && zeroed(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<ClientLine> {
        crate::validate::logs::read(&texts.join("\n")).expect("a trace").remove(0)
    }

    /// As in racing-100972, where the read error that follows is no behaviour of QEMU's: `second` is the drive of the second backup.
    fn trace(first: &str, second: &str) -> Vec<ClientLine> {
        let backup = |device: &str, job: &str| {
            format!(
                r#"{{"command": {{"execute": "drive-backup", "arguments": {{"device": "{device}"{job}, "sync": "full"}}}}}}"#
            )
        };
        let event = |job: &str, to: &str| {
            format!(r#"{{"event": "JOB_STATUS_CHANGE", "data": {{"id": "{job}", "status": "{to}"}}}}"#)
        };
        // Without a name of its own a job has its drive's.
        let job = if first == "drive1" { "drive1" } else { "drive0" };
        let reply = r#"{"reply": {"return": {}}}"#.to_owned();
        let (a, b) = (backup(first, ""), backup(second, r#", "job-id": "b""#));
        let all =
            [a, event(job, "created"), reply, b, event(job, "concluded"), event(job, "null"), event("b", "created")];
        lines(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn memory_is_freed_only_below_the_same_drive() {
        let text = "about: x\nargs: ['-drive', 'if=none,id=drive0,node-name=n0,file=a', '-drive', 'if=none,id=drive1,file=b']\nsteps: []\n";
        let plan =
            crate::scenario::load("x", &mut |_| Ok(text.to_owned())).expect("a scenario").expect("no part of one");
        let known = |first: &str, second: &str, n: usize| freed(&plan, &trace(first, second)[..n]).is_some();
        assert!(known("drive0", "drive0", 7));
        assert!(known("n0", "drive0", 7));
        // By the node's name no filter is found; another drive has another; and here the job is not gone yet.
        assert!(!known("n0", "n0", 7));
        assert!(!known("drive1", "drive0", 7));
        assert!(!known("drive0", "drive0", 5));
    }

    #[test]
    fn other_pieces_are_of_a_zeroed_node_and_of_one_job() {
        let text = r#"
about: A zeroed node and another one.
args: [-blockdev, '{"driver": "null-co", "node-name": "n0"}']
steps:
  - hmp: 'qemu-io n0 "write -z 0 100k"'
  - qmp: {execute: drive-backup, arguments: {job-id: j4, device: n0, target: a, sync: full}}
  - qmp: {execute: drive-backup, arguments: {job-id: j5, device: n1, target: b, sync: full}}
"#;
        let mut read = |_: &str| Ok(text.to_owned());
        let plan = crate::scenario::load("zeroed.yaml", &mut read).expect("it is well-formed").expect("it has steps");
        let event = |job: &str, to: &str| {
            format!(r#"{{"data": {{"id": "{job}", "status": "{to}"}}, "event": "JOB_STATUS_CHANGE"}}"#)
        };
        let how = |real: &str, ours: &str| {
            format!("66 of 212 lines fit after 9 tries; QEMU gave\n  {real}\nthe model could give\n  {ours}")
        };
        assert!(in_other_pieces(&plan, &how(&event("j4", "paused"), &event("j4", "waiting"))));
        assert!(!in_other_pieces(&plan, &how(&event("j5", "paused"), &event("j5", "waiting"))));
        assert!(!in_other_pieces(&plan, &how(&event("j4", "paused"), &event("j5", "waiting"))));
        let reply = r#"{"reply": {"return": {}}}"#;
        assert!(!in_other_pieces(&plan, &how(&event("j4", "paused"), reply)));
        assert!(in_other_pieces(&plan, &how(reply, &event("j4", "waiting"))));
        assert!(!in_other_pieces(&plan, &how(reply, &event("j5", "waiting"))));
    }
}
