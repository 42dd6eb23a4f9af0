//! The frames: every place where QEMU's code stands while something else runs, as data.
//!
//! A frame is the rest of a function after a call. It is popped, runs to its next call or yield, and pushes what comes after that;
//! results travel in the register ([`Val`]). One frame, one method of [`World`](super::World) of the same meaning; `run_frame.rs`
//! says which.

use super::aio::{Cond, Ctx, Wait};
use super::arena::{BackendId, CallId, CellId, CoId, JobId, NodeId, ReqId, TranId, TxnId};
use super::block::copy_on_readv::CopyOnReadv;
use super::block::copy_range::CopyRange;
use super::block::driver::block_copy::{CopyTask, Method};
use super::block::driver::copy_on_read::CorPreadv;
use super::block::driver::qcow2_create::{FormatStage, Formatting};
use super::block::driver::snapshot_access::SnapshotRead;
use super::block::driver::throttle::{DriveLimits, Member};
use super::block::graph::{BdrvNext, Role};
use super::block::io::{IoFlags, WriteReq};
use super::block::open::open::{OpenStage, Opening};
use super::block::open::reopen::Reopen;
use super::block::open::spec::OpenSpec;
use super::block::status::StatusReq;
use super::blockdev::external_snapshot::SnapshotStage;
use super::blockdev::medium::MediumOp;
use super::job::backup::BackupArgs;
use super::job::stream::StreamFrame;
use super::monitor::hmp::BlkRequest;
use super::monitor::qemu_io_map::Walk;
use super::system::hotplug::Plugged;
use super::value::{BlockStatus, Val};
use super::watch::feed::BitmapEnd;
use crate::base::errno::Ret;
use crate::base::units::Nanos;
use crate::bitmap::BitmapId;
use crate::block::blkdebug::IoType;
use crate::block::content::Data;
use crate::block::event::BlkdebugEvent;
use crate::block::qcow2::{CreateOptions, Op};
use crate::block::qemu_io::{Read, Report, Write};
use crate::job::status::JobStatus;
use crate::qmp::error::QmpError;
use crate::qmp::types::{BackupCommon, CreateQcow2, DriveBackup};
use std::sync::Arc;

/// What a frame tells the one who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with the top of the stack.
    Go,
    /// The coroutine yields; whoever wakes it goes on with the top of its stack.
    Yield(Wait),
}

/// A read that goes to the driver in pieces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pieces {
    /// The node.
    pub node: NodeId,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// Bytes before the end of the node.
    pub inside: u64,
    /// Largest piece.
    pub piece: u64,
    /// What was read so far.
    pub data: Data,
    /// Flags.
    pub flags: IoFlags,
    /// Nothing was asked for yet.
    pub first: bool,
}

/// See the module's first lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum Frame {
    // Event loop and stacks.
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
    /// If the register holds a failure, drops this many frames below.
    StopOnError(u32),
    /// The end of making an image of that format: what is said where it is too large.
    ImgCreated(Arc<str>),
    Sleep(Nanos),
    /// The bottom of the stack while the process starts.
    Idle,

    /// Somebody watches: a guest's request has ended.
    GuestSeen,
    /// Somebody watches: a drained section is there.
    DrainSeen(NodeId),

    // Graph, drain.
    DrainedBegin(NodeId),
    DrainedEnd(NodeId),
    DrainAll,
    /// The end of a QMP command that the human monitor ran.
    HmpDone,
    FlushAll,
    DrainAllBegin,
    DrainAllEnd,
    /// Takes and gives back the graph lock that often.
    LockGraph(u32),
    /// `aio_bh_poll`
    BhPoll,
    GraphWrlock,
    GraphWrlockTaken,
    GraphWrunlock,
    Rdlock,
    Rdunlock,
    BdrvUnref(NodeId),
    BdrvClose(NodeId),
    BdrvFree(NodeId),
    UnrefChildren(NodeId),
    DriverClose(NodeId),
    DriverClosed(NodeId),
    BlkNewWithBs {
        bs: NodeId,
        perm: u8,
        beyond_eof: bool,
    },
    BlkNewAttached(BackendId),
    BlkNewOpen {
        spec: Arc<OpenSpec>,
        perm: u8,
    },
    BlkNewOpened {
        perm: u8,
    },
    BlkInsertBs(BackendId, NodeId),
    BlkAttach(BackendId, NodeId),
    /// `bdrv_replace_child_bs` of a backend's root, in the write lock.
    ReplaceRoot {
        blk: BackendId,
        new: NodeId,
    },
    BlkUnref(BackendId),
    BlkDetach(BackendId),
    AttachToNode {
        parent: NodeId,
        name: &'static str,
        role: Role,
        bs: NodeId,
    },
    ReplaceNode {
        from: NodeId,
        to: NodeId,
    },
    DropFilter {
        filter: NodeId,
        below: NodeId,
    },
    SetBackingHd {
        bs: NodeId,
        backing: NodeId,
    },
    DropBacking(NodeId),
    CloseAll,
    ChangeBacking {
        node: NodeId,
        file: Option<Arc<str>>,
        format: Option<Arc<str>>,
    },
    HeaderChanged,
    ChangedBacking(Arc<str>),
    Reopen(Box<Reopen>),
    ReopenUnswap(Box<Reopen>),

    // Opening and creating.
    BdrvOpen(Arc<OpenSpec>),
    Open(Box<Opening>, OpenStage),
    OpenDone(Box<Opening>),
    OpenFail(Box<Opening>, QmpError),
    OpenFormatFailed(Box<Opening>, QmpError),
    BlockdevAdded,
    DriveOpened {
        blk: BackendId,
    },
    ImgCreate {
        path: Arc<str>,
        format: Arc<str>,
        backing: Option<(Arc<str>, Arc<str>)>,
        look: bool,
        size: u64,
    },
    ImgBackingOpened,
    ImgCreateQcow2 {
        path: Arc<str>,
        backing: Option<(Arc<str>, Arc<str>)>,
        size: u64,
    },
    Qcow2Format {
        file: NodeId,
        options: Box<CreateOptions>,
    },
    Qcow2CreateFile {
        file: NodeId,
        options: Box<CreateOptions>,
    },
    Formatting(Box<Formatting>, FormatStage),
    RawTruncate(NodeId),
    RawTruncated,
    RawCreate {
        path: Arc<str>,
        size: u64,
        made: bool,
        then: Box<super::block::create::AfterCreate>,
    },
    CreateOver(Box<CreateQcow2>),
    CreateDone(JobId),

    // Requests to nodes.
    Preadv {
        node: NodeId,
        offset: u64,
        bytes: u64,
        flags: IoFlags,
    },
    PreadvAligned {
        node: NodeId,
        offset: u64,
        bytes: u64,
        id: u32,
        flags: IoFlags,
    },
    CopyOnReadv(Box<CopyOnReadv>),
    DriverPwritev(Box<WriteReq>),
    PreadvPieces(Box<Pieces>),
    PreadvEnd {
        node: NodeId,
        id: u32,
        skip: u64,
        bytes: u64,
    },
    Pwritev(Box<WriteReq>),
    PwritevPad(Box<WriteReq>),
    PaddingRead {
        node: NodeId,
        offset: u64,
        bytes: u64,
    },
    PaddingReadDone {
        node: NodeId,
        offset: u64,
        bytes: u64,
    },
    PwritevPadded(Box<WriteReq>),
    PwritevAligned(Box<WriteReq>),
    PwritevPieces(Box<WriteReq>),
    PwritevFinish {
        node: NodeId,
        offset: u64,
        bytes: u64,
    },
    PwritevEnd {
        node: NodeId,
        id: u32,
    },
    FlushAfterWrite(NodeId),
    PwriteZeroes(Box<WriteReq>),
    PwriteZeroesPiece {
        rest: Box<WriteReq>,
        num: u64,
    },
    Pdiscard {
        node: NodeId,
        offset: u64,
        bytes: u64,
    },
    PdiscardBegin {
        node: NodeId,
        offset: u64,
        bytes: u64,
        id: u32,
    },
    PdiscardPiece {
        node: NodeId,
        offset: u64,
        bytes: u64,
    },
    PdiscardEnd {
        node: NodeId,
        offset: u64,
        bytes: u64,
        id: u32,
    },
    FlushNext(BdrvNext),
    BdrvCoFlush(NodeId),
    FlushTurn {
        node: NodeId,
        generation: u64,
    },
    FlushToDisk {
        node: NodeId,
        generation: u64,
    },
    FlushChildren {
        node: NodeId,
        index: u32,
        ret: Ret,
    },
    FlushEnd {
        node: NodeId,
        generation: u64,
    },
    Status {
        node: NodeId,
        offset: u64,
        bytes: u64,
        want_zero: bool,
    },
    StatusDone {
        node: NodeId,
        offset: u64,
        bytes: u64,
        want_zero: bool,
    },
    StatusRecursed {
        node: NodeId,
        offset: u64,
        status: Box<BlockStatus>,
    },
    StatusAbove(Box<StatusReq>),
    StatusAboveNext(Box<StatusReq>),
    BlkTruncate {
        blk: BackendId,
        size: u64,
    },
    Truncate {
        node: NodeId,
        size: u64,
    },
    TruncateEnd {
        node: NodeId,
        size: u64,
        id: u32,
    },

    // Drivers.
    PassRead {
        node: NodeId,
        offset: u64,
        bytes: u64,
    },
    PassWrite {
        req: Box<WriteReq>,
        shift: u64,
    },
    PassDiscard {
        node: NodeId,
        offset: u64,
        bytes: u64,
    },
    DriverFlushToOs(NodeId),
    DriverFlushToDisk(NodeId),
    DriverTruncate {
        node: NodeId,
        size: u64,
        zero: bool,
    },
    StatusRaw {
        node: NodeId,
        offset: u64,
        bytes: u64,
        want_zero: bool,
    },
    /// Turns a failure into the answer of a status query and drops the query below.
    StatusOrError,
    /// Turns a plain result into the answer of a status query.
    StatusVal,
    RuleCheck {
        node: NodeId,
        iotype: IoType,
        offset: u64,
        bytes: u64,
    },
    BlkdebugEvent {
        node: NodeId,
        event: BlkdebugEvent,
    },
    ChildEvent {
        node: NodeId,
        event: BlkdebugEvent,
    },
    ThrottleWait {
        who: Member,
        write: bool,
        bytes: u64,
    },
    ThrottleWoken {
        who: Member,
        write: bool,
    },
    ThrottleGo {
        who: Member,
        write: bool,
        bytes: u64,
    },
    ThrottleRestart {
        who: Member,
        write: bool,
    },
    DriveLimits(Box<DriveLimits>),
    Qcow2Op {
        node: NodeId,
        op: Box<Op>,
    },
    Qcow2Relock {
        node: NodeId,
        op: Box<Op>,
    },
    Qcow2TaskDone {
        node: NodeId,
        parent: CoId,
        slot: u32,
    },
    Qcow2Truncated(NodeId),
    Qcow2Copied(NodeId),
    Qcow2Open(NodeId),
    Qcow2Opened(NodeId),
    Qcow2Close(NodeId),
    CorPreadv(Box<CorPreadv>),
    CbwWaitFrozen {
        node: NodeId,
        from: u64,
        len: u64,
    },
    SnapshotReadDone(Box<SnapshotRead>),
    SnapshotStatusDone {
        cbw: NodeId,
        frozen: Option<(u64, u64)>,
    },
    CbwCopyBeforeWrite {
        node: NodeId,
        offset: u64,
        bytes: u64,
    },
    CbwCallEnded(CallId),
    CbwCopied {
        node: NodeId,
        call: CallId,
        from: u64,
        len: u64,
    },

    // Block copy.
    CopyCommon(CallId),
    CopyDirty {
        call: CallId,
        offset: u64,
        bytes: u64,
    },
    CopyTaskStatus {
        task: CopyTask,
        from: u64,
        end: u64,
    },
    CopySlept(CallId),
    CopyGetMem {
        task: CopyTask,
    },
    CopyTaskRun {
        task: CopyTask,
        end: u64,
    },
    CopyInlineDone(CallId, u64, u64),
    CopyPoolTaskDone(CallId),
    CopyWaitAll(CallId),
    CopyPassDone(CallId),
    CopyWaited(CallId),
    CopyTaskEntry(CopyTask),
    CopyDo {
        task: CopyTask,
        method: Method,
    },
    CopyReadDone {
        task: CopyTask,
        method: Method,
    },
    CopyTaskDone {
        task: CopyTask,
        method: Method,
        read: bool,
    },
    CopyRangeFrom(CopyRange),
    CopyRangeFromBegun {
        copy: CopyRange,
        id: u32,
    },
    CopyRangeTo(CopyRange),
    CopyRangeToBegun {
        copy: CopyRange,
        id: u32,
    },
    CopyRangeDone {
        task: CopyTask,
    },
    CopyResetUnallocated {
        cbw: NodeId,
        offset: u64,
    },
    CopyResetStatus {
        cbw: NodeId,
        offset: u64,
        counted: u64,
    },

    // Jobs.
    JobCoEntry(JobId),
    JobRun(JobId),
    JobRunDone(JobId),
    JobRatelimitSlept(JobId),
    JobPrepared {
        job: JobId,
        members: Box<[JobId]>,
        at: u32,
    },
    JobSettled {
        job: JobId,
        failed: bool,
        committed: bool,
        before: Option<Box<BitmapEnd>>,
    },
    JobPausePoint(JobId),
    JobPausePointHooked(JobId),
    JobPausePointWoken(JobId, JobStatus),
    JobYield(JobId),
    JobStart(JobId),
    JobExit(JobId),
    JobCompleted(JobId),
    JobDoFinalize(JobId),
    JobTxnAbortLoop(TxnId),
    JobFinalizeSingle(JobId),
    JobRemoveAllBdrv(JobId),
    JobFinalEvents(JobId),
    JobUnref(JobId),
    JobFree(JobId),
    JobEarlyFail(JobId),
    JobCancel(JobId, bool),
    JobCancelSync(JobId),
    JobCancelSyncAll,
    JobAddBdrv {
        job: JobId,
        name: &'static str,
        bs: NodeId,
    },
    JobOrError(Box<Frame>),

    // Backup.
    BackupCommon {
        common: Box<BackupCommon>,
        source: NodeId,
        target: NodeId,
        txn: Option<TxnId>,
    },
    CbwAppend(Box<BackupArgs>),
    CbwOpened {
        cbw: NodeId,
        discard_source: bool,
        min_cluster: u64,
    },
    InsertNode {
        node: NodeId,
        below: NodeId,
    },
    NodeInserted(NodeId),
    FilterDrop(NodeId),
    FilterDropDrained {
        filter: NodeId,
        below: NodeId,
    },
    BackupCbwAppended(Box<BackupArgs>),
    BackupCreateJob {
        cbw: NodeId,
        args: Box<BackupArgs>,
    },
    BackupCreateFailed {
        cbw: NodeId,
        args: Box<BackupArgs>,
        err: QmpError,
    },
    BackupCbwDrop(JobId),
    BackupLoop(JobId),
    BackupWait(JobId),
    BackupCallCancelled(JobId),
    BackupIdle(JobId),
    BackupScan {
        job: JobId,
        offset: u64,
    },
    BackupScanPaused {
        job: JobId,
        offset: u64,
    },
    BackupScanned {
        job: JobId,
        offset: u64,
    },
    DriveBackupDrained {
        args: Box<DriveBackup>,
        bs: NodeId,
        txn: Option<TxnId>,
    },
    DriveBackupCreated {
        args: Box<DriveBackup>,
        bs: NodeId,
        txn: Option<TxnId>,
    },
    DriveBackupOpened {
        args: Box<DriveBackup>,
        bs: NodeId,
        txn: Option<TxnId>,
    },

    // Other jobs.
    Stream(StreamFrame),

    // Transactions and commands.
    TranPrepare(TranId, usize),
    TranPrepared(TranId, usize),
    TranJob(TranId, usize),
    TranCommit(TranId, usize),
    TranAbort(TranId, usize),
    TranClean(TranId, usize),
    TranEnd(TranId),
    Snapshot(TranId, usize, SnapshotStage),
    BitmapRelease(NodeId, BitmapId),
    BitmapStoreRemoved,
    QmpCommand,
    QmpCommandDone,
    DevicePlugged(Box<Plugged>),
    UnplugOnReset,
    MediumOpened(Box<MediumOp>),
    MediumStep(Box<MediumOp>),
    MediumGone(BackendId),
    DeviceGone {
        id: Option<Arc<str>>,
        path: Arc<str>,
        inner: bool,
    },
    ResetDone,
    BlockResize {
        device: Option<Arc<str>>,
        node_name: Option<Arc<str>>,
        size: i64,
    },
    ResizeAllowed {
        bs: NodeId,
        size: u64,
    },
    ResizeAttached {
        bs: NodeId,
        size: u64,
    },
    BlkCo {
        blk: BackendId,
        request: Box<BlkRequest>,
    },
    BlkCoDone(BackendId),
    QemuIo {
        blk: BackendId,
        command: Arc<str>,
    },
    QemuIoAttached {
        blk: BackendId,
        command: Arc<str>,
    },
    QemuIoReadDone {
        blk: BackendId,
        read: Box<Read>,
        start: Nanos,
    },
    QemuIoWriteDone {
        blk: BackendId,
        write: Box<Write>,
        start: Nanos,
    },
    QemuIoDiscardDone {
        offset: u64,
        bytes: u64,
        report: Report,
        start: Nanos,
    },
    QemuIoTruncated,
    QemuIoWalked(Box<Walk>),
    QemuIoFlushed {
        blk: BackendId,
        start: Nanos,
    },
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
