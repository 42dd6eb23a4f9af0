use super::*;
use crate::scenario::load;

fn plan(steps: &str, args: &str, files: &str) -> Plan {
    let text = format!("about: x\nfiles: [{files}]\nargs: [{args}]\nsteps:\n  - {steps}\n");
    load("s.yaml", &mut |_| Ok(text.clone())).expect("it is a scenario").expect("with steps")
}

fn step(text: &str) -> Result<(), Trouble> {
    check(&plan(text, "", ""))
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("'{}'", word.replace('\'', "''"))).collect::<Vec<_>>().join(", ")
}

#[test]
fn commands_that_reach_out_are_refused() {
    for arguments in [
        "migrate, arguments: {uri: 'exec:touch x'}",
        "chardev-add, arguments: {id: c}",
        "screendump, arguments: {filename: x}",
        "dump-guest-memory, arguments: {paging: false, protocol: 'file:x'}",
        "pmemsave, arguments: {val: 0, size: 1, filename: x}",
        "netdev_add, arguments: {type: tap, id: t, script: x}",
        "object-add, arguments: {qom-type: secret, id: s, file: x}",
        "object-add, arguments: {qom-type: memory-backend-file, id: s, mem-path: x}",
        "nbd-server-start, arguments: {addr: {type: unix, data: {path: /x}}}",
        "nbd-server-start, arguments: {addr: {type: inet, data: {host: 0.0.0.0, port: '10809'}}}",
        "qom-set, arguments: {path: /machine, property: x, value: 1}",
        "blockdev-add, arguments: {driver: file, node-name: n, filename: /etc/passwd}",
        "blockdev-add, arguments: {driver: raw, node-name: n, file: {driver: file, filename: ../x}}",
        "blockdev-add, arguments: {driver: nbd, node-name: n, path: ../x}",
        "blockdev-add, arguments: {driver: nbd, node-name: n, host: h, port: '10809'}",
        "blockdev-add, arguments: {driver: nbd, node-name: n, server: {type: inet, host: 127.0.0.1, port: '10809'}}",
        "blockdev-add, arguments: {driver: nbd, node-name: n, server: {type: unix, path: /x}}",
        "blockdev-add, arguments: {driver: nbd, node-name: n, server: {type: unix, path: x, abstract: true}}",
        "blockdev-add, arguments: {driver: nbd, node-name: n, server: {type: vsock, cid: '2', port: '1'}}",
        "blockdev-add, arguments: {driver: host_device, node-name: n, filename: x}",
        "blockdev-add, arguments: {driver: blkdebug, node-name: n, config: /x, image: {driver: null-co}}",
        "blockdev-add, arguments: {driver: qcow2, node-name: n, file: f, data-file: {driver: file, filename: /x}}",
        "blockdev-add, arguments: {driver: qcow2, node-name: n, file: f, backing: {driver: raw, file.driver: ssh}}",
        "blockdev-reopen, arguments: {options: [{driver: raw, node-name: n, file: {driver: file, filename: a/../../b}}]}",
        "blockdev-create, arguments: {job-id: j, options: {driver: file, filename: /x, size: 1}}",
        "drive-backup, arguments: {device: d, target: 'nbd://h/x', sync: full}",
        "drive-backup, arguments: {device: d, target: 'json:{\"driver\":\"file\",\"filename\":\"/x\"}', sync: full}",
        "drive-backup, arguments: {device: d, target: 'json:{''driver'':''ssh''}', sync: full}",
        "drive-backup, arguments: {device: d, target: 'blkdebug:/x:y', sync: full}",
        "drive-backup, arguments: {device: d, target: 'blkdebug::/y', sync: full}",
        "drive-backup, arguments: {device: d, target: 'file:/y', sync: full}",
        "drive-backup, arguments: {device: d, target: x, format: vmdk, sync: full}",
        "blockdev-snapshot-sync, arguments: {device: d, snapshot-file: /x}",
        "change-backing-file, arguments: {device: d, image-node-name: n, backing-file: /etc/shadow}",
        "transaction, arguments: {actions: [{type: drive-backup, data: {device: d, target: /x, sync: full}}]}",
        "human-monitor-command, arguments: {command-line: 'migrate exec:x'}",
        "device_add, arguments: {driver: vfio-pci, host: x}",
        "device_add, arguments: {driver: virtio-blk-pci, romfile: /x}",
    ] {
        assert!(step(&format!("qmp: {{execute: {arguments}}}")).is_err(), "{arguments}");
    }
    assert!(step("qmp: {exec-oob: migrate-recover, arguments: {uri: x}}\n    error: {}").is_err());
}

#[test]
fn lines_that_reach_out_are_refused() {
    for line in [
        "migrate exec:x",
        "screendump x",
        "logfile x",
        "chardev-add file,id=x,path=y",
        "qemu-io d \"write -s /etc/passwd 0 512\"",
        "qemu-io d \"write -s../x 0 512\"",
        "qemu-io d \"open /etc/passwd\"",
        "qemu-io -d d \"sigraise 9\"",
        "drive_backup d /x",
        "drive_backup -n d x vmdk",
        "change d ../x",
        "change d nbd:x:1",
        "change d \"id=/../../x\"",
        "snapshot_blkdev d \"/x\"",
        "drive_add 0 if=none,file=/x",
        "drive_add 0 if=none,file=x,snapshot=on",
        "object_add secret,id=x,file=y",
        "device_add vfio-pci,host=x",
        "savevm x",
        "memsave 0 1 x",
    ] {
        assert!(step(&format!("hmp: {}", quoted(&[line]))).is_err(), "{line}");
    }
}

#[test]
fn options_that_reach_out_are_refused() {
    for words in [
        &["-daemonize"][..],
        &["-chardev", "file,id=x,path=y"],
        &["-D", "x"],
        &["x.img"],
        &["-qmp", "tcp::1,server"],
        &["-incoming", "exec:x"],
        &["-object", "secret,id=x,file=y"],
        &["-object", r#"{"qom-type": "secret", "id": "x", "file": "y"}"#],
        &["-display", "vnc=:1"],
        &["-drive", "file=/x,if=none"],
        &["-drive", "if=none,file=a,,b/../../x"],
        &["-drive", "if=none,file.driver=host_device,file.filename=x"],
        &["-drive", "if=none,file=fat:rw:x"],
        &["-drive", "if=none,file=x,snapshot=on"],
        &["-blockdev", r#"{"driver": "file", "node-name": "n", "filename": "/x"}"#],
        &["-blockdev", "driver=qcow2,node-name=n,file.driver=file,file.filename=../x"],
        &["-device", "vfio-pci,host=x"],
        &["-device", "virtio-blk-pci,romfile=/x"],
        &["-machine", "pc,dumpdtb=/x"],
    ] {
        assert!(check(&plan("no-jobs: true", &quoted(words), "")).is_err(), "{words:?}");
    }
}

#[test]
fn files_stay_inside() {
    for file in [
        "text: {file: /x, content: a}",
        "text: {file: a/../../x, content: a}",
        "create: {file: ../x, format: raw, size: 1M}",
        "create: {file: x, format: qcow2, backing: {file: /etc/shadow, format: raw}}",
        "create: {file: x, format: qcow2, size: 1M, backing: {file: 'nbd://h', format: raw}}",
        "write: {file: /x, format: raw, pattern: 1, offset: 0, length: 1}",
    ] {
        assert!(check(&plan("no-jobs: true", "", file)).is_err(), "{file}");
        assert!(step(file).is_err(), "as a step: {file}");
    }
}

/// An image with a name in its header, as it could come as bytes, or from a guest.
fn image(data_file: bool, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    let length = u32::try_from(name.len()).unwrap().to_be_bytes();
    if data_file {
        bytes[104..108].copy_from_slice(&0x4441_5441u32.to_be_bytes());
        bytes[108..112].copy_from_slice(&length);
        bytes[112..112 + name.len()].copy_from_slice(name.as_bytes());
    } else {
        bytes[8..16].copy_from_slice(&1024u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&length);
        bytes[1024..1024 + name.len()].copy_from_slice(name.as_bytes());
    }
    bytes
}

#[test]
fn names_in_images_stay_inside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sub/a.qcow2");
    fs::create_dir(dir.path().join("sub")).unwrap();
    for data_file in [false, true] {
        for (name, inside) in [
            ("b.raw", true),
            ("json:{\"driver\": \"null-co\"}", true),
            ("/etc/shadow", false),
            ("../b.raw", false),
            ("nbd://h/x", false),
            ("json:{\"driver\": \"file\", \"filename\": \"/x\"}", false),
        ] {
            fs::write(&path, image(data_file, name)).unwrap();
            assert_eq!(images(dir.path()).is_ok(), inside, "{name}");
        }
    }
    for other in ["# Disk DescriptorFile\nversion=1\nRW 1 FLAT \"/x\" 0", "QED\0", "KDMV"] {
        fs::write(&path, other).unwrap();
        assert!(images(dir.path()).is_err(), "{other}");
    }
}

/// All of our own scenarios may be carried out as they are, but for those that name hosts, directories and devices to see
/// them refused.
#[test]
fn our_scenarios_are_allowed() {
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("sim-scenarios")];
    let (mut refused, mut seen) = (Vec::new(), 0);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let read = |name: &str| fs::read_to_string(name).map_err(|error| error.to_string());
        let Ok(Some(plan)) = load(&path.to_string_lossy(), &mut { read }) else { continue };
        seen += 1;
        const REACH_OUT: [&str; 7] = [
            "error/protocols-in-names.yaml",
            "reopen/under-a-stream.yaml",
            "reported/gl1139-nbd-target.yaml",
            "reported/gl1139-cmdline-0.yaml",
            "reported/gl1139-cmdline-1.yaml",
            "reported/gl1139-protocols.yaml",
            "reported/cmdl-53.yaml",
        ];
        if REACH_OUT.iter().any(|name| path.ends_with(name)) {
            assert!(check(&plan).is_err());
            continue;
        }
        if let Err(trouble) = check(&plan) {
            refused.push(trouble.0);
        }
    }
    assert!(seen > 400, "{seen}");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
