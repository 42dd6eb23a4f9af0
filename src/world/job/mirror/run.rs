//! The mirror's coroutine: what is dirty at first, the loop that copies it, READY, and the last turn (`block/mirror.c:mirror_run`).

use super::{MAX_IN_FLIGHT, MirrorFrame, MirrorMethod, SLICE_TIME};
use crate::base::errno::{Errno, Ret};
use crate::base::time::Span;
use crate::base::units::align_down;
use crate::bitmap::{HBitmap, HBitmapIter};
use crate::quirk::Quirk;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{JobId, NodeId};
use crate::world::block::backend::BackendFrame;
use crate::world::block::backend::BlkRequest;
use crate::world::block::drain::DrainFrame;
use crate::world::block::graph::DetectZeroes;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::status::StatusFrame;
use crate::world::block::io::status::StatusReq;
use crate::world::block::io::zeroes::ZeroesFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::job::IoStatus;
use crate::world::job::JobFrame;
use crate::world::job::block_job::ErrorAction;
use crate::world::job::hooks::JobDriver;
use crate::world::value::{BlockStatus, Val};

/// `BDRV_SECTOR_SIZE`
const SECTOR: u64 = 512;

/// A host has no memory for a buffer of this size. Linux refuses what is more than all that it has.
const TOO_MUCH_MEMORY: u64 = 32 << 30;

impl World {
    /// `mirror_run`
    pub(super) fn mirror_run(&mut self, job: JobId) -> Flow {
        let (source, target) = (self.mirror_source(job), self.mirror_target(job));
        self.mirror(job).source = source;
        if self.job_is_cancelled(job) {
            return self.mirror_immediate_exit(job, Ok(()));
        }
        let (length, target_length) = (self.bdrv_getlength(source), self.bdrv_getlength(target));
        let s = self.mirror(job);
        s.bdev_length = length;
        if s.base == Some(target) {
            if length > target_length {
                let blk = s.target.expect("it is there until the end");
                return self
                    .seq([BackendFrame::BlkTruncate { blk, size: length }.into(), MirrorFrame::Grown(job).into()]);
            }
        } else if length != target_length {
            self.jobs[job].err = Some("Source and target image have different sizes".into());
            return self.mirror_immediate_exit(job, Err(Errno::EINVAL));
        }
        self.mirror_set_up(job)
    }

    /// `mirror_run`, once the base was made as long as the active layer.
    pub(super) fn mirror_grown(&mut self, job: JobId) -> Flow {
        match self.take_ret() {
            Ok(()) => self.mirror_set_up(job),
            // The text is not passed on.
            Err(errno) => self.mirror_immediate_exit(job, Err(errno)),
        }
    }

    /// `mirror_run` up to the first look at what is dirty.
    fn mirror_set_up(&mut self, job: JobId) -> Flow {
        let target = self.mirror_target(job);
        if self.mirror(job).bdev_length == 0 {
            if self.quirks.has(Quirk::MirrorZeroLengthSkipsReady) {
                return self.mirror_immediate_exit(job, Ok(()));
            }
            self.job_transition_to_ready(job);
            self.mirror(job).actively_synced = true;
            return self.mirror_empty_disk(job);
        }
        let cluster_size = self.cluster_size_of(target).filter(|size| *size > 0).unwrap_or(SECTOR);
        let names_backing = !self.graph.nodes[target].backing_file.is_empty();
        let copies_on_write = self.graph.backing_chain_next(target).is_some();
        let now = self.now;
        let s = self.mirror(job);
        s.in_flight_bitmap = HBitmap::new(s.bdev_length, s.granularity);
        s.target_cluster_size = cluster_size;
        if names_backing && !copies_on_write && s.granularity < cluster_size {
            s.buf_size = s.buf_size.max(cluster_size);
            s.cow_bitmap = Some(HBitmap::new(s.bdev_length, s.granularity));
        }
        if s.buf_size >= TOO_MUCH_MEMORY {
            return self.mirror_immediate_exit(job, Err(Errno::ENOMEM));
        }
        s.buf_free_count = s.buf_size.div_ceil(s.granularity);
        s.last_pause = now;
        if s.is_none_mode {
            return self.mirror_initialised(job);
        }
        self.mirror_dirty_init(job)
    }

    /// `mirror_run` of a disk of no bytes: waits to be told to end.
    pub(super) fn mirror_empty_disk(&mut self, job: JobId) -> Flow {
        if self.jobs[job].cancelled || self.mirror(job).should_complete {
            return self.mirror_immediate_exit(job, Ok(()));
        }
        self.seq([JobFrame::JobYield(job).into(), MirrorFrame::EmptyDisk(job).into()])
    }

    /// `mirror_throttle`, then a frame.
    fn mirror_throttle(&mut self, job: JobId, then: MirrorFrame) -> Flow {
        self.push(then.into());
        let now = self.now;
        let s = self.mirror(job);
        if now - s.last_pause > SLICE_TIME {
            s.last_pause = now;
            return self.job_sleep_ns(job, Span::ZERO);
        }
        self.seq([JobFrame::JobPausePoint(job).into()])
    }

    /// `bdrv_can_write_zeroes_with_unmap`
    pub(super) fn can_write_zeroes_with_unmap(&self, node: NodeId) -> bool {
        self.graph.nodes[node].flags.unmap && self.supported_zero_flags(node).may_unmap
    }

    /// `mirror_dirty_init`
    fn mirror_dirty_init(&mut self, job: JobId) -> Flow {
        let target = self.mirror_target(job);
        if self.quirks.since(Change::MirrorSkipsZeroes) {
            let s = self.mirror(job);
            s.zero_bitmap = Some(HBitmap::new(s.bdev_length, s.granularity));
            if s.target_is_zero {
                self.leave(Val::Status(Ok(BlockStatus { zero: true, ..BlockStatus::default() })));
                return self.mirror_target_asked(job);
            }
            return self.seq([
                GraphLockFrame::Rdlock.into(),
                ZeroesFrame::IsAllZeroes(target).into(),
                GraphLockFrame::Rdunlock.into(),
                MirrorFrame::TargetAsked(job).into(),
            ]);
        }
        if !self.mirror(job).zero_target {
            return self.mirror_scan(job, 0);
        }
        if !self.can_write_zeroes_with_unmap(target) {
            let length = self.mirror(job).bdev_length;
            self.mirror_set_dirty(job, 0, length);
            return self.mirror_initialised(job);
        }
        self.mirror(job).initial_zeroing_ongoing = true;
        self.mirror_zeroing(job, 0)
    }

    /// `mirror_dirty_init`, once it is known whether the target reads as zeroes: whether it is to be zeroed first, and what of it is.
    pub(super) fn mirror_target_asked(&mut self, job: JobId) -> Flow {
        let Val::Status(status) = self.take_val() else { unreachable!("a status query answers so") };
        let is_zero = match status {
            Ok(status) => status.zero,
            Err(errno) => return self.mirror_immediate_exit(job, Err(errno)),
        };
        let target = self.mirror_target(job);
        let unmaps = self.can_write_zeroes_with_unmap(target);
        let punches = self.graph.nodes[target].detect_zeroes == DetectZeroes::Unmap && unmaps;
        // The commit of an active layer is one of `sync=top`.
        let top = self.mirror(job).is_top_mode || matches!(self.jobs[job].driver, JobDriver::CommitActive(_));
        match (top, is_zero && !punches) {
            (_, true) => self.mirror(job).zero_bitmap.as_mut().expect("just made").set_all(),
            (true, false) => {}
            (false, false) if !unmaps || punches => {
                let length = self.mirror(job).bdev_length;
                self.mirror_set_dirty(job, 0, length);
                return self.mirror_initialised(job);
            }
            (false, false) => {
                self.mirror(job).initial_zeroing_ongoing = true;
                return self.mirror_zeroing(job, 0);
            }
        }
        self.mirror_scan(job, 0)
    }

    /// The largest piece of the two loops of `mirror_dirty_init`.
    fn mirror_init_piece(&mut self, job: JobId, offset: u64) -> u64 {
        let s = self.mirror(job);
        align_down(i32::MAX as u64, s.granularity).min(s.bdev_length - offset)
    }

    /// `mirror_dirty_init`: zeroes the target, a piece at a time.
    pub(super) fn mirror_zeroing(&mut self, job: JobId, offset: u64) -> Flow {
        if offset >= self.mirror(job).bdev_length {
            return self.seq([MirrorFrame::WaitForAll(job).into(), MirrorFrame::Zeroed(job).into()]);
        }
        self.mirror_throttle(job, MirrorFrame::ZeroingPaused { job, offset })
    }

    /// The same, after its pause point.
    pub(super) fn mirror_zeroing_paused(&mut self, job: JobId, offset: u64) -> Flow {
        if self.job_is_cancelled(job) {
            self.mirror(job).initial_zeroing_ongoing = false;
            return self.mirror_immediate_exit(job, Ok(()));
        }
        if self.mirror(job).in_flight >= MAX_IN_FLIGHT {
            self.push(MirrorFrame::Zeroing { job, offset }.into());
            return self.mirror_wait_for_free_slot(job);
        }
        let bytes = self.mirror_init_piece(job, offset);
        self.push(MirrorFrame::Zeroing { job, offset: offset + bytes }.into());
        self.mirror_perform(job, offset, bytes, MirrorMethod::Zero);
        Flow::Go
    }

    /// The same, once all is zeroed.
    pub(super) fn mirror_zeroed(&mut self, job: JobId) -> Flow {
        self.mirror(job).initial_zeroing_ongoing = false;
        self.mirror_scan(job, 0)
    }

    /// `mirror_dirty_init`: what is allocated above the base is dirty.
    pub(super) fn mirror_scan(&mut self, job: JobId, offset: u64) -> Flow {
        if offset >= self.mirror(job).bdev_length {
            return self.mirror_initialised(job);
        }
        self.mirror_throttle(job, MirrorFrame::ScanPaused { job, offset })
    }

    /// The same, after its pause point.
    pub(super) fn mirror_scan_paused(&mut self, job: JobId, offset: u64) -> Flow {
        if self.job_is_cancelled(job) {
            return self.mirror_immediate_exit(job, Ok(()));
        }
        let (source, bytes) = (self.mirror_source(job), self.mirror_init_piece(job, offset));
        // `bdrv_is_allocated_above` with `include_base` goes down to the overlay, and no further.
        let overlay = self.mirror(job).base_overlay;
        if overlay.is_some_and(|overlay| self.graph.nodes.get(overlay).is_none()) {
            let subject = format!("job {}", self.jobs[job].id);
            Self::qemu_is_known_to_abort(
                "stream-below-a-mirror",
                subject,
                "bdrv_is_allocated_above: the chain ends before the base",
            );
        }
        let base = overlay.and_then(|overlay| self.graph.filter_or_cow_bs(overlay));
        self.seq([
            GraphLockFrame::Rdlock.into(),
            StatusFrame::StatusAbove(StatusReq::new(source, base, offset, bytes, false)).into(),
            GraphLockFrame::Rdunlock.into(),
            MirrorFrame::Scanned { job, offset }.into(),
        ])
    }

    /// The same, after its status query.
    pub(super) fn mirror_scanned(&mut self, job: JobId, offset: u64) -> Flow {
        let Val::Status(status) = self.take_val() else { unreachable!("a status query answers so") };
        let status = match status {
            Ok(status) => status,
            Err(errno) => return self.mirror_immediate_exit(job, Err(errno)),
        };
        if status.pnum == 0 {
            let subject = format!("job {}", self.jobs[job].id);
            let reason = "mirror_dirty_init: the source is shorter than it was";
            Self::qemu_is_known_to_abort("mirror-of-a-node-made-shorter", subject, reason);
        }
        if status.allocated {
            self.mirror_set_dirty(job, offset, status.pnum);
        }
        self.mirror_scan(job, offset + status.pnum)
    }

    /// `mirror_run`, once the first dirty bits are set: the filter may use the job.
    fn mirror_initialised(&mut self, job: JobId) -> Flow {
        if self.job_is_cancelled(job) && !self.mirror(job).is_none_mode {
            return self.mirror_immediate_exit(job, Ok(()));
        }
        let s = self.mirror(job);
        let (top, bitmap) = (s.top, s.dirty_bitmap.expect("the bitmap lives until the end"));
        self.mirror_top(top).job = Some(job);
        if self.quirks.since(Change::MirrorBitmapOfFilter) {
            self.graph.nodes[top].bitmaps.get_mut(bitmap).expect("it is there").set_enabled(false);
        }
        self.mirror(job).dbi = Some(HBitmapIter::new(&self.mirror_bits(job).clone(), 0));
        self.mirror_loop(job)
    }

    /// `mirror_run`: a turn of the loop.
    pub(super) fn mirror_loop(&mut self, job: JobId) -> Flow {
        if let Err(errno) = self.mirror(job).ret {
            return self.mirror_immediate_exit(job, Err(errno));
        }
        self.seq([JobFrame::JobPausePoint(job).into(), MirrorFrame::LoopPaused(job).into()])
    }

    /// The same, after its pause point: waits for an operation, or starts new ones.
    pub(super) fn mirror_loop_paused(&mut self, job: JobId) -> Flow {
        if self.job_is_cancelled(job) {
            return self.mirror_immediate_exit(job, Ok(()));
        }
        let (cnt, now) = (self.mirror_dirty_count(job), self.now);
        let s = self.mirror(job);
        let remaining = s.bytes_in_flight + cnt + s.active_write_bytes_in_flight;
        let (in_flight, no_buffer, delta) = (s.in_flight, s.buf_free_count == 0, now - s.last_pause);
        self.job_progress_set_remaining(job, remaining);
        if delta < SLICE_TIME && self.jobs[job].iostatus == IoStatus::Ok {
            if in_flight >= MAX_IN_FLIGHT || no_buffer || (cnt == 0 && in_flight > 0) {
                self.push(MirrorFrame::Loop(job).into());
                return self.mirror_wait_for_free_slot(job);
            }
            if cnt > 0 {
                self.push(MirrorFrame::Iterated { job, cnt }.into());
                return self.mirror_iteration(job);
            }
        }
        self.mirror_iterated(job, cnt)
    }

    /// The same, after an iteration or without one. `cnt` is what was dirty before it.
    pub(super) fn mirror_iterated(&mut self, job: JobId, cnt: u64) -> Flow {
        if self.mirror(job).in_flight > 0 || cnt > 0 {
            return self.mirror_may_complete(job, cnt, false);
        }
        if self.jobs[job].status.is_ready() && !self.mirror(job).forgets_ready {
            return self.mirror_synced(job);
        }
        self.mirror_flush(job, MirrorFrame::FirstFlushed(job))
    }

    /// `mirror_flush`, the request.
    fn mirror_flush(&mut self, job: JobId, then: MirrorFrame) -> Flow {
        let blk = self.mirror(job).target.expect("it is there until the end");
        self.seq([BackendFrame::BlkCo { blk, request: Box::new(BlkRequest::Flush) }.into(), then.into()])
    }

    /// `mirror_flush`, its result.
    fn mirror_flushed(&mut self, job: JobId) -> Ret {
        let ret = self.take_ret();
        if let Err(errno) = ret
            && self.mirror_error_action(job, false, errno) == ErrorAction::Report
        {
            self.mirror(job).ret = ret;
        }
        ret
    }

    /// `mirror_run`, after the flush before READY.
    pub(super) fn mirror_first_flushed(&mut self, job: JobId) -> Flow {
        if self.mirror_flushed(job).is_err() {
            return self.mirror_loop(job);
        }
        if std::mem::take(&mut self.mirror(job).forgets_ready) && self.jobs[job].status.is_ready() {
            self.job_event_ready(job);
        } else {
            self.job_transition_to_ready(job);
        }
        self.mirror_synced(job)
    }

    /// `mirror_run`: nothing is dirty and nothing under way.
    fn mirror_synced(&mut self, job: JobId) -> Flow {
        let cancelled = self.jobs[job].cancelled;
        let s = self.mirror(job);
        if s.copy_mode != crate::qmp::types::MirrorCopyMode::Background {
            s.actively_synced = true;
        }
        let should_complete = s.should_complete || cancelled;
        self.see_synced();
        let cnt = self.mirror_dirty_count(job);
        self.mirror_may_complete(job, cnt, should_complete)
    }

    /// `mirror_run`, the end of a turn: the last look, or a sleep.
    fn mirror_may_complete(&mut self, job: JobId, cnt: u64, should_complete: bool) -> Flow {
        if cnt == 0 && should_complete {
            let s = self.mirror(job);
            s.in_drain = true;
            let source = s.source;
            return self.seq([DrainFrame::DrainedBegin(source).into(), MirrorFrame::Drained(job).into()]);
        }
        self.push(MirrorFrame::Slept(job).into());
        if !self.jobs[job].status.is_ready() || should_complete {
            return self.block_job_ratelimit_sleep(job);
        }
        if self.mirror(job).in_flight == 0 && cnt == 0 {
            return self.job_sleep_ns(job, SLICE_TIME);
        }
        Flow::Go
    }

    /// `mirror_run`, after the sleep at the end of a turn.
    pub(super) fn mirror_slept(&mut self, job: JobId) -> Flow {
        let now = self.now;
        self.mirror(job).last_pause = now;
        self.mirror_loop(job)
    }

    /// `mirror_run`, once the source is drained for the last look.
    pub(super) fn mirror_drained(&mut self, job: JobId) -> Flow {
        assert!(self.mirror(job).in_active_write_counter == 0, "a drained source has no request");
        if self.mirror_dirty_count(job) > 0 {
            return self.mirror_drain_in_vain(job);
        }
        self.mirror_flush(job, MirrorFrame::LastFlushed(job))
    }

    fn mirror_drain_in_vain(&mut self, job: JobId) -> Flow {
        let source = self.mirror(job).source;
        self.seq([DrainFrame::DrainedEnd(source).into(), MirrorFrame::Undrained(job).into()])
    }

    /// The same, after that drained section.
    pub(super) fn mirror_undrained(&mut self, job: JobId) -> Flow {
        self.mirror(job).in_drain = false;
        self.mirror_loop(job)
    }

    /// `mirror_run`, after the last flush: both are in sync, and the source stays drained.
    pub(super) fn mirror_last_flushed(&mut self, job: JobId) -> Flow {
        if self.mirror_flushed(job).is_err() {
            return self.mirror_drain_in_vain(job);
        }
        if self.quirks.has(Quirk::MirrorSwitchWindow) {
            let s = self.mirror(job);
            s.in_drain = false;
            let source = s.source;
            return self.seq([DrainFrame::DrainedEnd(source).into(), Frame::Give(Box::new(Val::Ret(Ok(()))))]);
        }
        self.ret(Val::Ret(Ok(())))
    }

    /// `immediate_exit` of `mirror_run`: what is under way is awaited, and the source drained.
    pub(super) fn mirror_immediate_exit(&mut self, job: JobId, ret: Ret) -> Flow {
        self.seq([MirrorFrame::WaitForAll(job).into(), MirrorFrame::Leave(job, ret).into()])
    }

    /// The same, once nothing is under way.
    pub(super) fn mirror_leave(&mut self, job: JobId, ret: Ret) -> Flow {
        let s = self.mirror(job);
        s.in_drain = true;
        let source = s.source;
        self.seq([DrainFrame::DrainedBegin(source).into(), Frame::Give(Box::new(Val::Ret(ret)))])
    }
}
