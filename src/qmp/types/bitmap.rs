//! Arguments of the dirty bitmap commands.

use std::sync::Arc;

use crate::base::Json;
use crate::qmp::declare::{Value, members, values};
use crate::qmp::visit::{ValueAt, Visit};

members! {
    /// A bitmap by node and name (`BlockDirtyBitmap`).
    pub struct BitmapRef {
        /// Node or device name.
        node: Arc<str>,
        /// Bitmap name.
        name: Arc<str>,
    }
}

members! {
    /// `block-dirty-bitmap-add` (`BlockDirtyBitmapAdd`).
    pub struct BitmapAdd {
        /// Node or device name.
        node: Arc<str>,
        /// Bitmap name.
        name: Arc<str>,
        /// Bytes per bit.
        granularity: Option<u32>,
        /// Stored in the image when it is closed; default false.
        persistent: Option<bool>,
        /// Not recording at first; default false.
        disabled: Option<bool>,
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

values!(BitmapSource);

impl BitmapSource {
    /// A name, or a node and a name.
    ///
    /// # Errors
    /// It is neither.
    pub fn visit(at: ValueAt<'_>) -> Visit<BitmapSource> {
        match at.any() {
            Json::Str(name) => Ok(BitmapSource::Local(name.clone())),
            Json::Dict(_) => BitmapRef::value(at).map(BitmapSource::External),
            _ => Err(at.no_branch("BlockDirtyBitmapOrStr")),
        }
    }
}

members! {
    /// `block-dirty-bitmap-merge` (`BlockDirtyBitmapMerge`).
    pub struct BitmapMerge {
        /// Node or device name of the target.
        node: Arc<str>,
        /// Name of the target bitmap.
        target: Arc<str>,
        /// The sources, in order.
        bitmaps: Vec<BitmapSource>,
    }
}
