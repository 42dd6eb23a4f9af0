//! `-drive` options and `json:` file names: block device descriptions whose scalars are all text
//! (util/qemu-option.c, blockdev.c:drive_new, block.c:parse_json_filename).

use crate::base::id::id_wellformed;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::QmpError;
use super::hash_order::wire_order;
use super::json::parse_one;
use super::keyval::{parse_bool, parse_u64};
use super::types::{AioOption, DetectZeroes};
use super::visit::QapiEnum as _;
use crate::base::Json;

/// The members of a dictionary under construction, each key once.
type Members = Vec<(Arc<str>, Json)>;

/// What a `-drive` option says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DriveOptions {
    /// Name of the device; made up if absent.
    pub id: Option<Arc<str>>,
    /// `if`: the bus; the machine's default if absent.
    pub interface: Option<Arc<str>>,
    /// `bus`, `unit` and `index`.
    pub place: [Option<u64>; 3],
    /// `media=cdrom`
    pub cdrom: bool,
    /// `file`: the image's file name.
    pub file: Option<Arc<str>>,
    /// `read-only`, also set for cdrom.
    pub read_only: bool,
    /// `copy-on-read`, never set together with `read_only`.
    pub copy_on_read: bool,
    /// `cache.writeback`; default true.
    pub writeback: bool,
    /// `stats-account-invalid`, `stats-account-failed`; default true.
    pub account: [bool; 2],
    /// `snapshot`
    pub snapshot: bool,
    /// `aio`
    pub aio: Option<AioOption>,
    /// `detect-zeroes`
    pub detect_zeroes: DetectZeroes,
    /// `werror`; default enospc.
    pub werror: Option<Arc<str>>,
    /// `rerror`; default report.
    pub rerror: Option<Arc<str>>,
    /// `throttling.NAME` numbers.
    pub throttling: Vec<(Arc<str>, u64)>,
    /// `throttling.group`
    pub throttling_group: Option<Arc<str>>,
    /// What remains for the node, nested, scalars as text: the driver (`format` is one way to say it), `node-name`,
    /// `discard`, `cache`, `file`…; to be read with [`super::types::BlockdevOptions::from_texts`].
    pub node: Json,
}

impl DriveOptions {
    /// Whether they say what to open: a file, or a driver.
    #[must_use]
    pub fn open_something(&self) -> bool {
        self.file.is_some() || ["file", "driver"].iter().any(|key| self.node.get(key).is_some())
    }
}

/// Older names of options.
const RENAMES: [(&str, &str); 15] = [
    ("iops", "throttling.iops-total"),
    ("iops_rd", "throttling.iops-read"),
    ("iops_wr", "throttling.iops-write"),
    ("bps", "throttling.bps-total"),
    ("bps_rd", "throttling.bps-read"),
    ("bps_wr", "throttling.bps-write"),
    ("iops_max", "throttling.iops-total-max"),
    ("iops_rd_max", "throttling.iops-read-max"),
    ("iops_wr_max", "throttling.iops-write-max"),
    ("bps_max", "throttling.bps-total-max"),
    ("bps_rd_max", "throttling.bps-read-max"),
    ("bps_wr_max", "throttling.bps-write-max"),
    ("iops_size", "throttling.iops-size"),
    ("group", "throttling.group"),
    ("readonly", "read-only"),
];

/// What `cache=` stands for: the name, `cache.writeback`, `cache.direct`, `cache.no-flush`.
const CACHE_MODES: [(&str, &str, &str, &str); 6] = [
    ("off", "on", "on", "off"),
    ("none", "on", "on", "off"),
    ("directsync", "off", "on", "off"),
    ("writeback", "on", "off", "off"),
    ("unsafe", "on", "off", "on"),
    ("writethrough", "off", "off", "off"),
];

/// The bus names `if=` takes.
const INTERFACES: [&str; 9] = ["none", "ide", "scsi", "floppy", "pflash", "mtd", "sd", "virtio", "xen"];
/// Those of them that take `werror` and `rerror`.
const WITH_ERROR_POLICY: [&str; 4] = ["ide", "scsi", "virtio", "none"];
/// Options that are true or false and are read first (`qemu_legacy_drive_opts`).
const LEGACY_BOOLS: [&str; 2] = ["read-only", "copy-on-read"];
/// Options that are true or false and are read later (`qemu_common_drive_opts`).
const COMMON_BOOLS: [&str; 4] = ["snapshot", "cache.writeback", "stats-account-invalid", "stats-account-failed"];
/// Options that are numbers and are read first.
const PLACE: [&str; 3] = ["bus", "unit", "index"];
/// Which limits `throttling.*` knows.
const THROTTLES: [&str; 6] = ["bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"];

/// Splits `key=value,…` as QemuOpts does: `,,` is a comma in a value, `key` alone means on and `nokey` off.
#[must_use]
pub fn split_options(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let len = rest.find(['=', ',']).unwrap_or(rest.len());
        let key = &rest[..len];
        let Some(value) = rest[len..].strip_prefix('=') else {
            pairs.push(match key.strip_prefix("no") {
                Some(key) => (key.to_string(), "off".to_string()),
                None => (key.to_string(), "on".to_string()),
            });
            rest = &rest[(len + 1).min(rest.len())..];
            continue;
        };
        let (value, after) = super::keyval::take_value(value);
        pairs.push((key.to_string(), value));
        rest = after;
    }
    pairs
}

fn take(members: &mut Members, key: &str) -> Option<Arc<str>> {
    let at = members.iter().position(|(k, _)| &**k == key)?;
    match members.remove(at).1 {
        Json::Str(text) => Some(text),
        _ => None,
    }
}

fn set(members: &mut Members, key: &str, value: &str) {
    match members.iter_mut().find(|(k, _)| &**k == key) {
        Some((_, old)) => *old = Json::str(value),
        None => members.push((key.into(), Json::str(value))),
    }
}

fn has(members: &Members, key: &str) -> bool {
    members.iter().any(|(k, _)| &**k == key)
}

fn take_bool(members: &mut Members, key: &str, default: bool) -> bool {
    take(members, key).and_then(|text| parse_bool(&text)).unwrap_or(default)
}

fn is_throttle_number(key: &str) -> bool {
    let Some(name) = key.strip_prefix("throttling.") else { return false };
    let limit = name.strip_suffix("-max-length").or_else(|| name.strip_suffix("-max")).unwrap_or(name);
    name == "iops-size" || THROTTLES.contains(&limit)
}

fn is_place(key: &str) -> bool {
    PLACE.contains(&key)
}

/// Checks the values that must be booleans or numbers, in the order QEMU's dictionary lists them.
fn check_scalars(members: &Members, bools: &[&str], is_number: fn(&str) -> bool) -> Result<(), QmpError> {
    for index in wire_order(members) {
        let (key, Json::Str(value)) = &members[index] else { continue };
        let expects = |what: &str| QmpError::generic(format!("Parameter '{key}' expects {what}"));
        if bools.contains(&&**key) && parse_bool(value).is_none() {
            return Err(expects("'on' or 'off'"));
        }
        if is_number(key) && parse_u64(value).is_none() {
            let digits = value.strip_prefix('-').unwrap_or(value);
            if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0') {
                let text = format!("Value '{value}' is too large for parameter '{key}'");
                return Err(QmpError::generic(text));
            }
            return Err(expects("a number"));
        }
    }
    Ok(())
}

/// `bdrv_parse_cache_mode` and its use in `drive_new`.
fn spread_cache(members: &mut Members) -> Result<(), QmpError> {
    let Some(mode) = take(members, "cache") else { return Ok(()) };
    let Some((_, writeback, direct, no_flush)) = CACHE_MODES.iter().find(|(name, ..)| *name == &*mode) else {
        return Err(QmpError::generic("invalid cache option"));
    };
    for (key, value) in [("cache.writeback", writeback), ("cache.direct", direct), ("cache.no-flush", no_flush)] {
        if !has(members, key) {
            set(members, key, value);
        }
    }
    Ok(())
}

fn policy(members: &mut Members, key: &str, interface: Option<&str>) -> Result<Option<Arc<str>>, QmpError> {
    let value = take(members, key);
    if value.is_some() && interface.is_some_and(|i| !WITH_ERROR_POLICY.contains(&i)) {
        return Err(QmpError::generic(format!("{key} is not supported by this bus type")));
    }
    Ok(value)
}

fn check_policy(value: Option<&str>, is_read: bool) -> Result<(), QmpError> {
    match value {
        None | Some("ignore" | "stop" | "report") => Ok(()),
        Some("enospc") if !is_read => Ok(()),
        Some(text) => {
            let what = if is_read { "read" } else { "write" };
            Err(QmpError::generic(format!("'{text}' invalid {what} error action")))
        }
    }
}

impl DriveOptions {
    /// Reads the argument of `-drive`.
    ///
    /// # Errors
    /// What QEMU says about the option, as far as that does not depend on other drives or on the node.
    pub fn parse(text: &str) -> Result<DriveOptions, QmpError> {
        let mut members = Members::new();
        let mut id: Option<Arc<str>> = None;
        for (key, value) in split_options(text) {
            if key != "id" {
                set(&mut members, &key, &value);
            } else if id.is_none() {
                id = Some(value.into());
            }
        }
        if id.as_deref().is_some_and(|id| !id_wellformed(id)) {
            return Err(QmpError::generic("Parameter 'id' expects an identifier"));
        }
        for (from, to) in RENAMES {
            if has(&members, from) && has(&members, to) {
                let text = format!("'{to}' and its alias '{from}' can't be used at the same time");
                return Err(QmpError::generic(text));
            }
            if let Some(value) = take(&mut members, from) {
                set(&mut members, to, &value);
            }
        }
        spread_cache(&mut members)?;
        check_scalars(&members, &LEGACY_BOOLS, is_place)?;
        DriveOptions::build(id, members)
    }

    fn build(id: Option<Arc<str>>, mut rest: Members) -> Result<DriveOptions, QmpError> {
        let m = &mut rest;
        let cdrom = match take(m, "media").as_deref() {
            None | Some("disk") => false,
            Some("cdrom") => true,
            Some(other) => return Err(QmpError::generic(format!("'{other}' invalid media"))),
        };
        let read_only = take_bool(m, "read-only", false) || cdrom;
        let copy_on_read = take_bool(m, "copy-on-read", false) && !read_only;
        let interface = take(m, "if");
        if let Some(name) = interface.as_deref().filter(|name| !INTERFACES.contains(name)) {
            return Err(QmpError::generic(format!("unsupported bus type '{name}'")));
        }
        let place = PLACE.map(|key| take(m, key).and_then(|text| parse_u64(&text)));
        if place[2].is_some() && (place[0].is_some_and(|bus| bus != 0) || place[1].is_some()) {
            return Err(QmpError::generic("index cannot be used with bus and unit"));
        }
        let file = take(m, "file");
        let werror = policy(m, "werror", interface.as_deref())?;
        let rerror = policy(m, "rerror", interface.as_deref())?;
        check_scalars(m, &COMMON_BOOLS, is_throttle_number)?;
        let snapshot = take_bool(m, "snapshot", false);
        let writeback = take_bool(m, "cache.writeback", true);
        let account = ["stats-account-invalid", "stats-account-failed"].map(|key| take_bool(m, key, true));
        let aio = match take(m, "aio") {
            None => None,
            Some(name) => Some(AioOption::from_name(&name).ok_or_else(|| QmpError::generic("invalid aio option"))?),
        };
        let throttling_group = take(m, "throttling.group");
        let names: Vec<Arc<str>> = m.iter().map(|(k, _)| k.clone()).filter(|k| is_throttle_number(k)).collect();
        let number = |key: Arc<str>| Some((key.clone(), parse_u64(&take(m, &key)?)?));
        let throttling = names.into_iter().filter_map(number).collect();
        let detect_zeroes = match take(m, "detect-zeroes") {
            None => DetectZeroes::Off,
            Some(name) => DetectZeroes::from_name(&name)
                .ok_or_else(|| QmpError::generic(format!("invalid parameter value: {name}")))?,
        };
        if let Some(format) = take(m, "format") {
            if has(m, "driver") {
                return Err(QmpError::generic("Cannot specify both 'driver' and 'format'"));
            }
            set(m, "driver", &format);
        }
        check_policy(werror.as_deref(), false)?;
        check_policy(rerror.as_deref(), true)?;
        Ok(DriveOptions {
            id,
            interface,
            place,
            cdrom,
            file,
            read_only,
            copy_on_read,
            writeback,
            account,
            snapshot,
            aio,
            detect_zeroes,
            werror,
            rerror,
            throttling,
            throttling_group,
            node: crumple(&rest)?,
        })
    }
}

/// The options in a `json:{…}` file name, nested, with scalars as text (null stays null).
///
/// # Errors
/// What QEMU says about text that is not a JSON object, or about keys that contradict each other.
pub fn json_filename(filename: &str) -> Result<Json, QmpError> {
    let text = filename.strip_prefix("json:").unwrap_or(filename);
    let value =
        parse_one(text).map_err(|e| QmpError::generic(format!("Could not parse the JSON options: {}", e.desc)))?;
    let Json::Dict(members) = value else {
        return Err(QmpError::generic("Invalid JSON object given"));
    };
    let mut flat = Members::new();
    flatten(&members, "", &mut flat);
    crumple(&flat)
}

/// `qdict_flatten`: nested members become members with dotted names, scalars become text.
fn flatten(members: &[(Arc<str>, Json)], prefix: &str, out: &mut Members) {
    for (key, value) in members {
        let name = if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") };
        match value {
            Json::Dict(inner) if !inner.is_empty() => flatten(inner, &name, out),
            Json::List(items) if !items.is_empty() => {
                let inner: Members = items.iter().enumerate().map(|(i, v)| (i.to_string().into(), v.clone())).collect();
                flatten(&inner, &name, out);
            }
            _ => out.push((name.into(), as_text(value))),
        }
    }
}

/// How a scalar is spelled as an option.
fn as_text(value: &Json) -> Json {
    match value {
        Json::Bool(b) => Json::str(if *b { "on" } else { "off" }),
        Json::Int(n) => Json::from(n.to_string()),
        Json::Uint(n) => Json::from(n.to_string()),
        Json::Number(text) => Json::Str(text.clone()),
        other => other.clone(),
    }
}

/// The first step of a dotted key, where two dots stand for one that does not separate, and what follows.
fn split_key(key: &str) -> (String, Option<&str>) {
    let mut first = String::new();
    let mut rest = key;
    while let Some(dot) = rest.find('.') {
        first.push_str(&rest[..dot]);
        let after = &rest[dot + 1..];
        match after.strip_prefix('.') {
            Some(beyond) => {
                first.push('.');
                rest = beyond;
            }
            None => return (first, Some(after)),
        }
    }
    first.push_str(rest);
    (first, None)
}

/// What the members with the same first step are.
enum Part {
    Scalar(Json),
    Nested(Members),
}

/// How many steps a dotted key may have. QEMU sets no limit but that of its stack.
const MAX_DEPTH: usize = 256;

/// `qdict_crumple`: members with dotted names become nested ones, numbered ones lists.
fn crumple(flat: &[(Arc<str>, Json)]) -> Result<Json, QmpError> {
    if flat.iter().any(|(key, _)| key.split('.').count() > MAX_DEPTH) {
        return Err(QmpError::generic("Option name has too many parts"));
    }
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    for index in wire_order(flat) {
        let (key, value) = &flat[index];
        let (first, suffix) = split_key(key);
        match (parts.get_mut(&first), suffix) {
            (None, None) => {
                parts.insert(first, Part::Scalar(value.clone()));
            }
            (None, Some(suffix)) => {
                parts.insert(first, Part::Nested(vec![(suffix.into(), value.clone())]));
            }
            (Some(Part::Nested(inner)), Some(suffix)) => inner.push((suffix.into(), value.clone())),
            _ => return Err(QmpError::generic("Cannot mix scalar and non-scalar keys")),
        }
    }
    let mut members = Members::new();
    for (name, part) in parts {
        let value = match part {
            Part::Scalar(value) => value,
            Part::Nested(inner) => crumple(&inner)?,
        };
        members.push((name.into(), value));
    }
    listed(members)
}

/// Makes a list of members that are all numbered.
fn listed(members: Members) -> Result<Json, QmpError> {
    let numbered = members.iter().filter(|(k, _)| k.parse::<i64>().is_ok()).count();
    if numbered == 0 {
        return Ok(Json::Dict(Arc::new(members)));
    }
    if numbered < members.len() {
        return Err(QmpError::generic("Cannot mix list and non-list keys"));
    }
    let mut items: Vec<Option<Json>> = vec![None; numbered];
    for (key, value) in members {
        // Only the plain spelling counts: `00` is a number but not the index 0.
        let index = key.parse::<usize>().ok().filter(|i| i.to_string() == *key);
        if let Some(slot) = index.and_then(|i| items.get_mut(i)) {
            *slot = Some(value);
        }
    }
    match items.iter().position(Option::is_none) {
        Some(index) => Err(QmpError::generic(format!("Missing list index {index}"))),
        None => Ok(Json::list(items.into_iter().flatten().collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::print::{MemberOrder, to_text};
    use crate::qmp::types::{BlockdevOptions, Driver};

    #[test]
    fn a_drive_option_is_split_between_drive_and_node() {
        let drive = DriveOptions::parse("if=none,id=d0,file=a,,b,format=qcow2,cache=none,werror=stop,nosnapshot");
        let drive = drive.expect("a good option");
        assert_eq!(drive.id.as_deref(), Some("d0"));
        assert_eq!(drive.file.as_deref(), Some("a,b"));
        assert_eq!(drive.werror.as_deref(), Some("stop"));
        assert!(drive.writeback && !drive.snapshot);
        let node = r#"{"cache": {"direct": "on", "no-flush": "off"}, "driver": "qcow2"}"#;
        assert_eq!(to_text(&drive.node, MemberOrder::Sorted), node);
    }

    #[test]
    fn drive_errors() {
        for (option, error) in [
            ("cache=zz", "invalid cache option"),
            ("if=zz", "unsupported bus type 'zz'"),
            ("media=zz", "'zz' invalid media"),
            ("if=zz,snapshot=zz", "unsupported bus type 'zz'"),
            ("snapshot=zz,index=zz", "Parameter 'index' expects a number"),
            ("throttling.bps-total=zz,media=zz", "'zz' invalid media"),
            ("bps=1k", "Parameter 'throttling.bps-total' expects a number"),
            ("index=99999999999999999999", "Value '99999999999999999999' is too large for parameter 'index'"),
            ("werror=zz,detect-zeroes=zz", "invalid parameter value: zz"),
            ("snapshot=zz", "Parameter 'snapshot' expects 'on' or 'off'"),
            ("index=zz", "Parameter 'index' expects a number"),
            ("if=floppy,werror=stop", "werror is not supported by this bus type"),
            ("if=none,rerror=enospc", "'enospc' invalid read error action"),
            ("if=none,format=raw,driver=raw", "Cannot specify both 'driver' and 'format'"),
            ("if=none,id=0a", "Parameter 'id' expects an identifier"),
            ("if=none,readonly=on,read-only=on", "'read-only' and its alias 'readonly' can't be used at the same time"),
        ] {
            assert_eq!(DriveOptions::parse(option).map_err(|e| e.desc.to_string()), Err(error.to_string()));
        }
    }

    #[test]
    fn a_json_file_name_may_be_nested_or_dotted() {
        let name = r#"json:{"driver":"qcow2","file.driver":"blkdebug","file":{"image":{"driver":"null-co","size":5}},
            "file.inject-error.0.event":"none","backing":null}"#;
        let options =
            BlockdevOptions::from_texts(&json_filename(name).expect("JSON"), crate::version::Version::default())
                .expect("options");
        assert_eq!(options.driver.driver(), Driver::Qcow2);
        let deep = format!("json:{{\"{}\": 1}}", "a.".repeat(100_000));
        assert!(json_filename(&deep).is_err());
        assert_eq!(&*json_filename("json:5").expect_err("no object").desc, "Invalid JSON object given");
    }
}
