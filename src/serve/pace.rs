//! How sleeps pass: with the wall clock, or at once.
//!
//! Only timers sleep. Requests take no wall time at all, whatever they take in virtual time: so a timer's sleep is counted in wall time
//! from the moment it was set, and a request that is under way is not held up by a timer that must wait.

use super::engine::Next;
use crate::base::time::{self, Span};
use crate::world::World;
use crate::world::aio::timer::TimerKind;
use std::time::{Duration, Instant};

/// `--sim-pace`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// Sleeps follow the wall clock; all else happens at once.
    #[default]
    Real,
    /// Sleeps take no time too.
    Asap,
}

/// A timer and when its sleep is over.
#[derive(Debug)]
struct Sleep {
    kind: TimerKind,
    deadline: time::Instant,
    due: Instant,
}

/// The sleeps that are under way.
#[derive(Debug)]
pub(super) struct Sleeps {
    pace: Pace,
    sleeps: Vec<Sleep>,
    /// Since when the world is at rest with a timer, in both times.
    rests: Option<(Instant, time::Instant)>,
    /// Timers up to here need not wait: qtest moved the clock.
    allowed: time::Instant,
}

impl Sleeps {
    pub(super) fn new(pace: Pace) -> Sleeps {
        Sleeps { pace, sleeps: Vec::new(), rests: None, allowed: time::Instant::START }
    }

    /// Whether the timer that is next must wait for the wall clock.
    pub(super) fn must_wait(&mut self, world: &World) -> bool {
        self.rests = None;
        if self.pace == Pace::Asap || world.timers().next().is_none() {
            self.sleeps.clear();
            return false;
        }
        let now = Instant::now();
        self.note(world, now);
        self.waits(now).is_some()
    }

    /// Brings the list up to date with the world's timers.
    fn note(&mut self, world: &World, now: Instant) {
        self.sleeps.retain(|s| world.timers().any(|(kind, deadline)| (kind, deadline) == (s.kind, s.deadline)));
        for (kind, deadline) in world.timers() {
            if !self.sleeps.iter().any(|s| s.kind == kind) {
                let due = now + Duration::from_nanos((deadline - world.now).as_nanos());
                self.sleeps.push(Sleep { kind, deadline, due });
            }
        }
    }

    /// Until when the timer that comes first must wait, if it must.
    fn waits(&self, now: Instant) -> Option<Instant> {
        let next = self.sleeps.iter().min_by_key(|s| s.deadline)?;
        (next.due > now && next.deadline > self.allowed).then_some(next.due)
    }

    /// At rest but for timers: whether a command may be looked at, and until when.
    pub(super) fn rest(&mut self, world: &World) -> Option<Next> {
        if self.pace == Pace::Asap {
            return None;
        }
        let now = Instant::now();
        self.note(world, now);
        self.rests.get_or_insert((now, world.now));
        self.waits(now).map(Next::Sleeps)
    }

    /// When the world can go on though it is not at rest, if a timer is all it waits for.
    pub(super) fn until(&self) -> Option<Instant> {
        self.waits(Instant::now())
    }

    /// A command came while the world slept: so much of the sleep is over.
    /// Whether it did.
    pub(super) fn catch_up(&mut self, world: &mut World) -> bool {
        let Some((since, then)) = self.rests.take() else { return false };
        let slept = u64::try_from(since.elapsed().as_nanos()).map_or(Span::MAX, Span::from_nanos);
        let mut time = then + slept;
        if let Some(next) = world.next_deadline() {
            time = time.min(next.just_before());
        }
        world.now = world.now.max(time);
        true
    }

    /// qtest's `clock_step`: timers up to `time` may go off.
    pub(super) fn allow(&mut self, time: time::Instant) {
        self.allowed = self.allowed.max(time);
    }
}
