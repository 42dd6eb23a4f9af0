//! Whom the alternatives of a choice are about, in words that stay the same when other choices change.

use super::device::{DeviceOp, DeviceRequest};
use super::latency::CHUNK;
use super::timer::{Timer, TimerKind};
use crate::choice::{Addressee, Subject};
use crate::world::World;
use crate::world::arena::{JobId, ReqId};

impl World {
    /// A request in flight.
    pub(super) fn request_who(&self, request: &DeviceRequest) -> Addressee {
        let op = match request.op {
            DeviceOp::Read => "read",
            DeviceOp::Write(_) => "write",
            DeviceOp::Copy { .. } => "copy",
            DeviceOp::Zero { .. } => "zero",
            DeviceOp::Discard => "discard",
            DeviceOp::Flush => "flush",
            DeviceOp::Truncate => "truncate",
            DeviceOp::Nothing => "nothing",
        };
        let node = self.graph.nodes.get(request.node);
        let file = node.map(|node| node.file_driver().map_or(&node.node_name, |file| &file.path).clone());
        // What a null device is told has no place.
        let offset = if matches!(request.op, DeviceOp::Nothing | DeviceOp::Flush) { 0 } else { request.offset };
        Addressee::Request { op, file: file.unwrap_or_default(), offset }
    }

    /// The request that is due as the one of this number, from 0.
    pub(super) fn alternative_who(&self, number: usize) -> Addressee {
        self.by_due().get(number).map_or(Addressee::Nobody, |id| self.who_of(*id))
    }

    /// The request in flight of that id.
    pub(super) fn who_of(&self, id: ReqId) -> Addressee {
        let request = self.aio.in_flight.iter().find(|r| r.id == id);
        request.map_or(Addressee::Nobody, |request| self.request_who(request))
    }

    /// What a timer is for.
    pub(super) fn timer_who(&self, timer: Option<&Timer>) -> Addressee {
        match timer.map(|timer| timer.kind) {
            Some(TimerKind::JobSleep(job)) => {
                Addressee::Timer(self.jobs.get(job).map_or_else(|| "".into(), |job| job.id.clone()))
            }
            Some(TimerKind::CoSleep(_)) => Addressee::Timer("coroutine".into()),
            Some(TimerKind::Throttle(..)) => Addressee::Timer("throttle group".into()),
            Some(TimerKind::NbdHandshake(_)) => Addressee::Timer("NBD handshake".into()),
            Some(TimerKind::NbdOpen(_)) => Addressee::Timer("open-timeout".into()),
            Some(TimerKind::NbdDelay(_)) => Addressee::Timer("reconnect-delay".into()),
            Some(TimerKind::NbdRetry(_)) => Addressee::Timer("NBD connection".into()),
            None => Addressee::Nobody,
        }
    }

    /// A task with what it has left to do.
    pub(in crate::world) fn subject(&self, task: u32) -> Subject {
        let job = task.checked_sub(Subject::job(0)).and_then(|job| self.jobs.get(JobId(job)));
        let left = job.map_or(1, |job| {
            let bytes = job.progress_total.saturating_sub(job.progress_current);
            u32::try_from(bytes.div_ceil(CHUNK).saturating_mul(2)).unwrap_or(u32::MAX).saturating_add(1)
        });
        Subject { task, left }
    }

    /// For whom a request in flight works.
    pub(super) fn subject_of(&self, request: ReqId) -> Subject {
        let co = self.aio.in_flight.iter().find(|r| r.id == request).map(|r| r.co);
        let task = co.and_then(|co| self.cos.get(co)).map_or(Subject::PROCESS, |co| co.task);
        self.subject(task)
    }

    /// Whom a timer wakes.
    pub(super) fn subject_of_timer(&self, timer: Option<&Timer>) -> Subject {
        let task = match timer.map(|timer| timer.kind) {
            Some(TimerKind::JobSleep(job)) => Subject::job(job.0),
            Some(TimerKind::CoSleep(co)) => self.cos.get(co).map_or(Subject::PROCESS, |co| co.task),
            Some(_) | None => Subject::PROCESS,
        };
        self.subject(task)
    }
}
