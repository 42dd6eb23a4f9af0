//! What disks and bitmaps hold.

pub(super) mod backup_content;
pub(super) mod bitmap_after_job;
pub(super) mod bitmap_covers;
pub(super) mod discard_arrives;
pub(super) mod disk;
pub(super) mod flushed;
pub(super) mod last_write;
