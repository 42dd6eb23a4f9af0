//! Inputs that nobody who means well writes: nothing panics, nothing runs past its limits, and what is refused is told with its place.
//!
//! The fuzz targets change good inputs by a fixed seed, so many of them, or for so long (`common/budget.rs`); `tests/hostile.sh` gives each
//! ten million, `.ci/run` ten seconds, both in release mode. An input that does harm is written to `target/hostile`.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/budget.rs"]
mod budget;
#[path = "common/random.rs"]
mod random;
#[path = "common/signal.rs"]
mod signal;

use blockjob_sim::base::Json;
use blockjob_sim::choice::{Calm, Chooser, ReplayMode, Walk};
use blockjob_sim::explore::saved;
use blockjob_sim::explore::{Block, Campaign, Tally};
use blockjob_sim::failure::Failure;
use blockjob_sim::invariant::Broken;
use blockjob_sim::qmp::json::parse_one;
use blockjob_sim::scenario::plan::{Limits, Plan};
use blockjob_sim::scenario::{self, load};
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use blockjob_sim::sim::{self, Sim};
use blockjob_sim::world::World;
use blockjob_sim::world::aio::Stepped;
use budget::Budget;
use random::Random;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Dispatches that a run gets.
const STEPS: u64 = 20_000;

/// What is put in the place of numbers and words.
const ODD: &[&str] = &[
    "0",
    "-1",
    "1",
    "511",
    "512",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "0x8000000000000000",
    "1T",
    "8E",
    "7E",
    "null",
    "true",
    "[]",
    "{}",
    "''",
    "\"\"",
    "$a",
    "${",
    "&a",
    "*a",
    "<<",
    "~",
    "\u{0}",
    "\u{10ffff}",
    "%s",
    "/dev/zero",
    "json:{",
    "nbd://",
    "../x",
    "106751d",
    "5124095h",
];

/// A good text with some of it changed.
fn mutated(good: &str, other: &str, draw: &mut Random) -> String {
    let mut bytes = good.as_bytes().to_vec();
    for _ in 0..=draw.index(3) {
        let at = draw.index(bytes.len());
        let end = (at + 1 + draw.index(24)).min(bytes.len());
        match draw.index(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.extend_from_within(at..end),
            3 if !bytes.is_empty() => bytes[at] ^= 1 << draw.index(7),
            4 => {
                let piece = other.as_bytes();
                let from = draw.index(piece.len());
                let to = (from + draw.index(80)).min(piece.len());
                bytes.splice(at..at, piece[from..to].iter().copied());
            }
            // A number or a word becomes another.
            _ => {
                let digit = |b: &u8| b.is_ascii_alphanumeric();
                let Some(from) = bytes[at.min(bytes.len())..].iter().position(digit).map(|n| at + n) else { continue };
                let to = from + bytes[from..].iter().take_while(|b| digit(b)).count();
                let odd = ODD[draw.index(ODD.len())];
                bytes.splice(from..to, odd.bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All scenario files: name and text.
fn scenarios() -> Vec<(String, String)> {
    let (mut found, mut open) = (Vec::new(), vec![root().join("sim-scenarios")]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "yaml") {
                let text = fs::read_to_string(&path).expect("a text");
                found.push((path.to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// Gives a target so many inputs: changed ones of `corpus`.
fn fuzz(target: &str, inputs: u64, corpus: &[String], run: &mut dyn FnMut(usize, &str)) {
    let mut budget = Budget::of_environment(inputs, 1);
    let seed = budget.seed;
    let mut draw = Random(seed);
    while let Some(n) = budget.next() {
        let (which, other) = (draw.index(corpus.len()), draw.index(corpus.len()));
        let text = mutated(&corpus[which], &corpus[other], &mut draw);
        let done = catch_unwind(AssertUnwindSafe(|| run(which, &text)));
        if done.is_err() {
            let dir = root().join("target/hostile");
            fs::create_dir_all(&dir).expect("a directory");
            let path = dir.join(format!("{target}-{seed}-{n}"));
            fs::write(&path, &text).expect("a file");
            panic!("{target}: input {n} of seed {seed} does harm: {}", path.display());
        }
    }
    budget.tell(target);
}

fn included(name: &str) -> Result<String, String> {
    let about = fs::metadata(name).map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("this is no file".to_owned());
    }
    fs::read_to_string(name).map_err(|error| error.to_string())
}

thread_local! {
    /// Files that were included, so that each is read once.
    static INCLUDED: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// Loads a text as if it stood in the file `name`, next to what it includes.
fn plan(name: &str, text: &str) -> Option<Plan> {
    let mut read = |asked: &str| {
        if asked == name {
            return Ok(text.to_owned());
        }
        let known = INCLUDED.with_borrow(|files| files.get(asked).cloned());
        known.map_or_else(
            || {
                let text = included(asked)?;
                INCLUDED.with_borrow_mut(|files| files.insert(asked.to_owned(), text.clone()));
                Ok(text)
            },
            Ok,
        )
    };
    match load(name, &mut read) {
        Ok(plan) => plan,
        Err(error) => {
            let shown = blockjob_sim::cli::report::render(&error, 120, false);
            assert!(shown.len() < 8_000, "a report of {} bytes", shown.len());
            None
        }
    }
}

/// Whether a run ended in a panic that is not the death of QEMU, which has the process end where no invariant is watched.
fn panics(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Crash { message, .. } if Broken::from_panic(message).is_none())
}

/// Runs a plan for a while.
fn run(mut plan: Plan, seed: u64) {
    plan.limits = Limits { steps: Some(STEPS), time: plan.limits.time, trace: Some(2_000) };
    let options = RunOptions { level: Some(blockjob_sim::trace::Level::Client), ..RunOptions::default() };
    let run = sim::run(&plan, Chooser::Walk(Box::new(Walk::new(seed))), &options);
    assert!(!panics(&run.outcome), "{}", run.outcome);
    assert!(run.dispatches <= STEPS + 8, "{} dispatches", run.dispatches);
}

#[test]
fn scenario_files() {
    let all = scenarios();
    let texts: Vec<String> = all.iter().map(|(_, text)| text.clone()).collect();
    fuzz("scenario", 1_000, &texts, &mut |which, text| {
        if let Some(plan) = plan(&all[which].0, text) {
            run(plan, which as u64);
        }
    });
}

/// A commit of an image that is long and empty looks at 28,672 pieces, all in one step of the event loop.
const LONG_COMMIT: &str = "
about: A long commit.
files:
  - create: {file: base.qcow2, format: qcow2, size: 14G}
  - create: {file: mid.qcow2, format: qcow2, size: 14G, backing: {file: base.qcow2, format: qcow2}}
  - create: {file: top.qcow2, format: qcow2, size: 14G, backing: {file: mid.qcow2, format: qcow2}}
args:
  - -blockdev
  - qcow2,node-name=top,file.driver=file,file.filename=top.qcow2
steps:
  - qmp: {execute: block-commit, arguments: {job-id: c, device: top, top: mid.qcow2, base: base.qcow2}}
  - event: {event: JOB_STATUS_CHANGE, data: {id: c, status: 'null'}}
";

#[test]
fn the_limit_ends_a_run_in_the_middle_of_a_step() {
    let mut plan = plan("long-commit.yaml", LONG_COMMIT).expect("a scenario");
    plan.limits.steps = Some(STEPS);
    let run = sim::run(&plan, Chooser::Calm, &RunOptions::default());
    assert!(matches!(run.outcome, Outcome::Limit { .. }), "{}", run.outcome);
    assert!(run.dispatches <= STEPS + 8, "{} dispatches", run.dispatches);
}

/// So many drives, each of which takes its dispatches before the process listens to anybody.
#[test]
fn the_limit_holds_while_the_process_starts() {
    let drives: String = (0..200).map(|n| format!("  - -blockdev\n  - null-co,node-name=n{n}\n")).collect();
    let text = |steps| {
        format!(
            "about: Many drives.\nlimits: {{steps: {steps}}}\nargs:\n{drives}steps: [{{qmp: {{execute: query-jobs}}}}]\n"
        )
    };
    let outcome = |steps| {
        let plan = plan("many-drives.yaml", &text(steps)).expect("a scenario");
        sim::run(&plan, Chooser::Calm, &RunOptions::default()).outcome
    };
    let met = outcome(100);
    assert!(matches!(&met, Outcome::Limit { what, .. } if what == "more than 100 steps"), "{met}");
    assert_eq!(outcome(100_000), Outcome::Passed);
}

/// The same for a process that a step starts.
#[test]
fn the_limit_holds_while_another_process_starts() {
    let drives: String = (0..200).map(|n| format!(", -blockdev, 'null-co,node-name=n{n}'")).collect();
    let text = format!(
        "about: A second process.\nlimits: {{steps: 300}}\nargs: [-nodefaults]\nsteps:\n  - qmp: {{execute: quit}}\n  - start: [-nodefaults{drives}]\n"
    );
    let plan = plan("second.yaml", &text).expect("a scenario");
    let met = sim::run(&plan, Chooser::Calm, &RunOptions::default()).outcome;
    assert!(matches!(&met, Outcome::Limit { what, .. } if what == "more than 300 steps"), "{met}");
}

/// A process with drives, jobs and bitmaps.
fn process() -> World {
    let text = fs::read_to_string(root().join("tests/data/hostile/process.yaml")).expect("the scenario");
    let plan = plan("process.yaml", &text).expect("a scenario");
    Sim::new(&plan, &RunOptions::default()).expect("it starts").world
}

/// Commands that the scenarios send, one a line.
fn commands(hmp: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, text) in scenarios() {
        let Some(plan) = plan(&name, &text) else { continue };
        for step in plan.steps.iter() {
            match &step.kind {
                scenario::plan::StepKind::Qmp { command, .. } if !hmp => {
                    lines.push(blockjob_sim::trace::canonical::to_string(command));
                }
                scenario::plan::StepKind::Hmp { line, .. } if hmp => lines.push(line.to_string()),
                _ => {}
            }
        }
    }
    lines
}

/// Sends commands to a process, one after the other, and lets each run for a while.
fn send(world: &mut World, command: Json) {
    let fresh = world.quitting || !world.in_main_loop();
    if fresh {
        *world = process();
    }
    let client = world.connect(true);
    world.submit(client, command);
    for _ in 0..STEPS {
        if world.step(&mut Calm) != Stepped::Ran || (world.at_rest() && !world.monitor.busy()) {
            break;
        }
    }
    world.out.clear();
    world.disconnect(client);
    // The list of clients grows with each.
    if world.monitor.clients.len() > 64 {
        *world = process();
    }
}

#[test]
fn qmp_lines() {
    let mut world = process();
    fuzz("qmp", 5_000, &commands(false), &mut |_, line| {
        if let Ok(json) = parse_one(line) {
            send(&mut world, json);
        }
    });
}

#[test]
fn hmp_lines() {
    let mut world = process();
    fuzz("hmp", 5_000, &commands(true), &mut |_, line| {
        let arguments = Json::dict(vec![("command-line", Json::str(line))]);
        send(&mut world, Json::dict(vec![("execute", "human-monitor-command".into()), ("arguments", arguments)]));
    });
}

#[test]
fn failure_files() {
    let text = fs::read_to_string(root().join("tests/data/hostile/failure.yaml")).expect("a failure file");
    assert!(Failure::from_text("failure.yaml", &text).is_ok(), "the good one can be read");
    fuzz("failure", 2_000, &[text], &mut |_, text| {
        if let Ok(mut failure) = Failure::from_text("f.yaml", text) {
            failure.plan.limits = Limits { steps: Some(STEPS), time: None, trace: Some(2_000) };
            let shown = failure.replay(sim::run, ReplayMode::Lenient, &RunOptions::default());
            assert!(!panics(&shown.run.outcome), "{}", shown.run.outcome);
        }
    });
}

#[test]
fn campaign_files() {
    let campaign = Campaign::ladder(10, 1_000);
    let head =
        serde_json::to_string(&saved::CampaignHead::new("x.yaml".into(), String::new(), &campaign)).expect("JSON");
    let block = |stage, number, beyond| {
        let block = Block { stage, number, runs: 7, schedules: vec![1, number], beyond, ..Block::default() };
        serde_json::to_string(&block).expect("JSON")
    };
    let lines =
        [head, block(0, 0, false), block(1, 0, false), block(1, 1, true), block(2, 0, false), block(2, 1, true)];
    fuzz("campaign", 10_000, &[lines.join("\n")], &mut |_, text| {
        let Ok(saved::SavedCampaign { head, mut blocks, .. }) = saved::read("c", text) else { return };
        let mut tally = Tally::new(Arc::new(head.campaign));
        while tally.over.is_none()
            && let Some(block) = blocks.remove(&tally.next())
        {
            tally.take(&block);
        }
        assert!(tally.report(true).len() < 100_000);
    });
}

fn sim() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"));
    command.stdin(Stdio::null()).current_dir(root().join("tests/data/hostile"));
    command
}

/// Exit code and standard error of the program.
fn told(args: &[&str]) -> (Option<i32>, String) {
    let output = sim().args(args).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn each_example_is_refused_by_name() {
    let cases: &[(&[&str], i32, &str)] = &[
        (&["run", "size.yaml"], 2, "expected at most 9223372035781033984 bytes"),
        (&["run", "write-behind-the-end.yaml"], 1, "'s.qcow2': Input/output error"),
        (&["run", "write-1t.yaml"], 2, "expected at most 2147483136 bytes, found 1099511627776"),
        (&["run", "no-trace.yaml"], 1, "more than 0 records in the trace"),
        (&["run", "no-trace.yaml", "--level", "co"], 1, "more than 0 records in the trace"),
        (&["run", "long-config.yaml"], 1, "Could not read blkdebug config file: it has more than 1048576 bytes"),
        (&["run", "long-same.yaml"], 0, "passed"),
        (&["run", "far-sleeps.yaml"], 1, "limit in step 2: more than 4611682800000 ms of virtual time"),
        (&["check", "doubling-texts.yaml"], 2, "it has more than 32 MiB of text"),
        (&["check", "doubling-lists.yaml"], 2, "it has more than 2000000 values"),
        (&["merge", "/dev/zero"], 2, "/dev/zero: this is no file"),
        (&["run", "no-trace.yaml", "--bytes", "/dev/zero"], 2, "/dev/zero: this is no file"),
        (&["merge", "campaign.jsonl"], 2, "campaign.jsonl:3: so far there are more than 2^64 runs"),
    ];
    for (args, code, text) in cases {
        let (got, said) = told(args);
        assert!(got == Some(*code) && said.contains(text), "{args:?}: {got:?}\n{said}");
    }
}

#[test]
fn a_mistake_far_out_in_a_line_is_shown() {
    let text = format!("\"{}\": : 1\n", "x".repeat(70_000));
    let error = load("long.yaml", &mut |_| Ok(text.clone())).expect_err("it is no scenario");
    let shown = blockjob_sim::cli::report::render(&error, 120, false);
    assert!(shown.contains("long.yaml:1:700") && shown.len() < 2_000, "{shown}");
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    for args in
        [&["generate", "--seed", "1"][..], &["--help"], &["qemu", "-help"], &["run", "long-same.yaml", "--choices"]]
    {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("the device");
        let status = sim().args(args).stdout(full).stderr(Stdio::null()).status().expect("it runs");
        // QEMU ends with 1.
        let wanted = if args[0] == "qemu" { 1 } else { 2 };
        assert_eq!(status.code(), Some(wanted), "{args:?}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_the_work() {
    let path = Path::new("/nonexistent/x");
    let options = ["qemu", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio", "--sim-record"];
    let output = sim().args(options).arg(path).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{said}");
    assert!(said.contains("Could not write '/nonexistent/x': No such file or directory"), "{said}");
}

/// The served process with these options, spoken to over pipes.
fn served(options: &[&str]) -> std::process::Child {
    let mut command = sim();
    command.args(["qemu", "-nodefaults", "-display", "none", "-S", "--sim-pace", "asap"]).args(options);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts")
}

/// Sends SIGTERM. How the process ended, if it did within some seconds.
fn ends(mut process: std::process::Child) -> Option<std::process::ExitStatus> {
    signal::send("TERM", process.id());
    for _ in 0..200 {
        if let Some(status) = process.try_wait().expect("a child") {
            return Some(status);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    process.kill().expect("a child");
    None
}

#[test]
fn qtest_lines() {
    let good = [
        "clock_step",
        "clock_step 1000",
        "clock_set 18446744073709551615",
        "clock_set 0x10",
        "endianness",
        "read 0x0 16",
        "irq_intercept_in ioapic",
    ];
    let corpus: Vec<String> = good.iter().map(|line| (*line).to_owned()).collect();
    let mut process = served(&["-qtest", "stdio"]);
    let (mut stdin, stdout) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
    let mut answers = std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok);
    let mut send = |lines: &[String]| std::io::Write::write_all(&mut stdin, (lines.join("\n") + "\n").as_bytes());
    send(&["clock_set 18446744073709551615".to_owned()]).expect("it reads");
    assert_eq!(answers.next().as_deref(), Some("FAIL the clock goes up to 4611686018427387904 ns"));
    let mut lines: Vec<String> = Vec::new();
    let mut all_answered = |lines: &mut Vec<String>| {
        send(lines).expect("it reads");
        lines.drain(..).for_each(|line| assert!(answers.next().is_some(), "`{line}` has no answer"));
    };
    fuzz("qtest", 20_000, &corpus, &mut |_, text| {
        lines.push(text.replace('\n', " "));
        // No more than what fits into the pipes, so that neither side waits for the other.
        if lines.len() == 64 {
            all_answered(&mut lines);
        }
    });
    if !lines.is_empty() {
        all_answered(&mut lines);
    }
    drop(stdin);
    assert_eq!(ends(process).and_then(|status| status.code()), Some(0));
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let mut process = served(&["-qmp", "stdio"]);
    let mut stdin = process.stdin.take().expect("piped");
    let mut commands = "{\"execute\": \"qmp_capabilities\"}\n".to_owned();
    commands.push_str(&"{\"execute\": \"query-commands\"}\n".repeat(200));
    std::io::Write::write_all(&mut stdin, commands.as_bytes()).expect("it reads");
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(ends(process).and_then(|status| status.code()), Some(0), "as QEMU");
}

#[test]
fn a_signal_ends_a_process_that_waits_for_its_client() {
    let path = std::env::temp_dir().join(format!("blockjob-sim-hostile-{}", std::process::id()));
    let option = format!("unix:{},server=on,wait=on", path.display());
    let process = served(&["-qmp", &option]);
    while !path.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let status = ends(process).expect("it ends");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15), "as QEMU");
    let _ = fs::remove_file(path);
}
