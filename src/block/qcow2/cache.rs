//! The two metadata caches (block/qcow2-cache.c): slices of L2 tables, and refcount blocks.
//!
//! The number of places, which one an entry takes and the order of writing back are QEMU's. An empty place has no slot.

use super::exec::{Caught, Cx, Fault, Hex, Res, Undo};
use super::op::Qcow2Ask;
use crate::base::errno::Errno;
use crate::block::content::{Data, Table, WriteTag};
use crate::block::event::BlkdebugEvent;
use triomphe::Arc;

/// One of the two caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Which {
    /// `l2_table_cache`
    L2,
    /// `refcount_block_cache`
    Refcount,
}

impl Which {
    fn other(self) -> Which {
        match self {
            Which::L2 => Which::Refcount,
            Which::Refcount => Which::L2,
        }
    }
}

/// What is kept about a cache besides its slots (`struct Qcow2Cache`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CacheState {
    /// Places.
    pub size: u32,
    /// Bytes of a table.
    pub table_size: u64,
    lru: u64,
    clean_lru: u64,
    /// The other cache must be written before any of this one.
    depends: bool,
    depends_on_flush: bool,
}

impl CacheState {
    /// `qcow2_cache_create`
    pub fn new(size: u32, table_size: u64) -> CacheState {
        CacheState { size, table_size, ..CacheState::default() }
    }
}

/// What is kept about a place that is, or was, in use (`Qcow2CachedTable`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CachedTable {
    index: u32,
    /// 0 after a failed read.
    offset: u64,
    lru: u64,
    refs: u32,
    dirty: bool,
}

/// A place and the table in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    place: CachedTable,
    table: Arc<Table>,
}

/// The slots of a cache, by place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Cache {
    pub(super) slots: Vec<Slot>,
}

impl Cache {
    fn position(&self, index: u32) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&index, |slot| slot.place.index)
    }

    pub(super) fn insert(&mut self, slot: Slot) {
        match self.position(slot.place.index) {
            Ok(at) => self.slots[at] = slot,
            Err(at) => self.slots.insert(at, slot),
        }
    }

    pub(super) fn remove(&mut self, index: u32) {
        if let Ok(at) = self.position(index) {
            self.slots.remove(at);
        }
    }

    pub(super) fn set_place(&mut self, place: CachedTable) {
        if let Ok(at) = self.position(place.index) {
            self.slots[at].place = place;
        }
    }

    pub(super) fn set_entry(&mut self, slot: u32, index: u32, value: u64) {
        if let Ok(at) = self.position(slot) {
            Arc::make_mut(&mut self.slots[at].table).set(index, value);
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.slots.iter().any(|slot| slot.place.dirty)
    }

    fn find(&self, offset: u64, likely: u32) -> Option<usize> {
        match self.position(likely) {
            Ok(at) if self.slots[at].place.offset == offset => Some(at),
            _ => self.slots.iter().position(|slot| slot.place.offset == offset),
        }
    }

    /// The place to use for a new table, looking from `from` on: an empty one, else the least recently used.
    fn victim(&self, from: u32, size: u32) -> Option<u32> {
        if (self.slots.len() as u64) < u64::from(size) {
            let start = self.position(from).unwrap_or_else(|at| at);
            let taken = |slots: &[Slot], first: u32| {
                slots.iter().zip(first..).take_while(|(slot, index)| slot.place.index == *index).count() as u32
            };
            let place = from + taken(&self.slots[start..], from);
            return Some(if place < size { place } else { taken(&self.slots, 0) });
        }
        self.slots
            .iter()
            .filter(|slot| slot.place.refs == 0)
            .min_by_key(|slot| slot.place.lru)
            .map(|slot| slot.place.index)
    }
}

/// The places of a cache that were saved before they were changed. Small numbers are the common ones.
#[derive(Debug, Default)]
pub(super) struct Saved {
    near: u64,
    far: Vec<u32>,
}

impl Saved {
    /// Whether it is new.
    fn insert(&mut self, index: u32) -> bool {
        match 1u64.checked_shl(index) {
            Some(bit) => {
                let new = self.near & bit == 0;
                self.near |= bit;
                new
            }
            None if self.far.contains(&index) => false,
            None => {
                self.far.push(index);
                true
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.near = 0;
        self.far.clear();
    }
}

/// A table that is held in a cache, until [`Cx::put`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    which: Which,
    index: u32,
}

impl Cx<'_> {
    fn cs(&mut self, which: Which) -> &mut CacheState {
        &mut self.q.caches[which as usize]
    }

    fn slot(&self, held: Held) -> Option<&Slot> {
        let cache = &self.q.tables[held.which as usize];
        cache.position(held.index).ok().map(|at| &cache.slots[at])
    }

    /// A slot about to be changed in anything but the entries of its table.
    fn change(&mut self, held: Held) -> Option<&mut CachedTable> {
        let cache = &mut self.q.tables[held.which as usize];
        let at = cache.position(held.index).ok()?;
        // Only how the place was at the start counts.
        if self.saved[held.which as usize].insert(held.index) {
            self.undo.push(Undo::Place(held.which, cache.slots[at].place));
        }
        Some(&mut cache.slots[at].place)
    }

    /// `qcow2_cache_get`, or with `read` false `qcow2_cache_get_empty`.
    pub fn get(&mut self, which: Which, offset: u64, read: bool) -> Res<Held> {
        let CacheState { size, table_size, .. } = *self.cs(which);
        if !offset.is_multiple_of(table_size) {
            let name = match which {
                Which::L2 => "L2 table",
                Which::Refcount => "refcount block",
            };
            let message = format!("Cannot get entry from {name} cache: Offset {} is unaligned", Hex(offset));
            return self.corrupt(message, None);
        }
        let lookup = ((offset / table_size).wrapping_mul(4) % u64::from(size)) as u32;
        let cache = &mut self.q.tables[which as usize];
        if let Some(at) = cache.find(offset, lookup) {
            let held = Held { which, index: cache.slots[at].place.index };
            if let Some(place) = self.change(held) {
                place.refs += 1;
            }
            return Ok(held);
        }
        let Some(index) = cache.victim(lookup, size) else { return Cx::fail(Errno::ENOMEM) };
        let held = Held { which, index };
        self.flush_entry(held)?;
        let table = if read { self.load(held, offset, table_size)? } else { Arc::new(Table::new(self.width(which))) };
        let (mut lru, mut new) = (0, true);
        if let Some(old) = self.slot(held).cloned() {
            (lru, new) = (old.place.lru, false);
            self.undo.push(Undo::Slot(which, old));
        }
        if new {
            self.undo.push(Undo::NoSlot(which, index));
        }
        self.q.tables[which as usize]
            .insert(Slot { place: CachedTable { index, offset, lru, refs: 1, dirty: false }, table });
        Ok(held)
    }

    fn width(&self, which: Which) -> u8 {
        match which {
            Which::L2 => 8,
            Which::Refcount => self.q.sc.refblock_width(),
        }
    }

    fn load(&mut self, held: Held, offset: u64, table_size: u64) -> Res<Arc<Table>> {
        if held.which == Which::L2 {
            self.event(BlkdebugEvent::L2Load);
        }
        match self.read(offset, table_size).caught()? {
            Ok(data) => Ok(data.to_table(self.width(held.which))),
            Err(fault) => {
                if let Some(place) = self.change(held) {
                    place.offset = 0;
                }
                Err(fault.into())
            }
        }
    }

    /// `qcow2_cache_put`
    pub fn put(&mut self, held: Held) {
        let next = self.cs(held.which).lru + 1;
        let mut last = false;
        if let Some(place) = self.change(held) {
            place.refs -= 1;
            last = place.refs == 0;
            if last {
                place.lru = next;
            }
        }
        if last {
            self.cs(held.which).lru = next;
        }
    }

    /// `qcow2_cache_entry_mark_dirty`
    pub fn mark_dirty(&mut self, held: Held) {
        if self.slot(held).is_some_and(|slot| !slot.place.dirty)
            && let Some(place) = self.change(held)
        {
            place.dirty = true;
        }
    }

    /// An entry of a held table.
    pub fn entry(&self, held: Held, index: u64) -> u64 {
        self.slot(held).map_or(0, |slot| slot.table.get(index as u32))
    }

    /// Whether one of the `n` entries of a held table from `index` on that are not 0 is such.
    pub fn any_entry(&self, held: Held, index: u64, n: u64, is: impl Fn(u64) -> bool) -> bool {
        self.slot(held).is_some_and(|slot| slot.table.any_in(index as u32, n as u32, is))
    }

    /// Sets an entry of a held table.
    pub fn set_entry(&mut self, held: Held, index: u64, value: u64) {
        let cache = &mut self.q.tables[held.which as usize];
        let Ok(at) = cache.position(held.index) else { return };
        let table = &mut cache.slots[at].table;
        let old = table.get(index as u32);
        if old != value {
            self.undo.push(Undo::Entry(held.which, held.index, index as u32, old));
            Arc::make_mut(table).set(index as u32, value);
        }
    }

    /// Sets `n` entries of a held table from `index` on to what `new` makes of their number among these and of what they are.
    /// Whether any of them changed.
    pub fn map_entries(&mut self, held: Held, index: u64, n: u64, mut new: impl FnMut(u64, u64) -> u64) -> bool {
        let cache = &mut self.q.tables[held.which as usize];
        let Ok(at) = cache.position(held.index) else { return false };
        let (undo, first) = (&mut self.undo, index as u32);
        let undone = undo.len();
        let change = |i: u32, old: u64| {
            let value = new(u64::from(i - first), old);
            if value != old {
                undo.push(Undo::Entry(held.which, held.index, i, old));
            }
            value
        };
        let table = &mut cache.slots[at].table;
        if let Some(table) = Arc::get_mut(table) {
            table.map(first, n as u32, change);
            return self.undo.len() > undone;
        }
        let mut copy = Table::clone(table);
        copy.map(first, n as u32, change);
        let changed = self.undo.len() > undone;
        if changed {
            *table = Arc::new(copy);
        }
        changed
    }

    /// The whole of a held table, shared.
    pub fn table(&self, held: Held) -> Arc<Table> {
        self.slot(held).map_or_else(Arc::default, |slot| slot.table.clone())
    }

    /// Replaces the whole of a held table.
    pub fn set_table(&mut self, held: Held, table: Arc<Table>) {
        if let Some(slot) = self.slot(held).cloned() {
            let place = slot.place;
            self.undo.push(Undo::Slot(held.which, slot));
            self.q.tables[held.which as usize].insert(Slot { place, table });
        }
    }

    /// `qcow2_cache_is_table_offset`
    pub fn cached_at(&self, which: Which, offset: u64) -> Option<Held> {
        let cache = &self.q.tables[which as usize];
        cache.slots.iter().find(|slot| slot.place.offset == offset).map(|slot| Held { which, index: slot.place.index })
    }

    /// `qcow2_cache_discard`
    pub fn drop_cached(&mut self, held: Held) {
        if let Some(slot) = self.slot(held).cloned() {
            self.undo.push(Undo::Slot(held.which, slot));
            self.q.tables[held.which as usize].remove(held.index);
        }
    }

    fn flush_dependency(&mut self, which: Which) -> Res {
        self.flush_cache(which.other())?;
        let cs = self.cs(which);
        cs.depends = false;
        cs.depends_on_flush = false;
        Ok(())
    }

    /// `qcow2_cache_entry_flush`
    fn flush_entry(&mut self, held: Held) -> Res {
        let Some(&Slot { place: CachedTable { offset, dirty: true, .. }, .. }) = self.slot(held) else { return Ok(()) };
        if offset == 0 {
            return Ok(());
        }
        let CacheState { table_size, depends, depends_on_flush, .. } = *self.cs(held.which);
        if depends {
            self.flush_dependency(held.which)?;
        } else if depends_on_flush {
            self.flush_file()?;
            self.cs(held.which).depends_on_flush = false;
        }
        let (ignore, event) = match held.which {
            Which::L2 => (super::overlap::Overlap::ActiveL2, BlkdebugEvent::L2Update),
            Which::Refcount => (super::overlap::Overlap::RefcountBlock, BlkdebugEvent::RefblockUpdatePart),
        };
        self.overlap_check(Some(ignore), offset, table_size)?;
        self.event(event);
        let table = self.table(held);
        self.ask(|| Qcow2Ask::Write { offset, data: Data::table(table, table_size, WriteTag(0)) })?;
        if let Some(place) = self.change(held) {
            place.dirty = false;
        }
        Ok(())
    }

    /// `qcow2_cache_write`
    pub fn write_cache(&mut self, which: Which) -> Res {
        self.write_entries(which, 0, None)
    }

    /// `qcow2_write_caches` as a whole procedure: with checkpoints, as what has been written is not dirty any more.
    pub fn write_caches_in_steps(&mut self) -> Res {
        // Progress counts slots that need not be looked at again, those of the second cache from here on.
        const SECOND: u64 = 1 << 32;
        let done = self.progress();
        if done < SECOND {
            self.write_entries(Which::L2, done, Some(0))?;
        }
        if self.q.sc.accurate_refcounts() {
            self.write_entries(Which::Refcount, done.saturating_sub(SECOND), Some(SECOND))?;
        }
        Ok(())
    }

    /// Writes the slots from `at` on; with `steps`, a checkpoint behind each says how many are done, counted from there.
    fn write_entries(&mut self, which: Which, at: u64, steps: Option<u64>) -> Res {
        let mut result: Result<(), Fault> = Ok(());
        let mut at = at as usize;
        while let Some(slot) = self.q.tables[which as usize].slots.get(at) {
            if slot.place.dirty {
                let held = Held { which, index: slot.place.index };
                if let Err(fault) = self.flush_entry(held).caught()?
                    && result.as_ref().err().is_none_or(|first| first.errno != Errno::ENOSPC)
                {
                    result = Err(fault);
                }
                if let (Some(base), Ok(())) = (steps, &result) {
                    self.checkpoint(base + at as u64 + 1);
                }
            }
            at += 1;
        }
        Ok(result?)
    }

    /// `qcow2_cache_flush`
    pub fn flush_cache(&mut self, which: Which) -> Res {
        self.write_cache(which)?;
        self.flush_file()
    }

    /// `qcow2_cache_set_dependency`: `which` must not be written before the other cache.
    pub fn set_dependency(&mut self, which: Which) -> Res {
        if self.cs(which.other()).depends {
            self.flush_dependency(which.other())?;
        }
        self.cs(which).depends = true;
        Ok(())
    }

    /// `qcow2_cache_depends_on_flush`
    pub fn depends_on_flush(&mut self, which: Which) {
        self.cs(which).depends_on_flush = true;
    }

    /// `qcow2_write_caches`
    pub fn write_caches(&mut self) -> Res {
        self.write_cache(Which::L2)?;
        if self.q.sc.accurate_refcounts() {
            self.write_cache(Which::Refcount)?;
        }
        Ok(())
    }

    /// `qcow2_flush_caches`
    pub fn flush_caches(&mut self) -> Res {
        self.write_caches()?;
        self.flush_file()
    }

    /// `qcow2_cache_empty`
    pub fn empty_cache(&mut self, which: Which) -> Res {
        self.flush_cache(which)?;
        self.forget_cache(which);
        self.cs(which).lru = 0;
        Ok(())
    }

    /// Drops all slots of a cache that has nothing to write.
    pub fn forget_cache(&mut self, which: Which) {
        let old = std::mem::take(&mut self.q.tables[which as usize].slots);
        if !old.is_empty() {
            self.undo.push(Undo::Slots(which, old));
        }
    }
}

impl super::Qcow2 {
    /// `qcow2_cache_destroy` of both: what they hold is in the image.
    pub fn drop_clean_caches(&mut self) {
        for cache in &mut self.tables {
            assert!(cache.slots.iter().all(|slot| !slot.place.dirty), "a cache is dropped with what it was to write");
            cache.slots.clear();
        }
    }

    /// `cache_clean_timer_cb`: drops what was not used since the last call. QEMU does this every 600 seconds.
    pub fn clean_caches(&mut self) {
        for (state, cache) in self.caches.iter_mut().zip(&mut self.tables) {
            let limit = state.clean_lru;
            cache.slots.retain(|slot| {
                !(slot.place.refs == 0 && !slot.place.dirty && slot.place.offset != 0 && slot.place.lru <= limit)
            });
            state.clean_lru = state.lru;
        }
    }
}
