//! What QEMU 10.0.2 says of itself, recorded: its schema, its types and their properties, its processors, the objects of its machines.
//!
//! `tests/record-answers.py` asks a real QEMU and writes the files beside this one. Each is a text, deflated: lines of a key, a tab, and
//! JSON. One is inflated when something is asked of it, each time: nothing here is kept.
//!
//! | file | key | JSON |
//! |---|---|---|
//! | `schema.z` | `query-qmp-schema` | the answer |
//! | `schema-7.2.z`, `schema-11.1.z` | `query-qmp-schema` | the answer of these versions |
//! | `answers.z` | a command; `hmp help`, `hmp info` | the answer, or the error as `{"error": …}` |
//! | `answers-7.2.z`, `answers-11.1.z` | the same | what these versions answer otherwise |
//! | | `machine help`, `device help` | what these options print |
//! | `properties.z` | `#N` | one description of a property |
//! | | `d TYPE`, `q TYPE` | the numbers of what `device-list-properties`, `qom-list-properties` answer |
//! | `cpus.z` | `base`, `static` | properties of the model `base`; which of them a static expansion has |
//! | | `-MODEL` | what is different in the model, and what else in its static expansion |
//! | `machines.z` | `none PATH`, `pc PATH`, `q35 PATH` | an object's properties: name, type, and value if it is no child |
//! | | `none query-pci`, … | the answer |
//! | `pci.z` | a type of device | what `query-pci` says of one, alone on the first bus |

use super::error::{ErrorClass, QmpError};
use super::json::parse_one;
use crate::base::Json;
use crate::version::Version;
use std::sync::Arc;

/// A deflated file.
struct File(&'static [u8]);

const SCHEMA: File = File(include_bytes!("schema.z"));
const SCHEMA_7_2: File = File(include_bytes!("schema-7.2.z"));
const SCHEMA_11_1: File = File(include_bytes!("schema-11.1.z"));
const ANSWERS: File = File(include_bytes!("answers.z"));
const ANSWERS_7_2: File = File(include_bytes!("answers-7.2.z"));
const ANSWERS_11_1: File = File(include_bytes!("answers-11.1.z"));
const PROPERTIES: File = File(include_bytes!("properties.z"));
const CPUS: File = File(include_bytes!("cpus.z"));
const MACHINES: File = File(include_bytes!("machines.z"));
const PCI: File = File(include_bytes!("pci.z"));

impl File {
    fn text(&self) -> String {
        let bytes = miniz_oxide::inflate::decompress_to_vec(self.0).expect("the file is part of the program");
        String::from_utf8(bytes).expect("JSON in ASCII")
    }

    /// What stands behind a key.
    fn json(&self, key: &str) -> Option<Json> {
        find(&self.text(), key).map(parsed)
    }
}

fn find<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'))
}

fn parsed(text: &str) -> Json {
    parse_one(text).expect("JSON that a script wrote")
}

/// `query-qmp-schema`. Of 8.2 and 9.1 none was recorded: they say what 10.0 says.
#[must_use]
pub fn schema(version: Version) -> Json {
    let file = match version {
        Version::V7_2 => SCHEMA_7_2,
        Version::V8_2 | Version::V9_1 | Version::V10_0 => SCHEMA,
        Version::V11_1 => SCHEMA_11_1,
    };
    file.json("query-qmp-schema").expect("recorded")
}

/// The recorded answer to a command without arguments, which is the same whatever machine is asked. Of 8.2 and 9.1 none was recorded: they
/// answer as 10.0.
///
/// # Errors
/// QEMU answered with this error.
#[must_use]
pub fn answer(version: Version, command: &str) -> Option<Result<Json, QmpError>> {
    if command == "query-qmp-schema" {
        return Some(Ok(schema(version)));
    }
    let own = match version {
        Version::V7_2 => ANSWERS_7_2.json(command),
        Version::V8_2 | Version::V9_1 | Version::V10_0 => None,
        Version::V11_1 => ANSWERS_11_1.json(command),
    };
    own.or_else(|| ANSWERS.json(command)).map(result)
}

/// Whether a version has a machine of this name.
#[must_use]
pub fn has_machine(version: Version, name: &str) -> bool {
    let Some(Ok(machines)) = answer(version, "query-machines") else { return false };
    let is = |machine: &Json| ["name", "alias"].iter().any(|key| machine.get(key).and_then(Json::as_str) == Some(name));
    machines.as_list().unwrap_or_default().iter().any(is)
}

/// What an option with the value `help` prints in a version of which that was recorded: `machine help`, `device help`.
#[must_use]
pub fn help(version: Version, option: &str) -> Option<String> {
    let own = match version {
        Version::V7_2 => ANSWERS_7_2,
        Version::V8_2 | Version::V9_1 | Version::V10_0 => return None,
        Version::V11_1 => ANSWERS_11_1,
    };
    own.json(&format!("{option} help"))?.as_str().map(str::to_owned)
}

fn result(answer: Json) -> Result<Json, QmpError> {
    let Some(error) = answer.get("error").filter(|error| error.get("class").is_some()) else { return Ok(answer) };
    let text = |key: &str| error.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    let class = match text("class").as_str() {
        "DeviceNotFound" => ErrorClass::DeviceNotFound,
        "DeviceNotActive" => ErrorClass::DeviceNotActive,
        "CommandNotFound" => ErrorClass::CommandNotFound,
        _ => ErrorClass::GenericError,
    };
    Err(QmpError::new(class, text("desc")))
}

/// Commands without arguments that are answered as recorded.
pub const ANSWERED: [&str; 27] = [
    "query-acpi-ospm-status",
    "query-audiodevs",
    "query-chardev-backends",
    "query-colo-status",
    "query-command-line-options",
    "query-cpu-definitions",
    "query-cryptodev",
    "query-dump",
    "query-dump-guest-memory-capability",
    "query-hv-balloon-status-report",
    "query-migrate",
    "query-migrationthreads",
    "query-qmp-schema",
    "query-replay",
    "query-sev",
    "query-sev-capabilities",
    "query-sev-launch-measure",
    "query-sgx",
    "query-sgx-capabilities",
    "query-tpm",
    "query-tpm-models",
    "query-tpm-types",
    "query-vcpu-dirty-limit",
    "query-vm-generation-id",
    "query-vnc-servers",
    "query-xen-replication-status",
    "x-query-virtio",
];

/// Which properties of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertiesOf {
    /// Those a device can be made with, as `device-list-properties` lists them.
    Device,
    /// All, as `qom-list-properties` lists them.
    Object,
}

/// The properties of a type; `None` if it has none of this sort.
#[must_use]
pub fn properties(of: PropertiesOf, type_name: &str) -> Option<Vec<Json>> {
    let letter = if of == PropertiesOf::Device { 'd' } else { 'q' };
    let text = PROPERTIES.text();
    let numbers = find(&text, &format!("{letter} {type_name}"))?;
    let lines: Vec<&str> = text.lines().collect();
    // The descriptions come first, in the order of their numbers.
    let info = |number: &str| Some(parsed(lines.get(number.parse::<usize>().ok()?)?.split_once('\t')?.1));
    Some(numbers.split(',').filter_map(info).collect())
}

/// The types whose `qom-list-properties` ends QEMU: what the type's own finalisation finds was never made.
pub const DEADLY_TYPES: [&str; 3] = ["colo-compare", "memory-region-portio-list", "x-remote-object"];

/// `ObjectTypeInfo` of a type.
#[must_use]
pub fn type_info(name: &str) -> Option<Json> {
    let types = ANSWERS.json("qom-list-types")?;
    types.as_list()?.iter().find(|info| info.get("name").and_then(Json::as_str) == Some(name)).cloned()
}

/// How `query-cpu-model-expansion` tells of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expansion {
    /// On the base model, with the properties that depend on nothing else.
    Static,
    /// With all.
    Full,
}

/// The properties of a processor model, with TCG. `None`: there is no such model.
///
/// # Errors
/// QEMU can't expand it.
#[must_use]
pub fn cpu_properties(model: &str, expansion: Expansion) -> Option<Result<Json, QmpError>> {
    let changes = match result(CPUS.json(&format!("-{model}"))?) {
        Ok(changes) => changes,
        Err(error) => return Some(Err(error)),
    };
    let mut all: Vec<(Arc<str>, Json)> = CPUS.json("base")?.as_dict()?.to_vec();
    let apply = |all: &mut Vec<(Arc<str>, Json)>, changes: &Json| {
        for (key, value) in changes.as_dict().unwrap_or_default() {
            match all.iter_mut().find(|(name, _)| name == key) {
                Some((_, old)) => *old = value.clone(),
                None => all.push((key.clone(), value.clone())),
            }
        }
        // Null stands for what is not there.
        all.retain(|(_, value)| *value != Json::Null);
    };
    let [full, other] = changes.as_list()? else { return None };
    apply(&mut all, full);
    if expansion == Expansion::Static {
        let names = CPUS.json("static")?;
        let names = names.as_list()?;
        all.retain(|(key, _)| names.iter().any(|name| name.as_str() == Some(&**key)));
        apply(&mut all, other);
    }
    Some(Ok(Json::Dict(Arc::new(all))))
}

/// A property of an object: its name, its type, and its value, unless it is a child.
pub type Row = (Arc<str>, Arc<str>, Option<Json>);

/// An object of a machine without devices. `machine` is `none`, `pc` or `q35`.
#[must_use]
pub fn object(machine: &str, path: &str) -> Option<Vec<Row>> {
    let rows = MACHINES.json(&format!("{machine} {path}"))?;
    let row = |row: &Json| {
        let row = row.as_list()?;
        Some((row.first()?.as_str()?.into(), row.get(1)?.as_str()?.into(), row.get(2).cloned()))
    };
    Some(rows.as_list()?.iter().filter_map(row).collect())
}

/// `query-pci` of a machine without devices.
#[must_use]
pub fn pci(machine: &str) -> Json {
    MACHINES.json(&format!("{machine} query-pci")).unwrap_or_else(|| Json::list(Vec::new()))
}

/// What `query-pci` says of a device of this type, at a place that the caller has to fill in. `None`: of this type none was recorded.
#[must_use]
pub fn pci_device(type_name: &str) -> Option<Json> {
    PCI.json(type_name)
}
