//! The block layer: nodes, edges, backends, and the requests that go through them (`block.c`, `block/` in QEMU's tree).

pub mod backend;
pub mod backing_name;
pub mod bdrv_commit;
pub mod blockers;
pub mod chain;
pub mod create;
pub(super) mod dirty_bitmap;
pub(in crate::world) mod drain;
pub mod driver;
pub mod drop_intermediate;
pub mod edges;
pub(in crate::world) mod filename;
pub mod graph;
pub(super) mod graph_lock;
pub(in crate::world) mod host_work;
pub mod io;
pub mod open;
pub mod perms;
