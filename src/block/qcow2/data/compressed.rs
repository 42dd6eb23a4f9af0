//! Writing compressed clusters (block/qcow2.c:qcow2_co_pwritev_compressed_part).

use crate::base::errno::Errno;
use crate::block::content::Data;
use crate::block::event::BlkdebugEvent as Event;
use crate::block::qcow2::deflate::compress;
use crate::block::qcow2::exec::{Caught, Cx, Exec, Fault, Res};
use crate::block::qcow2::op::{Pool, Qcow2Answer, Qcow2Ask, Qcow2Call, Qcow2Result};
use crate::block::qcow2::state::{COMPRESSED, DiscardType, MAX_CLUSTER_OFFSET, OFFSET_MASK, Qcow2};
use crate::block::qcow2::write::WriteOp;

/// A compressed write of one or more clusters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct CompressedOp {
    offset: u64,
    data: Data,
    done: u64,
    at: CompressedStage,
    pool: Pool,
    task: Option<CompressedTask>,
    failed: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum CompressedStage {
    Start,
    /// With no data at all: the file is brought to a whole number of sectors.
    Length,
    Truncated,
    Next,
    Task,
    Wait,
}

impl CompressedOp {
    pub fn new(offset: u64, data: Data) -> CompressedOp {
        CompressedOp {
            offset,
            data,
            done: 0,
            at: CompressedStage::Start,
            pool: Pool::default(),
            task: None,
            failed: None,
        }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, got: Qcow2Answer) -> Qcow2Ask {
        let mut got = Some(got);
        loop {
            match self.at {
                CompressedStage::Start if self.data.is_empty() => {
                    self.at = CompressedStage::Length;
                    return Qcow2Ask::GetLength;
                }
                CompressedStage::Start => {
                    let partial = q.sc.offset_into_cluster(self.data.len()) != 0;
                    let inside = self.offset + self.data.len() != q.sc.size;
                    if q.sc.offset_into_cluster(self.offset) != 0 || (partial && inside) {
                        return Qcow2Ask::Done(Err(Errno::EINVAL.into()));
                    }
                    got = None;
                    self.at = CompressedStage::Next;
                }
                CompressedStage::Length => match got.take() {
                    Some(Qcow2Answer::Number(size)) => {
                        self.at = CompressedStage::Truncated;
                        return Qcow2Ask::Truncate { size };
                    }
                    other => {
                        return Qcow2Ask::Done(Err(other.and_then(|got| got.ret().err()).unwrap_or(Errno::EIO).into()));
                    }
                },
                CompressedStage::Truncated => {
                    let ret = got.take().map_or(Ok(()), |got| got.ret());
                    return Qcow2Ask::Done(ret.map(|()| Qcow2Result::Done).map_err(Fault::from));
                }
                CompressedStage::Next if self.done == self.data.len() || self.pool.failed.is_some() => {
                    self.at = CompressedStage::Wait
                }
                CompressedStage::Next => {
                    if let Some(ask) = self.next(q) {
                        return ask;
                    }
                }
                CompressedStage::Task => {
                    let Some(task) = &mut self.task else {
                        self.at = CompressedStage::Wait;
                        continue;
                    };
                    match task.step(ex, q, got.take().unwrap_or(Qcow2Answer::Done)) {
                        Qcow2Ask::Done(result) => self.failed = result.err(),
                        ask => return ask,
                    }
                    self.task = None;
                }
                CompressedStage::Wait if self.pool.is_idle() => {
                    let failed = self.failed.take().or_else(|| self.pool.failed.take());
                    return Qcow2Ask::Done(failed.map_or(Ok(Qcow2Result::Done), Err));
                }
                CompressedStage::Wait => return Qcow2Ask::WaitTask,
            }
        }
    }

    /// The next cluster: here if it is the only one, else beside.
    fn next(&mut self, q: &Qcow2) -> Option<Qcow2Ask> {
        let n = q.sc.cluster_size().min(self.data.len() - self.done);
        self.pool.on |= n != self.data.len() - self.done;
        if self.pool.on && self.pool.is_full() {
            return Some(Qcow2Ask::WaitTask);
        }
        let task = CompressedTask::new(self.offset + self.done, self.data.slice(self.done, n));
        self.done += n;
        if self.pool.on {
            return Some(self.pool.start(Qcow2Call::compressed_task(task)));
        }
        self.task = Some(task);
        self.at = CompressedStage::Task;
        None
    }

    pub fn task_done(&mut self, slot: u32, result: Result<Qcow2Result, Fault>) {
        match &mut self.task {
            Some(task) => task.task_done(slot, result),
            None => drop(self.pool.done(result)),
        }
    }
}

/// One cluster (`qcow2_co_pwritev_compressed_task`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct CompressedTask {
    offset: u64,
    /// The bytes; compressed once that has been done.
    data: Data,
    at: TaskAt,
    /// What does not get shorter is written as it is.
    plain: Option<Box<WriteOp>>,
    placed: Option<Result<u64, Fault>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum TaskAt {
    Start,
    Plain,
    Locked,
    Unlocked,
    Written,
}

impl CompressedTask {
    fn new(offset: u64, data: Data) -> CompressedTask {
        CompressedTask { offset, data, at: TaskAt::Start, plain: None, placed: None }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, got: Qcow2Answer) -> Qcow2Ask {
        let mut got = Some(got);
        loop {
            match self.at {
                TaskAt::Start => {
                    let mut whole = self.data.clone();
                    whole.append(&Data::zeroes(q.sc.cluster_size() - whole.len()));
                    if let Some(small) = compress(&whole, q.sc.compression_type) {
                        self.data = small;
                        self.at = TaskAt::Locked;
                        return Qcow2Ask::Lock;
                    }
                    self.plain = Some(Box::new(WriteOp::new(self.offset, self.data.clone())));
                    self.at = TaskAt::Plain;
                    got = None;
                }
                TaskAt::Plain => match &mut self.plain {
                    Some(write) => return write.step(ex, q, got.take().unwrap_or(Qcow2Answer::Done)),
                    None => return Qcow2Ask::Done(Err(Errno::EIO.into())),
                },
                TaskAt::Locked => {
                    let (offset, len) = (self.offset, self.data.len());
                    let placed = ex.run(q, |cx| {
                        let host = cx.alloc_compressed(offset, len)?;
                        cx.overlap_check(None, host, len)?;
                        Ok(host)
                    });
                    let Some(placed) = placed else { return ex.take_ask() };
                    self.placed = Some(placed);
                    self.at = TaskAt::Unlocked;
                    return Qcow2Ask::Unlock;
                }
                TaskAt::Unlocked => match self.placed.take() {
                    Some(Ok(offset)) => {
                        ex.event(q, Event::WriteCompressed);
                        self.at = TaskAt::Written;
                        return Qcow2Ask::Write { offset, data: self.data.clone() };
                    }
                    Some(Err(fault)) => return Qcow2Ask::Done(Err(fault)),
                    None => return Qcow2Ask::Done(Err(Errno::EIO.into())),
                },
                TaskAt::Written => {
                    let ret = got.take().map_or(Ok(()), |got| got.ret());
                    return Qcow2Ask::Done(ret.map(|()| Qcow2Result::Done).map_err(Fault::from));
                }
            }
        }
    }

    pub fn task_done(&mut self, slot: u32, result: Result<Qcow2Result, Fault>) {
        if let Some(write) = &mut self.plain {
            write.task_done(slot, result);
        }
    }
}

impl Cx<'_> {
    /// `qcow2_alloc_compressed_cluster_offset`: file offset of `len` bytes, entered in the L2 table.
    fn alloc_compressed(&mut self, offset: u64, len: u64) -> Res<u64> {
        let (slice, index) = self.get_cluster_table(offset)?;
        if self.entry(slice, index) & OFFSET_MASK != 0 {
            self.put(slice);
            return Cx::fail(Errno::EIO);
        }
        let host = match self.alloc_bytes(len).caught()? {
            Ok(host) => host,
            Err(fault) => {
                self.put(slice);
                return Err(fault.into());
            }
        };
        let sectors = (host + len - 1) / 512 - host / 512;
        self.event(Event::L2UpdateCompressed);
        self.mark_dirty(slice);
        self.set_entry(slice, index, host | COMPRESSED | sectors << self.q.sc.csize_shift());
        self.put(slice);
        Ok(host)
    }

    /// `qcow2_alloc_bytes`: a place for compressed bytes, behind the last ones if they fit there.
    fn alloc_bytes(&mut self, size: u64) -> Res<u64> {
        self.event(Event::ClusterAllocBytes);
        let cluster = self.q.sc.cluster_size();
        let mut offset = self.q.sc.free_byte_offset;
        if offset != 0 && self.get_refcount(offset >> self.q.sc.cluster_bits)? == self.q.sc.refcount_max() {
            offset = 0;
        }
        let mut free = cluster - self.q.sc.offset_into_cluster(offset);
        loop {
            if offset == 0 || free < size {
                let limit = ((1 << self.q.sc.csize_shift()) - 1).min(MAX_CLUSTER_OFFSET);
                let new = self.alloc_noref(cluster, limit)?;
                if new == 0 {
                    let message = "Preventing invalid allocation of compressed cluster at offset 0";
                    return self.corrupt(message.to_owned(), None);
                }
                if offset == 0 || self.q.sc.round_up(offset) != new {
                    offset = new;
                    free = cluster;
                } else {
                    free += cluster;
                }
            }
            match self.update_refcount(offset, size, 1, DiscardType::Never).caught()? {
                Ok(()) => break,
                Err(fault) if fault.errno == Errno::EAGAIN => offset = 0,
                Err(fault) => return Err(fault.into()),
            }
        }
        let _ = self.set_dependency(crate::block::qcow2::cache::Which::L2).caught()?;
        let next = offset + size;
        self.q.sc.free_byte_offset = if self.q.sc.offset_into_cluster(next) == 0 { 0 } else { next };
        Ok(offset)
    }
}
