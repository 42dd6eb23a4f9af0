//! The names of all commands QEMU 10.0.2 has (`query-commands`; machine `none` and `pc` give the same list).

use crate::version::Version;

/// Every command name, sorted.
pub const COMMANDS: [&str; 233] = [
    "add-fd",
    "add_client",
    "announce-self",
    "balloon",
    "block-commit",
    "block-dirty-bitmap-add",
    "block-dirty-bitmap-clear",
    "block-dirty-bitmap-disable",
    "block-dirty-bitmap-enable",
    "block-dirty-bitmap-merge",
    "block-dirty-bitmap-remove",
    "block-export-add",
    "block-export-del",
    "block-job-cancel",
    "block-job-change",
    "block-job-complete",
    "block-job-dismiss",
    "block-job-finalize",
    "block-job-pause",
    "block-job-resume",
    "block-job-set-speed",
    "block-latency-histogram-set",
    "block-set-write-threshold",
    "block-stream",
    "block_resize",
    "block_set_io_throttle",
    "blockdev-add",
    "blockdev-backup",
    "blockdev-change-medium",
    "blockdev-close-tray",
    "blockdev-create",
    "blockdev-del",
    "blockdev-insert-medium",
    "blockdev-mirror",
    "blockdev-open-tray",
    "blockdev-remove-medium",
    "blockdev-reopen",
    "blockdev-set-active",
    "blockdev-snapshot",
    "blockdev-snapshot-delete-internal-sync",
    "blockdev-snapshot-internal-sync",
    "blockdev-snapshot-sync",
    "calc-dirty-rate",
    "cancel-vcpu-dirty-limit",
    "change-backing-file",
    "change-vnc-password",
    "chardev-add",
    "chardev-change",
    "chardev-remove",
    "chardev-send-break",
    "client_migrate_info",
    "closefd",
    "cont",
    "cxl-add-dynamic-capacity",
    "cxl-inject-correctable-error",
    "cxl-inject-dram-event",
    "cxl-inject-general-media-event",
    "cxl-inject-memory-module-event",
    "cxl-inject-poison",
    "cxl-inject-uncorrectable-errors",
    "cxl-release-dynamic-capacity",
    "device-list-properties",
    "device-sync-config",
    "device_add",
    "device_del",
    "display-reload",
    "display-update",
    "drive-backup",
    "drive-mirror",
    "dump-guest-memory",
    "dumpdtb",
    "eject",
    "expire_password",
    "getfd",
    "human-monitor-command",
    "inject-nmi",
    "input-send-event",
    "job-cancel",
    "job-complete",
    "job-dismiss",
    "job-finalize",
    "job-pause",
    "job-resume",
    "memsave",
    "migrate",
    "migrate-continue",
    "migrate-incoming",
    "migrate-pause",
    "migrate-recover",
    "migrate-set-capabilities",
    "migrate-set-parameters",
    "migrate-start-postcopy",
    "migrate_cancel",
    "nbd-server-add",
    "nbd-server-remove",
    "nbd-server-start",
    "nbd-server-stop",
    "netdev_add",
    "netdev_del",
    "object-add",
    "object-del",
    "pmemsave",
    "qmp_capabilities",
    "qom-get",
    "qom-list",
    "qom-list-properties",
    "qom-list-types",
    "qom-set",
    "query-acpi-ospm-status",
    "query-audiodevs",
    "query-balloon",
    "query-block",
    "query-block-exports",
    "query-block-jobs",
    "query-blockstats",
    "query-chardev",
    "query-chardev-backends",
    "query-colo-status",
    "query-command-line-options",
    "query-commands",
    "query-cpu-definitions",
    "query-cpu-model-expansion",
    "query-cpus-fast",
    "query-cryptodev",
    "query-current-machine",
    "query-dirty-rate",
    "query-display-options",
    "query-dump",
    "query-dump-guest-memory-capability",
    "query-fdsets",
    "query-hotpluggable-cpus",
    "query-hv-balloon-status-report",
    "query-iothreads",
    "query-jobs",
    "query-kvm",
    "query-machines",
    "query-memdev",
    "query-memory-devices",
    "query-memory-size-summary",
    "query-mice",
    "query-migrate",
    "query-migrate-capabilities",
    "query-migrate-parameters",
    "query-migrationthreads",
    "query-name",
    "query-named-block-nodes",
    "query-pci",
    "query-pr-managers",
    "query-qmp-schema",
    "query-replay",
    "query-rocker",
    "query-rocker-of-dpa-flows",
    "query-rocker-of-dpa-groups",
    "query-rocker-ports",
    "query-rx-filter",
    "query-sev",
    "query-sev-attestation-report",
    "query-sev-capabilities",
    "query-sev-launch-measure",
    "query-sgx",
    "query-sgx-capabilities",
    "query-spice",
    "query-stats",
    "query-stats-schemas",
    "query-status",
    "query-target",
    "query-tpm",
    "query-tpm-models",
    "query-tpm-types",
    "query-uuid",
    "query-vcpu-dirty-limit",
    "query-version",
    "query-vm-generation-id",
    "query-vnc",
    "query-vnc-servers",
    "query-xen-replication-status",
    "query-yank",
    "quit",
    "remove-fd",
    "replay-break",
    "replay-delete-break",
    "replay-seek",
    "request-ebpf",
    "ringbuf-read",
    "ringbuf-write",
    "rtc-reset-reinjection",
    "screendump",
    "send-key",
    "set-action",
    "set-numa-node",
    "set-vcpu-dirty-limit",
    "set_link",
    "set_password",
    "sev-inject-launch-secret",
    "snapshot-delete",
    "snapshot-load",
    "snapshot-save",
    "stop",
    "system_powerdown",
    "system_reset",
    "system_wakeup",
    "trace-event-get-state",
    "trace-event-set-state",
    "transaction",
    "watchdog-set-action",
    "x-blockdev-amend",
    "x-blockdev-change",
    "x-blockdev-set-iothread",
    "x-colo-lost-heartbeat",
    "x-debug-block-dirty-bitmap-sha256",
    "x-debug-query-block-graph",
    "x-exit-preconfig",
    "x-query-interrupt-controllers",
    "x-query-irq",
    "x-query-jit",
    "x-query-numa",
    "x-query-opcount",
    "x-query-ramblock",
    "x-query-roms",
    "x-query-usb",
    "x-query-virtio",
    "x-query-virtio-queue-element",
    "x-query-virtio-queue-status",
    "x-query-virtio-status",
    "x-query-virtio-vhost-queue-status",
    "xen-colo-do-checkpoint",
    "xen-event-inject",
    "xen-event-list",
    "xen-load-devices-state",
    "xen-save-devices-state",
    "xen-set-global-dirty-log",
    "xen-set-replication",
    "yank",
];

/// The commands that may be run out of band (`allow-oob` in the schema).
pub const OOB_COMMANDS: [&str; 4] = ["migrate-pause", "migrate-recover", "query-yank", "yank"];

/// The commands that run in the dispatcher's coroutine (`coroutine` in the schema); all others get a bottom half.
pub const COROUTINE_COMMANDS: [&str; 2] = ["block_resize", "screendump"];

/// QEMU's own copy of a command name, if it has such a command.
#[must_use]
pub fn find_command(name: &str, version: Version) -> Option<&'static str> {
    let known = COMMANDS.binary_search(&name).ok().map(|i| COMMANDS[i]);
    let other = || not_always(name).map(|(other, ..)| *other);
    known.or_else(other).filter(|name| is_there(name, version))
}

/// What there is to say of a command that not all versions have.
fn not_always(name: &str) -> Option<&'static (&'static str, Release, Release)> {
    NOT_ALWAYS.binary_search_by_key(&name, |(other, ..)| other).ok().map(|i| &NOT_ALWAYS[i])
}

/// Whether a version has one of these commands.
fn is_there(name: &str, version: Version) -> bool {
    let (major, minor, _) = version.numbers();
    let within = |(_, since, until): &&(&str, Release, Release)| *since <= (major, minor) && (major, minor) < *until;
    not_always(name).is_none_or(|row| within(&row))
}

/// The commands of a version, sorted.
pub fn commands(version: Version) -> Vec<&'static str> {
    let others = NOT_ALWAYS.iter().map(|(name, ..)| *name).filter(|name| COMMANDS.binary_search(name).is_err());
    let mut all: Vec<&str> = COMMANDS.iter().copied().chain(others).filter(|name| is_there(name, version)).collect();
    all.sort_unstable();
    all
}

/// Major and minor.
type Release = (u8, u8);

/// Before, and after all of them.
const EVER: Release = (0, 0);
const NEVER: Release = (99, 0);

/// Commands that not all versions have: the release in which it came, as the schema says it, and the one in which it went. Of what came
/// or went after 10.0 the release that was measured is given.
const NOT_ALWAYS: &[(&str, Release, Release)] = &[
    ("block-job-change", (8, 2), NEVER),
    ("blockdev-set-active", (10, 0), NEVER),
    ("cxl-add-dynamic-capacity", (9, 1), NEVER),
    ("cxl-inject-correctable-error", (8, 0), NEVER),
    ("cxl-inject-dram-event", (8, 1), NEVER),
    ("cxl-inject-general-media-event", (8, 1), NEVER),
    ("cxl-inject-memory-module-event", (8, 1), NEVER),
    ("cxl-inject-poison", (8, 1), NEVER),
    ("cxl-inject-uncorrectable-errors", (8, 0), NEVER),
    ("cxl-release-dynamic-capacity", (9, 1), NEVER),
    ("device-sync-config", (9, 2), NEVER),
    ("dump-skeys", (11, 1), NEVER),
    ("inject-ghes-v2-error", (11, 1), NEVER),
    ("qom-list-get", (11, 1), NEVER),
    ("query-accelerators", (11, 1), NEVER),
    ("query-audiodevs", (8, 0), NEVER),
    ("query-cpu-model-baseline", (11, 1), NEVER),
    ("query-cpu-model-comparison", (11, 1), NEVER),
    ("query-cryptodev", (8, 0), NEVER),
    ("query-firmware-log", (11, 1), NEVER),
    ("query-gic-capabilities", (11, 1), NEVER),
    ("query-hv-balloon-status-report", (8, 2), NEVER),
    // The schema says 7.2, where a real one does not have it.
    ("query-migrationthreads", (8, 0), (11, 1)),
    ("query-s390x-cpu-polarization", (11, 1), NEVER),
    ("request-ebpf", (9, 0), NEVER),
    ("set-cpu-topology", (11, 1), NEVER),
    ("x-accel-stats", (11, 1), NEVER),
    ("x-query-interrupt-controllers", (9, 1), NEVER),
    ("x-query-opcount", EVER, (11, 1)),
    // With TCG's profiler, and with the RDMA device.
    ("x-query-profile", EVER, (8, 1)),
    ("x-query-rdma", EVER, (9, 1)),
    ("xen-event-inject", (8, 0), NEVER),
    ("xen-event-list", (8, 0), NEVER),
];

/// As `-device help` lists the models.
pub const DEVICES: &str = include_str!("devices.txt");

/// Whether QEMU has a device model of that name or alias.
#[must_use]
pub fn is_device_model(name: &str) -> bool {
    let quoted = format!("name \"{name}\"");
    let alias = format!("alias \"{name}\"");
    DEVICES.lines().any(|line| line.starts_with(&quoted) || line.contains(&alias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_and_of_one_mind() {
        assert!(COMMANDS.is_sorted());
        assert!(NOT_ALWAYS.is_sorted());
        assert_eq!(commands(Version::V10_0), COMMANDS);
    }

    /// How many each had, as it said itself (`query-commands`), and one that only it has or lacks.
    #[test]
    fn commands_of_versions() {
        for (version, count, has, lacks) in [
            (Version::V7_2, 216, "x-query-profile", "block-job-change"),
            (Version::V10_0, 233, "block-job-change", "x-query-profile"),
            (Version::V11_1, 242, "qom-list-get", "query-migrationthreads"),
        ] {
            assert_eq!(commands(version).len(), count, "{version}");
            assert_eq!(find_command(has, version), Some(has));
            assert_eq!(find_command(lacks, version), None);
        }
    }
}
