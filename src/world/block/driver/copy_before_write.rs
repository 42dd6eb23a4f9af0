//! The copy-before-write filter: opened, put in and taken out, guest writes that wait for copying, and reads of what the disk held before (`block/copy-before-write.c`).

use super::Driver;
use super::block_copy_state::{BlockCopyState, CLUSTER_SIZE_DEFAULT, CallEnd, CopyCall, MAX_MEM, MAX_WORKERS};
use crate::base::errno::{Errno, Ret};
use crate::base::time::Span;
use crate::base::units::{align_down, align_up};
use crate::bitmap::{BitmapId, DirtyBitmap};
use crate::block::content::Data;
use crate::qmp::error::QmpError;
use crate::quirk::Quirk;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::timer::TimerKind;
use crate::world::arena::CallId;
use crate::world::arena::{ChildId, CoId, NodeId};
use crate::world::block::chain::ChainFrame;
use crate::world::block::driver::block_copy::BlockCopyFrame;
use crate::world::block::edges::EdgesFrame;
use crate::world::block::edges::Role;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::Node;
use crate::world::block::graph::OpenFlags;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::IoFrame;
use crate::world::block::io::request::IoFlags;
use crate::world::block::open::spec::DriverSpec;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::job::backup::BackupArgs;
use crate::world::value::{BlockStatus, Val};
use crate::world::watch::marks::CodePlace;

/// `BDRVCopyBeforeWriteState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CbwState {
    /// `BlockCopyState`
    pub bcs: BlockCopyState,
    /// The edge to the target, once attached.
    pub target: Option<ChildId>,
    /// `discard-source`
    pub discard_source: bool,
    /// It reads its source whoever uses it ([`Change::FilterReadsSource`]).
    pub reads_source: bool,
    /// What is left to copy.
    pub copy_bitmap: BitmapId,
    /// The node that has this bitmap, where it is not the filter.
    pub copy_bitmap_at: Option<NodeId>,
    /// What was copied for guest writes.
    pub done_bitmap: BitmapId,
    /// What a fleecing reader may see.
    pub access_bitmap: BitmapId,
    /// `on-cbw-error=break-snapshot`
    pub break_snapshot: bool,
    /// `cbw-timeout`; 0 is none.
    pub timeout: Span,
    /// Why the snapshot is broken.
    pub snapshot_error: Option<Errno>,
    /// Ranges that fleecing readers are reading from the source: offset, length.
    pub frozen_reads: Vec<(u64, u64)>,
    /// Guest writes that wait for them.
    pub frozen_waiters: Vec<CoId>,
}

impl Driver {
    /// Whether what is copied is then discarded from the source (`discard-source`).
    #[must_use]
    pub fn discards_source(&self) -> bool {
        matches!(self, Driver::Cbw(cbw) if cbw.discard_source)
    }
}

crate::base::time::rebase!(CbwState {
    moves: bcs;
    rest: target, discard_source, reads_source, copy_bitmap, copy_bitmap_at, done_bitmap, access_bitmap, break_snapshot, timeout, snapshot_error,
        frozen_reads, frozen_waiters
});

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
            reads_source: true,
            copy_bitmap,
            copy_bitmap_at: None,
            done_bitmap,
            access_bitmap,
            break_snapshot: false,
            timeout: Span::ZERO,
            snapshot_error: None,
            frozen_reads: Vec::new(),
            frozen_waiters: Vec::new(),
        }
    }
}

/// A read of the snapshot that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotRead {
    /// The copy-before-write node whose snapshot is read.
    pub cbw: NodeId,
    /// What is left to read: first byte.
    pub offset: u64,
    /// Bytes left.
    pub bytes: u64,
    /// Bytes of the part that is being read.
    pub part: u64,
    /// The range that guest writes must not change meanwhile (`BlockReq`).
    pub frozen: Option<(u64, u64)>,
    /// What was read so far.
    pub data: Data,
}

/// Where a part of the snapshot is (`cbw_snapshot_read_lock`).
pub(super) struct SnapshotPart {
    pub(super) node: NodeId,
    pub(super) bytes: u64,
    pub(super) frozen: Option<(u64, u64)>,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum CopyBeforeWriteFrame {
    CbwWaitFrozen { node: NodeId, from: u64, len: u64 },
    SnapshotReadDone(Box<SnapshotRead>),
    SnapshotStatusDone { cbw: NodeId, frozen: Option<(u64, u64)> },
    CbwCopyBeforeWrite { node: NodeId, offset: u64, bytes: u64 },
    CbwCallEnded(CallId),
    CbwCopied { node: NodeId, call: CallId, from: u64, len: u64 },
    CbwAppend(Box<BackupArgs>),
    CbwOpened { cbw: NodeId, discard_source: bool, min_cluster: u64 },
}

impl CopyBeforeWriteFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            CopyBeforeWriteFrame::CbwWaitFrozen { node, from, len } => w.cbw_wait_frozen(node, from, len),
            CopyBeforeWriteFrame::SnapshotReadDone(read) => w.snapshot_read_done(read),
            CopyBeforeWriteFrame::SnapshotStatusDone { cbw, frozen } => w.snapshot_status_done(cbw, frozen),
            CopyBeforeWriteFrame::CbwCopyBeforeWrite { node, offset, bytes } => {
                w.cbw_copy_before_write(node, offset, bytes)
            }
            CopyBeforeWriteFrame::CbwCallEnded(call) => w.cbw_call_ended(call),
            CopyBeforeWriteFrame::CbwCopied { node, call, from, len } => w.cbw_copied(node, call, from, len),
            CopyBeforeWriteFrame::CbwAppend(args) => w.cbw_append(&args),
            CopyBeforeWriteFrame::CbwOpened { cbw, discard_source, min_cluster } => {
                w.cbw_opened(cbw, discard_source, min_cluster)
            }
        }
    }
}

impl CbwState {
    /// The bitmaps of a filter, each with the node that has it.
    pub(super) fn bitmaps(&self, filter: NodeId) -> [(NodeId, BitmapId); 3] {
        let copy_at = self.copy_bitmap_at.unwrap_or(filter);
        [(filter, self.access_bitmap), (filter, self.done_bitmap), (copy_at, self.copy_bitmap)]
    }
}

/// `cbw_child_perm`
pub(super) fn child_perm(node: &Node, role: Role, taken: u8, shared: u8) -> (u8, u8) {
    let Driver::Cbw(cbw) = node.drv() else { unreachable!("it is its driver's hook") };
    let discard = if cbw.discard_source { perm::WRITE } else { 0 };
    match role {
        Role::Filtered if node.parents.is_empty() => (taken, shared),
        Role::Filtered => {
            let reads = if cbw.reads_source || taken & perm::WRITE != 0 { perm::CONSISTENT_READ } else { 0 };
            (taken | reads | discard, shared & !(perm::WRITE | perm::RESIZE))
        }
        _ => (perm::WRITE, perm::ALL & !perm::RESIZE),
    }
}

impl World {
    /// The bitmaps of a filter go, as far as their nodes are still there.
    pub(super) fn release_bitmaps(&mut self, own: &[(NodeId, BitmapId)]) {
        for (at, bitmap) in own {
            if let Some(node) = self.graph.nodes.get_mut(*at) {
                node.bitmaps.release(*bitmap);
            }
        }
    }

    /// The filter's state.
    pub fn cbw(&mut self, node: NodeId) -> &mut CbwState {
        match self.graph.nodes[node].driver.as_mut() {
            Some(Driver::Cbw(cbw)) => cbw,
            other => panic!("{node:?} is no copy-before-write filter: {other:?}"),
        }
    }

    pub(super) fn cbw_ref(&self, node: NodeId) -> &CbwState {
        match self.graph.nodes[node].driver.as_ref() {
            Some(Driver::Cbw(cbw)) => cbw,
            other => panic!("{node:?} is no copy-before-write filter: {other:?}"),
        }
    }

    /// `bdrv_cbw_append`: opens the filter on source and target and puts it above the source. Leaves `Val::Node`.
    fn cbw_append(&mut self, args: &BackupArgs) -> Flow {
        let fail = |w: &mut World, text: String| w.ret(Val::Node(Err(QmpError::generic(text))));
        let min_cluster = args.perf.min_cluster_size.unwrap_or(0);
        if min_cluster > i64::MAX as u64 {
            return fail(self, format!("min-cluster-size too large: {min_cluster} > {}", i64::MAX));
        }
        let mut node = Node::new();
        node.flags = OpenFlags { rdwr: true, ..OpenFlags::default() };
        let cbw = self.bdrv_new(node);
        if let Err(text) = self.assign_node_name(cbw, args.filter_node_name.as_deref()) {
            let err = QmpError::generic(format!("Could not create node: {text}"));
            self.push(Frame::Give(Box::new(Val::Node(Err(err)))));
            return self.seq([GraphFrame::BdrvUnref(cbw).into()]);
        }
        let len = self.bdrv_getlength(args.source);
        let node = &mut self.graph.nodes[cbw];
        node.size = len;
        node.driver = Some(Driver::Cbw(Box::new(CbwState {
            break_snapshot: args.break_snapshot,
            ..CbwState::new(len, args.discard_source)
        })));
        let (source, target) = (args.source, args.target);
        let attach = |name, role, bs| EdgesFrame::AttachToNode { parent: cbw, name, role, bs }.into();
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            attach("file", Role::Filtered, source),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
            Frame::if_ok([
                GraphLockFrame::GraphWrlock.into(),
                attach("target", Role::Data, target),
                Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
                Frame::if_ok([CopyBeforeWriteFrame::CbwOpened {
                    cbw,
                    discard_source: args.discard_source,
                    min_cluster,
                }
                .into()]),
            ]),
            ChainFrame::InsertNode { node: cbw, below: source }.into(),
        ])
    }

    /// The end of `cbw_open`. Leaves `Val::Done`.
    fn cbw_opened(&mut self, cbw: NodeId, discard_source: bool, min_cluster: u64) -> Flow {
        let fail = |w: &mut World, text: String| w.ret(Val::Done(Err(QmpError::generic(text))));
        let target_edge = self.cbw(cbw).target.expect("the target was attached");
        let source = self.graph.bs(self.graph.nodes[cbw].file.expect("the source was attached"));
        let target = self.graph.bs(target_edge);
        let largest = i64::MAX;
        if i64::try_from(min_cluster).is_err() {
            let text = format!("Cannot create block-copy-state: min-cluster-size too large: {min_cluster} > {largest}");
            return fail(self, text);
        }
        if min_cluster > 0 && !min_cluster.is_power_of_two() {
            return fail(self, "Cannot create block-copy-state: min-cluster-size needs to be a power of 2".to_owned());
        }
        // Unlike QEMU, which aborts when it copies the first cluster (`co_get_from_shres`), or from 4 GiB on when it makes the bitmaps
        // (`bdrv_create_dirty_bitmap`), as one cluster is more than all copies may hold.
        if min_cluster > MAX_MEM {
            let text = format!("Cannot create block-copy-state: min-cluster-size too large: {min_cluster} > {MAX_MEM}");
            return fail(self, text);
        }
        let target_cluster = match self.quirks.has(Quirk::TargetClusterLarger) {
            true => 0,
            false => self.cluster_size_of(target).unwrap_or(0),
        };
        let cluster_size = min_cluster.max(CLUSTER_SIZE_DEFAULT).max(target_cluster);
        let wanted = match self.cbw_wanted(cbw) {
            Ok(wanted) => wanted,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        let len = self.bdrv_getlength(source);
        let copy_bitmap_at = (!self.quirks.since(Change::CopyBitmapOfFilter)).then_some(source);
        let copy_node = copy_bitmap_at.unwrap_or(cbw);
        self.graph.nodes[cbw].size = len;
        let mut add = |node: NodeId| {
            let bitmaps = &mut self.graph.nodes[node].bitmaps;
            let bitmap = bitmaps.add_anonymous(len, cluster_size);
            bitmaps.get_mut(bitmap).expect("just made").set_enabled(false);
            bitmap
        };
        let (copy_bitmap, done_bitmap, access_bitmap) = (add(copy_node), add(cbw), add(cbw));
        if let Some(wanted) = &wanted {
            if let Err(text) = self.graph.nodes[copy_node].bitmaps.merge(copy_bitmap, wanted, false) {
                let name = wanted.name().cloned().unwrap_or_default();
                let text = format!(
                    "Cannot create block-copy-state: Failed to merge bitmap '{name}' to internal copy-bitmap: {text}"
                );
                return fail(self, text);
            }
            let copy = self.bits(copy_node, copy_bitmap).clone();
            self.graph.nodes[cbw].bitmaps.merge_internal(access_bitmap, &copy);
        } else {
            self.bits_mut(copy_node, copy_bitmap).set_all();
            self.bits_mut(cbw, access_bitmap).set_all();
        }
        let limit = |bl: u64| if bl == 0 { i32::MAX as u64 } else { bl };
        let max_transfer = limit(self.graph.nodes[source].bl.max_transfer)
            .min(limit(self.graph.nodes[target].bl.max_transfer))
            .min(i32::MAX as u64);
        let serialising = self.graph.chain_contains(target, source);
        let bcs = BlockCopyState::new(cluster_size, len, max_transfer, serialising, discard_source);
        let reads_source = self.quirks.since(Change::FilterReadsSource);
        let state = self.cbw(cbw);
        state.bcs = bcs;
        state.reads_source = reads_source;
        (state.copy_bitmap, state.done_bitmap, state.access_bitmap) = (copy_bitmap, done_bitmap, access_bitmap);
        state.copy_bitmap_at = copy_bitmap_at;
        self.refresh_limits(cbw);
        self.ret(Val::Done(Ok(())))
    }

    /// The bitmap that says what a filter copies (`bitmap`), where one was named.
    fn cbw_wanted(&self, cbw: NodeId) -> Result<Option<DirtyBitmap>, QmpError> {
        let spec = self.graph.nodes[cbw].spec.as_ref();
        let Some(DriverSpec::CopyBeforeWrite { bitmap: Some(at), .. }) = spec.map(|spec| &spec.driver) else {
            return Ok(None);
        };
        let (bs, id) = self.bitmap_lookup(at)?;
        Ok(self.graph.nodes[bs].bitmaps.get(id).cloned())
    }

    /// `cbw_do_copy_before_write`. Leaves `Val::Ret`.
    fn cbw_copy_before_write(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
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
        let copied = CopyBeforeWriteFrame::CbwCopied { node, call, from, len }.into();
        let timeout = self.cbw(node).timeout;
        if timeout == Span::ZERO {
            return self.seq([
                GraphLockFrame::Rdlock.into(),
                BlockCopyFrame::CopyCommon(call).into(),
                GraphLockFrame::Rdunlock.into(),
                copied,
            ]);
        }
        // `qemu_co_timeout`
        let waiter = self.current();
        self.calls[call].waiter = Some(waiter);
        let co = self.co_create([
            CopyBeforeWriteFrame::CbwCallEnded(call).into(),
            GraphLockFrame::Rdunlock.into(),
            BlockCopyFrame::CopyCommon(call).into(),
            GraphLockFrame::Rdlock.into(),
        ]);
        self.aio_co_wake(co);
        self.timer_set(self.now + timeout, TimerKind::CoSleep(waiter));
        self.push(copied);
        Flow::Yield(Wait::Sleep)
    }

    /// `qemu_co_timeout_entry`: the copying has come to an end; who still waits for it goes on.
    fn cbw_call_ended(&mut self, call: crate::world::arena::CallId) -> Flow {
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
    fn cbw_copied(&mut self, node: NodeId, call: crate::world::arena::CallId, from: u64, len: u64) -> Flow {
        let failure = if self.calls[call].finished {
            self.calls.remove(call).and_then(|call| call.failure).map(|(errno, _)| errno)
        } else {
            self.calls[call].abandoned = true;
            self.block_copy_call_cancel(call);
            Some(Errno::ETIMEDOUT)
        };
        if let Some(errno) = failure {
            self.reach(CodePlace::CbwFails);
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

    /// `reqlist_wait_all(&s->frozen_read_reqs)`: a guest write waits for the reads of what it will change. Leaves `Val::Ret`.
    fn cbw_wait_frozen(&mut self, node: NodeId, from: u64, len: u64) -> Flow {
        let co = self.current();
        let state = self.cbw(node);
        if state.frozen_reads.iter().any(|(offset, bytes)| *offset < from + len && from < offset + bytes) {
            state.frozen_waiters.push(co);
            self.push(CopyBeforeWriteFrame::CbwWaitFrozen { node, from, len }.into());
            return Flow::Yield(Wait::Queue("reads of the snapshot"));
        }
        self.ret(Val::Ret(Ok(())))
    }

    /// `cbw_snapshot_read_lock`
    pub(super) fn snapshot_lock(&mut self, cbw: NodeId, offset: u64, bytes: u64) -> Ret<SnapshotPart> {
        let state = self.cbw(cbw);
        let (access, done, target) = (state.access_bitmap, state.done_bitmap, state.target);
        if state.snapshot_error.is_some() || self.bits(cbw, access).next_zero(offset, bytes).is_some() {
            return Err(Errno::EACCES);
        }
        let (copied, bytes_alike) = self.bits(cbw, done).status(offset, bytes);
        if copied {
            let node = self.graph.bs(target.expect("the filter was opened"));
            return Ok(SnapshotPart { node, bytes: bytes_alike, frozen: None });
        }
        let node = self.below(cbw);
        self.cbw(cbw).frozen_reads.push((offset, bytes));
        Ok(SnapshotPart { node, bytes: bytes_alike, frozen: Some((offset, bytes)) })
    }

    /// `cbw_snapshot_read_unlock`
    fn snapshot_unlock(&mut self, cbw: NodeId, frozen: Option<(u64, u64)>) {
        let state = self.cbw(cbw);
        if let Some(at) = frozen.and_then(|range| state.frozen_reads.iter().position(|read| *read == range)) {
            state.frozen_reads.remove(at);
            let waiting = std::mem::take(&mut state.frozen_waiters);
            self.wake_all(waiting);
        }
    }

    /// `cbw_co_preadv_snapshot`: the next part. Leaves `Val::Data`.
    pub(super) fn snapshot_read(&mut self, mut read: Box<SnapshotRead>) -> Flow {
        if read.bytes == 0 {
            return self.ret(Val::Data(Ok(read.data)));
        }
        match self.snapshot_lock(read.cbw, read.offset, read.bytes) {
            Err(errno) => self.ret(Val::Data(Err(errno))),
            Ok(place) => {
                (read.part, read.frozen) = (place.bytes, place.frozen);
                let part =
                    IoFrame::Preadv { node: place.node, offset: read.offset, bytes: place.bytes, flags: IoFlags::NONE }
                        .into();
                self.seq([part, CopyBeforeWriteFrame::SnapshotReadDone(read).into()])
            }
        }
    }

    /// A part was read.
    fn snapshot_read_done(&mut self, mut read: Box<SnapshotRead>) -> Flow {
        self.snapshot_unlock(read.cbw, read.frozen.take());
        match self.take_data() {
            Err(errno) => self.ret(Val::Data(Err(errno))),
            Ok(data) => {
                read.data.append(&data);
                read.offset += read.part;
                read.bytes -= read.part;
                self.snapshot_read(read)
            }
        }
    }

    /// The status of a part is known. Leaves `Val::Status`.
    fn snapshot_status_done(&mut self, cbw: NodeId, frozen: Option<(u64, u64)>) -> Flow {
        self.snapshot_unlock(cbw, frozen);
        let status: Ret<BlockStatus> = self.take();
        // Where it lies in another node's file says nothing here.
        let status = status.map(|status| BlockStatus { map: None, eof: false, ..status });
        self.ret(Val::Status(status))
    }
}
