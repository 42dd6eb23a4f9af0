//! Commands that make many runs: searches, campaigns, and how soon they find what is known to be there.

pub(in crate::cli) mod campaign_file;
pub(in crate::cli) mod campaign_page;
pub(in crate::cli) mod explore;
pub(in crate::cli) mod fuzz;
pub(in crate::cli) mod memory;
pub(in crate::cli) mod merge;
pub(in crate::cli) mod museum;
