//! Options whose values are texts, as `-drive` and `json:` file names give them: unlike those of `blockdev-add`, they are not held against
//! the schema, and what no driver took is refused by its name at the end of `bdrv_open_inherit`.

use crate::base::Json;
use crate::block::cvtnum::strtosz;
use crate::qmp::error::QmpError;
use crate::qmp::order::wire_order;
use crate::qmp::types::BlockdevOptions;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names under which the description of a node holds those of other nodes.
const CHILDREN: [&str; 4] = ["file", "image", "backing", "target"];

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
        let err = match BlockdevOptions::from_texts(&node) {
            Ok(options) => return Ok((options, unknown)),
            Err(err) => err,
        };
        let found = err.desc.strip_prefix("Parameter '").and_then(|rest| rest.strip_suffix("' is unexpected"));
        let Some(path) = found.map(|path| path.split('.').map(Arc::from).collect::<Vec<Arc<str>>>()) else {
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
