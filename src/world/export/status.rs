//! Block status for NBD clients: allocation, depth, dirty bitmaps (`nbd/server.c:nbd_co_send_block_status`, `nbd_co_send_bitmap`).

use super::ExportFrame;
use super::trip::{Trip, TripFrame};
use crate::base::errno::{Errno, Ret};
use crate::nbd::{Extents, chunk_error, chunk_status, cmd_flag, meta};
use crate::world::World;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::status::StatusFrame as IoStatusFrame;
use crate::world::block::io::status::StatusReq;
use crate::world::frame::{Flow, Frame};
use crate::world::value::BlockStatus;

/// `NBD_STATE_HOLE`
const HOLE: u32 = 1;
/// `NBD_STATE_ZERO`
const ZERO: u32 = 2;
/// `NBD_STATE_DIRTY`
const DIRTY: u32 = 1;

/// A request for block status that is being answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asking {
    trip: Box<Trip>,
    /// Contexts to tell of, the next one last.
    contexts: Vec<u32>,
    /// The one that is looked at.
    context: u32,
    /// What was found.
    extents: Extents,
    /// Bytes that were looked at.
    done: u64,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum StatusFrame {
    /// `nbd_handle_request`: block status of one negotiated context after the other.
    StatusNext(Box<Asking>),
    /// One status came.
    StatusCame(Box<Asking>),
}

impl From<StatusFrame> for Frame {
    fn from(frame: StatusFrame) -> Frame {
        Frame::Export(ExportFrame::Status(frame))
    }
}

impl StatusFrame {
    /// Runs the frame.
    #[inline(always)]
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            StatusFrame::StatusNext(asking) => w.nbd_status_next(asking),
            StatusFrame::StatusCame(asking) => w.nbd_status_came(asking),
        }
    }
}

impl World {
    /// `nbd_handle_request` of `NBD_CMD_BLOCK_STATUS`
    pub(super) fn nbd_do_block_status(&mut self, trip: Box<Trip>) -> Flow {
        let client = &self.exports.clients[trip.conn];
        let negotiated = &client.handshake.contexts;
        let wanted = trip.contexts.as_ref().unwrap_or(negotiated);
        if wanted.count == 0 || trip.unselected {
            let text = match negotiated.count {
                0 => "CMD_BLOCK_STATUS not negotiated",
                _ => "CMD_BLOCK_STATUS payload not valid",
            };
            return self.nbd_send_generic_reply(trip, Err(Errno::EINVAL), text);
        }
        if trip.request.len == 0 {
            return self.nbd_send_generic_reply(trip, Err(Errno::EINVAL), "need non-zero length");
        }
        let mut contexts = Vec::new();
        if wanted.base_allocation {
            contexts.push(meta::BASE_ALLOCATION);
        }
        if wanted.allocation_depth {
            contexts.push(meta::ALLOCATION_DEPTH);
        }
        contexts.extend((meta::DIRTY_BITMAP..).zip(&wanted.bitmaps).filter(|(_, on)| **on).map(|(id, _)| id));
        contexts.reverse();
        let extents = Extents::new(true, client.mode());
        self.leave(crate::world::value::Val::None);
        self.nbd_status_next(Box::new(Asking { trip, contexts, context: 0, extents, done: 0 }))
    }

    /// The next context; the reply about the one before was sent.
    fn nbd_status_next(&mut self, mut asking: Box<Asking>) -> Flow {
        if self.peek().is_err() {
            return self.seq([TripFrame::Replied(asking.trip).into()]);
        }
        let Some(context) = asking.contexts.pop() else {
            return self.seq([TripFrame::Replied(asking.trip).into()]);
        };
        let one = asking.trip.request.flags & cmd_flag::REQ_ONE != 0;
        let mode = self.exports.clients[asking.trip.conn].mode();
        (asking.context, asking.done) = (context, 0);
        asking.extents = Extents::new(one, mode);
        match context {
            meta::BASE_ALLOCATION | meta::ALLOCATION_DEPTH => self.nbd_status_ask(asking),
            bitmap => {
                self.bitmap_to_extents(&mut asking, (bitmap - meta::DIRTY_BITMAP) as usize);
                self.nbd_co_send_extents(asking)
            }
        }
    }

    /// `blockstatus_to_extents`, `blockalloc_to_extents`
    fn nbd_status_ask(&mut self, asking: Box<Asking>) -> Flow {
        let request = asking.trip.request;
        if asking.done == request.len || asking.extents.full() {
            return self.nbd_co_send_extents(asking);
        }
        let Some(bs) = self.graph.blk_bs(self.backend_of(asking.trip.conn)) else {
            return self.nbd_no_status(asking, Errno::ENOMEDIUM);
        };
        let (offset, bytes) = (request.from + asking.done, request.len - asking.done);
        let precise = asking.context == meta::BASE_ALLOCATION;
        self.seq([
            GraphLockFrame::Rdlock.into(),
            IoStatusFrame::StatusAbove(StatusReq::new(bs, None, offset, bytes, precise)).into(),
            GraphLockFrame::Rdunlock.into(),
            StatusFrame::StatusCame(asking).into(),
        ])
    }

    fn nbd_status_came(&mut self, mut asking: Box<Asking>) -> Flow {
        let status: Ret<BlockStatus> = self.take();
        let status = match status {
            Ok(status) => status,
            Err(errno) => return self.nbd_no_status(asking, errno),
        };
        let flags = match asking.context {
            meta::BASE_ALLOCATION => (if status.data { 0 } else { HOLE }) | (if status.zero { ZERO } else { 0 }),
            _ if status.allocated => status.depth,
            _ => 0,
        };
        asking.extents.add(status.pnum, flags);
        asking.done += status.pnum;
        if status.pnum == 0 {
            // Nothing is told of what lies beyond the end of the node.
            asking.done = asking.trip.request.len;
        }
        self.nbd_status_ask(asking)
    }

    /// An error about one context; the next one is told of all the same.
    fn nbd_no_status(&mut self, asking: Box<Asking>, errno: Errno) -> Flow {
        let mode = self.exports.clients[asking.trip.conn].mode();
        let bytes = chunk_error(mode, &asking.trip.request, errno, "can't get block status");
        let conn = asking.trip.conn;
        self.seq([TripFrame::Send(conn, bytes.into()).into(), StatusFrame::StatusNext(asking).into()])
    }

    /// `nbd_co_send_extents`
    fn nbd_co_send_extents(&mut self, asking: Box<Asking>) -> Flow {
        let conn = asking.trip.conn;
        let mode = self.exports.clients[conn].mode();
        let last = asking.contexts.is_empty();
        let bytes = chunk_status(mode, &asking.trip.request, asking.context, &asking.extents, last);
        self.seq([TripFrame::Send(conn, bytes.into()).into(), StatusFrame::StatusNext(asking).into()])
    }

    /// `bitmap_to_extents`
    fn bitmap_to_extents(&self, asking: &mut Asking, number: usize) {
        let export = self.exports.clients[asking.trip.conn].export.expect("it has negotiated");
        let Some(bitmap) = self.exports.exports[export].bitmaps.get(number) else { return };
        let bits = self.bits(bitmap.node, bitmap.id);
        let request = asking.trip.request;
        let end = request.from + request.len;
        let bound =
            if asking.extents.extended() { i64::MAX.unsigned_abs() } else { u64::from(i32::MAX.unsigned_abs()) };
        let mut start = request.from;
        while let Some((dirty, count)) = bits.next_dirty_area(start, end, bound) {
            if !asking.extents.add(dirty - start, 0) || !asking.extents.add(count, DIRTY) {
                return;
            }
            start = dirty + count;
        }
        asking.extents.add(end - start, 0);
    }
}
