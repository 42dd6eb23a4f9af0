//! Discarding and zeroing by metadata alone (block/qcow2-cluster.c).

use crate::base::errno::Errno;
use crate::block::qcow2::exec::{Caught, Cx, Res};
use crate::block::qcow2::op::Qcow2Ask;
use crate::block::qcow2::state::{ClusterType, DiscardType, OFFSET_MASK, ZERO};

impl Cx<'_> {
    /// `qcow2_cluster_discard`: bounds are aligned, except at the end of the image. With `full`, the backing file
    /// shows through afterwards; else the area reads as zero. Sets checkpoints.
    pub fn cluster_discard(&mut self, offset: u64, bytes: u64, kind: DiscardType, full: bool) -> Res {
        let clusters = self.q.sc.size_to_clusters(bytes);
        self.cache_discards = true;
        let result =
            self.each_slice(offset, clusters, |cx, at, nb| cx.discard_in_slice(at, nb, kind, full)).caught()?;
        self.cache_discards = false;
        self.process_discards(result.is_err())?;
        Ok(result?)
    }

    /// Goes through the slices, with a checkpoint behind each: the procedure must begin with this.
    fn each_slice(&mut self, offset: u64, nb: u64, step: impl Fn(&mut Self, u64, u64) -> Res<u64>) -> Res {
        let mut done = self.progress();
        while done < nb {
            done += step(self, offset + (done << self.q.sc.cluster_bits), nb - done)?;
            self.checkpoint(done);
        }
        Ok(())
    }

    /// `discard_in_l2_slice`: gives how many clusters it dealt with.
    fn discard_in_slice(&mut self, offset: u64, nb: u64, kind: DiscardType, full: bool) -> Res<u64> {
        let (slice, index) = self.get_cluster_table(offset)?;
        let nb = nb.min(self.q.sc.l2_slice_size - index);
        let zero = if self.q.sc.version >= 3 { ZERO } else { 0 };
        for i in self.affected(slice, index, nb, !full && self.q.has_backing) {
            let old = self.entry(slice, i);
            let keep = !full && kind == DiscardType::Request && self.keeps_place(old);
            let new = match ClusterType::of(old) {
                _ if full => 0,
                kind if self.q.has_backing || kind.is_allocated() => zero | if keep { old } else { 0 },
                _ => old,
            };
            if new == old {
                continue;
            }
            self.mark_dirty(slice);
            self.set_entry(slice, i, new);
            if keep { self.discard_in_place(old)? } else { self.free_any_cluster(old, kind)? }
        }
        self.put(slice);
        Ok(nb)
    }

    /// With `discard-no-unref`, what was allocated keeps its cluster when it is discarded, unless it is compressed.
    fn keeps_place(&self, entry: u64) -> bool {
        self.q.sc.discard_no_unref && ClusterType::of(entry) != ClusterType::Compressed
    }

    /// The discard of a cluster that keeps its place is passed on at once. An error is of no consequence.
    fn discard_in_place(&mut self, entry: u64) -> Res {
        if self.q.sc.passes_discard(DiscardType::Request)
            && matches!(ClusterType::of(entry), ClusterType::Normal | ClusterType::ZeroAlloc)
        {
            let (offset, len) = (entry & OFFSET_MASK, self.q.sc.cluster_size());
            let _ = self.ask(|| Qcow2Ask::Discard { offset, len }).caught()?;
        }
        Ok(())
    }

    /// The entries that a change of `nb` entries can concern: all of them, or those that are not 0.
    fn affected(&self, slice: crate::block::qcow2::cache::Held, index: u64, nb: u64, all: bool) -> Vec<u64> {
        if all {
            return (index..index + nb).collect();
        }
        let range = index as u32..=(index + nb) as u32 - 1;
        self.table(slice).range(range).map(|(i, _)| u64::from(i)).collect()
    }

    /// `qcow2_subcluster_zeroize`: bounds are aligned, except at the end of the image. Sets checkpoints.
    pub fn zeroize(&mut self, offset: u64, bytes: u64, may_unmap: bool) -> Res {
        if self.q.sc.version < 3 {
            if !self.q.has_backing {
                return self.cluster_discard(offset, bytes, DiscardType::Request, false);
            }
            return Cx::fail(Errno::ENOTSUP);
        }
        let clusters = self.q.sc.size_to_clusters(bytes);
        self.cache_discards = true;
        let result = self.each_slice(offset, clusters, |cx, at, nb| cx.zero_in_slice(at, nb, may_unmap)).caught()?;
        self.cache_discards = false;
        self.process_discards(result.is_err())?;
        Ok(result?)
    }

    /// `zero_in_l2_slice`
    fn zero_in_slice(&mut self, offset: u64, nb: u64, may_unmap: bool) -> Res<u64> {
        let (slice, index) = self.get_cluster_table(offset)?;
        let nb = nb.min(self.q.sc.l2_slice_size - index);
        let unmaps = |old: u64| {
            let kind = ClusterType::of(old);
            kind == ClusterType::Compressed || (may_unmap && kind.is_allocated())
        };
        if !self.any_entry(slice, index, nb, unmaps) {
            if self.map_entries(slice, index, nb, |_, old| old | ZERO) {
                self.mark_dirty(slice);
            }
            self.put(slice);
            return Ok(nb);
        }
        for i in index..index + nb {
            let old = self.entry(slice, i);
            let unmap = unmaps(old);
            let keep = self.keeps_place(old);
            let new = if unmap && !keep { ZERO } else { old | ZERO };
            if new == old {
                continue;
            }
            self.mark_dirty(slice);
            self.set_entry(slice, i, new);
            if unmap {
                if keep { self.discard_in_place(old)? } else { self.free_any_cluster(old, DiscardType::Request)? }
            }
        }
        self.put(slice);
        Ok(nb)
    }
}
