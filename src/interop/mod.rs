//! A real QEMU beside the model: starts it, runs scenarios on it over QMP, and compares the client traces with the model's.
//!
//! This belongs to the shell: it starts processes, opens sockets and makes files. Everything happens below a directory of its own,
//! which is the working directory of the process, so that a scenario's file names mean the same there as in the model.

pub mod carry;
pub mod confine;
pub mod export;
pub mod files;
pub mod force;
mod nbd;
pub mod qemu;
pub mod quote;
pub mod record;
pub mod scratch;
pub mod shell;

use std::fmt;

/// Why a real process could not be started, or did not answer.
#[derive(Debug)]
pub struct Trouble(pub String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Trouble {}

/// What went wrong with `what`.
fn trouble(what: &str, error: &dyn fmt::Display) -> Trouble {
    let text = error.to_string();
    Trouble(format!("{what}: {}", text.split(" (os error").next().unwrap_or(&text)))
}

pub mod conform;
