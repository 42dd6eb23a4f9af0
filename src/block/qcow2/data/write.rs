//! Writing (block/qcow2.c:qcow2_co_pwritev_part, block/qcow2-cluster.c:perform_cow).

use crate::base::errno::Errno;
use crate::block::content::Data;
use crate::block::event::BlkdebugEvent as Event;
use crate::block::qcow2::alloc::{Allocated, Search};
use crate::block::qcow2::cache::Which;
use crate::block::qcow2::exec::{Caught, Exec, Fault};
use crate::block::qcow2::op::{Pool, Qcow2Answer, Qcow2Ask, Qcow2Call, Qcow2Result, Qcow2Status};
use crate::block::qcow2::read::ReadOp;
use crate::block::qcow2::state::{INT_MAX, L2Meta, Qcow2};

/// A write to the guest's disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct WriteOp {
    offset: u64,
    data: Data,
    /// Bytes of `data` that have been dealt with.
    done: u64,
    at: WriteStage,
    pool: Pool,
    task: Option<WriteTask>,
    failed: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum WriteStage {
    Next,
    Locked,
    Unlocked,
    Task,
    LastLock,
    Wait,
}

impl WriteOp {
    pub fn new(offset: u64, data: Data) -> WriteOp {
        WriteOp { offset, data, done: 0, at: WriteStage::Next, pool: Pool::default(), task: None, failed: None }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, got: Qcow2Answer) -> Qcow2Ask {
        let mut got = Some(got);
        loop {
            match self.at {
                WriteStage::Next if self.done == self.data.len() || self.pool.failed.is_some() => {
                    self.at = WriteStage::LastLock;
                    return Qcow2Ask::Lock;
                }
                WriteStage::Next => {
                    self.at = WriteStage::Locked;
                    return Qcow2Ask::Lock;
                }
                WriteStage::LastLock => {
                    self.at = WriteStage::Wait;
                    return Qcow2Ask::Unlock;
                }
                WriteStage::Locked => {
                    if let Some(ask) = self.allocate(ex, q) {
                        return ask;
                    }
                }
                WriteStage::Unlocked if self.pool.on && self.pool.is_full() => return Qcow2Ask::WaitTask,
                WriteStage::Unlocked => match self.task.take() {
                    Some(task) if self.pool.on => {
                        self.at = WriteStage::Next;
                        return self.pool.start(Qcow2Call::write_task(task));
                    }
                    task => {
                        self.task = task;
                        self.at = WriteStage::Task;
                        got = None;
                    }
                },
                WriteStage::Task => {
                    let Some(task) = &mut self.task else {
                        self.at = WriteStage::Next;
                        continue;
                    };
                    match task.step(ex, q, got.take().unwrap_or(Qcow2Answer::Done)) {
                        Qcow2Ask::Done(result) => {
                            self.failed = result.err();
                            self.at = if self.failed.is_some() { WriteStage::Wait } else { WriteStage::Next };
                            self.task = None;
                        }
                        ask => return ask,
                    }
                }
                WriteStage::Wait if self.pool.is_idle() => {
                    let failed = self.failed.take().or_else(|| self.pool.failed.take());
                    return Qcow2Ask::Done(failed.map_or(Ok(Qcow2Result::Done), Err));
                }
                WriteStage::Wait => return Qcow2Ask::WaitTask,
            }
        }
    }

    /// With the lock held: finds a place for the next part.
    fn allocate(&mut self, ex: &mut Exec, q: &mut Qcow2) -> Option<Qcow2Ask> {
        let offset = self.offset + self.done;
        let bytes = (self.data.len() - self.done).min(INT_MAX);
        let Allocated { place, metas } = match find_place(ex, q, offset, bytes) {
            Ok(found) => found,
            Err(ask) => return Some(ask),
        };
        match place {
            Ok((host, bytes)) => {
                let data = self.data.slice(self.done, bytes);
                self.pool.on |= bytes != self.data.len() - self.done;
                self.done += bytes;
                self.task = Some(WriteTask::new(host, offset, data, metas));
                self.at = WriteStage::Unlocked;
                Some(Qcow2Ask::Unlock)
            }
            Err(fault) => {
                self.task = Some(WriteTask::given_up(fault, metas));
                self.at = WriteStage::Task;
                None
            }
        }
    }

    pub fn task_done(&mut self, slot: u32, result: Result<Qcow2Result, Fault>) {
        match &mut self.task {
            Some(task) if !self.pool.on => task.task_done(slot, result),
            _ => {
                self.pool.done(result);
            }
        }
    }
}

/// With the lock held: finds clusters for data, and sees that they are nobody else's. `Err`: what is needed first.
pub(in crate::block::qcow2) fn find_place(
    ex: &mut Exec,
    q: &mut Qcow2,
    offset: u64,
    bytes: u64,
) -> Result<Allocated, Qcow2Ask> {
    let found = ex.run(q, |cx| match cx.alloc_host_offset(offset, bytes)? {
        Search::Found(mut found) => {
            if let Ok((host, bytes)) = found.place
                && let Err(fault) = cx.overlap_check(None, host, bytes).caught()?
            {
                found.place = Err(fault);
            }
            Ok(Search::Found(found))
        }
        other => Ok(other),
    });
    match found {
        None => Err(ex.take_ask()),
        Some(Ok(Search::Dependency(id))) => Err(Qcow2Ask::WaitAlloc(id)),
        Some(Ok(Search::Found(found))) => Ok(found),
        Some(Err(fault)) => Ok(Allocated { place: Err(fault), metas: Vec::new() }),
    }
}

/// One contiguous part of a write, with what must be linked afterwards (`qcow2_co_pwritev_task`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct WriteTask {
    host: u64,
    offset: u64,
    data: Data,
    /// Newest first.
    metas: Vec<L2Meta>,
    at: TaskAt,
    failed: Option<Fault>,
    read: Option<Box<ReadOp>>,
    /// Copied data: before, and behind.
    copies: [Data; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum TaskAt {
    /// `handle_alloc_space` for a meta: ask about the first or the second region, zero, see.
    Space(usize),
    SpaceAsked(usize, usize),
    SpaceZero(usize),
    SpaceZeroed(usize),
    Data,
    DataWritten,
    /// The lock is held; look at the first meta.
    Link,
    /// `perform_cow`, unlocked: a read to start; one under way; writes.
    CowRead(usize),
    CowReading(usize),
    CowWrite(usize),
    CowWritten(usize),
    /// The lock is held again.
    LinkRun,
    Abort,
    AbortRun,
    Unlocked,
}

impl WriteTask {
    fn new(host: u64, offset: u64, data: Data, metas: Vec<L2Meta>) -> WriteTask {
        let at = if metas.is_empty() { TaskAt::Data } else { TaskAt::Space(0) };
        WriteTask { host, offset, data, metas, at, failed: None, read: None, copies: Default::default() }
    }

    /// The data is there; the lock is held, and what was allocated is to be linked (`qcow2_handle_l2meta`).
    pub fn copied(metas: Vec<L2Meta>) -> WriteTask {
        let mut task = WriteTask::new(0, 0, Data::new(), metas);
        task.at = TaskAt::Link;
        task
    }

    /// How it ended, once it wants no more than to give the lock back.
    pub fn end(&mut self) -> Option<Result<(), Fault>> {
        (self.at == TaskAt::Unlocked).then(|| self.failed.take().map_or(Ok(()), Err))
    }

    /// Nothing is written; the lock is held, and what was allocated is given up.
    pub fn given_up(fault: Fault, metas: Vec<L2Meta>) -> WriteTask {
        let mut task = WriteTask::new(0, 0, Data::new(), metas);
        task.failed = Some(fault);
        task.at = TaskAt::Abort;
        task
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, got: Qcow2Answer) -> Qcow2Ask {
        let mut got = Some(got);
        loop {
            let mut answer = || got.take().unwrap_or(Qcow2Answer::Done);
            let ask = match self.at {
                TaskAt::Space(_) | TaskAt::SpaceAsked(..) | TaskAt::SpaceZero(_) | TaskAt::SpaceZeroed(_) => {
                    self.space(ex, q, answer)
                }
                TaskAt::Data => self.write_data(ex, q),
                TaskAt::DataWritten => {
                    self.at = match answer().ret() {
                        Ok(()) => TaskAt::Link,
                        Err(errno) => self.fail(errno),
                    };
                    Some(Qcow2Ask::Lock)
                }
                TaskAt::Link => self.link(),
                TaskAt::CowRead(_) | TaskAt::CowReading(_) => self.cow_read(ex, q, answer),
                TaskAt::CowWrite(_) | TaskAt::CowWritten(_) => self.cow_write(ex, q, answer),
                TaskAt::LinkRun => self.link_run(ex, q),
                TaskAt::Abort if self.metas.is_empty() => {
                    self.at = TaskAt::Unlocked;
                    Some(Qcow2Ask::Unlock)
                }
                TaskAt::Abort => {
                    self.at = TaskAt::AbortRun;
                    None
                }
                TaskAt::AbortRun => self.abort_run(ex, q),
                TaskAt::Unlocked => return Qcow2Ask::Done(self.failed.take().map_or(Ok(Qcow2Result::Done), Err)),
            };
            if let Some(ask) = ask {
                return ask;
            }
        }
    }

    fn fail(&mut self, fault: impl Into<Fault>) -> TaskAt {
        self.failed.get_or_insert(fault.into());
        TaskAt::Abort
    }

    /// `handle_alloc_space`: if all that would be copied is zero, zeroes the clusters instead.
    fn space(&mut self, ex: &mut Exec, q: &mut Qcow2, answer: impl FnOnce() -> Qcow2Answer) -> Option<Qcow2Ask> {
        match self.at {
            TaskAt::Space(i) => {
                self.at = match self.metas.get(i) {
                    Some(_) if !q.file.zero_no_fallback => TaskAt::Data,
                    Some(meta) if meta.cow_start.1 == 0 && meta.cow_end.1 == 0 => TaskAt::Space(i + 1),
                    Some(_) => return self.ask_zero(i, 0),
                    None => TaskAt::Data,
                };
                None
            }
            TaskAt::SpaceAsked(i, part) => self.asked_zero(i, part, &answer()),
            TaskAt::SpaceZero(i) => {
                let (offset, len) = self.metas[i].area();
                let checked = ex.run(q, |cx| cx.overlap_check(None, offset, len));
                match checked {
                    None => return Some(ex.take_ask()),
                    Some(Err(fault)) => {
                        self.at = self.fail(fault);
                        return Some(Qcow2Ask::Lock);
                    }
                    Some(Ok(())) => {}
                }
                ex.event(q, Event::ClusterAllocSpace);
                self.at = TaskAt::SpaceZeroed(i);
                Some(Qcow2Ask::WriteZeroes { offset, len, no_fallback: true, may_unmap: false })
            }
            TaskAt::SpaceZeroed(i) => {
                self.at = TaskAt::Space(i + 1);
                match answer().ret() {
                    Ok(()) => self.metas[i].skip_cow = true,
                    Err(Errno::ENOTSUP | Errno::EAGAIN) => {}
                    Err(errno) => {
                        self.at = self.fail(errno);
                        return Some(Qcow2Ask::Lock);
                    }
                }
                None
            }
            _ => None,
        }
    }

    /// `is_zero_cow`, for one of the two regions on.
    fn ask_zero(&mut self, i: usize, part: usize) -> Option<Qcow2Ask> {
        let meta = &self.metas[i];
        let regions = [meta.cow_start, meta.cow_end];
        for (part, (at, len)) in regions.into_iter().enumerate().skip(part) {
            if len > 0 {
                self.at = TaskAt::SpaceAsked(i, part);
                return Some(Qcow2Ask::BlockStatusAbove { offset: meta.offset + at, len, want_zero: false });
            }
        }
        self.at = TaskAt::SpaceZero(i);
        None
    }

    fn asked_zero(&mut self, i: usize, part: usize, got: &Qcow2Answer) -> Option<Qcow2Ask> {
        let wanted = if part == 0 { self.metas[i].cow_start.1 } else { self.metas[i].cow_end.1 };
        match got {
            Qcow2Answer::Status(status) if status.len == wanted && status.flags & Qcow2Status::ZERO != 0 => {
                self.ask_zero(i, part + 1)
            }
            Qcow2Answer::Failed(errno) => {
                self.at = self.fail(*errno);
                Some(Qcow2Ask::Lock)
            }
            _ => {
                self.at = TaskAt::Space(i + 1);
                None
            }
        }
    }

    /// Writes the data, unless that is done together with the copying (`merge_cow`).
    fn write_data(&mut self, ex: &mut Exec, q: &Qcow2) -> Option<Qcow2Ask> {
        let end = self.offset + self.data.len();
        let fits = |meta: &&mut L2Meta| {
            (meta.cow_start.1 > 0 || meta.cow_end.1 > 0)
                && !meta.skip_cow
                && meta.cow_from() + meta.cow_start.1 == self.offset
                && meta.offset + meta.cow_end.0 == end
        };
        if let Some(meta) = self.metas.iter_mut().find(fits) {
            meta.merged = true;
            self.at = TaskAt::Link;
            return Some(Qcow2Ask::Lock);
        }
        ex.event(q, Event::WriteAio);
        self.at = TaskAt::DataWritten;
        Some(Qcow2Ask::Write { offset: self.host, data: self.data.clone() })
    }

    /// The next meta: copying first, if there is anything to copy.
    fn link(&mut self) -> Option<Qcow2Ask> {
        let Some(meta) = self.metas.first() else {
            self.at = TaskAt::Abort;
            return None;
        };
        if meta.skip_cow || (meta.cow_start.1 == 0 && meta.cow_end.1 == 0) {
            self.at = TaskAt::LinkRun;
            return None;
        }
        self.at = TaskAt::CowRead(0);
        self.copies = Default::default();
        Some(Qcow2Ask::Unlock)
    }

    /// The reads of `perform_cow`: one, if both regions are there and close to each other, else one for each.
    fn cow_read(&mut self, ex: &mut Exec, q: &mut Qcow2, answer: impl FnOnce() -> Qcow2Answer) -> Option<Qcow2Ask> {
        let meta = self.metas[0];
        let between = meta.cow_end.0 - (meta.cow_start.0 + meta.cow_start.1);
        let together = meta.cow_start.1 > 0 && meta.cow_end.1 > 0 && between <= 16_384;
        let part = match self.at {
            TaskAt::CowRead(part) => {
                let (at, len) = match part {
                    0 if together => (meta.cow_start.0, meta.cow_start.1 + between + meta.cow_end.1),
                    0 => meta.cow_start,
                    1 if !together => meta.cow_end,
                    _ => {
                        self.at = TaskAt::CowWrite(0);
                        return None;
                    }
                };
                if len == 0 {
                    self.at = TaskAt::CowRead(part + 1);
                    return None;
                }
                ex.event(q, Event::CowRead);
                self.read = Some(Box::new(ReadOp::new(meta.offset + at, len)));
                self.at = TaskAt::CowReading(part);
                part
            }
            TaskAt::CowReading(part) => part,
            _ => return None,
        };
        let read = self.read.as_mut()?;
        match read.step(ex, q, answer()) {
            Qcow2Ask::Done(Ok(Qcow2Result::Data(data))) if together => {
                self.copies = [data.slice(0, meta.cow_start.1), data.slice(meta.cow_start.1 + between, meta.cow_end.1)];
                self.at = TaskAt::CowWrite(0);
            }
            Qcow2Ask::Done(Ok(Qcow2Result::Data(data))) => {
                self.copies[part] = data;
                self.at = TaskAt::CowRead(part + 1);
            }
            Qcow2Ask::Done(result) => {
                self.at = self.fail(result.err().unwrap_or(Errno::EIO.into()));
                return Some(Qcow2Ask::Lock);
            }
            ask => return Some(ask),
        }
        None
    }

    /// The writes of `perform_cow`: one with the data in it, or one for each region.
    fn cow_write(&mut self, ex: &mut Exec, q: &mut Qcow2, answer: impl FnOnce() -> Qcow2Answer) -> Option<Qcow2Ask> {
        let meta = self.metas[0];
        let part = match self.at {
            TaskAt::CowWritten(part) => {
                if let Err(errno) = answer().ret() {
                    self.at = self.fail(errno);
                    return Some(Qcow2Ask::Lock);
                }
                self.at = TaskAt::CowWrite(part + 1);
                return None;
            }
            TaskAt::CowWrite(part) if part < if meta.merged { 1 } else { 2 } => part,
            _ => {
                self.at = TaskAt::LinkRun;
                return Some(Qcow2Ask::Lock);
            }
        };
        let data = match (meta.merged, part) {
            (true, _) => Data::concat([&self.copies[0], &self.data, &self.copies[1]]),
            (false, part) => self.copies[part].clone(),
        };
        if data.is_empty() {
            self.at = TaskAt::CowWrite(part + 1);
            return None;
        }
        let at = if part == 0 { meta.cow_start.0 } else { meta.cow_end.0 };
        let offset = meta.alloc_offset + at;
        match ex.run(q, |cx| cx.overlap_check(None, offset, data.len())) {
            None => return Some(ex.take_ask()),
            Some(Err(fault)) => {
                self.at = self.fail(fault);
                return Some(Qcow2Ask::Lock);
            }
            Some(Ok(())) => {}
        }
        if meta.merged {
            ex.event(q, Event::WriteAio);
        }
        ex.event(q, Event::CowWrite);
        self.at = TaskAt::CowWritten(part);
        Some(Qcow2Ask::Write { offset, data })
    }

    /// `qcow2_alloc_cluster_link_l2`, with the lock held and all copied.
    fn link_run(&mut self, ex: &mut Exec, q: &mut Qcow2) -> Option<Qcow2Ask> {
        let meta = self.metas[0];
        let copied = !meta.skip_cow && (meta.cow_start.1 > 0 || meta.cow_end.1 > 0);
        let linked = ex.run(q, |cx| {
            if copied {
                cx.depends_on_flush(Which::L2);
            }
            cx.link_l2(&meta)
        });
        match linked {
            None => Some(ex.take_ask()),
            Some(Ok(())) => {
                self.at = TaskAt::Link;
                Some(self.finish_first(q))
            }
            Some(Err(fault)) => {
                self.at = self.fail(fault);
                None
            }
        }
    }

    fn abort_run(&mut self, ex: &mut Exec, q: &mut Qcow2) -> Option<Qcow2Ask> {
        let meta = self.metas[0];
        match ex.run(q, |cx| cx.abort_alloc(&meta)) {
            None => Some(ex.take_ask()),
            Some(_) => {
                self.at = TaskAt::Abort;
                Some(self.finish_first(q))
            }
        }
    }

    /// Takes the first meta off the list of allocations in flight.
    fn finish_first(&mut self, q: &mut Qcow2) -> Qcow2Ask {
        let meta = self.metas.remove(0);
        q.sc.allocs.retain(|other| other.id != meta.id);
        Qcow2Ask::WakeAllocs(meta.id)
    }

    pub fn task_done(&mut self, slot: u32, result: Result<Qcow2Result, Fault>) {
        if let Some(read) = &mut self.read {
            read.task_done(slot, result);
        }
    }
}

impl L2Meta {
    /// File offset and length of all that is copied or written.
    fn area(&self) -> (u64, u64) {
        (self.alloc_offset + self.cow_start.0, self.cow_end.0 + self.cow_end.1 - self.cow_start.0)
    }
}
