//! The operations of a mirror: which ranges an iteration takes, how each is copied, and who waits for whom
//! (`block/mirror.c:mirror_iteration` and what it starts).

use super::{MAX_IN_FLIGHT, MAX_IO_BYTES, MAX_IOV, MirrorFrame, MirrorJob, MirrorMethod, MirrorOp};
use crate::base::errno::{Errno, Ret};
use crate::base::units::{align_down, align_up};
use crate::bitmap::HBitmapIter;
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::aio::{coroutine::Wait, queue::Ctx};
use crate::world::arena::{JobId, NodeId};
use crate::world::block::backend::BackendFrame;
use crate::world::block::backend::BlkRequest;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::IoFrame;
use crate::world::block::io::request::IoFlags;
use crate::world::block::io::status::StatusFrame;
use crate::world::block::io::status::StatusReq;
use crate::world::frame::{Flow, Frame};
use crate::world::job::JobFrame;
use crate::world::job::block_job::ErrorAction;
use crate::world::value::Val;

/// What a waiting coroutine waits for.
const CONFLICT: Wait = Wait::Queue("an operation on the same range");

impl MirrorJob {
    /// Puts an operation at the end of the list (`ops_in_flight`).
    pub(in crate::world) fn push_op(&mut self, offset: u64, bytes: u64) -> &mut MirrorOp {
        let id = self.next_op;
        self.next_op += 1;
        self.ops.push(MirrorOp {
            id,
            offset,
            bytes,
            is_pseudo_op: false,
            is_active_write: false,
            is_in_flight: false,
            waits: false,
            waiting: Vec::new(),
            buffers: 0,
        });
        self.ops.last_mut().expect("just pushed")
    }

    /// An operation that is not done.
    pub(in crate::world) fn op(&mut self, id: u32) -> &mut MirrorOp {
        self.ops.iter_mut().find(|op| op.id == id).expect("the operation is under way")
    }

    /// Takes an operation off the list.
    pub(in crate::world) fn remove_op(&mut self, id: u32) -> MirrorOp {
        let at = self.ops.iter().position(|op| op.id == id).expect("the operation is under way");
        self.ops.remove(at)
    }

    /// Whether the target is known to read as zeroes in all granules that the bytes touch.
    pub(in crate::world) fn reads_as_zeroes(&self, offset: u64, bytes: u64) -> bool {
        let (start, len) = self.granules(offset, bytes);
        self.zero_bitmap.as_ref().is_some_and(|zero| zero.next_zero(start, len).is_none())
    }

    /// Something else than zeroes is written to the target.
    pub(in crate::world) fn no_zeroes_at(&mut self, offset: u64, bytes: u64) {
        let (start, len) = self.granules(offset, bytes);
        if let Some(zero) = &mut self.zero_bitmap {
            zero.reset(start, len);
        }
    }

    /// The granules that the bytes touch, as a range of bytes that is cut at the end of the disk.
    pub(in crate::world) fn granules(&self, offset: u64, bytes: u64) -> (u64, u64) {
        let (start, end) = (align_down(offset, self.granularity), align_up(offset + bytes, self.granularity));
        (start, end - start)
    }
}

impl World {
    /// One look of `mirror_wait_on_conflicts`: who is to be waited for, if anybody. `own` is the operation that asks.
    pub(in crate::world) fn mirror_conflict(
        &mut self,
        job: JobId,
        own: Option<u32>,
        offset: u64,
        bytes: u64,
    ) -> Option<Wait> {
        let co = self.current();
        let s = self.mirror(job);
        let (start, len) = s.granules(offset, bytes);
        if s.ret.is_err() || s.in_flight_bitmap.next_dirty(start, len).is_none() {
            return None;
        }
        let granularity = s.granularity;
        let overlaps = |op: &MirrorOp| {
            let (from, to) = (align_down(op.offset, granularity), align_up(op.offset + op.bytes, granularity));
            from < start + len && start < to
        };
        // One that waits itself is not waited for by a guest's write: it may wait for that write.
        let any = self.quirks.has(Quirk::MirrorConflictDeadlock);
        let s = self.mirror(job);
        let mut others = s.ops.iter_mut().filter(|op| Some(op.id) != own && overlaps(op));
        let other = others.find(|op| own.is_none() || !op.waits || any)?;
        other.waiting.push(co);
        if let Some(own) = own {
            s.op(own).waits = true;
        }
        Some(CONFLICT)
    }

    /// `mirror_wait_for_free_in_flight_slot`, called as the last thing of a frame: until some operation ends. There is one: who calls has
    /// found no place or no buffer, which only operations in flight take, and none asks for more buffers than there are.
    pub(super) fn mirror_wait_for_free_slot(&mut self, job: JobId) -> Flow {
        let (co, any) = (self.current(), self.quirks.has(Quirk::MirrorWaitsForItself));
        let s = self.mirror(job);
        let real = |op: &&mut MirrorOp| !op.is_pseudo_op && (op.is_in_flight || any) && !op.is_active_write;
        s.ops.iter_mut().find(real).expect("an operation is in flight").waiting.push(co);
        Flow::Yield(Wait::Queue("the end of an operation"))
    }

    /// `mirror_wait_for_all_io`, also `mirror_pause`.
    pub(super) fn mirror_wait_for_all_io(&mut self, job: JobId) -> Flow {
        if self.mirror(job).in_flight == 0 {
            return Flow::Go;
        }
        self.push(MirrorFrame::WaitForAll(job).into());
        self.mirror_wait_for_free_slot(job)
    }

    /// `mirror_iteration`: where to begin.
    pub(super) fn mirror_iteration(&mut self, job: JobId) -> Flow {
        let bits = self.mirror_bits(job).clone();
        let s = self.mirror(job);
        let walk = s.dbi.as_mut().expect("the loop has a walk");
        let offset = walk.next(&bits).unwrap_or_else(|| {
            *walk = HBitmapIter::new(&bits, 0);
            walk.next(&bits).expect("something is dirty")
        });
        self.mirror_first_free(job, offset)
    }

    /// `mirror_iteration`: waits until nobody works on the first granule.
    pub(super) fn mirror_first_free(&mut self, job: JobId, offset: u64) -> Flow {
        if let Some(wait) = self.mirror_conflict(job, None, offset, 1) {
            self.push(MirrorFrame::FirstFree { job, offset }.into());
            return Flow::Yield(wait);
        }
        self.seq([JobFrame::JobPausePoint(job).into(), MirrorFrame::IterationPaused { job, offset }.into()])
    }

    /// `mirror_iteration`, after its pause point: takes the dirty granules that follow.
    pub(super) fn mirror_iteration_paused(&mut self, job: JobId, offset: u64) -> Flow {
        let bits = self.mirror_bits(job).clone();
        let s = self.mirror(job);
        let (granularity, mut chunks) = (s.granularity, 1);
        while chunks * granularity < s.buf_size {
            let next = offset + chunks * granularity;
            if next >= s.bdev_length || !bits.get(next) || s.in_flight_bitmap.get(next) {
                break;
            }
            let walk = s.dbi.as_mut().expect("the loop has a walk");
            if walk.next(&bits) != Some(next) {
                // What the walk remembers is old.
                *walk = HBitmapIter::new(&bits, next);
                walk.next(&bits);
            }
            chunks += 1;
        }
        let bytes = chunks * granularity;
        self.mirror_bits(job).reset(offset, bytes);
        let s = self.mirror(job);
        let op = s.push_op(offset, bytes);
        op.is_pseudo_op = true;
        let pseudo = op.id;
        s.in_flight_bitmap.set(offset, bytes);
        self.mirror_piece(job, offset, chunks, pseudo)
    }

    /// `mirror_iteration`: asks what the next piece holds.
    pub(super) fn mirror_piece(&mut self, job: JobId, offset: u64, chunks: u64, pseudo: u32) -> Flow {
        let s = self.mirror(job);
        if chunks == 0 || offset >= s.bdev_length {
            return self.mirror_iteration_end(job, pseudo);
        }
        let bytes = chunks * s.granularity;
        let source = self.mirror_source(job);
        self.seq([
            GraphLockFrame::Rdlock.into(),
            StatusFrame::StatusAbove(StatusReq::new(source, None, offset, bytes, true)).into(),
            GraphLockFrame::Rdunlock.into(),
            MirrorFrame::PieceStatus { job, offset, chunks, pseudo }.into(),
        ])
    }

    /// `mirror_iteration`: how much to take at once, and how.
    pub(super) fn mirror_piece_status(&mut self, job: JobId, offset: u64, chunks: u64, pseudo: u32) -> Flow {
        let Val::Status(status) = self.take_val() else { unreachable!("a status query answers so") };
        let target = self.mirror_target(job);
        let s = self.mirror(job);
        let granularity = s.granularity;
        let max_io = (s.buf_size / u64::from(MAX_IN_FLIGHT)).max(MAX_IO_BYTES);
        let mut bytes = match &status {
            Err(_) => (chunks * granularity).min(max_io),
            Ok(status) if status.data => status.pnum.min(max_io),
            Ok(status) => status.pnum,
        };
        bytes = align_down(bytes, granularity);
        let mut method = MirrorMethod::Copy;
        if bytes < granularity {
            bytes = granularity;
        } else if let Ok(status) = &status
            && !status.data
            && self.round_to_subclusters(target, offset, bytes) == (offset, bytes)
        {
            method = if status.zero { MirrorMethod::Zero } else { MirrorMethod::Discard };
        }
        self.mirror_piece_perform(job, offset, chunks, pseudo, bytes, method)
    }

    /// `bdrv_round_to_subclusters`
    fn round_to_subclusters(&self, node: NodeId, offset: u64, bytes: u64) -> (u64, u64) {
        match self.cluster_size_of(node).unwrap_or(0) {
            0 => (offset, bytes),
            cluster => {
                let start = align_down(offset, cluster);
                (start, align_up(offset - start + bytes, cluster))
            }
        }
    }

    /// `mirror_iteration`: starts the operation for a piece, once there is a place for it.
    pub(super) fn mirror_piece_perform(
        &mut self,
        job: JobId,
        offset: u64,
        chunks: u64,
        pseudo: u32,
        bytes: u64,
        method: MirrorMethod,
    ) -> Flow {
        let s = self.mirror(job);
        if s.in_flight >= MAX_IN_FLIGHT {
            self.push(MirrorFrame::Perform { job, offset, chunks, pseudo, bytes, method }.into());
            return self.mirror_wait_for_free_slot(job);
        }
        if s.ret.is_err() {
            return self.mirror_iteration_end(job, pseudo);
        }
        let bytes = bytes.min(s.bdev_length - offset);
        let handled = self.mirror_perform(job, offset, bytes, method);
        let target = self.mirror_target(job);
        let free = method != MirrorMethod::Copy && self.can_write_zeroes_with_unmap(target);
        let accounted = if free || self.mirror(job).io_skipped { 0 } else { handled };
        let chunks = chunks.saturating_sub(handled.div_ceil(self.mirror(job).granularity));
        self.block_job_ratelimit_processed_bytes(job, accounted);
        self.seq([MirrorFrame::Piece { job, offset: offset + handled, chunks, pseudo }.into()])
    }

    /// The end of `mirror_iteration`: all its operations are started.
    fn mirror_iteration_end(&mut self, job: JobId, pseudo: u32) -> Flow {
        let op = self.mirror(job).remove_op(pseudo);
        for co in op.waiting {
            self.aio_co_wake(co);
        }
        Flow::Go
    }

    /// `mirror_perform`: starts an operation in a coroutine of its own, at once. Gives the bytes that it takes on.
    pub(super) fn mirror_perform(&mut self, job: JobId, offset: u64, bytes: u64, method: MirrorMethod) -> u64 {
        let s = self.mirror(job);
        s.io_skipped = false;
        if method != MirrorMethod::Zero {
            s.no_zeroes_at(offset, bytes);
        }
        let op = s.push_op(offset, bytes).id;
        let co = self.co_create([Frame::from(match method {
            MirrorMethod::Copy => MirrorFrame::CoRead { job, op },
            MirrorMethod::Zero => MirrorFrame::CoZero { job, op },
            MirrorMethod::Discard => MirrorFrame::CoDiscard { job, op },
        })]);
        self.co_enter(co, Ctx::Main);
        self.mirror(job).bytes_handled
    }

    /// `mirror_co_read`: how much it takes on.
    pub(super) fn mirror_co_read(&mut self, job: JobId, op: u32) -> Flow {
        let s = self.mirror(job);
        let max = s.buf_size.min(s.granularity * MAX_IOV);
        let (offset, wanted) = (s.op(op).offset, s.op(op).bytes);
        let bytes = wanted.min(max);
        let (start, len) =
            if s.cow_bitmap.is_some() { self.mirror_cow_align(job, offset, bytes) } else { (offset, bytes) };
        let s = self.mirror(job);
        if len > s.buf_size {
            let subject = format!("job {}", self.jobs[job].id);
            Self::qemu_is_known_to_abort(
                "mirror-with-a-small-buffer",
                subject,
                "mirror_co_read: whole clusters of the target that the buffer does not hold",
            );
        }
        let o = s.op(op);
        (o.offset, o.bytes) = (start, len);
        s.bytes_handled = start + len - offset;
        self.mirror_read_buffers(job, op)
    }

    /// `mirror_cow_align`: whole clusters of the target, where they are not there yet.
    fn mirror_cow_align(&mut self, job: JobId, offset: u64, bytes: u64) -> (u64, u64) {
        let target = self.mirror_target(job);
        let s = self.jobs[job].mirror();
        let cow = s.cow_bitmap.as_ref().expect("the caller looked");
        let need_cow = !cow.get(offset) || !cow.get(offset + bytes - 1);
        let (start, mut len) = match need_cow {
            true => self.round_to_subclusters(target, offset, bytes),
            false => (offset, bytes),
        };
        let max = s.granularity * MAX_IOV;
        if len > max {
            len = if need_cow { align_down(max, s.target_cluster_size) } else { max };
        }
        let len = len.min(s.bdev_length - start);
        if start + len < offset + bytes {
            let subject = format!("job {}", self.jobs[job].id);
            Self::qemu_is_known_to_abort(
                "mirror-by-small-granules",
                subject,
                "mirror_cow_align: less than was asked for",
            );
        }
        (start, len)
    }

    /// `mirror_co_read`: takes buffers, as soon as there are enough, and reads.
    pub(super) fn mirror_read_buffers(&mut self, job: JobId, op: u32) -> Flow {
        let s = self.mirror(job);
        let (offset, bytes) = (s.op(op).offset, s.op(op).bytes);
        let chunks = bytes.div_ceil(s.granularity);
        if s.buf_free_count < chunks {
            self.push(MirrorFrame::ReadBuffers { job, op }.into());
            return self.mirror_wait_for_free_slot(job);
        }
        s.buf_free_count -= chunks;
        s.op(op).buffers = chunks;
        self.mirror_begins(job, op);
        let node = self.mirror_source(job);
        self.seq([
            GraphLockFrame::Rdlock.into(),
            IoFrame::Preadv { node, offset, bytes, flags: IoFlags::NONE }.into(),
            GraphLockFrame::Rdunlock.into(),
            MirrorFrame::ReadDone { job, op }.into(),
        ])
    }

    /// An operation is in flight from now on. Gives its range.
    fn mirror_begins(&mut self, job: JobId, op: u32) -> (u64, u64) {
        let s = self.mirror(job);
        let o = s.op(op);
        o.is_in_flight = true;
        let (offset, bytes) = (o.offset, o.bytes);
        s.in_flight += 1;
        s.bytes_in_flight += bytes;
        (offset, bytes)
    }

    /// `mirror_read_complete`
    pub(super) fn mirror_read_complete(&mut self, job: JobId, op: u32) -> Flow {
        match self.take_data() {
            Err(errno) => {
                self.mirror_op_failed(job, op, true, errno);
                self.mirror_iteration_done(job, op, Err(errno))
            }
            Ok(data) => {
                let s = self.mirror(job);
                let (offset, bytes) = (s.op(op).offset, data.len());
                let request = BlkRequest::Write { offset, data: Some(data), bytes, flags: IoFlags::NONE };
                self.mirror_to_target(job, request, MirrorFrame::WriteDone { job, op, zeroes: false })
            }
        }
    }

    /// A request to the target.
    pub(in crate::world) fn mirror_to_target(&mut self, job: JobId, request: BlkRequest, then: MirrorFrame) -> Flow {
        let blk = self.mirror(job).target.expect("it is there until the end");
        self.seq([BackendFrame::BlkCo { blk, request: Box::new(request) }.into(), then.into()])
    }

    /// `mirror_co_zero`
    pub(super) fn mirror_co_zero(&mut self, job: JobId, op: u32) -> Flow {
        let (offset, bytes) = self.mirror_begins(job, op);
        let s = self.mirror(job);
        s.bytes_handled = bytes;
        if s.reads_as_zeroes(offset, bytes) {
            s.io_skipped = true;
            self.leave(Val::Ret(Ok(())));
            return self.mirror_write_complete(job, op, true);
        }
        let unmap = if s.unmap { IoFlags::MAY_UNMAP } else { IoFlags::NONE };
        let request = BlkRequest::Write { offset, data: None, bytes, flags: unmap | IoFlags::ZERO_WRITE };
        self.mirror_to_target(job, request, MirrorFrame::WriteDone { job, op, zeroes: true })
    }

    /// `mirror_co_discard`
    pub(super) fn mirror_co_discard(&mut self, job: JobId, op: u32) -> Flow {
        let (offset, bytes) = self.mirror_begins(job, op);
        self.mirror(job).bytes_handled = bytes;
        self.mirror_to_target(
            job,
            BlkRequest::Discard { offset, bytes },
            MirrorFrame::WriteDone { job, op, zeroes: false },
        )
    }

    /// `mirror_write_complete`
    pub(super) fn mirror_write_complete(&mut self, job: JobId, op: u32, zeroes: bool) -> Flow {
        let ret = self.take_ret();
        if zeroes && ret.is_ok() {
            let s = self.mirror(job);
            let (offset, bytes) = (s.op(op).offset, s.op(op).bytes);
            if let Some(zero) = &mut s.zero_bitmap {
                zero.set(offset, bytes);
            }
        }
        if let Err(errno) = ret {
            self.mirror_op_failed(job, op, false, errno);
        }
        self.mirror_iteration_done(job, op, ret)
    }

    /// An operation failed: its range is dirty again, and the policy is asked.
    fn mirror_op_failed(&mut self, job: JobId, op: u32, is_read: bool, errno: Errno) {
        let o = self.mirror(job).op(op);
        let (offset, bytes) = (o.offset, o.bytes);
        self.mirror_set_dirty(job, offset, bytes);
        let action = self.mirror_error_action(job, is_read, errno);
        let s = self.mirror(job);
        if action == ErrorAction::Report && s.ret.is_ok() {
            s.ret = Err(errno);
        }
    }

    /// `mirror_iteration_done`
    fn mirror_iteration_done(&mut self, job: JobId, op: u32, ret: Ret) -> Flow {
        let s = self.mirror(job);
        let op = s.remove_op(op);
        s.in_flight -= 1;
        s.bytes_in_flight -= op.bytes;
        s.buf_free_count += op.buffers;
        let (start, len) = s.granules(op.offset, op.bytes);
        s.in_flight_bitmap.reset(start, len);
        if ret.is_ok() {
            if let Some(cow) = &mut s.cow_bitmap {
                cow.set(op.offset, op.bytes);
            }
            if !s.initial_zeroing_ongoing {
                self.jobs[job].progress_current += op.bytes;
            }
        }
        for co in op.waiting {
            self.aio_co_wake(co);
        }
        Flow::Go
    }
}
