//! A smaller scenario: steps, actions, arguments, faults, drives, images, sizes.

use super::{Candidate, Seen, Tester, json, with_steps};
use crate::base::units::{KIB, MIB};
use crate::scenario::plan::{Fails, FileOp, Plan, PlannedFile, PlannedStep, Qcow2Options, StepKind, WriteData};
use crate::trace::canonical;
use std::sync::Arc;

/// Makes the scenario small; of the schedule goes what belongs to steps that go.
pub(super) fn minimise(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester) {
    if let Some(last) = seen.step {
        let keep: Vec<bool> = (0..candidate.plan.steps.len()).map(|step| step <= last).collect();
        take(candidate, seen, tester, |candidate| with_steps(candidate, &keep));
    }
    steps(candidate, seen, tester);
    pairs_of_args(candidate, seen, tester);
    files(candidate, seen, tester);
    commands(candidate, seen, tester);
    arguments(candidate, seen, tester);
    sizes(candidate, seen, tester);
    steps(candidate, seen, tester);
    files(candidate, seen, tester);
}

fn take(
    candidate: &mut Candidate,
    seen: &mut Seen,
    tester: &mut Tester,
    change: impl FnOnce(&Candidate) -> Candidate,
) -> bool {
    if tester.spent() {
        return false;
    }
    let mut next = change(candidate);
    if next.plan == candidate.plan {
        return false;
    }
    match tester.twice(&next.plan, &next.list) {
        Some(now) => {
            next.list.clone_from(&now.met);
            (*candidate, *seen) = (next, now);
            true
        }
        None => false,
    }
}

/// Runs of steps taken out, long ones first (`ddmin`).
fn steps(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester) {
    let mut length = (candidate.plan.steps.len() / 2).max(1);
    loop {
        let mut end = candidate.plan.steps.len();
        while end > 0 {
            let start = end.saturating_sub(length);
            let keep: Vec<bool> = (0..candidate.plan.steps.len()).map(|step| !(start..end).contains(&step)).collect();
            take(candidate, seen, tester, |candidate| with_steps(candidate, &keep));
            end = start.min(candidate.plan.steps.len());
        }
        if length == 1 {
            return;
        }
        length /= 2;
    }
}

/// An option of the process goes with its value.
fn pairs_of_args(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester) {
    let mut at = candidate.plan.args.len() / 2;
    while at > 0 {
        at -= 1;
        take(candidate, seen, tester, |candidate| {
            let mut next = candidate.clone();
            if 2 * at + 2 <= next.plan.args.len() {
                next.plan.args.drain(2 * at..2 * at + 2);
            }
            next
        });
    }
}

fn files(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester) {
    let mut at = candidate.plan.files.len();
    while at > 0 {
        at -= 1;
        take(candidate, seen, tester, |candidate| {
            let mut next = candidate.clone();
            next.plan.files.remove(at);
            next
        });
    }
}

/// Parts of commands: actions, arguments, fault rules.
fn commands(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester) {
    for step in (0..candidate.plan.steps.len()).rev() {
        let mut tried = 0;
        while let StepKind::Qmp { command, expect } = &candidate.plan.steps[step].kind {
            let Some(command) = json::smaller(command).into_iter().nth(tried) else { break };
            let kind = StepKind::Qmp { command, expect: expect.clone() };
            let taken = take(candidate, seen, tester, |candidate| with_step(candidate, step, kind));
            tried += usize::from(!taken);
            if tester.spent() {
                return;
            }
        }
    }
}

fn with_step(candidate: &Candidate, step: usize, kind: StepKind) -> Candidate {
    let mut steps = candidate.plan.steps.to_vec();
    steps[step] = PlannedStep { kind, ..steps[step].clone() };
    Candidate { plan: Plan { steps: steps.into(), ..candidate.plan.clone() }, list: candidate.list.clone() }
}

/// Parts of the definitions of nodes among the process's arguments.
fn arguments(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester) {
    for at in 0..candidate.plan.args.len() {
        let mut tried = 0;
        while let Ok(options) = canonical::parse(&candidate.plan.args[at]) {
            let Some(options) = json::smaller(&options).into_iter().nth(tried) else { break };
            let taken = take(candidate, seen, tester, |candidate| {
                let mut next = candidate.clone();
                next.plan.args[at] = canonical::to_string(&options).into();
                next
            });
            tried += usize::from(!taken);
            if tester.spent() {
                return;
            }
        }
    }
}

/// Rounder and smaller sizes, default options, no backing files.
fn sizes(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester) {
    for at in 0..candidate.plan.files.len() {
        for op in simpler(&candidate.plan.files[at].op) {
            take(candidate, seen, tester, |candidate| {
                let mut next = candidate.clone();
                next.plan.files[at] = PlannedFile::new(op);
                next
            });
        }
    }
    for step in 0..candidate.plan.steps.len() {
        let StepKind::Hmp { line, .. } = &candidate.plan.steps[step].kind else { continue };
        for line in simpler_lines(line) {
            let kind = StepKind::Hmp { line, output: None, returns: None, fails: Fails::Any };
            if take(candidate, seen, tester, |candidate| with_step(candidate, step, kind)) {
                break;
            }
        }
    }
}

/// Simpler operations in place of one; each is tried on its own.
fn simpler(op: &FileOp) -> Vec<FileOp> {
    let mut out = Vec::new();
    match op {
        FileOp::Create { file, format, size, options, backing } => {
            let make = |size: Option<u64>, options: Qcow2Options, backing| FileOp::Create {
                file: file.clone(),
                format: *format,
                size,
                options,
                backing,
            };
            for smaller in [64 * KIB, 128 * KIB, MIB] {
                if size.is_none_or(|size| size > smaller) {
                    out.push(make(Some(smaller), *options, backing.clone()));
                }
            }
            if *options != Qcow2Options::default() {
                out.push(make(*size, Qcow2Options::default(), backing.clone()));
            }
            if backing.is_some() && size.is_some() {
                out.push(make(*size, *options, None));
            }
        }
        FileOp::Write { file, format, offset, length, data } => {
            let make =
                |offset, length, data| FileOp::Write { file: file.clone(), format: *format, offset, length, data };
            for (o, l, d) in [(0, 64 * KIB, WriteData::Pattern(1)), (*offset, 64 * KIB, *data), (0, *length, *data)] {
                if (o, l, d) != (*offset, *length, *data) && l <= *length {
                    out.push(make(o, l, d));
                }
            }
        }
        FileOp::Rebase { .. }
        | FileOp::Text { .. }
        | FileOp::Content { .. }
        | FileOp::Bytes { .. }
        | FileOp::Resize { .. }
        | FileOp::Check { .. }
        | FileOp::QemuImg(_)
        | FileOp::Host(_) => {}
    }
    out
}

/// A guest request at the start of the disk, of a cluster's length.
fn simpler_lines(line: &str) -> Vec<Arc<str>> {
    let Some((device, request)) = line.split_once('"') else { return Vec::new() };
    let words: Vec<&str> = request.trim_end_matches('"').split(' ').collect();
    let [head @ .., offset, length] = &words[..] else { return Vec::new() };
    let numeric = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    if !numeric(offset) || !numeric(length) {
        return Vec::new();
    }
    let make = |offset: &str, length: &str| format!("{device}\"{} {offset} {length}\"", head.join(" ")).into();
    let all: [Arc<str>; 3] = [make("0", "64k"), make(offset, "64k"), make("0", length)];
    all.into_iter().filter(|other| **other != *line).collect()
}
