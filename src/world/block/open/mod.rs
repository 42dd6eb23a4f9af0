//! From options to open nodes: what to open, opening it, changing it when it is open (`bdrv_open` and around it in `block.c`).

pub(in crate::world) mod active;
pub(super) mod backing;
mod blkdebug_spec;
mod copies;
mod nbd_name;
#[expect(clippy::module_inception, reason = "`bdrv_open` has its file in the folder of opening, by its name")]
pub mod open;
pub mod reopen;
pub(in crate::world) mod reopen_child;
pub(in crate::world) mod reopen_options;
pub mod runtime_options;
pub mod spec;
pub(in crate::world) mod string_options;
pub(in crate::world) mod strong_options;
pub(in crate::world) mod unsupported;
