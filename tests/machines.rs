//! What is asked of a machine when it starts has the real one's answers: QMP queries, and the items of the human monitor's `info`.
//!
//! `tests/data/machines.jsonl` has command lines, and below each what QEMU 10.0.2 answered; `tests/record-requests.py machines` made it.

#![allow(clippy::disallowed_macros, reason = "tests say what differs")]

use blockjob_sim::base::Json;
use blockjob_sim::choice::Calm;
use blockjob_sim::host::HostFiles;
use blockjob_sim::qmp::json::parse_one;
use blockjob_sim::world::World;
use blockjob_sim::world::aio::Stepped;
use blockjob_sim::world::out::Output;
use std::sync::Arc;

const RECORDED: &str = include_str!("data/machines.jsonl");

/// A machine with a client.
fn boot(args: &Json) -> World {
    let text = |arg: &Json| -> Arc<str> { arg.as_str().expect("arguments are texts").into() };
    let args: Vec<Arc<str>> = args.as_list().expect("a list of arguments").iter().map(text).collect();
    let mut world = World::new(HostFiles::new());
    world.boot(&args).unwrap_or_else(|err| panic!("{args:?}: {err}"));
    world.connect(true);
    world
}

/// The reply to a request; events are passed over.
fn ask(world: &mut World, request: Json) -> Json {
    world.submit(0, request);
    loop {
        while let Some(output) = world.out.pop_front() {
            if let Output::Reply { reply, .. } = output {
                return reply;
            }
        }
        assert_eq!(world.step(&mut Calm), Stepped::Ran, "there is no answer");
    }
}

/// Members by their names.
fn sorted(json: &Json) -> Json {
    match json {
        Json::Dict(members) => {
            let mut members: Vec<_> = members.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Dict(Arc::new(members))
        }
        Json::List(items) => Json::list(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// Numbers compare by their values; that of the I/O thread is not recorded, QEMU's differs from run to run.
fn shown(json: Option<&Json>) -> String {
    let Some(json) = json else { return "nothing".to_owned() };
    let text = format!("{:?}", sorted(json)).replace("Uint(", "Int(");
    text.replace("(\"thread-id\", Int(2))", "(\"thread-id\", Int(0))").replace("thread_id=2\\r", "thread_id=0\\r")
}

#[test]
fn each_answers_as_the_real_one() {
    let mut world = None;
    let (mut asked, mut differences) = (0, Vec::new());
    for line in RECORDED.lines() {
        let case = parse_one(line).expect("JSON that a script wrote");
        if let Some(args) = case.get("args") {
            world = Some(boot(args));
            continue;
        }
        let world = world.as_mut().expect("a machine stands first");
        let request = case.get("qmp").cloned().unwrap_or_else(|| {
            let arguments = Json::dict(vec![("command-line", case.get("hmp").expect("a request").clone())]);
            Json::dict(vec![("execute", "human-monitor-command".into()), ("arguments", arguments)])
        });
        let reply = ask(world, request);
        asked += 1;
        for key in ["return", "error"] {
            let (real, ours) = (shown(case.get(key)), shown(reply.get(key)));
            if real != ours {
                let what = case.get("qmp").or(case.get("hmp"));
                differences.push(format!("{what:?}\n  QEMU: {real}\n  here: {ours}"));
            }
        }
    }
    assert!(asked > 200, "{asked} requests");
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}
