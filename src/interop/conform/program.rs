//! Random programs for two QEMUs: images, nodes with faults, and commands on them.
//!
//! A program is a scenario whose replies may be anything. Its commands are drawn with weights; what they name (nodes, jobs, bitmaps,
//! files) is drawn from few names, so that they meet. At its end it asks for jobs, bitmaps and blocks, and quits.

use crate::base::Json;
use crate::choice::Stream;
use crate::generate;
use crate::quirk::{Quirk, Quirks};
use crate::scenario::plan::{Expect, Fails, FileOp, Limits, Plan, PlannedFile, PlannedStep, Pos, Schedule, StepKind};
use crate::trace::canonical;
use std::sync::Arc;

/// What programs are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProgramKind {
    /// Commands as a well-meaning client sends them.
    Well,
    /// Wrong arguments and injected faults.
    Faulty,
    /// Commands sent at any moment.
    Racing,
}

impl ProgramKind {
    /// All of them.
    pub const ALL: [ProgramKind; 3] = [ProgramKind::Well, ProgramKind::Faulty, ProgramKind::Racing];

    /// Its name: the one that the generator of `blockjob-sim generate` has for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ProgramKind::Well => "well-behaved",
            ProgramKind::Faulty => "hostile",
            ProgramKind::Racing => "racing",
        }
    }
}

impl std::str::FromStr for ProgramKind {
    type Err = String;

    fn from_str(text: &str) -> Result<ProgramKind, String> {
        ProgramKind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names: Vec<&str> = ProgramKind::ALL.iter().map(|kind| kind.name()).collect();
            format!("`{text}` is no kind of programs: expected {}", names.join(", "))
        })
    }
}

/// Draws a program.
pub(super) struct Draw {
    stream: Stream,
    pub(super) kind: ProgramKind,
    pub(super) files: Vec<FileOp>,
    pub(super) args: Vec<Arc<str>>,
    steps: Vec<StepKind>,
    /// How many nodes and files were added on the way.
    pub(super) added: u32,
    /// Sizes of the drives.
    pub(super) sizes: Vec<u64>,
    jobs: u32,
}

pub(super) const K: u64 = 1024;
pub(super) const M: u64 = 1024 * 1024;
const BITMAPS: [&str; 3] = ["b0", "b1", "b2"];
const JOBS: [&str; 4] = ["j0", "j1", "j2", "j3"];

/// The program of a seed from the generator of `blockjob-sim generate`, ended with `quit`, so that its images are whole.
#[must_use]
pub fn generated(kind: ProgramKind, seed: u64) -> Plan {
    let kind = match kind {
        ProgramKind::Well => generate::ClientKind::WellBehaved,
        ProgramKind::Faulty => generate::ClientKind::Hostile,
        ProgramKind::Racing => generate::ClientKind::Racing,
    };
    let mut plan = generate::with(&generate::Options { kind: Some(kind), crashes: false, all_kinds: true }, seed).plan;
    let mut steps = plan.steps.to_vec();
    let ending = ["query-jobs", "query-block", "query-named-block-nodes", "quit"]
        .map(|name| StepKind::Qmp { command: Json::dict(vec![("execute", name.into())]), expect: Expect::Any });
    steps.extend(std::iter::once(StepKind::Idle).chain(ending).map(PlannedStep::new));
    plan.steps = steps.into();
    plan
}

/// The program of a seed.
#[must_use]
pub fn program(kind: ProgramKind, seed: u64) -> Plan {
    let number = 200 + kind as u64;
    let mut draw = Draw {
        stream: Stream::new(seed, number),
        kind,
        files: Vec::new(),
        args: Vec::new(),
        steps: Vec::new(),
        added: 0,
        sizes: Vec::new(),
        jobs: 0,
    };
    draw.drives();
    let length = 4 + draw.below(14);
    for _ in 0..length {
        draw.command();
    }
    draw.ending();
    draw.plan(seed)
}

impl Draw {
    pub(super) fn below(&mut self, among: u32) -> u32 {
        self.stream.below(among)
    }

    pub(super) fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(u32::try_from(from.len()).expect("few")) as usize]
    }

    fn plan(self, seed: u64) -> Plan {
        let pos = |line: usize| Pos { file: "program".into(), line: u32::try_from(line + 1).unwrap_or(0), column: 1 };
        let calls: Arc<[Pos]> = Arc::new([]);
        let files = self.files.into_iter().enumerate();
        let steps = self.steps.into_iter().enumerate();
        Plan {
            about: format!("Program {seed} of the kind `{}`.", self.kind.name()).into(),
            files: files.map(|(i, op)| PlannedFile { pos: pos(i), calls: calls.clone(), op }).collect(),
            args: self.args,
            steps: steps.map(|(i, kind)| PlannedStep { pos: pos(i), calls: calls.clone(), kind }).collect(),
            limits: Limits { steps: Some(3_000_000), ..Limits::default() },
            // What QEMU hangs over the model is to hang over, too.
            quirks: Quirks::NONE.with(Quirk::GroupedUndoWaitsForUnstarted),
            schedule: Schedule::Any,
            expect_violation: None,
        }
    }

    pub(super) fn qmp(&mut self, text: &str) {
        let command = canonical::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        self.step(StepKind::Qmp { command, expect: Expect::Any });
    }

    fn step(&mut self, kind: StepKind) {
        self.steps.push(kind);
        if self.kind == ProgramKind::Racing && self.one_in(3) {
            self.steps.push(StepKind::Idle);
        }
    }

    pub(super) fn drive(&mut self) -> u32 {
        let drives = u32::try_from(self.sizes.len()).expect("few");
        self.below(drives)
    }

    /// A name of a drive's node, mostly; of its device now and then; of nothing where wrong ones are wanted. None that QEMU makes up itself:
    /// their last two digits are random there, so that a name like `#block000` is of a node in one run and of none in another.
    fn node(&mut self) -> String {
        let n = self.drive();
        if self.kind == ProgramKind::Faulty && self.one_in(16) {
            return self.pick(&["nope", "", "t0", "t1", "#block", "a-name-that-is-far-too-long-for-a-node"]).to_owned();
        }
        match self.below(6) {
            0 => format!("drive{n}"),
            1 if self.kind != ProgramKind::Well => format!("t{n}"),
            _ => format!("n{n}"),
        }
    }

    fn range(&mut self, n: u32) -> (u64, u64) {
        let size = self.sizes[n as usize];
        let unit = self.pick(&[512, 4 * K, 64 * K]);
        let blocks = u32::try_from(size / unit).unwrap_or(1).max(1);
        let offset = u64::from(self.below(blocks)) * unit;
        let length = self.pick(&[512, 4 * K, 64 * K, 128 * K, 512 * K, 1000, 65 * K]).min(size.saturating_sub(offset));
        if self.kind == ProgramKind::Faulty && self.one_in(12) {
            return (offset + 13, length + 64 * K);
        }
        (offset, length.max(1))
    }

    fn guest(&mut self) {
        let n = self.drive();
        let (offset, length) = self.range(n);
        let target = if self.one_in(4) { format!("drive{n}") } else { format!("n{n}") };
        let pattern = self.below(255) + 1;
        let line = match self.below(16) {
            0 => format!("discard {offset} {length}"),
            1 => format!("write -z {offset} {length}"),
            2 => format!("write -z -u {offset} {length}"),
            3 => "flush".to_owned(),
            4 => format!("read -P {pattern} {offset} {length}"),
            5 => format!("read {offset} {length}"),
            6 => format!("aio_write -P {pattern} {offset} {length}"),
            7 => format!("writev -P {pattern} {offset} {length}"),
            8 if self.kind == ProgramKind::Faulty => {
                self.pick(&["write", "nonsense 1 2", "read -P", "write 0", "length"]).to_owned()
            }
            _ => format!("write -P {pattern} {offset} {length}"),
        };
        let line = format!("qemu-io {target} \"{line}\"").into();
        self.step(StepKind::Hmp { line, output: None, returns: None, fails: Fails::Any });
    }

    fn bitmap_data(&mut self) -> (String, &'static str) {
        (self.node(), self.pick(&BITMAPS))
    }

    /// An action with bitmaps: its name and its arguments.
    fn bitmap_action(&mut self) -> (&'static str, String) {
        let (node, name) = self.bitmap_data();
        match self.below(12) {
            0..=4 => {
                let mut more = String::new();
                if self.one_in(3) {
                    let granularity = match self.kind {
                        ProgramKind::Faulty => self.pick(&[512, 4096, 65536, 1000, 256, 0, 131_072, 1 << 31]),
                        _ => self.pick(&[512, 4096, 32768, 131_072]),
                    };
                    more.push_str(&format!(r#", "granularity": {granularity}"#));
                }
                if self.one_in(4) {
                    more.push_str(r#", "persistent": true"#);
                }
                if self.one_in(6) {
                    more.push_str(r#", "disabled": true"#);
                }
                ("block-dirty-bitmap-add", format!(r#"{{"node": "{node}", "name": "{name}"{more}}}"#))
            }
            5 => ("block-dirty-bitmap-clear", format!(r#"{{"node": "{node}", "name": "{name}"}}"#)),
            6 => ("block-dirty-bitmap-enable", format!(r#"{{"node": "{node}", "name": "{name}"}}"#)),
            7 => ("block-dirty-bitmap-disable", format!(r#"{{"node": "{node}", "name": "{name}"}}"#)),
            8 => ("block-dirty-bitmap-remove", format!(r#"{{"node": "{node}", "name": "{name}"}}"#)),
            _ => {
                let from = match self.below(3) {
                    0 => {
                        let (node, name) = self.bitmap_data();
                        format!(r#"{{"node": "{node}", "name": "{name}"}}"#)
                    }
                    _ => format!(r#""{}""#, self.pick(&BITMAPS)),
                };
                let bitmaps = format!("[{from}]");
                (
                    "block-dirty-bitmap-merge",
                    format!(r#"{{"node": "{node}", "target": "{name}", "bitmaps": {bitmaps}}}"#),
                )
            }
        }
    }

    pub(super) fn job_id(&mut self) -> String {
        if self.one_in(4) {
            return self.pick(&JOBS).to_owned();
        }
        self.jobs += 1;
        format!("j{}", (self.jobs - 1) % 6)
    }

    /// A backup: its command and its arguments.
    fn backup(&mut self) -> (&'static str, String) {
        let n = self.drive();
        let source = if self.one_in(4) { format!("drive{n}") } else { format!("n{n}") };
        let source = if self.kind == ProgramKind::Faulty && self.one_in(10) { self.node() } else { source };
        let id = self.job_id();
        let mut more = String::new();
        let sync = match self.below(8) {
            0..=2 => "full",
            3 => "top",
            4 => "none",
            5 | 6 => {
                let name = self.pick(&BITMAPS);
                more.push_str(&format!(r#", "bitmap": "{name}""#));
                if self.one_in(2) {
                    let mode = self.pick(&["on-success", "never", "always"]);
                    more.push_str(&format!(r#", "bitmap-mode": "{mode}""#));
                    "bitmap"
                } else {
                    "incremental"
                }
            }
            _ => {
                if self.one_in(2) {
                    let name = self.pick(&BITMAPS);
                    let mode = self.pick(&["on-success", "never", "always"]);
                    more.push_str(&format!(r#", "bitmap": "{name}", "bitmap-mode": "{mode}""#));
                }
                self.pick(&["full", "top"])
            }
        };
        if self.one_in(4) {
            let speed = match self.kind {
                ProgramKind::Faulty => self.pick(&[-1i64, 0, 65536, 1 << 40]),
                _ => self.pick(&[65536, 262_144, 0]),
            };
            more.push_str(&format!(r#", "speed": {speed}"#));
        }
        if self.one_in(5) {
            let error = self.pick(&["report", "stop", "enospc", "ignore", "stop"]);
            let error = if error == "ignore" { "report" } else { error };
            let side = self.pick(&["source", "target"]);
            more.push_str(&format!(r#", "on-{side}-error": "{error}""#));
        }
        if self.one_in(4) {
            more.push_str(r#", "auto-finalize": false"#);
        }
        if self.one_in(4) {
            more.push_str(r#", "auto-dismiss": false"#);
        }
        if self.one_in(5) {
            let perf = match self.kind {
                ProgramKind::Faulty => self.pick(&[
                    r#"{"max-workers": 1}"#,
                    r#"{"max-workers": 0}"#,
                    r#"{"max-chunk": 1}"#,
                    r#"{"max-chunk": 65536, "max-workers": 2}"#,
                    r#"{"use-copy-range": true}"#,
                ]),
                _ => self.pick(&[r#"{"max-workers": 1}"#, r#"{"max-chunk": 65536, "max-workers": 2}"#]),
            };
            more.push_str(&format!(r#", "x-perf": {perf}"#));
        }
        if self.one_in(10) {
            more.push_str(r#", "filter-node-name": "filter""#);
        }
        if self.one_in(3) {
            self.added += 1;
            let file = format!("new{}.img", self.added % 5);
            let mode = if self.one_in(6) { r#", "mode": "existing""# } else { "" };
            let format = if self.one_in(5) { "raw" } else { "qcow2" };
            let arguments = format!(
                r#"{{"device": "{source}", "job-id": "{id}", "sync": "{sync}", "target": "{file}", "format": "{format}"{mode}{more}}}"#
            );
            return ("drive-backup", arguments);
        }
        let t = if self.one_in(5) { self.drive() } else { n };
        let arguments =
            format!(r#"{{"device": "{source}", "job-id": "{id}", "sync": "{sync}", "target": "t{t}"{more}}}"#);
        ("blockdev-backup", arguments)
    }

    fn transaction(&mut self) {
        let length = 1 + self.below(4);
        let mut actions = Vec::new();
        let mut sources: Vec<String> = Vec::new();
        for _ in 0..length {
            let (kind, data) = match self.below(5) {
                0 | 1 => self.backup(),
                2 if self.kind == ProgramKind::Faulty && self.one_in(3) => ("abort", "{}".to_owned()),
                _ => self.bitmap_action(),
            };
            // Two backups by one device make QEMU abort: a finding of its own.
            if kind.ends_with("backup") {
                let source = data.split('"').nth(3).unwrap_or_default().to_owned();
                let source = source.replace("drive", "n");
                if sources.contains(&source) {
                    continue;
                }
                sources.push(source);
            }
            actions.push(format!(r#"{{"type": "{kind}", "data": {data}}}"#));
        }
        let mode = if self.one_in(2) { r#", "properties": {"completion-mode": "grouped"}"# } else { "" };
        self.qmp(&format!(
            r#"{{"execute": "transaction", "arguments": {{"actions": [{}]{mode}}}}}"#,
            actions.join(", ")
        ));
    }

    fn job_verb(&mut self) {
        let id = self.job_id();
        let verb = self.pick(&["cancel", "pause", "resume", "finalize", "dismiss", "complete", "cancel", "dismiss"]);
        let command = match self.below(4) {
            0 if matches!(verb, "cancel" | "pause" | "resume" | "finalize" | "dismiss" | "complete") => {
                let member = if matches!(verb, "finalize" | "dismiss") { "id" } else { "device" };
                let force = if verb == "cancel" && self.one_in(2) { r#", "force": true"# } else { "" };
                format!(r#"{{"execute": "block-job-{verb}", "arguments": {{"{member}": "{id}"{force}}}}}"#)
            }
            1 if self.one_in(2) => {
                let speed = self.pick(&[0, 65536, 1 << 30]);
                format!(r#"{{"execute": "block-job-set-speed", "arguments": {{"device": "{id}", "speed": {speed}}}}}"#)
            }
            _ => format!(r#"{{"execute": "job-{verb}", "arguments": {{"id": "{id}"}}}}"#),
        };
        self.qmp(&command);
    }

    fn nodes(&mut self) {
        let n = self.drive();
        let command = match self.below(6) {
            0 => {
                self.added += 1;
                let name = self.pick(&["x0", "x1"]);
                format!(
                    r#"{{"execute": "blockdev-add", "arguments": {{"driver": "qcow2", "node-name": "{name}", "file": {{"driver": "file", "filename": "new{}.img"}}}}}}"#,
                    self.added % 5
                )
            }
            1 => {
                let name = self.pick(&["x0", "x1"]);
                let size = self.pick(&[65536, M, 0]);
                format!(
                    r#"{{"execute": "blockdev-add", "arguments": {{"driver": "null-co", "node-name": "{name}", "size": {size}, "read-zeroes": true}}}}"#
                )
            }
            2 | 3 => {
                let name = self.pick(&["x0", "x1", "t0", "n1", "n0"]);
                format!(r#"{{"execute": "blockdev-del", "arguments": {{"node-name": "{name}"}}}}"#)
            }
            _ => {
                let size = self.pick(&[65536, M, 2 * M, 5 * M, 0, 100 * K, 512 * 7]);
                let size = if self.kind == ProgramKind::Well { size.max(self.sizes[n as usize]) } else { size };
                if self.kind != ProgramKind::Faulty {
                    self.sizes[n as usize] = size;
                }
                let member =
                    if self.one_in(3) { format!(r#""device": "drive{n}""#) } else { format!(r#""node-name": "n{n}""#) };
                format!(r#"{{"execute": "block_resize", "arguments": {{{member}, "size": {size}}}}}"#)
            }
        };
        self.qmp(&command);
    }

    fn query(&mut self) {
        let command = match self.below(8) {
            0 => r#"{"execute": "query-jobs"}"#,
            1 => r#"{"execute": "query-block-jobs"}"#,
            2 => r#"{"execute": "query-named-block-nodes", "arguments": {"flat": true}}"#,
            3 => r#"{"execute": "x-debug-query-block-graph"}"#,
            4 => r#"{"execute": "query-block"}"#,
            5 => r#"{"execute": "stop"}"#,
            6 => r#"{"execute": "cont"}"#,
            _ => r#"{"execute": "query-status"}"#,
        };
        self.qmp(command);
    }

    fn command(&mut self) {
        match self.below(30) {
            20..=29 => self.job_of_a_chain(),
            0..=5 => self.guest(),
            6..=9 => {
                let (name, arguments) = self.bitmap_action();
                let command = format!(r#"{{"execute": "{name}", "arguments": {arguments}}}"#);
                self.checked(&command);
            }
            10..=12 => {
                let (name, arguments) = self.backup();
                let command = format!(r#"{{"execute": "{name}", "arguments": {arguments}}}"#);
                self.checked(&command);
            }
            13 | 14 => self.transaction(),
            15 | 16 => self.job_verb(),
            17 => self.nodes(),
            _ => self.query(),
        }
    }

    /// The command, with something wrong in it now and then where that is wanted.
    pub(super) fn checked(&mut self, text: &str) {
        if self.kind != ProgramKind::Faulty || !self.one_in(8) {
            return self.qmp(text);
        }
        let command = canonical::parse(text).expect("our own");
        let Some(Json::Dict(arguments)) = command.get("arguments") else { return self.qmp(text) };
        let mut arguments = (**arguments).clone();
        let at = self.below(u32::try_from(arguments.len()).expect("few")) as usize;
        let wrong = match self.below(6) {
            0 => {
                arguments.remove(at);
                None
            }
            1 => {
                arguments.push(("bogus".into(), Json::uint(1)));
                None
            }
            2 => Some(Json::Null),
            3 => Some(Json::str("nonsense")),
            4 => Some(Json::Int(-7)),
            _ => Some(Json::list(vec![])),
        };
        if let Some(wrong) = wrong {
            // An empty list of bitmaps makes QEMU crash: a finding of its own.
            if &*arguments[at].0 != "bitmaps" {
                arguments[at].1 = wrong;
            }
        }
        let name = command.get("execute").cloned().unwrap_or(Json::Null);
        let arguments = Json::Dict(Arc::new(arguments));
        let command = Json::dict(vec![("execute", name), ("arguments", arguments)]);
        self.steps.push(StepKind::Qmp { command, expect: Expect::Any });
    }

    fn ending(&mut self) {
        self.steps.push(StepKind::Idle);
        for name in ["query-jobs", "query-block-jobs", "query-block", "query-named-block-nodes", "quit"] {
            let command = Json::dict(vec![("execute", name.into())]);
            self.steps.push(StepKind::Qmp { command, expect: Expect::Any });
        }
    }
}
