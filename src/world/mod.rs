//! The simulated process: everything that a QEMU has in memory while it runs block jobs, as one plain value.
//!
//! [`World::step`] runs it one dispatch further. It does nothing by itself: time passes, and requests complete, only in steps;
//! where there is more than one way to go on, [`Choose`](crate::choice::Choose) is asked. A world can be cloned between any two
//! steps, and both copies go on from there.

pub mod aio;
pub mod arena;
pub mod block;
pub mod blockdev;
mod dispatch;
pub mod export;
pub mod frame;
pub mod job;
pub mod monitor;
pub mod out;
mod rebase;
pub mod system;
pub mod value;
mod waiting;
pub mod watch;

use crate::base::Kept;
use crate::base::time::Instant;
use crate::block::content::{Data, WriteTag};
use crate::host::HostFiles;
use crate::quirk::Quirks;
use crate::trace::Trace;
use arena::{Arena, CallId, CoId, LinkId, NodeId, TranId};
use std::collections::VecDeque;
use std::sync::Arc;

/// The simulated process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// What time it is.
    pub now: Instant,
    /// Frames run so far, for limits.
    pub steps: u64,
    /// With more frames than these nothing runs any more, in the middle of a step either: for whoever ends the run then.
    pub most_steps: u64,
    /// `AioContext`s, bottom halves, timers, coroutines, requests in flight.
    pub aio: aio::Aio,
    /// Coroutines.
    pub cos: Arena<CoId, aio::coroutine::Coroutine>,
    /// Nodes, edges, backends.
    pub graph: block::graph::Graph,
    /// Coroutines that wait for the graph lock.
    graph_readers_waiting: Vec<CoId>,
    /// Jobs and groups.
    pub jobs: job::Jobs,
    /// Exports and the NBD server.
    pub exports: Kept<export::Exports>,
    /// Sockets of `nbd` nodes.
    links: Arena<LinkId, block::driver::nbd::link::Link>,
    /// Copy calls.
    calls: Arena<CallId, block::driver::block_copy_state::CopyCall>,
    /// Transactions being prepared.
    trans: Arena<TranId, blockdev::transaction::Transaction>,
    /// What was read around unaligned writes.
    padding: Vec<(CoId, NodeId, u64, Data)>,
    /// The QMP monitors.
    pub monitor: monitor::Monitor,
    /// What the process put out and nobody took yet.
    pub out: VecDeque<out::Output>,
    /// Files of the simulated host.
    pub files: HostFiles,
    /// Who wrote what: `WriteTag(n)` is `writers[n - 1]`.
    pub writers: Kept<Vec<Arc<str>>>,
    /// The tag of whoever writes just now without one of his own.
    writer: WriteTag,
    /// The machine around the block layer, as far as clients see it.
    pub machine: Kept<system::machine::Machine>,
    /// Descriptors that clients passed.
    pub passed: Kept<monitor::fdsets::Passed>,
    /// Groups of drives and nodes with limits.
    pub throttling: block::driver::throttle::Throttling,
    /// The guest runs (`cont`).
    running: bool,
    /// It has run before.
    ran: bool,
    /// `quit` was given: the process ends when it is at rest.
    pub quitting: bool,
    /// Wrong behaviour that is switched on.
    pub quirks: Quirks,
    /// Records for whoever watches.
    pub trace: Trace,
    /// What happened in this step, for whoever checks it.
    pub feed: watch::feed::Feed,
}

crate::base::time::rebase!(World {
    moves: now, aio, cos, graph, jobs, out, throttling;
    // Records tell of what was.
    stays: trace;
    rest: steps, most_steps, graph_readers_waiting, exports, links, calls, trans, padding, monitor, files, writers, writer, machine, passed,
        running, ran, quitting, quirks, feed
});

impl World {
    /// A process without drives on a host with these files.
    #[must_use]
    pub fn new(files: HostFiles) -> World {
        World {
            now: Instant::START,
            steps: 0,
            most_steps: u64::MAX,
            aio: aio::Aio::default(),
            cos: Arena::reusing(),
            graph: block::graph::Graph::default(),
            graph_readers_waiting: Vec::new(),
            jobs: job::Jobs::default(),
            exports: Kept::default(),
            links: Arena::unique(),
            calls: Arena::reusing(),
            trans: Arena::reusing(),
            padding: Vec::new(),
            monitor: monitor::Monitor::default(),
            out: VecDeque::new(),
            files,
            writers: Kept::default(),
            writer: WriteTag(0),
            machine: Kept::default(),
            passed: Kept::default(),
            throttling: block::driver::throttle::Throttling::default(),
            running: false,
            ran: false,
            quitting: false,
            quirks: Quirks::NONE,
            trace: Trace::off(),
            feed: watch::feed::Feed::default(),
        }
    }
}
