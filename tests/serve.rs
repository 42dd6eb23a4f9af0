//! The served process over real sockets: what a QMP client sees, held against what QEMU 10.0.2 sent; hostile input; several monitors.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs, know the time and print"
)]

#[path = "common/served.rs"]
mod served;

use blockjob_sim::base::Json;
use blockjob_sim::qmp::json::parse_one;
use served::{BACKUP, Client, PATIENCE, Served, connect, with_nodes};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
/// What differs from run to run, and from QEMU to QEMU.
fn plain(line: &str) -> String {
    let cut = |text: String, from: &str, to: &str, by: &str| match text.split_once(from) {
        Some((before, rest)) => {
            let (_, after) = rest.split_once(to).expect("the end of it");
            format!("{before}{by}{after}")
        }
        None => text,
    };
    let text = cut(line.to_owned(), "\"package\": \"", "\"", "\"package\": \"PACKAGE\"");
    cut(text, "\"timestamp\": {", "}", "\"timestamp\": TIME")
}

/// Conversations with QEMU 10.0.2, line by line: `> "bytes"` was sent, `< line` came. They begin with the arguments.
fn conversation(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/wire/{name}.txt"));
    let text = std::fs::read_to_string(&path).expect("a recording");
    let mut lines = text.lines().peekable();
    let args = parse_one(lines.next().and_then(|line| line.strip_prefix("args: ")).expect("arguments")).expect("JSON");
    let args: Vec<String> =
        args.as_list().expect("a list").iter().map(|arg| arg.as_str().expect("a text").to_owned()).collect();
    let served = Served::start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let mut client = served.connect();
    let mut said = String::new();
    for line in lines {
        if let Some(sent) = line.strip_prefix("> ") {
            let sent = parse_one(sent).expect("a string");
            // Each character is a byte.
            let bytes: Vec<u8> = sent.as_str().expect("a string").chars().map(|c| c as u8).collect();
            client.send(&bytes);
            line.chars().take(100).collect::<String>().clone_into(&mut said);
        } else if line == "< <EOF>" {
            assert_eq!(client.line(), None, "{name}: after {said}");
        } else {
            let got = client.line().unwrap_or_else(|| panic!("{name}: the end, after {said}"));
            assert_eq!(plain(&got), &line[2..], "{name}: after {said}");
        }
    }
}

#[test]
fn negotiation_is_as_recorded() {
    conversation("negotiation");
}

#[test]
fn out_of_band_is_as_recorded() {
    conversation("oob");
}

#[test]
fn envelopes_are_as_recorded() {
    conversation("envelope");
}

#[test]
fn broken_json_is_as_recorded() {
    conversation("broken");
}

#[test]
fn depth_is_limited_as_recorded() {
    conversation("deep");
}

#[test]
fn a_throttled_job_is_as_recorded() {
    conversation("block");
}

#[test]
fn input_may_come_in_any_pieces() {
    let served = Served::start(&[]);
    let mut client = served.connect();
    assert!(client.json().get("QMP").is_some());
    for byte in br#"{"execute": "qmp_capabilities", "id": "\u0041"} {"execute": "query-status"}"# {
        client.send(&[*byte]);
    }
    assert_eq!(client.line().as_deref(), Some(r#"{"return": {}, "id": "A"}"#));
    assert_eq!(client.line().as_deref(), Some(r#"{"return": {"status": "prelaunch", "running": false}}"#));
    let many: String = (0..2000).map(|i| format!("{{\"execute\":\"query-name\",\"id\":{i}}}")).collect();
    client.send(many.as_bytes());
    for i in 0..2000 {
        assert_eq!(client.line(), Some(format!("{{\"return\": {{}}, \"id\": {i}}}")));
    }
}

/// Bytes from a small generator: no seed makes them kinder.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let alphabet = b"{}[]:,\"'\\ \n0123456789eE+-.truefalsn\x00\xff\x80\xc3\xed";
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len)
        .map(|_| {
            let n = next();
            if n & 0x300 == 0 { (n >> 16) as u8 } else { alphabet[(n >> 16) as usize % alphabet.len()] }
        })
        .collect()
}

/// Throws bytes at a process, from a thread of its own: it may answer more than a socket holds.
fn throw(path: &Path, bytes: Vec<u8>) {
    let stream = connect(path).stream;
    let mut writer = stream.try_clone().expect("a copy");
    let thread = std::thread::spawn(move || {
        let _ = writer.write_all(&bytes);
        let _ = writer.shutdown(std::net::Shutdown::Write);
    });
    let mut reader = stream;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => {}
            // A read with a time limit is not taken up again by itself.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("answers in time: {error}"),
        }
    }
    thread.join().expect("a thread");
}

#[test]
fn hostile_bytes_do_no_harm() {
    let served = Served::start(&[]);
    let began = Instant::now();
    for seed in 1..6 {
        throw(&served.path(), noise(seed, 50_000));
    }
    throw(&served.path(), b"[".repeat(300_000));
    throw(&served.path(), b"{\"a\":".repeat(50_000));
    throw(&served.path(), [&b"\""[..], &b"x".repeat(4_000_000)].concat());
    throw(&served.path(), b"{\"execute\":\"query-commands\"}".repeat(500));
    // A number and a space that do not end, names without number, characters that are cut off, and half an object.
    throw(&served.path(), b"1".repeat(4_000_000));
    throw(&served.path(), b" ".repeat(4_000_000));
    throw(&served.path(), (0..200_000).flat_map(|n| format!("{{\"a{n}\":").into_bytes()).collect());
    for cut in [&b"\"\xe2\x82"[..], b"{\"execute\": \"\xf0\x9f\x98\"}", b"'\xed\xa0\x80'", b"\"\\ud83d\"", b"\"\\u12"] {
        throw(&served.path(), cut.to_vec());
    }
    throw(&served.path(), b"{\"execute\":\"quit\"".to_vec());
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let memory = served.memory();
    assert!(memory < 400 * 1024, "{memory} KiB");
    let mut client = served.connect().negotiate();
    client.ok(r#"{"execute": "query-status"}"#);
    client.ok(r#"{"execute": "quit"}"#);
    assert_eq!(served.end().0, Some(0));
}

#[test]
fn a_client_that_reads_nothing_is_no_burden() {
    let served = Served::start(&[]);
    let mut deaf = served.connect();
    deaf.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let many = b"{\"execute\":\"query-commands\"}".repeat(1_000);
    // At some point it is not listened to any more.
    while deaf.stream.write_all(&many).is_ok() {
        assert!(served.memory() < 200 * 1024);
    }
    assert!(served.memory() < 200 * 1024);
}

#[test]
fn all_monitors_hear_events_and_each_its_replies() {
    let served = Served::start(&with_nodes(&[
        "-chardev",
        "socket,id=second,path=second.sock,server=on,wait=off",
        "-mon",
        "chardev=second,mode=control",
        "-monitor",
        "unix:people.sock,server=on,wait=off",
    ]));
    let mut first = served.connect().negotiate();
    let mut second = connect(&served.dir.path().join("second.sock")).negotiate();
    let mut silent = connect(&served.dir.path().join("second.sock").with_file_name("people.sock"));
    first.ok(BACKUP);
    for client in [&mut first, &mut second] {
        assert_eq!(client.event("BLOCK_JOB_COMPLETED").get("device").and_then(Json::as_str), Some("j"));
    }
    second.send(br#"{"execute": "query-name", "id": 2}"#);
    loop {
        let json = second.json();
        if json.get("return").is_some() {
            assert_eq!(json.get("id"), Some(&Json::Int(2)));
            break;
        }
    }
    silent.send(b"info status\n");
    let mut text = Vec::new();
    while !text.ends_with(b"(prelaunch)\r\n(qemu) ") {
        let mut byte = [0];
        assert_eq!(silent.lines.read(&mut byte).expect("in time"), 1, "{}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    assert!(
        text.starts_with(b"QEMU 10.0.2 monitor - type 'help' for more information\r\n(qemu) i\x1b[K\x1b[Din\x1b[K")
    );
    // The next client of a socket begins anew.
    drop(first);
    served.connect().negotiate().ok(r#"{"execute": "quit"}"#);
    assert_eq!(second.event("SHUTDOWN").get("reason").and_then(Json::as_str), Some("host-qmp-quit"));
    assert_eq!(second.line(), None);
    let path = served.path();
    assert_eq!(served.end(), (Some(0), String::new()));
    assert!(!path.exists());
}

#[test]
fn sockets_are_the_users_alone() {
    let served = Served::start(&[]);
    drop(served.connect());
    let mode = std::fs::metadata(served.path()).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

#[test]
fn an_inherited_socket_is_a_monitor() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut command = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"));
    command.args([
        "qemu",
        "-S",
        "-chardev",
        "socket,id=mon,fd=0",
        "-mon",
        "chardev=mon,mode=control",
        "-pidfile",
        "pid",
    ]);
    let dir = tempfile::tempdir().expect("a directory");
    let mut child =
        command.current_dir(dir.path()).stdin(Stdio::from(OwnedFd::from(theirs))).spawn().expect("it starts");
    let mut client = Client::new(ours).negotiate();
    let pid = std::fs::read_to_string(dir.path().join("pid")).expect("a file");
    assert_eq!(pid, format!("{}\n", child.id()));
    client.ok(r#"{"execute": "quit"}"#);
    assert_eq!(child.wait().expect("a child").code(), Some(0));
}
