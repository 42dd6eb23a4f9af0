//! Commands that have to do with the machine and not with its disks, and their arguments (qapi/qom.json, machine.json, misc.json,
//! migration.json).

use super::super::recorded::{ANSWERED, Expansion};
use crate::base::Json;
use crate::qmp::declare::{commands, enums, members};
use crate::qmp::visit::{QapiEnum, ValueAt, Visit, Visitor};
use std::sync::Arc;

commands! {
    /// A command that has to do with the machine.
    #[allow(missing_docs, reason = "fields are the arguments of the same names")]
    pub enum MachineCommand {
        "query-command-line-options" => QueryCommandLineOptions { option: Option<Arc<str>> },
        "qom-list-types" => QomListTypes { implements: Option<Arc<str>>, is_abstract as "abstract": Option<bool> },
        "device-list-properties" => DeviceListProperties { typename: Arc<str> },
        "qom-list-properties" => QomListProperties { typename: Arc<str> },
        "qom-list" => QomList { path: Arc<str> },
        "qom-get" => QomGet { path: Arc<str>, property: Arc<str> },
        "qom-set" => QomSet { path: Arc<str>, property: Arc<str>, value: Json },
        "query-cpu-model-expansion" => QueryCpuModelExpansion { expansion as "type": Expansion, model: CpuModelInfo },
        /// `value` is in bytes.
        "balloon" => Balloon { value: i64 },
        "migrate-set-capabilities" => MigrateSetCapabilities { capabilities: Vec<MigrationCapabilityStatus> },
        "query-rx-filter" => QueryRxFilter { name: Option<Arc<str>> },
        "set-action" => SetAction(SetAction),
        /// How long a measurement would have taken; nothing was measured.
        "query-dirty-rate" => QueryDirtyRate { calc_time_unit: Option<TimeUnit> },
        by hand:
        /// Answered as recorded, whatever the machine.
        Recorded(&'static str),
        /// A query without arguments, or another command without any, by its name.
        Plain(&'static str),
        /// Its arguments are the parameters.
        MigrateSetParameters(Json),
    }
}

members! {
    /// A model of processors (`CpuModelInfo`).
    pub struct CpuModelInfo {
        /// Such as `qemu64` or `max`.
        name: Arc<str>,
        /// Properties that differ from those of the model; any value, QEMU looks at it later.
        props: Option<Json>,
    }

    /// A capability of migration, on or off (`MigrationCapabilityStatus`).
    pub struct MigrationCapabilityStatus {
        /// One of [`CAPABILITIES`].
        capability: Arc<str> [with one_of_the_capabilities],
        /// Whether it is on.
        state: bool,
    }

    /// What happens to a machine that ends (`set-action`).
    #[derive(Copy)]
    pub struct SetAction {
        /// When its guest reboots.
        reboot: Option<RebootAction>,
        /// When its guest shuts down.
        shutdown: Option<ShutdownAction>,
        /// When its guest panics.
        panic: Option<PanicAction>,
        /// When its watchdog strikes.
        watchdog: Option<WatchdogAction>,
    }
}

/// Commands without arguments whose answer depends on the machine.
const PLAIN: [&str; 17] = [
    "query-balloon",
    "query-chardev",
    "query-cpus-fast",
    "query-current-machine",
    "query-display-options",
    "query-hotpluggable-cpus",
    "query-iothreads",
    "query-kvm",
    "query-memdev",
    "query-memory-devices",
    "query-memory-size-summary",
    "query-mice",
    "query-migrate-capabilities",
    "query-migrate-parameters",
    "query-pci",
    "query-uuid",
    "system_powerdown",
];
/// More of them: displays.
const DISPLAYS: [&str; 2] = ["query-spice", "query-vnc"];

impl QapiEnum for Expansion {
    const TABLE: &'static [(Expansion, &'static str)] = &[(Expansion::Static, "static"), (Expansion::Full, "full")];
}

enums! {
    /// `TimeUnit`
    pub enum TimeUnit {
        Second = "second",
        Millisecond = "millisecond",
    }
    /// `RebootAction`
    pub enum RebootAction {
        Reset = "reset",
        Shutdown = "shutdown",
    }
    /// `ShutdownAction`
    pub enum ShutdownAction {
        Poweroff = "poweroff",
        Pause = "pause",
    }
    /// `PanicAction`
    pub enum PanicAction {
        Pause = "pause",
        Shutdown = "shutdown",
        ExitFailure = "exit-failure",
        None = "none",
    }
    /// `WatchdogAction`
    pub enum WatchdogAction {
        Reset = "reset",
        Shutdown = "shutdown",
        Poweroff = "poweroff",
        Pause = "pause",
        Debug = "debug",
        None = "none",
        InjectNmi = "inject-nmi",
    }
}

impl MachineCommand {
    /// Reads the command of that name, if it is one of these.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(name: &'static str, v: &mut Visitor<'_>) -> Visit<Option<MachineCommand>> {
        use MachineCommand as M;
        if let Some(command) = declared(name, v)? {
            return Ok(Some(command));
        }
        if ANSWERED.contains(&name) {
            return Ok(Some(M::Recorded(name)));
        }
        if name == "query-machines" {
            let all = v.opt_bool("compat-props")?.unwrap_or(false);
            return Ok(Some(M::Recorded(if all { "query-machines compat-props" } else { name })));
        }
        if PLAIN.contains(&name) || DISPLAYS.contains(&name) {
            return Ok(Some(M::Plain(name)));
        }
        Ok(None)
    }
}

fn one_of_the_capabilities(at: ValueAt<'_>) -> Visit<Arc<str>> {
    let name = at.string()?;
    if CAPABILITIES.contains(&&*name) { Ok(name) } else { Err(at.bad_name(&name)) }
}

/// `MigrationCapability`
pub const CAPABILITIES: [&str; 22] = [
    "xbzrle",
    "rdma-pin-all",
    "auto-converge",
    "zero-blocks",
    "events",
    "postcopy-ram",
    "x-colo",
    "release-ram",
    "return-path",
    "pause-before-switchover",
    "multifd",
    "dirty-bitmaps",
    "postcopy-blocktime",
    "late-block-activate",
    "x-ignore-shared",
    "validate-uuid",
    "background-snapshot",
    "zero-copy-send",
    "postcopy-preempt",
    "switchover-ack",
    "dirty-limit",
    "mapped-ram",
];
