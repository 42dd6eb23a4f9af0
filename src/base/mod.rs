//! Words used everywhere, with no knowledge of disks or jobs.

pub mod errno;
pub mod json;
pub mod sha256;
pub mod units;

pub use errno::Errno;
pub use json::Json;
