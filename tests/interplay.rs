//! Which commands are refused while a job runs: each pair that a real QEMU was asked, with its answer (`tests/interplay.py`).

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::base::Json;
use blockjob_sim::choice::Chooser;
use blockjob_sim::invariant::Broken;
use blockjob_sim::scenario::{Plan, load};
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use blockjob_sim::trace::Level;
use blockjob_sim::trace::canonical;
use blockjob_sim::trace::compare::{ClientLine, client_lines, same};
use common::in_threads;

const COMMANDS: &str = include_str!("data/interplay/commands.json");
const REPLIES: &str = include_str!("data/interplay/replies.jsonl");

/// The program of a pair. JSON is YAML.
fn plan(all: &Json, running: &str, sent: &str) -> Plan {
    let member = |json: &Json, key: &str| json.get(key).unwrap_or_else(|| panic!("no {key}")).clone();
    let list = |json: Json| json.as_list().expect("a list").to_vec();
    let (first, second) = (member(all, "first"), member(all, "second"));
    let commands = list(member(all, "before")).into_iter().chain(list(member(&first, running)));
    let step = |command: Json| Json::dict(vec![("qmp", command), ("reply", "any".into())]);
    let steps = commands.chain([member(&second, sent)]).map(step).collect();
    let scenario = Json::dict(vec![
        ("about", format!("{running}; {sent}").into()),
        ("files", member(all, "files")),
        ("args", member(all, "args")),
        ("steps", Json::list(steps)),
    ]);
    let text = canonical::to_string(&scenario);
    load("pair.yaml", &mut |_| Ok(text.clone())).unwrap_or_else(|error| panic!("{error:?}")).expect("a scenario")
}

/// What came of the last command, in the words of the recording.
fn outcome(plan: &Plan, commands: usize) -> Json {
    let options = RunOptions { level: Some(Level::Client), ..RunOptions::default() };
    let run = sim::run(plan, Chooser::Calm, &options);
    if let Outcome::Crash { message, .. } = &run.outcome {
        let broken = Broken::from_panic(message).unwrap_or_else(|| panic!("{message}"));
        return Json::dict(vec![("killed", broken.signals().first().copied().unwrap_or("nothing").into())]);
    }
    let lines = client_lines(&run.trace);
    let mut replies = lines.iter().filter_map(|line| match line {
        ClientLine::Reply(reply) => Some(reply),
        _ => None,
    });
    replies.nth(commands - 1).cloned().unwrap_or_else(|| Json::dict(vec![("hangs", true.into())]))
}

#[test]
fn commands_beside_jobs_are_answered_as_by_qemu() {
    // Some end as QEMU does, by a signal.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str().and_then(Broken::from_panic).is_none() {
            usual(panic);
        }
    }));
    let all = canonical::parse(COMMANDS).expect("JSON");
    let count = |key: &str| all.get(key).and_then(Json::as_dict).expect("an object").len();
    let recorded: Vec<Json> = REPLIES.lines().map(|line| canonical::parse(line).expect("JSON")).collect();
    assert_eq!(recorded.len(), count("first") * count("second"), "each pair is recorded");
    let differ = in_threads(&recorded, |line| {
        let text = |key: &str| line.get(key).and_then(Json::as_str).expect("a text");
        let (running, sent) = (text("running"), text("sent"));
        let plan = plan(&all, running, sent);
        let ours = outcome(&plan, plan.steps.len());
        let members = line.as_dict().expect("an object").iter();
        let theirs = members.filter(|(key, _)| !matches!(&**key, "running" | "sent")).cloned().collect();
        let theirs = Json::Dict(std::sync::Arc::new(theirs));
        let shown = || format!("{running}; {sent}:\n  QEMU:  {theirs:?}\n  model: {ours:?}");
        (!same(&theirs, &ours)).then(shown)
    });
    let differ: Vec<String> = differ.into_iter().flatten().collect();
    assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), recorded.len(), differ.join("\n"));
}
