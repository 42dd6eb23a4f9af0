//! What a process as a whole does: what is left of it, whether it comes to rest.

pub(super) mod comes_to_rest;
pub(super) mod drained;
pub(super) mod faults;
pub(super) mod nothing_left;
