//! Compressed clusters: raw DEFLATE streams with a window of 4096 bytes (block/qcow2-threads.c).
//!
//! What is written here, any inflater reads; zlib would mostly make it somewhat smaller.

use crate::base::errno::Errno;
use crate::block::content::{Data, Fill, WriteTag};
use crate::block::qcow2::exec::Fault;

/// Longest match.
const MAX_MATCH: usize = 258;
/// How far back a match may begin.
const WINDOW: usize = 4096 - 262;
/// Extra bits and smallest length of the length codes 257 to 285.
const LENGTHS: [(u32, usize); 29] = [
    (0, 3),
    (0, 4),
    (0, 5),
    (0, 6),
    (0, 7),
    (0, 8),
    (0, 9),
    (0, 10),
    (1, 11),
    (1, 13),
    (1, 15),
    (1, 17),
    (2, 19),
    (2, 23),
    (2, 27),
    (2, 31),
    (3, 35),
    (3, 43),
    (3, 51),
    (3, 59),
    (4, 67),
    (4, 83),
    (4, 99),
    (4, 115),
    (5, 131),
    (5, 163),
    (5, 195),
    (5, 227),
    (0, 258),
];
/// Extra bits and smallest distance of the distance codes.
const DISTANCES: [(u32, usize); 30] = [
    (0, 1),
    (0, 2),
    (0, 3),
    (0, 4),
    (1, 5),
    (1, 7),
    (2, 9),
    (2, 13),
    (3, 17),
    (3, 25),
    (4, 33),
    (4, 49),
    (5, 65),
    (5, 97),
    (6, 129),
    (6, 193),
    (7, 257),
    (7, 385),
    (8, 513),
    (8, 769),
    (9, 1025),
    (9, 1537),
    (10, 2049),
    (10, 3073),
    (11, 4097),
    (11, 6145),
    (12, 8193),
    (12, 12_289),
    (13, 16_385),
    (13, 24_577),
];
/// The order in which a dynamic block gives the lengths of the code length codes.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Writes bits, least significant first.
#[derive(Default)]
struct Writer {
    out: Vec<u8>,
    bits: u64,
    n: u32,
}

impl Writer {
    fn bits(&mut self, value: u64, n: u32) {
        self.bits |= value << self.n;
        self.n += n;
        while self.n >= 8 {
            self.out.push(self.bits as u8);
            self.bits >>= 8;
            self.n -= 8;
        }
    }

    /// A code of the fixed table for literals and lengths; codes go most significant bit first.
    fn symbol(&mut self, symbol: usize) {
        let (code, n) = match symbol {
            0..144 => (0x30 + symbol, 8),
            144..256 => (0x190 + symbol - 144, 9),
            256..280 => (symbol - 256, 7),
            _ => (0xc0 + symbol - 280, 8),
        };
        self.bits((code as u64).reverse_bits() >> (64 - n), n);
    }

    fn copy(&mut self, len: usize, distance: usize) {
        let code = LENGTHS.partition_point(|&(_, base)| base <= len) - 1;
        self.symbol(257 + code);
        self.bits((len - LENGTHS[code].1) as u64, LENGTHS[code].0);
        let code = DISTANCES.partition_point(|&(_, base)| base <= distance) - 1;
        self.bits((code as u64).reverse_bits() >> 59, 5);
        self.bits((distance - DISTANCES[code].1) as u64, DISTANCES[code].0);
    }

    fn start() -> Writer {
        let mut writer = Writer::default();
        writer.bits(0b011, 3); // the last block, and with the fixed codes
        writer
    }

    fn finish(mut self) -> Vec<u8> {
        self.symbol(256);
        self.bits(0, 7);
        self.out
    }
}

/// A cluster, compressed as images of that compression type have it (`qcow2_co_compress`); `None` if that is no shorter. The bytes carry
/// the tag of the first of them.
pub(in crate::block::qcow2) fn compress(data: &Data, compression_type: u8) -> Option<Data> {
    let run = data.runs().next()?;
    if compression_type != 0 {
        return crate::block::qcow2::zstd::compress(&data.to_bytes()).map(|out| Data::bytes(out.into(), run.tag()));
    }
    let mut writer = Writer::start();
    match (data.as_runs().len(), run.fill()) {
        (1, Fill::Zero) => repeat(&mut writer, 0, data.len() as usize),
        (1, Fill::Byte(byte)) => repeat(&mut writer, *byte, data.len() as usize),
        _ => search(&mut writer, &data.to_bytes()),
    }
    let out = writer.finish();
    ((out.len() as u64) < data.len()).then(|| Data::bytes(out.into(), run.tag()))
}

fn repeat(writer: &mut Writer, byte: u8, len: usize) {
    let mut left = len - 1;
    writer.symbol(usize::from(byte));
    while left >= 3 {
        let n = left.min(MAX_MATCH);
        writer.copy(n, 1);
        left -= n;
    }
    for _ in 0..left {
        writer.symbol(usize::from(byte));
    }
}

/// Greedy: takes the last place where the next three bytes were seen.
fn search(writer: &mut Writer, input: &[u8]) {
    let mut seen = vec![usize::MAX; 1 << 12];
    let key = |at: usize| {
        let three = u32::from_be_bytes([0, input[at], input[at + 1], input[at + 2]]);
        (three.wrapping_mul(0x9e37_79b1) >> 20) as usize
    };
    let mut at = 0;
    while at < input.len() {
        let mut len = 0;
        let mut distance = 0;
        if at + 3 <= input.len() {
            let before = std::mem::replace(&mut seen[key(at)], at);
            if before < at && at - before <= WINDOW {
                distance = at - before;
                let most = MAX_MATCH.min(input.len() - at);
                len = (0..most).take_while(|&i| input[before + i] == input[at + i]).count();
            }
        }
        if len >= 3 {
            writer.copy(len, distance);
            at += len;
        } else {
            writer.symbol(usize::from(input[at]));
            at += 1;
        }
    }
}

/// Reads bits, least significant first.
struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn bit(&mut self) -> Option<usize> {
        let byte = *self.input.get(self.at / 8)?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Some(usize::from(bit))
    }

    fn bits(&mut self, n: u32) -> Option<usize> {
        (0..n).try_fold(0, |value, i| Some(value | self.bit()? << i))
    }

    fn symbol(&mut self, codes: &Codes) -> Option<usize> {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for &count in &codes.counts[1..] {
            code |= self.bit()?;
            if code < first + count {
                return Some(codes.symbols[index + code - first]);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

/// A canonical Huffman code: how many codes of each length, and the symbols in order of their codes.
struct Codes {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

impl Codes {
    fn new(lengths: &[usize]) -> Option<Codes> {
        let mut counts = [0; 16];
        for &len in lengths {
            counts[len] += 1;
        }
        counts[0] = 0;
        let mut free = 1usize;
        for &count in &counts[1..] {
            free = (free << 1).checked_sub(count)?;
        }
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|&symbol| lengths[symbol] > 0).collect();
        symbols.sort_by_key(|&symbol| (lengths[symbol], symbol));
        Some(Codes { counts, symbols })
    }
}

/// The lengths of the codes of a block with codes of its own.
fn read_codes(input: &mut Reader<'_>) -> Option<(Codes, Codes)> {
    let (literals, distances) = (input.bits(5)? + 257, input.bits(5)? + 1);
    let nb = input.bits(4)? + 4;
    let mut lengths = [0; 19];
    for &place in ORDER.iter().take(nb) {
        lengths[place] = input.bits(3)?;
    }
    let codes = Codes::new(&lengths)?;
    let mut lengths = Vec::with_capacity(320);
    while lengths.len() < literals + distances {
        let (len, times) = match input.symbol(&codes)? {
            16 => (*lengths.last()?, 3 + input.bits(2)?),
            17 => (0, 3 + input.bits(3)?),
            18 => (0, 11 + input.bits(7)?),
            len => (len, 1),
        };
        lengths.extend(std::iter::repeat_n(len, times));
    }
    let lengths = lengths.get(..literals + distances)?;
    Some((Codes::new(&lengths[..literals])?, Codes::new(&lengths[literals..])?))
}

fn fixed_codes() -> Option<(Codes, Codes)> {
    let mut lengths = [8; 288];
    lengths[144..256].fill(9);
    lengths[256..280].fill(7);
    Some((Codes::new(&lengths)?, Codes::new(&[5; 30])?))
}

/// The first `wanted` bytes of a stream; `None` if it is broken or ends before.
fn inflate(input: &[u8], wanted: usize) -> Option<Vec<u8>> {
    let mut input = Reader { input, at: 0 };
    let mut out = Vec::with_capacity(wanted);
    loop {
        let last = input.bit()? == 1;
        match input.bits(2)? {
            0 => {
                input.at = input.at.next_multiple_of(8);
                let len = input.bits(16)?;
                input.bits(16)?;
                let from = input.at / 8;
                out.extend(input.input.get(from..from + len)?);
                input.at += len * 8;
            }
            1 => inflate_block(&mut input, &fixed_codes()?, &mut out, wanted)?,
            2 => {
                let codes = read_codes(&mut input)?;
                inflate_block(&mut input, &codes, &mut out, wanted)?;
            }
            _ => return None,
        }
        if last || out.len() >= wanted {
            return (out.len() == wanted).then_some(out);
        }
    }
}

fn inflate_block(input: &mut Reader<'_>, codes: &(Codes, Codes), out: &mut Vec<u8>, wanted: usize) -> Option<()> {
    while out.len() < wanted {
        match input.symbol(&codes.0)? {
            256 => return Some(()),
            literal @ 0..256 => out.push(literal as u8),
            code => {
                let (extra, base) = *LENGTHS.get(code - 257)?;
                let len = base + input.bits(extra)?;
                let (extra, base) = *DISTANCES.get(input.symbol(&codes.1)?)?;
                let distance = base + input.bits(extra)?;
                let from = out.len().checked_sub(distance)?;
                for i in 0..len.min(wanted - out.len()) {
                    out.push(out[from + i]);
                }
            }
        }
    }
    Some(())
}

/// The contents of a compressed cluster (`qcow2_co_decompress`).
pub(in crate::block::qcow2) fn decompress(
    input: &Data,
    compression_type: u8,
    cluster_size: u64,
) -> Result<Data, Fault> {
    let tag = input.runs().next().map_or(WriteTag(0), |run| run.tag());
    let (input, len) = (input.to_bytes(), cluster_size as usize);
    let out =
        if compression_type == 0 { inflate(&input, len) } else { crate::block::qcow2::zstd::decompress(&input, len) };
    let out = out.ok_or(Errno::EIO)?;
    Ok(Data::bytes(out.into(), tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(data: &Data) {
        if let Some(small) = compress(data, 0) {
            let back = decompress(&small, 0, data.len()).expect("a sound stream");
            assert!(back.same_bytes(data));
        }
    }

    #[test]
    fn patterns_come_back() {
        for len in [512, 65_536, 2 << 20] {
            for byte in [0, 7, 200] {
                let data = Data::pattern(byte, len, WriteTag(3));
                assert_eq!(compress(&data, 0).map(|small| small.len() < len / 10), Some(true));
                round_trip(&data);
            }
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(parts in prop::collection::vec((any::<u8>(), 1..300usize, any::<bool>()), 1..40)) {
            let mut bytes = Vec::new();
            for (byte, len, varied) in parts {
                bytes.extend((0..len).map(|i| if varied { byte.wrapping_add((i * i) as u8) } else { byte }));
            }
            round_trip(&Data::bytes(bytes.into(), WriteTag(1)));
        }
    }
}
