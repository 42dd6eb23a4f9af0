//! What a client can hold QEMU to by what it saw alone (`interop::conform::contract`): each contract is told where it is broken, and
//! no trace of the real one breaks any.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files and print"
)]

use blockjob_sim::interop::conform::contract::broken_in;
use blockjob_sim::invariant::Invariant;
use blockjob_sim::trace::compare::ClientLine;
use blockjob_sim::trace::{canonical, jsonl};
use std::fs;
use std::path::{Path, PathBuf};

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        match path.is_dir() {
            true => files(&path, found),
            false if path.extension().is_some_and(|e| e == "jsonl") => found.push(path),
            false => {}
        }
    }
}

/// The traces of a file, each behind its header.
fn traces(text: &str) -> Vec<Vec<ClientLine>> {
    let mut all: Vec<String> = vec![String::new()];
    for line in text.lines() {
        if canonical::parse(line).is_ok_and(|json| json.get("qemu").is_some()) {
            all.push(String::new());
        }
        let last = all.last_mut().expect("there is one");
        last.push_str(line);
        last.push('\n');
    }
    all.iter().filter(|text| !text.is_empty()).map(|text| jsonl::parse_client(text).unwrap()).collect()
}

/// Recordings in which the real QEMU breaks one: each has its page in docs/findings.
const FINDINGS: [(&str, Invariant); 1] =
    // A mirror that succeeds after it reported an error: docs/findings/mirror-forgives-a-failed-write.md.
    [("mirror/forgives-a-failed-write.jsonl", Invariant::JobEvents)];

#[test]
fn no_recording_of_the_real_one_breaks_a_contract() {
    let mut found = Vec::new();
    for folder in ["tests/data/qemu", "tests/data/racing"] {
        files(Path::new(folder), &mut found);
    }
    let mut seen = 0;
    for file in &found {
        for trace in traces(&fs::read_to_string(file).unwrap()) {
            seen += 1;
            let broken = broken_in(&trace).map(|broken| broken.invariant);
            let finding = FINDINGS.iter().find(|(name, _)| file.ends_with(name)).map(|(_, invariant)| *invariant);
            assert_eq!(broken, finding, "{}", file.display());
        }
    }
    assert!(found.len() > 400 && seen > 450, "{seen} traces in {} files", found.len());
}

/// A trace in short: `> COMMAND ARGUMENTS`, `< VALUE` for what is returned, `! TEXT` for an error, `ID STATUS`, `done ID DATA`,
/// `cancelled ID DATA`.
fn trace(short: &str) -> Vec<ClientLine> {
    let long = short.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (second, more) = rest.split_once(' ').unwrap_or((rest, "{}"));
        let ended = |name: &str| {
            let data = more.replacen('{', &format!(r#"{{"device": "{second}", "type": "backup", "speed": 0, "#), 1);
            format!(r#"{{"event": "{name}", "data": {data}}}"#)
        };
        match first {
            ">" => format!(r#"{{"command": {{"execute": "{second}", "arguments": {more}}}}}"#),
            "<" => format!(r#"{{"reply": {{"return": {rest}}}}}"#),
            "!" => format!(r#"{{"reply": {{"error": {{"class": "GenericError", "desc": "{rest}"}}}}}}"#),
            "done" => ended("BLOCK_JOB_COMPLETED"),
            "cancelled" => ended("BLOCK_JOB_CANCELLED"),
            id => format!(r#"{{"event": "JOB_STATUS_CHANGE", "data": {{"id": "{id}", "status": "{rest}"}}}}"#),
        }
    });
    jsonl::parse_client(&(long.collect::<Vec<_>>().join("\n") + "\n")).unwrap()
}

/// What is broken: invariant, subject and reason.
fn told(short: &str) -> Option<String> {
    broken_in(&trace(short)).map(|broken| broken.to_string().replace("broken invariant ", ""))
}

const BACKUP: &str = r#"
    > blockdev-backup {"job-id": "j", "device": "d0", "target": "t0", "sync": "incremental", "bitmap": "b"}
    j created
    j running
    < {}"#;

const GONE: &str = "
    j waiting
    j pending
    done j {\"len\": 5, \"offset\": 5}
    j concluded
    j null";

/// A backup begins as above, and goes on so.
fn after_start(rest: &str) -> Option<String> {
    told(&format!("{BACKUP}\n{rest}"))
}

#[test]
fn statuses_follow_the_table() {
    assert_eq!(after_start(GONE), None);
    assert_eq!(after_start("j paused\nj running"), None);
    assert_eq!(after_start("j pending").unwrap(), "job-tables: job j: it went from 'running' to 'pending'");
    assert_eq!(after_start("j paused\nj waiting").unwrap(), "job-tables: job j: it went from 'paused' to 'waiting'");
}

#[test]
fn verbs_follow_the_table() {
    let finalize = "> job-finalize {\"id\": \"j\"}\n";
    assert_eq!(
        after_start(&format!("{finalize}< {{}}")).unwrap(),
        "job-tables: job j: verb 'finalize' was taken in status 'running'"
    );
    // What the job was when the command was carried out is not known then.
    assert_eq!(after_start(&format!("{finalize}j waiting\n< {{}}")), None);
    assert_eq!(after_start(&format!("> query-jobs {{}}\n{finalize}< []\nj waiting\nj pending\n< {{}}")), None);
    assert_eq!(
        after_start("> job-pause {\"id\": \"j\"}\n! Job 'j' in state 'running' cannot accept command verb 'pause'")
            .unwrap(),
        "job-tables: job j: verb 'pause' was refused in status 'running'"
    );
}

#[test]
fn a_job_ends_once_and_before_it_is_gone() {
    let ends = "j waiting\nj pending\n";
    for (rest, wanted) in [
        ("j concluded", "job j: it was started and concluded without COMPLETED or CANCELLED"),
        ("done j {\"len\": 5, \"offset\": 4}", "job j: it succeeded with offset 4 short of len 5"),
        ("done j {\"len\": 5, \"offset\": 6}", "job j: its offset 6 is beyond its length 5"),
        (
            "done j {\"len\": 5, \"offset\": 5}\ncancelled j {\"len\": 5, \"offset\": 5}",
            "job j: BLOCK_JOB_CANCELLED was sent though it had ended already",
        ),
        (
            "done j {\"len\": 5, \"offset\": 5}\nj concluded\nj null\nj running",
            "job j: it became 'running' after it was 'null', or before it was created",
        ),
        (
            "done j {\"len\": 5, \"offset\": 5}\nj concluded\nj null\ndone j {\"len\": 5, \"offset\": 5}",
            "job j: BLOCK_JOB_COMPLETED was sent after it was 'null', or before it was created",
        ),
        ("j created", "job j: it was created while another one of its name was there"),
    ] {
        assert_eq!(after_start(&format!("{ends}{rest}")).unwrap(), format!("job-events: {wanted}"), "{rest}");
    }
    // An error's job need not have copied all; one that makes an image has no such event; a name may come again.
    assert_eq!(
        after_start("j aborting\ndone j {\"len\": 5, \"offset\": 4, \"error\": \"x\"}\nj concluded\nj null"),
        None
    );
    let create = "> blockdev-create {\"job-id\": \"j\", \"options\": {}}\nj created\nj running\n< {}\nj waiting\nj pending\nj concluded";
    assert_eq!(told(create), None);
    assert_eq!(told(&format!("{BACKUP}{GONE}{BACKUP}{GONE}")), None);
}

#[test]
fn progress_does_not_go_back() {
    let look = |offset: u32| {
        format!("> query-jobs {{}}\n< [{{\"id\": \"j\", \"current-progress\": {offset}, \"total-progress\": 9}}]\n")
    };
    assert_eq!(after_start(&(look(3) + &look(4))), None);
    assert_eq!(after_start(&(look(4) + &look(3))).unwrap(), "job-events: job j: its offset went back from 4 to 3");
    assert_eq!(after_start(&look(10)).unwrap(), "job-events: job j: its offset 10 is beyond its length 9");
}

const GROUP: &str = r#"
    > transaction {"properties": {"completion-mode": "grouped"}, "actions": [{"type": "blockdev-backup", "data": {"job-id": "a", "device": "d0"}}, {"type": "drive-backup", "data": {"device": "b"}}]}
    a created
    b created
    a running
    b running
    < {}
    a waiting
    b aborting
    a pending
    done a {"len": 5, "offset": 5}
    cancelled b {"len": 5, "offset": 3}"#;

#[test]
fn a_group_commits_or_aborts_as_one() {
    let wanted = "group-completion: job a: it committed, though job b of its group aborted";
    assert_eq!(told(GROUP).unwrap(), wanted);
    // The jobs may have ended before the reply is read.
    let reply = "    < {}\n";
    assert_eq!(told(&(GROUP.replacen(reply, "", 1) + "\n" + reply)).unwrap(), wanted);
    assert_eq!(told(&GROUP.replace("grouped", "individual")), None);
    assert_eq!(told(&GROUP.replace("done a {", "done a {\"error\": \"x\", ")), None);
}

/// A look at bitmap `b` of drive `d0`.
fn look(count: u32, busy: bool) -> String {
    let bitmap = format!(r#"{{"name": "b", "count": {count}, "granularity": 1, "busy": {busy}}}"#);
    format!(
        "> query-block {{}}\n< [{{\"device\": \"d0\", \"inserted\": {{\"node-name\": \"n0\", \"dirty-bitmaps\": [{bitmap}]}}}}]\n"
    )
}

#[test]
fn nothing_is_left_of_a_job_that_is_gone() {
    let listed = "> query-jobs {}\n< [{\"id\": \"j\"}]";
    assert_eq!(after_start(listed), None);
    assert_eq!(
        after_start(&format!("{GONE}\n{listed}")).unwrap(),
        "nothing-left: job j: it is listed after it was 'null'"
    );
    // What was listed may have gone before the reply is read.
    assert_eq!(after_start(&format!("> query-jobs {{}}\n{GONE}\n< [{{\"id\": \"j\"}}]")), None);
    let busy = "nothing-left: bitmap b of n0: it is in use, though there is no job";
    assert_eq!(after_start(&look(1, true)), None);
    assert_eq!(after_start(&format!("{GONE}\n{}", look(1, true))).unwrap(), busy);
}

#[test]
fn a_transaction_that_fails_changes_no_bitmap() {
    let refused = "> transaction {\"actions\": []}\n! no\n";
    let between = |what: &str| told(&(look(3, false) + what + &look(4, false)));
    assert_eq!(told(&(look(3, false) + refused + &look(3, false))), None);
    let broken = between(refused).unwrap();
    assert!(
        broken.starts_with("transaction-undone: bitmap b of n0: a transaction failed, and it is count 4"),
        "{broken}"
    );
    // A job that it made and took back changes nothing; one that was begun may.
    assert!(between("> transaction {}\nj created\nj null\n! no\n").is_some());
    assert_eq!(between(&format!("{refused}{BACKUP}{GONE}\n")), None);
    // Whoever writes has a reason.
    assert_eq!(between(&format!("{refused}> human-monitor-command {{}}\n< \"\"\n")), None);
    assert_eq!(between(""), None);
}

#[test]
fn a_backup_leaves_its_bitmap_as_it_is_told_to() {
    let failed = GONE.replace("done j {", "done j {\"error\": \"x\", ").replace("waiting\n    j pending", "aborting");
    let told = |mode: &str, end: &str, then: u32, now: u32| {
        let backup = BACKUP.replace("\"sync\": \"incremental\"", mode);
        told(&(look(then, false) + &backup + end + "\n" + &look(now, false)))
    };
    let incremental = "\"sync\": \"incremental\"";
    assert_eq!(told(incremental, GONE, 3, 0), None);
    assert_eq!(told(incremental, &failed, 3, 3), None);
    assert_eq!(
        told(incremental, &failed, 3, 0).unwrap(),
        "bitmap-after-job: bitmap b of n0: job j failed, bitmap-mode is on-success, and its count is 0, after 3"
    );
    assert!(told(incremental, GONE, 3, 1).is_some(), "it was copied, and nothing was written since");
    let bitmap = |mode: &str| format!("\"sync\": \"bitmap\", \"bitmap-mode\": \"{mode}\"");
    assert_eq!(told(&bitmap("always"), &failed, 3, 1), None);
    assert_eq!(told(&bitmap("never"), GONE, 3, 3), None);
    assert!(told(&bitmap("never"), GONE, 3, 0).is_some(), "it is to stay as it is");
}
