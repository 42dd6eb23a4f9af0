//! A deterministic simulator of QEMU block jobs.
//!
#![doc = include_str!("../docs/ARCHITECTURE.md")]

pub mod base;
pub mod bitmap;
pub mod block;
pub mod check;
pub mod choice;
#[cfg(feature = "cli")]
pub mod cli;
pub mod debug;
pub mod explore;
pub mod failure;
pub mod generate;
pub mod host;
#[cfg(feature = "serve")]
pub mod images;
pub mod interop;
pub mod invariant;
pub mod job;
pub mod qmp;
pub mod quirk;
pub mod render;
pub mod scenario;
#[cfg(feature = "serve")]
pub mod serve;
pub mod shrink;
pub mod sim;
pub mod trace;
pub mod validate;
pub mod world;
