//! Guests read what was last written.

use super::Watch;
use crate::base::Kept;
use crate::block::content::{Content, Data, WriteTag};
use crate::host::Frozen;
use crate::invariant::{Broken, Invariant};
use crate::world::World;
use crate::world::arena::{CoId, NodeId};
use crate::world::block::backend::BlkRequest;
use crate::world::block::driver::Driver;
use crate::world::block::graph::Node;
use crate::world::watch::feed::Seen;

/// A node that guests use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Disk {
    node: NodeId,
    /// What it read as when the first request went there.
    first: Kept<Frozen>,
    /// What was written since.
    written: Content,
    /// Ranges of which nothing is known: of writes that failed or met others on the way, of discards.
    unsure: Vec<(u64, u64)>,
}

/// A request under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Request {
    co: CoId,
    node: NodeId,
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

/// [`Invariant::LastWrite`]
///
/// QEMU itself breaks it in one case, which is left out: when what stands around an unaligned write cannot be read, it goes on and
/// writes zeroes there (`bdrv_padding_rmw_read`). Nor is anything said of ranges whose last write failed, met others on the way, or
/// was a discard, and of what a backup with `discard-source` takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LastWrite {
    disks: Vec<Disk>,
    requests: Vec<Request>,
}

fn meet(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.1 && b.0 < a.1
}

impl LastWrite {
    fn begin(&mut self, co: CoId, node: NodeId, request: &BlkRequest) {
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
        for other in &mut self.requests {
            let both = other.write.is_some() || write.is_some();
            if both && other.node == node && meet((other.offset, other.end), (offset, end)) {
                other.met = true;
                met = true;
            }
        }
        self.requests.retain(|request| request.co != co);
        self.requests.push(Request { co, node, offset, end, write, met });
    }

    fn end(&mut self, co: CoId, ok: bool, data: Option<&Data>) -> Result<(), Broken> {
        let Some(at) = self.requests.iter().position(|request| request.co == co) else { return Ok(()) };
        let request = self.requests.remove(at);
        let Some(disk) = self.disks.iter_mut().find(|disk| disk.node == request.node) else { return Ok(()) };
        let range = (request.offset, request.end);
        match (request.write, data) {
            (Some(Write::Data(data)), _) if ok => {
                disk.written.write(request.offset, &data.with_tag(WriteTag(0)));
                if request.met { disk.unsure.push(range) } else { disk.sure(range) }
            }
            (Some(_), _) => disk.unsure.push(range),
            (None, Some(data)) if ok && !request.met => return disk.hold(range, data),
            (None, _) => {}
        }
        Ok(())
    }
}

impl Disk {
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

    /// Holds what was read against what was written.
    fn hold(&mut self, range: (u64, u64), read: &Data) -> Result<(), Broken> {
        let mut at = range.0;
        while at < range.1 {
            let inside = |part: &&(u64, u64)| part.0 <= at && at < part.1;
            if let Some(part) = self.unsure.iter().find(inside) {
                at = part.1;
                continue;
            }
            let next = self.unsure.iter().map(|part| part.0).filter(|start| *start > at).min();
            let end = next.unwrap_or(u64::MAX).min(range.1);
            let (ours, len) = self.written.status(at, end - at);
            let wanted = if ours { Ok(self.written.read(at, len)) } else { self.first.clone().take().read(at, len) };
            if let Ok(wanted) = wanted
                && let Some(differs) = read.slice(at - range.0, len).first_difference(&wanted)
            {
                let reason =
                    format!("a guest reads at byte {} what was not last written there: {differs}", at + differs.offset);
                return LastWrite::broken("a guest's read".into(), reason);
            }
            at += len.max(1);
        }
        Ok(())
    }
}

/// Whether a backup that is there discards what it has copied of that node, or of what its filters stand on.
fn discarded(node: NodeId, world: &World) -> bool {
    let mut below = Some(node);
    while let Some(bs) = below {
        let takes = |of: &Node| matches!(&of.driver, Some(Driver::Cbw(cbw)) if cbw.discard_source);
        if world.graph.nodes.iter().any(|(id, of)| takes(of) && (id == bs || world.graph.filter_bs(id) == Some(bs))) {
            return true;
        }
        below = world.graph.filter_bs(bs);
    }
    false
}

impl Watch for LastWrite {
    const INVARIANT: Invariant = Invariant::LastWrite;

    fn see(&mut self, seen: &Seen, world: &World) -> Result<(), Broken> {
        match seen {
            Seen::GuestBegin { co, node, request, content } => {
                if let Some(content) = content
                    && content.keeps_writes()
                    && !discarded(*node, world)
                {
                    let disk = Disk {
                        node: *node,
                        first: Kept::new((**content).clone()),
                        written: Content::new(),
                        unsure: Vec::new(),
                    };
                    self.disks.push(disk);
                }
                self.begin(*co, *node, request);
            }
            Seen::GuestEnd { co, ok, data } => return self.end(*co, *ok, data.as_ref()),
            Seen::PaddingLost => self.disks.clear(),
            Seen::Changed(node) => self.disks.retain(|disk| !world.stands_on(disk.node, *node)),
            Seen::BackupBegins(begins) => {
                let changed =
                    |disk: &Disk| disk.node == begins.target_node || begins.discards && disk.node == begins.source_node;
                self.disks.retain(|disk| !changed(disk));
            }
            _ => {}
        }
        Ok(())
    }
}
