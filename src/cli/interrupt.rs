//! Ctrl-C: a long command stops at the next safe place, reports what it has done, and exits with the code for an interruption.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a signal handler sets a flag that all workers look at, and ends the process the second time"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a command that a signal ended: 128 and the number of SIGINT, as shells have it.
pub(super) const EXIT_INTERRUPTED: u8 = 130;

/// Becomes true when the command is to stop: at Ctrl-C, SIGTERM or SIGHUP.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes signals from now on; the second one ends the process at once.
    pub fn on_signals() -> Stop {
        let stop = Stop::default();
        let flag = stop.clone();
        // Without a handler Ctrl-C ends the process at once, and a campaign's state has what was found until then.
        let _ = ctrlc::set_handler(move || {
            if flag.0.swap(true, Ordering::Relaxed) {
                std::process::exit(i32::from(EXIT_INTERRUPTED));
            }
        });
        stop
    }

    /// Whether to stop.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
