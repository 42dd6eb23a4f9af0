//! `block_resize` (`blockdev.c:qmp_block_resize`), the one command of the block layer that is a coroutine.
//!
//! It has no bottom half of the dispatcher to itself: it begins in `qemu_aio_context`, and so may begin, or go on, in what another
//! one polls for. Its backend comes and goes in bottom halves, between which bystanders run.

use crate::qmp::error::QmpError;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::BackendId;
use crate::world::arena::NodeId;
use crate::world::block::backend::BackendFrame;
use crate::world::block::drain::DrainFrame;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ResizeFrame {
    BlockResize { device: Option<Arc<str>>, node_name: Option<Arc<str>>, size: i64 },
    ResizeAllowed { bs: NodeId, device: Option<Arc<str>>, size: u64 },
    ResizeAttached { bs: NodeId, size: u64 },
}

impl ResizeFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ResizeFrame::BlockResize { device, node_name, size } => w.block_resize(device, node_name, size),
            ResizeFrame::ResizeAllowed { bs, device, size } => w.resize_allowed(bs, device.as_deref(), size),
            ResizeFrame::ResizeAttached { bs, size } => w.resize_attached(bs, size),
        }
    }
}

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
        self.seq([GraphLockFrame::Rdlock.into(), ResizeFrame::ResizeAllowed { bs, device, size }.into()])
    }

    /// With the graph's reader lock: whether somebody forbids it (`BLOCK_OP_TYPE_RESIZE`).
    fn resize_allowed(&mut self, bs: NodeId, device: Option<&str>, size: u64) -> Flow {
        let blocked = self.op_blocked(bs);
        if let Some(err) = blocked {
            self.push(GraphLockFrame::Rdunlock.into());
            let err = match self.quirks.since(Change::ResizeSaysWhy) {
                true => err,
                // A node has no device, and the text is put together by a `printf` that says so.
                false => QmpError::generic(format!("Device '{}' is in use", device.unwrap_or("(null)"))),
            };
            return self.ret(Val::Done(Err(err)));
        }
        let attach = BackendFrame::BlkNewWithBs { bs, perm: perm::RESIZE, beyond_eof: false }.into();
        self.seq([
            GraphLockFrame::Rdunlock.into(),
            Frame::OnMain(Box::new(attach)),
            ResizeFrame::ResizeAttached { bs, size }.into(),
        ])
    }

    /// Once it has its backend, or could not have it.
    fn resize_attached(&mut self, bs: NodeId, size: u64) -> Flow {
        let attached: Result<BackendId, QmpError> = self.take();
        match attached {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(blk) => self.seq([
                DrainFrame::DrainedBegin(bs).into(),
                BackendFrame::BlkTruncate { blk, size }.into(),
                Frame::KeepOver(Box::new(DrainFrame::DrainedEnd(bs).into())),
                Frame::KeepOver(Box::new(Frame::OnMain(Box::new(BackendFrame::BlkUnref(blk).into())))),
            ]),
        }
    }
}
