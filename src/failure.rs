//! A failure as a file: all that is needed to reproduce it, and enough to judge it without doing so.
//!
//! The file is YAML. It contains the whole scenario as a text, with procedures and includes expanded.
//!
//! ```yaml
//! failure: 1
//! tool: blockjob-sim 0.1.0
//! model: 2
//! name: sim-scenarios/group/05-empty-and-failing.yaml
//! strategy: walk
//! seed: 17
//! verdict: {outcome: violated, invariant: group-completion, subject: job drive0, reason: …}
//! trace-digest: 3fa5…
//! choices: ['@17 complete-next 2/5', total 512]
//! trace: […]
//! scenario: |-
//!   about: …
//! ```

use crate::base::{Json, sha256};
use crate::choice::{ChoiceLog, Chooser, Replay, ReplayMode};
use crate::scenario::{self, Plan, ScenarioError, write};
use crate::sim::outcome::{Outcome, Run, RunOptions, Runner};
use crate::trace::jsonl::{self, Header};
use crate::trace::{Level, Trace, text};
use std::fmt;
use std::sync::Arc;

/// Version of the form. It grows when a member is removed or changes its meaning, not when one is added.
pub const VERSION: u64 = 1;

/// Version of the model: it grows when a change makes runs ask for other choices than before, so that recorded ones need not fit.
///
/// | model | what runs ask otherwise than with the one before |
/// |---|---|
/// | 1 | |
/// | 2 | requests at devices are carried out when they complete; commands such as `block_resize` are coroutines; what the host refuses is part of a run; filters stand over `backing` too; more kinds of choices (`bh-order`, `client-wait`, `fault`) |
pub const MODEL: u64 = 2;

/// What is written into new files: this tool's name and version.
pub const TOOL: &str = concat!("blockjob-sim ", env!("CARGO_PKG_VERSION"));

/// How many lines of the trace a file keeps.
const TAIL: usize = 30;

/// How a failed run ended, as far as two failures are compared by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// [`Outcome::word`]
    pub outcome: Arc<str>,
    /// The invariant that was broken, if that is what it was.
    pub invariant: Option<Arc<str>>,
    /// What it was broken for: `job drive0`.
    pub subject: Option<Arc<str>>,
    /// What was expected and what was found.
    pub reason: Arc<str>,
}

impl Verdict {
    /// What is to be said of an outcome; `None` if the run passed.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Option<Verdict> {
        let (mut invariant, mut subject) = (None, None);
        let reason = match outcome {
            Outcome::Passed => return None,
            Outcome::Failed { reason, .. } => reason.clone(),
            Outcome::Stuck { waits, .. } => waits.join("; "),
            Outcome::Limit { what, .. } => what.clone(),
            Outcome::Crash { message, .. } => message.clone(),
            Outcome::Diverged(divergence) => divergence.to_string(),
            Outcome::Violated { invariant: broken, subject: of, reason, .. } => {
                (invariant, subject) = (Some(Arc::from(*broken)), Some(Arc::from(&**of)));
                reason.to_string()
            }
        };
        Some(Verdict { outcome: outcome.word().into(), invariant, subject, reason: reason.into() })
    }

    /// Whether two failures are of one kind: the same invariant, broken for the same kind of thing. Failures that no invariant stands
    /// behind have reasons that say the same but for names and numbers.
    #[must_use]
    pub fn same_kind(&self, other: &Verdict) -> bool {
        let kind = |subject: &Option<Arc<str>>| subject.as_ref().map(|s| s.split(' ').next().unwrap_or("").to_owned());
        if (&self.outcome, &self.invariant) != (&other.outcome, &other.invariant) {
            return false;
        }
        match &self.invariant {
            Some(_) => kind(&self.subject) == kind(&other.subject),
            None => {
                without_names(&self.reason) == without_names(&other.reason)
                    && error_of(&self.reason) == error_of(&other.reason)
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.outcome)?;
        if let Some(invariant) = &self.invariant {
            write!(f, " {invariant}")?;
        }
        if let Some(subject) = &self.subject {
            write!(f, " ({subject})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The error that a command gave, in a reason that shows one: its class, and its text without names and numbers. Without that, whoever
/// makes a failure small would end with a command that is no command.
fn error_of(reason: &str) -> Option<(&str, String)> {
    let between = |begin: &str, end: &str| Some(reason.split_once(begin)?.1.split_once(end)?.0);
    Some((between("\"class\": \"", "\"")?, without_names(between("\"desc\": \"", "\"}")?)))
}

/// A reason without its numbers and quoted texts.
fn without_names(reason: &str) -> String {
    let mut out = String::new();
    let mut quote = None;
    // Who waits for whom differs with everything else; that it is the client, and for what, does not.
    for c in reason.split("; ").next().unwrap_or("").chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c.is_ascii_digit() => {}
            None => out.push(c),
        }
    }
    out
}

/// A failed run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// Name and version of the tool that found it.
    pub tool: Arc<str>,
    /// Version of the model that it was found with.
    pub model: u64,
    /// Where the scenario came from: its file, or `--generate` and its seed.
    pub name: Arc<str>,
    /// The scenario, with all quirks that were in force.
    pub plan: Plan,
    /// The strategy that made the choices.
    pub strategy: Arc<str>,
    /// The seed that they came from.
    pub seed: Option<u64>,
    /// The choices that were not calm, or all of them.
    pub choices: Arc<ChoiceLog>,
    /// How it ended.
    pub verdict: Verdict,
    /// SHA-256 of what the client saw, times included.
    pub digest: Arc<str>,
    /// The last lines of the trace.
    pub tail: Vec<Arc<str>>,
}

/// The result of reproducing a failure.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shown {
    /// How it ended, with its trace and its choices.
    pub run: Run,
    /// Whether it is the same failure and the same trace.
    pub same: bool,
    /// What is different, a line each.
    pub differences: Vec<String>,
}

impl Failure {
    /// The failure that `run` of `plan` came to; `None` if it passed. The run must have kept its choices and a trace.
    #[must_use]
    pub fn of(name: &str, plan: &Plan, strategy: &str, seed: Option<u64>, run: &Run) -> Option<Failure> {
        let verdict = Verdict::of(&run.outcome)?;
        Some(Failure {
            tool: TOOL.into(),
            model: MODEL,
            name: name.into(),
            plan: plan.clone().without_places(),
            strategy: strategy.into(),
            seed,
            choices: Arc::new(run.choices.deviations()),
            verdict,
            digest: digest(&run.trace).into(),
            tail: tail(&run.trace),
        })
    }

    /// Makes the same choices again. A list that does not fit ends the run with [`Outcome::Diverged`], or in the lenient mode is left
    /// for calm choices where it does not.
    #[must_use]
    pub fn replay(&self, runner: Runner, mode: ReplayMode, options: &RunOptions) -> Shown {
        let chooser = Chooser::Replay(Replay::new(self.choices.clone(), mode));
        let level = options.level.unwrap_or(Level::Client);
        let check = options.check || self.verdict.invariant.is_some();
        let options = RunOptions { level: Some(level), record_choices: true, check, ..*options };
        let run = runner(&self.plan, chooser, &options);
        let mut differences = Vec::new();
        match Verdict::of(&run.outcome) {
            Some(verdict) if verdict == self.verdict => {}
            Some(verdict) if verdict.same_kind(&self.verdict) => {
                differences
                    .push(format!("the same kind of failure, in other words: was {}, is {verdict}", self.verdict));
            }
            Some(verdict) => differences.push(format!("another failure: was {}, is {verdict}", self.verdict)),
            None => differences.push(format!("no failure: was {}", self.verdict)),
        }
        if run.choices.deviations() != *self.choices && !matches!(run.outcome, Outcome::Diverged(_)) {
            differences.push(first_other_choice(&self.choices, &run.choices));
        }
        if *self.digest != *digest(&run.trace) {
            differences.push("the client sees another trace".to_owned());
        }
        if !differences.is_empty() && (&*self.tool, self.model) != (TOOL, MODEL) {
            let by = format!("found with {} (model {}), this is {TOOL} (model {MODEL})", self.tool, self.model);
            differences.push(by);
        }
        Shown { run, same: differences.is_empty(), differences }
    }

    /// The text of the file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = |text: &Arc<str>| Json::Str(text.clone());
        let lines = |text: String| Json::list(text.lines().map(Json::str).collect());
        let mut verdict = vec![("outcome", text(&self.verdict.outcome))];
        verdict.extend(self.verdict.invariant.as_ref().map(|invariant| ("invariant", text(invariant))));
        verdict.extend(self.verdict.subject.as_ref().map(|subject| ("subject", text(subject))));
        verdict.push(("reason", text(&self.verdict.reason)));
        let mut members = vec![
            ("failure", Json::uint(VERSION)),
            ("tool", text(&self.tool)),
            ("model", Json::uint(self.model)),
            ("name", text(&self.name)),
            ("strategy", text(&self.strategy)),
        ];
        members.extend(self.seed.map(|seed| ("seed", Json::uint(seed))));
        members.push(("verdict", Json::dict(verdict)));
        members.push(("trace-digest", text(&self.digest)));
        members.push(("choices", lines(self.choices.to_string())));
        members.push(("trace", Json::list(self.tail.iter().map(text).collect())));
        let scenario = write::to_yaml(&self.plan);
        write::document(&members, &[("scenario", &scenario)])
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_text(name: &str, text: &str) -> Result<Failure, FailureError> {
        let wrong = |what: &str| FailureError::Form { name: name.to_owned(), problem: what.to_owned() };
        let json = scenario::value(name, text).map_err(FailureError::Yaml)?;
        let version = json.get("failure").and_then(Json::as_u64);
        let version = version.ok_or_else(|| wrong("this is no failure file: expected `failure: 1`"))?;
        if version > VERSION {
            return Err(wrong(&format!("its form is of version {version}; this tool reads up to {VERSION}")));
        }
        let member = |of: &Json, key: &str| -> Result<Arc<str>, FailureError> {
            match of.get(key) {
                Some(Json::Str(text)) => Ok(text.clone()),
                _ => Err(wrong(&format!("expected a text behind `{key}`"))),
            }
        };
        let lines = |key: &str| -> Result<Vec<Arc<str>>, FailureError> {
            let items = json.get(key).and_then(Json::as_list).unwrap_or(&[]);
            let line = |item: &Json| item.as_str().map(Arc::from);
            let lines: Option<Vec<Arc<str>>> = items.iter().map(line).collect();
            lines.ok_or_else(|| wrong(&format!("expected a list of texts behind `{key}`")))
        };
        let choices: ChoiceLog =
            lines("choices")?.join("\n").parse().map_err(|error| wrong(&format!("choices: {error}")))?;
        let verdict = json.get("verdict").ok_or_else(|| wrong("expected the member `verdict`"))?;
        let scenario = member(&json, "scenario")?;
        let mut read = |asked: &str| match asked == name {
            true => Ok(scenario.to_string()),
            false => Err("a scenario in a failure file includes nothing".to_owned()),
        };
        let plan = scenario::load(name, &mut read).map_err(FailureError::Yaml)?;
        Ok(Failure {
            tool: member(&json, "tool")?,
            model: json.get("model").and_then(Json::as_u64).ok_or_else(|| wrong("expected a number behind `model`"))?,
            name: member(&json, "name")?,
            plan: plan.ok_or_else(|| wrong("its scenario has no steps"))?.without_places(),
            strategy: member(&json, "strategy")?,
            seed: json.get("seed").and_then(Json::as_u64),
            choices: Arc::new(choices),
            verdict: Verdict {
                outcome: member(verdict, "outcome")?,
                invariant: member(verdict, "invariant").ok(),
                subject: member(verdict, "subject").ok(),
                reason: member(verdict, "reason")?,
            },
            digest: member(&json, "trace-digest")?,
            tail: lines("trace")?,
        })
    }
}

/// Where two lists of what was not calm part.
fn first_other_choice(was: &ChoiceLog, run: &ChoiceLog) -> String {
    let is = run.deviations();
    let part = was.entries().iter().zip(is.entries()).find(|(a, b)| a != b);
    let longer = was.len().min(is.len());
    let at = part.map(|(a, b)| a.index.min(b.index));
    let at = at.or_else(|| was.entries().get(longer).or_else(|| is.entries().get(longer)).map(|entry| entry.index));
    match at {
        Some(at) => format!("other choices from number {at} on"),
        None => "another number of choices".to_owned(),
    }
}

/// What is wrong with a failure file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailureError {
    /// It is no failure file, or one that lacks something.
    #[error("{name}: {problem}")]
    Form {
        /// The file's name as it was given.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// Its text, or the scenario in it, has a mistake; places of a scenario are those within its own text.
    #[error("{0}")]
    Yaml(Box<ScenarioError>),
}

/// SHA-256 of what a client sees, times included.
#[must_use]
pub fn digest(trace: &Trace) -> String {
    let header = Header { scenario: "".into(), schedule: "".into(), level: Level::Client };
    sha256::of_text(&jsonl::to_string(&header, trace, true))
}

fn tail(trace: &Trace) -> Vec<Arc<str>> {
    let lines = |record| {
        let mut line = String::new();
        text::write_line(record, &mut line);
        Arc::from(line.trim_end())
    };
    let records = trace.iter().count();
    trace.iter().skip(records.saturating_sub(TAIL)).map(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: &str) -> Verdict {
        let reason = format!("expected a return value, got {{\"error\": {error}}}");
        Verdict::of(&Outcome::Failed { at: None, reason }).expect("it fails")
    }

    #[test]
    fn an_error_is_another_failure_than_another_error() {
        let gone = failed(r#"{"class": "DeviceNotActive", "desc": "Block job 'job0' not found"}"#);
        assert!(gone.same_kind(&failed(r#"{"class": "DeviceNotActive", "desc": "Block job 'j' not found"}"#)));
        assert!(!gone.same_kind(&failed(r#"{"class": "GenericError", "desc": "QMP input lacks member 'execute'"}"#)));
        assert!(
            !gone.same_kind(&failed(r#"{"class": "DeviceNotActive", "desc": "No active block job on device 'd'"}"#))
        );
    }
}
