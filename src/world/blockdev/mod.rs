//! What the block layer's QMP commands do (`blockdev.c`, `block/monitor/`, `block/qapi.c`).

pub(super) mod add_del;
pub(super) mod backup;
pub(in crate::world) mod bitmaps;
pub(in crate::world) mod block_commit;
pub(in crate::world) mod block_stream;
pub(in crate::world) mod change_backing;
pub mod external_snapshot;
pub mod medium;
pub mod mirror;
pub(in crate::world) mod query;
pub(in crate::world) mod resize;
pub mod throttle;
pub mod transaction;
pub mod x_blockdev_change;

use super::job::commands::JobCommands;
use super::job::create;

/// The commands that start jobs, a table for each type of job.
pub(super) const JOB_COMMANDS: [&JobCommands; 5] =
    [&backup::COMMANDS, &mirror::COMMANDS, &block_commit::COMMANDS, &block_stream::COMMANDS, &create::COMMANDS];
