//! The dirty bitmaps of one node.

use std::fmt;

use super::{BlockDirtyInfo, CheckFlags, DirtyBitmap, HBitmap, MAX_NAME_SIZE};

/// Which bitmap of a node. Never used twice within a node, so that the id of a released bitmap finds nothing. What a
/// job keeps in place of QEMU's pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitmapId(pub u32);

impl fmt::Display for BitmapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bitmap#{}", self.0)
    }
}

/// The list `bs->dirty_bitmaps`, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DirtyBitmaps {
    list: Vec<DirtyBitmap>,
    next_id: u32,
}

fn released(id: BitmapId) -> String {
    format!("{id} was released")
}

impl DirtyBitmaps {
    /// Whether the node has no bitmap at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The bitmaps in query order, newest first.
    pub fn iter(&self) -> std::slice::Iter<'_, DirtyBitmap> {
        self.list.iter()
    }

    /// The bitmaps in query order, to be changed.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, DirtyBitmap> {
        self.list.iter_mut()
    }

    fn position(&self, id: BitmapId) -> Option<usize> {
        self.list.iter().position(|bitmap| bitmap.id == id)
    }

    /// The bitmap, unless it was released.
    #[must_use]
    pub fn get(&self, id: BitmapId) -> Option<&DirtyBitmap> {
        self.list.iter().find(|bitmap| bitmap.id == id)
    }

    /// The bitmap to be changed, unless it was released.
    pub fn get_mut(&mut self, id: BitmapId) -> Option<&mut DirtyBitmap> {
        self.list.iter_mut().find(|bitmap| bitmap.id == id)
    }

    /// `bdrv_find_dirty_bitmap`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<BitmapId> {
        self.list.iter().find(|bitmap| bitmap.name.as_deref() == Some(name)).map(|bitmap| bitmap.id)
    }

    /// The second half of `block_dirty_bitmap_lookup`.
    ///
    /// # Errors
    /// QEMU's text when there is no such bitmap.
    pub fn lookup(&self, name: &str) -> Result<BitmapId, String> {
        self.find(name).ok_or_else(|| format!("Dirty bitmap '{name}' not found"))
    }

    /// The checks of a new name in `bdrv_create_dirty_bitmap`: not taken, not too long.
    ///
    /// # Errors
    /// QEMU's text for the first rule that is broken.
    pub fn check_name(&self, name: &str) -> Result<(), String> {
        if self.find(name).is_some() {
            return Err(format!("Bitmap already exists: {name}"));
        }
        if name.len() > MAX_NAME_SIZE {
            return Err(format!("Bitmap name too long: {name}"));
        }
        Ok(())
    }

    /// `bdrv_create_dirty_bitmap`: a clean, enabled bitmap at the head of the list. `size` (of the node) and
    /// `granularity` are in bytes.
    ///
    /// # Errors
    /// Those of [`DirtyBitmaps::check_name`].
    pub fn add(&mut self, name: Option<&str>, size: u64, granularity: u64) -> Result<BitmapId, String> {
        if let Some(name) = name {
            self.check_name(name)?;
        }
        Ok(self.insert(name, size, granularity))
    }

    /// [`DirtyBitmaps::add`] without a name, which cannot fail.
    pub fn add_anonymous(&mut self, size: u64, granularity: u64) -> BitmapId {
        self.insert(None, size, granularity)
    }

    fn insert(&mut self, name: Option<&str>, size: u64, granularity: u64) -> BitmapId {
        let id = BitmapId(self.next_id);
        self.next_id += 1;
        self.list.insert(0, DirtyBitmap::new(id, name, HBitmap::new(size, granularity)));
        id
    }

    /// `bdrv_release_dirty_bitmap`. It must be neither busy nor have a successor. Returns what it was, `None` if it
    /// was released before.
    pub fn release(&mut self, id: BitmapId) -> Option<DirtyBitmap> {
        let bitmap = self.list.remove(self.position(id)?);
        assert!(!bitmap.busy && bitmap.successor.is_none(), "{id} is released while in use");
        Some(bitmap)
    }

    /// `bdrv_release_named_dirty_bitmaps`: anonymous ones stay.
    pub fn release_named(&mut self) {
        assert!(self.list.iter().all(|bitmap| bitmap.name.is_none() || !bitmap.busy));
        self.list.retain(|bitmap| bitmap.name.is_none());
    }

    /// `bdrv_set_dirty`: a write (or discard) of these bytes ended; every enabled bitmap records it.
    pub fn set_dirty(&mut self, offset: u64, bytes: u64) {
        for bitmap in self.list.iter_mut().filter(|bitmap| !bitmap.disabled) {
            bitmap.bitmap_mut().set(offset, bytes);
        }
    }

    /// `bdrv_dirty_bitmap_truncate`: the node has a new size, in bytes. None may be busy.
    pub fn truncate(&mut self, size: u64) {
        for bitmap in &mut self.list {
            assert!(!bitmap.busy && bitmap.successor.is_none(), "{} is resized while in use", bitmap.id);
            bitmap.bitmap.truncate(size);
        }
    }

    /// `bdrv_has_readonly_bitmaps`: writes and discards on the node must then fail.
    #[must_use]
    pub fn has_readonly(&self) -> bool {
        self.list.iter().any(|bitmap| bitmap.readonly)
    }

    /// `bdrv_has_named_bitmaps`.
    #[must_use]
    pub fn has_named(&self) -> bool {
        self.list.iter().any(|bitmap| bitmap.name.is_some())
    }

    /// `bdrv_dirty_bitmap_recording`: enabled itself, or by its successor.
    #[must_use]
    pub fn recording(&self, bitmap: &DirtyBitmap) -> bool {
        !bitmap.disabled || bitmap.successor.and_then(|id| self.get(id)).is_some_and(DirtyBitmap::enabled)
    }

    /// `bdrv_query_dirty_bitmaps`, newest first.
    pub fn query(&self) -> impl Iterator<Item = BlockDirtyInfo> + '_ {
        self.list.iter().map(|bitmap| self.info(bitmap))
    }

    /// What a query shows of one bitmap of this list.
    #[must_use]
    pub fn info(&self, bitmap: &DirtyBitmap) -> BlockDirtyInfo {
        BlockDirtyInfo {
            name: bitmap.name.clone(),
            count: bitmap.bitmap.count_bytes(),
            granularity: bitmap.granularity(),
            recording: self.recording(bitmap),
            busy: bitmap.busy,
            persistent: bitmap.persistent,
            inconsistent: bitmap.inconsistent,
        }
    }

    /// `bdrv_merge_dirty_bitmap`: adds the bits of `src`, a bitmap of this or another node, to `dst`. With `backup`
    /// the bits that `dst` had come back, for [`DirtyBitmap::restore`].
    ///
    /// # Errors
    /// QEMU's text: `dst` busy, read-only or inconsistent; `src` busy or inconsistent; sizes differ.
    pub fn merge(&mut self, dst: BitmapId, src: &DirtyBitmap, backup: bool) -> Result<Option<HBitmap>, String> {
        let dest = self.get(dst).ok_or_else(|| released(dst))?;
        dest.check(CheckFlags::DEFAULT)?;
        src.check(CheckFlags::ALLOW_RO)?;
        if src.size() != dest.size() {
            return Err(format!(
                "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be merged",
                dest.size(),
                src.size()
            ));
        }
        let old = self.merge_internal(dst, &src.bitmap);
        Ok(old.filter(|_| backup))
    }

    /// [`DirtyBitmaps::merge`] within the node.
    ///
    /// # Errors
    /// [`DirtyBitmaps::merge`] of two bitmaps of this node.
    pub fn merge_local(&mut self, dst: BitmapId, src: BitmapId, backup: bool) -> Result<Option<HBitmap>, String> {
        let src = self.get(src).ok_or_else(|| released(src))?.clone();
        self.merge(dst, &src, backup)
    }

    /// `bdrv_dirty_bitmap_merge_internal`: a merge without checks, for jobs. The sizes must be the same. Returns the
    /// bits that `dst` had, `None` if it was released.
    pub fn merge_internal(&mut self, dst: BitmapId, src: &HBitmap) -> Option<HBitmap> {
        let dest = self.get_mut(dst)?;
        let old = dest.bitmap.clone();
        dest.bitmap_mut().merge_from(src);
        Some(old)
    }

    /// `bdrv_dirty_bitmap_create_successor`: from now on a new anonymous bitmap at the head of the list records in
    /// place of `id`, which is busy until [`DirtyBitmaps::abdicate`] or [`DirtyBitmaps::reclaim`]. It is as long as the node is now, `size`
    /// bytes, which is not always what the parent is (a resize that failed late leaves that short).
    ///
    /// # Errors
    /// QEMU's text when it is busy or has a successor.
    pub fn create_successor(&mut self, id: BitmapId, size: u64) -> Result<BitmapId, String> {
        let parent = self.get(id).ok_or_else(|| released(id))?;
        parent.check(CheckFlags::BUSY)?;
        if parent.successor.is_some() {
            return Err("Cannot create a successor for a bitmap that already has one".into());
        }
        let (granularity, disabled) = (parent.granularity(), parent.disabled);
        let child = self.add_anonymous(size, granularity);
        self.list[0].disabled = disabled;
        if let Some(parent) = self.get_mut(id) {
            parent.disabled = true;
            parent.busy = true;
            parent.successor = Some(child);
        }
        Ok(child)
    }

    /// `bdrv_dirty_bitmap_enable_successor`. Does nothing without one.
    pub fn enable_successor(&mut self, id: BitmapId) {
        let child = self.get(id).and_then(DirtyBitmap::successor);
        if let Some(child) = child.and_then(|child| self.get_mut(child)) {
            child.disabled = false;
        }
    }

    /// `bdrv_dirty_bitmap_abdicate`: the successor takes name and persistence, the old bitmap is released. Returns
    /// the successor.
    ///
    /// # Errors
    /// QEMU's text when it has no successor.
    pub fn abdicate(&mut self, id: BitmapId) -> Result<BitmapId, String> {
        let at = self.position(id).ok_or_else(|| released(id))?;
        let child = self.list[at].successor.and_then(|child| self.position(child));
        let child = child.ok_or("Cannot relinquish control if there's no successor present")?;
        let (name, persistent) = (self.list[at].name.take(), self.list[at].persistent);
        self.list[child].name = name;
        self.list[child].persistent = persistent;
        let child = self.list[child].id;
        self.list.remove(at);
        Ok(child)
    }

    /// `bdrv_reclaim_dirty_bitmap`: what the successor recorded is added to the bitmap, which records again if the
    /// successor did; the successor is released.
    ///
    /// # Errors
    /// QEMU's text when it has no successor.
    pub fn reclaim(&mut self, id: BitmapId) -> Result<(), String> {
        let at = self.position(id).ok_or_else(|| released(id))?;
        let child = self.list[at].successor.take().and_then(|child| self.release(child));
        let child = child.ok_or("Cannot reclaim a successor when none is present")?;
        if let Some(parent) = self.get_mut(id) {
            parent.bitmap.merge_from(&child.bitmap);
            parent.disabled = child.disabled;
            parent.busy = false;
        }
        Ok(())
    }
}
