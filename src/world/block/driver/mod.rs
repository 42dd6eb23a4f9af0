//! The block drivers: what each does with a request (`block/file-posix.c`, `null.c`, `raw-format.c`, `blkdebug.c`,
//! `copy-before-write.c`; `qcow2` is in `qcow2.rs`).

pub mod blkdebug;
pub mod block_copy;
pub mod block_copy_state;
pub mod compress;
pub mod copies;
pub mod copy_before_write;
pub mod copy_on_read;
pub mod file;
pub mod info;
pub mod mirror_top;
pub mod nbd;
pub mod null;
pub mod qcow2;
pub mod raw;
pub mod rows;
pub mod snapshot_access;
pub mod throttle;

use crate::base::errno::Errno;
use crate::base::units::{SECTOR, align_up};
use crate::block::blkdebug::IoType;
use crate::block::content::Data;
use crate::nbd::cmd;
use crate::qmp::error::QmpError;
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::aio::device::DeviceOp;
use crate::world::arena::NodeId;
use crate::world::block::driver::blkdebug::BlkdebugFrame;
use crate::world::block::driver::copy_before_write::CopyBeforeWriteFrame;
use crate::world::block::driver::qcow2::Qcow2Frame;
use crate::world::block::graph::{BlockLimits, GraphFrame};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::host_work::HostWorkFrame;
use crate::world::block::io::IoFrame;
use crate::world::block::io::discard::DiscardFrame;
use crate::world::block::io::request::{IoFlags, WriteReq};
use crate::world::block::io::status::StatusFrame;
use crate::world::block::io::write::WriteFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::{BlockStatus, Val};
use blkdebug::BlkdebugDriver;
use copy_before_write::CbwState;
use file::FileDriver;
use null::NullDriver;
use qcow2::Qcow2Node;
use raw::RawDriver;
use std::sync::Arc;
use throttle::throttled;

/// A driver with its state (`BDRV*State`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Driver {
    /// `file`: a file of the simulated host.
    File(FileDriver),
    /// `null-co`, `null-aio`
    Null(NullDriver),
    /// `raw`
    Raw(RawDriver),
    /// `blkdebug`
    Blkdebug(Box<BlkdebugDriver>),
    /// `copy-before-write`
    Cbw(Box<CbwState>),
    /// `qcow2`
    Qcow2(Box<Qcow2Node>),
    /// `snapshot-access`
    SnapshotAccess,
    /// `throttle`: the name of its group.
    Throttle(Arc<str>),
    /// `copy-on-read`
    CopyOnRead(copy_on_read::CopyOnRead),
    /// `mirror_top`
    MirrorTop(Box<mirror_top::MirrorTop>),
    /// `commit_top`
    CommitTop,
    /// Of unit tests.
    #[cfg(test)]
    TestFilter,
    /// `compress`
    Compress,
    /// `quorum`
    Quorum(Box<copies::quorum::Quorum>),
    /// `blkverify`: its requests under way.
    Blkverify(copies::Fans),
    /// `nbd`
    Nbd(Box<nbd::NbdDriver>),
}

crate::base::time::rebase!(enum Driver {
    File(file),
    Null(null),
    Raw(raw),
    Blkdebug(blkdebug),
    Cbw(cbw) moves,
    Qcow2(qcow2),
    SnapshotAccess,
    Throttle(group),
    CopyOnRead(cor),
    MirrorTop(top),
    CommitTop,
    #[cfg(test)]
    TestFilter,
    Compress,
    Quorum(quorum),
    Blkverify(fans),
    Nbd(nbd),
});

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum DriverFrame {
    DriverClose(NodeId),
    DriverClosed(NodeId),
    PassRead { node: NodeId, offset: u64, bytes: u64 },
    PassWrite { req: Box<WriteReq>, shift: u64 },
    PassDiscard { node: NodeId, offset: u64, bytes: u64 },
    DriverFlushToOs(NodeId),
    DriverFlushToDisk(NodeId),
    DriverTruncate { node: NodeId, size: u64, zero: bool },
    StatusRaw { node: NodeId, offset: u64, bytes: u64, want_zero: bool },
    StatusRawIfOk { node: NodeId, offset: u64, bytes: u64, want_zero: bool },
}

impl DriverFrame {
    /// Runs the frame.
    #[inline(always)]
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            DriverFrame::DriverClose(bs) => w.driver_close(bs),
            DriverFrame::DriverClosed(bs) => w.driver_closed(bs),
            DriverFrame::PassRead { node, offset, bytes } => w.pass_read(node, offset, bytes),
            DriverFrame::PassWrite { req, shift } => w.pass_write(req, shift),
            DriverFrame::PassDiscard { node, offset, bytes } => w.pass_discard(node, offset, bytes),
            DriverFrame::DriverFlushToOs(node) => w.driver_flush_to_os(node),
            DriverFrame::DriverFlushToDisk(node) => w.driver_flush_to_disk(node),
            DriverFrame::DriverTruncate { node, size, zero } => w.driver_truncate(node, size, zero),
            DriverFrame::StatusRaw { node, offset, bytes, want_zero } => w.status_raw(node, offset, bytes, want_zero),
            DriverFrame::StatusRawIfOk { node, offset, bytes, want_zero } => match w.take_ret() {
                Ok(()) => w.seq([DriverFrame::StatusRaw { node, offset, bytes, want_zero }.into()]),
                Err(errno) => w.ret(Val::Status(Err(errno))),
            },
        }
    }
}

impl World {
    /// The node that requests are passed on to (`bdrv_primary_bs`). A filter that a job has taken out of its place has none, if the job
    /// is there still: QEMU follows a null pointer then.
    pub(in crate::world) fn below(&self, node: NodeId) -> NodeId {
        let Some(edge) = self.graph.primary_child(node) else {
            let subject = format!("node {}", self.graph.nodes[node].node_name);
            let reason = "a filter that was taken away has no node below";
            Self::qemu_is_known_to_segfault("query-after-a-stream", subject, reason);
        };
        self.graph.bs(edge)
    }

    /// `bdrv_driver_preadv`: the driver's read. Leaves `Val::Data`.
    pub(in crate::world) fn driver_preadv(&mut self, node: NodeId, offset: u64, bytes: u64, flags: IoFlags) -> Flow {
        if self.graph.nodes[node].dropped {
            return self.ret(Val::Data(Err(Errno::ENOMEDIUM)));
        }
        match self.graph.nodes[node].drv() {
            Driver::File(_) => self.device_submit(node, DeviceOp::Read, offset, bytes),
            Driver::Null(null) => {
                let latency = null.latency;
                self.null_request(node, latency, Val::Data(Ok(Data::zeroes(bytes))))
            }
            Driver::Raw(_) => self.raw_preadv(node, offset, bytes),
            Driver::Blkdebug(_) => self.seq([
                BlkdebugFrame::RuleCheck { node, iotype: IoType::Read, offset, bytes }.into(),
                Frame::if_ok([DriverFrame::PassRead { node, offset, bytes }.into()]),
            ]),
            Driver::Cbw(_) | Driver::MirrorTop(_) | Driver::CommitTop | Driver::Compress => {
                self.pass_read(node, offset, bytes)
            }
            #[cfg(test)]
            Driver::TestFilter => self.pass_read(node, offset, bytes),
            Driver::Quorum(_) => self.quorum_preadv(node, offset, bytes),
            Driver::Blkverify(_) => self.blkverify_preadv(node, offset, bytes),
            Driver::Nbd(_) => self.nbd_preadv(node, offset, bytes),
            Driver::CopyOnRead(_) => self.cor_co_preadv(node, offset, bytes, flags),
            Driver::Qcow2(_) => self.qcow2_preadv(node, offset, bytes),
            Driver::SnapshotAccess => self.snapshot_preadv(node, offset, bytes),
            Driver::Throttle(_) => {
                self.seq([throttled(node, false, bytes), DriverFrame::PassRead { node, offset, bytes }.into()])
            }
        }
    }

    /// A read passed on to the node below.
    fn pass_read(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let below = self.below(node);
        self.seq([IoFrame::Preadv { node: below, offset, bytes, flags: IoFlags::NONE }.into()])
    }

    /// The driver's write. Leaves `Val::Ret`.
    pub(in crate::world) fn driver_write(&mut self, req: Box<WriteReq>) -> Flow {
        let node = req.node;
        if self.graph.nodes[node].dropped {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        match self.graph.nodes[node].drv() {
            Driver::File(_) => {
                let data = req.data.expect("a write carries data");
                self.device_submit(node, DeviceOp::Write(data), req.offset, req.bytes)
            }
            Driver::Null(null) => {
                let latency = null.latency;
                self.null_request(node, latency, Val::Ret(Ok(())))
            }
            Driver::Raw(_) => self.raw_pwritev(req),
            Driver::Blkdebug(_) => {
                let check =
                    BlkdebugFrame::RuleCheck { node, iotype: IoType::Write, offset: req.offset, bytes: req.bytes }
                        .into();
                self.write_after(check, req)
            }
            Driver::Cbw(_) => {
                let copy =
                    CopyBeforeWriteFrame::CbwCopyBeforeWrite { node, offset: req.offset, bytes: req.bytes }.into();
                self.write_after(copy, req)
            }
            Driver::Qcow2(_) => self.qcow2_pwritev(req),
            Driver::SnapshotAccess | Driver::CommitTop => self.ret(Val::err(Errno::ENOTSUP)),
            Driver::Throttle(_) => self.write_throttled(req),
            Driver::CopyOnRead(_) => self.pass_write(req, 0),
            Driver::MirrorTop(_) => self.mirror_top_write(req),
            #[cfg(test)]
            Driver::TestFilter => self.pass_write(req, 0),
            Driver::Compress => self.compress_pwritev(req),
            Driver::Quorum(_) => self.quorum_pwritev(&req),
            Driver::Blkverify(_) => self.blkverify_pwritev(&req),
            Driver::Nbd(_) => self.nbd_pwritev(&req),
        }
    }

    /// What a filter does first, and if that went well the write, passed on.
    fn write_after(&mut self, first: Frame, req: Box<WriteReq>) -> Flow {
        self.seq([first, Frame::if_ok([DriverFrame::PassWrite { req, shift: 0 }.into()])])
    }

    /// A write passed on to the node below.
    fn pass_write(&mut self, mut req: Box<WriteReq>, shift: u64) -> Flow {
        req.node = self.below(req.node);
        req.offset += shift;
        req.unpadded = None;
        req.flags = req.flags.without(IoFlags::SERIALISING);
        if !self.supports_fua(req.node) {
            req.flags = req.flags.without(IoFlags::FUA);
        }
        self.seq([WriteFrame::Pwritev(req).into()])
    }

    /// `bdrv_driver_pwritev_compressed`
    pub(in crate::world) fn driver_pwritev_compressed(&mut self, req: Box<WriteReq>) -> Flow {
        if self.graph.nodes[req.node].dropped {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        match self.graph.nodes[req.node].drv() {
            Driver::Qcow2(_) => self.qcow2_pwritev_compressed(req),
            Driver::Throttle(_) => self.write_throttled(req),
            Driver::CopyOnRead(_) => self.pass_write(req, 0),
            _ => self.ret(Val::err(Errno::ENOTSUP)),
        }
    }

    /// `bdrv_supports_compressed_writes`
    #[must_use]
    pub(in crate::world) fn supports_compressed_writes(&self, node: NodeId) -> bool {
        let n = &self.graph.nodes[node];
        match n.drv() {
            Driver::Qcow2(_) => !n.dropped,
            Driver::Throttle(_) | Driver::CopyOnRead(_) => self.supports_compressed_writes(self.below(node)),
            _ => false,
        }
    }

    /// The driver's zero write. Leaves `Val::Ret`.
    pub(in crate::world) fn driver_pwrite_zeroes(&mut self, req: WriteReq) -> Flow {
        let node = req.node;
        match self.graph.nodes[node].drv() {
            Driver::File(_) => {
                let op = DeviceOp::Zero { unmap: req.flags.has(IoFlags::MAY_UNMAP) };
                self.device_submit(node, op, req.offset, req.bytes)
            }
            Driver::Null(_) => self.ret(Val::err(Errno::ENOTSUP)),
            Driver::Raw(_) => self.raw_pwrite_zeroes(Box::new(req)),
            Driver::Blkdebug(b) => {
                let align = b.engine.limits().opt_write_zero.max(self.graph.nodes[node].bl.request_alignment);
                if req.bytes < align {
                    return self.ret(Val::err(Errno::ENOTSUP));
                }
                let check = BlkdebugFrame::RuleCheck {
                    node,
                    iotype: IoType::WriteZeroes,
                    offset: req.offset,
                    bytes: req.bytes,
                }
                .into();
                self.write_after(check, Box::new(req))
            }
            Driver::Cbw(_) => {
                let copy =
                    CopyBeforeWriteFrame::CbwCopyBeforeWrite { node, offset: req.offset, bytes: req.bytes }.into();
                self.write_after(copy, Box::new(req))
            }
            Driver::Qcow2(_) => self.qcow2_pwrite_zeroes(&req),
            Driver::SnapshotAccess | Driver::CommitTop => self.ret(Val::err(Errno::ENOTSUP)),
            Driver::Throttle(_) => self.write_throttled(Box::new(req)),
            Driver::CopyOnRead(_) | Driver::Compress => self.pass_write(Box::new(req), 0),
            Driver::MirrorTop(_) => self.mirror_top_write(Box::new(req)),
            #[cfg(test)]
            Driver::TestFilter => self.pass_write(Box::new(req), 0),
            Driver::Quorum(_) => self.quorum_pwritev(&req),
            Driver::Blkverify(_) => self.ret(Val::err(Errno::ENOTSUP)),
            Driver::Nbd(_) => self.nbd_pwrite_zeroes(&req),
        }
    }

    /// The driver's discard. Leaves `Val::Ret`.
    pub(in crate::world) fn driver_pdiscard(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        match self.graph.nodes[node].drv() {
            Driver::File(_) => self.device_submit(node, DeviceOp::Discard, offset, bytes),
            Driver::Null(_) => self.ret(Val::err(Errno::ENOTSUP)),
            Driver::Raw(_) => self.raw_pdiscard(node, offset, bytes),
            Driver::Blkdebug(_) => self.seq([
                BlkdebugFrame::RuleCheck { node, iotype: IoType::Discard, offset, bytes }.into(),
                Frame::if_ok([DriverFrame::PassDiscard { node, offset, bytes }.into()]),
            ]),
            Driver::Cbw(_) => self.seq([
                CopyBeforeWriteFrame::CbwCopyBeforeWrite { node, offset, bytes }.into(),
                Frame::if_ok([DriverFrame::PassDiscard { node, offset, bytes }.into()]),
            ]),
            Driver::Qcow2(_) => self.qcow2_pdiscard(node, offset, bytes),
            Driver::SnapshotAccess => self.snapshot_pdiscard(node, offset, bytes),
            Driver::CommitTop | Driver::Quorum(_) | Driver::Blkverify(_) => self.ret(Val::err(Errno::ENOTSUP)),
            Driver::CopyOnRead(_) | Driver::Compress => self.pass_discard(node, offset, bytes),
            Driver::Nbd(_) => self.nbd_simple(node, cmd::TRIM, offset, bytes),
            Driver::MirrorTop(_) => self.mirror_top_discard(node, offset, bytes),
            #[cfg(test)]
            Driver::TestFilter => self.pass_discard(node, offset, bytes),
            Driver::Throttle(_) => {
                self.seq([throttled(node, true, bytes), DriverFrame::PassDiscard { node, offset, bytes }.into()])
            }
        }
    }

    /// A discard passed on to the node below.
    pub(in crate::world) fn pass_discard(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let below = self.below(node);
        self.seq([DiscardFrame::Pdiscard { node: below, offset, bytes }.into()])
    }

    /// `bdrv_co_flush_to_os`
    fn driver_flush_to_os(&mut self, node: NodeId) -> Flow {
        match self.graph.nodes[node].drv() {
            Driver::Qcow2(_) => self.qcow2_flush_to_os(node),
            Driver::Nbd(_) => self.nbd_simple(node, cmd::FLUSH, 0, 0),
            _ => self.ret(Val::Ret(Ok(()))),
        }
    }

    /// `bdrv_co_flush_to_disk`
    fn driver_flush_to_disk(&mut self, node: NodeId) -> Flow {
        if self.graph.nodes[node].dropped {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        match self.graph.nodes[node].drv() {
            Driver::File(_) => self.device_submit(node, DeviceOp::Flush, 0, 0),
            Driver::Null(null) => {
                let latency = null.latency;
                self.null_request(node, latency, Val::Ret(Ok(())))
            }
            Driver::Blkdebug(_) => {
                self.seq([BlkdebugFrame::RuleCheck { node, iotype: IoType::Flush, offset: 0, bytes: 0 }.into()])
            }
            _ => self.ret(Val::Ret(Ok(()))),
        }
    }

    /// The driver's block status. Leaves `Val::Status`.
    pub(in crate::world) fn driver_block_status(
        &mut self,
        node: NodeId,
        offset: u64,
        bytes: u64,
        want_zero: bool,
    ) -> Flow {
        match self.graph.nodes[node].drv() {
            Driver::File(_) => {
                let status = self.file_block_status(node, offset, bytes, want_zero);
                self.ret(Val::Status(Ok(status)))
            }
            Driver::Null(null) => {
                let status =
                    BlockStatus { zero: null.read_zeroes, map: Some(offset), pnum: bytes, ..BlockStatus::default() };
                self.ret(Val::Status(Ok(status)))
            }
            Driver::Raw(raw) => {
                let offset = offset + raw.offset;
                self.status_raw(node, offset, bytes, want_zero)
            }
            Driver::Quorum(_) => self.quorum_block_status(node, offset, bytes, want_zero),
            Driver::Blkdebug(_) => self.seq([
                BlkdebugFrame::RuleCheck { node, iotype: IoType::BlockStatus, offset, bytes }.into(),
                DriverFrame::StatusRawIfOk { node, offset, bytes, want_zero }.into(),
            ]),
            Driver::Qcow2(_) => self.qcow2_block_status(node, offset, bytes, want_zero),
            Driver::SnapshotAccess => self.snapshot_status(node, offset, bytes, want_zero),
            Driver::Nbd(_) => self.nbd_block_status(node, offset, bytes, want_zero),
            // Filters without one of their own.
            _ => self.status_raw(node, offset, bytes, want_zero),
        }
    }

    /// `BDRV_BLOCK_RAW`: the answer is the one of the node below.
    fn status_raw(&mut self, node: NodeId, offset: u64, bytes: u64, want_zero: bool) -> Flow {
        let below = self.below(node);
        self.seq([StatusFrame::Status { node: below, offset, bytes, want_zero }.into()])
    }

    /// `bdrv_refresh_limits`
    pub(in crate::world) fn refresh_limits(&mut self, node: NodeId) {
        let n = &self.graph.nodes[node];
        let mut bl = BlockLimits { request_alignment: 1, ..BlockLimits::default() };
        if let Some(child) = self.graph.primary_child(node) {
            bl.max_transfer = self.graph.nodes[self.graph.bs(child)].bl.max_transfer;
        }
        if let Some(Driver::Quorum(_)) = n.driver {
            let limits = self.quorum_children(node).into_iter().map(|child| self.graph.nodes[child].bl.max_transfer);
            bl.max_transfer = limits.filter(|limit| *limit > 0).min().unwrap_or(0);
        }
        match n.drv() {
            Driver::Blkdebug(b) => {
                let l = b.engine.limits();
                let over = |own: u64, inherited: u64| if own > 0 { own } else { inherited };
                bl.request_alignment = l.align.max(1);
                bl.max_transfer = over(l.max_transfer, bl.max_transfer);
                bl.pwrite_zeroes_alignment = l.opt_write_zero;
                bl.max_pwrite_zeroes = l.max_write_zero;
                bl.pdiscard_alignment = l.opt_discard;
                bl.max_pdiscard = l.max_discard;
            }
            Driver::Qcow2(q) => {
                bl.pwrite_zeroes_alignment = q.cluster_size();
                bl.pdiscard_alignment = q.cluster_size();
            }
            Driver::Nbd(nbd) => bl = nbd.limits(self.quirks.has(Quirk::NbdStatusBetweenSectors)),
            Driver::Raw(raw) if raw.probed => bl.request_alignment = SECTOR,
            Driver::Compress if self.graph.primary_child(node).is_some() => {
                bl.request_alignment = self.cluster_size_of(node).unwrap_or(0).max(1);
            }
            _ => {}
        }
        self.graph.nodes[node].bl = bl;
    }

    /// `bdrv_refresh_total_sectors` after a resize: nodes that only pass on have the length of the node below.
    pub(in crate::world) fn refresh_total_sectors(&mut self, node: NodeId) {
        let size = match self.graph.nodes[node].drv() {
            Driver::Raw(raw) if raw.size.is_none() => self.bdrv_getlength(self.below(node)).saturating_sub(raw.offset),
            Driver::Blkverify(_) => match self.blkverify_test(node) {
                Some(test) => self.bdrv_getlength(test),
                None => return,
            },
            driver if driver.row().length_of_below => self.bdrv_getlength(self.below(node)),
            Driver::File(file) => align_up(self.files.size(&file.path), 512),
            Driver::Qcow2(q) => q.size(),
            Driver::Nbd(nbd) => align_up(nbd.info.size, SECTOR),
            _ => return,
        };
        self.graph.nodes[node].size = size;
    }

    /// The driver's truncate. Leaves `Val::Done`.
    fn driver_truncate(&mut self, node: NodeId, size: u64, zero: bool) -> Flow {
        let fail = |text: &str| Val::Done(Err(QmpError::generic(text).with_errno(Errno::ENOTSUP)));
        match self.graph.nodes[node].drv() {
            Driver::File(_) => {
                self.push(HostWorkFrame::RawTruncated.into());
                self.device_submit(node, DeviceOp::Truncate, size, 0)
            }
            Driver::Null(_) | Driver::SnapshotAccess | Driver::Quorum(_) => {
                self.ret(fail("Image format driver does not support resize"))
            }
            Driver::Raw(raw) => {
                if raw.size.is_some() {
                    return self.ret(fail("Cannot resize fixed-size raw disks"));
                }
                let size = size + raw.offset;
                let below = self.below(node);
                self.seq([DiscardFrame::Truncate { node: below, size }.into()])
            }
            Driver::Qcow2(_) => self.qcow2_truncate(node, size, zero),
            Driver::Nbd(_) => self.nbd_truncate(node, size),
            // Filters pass it on.
            _ => {
                let below = self.below(node);
                self.seq([DiscardFrame::Truncate { node: below, size }.into()])
            }
        }
    }

    /// `bs->drv->bdrv_close`
    fn driver_close(&mut self, node: NodeId) -> Flow {
        match self.graph.nodes[node].driver.as_ref() {
            Some(Driver::Qcow2(_)) if self.graph.nodes[node].flags.inactive => self.driver_closed(node),
            Some(Driver::Qcow2(_)) if self.graph.nodes[node].file.is_some() && !self.graph.nodes[node].dropped => self
                .seq([
                    Frame::RunCo(Box::new(Qcow2Frame::Qcow2Close(node).into())),
                    DriverFrame::DriverClosed(node).into(),
                ]),
            Some(Driver::Cbw(cbw)) => {
                let own = cbw.bitmaps(node);
                self.release_bitmaps(&own);
                self.driver_closed(node)
            }
            Some(Driver::Throttle(_)) => {
                self.throttle_unregister(crate::world::arena::Member::Node(node));
                self.driver_closed(node)
            }
            Some(Driver::Nbd(_)) => {
                self.nbd_close(node);
                self.driver_closed(node)
            }
            Some(Driver::CopyOnRead(_)) => self.cor_close(node),
            Some(Driver::Quorum(_)) => self.seq([
                GraphLockFrame::GraphWrlock.into(),
                GraphFrame::UnrefChildren(node).into(),
                GraphLockFrame::GraphWrunlock.into(),
                DriverFrame::DriverClosed(node).into(),
            ]),
            _ => self.driver_closed(node),
        }
    }

    /// `bs->drv = NULL`. The driver's state stays until the children are gone; nobody sends requests any more.
    fn driver_closed(&mut self, node: NodeId) -> Flow {
        self.leave(Val::None);
        if let Some(busy) =
            self.graph.nodes[node].bitmaps.iter().find(|bitmap| bitmap.name().is_some() && bitmap.busy())
        {
            self.busy_bitmap_goes(node, busy.name().map_or("", |name| name));
        }
        self.graph.nodes[node].bitmaps.release_named();
        Flow::Go
    }
}
