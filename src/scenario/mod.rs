//! Scenario files: what a person writes, read and checked into a [`Plan`].
//!
//! ```yaml
//! about: One sentence that says what is shown.
//! include: [common/124.yaml]        # relative to this file; files that hold `define` and nothing else
//! define:                           # procedures, so that what is common is written once
//!   backup: {params: [drive, target], steps: [{qmp: {execute: drive-backup, arguments: {device: $drive, target: $target}}}]}
//! files: […]                        # file steps and calls, done before QEMU starts
//! args: ["-drive", "file=s.qcow2,…"]
//! steps: […]                        # what happens then
//! limits: {steps: 100000, time: 1h, trace: 100000}
//! quirks: [txn-abort-fifo]         # wrong behaviour that is switched on
//! expect-violation: NAME           # the invariant that it breaks on purpose
//! schedule: calm                    # or `seed 7`, `{choices: […]}`, `{preemptions: […]}`: holds in this schedule only
//! ```
//!
//! Each step is a mapping whose first key says what it does.
//!
//! | step | meaning |
//! |---|---|
//! | `qmp: {execute, arguments, id}` | sends a command and reads its reply, which must be a return value |
//! | … `returns: PATTERN` | the value must match ([`pattern`]) |
//! | … `error: {class, desc}`, `error: any` | the reply must be an error; members left out are not looked at; the command is sent as it stands, well formed or not |
//! | … `reply: any` | the reply may be anything; the command is sent as it stands |
//! | `hmp: LINE` | sends `human-monitor-command` |
//! | … `output: TEXT` | this text must be part of the output |
//! | … `returns: TEXT` | this text must be the whole output |
//! | `event: {event, data, without}`, `event: NAME` | waits for the oldest queued event that fits; `without` lists members that `data` may not have |
//! | `sleep: 300ms` | lets virtual time pass |
//! | `idle: true` | waits until the process is at rest and all is read |
//! | `bitmap: {node, name, count, granularity, busy, recording, persistent, inconsistent}` | looks at a bitmap from outside; `absent: true`: there is none |
//! | `same: [A, B, …]` | the images read the same through their backing chains |
//! | `no-jobs: true` | no job is left |
//! | `no-events: true`, `no-events: {except: [NAME]}` | no further event is queued |
//! | `mark: NAME` | a named place; exploring starts at `start` |
//! | `call: {NAME: {PARAMETER: VALUE}}` | the steps of a procedure |
//! | `create: {file, format, size, backing: {file, format}, cluster-size, compat, lazy-refcounts}` | file step: `qemu-img create` |
//! | `write: {file, format, pattern, offset, length}`, `zero: {…}`, `discard: {…}` | file steps: `qemu-io` |
//! | `rebase: {file, backing: {file, format}}` | file step: `qemu-img rebase -u`; `backing: null` for none |
//! | `text: {file, content}` | file step: a text file |
//! | `host: {capacity}`, `host: {file, limit}`, `host: {file, fail, errno, after, times}`, `host: {file, size}` | file step: what the host refuses from now on (`ENOSPC`, `EFBIG`, any), or a file that somebody else makes shorter or longer; `none` ends it |
//!
//! File steps are done outside of QEMU, at that moment. Within a procedure `$name` and `${name}` stand for a parameter in any text,
//! `$$` for a dollar sign; a text that is `$name` and nothing else becomes whatever the parameter is. Sizes are bytes or texts such as
//! `64K`. Free-form values (`arguments`, patterns) are JSON as YAML writes it; only `true` and `false` are booleans.

mod error;
mod expand;
mod fields;
pub mod pattern;
pub mod plan;
mod steps;
mod tree;
pub mod write;

pub use error::{Place, ScenarioError, Span};
pub use plan::{Plan, Pos};

use crate::base::Json;
use error::Read;
use expand::{Expanded, Loader};
pub use expand::{Library, ReadFile};
use fields::Fields;
use plan::{PlannedFile, PlannedStep};
use std::sync::Arc;
use tree::Node;

/// Reads the scenario file `name` and all that it includes, with `read` to get the text of a file (or why it cannot be read).
/// `None` stands for a file that holds only definitions.
///
/// # Errors
/// The first mistake, with its place.
pub fn load(name: &str, read: ReadFile<'_>) -> Result<Option<Plan>, Box<ScenarioError>> {
    load_with(&mut Library::default(), name, read)
}

/// [`load`], for many scenarios in a row: files that they all include are parsed once.
///
/// # Errors
/// As [`load`].
pub fn load_with(library: &mut Library, name: &str, read: ReadFile<'_>) -> Result<Option<Plan>, Box<ScenarioError>> {
    let mut loader = Loader::default();
    loader.library = std::mem::take(library);
    let plan = plan(&mut loader, name, read);
    *library = std::mem::take(&mut loader.library);
    plan.map_err(|fault| Box::new(loader.sources.error(*fault)))
}

/// Reads a YAML text that is no scenario; only mistakes of form are found. `name` is for messages.
///
/// # Errors
/// The first mistake, with its place.
pub fn value(name: &str, text: &str) -> Result<Json, Box<ScenarioError>> {
    let mut loader = Loader::default();
    let root = loader.open(name, None, &mut |_| Ok(text.to_owned()));
    root.map(|root| root.json()).map_err(|fault| Box::new(loader.sources.error(*fault)))
}

fn plan(loader: &mut Loader, name: &str, read: ReadFile<'_>) -> Read<Option<Plan>> {
    let root = loader.open(name, None, read)?;
    let mut top = Fields::of("a scenario", &root)?;
    let about = top.opt("about").map(Node::text).transpose()?;
    loader.definitions(name, &mut top, read, 0)?;
    let has_defines = top.opt("define").is_some();
    let files = top.opt("files").map_or(Ok(Vec::new()), |node| loader.expand(node.list()?))?;
    let args = top.opt("args").map_or(Ok(Vec::new()), Node::texts)?;
    let limits = top.opt("limits").map(steps::limits).transpose()?.unwrap_or_default();
    let quirks = top.opt("quirks").map(steps::quirks).transpose()?.unwrap_or_default();
    let expect_violation = top.opt("expect-violation").map(steps::invariant).transpose()?;
    let schedule = top.opt("schedule").map(steps::schedule).transpose()?.unwrap_or_default();
    let Some(step_list) = top.opt("steps") else {
        if has_defines && top.opt("files").is_none() && top.opt("args").is_none() {
            top.end()?;
            return Ok(None);
        }
        top.req("steps")?;
        return Ok(None);
    };
    let Some(about) = about else {
        top.req("about")?;
        return Ok(None);
    };
    let expanded = loader.expand(step_list.list()?)?;
    top.end()?;
    let files = files.iter().map(|file| {
        let op = steps::file_op(&file.node).map_err(|fault| through(fault, file))?;
        Ok(PlannedFile { pos: pos(loader, file.node.span), calls: calls(loader, file), op })
    });
    let files = files.collect::<Read<_>>()?;
    let planned = expanded.iter().map(|step| {
        let kind = steps::step(&step.node).map_err(|fault| through(fault, step))?;
        Ok(PlannedStep { pos: pos(loader, step.node.span), calls: calls(loader, step), kind })
    });
    let steps = planned.collect::<Read<_>>()?;
    Ok(Some(Plan { about, files, args, steps, limits, quirks, expect_violation, schedule }))
}

/// Notes on a mistake the calls that led to it.
fn through(mut fault: Box<error::Fault>, step: &Expanded) -> Box<error::Fault> {
    fault.via.clone_from(&step.via);
    fault
}

fn pos(loader: &Loader, span: Span) -> Pos {
    let file = loader.sources.files.get(span.file as usize).map(|(name, _)| name.clone()).unwrap_or_default();
    Pos { file, line: span.line, column: span.column }
}

fn calls(loader: &Loader, step: &Expanded) -> Arc<[Pos]> {
    step.via.iter().rev().map(|span| pos(loader, *span)).collect()
}
