//! The orders QEMU's hash tables list their members in. They are visible in replies and in some error texts.

use std::sync::Arc;

use crate::base::Json;

/// Buckets of a QEMU dictionary (`QDICT_BUCKET_MAX`).
const BUCKETS: u32 = 512;

/// The bytes of a string as QEMU holds them: U+0000 takes two (modified UTF-8).
fn c_bytes(text: &str) -> impl Iterator<Item = u8> + '_ {
    text.bytes().flat_map(|b| if b == 0 { [Some(0xC0), Some(0x80)] } else { [Some(b), None] }).flatten()
}

/// The bucket a key falls into (qobject/qdict.c:tdb_hash).
fn bucket(key: &str) -> u32 {
    let zeros = key.bytes().filter(|b| *b == 0).count();
    // Keys are shorter than 64 MiB (the parser's token limit), so the length fits.
    let len = u32::try_from(key.len() + zeros).unwrap_or(u32::MAX);
    let mut value = 0x238F_13AF_u32.wrapping_mul(len);
    let mut shift = 0;
    for byte in c_bytes(key) {
        value = value.wrapping_add(u32::from(byte) << shift);
        shift = (shift + 5) % 24;
    }
    1_103_515_243_u32.wrapping_mul(value).wrapping_add(12345) % BUCKETS
}

/// The indices of `members` in the order `qdict_first`/`qdict_next` lists them:
/// by bucket, and within a bucket the newest first.
#[must_use]
pub fn wire_order(members: &[(Arc<str>, Json)]) -> Vec<usize> {
    let mut order: Vec<(u32, std::cmp::Reverse<usize>)> =
        members.iter().enumerate().map(|(i, (key, _))| (bucket(key), std::cmp::Reverse(i))).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, i)| i.0).collect()
}

/// The least size of GLib's hash table.
const MIN_SHIFT: u32 = 3;
/// The primes GLib reduces hashes by, indexed by the logarithm of the table's size.
const PRIMES: [u32; 32] = [
    1,
    2,
    3,
    7,
    13,
    31,
    61,
    127,
    251,
    509,
    1021,
    2039,
    4093,
    8191,
    16381,
    32749,
    65521,
    131_071,
    262_139,
    524_287,
    1_048_573,
    2_097_143,
    4_194_301,
    8_388_593,
    16_777_213,
    33_554_393,
    67_108_859,
    134_217_689,
    268_435_399,
    536_870_909,
    1_073_741_789,
    2_147_483_647,
];

/// A slot of a [`GlibTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot<'a> {
    Unused,
    Tombstone,
    Used(u32, &'a str),
}

/// The indices of `names` in the order in which a `GHashTable` lists them that they were put into one after the other.
#[must_use]
pub fn hash_order(names: &[&str]) -> Vec<usize> {
    let mut table = GlibTable::new();
    for name in names {
        table.insert(name);
    }
    let listed = table.slots.iter().filter_map(|slot| match slot {
        Slot::Used(_, key) => names.iter().position(|name| name == key),
        _ => None,
    });
    listed.collect()
}

/// A set of strings that lists them as a `GHashTable` with `g_str_hash` does.
///
/// QEMU's input visitor keeps the members nobody has visited in such a table,
/// so of several superfluous arguments this decides which one the error names.
#[derive(Clone, Debug)]
pub struct GlibTable<'a> {
    slots: Vec<Slot<'a>>,
    shift: u32,
    /// Strings in the table.
    nodes: usize,
    /// Strings and tombstones.
    occupied: usize,
}

/// `g_str_hash`, kept off the two values GLib reserves.
fn str_hash(text: &str) -> u32 {
    let hash = c_bytes(text).fold(5381_u32, |hash, byte| {
        let signed = i32::from(byte.cast_signed());
        hash.wrapping_mul(33).wrapping_add_signed(signed)
    });
    if hash < 2 { 2 } else { hash }
}

impl<'a> GlibTable<'a> {
    /// A table of the keys of `members`, filled in wire order.
    #[must_use]
    pub fn of_dict(members: &'a [(Arc<str>, Json)]) -> GlibTable<'a> {
        let mut table = GlibTable::new();
        for index in wire_order(members) {
            table.insert(&members[index].0);
        }
        table
    }

    fn new() -> GlibTable<'a> {
        GlibTable { slots: vec![Slot::Unused; 1 << MIN_SHIFT], shift: MIN_SHIFT, nodes: 0, occupied: 0 }
    }

    fn start(&self, hash: u32) -> usize {
        (hash.wrapping_mul(11) % PRIMES[self.shift as usize]) as usize
    }

    /// Where `key` is, or else where it would go.
    fn lookup(&self, hash: u32, key: &str) -> usize {
        let mut at = self.start(hash);
        let mut tombstone = None;
        let mut step = 0;
        loop {
            match self.slots[at] {
                Slot::Unused => return tombstone.unwrap_or(at),
                Slot::Used(h, k) if h == hash && k == key => return at,
                Slot::Tombstone => tombstone = tombstone.or(Some(at)),
                Slot::Used(..) => {}
            }
            step += 1;
            at = (at + step) & (self.slots.len() - 1);
        }
    }

    fn insert(&mut self, key: &'a str) {
        let hash = str_hash(key);
        let at = self.lookup(hash, key);
        match self.slots[at] {
            Slot::Used(..) => return,
            Slot::Unused => self.occupied += 1,
            Slot::Tombstone => {}
        }
        self.slots[at] = Slot::Used(hash, key);
        self.nodes += 1;
        self.maybe_resize();
    }

    /// Takes `key` out, if it is there.
    pub fn remove(&mut self, key: &str) {
        let at = self.lookup(str_hash(key), key);
        if matches!(self.slots[at], Slot::Used(..)) {
            self.slots[at] = Slot::Tombstone;
            self.nodes -= 1;
            self.maybe_resize();
        }
    }

    /// The key that an iteration gives first.
    #[must_use]
    pub fn first(&self) -> Option<&'a str> {
        self.slots.iter().find_map(|slot| match slot {
            Slot::Used(_, key) => Some(*key),
            _ => None,
        })
    }

    fn maybe_resize(&mut self) {
        let size = self.slots.len();
        let too_big = size > self.nodes * 4 && size > 1 << MIN_SHIFT;
        let too_small = size <= self.occupied + self.occupied / 16;
        if too_big || too_small {
            self.resize();
        }
    }

    /// Moves the strings to a table of fitting size, in place: a string whose slot is wanted by
    /// another one is moved on right away, which decides the order of those that collide.
    fn resize(&mut self) {
        // GLib computes (gint)(nodes * 1.333); for every possible number of nodes this is the same.
        let wanted = self.nodes * 1333 / 1000;
        self.shift = (usize::BITS - wanted.leading_zeros()).max(MIN_SHIFT);
        let (old, new) = (self.slots.len(), 1 << self.shift);
        self.slots.resize(old.max(new), Slot::Unused);
        let mut placed = vec![false; old.max(new)];
        for i in 0..old {
            let mut moving = match self.slots[i] {
                Slot::Used(..) if placed[i] => continue,
                _ => std::mem::replace(&mut self.slots[i], Slot::Unused),
            };
            while let Slot::Used(hash, _) = moving {
                let mut at = self.start(hash);
                let mut step = 0;
                while placed[at] {
                    step += 1;
                    at = (at + step) & (new - 1);
                }
                placed[at] = true;
                std::mem::swap(&mut moving, &mut self.slots[at]);
            }
        }
        self.slots.truncate(new);
        self.occupied = self.nodes;
    }
}
