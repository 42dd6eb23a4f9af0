//! Refcounts: reading, changing, finding free clusters (block/qcow2-refcount.c).

use crate::base::errno::Errno;
use crate::block::event::BlkdebugEvent as Event;
use crate::block::qcow2::cache::{Held, Which};
use crate::block::qcow2::exec::{Caught, Cx, Hex, Res, errno_of};
use crate::block::qcow2::op::Qcow2Ask;
use crate::block::qcow2::state::{ClusterType, DiscardType, MAX_CLUSTER_OFFSET, OFFSET_MASK, REFT_MASK, Scalars};

impl Scalars {
    /// Where a compressed cluster lies: file offset and length (`qcow2_parse_compressed_l2_entry`).
    pub fn compressed_place(&self, entry: u64) -> (u64, u64) {
        let shift = self.csize_shift();
        let offset = entry & ((1 << shift) - 1);
        let sectors = ((entry >> shift) & ((1 << (self.cluster_bits - 8)) - 1)) + 1;
        (offset, sectors * 512 - (offset & 511))
    }

    /// `update_refcount_discard`: notes a freed area, joined with what it touches.
    pub(in crate::block::qcow2) fn note_discard(&mut self, offset: u64, len: u64) {
        let touching = |&(at, n): &(u64, u64)| offset <= at + n && at <= offset + len;
        let Some(found) = self.discards.iter().position(touching) else {
            self.discards.push((offset, len));
            return;
        };
        let (at, n) = self.discards[found];
        let mut joined = (at.min(offset), n + len);
        let mut index = 0;
        self.discards.retain(|&(at, n)| {
            index += 1;
            let mine = index - 1 == found;
            let apart = mine || at > joined.0 + joined.1 || joined.0 > at + n;
            if !apart {
                joined = (joined.0.min(at), joined.1 + n);
            }
            apart
        });
        if let Some(entry) = self.discards.iter_mut().find(|entry| **entry == (at, n)) {
            *entry = joined;
        }
    }
}

impl Cx<'_> {
    /// One refcount of a held block.
    pub fn refcount_in(&self, block: Held, index: u64) -> u64 {
        match self.q.sc.refcount_order {
            order @ 0..3 => {
                let per_byte = 8 >> order;
                let shift = (index % per_byte) << order;
                (self.entry(block, index / per_byte) >> shift) & self.q.sc.refcount_max()
            }
            _ => self.entry(block, index),
        }
    }

    /// Sets one refcount of a held block.
    pub fn set_refcount_in(&mut self, block: Held, index: u64, value: u64) {
        match self.q.sc.refcount_order {
            order @ 0..3 => {
                let per_byte = 8 >> order;
                let shift = (index % per_byte) << order;
                let byte = self.entry(block, index / per_byte) & !(self.q.sc.refcount_max() << shift);
                self.set_entry(block, index / per_byte, byte | value << shift);
            }
            _ => self.set_entry(block, index, value),
        }
    }

    /// `load_refcount_block`
    pub fn load_refblock(&mut self, offset: u64) -> Res<Held> {
        self.event(Event::RefblockLoad);
        self.get(Which::Refcount, offset, true)
    }

    /// File offset of the refcount block for a cluster; 0 if there is none.
    pub fn refblock_of(&mut self, cluster: u64) -> Res<u64> {
        let index = cluster >> self.q.sc.refblock_bits();
        if index >= self.q.sc.reft_size {
            return Ok(0);
        }
        let offset = self.q.reftable.get(index as u32) & REFT_MASK;
        if self.q.sc.offset_into_cluster(offset) != 0 {
            let message = format!("Refblock offset {} unaligned (reftable index: {})", Hex(offset), Hex(index));
            return self.corrupt(message, None);
        }
        Ok(offset)
    }

    /// `qcow2_get_refcount`
    pub fn get_refcount(&mut self, cluster: u64) -> Res<u64> {
        let offset = self.refblock_of(cluster)?;
        if offset == 0 {
            return Ok(0);
        }
        let block = self.get(Which::Refcount, offset, true)?;
        let refcount = self.refcount_in(block, cluster & (self.q.sc.refblock_size() - 1));
        self.put(block);
        Ok(refcount)
    }

    /// `qcow2_process_discards`: sends the noted discards, or forgets them if something failed.
    pub fn process_discards(&mut self, failed: bool) -> Res {
        if self.q.sc.discards.is_empty() {
            return Ok(());
        }
        let discards = std::mem::take(&mut self.q.sc.discards);
        if failed {
            return Ok(());
        }
        for (offset, len) in discards {
            // Discarding is a courtesy: errors do not matter.
            let _ = self.ask(|| Qcow2Ask::Discard { offset, len }).caught()?;
        }
        Ok(())
    }

    /// `update_refcount`: adds `addend` to the refcounts of all clusters that the area touches. `EAGAIN` if a new
    /// refcount block may now lie where the caller meant to go.
    pub fn update_refcount(&mut self, offset: u64, len: u64, addend: i64, kind: DiscardType) -> Res {
        if len == 0 {
            return Ok(());
        }
        if addend < 0 {
            let _ = self.set_dependency(Which::Refcount).caught()?;
        }
        let first = self.q.sc.start_of_cluster(offset);
        let last = self.q.sc.start_of_cluster(offset + len - 1);
        let mut at = first;
        let mut held = None;
        let result = self.update_each(offset, first, last, addend, kind, &mut at, &mut held).caught()?;
        if !self.cache_discards {
            self.process_discards(result.is_err())?;
        }
        if let Some(block) = held {
            self.put(block);
        }
        if let Err(fault) = result {
            let done = at.saturating_sub(offset);
            let _ = self.update_refcount(offset, done, -addend, DiscardType::Never).caught()?;
            return Err(fault.into());
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn update_each(
        &mut self,
        offset: u64,
        first: u64,
        last: u64,
        addend: i64,
        kind: DiscardType,
        at: &mut u64,
        held: &mut Option<Held>,
    ) -> Res {
        let (cluster_size, bits) = (self.q.sc.cluster_size(), self.q.sc.cluster_bits);
        let mut old_index = None;
        while *at <= last {
            let cluster = *at >> bits;
            let index = cluster >> self.q.sc.refblock_bits();
            if old_index != Some(index) || held.is_none() {
                if let Some(block) = held.take() {
                    self.put(block);
                }
                match self.alloc_refcount_block(cluster).caught()? {
                    Ok(block) => *held = Some(block),
                    Err(fault) => {
                        if fault.errno == Errno::EAGAIN {
                            self.q.sc.free_cluster_index = self.q.sc.free_cluster_index.min(first >> bits);
                        }
                        return Err(fault.into());
                    }
                }
            }
            old_index = Some(index);
            let Some(block) = *held else { return Cx::fail(Errno::EIO) };
            self.mark_dirty(block);
            let in_block = cluster & (self.q.sc.refblock_size() - 1);
            let refcount = self.refcount_in(block, in_block);
            let new = refcount.checked_add_signed(addend).filter(|&n| n <= self.q.sc.refcount_max());
            let Some(new) = new else { return Cx::fail(Errno::EINVAL) };
            if new == 0 && cluster < self.q.sc.free_cluster_index {
                self.q.sc.free_cluster_index = cluster;
            }
            self.set_refcount_in(block, in_block, new);
            if new == 0 {
                self.forget_freed(offset, *at, held, kind);
            }
            *at += cluster_size;
        }
        Ok(())
    }

    /// A cluster has become free: cached tables that lived there are dropped, and the file may get the space back.
    fn forget_freed(&mut self, offset: u64, cluster_offset: u64, held: &mut Option<Held>, kind: DiscardType) {
        if let Some(table) = self.cached_at(Which::Refcount, offset) {
            if let Some(block) = held.take() {
                self.put(block);
            }
            self.drop_cached(table);
        }
        if let Some(table) = self.cached_at(Which::L2, offset) {
            self.drop_cached(table);
        }
        if self.q.sc.passes_discard(kind) {
            let len = self.q.sc.cluster_size();
            self.q.sc.note_discard(cluster_offset, len);
        }
    }

    /// `alloc_clusters_noref`: finds contiguous free clusters, upward from the lowest that may be free.
    pub fn alloc_noref(&mut self, size: u64, max: u64) -> Res<u64> {
        if self.cache_discards {
            self.process_discards(false)?;
        }
        let nb = self.q.sc.size_to_clusters(size);
        let mut run = 0;
        while run < nb {
            let index = self.q.sc.free_cluster_index;
            self.q.sc.free_cluster_index += 1;
            run = if self.get_refcount(index)? == 0 { run + 1 } else { 0 };
        }
        let free = self.q.sc.free_cluster_index;
        if free > 0 && free - 1 > max >> self.q.sc.cluster_bits {
            return Cx::fail(Errno::EFBIG);
        }
        Ok((free - nb) << self.q.sc.cluster_bits)
    }

    /// `qcow2_alloc_clusters`: file offset of `size` new bytes, in whole clusters.
    pub fn alloc_clusters(&mut self, size: u64) -> Res<u64> {
        self.event(Event::ClusterAlloc);
        loop {
            let offset = self.alloc_noref(size, MAX_CLUSTER_OFFSET)?;
            match errno_of(self.update_refcount(offset, size, 1, DiscardType::Never).caught()?) {
                Ok(()) => return Ok(offset),
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Cx::fail(errno),
            }
        }
    }

    /// `qcow2_alloc_clusters_at`: takes as many of `nb` clusters at `offset` as are free; how many they were.
    pub fn alloc_clusters_at(&mut self, offset: u64, nb: u64) -> Res<u64> {
        if nb == 0 {
            return Ok(0);
        }
        loop {
            let first = offset >> self.q.sc.cluster_bits;
            let mut free = 0;
            while free < nb && self.get_refcount(first + free)? == 0 {
                free += 1;
            }
            let len = free << self.q.sc.cluster_bits;
            match errno_of(self.update_refcount(offset, len, 1, DiscardType::Never).caught()?) {
                Ok(()) => return Ok(free),
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Cx::fail(errno),
            }
        }
    }

    /// `qcow2_free_clusters`: failures are told on standard error, and leak the clusters.
    pub fn free_clusters(&mut self, offset: u64, size: u64, kind: DiscardType) -> Res {
        self.event(Event::ClusterFree);
        if let Err(errno) = errno_of(self.update_refcount(offset, size, -1, kind).caught()?) {
            self.ask(|| Qcow2Ask::Print(vec![format!("qcow2_free_clusters failed: {errno}")]))?;
        }
        Ok(())
    }

    /// `qcow2_free_any_cluster`: frees what an L2 entry points to.
    pub fn free_any_cluster(&mut self, entry: u64, kind: DiscardType) -> Res {
        match ClusterType::of(entry) {
            ClusterType::Compressed => {
                let (offset, len) = self.q.sc.compressed_place(entry);
                self.free_clusters(offset, len, kind)
            }
            ClusterType::Normal | ClusterType::ZeroAlloc => {
                let offset = entry & OFFSET_MASK;
                if self.q.sc.offset_into_cluster(offset) != 0 {
                    return self.corrupt_mildly(format!("Cannot free unaligned cluster {}", Hex(offset)));
                }
                self.free_clusters(offset, self.q.sc.cluster_size(), kind)
            }
            ClusterType::ZeroPlain | ClusterType::Unallocated => Ok(()),
        }
    }

    /// `qcow2_get_last_cluster`: index of the last cluster in use in a file of `size` bytes. As with
    /// [`Cx::detect_preallocation`], only blocks that are there are looked at.
    pub fn last_cluster(&mut self, size: u64) -> Res<u64> {
        let clusters = self.q.sc.size_to_clusters(size);
        for (index, _) in self.q.reftable.clone().iter().rev() {
            let first = u64::from(index) << self.q.sc.refblock_bits();
            if first < clusters
                && let Some(last) = self.used_in_block(first, clusters, |used| used.next_back())?
            {
                return Ok(first + last);
            }
        }
        self.corrupt("There are no references in the refcount table.".to_owned(), None)
    }

    /// `qcow2_detect_metadata_preallocation`: whether more clusters are in use than the file has storage for. QEMU asks for the refcount of
    /// each cluster up to the end of the file, which may lie far out; those without a refcount block have none. Sets checkpoints.
    pub fn detect_preallocation(&mut self) -> Res<bool> {
        // Progress: entries of the refcount table that need not be looked at again, and clusters that were found in use.
        const COUNT_BITS: u32 = 40;
        let length = self.file_length()?;
        let allocated = self.ask(|| Qcow2Ask::GetAllocatedSize)?.number();
        let real = allocated >> self.q.sc.cluster_bits;
        let threshold = (real * 10 / 9).max(real + 2);
        let clusters = self.q.sc.size_to_clusters(length);
        let (done, mut used) = (self.progress() >> COUNT_BITS, self.progress() & ((1 << COUNT_BITS) - 1));
        for (index, _) in self.q.reftable.clone().range(done as u32..=u32::MAX) {
            let first = u64::from(index) << self.q.sc.refblock_bits();
            if used >= threshold || first >= clusters {
                break;
            }
            let most = usize::try_from(threshold - used).unwrap_or(usize::MAX);
            used += self.used_in_block(first, clusters, |used| used.take(most).count() as u64)?;
            self.checkpoint((u64::from(index) + 1) << COUNT_BITS | used.min((1 << COUNT_BITS) - 1));
        }
        Ok(used >= threshold)
    }

    /// What `look` makes of the clusters in use, by their number in the block of cluster `first`, up to cluster `end` of the file.
    fn used_in_block<T: Default>(
        &mut self,
        first: u64,
        end: u64,
        look: impl FnOnce(&mut dyn DoubleEndedIterator<Item = u64>) -> T,
    ) -> Res<T> {
        let offset = self.refblock_of(first)?;
        if offset == 0 {
            return Ok(T::default());
        }
        let block = self.get(Which::Refcount, offset, true)?;
        let table = self.table(block);
        let per_entry = 8u64 >> self.q.sc.refcount_order.min(3);
        let clusters = (end - first).min(self.q.sc.refblock_size());
        let entries = table.range(0..=((clusters - 1) / per_entry) as u32);
        let in_use = entries
            .flat_map(|(entry, _)| (0..per_entry).map(move |i| u64::from(entry) * per_entry + i))
            .filter(|&cluster| cluster < clusters && self.refcount_in(block, cluster) != 0);
        let found = look(&mut { in_use });
        self.put(block);
        Ok(found)
    }
}
