//! Making all refcounts anew (block/qcow2-refcount.c:rebuild_refcount_structure).

use crate::block::content::{Data, Table, WriteTag};
use crate::block::qcow2::cache::Which;
use crate::block::qcow2::exec::{Caught, Cx, Res};
use crate::block::qcow2::refgrow::be64;
use std::collections::BTreeMap;

/// `offsetof(QCowHeader, refcount_table_offset)`
const REFTABLE_OFFSET: u64 = 48;

/// How often each cluster of the file is referred to (`IMRT`, the in-memory refcount table).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct Counts {
    counts: BTreeMap<u64, u64>,
    /// For how many clusters it has room.
    pub clusters: u64,
}

impl Counts {
    pub fn get(&self, cluster: u64) -> u64 {
        self.counts.get(&cluster).copied().unwrap_or(0)
    }

    /// One more, unless there are `max` already.
    pub fn add(&mut self, cluster: u64, max: u64) -> bool {
        self.clusters = self.clusters.max(cluster + 1);
        let count = self.counts.entry(cluster).or_default();
        let fits = *count < max;
        *count += u64::from(fits);
        fits
    }

    /// The first cluster in the range that something refers to.
    pub fn next(&self, from: u64, end: u64) -> Option<u64> {
        if from >= end {
            return None;
        }
        self.counts.range(from..end).find(|(_, count)| **count > 0).map(|(cluster, _)| *cluster)
    }

    /// All counts are nothing; there is room as before.
    pub fn clear(&mut self) {
        self.counts.clear();
    }

    /// `alloc_clusters_imrt`: the first of `n` clusters in a row that nothing refers to. `first` becomes the first gap.
    fn alloc(&mut self, n: u64, first: &mut u64) -> u64 {
        let (mut cluster, mut run, mut first_gap) = (*first, 0, true);
        while cluster < self.clusters && run < n {
            if self.get(cluster) == 0 {
                run += 1;
                if first_gap {
                    *first = cluster;
                    first_gap = false;
                }
            } else {
                run = 0;
            }
            cluster += 1;
        }
        if run < n {
            self.clusters = cluster + n - run;
        }
        let start = cluster - run;
        for at in start..start + n {
            self.counts.insert(at, 1);
        }
        start
    }
}

impl Cx<'_> {
    /// `rebuild_refcount_structure`: the counts with what the new structure itself needs, and the new length of the file.
    pub fn rebuild(&mut self, counts: &Counts) -> Res<(Counts, u64)> {
        let mut counts = counts.clone();
        self.empty_cache(Which::Refcount)?;
        let mut table = Vec::new();
        let end = counts.clusters;
        self.write_refblocks(&mut counts, 0, end, &mut table)?;
        let cluster_size = self.q.cluster_size();
        let (offset, clusters) = loop {
            let n = self.q.sc.size_to_clusters(table.len() as u64 * 8);
            let start = counts.alloc(n, &mut 0);
            if !self.write_refblocks(&mut counts, start, start + n, &mut table)? {
                break (start * cluster_size, n);
            }
        };
        let len = table.len() as u64 * 8;
        self.overlap_check(None, offset, len).say("ERROR writing reftable")?;
        self.write(offset, || be64(&table)).say("ERROR writing reftable")?;
        self.write_sync(REFTABLE_OFFSET, || {
            let mut bytes = offset.to_be_bytes().to_vec();
            bytes.extend((clusters as u32).to_be_bytes());
            Data::bytes(bytes.into(), WriteTag(0))
        })
        .say("ERROR setting reftable")?;
        let mut new = Table::new(8);
        for (index, place) in table.iter().enumerate() {
            new.set(index as u32, *place);
        }
        self.replace_reftable(triomphe::Arc::new(new));
        self.q.sc.reft_offset = offset;
        self.q.sc.reft_size = table.len() as u64;
        self.q.update_max_reft_index();
        let length = self.file_length()?;
        Ok((counts, length))
    }

    /// `rebuild_refcounts_write_refblocks`: writes the refcount blocks for the clusters of a range; whether the table grew.
    fn write_refblocks(&mut self, counts: &mut Counts, from: u64, mut end: u64, table: &mut Vec<u64>) -> Res<bool> {
        let (cluster_size, bits) = (self.q.cluster_size(), self.q.sc.refblock_bits());
        let (mut cluster, mut first_free, mut grown) = (from, 0, false);
        while let Some(used) = counts.next(cluster, end) {
            let index = used >> bits;
            let mut place = table.get(index as usize).copied().unwrap_or(0);
            if place == 0 {
                // Not in a block that is already written.
                first_free = first_free.max(index << bits);
                let own = counts.alloc(1, &mut first_free);
                end = end.max(own + 1);
                if table.len() as u64 <= index {
                    table.resize((((index + 1) * 8).next_multiple_of(cluster_size) / 8) as usize, 0);
                    grown = true;
                }
                place = own * cluster_size;
                table[index as usize] = place;
            }
            self.overlap_check(None, place, cluster_size).say("ERROR writing refblock")?;
            let block = self.refblock_from(counts, index);
            self.write(place, || block).say("ERROR writing refblock")?;
            cluster = (index + 1) << bits;
        }
        Ok(grown)
    }

    fn refblock_from(&self, counts: &Counts, index: u64) -> Data {
        let sc = &self.q.sc;
        let first = index << sc.refblock_bits();
        let mut block = Table::new(sc.refblock_width());
        let mut at = first;
        while let Some(cluster) = counts.next(at, first + sc.refblock_size()) {
            let (place, count) = (cluster - first, counts.get(cluster));
            match sc.refcount_order {
                order @ 0..3 => {
                    let per_byte = 8 >> order;
                    let byte = (place / per_byte) as u32;
                    block.set(byte, block.get(byte) | count << ((place % per_byte) << order));
                }
                _ => block.set(place as u32, count),
            }
            at = cluster + 1;
        }
        Data::table(triomphe::Arc::new(block), sc.cluster_size(), WriteTag(0))
    }
}
