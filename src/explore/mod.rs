//! Exploring: many schedules of one scenario, and their results.
//!
//! A run is a pure function of its scenario and its choices, so a [`Strategy`] and a seed are enough to reproduce a schedule.
//! [`exhaust`] tries every schedule, each state once; a [`Campaign`] makes many runs in stages; [`check`] is a campaign for a `#[test]`.

mod alike;
mod atlas;
mod campaign;
mod check;
mod count;
mod digest;
mod exhaust;
mod graph;
mod join;
mod run;
pub mod saved;
mod search;
mod sketch;
mod strategy;
mod tally;

pub use alike::{Mistake, Reduction};
pub use atlas::{Atlas, STATES};
pub use campaign::{
    ANOTHER_RUN, BLOCK, Block, Campaign, CampaignSource, CampaignStage, Drawing, EXHAUST, FailedRun, PORTFOLIO, Worker,
};
pub use check::{Check, check, check_generated};
pub use count::Count;
pub use digest::{Fingerprint, TraceDigest};
pub use exhaust::{Exhausted, StartPoint, exhaust, exhaust_in, listed, off_script};
pub use graph::{ClientTrace, Graph};
pub use join::WorkerStates;
pub use run::{Ran, differs, finish, recorded, run};
pub use search::{Caps, Search};
pub use sketch::Sketch;
pub use strategy::Strategy;
pub use tally::{StageReport, Tally, told};
