//! The bit array under a dirty bitmap, with offsets and lengths in bytes.

use super::pages::{Fill, PAGE_BITS, PAGE_WORDS, Page, Pages};
use crate::invariant::{Broken, Invariant};

/// The page of `docs/findings` that says how a bitmap gets another size than its node.
const OTHER_SIZE: &str = "bitmap-of-another-size";

/// A stretch of the serialized bits of a bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerializedPiece {
    /// So many bytes of set bits.
    Ones(u64),
    /// Bytes, lowest bit first.
    Bytes(Vec<u8>),
}

/// `util/hbitmap.c:HBitmap`: one bit for each granule of a disk. All offsets, sizes and lengths are in bytes;
/// a granule is a power of two of them.
///
/// Copying is O(1). Every other operation costs what is set and not what is spanned; a run of set bits is as cheap
/// as a run of clear ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HBitmap {
    size: u64,
    shift: u32,
    pages: Pages,
}

impl HBitmap {
    /// `hbitmap_alloc`: a clean bitmap for `size` bytes. A `granularity` that is no power of two is rounded down to one.
    #[must_use]
    pub fn new(size: u64, granularity: u64) -> HBitmap {
        assert!(granularity.is_power_of_two(), "granularity {granularity} is no power of two");
        HBitmap { size, shift: granularity.max(1).ilog2(), pages: Pages::default() }
    }

    /// Bytes covered (`orig_size`).
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes in a granule.
    #[must_use]
    pub fn granularity(&self) -> u64 {
        1 << self.shift
    }

    /// Number of granules, the last one possibly cut by the end.
    #[must_use]
    pub fn len_bits(&self) -> u64 {
        self.size.div_ceil(self.granularity())
    }

    /// Number of set bits.
    #[must_use]
    pub fn count_bits(&self) -> u64 {
        self.pages.count()
    }

    /// `hbitmap_count`: set bits times granularity, so up to a granule more than the size.
    #[must_use]
    pub fn count_bytes(&self) -> u64 {
        self.pages.count() << self.shift
    }

    /// `hbitmap_empty`: whether no bit is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.count() == 0
    }

    /// The granules that the bytes touch, as bit numbers, cut at the end of the bitmap.
    fn bits(&self, offset: u64, bytes: u64) -> (u64, u64) {
        if bytes == 0 {
            return (0, 0);
        }
        let last = offset.saturating_add(bytes - 1);
        if last >> self.shift >= self.len_bits() {
            let subject = format!("a bitmap of {} bytes", self.size);
            let reason = format!("hbitmap_set: last < hb->size, with {offset}+{bytes}");
            panic!("{}", Broken::new(Invariant::NoAbort, subject, reason).known(OTHER_SIZE));
        }
        (offset >> self.shift, ((last >> self.shift) + 1).min(self.len_bits()))
    }

    /// `hbitmap_set`: sets every granule that the bytes touch. They must lie within the bitmap.
    pub fn set(&mut self, offset: u64, bytes: u64) {
        let (first, end) = self.bits(offset, bytes);
        self.pages.write(first, end, true);
    }

    /// `hbitmap_reset`: clears granules. The start must be aligned to a granule, and so must the length unless it
    /// reaches the end of the bitmap exactly; QEMU aborts otherwise.
    pub fn reset(&mut self, offset: u64, bytes: u64) {
        let granule = self.granularity();
        assert!(
            bytes == 0
                || offset.is_multiple_of(granule)
                    && (bytes.is_multiple_of(granule) || offset.saturating_add(bytes) == self.size),
            "reset of {offset}+{bytes} is not aligned to {granule}"
        );
        let (first, end) = self.bits(offset, bytes);
        self.pages.write(first, end, false);
    }

    /// A word of QEMU's level: bit i of word `index` tells whether a granule of those under it is dirty. Level 0 has a bit for each.
    pub(super) fn word(&self, level: usize, index: u64) -> u64 {
        if level == 0 {
            let page = self.pages.page(index / PAGE_WORDS as u64);
            return page.words()[usize::try_from(index % PAGE_WORDS as u64).expect("few words")];
        }
        let under = 6 * u32::try_from(level).expect("few levels");
        let (mut word, mut bit) = (0, 0);
        while bit < 64
            && let Some(set) = self.pages.next_one((index * 64 + bit) << under)
            && (set >> under) / 64 == index
        {
            bit = (set >> under) % 64;
            word |= 1 << bit;
            bit += 1;
        }
        word
    }

    /// `hbitmap_reset_all`: clears every bit.
    pub fn reset_all(&mut self) {
        self.pages = Pages::default();
    }

    /// Sets every bit.
    pub fn set_all(&mut self) {
        self.pages.write(0, self.len_bits(), true);
    }

    /// `hbitmap_get`: the bit of the granule that `offset` lies in; false beyond the end.
    #[must_use]
    pub fn get(&self, offset: u64) -> bool {
        let bit = offset >> self.shift;
        self.pages.next_one(bit) == Some(bit)
    }

    /// `hbitmap_next_dirty`: the first dirty byte of the range, which is `offset` itself when that lies in a dirty
    /// granule. The range may reach beyond the end.
    #[must_use]
    pub fn next_dirty(&self, offset: u64, bytes: u64) -> Option<u64> {
        if offset >= self.size || bytes == 0 {
            return None;
        }
        let end = offset + bytes.min(self.size - offset);
        let start = self.pages.next_one(offset >> self.shift)? << self.shift;
        (start < end).then_some(start.max(offset))
    }

    /// `hbitmap_next_zero`: the first clean byte of the range, under the same rules as [`HBitmap::next_dirty`].
    #[must_use]
    pub fn next_zero(&self, offset: u64, bytes: u64) -> Option<u64> {
        if offset >= self.size || bytes == 0 {
            return None;
        }
        let end = offset + bytes.min(self.size - offset);
        let start = self.pages.next_zero(offset >> self.shift) << self.shift;
        (start < end).then_some(start.max(offset))
    }

    /// `hbitmap_next_dirty_area`: the first dirty stretch of `offset..end`, as start and length. It is cut at
    /// `end`, at the end of the bitmap and at `max_bytes`, and not rounded to granules.
    #[must_use]
    pub fn next_dirty_area(&self, offset: u64, end: u64, max_bytes: u64) -> Option<(u64, u64)> {
        let end = end.min(self.size);
        let start = self.next_dirty(offset, end.saturating_sub(offset))?;
        let len = (end - start).min(max_bytes);
        let len = self.next_zero(start, len).map_or(len, |zero| zero - start);
        (len > 0).then_some((start, len))
    }

    /// Every dirty stretch in order, as start and length in bytes, each as long as it can be.
    pub fn areas(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let area = self.next_dirty_area(at, self.size, u64::MAX)?;
            at = area.0 + area.1;
            Some(area)
        })
    }

    /// `hbitmap_status`: whether `offset` is dirty, and for how many of the `bytes` that stays so.
    #[must_use]
    pub fn status(&self, offset: u64, bytes: u64) -> (bool, u64) {
        match self.next_dirty(offset, bytes) {
            None => (false, bytes),
            Some(start) if start > offset => (false, start - offset),
            Some(_) => (true, self.next_zero(offset, bytes).map_or(bytes, |zero| zero - offset)),
        }
    }

    /// `hbitmap_merge`: sets what is set in `other`. A different granularity is rounded outward.
    pub fn merge_from(&mut self, other: &HBitmap) {
        if self.size != other.size {
            let subject = format!("a bitmap of {} bytes", self.size);
            let reason = format!("hbitmap_merge: b->orig_size == result->orig_size, which is {} there", other.size);
            panic!("{}", Broken::new(Invariant::NoAbort, subject, reason).known(OTHER_SIZE));
        }
        if self.shift == other.shift && self.size == other.size {
            self.pages.union(&other.pages);
            return;
        }
        for (start, len) in other.areas().collect::<Vec<_>>() {
            self.set(start, len);
        }
    }

    /// The first byte that is dirty here and clean in `other`, whose size must be the same.
    #[must_use]
    pub fn first_not_in(&self, other: &HBitmap) -> Option<u64> {
        self.areas().find_map(|(start, len)| other.next_zero(start, len))
    }

    /// `hbitmap_truncate`: new size in bytes. New granules are clean, granules wholly beyond the end are dropped, one
    /// that is cut keeps its bit.
    pub fn truncate(&mut self, size: u64) {
        let old = self.len_bits();
        self.size = size;
        self.pages.write(self.len_bits(), old, false);
    }

    /// The last level as QEMU keeps it in memory: 64-bit words, lowest bit first, at least one word.
    /// `hbitmap_sha256` hashes these in little-endian byte order.
    pub fn serialized_words(&self) -> impl Iterator<Item = u64> + '_ {
        let words = self.len_bits().div_ceil(64).max(1);
        let pages = words.div_ceil(PAGE_WORDS as u64);
        (0..pages).flat_map(|page| self.pages.page(page).words()).take(usize::try_from(words).unwrap_or(usize::MAX))
    }

    /// `hbitmap_serialization_size`: bytes of the serialized bits, in whole words of 64 bits; none for no bits.
    #[must_use]
    pub fn serialized_len(&self) -> u64 {
        self.len_bits().div_ceil(64) * 8
    }

    /// The serialized bits where some are set, in order, each with the byte at which it begins. The last may reach behind
    /// [`HBitmap::serialized_len`], with zeroes. Costs what is set.
    pub fn serialized_pieces(&self) -> impl Iterator<Item = (u64, SerializedPiece)> + '_ {
        self.pages.filled().map(|(page, fill)| {
            let piece = match fill {
                Fill::Ones(pages) => SerializedPiece::Ones(pages * PAGE_BITS / 8),
                Fill::Mixed(page) => {
                    SerializedPiece::Bytes(page.words().into_iter().flat_map(u64::to_le_bytes).collect())
                }
            };
            (page * PAGE_BITS / 8, piece)
        })
    }

    /// Sets `n` bits from `first` on, by their numbers. Bits beyond the end are ignored.
    pub fn set_bits(&mut self, first: u64, n: u64) {
        self.pages.write(first, first.saturating_add(n).min(self.len_bits()), true);
    }

    /// `hbitmap_serialize_part`: the bits from `first_bit` (a multiple of 64) on as `nbytes` bytes, lowest bit first,
    /// zeros beyond the end; `None` when no bit is set among them.
    #[must_use]
    pub fn chunk_bytes(&self, first_bit: u64, nbytes: usize) -> Option<Vec<u8>> {
        assert!(first_bit.is_multiple_of(64), "chunk at bit {first_bit}");
        let end = first_bit + nbytes as u64 * 8;
        if self.pages.next_one(first_bit).is_none_or(|bit| bit >= end) {
            return None;
        }
        let skip = (first_bit % PAGE_BITS / 64) as usize;
        let pages = first_bit / PAGE_BITS..end.div_ceil(PAGE_BITS);
        let words = pages.flat_map(|page| self.pages.page(page).words()).skip(skip);
        let mut bytes = Vec::with_capacity(nbytes + 7);
        bytes.extend(words.take(nbytes.div_ceil(8)).flat_map(u64::to_le_bytes));
        bytes.truncate(nbytes);
        Some(bytes)
    }

    /// `hbitmap_deserialize_part`: replaces the bits from `first_bit` (a multiple of 64) on by those of `bytes`.
    /// Bits beyond the end are ignored.
    pub fn load_bytes(&mut self, first_bit: u64, bytes: &[u8]) {
        assert!(first_bit.is_multiple_of(64), "chunk at bit {first_bit}");
        let end = (first_bit + bytes.len() as u64 * 8).min(self.len_bits());
        for number in first_bit / PAGE_BITS..end.div_ceil(PAGE_BITS) {
            let mut page = self.pages.page(number).words().map(u64::to_le_bytes);
            for (i, byte) in page.as_flattened_mut().iter_mut().enumerate() {
                let bit = number * PAGE_BITS + i as u64 * 8;
                if (first_bit..end).contains(&bit) {
                    let left = end - bit;
                    let mask = if left >= 8 { 0xff } else { (1 << left) - 1 };
                    *byte = bytes[((bit - first_bit) / 8) as usize] & mask;
                }
            }
            self.pages.put(number, Page::from_words(page.map(u64::from_le_bytes)));
        }
    }
}

#[cfg(test)]
impl HBitmap {
    pub(super) fn spans(&self) -> usize {
        self.pages.spans()
    }
}
