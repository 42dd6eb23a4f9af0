//! Hashes of parts of a value that are remembered until the part changes.
//!
//! Exploring hashes a whole world at each step, of which a step changes little. What is bulky, or many, keeps the hash of what it
//! holds beside it.

#![expect(clippy::disallowed_types, reason = "what is remembered is the same for whoever computes it")]

use rustc_hash::FxHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// A remembered hash of something beside it. It is no part of the value: all are equal. Whoever changes the value must [`clear`] it.
///
/// [`clear`]: Digest::clear
#[derive(Debug, Default)]
pub struct Digest {
    /// 0 is none.
    known: AtomicU64,
}

impl Digest {
    /// Forgets it: the value changes.
    #[inline]
    pub fn clear(&mut self) {
        *self.known.get_mut() = 0;
    }

    /// The hash; `feed` gives a hasher what there is to hash, if it is not known.
    pub fn of(&self, feed: impl FnOnce(&mut FxHasher)) -> u64 {
        // The same value for whoever computes it, so that no order between threads matters.
        match self.known.load(Ordering::Relaxed) {
            0 => {
                let mut hasher = FxHasher::default();
                feed(&mut hasher);
                let hash = hasher.finish().max(1);
                self.known.store(hash, Ordering::Relaxed);
                hash
            }
            known => known,
        }
    }
}

impl Clone for Digest {
    fn clone(&self) -> Digest {
        Digest { known: AtomicU64::new(self.known.load(Ordering::Relaxed)) }
    }
}

impl PartialEq for Digest {
    fn eq(&self, _: &Digest) -> bool {
        true
    }
}

impl Eq for Digest {}

impl PartialOrd for Digest {
    fn partial_cmp(&self, other: &Digest) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Digest {
    fn cmp(&self, _: &Digest) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
