//! Mirrors, commits and streams, snapshots in their midst, and what a client says to such jobs.

use super::program::{Call, Job, Program};
use super::shape::{Drive, Layer, waits};
use crate::base::Json;
use crate::base::units::{KIB, MIB};
use crate::scenario::plan::{Expect, Fails, StepKind};
use std::sync::Arc;

/// What a job makes of a drive's images.
#[derive(Clone, Debug)]
pub(super) struct ChainJob {
    pub drive: usize,
    pub kind: JobKind,
}

/// The three jobs.
#[derive(Clone, Debug)]
pub(super) enum JobKind {
    /// The target takes the place of the chain, or of its topmost image.
    Mirror { target: Layer, topmost: bool },
    /// The images from one file down to another, that one included, go. An active commit waits to be completed.
    Commit { first: Arc<str>, last: Arc<str>, active: bool },
    /// The images between two files go.
    Stream { above: Arc<str>, below: Option<Arc<str>> },
}

impl ChainJob {
    /// Whether it becomes ready, and waits to be completed.
    fn is_ready(&self) -> bool {
        matches!(self.kind, JobKind::Mirror { .. } | JobKind::Commit { active: true, .. })
    }

    /// What is left of the drive's images.
    pub(super) fn done(self, drives: &mut [Drive]) {
        let drive = &mut drives[self.drive];
        let at = |drive: &Drive, file: &Arc<str>| drive.layers.iter().position(|layer| layer.file == *file);
        match self.kind {
            JobKind::Mirror { target, topmost } => {
                drive.layers.drain(..if topmost { 1.min(drive.layers.len()) } else { drive.layers.len() });
                drive.layers.insert(0, target);
            }
            JobKind::Commit { first, last, .. } => {
                if let (Some(from), Some(to)) = (at(drive, &first), at(drive, &last)) {
                    drive.layers.drain(from..=to.max(from));
                }
            }
            JobKind::Stream { above, below } => {
                let to = below.map_or(Some(drive.layers.len()), |below| at(drive, &below));
                if let (Some(from), Some(to)) = (at(drive, &above), to) {
                    drive.layers.drain(from + 1..to.max(from + 1));
                }
            }
        }
        drive.uppermost();
    }
}

impl Drive {
    /// The uppermost image is what the guest has.
    fn uppermost(&mut self) {
        let Some(node) = self.layers.first().and_then(|layer| layer.node.clone()) else { return };
        if node != self.node {
            // Bitmaps stay where they are.
            self.bitmaps.clear();
            if !self.is_device {
                self.name = node.clone();
            }
            self.node = node;
        }
    }
}

const POLICIES: [&str; 5] = ["report", "ignore", "stop", "enospc", "auto"];

impl Program<'_> {
    /// A command about these jobs.
    pub(super) fn next_of_jobs(&mut self) {
        let ready = self.ready_jobs();
        let words = if ready.is_empty() { 1 } else { 8 };
        match self.chain.weighted(&[(4, 0), (3, 1), (4, 2), (2, 3), (words, 4), (1, 5), (1, 6)]) {
            0 => self.mirror(),
            1 => self.commit(),
            2 => self.stream(),
            3 => self.snapshot(),
            4 => self.word_to_a_ready_job(&ready),
            5 => self.chain_command(),
            _ => self.human_job(),
        }
    }

    /// Jobs that are believed to be ready.
    fn ready_jobs(&self) -> Vec<usize> {
        let ready = |job: &Job| !job.over && job.about.as_ref().is_some_and(ChainJob::is_ready);
        (0..self.jobs.len()).filter(|job| ready(&self.jobs[*job])).collect()
    }

    /// Whether there may be a stream that has ended and is not dismissed.
    pub(super) fn lingering_stream(&self) -> bool {
        let stream = |job: &Job| matches!(&job.about, Some(ChainJob { kind: JobKind::Stream { .. }, .. }));
        self.jobs.iter().any(|job| job.lingers && !job.over && stream(job))
    }

    /// A drive, mostly one with images below its own.
    fn chained_drive(&mut self) -> usize {
        let drives = self.shape.drives.len();
        let drive = self.chain.below(drives);
        (0..drives)
            .map(|more| (drive + more) % drives)
            .find(|drive| self.shape.drives[*drive].layers.len() > 1)
            .unwrap_or(drive)
    }

    /// The arguments that any of them has: a name, a speed, how it ends. Whether something is left to do by hand.
    fn common(&mut self, drive: usize, arguments: &mut Vec<(&'static str, Json)>) -> (Arc<str>, bool) {
        let of = &self.shape.drives[drive];
        let id: Arc<str> = if of.is_device && self.chain.one_in(8) {
            of.name.clone()
        } else {
            let id: Arc<str> = format!("j{}", self.jobs.len()).into();
            arguments.push(("job-id", Json::Str(id.clone())));
            id
        };
        let mut lingers = false;
        if self.chain.one_in(8) {
            arguments.push(("speed", Json::Int(1)));
            lingers = true;
        } else if !waits(self.knobs.kind) && self.chain.one_in(3) {
            arguments.push(("speed", Json::Int(self.chain.pick(&[65_536, 1 << 20, 64 << 20, 1 << 34]))));
        }
        for key in ["auto-finalize", "auto-dismiss"] {
            if self.chain.one_in(self.knobs.manual_one_in * 2) {
                arguments.push((key, false.into()));
                lingers = true;
            }
        }
        if self.chain.one_in(5) {
            arguments.push(("filter-node-name", format!("filter{}", self.jobs.len()).into()));
        }
        (id, lingers)
    }

    /// What to do on errors, in each of these members; whether the job may stop.
    fn policies(&mut self, keys: &[&'static str], arguments: &mut Vec<(&'static str, Json)>) -> bool {
        let mut stops = false;
        for key in keys {
            if self.chain.one_in(4) {
                let policy = match self.chain.pick(&POLICIES) {
                    "ignore" if self.shape.faults_stay => "report",
                    policy => policy,
                };
                stops |= policy != "report" && self.knobs.faulty_drive_one_in > 0;
                arguments.push((key, policy.into()));
            }
        }
        stops
    }

    fn started(&mut self, command: &'static str, arguments: Vec<(&'static str, Json)>, job: Job) {
        let by_hand = arguments.iter().any(|(key, value)| *key == "auto-finalize" && value.as_bool() == Some(false));
        if let Some(about) = job.about.as_ref().filter(|about| by_hand && about.is_ready()) {
            self.held.push(about.drive);
        }
        self.jobs.push(job);
        self.command(command, arguments);
        self.settle();
    }

    fn mirror(&mut self) {
        let drive = self.chain.below(self.shape.drives.len());
        let mut arguments = Vec::new();
        let (id, _) = self.common(drive, &mut arguments);
        let of = self.shape.drives[drive].clone();
        let device = if self.chain.one_in(6) { of.node.clone() } else { of.name.clone() };
        arguments.push(("device", Json::Str(device)));
        let sync = self.chain.pick(&["full", "full", "full", "top", "top", "none"]);
        arguments.push(("sync", sync.into()));
        let target = if self.chain.one_in(3) { None } else { self.free_target(drive) };
        let (command, layer, topmost) = match target {
            Some(number) => {
                let node = self.shape.targets[number].node.clone();
                arguments.push(("target", Json::Str(node.clone())));
                self.shape.targets[number].job = Some(self.jobs.len());
                ("blockdev-mirror", Layer { node: Some(node.clone()), file: node, format: "qcow2" }, false)
            }
            None => {
                // The filter of a `drive-mirror` has no name of its own.
                arguments.retain(|(key, _)| *key != "filter-node-name");
                let layer = self.mirror_file(drive, &mut arguments);
                ("drive-mirror", layer, sync == "top")
            }
        };
        if self.chain.one_in(3) {
            let mode = self.chain.pick(&["write-blocking", "write-blocking", "background"]);
            arguments.push(("copy-mode", mode.into()));
        }
        if self.chain.one_in(4) {
            let granularity = self.chain.pick(&[512, 4 * KIB, 65_536, 131_072, MIB]);
            arguments.push(("granularity", Json::uint(granularity)));
        }
        if self.chain.one_in(5) {
            let size = self.chain.pick(&[1, 65_536, 131_072, MIB, 4 * MIB, 0]);
            arguments.push(("buf-size", Json::uint(size)));
        }
        if self.chain.one_in(12) {
            let replaced = self.chain.pick(&[of.node.clone(), layer.file.clone()]);
            arguments.push(("replaces", Json::Str(replaced)));
        }
        self.policies(&["on-source-error", "on-target-error"], &mut arguments);
        let about = Some(ChainJob { drive, kind: JobKind::Mirror { target: layer, topmost } });
        self.started(command, arguments, Job { id, lingers: true, over: false, about });
    }

    /// A target that `drive-mirror` names by its file.
    fn mirror_file(&mut self, drive: usize, arguments: &mut Vec<(&'static str, Json)>) -> Layer {
        let mut layer = if self.chain.one_in(4) {
            let (file, format) = self.chain.pick(&self.shape.drives[drive].spare);
            arguments.push(("mode", "existing".into()));
            arguments.push(("format", format.into()));
            Layer { node: None, file, format }
        } else {
            let format = self.chain.weighted(&[(4, Some("qcow2")), (1, Some("raw")), (2, None)]);
            let file: Arc<str> = format!("m{}.{}", self.names, format.unwrap_or("img")).into();
            self.names += 1;
            arguments.extend(format.map(|format| ("format", format.into())));
            Layer { node: None, file, format: format.unwrap_or("qcow2") }
        };
        arguments.push(("target", Json::Str(layer.file.clone())));
        if !self.chain.one_in(3) {
            let node: Arc<str> = format!("m{}", self.names).into();
            self.names += 1;
            arguments.push(("node-name", Json::Str(node.clone())));
            layer.node = Some(node);
        }
        if self.chain.one_in(6) {
            arguments.push(("unmap", self.chain.one_in(2).into()));
        }
        layer
    }

    fn commit(&mut self) {
        let drive = self.chained_drive();
        let mut arguments = Vec::new();
        let (id, mut lingers) = self.common(drive, &mut arguments);
        let of = self.shape.drives[drive].clone();
        let device = if self.chain.one_in(6) { of.node.clone() } else { of.name.clone() };
        arguments.push(("device", Json::Str(device)));
        let lowest = of.layers.len().saturating_sub(1);
        let top = if self.chain.one_in(2) { 0 } else { self.chain.below(lowest.max(1)) };
        let base = self.chain.range(top + usize::from(top < lowest), lowest.max(top));
        let whole = self.chain.one_in(4);
        if (top > 0 || self.chain.one_in(4)) && top < of.layers.len() {
            self.named(&of.layers[top], "top-node", "top", &mut arguments);
        }
        let base = if whole { lowest } else { base };
        if !whole && base < of.layers.len() {
            self.named(&of.layers[base], "base-node", "base", &mut arguments);
        }
        self.header(&of, &mut arguments);
        lingers |= self.policies(&["on-error"], &mut arguments);
        let active = top == 0;
        let file = |at: usize| of.layers.get(at).map_or_else(|| "none".into(), |layer| layer.file.clone());
        let kind = JobKind::Commit { first: file(top), last: file(base.saturating_sub(1)), active };
        let about = Some(ChainJob { drive, kind });
        self.started("block-commit", arguments, Job { id, lingers: lingers || active, over: false, about });
    }

    /// A layer by its node or by its file.
    fn named(
        &mut self,
        layer: &Layer,
        node_key: &'static str,
        file_key: &'static str,
        arguments: &mut Vec<(&'static str, Json)>,
    ) {
        match &layer.node {
            Some(node) if !self.chain.one_in(4) => arguments.push((node_key, Json::Str(node.clone()))),
            _ => arguments.push((file_key, Json::Str(layer.file.clone()))),
        }
    }

    /// What is to stand in an image's header afterwards.
    fn header(&mut self, of: &Drive, arguments: &mut Vec<(&'static str, Json)>) {
        if self.chain.one_in(6) && !of.layers.is_empty() {
            let file = self.chain.pick(&of.layers).file;
            arguments.push(("backing-file", Json::Str(file)));
        }
        if self.chain.one_in(10) {
            arguments.push(("backing-mask-protocol", true.into()));
        }
    }

    fn stream(&mut self) {
        let drive = self.chained_drive();
        let mut arguments = Vec::new();
        let (id, mut lingers) = self.common(drive, &mut arguments);
        let of = self.shape.drives[drive].clone();
        // Mostly the guest's own image; now and then one below it.
        let above = if self.chain.one_in(3) { self.chain.below(of.layers.len().saturating_sub(1).max(1)) } else { 0 };
        let node = of.layers.get(above).and_then(|layer| layer.node.clone());
        let device = match node {
            Some(node) if above > 0 => node,
            _ if self.chain.one_in(6) => of.node.clone(),
            _ => of.name.clone(),
        };
        arguments.push(("device", Json::Str(device)));
        let mut below = None;
        if above + 1 < of.layers.len() && !self.chain.one_in(3) {
            let at = self.chain.range(above + 1, of.layers.len() - 1);
            if self.chain.one_in(3) {
                if let Some(node) = &of.layers[at].node {
                    arguments.push(("bottom", Json::Str(node.clone())));
                }
                below = of.layers.get(at + 1).map(|layer| layer.file.clone());
            } else {
                self.named(&of.layers[at], "base-node", "base", &mut arguments);
                below = Some(of.layers[at].file.clone());
            }
            self.header(&of, &mut arguments);
        }
        lingers |= self.policies(&["on-error"], &mut arguments);
        let file = of.layers.get(above).map_or_else(|| "none".into(), |layer| layer.file.clone());
        let about = Some(ChainJob { drive, kind: JobKind::Stream { above: file, below } });
        self.started("block-stream", arguments, Job { id, lingers, over: false, about });
    }

    /// A new image on top, whatever runs.
    fn snapshot(&mut self) {
        let drive = self.chain.below(self.shape.drives.len());
        let (name, arguments) = self.overlay(drive);
        if self.chain.one_in(3) {
            let mut actions = vec![(name, arguments)];
            if self.chain.one_in(2) {
                let call = self.add_bitmap(drive);
                actions.insert(self.chain.below(2), call);
            }
            if self.chain.one_in(8) {
                actions.push(("abort", vec![]));
            }
            let action = |(name, data): Call| Json::dict(vec![("type", name.into()), ("data", Json::dict(data))]);
            let actions = Json::list(actions.into_iter().map(action).collect());
            self.push("transaction", Json::dict(vec![("actions", actions)]));
        } else {
            self.command(name, arguments);
        }
        self.settle();
    }

    fn overlay(&mut self, drive: usize) -> Call {
        let (file, node): (Arc<str>, Arc<str>) =
            (format!("s{}.qcow2", self.names).into(), format!("s{}", self.names).into());
        self.names += 1;
        let of = &mut self.shape.drives[drive];
        let device = if of.is_device && !self.chain.one_in(4) {
            ("device", Json::Str(of.name.clone()))
        } else {
            ("node-name", Json::Str(of.node.clone()))
        };
        let named = !self.chain.one_in(4);
        let layer = Layer { node: named.then(|| node.clone()), file: file.clone(), format: "qcow2" };
        of.layers.insert(0, layer);
        if named {
            of.uppermost();
        }
        let mut arguments = vec![device, ("snapshot-file", Json::Str(file)), ("format", "qcow2".into())];
        if named {
            arguments.push(("snapshot-node-name", Json::Str(node)));
        }
        ("blockdev-snapshot-sync", arguments)
    }

    /// `complete`, a soft cancel, another mode.
    fn word_to_a_ready_job(&mut self, ready: &[usize]) {
        let job = if ready.is_empty() { self.jobs.len().wrapping_sub(1) } else { self.chain.pick(ready) };
        let id: Arc<str> = self.jobs.get(job).map_or_else(|| "none".into(), |job| job.id.clone());
        let device = ("device", Json::Str(id.clone()));
        match self.chain.weighted(&[(6, 0), (2, 1), (2, 2), (1, 3)]) {
            0 => {
                let of_block = self.chain.one_in(2);
                match of_block {
                    true => self.command("block-job-complete", vec![device]),
                    false => self.command("job-complete", vec![("id", Json::Str(id))]),
                }
                if ready.contains(&job) && waits(self.knobs.kind) {
                    self.over(job);
                }
            }
            1 => {
                let mut arguments = vec![device];
                if self.chain.one_in(3) {
                    arguments.push(("force", true.into()));
                }
                self.command("block-job-cancel", arguments);
            }
            2 => {
                let kind = self.chain.pick(&["mirror", "mirror", "mirror", "commit", "backup"]);
                let mut arguments = vec![("id", Json::Str(id)), ("type", kind.into())];
                if kind == "mirror" {
                    let mode = self.chain.pick(&["write-blocking", "write-blocking", "background"]);
                    arguments.push(("copy-mode", mode.into()));
                }
                self.command("block-job-change", arguments);
            }
            _ => self.command("block-job-pause", vec![device]),
        }
        self.settle();
    }

    /// A command that finds the links of a chain frozen, or changes one.
    fn chain_command(&mut self) {
        let drive = self.chained_drive();
        let of = self.shape.drives[drive].clone();
        let names: Vec<Arc<str>> = of.layers.iter().filter_map(|layer| layer.node.clone()).collect();
        match self.chain.below(4) {
            0 if !names.is_empty() => {
                let node = self.chain.pick(&names);
                self.command("blockdev-del", vec![("node-name", Json::Str(node))]);
            }
            1 if !names.is_empty() => {
                let (device, node) = (Json::Str(of.name.clone()), Json::Str(self.chain.pick(&names)));
                let file = Json::Str(self.chain.pick(&of.layers).file);
                let arguments = vec![("device", device), ("image-node-name", node), ("backing-file", file)];
                self.command("change-backing-file", arguments);
            }
            2 => self.command("query-blockstats", vec![("query-nodes", true.into())]),
            _ => self.command("x-debug-query-block-graph", vec![]),
        }
    }

    /// A job from the human monitor, or a word to one.
    fn human_job(&mut self) {
        let drive = self.chained_drive();
        let of = self.shape.drives[drive].clone();
        let (name, last) = (of.name.clone(), of.layers.last().map(|layer| layer.file.clone()));
        let job = match self.jobs.is_empty() {
            true => "none".into(),
            false => self.jobs[self.chain.below(self.jobs.len())].id.clone(),
        };
        let line = match self.chain.below(8) {
            0 => format!("commit {name}"),
            1 => format!("block_stream {name}"),
            2 => format!("block_stream {name} 0 {}", last.unwrap_or_else(|| "none".into())),
            3 => {
                self.names += 1;
                let full = self.chain.pick(&["", "-f "]);
                format!("drive_mirror {full}{name} h{}.qcow2 qcow2", self.names)
            }
            4 => format!("block_job_complete {job}"),
            5 => format!("block_job_cancel {}{job}", self.chain.pick(&["", "-f "])),
            6 => format!("block_job_set_speed {job} 0"),
            _ => "info block-jobs".to_owned(),
        };
        if line.starts_with("block_stream") || line.starts_with("drive_mirror") {
            self.jobs.push(Job { id: name, lingers: true, over: false, about: None });
        }
        self.steps.push(StepKind::Hmp { line: line.into(), output: None, returns: None, fails: Fails::Any });
        self.settle();
    }

    /// Where jobs may be ready at the end, some are completed.
    pub(super) fn last_words(&mut self, left: &[Arc<str>]) {
        if self.knobs.jobs_in_ten == 0 {
            return;
        }
        for id in left {
            if self.chain.one_in(2) {
                let command = Json::dict(vec![
                    ("execute", "job-complete".into()),
                    ("arguments", Json::dict(vec![("id", Json::Str(id.clone()))])),
                ]);
                self.steps.push(StepKind::Qmp { command, expect: Expect::Any });
            }
        }
        self.steps.push(StepKind::Idle);
    }
}
