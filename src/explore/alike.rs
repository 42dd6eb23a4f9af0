//! Requests in flight whose order nobody can tell: an exhaustive search tries one of them where it would try all.
//!
//! A backup and a mirror copy in many places at once. While all that a client does is to wait, or to make up its mind when to send, nobody
//! sees which of a job's requests is done first: the job tells nothing before the last one is done, and each of them leads to the same
//! copy. So of the requests of one such job only the oldest is tried, besides those of all others, the timer, the bottom halves that are
//! ready, and the client. In the words of partial order reduction, that set is persistent: what the rest of the job's requests can
//! do before one of the set is done concerns nobody else, and commutes with all in it but for the places in the target's file and
//! the numbers of coroutines.
//!
//! That holds as long as
//! * the client waits for a reply, an event or for the process to rest, or is about to send: it cannot ask how far the job is in this
//!   very step, and touches no file;
//! * the bottom halves that are ready do not look at the job: they write a reply, look for another command, go on with coroutines of
//!   other jobs, or find that a job has to wait for its group. A command that begins, and a job that ends or fails, may cancel it or
//!   ask how far it is;
//! * the job runs, and is of a kind that works like this; neither is it told to pause or to end, nor do its requests meet rules that make some
//!   of them fail (blkdebug, the host), nor limits;
//! * its requests do not touch the same bytes, and nothing is asked for but to read and to write;
//! * nothing else works on nodes that are connected with the job's own, and no coroutine of somebody else waits for one of the job's.
//!
//! An error that comes all the same (a broken image) is noticed: whatever the order, some request meets it. What was left out is
//! tried then after all ([`super::Search::doubtful`]).

use crate::base::Json;
use crate::base::errno::Errno;
use crate::base::time::Span;
use crate::choice::{ChoicePoint, Subject};
use crate::job::status::JobStatus;
use crate::quirk::Quirk;
use crate::sim::Sim;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::device::{DeviceOp, DeviceRequest};
use crate::world::aio::queue::Bh;
use crate::world::arena::{JobId, NodeId};
use crate::world::block::driver::Driver;
use crate::world::block::edges::Parent;
use crate::world::job::Job;
use crate::world::job::block_job::IoStatus;
use crate::world::job::hooks::JobDriver;
use crate::world::out::Output;
use rustc_hash::FxHashSet;

/// What a search leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Nothing: each order is tried.
    #[default]
    None,
    /// Orders that nobody can tell apart.
    Alike,
    /// The same with a mistake, there for a test that must notice it.
    #[doc(hidden)]
    Wrong(Mistake),
}

/// Rules that are wrong.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// Requests are never found done beside bottom halves, as if the two had nothing to do with each other.
    NothingBeside,
    /// Commands that begin do not look at jobs.
    CommandsAreBlind,
    /// Of the requests of several jobs the oldest is tried alone, as if they were of one.
    JobsAreAlike,
}

/// The alternatives that need not be tried in a state, where [`ChoicePoint::CompleteNext`] is asked next, and for the sake of which jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spared {
    /// The number of the alternative that is the oldest request.
    first: u32,
    pub alternatives: Vec<u32>,
    pub jobs: Vec<JobId>,
}

impl Spared {
    /// What is left out in the state of `sim`.
    pub fn of(sim: &Sim, reduction: Reduction) -> Spared {
        let world = &sim.world;
        let in_flight = world.aio.in_flight.len();
        if reduction == Reduction::Wrong(Mistake::NothingBeside) {
            let alternatives = (1..).take(in_flight).collect();
            return Spared { first: 1, alternatives, jobs: Vec::new() };
        }
        if reduction == Reduction::None || in_flight < 2 {
            return Spared::default();
        }
        let Some(first) = world.looks_at_requests() else { return Spared::default() };
        let ready = || world.aio.main.waiting().chain(world.aio.iohandler.waiting());
        if !ready().all(|bh| is_blind(world, bh, reduction)) {
            return Spared::default();
        }
        let requests = || (first..).zip(&world.aio.in_flight);
        if !sim.client.only_listens(world) || world.files.has_rules() || world.exports.server.is_some() {
            return Spared::default();
        }
        let mut spared = Spared { first, ..Spared::default() };
        for job in &world.jobs.list {
            let own =
                |r: &DeviceRequest| works_for(world, r, *job) || reduction == Reduction::Wrong(Mistake::JobsAreAlike);
            let own: Vec<u32> = requests().filter(|(_, r)| own(r)).map(|(i, _)| i).collect();
            if own.len() > 1 && alike(world, *job) {
                spared.alternatives.extend(&own[1..]);
                // Of several errors the first one counts, and there it is.
                if !world.copying_failed(*job) {
                    spared.jobs.push(*job);
                }
            }
        }
        spared
    }

    /// Whether an answer is left out.
    pub fn has(&self, point: ChoicePoint, pick: u32) -> bool {
        let asked = if self.first == 0 { ChoicePoint::CompleteNext } else { ChoicePoint::WorkNext };
        point == asked && self.alternatives.contains(&pick)
    }
}

/// Whether a bottom half looks at no job that runs.
fn is_blind(world: &World, bh: &Bh, reduction: Reduction) -> bool {
    match bh {
        // Coroutines of the job itself are looked for where it is known which.
        Bh::CoSchedule => world.cos.iter().all(|(_, co)| !co.scheduled || co.task >= Subject::job(0)),
        Bh::JobExit(job) => waits_for_its_group(world, *job),
        Bh::QmpDispatch => reduction == Reduction::Wrong(Mistake::CommandsAreBlind),
        bh => bh.ends_command(),
    }
}

/// Whether all that `job_exit` does for a job is to have it wait: it succeeded, and another one of its group still works.
fn waits_for_its_group(world: &World, job: JobId) -> bool {
    let this = &world.jobs[job];
    let Some(group) = this.txn.and_then(|txn| world.jobs.txns.get(txn)) else { return false };
    let works = |other: &JobId| *other != job && !world.jobs[*other].deferred_to_main_loop;
    let succeeded = this.ret.is_none() && !this.cancelled && !group.aborting;
    succeeded && group.jobs.iter().any(works) && !world.quirks.has(Quirk::TxnCleanupBeforeConverge)
}

fn works_for(world: &World, request: &DeviceRequest, job: JobId) -> bool {
    world.cos.get(request.co).is_some_and(|co| co.task == Subject::job(job.0))
}

/// Whether nobody can tell in which order the requests of a job are done that are in flight now.
fn alike(world: &World, job: JobId) -> bool {
    let j = &world.jobs[job];
    let quiet = j.status == JobStatus::Running
        && j.pause_count == 0
        && !(j.paused || j.cancelled || j.deferred_to_main_loop)
        && j.ret.is_none()
        && copies(world, j)
        // An error may be on its way.
        && !world.cos.iter().any(|(_, co)| co.scheduled && co.task == Subject::job(job.0));
    if !quiet {
        return false;
    }
    let area = area(world, j.nodes.iter().map(|edge| world.graph.children[*edge].bs).collect());
    let plain = area.iter().all(|node| {
        let node = &world.graph.nodes[*node];
        node.driver.as_ref().is_none_or(is_plain) && node.write_threshold == 0 && node.copy_on_read == 0
    });
    plain && apart(world, job) && alone(world, job, &area)
}

/// Whether it is a job that copies at several places at once, each by itself.
fn copies(world: &World, job: &Job) -> bool {
    match &job.driver {
        JobDriver::Backup(backup) => match world.graph.nodes.get(backup.cbw).and_then(|node| node.driver.as_ref()) {
            Some(Driver::Cbw(cbw)) => cbw.bcs.is_plain() && cbw.timeout == Span::ZERO,
            _ => false,
        },
        JobDriver::Mirror(mirror) | JobDriver::CommitActive(mirror) => {
            job.speed == 0 && job.iostatus == IoStatus::Ok && mirror.copies_apart()
        }
        _ => false,
    }
}

/// Drivers whose requests succeed in any order if they do in one.
fn is_plain(driver: &Driver) -> bool {
    match driver {
        Driver::File(_) | Driver::Raw(_) | Driver::Qcow2(_) | Driver::Cbw(_) | Driver::MirrorTop(_) => true,
        Driver::Blkdebug(blkdebug) => !blkdebug.engine.can_strike(),
        _ => false,
    }
}

/// Nodes that are connected with these by edges, up or down.
fn area(world: &World, from: Vec<NodeId>) -> FxHashSet<NodeId> {
    let (mut area, mut open) = (FxHashSet::default(), from);
    while let Some(id) = open.pop() {
        let Some(node) = world.graph.nodes.get(id).filter(|_| area.insert(id)) else { continue };
        open.extend(node.children.iter().map(|edge| world.graph.children[*edge].bs));
        open.extend(node.parents.iter().filter_map(|edge| match world.graph.children[*edge].parent {
            Parent::Node(above) => Some(above),
            Parent::Backend(_) | Parent::Job(_) => None,
        }));
    }
    area
}

/// Whether the requests of a job read and write only, and no other one is for the same bytes.
fn apart(world: &World, job: JobId) -> bool {
    let all = &world.aio.in_flight;
    let own = all.iter().enumerate().filter(|(_, request)| works_for(world, request, job));
    own.clone().all(|(i, this)| {
        let others = || all.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, other)| other);
        let meets = |other: &DeviceRequest| {
            this.offset < other.offset + other.bytes
                && other.offset < this.offset + this.bytes
                && this.node == other.node
        };
        matches!(this.op, DeviceOp::Read | DeviceOp::Write(_) | DeviceOp::Zero { .. } | DeviceOp::Flush)
            && this.worked.is_none()
            && !others().any(|other| meets(other) && !(this.op == DeviceOp::Read && other.op == DeviceOp::Read))
    })
}

/// Whether nobody else works on the nodes of a job, and nobody else waits for what it has.
fn alone(world: &World, job: JobId, area: &FxHashSet<NodeId>) -> bool {
    let elsewhere = |request: &DeviceRequest| {
        works_for(world, request, job) || !self::area(world, vec![request.node]).iter().any(|node| area.contains(node))
    };
    let nodes = |other: &JobId| world.jobs[*other].nodes.iter().map(|edge| world.graph.children[*edge].bs);
    // What those of a job wait for is the job's own, as no other works on its nodes.
    let of_a_job = |task: u32| world.jobs.list.iter().any(|job| task == Subject::job(job.0));
    let by_itself = |wait: &Option<Wait>| {
        matches!(wait, Some(Wait::Device(_) | Wait::JobEnter(_) | Wait::Sleep | Wait::CopyCall | Wait::Request))
    };
    world.aio.in_flight.iter().all(elsewhere)
        && world.jobs.list.iter().all(|other| *other == job || !nodes(other).any(|node| area.contains(&node)))
        && world.cos.iter().all(|(_, co)| of_a_job(co.task) || by_itself(&co.wait))
}

/// The jobs that have met an error: they say so, or have ended with one other than that of being cancelled.
pub(super) fn failed(world: &World) -> impl Iterator<Item = JobId> + '_ {
    let told = |id: &str| {
        world.out.iter().any(|output| match output {
            Output::Event { event, .. } if event.name() == "BLOCK_JOB_ERROR" => {
                event.data().get("device").and_then(Json::as_str) == Some(id)
            }
            _ => false,
        })
    };
    world.jobs.list.iter().copied().filter(move |job| {
        let job = &world.jobs[*job];
        job.ret.is_some_and(|errno| errno != Errno::ECANCELED) || told(&job.id)
    })
}
