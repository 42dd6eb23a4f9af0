//! Fingerprints: 128 bits for states, 64 for client traces. They depend on the values alone, so that results of several machines can
//! be joined.

use crate::trace::{Level, RecordKind, Trace};
use std::hash::{Hash, Hasher};

const K: [u64; 4] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03, 0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];

/// Both halves of the product, one over the other.
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a).wrapping_mul(u128::from(b));
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// Two numbers into one.
#[must_use]
pub(super) fn mix(a: u64, b: u64) -> u64 {
    fold(a ^ K[0], b ^ K[2]) ^ b.rotate_left(29)
}

/// A hasher of 128 bits: two lanes of folded multiplications.
#[derive(Clone, Debug)]
pub struct Fingerprint {
    a: u64,
    b: u64,
}

impl Default for Fingerprint {
    fn default() -> Self {
        Fingerprint { a: K[0], b: K[1] }
    }
}

impl Fingerprint {
    /// The fingerprint of a value.
    #[must_use]
    pub fn of(value: &impl Hash) -> u128 {
        let mut hasher = Fingerprint::default();
        value.hash(&mut hasher);
        hasher.value()
    }

    /// All 128 bits of what was hashed so far.
    #[must_use]
    pub fn value(&self) -> u128 {
        let high = fold(self.a ^ K[2], self.b ^ K[3]);
        let low = fold(self.b ^ K[0], self.a ^ K[1]) ^ self.a;
        (u128::from(high) << 64) | u128::from(low)
    }

    #[inline]
    fn word(&mut self, x: u64) {
        self.a = fold(self.a ^ x, K[2]).wrapping_add(x);
        self.b = fold(self.b.rotate_left(23) ^ x, K[3]).wrapping_add(self.a);
    }
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.word(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(last) ^ ((rest.len() as u64) << 56));
        }
    }
    #[inline]
    fn write_u8(&mut self, n: u8) {
        self.word(u64::from(n));
    }
    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.word(u64::from(n));
    }
    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.word(u64::from(n));
    }
    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.word(n);
    }
    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.word(n as u64);
    }
    fn finish(&self) -> u64 {
        (self.value() >> 64) as u64
    }
}

/// The digest of a client trace so far: of what was sent and read in which order, without times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceDigest(pub u64);

impl TraceDigest {
    /// What one more record makes of it. Records of other levels do not count.
    #[must_use]
    pub fn then(self, record: &RecordKind) -> TraceDigest {
        if record.level() == Level::Client { self.then_hash(Fingerprint::of(record) as u64) } else { self }
    }

    /// The same with the record's hash.
    #[must_use]
    pub(super) fn then_hash(self, record: u64) -> TraceDigest {
        TraceDigest(mix(self.0, record))
    }

    /// The digest of a whole trace.
    #[must_use]
    pub fn of(trace: &Trace) -> TraceDigest {
        trace.iter().fold(TraceDigest::default(), |digest, record| digest.then(&record.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Json;
    use std::collections::BTreeSet;

    #[test]
    fn lanes_do_not_collide_on_small_things() {
        let mut seen = BTreeSet::new();
        for a in 0..300u32 {
            for b in 0..300u32 {
                assert!(seen.insert(Fingerprint::of(&(a, b)) as u64));
                assert!(seen.insert((Fingerprint::of(&(a, b)) >> 64) as u64));
            }
        }
    }

    #[test]
    fn the_order_counts() {
        let record = |n| RecordKind::Reply(Json::Int(n));
        let both = |a, b| TraceDigest::default().then(&record(a)).then(&record(b));
        assert_ne!(both(1, 2), both(2, 1));
        assert_ne!(both(1, 1), TraceDigest::default());
        assert_eq!(both(3, 4), both(3, 4));
    }

    /// Results of different machines are joined by digests: they may not change within a version.
    #[test]
    fn digests_are_golden() {
        assert_eq!(Fingerprint::of(&(1u8, "abc", 7u64)), GOLDEN);
    }

    const GOLDEN: u128 = 36_599_995_865_060_601_159_375_237_313_617_235_485;
}
