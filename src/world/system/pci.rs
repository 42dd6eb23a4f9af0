//! What is on the first PCI bus (`hw/pci/pci-qmp-cmds.c`), as it is before any firmware runs: no device has an address, no bridge a
//! number, and so nothing is seen behind a bridge.

use super::machine::Device;
use super::qom::type_of;
use crate::base::Json;
use crate::qmp::recorded;
use crate::world::World;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Slots of a bus.
const SLOTS: u64 = 32;

impl World {
    /// `qmp_query_pci`: the devices on board as recorded, and those of the command line, by their places.
    pub(super) fn query_pci(&self) -> Json {
        let base = recorded::pci(self.machine.recorded());
        let Some(first) = base.as_list().and_then(<[Json]>::first) else { return base };
        let number = |info: &Json, key: &str| info.get(key).and_then(Json::as_u64).unwrap_or(0);
        let on_board = first.get("devices").and_then(Json::as_list).unwrap_or_default();
        let place = |info: &Json| ((number(info, "slot"), number(info, "function")), info.clone());
        let mut devices: BTreeMap<(u64, u64), Json> = on_board.iter().map(place).collect();
        let root = if self.machine.is_q35() { "pcie.0" } else { "pci.0" };
        for device in &self.machine.devices {
            let bus = device.options.get("bus").and_then(Json::as_str);
            if bus.is_some_and(|bus| bus != root) {
                continue;
            }
            let Some(info) = recorded::pci_device(&type_of(&device.driver)) else { continue };
            // Without an address it takes the first slot of which nobody has function 0.
            let free = || (0..SLOTS).map(|slot| (slot, 0)).find(|place| !devices.contains_key(place));
            let Some(place) = address(device).or_else(free) else { continue };
            devices.insert(place, at(&info, place, device.id.as_deref().unwrap_or_default()));
        }
        let devices = devices.into_values().collect();
        Json::list(vec![Json::dict(vec![("bus", Json::uint(0)), ("devices", Json::list(devices))])])
    }
}

/// `addr`: `SLOT` or `SLOT.FUNCTION`, both in hexadecimal, or a number of both.
fn address(device: &Device) -> Option<(u64, u64)> {
    let addr = device.options.get("addr")?;
    let Some(text) = addr.as_str() else {
        let number = addr.as_u64()?;
        return Some((number >> 3, number & 7));
    };
    let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    Some((hex(slot)?, hex(function)?))
}

/// What is told of a device, at its place.
fn at(info: &Json, (slot, function): (u64, u64), id: &str) -> Json {
    let member = |(key, value): &(Arc<str>, Json)| {
        let value = match &**key {
            "slot" => Json::uint(slot),
            "function" => Json::uint(function),
            "qdev_id" => Json::str(id),
            _ => value.clone(),
        };
        (key.clone(), value)
    };
    Json::Dict(Arc::new(info.as_dict().unwrap_or_default().iter().map(member).collect()))
}
