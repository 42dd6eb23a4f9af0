//! The process and its machine: the command line, devices and objects, those that come and go (`system/`).

pub mod board;
pub(in crate::world) mod boot;
mod displays;
pub mod hotplug;
pub mod machine;
mod pci;
mod qom;
mod qom_set;
pub(super) mod runstate;
mod throttle_limits;
