//! The two forms of a trace, and the comparison of client traces.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

use blockjob_sim::base::time::Instant;
use blockjob_sim::base::{Errno, Json};
use blockjob_sim::trace::compare::{ClientLine, client_lines, first_difference};
use blockjob_sim::trace::jsonl::{self, Header, parse_client};
use blockjob_sim::trace::{Level, RecordKind, RequestPhase, ScenarioNote, Trace, TxnPhase, canonical, text};
use proptest::prelude::*;

/// A trace with a record of each kind.
fn one_of_each() -> Trace {
    let json = |text: &str| canonical::parse(text).unwrap();
    let status = |id: &str, status: &str| RecordKind::Event {
        name: "JOB_STATUS_CHANGE",
        data: Json::dict(vec![("id", Json::str(id)), ("status", Json::str(status))]),
    };
    let request = |phase| RecordKind::Request {
        id: 7,
        node: "node0".into(),
        op: "read",
        offset: 1 << 20,
        bytes: 65536,
        who: "job j0".into(),
        phase,
    };
    let records = vec![
        RecordKind::Note(ScenarioNote { what: "mark", text: "start".into() }),
        RecordKind::Command(json(
            r#"{"execute": "drive-backup", "arguments": {"job-id": "j0", "device": "drive0", "sync": "full"}}"#,
        )),
        RecordKind::Txn { phase: TxnPhase::Prepare, index: 0, action: "drive-backup" },
        RecordKind::Group { job: "j0".into(), what: "joins", group: 0 },
        RecordKind::JobStatus { job: "j0".into(), from: "created", to: "running" },
        RecordKind::Co { co: 3, entry: "backup_run", what: "enter" },
        status("j0", "running"),
        RecordKind::Reply(json(r#"{"return": {}}"#)),
        request(RequestPhase::Submit),
        RecordKind::BlkdebugState { node: "dbg".into(), event: "flush_to_disk", from: 1, to: 2 },
        RecordKind::Fault { node: "dbg".into(), rule: 0, errno: Errno::EIO, op: "read", offset: 0, bytes: 512 },
        request(RequestPhase::Complete(Some(Errno::EIO))),
        request(RequestPhase::Complete(None)),
        RecordKind::Bitmap {
            node: "node0".into(),
            name: "bitmap0".into(),
            what: "set",
            offset: 0,
            bytes: 512,
            count: 65536,
        },
        RecordKind::JobPause { job: "j0".into(), count: 1 },
        RecordKind::JobProgress { job: "j0".into(), current: 65536, total: 458752 },
        RecordKind::Drain { node: "node0".into(), what: "begin" },
        RecordKind::Event {
            name: "BLOCK_JOB_COMPLETED",
            data: json(
                r#"{"device": "j0", "len": 458752, "offset": 0, "speed": 0, "type": "backup", "error": "Input/output error"}"#,
            ),
        },
        RecordKind::Command(json(
            r#"{"execute": "human-monitor-command", "arguments": {"command-line": "qemu-io drive0 \"flush\""}}"#,
        )),
        RecordKind::Reply(json(r#"{"return": ""}"#)),
        RecordKind::Command(json(r#"{"execute": "query-jobs"}"#)),
        RecordKind::Reply(json(r#"{"error": {"class": "GenericError", "desc": "not simulated: query-jobs"}}"#)),
    ];
    let mut trace = Trace::new(Some(Level::Co), 1000);
    for (i, record) in records.into_iter().enumerate() {
        trace.emit(record.level(), Instant::from_nanos(i as u64 * 1_234_567), || record);
    }
    trace
}

fn header(level: Level) -> Header {
    Header { scenario: "a.yaml".into(), schedule: "calm".into(), level }
}

fn snapshot(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => "../snapshots/forms",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn forms() {
    let trace = one_of_each();
    snapshot("trace-text", &text::to_string(&trace));
    snapshot("trace-jsonl", &jsonl::to_string(&header(Level::Co), &trace, true));
    snapshot("trace-jsonl-client", &jsonl::to_string(&header(Level::Client), &trace, false));
}

#[test]
fn every_line_is_json_that_reads_back() {
    let trace = one_of_each();
    for line in jsonl::to_string(&header(Level::Co), &trace, true).lines() {
        assert_eq!(canonical::to_string(&canonical::parse(line).unwrap()), line);
    }
    let client = parse_client(&jsonl::to_string(&header(Level::Co), &trace, true)).unwrap();
    assert_eq!(first_difference(&client, &client_lines(&trace)), None);
}

/// Lines as a recording of the real QEMU has them.
const RECORDED: &str = r##"{"qemu": "10.0.2", "case": "x", "seen": 30, "of": 30}
{"command": {"execute": "query-block"}}
{"data": {"id": "drive0", "status": "created"}, "event": "JOB_STATUS_CHANGE"}
{"reply": {"return": [{"actual-size": 1, "file": "json:{\"a\": 1, \"b\": {\"c\": 2}}", "node-name": "#block123"}]}}
"##;

#[test]
fn what_does_not_count() {
    let a = parse_client(RECORDED).unwrap();
    let other = RECORDED
        .replace("#block123", "#block4")
        .replace("\"actual-size\": 1", "\"actual-size\": 999")
        .replace(r#"{\"a\": 1, \"b\": {\"c\": 2}}"#, r#"{\"b\":{\"c\":2},\"a\":1}"#);
    assert_eq!(first_difference(&a, &parse_client(&other).unwrap()), None);
    let lines: Vec<&str> = RECORDED.lines().skip(1).collect();
    assert_eq!(a.iter().map(ClientLine::to_string).collect::<Vec<_>>(), lines);
}

#[test]
fn what_does_is_named() {
    let a = parse_client(RECORDED).unwrap();
    let against = |from: &str, to: &str| {
        let b = parse_client(&RECORDED.replace(from, to)).unwrap();
        first_difference(&a, &b).unwrap().to_string()
    };
    let status = against("created", "running");
    assert!(status.starts_with("line 2, at data.status:\n  a: {\"data\""), "{status}");
    assert!(against(r#"\"c\": 2"#, r#"\"c\": 3"#).starts_with("line 3, at reply.return[0].file:"));
    assert!(against("query-block", "query-jobs").starts_with("line 1, at command.execute:"));
    let short = first_difference(&a, &a[..2]).unwrap().to_string();
    assert!(short.starts_with("line 3:") && short.ends_with("b: (the end)"), "{short}");
    assert!(parse_client("{\"command\": {}}\nx").unwrap_err().to_string().starts_with("line 2: "));
    assert!(parse_client("[1]").is_err());
}

proptest! {
    #[test]
    fn hostile_traces_never_panic(text in "[\\[\\]{}\":,a-z0-9\\\\ \n-]{0,120}") {
        let _ = parse_client(&text);
    }
}
