//! A deterministic simulator of QEMU's block jobs.
//!
//! A scenario says which images there are and which QMP commands are sent; a run of it depends on its choices and on nothing else. This
//! test runs one under a hundred seeds:
//!
//! ```no_run
//! use blockjob_sim::choice::Chooser;
//! use blockjob_sim::sim::outcome::{Outcome, RunOptions};
//! use blockjob_sim::{scenario, sim};
//!
//! let plan = scenario::load_file("sim-scenarios/backup/full.yaml")?;
//! for seed in 0..100 {
//!     let run = sim::run(&plan, Chooser::seed(seed), &RunOptions::default());
//!     assert_eq!(run.outcome, Outcome::Passed, "seed {seed}: {}", run.outcome);
//! }
//! # Ok::<(), Box<scenario::ScenarioError>>(())
//! ```
//!
//! Start here:
//!
//! * [`scenario`]: what a scenario may say, and reading it ([`scenario::load_file`], [`scenario::load_str`]);
//! * [`sim`]: a run ([`sim::run`]), and a run in the middle ([`sim::Sim`]), which can be cloned and continued twice;
//! * [`choice`]: who makes the choices ([`choice::Chooser`]);
//! * [`explore`]: every schedule, or many ([`explore::check`]);
//! * [`generate`]: scenarios from a seed;
//! * [`trace`]: what happened in a run;
//! * [`world`]: the simulated QEMU itself, for sending QMP by hand: [`library`] shows how;
//! * [`architecture`]: how it is built; [`glossary`]: the words that have a meaning of their own here.
//!
//! Of the other modules, [`qmp`], [`host`], [`version`] and [`quirk`] hold what scenarios name (commands, image files, versions of QEMU,
//! its old bugs), [`invariant`] and [`check`] what every run is held to, [`failure`] the file of a run that failed, and [`base`] what
//! all of them use, such as virtual time and JSON. Modules that the command is made of are public, too, and not listed on this page.

pub mod base;
#[doc(hidden)]
pub mod bitmap;
#[doc(hidden)]
pub mod block;
pub mod check;
pub mod choice;
#[doc(hidden)]
#[cfg(feature = "cli")]
pub mod cli;
#[doc(hidden)]
pub mod debug;
pub mod explore;
pub mod failure;
pub mod generate;
pub mod host;
#[doc(hidden)]
#[cfg(feature = "serve")]
pub mod images;
#[doc(hidden)]
#[cfg(feature = "serve")]
pub mod interop;
pub mod invariant;
#[doc(hidden)]
pub mod job;
#[doc(hidden)]
pub mod nbd;
pub mod qmp;
pub mod quirk;
#[doc(hidden)]
pub mod render;
pub mod scenario;
#[doc(hidden)]
#[cfg(feature = "serve")]
pub mod serve;
#[doc(hidden)]
pub mod shrink;
pub mod sim;
pub mod trace;
#[doc(hidden)]
pub mod validate;
pub mod version;
pub mod world;

#[doc = include_str!("../docs/library.md")]
#[allow(clippy::test_attr_in_doctest, reason = "they are shown, and compiled")]
pub mod library {}

#[doc = include_str!("../docs/ARCHITECTURE.md")]
pub mod architecture {}

#[doc = include_str!("../docs/glossary.md")]
pub mod glossary {}

/// The Rust blocks of documents are compiled.
#[cfg(doctest)]
#[allow(clippy::test_attr_in_doctest, reason = "they are shown, and compiled")]
mod documents {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/tour.md")]
    mod tour {}
    #[doc = include_str!("../docs/exploring.md")]
    mod exploring {}
}
