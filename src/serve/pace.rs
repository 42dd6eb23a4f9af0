//! How time passes: sleeps with the wall clock, all at once, or requests with the wall clock too.
//!
//! At the pace `real` only timers sleep. Requests take no wall time at all, whatever they take in virtual time: so a timer's sleep is counted
//! in wall time from the moment it was set, and a request that is under way is not held up by a timer that must wait.
//!
//! At the pace `disk` virtual time as a whole follows the wall clock while something is under way. The process blocks where QEMU's would,
//! with nothing ready, until what comes next is due; there a command may be looked at. What happens in which order depends on virtual time
//! alone, and so does not depend on how fast the machine is, but for the moments at which commands come.

use super::engine::Next;
use crate::base::time::{self, Span};
use crate::choice::Choose;
use crate::host::DiskRates;
use crate::world::World;
use crate::world::aio::timer::TimerKind;
use std::time::{Duration, Instant};

/// `--sim-pace`: what takes time by the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServePace {
    /// Sleeps follow the wall clock; all else happens at once.
    #[default]
    Real,
    /// Sleeps take no time too.
    Asap,
    /// Requests take time, too, as on a disk of these rates.
    Disk(DiskRates),
}

/// So far the world may be behind the wall clock and still make up for it; what it is late beyond that is forgotten.
const LATE: Duration = Duration::from_millis(100);

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
    pace: ServePace,
    sleeps: Vec<Sleep>,
    /// Since when the world is at rest with a timer, in both times.
    rests: Option<(Instant, time::Instant)>,
    /// Timers up to here need not wait: qtest moved the clock.
    allowed: time::Instant,
    /// Where requests take time: one moment in both times, since something is under way.
    anchor: Option<(Instant, time::Instant)>,
}

impl Sleeps {
    pub(super) fn new(pace: ServePace) -> Sleeps {
        Sleeps { pace, sleeps: Vec::new(), rests: None, allowed: time::Instant::START, anchor: None }
    }

    /// Whether the timer that is next must wait for the wall clock.
    pub(super) fn must_wait(&mut self, world: &World) -> bool {
        self.rests = None;
        if self.pace != ServePace::Real {
            self.sleeps.clear();
            return false;
        }
        // One that the next step sets waits, too: the main thread may poll for it at once.
        if world.timers().next().is_none() {
            self.sleeps.clear();
            return true;
        }
        let now = Instant::now();
        self.note(world, now);
        // One that goes off in the next step says nothing of those behind it.
        let later = self.sleeps.iter().filter(|s| s.deadline > world.now).min_by_key(|s| s.deadline);
        later.is_none_or(|next| next.due > now && next.deadline > self.allowed)
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
        if self.pace != ServePace::Real {
            return None;
        }
        let now = Instant::now();
        self.note(world, now);
        self.rests.get_or_insert((now, world.now));
        self.waits(now).map(Next::Sleeps)
    }

    /// Where requests take time: until when the world blocks, if it does. The moment may have passed.
    pub(super) fn blocks(&mut self, world: &mut World, choose: &mut dyn Choose) -> Option<Instant> {
        if !matches!(self.pace, ServePace::Disk(_)) {
            return None;
        }
        let due = world.blocks_until(choose)?;
        let now = Instant::now();
        let (since, then) = *self.anchor.get_or_insert((now, world.now));
        let until = since + Duration::from_nanos((due - then).as_nanos());
        if due <= self.allowed || now.saturating_duration_since(until) > LATE {
            self.anchor = Some((now, due));
            return Some(now);
        }
        Some(until)
    }

    /// Nothing is under way: how long that lasts is not counted.
    pub(super) fn idle(&mut self) {
        self.anchor = None;
    }

    /// When the world can go on though it is not at rest, if a timer is all it waits for.
    pub(super) fn until(&self) -> Option<Instant> {
        self.waits(Instant::now())
    }

    /// A command came while the world slept: so much of the sleep is over.
    /// Whether it did.
    pub(super) fn catch_up(&mut self, world: &mut World) -> bool {
        let Some((since, then)) = self.rests.take().or(self.anchor) else { return false };
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
