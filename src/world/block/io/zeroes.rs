//! Whether a range, or all of a node, is known to read as zeroes (`block/io.c:bdrv_co_is_zero_fast`, `bdrv_co_is_all_zeroes`).
//!
//! As QEMU 10.1 asks it: several pieces of zeroes in a row are as good as one, and a small head of which nothing is known is read. Both leave
//! a block status, of which `zero` is the answer.

use crate::base::errno::Ret;
use crate::block::content::Data;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::io::request::IoFlags;
use crate::world::block::io::status::{StatusFrame, StatusReq};
use crate::world::frame::Flow;
use crate::world::value::{BlockStatus, Val};

/// The longest head that is read to see what it holds (`MAX_ZERO_CHECK_BUFFER`).
const MAX_HEAD: u64 = 128 << 10;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ZeroesFrame {
    IsZeroFast { node: NodeId, offset: u64, bytes: u64 },
    PieceAsked { node: NodeId, offset: u64, bytes: u64 },
    IsAllZeroes(NodeId),
    HeadAsked(NodeId),
    TailAsked { node: NodeId, head: u64 },
    HeadRead,
}

impl ZeroesFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ZeroesFrame::IsZeroFast { node, offset, bytes } => w.is_zero_fast(node, offset, bytes),
            ZeroesFrame::PieceAsked { node, offset, bytes } => w.zero_piece_asked(node, offset, bytes),
            ZeroesFrame::IsAllZeroes(node) => {
                let bytes = w.bdrv_getlength(node);
                let ask = StatusReq::new(node, None, 0, bytes, true);
                w.seq([StatusFrame::StatusAbove(ask).into(), ZeroesFrame::HeadAsked(node).into()])
            }
            ZeroesFrame::HeadAsked(node) => w.zero_head_asked(node),
            ZeroesFrame::TailAsked { node, head } => w.zero_tail_asked(node, head),
            ZeroesFrame::HeadRead => {
                let read: Ret<Data> = w.take();
                w.ret(Val::Status(read.map(|data| answer(data.is_zero()))))
            }
        }
    }
}

fn answer(zero: bool) -> BlockStatus {
    BlockStatus { zero, ..BlockStatus::default() }
}

impl World {
    /// `bdrv_co_is_zero_fast`
    fn is_zero_fast(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        if bytes == 0 {
            return self.ret(Val::Status(Ok(answer(true))));
        }
        let ask = StatusReq::new(node, None, offset, bytes, true);
        self.seq([StatusFrame::StatusAbove(ask).into(), ZeroesFrame::PieceAsked { node, offset, bytes }.into()])
    }

    fn zero_piece_asked(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let status: Ret<BlockStatus> = self.take();
        match status {
            Ok(status) if status.zero => self.is_zero_fast(node, offset + status.pnum, bytes - status.pnum),
            Ok(_) => self.ret(Val::Status(Ok(answer(false)))),
            Err(errno) => self.ret(Val::Status(Err(errno))),
        }
    }

    /// `bdrv_co_is_all_zeroes`, once it is known what stands at the beginning.
    fn zero_head_asked(&mut self, node: NodeId) -> Flow {
        let status: Ret<BlockStatus> = self.take();
        let status = match status {
            Ok(status) => status,
            Err(errno) => return self.ret(Val::Status(Err(errno))),
        };
        let (head, rest) = (status.pnum, self.bdrv_getlength(node) - status.pnum);
        if status.zero {
            return self.is_zero_fast(node, head, rest);
        }
        if head > MAX_HEAD {
            return self.ret(Val::Status(Ok(answer(false))));
        }
        self.push(ZeroesFrame::TailAsked { node, head }.into());
        self.is_zero_fast(node, head, rest)
    }

    /// `bdrv_co_is_all_zeroes`: all but the head reads as zeroes, or not. The driver is asked for the head by itself.
    fn zero_tail_asked(&mut self, node: NodeId, head: u64) -> Flow {
        if !matches!(self.peek(), Val::Status(Ok(status)) if status.zero) {
            return Flow::Go;
        }
        self.push(ZeroesFrame::HeadRead.into());
        self.driver_preadv(node, 0, head, IoFlags::NONE)
    }
}
