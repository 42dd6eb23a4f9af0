//! Operations under way, and their talk with whoever embeds the driver.

use super::bitmap::{BitmapCheck, MemoryBitmap, StoreBitmap, StoredBitmap};
use super::compressed::{CompressedOp, CompressedTask};
use super::copy_range::{CopyFromOp, CopyToOp};
use super::create::{CreateOp, CreateOptions, CreateStep};
use super::exec::{Exec, Fault};
use super::locked::{Locked, LockedOp, StatusOp, ZeroesOp};
use super::open::OpenOptions;
use super::read::{ReadOp, ReadTask};
use super::state::{Corruption, Qcow2};
use super::truncate::TruncateOp;
use super::write::{WriteOp, WriteTask};
use crate::base::errno::{Errno, Ret};
use crate::block::content::Data;
use crate::block::event::BlkdebugEvent;
use std::sync::Arc;

/// A node below this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qcow2Child {
    /// `bs->file`
    File,
    /// `bs->backing`
    Backing,
}

/// What an operation needs before it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Qcow2Ask {
    /// Take the driver's lock (`s->lock`); come back when it is held. First come, first served.
    Lock,
    /// Give the lock back.
    Unlock,
    /// `BLKDBG_CO_EVENT(bs->file, …)`; a rule may suspend the operation here.
    Event(BlkdebugEvent),
    /// `bdrv_co_preadv`. What lies behind the end of the child reads as zero. Answer: [`Qcow2Answer::Data`].
    Read {
        /// The child to read.
        child: Qcow2Child,
        /// In bytes of the child.
        offset: u64,
        /// In bytes.
        len: u64,
    },
    /// `bdrv_co_pwritev` to the file, which grows if need be.
    Write {
        /// In bytes of the file.
        offset: u64,
        /// What to write.
        data: Data,
    },
    /// `bdrv_co_pwrite_zeroes` to the file.
    WriteZeroes {
        /// In bytes of the file.
        offset: u64,
        /// In bytes.
        len: u64,
        /// `BDRV_REQ_NO_FALLBACK`: fail with `ENOTSUP` rather than write a buffer.
        no_fallback: bool,
        /// `BDRV_REQ_MAY_UNMAP`
        may_unmap: bool,
    },
    /// `bdrv_pdiscard` of the file; failures do not matter.
    Discard {
        /// In bytes of the file.
        offset: u64,
        /// In bytes.
        len: u64,
    },
    /// `bdrv_co_copy_range_from` of a child, for a copy of this node.
    CopyFrom {
        /// The child to copy from; `None` for zeroes.
        child: Option<Qcow2Child>,
        /// In bytes of the child.
        offset: u64,
        /// Where in the copied range this part begins.
        into: u64,
        /// In bytes.
        len: u64,
    },
    /// `bdrv_co_copy_range_to` of the file, for a copy to this node.
    CopyTo {
        /// Where in the copied range this part begins.
        from: u64,
        /// In bytes of the file.
        offset: u64,
        /// In bytes.
        len: u64,
    },
    /// `bdrv_flush` of the file: its own generation counters decide whether anything happens.
    Flush,
    /// `bdrv_co_truncate` of the file, not exact.
    Truncate {
        /// New length in bytes.
        size: u64,
    },
    /// `bdrv_co_getlength` of the file. Answer: [`Qcow2Answer::Number`].
    GetLength,
    /// `bdrv_co_getlength` of the backing file. Answer: [`Qcow2Answer::Number`].
    GetBackingLength,
    /// `bdrv_co_get_allocated_file_size` of the file. Answer: [`Qcow2Answer::Number`].
    GetAllocatedSize,
    /// `bdrv_co_common_block_status_above` of *this* node and all below it. Answer: [`Qcow2Answer::Status`].
    BlockStatusAbove {
        /// In bytes of the guest's disk.
        offset: u64,
        /// In bytes.
        len: u64,
        /// `want_zero`: look closely for zeroes.
        want_zero: bool,
    },
    /// Wait until that allocation has come to an end: give the lock back, park, and take the lock again when woken.
    WaitAlloc(u64),
    /// Wake all who wait for that allocation (`qemu_co_queue_restart_all`).
    WakeAllocs(u64),
    /// Start another operation and run it until it first has to wait; then come back. When it is done, tell
    /// [`Qcow2Call::task_done`], with this slot.
    Start {
        /// Which of the operation's tasks it is.
        slot: u32,
        /// What runs beside the operation that asks (`AioTask`).
        task: Box<Qcow2Call>,
    },
    /// Park until one of the started operations is done; [`Qcow2Call::task_done`] is called before coming back.
    WaitTask,
    /// Put these lines on standard error, as they are.
    Print(Vec<String>),
    /// Report an error on standard error (`error_report`).
    Report(String),
    /// The image is found corrupt: say so on standard error, and send BLOCK_IMAGE_CORRUPTED.
    Corrupted(Arc<Corruption>),
    /// `bs->drv = NULL`: the node can't be used any more. Operations under way go on.
    DropDriver,
    /// The operation is over.
    Done(Result<Qcow2Result, Fault>),
}

/// The answer to an [`Qcow2Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Qcow2Answer {
    /// It is done. Also what an operation is first resumed with.
    Done,
    /// What was read.
    Data(Data),
    /// A length.
    Number(u64),
    /// A block status.
    Status(Qcow2Status),
    /// The request below ended with this error.
    Failed(Errno),
}

impl Qcow2Answer {
    pub(super) fn number(self) -> u64 {
        match self {
            Qcow2Answer::Number(n) => n,
            _ => 0,
        }
    }

    pub(super) fn ret(&self) -> Ret {
        match self {
            Qcow2Answer::Failed(errno) => Err(*errno),
            _ => Ok(()),
        }
    }
}

/// The status of a range (`BDRV_BLOCK_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Qcow2Status {
    /// `BDRV_BLOCK_*` bits, see the constants here.
    pub flags: u32,
    /// Bytes of the range that this holds for.
    pub len: u64,
    /// Where the bytes are in the file, with [`Qcow2Status::OFFSET_VALID`].
    pub map: u64,
}

impl Qcow2Status {
    /// `BDRV_BLOCK_DATA`
    pub const DATA: u32 = 0x01;
    /// `BDRV_BLOCK_ZERO`
    pub const ZERO: u32 = 0x02;
    /// `BDRV_BLOCK_OFFSET_VALID`
    pub const OFFSET_VALID: u32 = 0x04;
    /// `BDRV_BLOCK_RAW`
    pub const RAW: u32 = 0x08;
    /// `BDRV_BLOCK_ALLOCATED`
    pub const ALLOCATED: u32 = 0x10;
    /// `BDRV_BLOCK_EOF`
    pub const EOF: u32 = 0x20;
    /// `BDRV_BLOCK_RECURSE`
    pub const RECURSE: u32 = 0x40;
    /// `BDRV_BLOCK_COMPRESSED`
    pub const COMPRESSED: u32 = 0x80;
}

/// What an operation gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Qcow2Result {
    /// Nothing.
    Done,
    /// What was read.
    Data(Data),
    /// A block status.
    Status(Qcow2Status),
    /// The bitmaps of an image that was opened.
    Opened(Vec<StoredBitmap>),
    /// Messages that QEMU prints while it closes an image, if something went wrong. The image is closed anyway.
    Closed(Vec<String>),
}

/// A driver callback under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Qcow2Call {
    ex: Exec,
    /// What it asks when the events before it have been fired.
    due: Option<Box<Qcow2Ask>>,
    after_event: bool,
    kind: OpKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum OpKind {
    Read(Box<ReadOp>),
    ReadTask(ReadTask),
    Write(Box<WriteOp>),
    WriteTask(Box<WriteTask>),
    Compressed(Box<CompressedOp>),
    CompressedTask(Box<CompressedTask>),
    CopyFrom(CopyFromOp),
    CopyTo(Box<CopyToOp>),
    Zeroes(ZeroesOp),
    Status(StatusOp),
    Locked(Box<LockedOp>),
    Truncate(Box<TruncateOp>),
    Create(Box<CreateOp>),
}

impl Qcow2Call {
    #[inline]
    fn new(kind: OpKind) -> Qcow2Call {
        Qcow2Call { ex: Exec::default(), due: None, after_event: false, kind }
    }

    fn locked(what: Locked) -> Qcow2Call {
        Qcow2Call::new(OpKind::Locked(Box::new(LockedOp::new(what))))
    }

    /// `qcow2_open`: into a [`Qcow2::new`]. Gives [`Qcow2Result::Opened`].
    #[must_use]
    pub fn open(options: OpenOptions) -> Qcow2Call {
        Qcow2Call::locked(Locked::Open(options))
    }

    /// `qcow2_close`, without the flush that comes before it: stores the given bitmaps, writes the caches. `node` is
    /// the name by which messages call the node. Gives [`Qcow2Result::Closed`].
    #[must_use]
    pub fn close(bitmaps: Arc<[StoreBitmap]>, node: &str) -> Qcow2Call {
        Qcow2Call::locked(Locked::Close(bitmaps, node.into()))
    }

    /// `qcow2_co_preadv_part`. Gives [`Qcow2Result::Data`].
    #[inline]
    #[must_use]
    pub fn preadv(offset: u64, bytes: u64) -> Qcow2Call {
        Qcow2Call::new(OpKind::Read(Box::new(ReadOp::new(offset, bytes))))
    }

    /// `qcow2_co_pwritev_part`
    #[inline]
    #[must_use]
    pub fn pwritev(offset: u64, data: Data) -> Qcow2Call {
        Qcow2Call::new(OpKind::Write(Box::new(WriteOp::new(offset, data))))
    }

    /// `qcow2_co_copy_range_from`
    #[must_use]
    pub fn copy_range_from(offset: u64, bytes: u64) -> Qcow2Call {
        Qcow2Call::new(OpKind::CopyFrom(CopyFromOp::new(offset, bytes)))
    }

    /// `qcow2_co_copy_range_to`
    #[must_use]
    pub fn copy_range_to(offset: u64, bytes: u64) -> Qcow2Call {
        Qcow2Call::new(OpKind::CopyTo(Box::new(CopyToOp::new(offset, bytes))))
    }

    /// `qcow2_co_pwritev_compressed_part`: whole clusters, none of which may be allocated (else `EIO`).
    #[must_use]
    pub fn pwritev_compressed(offset: u64, data: Data) -> Qcow2Call {
        Qcow2Call::new(OpKind::Compressed(Box::new(CompressedOp::new(offset, data))))
    }

    /// `qcow2_co_pwrite_zeroes`: aligned to clusters, or inside of one. `ENOTSUP` asks the caller to write a buffer.
    #[inline]
    #[must_use]
    pub fn pwrite_zeroes(offset: u64, bytes: u64, may_unmap: bool) -> Qcow2Call {
        Qcow2Call::new(OpKind::Zeroes(ZeroesOp::new(offset, bytes, may_unmap)))
    }

    /// `qcow2_co_pdiscard`: aligned to clusters, or inside of one. `ENOTSUP` means that nothing was done.
    #[must_use]
    pub fn pdiscard(offset: u64, bytes: u64) -> Qcow2Call {
        Qcow2Call::locked(Locked::Discard(offset, bytes))
    }

    /// `qcow2_co_flush_to_os`
    #[inline]
    #[must_use]
    pub fn flush_to_os() -> Qcow2Call {
        Qcow2Call::locked(Locked::FlushToOs)
    }

    /// `qcow2_co_block_status`. Gives [`Qcow2Result::Status`], without `ALLOCATED`, which the generic layer adds.
    #[inline]
    #[must_use]
    pub fn block_status(offset: u64, bytes: u64) -> Qcow2Call {
        Qcow2Call::new(OpKind::Status(StatusOp::new(offset, bytes)))
    }

    /// `qcow2_co_truncate` without preallocation. `zero`: `BDRV_REQ_ZERO_WRITE`, the new area must read as zero, also
    /// over a backing file. `bitmaps` are those in memory.
    #[must_use]
    pub fn truncate(size: u64, zero: bool, bitmaps: Arc<[BitmapCheck]>) -> Qcow2Call {
        Qcow2Call::new(OpKind::Truncate(Box::new(TruncateOp::new(size, zero, bitmaps))))
    }

    /// `qcow2_co_change_backing_file`
    #[must_use]
    pub fn change_backing_file(file: Option<&str>, format: Option<&str>) -> Qcow2Call {
        Qcow2Call::locked(Locked::ChangeBacking(file.map(Into::into), format.map(Into::into)))
    }

    /// `qcow2_co_remove_persistent_dirty_bitmap`
    #[must_use]
    pub fn remove_bitmap(name: &str) -> Qcow2Call {
        Qcow2Call::locked(Locked::RemoveBitmap(name.into()))
    }

    /// `qcow2_make_empty`, as after a commit.
    #[must_use]
    pub fn make_empty() -> Qcow2Call {
        Qcow2Call::locked(Locked::MakeEmpty)
    }

    /// `qcow2_reopen_prepare`: other caches, or the end of writing, for which the given bitmaps are stored.
    #[must_use]
    pub fn reopen(options: OpenOptions, bitmaps: Arc<[StoreBitmap]>) -> Qcow2Call {
        Qcow2Call::locked(Locked::Reopen(options, bitmaps))
    }

    /// `qcow2_reopen_bitmaps_rw`: the stored bitmaps are marked as in use. Those given are the ones in memory.
    #[must_use]
    pub fn bitmaps_writable(bitmaps: Arc<[MemoryBitmap]>) -> Qcow2Call {
        Qcow2Call::locked(Locked::BitmapsWritable(bitmaps))
    }

    /// `qcow2_co_create`: formats an empty file. Uses a [`Qcow2::new`] of its own, which is worth nothing afterwards.
    #[must_use]
    pub fn create(options: CreateOptions) -> Qcow2Call {
        Qcow2Call::new(OpKind::Create(Box::new(CreateOp::new(options))))
    }

    /// One step of [`Qcow2Call::create`], on the image as the one before left it.
    #[must_use]
    pub fn create_step(options: CreateOptions, step: CreateStep) -> Qcow2Call {
        Qcow2Call::new(OpKind::Create(Box::new(CreateOp::one(options, step))))
    }

    pub(super) fn read_task(task: ReadTask) -> Qcow2Call {
        Qcow2Call::new(OpKind::ReadTask(task))
    }

    pub(super) fn compressed_task(task: CompressedTask) -> Qcow2Call {
        Qcow2Call::new(OpKind::CompressedTask(Box::new(task)))
    }

    pub(super) fn write_task(task: WriteTask) -> Qcow2Call {
        Qcow2Call::new(OpKind::WriteTask(Box::new(task)))
    }

    /// Goes on with the answer to the last [`Qcow2Ask`]; first with [`Qcow2Answer::Done`]. Not to be called after [`Qcow2Ask::Done`].
    pub fn resume(&mut self, q: &mut Qcow2, mut got: Qcow2Answer) -> Qcow2Ask {
        if std::mem::take(&mut self.after_event) {
            return self.event_or_due();
        }
        if self.ex.is_waiting() {
            self.ex.answer(std::mem::replace(&mut got, Qcow2Answer::Done));
        }
        let ask = self.step(q, got);
        if !self.ex.has_events() {
            return ask;
        }
        self.due = Some(Box::new(ask));
        self.event_or_due()
    }

    /// The next event, or what is asked when all have been fired.
    #[cold]
    fn event_or_due(&mut self) -> Qcow2Ask {
        if let Some(event) = self.ex.next_event() {
            self.after_event = true;
            return Qcow2Ask::Event(event);
        }
        *self.due.take().expect("a step that fires events asks for something after them")
    }

    /// Whether its callback takes an `Error`, so that what it says when it fails reaches the client. All others give an errno.
    #[must_use]
    pub fn takes_error(&self) -> bool {
        match &self.kind {
            OpKind::Truncate(_) | OpKind::Create(_) => true,
            OpKind::Locked(op) => op.takes_error(),
            _ => false,
        }
    }

    fn step(&mut self, q: &mut Qcow2, got: Qcow2Answer) -> Qcow2Ask {
        let ex = &mut self.ex;
        match &mut self.kind {
            OpKind::Read(op) => op.step(ex, q, got),
            OpKind::ReadTask(task) => task.step(ex, q, got),
            OpKind::Write(op) => op.step(ex, q, got),
            OpKind::WriteTask(task) => task.step(ex, q, got),
            OpKind::Compressed(op) => op.step(ex, q, got),
            OpKind::CompressedTask(task) => task.step(ex, q, got),
            OpKind::CopyFrom(op) => op.step(ex, q, got),
            OpKind::CopyTo(op) => op.step(ex, q, got),
            OpKind::Zeroes(op) => op.step(ex, q, got),
            OpKind::Status(op) => op.step(ex, q, got),
            OpKind::Locked(op) => op.step(ex, q, got),
            OpKind::Truncate(op) => op.step(ex, q, got),
            OpKind::Create(op) => op.step(ex, q, got),
        }
    }

    /// An operation that this one started is over.
    pub fn task_done(&mut self, slot: u32, result: Result<Qcow2Result, Fault>) {
        match &mut self.kind {
            OpKind::Read(op) => op.task_done(slot, result),
            OpKind::Write(op) => op.task_done(slot, result),
            OpKind::WriteTask(task) => task.task_done(slot, result),
            OpKind::Compressed(op) => op.task_done(slot, result),
            OpKind::CompressedTask(task) => task.task_done(slot, result),
            OpKind::CopyTo(op) => op.task_done(slot, result),
            OpKind::Truncate(op) => op.task_done(slot, result),
            _ => {}
        }
    }
}

/// Tasks that run beside each other for one request (`AioTaskPool`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Pool {
    pub on: bool,
    busy: u32,
    next: u32,
    /// `ret` of the first task that failed.
    pub failed: Option<Fault>,
}

impl Pool {
    /// `QCOW2_MAX_WORKERS`
    const MAX: u32 = 8;

    pub fn is_full(&self) -> bool {
        self.busy >= Pool::MAX
    }

    pub fn is_idle(&self) -> bool {
        self.busy == 0
    }

    pub fn start(&mut self, task: Qcow2Call) -> Qcow2Ask {
        self.busy += 1;
        self.next += 1;
        Qcow2Ask::Start { slot: self.next - 1, task: Box::new(task) }
    }

    pub fn next_slot(&self) -> u32 {
        self.next
    }

    pub fn done(&mut self, result: Result<Qcow2Result, Fault>) -> Option<Data> {
        self.busy -= 1;
        match result {
            Ok(Qcow2Result::Data(data)) => Some(data),
            Ok(_) => None,
            Err(fault) => {
                self.failed.get_or_insert(fault);
                None
            }
        }
    }
}
