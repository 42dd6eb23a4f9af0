//! The simulated qemu-img beside the real one: the same commands on the same images, one after the other. Exit status, what is printed and
//! said, and at the end what the images hold, where they hold it, and which bitmaps they have.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/harness.rs"]
mod harness;

use blockjob_sim::host::HostFiles;
use blockjob_sim::scenario;
use blockjob_sim::scenario::plan::{FileOp, QemuImg, StepKind};
use blockjob_sim::sim::file_op;
use blockjob_sim::world::World;
use harness::{Tool, needing, trial};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

/// Images that all programs begin with: a chain of three, whose lowest is shorter and whose top has zeroes of its own; a raw one, and an
/// image whose backing file is not there.
const BEGIN: &str = "about: images
files:
  - create: {file: base.qcow2, format: qcow2, size: 4M}
  - write: {file: base.qcow2, format: qcow2, pattern: 1, offset: 0, length: 1M}
  - create: {file: mid.qcow2, format: qcow2, size: 4M, backing: {file: base.qcow2, format: qcow2}}
  - write: {file: mid.qcow2, format: qcow2, pattern: 2, offset: 512K, length: 1M}
  - create: {file: top.qcow2, format: qcow2, size: 8M, backing: {file: mid.qcow2, format: qcow2}}
  - write: {file: top.qcow2, format: qcow2, pattern: 3, offset: 1M, length: 1M}
  - write: {file: top.qcow2, format: qcow2, pattern: 4, offset: 6M, length: 4K}
  - zero: {file: top.qcow2, format: qcow2, offset: 0, length: 64K}
  - create: {file: other.qcow2, format: qcow2, size: 2M, cluster-size: 4K}
  - write: {file: other.qcow2, format: qcow2, pattern: 2, offset: 1M, length: 512K}
  - create: {file: lost.qcow2, format: qcow2, size: 4M, backing: {file: base.qcow2, format: qcow2}}
  - rebase: {file: lost.qcow2, backing: {file: gone.qcow2, format: qcow2}}
  - create: {file: r.raw, format: raw, size: 4M}
  - write: {file: r.raw, format: raw, pattern: 5, offset: 1M, length: 64K}
steps: []
";

/// Programs: a name, and commands. A word in `''` is empty.
const PROGRAMS: &[(&str, &[&str])] = &[
    (
        "bitmaps",
        &[
            "bitmap --add base.qcow2 b0",
            "bitmap --add base.qcow2 b0",
            "bitmap --add -g 32k base.qcow2 b1",
            "bitmap --add --disable base.qcow2 b2",
            "bitmap --disable base.qcow2 b1",
            "bitmap --enable base.qcow2 b1",
            "bitmap --merge b0 --clear base.qcow2 b1",
            "bitmap --add --merge b0 -b base.qcow2 mid.qcow2 m0",
            "bitmap --add --granularity=128k --merge m0 -F qcow2 -b mid.qcow2 -f qcow2 other.qcow2 o0",
            "bitmap --remove base.qcow2 b0",
            "bitmap --add lost.qcow2 l0",
        ],
    ),
    (
        "bitmaps-refused",
        &[
            "bitmap base.qcow2 b0",
            "bitmap --add base.qcow2",
            "bitmap --add base.qcow2 ''",
            "bitmap --add -g 100 base.qcow2 b0",
            "bitmap --add -g x base.qcow2 b0",
            "bitmap --add -g 16 base.qcow2 b0",
            "bitmap -g 64k --remove base.qcow2 b0",
            "bitmap --remove base.qcow2 b9",
            "bitmap --clear base.qcow2 b9",
            "bitmap --enable base.qcow2 b9",
            "bitmap --merge x base.qcow2 b9",
            "bitmap --add --merge x base.qcow2 b0",
            "bitmap --merge x -b nope.qcow2 base.qcow2 b0",
            "bitmap -F qcow2 --add base.qcow2 b5",
            "bitmap -b mid.qcow2 --add base.qcow2 b5",
            "bitmap --add nope.qcow2 b0",
            "bitmap --add r.raw b0",
            "bitmap --add -f raw r.raw b0",
            "bitmap --frob base.qcow2 b0",
            "bitmap -z base.qcow2 b0",
            "bitmap --add base.qcow2 b0 -g",
        ],
    ),
    ("commit", &["commit top.qcow2", "commit top.qcow2"]),
    ("commit-to-the-base", &["commit -b base.qcow2 top.qcow2"]),
    ("commit-and-keep", &["commit -q -d mid.qcow2", "commit mid.qcow2"]),
    ("commit-writes-into-bitmaps", &["bitmap --add base.qcow2 b0", "bitmap --add mid.qcow2 m0", "commit mid.qcow2"]),
    ("commit-to-raw", &["rebase -u -b r.raw -F raw mid.qcow2", "commit -f qcow2 mid.qcow2"]),
    (
        "commit-refused",
        &[
            "commit",
            "commit base.qcow2",
            "commit -b nope top.qcow2",
            "commit nope.qcow2",
            "commit lost.qcow2",
            "commit -b",
            "commit -z top.qcow2",
            "commit r.raw",
        ],
    ),
    ("rebase-down", &["rebase -b base.qcow2 -F qcow2 top.qcow2"]),
    ("rebase-to-another", &["rebase -b other.qcow2 -F qcow2 top.qcow2"]),
    ("rebase-to-raw", &["rebase -b r.raw -F raw mid.qcow2"]),
    ("rebase-to-nothing", &["rebase -b '' top.qcow2"]),
    ("rebase-from-nothing", &["rebase -b r.raw -F raw base.qcow2"]),
    (
        "rebase-unsafely",
        &[
            "rebase -u -b nope.qcow2 -F qcow2 top.qcow2",
            "rebase -u -b base.qcow2 -F qcow2 top.qcow2",
            "rebase -u -b base.qcow2 -F qcow2 lost.qcow2",
            "rebase -u mid.qcow2",
        ],
    ),
    (
        "rebase-refused",
        &[
            "rebase top.qcow2",
            "rebase -b nope.qcow2 -F qcow2 top.qcow2",
            "rebase -u -b base.qcow2 -F frob top.qcow2",
            "rebase -u -b base.qcow2 top.qcow2",
            "rebase -b base.qcow2 top.qcow2",
            "rebase -u -b x -F raw -f raw r.raw",
            "rebase -u -b x -F raw r.raw",
            "rebase -b base.qcow2 -F qcow2 nope.qcow2",
            "rebase -b base.qcow2 -F qcow2 lost.qcow2",
            "rebase -u -b base.qcow2",
            "rebase --frob x",
        ],
    ),
    (
        "resize",
        &[
            "bitmap --add base.qcow2 b0",
            "resize base.qcow2 8M",
            "resize base.qcow2 4M",
            "resize --shrink base.qcow2 4M",
            "resize -q base.qcow2 +1M",
            "resize --shrink base.qcow2 -512k",
            "resize r.raw 8M",
            "resize -f raw r.raw 16M",
            "resize mid.qcow2 6M",
            "resize base.qcow2 frob",
            "resize base.qcow2",
            "resize base.qcow2 0",
            "resize nope.qcow2 8M",
            "resize --frob base.qcow2 8M",
        ],
    ),
];

fn words(line: &str) -> Vec<Arc<str>> {
    line.split(' ').map(|word| if word == "''" { "".into() } else { word.into() }).collect()
}

/// A name that the real one makes up.
fn plain(text: &str) -> String {
    let mut parts = text.split("#block");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("#block0");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}

fn real(dir: &Path, words: &[Arc<str>]) -> (u64, String, String) {
    let out =
        Command::new("qemu-img").args(words.iter().map(|word| &**word)).current_dir(dir).output().expect("qemu-img");
    let status = out.status.code().and_then(|code| u64::try_from(code).ok()).expect("it ends by itself");
    (status, plain(&String::from_utf8_lossy(&out.stdout)), plain(&String::from_utf8_lossy(&out.stderr)))
}

fn save(files: &HostFiles, dir: &Path) {
    for (path, file) in files.iter() {
        let real = std::fs::File::create(dir.join(path)).expect("created");
        real.set_len(file.size).expect("grown");
        for (at, run) in file.content.extents() {
            let bytes = file.content.read(at, run.len()).to_bytes();
            std::os::unix::fs::FileExt::write_all_at(&real, &bytes, at).expect("written");
        }
    }
}

/// What the real tools say of an image: whether it is sound, what it is based on, its bitmaps, what reads from where, and what it holds.
fn told(dir: &Path, image: &str) -> String {
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).current_dir(dir).output().expect("it runs");
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    };
    let info: serde_json::Value =
        serde_json::from_str(&run("qemu-img", &["info", "--output=json", image])).expect("JSON");
    let map: serde_json::Value =
        serde_json::from_str(&run("qemu-img", &["map", "--output=json", image])).unwrap_or_default();
    let mut ranges = Vec::new();
    for range in map.as_array().into_iter().flatten() {
        let of = |key: &str| range[key].clone();
        ranges.push(serde_json::json!([of("start"), of("length"), of("depth"), of("data"), of("zero"), of("present")]));
    }
    // Where a file of the host has holes is no matter of the image.
    let ranges = if image.ends_with(".raw") { Vec::new() } else { joined(ranges) };
    let check = if image.ends_with(".raw") { String::new() } else { run("qemu-img", &["check", "-q", image]) };
    let content = if map.is_null() {
        String::new()
    } else {
        run("sh", &["-c", "qemu-img convert -O raw \"$0\" .out && sha256sum .out", image])
    };
    let data = &info["format-specific"]["data"];
    let keys = ["virtual-size", "backing-filename", "backing-filename-format"].map(|key| info[key].clone());
    format!("{image}\n{keys:?}\n{}\n{ranges:?}\n{check}\n{content}", data["bitmaps"])
}

/// Neighbours that differ in where they stand alone are one range.
fn joined(ranges: Vec<serde_json::Value>) -> Vec<serde_json::Value> {
    let mut out: Vec<serde_json::Value> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if (2..6).all(|i| last[i] == range[i]) => {
                last[1] = (last[1].as_u64().expect("a length") + range[1].as_u64().expect("a length")).into();
            }
            _ => out.push(range),
        }
    }
    out
}

fn run(commands: &[&str]) {
    let plan = scenario::load_str("images.yaml", BEGIN).unwrap_or_else(|error| panic!("{error:?}"));
    let mut world = World::new(HostFiles::new());
    for file in &plan.files {
        file_op(&mut world, &file.op).expect("an image");
    }
    let (theirs, ours) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    save(&world.files, theirs.path());
    for line in commands {
        let words = words(line);
        let (status, out, err) = real(theirs.path(), &words);
        let op = FileOp::QemuImg(QemuImg { words, status, prints: Some(out.into()), says: Some(err.as_str().into()) });
        if let Err(why) = file_op(&mut world, &op) {
            panic!("{line}: {why}\nQEMU said {status}: {err}");
        }
    }
    save(&world.files, ours.path());
    for (image, _) in world.files.iter() {
        assert_eq!(told(ours.path(), image), told(theirs.path(), image), "{commands:?}");
    }
}

/// Another process has the images: its locks are in the way.
fn locked() {
    let text = BEGIN.replace("steps: []", "args: [-drive, 'if=none,id=d,file=top.qcow2,format=qcow2']\nsteps: []");
    let plan = scenario::load_str("images.yaml", &text).unwrap_or_else(|error| panic!("{error:?}"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut world = World::new(HostFiles::new());
    for file in &plan.files {
        file_op(&mut world, &file.op).expect("an image");
    }
    save(&world.files, dir.path());
    world.boot(&plan.args).expect("it starts");
    let qemu = [
        "-accel",
        "tcg",
        "-S",
        "-nodefaults",
        "-display",
        "none",
        "-drive",
        "if=none,id=d,file=top.qcow2,format=qcow2",
    ];
    let Ok(mut child) = Command::new("qemu-system-x86_64")
        .args(qemu)
        .current_dir(dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
    else {
        return;
    };
    std::thread::sleep(std::time::Duration::from_millis(700));
    let mut wrong = Vec::new();
    for line in [
        "bitmap --add top.qcow2 x",
        "bitmap --add base.qcow2 x",
        "commit top.qcow2",
        "commit mid.qcow2",
        "rebase -u -b base.qcow2 -F qcow2 top.qcow2",
        "rebase -b base.qcow2 -F qcow2 top.qcow2",
        "rebase -b top.qcow2 -F qcow2 other.qcow2",
        "resize top.qcow2 16M",
    ] {
        let words = words(line);
        let (status, out, err) = real(dir.path(), &words);
        let op = FileOp::QemuImg(QemuImg { words, status, prints: Some(out.into()), says: Some(err.into()) });
        wrong.extend(file_op(&mut world, &op).err());
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What the simulated one lacks is refused by its name.
fn what_is_lacking_has_a_name() {
    let line = |line: &str| {
        let text = format!("about: x\nfiles: []\nsteps:\n  - qemu-img: {line}\n");
        let plan = scenario::load_str("x.yaml", &text).map_err(|error| format!("{error:?}"))?;
        let StepKind::File(op) = &plan.steps[0].kind else { panic!("{line}") };
        file_op(&mut World::new(HostFiles::new()), op)
    };
    assert!(
        line("convert a b")
            .is_err_and(|why| why.contains("expected `bitmap`, `commit`, `rebase` or `resize`, found `convert`"))
    );
    assert_eq!(line("commit -p top.qcow2"), Err("not simulated: qemu-img commit with the option p".to_owned()));
    assert_eq!(line("rebase -c -b x top.qcow2"), Err("not simulated: qemu-img rebase with the option c".to_owned()));
}

fn main() -> ExitCode {
    let programs = PROGRAMS.iter().map(|(name, commands)| trial((*name).to_owned(), move || run(commands)));
    let mut all = needing(Tool::QemuImg, programs.chain([trial("locked".to_owned(), locked)]).collect());
    all.push(trial("what_is_lacking_has_a_name".to_owned(), what_is_lacking_has_a_name));
    harness::main(all)
}
