//! Properties of `-device` and `device_add`: which a model has, and what values they take (`hw/core/qdev-properties.c`,
//! `qdev-properties-system.c`).

use super::hash_order::wire_order;
use super::keyval::{parse_bool, parse_i64, parse_strosz, parse_u64};
use super::recorded::{PropertiesOf, properties};
use crate::base::Json;

/// Properties of disks, so that those need not be looked up. `tests/recorded_answers.rs` holds them against QEMU's.
pub const DISK_PROPERTIES: [(&str, &str); 15] = [
    ("bootindex", "int32"),
    ("cyls", "uint32"),
    ("discard_granularity", "size"),
    ("drive", "str"),
    ("heads", "uint32"),
    ("logical_block_size", "size"),
    ("min_io_size", "size"),
    ("opt_io_size", "size"),
    ("physical_block_size", "size"),
    ("rerror", "BlockdevOnError"),
    ("secs", "uint32"),
    ("serial", "str"),
    ("share-rw", "bool"),
    ("werror", "BlockdevOnError"),
    ("write-cache", "OnOffAuto"),
];
/// Models that have all of those.
pub const DISK_MODELS: [&str; 3] = ["ide-hd", "scsi-hd", "virtio-blk-pci"];

/// What every device is made with; none of these is a property of its own.
const PLACES: [&str; 3] = ["bus", "driver", "id"];

/// Looks at the options of a device. `texts`: all values are texts, as on the command line.
///
/// # Errors
/// The first that is wrong, in the order in which QEMU sets them, or what the device finds when it is realized.
pub fn check(type_name: &str, options: &Json, texts: bool) -> Result<(), String> {
    let members = options.as_dict().unwrap_or_default();
    let mut looked_up: Option<Option<Vec<Json>>> = None;
    for index in wire_order(members) {
        let (name, value) = &members[index];
        if PLACES.contains(&&**name) {
            continue;
        }
        let known = DISK_PROPERTIES.iter().find(|(known, _)| *known == &**name && DISK_MODELS.contains(&type_name));
        if let Some((_, kind)) = known {
            value_of(type_name, name, kind, value, texts)?;
            continue;
        }
        let all = looked_up.get_or_insert_with(|| properties(PropertiesOf::Device, type_name));
        // Of a type without a record nothing is known.
        let Some(all) = all else { return Ok(()) };
        let text = |info: &Json, key: &str| info.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
        match all.iter().find(|info| text(info, "name") == **name) {
            Some(info) => value_of(type_name, name, &text(info, "type"), value, texts)?,
            None if ["type", "hotplugged", "parent_bus"].contains(&&**name) => {
                return Err(format!("Property '{type_name}.{name}' is not writable"));
            }
            // Not listed, and there.
            None if ["realized", "hotpluggable", "bootindex", "iothread", "drive"].contains(&&**name) => {}
            None => return Err(format!("Property '{type_name}.{name}' not found")),
        }
    }
    realize(type_name, options, texts)
}

/// The visitors of QMP and of the command line, for one value.
fn value_of(type_name: &str, name: &str, kind: &str, value: &Json, texts: bool) -> Result<(), String> {
    let wrong = |expected: &str| Err(format!("Invalid parameter type for '{name}', expected: {expected}"));
    let expects = |what: &str| Err(format!("Parameter '{name}' expects {what}"));
    let text = value.as_str();
    match kind {
        "bool" if texts => match text.and_then(parse_bool) {
            Some(_) => Ok(()),
            None => expects("'on' or 'off'"),
        },
        "bool" => {
            if matches!(value, Json::Bool(_)) {
                Ok(())
            } else {
                wrong("boolean")
            }
        }
        "int32" if name == "addr" => match (text, value) {
            (Some(text), _) if !is_pci_address(text) => {
                Err(format!("Property '{type_name}.{name}' doesn't take value '{text}'"))
            }
            (Some(_), _) | (None, Json::Int(_)) => Ok(()),
            (None, _) => wrong("integer"),
        },
        "int8" | "int16" | "int32" | "int64" => {
            let number = match (texts, value) {
                (true, _) => text.and_then(parse_i64),
                (false, Json::Int(number)) => Some(*number),
                (false, _) => return wrong("integer"),
            };
            let Some(number) = number else { return expects("integer") };
            if kind == "int32" && i32::try_from(number).is_err() { expects("int32_t") } else { Ok(()) }
        }
        "uint8" | "uint16" | "uint32" | "uint64" => {
            let number = match (texts, value) {
                (true, _) => text.and_then(parse_u64),
                (false, Json::Int(number)) => Some(number.cast_unsigned()),
                (false, Json::Uint(number)) => Some(*number),
                (false, _) => return expects("uint64"),
            };
            let Some(number) = number else { return expects("integer") };
            let max = match kind {
                "uint8" => 0xff,
                "uint16" => 0xffff,
                "uint32" => 0xffff_ffff,
                _ => u64::MAX,
            };
            if number > max { expects(&format!("{kind}_t")) } else { Ok(()) }
        }
        "size" => {
            let Some(size) = size(value, texts) else { return expects(if texts { "size" } else { "uint64" }) };
            let block = name == "logical_block_size" || name == "physical_block_size";
            if block && size != 0 && !(size.is_power_of_two() && (512..=2 << 20).contains(&size)) {
                return Err(format!("parameter {name} must be a power of 2 between 512 and 2097152"));
            }
            Ok(())
        }
        _ => {
            let Some(text) = text else {
                // Lists and the like are not looked at.
                let scalar =
                    matches!(kind, "str" | "string" | "OnOffAuto" | "BlockdevOnError") || kind.starts_with("link<");
                return if scalar { wrong("string") } else { Ok(()) };
            };
            let names: &[&str] = match kind {
                "OnOffAuto" => &["auto", "on", "off"],
                "BlockdevOnError" => &["report", "ignore", "enospc", "stop", "auto"],
                _ => return Ok(()),
            };
            match names.contains(&text) {
                true => Ok(()),
                false => Err(format!("Parameter '{name}' does not accept value '{text}'")),
            }
        }
    }
}

fn size(value: &Json, texts: bool) -> Option<u64> {
    match value {
        Json::Str(text) if texts => parse_strosz(text),
        Json::Int(number) => Some(number.cast_unsigned()),
        Json::Uint(number) => Some(*number),
        _ => None,
    }
}

/// `SLOT` or `SLOT.FUNCTION`, in hexadecimal.
fn is_pci_address(text: &str) -> bool {
    let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
    let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    number(slot).is_some_and(|slot| slot < 32) && number(function).is_some_and(|function| function < 8)
}

/// What a disk says when it is realized (`blkconf_blocksizes`, `virtio_blk_device_realize`).
fn realize(type_name: &str, options: &Json, texts: bool) -> Result<(), String> {
    let get = |name: &str| options.get(name).and_then(|value| size(value, texts)).filter(|size| *size != 0);
    let virtio = type_name.starts_with("virtio-blk");
    if virtio && options.get("num-queues").and_then(|value| size(value, texts)) == Some(0) {
        return Err("num-queues property must be larger than 0".to_owned());
    }
    if let Some(queue) = get("queue-size").filter(|queue| virtio && !(queue.is_power_of_two() && *queue <= 1024)) {
        return Err(format!("invalid queue-size property ({queue}), must be a power of 2 (max 1024)"));
    }
    let block = |name: &str| get(name).unwrap_or(512);
    let (logical, physical) = (block("logical_block_size"), block("physical_block_size"));
    if logical > physical {
        return Err("logical_block_size > physical_block_size not supported".to_owned());
    }
    for name in ["min_io_size", "opt_io_size", "discard_granularity"] {
        if get(name).is_some_and(|size| size != u64::from(u32::MAX) && size % logical != 0) {
            return Err(format!("{name} must be a multiple of logical_block_size"));
        }
    }
    Ok(())
}
