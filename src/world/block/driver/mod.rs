//! The block drivers: what each does with a request (`block/file-posix.c`, `null.c`, `raw-format.c`, `blkdebug.c`,
//! `copy-before-write.c`; `qcow2` is in `qcow2.rs`).

pub mod block_copy;
pub mod copy_on_read;
pub mod mirror_top;
pub mod qcow2;
pub mod qcow2_create;
pub mod rows;
pub mod snapshot_access;
pub mod throttle;

use super::graph::BlockLimits;
use super::io::{IoFlags, WriteReq};
use crate::base::errno::Errno;
use crate::base::units::{Nanos, align_down, align_up};
use crate::bitmap::BitmapId;
use crate::block::blkdebug::{Blkdebug, IoType};
use crate::block::content::Data;
use crate::block::event::BlkdebugEvent;
use crate::qmp::error::QmpError;
use crate::quirk::Quirk;
use crate::trace::{Level, RecordKind};
use crate::world::World;
use crate::world::aio::{DeviceOp, TimerKind, Wait};
use crate::world::arena::{ChildId, CoId, NodeId};
use crate::world::frame::{Flow, Frame};
use crate::world::value::{BlockStatus, Val};
use crate::world::watch::feed::Seen;
use crate::world::watch::marks::Place;
use block_copy::{BlockCopyState, CLUSTER_SIZE_DEFAULT, CallEnd, CopyCall, MAX_WORKERS};
use qcow2::Qcow2Node;
use std::sync::Arc;
use throttle::Member;

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
}

/// `BDRVRawState` of `file-posix.c`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileDriver {
    /// Name of the file on the simulated host.
    pub path: Arc<str>,
    /// The name it was opened by.
    pub filename: Arc<str>,
    /// `locking`: whether others on the host are kept away.
    pub locking: bool,
    /// `discard_nb_ok`, `discard_bytes_ok`: how many discards there were, and of how many bytes.
    pub discards: (u64, u64),
}

/// `BDRVNullState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NullDriver {
    /// It is `null-aio`.
    pub aio: bool,
    /// Nanoseconds a request takes.
    pub latency_ns: Nanos,
    /// `read-zeroes`
    pub read_zeroes: bool,
}

/// `BDRVRawState` of `raw-format.c`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RawDriver {
    /// Bytes skipped in the file.
    pub offset: u64,
    /// `size` was given.
    pub size: Option<u64>,
    /// The format was guessed (`bs->probed`).
    pub probed: bool,
}

/// `BDRVBlkdebugState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlkdebugDriver {
    /// Rules, state, breakpoints and limits.
    pub engine: Blkdebug,
    /// `take-child-perms`
    pub take_child_perms: u8,
    /// `unshare-child-perms`
    pub unshare_child_perms: u8,
    /// `config`
    pub config: Option<Arc<str>>,
}

/// `BDRVCopyBeforeWriteState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CbwState {
    /// `BlockCopyState`
    pub bcs: BlockCopyState,
    /// The edge to the target, once attached.
    pub target: Option<ChildId>,
    /// `discard-source`
    pub discard_source: bool,
    /// What is left to copy.
    pub copy_bitmap: BitmapId,
    /// What was copied for guest writes.
    pub done_bitmap: BitmapId,
    /// What a fleecing reader may see.
    pub access_bitmap: BitmapId,
    /// `on-cbw-error=break-snapshot`
    pub break_snapshot: bool,
    /// `cbw-timeout`; 0 is none.
    pub timeout: Nanos,
    /// Why the snapshot is broken.
    pub snapshot_error: Option<Errno>,
    /// Ranges that fleecing readers are reading from the source: offset, length.
    pub frozen_reads: Vec<(u64, u64)>,
    /// Guest writes that wait for them.
    pub frozen_waiters: Vec<CoId>,
}

impl CbwState {
    /// The state before `cbw_open`, above a node of `len` bytes.
    #[must_use]
    pub fn new(len: u64, discard_source: bool) -> CbwState {
        let [copy_bitmap, done_bitmap, access_bitmap] = [BitmapId(u32::MAX); 3];
        let bcs = BlockCopyState::new(CLUSTER_SIZE_DEFAULT, len, 0, false, discard_source);
        CbwState {
            bcs,
            target: None,
            discard_source,
            copy_bitmap,
            done_bitmap,
            access_bitmap,
            break_snapshot: false,
            timeout: 0,
            snapshot_error: None,
            frozen_reads: Vec::new(),
            frozen_waiters: Vec::new(),
        }
    }
}

/// A request of a `throttle` node waits for its turn.
fn throttled(node: NodeId, write: bool, bytes: u64) -> Frame {
    Frame::ThrottleWait { who: Member::Node(node), write, bytes }
}

impl World {
    /// The node that requests are passed on to (`bdrv_primary_bs`). A filter that a job has taken out of its place has none, if the job
    /// is there still: QEMU follows a null pointer then.
    pub(in crate::world) fn below(&self, node: NodeId) -> NodeId {
        let Some(edge) = self.graph.primary_child(node) else {
            let subject = format!("node {}", self.graph.nodes[node].node_name);
            Self::qemu_aborts(subject, "a filter that was taken away has no node below");
        };
        self.graph.bs(edge)
    }

    /// The blkdebug driver of a node.
    pub(in crate::world) fn blkdebug_mut(&mut self, node: NodeId) -> Option<&mut BlkdebugDriver> {
        match self.graph.nodes.get_mut(node)?.driver.as_mut()? {
            Driver::Blkdebug(b) => Some(b),
            _ => None,
        }
    }

    /// `wait_break`'s condition.
    #[must_use]
    pub fn blkdebug_is_suspended(&self, node: NodeId, tag: &str) -> bool {
        match self.graph.nodes.get(node).and_then(|n| n.driver.as_ref()) {
            Some(Driver::Blkdebug(b)) => b.engine.is_suspended(tag),
            _ => false,
        }
    }

    /// `bdrv_driver_preadv`: the driver's read. Leaves `Val::Data`.
    pub(in crate::world) fn driver_preadv(&mut self, node: NodeId, offset: u64, bytes: u64, flags: IoFlags) -> Flow {
        if self.graph.nodes[node].dropped {
            return self.ret(Val::Data(Err(Errno::ENOMEDIUM)));
        }
        match self.graph.nodes[node].drv() {
            Driver::File(_) => self.device_submit(node, DeviceOp::Read, offset, bytes),
            Driver::Null(null) => {
                let latency = null.latency_ns;
                self.null_request(node, latency, Val::Data(Ok(Data::zeroes(bytes))))
            }
            Driver::Raw(raw) => {
                let offset = offset + raw.offset;
                let below = self.below(node);
                self.seq([
                    Frame::ChildEvent { node, event: BlkdebugEvent::ReadAio },
                    Frame::Preadv { node: below, offset, bytes, flags: IoFlags::NONE },
                ])
            }
            Driver::Blkdebug(_) => self.seq([
                Frame::RuleCheck { node, iotype: IoType::Read, offset, bytes },
                Frame::StopOnError(1),
                Frame::PassRead { node, offset, bytes },
            ]),
            Driver::Cbw(_) | Driver::MirrorTop(_) | Driver::CommitTop => self.pass_read(node, offset, bytes),
            Driver::CopyOnRead(_) => self.cor_co_preadv(node, offset, bytes, flags),
            Driver::Qcow2(_) => self.qcow2_preadv(node, offset, bytes),
            Driver::SnapshotAccess => self.snapshot_preadv(node, offset, bytes),
            Driver::Throttle(_) => self.seq([throttled(node, false, bytes), Frame::PassRead { node, offset, bytes }]),
        }
    }

    /// A read passed on to the node below.
    pub(in crate::world) fn pass_read(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let below = self.below(node);
        self.seq([Frame::Preadv { node: below, offset, bytes, flags: IoFlags::NONE }])
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
                let latency = null.latency_ns;
                self.null_request(node, latency, Val::Ret(Ok(())))
            }
            Driver::Raw(raw) => {
                let shift = raw.offset;
                self.seq([Frame::ChildEvent { node, event: BlkdebugEvent::WriteAio }, Frame::PassWrite { req, shift }])
            }
            Driver::Blkdebug(_) => {
                let check = Frame::RuleCheck { node, iotype: IoType::Write, offset: req.offset, bytes: req.bytes };
                self.write_after(check, req)
            }
            Driver::Cbw(_) => {
                let copy = Frame::CbwCopyBeforeWrite { node, offset: req.offset, bytes: req.bytes };
                self.write_after(copy, req)
            }
            Driver::Qcow2(_) => self.qcow2_pwritev(req),
            Driver::SnapshotAccess | Driver::CommitTop => self.ret(Val::err(Errno::ENOTSUP)),
            Driver::Throttle(_) => self.write_throttled(req),
            Driver::CopyOnRead(_) | Driver::MirrorTop(_) => self.pass_write(req, 0),
        }
    }

    /// What a filter does first, and if that went well the write, passed on.
    fn write_after(&mut self, first: Frame, req: Box<WriteReq>) -> Flow {
        self.seq([first, Frame::StopOnError(1), Frame::PassWrite { req, shift: 0 }])
    }

    /// A write that waits for its turn, and is passed on.
    fn write_throttled(&mut self, req: Box<WriteReq>) -> Flow {
        self.seq([throttled(req.node, true, req.bytes), Frame::PassWrite { req, shift: 0 }])
    }

    /// A write passed on to the node below.
    pub(in crate::world) fn pass_write(&mut self, mut req: Box<WriteReq>, shift: u64) -> Flow {
        req.node = self.below(req.node);
        req.offset += shift;
        req.unpadded = None;
        req.flags = req.flags.without(IoFlags::SERIALISING).without(IoFlags::FUA);
        self.seq([Frame::Pwritev(req)])
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
    pub fn supports_compressed_writes(&self, node: NodeId) -> bool {
        let n = &self.graph.nodes[node];
        match n.drv() {
            Driver::Qcow2(_) => !n.dropped,
            Driver::Throttle(_) | Driver::CopyOnRead(_) => self.supports_compressed_writes(self.below(node)),
            Driver::Blkdebug(_)
            | Driver::Cbw(_)
            | Driver::MirrorTop(_)
            | Driver::CommitTop
            | Driver::File(_)
            | Driver::Null(_)
            | Driver::Raw(_)
            | Driver::SnapshotAccess => false,
        }
    }

    /// Whether the node takes zero writes with `BDRV_REQ_NO_FALLBACK` (`supported_zero_flags`).
    #[must_use]
    pub fn supports_zero_no_fallback(&self, node: NodeId) -> bool {
        let n = &self.graph.nodes[node];
        match n.drv() {
            Driver::File(_) => true,
            Driver::Null(_) | Driver::Qcow2(_) | Driver::SnapshotAccess | Driver::CommitTop => false,
            Driver::Raw(_)
            | Driver::Blkdebug(_)
            | Driver::Cbw(_)
            | Driver::Throttle(_)
            | Driver::CopyOnRead(_)
            | Driver::MirrorTop(_) => self.supports_zero_no_fallback(self.below(node)),
        }
    }

    /// The driver's zero write. Leaves `Val::Ret`.
    pub(in crate::world) fn driver_pwrite_zeroes(&mut self, req: Box<WriteReq>) -> Flow {
        let node = req.node;
        match self.graph.nodes[node].drv() {
            Driver::File(_) => {
                let op = DeviceOp::Zero { unmap: req.flags.has(IoFlags::MAY_UNMAP) };
                self.device_submit(node, op, req.offset, req.bytes)
            }
            Driver::Null(_) => self.ret(Val::err(Errno::ENOTSUP)),
            Driver::Raw(raw) => {
                let shift = raw.offset;
                self.pass_write(req, shift)
            }
            Driver::Blkdebug(b) => {
                let align = b.engine.limits().opt_write_zero.max(self.graph.nodes[node].bl.request_alignment);
                if req.bytes < align {
                    return self.ret(Val::err(Errno::ENOTSUP));
                }
                let check =
                    Frame::RuleCheck { node, iotype: IoType::WriteZeroes, offset: req.offset, bytes: req.bytes };
                self.write_after(check, req)
            }
            Driver::Cbw(_) => {
                let copy = Frame::CbwCopyBeforeWrite { node, offset: req.offset, bytes: req.bytes };
                self.write_after(copy, req)
            }
            Driver::Qcow2(_) => self.qcow2_pwrite_zeroes(req),
            Driver::SnapshotAccess | Driver::CommitTop => self.ret(Val::err(Errno::ENOTSUP)),
            Driver::Throttle(_) => self.write_throttled(req),
            Driver::CopyOnRead(_) | Driver::MirrorTop(_) => self.pass_write(req, 0),
        }
    }

    /// The driver's discard. Leaves `Val::Ret`.
    pub(in crate::world) fn driver_pdiscard(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        match self.graph.nodes[node].drv() {
            Driver::File(_) => self.device_submit(node, DeviceOp::Discard, offset, bytes),
            Driver::Null(_) => self.ret(Val::err(Errno::ENOTSUP)),
            Driver::Raw(raw) => {
                let offset = offset + raw.offset;
                let below = self.below(node);
                self.seq([Frame::Pdiscard { node: below, offset, bytes }])
            }
            Driver::Blkdebug(_) => self.seq([
                Frame::RuleCheck { node, iotype: IoType::Discard, offset, bytes },
                Frame::StopOnError(1),
                Frame::PassDiscard { node, offset, bytes },
            ]),
            Driver::Cbw(_) => self.seq([
                Frame::CbwCopyBeforeWrite { node, offset, bytes },
                Frame::StopOnError(1),
                Frame::PassDiscard { node, offset, bytes },
            ]),
            Driver::Qcow2(_) => self.qcow2_pdiscard(node, offset, bytes),
            Driver::SnapshotAccess => self.snapshot_pdiscard(node, offset, bytes),
            Driver::CommitTop => self.ret(Val::err(Errno::ENOTSUP)),
            Driver::CopyOnRead(_) | Driver::MirrorTop(_) => self.pass_discard(node, offset, bytes),
            Driver::Throttle(_) => self.seq([throttled(node, true, bytes), Frame::PassDiscard { node, offset, bytes }]),
        }
    }

    /// A discard passed on to the node below.
    pub(in crate::world) fn pass_discard(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let below = self.below(node);
        self.seq([Frame::Pdiscard { node: below, offset, bytes }])
    }

    /// `bdrv_co_flush_to_os`
    pub(in crate::world) fn driver_flush_to_os(&mut self, node: NodeId) -> Flow {
        match self.graph.nodes[node].drv() {
            Driver::Qcow2(_) => self.qcow2_flush_to_os(node),
            _ => self.ret(Val::Ret(Ok(()))),
        }
    }

    /// `bdrv_co_flush_to_disk`
    pub(in crate::world) fn driver_flush_to_disk(&mut self, node: NodeId) -> Flow {
        if self.graph.nodes[node].dropped {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        match self.graph.nodes[node].drv() {
            Driver::File(_) => self.device_submit(node, DeviceOp::Flush, 0, 0),
            Driver::Null(null) => {
                let latency = null.latency_ns;
                self.null_request(node, latency, Val::Ret(Ok(())))
            }
            Driver::Blkdebug(_) => self.seq([Frame::RuleCheck { node, iotype: IoType::Flush, offset: 0, bytes: 0 }]),
            Driver::Raw(_)
            | Driver::Cbw(_)
            | Driver::Qcow2(_)
            | Driver::SnapshotAccess
            | Driver::Throttle(_)
            | Driver::CopyOnRead(_)
            | Driver::MirrorTop(_)
            | Driver::CommitTop => self.ret(Val::Ret(Ok(()))),
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
            Driver::Cbw(_) | Driver::Throttle(_) | Driver::CopyOnRead(_) | Driver::MirrorTop(_) | Driver::CommitTop => {
                self.status_raw(node, offset, bytes, want_zero)
            }
            Driver::Blkdebug(_) => self.seq([
                Frame::RuleCheck { node, iotype: IoType::BlockStatus, offset, bytes },
                Frame::StatusOrError,
                Frame::StatusRaw { node, offset, bytes, want_zero },
            ]),
            Driver::Qcow2(_) => self.qcow2_block_status(node, offset, bytes, want_zero),
            Driver::SnapshotAccess => self.snapshot_status(node, offset, bytes, want_zero),
        }
    }

    /// `BDRV_BLOCK_RAW`: the answer is the one of the node below.
    pub(in crate::world) fn status_raw(&mut self, node: NodeId, offset: u64, bytes: u64, want_zero: bool) -> Flow {
        let below = self.below(node);
        self.seq([Frame::Status { node: below, offset, bytes, want_zero }])
    }

    /// A request to a null device: at once, or after its latency.
    fn null_request(&mut self, node: NodeId, latency: Nanos, result: Val) -> Flow {
        if latency == 0 {
            let aio = matches!(self.graph.nodes[node].drv(), Driver::Null(n) if n.aio);
            if !aio {
                return self.ret(result);
            }
        }
        self.stack.push(Frame::Give(Box::new(result)));
        self.device_submit(node, DeviceOp::Nothing, 0, latency)
    }

    /// `BLKDBG_CO_EVENT` on the child `bs->file` of a node.
    pub(in crate::world) fn child_event(&mut self, node: NodeId, event: BlkdebugEvent) -> Flow {
        match self.graph.nodes[node].file {
            Some(child) => {
                let below = self.graph.bs(child);
                self.blkdebug_event(below, event)
            }
            None => Flow::Go,
        }
    }

    /// `blkdebug_co_debug_event`, if the node is a blkdebug.
    pub(in crate::world) fn blkdebug_event(&mut self, node: NodeId, event: BlkdebugEvent) -> Flow {
        let Driver::Blkdebug(driver) = self.graph.nodes[node].drv() else { return Flow::Go };
        if !driver.engine.listens(event) {
            return Flow::Go;
        }
        let co = self.current();
        let driver = self.blkdebug_mut(node).expect("just looked");
        let effects = driver.engine.event(event, co.0);
        if self.trace.wants(Level::Io) {
            let name = self.graph.nodes[node].node_name.clone();
            if let Some(change) = &effects.state {
                let (from, to) = (change.from.unsigned_abs(), change.to.unsigned_abs());
                let kind = || RecordKind::BlkdebugState { node: name, event: event.name(), from, to };
                self.trace.emit(Level::Io, self.now, kind);
            }
        }
        if let Some(tag) = effects.suspended.first() {
            for tag in &effects.suspended {
                self.console(&crate::block::blkdebug::suspended_text(tag));
            }
            // The result of what came before is still wanted afterwards.
            let kept = std::mem::take(&mut self.reg);
            self.stack.push(Frame::Give(Box::new(kept)));
            return Flow::Yield(Wait::Suspended(tag.clone()));
        }
        Flow::Go
    }

    /// `blkdebug.c:rule_check`. Leaves `Val::Ret`.
    pub(in crate::world) fn rule_check(&mut self, node: NodeId, iotype: IoType, offset: u64, bytes: u64) -> Flow {
        let quirks = self.quirks;
        let driver = self.blkdebug_mut(node).expect("the node is a blkdebug");
        let Some(failure) = driver.engine.check(iotype, offset, bytes) else {
            return self.ret(Val::Ret(Ok(())));
        };
        if let Some(rule) = failure.rule.filter(|rule| driver.engine.fires_once(*rule)) {
            if quirks.has(Quirk::BlkdebugOnceRearms) {
                driver.engine.rearm(rule);
            }
            let name = self.graph.nodes[node].node_name.clone();
            self.see(|| Seen::Fault { node, name, rule, once: true });
        }
        if self.trace.wants(Level::Io) {
            let name = self.graph.nodes[node].node_name.clone();
            let (rule, errno) = (failure.rule.map_or(u32::MAX, u32::from), failure.errno);
            let kind = || RecordKind::Fault { node: name, rule, errno, op: iotype.name(), offset, bytes };
            self.trace.emit(Level::Io, self.now, kind);
        }
        let result = Val::err(failure.errno);
        if failure.immediately {
            return self.ret(result);
        }
        self.stack.push(Frame::Give(Box::new(result)));
        self.co_reschedule()
    }

    /// `cbw_do_copy_before_write`. Leaves `Val::Ret`.
    pub(in crate::world) fn cbw_copy_before_write(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        if self.cbw(node).snapshot_error.is_some() {
            return self.ret(Val::Ret(Ok(())));
        }
        let cluster = self.cbw(node).bcs.cluster_size;
        let from = align_down(offset, cluster);
        let len = align_up(offset + bytes, cluster) - from;
        self.node_inc_in_flight(node);
        let call = self.calls.insert(CopyCall {
            max_workers: MAX_WORKERS,
            ignore_ratelimit: true,
            ..CopyCall::new(node, from, len, CallEnd::Cbw(node))
        });
        let copied = Frame::CbwCopied { node, call, from, len };
        let timeout = self.cbw(node).timeout;
        if timeout == 0 {
            return self.seq([Frame::Rdlock, Frame::CopyCommon(call), Frame::Rdunlock, copied]);
        }
        // `qemu_co_timeout`
        let waiter = self.current();
        self.calls[call].waiter = Some(waiter);
        let co = self.co_create([Frame::CbwCallEnded(call), Frame::Rdunlock, Frame::CopyCommon(call), Frame::Rdlock]);
        self.aio_co_wake(co);
        self.timer_set(self.now.saturating_add(timeout), TimerKind::CoSleep(waiter));
        self.stack.push(copied);
        Flow::Yield(Wait::Sleep)
    }

    /// `qemu_co_timeout_entry`: the copying has come to an end; who still waits for it goes on.
    pub(in crate::world) fn cbw_call_ended(&mut self, call: crate::world::arena::CallId) -> Flow {
        let ended = &mut self.calls[call];
        if ended.abandoned {
            self.calls.remove(call);
        } else if let Some(waiter) = ended.waiter.take() {
            self.timer_del(TimerKind::CoSleep(waiter));
            self.aio_co_wake(waiter);
        }
        Flow::Go
    }

    /// The end of `cbw_do_copy_before_write`.
    pub(in crate::world) fn cbw_copied(
        &mut self,
        node: NodeId,
        call: crate::world::arena::CallId,
        from: u64,
        len: u64,
    ) -> Flow {
        let failure = if self.calls[call].finished {
            self.calls.remove(call).and_then(|call| call.failure).map(|(errno, _)| errno)
        } else {
            self.calls[call].abandoned = true;
            self.block_copy_call_cancel(call);
            Some(Errno::ETIMEDOUT)
        };
        if let Some(errno) = failure {
            self.reach(Place::CbwFails);
            let state = self.cbw(node);
            if !state.break_snapshot {
                return self.ret(Val::err(errno));
            }
            state.snapshot_error.get_or_insert(errno);
        } else {
            let done = self.cbw(node).done_bitmap;
            let bits = self.bits_mut(node, done);
            // A format above writes behind the end of its file, which was shorter when the job began. Unlike QEMU, which aborts
            // (`hbitmap_set`), there is nothing to note of what the backup does not cover.
            bits.set(from, len.min(bits.size().saturating_sub(from)));
        }
        self.cbw_wait_frozen(node, from, len)
    }

    /// `bdrv_get_info`'s cluster size: `None` where the driver has no such notion.
    #[must_use]
    pub fn cluster_size_of(&self, node: NodeId) -> Option<u64> {
        match self.graph.nodes[node].driver.as_ref()? {
            Driver::Qcow2(q) => Some(q.cluster_size()),
            Driver::Raw(_)
            | Driver::Blkdebug(_)
            | Driver::Cbw(_)
            | Driver::Throttle(_)
            | Driver::CopyOnRead(_)
            | Driver::MirrorTop(_)
            | Driver::CommitTop => self.cluster_size_of(self.below(node)),
            Driver::File(_) => Some(0),
            Driver::Null(_) | Driver::SnapshotAccess => None,
        }
    }

    /// `bdrv_refresh_limits`
    pub fn refresh_limits(&mut self, node: NodeId) {
        let n = &self.graph.nodes[node];
        let mut bl = BlockLimits { request_alignment: 1, ..BlockLimits::default() };
        if let Some(child) = self.graph.primary_child(node) {
            bl.max_transfer = self.graph.nodes[self.graph.bs(child)].bl.max_transfer;
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
            Driver::File(_)
            | Driver::Null(_)
            | Driver::Raw(_)
            | Driver::Cbw(_)
            | Driver::SnapshotAccess
            | Driver::Throttle(_)
            | Driver::CopyOnRead(_)
            | Driver::MirrorTop(_)
            | Driver::CommitTop => {}
        }
        self.graph.nodes[node].bl = bl;
    }

    /// `bdrv_refresh_total_sectors` after a resize: nodes that only pass on have the length of the node below.
    pub fn refresh_total_sectors(&mut self, node: NodeId) {
        let size = match self.graph.nodes[node].drv() {
            Driver::Raw(raw) if raw.size.is_none() => self.bdrv_getlength(self.below(node)).saturating_sub(raw.offset),
            driver if driver.row().length_of_below => self.bdrv_getlength(self.below(node)),
            Driver::File(file) => align_up(self.files.size(&file.path), 512),
            Driver::Qcow2(q) => q.size(),
            _ => return,
        };
        self.graph.nodes[node].size = size;
    }

    /// The driver's truncate. Leaves `Val::Done`.
    pub(in crate::world) fn driver_truncate(&mut self, node: NodeId, size: u64, zero: bool) -> Flow {
        let fail = |text: &str| Val::Done(Err(QmpError::generic(text)));
        match self.graph.nodes[node].drv() {
            Driver::File(_) => {
                self.stack.push(Frame::RawTruncated);
                self.device_submit(node, DeviceOp::Truncate, size, 0)
            }
            Driver::Null(_) | Driver::SnapshotAccess => self.ret(fail("Image format driver does not support resize")),
            Driver::Raw(raw) => {
                if raw.size.is_some() {
                    return self.ret(fail("Cannot resize fixed-size raw disks"));
                }
                let size = size + raw.offset;
                let below = self.below(node);
                self.seq([Frame::Truncate { node: below, size }])
            }
            Driver::Blkdebug(_)
            | Driver::Cbw(_)
            | Driver::Throttle(_)
            | Driver::CopyOnRead(_)
            | Driver::MirrorTop(_)
            | Driver::CommitTop => {
                let below = self.below(node);
                self.seq([Frame::Truncate { node: below, size }])
            }
            Driver::Qcow2(_) => self.qcow2_truncate(node, size, zero),
        }
    }

    /// `bdrv_write_threshold_check_write`
    pub(in crate::world) fn write_threshold_check(&mut self, node: NodeId, offset: u64, bytes: u64) {
        let n = &mut self.graph.nodes[node];
        let end = offset + bytes;
        if n.write_threshold > 0 && end > n.write_threshold {
            let threshold = std::mem::take(&mut n.write_threshold);
            let data = crate::base::Json::dict(vec![
                ("node-name", crate::base::Json::Str(n.node_name.clone())),
                ("amount-exceeded", crate::base::Json::uint(end - threshold)),
                ("write-threshold", crate::base::Json::uint(threshold)),
            ]);
            self.emit("BLOCK_WRITE_THRESHOLD", data);
        }
    }
}
