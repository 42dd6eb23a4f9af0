//! A deterministic simulator of QEMU block jobs.

pub mod base;
pub mod block;
