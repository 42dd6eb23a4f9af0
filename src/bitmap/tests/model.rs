//! The bit array against a plain list of granules.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::bitmap::{HBitmap, SerializedPiece};

const KIB: u64 = 1 << 10;
const TIB: u64 = 1 << 40;

/// One `bool` for each granule, every operation written as a loop over all of them.
#[derive(Clone, Debug)]
struct Naive {
    size: u64,
    granule: u64,
    bits: Vec<bool>,
}

impl Naive {
    fn new(size: u64, granule: u64) -> Naive {
        Naive { size, granule, bits: vec![false; size.div_ceil(granule) as usize] }
    }

    fn write(&mut self, offset: u64, bytes: u64, value: bool) {
        // Nothing touches nothing, also in the middle of a granule.
        if bytes > 0 {
            let (first, end) = (offset / self.granule, (offset + bytes).div_ceil(self.granule));
            self.bits[first as usize..end as usize].fill(value);
        }
    }

    fn get(&self, offset: u64) -> bool {
        self.bits.get((offset / self.granule) as usize).copied().unwrap_or(false)
    }

    /// The first byte of `offset..end` whose granule is `value`.
    fn next(&self, offset: u64, end: u64, value: bool) -> Option<u64> {
        let mut at = offset;
        let end = end.min(self.size);
        while at < end {
            if self.get(at) == value {
                return Some(at);
            }
            at = (at / self.granule + 1) * self.granule;
        }
        None
    }

    fn area(&self, offset: u64, end: u64, max: u64) -> Option<(u64, u64)> {
        let start = self.next(offset, end, true)?;
        let stop = end.min(self.size).min(start.saturating_add(max));
        Some((start, self.next(start, stop, false).unwrap_or(stop) - start))
    }

    fn merge(&mut self, other: &Naive) {
        for (i, _) in other.bits.iter().enumerate().filter(|(_, bit)| **bit) {
            let start = i as u64 * other.granule;
            let len = other.granule.min(self.size - start);
            self.write(start, len, true);
        }
    }

    fn truncate(&mut self, size: u64) {
        self.size = size;
        self.bits.resize(size.div_ceil(self.granule) as usize, false);
    }

    fn words(&self) -> Vec<u64> {
        let mut words = vec![0; self.bits.len().div_ceil(64).max(1)];
        for (i, _) in self.bits.iter().enumerate().filter(|(_, bit)| **bit) {
            words[i / 64] |= 1 << (i % 64);
        }
        words
    }
}

/// What can be done to a pair of bitmaps. Positions are parts of 2^16 of the size, so that they fit any of them.
#[derive(Clone, Debug)]
enum Op {
    Set(u16, u16),
    Reset(u16, u16),
    ResetAll,
    SetAll,
    Truncate(u64),
    MergeOther,
    CopyFromOther,
    Swap,
    Reload(u16, u8),
}

fn op() -> impl Strategy<Value = Op> {
    // Wide ranges make full pages, narrow ones make mixed pages.
    let range = prop_oneof![(any::<u16>(), any::<u16>()), (any::<u16>(), 0..200u16)];
    prop_oneof![
        8 => range.clone().prop_map(|(a, b)| Op::Set(a, b)),
        6 => range.prop_map(|(a, b)| Op::Reset(a, b)),
        1 => Just(Op::ResetAll),
        1 => Just(Op::SetAll),
        2 => (0..MAX_BITS).prop_map(Op::Truncate),
        2 => Just(Op::MergeOther),
        1 => Just(Op::CopyFromOther),
        3 => Just(Op::Swap),
        1 => (any::<u16>(), any::<u8>()).prop_map(|(at, len)| Op::Reload(at, len)),
    ]
}

/// A few pages.
const MAX_BITS: u64 = 4000;

fn place(part: u16, size: u64) -> u64 {
    ((u128::from(part) * u128::from(size)) >> 16) as u64
}

fn apply(op: &Op, fast: &mut [HBitmap; 2], slow: &mut [Naive; 2]) {
    let (size, granule) = (slow[0].size, slow[0].granule);
    match *op {
        Op::Set(at, len) => {
            let at = place(at, size);
            let len = place(len, size).min(size - at);
            fast[0].set(at, len);
            slow[0].write(at, len, true);
        }
        Op::Reset(at, len) => {
            let at = place(at, size) / granule * granule;
            let len = (place(len, size).next_multiple_of(granule)).min(size - at);
            fast[0].reset(at, len);
            slow[0].write(at, len, false);
        }
        Op::ResetAll => {
            fast[0].reset_all();
            slow[0].bits.fill(false);
        }
        Op::SetAll => {
            fast[0].set_all();
            slow[0].bits.fill(true);
        }
        Op::Truncate(bits) => {
            // Both, as merging wants equal sizes.
            for (fast, slow) in fast.iter_mut().zip(slow) {
                fast.truncate(bits * 512 + 37);
                slow.truncate(bits * 512 + 37);
            }
        }
        Op::MergeOther => {
            let (a, b) = fast.split_at_mut(1);
            a[0].merge_from(&b[0]);
            let (a, b) = slow.split_at_mut(1);
            a[0].merge(&b[0]);
        }
        Op::CopyFromOther => {
            fast[0] = fast[1].clone();
            slow[0] = slow[1].clone();
        }
        Op::Swap => {
            fast.swap(0, 1);
            slow.swap(0, 1);
        }
        Op::Reload(at, len) => {
            let first = place(at, fast[0].len_bits()) / 64 * 64;
            let nbytes = usize::from(len) + 1;
            let bytes = fast[0].chunk_bytes(first, nbytes);
            let expected: Vec<u8> = (0..nbytes as u64 * 8)
                .map(|bit| slow[0].bits.get((first + bit) as usize).copied().unwrap_or(false))
                .collect::<Vec<_>>()
                .chunks(8)
                .map(|byte| byte.iter().rev().fold(0, |sum, bit| sum << 1 | u8::from(*bit)))
                .collect();
            assert_eq!(bytes, expected.iter().any(|byte| *byte != 0).then(|| expected.clone()));
            let negated: Vec<u8> = expected.iter().map(|byte| !byte).collect();
            fast[0].load_bytes(first, &negated);
            for bit in slow[0].bits.iter_mut().skip(first as usize).take(nbytes * 8) {
                *bit = !*bit;
            }
        }
    }
}

fn compare(fast: &HBitmap, slow: &Naive, probes: &[(u16, u16, u16)]) {
    let set = slow.bits.iter().filter(|bit| **bit).count() as u64;
    assert_eq!(fast.count_bits(), set);
    assert_eq!(fast.count_bytes(), set * slow.granule);
    assert_eq!(fast.is_empty(), set == 0);
    assert_eq!(fast.size(), slow.size);
    assert_eq!(fast.serialized_words().collect::<Vec<_>>(), slow.words());
    let mut bytes = vec![0; usize::try_from(fast.serialized_len()).expect("short")];
    for (at, piece) in fast.serialized_pieces() {
        let piece = match piece {
            SerializedPiece::Ones(len) => vec![0xff; usize::try_from(len).expect("short")],
            SerializedPiece::Bytes(bytes) => bytes,
        };
        for (to, byte) in bytes.iter_mut().skip(usize::try_from(at).expect("short")).zip(piece) {
            *to = byte;
        }
    }
    let words = slow.words().into_iter().flat_map(u64::to_le_bytes);
    assert_eq!(bytes, words.take(bytes.len()).collect::<Vec<u8>>());
    for &(at, len, max) in probes {
        let at = place(at, slow.size + 1000);
        // From nothing to beyond the end.
        let len = place(len, slow.size + 1000);
        let max = place(max, slow.size) + 1;
        assert_eq!(fast.get(at), slow.get(at), "get {at}");
        assert_eq!(fast.next_dirty(at, len), slow.next(at, at + len, true), "next_dirty {at}+{len}");
        assert_eq!(fast.next_zero(at, len), slow.next(at, at + len, false), "next_zero {at}+{len}");
        assert_eq!(fast.next_dirty_area(at, at + len, max), slow.area(at, at + len, max), "area {at}+{len} {max}");
        if at < slow.size {
            let len = len.min(slow.size - at).max(1);
            let dirty = slow.get(at);
            let run = slow.next(at, at + len, !dirty).map_or(len, |stop| stop - at);
            assert_eq!(fast.status(at, len), (dirty, run), "status {at}+{len}");
        }
    }
    // The same bits, set one by one, have the same form.
    let mut again = HBitmap::new(slow.size, slow.granule);
    for (i, _) in slow.bits.iter().enumerate().filter(|(_, bit)| **bit) {
        again.set(i as u64 * slow.granule, 1);
    }
    assert_eq!(&again, fast);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn behaves_like_a_list_of_granules(
        shifts in (9u32..14, 9u32..14),
        bits in 0..MAX_BITS,
        ops in vec(op(), 1..25),
        probes in vec(any::<(u16, u16, u16)>(), 12),
    ) {
        let size = bits * 512 + 100;
        let mut fast = [HBitmap::new(size, 1 << shifts.0), HBitmap::new(size, 1 << shifts.1)];
        let mut slow = [Naive::new(size, 1 << shifts.0), Naive::new(size, 1 << shifts.1)];
        for op in &ops {
            apply(op, &mut fast, &mut slow);
        }
        for (fast, slow) in fast.iter().zip(&slow) {
            compare(fast, slow, &probes);
        }
    }

    /// Many pages on both sides, so that the merge walks both lists.
    #[test]
    fn merges_long_lists(a in vec((0..16u64, 0..3u64), 3..16), b in vec((0..16u64, 0..3u64), 3..16)) {
        let (size, granule) = (18 * 1024 * 512, 512);
        let page = 1024 * granule;
        let fill = |list: &[(u64, u64)]| {
            let mut fast = HBitmap::new(size, granule);
            let mut slow = Naive::new(size, granule);
            for &(at, kind) in list {
                let (at, len) = match kind {
                    0 => (at * page, page * 2),
                    1 => (at * page, page / 2),
                    _ => (at * page + page / 2, page / 2),
                };
                fast.set(at, len);
                slow.write(at, len, true);
            }
            (fast, slow)
        };
        let ((mut fast, mut slow), (other_fast, other_slow)) = (fill(&a), fill(&b));
        fast.merge_from(&other_fast);
        slow.merge(&other_slow);
        compare(&fast, &slow, &[]);
    }
}

#[test]
fn a_huge_disk_costs_what_is_set() {
    let mut map = HBitmap::new(16 * TIB, 64 * KIB);
    map.set_all();
    assert_eq!(map.spans(), 1);
    assert_eq!(map.count_bytes(), 16 * TIB);
    assert_eq!(map.areas().collect::<Vec<_>>(), [(0, 16 * TIB)]);
    map.reset(8 * TIB, 64 * KIB);
    assert_eq!(map.spans(), 3);
    assert_eq!(map.next_zero(0, u64::MAX), Some(8 * TIB));
    assert_eq!(map.areas().collect::<Vec<_>>(), [(0, 8 * TIB), (8 * TIB + 64 * KIB, 8 * TIB - 64 * KIB)]);
    map.reset(0, 16 * TIB);
    assert_eq!(map.spans(), 0);
    map.set(15 * TIB, 1);
    map.set(3, 1);
    assert_eq!(map.spans(), 2);
    assert_eq!(map.next_dirty_area(64 * KIB, u64::MAX, u64::MAX), Some((15 * TIB, 64 * KIB)));
    map.truncate(15 * TIB);
    assert_eq!(map.count_bits(), 1);
}

#[test]
fn truncating_keeps_the_granule_that_is_cut() {
    let mut map = HBitmap::new(1024 * KIB, 64 * KIB);
    map.set_all();
    map.truncate(100 * KIB);
    assert_eq!(map.count_bytes(), 131_072);
    map.truncate(1024 * KIB);
    assert_eq!(map.count_bytes(), 131_072);
    map.truncate(0);
    assert_eq!((map.count_bits(), map.serialized_words().collect::<Vec<_>>()), (0, vec![0]));
}

#[test]
fn count_may_exceed_the_disk() {
    let mut map = HBitmap::new(4096 * KIB, 1 << 31);
    map.set(0, 1);
    assert_eq!(map.count_bytes(), 2_147_483_648);
    assert_eq!(map.next_dirty_area(0, u64::MAX, u64::MAX), Some((0, 4096 * KIB)));
}

/// Words with the bits of `ranges` set, for a bitmap of so many bits.
fn words(bits: u64, ranges: &[(u64, u64)]) -> Vec<u64> {
    let mut words = vec![0; bits.div_ceil(64).max(1) as usize];
    for bit in ranges.iter().flat_map(|&(first, end)| first..end) {
        words[(bit / 64) as usize] |= 1 << (bit % 64);
    }
    words
}

/// The words whose digests `x-debug-block-dirty-bitmap-sha256` of QEMU 10.0.2 was seen to give.
#[test]
fn words_are_those_that_qemu_hashes() {
    let mut map = HBitmap::new(64 * 64 * KIB, 64 * KIB);
    assert_eq!(map.serialized_words().collect::<Vec<_>>(), [0]);
    map.set(0, 16 * 64 * KIB);
    assert_eq!(map.serialized_words().collect::<Vec<_>>(), [0xffff]);

    // A disk of 9 MiB and 100 KiB, written at 131071+2 and 9M+100K.
    let size = 9 * 1024 * KIB + 100 * KIB;
    type Ranges = &'static [(u64, u64)];
    let seen: [(u64, u64, Ranges); 4] = [
        (512, 103_424, &[(255, 257), (18_432, 18_632)]),
        (64 * KIB, 262_144, &[(1, 3), (144, 146)]),
        (1024 * KIB, 2_097_152, &[(0, 1), (9, 10)]),
        (1 << 31, 2_147_483_648, &[(0, 1)]),
    ];
    for (granularity, count, ranges) in seen {
        let mut map = HBitmap::new(size, granularity);
        map.set(131_071, 2);
        map.set(9 * 1024 * KIB, 100 * KIB);
        assert_eq!(map.count_bytes(), count);
        assert_eq!(map.serialized_words().collect::<Vec<_>>(), words(map.len_bits(), ranges));
    }
    // The one of 1 MiB granules merged into one of 512 bytes: the last granule is cut by the end of the disk.
    let mut coarse = HBitmap::new(size, 1024 * KIB);
    coarse.set(0, 1);
    coarse.set(size - 1, 1);
    let mut fine = HBitmap::new(size, 512);
    fine.merge_from(&coarse);
    assert_eq!(fine.count_bytes(), 1_150_976);
    assert_eq!(fine.serialized_words().collect::<Vec<_>>(), words(fine.len_bits(), &[(0, 2048), (18_432, 18_632)]));
}

#[test]
fn loading_ignores_bits_beyond_the_end() {
    let mut map = HBitmap::new(70 * 512, 512);
    map.load_bytes(0, &[0xff; 512]);
    assert_eq!(map.count_bits(), 70);
    assert_eq!(map.chunk_bytes(64, 4), Some(vec![0x3f, 0, 0, 0]));
    assert_eq!(map.chunk_bytes(128, 64), None);
}
