//! The qcow2 driver (block/qcow2*.c) as a machine that does no I/O of its own.
//!
//! A [`Qcow2`] is what QEMU keeps in `BDRVQcow2State`; an [`Op`] is a driver callback under way, what QEMU has on a
//! coroutine's stack. [`Op::resume`] goes on until the operation needs something from outside and says what in an
//! [`Ask`]: a request to the file below, an event for blkdebug, the driver's lock. Whoever embeds the driver does that
//! and comes back with what it [`Got`].
//!
//! What runs under the driver's lock is written as plain functions that are *run again* from the start each time an
//! answer comes in, with the answers so far and all changes of the state undone (`exec.rs`). This is exact, as nobody else
//! touches the state while the lock is held.

mod alloc;
mod bitmap;
mod cache;
mod cluster;
mod compressed;
mod copy_range;
mod create;
mod deflate;
mod discard;
mod exec;
mod header;
mod misc;
mod op;
mod open;
mod overlap;
#[cfg(test)]
mod parallel_tests;
mod read;
mod rebuild;
mod refcount;
mod refgrow;
mod repair;
#[cfg(test)]
mod repair_tests;
mod state;
#[cfg(test)]
mod tests;
mod truncate;
mod write;
mod zstd;

pub use bitmap::{BitmapCheck, ListedBitmap, MemoryBitmap, StoreBitmap, StoredBitmap};
pub use create::{CreateOptions, CreateStep};
pub use exec::Fault;
pub use op::{Ask, Child, Got, Op, Out, Status};
pub use open::OpenOptions;
pub use state::{Corruption, FileTraits, Qcow2};
