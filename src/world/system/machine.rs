//! What clients see of the machine around the block layer: guest devices by their names, objects that users make.
//!
//! No guest runs, so a device is only a name in front of a backend, with its rules about what it can be attached to.

use super::board::Board;
use crate::base::Json;
use crate::qmp::device_properties::check;
use crate::qmp::error::{ErrorClass, QmpError};
use crate::qmp::types::ObjectOptions;
use crate::world::World;
use crate::world::arena::BackendId;
use crate::world::block::open::unsupported::not_simulated;
use crate::world::block::perms::perm;
use crate::world::system::throttle_limits::throttle_limits;
use std::sync::Arc;

/// A device of the command line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// Its name, if it was given one.
    pub id: Option<Arc<str>>,
    /// `driver`: the type of device, such as `virtio-blk`.
    pub driver: Arc<str>,
    /// The disk behind it.
    pub backend: Option<BackendId>,
    /// The guest was asked to let it go.
    pub leaving: bool,
    /// `share-rw`: others may write to its disk too.
    pub share_rw: bool,
    /// `write-cache`, if it is not as its drive has it.
    pub write_cache: Option<bool>,
    /// Its properties, as they were given.
    pub options: Json,
    /// It came by `device_add`.
    pub hotplugged: bool,
}

impl Device {
    /// A device without a name.
    #[must_use]
    pub fn new(driver: Arc<str>) -> Device {
        Device {
            id: None,
            driver,
            backend: None,
            leaving: false,
            share_rw: false,
            write_cache: None,
            options: Json::empty(),
            hotplugged: false,
        }
    }

    /// It is a device within a device.
    #[must_use]
    pub fn is_virtio_disk(&self) -> bool {
        family(&self.driver) == Some("virtio-blk")
    }

    /// Whether it looks at the first sector of its disk for a partition table, to guess its geometry (`hd_geometry_guess`).
    #[must_use]
    pub fn looks_at_disk(&self) -> bool {
        let given = |key: &str| match self.options.get(key) {
            None => false,
            Some(Json::Str(text)) => &**text != "0",
            Some(number) => number.as_u64() != Some(0),
        };
        GUESSING.contains(&family(&self.driver).unwrap_or_default())
            && !["cyls", "heads", "secs"].into_iter().any(given)
    }

    fn is_scsi_controller(&self) -> bool {
        SCSI_CONTROLLERS.iter().any(|model| self.driver.starts_with(model))
    }

    /// Whether its reset waits for the requests of its disk.
    #[must_use]
    pub fn drains_at_reset(&self) -> bool {
        ["virtio-blk", "scsi-hd", "scsi-cd", "usb-storage"].contains(&family(&self.driver).unwrap_or_default())
    }

    /// Whether it may come and go while the guest runs: not on the bus of a Q35's root.
    #[must_use]
    pub fn hotpluggable(&self, machine: &Machine) -> bool {
        let bus = self.options.get("bus").and_then(Json::as_str);
        let root = machine.is_q35() && bus.is_none_or(|bus| bus == "pcie.0");
        !(root && self.asks_guest() || self.driver.starts_with("ide-"))
    }

    /// Whether its requests are waited for when the machine is reset: unlike floppies and the disks of IDE.
    #[must_use]
    pub fn drains_on_reset(&self) -> bool {
        self.is_virtio_disk() || !self.asks_guest()
    }

    /// Whether a guest has to agree that it goes, as with all on a PCI bus.
    #[must_use]
    pub fn asks_guest(&self) -> bool {
        !matches!(family(&self.driver), Some(disk) if disk.starts_with("scsi-") || disk.starts_with("usb-"))
    }
}

/// An object of `-object` or `object-add`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// The `id` that it was made with.
    pub id: Arc<str>,
    /// The QOM type, such as `throttle-group`.
    pub kind: &'static str,
    /// Its properties that are numbers.
    pub numbers: Vec<(&'static str, i64)>,
    /// Its properties, as they were given.
    pub properties: Json,
}

/// `current_machine`: what the command line made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Machine {
    /// `-machine`, as it was given.
    pub kind: Option<Arc<str>>,
    /// Devices, in order.
    pub devices: Vec<Device>,
    /// Devices on board that have disks, so far.
    pub on_board: u32,
    /// Objects, in order.
    pub objects: Vec<Object>,
    /// `-name`
    pub name: Option<Arc<str>>,
    /// `-uuid`
    pub uuid: Option<Arc<str>>,
    /// Processors, memory, character devices, displays.
    pub board: Arc<Board>,
}

/// Models that bring a SCSI bus.
const SCSI_CONTROLLERS: [&str; 13] = [
    "virtio-scsi",
    "lsi",
    "megasas",
    "mptsas1068",
    "pvscsi",
    "am53c974",
    "dc390",
    "usb-bot",
    "usb-uas",
    "usb-storage",
    "vhost-scsi",
    "vhost-user-scsi",
    "esp",
];

/// Models that are disks.
const DISKS: [&str; 14] = [
    "virtio-blk",
    "scsi-hd",
    "scsi-cd",
    "scsi-block",
    "scsi-generic",
    "ide-hd",
    "ide-cd",
    "ide-cf",
    "nvme",
    "nvme-ns",
    "floppy",
    "usb-storage",
    "sd-card",
    "sd-card-spi",
];

/// Properties of an iothread.
const IOTHREAD: [(&str, i64); 6] = [
    ("poll-max-ns", 32_768),
    ("poll-grow", 0),
    ("poll-shrink", 0),
    ("aio-max-batch", 0),
    ("thread-pool-min", 0),
    ("thread-pool-max", 64),
];

impl Machine {
    /// Whether it is one with the disks and buses of a PC.
    #[must_use]
    pub fn is_pc(&self) -> bool {
        self.kind.as_deref().is_none_or(|kind| kind != "none" && kind != "microvm" && kind != "x-remote")
    }

    /// Whether its disks have a bus each.
    #[must_use]
    pub fn is_q35(&self) -> bool {
        self.kind.as_deref().is_some_and(|kind| kind.contains("q35"))
    }

    /// The device of that name.
    #[must_use]
    pub fn device(&self, id: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.id.as_deref() == Some(id))
    }

    /// The object of that name.
    #[must_use]
    pub fn object(&self, id: &str) -> Option<&Object> {
        self.objects.iter().find(|object| &*object.id == id)
    }

    fn has_scsi(&self) -> bool {
        self.devices.iter().any(Device::is_scsi_controller)
    }

    /// The devices as a reset goes through them: on each bus the newest first, and what is on a controller's own bus with that.
    pub(super) fn as_reset(&self) -> Vec<&Device> {
        let bus_of = |device: &Device| device.options.get("bus").and_then(Json::as_str).map(str::to_owned);
        let controller = |device: &Device| {
            let bus = bus_of(device);
            let has_it = |id: &str| bus.as_deref().is_none_or(|bus| bus.strip_suffix(".0") == Some(id));
            let has_it = |other: &Device| other.is_scsi_controller() && has_it(other.id.as_deref().unwrap_or_default());
            self.devices.iter().position(has_it)
        };
        let place = |(at, device): (usize, &Device)| match device.driver.starts_with("scsi-") {
            true => (controller(device).unwrap_or(0), at),
            false => (at, at),
        };
        let mut order: Vec<_> =
            self.devices.iter().enumerate().map(|(at, device)| (place((at, device)), device)).collect();
        order.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
        order.into_iter().map(|(_, device)| device).collect()
    }
}

/// A disk's model without the variants of its bus.
fn family(driver: &str) -> Option<&'static str> {
    let bare = driver.trim_end_matches("-non-transitional").trim_end_matches("-transitional");
    let bare = bare.strip_suffix("-pci").or_else(|| bare.strip_suffix("-device")).unwrap_or(bare);
    let bare = bare.strip_suffix("-ccw").unwrap_or(bare);
    DISKS.into_iter().find(|disk| *disk == bare)
}

/// Those whose disk may get another size; they and CDs also have an I/O status.
const RESIZABLE: [&str; 5] = ["virtio-blk", "scsi-hd", "ide-hd", "ide-cf", "usb-storage"];

/// Those that guess their disk's geometry.
const GUESSING: [&str; 5] = ["virtio-blk", "scsi-hd", "ide-hd", "ide-cf", "usb-storage"];

/// What a model's property is called in messages.
fn owner(family: &str) -> &str {
    if family == "virtio-blk" { "virtio-blk-device" } else { family }
}

impl World {
    /// `qdev_device_add`, up to the disk behind it: the checks, and the name of the disk, if it has one.
    ///
    /// # Errors
    /// What QEMU says about it.
    pub(super) fn device_new(&self, options: &Json, texts: bool) -> Result<(Device, Option<Arc<str>>), String> {
        let text =
            |key: &str| options.get(key).and_then(Json::as_str).filter(|text| !text.is_empty()).map(Arc::<str>::from);
        let driver = text("driver").ok_or("Parameter 'driver' is missing")?;
        let on = |key: &str| match options.get(key) {
            Some(Json::Bool(on)) => Some(*on),
            Some(Json::Str(text)) if matches!(&**text, "on" | "off") => Some(&**text == "on"),
            _ => None,
        };
        let device = Device {
            // The empty one is a name, too: such a device has its place among those with a name, but nobody is told its id.
            id: options.get("id").and_then(Json::as_str).map(Arc::<str>::from),
            share_rw: on("share-rw") == Some(true),
            write_cache: on("write-cache"),
            options: options.clone(),
            ..Device::new(driver.clone())
        };
        if let Some(id) = device.id.as_deref().filter(|id| self.machine.device(id).is_some()) {
            return Err(format!("Duplicate device ID '{id}'"));
        }
        if driver.starts_with("scsi-") && !self.machine.has_scsi() {
            return Err(format!("No 'SCSI' bus found for device '{driver}'"));
        }
        if driver.starts_with("ide-") && !self.machine.is_pc() {
            return Err(format!("No 'IDE' bus found for device '{driver}'"));
        }
        check(&super::qom::type_of(&driver), options, texts)?;
        if let Some(thread) = text("iothread")
            && self.machine.object(&thread).is_none_or(|object| object.kind != "iothread")
        {
            return Err(format!("Device '{thread}' not found"));
        }
        let Some(family) = family(&driver) else { return Ok((device, None)) };
        match (text("drive"), family) {
            (Some(drive), _) => {
                if self.graph.blk_by_name(&drive).is_none() && self.graph.find_node(&drive).is_none() {
                    return Err(format!("Property '{}.drive' can't find value '{drive}'", owner(family)));
                }
                Ok((device, Some(drive)))
            }
            (None, "scsi-cd" | "ide-cd" | "floppy" | "sd-card" | "sd-card-spi" | "nvme") => Ok((device, None)),
            (None, "ide-hd" | "ide-cf") => Err("No drive specified".to_owned()),
            (None, _) => Err("drive property not set".to_owned()),
        }
    }

    /// A device takes a backend over, if there is one, and is there from then on (`blk_attach_dev`, `blkconf_apply_backend_options`).
    ///
    /// # Errors
    /// The backend is taken, can't be written to, or can't be shared.
    pub(super) fn device_attach(&mut self, mut device: Device, blk: Option<BackendId>) -> Result<(), String> {
        let family = family(&device.driver);
        let blk = match (blk, family) {
            // A drive without a medium.
            (None, Some("scsi-cd" | "ide-cd" | "floppy")) => Some(self.blk_new("".into(), 0, perm::ALL)),
            (blk, _) => blk,
        };
        if let Some(blk) = blk {
            let path = match &device.id {
                Some(id) => format!("/machine/peripheral/{id}"),
                None => {
                    let number = self.machine.devices.iter().filter(|other| other.id.is_none()).count();
                    format!("/machine/peripheral-anon/device[{number}]")
                }
            };
            // virtio's disk is a device within the device, and has no id of its own.
            let dev = match (family, &device.id) {
                (Some("virtio-blk"), _) => format!("{path}/virtio-backend"),
                // Its disk is a SCSI disk of its own on a bus of its own.
                (Some("usb-storage"), Some(id)) => format!("{path}/{id}.0/legacy[0]"),
                (_, Some(id)) => id.to_string(),
                (_, None) => path,
            };
            self.take_over(blk, dev, family.unwrap_or("virtio-blk"), device.share_rw)?;
            if let Some(on) = device.write_cache {
                self.graph.backends[blk].write_cache = on;
            }
        }
        device.backend = blk;
        self.machine.devices.push(device);
        Ok(())
    }

    /// A disk on board takes a backend over.
    ///
    /// # Errors
    /// As for any other device.
    pub(super) fn attach_on_board(&mut self, blk: BackendId, cdrom: bool, floppies: u64) -> Result<(), String> {
        // A Q35 has a floppy controller only where it has a drive, and before its disks.
        let first = match (self.machine.is_q35(), floppies) {
            (true, 0) => 13,
            (true, n) => 14 + n,
            (false, _) => 4,
        };
        let first = first + self.cpus().saturating_sub(1);
        let dev = format!("/machine/unattached/device[{}]", first + u64::from(self.machine.on_board));
        self.machine.on_board += 1;
        self.take_over(blk, dev, if cdrom { "ide-cd" } else { "ide-hd" }, false)
    }

    /// A drive of the floppy controller on board takes a backend over; `n`: the how manieth.
    ///
    /// # Errors
    /// As for any other device.
    pub(super) fn attach_floppy(&mut self, blk: BackendId, n: u64) -> Result<(), String> {
        let first = if self.machine.is_q35() { 9 } else { 10 + u64::from(self.machine.on_board) };
        let dev = format!("/machine/unattached/device[{}]", first + self.cpus().saturating_sub(1) + n);
        self.take_over(blk, dev, "floppy", false)
    }

    fn take_over(&mut self, blk: BackendId, dev: String, family: &str, share_rw: bool) -> Result<(), String> {
        let cdrom = family.ends_with("-cd");
        let node = self.graph.blk_bs(blk);
        let writable = node.is_some_and(|bs| self.graph.nodes[bs].flags.rdwr);
        if node.is_some() && !writable && family == "ide-hd" {
            return Err("Block node is read-only".to_owned());
        }
        if let Some(other) = &self.graph.backends[blk].dev {
            let _ = other;
            let name = self.graph.backends[blk].name.clone();
            return Err(format!("Property '{}.drive' can't take value '{name}', it's in use", owner(family)));
        }
        self.graph.backends[blk].dev = Some(dev.into());
        self.graph.backends[blk].removable = cdrom || family == "floppy" || family.starts_with("sd-card");
        self.graph.backends[blk].tray = cdrom;
        self.graph.backends[blk].iostatus_enabled = RESIZABLE.contains(&family) || cdrom;
        self.device_perm(blk, family, share_rw).map_err(|err| {
            // The device goes, and with it what it had taken (`blk_detach_dev`).
            let backend = &mut self.graph.backends[blk];
            (backend.dev, backend.removable, backend.tray, backend.iostatus_enabled) = (None, false, false, false);
            let _ = self.blk_set_perm(blk, 0, perm::ALL);
            err.desc.to_string()
        })
    }

    /// `fd_change_cb`: only a floppy drive applies its options anew when a disk comes, and drops them when it goes.
    pub(in crate::world) fn renew_device_perm(&mut self, blk: BackendId, load: bool) {
        let device = self.machine.devices.iter().find(|device| device.backend == Some(blk));
        if device.and_then(|device| family(&device.driver)) != Some("floppy") {
            return;
        }
        if load {
            // A medium that is in use elsewhere is refused where it is inserted.
            let _ = self.device_perm(blk, "floppy", false);
        } else {
            let _ = self.blk_set_perm(blk, 0, perm::ALL);
        }
    }

    /// `blkconf_apply_backend_options`; a card shares all.
    fn device_perm(&mut self, blk: BackendId, family: &str, share_rw: bool) -> Result<(), QmpError> {
        let writable = self.graph.blk_bs(blk).is_some_and(|bs| self.graph.nodes[bs].flags.rdwr);
        let taken = perm::CONSISTENT_READ | if writable && !family.ends_with("-cd") { perm::WRITE } else { 0 };
        let resizable = if RESIZABLE.contains(&family) { perm::RESIZE } else { 0 };
        let written = if share_rw { perm::WRITE } else { 0 };
        let shared = match family.starts_with("sd-card") {
            true => perm::ALL,
            false => perm::CONSISTENT_READ | perm::WRITE_UNCHANGED | resizable | written,
        };
        self.blk_set_perm(blk, taken, shared)
    }

    /// `blk_by_qdev_id`
    ///
    /// # Errors
    /// There is no such device, or it has no disk.
    pub(in crate::world) fn blk_by_qdev_id(&self, id: &str) -> Result<BackendId, QmpError> {
        let name = id.strip_prefix("/machine/peripheral/").unwrap_or(id);
        // `find_device_state`: what is no absolute path begins at `/machine/peripheral`, such as `vblk/virtio-backend`.
        let is_it = |dev: &str| dev == id || dev.strip_prefix("/machine/peripheral/").unwrap_or(dev) == name;
        let found = self.graph.backends.iter().find(|(_, b)| b.dev.as_deref().is_some_and(is_it));
        if let Some((blk, _)) = found {
            return Ok(blk);
        }
        match self.machine.device(name) {
            None => Err(QmpError::new(ErrorClass::DeviceNotFound, format!("Device '{id}' not found"))),
            Some(_) => Err(QmpError::generic("Device does not have a block device backend")),
        }
    }

    /// `user_creatable_add_qapi`
    ///
    /// # Errors
    /// What QEMU says about the properties, or that there is such an object.
    pub(in crate::world) fn object_add(&mut self, options: &ObjectOptions) -> Result<(), QmpError> {
        let kind = options.qom_type.0;
        let (mut numbers, mut limits) = (Vec::new(), None);
        let members = options.properties.as_dict().unwrap_or_default();
        match kind {
            "iothread" => {
                for (name, default) in IOTHREAD {
                    let given = number(members, name, name, options.texts)?;
                    in_range(name, given)?;
                    numbers.push((name, given.unwrap_or(default)));
                }
                check_thread_pool(numbers[4].1, numbers[5].1)?;
                no_others(members, |key| IOTHREAD.iter().any(|(name, _)| *name == key))?;
            }
            "throttle-group" => limits = Some(throttle_limits(members, options.texts)?),
            "memory-backend-file"
            | "memory-backend-ram"
            | "memory-backend-memfd"
            | "memory-backend-shm"
            | "secret"
            | "rng-random"
            | "rng-builtin"
            | "tls-creds-anon"
            | "tls-creds-psk"
            | "tls-creds-x509"
            | "authz-simple"
            | "authz-list"
            | "qtest" => {}
            other => return Err(not_simulated(&format!("object {other}"))),
        }
        let formed = options.id.starts_with(|c: char| c.is_ascii_alphabetic())
            && options.id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if !formed {
            return Err(QmpError::generic("Parameter 'id' expects an identifier"));
        }
        // Properties are set before the object gets its name.
        limits.as_ref().map_or(Ok(()), |limits| limits.check()).map_err(QmpError::generic)?;
        if self.machine.object(&options.id).is_some() {
            let text = format!("attempt to add duplicate property '{}' to object (type 'container')", options.id);
            return Err(QmpError::generic(text));
        }
        if let Some(limits) = limits {
            if self.throttling.group(&options.id).is_some() {
                return Err(QmpError::generic("A group with this name already exists"));
            }
            self.throttling.add(options.id.clone(), limits, true);
        }
        self.machine.objects.push(Object {
            id: options.id.clone(),
            kind,
            numbers,
            properties: options.properties.clone(),
        });
        Ok(())
    }

    /// `user_creatable_del`
    ///
    /// # Errors
    /// There is no such object.
    pub(in crate::world) fn object_del(&mut self, id: &str) -> Result<(), QmpError> {
        match self.machine.objects.iter().position(|object| &*object.id == id) {
            None => Err(QmpError::generic(format!("object '{id}' not found"))),
            Some(i) => {
                if self.machine.objects[i].kind == "throttle-group" {
                    if self.throttling.in_use(id) {
                        return Err(QmpError::generic(format!("object '{id}' is in use, can not be deleted")));
                    }
                    self.throttling.remove_object(id);
                }
                self.machine.objects.remove(i);
                Ok(())
            }
        }
    }

    /// `query-name`
    pub(in crate::world) fn query_name(&self) -> Json {
        Json::dict(self.machine.name.iter().map(|name| ("name", Json::Str(name.clone()))).collect())
    }

    /// `query-uuid`
    pub(super) fn query_uuid(&self) -> Json {
        let uuid = self.machine.uuid.clone().unwrap_or_else(|| "00000000-0000-0000-0000-000000000000".into());
        Json::dict(vec![("UUID", Json::Str(uuid))])
    }

    /// `query-iothreads`. Those threads are not there: the number is that of the one that does their work, or the object's.
    pub(in crate::world) fn query_iothreads(&self) -> Json {
        let threads = self.machine.objects.iter().enumerate().filter(|(_, object)| object.kind == "iothread");
        let thread = |number: u64| if self.machine.board.thread == 0 { number } else { self.machine.board.thread };
        let info = |(i, object): (usize, &Object)| {
            let mut members =
                vec![("id", Json::Str(object.id.clone())), ("thread-id", Json::uint(thread(i as u64 + 1)))];
            members.extend(object.numbers.iter().take(4).map(|(name, n)| (*name, Json::Int(*n))));
            Json::dict(members)
        };
        Json::list(threads.map(info).collect())
    }
}

/// A number by its name, which an error calls by its path; `texts`: on the command line all values are texts.
pub(super) fn number(
    members: &[(Arc<str>, Json)],
    name: &str,
    path: &str,
    texts: bool,
) -> Result<Option<i64>, QmpError> {
    match members.iter().find(|(key, _)| &**key == name) {
        None => Ok(None),
        Some((_, Json::Int(n))) => Ok(Some(*n)),
        Some((_, Json::Str(text))) if texts && text.parse::<i64>().is_ok() => Ok(text.parse().ok()),
        Some(_) => Err(QmpError::generic(format!("Invalid parameter type for '{path}', expected: integer"))),
    }
}

/// `iothread_set_param`, `event_loop_base_set_param`, `thread_pool` of an iothread.
pub(super) fn in_range(property: &str, value: Option<i64>) -> Result<(), QmpError> {
    if value.is_some_and(|value| value < 0) {
        return Err(QmpError::generic(format!("{property} value must be in range [0, {}]", i64::MAX)));
    }
    Ok(())
}

/// `aio_context_set_thread_pool_params`
fn check_thread_pool(min: i64, max: i64) -> Result<(), QmpError> {
    match i32::try_from(max) {
        Ok(1..) if min <= max => Ok(()),
        _ => Err(QmpError::generic("bad thread-pool-min/thread-pool-max values")),
    }
}

pub(super) fn no_others(members: &[(Arc<str>, Json)], known: impl Fn(&str) -> bool) -> Result<(), QmpError> {
    match members.iter().find(|(key, _)| &**key != "id" && &**key != "qom-type" && !known(key)) {
        None => Ok(()),
        Some((key, _)) => Err(QmpError::generic(format!("Parameter '{key}' is unexpected"))),
    }
}
