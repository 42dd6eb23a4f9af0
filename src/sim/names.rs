//! Names that a scenario uses and nothing in it makes: of jobs, of nodes and drives, of bitmaps, of NBD clients and of NBD servers.
//!
//! What makes a name is taken widely (any word of QEMU's arguments may be a drive), so that what is left is a slip of the pen.

use super::lint::Mistake;
use crate::base::Json;
use crate::base::nearest;
use crate::qmp::hmp::{self, HmpLine};
use crate::scenario::nbd::{NbdAction, NbdStep};
use crate::scenario::plan::{EventPattern, Expect, Fails, FileOp, Plan, PlannedStep, StepKind};
use std::collections::BTreeSet;

/// Commands that make a job, and name it after their device where they give no `job-id`.
const JOBS: [&str; 6] =
    ["blockdev-backup", "drive-backup", "blockdev-mirror", "drive-mirror", "block-commit", "block-stream"];
/// Members of arguments that name a node or drive that is there.
const USES: [(&str, &[&str]); 19] = [
    ("blockdev-backup", &["device", "target"]),
    ("drive-backup", &["device"]),
    ("blockdev-mirror", &["device", "target"]),
    ("drive-mirror", &["device"]),
    ("block-commit", &["device", "base-node", "top-node"]),
    ("block-stream", &["device", "base-node", "bottom"]),
    ("block-dirty-bitmap-add", &["node"]),
    ("block-dirty-bitmap-remove", &["node"]),
    ("block-dirty-bitmap-clear", &["node"]),
    ("block-dirty-bitmap-enable", &["node"]),
    ("block-dirty-bitmap-disable", &["node"]),
    ("block-dirty-bitmap-merge", &["node"]),
    ("blockdev-snapshot", &["node", "overlay"]),
    ("blockdev-snapshot-sync", &["device", "node-name"]),
    ("blockdev-del", &["node-name"]),
    ("block_resize", &["device", "node-name"]),
    ("block-export-add", &["node-name"]),
    ("block-set-write-threshold", &["node-name"]),
    ("device_del", &["id"]),
];

/// All names that something makes.
pub(super) struct Names {
    jobs: BTreeSet<String>,
    nodes: BTreeSet<String>,
    bitmaps: BTreeSet<String>,
    /// An image that is made byte by byte may bring bitmaps along.
    any_bitmap: bool,
    /// Part of the scenario could not be read.
    silent: bool,
}

/// The words of a text that may be names.
fn words(text: &str) -> impl Iterator<Item = String> {
    let part = |c: char| c.is_ascii_alphanumeric() || "_.-#".contains(c);
    text.split(move |c| !part(c)).filter(|word| !word.is_empty()).map(str::to_owned)
}

fn text<'a>(json: &'a Json, key: &str) -> Option<&'a str> {
    json.get(key).and_then(Json::as_str)
}

/// A command, or each action of a transaction, with its arguments.
fn parts(command: &Json) -> Vec<(&str, &Json)> {
    let (Some(name), Some(arguments)) = (text(command, "execute"), command.get("arguments")) else { return Vec::new() };
    if name != "transaction" {
        return vec![(name, arguments)];
    }
    let actions = arguments.get("actions").and_then(Json::as_list).unwrap_or_default();
    actions.iter().filter_map(|action| Some((text(action, "type")?, action.get("data")?))).collect()
}

/// Names of bitmaps in a list, which has them alone or with their node.
fn listed(arguments: &Json) -> Vec<&str> {
    let list = arguments.get("bitmaps").and_then(Json::as_list).unwrap_or_default();
    list.iter().filter_map(|item| item.as_str().or_else(|| text(item, "name"))).collect()
}

impl Names {
    pub(super) fn of(plan: &Plan, whole: bool) -> Names {
        let steps = plan.steps.iter().filter_map(|step| match &step.kind {
            StepKind::File(op) => Some(op),
            _ => None,
        });
        let mut ops = plan.files.iter().map(|file| &file.op).chain(steps);
        let any_bitmap = ops.any(|op| matches!(op, FileOp::Content { .. } | FileOp::Bytes { .. } | FileOp::QemuImg(_)));
        let mut names = Names {
            jobs: BTreeSet::new(),
            nodes: BTreeSet::new(),
            bitmaps: BTreeSet::new(),
            any_bitmap,
            silent: !whole,
        };
        plan.args.iter().for_each(|arg| names.may_be(arg));
        for step in plan.steps.iter() {
            match &step.kind {
                StepKind::Qmp { command, .. } => names.made_by(command),
                StepKind::Hmp { line, .. } => match hmp::parse(line) {
                    HmpLine::QemuIo { .. } => {}
                    _ => names.may_be(line),
                },
                StepKind::Process(process) => names.may_be(&format!("{process:?}")),
                _ => {}
            }
        }
        names
    }

    /// Each word of this text may name a drive, or the job on it.
    fn may_be(&mut self, text: &str) {
        for word in words(text) {
            self.jobs.insert(word.clone());
            self.nodes.insert(word);
        }
    }

    fn made_by(&mut self, command: &Json) {
        for (name, arguments) in parts(command) {
            self.jobs.extend(text(arguments, "job-id").map(str::to_owned));
            if JOBS.contains(&name) {
                self.jobs.extend(text(arguments, "device").map(str::to_owned));
            }
            match name {
                "block-dirty-bitmap-add" => self.bitmaps.extend(text(arguments, "name").map(str::to_owned)),
                "human-monitor-command" => self.may_be(text(arguments, "command-line").unwrap_or_default()),
                "blockdev-add" | "device_add" | "object-add" | "qom-set" | "blockdev-reopen" => {
                    self.nodes_in(arguments)
                }
                _ => {
                    for key in ["snapshot-node-name", "filter-node-name", "id"] {
                        self.nodes.extend(text(arguments, key).map(str::to_owned));
                    }
                    if matches!(name, "drive-mirror" | "blockdev-create") {
                        self.nodes_in(arguments);
                    }
                }
            }
        }
    }

    /// All texts in a value may be names of nodes.
    fn nodes_in(&mut self, value: &Json) {
        match value {
            Json::Str(text) => _ = self.nodes.insert(text.to_string()),
            Json::Dict(members) => members.iter().for_each(|(_, value)| self.nodes_in(value)),
            Json::List(items) => items.iter().for_each(|item| self.nodes_in(item)),
            _ => {}
        }
    }

    /// What a step uses that nothing makes; nothing is said of one that does not expect success.
    pub(super) fn missing_in(&self, step: &PlannedStep) -> Vec<Mistake> {
        if self.silent {
            return Vec::new();
        }
        match &step.kind {
            StepKind::Qmp { command, expect: Expect::Return(_) } => self.missing_in_command(command),
            StepKind::Hmp { line, fails: Fails::No, .. } => match hmp::parse(line) {
                HmpLine::QemuIo { device, .. } => self.node(&device).into_iter().collect(),
                _ => Vec::new(),
            },
            StepKind::Event(pattern) => self.missing_in_event(pattern).into_iter().collect(),
            StepKind::Bitmap(check) if !check.absent => {
                self.node(&check.node).into_iter().chain(self.bitmap(&check.name)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn missing_in_event(&self, pattern: &EventPattern) -> Option<Mistake> {
        let key = match &*pattern.name {
            "JOB_STATUS_CHANGE" => "id",
            name if name.starts_with("BLOCK_JOB_") => "device",
            _ => return None,
        };
        self.job(text(pattern.data.as_ref()?, key)?)
    }

    fn missing_in_command(&self, command: &Json) -> Vec<Mistake> {
        let mut found = Vec::new();
        for (name, arguments) in parts(command) {
            let of = |key: &str| text(arguments, key);
            if name.starts_with("job-") || name.starts_with("block-job-") {
                found.extend(of("id").or_else(|| of("device")).and_then(|job| self.job(job)));
            }
            let uses = USES.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, keys)| keys);
            found.extend(uses.iter().filter_map(|key| of(key)).filter_map(|node| self.node(node)));
            match name {
                "block-dirty-bitmap-merge" => {
                    let sources = listed(arguments).into_iter();
                    found.extend(of("target").into_iter().chain(sources).filter_map(|bitmap| self.bitmap(bitmap)));
                }
                "block-export-add" => found.extend(listed(arguments).into_iter().filter_map(|name| self.bitmap(name))),
                "block-dirty-bitmap-add" => {}
                name if name.starts_with("block-dirty-bitmap-") => {
                    found.extend(of("name").and_then(|bitmap| self.bitmap(bitmap)));
                }
                _ => found.extend(of("bitmap").and_then(|bitmap| self.bitmap(bitmap))),
            }
        }
        found
    }

    fn job(&self, id: &str) -> Option<Mistake> {
        missing(id, &self.jobs, format!("no step makes a job `{id}`"), "a job that a step makes")
    }

    fn node(&self, name: &str) -> Option<Mistake> {
        // QEMU gives names of its own: `#block123`, and `ide0-hd0` where a drive has none; a path leads to a device, and may
        // begin anywhere (`vblk/virtio-backend`).
        let kinds = ["ide", "scsi", "floppy", "sd", "virtio", "none", "pflash", "mtd"];
        let rest = kinds.iter().find_map(|kind| name.strip_prefix(kind));
        let own = name.is_empty()
            || name.starts_with('#')
            || name.contains('/')
            || rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if own {
            return None;
        }
        missing(
            name,
            &self.nodes,
            format!("there is no node or drive `{name}`"),
            "a name that `args` or a step gives, or that the step is to fail (`error:`, `fails: true`)",
        )
    }

    fn bitmap(&self, name: &str) -> Option<Mistake> {
        if self.any_bitmap {
            return None;
        }
        missing(
            name,
            &self.bitmaps,
            format!("no step adds a bitmap `{name}`"),
            "a bitmap that a step adds, or that the step is to fail (`error:`)",
        )
    }
}

/// Who is there of those outside of the process that speak NBD, after the steps so far.
#[derive(Default)]
pub(super) struct NbdPeers {
    /// Clients that have connected and not left.
    clients: BTreeSet<String>,
    /// Where servers were started.
    servers: BTreeSet<String>,
}

impl NbdPeers {
    /// Takes the next step; says so if the client or the server is not there whose step it is.
    pub(super) fn step(&mut self, step: &NbdStep) -> Option<Mistake> {
        let name = &*step.client;
        match &step.action {
            NbdAction::Connect { .. } => _ = self.clients.insert(name.to_owned()),
            NbdAction::Serve(_) => _ = self.servers.insert(name.to_owned()),
            NbdAction::Server(_) => {
                let message = format!("no server was started at `{name}`");
                return missing(name, &self.servers, message, "a server that a step before it starts (`file:`)");
            }
            NbdAction::Ask { .. }
            | NbdAction::Answer(_)
            | NbdAction::Disconnect
            | NbdAction::Gone
            | NbdAction::Stall(_) => {
                let message = format!("the NBD client `{name}` is not connected");
                let mistake =
                    missing(name, &self.clients, message, "a client that a step before it connects (`connect:`)");
                if matches!(step.action, NbdAction::Disconnect | NbdAction::Gone) {
                    self.clients.remove(name);
                }
                return mistake;
            }
        }
        None
    }
}

fn missing(name: &str, made: &BTreeSet<String>, message: String, expected: &str) -> Option<Mistake> {
    if made.contains(name) {
        return None;
    }
    let known: Vec<&str> = made.iter().map(String::as_str).collect();
    let expected = match nearest(name, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("expected {expected}"),
    };
    Some(Mistake::new(message, expected, Some(name)))
}
