//! Options whose values are texts, as `-drive` and `json:` file names give them: unlike those of `blockdev-add`, they are not held against
//! the schema, and what no driver took is refused by its name at the end of `bdrv_open_inherit`.

use super::spec::{BackingSpec, DriverSpec, OpenSpec, null_filename};
use super::string_options;
use crate::base::Json;
use crate::block::cvtnum::strtosz;
use crate::qmp::drive::{DriveOptions, json_filename};
use crate::qmp::error::QmpError;
use crate::qmp::hash_order::wire_order;
use crate::qmp::json::parse_one;
use crate::qmp::types::{BlockdevOptions, DetectZeroes as DetectZeroesOption};
use crate::version::Version;
use crate::world::block::graph::{DetectZeroes, OpenFlags};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names under which the description of a node holds those of other nodes.
const CHILDREN: [&str; 6] = ["file", "image", "backing", "target", "raw", "test"];

/// Options that are sizes.
const SIZES: [&str; 13] = [
    "offset",
    "size",
    "cache-size",
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
    "align",
    "max-transfer",
    "opt-write-zero",
    "max-write-zero",
    "opt-discard",
    "max-discard",
    "min-cluster-size",
];

/// Options that a node has and its driver does not know, by the way to the node from the one described.
pub type Unknown = BTreeMap<Vec<Arc<str>>, Vec<(Arc<str>, Json)>>;

/// Reads a description; what is unknown in it is set apart.
///
/// # Errors
/// QEMU's complaint about a value.
pub fn read(node: &Json) -> Result<(BlockdevOptions, Unknown), QmpError> {
    let (mut node, mut unknown) = (with_sizes(node), Unknown::new());
    loop {
        let err = match BlockdevOptions::from_texts(&node, Version::default()) {
            Ok(options) => return Ok((options, unknown)),
            Err(err) => err,
        };
        let found = err.desc.strip_prefix("Parameter '").and_then(|rest| rest.strip_suffix("' is unexpected"));
        let Some(path) = found.map(|path| path.split('.').map(Arc::from).collect::<Vec<Arc<str>>>()) else {
            if err.desc.ends_with("file' is missing") {
                return Err(QmpError::generic("A block device must be specified for \"file\""));
            }
            if err.desc.ends_with("server' is missing") {
                return Err(QmpError::generic("NBD server address missing"));
            }
            return Err(err);
        };
        let Some(value) = remove(&mut node, &path) else { return Err(err) };
        let depth = path[..path.len() - 1].iter().take_while(|name| CHILDREN.contains(&&***name)).count();
        let mut flat = Vec::new();
        let name = path[depth..].join(".");
        super::strong_options::flatten(&value, &name, &mut flat);
        unknown.entry(path[..depth].to_vec()).or_default().extend(flat);
    }
}

/// Sizes in bytes: unlike in QMP, they may have a suffix (`QEMU_OPT_SIZE`). What is no size stays as it is.
fn with_sizes(node: &Json) -> Json {
    match node {
        Json::Dict(members) => {
            let size = |(key, value): &(Arc<str>, Json)| {
                let bytes = value.as_str().filter(|_| SIZES.contains(&&**key)).and_then(|text| strtosz(text).ok());
                (key.clone(), bytes.map_or_else(|| with_sizes(value), |bytes| Json::str(&bytes.to_string())))
            };
            Json::Dict(Arc::new(members.iter().map(size).collect()))
        }
        other => other.clone(),
    }
}

/// The one of them that QEMU names (`qdict_first`).
#[must_use]
pub fn first(members: &[(Arc<str>, Json)]) -> Option<Arc<str>> {
    wire_order(members).first().map(|&index| members[index].0.clone())
}

/// Takes a member out, however deep.
fn remove(node: &mut Json, path: &[Arc<str>]) -> Option<Json> {
    let (name, rest) = path.split_first()?;
    match node {
        Json::Dict(members) => {
            let members = Arc::make_mut(members);
            let at = members.iter().position(|(key, _)| key == name)?;
            if rest.is_empty() { Some(members.remove(at).1) } else { remove(&mut members[at].1, rest) }
        }
        Json::List(elements) => {
            let at: usize = name.parse().ok()?;
            remove(Arc::make_mut(elements).get_mut(at)?, rest)
        }
        _ => None,
    }
}

impl OpenSpec {
    /// `parse_json_protocol`: a format that was given stands above the driver that the name says.
    pub(super) fn from_json_filename(json: &str, format: Option<&str>, flags: OpenFlags) -> OpenSpec {
        let mut parsed = json_filename(json).and_then(|options| match format {
            Some(format) => with_drivers(&with_member(&options, "driver", format.into()), flags),
            None => with_drivers(&options, flags),
        });
        if let Ok(spec) = &mut parsed {
            spec.keep_flat(&flat_json(json), "");
        }
        parsed.unwrap_or_else(OpenSpec::failing)
    }

    /// `-drive`: a file name with a format, or options as for `-blockdev` whose scalars are text.
    ///
    /// # Errors
    /// What QEMU says about the options.
    pub fn from_drive(drive: &DriveOptions, flags: OpenFlags) -> Result<OpenSpec, QmpError> {
        let mut node = drive.node.clone();
        if let Some(file) = drive.file.as_ref().filter(|_| node.get("driver") == Some(&"blkdebug".into())) {
            return OpenSpec::blkdebug_by_name(&node, file, flags);
        }
        let mut flat = Vec::new();
        crate::world::block::open::strong_options::flatten(&node, "", &mut flat);
        let mut protocol = None;
        if let Some(file) = &drive.file {
            if let Some(json) = file.strip_prefix("json:") {
                let own: Vec<Arc<str>> = flat.iter().map(|(key, _)| key.clone()).collect();
                flat.extend(flat_json(json).into_iter().filter(|(key, _)| !own.contains(key)));
                for (key, value) in json_filename(file)?.as_dict().unwrap_or_default() {
                    if node.get(key).is_none() {
                        node = with_member(&node, key, value.clone());
                    }
                }
            } else {
                let null = null_filename(file).is_some_and(|null| null.is_ok());
                protocol = (file.contains(':') && !null).then_some(file);
                node = with_filename(&node, file);
            }
        }
        let mut spec = with_drivers(&node, flags).map_err(unknown_driver)?;
        spec.keep_flat(&flat, "");
        if let Some(file) = protocol {
            spec.file = OpenSpec::from_filename(file, None, spec.flags).file;
        }
        spec.detect_zeroes = match drive.detect_zeroes {
            DetectZeroesOption::Off => DetectZeroes::Off,
            DetectZeroesOption::On => DetectZeroes::On,
            DetectZeroesOption::Unmap => DetectZeroes::Unmap,
        };
        Ok(spec)
    }

    /// `blkdebug_parse_filename`, where blkdebug is the driver of a drive that has a file name and other options.
    fn blkdebug_by_name(options: &Json, name: &str, flags: OpenFlags) -> Result<OpenSpec, QmpError> {
        let (config, image) = match name.strip_prefix("blkdebug:") {
            // There is no prefix; all is the name of the image.
            None => (None, name),
            Some(_) => crate::block::blkdebug::parse_filename(name).map_err(QmpError::generic)?,
        };
        let mut node = options.clone();
        if let Some(config) = config {
            node = with_member(&node, "config", config.into());
        }
        let image = match null_filename(image).transpose()? {
            Some(aio) => Json::dict(vec![("driver", if aio { "null-aio" } else { "null-co" }.into())]),
            None => Json::dict(vec![("driver", "file".into()), ("filename", image.into())]),
        };
        let node = with_member(&node, "image", image);
        let mut flat = Vec::new();
        crate::world::block::open::strong_options::flatten(&node, "", &mut flat);
        let mut spec = with_drivers(&node, flags)?;
        spec.keep_flat(&flat, "");
        Ok(spec)
    }

    /// `bdrv_open_backing_file` with options: what they leave open, the image says.
    pub(super) fn backing_by_options(
        filename: &str,
        format: Option<&str>,
        options: &Json,
        flags: OpenFlags,
    ) -> OpenSpec {
        let mut node = options.clone();
        let own = node.get("file").is_some_and(|file| file.get("filename").is_some());
        if filename.is_empty() && !own && node.get("driver").is_none() && node.get("file").is_none() {
            return OpenSpec::failing(QmpError::generic("Must specify either driver or file"));
        }
        if let Some(format) = format.filter(|_| node.get("driver").is_none()) {
            node = with_member(&node, "driver", format.into());
        }
        if !own && !filename.is_empty() {
            node = with_filename(&node, &filename.into());
        }
        let mut flat = Vec::new();
        crate::world::block::open::strong_options::flatten(&node, "", &mut flat);
        match with_drivers(&node, flags) {
            Err(err) => OpenSpec::failing(err),
            Ok(mut spec) => {
                spec.keep_flat(&flat, "");
                spec
            }
        }
    }

    /// Keeps the first option of a node below that its driver does not know.
    fn note_unknown(&mut self, path: &[Arc<str>], key: &Arc<str>, protocol: bool) {
        let Some((name, rest)) = path.split_first() else {
            self.unknown = Some((key.clone(), protocol));
            return;
        };
        let filter = matches!(self.driver, DriverSpec::Blkdebug { .. } | DriverSpec::Throttle { .. });
        match (&**name, &mut self.file, &mut self.backing) {
            ("file" | "image", Some(file), _) => {
                Arc::make_mut(file).note_unknown(rest, key, protocol || !filter);
            }
            ("backing", _, BackingSpec::Spec(backing)) => Arc::make_mut(backing).note_unknown(rest, key, false),
            ("target", ..) if let DriverSpec::CopyBeforeWrite { target, .. } = &mut self.driver => {
                Arc::make_mut(target).note_unknown(rest, key, protocol);
            }
            _ => self.unknown = Some((format!("{name}.{key}").into(), protocol)),
        }
    }

    /// Options that came flat stay as they came (`bs->options` of a `-drive` is all text).
    fn keep_flat(&mut self, flat: &[(Arc<str>, Json)], prefix: &str) {
        let (driver, below) = match &self.driver {
            DriverSpec::Null { aio: false, .. } => ("null-co", ""),
            DriverSpec::Null { aio: true, .. } => ("null-aio", ""),
            DriverSpec::Probe | DriverSpec::Raw { .. } => ("raw", "file."),
            DriverSpec::Blkdebug { .. } => ("blkdebug", "image."),
            DriverSpec::Qcow2 { .. } => ("qcow2", "file."),
            DriverSpec::File { .. } => ("file", ""),
            DriverSpec::CopyBeforeWrite { .. } => ("copy-before-write", "file."),
            DriverSpec::SnapshotAccess => ("snapshot-access", "file."),
            DriverSpec::Throttle { .. } => ("throttle", "file."),
            DriverSpec::CopyOnRead { .. } => ("copy-on-read", "file."),
            DriverSpec::Compress => ("compress", "file."),
            DriverSpec::Nbd(_) => ("nbd", ""),
            DriverSpec::Quorum { .. } => ("quorum", ""),
            DriverSpec::Blkverify { .. } => ("blkverify", "raw."),
        };
        self.given = crate::world::block::open::strong_options::strong_of_flat(driver, flat, prefix);
        if let Some(file) = &mut self.file {
            Arc::make_mut(file).keep_flat(flat, &format!("{prefix}{below}"));
        }
        if let DriverSpec::Quorum { children, .. } = &mut self.driver {
            for (i, child) in Arc::make_mut(children).iter_mut().enumerate() {
                Arc::make_mut(child).keep_flat(flat, &format!("{prefix}children.{i}."));
            }
        }
        if let DriverSpec::Blkverify { test } = &mut self.driver {
            Arc::make_mut(test).keep_flat(flat, &format!("{prefix}test."));
        }
        if let BackingSpec::Spec(backing) = &mut self.backing {
            Arc::make_mut(backing).keep_flat(flat, &format!("{prefix}backing."));
        }
    }
}

/// The options of a `json:` file name, flat, with the types they have there.
fn flat_json(json: &str) -> Vec<(Arc<str>, Json)> {
    let mut flat = Vec::new();
    if let Ok(value) = parse_one(json) {
        crate::world::block::open::strong_options::flatten(&value, "", &mut flat);
    }
    flat
}

pub(super) fn with_member(dict: &Json, key: &str, value: Json) -> Json {
    let mut members = dict.as_dict().unwrap_or_default().to_vec();
    members.retain(|(k, _)| &**k != key);
    members.push((key.into(), value));
    Json::Dict(Arc::new(members))
}

/// Whether options of a backing file say more of it than its name and whether it may be written.
pub(super) fn says_more(options: &Json) -> bool {
    let simple = |(key, _): &(Arc<str>, Json)| matches!(&**key, "node-name" | "read-only" | "backing");
    !options.as_dict().unwrap_or_default().iter().all(simple)
}

/// A file name without a driver, wherever it stands in a description, is one of a host file.
fn with_protocols(node: &Json) -> Json {
    match node.get("file") {
        Some(file @ Json::Dict(_)) if file.get("driver").is_some() => with_member(node, "file", with_protocols(file)),
        Some(file @ Json::Dict(_)) if file.get("filename").is_some() => {
            with_member(node, "file", with_member(file, "driver", "file".into()))
        }
        _ => node.clone(),
    }
}

/// Options of a backing file that does not say for itself what it is, apart from the others. A format that is only known later may
/// have none.
fn split_backing(node: &Json, format_is_known: bool) -> (Json, Option<Json>) {
    match node.get("backing") {
        Some(backing @ Json::Dict(_))
            if !format_is_known
                || backing.get("driver").is_none()
                || backing
                    .get("file")
                    .is_none_or(|file| matches!(file, Json::Dict(_)) && file.get("driver").is_none()) =>
        {
            let mut others = node.as_dict().unwrap_or_default().to_vec();
            others.retain(|(key, _)| &**key != "backing");
            (Json::Dict(Arc::new(others)), Some(backing.clone()))
        }
        _ => (node.clone(), None),
    }
}

/// Options whose scalars are text. A node that names no driver is a file, or a format to be probed: it is read as raw, and again when
/// the format is known.
pub(super) fn with_drivers(node: &Json, flags: OpenFlags) -> Result<OpenSpec, QmpError> {
    if let Some((node, copies)) = take_copies(node) {
        let mut spec = with_drivers(&node, flags)?;
        spec.put_copies(&copies)?;
        return Ok(spec);
    }
    let format_is_known = node.get("driver").is_some();
    let named = if format_is_known { node.clone() } else { with_member(node, "driver", "raw".into()) };
    let (own, backing_options) = split_backing(&with_protocols(&named), format_is_known);
    let (options, mut unknown) = string_options::read(&own)?;
    let mut spec = OpenSpec { backing_options, ..OpenSpec::from_options(&options, Some(flags)) };
    if !format_is_known {
        spec.driver = DriverSpec::Probe;
        spec.to_be_probed = Some(node.clone());
        unknown.remove(&Vec::new());
    }
    for (path, members) in &unknown {
        if let Some(key) = string_options::first(members) {
            spec.note_unknown(path, &key, false);
        }
    }
    spec.nbd_may_be_read_only();
    spec.leave_as_text();
    Ok(spec)
}

/// The children of a quorum that are described without a driver, in a node's options or below: what each is, is found out where it is
/// opened. Names stand in their places.
fn take_copies(node: &Json) -> Option<(Json, Vec<Json>)> {
    if node.get("driver").and_then(Json::as_str) != Some("quorum") {
        let (file, copies) = take_copies(node.get("file")?)?;
        return Some((with_member(node, "file", file), copies));
    }
    let Some(Json::List(copies)) = node.get("children") else { return None };
    if !copies.iter().any(|copy| matches!(copy, Json::Dict(_))) {
        return None;
    }
    let names = copies.iter().map(|copy| if let Json::Str(name) = copy { Json::Str(name.clone()) } else { "".into() });
    Some((with_member(node, "children", Json::list(names.collect())), copies.to_vec()))
}

impl OpenSpec {
    /// Truth values among the options stay the text that they were given as.
    fn leave_as_text(&mut self) {
        self.explicit.leave_as_text();
        let backing = if let BackingSpec::Spec(backing) = &mut self.backing { Some(backing) } else { None };
        for child in self.file.iter_mut().chain(backing) {
            Arc::make_mut(child).leave_as_text();
        }
    }

    /// What [`take_copies`] took.
    fn put_copies(&mut self, copies: &[Json]) -> Result<(), QmpError> {
        let flags = super::open::inherited(self.flags);
        let DriverSpec::Quorum { children, .. } = &mut self.driver else {
            return self.file.as_mut().map_or(Ok(()), |file| Arc::make_mut(file).put_copies(copies));
        };
        let mut specs = Vec::with_capacity(copies.len());
        for copy in copies {
            specs.push(Arc::new(match copy {
                Json::Str(name) => OpenSpec::reference(name.clone()),
                copy => with_drivers(&with_protocols(copy), flags)?,
            }));
        }
        *children = specs.into();
        Ok(())
    }
}

/// A file name given beside options: it goes down through formats to the protocol below them (`bdrv_open_inherit`, `bdrv_fill_options`).
fn with_filename(format: &Json, file: &Arc<str>) -> Json {
    let name = || Json::Str(file.clone());
    let below = match format.get("file") {
        Some(below @ Json::Dict(_)) => match below.get("driver").and_then(Json::as_str) {
            Some("raw" | "qcow2") => with_filename(below, file),
            Some("blkdebug") if below.get("image").is_none() => {
                let image = Json::dict(vec![("driver", "file".into()), ("filename", name())]);
                with_member(below, "image", image)
            }
            None => match null_filename(file) {
                Some(Ok(aio)) => with_member(below, "driver", if aio { "null-aio" } else { "null-co" }.into()),
                _ => with_member(&with_member(below, "driver", "file".into()), "filename", name()),
            },
            Some("null-co" | "null-aio") if null_filename(file).is_some_and(|null| null.is_ok()) => below.clone(),
            Some(_) => with_member(below, "filename", name()),
        },
        _ => match null_filename(file) {
            Some(Ok(aio)) => Json::dict(vec![("driver", if aio { "null-aio" } else { "null-co" }.into())]),
            _ => Json::dict(vec![("driver", "file".into()), ("filename", name())]),
        },
    };
    with_member(format, "file", below)
}

/// Options that are texts are looked at one by one as drivers open them: a driver that is none has no place among them to be told
/// (`bdrv_fill_options`).
fn unknown_driver(err: QmpError) -> QmpError {
    let name = err.desc.strip_prefix("Parameter '").and_then(|rest| rest.split_once("driver' does not accept value '"));
    match name.and_then(|(_, name)| name.strip_suffix('\'')) {
        Some(name) => QmpError::generic(format!("Unknown driver '{name}'")),
        None => err,
    }
}
