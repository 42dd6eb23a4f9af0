//! One run of bytes of one kind.

use super::Table;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Who wrote a range: an index into a table of writers that is kept elsewhere; 0 is nobody, or unknown.
/// No part of byte equality.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteTag(pub u32);

impl WriteTag {
    /// Nobody: a read that succeeded did not touch these bytes of its buffer. What stands in them is no matter of the disk.
    pub const UNTOUCHED: WriteTag = WriteTag(u32::MAX);
}

/// What the bytes of a [`Run`] are. `==` compares how they are held, not what they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Zeroes.
    Zero,
    /// One byte, repeated. Runs hold no `Byte(0)`: that is made `Zero`.
    Byte(u8),
    /// Bytes of a shared buffer, from `start` on.
    Bytes {
        /// The buffer; the run ends inside of it.
        data: Arc<[u8]>,
        /// Where in the buffer the run begins.
        start: usize,
    },
    /// Bytes of the rendering of a table.
    Table {
        /// The entries, shared with whoever else holds them.
        table: triomphe::Arc<Table>,
        /// Byte of the rendering at which the run begins.
        start: u64,
    },
}

/// `len` bytes of one kind, written by one writer. Equal if the writer, the kind and the bytes are.
#[derive(Clone)]
pub struct Run {
    pub(super) fill: Fill,
    pub(super) len: u64,
    pub(super) tag: WriteTag,
}

/// The longest part of a run, from some byte on, that can be looked at in one piece.
pub(super) enum Piece<'a> {
    Repeated(u8, u64),
    Slice(&'a [u8]),
    Entry([u8; 8], usize),
}

impl Run {
    /// What the bytes are.
    #[must_use]
    pub fn fill(&self) -> &Fill {
        &self.fill
    }

    /// Length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)]
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Who wrote it.
    #[must_use]
    pub fn tag(&self) -> WriteTag {
        self.tag
    }

    /// Whether all bytes are 0.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        match &self.fill {
            Fill::Zero => true,
            Fill::Byte(byte) => *byte == 0,
            Fill::Bytes { .. } => self.slice_of_bytes().iter().all(|&byte| byte == 0),
            // An entry that is not 0 may still be cut so that only its zero bytes are left.
            Fill::Table { table, start } => {
                let mut at = 0;
                while let Some((from, bytes, n)) = table.next_entry(start.saturating_add(at), self.len - at) {
                    if bytes[..n].iter().any(|&byte| byte != 0) {
                        return false;
                    }
                    at += from + n as u64;
                }
                true
            }
        }
    }

    /// The part of `len` bytes from byte `offset` on; both lie inside the run.
    pub(super) fn part(&self, offset: u64, len: u64) -> Run {
        assert!(offset + len <= self.len, "part {offset}+{len} of a run of {}", self.len);
        let fill = match &self.fill {
            Fill::Bytes { data, start } => Fill::Bytes { data: data.clone(), start: start + offset as usize },
            Fill::Table { table, start } => Fill::Table { table: table.clone(), start: start.saturating_add(offset) },
            plain => plain.clone(),
        };
        Run { fill, len, tag: self.tag }
    }

    /// Whether `next`, put right behind this run, only continues it.
    pub(super) fn continues(&self, next: &Run) -> bool {
        self.tag == next.tag && next.fill.is_at(&self.fill, self.len)
    }

    /// The piece that begins at byte `offset`, which lies inside the run.
    pub(super) fn piece(&self, offset: u64) -> Piece<'_> {
        let left = self.len - offset;
        match &self.fill {
            Fill::Zero => Piece::Repeated(0, left),
            Fill::Byte(byte) => Piece::Repeated(*byte, left),
            Fill::Bytes { .. } => Piece::Slice(&self.slice_of_bytes()[offset as usize..]),
            Fill::Table { table, start } => match table.next_entry(start.saturating_add(offset), left) {
                Some((0, bytes, n)) => Piece::Entry(bytes, n),
                Some((zeroes, ..)) => Piece::Repeated(0, zeroes),
                None => Piece::Repeated(0, left),
            },
        }
    }

    /// The bytes of a run of `Fill::Bytes`; empty for the others.
    fn slice_of_bytes(&self) -> &[u8] {
        match &self.fill {
            Fill::Bytes { data, start } => &data[*start..*start + self.len as usize],
            _ => &[],
        }
    }
}

impl Fill {
    /// Whether this is what `earlier` holds from its byte `offset` on, as far as sharing tells.
    pub(super) fn is_at(&self, earlier: &Fill, offset: u64) -> bool {
        match (earlier, self) {
            (Fill::Zero, Fill::Zero) => true,
            (Fill::Byte(a), Fill::Byte(b)) => a == b,
            (Fill::Bytes { data: a, start: from }, Fill::Bytes { data: b, start: to }) => {
                Arc::ptr_eq(a, b) && *from as u64 + offset == *to as u64
            }
            (Fill::Table { table: a, start: from }, Fill::Table { table: b, start: to }) => {
                triomphe::Arc::ptr_eq(a, b) && from.checked_add(offset) == Some(*to)
            }
            _ => false,
        }
    }
}

impl Piece<'_> {
    pub(super) fn len(&self) -> u64 {
        match self {
            Piece::Repeated(_, len) => *len,
            Piece::Slice(bytes) => bytes.len() as u64,
            Piece::Entry(_, len) => *len as u64,
        }
    }

    /// The bytes, or the one that repeats.
    pub(super) fn bytes(&self) -> Result<&[u8], u8> {
        match self {
            Piece::Repeated(byte, _) => Err(*byte),
            Piece::Slice(bytes) => Ok(bytes),
            Piece::Entry(bytes, len) => Ok(&bytes[..*len]),
        }
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Run) -> bool {
        if self.len != other.len || self.tag != other.tag {
            return false;
        }
        match (&self.fill, &other.fill) {
            (a, b) if b.is_at(a, 0) => true,
            (Fill::Bytes { .. }, Fill::Bytes { .. }) => self.slice_of_bytes() == other.slice_of_bytes(),
            (Fill::Table { table: a, start }, Fill::Table { table: b, start: other_start }) => {
                a.entry_bytes() == b.entry_bytes()
                    && start == other_start
                    && a.visible(*start, self.len).eq(b.visible(*start, self.len))
            }
            _ => false,
        }
    }
}

impl Eq for Run {}

impl Hash for Run {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.len.hash(state);
        self.tag.hash(state);
        match &self.fill {
            Fill::Zero => state.write_u8(0),
            Fill::Byte(byte) => {
                state.write_u8(1);
                state.write_u8(*byte);
            }
            Fill::Bytes { .. } => {
                state.write_u8(2);
                state.write(self.slice_of_bytes());
            }
            Fill::Table { table, start } => {
                state.write_u8(3);
                (table.entry_bytes(), start, table.digest(*start, self.len)).hash(state);
            }
        }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Run {
    /// What it is, how long, and by whom: `0xab (65536 bytes, writer 3)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes, writer {})", describe(&self.fill, self.len), self.len, self.tag.0)
    }
}

/// Bytes that [`describe`] shows of a buffer.
const SHOWN_BYTES: u64 = 8;
/// Entries that [`describe`] shows of a table.
const SHOWN_ENTRIES: usize = 3;

/// Says in a message what `len` bytes of `fill` are: `zero`, `0xab`, `bytes 01 02 ..`, `table [3]=0x10000 ..`.
#[must_use]
pub fn describe(fill: &Fill, len: u64) -> String {
    match fill {
        Fill::Zero => "zero".to_owned(),
        Fill::Byte(byte) => format!("{byte:#04x}"),
        Fill::Bytes { data, start } => {
            let shown = data.get(*start..).unwrap_or_default().iter().take(len.min(SHOWN_BYTES) as usize);
            let bytes: String = shown.map(|byte| format!(" {byte:02x}")).collect();
            format!("bytes{bytes}{}", if len > SHOWN_BYTES { " .." } else { "" })
        }
        Fill::Table { table, start } => {
            let mut entries = table.visible(*start, len);
            let shown: String =
                entries.by_ref().take(SHOWN_ENTRIES).map(|(index, value)| format!(" [{index}]={value:#x}")).collect();
            match shown.as_str() {
                "" => "empty table".to_owned(),
                _ => format!("table{shown}{}", if entries.next().is_some() { " .." } else { "" }),
            }
        }
    }
}
