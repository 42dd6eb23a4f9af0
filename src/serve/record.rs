//! `--sim-record`: the served run as a scenario that replays without clients, without clocks and without real files.

use crate::base::Json;
use crate::choice::ChoiceLog;
use crate::host::{DiskRates, Failing, HostChange};
use crate::quirk::Quirks;
use crate::scenario::Pos;
use crate::scenario::plan::{
    Expect, Extent, FileOp, Limits, Plan, PlannedFile, PlannedStep, ProcessOp, Schedule, Signal, StepKind,
};
use crate::scenario::write::to_yaml;
use rustix::fs::SeekFrom;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Bytes that are looked at together.
const BLOCK: u64 = 4096;
/// Bytes of an extent that is no repeated byte.
const LINE: usize = 64 << 10;
/// Bytes of images, repeated ones apart, that a recording holds: scenario files have at most 16 MiB, and a byte takes two digits.
const MAX_DATA: u64 = 7 << 20;

/// What happened so far.
#[derive(Debug)]
pub(super) struct Recording {
    /// Bytes of images that may still come; 0 if there were more.
    left: u64,
    args: Vec<Arc<str>>,
    files: Vec<FileOp>,
    steps: Vec<StepKind>,
    /// Where files belong that come in while a command runs: before it.
    command: Option<usize>,
}

impl Default for Recording {
    fn default() -> Recording {
        Recording { left: MAX_DATA, args: Vec::new(), files: Vec::new(), steps: Vec::new(), command: None }
    }
}

impl Recording {
    /// The process starts with these block options.
    pub(super) fn boot(&mut self, args: &[Arc<str>]) {
        self.args = args.to_vec();
    }

    /// The disk is so fast.
    pub(super) fn disk(&mut self, rates: DiskRates) {
        self.files.push(FileOp::Host(HostChange::Disk(Some(rates))));
    }

    /// A file was found on the host.
    pub(super) fn found(&mut self, path: &Arc<str>) {
        let Some(op) = content(path, &mut self.left) else { return };
        match &mut self.command {
            None => self.files.push(op),
            Some(at) => {
                self.steps.insert(*at, StepKind::File(op));
                *at += 1;
            }
        }
    }

    /// The host refused a request. Requests to a file are counted from the start, and so are those of the run that replays this.
    pub(super) fn refused(&mut self, path: Arc<str>, failing: Failing) {
        self.files.push(FileOp::Host(HostChange::Fail(path, failing)));
    }

    /// A command was submitted; `at` is the step of the process at that moment, unless it was simply at rest.
    pub(super) fn submit(&mut self, at: Option<StepKind>, command: &Json) {
        if command.as_dict().is_none() {
            // No scenario can hold it, and it has no effect.
            return;
        }
        self.command = Some(self.steps.len());
        self.steps.extend(at);
        self.steps.push(StepKind::Qmp { command: command.clone(), expect: Expect::Any });
    }

    /// The host asks the process to end, which stands there then.
    pub(super) fn signal(&mut self, at: StepKind, signal: Signal) {
        self.steps.extend([at, StepKind::Process(ProcessOp::Signal(signal))]);
    }

    /// The scenario. `choices` are given where the seed does not tell the whole run.
    ///
    /// # Errors
    /// The images hold more than a scenario may.
    pub(super) fn to_yaml(
        &self,
        seed: Option<u64>,
        choices: Option<&ChoiceLog>,
        quirks: Quirks,
    ) -> Result<String, String> {
        if self.left == 0 {
            return Err(format!("the images hold more than {} MiB of data", MAX_DATA >> 20));
        }
        let pos = Pos { file: "".into(), line: 1, column: 1 };
        let schedule = match (choices, seed) {
            (Some(choices), _) => Schedule::Choices(Arc::new(choices.deviations())),
            (None, Some(seed)) => Schedule::Seed(seed),
            (None, None) => Schedule::Calm,
        };
        let file = |op: &FileOp| PlannedFile { pos: pos.clone(), calls: Arc::new([]), op: op.clone() };
        let step = |kind: &StepKind| PlannedStep { pos: pos.clone(), calls: Arc::new([]), kind: kind.clone() };
        Ok(to_yaml(&Plan {
            about: "Recorded while a client was served.".into(),
            files: self.files.iter().map(file).collect(),
            args: self.args.clone(),
            steps: self.steps.iter().map(step).collect(),
            limits: Limits::default(),
            quirks,
            expect_violation: None,
            schedule,
        }))
    }
}

/// A file as it stands on the host.
fn content(path: &Arc<str>, left: &mut u64) -> Option<FileOp> {
    let file = File::open(&**path).ok()?;
    let size = file.metadata().ok()?.len();
    let mut data = Vec::new();
    let mut at = 0;
    while at < size {
        let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) else { break };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        read(&file, start, end, &mut data, left)?;
        at = end.max(start + 1);
    }
    Some(FileOp::Content { file: path.clone(), size, data })
}

/// Reads a range that holds data: blocks of one byte become patterns.
fn read(file: &File, start: u64, end: u64, data: &mut Vec<Extent>, left: &mut u64) -> Option<()> {
    let mut at = start;
    while at < end {
        let len = BLOCK.min(end - at);
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        file.read_exact_at(&mut bytes, at).ok()?;
        let first = bytes[0];
        let plain = bytes.iter().all(|byte| *byte == first);
        // What stands in a line of its own takes room as well.
        *left = left.saturating_sub(if plain { 32 } else { len });
        if *left == 0 {
            return None;
        }
        match data.last_mut() {
            Some(last) if plain && last.bytes == [first] && last.at + last.times == at => last.times += len,
            Some(last)
                if !plain && last.times == 1 && last.bytes.len() < LINE && last.at + last.bytes.len() as u64 == at =>
            {
                last.bytes.extend(bytes);
            }
            _ if plain => data.push(Extent { at, bytes: vec![first], times: len }),
            _ => data.push(Extent { at, bytes, times: 1 }),
        }
        at += len;
    }
    Some(())
}
