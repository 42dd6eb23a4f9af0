//! One dispatch of the process: main-thread frames, then a round of the event loop (`util/aio-posix.c`, `util/main-loop.c`).

use super::queue::Ctx;
use crate::base::time::{Instant, Span};
use crate::choice::{ChoicePoint, Choose, Subject};
use crate::world::World;
use crate::world::arena::{CellId, JobId, NodeId, ReqId};
use crate::world::frame::{Flow, Frame};
use std::sync::Arc;

/// Until when the main thread polls (`AIO_WAIT_WHILE`): it goes on while the condition holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cond {
    /// `bdrv_drain_poll_top_level`
    Drain(NodeId),
    /// `bdrv_drain_all_poll`
    DrainAll,
    /// `bdrv_graph_wrlock`: readers are about.
    Readers,
    /// A coroutine has not left its result yet.
    Cell(CellId),
    /// `job_finish_sync_locked`: enters the job, then looks whether it is completed.
    JobCompleted(JobId),
    /// `blk_drain`
    Backend(crate::world::arena::BackendId),
    /// `blk_exp_close_all`: there are exports.
    Exports,
    /// `nbd_server_free`: clients are connected.
    NbdConnections,
    /// `wait_break`: no request is suspended under this tag. Where nobody suspends any, it waits for ever.
    Break(Option<NodeId>, Arc<str>),
}

/// What one call of [`World::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stepped {
    /// Something ran.
    Ran,
    /// Nothing can run before somebody outside acts; the main loop is idle.
    Idle,
    /// Nothing can run, and the main thread polls for something that can't come.
    Hang,
}

/// Virtual time that one round of the event loop takes, so that no loop is free.
const ROUND: Span = Span::MICROSECOND;

impl World {
    /// One dispatch: main-thread frames until they must wait, then one round of the event loop.
    pub fn step(&mut self, choose: &mut dyn Choose) -> Stepped {
        if self.aio.starved {
            return Stepped::Hang;
        }
        let stepped = self.dispatch(choose);
        if self.aio.starved { Stepped::Hang } else { stepped }
    }

    /// `aio_poll(qemu_get_aio_context(), true)`
    pub(super) fn aio_poll(&mut self, choose: &mut dyn Choose) -> bool {
        self.now += if self.aio.order { Span::ZERO } else { ROUND };
        if self.aio.main.ready() {
            self.poll_nonblocking(choose);
            return true;
        }
        self.block_for_event(choose)
    }

    /// `os_host_main_loop_wait`: the sources of both contexts, `qemu_aio_context` first.
    pub(super) fn main_loop_wait(&mut self, choose: &mut dyn Choose) -> Stepped {
        self.now += if self.aio.order { Span::ZERO } else { ROUND };
        if self.aio.main.ready() || self.aio.iohandler.ready() {
            if self.aio.iohandler.ready() {
                self.aio.iohandler.begin_poll();
                self.aio.stack.push(Frame::BhLoop(Ctx::Iohandler));
            }
            self.poll_nonblocking(choose);
            return Stepped::Ran;
        }
        if self.block_for_event(choose) { Stepped::Ran } else { Stepped::Idle }
    }

    fn poll_nonblocking(&mut self, choose: &mut dyn Choose) {
        if self.aio.order {
            return self.poll_in_any_order(choose);
        }
        self.assign_latencies(choose);
        if self.aio.main.ready() {
            self.aio.main.begin_poll();
            self.seq([Frame::BhLoop(Ctx::Main), Frame::Handlers]);
        } else {
            self.aio.stack.push(Frame::Handlers);
        }
        // A request may be done just when this round begins: its completion is the newest bottom half then.
        if !self.aio.in_flight.is_empty() {
            let among = u32::try_from(self.aio.in_flight.len()).expect("few requests") + 1;
            let order = self.by_due();
            let of =
                |i: u32| if i == 0 { self.subject(Subject::PROCESS) } else { self.subject_of(order[i as usize - 1]) };
            let about = &mut |alternative| self.alternative_who(alternative as usize - 1);
            let pick = choose.choose_of(ChoicePoint::WorkNext, among, &of, about);
            if pick > 0 {
                self.aio.stack.push(Frame::Complete(order[pick as usize - 1]));
            }
        }
    }

    /// Blocks until a request is done or a timer is due, and handles that one.
    fn block_for_event(&mut self, choose: &mut dyn Choose) -> bool {
        if self.aio.order {
            return self.block_for_any_event(choose);
        }
        self.assign_latencies(choose);
        let timer = self.next_timer().cloned();
        let requests = self.aio.in_flight.len();
        let (first, due) = match self.aio.in_flight.iter().min_by_key(|r| r.due) {
            Some(request) => (Some(request.id), request.due.unwrap_or(Instant::MAX)),
            None => (None, Instant::MAX),
        };
        let timer_first = timer.as_ref().is_some_and(|t| t.deadline < due);
        let among = requests + usize::from(timer.is_some());
        if among == 0 {
            return false;
        }
        // The alternatives: requests as they are due, and the timer (`None`) among them. A calm loop needs no list.
        let nth = |order: &[ReqId], pick: usize| match (timer_first, pick) {
            (true, 0) => None,
            (true, pick) => Some(order[pick - 1]),
            (false, pick) => order.get(pick).copied(),
        };
        let mut pick = 0;
        let mut picked = if timer_first { None } else { first };
        if among > 1 {
            let order = self.by_due();
            let of = |i: u32| match nth(&order, i as usize) {
                Some(request) => self.subject_of(request),
                None => self.subject_of_timer(timer.as_ref()),
            };
            let about = &mut |i: u32| match nth(&order, i as usize) {
                Some(request) => self.who_of(request),
                None => self.timer_who(timer.as_ref()),
            };
            pick = choose.choose_of(ChoicePoint::CompleteNext, u32::try_from(among).expect("few requests"), &of, about);
            picked = nth(&order, pick as usize);
        }
        let is_due = timer.as_ref().is_some_and(|timer| timer.deadline <= self.now);
        if picked.is_none() && !is_due && choose.sleeps_wait() {
            if requests == 0 {
                return false;
            }
            // The request that is done first goes before the timer.
            pick = u32::from(timer_first);
            choose.amend(pick);
            picked = first;
        }
        match (picked, timer) {
            (Some(id), _) => {
                if pick == 0 {
                    self.now = self.now.max(due);
                }
                // `aio_dispatch` ends with the timers.
                self.seq([Frame::Complete(id), Frame::RunTimers]);
            }
            (None, Some(timer)) => {
                self.now = self.now.max(timer.deadline);
                self.aio.stack.push(Frame::RunTimers);
            }
            (None, None) => unreachable!("an alternative was picked that was not offered"),
        }
        true
    }

    /// `Frame::Handlers`: requests that are done by now, then timers that are due.
    pub(in crate::world) fn handlers(&mut self) -> Flow {
        let done = self.aio.in_flight.iter().filter(|r| r.due.is_some_and(|due| due <= self.now));
        // The first of those that are due at the same time is the oldest.
        match done.min_by_key(|r| r.due).map(|r| r.id) {
            Some(id) => self.seq([Frame::Complete(id), Frame::Handlers]),
            None => self.run_timers(),
        }
    }
}
