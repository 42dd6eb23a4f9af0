//! Sparse big-endian tables.

use crate::base::Digest;
use rustc_hash::FxHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use triomphe::Arc;

/// Entries of a page.
const PAGE: u32 = 32;

/// A sparse table of big-endian numbers, as qcow2 keeps its L1, L2 and refcount tables. It has no length of its own:
/// what is absent is 0, and the run that holds it says how many bytes of its rendering count.
///
/// Entries stand in pages made when one of theirs is first set. Clones share the pages that they have not changed since.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// Bytes an entry takes: 1, 2, 4 or 8. Anything outside 1..=8 counts as the nearest of these two.
    pub width: u8,
    /// By number; none is all zero.
    pages: Vec<Page>,
    digest: Digest,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Page {
    number: u32,
    cells: Arc<[u64; PAGE as usize]>,
}

impl Page {
    /// All entries, also those that are 0.
    fn entries(&self) -> impl DoubleEndedIterator<Item = (u32, u64)> + '_ {
        (0..PAGE).map(|i| (self.number * PAGE + i, self.cells[i as usize]))
    }
}

impl Table {
    /// An empty table of `width` bytes an entry.
    #[must_use]
    pub fn new(width: u8) -> Table {
        Table { width, ..Table::default() }
    }

    /// Where the page of that number is, or would be.
    fn position(&self, number: u32) -> Result<usize, usize> {
        // Tables are filled from their start: most pages stand at their number.
        match self.pages.get(number as usize) {
            Some(page) if page.number == number => Ok(number as usize),
            _ => self.pages.binary_search_by_key(&number, |page| page.number),
        }
    }

    /// The entry at `index`; 0 if absent.
    #[must_use]
    pub fn get(&self, index: u32) -> u64 {
        self.position(index / PAGE).map_or(0, |at| self.pages[at].cells[(index % PAGE) as usize])
    }

    /// Sets the entry at `index`. Of the value only the low `width` bytes count.
    pub fn set(&mut self, index: u32, value: u64) {
        self.digest.clear();
        let value = value & self.mask();
        let cell = (index % PAGE) as usize;
        match self.position(index / PAGE) {
            Ok(at) if value == 0 => self.clear(at, cell),
            Ok(at) => Arc::make_mut(&mut self.pages[at].cells)[cell] = value,
            Err(_) if value == 0 => {}
            Err(at) => {
                let mut cells = [0; PAGE as usize];
                cells[cell] = value;
                self.pages.insert(at, Page { number: index / PAGE, cells: Arc::new(cells) });
            }
        }
    }

    /// Sets `n` entries from `first` on to what `new` makes of their index and of what they are.
    pub fn map(&mut self, first: u32, n: u32, mut new: impl FnMut(u32, u64) -> u64) {
        self.digest.clear();
        let (mask, end) = (self.mask(), u64::from(first) + u64::from(n));
        let mut at = u64::from(first);
        while at < end {
            let number = at as u32 / PAGE;
            let page_start = u64::from(number) * u64::from(PAGE);
            let stop = end.min(page_start + u64::from(PAGE));
            let place = self.position(number);
            let (from, to) = ((at - page_start) as usize, (stop - page_start) as usize);
            let mut change = |cells: &mut [u64; PAGE as usize]| {
                for (cell, index) in cells[from..to].iter_mut().zip(at as u32..) {
                    *cell = new(index, *cell) & mask;
                }
            };
            // A page that no clone shares is changed where it stands.
            match place.map(|place| (place, Arc::get_mut(&mut self.pages[place].cells))) {
                Ok((place, Some(cells))) => {
                    change(cells);
                    if cells.iter().all(|&value| value == 0) {
                        self.pages.remove(place);
                    }
                }
                Ok((place, None)) => {
                    let mut cells = *self.pages[place].cells;
                    change(&mut cells);
                    self.put(Ok(place), number, cells);
                }
                Err(place) => {
                    let mut cells = [0; PAGE as usize];
                    change(&mut cells);
                    self.put(Err(place), number, cells);
                }
            }
            at = stop;
        }
    }

    /// Puts a page in its place; one without entries goes.
    fn put(&mut self, place: Result<usize, usize>, number: u32, cells: [u64; PAGE as usize]) {
        let empty = cells.iter().all(|&value| value == 0);
        match place {
            Ok(at) if empty => drop(self.pages.remove(at)),
            Ok(at) => self.pages[at].cells = Arc::new(cells),
            Err(_) if empty => {}
            Err(at) => self.pages.insert(at, Page { number, cells: Arc::new(cells) }),
        }
    }

    /// Zeroes an entry; a page without entries goes, so that equal tables compare equal.
    fn clear(&mut self, at: usize, cell: usize) {
        if self.pages[at].cells[cell] == 0 {
            return;
        }
        let cells = Arc::make_mut(&mut self.pages[at].cells);
        cells[cell] = 0;
        if cells.iter().all(|&value| value == 0) {
            self.pages.remove(at);
        }
    }

    /// The entries that are not 0, by index.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, u64)> + '_ {
        self.range(0..=u32::MAX)
    }

    /// The entries in a range that are not 0, by index.
    pub fn range(&self, range: RangeInclusive<u32>) -> impl DoubleEndedIterator<Item = (u32, u64)> + '_ {
        let (first, last) = (*range.start(), *range.end());
        let from = self.position(first / PAGE).unwrap_or_else(|at| at);
        let to = self.position(last / PAGE).map_or_else(|at| at, |at| at + 1).max(from);
        self.pages[from..to]
            .iter()
            .flat_map(Page::entries)
            .filter(move |&(index, value)| value != 0 && first <= index && index <= last)
    }

    /// Whether one of the entries that are not 0 is such.
    pub fn any(&self, is: impl Fn(u64) -> bool) -> bool {
        self.pages.iter().any(|page| page.cells.iter().any(|&value| value != 0 && is(value)))
    }

    /// Whether one of the `n` entries from `first` on that are not 0 is such.
    pub fn any_in(&self, first: u32, n: u32, is: impl Fn(u64) -> bool) -> bool {
        let (mut at, end) = (u64::from(first), u64::from(first) + u64::from(n));
        while at < end {
            let number = at as u32 / PAGE;
            let page_start = u64::from(number) * u64::from(PAGE);
            let stop = end.min(page_start + u64::from(PAGE));
            if let Ok(place) = self.position(number) {
                let cells = &self.pages[place].cells[(at - page_start) as usize..(stop - page_start) as usize];
                if cells.iter().any(|&value| value != 0 && is(value)) {
                    return true;
                }
            }
            at = stop;
        }
        false
    }

    /// How many entries are not 0.
    #[must_use]
    pub fn count(&self) -> usize {
        self.iter().count()
    }

    /// Zeroes all entries from `end` on.
    pub fn truncate(&mut self, end: u64) {
        let Ok(end) = u32::try_from(end) else { return };
        let last = end / PAGE;
        self.digest.clear();
        self.pages.retain(|page| page.number <= last);
        for index in end..=last * PAGE + (PAGE - 1) {
            self.set(index, 0);
        }
    }

    /// Bytes an entry takes, 1 to 8.
    #[must_use]
    pub fn entry_bytes(&self) -> u64 {
        u64::from(self.width.clamp(1, 8))
    }

    /// The `len` bytes from byte `start` of the rendering.
    #[must_use]
    pub fn render(&self, start: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let mut done = 0;
        while done < len {
            let Some((from, bytes, n)) = self.next_entry(start.saturating_add(done as u64), (len - done) as u64) else {
                break;
            };
            // `from` and `n` lie inside of `out`, whose length is a usize.
            let at = done + from as usize;
            out[at..at + n].copy_from_slice(&bytes[..n]);
            done = at + n;
        }
        out
    }

    /// The first entry that is not 0 and of which something lies in the `len` bytes from byte `start` of the
    /// rendering: how far behind `start` that something begins, its bytes, and how many they are.
    pub(super) fn next_entry(&self, start: u64, len: u64) -> Option<(u64, [u8; 8], usize)> {
        let width = self.entry_bytes();
        let first = u32::try_from(start / width).ok()?;
        let (index, value) = self.range(first..=u32::MAX).next()?;
        let entry_at = u64::from(index) * width;
        let skip = start.saturating_sub(entry_at);
        let from = entry_at.saturating_sub(start);
        if from >= len {
            return None;
        }
        let n = (width - skip).min(len - from);
        // Left-justify the part that counts: drop the bytes above the entry's width, then those before `start`.
        let shift = 8 * (8 - width + skip);
        Some((from, (value << shift).to_be_bytes(), n as usize))
    }

    /// The entries that are not 0 and of which something lies in the `len` bytes from byte `start`.
    pub(super) fn visible(&self, start: u64, len: u64) -> impl Iterator<Item = (u32, u64)> + '_ {
        let width = self.entry_bytes();
        let first = start / width;
        let last = match len {
            0 => None,
            len => Some(start.saturating_add(len - 1) / width),
        };
        let bounds = u32::try_from(first).ok().zip(last.map(|last| u32::try_from(last).unwrap_or(u32::MAX)));
        bounds.into_iter().flat_map(|(first, last)| self.range(first..=last))
    }

    /// Whether all that is stored lies in the first `len` bytes of the rendering.
    pub(super) fn ends_within(&self, len: u64) -> bool {
        self.iter().next_back().is_none_or(|(last, _)| (u64::from(last) + 1) * self.entry_bytes() <= len)
    }

    /// A hash of the entries of which something lies in the `len` bytes from byte `start`.
    pub(super) fn digest(&self, start: u64, len: u64) -> u64 {
        let feed = |entries: &mut dyn Iterator<Item = (u32, u64)>, hasher: &mut FxHasher| {
            entries.for_each(|entry| entry.hash(hasher));
        };
        // All entries at once are what is asked for most.
        if start == 0 && self.ends_within(len) {
            return self.digest.of(|hasher| feed(&mut self.iter(), hasher));
        }
        Digest::default().of(|hasher| feed(&mut self.visible(start, len), hasher))
    }

    fn mask(&self) -> u64 {
        u64::MAX >> (64 - 8 * self.entry_bytes())
    }
}

impl Hash for Table {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.width, self.digest(0, u64::MAX)).hash(state);
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_table_is_a_map(
            width in prop::sample::select(vec![1u8, 2, 4, 8]),
            sets in prop::collection::vec((prop_oneof![0u32..100, 5000u32..5010, any::<u32>()], prop_oneof![Just(0u64), any::<u64>()]), 0..60),
            from in 0u32..6000,
            len in 0u32..200,
            end in 0u64..6000,
        ) {
            let (mut table, mut naive) = (Table::new(width), BTreeMap::new());
            for (index, value) in sets {
                table.set(index, value);
                match value & table.mask() {
                    0 => naive.remove(&index),
                    value => naive.insert(index, value),
                };
                prop_assert_eq!(table.get(index), naive.get(&index).copied().unwrap_or(0));
                prop_assert!(table.pages.iter().all(|page| page.cells.iter().any(|&value| value != 0)));
            }
            let pairs = |map: &BTreeMap<u32, u64>| map.iter().map(|(&i, &v)| (i, v)).collect::<Vec<_>>();
            prop_assert_eq!(table.iter().collect::<Vec<_>>(), pairs(&naive));
            prop_assert_eq!(table.count(), naive.len());
            let odd = |value: u64| value % 2 == 1;
            let naive_any = naive.range(from..from + len).any(|(_, &value)| odd(value));
            prop_assert_eq!(table.any_in(from, len, odd), naive_any);
            let part: Vec<(u32, u64)> = naive.range(from..=from + len).rev().map(|(&i, &v)| (i, v)).collect();
            prop_assert_eq!(table.range(from..=from + len).rev().collect::<Vec<_>>(), part);
            let mut same = Table::new(width);
            for (&index, &value) in naive.iter().rev() {
                same.set(index, value);
            }
            prop_assert_eq!(&same, &table);
            table.map(from, len, |index, old| if index % 3 == 0 { 0 } else { old.wrapping_add(u64::from(index)) });
            for index in from..from + len {
                let value = naive.get(&index).copied().unwrap_or(0).wrapping_add(u64::from(index)) & table.mask();
                if index % 3 == 0 || value == 0 { naive.remove(&index); } else { naive.insert(index, value); }
            }
            prop_assert_eq!(table.iter().collect::<Vec<_>>(), pairs(&naive));
            prop_assert!(table.pages.iter().all(|page| page.cells.iter().any(|&value| value != 0)));
            table.truncate(end);
            naive.retain(|&index, _| u64::from(index) < end);
            prop_assert_eq!(table.iter().collect::<Vec<_>>(), pairs(&naive));
        }
    }
}
