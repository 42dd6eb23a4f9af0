//! The stream job (`block/stream.c`): fills an image with what its backing files hold, and lets go of them.

use crate::base::errno::Errno;
use crate::job::status::JobType;
use crate::qmp::error::QmpError;
use crate::qmp::types::{BlockStream, OnError};
use crate::quirk::{KnownCause, Quirk};
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{BackendId, JobId, NodeId};
use crate::world::block::backend::{BackendFrame, BlkRequest};
use crate::world::block::backing_name::BackingNameFrame;
use crate::world::block::chain::ChainFrame;
use crate::world::block::drain::DrainFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::status::{StatusFrame, StatusReq};
use crate::world::block::open::reopen::{Reopen, ReopenFrame};
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::job::block_job::ErrorAction;
use crate::world::job::hooks::{BlockJobHooks, JobDriver, JobHooks, WatchHooks};
use crate::world::job::{Job, JobFlags, JobFrame, Perms};
use crate::world::value::Val;
use crate::world::watch::chains::ChainKind;
use std::sync::Arc;

/// `STREAM_CHUNK`: the most that is copied in one go, in bytes.
const STREAM_CHUNK: u64 = 512 * 1024;
/// `basic_flags`: what the job leaves to others on the nodes below.
const BASIC_FLAGS: u8 = perm::CONSISTENT_READ | perm::WRITE_UNCHANGED;

/// `StreamBlockJob`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamJob {
    /// Its backend on the filter, to read through.
    blk: Option<BackendId>,
    /// The lowest overlay whose data is copied.
    base_overlay: NodeId,
    /// The node right above the base.
    above_base: NodeId,
    /// The filter, until it is dropped.
    cor_filter: Option<NodeId>,
    /// The node that is filled.
    target: NodeId,
    on_error: OnError,
    backing_file: Option<Arc<str>>,
    backing_mask_protocol: bool,
    /// The target was read-only before.
    was_read_only: bool,
}

/// A job that is being started.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamStart {
    flags: JobFlags,
    filter_node_name: Option<Arc<str>>,
    state: StreamJob,
}

/// The locals of `stream_run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamRun {
    job: JobId,
    len: u64,
    offset: u64,
    /// The run of bytes that is looked at.
    n: u64,
    /// What the first request that failed gave; the job goes on and ends with it.
    error: Option<Errno>,
}

/// The locals of `stream_prepare`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamEnd {
    job: JobId,
    /// `unfiltered_bs`
    bs: NodeId,
    /// `unfiltered_bs_cow`: its backing node so far.
    cow: NodeId,
    /// `base`: what becomes the backing file; `None` if nothing does.
    base: Option<NodeId>,
    /// `base_id`
    file: Option<Arc<str>>,
    /// `base_fmt`
    format: Option<Arc<str>>,
}

/// Where the functions of this file are interrupted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum StreamFrame {
    Reopened(Box<StreamStart>),
    Inserted(Box<StreamStart>),
    CreateJob(Box<StreamStart>),
    Attached(JobId, BackendId),
    AddNodes(JobId),
    NodesAdded(JobId),
    Run(JobId),
    Loop(StreamRun),
    Slept(StreamRun),
    Allocated(StreamRun),
    AllocatedAbove(StreamRun),
    Populated(StreamRun),
    FilterDropped(JobId, NodeId, Option<NodeId>),
    DrainCow(NodeId),
    Drained(JobId, NodeId, NodeId),
    SetBacking(Box<StreamEnd>),
    BackingSet(Box<StreamEnd>),
    HeaderWritten(Box<StreamEnd>, Option<Box<QmpError>>),
    ReadOnlyAgain(NodeId),
}

impl StreamFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            StreamFrame::Reopened(start) => w.stream_reopened(start),
            StreamFrame::Inserted(start) => w.stream_inserted(start),
            StreamFrame::CreateJob(start) => w.stream_create_job(*start),
            StreamFrame::Attached(job, blk) => w.stream_attached(job, blk),
            StreamFrame::AddNodes(job) => w.stream_add_nodes(job),
            StreamFrame::NodesAdded(job) => w.stream_nodes_added(job),
            StreamFrame::Run(job) => w.stream_run_locked(job),
            StreamFrame::Loop(run) => w.stream_loop(run),
            StreamFrame::Slept(run) => w.stream_slept(run),
            StreamFrame::Allocated(run) => w.stream_allocated(run),
            StreamFrame::AllocatedAbove(run) => w.stream_allocated_above(run),
            StreamFrame::Populated(run) => w.stream_populated(run),
            StreamFrame::FilterDropped(job, bs, cow) => w.stream_filter_dropped(job, bs, cow),
            StreamFrame::DrainCow(cow) => {
                w.bdrv_ref(cow);
                w.seq([DrainFrame::DrainedBegin(cow).into()])
            }
            StreamFrame::Drained(job, bs, cow) => w.stream_drained(job, bs, cow),
            StreamFrame::SetBacking(end) => w.stream_set_backing(&end),
            StreamFrame::BackingSet(end) => w.stream_backing_set(end),
            StreamFrame::HeaderWritten(end, err) => w.stream_header_written(end, err),
            StreamFrame::ReadOnlyAgain(target) => {
                let reopen = Reopen::set_read_only(w, target, true);
                w.seq([ReopenFrame::Reopen(Box::new(reopen)).into()])
            }
        }
    }
}

/// `stream_job_driver`
pub(in crate::world) const HOOKS: JobHooks = JobHooks {
    job_type: JobType::Stream,
    run: World::stream_run,
    pause: None,
    resume: None,
    user_resume: Some(World::block_job_user_resume),
    complete: None,
    prepare: Some(World::stream_prepare),
    commit: None,
    abort: None,
    clean: Some(World::stream_clean),
    cancel: None,
    block: Some(BlockJobHooks { drained_poll: None, set_speed: None, change: None, query: None }),
    watch: WatchHooks { may_rest: None, bitmap: None, target: None },
};

impl Job {
    /// The stream driver's state.
    fn stream(&self) -> &StreamJob {
        match &self.driver {
            JobDriver::Stream(s) => s,
            other => panic!("not a stream job: {other:?}"),
        }
    }

    fn stream_mut(&mut self) -> &mut StreamJob {
        match &mut self.driver {
            JobDriver::Stream(s) => s,
            other => panic!("not a stream job: {other:?}"),
        }
    }
}

impl World {
    /// `stream_start`, up to where the target is made writable.
    pub(in crate::world) fn stream_start_checks(
        &self,
        args: &BlockStream,
        bs: NodeId,
        base: Option<NodeId>,
        bottom: Option<NodeId>,
    ) -> Result<Box<StreamStart>, QmpError> {
        let g = &self.graph;
        let (base_overlay, above_base) = match bottom {
            Some(bottom) => (bottom, bottom),
            None => {
                let overlay = g.find_overlay(bs, base).ok_or_else(|| {
                    let [base, bs] = [base.unwrap_or(bs), bs].map(|node| &g.nodes[node].node_name);
                    QmpError::generic(format!("'{base}' is not in the backing chain of '{bs}'"))
                })?;
                // Between the overlay and the base are only filters.
                let mut above = overlay;
                if g.cow_bs(above) != base {
                    above = g.cow_bs(above).expect("it is the overlay of something");
                    while g.filter_bs(above) != base {
                        above = g.filter_bs(above).expect("only filters are between");
                    }
                }
                (overlay, above)
            }
        };
        Ok(Box::new(StreamStart {
            flags: JobFlags {
                id: args.job_id.clone(),
                auto_finalize: args.auto_finalize.unwrap_or(true),
                auto_dismiss: args.auto_dismiss.unwrap_or(true),
                speed: args.speed.unwrap_or(0),
            },
            filter_node_name: args.filter_node_name.clone(),
            state: StreamJob {
                blk: None,
                base_overlay,
                above_base,
                cor_filter: None,
                target: bs,
                on_error: args.on_error.unwrap_or(OnError::Report),
                backing_file: args.backing_file.clone(),
                backing_mask_protocol: args.backing_mask_protocol.unwrap_or(false),
                was_read_only: !g.nodes[bs].flags.rdwr,
            },
        }))
    }

    /// `stream_start`: a target that is read-only is made writable; meanwhile the chain is held.
    pub(in crate::world) fn stream_start(&mut self, start: Box<StreamStart>) -> Flow {
        let s = &start.state;
        if !s.was_read_only {
            return self.stream_append(start);
        }
        let (bs, above_base) = (s.target, s.above_base);
        if let Err(err) = self.graph.freeze_backing_chain(bs, Some(above_base)) {
            return self.ret(Val::Done(Err(err)));
        }
        let reopen = Reopen::set_read_only(self, bs, false);
        self.seq([ReopenFrame::Reopen(Box::new(reopen)).into(), StreamFrame::Reopened(start).into()])
    }

    /// `stream_start`, after `bdrv_reopen_set_read_only`.
    fn stream_reopened(&mut self, start: Box<StreamStart>) -> Flow {
        self.graph.unfreeze_backing_chain(start.state.target, Some(start.state.above_base));
        match self.take_done() {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(()) => self.stream_append(start),
        }
    }

    /// `stream_start`: the filter is opened and put above the target (`bdrv_insert_node`).
    fn stream_append(&mut self, start: Box<StreamStart>) -> Flow {
        let (below, bottom) = (start.state.target, start.state.base_overlay);
        let name = start.filter_node_name.clone();
        self.push(StreamFrame::Inserted(start).into());
        self.cor_insert(below, bottom, name.as_deref())
    }

    /// `stream_start`, after `bdrv_insert_node`.
    fn stream_inserted(&mut self, mut start: Box<StreamStart>) -> Flow {
        let Val::Node(inserted) = self.take_val() else { unreachable!("a node or an error") };
        match inserted {
            Err(err) => {
                let failed = self.stream_failed(&start.state, None, err);
                self.push_all(failed);
                Flow::Go
            }
            Ok(cor) => {
                self.graph.nodes[cor].implicit = start.filter_node_name.is_none();
                start.state.cor_filter = Some(cor);
                self.seq([GraphLockFrame::GraphWrlock.into(), StreamFrame::CreateJob(start).into()])
            }
        }
    }

    /// `stream_start`: the job, between lock and unlock of `block_job_create`; then its backend.
    fn stream_create_job(&mut self, start: StreamStart) -> Flow {
        let cor = start.state.cor_filter.expect("it was inserted");
        match self.block_job_create(&start.flags, JobType::Stream, None, cor, Perms::NONE) {
            Err((err, job)) => {
                let failed = self.stream_failed(&start.state, job, err);
                self.push_all(failed);
                self.seq([GraphLockFrame::GraphWrunlock.into()])
            }
            Ok(job) => {
                self.jobs[job].driver = JobDriver::Stream(Box::new(start.state));
                let blk = self.blk_new("".into(), perm::CONSISTENT_READ, BASIC_FLAGS | perm::WRITE);
                self.seq([
                    GraphLockFrame::GraphWrunlock.into(),
                    BackendFrame::BlkInsertBs(blk, cor).into(),
                    StreamFrame::Attached(job, blk).into(),
                ])
            }
        }
    }

    /// `stream_start`, after `blk_new_with_bs`.
    fn stream_attached(&mut self, job: JobId, blk: BackendId) -> Flow {
        match self.take_done() {
            Err(err) => {
                self.graph.backends.remove(blk);
                let failed = self.stream_failed(&self.jobs[job].stream().clone(), Some(job), err);
                self.push_all(failed);
                Flow::Go
            }
            Ok(()) => {
                self.graph.backends[blk].disable_request_queuing = true;
                self.jobs[job].stream_mut().blk = Some(blk);
                self.seq([
                    GraphLockFrame::GraphWrlock.into(),
                    StreamFrame::AddNodes(job).into(),
                    Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
                    StreamFrame::NodesAdded(job).into(),
                ])
            }
        }
    }

    /// `stream_start`: edges to the target and to what disappears from the chain, with the graph locked.
    fn stream_add_nodes(&mut self, job: JobId) -> Flow {
        let s = self.jobs[job].stream();
        let (bs, above_base) = (s.target, s.above_base);
        let active = Perms { perm: 0, shared: BASIC_FLAGS | perm::WRITE };
        let mut done = self.block_job_add_bdrv(job, "active node", bs, active);
        let base = self.graph.filter_or_cow_bs(above_base);
        let mut iter = self.graph.filter_or_cow_bs(bs);
        while let Some(node) = iter.filter(|node| Some(*node) != base && done.is_ok()) {
            let below = Perms { perm: 0, shared: BASIC_FLAGS };
            done = self.block_job_add_bdrv(job, "intermediate node", node, below);
            iter = self.graph.filter_or_cow_bs(node);
        }
        self.ret(Val::Done(done))
    }

    /// The end of `stream_start`.
    fn stream_nodes_added(&mut self, job: JobId) -> Flow {
        match self.take_done() {
            Ok(()) => {
                let (target, read_only) = (self.jobs[job].stream().target, self.jobs[job].stream().was_read_only);
                self.see_chain_begins(job, ChainKind::Stream, target, None, true, read_only.then_some(target));
                self.seq([JobFrame::JobStart(job).into(), Frame::Give(Box::new(Val::Done(Ok(()))))])
            }
            Err(err) => {
                // QEMU forgets the job's backend: it stays on the target, unnamed.
                let failed = self.stream_failed(&self.jobs[job].stream().clone(), Some(job), err);
                self.push_all(failed);
                Flow::Go
            }
        }
    }

    /// `stream_start`, label `fail`: all is taken back. The last frame leaves the error.
    fn stream_failed(&self, s: &StreamJob, job: Option<JobId>, err: QmpError) -> Vec<Frame> {
        let mut frames = Vec::new();
        frames.extend(job.map(|job| JobFrame::JobEarlyFail(job).into()));
        frames.extend(s.cor_filter.map(|filter| ChainFrame::FilterDrop(filter).into()));
        if s.was_read_only {
            frames.push(ReopenFrame::Reopen(Box::new(Reopen::set_read_only(self, s.target, true))).into());
        }
        frames.push(Frame::Give(Box::new(Val::Done(Err(err)))));
        frames
    }

    /// `stream_run`
    fn stream_run(&mut self, job: JobId) -> Flow {
        self.seq([GraphLockFrame::Rdlock.into(), StreamFrame::Run(job).into()])
    }

    /// `stream_run`: how much there is to do, with the graph locked.
    fn stream_run_locked(&mut self, job: JobId) -> Flow {
        let s = self.jobs[job].stream();
        if self.graph.skip_filters(s.target) == s.base_overlay {
            return self.seq([GraphLockFrame::Rdunlock.into(), Frame::Give(Box::new(Val::Ret(Ok(()))))]);
        }
        let (len, below) = (self.bdrv_getlength(s.target), self.graph.cow_bs(self.graph.skip_filters(s.target)));
        let below = below.map(|below| self.bdrv_getlength(below));
        self.job_progress_set_remaining(job, len);
        // What the first image below hides of its backing files, as it is shorter, is not copied.
        if let Some(short) = below.filter(|below| *below < len) {
            self.see_excuse(job, KnownCause::Page("stream-past-a-shorter-image"), Some((short, u64::MAX)));
        }
        let run = StreamRun { job, len, offset: 0, n: 0, error: None };
        self.seq([GraphLockFrame::Rdunlock.into(), StreamFrame::Loop(run).into()])
    }

    /// The loop of `stream_run`: sleeps before each run of bytes, at least for a turn of the loop.
    fn stream_loop(&mut self, mut run: StreamRun) -> Flow {
        run.offset += std::mem::take(&mut run.n);
        if run.offset >= run.len {
            return self.stream_ran(run);
        }
        self.push(StreamFrame::Slept(run).into());
        self.block_job_ratelimit_sleep(run.job)
    }

    /// The end of `stream_run`. An error that was ignored is one all the same.
    fn stream_ran(&mut self, run: StreamRun) -> Flow {
        self.ret(Val::Ret(run.error.map_or(Ok(()), Err)))
    }

    /// `stream_run`: is it in the target?
    fn stream_slept(&mut self, run: StreamRun) -> Flow {
        if self.job_is_cancelled(run.job) {
            return self.stream_ran(run);
        }
        let node = self.graph.skip_filters(self.jobs[run.job].stream().target);
        self.seq([
            GraphLockFrame::Rdlock.into(),
            StatusFrame::Status { node, offset: run.offset, bytes: STREAM_CHUNK, want_zero: false }.into(),
            StreamFrame::Allocated(run).into(),
        ])
    }

    /// `stream_run`: if not, is it in one of the images below?
    fn stream_allocated(&mut self, mut run: StreamRun) -> Flow {
        let s = self.jobs[run.job].stream();
        let (target, overlay) = (s.target, s.base_overlay);
        match self.take_allocated() {
            Err(errno) => {
                self.aio.readers -= 1;
                self.stream_chunk_done(run, Err(errno), false)
            }
            Ok((true, n)) => {
                self.aio.readers -= 1;
                run.n = n;
                self.stream_chunk_done(run, Ok(()), false)
            }
            Ok((false, n)) => {
                let cow = self.graph.cow_bs(self.graph.skip_filters(target)).expect("the filter holds the chain");
                let status = StatusReq::new(cow, self.graph.filter_or_cow_bs(overlay), run.offset, n, false);
                self.seq([StatusFrame::StatusAbove(status).into(), StreamFrame::AllocatedAbove(run).into()])
            }
        }
    }

    /// `stream_run`: then it is copied, by reading it through the filter (`stream_populate`).
    fn stream_allocated_above(&mut self, mut run: StreamRun) -> Flow {
        self.aio.readers -= 1;
        match self.take_allocated() {
            Err(errno) => self.stream_chunk_done(run, Err(errno), false),
            Ok((false, n)) => {
                // The backing files end here.
                run.n = if n == 0 { run.len - run.offset } else { n };
                self.stream_chunk_done(run, Ok(()), false)
            }
            Ok((true, n)) if run.offset > 0 && self.quirks.has(Quirk::SeededStreamDropsPiece) => {
                run.n = n;
                self.stream_chunk_done(run, Ok(()), false)
            }
            Ok((true, n)) => {
                run.n = n;
                let blk = self.jobs[run.job].stream().blk.expect("the job runs");
                let request = Box::new(BlkRequest::Prefetch { offset: run.offset, bytes: n });
                self.seq([BackendFrame::BlkCo { blk, request }.into(), StreamFrame::Populated(run).into()])
            }
        }
    }

    /// `stream_run`, after `stream_populate`.
    fn stream_populated(&mut self, run: StreamRun) -> Flow {
        let ret = match self.take_val() {
            Val::Data(data) => data.map(drop),
            Val::Ret(ret) => ret,
            other => unreachable!("a read ends with {other:?}"),
        };
        self.stream_chunk_done(run, ret, true)
    }

    /// `stream_run`: errors and progress.
    fn stream_chunk_done(&mut self, mut run: StreamRun, ret: Result<(), Errno>, copied: bool) -> Flow {
        let job = run.job;
        if let Err(errno) = ret {
            let on_error = self.jobs[job].stream().on_error;
            let action = self.block_job_error_action(job, on_error, true, errno);
            if action == ErrorAction::Stop {
                run.n = 0;
                return self.seq([StreamFrame::Loop(run).into()]);
            }
            run.error.get_or_insert(errno);
            if action == ErrorAction::Report {
                return self.stream_ran(run);
            }
        }
        self.job_progress_update(job, run.n);
        if copied {
            self.block_job_ratelimit_processed_bytes(job, run.n);
        }
        self.seq([StreamFrame::Loop(run).into()])
    }

    /// `stream_prepare`: the filter goes first, as it holds the chain.
    fn stream_prepare(&mut self, job: JobId) -> Flow {
        let s = self.jobs[job].stream_mut();
        let (target, cor) = (s.target, s.cor_filter.take().expect("the filter is in place"));
        let bs = self.graph.skip_filters(target);
        let cow = self.graph.cow_bs(bs);
        self.seq([ChainFrame::FilterDrop(cor).into(), StreamFrame::FilterDropped(job, bs, cow).into()])
    }

    /// `stream_prepare`: drains both ends of the link now, as polling might change the graph.
    fn stream_filter_dropped(&mut self, job: JobId, bs: NodeId, cow: Option<NodeId>) -> Flow {
        let Some(cow) = cow else {
            // There is nothing below to let go of.
            return self.seq([
                DrainFrame::DrainedBegin(bs).into(),
                DrainFrame::DrainedEnd(bs).into(),
                Frame::Give(Box::new(Val::Ret(Ok(())))),
            ]);
        };
        self.push(StreamFrame::Drained(job, bs, cow).into());
        self.seq([DrainFrame::DrainedBegin(bs).into(), StreamFrame::DrainCow(cow).into()])
    }

    /// `stream_prepare`: the base that counts is the one that is below now.
    fn stream_drained(&mut self, job: JobId, bs: NodeId, cow: NodeId) -> Flow {
        let s = self.jobs[job].stream();
        let base = self.graph.filter_or_cow_bs(s.above_base);
        let (mut file, mut format) = (None, None);
        if let Some(unfiltered) = base.map(|base| self.graph.skip_filters(base)) {
            file = Some(s.backing_file.clone().unwrap_or_else(|| self.filename_of(unfiltered)));
            format = self.graph.nodes[unfiltered].driver.as_ref().map(|driver| {
                let masked = s.backing_mask_protocol && driver.has_protocol_name();
                if masked { "raw" } else { driver.format_name() }.into()
            });
        }
        let end = Box::new(StreamEnd { job, bs, cow, base, file, format });
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            StreamFrame::SetBacking(end.clone()).into(),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
            StreamFrame::BackingSet(end).into(),
            Frame::KeepOver(Box::new(DrainFrame::DrainedEnd(cow).into())),
            Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(cow).into())),
            Frame::KeepOver(Box::new(DrainFrame::DrainedEnd(bs).into())),
        ])
    }

    /// `stream_prepare`: the change of the graph, which is locked.
    fn stream_set_backing(&mut self, end: &StreamEnd) -> Flow {
        let done = self.set_backing_hd_drained(end.bs, end.base);
        self.ret(Val::Done(done))
    }

    /// `stream_prepare`: the header, whatever came of the change of the graph.
    fn stream_backing_set(&mut self, end: Box<StreamEnd>) -> Flow {
        let err = self.take_done().err().map(Box::new);
        let (node, file, format) = (end.bs, end.file.clone(), end.format.clone());
        self.seq([
            BackingNameFrame::ChangeBackingFile { node, file, format }.into(),
            StreamFrame::HeaderWritten(end, err).into(),
        ])
    }

    /// The end of `stream_prepare`. Leaves `Val::Ret`: where the header could not be written, the graph is changed all the same.
    fn stream_header_written(&mut self, mut end: Box<StreamEnd>, err: Option<Box<QmpError>>) -> Flow {
        if let Some(err) = err {
            self.console_error(&err.desc);
            return self.ret(Val::err(Errno::EPERM));
        }
        let Val::Ret(Err(errno)) = *self.peek() else { return Flow::Go };
        if self.quirks.has(Quirk::StreamHalfDone) {
            self.see_excuse(end.job, Quirk::StreamHalfDone, None);
            return Flow::Go;
        }
        end.base = Some(end.cow);
        self.leave(Val::None);
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            StreamFrame::SetBacking(end).into(),
            GraphLockFrame::GraphWrunlock.into(),
            Frame::Give(Box::new(Val::err(errno))),
        ])
    }

    /// `stream_clean`
    fn stream_clean(&mut self, job: JobId) -> Flow {
        let s = self.jobs[job].stream_mut();
        let (cor, blk, target, was_read_only) = (s.cor_filter.take(), s.blk.take(), s.target, s.was_read_only);
        if was_read_only && !self.quirks.since(Change::StreamLeavesWritable) {
            self.push(StreamFrame::ReadOnlyAgain(target).into());
        }
        if let Some(blk) = blk {
            self.push(BackendFrame::BlkUnref(blk).into());
        }
        if let Some(filter) = cor {
            self.push(ChainFrame::FilterDrop(filter).into());
        }
        Flow::Go
    }
}
