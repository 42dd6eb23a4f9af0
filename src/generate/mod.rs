//! Scenarios from a seed: drives, images and faults, and a program of commands for them.
//!
//! All that is generated is within what the model simulates (`docs/not-simulated.md`); their results are not known in advance, so every
//! reply is taken as it comes ([`Expect::Any`](crate::scenario::plan::Expect::Any)): what is right is for invariants to say, or for a
//! real QEMU. How much there is of what is drawn too ([`Knobs`]), so that programs differ in kind and not in order alone.
//!
//! What jobs stumble over is drawn more often than clients come to it: disks without a byte, targets that hold old data, images whose backing
//! file is missing, faults that strike after a mirror is READY, guests that write right behind a command. Images that no command names
//! are not made, as programs are many and short.
//!
//! A program ends: after the last command its jobs are let run, then cancelled, finalised and dismissed, and what is left is asked for.

mod backup;
mod chain;
mod draw;
mod exports;
mod guest;
mod jobs;
mod knobs;
mod odd;
mod program;
mod shape;
#[cfg(feature = "proptest")]
pub mod strategies;
mod wrong;

pub use knobs::{ClientKind, Knobs};

use crate::base::time::Span;
use crate::scenario::plan::{Limits, Plan, PlannedFile, PlannedStep, Schedule};
use crate::scenario::write::Remarks;
use program::Program;
use shape::Shape;

/// What may be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kind of program; `None` lets the seed say.
    pub kind: Option<ClientKind>,
    /// Whether there may be what QEMU 10.0.2 crashes on or hangs over: a backup by a bitmap that its own transaction adds, and what
    /// `docs/not-simulated.md` names. For comparisons with a real QEMU it is better left out.
    pub crashes: bool,
    /// Whether there is more than backups and bitmaps: mirrors, commits and streams, hotplug, resets, reopening, odd arguments.
    pub all_kinds: bool,
    /// Whether there are exports of the NBD server, and clients of it.
    pub exports: bool,
}

impl Options {
    /// What `blockjob-sim generate` has to be told for these, a space before each word.
    #[must_use]
    pub fn switches(&self) -> String {
        let kind = self.kind.map_or_else(String::new, |kind| format!(" --kind {kind}"));
        let crashes = if self.crashes { "" } else { " --no-crashes" };
        let exports = if self.exports { " --exports" } else { "" };
        format!("{kind}{crashes}{}{exports}", if self.all_kinds { "" } else { " --backups-only" })
    }

    /// The inverse of [`Options::switches`].
    ///
    /// # Errors
    /// Which word is none of those.
    pub fn of_switches(words: &str) -> Result<Options, String> {
        let mut options = Options { all_kinds: true, ..Options::default() };
        let mut words = words.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "--kind" => options.kind = Some(words.next().unwrap_or_default().parse()?),
                "--no-crashes" => options.crashes = false,
                "--backups-only" => options.all_kinds = false,
                "--exports" => options.exports = true,
                _ => return Err(format!("`{word}` says nothing of what is generated")),
            }
        }
        Ok(options)
    }
}

impl Default for Options {
    fn default() -> Options {
        Options { kind: None, crashes: true, all_kinds: false, exports: false }
    }
}

/// A generated scenario and what it was drawn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// As `generate` takes it; the same one gives the same scenario in one version of this program.
    pub seed: u64,
    /// As if it had been read from a file.
    pub plan: Plan,
    /// How much there is of what.
    pub knobs: Knobs,
    /// Within what it was drawn.
    pub options: Options,
}

impl Generated {
    /// The scenario as a file, with its knobs above it.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut head = vec![format!(
            "blockjob-sim generate --seed {}{}",
            self.seed,
            Options { kind: Some(self.knobs.kind), ..self.options }.switches()
        )];
        head.extend(self.knobs.table().lines().map(|line| format!("  {line}")));
        crate::scenario::write::with_remarks(&self.plan, &Remarks { head, ..Remarks::default() })
    }
}

/// The scenario of a seed.
#[must_use]
pub fn scenario(seed: u64) -> Generated {
    with(&Options::default(), seed)
}

/// The scenario of a seed that is of this kind.
#[must_use]
pub fn program(kind: ClientKind, seed: u64) -> Generated {
    with(&Options { kind: Some(kind), ..Options::default() }, seed)
}

/// The scenario of a seed, within what the options allow.
#[must_use]
pub fn with(options: &Options, seed: u64) -> Generated {
    drawn_with(*options, Knobs::draw(options, seed), seed)
}

/// The same with so many commands. Fewer commands are the first ones of more.
#[must_use]
pub fn with_commands(options: &Options, seed: u64, commands: usize) -> Generated {
    drawn_with(*options, Knobs { commands, ..Knobs::draw(options, seed) }, seed)
}

fn drawn_with(options: Options, knobs: Knobs, seed: u64) -> Generated {
    let (steps, mut shape) = Program::new(&knobs, Shape::draw(&knobs, seed), seed).write();
    shape.without_unnamed(&steps);
    if knobs.odd_in_ten > 0 {
        shape.controller();
    }
    let files = shape.files.into_iter().map(PlannedFile::new).collect();
    let args = shape.args;
    let plan = Plan {
        about: format!("Generated from seed {seed}, {}.", knobs.kind.says()).into(),
        files,
        args,
        steps: steps.into_iter().map(PlannedStep::new).collect(),
        limits: Limits { steps: Some(5_000_000), time: Some(Span::from_secs(10_000 * 3600)), trace: Some(100_000) },
        quirks: crate::quirk::Quirks::NONE,
        expect_violation: None,
        schedule: Schedule::Any,
    };
    Generated { seed, plan, knobs, options }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    #[test]
    fn switches_say_what_is_drawn() {
        for options in [
            Options::default(),
            Options { kind: Some(ClientKind::Racing), crashes: false, all_kinds: true, exports: true },
            Options { kind: Some(ClientKind::Hostile), ..Options::default() },
        ] {
            assert_eq!(Options::of_switches(&options.switches()), Ok(options));
        }
        assert_eq!(Options::of_switches("--kind x").unwrap_err(), ClientKind::from_str("x").unwrap_err());
        assert_eq!(Options::of_switches("all").unwrap_err(), "`all` says nothing of what is generated");
    }
}
