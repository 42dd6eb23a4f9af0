//! A served process and its images, seen by the real qemu-img and qemu-io. Without them the tests are skipped, and reported as skipped.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs, know the time and print"
)]

#[path = "common/harness.rs"]
mod harness;
#[path = "common/served.rs"]
mod served;

use harness::{Tool, needing, trials};
use served::{PATIENCE, Served};
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

fn main() -> ExitCode {
    harness::main(needing(
        Tool::QemuImg,
        trials![kill_9_harms_no_source, images_are_locked_before_anybody_asks_for_something],
    ))
}

/// What a tool printed, on both streams, and whether it was content.
fn tool(dir: &Path, line: &str) -> (bool, String) {
    let mut words = line.split(' ');
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).current_dir(dir).output().expect("the tool starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Killed at any moment of a backup during which a guest writes: the source is sound, and holds what the guest was told it holds.
fn kill_9_harms_no_source() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ok, report) = tool(dir.path(), "qemu-img create -q -f qcow2 base.qcow2 16M");
    assert!(ok, "{report}");
    let (source, target) = (dir.path().join("s.qcow2"), dir.path().join("t.qcow2"));
    let drive = format!("if=none,id=d,format=qcow2,file={}", source.display());
    for round in 0..8_u64 {
        std::fs::copy(dir.path().join("base.qcow2"), &source).expect("a copy");
        let mut served = Served::start(&["-drive", &drive, "--sim-pace", "asap", "--sim-seed", &round.to_string()]);
        let mut client = served.connect().negotiate();
        client.ok(
            r#"{"execute": "block-dirty-bitmap-add", "arguments": {"node": "d", "name": "b", "persistent": true}}"#,
        );
        let told = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let writes = {
            let (told, target) = (told.clone(), target.display().to_string());
            std::thread::spawn(move || {
                let backup = format!(
                    r#"{{"execute": "drive-backup", "arguments": {{"device": "d", "target": "{target}", "sync": "full"}}}}"#
                );
                // It may be killed before it reads anything.
                if client.stream.write_all(backup.as_bytes()).is_err() {
                    return;
                }
                for n in 0..200_u64 {
                    // Every third one is flushed, and reaches into the next cluster.
                    let write = format!(
                        r#"{{"execute": "human-monitor-command", "arguments": {{"command-line": "qemu-io d \"write {} -P {} {}k 72k\""}}}}"#,
                        if n % 3 == 0 { "-f" } else { "" },
                        n % 250 + 1,
                        n * 64
                    );
                    if client.stream.write_all(write.as_bytes()).is_err() {
                        return;
                    }
                    loop {
                        let mut line = String::new();
                        match client.lines.read_line(&mut line) {
                            Ok(0) | Err(_) => return,
                            Ok(_) if line.contains("\"return\": \"\"") => break,
                            Ok(_) => {}
                        }
                    }
                    told.store(n + 1, std::sync::atomic::Ordering::SeqCst);
                }
            })
        };
        // At a different moment each time.
        let deadline = Instant::now() + PATIENCE;
        while told.load(std::sync::atomic::Ordering::SeqCst) < round * round * 3 && Instant::now() < deadline {
            std::hint::spin_loop();
        }
        served.child.kill().expect("a child");
        served.child.wait().expect("a child");
        writes.join().expect("a thread");
        let told = told.load(std::sync::atomic::Ordering::SeqCst);
        let (_, report) = tool(dir.path(), "qemu-img check s.qcow2");
        assert!(!report.contains("ERROR") && !report.contains("corrupt"), "round {round}: {report}");
        if told > 0 {
            // The first 64 KiB of a write are not written over by the next but for its last 8.
            let mut command = Command::new("qemu-io");
            command.args(["-r", "-f", "qcow2"]).arg(&source).current_dir(dir.path());
            // What was written behind the last flush may have its tables in memory only, as in QEMU.
            for n in 0..=(told - 1) / 3 * 3 {
                command.arg("-c").arg(format!("read -P {} {}k 56k", n % 250 + 1, n * 64 + 8));
            }
            let output = command.output().expect("qemu-io");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && !text.contains("failed"), "round {round}: {text}");
        }
        let _ = std::fs::remove_file(&target);
    }
}

/// As with QEMU, from its start on and not from the first command on.
fn images_are_locked_before_anybody_asks_for_something() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ok, report) = tool(dir.path(), "qemu-img create -f qcow2 s.qcow2 1M");
    assert!(ok, "{report}");
    let _served = Served::start(&["-drive", &format!("if=none,file={}", dir.path().join("s.qcow2").display())]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, report) = tool(dir.path(), "qemu-img info s.qcow2");
        if report.contains("Is another process using the image") {
            return;
        }
        assert!(Instant::now() < deadline, "nobody holds a lock: {report}");
    }
}
