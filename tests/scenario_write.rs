//! Plans written as scenario files load back to the same plan, and the text is one that a person can read.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::base::Json;
use blockjob_sim::base::errno::Errno;
use blockjob_sim::base::time::{Instant, Span};
use blockjob_sim::choice::{Addressee, ChoiceLog, Deviation, Deviations};
use blockjob_sim::host::{DiskRates, Failing, HostChange, Request};
use blockjob_sim::quirk;
use blockjob_sim::scenario::nbd::{NbdAction, NbdAnswer, NbdStep, Replies};
use blockjob_sim::scenario::plan::{
    Backing, BitmapCheck, EventPattern, Expect, Extent, Fails, FileOp, ImageFormat, Limits, PlannedFile, PlannedStep,
    ProcessOp, Qcow2Options, Schedule, Signal, StepKind, WriteData,
};
use blockjob_sim::scenario::{Plan, load, write};
use common::{path, plan_of};
use proptest::prelude::*;
use std::fs;
use std::sync::Arc;

/// Loads a text that stands in no file.
fn load_text(text: &str) -> Plan {
    let mut read = |_: &str| Ok(text.to_owned());
    let loaded = load("written.yaml", &mut read);
    loaded.unwrap_or_else(|error| panic!("{error}\n{text}")).expect("it has steps")
}

fn scenarios(folder: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(path(folder)).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("a type").is_dir() {
            scenarios(&name, found);
        } else if name.ends_with(".yaml") {
            found.push(name);
        }
    }
}

#[test]
fn all_scenarios_come_back() {
    let mut files = Vec::new();
    scenarios("sim-scenarios", &mut files);
    assert!(files.len() > 300);
    for file in files {
        let Some(plan) = plan_of(&file) else { continue };
        let text = write::to_yaml(&plan);
        assert_eq!(load_text(&text).without_places(), plan.without_places(), "{file}\n{text}");
        // What has no place to break, such as a long command line in quotes, may be longer.
        let long = text.lines().find(|line| line.len() > 118 && line.contains(", ") && !line.contains(['\'', '"']));
        assert_eq!(long, None, "{file}");
    }
}

#[test]
fn remarks_are_comments() {
    let plan = plan_of("sim-scenarios/iotest-124/transaction-failure-race.yaml").expect("a scenario");
    let remarks = write::Remarks {
        head: vec!["first\nline".to_owned()],
        steps: vec![(0, "before all".to_owned()), (3, "before the fourth: {".to_owned())],
        tail: vec!["last".to_owned()],
    };
    let text = write::with_remarks(&plan, &remarks);
    assert!(text.starts_with("# first line\nabout: "), "{text}");
    assert!(text.contains("steps:\n  # before all\n  - qmp:"), "{text}");
    assert!(text.ends_with("# last\n"), "{text}");
    assert_eq!(load_text(&text).without_places(), plan.without_places());
}

fn word() -> impl Strategy<Value = Arc<str>> {
    let words = prop_oneof!["[a-z0-9-]{1,8}", "(?s).{0,8}", Just("null".to_owned()), Just("1e3".to_owned())];
    words.prop_map(|word| word.as_str().into())
}

fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        any::<i64>().prop_map(Json::Int),
        any::<u64>().prop_map(Json::uint),
        word().prop_map(Json::Str),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::list),
            prop::collection::btree_map(word(), inner, 0..4)
                .prop_map(|members| Json::Dict(Arc::new(members.into_iter().collect()))),
        ]
    })
}

fn object() -> impl Strategy<Value = Json> {
    prop::collection::btree_map(word(), json(), 0..4)
        .prop_map(|members| Json::Dict(Arc::new(members.into_iter().collect())))
}

fn step() -> impl Strategy<Value = StepKind> {
    let command = (word(), object())
        .prop_map(|(name, arguments)| Json::dict(vec![("execute", Json::Str(name)), ("arguments", arguments)]));
    let expect = prop_oneof![
        Just(Expect::Any),
        prop::option::of(json()).prop_map(Expect::Return),
        (prop::option::of(word()), prop::option::of(word())).prop_map(|(class, desc)| Expect::Error { class, desc }),
    ];
    prop_oneof![
        (command, expect).prop_map(|(command, expect)| StepKind::Qmp { command, expect }),
        (word(), prop::option::of(word()), prop::option::of(word()))
            .prop_map(|(line, output, returns)| StepKind::Hmp { line, output, returns, fails: Fails::Any }),
        (0..=1_u64 << 62).prop_map(|n| StepKind::Sleep(Span::from_nanos(n))),
        prop::collection::vec(word(), 0..3).prop_map(|except| StepKind::NoEvents { except }),
        word().prop_map(StepKind::Mark),
        (prop::collection::vec(any::<u8>(), 0..6), prop::option::of(prop::collection::vec(json(), 0..3)))
            .prop_map(|(bytes, replies)| StepKind::Send { bytes: bytes.into(), replies }),
        (word(), Just(None)).prop_map(|(text, replies)| StepKind::Send { bytes: text.as_bytes().into(), replies }),
        file_op().prop_map(StepKind::File),
        looks(),
        nbd().prop_map(StepKind::Nbd),
        process().prop_map(StepKind::Process),
    ]
}

fn looks() -> impl Strategy<Value = StepKind> {
    let event = (word(), prop::option::of(object()), prop::collection::vec(word(), 0..3));
    let flags = (any::<bool>(), any::<[Option<bool>; 4]>(), any::<[Option<u64>; 2]>());
    let ranges = prop::option::of(prop::collection::vec((any::<u64>(), any::<u64>()), 0..3));
    let bitmap = (word(), word(), flags, ranges).prop_map(|(node, name, (absent, flags, numbers), ranges)| {
        let [busy, recording, persistent, inconsistent] = flags;
        let [count, granularity] = numbers;
        BitmapCheck { node, name, absent, ranges, count, granularity, busy, recording, persistent, inconsistent }
    });
    prop_oneof![
        event.prop_map(|(name, data, without)| StepKind::Event(EventPattern { name, data, without })),
        bitmap.prop_map(StepKind::Bitmap),
        prop::collection::vec(word(), 2..4).prop_map(StepKind::Same),
        (any::<u64>(), 0..=1_u64 << 62)
            .prop_map(|(frames, time)| StepKind::At { frames, time: Instant::START + Span::from_nanos(time) }),
        Just(StepKind::Idle),
        Just(StepKind::NoJobs),
    ]
}

fn process() -> impl Strategy<Value = ProcessOp> {
    prop_oneof![
        (prop::collection::vec(word(), 0..3), prop::option::of(word()))
            .prop_map(|(args, error)| ProcessOp::Start { args, error }),
        Just(ProcessOp::Kill),
        (0..Signal::NAMES.len()).prop_map(|i| ProcessOp::Signal(Signal::NAMES[i].1)),
    ]
}

fn nbd() -> impl Strategy<Value = NbdStep> {
    let replies = prop_oneof![Just(Replies::Simple), Just(Replies::Structured), Just(Replies::Extended)];
    let answer = prop_oneof![
        Just(NbdAnswer::Any),
        Just(NbdAnswer::Ok),
        Just(NbdAnswer::Closed),
        any::<u8>().prop_map(NbdAnswer::Pattern),
        Just(NbdAnswer::Error(Errno::EIO)),
        prop::collection::vec(any::<(u64, u64)>(), 0..3).prop_map(NbdAnswer::Extents),
    ];
    let action = prop_oneof![
        (word(), replies, prop::collection::vec(word(), 0..3), prop::option::of(word())).prop_map(
            |(export, replies, contexts, refused)| {
                let silent = refused.is_none() && contexts.is_empty();
                NbdAction::Connect { export, replies, contexts, refused, silent }
            }
        ),
        // The kinds of requests have gaps in their numbers; a flush has no place.
        (prop::sample::select(vec![0u16, 1, 4, 5, 6, 7]), any::<u64>(), 0..32u64 << 20, any::<u8>(), 0..32u16)
            .prop_map(|(kind, offset, length, pattern, flags)| NbdAction::Ask { kind, offset, length, pattern, flags }),
        Just(NbdAction::Ask { kind: 3, offset: 0, length: 0, pattern: 0, flags: 0 }),
        answer.prop_map(NbdAction::Answer),
        Just(NbdAction::Disconnect),
        Just(NbdAction::Gone),
        any::<bool>().prop_map(NbdAction::Stall),
    ];
    (word(), action).prop_map(|(client, action)| NbdStep { client, action })
}

fn file_op() -> impl Strategy<Value = FileOp> {
    let qcow2 = (word(), 0..1u64 << 62, 9u32..=21, any::<Option<bool>>(), prop::option::of(word())).prop_map(
        |(file, size, bits, compat_v3, below)| FileOp::Create {
            file,
            format: ImageFormat::Qcow2,
            size: Some(size),
            options: Qcow2Options { cluster_size: Some(1 << bits), compat_v3, lazy_refcounts: compat_v3 },
            backing: below.map(|file| Backing { file, format: ImageFormat::Raw }),
        },
    );
    let data = prop_oneof![any::<u8>().prop_map(WriteData::Pattern), Just(WriteData::Zero), Just(WriteData::Discard)];
    prop_oneof![
        qcow2,
        (word(), 0..1u64 << 62, 1..1u64 << 30, data).prop_map(|(file, offset, length, data)| FileOp::Write {
            file,
            format: ImageFormat::Raw,
            offset,
            length,
            data
        }),
        (word(), word()).prop_map(|(file, content)| FileOp::Text { file, content }),
        word().prop_map(|file| FileOp::Rebase { file, backing: None }),
        (word(), 0..1u64 << 62, bytes()).prop_map(|(file, at, bytes)| FileOp::Bytes { file, at, bytes }),
        (word(), 0..1u64 << 62).prop_map(|(file, size)| FileOp::Resize { file, size }),
        (word(), any::<u64>(), any::<u64>()).prop_map(|(file, leaks, corruptions)| FileOp::Check {
            file,
            leaks,
            corruptions
        }),
        (word(), prop::collection::vec(extent(), 0..3)).prop_map(|(file, data)| FileOp::Content {
            file,
            size: 1 << 62,
            data
        }),
        host_change().prop_map(FileOp::Host),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..5)
}

fn extent() -> impl Strategy<Value = Extent> {
    let place = 0..1u64 << 61;
    prop_oneof![
        (place.clone(), bytes()).prop_map(|(at, bytes)| Extent { at, bytes, times: 1 }),
        (place, any::<u8>(), 2..1u64 << 40).prop_map(|(at, byte, times)| Extent { at, bytes: vec![byte], times }),
    ]
}

fn host_change() -> impl Strategy<Value = HostChange> {
    let failing = (0..Request::NAMES.len(), 0..9u64, prop::option::of(any::<u64>())).prop_map(|(on, after, times)| {
        let (_, on) = Request::NAMES[on];
        Failing { on, errno: Errno::EIO, after, times }
    });
    prop_oneof![
        any::<Option<u64>>().prop_map(HostChange::Capacity),
        (word(), any::<Option<u64>>()).prop_map(|(file, bytes)| HostChange::Limit(file, bytes)),
        (word(), 0..1u64 << 62).prop_map(|(file, size)| HostChange::Resize(file, size)),
        (word(), failing).prop_map(|(file, failing)| HostChange::Fail(file, failing)),
        word().prop_map(HostChange::Mend),
        Just(HostChange::Disk(None)),
        (1..=u64::MAX, 1..=u64::MAX)
            .prop_map(|(bytes, requests)| HostChange::Disk(Some(DiskRates { bytes, requests }))),
    ]
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let deviation = (word(), any::<u64>(), 1u32..9, 1u32..9).prop_map(|(file, offset, nth, pick)| Deviation {
        point: "complete-next",
        subject: Addressee::Request { op: "write", file, offset },
        nth,
        pick,
    });
    let log: ChoiceLog = "@3 latency:4 2/8\n@9 client-send 1/2\ntotal 12".parse().expect("a log");
    prop_oneof![
        Just(Schedule::Any),
        Just(Schedule::Calm),
        any::<u64>().prop_map(Schedule::Seed),
        Just(Schedule::Choices(Arc::new(log))),
        prop::collection::vec(deviation, 0..4).prop_map(|list| Schedule::Deviations(Arc::new(Deviations { list }))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_loads_back(
        about in word(),
        files in prop::collection::vec(file_op(), 0..4),
        args in prop::collection::vec(word(), 0..4),
        steps in prop::collection::vec(step(), 0..6),
        time in prop::option::of(0..=1_u64 << 62),
        schedule in schedule(),
    ) {
        let plan = Plan {
            about: about.clone(),
            files: files.into_iter().map(PlannedFile::new).collect(),
            args,
            steps: steps.into_iter().map(PlannedStep::new).collect(),
            limits: Limits { steps: time, time: time.map(Span::from_nanos), trace: None },
            quirks: quirk::TABLE.iter().take(usize::from(about.len() % 2 == 0)).map(|about| about.quirk).collect(),
            expect_violation: None,
            schedule,
        };
        let text = write::to_yaml(&plan);
        prop_assert_eq!(load_text(&text).without_places(), plan, "{}", text);
    }
}
