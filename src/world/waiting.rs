//! Who waits for what, in QEMU's words: for runs that cannot go on, and for whoever steps through one.

use super::World;
use super::aio::coroutine::Wait;
use super::aio::device::DeviceOp;
use super::aio::step::Cond;
use super::aio::timer::TimerKind;
use super::arena::{CoId, JobId, NodeId, ReqId};
use super::frame::Frame;
use crate::base::units::size_text;
use crate::choice::Subject;

/// The function that a frame goes on with, in the spelling of C: frames are named after them.
fn function(frame: &Frame) -> String {
    let text = format!("{frame:?}");
    // `Job(JobPausePoint(JobId(3)))`: a frame of a file stands in the enum of that file.
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let outer = words.next().unwrap_or_default();
    let nested = text.get(outer.len()..).is_some_and(|rest| rest.starts_with('('));
    let inner = if nested { words.next() } else { None };
    let is_name = |word: &&str| word.starts_with(|c: char| c.is_ascii_uppercase()) && !word.ends_with("Id");
    let mut out = String::new();
    for c in inner.filter(is_name).unwrap_or(outer).chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

impl World {
    /// Who waits for what, a line each: first the main thread (`AIO_WAIT_WHILE`, innermost first), then each coroutine.
    #[must_use]
    pub fn waiting(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.aio.starved {
            lines.push(super::aio::idle::hang_text());
        }
        for frame in self.frames() {
            if let Frame::Poll(cond) = frame {
                lines.push(format!("main thread: polls until {}", self.polled_for(cond)));
            }
        }
        for (id, co) in self.cos.iter() {
            if let Some(wait) = &co.wait {
                let then = co.frames.last().map(function).unwrap_or_default();
                lines.push(format!("{}: {}, then {then}", self.whose(id, co.task), self.waited_for(wait)));
            }
        }
        lines
    }

    /// A coroutine, by the job that it works for where there is one.
    fn whose(&self, co: CoId, task: u32) -> String {
        let job = task.checked_sub(Subject::job(0)).and_then(|job| self.jobs.get(JobId(job)));
        match job {
            Some(job) => format!("job '{}' (coroutine {})", job.id, co.0),
            None => format!("coroutine {}", co.0),
        }
    }

    fn job_name(&self, job: JobId) -> String {
        self.jobs.get(job).map_or_else(|| format!("a job that is gone ({})", job.0), |job| format!("job '{}'", job.id))
    }

    /// A node, with its file where it opens one.
    fn node_name(&self, bs: NodeId) -> String {
        match self.graph.nodes.get(bs) {
            Some(node) => match node.file_driver() {
                Some(file) => format!("node '{}' ({})", node.node_name, file.path),
                None => format!("node '{}'", node.node_name),
            },
            None => format!("a node that is gone ({})", bs.0),
        }
    }

    fn polled_for(&self, cond: &Cond) -> String {
        match cond {
            Cond::Drain(bs) => {
                let in_flight = self.graph.nodes.get(*bs).map_or(0, |node| node.in_flight);
                format!(
                    "{} is drained (bdrv_drained_begin); requests in flight there: {in_flight}",
                    self.node_name(*bs)
                )
            }
            Cond::DrainAll => "all nodes are drained (bdrv_drain_all_begin)".to_owned(),
            Cond::Readers => "no coroutine holds the graph lock for reading (bdrv_graph_wrlock)".to_owned(),
            Cond::Cell(_) => "a coroutine that it entered has returned (BDRV_POLL_WHILE)".to_owned(),
            Cond::JobCompleted(job) => format!("{} is completed (job_finish_sync_locked)", self.job_name(*job)),
            Cond::Backend(blk) => {
                let name = self.graph.backends.get(*blk).map_or("", |backend| &*backend.name);
                format!("no request of drive '{name}' is in flight (blk_drain)")
            }
            Cond::Exports => "no export is left (blk_exp_close_all)".to_owned(),
            Cond::NbdConnections => "no client of the NBD server is left (nbd_server_free)".to_owned(),
            Cond::Break(_, tag) => format!("a request is suspended under the tag '{tag}' (wait_break)"),
        }
    }

    fn waited_for(&self, wait: &Wait) -> String {
        match wait {
            Wait::Device(request) => self.device_request(*request),
            Wait::JobEnter(job) => self.job_wait(*job),
            Wait::Sleep => "sleeps (qemu_co_sleep_ns)".to_owned(),
            Wait::Queue(what) => format!("waits for {what}"),
            Wait::Reschedule => "waits for its turn (aio_co_schedule)".to_owned(),
            Wait::Bh(what) => format!("waits for the bottom half of {what}"),
            Wait::Suspended(tag) => format!("is suspended at the breakpoint '{tag}' of blkdebug"),
            Wait::TaskPool => "waits for its AioTaskPool: a free slot, or the end of all tasks".to_owned(),
            Wait::CopyCall => "waits for the end of its block_copy_async".to_owned(),
            Wait::Request => "waits for the next QMP request (monitor_qmp_dispatcher_co)".to_owned(),
            Wait::Host => "waits for the file system of the host".to_owned(),
        }
    }

    /// `job_do_yield_locked`: why the job is in it.
    fn job_wait(&self, id: JobId) -> String {
        let Some(job) = self.jobs.get(id) else { return "waits for job_enter".to_owned() };
        let timer = self.aio.timers.iter().find(|timer| timer.kind == TimerKind::JobSleep(id));
        match timer {
            _ if job.user_paused => format!("is paused by its user (pause count {})", job.pause_count),
            _ if job.paused => format!("is paused (pause count {})", job.pause_count),
            Some(timer) => format!("sleeps until {} (job_sleep_ns)", timer.deadline),
            None => "has yielded until job_enter".to_owned(),
        }
    }

    fn device_request(&self, id: ReqId) -> String {
        let Some(request) = self.aio.in_flight.iter().find(|request| request.id == id) else {
            return "waits for a request that is not in flight".to_owned();
        };
        let op = match request.op {
            DeviceOp::Read => "a read",
            DeviceOp::Write(_) => "a write",
            DeviceOp::Copy { .. } => "a copy (copy_file_range)",
            DeviceOp::Zero { .. } => "a write of zeroes",
            DeviceOp::Discard => "a discard",
            DeviceOp::Flush => return format!("waits for a flush at {}", self.node_name(request.node)),
            DeviceOp::Truncate => return format!("waits for a truncation of {}", self.node_name(request.node)),
            DeviceOp::Nothing => return format!("waits for {}", self.node_name(request.node)),
        };
        let (bytes, offset) = (size_text(request.bytes), size_text(request.offset));
        format!("waits for {op} of {bytes} at {offset} at {}", self.node_name(request.node))
    }
}
