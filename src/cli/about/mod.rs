//! Commands by which the program says what it has: help, quirks, completions, the manual page.

pub(in crate::cli) mod help;
pub(in crate::cli) mod quirks;
pub(in crate::cli) mod shells;
