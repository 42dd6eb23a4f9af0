//! Parts of the block layer: data structures and rules that know nothing of the world that holds them.

pub mod accounting;
pub mod blkdebug;
pub mod blkdebug_config;
pub mod content;
pub mod cvtnum;
pub mod event;
pub mod probe;
pub mod qcow2;
pub mod qemu_io;
pub mod ratelimit;
pub mod throttle;
