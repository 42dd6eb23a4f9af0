//! How long requests take, where times are open.

use super::device::{DeviceOp, DeviceRequest};
use crate::base::time::{Instant, Span};
use crate::choice::{ChoicePoint, Choose};
use crate::world::World;
use crate::world::arena::ReqId;

/// Bytes that count as one chunk of a job's remaining work, each a read and a write.
pub(super) const CHUNK: u64 = 65_536;

/// Latencies a seed may choose, as multiples of the calm one.
const LATENCIES: [(u64, u64); 8] = [(1, 1), (1, 4), (1, 2), (3, 4), (3, 2), (2, 1), (4, 1), (16, 1)];

impl World {
    /// Where times are open: says of each request that was not looked at yet when it will be done.
    pub(super) fn assign_latencies(&mut self, choose: &mut dyn Choose) {
        for i in 0..self.aio.in_flight.len() {
            if self.aio.in_flight[i].due.is_none() {
                let calm = self.calm_latency(&self.aio.in_flight[i]);
                let request = &self.aio.in_flight[i];
                let (point, about) = (ChoicePoint::Latency(request.node.0), &mut |_| self.request_who(request));
                let pick = choose.choose_about(point, LATENCIES.len() as u32, about);
                let (times, over) = LATENCIES[pick as usize];
                let request = &mut self.aio.in_flight[i];
                request.due = Some(request.sent + calm * times / over);
            }
        }
    }

    /// Requests in flight by the time they are due, ties by age.
    pub(super) fn by_due(&self) -> Vec<ReqId> {
        let mut ids: Vec<(Instant, usize)> =
            self.aio.in_flight.iter().enumerate().map(|(i, r)| (r.due.unwrap_or(Instant::MAX), i)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, i)| self.aio.in_flight[i].id).collect()
    }

    /// How long a device takes on a quiet machine.
    fn calm_latency(&self, request: &DeviceRequest) -> Span {
        let per_kib = Span::from_nanos(request.bytes / 1024 * 100);
        match request.op {
            DeviceOp::Read => Span::from_micros(60) + per_kib,
            DeviceOp::Write(_) | DeviceOp::Copy { .. } => Span::from_micros(80) + per_kib,
            DeviceOp::Zero { .. } | DeviceOp::Discard | DeviceOp::Truncate => Span::from_micros(40),
            DeviceOp::Flush => Span::from_micros(500),
            DeviceOp::Nothing => Span::from_nanos(request.bytes),
        }
    }
}
