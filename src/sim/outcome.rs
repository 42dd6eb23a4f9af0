//! How a run ends.

use crate::base::time::Instant;
use crate::check::Finding;
use crate::choice::{ChoiceLog, Chooser, Divergence};
use crate::invariant::{FindingPage, in_words};
use crate::quirk::Quirks;
use crate::scenario::Pos;
use crate::scenario::plan::Plan;
use crate::trace::{Level, Trace};
use std::fmt;
use std::sync::Arc;

/// What the caller of a run wants to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RunOptions {
    /// Level of the trace; `None` for no trace at all.
    pub level: Option<Level>,
    /// Whether all choices are noted.
    pub record_choices: bool,
    /// Quirks in force beside those of the scenario.
    pub quirks: Quirks,
    /// Whether all invariants are watched. They are, too, in a scenario that breaks one on purpose.
    pub check: bool,
}

/// How a run ended and what is left of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// What happened.
    pub trace: Trace,
    /// What was chosen; empty unless asked for.
    pub choices: ChoiceLog,
    /// When it ended.
    pub time: Instant,
    /// Dispatches of the main loop.
    pub dispatches: u64,
    /// Bugs of QEMU 10.0.2 that it met, if invariants were watched.
    pub findings: Vec<Finding>,
}

/// Something that can run scenarios: [`crate::sim`]'s own runner, or a stand-in of a test.
pub type Runner = fn(&Plan, Chooser, &RunOptions) -> Run;

/// A step of the scenario, for messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StepAt {
    /// Number of the step, from 0.
    pub step: u32,
    /// Where it stands.
    pub pos: Pos,
    /// The `call` steps that led there, outermost first.
    pub calls: Arc<[Pos]>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// All steps were done and all expectations met.
    Passed,
    /// An expectation was not met.
    Failed {
        /// The step; `None` before the first.
        at: Option<StepAt>,
        /// What was expected and what was found.
        reason: String,
    },
    /// An invariant does not hold.
    Violated {
        /// The step that was under way; `None` before the first and after the last.
        at: Option<StepAt>,
        /// The invariant's name.
        invariant: &'static str,
        /// The thing it does not hold for: `job drive0`.
        subject: Box<str>,
        /// What was expected and what was found.
        reason: Box<str>,
        /// The page of `docs/findings` that describes it, if it is a known defect of QEMU 10.0.2.
        page: Option<FindingPage>,
        /// Frames run until then.
        step: u64,
        /// When that was.
        time: Instant,
    },
    /// Nothing can go on, though the scenario is not done.
    Stuck {
        /// The step that waits.
        at: Option<StepAt>,
        /// Who waits for what, a line each.
        waits: Vec<String>,
    },
    /// A limit was met.
    Limit {
        /// The step that was under way.
        at: Option<StepAt>,
        /// Which limit, with its value.
        what: String,
        /// Who waits for what, a line each.
        waits: Vec<String>,
    },
    /// The simulator broke one of its own rules: a bug of ours.
    Crash {
        /// The step that was under way.
        at: Option<StepAt>,
        /// Of the panic, with its place in our source.
        message: String,
    },
    /// A replayed log did not fit.
    Diverged(Divergence),
}

impl Outcome {
    /// The word for it in a report.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed { .. } => "failed",
            Outcome::Violated { .. } => "violated",
            Outcome::Stuck { .. } => "stuck",
            Outcome::Limit { .. } => "limit",
            Outcome::Crash { .. } => "crash",
            Outcome::Diverged(_) => "diverged",
        }
    }

    /// The page of `docs/findings` that says why a run ends so, if the defect is QEMU's and known.
    #[must_use]
    pub fn page(&self) -> Option<&'static str> {
        match self {
            Outcome::Violated { page, .. } => page.map(FindingPage::name),
            _ => None,
        }
    }

    /// Exit code of the command: 0 passed, 1 failed (also an invariant broken, stuck, or a limit), 3 crash, 4 divergence. 2 is for mistakes in
    /// files and arguments, which no run has.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Outcome::Passed => 0,
            Outcome::Failed { .. } | Outcome::Violated { .. } | Outcome::Stuck { .. } | Outcome::Limit { .. } => 1,
            Outcome::Crash { .. } => 3,
            Outcome::Diverged(_) => 4,
        }
    }
}

/// Several lines: the first says what happened and where, the others what is known of it.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken;
        let (at, reason, waits): (_, &str, &[String]) = match self {
            Outcome::Passed => return f.write_str("passed"),
            Outcome::Failed { at, reason } => (at, reason, &[]),
            Outcome::Violated { at, invariant, subject, reason, time, page, .. } => {
                let page = page.map_or_else(String::new, |page| in_words(page.name()));
                broken = format!("{invariant}: {subject}: {reason}{page} (at {time})");
                (at, &broken, &[])
            }
            Outcome::Stuck { at, waits } => (at, "nothing can go on", waits),
            Outcome::Limit { at, what, waits } => (at, what, waits),
            Outcome::Crash { at, message } => (at, message, &[]),
            Outcome::Diverged(divergence) => return write!(f, "diverged: {divergence}"),
        };
        match at {
            Some(StepAt { step, pos, calls }) => {
                // A step of a failure file stands in no other file.
                if !pos.file.is_empty() {
                    write!(f, "{}:{}: ", pos.file, pos.line)?;
                }
                write!(f, "{} in step {}: {reason}", self.word(), step + 1)?;
                for call in calls.iter().rev() {
                    write!(f, "\n  called from {call}")?;
                }
            }
            None if matches!(self, Outcome::Violated { .. }) => write!(f, "violated after the last step: {reason}")?,
            None => write!(f, "{} before the first step: {reason}", self.word())?,
        }
        waits.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// The class of the error that a command gave, in a reason that shows one.
#[must_use]
pub fn error_class(reason: &str) -> Option<&str> {
    Some(reason.split_once("\"class\": \"")?.1.split_once('"')?.0)
}
