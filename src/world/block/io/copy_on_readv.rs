//! Copy-on-read: what a node's reader gets from the nodes below is written to the node, too (`block/io.c:bdrv_co_do_copy_on_readv`).

use super::REQUEST_MAX_BYTES;
use super::request::{self, IoFlags};
use super::status::StatusFrame;
use super::write::{MAX_BOUNCE_BUFFER, WriteFrame};
use crate::base::units::{align_down, align_up};
use crate::block::content::Data;
use crate::block::event::BlkdebugEvent;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::driver::blkdebug::BlkdebugFrame;
use crate::world::frame::Flow;
use crate::world::value::{BlockStatus, Val};

/// What the frame waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ReadvStage {
    /// Whether all that is to be read is in the node already.
    Begin,
    /// Nothing: the next piece is looked at.
    Next,
    /// Whether the piece is in the node already.
    Allocated,
    /// What is to be copied.
    Read,
    /// The copy in the node itself: a write of data or of zeroes.
    Written,
    /// What the node has already.
    ReadDirectly,
}

/// A read with copying, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CopyOnReadv {
    node: NodeId,
    offset: u64,
    bytes: u64,
    flags: IoFlags,
    at: ReadvStage,
    /// The next byte to look at, and how many are left: whole clusters.
    align_offset: u64,
    align_bytes: u64,
    /// Bytes of the piece in front of the request.
    skip: u64,
    /// Bytes that have the same status as the first (`pnum`).
    pnum: u64,
    /// What was read for the one who asked.
    data: Data,
    /// What is being written.
    bounce: Data,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum CopyOnReadvFrame {
    CopyOnReadv(Box<CopyOnReadv>),
}

impl CopyOnReadvFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            CopyOnReadvFrame::CopyOnReadv(read) => w.copy_on_readv(read),
        }
    }
}

impl World {
    /// `bdrv_aligned_preadv` with `BDRV_REQ_COPY_ON_READ`: is there anything to copy?
    pub(super) fn copy_on_readv_begin(&mut self, node: NodeId, offset: u64, bytes: u64, flags: IoFlags) -> Flow {
        // `bdrv_round_to_subclusters`
        let cluster = self.cluster_size_of(node).filter(|size| *size > 0).unwrap_or(1);
        let align_offset = align_down(offset, cluster);
        let align_bytes = align_up(offset + bytes, cluster) - align_offset;
        let read = CopyOnReadv {
            node,
            offset,
            bytes,
            flags,
            at: ReadvStage::Begin,
            align_offset,
            align_bytes,
            skip: offset - align_offset,
            pnum: 0,
            data: Data::new(),
            bounce: Data::new(),
        };
        self.seq([
            StatusFrame::Status { node, offset, bytes, want_zero: false }.into(),
            CopyOnReadvFrame::CopyOnReadv(Box::new(read)).into(),
        ])
    }

    /// `bdrv_co_do_copy_on_readv`. Leaves `Val::Data`.
    fn copy_on_readv(&mut self, mut r: Box<CopyOnReadv>) -> Flow {
        match r.at {
            ReadvStage::Begin => match self.take_allocated() {
                Err(errno) => self.ret(Val::Data(Err(errno))),
                Ok((allocated, pnum)) if !allocated || pnum != r.bytes => {
                    r.at = ReadvStage::Next;
                    self.copy_on_readv_next(r)
                }
                Ok(_) if r.flags.has(IoFlags::PREFETCH) => self.ret(Val::Data(Ok(Data::zeroes(r.bytes)))),
                Ok(_) => self.preadv_forward(r.node, r.offset, r.bytes, r.flags),
            },
            ReadvStage::Next => self.copy_on_readv_next(r),
            ReadvStage::Allocated => self.copy_on_readv_allocated(r),
            ReadvStage::Read => match self.take_data() {
                Err(errno) => self.ret(Val::Data(Err(errno))),
                Ok(data) => self.copy_on_readv_write(r, data),
            },
            ReadvStage::Written => {
                if let Err(errno) = self.take_ret() {
                    return self.ret(Val::Data(Err(errno)));
                }
                if !r.flags.has(IoFlags::PREFETCH) {
                    let wanted = (r.pnum - r.skip).min(r.bytes - r.data.len());
                    let piece = std::mem::take(&mut r.bounce).slice(r.skip, wanted);
                    r.data.append(&piece);
                }
                self.copy_on_readv_advance(r)
            }
            ReadvStage::ReadDirectly => match self.take_data() {
                Err(errno) => self.ret(Val::Data(Err(errno))),
                Ok(data) => {
                    r.data.append(&data);
                    self.copy_on_readv_advance(r)
                }
            },
        }
    }

    /// The answer of `bdrv_co_is_allocated`: whether, and how many bytes.
    pub(in crate::world) fn take_allocated(&mut self) -> crate::base::errno::Ret<(bool, u64)> {
        let Val::Status(status) = self.take_val() else { unreachable!("a status query answers so") };
        status.map(|status| (status.allocated, status.pnum))
    }

    /// Largest piece of a node (`max_transfer`).
    fn copy_on_readv_max(&self, node: NodeId) -> u64 {
        match self.graph.nodes[node].bl.max_transfer {
            0 => REQUEST_MAX_BYTES,
            max => max.min(REQUEST_MAX_BYTES),
        }
    }

    fn copy_on_readv_next(&mut self, mut r: Box<CopyOnReadv>) -> Flow {
        if r.align_bytes == 0 {
            return self.copy_on_readv_end(*r);
        }
        let (node, offset) = (r.node, r.align_offset);
        let bytes = r.align_bytes.min(self.copy_on_readv_max(node));
        r.at = ReadvStage::Allocated;
        if self.graph.is_inactive(node) {
            // It is as if all were there, so that nothing is copied.
            self.leave(Val::Status(Ok(BlockStatus { allocated: true, pnum: bytes, ..BlockStatus::default() })));
            return self.copy_on_readv_allocated(r);
        }
        self.seq([
            StatusFrame::Status { node, offset, bytes, want_zero: false }.into(),
            CopyOnReadvFrame::CopyOnReadv(r).into(),
        ])
    }

    fn copy_on_readv_allocated(&mut self, mut r: Box<CopyOnReadv>) -> Flow {
        let node = r.node;
        let (allocated, pnum) = match self.take_allocated() {
            Ok((false, 0)) => return self.copy_on_readv_end(*r),
            Ok(answer) => answer,
            // It is as if nothing were allocated: the read will say what is wrong.
            Err(_) => (false, r.align_bytes.min(self.copy_on_readv_max(node))),
        };
        r.pnum = pnum;
        if !allocated {
            r.pnum = pnum.min(MAX_BOUNCE_BUFFER);
            let (offset, bytes) = (r.align_offset, r.pnum);
            r.at = ReadvStage::Read;
            self.push(CopyOnReadvFrame::CopyOnReadv(r).into());
            return self.driver_preadv(node, offset, bytes, IoFlags::NONE);
        }
        let left = r.bytes - r.data.len();
        if r.flags.has(IoFlags::PREFETCH) || left == 0 {
            return self.copy_on_readv_advance(r);
        }
        let (offset, bytes) = (r.offset + r.data.len(), (pnum - r.skip).min(left));
        r.at = ReadvStage::ReadDirectly;
        self.push(CopyOnReadvFrame::CopyOnReadv(r).into());
        self.driver_preadv(node, offset, bytes, IoFlags::NONE)
    }

    /// Writes what was read: straight to the driver, so that no dirty bitmap and no threshold hears of it.
    fn copy_on_readv_write(&mut self, mut r: Box<CopyOnReadv>, data: Data) -> Flow {
        let (node, offset, bytes) = (r.node, r.align_offset, data.len());
        let zero = data.is_zero() && self.graph.nodes[node].drv().has_pwrite_zeroes();
        if !r.flags.has(IoFlags::PREFETCH) {
            r.bounce = data.clone();
        }
        r.at = ReadvStage::Written;
        let event = BlkdebugFrame::BlkdebugEvent { node, event: BlkdebugEvent::CorWrite }.into();
        if zero {
            let write = WriteFrame::PwriteZeroes(request::write_zeroes(node, offset, bytes, IoFlags::NONE)).into();
            return self.seq([event, write, CopyOnReadvFrame::CopyOnReadv(r).into()]);
        }
        let write = WriteFrame::DriverPwritev(request::write(node, offset, data, IoFlags::NONE)).into();
        self.seq([event, write, CopyOnReadvFrame::CopyOnReadv(r).into()])
    }

    fn copy_on_readv_advance(&mut self, mut r: Box<CopyOnReadv>) -> Flow {
        r.align_offset += r.pnum;
        r.align_bytes -= r.pnum;
        r.skip = 0;
        r.at = ReadvStage::Next;
        self.copy_on_readv_next(r)
    }

    fn copy_on_readv_end(&mut self, r: CopyOnReadv) -> Flow {
        let CopyOnReadv { mut data, bytes, .. } = r;
        // Nobody looks at what is prefetched; else it is complete, unless the request goes beyond the end of the node.
        data.append(&Data::zeroes(bytes - data.len()));
        self.ret(Val::Data(Ok(data)))
    }
}
