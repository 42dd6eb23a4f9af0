//! The frames: every place where QEMU's code stands while something else runs, as data.
//!
//! A frame is the rest of a function after a call. It is popped, runs to its next call or yield, and pushes what comes after that;
//! results travel in the register ([`Val`]). One frame, one method of [`World`](super::World) of the same meaning; `dispatch.rs`
//! says which.

use super::aio::coroutine::Wait;
use super::aio::queue::Ctx;
use super::aio::step::Cond;
use super::arena::{CellId, CoId, ReqId};
use super::value::Val;
use crate::base::units::Nanos;
use crate::world::block::backend::BackendFrame;
use crate::world::block::backing_name::BackingNameFrame;
use crate::world::block::bdrv_commit::{BdrvCommit, CommitStage};
use crate::world::block::chain::ChainFrame;
use crate::world::block::create::ImgCreateFrame;
use crate::world::block::drain::DrainFrame;
use crate::world::block::driver::DriverFrame;
use crate::world::block::driver::blkdebug::BlkdebugFrame;
use crate::world::block::driver::block_copy::BlockCopyFrame;
use crate::world::block::driver::copy_before_write::CopyBeforeWriteFrame;
use crate::world::block::driver::copy_on_read::CopyOnReadFrame;
use crate::world::block::driver::qcow2::Qcow2Frame;
use crate::world::block::driver::qcow2_create::Qcow2CreateFrame;
use crate::world::block::driver::throttle::ThrottleFrame;
use crate::world::block::drop_intermediate::DropFrame;
use crate::world::block::edges::EdgesFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::host_work::HostWorkFrame;
use crate::world::block::io::IoFrame;
use crate::world::block::io::copy_on_readv::CopyOnReadvFrame;
use crate::world::block::io::copy_range::CopyRangeFrame;
use crate::world::block::io::discard::DiscardFrame;
use crate::world::block::io::flush::FlushFrame;
use crate::world::block::io::status::StatusFrame;
use crate::world::block::io::write::WriteFrame;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::reopen::ReopenFrame;
use crate::world::blockdev::add_del::BlockdevFrame;
use crate::world::blockdev::backup::BackupCommandFrame;
use crate::world::blockdev::bitmaps::BitmapsFrame;
use crate::world::blockdev::change_backing::ChangeBackingFrame;
use crate::world::blockdev::external_snapshot::ExternalSnapshotFrame;
use crate::world::blockdev::medium::MediumFrame;
use crate::world::blockdev::resize::ResizeFrame;
use crate::world::blockdev::throttle::DriveLimitsFrame;
use crate::world::blockdev::transaction::TransactionFrame;
use crate::world::blockdev::x_blockdev_change::BlockdevChangeFrame;
use crate::world::export::ExportFrame;
use crate::world::job::JobFrame;
use crate::world::job::backup::BackupFrame;
use crate::world::job::block_job::BlockJobFrame;
use crate::world::job::commit::CommitFrame;
use crate::world::job::create::CreateFrame;
use crate::world::job::mirror::MirrorFrame;
use crate::world::job::stream::StreamFrame;
use crate::world::job::txn::TxnFrame;
use crate::world::monitor::MonitorFrame;
use crate::world::monitor::hmp::HmpFrame;
use crate::world::monitor::qemu_io::QemuIoFrame;
use crate::world::monitor::qemu_io_map::QemuIoMapFrame;
use crate::world::system::boot::BootFrame;
use crate::world::system::hotplug::HotplugFrame;
use crate::world::system::runstate::RunstateFrame;
use crate::world::watch::feed::WatchFrame;

/// What a frame tells the one who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with the top of the stack.
    Go,
    /// The coroutine yields; whoever wakes it goes on with the top of its stack.
    Yield(Wait),
}

/// See the module's first lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum Frame {
    Poll(Cond),
    BhLoop(Ctx),
    Handlers,
    RunTimers,
    Complete(ReqId),
    /// Where orders are open: another request may be done in the same round (`thread_pool_completion_bh` starts again after each one).
    More,
    /// The same within `aio_bh_poll` called by itself, where it matters in any case.
    MoreHere,
    /// The same between two bottom halves of one round.
    MoreBetween,
    Enter(CoId),
    Wake(CoId),
    WakeWithReg(CoId),
    CoReturn(CellId),
    TakeCell(CellId),
    RunCo(Box<Frame>),
    /// In a coroutine: has the main thread run a frame, in a bottom half.
    OnMain(Box<Frame>),
    Give(Box<Val>),
    /// Runs a frame and keeps the register over it.
    KeepOver(Box<Frame>),
    /// Runs these frames unless the register holds a failure, which then is the result of all of them ([`Frame::if_ok`]).
    IfOk(Box<[Frame]>),
    Sleep(Nanos),
    /// The bottom of the stack while the process starts.
    Idle,
    /// `aio_bh_poll`
    BhPoll,

    // The frames of a file each.
    BdrvCommit(Box<BdrvCommit>, CommitStage),
    Commit(CommitFrame),
    BlockdevChange(BlockdevChangeFrame),
    DropIntermediate(DropFrame),
    Mirror(MirrorFrame),
    Backend(BackendFrame),
    Chain(ChainFrame),
    CopyOnReadv(CopyOnReadvFrame),
    CopyRange(CopyRangeFrame),
    ImgCreate(ImgCreateFrame),
    Discard(DiscardFrame),
    Drain(DrainFrame),
    Edges(EdgesFrame),
    Export(ExportFrame),
    Flush(FlushFrame),
    Graph(GraphFrame),
    GraphLock(GraphLockFrame),
    HostWork(HostWorkFrame),
    Io(IoFrame),
    Status(StatusFrame),
    Write(WriteFrame),
    Blockdev(BlockdevFrame),
    BackupCommand(BackupCommandFrame),
    Bitmaps(BitmapsFrame),
    BackingName(BackingNameFrame),
    ChangeBacking(ChangeBackingFrame),
    ExternalSnapshot(ExternalSnapshotFrame),
    Medium(MediumFrame),
    Resize(ResizeFrame),
    DriveLimits(DriveLimitsFrame),
    Transaction(TransactionFrame),
    Backup(BackupFrame),
    BlockJob(BlockJobFrame),
    Create(CreateFrame),
    Job(JobFrame),
    Stream(StreamFrame),
    Txn(TxnFrame),
    Hmp(HmpFrame),
    Monitor(MonitorFrame),
    QemuIo(QemuIoFrame),
    QemuIoMap(QemuIoMapFrame),
    Boot(BootFrame),
    Hotplug(HotplugFrame),
    Runstate(RunstateFrame),
    Watch(WatchFrame),
    Blkdebug(BlkdebugFrame),
    BlockCopy(BlockCopyFrame),
    CopyBeforeWrite(CopyBeforeWriteFrame),
    CopyOnRead(CopyOnReadFrame),
    Driver(DriverFrame),
    Qcow2(Qcow2Frame),
    Qcow2Create(Qcow2CreateFrame),
    Throttle(ThrottleFrame),
    Open(OpenFrame),
    Reopen(ReopenFrame),
}

impl Frame {
    /// What is done only if what ran before went well: `if (ret < 0) { return ret; }` and the rest of that function.
    #[must_use]
    pub fn if_ok<const N: usize>(frames: [Frame; N]) -> Frame {
        Frame::IfOk(Box::new(frames))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_registers_stay_small() {
        // They are moved at every call; what is larger goes behind a `Box`.
        assert!(size_of::<Frame>() <= 80, "{}", size_of::<Frame>());
        assert!(size_of::<Val>() <= 64, "{}", size_of::<Val>());
    }
}
