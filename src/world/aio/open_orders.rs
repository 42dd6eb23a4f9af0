//! The event loop where orders are open and times are not ([`MODE_ORDER`]).
//!
//! Requests have no latencies here: any request in flight may be done next. The clock stands still but for timers, so that worlds
//! which differ only in how long they took are equal. What a client can see is what it can see under some choice of latencies: a
//! round of the loop may find no request done, or any of them, in any order, just as it begins or after its bottom halves; also such
//! as were sent for those that are done, as QEMU's thread pool looks again after each one. Of requests for the same bytes any may have
//! been done first, whichever is noticed first.

use super::device::{DeviceOp, DeviceRequest};
use super::queue::Ctx;
use super::step::Cond;
use crate::choice::{ChoicePoint, Choose, MODE_FAULTS, MODE_ORDER, Subject};
use crate::world::World;
use crate::world::arena::{NodeId, ReqId};
use crate::world::block::driver::Driver;
use crate::world::frame::Frame;

/// How many answers there are to how many requests a fault spares: none to one less.
const SPARES: u32 = 9;

impl World {
    /// Sets what is left open from here on: an answer to [`ChoicePoint::Mode`].
    pub fn set_mode(&mut self, mode: u32) {
        self.aio.order = mode & MODE_ORDER != 0;
        self.aio.faults = mode & MODE_FAULTS != 0;
        if self.aio.order {
            for request in &mut self.aio.in_flight {
                request.due = None;
            }
        }
    }

    /// Whether [`World::step`] could ask for a choice now, other than where the client stands between: true where in doubt. Only where
    /// orders are open; the loop then runs frames and looks for events in different steps.
    #[must_use]
    pub fn may_choose(&self) -> bool {
        let (requests, timers) = (self.aio.in_flight.len(), usize::from(!self.aio.timers.is_empty()));
        if self.aio.faults && self.unplaced_faults().is_some() {
            return true;
        }
        match self.aio.stack.last() {
            Some(Frame::Poll(Cond::JobCompleted(_))) => true,
            Some(Frame::More) => self.more_matters(),
            Some(Frame::MoreHere | Frame::MoreBetween) => requests > 0,
            Some(Frame::Complete(id)) => self.another_may_have_worked(*id),
            Some(Frame::Poll(_)) | None => requests + timers > 1 || (requests > 0 && self.anything_ready()),
            Some(_) => false,
        }
    }

    pub(super) fn anything_ready(&self) -> bool {
        self.aio.main.ready() || self.aio.iohandler.ready()
    }

    /// Where faults are open: asks of each blkdebug rule that is new how many requests it lets through before it strikes.
    pub(super) fn place_faults(&mut self, choose: &mut dyn Choose) {
        while let Some((node, rules)) = self.unplaced_faults() {
            let spare = (0..rules).map(|rule| choose.choose(ChoicePoint::Fault(rule), SPARES)).collect();
            self.blkdebug_mut(node).expect("just found").engine.set_spare(spare);
        }
    }

    fn unplaced_faults(&self) -> Option<(NodeId, u32)> {
        self.graph.nodes.iter().find_map(|(id, node)| match node.driver.as_ref() {
            Some(Driver::Blkdebug(driver)) if driver.engine.unspared() > 0 => Some((id, driver.engine.unspared())),
            _ => None,
        })
    }

    /// A round with bottom halves to run. Requests may be done as it begins, others when its bottom halves have run.
    pub(super) fn poll_in_any_order(&mut self, choose: &mut dyn Choose) {
        let first = self.one_more(choose, ChoicePoint::WorkNext);
        let ready = self.aio.main.ready();
        if ready {
            self.aio.main.begin_poll();
        }
        self.aio.stack.push(Frame::Handlers);
        if ready {
            self.aio.stack.extend([Frame::More, Frame::BhLoop(Ctx::Main)]);
        }
        if let Some(first) = first {
            self.aio.stack.extend([Frame::More, Frame::Complete(first)]);
        }
    }

    /// Nothing is ready: a request is done, perhaps with others in the same round, or the next timer goes off.
    pub(super) fn block_for_any_event(&mut self, choose: &mut dyn Choose) -> bool {
        let open: Vec<ReqId> = self.aio.in_flight.iter().map(|r| r.id).collect();
        let timer = self.timer_on_offer();
        let among = open.len() + usize::from(timer.is_some());
        let pick = match among {
            0 => return false,
            1 => 0,
            _ => {
                let of = |i: u32| match open.get(i as usize) {
                    Some(request) => self.subject_of(*request),
                    None => self.subject_of_timer(timer.as_ref()),
                };
                let about = &mut |i: u32| match open.get(i as usize) {
                    Some(request) => self.who_of(*request),
                    None => self.timer_who(timer.as_ref()),
                };
                let among = u32::try_from(among).expect("few requests");
                choose.choose_of(ChoicePoint::CompleteNext, among, &of, about) as usize
            }
        };
        match timer {
            Some(timer) if pick == open.len() => {
                self.now = self.now.max(timer.deadline);
                for request in &mut self.aio.in_flight {
                    request.passed += 1;
                }
                self.aio.stack.push(Frame::RunTimers);
            }
            _ => self.aio.stack.extend([Frame::More, Frame::Complete(open[pick])]),
        }
        true
    }

    /// Whether it makes a difference if one more request is done in this round already: it goes before what is ready, before timers that
    /// are due, and before a condition that is waited for is looked at again. Otherwise the next round finds all as it is.
    pub(super) fn more_matters(&self) -> bool {
        let due = || self.aio.timers.iter().any(|timer| timer.deadline <= self.now);
        let waited_for = || self.aio.stack.iter().any(|frame| matches!(frame, Frame::Poll(_)));
        !self.aio.in_flight.is_empty() && (self.anything_ready() || due() || waited_for())
    }

    /// Whether orders are open and it makes a difference if worker threads did another request before this one.
    pub(super) fn another_may_have_worked(&self, id: ReqId) -> bool {
        self.aio.order && self.aio.in_flight.len() > 1 && !self.rivals(id).is_empty()
    }

    /// Requests under way for the same bytes of a file, if the one or the other changes them. Worker threads do them in any order, and
    /// which of them is noticed first says nothing of it (`thread_pool_completion_bh` looks at the newest first).
    fn rivals(&self, id: ReqId) -> Vec<ReqId> {
        let open = &self.aio.in_flight;
        let Some(this) = open.iter().find(|r| r.id == id && r.worked.is_none()) else { return Vec::new() };
        let rival = |other: &&DeviceRequest| {
            let meet = this.offset < other.offset + other.bytes && other.offset < this.offset + this.bytes;
            let matters = matches!((changes(&this.op), changes(&other.op)), (Some(a), Some(b)) if a || b);
            other.id != id && other.worked.is_none() && meet && matters && self.same_file(this.node, other.node)
        };
        open.iter().filter(rival).map(|other| other.id).collect()
    }

    fn same_file(&self, a: NodeId, b: NodeId) -> bool {
        let path = |node| Some(&self.graph.nodes.get(node)?.file_driver()?.path);
        path(a).is_some_and(|file| path(b) == Some(file))
    }

    /// `Frame::Complete`, where another request may have been done first: which; calm: none. Asks again until there is none.
    pub(super) fn ask_who_worked_first(&mut self, choose: &mut dyn Choose, id: ReqId) {
        let rivals = self.rivals(id);
        let nth = |i: u32| if i == 0 { id } else { rivals[i as usize - 1] };
        let among = u32::try_from(rivals.len()).expect("few requests") + 1;
        let of = |i: u32| self.subject_of(nth(i));
        let pick = choose.choose_of(ChoicePoint::WorkNext, among, &of, &mut |i| self.who_of(nth(i)));
        let first = nth(pick);
        if pick == 0 {
            self.aio.stack.pop();
            self.complete(id);
        } else if let Some(i) = self.aio.in_flight.iter().position(|r| r.id == first) {
            let value = self.device_work(&self.aio.in_flight[i].clone());
            self.aio.in_flight[i].worked = Some(Box::new(value));
        }
    }

    /// `Frame::More` and `Frame::MoreHere`, which stay until no more is done. Requests count that were sent in this very round.
    pub(super) fn ask_for_more(&mut self, choose: &mut dyn Choose, point: ChoicePoint) {
        match self.one_more(choose, point) {
            Some(request) => self.aio.stack.push(Frame::Complete(request)),
            None => drop(self.aio.stack.pop()),
        }
    }

    /// Whether one more request is done, and which; calm: none.
    fn one_more(&self, choose: &mut dyn Choose, point: ChoicePoint) -> Option<ReqId> {
        let open = &self.aio.in_flight;
        if open.is_empty() {
            return None;
        }
        let of = |i: u32| match i.checked_sub(1) {
            None => self.subject(Subject::PROCESS),
            Some(i) => self.subject_of(open[i as usize].id),
        };
        let among = u32::try_from(open.len()).expect("few requests") + 1;
        let about = &mut |i: u32| self.who_of(open[i as usize - 1].id);
        let pick = choose.choose_of(point, among, &of, about);
        pick.checked_sub(1).map(|i| open[i as usize].id)
    }
}

/// Whether a request changes the bytes that it is of; `None` if it is of none.
fn changes(op: &DeviceOp) -> Option<bool> {
    match op {
        DeviceOp::Read => Some(false),
        DeviceOp::Write(_) | DeviceOp::Copy { .. } | DeviceOp::Zero { .. } | DeviceOp::Discard => Some(true),
        DeviceOp::Flush | DeviceOp::Truncate | DeviceOp::Nothing => None,
    }
}
