//! Requests as the block layer knows them, and those that are tracked because others must wait for them (`block/io.c`).

use crate::base::errno::Errno;
use crate::base::units::{align_down, align_up};
use crate::block::content::Data;
use crate::choice::Subject;
use crate::trace::{Level, RecordKind, RequestPhase};
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::arena::{CoId, JobId, NodeId, lowest_free};
use crate::world::watch::feed::Seen;

/// `BDRV_REQ_*` flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IoFlags(u8);

impl IoFlags {
    /// No flag.
    pub const NONE: IoFlags = IoFlags(0);

    /// `BDRV_REQ_ZERO_WRITE`
    pub const ZERO_WRITE: IoFlags = IoFlags(1);

    /// `BDRV_REQ_MAY_UNMAP`
    pub const MAY_UNMAP: IoFlags = IoFlags(2);

    /// `BDRV_REQ_NO_FALLBACK`
    pub const NO_FALLBACK: IoFlags = IoFlags(4);

    /// `BDRV_REQ_FUA`
    pub const FUA: IoFlags = IoFlags(8);

    /// `BDRV_REQ_WRITE_COMPRESSED`
    pub const COMPRESSED: IoFlags = IoFlags(16);

    /// `BDRV_REQ_SERIALISING`
    pub const SERIALISING: IoFlags = IoFlags(32);

    /// `BDRV_REQ_COPY_ON_READ`
    pub const COPY_ON_READ: IoFlags = IoFlags(64);

    /// `BDRV_REQ_PREFETCH`: the reader does not want the data, only that it is copied.
    pub const PREFETCH: IoFlags = IoFlags(128);

    /// Whether all of these flags are set.
    #[must_use]
    pub const fn has(self, other: IoFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Without these flags.
    #[must_use]
    pub const fn without(self, other: IoFlags) -> IoFlags {
        IoFlags(self.0 & !other.0)
    }
}

impl std::ops::BitOr for IoFlags {
    type Output = IoFlags;
    fn bitor(self, other: IoFlags) -> IoFlags {
        IoFlags(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for IoFlags {
    fn bitor_assign(&mut self, other: IoFlags) {
        self.0 |= other.0;
    }
}

/// A write under way. For zero writes there is no payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WriteReq {
    /// The node written to.
    pub node: NodeId,
    /// Byte offset.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// What to write; `None` with [`IoFlags::ZERO_WRITE`].
    pub data: Option<Data>,
    /// `BDRV_REQ_*`
    pub flags: IoFlags,
    /// Its tracked request, once it has begun.
    pub tracked: u32,
    /// The original offset and length, where padding widened the request.
    pub unpadded: Option<(u64, u64)>,
}

/// `bdrv_co_pwritev`
#[must_use]
pub fn write(node: NodeId, offset: u64, data: Data, flags: IoFlags) -> Box<WriteReq> {
    let bytes = data.len();
    Box::new(WriteReq { node, offset, bytes, data: Some(data), flags, tracked: 0, unpadded: None })
}

/// `bdrv_co_pwrite_zeroes`
#[must_use]
pub fn write_zeroes(node: NodeId, offset: u64, bytes: u64, flags: IoFlags) -> Box<WriteReq> {
    let flags = flags | IoFlags::ZERO_WRITE;
    Box::new(WriteReq { node, offset, bytes, data: None, flags, tracked: 0, unpadded: None })
}

/// `BdrvTrackedRequest`: a request that is under way at a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrackedRequest {
    /// Distinguishes requests of one node; the lowest free number.
    pub id: u32,
    /// `read`, `write`, `discard`, `truncate`.
    pub op: &'static str,
    /// Byte range that must not overlap with a serialising one.
    pub overlap_offset: u64,
    /// In bytes.
    pub overlap_bytes: u64,
    /// Nobody may overlap with it.
    pub serialising: bool,
    /// The coroutine that carries it out.
    pub co: CoId,
    /// `waiting_for`: it waits for another one itself.
    pub waiting: bool,
    /// Coroutines that wait for its end, oldest first.
    pub wait_queue: Vec<CoId>,
}

impl TrackedRequest {
    /// Whether others must look at it: no request waits for another but next to such a one.
    fn is_apart(&self) -> bool {
        self.serialising || self.waiting
    }
}

impl World {
    /// `tracked_request_begin`
    pub(in crate::world) fn tracked_begin(&mut self, node: NodeId, op: &'static str, offset: u64, bytes: u64) -> u32 {
        let co = self.current();
        let n = &mut self.graph.nodes[node];
        n.in_flight += 1;
        let id = match n.tracked_ids.trailing_ones() {
            128 => lowest_free(n.tracked.iter().map(|t| t.id)),
            id => {
                n.tracked_ids |= 1 << id;
                id
            }
        };
        n.tracked.push_back(TrackedRequest {
            id,
            op,
            overlap_offset: offset,
            overlap_bytes: bytes,
            serialising: false,
            co,
            waiting: false,
            wait_queue: Vec::new(),
        });
        self.trace_tracked(node, id, RequestPhase::Submit);
        id
    }

    /// Notes the begin or the end of a request, but for files: there it is the request to the device that is noted.
    fn trace_tracked(&mut self, node: NodeId, id: u32, phase: RequestPhase) {
        if !self.trace.wants(Level::Io) {
            return;
        }
        let n = &self.graph.nodes[node];
        let Some(t) = n.tracked.iter().find(|t| t.id == id).filter(|_| !n.drv().row().traced_at_device) else {
            return;
        };
        let (op, offset, bytes) = (t.op, t.overlap_offset, t.overlap_bytes);
        let (node, who, id) = (n.node_name.clone(), format!("{:?}", t.co).into(), u64::from(id));
        self.trace.emit(Level::Io, self.now, || RecordKind::Request { id, node, op, offset, bytes, who, phase });
    }

    /// A read, write or discard begins; whoever changes a node's size drains it himself. Those of a job that is cancelled do not count:
    /// QEMU wakes it from its pause whoever else wants it to be quiet, and a backup that an error had stopped begins to copy again
    /// before it looks (`backup_loop`).
    pub(in crate::world) fn see_request(&mut self, node: NodeId) {
        let n = &self.graph.nodes[node];
        if self.feed.on && n.quiesce_counter > 0 && !self.works_for_cancelled() {
            let name = n.node_name.clone();
            self.feed.seen.push(Seen::RequestInDrain { node, name });
        }
    }

    /// Whether the running coroutine works for a job that is cancelled.
    fn works_for_cancelled(&self) -> bool {
        let task = self.cos[self.current()].task;
        let job = task.checked_sub(Subject::job(0)).and_then(|job| self.jobs.get(JobId(job)));
        job.is_some_and(|job| job.cancelled)
    }

    /// `tracked_request_end` and `bdrv_dec_in_flight`
    pub(in crate::world) fn tracked_end(&mut self, node: NodeId, id: u32, errno: Option<Errno>) {
        self.trace_tracked(node, id, RequestPhase::Complete(errno));
        let n = &mut self.graph.nodes[node];
        let i = n.tracked.iter().position(|t| t.id == id).expect("the request was tracked");
        let request = n.tracked.remove(i).expect("it was found there");
        n.tracked_ids &= !1u128.checked_shl(id).unwrap_or(0);
        n.tracked_apart -= u32::from(request.is_apart());
        for co in request.wait_queue {
            self.aio_co_wake(co);
        }
        self.node_dec_in_flight(node);
    }

    /// `bdrv_wait_serialising_requests`: yields if this request overlaps one that it must wait for.
    pub(in crate::world) fn wait_serialising(&mut self, node: NodeId, id: u32) -> Option<Wait> {
        let co = self.current();
        let n = &mut self.graph.nodes[node];
        if n.tracked_apart == 0 {
            return None;
        }
        let own = n.tracked.iter().find(|t| t.id == id).expect("the request is tracked").clone();
        let end = |t: &TrackedRequest| t.overlap_offset + t.overlap_bytes;
        let other = n.tracked.iter_mut().find(|t| {
            t.id != id
                && (t.serialising || own.serialising)
                && !t.waiting
                && t.overlap_offset < end(&own)
                && own.overlap_offset < end(t)
        })?;
        other.wait_queue.push(co);
        self.set_apart(node, id, |own| own.waiting = true);
        Some(Wait::Queue("an overlapping request"))
    }

    pub(in crate::world) fn make_serialising(&mut self, node: NodeId, id: u32, align: u64) {
        self.set_apart(node, id, |own| {
            let end = align_up(own.overlap_offset + own.overlap_bytes, align);
            own.serialising = true;
            own.overlap_offset = align_down(own.overlap_offset, align);
            own.overlap_bytes = end - own.overlap_offset;
        });
    }

    /// `bdrv_get_cluster_size`: how far a serialising request reaches.
    pub(in crate::world) fn serialising_align(&self, node: NodeId) -> u64 {
        self.cluster_size_of(node).unwrap_or(1).max(self.graph.nodes[node].bl.request_alignment)
    }

    pub(in crate::world) fn stop_waiting(&mut self, node: NodeId, id: u32) {
        if self.graph.nodes[node].tracked_apart > 0 {
            self.set_apart(node, id, |own| own.waiting = false);
        }
    }

    /// Changes whether a request is serialising or waits.
    fn set_apart(&mut self, node: NodeId, id: u32, change: impl FnOnce(&mut TrackedRequest)) {
        let n = &mut self.graph.nodes[node];
        let own = n.tracked.iter_mut().find(|t| t.id == id).expect("the request is tracked");
        let before = own.is_apart();
        change(own);
        n.tracked_apart = n.tracked_apart + u32::from(own.is_apart()) - u32::from(before);
    }
}
