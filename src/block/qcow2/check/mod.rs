//! Checking and repairing an image that was not closed.

pub(super) mod rebuild;
pub(super) mod repair;
