//! Reading what a disk held when its copy-before-write filter was opened: `snapshot-access` above it
//! (`block/snapshot-access.c`, and the `*_snapshot` functions of `block/copy-before-write.c`).

use super::Driver;
use crate::base::errno::{Errno, Ret};
use crate::base::units::{align_down, align_up};
use crate::block::content::Data;
use crate::world::World;
use crate::world::aio::Wait;
use crate::world::arena::NodeId;
use crate::world::block::io::IoFlags;
use crate::world::frame::{Flow, Frame};
use crate::world::value::{BlockStatus, Val};

/// A read of the snapshot that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotRead {
    /// The filter.
    pub cbw: NodeId,
    /// What is left to read: first byte.
    pub offset: u64,
    /// Bytes left.
    pub bytes: u64,
    /// Bytes of the part that is being read.
    pub part: u64,
    /// The range that guest writes must not change meanwhile (`BlockReq`).
    pub frozen: Option<(u64, u64)>,
    /// What was read so far.
    pub data: Data,
}

/// Where a part of the snapshot is (`cbw_snapshot_read_lock`).
struct Place {
    node: NodeId,
    bytes: u64,
    frozen: Option<(u64, u64)>,
}

impl World {
    /// The copy-before-write filter that a `snapshot-access` node reads through.
    fn snapshot_source(&self, node: NodeId) -> Ret<NodeId> {
        let below = self.below(node);
        if matches!(self.graph.nodes[below].drv(), Driver::Cbw(_)) { Ok(below) } else { Err(Errno::ENOTSUP) }
    }

    /// `cbw_snapshot_read_lock`
    fn snapshot_lock(&mut self, cbw: NodeId, offset: u64, bytes: u64) -> Ret<Place> {
        let state = self.cbw(cbw);
        let (access, done, target) = (state.access_bitmap, state.done_bitmap, state.target);
        if state.snapshot_error.is_some() || self.bits(cbw, access).next_zero(offset, bytes).is_some() {
            return Err(Errno::EACCES);
        }
        let (copied, bytes_alike) = self.bits(cbw, done).status(offset, bytes);
        if copied {
            let node = self.graph.bs(target.expect("the filter was opened"));
            return Ok(Place { node, bytes: bytes_alike, frozen: None });
        }
        let node = self.below(cbw);
        self.cbw(cbw).frozen_reads.push((offset, bytes));
        Ok(Place { node, bytes: bytes_alike, frozen: Some((offset, bytes)) })
    }

    /// `cbw_snapshot_read_unlock`
    fn snapshot_unlock(&mut self, cbw: NodeId, frozen: Option<(u64, u64)>) {
        let state = self.cbw(cbw);
        if let Some(at) = frozen.and_then(|range| state.frozen_reads.iter().position(|read| *read == range)) {
            state.frozen_reads.remove(at);
            let waiting = std::mem::take(&mut state.frozen_waiters);
            self.wake_all(waiting);
        }
    }

    /// `reqlist_wait_all(&s->frozen_read_reqs)`: a guest write waits for the reads of what it will change. Leaves `Val::Ret`.
    pub(in crate::world) fn cbw_wait_frozen(&mut self, node: NodeId, from: u64, len: u64) -> Flow {
        let co = self.current();
        let state = self.cbw(node);
        if state.frozen_reads.iter().any(|(offset, bytes)| *offset < from + len && from < offset + bytes) {
            state.frozen_waiters.push(co);
            self.stack.push(Frame::CbwWaitFrozen { node, from, len });
            return Flow::Yield(Wait::Queue("reads of the snapshot"));
        }
        self.ret(Val::Ret(Ok(())))
    }

    /// `snapshot_access_co_preadv_part`. Leaves `Val::Data`.
    pub(super) fn snapshot_preadv(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        match self.snapshot_source(node) {
            Err(errno) => self.ret(Val::Data(Err(errno))),
            Ok(cbw) => {
                let read = SnapshotRead { cbw, offset, bytes, part: 0, frozen: None, data: Data::new() };
                self.snapshot_read(Box::new(read))
            }
        }
    }

    /// `cbw_co_preadv_snapshot`: the next part. Leaves `Val::Data`.
    fn snapshot_read(&mut self, mut read: Box<SnapshotRead>) -> Flow {
        if read.bytes == 0 {
            return self.ret(Val::Data(Ok(read.data)));
        }
        match self.snapshot_lock(read.cbw, read.offset, read.bytes) {
            Err(errno) => self.ret(Val::Data(Err(errno))),
            Ok(place) => {
                (read.part, read.frozen) = (place.bytes, place.frozen);
                let (node, offset, bytes, flags) = (place.node, read.offset, place.bytes, IoFlags::NONE);
                let part = Frame::Preadv { node, offset, bytes, flags };
                self.seq([part, Frame::SnapshotReadDone(read)])
            }
        }
    }

    /// A part was read.
    pub(in crate::world) fn snapshot_read_done(&mut self, mut read: Box<SnapshotRead>) -> Flow {
        self.snapshot_unlock(read.cbw, read.frozen.take());
        match self.take_data() {
            Err(errno) => self.ret(Val::Data(Err(errno))),
            Ok(data) => {
                read.data.append(&data);
                read.offset += read.part;
                read.bytes -= read.part;
                self.snapshot_read(read)
            }
        }
    }

    /// `snapshot_access_co_block_status`. Leaves `Val::Status`.
    pub(super) fn snapshot_status(&mut self, node: NodeId, offset: u64, bytes: u64, want_zero: bool) -> Flow {
        let locked = self.snapshot_source(node).and_then(|cbw| Ok((cbw, self.snapshot_lock(cbw, offset, bytes)?)));
        match locked {
            Err(errno) => self.ret(Val::Status(Err(errno))),
            Ok((cbw, place)) => self.seq([
                Frame::Status { node: place.node, offset, bytes: place.bytes, want_zero },
                Frame::SnapshotStatusDone { cbw, frozen: place.frozen },
            ]),
        }
    }

    /// The status of a part is known. Leaves `Val::Status`.
    pub(in crate::world) fn snapshot_status_done(&mut self, cbw: NodeId, frozen: Option<(u64, u64)>) -> Flow {
        self.snapshot_unlock(cbw, frozen);
        let Val::Status(status) = std::mem::take(&mut self.reg) else { unreachable!("a status query answers so") };
        // Where it lies in another node's file says nothing here.
        let status = status.map(|status| BlockStatus { map: None, eof: false, ..status });
        self.ret(Val::Status(status))
    }

    /// `snapshot_access_co_pdiscard`: whole clusters are no more needed. Leaves `Val::Ret`.
    pub(super) fn snapshot_pdiscard(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let cbw = match self.snapshot_source(node) {
            Ok(cbw) => cbw,
            Err(errno) => return self.ret(Val::err(errno)),
        };
        let state = self.cbw(cbw);
        let (cluster, access, target) = (state.bcs.cluster_size, state.access_bitmap, state.target);
        let (from, end) = (align_up(offset, cluster), align_down(offset + bytes, cluster));
        if end <= from {
            return self.ret(Val::Ret(Ok(())));
        }
        self.bits_mut(cbw, access).reset(from, end - from);
        self.block_copy_reset(cbw, from, end - from);
        let target = self.graph.bs(target.expect("the filter was opened"));
        self.seq([Frame::Pdiscard { node: target, offset: from, bytes: end - from }])
    }
}
