//! Parts of the job layer: what holds of jobs without knowing the world that runs them.

pub mod status;
