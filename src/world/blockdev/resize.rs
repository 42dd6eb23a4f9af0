//! `block_resize` (`blockdev.c:qmp_block_resize`), the one command of the block layer that is a coroutine.
//!
//! It has no bottom half of the dispatcher to itself: it begins in `qemu_aio_context`, and so may begin, or go on, in what another
//! one polls for. Its backend comes and goes in bottom halves, between which bystanders run.

use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

impl World {
    /// `qmp_block_resize`. Runs in a coroutine. Leaves `Val::Done`.
    pub(in crate::world) fn block_resize(
        &mut self,
        device: Option<Arc<str>>,
        node_name: Option<Arc<str>>,
        size: i64,
    ) -> Flow {
        let bs = match self.bdrv_lookup_bs(device.as_deref(), node_name.as_deref()) {
            Ok(bs) => bs,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        let Ok(size) = u64::try_from(size) else {
            let text = "Parameter 'size' expects a >0 size";
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        };
        self.seq([Frame::Rdlock, Frame::ResizeAllowed { bs, size }])
    }

    /// With the graph's reader lock: whether somebody forbids it (`BLOCK_OP_TYPE_RESIZE`).
    pub(in crate::world) fn resize_allowed(&mut self, bs: NodeId, size: u64) -> Flow {
        let blocked = self.op_blocked(bs).or_else(|| self.cow_blocked(bs));
        if let Some(err) = blocked {
            self.stack.push(Frame::Rdunlock);
            return self.ret(Val::Done(Err(err)));
        }
        let attach = Frame::BlkNewWithBs { bs, perm: perm::RESIZE, beyond_eof: false };
        self.seq([Frame::Rdunlock, Frame::OnMain(Box::new(attach)), Frame::ResizeAttached { bs, size }])
    }

    /// Once it has its backend, or could not have it.
    pub(in crate::world) fn resize_attached(&mut self, bs: NodeId, size: u64) -> Flow {
        let Val::Backend(attached) = std::mem::take(&mut self.reg) else { unreachable!("a backend or an error") };
        match attached {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(blk) => self.seq([
                Frame::DrainedBegin(bs),
                Frame::BlkTruncate { blk, size },
                Frame::KeepOver(Box::new(Frame::DrainedEnd(bs))),
                Frame::KeepOver(Box::new(Frame::OnMain(Box::new(Frame::BlkUnref(blk))))),
            ]),
        }
    }
}
