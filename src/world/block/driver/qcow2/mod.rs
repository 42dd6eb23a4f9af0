//! The qcow2 driver in the world: carries out what an operation of [`crate::block::qcow2`] asks for.

pub mod create;
mod info;
mod open;

use super::Driver;
use crate::base::Json;
use crate::base::errno::{Errno, Ret};
use crate::bitmap::{HBitmap, SerializedPiece};
use crate::block::content::{Data, Fill, WriteTag};
use crate::block::qcow2::{
    BitmapCheck, Corruption, Fault, FileTraits, Qcow2, Qcow2Answer, Qcow2Ask, Qcow2Call, Qcow2Child, Qcow2Result,
    Qcow2Status,
};
use crate::qmp::error::QmpError;
use crate::quirk::Quirk;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::arena::{CoId, NodeId};
use crate::world::block::io::IoFrame;
use crate::world::block::io::copy_range::CopyRange;
use crate::world::block::io::discard::DiscardFrame;
use crate::world::block::io::flush::FlushFrame;
use crate::world::block::io::request::{self, IoFlags, WriteReq};
use crate::world::block::io::status::StatusFrame;
use crate::world::block::io::status::StatusReq;
use crate::world::block::io::write::WriteFrame;
use crate::world::block::io::zeroes::ZeroesFrame;
use crate::world::frame::Flow;
use crate::world::value::{BlockStatus, Val};

/// `BDRVQcow2State` with the waiters of its lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Qcow2Node {
    /// The driver's state.
    pub q: Qcow2,
    locked: bool,
    lock_queue: Vec<CoId>,
    alloc_queue: Vec<(u64, CoId)>,
    /// Results of operations that another one started, for its coroutine.
    results: Vec<(CoId, u32, Result<Qcow2Result, Fault>)>,
    waiting: Vec<CoId>,
    /// Copies by the host that it takes part in, with their coroutines.
    pub(in crate::world) copies: Vec<(CoId, CopyRange)>,
}

impl Qcow2Node {
    /// A node whose image is not open yet.
    #[must_use]
    pub fn new() -> Qcow2Node {
        Qcow2Node {
            q: Qcow2::new(FileTraits::default()),
            locked: false,
            lock_queue: Vec::new(),
            alloc_queue: Vec::new(),
            results: Vec::new(),
            waiting: Vec::new(),
            copies: Vec::new(),
        }
    }

    /// In bytes.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        self.q.cluster_size()
    }

    /// Guest size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.q.size()
    }
}

impl Default for Qcow2Node {
    fn default() -> Self {
        Qcow2Node::new()
    }
}

/// The bits of a bitmap as its image stores them. Costs what is set.
fn serialized(bitmap: &HBitmap) -> Data {
    let mut bits = Data::new();
    for (at, piece) in bitmap.serialized_pieces() {
        bits.append(&Data::zeroes(at - bits.len()));
        bits.append(&match piece {
            SerializedPiece::Ones(len) => Data::pattern(0xff, len, WriteTag(0)),
            SerializedPiece::Bytes(bytes) => Data::bytes(bytes.into(), WriteTag(0)),
        });
    }
    let len = bitmap.serialized_len();
    bits.append(&Data::zeroes(len.saturating_sub(bits.len())));
    bits.slice(0, len)
}

/// Enters the bits that an image stores in a clean bitmap. Costs what is set.
fn load_bits(bitmap: &mut HBitmap, bits: &Data) {
    /// Bytes that are rendered at once.
    const PART: u64 = 64 << 10;
    for (number, part) in bits.nonzero_parts(PART) {
        let first_bit = number * PART * 8;
        match part.as_runs() {
            [run] if matches!(run.fill(), Fill::Byte(0xff)) => bitmap.set_bits(first_bit, part.len() * 8),
            _ => bitmap.load_bytes(first_bit, &part.to_bytes()),
        }
    }
}

fn status_from(status: Qcow2Status) -> BlockStatus {
    let has = |bit| status.flags & bit != 0;
    BlockStatus {
        data: has(Qcow2Status::DATA),
        zero: has(Qcow2Status::ZERO),
        allocated: has(Qcow2Status::ALLOCATED),
        eof: has(Qcow2Status::EOF),
        recurse: has(Qcow2Status::RECURSE),
        map: has(Qcow2Status::OFFSET_VALID).then_some(status.map),
        depth: 0,
        pnum: status.len,
    }
}

fn status_to(status: BlockStatus) -> Qcow2Status {
    let bit = |on, bit| if on { bit } else { 0 };
    Qcow2Status {
        flags: bit(status.data, Qcow2Status::DATA)
            | bit(status.zero, Qcow2Status::ZERO)
            | bit(status.allocated, Qcow2Status::ALLOCATED)
            | bit(status.eof, Qcow2Status::EOF)
            | bit(status.map.is_some(), Qcow2Status::OFFSET_VALID),
        len: status.pnum,
        map: status.map.unwrap_or(0),
    }
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum Qcow2Frame {
    Qcow2Op { node: NodeId, op: Box<Qcow2Call> },
    Qcow2Relock { node: NodeId, op: Box<Qcow2Call> },
    Qcow2TaskDone { node: NodeId, parent: CoId, slot: u32 },
    Qcow2Truncated(NodeId),
    Qcow2Copied(NodeId),
    Qcow2Open(NodeId),
    Qcow2Opened(NodeId),
    Qcow2Close(NodeId),
    Qcow2Inactivate(NodeId),
    Qcow2Inactivated(NodeId),
    Qcow2ZeroAsked(u64),
}

impl Qcow2Frame {
    /// Runs the frame.
    #[inline(always)]
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            Qcow2Frame::Qcow2Op { node, op } => w.qcow2_run(node, op),
            Qcow2Frame::Qcow2Relock { node, op } => w.qcow2_relock(node, op),
            Qcow2Frame::Qcow2TaskDone { node, parent, slot } => w.qcow2_task_done(node, parent, slot),
            Qcow2Frame::Qcow2Truncated(node) => w.qcow2_truncated(node),
            Qcow2Frame::Qcow2Copied(node) => w.qcow2_copied(node),
            Qcow2Frame::Qcow2Open(node) => w.qcow2_open(node),
            Qcow2Frame::Qcow2Opened(node) => w.qcow2_opened(node),
            Qcow2Frame::Qcow2Close(node) => w.qcow2_close(node),
            Qcow2Frame::Qcow2Inactivate(node) => w.qcow2_inactivate(node),
            Qcow2Frame::Qcow2Inactivated(node) => w.qcow2_inactivated(node),
            Qcow2Frame::Qcow2ZeroAsked(bytes) => {
                let answer: Ret<BlockStatus> = w.take();
                w.ret(Val::Status(answer.map(|status| BlockStatus { pnum: bytes, ..status })))
            }
        }
    }
}

impl World {
    /// The qcow2 state of a node.
    pub(in crate::world) fn qcow2(&mut self, node: NodeId) -> &mut Qcow2Node {
        match self.graph.nodes[node].driver.as_mut() {
            Some(Driver::Qcow2(q)) => q,
            other => panic!("{node:?} is no qcow2 node: {other:?}"),
        }
    }

    /// The qcow2 state of a node, to look at.
    #[must_use]
    pub(in crate::world) fn qcow2_ref(&self, node: NodeId) -> Option<&Qcow2> {
        match self.graph.nodes.get(node)?.driver.as_ref()? {
            Driver::Qcow2(q) => Some(&q.q),
            _ => None,
        }
    }

    #[inline]
    fn qcow2_start(&mut self, node: NodeId, op: Qcow2Call) -> Flow {
        self.leave(Val::None);
        self.qcow2_run(node, Box::new(op))
    }

    fn take_got(&mut self) -> Qcow2Answer {
        match self.take_val() {
            Val::None | Val::Ret(Ok(())) | Val::Done(Ok(())) => Qcow2Answer::Done,
            Val::Ret(Err(errno)) | Val::Data(Err(errno)) | Val::Status(Err(errno)) | Val::Num(Err(errno)) => {
                Qcow2Answer::Failed(errno)
            }
            Val::Data(Ok(data)) => Qcow2Answer::Data(data),
            Val::Num(Ok(n)) => Qcow2Answer::Number(n),
            Val::Status(Ok(status)) => Qcow2Answer::Status(status_to(status)),
            Val::Done(Err(err)) => Qcow2Answer::Failed(err.errno.unwrap_or(Errno::EIO)),
            other => panic!("no answer for qcow2: {other:?}"),
        }
    }

    /// Runs an operation until it waits for something. Leaves `Val::Ret`, `Data`, `BlockStatus` or, for open and truncate, `Done`.
    fn qcow2_run(&mut self, node: NodeId, mut op: Box<Qcow2Call>) -> Flow {
        let co = self.current();
        let mut got = self.take_got();
        loop {
            let state = self.qcow2(node);
            while let Some(i) = state.results.iter().position(|(parent, ..)| *parent == co) {
                let (_, slot, result) = state.results.remove(i);
                op.task_done(slot, result);
            }
            let ask = op.resume(&mut state.q, got);
            got = Qcow2Answer::Done;
            match ask {
                Qcow2Ask::Lock => {
                    if state.locked {
                        state.lock_queue.push(co);
                        self.push(Qcow2Frame::Qcow2Op { node, op }.into());
                        return Flow::Yield(Wait::Queue("the lock of a qcow2 image"));
                    }
                    state.locked = true;
                }
                Qcow2Ask::Unlock => self.qcow2_unlock(node),
                Qcow2Ask::WaitAlloc(id) => {
                    state.alloc_queue.push((id, co));
                    self.qcow2_unlock(node);
                    self.push(Qcow2Frame::Qcow2Relock { node, op }.into());
                    return Flow::Yield(Wait::Queue("an allocation in a qcow2 image"));
                }
                Qcow2Ask::WakeAllocs(id) => {
                    let mut woken = Vec::new();
                    state.alloc_queue.retain(|(waited, co)| {
                        if *waited == id {
                            woken.push(*co);
                        }
                        *waited != id
                    });
                    for co in woken {
                        self.aio_co_wake(co);
                    }
                }
                Qcow2Ask::Start { slot, task } => {
                    let task = self.co_create([
                        Qcow2Frame::Qcow2TaskDone { node, parent: co, slot }.into(),
                        Qcow2Frame::Qcow2Op { node, op: task }.into(),
                    ]);
                    self.co_enter(task, crate::world::aio::queue::Ctx::Main);
                }
                Qcow2Ask::WaitTask => {
                    if !self.qcow2(node).results.iter().any(|(parent, ..)| *parent == co) {
                        self.qcow2(node).waiting.push(co);
                        self.push(Qcow2Frame::Qcow2Op { node, op }.into());
                        return Flow::Yield(Wait::TaskPool);
                    }
                }
                Qcow2Ask::GetLength => got = Qcow2Answer::Number(self.bdrv_getlength(self.below(node))),
                Qcow2Ask::GetBackingLength => {
                    got = Qcow2Answer::Number(self.graph.cow_bs(node).map_or(0, |bs| self.bdrv_getlength(bs)))
                }
                Qcow2Ask::GetAllocatedSize => {
                    let size = self.allocated_file_size(self.below(node));
                    got = size.map_or_else(Qcow2Answer::Failed, Qcow2Answer::Number);
                }
                Qcow2Ask::Print(lines) => {
                    for line in lines {
                        self.console_error(&line);
                    }
                    got = Qcow2Answer::Done;
                }
                Qcow2Ask::Report(text) => {
                    self.error_report(&text);
                    got = Qcow2Answer::Done;
                }
                Qcow2Ask::Corrupted(corruption) => {
                    self.qcow2_corrupted(node, &corruption);
                    got = Qcow2Answer::Done;
                }
                Qcow2Ask::DropDriver => {
                    self.graph.nodes[node].dropped = true;
                    self.graph.any_dropped = true;
                    got = Qcow2Answer::Done;
                }
                Qcow2Ask::Done(result) => return self.qcow2_done(op.takes_error(), result),
                Qcow2Ask::Event(event) => {
                    self.push(Qcow2Frame::Qcow2Op { node, op }.into());
                    return self.child_event(node, event);
                }
                request => {
                    self.push(Qcow2Frame::Qcow2Op { node, op }.into());
                    return self.qcow2_request(node, request);
                }
            }
        }
    }

    /// `qcow2_signal_corruption`, what others learn of it.
    fn qcow2_corrupted(&mut self, node: NodeId, corruption: &Corruption) {
        self.console_error(&corruption.text());
        let mut data = vec![("device", Json::Str(self.graph.device_name(node)))];
        let name = self.graph.nodes[node].node_name.clone();
        if !name.is_empty() {
            data.push(("node-name", Json::Str(name)));
        }
        data.push(("msg", Json::str(&corruption.message)));
        if let Some((offset, size)) = corruption.place {
            data.extend([("offset", Json::uint(offset)), ("size", Json::uint(size))]);
        }
        data.push(("fatal", corruption.fatal.into()));
        self.emit("BLOCK_IMAGE_CORRUPTED", Json::dict(data));
    }

    fn qcow2_request(&mut self, node: NodeId, request: Qcow2Ask) -> Flow {
        let file = self.below(node);
        match request {
            Qcow2Ask::Read { child: Qcow2Child::File, offset, len } => {
                self.seq([IoFrame::Preadv { node: file, offset, bytes: len, flags: IoFlags::NONE }.into()])
            }
            Qcow2Ask::Read { child: Qcow2Child::Backing, offset, len } => match self.graph.cow_bs(node) {
                Some(backing) => {
                    self.seq([IoFrame::Preadv { node: backing, offset, bytes: len, flags: IoFlags::NONE }.into()])
                }
                None => self.ret(Val::Data(Ok(Data::zeroes(len)))),
            },
            Qcow2Ask::Write { offset, data } => {
                self.seq([WriteFrame::Pwritev(request::write(file, offset, data, IoFlags::NONE)).into()])
            }
            Qcow2Ask::WriteZeroes { offset, len, no_fallback, may_unmap } => {
                let mut flags = IoFlags::NONE;
                if no_fallback {
                    flags |= IoFlags::NO_FALLBACK;
                }
                if may_unmap {
                    flags |= IoFlags::MAY_UNMAP;
                }
                self.seq([WriteFrame::Pwritev(request::write_zeroes(file, offset, len, flags)).into()])
            }
            Qcow2Ask::CopyFrom { .. } | Qcow2Ask::CopyTo { .. } => self.qcow2_copy_request(node, &request),
            Qcow2Ask::Discard { offset, len } => {
                self.seq([DiscardFrame::Pdiscard { node: file, offset, bytes: len }.into()])
            }
            Qcow2Ask::Flush => self.seq([FlushFrame::BdrvCoFlush(file).into()]),
            Qcow2Ask::Truncate { size } => self.seq([DiscardFrame::Truncate { node: file, size }.into()]),
            // `is_zero_cow`
            Qcow2Ask::BlockStatusAbove { offset, len, want_zero: false } if self.quirks.since(Change::ZeroStatus) => {
                self.seq([
                    ZeroesFrame::IsZeroFast { node, offset, bytes: len }.into(),
                    Qcow2Frame::Qcow2ZeroAsked(len).into(),
                ])
            }
            Qcow2Ask::BlockStatusAbove { offset, len, want_zero } => {
                self.seq([StatusFrame::StatusAbove(StatusReq::new(node, None, offset, len, want_zero)).into()])
            }
            other => unreachable!("{other:?} is no request to a child"),
        }
    }

    /// `qemu_co_mutex_unlock`: hands the lock to the first in the queue.
    fn qcow2_unlock(&mut self, node: NodeId) {
        let state = self.qcow2(node);
        assert!(state.locked, "the lock is held");
        if state.lock_queue.is_empty() {
            state.locked = false;
        } else {
            let next = state.lock_queue.remove(0);
            self.aio_co_wake(next);
        }
    }

    /// After waiting for an allocation: takes the lock again.
    fn qcow2_relock(&mut self, node: NodeId, op: Box<Qcow2Call>) -> Flow {
        let co = self.current();
        self.push(Qcow2Frame::Qcow2Op { node, op }.into());
        let state_locked = std::mem::replace(&mut self.qcow2(node).locked, true);
        if state_locked {
            self.qcow2(node).lock_queue.push(co);
            return Flow::Yield(Wait::Queue("the lock of a qcow2 image"));
        }
        Flow::Go
    }

    /// An operation that another one started is over.
    fn qcow2_task_done(&mut self, node: NodeId, parent: CoId, slot: u32) -> Flow {
        let result = match self.take_val() {
            Val::Ret(Ok(())) | Val::None => Ok(Qcow2Result::Done),
            Val::Ret(Err(errno)) | Val::Data(Err(errno)) => Err(Fault::from(errno)),
            Val::Data(Ok(data)) => Ok(Qcow2Result::Data(data)),
            other => panic!("no result of a qcow2 task: {other:?}"),
        };
        let state = self.qcow2(node);
        state.results.push((parent, slot, result));
        if let Some(i) = state.waiting.iter().position(|co| *co == parent) {
            state.waiting.remove(i);
            self.aio_co_wake(parent);
        }
        Flow::Go
    }

    fn qcow2_done(&mut self, takes_error: bool, result: Result<Qcow2Result, Fault>) -> Flow {
        let value = match result {
            Ok(Qcow2Result::Done) => Val::Ret(Ok(())),
            Ok(Qcow2Result::Data(data)) => Val::Data(Ok(data)),
            Ok(Qcow2Result::Status(status)) => Val::Status(Ok(status_from(status))),
            Ok(Qcow2Result::Opened(bitmaps)) => Val::Opened(Ok(bitmaps)),
            Ok(Qcow2Result::Closed(messages)) => {
                let done = if messages.is_empty() { Ok(()) } else { Err(Errno::EINVAL) };
                for message in messages {
                    if self.monitor.current_client().is_some() && !self.quitting {
                        self.console_error(&message);
                    } else {
                        self.error_report(&message);
                    }
                }
                Val::Ret(done)
            }
            Err(fault) if takes_error && fault.message.is_some() => Val::Opened(Err(fault)),
            Err(fault) => Val::err(fault.errno),
        };
        self.ret(value)
    }

    /// `qcow2_co_preadv_part`
    pub(in crate::world::block::driver) fn qcow2_preadv(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        self.qcow2_start(node, Qcow2Call::preadv(offset, bytes))
    }

    /// `qcow2_co_pwritev_part`
    pub(in crate::world::block::driver) fn qcow2_pwritev(&mut self, req: Box<WriteReq>) -> Flow {
        let data = req.data.expect("a write carries data");
        self.qcow2_start(req.node, Qcow2Call::pwritev(req.offset, data))
    }

    /// `qcow2_co_pwritev_compressed_part`
    pub(in crate::world::block::driver) fn qcow2_pwritev_compressed(&mut self, req: Box<WriteReq>) -> Flow {
        let data = req.data.expect("a write carries data");
        self.qcow2_start(req.node, Qcow2Call::pwritev_compressed(req.offset, data))
    }

    /// `qcow2_co_pwrite_zeroes`
    pub(in crate::world::block::driver) fn qcow2_pwrite_zeroes(&mut self, req: &WriteReq) -> Flow {
        if self.quirks.has(Quirk::SeededLostZeroes) {
            return self.ret(Val::Ret(Ok(())));
        }
        self.qcow2_start(req.node, Qcow2Call::pwrite_zeroes(req.offset, req.bytes, req.flags.has(IoFlags::MAY_UNMAP)))
    }

    /// `qcow2_co_pdiscard`
    pub(in crate::world::block::driver) fn qcow2_pdiscard(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        self.qcow2_start(node, Qcow2Call::pdiscard(offset, bytes))
    }

    /// `qcow2_co_flush_to_os`
    pub(in crate::world::block::driver) fn qcow2_flush_to_os(&mut self, node: NodeId) -> Flow {
        self.qcow2_start(node, Qcow2Call::flush_to_os())
    }

    /// `qcow2_co_block_status`
    pub(in crate::world::block::driver) fn qcow2_block_status(
        &mut self,
        node: NodeId,
        offset: u64,
        bytes: u64,
        _want_zero: bool,
    ) -> Flow {
        self.push(StatusFrame::StatusVal.into());
        self.qcow2_start(node, Qcow2Call::block_status(offset, bytes))
    }

    /// `qcow2_co_truncate`. Leaves `Val::Done`.
    pub(in crate::world::block::driver) fn qcow2_truncate(&mut self, node: NodeId, size: u64, zero: bool) -> Flow {
        let checks: Vec<BitmapCheck> = self.graph.nodes[node]
            .bitmaps
            .iter()
            .filter_map(|b| {
                let name = b.name()?.to_string();
                Some(BitmapCheck { name, problem: b.check(crate::bitmap::CheckFlags::DEFAULT).err() })
            })
            .collect();
        self.push(Qcow2Frame::Qcow2Truncated(node).into());
        self.qcow2_start(node, Qcow2Call::truncate(size, zero, checks.into()))
    }

    /// After a truncate. The node has the new size from before the header is written, also where that fails then.
    fn qcow2_truncated(&mut self, node: NodeId) -> Flow {
        self.refresh_total_sectors(node);
        let done = match self.take_val() {
            Val::Ret(Ok(())) | Val::None => Ok(()),
            Val::Opened(Err(fault)) => Err(QmpError::generic(fault.to_string()).with_errno(fault.errno)),
            Val::Ret(Err(errno)) => {
                Err(QmpError::generic(format!("Failed to resize the image: {errno}")).with_errno(errno))
            }
            other => panic!("no result of a truncate: {other:?}"),
        };
        self.ret(Val::Done(done))
    }
}
