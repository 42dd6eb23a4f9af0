//! Reads of a node (`block/io.c:bdrv_co_preadv_part`).

use super::io::{IoFlags, REQUEST_MAX_BYTES};
use crate::base::errno::Errno;
use crate::base::units::{align_down, align_up};
use crate::block::content::Data;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;

impl World {
    /// `bdrv_co_preadv_part`
    pub(in crate::world) fn bdrv_co_preadv(
        &mut self,
        node: NodeId,
        offset: u64,
        bytes: u64,
        mut flags: IoFlags,
    ) -> Flow {
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
            Frame::PreadvAligned { node, offset: start, bytes: len, id, flags },
            Frame::PreadvEnd { node, id, skip: offset - start, bytes },
        ])
    }

    /// `bdrv_aligned_preadv`
    pub(in crate::world) fn preadv_aligned(
        &mut self,
        node: NodeId,
        offset: u64,
        bytes: u64,
        id: u32,
        flags: IoFlags,
    ) -> Flow {
        self.stop_waiting(node, id);
        if flags.has(IoFlags::COPY_ON_READ) {
            // Who touches the same cluster overlaps.
            self.make_serialising(node, id, self.serialising_align(node));
        }
        if let Some(wait) = self.wait_serialising(node, id) {
            self.stack.push(Frame::PreadvAligned { node, offset, bytes, id, flags });
            return Flow::Yield(wait);
        }
        if flags.has(IoFlags::COPY_ON_READ) {
            return self.copy_on_readv_begin(node, offset, bytes, flags.without(IoFlags::COPY_ON_READ));
        }
        self.preadv_forward(node, offset, bytes, flags)
    }

    /// `bdrv_aligned_preadv`, where it hands the request to the driver.
    pub(super) fn preadv_forward(&mut self, node: NodeId, offset: u64, bytes: u64, flags: IoFlags) -> Flow {
        let n = &self.graph.nodes[node];
        let total = n.size;
        let align = n.bl.request_alignment;
        let inside = align_up(total.saturating_sub(offset), align);
        let max_transfer = if n.bl.max_transfer == 0 { u64::MAX } else { align_down(n.bl.max_transfer, align) };
        if bytes <= inside && bytes <= max_transfer {
            return self.driver_preadv(node, offset, bytes, flags);
        }
        self.seq([Frame::PreadvPieces(Box::new(crate::world::frame::Pieces {
            node,
            offset,
            bytes,
            inside: inside.min(bytes),
            piece: max_transfer,
            flags,
            data: Data::new(),
            first: true,
        }))])
    }

    /// The loop of `bdrv_aligned_preadv` over pieces that the driver takes.
    pub(in crate::world) fn preadv_pieces(&mut self, mut p: Box<crate::world::frame::Pieces>) -> Flow {
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
        self.stack.push(Frame::PreadvPieces(p));
        self.driver_preadv(node, offset, piece, flags)
    }

    /// The end of `bdrv_co_preadv_part`: cuts off the padding.
    pub(in crate::world) fn preadv_end(&mut self, node: NodeId, id: u32, skip: u64, bytes: u64) -> Flow {
        let data = self.take_data();
        self.tracked_end(node, id, data.as_ref().err().copied());
        self.ret(Val::Data(data.map(|d| if d.len() == bytes { d } else { d.slice(skip, bytes) })))
    }
}
