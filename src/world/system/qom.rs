//! The tree of objects: what `qom-list`, `qom-get` and `qom-set` show of it (`qom/qom-qmp-cmds.c`, `qom/object.c`).
//!
//! The objects on board are as recorded of a machine without devices ([`recorded::object`]). Devices, processors, character devices and
//! objects of the command line stand at their places among them, with the properties of their types and the values they were given.

use super::board::Board;
use super::machine::{Device, Machine, Object};
use crate::base::Json;
use crate::qmp::error::{ErrorClass, QmpError};
use crate::qmp::hash_order::hash_order;
use crate::qmp::keyval::{parse_bool, parse_i64, parse_strosz};
use crate::qmp::recorded::{self, Expansion, PropertiesOf, Row};
use crate::version::Version;
use crate::world::World;
use std::sync::Arc;

/// `qmp_qom_list_types`
pub(super) fn list_types(version: Version, implements: Option<&str>, with_abstract: bool) -> Json {
    let key = if with_abstract { "qom-list-types abstract" } else { "qom-list-types" };
    let of = |key: &str| recorded::answer(version, key).and_then(Result::ok).unwrap_or_else(|| Json::list(Vec::new()));
    let (types, all) = (of(key), of("qom-list-types abstract"));
    let Some(implements) = implements else { return types };
    let name = |info: &Json| info.get("name").and_then(Json::as_str).map(str::to_owned);
    let parent = |of: &str| {
        let info = all.as_list()?.iter().find(|info| name(info).as_deref() == Some(of))?;
        info.get("parent").and_then(Json::as_str).map(str::to_owned)
    };
    let interface = recorded::answer(version, &format!("implements {implements}")).and_then(Result::ok);
    let is = |info: &&Json| {
        if let Some(names) = interface.as_ref().and_then(Json::as_list) {
            return names.iter().any(|other| other.as_str() == name(info).as_deref());
        }
        let mut at = name(info);
        while let Some(of) = at {
            if of == implements {
                return true;
            }
            at = parent(&of);
        }
        false
    };
    Json::list(types.as_list().unwrap_or_default().iter().filter(is).cloned().collect())
}

/// `qmp_device_list_properties`
pub(super) fn device_properties(type_name: &str) -> Result<Json, QmpError> {
    if let Some(all) = recorded::properties(PropertiesOf::Device, type_name) {
        return Ok(Json::list(all));
    }
    if is_type(type_name) {
        return Err(QmpError::generic("Parameter 'typename' expects a non-abstract device type"));
    }
    Err(QmpError::new(ErrorClass::DeviceNotFound, format!("Device '{type_name}' not found")))
}

/// `qmp_qom_list_properties`
pub(super) fn object_properties(type_name: &str) -> Result<Json, QmpError> {
    if let Some(all) = recorded::properties(PropertiesOf::Object, type_name) {
        return Ok(Json::list(all));
    }
    if recorded::DEADLY_TYPES.contains(&type_name) {
        let (subject, reason) =
            (format!("type {type_name}"), "qom-list-properties: the object it makes can't be given up");
        match type_name {
            "x-remote-object" => World::qemu_segfaults(subject, reason),
            _ => World::qemu_aborts(subject, reason),
        }
    }
    Err(QmpError::new(ErrorClass::DeviceNotFound, format!("Class '{type_name}' not found")))
}

fn is_type(name: &str) -> bool {
    let all = recorded::answer(Version::default(), "qom-list-types abstract").and_then(Result::ok);
    all.is_some_and(|all| {
        all.as_list().unwrap_or_default().iter().any(|info| info.get("name").and_then(Json::as_str) == Some(name))
    })
}

/// An object in the tree.
#[derive(Debug)]
enum QomObject<'a> {
    /// One that is recorded, with the path it has there.
    OnBoard(String),
    /// A container whose children come and go.
    Container(&'static str),
    /// Processor, by its number.
    Cpu(u64),
    /// A device of the command line.
    Device(&'a Device),
    /// The device within a virtio device.
    Backend(&'a Device),
    /// An object of `-object`.
    Object(&'a Object),
    /// A character device: its type.
    Chardev(&'static str),
}

impl Machine {
    /// The recorded machine that is most like this one.
    #[must_use]
    pub fn recorded(&self) -> &'static str {
        match (self.is_pc(), self.is_q35()) {
            (false, _) => "none",
            (true, true) => "q35",
            (true, false) => "pc",
        }
    }

    /// The name of its type. Of versions that were not measured the machines are those of 10.0.
    fn type_name(&self, version: Version) -> String {
        let of = if version.is_measured() { version } else { Version::default() };
        match self.kind.as_deref() {
            None | Some("pc") => format!("pc-i440fx-{of}-machine"),
            Some("q35") => format!("pc-q35-{of}-machine"),
            Some(kind) => format!("{kind}-machine"),
        }
    }
}

/// Devices without an id have a place by their number.
fn anonymous(devices: &[Device]) -> impl Iterator<Item = (String, &Device)> {
    let devices = devices.iter().filter(|device| device.id.is_none());
    devices.enumerate().map(|(number, device)| (format!("device[{number}]"), device))
}

/// The name without the aliases that exist for some models.
pub(super) fn type_of(driver: &str) -> String {
    match driver {
        "virtio-blk" | "virtio-scsi" | "virtio-net" | "virtio-balloon" | "virtio-rng" | "virtio-serial"
        | "virtio-gpu" | "virtio-input-host" | "virtio-keyboard" | "virtio-mouse" | "virtio-tablet" | "virtio-9p" => {
            format!("{driver}-pci")
        }
        "ahci" => "ich9-ahci".into(),
        "lsi" => "lsi53c895a".into(),
        other => other.into(),
    }
}

/// The type of the device within a virtio device.
fn backend_type(driver: &str) -> Option<String> {
    let bare = driver.strip_suffix("-non-transitional").or_else(|| driver.strip_suffix("-transitional"));
    let bare = bare.unwrap_or(driver);
    let bare = bare.strip_suffix("-pci").unwrap_or(bare);
    (bare.starts_with("virtio-") && bare != "virtio-gpu-vga").then(|| format!("{bare}-device"))
}

impl World {
    /// `object_resolve_path`; a name without a slash before it stands for the one object whose path ends so.
    fn resolve(&self, path: &str) -> Option<QomObject<'_>> {
        let machine = &self.machine;
        let path = path.trim_end_matches('/');
        let absolute = match path.starts_with('/') || path.is_empty() {
            true => path.to_owned(),
            false if machine.device(path.split('/').next()?).is_some() => format!("/machine/peripheral/{path}"),
            false if machine.object(path).is_some() => format!("/objects/{path}"),
            false if machine.board.chardevs.iter().any(|device| &*device.label == path) => format!("/chardevs/{path}"),
            false => format!("/{path}"),
        };
        if let Some(rest) = absolute.strip_prefix("/machine/peripheral/") {
            let (id, below) = rest.split_once('/').unwrap_or((rest, ""));
            return within(machine.device(id)?, below);
        }
        if let Some(rest) = absolute.strip_prefix("/machine/peripheral-anon/") {
            let (name, below) = rest.split_once('/').unwrap_or((rest, ""));
            return within(anonymous(&machine.devices).find(|(other, _)| other == name)?.1, below);
        }
        if let Some(id) = absolute.strip_prefix("/objects/") {
            return machine.object(id).map(QomObject::Object);
        }
        if let Some(label) = absolute.strip_prefix("/chardevs/") {
            let device = machine.board.chardevs.iter().find(|device| &*device.label == label)?;
            return Some(QomObject::Chardev(device.kind));
        }
        if let Some(cpu) = (0..self.cpus()).find(|cpu| Board::cpu_path(*cpu) == absolute) {
            return Some(QomObject::Cpu(cpu));
        }
        for container in ["/objects", "/chardevs", "/machine/peripheral", "/machine/peripheral-anon"] {
            if absolute == container {
                return Some(QomObject::Container(container));
            }
        }
        let absolute = if absolute.is_empty() { "/".to_owned() } else { self.recorded_path(&absolute) };
        recorded::object(machine.recorded(), &absolute).map(|_| QomObject::OnBoard(absolute))
    }

    /// Further processors move the devices on board that QEMU makes after them.
    fn recorded_path(&self, path: &str) -> String {
        let more = self.cpus().saturating_sub(1);
        let moved = || {
            let rest = path.strip_prefix("/machine/unattached/device[")?;
            let (number, below) = rest.split_once(']')?;
            let number = number.parse::<u64>().ok().filter(|number| *number > more + 1)?;
            Some(format!("/machine/unattached/device[{}]{below}", number - more))
        };
        moved().unwrap_or_else(|| path.to_owned())
    }

    fn place(&self, path: &str) -> Result<QomObject<'_>, QmpError> {
        let missing = || QmpError::new(ErrorClass::DeviceNotFound, format!("Device '{path}' not found"));
        self.resolve(path).ok_or_else(missing)
    }

    /// `qmp_qom_list`
    pub(super) fn qom_list(&self, path: &str) -> Result<Json, QmpError> {
        let rows = self.rows(&self.place(path)?);
        let info = |(name, kind, _): Row| Json::dict(vec![("name", Json::Str(name)), ("type", Json::Str(kind))]);
        Ok(Json::list(rows.into_iter().map(info).collect()))
    }

    /// `qmp_qom_get`
    pub(super) fn qom_get(&self, path: &str, property: &str) -> Result<Json, QmpError> {
        let place = self.place(path)?;
        let Some((_, kind, value)) = self.rows(&place).into_iter().find(|(name, ..)| &**name == property) else {
            let text = format!("Property '{}.{property}' not found", self.type_at(&place));
            return Err(QmpError::generic(text));
        };
        if kind.starts_with("child<") {
            // The path of the child.
            return Ok(format!("{}/{property}", path.trim_end_matches('/')).into());
        }
        match value {
            Some(value) if value.get("error").is_none() => Ok(value),
            Some(_) => {
                Err(QmpError::generic(format!("Property '{}.{property}' is not readable", self.type_at(&place))))
            }
            None => Err(crate::world::block::open::unsupported::not_simulated(&format!(
                "qom-get {}.{property}",
                self.type_at(&place)
            ))),
        }
    }

    fn type_at(&self, place: &QomObject<'_>) -> String {
        match place {
            QomObject::OnBoard(path) if path == "/machine" => self.machine.type_name(self.quirks.version()),
            QomObject::OnBoard(path) => {
                let rows = recorded::object(self.machine.recorded(), path).unwrap_or_default();
                let value = rows.into_iter().find(|(name, ..)| &**name == "type").and_then(|(_, _, value)| value);
                value.as_ref().and_then(Json::as_str).unwrap_or_default().to_owned()
            }
            QomObject::Container(_) => "container".into(),
            QomObject::Cpu(_) => format!("{}-x86_64-cpu", self.machine.board.cpu_model()),
            QomObject::Device(device) => type_of(&device.driver),
            QomObject::Backend(device) => backend_type(&type_of(&device.driver)).unwrap_or_default(),
            QomObject::Object(object) => object.kind.into(),
            QomObject::Chardev(kind) => (*kind).into(),
        }
    }

    fn rows(&self, place: &QomObject<'_>) -> Vec<Row> {
        let row = |name: &str, kind: &str, value: Option<Json>| (Arc::from(name), Arc::from(kind), value);
        let type_name = self.type_at(place);
        match place {
            QomObject::OnBoard(path) => self.on_board(path),
            QomObject::Container(path) => {
                let mut all = vec![row("type", "string", Some("container".into()))];
                all.extend(
                    self.children(path).into_iter().map(|(name, kind)| row(&name, &format!("child<{kind}>"), None)),
                );
                all
            }
            QomObject::Cpu(index) => self.cpu_rows(*index),
            QomObject::Device(device) => {
                let mut all = given_rows(&type_name, &device.options);
                let mut set = |name: &str, value: Json| {
                    if let Some((_, _, old)) = all.iter_mut().find(|(key, ..)| &**key == name) {
                        *old = Some(value);
                    }
                };
                set("realized", true.into());
                set("hotplugged", device.hotplugged.into());
                set("hotpluggable", device.hotpluggable(&self.machine).into());
                if let Some(node) = device.backend.and_then(|blk| self.drive_of(blk)) {
                    set("drive", Json::Str(node));
                }
                if backend_type(&type_name).is_some() {
                    all.push(row("virtio-bus", "child<virtio-pci-bus>", None));
                }
                all
            }
            QomObject::Backend(device) => {
                let mut all = given_rows(&type_name, &device.options);
                if let Some(node) = device.backend.and_then(|blk| self.drive_of(blk)) {
                    all.iter_mut()
                        .filter(|(key, ..)| &**key == "drive")
                        .for_each(|row| row.2 = Some(Json::Str(node.clone())));
                }
                all
            }
            QomObject::Object(object) => {
                let mut all = given_rows(&type_name, &object.properties);
                for (name, number) in &object.numbers {
                    all.iter_mut().filter(|(key, ..)| &**key == *name).for_each(|row| row.2 = Some(Json::Int(*number)));
                }
                all
            }
            QomObject::Chardev(_) => given_rows(&type_name, &Json::empty()),
        }
    }

    /// `get_drive`: the name of the backend, or of its node.
    fn drive_of(&self, blk: crate::world::arena::BackendId) -> Option<Arc<str>> {
        let backend = self.graph.backends.get(blk)?;
        if !backend.name.is_empty() {
            return Some(backend.name.clone());
        }
        let node = self.graph.blk_bs(blk)?;
        Some(self.graph.nodes[node].node_name.clone())
    }

    fn on_board(&self, path: &str) -> Vec<Row> {
        let machine = &self.machine;
        let mut rows = recorded::object(machine.recorded(), path).unwrap_or_default();
        match path {
            "/" => {
                let kind: Arc<str> = format!("child<{}>", machine.type_name(self.quirks.version())).into();
                rows.iter_mut().filter(|(name, ..)| &**name == "machine").for_each(|row| row.1 = kind.clone());
            }
            "/machine" => {
                let kind = Json::from(machine.type_name(self.quirks.version()));
                rows.iter_mut().filter(|(name, ..)| &**name == "type").for_each(|row| row.2 = Some(kind.clone()));
            }
            "/machine/unattached" => {
                let cpu: Arc<str> = format!("child<{}-x86_64-cpu>", machine.board.cpu_model()).into();
                let more = self.cpus().saturating_sub(1);
                for (name, kind, _) in &mut rows {
                    let number = name.strip_prefix("device[").and_then(|rest| rest.strip_suffix(']'));
                    match number.and_then(|number| number.parse::<u64>().ok()) {
                        Some(0) => *kind = cpu.clone(),
                        Some(number) if number > 1 => *name = format!("device[{}]", number + more).into(),
                        _ => {}
                    }
                }
                let further = (1..=more).map(|index| (format!("device[{}]", index + 1).into(), cpu.clone(), None));
                rows.extend(further);
            }
            _ => {}
        }
        rows
    }

    /// As recorded of `qemu64`, with the properties that its own model has.
    fn cpu_rows(&self, index: u64) -> Vec<Row> {
        let board = &self.machine.board;
        let mut rows = recorded::object(self.machine.recorded(), "/machine/unattached/device[0]").unwrap_or_default();
        let model = recorded::cpu_properties(board.cpu_model(), Expansion::Full).and_then(Result::ok);
        let apic = Json::uint(index);
        for (name, _, value) in &mut rows {
            match &**name {
                "type" => *value = Some(format!("{}-x86_64-cpu", board.cpu_model()).into()),
                "apic-id" => *value = Some(apic.clone()),
                "unavailable-features" | "realized" | "hotplugged" => {}
                key => {
                    if let Some(own) = model.as_ref().and_then(|model| model.get(key)) {
                        *value = Some(own.clone());
                    }
                }
            }
        }
        rows
    }

    /// Names and types in a container, in the order of QEMU's hash table, last first (`QAPI_LIST_PREPEND`).
    fn children(&self, container: &str) -> Vec<(Arc<str>, Arc<str>)> {
        let machine = &self.machine;
        let of = |device: &Device| Arc::<str>::from(type_of(&device.driver));
        let all: Vec<(Arc<str>, Arc<str>)> = match container {
            "/objects" => {
                let ram = machine.is_pc() && machine.board.memory_backend.is_none();
                let ram = ram.then(|| (Arc::from("pc.ram"), Arc::from("memory-backend-ram")));
                machine.objects.iter().map(|object| (object.id.clone(), object.kind.into())).chain(ram).collect()
            }
            "/chardevs" => {
                machine.board.chardevs.iter().map(|device| (device.label.clone(), device.kind.into())).collect()
            }
            "/machine/peripheral" => {
                machine.devices.iter().filter_map(|device| Some((device.id.clone()?, of(device)))).collect()
            }
            _ => anonymous(&machine.devices).map(|(name, device)| (name.into(), of(device))).collect(),
        };
        let names: Vec<&str> = all.iter().map(|(name, _)| &**name).collect();
        hash_order(&names).into_iter().rev().map(|i| all[i].clone()).collect()
    }
}

fn within<'a>(device: &'a Device, below: &str) -> Option<QomObject<'a>> {
    match below {
        "" => Some(QomObject::Device(device)),
        "virtio-backend" if backend_type(&type_of(&device.driver)).is_some() => Some(QomObject::Backend(device)),
        _ => None,
    }
}

/// The properties of a type, with the values that were given, or else QEMU's defaults.
fn given_rows(type_name: &str, options: &Json) -> Vec<Row> {
    let defaults = recorded::properties(PropertiesOf::Device, type_name).unwrap_or_default();
    let text = |info: &Json, key: &str| info.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    let row = |info: &Json| {
        let (name, kind) = (text(info, "name"), text(info, "type"));
        let given = options.get(&name).map(|value| typed(&kind, value));
        let default = || {
            let info = defaults.iter().find(|info| info.get("name").and_then(Json::as_str) == Some(&name))?;
            info.get("default-value").cloned()
        };
        let value = match (&*name, &*kind) {
            ("type", _) => Some(Json::str(type_name)),
            _ => given.or_else(default).or_else(|| (kind == "str").then(|| Json::str(""))),
        };
        (name.into(), kind.into(), value)
    };
    recorded::properties(PropertiesOf::Object, type_name).unwrap_or_default().iter().map(row).collect()
}

/// A value of the command line, where all are texts, as one of the type.
fn typed(kind: &str, value: &Json) -> Json {
    let Some(text) = value.as_str() else { return value.clone() };
    let number = || parse_i64(text).map(Json::Int).or_else(|| parse_strosz(text).map(Json::uint));
    match kind {
        "bool" => parse_bool(text).map(Json::Bool),
        "size" | "uint8" | "uint16" | "uint32" | "uint64" | "int32" | "int64" | "int" => number(),
        _ => None,
    }
    .unwrap_or_else(|| value.clone())
}
