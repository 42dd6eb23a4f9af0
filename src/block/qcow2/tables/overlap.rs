//! The check that no write hits metadata (block/qcow2-refcount.c:qcow2_pre_write_overlap_check), at its default
//! strength `cached`.

use crate::block::qcow2::exec::{Cx, Res};
use crate::block::qcow2::state::{AUTOCLEAR_BITMAPS, OFFSET_MASK, Qcow2, REFT_MASK};

/// Sections of the file that the check knows (`QCow2MetadataOverlap`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) enum Overlap {
    MainHeader,
    ActiveL1,
    ActiveL2,
    RefcountTable,
    RefcountBlock,
    BitmapDirectory,
}

impl Overlap {
    /// `metadata_ol_names`
    fn name(self) -> &'static str {
        match self {
            Overlap::MainHeader => "qcow2_header",
            Overlap::ActiveL1 => "active L1 table",
            Overlap::ActiveL2 => "active L2 table",
            Overlap::RefcountTable => "refcount table",
            Overlap::RefcountBlock => "refcount block",
            Overlap::BitmapDirectory => "bitmap directory",
        }
    }
}

impl Qcow2 {
    /// `qcow2_check_metadata_overlap`: the section that a write would hit.
    fn overlap(&self, ignore: Option<Overlap>, offset: u64, size: u64) -> Option<Overlap> {
        let sc = &self.sc;
        if size == 0 {
            return None;
        }
        let checked = |section| ignore != Some(section);
        if checked(Overlap::MainHeader) && offset < sc.cluster_size() {
            return Some(Overlap::MainHeader);
        }
        let (from, to) = (sc.start_of_cluster(offset), sc.round_up(offset + size));
        let hit = |at: u64, len: u64| at < to && from < at.saturating_add(len);
        if checked(Overlap::ActiveL1) && hit(sc.l1_offset, sc.l1_size * 8) {
            return Some(Overlap::ActiveL1);
        }
        if checked(Overlap::RefcountTable) && hit(sc.reft_offset, sc.reft_size * 8) {
            return Some(Overlap::RefcountTable);
        }
        let cluster = sc.cluster_size();
        let table_hit = |entry: u64, mask: u64| entry & mask != 0 && hit(entry & mask, cluster);
        if checked(Overlap::ActiveL2) && self.l1.any(|entry| table_hit(entry, OFFSET_MASK)) {
            return Some(Overlap::ActiveL2);
        }
        if checked(Overlap::RefcountBlock) && self.reftable.any(|entry| table_hit(entry, REFT_MASK)) {
            return Some(Overlap::RefcountBlock);
        }
        let bitmaps = sc.autoclear & AUTOCLEAR_BITMAPS != 0;
        if checked(Overlap::BitmapDirectory) && bitmaps && hit(sc.bitmap_dir_offset, sc.bitmap_dir_size) {
            return Some(Overlap::BitmapDirectory);
        }
        None
    }
}

impl Cx<'_> {
    /// `qcow2_pre_write_overlap_check`: fails, and makes the node unusable, if the write would hit metadata.
    pub fn overlap_check(&mut self, ignore: Option<Overlap>, offset: u64, size: u64) -> Res {
        match self.q.overlap(ignore, offset, size) {
            None => Ok(()),
            Some(section) => {
                let message = format!("Preventing invalid write on metadata (overlaps with {})", section.name());
                self.corrupt(message, Some((offset, size)))
            }
        }
    }
}
