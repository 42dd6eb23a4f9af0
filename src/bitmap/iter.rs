//! A walk over the dirty granules of a bitmap that may change meanwhile.

use super::HBitmap;

/// `HBITMAP_LEVELS`: each level has a bit for each word of the one below.
const LEVELS: usize = 7;

/// `HBitmapIter`: where a walk is. It remembers, at each level, the word that it read when it came there, so that a bit that is set
/// behind its back is seen only where no bit of that word was left out before; one that was cleared is not given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HBitmapIter {
    /// The word of the lowest level that it is at.
    pos: u64,
    /// What is left of the word at each level, the lowest first.
    left: [u64; LEVELS],
}

impl HBitmapIter {
    /// `hbitmap_iter_init`: the first one given will be at byte `first` or behind it.
    #[must_use]
    pub fn new(bits: &HBitmap, first: u64) -> HBitmapIter {
        let start = first / bits.granularity();
        let mut left = [0; LEVELS];
        let mut pos = start;
        for (level, left) in left.iter_mut().enumerate() {
            let bit = pos % 64;
            pos /= 64;
            *left = bits.word(level, pos) & (u64::MAX << bit);
            if level > 0 {
                // The word below it was read just now.
                *left &= !(1 << bit);
            }
        }
        HBitmapIter { pos: start / 64, left }
    }

    /// `hbitmap_iter_next`: the next dirty granule by its first byte; `None` at the end.
    pub fn next(&mut self, bits: &HBitmap) -> Option<u64> {
        let mut pos = self.pos;
        let mut word = self.left[0] & bits.word(0, pos);
        if word == 0 {
            let mut level = 0;
            while word == 0 {
                level += 1;
                if level == LEVELS {
                    return None;
                }
                pos /= 64;
                word = self.left[level] & bits.word(level, pos);
            }
            while level > 0 {
                self.left[level] = word & (word - 1);
                pos = pos * 64 + u64::from(word.trailing_zeros());
                level -= 1;
                word = bits.word(level, pos);
            }
            self.pos = pos;
        }
        self.left[0] = word & (word - 1);
        Some((pos * 64 + u64::from(word.trailing_zeros())) * bits.granularity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bits: &HBitmap, walk: &mut HBitmapIter) -> Vec<u64> {
        std::iter::from_fn(|| walk.next(bits)).collect()
    }

    #[test]
    fn a_walk_gives_each_dirty_granule_once_in_order() {
        let mut bits = HBitmap::new(1 << 40, 512);
        let wanted = [0, 512, 64 * 512, 65 * 512, 1 << 20, (1 << 30) + 512, (1 << 40) - 512];
        for at in wanted {
            bits.set(at, 1);
        }
        assert_eq!(all(&bits, &mut HBitmapIter::new(&bits, 0)), wanted);
        assert_eq!(all(&bits, &mut HBitmapIter::new(&bits, 64 * 512)), wanted[2..]);
        assert_eq!(all(&bits, &mut HBitmapIter::new(&bits, (1 << 20) + 512)), wanted[5..]);
    }

    #[test]
    fn what_changes_behind_its_back() {
        let mut bits = HBitmap::new(1 << 20, 512);
        bits.set(0, 1);
        bits.set(5 * 512, 1);
        bits.set(9 * 512, 1);
        let mut walk = HBitmapIter::new(&bits, 0);
        assert_eq!(walk.next(&bits), Some(0));
        // In the word that it has read a cleared bit is left out, and one that was set is not seen.
        bits.reset(5 * 512, 512);
        bits.set(7 * 512, 1);
        bits.set(100 * 512, 1);
        assert_eq!(all(&bits, &mut walk), [9 * 512]);
        assert_eq!(all(&bits, &mut HBitmapIter::new(&bits, 0)), [0, 7 * 512, 9 * 512, 100 * 512]);
    }
}
