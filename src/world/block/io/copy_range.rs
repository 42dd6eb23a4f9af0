//! Copying by the host: `bdrv_co_copy_range` goes down the chain of the source, then down that of the target, and where both end in
//! files, the host copies from one to the other (`block/io.c`, `copy_file_range`). Where one of the drivers on the way does not take
//! part, it fails with `ENOTSUP`, and whoever asked takes a buffer.

use crate::base::errno::Errno;
use crate::block::qcow2::{Qcow2Ask, Qcow2Child};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::io;
use crate::world::block::io::request::{self, IoFlags};
use crate::world::block::io::write::WriteFrame;
use crate::world::frame::Flow;
use crate::world::value::Val;

/// A copy under way, as far down as it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CopyRange {
    /// The node to copy from.
    pub src: NodeId,
    /// Byte offset there.
    pub src_offset: u64,
    /// The node to copy to.
    pub dst: NodeId,
    /// Byte offset there.
    pub dst_offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Flags of the write.
    pub flags: IoFlags,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum CopyRangeFrame {
    CopyRangeFrom(CopyRange),
    CopyRangeFromBegun { copy: CopyRange, id: u32 },
    CopyRangeTo(CopyRange),
    CopyRangeToBegun { copy: CopyRange, id: u32 },
}

impl CopyRangeFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            CopyRangeFrame::CopyRangeFrom(copy) => w.copy_range_from(copy),
            CopyRangeFrame::CopyRangeFromBegun { copy, id } => w.copy_range_from_begun(copy, id),
            CopyRangeFrame::CopyRangeTo(copy) => w.copy_range_to(copy),
            CopyRangeFrame::CopyRangeToBegun { copy, id } => w.copy_range_to_begun(copy, id),
        }
    }
}

impl World {
    fn copy_range_check(&self, copy: &CopyRange) -> Result<(), Errno> {
        let inside = |offset: u64| offset <= i64::MAX as u64 - copy.bytes;
        if copy.bytes > io::REQUEST_MAX_BYTES || !inside(copy.src_offset) || !inside(copy.dst_offset) {
            return Err(Errno::EIO);
        }
        let row = |node: NodeId| self.graph.nodes[node].drv().row();
        let both = row(copy.src).copy_range_from.is_some() && row(copy.dst).copy_range_to.is_some();
        if both { Ok(()) } else { Err(Errno::ENOTSUP) }
    }

    /// `bdrv_co_copy_range_from`
    pub(in crate::world) fn copy_range_from(&mut self, copy: CopyRange) -> Flow {
        if let Err(errno) = self.copy_range_check(&copy) {
            return self.ret(Val::err(errno));
        }
        self.see_request(copy.src);
        let id = self.tracked_begin(copy.src, "read", copy.src_offset, copy.bytes);
        self.seq([
            CopyRangeFrame::CopyRangeFromBegun { copy, id }.into(),
            WriteFrame::PwritevEnd { node: copy.src, id }.into(),
        ])
    }

    /// The same, after overlapping requests: `bdrv_co_copy_range_from` of the driver.
    fn copy_range_from_begun(&mut self, copy: CopyRange, id: u32) -> Flow {
        self.stop_waiting(copy.src, id);
        if let Some(wait) = self.wait_serialising(copy.src, id) {
            self.push(CopyRangeFrame::CopyRangeFromBegun { copy, id }.into());
            return Flow::Yield(wait);
        }
        match self.graph.nodes[copy.src].drv().row().copy_range_from {
            Some(copy_range_from) => copy_range_from(self, copy),
            None => self.ret(Val::err(Errno::ENOTSUP)),
        }
    }

    /// `bdrv_co_copy_range_to`
    pub(in crate::world) fn copy_range_to(&mut self, copy: CopyRange) -> Flow {
        if let Err(errno) = self.copy_range_check(&copy) {
            return self.ret(Val::err(errno));
        }
        self.see_request(copy.dst);
        let id = self.tracked_begin(copy.dst, "write", copy.dst_offset, copy.bytes);
        self.seq([
            CopyRangeFrame::CopyRangeToBegun { copy, id }.into(),
            WriteFrame::PwritevEnd { node: copy.dst, id }.into(),
        ])
    }

    /// The same, after `bdrv_co_write_req_prepare`: `bdrv_co_copy_range_to` of the driver.
    fn copy_range_to_begun(&mut self, copy: CopyRange, id: u32) -> Flow {
        let (node, offset, bytes) = (copy.dst, copy.dst_offset, copy.bytes);
        if let Some(wait) = self.write_req_prepare(node, id, copy.flags) {
            self.push(CopyRangeFrame::CopyRangeToBegun { copy, id }.into());
            return Flow::Yield(wait);
        }
        if self.graph.nodes[node].bitmaps.has_readonly() || !self.graph.nodes[node].flags.rdwr {
            return self.ret(Val::err(Errno::EPERM));
        }
        self.within_its_size(node, offset, bytes);
        self.write_threshold_check(node, offset, bytes);
        self.push(WriteFrame::PwritevFinish { node, offset, bytes }.into());
        match self.graph.nodes[node].drv().row().copy_range_to {
            Some(copy_range_to) => copy_range_to(self, copy),
            None => self.ret(Val::err(Errno::ENOTSUP)),
        }
    }

    /// What a qcow2 node asks for a copy that it takes part in.
    pub(in crate::world) fn qcow2_copy_request(&mut self, node: NodeId, request: &Qcow2Ask) -> Flow {
        let co = self.current();
        let copies = &self.qcow2(node).copies;
        let copy = copies.iter().rfind(|(of, _)| *of == co).expect("a copy of this coroutine is under way").1;
        match *request {
            Qcow2Ask::CopyFrom { child, offset, into, len } => {
                let src = match child {
                    Some(Qcow2Child::File) => self.below(node),
                    Some(Qcow2Child::Backing) => self.graph.cow_bs(node).expect("it has a backing file"),
                    None => {
                        let zeroes = request::write_zeroes(copy.dst, copy.dst_offset + into, len, copy.flags);
                        return self.seq([WriteFrame::Pwritev(zeroes).into()]);
                    }
                };
                let dst_offset = copy.dst_offset + into;
                self.seq([CopyRangeFrame::CopyRangeFrom(CopyRange {
                    src,
                    src_offset: offset,
                    dst_offset,
                    bytes: len,
                    ..copy
                })
                .into()])
            }
            Qcow2Ask::CopyTo { from, offset, len } => {
                let (dst, src_offset) = (self.below(node), copy.src_offset + from);
                self.seq([CopyRangeFrame::CopyRangeTo(CopyRange {
                    src_offset,
                    dst,
                    dst_offset: offset,
                    bytes: len,
                    ..copy
                })
                .into()])
            }
            _ => unreachable!("{request:?} is no copy"),
        }
    }
}
