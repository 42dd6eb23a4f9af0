//! Items of the human monitor's `info` that tell of the machine: each puts the answer of a QMP query into words
//! (`hw/core/machine-hmp-cmds.c`, `hw/pci/pci-hmp-cmds.c`, `ui/ui-hmp-cmds.c`, `migration/migration-hmp-cmds.c`).

use crate::base::Json;
use crate::qmp::error::QmpError;
use crate::qmp::hmp::error_reply;
use crate::qmp::recorded;
use crate::version::Version;
use crate::world::World;
use crate::world::block::open::unsupported::not_simulated;

/// An item, the query that it shows, and the lines that it makes of the answer.
type Item = (&'static str, &'static str, fn(&Json) -> Vec<String>);

/// The items; one without a query shows what never changes.
const ITEMS: [Item; 26] = [
    ("info balloon", "query-balloon", balloon),
    ("info chardev", "query-chardev", chardev),
    ("info cpus", "query-cpus-fast", cpus),
    ("info cryptodev", "query-cryptodev", nothing),
    ("info dirty_rate", "", dirty_rate),
    ("info dump", "query-dump", dump),
    ("info hotpluggable-cpus", "query-hotpluggable-cpus", hotpluggable_cpus),
    ("info iothreads", "query-iothreads", iothreads),
    ("info kvm", "query-kvm", kvm),
    ("info memdev", "query-memdev", memdev),
    ("info memory-devices", "query-memory-devices", nothing),
    ("info memory_size_summary", "query-memory-size-summary", memory_size_summary),
    ("info mice", "query-mice", mice),
    ("info migrate", "query-migrate", migrate),
    ("info migrate_capabilities", "query-migrate-capabilities", migrate_capabilities),
    ("info migrate_parameters", "query-migrate-parameters", migrate_parameters),
    ("info pci", "query-pci", pci),
    ("info replay", "query-replay", replay),
    ("info sev", "query-sev", sev),
    ("info spice", "query-spice", spice),
    ("info status", "query-status", status),
    ("info tpm", "query-tpm", nothing),
    ("info uuid", "query-uuid", uuid),
    ("info vcpu_dirty_limit", "query-vcpu-dirty-limit", vcpu_dirty_limit),
    ("info vm-generation-id", "query-vm-generation-id", nothing),
    ("info vnc", "query-vnc-servers", vnc),
];

/// Of other versions what these print is not known.
const OF_10_0: [&str; 3] = ["info migrate", "info migrate_capabilities", "info migrate_parameters"];

impl World {
    /// What an item prints; `None` if it is none of those here.
    ///
    /// # Errors
    /// It has another text in the version that is simulated.
    pub(super) fn hmp_info(&self, item: &str) -> Option<Result<String, QmpError>> {
        let (_, query, show) = ITEMS.into_iter().find(|(name, ..)| *name == item)?;
        let version = self.quirks.version();
        if version != Version::V10_0 && OF_10_0.contains(&item) {
            return Some(Err(not_simulated(item)));
        }
        let answer = match query {
            "" => Ok(Json::Null),
            "query-status" => Ok(self.query_status()),
            "query-vnc-servers" => Ok(self.query_vnc_servers()),
            // There are no devices of these, or nothing was begun: the answer is the same whatever the machine.
            "query-cryptodev"
            | "query-dump"
            | "query-migrate"
            | "query-replay"
            | "query-sev"
            | "query-tpm"
            | "query-vcpu-dirty-limit"
            | "query-vm-generation-id" => recorded::answer(version, query).expect("it is recorded"),
            query => self.query_machine(query),
        };
        Some(Ok(match answer {
            Ok(answer) => show(&answer).into_iter().map(|line| line + "\r\n").collect(),
            Err(error) => error_reply(&error.desc),
        }))
    }
}

fn list(json: &Json) -> &[Json] {
    json.as_list().unwrap_or_default()
}

fn number(json: &Json, key: &str) -> u64 {
    json.get(key).and_then(Json::as_u64).unwrap_or(0)
}

fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json.get(key).and_then(Json::as_str).unwrap_or_default()
}

fn is(json: &Json, key: &str) -> bool {
    json.get(key).and_then(Json::as_bool) == Some(true)
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// An empty list, of which nothing is printed.
fn nothing(_: &Json) -> Vec<String> {
    Vec::new()
}

fn balloon(answer: &Json) -> Vec<String> {
    vec![format!("balloon: actual={}", number(answer, "actual") >> 20)]
}

fn chardev(answer: &Json) -> Vec<String> {
    list(answer).iter().map(|info| format!("{}: filename={}", text(info, "label"), text(info, "filename"))).collect()
}

fn cpus(answer: &Json) -> Vec<String> {
    let cpu = |cpu: &Json| {
        let index = number(cpu, "cpu-index");
        let mark = if index == 0 { '*' } else { ' ' };
        format!("{mark} CPU #{index}: thread_id={}", number(cpu, "thread-id"))
    };
    list(answer).iter().map(cpu).collect()
}

/// No measurement was made.
fn dirty_rate(_: &Json) -> Vec<String> {
    [
        "Status: unstarted",
        "Start Time: 0 (ms)",
        "Sample Pages: 0 (per GB)",
        "Period: 0 (sec)",
        "Mode: page-sampling",
        "Dirty rate: (not ready)",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn dump(answer: &Json) -> Vec<String> {
    vec![format!("Status: {}", text(answer, "status"))]
}

fn hotpluggable_cpus(answer: &Json) -> Vec<String> {
    let mut lines = vec!["Hotpluggable CPUs:".to_owned()];
    for cpu in list(answer) {
        lines.push(format!("  type: \"{}\"", text(cpu, "type")));
        lines.push(format!("  vcpus_count: \"{}\"", number(cpu, "vcpus-count")));
        lines.extend(cpu.get("qom-path").map(|_| format!("  qom_path: \"{}\"", text(cpu, "qom-path"))));
        lines.push("  CPUInstance Properties:".to_owned());
        let Some(props) = cpu.get("props") else { continue };
        let given = |key: &&str| props.get(key).is_some();
        let shown = ["socket-id", "die-id", "core-id", "thread-id"].into_iter().filter(given);
        lines.extend(shown.map(|key| format!("    {key}: \"{}\"", number(props, key))));
    }
    lines
}

fn iothreads(answer: &Json) -> Vec<String> {
    let mut lines = Vec::new();
    for thread in list(answer) {
        lines.push(format!("{}:", text(thread, "id")));
        lines.push(format!("  thread_id={}", number(thread, "thread-id")));
        let shown = ["poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"];
        lines.extend(shown.map(|key| format!("  {key}={}", number(thread, key))));
    }
    lines
}

fn kvm(answer: &Json) -> Vec<String> {
    vec![format!("kvm support: {}", if is(answer, "enabled") { "enabled" } else { "disabled" })]
}

/// An empty line ends the list.
fn memdev(answer: &Json) -> Vec<String> {
    let mut lines = Vec::new();
    for memory in list(answer) {
        lines.push(format!("memory backend: {}", text(memory, "id")));
        lines.push(format!("  size:  {}", number(memory, "size")));
        let shown = ["merge", "dump", "prealloc", "share", "reserve"];
        lines.extend(shown.map(|key| format!("  {key}: {}", is(memory, key))));
        lines.push(format!("  policy: {}", text(memory, "policy")));
        lines.push("  host nodes: ".to_owned());
    }
    lines.push(String::new());
    lines
}

fn memory_size_summary(answer: &Json) -> Vec<String> {
    vec![
        format!("base memory: {}", number(answer, "base-memory")),
        format!("plugged memory: {}", number(answer, "plugged-memory")),
    ]
}

fn mice(answer: &Json) -> Vec<String> {
    if list(answer).is_empty() {
        return vec!["No mouse devices connected".to_owned()];
    }
    let mouse = |mouse: &Json| {
        let mark = if is(mouse, "current") { '*' } else { ' ' };
        let absolute = if is(mouse, "absolute") { " (absolute)" } else { "" };
        format!("{mark} Mouse #{}: {}{absolute}", number(mouse, "index"), text(mouse, "name"))
    };
    list(answer).iter().map(mouse).collect()
}

/// None has begun: what is printed are the properties of the migration object.
fn migrate(_: &Json) -> Vec<String> {
    [
        "globals:",
        "store-global-state: on",
        "only-migratable: off",
        "send-configuration: on",
        "send-section-footer: on",
        "send-switchover-start: on",
        "clear-bitmap-shift: 18",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn migrate_capabilities(answer: &Json) -> Vec<String> {
    list(answer).iter().map(|of| format!("{}: {}", text(of, "capability"), on_off(is(of, "state")))).collect()
}

/// In the order in which they are printed, with what stands behind the value.
const PARAMETERS: [(&str, &str); 25] = [
    ("announce-initial", " ms"),
    ("announce-max", " ms"),
    ("announce-rounds", ""),
    ("announce-step", " ms"),
    ("throttle-trigger-threshold", ""),
    ("cpu-throttle-initial", ""),
    ("cpu-throttle-increment", ""),
    ("cpu-throttle-tailslow", ""),
    ("max-cpu-throttle", ""),
    ("tls-creds", "'"),
    ("tls-hostname", "'"),
    ("max-bandwidth", " bytes/second"),
    ("avail-switchover-bandwidth", " bytes/second"),
    ("downtime-limit", " ms"),
    ("x-checkpoint-delay", " ms"),
    ("multifd-channels", ""),
    ("multifd-compression", ""),
    ("zero-page-detection", ""),
    ("xbzrle-cache-size", " bytes"),
    ("max-postcopy-bandwidth", ""),
    ("tls-authz", "'"),
    ("x-vcpu-dirty-limit-period", " ms"),
    ("vcpu-dirty-limit", " MB/s"),
    ("mode", ""),
    ("direct-io", ""),
];

fn migrate_parameters(answer: &Json) -> Vec<String> {
    let line = |(key, unit): (&str, &str)| match answer.get(key) {
        Some(Json::Bool(on)) => format!("{key}: {}", on_off(*on)),
        // A quote behind it stands for one before it, too.
        Some(Json::Str(value)) => format!("{key}: {unit}{value}{unit}"),
        _ => format!("{key}: {}{unit}", number(answer, key)),
    };
    PARAMETERS.into_iter().map(line).collect()
}

fn pci(answer: &Json) -> Vec<String> {
    let devices = |bus: &Json| bus.get("devices").map(|devices| list(devices).to_vec()).unwrap_or_default();
    list(answer).iter().flat_map(devices).flat_map(|device| pci_device(&device)).collect()
}

/// No device has an address yet, and no bus behind a bridge a number.
fn pci_device(device: &Json) -> Vec<String> {
    let of = |json: &Json, key: &str| json.get(key).cloned().unwrap_or(Json::Null);
    let (class, id) = (of(device, "class_info"), of(device, "id"));
    let class = match class.get("desc") {
        Some(_) => text(&class, "desc").to_owned(),
        None => format!("Class {:04}", number(&class, "class")),
    };
    let (bus, slot, function) = (number(device, "bus"), number(device, "slot"), number(device, "function"));
    let mut lines = vec![
        format!("  Bus {bus:2}, device {slot:3}, function {function}:"),
        format!("    {class}: PCI device {:04x}:{:04x}", number(&id, "vendor"), number(&id, "device")),
    ];
    if id.get("subsystem").is_some() {
        let (vendor, subsystem) = (number(&id, "subsystem-vendor"), number(&id, "subsystem"));
        lines.push(format!("      PCI subsystem {vendor:04x}:{subsystem:04x}"));
    }
    if device.get("irq").is_some() {
        // The recorded pins are those of interrupts that there are: 1 to 4.
        let pin = ["A", "B", "C", "D"].into_iter().nth(number(device, "irq_pin").saturating_sub(1) as usize);
        lines.push(format!("      IRQ {}, pin {}", number(device, "irq"), pin.unwrap_or_default()));
    }
    if let Some(bus) = device.get("pci_bridge").and_then(|bridge| bridge.get("bus")) {
        let range = |key: &str| (number(&of(bus, key), "base"), number(&of(bus, key), "limit"));
        let (io, memory, prefetchable) = (range("io_range"), range("memory_range"), range("prefetchable_range"));
        lines.extend([
            format!("      BUS {}.", number(bus, "number")),
            format!("      secondary bus {}.", number(bus, "secondary")),
            format!("      subordinate bus {}.", number(bus, "subordinate")),
            format!("      IO range [0x{:04x}, 0x{:04x}]", io.0, io.1),
            format!("      memory range [0x{:08x}, 0x{:08x}]", memory.0, memory.1),
            format!("      prefetchable memory range [0x{:08x}, 0x{:08x}]", prefetchable.0, prefetchable.1),
        ]);
    }
    for region in list(&of(device, "regions")) {
        let bits = if is(region, "mem_type_64") { 64 } else { 32 };
        let prefetchable = if is(region, "prefetch") { " prefetchable" } else { "" };
        let what = match text(region, "type") {
            "io" => "I/O".to_owned(),
            _ => format!("{bits} bit{prefetchable} memory"),
        };
        lines.push(format!("      BAR{}: {what} (not mapped)", number(region, "bar")));
    }
    lines.push(format!("      id \"{}\"", text(device, "qdev_id")));
    lines
}

/// Nothing is recorded or replayed.
fn replay(_: &Json) -> Vec<String> {
    vec!["Record/replay is not active".to_owned()]
}

fn sev(_: &Json) -> Vec<String> {
    vec!["SEV is not enabled".to_owned()]
}

fn spice(answer: &Json) -> Vec<String> {
    if !is(answer, "enabled") {
        return vec!["Server: disabled".to_owned()];
    }
    let mut lines = vec!["Server:".to_owned()];
    for (key, kind) in [("port", ""), ("tls-port", " [tls]")] {
        let port = answer.get(key).map(|_| number(answer, key));
        lines.extend(port.map(|port| format!("     address: {}:{port}{kind}", text(answer, "host"))));
    }
    lines.extend([
        format!("    migrated: {}", is(answer, "migrated")),
        format!("        auth: {}", text(answer, "auth")),
        format!("    compiled: {}", text(answer, "compiled-version")),
        format!("  mouse-mode: {}", text(answer, "mouse-mode")),
        "Channels: none".to_owned(),
    ]);
    lines
}

fn status(answer: &Json) -> Vec<String> {
    vec![match text(answer, "status") {
        "running" => "VM status: running".to_owned(),
        "paused" => "VM status: paused".to_owned(),
        other => format!("VM status: paused ({other})"),
    }]
}

fn uuid(answer: &Json) -> Vec<String> {
    vec![text(answer, "UUID").to_owned()]
}

fn vcpu_dirty_limit(_: &Json) -> Vec<String> {
    vec!["Dirty page limit not enabled!".to_owned()]
}

fn vnc(answer: &Json) -> Vec<String> {
    if list(answer).is_empty() {
        return vec!["None".to_owned()];
    }
    let mut lines = Vec::new();
    for info in list(answer) {
        lines.push(format!("{}:", text(info, "id")));
        let servers = info.get("server").map(list).unwrap_or_default();
        for server in servers {
            let websocket = if is(server, "websocket") { " (Websocket)" } else { "" };
            let (host, service) = (text(server, "host"), text(server, "service"));
            lines.push(format!("  Server: {host}:{service} ({}{websocket})", text(server, "family")));
            lines.push(format!("    Auth: {} (Sub: none)", text(server, "auth")));
        }
        if servers.is_empty() {
            lines.push(format!("  Auth: {} (Sub: none)", text(info, "auth")));
        }
    }
    lines
}
