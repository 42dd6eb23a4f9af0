//! Whether clients wait: a client that has read everything and sleeps will not send anything before it gets something.
//!
//! A world that holds before the next command must find out that no command comes, because the client waits for an event. The time that
//! takes must not depend on how fast the client is; so the system is asked whether all threads of the process at the other end sleep.

use super::port::Port;
use std::time::{Duration, Instant};

/// How long a client is waited for that can't be looked at.
const BLIND: Duration = Duration::from_millis(200);
/// How long a client may sleep by the clock, which is how one thinks, before it counts as waiting.
const NAP: Duration = Duration::from_millis(25);
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
        let states = ports.iter().filter_map(Port::socket).map(|socket| {
            let pid = rustix::net::sockopt::socket_peercred(socket).ok()?.pid;
            threads(pid.as_raw_nonzero().get())
        });
        let done = if states.clone().any(|state| state.is_none()) {
            since.elapsed() > BLIND
        } else {
            let (mut asleep, mut naps) = (true, false);
            for state in states.flatten() {
                asleep &= state != Thread::Runs;
                naps |= state == Thread::Naps;
            }
            self.asleep = if asleep { self.asleep + 1 } else { 0 };
            self.asleep >= GLANCES && since.elapsed() >= if naps { least.max(NAP) } else { least }
        };
        if done {
            *self = Watch::default();
        }
        done
    }
}

/// What the threads of a process do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    /// One of them has something to do.
    Runs,
    /// All sleep, one of them until a time.
    Naps,
    /// All wait for something.
    Waits,
}

/// What the threads of a process do; `None` if that can't be seen.
fn threads(pid: i32) -> Option<Thread> {
    let mut all = Thread::Waits;
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let task = entry.ok()?.path();
        let stat = std::fs::read_to_string(task.join("stat")).ok()?;
        // The name in parentheses may hold anything.
        let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
        if state != 'S' {
            return Some(Thread::Runs);
        }
        // The function of the kernel that it sleeps in; not every kernel tells.
        if std::fs::read_to_string(task.join("wchan")).is_ok_and(|place| place.contains("nanosleep")) {
            all = Thread::Naps;
        }
    }
    Some(all)
}
