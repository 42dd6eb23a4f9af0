//! Reading what a disk held when its copy-before-write filter was opened: `snapshot-access` above it
//! (`block/snapshot-access.c`, and the `*_snapshot` functions of `block/copy-before-write.c`).

use super::Driver;
use super::copy_before_write::SnapshotRead;
use crate::base::errno::{Errno, Ret};
use crate::base::units::{align_down, align_up};
use crate::block::content::Data;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::driver::copy_before_write::CopyBeforeWriteFrame;
use crate::world::block::io::discard::DiscardFrame;
use crate::world::block::io::status::StatusFrame;
use crate::world::frame::Flow;
use crate::world::value::Val;

impl World {
    /// The copy-before-write filter that a `snapshot-access` node reads through.
    fn snapshot_source(&self, node: NodeId) -> Ret<NodeId> {
        let below = self.below(node);
        if matches!(self.graph.nodes[below].drv(), Driver::Cbw(_)) { Ok(below) } else { Err(Errno::ENOTSUP) }
    }

    /// `snapshot_access_co_preadv_part`. Leaves `Val::Data`.
    pub(super) fn snapshot_preadv(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        match self.snapshot_source(node) {
            Err(errno) => self.ret(Val::Data(Err(errno))),
            Ok(cbw) => {
                let read = SnapshotRead { cbw, offset, bytes, part: 0, frozen: None, data: Data::new() };
                self.snapshot_read(Box::new(read))
            }
        }
    }

    /// `snapshot_access_co_block_status`. Leaves `Val::Status`.
    pub(super) fn snapshot_status(&mut self, node: NodeId, offset: u64, bytes: u64, want_zero: bool) -> Flow {
        let locked = self.snapshot_source(node).and_then(|cbw| Ok((cbw, self.snapshot_lock(cbw, offset, bytes)?)));
        match locked {
            Err(errno) => self.ret(Val::Status(Err(errno))),
            Ok((cbw, place)) => self.seq([
                StatusFrame::Status { node: place.node, offset, bytes: place.bytes, want_zero }.into(),
                CopyBeforeWriteFrame::SnapshotStatusDone { cbw, frozen: place.frozen }.into(),
            ]),
        }
    }

    /// `snapshot_access_co_pdiscard`: whole clusters are no more needed. Leaves `Val::Ret`.
    pub(super) fn snapshot_pdiscard(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let cbw = match self.snapshot_source(node) {
            Ok(cbw) => cbw,
            Err(errno) => return self.ret(Val::err(errno)),
        };
        let state = self.cbw(cbw);
        let (cluster, access, target) = (state.bcs.cluster_size, state.access_bitmap, state.target);
        let (from, end) = (align_up(offset, cluster), align_down(offset + bytes, cluster));
        if end <= from {
            return self.ret(Val::Ret(Ok(())));
        }
        self.bits_mut(cbw, access).reset(from, end - from);
        self.block_copy_reset(cbw, from, end - from);
        let target = self.graph.bs(target.expect("the filter was opened"));
        self.seq([DiscardFrame::Pdiscard { node: target, offset: from, bytes: end - from }.into()])
    }
}
