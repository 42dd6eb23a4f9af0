//! The qcow2 driver (block/qcow2*.c) as a machine that does no I/O of its own.
//!
//! A [`Qcow2`] is what QEMU keeps in `BDRVQcow2State`; an [`Qcow2Call`] is a driver callback under way, what QEMU has on a
//! coroutine's stack. [`Qcow2Call::resume`] goes on until the operation needs something from outside and says what in an
//! [`Qcow2Ask`]: a request to the file below, an event for blkdebug, the driver's lock. Whoever embeds the driver does that
//! and comes back with what it [`Qcow2Answer`].
//!
//! What runs under the driver's lock is written as plain functions that are *run again* from the start each time an
//! answer comes in, with the answers so far and all changes of the state undone (`exec.rs`). This is exact, as nobody else
//! touches the state while the lock is held.

mod cache;
mod check;
mod create;
mod data;
mod exec;
mod header;
mod op;
mod open;
#[cfg(test)]
mod parallel_tests;
#[cfg(test)]
mod repair_tests;
mod state;
mod tables;
#[cfg(test)]
mod tests;

pub use bitmap::{BitmapCheck, ListedBitmap, MemoryBitmap, StoreBitmap, StoredBitmap};
use check::{rebuild, repair};
pub use create::{CreateOptions, CreateStep};
pub use data::locked::backing_format;
use data::{compressed, copy_range, deflate, locked, read, truncate, write, zstd};
pub use exec::Fault;
pub use op::{Qcow2Answer, Qcow2Ask, Qcow2Call, Qcow2Child, Qcow2Result, Qcow2Status};
pub use open::OpenOptions;
pub use state::{Corruption, FileTraits, Qcow2};
use tables::{alloc, bitmap, cluster, overlap, refgrow};
