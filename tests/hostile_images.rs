//! Images that were made to do harm: seeded mutants of sound ones, each opened, asked about, read, written, given a bitmap, backed up
//! and closed. None may panic, run for ever or fill the memory.
//!
//! `common/budget.rs` says how many mutants, or for how long, and which is the first.

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

use blockjob_sim::base::Json;
use blockjob_sim::block::content::{Data, WriteTag};
use blockjob_sim::block::qcow2::{CreateOptions, OpenOptions};
use blockjob_sim::choice::Chooser;
use blockjob_sim::host::{HostFiles, Image};
use blockjob_sim::qmp::json::parse_one;
use blockjob_sim::qmp::print::{MemberOrder, to_text};
use blockjob_sim::world::World;
use blockjob_sim::world::aio::Stepped;
use blockjob_sim::world::out::Output;
use budget::Budget;
use random::Random;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Mutants of a run without `HOSTILE_INPUTS`: a few seconds with optimization and without.
const MUTANTS: u64 = if cfg!(debug_assertions) { 40 } else { 600 };
/// Frames that a command on such a small image may take.
const STEPS: u64 = 3_000_000;
/// How long all that is done to a mutant may take; many times that without optimization, on a machine with other work.
const TIME: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 4 });
/// Bytes of a sound image's file beyond which it is no base for mutants.
const LARGEST: usize = 4 << 20;

/// A sound image, and the file that it is based on, if any.
struct Base {
    name: String,
    bytes: Vec<u8>,
}

fn options(size: u64, cluster_size: u64) -> CreateOptions {
    CreateOptions { cluster_size, ..CreateOptions::new(size) }
}

/// An image of our own qcow2 driver, with plain, zero and compressed clusters.
fn ours(name: &str, options: &CreateOptions) -> Base {
    let mut files = HostFiles::new();
    if options.backing_file.is_some() {
        files.create("base", options.size);
        files.write("base", 0, 64 * KIB, 0x11, WriteTag(0)).expect("base");
    }
    files.create_qcow2("i", Some(options.size), options).expect(name);
    let mut image = Image::open_with(&mut files, "i", None, &OpenOptions::default()).expect(name);
    let cluster = options.cluster_size;
    let text: Vec<u8> = (0..cluster).map(|i| (i / 37) as u8).collect();
    image.write(&mut files, 0, Data::pattern(0xa1, 3 * cluster, WriteTag(0))).expect(name);
    image.write_compressed(&mut files, 4 * cluster, Data::bytes(text.into(), WriteTag(0))).expect(name);
    image.write_compressed(&mut files, 5 * cluster, Data::pattern(0xb2, cluster, WriteTag(0))).expect(name);
    let _ = image.write_zeroes(&mut files, 8 * cluster, 2 * cluster, false);
    image.write(&mut files, options.size - 4 * KIB, Data::pattern(0xc3, 4 * KIB, WriteTag(0))).expect(name);
    assert!(image.close(&mut files).is_empty(), "{name}");
    Base { name: format!("ours {name}"), bytes: files.export("i").expect(name) }
}

/// The same image, with two persistent bitmaps.
fn with_bitmaps(base: &Base) -> Base {
    let mut process = Process::new(&base.bytes);
    let open = process.qmp(r#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","node-name":"n","file":{"driver":"file","filename":"i"}}}"#);
    assert!(open.contains("return"), "{open}");
    for name in ["b0", "b1"] {
        process.qmp(&format!(
            r#"{{"execute":"block-dirty-bitmap-add","arguments":{{"node":"n","name":"{name}","persistent":true}}}}"#
        ));
    }
    process.io("write 0 128k");
    process.qmp(r#"{"execute":"quit"}"#);
    process.end();
    Base { name: format!("{} with bitmaps", base.name), bytes: process.world.files.export("i").expect("closed") }
}

/// Images of the real tools, where they are installed.
fn real() -> Vec<Base> {
    let recipes: &[(&str, &str)] = &[
        (
            "zlib",
            "qemu-img create -q -f raw r 1M && qemu-io -f raw -c 'write -P 5 0 300k' r >/dev/null && qemu-img convert -c -f raw -O qcow2 r i",
        ),
        (
            "zstd",
            "qemu-img create -q -f raw r 1M && qemu-io -f raw -c 'write -P 5 0 300k' r >/dev/null && qemu-img convert -c -f raw -O qcow2 -o compression_type=zstd r i",
        ),
        (
            "bitmaps",
            "qemu-img create -q -f qcow2 i 4M && qemu-img bitmap --add i b0 && qemu-img bitmap --add -g 4k i b1",
        ),
        ("preallocated", "qemu-img create -q -f qcow2 -o preallocation=metadata,cluster_size=4k i 2M"),
        ("64T", "qemu-img create -q -f qcow2 -o cluster_size=2M i 64T && qemu-io -c 'write 63T 64k' i >/dev/null"),
        (
            "snapshots",
            "qemu-img create -q -f qcow2 i 1M && qemu-io -c 'write 0 64k' i >/dev/null && qemu-img snapshot -c s i",
        ),
        ("data file", "qemu-img create -q -f qcow2 -o data_file=d i 1M"),
        ("extended L2", "qemu-img create -q -f qcow2 -o extended_l2=on i 1M"),
    ];
    let run = |(name, recipe): &(&str, &str)| {
        let dir = tempfile::tempdir().expect("a directory");
        let made = Command::new("sh").args(["-c", recipe]).current_dir(dir.path()).output().ok()?;
        let bytes = std::fs::read(dir.path().join("i")).ok()?;
        (made.status.success() && bytes.len() <= LARGEST).then(|| Base { name: format!("qemu-img {name}"), bytes })
    };
    recipes.iter().filter_map(run).collect()
}

fn bases() -> Vec<Base> {
    let mut bases = vec![
        ours("512", &options(MIB, 512)),
        ours("4K", &options(4 * MIB, 4 * KIB)),
        ours("64K", &options(4 * MIB, 64 * KIB)),
        ours("zstd", &CreateOptions { zstd: true, ..options(MIB, 4 * KIB) }),
        ours("version 2", &CreateOptions { version: 2, ..options(MIB, 4 * KIB) }),
        ours("1 bit", &CreateOptions { refcount_bits: 1, ..options(MIB, 4 * KIB) }),
        ours("64 bits", &CreateOptions { refcount_bits: 64, lazy_refcounts: true, ..options(MIB, 4 * KIB) }),
        ours(
            "backing",
            &CreateOptions {
                backing_file: Some("base".to_owned()),
                backing_format: Some("raw".to_owned()),
                ..options(MIB, 16 * KIB)
            },
        ),
        ours("16T", &options(1 << 44, 64 * KIB)),
    ];
    let more: Vec<Base> = [1, 2, 8].iter().map(|&i: &usize| with_bitmaps(&bases[i])).collect();
    bases.extend(more);
    bases.retain(|base| base.bytes.len() <= LARGEST);
    bases.extend(real());
    bases
}

/// Changes a few numbers where they matter.
fn mutate(base: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = base.to_vec();
    // Eight-byte words that hold something: headers, tables, directories, data.
    let words: Vec<usize> = (0..bytes.len() / 8).filter(|&i| bytes[i * 8..i * 8 + 8] != [0; 8]).collect();
    for _ in 0..=random.below(3) {
        let len = bytes.len() as u64;
        let word = if random.below(3) == 0 { random.below(14) as usize } else { random.pick(&words) };
        let at = (word * 8).min(bytes.len().saturating_sub(8));
        if bytes.len() < 16 {
            break;
        }
        let old = u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let new = match random.below(12) {
            0 => old ^ (1 << random.below(64)),
            1 => random.next(),
            2 => (1 << random.below(64)) - 1,
            3 => 1 << random.below(64),
            4 => 0,
            5 => random.below(len) & !511,
            6 => (old & 0xff00_0000_0000_01ff) | (random.below(2 * len) & 0x00ff_ffff_ffff_fe00),
            7 => (old & 0xff00_0000_0000_01ff) | (random.next() & 0x00ff_ffff_ffff_0000),
            8 => u64::from_be_bytes(bytes[words[0] * 8..words[0] * 8 + 8].try_into().expect("eight bytes")),
            9 => (old & 0xffff_ffff) | (random.next() << 32),
            10 => (old & !0xffff_ffff) | random.below(1 << 32),
            _ => old.wrapping_add(random.pick(&[1, 8, 512, 65_536, u64::MAX])),
        };
        match random.below(40) {
            0 => bytes.truncate(random.below(len) as usize),
            1 => bytes.resize((len + random.below(MIB)) as usize, random.next() as u8),
            2 => bytes[at] = random.next() as u8,
            3 => bytes[at..at + 4].copy_from_slice(&(new as u32).to_be_bytes()),
            _ => bytes[at..at + 8].copy_from_slice(&new.to_be_bytes()),
        }
    }
    bytes
}

/// A process with one client.
struct Process {
    world: World,
    client: u32,
    choose: Chooser,
}

impl Process {
    fn new(image: &[u8]) -> Process {
        let mut files = HostFiles::new();
        files.import("i", image);
        files.create("base", MIB);
        files.create("target", MIB);
        let mut world = World::new(files);
        world.boot(&[]).expect("nothing to do");
        let client = world.connect(true);
        Process { world, client, choose: Chooser::Calm }
    }

    /// Steps until `done`, or nothing happens any more.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let from = self.world.steps;
        while !done(&mut self.world) {
            if self.world.step(&mut self.choose) != Stepped::Ran {
                return;
            }
            assert!(self.world.steps - from < STEPS, "no end after {STEPS} frames: {what}");
        }
    }

    /// Sends a command and gives the reply, or "" if none comes.
    fn qmp(&mut self, command: &str) -> String {
        let json = parse_one(command).unwrap_or_else(|error| panic!("{command}: {error:?}"));
        self.world.submit(self.client, json);
        let mut said = None;
        self.until(command, |world| {
            while let Some(output) = world.out.pop_front() {
                if let Output::Reply { reply, .. } = output {
                    said = Some(reply);
                }
            }
            said.is_some()
        });
        said.as_ref().map_or(String::new(), |reply: &Json| to_text(reply, MemberOrder::Insertion))
    }

    fn io(&mut self, line: &str) -> String {
        self.qmp(&format!(
            r#"{{"execute":"human-monitor-command","arguments":{{"command-line":"qemu-io n \"{line}\""}}}}"#
        ))
    }

    fn rest(&mut self, what: &str) {
        self.until(what, |world| {
            world.out.clear();
            world.at_rest()
        });
    }

    fn end(&mut self) {
        self.until("the end", |world| world.quitting && world.at_rest());
    }
}

/// All that is done to a mutant.
fn use_up(image: &[u8], random: &mut Random) {
    let mut process = Process::new(image);
    let read_only = random.below(8) == 0;
    let opened = process.qmp(&format!(
        r#"{{"execute":"blockdev-add","arguments":{{"driver":"qcow2","node-name":"n","read-only":{read_only},"discard":"unmap","file":{{"driver":"file","filename":"i"}}}}}}"#
    ));
    process.qmp(r#"{"execute":"query-named-block-nodes"}"#);
    if opened.contains("\"return\"") {
        process.io("read 0 256k");
        for _ in 0..4 {
            let (at, len) = (random.below(MIB) & !511, 512 * (1 + random.below(64)));
            let line = match random.below(5) {
                0 => format!("write -P 7 {at} {len}"),
                1 => format!("write -zu {at} {len}"),
                2 => format!("discard {at} {len}"),
                3 => format!("write -c -P 9 {} 64k", at & !65_535),
                _ => format!("read {at} {len}"),
            };
            process.io(&line);
        }
        // What has a disk of terabytes takes its time to list, or full of data to copy, in QEMU as well.
        let size = process.world.graph.find_node("n").map_or(0, |node| process.world.bdrv_getlength(node));
        let small = size <= 64 * MIB;
        if small {
            process.io("map");
        }
        process.qmp(r#"{"execute":"block-dirty-bitmap-add","arguments":{"node":"n","name":"own","persistent":true}}"#);
        process.io("write 64k 64k");
        process.io("flush");
        if random.below(4) == 0 && small {
            let size = random.pick(&[0, MIB, 8 * MIB, 3 * MIB + 512]);
            process.qmp(&format!(r#"{{"execute":"block_resize","arguments":{{"node-name":"n","size":{size}}}}}"#));
        }
        let size = process.world.graph.find_node("n").map_or(0, |node| process.world.bdrv_getlength(node));
        if small && size <= 64 * MIB {
            process.qmp(&format!(
                r#"{{"execute":"blockdev-add","arguments":{{"driver":"null-co","node-name":"t","size":{size}}}}}"#
            ));
            process.qmp(
                r#"{"execute":"blockdev-backup","arguments":{"job-id":"j","device":"n","target":"t","sync":"full"}}"#,
            );
            process.rest("the backup");
        }
    }
    process.qmp(r#"{"execute":"quit"}"#);
    process.end();
}

#[test]
fn mutants_do_no_harm() {
    let bases = bases();
    let mut budget = Budget::of_environment(MUTANTS, 0);
    let mut mutants = 0;
    let mut failures = Vec::new();
    let mut slowest = (Duration::ZERO, 0);
    std::panic::set_hook(Box::new(|_| {}));
    while let Some(number) = budget.next() {
        let seed = budget.seed + number;
        mutants += 1;
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let base = &bases[(seed % bases.len() as u64) as usize];
        let image = mutate(&base.bytes, &mut random);
        let began = Instant::now();
        let used = catch_unwind(AssertUnwindSafe(|| use_up(&image, &mut random)));
        let took = began.elapsed();
        slowest = slowest.max((took, seed));
        if let Err(payload) = used {
            failures.push(format!("seed {seed} ({}): {}", base.name, blockjob_sim::sim::panic_text(&*payload)));
        } else if took > TIME {
            failures.push(format!("seed {seed} ({}): took {took:?}", base.name));
        }
    }
    let _ = std::panic::take_hook();
    budget.tell("images");
    println!("{mutants} mutants of {} images; the slowest took {:?} (seed {})", bases.len(), slowest.0, slowest.1);
    assert!(failures.is_empty(), "{} of {mutants} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Sound images are answered as what they are.
#[test]
fn the_bases_are_sound() {
    for base in bases() {
        let mut process = Process::new(&base.bytes);
        let opened = process.qmp(
            r#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","node-name":"n","file":{"driver":"file","filename":"i"}}}"#,
        );
        let lacks = ["snapshots", "data file", "extended L2"].iter().any(|what| base.name.ends_with(what));
        assert_eq!(opened.contains("\"return\""), !lacks, "{}: {opened}", base.name);
        if base.name.ends_with("zstd") && base.name.starts_with("qemu-img") {
            let read = process.io("read -P 5 0 300k");
            assert_eq!(read, r#"{"return": ""}"#, "{}", base.name);
        }
        process.qmp(r#"{"execute":"quit"}"#);
        process.end();
    }
}

/// Starts a backup of a source whose reads always fail, which the job ignores.
fn endless(rule: &str) -> Process {
    let mut process = Process::new(&[1; 65_536]);
    for node in [
        format!(
            r#"{{"driver":"raw","node-name":"n","file":{{"driver":"blkdebug","image":{{"driver":"file","filename":"i"}},"inject-error":[{rule}]}}}}"#
        ),
        r#"{"driver":"null-co","node-name":"t","size":65536}"#.to_owned(),
    ] {
        process.qmp(&format!(r#"{{"execute":"blockdev-add","arguments":{node}}}"#));
    }
    process
}

const ENDLESS_BACKUP: &str = r#"{"execute":"blockdev-backup","arguments":{"job-id":"j","device":"n","target":"t","sync":"full","on-source-error":"ignore"}}"#;

/// QEMU answers while such a job goes on.
#[test]
fn a_job_that_ignores_errors_for_ever_can_be_cancelled() {
    let mut process = endless(r#"{"event":"none","iotype":"read"}"#);
    assert_eq!(process.qmp(ENDLESS_BACKUP), r#"{"return": {}}"#);
    let asked = process.qmp(r#"{"execute":"query-jobs"}"#);
    assert!(asked.contains(r#""status": "running""#), "{asked}");
    process.qmp(r#"{"execute":"job-cancel","arguments":{"id":"j"}}"#);
    process.rest("the job was cancelled");
    assert_eq!(process.qmp(r#"{"execute":"query-jobs"}"#), r#"{"return": []}"#);
}

/// Where the errors come at once, the job's coroutine never yields, and QEMU's main loop stands still while events pour out.
#[test]
fn a_process_whose_main_loop_is_starved_stands_still() {
    let mut process = endless(r#"{"event":"none","iotype":"read","immediately":true}"#);
    let submitted = parse_one(ENDLESS_BACKUP).expect("a command");
    process.world.submit(process.client, submitted);
    while process.world.step(&mut process.choose) == Stepped::Ran {}
    assert!(process.world.out.len() < 6_000, "{} messages", process.world.out.len());
    assert!(process.world.waiting()[0].contains("(the limit)"), "{:?}", process.world.waiting());
    assert_eq!(process.qmp(r#"{"execute":"query-jobs"}"#), "", "nobody is answered");
    assert!(!process.world.in_main_loop() && !process.world.at_rest());
}
