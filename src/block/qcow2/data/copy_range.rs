//! Copying by the host (block/qcow2.c:qcow2_co_copy_range_from, qcow2_co_copy_range_to). Which other node takes part, and where there,
//! is the business of whoever embeds the driver: the operations say how far into the copied range a part begins.

use crate::base::errno::Errno;
use crate::block::qcow2::alloc::Allocated;
use crate::block::qcow2::exec::{Exec, Fault};
use crate::block::qcow2::op::{Qcow2Answer, Qcow2Ask, Qcow2Child, Qcow2Result};
use crate::block::qcow2::state::{ClusterType, INT_MAX, L2Meta, Qcow2};
use crate::block::qcow2::write::{WriteTask, find_place};

/// A copy from the guest's disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct CopyFromOp {
    offset: u64,
    bytes: u64,
    /// How much of it is done.
    done: u64,
    at: FromAt,
    failed: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum FromAt {
    Start,
    Locked,
    /// Nothing is allocated there: how long is the backing file?
    Length(u64),
    /// The lock was given back: the part to copy.
    Copy(Option<Qcow2Child>, u64, u64),
    Copied(u64),
    Over,
}

impl CopyFromOp {
    pub fn new(offset: u64, bytes: u64) -> CopyFromOp {
        CopyFromOp { offset, bytes, done: 0, at: FromAt::Start, failed: None }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, got: Qcow2Answer) -> Qcow2Ask {
        let mut got = Some(got);
        loop {
            match self.at {
                FromAt::Start => {
                    self.at = FromAt::Locked;
                    return Qcow2Ask::Lock;
                }
                FromAt::Locked if self.done == self.bytes || self.failed.is_some() => {
                    self.at = FromAt::Over;
                    return Qcow2Ask::Unlock;
                }
                FromAt::Locked => {
                    if let Some(ask) = self.map(ex, q) {
                        return ask;
                    }
                }
                FromAt::Length(bytes) => {
                    let length = got.take().unwrap_or(Qcow2Answer::Done).number();
                    let offset = self.offset + self.done;
                    self.at = match length.checked_sub(offset) {
                        None | Some(0) => FromAt::Copy(None, 0, bytes),
                        Some(left) => FromAt::Copy(Some(Qcow2Child::Backing), offset, bytes.min(left)),
                    };
                    return Qcow2Ask::Unlock;
                }
                FromAt::Copy(child, offset, len) => {
                    self.at = FromAt::Copied(len);
                    return Qcow2Ask::CopyFrom { child, offset, into: self.done, len };
                }
                FromAt::Copied(len) => {
                    self.failed = got.take().unwrap_or(Qcow2Answer::Done).ret().err().map(Fault::from);
                    self.done += len;
                    self.at = FromAt::Locked;
                    return Qcow2Ask::Lock;
                }
                FromAt::Over => return Qcow2Ask::Done(self.failed.take().map_or(Ok(Qcow2Result::Done), Err)),
            }
        }
    }

    /// With the lock held: where the next part lies.
    fn map(&mut self, ex: &mut Exec, q: &mut Qcow2) -> Option<Qcow2Ask> {
        let (offset, bytes) = (self.offset + self.done, (self.bytes - self.done).min(INT_MAX));
        let host = match ex.run(q, |cx| cx.get_host_offset(offset, bytes)) {
            None => return Some(ex.take_ask()),
            Some(Ok(host)) => host,
            Some(Err(fault)) => {
                self.failed = Some(fault);
                return None;
            }
        };
        self.at = match host.kind {
            ClusterType::Unallocated if q.has_backing => {
                self.at = FromAt::Length(host.bytes);
                return Some(Qcow2Ask::GetBackingLength);
            }
            ClusterType::Unallocated | ClusterType::ZeroPlain | ClusterType::ZeroAlloc => {
                FromAt::Copy(None, 0, host.bytes)
            }
            ClusterType::Normal => FromAt::Copy(Some(Qcow2Child::File), host.offset, host.bytes),
            ClusterType::Compressed => {
                self.failed = Some(Errno::ENOTSUP.into());
                return None;
            }
        };
        Some(Qcow2Ask::Unlock)
    }
}

/// A copy to the guest's disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct CopyToOp {
    offset: u64,
    bytes: u64,
    done: u64,
    at: ToAt,
    /// Where the part goes that is being copied, and what is to be linked afterwards.
    place: Option<(u64, u64, Vec<L2Meta>)>,
    task: Option<WriteTask>,
    failed: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ToAt {
    Start,
    Locked,
    Copy,
    Copied,
    Relocked,
    Task,
    Over,
}

impl CopyToOp {
    pub fn new(offset: u64, bytes: u64) -> CopyToOp {
        CopyToOp { offset, bytes, done: 0, at: ToAt::Start, place: None, task: None, failed: None }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, got: Qcow2Answer) -> Qcow2Ask {
        let mut got = Some(got);
        loop {
            match self.at {
                ToAt::Start => {
                    self.at = ToAt::Locked;
                    return Qcow2Ask::Lock;
                }
                ToAt::Locked if self.done == self.bytes || self.failed.is_some() => {
                    self.at = ToAt::Over;
                    return Qcow2Ask::Unlock;
                }
                ToAt::Locked => {
                    if let Some(ask) = self.allocate(ex, q) {
                        return ask;
                    }
                }
                ToAt::Copy => {
                    let (offset, len) = self.place.as_ref().map_or((0, 0), |(host, len, _)| (*host, *len));
                    self.at = ToAt::Copied;
                    return Qcow2Ask::CopyTo { from: self.done, offset, len };
                }
                ToAt::Copied => {
                    self.failed = got.take().unwrap_or(Qcow2Answer::Done).ret().err().map(Fault::from);
                    self.at = ToAt::Relocked;
                    return Qcow2Ask::Lock;
                }
                ToAt::Relocked => {
                    let Some((_, len, metas)) = self.place.take() else { continue };
                    self.done += len;
                    self.task = Some(match self.failed.take() {
                        None => WriteTask::copied(metas),
                        Some(fault) => WriteTask::given_up(fault, metas),
                    });
                    self.at = ToAt::Task;
                }
                ToAt::Task => {
                    let Some(task) = &mut self.task else { continue };
                    let ask = task.step(ex, q, got.take().unwrap_or(Qcow2Answer::Done));
                    match task.end() {
                        None => return ask,
                        // The lock is kept for the next part.
                        Some(end) => {
                            self.failed = end.err();
                            self.task = None;
                            self.at = ToAt::Locked;
                        }
                    }
                }
                ToAt::Over => return Qcow2Ask::Done(self.failed.take().map_or(Ok(Qcow2Result::Done), Err)),
            }
        }
    }

    /// With the lock held: finds a place for the next part.
    fn allocate(&mut self, ex: &mut Exec, q: &mut Qcow2) -> Option<Qcow2Ask> {
        let (offset, bytes) = (self.offset + self.done, (self.bytes - self.done).min(INT_MAX));
        let Allocated { place, metas } = match find_place(ex, q, offset, bytes) {
            Ok(found) => found,
            Err(ask) => return Some(ask),
        };
        match place {
            Ok((host, bytes)) => {
                self.place = Some((host, bytes, metas));
                self.at = ToAt::Copy;
                Some(Qcow2Ask::Unlock)
            }
            Err(fault) => {
                self.task = Some(WriteTask::given_up(fault, metas));
                self.at = ToAt::Task;
                None
            }
        }
    }

    pub fn task_done(&mut self, slot: u32, result: Result<Qcow2Result, Fault>) {
        if let Some(task) = &mut self.task {
            task.task_done(slot, result);
        }
    }
}
