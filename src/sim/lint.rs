//! Mistakes that can be seen without a run: names that QEMU does not know, arguments that it refuses, files that nobody makes, jobs, nodes,
//! bitmaps and NBD clients that are not there, and what cannot start.
//!
//! A step that expects an error, or any reply, may say what it likes: it is there to see what QEMU says of it.

use super::Sim;
use super::names::{Names, NbdPeers};
use super::outcome::{Outcome, RunOptions};
use crate::base::Json;
use crate::base::nearest;
use crate::bitmap::check_granularity;
use crate::job::status::JobStatus;
use crate::qmp::Command;
use crate::qmp::event::{EVENTS, members};
use crate::qmp::names::{commands, find_command};
use crate::qmp::{ErrorClass, QmpError, parse_request};
use crate::scenario::nbd::{NbdAction, NbdStep};
use crate::scenario::plan::{EventPattern, Expect, Fails, FileOp, Plan, PlannedStep, Pos, StepKind};
use crate::scenario::steps::{self, NameOf};
use crate::scenario::{ReadFile, ScenarioError, SourcePlace, SourceSpan};
use crate::version::Version;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A mistake on its way to its place.
pub(super) struct Mistake {
    message: String,
    expected: String,
    /// The word that the caret stands at, if it is found behind the step's beginning.
    word: Option<String>,
}

impl Mistake {
    pub(super) fn new(message: impl Into<String>, expected: impl Into<String>, word: Option<&str>) -> Mistake {
        Mistake { message: message.into(), expected: expected.into(), word: word.map(str::to_owned) }
    }

    /// A name that is not among those that are known.
    fn unknown(name: &str, what: &str, known: &[&str]) -> Mistake {
        let expected = match nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.len() <= 16 => format!("expected one of: {}", known.join(", ")),
            None => "not known to QEMU 10.0.2".to_owned(),
        };
        Mistake::new(format!("QEMU has no {what} `{name}`"), expected, Some(name))
    }
}

/// What is wrong with a scenario whose form is right, in the order of its steps. If it is not the `whole`, because some of it could not be
/// read, nothing is said of files that are not made, and it is not started. `read` gets the text of its files, to show the places.
#[must_use]
pub fn mistakes(plan: &Plan, whole: bool, read: ReadFile<'_>) -> Vec<ScenarioError> {
    let mut found = Vec::new();
    let (files, names) = (Files::of(plan, whole), Names::of(plan, whole));
    let mut peers = NbdPeers::default();
    for step in plan.steps.iter() {
        let mut mistakes = of_step(step, plan.quirks.version(), &files);
        // One mistake of a step may bring others along.
        if mistakes.is_empty() {
            mistakes = names.missing_in(step);
        }
        if let StepKind::Nbd(step) = &step.kind {
            mistakes.extend(peers.step(step).filter(|_| whole));
        }
        for mistake in mistakes {
            let mistake = placed(&step.pos, &step.calls, mistake, read);
            // `wait:` stands for several steps.
            if found.last() != Some(&mistake) {
                found.push(mistake);
            }
        }
    }
    if found.is_empty()
        && whole
        && let Some(error) = start(plan, read)
    {
        found.push(error);
    }
    found
}

/// Why the process does not start.
fn start(plan: &Plan, read: ReadFile<'_>) -> Option<ScenarioError> {
    let outcome = Sim::new(plan, &RunOptions::default()).err()?;
    let (at, reason) = match outcome {
        Outcome::Failed { at, reason } => (at, reason),
        other => (None, other.to_string()),
    };
    let expected = "this is where it fails";
    if let Some(at) = at {
        return Some(placed(&at.pos, &at.calls, Mistake::new(reason, expected, None), read));
    }
    let first = plan.files.first().map(|file| &file.pos).or_else(|| plan.steps.first().map(|step| &step.pos));
    let file = first.map_or_else(|| "".into(), |pos| pos.file.clone());
    let pos = Pos { file, line: 1, column: 1 };
    // The message begins with the option and its value, as QEMU's do.
    let option = reason.split_once([' ', '=']).map(|(option, _)| option.to_owned());
    let option = option.filter(|option| option.starts_with('-'));
    let mistake =
        Mistake::new(format!("QEMU does not start: {reason}"), expected, Some(option.as_deref().unwrap_or("args")));
    Some(placed(&pos, &[], mistake, read))
}

fn of_step(step: &PlannedStep, version: Version, files: &Files) -> Vec<Mistake> {
    match &step.kind {
        StepKind::Qmp { command, expect: Expect::Return(_) } => command_mistakes(command, version, files),
        StepKind::Qmp { expect: Expect::Error { class: Some(class), .. }, .. } => {
            let known = ErrorClass::NAMES;
            let wrong = !known.contains(&&**class);
            wrong.then(|| Mistake::unknown(class, "class of errors", &known)).into_iter().collect()
        }
        StepKind::Hmp { line, fails: Fails::No, .. } => {
            let why = super::look::hmp_refusal(line);
            let expected = "`fails: true` says that this is expected";
            why.map(|why| Mistake::new(format!("QEMU refuses this line: {why}"), expected, None)).into_iter().collect()
        }
        kind => {
            let mut found = Vec::new();
            steps::names(kind, &mut |of, name| match of {
                NameOf::Event if !EVENTS.contains(&name) => found.push(Mistake::unknown(name, "event", &EVENTS)),
                NameOf::File => found.extend(files.missing(name, true)),
                NameOf::Event | NameOf::NewFile => {}
            });
            match kind {
                StepKind::File(FileOp::QemuImg(img)) if img.status == 0 => {
                    found.extend(super::qemu_img::image(&img.words).and_then(|file| files.missing(&file, true)));
                }
                StepKind::File(FileOp::Host(change)) => {
                    found.extend(change.file().and_then(|file| files.missing(file, true)));
                }
                StepKind::Nbd(NbdStep { action: NbdAction::Serve(server), .. }) => {
                    found.extend(files.missing(&server.file, true));
                }
                _ => {}
            }
            match kind {
                StepKind::Event(pattern) if found.is_empty() => event_mistakes(pattern),
                _ => found,
            }
        }
    }
}

fn command_mistakes(command: &Json, version: Version, files: &Files) -> Vec<Mistake> {
    let Some(name) = ["execute", "exec-oob"].iter().find_map(|key| command.get(key)).and_then(Json::as_str) else {
        return Vec::new();
    };
    if find_command(name, version).is_none() {
        return vec![Mistake::unknown(name, "command", &commands(version))];
    }
    let typed =
        parse_request(command, true).map_err(|(error, _)| error).and_then(|request| request.typed(true, version));
    match typed {
        Ok(Command::NotSimulated(name)) => {
            let message = format!("not simulated: {name}");
            return vec![Mistake::new(message, "docs/not-simulated.md lists what is missing", Some(name))];
        }
        Ok(_) => {}
        Err(QmpError { desc, .. }) => {
            // 'actions[0].data.granularity': the last name of the path.
            let quoted = desc.split('\'').nth(1).and_then(|path| path.rsplit('.').next());
            return vec![Mistake::new(format!("QEMU refuses this command: {desc}"), "refused", quoted.or(Some(name)))];
        }
    }
    let mut found = Vec::new();
    if let Some(arguments) = command.get("arguments") {
        if matches!(name, "block-dirty-bitmap-add" | "transaction") {
            granularities(arguments, &mut found);
        }
        if name == "blockdev-add" {
            opened(arguments, &mut |file| found.extend(files.missing(file, false)));
        }
    }
    found
}

/// Granularities that no bitmap can have.
fn granularities(value: &Json, found: &mut Vec<Mistake>) {
    match value {
        Json::Dict(members) => {
            for (key, value) in members.iter() {
                let number = match value {
                    Json::Int(n) => u64::try_from(*n).ok(),
                    Json::Uint(n) => Some(*n),
                    _ => None,
                };
                match number.filter(|_| &**key == "granularity").map(check_granularity) {
                    Some(Err(why)) => {
                        found.push(Mistake::new(why, "expected a power of two from 512", Some("granularity")))
                    }
                    Some(Ok(())) => {}
                    None => granularities(value, found),
                }
            }
        }
        Json::List(items) => items.iter().for_each(|item| granularities(item, found)),
        _ => {}
    }
}

/// The files that a `blockdev-add` opens.
fn opened(value: &Json, each: &mut dyn FnMut(&str)) {
    let Json::Dict(members) = value else { return };
    if value.get("driver").and_then(Json::as_str) == Some("file")
        && let Some(file) = value.get("filename").and_then(Json::as_str)
    {
        each(file);
    }
    members.iter().for_each(|(_, value)| opened(value, each));
}

fn event_mistakes(pattern: &EventPattern) -> Vec<Mistake> {
    let mut found = Vec::new();
    let data: &[(Arc<str>, Json)] = pattern.data.as_ref().and_then(Json::as_dict).unwrap_or_default();
    if let Some(known) = members(&pattern.name) {
        // What may not be there need not be known.
        for (member, _) in data.iter().filter(|(member, _)| &**member != "exact" && !known.contains(&&**member)) {
            found.push(Mistake::unknown(member, &format!("member of {}", pattern.name), known));
        }
    }
    for (key, value) in data {
        let known: Vec<&str> = match (&*pattern.name, &**key) {
            ("JOB_STATUS_CHANGE", "status") => JobStatus::ALL.iter().map(|status| status.name()).collect(),
            ("BLOCK_JOB_ERROR" | "BLOCK_IO_ERROR", "operation") => vec!["read", "write"],
            ("BLOCK_JOB_ERROR" | "BLOCK_IO_ERROR", "action") => vec!["ignore", "report", "stop"],
            _ => continue,
        };
        if let Some(word) = value.as_str().filter(|word| !known.contains(word)) {
            found.push(Mistake::unknown(word, key, &known));
        }
    }
    found
}

/// Names of files that are there, or may be: what steps make, and what commands name.
struct Files {
    made: BTreeSet<Arc<str>>,
    /// All texts of commands that may make a file, joined.
    said: String,
    /// All texts of other commands and of QEMU's arguments.
    opened: String,
    /// Nothing is said of any file.
    silent: bool,
}

impl Files {
    fn of(plan: &Plan, whole: bool) -> Files {
        let mut files =
            Files { made: BTreeSet::new(), said: String::new(), opened: plan.args.join("\n"), silent: !whole };
        let mut makes = |of, name: &str| {
            if of == NameOf::NewFile {
                files.made.insert(name.into());
            }
        };
        for file in &plan.files {
            steps::names_on_files(&file.op, &mut makes);
        }
        for step in plan.steps.iter() {
            steps::names(&step.kind, &mut makes);
        }
        for step in plan.steps.iter() {
            match &step.kind {
                StepKind::Qmp { command, .. } => {
                    let opens = command.get("execute").and_then(Json::as_str) == Some("blockdev-add");
                    let to = if opens { &mut files.opened } else { &mut files.said };
                    to.push_str(&crate::trace::canonical::to_string(command));
                }
                StepKind::Hmp { line, .. } => files.said.push_str(line),
                _ => {}
            }
        }
        files
    }

    /// Says so if nobody makes this file; `seen`: it is also enough that a command opens it.
    fn missing(&self, file: &str, seen: bool) -> Option<Mistake> {
        let plain = !file.is_empty() && !file.contains([':', '{', '"', '\\', '/']);
        let known = self.made.contains(file) || self.said.contains(file) || (seen && self.opened.contains(file));
        (plain && !known && !self.silent).then(|| {
            let known: Vec<&str> = self.made.iter().map(|name| &**name).collect();
            let expected = match nearest(file, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "expected a file that `files` or a step before it makes".to_owned(),
            };
            Mistake::new(format!("nothing makes the file `{file}`"), expected, Some(file))
        })
    }
}

/// Joins a mistake with its place in the text.
fn placed(pos: &Pos, calls: &[Pos], mistake: Mistake, read: ReadFile<'_>) -> ScenarioError {
    let mut place = |pos: &Pos, word: Option<&str>, label: String| {
        let text = read(&pos.file).unwrap_or_default();
        let (mut span, mut at) = (SourceSpan { line: pos.line, column: pos.column, ..SourceSpan::default() }, 0);
        for line in text.split_inclusive('\n').take(pos.line.saturating_sub(1) as usize) {
            at += line.len();
        }
        at += text[at..].chars().take(pos.column.saturating_sub(1) as usize).map(char::len_utf8).sum::<usize>();
        let rest = &text[at..];
        let found = word.and_then(|word| rest.find(word).map(|found| (found, word.len())));
        let line = rest.lines().next().map_or(1, |line| line.trim_end().len());
        let (found, len) = found.unwrap_or((0, line.max(1)));
        span.line += u32::try_from(rest[..found].matches('\n').count()).unwrap_or(0);
        let begin = text[..at + found].rfind('\n').map_or(0, |end| end + 1);
        span.column = u32::try_from(text[begin..at + found].chars().count() + 1).unwrap_or(1);
        (span.offset, span.len) = (u32::try_from(at + found).unwrap_or(0), u32::try_from(len).unwrap_or(1));
        SourcePlace { file: pos.file.clone(), text: text.into(), span, label }
    };
    ScenarioError {
        message: mistake.message,
        place: place(pos, mistake.word.as_deref(), mistake.expected),
        help: None,
        calls: calls.iter().rev().map(|call| place(call, None, "called here".to_owned())).collect(),
    }
}
