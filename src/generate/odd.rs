//! What programs of block jobs seldom have: devices that come and go, a reset, nodes that are opened anew with other options, numbers at
//! the ends of their ranges, empty lists and objects, large clusters, sources that fail for ever.

use super::program::{Job, Program};
use super::shape::Shape;
use crate::base::Json;
use crate::base::units::{GIB, KIB, MIB};
use crate::scenario::plan::{FileOp, StepKind};
use std::sync::Arc;

/// The controller that the disks of such a program are plugged into.
const CONTROLLER: &str = "virtio-scsi-pci,id=sc0";

/// The ends of the ranges that options have, and what is beside them.
const NUMBERS: [i64; 16] = [
    -1,
    0,
    1,
    511,
    512,
    513,
    4_096,
    65_536,
    65_537,
    i32::MAX as i64,
    1 << 31,
    1 << 32,
    1 << 53,
    i64::MAX - 511,
    i64::MAX,
    i64::MIN,
];

/// Options of nodes that have a number, by driver.
const OPTIONS: [(&str, &str); 17] = [
    ("qcow2", "cache-size"),
    ("qcow2", "l2-cache-size"),
    ("qcow2", "l2-cache-entry-size"),
    ("qcow2", "refcount-cache-size"),
    ("qcow2", "cache-clean-interval"),
    ("raw", "offset"),
    ("raw", "size"),
    ("null-co", "size"),
    ("null-co", "latency-ns"),
    ("blkdebug", "align"),
    ("blkdebug", "max-transfer"),
    ("blkdebug", "opt-write-zero"),
    ("blkdebug", "max-write-zero"),
    ("blkdebug", "opt-discard"),
    ("blkdebug", "max-discard"),
    ("copy-before-write", "min-cluster-size"),
    ("copy-before-write", "cbw-timeout"),
];

type Members = Vec<(&'static str, Json)>;

fn reference(name: &Arc<str>) -> Json {
    Json::Str(name.clone())
}

impl Shape {
    /// The controller, where a program is to have one.
    pub(super) fn controller(&mut self) {
        self.args.extend(["-device".into(), CONTROLLER.into()]);
    }

    /// The format of a drive and the file below it, if it has one.
    fn image_of(&self, drive: usize) -> Option<(&'static str, Arc<str>)> {
        let name = |format: &str| format!("d{drive}.{format}");
        self.files.iter().find_map(|op| match op {
            FileOp::Create { file, .. } if **file == name("qcow2") => Some(("qcow2", file.clone())),
            FileOp::Create { file, .. } if **file == name("raw") => Some(("raw", file.clone())),
            _ => None,
        })
    }
}

impl Program<'_> {
    /// Whether the next command is one of these.
    pub(super) fn turns_odd(&mut self) -> bool {
        let n = self.knobs.odd_in_ten;
        n > 0 && self.odd.below(10) < n as usize
    }

    pub(super) fn next_odd(&mut self) {
        let plug = if self.shape.drives.is_empty() { 0 } else { 3 };
        match self.odd.weighted(&[(plug, 0), (1, 1), (3, 2), (3, 3), (2, 4), (2, 5), (2, 6)]) {
            0 => self.plug(),
            1 => self.command("system_reset", vec![]),
            2 => self.reopen(),
            3 => self.odd_number(),
            4 => self.empty(),
            5 => self.large_cluster(),
            _ => self.always_fails(),
        }
        self.settle();
    }

    /// A disk on a drive comes, or goes.
    fn plug(&mut self) {
        let drive = self.odd.below(self.shape.drives.len());
        let id: Arc<str> = format!("hd{drive}").into();
        if let Some(at) = self.plugged.iter().position(|plugged| *plugged == drive) {
            // QEMU aborts where the disk of a `-drive` goes while a job of that drive waits to be finalized.
            let waits = self.jobs.iter().any(|job| job.lingers && !job.over);
            if self.knobs.crashes || !(self.shape.drives[drive].is_device && waits) {
                self.plugged.remove(at);
                self.command("device_del", vec![("id", Json::Str(id))]);
                // It is gone some milliseconds later.
                self.steps.push(StepKind::Idle);
            }
            return;
        }
        self.plugged.push(drive);
        let name = reference(&self.shape.drives[drive].name);
        let mut arguments = vec![("driver", "scsi-hd".into()), ("id", Json::Str(id)), ("drive", name)];
        if self.odd.one_in(4) {
            arguments.push(("share-rw", true.into()));
        }
        self.command("device_add", arguments);
    }

    /// `blockdev-reopen` of a drive, some options changed.
    fn reopen(&mut self) {
        let drive = self.odd.below(self.shape.drives.len());
        let Some((format, file)) = self.shape.image_of(drive) else { return };
        let of = &self.shape.drives[drive];
        let mut below: Members = vec![("driver", "file".into()), ("filename", Json::Str(file))];
        let mut options: Members = vec![("driver", format.into()), ("node-name", reference(&of.node))];
        let debug = of.debug.clone();
        for _ in 0..self.odd.below(3) {
            let (key, value) = self.general_option();
            if !below.iter().any(|(known, _)| *known == key) {
                below.push((key, value));
            }
        }
        options.push(("file", debug.map_or_else(|| Json::dict(below), Json::Str)));
        for _ in 0..self.odd.below(4) {
            let (key, value) = match (self.odd.one_in(2), format) {
                (true, "qcow2") => self.odd.pick(&[
                    ("lazy-refcounts", Json::Bool(true)),
                    ("lazy-refcounts", Json::Bool(false)),
                    ("cache-size", Json::uint(MIB)),
                    ("l2-cache-entry-size", Json::uint(4 * KIB)),
                    ("backing", Json::Null),
                    ("pass-discard-request", Json::Bool(true)),
                ]),
                (true, _) => self.odd.pick(&[("offset", Json::uint(512)), ("size", Json::uint(64 * KIB))]),
                (false, _) => self.general_option(),
            };
            if !options.iter().any(|(known, _)| *known == key) {
                options.push((key, value));
            }
        }
        let list = Json::list(vec![Json::dict(options)]);
        self.command("blockdev-reopen", vec![("options", list)]);
    }

    /// An option that all nodes have.
    fn general_option(&mut self) -> (&'static str, Json) {
        let direct = |on: bool| Json::dict(vec![("direct", on.into())]);
        let no_flush = |on: bool| Json::dict(vec![("no-flush", on.into())]);
        self.odd.pick(&[
            ("read-only", Json::Bool(true)),
            ("read-only", Json::Bool(false)),
            ("auto-read-only", Json::Bool(true)),
            ("discard", "unmap".into()),
            ("discard", "ignore".into()),
            ("detect-zeroes", "on".into()),
            ("detect-zeroes", "off".into()),
            ("detect-zeroes", "unmap".into()),
            ("cache", direct(false)),
            ("cache", no_flush(true)),
            ("force-share", Json::Bool(false)),
        ])
    }

    /// An image that no command so far has named.
    fn spare(&mut self) -> (Arc<str>, &'static str) {
        let drive = self.odd.below(self.shape.drives.len());
        let spare = self.shape.drives[drive].spare.clone();
        self.odd.pick(&spare)
    }

    /// A node with a number at the end of a range, and away with it; or a group, or a limit.
    fn odd_number(&mut self) {
        let number = match self.odd.one_in(6) {
            true => self.odd.pick(&["1".into(), true.into(), Json::Null, Json::uint(1 << 63), Json::uint(u64::MAX)]),
            false => Json::Int(self.odd.pick(&NUMBERS)),
        };
        if self.odd.one_in(6) {
            let name = self.odd.pick(&["bps-total", "iops-read", "iops-total-max", "bps-write-max-length"]);
            let limits = Json::dict(vec![(name, number)]);
            let group = vec![("qom-type", "throttle-group".into()), ("id", "odd".into()), ("limits", limits)];
            self.command("object-add", group);
            return self.command("object-del", vec![("id", "odd".into())]);
        }
        let (driver, option) = self.odd.pick(&OPTIONS);
        let below_zero = number.as_u64().is_none();
        if driver == "null-co" && option == "size" && below_zero && !self.knobs.crashes {
            return;
        }
        let (file, format) = self.spare();
        let host = Json::dict(vec![("driver", "file".into()), ("filename", Json::Str(file))]);
        let drive = self.odd.below(self.shape.drives.len());
        let node = reference(&self.shape.drives[drive].node);
        let mut options: Members = vec![("driver", driver.into()), ("node-name", "odd".into())];
        match driver {
            "null-co" => options.push(("read-zeroes", true.into())),
            "blkdebug" => options.push(("image", host)),
            "copy-before-write" => {
                let target = vec![("driver", format.into()), ("file", host)];
                options.extend([("file", node), ("target", Json::dict(target))]);
            }
            _ => options.push(("file", host)),
        }
        options.push((option, number));
        self.command("blockdev-add", options);
        self.command("query-named-block-nodes", vec![("flat", true.into())]);
        self.command("blockdev-del", vec![("node-name", "odd".into())]);
    }

    /// An empty list or object where QEMU wants something.
    fn empty(&mut self) {
        let (file, format) = self.spare();
        let drive = self.odd.below(self.shape.drives.len());
        let of = self.shape.drives[drive].clone();
        let nothing = Json::empty;
        let host = |extra: Option<(&'static str, Json)>| {
            let mut members = vec![("driver", "file".into()), ("filename", Json::Str(file.clone()))];
            members.extend(extra);
            Json::dict(members)
        };
        let node = |more: Members| {
            let mut members = vec![("driver", format.into()), ("node-name", "odd".into())];
            members.extend(more);
            members
        };
        let list = || Json::list(vec![]);
        let kinds = if self.knobs.crashes { 13 } else { 11 };
        match self.odd.below(kinds) {
            0 => self.command("blockdev-add", node(vec![("file", nothing())])),
            1 => self.command("blockdev-add", node(vec![("file", list())])),
            2 => self.command("blockdev-add", node(vec![("file", host(None)), ("cache", nothing())])),
            3 => self.command("blockdev-add", node(vec![("file", host(Some(("cache", nothing()))))])),
            4 => {
                let rules = self.odd.pick(&["inject-error", "set-state", "take-child-perms"]);
                let below = vec![("driver", "blkdebug".into()), ("image", host(None)), (rules, list())];
                self.command("blockdev-add", node(vec![("file", Json::dict(below))]));
            }
            5 => self.command("transaction", vec![("actions", list())]),
            6 => self.command("transaction", vec![("actions", list()), ("properties", nothing())]),
            7 => {
                let target = vec![("device", Json::Str(of.name)), ("target", "nope".into()), ("sync", "full".into())];
                let perf = [("x-perf", nothing())];
                self.command("blockdev-backup", target.into_iter().chain(perf).collect());
            }
            8 => {
                let group = vec![("qom-type", "throttle-group".into()), ("id", "odd".into()), ("limits", nothing())];
                self.command("object-add", group);
                self.command("object-del", vec![("id", "odd".into())]);
            }
            9 => self.command("blockdev-add", vec![]),
            10 => {
                let options = vec![("driver", format.into()), ("node-name", Json::Str(of.node)), ("file", nothing())];
                self.command("blockdev-reopen", vec![("options", Json::list(vec![Json::dict(options)]))]);
            }
            11 => self.command("blockdev-reopen", vec![("options", list())]),
            _ => {
                let merge = vec![("node", Json::Str(of.node)), ("target", "b0".into()), ("bitmaps", list())];
                self.command("block-dirty-bitmap-merge", merge);
            }
        }
        self.command("blockdev-del", vec![("node-name", "odd".into())]);
    }

    /// A backup by clusters that are larger than those of its target.
    fn large_cluster(&mut self) {
        let (name, mut arguments) = self.backup();
        arguments.retain(|(key, _)| *key != "x-perf");
        let most = if self.knobs.crashes { 12 } else { 9 };
        let sizes = [0, 1, 3, 512, 4 * KIB, 64 * KIB, MIB, 64 * MIB, 128 * MIB, 256 * MIB, GIB, 4 * GIB];
        let size = sizes[self.odd.below(most)];
        arguments.push(("x-perf", Json::dict(vec![("min-cluster-size", Json::uint(size))])));
        self.command(name, arguments);
    }

    /// A backup of a source that fails whenever it is read, and its client tries again.
    fn always_fails(&mut self) {
        let drive = self.odd.below(self.shape.drives.len());
        let Some(target) = self.shape.targets.iter().position(|target| target.added && target.job.is_none()) else {
            return;
        };
        let size = Json::uint(self.shape.drives[drive].size);
        let null = vec![("driver", "null-co".into()), ("read-zeroes", true.into()), ("size", size)];
        let errno = Json::Int(self.odd.pick(&[5, 5, 28]));
        let failing = format!("failing{}", self.jobs.len());
        let policies = ["report", "stop", "enospc", "auto", "ignore"];
        let most = if self.knobs.crashes { 5 } else { 4 };
        let policy = policies[self.odd.below(most)];
        let mut rule = vec![("event", "none".into()), ("iotype", "read".into()), ("errno", errno)];
        if policy == "ignore" {
            // QEMU answers nobody then (`docs/findings/ignored-errors-starve-the-monitor.md`). Where the errors come a moment later, such a
            // job goes round until it is cancelled, and a client that waits for it to rest waits long.
            rule.push(("immediately", true.into()));
        }
        let node = vec![
            ("driver", "blkdebug".into()),
            ("node-name", Json::str(&failing)),
            ("image", Json::dict(null)),
            ("inject-error", Json::list(vec![Json::dict(rule)])),
        ];
        self.command("blockdev-add", node);
        let id: Arc<str> = format!("j{}", self.jobs.len()).into();
        let to = reference(&self.shape.targets[target].node);
        self.shape.targets[target].job = Some(self.jobs.len());
        self.jobs.push(Job { id: id.clone(), lingers: policy != "report", over: false, about: None });
        let backup: Members = vec![
            ("job-id", Json::Str(id.clone())),
            ("device", Json::str(&failing)),
            ("target", to),
            ("sync", "full".into()),
            ("on-source-error", policy.into()),
        ];
        self.command("blockdev-backup", backup);
        for _ in 0..self.odd.below(3) {
            self.settle();
            self.command("block-job-resume", vec![("device", Json::Str(id.clone()))]);
        }
    }
}
