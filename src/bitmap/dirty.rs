//! One dirty bitmap of a node: its flags, and the rules for names and granularities.

use std::sync::Arc;

use super::{BitmapId, HBitmap};

/// `BDRV_BITMAP_MAX_NAME_SIZE`: the longest name, in bytes.
pub const MAX_NAME_SIZE: usize = 1023;
const MIN_GRANULARITY: u64 = 512;
const MIN_DEFAULT_GRANULARITY: u64 = 4096;
const MAX_DEFAULT_GRANULARITY: u64 = 65536;

/// The first check of `block-dirty-bitmap-add`.
///
/// # Errors
/// QEMU's text when the name is empty.
pub fn check_name_given(name: &str) -> Result<(), String> {
    if name.is_empty() { Err("Bitmap name cannot be empty".into()) } else { Ok(()) }
}

/// The check of a granularity that was asked for, in bytes (`block/monitor/bitmap-qmp-cmds.c`).
///
/// # Errors
/// QEMU's text when it is below 512 or no power of two.
pub fn check_granularity(granularity: u64) -> Result<(), String> {
    if granularity < MIN_GRANULARITY || !granularity.is_power_of_two() {
        return Err("Granularity must be power of 2 and at least 512".into());
    }
    Ok(())
}

/// `bdrv_get_default_bitmap_granularity`: bytes, from the node's cluster size (0 when it has none).
#[must_use]
pub fn default_granularity(cluster_size: u64) -> u64 {
    if cluster_size == 0 {
        MAX_DEFAULT_GRANULARITY
    } else {
        cluster_size.clamp(MIN_DEFAULT_GRANULARITY, MAX_DEFAULT_GRANULARITY)
    }
}

/// Which states [`DirtyBitmap::check`] refuses: the `BDRV_BITMAP_*` flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckFlags {
    busy: bool,
    readonly: bool,
    inconsistent: bool,
}

impl CheckFlags {
    /// `BDRV_BITMAP_DEFAULT`: all three, for whoever changes bits.
    pub const DEFAULT: CheckFlags = CheckFlags { busy: true, readonly: true, inconsistent: true };
    /// `BDRV_BITMAP_ALLOW_RO`: busy and inconsistent, for enabling, disabling and reading.
    pub const ALLOW_RO: CheckFlags = CheckFlags { busy: true, readonly: false, inconsistent: true };
    /// `BDRV_BITMAP_BUSY | BDRV_BITMAP_RO`: for removal, the one thing left to do with an inconsistent bitmap.
    pub const REMOVE: CheckFlags = CheckFlags { busy: true, readonly: true, inconsistent: false };
    /// `BDRV_BITMAP_BUSY` alone.
    pub const BUSY: CheckFlags = CheckFlags { busy: true, readonly: false, inconsistent: false };
}

/// `block/dirty-bitmap.c:struct BdrvDirtyBitmap`: bits with a name and flags.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DirtyBitmap {
    pub(super) id: BitmapId,
    pub(super) name: Option<Arc<str>>,
    pub(super) bitmap: HBitmap,
    pub(super) successor: Option<BitmapId>,
    pub(super) disabled: bool,
    pub(super) busy: bool,
    pub(super) persistent: bool,
    pub(super) readonly: bool,
    pub(super) inconsistent: bool,
    pub(super) skip_store: bool,
}

impl DirtyBitmap {
    pub(super) fn new(id: BitmapId, name: Option<&str>, bitmap: HBitmap) -> DirtyBitmap {
        DirtyBitmap {
            id,
            name: name.map(Arc::from),
            bitmap,
            successor: None,
            disabled: false,
            busy: false,
            persistent: false,
            readonly: false,
            inconsistent: false,
            skip_store: false,
        }
    }

    /// Which one it is; stays the same while the name may move.
    #[must_use]
    pub fn id(&self) -> BitmapId {
        self.id
    }

    /// Its name; `None` for successors and the bitmaps that jobs make for themselves.
    #[must_use]
    pub fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    /// The bits. Copying them is cheap.
    #[must_use]
    pub fn bitmap(&self) -> &HBitmap {
        &self.bitmap
    }

    /// The bits, to be changed by the owner of an anonymous bitmap.
    pub fn bitmap_mut(&mut self) -> &mut HBitmap {
        assert!(!self.readonly, "read-only bitmap {:?} is written", self.name);
        &mut self.bitmap
    }

    /// Bytes covered.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bitmap.size()
    }

    /// Bytes in a granule.
    #[must_use]
    pub fn granularity(&self) -> u64 {
        self.bitmap.granularity()
    }

    /// `bdrv_dirty_bitmap_enabled`: whether guest writes set bits in this very bitmap.
    #[must_use]
    pub fn enabled(&self) -> bool {
        !self.disabled
    }

    /// `bdrv_enable_dirty_bitmap`, `bdrv_disable_dirty_bitmap`.
    pub fn set_enabled(&mut self, enabled: bool) {
        self.disabled = !enabled;
    }

    /// Whether an operation holds it, so that commands must refuse it.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.busy
    }

    /// `bdrv_dirty_bitmap_set_busy`.
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// The anonymous bitmap that records in place of this one, if any.
    #[must_use]
    pub fn successor(&self) -> Option<BitmapId> {
        self.successor
    }

    /// Whether it is shown as persistent.
    #[must_use]
    pub fn persistent(&self) -> bool {
        self.persistent
    }

    /// `bdrv_dirty_bitmap_get_persistence`: whether it is to be stored, that is, persistent and not being removed.
    #[must_use]
    pub fn to_be_stored(&self) -> bool {
        self.persistent && !self.skip_store
    }

    /// `bdrv_dirty_bitmap_set_persistence`.
    pub fn set_persistence(&mut self, persistent: bool) {
        self.persistent = persistent;
    }

    /// Whether neither it nor the image may change.
    #[must_use]
    pub fn readonly(&self) -> bool {
        self.readonly
    }

    /// `bdrv_dirty_bitmap_set_readonly`.
    pub fn set_readonly(&mut self, readonly: bool) {
        self.readonly = readonly;
    }

    /// Whether it was found in use in the image, so that its bits mean nothing.
    #[must_use]
    pub fn inconsistent(&self) -> bool {
        self.inconsistent
    }

    /// `bdrv_dirty_bitmap_set_inconsistent`: also disables it. Only a persistent bitmap can be inconsistent.
    pub fn set_inconsistent(&mut self) {
        assert!(self.persistent, "bitmap {:?} is inconsistent without being persistent", self.name);
        self.inconsistent = true;
        self.disabled = true;
    }

    /// `bdrv_dirty_bitmap_skip_store`: whether it is being removed and must not be stored at the next close.
    pub fn set_skip_store(&mut self, skip: bool) {
        self.skip_store = skip;
    }

    /// `bdrv_dirty_bitmap_check`: busy first, then read-only, then inconsistent.
    ///
    /// # Errors
    /// QEMU's text for the first refused state.
    pub fn check(&self, flags: CheckFlags) -> Result<(), String> {
        let name = self.name.as_deref().unwrap_or("(null)");
        if flags.busy && self.busy {
            return Err(format!("Bitmap '{name}' is currently in use by another operation and cannot be used"));
        }
        if flags.readonly && self.readonly {
            return Err(format!("Bitmap '{name}' is readonly and cannot be modified"));
        }
        if flags.inconsistent && self.inconsistent {
            return Err(format!("Bitmap '{name}' is inconsistent and cannot be used"));
        }
        Ok(())
    }

    /// `bdrv_clear_dirty_bitmap`: all bits 0. Gives the old bits, for [`DirtyBitmap::restore`].
    pub fn clear(&mut self) -> HBitmap {
        let old = self.bitmap.clone();
        self.bitmap_mut().reset_all();
        old
    }

    /// `bdrv_restore_dirty_bitmap`: puts back what [`DirtyBitmap::clear`] or a merge gave.
    pub fn restore(&mut self, backup: HBitmap) {
        *self.bitmap_mut() = backup;
    }
}

/// What a query shows of a bitmap (`qapi/block-core.json:BlockDirtyInfo`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockDirtyInfo {
    /// Absent for anonymous bitmaps.
    pub name: Option<Arc<str>>,
    /// Dirty granules in bytes; may exceed the disk by part of a granule.
    pub count: u64,
    /// Bytes in a granule.
    pub granularity: u64,
    /// Whether guest writes are recorded, by it or by its successor.
    pub recording: bool,
    /// Whether an operation holds it.
    pub busy: bool,
    /// Whether it is to live in the image.
    pub persistent: bool,
    /// Whether it can only be removed; shown only if true.
    pub inconsistent: bool,
}
