//! Tests against a plain list of bytes.

use super::*;
use proptest::prelude::*;
use rustc_hash::FxHasher;
use std::hash::{Hash, Hasher};
use triomphe::Arc;

/// Bytes of the modelled file; long enough for contents of several leaves.
const SIZE: u64 = 1200;

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = FxHasher::default();
    value.hash(&mut hasher);
    hasher.finish()
}

fn table(width: u8, entries: &[(u32, u64)]) -> Arc<Table> {
    let mut table = Table::new(width);
    for &(index, value) in entries {
        table.set(index, value);
    }
    Arc::new(table)
}

/// Payloads of every kind, some cut from longer ones and some of several runs.
fn data() -> impl Strategy<Value = Data> {
    let tag = (0u32..3).prop_map(WriteTag);
    let entries = prop::collection::vec((0u32..12, prop_oneof![Just(0u64), any::<u64>(), 0u64..4]), 0..5);
    let single = prop_oneof![
        (0u64..60, tag.clone()).prop_map(|(len, tag)| Data::zeroes(len).with_tag(tag)),
        (0u8..3, 0u64..60, tag.clone()).prop_map(|(byte, len, tag)| Data::pattern(byte, len, tag)),
        (prop::collection::vec(0u8..3, 0..40), tag.clone()).prop_map(|(bytes, tag)| Data::bytes(bytes.into(), tag)),
        (prop::sample::select(vec![1u8, 2, 4, 8]), entries, 0u64..80, tag)
            .prop_map(|(width, entries, len, tag)| Data::table(table(width, &entries), len, tag)),
    ];
    let cut = (single, 0u64..20, 0u64..60).prop_map(|(data, offset, len)| data.slice(offset, len));
    prop::collection::vec(cut, 1..4).prop_map(|parts| Data::concat(&parts))
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Data),
    Punch(u64, u64),
    Truncate(u64),
    /// Keeps a clone, which must not change any more.
    Clone,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        24 => (0..SIZE - 180, data()).prop_map(|(offset, data)| Op::Write(offset, data)),
        // Lone bytes all over, for many extents.
        24 => (0..SIZE, 1u8..4).prop_map(|(offset, byte)| Op::Write(offset, Data::pattern(byte, 1, WriteTag(1)))),
        6 => (0..SIZE, 0u64..200).prop_map(|(offset, len)| Op::Punch(offset, len)),
        1 => (SIZE / 2..SIZE).prop_map(Op::Truncate),
        2 => Just(Op::Clone),
    ]
}

/// A byte of the model: hole, or value and writer.
type Cell = Option<(u8, u32)>;

fn cells(data: &Data) -> Vec<Cell> {
    let tags = data.runs().flat_map(|run| std::iter::repeat_n(run.tag().0, run.len() as usize));
    data.to_bytes().into_iter().zip(tags).map(Some).collect()
}

fn apply(content: &mut Content, model: &mut [Cell], op: &Op) {
    match op {
        Op::Write(offset, data) => {
            content.write(*offset, data);
            for (to, from) in model[*offset as usize..].iter_mut().zip(cells(data)) {
                *to = from;
            }
        }
        Op::Punch(offset, len) => {
            content.punch(*offset, *len);
            let end = (offset + len).min(SIZE);
            model[*offset as usize..end as usize].fill(None);
        }
        Op::Truncate(len) => {
            content.truncate(*len);
            model[*len as usize..].fill(None);
        }
        Op::Clone => {}
    }
}

/// Checks that `content` reads as `model` says, and that it is in order and merged.
fn check(content: &Content, model: &[Cell]) {
    let mut found: Vec<Cell> = vec![None; SIZE as usize];
    let mut before: Option<(u64, &Run)> = None;
    for (start, run) in content.extents() {
        assert!(run.len() > 0);
        if let Some((end, last)) = before {
            assert!(end <= start, "out of order at {start}");
            assert!(end < start || !last.continues(run), "not merged at {start}");
        }
        before = Some((start + run.len(), run));
        for at in start..start + run.len() {
            found[at as usize] = Some((0, run.tag().0));
        }
    }
    let all = content.read(0, SIZE);
    assert_eq!(all.len(), SIZE);
    for (cell, byte) in found.iter_mut().zip(all.to_bytes()) {
        match cell {
            Some((value, _)) => *value = byte,
            None => assert_eq!(byte, 0),
        }
    }
    assert_eq!(found, model);
    assert_eq!(content.allocated_bytes(), model.iter().flatten().count() as u64);
    assert_eq!(content.data_end(), model.iter().rposition(Option::is_some).map_or(0, |at| at as u64 + 1));
    assert_eq!(content.is_empty(), content.extents().next().is_none());
}

proptest! {
    #[test]
    fn content_is_what_was_written(ops in prop::collection::vec(op(), 0..160)) {
        let mut content = Content::new();
        let mut model: Vec<Cell> = vec![None; SIZE as usize];
        let mut kept = Vec::new();
        for op in &ops {
            apply(&mut content, &mut model, op);
            if matches!(op, Op::Clone) {
                kept.push((content.clone(), model.clone()));
            }
        }
        check(&content, &model);
        for (content, model) in &kept {
            check(content, model);
        }
    }

    #[test]
    fn any_range_reads_and_reports(
        ops in prop::collection::vec(op(), 0..60),
        ranges in prop::collection::vec((0..SIZE, 0..SIZE), 20),
    ) {
        let mut content = Content::new();
        let mut model: Vec<Cell> = vec![None; SIZE as usize];
        for op in &ops {
            apply(&mut content, &mut model, op);
        }
        for (offset, len) in ranges {
            let len = len.min(SIZE - offset);
            let there = &model[offset as usize..(offset + len) as usize];
            let expected: Vec<Cell> = there.iter().map(|cell| cell.or(Some((0, 0)))).collect();
            prop_assert_eq!(cells(&content.read(offset, len)), expected);
            prop_assert_eq!(content.is_hole(offset, len), there.iter().all(Option::is_none));
            let is_data = there.first().is_some_and(Option::is_some);
            let run = there.iter().take_while(|cell| cell.is_some() == is_data).count() as u64;
            prop_assert_eq!(content.status(offset, len), (is_data, run));
        }
    }

    #[test]
    fn order_of_disjoint_writes_does_not_matter(ops in prop::collection::vec(op(), 1..40), seed in any::<u64>()) {
        // The final state, put together byte for byte in another order out of slices of the same payloads.
        let mut content = Content::new();
        for op in &ops {
            if let Op::Write(offset, data) = op {
                content.write(*offset, data);
            }
        }
        let mut order: Vec<u64> = (0..SIZE).collect();
        order.sort_by_key(|at| (at + 1).wrapping_mul(seed | 1).rotate_left(17));
        let mut again = Content::new();
        for at in order {
            if !content.is_hole(at, 1) {
                again.write(at, &content.read(at, 1));
            }
        }
        prop_assert_eq!(&again, &content);
        prop_assert_eq!(hash_of(&again), hash_of(&content));
    }

    #[test]
    fn data_compares_by_bytes(a in data(), b in data()) {
        let (x, y) = (a.to_bytes(), b.to_bytes());
        prop_assert_eq!(x.len() as u64, a.len());
        prop_assert_eq!(a.same_bytes(&b), x == y);
        prop_assert_eq!(a.is_zero(), x.iter().all(|&byte| byte == 0));
        let flat = Data::bytes(x.clone().into(), WriteTag(9));
        prop_assert_eq!(a.first_difference(&flat), None);
        prop_assert_eq!(flat.first_difference(&a), None);
        if a == b {
            prop_assert_eq!(hash_of(&a), hash_of(&b));
            prop_assert!(a.same_bytes(&b));
        }
        let first = (0..x.len().max(y.len())).find(|&i| x.get(i) != y.get(i));
        match a.first_difference(&b) {
            None => prop_assert_eq!(first, None),
            Some(found) => {
                prop_assert_eq!(Some(found.offset as usize), first);
                prop_assert!(found.len > 0);
                for at in found.offset..found.offset + found.len {
                    prop_assert_ne!(a.byte_at(at), b.byte_at(at));
                }
                let side = |data: &Data| data.slice(found.offset, found.len).as_runs().first().cloned();
                prop_assert_eq!(&found.left, &side(&a));
                prop_assert_eq!(&found.right, &side(&b));
            }
        }
    }

    #[test]
    fn data_slices_and_reads(a in data(), b in data(), offset in 0u64..140, len in 0u64..140) {
        let mut joined = a.clone();
        joined.append(&b);
        let bytes = [a.to_bytes(), b.to_bytes()].concat();
        prop_assert_eq!(joined.to_bytes(), bytes.clone());
        let (from, to) = (bytes.len().min(offset as usize), bytes.len().min((offset + len) as usize));
        let slice = joined.slice(offset, len);
        prop_assert_eq!(slice.to_bytes(), bytes[from..to].to_vec());
        // Cut in two and put together it is what it was, also in how it is held.
        prop_assert_eq!(Data::concat([&joined.slice(0, offset), &joined.slice(offset, u64::MAX)]), joined.clone());
        prop_assert_eq!(joined.byte_at(offset), bytes.get(offset as usize).copied());
        let parts: Vec<(u64, Vec<u8>)> =
            joined.nonzero_parts(len + 1).map(|(number, part)| (number, part.to_bytes())).collect();
        let chunks = (0..).zip(bytes.chunks(len as usize + 1)).map(|(number, part)| (number, part.to_vec()));
        prop_assert_eq!(parts, chunks.filter(|(_, part)| part.iter().any(|&byte| byte != 0)).collect::<Vec<_>>());
        let mut eight = [0; 8];
        for (to, from) in eight.iter_mut().zip(bytes.get(offset as usize..).unwrap_or_default()) {
            *to = *from;
        }
        prop_assert_eq!(joined.be_at(offset, 8), u64::from_be_bytes(eight));
    }

    #[test]
    fn any_bytes_make_a_table(a in data(), width in prop::sample::select(vec![1u8, 2, 4, 8])) {
        let table = a.to_table(width);
        let bytes = a.to_bytes();
        prop_assert_eq!(table.render(0, bytes.len()), bytes.clone());
        for (i, chunk) in bytes.chunks(usize::from(width)).enumerate() {
            let value = chunk.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
            let cut = 8 * (usize::from(width) - chunk.len());
            prop_assert_eq!(table.get(i as u32), value << cut);
        }
        let written = Data::table(table, a.len().next_multiple_of(u64::from(width)), WriteTag(0));
        prop_assert!(written.slice(0, a.len()).same_bytes(&a));
    }
}

#[test]
fn sixteen_tebibytes_cost_nothing() {
    const SPAN: u64 = 16 << 40;
    let mut content = Content::new();
    content.write(0, &Data::zeroes(SPAN));
    content.write(SPAN / 2, &Data::pattern(0xab, SPAN / 2, WriteTag(1)));
    assert_eq!(content.extents().count(), 2);
    assert_eq!(content.status(5, u64::MAX), (true, SPAN - 5));
    let lower = Data::table(table(8, &[]), SPAN / 2, WriteTag(0));
    let expected = Data::concat([&lower, &Data::pattern(0xab, 1, WriteTag(0))]);
    assert!(content.read(0, SPAN / 2 + 1).same_bytes(&expected));
    let found = content.read(0, SPAN).first_difference(&Data::zeroes(SPAN)).expect("half of it differs");
    assert_eq!((found.offset, found.len), (SPAN / 2, SPAN / 2));
    assert_eq!(found.to_string(), format!("{0} bytes at {0}: 0xab by writer 1 against zero by writer 0", SPAN / 2));
    content.truncate(1);
    assert_eq!(content.allocated_bytes(), 1);
}

#[test]
fn the_ends_of_the_address_space_are_safe() {
    let mut content = Content::new();
    content.write(u64::MAX - 4, &Data::pattern(1, 10, WriteTag(1)));
    assert_eq!(content.data_end(), u64::MAX);
    assert_eq!(content.read(u64::MAX - 5, 10).to_bytes(), [0, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
    assert_eq!(content.status(u64::MAX, 3), (false, 3));
    content.punch(u64::MAX, u64::MAX);
    content.truncate(0);
    assert_eq!(content, Content::new());
    let mut long = Data::zeroes(u64::MAX);
    long.append(&Data::pattern(1, 1, WriteTag(0)));
    assert_eq!(long.len(), u64::MAX);
    assert_eq!(long.slice(u64::MAX - 1, 9).len(), 1);
    let odd = Data::table(table(0, &[(u32::MAX, 7)]), u64::MAX, WriteTag(0));
    assert_eq!(odd.byte_at(u64::from(u32::MAX)), Some(7));
    assert_eq!(odd.byte_at(u64::from(u32::MAX) + 1), Some(0));
}

#[test]
fn whole_tables_come_back_shared() {
    let l2 = table(8, &[(0, 0x5_0000), (8191, 1)]);
    let mut content = Content::new();
    content.write(0x4_0000, &Data::table(l2.clone(), 0x1_0000, WriteTag(0)));
    let back = content.read(0x4_0000, 0x1_0000);
    assert!(back.as_table(8).is_some_and(|table| Arc::ptr_eq(&table, &l2)));
    assert_eq!(back.as_table(4), None);
    assert_eq!(back.be_at(65528, 8), 1);
    assert_eq!(content.read(0x4_0000, 0x8000).as_table(8), None, "cut");
    // Written in parts, the parts merge again.
    let whole = Data::table(l2.clone(), 0x1_0000, WriteTag(0));
    content.write(0x4_1000, &Data::pattern(1, 0x1000, WriteTag(0)));
    assert_eq!(content.extents().count(), 3);
    content.write(0x4_1000, &whole.slice(0x1000, 0x1000));
    assert!(content.read(0x4_0000, 0x1_0000).as_table(8).is_some());
}

#[test]
fn tables_compare_by_entries() {
    let held = |entries: &[(u32, u64)], len| Data::table(table(8, entries), len, WriteTag(0));
    let (a, b) = (held(&[(1, 5), (9, 6)], 80), held(&[(1, 5), (9, 7)], 80));
    assert!(a.same_bytes(&held(&[(1, 5), (9, 6)], 80)));
    assert!(a.slice(3, 70).same_bytes(&b.slice(3, 70)), "they differ in the last byte only");
    let found = a.first_difference(&b).expect("they differ");
    assert_eq!((found.offset, found.len), (79, 1));
    let shifted = held(&[(0, 5), (8, 6)], 72);
    assert!(a.slice(8, 72).same_bytes(&shifted));
    // An entry put in explicitly as 0 is as good as none.
    let explicit = Data::table(table(8, &[(1, 5), (2, 0), (9, 6)]), 80, WriteTag(0));
    assert_eq!(explicit, a);
    assert_eq!(hash_of(&explicit), hash_of(&a));
}

#[test]
fn messages_say_what_is_there() {
    let says = |data: Data| {
        let run = &data.as_runs()[0];
        describe(run.fill(), run.len())
    };
    assert_eq!(says(Data::zeroes(7)), "zero");
    assert_eq!(says(Data::pattern(0xb, 7, WriteTag(0))), "0x0b");
    assert_eq!(says(Data::bytes(vec![1, 2].into(), WriteTag(0))), "bytes 01 02");
    assert_eq!(says(Data::bytes((1..20).collect(), WriteTag(0)).slice(1, 9)), "bytes 02 03 04 05 06 07 08 09 ..");
    assert_eq!(says(Data::table(table(8, &[]), 64, WriteTag(0))), "empty table");
    let entries = [(1, 1), (2, 2), (3, 3), (4, 0x10)];
    assert_eq!(says(Data::table(table(8, &entries), 64, WriteTag(0))), "table [1]=0x1 [2]=0x2 [3]=0x3 ..");
    assert_eq!(says(Data::table(table(8, &entries), 64, WriteTag(0)).slice(32, 8)), "table [4]=0x10");
}
