//! What guests and jobs ask for: reading, writing, truncating, copying.

pub(super) mod compressed;
pub(super) mod copy_range;
pub(super) mod deflate;
pub(super) mod locked;
pub(super) mod read;
pub(super) mod truncate;
pub(super) mod write;
pub(super) mod zstd;
