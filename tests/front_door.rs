//! What a newcomer meets: steps that must not pass silently, the habits of a command line.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/shell.rs"]
mod shell;
#[path = "common/signal.rs"]
mod signal;

use shell::{DISK, folder, sim};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const RACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sim-scenarios/iotest-124/transaction-failure-race.yaml");

/// A scenario on one disk, from standard input: how it ends.
fn run(steps: &str) -> (i32, String) {
    let dir = folder(&[]);
    let (code, _, err) = sim(dir.path(), &["run", "-"], &format!("about: A test.\n{DISK}steps:\n{steps}"));
    (code, err)
}

#[test]
fn what_fails_in_the_eyes_of_qemu_io_fails() {
    for (step, why) in [
        ("- {hmp: 'qemu-io drive0 \"wirte 0 1M\"', returns: ''}", "command \"wirte\" not found"),
        ("- hmp: qemu-io drive0 \"read -P 9 0 512\"", "Pattern verification failed"),
        ("- hmp: qemu-io nothing \"read 0 512\"", "nor node-name='nothing'"),
        ("- hmp: qemu-io drive0 \"write 2M 512\"", "write failed: Input/output error"),
        ("- hmp: nonsense", "unknown command"),
    ] {
        let (code, err) = run(step);
        assert!(code == 1 && err.contains(why), "{step}: {err}");
        for fails in ["true", "any"] {
            let allowed = match step.strip_suffix('}') {
                Some(step) => format!("{step}, fails: {fails}}}"),
                None => format!("{step}\n  fails: {fails}"),
            };
            assert_eq!(run(&allowed).0, 0, "{allowed}");
        }
    }
    let (code, err) = run("- hmp: qemu-io drive0 \"read 0 512\"\n  fails: true");
    assert!(code == 1 && err.contains("expected the command to fail"), "{err}");
    assert_eq!(run("- hmp: qemu-io drive0 \"read -P 9 0 512\"\n  output: Pattern verification failed").0, 0);
}

#[test]
fn a_bitmap_says_where_it_is_dirty() {
    let add = "- qmp: {execute: block-dirty-bitmap-add, arguments: {node: disk, name: b, granularity: 65536}}
- hmp: qemu-io drive0 \"write 64k 1\"
- hmp: qemu-io drive0 \"write 256k 128k\"
";
    assert_eq!(run(&format!("{add}- bitmap: {{node: disk, name: b, ranges: [[64K, 64K], [256K, 128K]]}}")).0, 0);
    let (code, err) = run(&format!("{add}- bitmap: {{node: disk, name: b, ranges: []}}"));
    assert!(code == 1 && err.contains("ranges: expected none, got 65536+65536, 262144+131072"), "{err}");
}

#[test]
fn wait_is_short_for_two_events() {
    let target = "- qmp: {execute: blockdev-add, arguments: {driver: null-co, node-name: t, size: 1048576}}\n";
    let backup = "- qmp: {execute: blockdev-backup, arguments: {job-id: j, device: disk, target: t, sync: full}}\n";
    assert_eq!(run(&format!("{target}{backup}- wait: j\n- no-jobs: true")).0, 0);
    let (code, err) = run(&format!("{target}{backup}- {{wait: j, error: Input/output error}}"));
    assert_eq!(code, 1, "{err}");
    // The event that came is named, and in which member it differs.
    assert!(err.contains("-:7: stuck") && err.contains("read BLOCK_JOB_COMPLETED {"), "{err}");
    assert!(err.contains("at error: expected \"Input/output error\", got nothing"), "{err}");
}

#[test]
fn a_client_waits_until_a_mirror_is_ready() {
    let target = "- qmp: {execute: blockdev-add, arguments: {driver: null-co, node-name: t, size: 1048576}}\n";
    let mirror = "- qmp: {execute: blockdev-mirror, arguments: {job-id: j, device: disk, target: t, sync: full}}\n";
    let complete = "- qmp: {execute: block-job-complete, arguments: {device: j}}\n";
    let (code, err) =
        run(&format!("{target}{mirror}- {{wait: j, until: ready}}\n{complete}- wait: j\n- no-jobs: true"));
    assert_eq!(code, 0, "{err}");
    // A mirror that is ready sleeps and wakes for ever, so nothing is stuck; what came instead is said all the same.
    let event = "- event: {event: BLOCK_JOB_READY, data: {device: other}}\nlimits: {time: 2s}\n";
    let (code, err) = run(&format!("{target}{mirror}{event}"));
    assert!(code == 1 && err.contains("limit in step 3: more than 2000 ms of virtual time"), "{err}");
    assert!(
        err.contains("read BLOCK_JOB_READY {") && err.contains("at device: expected \"other\", got \"j\""),
        "{err}"
    );
    let (code, err) = run("- {wait: j, until: redy}");
    assert!(code == 2 && err.contains("expected one of: ready, concluded, null"), "{err}");
    assert_eq!(run("- {wait: j, until: ready, error: x}").0, 2);
}

#[test]
fn several_files_filters_and_lists() {
    let good = || "about: Nothing.\nsteps: [{idle: true}]\n".to_owned();
    let bad = || "about: Waits.\nsteps: [{event: STOP}]\n".to_owned();
    let dir = folder(&[("a/one.yaml", good()), ("a/two.yaml", bad()), ("b/three.yaml", bad())]);
    let (code, out, _) = sim(dir.path(), &["test", "a", "b/three.yaml", "--list"], "");
    assert_eq!((code, out.as_str()), (0, "a/one.yaml\na/two.yaml\nb/three.yaml\n"));
    let (code, out, _) = sim(dir.path(), &["test", "a", "b", "--filter", "one"], "");
    assert!(code == 0 && out.contains("1 scenario, 1 run: 1 passed, 0 failed"), "{out}");
    let (code, out, _) = sim(dir.path(), &["test", "a", "b", "--fail-fast", "-j", "1"], "");
    assert!(code == 1 && out.contains("two") && !out.contains("three"), "{out}");
    let (code, out, err) = sim(dir.path(), &["-q", "test", "a", "b"], "");
    assert!(code == 1 && !out.contains("ok ") && err.is_empty(), "{out}{err}");
    let (code, _, err) = sim(dir.path(), &["run", "a/one.yaml", "a/two.yaml"], "");
    assert!(code == 1 && err.contains("a/one.yaml:\npassed") && err.contains("a/two.yaml:2"), "{err}");
    let junit = dir.path().join("report.xml");
    sim(dir.path(), &["test", "a", "--junit", "report.xml"], "");
    let text = fs::read_to_string(junit).unwrap();
    assert!(text.contains("classname=\"a\"") && text.contains("time=\""), "{text}");
}

#[test]
fn a_scenario_to_start_from_passes() {
    let dir = folder(&[]);
    assert_eq!(sim(dir.path(), &["new", "mine"], "").0, 0);
    for job in ["backup", "mirror", "commit", "stream"] {
        assert_eq!(sim(dir.path(), &["new", &format!("jobs/{job}"), "--job", job], "").0, 0);
    }
    assert_eq!(sim(dir.path(), &["check", "mine.yaml", "jobs"], "").0, 0);
    let (code, out, _) = sim(dir.path(), &["test", "jobs", "--seeds", "0..20"], "");
    assert!(code == 0 && out.contains("4 scenarios, 84 runs: 4 passed, 0 failed"), "{out}");
    // The calm schedule and seeds are not all: an exhaustive search turns back the clock.
    for job in ["backup", "mirror", "commit", "stream"] {
        let file = format!("jobs/{job}.yaml");
        let (code, out, _) = sim(dir.path(), &["fuzz", &file, "--runs", "64", "--max-states", "100"], "");
        assert!(code == 0 && out.contains("no run failed"), "{job} {out}");
    }
    let same = |a: &str, b: &str| fs::read(dir.path().join(a)).unwrap() == fs::read(dir.path().join(b)).unwrap();
    assert!(same("mine.yaml", "jobs/backup.yaml") && !same("mine.yaml", "jobs/mirror.yaml"));
    let (code, _, err) = sim(dir.path(), &["new", "mine"], "");
    assert!(code == 2 && err.contains("error: mine.yaml: File exists"), "{err}");
    let (code, out, _) = sim(dir.path(), &["schema"], "");
    assert!(code == 0 && serde_json::from_str::<serde_json::Value>(&out).is_ok());
    for shell in ["bash", "zsh", "fish"] {
        assert!(sim(dir.path(), &["completions", shell], "").1.contains("blockjob"), "{shell}");
    }
    assert!(sim(dir.path(), &["man", "fuzz"], "").1.contains(".TH blockjob-sim-fuzz"));
}

#[test]
fn a_campaign_makes_the_runs_that_were_asked_for() {
    let dir = folder(&[]);
    for runs in ["1", "300", "700"] {
        let more: &[&[&str]] = &[&["--max-states", "0"], &["--strategy", "walk"]];
        for more in more {
            let (_, out, err) = sim(dir.path(), &[&["fuzz", RACE, "--runs", runs][..], more].concat(), "");
            let line = out.lines().find(|line| line.starts_with("runs ")).unwrap_or_default();
            assert_eq!(line.split_whitespace().last(), Some(runs), "{more:?} {out}{err}");
        }
    }
    let (code, _, err) = sim(dir.path(), &["fuzz", RACE, "--runs", "0"], "");
    assert!(code == 2 && err.contains("0 is not in 1.."), "{err}");
    let state = &["fuzz", RACE, "--seeds", "0..10", "--state", "st"];
    assert_eq!(sim(dir.path(), state, "").0, 0);
    let before = fs::read(dir.path().join("st/campaign.jsonl")).unwrap();
    let (code, _, err) = sim(dir.path(), state, "");
    assert!(code == 2 && err.contains("a campaign stands here"), "{err}");
    assert_eq!(fs::read(dir.path().join("st/campaign.jsonl")).unwrap(), before);
    let (code, _, err) =
        sim(dir.path(), &[&state[..2], &["--seeds", "0..9", "--state", "st", "--resume"]].concat(), "");
    assert!(code == 2 && err.contains("--runs was 10 and is 9"), "{err}");
}

#[test]
fn generated_scenarios_of_one_kind_are_explored() {
    let dir = folder(&[]);
    for kind in ["well-behaved", "hostile", "racing"] {
        let (code, out, err) = sim(dir.path(), &["fuzz", "--generate", "--kind", kind, "--runs", "20"], "");
        assert!(code == 0 && out.contains("no run failed"), "{kind} {out}{err}");
    }
    for command in ["generate", "conform"] {
        let (code, _, err) = sim(dir.path(), &[command, "--seed", "1", "--kind", "x"], "");
        assert_eq!(code, 2);
        assert!(command == "conform" || err.contains("[possible values: well-behaved, hostile, racing]"), "{err}");
    }
}

/// How soon pieces of the museum are seen: each has a row, and what both searches find stands in it.
#[test]
fn the_museum_tells_how_soon_a_piece_is_found() {
    let scenarios = concat!(env!("CARGO_MANIFEST_DIR"), "/sim-scenarios/museum");
    let pieces = ["txn-early-fail-leaves-drain", "finalize-twice-assert"];
    let few = ["--starts", "1", "--runs", "100", "--scenarios", scenarios];
    let (code, out, err) = sim(Path::new("/"), &[&["museum", "--time"], &pieces[..], &few].concat(), "");
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    for piece in pieces {
        let row = out.lines().find(|line| line.starts_with(&format!("| `{piece}` |"))).expect("a row");
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, _, _, own, own_time, runs, dispatches, time, _] = cells[..] else { panic!("{row}") };
        let number = |text: &str| text.replace(',', "").parse::<u64>().unwrap_or_else(|_| panic!("{row}"));
        assert!((1..=100).contains(&number(own)) && (1..=100).contains(&number(runs)), "{row}");
        assert!(number(dispatches) > number(runs) && own_time.ends_with(" ms") && time.ends_with(" ms"), "{row}");
    }
    assert!(out.contains("of 2 pieces, 2 found in their own scenarios, 2 in generated ones"), "{out}");
    // What is not found within the runs is said so, and the search ends.
    let one = ["museum", "--time", "nbd-open-timer-outlives", "--starts", "1", "--runs", "3", "--scenarios", scenarios];
    let (code, out, err) = sim(Path::new("/"), &one, "");
    assert!(code == 0 && out.contains("| > 3 | – | – |"), "{out}{err}");
    let (code, _, err) = sim(Path::new("/"), &["museum", "--time", "--generated"], "");
    assert!(code == 2 && err.contains("--generated"), "{err}");
}

/// A worker that is ahead of the campaign's end leaves no file of what does not count.
#[test]
fn files_do_not_depend_on_the_workers() {
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/explore/query-during-backup.yaml");
    let names = |jobs: &str| {
        let dir = folder(&[]);
        let args =
            ["fuzz", scenario, "--strategy", "walk", "--runs", "130", "-j", jobs, "--keep-going", "--failures", "f"];
        let (_, out, _) = sim(dir.path(), &args, "");
        let entries = fs::read_dir(dir.path().join("f")).map(|list| list.map(|entry| entry.unwrap().file_name()));
        let mut names: Vec<_> = entries.into_iter().flatten().collect();
        names.sort();
        (names, out)
    };
    let one = names("1");
    for jobs in ["2", "4"] {
        assert_eq!(names(jobs), one);
    }
}

#[test]
fn explore_gives_up_at_its_limit_of_memory() {
    let dir = folder(&[]);
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/sim-scenarios/group/03-older-fails.yaml");
    let (code, out, _) = sim(dir.path(), &["explore", scenario, "--max-memory", "1M"], "");
    assert!(code == 1 && out.contains("INCOMPLETE") && out.contains("--max-memory"), "{out}");
}

#[test]
fn signals_tell_what_was_done() {
    let dir = folder(&[]);
    let args = ["test", RACE, "--seeds", "0..100000000"];
    for name in ["INT", "TERM", "HUP"] {
        let child = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"))
            .args(args)
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs(2));
        signal::send(name, child.id());
        let output = child.wait_with_output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(130), "{name} {out}");
        assert!(out.contains("1 scenario, ") && out.contains("1 passed"), "{name} {out}");
    }
}

/// A disk that gets full takes no report away: what was found until then is printed.
#[test]
fn a_campaign_that_cannot_be_written_down_is_reported() {
    let dir = folder(&[]);
    let fuzz = "fuzz \"$1\" --strategy walk --seeds 0..100000 --state st";
    let script = format!("trap '' XFSZ; ulimit -f 4; exec \"$0\" {fuzz}");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_blockjob-sim"), RACE])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{out}{err}");
    assert!(out.contains("over: the state could not be written") && out.contains("no run failed"), "{out}{err}");
    assert!(err.contains("error: st/campaign.jsonl: "), "{err}");
}

#[test]
fn a_part_that_is_missing_is_named() {
    let dir = folder(&[]);
    let part = |part: &str, more: &[&str]| {
        let args = ["fuzz", RACE, "--strategy", "walk", "--seeds", "0..400", "--shard", part, "--resume", "--state"];
        sim(dir.path(), &[&args[..], more].concat(), "")
    };
    // `--resume` begins what is not there, so that an engine needs one command only; done again, a part has nothing to do.
    for shard in ["0/4", "1/4", "0/4"] {
        let (code, out, err) = part(shard, &[&format!("s{}", &shard[..1])]);
        assert!(code == 0 && out.contains("is done"), "{out}{err}");
    }
    let (code, _, err) = part("2/4", &["s0"]);
    assert!(code == 2 && err.contains("s0: this is part 0 of 4, not part 2"), "{err}");
    // One that was killed when it had begun, and one that was killed before that.
    let whole = fs::read_to_string(dir.path().join("s1/campaign.jsonl")).unwrap();
    let begun: Vec<&str> = whole.lines().take(2).collect();
    let begun = begun.join("\n").replace(r#""part":1"#, r#""part":2"#);
    fs::create_dir(dir.path().join("s2")).unwrap();
    fs::write(dir.path().join("s2/campaign.jsonl"), begun).unwrap();
    fs::create_dir(dir.path().join("s3")).unwrap();
    fs::write(dir.path().join("s3/campaign.jsonl"), &whole[..20]).unwrap();
    let (code, _, err) = sim(dir.path(), &["merge", "s0", "s1", "s2"], "");
    let told = "2 of 4 parts are not here yet; missing: 3/4; begun and not done: 2/4";
    assert!(code == 2 && err.contains(told), "{err}");
    // Two at once would write over each other.
    let file = fs::File::open(dir.path().join("s2/campaign.jsonl")).unwrap();
    file.lock().unwrap();
    let (code, _, err) = part("2/4", &["s2"]);
    assert!(code == 2 && err.contains("s2/campaign.jsonl: another process works on this campaign"), "{err}");
    drop(file);
    for shard in ["2/4", "3/4"] {
        assert_eq!(part(shard, &[&format!("s{}", &shard[..1])]).0, 0);
    }
    let (code, joined, err) = sim(dir.path(), &["merge", "s0", "s1", "s2", "s3"], "");
    let (_, once, _) = sim(dir.path(), &["fuzz", RACE, "--strategy", "walk", "--seeds", "0..400"], "");
    assert_eq!((code, joined), (0, once), "{err}");
}

#[test]
fn errors_have_one_form() {
    let missing =
        "about: x\nargs: [-drive, 'if=none,id=d,file=nothing.raw,format=raw']\nsteps: [{idle: true}]\n".to_owned();
    let parts = "define: {a: {steps: []}}\n".to_owned();
    let dir = folder(&[("parts.yaml", parts), ("empty/x.txt", String::new()), ("missing.yaml", missing)]);
    for args in [
        &["run", "nothing.yaml"][..],
        &["explore", "nothing.yaml"],
        &["timeline", "nothing.yaml"],
        &["debug", "nothing.yaml", "--lines"],
        &["museum"],
        &["explore", "parts.yaml"],
        &["test", "nowhere"],
        &["test", "empty"],
        &["check", "empty"],
        &["run", "empty"],
        &["run", RACE, "--filter", "nothing"],
        &["run", RACE, "--replay", "@x"],
        &["run", RACE, "--bytes", "nothing"],
        &["replay", RACE],
        &["shrink", RACE],
        &["fuzz", RACE, "--state", "/proc/nothing"],
        &["fuzz", RACE, "--report", "/proc/nothing"],
        &["explore", "missing.yaml"],
        &["export", "nothing.yaml"],
    ] {
        let (code, out, err) = sim(dir.path(), args, "");
        assert!(
            (code == 2 || args[1] == "missing.yaml" && code == 1)
                && out.is_empty()
                && err.starts_with("error: ")
                && err.lines().count() == 1
                && !err.contains("os error"),
            "{args:?} {out}{err}"
        );
    }
}

#[test]
fn a_seed_is_run_twice_where_that_is_asked_for() {
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/sim-scenarios/backup/full.yaml");
    let (code, out, _) = sim(folder(&[]).path(), &["fuzz", scenario, "--check-determinism", "--runs", "50"], "");
    assert!(code == 0 && out.contains("each seed was run twice: both runs were the same"), "{out}");
}

/// QEMU writes such names into images whose overlay was made of a node that no file name describes.
#[test]
fn images_are_compared_through_json_names() {
    let scenario = "about: x
files:
  - create: {file: a.qcow2, format: qcow2, size: 1M}
  - write: {file: a.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 64K}
  - create: {file: b.qcow2, format: qcow2, size: 1M, backing: {file: a.qcow2, format: qcow2}}
steps:
  - rebase: {file: b.qcow2, backing: {file: 'json:{\"driver\": \"qcow2\", \"file\": {\"driver\": \"file\", \"filename\": \"a.qcow2\"}}', format: qcow2}}
  - same: [a.qcow2, b.qcow2]
";
    let (code, _, err) = sim(folder(&[]).path(), &["run", "-"], scenario);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn what_cannot_be_written_is_found_out_before_the_work() {
    let dir = folder(&[("file", String::new())]);
    for args in [
        &["fuzz", RACE, "--seeds", "0..100000000", "--report", "file/pages"][..],
        &["test", RACE, "--seeds", "0..100000000", "--junit", "nowhere/report.xml"],
    ] {
        let (code, out, err) = sim(dir.path(), args, "");
        assert!(code == 2 && out.is_empty() && err.starts_with("error: --"), "{args:?} {out}{err}");
    }
}

#[test]
fn the_node_graph_is_drawn_at_an_instant() {
    let dir = folder(&[]);
    let (code, out, err) = sim(dir.path(), &["timeline", RACE, "--graph", "--from", "18"], "");
    assert_eq!(code, 0, "{err}");
    // The filter of a running job stands between the drive and its node, and the job holds both ends.
    let filter = "drive drive0 (device /machine/peripheral-anon/device[0]/virtio-backend)\n  root → #block1900 · copy-before-write, 64M\n    \
                  file → node0 · qcow2, 64M\n      file → #block000 · file drive0.qcow2\n";
    assert!(out.starts_with(filter), "{out}");
    assert!(out.contains("job drive0 (waiting)\n  main node → #block1900 (written out above)\n"), "{out}");
    let (_, end, _) = sim(dir.path(), &["timeline", RACE, "--graph"], "");
    assert!(!end.contains("copy-before-write") && !end.contains("job "), "{end}");
    let (code, _, err) = sim(dir.path(), &["timeline", RACE, "--graph", "-o", "x.svg"], "");
    assert!(code == 2 && err.contains("the node graph is text"), "{err}");
}

#[test]
fn the_debugger_says_where_it_stands_when_input_ends() {
    let dir = folder(&[]);
    let (code, out, _) = sim(dir.path(), &["debug", "--lines", RACE], "event\n");
    assert_eq!(code, 0);
    let (_, end) = out.split_once("the input has ended; the run stands at\n").expect("the input ends");
    assert!(end.starts_with("dispatch ") && out.matches(end.trim_end()).count() == 2, "{out}");
    let (_, out, _) = sim(dir.path(), &["debug", "--lines", RACE], "");
    assert!(
        out.starts_with("the input has ended, without a command: `help` lists them; the run stands at\ndispatch 0"),
        "{out}"
    );
    let (_, out, _) = sim(dir.path(), &["debug", "--lines", RACE], "quit\n");
    assert!(!out.contains("the input has ended"), "{out}");
}

#[test]
fn the_debugger_says_who_waits_in_qemus_words() {
    let (code, out, err) = sim(folder(&[]).path(), &["debug", "--lines", RACE], "fault\nwaiting\ngraph\n");
    assert_eq!(code, 0, "{err}");
    for line in [
        "  job 'drive1' (coroutine 4): waits for a read of 256K at 576K at node '#block200' (drive1.qcow2), then preadv_end",
        "waits for its AioTaskPool: a free slot, or the end of all tasks",
        "    main node → #block2400 · copy-before-write, 64M",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
}

/// One of something is one; a run without deviations is called calm.
#[test]
fn numbers_and_nouns_agree() {
    let dir = folder(&[(
        "a.yaml",
        format!("about: x\n{DISK}steps:\n  - qmp: {{execute: query-jobs}}\n    returns: [{{}}]\n"),
    )]);
    let (_, out, _) = sim(dir.path(), &["explore", "a.yaml"], "");
    assert!(out.contains("FAILED, 1 different failure:\n") && !out.contains("1 schedules"), "{out}");
    let (_, out, _) = sim(dir.path(), &["test", "a.yaml", "--seeds", "0..3"], "");
    assert!(out.contains("FAILED  a  all 4 runs\n") && out.contains("1 scenario, 4 runs: 0 passed, 1 failed"), "{out}");
    let (_, out, err) = sim(dir.path(), &["run", "a.yaml", "--choices"], "");
    assert!(out.starts_with("# calm: no choice deviates\n") && !err.contains(" 0 of them"), "{out}{err}");
    fs::write(dir.path().join("choices"), &out).unwrap();
    for list in ["choices", out.trim()] {
        let (code, _, err) = sim(dir.path(), &["run", "a.yaml", "--replay", list], "");
        assert!(code == 1 && err.contains("failed in step 1"), "the list is that of the run: {err}");
    }
}
