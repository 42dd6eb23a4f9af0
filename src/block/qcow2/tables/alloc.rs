//! Allocating clusters for writes, and linking them (block/qcow2-cluster.c).

use crate::block::qcow2::cache::{Held, Which};
use crate::block::qcow2::exec::{Caught, Cx, Fault, Hex, Res};
use crate::block::qcow2::state::{COPIED, ClusterType, DiscardType, INT_MAX, L2Meta, OFFSET_MASK};

/// What [`Cx::alloc_host_offset`] found.
#[derive(Clone, Debug)]
pub(in crate::block::qcow2) struct Allocated {
    /// File offset and bytes from there on, or why there are none.
    pub place: Result<(u64, u64), Fault>,
    /// What must be linked, newest first; also after a failure, and then it must be given up.
    pub metas: Vec<L2Meta>,
}

/// How a search for clusters ended.
#[derive(Clone, Debug)]
pub(in crate::block::qcow2) enum Search {
    Found(Allocated),
    /// The first cluster is being allocated by somebody else, who must finish first.
    Dependency(u64),
}

/// What a step of the search has come to.
enum Step {
    /// So many bytes at that file offset belong to the request.
    More {
        host: u64,
        bytes: u64,
    },
    /// These steps have nothing; another kind of cluster may be there.
    Nothing,
    /// The search is over.
    End,
    Dependency(u64),
}

/// `cluster_needs_new_alloc`: whether a write cannot go where the entry points.
fn needs_new_alloc(entry: u64) -> bool {
    match ClusterType::of(entry) {
        ClusterType::Normal | ClusterType::ZeroAlloc => entry & COPIED == 0,
        _ => true,
    }
}

impl Cx<'_> {
    /// `qcow2_alloc_host_offset`: where a write of `bytes` at `offset` goes, as far as that is contiguous.
    pub fn alloc_host_offset(&mut self, offset: u64, bytes: u64) -> Res<Search> {
        let mut metas = Vec::new();
        let mut done = 0;
        let mut host = None;
        let result = loop {
            if done == bytes {
                break Ok(());
            }
            let want = host.map(|host: u64| host + done);
            match self.alloc_step(offset + done, want, bytes - done, &mut metas).caught()? {
                Ok(Step::More { host: at, bytes: n }) => {
                    host = host.or(Some(at));
                    done += n;
                }
                Ok(Step::Nothing | Step::End) => break Ok(()),
                Ok(Step::Dependency(id)) => return Ok(Search::Dependency(id)),
                Err(fault) => break Err(fault),
            }
        };
        let place = result.map(|()| (host.unwrap_or(0), done));
        Ok(Search::Found(Allocated { place, metas }))
    }

    fn alloc_step(&mut self, offset: u64, want: Option<u64>, bytes: u64, metas: &mut Vec<L2Meta>) -> Res<Step> {
        let bytes = match self.handle_dependencies(offset, bytes, metas.is_empty()) {
            Step::More { bytes, .. } => bytes,
            other => return Ok(other),
        };
        match self.handle_copied(offset, want, bytes, metas)? {
            Step::Nothing => self.handle_alloc(offset, want, bytes, metas),
            other => Ok(other),
        }
    }

    /// `handle_dependencies`: how far the request goes before it meets an allocation in flight.
    fn handle_dependencies(&self, start: u64, bytes: u64, first: bool) -> Step {
        let sc = &self.q.sc;
        let mut bytes = bytes;
        for old in &sc.allocs {
            let end = start + bytes;
            let (old_start, old_end) = (sc.start_of_cluster(old.cow_from()), sc.round_up(old.cow_to()));
            if end <= old_start || start >= old_end {
                continue;
            }
            if old.keep_old && (end <= old.cow_from() || start >= old.cow_to()) {
                continue;
            }
            bytes = old_start.saturating_sub(start);
            if bytes == 0 {
                return if first { Step::Dependency(old.id) } else { Step::End };
            }
        }
        Step::More { host: 0, bytes }
    }

    /// How many clusters from `index` on a step may look at.
    fn limit(&self, offset: u64, bytes: u64) -> u64 {
        let sc = &self.q.sc;
        let nb = sc.size_to_clusters(sc.offset_into_cluster(offset) + bytes);
        // BDRV_REQUEST_MAX_BYTES
        nb.min(sc.l2_slice_size - sc.slice_index(offset)).min((INT_MAX & !511) >> sc.cluster_bits)
    }

    /// `count_single_write_clusters`
    fn count_single(&self, slice: Held, index: u64, nb: u64, new: bool) -> u64 {
        let table = self.table(slice);
        let first = table.get(index as u32) & OFFSET_MASK;
        let cluster_size = self.q.sc.cluster_size();
        (0..nb)
            .take_while(|i| {
                let entry = table.get((index + i) as u32);
                needs_new_alloc(entry) == new && (new || entry & OFFSET_MASK == first.wrapping_add(i * cluster_size))
            })
            .count() as u64
    }

    /// `handle_copied`: clusters that can be overwritten where they are.
    fn handle_copied(&mut self, offset: u64, want: Option<u64>, bytes: u64, metas: &mut Vec<L2Meta>) -> Res<Step> {
        let nb = self.limit(offset, bytes);
        let (slice, index) = self.get_cluster_table(offset)?;
        let out = self.copied_in(slice, index, nb, offset, want, bytes, metas).caught()?;
        self.put(slice);
        Ok(out?)
    }

    #[allow(clippy::too_many_arguments)]
    fn copied_in(
        &mut self,
        slice: Held,
        index: u64,
        nb: u64,
        offset: u64,
        want: Option<u64>,
        bytes: u64,
        metas: &mut Vec<L2Meta>,
    ) -> Res<Step> {
        let entry = self.entry(slice, index);
        if needs_new_alloc(entry) {
            return Ok(Step::Nothing);
        }
        let cluster = entry & OFFSET_MASK;
        if self.q.sc.offset_into_cluster(cluster) != 0 {
            let kind = if ClusterType::of(entry) == ClusterType::ZeroAlloc { "Preallocated zero" } else { "Data" };
            let message = format!("{kind} cluster offset {} unaligned (guest offset: {})", Hex(cluster), Hex(offset));
            return self.corrupt(message, None);
        }
        // QEMU compares with the exact offset, so that inside a cluster nothing matches; the result is the same.
        if want.is_some_and(|want| want != cluster) {
            return Ok(Step::End);
        }
        let in_cluster = self.q.sc.offset_into_cluster(offset);
        let keep = self.count_single(slice, index, nb, false);
        let bytes = bytes.min((keep << self.q.sc.cluster_bits) - in_cluster);
        self.calculate_l2_meta(cluster, offset, bytes, slice, metas, true);
        Ok(Step::More { host: cluster + in_cluster, bytes })
    }

    /// `handle_alloc`: new clusters.
    fn handle_alloc(&mut self, offset: u64, want: Option<u64>, bytes: u64, metas: &mut Vec<L2Meta>) -> Res<Step> {
        let nb = self.limit(offset, bytes);
        let (slice, index) = self.get_cluster_table(offset)?;
        let nb = self.count_single(slice, index, nb, true);
        let found = self.find_clusters(want, nb).caught()?;
        let (host, nb) = match found {
            Ok((_, 0)) => {
                self.put(slice);
                return Ok(Step::End);
            }
            Ok(found) => found,
            Err(fault) => {
                self.put(slice);
                return Err(fault.into());
            }
        };
        let in_cluster = self.q.sc.offset_into_cluster(offset);
        let bytes = bytes.min((nb << self.q.sc.cluster_bits) - in_cluster);
        self.calculate_l2_meta(host, offset, bytes, slice, metas, false);
        self.put(slice);
        Ok(Step::More { host: host + in_cluster, bytes })
    }

    /// `do_alloc_cluster_offset`
    fn find_clusters(&mut self, want: Option<u64>, nb: u64) -> Res<(u64, u64)> {
        match want {
            None => Ok((self.alloc_clusters(nb << self.q.sc.cluster_bits)?, nb)),
            Some(want) => {
                let at = self.q.sc.start_of_cluster(want);
                Ok((at, self.alloc_clusters_at(at, nb)?))
            }
        }
    }

    /// `calculate_l2_meta`: what must be copied and linked for a write to the clusters at `host`.
    fn calculate_l2_meta(
        &mut self,
        host: u64,
        offset: u64,
        bytes: u64,
        slice: Held,
        metas: &mut Vec<L2Meta>,
        keep_old: bool,
    ) {
        let sc = &self.q.sc;
        let index = sc.slice_index(offset);
        let from = sc.offset_into_cluster(offset);
        let to = from + bytes;
        let nb = sc.size_to_clusters(to);
        let kind = |i: u64| ClusterType::of(self.entry(slice, index + i));
        if keep_old && (0..nb).all(|i| kind(i) == ClusterType::Normal) {
            return;
        }
        // Only in-place writes to plain data need nothing around them; all else becomes whole clusters.
        let whole = |i: u64| !(keep_old && kind(i) == ClusterType::Normal);
        let cow_from = if whole(0) { 0 } else { from };
        let cow_to = if whole(nb - 1) { sc.round_up(to) } else { to };
        let meta = L2Meta {
            id: sc.next_alloc,
            offset: sc.start_of_cluster(offset),
            alloc_offset: host,
            nb_clusters: nb,
            keep_old,
            cow_start: (cow_from, from - cow_from),
            cow_end: (to, cow_to - to),
            skip_cow: false,
            merged: false,
        };
        self.q.sc.next_alloc += 1;
        self.q.sc.allocs.insert(0, meta);
        metas.insert(0, meta);
    }

    /// `qcow2_alloc_cluster_link_l2`, behind the copying: enters the clusters and frees those that were there.
    pub fn link_l2(&mut self, meta: &L2Meta) -> Res {
        if self.q.sc.lazy_refcounts {
            let _ = self.mark_image_dirty().caught()?;
        }
        if self.q.sc.accurate_refcounts() {
            let _ = self.set_dependency(Which::L2).caught()?;
        }
        let (slice, index) = self.get_cluster_table(meta.offset)?;
        self.mark_dirty(slice);
        let mut old = Vec::new();
        let cluster_bits = self.q.sc.cluster_bits;
        self.map_entries(slice, index, meta.nb_clusters, |i, entry| {
            if entry != 0 {
                old.push(entry);
            }
            (meta.alloc_offset + (i << cluster_bits)) | COPIED
        });
        self.put(slice);
        if !meta.keep_old {
            for entry in old {
                self.free_any_cluster(entry, DiscardType::Never)?;
            }
        }
        Ok(())
    }

    /// `qcow2_alloc_cluster_abort`
    pub fn abort_alloc(&mut self, meta: &L2Meta) -> Res {
        if meta.keep_old {
            return Ok(());
        }
        self.free_clusters(meta.alloc_offset, meta.nb_clusters << self.q.sc.cluster_bits, DiscardType::Never)
    }
}
