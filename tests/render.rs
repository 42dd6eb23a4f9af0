//! Pictures: well-formed, true to their run, and the same from a file as from the run itself. And the gallery, made anew.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::base::Json;
use blockjob_sim::choice::{Chooser, Replay, ReplayMode};
use blockjob_sim::debug::{Debugger, Goal, View};
use blockjob_sim::render::model::Model;
use blockjob_sim::render::read::{RecKind, ShownRun};
use blockjob_sim::render::{html, mermaid, perfetto, svg, term};
use blockjob_sim::sim::outcome::RunOptions;
use blockjob_sim::trace::jsonl::{self, Header};
use blockjob_sim::trace::{Level, canonical};
use common::{CASES, case, path, run};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::sync::Arc;

const RACE: &str = "transaction-failure-race";

fn source(name: &str, seed: Option<u64>) -> ShownRun {
    ShownRun::of_trace(name, "calm", &run(&case(name), seed, Level::Io).trace)
}

/// Every element is closed, every attribute quoted, every entity known, and nothing stands outside of the root.
fn well_formed(xml: &str) -> usize {
    let mut open: Vec<&str> = Vec::new();
    let (mut rest, mut elements) = (xml, 0);
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        assert!(!open.is_empty() || text.trim().is_empty(), "text outside of the root: {text:?}");
        assert!(!text.contains('>'), "a bare `>`: {text:?}");
        for entity in text.split('&').skip(1) {
            assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)), "&{entity}");
        }
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed out of turn");
            continue;
        }
        elements += 1;
        let (body, empty) = tag.strip_suffix('/').map_or((tag, false), |body| (body, true));
        let (name, attributes) = body.split_once(' ').unwrap_or((body, ""));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "<{tag}>");
        assert_eq!(attributes.matches('"').count() % 2, 0, "<{tag}>");
        let mut names = BTreeSet::new();
        for (i, piece) in attributes.split('"').enumerate() {
            if i % 2 == 1 {
                assert!(!piece.contains('<'), "<{tag}>");
            } else if !piece.trim().is_empty() {
                let name = piece.trim().strip_suffix('=').unwrap_or_else(|| panic!("<{tag}>: {piece:?}"));
                assert!(names.insert(name.to_owned()), "<{tag}>: {name} twice");
            }
        }
        if !empty {
            open.push(name);
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty());
    elements
}

#[test]
fn still_pictures_are_well_formed() {
    for name in CASES {
        let source = source(name, None);
        let drawn = svg::draw(&source, &svg::Options::default());
        assert!(well_formed(&drawn) > 10, "{name}");
        assert_eq!(drawn, svg::draw(&source, &svg::Options::default()), "{name}: the same bytes");
    }
    let mut hostile = ShownRun { title: "<&\"\u{1}>".to_owned(), ..ShownRun::default() };
    well_formed(&svg::draw(&hostile, &svg::Options::default()));
    hostile = ShownRun::parse(
        "x",
        "{\"command\": {\"execute\": \"<b>&\\\"\\u0000\"}}\n{\"fault\": {}}\n{\"request\": {}}\n",
        0,
    )
    .unwrap();
    well_formed(&svg::draw(&hostile, &svg::Options::default()));
}

#[test]
fn the_race_is_in_the_picture() {
    let source = source(RACE, None);
    let drawn = svg::draw(&source, &svg::Options::default());
    for state in ["created", "running", "paused", "waiting", "pending", "aborting", "concluded"] {
        assert!(drawn.contains(&format!("<title>{state}</title>")), "{state}");
    }
    assert!(drawn.contains("<title>job drive1 → job drive0</title>"), "the group's abort reaches the neighbour");
    let fault = drawn.lines().any(|line| line.contains("→ job drive1</title>") && line.contains("<title>node "));
    assert!(fault, "the fault leads to the abort");
    assert!(drawn.contains("BLOCK_JOB_CANCELLED drive0") && drawn.contains("Input/output error"));
}

/// Three records that lead to each other: the neighbour's abort, the group's, that of the job that failed.
#[test]
fn a_neighbour_is_aborted_by_the_job_that_failed() {
    let node = |name: &str, file: &str| format!("driver=qcow2,node-name={name},file.driver=file,file.filename={file}");
    let failing = "{\"driver\": \"qcow2\", \"node-name\": \"t1\", \"file\": {\"driver\": \"blkdebug\", \"image\": {\"driver\": \
                   \"file\", \"filename\": \"t1\"}, \"inject-error\": [{\"event\": \"write_aio\", \"errno\": 28, \"once\": true}]}}";
    let backup = |job: &str, device: &str, target: &str, speed: u64| {
        format!(
            "{{type: blockdev-backup, data: {{job-id: {job}, device: {device}, target: {target}, sync: full, speed: {speed}}}}}"
        )
    };
    let images: String = ["a", "b", "t0", "t1"]
        .iter()
        .map(|f| format!("  - create: {{file: {f}, format: qcow2, size: 2M}}\n"))
        .collect();
    let writes: String = ["a", "b"]
        .iter()
        .map(|f| format!("  - write: {{file: {f}, format: qcow2, pattern: 1, offset: 0, length: 2M}}\n"))
        .collect();
    let text = format!(
        "about: One of two grouped backups fails while the other one runs.\nfiles:\n{images}{writes}args: [-blockdev, '{}', -blockdev, '{}', \
         -blockdev, '{}', -blockdev, '{failing}']\nsteps:\n  - qmp: {{execute: transaction, arguments: {{properties: {{completion-mode: \
         grouped}}, actions: [{}, {}]}}}}\n  - event: {{event: BLOCK_JOB_CANCELLED, data: {{device: j0}}}}\n",
        node("a", "a"),
        node("b", "b"),
        node("t0", "t0"),
        backup("j0", "a", "t0", 65536),
        backup("j1", "b", "t1", 0)
    );
    let plan = blockjob_sim::scenario::load_str("group", &text).unwrap_or_else(|error| panic!("{error:?}"));
    for seed in [None, Some(1), Some(2), Some(3)] {
        let chooser = seed.map_or(Chooser::Calm, Chooser::seed);
        let options = RunOptions { level: Some(Level::Io), ..RunOptions::default() };
        let run = blockjob_sim::sim::run(&plan, chooser, &options);
        let source = ShownRun::of_trace("group", "", &run.trace);
        let aborts = |id: &str| {
            let wanted =
                |kind: &RecKind| matches!(kind, RecKind::Status { job, to, .. } if **job == *id && to == "aborting");
            source
                .records
                .iter()
                .position(|record| wanted(&record.kind))
                .unwrap_or_else(|| panic!("{id}: {}", run.outcome))
        };
        let group = source.records[aborts("j0")].cause.expect("it has a cause");
        assert!(
            matches!(&source.records[group].kind, RecKind::Group { job, what, .. } if **job == *"j1" && what == "aborts"),
            "seed {seed:?}"
        );
        assert_eq!(source.records[group].cause, Some(aborts("j1")), "seed {seed:?}");
    }
}

#[test]
fn causes_come_before_what_they_lead_to() {
    for seed in [None, Some(1), Some(2)] {
        let source = source(RACE, seed);
        let (mut known, mut faults) = (0, 0);
        for (i, record) in source.records.iter().enumerate() {
            if let Some(cause) = record.cause {
                assert!(cause < i, "{i}: {:?}", record.kind);
                known += 1;
            }
            // The end of the failing job goes back to a fault; that of its neighbour to the group.
            if let RecKind::Status { job, to, .. } = &record.kind
                && to == "aborting"
            {
                let mut chain = std::iter::successors(Some(i), |at| source.records[*at].cause);
                let wanted = |at: usize| match &source.records[at].kind {
                    RecKind::Fault { .. } => &**job == "drive1",
                    RecKind::Group { job: other, what, .. } => what == "aborts" && other != job,
                    _ => false,
                };
                assert!(chain.any(wanted), "seed {seed:?}: {job} aborts for no reason");
                faults += 1;
            }
        }
        assert_eq!(faults, 2, "seed {seed:?}");
        assert!(known * 10 > source.records.len() * 9, "seed {seed:?}: {known} of {}", source.records.len());
    }
}

#[test]
fn a_file_gives_the_picture_of_its_run() {
    for name in [RACE, "incremental-pause"] {
        let trace = run(&case(name), None, Level::Io).trace;
        let direct = ShownRun::of_trace(name, "calm", &trace);
        let header = Header { scenario: name.into(), schedule: "calm".into(), level: Level::Io };
        let read = ShownRun::parse("file", &jsonl::to_string(&header, &trace, true), 0).unwrap();
        assert_eq!(read, direct);
    }
}

#[test]
fn what_is_in_flight_is_what_was_sent() {
    let source = source("incremental-pause", None);
    let model = Model::of(&source);
    let mut requests = 0;
    for node in &model.nodes {
        for (i, a) in node.requests.iter().enumerate() {
            assert!(a.span.from < a.span.to, "{}: {a:?}", node.name);
            requests += 1;
            // None below another in the same row.
            assert!(
                node.requests[..i].iter().all(|b| b.row != a.row || b.span.to <= a.span.from),
                "{}: {a:?}",
                node.name
            );
        }
    }
    let sent = source.records.iter().filter(|r| r.kind.line().contains("submit")).count();
    assert_eq!(requests, sent);
    let bitmap = model.bitmaps.iter().find(|bitmap| bitmap.max > 0).expect("a bitmap that got dirty");
    assert!(!bitmap.busy.is_empty(), "a job had it");
    assert!(model.jobs[0].states.iter().any(|(_, state)| state == "paused"));
}

#[test]
fn recordings_of_the_real_qemu_can_be_drawn() {
    for name in CASES {
        let text = fs::read_to_string(path(&format!("tests/data/qemu/iotest-124/{name}.jsonl"))).unwrap();
        let read = ShownRun::parse(name, &text, 0).unwrap();
        assert!(read.schedule.starts_with("QEMU 10"), "{name}: {}", read.schedule);
        well_formed(&svg::draw(&read, &svg::Options::default()));
        check_perfetto(&perfetto::draw(&read));
        check_mermaid(&mermaid::draw(&read, None));
        let ours = ShownRun::of_trace(name, "calm", &run(&case(name), None, Level::Client).trace);
        let count = |source: &ShownRun| Model::of(source).jobs.iter().map(|job| job.states.len()).sum::<usize>();
        // The calm run is one of the recorded ones, not always the first.
        let mut recorded = (0..12).filter_map(|nth| ShownRun::parse(name, &text, nth).ok());
        assert!(recorded.any(|read| count(&read) == count(&ours)), "{name}: states seen by a client");
    }
    let wrong = ShownRun::parse("x", "{\"reply\": {}}\n", 1).unwrap_err();
    assert_eq!(wrong.to_string(), "line 1: this file has 1 trace, and no number 2");
    assert!(ShownRun::parse("x", "{\"nonsense\": 1}", 0).is_err());
    assert!(ShownRun::parse("x", "no json", 0).is_err());
}

/// The rules of the trace-event format, as far as they concern the kinds of events that are written.
fn check_perfetto(text: &str) {
    let whole = canonical::parse(text).expect("JSON");
    let events = whole.get("traceEvents").and_then(Json::as_list).expect("traceEvents");
    let raw = |event: &Json, key: &str| event.get(key).map(canonical::to_string);
    let nanos = |event: &Json, key: &str| -> u64 {
        let text = raw(event, key).unwrap_or_else(|| panic!("{key} in {}", canonical::to_string(event)));
        let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
        format!("{whole}{rest:0<3}").parse().unwrap_or_else(|_| panic!("{key}: {text}"))
    };
    let mut open: BTreeMap<(String, String), (String, u64)> = BTreeMap::new();
    let mut slices: BTreeMap<(String, String), Vec<(u64, u64)>> = BTreeMap::new();
    let mut named: BTreeSet<(String, String)> = BTreeSet::new();
    for event in events {
        let word = |key: &str| event.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
        assert!(event.get("name").and_then(Json::as_str).is_some());
        let track = (raw(event, "pid").expect("pid"), raw(event, "tid").expect("tid"));
        let ts = nanos(event, "ts");
        match &*word("ph") {
            "M" => {
                let arguments = event.get("args").expect("args");
                match &*word("name") {
                    "process_name" | "thread_name" => assert!(arguments.get("name").and_then(Json::as_str).is_some()),
                    "process_sort_index" => assert!(arguments.get("sort_index").and_then(Json::as_u64).is_some()),
                    other => panic!("metadata {other}"),
                }
                if word("name") == "thread_name" {
                    named.insert(track);
                }
            }
            "X" => {
                assert!(named.contains(&track), "a slice on a track without a name");
                slices.entry(track).or_default().push((ts, ts + nanos(event, "dur")));
            }
            "b" => {
                let id = (word("cat"), word("id"));
                assert!(!id.0.is_empty() && id.1.starts_with("0x"));
                assert!(open.insert(id, (word("name"), ts)).is_none(), "an id that is still in use");
            }
            "e" => {
                let (name, begin) = open.remove(&(word("cat"), word("id"))).expect("an end has a begin");
                assert!(name == word("name") && begin <= ts);
            }
            "i" => assert!(["g", "p", "t"].contains(&&*word("s")), "the scope of an instant"),
            "C" => {
                let arguments = event.get("args").and_then(Json::as_dict).expect("args");
                assert!(arguments.iter().all(|(_, value)| value.as_u64().is_some()), "counters are numbers");
            }
            other => panic!("phase {other:?}"),
        }
    }
    assert!(open.is_empty(), "async slices without an end");
    for (track, mut list) in slices {
        list.sort_unstable();
        for pair in list.windows(2) {
            let ((_, end), (from, to)) = (pair[0], pair[1]);
            assert!(from >= end || to <= end, "slices on {track:?} overlap without one in the other");
        }
    }
}

#[test]
fn trace_events_keep_the_formats_rules() {
    for name in CASES {
        for seed in [None, Some(5)] {
            let source = source(name, seed);
            let text = perfetto::draw(&source);
            check_perfetto(&text);
            let count = |phase: &str| text.matches(&format!("\"ph\": \"{phase}\"")).count();
            let model = Model::of(&source);
            assert_eq!(count("X"), model.commands.len() + model.jobs.iter().map(|job| job.states.len()).sum::<usize>());
            assert_eq!(count("b"), model.nodes.iter().map(|node| node.requests.len()).sum::<usize>());
            assert_eq!(
                count("i"),
                model.events.len() + model.nodes.iter().map(|node| node.faults.len()).sum::<usize>()
            );
        }
    }
}

/// Lines of a sequence diagram: participants first, then messages and notes between those.
fn check_mermaid(text: &str) {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("sequenceDiagram"));
    let mut known = BTreeSet::new();
    let mut messages = 0;
    for line in lines.map(str::trim).filter(|line| !line.starts_with("%%")) {
        if let Some(rest) = line.strip_prefix("participant ") {
            let (id, name) = rest.split_once(" as ").expect("a name");
            assert!(known.insert(id.to_owned()) && !name.is_empty() && messages == 0);
            continue;
        }
        messages += 1;
        let (head, text) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        // `#` and `;` stand in entities only.
        for piece in text.split('#').skip(1) {
            let entity: String = piece.chars().take_while(|c| *c != ';').collect();
            assert!(entity.len() < 6 && piece.len() > entity.len(), "{line}");
        }
        assert_eq!(text.matches('#').count(), text.matches(';').count(), "{line}");
        let ends: Vec<&str> = match head.strip_prefix("Note over ") {
            Some(over) => over.split(',').collect(),
            None => {
                let arrow = ["-->>", "->>", "-x"]
                    .into_iter()
                    .find(|arrow| head.contains(arrow))
                    .unwrap_or_else(|| panic!("{line}"));
                let (from, to) = head.split_once(arrow).expect("just found");
                vec![from, to]
            }
        };
        assert!(ends.iter().all(|end| known.contains(*end)), "{line}: {known:?}");
    }
}

#[test]
fn sequence_diagrams_name_only_who_takes_part() {
    for name in CASES {
        let text = mermaid::draw(&source(name, None), None);
        check_mermaid(&text);
    }
    let text = mermaid::draw(&source(RACE, None), None);
    assert!(text.contains("-x") && text.contains("Note over j0: waiting") && text.contains("aborts group"), "{text}");
}

#[test]
fn the_terminal_tells_it_too() {
    let options = term::Options { width: 100, colour: false, from: None };
    let text = term::draw(&source(RACE, None), &options);
    for part in ["> transaction 2 actions", "● waiting", "○ null", "✗", "aborts group", "BLOCK_JOB_CANCELLED drive0"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains('\u{1b}'));
    let coloured = term::draw(&source(RACE, None), &term::Options { colour: true, ..options });
    // Blanks at the ends of lines may differ.
    let plain = anstream::adapter::strip_str(&coloured).to_string();
    let lines = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(lines(&plain), lines(&text));
    assert!(term::draw(&ShownRun::default(), &options).contains("\n"));
}

#[test]
fn a_page_needs_nothing_from_outside() {
    let (a, b) = (source(RACE, None), source("transaction-failure", None));
    let page = html::draw(&a, Some(&b), None);
    for word in ["http:", "https:", "src=", "@import", "@DATA@", "@JS@"] {
        assert!(!page.contains(word), "{word}");
    }
    let data = html::data_of(&page).expect("its data is JSON");
    let runs = data.get("runs").and_then(Json::as_list).expect("runs");
    assert_eq!(runs[0].get("line").and_then(Json::as_list).map(<[_]>::len), Some(a.records.len()));
    let hostile = ShownRun { title: "</script><b>".to_owned(), ..ShownRun::default() };
    assert_eq!(html::draw(&hostile, None, None).matches("</script>").count(), 2);
}

#[test]
fn the_first_difference_is_found() {
    let a = source(RACE, None);
    assert_eq!(html::difference(&a, &a), None);
    let mut b = a.clone();
    let at = b.records.iter().rposition(|record| matches!(record.kind, RecKind::Event { .. })).unwrap();
    let RecKind::Event { subject, .. } = &mut b.records[at].kind else { unreachable!() };
    "another".clone_into(subject);
    let found = html::difference(&a, &b).expect("they differ");
    assert_eq!(found.at, [at, at]);
    assert!(found.text[1].contains("another"));
    b = a.clone();
    b.records.truncate(at);
    let found = html::difference(&a, &b).expect("one is shorter");
    assert_eq!((found.at, &*found.text[1]), ([at, at], "(has ended)"));
}

fn debugger() -> Debugger {
    let options = RunOptions { level: Some(Level::Io), ..RunOptions::default() };
    Debugger::new(&case(RACE), Chooser::Calm, &options).expect("it starts")
}

#[test]
fn back_is_where_it_was() {
    let mut debugger = debugger();
    let mut places = Vec::new();
    for _ in 0..6 {
        places.push((debugger.step(), debugger.sim().clone()));
        debugger.forth_to(&Goal::Steps(97));
    }
    for (step, sim) in places.iter().rev() {
        debugger.go_to(*step);
        // Copies of a trace share what came before; what they hold is the same.
        assert_eq!(debugger.sim().world.trace.iter().collect::<Vec<_>>(), sim.world.trace.iter().collect::<Vec<_>>());
        let without = |sim: &blockjob_sim::sim::Sim| {
            let mut sim = sim.clone();
            sim.world.trace = blockjob_sim::trace::Trace::off();
            sim
        };
        assert!(without(debugger.sim()) == without(sim), "step {step}");
    }
}

#[test]
fn goals_are_met_both_ways() {
    let mut debugger = debugger();
    assert!(debugger.forth_to(&Goal::Fault));
    let fault = debugger.step();
    assert!(debugger.view(View::Where)[0].contains("dispatch"));
    assert!(debugger.view(View::Jobs).iter().any(|line| line.starts_with("drive1")));
    assert!(debugger.view(View::Groups)[0].contains("drive0"));
    assert!(debugger.view(View::Bitmaps).iter().any(|line| line.contains("drive1/bitmap0: 448K")));
    assert!(!debugger.view(View::Waiting).is_empty() && !debugger.view(View::Requests).is_empty());
    assert!(debugger.forth_to(&Goal::Job(Some("drive0".to_owned()))));
    assert!(debugger.back_to(&Goal::Fault));
    assert_eq!(debugger.step(), fault);
    assert!(debugger.back_to(&Goal::Job(None)) && debugger.step() < fault);
    assert!(debugger.forth_to(&Goal::End) && debugger.outcome().is_some());
    assert!(!debugger.forth_to(&Goal::Event));
}

#[test]
fn another_way_can_be_taken_and_had_again() {
    let mut debugger = debugger();
    debugger.forth_to(&Goal::Fault);
    assert!(debugger.forth_to(&Goal::Choice));
    let asked = debugger.coming()[0].clone();
    assert_eq!(asked.choice.pick, 0);
    assert!(debugger.view(View::Choices).len() > 2);
    assert!(debugger.take(asked.index, asked.choice.among).is_err() && debugger.take(asked.index + 99, 0).is_err());
    debugger.take(asked.index, 1).expect("an alternative");
    assert_eq!(debugger.coming()[0].choice.pick, 1);
    debugger.forth_to(&Goal::End);
    let list = debugger.choices().deviations();
    assert_eq!(list.len(), 1, "all other choices are calm");
    let replay = Chooser::Replay(Replay::new(Arc::new(list), ReplayMode::Strict));
    let options = RunOptions { level: Some(Level::Io), ..RunOptions::default() };
    let again = blockjob_sim::sim::run(&case(RACE), replay, &options);
    assert_eq!(Some(&again.outcome), debugger.outcome());
    let records = |trace: &blockjob_sim::trace::Trace| trace.iter().cloned().collect::<Vec<_>>();
    assert!(records(&again.trace) == records(&debugger.sim().world.trace));
}

#[test]
fn the_line_mode_obeys() {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"))
        .current_dir(path(""))
        .args(["debug", "--lines", &common::case_file(RACE)])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the command runs");
    let script = "fault\njobs\nback job\nchoice\ntake 1\nnonsense\nend\nchosen\nquit\n";
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in
        ["inject-error", "jobs:", "drive1", "will take 1", "`nonsense` is no command", "the run is over: passed", "1/"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(output.status.success());
}

#[test]
fn wrong_arguments_are_told() {
    for (arguments, part) in [
        (&["timeline", "nowhere.yaml"][..], "nowhere.yaml"),
        (&["timeline", "README.md"], "line 1"),
        (&["timeline", "sim-scenarios/backup/full.yaml", "-o", "/tmp/x.unknown"], "expected .html"),
        (&["timeline", "sim-scenarios/backup/full.yaml", "--from", "yesterday"], "expected milliseconds"),
        (&["timeline", "sim-scenarios/backup/full.yaml", "--beside-seed", "1"], "on a page only"),
        (&["debug", "nowhere.yaml"], "nowhere.yaml"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_blockjob-sim")).current_dir(path("")).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

/// The gallery is what its command makes. To renew it: `blockjob-sim gallery docs/gallery`.
#[test]
fn the_gallery_is_up_to_date() {
    let made = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"))
        .current_dir(path(""))
        .arg("gallery")
        .arg(made.path())
        .output()
        .expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |dir: &std::path::Path| -> BTreeMap<String, String> {
        let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
        entries
            .map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&file).unwrap()))
            .collect()
    };
    let (made, kept) = (read(made.path()), read(&path("docs/gallery")));
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&kept), "run `blockjob-sim gallery docs/gallery`");
    // Nothing is missing: every case, and every exhibit without its wrong behaviour and with it.
    let exhibits = fs::read_dir(path("sim-scenarios/museum")).expect("the museum");
    let exhibits = exhibits.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
    let exhibits = exhibits.map(|path| path.file_stem().unwrap().display().to_string());
    let wanted = exhibits.flat_map(|name| [format!("museum-{name}-off.svg"), format!("museum-{name}-on.svg")]);
    for picture in wanted.chain(CASES.map(|case| format!("124-{case}.svg"))) {
        assert!(made.contains_key(&picture), "{picture} is missing");
        assert!(made["README.md"].contains(&picture), "{picture} is not on the page");
    }
    let differ: Vec<&String> =
        made.iter().filter(|(name, text)| kept.get(*name) != Some(text)).map(|(name, _)| name).collect();
    assert!(differ.is_empty(), "these differ, run `blockjob-sim gallery docs/gallery`: {differ:?}");
    for (name, text) in made.iter().filter(|(name, _)| name.ends_with(".svg")) {
        well_formed(text);
        assert!(text.len() < 60_000, "{name} is large");
    }
}
