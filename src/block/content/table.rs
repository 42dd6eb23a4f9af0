//! Sparse big-endian tables.

use std::collections::BTreeMap;

/// A sparse table of big-endian numbers, as qcow2 keeps its L1, L2 and refcount tables. It has no length of its own:
/// what is absent is 0, and the run that holds it says how many bytes of its rendering count.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// Bytes an entry takes: 1, 2, 4 or 8. Anything outside 1..=8 counts as the nearest of these two.
    pub width: u8,
    /// Entries by index. Of a value only the low `width` bytes count.
    pub entries: BTreeMap<u32, u64>,
}

impl Table {
    /// An empty table of `width` bytes an entry.
    #[must_use]
    pub fn new(width: u8) -> Table {
        Table { width, entries: BTreeMap::new() }
    }

    /// The entry at `index`; 0 if absent.
    #[must_use]
    pub fn get(&self, index: u32) -> u64 {
        self.entries.get(&index).map_or(0, |&value| value & self.mask())
    }

    /// Sets the entry at `index`. Zeroes are not stored, so that equal tables compare equal.
    pub fn set(&mut self, index: u32, value: u64) {
        match value & self.mask() {
            0 => self.entries.remove(&index),
            value => self.entries.insert(index, value),
        };
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
        let (index, value) =
            self.entries.range(first..).map(|(&i, &v)| (i, v & self.mask())).find(|&(_, value)| value != 0)?;
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
        bounds
            .into_iter()
            .flat_map(|(first, last)| self.entries.range(first..=last))
            .map(|(&index, &value)| (index, value & self.mask()))
            .filter(|&(_, value)| value != 0)
    }

    /// Whether all that is stored lies in the first `len` bytes of the rendering.
    pub(super) fn ends_within(&self, len: u64) -> bool {
        self.entries.last_key_value().is_none_or(|(&last, _)| (u64::from(last) + 1) * self.entry_bytes() <= len)
    }

    fn mask(&self) -> u64 {
        u64::MAX >> (64 - 8 * self.entry_bytes())
    }
}
