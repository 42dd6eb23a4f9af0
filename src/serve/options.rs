//! QEMU's options by name: whether they take an argument, and what is made of them here (`qemu-options.hx`).

/// What an option means to the served process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionMeaning {
    /// It is carried out.
    Done,
    /// It has to do with parts of a machine that are not there: accepted, without effect.
    Accepted,
    /// It would change what is simulated, and can't.
    Lacking,
}

/// One that QEMU 10.0.2 knows.
#[derive(Clone, Copy, Debug)]
pub struct KnownOption {
    /// Its name, without `-`.
    pub name: &'static str,
    /// It is followed by an argument.
    pub argument: bool,
    /// What it means.
    pub meaning: OptionMeaning,
}

/// Options with an argument that are carried out.
const DONE_WITH: [&str; 31] = [
    "M",
    "accel",
    "add-fd",
    "blockdev",
    "cdrom",
    "chardev",
    "cpu",
    "device",
    "display",
    "drive",
    "hda",
    "hdb",
    "hdc",
    "hdd",
    "m",
    "machine",
    "mon",
    "monitor",
    "name",
    "object",
    "parallel",
    "pidfile",
    "qmp",
    "qmp-pretty",
    "qtest",
    "qtest-log",
    "serial",
    "smp",
    "spice",
    "uuid",
    "vnc",
];
/// Options without one that are.
const DONE: [&str; 9] =
    ["S", "daemonize", "enable-kvm", "h", "help", "nodefaults", "nographic", "no-user-config", "version"];
/// Options with an argument and without effect.
const ACCEPTED_WITH: [&str; 51] = [
    "D",
    "L",
    "acpitable",
    "action",
    "append",
    "audio",
    "audiodev",
    "bios",
    "boot",
    "compat",
    "d",
    "debugcon",
    "dfilter",
    "dtb",
    "echr",
    "fsdev",
    "fw_cfg",
    "g",
    "global",
    "icount",
    "initrd",
    "iscsi",
    "k",
    "kernel",
    "mem-path",
    "msg",
    "net",
    "netdev",
    "nic",
    "numa",
    "option-rom",
    "overcommit",
    "plugin",
    "prom-env",
    "rtc",
    "sandbox",
    "seed",
    "semihosting-config",
    "set",
    "shim",
    "smbios",
    "tb-size",
    "trace",
    "usbdevice",
    "vga",
    "virtfs",
    "watchdog",
    "watchdog-action",
    "xen-domid",
    "async-teardown",
    "tpmdev",
];
/// Options without an argument and without effect.
const ACCEPTED: [&str; 13] = [
    "enable-sync-profile",
    "full-screen",
    "jitdump",
    "mem-prealloc",
    "no-fd-bootchk",
    "no-reboot",
    "no-shutdown",
    "only-migratable",
    "perfmap",
    "usb",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
];
/// Options with an argument that are refused.
const LACKING_WITH: [&str; 11] =
    ["dump-vmstate", "fda", "fdb", "gdb", "incoming", "loadvm", "mtdblock", "pflash", "readconfig", "run-with", "sd"];
/// Options without one that are refused.
const LACKING: [&str; 3] = ["preconfig", "s", "snapshot"];

/// The option of that name.
#[must_use]
pub fn find(name: &str) -> Option<KnownOption> {
    let groups: [(&[&'static str], bool, OptionMeaning); 6] = [
        (&DONE_WITH, true, OptionMeaning::Done),
        (&DONE, false, OptionMeaning::Done),
        (&ACCEPTED_WITH, true, OptionMeaning::Accepted),
        (&ACCEPTED, false, OptionMeaning::Accepted),
        (&LACKING_WITH, true, OptionMeaning::Lacking),
        (&LACKING, false, OptionMeaning::Lacking),
    ];
    groups.into_iter().find_map(|(names, argument, meaning)| {
        let name = names.iter().find(|known| **known == name)?;
        Some(KnownOption { name, argument, meaning })
    })
}
