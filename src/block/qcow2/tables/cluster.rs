//! L1 and L2 tables: looking up, making, growing, shrinking (block/qcow2-cluster.c).

use crate::base::errno::Errno;
use crate::block::content::{Data, Table, WriteTag};
use crate::block::event::BlkdebugEvent as Event;
use crate::block::qcow2::cache::{Held, Which};
use crate::block::qcow2::exec::{Caught, Cx, Hex, Res, Undo};
use crate::block::qcow2::refgrow::be64;
use crate::block::qcow2::state::{COPIED, ClusterType, DiscardType, INT_MAX, MAX_L1_SIZE, OFFSET_MASK, Scalars};
use triomphe::Arc;

/// Where a guest range lies (`qcow2_get_host_offset`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct Host {
    pub kind: ClusterType,
    /// File offset, or the L2 entry of a compressed cluster; 0 if there is none.
    pub offset: u64,
    /// Bytes of that kind, contiguous in the file if they are there.
    pub bytes: u64,
}

impl Cx<'_> {
    /// `qcow2_get_host_offset`
    pub fn get_host_offset(&mut self, offset: u64, bytes: u64) -> Res<Host> {
        let sc = &self.q.sc;
        let in_cluster = sc.offset_into_cluster(offset);
        let available = (sc.l2_slice_size - sc.slice_index(offset)) << sc.cluster_bits;
        let needed = (bytes + in_cluster).min(available);
        let none = Host { kind: ClusterType::Unallocated, offset: 0, bytes: needed - in_cluster };
        let l1_index = sc.l1_index(offset);
        if l1_index >= sc.l1_size {
            return Ok(none);
        }
        let l2_offset = self.q.l1.get(l1_index as u32) & OFFSET_MASK;
        if l2_offset == 0 {
            return Ok(none);
        }
        self.check_l2_offset(l2_offset, l1_index)?;
        let slice = self.load_l2(offset, l2_offset)?;
        let out = self.host_in(slice, offset, needed, l2_offset).caught()?;
        self.put(slice);
        Ok(out?)
    }

    /// The part of `qcow2_get_host_offset` that has the slice.
    fn host_in(&mut self, slice: Held, offset: u64, needed: u64, l2_offset: u64) -> Res<Host> {
        let sc = &self.q.sc;
        let (in_cluster, index) = (sc.offset_into_cluster(offset), sc.slice_index(offset));
        let entry = self.entry(slice, index);
        let kind = ClusterType::of(entry);
        let zero = matches!(kind, ClusterType::ZeroPlain | ClusterType::ZeroAlloc);
        if sc.version < 3 && zero {
            let (at, index) = (Hex(l2_offset), Hex(index));
            let message = format!("Zero cluster entry found in pre-v3 image (L2 offset: {at}, L2 index: {index})");
            return self.corrupt(message, None);
        }
        let host = match kind {
            ClusterType::Compressed => entry,
            ClusterType::ZeroPlain | ClusterType::Unallocated => 0,
            ClusterType::ZeroAlloc | ClusterType::Normal => {
                let host = entry & OFFSET_MASK;
                if sc.offset_into_cluster(host) != 0 {
                    let (host, at, index) = (Hex(host), Hex(l2_offset), Hex(index));
                    let message =
                        format!("Cluster allocation offset {host} unaligned (L2 offset: {at}, L2 index: {index})");
                    return self.corrupt(message, None);
                }
                host + in_cluster
            }
        };
        let run = self.count_contiguous(slice, index, sc.size_to_clusters(needed)) << self.q.sc.cluster_bits;
        Ok(Host { kind, offset: host, bytes: run.min(needed) - in_cluster })
    }

    /// `count_contiguous_subclusters`, in images without subclusters.
    fn count_contiguous(&self, slice: Held, index: u64, nb: u64) -> u64 {
        let first = self.entry(slice, index);
        let kind = ClusterType::of(first);
        if kind == ClusterType::Compressed {
            return 1;
        }
        let placed = matches!(kind, ClusterType::Normal | ClusterType::ZeroAlloc);
        let cluster_size = self.q.sc.cluster_size();
        let table = self.table(slice);
        let same = |i: &u64| {
            let entry = table.get((index + i) as u32);
            let offset = (first & OFFSET_MASK).wrapping_add(i * cluster_size);
            ClusterType::of(entry) == kind && (!placed || entry & OFFSET_MASK == offset)
        };
        if kind == ClusterType::Unallocated {
            // Absent entries are all of this kind: only those that are there can end the run.
            let end = table.range(index as u32..=u32::MAX).find(|&(_, entry)| ClusterType::of(entry) != kind);
            return end.map_or(nb, |(at, _)| nb.min(u64::from(at) - index));
        }
        (0..nb).take_while(same).count() as u64
    }

    fn check_l2_offset(&mut self, l2_offset: u64, l1_index: u64) -> Res {
        if self.q.sc.offset_into_cluster(l2_offset) == 0 {
            return Ok(());
        }
        let (offset, index) = (Hex(l2_offset), Hex(l1_index));
        self.corrupt(format!("L2 table offset {offset} unaligned (L1 index: {index})"), None)
    }

    /// `l2_load`: the slice for a guest offset.
    fn load_l2(&mut self, offset: u64, l2_offset: u64) -> Res<Held> {
        let sc = &self.q.sc;
        let index = (offset >> sc.cluster_bits) & ((1 << sc.l2_bits()) - 1);
        let start = 8 * (index - sc.slice_index(offset));
        self.get(Which::L2, l2_offset + start, true)
    }

    /// `get_cluster_table`: the slice for a guest offset, made if needed, and the index in it.
    pub fn get_cluster_table(&mut self, offset: u64) -> Res<(Held, u64)> {
        let l1_index = self.q.sc.l1_index(offset);
        if l1_index >= self.q.sc.l1_size {
            self.grow_l1(l1_index + 1, false)?;
        }
        let entry = self.q.l1.get(l1_index as u32);
        let mut l2_offset = entry & OFFSET_MASK;
        self.check_l2_offset(l2_offset, l1_index)?;
        if entry & COPIED == 0 {
            self.l2_allocate(l1_index as u32)?;
            if l2_offset != 0 {
                self.free_clusters(l2_offset, self.q.sc.cluster_size(), DiscardType::Other)?;
            }
            l2_offset = self.q.l1.get(l1_index as u32) & OFFSET_MASK;
        }
        let slice = self.load_l2(offset, l2_offset)?;
        Ok((slice, self.q.sc.slice_index(offset)))
    }

    pub(in crate::block::qcow2) fn set_l1(&mut self, index: u32, value: u64) {
        self.undo.push(Undo::L1(index, self.q.l1.get(index)));
        Arc::make_mut(&mut self.q.l1).set(index, value);
    }

    /// `l2_allocate`: a new L2 table for an L1 entry, with the contents of the old one if there is one.
    fn l2_allocate(&mut self, l1_index: u32) -> Res {
        let old = self.q.l1.get(l1_index);
        let size = self.q.sc.cluster_size();
        let l2_offset = self.alloc_clusters(size)?;
        if let Err(fault) = self.fill_new_l2(l1_index, old, l2_offset).caught()? {
            self.set_l1(l1_index, old);
            if l2_offset > 0 {
                self.free_clusters(l2_offset, size, DiscardType::Always)?;
            }
            return Err(fault.into());
        }
        Ok(())
    }

    fn fill_new_l2(&mut self, l1_index: u32, old: u64, l2_offset: u64) -> Res {
        if l2_offset == 0 {
            return self.corrupt("Preventing invalid allocation of L2 table at offset 0".to_owned(), None);
        }
        self.flush_cache(Which::Refcount)?;
        let slice_bytes = self.q.sc.l2_slice_size * 8;
        for start in (0..self.q.sc.cluster_size()).step_by(slice_bytes as usize) {
            let slice = self.get(Which::L2, l2_offset + start, false)?;
            if let Err(fault) = self.fill_new_slice(slice, old & OFFSET_MASK, start).caught()? {
                self.put(slice);
                return Err(fault.into());
            }
            self.event(Event::L2AllocWrite);
            self.mark_dirty(slice);
            self.put(slice);
        }
        self.flush_cache(Which::L2)?;
        self.set_l1(l1_index, l2_offset | COPIED);
        self.write_l1_entry(l1_index)
    }

    fn fill_new_slice(&mut self, slice: Held, old_l2: u64, start: u64) -> Res {
        if old_l2 == 0 {
            self.set_table(slice, Arc::new(Table::new(8)));
            return Ok(());
        }
        self.event(Event::L2AllocCowRead);
        let old = self.get(Which::L2, old_l2 + start, true)?;
        let table = self.table(old);
        self.set_table(slice, table);
        self.put(old);
        Ok(())
    }

    /// `qcow2_write_l1_entry`: writes as many neighbours as the file's alignment asks for.
    pub(in crate::block::qcow2) fn write_l1_entry(&mut self, index: u32) -> Res {
        let align = u64::from(self.q.file.request_alignment);
        let entries = align.min(self.q.sc.cluster_size()).max(8) / 8;
        let first = u64::from(index) / entries * entries;
        let at = self.q.sc.l1_offset + first * 8;
        self.overlap_check(Some(crate::block::qcow2::overlap::Overlap::ActiveL1), at, entries * 8)?;
        self.event(Event::L1Update);
        let l1 = self.q.l1.clone();
        let size = self.q.sc.l1_size;
        self.write_sync(at, || {
            let values: Vec<u64> =
                (first..first + entries).map(|i| if i < size { l1.get(i as u32) } else { 0 }).collect();
            be64(&values)
        })
    }

    /// `qcow2_grow_l1_table`
    pub fn grow_l1(&mut self, min_size: u64, exact: bool) -> Res {
        if min_size <= self.q.sc.l1_size {
            return Ok(());
        }
        if min_size > INT_MAX / 8 {
            return Cx::fail(Errno::EFBIG);
        }
        let mut new_size = if exact { min_size } else { self.q.sc.l1_size.max(1) };
        while min_size > new_size {
            new_size = (new_size * 3).div_ceil(2);
        }
        if new_size > MAX_L1_SIZE / 8 {
            return Cx::fail(Errno::EFBIG);
        }
        self.event(Event::L1GrowAllocTable);
        let new_offset = self.alloc_clusters(new_size * 8)?;
        if let Err(fault) = self.move_l1(new_offset, new_size).caught()? {
            self.free_clusters(new_offset, new_size * 8, DiscardType::Other)?;
            return Err(fault.into());
        }
        let Scalars { l1_offset: old_offset, l1_size: old_size, .. } = *self.q.sc;
        self.q.sc.l1_offset = new_offset;
        self.q.sc.l1_size = new_size;
        self.free_clusters(old_offset, old_size * 8, DiscardType::Other)
    }

    fn move_l1(&mut self, offset: u64, size: u64) -> Res {
        self.flush_cache(Which::Refcount)?;
        self.overlap_check(None, offset, size * 8)?;
        self.event(Event::L1GrowWriteTable);
        let l1 = self.q.l1.clone();
        self.write_sync(offset, || Data::table(l1, size * 8, WriteTag(0)))?;
        self.event(Event::L1GrowActivateTable);
        self.write_sync(36, || {
            let mut bytes = (size as u32).to_be_bytes().to_vec();
            bytes.extend(offset.to_be_bytes());
            Data::bytes(bytes.into(), WriteTag(0))
        })
    }

    /// `qcow2_shrink_l1_table`, first part: the entries are cleared on disk.
    pub fn shrink_l1_on_disk(&mut self, new_size: u64) -> Res {
        let old_size = self.q.sc.l1_size;
        if new_size >= old_size {
            return Ok(());
        }
        self.event(Event::L1ShrinkWriteTable);
        let at = self.q.sc.l1_offset + new_size * 8;
        let cleared = match self.write_zeroes(at, (old_size - new_size) * 8).caught()? {
            Ok(()) => self.flush_file().caught()?,
            Err(fault) => Err(fault),
        };
        if cleared.is_err() {
            // The table on disk may be half overwritten: better to lose the tables than to point to them.
            for index in self.l1_behind(new_size) {
                self.set_l1(index, 0);
            }
        }
        Ok(cleared?)
    }

    /// `qcow2_shrink_l1_table`, second part: the L2 tables are freed, the last first. Sets checkpoints.
    pub fn shrink_l1_in_memory(&mut self, new_size: u64) -> Res {
        if new_size < self.q.sc.l1_size && self.progress() == 0 {
            self.event(Event::L1ShrinkFreeL2Clusters);
        }
        for index in self.l1_behind(new_size) {
            let offset = self.q.l1.get(index) & OFFSET_MASK;
            if offset != 0 {
                let size = self.q.sc.cluster_size();
                self.free_clusters(offset, size, DiscardType::Always)?;
            }
            self.set_l1(index, 0);
            self.checkpoint(1);
        }
        Ok(())
    }

    /// Indices of the L1 entries from `size` on that are not 0, the last first.
    fn l1_behind(&self, size: u64) -> Vec<u32> {
        self.q.l1.range(size as u32..=u32::MAX).rev().map(|(index, _)| index).collect()
    }

    pub(in crate::block::qcow2) fn replace_l1(&mut self, l1: Arc<Table>) {
        self.undo.push(Undo::L1Table(std::mem::replace(&mut self.q.l1, l1)));
    }
}
