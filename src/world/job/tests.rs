//! A job of tests: it uses every hook that a job can have, and puts a filter of tests, over `backing`, above its source.
//!
//! It reads its source piece by piece with a sleep after each, becomes READY, and ends when its user completes or softly cancels it.

use super::block_job::{BlockJobFrame, ErrorAction};
use super::hooks::{BlockJobHooks, JobDriver, JobHooks, WatchHooks};
use super::{Job, JobFlags, JobFrame, Perms};
use crate::base::Json;
use crate::base::errno::Errno;
use crate::job::status::{JobStatus, JobType};
use crate::qmp::error::QmpError;
use crate::qmp::types::{BlockJobChange, OnError};
use crate::world::World;
use crate::world::arena::{JobId, NodeId, TxnId};
use crate::world::block::chain::ChainFrame;
use crate::world::block::driver::Driver;
use crate::world::block::edges::{EdgesFrame, Role};
use crate::world::block::graph::{Node, OpenFlags};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::IoFrame;
use crate::world::block::io::request::IoFlags;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// Bytes that it reads at a time.
pub const PIECE: u64 = 64 * 1024;

/// What a test wants of such a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TestJobArgs {
    /// ID and flags.
    pub flags: JobFlags,
    /// The node that it reads.
    pub source: NodeId,
    /// `PIECE` bytes each, read in turn.
    pub pieces: u64,
    /// What happens after an error.
    pub on_error: OnError,
    /// `prepare` fails.
    pub fails_to_prepare: bool,
    /// `job->txn`; `None`: one of its own.
    pub txn: Option<TxnId>,
}

/// The state of a job of tests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TestJob {
    args: TestJobArgs,
    filter: NodeId,
    done: u64,
    in_flight: bool,
    completing: bool,
    /// The hooks that were called, in order.
    pub called: Vec<&'static str>,
}

pub(in crate::world) const HOOKS: JobHooks = JobHooks {
    job_type: JobType::Mirror,
    run: |w, job| {
        w.note_hook(job, "run");
        let pieces = w.test_job(job).args.pieces;
        w.job_progress_set_remaining(job, pieces * PIECE);
        w.seq([TestJobFrame::Loop(job).into()])
    },
    pause: Some(|w, job| w.hook_called(job, "pause")),
    resume: Some(|w, job| w.hook_called(job, "resume")),
    user_resume: Some(|w, job| {
        w.note_hook(job, "user_resume");
        w.block_job_user_resume(job);
    }),
    complete: Some(|w, job| {
        w.note_hook(job, "complete");
        w.test_job(job).completing = true;
        w.job_enter(job);
        w.ret(Val::Done(Ok(())))
    }),
    prepare: Some(|w, job| {
        w.note_hook(job, "prepare");
        let fails = w.test_job(job).args.fails_to_prepare;
        w.ret(Val::Ret(if fails { Err(Errno::ENOSPC) } else { Ok(()) }))
    }),
    commit: Some(|w, job| w.hook_called(job, "commit")),
    abort: Some(|w, job| w.hook_called(job, "abort")),
    clean: Some(|w, job| {
        w.note_hook(job, "clean");
        let filter = w.test_job(job).filter;
        w.seq([
            GraphLockFrame::GraphWrlock.into(),
            BlockJobFrame::JobRemoveAllBdrv(job).into(),
            GraphLockFrame::GraphWrunlock.into(),
            ChainFrame::FilterDrop(filter).into(),
        ])
    }),
    cancel: Some(|w, job, force| {
        w.note_hook(job, "cancel");
        force || !matches!(w.jobs[job].status, JobStatus::Ready | JobStatus::Standby)
    }),
    block: Some(BlockJobHooks {
        drained_poll: Some(|w, job| {
            let (j, JobDriver::Test(test)) = (&w.jobs[job], &w.jobs[job].driver) else { panic!("a job of tests") };
            test.in_flight || (!j.paused && !j.force_cancel)
        }),
        set_speed: Some(|w, job, _| w.note_hook(job, "set_speed")),
        change: Some(|w, job, change| w.test_changed(job, change)),
        query: Some(|w, job| match &w.jobs[job].driver {
            JobDriver::Test(test) => vec![("actively-synced", Json::Bool(test.done == test.args.pieces))],
            other => panic!("a job of tests, not {other:?}"),
        }),
    }),
    watch: WatchHooks {
        may_rest: Some(|job: &Job| matches!(&job.driver, JobDriver::Test(test) if test.done == test.args.pieces)),
        bitmap: Some(|_, _| None),
        target: Some(|_, _| None),
    },
};

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum TestJobFrame {
    Start(Box<TestJobArgs>),
    Create(Box<TestJobArgs>),
    Loop(JobId),
    Read(JobId),
}

impl TestJobFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            TestJobFrame::Start(args) => w.test_job_start(args),
            TestJobFrame::Create(args) => w.test_job_create(*args),
            TestJobFrame::Loop(job) => w.test_job_loop(job),
            TestJobFrame::Read(job) => w.test_job_read(job),
        }
    }
}

impl World {
    /// The state of a job of tests, to be changed.
    pub fn test_job(&mut self, job: JobId) -> &mut TestJob {
        match &mut self.jobs[job].driver {
            JobDriver::Test(test) => test,
            other => panic!("a job of tests, not {other:?}"),
        }
    }

    fn note_hook(&mut self, job: JobId, hook: &'static str) {
        self.test_job(job).called.push(hook);
    }

    fn hook_called(&mut self, job: JobId, hook: &'static str) -> Flow {
        self.note_hook(job, hook);
        Flow::Go
    }

    /// Puts the filter in place.
    fn test_job_start(&mut self, args: Box<TestJobArgs>) -> Flow {
        let source = args.source;
        let mut node = Node::new();
        node.flags = OpenFlags { rdwr: true, ..OpenFlags::default() };
        node.size = self.bdrv_getlength(source);
        node.implicit = true;
        node.driver = Some(Driver::TestFilter);
        let filter = self.bdrv_new(node);
        self.assign_node_name(filter, None).expect("a name of its own");
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            EdgesFrame::AttachToNode { parent: filter, name: "backing", role: Role::Filtered, bs: source }.into(),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
            ChainFrame::InsertNode { node: filter, below: source }.into(),
            Frame::if_ok([GraphLockFrame::GraphWrlock.into(), TestJobFrame::Create(args).into()]),
        ])
    }

    /// The job itself, over its filter.
    fn test_job_create(&mut self, args: TestJobArgs) -> Flow {
        let parent = self.graph.nodes[args.source].parents[0];
        let crate::world::block::edges::Parent::Node(filter) = self.graph.children[parent].parent else {
            panic!("the filter stands above the source")
        };
        let job = self
            .block_job_create(&args.flags, JobType::Mirror, args.txn, filter, Perms::NONE)
            .expect("a test gives an ID that is free");
        self.graph.freeze_backing_chain(filter, Some(args.source)).expect("nobody else freezes the link");
        self.graph.unfreeze_backing_chain(filter, Some(args.source));
        let test = TestJob { args, filter, done: 0, in_flight: false, completing: false, called: Vec::new() };
        self.jobs[job].driver = JobDriver::Test(Box::new(test));
        self.seq([GraphLockFrame::GraphWrunlock.into(), JobFrame::JobStart(job).into()])
    }

    /// A piece, or the end.
    fn test_job_loop(&mut self, job: JobId) -> Flow {
        if self.job_is_cancelled(job) {
            return self.ret(Val::Ret(Ok(())));
        }
        let test = self.test_job(job);
        if test.done < test.args.pieces {
            test.in_flight = true;
            let (node, offset) = (test.args.source, test.done * PIECE);
            return self.seq([
                IoFrame::Preadv { node, offset, bytes: PIECE, flags: IoFlags::NONE }.into(),
                TestJobFrame::Read(job).into(),
            ]);
        }
        let ends = test.completing;
        if self.jobs[job].status == JobStatus::Running {
            self.job_transition_to_ready(job);
        }
        if ends || self.jobs[job].cancelled {
            return self.ret(Val::Ret(Ok(())));
        }
        self.seq([JobFrame::JobYield(job).into(), TestJobFrame::Loop(job).into()])
    }

    fn test_job_read(&mut self, job: JobId) -> Flow {
        self.test_job(job).in_flight = false;
        if let Err(errno) = self.take_data() {
            let on_error = self.test_job(job).args.on_error;
            match self.block_job_error_action(job, on_error, true, errno) {
                ErrorAction::Report => return self.ret(Val::err(errno)),
                ErrorAction::Stop => {
                    return self.seq([JobFrame::JobPausePoint(job).into(), TestJobFrame::Loop(job).into()]);
                }
                ErrorAction::Ignore => {}
            }
        }
        self.test_job(job).done += 1;
        self.jobs[job].progress_current += PIECE;
        self.block_job_ratelimit_processed_bytes(job, PIECE);
        self.push(TestJobFrame::Loop(job).into());
        self.block_job_ratelimit_sleep(job)
    }

    /// `block-job-change`: one piece more.
    fn test_changed(&mut self, job: JobId, _change: &BlockJobChange) -> Result<(), QmpError> {
        self.note_hook(job, "change");
        let test = self.test_job(job);
        if test.done == test.args.pieces {
            return Err(QmpError::generic("all is read"));
        }
        test.args.pieces += 1;
        self.job_progress_increase_remaining(job, PIECE);
        Ok(())
    }
}

/// A process with one node `disk` of 16 pieces, which fails once where `fails` says so, and its client; all invariants are watched.
struct Bench {
    world: World,
    check: crate::check::Checker,
    choose: crate::choice::Chooser,
    client: u32,
    told: Vec<String>,
}

impl Bench {
    fn new(seed: Option<u64>, fails: bool) -> Bench {
        use crate::choice::{Chooser, Walk};
        let mut world = World::new(crate::host::HostFiles::new());
        let inject = r#","inject-error":[{"event":"none","iotype":"read","errno":5,"sector":256,"once":true}]"#;
        let disk = format!(
            r#"{{"driver":"blkdebug","node-name":"disk","image":{{"driver":"null-aio","size":{},"read-zeroes":true}}{}}}"#,
            16 * PIECE,
            if fails { inject } else { "" }
        );
        let args: [Arc<str>; 2] = ["-blockdev".into(), disk.into()];
        world.boot(&args).expect("the process starts");
        let check = crate::check::Checker::watching(&mut world);
        let choose = seed.map_or(Chooser::Calm, |seed| Chooser::Walk(Box::new(Walk::new(seed))));
        let client = world.connect(true);
        Bench { world, check, choose, client, told: Vec::new() }
    }

    /// Starts a job of six pieces.
    fn start(&mut self, id: &str, speed: i64, change: impl FnOnce(&mut TestJobArgs)) -> JobId {
        let flags = JobFlags { id: Some(id.into()), auto_finalize: true, auto_dismiss: false, speed };
        let source = self.world.graph.find_node("disk").expect("booted with it");
        let on_error = OnError::Report;
        let mut args = TestJobArgs { flags, source, pieces: 6, on_error, fails_to_prepare: false, txn: None };
        change(&mut args);
        self.world.push(TestJobFrame::Start(Box::new(args)).into());
        self.until(|bench| bench.world.jobs.find(id).is_some_and(|job| bench.world.jobs[job].co.is_some()));
        self.world.jobs.find(id).expect("just started")
    }

    /// Steps until it holds.
    fn until(&mut self, mut holds: impl FnMut(&mut Bench) -> bool) {
        for _ in 0..100_000 {
            if holds(self) {
                return;
            }
            let stepped = self.world.step(&mut self.choose);
            self.check.step(&mut self.world).unwrap_or_else(|broken| panic!("{broken}\n{}", self.told.join("\n")));
            while let Some(output) = self.world.out.pop_front() {
                self.told.push(match output {
                    crate::world::out::Output::Event { event, .. } => format!("{} {:?}", event.name(), event.data()),
                    other => format!("{other:?}"),
                });
            }
            if stepped == crate::world::aio::Stepped::Idle {
                self.check.end(&self.world).unwrap_or_else(|broken| panic!("{broken}\n{}", self.told.join("\n")));
                assert!(holds(self), "it comes to rest before:\n{}", self.told.join("\n"));
                return;
            }
        }
        panic!("it does not come to an end:\n{}", self.told.join("\n"));
    }

    fn until_status(&mut self, job: JobId, status: JobStatus) {
        self.until(|bench| bench.world.jobs.get(job).is_some_and(|j| j.status == status));
    }

    /// Sends a command and waits for its reply.
    fn command(&mut self, text: &str) -> String {
        let request = crate::qmp::json::parse_one(text).expect("JSON");
        self.world.submit(self.client, request);
        let from = self.told.len();
        let reply =
            |bench: &Bench| bench.told[from..].iter().position(|told| told.starts_with("Reply")).map(|i| i + from);
        self.until(|bench| reply(bench).is_some());
        self.told[reply(self).expect("just found")].clone()
    }

    fn well(&mut self, text: &str) {
        let reply = self.command(text);
        assert!(!reply.contains("\"error\""), "{text}: {reply}");
    }

    fn events(&self, name: &str) -> usize {
        self.told.iter().filter(|told| told.starts_with(name)).count()
    }

    fn called(&mut self, job: JobId, hook: &str) -> usize {
        self.world.test_job(job).called.iter().filter(|called| **called == hook).count()
    }

    /// Dismisses a job that is concluded; then nothing may be left but the node.
    fn dismiss(mut self, jobs: &[&str]) {
        for id in jobs {
            self.well(&format!(r#"{{"execute":"job-dismiss","arguments":{{"id":"{id}"}}}}"#));
        }
        self.until(|bench| bench.world.at_rest() && bench.world.next_deadline().is_none());
        self.check.end(&self.world).expect("nothing is left");
        assert_eq!(self.world.graph.nodes.iter().count(), 2, "the filter is gone");
    }
}

/// Calm, and under seeds.
fn schedules() -> impl Iterator<Item = Option<u64>> {
    std::iter::once(None).chain((0..24).map(Some))
}

#[test]
fn a_job_sleeps_becomes_ready_and_is_completed() {
    for seed in schedules() {
        let mut bench = Bench::new(seed, false);
        let job = bench.start("j", 1 << 20, |_| {});
        bench.well(r#"{"execute":"block-job-change","arguments":{"id":"j","type":"mirror","copy-mode":"background"}}"#);
        bench.well(r#"{"execute":"job-pause","arguments":{"id":"j"}}"#);
        bench.until_status(job, JobStatus::Paused);
        bench.well(r#"{"execute":"job-resume","arguments":{"id":"j"}}"#);
        let refused = bench.command(r#"{"execute":"job-complete","arguments":{"id":"j"}}"#);
        assert!(refused.contains("cannot accept command verb 'complete'"), "{refused}");
        bench.well(r#"{"execute":"block-job-set-speed","arguments":{"device":"j","speed":0}}"#);
        bench.until_status(job, JobStatus::Ready);
        let shown = bench.command(r#"{"execute":"query-block-jobs"}"#);
        assert!(shown.contains("actively-synced"), "{shown}");
        bench.well(r#"{"execute":"job-complete","arguments":{"id":"j"}}"#);
        bench.until_status(job, JobStatus::Concluded);
        let hooks = [("run", 1), ("change", 1), ("set_speed", 1), ("user_resume", 1), ("complete", 1), ("prepare", 1)];
        for (hook, times) in hooks.into_iter().chain([("commit", 1), ("clean", 1), ("abort", 0), ("cancel", 0)]) {
            assert_eq!(bench.called(job, hook), times, "{hook}, seed {seed:?}");
        }
        assert!(bench.called(job, "pause") >= 1 && bench.called(job, "pause") == bench.called(job, "resume"));
        assert_eq!((bench.events("BLOCK_JOB_READY"), bench.events("BLOCK_JOB_COMPLETED")), (1, 1));
        bench.dismiss(&["j"]);
    }
}

#[test]
fn a_soft_cancel_ends_a_ready_job_well_and_one_before_by_force() {
    for seed in schedules() {
        let cancel = r#"{"execute":"block-job-cancel","arguments":{"device":"j"}}"#;
        let mut bench = Bench::new(seed, false);
        let job = bench.start("j", 0, |_| {});
        bench.until_status(job, JobStatus::Ready);
        bench.well(cancel);
        bench.until_status(job, JobStatus::Concluded);
        assert_eq!((bench.called(job, "commit"), bench.called(job, "abort")), (1, 0), "seed {seed:?}");
        assert_eq!((bench.events("BLOCK_JOB_COMPLETED"), bench.events("BLOCK_JOB_CANCELLED")), (1, 0));
        bench.dismiss(&["j"]);

        let mut bench = Bench::new(seed, false);
        let job = bench.start("j", 1 << 16, |_| {});
        bench.well(cancel);
        bench.until_status(job, JobStatus::Concluded);
        assert_eq!((bench.called(job, "commit"), bench.called(job, "abort")), (0, 1), "seed {seed:?}");
        assert_eq!((bench.events("BLOCK_JOB_READY"), bench.events("BLOCK_JOB_CANCELLED")), (0, 1));
        bench.dismiss(&["j"]);
    }
}

#[test]
fn errors_stop_ignore_or_fail_it() {
    for (seed, on_error) in
        schedules().flat_map(|seed| [OnError::Stop, OnError::Ignore, OnError::Report].map(|e| (seed, e)))
    {
        let mut bench = Bench::new(seed, true);
        let job = bench.start("j", 0, |args| args.on_error = on_error);
        if on_error == OnError::Report {
            bench.until_status(job, JobStatus::Concluded);
            assert_eq!(bench.world.jobs[job].ret, Some(Errno::EIO));
            assert_eq!((bench.called(job, "abort"), bench.called(job, "prepare")), (1, 0));
        } else {
            if on_error == OnError::Stop {
                bench.until_status(job, JobStatus::Paused);
                assert!(bench.command(r#"{"execute":"query-block-jobs"}"#).contains("failed"));
                bench.well(r#"{"execute":"job-resume","arguments":{"id":"j"}}"#);
            }
            bench.until_status(job, JobStatus::Ready);
            bench.well(r#"{"execute":"block-job-complete","arguments":{"device":"j"}}"#);
            bench.until_status(job, JobStatus::Concluded);
            assert_eq!(bench.world.jobs[job].ret, None);
        }
        assert_eq!(bench.events("BLOCK_JOB_ERROR"), 1, "{on_error:?}, seed {seed:?}");
        bench.dismiss(&["j"]);
    }
}

#[test]
fn a_group_commits_together_and_aborts_when_one_cannot_prepare() {
    for (seed, fails) in schedules().flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut bench = Bench::new(seed, false);
        let txn = bench.world.job_txn_new(true);
        let jobs = ["a", "b"].map(|id| {
            bench.start(id, 0, |args| {
                // The one that is completed last finalises the group.
                (args.txn, args.fails_to_prepare) = (Some(txn), fails && id == "b");
            })
        });
        for (job, id) in jobs.into_iter().zip(["a", "b"]) {
            bench.until_status(job, JobStatus::Ready);
            bench.well(&format!(r#"{{"execute":"job-complete","arguments":{{"id":"{id}"}}}}"#));
        }
        for job in jobs {
            bench.until_status(job, JobStatus::Concluded);
            let ends = (bench.called(job, "commit"), bench.called(job, "abort"), bench.called(job, "clean"));
            assert_eq!(ends, if fails { (0, 1, 1) } else { (1, 0, 1) }, "seed {seed:?}");
        }
        bench.dismiss(&["a", "b"]);
    }
}

/// `job_completed_txn_abort_locked` leaves the job that finalises the group as it is, and it has not failed itself. No command makes such
/// groups: only backups stand in them, and they have no `prepare`.
#[test]
fn a_member_that_cannot_prepare_does_not_undo_the_one_that_finalises() {
    let mut bench = Bench::new(None, false);
    let txn = bench.world.job_txn_new(true);
    let jobs =
        ["a", "b"].map(|id| bench.start(id, 0, |args| (args.txn, args.fails_to_prepare) = (Some(txn), id == "a")));
    jobs.iter().for_each(|job| bench.until_status(*job, JobStatus::Ready));
    bench.well(r#"{"execute":"job-complete","arguments":{"id":"a"}}"#);
    bench.world.submit(
        bench.client,
        crate::qmp::json::parse_one(r#"{"execute":"job-complete","arguments":{"id":"b"}}"#).expect("JSON"),
    );
    let broken = (0..1000).find_map(|_| {
        bench.world.step(&mut bench.choose);
        bench.check.step(&mut bench.world).err()
    });
    assert_eq!(broken.map(|broken| broken.invariant), Some(crate::invariant::Invariant::GroupCompletion));
    assert_eq!([bench.called(jobs[0], "abort"), bench.called(jobs[1], "commit")], [1, 1]);
}

#[test]
fn a_drained_section_waits_for_its_request_and_the_process_can_quit() {
    for seed in schedules() {
        let mut bench = Bench::new(seed, false);
        let job = bench.start("j", 0, |_| {});
        // A command that drains all: the guest starts and stops.
        bench.well(r#"{"execute":"cont"}"#);
        bench.well(r#"{"execute":"stop"}"#);
        bench.until_status(job, JobStatus::Ready);
        bench.well(r#"{"execute":"cont"}"#);
        bench.well(r#"{"execute":"stop"}"#);
        assert_eq!(bench.called(job, "pause"), bench.called(job, "resume"), "seed {seed:?}");
        assert!(bench.called(job, "pause") > 0, "seed {seed:?}");
        bench.world.submit(bench.client, crate::qmp::json::parse_one(r#"{"execute":"quit"}"#).expect("JSON"));
        bench.until(|bench| bench.world.quitting && bench.world.jobs.list.is_empty());
        assert_eq!(bench.events("BLOCK_JOB_CANCELLED"), 1, "seed {seed:?}");
    }
}
