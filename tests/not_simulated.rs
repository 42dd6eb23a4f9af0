//! What QEMU has and the model lacks answers `not simulated: NAME` and stands in `docs/not-simulated.md`; what stands there does.

use blockjob_sim::base::Json;
use blockjob_sim::choice::Calm;
use blockjob_sim::host::HostFiles;
use blockjob_sim::qmp::names::COMMANDS;
use blockjob_sim::qmp::types::Driver;
use blockjob_sim::qmp::visit::QapiEnum;
use blockjob_sim::trace::canonical;
use blockjob_sim::world::World;
use blockjob_sim::world::aio::Stepped;
use blockjob_sim::world::out::Output;
use std::collections::BTreeSet;

const PAGE: &str = include_str!("../docs/not-simulated.md");

/// The commands that are simulated. One that is neither here nor refused fails the test.
#[rustfmt::skip]
const SIMULATED: &[&str] = &[
    "block-commit", "blockdev-mirror", "drive-mirror", "query-dirty-rate",
    "block-export-add", "block-export-del", "nbd-server-add", "nbd-server-remove", "nbd-server-start", "nbd-server-stop",
    "block-dirty-bitmap-add", "block-dirty-bitmap-clear", "block-dirty-bitmap-disable", "block-dirty-bitmap-enable",
    "block-dirty-bitmap-merge", "block-dirty-bitmap-remove", "block-job-cancel", "block-job-change", "block-job-complete",
    "block-job-dismiss", "block-job-finalize", "block-job-pause", "block-job-resume", "block-job-set-speed", "block-stream",
    "add-fd", "block-set-write-threshold", "block_resize", "block_set_io_throttle", "blockdev-change-medium", "blockdev-close-tray",
    "blockdev-insert-medium", "blockdev-open-tray", "blockdev-remove-medium", "blockdev-reopen", "blockdev-set-active", "blockdev-snapshot",
    "blockdev-snapshot-sync", "change-backing-file", "closefd", "device_add", "device_del", "eject", "getfd", "query-block-exports", "query-fdsets", "remove-fd", "query-pr-managers", "blockdev-add", "blockdev-backup", "blockdev-create", "blockdev-del", "cont",
    "block-commit", "drive-backup", "human-monitor-command", "x-blockdev-change", "job-cancel", "job-complete", "job-dismiss", "job-finalize", "job-pause",
    "job-resume", "object-add", "object-del", "qmp_capabilities", "query-block", "query-block-jobs",
    "query-blockstats", "query-commands",
    "query-iothreads", "query-jobs", "query-kvm", "query-name", "query-named-block-nodes", "query-status", "query-target",
    "query-uuid", "query-version", "quit", "stop", "system_reset", "transaction",
    "x-debug-block-dirty-bitmap-sha256", "x-debug-query-block-graph",
    // The machine around the disks, and what is answered as recorded.
    "balloon", "device-list-properties", "migrate-set-capabilities", "migrate-set-parameters", "qom-get",
    "qom-list", "qom-list-properties", "qom-list-types", "qom-set", "query-acpi-ospm-status", "query-audiodevs",
    "query-balloon", "query-chardev", "query-chardev-backends", "query-colo-status", "query-command-line-options",
    "query-cpu-definitions", "query-cpu-model-expansion", "query-cpus-fast", "query-cryptodev",
    "query-current-machine", "query-display-options", "query-dump",
    "query-dump-guest-memory-capability", "query-hotpluggable-cpus", "query-hv-balloon-status-report",
    "query-machines", "query-memdev", "query-memory-devices", "query-memory-size-summary", "query-mice",
    "query-migrate", "query-migrate-capabilities", "query-migrate-parameters", "query-migrationthreads",
    "query-pci", "query-qmp-schema", "query-replay", "query-rx-filter", "query-sev", "query-sev-capabilities",
    "query-sev-launch-measure", "query-sgx", "query-sgx-capabilities", "query-spice", "query-tpm", "query-tpm-models", "query-tpm-types", "query-vcpu-dirty-limit", "query-vm-generation-id",
    "query-vnc", "query-vnc-servers", "query-xen-replication-status", "set-action", "system_powerdown",
    "x-query-virtio",
];

/// Arguments of the commands that read theirs before they refuse; the others take none.
const ARGUMENTS: &[(&str, &str)] = &[
    ("blockdev-snapshot-delete-internal-sync", r#"{"device": "n"}"#),
    ("blockdev-snapshot-internal-sync", r#"{"device": "n", "name": "s"}"#),
    ("object-add", r#"{"qom-type": "throttle-group", "id": "g"}"#),
    ("object-del", r#"{"id": "g"}"#),
];

/// Options of `blockdev-add`, and what they answer.
const NODE_OPTIONS: &[(&str, &str)] = &[
    (r#""driver": "file", "filename": "f", "pr-manager": "p""#, "pr-manager"),
    (r#""driver": "qcow2", "file": "n", "encrypt": {"format": "luks"}"#, "encrypt"),
    (r#""driver": "qcow2", "file": "n", "data-file": "n""#, "data-file"),
    (r#""driver": "qcow2", "file": "n", "pass-discard-other": true"#, "pass-discard-other"),
];

/// Options of `-drive`, and what they answer.
const DRIVE_OPTIONS: &[(&str, &str)] = &[("if=none,id=d,file=f,format=raw,snapshot=on", "snapshot=on")];

/// Lines of the human monitor, and what they answer.
const HMP: &[(&str, &str)] =
    &[("savevm x", "savevm"), ("info block -v", "info block -v"), ("info qtree", "info qtree"), ("p 1", "print")];

/// qemu-io commands, and what they answer.
const QEMU_IO: &[(&str, &str)] = &[
    ("abort", "qemu-io abort"),
    ("help", "qemu-io help"),
    ("reopen -o backing=x", "qemu-io reopen -o"),
    ("sigraise 1", "qemu-io sigraise"),
    ("zone_append 0 512 512", "qemu-io zone_append"),
    ("zone_close 0 512", "qemu-io zone_close"),
    ("zone_finish 0 512", "qemu-io zone_finish"),
    ("zone_open 0 512", "qemu-io zone_open"),
    ("zone_report 0 1", "qemu-io zone_report"),
    ("zone_reset 0 512", "qemu-io zone_reset"),
    ("read -b 0 512", "qemu-io read -b"),
    ("write -b 0 512", "qemu-io write -b"),
    ("write -s f 0 512", "qemu-io write -s"),
];

/// A process with a client and a node `n`.
fn process() -> World {
    let mut world = World::new(HostFiles::new());
    world.connect(true);
    let added = ask(&mut world, "blockdev-add", r#"{"driver": "null-co", "node-name": "n", "read-zeroes": true}"#);
    assert!(added.get("return").is_some(), "{added:?}");
    world
}

/// The reply to a command.
fn ask(world: &mut World, command: &str, arguments: &str) -> Json {
    let request = format!(r#"{{"execute": "{command}", "arguments": {arguments}}}"#);
    world.submit(0, canonical::parse(&request).expect("JSON"));
    loop {
        while let Some(output) = world.out.pop_front() {
            if let Output::Reply { reply, .. } = output {
                return reply;
            }
        }
        assert_eq!(world.step(&mut Calm), Stepped::Ran, "{command} is not answered");
    }
}

/// What a reply says is not simulated.
fn lacks(reply: &Json) -> Option<String> {
    let error = reply.get("error")?;
    let name = error.get("desc").and_then(Json::as_str)?.strip_prefix("not simulated: ")?;
    assert_eq!(error.get("class").and_then(Json::as_str), Some("GenericError"));
    Some(name.to_owned())
}

/// What stands in backticks in a section of the page, code in its prose included.
fn listed(section: &str) -> BTreeSet<&'static str> {
    let (_, text) = PAGE.split_once(&format!("\n## {section}\n")).expect("the page has this section");
    let text = text.split("\n## ").next().unwrap_or_default();
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_command_is_simulated_or_refused_and_listed() {
    let listed = listed("QMP commands");
    for name in COMMANDS {
        let arguments = ARGUMENTS.iter().find(|(of, _)| *of == name).map_or("{}", |(_, arguments)| arguments);
        let lacks = if name == "quit" { None } else { lacks(&ask(&mut process(), name, arguments)) };
        if SIMULATED.contains(&name) {
            assert_eq!(lacks, None, "{name} counts as simulated");
            assert!(!listed.contains(name), "{name} is simulated: the page is wrong");
        } else {
            assert_eq!(lacks.as_deref(), Some(name), "{name} does not count as simulated");
            assert!(listed.contains(name), "{name} is not simulated: the page must say so");
        }
    }
    for name in listed.iter().filter(|name| !["GenericError", "not simulated: NAME"].contains(name)) {
        assert!(COMMANDS.contains(name), "the page lists {name}, which is no command");
    }
}

#[test]
fn drivers() {
    let listed = listed("Block drivers");
    for (driver, name) in Driver::TABLE {
        let own = match driver {
            Driver::File => r#", "filename": "f""#,
            Driver::CopyBeforeWrite => r#", "file": "n", "target": "n""#,
            Driver::Throttle => r#", "file": "n", "throttle-group": "g""#,
            Driver::Raw
            | Driver::Qcow2
            | Driver::CopyOnRead
            | Driver::Compress
            | Driver::Preallocate
            | Driver::SnapshotAccess => r#", "file": "n""#,
            Driver::Quorum => r#", "children": ["n"], "vote-threshold": 1"#,
            Driver::Blkverify => r#", "test": "n", "raw": "n""#,
            Driver::Blkdebug => r#", "image": "n""#,
            Driver::Nbd => r#", "server": {"type": "unix", "path": "s"}"#,
            Driver::NullCo | Driver::NullAio | Driver::Other(_) => "",
        };
        let arguments = format!(r#"{{"driver": "{name}", "node-name": "x"{own}}}"#);
        let lacks = lacks(&ask(&mut process(), "blockdev-add", &arguments));
        let simulated = matches!(
            driver,
            Driver::File
                | Driver::NullCo
                | Driver::NullAio
                | Driver::Raw
                | Driver::Qcow2
                | Driver::Blkdebug
                | Driver::CopyBeforeWrite
                | Driver::SnapshotAccess
                | Driver::Throttle
                | Driver::CopyOnRead
                | Driver::Compress
                | Driver::Quorum
                | Driver::Blkverify
                | Driver::Nbd
        );
        assert_eq!(lacks.as_deref(), (!simulated).then_some(*name), "{name}");
        assert_eq!(listed.contains(name), !simulated, "the page, about {name}");
    }
}

#[test]
fn options() {
    let listed = listed("Options of nodes, drives and jobs");
    for (options, name) in NODE_OPTIONS {
        let arguments = format!(r#"{{{options}, "node-name": "x"}}"#);
        assert_eq!(lacks(&ask(&mut process(), "blockdev-add", &arguments)).as_deref(), Some(*name), "{options}");
        assert!(listed.contains(name), "{name} is not on the page");
    }
    for (options, name) in DRIVE_OPTIONS {
        let mut files = HostFiles::new();
        files.create("f", 1 << 20);
        let booted = World::new(files).boot(&["-drive".into(), (*options).into()]);
        let error = booted.expect_err(options);
        assert!(error.ends_with(&format!("not simulated: {name}")), "{options}: {error}");
        assert!(listed.contains(name), "{name} is not on the page");
    }
}

#[test]
fn transaction_actions() {
    let listed = listed("Transaction actions");
    let name = "blockdev-snapshot-internal-sync";
    let arguments = format!(r#"{{"actions": [{{"type": "{name}", "data": {{"device": "n", "name": "s"}}}}]}}"#);
    assert_eq!(lacks(&ask(&mut process(), "transaction", &arguments)).as_deref(), Some(name));
    assert!(listed.contains(name), "{name} is not on the page");
}

#[test]
fn human_monitor_and_qemu_io() {
    let hmp = |line: &str| {
        let line = line.replace('"', "\\\"");
        lacks(&ask(&mut process(), "human-monitor-command", &format!(r#"{{"command-line": "{line}"}}"#)))
    };
    let (commands, io) = (listed("Human monitor commands"), listed("qemu-io commands"));
    for (line, name) in HMP {
        assert_eq!(hmp(line).as_deref(), Some(*name), "{line}");
        assert!(commands.contains(name.strip_prefix("info ").unwrap_or(name)), "{name} is not on the page");
    }
    for (command, name) in QEMU_IO {
        assert_eq!(hmp(&format!("qemu-io n \"{command}\"")).as_deref(), Some(*name), "{command}");
        let first = command.split(' ').next().unwrap_or_default();
        let name = name.strip_prefix("qemu-io ").unwrap_or(name);
        assert!(io.contains(name) || io.contains(first), "{name} is not on the page");
    }
}
