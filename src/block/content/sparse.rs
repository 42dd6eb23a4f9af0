//! What a file holds.

use super::{Data, Fill, Run, WriteTag};
use crate::base::Digest;
use std::fmt;
use std::hash::{Hash, Hasher};
use triomphe::Arc;

/// Extents a leaf may hold. A write after a clone copies one leaf and the list of leaves.
const LEAF_MAX: usize = 32;

/// What a file holds: runs at offsets, and holes, which read as zero. It has no length of its own.
///
/// Cloning takes constant time, and clones share what they have not written since.
#[derive(Clone, Default)]
pub struct Content {
    /// By offset; no leaf is empty.
    leaves: Arc<Vec<Leaf>>,
    digest: Digest,
}

#[derive(Clone)]
struct Leaf {
    /// Offset of the first extent, kept here so that a search need not follow the pointer.
    first: u64,
    extents: Arc<Vec<Extent>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Extent {
    start: u64,
    run: Run,
}

impl Extent {
    fn end(&self) -> u64 {
        self.start + self.run.len
    }

    /// The part that lies in `from..to`, which the extent meets.
    fn cut(&self, from: u64, to: u64) -> Extent {
        let (start, end) = (self.start.max(from), self.end().min(to));
        Extent { start, run: self.run.part(start - self.start, end - start) }
    }
}

impl Leaf {
    fn new(extents: Vec<Extent>) -> Leaf {
        Leaf { first: extents.first().map_or(0, |extent| extent.start), extents: Arc::new(extents) }
    }
}

/// What file systems keep data and holes by, in bytes.
pub const BLOCK: u64 = 4096;

impl Content {
    /// Nothing but a hole.
    #[must_use]
    pub fn new() -> Content {
        Content::default()
    }

    /// Writes `data` at `offset`; zeroes too become data. What would lie beyond `u64::MAX` is dropped.
    pub fn write(&mut self, offset: u64, data: &Data) {
        let end = offset.saturating_add(data.len());
        let mut at = offset;
        let extents = data.runs().filter_map(|run| {
            let start = at;
            let len = run.len.min(end - start);
            at += len;
            (len > 0).then(|| Extent { start, run: if len == run.len { run.clone() } else { run.part(0, len) } })
        });
        self.replace(offset, end, extents);
    }

    /// Makes a hole of `len` bytes at `offset`.
    pub fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        if !self.is_hole(offset, len) {
            self.replace(offset, end, std::iter::empty());
        }
    }

    /// Zeroes `len` bytes at `offset` as file systems do: whole blocks become holes; where it begins or ends within a block, that block
    /// stays what it is, data or hole.
    pub fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let (first, last) = (offset.next_multiple_of(BLOCK), end / BLOCK * BLOCK);
        if first > last {
            return self.zero_within(offset, end);
        }
        self.zero_within(offset, first);
        self.punch(first, last - first);
        self.zero_within(last, end);
    }

    /// Zeroes a part of a block.
    fn zero_within(&mut self, from: u64, to: u64) {
        if from < to && !self.is_hole(from / BLOCK * BLOCK, BLOCK) {
            self.write(from, &Data::zeroes(to - from));
        }
    }

    /// Drops all at and behind `new_len`.
    pub fn truncate(&mut self, new_len: u64) {
        self.punch(new_len, u64::MAX);
    }

    /// The `len` bytes at `offset`; holes give zeroes that nobody wrote.
    #[must_use]
    pub fn read(&self, offset: u64, len: u64) -> Data {
        let end = offset.saturating_add(len);
        let mut out = Data::new();
        let mut at = offset;
        for extent in self.from(offset).take_while(|extent| extent.start < end) {
            if extent.start > at {
                out.push(hole(extent.start - at));
            }
            at = extent.end().min(end);
            out.push(extent.cut(offset, end).run);
        }
        out.push(hole(end - at));
        // What cannot be addressed is a hole as well, so that the length is the one asked for.
        out.push(hole(len - (end - offset)));
        out
    }

    /// Whether no byte of the range is data; so also of an empty range.
    #[must_use]
    pub fn is_hole(&self, offset: u64, len: u64) -> bool {
        len == 0 || self.from(offset).next().is_none_or(|extent| extent.start >= offset.saturating_add(len))
    }

    /// Whether data (or else a hole) begins at `offset`, and how many of the `len` bytes there are of that kind,
    /// whatever runs they consist of: `SEEK_DATA` and `SEEK_HOLE` in one. Of an empty range, `(false, 0)`.
    #[must_use]
    pub fn status(&self, offset: u64, len: u64) -> (bool, u64) {
        let end = offset.saturating_add(len);
        let mut extents = self.from(offset);
        let first = match extents.next() {
            None => return (false, len),
            Some(first) if len == 0 || first.start >= end => return (false, len),
            Some(first) if first.start > offset => return (false, first.start - offset),
            Some(first) => first,
        };
        let mut data_end = first.end();
        while data_end < end {
            match extents.next() {
                Some(next) if next.start == data_end => data_end = next.end(),
                _ => break,
            }
        }
        (true, data_end.min(end) - offset)
    }

    /// The data, by offset; none touches the one before in a way that it only continues it.
    pub fn extents(&self) -> impl Iterator<Item = (u64, &Run)> + '_ {
        self.from(0).map(|extent| (extent.start, &extent.run))
    }

    /// Bytes that are data.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.from(0).map(|extent| extent.run.len).sum()
    }

    /// Whether all is a hole.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// End of the last data; 0 if there is none.
    #[must_use]
    pub fn data_end(&self) -> u64 {
        self.leaves.last().and_then(|leaf| leaf.extents.last()).map_or(0, Extent::end)
    }

    /// The extents that end behind `offset`, in order.
    fn from(&self, offset: u64) -> impl Iterator<Item = &Extent> + '_ {
        let leaf = self.leaves.partition_point(|leaf| leaf.first <= offset).saturating_sub(1);
        let skip = self.leaves.get(leaf).map_or(0, |leaf| leaf.extents.partition_point(|e| e.end() <= offset));
        self.leaves[leaf..].iter().flat_map(|leaf| leaf.extents.iter()).skip(skip)
    }

    /// Puts `new`, which lies in `start..end`, in the place of all that is there.
    fn replace(&mut self, start: u64, end: u64, new: impl Iterator<Item = Extent>) {
        if start >= end {
            return;
        }
        self.digest.clear();
        let leaves = Arc::make_mut(&mut self.leaves);
        // From the leaf with the last extent before `start` to that with the last one up to `end`: neighbours that
        // only touch the range may have to be merged with what is new.
        let first = leaves.partition_point(|leaf| leaf.first < start).saturating_sub(1);
        let last = leaves.partition_point(|leaf| leaf.first <= end).saturating_sub(1).max(first);
        if first == leaves.len() {
            leaves.push(Leaf::new(Vec::new()));
        }
        if first < last {
            let joined = join(&leaves[first..=last], start, end);
            leaves.splice(first..=last, [Leaf::new(joined)]);
        }
        let leaf = &mut leaves[first];
        let extents = Arc::make_mut(&mut leaf.extents);
        splice(extents, start, end, new);
        match extents.first() {
            Some(extent) => leaf.first = extent.start,
            None => {
                leaves.remove(first);
                return;
            }
        }
        balance(leaves, first);
    }
}

fn hole(len: u64) -> Run {
    Run { fill: Fill::Zero, len, tag: WriteTag(0) }
}

/// The extents of `leaves` without those that lie wholly in `start..end`, except near the ends.
fn join(leaves: &[Leaf], start: u64, end: u64) -> Vec<Extent> {
    let outside = |extent: &&Extent| extent.start < start || extent.end() > end;
    leaves.iter().flat_map(|leaf| leaf.extents.iter()).filter(outside).cloned().collect()
}

/// Does to the extents of one leaf what [`Content::replace`] does to all.
fn splice(extents: &mut Vec<Extent>, start: u64, end: u64, new: impl Iterator<Item = Extent>) {
    let mut from = extents.partition_point(|extent| extent.start < start);
    let mut to = from + extents[from..].partition_point(|extent| extent.start < end);
    let tail = extents[..to].last().filter(|extent| extent.end() > end).map(|extent| extent.cut(end, u64::MAX));
    let mut put: Vec<Extent> = Vec::new();
    // The neighbours take part where they may be cut or merged.
    if let Some(before) = extents[..from].last().filter(|extent| extent.end() >= start) {
        put.push(before.cut(0, start));
        from -= 1;
    }
    for extent in new.chain(tail) {
        push_merging(&mut put, extent);
    }
    if let Some(after) = extents.get(to).filter(|extent| extent.start == end) {
        push_merging(&mut put, after.clone());
        to += 1;
    }
    extents.splice(from..to, put);
}

fn push_merging(list: &mut Vec<Extent>, extent: Extent) {
    match list.last_mut() {
        Some(last) if last.end() == extent.start && last.run.continues(&extent.run) => last.run.len += extent.run.len,
        _ => list.push(extent),
    }
}

/// Splits the leaf at `index` if it has grown too large, and joins it with its neighbour if both are small.
fn balance(leaves: &mut Vec<Leaf>, index: usize) {
    let len = leaves[index].extents.len();
    if len > LEAF_MAX {
        let extents = std::mem::take(&mut leaves[index].extents);
        // Leaves are filled by three quarters, so that neither the next write nor the next hole changes them again.
        let parts: Vec<Leaf> = extents.chunks(LEAF_MAX * 3 / 4).map(|part| Leaf::new(part.to_vec())).collect();
        leaves.splice(index..=index, parts);
    } else if len < LEAF_MAX / 4 && index + 1 < leaves.len() && len + leaves[index + 1].extents.len() <= LEAF_MAX / 2 {
        let next = leaves.remove(index + 1);
        Arc::make_mut(&mut leaves[index].extents).extend(next.extents.iter().cloned());
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        // How the extents are spread over leaves depends on the order of writes and says nothing.
        Arc::ptr_eq(&self.leaves, &other.leaves) || self.from(0).eq(other.from(0))
    }
}

impl Eq for Content {}

impl Hash for Content {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest.of(|hasher| self.from(0).for_each(|extent| extent.hash(hasher))));
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.extents()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves_are_sound(content: &Content) {
        let mut before = 0;
        for leaf in content.leaves.iter() {
            assert!((1..=LEAF_MAX).contains(&leaf.extents.len()));
            assert_eq!(leaf.first, leaf.extents[0].start);
            for extent in leaf.extents.iter() {
                assert!(extent.start >= before && extent.run.len > 0);
                before = extent.end();
            }
        }
    }

    #[test]
    fn many_extents_stay_in_small_shared_leaves() {
        const EXTENTS: u64 = 3000;
        let byte = Data::pattern(1, 1, WriteTag(1));
        let mut content = Content::new();
        for i in 0..EXTENTS {
            // 7 and 3000 have no common factor: every even offset once, out of order.
            content.write(i * 7 % EXTENTS * 2, &byte);
            leaves_are_sound(&content);
        }
        assert_eq!(content.allocated_bytes(), EXTENTS);
        assert!(content.leaves.len() < 4 * EXTENTS as usize / LEAF_MAX);

        let before = content.clone();
        content.write(2001, &byte);
        leaves_are_sound(&content);
        let is_shared = |a: &&Leaf| before.leaves.iter().any(|b| Arc::ptr_eq(&a.extents, &b.extents));
        let shared = content.leaves.iter().filter(is_shared).count();
        assert!(shared + 2 >= before.leaves.len(), "one leaf is copied, or two where the write joins them");

        for i in (0..EXTENTS * 2).step_by(97) {
            content.punch(i, 60);
            leaves_are_sound(&content);
        }
        content.write(10, &Data::pattern(2, EXTENTS * 2 - 20, WriteTag(2)));
        leaves_are_sound(&content);
        assert!(content.extents().count() <= 11);
        assert_eq!(before.allocated_bytes(), EXTENTS);
    }
}
