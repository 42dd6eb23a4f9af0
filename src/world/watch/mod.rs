//! What happened in a step, for those who watch a run: the feed of the invariants and the marks of a campaign. Nothing here changes a world.

pub mod chains;
mod death;
mod drawn;
pub mod feed;
pub mod kinds;
pub mod marks;
