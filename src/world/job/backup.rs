//! The backup job (`block/backup.c`) and the filter it puts above its source (`bdrv_cbw_append`, `bdrv_cbw_drop`).

use super::block_job::ErrorAction;
use super::hooks::{BlockJobHooks, JobDriver, JobHooks, WatchHooks};
use super::{Job, JobFlags, Perms};
use crate::base::errno::Errno;
use crate::base::errno::Ret;
use crate::base::units::align_up;
use crate::bitmap::BitmapId;
use crate::job::status::JobType;
use crate::qmp::error::QmpError;
use crate::qmp::types::{BackupPerf, BitmapSyncMode, OnError, SyncMode};
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::arena::{CallId, JobId, NodeId, TxnId};
use crate::world::block::chain::ChainFrame;
use crate::world::block::driver::Driver;
use crate::world::block::driver::block_copy::BlockCopyFrame;
use crate::world::block::driver::block_copy_state::{CallEnd, CopyCall};
use crate::world::block::driver::copy_before_write::CopyBeforeWriteFrame;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::job::JobFrame;
use crate::world::job::block_job::BlockJobFrame;
use crate::world::value::Val;
use crate::world::watch::feed::{BackupBegins, BitmapEnd, Seen};
use crate::world::watch::marks::CodePlace;
use std::sync::Arc;

/// `BackupBlockJob`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackupJob {
    /// `cbw`: the filter, which holds what is still to be copied.
    pub cbw: NodeId,
    /// The node it filters.
    pub source: NodeId,
    /// Where the copy goes.
    pub target: NodeId,
    /// `bitmap`, on the source node.
    pub sync_bitmap: Option<BitmapId>,
    /// `sync`; `incremental` stands as `bitmap`.
    pub sync_mode: SyncMode,
    /// `bitmap-mode`
    pub bitmap_mode: BitmapSyncMode,
    /// `on-source-error`
    pub on_source_error: OnError,
    /// `on-target-error`
    pub on_target_error: OnError,
    /// Length of the source in bytes.
    pub len: u64,
    /// Cluster size of the copying.
    pub cluster_size: u64,
    /// `x-perf`
    pub max_workers: u32,
    /// `x-perf`
    pub max_chunk: u64,
    /// The coroutine waits for its copy call.
    pub wait: bool,
    /// The copy call that runs.
    pub bg_bcs_call: Option<CallId>,
}

/// What `do_backup_common` has checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackupArgs {
    /// ID and flags.
    pub flags: JobFlags,
    /// The node to copy.
    pub source: NodeId,
    /// Where to.
    pub target: NodeId,
    /// `sync`
    pub sync_mode: SyncMode,
    /// `bitmap`
    pub sync_bitmap: Option<BitmapId>,
    /// `bitmap-mode`
    pub bitmap_mode: BitmapSyncMode,
    /// `compress`
    pub compress: bool,
    /// `discard-source`
    pub discard_source: bool,
    /// `filter-node-name`
    pub filter_node_name: Option<Arc<str>>,
    /// `x-perf`
    pub perf: BackupPerf,
    /// `on-source-error`
    pub on_source_error: OnError,
    /// `on-target-error`
    pub on_target_error: OnError,
    /// `on-cbw-error=break-snapshot`
    pub break_snapshot: bool,
    /// The group that it becomes a member of; `None` makes one of its own.
    pub txn: Option<TxnId>,
}

/// `backup_job_driver`
pub(in crate::world) const HOOKS: JobHooks = JobHooks {
    job_type: JobType::Backup,
    run: World::backup_run,
    pause: Some(World::backup_pause),
    resume: None,
    user_resume: Some(World::block_job_user_resume),
    complete: None,
    prepare: None,
    commit: Some(World::backup_commit),
    abort: Some(World::backup_abort),
    clean: Some(World::backup_clean),
    cancel: Some(World::backup_cancel),
    block: Some(BlockJobHooks {
        drained_poll: None,
        set_speed: Some(World::backup_set_speed),
        change: None,
        query: None,
    }),
    watch: WatchHooks {
        may_rest: Some(|job| job.backup().sync_mode == SyncMode::None),
        bitmap: Some(World::backup_bitmap),
        target: Some(|w, job| Some(w.frozen(w.jobs[job].backup().target))),
    },
};

impl Job {
    /// The backup driver's state.
    ///
    /// # Panics
    /// If it is no backup.
    #[must_use]
    pub fn backup(&self) -> &BackupJob {
        match &self.driver {
            JobDriver::Backup(b) => b,
            other => panic!("not a backup job: {other:?}"),
        }
    }

    /// The backup driver's state, to be changed.
    ///
    /// # Panics
    /// If it is no backup.
    pub fn backup_mut(&mut self) -> &mut BackupJob {
        match &mut self.driver {
            JobDriver::Backup(b) => b,
            other => panic!("not a backup job: {other:?}"),
        }
    }
}

impl World {
    /// Whether a request of the copying that a backup has under way has failed.
    #[must_use]
    pub fn copying_failed(&self, job: JobId) -> bool {
        let call = match &self.jobs[job].driver {
            JobDriver::Backup(backup) => backup.bg_bcs_call.and_then(|call| self.calls.get(call)),
            _ => None,
        };
        call.is_some_and(|call| call.failure.is_some())
    }
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum BackupFrame {
    BackupCbwAppended(Box<BackupArgs>),
    BackupCreateJob { cbw: NodeId, args: Box<BackupArgs> },
    BackupCreateFailed { cbw: NodeId, args: Box<BackupArgs>, err: QmpError },
    BackupCbwDrop(JobId),
    BackupLoop(JobId),
    BackupWait(JobId),
    BackupCallCancelled(JobId),
    BackupIdle(JobId),
    BackupScan { job: JobId, offset: u64 },
    BackupScanPaused { job: JobId, offset: u64 },
    BackupScanned { job: JobId, offset: u64 },
}

impl BackupFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BackupFrame::BackupCbwAppended(args) => w.backup_cbw_appended(args),
            BackupFrame::BackupCreateJob { cbw, args } => w.backup_create_job(cbw, args),
            BackupFrame::BackupCreateFailed { cbw, args, err } => w.backup_create_failed(&args, cbw, err),
            BackupFrame::BackupCbwDrop(job) => w.backup_cbw_drop(job),
            BackupFrame::BackupLoop(job) => w.backup_loop(job),
            BackupFrame::BackupWait(job) => w.backup_wait(job),
            BackupFrame::BackupCallCancelled(job) => w.backup_call_cancelled(job),
            BackupFrame::BackupIdle(job) => w.backup_idle(job),
            BackupFrame::BackupScan { job, offset } => w.backup_scan(job, offset),
            BackupFrame::BackupScanPaused { job, offset } => w.backup_scan_paused(job, offset),
            BackupFrame::BackupScanned { job, offset } => w.backup_scanned(job, offset),
        }
    }
}

impl World {
    /// `backup_job_create`: checks, then the filter, then the job. Leaves `Val::Job`.
    pub(in crate::world) fn backup_job_create(&mut self, args: Box<BackupArgs>) -> Flow {
        if let Err(err) = self.backup_checks(&args) {
            return self.ret(Val::Job(Err(err)));
        }
        if let Some(bitmap) = args.sync_bitmap
            && let Err(text) = self.backup_freeze_bitmap(&args, bitmap)
        {
            return self.ret(Val::Job(Err(QmpError::generic(text))));
        }
        let (len, target_len) = (self.bdrv_getlength(args.source), self.bdrv_getlength(args.target));
        if len != target_len && !self.quirks.has(Quirk::BackupSizeMismatch) {
            self.backup_thaw_bitmap(&args);
            return self.ret(Val::Job(Err(QmpError::generic("Source and target image have different sizes"))));
        }
        self.seq([CopyBeforeWriteFrame::CbwAppend(args.clone()).into(), BackupFrame::BackupCbwAppended(args).into()])
    }

    fn backup_checks(&self, args: &BackupArgs) -> Result<(), QmpError> {
        let generic = |text: String| Err(QmpError::generic(text));
        if args.source == args.target {
            return generic("Source and target cannot be the same".to_owned());
        }
        if let Some(node) = [args.source, args.target].into_iter().find(|node| !self.graph.is_inserted(*node)) {
            return generic(format!("Device is not inserted: {}", self.graph.device_name(node)));
        }
        if args.compress && !self.supports_compressed_writes(args.target) {
            let name = self.graph.device_name(args.target);
            return generic(format!("Compression is not supported for this drive {name}"));
        }
        for node in [args.source, args.target] {
            if let Some(err) = self.op_blocked_by_job(node) {
                return Err(err);
            }
        }
        let max_workers = args.perf.max_workers.unwrap_or(64);
        if !(1..=i64::from(i32::MAX)).contains(&max_workers) {
            return generic(format!("max-workers must be between 1 and {}", i32::MAX));
        }
        if args.perf.max_chunk.unwrap_or(0) < 0 {
            return generic("max-chunk must be zero (which means no limit) or positive".to_owned());
        }
        Ok(())
    }

    fn backup_freeze_bitmap(&mut self, args: &BackupArgs, bitmap: BitmapId) -> Result<(), String> {
        let size = self.bdrv_getlength(args.source);
        let bitmaps = &mut self.graph.nodes[args.source].bitmaps;
        if args.bitmap_mode != BitmapSyncMode::Never {
            bitmaps.get(bitmap).expect("just found").check(crate::bitmap::CheckFlags::DEFAULT)?;
        }
        bitmaps.create_successor(bitmap, size).map(|_| ())
    }

    fn backup_thaw_bitmap(&mut self, args: &BackupArgs) {
        if let Some(bitmap) = args.sync_bitmap {
            self.reach(CodePlace::BitmapThawed);
            self.graph.nodes[args.source].bitmaps.reclaim(bitmap).expect("it was split just before");
        }
    }

    /// `backup_job_create`, after the filter is in place.
    fn backup_cbw_appended(&mut self, args: Box<BackupArgs>) -> Flow {
        let appended: Result<NodeId, QmpError> = self.take();
        let cbw = match appended {
            Ok(cbw) => cbw,
            Err(err) => {
                self.backup_thaw_bitmap(&args);
                return self.ret(Val::Job(Err(err)));
            }
        };
        let cluster_size = self.cbw(cbw).bcs.cluster_size;
        let max_chunk = args.perf.max_chunk.unwrap_or(0).unsigned_abs();
        if max_chunk > 0 && max_chunk < cluster_size {
            let err = QmpError::generic(format!(
                "Required max-chunk ({max_chunk}) is less than backup cluster size ({cluster_size})"
            ));
            return self.backup_create_failed(&args, cbw, err);
        }
        self.seq([GraphLockFrame::GraphWrlock.into(), BackupFrame::BackupCreateJob { cbw, args }.into()])
    }

    fn backup_create_failed(&mut self, args: &BackupArgs, cbw: NodeId, err: QmpError) -> Flow {
        self.backup_thaw_bitmap(args);
        self.push(Frame::Give(Box::new(Val::Job(Err(err)))));
        self.seq([ChainFrame::FilterDrop(cbw).into()])
    }

    /// `backup_job_create`: the job itself, between lock and unlock of `block_job_create`.
    fn backup_create_job(&mut self, cbw: NodeId, args: Box<BackupArgs>) -> Flow {
        match self.block_job_create(&args.flags, JobType::Backup, args.txn, cbw, Perms::NONE) {
            Ok(job) => {
                self.backup_init_job(job, cbw, &args);
                self.seq([
                    GraphLockFrame::GraphWrunlock.into(),
                    GraphLockFrame::GraphWrlock.into(),
                    BlockJobFrame::JobAddBdrv { job, name: "target", bs: args.target }.into(),
                    GraphLockFrame::GraphWrunlock.into(),
                    Frame::Give(Box::new(Val::Job(Ok(job)))),
                ])
            }
            Err((err, job)) => {
                self.push(BackupFrame::BackupCreateFailed { cbw, args, err }.into());
                if let Some(job) = job {
                    self.push(JobFrame::JobEarlyFail(job).into());
                }
                self.seq([GraphLockFrame::GraphWrunlock.into()])
            }
        }
    }

    fn backup_init_job(&mut self, job: JobId, cbw: NodeId, args: &BackupArgs) {
        let state = &mut self.cbw(cbw).bcs;
        state.set_copy_opts(args.perf.use_copy_range.unwrap_or(false), args.compress);
        state.progress = Some(job);
        state.rate_limit.set_speed(args.flags.speed.unsigned_abs());
        let (len, cluster_size) = (state.len, state.cluster_size);
        self.jobs[job].driver = JobDriver::Backup(BackupJob {
            cbw,
            source: args.source,
            target: args.target,
            sync_bitmap: args.sync_bitmap,
            sync_mode: args.sync_mode,
            bitmap_mode: args.bitmap_mode,
            on_source_error: args.on_source_error,
            on_target_error: args.on_target_error,
            len,
            cluster_size,
            max_workers: u32::try_from(args.perf.max_workers.unwrap_or(64)).expect("checked"),
            max_chunk: args.perf.max_chunk.unwrap_or(0).unsigned_abs(),
            wait: false,
            bg_bcs_call: None,
        });
        if self.feed.on {
            self.see_backup(job);
        }
    }

    /// `backup_clean`: gives up its nodes, then takes the filter away.
    fn backup_clean(&mut self, job: JobId) -> Flow {
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            BlockJobFrame::JobRemoveAllBdrv(job).into(),
            GraphLockFrame::GraphWrunlock.into(),
            BackupFrame::BackupCbwDrop(job).into(),
        ])
    }

    /// `backup_clean`, second half.
    fn backup_cbw_drop(&mut self, job: JobId) -> Flow {
        let cbw = self.jobs[job].backup().cbw;
        self.filter_drop(cbw)
    }

    /// `backup_cancel`: every request is by force.
    fn backup_cancel(&mut self, job: JobId, _force: bool) -> bool {
        self.bdrv_cancel_in_flight(self.jobs[job].backup().target);
        true
    }

    /// `backup_commit`
    fn backup_commit(&mut self, job: JobId) -> Flow {
        self.backup_cleanup_sync_bitmap(job, false);
        Flow::Go
    }

    /// `backup_abort`
    fn backup_abort(&mut self, job: JobId) -> Flow {
        self.backup_cleanup_sync_bitmap(job, true);
        Flow::Go
    }

    /// `backup_cleanup_sync_bitmap`: what becomes of the bitmap.
    fn backup_cleanup_sync_bitmap(&mut self, job: JobId, failed: bool) {
        let b = self.jobs[job].backup().clone();
        let j = &self.jobs[job];
        let only_cancelled = j.co.is_some() && j.ret == Some(Errno::ECANCELED);
        let failed = failed && !(only_cancelled && self.quirks.has(Quirk::CancelledIncrementalAbdicates));
        let Some(bitmap) = b.sync_bitmap else { return };
        let always = b.bitmap_mode == BitmapSyncMode::Always;
        let sync = (!failed || always) && b.bitmap_mode != BitmapSyncMode::Never;
        self.reach(match (sync, failed) {
            (true, false) => CodePlace::AbdicateOnSuccess,
            (true, true) => CodePlace::AbdicateOnFailure,
            (false, false) => CodePlace::ReclaimOnSuccess,
            (false, true) => CodePlace::ReclaimOnFailure,
        });
        let bitmaps = &mut self.graph.nodes[b.source].bitmaps;
        let left = if sync { bitmaps.abdicate(bitmap) } else { bitmaps.reclaim(bitmap).map(|()| bitmap) };
        let left = left.expect("the bitmap is split while the job runs");
        if failed && always {
            let uncopied = self.copy_bits(b.cbw).clone();
            self.bits_mut(b.source, left).merge_from(&uncopied);
        }
    }

    /// `backup_run`
    fn backup_run(&mut self, job: JobId) -> Flow {
        let b = self.jobs[job].backup();
        let (cbw, source, mode, sync_bitmap) = (b.cbw, b.source, b.sync_mode, b.sync_bitmap);
        if mode == SyncMode::Bitmap {
            let bitmap = sync_bitmap.expect("sync=bitmap has a bitmap");
            let bits = self.bits(source, bitmap).clone();
            let copy_bits = self.copy_bitmap(cbw);
            copy_bits.reset_all();
            copy_bits.merge_from(&bits);
        } else if mode == SyncMode::Top {
            self.cbw(cbw).bcs.skip_unallocated = true;
        }
        let estimate = self.copy_bits(cbw).count_bytes();
        self.job_progress_set_remaining(job, estimate);
        match mode {
            SyncMode::Top => self.seq([BackupFrame::BackupScan { job, offset: 0 }.into()]),
            SyncMode::None => self.seq([BackupFrame::BackupIdle(job).into()]),
            _ => self.seq([BackupFrame::BackupLoop(job).into()]),
        }
    }

    /// `backup_run`, sync=top: one step of the scan for allocated clusters.
    fn backup_scan(&mut self, job: JobId, offset: u64) -> Flow {
        let b = self.jobs[job].backup();
        let (cbw, len) = (b.cbw, b.len);
        if offset >= len {
            self.cbw(cbw).bcs.skip_unallocated = false;
            return self.seq([BackupFrame::BackupLoop(job).into()]);
        }
        if self.job_is_cancelled(job) {
            return self.ret(Val::err(Errno::ECANCELED));
        }
        self.seq([JobFrame::JobPausePoint(job).into(), BackupFrame::BackupScanPaused { job, offset }.into()])
    }

    /// The same, after its pause point.
    fn backup_scan_paused(&mut self, job: JobId, offset: u64) -> Flow {
        if self.job_is_cancelled(job) {
            return self.ret(Val::err(Errno::ECANCELED));
        }
        let cbw = self.jobs[job].backup().cbw;
        self.seq([
            GraphLockFrame::Rdlock.into(),
            BlockCopyFrame::CopyResetUnallocated { cbw, offset }.into(),
            GraphLockFrame::Rdunlock.into(),
            BackupFrame::BackupScanned { job, offset }.into(),
        ])
    }

    /// The same, after its status query.
    fn backup_scanned(&mut self, job: JobId, offset: u64) -> Flow {
        let count: Ret<u64> = self.take();
        match count {
            Ok(count) => self.backup_scan(job, offset + count),
            Err(errno) => self.ret(Val::err(errno)),
        }
    }

    /// `backup_run`, sync=none: sleeps until it is cancelled.
    fn backup_idle(&mut self, job: JobId) -> Flow {
        if self.job_is_cancelled(job) {
            return self.ret(Val::Ret(Ok(())));
        }
        self.seq([JobFrame::JobYield(job).into(), BackupFrame::BackupIdle(job).into()])
    }

    /// `backup_loop`: starts a copy call over the whole disk.
    pub(in crate::world) fn backup_loop(&mut self, job: JobId) -> Flow {
        let b = self.jobs[job].backup();
        let call = CopyCall {
            max_workers: b.max_workers,
            max_chunk: b.max_chunk,
            ..CopyCall::new(b.cbw, 0, align_up(b.len, b.cluster_size), CallEnd::Backup(job))
        };
        let call = self.block_copy_async(call);
        self.jobs[job].backup_mut().bg_bcs_call = Some(call);
        self.backup_wait(job)
    }

    fn backup_call(&self, job: JobId) -> CallId {
        self.jobs[job].backup().bg_bcs_call.expect("a copy call is under way")
    }

    /// `backup_loop`: waits for the call, then decides.
    fn backup_wait(&mut self, job: JobId) -> Flow {
        let call = self.backup_call(job);
        let cancelled = self.job_is_cancelled(job);
        if !self.calls[call].finished {
            if !cancelled {
                return self.seq([JobFrame::JobYield(job).into(), BackupFrame::BackupWait(job).into()]);
            }
            self.block_copy_call_cancel(call);
            self.jobs[job].backup_mut().wait = true;
            self.push(BackupFrame::BackupCallCancelled(job).into());
            return Flow::Yield(Wait::CopyCall);
        }
        let c = &self.calls[call];
        let (call_cancelled, failure) = (c.cancelled, c.failure);
        if cancelled || (!call_cancelled && failure.is_none()) {
            return self.backup_call_cancelled(job);
        }
        self.calls.remove(call);
        if call_cancelled {
            self.reach(CodePlace::CopyAgain);
            return self.backup_loop(job);
        }
        let (errno, is_read) = failure.expect("the call failed");
        let b = self.jobs[job].backup();
        let on_error = if is_read { b.on_source_error } else { b.on_target_error };
        self.jobs[job].backup_mut().bg_bcs_call = None;
        self.trace.take_cause(crate::trace::LaterWork::Call(call.0));
        match self.block_job_error_action(job, on_error, is_read, errno) {
            ErrorAction::Report => self.ret(Val::err(errno)),
            ErrorAction::Stop => self.seq([JobFrame::JobPausePoint(job).into(), BackupFrame::BackupLoop(job).into()]),
            ErrorAction::Ignore => self.seq([BackupFrame::BackupLoop(job).into()]),
        }
    }

    /// `backup_loop`, the end without an error of its own.
    fn backup_call_cancelled(&mut self, job: JobId) -> Flow {
        let call = self.backup_call(job);
        assert!(self.calls[call].finished);
        self.calls.remove(call);
        self.jobs[job].backup_mut().bg_bcs_call = None;
        self.ret(Val::Ret(Ok(())))
    }

    /// `backup_block_copy_callback`
    pub(in crate::world) fn backup_block_copy_callback(&mut self, job: JobId) {
        if std::mem::take(&mut self.jobs[job].backup_mut().wait) {
            let co = self.jobs[job].co.expect("the job runs");
            self.aio_co_wake(co);
        } else {
            self.job_enter(job);
        }
    }

    /// `backup_pause`: ends the copy call and waits for its tasks.
    fn backup_pause(&mut self, job: JobId) -> Flow {
        if self.quirks.has(Quirk::SeededCopiesWhilePaused) {
            return Flow::Go;
        }
        let Some(call) = self.jobs[job].backup().bg_bcs_call else { return Flow::Go };
        if self.calls[call].finished {
            return Flow::Go;
        }
        self.reach(CodePlace::CopyPaused);
        self.block_copy_call_cancel(call);
        self.jobs[job].backup_mut().wait = true;
        Flow::Yield(Wait::CopyCall)
    }

    /// A backup job was created.
    fn see_backup(&mut self, job: JobId) {
        let b = self.jobs[job].backup();
        let bitmaps = &self.graph.nodes[b.source].bitmaps;
        let bitmap = b.sync_bitmap.and_then(|id| bitmaps.get(id));
        let bitmap = bitmap.and_then(|bitmap| Some((bitmap.name().cloned()?, bitmap.bitmap().clone())));
        let discards = self.graph.nodes[b.cbw].driver.as_ref().is_some_and(Driver::discards_source);
        let begins = BackupBegins {
            job,
            source_node: b.source,
            target_node: b.target,
            source: self.frozen(b.source),
            target: self.frozen(b.target),
            mode: b.sync_mode,
            bitmap,
            discards,
            len: b.len,
        };
        self.feed.seen.push(Seen::BackupBegins(Box::new(begins)));
    }

    /// What there is to say of a job's bitmap before its commit or abort callback.
    fn backup_bitmap(&self, job: JobId) -> Option<BitmapEnd> {
        let b = self.jobs[job].backup();
        let node = self.graph.nodes.get(b.source)?;
        let bitmap = node.bitmaps.get(b.sync_bitmap?)?;
        let since = node.bitmaps.get(bitmap.successor()?)?;
        self.graph.nodes.get(b.cbw)?.driver.as_ref()?;
        Some(BitmapEnd {
            node: b.source,
            node_name: node.node_name.clone(),
            name: bitmap.name()?.clone(),
            mode: b.bitmap_mode,
            before: bitmap.bitmap().clone(),
            since: since.bitmap().clone(),
            uncopied: self.copy_bits(b.cbw).clone(),
            after: None,
        })
    }

    /// `backup_set_speed`
    fn backup_set_speed(&mut self, job: JobId, speed: i64) {
        let b = self.jobs[job].backup();
        let (cbw, call) = (b.cbw, b.bg_bcs_call);
        if self.graph.nodes.get(cbw).is_some() {
            self.cbw(cbw).bcs.rate_limit.set_speed(speed.unsigned_abs());
        }
        if let Some(call) = call {
            self.block_copy_kick(call);
        }
    }
}
