//! Commands that have to do with the machine and not with its disks, and their arguments (qapi/qom.json, machine.json, misc.json,
//! migration.json).

use super::super::recorded::{ANSWERED, Expansion};
use crate::base::Json;
use crate::qmp::visit::{At, QapiEnum, Visit, Visitor};
use std::sync::Arc;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "fields are the arguments of the same names")]
pub enum MachineCommand {
    /// Answered as recorded, whatever the machine.
    Recorded(&'static str),
    /// A query without arguments, or another command without any, by its name.
    Plain(&'static str),
    QomListTypes {
        implements: Option<Arc<str>>,
        is_abstract: Option<bool>,
    },
    DeviceListProperties {
        typename: Arc<str>,
    },
    QomListProperties {
        typename: Arc<str>,
    },
    QomList {
        path: Arc<str>,
    },
    QomGet {
        path: Arc<str>,
        property: Arc<str>,
    },
    QomSet {
        path: Arc<str>,
        property: Arc<str>,
        value: Json,
    },
    QueryCpuModelExpansion {
        expansion: Expansion,
        name: Arc<str>,
        props: Json,
    },
    /// `value` is in bytes.
    Balloon {
        value: i64,
    },
    SetAction,
    MigrateSetCapabilities {
        capabilities: Vec<(Arc<str>, bool)>,
    },
    /// Its arguments are the parameters.
    MigrateSetParameters(Json),
    QueryCommandLineOptions {
        option: Option<Arc<str>>,
    },
    /// `milliseconds`: of `calc-time-unit`; nothing was measured.
    QueryDirtyRate {
        milliseconds: bool,
    },
    QueryRxFilter {
        name: Option<Arc<str>>,
    },
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

/// `TimeUnit`
#[derive(Clone, Copy, Debug)]
enum TimeUnit {
    Second,
    Millisecond,
}

impl QapiEnum for TimeUnit {
    const TABLE: &'static [(TimeUnit, &'static str)] =
        &[(TimeUnit::Second, "second"), (TimeUnit::Millisecond, "millisecond")];
}

/// A name that stands for nothing here but must be one of an enum.
macro_rules! names {
    ($name:ident: $($text:literal),*) => {
        #[derive(Clone, Copy, Debug)]
        struct $name;
        impl QapiEnum for $name {
            const TABLE: &'static [($name, &'static str)] = &[$(($name, $text)),*];
        }
    };
}
names!(RebootAction: "reset", "shutdown");
names!(ShutdownAction: "poweroff", "pause");
names!(PanicAction: "pause", "shutdown", "exit-failure", "none");
names!(WatchdogAction: "reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi");

impl MachineCommand {
    /// Reads the command of that name, if it is one of these.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(name: &'static str, v: &mut Visitor<'_>) -> Visit<Option<MachineCommand>> {
        use MachineCommand as M;
        if name == "query-command-line-options" {
            return Ok(Some(M::QueryCommandLineOptions { option: v.opt_str("option")? }));
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
        Ok(Some(match name {
            "qom-list-types" => {
                M::QomListTypes { implements: v.opt_str("implements")?, is_abstract: v.opt_bool("abstract")? }
            }
            "device-list-properties" => M::DeviceListProperties { typename: v.str("typename")? },
            "qom-list-properties" => M::QomListProperties { typename: v.str("typename")? },
            "qom-list" => M::QomList { path: v.str("path")? },
            "qom-get" => M::QomGet { path: v.str("path")?, property: v.str("property")? },
            "qom-set" => M::QomSet {
                path: v.str("path")?,
                property: v.str("property")?,
                value: v.with("value", |at| Ok(at.any().clone()))?,
            },
            "query-cpu-model-expansion" => {
                let expansion = v.enum_("type")?;
                let (name, props) = v.with("model", |at| {
                    let mut model = at.object()?;
                    let read = (model.str("name")?, model.opt_with("props", |at| Ok(at.any().clone()))?);
                    model.finish()?;
                    Ok(read)
                })?;
                M::QueryCpuModelExpansion { expansion, name, props: props.unwrap_or_else(Json::empty) }
            }
            "balloon" => M::Balloon { value: v.int("value")? },
            "set-action" => {
                v.opt_enum::<RebootAction>("reboot")?;
                v.opt_enum::<ShutdownAction>("shutdown")?;
                v.opt_enum::<PanicAction>("panic")?;
                v.opt_enum::<WatchdogAction>("watchdog")?;
                M::SetAction
            }
            "migrate-set-capabilities" => {
                M::MigrateSetCapabilities { capabilities: v.list("capabilities", capability)? }
            }
            "query-dirty-rate" => {
                let unit = v.opt_enum::<TimeUnit>("calc-time-unit")?;
                M::QueryDirtyRate { milliseconds: matches!(unit, Some(TimeUnit::Millisecond)) }
            }
            "query-rx-filter" => M::QueryRxFilter { name: v.opt_str("name")? },
            _ => return Ok(None),
        }))
    }
}

/// `MigrationCapabilityStatus`
fn capability(at: At<'_>) -> Visit<(Arc<str>, bool)> {
    let mut v = at.object()?;
    let read = (v.with("capability", |at| one_of_the_capabilities(&at))?, v.bool("state")?);
    v.finish()?;
    Ok(read)
}

fn one_of_the_capabilities(at: &At<'_>) -> Visit<Arc<str>> {
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
