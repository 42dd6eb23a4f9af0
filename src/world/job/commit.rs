//! The commit job (`block/commit.c`): what the layers above a base hold is copied into it, and then they are left out.
//!
//! It is for layers that nobody writes to; those with a writer are committed by a mirror job (`commit_active_start`).

use crate::base::errno::Errno;
use crate::job::status::JobType;
use crate::qmp::error::QmpError;
use crate::qmp::types::OnError;
use crate::quirk::{KnownCause, Quirk};
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{BackendId, JobId, NodeId};
use crate::world::block::backend::BackendFrame;
use crate::world::block::backend::BlkRequest;
use crate::world::block::chain::ChainFrame;
use crate::world::block::drain::DrainFrame;
use crate::world::block::driver::Driver;
use crate::world::block::edges::EdgesFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::Node;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::request::IoFlags;
use crate::world::block::io::status::StatusFrame;
use crate::world::block::io::status::StatusReq;
use crate::world::block::open::reopen::Reopen;
use crate::world::block::open::reopen::ReopenFrame;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::job::JobFrame;
use crate::world::job::block_job::BlockJobFrame;
use crate::world::job::block_job::ErrorAction;
use crate::world::job::hooks::{BlockJobHooks, JobDriver, JobHooks, WatchHooks};
use crate::world::job::{Job, JobFlags, Perms};
use crate::world::value::Val;
use crate::world::watch::chains::ChainKind;
use std::sync::Arc;

/// `COMMIT_BUFFER_SIZE`: the most that is copied at once, in bytes.
const COMMIT_BUFFER_SIZE: u64 = 512 * 1024;

/// `CommitBlockJob`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitJob {
    /// The filter above the layers that are committed.
    pub commit_top_bs: NodeId,
    /// Reads what is to be copied.
    pub top: BackendId,
    /// Writes it; given up when the chain is put together.
    pub base: Option<BackendId>,
    /// The node that is committed into.
    pub base_bs: NodeId,
    /// The lowest of the layers that are committed, filters left out.
    pub base_overlay: NodeId,
    /// `on-error`, for both sides.
    pub on_error: OnError,
    /// The base was read-only before.
    pub base_read_only: bool,
    /// The chain from the filter to the base is frozen.
    pub chain_frozen: bool,
    /// `backing-file`
    pub backing_file_str: Option<Arc<str>>,
    /// `backing-mask-protocol`
    pub backing_mask_protocol: bool,
    /// Length of the topmost layer when the job began to run, in bytes.
    pub len: u64,
}

/// What `qmp_block_commit` has checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitArgs {
    /// ID and flags.
    pub flags: JobFlags,
    /// The root of the chain.
    pub bs: NodeId,
    /// Where the data goes.
    pub base: NodeId,
    /// The topmost layer to commit.
    pub top: NodeId,
    /// `on-error`
    pub on_error: OnError,
    /// `backing-file`
    pub backing_file: Option<Arc<str>>,
    /// `backing-mask-protocol`
    pub backing_mask_protocol: bool,
    /// `filter-node-name`
    pub filter_node_name: Option<Arc<str>>,
}

/// A commit that is being started: its arguments, and what there is of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitStart {
    args: CommitArgs,
    job: JobId,
    base_read_only: bool,
    /// Whether the base has to grow.
    grows: bool,
    commit_top_bs: Option<NodeId>,
    base_overlay: Option<NodeId>,
    chain_frozen: bool,
    base: Option<BackendId>,
    top: Option<BackendId>,
}

/// What comes next for a commit that is being started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartStage {
    /// The base is writable, or can't be made so.
    Reopened,
    /// The filter is above the layers.
    Appended,
    /// The graph is locked, for edges to the nodes.
    AddNodes,
    /// The base has its backend.
    BaseAttached,
    /// The topmost layer has its backend.
    TopAttached,
}

/// The rest of this file's functions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum CommitFrame {
    Create(Box<CommitArgs>),
    Start(Box<CommitStart>, StartStage),
    Loop { job: JobId, offset: u64 },
    Slept { job: JobId, offset: u64 },
    Known { job: JobId, offset: u64 },
    HasRead { job: JobId, offset: u64, bytes: u64 },
    Written { job: JobId, offset: u64, bytes: u64 },
    DropIntermediate(JobId),
    AbortDrop(JobId),
}

impl CommitFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            CommitFrame::Create(args) => w.commit_create(args),
            CommitFrame::Start(start, stage) => w.commit_start_stage(start, stage),
            CommitFrame::Loop { job, offset } => w.commit_loop(job, offset),
            CommitFrame::Slept { job, offset } => w.commit_slept(job, offset),
            CommitFrame::Known { job, offset } => w.commit_known(job, offset),
            CommitFrame::HasRead { job, offset, bytes } => w.commit_has_read(job, offset, bytes),
            CommitFrame::Written { job, offset, bytes } => w.commit_written(job, offset, bytes),
            CommitFrame::DropIntermediate(job) => w.commit_drop_intermediate(job),
            CommitFrame::AbortDrop(job) => w.commit_abort_drop(job),
        }
    }
}

/// `commit_job_driver`
pub(in crate::world) const HOOKS: JobHooks = JobHooks {
    job_type: JobType::Commit,
    run: World::commit_run,
    pause: None,
    resume: None,
    user_resume: Some(World::block_job_user_resume),
    complete: None,
    prepare: Some(World::commit_prepare),
    commit: None,
    abort: Some(World::commit_abort),
    clean: Some(World::commit_clean),
    cancel: None,
    block: Some(BlockJobHooks { drained_poll: None, set_speed: None, change: None, query: None }),
    watch: WatchHooks { may_rest: None, bitmap: None, target: None },
};

impl Job {
    /// The commit driver's state.
    ///
    /// # Panics
    /// If it is no commit.
    #[must_use]
    pub fn commit(&self) -> &CommitJob {
        match &self.driver {
            JobDriver::Commit(commit) => commit,
            other => panic!("not a commit job: {other:?}"),
        }
    }

    fn commit_mut(&mut self) -> &mut CommitJob {
        match &mut self.driver {
            JobDriver::Commit(commit) => commit,
            other => panic!("not a commit job: {other:?}"),
        }
    }
}

/// The start (`commit_start`).
impl World {
    /// `commit_start`. Leaves `Val::Done`.
    pub(in crate::world) fn commit_start(&mut self, args: Box<CommitArgs>) -> Flow {
        if self.graph.skip_filters(args.top) == self.graph.skip_filters(args.base) {
            let text = "Invalid files for merge: top and base are the same";
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        self.seq([GraphLockFrame::GraphWrlock.into(), Frame::Commit(CommitFrame::Create(args))])
    }

    /// `commit_start`: the job, between lock and unlock of `block_job_create`.
    fn commit_create(&mut self, args: Box<CommitArgs>) -> Flow {
        let job = match self.block_job_create(&args.flags, JobType::Commit, None, args.bs, Perms::NONE) {
            Ok(job) => job,
            Err((err, job)) => {
                self.push(Frame::Give(Box::new(Val::Done(Err(err)))));
                if let Some(job) = job {
                    self.push(JobFrame::JobEarlyFail(job).into());
                }
                return self.seq([GraphLockFrame::GraphWrunlock.into()]);
            }
        };
        let start = CommitStart {
            job,
            base_read_only: !self.graph.nodes[args.base].flags.rdwr,
            grows: self.bdrv_getlength(args.base) < self.bdrv_getlength(args.top),
            commit_top_bs: None,
            base_overlay: None,
            chain_frozen: false,
            base: None,
            top: None,
            args: *args,
        };
        let (base, read_only) = (start.args.base, start.base_read_only);
        self.push(Frame::Commit(CommitFrame::Start(Box::new(start), StartStage::Reopened)));
        if read_only {
            let writable = Reopen::set_read_only(self, base, false);
            self.push(ReopenFrame::Reopen(Box::new(writable)).into());
        }
        self.seq([GraphLockFrame::GraphWrunlock.into()])
    }

    fn commit_start_stage(&mut self, mut start: Box<CommitStart>, stage: StartStage) -> Flow {
        if let Err(err) = self.take_done() {
            if stage == StartStage::Appended {
                start.commit_top_bs = None;
            }
            return self.commit_start_failed(&start, err);
        }
        let next = |start, stage| Frame::Commit(CommitFrame::Start(start, stage));
        match stage {
            StartStage::Reopened => self.commit_append(start),
            StartStage::Appended => self.seq([GraphLockFrame::GraphWrlock.into(), next(start, StartStage::AddNodes)]),
            StartStage::AddNodes => match self.commit_add_nodes(&mut start) {
                Ok(()) => {
                    let resize = if start.grows { perm::RESIZE } else { 0 };
                    let wanted = perm::CONSISTENT_READ | perm::WRITE | resize;
                    let blk = self.blk_new("".into(), wanted, perm::CONSISTENT_READ | perm::WRITE_UNCHANGED);
                    start.base = Some(blk);
                    let base = start.args.base;
                    let next = next(start, StartStage::BaseAttached);
                    self.seq([GraphLockFrame::GraphWrunlock.into(), BackendFrame::BlkInsertBs(blk, base).into(), next])
                }
                Err(err) => {
                    self.commit_start_failed(&start, err);
                    self.seq([GraphLockFrame::GraphWrunlock.into()])
                }
            },
            StartStage::BaseAttached => {
                let blk = start.base.expect("it was made");
                self.graph.backends[blk].disable_request_queuing = true;
                let (top, blk) = (start.args.top, self.blk_new("".into(), 0, perm::ALL));
                start.top = Some(blk);
                self.seq([BackendFrame::BlkInsertBs(blk, top).into(), next(start, StartStage::TopAttached)])
            }
            StartStage::TopAttached => self.commit_job_start(*start),
        }
    }

    /// The filter: the layers below need not be consistent any more, and may be written to.
    fn commit_append(&mut self, mut start: Box<CommitStart>) -> Flow {
        let filter = self.bdrv_new(Node::new());
        let name = start.args.filter_node_name.clone();
        if let Err(text) = self.assign_node_name(filter, name.as_deref()) {
            self.commit_start_failed(&start, QmpError::generic(text));
            return self.seq([GraphFrame::BdrvUnref(filter).into()]);
        }
        let top = start.args.top;
        let size = self.bdrv_getlength(top);
        let node = &mut self.graph.nodes[filter];
        node.driver = Some(Driver::CommitTop);
        (node.implicit, node.never_freeze, node.size) = (name.is_none(), true, size);
        start.commit_top_bs = Some(filter);
        self.seq([
            ChainFrame::BdrvAppend { new: filter, top }.into(),
            Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(filter).into())),
            Frame::Commit(CommitFrame::Start(start, StartStage::Appended)),
        ])
    }

    /// Edges to all nodes from the topmost layer to the base, and the chain is frozen. The graph is locked.
    fn commit_add_nodes(&mut self, start: &mut CommitStart) -> Result<(), QmpError> {
        let (job, base, top) = (start.job, start.args.base, start.args.top);
        let overlay = self.graph.find_overlay(top, Some(base)).expect("the base is below the topmost layer");
        start.base_overlay = Some(overlay);
        let filtered_base = self.graph.cow_bs(overlay);
        let mut shared = perm::WRITE_UNCHANGED | perm::WRITE;
        let mut iter = Some(top);
        while let Some(node) = iter.filter(|node| *node != base) {
            if Some(node) == filtered_base {
                // From here on there are only filters of the base, which stays consistent.
                shared |= perm::CONSISTENT_READ;
            }
            self.block_job_add_bdrv(job, "intermediate node", node, Perms { perm: 0, shared })?;
            iter = self.graph.filter_or_cow_bs(node);
        }
        self.graph.freeze_backing_chain(start.commit_top_bs.expect("it is in place"), Some(base))?;
        start.chain_frozen = true;
        self.block_job_add_bdrv(job, "base", base, Perms::NONE)
    }

    fn commit_job_start(&mut self, start: CommitStart) -> Flow {
        let (job, top) = (start.job, start.top.expect("it was made"));
        self.graph.backends[top].disable_request_queuing = true;
        self.jobs[job].driver = JobDriver::Commit(Box::new(CommitJob {
            commit_top_bs: start.commit_top_bs.expect("it is in place"),
            top,
            base: start.base,
            base_bs: start.args.base,
            base_overlay: start.base_overlay.expect("it was found"),
            on_error: start.args.on_error,
            base_read_only: start.base_read_only,
            chain_frozen: true,
            backing_file_str: start.args.backing_file,
            backing_mask_protocol: start.args.backing_mask_protocol,
            len: 0,
        }));
        let read_only = start.base_read_only.then_some(start.args.base);
        self.see_chain_begins(job, ChainKind::Commit, start.args.bs, Some(start.args.base), true, read_only);
        self.seq([JobFrame::JobStart(job).into(), Frame::Give(Box::new(Val::Done(Ok(()))))])
    }

    /// `commit_start`, from `fail` on: all is taken back. Frames that are pushed after this run before it.
    fn commit_start_failed(&mut self, start: &CommitStart, err: QmpError) -> Flow {
        let (top, base) = (start.args.top, start.args.base);
        if let (Some(filter), true) = (start.commit_top_bs, start.chain_frozen) {
            self.graph.unfreeze_backing_chain(filter, Some(base));
        }
        self.push(Frame::Give(Box::new(Val::Done(Err(err)))));
        if let Some(filter) = start.commit_top_bs {
            self.seq([
                DrainFrame::DrainedBegin(top).into(),
                GraphLockFrame::GraphWrlockOnly.into(),
                EdgesFrame::ReplaceNode { from: filter, to: top }.into(),
                GraphLockFrame::GraphWrunlock.into(),
                DrainFrame::DrainedEnd(top).into(),
            ]);
        }
        self.push(JobFrame::JobEarlyFail(start.job).into());
        if start.base_read_only {
            self.push(Frame::Give(Box::new(Val::None)));
            self.push(ReopenFrame::ReopenReadOnly(base).into());
        }
        for blk in [start.top, start.base].into_iter().flatten() {
            self.push(BackendFrame::BlkUnref(blk).into());
        }
        Flow::Go
    }
}

/// The job itself (`commit_run`).
impl World {
    fn commit_run(&mut self, job: JobId) -> Flow {
        let commit = self.jobs[job].commit();
        let (top, base) = (commit.top, commit.base.expect("it is given up in the end"));
        let [len, base_len] = [top, base].map(|blk| self.graph.blk_bs(blk).map_or(0, |bs| self.bdrv_getlength(bs)));
        self.job_progress_set_remaining(job, len);
        self.jobs[job].commit_mut().len = len;
        let first = Frame::Commit(CommitFrame::Loop { job, offset: 0 });
        // What the image hid of a base that is longer shows when it is gone.
        if base_len > len {
            self.see_excuse(job, KnownCause::Page("commit-of-a-shorter-image"), Some((len, u64::MAX)));
        }
        if base_len < len {
            return self.seq([BackendFrame::BlkTruncate { blk: base, size: len }.into(), Frame::if_ok([first])]);
        }
        self.seq([first])
    }

    /// One turn begins: it sleeps at least once, so that others can have the nodes quiet.
    fn commit_loop(&mut self, job: JobId, offset: u64) -> Flow {
        if offset >= self.jobs[job].commit().len {
            return self.ret(Val::Ret(Ok(())));
        }
        self.push(Frame::Commit(CommitFrame::Slept { job, offset }));
        self.block_job_ratelimit_sleep(job)
    }

    /// Whether the next piece is allocated above the base.
    fn commit_slept(&mut self, job: JobId, offset: u64) -> Flow {
        if self.job_is_cancelled(job) {
            return self.ret(Val::Ret(Ok(())));
        }
        let commit = self.jobs[job].commit();
        let end = self.graph.filter_or_cow_bs(commit.base_overlay);
        let top = self.graph.blk_bs(commit.top).expect("the job has its nodes");
        self.seq([
            GraphLockFrame::Rdlock.into(),
            StatusFrame::StatusAbove(StatusReq::new(top, end, offset, COMMIT_BUFFER_SIZE, false)).into(),
            GraphLockFrame::Rdunlock.into(),
            Frame::Commit(CommitFrame::Known { job, offset }),
        ])
    }

    fn commit_known(&mut self, job: JobId, offset: u64) -> Flow {
        let Val::Status(status) = self.take_val() else { unreachable!("a status query answers so") };
        let status = match status {
            Ok(status) => status,
            Err(errno) => return self.commit_error(job, offset, true, errno),
        };
        let bytes = status.pnum;
        if !status.allocated {
            self.job_progress_update(job, bytes);
            return self.commit_loop(job, offset + bytes);
        }
        if status.zero && self.quirks.since(Change::CommitWritesZeroes) {
            let blk = self.jobs[job].commit().base.expect("it is given up in the end");
            let flags = IoFlags::ZERO_WRITE | IoFlags::MAY_UNMAP;
            let write = Box::new(BlkRequest::Write { offset, data: None, bytes, flags });
            return self.seq([
                BackendFrame::BlkCo { blk, request: write }.into(),
                Frame::Commit(CommitFrame::Written { job, offset, bytes }),
            ]);
        }
        let read = Box::new(BlkRequest::Read { offset, bytes });
        let blk = self.jobs[job].commit().top;
        self.seq([
            BackendFrame::BlkCo { blk, request: read }.into(),
            Frame::Commit(CommitFrame::HasRead { job, offset, bytes }),
        ])
    }

    fn commit_has_read(&mut self, job: JobId, offset: u64, bytes: u64) -> Flow {
        let data = match self.take_data() {
            Ok(data) => data,
            Err(errno) => return self.commit_error(job, offset, true, errno),
        };
        if offset > 0 && self.quirks.has(Quirk::SeededCommitDropsPiece) {
            self.job_progress_update(job, bytes);
            return self.commit_loop(job, offset + bytes);
        }
        let blk = self.jobs[job].commit().base.expect("it is given up in the end");
        let write = Box::new(BlkRequest::Write { offset, data: Some(data), bytes, flags: IoFlags::NONE });
        self.seq([
            BackendFrame::BlkCo { blk, request: write }.into(),
            Frame::Commit(CommitFrame::Written { job, offset, bytes }),
        ])
    }

    fn commit_written(&mut self, job: JobId, offset: u64, bytes: u64) -> Flow {
        if let Err(errno) = self.take_ret() {
            return self.commit_error(job, offset, false, errno);
        }
        self.job_progress_update(job, bytes);
        self.block_job_ratelimit_processed_bytes(job, bytes);
        self.commit_loop(job, offset + bytes)
    }

    /// A piece failed. To ignore it means to try it again: so a lasting error makes the job go round for ever, as in QEMU.
    fn commit_error(&mut self, job: JobId, offset: u64, is_read: bool, errno: Errno) -> Flow {
        let on_error = self.jobs[job].commit().on_error;
        match self.block_job_error_action(job, on_error, is_read, errno) {
            ErrorAction::Report => self.ret(Val::err(errno)),
            ErrorAction::Stop | ErrorAction::Ignore => self.commit_loop(job, offset),
        }
    }
}

/// The end (`commit_prepare`, `commit_abort`, `commit_clean`).
impl World {
    fn commit_unfreeze(&mut self, job: JobId) {
        let commit = self.jobs[job].commit_mut();
        let (filter, base) = (commit.commit_top_bs, commit.base_bs);
        if std::mem::take(&mut commit.chain_frozen) {
            self.graph.unfreeze_backing_chain(filter, Some(base));
        }
    }

    /// `commit_prepare`
    fn commit_prepare(&mut self, job: JobId) -> Flow {
        self.commit_unfreeze(job);
        // The one who writes to the base has to go before the usual chain can be put together.
        let base = self.jobs[job].commit_mut().base.take().expect("it is given up once");
        self.seq([BackendFrame::BlkUnref(base).into(), Frame::Commit(CommitFrame::DropIntermediate(job))])
    }

    fn commit_drop_intermediate(&mut self, job: JobId) -> Flow {
        let commit = self.jobs[job].commit();
        let (top, base, mask) = (commit.commit_top_bs, commit.base_bs, commit.backing_mask_protocol);
        let name = commit.backing_file_str.clone();
        self.bdrv_drop_intermediate(top, base, name, mask)
    }

    /// `commit_abort`: the filter goes, and the chain stays.
    fn commit_abort(&mut self, job: JobId) -> Flow {
        let filter = self.jobs[job].commit().commit_top_bs;
        self.commit_unfreeze(job);
        let commit = self.jobs[job].commit_mut();
        let (top, base) = (commit.top, commit.base.take());
        let top = self.graph.blk_bs(top).expect("the job has its nodes");
        self.bdrv_ref(top);
        // QEMU counts its reference up in freed memory where `commit_prepare` has lost it.
        if self.graph.nodes.get(filter).is_some() {
            self.bdrv_ref(filter);
        }
        self.push(Frame::Give(Box::new(Val::None)));
        self.push(GraphFrame::BdrvUnref(top).into());
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            BlockJobFrame::JobRemoveAllBdrv(job).into(),
            GraphLockFrame::GraphWrunlock.into(),
            Frame::Commit(CommitFrame::AbortDrop(job)),
        ]);
        if let Some(blk) = base {
            self.push(BackendFrame::BlkUnref(blk).into());
        }
        Flow::Go
    }

    fn commit_abort_drop(&mut self, job: JobId) -> Flow {
        let filter = self.jobs[job].commit().commit_top_bs;
        if self.graph.nodes.get(filter).is_none() {
            let subject = format!("job {}", self.jobs[job].id);
            let reason = "commit_abort: its filter is gone, commit_prepare failed behind bdrv_replace_node";
            Self::qemu_is_known_to_segfault("commit-cannot-write-its-header", subject, reason);
        }
        let below = self.graph.filter_bs(filter).expect("the filter is in place");
        self.seq([
            DrainFrame::DrainedBegin(below).into(),
            GraphLockFrame::GraphWrlockOnly.into(),
            EdgesFrame::ReplaceNode { from: filter, to: below }.into(),
            GraphLockFrame::GraphWrunlock.into(),
            DrainFrame::DrainedEnd(below).into(),
            GraphFrame::BdrvUnref(filter).into(),
        ])
    }

    /// `commit_clean`
    fn commit_clean(&mut self, job: JobId) -> Flow {
        let commit = self.jobs[job].commit();
        let (base, top, read_only) = (commit.base_bs, commit.top, commit.base_read_only);
        self.push(BackendFrame::BlkUnref(top).into());
        if read_only {
            self.push(Frame::Give(Box::new(Val::None)));
            self.push(ReopenFrame::ReopenReadOnly(base).into());
        }
        Flow::Go
    }
}
