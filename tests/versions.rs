//! The versions of QEMU: that the document says what the program knows, and that clients of real ones saw what ours see.
//!
//! `tests/data/versions/V/DIR/NAME.jsonl` is a recording of `sim-scenarios/DIR/NAME.yaml` on a real QEMU of version V, as those of
//! `tests/data/qemu` are of 10.0.2 (`blockjob-sim record --qemu …`); here the scenario is carried out as that version.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/harness.rs"]
mod harness;

use blockjob_sim::cli::versions::{markdown, quirks_markdown};
use blockjob_sim::scenario;
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::RunOptions;
use blockjob_sim::trace::compare::{ClientLine, client_lines, first_difference};
use blockjob_sim::trace::jsonl::parse_client;
use blockjob_sim::trace::{Level, canonical};
use blockjob_sim::validate::{Answer, Effort, unexpecting, validate};
use blockjob_sim::version::Version;
use blockjob_sim::version::changes::{Change, Evidence, TABLE};
use harness::trial;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const BIN: &str = env!("CARGO_BIN_EXE_blockjob-sim");

/// How long another schedule than the calm one is looked for.
const EFFORT: Effort = Effort { tries: 300, steps: 3_000_000, seed: 1 };

/// What real ones showed and the model gives in no schedule that was tried.
const DIFFER: &[(Version, &str)] = &[];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The traces of a recording, each behind its header, and the version in the first header.
fn traces(text: &str) -> (String, Vec<Vec<ClientLine>>) {
    let (mut version, mut all) = (String::new(), Vec::<String>::new());
    for line in text.lines() {
        let header = canonical::parse(line).ok().and_then(|json| json.get("qemu")?.as_str().map(str::to_owned));
        match header {
            Some(of) => {
                version = of;
                all.push(String::new());
            }
            None => {
                let last = all.last_mut().expect("a recording begins with a header");
                last.push_str(line);
                last.push('\n');
            }
        }
    }
    (version, all.iter().map(|text| parse_client(text).expect("recordings are well-formed")).collect())
}

/// What a client of a real QEMU of this version saw is what ours sees, in the calm schedule or another one; or it is known not to be.
fn recording(file: &Path, version: Version, name: &str) {
    let (of, wanted) = traces(&fs::read_to_string(file).unwrap());
    assert_eq!(of, version.full());
    let path = format!("sim-scenarios/{name}.yaml");
    let mut read = |path: &str| fs::read_to_string(path).map_err(|err| err.to_string());
    let plan = scenario::load(&path, &mut read).unwrap_or_else(|err| panic!("{err:?}")).expect("it has steps");
    // What it expects is what 10.0 does.
    let mut plan = unexpecting(&plan);
    plan.quirks = plan.quirks.of(Some(version));
    let options = RunOptions { level: Some(Level::Client), ..RunOptions::default() };
    let ours = client_lines(&sim::run(&plan, sim::chooser(&plan.schedule), &options).trace);
    let differences: Vec<_> = wanted.iter().map(|theirs| first_difference(theirs, &ours)).collect();
    let known = DIFFER.contains(&(version, name));
    let fits = differences.iter().any(Option::is_none)
        || wanted.iter().any(|theirs| matches!(validate(&plan, theirs, EFFORT), Answer::Possible(_)));
    match (fits, known) {
        (true, false) | (false, true) => {}
        (true, true) => panic!("{name} as {version}: the model gives this now, and `DIFFER` still lists it"),
        (false, false) => {
            let longest = differences.into_iter().flatten().max_by_key(|difference| difference.index);
            panic!("{name} as {version}: {}", longest.expect("there is a trace"));
        }
    }
}

fn the_document_has_the_table() {
    let document = fs::read_to_string("docs/versions.md").expect("the document");
    assert!(document.contains(&markdown()), "docs/versions.md lacks the table that `versions --markdown` prints");
    assert!(
        document.contains(&quirks_markdown()),
        "docs/versions.md lacks the quirks that `versions --markdown` prints"
    );
    for version in Version::ALL {
        assert!(document.contains(&format!("| {version} |")), "{version} has no row");
    }
}

fn the_table_is_in_order() {
    let mut last = (0, 0);
    for (i, about) in TABLE.iter().enumerate() {
        assert_eq!(about.change as usize, i);
        assert!(about.since >= last, "{}: the oldest release comes first", about.name);
        last = about.since;
        assert!(about.says.ends_with('.'), "{}", about.name);
        let first = about.change.first().unwrap_or_else(|| panic!("{} is in no version", about.name));
        assert!(first > Version::V7_2, "{}: all versions have it", about.name);
        if about.evidence == Evidence::Measured {
            let pairs = [(Version::V7_2, Version::V10_0), (Version::V10_0, Version::V11_1)];
            assert!(pairs.iter().any(|(a, b)| !a.has(about.change) && b.has(about.change)), "{}", about.name);
        }
    }
    assert!(!Version::V9_1.has(Change::NodeActive) && Version::V10_0.has(Change::NodeActive));
}

fn said(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(BIN).args(args).output().expect("it runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code(), text)
}

fn unknown_versions_are_refused() {
    let names = "expected one of 7.2, 8.2, 9.1, 10.0, 11.1";
    let scenario = "sim-scenarios/smoke/simple.yaml";
    for args in [
        &["run", scenario, "--qemu-version", "6.2"][..],
        &["test", scenario, "--qemu-version", "7"],
        &["conform", "--qemu-version", "10"],
        &["versions", "7.2", "12.0"],
    ] {
        let (code, text) = said(args);
        assert_eq!(code, Some(2), "{args:?}: {text}");
        assert!(text.contains(names), "{args:?}: {text}");
    }
    let (code, text) = said(&["qemu", "--qemu-version", "6.2", "-version"]);
    assert!(code == Some(1) && text.contains(names), "{text}");
    let text = "about: x\nqemu: 6.2\nsteps: []\n";
    let error = scenario::load_str("x.yaml", text).expect_err("no such version");
    assert!(format!("{error:?}").contains("this version of QEMU is not simulated"), "{error:?}");
    for (written, version) in
        [("7.2", Version::V7_2), ("'10.0'", Version::V10_0), ("10.0", Version::V10_0), ("11.1.3", Version::V11_1)]
    {
        let plan =
            scenario::load_str("x.yaml", &format!("about: x\nqemu: {written}\nsteps: []\n")).expect("it is known");
        assert_eq!(plan.quirks.asked(), Some(version));
        let again = scenario::load_str("y.yaml", &scenario::write::to_yaml(&plan)).expect("what is written is read");
        assert_eq!(again.quirks, plan.quirks);
    }
}

fn a_served_process_is_of_its_version() {
    for (args, full) in [
        (&["qemu", "--qemu-version", "7.2", "-version"][..], "7.2.22"),
        (&["qemu", "-version", "--qemu-version=11.1"], "11.1.3"),
        (&["qemu", "-version"], "10.0.2"),
    ] {
        assert!(said(args).1.starts_with(&format!("QEMU emulator version {full} (")), "{args:?}");
    }
    let dir = std::env::temp_dir().join(format!("versions-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    for (name, expected) in
        [("qemu-system-x86_64-7.2", "QEMU emulator version 7.2.22 ("), ("qemu-system-x86_64-6.0", "is no version")]
    {
        let link = dir.join(name);
        std::os::unix::fs::symlink(BIN, &link).unwrap();
        let output = Command::new(&link).arg("-version").output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(text.contains(expected), "{name}: {text}");
    }
    fs::remove_dir_all(&dir).unwrap();
}

fn main() -> ExitCode {
    let mut all = vec![
        trial("the_document_has_the_table", the_document_has_the_table),
        trial("the_table_is_in_order", the_table_is_in_order),
        trial("unknown_versions_are_refused", unknown_versions_are_refused),
        trial("a_served_process_is_of_its_version", a_served_process_is_of_its_version),
    ];
    let root = Path::new("tests/data/versions");
    let mut found = Vec::new();
    files(root, &mut found);
    assert!(found.len() > 10, "the recordings are there");
    for file in found {
        let name = file.strip_prefix(root).unwrap().with_extension("").to_string_lossy().into_owned();
        // `7.2/drain/x` has a point in its folder, and none in its name.
        let (version, name) = name.split_once('/').map(|(v, n)| (v.to_owned(), n.to_owned())).expect("V/DIR/NAME");
        let version: Version = version.parse().expect("a version");
        let of = name.clone();
        all.push(trial(format!("{version}/{name}"), move || recording(&file, version, &of)));
    }
    harness::main(all)
}
