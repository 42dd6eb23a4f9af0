//! Reading (block/qcow2.c:qcow2_co_preadv_part).

use crate::base::errno::Errno;
use crate::block::content::Data;
use crate::block::event::BlkdebugEvent as Event;
use crate::block::qcow2::cluster::Host;
use crate::block::qcow2::exec::{Exec, Fault};
use crate::block::qcow2::op::{Pool, Qcow2Answer, Qcow2Ask, Qcow2Call, Qcow2Child, Qcow2Result};
use crate::block::qcow2::state::{ClusterType, INT_MAX, Qcow2};

/// A read of the guest's disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct ReadOp {
    offset: u64,
    bytes: u64,
    at: ReadStage,
    host: Option<Result<Host, Fault>>,
    /// What was read so far, in order; each part has its place from the start.
    parts: Vec<(Option<u32>, Data)>,
    pool: Pool,
    task: Option<ReadTask>,
    failed: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ReadStage {
    Next,
    Locked,
    Mapped,
    Task,
    Started,
    Wait,
}

impl ReadOp {
    pub fn new(offset: u64, bytes: u64) -> ReadOp {
        ReadOp {
            offset,
            bytes,
            at: ReadStage::Next,
            host: None,
            parts: Vec::new(),
            pool: Pool::default(),
            task: None,
            failed: None,
        }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, got: Qcow2Answer) -> Qcow2Ask {
        let mut got = Some(got);
        loop {
            match self.at {
                ReadStage::Next if self.bytes == 0 || self.pool.failed.is_some() || self.failed.is_some() => {
                    self.at = ReadStage::Wait;
                }
                ReadStage::Next => {
                    self.at = ReadStage::Locked;
                    return Qcow2Ask::Lock;
                }
                ReadStage::Locked => {
                    let (offset, bytes) = (self.offset, self.bytes.min(INT_MAX));
                    let Some(host) = ex.run(q, |cx| cx.get_host_offset(offset, bytes)) else { return ex.take_ask() };
                    self.host = Some(host);
                    self.at = ReadStage::Mapped;
                    return Qcow2Ask::Unlock;
                }
                ReadStage::Mapped => {
                    if let Some(ask) = self.mapped(q) {
                        return ask;
                    }
                }
                ReadStage::Started => self.at = ReadStage::Next,
                ReadStage::Task => {
                    let Some(task) = &mut self.task else {
                        self.at = ReadStage::Next;
                        continue;
                    };
                    match task.step(ex, q, got.take().unwrap_or(Qcow2Answer::Done)) {
                        Qcow2Ask::Done(Ok(Qcow2Result::Data(data))) => self.parts.push((None, data)),
                        Qcow2Ask::Done(result) => self.failed = result.err(),
                        ask => return ask,
                    }
                    self.task = None;
                    self.at = ReadStage::Next;
                }
                ReadStage::Wait if self.pool.is_idle() => return Qcow2Ask::Done(self.result()),
                ReadStage::Wait => return Qcow2Ask::WaitTask,
            }
        }
    }

    /// It is known where the next part lies: reads it here, or has it read beside.
    fn mapped(&mut self, q: &Qcow2) -> Option<Qcow2Ask> {
        let host = match self.host.clone() {
            Some(Ok(host)) => host,
            other => {
                self.failed = other.and_then(Result::err);
                self.at = ReadStage::Wait;
                return None;
            }
        };
        let zero = match host.kind {
            ClusterType::ZeroPlain | ClusterType::ZeroAlloc => true,
            ClusterType::Unallocated => !q.has_backing,
            ClusterType::Normal | ClusterType::Compressed => false,
        };
        self.pool.on |= !zero && host.bytes != self.bytes;
        if !zero && self.pool.on && self.pool.is_full() {
            return Some(Qcow2Ask::WaitTask);
        }
        let offset = self.offset;
        self.offset += host.bytes;
        self.bytes -= host.bytes;
        self.at = ReadStage::Next;
        if zero {
            self.parts.push((None, Data::zeroes(host.bytes)));
            return None;
        }
        let task = ReadTask { host, offset, sent: false };
        if self.pool.on {
            self.parts.push((Some(self.pool.next_slot()), Data::new()));
            self.at = ReadStage::Started;
            return Some(self.pool.start(Qcow2Call::read_task(task)));
        }
        self.task = Some(task);
        self.at = ReadStage::Task;
        None
    }

    pub fn task_done(&mut self, slot: u32, result: Result<Qcow2Result, Fault>) {
        if let Some(data) = self.pool.done(result)
            && let Some(part) = self.parts.iter_mut().find(|(owner, _)| *owner == Some(slot))
        {
            part.1 = data;
        }
    }

    fn result(&mut self) -> Result<Qcow2Result, Fault> {
        match self.failed.take().or_else(|| self.pool.failed.take()) {
            Some(fault) => Err(fault),
            None if self.parts.len() == 1 => Ok(Qcow2Result::Data(std::mem::take(&mut self.parts[0].1))),
            None => Ok(Qcow2Result::Data(Data::concat(self.parts.iter().map(|(_, data)| data)))),
        }
    }
}

/// One contiguous part of a read (`qcow2_co_preadv_task`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct ReadTask {
    host: Host,
    offset: u64,
    sent: bool,
}

impl ReadTask {
    pub fn step(&mut self, ex: &mut Exec, q: &Qcow2, got: Qcow2Answer) -> Qcow2Ask {
        let Host { kind, offset: host, bytes } = self.host;
        if self.sent {
            return Qcow2Ask::Done(match got {
                Qcow2Answer::Data(data) if kind == ClusterType::Compressed => self.inflate(q, &data),
                Qcow2Answer::Data(data) => Ok(Qcow2Result::Data(data)),
                Qcow2Answer::Failed(errno) => Err(errno.into()),
                _ => Err(Errno::EIO.into()),
            });
        }
        self.sent = true;
        match kind {
            ClusterType::Normal => {
                ex.event(q, Event::ReadAio);
                Qcow2Ask::Read { child: Qcow2Child::File, offset: host, len: bytes }
            }
            ClusterType::Compressed => {
                ex.event(q, Event::ReadCompressed);
                let (offset, len) = q.sc.compressed_place(host);
                Qcow2Ask::Read { child: Qcow2Child::File, offset, len }
            }
            _ => {
                ex.event(q, Event::ReadBackingAio);
                Qcow2Ask::Read { child: Qcow2Child::Backing, offset: self.offset, len: bytes }
            }
        }
    }

    /// `qcow2_co_preadv_compressed`, behind the read.
    fn inflate(&self, q: &Qcow2, data: &Data) -> Result<Qcow2Result, Fault> {
        let whole = crate::block::qcow2::deflate::decompress(data, q.sc.compression_type, q.sc.cluster_size())?;
        Ok(Qcow2Result::Data(whole.slice(q.sc.offset_into_cluster(self.offset), self.host.bytes)))
    }
}
