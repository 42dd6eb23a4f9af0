//! Random numbers: a portable ChaCha8 stream and an integer-only way to draw from a range that is our own, so that no new
//! version of a package can change what a seed means.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::hash::{Hash, Hasher};

/// Fills the part of the 32-byte key that the seed leaves.
const KEY_TAIL: &[u8; 24] = b"blockjob-sim choices, v1";

/// A stream of draws that depends on the seed and the stream number alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    rng: ChaCha8Rng,
}

impl Stream {
    /// The stream `number` of `seed`, at its start.
    #[must_use]
    pub fn new(seed: u64, number: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..].copy_from_slice(KEY_TAIL);
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(number);
        Stream { rng }
    }

    /// A number below `among`, each equally likely. `among` of 0 counts as 1.
    pub fn below(&mut self, among: u32) -> u32 {
        if among < 2 {
            return 0;
        }
        // The high half of draw × among falls on each number equally often, but for the lowest 2^32 mod among values of
        // the low half: those draws are thrown away.
        loop {
            let wide = u64::from(self.rng.next_u32()) * u64::from(among);
            let (high, low) = ((wide >> 32) as u32, wide as u32);
            if low >= among || low >= among.wrapping_neg() % among {
                return high;
            }
        }
    }
}

impl Hash for Stream {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rng.get_seed().hash(state);
        self.rng.get_stream().hash(state);
        self.rng.get_word_pos().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What seeds mean: these numbers may never change.
    #[test]
    fn first_draws_are_golden() {
        let draw = |seed, stream, among| {
            let mut s = Stream::new(seed, stream);
            (0..8).map(|_| s.below(among)).collect::<Vec<_>>()
        };
        assert_eq!(draw(0, 1, 1000), GOLDEN[0]);
        assert_eq!(draw(1, 1, 1000), GOLDEN[1]);
        assert_eq!(draw(1, 2, 3), GOLDEN[2]);
        assert_eq!(draw(u64::MAX, 11, u32::MAX), GOLDEN[3]);
    }

    const GOLDEN: [[u32; 8]; 4] = [
        [356, 533, 261, 761, 931, 605, 45, 769],
        [600, 708, 477, 386, 622, 710, 446, 117],
        [2, 0, 0, 1, 0, 1, 1, 1],
        [3064075573, 476439922, 4030465139, 621694038, 1854769908, 1184959658, 1922474273, 737749802],
    ];

    #[test]
    fn draws_are_even_and_in_range() {
        for among in [1, 2, 3, 5, 7, 100] {
            let mut seen = vec![0u32; among as usize];
            let mut stream = Stream::new(5, 3);
            for _ in 0..among * 1000 {
                seen[stream.below(among) as usize] += 1;
            }
            assert!(seen.iter().all(|n| (850..1150).contains(n)), "{among}: {seen:?}");
        }
        assert_eq!(Stream::new(1, 1).below(0), 0);
    }

    #[test]
    fn a_clone_goes_on_alike() {
        let mut a = Stream::new(9, 9);
        a.below(10);
        let mut b = a.clone();
        assert_eq!(a, b);
        assert_eq!(
            (0..100).map(|_| a.below(77)).collect::<Vec<_>>(),
            (0..100).map(|_| b.below(77)).collect::<Vec<_>>()
        );
        assert_eq!(a, b);
        b.below(2);
        assert_ne!(a, b);
    }
}
