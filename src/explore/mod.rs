//! Exploring: many schedules of one scenario, and what came of them.
//!
//! A run is a pure function of its scenario and its choices, so all that a schedule needs to be had again is a [`Strategy`] and a seed.
//! [`exhaust`] tries every schedule, each state once.

mod count;
mod digest;
mod exhaust;
mod graph;
mod search;
mod strategy;

pub use count::{Count, grouped};
pub use digest::{Fingerprint, TraceDigest};
pub use exhaust::{Exhausted, Start, exhaust, listed};
pub use graph::{ClientTrace, Graph};
pub use search::{Caps, Search};
pub use strategy::Strategy;
