//! Smaller JSON values: each member, element or wrapping taken away in turn.

use crate::base::Json;
use std::sync::Arc;

/// All values that are `value` without one of its parts, the larger parts first.
pub(super) fn smaller(value: &Json) -> Vec<Json> {
    let mut out = Vec::new();
    match value {
        Json::List(items) => {
            for at in 0..items.len() {
                let mut less = items.to_vec();
                less.remove(at);
                out.push(Json::list(less));
            }
            for (at, item) in items.iter().enumerate() {
                for item in smaller(item) {
                    let mut other = items.to_vec();
                    other[at] = item;
                    out.push(Json::list(other));
                }
            }
        }
        Json::Dict(members) => {
            // A filter is replaced by what it filters.
            if value.get("driver").and_then(Json::as_str) == Some("blkdebug") {
                out.extend(value.get("image").cloned());
            }
            for at in 0..members.len() {
                let mut less = members.to_vec();
                less.remove(at);
                out.push(Json::Dict(Arc::new(less)));
            }
            for (at, (_, member)) in members.iter().enumerate() {
                for member in smaller(member) {
                    let mut other = members.to_vec();
                    other[at].1 = member;
                    out.push(Json::Dict(Arc::new(other)));
                }
            }
        }
        _ => {}
    }
    out
}
