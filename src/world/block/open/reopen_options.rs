//! Words of opening a node again: what a description says of a child, and what QEMU says of what it does not take.

use super::spec::{BackingSpec, DriverSpec, OpenSpec};
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

/// `bdrv_lookup_bs(NULL, name)`
pub(super) fn no_node(name: &str) -> Arc<str> {
    format!("Cannot find device='' nor node-name='{name}'").into()
}

/// What `bdrv_parse_detect_zeroes` says.
pub(super) const UNMAP_WITHOUT_DISCARD: &str =
    "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap";
