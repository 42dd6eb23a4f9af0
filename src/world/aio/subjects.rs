//! Whom the alternatives of a choice are about, in words that stay the same when other choices change.

use crate::choice::Who;
use crate::world::World;
use crate::world::aio::{DeviceOp, DeviceRequest, Timer, TimerKind};
use crate::world::arena::ReqId;
use crate::world::block::driver::Driver;

impl World {
    /// A request in flight.
    pub(super) fn request_who(&self, request: &DeviceRequest) -> Who {
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
        let file = node.map(|node| match &node.driver {
            Some(Driver::File(file)) => file.path.clone(),
            _ => node.node_name.clone(),
        });
        // What a null device is told has no place.
        let offset = if matches!(request.op, DeviceOp::Nothing | DeviceOp::Flush) { 0 } else { request.offset };
        Who::Request { op, file: file.unwrap_or_default(), offset }
    }

    /// The request that is due as the one of this number, from 0.
    pub(super) fn alternative_who(&self, number: usize) -> Who {
        self.by_due().get(number).map_or(Who::Nobody, |id| self.who_of(*id))
    }

    /// The request in flight of that id.
    pub(super) fn who_of(&self, id: ReqId) -> Who {
        let request = self.aio.in_flight.iter().find(|r| r.id == id);
        request.map_or(Who::Nobody, |request| self.request_who(request))
    }

    /// A timer.
    pub(super) fn timer_who(&self, timer: Option<&Timer>) -> Who {
        match timer.map(|timer| timer.kind) {
            Some(TimerKind::JobSleep(job)) => {
                Who::Timer(self.jobs.get(job).map_or_else(|| "".into(), |job| job.id.clone()))
            }
            Some(TimerKind::CoSleep(_)) => Who::Timer("coroutine".into()),
            Some(TimerKind::Throttle(..)) => Who::Timer("throttle group".into()),
            None => Who::Nobody,
        }
    }
}
