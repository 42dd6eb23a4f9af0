//! Options that change a node's data (`BlockDriver.strong_runtime_opts`): only these appear in `json:` file names.

use crate::base::Json;
use crate::qmp::hash_order::wire_order;
use crate::qmp::types::{BlkdebugOptions, DriverOptions, QuorumReadPattern};
use std::sync::Arc;

/// Strong options by driver. A name that ends with a dot stands for all that begin with it.
const STRONG: [(&str, &[&str]); 7] = [
    ("nbd", &["path", "host", "port", "export", "tls-creds", "tls-hostname", "server."]),
    ("null-co", &["size", "read-zeroes"]),
    ("null-aio", &["size", "read-zeroes"]),
    ("raw", &["offset", "size"]),
    ("throttle", &["throttle-group"]),
    ("quorum", &["vote-threshold", "blkverify", "rewrite-corrupted", "read-pattern"]),
    (
        "blkdebug",
        &[
            "config",
            "inject-error.",
            "set-state.",
            "align",
            "max-transfer",
            "opt-write-zero",
            "max-write-zero",
            "opt-discard",
            "max-discard",
        ],
    ),
];

type Members = Vec<(Arc<str>, Json)>;

fn put<T: Into<Json>>(out: &mut Members, name: impl Into<Arc<str>>, value: Option<T>) {
    if let Some(value) = value {
        out.push((name.into(), value.into()));
    }
}

/// The strong options of a node that was described in QMP: they keep their types. Each time QEMU copies them, those in one bucket of its
/// hash table change places; those of a child (`inner`) are copied once more.
#[must_use]
pub fn strong_options(options: &DriverOptions, inner: bool) -> Json {
    let mut out = Members::new();
    match options {
        DriverOptions::Null(null) => {
            put(&mut out, "size", null.size);
            put(&mut out, "read-zeroes", null.read_zeroes);
        }
        DriverOptions::Raw(raw) => {
            put(&mut out, "offset", raw.offset);
            put(&mut out, "size", raw.size);
        }
        DriverOptions::Throttle(throttle) => put(&mut out, "throttle-group", Some(&*throttle.throttle_group)),
        DriverOptions::Blkdebug(blkdebug) => strong_blkdebug(blkdebug, &mut out),
        DriverOptions::Quorum(quorum) => {
            put(&mut out, "vote-threshold", Some(quorum.vote_threshold));
            put(&mut out, "blkverify", quorum.blkverify);
            put(&mut out, "rewrite-corrupted", quorum.rewrite_corrupted);
            put(&mut out, "read-pattern", quorum.read_pattern.map(QuorumReadPattern::name));
        }
        _ => {}
    }
    if !inner {
        out.reverse();
    }
    Json::Dict(Arc::new(out))
}

fn strong_blkdebug(options: &BlkdebugOptions, out: &mut Members) {
    put(out, "config", options.config.as_deref());
    // The last rule first: QEMU has turned the order round when it comes to write the name.
    for (i, rule) in options.inject_error.as_deref().unwrap_or_default().iter().enumerate().rev() {
        let name = |member| format!("inject-error.{i}.{member}");
        put(out, name("event"), Some(rule.event.name()));
        put(out, name("state"), rule.state);
        put(out, name("iotype"), rule.iotype.map(crate::qmp::types::BlkdebugIoType::name));
        put(out, name("errno"), rule.errno);
        put(out, name("sector"), rule.sector);
        put(out, name("once"), rule.once);
        put(out, name("immediately"), rule.immediately);
    }
    for (i, rule) in options.set_state.as_deref().unwrap_or_default().iter().enumerate().rev() {
        let name = |member| format!("set-state.{i}.{member}");
        put(out, name("event"), Some(rule.event.name()));
        put(out, name("state"), rule.state);
        put(out, name("new_state"), Some(rule.new_state));
    }
    let limits = [
        ("max-transfer", options.max_transfer),
        ("opt-write-zero", options.opt_write_zero),
        ("max-write-zero", options.max_write_zero),
        ("opt-discard", options.opt_discard),
        ("max-discard", options.max_discard),
    ];
    put(out, "align", options.align);
    for (name, limit) in limits {
        put(out, name, limit.map(i64::from));
    }
}

/// The strong options of a node whose options came flat, with dotted names, from `-drive` or a `json:` file name: they stay as
/// they are. `prefix` is what stands before the names of this node's own.
#[must_use]
pub fn strong_of_flat(driver: &str, flat: &[(Arc<str>, Json)], prefix: &str) -> Json {
    let strong = STRONG.iter().find(|(name, _)| *name == driver).map_or(&[][..], |(_, strong)| strong);
    let is_strong = |name: &str| strong.iter().any(|s| if s.ends_with('.') { name.starts_with(s) } else { name == *s });
    let own = flat.iter().rev().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
    let kept = own.filter(|(name, _)| is_strong(name)).map(|(name, value)| (name.into(), value.clone()));
    Json::Dict(Arc::new(kept.collect()))
}

/// The same of options that are nested.
#[must_use]
pub fn strong_of_nested(driver: &str, options: &Json) -> Json {
    let mut flat = Vec::new();
    flatten(&in_table_order(options), "", &mut flat);
    strong_of_flat(driver, &flat, "")
}

/// Members in the order in which QEMU's dictionaries list them, whatever order they were sent in.
fn in_table_order(value: &Json) -> Json {
    let Json::Dict(members) = value else { return value.clone() };
    let ordered = wire_order(members).into_iter().map(|i| (members[i].0.clone(), in_table_order(&members[i].1)));
    Json::Dict(Arc::new(ordered.collect()))
}

/// `qdict_flatten`: members of members get dotted names.
pub fn flatten(value: &Json, name: &str, out: &mut Vec<(Arc<str>, Json)>) {
    let inner = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Json::Dict(members) if !members.is_empty() || name.is_empty() => {
            for (key, value) in members.iter() {
                flatten(value, &inner(key), out);
            }
        }
        Json::List(items) if !items.is_empty() => {
            for (i, value) in items.iter().enumerate() {
                flatten(value, &inner(&i.to_string()), out);
            }
        }
        leaf => out.push((name.into(), leaf.clone())),
    }
}
