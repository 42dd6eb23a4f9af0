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
use crate::base::time::Span;

/// What a frame tells the one who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with the top of the stack.
    Go,
    /// The coroutine yields; whoever wakes it goes on with the top of its stack.
    Yield(Wait),
}

/// The files that have frames, a line each: the variant of [`Frame`] and the enum of the file's own; with `moves`, if its frames hold
/// instants. `$then` is the macro that makes something of them.
macro_rules! files_with_frames {
    ($then:ident) => {
        $then! {
            Backend(block::backend::BackendFrame),
            BackingName(block::backing_name::BackingNameFrame),
            BdrvCommit(block::bdrv_commit::BdrvCommitFrame),
            Chain(block::chain::ChainFrame),
            ImgCreate(block::create::ImgCreateFrame),
            Drain(block::drain::DrainFrame),
            Driver(block::driver::DriverFrame),
            Blkdebug(block::driver::blkdebug::BlkdebugFrame),
            BlockCopy(block::driver::block_copy::BlockCopyFrame),
            CopyBeforeWrite(block::driver::copy_before_write::CopyBeforeWriteFrame),
            Copies(block::driver::copies::CopiesFrame),
            CopyOnRead(block::driver::copy_on_read::CopyOnReadFrame),
            Nbd(block::driver::nbd::NbdFrame),
            Qcow2(block::driver::qcow2::Qcow2Frame),
            Qcow2Create(block::driver::qcow2::create::Qcow2CreateFrame),
            Throttle(block::driver::throttle::ThrottleFrame),
            DropIntermediate(block::drop_intermediate::DropFrame),
            Edges(block::edges::EdgesFrame),
            Graph(block::graph::GraphFrame),
            GraphLock(block::graph_lock::GraphLockFrame),
            HostWork(block::host_work::HostWorkFrame),
            Io(block::io::IoFrame),
            CopyOnReadv(block::io::copy_on_readv::CopyOnReadvFrame),
            CopyRange(block::io::copy_range::CopyRangeFrame),
            Discard(block::io::discard::DiscardFrame),
            Flush(block::io::flush::FlushFrame),
            Status(block::io::status::StatusFrame),
            Write(block::io::write::WriteFrame),
            Zeroes(block::io::zeroes::ZeroesFrame),
            Active(block::open::active::ActiveFrame),
            Open(block::open::open::OpenFrame),
            Reopen(block::open::reopen::ReopenFrame),
            Blockdev(blockdev::add_del::BlockdevFrame),
            BackupCommand(blockdev::backup::BackupCommandFrame),
            Bitmaps(blockdev::bitmaps::BitmapsFrame),
            ChangeBacking(blockdev::change_backing::ChangeBackingFrame),
            ExternalSnapshot(blockdev::external_snapshot::ExternalSnapshotFrame),
            Medium(blockdev::medium::MediumFrame),
            Resize(blockdev::resize::ResizeFrame),
            DriveLimits(blockdev::throttle::DriveLimitsFrame),
            Transaction(blockdev::transaction::TransactionFrame),
            BlockdevChange(blockdev::x_blockdev_change::BlockdevChangeFrame),
            Export(export::ExportFrame),
            Job(job::JobFrame),
            Backup(job::backup::BackupFrame),
            BlockJob(job::block_job::BlockJobFrame),
            Commit(job::commit::CommitFrame),
            Create(job::create::CreateFrame),
            Mirror(job::mirror::MirrorFrame),
            Stream(job::stream::StreamFrame),
            #[cfg(test)]
            TestJob(job::tests::TestJobFrame),
            Txn(job::txn::TxnFrame),
            Monitor(monitor::MonitorFrame),
            Hmp(monitor::hmp::HmpFrame),
            HmpDrives(monitor::hmp_drives::HmpDrivesFrame),
            Measured(monitor::qemu_io::MeasuredFrame) moves,
            QemuIo(monitor::qemu_io::QemuIoFrame),
            QemuIoMap(monitor::qemu_io_map::QemuIoMapFrame),
            Boot(system::boot::BootFrame),
            Hotplug(system::hotplug::HotplugFrame),
            Runstate(system::runstate::RunstateFrame),
            Watch(watch::feed::WatchFrame),
        }
    };
}
pub(super) use files_with_frames;

macro_rules! declare_frames {
    ($($(#[$when:meta])? $file:ident($($path:ident)::+) $($moves:ident)?,)*) => {
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
            Sleep(Span),
            /// The bottom of the stack while the process starts.
            Idle,
            /// `aio_bh_poll`
            BhPoll,
            $($(#[$when])? $file(super::$($path)::+),)*
        }

        crate::base::time::rebase!(enum Frame {
            Poll(frame),
            BhLoop(frame),
            Handlers,
            RunTimers,
            Complete(frame),
            More,
            MoreHere,
            MoreBetween,
            Enter(frame),
            Wake(frame),
            WakeWithReg(frame),
            CoReturn(frame),
            TakeCell(frame),
            RunCo(frame) moves,
            OnMain(frame) moves,
            Give(frame),
            KeepOver(frame) moves,
            IfOk(frame) moves,
            Sleep(frame),
            Idle,
            BhPoll,
            $($(#[$when])? $file(frame) $($moves)?,)*
        });

        $(
            $(#[$when])?
            impl From<super::$($path)::+> for Frame {
                fn from(frame: super::$($path)::+) -> Frame {
                    Frame::$file(frame)
                }
            }
        )*
    };
}

files_with_frames!(declare_frames);

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
        assert!(size_of::<Frame>() <= 56, "{}", size_of::<Frame>());
        assert!(size_of::<Val>() <= 64, "{}", size_of::<Val>());
    }
}
