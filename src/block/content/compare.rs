//! Comparing bytes across representations.

use super::{Data, Fill, Run};
use std::fmt;

/// Where two payloads first differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Difference {
    /// First byte that differs, counted from the start of both.
    pub offset: u64,
    /// Bytes from there on that all differ, as far as the runs of both sides reach.
    pub len: u64,
    /// What the left side holds there; `None` behind its end.
    pub left: Option<Run>,
    /// What the right side holds there; `None` behind its end.
    pub right: Option<Run>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |run: &Option<Run>| match run {
            Some(run) if run.tag == super::WriteTag::UNTOUCHED => "what a buffer held before".to_owned(),
            Some(run) => format!("{} by writer {}", super::describe(&run.fill, run.len), run.tag.0),
            None => "the end".to_owned(),
        };
        write!(f, "{} bytes at {}: {} against {}", self.len, self.offset, side(&self.left), side(&self.right))
    }
}

/// A position in a list of runs.
struct Walk<'a> {
    runs: &'a [Run],
    /// Bytes of the first of `runs` that are behind us.
    done: u64,
}

impl<'a> Walk<'a> {
    fn run(&self) -> Option<&'a Run> {
        self.runs.first()
    }

    /// Goes on by `n` bytes, which lie inside the run.
    fn advance(&mut self, n: u64) {
        self.done += n;
        if self.runs.first().is_some_and(|run| self.done >= run.len) {
            self.runs = &self.runs[1..];
            self.done = 0;
        }
    }
}

impl Data {
    /// Whether both hold the same bytes, however they are held and whoever wrote them.
    #[must_use]
    pub fn same_bytes(&self, other: &Data) -> bool {
        self.len() == other.len() && self.first_difference(other).is_none()
    }

    /// Where both first differ in bytes or, if one only goes on longer, in length. Costs what the runs hold and not
    /// what they span.
    #[must_use]
    pub fn first_difference(&self, other: &Data) -> Option<Difference> {
        let mut left = Walk { runs: self.as_runs(), done: 0 };
        let mut right = Walk { runs: other.as_runs(), done: 0 };
        let mut offset = 0;
        while let (Some(a), Some(b)) = (left.run(), right.run()) {
            let (a_left, b_left) = (a.len - left.done, b.len - right.done);
            let both = a_left.min(b_left);
            if let Some((from, len)) = difference_in(a, left.done, b, right.done, both) {
                return Some(Difference {
                    offset: offset + from,
                    len,
                    left: Some(a.part(left.done + from, len)),
                    right: Some(b.part(right.done + from, len)),
                });
            }
            left.advance(both);
            right.advance(both);
            offset += both;
        }
        let rest = |walk: &Walk<'_>| walk.run().map(|run| run.part(walk.done, run.len - walk.done));
        let (left, right) = (rest(&left), rest(&right));
        let len = left.as_ref().or(right.as_ref())?.len;
        Some(Difference { offset, len, left, right })
    }
}

/// Where `len` bytes of run `a` from byte `a_at` and of `b` from byte `b_at` first differ, and for how long.
fn difference_in(a: &Run, a_at: u64, b: &Run, b_at: u64, len: u64) -> Option<(u64, u64)> {
    let shared = if a_at >= b_at { b.fill.is_at(&a.fill, a_at - b_at) } else { a.fill.is_at(&b.fill, b_at - a_at) };
    if shared || same_entries(a, a_at, b, b_at, len) {
        return None;
    }
    let mut found: Option<(u64, u64)> = None;
    let mut at = 0;
    while at < len {
        let (a_piece, b_piece) = (a.piece(a_at + at), b.piece(b_at + at));
        let n = a_piece.len().min(b_piece.len()).min(len - at);
        let in_piece = match (a_piece.bytes(), b_piece.bytes()) {
            (Err(x), Err(y)) => (x != y).then_some((0, n)),
            (Ok(bytes), Err(byte)) | (Err(byte), Ok(bytes)) => span(&bytes[..n as usize], |_| byte),
            (Ok(x), Ok(y)) if x[..n as usize] == y[..n as usize] => None,
            (Ok(x), Ok(y)) => span(&x[..n as usize], |i| y[i]),
        };
        found = match (found, in_piece) {
            (None, Some((from, differing))) => Some((at + from, differing)),
            (Some((start, so_far)), Some((0, differing))) => Some((start, so_far + differing)),
            (found, _) => found,
        };
        at += n;
        if found.is_some_and(|(start, differing)| start + differing < at) {
            break;
        }
    }
    found
}

/// Whether both are the same part of two tables with equal entries: spares full tables the search for each entry.
fn same_entries(a: &Run, a_at: u64, b: &Run, b_at: u64, len: u64) -> bool {
    let (Fill::Table { table: a, start: a_start }, Fill::Table { table: b, start: b_start }) = (&a.fill, &b.fill)
    else {
        return false;
    };
    let (a_start, b_start) = (a_start.saturating_add(a_at), b_start.saturating_add(b_at));
    a_start == b_start && a.entry_bytes() == b.entry_bytes() && a.visible(a_start, len).eq(b.visible(b_start, len))
}

/// The first stretch of bytes that are not what `other` says for their index: where, and how long.
fn span(bytes: &[u8], other: impl Fn(usize) -> u8) -> Option<(u64, u64)> {
    let from = (0..bytes.len()).find(|&i| bytes[i] != other(i))?;
    let to = (from..bytes.len()).find(|&i| bytes[i] == other(i)).unwrap_or(bytes.len());
    Some((from as u64, (to - from) as u64))
}
