//! Counting distinct things in bounded memory.
//!
//! A sketch keeps the smallest of the digests it saw. Until it is full it counts exactly; from then on it estimates how many there were
//! from how close together the smallest stand, which is right to about half a percent. Two sketches join into what one would have been
//! that saw everything, in whatever order.

use std::collections::BTreeSet;

/// The smallest digests of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sketch {
    smallest: BTreeSet<u64>,
}

impl Sketch {
    /// How many digests are kept; below it the count is exact.
    pub const ROOM: usize = 1 << 15;

    /// Adds a digest; whether it was new.
    pub fn insert(&mut self, digest: u64) -> bool {
        if self.smallest.len() < Sketch::ROOM {
            return self.smallest.insert(digest);
        }
        if !self.wants(digest) {
            return false;
        }
        let new = self.smallest.insert(digest);
        if new {
            self.smallest.pop_last();
        }
        new
    }

    /// Whether the digest would be kept if it is new.
    #[must_use]
    pub fn wants(&self, digest: u64) -> bool {
        self.smallest.len() < Sketch::ROOM || self.smallest.last().is_some_and(|last| digest < *last)
    }

    /// How many distinct digests there were, and whether that is exact.
    #[must_use]
    pub fn count(&self) -> (u64, bool) {
        match self.smallest.last() {
            Some(last) if self.smallest.len() == Sketch::ROOM => {
                let estimate = ((Sketch::ROOM as u128 - 1) << 64) / (u128::from(*last) + 1);
                (u64::try_from(estimate).unwrap_or(u64::MAX), false)
            }
            _ => (self.smallest.len() as u64, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::digest::mix;
    use super::*;

    #[test]
    fn exact_while_there_is_room_and_close_beyond() {
        let mut sketch = Sketch::default();
        for n in 0..30_000 {
            assert!(sketch.insert(mix(n, 1)));
            assert!(!sketch.insert(mix(n, 1)));
        }
        assert_eq!(sketch.count(), (30_000, true));
        for n in 0..1_000_000 {
            sketch.insert(mix(n, 1));
        }
        let (count, exact) = sketch.count();
        assert!(!exact && (980_000..1_020_000).contains(&count), "{count}");
    }

    #[test]
    fn parts_join_into_the_whole() {
        let (mut whole, mut parts) = (Sketch::default(), [Sketch::default(), Sketch::default()]);
        for n in 0..100_000u64 {
            whole.insert(mix(n % 70_000, 5));
            parts[usize::from(n % 3 == 0)].insert(mix(n % 70_000, 5));
        }
        let [mut joined, other] = parts;
        for digest in other.smallest {
            joined.insert(digest);
        }
        assert_eq!(joined, whole);
    }
}
