//! Words of opening a node again: what a description says of a child, and what QEMU says of what it does not take.

use super::runtime_options::RuntimeOptions;
use super::spec::{BackingSpec, DriverSpec, OpenSpec};
use super::unsupported::not_simulated;
use crate::base::Json;
use crate::qmp::error::QmpError;
use crate::qmp::keyval::parse_bool;
use crate::world::block::driver::Driver;
use crate::world::block::graph::DetectZeroes;
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

/// All that a description says, flat, under the name of a child.
pub(super) fn flat_options(spec: &OpenSpec, prefix: &str, flat: &mut Vec<(Arc<str>, Json)>) {
    let mut put = |key: &str, value: Json| flat.push((format!("{prefix}.{key}").into(), value));
    let explicit = &spec.explicit;
    for (key, value) in explicit.own.as_dict().unwrap_or_default() {
        put(key, value.clone());
    }
    let generic = [
        ("read-only", explicit.read_only),
        ("auto-read-only", explicit.auto_read_only),
        ("cache.direct", explicit.direct),
        ("cache.no-flush", explicit.no_flush),
    ];
    for (key, value) in generic {
        if let Some(value) = value {
            put(key, Json::Bool(value));
        }
    }
    if let Some(unmap) = explicit.unmap {
        put("discard", if unmap { "unmap" } else { "ignore" }.into());
    }
    if let Some(detect) = explicit.detect_zeroes {
        put("detect-zeroes", detect.name().into());
    }
    for name in ["file", "backing", "target"] {
        if name == "backing" && spec.backing == BackingSpec::None {
            flat.push((format!("{prefix}.backing").into(), Json::Null));
        }
        let Some(Some(child)) = child_spec(spec, name) else {
            continue;
        };
        let name = if name == "file" && matches!(spec.driver, DriverSpec::Blkdebug { .. }) { "image" } else { name };
        let key = format!("{prefix}.{name}");
        match &child.reference {
            Some(reference) => flat.push((key.into(), Json::Str(reference.clone()))),
            None => flat_options(child, &key, flat),
        }
    }
}

/// Options of a child, taken out of those of its parent (`qdict_extract_subqdict`).
pub(super) fn take_of_child(options: &mut Vec<(Arc<str>, Json)>, name: &str) -> Vec<(Arc<str>, Json)> {
    let mut taken = Vec::new();
    options.retain(|(key, value)| match key.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) {
        Some(rest) => {
            taken.push((rest.into(), value.clone()));
            false
        }
        None => true,
    });
    taken
}

/// Options by their names.
type Named = Vec<(Arc<str>, Json)>;

impl RuntimeOptions {
    /// Options whose values are texts, as qemu-io's `reopen` takes them, and those of children.
    ///
    /// # Errors
    /// QEMU's complaint about a value.
    pub(super) fn of_texts(given: &[(Arc<str>, Json)]) -> Result<(RuntimeOptions, Named), QmpError> {
        let (mut options, mut own, mut below) = (RuntimeOptions::default(), Vec::new(), Vec::new());
        for (key, value) in given {
            let text = value.as_str().unwrap_or_default();
            let flag = || {
                let wrong = || QmpError::generic(format!("Parameter '{key}' expects 'on' or 'off'"));
                parse_bool(text).map(Some).ok_or_else(wrong)
            };
            match &**key {
                "read-only" => options.read_only = flag()?,
                "auto-read-only" => options.auto_read_only = flag()?,
                "cache.direct" => options.direct = flag()?,
                "cache.no-flush" => options.no_flush = flag()?,
                "discard" => {
                    options.unmap = match text {
                        "unmap" | "on" => Some(true),
                        "ignore" | "off" => Some(false),
                        _ => return Err(QmpError::generic("Invalid discard option")),
                    };
                }
                "detect-zeroes" => {
                    options.detect_zeroes = match text {
                        "off" => Some(DetectZeroes::Off),
                        "on" => Some(DetectZeroes::On),
                        "unmap" => Some(DetectZeroes::Unmap),
                        _ => return Err(QmpError::generic(format!("invalid parameter value: {text}"))),
                    };
                }
                "file" | "backing" | "image" => return Err(not_simulated("qemu-io reopen -o")),
                _ if key.contains('.') => below.push((key.clone(), value.clone())),
                _ => own.push((key.clone(), value.clone())),
            }
        }
        options.own = Json::Dict(Arc::new(own));
        Ok((options, below))
    }

    /// Of options given as texts, those that the open node neither has so nor takes otherwise.
    pub(super) fn not_taken(&self, given: &RuntimeOptions, driver: &Driver) -> Vec<(Arc<str>, Json)> {
        let given = given.own.as_dict().unwrap_or_default();
        given.iter().filter(|(key, value)| self.differs(driver, key, value)).cloned().collect()
    }
}
