//! Dirty tracking: which granules of a disk were written since when.
//!
//! [`HBitmap`] is the bit array (`util/hbitmap.c`), [`DirtyBitmap`] one bitmap of a node with its flags and
//! [`DirtyBitmaps`] the list a node keeps (`block/dirty-bitmap.c`). Nothing here knows what a node or a job is.

mod dirty;
mod hbitmap;
mod list;
mod pages;

pub use dirty::{
    BlockDirtyInfo, CheckFlags, DirtyBitmap, MAX_NAME_SIZE, check_granularity, check_name_given, default_granularity,
};
pub use hbitmap::{HBitmap, SerializedPiece};
pub use list::{BitmapId, DirtyBitmaps};

#[cfg(test)]
mod tests;
