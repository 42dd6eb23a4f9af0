//! Whether clients wait: a client that has read everything and sleeps will not send anything before it gets something.
//!
//! A world that holds before the next command must find out that no command comes, because the client waits for an event. The time that
//! takes must not depend on how fast the client is; so the system is asked whether all threads of the process at the other end sleep.

use super::port::Port;
use std::time::{Duration, Instant};

/// How long a client is waited for that can't be looked at.
const BLIND: Duration = Duration::from_millis(200);
/// How often in a row a client must be seen asleep.
const GLANCES: u32 = 3;

/// What was seen of the clients since the world holds.
#[derive(Debug, Default)]
pub(super) struct Watch {
    asleep: u32,
    since: Option<Instant>,
}

impl Watch {
    /// Looks once more. True when all were seen to wait often enough; the next look begins anew.
    ///
    /// A client may also sleep because it thinks: all are given so much time at `least`.
    pub(super) fn all_wait(&mut self, ports: &[Port], least: Duration) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let mut states = ports.iter().filter_map(Port::socket).map(|socket| {
            let pid = rustix::net::sockopt::socket_peercred(socket).ok()?.pid;
            sleeps(pid.as_raw_nonzero().get())
        });
        let done = if states.clone().any(|state| state.is_none()) {
            since.elapsed() > BLIND
        } else {
            self.asleep = if states.all(|state| state == Some(true)) { self.asleep + 1 } else { 0 };
            self.asleep >= GLANCES && since.elapsed() >= least
        };
        if done {
            *self = Watch::default();
        }
        done
    }
}

/// Whether all threads of a process sleep; `None` if that can't be seen.
fn sleeps(pid: i32) -> Option<bool> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        // The name in parentheses may hold anything.
        let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
        if state != 'S' {
            return Some(false);
        }
    }
    Some(true)
}
