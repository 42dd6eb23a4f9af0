//! Choices from bytes, for fuzzers that change bytes and watch what they lead to.

use super::{ChoicePoint, Choose};
use std::sync::Arc;

/// Takes a byte for each choice: its remainder by the number of alternatives. Zero is calm, and so is all that comes after the last
/// byte, so that a shorter or smaller input is a calmer schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bytes {
    bytes: Arc<[u8]>,
    next: usize,
}

impl Bytes {
    /// The schedule of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Bytes {
        Bytes { bytes: bytes.into(), next: 0 }
    }
}

impl Choose for Bytes {
    fn choose(&mut self, _point: ChoicePoint, among: u32) -> u32 {
        let byte = self.bytes.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        u32::from(byte) % among
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_picks_and_their_end_is_calm() {
        let mut bytes = Bytes::new(&[0, 5, 255]);
        let picks: Vec<u32> = (0..5).map(|_| bytes.choose(ChoicePoint::CompleteNext, 4)).collect();
        assert_eq!(picks, [0, 1, 3, 0, 0]);
    }
}
