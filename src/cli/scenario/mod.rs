//! Commands about scenario files, which run nothing.

pub(in crate::cli) mod check;
pub(in crate::cli) mod generate;
pub(in crate::cli) mod new;
pub(in crate::cli) mod schema;
