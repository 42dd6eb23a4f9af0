//! The program: which command comes next.

use super::draw::{Draw, Part};
use super::knobs::Knobs;
use super::shape::{Shape, waits};
use crate::base::Json;
use crate::base::time::Span;
use crate::scenario::plan::{Expect, StepKind};
use std::sync::Arc;

/// A job that was started, or so the program believes.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub id: Arc<str>,
    /// It does not end by itself, or waits to be finalised or dismissed.
    pub lingers: bool,
    /// It is believed to be gone.
    pub over: bool,
    /// What it does to the images of a drive, if it succeeds; `None` for a backup.
    pub about: Option<super::jobs::ChainJob>,
}

/// A program that is being written.
pub(super) struct Program<'a> {
    pub knobs: &'a Knobs,
    pub shape: Shape,
    pub order: Draw,
    pub arguments: Draw,
    pub wrong: Draw,
    pub chain: Draw,
    pub odd: Draw,
    pub steps: Vec<StepKind>,
    /// Drives of which a job may stay drained until it is finalised: a request of the guest would wait for that, and with it the monitor.
    pub held: Vec<usize>,
    pub jobs: Vec<Job>,
    /// How many names were made up so far.
    pub names: usize,
    /// The drive and the bitmap of the last action, within a transaction.
    pub last_bitmap: Option<(usize, Arc<str>)>,
    /// Bitmaps that the transaction being written adds.
    pub fresh: Vec<(usize, Arc<str>)>,
    /// Drives that the transaction being written backs up.
    pub backed_up: Vec<usize>,
    pub in_transaction: bool,
    /// Drives that a disk of the machine stands on.
    pub plugged: Vec<usize>,
}

/// A command or action: its name and its arguments.
pub(super) type Call = (&'static str, Vec<(&'static str, Json)>);

impl<'a> Program<'a> {
    pub(super) fn new(knobs: &'a Knobs, shape: Shape, seed: u64) -> Program<'a> {
        Program {
            knobs,
            shape,
            order: Draw::new(seed, Part::Program),
            arguments: Draw::new(seed, Part::Arguments),
            wrong: Draw::new(seed, Part::Wrong),
            chain: Draw::new(seed, Part::Jobs),
            odd: Draw::new(seed, Part::Odd),
            steps: Vec::new(),
            held: Vec::new(),
            jobs: Vec::new(),
            names: 0,
            last_bitmap: None,
            fresh: Vec::new(),
            backed_up: Vec::new(),
            in_transaction: false,
            plugged: Vec::new(),
        }
    }

    /// Writes it.
    pub(super) fn write(mut self) -> Vec<StepKind> {
        for options in std::mem::take(&mut self.shape.first) {
            self.push("blockdev-add", options);
        }
        for drive in 0..self.shape.drives.len() {
            for _ in 0..self.knobs.bitmaps_per_drive {
                let (name, arguments) = self.add_bitmap(drive);
                self.push(name, Json::dict(arguments));
            }
        }
        self.steps.push(StepKind::Mark("start".into()));
        for _ in 0..self.knobs.commands {
            if self.knobs.jobs_in_ten > self.chain_draw(10) { self.next_of_jobs() } else { self.next() }
        }
        if !self.chain.one_in(self.knobs.ends_at_once_one_in) {
            self.finale();
        }
        self.steps
    }

    /// Sends a command whose arguments may be spoilt first.
    pub(super) fn command(&mut self, name: &'static str, arguments: Vec<(&'static str, Json)>) {
        self.command_of(name, Json::dict(arguments));
    }

    /// The same for arguments that are an object already.
    pub(super) fn command_of(&mut self, name: &'static str, arguments: Json) {
        let arguments = self.spoilt(name, arguments);
        self.push(name, arguments);
    }

    /// A number of the part about chains, where the program has one.
    fn chain_draw(&mut self, among: usize) -> u32 {
        if self.knobs.jobs_in_ten == 0 { 0 } else { u32::try_from(self.chain.below(among)).unwrap_or(0) }
    }

    pub(super) fn push(&mut self, name: &str, arguments: Json) {
        let mut command = vec![("execute", name.into())];
        if arguments != Json::empty() {
            command.push(("arguments", arguments));
        }
        self.steps.push(StepKind::Qmp { command: Json::dict(command), expect: Expect::Any });
    }

    fn next(&mut self) {
        if self.turns_odd() {
            return self.next_odd();
        }
        let k = self.knobs;
        let verbs = if self.jobs.iter().any(|job| !job.over) { k.weight_verb * 3 } else { k.weight_verb.min(1) };
        match self.order.weighted(&[
            (k.weight_guest, 0),
            (k.weight_bitmap, 1),
            (k.weight_backup, 2),
            (k.weight_transaction, 3),
            (verbs, 4),
            (k.weight_query, 5),
            (k.weight_node, 6),
            (k.weight_resize, 7),
            (k.weight_wait, 8),
        ]) {
            0 => self.guest(),
            1 => {
                let (name, arguments) = self.bitmap();
                self.command(name, arguments);
            }
            2 => {
                let (name, arguments) = self.backup();
                self.command(name, arguments);
                self.settle();
            }
            3 => self.transaction(),
            4 => self.verb(),
            5 => self.query(),
            6 => self.node(),
            7 => self.resize(),
            _ => self.wait(),
        }
    }

    /// Waits, where the client is one that does, until what was started has ended or lingers.
    pub(super) fn settle(&mut self) {
        if waits(self.knobs.kind) {
            self.steps.push(StepKind::Idle);
            self.ended();
        }
    }

    /// Jobs that do not linger are over now.
    fn ended(&mut self) {
        for job in 0..self.jobs.len() {
            if !self.jobs[job].lingers && !self.jobs[job].over {
                self.over(job);
            }
        }
        let jobs = &self.jobs;
        for target in &mut self.shape.targets {
            target.job = target.job.filter(|job| jobs.get(*job).is_some_and(|job| !job.over));
        }
    }

    fn wait(&mut self) {
        if waits(self.knobs.kind) || self.order.one_in(3) {
            self.steps.push(StepKind::Idle);
            self.ended();
        } else {
            let micros = self.order.pick(&[20, 100, 300, 1_000, 5_000, 100_000]);
            self.steps.push(StepKind::Sleep(Span::from_micros(micros)));
        }
    }

    /// A bitmap command, or the action of the same name.
    pub(super) fn bitmap(&mut self) -> Call {
        let drive = match &self.last_bitmap {
            Some((drive, _)) if self.arguments.one_in(self.knobs.chained_one_in) => *drive,
            _ => self.arguments.below(self.shape.drives.len()),
        };
        if self.shape.drives[drive].bitmaps.is_empty() || self.arguments.one_in(4) {
            return self.add_bitmap(drive);
        }
        let name = match &self.last_bitmap {
            Some((of, name)) if *of == drive && self.arguments.one_in(self.knobs.chained_one_in) => name.clone(),
            _ => self.arguments.pick(&self.shape.drives[drive].bitmaps),
        };
        self.last_bitmap = self.in_transaction.then(|| (drive, name.clone()));
        // An `enable` that finds no bitmap makes QEMU's transaction crash.
        let enable = if self.knobs.crashes || !self.in_transaction { 2 } else { 0 };
        let command = self.arguments.weighted(&[
            (4, "block-dirty-bitmap-clear"),
            (enable, "block-dirty-bitmap-enable"),
            (2, "block-dirty-bitmap-disable"),
            (4, "block-dirty-bitmap-merge"),
            (1, "block-dirty-bitmap-remove"),
        ]);
        let node = self.node_of(drive);
        if command == "block-dirty-bitmap-merge" {
            return (command, vec![("node", node), ("target", Json::Str(name)), ("bitmaps", self.merged(drive))]);
        }
        if command == "block-dirty-bitmap-remove" {
            self.shape.drives[drive].bitmaps.retain(|bitmap| *bitmap != name);
        }
        (command, vec![("node", node), ("name", Json::Str(name))])
    }

    /// What a bitmap command calls a drive: mostly its node, as a device may stand for a job's filter.
    fn node_of(&mut self, drive: usize) -> Json {
        let drive = &self.shape.drives[drive];
        Json::Str(if self.arguments.one_in(6) { drive.name.clone() } else { drive.node.clone() })
    }

    /// The sources of a merge.
    fn merged(&mut self, drive: usize) -> Json {
        let least = usize::from(!(self.knobs.crashes && self.arguments.one_in(24)));
        let sources = self.arguments.range(least, 2);
        let mut list = Vec::new();
        for _ in 0..sources {
            let from = if self.arguments.one_in(3) { self.arguments.below(self.shape.drives.len()) } else { drive };
            let of = &self.shape.drives[from];
            if of.bitmaps.is_empty() {
                continue;
            }
            let name = Json::Str(self.arguments.pick(&of.bitmaps));
            let node = Json::Str(of.node.clone());
            list.push(if from == drive { name } else { Json::dict(vec![("node", node), ("name", name)]) });
        }
        if list.is_empty() && least > 0 {
            list.push(Json::Str(self.shape.drives[drive].bitmaps[0].clone()));
        }
        Json::list(list)
    }

    pub(super) fn add_bitmap(&mut self, drive: usize) -> Call {
        let name: Arc<str> = format!("b{}", self.names).into();
        self.names += 1;
        let mut arguments = vec![("node", self.node_of(drive)), ("name", Json::Str(name.clone()))];
        if self.arguments.one_in(2) {
            let granularity = self.arguments.pick(&[512, 4_096, 32_768, 65_536, 131_072, 1_048_576]);
            arguments.push(("granularity", Json::uint(granularity)));
        }
        if self.shape.drives[drive].stores_bitmaps && self.arguments.one_in(3) {
            arguments.push(("persistent", true.into()));
        }
        if self.arguments.one_in(8) {
            arguments.push(("disabled", true.into()));
        }
        self.shape.drives[drive].bitmaps.push(name.clone());
        if self.in_transaction {
            self.fresh.push((drive, name.clone()));
            self.last_bitmap = Some((drive, name));
        }
        ("block-dirty-bitmap-add", arguments)
    }

    /// Several actions that happen together or not at all.
    fn transaction(&mut self) {
        let count = self.arguments.range(1, self.knobs.actions.max(1));
        let known = self.shape.drives.iter().map(|drive| drive.bitmaps.clone()).collect::<Vec<_>>();
        self.in_transaction = true;
        let (mut actions, mut aborts) = (Vec::new(), false);
        let mode = self.arguments.pick(&[None, Some("individual"), Some("grouped"), Some("grouped")]);
        // A grouped transaction takes backups alone, and is refused at once if it has anything else.
        let only_backups = mode == Some("grouped") && !self.wrong.one_in(self.knobs.wrong_one_in);
        let bitmaps = if only_backups { 0 } else { 5 };
        let weight = if self.order.one_in(4) && !only_backups { 1 } else { 6 };
        for _ in 0..count {
            // QEMU aborts, or hangs, over two backups of one drive by one transaction.
            let backups = if self.backed_up.len() < self.shape.drives.len() { weight } else { 0 };
            if bitmaps + backups == 0 {
                break;
            }
            let (name, arguments) = match self.order.weighted(&[(bitmaps, 0), (backups, 1)]) {
                _ if !only_backups && self.arguments.one_in(self.knobs.abort_one_in) => {
                    aborts = true;
                    ("abort", vec![])
                }
                0 => self.bitmap(),
                _ => self.backup(),
            };
            let data = self.spoilt(name, Json::dict(arguments));
            actions.push(Json::dict(vec![("type", name.into()), ("data", data)]));
        }
        // QEMU hangs when two grouped backups are undone before they are started.
        let hangs = self.backed_up.len() > 1 && mode == Some("grouped");
        if self.arguments.one_in(self.knobs.failing_tail_one_in) && (self.knobs.crashes || !hangs) {
            let (name, arguments) = self.failing_action(only_backups);
            actions.push(Json::dict(vec![("type", name.into()), ("data", Json::dict(arguments))]));
            aborts = true;
        }
        self.in_transaction = false;
        (self.last_bitmap, self.fresh, self.backed_up) = (None, Vec::new(), Vec::new());
        if aborts {
            for (drive, bitmaps) in self.shape.drives.iter_mut().zip(known) {
                drive.bitmaps = bitmaps;
            }
        }
        let mut arguments = vec![("actions", Json::list(actions))];
        if let Some(mode) = mode {
            arguments.push(("properties", Json::dict(vec![("completion-mode", mode.into())])));
        }
        self.push("transaction", Json::dict(arguments));
        self.settle();
    }

    /// An action that fails, whatever there is: those before it have to be undone.
    fn failing_action(&mut self, only_backups: bool) -> Call {
        let node = |of: &super::shape::Drive| ("node", Json::Str(of.node.clone()));
        let drive = self.arguments.below(self.shape.drives.len());
        let drive = &self.shape.drives[drive];
        match if only_backups { 4 } else { self.arguments.weighted(&[(3, 0), (1, 1), (1, 2), (1, 3), (1, 4)]) } {
            1 if !drive.bitmaps.is_empty() => {
                let name = drive.bitmaps[0].clone();
                ("block-dirty-bitmap-add", vec![node(drive), ("name", Json::Str(name))])
            }
            2 => ("block-dirty-bitmap-clear", vec![node(drive), ("name", "nope".into())]),
            3 => ("block-dirty-bitmap-disable", vec![node(drive), ("name", "nope".into())]),
            4 => {
                let nowhere = vec![("device", "nope".into()), ("target", "nope".into()), ("sync", "full".into())];
                ("blockdev-backup", nowhere)
            }
            _ => ("abort", vec![]),
        }
    }

    /// A word to a job.
    fn verb(&mut self) {
        let alive: Vec<usize> = (0..self.jobs.len()).filter(|job| !self.jobs[*job].over).collect();
        // Where no job is alive, one that is gone gets an answer too.
        let job = if alive.is_empty() { self.jobs.len().wrapping_sub(1) } else { self.arguments.pick(&alive) };
        let id: Arc<str> = self.jobs.get(job).map_or_else(|| "none".into(), |job| job.id.clone());
        let both = |id: &Arc<str>, of_block: bool| {
            if of_block { ("device", Json::Str(id.clone())) } else { ("id", Json::Str(id.clone())) }
        };
        let of_block = self.arguments.one_in(2);
        let word = |of_block, block, job| if of_block { block } else { job };
        let arguments = vec![both(&id, of_block)];
        match self.arguments.weighted(&[(4, 0), (4, 1), (4, 2), (3, 3), (3, 4), (2, 5), (1, 6)]) {
            0 => self.command(word(of_block, "block-job-pause", "job-pause"), arguments),
            1 => self.command(word(of_block, "block-job-resume", "job-resume"), arguments),
            2 if of_block => {
                let mut arguments = arguments;
                if self.arguments.one_in(2) {
                    arguments.push(("force", self.arguments.one_in(2).into()));
                }
                self.command("block-job-cancel", arguments);
            }
            2 => self.command("job-cancel", arguments),
            3 => {
                let speed = self.arguments.pick(&[0, 0, 1, 65_536, 1 << 30]);
                self.command("block-job-set-speed", vec![both(&id, true), ("speed", Json::Int(speed))]);
            }
            4 => self.command(word(of_block, "block-job-finalize", "job-finalize"), vec![both(&id, false)]),
            5 => self.command(word(of_block, "block-job-dismiss", "job-dismiss"), vec![both(&id, false)]),
            _ => self.command(word(of_block, "block-job-complete", "job-complete"), arguments),
        }
        self.settle();
    }

    /// A job is believed to have ended well.
    pub(super) fn over(&mut self, job: usize) {
        self.jobs[job].over = true;
        if let Some(about) = self.jobs[job].about.take() {
            about.done(&mut self.shape.drives);
        }
    }

    /// What makes an end of everything, and shows what is left.
    fn finale(&mut self) {
        self.steps.push(StepKind::Idle);
        self.ended();
        let careful = waits(self.knobs.kind) && self.knobs.wrong_one_in == 0 && self.knobs.faulty_drive_one_in == 0;
        let mut left: Vec<Arc<str>> = Vec::new();
        for job in self.jobs.iter().filter(|job| !job.over || !careful) {
            if !left.contains(&job.id) {
                left.push(job.id.clone());
            }
        }
        let id = |id: &Arc<str>| ("id", Json::Str(id.clone()));
        let device = |id: &Arc<str>| ("device", Json::Str(id.clone()));
        if !left.is_empty() {
            for job in &left {
                self.push("block-job-set-speed", Json::dict(vec![device(job), ("speed", Json::Int(0))]));
                self.push("block-job-resume", Json::dict(vec![device(job)]));
            }
            self.steps.push(StepKind::Idle);
            self.last_words(&left);
            let force = self.arguments.one_in(2);
            for job in &left {
                self.push("block-job-cancel", Json::dict(vec![device(job), ("force", force.into())]));
            }
            for verb in ["job-finalize", "job-dismiss"] {
                self.steps.push(StepKind::Idle);
                for job in &left {
                    self.push(verb, Json::dict(vec![id(job)]));
                }
            }
            self.steps.push(StepKind::Idle);
        }
        self.push("query-jobs", Json::empty());
        self.push("query-block-jobs", Json::empty());
        self.push("query-named-block-nodes", Json::dict(vec![("flat", true.into())]));
    }
}
