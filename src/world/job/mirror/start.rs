//! The start of a mirror: its filter above the source, the job, the target (`block/mirror.c:mirror_start_job`).

use super::{BackingMode, DEFAULT_BUF_SIZE, MirrorFrame, MirrorJob};
use crate::base::units::align_up;
use crate::bitmap::{HBitmap, default_granularity};
use crate::job::status::JobType;
use crate::qmp::error::QmpError;
use crate::qmp::types::{MirrorCopyMode, OnError, SyncMode};
use crate::quirk::Quirk;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{JobId, NodeId};
use crate::world::block::backend::BackendFrame;
use crate::world::block::drain::DrainFrame;
use crate::world::block::driver::Driver;
use crate::world::block::driver::mirror_top::MirrorTop;
use crate::world::block::edges::EdgesFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::{Node, OpenFlags};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::open::reopen::Reopen;
use crate::world::block::open::reopen::ReopenFrame;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::job::JobFrame;
use crate::world::job::hooks::JobDriver;
use crate::world::job::{JobFlags, Perms};
use crate::world::value::Val;
use std::sync::Arc;

/// The arguments of `mirror_start_job`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MirrorArgs {
    /// ID and flags.
    pub flags: JobFlags,
    /// The node to copy.
    pub bs: NodeId,
    /// Where to.
    pub target: NodeId,
    /// `replaces`
    pub replaces: Option<Arc<str>>,
    /// `granularity`, in bytes; 0 is the target's.
    pub granularity: u64,
    /// `buf-size`, in bytes; 0 is 16 MiB.
    pub buf_size: i64,
    /// What becomes of the target's backing file.
    pub backing_mode: BackingMode,
    /// What the target holds is not known.
    pub zero_target: bool,
    /// Somebody says that the target reads as zeroes.
    pub target_is_zero: bool,
    /// `on-source-error`
    pub on_source_error: OnError,
    /// `on-target-error`
    pub on_target_error: OnError,
    /// `unmap`
    pub unmap: bool,
    /// `sync=none`
    pub is_none_mode: bool,
    /// `sync=top`
    pub is_top_mode: bool,
    /// What is below is not copied.
    pub base: Option<NodeId>,
    /// `filter-node-name`
    pub filter_node_name: Option<Arc<str>>,
    /// It is a mirror, not the commit of an active layer.
    pub is_mirror: bool,
    /// `copy-mode`
    pub copy_mode: MirrorCopyMode,
    /// The base was read-only before.
    pub base_ro: bool,
}

/// The arguments of `commit_active_start`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitActiveArgs {
    /// ID and flags.
    pub flags: JobFlags,
    /// `bs`: the topmost node of the chain that is mirrored or committed.
    pub bs: NodeId,
    /// The node to commit into.
    pub base: NodeId,
    /// `on-error`
    pub on_error: OnError,
    /// `filter-node-name`
    pub filter_node_name: Option<Arc<str>>,
}

/// A mirror that is being started.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Starting {
    args: MirrorArgs,
    /// `mirror_top_bs`: the filter above it.
    top: NodeId,
    /// `target_is_backing`: the target is below the source.
    target_is_backing: bool,
}

impl World {
    /// `mirror_start`. Leaves `Val::Done`.
    pub(in crate::world) fn mirror_start(&mut self, mut args: MirrorArgs, sync: SyncMode) -> Flow {
        if matches!(sync, SyncMode::Incremental | SyncMode::Bitmap) {
            let text = format!("Sync mode '{}' not supported", sync.name());
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        args.is_none_mode = sync == SyncMode::None;
        args.is_top_mode |= sync == SyncMode::Top;
        args.zero_target &= !self.quirks.has(Quirk::MirrorTrustsExistingTarget);
        args.base = if sync == SyncMode::Top { self.graph.backing_chain_next(args.bs) } else { None };
        self.mirror_start_job(args)
    }

    /// `commit_active_start`. Leaves `Val::Done`.
    pub(in crate::world) fn commit_active_start(&mut self, args: CommitActiveArgs) -> Flow {
        if self.graph.nodes[args.base].flags.rdwr {
            return self.commit_active_begin(args, false);
        }
        let writable = Reopen::set_read_only(self, args.base, false);
        let next = MirrorFrame::CommitBaseWritable(Box::new(args));
        self.seq([ReopenFrame::Reopen(Box::new(writable)).into(), next.into()])
    }

    /// `commit_active_start`, once a read-only base is writable, or can't be.
    pub(super) fn commit_active_base_writable(&mut self, args: Box<CommitActiveArgs>) -> Flow {
        match self.take_done() {
            Ok(()) => self.commit_active_begin(*args, true),
            Err(err) => self.ret(Val::Done(Err(err))),
        }
    }

    fn commit_active_begin(&mut self, args: CommitActiveArgs, base_ro: bool) -> Flow {
        let base = args.base;
        self.push(MirrorFrame::CommitStarted { base, was_read_only: base_ro }.into());
        self.mirror_start_job(MirrorArgs {
            flags: args.flags,
            bs: args.bs,
            target: base,
            replaces: None,
            granularity: 0,
            buf_size: 0,
            backing_mode: BackingMode::Leave,
            zero_target: false,
            target_is_zero: false,
            on_source_error: args.on_error,
            on_target_error: args.on_error,
            unmap: true,
            is_none_mode: false,
            is_top_mode: false,
            base: Some(base),
            filter_node_name: args.filter_node_name,
            is_mirror: false,
            copy_mode: MirrorCopyMode::Background,
            base_ro,
        })
    }

    /// The end of `commit_active_start`: without a job the base is read-only again if it was.
    pub(super) fn commit_active_started(&mut self, base: NodeId, was_read_only: bool) -> Flow {
        if !was_read_only || !matches!(self.peek(), Val::Done(Err(_))) {
            return Flow::Go;
        }
        let as_before = Reopen::set_read_only(self, base, true);
        self.seq([Frame::KeepOver(Box::new(ReopenFrame::Reopen(Box::new(as_before)).into()))])
    }

    /// `mirror_start_job`. Leaves `Val::Done`.
    fn mirror_start_job(&mut self, mut args: MirrorArgs) -> Flow {
        let (bs, target) = (args.bs, args.target);
        if args.granularity == 0 {
            args.granularity = default_granularity(self.cluster_size_of(target).unwrap_or(0));
        }
        if args.buf_size < 0 {
            return self.ret(Val::Done(Err(QmpError::generic("Invalid parameter 'buf-size'"))));
        }
        if self.graph.skip_filters(bs) == self.graph.skip_filters(target) {
            return self.ret(Val::Done(Err(QmpError::generic("Can't mirror node into itself"))));
        }
        let target_is_backing = self.graph.chain_contains(bs, target);
        let mut node = Node::new();
        node.flags = OpenFlags { rdwr: true, ..OpenFlags::default() };
        let top = self.bdrv_new(node);
        if let Err(text) = self.assign_node_name(top, args.filter_node_name.as_deref()) {
            self.push(Frame::Give(Box::new(Val::Done(Err(QmpError::generic(text))))));
            return self.seq([GraphFrame::BdrvUnref(top).into()]);
        }
        let size = self.bdrv_getlength(bs);
        let node = &mut self.graph.nodes[top];
        node.implicit = args.filter_node_name.is_none();
        node.never_freeze = true;
        node.size = size;
        let state = MirrorTop { is_commit: target_is_backing, ..MirrorTop::default() };
        node.driver = Some(Driver::MirrorTop(Box::new(state)));
        let start = Box::new(Starting { args, top, target_is_backing });
        self.push(MirrorFrame::Appended(start).into());
        self.push(DrainFrame::DrainedEnd(bs).into());
        self.bdrv_append(top, bs);
        self.seq([DrainFrame::DrainedBegin(bs).into()])
    }

    /// `mirror_start_job`, once the filter is above the source, or can't be.
    pub(super) fn mirror_appended(&mut self, start: Box<Starting>) -> Flow {
        if let Err(err) = self.take_done() {
            self.push(Frame::Give(Box::new(Val::Done(Err(err)))));
            return self.seq([GraphFrame::BdrvUnref(start.top).into()]);
        }
        self.seq([GraphLockFrame::GraphWrlock.into(), MirrorFrame::CreateJob(start).into()])
    }

    /// `mirror_start_job`: the job, between lock and unlock of `block_job_create`.
    pub(super) fn mirror_create_job(&mut self, start: Box<Starting>) -> Flow {
        let perms =
            Perms { perm: perm::CONSISTENT_READ, shared: perm::CONSISTENT_READ | perm::WRITE_UNCHANGED | perm::WRITE };
        let (top, args) = (start.top, &start.args);
        let kind = if args.is_mirror { JobType::Mirror } else { JobType::Commit };
        match self.block_job_create(&args.flags, kind, None, top, perms) {
            Ok(job) => {
                self.mirror_init_job(job, top, args);
                // The job has a reference to the filter now.
                self.graph.nodes[top].refcnt -= 1;
                self.push(MirrorFrame::TargetAttached(job, start).into());
                self.seq([GraphLockFrame::GraphWrunlock.into()])
            }
            Err((err, job)) => {
                self.push(Frame::Give(Box::new(Val::Done(Err(err)))));
                self.push(MirrorFrame::DropTop(start).into());
                if let Some(job) = job {
                    self.push(JobFrame::JobEarlyFail(job).into());
                }
                self.seq([GraphLockFrame::GraphWrunlock.into()])
            }
        }
    }

    fn mirror_init_job(&mut self, job: JobId, top: NodeId, args: &MirrorArgs) {
        let buf_size = if args.buf_size == 0 { DEFAULT_BUF_SIZE } else { args.buf_size.unsigned_abs() };
        let state = Box::new(MirrorJob {
            target: None,
            top,
            source: args.bs,
            base: args.base,
            base_overlay: self.graph.find_overlay(args.bs, args.base),
            replaces: args.replaces.clone(),
            to_replace: None,
            is_none_mode: args.is_none_mode,
            is_top_mode: args.is_top_mode,
            backing_mode: args.backing_mode,
            zero_target: args.zero_target,
            target_is_zero: args.target_is_zero,
            copy_mode: args.copy_mode,
            on_source_error: args.on_source_error,
            on_target_error: args.on_target_error,
            actively_synced: false,
            should_complete: false,
            granularity: args.granularity,
            buf_size: align_up(buf_size, args.granularity),
            bdev_length: 0,
            cow_bitmap: None,
            zero_bitmap: None,
            dirty_bitmap: None,
            dirty_bitmap_at: if self.quirks.since(Change::MirrorBitmapOfFilter) { top } else { args.bs },
            dbi: None,
            buf_free_count: 0,
            last_pause: self.now,
            in_flight_bitmap: HBitmap::new(0, args.granularity),
            in_flight: 0,
            bytes_in_flight: 0,
            ops: Vec::new(),
            next_op: 0,
            bytes_handled: 0,
            io_skipped: false,
            ret: Ok(()),
            unmap: args.unmap,
            target_cluster_size: 0,
            initial_zeroing_ongoing: false,
            in_active_write_counter: 0,
            active_write_bytes_in_flight: 0,
            prepared: false,
            in_drain: false,
            base_ro: args.base_ro,
            forgets_ready: false,
        });
        self.jobs[job].driver = if args.is_mirror { JobDriver::Mirror(state) } else { JobDriver::CommitActive(state) };
    }

    /// `mirror_start_job`, once the job is there (no target yet), and again once its target is attached or can't be.
    pub(super) fn mirror_target_attached(&mut self, job: JobId, start: Box<Starting>) -> Flow {
        let (bs, target) = (start.args.bs, start.args.target);
        if self.mirror(job).target.is_some() {
            return match self.take_done() {
                Ok(()) => self.mirror_has_target(job, start),
                Err(err) => self.mirror_start_failed(job, start, err),
            };
        }
        let (mut perm, mut shared) = (perm::WRITE, perm::WRITE_UNCHANGED);
        if start.target_is_backing {
            if self.bdrv_getlength(target) < self.bdrv_getlength(bs) {
                perm |= perm::RESIZE;
            }
            shared |= perm::CONSISTENT_READ | perm::WRITE;
        } else if self.graph.chain_contains(bs, self.graph.skip_filters(target)) {
            let text = "Cannot mirror to a filter on top of a node in the source's backing chain";
            return self.mirror_start_failed(job, start, QmpError::generic(text));
        }
        let blk = self.blk_new("".into(), perm, shared);
        self.graph.backends[blk].disable_request_queuing = true;
        self.mirror(job).target = Some(blk);
        self.seq([BackendFrame::BlkInsertBs(blk, target).into(), MirrorFrame::TargetAttached(job, start).into()])
    }

    fn mirror_has_target(&mut self, job: JobId, start: Box<Starting>) -> Flow {
        let granularity = start.args.granularity;
        let s = self.jobs[job].mirror();
        let blocking = s.copy_mode == MirrorCopyMode::WriteBlocking && !self.quirks.since(Change::MirrorBitmapOfFilter);
        let at = s.dirty_bitmap_at;
        let by_filter = self.quirks.since(Change::MirrorBitmapWithFilter);
        let node = &mut self.graph.nodes[at];
        let bitmap = node.bitmaps.add_anonymous(node.size, granularity);
        if blocking || by_filter || self.quirks.has(Quirk::MirrorStartupMissedWrite) {
            node.bitmaps.get_mut(bitmap).expect("just made").set_enabled(false);
        }
        self.mirror(job).dirty_bitmap = Some(bitmap);
        self.seq([GraphLockFrame::GraphWrlock.into(), MirrorFrame::AddNodes(job, start).into()])
    }

    /// `mirror_start_job`, under the graph lock: the job's edges; then it starts.
    pub(super) fn mirror_add_nodes(&mut self, job: JobId, start: Box<Starting>) -> Flow {
        match self.mirror_add_edges(job, &start) {
            Ok(()) => {
                self.see_mirror_begins(job);
                self.seq([
                    GraphLockFrame::GraphWrunlock.into(),
                    JobFrame::JobStart(job).into(),
                    Frame::Give(Box::new(Val::Done(Ok(())))),
                ])
            }
            Err(err) => {
                self.seq([GraphLockFrame::GraphWrunlock.into(), MirrorFrame::StartFailed(job, start, err).into()])
            }
        }
    }

    fn mirror_add_edges(&mut self, job: JobId, start: &Starting) -> Result<(), QmpError> {
        let (bs, target) = (start.args.bs, start.args.target);
        let unchanged = perm::WRITE_UNCHANGED | perm::WRITE;
        let source = Perms { perm: 0, shared: unchanged | perm::CONSISTENT_READ };
        self.block_job_add_bdrv(job, "source", bs, source)?;
        self.block_job_add_bdrv(job, "target", target, Perms::NONE)?;
        if !start.target_is_backing {
            return Ok(());
        }
        let overlay = self.graph.find_overlay(bs, Some(target)).expect("the target is below the source");
        let filtered = self.graph.cow_bs(overlay);
        let mut shared = unchanged;
        let mut at = self.graph.filter_or_cow_bs(bs);
        while let Some(node) = at.filter(|node| *node != target) {
            if Some(node) == filtered {
                // From here on there are only filters over the base.
                shared |= perm::CONSISTENT_READ;
            }
            self.block_job_add_bdrv(job, "intermediate node", node, Perms { perm: 0, shared })?;
            at = self.graph.filter_or_cow_bs(node);
        }
        self.graph.freeze_backing_chain(start.top, Some(target))
    }

    /// `mirror_start_job`, where it fails although the job is there already.
    pub(super) fn mirror_start_failed(&mut self, job: JobId, start: Box<Starting>, err: QmpError) -> Flow {
        let top = start.top;
        // What the failure leaves is taken down below.
        self.bdrv_ref(top);
        let s = self.mirror(job);
        let target = s.target.take();
        self.mirror_release_bitmap(job);
        self.push(Frame::Give(Box::new(Val::Done(Err(err)))));
        self.push(MirrorFrame::DropTop(start).into());
        self.push(JobFrame::JobEarlyFail(job).into());
        match target {
            Some(target) => self.seq([BackendFrame::BlkUnref(target).into()]),
            None => Flow::Go,
        }
    }

    /// `mirror_start_job`, the end of a failure: the filter goes.
    pub(super) fn mirror_drop_top(&mut self, start: &Starting) -> Flow {
        let (top, bs) = (start.top, start.args.bs);
        self.mirror_top(top).stop = true;
        self.seq([
            DrainFrame::DrainedBegin(bs).into(),
            GraphLockFrame::GraphWrlock.into(),
            EdgesFrame::RefreshPerms(top).into(),
            EdgesFrame::ReplaceNode { from: top, to: bs }.into(),
            GraphLockFrame::GraphWrunlock.into(),
            DrainFrame::DrainedEnd(bs).into(),
            GraphFrame::BdrvUnref(top).into(),
        ])
    }
}
