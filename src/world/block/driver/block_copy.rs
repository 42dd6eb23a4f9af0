//! The parallel copying engine of backup and copy-before-write (`block/block-copy.c`, `block/reqlist.c`, `block/aio_task.c`).

use crate::base::errno::{Errno, Ret};
use crate::base::units::{MIB, Shift, align_down, align_up};
use crate::block::ratelimit::RateLimit;
use crate::quirk::Quirk;
use crate::trace::Later;
use crate::world::World;
use crate::world::aio::{TimerKind, Wait};
use crate::world::arena::{CallId, CoId, JobId, NodeId};
use crate::world::block::copy_range::CopyRange;
use crate::world::block::driver::{CbwState, Driver};
use crate::world::block::graph::Node;
use crate::world::block::io::IoFlags;
use crate::world::block::status::StatusReq;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use crate::world::watch::feed::Seen;
use crate::world::watch::marks::Place;

/// `BLOCK_COPY_MAX_COPY_RANGE`
const MAX_COPY_RANGE: u64 = 16 * MIB;
/// `BLOCK_COPY_MAX_BUFFER`
const MAX_BUFFER: u64 = MIB;
/// `BLOCK_COPY_MAX_MEM`
pub(in crate::world) const MAX_MEM: u64 = 128 * MIB;
/// `BLOCK_COPY_MAX_WORKERS`
pub const MAX_WORKERS: u32 = 64;
/// `BLOCK_COPY_CLUSTER_SIZE_DEFAULT`
pub const CLUSTER_SIZE_DEFAULT: u64 = 64 << 10;

/// `BlockCopyMethod`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// One cluster at a time.
    ReadWriteCluster,
    /// Through a buffer.
    ReadWrite,
    /// Nothing to read.
    WriteZeroes,
    /// `copy_file_range`, until the first success.
    RangeSmall,
    /// `copy_file_range`, in large pieces.
    RangeFull,
}

/// `BlockReq`: a range that somebody is copying.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockReq {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// Who waits for it, oldest first.
    pub wait_queue: Vec<CoId>,
}

/// `BlockCopyState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockCopyState {
    /// Bytes a bit of the copy bitmap stands for.
    pub cluster_size: u64,
    /// Largest request.
    pub max_transfer: u64,
    /// Bytes to copy at most.
    pub len: u64,
    /// `BDRV_REQ_SERIALISING`: the source is in the target's backing chain.
    pub serialising: bool,
    /// `BDRV_REQ_WRITE_COMPRESSED`
    pub compress: bool,
    /// Bytes that tasks work on.
    pub in_flight_bytes: u64,
    /// How to copy.
    pub method: Method,
    /// `discard-source`
    pub discard_source: bool,
    /// Ranges being copied, newest last.
    pub reqs: Vec<BlockReq>,
    /// sync=top: the copy bitmap is not final yet.
    pub skip_unallocated: bool,
    /// Whose progress the copying counts for.
    pub progress: Option<JobId>,
    /// `BLOCK_COPY_MAX_MEM` not yet used.
    pub mem: u64,
    /// Tasks that wait for memory, with what they want, oldest first.
    pub mem_queue: Vec<(CoId, u64)>,
    /// `speed`
    pub rate_limit: RateLimit,
}

impl BlockCopyState {
    /// `block_copy_state_new`, the part without the bitmap.
    #[must_use]
    pub fn new(cluster_size: u64, len: u64, max_transfer: u64, serialising: bool, discard_source: bool) -> Self {
        BlockCopyState {
            cluster_size,
            max_transfer: align_down(max_transfer, cluster_size),
            len,
            serialising,
            compress: false,
            in_flight_bytes: 0,
            method: Method::ReadWrite,
            discard_source,
            reqs: Vec::new(),
            skip_unallocated: false,
            progress: None,
            mem: MAX_MEM,
            mem_queue: Vec::new(),
            rate_limit: RateLimit::default(),
        }
    }

    /// `block_copy_set_copy_opts`
    pub fn set_copy_opts(&mut self, use_copy_range: bool, compress: bool) {
        self.compress = compress;
        self.method = if self.max_transfer < self.cluster_size || compress {
            Method::ReadWriteCluster
        } else if use_copy_range {
            Method::RangeSmall
        } else {
            Method::ReadWrite
        };
    }

    /// `block_copy_chunk_size`
    fn chunk_size(&self) -> u64 {
        match self.method {
            Method::ReadWriteCluster => self.cluster_size,
            Method::ReadWrite | Method::RangeSmall => self.cluster_size.max(MAX_BUFFER).min(self.max_transfer),
            Method::RangeFull => self.cluster_size.max(MAX_COPY_RANGE).min(self.max_transfer),
            Method::WriteZeroes => unreachable!("a state never copies zeroes only"),
        }
    }

    /// `reqlist_find_conflict`
    fn conflict(&self, offset: u64, bytes: u64) -> Option<usize> {
        self.reqs.iter().rposition(|r| offset < r.offset + r.bytes && r.offset < offset + bytes)
    }
}

/// Who is told when a copy call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallEnd {
    /// `backup_block_copy_callback`
    Backup(JobId),
    /// `copy-before-write.c:block_copy_cb`
    Cbw(NodeId),
}

/// `AioTaskPool`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TaskPool {
    /// The coroutine that fills it.
    pub main_co: CoId,
    /// `max_busy_tasks`
    pub max_busy: u32,
    /// Tasks that run.
    pub busy: u32,
    /// The first failure.
    pub status: Ret,
    /// The filling coroutine waits.
    pub waiting: bool,
}

/// `BlockCopyCallState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CopyCall {
    /// The filter whose state it uses.
    pub cbw: NodeId,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// Tasks at a time.
    pub max_workers: u32,
    /// Largest task, 0 is no limit.
    pub max_chunk: u64,
    /// As for guest writes.
    pub ignore_ratelimit: bool,
    /// Who is told.
    pub end: CallEnd,
    /// It has ended.
    pub finished: bool,
    /// It was asked to end.
    pub cancelled: bool,
    /// The first failure, and whether it was a read.
    pub failure: Option<(Errno, bool)>,
    /// Its coroutine sleeps.
    pub sleeping: Option<CoId>,
    /// Tasks of the pass that runs.
    pub pool: Option<TaskPool>,
    /// A pass found something to do.
    pub found_dirty: bool,
    /// Who waits for it no longer than `cbw-timeout`.
    pub waiter: Option<CoId>,
    /// Nobody waits.
    pub abandoned: bool,
}

impl CopyCall {
    /// A call that has not begun: one task at a time, of any size, within the rate limit.
    pub fn new(cbw: NodeId, offset: u64, bytes: u64, end: CallEnd) -> CopyCall {
        CopyCall {
            cbw,
            offset,
            bytes,
            max_workers: 1,
            max_chunk: 0,
            ignore_ratelimit: false,
            end,
            finished: false,
            cancelled: false,
            failure: None,
            sleeping: None,
            pool: None,
            found_dirty: false,
            waiter: None,
            abandoned: false,
        }
    }
}

/// `BlockCopyTask`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CopyTask {
    /// Its call.
    pub call: CallId,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// How it copies.
    pub method: Method,
}

impl World {
    /// The filter's state.
    pub fn cbw(&mut self, node: NodeId) -> &mut CbwState {
        match self.graph.nodes[node].driver.as_mut() {
            Some(Driver::Cbw(cbw)) => cbw,
            other => panic!("{node:?} is no copy-before-write filter: {other:?}"),
        }
    }

    /// Sets the clock of all copying. A node that is only looked at stays shared with other worlds, and keeps its hash.
    pub(in crate::world) fn rebase_copying(&mut self, shift: Shift) {
        let has_times = |node: &Node| matches!(&node.driver, Some(Driver::Cbw(cbw)) if cbw.bcs.rate_limit.has_times());
        let ids: Vec<NodeId> = self.graph.nodes.iter().filter(|(_, node)| has_times(node)).map(|(id, _)| id).collect();
        for id in ids {
            if let Some(Driver::Cbw(cbw)) = self.graph.nodes[id].driver.as_mut() {
                cbw.bcs.rate_limit.rebase(shift);
            }
        }
    }

    fn cbw_ref(&self, node: NodeId) -> &CbwState {
        match self.graph.nodes[node].driver.as_ref() {
            Some(Driver::Cbw(cbw)) => cbw,
            other => panic!("{node:?} is no copy-before-write filter: {other:?}"),
        }
    }

    fn copy_source(&self, cbw: NodeId) -> NodeId {
        self.graph.bs(self.graph.nodes[cbw].file.expect("a filter has a source"))
    }

    fn copy_target(&self, cbw: NodeId) -> NodeId {
        self.graph.bs(self.cbw_ref(cbw).target.expect("the filter is open"))
    }

    fn copy_bitmap(&mut self, cbw: NodeId) -> &mut crate::bitmap::HBitmap {
        let id = self.cbw_ref(cbw).copy_bitmap;
        self.bits_mut(cbw, id)
    }

    fn copy_bits(&self, cbw: NodeId) -> &crate::bitmap::HBitmap {
        self.bits(cbw, self.cbw_ref(cbw).copy_bitmap)
    }

    /// `block_copy_async`: starts a call in a coroutine of its own, at once.
    pub(in crate::world) fn block_copy_async(&mut self, call: CopyCall) -> CallId {
        let call = self.calls.insert(call);
        let co = self.co_create([Frame::Rdunlock, Frame::CopyCommon(call), Frame::Rdlock]);
        self.co_enter(co, crate::world::aio::Ctx::Main);
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
    pub(in crate::world) fn copy_common(&mut self, call: CallId) -> Flow {
        let c = &mut self.calls[call];
        c.found_dirty = false;
        c.pool = None;
        let (offset, bytes) = (c.offset, c.bytes);
        self.seq([Frame::CopyDirty { call, offset, bytes }, Frame::CopyPassDone(call)])
    }

    /// `block_copy_dirty_clusters`: one turn of its loop, up to the status query.
    pub(in crate::world) fn copy_dirty(&mut self, call: CallId, offset: u64, bytes: u64) -> Flow {
        let c = &self.calls[call];
        let pool_ok = c.pool.as_ref().is_none_or(|p| p.status.is_ok());
        if bytes == 0 || !pool_ok || c.cancelled {
            return self.seq([Frame::CopyWaitAll(call)]);
        }
        let (cbw, max_chunk) = (c.cbw, c.max_chunk);
        let Some(task) = self.copy_task_create(call, offset, bytes, max_chunk) else {
            return self.seq([Frame::CopyWaitAll(call)]);
        };
        self.calls[call].found_dirty = true;
        if matches!(self.calls[call].end, CallEnd::Cbw(_)) {
            self.reach(Place::CbwCopies);
        }
        let source = self.copy_source(cbw);
        let base = if self.cbw_ref(cbw).bcs.skip_unallocated { self.graph.backing_chain_next(source) } else { None };
        self.seq([
            Frame::StatusAbove(StatusReq::new(source, base, task.offset, task.bytes, true)),
            Frame::CopyTaskStatus { task, from: offset, end: offset + bytes },
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
        if method != Method::ReadWriteCluster && self.quirks.has(Quirk::CopyRangeRecopiesClean) {
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
        state.reqs.push(BlockReq { offset, bytes, wait_queue: Vec::new() });
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
        let req = state.reqs.remove(i);
        if let Some(job) = state.progress {
            self.job_progress_set_remaining(job, remaining);
        }
        self.wake_all(req.wait_queue);
    }

    pub(super) fn wake_all(&mut self, waiters: Vec<CoId>) {
        for co in waiters {
            self.aio_co_wake(co);
        }
    }

    /// `block_copy_dirty_clusters`, after the status query of `block_copy_block_status`.
    pub(in crate::world) fn copy_task_status(&mut self, mut task: CopyTask, from: u64, end: u64) -> Flow {
        let Val::Status(status) = std::mem::take(&mut self.reg) else { unreachable!("a status query answers so") };
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
            self.reach(Place::CopySkips);
            self.copy_task_end(&task, false);
            return self.seq([Frame::CopyDirty { call, offset: after, bytes: end - after }]);
        }
        if zero {
            task.method = Method::WriteZeroes;
        }
        if !self.calls[call].ignore_ratelimit {
            let now = self.now;
            let delay = self.cbw(cbw).bcs.rate_limit.calculate_delay(now, 0);
            if delay > 0 {
                self.copy_task_end(&task, true);
                let co = self.current();
                self.calls[call].sleeping = Some(co);
                self.timer_set(now.saturating_add(delay), TimerKind::CoSleep(co));
                self.stack.push(Frame::CopyDirty { call, offset: from, bytes: end - from });
                self.stack.push(Frame::CopySlept(call));
                return Flow::Yield(Wait::Sleep);
            }
        }
        let now = self.now;
        self.cbw(cbw).bcs.rate_limit.calculate_delay(now, task.bytes);
        self.seq([Frame::CopyGetMem { task }, Frame::CopyTaskRun { task, end }])
    }

    /// `co_get_from_shres`
    pub(in crate::world) fn copy_get_mem(&mut self, task: CopyTask) -> Flow {
        let cbw = self.calls[task.call].cbw;
        let co = self.current();
        let state = &mut self.cbw(cbw).bcs;
        if state.mem >= task.bytes {
            state.mem -= task.bytes;
            return Flow::Go;
        }
        state.mem_queue.push((co, task.bytes));
        self.stack.push(Frame::CopyGetMem { task });
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
    pub(in crate::world) fn copy_task_run(&mut self, task: CopyTask, end: u64) -> Flow {
        let call = task.call;
        let after = task.offset + task.bytes;
        let bytes = end - after;
        let main_co = self.current();
        let c = &mut self.calls[call];
        if c.pool.is_none() && bytes > 0 {
            c.pool = Some(TaskPool { main_co, max_busy: c.max_workers, busy: 0, status: Ok(()), waiting: false });
        }
        let Some(pool) = &mut c.pool else {
            return self.seq([Frame::CopyTaskEntry(task), Frame::CopyInlineDone(call, after, bytes)]);
        };
        if pool.busy >= pool.max_busy {
            pool.waiting = true;
            self.stack.push(Frame::CopyTaskRun { task, end });
            return Flow::Yield(Wait::TaskPool);
        }
        if pool.status.is_err() {
            let cbw = c.cbw;
            self.copy_put_mem(cbw, task.bytes);
            self.copy_task_end(&task, true);
            return self.seq([Frame::CopyWaitAll(call)]);
        }
        pool.busy += 1;
        self.stack.push(Frame::CopyDirty { call, offset: after, bytes });
        let co = self.co_create([Frame::CopyPoolTaskDone(call), Frame::CopyTaskEntry(task)]);
        self.co_enter(co, crate::world::aio::Ctx::Main);
        Flow::Go
    }

    /// After a task that ran inline.
    pub(in crate::world) fn copy_inline_done(&mut self, call: CallId, offset: u64, bytes: u64) -> Flow {
        match self.take_ret() {
            Ok(()) => self.seq([Frame::CopyDirty { call, offset, bytes }]),
            Err(errno) => self.ret(Val::err(errno)),
        }
    }

    /// The end of `aio_task_co`.
    pub(in crate::world) fn copy_pool_task_done(&mut self, call: CallId) -> Flow {
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
    pub(in crate::world) fn copy_wait_all(&mut self, call: CallId) -> Flow {
        match &mut self.calls[call].pool {
            Some(pool) if pool.busy > 0 => {
                pool.waiting = true;
                self.stack.push(Frame::CopyWaitAll(call));
                Flow::Yield(Wait::TaskPool)
            }
            pool => {
                let ret = pool.take().map_or(Ok(()), |p| p.status);
                self.ret(Val::Ret(ret))
            }
        }
    }

    /// `block_copy_common`, end of a pass: again, wait for somebody else's copying, or done.
    pub(in crate::world) fn copy_pass_done(&mut self, call: CallId) -> Flow {
        let failed = self.take_ret().is_err();
        let c = &self.calls[call];
        let (cbw, offset, bytes) = (c.cbw, c.offset, c.bytes);
        if !failed && !c.cancelled {
            if c.found_dirty {
                return self.seq([Frame::CopyCommon(call)]);
            }
            let co = self.current();
            let guest = matches!(c.end, CallEnd::Cbw(_));
            if let Some(i) = self.cbw(cbw).bcs.conflict(offset, bytes) {
                self.reach(if guest { Place::CbwWaits } else { Place::JobWaitsForCbw });
                let state = &mut self.cbw(cbw).bcs;
                state.reqs[i].wait_queue.push(co);
                self.stack.push(Frame::CopyWaited(call));
                return Flow::Yield(Wait::Queue("a range that is being copied"));
            }
            if self.copy_bits(cbw).next_dirty(offset, bytes).is_some() {
                return self.seq([Frame::CopyCommon(call)]);
            }
        }
        self.copy_finished(call)
    }

    /// After waiting for another request of the list.
    pub(in crate::world) fn copy_waited(&mut self, call: CallId) -> Flow {
        if self.calls[call].cancelled { self.copy_finished(call) } else { self.seq([Frame::CopyCommon(call)]) }
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
    pub(in crate::world) fn copy_task_entry(&mut self, task: CopyTask) -> Flow {
        self.seq([Frame::Rdlock, Frame::CopyDo { task, method: task.method }])
    }

    fn copy_nbytes(&self, task: &CopyTask) -> u64 {
        let len = self.cbw_ref(self.calls[task.call].cbw).bcs.len;
        (task.offset + task.bytes).min(len) - task.offset
    }

    /// `block_copy_do_copy`
    pub(in crate::world) fn copy_do(&mut self, task: CopyTask, method: Method) -> Flow {
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
            Method::WriteZeroes => {
                self.reach(Place::CopyZeroes);
                self.seq([
                    Frame::Pwritev(crate::world::block::io::write_zeroes(target, offset, nbytes, flags)),
                    Frame::CopyTaskDone { task, method, read: false },
                ])
            }
            Method::RangeSmall | Method::RangeFull => {
                let (src, dst) = (source, target);
                let copy = CopyRange { src, src_offset: offset, dst, dst_offset: offset, bytes: nbytes, flags };
                self.seq([Frame::CopyRangeFrom(copy), Frame::CopyRangeDone { task }])
            }
            Method::ReadWrite | Method::ReadWriteCluster => {
                let read = Frame::Preadv { node: source, offset, bytes: nbytes, flags: IoFlags::NONE };
                self.seq([read, Frame::CopyReadDone { task, method }])
            }
        }
    }

    /// After `bdrv_co_copy_range`: fall back to a buffer for good if it did not work.
    pub(in crate::world) fn copy_range_done(&mut self, task: CopyTask) -> Flow {
        match self.take_ret() {
            Ok(()) => {
                self.reach(Place::CopyRange);
                self.reg = Val::Ret(Ok(()));
                self.copy_task_done(task, Method::RangeFull, false)
            }
            Err(_) => {
                self.reach(Place::CopyRangeFallsBack);
                self.copy_do(task, Method::ReadWrite)
            }
        }
    }

    /// Between read and write of `block_copy_do_copy`.
    pub(in crate::world) fn copy_read_done(&mut self, task: CopyTask, method: Method) -> Flow {
        match self.take_data() {
            Err(errno) => {
                self.reg = Val::err(errno);
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
                    Frame::Pwritev(crate::world::block::io::write(target, task.offset, data, flags)),
                    Frame::CopyTaskDone { task, method, read: false },
                ])
            }
        }
    }

    /// `block_copy_task_entry`, after the copying.
    pub(in crate::world) fn copy_task_done(&mut self, task: CopyTask, method: Method, read: bool) -> Flow {
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
                    self.trace.keep_cause(Later::Call(task.call.0));
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
                Frame::Rdlock,
                Frame::Pdiscard { node: source, offset: task.offset, bytes },
                Frame::Rdunlock,
                Frame::Give(Box::new(Val::Ret(Ok(())))),
            ]);
        }
        self.ret(Val::Ret(ret))
    }

    /// `block_copy_reset_unallocated`, one status query of `block_copy_is_cluster_allocated`. `counted` bytes before `offset` are
    /// known to be unallocated.
    pub(in crate::world) fn copy_reset_unallocated(&mut self, cbw: NodeId, offset: u64, counted: u64) -> Flow {
        let source = self.copy_source(cbw);
        let len = self.cbw_ref(cbw).bcs.len;
        let from = offset + counted;
        self.seq([
            Frame::Status { node: source, offset: from, bytes: len - from, want_zero: false },
            Frame::CopyResetStatus { cbw, offset, counted },
        ])
    }

    /// After that query. Leaves the number of bytes dealt with.
    pub(in crate::world) fn copy_reset_status(&mut self, cbw: NodeId, offset: u64, counted: u64) -> Flow {
        let Val::Status(status) = std::mem::take(&mut self.reg) else { unreachable!("a status query answers so") };
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
