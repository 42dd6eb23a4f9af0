//! Served runs in which requests take time by the wall clock. Disks are so slow here that nothing depends on how fast the machine is: what
//! must be met would last for minutes.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs, know the time and print"
)]

#[path = "common/served.rs"]
mod served;

use blockjob_sim::base::Json;
use served::{Client, Served};
use std::process::Command;
use std::time::Duration;

/// A backup of 16 MiB, which this disk takes two minutes for; one chunk of it takes a quarter of a second.
const DISK: [&str; 2] = ["--sim-pace", "disk:bytes=256K,requests=1000"];
const START: &str = r#"{"execute": "blockdev-backup", "arguments": {"job-id": "j", "device": "s", "target": "t", "sync": "full", "x-perf": {"max-workers": 1, "max-chunk": 65536}}}"#;

fn start(dir: &std::path::Path, more: &[&str]) -> Served {
    let (source, target) = (dir.join("s.img"), dir.join("t.img"));
    std::fs::write(&source, vec![7; 16 << 20]).expect("a file");
    std::fs::File::create(&target).and_then(|file| file.set_len(16 << 20)).expect("a file");
    let node = |name: &str, path: &std::path::Path| format!("driver=file,node-name={name},filename={}", path.display());
    let (source, target) = (node("s", &source), node("t", &target));
    Served::start(&[&["-blockdev", &source, "-blockdev", &target], &DISK[..], more].concat())
}

fn cancelled(client: &mut Client) -> u64 {
    assert_eq!(client.ok(r#"{"execute": "block-job-cancel", "arguments": {"device": "j"}}"#), Json::dict(vec![]));
    let event = client.event("BLOCK_JOB_CANCELLED");
    event.get("offset").and_then(Json::as_u64).expect("a number")
}

#[test]
fn a_job_that_is_cancelled_at_once_is_met() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().expect("a directory");
        let served = start(dir.path(), &[]);
        let mut client = served.connect().negotiate();
        client.ok(START);
        assert!(cancelled(&mut client) < 16 << 20);
    }
}

#[test]
fn with_a_seed_a_client_that_thinks_meets_it_too() {
    // Beside each other: what takes time is the disk, which is none.
    std::thread::scope(|scope| {
        for seed in ["1", "2", "3", "4"] {
            for thinks in [0, 10] {
                scope.spawn(move || {
                    let dir = tempfile::tempdir().expect("a directory");
                    let served = start(dir.path(), &["--sim-seed", seed]);
                    let mut client = served.connect().negotiate();
                    client.ok(START);
                    std::thread::sleep(Duration::from_millis(thinks));
                    assert!(cancelled(&mut client) < 16 << 20, "seed {seed}, thinks for {thinks} ms");
                });
            }
        }
    });
}

/// Whether a job that was just started is still there when a client that thinks for so long cancels it.
fn meets(seed: u32, thinks: u64) -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    let (source, target) = (dir.path().join("s.img"), dir.path().join("t.img"));
    std::fs::write(&source, vec![7; 4 << 20]).expect("a file");
    std::fs::File::create(&target).and_then(|file| file.set_len(4 << 20)).expect("a file");
    let node = |name: &str, path: &std::path::Path| format!("driver=file,node-name={name},filename={}", path.display());
    let seed = seed.to_string();
    let served =
        Served::start(&["-blockdev", &node("s", &source), "-blockdev", &node("t", &target), "--sim-seed", &seed]);
    let mut client = served.connect().negotiate();
    client.ok(
        r#"{"execute": "blockdev-backup", "arguments": {"job-id": "j", "device": "s", "target": "t", "sync": "full"}}"#,
    );
    std::thread::sleep(Duration::from_millis(thinks));
    client.command(r#"{"execute": "block-job-cancel", "arguments": {"device": "j"}}"#).0.get("return").is_some()
}

/// On a quiet machine the same seeds meet it. On a busy one ten milliseconds may be fifty, and whoever sleeps for so long is asleep: so it is
/// asked for half of them. Before such sleeps were told apart it was one of twelve.
#[test]
fn with_a_seed_and_no_pace_a_client_that_thinks_meets_a_job_as_well() {
    let seeds = 1..=12;
    let met = |thinks| seeds.clone().filter(|seed| meets(*seed, thinks)).collect::<Vec<_>>();
    let (at_once, thinking) = (met(0), met(10));
    assert!(at_once.len() >= 3, "{at_once:?}");
    assert!(2 * thinking.len() >= at_once.len(), "{thinking:?} of {at_once:?}");
}

fn job(client: &mut Client) -> (String, u64) {
    let jobs = client.ok(r#"{"execute": "query-block-jobs"}"#);
    let job = jobs.as_list().and_then(|jobs| jobs.first()).expect("a job").clone();
    let status = job.get("status").and_then(Json::as_str).expect("a text").to_owned();
    (status, job.get("offset").and_then(Json::as_u64).expect("a number"))
}

#[test]
fn progress_and_pause_can_be_seen_and_the_recording_replays() {
    let dir = tempfile::tempdir().expect("a directory");
    let (trace, record) = (dir.path().join("trace.jsonl"), dir.path().join("run.yaml"));
    let (trace_file, record_file) = (trace.display().to_string(), record.display().to_string());
    let served = start(dir.path(), &["--sim-record", &record_file, "--sim-trace", &trace_file]);
    let mut client = served.connect().negotiate();
    client.ok(START);
    let (mut seen, mut looks) = (Vec::new(), 0);
    while seen.len() < 3 {
        let (status, offset) = job(&mut client);
        assert_eq!(status, "running");
        if seen.last() != Some(&offset) {
            seen.push(offset);
        }
        looks += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(seen.is_sorted() && seen[2] < 16 << 20, "{seen:?} in {looks} looks");
    client.ok(r#"{"execute": "job-pause", "arguments": {"id": "j"}}"#);
    let mut at = job(&mut client);
    while at.0 != "paused" {
        std::thread::sleep(Duration::from_millis(20));
        at = job(&mut client);
    }
    // A chunk that is under way would be through by then.
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(job(&mut client), at);
    client.ok(r#"{"execute": "job-resume", "arguments": {"id": "j"}}"#);
    while job(&mut client).1 <= at.1 {
        std::thread::sleep(Duration::from_millis(20));
    }
    cancelled(&mut client);
    client.ok(r#"{"execute": "quit"}"#);
    let (code, printed) = served.end();
    assert_eq!(code, Some(0), "{printed}");

    let output = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"))
        .args(["run", "--format", "jsonl"])
        .arg(&record)
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let records = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let wanted = std::fs::read_to_string(&trace).expect("a trace");
    assert_eq!(records(&String::from_utf8(output.stdout).expect("text")), records(&wanted));
    assert!(wanted.contains("BLOCK_JOB_CANCELLED"), "{wanted}");
}

#[test]
fn a_disk_that_is_none_is_refused() {
    for (pace, said) in [
        ("disk:tape", "`tape` is no disk: expected ssd, nvme, hdd, bytes=SIZE or requests=N (a second)"),
        ("disk:bytes=0", "`bytes=0`: expected more than 0 a second"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"))
            .args(["qemu", "-display", "none", "--sim-pace", pace])
            .output()
            .expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(said), "{text}");
    }
}
