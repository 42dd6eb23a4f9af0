//! SHA-256 of a bitmap's words, for `x-debug-block-dirty-bitmap-sha256`, and of texts.

use sha2::{Digest, Sha256};

/// The hash of 64-bit words, least significant byte first, in lower-case hexadecimal.
#[must_use]
pub fn of_words(words: impl Iterator<Item = u64>) -> String {
    let mut hash = Sha256::new();
    for word in words {
        hash.update(word.to_le_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of a text, likewise.
#[must_use]
pub fn of_text(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn empty_and_dirty_bitmaps_hash_as_recorded_from_qemu() {
        // QEMU 10.0.2, 64 granules: none dirty, and the first sixteen dirty.
        let empty = "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc";
        let dirty = "3d73c71ad63f39a8a47bee131c1705f2b8c446a26c36ce5a9b6e6e4162fc9f86";
        assert_eq!(super::of_words([0].into_iter()), empty);
        assert_eq!(super::of_words([0xffff].into_iter()), dirty);
    }
}
