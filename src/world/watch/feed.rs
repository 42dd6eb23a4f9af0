//! The feed: what happened in a step, for whoever checks the process from outside.
//!
//! It is off unless someone watches, and then costs a test; it does not depend on the level of the trace. Whoever watches takes
//! what stands in it after each step, so that worlds are compared and cloned with an empty one. The world never reads it.
//!
//! What has to be looked at in the moment itself, because the rest of the step may change it, is looked at here.

use super::chains::{ChainBegins, ChainEnds, Excuse};
use super::marks::{CodePlace, Marks};
use crate::bitmap::{BitmapId, DirtyBitmap, HBitmap};
use crate::block::content::Data;
use crate::host::Frozen;
use crate::job::status::{JobStatus, JobType, JobVerb};
use crate::qmp::types::{BitmapSyncMode, SyncMode};
use crate::world::World;
use crate::world::arena::{BackendId, CoId, JobId, NodeId, TranId, TxnId};
use crate::world::block::backend::BlkRequest;
use crate::world::block::driver::Driver;
use crate::world::frame::Flow;
use std::sync::Arc;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// A job changed its status.
    JobStatus {
        /// Its place in the arena of jobs.
        job: JobId,
        /// `job->id`
        id: Arc<str>,
        /// `JobDriver.job_type`
        kind: JobType,
        /// Old status.
        from: JobStatus,
        /// New status.
        to: JobStatus,
    },
    /// A verb was asked of a job.
    Verb {
        /// The job's ID.
        id: Arc<str>,
        /// What was asked.
        verb: JobVerb,
        /// `job->status` at that moment.
        status: JobStatus,
        /// Whether it was taken.
        taken: bool,
    },
    /// `BLOCK_JOB_COMPLETED` or `BLOCK_JOB_CANCELLED` was sent.
    JobEnd {
        /// A block job; others send no such event.
        job: JobId,
        /// `job->id`
        id: Arc<str>,
        /// It was CANCELLED.
        cancelled: bool,
        /// It had an error.
        failed: bool,
        /// It met an error that it was to end for, and is a mirror.
        forgiven: bool,
        /// `offset`
        offset: u64,
        /// `len`
        len: u64,
    },
    /// A job's progress.
    Progress {
        /// The one whose `progress_current` or `progress_remaining` was set.
        job: JobId,
        /// Bytes done.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A backup job was created; its source is drained.
    BackupBegins(Box<BackupBegins>),
    /// A job's commit or abort callback was called (`job_finalize_single`).
    Settled(Box<Settled>),
    /// A job's clean callback was called.
    Cleaned {
        /// It is freed later, when nobody refers to it.
        job: JobId,
        /// `job->id`
        id: Arc<str>,
    },
    /// A job was freed.
    JobFreed {
        /// Its place in the arena is empty from now on.
        job: JobId,
        /// `job->id`
        id: Arc<str>,
    },
    /// A job begins to copy something of its own accord.
    Copies {
        /// `job->id`
        id: Arc<str>,
        /// `job->status` at that moment.
        status: JobStatus,
    },
    /// A transaction begins to prepare its first action; how things stand.
    TranBegin(TranId, Box<Standing>),
    /// A transaction has ended.
    TranEnd(TranId),
    /// A transaction has failed and was undone; how things stand.
    TranFailed(TranId, Box<Standing>),
    /// A drained section is there: nothing may be under way on the node any more.
    Drained {
        /// Where `quiesce_counter` is above 0.
        node: NodeId,
        /// `node-name`, for messages.
        name: Arc<str>,
        /// Requests under way on it.
        in_flight: u32,
    },
    /// A drained section that began with [`Seen::Drained`] ends. Others may go on, among them some that wait for no requests
    /// (`bdrv_graph_wrlock`), in which requests begin.
    DrainEnds(NodeId),
    /// The last drained section of a node ended.
    Undrained(NodeId),
    /// A request begins on a node that is being, or is, drained.
    RequestInDrain {
        /// Where `quiesce_counter` is above 0.
        node: NodeId,
        /// `node-name`, for messages.
        name: Arc<str>,
    },
    /// A write has ended, and a bitmap that records does not have it.
    Unrecorded {
        /// Name of the node.
        node: Arc<str>,
        /// Name of the bitmap.
        bitmap: Arc<str>,
        /// The first byte that it lacks.
        byte: u64,
    },
    /// From now on a bitmap holds what is written.
    BitmapFresh {
        /// The bitmap's node.
        node: NodeId,
        /// Bitmaps of a node are told apart by it.
        name: Arc<str>,
        /// What the node reads as.
        content: Box<Frozen>,
    },
    /// What a bitmap holds says nothing any more: it was removed, disabled, or loaded.
    BitmapStale {
        /// The bitmap's node.
        node: NodeId,
        /// Bitmaps of a node are told apart by it.
        name: Arc<str>,
    },
    /// A guest's request begins.
    GuestBegin {
        /// The coroutine of the request, by which its end is known.
        co: CoId,
        /// The node it goes to, below filters of jobs.
        node: NodeId,
        /// The nodes that it passes: that of its backend, and the filters below.
        path: Vec<NodeId>,
        /// It is a discard, and its node and what the user put above it take them.
        discards: bool,
        /// What is asked for.
        request: Box<BlkRequest>,
        /// What the node reads as, the first time that a guest's request goes there.
        content: Option<Box<Frozen>>,
    },
    /// It has ended.
    GuestEnd {
        /// The coroutine of the request, by which its end is known.
        co: CoId,
        /// It succeeded.
        ok: bool,
        /// What was read.
        data: Option<Data>,
    },
    /// A node has another size, or was changed by somebody else than a guest.
    Changed(NodeId),
    /// A command or a job has made a node writable.
    Opened(NodeId),
    /// What stands around an unaligned write could not be read; as QEMU does, zeroes are written there.
    PaddingLost,
    /// A read has succeeded and left its buffer as it was (docs/findings/reads-undone-below-a-stream.md).
    ReadUndone,
    /// A discard begins on a node.
    Discards {
        /// The coroutine of the request, by which its end is known.
        co: CoId,
        /// The one whose driver is asked.
        node: NodeId,
    },
    /// The filter of a job has swallowed a discard.
    DiscardSwallowed(CoId),
    /// A mirror, commit or stream begins.
    ChainBegins(Box<ChainBegins>),
    /// The clean callback of such a job was called.
    ChainEnds(Box<ChainEnds>),
    /// The target of a mirror, or of the commit of an active layer, has taken the place of its source.
    Pivot {
        /// The one that it was the target of.
        job: JobId,
        /// The node that the device stands on now.
        to: NodeId,
        /// What it reads as.
        content: Box<Frozen>,
    },
    /// A mirror is in sync, by its own word, and nothing is under way.
    Synced {
        /// A mirror, or a commit of an active layer.
        job: JobId,
        /// What its target reads as.
        target: Box<Frozen>,
        /// What it has still to copy, as it knows itself: ranges of bytes.
        dirty: Vec<(u64, u64)>,
    },
    /// QEMU 10.0.2 itself does something wrong.
    Excuse(Excuse),
    /// `BLOCK_JOB_READY` was sent.
    Ready {
        /// A mirror, or a commit of an active layer.
        job: JobId,
        /// `job->id`
        id: Arc<str>,
    },
    /// A flush found nothing to do: what was written before had been flushed already.
    FlushSkipped {
        /// Where `flushed_gen` is `write_gen`.
        node: NodeId,
        /// `node-name`, for messages.
        name: Arc<str>,
        /// Up to which write.
        generation: u64,
    },
    /// A flush has ended.
    Flushed {
        /// The one whose driver was asked.
        node: NodeId,
        /// Up to which write.
        generation: u64,
        /// It succeeded.
        ok: bool,
        /// The node had something of its own to do.
        own: bool,
    },
    /// A blkdebug rule made a request fail.
    Fault {
        /// The node of the `blkdebug` driver whose rule it is.
        node: NodeId,
        /// The node name of the blkdebug node.
        name: Arc<str>,
        /// Number of the rule.
        rule: u32,
        /// It is to fire once.
        once: bool,
    },
}

/// A backup job that was created.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackupBegins {
    /// Its place in the arena of jobs.
    pub job: JobId,
    /// The node below its filter, which it copies from.
    pub source_node: NodeId,
    /// Where it copies to (`target`).
    pub target_node: NodeId,
    /// What the source reads as.
    pub source: Frozen,
    /// What the target reads as.
    pub target: Frozen,
    /// `sync`
    pub mode: SyncMode,
    /// The bitmap: its name, and its bits now.
    pub bitmap: Option<(Arc<str>, HBitmap)>,
    /// `discard-source`
    pub discards: bool,
    /// Bytes to copy at most.
    pub len: u64,
}

/// A job whose commit or abort callback was called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settled {
    /// Its place in the arena of jobs.
    pub job: JobId,
    /// `job->id`
    pub id: Arc<str>,
    /// `job->txn`; a job without a group has one of its own.
    pub group: Option<TxnId>,
    /// The group was made by a grouped transaction.
    pub grouped: bool,
    /// It has an error or was cancelled.
    pub failed: bool,
    /// Commit was called; else abort.
    pub committed: bool,
    /// What a successful backup's target reads as.
    pub target: Option<Frozen>,
    /// What became of the bitmap.
    pub bitmap: Option<BitmapEnd>,
}

/// A job's bitmap before and after its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BitmapEnd {
    /// The node that has it.
    pub node: NodeId,
    /// `bs->node_name`
    pub node_name: Arc<str>,
    /// `bitmap`, as the client named it.
    pub name: Arc<str>,
    /// `bitmap-mode`
    pub mode: BitmapSyncMode,
    /// Its bits as the job found them.
    pub before: HBitmap,
    /// What was written since.
    pub since: HBitmap,
    /// What the job did not copy.
    pub uncopied: HBitmap,
    /// The bitmap of that name now.
    pub after: Option<DirtyBitmap>,
}

/// What a transaction that fails has to leave as it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Named bitmaps: node, its name, the bitmap.
    pub bitmaps: Vec<(NodeId, Arc<str>, DirtyBitmap)>,
    /// Jobs, by ID.
    pub jobs: Vec<(JobId, Arc<str>)>,
    /// Drained nodes: node, its name, how often.
    pub drained: Vec<(NodeId, Arc<str>, u32)>,
}

/// See the module's first lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Feed {
    /// Somebody watches.
    pub on: bool,
    /// What happened since it was last taken, oldest first.
    pub seen: Vec<Seen>,
    /// Nodes whose content was told when a guest's request first went there.
    touched: Vec<NodeId>,
    /// Jobs on chains, and the topmost layer of each.
    pub(super) chains: Vec<(JobId, NodeId)>,
    /// What was reached since the run began; no part of the world's state.
    pub marks: Marks,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum WatchFrame {
    /// Somebody watches: a guest's request has ended.
    GuestSeen,
    /// Somebody watches: a drained section is there.
    DrainSeen(NodeId),
}

impl WatchFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            WatchFrame::GuestSeen => {
                w.see_guest_end();
                Flow::Go
            }
            WatchFrame::DrainSeen(bs) => {
                // A frame that is there only if somebody watches does not count: recordings say by the count when a client sends.
                w.steps -= 1;
                w.see_drained(bs);
                Flow::Go
            }
        }
    }
}

impl World {
    /// Notes what happened, if somebody watches.
    #[inline]
    pub(in crate::world) fn see(&mut self, seen: impl FnOnce() -> Seen) {
        if self.feed.on {
            self.feed.seen.push(seen());
        }
    }

    /// Who drained nodes begins to send requests to them himself: up to the end of the section nothing is said of requests there.
    pub(in crate::world) fn see_work_in_drain(&mut self) {
        if self.feed.on {
            let drained = self.graph.nodes.iter().filter(|(_, node)| node.quiesce_counter > 0);
            self.feed.seen.extend(drained.map(|(id, _)| Seen::Undrained(id)));
        }
    }

    /// Nodes have got other nodes below them.
    pub(in crate::world) fn see_all_changed(&mut self) {
        if self.feed.on {
            self.feed.seen.extend(self.graph.nodes.iter().map(|(id, _)| Seen::Changed(id)));
        }
    }

    /// Notes that a place was reached, if somebody watches.
    #[inline]
    pub(in crate::world) fn reach(&mut self, place: CodePlace) {
        if self.feed.on {
            self.feed.marks.note_place(place);
        }
    }

    /// How bitmaps, jobs and drained sections stand. Copies share their bits.
    pub(in crate::world) fn standing(&self) -> Box<Standing> {
        let mut standing = Standing { bitmaps: Vec::new(), jobs: Vec::new(), drained: Vec::new() };
        for (id, node) in self.graph.nodes.iter() {
            let named = node.bitmaps.iter().filter(|bitmap| bitmap.name().is_some());
            standing.bitmaps.extend(named.map(|bitmap| (id, node.node_name.clone(), bitmap.clone())));
            if node.quiesce_counter > 0 {
                standing.drained.push((id, node.node_name.clone(), node.quiesce_counter));
            }
        }
        standing.jobs.extend(self.jobs.list.iter().map(|job| (*job, self.jobs[*job].id.clone())));
        Box::new(standing)
    }

    /// A drained section is there.
    fn see_drained(&mut self, node: NodeId) {
        let Some(n) = self.graph.nodes.get(node) else { return };
        let (name, in_flight) = (n.node_name.clone(), n.in_flight);
        self.see(|| Seen::Drained { node, name, in_flight });
    }

    /// Looks whether each bitmap that records has a write that just ended.
    pub(in crate::world) fn see_write(&mut self, node: NodeId, offset: u64, bytes: u64) {
        if !self.feed.on || bytes == 0 {
            return;
        }
        let n = &self.graph.nodes[node];
        let lacks = |bitmap: &DirtyBitmap| {
            let byte = bitmap.bitmap().next_zero(offset, bytes).filter(|_| bitmap.enabled())?;
            let name = bitmap.name().cloned().unwrap_or_else(|| "(the successor of one in use)".into());
            Some(Seen::Unrecorded { node: n.node_name.clone(), bitmap: name, byte })
        };
        let found = n.bitmaps.iter().find_map(lacks);
        self.feed.seen.extend(found);
    }

    /// A bitmap was added or cleared.
    pub(in crate::world) fn see_fresh_bitmap(&mut self, node: NodeId, id: BitmapId) {
        if !self.feed.on {
            return;
        }
        let Some(bitmap) = self.graph.nodes[node].bitmaps.get(id) else { return };
        let Some(name) = bitmap.name().cloned() else { return };
        let seen = match bitmap.enabled() {
            true => Seen::BitmapFresh { node, name, content: Box::new(self.frozen(node)) },
            false => Seen::BitmapStale { node, name },
        };
        self.feed.seen.push(seen);
    }

    /// A bitmap was removed, disabled or enabled.
    pub(in crate::world) fn see_stale_bitmap(&mut self, node: NodeId, name: Option<Arc<str>>) {
        if let Some(name) = name {
            self.see(|| Seen::BitmapStale { node, name });
        }
    }

    /// A guest's request begins; its end is seen by a frame below it.
    pub(in crate::world) fn see_guest(&mut self, blk: BackendId, request: &BlkRequest) {
        if !self.feed.on {
            return;
        }
        let Some(mut node) = self.graph.blk_bs(blk) else { return };
        let mut path = vec![node];
        while let Some(below) = self.graph.filter_bs(path[path.len() - 1]) {
            if node == path[path.len() - 1] && self.graph.nodes[node].driver.as_ref().is_some_and(Driver::is_job_filter)
            {
                node = below;
            }
            path.push(below);
        }
        let takes = |node: &NodeId| {
            let n = &self.graph.nodes[*node];
            self.is_job_filter(*node) || n.flags.unmap && n.driver.as_ref().is_some_and(Driver::has_pdiscard)
        };
        let discards = matches!(request, BlkRequest::Discard { .. }) && path.iter().all(takes);
        let new = !self.feed.touched.contains(&node);
        let content = new.then(|| Box::new(self.frozen(node)));
        if new {
            self.feed.touched.push(node);
        }
        let co = self.current();
        self.feed.seen.push(Seen::GuestBegin { co, node, path, discards, request: Box::new(request.clone()), content });
        self.push(WatchFrame::GuestSeen.into());
    }

    /// A guest's request has ended; its result stays in the register.
    fn see_guest_end(&mut self) {
        let co = self.current();
        let (ok, data) = match self.peek() {
            crate::world::value::Val::Data(Ok(data)) => (true, Some(data.clone())),
            crate::world::value::Val::Data(Err(_)) | crate::world::value::Val::Ret(Err(_)) => (false, None),
            _ => (true, None),
        };
        self.see(|| Seen::GuestEnd { co, ok, data });
        self.see_synced();
    }

    /// A job's commit or abort callback was called.
    pub(in crate::world) fn see_settled(
        &mut self,
        job: JobId,
        failed: bool,
        committed: bool,
        mut bitmap: Option<BitmapEnd>,
    ) {
        if let Some(end) = &mut bitmap {
            let bitmaps = self.graph.nodes.get(end.node).map(|node| &node.bitmaps);
            end.after = bitmaps.and_then(|bitmaps| bitmaps.get(bitmaps.find(&end.name)?)).cloned();
        }
        let j = &self.jobs[job];
        let target = self.job_hooks(job).watch.target.filter(|_| !failed).and_then(|target| target(self, job));
        let grouped = j.txn.and_then(|txn| self.jobs.txns.get(txn)).is_some_and(|group| group.grouped);
        let settled = Settled { job, id: j.id.clone(), group: j.txn, grouped, failed, committed, target, bitmap };
        self.feed.seen.push(Seen::Settled(Box::new(settled)));
    }
}
