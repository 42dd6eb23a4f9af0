//! `blockjob-sim check`: the mistakes of a scenario that are found without a run.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/shell.rs"]
mod shell;

use shell::{DISK, folder, sim};
use std::path::Path;

#[test]
fn check_tells_all_mistakes_of_a_file() {
    let steps = "steps:
  - qmp: {execute: query-jbos}
  - event: BLOCK_JOB_COMPLETE
  - idel: true
  - qmp: {execute: blockdev-backup, arguments: {device: disk, target: t, sync: ful}}
  - qmp: {execute: block-dirty-bitmap-add, arguments: {node: disk, name: b, granularity: 33}}
  - qmp: {execute: query-jobs, arguments: {}}
    error: {class: GenericErr}
  - event: {event: JOB_STATUS_CHANGE, data: {id: j, status: finished}}
  - event: {event: BLOCK_JOB_COMPLETED, data: {job: j}}
  - hmp: qemu-io drive0 \"wirte 0 1M\"
";
    let dir = folder(&[("sub/bad.yaml", format!("about: x\n{DISK}{steps}"))]);
    let (code, _, err) = sim(dir.path(), &["check", "."], "");
    assert_eq!(code, 2, "{err}");
    let expected = [
        "did you mean `query-jobs`?",
        "did you mean `BLOCK_JOB_COMPLETED`?",
        "did you mean `idle`?",
        "does not accept value 'ful'",
        "Granularity must be power of 2",
        "did you mean `GenericError`?",
        "no status `finished`",
        "no member of BLOCK_JOB_COMPLETED `job`",
        "command \"wirte\" not found",
        "9 mistakes in 1 file",
    ];
    for word in expected {
        assert!(err.contains(word), "{word}: {err}");
    }
}

/// Names that nothing makes are slips of the pen, unless a step says that it is to fail.
#[test]
fn check_knows_jobs_drives_and_bitmaps() {
    let steps = "steps:
  - qmp: {execute: blockdev-add, arguments: {driver: null-co, node-name: t, size: 1048576}}
  - qmp: {execute: block-dirty-bitmap-add, arguments: {node: disk, name: bitmap0}}
  - qmp: {execute: blockdev-backup, arguments: {job-id: job0, device: drive0, target: t, sync: full}}
";
    let slips = [
        ("  - wait: jbo0\n", "no step makes a job `jbo0`", "did you mean `job0`?"),
        (
            "  - qmp: {execute: job-cancel, arguments: {id: jbo0}}\n",
            "no step makes a job `jbo0`",
            "did you mean `job0`?",
        ),
        ("  - hmp: qemu-io drive7 \"write 0 1M\"\n", "there is no node or drive `drive7`", "did you mean `drive0`?"),
        ("  - bitmap: {node: disk, name: bitmap7}\n", "no step adds a bitmap `bitmap7`", "did you mean `bitmap0`?"),
        (
            "  - qmp: {execute: transaction, arguments: {actions: [{type: block-dirty-bitmap-clear, data: {node: disk, name: nothing}}]}}\n",
            "no step adds a bitmap `nothing`",
            "`error:`",
        ),
        (
            "  - qmp: {execute: blockdev-backup, arguments: {job-id: j, device: drive0, target: tt, sync: full}}\n",
            "there is no node or drive `tt`",
            "did you mean `t`?",
        ),
    ];
    for (step, message, advice) in slips {
        let (code, out, err) = sim(folder(&[]).path(), &["check", "-"], &format!("about: x\n{DISK}{steps}{step}"));
        assert!(code == 2 && err.contains(message) && err.contains(advice), "{step} {code} {out}{err}");
        assert_eq!(err.matches("error: ").count(), 1, "{err}");
    }
    for step in [
        "  - wait: job0\n",
        "  - qmp: {execute: job-cancel, arguments: {id: jbo0}}\n    error: any\n",
        "  - hmp: qemu-io drive7 \"write 0 1M\"\n    fails: true\n",
        "  - bitmap: {node: disk, name: bitmap7, absent: true}\n",
        "  - hmp: qemu-io disk \"read 0 512\"\n",
    ] {
        let (code, out, err) = sim(folder(&[]).path(), &["check", "-"], &format!("about: x\n{DISK}{steps}{step}"));
        assert_eq!(code, 0, "{step} {out}{err}");
    }
}

/// So are files that nothing makes, whatever is done to them, and clients of the NBD server that speak before they connect.
#[test]
fn check_knows_files_and_nbd_clients() {
    let connect = "  - nbd: {client: a, connect: disk, replies: simple}\n";
    let serve = "  - nbd: {server: nbd.sock, file: disk.qcow2}\n";
    let nobody = "nothing makes the file `dsk.qcow2`";
    let near = "did you mean `disk.qcow2`?";
    let alone = "the NBD client `a` is not connected";
    let slips: [(String, &str, &str); 15] = [
        ("  - resize: {file: dsk.qcow2, size: 2M}\n".into(), nobody, near),
        ("  - check: {file: dsk.qcow2}\n".into(), nobody, near),
        ("  - bytes: {file: dsk.qcow2, at: 0, hex: '00'}\n".into(), nobody, near),
        ("  - host: {file: dsk.qcow2, size: 2M}\n".into(), nobody, near),
        ("  - host: {file: dsk.qcow2, fail: write, errno: EIO}\n".into(), nobody, near),
        ("  - qemu-img: bitmap --add dsk.qcow2 b\n".into(), nobody, near),
        ("  - qemu-img: commit -q dsk.qcow2\n".into(), nobody, near),
        ("  - qemu-img: rebase -u -b '' dsk.qcow2\n".into(), nobody, near),
        ("  - qemu-img: resize --shrink dsk.qcow2 -512k\n".into(), nobody, near),
        ("  - nbd: {server: nbd.sock, file: dsk.qcow2}\n".into(), nobody, near),
        (
            "  - nbd: {client: a, read: 0, length: 512}\n".into(),
            alone,
            "expected a client that a step before it connects",
        ),
        (format!("  - nbd: {{client: a, answer: ok}}\n{connect}"), alone, "(`connect:`)"),
        (format!("{connect}  - nbd: {{client: a, leave: gone}}\n  - nbd: {{client: a, stall: true}}\n"), alone, ""),
        (
            connect.replace("client: a", "client: reader") + "  - nbd: {client: raeder, flush: true}\n",
            "the NBD client `raeder` is not connected",
            "did you mean `reader`?",
        ),
        (
            format!("{serve}  - nbd: {{server: ndb.sock, state: killed}}\n"),
            "no server was started at `ndb.sock`",
            "did you mean `nbd.sock`?",
        ),
    ];
    for (steps, message, advice) in slips {
        let (code, out, err) = sim(folder(&[]).path(), &["check", "-"], &format!("about: x\n{DISK}steps:\n{steps}"));
        assert!(code == 2 && err.contains(message) && err.contains(advice), "{steps} {code} {out}{err}");
        assert_eq!(err.matches("error: ").count(), 1, "{err}");
    }
    let made = "  - text: {file: note.txt, content: x}\n";
    for steps in [
        "  - resize: {file: disk.qcow2, size: 2M}\n".to_owned(),
        format!("{made}  - bytes: {{file: note.txt, at: 0, hex: '00'}}\n"),
        "  - qemu-img: resize dsk.qcow2 2M\n    status: 1\n".to_owned(),
        "  - qemu-img: bitmap --add disk.qcow2 b\n".to_owned(),
        "  - host: {disk: none}\n".to_owned(),
        format!("{connect}  - nbd: {{client: a, read: 0, length: 512}}\n  - nbd: {{client: a, answer: ok}}\n"),
        format!("{connect}  - nbd: {{client: a, leave: disconnect}}\n{connect}  - nbd: {{client: a, flush: true}}\n"),
        format!("{serve}  - nbd: {{server: nbd.sock, state: killed}}\n"),
    ] {
        let (code, out, err) = sim(folder(&[]).path(), &["check", "-"], &format!("about: x\n{DISK}steps:\n{steps}"));
        assert_eq!(code, 0, "{steps} {out}{err}");
    }
}

/// The scenarios of this repository name what is there.
#[test]
fn the_scenarios_of_this_repository_pass_the_check() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (code, _, err) = sim(dir, &["check", "sim-scenarios"], "");
    assert_eq!(code, 0, "{err}");
}

#[test]
fn check_refuses_what_cannot_start() {
    let missing = "about: x\nargs: [-drive, 'if=none,id=d,file=missing.qcow2,format=qcow2']\nsteps: [{idle: true}]\n";
    let rule = "about: x\nfiles: [{create: {file: a.raw, format: raw, size: 1M}}]\nargs:\n  - -blockdev\n  - '{\"driver\": \"blkdebug\", \
                \"node-name\": \"n\", \"image\": {\"driver\": \"file\", \"filename\": \"a.raw\"}, \"set-state\": [{\"event\": \"l1_update\"}]}'\n\
                steps: [{idle: true}]\n";
    for (text, word) in [(missing, "missing.qcow2"), (rule, "new_state")] {
        let dir = folder(&[]);
        let (code, _, err) = sim(dir.path(), &["check", "-"], text);
        assert!(code == 2 && err.contains(word), "{code} {err}");
        let (code, _, err) = sim(dir.path(), &["run", "-"], text);
        assert!(code == 1 && err.contains(word), "{code} {err}");
    }
    let nobody = format!(
        "about: x\n{DISK}steps:\n  - qmp: {{execute: blockdev-add, arguments: {{driver: file, node-name: n, filename: dsk.qcow2}}}}\n"
    );
    let (code, _, err) = sim(folder(&[]).path(), &["check", "-"], &nobody);
    assert!(code == 2 && err.contains("did you mean `disk.qcow2`?"), "{code} {err}");
}
