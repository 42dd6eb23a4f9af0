//! The line that human-monitor-command carries: finding the command and splitting its arguments (`monitor/hmp.c`).

pub mod args;

use args::HmpArgs;

/// What QEMU answers to a line that it does not run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// The return value of human-monitor-command; its lines end in CR LF.
    pub reply: String,
    /// What is printed to the standard output of the process, with line ends.
    pub stdout: String,
}

/// A line of the human monitor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HmpLine {
    /// Nothing but blanks: the reply is empty.
    Blank,
    /// `qemu-io [-d] DEVICE "COMMAND"`
    QemuIo {
        /// `-d`: the device is a qdev ID, not a backend or node name.
        qdev: bool,
        /// The device; may be empty.
        device: String,
        /// The command line for qemu-io; may be empty.
        command: String,
    },
    /// Another command that the model has, by its full name (`info block`), with the words behind it.
    Other {
        /// Such as `info block`.
        name: &'static str,
        /// As its argument types say.
        args: HmpArgs,
    },
    /// An error, in QEMU's words.
    Refused(Refusal),
    /// A command (or item of `info`) that QEMU has and this model has not.
    NotSimulated(String),
}

/// Reads a line (`hmp.c:handle_hmp_command`).
#[must_use]
pub fn parse(line: &str) -> HmpLine {
    // To QEMU the line is a C string.
    let line = line.split('\0').next().unwrap_or_default().as_bytes();
    let start = skip_space(line, 0);
    if start == line.len() {
        return HmpLine::Blank;
    }
    let end = name_end(line, start);
    let Some(names) = find(&COMMANDS, &line[start..end]) else { return unknown(&line[..end]) };
    let name = names.split('|').next().unwrap_or_default();
    let args = skip_space(line, end);
    let (name, own, args) = if name == "info" && args < line.len() {
        let end = name_end(line, args);
        let Some(item) = find(&INFO, &line[args..end]) else { return unknown(&line[..end]) };
        (format!("info {item}"), item, skip_space(line, end))
    } else {
        (name.to_owned(), names, args)
    };
    let Some((name, spec)) = SIMULATED.into_iter().find(|(simulated, _)| *simulated == name) else {
        return HmpLine::NotSimulated(name);
    };
    match HmpArgs::read(own, spec, line, args) {
        Ok(args) if name == "qemu-io" => {
            let text = |key| args.text(key).unwrap_or_default().to_owned();
            HmpLine::QemuIo { qdev: args.on("qdev"), device: text("device"), command: text("command") }
        }
        Ok(args) => HmpLine::Other { name, args },
        Err(mut refusal) => {
            let mut shown = &line[..args];
            while let [before @ .., last] = shown
                && is_space(*last)
            {
                shown = before;
            }
            let shown = lossy(shown);
            refusal.reply += &format!("Try \"help {shown}\" for more information\r\n");
            HmpLine::Refused(refusal)
        }
    }
}

/// Commands that the model has, with what `args_type` says of their arguments.
const SIMULATED: [(&str, &str); 62] = [
    ("block_job_cancel", "force:-f,device:B"),
    ("block_job_complete", "device:B"),
    ("block_job_pause", "device:B"),
    ("block_job_resume", "device:B"),
    ("block_job_set_speed", "device:B,speed:o"),
    ("block_resize", "device:B,size:o"),
    ("block_stream", "device:B,speed:o?,base:s?"),
    ("block_set_io_throttle", "device:B,bps:l,bps_rd:l,bps_wr:l,iops:l,iops_rd:l,iops_wr:l"),
    ("change", "device:B,force:-f,target:F,arg:s?,read-only-mode:s?"),
    ("commit", "device:B"),
    ("cont", ""),
    ("device_add", "device:O"),
    ("device_del", "id:s"),
    ("drive_add", "node:-n,pci_addr:s,opts:s"),
    ("drive_backup", "reuse:-n,full:-f,compress:-c,device:B,target:s,format:s?"),
    ("drive_del", "id:B"),
    ("drive_mirror", "reuse:-n,full:-f,device:B,target:s,format:s?"),
    ("eject", "force:-f,device:B"),
    ("help", "name:S?"),
    ("info", ""),
    ("info balloon", ""),
    ("info block", "nodes:-n,verbose:-v,device:B?"),
    ("info block-jobs", ""),
    ("info blockstats", ""),
    ("info chardev", ""),
    ("info cpus", ""),
    ("info cryptodev", ""),
    ("info dirty_rate", ""),
    ("info dump", ""),
    ("info hotpluggable-cpus", ""),
    ("info iothreads", ""),
    ("info kvm", ""),
    ("info memdev", ""),
    ("info memory-devices", ""),
    ("info memory_size_summary", ""),
    ("info mice", ""),
    ("info migrate", ""),
    ("info migrate_capabilities", ""),
    ("info migrate_parameters", ""),
    ("info name", ""),
    ("info pci", ""),
    ("info replay", ""),
    ("info sev", ""),
    ("info spice", ""),
    ("info status", ""),
    ("info tpm", ""),
    ("info uuid", ""),
    ("info vcpu_dirty_limit", ""),
    ("info version", ""),
    ("info vm-generation-id", ""),
    ("info vnc", ""),
    ("nbd_server_add", "writable:-w,device:B,name:s?"),
    ("nbd_server_remove", "force:-f,name:s"),
    ("nbd_server_start", "all:-a,writable:-w,uri:s"),
    ("nbd_server_stop", ""),
    ("object_add", "object:S"),
    ("object_del", "id:s"),
    ("qemu-io", "qdev:-d,device:B,command:s"),
    ("quit", ""),
    ("snapshot_blkdev", "reuse:-n,device:B,snapshot-file:s?,format:s?"),
    ("stop", ""),
    ("system_reset", ""),
];

/// The reply for a command that failed with this message (`hmp.c:hmp_handle_error`).
#[must_use]
pub fn error_reply(message: &str) -> String {
    format!("Error: {message}\r\n")
}

/// The reply for a message that a command reported with `error_report`.
#[must_use]
pub fn report_reply(message: &str) -> String {
    format!("{message}\r\n")
}

/// The message for a qemu-io device that is neither a backend nor a node (`block.c:bdrv_lookup_bs`).
#[must_use]
pub fn no_such_node(device: &str) -> String {
    format!("Cannot find device='' nor node-name='{device}'")
}

/// The message for `qemu-io -d` with an unknown ID (`block-backend.c:blk_by_qdev_id`).
#[must_use]
pub fn no_such_qdev(device: &str) -> String {
    format!("Device '{device}' not found")
}

/// A word, bare or in double quotes, and where it ends (`hmp.c:get_str`). What goes beyond 1023 bytes is dropped.
/// The error is what QEMU prints to standard output.
pub(super) fn word(line: &[u8], at: usize) -> Result<(String, usize), String> {
    const MAX: usize = 1023;
    let mut at = skip_space(line, at);
    let mut word = Vec::new();
    match line.get(at) {
        None => return Err(String::new()),
        Some(b'"') => at += 1,
        Some(_) => {
            let n = line[at..].iter().take_while(|b| !is_space(**b)).count();
            return Ok((lossy(&line[at..at + n.min(MAX)]), at + n));
        }
    }
    loop {
        let byte = match line.get(at) {
            None => return Err("unterminated string\n".to_owned()),
            Some(b'"') => return Ok((lossy(&word), at + 1)),
            Some(b'\\') => {
                at += 1;
                match line.get(at) {
                    Some(b'n') => b'\n',
                    Some(b'r') => b'\r',
                    Some(b @ (b'\\' | b'\'' | b'"')) => *b,
                    // At the end of the line QEMU prints the NUL.
                    _ => {
                        let code = line.get(at..at + 1).map_or("\0".to_owned(), lossy);
                        return Err(format!("unsupported escape code: '\\{code}'\n"));
                    }
                }
            }
            Some(b) => *b,
        };
        if word.len() < MAX {
            word.push(byte);
        }
        at += 1;
    }
}

/// `isspace` of the C locale.
pub(super) fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t'..=b'\r')
}

pub(super) fn skip_space(line: &[u8], at: usize) -> usize {
    at + line[at..].iter().take_while(|b| is_space(**b)).count()
}

/// A command name ends at a blank or a slash (`hmp.c:get_command_name`).
fn name_end(line: &[u8], at: usize) -> usize {
    at + line[at..].iter().take_while(|b| !is_space(**b) && **b != b'/').count()
}

pub(super) fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// The command of that name, by all its names.
fn find(table: &[&'static str], name: &[u8]) -> Option<&'static str> {
    // Most have one name, and nearly all lines begin with one of those.
    let alone = table.iter().find(|names| names.as_bytes() == name);
    alone.or_else(|| table.iter().find(|names| names.split('|').any(|n| n.as_bytes() == name))).copied()
}

fn unknown(so_far: &[u8]) -> HmpLine {
    let reply = format!("unknown command: '{}'\r\n", lossy(so_far));
    HmpLine::Refused(Refusal { reply, stdout: String::new() })
}

/// The commands of the x86 binary, with their aliases (`hmp-commands.hx`).
#[rustfmt::skip]
const COMMANDS: [&str; 110] = [
    "announce_self", "balloon", "block_job_cancel", "block_job_complete", "block_job_pause", "block_job_resume",
    "block_job_set_speed", "block_resize", "block_set_io_throttle", "block_stream", "boot_set", "calc_dirty_rate",
    "cancel_vcpu_dirty_limit", "change", "chardev-add", "chardev-change", "chardev-remove", "chardev-send-break",
    "client_migrate_info", "closefd", "commit", "cont|c", "cpu", "delvm", "device_add", "device_del", "drive_add",
    "drive_backup", "drive_del", "drive_mirror", "dump-guest-memory", "dumpdtb", "eject", "exit_preconfig",
    "expire_password", "gdbserver", "getfd", "gpa2hpa", "gpa2hva", "gva2gpa", "help|?", "hostfwd_add",
    "hostfwd_remove", "i", "info", "loadvm", "log", "logfile", "mce", "memsave", "migrate", "migrate_cancel",
    "migrate_continue", "migrate_incoming", "migrate_pause", "migrate_recover", "migrate_set_capability",
    "migrate_set_parameter", "migrate_start_postcopy", "mouse_button", "mouse_move", "mouse_set", "nbd_server_add",
    "nbd_server_remove", "nbd_server_start", "nbd_server_stop", "netdev_add", "netdev_del", "nmi", "o", "object_add",
    "object_del", "one-insn-per-tb", "pcie_aer_inject_error", "pmemsave", "print|p", "qemu-io", "qom-get", "qom-list",
    "qom-set", "quit|q", "replay_break", "replay_delete_break", "replay_seek", "ringbuf_read", "ringbuf_write",
    "savevm", "screendump", "sendkey", "set_link", "set_password", "set_vcpu_dirty_limit", "snapshot_blkdev",
    "snapshot_blkdev_internal", "snapshot_delete_blkdev_internal", "stop|s", "stopcapture", "sum", "sync-profile",
    "system_powerdown", "system_reset", "system_wakeup", "trace-event", "watchdog_action", "wavcapture", "x",
    "x_colo_lost_heartbeat", "xen-event-inject", "xen-event-list", "xp",
];

/// The items of `info` (`hmp-commands-info.hx`), without the word `info`.
#[rustfmt::skip]
const INFO: [&str; 66] = [
    "balloon", "block", "block-jobs", "blockstats", "capture", "chardev", "cpus", "cryptodev", "dirty_rate", "dump",
    "history", "hotpluggable-cpus", "iothreads", "irq", "jit", "kvm", "lapic", "mem", "memdev", "memory-devices",
    "memory_size_summary", "mice", "migrate", "migrate_capabilities", "migrate_parameters", "mtree", "name", "network",
    "numa", "opcount", "pci", "pic", "qdm", "qom-tree", "qtree", "ramblock", "registers", "replay", "rocker",
    "rocker-of-dpa-flows", "rocker-of-dpa-groups", "rocker-ports", "roms", "sev", "sgx", "snapshots", "spice", "stats",
    "status", "sync-profile", "tlb", "tpm", "trace-events", "usb", "usbhost", "usernet", "uuid", "vcpu_dirty_limit",
    "version", "virtio", "virtio-queue-element", "virtio-queue-status", "virtio-status", "virtio-vhost-queue-status",
    "vm-generation-id", "vnc",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn qemu_io(qdev: bool, device: &str, command: &str) -> HmpLine {
        HmpLine::QemuIo { qdev, device: device.into(), command: command.into() }
    }

    fn refused(reply: &str, stdout: &str) -> HmpLine {
        HmpLine::Refused(Refusal { reply: reply.into(), stdout: stdout.into() })
    }

    #[test]
    fn qemu_io_lines_are_split() {
        assert_eq!(parse("qemu-io n0 \"write 0 64k\""), qemu_io(false, "n0", "write 0 64k"));
        assert_eq!(parse("\tqemu-io\td0\tlength "), qemu_io(false, "d0", "length"));
        assert_eq!(parse("qemu-io 'd0' read"), qemu_io(false, "'d0'", "read"));
        assert_eq!(parse("qemu-io \"d0\"length"), qemu_io(false, "d0", "length"));
        assert_eq!(parse("qemu-io/ x"), qemu_io(false, "/", "x"));
        assert_eq!(parse("qemu-io -dd0 length"), qemu_io(true, "d0", "length"));
        assert_eq!(parse("qemu-io -d -d length"), qemu_io(true, "-d", "length"));
        assert_eq!(parse("qemu-io d0 \"\""), qemu_io(false, "d0", ""));
        assert_eq!(parse(r#"qemu-io d0 "a\n\r\\\'\"b""#), qemu_io(false, "d0", "a\n\r\\'\"b"));
        assert_eq!(parse("qemu-io d0 x\0junk"), qemu_io(false, "d0", "x"));
        let long = "x".repeat(2000);
        assert_eq!(parse(&format!("qemu-io d0 {long}")), qemu_io(false, "d0", &long[..1023]));
        assert_eq!(parse(&format!("qemu-io d0 \"{long}\"")), qemu_io(false, "d0", &long[..1023]));
    }

    #[test]
    fn complaints_are_qemu_s() {
        const HELP: &str = "Try \"help qemu-io\" for more information\r\n";
        for (line, reply, stdout) in [
            ("qemu-io", "qemu-io: block device name expected\r\n", ""),
            ("qemu-io d0", "qemu-io: string expected\r\n", ""),
            ("qemu-io \"\"", "qemu-io: string expected\r\n", ""),
            ("qemu-io d0 \"read 0 512\" x", "qemu-io: extraneous characters at the end of line\r\n", ""),
            ("qemu-io -x nope map", "qemu-io: unsupported option -x\r\n", ""),
            ("qemu-io - d0 length", "qemu-io: unsupported option - \r\n", ""),
            ("qemu-io -", "qemu-io: unsupported option -", ""),
            ("qemu-io d0 \"map", "qemu-io: string expected\r\n", "unterminated string\n"),
            ("qemu-io \"d0", "qemu-io: block device name expected\r\n", "unterminated string\n"),
            ("qemu-io d0 \"map\\q\"", "qemu-io: string expected\r\n", "unsupported escape code: '\\q'\n"),
            ("qemu-io d0 \"abc\\", "qemu-io: string expected\r\n", "unsupported escape code: '\\\0'\n"),
        ] {
            assert_eq!(parse(line), refused(&format!("{reply}{HELP}"), stdout), "{line}");
        }
    }

    #[test]
    fn the_hint_shows_the_line_up_to_the_arguments() {
        let reply = "qemu-io: string expected\r\nTry \"help   qemu-io\" for more information\r\n";
        assert_eq!(parse("  qemu-io   d0"), refused(reply, ""));
    }

    #[test]
    fn commands_are_found_by_all_their_names() {
        assert_eq!(parse(""), HmpLine::Blank);
        assert_eq!(parse("   "), HmpLine::Blank);
        assert_eq!(parse("foo"), refused("unknown command: 'foo'\r\n", ""));
        assert_eq!(parse("  foo bar"), refused("unknown command: '  foo'\r\n", ""));
        assert_eq!(parse("qemu-io-foo x"), refused("unknown command: 'qemu-io-foo'\r\n", ""));
        assert_eq!(parse("info foo bar"), refused("unknown command: 'info foo'\r\n", ""));
        assert_eq!(parse("q"), HmpLine::Other { name: "quit", args: HmpArgs::default() });
        let HmpLine::Other { name: "info block", args } = parse(" info  block  a ") else { panic!("it is simulated") };
        assert_eq!((args.text("device"), args.on("verbose")), (Some("a"), false));
        assert_eq!(parse("info qtree"), HmpLine::NotSimulated("info qtree".into()));
        assert_eq!(parse("info"), HmpLine::Other { name: "info", args: HmpArgs::default() });
        assert_eq!(error_reply(&no_such_node("nope")), "Error: Cannot find device='' nor node-name='nope'\r\n");
        assert_eq!(error_reply(&no_such_qdev("nope")), "Error: Device 'nope' not found\r\n");
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in "(qemu-io )?([-d\"\\\\ a/\0]|\\PC){0,20}") {
            let _ = parse(&line);
        }
    }
}
