//! Words used everywhere, with no knowledge of disks or jobs.

pub mod digest;
pub mod errno;
pub mod id;
pub mod json;
pub mod nearest;
pub mod sha256;
pub mod spare;
pub mod time;
pub mod units;
pub mod words;

pub use digest::{Digest, Kept};
pub use errno::Errno;
pub use json::Json;
pub use nearest::nearest;
pub use spare::Spare;
pub use words::{counted, grouped, part_of};
