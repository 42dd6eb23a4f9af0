//! What may change when a node is opened again, and what its children inherit then (`block.c:bdrv_reopen_queue_child`, `bdrv_reopen_prepare`).

use super::spec::{BackingSpec, DriverSpec, OpenSpec};
use crate::world::block::graph::OpenFlags;
use std::sync::Arc;

/// What a description says of a child: nothing, that there is none, or which.
#[expect(clippy::option_option, reason = "`null` and absent differ")]
pub(super) fn child_spec<'a>(spec: &'a OpenSpec, name: &str) -> Option<Option<&'a Arc<OpenSpec>>> {
    match name {
        "backing" => match &spec.backing {
            BackingSpec::FromImage => None,
            BackingSpec::None => Some(None),
            BackingSpec::Spec(spec) => Some(Some(spec)),
        },
        "target" => match &spec.driver {
            DriverSpec::CopyBeforeWrite { target, .. } => Some(Some(target)),
            _ => None,
        },
        _ => spec.file.as_ref().map(Some),
    }
}

/// A child that keeps its options follows its parent where it did so before. That it was told the same as its parent counts as that.
pub(super) fn still_inherited(name: &str, before: OpenFlags, parent: OpenFlags, child: OpenFlags) -> OpenFlags {
    let follow = |was: bool, is: bool, own: bool| if own == was { is } else { own };
    let backing = name == "backing";
    OpenFlags {
        rdwr: if backing { child.rdwr } else { follow(before.rdwr, parent.rdwr, child.rdwr) },
        auto_read_only: match backing {
            true => child.auto_read_only,
            false => follow(before.auto_read_only, parent.auto_read_only, child.auto_read_only),
        },
        nocache: follow(before.nocache, parent.nocache, child.nocache),
        no_flush: follow(before.no_flush, parent.no_flush, child.no_flush),
        ..child
    }
}

/// `bdrv_lookup_bs(NULL, name)`
pub(super) fn no_node(name: &str) -> Arc<str> {
    format!("Cannot find device='' nor node-name='{name}'").into()
}

/// The first option that differs and may not.
pub(super) fn changed_option(old: &DriverSpec, new: &DriverSpec) -> Option<&'static str> {
    use DriverSpec as D;
    match (old, new) {
        (D::File { filename: a, locking: la, .. }, D::File { filename: b, locking: lb, .. }) => {
            match (a != b, la != lb) {
                (true, _) => Some("filename"),
                (false, true) => Some("locking"),
                _ => None,
            }
        }
        (
            D::Null { aio: a, size: sa, latency_ns: la, read_zeroes: ra },
            D::Null { aio: b, size: sb, latency_ns: lb, read_zeroes: rb },
        ) => [("driver", a != b), ("size", sa != sb), ("latency-ns", la != lb), ("read-zeroes", ra != rb)]
            .into_iter()
            .find_map(|(name, differs)| differs.then_some(name)),
        (D::Raw { .. }, D::Raw { .. })
        | (D::Qcow2 { .. }, D::Qcow2 { .. })
        | (D::Throttle { .. }, D::Throttle { .. }) => None,
        (
            D::Blkdebug { config: a, limits: la, rules: ra, .. },
            D::Blkdebug { config: b, limits: lb, rules: rb, .. },
        ) => [("config", a != b), ("align", la != lb), ("inject-error.0.event", ra != rb)]
            .into_iter()
            .find_map(|(name, differs)| differs.then_some(name)),
        _ => Some("driver"),
    }
}
