//! The mirror job, and the commit of an active layer, which is one (`block/mirror.c`).
//!
//! `start.rs` makes the job and its filter, `run.rs` is its coroutine, `copy.rs` are the operations that it starts, `end.rs` puts the
//! target in its place. What the filter does with a guest's requests stands in `block/driver/mirror_top.rs`.

mod copy;
mod end;
mod run;
mod start;

pub use start::{CommitActiveArgs, MirrorArgs};

use crate::base::Json;
use crate::base::errno::{Errno, Ret};
use crate::base::time::{Instant, Span};
use crate::base::units::MIB;
use crate::bitmap::{BitmapId, HBitmap, HBitmapIter};
use crate::job::status::JobType;
use crate::qmp::error::QmpError;
use crate::qmp::types::{BlockJobChange, BlockdevMirror, DriveMirror, MirrorCopyMode, OnError};
use crate::quirk::Quirk;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{BackendId, CoId, JobId, NodeId};
use crate::world::block::driver::mirror_top::TopWrite;
use crate::world::frame::Flow;
use crate::world::job::Job;
use crate::world::job::block_job::ErrorAction;
use crate::world::job::hooks::{BlockJobHooks, JobDriver, JobHooks, WatchHooks};
use crate::world::value::Val;
use end::Exit;
use start::Starting;
use std::sync::Arc;

/// `MAX_IN_FLIGHT`: operations under way at most.
const MAX_IN_FLIGHT: u32 = 16;
/// `MAX_IO_BYTES`: an operation that copies data takes no more, unless the buffer is large.
const MAX_IO_BYTES: u64 = MIB;
/// `DEFAULT_MIRROR_BUF_SIZE`
const DEFAULT_BUF_SIZE: u64 = MAX_IN_FLIGHT as u64 * MAX_IO_BYTES;
/// `BLOCK_JOB_SLICE_TIME`
const SLICE_TIME: Span = Span::from_millis(100);
/// `IOV_MAX`: `max_iov` of each of the drivers here.
const MAX_IOV: u64 = 1024;

/// `BlockMirrorBackingMode`: what becomes of the target's backing file at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackingMode {
    /// `MIRROR_SOURCE_BACKING_CHAIN`: it gets the source's.
    Source,
    /// `MIRROR_OPEN_BACKING_CHAIN`: the one that its header names is opened.
    Open,
    /// `MIRROR_LEAVE_BACKING_CHAIN`: it keeps its own.
    Leave,
}

/// `MirrorMethod`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MirrorMethod {
    /// `bdrv_co_preadv` of the source, then `blk_co_pwritev` of the target.
    Copy,
    /// `blk_co_pwrite_zeroes` of the target.
    Zero,
    /// `blk_co_pdiscard` of the target.
    Discard,
}

/// `MirrorOp`: an operation under way, or a range that one is about to begin in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MirrorOp {
    /// Distinguishes the operations of one job.
    pub id: u32,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// `is_pseudo_op`: it stands for those that an iteration is about to start.
    pub is_pseudo_op: bool,
    /// `is_active_write`: a guest's write that goes to both.
    pub is_active_write: bool,
    /// `is_in_flight`: it has its buffers.
    pub is_in_flight: bool,
    /// `waiting_for_op`: it waits for another one itself.
    pub waits: bool,
    /// `waiting_requests`, oldest first.
    pub waiting: Vec<CoId>,
    /// Buffers that it has (`qiov`).
    pub buffers: u64,
}

/// `MirrorBlockJob`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MirrorJob {
    /// `target`, until the end.
    pub target: Option<BackendId>,
    /// `mirror_top_bs`: the filter.
    pub top: NodeId,
    /// The node below the filter, as the coroutine found it when it began.
    pub source: NodeId,
    /// `base`: what is below it is not copied.
    pub base: Option<NodeId>,
    /// `base_overlay`
    pub base_overlay: Option<NodeId>,
    /// `replaces`
    pub replaces: Option<Arc<str>>,
    /// `to_replace`: the node of that name, from `job-complete` on, with a reference.
    pub to_replace: Option<NodeId>,
    /// `is_none_mode`
    pub is_none_mode: bool,
    /// `sync=top` was asked for: what the topmost image does not have is not copied, though no image has it.
    pub is_top_mode: bool,
    /// `backing_mode`
    pub backing_mode: BackingMode,
    /// `zero_target`: what the target holds is not known.
    pub zero_target: bool,
    /// `target_is_zero`: somebody says that the target reads as zeroes ([`Change::MirrorSkipsZeroes`]).
    pub target_is_zero: bool,
    /// `copy-mode`
    pub copy_mode: MirrorCopyMode,
    /// `on-source-error`
    pub on_source_error: OnError,
    /// `on-target-error`
    pub on_target_error: OnError,
    /// `actively-synced`
    pub actively_synced: bool,
    /// `should_complete`: the user asked the READY job to end.
    pub should_complete: bool,
    /// Bytes a dirty bit stands for.
    pub granularity: u64,
    /// `buf-size`, in bytes.
    pub buf_size: u64,
    /// Length of the source in bytes.
    pub bdev_length: u64,
    /// `cow_bitmap`: granules of the target whose clusters are there; without, the target copies on write itself.
    pub cow_bitmap: Option<HBitmap>,
    /// `zero_bitmap`: granules of the target that read as zeroes, from the look at it on ([`Change::MirrorSkipsZeroes`]).
    pub zero_bitmap: Option<HBitmap>,
    /// `dirty_bitmap`
    pub dirty_bitmap: Option<BitmapId>,
    /// The node that has it: the filter, or in older versions the source.
    pub dirty_bitmap_at: NodeId,
    /// `dbi`: where the next iteration begins to look.
    pub dbi: Option<HBitmapIter>,
    /// Free buffers, of one granule each.
    pub buf_free_count: u64,
    /// When it slept last.
    pub last_pause: Instant,
    /// `in_flight_bitmap`: granules that operations work on.
    pub in_flight_bitmap: HBitmap,
    /// Operations under way.
    pub in_flight: u32,
    /// Bytes of all operations in flight.
    pub bytes_in_flight: u64,
    /// `ops_in_flight`, oldest first.
    pub ops: Vec<MirrorOp>,
    /// Number of the next operation.
    pub next_op: u32,
    /// `bytes_handled` of the operation that was started last.
    pub bytes_handled: u64,
    /// `io_skipped`: the operation that was started last writes nothing.
    pub io_skipped: bool,
    /// `ret`: the error that ends the job.
    pub ret: Ret,
    /// `unmap`
    pub unmap: bool,
    /// `target_cluster_size`, in bytes.
    pub target_cluster_size: u64,
    /// `initial_zeroing_ongoing`
    pub initial_zeroing_ongoing: bool,
    /// Guest writes under way that go to both.
    pub in_active_write_counter: u32,
    /// Their bytes on the way to the target.
    pub active_write_bytes_in_flight: u64,
    /// `prepared`: the end was dealt with.
    pub prepared: bool,
    /// `in_drain`: it drains the source itself.
    pub in_drain: bool,
    /// `base_ro`: the base was read-only before.
    pub base_ro: bool,
    /// An error makes it forget that it was READY ([`Quirk::MirrorReadyTwice`]).
    pub forgets_ready: bool,
}

impl MirrorJob {
    /// Whether all of the source is copied, so that its target reads as it does, whatever stood there.
    #[must_use]
    pub fn copies_all(&self) -> bool {
        !self.is_none_mode && !self.is_top_mode && self.base.is_none()
    }

    /// Whether each of its operations works by itself, so that nobody can tell in which order they are done: it copies in the background, no
    /// operation waits for another or takes whole clusters of the target, and none has failed.
    #[must_use]
    pub fn copies_apart(&self) -> bool {
        let by_itself = |op: &MirrorOp| (op.is_in_flight || op.is_pseudo_op) && !op.waits && !op.is_active_write;
        self.copy_mode == MirrorCopyMode::Background
            && self.cow_bitmap.is_none()
            && self.in_active_write_counter == 0
            && self.ret.is_ok()
            && !(self.should_complete || self.in_drain || self.prepared || self.forgets_ready)
            && self.ops.iter().all(by_itself)
    }

    /// Whether the target gets the source's backing file, so that it reads as the source where nothing was copied.
    #[must_use]
    pub fn follows_source(&self) -> bool {
        self.backing_mode == BackingMode::Source
    }
}

crate::base::time::rebase!(MirrorJob {
    moves: last_pause;
    rest: target, top, source, base, base_overlay, replaces, to_replace, is_none_mode, is_top_mode, backing_mode, zero_target, target_is_zero,
        copy_mode, on_source_error, on_target_error, actively_synced, should_complete, granularity, buf_size,
        bdev_length, cow_bitmap, zero_bitmap, dirty_bitmap, dirty_bitmap_at, dbi, buf_free_count, in_flight_bitmap, in_flight, bytes_in_flight,
        ops, next_op, bytes_handled, io_skipped, ret, unmap, target_cluster_size, initial_zeroing_ongoing,
        in_active_write_counter, active_write_bytes_in_flight, prepared, in_drain, base_ro, forgets_ready
});

/// The frames of this job and of its filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum MirrorFrame {
    Appended(Box<Starting>),
    CreateJob(Box<Starting>),
    TargetAttached(JobId, Box<Starting>),
    AddNodes(JobId, Box<Starting>),
    StartFailed(JobId, Box<Starting>, QmpError),
    DropTop(Box<Starting>),
    CommitBaseWritable(Box<CommitActiveArgs>),
    CommitStarted { base: NodeId, was_read_only: bool },
    DriveCreated { args: Box<DriveMirror>, bs: NodeId },
    DriveOpened { args: Box<DriveMirror>, bs: NodeId },
    DriveMoved { args: Box<DriveMirror>, bs: NodeId, target: NodeId },
    TargetMoved { args: Box<BlockdevMirror>, bs: NodeId, target: NodeId },

    Grown(JobId),
    EmptyDisk(JobId),
    TargetAsked(JobId),
    Zeroing { job: JobId, offset: u64 },
    ZeroingPaused { job: JobId, offset: u64 },
    Zeroed(JobId),
    Scan { job: JobId, offset: u64 },
    ScanPaused { job: JobId, offset: u64 },
    Scanned { job: JobId, offset: u64 },
    Loop(JobId),
    LoopPaused(JobId),
    Iterated { job: JobId, cnt: u64 },
    FirstFlushed(JobId),
    Drained(JobId),
    LastFlushed(JobId),
    Undrained(JobId),
    Slept(JobId),
    WaitForAll(JobId),
    Leave(JobId, Ret),

    FirstFree { job: JobId, offset: u64 },
    IterationPaused { job: JobId, offset: u64 },
    Piece { job: JobId, offset: u64, chunks: u64, pseudo: u32 },
    PieceStatus { job: JobId, offset: u64, chunks: u64, pseudo: u32 },
    Perform { job: JobId, offset: u64, chunks: u64, pseudo: u32, bytes: u64, method: MirrorMethod },
    CoRead { job: JobId, op: u32 },
    ReadBuffers { job: JobId, op: u32 },
    ReadDone { job: JobId, op: u32 },
    CoZero { job: JobId, op: u32 },
    CoDiscard { job: JobId, op: u32 },
    WriteDone { job: JobId, op: u32, zeroes: bool },

    Exit(Box<Exit>),

    TopFree(Box<TopWrite>),
    TopWritten { node: NodeId, offset: u64, bytes: u64 },
    TopSourceWritten(Box<TopWrite>),
    TopTargetWritten { job: JobId, op: u32, offset: u64, bytes: u64, zeroes: bool },
}

impl MirrorFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            MirrorFrame::Appended(start) => w.mirror_appended(start),
            MirrorFrame::CreateJob(start) => w.mirror_create_job(start),
            MirrorFrame::TargetAttached(job, start) => w.mirror_target_attached(job, start),
            MirrorFrame::AddNodes(job, start) => w.mirror_add_nodes(job, start),
            MirrorFrame::StartFailed(job, start, err) => w.mirror_start_failed(job, start, err),
            MirrorFrame::DropTop(start) => w.mirror_drop_top(&start),
            MirrorFrame::CommitBaseWritable(args) => w.commit_active_base_writable(args),
            MirrorFrame::CommitStarted { base, was_read_only } => w.commit_active_started(base, was_read_only),
            MirrorFrame::DriveCreated { args, bs } => w.drive_mirror_created(args, bs),
            MirrorFrame::DriveOpened { args, bs } => w.drive_mirror_opened(args, bs),
            MirrorFrame::DriveMoved { args, bs, target } => w.drive_mirror_moved(&args, bs, target),
            MirrorFrame::TargetMoved { args, bs, target } => w.blockdev_mirror_moved(&args, bs, target),

            MirrorFrame::Grown(job) => w.mirror_grown(job),
            MirrorFrame::EmptyDisk(job) => w.mirror_empty_disk(job),
            MirrorFrame::TargetAsked(job) => w.mirror_target_asked(job),
            MirrorFrame::Zeroing { job, offset } => w.mirror_zeroing(job, offset),
            MirrorFrame::ZeroingPaused { job, offset } => w.mirror_zeroing_paused(job, offset),
            MirrorFrame::Zeroed(job) => w.mirror_zeroed(job),
            MirrorFrame::Scan { job, offset } => w.mirror_scan(job, offset),
            MirrorFrame::ScanPaused { job, offset } => w.mirror_scan_paused(job, offset),
            MirrorFrame::Scanned { job, offset } => w.mirror_scanned(job, offset),
            MirrorFrame::Loop(job) => w.mirror_loop(job),
            MirrorFrame::LoopPaused(job) => w.mirror_loop_paused(job),
            MirrorFrame::Iterated { job, cnt } => w.mirror_iterated(job, cnt),
            MirrorFrame::FirstFlushed(job) => w.mirror_first_flushed(job),
            MirrorFrame::Drained(job) => w.mirror_drained(job),
            MirrorFrame::LastFlushed(job) => w.mirror_last_flushed(job),
            MirrorFrame::Undrained(job) => w.mirror_undrained(job),
            MirrorFrame::Slept(job) => w.mirror_slept(job),
            MirrorFrame::WaitForAll(job) => w.mirror_wait_for_all_io(job),
            MirrorFrame::Leave(job, ret) => w.mirror_leave(job, ret),

            MirrorFrame::FirstFree { job, offset } => w.mirror_first_free(job, offset),
            MirrorFrame::IterationPaused { job, offset } => w.mirror_iteration_paused(job, offset),
            MirrorFrame::Piece { job, offset, chunks, pseudo } => w.mirror_piece(job, offset, chunks, pseudo),
            MirrorFrame::PieceStatus { job, offset, chunks, pseudo } => {
                w.mirror_piece_status(job, offset, chunks, pseudo)
            }
            MirrorFrame::Perform { job, offset, chunks, pseudo, bytes, method } => {
                w.mirror_piece_perform(job, offset, chunks, pseudo, bytes, method)
            }
            MirrorFrame::CoRead { job, op } => w.mirror_co_read(job, op),
            MirrorFrame::ReadBuffers { job, op } => w.mirror_read_buffers(job, op),
            MirrorFrame::ReadDone { job, op } => w.mirror_read_complete(job, op),
            MirrorFrame::CoZero { job, op } => w.mirror_co_zero(job, op),
            MirrorFrame::CoDiscard { job, op } => w.mirror_co_discard(job, op),
            MirrorFrame::WriteDone { job, op, zeroes } => w.mirror_write_complete(job, op, zeroes),

            MirrorFrame::Exit(exit) => w.mirror_exit(exit),

            MirrorFrame::TopFree(write) => w.mirror_top_free(write),
            MirrorFrame::TopWritten { node, offset, bytes } => w.mirror_top_written(node, offset, bytes),
            MirrorFrame::TopSourceWritten(write) => w.mirror_top_source_written(write),
            MirrorFrame::TopTargetWritten { job, op, offset, bytes, zeroes } => {
                w.mirror_top_target_written(job, op, (offset, bytes), zeroes)
            }
        }
    }
}

/// `mirror_job_driver`
pub(in crate::world) const HOOKS: JobHooks = JobHooks {
    job_type: JobType::Mirror,
    run: World::mirror_run,
    pause: Some(World::mirror_wait_for_all_io),
    resume: None,
    user_resume: Some(World::block_job_user_resume),
    complete: Some(World::mirror_complete),
    prepare: Some(World::mirror_exit_common),
    commit: None,
    abort: Some(World::mirror_exit_common),
    clean: None,
    cancel: Some(World::mirror_cancel),
    block: Some(BlockJobHooks {
        drained_poll: Some(World::mirror_drained_poll),
        set_speed: None,
        change: Some(World::mirror_change),
        query: Some(World::mirror_query),
    }),
    watch: WatchHooks { may_rest: Some(|job| job.status.is_ready()), bitmap: None, target: None },
};

/// `commit_active_job_driver`
pub(in crate::world) const COMMIT_ACTIVE_HOOKS: JobHooks = JobHooks {
    job_type: JobType::Commit,
    block: Some(BlockJobHooks {
        drained_poll: Some(World::mirror_drained_poll),
        set_speed: None,
        change: None,
        query: None,
    }),
    ..HOOKS
};

impl Job {
    /// The mirror driver's state.
    ///
    /// # Panics
    /// If it is neither a mirror nor the commit of an active layer.
    #[must_use]
    pub fn mirror(&self) -> &MirrorJob {
        match &self.driver {
            JobDriver::Mirror(s) | JobDriver::CommitActive(s) => s,
            other => panic!("not a mirror job: {other:?}"),
        }
    }

    /// The mirror driver's state, to be changed.
    ///
    /// # Panics
    /// If it is neither a mirror nor the commit of an active layer.
    pub fn mirror_mut(&mut self) -> &mut MirrorJob {
        match &mut self.driver {
            JobDriver::Mirror(s) | JobDriver::CommitActive(s) => s,
            other => panic!("not a mirror job: {other:?}"),
        }
    }
}

impl World {
    /// The driver's state of a job that is known to be a mirror.
    pub(in crate::world) fn mirror(&mut self, job: JobId) -> &mut MirrorJob {
        self.jobs[job].mirror_mut()
    }

    /// `mirror_top_bs->backing->bs`
    pub(in crate::world) fn mirror_source(&self, job: JobId) -> NodeId {
        self.graph.filter_bs(self.jobs[job].mirror().top).expect("the filter has a node below while its job runs")
    }

    /// `blk_bs(s->target)`
    pub(in crate::world) fn mirror_target(&self, job: JobId) -> NodeId {
        let target = self.jobs[job].mirror().target.expect("the job has its target until its end");
        self.graph.blk_bs(target).expect("nobody takes the target away")
    }

    /// `bdrv_get_dirty_count`, in bytes.
    pub(in crate::world) fn mirror_dirty_count(&self, job: JobId) -> u64 {
        let s = self.jobs[job].mirror();
        s.dirty_bitmap.map_or(0, |bitmap| self.bits(s.dirty_bitmap_at, bitmap).count_bytes())
    }

    /// The job's dirty bits.
    pub(in crate::world) fn mirror_bits(&mut self, job: JobId) -> &mut HBitmap {
        let s = self.jobs[job].mirror();
        let (at, bitmap) = (s.dirty_bitmap_at, s.dirty_bitmap.expect("the bitmap lives until the end"));
        self.bits_mut(at, bitmap)
    }

    /// `bdrv_release_dirty_bitmap(s->dirty_bitmap)`
    pub(in crate::world) fn mirror_release_bitmap(&mut self, job: JobId) {
        let at = self.jobs[job].mirror().dirty_bitmap_at;
        if let Some(bitmap) = self.mirror(job).dirty_bitmap.take()
            && let Some(node) = self.graph.nodes.get_mut(at)
        {
            node.bitmaps.release(bitmap);
        }
    }

    /// `bdrv_set_dirty_bitmap`: the granules that the bytes touch.
    pub(in crate::world) fn mirror_set_dirty(&mut self, job: JobId, offset: u64, bytes: u64) {
        self.mirror_bits(job).set(offset, bytes);
    }

    /// `mirror_error_action`
    pub(in crate::world) fn mirror_error_action(&mut self, job: JobId, is_read: bool, error: Errno) -> ErrorAction {
        let forgets_ready = self.quirks.has(Quirk::MirrorReadyTwice);
        let s = self.mirror(job);
        s.actively_synced = false;
        s.forgets_ready |= forgets_ready;
        let on_error = if is_read { s.on_source_error } else { s.on_target_error };
        self.block_job_error_action(job, on_error, is_read, error)
    }

    /// `mirror_complete`. Leaves `Val::Done`.
    fn mirror_complete(&mut self, job: JobId) -> Flow {
        let id = self.jobs[job].id.clone();
        if !self.jobs[job].status.is_ready() {
            let text = format!("The active block job '{id}' cannot be completed");
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        if let Some(name) = self.mirror(job).replaces.clone() {
            let Some(node) = self.graph.find_node(&name) else {
                return self.ret(Val::Done(Err(QmpError::generic(format!("Node name '{name}' not found")))));
            };
            if self.mirror(job).to_replace.is_some() {
                if !self.quirks.has(Quirk::MirrorDuplicateComplete) {
                    return self.ret(Val::Done(Ok(())));
                }
                Self::qemu_is_known_to_abort(
                    "mirror-duplicate-complete",
                    format!("job {id}"),
                    "error_setv: replace_blocker is set already",
                );
            }
            self.graph.nodes[node].replace_blockers.insert(0, job);
            self.bdrv_ref(node);
            self.mirror(job).to_replace = Some(node);
        }
        self.mirror(job).should_complete = true;
        if !self.jobs[job].paused {
            self.job_enter(job);
        }
        self.ret(Val::Done(Ok(())))
    }

    /// `mirror_cancel`, `commit_active_cancel`: a READY job that is not cancelled by force ends as if it were complete.
    fn mirror_cancel(&mut self, job: JobId, force: bool) -> bool {
        let force = force || !self.jobs[job].status.is_ready();
        // `commit_active_cancel` does not: an overlay is never such a node.
        if force && let JobDriver::Mirror(state) = &self.jobs[job].driver {
            let target = state.target.and_then(|target| self.graph.blk_bs(target));
            if let Some(target) = target {
                self.bdrv_cancel_in_flight(target);
            }
        }
        force
    }

    /// `mirror_drained_poll`
    fn mirror_drained_poll(&self, job: JobId) -> bool {
        let (j, s) = (&self.jobs[job], self.jobs[job].mirror());
        let may_send_more = !j.paused && !j.force_cancel && !s.in_drain;
        may_send_more || s.in_flight > 0
    }

    /// `mirror_change`: only from background to write-blocking. Other types than mirror say no mode, which reads as background.
    fn mirror_change(&mut self, job: JobId, options: &BlockJobChange) -> Result<(), QmpError> {
        let wanted = options.copy_mode.unwrap_or(MirrorCopyMode::Background);
        let s = self.mirror(job);
        if s.copy_mode == wanted {
            return Ok(());
        }
        if wanted != MirrorCopyMode::WriteBlocking {
            return Err(QmpError::generic(format!("Change to copy mode '{}' is not implemented", wanted.name())));
        }
        s.copy_mode = wanted;
        Ok(())
    }

    /// `mirror_query`
    fn mirror_query(&self, job: JobId) -> Vec<(&'static str, Json)> {
        if !self.quirks.since(Change::MirrorTellsSynced) {
            return Vec::new();
        }
        vec![("actively-synced", self.jobs[job].mirror().actively_synced.into())]
    }
}
