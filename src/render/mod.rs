//! Pictures of runs: for a terminal, a document, a browser, and for the tools that others made.
//!
//! A pure ring: a trace goes in, text comes out. The same trace gives the same bytes.
//!
//! [`read`] takes records from a trace or from JSON lines, [`model`] sorts them into lanes, and each form has a module of its own.

pub mod gallery;
pub mod html;
pub mod mermaid;
pub mod model;
pub mod perfetto;
pub mod read;
pub mod report;
pub mod style;
pub mod svg;
pub mod term;
