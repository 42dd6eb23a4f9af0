//! Real image files: made, checked and compared by the real qemu-img and qemu-io, used by a simulated process in between.
//!
//! Without qemu-img the tests are skipped, and reported as skipped.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/harness.rs"]
mod harness;

use blockjob_sim::base::Json;
use blockjob_sim::choice::{Choose, Chooser, Walk};
use blockjob_sim::host::HostFiles;
use blockjob_sim::images::Images;
use blockjob_sim::qmp::json::parse_one;
use blockjob_sim::qmp::print::{MemberOrder, to_text};
use blockjob_sim::world::World;
use blockjob_sim::world::aio::Stepped;
use blockjob_sim::world::out::Output;
use harness::{Tool, needing, trials};
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    let mut all = needing(
        Tool::QemuImg,
        trials![
            a_backup_of_a_real_chain_is_a_real_image,
            persistent_bitmaps_stand_where_qemu_finds_them_and_are_read_again,
            images_are_locked_as_qemu_locks_them,
            a_huge_sparse_disk_costs_what_is_touched,
            others_may_change_a_file_that_is_not_open,
            a_process_that_is_killed_harms_no_source_and_leaves_no_wrong_target,
        ],
    );
    all.extend(trials![what_is_not_there_is_refused_in_qemus_words]);
    harness::main(all)
}

/// What a tool printed, on both streams, and whether it was content.
fn tool(dir: &Path, line: &str) -> (bool, String) {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).current_dir(dir).output().expect("the tool starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// Runs a tool that must be content.
fn must(dir: &Path, line: &str) -> String {
    let (ok, text) = tool(dir, line);
    assert!(ok, "{line}: {text}");
    text
}

/// `qemu-io -c WRITE FILE`
fn qemu_io(dir: &Path, format: &str, file: &str, command: &str) {
    let output = Command::new("qemu-io").args(["-f", format, "-c", command, file]).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("failed"), "{command}: {text}");
}

/// A simulated process over real files.
struct Served {
    world: World,
    images: Images,
    choose: Chooser,
    client: u32,
    events: Vec<String>,
}

impl Served {
    fn boot(args: &[&str]) -> Served {
        Served::try_boot(args).unwrap_or_else(|problem| panic!("{problem}"))
    }

    fn try_boot(args: &[&str]) -> Result<Served, String> {
        let mut world = World::new(HostFiles::new());
        let mut images = Images::connect(&mut world);
        let args: Vec<_> = args.iter().map(|arg| (*arg).into()).collect();
        world.boot_with(&args, &mut |world| {
            images.before_step(world);
            false
        })?;
        images.sync(&mut world);
        let client = world.connect(true);
        Ok(Served { world, images, choose: Chooser::Walk(Box::new(Walk::new(7))), client, events: Vec::new() })
    }

    /// Sends a command and runs until nothing happens any more: its reply.
    fn qmp(&mut self, text: &str) -> Json {
        self.qmp_watched(text, &mut |_| {})
    }

    /// The same; `watch` is called whenever the real files were written.
    fn qmp_watched(&mut self, text: &str, watch: &mut dyn FnMut(&World)) -> Json {
        let request = parse_one(text).expect("a command");
        self.images.refresh_locks(&mut self.world);
        self.world.submit(self.client, request);
        let mut reply = None;
        loop {
            self.images.before_step(&mut self.world);
            let stepped = self.world.step(&mut self.choose as &mut dyn Choose);
            self.images.sync(&mut self.world);
            if self.images.take_changed() {
                watch(&self.world);
            }
            while let Some(output) = self.world.out.pop_front() {
                match output {
                    Output::Reply { reply: r, .. } => reply = Some(r),
                    Output::Event { event, .. } => {
                        self.events.push(format!("{} {}", event.name(), to_text(&event.data(), MemberOrder::Wire)));
                    }
                    Output::Stdout(_) | Output::Stderr(_) | Output::Report(_) => {}
                }
            }
            match stepped {
                Stepped::Ran => {}
                Stepped::Idle => return reply.expect("a reply"),
                Stepped::Hang => panic!("hang: {:?}", self.world.waiting()),
            }
        }
    }

    fn ok(&mut self, text: &str) -> Json {
        let reply = self.qmp(text);
        reply.get("return").unwrap_or_else(|| panic!("{text}: {reply:?}")).clone()
    }

    fn fails(&mut self, text: &str) -> String {
        let reply = self.qmp(text);
        let error = reply.get("error").unwrap_or_else(|| panic!("{text} went well: {reply:?}"));
        error.get("desc").and_then(Json::as_str).expect("a text").to_owned()
    }

    fn quit(mut self) {
        self.ok(r#"{"execute": "quit"}"#);
    }
}

/// A source with what an image can hold, below it a backing file.
fn make_source(dir: &Path, options: &str) {
    must(dir, &format!("qemu-img create -q -f qcow2 -o {options} base.qcow2 2560k"));
    qemu_io(dir, "qcow2", "base.qcow2", "write -P 0x11 0 1M");
    must(dir, &format!("qemu-img create -q -f qcow2 -o {options} -b base.qcow2 -F qcow2 source.qcow2 4M"));
    for command in ["write -P 0x22 512k 300k", "write -z 64k 128k", "write -P 0x33 1900k 5000", "discard 768k 64k"] {
        qemu_io(dir, "qcow2", "source.qcow2", command);
    }
    qemu_io(dir, "qcow2", "source.qcow2", "write -c -P 0x44 2M 2M");
}

/// One test at a time: a program that another thread starts holds this process's locks of images until it runs.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn a_backup_of_a_real_chain_is_a_real_image() {
    let _alone = alone();
    for options in ["compat=0.10", "compat=1.1,cluster_size=512", "compat=1.1,cluster_size=2M", "compat=1.1"] {
        let dir = tempfile::tempdir().unwrap();
        make_source(dir.path(), options);
        let before = std::fs::read(dir.path().join("base.qcow2")).unwrap();
        let (source, target) = (dir.path().join("source.qcow2"), dir.path().join("target.qcow2"));
        let drive = format!("if=none,id=d,file={},format=qcow2", source.display());
        let mut served = Served::boot(&["-drive", &drive]);
        served.ok(&format!(
            r#"{{"execute": "drive-backup", "arguments": {{"device": "d", "target": "{}", "sync": "full"}}}}"#,
            target.display()
        ));
        let completed = served.events.iter().any(|event| event.starts_with("BLOCK_JOB_COMPLETED"));
        assert!(completed, "{options}: {:?}", served.events);
        must(dir.path(), "qemu-img compare -f qcow2 -F qcow2 -U source.qcow2 target.qcow2");
        served.ok(r#"{"execute": "human-monitor-command", "arguments": {"command-line": "qemu-io d \"write -P 0x55 300k 200k\""}}"#);
        served.quit();
        for image in ["source.qcow2", "target.qcow2", "base.qcow2"] {
            assert!(must(dir.path(), &format!("qemu-img check {image}")).contains("No errors"), "{options}");
        }
        qemu_io(dir.path(), "qcow2", "source.qcow2", "read -P 0x55 300k 200k");
        qemu_io(dir.path(), "qcow2", "target.qcow2", "read -P 0x11 300k 200k");
        assert!(before == std::fs::read(dir.path().join("base.qcow2")).unwrap(), "the backing file was changed");
    }
}

fn persistent_bitmaps_stand_where_qemu_finds_them_and_are_read_again() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    must(dir.path(), "qemu-img create -q -f qcow2 a.qcow2 64M");
    must(dir.path(), "qemu-img bitmap --add -g 32k a.qcow2 theirs");
    qemu_io(dir.path(), "qcow2", "a.qcow2", "write -P 1 1M 100k");
    let drive = format!("if=none,id=d,file={}/a.qcow2,format=qcow2", dir.path().display());
    let mut served = Served::boot(&["-drive", &drive]);
    served
        .ok(r#"{"execute": "block-dirty-bitmap-add", "arguments": {"node": "d", "name": "ours", "persistent": true}}"#);
    served.ok(
        r#"{"execute": "human-monitor-command", "arguments": {"command-line": "qemu-io d \"write -P 2 8M 200k\""}}"#,
    );
    let count = |served: &mut Served| {
        let block = served.ok(r#"{"execute": "query-block"}"#);
        let Json::List(drives) = &block else { panic!("{block:?}") };
        let bitmaps = drives[0].get("inserted").and_then(|inserted| inserted.get("dirty-bitmaps")).cloned();
        let Some(Json::List(bitmaps)) = bitmaps else { panic!("no bitmaps: {block:?}") };
        ["ours", "theirs"].map(|name| {
            let named = bitmaps.iter().find(|bitmap| bitmap.get("name").and_then(Json::as_str) == Some(name));
            to_text(named.unwrap_or_else(|| panic!("{bitmaps:?}")), MemberOrder::Wire)
        })
    };
    let [ours, theirs] = count(&mut served);
    assert!(ours.contains("\"count\": 262144"), "{ours}");
    assert!(theirs.contains("\"count\": 360448"), "{theirs}");
    let in_use = must(dir.path(), "qemu-img info -U a.qcow2");
    assert!(in_use.contains("in-use"), "{in_use}");
    served.quit();
    let info = must(dir.path(), "qemu-img info a.qcow2");
    assert!(info.contains("name: ours") && info.contains("name: theirs") && !info.contains("in-use"), "{info}");
    assert!(must(dir.path(), "qemu-img check a.qcow2").contains("No errors"));
    let mut again = Served::boot(&["-drive", &drive]);
    assert_eq!(count(&mut again), [ours, theirs]);
    again.quit();
}

fn images_are_locked_as_qemu_locks_them() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    must(dir.path(), "qemu-img create -q -f qcow2 a.qcow2 1M");
    let path = format!("{}/a.qcow2", dir.path().display());
    let drive = format!("if=none,id=d,file={path},format=qcow2");
    let served = Served::boot(&["-drive", &drive]);
    let (ok, text) = tool(dir.path(), "qemu-img check a.qcow2");
    assert!(!ok && text.contains("Failed to get shared \"write\" lock"), "{text}");
    must(dir.path(), "qemu-img info -U a.qcow2");
    served.quit();
    must(dir.path(), "qemu-img check a.qcow2");

    let mut other = Command::new("qemu-io")
        .args(["-f", "qcow2", &path])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io starts");
    let mut input = other.stdin.take().expect("a pipe");
    input.write_all(b"read 0 512\n").unwrap();
    // Once it has read, it has the image open.
    let mut output = std::io::BufReader::new(other.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("bytes at offset") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "qemu-io has ended");
    }
    let add = format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"driver": "qcow2", "node-name": "n", "file": {{"driver": "file", "filename": "{path}"}}}}}}"#
    );
    let mut served = Served::boot(&[]);
    assert_eq!(served.fails(&add), "Failed to get \"write\" lock");
    served.ok(&add.replace("\"filename\"", "\"locking\": \"off\", \"filename\""));
    input.write_all(b"quit\n").unwrap();
    drop(output);
    other.wait().unwrap();
    served.quit();
}

fn what_is_not_there_is_refused_in_qemus_words() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let mut served = Served::boot(&[]);
    let add = |name: &str, more: &str| {
        format!(
            r#"{{"execute": "blockdev-add", "arguments": {{"driver": "file", "node-name": "n", "filename": "{name}"{more}}}}}"#
        )
    };
    let path = |name: &str| format!("{}/{name}", dir.path().display());
    let missing = path("missing");
    assert_eq!(served.fails(&add(&missing, "")), format!("Could not open '{missing}': No such file or directory"));
    let folder = path("");
    assert_eq!(served.fails(&add(&folder, "")), format!("Could not open '{folder}': Is a directory"));
    let text = served.fails(&add(&folder, r#", "read-only": true"#));
    assert_eq!(text, format!("'file' driver requires '{folder}' to be a regular file"));
    let create = |name: &str| {
        format!(
            r#"{{"execute": "blockdev-create", "arguments": {{"job-id": "j", "options": {{"driver": "file", "filename": "{name}", "size": 1048576}}}}}}"#
        )
    };
    served.ok(&create(&path("new.img")));
    assert_eq!(std::fs::metadata(path("new.img")).unwrap().len(), 1_048_576);
    served.ok(r#"{"execute": "job-dismiss", "arguments": {"id": "j"}}"#);
    served.ok(&create(&path("no/such/folder")));
    let jobs = to_text(&served.ok(r#"{"execute": "query-jobs"}"#), MemberOrder::Wire);
    assert!(
        jobs.contains(&format!("Could not create '{}': No such file or directory", path("no/such/folder"))),
        "{jobs}"
    );
    served.quit();
}

fn a_huge_sparse_disk_costs_what_is_touched() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("huge.raw");
    let size =
        [1u64 << 44, 8 << 40].into_iter().find(|size| std::fs::File::create(&raw).unwrap().set_len(*size).is_ok());
    let size = size.expect("a sparse file");
    qemu_io(dir.path(), "raw", "huge.raw", &format!("write -P 0x77 {} 64k", size - (1 << 20)));
    let drive = format!("if=none,id=d,file={},format=raw", raw.display());
    let mut served = Served::boot(&["-drive", &drive]);
    served.ok(r#"{"execute": "block-dirty-bitmap-add", "arguments": {"node": "d", "name": "b"}}"#);
    let at = size - (2 << 20);
    let write = format!(
        r#"{{"execute": "human-monitor-command", "arguments": {{"command-line": "qemu-io d \"write -P 0x78 {at} 64k\""}}}}"#
    );
    served.ok(&write);
    let target = dir.path().join("inc.qcow2");
    served.ok(&format!(
        r#"{{"execute": "drive-backup", "arguments": {{"device": "d", "target": "{}", "format": "qcow2", "sync": "incremental", "bitmap": "b"}}}}"#,
        target.display()
    ));
    served.quit();
    qemu_io(dir.path(), "qcow2", "inc.qcow2", &format!("read -P 0x78 {at} 64k"));
    qemu_io(dir.path(), "raw", "huge.raw", &format!("read -P 0x77 {} 64k", size - (1 << 20)));
    assert!(must(dir.path(), "qemu-img check inc.qcow2").contains("No errors"));
}

fn others_may_change_a_file_that_is_not_open() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    must(dir.path(), "qemu-img create -q -f qcow2 a.qcow2 1M");
    let add = format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"driver": "qcow2", "node-name": "n", "file": {{"driver": "file", "filename": "{}/a.qcow2"}}}}}}"#,
        dir.path().display()
    );
    let mut served = Served::boot(&[]);
    for byte in [1, 2, 3] {
        qemu_io(dir.path(), "qcow2", "a.qcow2", &format!("write -P {byte} 0 64k"));
        served.ok(&add);
        let read = format!(
            r#"{{"execute": "human-monitor-command", "arguments": {{"command-line": "qemu-io n \"write -P {} 64k 64k\""}}}}"#,
            byte + 10
        );
        served.ok(&read);
        served.ok(r#"{"execute": "blockdev-del", "arguments": {"node-name": "n"}}"#);
        qemu_io(dir.path(), "qcow2", "a.qcow2", &format!("read -P {byte} 0 64k"));
        qemu_io(dir.path(), "qcow2", "a.qcow2", &format!("read -P {} 64k 64k", byte + 10));
    }
    served.quit();
}

fn a_process_that_is_killed_harms_no_source_and_leaves_no_wrong_target() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    must(dir.path(), "qemu-img create -q -f qcow2 a.qcow2 4M");
    qemu_io(dir.path(), "qcow2", "a.qcow2", "write -P 1 0 3M");
    let target = dir.path().join("t.qcow2");
    let drive = format!("if=none,id=d,file={}/a.qcow2,format=qcow2", dir.path().display());
    let mut served = Served::boot(&["-drive", &drive]);
    let mut moments = 0;
    let mut left = Vec::new();
    let backup = format!(
        r#"{{"execute": "drive-backup", "arguments": {{"device": "d", "target": "{}", "sync": "full"}}}}"#,
        target.display()
    );
    served.qmp_watched(&backup, &mut |_| {
        // While it is being made, the target is no image yet.
        if std::fs::metadata(&target).unwrap().len() < 5 << 16 {
            return;
        }
        moments += 1;
        // What a kill at this moment would leave.
        let source = dir.path().join(format!("source{moments}.qcow2"));
        let copy = dir.path().join(format!("target{moments}.qcow2"));
        std::fs::copy(dir.path().join("a.qcow2"), &source).unwrap();
        std::fs::copy(&target, &copy).unwrap();
        left.push(moments);
    });
    assert!(left.len() >= 5, "{left:?}");
    served.quit();
    for moment in left {
        must(dir.path(), &format!("qemu-img compare -f qcow2 -F qcow2 a.qcow2 source{moment}.qcow2"));
        must(dir.path(), &format!("qemu-img check source{moment}.qcow2"));
        let (_, text) = tool(dir.path(), &format!("qemu-img check target{moment}.qcow2"));
        // Clusters may be lost to an unfinished target; nothing in it may be wrong.
        assert!(!text.contains("ERROR") || text.contains("Could not open"), "{text}");
    }
}
