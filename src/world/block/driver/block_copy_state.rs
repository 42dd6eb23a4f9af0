//! What copying keeps: the state of a block-copy, its calls, its tasks (`block/block-copy.c`).

use crate::base::errno::{Errno, Ret};
use crate::base::units::{MIB, align_down};
use crate::block::ratelimit::RateLimit;
use crate::world::arena::{CallId, CoId, JobId, NodeId};
use std::collections::VecDeque;

/// `BLOCK_COPY_MAX_COPY_RANGE`
const MAX_COPY_RANGE: u64 = 16 * MIB;

/// `BLOCK_COPY_MAX_BUFFER`
const MAX_BUFFER: u64 = MIB;

/// `BLOCK_COPY_MAX_MEM`
pub(super) const MAX_MEM: u64 = 128 * MIB;

/// `BLOCK_COPY_MAX_WORKERS`
pub const MAX_WORKERS: u32 = 64;

/// `BLOCK_COPY_CLUSTER_SIZE_DEFAULT`
pub const CLUSTER_SIZE_DEFAULT: u64 = 64 << 10;

/// `BlockCopyMethod`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyMethod {
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
    pub method: CopyMethod,
    /// `discard-source`
    pub discard_source: bool,
    /// Ranges being copied, newest last.
    pub reqs: VecDeque<BlockReq>,
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

crate::base::time::rebase!(BlockCopyState {
    moves: rate_limit;
    rest: cluster_size, max_transfer, len, serialising, compress, in_flight_bytes, method, discard_source, reqs,
        skip_unallocated, progress, mem, mem_queue
});

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
            method: CopyMethod::ReadWrite,
            discard_source,
            reqs: VecDeque::new(),
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
            CopyMethod::ReadWriteCluster
        } else if use_copy_range {
            CopyMethod::RangeSmall
        } else {
            CopyMethod::ReadWrite
        };
    }

    /// `block_copy_chunk_size`
    pub(super) fn chunk_size(&self) -> u64 {
        match self.method {
            CopyMethod::ReadWriteCluster => self.cluster_size,
            CopyMethod::ReadWrite | CopyMethod::RangeSmall => self.cluster_size.max(MAX_BUFFER).min(self.max_transfer),
            CopyMethod::RangeFull => self.cluster_size.max(MAX_COPY_RANGE).min(self.max_transfer),
            CopyMethod::WriteZeroes => unreachable!("a state never copies zeroes only"),
        }
    }

    /// Whether it copies by reading and writing, for a job, and nobody waits for a range or has other wishes.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let special = self.serialising || self.compress || self.discard_source || self.skip_unallocated;
        !special && self.method == CopyMethod::ReadWrite && self.reqs.iter().all(|req| req.wait_queue.is_empty())
    }

    /// `reqlist_find_conflict`
    pub(super) fn conflict(&self, offset: u64, bytes: u64) -> Option<usize> {
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
    /// `ret` of the first task that failed.
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
    /// The coroutine that sleeps for the rate limit, to be woken early by a kick.
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
    /// The call that it is a part of.
    pub call: CallId,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// How it copies.
    pub method: CopyMethod,
}
