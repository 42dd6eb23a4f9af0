//! The limits of a throttle group as an object has them (`block/throttle-groups.c`, `qapi/qom.json`).

use crate::base::Json;
use crate::block::throttle::Limits;
use crate::qmp::error::QmpError;
use crate::world::system::machine::{no_others, number};
use std::sync::Arc;

/// Limits of a throttle group, each of which also has `-max` and `-max-length`.
const LIMITS: [&str; 6] = ["iops-total", "iops-read", "iops-write", "bps-total", "bps-read", "bps-write"];

/// All names of limits, as `ThrottleLimits` has them.
fn limit_names() -> impl Iterator<Item = String> {
    LIMITS
        .into_iter()
        .flat_map(|name| ["", "-max", "-max-length"].map(|end| format!("{name}{end}")))
        .chain(["iops-size".into()])
}

fn is_limit(key: &str) -> bool {
    limit_names().any(|name| name == key)
}

/// `throttle_group_set`, `throttle_group_set_limits`
pub(super) fn throttle_limits(members: &[(Arc<str>, Json)], texts: bool) -> Result<Limits, QmpError> {
    let mut all = Limits::default();
    let mut put = |members: &[(Arc<str>, Json)], key: &str, name: &str, path: &str| -> Result<(), QmpError> {
        let Some(value) = number(members, key, path, texts)? else { return Ok(()) };
        // Only a property of an object says that it is no number of bytes; a limit is held against its range later.
        if value < 0 && key.starts_with("x-") {
            return Err(QmpError::generic("Property values cannot be negative"));
        }
        // A length that the group itself looks at first (`throttle_group_set`): less than nothing is as much as 64 bits hold.
        if key.ends_with("-length") && value > i64::from(u32::MAX) {
            return Err(QmpError::generic(format!("{key} value must be in the range [0, {}]", u32::MAX)));
        }
        all.set(name, value.cast_unsigned());
        Ok(())
    };
    // Types in the order of the schema, and behind them what it does not know, the inner one first; then values.
    let inner = match members.iter().find(|(key, _)| &**key == "limits") {
        None => &[][..],
        Some((_, limits)) => limits
            .as_dict()
            .ok_or_else(|| QmpError::generic("Invalid parameter type for 'limits', expected: object"))?,
    };
    for name in limit_names() {
        number(inner, &name, &format!("limits.{name}"), texts)?;
    }
    if let Some((key, _)) = inner.iter().find(|(key, _)| !is_limit(key)) {
        return Err(QmpError::generic(format!("Parameter 'limits.{key}' is unexpected")));
    }
    for key in limit_names().map(|name| format!("x-{name}")) {
        number(members, &key, &key, texts)?;
    }
    no_others(members, |key| key == "limits" || key.strip_prefix("x-").is_some_and(is_limit))?;
    for (key, _) in members {
        if let Some(name) = key.strip_prefix("x-") {
            put(members, key, name, key)?;
        }
    }
    for (key, _) in inner {
        put(inner, key, key, &format!("limits.{key}"))?;
    }
    Ok(all)
}
