//! Requests at devices: what is in flight below the lowest nodes.

use super::coroutine::Wait;
use crate::base::time::{Instant, Rebase, Shift, timeless};
use crate::block::content::Data;
use crate::trace::{LaterWork, Level, RecordKind, RequestPhase};
use crate::world::World;
use crate::world::arena::{CoId, NodeId, ReqId};
use crate::world::frame::Flow;
use crate::world::value::Val;
use std::sync::Arc;

/// What a device does for a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DeviceOp {
    /// `pread`
    Read,
    /// `pwrite`
    Write(Data),
    /// `copy_file_range`
    Copy {
        /// The file to copy from.
        from: Arc<str>,
        /// Byte offset there.
        at: u64,
    },
    /// `fallocate(FALLOC_FL_ZERO_RANGE)`, or with `unmap` `FALLOC_FL_PUNCH_HOLE`
    Zero {
        /// Whether the range may become a hole.
        unmap: bool,
    },
    /// `fallocate(FALLOC_FL_PUNCH_HOLE)`
    Discard,
    /// `fdatasync`
    Flush,
    /// `ftruncate`
    Truncate,
    /// A null device that only takes its time.
    Nothing,
}

/// A request in flight below the lowest node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceRequest {
    /// Its number, the lowest free one.
    pub id: ReqId,
    /// The protocol node that sent it.
    pub node: NodeId,
    /// What is to be done.
    pub op: DeviceOp,
    /// Byte offset in the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// When it was sent.
    pub sent: Instant,
    /// When it will be done; chosen at the first look after it was sent.
    pub due: Option<Instant>,
    /// The coroutine that waits for it.
    pub co: CoId,
    /// What came of it, if a worker thread has done it already and nobody has noticed yet.
    pub worked: Option<Box<Val>>,
    /// Timers that went off meanwhile, where orders are open.
    pub passed: u32,
}

/// Where orders are open, nobody asks when a request was sent, and none is due: all are as if sent just now.
impl Rebase for DeviceRequest {
    fn has_instants(&self) -> bool {
        true
    }

    fn rebase(&mut self, shift: Shift) {
        let DeviceRequest { id, node, op, offset, bytes, sent, due: _, co, worked, passed } = self;
        timeless(&(id, node, op, offset, bytes, co, worked));
        *sent = shift.to;
        *passed = 0;
    }
}

impl World {
    /// Sends a request to the device below a protocol node; the running coroutine then yields with the wait returned.
    pub(in crate::world) fn device_submit(&mut self, node: NodeId, op: DeviceOp, offset: u64, bytes: u64) -> Flow {
        let id = ReqId(crate::world::arena::lowest_free(self.aio.in_flight.iter().map(|r| r.id.0)));
        let co = self.current();
        let request =
            DeviceRequest { id, node, op, offset, bytes, sent: self.now, due: None, co, worked: None, passed: 0 };
        if self.trace.wants(Level::Io) {
            self.trace_device(&request, RequestPhase::Submit);
            self.trace.keep_cause(LaterWork::Device(id.0));
        }
        self.aio.in_flight.push(request);
        Flow::Yield(Wait::Device(id))
    }

    /// Notes a request to a file, where it begins and where it ends.
    pub(in crate::world) fn trace_device(&mut self, request: &DeviceRequest, phase: RequestPhase) {
        let Some(node) = self
            .graph
            .nodes
            .get(request.node)
            .filter(|node| node.driver.as_ref().is_some_and(|driver| driver.row().traced_at_device))
        else {
            return;
        };
        let node = node.node_name.clone();
        let op = match request.op {
            DeviceOp::Read => "read",
            DeviceOp::Write(_) => "write",
            DeviceOp::Copy { .. } => "copy-range",
            DeviceOp::Zero { .. } => "write-zeroes",
            DeviceOp::Discard => "discard",
            DeviceOp::Flush => "flush",
            DeviceOp::Truncate | DeviceOp::Nothing => "truncate",
        };
        let (id, offset, bytes) = (u64::from(request.id.0), request.offset, request.bytes);
        let who: Arc<str> = format!("{:?}", request.co).into();
        let kind = || RecordKind::Request { id, node, op, offset, bytes, who, phase };
        self.trace.emit(Level::Io, self.now, kind);
    }
}
