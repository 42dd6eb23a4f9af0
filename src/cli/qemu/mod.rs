//! Commands that stand for QEMU, or work with a real one.

pub(in crate::cli) mod conform;
pub(in crate::cli) mod export;
pub(in crate::cli) mod record;
pub(in crate::cli) mod serve;
pub(in crate::cli) mod stand_in;
pub(in crate::cli) mod validate;
