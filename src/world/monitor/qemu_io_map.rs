//! `map` and `alloc` of qemu-io: what of an image is allocated in its top layer (`qemu-io-cmds.c`).

use crate::base::errno::Ret;
use crate::block::qemu_io::text;
use crate::world::World;
use crate::world::arena::{BackendId, NodeId};
use crate::world::block::io::status::StatusFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::BlockStatus;

/// A walk through an image under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MapWalk {
    node: NodeId,
    /// `map`, and not `alloc`.
    map: bool,
    /// Where the command began, or the extent that is being put together.
    start: u64,
    /// What is asked about next.
    offset: u64,
    /// What is left from there.
    left: u64,
    /// Of the extent whether it is allocated (`map`); how many bytes are (`alloc`).
    allocated: Option<bool>,
    sum: u64,
    /// How many bytes `alloc` speaks of.
    count: u64,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum QemuIoMapFrame {
    QemuIoWalked(Box<MapWalk>),
}

impl QemuIoMapFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            QemuIoMapFrame::QemuIoWalked(walk) => w.qemu_io_walked(*walk),
        }
    }
}

impl World {
    /// `map_f`
    pub(in crate::world) fn qemu_io_map(&mut self, blk: BackendId) -> Flow {
        let Some(node) = self.graph.available(blk) else {
            return self.qemu_io_reports("Failed to query image length: No medium found");
        };
        let left = self.bdrv_getlength(node);
        self.walk(MapWalk { node, map: true, start: 0, offset: 0, left, allocated: None, sum: 0, count: 0 })
    }

    /// `alloc_f`
    pub(super) fn qemu_io_alloc(&mut self, blk: BackendId, offset: u64, count: u64) -> Flow {
        let Some(node) = self.graph.blk_bs(blk) else { return Flow::Go };
        self.walk(MapWalk { node, map: false, start: offset, offset, left: count, allocated: None, sum: 0, count })
    }

    fn walk(&mut self, walk: MapWalk) -> Flow {
        if walk.left == 0 {
            let line = match (walk.map, walk.allocated) {
                (false, _) => text::alloc(walk.sum, walk.count, walk.start),
                (true, Some(allocated)) => text::map_line(walk.start, walk.offset - walk.start, allocated),
                (true, None) => String::new(),
            };
            self.console_raw(&line);
            return Flow::Go;
        }
        let (node, offset, bytes) = (walk.node, walk.offset, walk.left);
        // `bdrv_is_allocated` asks the top layer alone.
        let status = StatusFrame::Status { node, offset, bytes, want_zero: false }.into();
        self.seq([Frame::RunCo(Box::new(status)), QemuIoMapFrame::QemuIoWalked(Box::new(walk)).into()])
    }

    /// The answer to [`World::walk`].
    fn qemu_io_walked(&mut self, mut walk: MapWalk) -> Flow {
        let status: Ret<BlockStatus> = self.take();
        let (allocated, len) = match status.map(|status| (status.allocated, status.pnum)) {
            Ok(answer) => answer,
            Err(errno) if walk.map => return self.qemu_io_reports(&text::map_failed(errno)),
            Err(errno) => {
                self.console_raw(&text::alloc_failed(errno));
                return Flow::Go;
            }
        };
        if walk.map && len == 0 {
            return self.qemu_io_reports("Unexpected end of image");
        }
        if len == 0 {
            walk.count -= walk.left;
            walk.left = 0;
            return self.walk(walk);
        }
        if walk.map && walk.allocated.is_some_and(|before| before != allocated) {
            self.console_raw(&text::map_line(walk.start, walk.offset - walk.start, !allocated));
            walk.start = walk.offset;
        }
        walk.allocated = Some(allocated);
        walk.sum += if allocated { len } else { 0 };
        walk.offset += len;
        walk.left -= len;
        self.walk(walk)
    }
}
