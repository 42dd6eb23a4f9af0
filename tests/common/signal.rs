//! Signals for processes that tests start, sent by the shell: a bare machine has no program `kill`.

use std::process::Command;

/// Sends the signal of this name, as in `TERM`.
pub fn send(name: &str, process: u32) {
    let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &process.to_string()]).status();
    assert!(sent.expect("there is a shell").success(), "SIG{name} reaches the process");
}
