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
//! qemu: 7.2                        # the version, 10.0 without it
//! quirks: [txn-abort-fifo]         # wrong behaviour that is switched on
//! expect-violation: NAME           # the invariant that it breaks on purpose
//! schedule: calm                    # or `seed 7`, `{choices: […]}`, `{preemptions: […]}`: holds in this schedule only
//! ```
//!
//! Each step is a mapping whose first key says what it does. [`steps`] declares them; [`steps::help`] (`blockjob-sim help scenario`) lists them
//! for people, [`schema`] (`blockjob-sim schema`) for editors.
//!
//! File steps are done outside of QEMU, at that moment. Within a procedure `$name` and `${name}` stand for a parameter in any text,
//! `$$` for a dollar sign; a text that is `$name` and nothing else becomes whatever the parameter is. Sizes are bytes or texts such as
//! `64K`. Free-form values (`arguments`, patterns) are JSON as YAML writes it; only `true` and `false` are booleans.

mod build;
mod disk;
mod error;
mod expand;
mod fields;
mod form;
mod kinds;
pub mod nbd;
pub mod pattern;
pub mod plan;
pub mod schema;
pub mod steps;
mod top;
mod tree;
pub mod write;
mod yaml;

pub use build::Builder;
pub use disk::load_file;
pub use error::{ScenarioError, SourcePlace, Span};
pub use plan::{Plan, Pos};

use crate::base::Json;
use error::{Fault, Read};
use expand::{Expanded, Loader};
pub use expand::{Library, ReadFile};
use fields::Fields;
use form::ValueKind;
use plan::{PlannedFile, PlannedStep};
use std::sync::Arc;
use top::Bounds;
use tree::Node;

/// Reads the scenario file `name` and all that it includes, with `read` to get the text of a file (or why it cannot be read).
/// `None` stands for a file that holds only definitions.
///
/// # Errors
/// The first mistake, with its place.
pub fn load(name: &str, read: ReadFile<'_>) -> Result<Option<Plan>, Box<ScenarioError>> {
    load_with(&mut Library::default(), name, read)
}

/// Reads a scenario from a text that includes no other files. `name` is for messages.
///
/// ```
/// let plan = blockjob_sim::scenario::load_str("mine.yaml", "about: Nothing happens.\nsteps: []\n")?;
/// assert_eq!(&*plan.about, "Nothing happens.");
/// # Ok::<(), Box<blockjob_sim::scenario::ScenarioError>>(())
/// ```
///
/// # Errors
/// The first mistake, with its place; also that it holds only definitions.
pub fn load_str(name: &str, text: &str) -> Result<Plan, Box<ScenarioError>> {
    let mut read = |wanted: &str| match wanted == name {
        true => Ok(text.to_owned()),
        false => Err("a scenario that is given as a text includes no files".to_owned()),
    };
    with_steps(name, load(name, &mut read)?)
}

/// A file that is to be run has steps.
pub(crate) fn with_steps(name: &str, plan: Option<Plan>) -> Result<Plan, Box<ScenarioError>> {
    plan.ok_or_else(|| {
        let label = "it is included by scenarios".to_owned();
        let place = SourcePlace { file: name.into(), text: "".into(), span: Span::default(), label };
        let message = "this file holds only definitions".to_owned();
        Box::new(ScenarioError { message, place, help: None, calls: Vec::new() })
    })
}

/// [`load`], for many scenarios in a row: files that they all include are parsed once.
///
/// # Errors
/// As [`load`].
pub fn load_with(library: &mut Library, name: &str, read: ReadFile<'_>) -> Result<Option<Plan>, Box<ScenarioError>> {
    load_all(library, name, read).map_err(|mut errors| Box::new(errors.swap_remove(0)))
}

/// [`load_with`], with all mistakes: at most one a step, and none but the first where the text is no YAML.
///
/// # Errors
/// The mistakes in the order of the file; at least one.
pub fn load_all(library: &mut Library, name: &str, read: ReadFile<'_>) -> Result<Option<Plan>, Vec<ScenarioError>> {
    match load_partly(library, name, read) {
        (plan, errors) if errors.is_empty() => Ok(plan),
        (_, errors) => Err(errors),
    }
}

/// [`load_all`], with what could be read beside the mistakes: steps that could not are left out.
#[must_use]
pub fn load_partly(library: &mut Library, name: &str, read: ReadFile<'_>) -> (Option<Plan>, Vec<ScenarioError>) {
    let mut loader = Loader::default();
    loader.library = std::mem::take(library);
    let mut faults = Vec::new();
    let plan = plan(&mut loader, name, read, &mut faults);
    *library = std::mem::take(&mut loader.library);
    let plan = plan.unwrap_or_else(|fault| {
        faults.push(*fault);
        None
    });
    faults.sort_by_key(|fault| (fault.span.file, fault.span.offset));
    (plan, faults.into_iter().map(|fault| loader.sources.error(fault)).collect())
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

/// Reads a scenario. Mistakes that leave the rest readable are noted in `faults`.
fn plan(loader: &mut Loader, name: &str, read: ReadFile<'_>, faults: &mut Vec<Fault>) -> Read<Option<Plan>> {
    let root = loader.open(name, None, read)?;
    let mut top = Fields::of("a scenario", &root)?;
    if let Some(failure) = top.foreign("failure") {
        let fault = Fault::new(failure.span, "this is a failure file, not a scenario", "a scenario has no `failure`");
        return Err(fault.help(
            "`blockjob-sim replay FILE` reproduces the failure, `blockjob-sim shrink FILE` makes a scenario of it",
        ));
    }
    let about = kept(faults, top.opt("about").map(Node::text).transpose()).flatten();
    // Without its definitions each call of one would be a mistake.
    loader.definitions(name, &mut top, read, 0)?;
    let has_defines = top.opt("define").is_some();
    let files = listed(loader, faults, top.opt("files"));
    let args = kept(faults, top.opt("args").map_or(Ok(Vec::new()), Node::texts)).unwrap_or_default();
    let limits = read_by(faults, top.opt("limits"), Bounds::read);
    let version = read_by(faults, top.opt("qemu"), top::version);
    let quirks = read_by(faults, top.opt("quirks"), top::quirks).of(version);
    let expect_violation = read_by(faults, top.opt("expect-violation"), |node| top::invariant(node).map(Some));
    let schedule = read_by(faults, top.opt("schedule"), top::schedule);
    let definitions_only = has_defines && top.opt("files").is_none() && top.opt("args").is_none();
    let step_list = top.opt("steps");
    if step_list.is_none() && !definitions_only {
        _ = kept(faults, top.req("steps"));
    }
    if step_list.is_some() && about.is_none() && faults.is_empty() {
        _ = kept(faults, top.req("about"));
    }
    let steps = listed(loader, faults, step_list);
    _ = kept(faults, top.end());
    let files = files.iter().filter_map(|file| {
        let op = kept(faults, steps::file_op(&file.node).map_err(|fault| through(fault, file)))?;
        Some(PlannedFile { pos: pos(loader, file.node.span), calls: calls(loader, file), op })
    });
    let files = files.collect();
    let planned = steps.iter().filter_map(|step| {
        let kind = kept(faults, steps::step(&step.node).map_err(|fault| through(fault, step)))?;
        Some(PlannedStep { pos: pos(loader, step.node.span), calls: calls(loader, step), kind })
    });
    let steps = planned.collect();
    let about = about.or_else(|| (!faults.is_empty()).then(|| "".into()));
    let plan = |about| Plan { about, files, args, steps, limits, quirks, expect_violation, schedule };
    Ok(step_list.and(about).map(plan))
}

/// What was read; a mistake is noted.
fn kept<T>(faults: &mut Vec<Fault>, read: Read<T>) -> Option<T> {
    read.map_err(|fault| faults.push(*fault)).ok()
}

/// What `read` makes of a member that may be left out.
fn read_by<T: Default>(faults: &mut Vec<Fault>, node: Option<&Node>, read: impl Fn(&Node) -> Read<T>) -> T {
    kept(faults, node.map_or_else(|| Ok(T::default()), read)).unwrap_or_default()
}

/// The entries of a list, with procedures in place of their calls.
fn listed(loader: &Loader, faults: &mut Vec<Fault>, node: Option<&Node>) -> Vec<Expanded> {
    let entries = kept(faults, node.map_or(Ok(&[][..]), Node::list)).unwrap_or_default();
    loader.expand(entries, faults)
}

/// Notes on a mistake the calls that led to it.
fn through(mut fault: Box<Fault>, step: &Expanded) -> Box<Fault> {
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
