//! Arguments of the dirty bitmap commands.

use std::sync::Arc;

use crate::base::Json;
use crate::qmp::visit::{At, Visit, Visitor};

/// A bitmap by node and name (`BlockDirtyBitmap`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BitmapRef {
    /// Node or device name.
    pub node: Arc<str>,
    /// Bitmap name.
    pub name: Arc<str>,
}

impl BitmapRef {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BitmapRef> {
        Ok(BitmapRef { node: v.str("node")?, name: v.str("name")? })
    }
}

/// `block-dirty-bitmap-add` (`BlockDirtyBitmapAdd`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BitmapAdd {
    /// Node or device name.
    pub node: Arc<str>,
    /// Bitmap name.
    pub name: Arc<str>,
    /// Bytes per bit.
    pub granularity: Option<u32>,
    /// Stored in the image when it is closed; default false.
    pub persistent: Option<bool>,
    /// Not recording at first; default false.
    pub disabled: Option<bool>,
}

impl BitmapAdd {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BitmapAdd> {
        Ok(BitmapAdd {
            node: v.str("node")?,
            name: v.str("name")?,
            granularity: v.opt_uint32("granularity")?,
            persistent: v.opt_bool("persistent")?,
            disabled: v.opt_bool("disabled")?,
        })
    }
}

/// A source of a merge (`BlockDirtyBitmapOrStr`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BitmapSource {
    /// A bitmap of the target's node.
    Local(Arc<str>),
    /// A bitmap of any node.
    External(BitmapRef),
}

impl BitmapSource {
    /// A name, or a node and a name.
    ///
    /// # Errors
    /// It is neither.
    pub fn visit(at: At<'_>) -> Visit<BitmapSource> {
        match at.any() {
            Json::Str(name) => Ok(BitmapSource::Local(name.clone())),
            Json::Dict(_) => {
                let mut v = at.object()?;
                let bitmap = BitmapRef::visit(&mut v)?;
                v.finish()?;
                Ok(BitmapSource::External(bitmap))
            }
            _ => Err(at.no_branch("BlockDirtyBitmapOrStr")),
        }
    }
}

/// `block-dirty-bitmap-merge` (`BlockDirtyBitmapMerge`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BitmapMerge {
    /// Node or device name of the target.
    pub node: Arc<str>,
    /// Name of the target bitmap.
    pub target: Arc<str>,
    /// The sources, in order.
    pub bitmaps: Vec<BitmapSource>,
}

impl BitmapMerge {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BitmapMerge> {
        Ok(BitmapMerge {
            node: v.str("node")?,
            target: v.str("target")?,
            bitmaps: v.list("bitmaps", BitmapSource::visit)?,
        })
    }
}
