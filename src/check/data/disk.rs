//! What a node reads as, by what guests write to it: for those who hold content against it.

use crate::base::Kept;
use crate::block::content::{Content, Data, WriteTag};
use crate::host::Frozen;
use crate::world::arena::{CoId, NodeId};
use crate::world::block::backend::BlkRequest;

/// Bytes that are compared in one go.
const STEP: u64 = 2 << 20;

/// A node that guests use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::check) struct Disk {
    /// What it read as at first.
    first: Kept<Frozen>,
    /// What was written since.
    written: Content,
    /// Ranges of which nothing is known: of writes that failed or met others on the way, of discards.
    unsure: Vec<(u64, u64)>,
}

/// A request under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::check) struct Request {
    co: CoId,
    /// The node it goes to.
    pub(in crate::check) node: NodeId,
    offset: u64,
    end: u64,
    /// What it writes; `None` for reads.
    write: Option<Write>,
    /// It met a write on the way.
    met: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Write {
    Data(Data),
    Discard,
}

/// Guests' requests under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::check) struct Requests {
    list: Vec<Request>,
}

fn meet(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.1 && b.0 < a.1
}

impl Request {
    /// Whether it changes something.
    pub(in crate::check) fn writes(&self) -> bool {
        self.write.is_some()
    }
}

impl Requests {
    /// One begins.
    pub(in crate::check) fn begin(&mut self, co: CoId, node: NodeId, request: &BlkRequest) {
        let (offset, len, write) = match request {
            BlkRequest::Read { offset, bytes } | BlkRequest::Prefetch { offset, bytes } => (*offset, *bytes, None),
            BlkRequest::Write { offset, data, bytes, .. } => {
                let data = data.clone().unwrap_or_else(|| Data::zeroes(*bytes));
                (*offset, *bytes, Some(Write::Data(data)))
            }
            BlkRequest::Discard { offset, bytes } => (*offset, *bytes, Some(Write::Discard)),
            BlkRequest::Flush | BlkRequest::Cache { .. } => return,
        };
        let end = offset.saturating_add(len);
        let mut met = false;
        for other in &mut self.list {
            let both = other.write.is_some() || write.is_some();
            if both && other.node == node && meet((other.offset, other.end), (offset, end)) {
                other.met = true;
                met = true;
            }
        }
        self.list.retain(|request| request.co != co);
        self.list.push(Request { co, node, offset, end, write, met });
    }

    /// One has ended.
    pub(in crate::check) fn end(&mut self, co: CoId) -> Option<Request> {
        let at = self.list.iter().position(|request| request.co == co)?;
        Some(self.list.remove(at))
    }

    /// Ranges of a node that are being written.
    pub(in crate::check) fn writing(&self, node: NodeId) -> impl Iterator<Item = (u64, u64)> {
        let writes = move |request: &&Request| request.node == node && request.writes();
        self.list.iter().filter(writes).map(|request| (request.offset, request.end))
    }
}

impl Disk {
    /// What a node reads as from now on.
    pub(in crate::check) fn new(first: Frozen) -> Disk {
        Disk { first: Kept::new(first), written: Content::new(), unsure: Vec::new() }
    }

    /// A request to it has ended, with data if it was a read.
    ///
    /// # Errors
    /// What was read is not what was written last.
    pub(in crate::check) fn ended(&mut self, request: Request, ok: bool, read: Option<&Data>) -> Result<(), String> {
        let range = (request.offset, request.end);
        match (request.write, read) {
            (Some(Write::Data(data)), _) if ok => {
                self.written.write(request.offset, &data.with_tag(WriteTag(0)));
                if request.met { self.unsure.push(range) } else { self.sure(range) }
            }
            (Some(_), _) => self.unsure.push(range),
            (None, Some(data)) if ok && !request.met => return self.hold(range, data),
            (None, _) => {}
        }
        Ok(())
    }

    /// All of a range is known again.
    fn sure(&mut self, range: (u64, u64)) {
        let mut left = Vec::new();
        for part in std::mem::take(&mut self.unsure) {
            if !meet(part, range) {
                left.push(part);
                continue;
            }
            left.extend([(part.0, range.0), (range.1, part.1)].into_iter().filter(|(start, end)| start < end));
        }
        self.unsure = left;
    }

    /// The next piece of a range of which something is known, and whether it was written since the beginning.
    fn piece(&self, at: u64, end: u64, skip: &[(u64, u64)]) -> Piece {
        let parts = || self.unsure.iter().chain(skip);
        if let Some(part) = parts().find(|part| part.0 <= at && at < part.1) {
            return Piece::Skip(part.1);
        }
        let next = parts().map(|part| part.0).filter(|start| *start > at).min();
        let (ours, len) = self.written.status(at, next.unwrap_or(u64::MAX).min(end) - at);
        if ours { Piece::Written(len) } else { Piece::First(len) }
    }

    /// Holds what was read against what was written.
    fn hold(&self, range: (u64, u64), read: &Data) -> Result<(), String> {
        let mut at = range.0;
        while at < range.1 {
            let (wanted, len) = match self.piece(at, range.1, &[]) {
                Piece::Skip(to) => {
                    at = to;
                    continue;
                }
                Piece::Written(len) => (Ok(self.written.read(at, len)), len),
                Piece::First(len) => (self.first.clone().take().read(at, len), len),
            };
            if let Ok(wanted) = wanted
                && let Some(differs) = read.slice(at - range.0, len).first_difference(&wanted)
            {
                let at = at + differs.offset;
                return Err(format!("a guest reads at byte {at} what was not last written there: {differs}"));
            }
            at += len.max(1);
        }
        Ok(())
    }

    /// Where something else reads differently, some ranges left out.
    pub(in crate::check) fn difference(&self, other: &Frozen, skip: &[(u64, u64)]) -> Option<String> {
        let (mut first, mut other) = ((*self.first).clone(), other.clone());
        let (mut at, end) = (0, first.size()?);
        if !first.keeps_writes() || !other.keeps_writes() {
            return None;
        }
        while at < end {
            let len = match self.piece(at, end, skip) {
                Piece::Skip(to) => {
                    at = to;
                    continue;
                }
                Piece::Written(len) => {
                    let len = len.min(STEP);
                    let read = other.read(at, len).ok();
                    let wanted = self.written.read(at, len);
                    if let Some(differs) = read.and_then(|read| read.first_difference(&wanted)) {
                        return Some(format!("byte {}: {differs}", at + differs.offset));
                    }
                    len
                }
                Piece::First(len) => {
                    if let Some(differs) = other.difference(&mut first, at, len) {
                        return Some(format!("byte {}: {}", differs.offset, differs.detail));
                    }
                    len
                }
            };
            at += len.max(1);
        }
        None
    }
}

/// A piece of a disk.
enum Piece {
    /// Nothing is known up to there.
    Skip(u64),
    /// So much was written.
    Written(u64),
    /// So much is as it was at first.
    First(u64),
}
