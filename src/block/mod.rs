//! Parts of the block layer: data structures and rules that know nothing of the world that holds them.

pub mod content;
pub mod event;
