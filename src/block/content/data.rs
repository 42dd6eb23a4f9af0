//! The payload of a request.

use super::fill::Piece;
use super::{Fill, Run, Table, WriteTag};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The payload of a request: consecutive runs, merged where one continues the other. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Data {
    len: u64,
    runs: Runs,
}

/// Most requests have one run, which then needs no allocation. `Many` has at least two.
#[derive(Clone, Default)]
enum Runs {
    #[default]
    Empty,
    One(Run),
    Many(triomphe::Arc<Vec<Run>>),
}

impl Data {
    /// No bytes.
    #[must_use]
    pub fn new() -> Data {
        Data::default()
    }

    /// `len` zeroes that nobody wrote.
    #[must_use]
    pub fn zeroes(len: u64) -> Data {
        Data::of(Fill::Zero, len, WriteTag(0))
    }

    /// Of a read that succeeds without reading: what its buffer held before, taken for zeroes where nobody knows.
    #[must_use]
    pub fn untouched(len: u64) -> Data {
        Data::of(Fill::Zero, len, WriteTag::UNTOUCHED)
    }

    /// The same, in a buffer that was full of `byte` before.
    #[must_use]
    pub fn over(&self, byte: u8) -> Data {
        let mut out = Data::default();
        for run in self.as_runs() {
            match run.tag == WriteTag::UNTOUCHED {
                true => out.append(&Data::pattern(byte, run.len, run.tag)),
                false => out.push(run.clone()),
            }
        }
        out
    }

    /// `byte`, `len` times.
    #[must_use]
    pub fn pattern(byte: u8, len: u64, tag: WriteTag) -> Data {
        let fill = match byte {
            0 => Fill::Zero,
            byte => Fill::Byte(byte),
        };
        Data::of(fill, len, tag)
    }

    /// The bytes of a buffer. One that repeats a single byte is held as a pattern.
    #[must_use]
    pub fn bytes(data: Arc<[u8]>, tag: WriteTag) -> Data {
        let len = data.len() as u64;
        match data.first() {
            Some(&first) if data.iter().all(|&byte| byte == first) => Data::pattern(first, len, tag),
            _ => Data::of(Fill::Bytes { data, start: 0 }, len, tag),
        }
    }

    /// The first `byte_len` bytes of the rendering of a table.
    #[must_use]
    pub fn table(table: triomphe::Arc<Table>, byte_len: u64, tag: WriteTag) -> Data {
        Data::of(Fill::Table { table, start: 0 }, byte_len, tag)
    }

    fn of(fill: Fill, len: u64, tag: WriteTag) -> Data {
        match len {
            0 => Data::default(),
            len => Data { len, runs: Runs::One(Run { fill, len, tag }) },
        }
    }

    /// One run by itself.
    #[must_use]
    pub fn from_run(run: &Run) -> Data {
        Data { len: run.len, runs: Runs::One(run.clone()) }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The runs, in order, without gaps; none is empty and none continues the one before.
    #[must_use]
    pub fn as_runs(&self) -> &[Run] {
        match &self.runs {
            Runs::Empty => &[],
            Runs::One(run) => std::slice::from_ref(run),
            Runs::Many(runs) => runs,
        }
    }

    /// The runs, in order; see [`Data::as_runs`].
    pub fn runs(&self) -> std::slice::Iter<'_, Run> {
        self.as_runs().iter()
    }

    /// The part of `len` bytes from byte `offset` on; what lies behind the end is left out.
    #[must_use]
    pub fn slice(&self, offset: u64, len: u64) -> Data {
        let end = offset.saturating_add(len).min(self.len);
        if offset == 0 && end == self.len {
            return self.clone();
        }
        let mut out = Data::default();
        let mut at = 0;
        for run in self.as_runs() {
            if at >= end {
                break;
            }
            let (from, to) = (at.max(offset), (at + run.len).min(end));
            if from < to {
                out.push(run.part(from - at, to - from));
            }
            at += run.len;
        }
        out
    }

    /// The parts of `size` bytes, counted from the start, in which a byte is not zero: their numbers, and what they hold. The last of all
    /// may be shorter. Costs what is not zero.
    pub fn nonzero_parts(&self, size: u64) -> impl Iterator<Item = (u64, Data)> + '_ {
        let runs = self.as_runs();
        // The run that comes next and where it begins; parts before `next` are done.
        let (mut run, mut run_at, mut next) = (0, 0, 0);
        std::iter::from_fn(move || {
            loop {
                let here = runs.get(run)?;
                let end = run_at + here.len;
                let at = run_at.max(next * size);
                if at >= end || here.is_zero() {
                    (run, run_at) = (run + 1, end);
                    continue;
                }
                let number = at / size;
                next = number + 1;
                let part = self.part_from(run, run_at, number * size, size);
                if !part.is_zero() {
                    return Some((number, part));
                }
            }
        })
    }

    /// [`Data::slice`] for a part that run `run`, which begins at `run_at`, has a share in.
    fn part_from(&self, run: usize, run_at: u64, offset: u64, len: u64) -> Data {
        let runs = self.as_runs();
        let end = offset.saturating_add(len).min(self.len);
        let (mut first, mut at) = (run, run_at);
        while at > offset {
            first -= 1;
            at -= runs[first].len;
        }
        let mut out = Data::default();
        for run in &runs[first..] {
            if at >= end {
                break;
            }
            let (from, to) = (at.max(offset), (at + run.len).min(end));
            if from < to {
                out.push(run.part(from - at, to - from));
            }
            at += run.len;
        }
        out
    }

    /// Puts `more` behind the end. Lengths are bounded by `u64::MAX`; what would lie behind is dropped.
    pub fn append(&mut self, more: &Data) {
        if self.is_empty() {
            self.clone_from(more);
            return;
        }
        for run in more.as_runs() {
            self.push(run.clone());
        }
    }

    /// `parts`, one behind the other.
    #[must_use]
    pub fn concat<'a>(parts: impl IntoIterator<Item = &'a Data>) -> Data {
        let mut out = Data::default();
        for part in parts {
            out.append(part);
        }
        out
    }

    /// Puts a run behind the end, merging it with the last where it continues that.
    pub(super) fn push(&mut self, mut run: Run) {
        run.len = run.len.min(u64::MAX - self.len);
        if run.len == 0 {
            return;
        }
        self.len += run.len;
        match &mut self.runs {
            Runs::Empty => self.runs = Runs::One(run),
            Runs::One(last) if last.continues(&run) => last.len += run.len,
            Runs::One(last) => self.runs = Runs::Many(triomphe::Arc::new(vec![last.clone(), run])),
            Runs::Many(runs) => {
                let runs = triomphe::Arc::make_mut(runs);
                match runs.last_mut() {
                    Some(last) if last.continues(&run) => last.len += run.len,
                    _ => runs.push(run),
                }
            }
        }
    }

    /// The same bytes, all written by `tag`.
    #[must_use]
    pub fn with_tag(&self, tag: WriteTag) -> Data {
        let mut out = Data::default();
        for run in self.as_runs() {
            out.push(Run { tag, ..run.clone() });
        }
        out
    }

    /// Whether all bytes are 0; so also of no bytes.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.runs().all(Run::is_zero)
    }

    /// The byte at `offset`, if there is one.
    #[must_use]
    pub fn byte_at(&self, offset: u64) -> Option<u8> {
        let mut byte = [0];
        (offset < self.len).then(|| {
            self.copy_to(offset, &mut byte);
            byte[0]
        })
    }

    /// The big-endian number of `width` bytes (at most 8) at `offset`; bytes behind the end count as 0.
    #[must_use]
    pub fn be_at(&self, offset: u64, width: u8) -> u64 {
        let mut bytes = [0; 8];
        self.copy_to(offset, &mut bytes[8 - usize::from(width.min(8))..]);
        u64::from_be_bytes(bytes)
    }

    /// Copies the bytes from `offset` on into `out`; where there are none behind the end, `out` keeps what it has.
    pub fn copy_to(&self, offset: u64, out: &mut [u8]) {
        let end = offset.saturating_add(out.len() as u64).min(self.len);
        let mut run_at = 0;
        for run in self.as_runs() {
            let run_end = run_at + run.len;
            let mut at = offset.max(run_at);
            while at < run_end.min(end) {
                let piece = run.piece(at - run_at);
                let n = piece.len().min(end - at) as usize;
                let to = (at - offset) as usize;
                match piece.bytes() {
                    Ok(bytes) => out[to..to + n].copy_from_slice(&bytes[..n]),
                    Err(byte) => out[to..to + n].fill(byte),
                }
                at += n as u64;
            }
            run_at = run_end;
            if run_at >= end {
                break;
            }
        }
    }

    /// All bytes, rendered. Takes [`Data::len`] bytes of memory: only for what is known to be short.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; usize::try_from(self.len).unwrap_or(usize::MAX)];
        self.copy_to(0, &mut out);
        out
    }

    /// The table that this is, shared, if it is one whole table of `width` bytes an entry, from its start to behind
    /// its last stored entry.
    #[must_use]
    pub fn as_table(&self, width: u8) -> Option<triomphe::Arc<Table>> {
        match &self.runs {
            Runs::One(Run { fill: Fill::Table { table, start: 0 }, len, .. })
                if table.width == width && table.ends_within(*len) =>
            {
                Some(table.clone())
            }
            _ => None,
        }
    }

    /// The bytes as a table of `width` bytes an entry, however they are held; shared where [`Data::as_table`] can.
    /// Costs what is not zero. A number cut by the end is filled up with zero bytes; indices end at `u32::MAX`.
    #[must_use]
    pub fn to_table(&self, width: u8) -> triomphe::Arc<Table> {
        if let Some(table) = self.as_table(width) {
            return table;
        }
        let mut table = Table::new(width);
        let bytes_each = table.entry_bytes();
        let mut run_at = 0;
        for run in self.as_runs() {
            let mut at = run_at;
            run_at += run.len;
            while at < run_at {
                let piece = run.piece(at - (run_at - run.len));
                let end = at + piece.len();
                if !matches!(piece.bytes(), Err(0)) {
                    // An entry that crosses pieces is read whole from both; doing that twice does no harm.
                    let indices = at / bytes_each..end.div_ceil(bytes_each);
                    for index in indices.map_while(|index| u32::try_from(index).ok()) {
                        table.set(index, self.entry_at(index, width, at, &piece));
                    }
                }
                at = end;
            }
        }
        triomphe::Arc::new(table)
    }

    /// Entry `index` of the bytes as a table, read from `piece`, which begins at byte `at`, where that holds it all.
    fn entry_at(&self, index: u32, width: u8, at: u64, piece: &Piece<'_>) -> u64 {
        let width = width.clamp(1, 8);
        let entry_at = u64::from(index) * u64::from(width);
        let inside = entry_at.checked_sub(at).filter(|from| from + u64::from(width) <= piece.len());
        let mut number = [0; 8];
        let low = &mut number[8 - usize::from(width)..];
        match (inside, piece.bytes()) {
            (Some(from), Ok(bytes)) => low.copy_from_slice(&bytes[from as usize..][..usize::from(width)]),
            (Some(_), Err(byte)) => low.fill(byte),
            (None, _) => self.copy_to(entry_at, low),
        }
        u64::from_be_bytes(number)
    }
}

impl PartialEq for Data {
    fn eq(&self, other: &Data) -> bool {
        self.len == other.len && self.as_runs() == other.as_runs()
    }
}

impl Eq for Data {}

impl Hash for Data {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_runs().hash(state);
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_runs()).finish()
    }
}
