//! Refcount blocks and the refcount table: making, growing, shrinking (block/qcow2-refcount.c).

use crate::base::errno::Errno;
use crate::block::content::{Data, Table, WriteTag};
use crate::block::event::BlkdebugEvent as Event;
use crate::block::qcow2::cache::{Held, Which};
use crate::block::qcow2::exec::{Caught, Cx, Hex, Res, Undo};
use crate::block::qcow2::state::{DiscardType, MAX_REFTABLE_SIZE, REFT_MASK};
use triomphe::Arc;

/// Big-endian bytes of a number, as a request payload.
pub(in crate::block::qcow2) fn be64(values: &[u64]) -> Data {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    Data::bytes(bytes.into(), WriteTag(0))
}

/// `qcow2_refcount_metadata_size`: how many refcount blocks are needed for so many clusters, themselves and the
/// refcount table included; with `generous`, the table may become half as large again.
fn refblocks_needed(mut clusters: u64, cluster_size: u64, refcount_order: u32, mut generous: bool) -> u64 {
    let per_table_cluster = cluster_size / 8;
    let per_block = (cluster_size * 8) >> refcount_order;
    let (mut table, mut blocks, mut n) = (0u64, 0u64, 0u64);
    loop {
        let last = n;
        blocks = (clusters + table + blocks).div_ceil(per_block);
        table = blocks.div_ceil(per_table_cluster);
        n = clusters + blocks + table;
        if n == last && generous {
            clusters += table.div_ceil(2);
            n = 0;
            generous = false;
        }
        if n == last {
            return blocks;
        }
    }
}

impl Cx<'_> {
    pub(in crate::block::qcow2) fn set_reftable_entry(&mut self, index: u64, value: u64) {
        let index = index as u32;
        self.undo.push(Undo::Reft(index, self.q.reftable.get(index)));
        Arc::make_mut(&mut self.q.reftable).set(index, value);
    }

    pub(in crate::block::qcow2) fn replace_reftable(&mut self, table: Arc<Table>) {
        self.undo.push(Undo::ReftTable(std::mem::replace(&mut self.q.reftable, table)));
    }

    /// `alloc_refcount_block`: the refcount block for a cluster; a new one if there is none, and then `EAGAIN`.
    pub fn alloc_refcount_block(&mut self, cluster: u64) -> Res<Held> {
        self.event(Event::RefblockAlloc);
        let existing = self.refblock_of(cluster)?;
        if existing != 0 {
            return self.load_refblock(existing);
        }
        // The refcount table is written below, and L2 tables may have to reach the disk before that.
        self.flush_cache(Which::L2)?;
        let new_block = self.alloc_noref(self.q.sc.cluster_size(), i64::MAX as u64)?;
        if new_block == 0 {
            let message = "Preventing invalid allocation of refcount block at offset 0";
            return self.corrupt(message.to_owned(), None);
        }
        let block = self.start_refblock(cluster, new_block)?;
        let table_index = cluster >> self.q.sc.refblock_bits();
        match self.write_refblock(block, table_index, new_block).caught()? {
            Ok(true) => {
                // QEMU's caller keeps no pointer here either: with EAGAIN nobody puts the block.
                self.put(block);
                Cx::fail(Errno::EAGAIN)
            }
            Ok(false) => {
                self.put(block);
                self.grow_reftable(cluster, table_index, new_block)
            }
            Err(fault) => {
                self.put(block);
                Err(fault.into())
            }
        }
    }

    /// Makes an empty refcount block in the cache, with its own cluster accounted for.
    fn start_refblock(&mut self, cluster: u64, new_block: u64) -> Res<Held> {
        let sc = &self.q.sc;
        let (bits, block_size) = (sc.cluster_bits, sc.refblock_size());
        let width = sc.refblock_width();
        let own = (new_block >> bits) >> sc.refblock_bits() == cluster >> sc.refblock_bits();
        if !own {
            let size = self.q.sc.cluster_size();
            self.update_refcount(new_block, size, 1, DiscardType::Never)?;
            self.flush_cache(Which::Refcount)?;
        }
        let block = self.get(Which::Refcount, new_block, false)?;
        self.set_table(block, Arc::new(Table::new(width)));
        if own {
            self.set_refcount_in(block, (new_block >> bits) & (block_size - 1), 1);
        }
        Ok(block)
    }

    /// Writes the new block and, if the refcount table has room, enters it there: whether it had.
    fn write_refblock(&mut self, block: Held, table_index: u64, new_block: u64) -> Res<bool> {
        self.event(Event::RefblockAllocWrite);
        self.mark_dirty(block);
        self.flush_cache(Which::Refcount)?;
        if table_index >= self.q.sc.reft_size {
            return Ok(false);
        }
        self.event(Event::RefblockAllocHookup);
        let at = self.q.sc.reft_offset + table_index * 8;
        self.write_sync(at, || be64(&[new_block]))?;
        self.set_reftable_entry(table_index, new_block);
        self.q.sc.max_reft_index = self.q.sc.max_reft_index.max(table_index);
        Ok(true)
    }

    fn grow_reftable(&mut self, cluster: u64, table_index: u64, new_block: u64) -> Res<Held> {
        self.event(Event::ReftableGrow);
        let sc = &self.q.sc;
        let block_size = sc.refblock_size();
        let used = (cluster + 1).max((new_block >> sc.cluster_bits) + 1).div_ceil(block_size);
        let meta_offset = (used * block_size) << sc.cluster_bits;
        self.refcount_area(meta_offset, 0, false, Some((table_index, new_block)))?;
        let block = self.load_refblock(new_block)?;
        self.put(block);
        Cx::fail(Errno::EAGAIN)
    }

    /// `qcow2_refcount_area`: a new refcount table at the end of the image, with blocks that cover it and
    /// `additional` clusters behind; where these begin.
    pub fn refcount_area(&mut self, start: u64, additional: u64, exact: bool, new: Option<(u64, u64)>) -> Res<u64> {
        let sc = &self.q.sc;
        let (cluster_size, block_size) = (sc.cluster_size(), sc.refblock_size());
        let total = refblocks_needed(start / cluster_size + additional, cluster_size, sc.refcount_order, !exact);
        if total > MAX_REFTABLE_SIZE {
            return Cx::fail(Errno::EFBIG);
        }
        let area_index = start / cluster_size / block_size;
        let wanted = if exact { total } else { total + total.div_ceil(2) };
        let table_size = wanted.next_multiple_of(cluster_size / 8);
        let table_clusters = table_size * 8 / cluster_size;
        if table_size > MAX_REFTABLE_SIZE {
            return Cx::fail(Errno::EFBIG);
        }
        let mut table = (*self.q.reftable).clone();
        table.truncate(table_size);
        if let Some((index, offset)) = new {
            table.set(index as u32, offset);
        }
        let missing = (area_index..total).filter(|&i| table.get(i as u32) == 0).count() as u64;
        let table_offset = start + missing * cluster_size;
        let end = table_offset + table_clusters * cluster_size;
        let mut next_block = start;
        for i in area_index..total {
            next_block += self.area_refblock(&mut table, i, next_block, start, end)?;
        }
        self.event(Event::RefblockAllocWriteBlocks);
        self.flush_cache(Which::Refcount)?;
        let table = Arc::new(table);
        self.event(Event::RefblockAllocWriteTable);
        self.write_sync(table_offset, || Data::table(table.clone(), table_size * 8, WriteTag(0)))?;
        self.event(Event::RefblockAllocSwitchTable);
        self.write_sync(48, || {
            let mut bytes = table_offset.to_be_bytes().to_vec();
            bytes.extend((table_clusters as u32).to_be_bytes());
            Data::bytes(bytes.into(), WriteTag(0))
        })?;
        let (old_offset, old_size) = (self.q.sc.reft_offset, self.q.sc.reft_size);
        self.replace_reftable(table);
        self.q.sc.reft_size = table_size;
        self.q.sc.reft_offset = table_offset;
        self.q.update_max_reft_index();
        self.free_clusters(old_offset, old_size * 8, DiscardType::Other)?;
        Ok(end)
    }

    /// One block of a new area: the one there is, or a new one at `place`; then the clusters of the area are counted
    /// in it. Gives how much of the file the block took.
    fn area_refblock(&mut self, table: &mut Table, i: u64, place: u64, start: u64, end: u64) -> Res<u64> {
        let (cluster_size, block_size) = (self.q.sc.cluster_size(), self.q.sc.refblock_size());
        let existing = table.get(i as u32);
        let (block, taken) = if existing == 0 {
            let block = self.get(Which::Refcount, place, false)?;
            self.set_table(block, Arc::new(Table::new(self.q.sc.refblock_width())));
            self.mark_dirty(block);
            table.set(i as u32, place);
            (block, cluster_size)
        } else {
            (self.get(Which::Refcount, existing, true)?, 0)
        };
        let covered = i * block_size * cluster_size;
        if covered < end {
            let from = start.saturating_sub(covered) / cluster_size;
            let to = ((end - covered) / cluster_size).min(block_size);
            for j in from..to {
                self.set_refcount_in(block, j, 1);
            }
            self.mark_dirty(block);
        }
        self.put(block);
        Ok(taken)
    }

    /// `qcow2_shrink_reftable`: drops refcount blocks that count nothing.
    pub fn shrink_reftable(&mut self) -> Res {
        let (cluster_bits, block_bits) = (self.q.sc.cluster_bits, self.q.sc.refblock_bits());
        let mut kept = Table::new(8);
        for (index, entry) in self.q.reftable.clone().iter() {
            let offset = entry & REFT_MASK;
            let block = self.get(Which::Refcount, offset, true)?;
            let cluster = offset >> cluster_bits;
            let own = (cluster >> block_bits == u64::from(index))
                .then(|| self.refcount_in(block, cluster & (self.q.sc.refblock_size() - 1)));
            let table = self.table(block);
            let used = table.count() as u64;
            let only_own = own.is_some_and(|own| own != 0 && used == 1 && self.only_refcount(block, cluster));
            self.put(block);
            if used > 0 && !only_own {
                kept.set(index, entry);
            }
        }
        let kept = Arc::new(kept);
        let at = self.q.sc.reft_offset;
        let len = self.q.sc.reft_size * 8;
        let mut result = self.write_sync(at, || Data::table(kept.clone(), len, WriteTag(0))).caught()?;
        for (index, entry) in self.q.reftable.clone().iter() {
            if kept.get(index) == 0 {
                if result.is_ok() {
                    result = self.discard_refblock(entry & REFT_MASK).caught()?;
                }
                self.set_reftable_entry(u64::from(index), 0);
            }
        }
        if !self.cache_discards {
            self.process_discards(result.is_err())?;
        }
        Ok(result?)
    }

    /// Whether a block counts nothing but one given cluster, in packed blocks as in others.
    fn only_refcount(&mut self, block: Held, cluster: u64) -> bool {
        let index = cluster & (self.q.sc.refblock_size() - 1);
        match self.q.sc.refcount_order {
            order @ 0..3 => {
                let per_byte = 8 >> order;
                let byte = self.entry(block, index / per_byte);
                byte == self.refcount_in(block, index) << ((index % per_byte) << order)
            }
            _ => true,
        }
    }

    /// `qcow2_discard_refcount_block`
    fn discard_refblock(&mut self, offset: u64) -> Res {
        let cluster = offset >> self.q.sc.cluster_bits;
        let covering = self.refblock_of(cluster)?;
        if covering == 0 {
            let message = format!("Refblock at {} is not covered by the refcount structures", Hex(offset));
            return self.corrupt(message, None);
        }
        let block = self.get(Which::Refcount, covering, true)?;
        let index = cluster & (self.q.sc.refblock_size() - 1);
        let refcount = self.refcount_in(block, index);
        if refcount != 1 {
            self.put(block);
            let table_index = cluster >> self.q.sc.refblock_bits();
            let message = format!(
                "Invalid refcount: refblock offset {covering:#x}, reftable index {table_index}, block offset {offset:#x}, refcount {refcount:#x}"
            );
            let _ = self.corrupt::<()>(message, None).caught()?;
            return Cx::fail(Errno::EINVAL);
        }
        self.set_refcount_in(block, index, 0);
        self.mark_dirty(block);
        self.put(block);
        self.q.sc.free_cluster_index = self.q.sc.free_cluster_index.min(cluster);
        if let Some(cached) = self.cached_at(Which::Refcount, offset) {
            self.drop_cached(cached);
        }
        let len = self.q.sc.cluster_size();
        self.q.sc.note_discard(offset, len);
        Ok(())
    }
}
