//! `qemu-img check`: whether refcounts and references of an image agree (block/qcow2-refcount.c:qcow2_check_refcounts).

use super::{HostError, HostFiles, Image};
use crate::base::errno::Errno;
use crate::block::content::{Content, Data};
use crate::block::qcow2::OpenOptions;
use std::collections::BTreeMap;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CheckResult {
    /// Clusters whose refcount is too high: wasted, but harmless.
    pub leaks: u64,
    /// References without refcount, wrong flags, unaligned entries: data may get lost.
    pub corruptions: u64,
    /// A line for each of these.
    pub messages: Vec<String>,
}

impl CheckResult {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.leaks == 0 && self.corruptions == 0
    }

    fn corrupt(&mut self, message: String) {
        self.corruptions += 1;
        self.messages.push(format!("ERROR {message}"));
    }
}

/// References counted while walking an image.
struct Walk<'a> {
    content: &'a Content,
    size: u64,
    bits: u32,
    found: BTreeMap<u64, u64>,
    result: CheckResult,
}

impl Walk<'_> {
    fn read(&self, offset: u64, len: u64) -> Data {
        self.content.read(offset, len)
    }

    /// `qcow2_inc_refcounts_imrt`
    fn reference(&mut self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        for cluster in offset >> self.bits..=(offset + len - 1) >> self.bits {
            *self.found.entry(cluster).or_default() += 1;
        }
        if offset > self.size.next_multiple_of(1 << self.bits) {
            self.result.corrupt(format!("reference to offset {offset:#x} behind the end of the file"));
        }
    }

    /// `check_refcounts_l1`, `check_refcounts_l2`: gives the entries that carry the flag "copied", or should.
    fn walk_l1(&mut self, offset: u64, entries: u64) -> Vec<(u64, bool)> {
        self.reference(offset, entries * 8);
        let cluster = 1 << self.bits;
        let mut owned = Vec::new();
        let l1 = self.read(offset, entries * 8).to_table(8);
        for (_, entry) in l1.iter() {
            let l2_offset = entry & OFFSET;
            if l2_offset == 0 {
                continue;
            }
            self.reference(l2_offset, cluster);
            if !l2_offset.is_multiple_of(cluster) {
                self.result
                    .corrupt(format!("l2_offset={l2_offset:x}: Table is not cluster aligned; L1 entry corrupted"));
                continue;
            }
            owned.push((l2_offset, entry & COPIED != 0));
            let l2 = self.read(l2_offset, cluster).to_table(8);
            for (_, entry) in l2.iter() {
                self.walk_entry(entry, &mut owned);
            }
        }
        owned
    }

    fn walk_entry(&mut self, entry: u64, owned: &mut Vec<(u64, bool)>) {
        if entry & COMPRESSED != 0 {
            if entry & COPIED != 0 {
                self.result.corrupt(format!("compressed entry {entry:#x} has the copied flag"));
            }
            let shift = 62 - (self.bits - 8);
            let offset = entry & ((1 << shift) - 1);
            let sectors = ((entry >> shift) & ((1 << (self.bits - 8)) - 1)) + 1;
            self.reference(offset, sectors * 512 - (offset & 511));
            return;
        }
        let offset = entry & OFFSET;
        if offset == 0 {
            return;
        }
        self.reference(offset, 1 << self.bits);
        if !offset.is_multiple_of(1 << self.bits) {
            self.result.corrupt(format!("offset={offset:x}: Cluster is not properly aligned; L2 entry corrupted."));
            return;
        }
        owned.push((offset, entry & COPIED != 0));
    }

    fn walk_bitmaps(&mut self, dir: u64, dir_size: u64) {
        self.reference(dir, dir_size);
        let data = self.read(dir, dir_size);
        let mut at = 0;
        while at + 24 <= dir_size {
            let (table, entries) = (data.be_at(at, 8), data.be_at(at + 8, 4));
            let (name, extra) = (data.be_at(at + 18, 2), data.be_at(at + 20, 4));
            self.reference(table, entries * 8);
            let places = self.read(table, entries * 8);
            for i in 0..entries {
                let place = places.be_at(i * 8, 8) & OFFSET;
                if place != 0 {
                    self.reference(place, 1 << self.bits);
                }
            }
            at += (24 + name + extra).next_multiple_of(8);
        }
    }
}

/// The refcounts of an image as they stand in its blocks.
fn stored_refcounts(walk: &mut Walk<'_>, table: u64, table_clusters: u64, order: u32) -> BTreeMap<u64, u64> {
    let cluster = 1u64 << walk.bits;
    walk.reference(table, table_clusters * cluster);
    let per_block = (cluster * 8) >> order;
    let reftable = walk.read(table, table_clusters * cluster).to_table(8);
    let mut stored = BTreeMap::new();
    for (index, entry) in reftable.iter() {
        let offset = entry & !511;
        if !offset.is_multiple_of(cluster) {
            walk.result
                .corrupt(format!("refcount block {index} is not cluster aligned; refcount table entry corrupted"));
            continue;
        }
        walk.reference(offset, cluster);
        let width = 1u8 << order.saturating_sub(3);
        let block = walk.read(offset, cluster).to_table(width);
        let first = u64::from(index) * per_block;
        for (i, value) in block.iter() {
            let i = u64::from(i);
            if order >= 3 {
                stored.insert(first + i, value);
                continue;
            }
            let per_byte = 8u64 >> order;
            for j in 0..per_byte {
                let refcount = (value >> (j << order)) & ((1 << (1 << order)) - 1);
                if refcount != 0 {
                    stored.insert(first + i * per_byte + j, refcount);
                }
            }
        }
    }
    stored
}

impl HostFiles {
    /// `qemu-img check` of a qcow2 image.
    ///
    /// # Errors
    /// If the image cannot be opened; `ENOTSUP` for a raw image.
    pub fn check(&mut self, path: &str) -> Result<CheckResult, HostError> {
        let options = OpenOptions { writable: false, ..OpenOptions::default() };
        if Image::open_one(self, path, None, &options)?.qcow2().is_none() {
            return Err(HostError::new(path, Errno::ENOTSUP));
        }
        let file = self.get(path).cloned().unwrap_or_default();
        let head = file.content.read(0, 112);
        let version = head.be_at(4, 4);
        let (autoclear, order) = if version < 3 { (0, 4) } else { (head.be_at(88, 8), head.be_at(96, 4) as u32) };
        let mut walk = Walk {
            content: &file.content,
            size: file.size,
            bits: head.be_at(20, 4) as u32,
            found: BTreeMap::new(),
            result: CheckResult::default(),
        };
        walk.reference(0, 1 << walk.bits);
        let owned = walk.walk_l1(head.be_at(40, 8), head.be_at(36, 4));
        if autoclear & 1 != 0
            && let Some((dir, size)) = bitmap_directory(&head, &file.content, 1 << walk.bits)
        {
            walk.walk_bitmaps(dir, size);
        }
        let stored = stored_refcounts(&mut walk, head.be_at(48, 8), head.be_at(56, 4), order);
        let Walk { bits, found, mut result, .. } = walk;
        for cluster in found.keys().chain(stored.keys()).collect::<std::collections::BTreeSet<_>>() {
            let (has, needs) = (stored.get(cluster).copied().unwrap_or(0), found.get(cluster).copied().unwrap_or(0));
            if has < needs {
                result.corrupt(format!("cluster {cluster} refcount={has} reference={needs}"));
            } else if has > needs {
                result.leaks += 1;
                result.messages.push(format!("Leaked cluster {cluster} refcount={has} reference={needs}"));
            }
        }
        for (offset, copied) in owned {
            let refcount = stored.get(&(offset >> bits)).copied().unwrap_or(0);
            if (refcount == 1) != copied {
                result.corrupt(format!("OFLAG_COPIED cluster: offset={offset:#x} refcount={refcount}"));
            }
        }
        Ok(result)
    }
}

/// Where the bitmap directory is: offset and size.
fn bitmap_directory(head: &Data, content: &Content, cluster: u64) -> Option<(u64, u64)> {
    let end = match head.be_at(8, 8) {
        0 => cluster,
        backing => backing,
    };
    let mut at = head.be_at(100, 4);
    while at + 8 <= end {
        let ext = content.read(at, 32);
        match (ext.be_at(0, 4), ext.be_at(4, 4)) {
            (0, _) => return None,
            (0x2385_2875, _) => return Some((ext.be_at(24, 8), ext.be_at(16, 8))),
            (_, len) => at += 8 + len.next_multiple_of(8),
        }
    }
    None
}
