//! What a range of a file or a request holds: exact to the byte, costing what was written and not what it spans.
//!
//! * [`Data`] is the payload of a request: consecutive [`Run`]s of one [`Fill`] each.
//! * [`Content`] is what a file holds: a sparse map of runs; what is absent is a hole.
//! * [`Table`] keeps metadata tables (L1, L2, refcounts) as numbers, so that they need no parsing on the way back.
//!
//! Byte equality ([`Data::same_bytes`]) looks through the representation and ignores who wrote; `==` also compares
//! the writers and how the bytes are held. Runs are kept merged, so that writing the same things in another order
//! ends in an equal value; only bytes that came from different buffers stay apart.

mod compare;
mod data;
mod fill;
mod sparse;
mod table;
#[cfg(test)]
mod tests;

pub use compare::Difference;
pub use data::Data;
pub use fill::{Fill, Run, WriteTag, describe};
pub use sparse::{BLOCK, Content};
pub use table::Table;
