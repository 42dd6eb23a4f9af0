//! Mistakes in scenario files get a place and say what was expected; hostile files get an error, never a panic.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

use blockjob_sim::cli::report::render;
use blockjob_sim::scenario::{Plan, ScenarioError, load};
use proptest::prelude::*;

/// Loads `main` as `s.yaml`, with `common.yaml` beside it.
fn read(main: &str, common: &str) -> Result<Option<Plan>, Box<ScenarioError>> {
    load("s.yaml", &mut |name| match name {
        "s.yaml" => Ok(main.to_owned()),
        "common.yaml" => Ok(common.to_owned()),
        _ => Err("No such file or directory".to_owned()),
    })
}

const COMMON: &str = "\
define:
  backup:
    params: [drive, length]
    steps:
      - qmp: {execute: drive-backup, arguments: {device: $drive, target: '${drive}.full'}}
      - write: {file: a, format: raw, pattern: 1, offset: 0, length: $length}
      - call: {deeper: {what: $drive}}
  deeper: {params: [what], steps: [hmp: 'qemu-io $what \"flush\"']}
";

/// Name and text of scenario files with one mistake each.
const MISTAKES: &[(&str, &str)] = &[
    ("unknown-step", "about: x\nsteps:\n  - qmp: {execute: quit}\n  - evnt: {event: STOP}\n"),
    (
        "unknown-member",
        "about: x\nfiles:\n  - write: {file: a, format: raw, pattern: 1, ofset: 0, length: 512}\nsteps: []\n",
    ),
    ("host-nothing", "about: x\nfiles:\n  - host: {file: a, capacity: 1M}\nsteps: []\n"),
    ("host-errno", "about: x\nfiles:\n  - host: {file: a, fail: write, errno: ENOROOM}\nsteps: []\n"),
    ("host-request", "about: x\nfiles:\n  - host: {file: a, fail: writes, errno: EIO}\nsteps: []\n"),
    ("unknown-top", "about: x\nstep: []\nsteps: []\n"),
    ("no-steps", "about: x\nfiles: []\n"),
    ("no-about", "steps: []\n"),
    ("missing-member", "about: x\nfiles:\n  - create: {file: a.qcow2, format: qcow2}\nsteps: []\n"),
    ("not-a-size", "about: x\nfiles:\n  - create: {file: a.qcow2, format: qcow2, size: 64X}\nsteps: []\n"),
    (
        "bad-cluster-size",
        "about: x\nfiles:\n  - create: {file: a, format: qcow2, size: 1M, cluster-size: 3K}\nsteps: []\n",
    ),
    ("bad-format", "about: x\nfiles:\n  - create: {file: a, format: qcow, size: 1M}\nsteps: []\n"),
    (
        "raw-with-backing",
        "about: x\nfiles:\n  - create: {file: a, format: raw, size: 1M, cluster-size: 64K}\nsteps: []\n",
    ),
    ("bad-pattern", "about: x\nsteps:\n  - write: {file: a, format: raw, pattern: 256, offset: 0, length: 1}\n"),
    ("empty-range", "about: x\nsteps:\n  - zero: {file: a, format: raw, offset: 0, length: 0}\n"),
    ("bad-duration", "about: x\nsteps:\n  - sleep: 300\n"),
    ("error-and-returns", "about: x\nsteps:\n  - qmp: {execute: stop}\n    error: any\n    returns: {}\n"),
    ("error-text", "about: x\nsteps:\n  - qmp: {execute: stop}\n    error: GenericError\n"),
    ("stray-beside", "about: x\nsteps:\n  - event: STOP\n    returns: {}\n"),
    ("only-true", "about: x\nsteps:\n  - idle: false\n"),
    ("number-for-text", "about: x\nsteps:\n  - mark: 1\n"),
    ("quote-null", "about: x\nsteps:\n  - event: {event: null}\n"),
    ("step-is-text", "about: x\nsteps:\n  - idle\n"),
    ("steps-are-a-mapping", "about: x\nsteps:\n  idle: true\n"),
    ("same-alone", "about: x\nsteps:\n  - same: [a]\n"),
    ("running-in-files", "about: x\nfiles:\n  - idle: true\nsteps: []\n"),
    ("duplicate-key", "about: x\nabout: y\nsteps: []\n"),
    ("tab", "about: x\nsteps:\n\t- idle: true\n"),
    ("unclosed", "about: x\nsteps: [{idle: true}\nlimits: {}\n"),
    ("empty-file", ""),
    ("no-include", "about: x\ninclude: [nowhere.yaml]\nsteps: []\n"),
    ("unknown-call", "about: x\ninclude: [common.yaml]\nsteps:\n  - call: {backups: {drive: d}}\n"),
    ("missing-param", "about: x\ninclude: [common.yaml]\nsteps:\n  - call: {backup: {drive: d}}\n"),
    ("unknown-param", "about: x\ninclude: [common.yaml]\nsteps:\n  - call: {backup: {drive: d, length: 1, len: 2}}\n"),
    ("bad-value-in-call", "about: x\ninclude: [common.yaml]\nsteps:\n  - call: {backup: {drive: d, length: much}}\n"),
    ("list-in-text", "about: x\ninclude: [common.yaml]\nsteps:\n  - call: {backup: {drive: [d], length: 1}}\n"),
    (
        "beside-call",
        "about: x\ninclude: [common.yaml]\nsteps:\n  - call: {backup: {drive: d, length: 1}}\n    error: any\n",
    ),
    ("no-such-param", "about: x\nsteps:\n  - hmp: qemu-io $drive\n"),
    ("endless", "about: x\ndefine: {a: {steps: [{call: a}]}}\nsteps: [{call: a}]\n"),
    ("defined-twice", "about: x\ninclude: [common.yaml]\ndefine: {backup: {steps: []}}\nsteps: []\n"),
];

#[test]
fn mistakes_name_their_place() {
    for (name, text) in MISTAKES {
        let error = read(text, COMMON).expect_err(name);
        let shown = format!("{}\n{}", render(&error, 100, false), error);
        insta::with_settings!({
            snapshot_path => "../snapshots/errors",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(*name, shown);
        });
    }
}

#[test]
fn calls_put_values_in_place() {
    let plan = read("about: x\ninclude: [common.yaml]\nsteps:\n  - call: {backup: {drive: d0, length: 64K}}\n", COMMON);
    let plan = plan.unwrap().unwrap();
    assert_eq!(plan.steps.len(), 3);
    let shown = format!("{:#?}", plan.steps);
    assert!(shown.contains("d0.full") && shown.contains("65536") && shown.contains("qemu-io d0"), "{shown}");
    assert_eq!((plan.steps[2].calls.len(), plan.steps[2].calls[0].line), (2, 4));
    assert_eq!(plan.steps[0].pos.to_string(), "common.yaml:5");
}

#[test]
fn a_file_of_definitions_is_no_scenario() {
    assert_eq!(read(COMMON, ""), Ok(None));
}

/// Pieces from which hostile files are put together.
const PIECES: &[&str] = &[
    "about: x\n",
    "steps:\n",
    "  - ",
    "qmp: ",
    "{execute: a}",
    "{",
    "}",
    "[",
    "]",
    "define:\n",
    "  a: ",
    "steps: []",
    "- call: a\n",
    ": ",
    "\n",
    " ",
    "\t",
    "'",
    "\"",
    "$x",
    "${",
    "$$",
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "|\n",
    "é",
    "\u{feff}",
    "0x",
    "-1",
    "1e999",
    ".nan",
    "null",
    "~",
    "include: [s.yaml]\n",
    "include: [common.yaml]\n",
    "create: ",
    "{file: a, format: qcow2, size: 18446744073709551615}",
    "---\n",
    "# c\n",
    "\r\n",
    "event: X",
    "sleep: 99999999999999999999h",
    "bitmap: {node: a, name: b, count: -1}",
    "? ",
    "- ",
    "%YAML 1.2\n",
];

proptest! {
    #[test]
    fn hostile_files_never_panic(parts in prop::collection::vec(prop::sample::select(PIECES), 0..40), junk in ".{0,20}") {
        let text = parts.concat() + &junk;
        if let Err(error) = read(&text, &text) {
            let _ = render(&error, 80, false);
        }
    }

    #[test]
    fn damaged_files_never_panic(which in 0..MISTAKES.len(), at in 0usize..400, with in ".{0,3}", cut in 0usize..5) {
        let text: Vec<char> = MISTAKES[which].1.chars().collect();
        let at = at % (text.len() + 1);
        let end = (at + cut).min(text.len());
        let text = text[..at].iter().copied().chain(with.chars()).chain(text[end..].iter().copied()).collect::<String>();
        if let Err(error) = read(&text, COMMON) {
            let _ = render(&error, 80, false);
        }
    }
}

#[test]
fn bombs_are_refused() {
    let doubling: String = (0..30)
        .map(|i| format!("  p{i}: {{params: [x], steps: [{{call: {{p{}: {{x: [$x, $x]}}}}}}]}}\n", i + 1))
        .collect();
    let text = format!(
        "about: x\ndefine:\n{doubling}  p30: {{params: [x], steps: []}}\nsteps: [{{call: {{p0: {{x: 1}}}}}}]\n"
    );
    assert!(read(&text, "").is_err());
    let aliases: String = (1..30).map(|i| format!("a{i}: &a{i} [*a{}, *a{}]\n", i - 1, i - 1)).collect();
    assert!(read(&format!("a0: &a0 [1]\n{aliases}"), "").is_err());
    assert!(read(&"[".repeat(100_000), "").is_err());
    let fan: String = (0..12)
        .map(|i| {
            format!("  p{i}: {{steps: [{{call: p{0}}}, {{call: p{0}}}, {{call: p{0}}}, {{call: p{0}}}]}}\n", i + 1)
        })
        .collect();
    assert!(
        read(&format!("about: x\ndefine:\n{fan}  p12: {{steps: [{{idle: true}}]}}\nsteps: [{{call: p0}}]\n"), "")
            .is_err()
    );
}
