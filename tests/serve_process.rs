//! The life of a served process: signals, sleeps, seeds, recordings, options; the images and descriptors it holds.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs, know the time and print"
)]

#[path = "common/served.rs"]
mod served;
#[path = "common/signal.rs"]
mod signal;

use blockjob_sim::base::Json;
use blockjob_sim::qmp::json::parse_one;
use served::{BACKUP, NODES, Served, connect, said, send_with_fd, with_nodes};
use std::io::{BufRead, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
#[test]
fn a_signal_ends_the_process_as_quit_does() {
    let served = Served::start(&NODES);
    let mut client = served.connect().negotiate();
    let slow = BACKUP.replace("\"sync\"", "\"speed\": 65536, \"sync\"");
    client.ok(&slow);
    signal::send("TERM", served.child.id());
    assert_eq!(client.event("SHUTDOWN").get("reason").and_then(Json::as_str), Some("host-signal"));
    client.event("BLOCK_JOB_CANCELLED");
    while client.line().is_some() {}
    let (code, text) = served.end();
    assert_eq!(code, Some(0));
    assert!(text.starts_with("blockjob-sim: terminating on signal 15 from pid "), "{text}");
}

#[test]
fn a_recording_has_the_signal_that_ended_the_process() {
    for seed in ["1", "2", "3"] {
        let dir = tempfile::tempdir().expect("a directory");
        let record = dir.path().join("run.yaml").display().to_string();
        let served = Served::start(&with_nodes(&["--sim-seed", seed, "--sim-record", &record]));
        let mut client = served.connect().negotiate();
        client.ok(&BACKUP.replace("\"sync\"", "\"speed\": 65536, \"sync\""));
        signal::send("TERM", served.child.id());
        while client.line().is_some() {}
        assert_eq!(served.end().0, Some(0));
        let text = std::fs::read_to_string(&record).expect("a recording");
        assert!(text.contains("- signal: TERM"), "{text}");
        let output = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"))
            .args(["run", "--format", "jsonl"])
            .arg(&record)
            .output()
            .expect("it starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains("host-signal"), "seed {seed}: {out}{err}");
    }
}

#[test]
fn a_sleeping_job_follows_the_clock() {
    let served = Served::start(&NODES);
    let mut client = served.connect().negotiate();
    let began = Instant::now();
    // A first chunk of 1 MiB, and then none for a second and more.
    client.ok(&BACKUP.replace("\"sync\"", "\"speed\": 524288, \"sync\""));
    client.ok(r#"{"execute": "job-pause", "arguments": {"id": "j"}}"#);
    let jobs = client.ok(r#"{"execute": "query-jobs"}"#);
    let job = &jobs.as_list().expect("a list")[0];
    assert_eq!(job.get("status").and_then(Json::as_str), Some("paused"));
    assert_eq!(job.get("current-progress"), Some(&Json::Int(1 << 20)));
    client.ok(r#"{"execute": "job-resume", "arguments": {"id": "j"}}"#);
    client.ok(r#"{"execute": "block-job-set-speed", "arguments": {"device": "j", "speed": 0}}"#);
    client.event("BLOCK_JOB_COMPLETED");
    assert!(began.elapsed() < Duration::from_secs(30), "a job without limits does not sleep");
}

#[test]
fn sleeps_can_pass_at_once() {
    let served = Served::start(&with_nodes(&["--sim-pace", "asap"]));
    let mut client = served.connect().negotiate();
    let began = Instant::now();
    // At 64 KiB a second this would take a quarter of an hour.
    client.ok(&BACKUP.replace("\"sync\"", "\"speed\": 65536, \"sync\""));
    client.event("BLOCK_JOB_COMPLETED");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn qtest_moves_the_clock() {
    let served = Served::start(&with_nodes(&["-qtest", "unix:qtest.sock,server=on,wait=off", "-accel", "qtest"]));
    let mut client = served.connect().negotiate();
    let mut qtest = connect(&served.dir.path().join("qtest.sock"));
    let mut ask = |line: &str| {
        qtest.send(line.as_bytes());
        let mut answer = String::new();
        qtest.lines.read_line(&mut answer).expect("an answer");
        answer
    };
    assert_eq!(ask("endianness\n"), "OK little\n");
    client.ok(&BACKUP.replace("\"sync\"", "\"speed\": 65536, \"sync\""));
    assert_eq!(ask("clock_step 1000\n"), "OK 1000\n");
    assert_eq!(ask("bogus\n"), "FAIL Unknown command 'bogus'\n");
    assert_eq!(ask("clock_step 3600000000000\n"), "OK 3600000001000\n");
    client.event("BLOCK_JOB_COMPLETED");
}

/// The records of a trace, without its header.
fn records(text: &str) -> Vec<String> {
    text.lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn a_served_run_replays_without_a_client() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source.img");
    std::fs::write(&source, [vec![7; 299_520], (0..=255).collect::<Vec<u8>>().repeat(64), vec![0; 8_192]].concat())
        .expect("a file");
    let drive = format!("driver=raw,node-name=s,read-only=on,file.driver=file,file.filename={}", source.display());
    for (seed, checked) in [(None, false), (Some("3"), true), (Some("11"), false)] {
        let (trace, record) = (dir.path().join("trace.jsonl"), dir.path().join("run.yaml"));
        let mut args =
            vec!["-blockdev", &drive, "-blockdev", "driver=null-co,node-name=t,size=324096,latency-ns=50000"];
        let (trace_file, record_file) = (trace.display().to_string(), record.display().to_string());
        args.extend([
            "--sim-pace",
            "asap",
            "--sim-trace",
            &trace_file,
            "--sim-level",
            "job",
            "--sim-record",
            &record_file,
        ]);
        args.extend(seed.map(|seed| ["--sim-seed", seed]).into_iter().flatten());
        // Watching moves nothing, here and where it is replayed.
        args.extend(checked.then_some("--sim-check"));
        let served = Served::start(&args);
        let mut client = served.connect().negotiate();
        client.ok(&BACKUP.replace("n0", "s").replace("n1", "t").replace("\"sync\"", "\"speed\": 65536, \"sync\""));
        client.ok(r#"{"execute": "query-jobs", "id": 1}"#);
        client.event("BLOCK_JOB_COMPLETED");
        client.ok(
            r#"{"execute": "human-monitor-command", "arguments": {"command-line": "qemu-io s \"read -P 7 0 128k\""}}"#,
        );
        client.ok(r#"{"execute": "quit"}"#);
        let (code, printed) = served.end();
        assert_eq!(code, Some(0), "{printed}");
        assert!(printed.starts_with("read 131072/131072 bytes at offset 0\n"), "{printed}");
        let wanted = std::fs::read_to_string(&trace).expect("a trace");
        for check in [None, Some("--check")] {
            let mut replay = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"));
            replay.args(["run", "--format", "jsonl", "--level", "job"]).args(check).arg(&record);
            let output = replay.output().expect("it starts");
            let text = String::from_utf8(output.stdout).expect("text");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(records(&text), records(&wanted), "seed {seed:?}, {check:?}");
        }
        assert!(wanted.lines().count() > 20, "{wanted}");
    }
}

/// A grouped transaction whose second backup can't be made, in a process with that wrong behaviour.
fn provoke(quirk: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut all = vec!["--sim-quirk", quirk, "--sim-pace", "asap"];
    all.extend(args);
    let served = Served::start(&with_nodes(&all));
    let mut client = served.connect().negotiate();
    // The second action names a bitmap that is not there: all is undone.
    client.send(
        br#"{"execute": "transaction", "arguments": {"actions": [
            {"type": "block-dirty-bitmap-add", "data": {"node": "n0", "name": "b"}},
            {"type": "block-dirty-bitmap-clear", "data": {"node": "n0", "name": "none"}}]}}"#,
    );
    // It ends by itself, or is asked to.
    let mut rest = String::new();
    let _ = client.stream.write_all(br#"{"execute": "quit"}"#);
    let _ = client.lines.read_to_string(&mut rest);
    served.end()
}

#[test]
fn a_broken_invariant_ends_the_process_and_says_how_to_reproduce_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let record = dir.path().join("broken.yaml");
    let file = record.display().to_string();
    let (code, printed) = provoke("txn-undo-unprepared", &["--sim-check", "--sim-record", &file]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("no-abort"), "{printed}");
    let again = format!("again: blockjob-sim run --check {file}");
    assert!(printed.contains(&again), "{printed}");
    let mut replay = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"));
    let output = replay.args(["run", "--check"]).arg(&record).output().expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("no-abort"), "{told}");
    let (code, printed) = provoke("txn-undo-unprepared", &["--sim-check"]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("with --sim-record FILE the run can be reproduced"), "{printed}");
    // Without the wrong behaviour nothing is broken.
    let (code, printed) = provoke("discard-not-dirty", &["--sim-check"]);
    assert_eq!(code, Some(0), "{printed}");
}

/// The same options by other names: the client sees the same, and the traces are the same to the byte.
#[test]
fn serve_is_the_same_with_options_of_its_own() {
    let seen = |mut served: Served| {
        let seen = raced(&served, false);
        served.child.wait().expect("a child");
        (seen, std::fs::read_to_string(served.dir.path().join("trace.jsonl")).expect("a trace"))
    };
    let mut traces = std::collections::BTreeSet::new();
    for seed in [None, Some("1"), Some("2"), Some("5")] {
        let mut qemu: Vec<&str> = RACE.into_iter().flat_map(|node| ["-blockdev", node]).collect();
        qemu.extend(["--sim-pace", "asap", "--sim-trace", "trace.jsonl"]);
        let mut serve: Vec<&str> = RACE.into_iter().flat_map(|node| ["--blockdev", node]).collect();
        serve.extend(["--pace", "asap", "--trace", "trace.jsonl"]);
        if let Some(seed) = seed {
            qemu.extend(["--sim-seed", seed]);
            serve.extend(["--seed", seed]);
        }
        let (by_qemu, by_serve) = (seen(Served::start(&qemu)), seen(Served::serve(&serve)));
        assert!(by_qemu.1.contains("host-qmp-quit"), "the whole run: {}", by_qemu.1);
        assert_eq!(by_serve, by_qemu, "seed {seed:?}");
        traces.insert(by_qemu.1);
    }
    assert!(traces.len() >= 3, "seeds make a difference");
}
/// Two backups' nodes, one of whose sources fails.
const RACE: [&str; 5] = [
    "driver=null-co,node-name=n0,size=16777216,latency-ns=90000",
    "driver=null-co,node-name=t0,size=16777216,latency-ns=70000",
    "driver=null-co,node-name=raw,size=16777216,latency-ns=80000",
    r#"{"driver": "blkdebug", "node-name": "n1", "image": "raw", "inject-error": [{"event": "none", "iotype": "read", "errno": 5, "sector": 28672}]}"#,
    "driver=null-co,node-name=t1,size=16777216,latency-ns=60000",
];

/// [`raced`], by QEMU's options.
fn race(args: &[&str], slow: bool) -> String {
    let nodes = RACE.into_iter().flat_map(|node| ["-blockdev", node]);
    raced(&Served::start(&nodes.chain(args.iter().copied()).collect::<Vec<_>>()), slow)
}

/// Two grouped backups, one of which fails: who is told what, and when, is a matter of order.
fn raced(served: &Served, slow: bool) -> String {
    let mut client = served.connect().negotiate();
    let pause = || {
        if slow {
            // Busy, not asleep: a client that sleeps counts as one that waits.
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(30) {
                std::hint::spin_loop();
            }
        }
    };
    let mut seen = String::new();
    let action = |n: u32| {
        format!(
            r#"{{"type": "blockdev-backup", "data": {{"job-id": "j{n}", "device": "n{n}", "target": "t{n}", "sync": "full", "auto-dismiss": false, "x-perf": {{"max-workers": 2}}}}}}"#
        )
    };
    let commands = [
        format!(
            r#"{{"execute": "transaction", "arguments": {{"actions": [{}, {}], "properties": {{"completion-mode": "grouped"}}}}}}"#,
            action(0),
            action(1)
        ),
        r#"{"execute": "query-jobs"}"#.to_owned(),
        r#"{"execute": "job-cancel", "arguments": {"id": "j0"}}"#.to_owned(),
    ];
    for command in &commands {
        pause();
        let (reply, events) = client.command(command);
        seen.push_str(&format!("{events:?} {reply:?}\n"));
    }
    pause();
    // The jobs stay concluded until they are dismissed.
    loop {
        let (reply, events) = client.command(r#"{"execute": "query-jobs"}"#);
        let jobs = reply.get("return").and_then(Json::as_list).expect("a list").to_vec();
        if jobs.iter().all(|job| job.get("status").and_then(Json::as_str) == Some("concluded")) {
            seen.push_str(&format!("{events:?} {jobs:?}\n"));
            break;
        }
        seen.push_str(&format!("{events:?}\n"));
    }
    client.ok(r#"{"execute": "quit"}"#);
    seen
}

#[test]
fn a_seed_gives_one_trace_whatever_the_clients_speed() {
    let mut traces = std::collections::BTreeSet::new();
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let args = ["--sim-pace", "asap", "--sim-seed", seed];
        let first = race(&args, false);
        assert_eq!(race(&args, true), first, "seed {seed}");
        traces.insert(first);
    }
    let calm = race(&["--sim-pace", "asap"], false);
    assert_eq!(race(&["--sim-pace", "asap"], true), calm);
    traces.insert(calm);
    assert!(traces.len() >= 3, "seeds make a difference: {traces:#?}");
}

#[test]
fn options_are_refused_in_qemus_words() {
    for (args, expected) in [
        (&["-foo"][..], "-foo: invalid option"),
        (&["-blockdev"], "-blockdev: requires an argument"),
        (&["-device", "foo"], "-device foo: 'foo' is not a valid device model name"),
        (&["-mon", "chardev=x"], "-mon chardev=x: chardev \"x\" not found"),
        (&["-chardev", "foo,id=a"], "-chardev foo,id=a: 'foo' is not a valid char driver name"),
        (&["-chardev", "socket,id=a"], "-chardev socket,id=a: Unable to parse FD number "),
        (&["-machine", "foo"], "unsupported machine type: \"foo\"\nUse -machine help to list supported machines"),
        (&["-accel", "foo"], "-accel foo: invalid accelerator foo"),
        (&["-display", "foo"], "-display foo: Parameter 'type' does not accept value 'foo'"),
        (&["-mon", "foo=1"], "-mon foo=1: Invalid parameter 'foo'"),
        (&["-blockdev", "driver=null-co"], "-blockdev driver=null-co: 'node-name' must be specified for the root node"),
        (
            &["-blockdev", "driver=null-co,node-name=n", "-drive", "if=none,id=n,driver=null-co"],
            "-drive if=none,id=n,driver=null-co: Device name 'n' conflicts with an existing node name",
        ),
        // What no driver took is refused when the node is open.
        (
            &["-drive", "driver=null-co,foo=1"],
            "-drive driver=null-co,foo=1: Block protocol 'null-co' doesn't support the option 'foo'",
        ),
        (
            &["-drive", "driver=raw,file.driver=null-co,file.cache.writeback=off"],
            "-drive driver=raw,file.driver=null-co,file.cache.writeback=off: Block protocol 'null-co' doesn't support the option \
             'cache.writeback'",
        ),
        (
            &["-drive", "file=nope.img,format=raw,foo=1"],
            "-drive file=nope.img,format=raw,foo=1: Could not open 'nope.img': No such file or directory",
        ),
        (
            &["-device", "virtio-blk,drive=nope"],
            "-device virtio-blk,drive=nope: Property 'virtio-blk-device.drive' can't find value 'nope'",
        ),
        (
            &["-qmp", "unix:/nonexistent/x"],
            "-qmp unix:/nonexistent/x: Failed to connect to '/nonexistent/x': No such file or directory",
        ),
        (&["-incoming", "defer"], "-incoming defer: not simulated: -incoming"),
        (&["--sim-pace", "fast"], "--sim-pace: `fast` is no pace: expected real, asap, disk or disk:RATES"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_blockjob-sim")).arg("qemu").args(args).output().expect("it starts");
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(text, format!("blockjob-sim: {expected}\n"));
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}");
    }
}

#[test]
fn help_is_given() {
    let dir = tempfile::tempdir().expect("a directory");
    let link = dir.path().join("qemu-system-x86_64");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_blockjob-sim"), &link).expect("a link");
    for (args, expected) in [
        (&["-machine", "help"][..], "pc-i440fx-10.0       Standard PC (i440FX + PIIX, 1996) (default)\n"),
        (&["-M", "?"], "none                 empty machine\n"),
        (&["-accel", "help"], "Accelerators supported in QEMU binary:\ntcg\n"),
        (&["-device", "help"], "name \"virtio-blk-pci\", bus PCI, alias \"virtio-blk\"\n"),
        (&["-object", "help"], "  iothread\n"),
        (
            &["-drive", "format=help"],
            "Supported formats: blkdebug blkverify compress copy-before-write copy-on-read file ",
        ),
        (&["--version"], "QEMU emulator version 10.0.2 ("),
        (&["-help"], "usage: qemu-system-x86_64 [options] [disk_image]\n"),
    ] {
        let output = Command::new(&link).args(args).output().expect("it starts");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(text.contains(expected), "{args:?}: {text}");
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}");
    }
}

/// The texts are those of QEMU 10.0.2.
#[test]
fn descriptors_are_passed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk.img");
    std::fs::write(&path, vec![7; 65_536]).expect("a file");
    let file = std::fs::File::options().read(true).write(true).open(&path).expect("it is there");
    let served = Served::start(&[]);
    let mut client = served.connect().negotiate();
    let missing = "No file descriptor supplied via SCM_RIGHTS";
    assert_eq!(said(&mut client, r#"{"execute": "add-fd"}"#), missing);
    assert_eq!(said(&mut client, r#"{"execute": "getfd", "arguments": {"fdname": "a"}}"#), missing);
    assert_eq!(
        said(&mut client, r#"{"execute": "remove-fd", "arguments": {"fdset-id": 1, "fd": 3}}"#),
        "File descriptor named 'fdset-id:1, fd:3' not found"
    );
    send_with_fd(&client, r#"{"execute": "add-fd", "arguments": {"fdset-id": 4, "opaque": "disk"}}"#, &file);
    let reply = client.json();
    let fd = reply.get("return").and_then(|r| r.get("fd")).and_then(Json::as_u64).expect("a number");
    let sets = client.ok(r#"{"execute": "query-fdsets"}"#);
    let wanted = format!(r#"[{{"fds": [{{"fd": {fd}, "opaque": "disk"}}], "fdset-id": 4}}]"#);
    assert_eq!(sets, parse_one(&wanted).expect("JSON"));
    // Sets from the highest number on, in each the oldest descriptor first.
    for (set, opaque) in [(4, "again"), (2, "other"), (9, "last")] {
        let add = format!(r#"{{"execute": "add-fd", "arguments": {{"fdset-id": {set}, "opaque": "{opaque}"}}}}"#);
        send_with_fd(&client, &add, &file);
        assert!(client.json().get("return").is_some());
    }
    let sets = client.ok(r#"{"execute": "query-fdsets"}"#);
    let told = |set: &Json| {
        let fds = set.get("fds").and_then(Json::as_list).expect("a list").iter();
        let opaque = fds.map(|fd| fd.get("opaque").and_then(Json::as_str).expect("a text").to_owned());
        (set.get("fdset-id").and_then(Json::as_u64).expect("a number"), opaque.collect::<Vec<_>>().join(" "))
    };
    let sets: Vec<_> = sets.as_list().expect("a list").iter().map(told).collect();
    assert_eq!(sets, [(9, "last".to_owned()), (4, "disk again".to_owned()), (2, "other".to_owned())]);
    for set in [9, 2] {
        client.ok(&format!(r#"{{"execute": "remove-fd", "arguments": {{"fdset-id": {set}}}}}"#));
    }
    // The name of the file is no longer needed.
    std::fs::remove_file(&path).expect("it is there");
    client.ok(
        r#"{"execute": "blockdev-add", "arguments": {"driver": "raw", "node-name": "n", "file": {"driver": "file", "filename": "/dev/fdset/4"}}}"#,
    );
    client
        .ok(r#"{"execute": "human-monitor-command", "arguments": {"command-line": "qemu-io n \"read -P 7 0 64k\""}}"#);
    client.ok(r#"{"execute": "remove-fd", "arguments": {"fdset-id": 4}}"#);
    assert_eq!(client.ok(r#"{"execute": "query-fdsets"}"#), parse_one("[]").expect("JSON"));
    client
        .ok(r#"{"execute": "human-monitor-command", "arguments": {"command-line": "qemu-io n \"write -P 8 0 64k\""}}"#);
    send_with_fd(&client, r#"{"execute": "getfd", "arguments": {"fdname": "a"}}"#, &file);
    assert!(client.json().get("return").is_some());
    client.ok(r#"{"execute": "closefd", "arguments": {"fdname": "a"}}"#);
    assert_eq!(
        said(&mut client, r#"{"execute": "closefd", "arguments": {"fdname": "a"}}"#),
        "File descriptor named 'a' not found"
    );
    client.ok(r#"{"execute": "quit"}"#);
    let (code, printed) = served.end();
    assert_eq!(code, Some(0), "{printed}");
    assert!(!printed.contains("failed"), "{printed}");
}

#[test]
fn input_that_ends_behind_a_command_is_carried_out() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"));
    command.args(["qemu", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut input = child.stdin.take().expect("piped");
    input
        .write_all(b"{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"query-status\"}\n{\"execute\": \"quit\"}\n")
        .expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("a child");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.matches("\"return\"").count(), 3, "{text}");
    assert!(text.contains("SHUTDOWN"), "{text}");
}
