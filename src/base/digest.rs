//! Hashes of parts of a value that are remembered until the part changes.
//!
//! Exploring hashes a whole world at each step, of which a step changes little. What is bulky, or many, keeps the hash of what it
//! holds beside it.

#![expect(clippy::disallowed_types, reason = "what is remembered is the same for whoever computes it")]

use rustc_hash::FxHasher;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use triomphe::Arc;

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

/// Something that hardly ever changes, kept with its hash: cloning and hashing it costs next to nothing.
#[derive(Debug)]
pub struct Kept<T> {
    inner: Arc<(Digest, T)>,
}

impl<T> Kept<T> {
    /// Keeps it.
    pub fn new(value: T) -> Kept<T> {
        Kept { inner: Arc::new((Digest::default(), value)) }
    }
}

impl<T: Clone> Kept<T> {
    /// It, to be changed in its place: a copy of it, unless nobody else keeps it.
    pub fn change(&mut self) -> &mut T {
        let inner = Arc::make_mut(&mut self.inner);
        inner.0.clear();
        &mut inner.1
    }

    /// It, to be changed: a copy of it, unless nobody else keeps it.
    #[must_use]
    pub fn take(self) -> T {
        Arc::unwrap_or_clone(self.inner).1
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner.1
    }
}

/// To be changed in its place, as [`Kept::change`] has it.
impl<T: Clone> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.change()
    }
}

impl<T: Default> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept::new(T::default())
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Kept<T> {
        Kept { inner: self.inner.clone() }
    }
}

impl<T: PartialEq> PartialEq for Kept<T> {
    fn eq(&self, other: &Kept<T>) -> bool {
        self.inner.1 == other.inner.1
    }
}

impl<T: Eq> Eq for Kept<T> {}

impl<T: Hash> Hash for Kept<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.inner.0.of(|hasher| self.inner.1.hash(hasher)));
    }
}
