//! The block layer: nodes, edges, backends, and the requests that go through them (`block.c`, `block/` in QEMU's tree).

pub mod chain;
pub mod copy_on_readv;
pub mod copy_range;
pub mod create;
pub(in crate::world) mod drain;
pub mod driver;
pub(in crate::world) mod edges;
pub(in crate::world) mod filename;
pub(in crate::world) mod flush;
pub mod graph;
pub(in crate::world) mod host_work;
pub mod io;
pub mod open;
pub mod read;
pub mod status;
