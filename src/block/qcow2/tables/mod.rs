//! Metadata: L1, L2 and refcount tables, and persistent bitmaps.

pub(super) mod alloc;
pub(super) mod bitmap;
pub(super) mod cluster;
pub(super) mod discard;
pub(super) mod overlap;
pub(super) mod refcount;
pub(super) mod refgrow;
