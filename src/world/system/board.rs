//! The machine as plain data: processors, memory, character devices and displays, from the command line (`hw/core/machine.c`,
//! `machine-qmp-cmds.c`, `machine-smp.c`).
//!
//! Nothing of it does anything. Clients look at it when they start and connect, and it answers them as it was described.

use crate::base::Json;
use crate::qmp::drive::split_options;
use crate::qmp::error::{ErrorClass, QmpError};
use crate::qmp::keyval::parse_strosz;
use crate::qmp::recorded;
use crate::qmp::types::MachineCommand;
use crate::qmp::types::machine::{CAPABILITIES, MigrationCapabilityStatus, TimeUnit};
use crate::version::Version;
use crate::world::World;
use crate::world::frame::Flow;
use crate::world::value::Val;
use std::sync::Arc;

/// What a PC has without `-m`, in bytes.
const DEFAULT_MEMORY: u64 = 128 << 20;

/// `-smp`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Smp {
    /// Processors that are there.
    pub cpus: u64,
    /// Processors that may come.
    pub max: u64,
    /// Cores in a socket, dies and modules counted in.
    pub cores: u64,
    /// Threads in a core.
    pub threads: u64,
    /// Dies in a socket.
    pub dies: u64,
}

impl Default for Smp {
    fn default() -> Smp {
        Smp { cpus: 1, max: 1, cores: 1, threads: 1, dies: 1 }
    }
}

/// A character device, as `query-chardev` tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CharDevice {
    /// The `id` of `-chardev`, or the one that QEMU makes up.
    pub label: Arc<str>,
    /// What it is, with its address.
    pub filename: Arc<str>,
    /// The backend, such as `socket`.
    pub kind: &'static str,
    /// Somebody in the process uses it.
    pub open: bool,
}

/// The machine around the disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Board {
    /// The processors run with KVM.
    pub kvm: bool,
    /// `-cpu`: model, without properties.
    pub cpu: Option<Arc<str>>,
    /// `-smp`
    pub smp: Smp,
    /// `-m`, in bytes.
    pub memory: Option<u64>,
    /// `-display`, its type.
    pub display: Option<Arc<str>>,
    /// `-vnc`, as it was given.
    pub vnc: Option<Arc<str>>,
    /// `-spice`, as it was given.
    pub spice: Option<Arc<str>>,
    /// The object that `memory-backend` of `-machine` names.
    pub memory_backend: Option<Arc<str>>,
    /// Character devices, in order.
    pub chardevs: Vec<CharDevice>,
    /// `migrate-set-capabilities`: those that are on.
    pub capabilities: Vec<Arc<str>>,
    /// `migrate-set-parameters`: those that are not as recorded.
    pub parameters: Vec<(Arc<str>, Json)>,
    /// The thread that runs all processors; 0 in a simulation, where there is none.
    pub thread: u64,
}

impl Board {
    /// Takes an option of the command line.
    ///
    /// # Errors
    /// What QEMU says about it.
    pub fn option(&mut self, option: &str, value: &str) -> Result<(), String> {
        match option {
            "-accel" => self.accel(value.split(',').next().unwrap_or_default()),
            "-cpu" => self.cpu = value.split(',').next().map(Arc::from),
            "-smp" => self.smp = smp(value)?,
            "-m" => self.memory = memory(value)?.or(self.memory),
            "-display" => self.display = value.split(',').next().map(|kind| kind.trim_start_matches("type=").into()),
            "-vnc" => self.vnc = Some(value.into()),
            "-spice" => self.spice = Some(value.into()),
            "-machine" | "-M" => {
                for (key, value) in split_options(value) {
                    match key.as_str() {
                        "accel" => self.accel(&value),
                        "memory-backend" => self.memory_backend = Some(value.into()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The first of several that is there: the shell has left out those that are not.
    fn accel(&mut self, names: &str) {
        let first = names.trim_start_matches("accel=").split(':').next();
        self.kvm = first == Some("kvm");
    }

    /// The model of the processors.
    #[must_use]
    pub fn cpu_model(&self) -> &str {
        self.cpu.as_deref().unwrap_or("qemu64")
    }

    /// Where processor `index` is, in the order in which QEMU makes devices: behind the first comes `kvmvapic`.
    #[must_use]
    pub fn cpu_path(index: u64) -> String {
        format!("/machine/unattached/device[{}]", if index == 0 { 0 } else { index + 1 })
    }

    fn cpu_props(&self, index: u64) -> Json {
        let Smp { cores, threads, dies, .. } = self.smp;
        let (thread, core) = (index % threads, index / threads);
        let (socket, in_socket) = (core / cores, core % cores);
        let per_die = (cores / dies).max(1);
        let mut members = vec![
            ("socket-id", Json::uint(socket)),
            ("core-id", Json::uint(in_socket % per_die)),
            ("thread-id", Json::uint(thread)),
        ];
        if dies > 1 {
            members.push(("die-id", Json::uint(in_socket / per_die)));
        }
        Json::dict(members)
    }
}

/// `machine_parse_smp_config`: what is not given follows from what is; cores come before sockets.
fn smp(value: &str) -> Result<Smp, String> {
    let mut options = split_options(value);
    let bare = value.split([',', '=']).next().unwrap_or_default();
    if let Some(first) = options.first_mut()
        && !value[bare.len()..].starts_with('=')
    {
        *first = ("cpus".to_owned(), bare.to_owned());
    }
    let get = |key: &str| -> Result<Option<u64>, String> {
        let Some((_, text)) = options.iter().rev().find(|(name, _)| name == key) else { return Ok(None) };
        let number = text.parse::<u64>().map_err(|_| format!("Parameter 'smp.{key}' expects integer"))?;
        if number == 0 {
            Err("Invalid CPU topology: CPU topology parameters must be greater than zero".into())
        } else {
            Ok(Some(number))
        }
    };
    let known = ["cpus", "maxcpus", "drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads"];
    if let Some((key, _)) = options.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        return Err(format!("Invalid parameter '{key}'"));
    }
    let (cpus, max, sockets, cores, threads) =
        (get("cpus")?, get("maxcpus")?, get("sockets")?, get("cores")?, get("threads")?);
    let dies = get("dies")?.unwrap_or(1) * get("modules")?.unwrap_or(1) * get("clusters")?.unwrap_or(1);
    let wanted = max.or(cpus);
    let (sockets, cores, threads) = match (wanted, sockets, cores, threads) {
        (None, sockets, cores, threads) => (sockets.unwrap_or(1), cores.unwrap_or(1), threads.unwrap_or(1)),
        (Some(all), sockets, None, threads) => {
            let (sockets, threads) = (sockets.unwrap_or(1), threads.unwrap_or(1));
            (sockets, (all / (sockets * dies * threads)).max(1), threads)
        }
        (Some(all), None, Some(cores), threads) => {
            let threads = threads.unwrap_or(1);
            ((all / (cores * dies * threads)).max(1), cores, threads)
        }
        (Some(all), Some(sockets), Some(cores), threads) => {
            (sockets, cores, threads.unwrap_or_else(|| (all / (sockets * dies * cores)).max(1)))
        }
    };
    let product = sockets * dies * cores * threads;
    let max = max.or(cpus).unwrap_or(product);
    let cpus = cpus.unwrap_or(max);
    if product != max {
        let text =
            format!("sockets ({sockets}) * dies ({dies}) * cores ({cores}) * threads ({threads}) != maxcpus ({max})");
        let text = if dies == 1 { text.replace("dies (1) * ", "") } else { text };
        return Err(format!("Invalid CPU topology: product of the hierarchy must match maxcpus: {text}"));
    }
    if cpus > max {
        return Err(format!(
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: sockets ({sockets}) * cores ({cores}) * threads ({threads}) == maxcpus ({max}) < smp_cpus ({cpus})"
        ));
    }
    if max > 4096 {
        return Err(format!("Invalid SMP CPUs {max}. The max CPUs supported by machine is 4096"));
    }
    Ok(Smp { cpus, max, cores: cores * dies, threads, dies })
}

/// `-m`: the size; without a suffix, in MiB.
fn memory(value: &str) -> Result<Option<u64>, String> {
    let options = split_options(value);
    let bare = value.split([',', '=']).next().unwrap_or_default();
    let size = match value[bare.len()..].starts_with('=') {
        true => options.iter().find(|(key, _)| key == "size").map(|(_, size)| size.as_str()),
        false => Some(bare),
    };
    let Some(size) = size else { return Ok(None) };
    let plain = size.bytes().all(|b| b.is_ascii_digit());
    let text = if plain { format!("{size}M") } else { size.to_owned() };
    match parse_strosz(&text) {
        Some(0) | None => Err("invalid 'size' option value".to_owned()),
        Some(bytes) => Ok(Some(bytes)),
    }
}

impl World {
    /// A command that has to do with the machine and not with its disks.
    pub(in crate::world) fn machine_command(&mut self, command: MachineCommand) -> Flow {
        use MachineCommand as M;
        let result = match command {
            M::QomSet { path, property, value } => return self.qom_set(&path, &property, &value),
            M::Plain("system_powerdown") => {
                self.emit("POWERDOWN", Json::empty());
                Ok(Json::empty())
            }
            M::Recorded("query-vnc-servers") => Ok(self.query_vnc_servers()),
            M::Recorded(name) => recorded::answer(self.quirks.version(), name).expect("the parser found it there"),
            M::Plain(name) => self.query_machine(name),
            M::QomListTypes { implements, is_abstract } => {
                Ok(super::qom::list_types(self.quirks.version(), implements.as_deref(), is_abstract.unwrap_or(false)))
            }
            M::DeviceListProperties { typename } => super::qom::device_properties(&typename),
            M::QomListProperties { typename } => super::qom::object_properties(&typename),
            M::QomList { path } => self.qom_list(&path),
            M::QomGet { path, property } => self.qom_get(&path, &property),
            M::QueryCpuModelExpansion { expansion, model } => {
                cpu_model_expansion(expansion, &model.name, &model.props.unwrap_or_else(Json::empty))
            }
            M::Balloon { value } if value <= 0 => Err(QmpError::generic("Parameter 'value' expects a size")),
            // No guest's driver follows.
            M::Balloon { .. } => self.balloon_there().map(|()| Json::empty()),
            M::SetAction(_) => Ok(Json::empty()),
            M::MigrateSetCapabilities { capabilities } => {
                let board = Arc::make_mut(&mut self.machine.board);
                for MigrationCapabilityStatus { capability, state } in capabilities {
                    board.capabilities.retain(|other| *other != capability);
                    board.capabilities.extend(state.then_some(capability));
                }
                Ok(Json::empty())
            }
            M::MigrateSetParameters(parameters) => self.migrate_set_parameters(&parameters),
            M::QueryCommandLineOptions { option } => command_line_options(self.quirks.version(), option.as_deref()),
            M::QueryDirtyRate { calc_time_unit } => Ok(Json::dict(vec![
                ("status", "unstarted".into()),
                ("sample-pages", Json::uint(0)),
                ("mode", "page-sampling".into()),
                ("calc-time-unit", calc_time_unit.unwrap_or(TimeUnit::Second).name().into()),
                ("start-time", Json::uint(0)),
                ("calc-time", Json::uint(0)),
            ])),
            M::QueryRxFilter { name: None } => Ok(Json::list(Vec::new())),
            M::QueryRxFilter { name: Some(name) } => Err(QmpError::generic(format!("invalid net client name: {name}"))),
        };
        self.ret(Val::Json(result))
    }

    /// A query without arguments.
    pub(in crate::world) fn query_machine(&self, name: &str) -> Result<Json, QmpError> {
        let board = &self.machine.board;
        Ok(match name {
            "query-balloon" => {
                self.balloon_there()?;
                Json::dict(vec![("actual", Json::uint(self.memory()))])
            }
            "query-chardev" => self.query_chardev(),
            "query-cpus-fast" => self.query_cpus_fast(),
            "query-current-machine" => Json::dict(vec![("wakeup-suspend-support", self.machine.is_pc().into())]),
            "query-display-options" => {
                Json::dict(vec![("type", Json::str(board.display.as_deref().unwrap_or("none")))])
            }
            "query-hotpluggable-cpus" => return self.query_hotpluggable_cpus(),
            "query-iothreads" => self.query_iothreads(),
            "query-kvm" => Json::dict(vec![("enabled", board.kvm.into()), ("present", true.into())]),
            "query-memdev" => self.query_memdev(),
            "query-memory-devices" => Json::list(Vec::new()),
            "query-memory-size-summary" => {
                Json::dict(vec![("base-memory", Json::uint(self.memory())), ("plugged-memory", Json::uint(0))])
            }
            "query-mice" => self.query_mice(),
            "query-migrate-capabilities" => {
                let on = |name: &str| board.capabilities.iter().any(|other| **other == *name);
                let status =
                    |name: &&str| Json::dict(vec![("capability", Json::str(name)), ("state", on(name).into())]);
                Json::list(CAPABILITIES.iter().map(status).collect())
            }
            "query-migrate-parameters" => self.migrate_parameters(),
            "query-pci" => self.query_pci(),
            "query-spice" => self.query_spice(),
            "query-uuid" => self.query_uuid(),
            "query-vnc" => self.query_vnc(),
            other => unreachable!("{other} is no query of the machine"),
        })
    }

    /// The machine's memory, in bytes.
    fn memory(&self) -> u64 {
        if !self.machine.is_pc() {
            return self.machine.board.memory.unwrap_or(0);
        }
        self.machine.board.memory.unwrap_or(DEFAULT_MEMORY)
    }

    fn balloon_there(&self) -> Result<(), QmpError> {
        match self.machine.devices.iter().any(|device| device.driver.starts_with("virtio-balloon")) {
            true => Ok(()),
            false => Err(QmpError::new(ErrorClass::DeviceNotActive, "No balloon device has been activated")),
        }
    }

    fn query_chardev(&self) -> Json {
        let info = |device: &CharDevice| {
            Json::dict(vec![
                ("label", Json::Str(device.label.clone())),
                ("filename", Json::Str(device.filename.clone())),
                ("frontend-open", device.open.into()),
            ])
        };
        Json::list(self.machine.board.chardevs.iter().map(info).collect())
    }

    /// Processors that are there; a machine `none` has none.
    pub(in crate::world) fn cpus(&self) -> u64 {
        if self.machine.is_pc() { self.machine.board.smp.cpus } else { 0 }
    }

    fn query_cpus_fast(&self) -> Json {
        let info = |index: u64| {
            Json::dict(vec![
                ("cpu-index", Json::uint(index)),
                ("qom-path", Board::cpu_path(index).into()),
                ("thread-id", Json::uint(self.machine.board.thread)),
                ("props", self.machine.board.cpu_props(index)),
                ("target", "x86_64".into()),
            ])
        };
        Json::list((0..self.cpus()).map(info).collect())
    }

    fn query_hotpluggable_cpus(&self) -> Result<Json, QmpError> {
        let board = &self.machine.board;
        if !self.machine.is_pc() {
            return Err(QmpError::generic("machine does not support hot-plugging CPUs"));
        }
        let info = |index: u64| {
            let mut members = vec![
                ("type", format!("{}-x86_64-cpu", board.cpu_model()).into()),
                ("vcpus-count", Json::uint(1)),
                ("props", board.cpu_props(index)),
            ];
            if index < board.smp.cpus {
                members.push(("qom-path", Board::cpu_path(index).into()));
            }
            Json::dict(members)
        };
        Ok(Json::list((0..board.smp.max).rev().map(info).collect()))
    }

    fn query_memdev(&self) -> Json {
        let board = &self.machine.board;
        let info = |id: &str, size: u64, properties: Option<&Json>| {
            let on = |key: &str, default: bool| {
                properties.and_then(|all| all.get(key)).and_then(Json::as_bool).unwrap_or(default)
            };
            Json::dict(vec![
                ("id", Json::str(id)),
                ("size", Json::uint(size)),
                ("merge", on("merge", true).into()),
                ("dump", on("dump", true).into()),
                ("prealloc", on("prealloc", false).into()),
                ("share", on("share", false).into()),
                ("reserve", on("reserve", true).into()),
                ("host-nodes", Json::list(Vec::new())),
                ("policy", "default".into()),
            ])
        };
        let size = |properties: &Json| match properties.get("size") {
            Some(Json::Str(text)) => parse_strosz(text).unwrap_or(0),
            other => other.and_then(Json::as_u64).unwrap_or(0),
        };
        let objects = self.machine.objects.iter().filter(|object| object.kind.starts_with("memory-backend-"));
        let mut all: Vec<Json> =
            objects.map(|object| info(&object.id, size(&object.properties), Some(&object.properties))).collect();
        if self.machine.is_pc() && board.memory_backend.is_none() {
            all.push(info("pc.ram", self.memory(), None));
        }
        Json::list(all)
    }

    fn migrate_parameters(&self) -> Json {
        let recorded = recorded::answer(self.quirks.version(), "query-migrate-parameters")
            .and_then(Result::ok)
            .unwrap_or_else(Json::empty);
        let mut all = recorded.as_dict().unwrap_or_default().to_vec();
        for (name, value) in &self.machine.board.parameters {
            match all.iter_mut().find(|(key, _)| key == name) {
                Some((_, old)) => *old = value.clone(),
                None => all.push((name.clone(), value.clone())),
            }
        }
        Json::Dict(Arc::new(all))
    }

    /// `qmp_migrate_set_parameters`: the type of each is that of its value now.
    fn migrate_set_parameters(&mut self, parameters: &Json) -> Result<Json, QmpError> {
        let now = self.migrate_parameters();
        let members = parameters.as_dict().unwrap_or_default();
        for (name, value) in members {
            let wrong = |expected: &str| {
                Err(QmpError::generic(format!("Invalid parameter type for '{name}', expected: {expected}")))
            };
            match (now.get(name), value) {
                (None, _) => return Err(QmpError::generic(format!("Parameter '{name}' is unexpected"))),
                (Some(Json::Bool(_)), Json::Bool(_)) | (Some(Json::Str(_)), Json::Str(_) | Json::Null) => {}
                (Some(Json::Bool(_)), _) => return wrong("boolean"),
                (Some(Json::Str(_)), _) => return wrong("string"),
                (Some(Json::Int(_) | Json::Uint(_)), Json::Int(_) | Json::Uint(_)) => {}
                (Some(Json::Int(_) | Json::Uint(_)), _) => {
                    return Err(QmpError::generic(format!("Parameter '{name}' expects uint64")));
                }
                _ => {}
            }
        }
        let board = Arc::make_mut(&mut self.machine.board);
        for (name, value) in members {
            let value = if *value == Json::Null { Json::str("") } else { value.clone() };
            board.parameters.retain(|(key, _)| key != name);
            board.parameters.push((name.clone(), value));
        }
        Ok(Json::empty())
    }
}

/// `qmp_query_command_line_options`
fn command_line_options(version: Version, option: Option<&str>) -> Result<Json, QmpError> {
    let all = recorded::answer(version, "query-command-line-options").expect("recorded")?;
    let Some(option) = option else { return Ok(all) };
    let is = |info: &&Json| info.get("option").and_then(Json::as_str) == Some(option);
    let found: Vec<Json> = all.as_list().unwrap_or_default().iter().filter(is).cloned().collect();
    if found.is_empty() {
        Err(QmpError::generic(format!("invalid option name: {option}")))
    } else {
        Ok(Json::list(found))
    }
}

/// `qmp_query_cpu_model_expansion`
fn cpu_model_expansion(expansion: recorded::Expansion, name: &str, props: &Json) -> Result<Json, QmpError> {
    let Some(all) = recorded::cpu_properties(name, expansion) else {
        return Err(QmpError::generic(format!("CPU model '{name}' not found")));
    };
    let mut all = all?.as_dict().unwrap_or_default().to_vec();
    for (key, value) in props.as_dict().unwrap_or_default() {
        // What the property leads to in others is not computed.
        if let Some((_, old)) = all.iter_mut().find(|(name, _)| name == key) {
            *old = value.clone();
        }
    }
    let name = if expansion == recorded::Expansion::Static { "base" } else { name };
    let model = Json::dict(vec![("name", Json::str(name)), ("props", Json::Dict(Arc::new(all)))]);
    Ok(Json::dict(vec![("model", model)]))
}
