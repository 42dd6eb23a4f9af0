//! Images of the simulated host against the real qemu-img and qemu-io, and against a plain model.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/harness.rs"]
mod harness;

use blockjob_sim::block::content::{Data, WriteTag};
use blockjob_sim::block::qcow2::{CreateOptions, OpenOptions};
use blockjob_sim::host::{HostFiles, Image};
use harness::{Tool, needing, trials};
use proptest::prelude::*;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut all = needing(
        Tool::QemuImg,
        trials![
            new_images_are_those_of_qemu_img,
            files_are_those_of_qemu_io,
            compressed_clusters_are_understood_both_ways,
            resized_images_are_those_of_qemu_img,
            bitmaps_are_those_of_qemu_img,
            rebased_images_read_the_same,
            maps_are_those_of_qemu_img,
        ],
    );
    all.extend(trials![images_read_as_a_plain_model]);
    harness::main(all)
}

/// Runs a tool in a directory.
fn tool(dir: &Path, name: &str, args: &[&str]) -> (bool, String) {
    let out = Command::new(name).args(args).current_dir(dir).output().unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn save(files: &HostFiles, path: &str, dir: &Path) {
    // With the same holes: the real tools look for them.
    let file = files.get(path).expect("the file");
    let real = std::fs::File::create(dir.join(path)).expect("created");
    real.set_len(file.size).expect("grown");
    for (at, run) in file.content.extents() {
        let bytes = file.content.read(at, run.len()).to_bytes();
        std::os::unix::fs::FileExt::write_all_at(&real, &bytes, at).expect("written");
    }
}

fn options(cluster_size: u64) -> CreateOptions {
    CreateOptions { cluster_size, ..CreateOptions::new(0) }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    (0..a.len().max(b.len())).find(|&i| a.get(i).unwrap_or(&0) != b.get(i).unwrap_or(&0))
}

fn new_images_are_those_of_qemu_img() {
    let dir = scratch();
    let cases: [(u64, &str, CreateOptions); 12] = [
        (1 << 30, "cluster_size=65536", options(65_536)),
        (64 << 20, "cluster_size=512", options(512)),
        (0, "cluster_size=65536", options(65_536)),
        (100 * 512, "cluster_size=4096", options(4096)),
        (1 << 44, "cluster_size=65536", options(65_536)),
        (5 << 30, "cluster_size=2097152", options(2 << 20)),
        (1 << 30, "compat=0.10", CreateOptions { version: 2, ..CreateOptions::new(0) }),
        (1 << 30, "lazy_refcounts=on", CreateOptions { lazy_refcounts: true, ..CreateOptions::new(0) }),
        (1 << 30, "refcount_bits=1", CreateOptions { refcount_bits: 1, ..CreateOptions::new(0) }),
        (1 << 30, "refcount_bits=64", CreateOptions { refcount_bits: 64, ..CreateOptions::new(0) }),
        (64 << 20, "cluster_size=512,refcount_bits=64", CreateOptions { refcount_bits: 64, ..options(512) }),
        (64 << 20, "cluster_size=512,refcount_bits=2", CreateOptions { refcount_bits: 2, ..options(512) }),
    ];
    for (size, text, options) in cases {
        let args = ["create", "-q", "-f", "qcow2", "-o", text, "real.qcow2", &size.to_string()];
        let (ok, out) = tool(dir.path(), "qemu-img", &args);
        assert!(ok, "{out}");
        let real = std::fs::read(dir.path().join("real.qcow2")).expect("the image");
        let mut files = HostFiles::new();
        files.create_qcow2("ours", Some(size), &options).expect(text);
        let ours = files.export("ours").expect("the file");
        assert_eq!(first_difference(&ours, &real), None, "{text} {size}");
        assert_eq!(ours.len(), real.len(), "{text} {size}");
        assert!(files.check("ours").expect("checked").is_clean(), "{text} {size}");
    }
}

/// A command of qemu-io.
#[derive(Clone, Copy, Debug)]
enum Cmd {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Flush,
    Read(u64, u64),
}

impl Cmd {
    fn text(self) -> String {
        match self {
            Cmd::Write(at, len, byte) => format!("write -P {byte} {at} {len}"),
            Cmd::Zero(at, len, unmap) => format!("write -z {} {at} {len}", if unmap { "-u" } else { "" }),
            Cmd::Discard(at, len) => format!("discard {at} {len}"),
            Cmd::Flush => "flush".to_owned(),
            Cmd::Read(at, len) => format!("read {at} {len}"),
        }
    }

    fn run(self, files: &mut HostFiles, image: &mut Image, model: &mut [u8]) {
        let span = |at: u64, len: u64| at as usize..(at + len) as usize;
        let done = match self {
            Cmd::Write(at, len, byte) => {
                model[span(at, len)].fill(byte);
                image.write(files, at, Data::pattern(byte, len, WriteTag(u32::from(byte))))
            }
            Cmd::Zero(at, len, unmap) => {
                model[span(at, len)].fill(0);
                image.write_zeroes(files, at, len, unmap)
            }
            Cmd::Discard(at, len) => {
                let before = image.read(files, at, len).expect("read before").to_bytes();
                let done = image.discard(files, at, len);
                let after = image.read(files, at, len).expect("read after").to_bytes();
                for (b, a) in before.iter().zip(&after) {
                    assert!(*a == *b || *a == 0, "a discard leaves bytes or zeroes them");
                }
                model[span(at, len)].copy_from_slice(&after);
                done
            }
            Cmd::Flush => image.flush(files),
            Cmd::Read(at, len) => {
                let data = image.read(files, at, len).expect("read").to_bytes();
                assert_eq!(first_difference(&data, &model[span(at, len)]), None, "{self:?}");
                Ok(())
            }
        };
        done.unwrap_or_else(|fault| panic!("{self:?}: {fault}"));
    }
}

fn cmd(size: u64) -> impl Strategy<Value = Cmd> {
    let sectors = size / 512;
    let range = (0..sectors, 1..200u64, any::<bool>()).prop_map(move |(at, n, aligned)| {
        let (at, n) = if aligned { (at / 8 * 8, n / 8 * 8 + 8) } else { (at, n) };
        (at * 512, n.min(sectors - at).max(1) * 512)
    });
    (0..10u8, range, 1..=255u8, any::<bool>()).prop_map(|(kind, (at, len), byte, flag)| match kind {
        0..=4 => Cmd::Write(at, len, byte),
        5 | 6 => Cmd::Zero(at, len, flag),
        7 => Cmd::Discard(at, len),
        8 => Cmd::Flush,
        _ => Cmd::Read(at, len),
    })
}

const DISK: u64 = 1 << 20;

/// An image over a backing file that is shorter than it, both prepared by the given commands.
fn prepare(options: &CreateOptions, based: bool) -> (HostFiles, Vec<u8>) {
    let mut files = HostFiles::new();
    let mut options = options.clone();
    let mut model = vec![0; DISK as usize];
    if based {
        files.create("base.raw", DISK / 2);
        files.write("base.raw", 64 << 10, 200 << 10, 0xba, WriteTag(1)).expect("written");
        model[64 << 10..264 << 10].fill(0xba);
        options.backing_file = Some("base.raw".into());
        options.backing_format = Some("raw".into());
    }
    files.create_qcow2("a.qcow2", Some(DISK), &options).expect("created");
    (files, model)
}

fn play(options: &CreateOptions, based: bool, commands: &[Cmd]) -> HostFiles {
    let (mut files, mut model) = prepare(options, based);
    let open = OpenOptions { discard_request: true, ..OpenOptions::default() };
    let mut image = Image::open_with(&mut files, "a.qcow2", None, &open).expect("opened");
    for &command in commands {
        command.run(&mut files, &mut image, &mut model);
    }
    Cmd::Read(0, DISK).run(&mut files, &mut image, &mut model);
    assert_eq!(image.close(&mut files), Vec::<String>::new());
    let result = files.check("a.qcow2").expect("checked");
    assert!(result.is_clean(), "{result:?}");
    let data = files.read("a.qcow2", 0, DISK).expect("read").to_bytes();
    assert_eq!(first_difference(&data, &model), None);
    files
}

/// Options as for qemu-img, by number.
fn kind(n: u8) -> (CreateOptions, &'static str) {
    match n {
        0 => (options(65_536), "cluster_size=65536"),
        1 => (options(4096), "cluster_size=4096"),
        2 => (options(512), "cluster_size=512"),
        3 => (CreateOptions { version: 2, ..options(4096) }, "cluster_size=4096,compat=0.10"),
        4 => (CreateOptions { refcount_bits: 64, ..options(512) }, "cluster_size=512,refcount_bits=64"),
        _ => (CreateOptions { refcount_bits: 1, ..options(1024) }, "cluster_size=1024,refcount_bits=1"),
    }
}

/// Whether the real tools make the same file of the same commands.
fn play_for_real(text: &str, based: bool, commands: &[Cmd], ours: &HostFiles) {
    let dir = scratch();
    let mut create = vec!["create", "-q", "-f", "qcow2", "-o", text];
    if based {
        save(ours, "base.raw", dir.path());
        create.extend(["-b", "base.raw", "-F", "raw"]);
    }
    let size = DISK.to_string();
    create.extend(["a.qcow2", &size]);
    let (ok, out) = tool(dir.path(), "qemu-img", &create);
    assert!(ok, "{out}");
    let commands: Vec<String> = commands.iter().map(|command| command.text()).collect();
    let mut args = vec!["-d", "unmap", "-f", "qcow2"];
    args.extend(commands.iter().flat_map(|command| ["-c", command.as_str()]));
    args.push("a.qcow2");
    let (ok, out) = tool(dir.path(), "qemu-io", &args);
    assert!(ok, "{out}");
    let real = std::fs::read(dir.path().join("a.qcow2")).expect("the image");
    let mine = ours.export("a.qcow2").expect("the image");
    save(ours, "a.qcow2", dir.path());
    let (ok, out) = tool(dir.path(), "qemu-img", &["check", "a.qcow2"]);
    assert!(ok, "{out}");
    assert_eq!(first_difference(&mine, &real), None, "{text}, based: {based}, {commands:?}");
    let mut reopened = HostFiles::new();
    reopened.import("a.qcow2", &real);
    if based {
        reopened.put("base.raw", ours.get("base.raw").expect("the base").clone());
    }
    let left = reopened.read("a.qcow2", 0, DISK).expect("real image read").to_bytes();
    let right = ours.clone().read("a.qcow2", 0, DISK).expect("our image read").to_bytes();
    assert_eq!(first_difference(&left, &right), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    fn files_are_those_of_qemu_io(n in 0..6u8, based: bool, commands in prop::collection::vec(cmd(DISK), 1..12)) {
        let (options, text) = kind(n);
        let files = play(&options, based, &commands);
        play_for_real(text, based, &commands, &files);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    fn images_read_as_a_plain_model(n in 0..6u8, based: bool, commands in prop::collection::vec(cmd(DISK), 1..60)) {
        play(&kind(n).0, based, &commands);
    }
}

fn compressed_clusters_are_understood_both_ways() {
    let dir = scratch();
    let fill = |i: u64| ((i * 2_654_435_761) >> 13) as u8 & 0x3f;
    let bytes: Vec<u8> = (0..DISK).map(|i| if i < DISK / 2 { fill(i / 3) } else { 0x33 }).collect();
    std::fs::write(dir.path().join("plain.raw"), &bytes).expect("written");
    let convert = ["convert", "-c", "-f", "raw", "-O", "qcow2", "plain.raw", "real.qcow2"];
    let (ok, out) = tool(dir.path(), "qemu-img", &convert);
    assert!(ok, "{out}");
    let mut files = HostFiles::new();
    files.import("real.qcow2", &std::fs::read(dir.path().join("real.qcow2")).expect("the image"));
    let data = files.read("real.qcow2", 0, DISK).expect("read").to_bytes();
    assert_eq!(first_difference(&data, &bytes), None);
    assert!(files.check("real.qcow2").expect("checked").is_clean());

    files.create_qcow2("ours.qcow2", Some(DISK), &options(65_536)).expect("created");
    let mut image = Image::open(&mut files, "ours.qcow2", None, true).expect("opened");
    image.write_compressed(&mut files, 0, Data::bytes(bytes.clone().into(), WriteTag(1))).expect("written");
    image.close(&mut files);
    save(&files, "ours.qcow2", dir.path());
    let compare = ["compare", "-f", "raw", "-F", "qcow2", "plain.raw", "ours.qcow2"];
    for args in [&["check", "ours.qcow2"][..], &compare[..]] {
        let (ok, out) = tool(dir.path(), "qemu-img", args);
        assert!(ok, "{out}");
    }
    assert_eq!(files.compare("ours.qcow2", "real.qcow2"), Ok(Ok(())));
}

/// Runs tools on `a.qcow2`, which holds what we have under that name, and gives what it holds then.
fn real_commands(dir: &Path, commands: &[&[&str]]) -> Vec<u8> {
    for command in commands {
        let (ok, out) = tool(dir, command[0], &command[1..]);
        assert!(ok, "{command:?}: {out}");
    }
    std::fs::read(dir.join("a.qcow2")).expect("the image")
}

fn resized_images_are_those_of_qemu_img() {
    let cases = [
        (false, 3 << 20),
        (true, 3 << 20),
        (false, 100 << 10),
        (true, (1 << 20) - 512),
        (false, 512),
        (true, 64 << 20),
    ];
    for n in 0..6 {
        for (based, size) in cases {
            let (options, _) = kind(n);
            let (mut files, _) = prepare(&options, based);
            if based {
                files.resize("base.raw", 2 << 20).expect("grown");
            }
            for at in [0, 300 << 10, 900 << 10] {
                files.write("a.qcow2", at, 20_000, 7, WriteTag(1)).expect("written");
            }
            let dir = scratch();
            save(&files, "a.qcow2", dir.path());
            if based {
                save(&files, "base.raw", dir.path());
            }
            let text = size.to_string();
            let resize = ["qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", "a.qcow2", &text];
            let (ok, out) = tool(dir.path(), "qemu-img", &resize[1..]);
            let resized = files.resize("a.qcow2", size);
            assert_eq!(resized.is_ok(), ok, "{resized:?}, {out}");
            if let Err(error) = resized {
                assert_eq!(format!("qemu-img: {}\n", error.fault), out);
            }
            let real = std::fs::read(dir.path().join("a.qcow2")).expect("the image");
            let ours = files.export("a.qcow2").expect("the file");
            assert_eq!(first_difference(&ours, &real), None, "kind {n}, based {based}, to {size}");
            let result = files.check("a.qcow2").expect("checked");
            assert!(result.is_clean(), "kind {n}, based {based}, to {size}: {result:?}");
        }
    }
}

fn bitmaps_are_those_of_qemu_img() {
    for cluster_size in [512, 4096, 65_536] {
        let dir = scratch();
        let mut files = HostFiles::new();
        files.create_qcow2("a.qcow2", Some(DISK), &options(cluster_size)).expect("created");
        save(&files, "a.qcow2", dir.path());
        let add = |name| ["qemu-img", "bitmap", "-f", "qcow2", "--add", "-g", "4096", "a.qcow2", name];
        let start = real_commands(dir.path(), &[&add("first"), &add("second")]);
        files.import("a.qcow2", &start);
        let info = files.info("a.qcow2").expect("info");
        let bitmap = |name: &str| (name.to_owned(), 4096, false, true);
        assert_eq!(info.bitmaps, [bitmap("first"), bitmap("second")]);
        let io = ["qemu-io", "-f", "qcow2", "-c", "write 100k 100k", "-c", "write -z 0 64k", "a.qcow2"];
        let real = real_commands(dir.path(), &[&io]);
        let mut image = Image::open(&mut files, "a.qcow2", None, true).expect("opened");
        image.write(&mut files, 100 << 10, Data::pattern(0xcd, 100 << 10, WriteTag(1))).expect("written");
        image.write_zeroes(&mut files, 0, 64 << 10, false).expect("zeroed");
        assert_eq!(image.close(&mut files), Vec::<String>::new());
        let ours = files.export("a.qcow2").expect("the file");
        assert_eq!(first_difference(&ours, &real), None, "cluster size {cluster_size}");
        assert!(files.check("a.qcow2").expect("checked").is_clean());
        // Opening for writing marks them in use; killed then, they are inconsistent.
        let _killed = Image::open(&mut files, "a.qcow2", None, true).expect("opened");
        save(&files, "a.qcow2", dir.path());
        let (ok, out) = tool(dir.path(), "qemu-img", &["info", "a.qcow2"]);
        assert!(ok && out.matches("in-use").count() == 2, "{out}");
        let image = Image::open(&mut files, "a.qcow2", None, true).expect("opened");
        assert!(image.bitmaps().iter().all(|bitmap| bitmap.inconsistent));
        let remove = |name| ["qemu-img", "bitmap", "-f", "qcow2", "--remove", "a.qcow2", name];
        let real = real_commands(dir.path(), &[&remove("first")]);
        let mut files = HostFiles::new();
        files.import("a.qcow2", &real);
        assert!(files.check("a.qcow2").expect("checked").is_clean());
    }
}

fn rebased_images_read_the_same() {
    for (from, to) in [(true, false), (false, true)] {
        let (mut files, _) = prepare(&options(4096), true);
        files.write("a.qcow2", 100 << 10, 4096, 7, WriteTag(1)).expect("written");
        files.create("other.raw", DISK);
        files.write("other.raw", 60 << 10, 100 << 10, 0xba, WriteTag(1)).expect("written");
        files.write("other.raw", 300 << 10, 100 << 10, 0xdd, WriteTag(1)).expect("written");
        if !from {
            files.rebase_unsafe("a.qcow2", Some("other.raw"), Some("raw")).expect("rebased");
        }
        let before = files.read("a.qcow2", 0, DISK).expect("read");
        let dir = scratch();
        for name in ["a.qcow2", "base.raw", "other.raw"] {
            save(&files, name, dir.path());
        }
        let base = if to { "base.raw" } else { "other.raw" };
        files.rebase("a.qcow2", Some(base), Some("raw")).expect("rebased");
        assert!(files.read("a.qcow2", 0, DISK).expect("read").same_bytes(&before));
        assert!(files.check("a.qcow2").expect("checked").is_clean());
        assert_eq!(files.info("a.qcow2").expect("info").backing_file.as_deref(), Some(base));
        let rebase = ["qemu-img", "rebase", "-f", "qcow2", "-b", base, "-F", "raw", "a.qcow2"];
        let real = real_commands(dir.path(), &[&rebase]);
        files.import("real.qcow2", &real);
        assert_eq!(files.compare("a.qcow2", "real.qcow2"), Ok(Ok(())));
        files.write("real.qcow2", 5000, 1, 9, WriteTag(4)).expect("written");
        let mismatch = files.compare("a.qcow2", "real.qcow2").expect("compared").expect_err("a difference");
        assert_eq!((mismatch.offset, mismatch.len, mismatch.right), (5000, 1, WriteTag(4)));
    }
}

fn maps_are_those_of_qemu_img() {
    let (mut files, _) = prepare(&options(4096), true);
    for at in [0, 300 << 10, 900 << 10] {
        files.write("a.qcow2", at, 20_000, 7, WriteTag(1)).expect("written");
    }
    files.write_zeroes("a.qcow2", 80 << 10, 64 << 10, false).expect("zeroed");
    let dir = scratch();
    for name in ["a.qcow2", "base.raw"] {
        save(&files, name, dir.path());
    }
    let (_, out) = tool(dir.path(), "qemu-img", &["map", "--output=json", "a.qcow2"]);
    let lines = files.map("a.qcow2").expect("mapped").into_iter().map(|e| {
        let offset = e.offset.map_or(String::new(), |offset| format!(", \"offset\": {offset}"));
        format!(
            "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \"compressed\": false{offset}}}",
            e.start, e.length, e.depth, e.present, e.zero, e.data
        )
    });
    assert_eq!(format!("[{}]\n", lines.collect::<Vec<_>>().join(",\n")), out);
}
