//! Reads of NBD clients (`nbd/server.c:nbd_do_cmd_read`, `nbd_co_send_sparse_read`).

use super::trip::{Trip, TripFrame};
use crate::base::errno::{Errno, Ret};
use crate::nbd::{NbdMode, chunk_done, chunk_hole, chunk_read, cmd_flag, simple};
use crate::world::World;
use crate::world::block::backend::{BackendFrame, BlkRequest};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::status::{StatusFrame, StatusReq};
use crate::world::frame::{Flow, Frame};
use crate::world::value::BlockStatus;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ReadFrame {
    /// After the flush of a read with FUA.
    ReadFlushed(Box<Trip>),
    /// All was read at once.
    ReadWhole(Box<Trip>),
    /// `nbd_co_send_sparse_read`, behind so many bytes.
    SparseStatus(Box<Trip>, u64),
    SparseRead {
        trip: Box<Trip>,
        progress: u64,
        pnum: u64,
    },
    SparseSent(Box<Trip>, u64),
}

impl From<ReadFrame> for Frame {
    fn from(frame: ReadFrame) -> Frame {
        TripFrame::Read(frame).into()
    }
}

impl ReadFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ReadFrame::ReadFlushed(trip) => match w.take_ret() {
                Ok(()) => w.nbd_read(trip),
                Err(errno) => w.nbd_send_generic_reply(trip, Err(errno), "flush failed"),
            },
            ReadFrame::ReadWhole(trip) => w.nbd_read_whole(trip),
            ReadFrame::SparseStatus(trip, progress) => w.nbd_sparse_status(trip, progress),
            ReadFrame::SparseRead { trip, progress, pnum } => w.nbd_sparse_read(trip, progress, pnum),
            ReadFrame::SparseSent(trip, progress) => w.nbd_sparse_sent(trip, progress),
        }
    }
}

impl World {
    /// `nbd_do_cmd_read`
    pub(super) fn nbd_do_cmd_read(&mut self, trip: Box<Trip>) -> Flow {
        if trip.request.flags & cmd_flag::FUA == 0 {
            return self.nbd_read(trip);
        }
        let flush = BackendFrame::BlkCo { blk: self.backend_of(trip.conn), request: Box::new(BlkRequest::Flush) };
        self.seq([flush.into(), ReadFrame::ReadFlushed(trip).into()])
    }

    /// `nbd_do_cmd_read`, after the flush.
    fn nbd_read(&mut self, trip: Box<Trip>) -> Flow {
        let request = trip.request;
        let mode = self.exports.clients[trip.conn].mode();
        if mode >= NbdMode::Structured && request.flags & cmd_flag::DF == 0 && request.len > 0 {
            return self.nbd_sparse_next(trip, 0);
        }
        let read = Box::new(BlkRequest::Read { offset: request.from, bytes: request.len });
        let blk = self.backend_of(trip.conn);
        self.seq([BackendFrame::BlkCo { blk, request: read }.into(), ReadFrame::ReadWhole(trip).into()])
    }

    /// The answer to a read that is not split.
    fn nbd_read_whole(&mut self, trip: Box<Trip>) -> Flow {
        let data = match self.take_data() {
            Ok(data) => data.to_bytes(),
            Err(errno) => return self.nbd_send_generic_reply(trip, Err(errno), "reading from file failed"),
        };
        let request = &trip.request;
        let mode = self.exports.clients[trip.conn].mode();
        let bytes = match mode {
            NbdMode::ExportName | NbdMode::Simple => [simple(request, None), data].concat(),
            _ if request.len == 0 => chunk_done(mode, request),
            _ => chunk_read(mode, request, request.from, &data, true),
        };
        self.nbd_send_last(trip, bytes)
    }

    /// `nbd_co_send_sparse_read`: what stands at the next byte?
    fn nbd_sparse_next(&mut self, trip: Box<Trip>, progress: u64) -> Flow {
        let Some(bs) = self.graph.blk_bs(self.backend_of(trip.conn)) else {
            return self.nbd_no_holes(trip, Errno::ENOMEDIUM);
        };
        let (offset, bytes) = (trip.request.from + progress, trip.request.len - progress);
        self.seq([
            GraphLockFrame::Rdlock.into(),
            StatusFrame::StatusAbove(StatusReq::new(bs, None, offset, bytes, true)).into(),
            GraphLockFrame::Rdunlock.into(),
            ReadFrame::SparseStatus(trip, progress).into(),
        ])
    }

    fn nbd_no_holes(&mut self, trip: Box<Trip>, errno: Errno) -> Flow {
        self.nbd_send_generic_reply(trip, Err(errno), &format!("unable to check for holes: {errno}"))
    }

    fn nbd_sparse_status(&mut self, trip: Box<Trip>, progress: u64) -> Flow {
        let status: Ret<BlockStatus> = self.take();
        let status = match status {
            Ok(status) => status,
            Err(errno) => return self.nbd_no_holes(trip, errno),
        };
        let pnum = status.pnum;
        assert!(pnum > 0 && pnum <= trip.request.len - progress, "the status of {pnum} bytes");
        let (conn, offset) = (trip.conn, trip.request.from + progress);
        if status.zero {
            let mode = self.exports.clients[conn].mode();
            let last = progress + pnum == trip.request.len;
            let bytes = chunk_hole(mode, &trip.request, offset, pnum, last);
            return self.nbd_sparse_send(trip, progress + pnum, bytes);
        }
        let request = Box::new(BlkRequest::Read { offset, bytes: pnum });
        let blk = self.backend_of(conn);
        let read = BackendFrame::BlkCo { blk, request };
        self.seq([read.into(), ReadFrame::SparseRead { trip, progress, pnum }.into()])
    }

    /// A read that fails ends the connection: it counts as a reply that could not be sent.
    fn nbd_sparse_read(&mut self, trip: Box<Trip>, progress: u64, pnum: u64) -> Flow {
        let data = match self.take_data() {
            Ok(data) => data.to_bytes(),
            Err(errno) => {
                let text = format!("Failed to send reply: reading from file failed: {errno}");
                return self.trip_disconnects(trip.conn, Some(&text));
            }
        };
        let mode = self.exports.clients[trip.conn].mode();
        let last = progress + pnum == trip.request.len;
        let bytes = chunk_read(mode, &trip.request, trip.request.from + progress, &data, last);
        self.nbd_sparse_send(trip, progress + pnum, bytes)
    }

    fn nbd_sparse_send(&mut self, trip: Box<Trip>, progress: u64, bytes: Vec<u8>) -> Flow {
        if progress == trip.request.len {
            return self.nbd_send_last(trip, bytes);
        }
        let conn = trip.conn;
        self.seq([TripFrame::Send(conn, bytes.into()).into(), ReadFrame::SparseSent(trip, progress).into()])
    }

    fn nbd_sparse_sent(&mut self, trip: Box<Trip>, progress: u64) -> Flow {
        if self.peek().is_err() {
            return self.seq([TripFrame::Replied(trip).into()]);
        }
        self.take_val();
        self.nbd_sparse_next(trip, progress)
    }
}
