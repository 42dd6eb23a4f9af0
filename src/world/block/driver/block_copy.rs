//! The parallel copying engine of backup and copy-before-write (`block/block-copy.c`, `block/reqlist.c`, `block/aio_task.c`).

use super::block_copy_state::{BlockReq, CallEnd, CopyCall, CopyMethod, CopyTask, TaskPool};
use crate::base::errno::Ret;
use crate::base::time::Span;
use crate::base::units::{align_down, align_up};
use crate::quirk::Quirk;
use crate::trace::LaterWork;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::timer::TimerKind;
use crate::world::arena::{CallId, CoId, NodeId};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::IoFrame;
use crate::world::block::io::copy_range::CopyRange;
use crate::world::block::io::copy_range::CopyRangeFrame;
use crate::world::block::io::discard::DiscardFrame;
use crate::world::block::io::request::IoFlags;
use crate::world::block::io::status::StatusFrame;
use crate::world::block::io::status::StatusReq;
use crate::world::block::io::write::WriteFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::BlockStatus;
use crate::world::value::Val;
use crate::world::watch::feed::Seen;
use crate::world::watch::marks::CodePlace;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum BlockCopyFrame {
    CopyCommon(CallId),
    CopyDirty { call: CallId, offset: u64, bytes: u64 },
    CopyTaskStatus { task: CopyTask, from: u64, end: u64 },
    CopySlept(CallId),
    CopyGetMem { task: CopyTask },
    CopyTaskRun { task: CopyTask, end: u64 },
    CopyInlineDone(CallId, u64, u64),
    CopyPoolTaskDone(CallId),
    CopyWaitAll(CallId),
    CopyPassDone(CallId),
    CopyWaited(CallId),
    CopyTaskEntry(CopyTask),
    CopyDo { task: CopyTask, method: CopyMethod },
    CopyReadDone { task: CopyTask, method: CopyMethod },
    CopyTaskDone { task: CopyTask, method: CopyMethod, read: bool },
    CopyRangeDone { task: CopyTask },
    CopyResetUnallocated { cbw: NodeId, offset: u64 },
    CopyResetStatus { cbw: NodeId, offset: u64, counted: u64 },
}

impl BlockCopyFrame {
    /// Runs the frame.
    #[inline(always)]
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BlockCopyFrame::CopyCommon(call) => w.copy_common(call),
            BlockCopyFrame::CopyDirty { call, offset, bytes } => w.copy_dirty(call, offset, bytes),
            BlockCopyFrame::CopyTaskStatus { task, from, end } => w.copy_task_status(task, from, end),
            BlockCopyFrame::CopySlept(call) => {
                w.calls[call].sleeping = None;
                Flow::Go
            }
            BlockCopyFrame::CopyGetMem { task } => w.copy_get_mem(task),
            BlockCopyFrame::CopyTaskRun { task, end } => w.copy_task_run(task, end),
            BlockCopyFrame::CopyInlineDone(call, offset, bytes) => w.copy_inline_done(call, offset, bytes),
            BlockCopyFrame::CopyPoolTaskDone(call) => w.copy_pool_task_done(call),
            BlockCopyFrame::CopyWaitAll(call) => w.copy_wait_all(call),
            BlockCopyFrame::CopyPassDone(call) => w.copy_pass_done(call),
            BlockCopyFrame::CopyWaited(call) => w.copy_waited(call),
            BlockCopyFrame::CopyTaskEntry(task) => w.copy_task_entry(task),
            BlockCopyFrame::CopyDo { task, method } => w.copy_do(task, method),
            BlockCopyFrame::CopyReadDone { task, method } => w.copy_read_done(task, method),
            BlockCopyFrame::CopyTaskDone { task, method, read } => w.copy_task_done(task, method, read),
            BlockCopyFrame::CopyRangeDone { task } => w.copy_range_done(task),
            BlockCopyFrame::CopyResetUnallocated { cbw, offset } => w.copy_reset_unallocated(cbw, offset, 0),
            BlockCopyFrame::CopyResetStatus { cbw, offset, counted } => w.copy_reset_status(cbw, offset, counted),
        }
    }
}

impl World {
    fn copy_source(&self, cbw: NodeId) -> NodeId {
        self.graph.bs(self.graph.nodes[cbw].file.expect("a filter has a source"))
    }

    fn copy_target(&self, cbw: NodeId) -> NodeId {
        self.graph.bs(self.cbw_ref(cbw).target.expect("the filter is open"))
    }

    /// The bits that say what a filter still has to copy, to be changed.
    pub(in crate::world) fn copy_bitmap(&mut self, cbw: NodeId) -> &mut crate::bitmap::HBitmap {
        let state = self.cbw_ref(cbw);
        let (at, id) = (state.copy_bitmap_at.unwrap_or(cbw), state.copy_bitmap);
        self.bits_mut(at, id)
    }

    /// The bits that say what a filter still has to copy.
    pub(in crate::world) fn copy_bits(&self, cbw: NodeId) -> &crate::bitmap::HBitmap {
        let state = self.cbw_ref(cbw);
        self.bits(state.copy_bitmap_at.unwrap_or(cbw), state.copy_bitmap)
    }

    /// `block_copy_async`: starts a call in a coroutine of its own, at once.
    pub(in crate::world) fn block_copy_async(&mut self, call: CopyCall) -> CallId {
        let call = self.calls.insert(call);
        let co = self.co_create([
            GraphLockFrame::Rdunlock.into(),
            BlockCopyFrame::CopyCommon(call).into(),
            GraphLockFrame::Rdlock.into(),
        ]);
        self.co_enter(co, crate::world::aio::queue::Ctx::Main);
        call
    }

    /// `block_copy_call_cancel`
    pub(in crate::world) fn block_copy_call_cancel(&mut self, call: CallId) {
        self.calls[call].cancelled = true;
        self.block_copy_kick(call);
    }

    /// `block_copy_kick`: ends a sleep for the rate limit.
    pub(in crate::world) fn block_copy_kick(&mut self, call: CallId) {
        if let Some(co) = self.calls.get_mut(call).and_then(|c| c.sleeping.take()) {
            self.timer_del(TimerKind::CoSleep(co));
            self.aio_co_wake(co);
        }
    }

    /// `block_copy_common`, start of a pass.
    fn copy_common(&mut self, call: CallId) -> Flow {
        let c = &mut self.calls[call];
        c.found_dirty = false;
        c.pool = None;
        let (offset, bytes) = (c.offset, c.bytes);
        self.seq([BlockCopyFrame::CopyDirty { call, offset, bytes }.into(), BlockCopyFrame::CopyPassDone(call).into()])
    }

    /// `block_copy_dirty_clusters`: one turn of its loop, up to the status query.
    fn copy_dirty(&mut self, call: CallId, offset: u64, bytes: u64) -> Flow {
        let c = &self.calls[call];
        let pool_ok = c.pool.as_ref().is_none_or(|p| p.status.is_ok());
        if bytes == 0 || !pool_ok || c.cancelled {
            return self.seq([BlockCopyFrame::CopyWaitAll(call).into()]);
        }
        let (cbw, max_chunk) = (c.cbw, c.max_chunk);
        let Some(task) = self.copy_task_create(call, offset, bytes, max_chunk) else {
            return self.seq([BlockCopyFrame::CopyWaitAll(call).into()]);
        };
        self.calls[call].found_dirty = true;
        if matches!(self.calls[call].end, CallEnd::Cbw(_)) {
            self.reach(CodePlace::CbwCopies);
        }
        let source = self.copy_source(cbw);
        let base = if self.cbw_ref(cbw).bcs.skip_unallocated { self.graph.backing_chain_next(source) } else { None };
        self.seq([
            StatusFrame::StatusAbove(StatusReq::new(source, base, task.offset, task.bytes, true)).into(),
            BlockCopyFrame::CopyTaskStatus { task, from: offset, end: offset + bytes }.into(),
        ])
    }

    /// `block_copy_task_create`
    fn copy_task_create(&mut self, call: CallId, offset: u64, bytes: u64, max_chunk: u64) -> Option<CopyTask> {
        let cbw = self.calls[call].cbw;
        let state = &self.cbw_ref(cbw).bcs;
        let (method, cluster) = (state.method, state.cluster_size);
        let chunk = state.chunk_size();
        let chunk = if max_chunk == 0 { chunk } else { chunk.min(max_chunk) };
        let end = offset + bytes;
        let (offset, mut bytes) = self.copy_bits(cbw).next_dirty_area(offset, end, chunk)?;
        if method != CopyMethod::ReadWriteCluster && self.quirks.has(Quirk::CopyRangeRecopiesClean) {
            let all = chunk.min(end.min(state.len) - offset);
            if state.conflict(offset, align_up(all, cluster)).is_none() {
                bytes = all;
            }
        }
        if !bytes.is_multiple_of(cluster) && self.quirks.has(Quirk::UnalignedTail) {
            let subject = format!("copying {bytes} bytes at {offset}");
            Self::qemu_aborts(subject, "bdrv_reset_dirty_bitmap: the end is not aligned");
        }
        let bytes = align_up(bytes, cluster);
        self.copy_bitmap(cbw).reset(offset, bytes);
        let state = &mut self.cbw(cbw).bcs;
        assert!(state.conflict(offset, bytes).is_none(), "a dirty range is not being copied");
        state.in_flight_bytes += bytes;
        state.reqs.push_back(BlockReq { offset, bytes, wait_queue: Vec::new() });
        Some(CopyTask { call, offset, bytes, method })
    }

    /// `block_copy_task_shrink`
    fn copy_task_shrink(&mut self, task: &mut CopyTask, new_bytes: u64) {
        if new_bytes >= task.bytes {
            return;
        }
        let cbw = self.calls[task.call].cbw;
        let cut = task.bytes - new_bytes;
        self.copy_bitmap(cbw).set(task.offset + new_bytes, cut);
        let state = &mut self.cbw(cbw).bcs;
        state.in_flight_bytes -= cut;
        let req = state.reqs.iter_mut().find(|r| r.offset == task.offset).expect("the task's range is listed");
        req.bytes = new_bytes;
        let woken = std::mem::take(&mut req.wait_queue);
        task.bytes = new_bytes;
        self.wake_all(woken);
    }

    /// `block_copy_task_end`
    fn copy_task_end(&mut self, task: &CopyTask, failed: bool) {
        let cbw = self.calls[task.call].cbw;
        if failed {
            self.copy_bitmap(cbw).set(task.offset, task.bytes);
        }
        let dirty = self.copy_bits(cbw).count_bytes();
        let state = &mut self.cbw(cbw).bcs;
        state.in_flight_bytes -= task.bytes;
        let remaining = dirty + state.in_flight_bytes;
        let i = state.reqs.iter().position(|r| r.offset == task.offset).expect("the task's range is listed");
        let req = state.reqs.remove(i).expect("it was found there");
        if let Some(job) = state.progress {
            self.job_progress_set_remaining(job, remaining);
        }
        self.wake_all(req.wait_queue);
    }

    /// `block_copy_dirty_clusters`, after the status query of `block_copy_block_status`.
    fn copy_task_status(&mut self, mut task: CopyTask, from: u64, end: u64) -> Flow {
        let status: Ret<BlockStatus> = self.take();
        let call = task.call;
        let cbw = self.calls[call].cbw;
        let state = &self.cbw_ref(cbw).bcs;
        let (cluster, len, skip) = (state.cluster_size, state.len, state.skip_unallocated);
        let (allocated, zero, bytes) = match status {
            Ok(s) if s.pnum >= cluster && task.offset + s.pnum == len => {
                (s.allocated, s.zero, align_up(s.pnum, cluster))
            }
            Ok(s) if s.pnum >= cluster => (s.allocated, s.zero, align_down(s.pnum, cluster)),
            // A tail shorter than a cluster, and every error: copy one cluster.
            _ => (true, false, cluster),
        };
        self.copy_task_shrink(&mut task, bytes);
        let after = task.offset + task.bytes;
        if skip && !allocated {
            self.reach(CodePlace::CopySkips);
            self.copy_task_end(&task, false);
            return self.seq([BlockCopyFrame::CopyDirty { call, offset: after, bytes: end - after }.into()]);
        }
        if zero {
            task.method = CopyMethod::WriteZeroes;
        }
        if !self.calls[call].ignore_ratelimit {
            let now = self.now;
            let delay = self.cbw(cbw).bcs.rate_limit.calculate_delay(now, 0);
            if delay > Span::ZERO {
                self.copy_task_end(&task, true);
                let co = self.current();
                self.calls[call].sleeping = Some(co);
                self.timer_set(now + delay, TimerKind::CoSleep(co));
                self.push(BlockCopyFrame::CopyDirty { call, offset: from, bytes: end - from }.into());
                self.push(BlockCopyFrame::CopySlept(call).into());
                return Flow::Yield(Wait::Sleep);
            }
        }
        let now = self.now;
        self.cbw(cbw).bcs.rate_limit.calculate_delay(now, task.bytes);
        self.seq([BlockCopyFrame::CopyGetMem { task }.into(), BlockCopyFrame::CopyTaskRun { task, end }.into()])
    }

    /// `co_get_from_shres`
    fn copy_get_mem(&mut self, task: CopyTask) -> Flow {
        let cbw = self.calls[task.call].cbw;
        let co = self.current();
        let state = &mut self.cbw(cbw).bcs;
        if state.mem >= task.bytes {
            state.mem -= task.bytes;
            return Flow::Go;
        }
        state.mem_queue.push((co, task.bytes));
        self.push(BlockCopyFrame::CopyGetMem { task }.into());
        Flow::Yield(Wait::Queue("memory for copying"))
    }

    /// `co_put_to_shres`
    fn copy_put_mem(&mut self, cbw: NodeId, bytes: u64) {
        let state = &mut self.cbw(cbw).bcs;
        state.mem += bytes;
        let woken: Vec<CoId> = std::mem::take(&mut state.mem_queue).into_iter().map(|(co, _)| co).collect();
        self.wake_all(woken);
    }

    /// `block_copy_task_run`: inline if it is the only piece, else in the pool.
    fn copy_task_run(&mut self, task: CopyTask, end: u64) -> Flow {
        let call = task.call;
        let after = task.offset + task.bytes;
        let bytes = end - after;
        let main_co = self.current();
        let c = &mut self.calls[call];
        if c.pool.is_none() && bytes > 0 {
            c.pool = Some(TaskPool { main_co, max_busy: c.max_workers, busy: 0, status: Ok(()), waiting: false });
        }
        let Some(pool) = &mut c.pool else {
            return self.seq([
                BlockCopyFrame::CopyTaskEntry(task).into(),
                BlockCopyFrame::CopyInlineDone(call, after, bytes).into(),
            ]);
        };
        if pool.busy >= pool.max_busy {
            pool.waiting = true;
            self.push(BlockCopyFrame::CopyTaskRun { task, end }.into());
            return Flow::Yield(Wait::TaskPool);
        }
        if pool.status.is_err() {
            let cbw = c.cbw;
            self.copy_put_mem(cbw, task.bytes);
            self.copy_task_end(&task, true);
            return self.seq([BlockCopyFrame::CopyWaitAll(call).into()]);
        }
        pool.busy += 1;
        self.push(BlockCopyFrame::CopyDirty { call, offset: after, bytes }.into());
        let co =
            self.co_create([BlockCopyFrame::CopyPoolTaskDone(call).into(), BlockCopyFrame::CopyTaskEntry(task).into()]);
        self.co_enter(co, crate::world::aio::queue::Ctx::Main);
        Flow::Go
    }

    /// After a task that ran inline.
    fn copy_inline_done(&mut self, call: CallId, offset: u64, bytes: u64) -> Flow {
        match self.take_ret() {
            Ok(()) => self.seq([BlockCopyFrame::CopyDirty { call, offset, bytes }.into()]),
            Err(errno) => self.ret(Val::err(errno)),
        }
    }

    /// The end of `aio_task_co`.
    fn copy_pool_task_done(&mut self, call: CallId) -> Flow {
        let ret = self.take_ret();
        let pool = self.calls[call].pool.as_mut().expect("the pool outlives its tasks");
        pool.busy -= 1;
        if pool.status.is_ok() {
            pool.status = ret;
        }
        if std::mem::take(&mut pool.waiting) {
            let main = pool.main_co;
            self.aio_co_wake(main);
        }
        Flow::Go
    }

    /// `aio_task_pool_wait_all`
    fn copy_wait_all(&mut self, call: CallId) -> Flow {
        match &mut self.calls[call].pool {
            Some(pool) if pool.busy > 0 => {
                pool.waiting = true;
                self.push(BlockCopyFrame::CopyWaitAll(call).into());
                Flow::Yield(Wait::TaskPool)
            }
            pool => {
                let ret = pool.take().map_or(Ok(()), |p| p.status);
                self.ret(Val::Ret(ret))
            }
        }
    }

    /// `block_copy_common`, end of a pass: again, wait for somebody else's copying, or done.
    fn copy_pass_done(&mut self, call: CallId) -> Flow {
        let failed = self.take_ret().is_err();
        let c = &self.calls[call];
        let (cbw, offset, bytes) = (c.cbw, c.offset, c.bytes);
        if !failed && !c.cancelled {
            if c.found_dirty {
                return self.seq([BlockCopyFrame::CopyCommon(call).into()]);
            }
            let co = self.current();
            let guest = matches!(c.end, CallEnd::Cbw(_));
            if let Some(i) = self.cbw(cbw).bcs.conflict(offset, bytes) {
                self.reach(if guest { CodePlace::CbwWaits } else { CodePlace::JobWaitsForCbw });
                let state = &mut self.cbw(cbw).bcs;
                state.reqs[i].wait_queue.push(co);
                self.push(BlockCopyFrame::CopyWaited(call).into());
                return Flow::Yield(Wait::Queue("a range that is being copied"));
            }
            if self.copy_bits(cbw).next_dirty(offset, bytes).is_some() {
                return self.seq([BlockCopyFrame::CopyCommon(call).into()]);
            }
        }
        self.copy_finished(call)
    }

    /// After waiting for another request of the list.
    fn copy_waited(&mut self, call: CallId) -> Flow {
        if self.calls[call].cancelled {
            self.copy_finished(call)
        } else {
            self.seq([BlockCopyFrame::CopyCommon(call).into()])
        }
    }

    fn copy_finished(&mut self, call: CallId) -> Flow {
        self.calls[call].finished = true;
        match self.calls[call].end {
            CallEnd::Backup(job) => self.backup_block_copy_callback(job),
            CallEnd::Cbw(node) => self.node_dec_in_flight(node),
        }
        Flow::Go
    }

    /// `block_copy_task_entry`
    fn copy_task_entry(&mut self, task: CopyTask) -> Flow {
        self.seq([GraphLockFrame::Rdlock.into(), BlockCopyFrame::CopyDo { task, method: task.method }.into()])
    }

    fn copy_nbytes(&self, task: &CopyTask) -> u64 {
        let len = self.cbw_ref(self.calls[task.call].cbw).bcs.len;
        (task.offset + task.bytes).min(len) - task.offset
    }

    /// `block_copy_do_copy`
    fn copy_do(&mut self, task: CopyTask, method: CopyMethod) -> Flow {
        let cbw = self.calls[task.call].cbw;
        let nbytes = self.copy_nbytes(&task);
        let target = self.copy_target(cbw);
        if task.offset + nbytes > self.bdrv_getlength(target) {
            // Only with a quirk: source and target are of one size, and neither can be resized.
            let subject = format!("node {}", self.graph.nodes[target].node_name);
            Self::qemu_aborts(subject, "bdrv_co_write_req_prepare: a write is beyond its end");
        }
        if let (true, CallEnd::Backup(job)) = (self.feed.on, self.calls[task.call].end) {
            let (id, status) = (self.jobs[job].id.clone(), self.jobs[job].status);
            self.feed.seen.push(Seen::Copies { id, status });
        }
        let flags = if self.cbw_ref(cbw).bcs.serialising { IoFlags::SERIALISING } else { IoFlags::NONE };
        let (source, offset) = (self.copy_source(cbw), task.offset);
        match method {
            CopyMethod::WriteZeroes => {
                self.reach(CodePlace::CopyZeroes);
                self.seq([
                    WriteFrame::Pwritev(crate::world::block::io::request::write_zeroes(target, offset, nbytes, flags))
                        .into(),
                    BlockCopyFrame::CopyTaskDone { task, method, read: false }.into(),
                ])
            }
            CopyMethod::RangeSmall | CopyMethod::RangeFull => {
                let (src, dst) = (source, target);
                let copy = CopyRange { src, src_offset: offset, dst, dst_offset: offset, bytes: nbytes, flags };
                self.seq([CopyRangeFrame::CopyRangeFrom(copy).into(), BlockCopyFrame::CopyRangeDone { task }.into()])
            }
            CopyMethod::ReadWrite | CopyMethod::ReadWriteCluster => self.seq([
                IoFrame::Preadv { node: source, offset, bytes: nbytes, flags: IoFlags::NONE }.into(),
                BlockCopyFrame::CopyReadDone { task, method }.into(),
            ]),
        }
    }

    /// After `bdrv_co_copy_range`: fall back to a buffer for good if it did not work.
    fn copy_range_done(&mut self, task: CopyTask) -> Flow {
        match self.take_ret() {
            Ok(()) => {
                self.reach(CodePlace::CopyRange);
                self.leave(Val::Ret(Ok(())));
                self.copy_task_done(task, CopyMethod::RangeFull, false)
            }
            Err(_) => {
                self.reach(CodePlace::CopyRangeFallsBack);
                self.copy_do(task, CopyMethod::ReadWrite)
            }
        }
    }

    /// Between read and write of `block_copy_do_copy`.
    fn copy_read_done(&mut self, task: CopyTask, method: CopyMethod) -> Flow {
        match self.take_data() {
            Err(errno) => {
                self.leave(Val::err(errno));
                self.copy_task_done(task, method, true)
            }
            Ok(data) => {
                let cbw = self.calls[task.call].cbw;
                let state = &self.cbw_ref(cbw).bcs;
                let mut flags = if state.serialising { IoFlags::SERIALISING } else { IoFlags::NONE };
                if state.compress {
                    flags |= IoFlags::COMPRESSED;
                }
                let target = self.copy_target(cbw);
                self.seq([
                    WriteFrame::Pwritev(crate::world::block::io::request::write(target, task.offset, data, flags))
                        .into(),
                    BlockCopyFrame::CopyTaskDone { task, method, read: false }.into(),
                ])
            }
        }
    }

    /// `block_copy_task_entry`, after the copying.
    fn copy_task_done(&mut self, task: CopyTask, method: CopyMethod, read: bool) -> Flow {
        let ret = self.take_ret();
        self.aio.readers -= 1;
        let cbw = self.calls[task.call].cbw;
        let state = &mut self.cbw(cbw).bcs;
        if state.method == task.method {
            state.method = method;
        }
        let (progress, discard) = (state.progress, state.discard_source);
        match ret {
            Err(errno) => {
                let failure = &mut self.calls[task.call].failure;
                if failure.is_none() {
                    self.trace.keep_cause(LaterWork::Call(task.call.0));
                }
                failure.get_or_insert((errno, read));
            }
            Ok(()) => {
                if let Some(job) = progress {
                    self.jobs[job].progress_current += task.bytes;
                }
            }
        }
        self.copy_put_mem(cbw, task.bytes);
        self.copy_task_end(&task, ret.is_err());
        if discard && ret.is_ok() {
            let source = self.copy_source(cbw);
            let bytes = self.copy_nbytes(&task);
            return self.seq([
                GraphLockFrame::Rdlock.into(),
                DiscardFrame::Pdiscard { node: source, offset: task.offset, bytes }.into(),
                GraphLockFrame::Rdunlock.into(),
                Frame::Give(Box::new(Val::Ret(Ok(())))),
            ]);
        }
        self.ret(Val::Ret(ret))
    }

    /// `block_copy_reset_unallocated`, one status query of `block_copy_is_cluster_allocated`. `counted` bytes before `offset` are
    /// known to be unallocated.
    fn copy_reset_unallocated(&mut self, cbw: NodeId, offset: u64, counted: u64) -> Flow {
        let source = self.copy_source(cbw);
        let len = self.cbw_ref(cbw).bcs.len;
        let from = offset + counted;
        self.seq([
            StatusFrame::Status { node: source, offset: from, bytes: len - from, want_zero: false }.into(),
            BlockCopyFrame::CopyResetStatus { cbw, offset, counted }.into(),
        ])
    }

    /// After that query. Leaves the number of bytes dealt with.
    fn copy_reset_status(&mut self, cbw: NodeId, offset: u64, counted: u64) -> Flow {
        let status: Ret<BlockStatus> = self.take();
        let status = match status {
            Ok(status) => status,
            Err(errno) => return self.ret(Val::Num(Err(errno))),
        };
        let cluster = self.cbw_ref(cbw).bcs.cluster_size;
        let total = counted + status.pnum;
        if status.allocated {
            return self.ret(Val::Num(Ok(align_up(total, cluster))));
        }
        let bytes = if total >= cluster {
            align_down(total, cluster)
        } else if offset + total >= self.cbw_ref(cbw).bcs.len {
            align_up(total, cluster)
        } else {
            return self.copy_reset_unallocated(cbw, offset, total);
        };
        self.block_copy_reset(cbw, offset, bytes);
        self.ret(Val::Num(Ok(bytes)))
    }

    /// `block_copy_reset`
    pub(super) fn block_copy_reset(&mut self, cbw: NodeId, offset: u64, bytes: u64) {
        self.copy_bitmap(cbw).reset(offset, bytes);
        let dirty = self.copy_bits(cbw).count_bytes();
        let state = &self.cbw_ref(cbw).bcs;
        let remaining = dirty + state.in_flight_bytes;
        if let Some(job) = state.progress {
            self.job_progress_set_remaining(job, remaining);
        }
    }
}
