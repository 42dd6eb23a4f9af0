//! Requests to a node: alignment, tracking, dirty bits, flush generations (`block/io.c`).

pub mod copy_on_readv;
pub mod copy_range;
pub(in crate::world) mod discard;
pub(in crate::world) mod flush;
pub mod request;
pub mod status;
pub(in crate::world) mod write;
pub(in crate::world) mod write_threshold;
pub mod zeroes;

use crate::base::errno::Errno;
use crate::base::units::{align_down, align_up};
use crate::block::content::Data;
use crate::world::World;
use crate::world::arena::{CoId, NodeId};
use crate::world::block::io::request::IoFlags;
use crate::world::frame::Flow;
use crate::world::value::Val;

/// `INT_MAX`, the largest request that carries a buffer (`BDRV_REQUEST_MAX_BYTES`, cut to sectors).
pub(in crate::world) const REQUEST_MAX_BYTES: u64 = i32::MAX as u64 / 512 * 512;

/// A read that goes to the driver in pieces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pieces {
    /// The node whose driver is asked.
    pub node: NodeId,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// Bytes before the end of the node.
    pub inside: u64,
    /// Largest piece.
    pub piece: u64,
    /// What was read so far.
    pub data: Data,
    /// `BDRV_REQ_*`
    pub flags: IoFlags,
    /// Nothing was asked for yet.
    pub first: bool,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum IoFrame {
    Preadv { node: NodeId, offset: u64, bytes: u64, flags: IoFlags },
    PreadvAligned { node: NodeId, offset: u64, bytes: u64, id: u32, flags: IoFlags },
    PreadvPieces(Box<Pieces>),
    PreadvEnd { node: NodeId, id: u32, skip: u64, bytes: u64 },
}

impl IoFrame {
    /// Runs the frame.
    #[inline(always)]
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            IoFrame::Preadv { node, offset, bytes, flags } => w.bdrv_co_preadv(node, offset, bytes, flags),
            IoFrame::PreadvAligned { node, offset, bytes, id, flags } => {
                w.preadv_aligned(node, offset, bytes, id, flags)
            }
            IoFrame::PreadvPieces(pieces) => w.preadv_pieces(pieces),
            IoFrame::PreadvEnd { node, id, skip, bytes } => w.preadv_end(node, id, skip, bytes),
        }
    }
}

impl World {
    /// `bdrv_getlength`
    #[must_use]
    pub fn bdrv_getlength(&self, node: NodeId) -> u64 {
        self.graph.nodes[node].size
    }

    /// `bdrv_co_preadv_part`
    fn bdrv_co_preadv(&mut self, node: NodeId, offset: u64, bytes: u64, mut flags: IoFlags) -> Flow {
        if !self.graph.is_inserted(node) {
            return self.ret(Val::Data(Err(Errno::ENOMEDIUM)));
        }
        if bytes > REQUEST_MAX_BYTES || offset > i64::MAX as u64 - bytes {
            return self.ret(Val::Data(Err(Errno::EIO)));
        }
        if self.graph.nodes[node].copy_on_read > 0 {
            flags |= IoFlags::COPY_ON_READ;
        }
        let align = self.graph.nodes[node].bl.request_alignment;
        let start = align_down(offset, align);
        let len = align_up(offset + bytes, align) - start;
        self.see_request(node);
        let id = self.tracked_begin(node, "read", start, len);
        self.seq([
            IoFrame::PreadvAligned { node, offset: start, bytes: len, id, flags }.into(),
            IoFrame::PreadvEnd { node, id, skip: offset - start, bytes }.into(),
        ])
    }

    /// `bdrv_aligned_preadv`
    fn preadv_aligned(&mut self, node: NodeId, offset: u64, bytes: u64, id: u32, flags: IoFlags) -> Flow {
        self.stop_waiting(node, id);
        if flags.has(IoFlags::COPY_ON_READ) {
            // Who touches the same cluster overlaps.
            self.make_serialising(node, id, self.serialising_align(node));
        }
        if let Some(wait) = self.wait_serialising(node, id) {
            self.push(IoFrame::PreadvAligned { node, offset, bytes, id, flags }.into());
            return Flow::Yield(wait);
        }
        if flags.has(IoFlags::COPY_ON_READ) {
            return self.copy_on_readv_begin(node, offset, bytes, flags.without(IoFlags::COPY_ON_READ));
        }
        self.preadv_forward(node, offset, bytes, flags)
    }

    /// `bdrv_aligned_preadv`, where it hands the request to the driver.
    fn preadv_forward(&mut self, node: NodeId, offset: u64, bytes: u64, flags: IoFlags) -> Flow {
        let n = &self.graph.nodes[node];
        let total = n.size;
        let align = n.bl.request_alignment;
        let inside = align_up(total.saturating_sub(offset), align);
        let max_transfer = if n.bl.max_transfer == 0 { u64::MAX } else { align_down(n.bl.max_transfer, align) };
        if bytes <= inside && bytes <= max_transfer {
            return self.driver_preadv(node, offset, bytes, flags);
        }
        self.seq([IoFrame::PreadvPieces(Box::new(crate::world::block::io::Pieces {
            node,
            offset,
            bytes,
            inside: inside.min(bytes),
            piece: max_transfer,
            flags,
            data: Data::new(),
            first: true,
        }))
        .into()])
    }

    /// The loop of `bdrv_aligned_preadv` over pieces that the driver takes.
    fn preadv_pieces(&mut self, mut p: Box<crate::world::block::io::Pieces>) -> Flow {
        if !std::mem::take(&mut p.first) {
            match self.take_data() {
                Ok(data) => p.data.append(&data),
                Err(errno) => return self.ret(Val::Data(Err(errno))),
            }
        }
        let done = p.data.len();
        if done >= p.inside {
            let mut data = p.data;
            data.append(&Data::zeroes(p.bytes - done));
            return self.ret(Val::Data(Ok(data)));
        }
        let piece = (p.inside - done).min(p.piece);
        let (node, offset, flags) = (p.node, p.offset + done, p.flags);
        self.push(IoFrame::PreadvPieces(p).into());
        self.driver_preadv(node, offset, piece, flags)
    }

    /// The end of `bdrv_co_preadv_part`: cuts off the padding.
    fn preadv_end(&mut self, node: NodeId, id: u32, skip: u64, bytes: u64) -> Flow {
        let data = self.take_data();
        self.tracked_end(node, id, data.as_ref().err().copied());
        self.ret(Val::Data(data.map(|d| if d.len() == bytes { d } else { d.slice(skip, bytes) })))
    }

    /// `bdrv_inc_in_flight`
    pub(in crate::world) fn node_inc_in_flight(&mut self, bs: NodeId) {
        self.graph.nodes[bs].in_flight += 1;
    }

    /// `bdrv_dec_in_flight`
    pub(in crate::world) fn node_dec_in_flight(&mut self, bs: NodeId) {
        let node = &mut self.graph.nodes[bs];
        assert!(node.in_flight > 0, "{bs:?} has no request in flight");
        node.in_flight -= 1;
    }

    pub(in crate::world) fn wake_all(&mut self, waiters: Vec<CoId>) {
        for co in waiters {
            self.aio_co_wake(co);
        }
    }
}
