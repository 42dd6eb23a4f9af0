//! Choices: the only source of nondeterminism. Wherever QEMU leaves an order or a duration open, the simulation asks
//! [`Choose::choose`] at a named [`ChoicePoint`]; a run is a pure function of the scenario, the quirks and the answers.
//!
//! Most tests need one line: [`Chooser::seed`] makes the choices of `run --seed`, and `Chooser::Calm` none that a quiet machine would not.
//!
//! Answer 0 is always the calm one: what QEMU does on a quiet machine. [`Calm`] gives nothing else, [`Walk`], [`Even`], [`Pct`],
//! [`Urw`] and [`Bounded`] draw from a seed, each in its way, [`Replay`] repeats a recorded [`ChoiceLog`], and [`Recorder`] writes one
//! while it asks somebody else. [`Chooser`] is any of these but the last.

mod bounded;
mod bytes;
mod even;
mod log;
mod pct;
mod preempt;
mod replay;
mod stream;
mod urw;
mod walk;

pub use bounded::Bounded;
pub use bytes::Bytes;
pub use even::Even;
pub use log::{Choice, ChoiceLog, LogError, Numbered};
pub use pct::Pct;
pub use preempt::{Addressee, Deviate, Deviation, DeviationError, DeviationRecorder, Deviations, REQUESTS};
pub use replay::{Divergence, Replay, ReplayMode};
pub use stream::Stream;
pub use urw::Urw;
pub use walk::{KNOBS, Walk};

use std::fmt;

/// A place where the simulation has more than one way to go on.
///
/// The payload, where there is one, is the subject: it makes a log readable and lets a replay notice when it no longer fits.
/// It has no influence on what is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChoicePoint {
    /// Which request in flight completes next. Alternatives as they are due, those of one time in order of submission; where orders are
    /// open ([`ChoicePoint::Mode`]), nothing is due and they stand in order of submission. The next timer is one of them where it could go
    /// off before a request: at its own time, or last where orders are open.
    CompleteNext,
    /// How long a request takes. Subject: the node's number. Shortest first.
    Latency(u32),
    /// Whether the client sends its next command now or reads on. Alternative 0: it waits until all is read. Alternative 2, right
    /// after a reply: it has sent before the dispatcher looked for another request.
    ClientSend,
    /// How much of what stands ready the client reads. Alternative 0: all of it.
    ClientRead,
    /// Which guest goes on next. Alternatives in order of the guests' numbers.
    GuestNext,
    /// How long a guest thinks before its next request. Subject: the guest's number. No gap first.
    GuestGap(u32),
    /// Where a request's completion stands among bottom halves that are ready together: 0 behind the next one, else it comes now. Before the
    /// first of them and behind the last one [`ChoicePoint::WorkNext`] asks, those between are asked for only if the first question of this
    /// kind, right behind [`ChoicePoint::Mode`], is answered by 1; and that is asked only of those who want it ([`Choose::wants_bh_order`]).
    BhOrder,
    /// Which of several ready coroutines is entered next. Alternatives in the order in which they were woken.
    WakeOrder,
    /// Which of several timers that are due together fires first. Alternatives in the order of arming.
    TimerOrder,
    /// Which of the kinds of ready work (completion, bottom half, timer, coroutine) comes next. QEMU's usual order first.
    WorkNext,
    /// Whether the client sends to a process that only sleeps, or lets it sleep until its next timer. Alternative 0: it sends.
    ClientWait,
    /// A choice that the scenario leaves open itself. Subject: its number in the file.
    Scenario(u32),
    /// What is left open from here on: bit 0 the order of completions instead of their times, bit 1 where faults strike. Asked once,
    /// where exploring starts, and only of those who want it ([`Choose::wants_mode`]).
    Mode,
    /// How many requests that a blkdebug rule would hit are spared before it strikes. Subject: the rule's number. None first.
    Fault(u32),
}

/// Kinds of choice points: name, stream number (never reused or renumbered: seeds would change their meaning), constructor.
/// Stream 0 belongs to the knobs of [`Walk`].
const KINDS: &[(&str, u8, Make)] = &[
    ("complete-next", 1, Make::Plain(ChoicePoint::CompleteNext)),
    ("latency", 2, Make::About(ChoicePoint::Latency)),
    ("client-send", 3, Make::Plain(ChoicePoint::ClientSend)),
    ("client-read", 4, Make::Plain(ChoicePoint::ClientRead)),
    ("guest-next", 5, Make::Plain(ChoicePoint::GuestNext)),
    ("guest-gap", 6, Make::About(ChoicePoint::GuestGap)),
    ("bh-order", 7, Make::Plain(ChoicePoint::BhOrder)),
    ("wake-order", 8, Make::Plain(ChoicePoint::WakeOrder)),
    ("timer-order", 9, Make::Plain(ChoicePoint::TimerOrder)),
    ("work-next", 10, Make::Plain(ChoicePoint::WorkNext)),
    ("scenario", 11, Make::About(ChoicePoint::Scenario)),
    ("mode", 12, Make::Plain(ChoicePoint::Mode)),
    ("fault", 13, Make::About(ChoicePoint::Fault)),
    ("client-wait", 14, Make::Plain(ChoicePoint::ClientWait)),
];

/// One more than the largest stream number.
pub const STREAMS: usize = 15;

/// How a kind becomes a point: with or without a subject.
#[derive(Clone, Copy)]
enum Make {
    Plain(ChoicePoint),
    About(fn(u32) -> ChoicePoint),
}

impl ChoicePoint {
    /// The number of the random stream that answers this kind of point.
    #[must_use]
    pub const fn stream(self) -> u8 {
        match self {
            ChoicePoint::CompleteNext => 1,
            ChoicePoint::Latency(_) => 2,
            ChoicePoint::ClientSend => 3,
            ChoicePoint::ClientRead => 4,
            ChoicePoint::GuestNext => 5,
            ChoicePoint::GuestGap(_) => 6,
            ChoicePoint::BhOrder => 7,
            ChoicePoint::WakeOrder => 8,
            ChoicePoint::TimerOrder => 9,
            ChoicePoint::WorkNext => 10,
            ChoicePoint::Scenario(_) => 11,
            ChoicePoint::Mode => 12,
            ChoicePoint::Fault(_) => 13,
            ChoicePoint::ClientWait => 14,
        }
    }

    /// The name of the kind, as logs show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        KINDS[usize::from(self.stream()) - 1].0
    }

    /// What the point is about, where its kind has a subject.
    #[must_use]
    pub const fn subject(self) -> Option<u32> {
        match self {
            ChoicePoint::Latency(n) | ChoicePoint::GuestGap(n) | ChoicePoint::Scenario(n) | ChoicePoint::Fault(n) => {
                Some(n)
            }
            _ => None,
        }
    }

    /// The point that is written `name` or `name:subject`.
    #[must_use]
    pub fn parse(text: &str) -> Option<ChoicePoint> {
        let (name, subject) = match text.split_once(':') {
            Some((name, subject)) => (name, Some(subject.parse().ok()?)),
            None => (text, None),
        };
        let (_, _, make) = KINDS.iter().find(|(known, _, _)| *known == name)?;
        match (make, subject) {
            (Make::Plain(point), None) => Some(*point),
            (Make::About(make), Some(subject)) => Some(make(subject)),
            _ => None,
        }
    }
}

impl fmt::Display for ChoicePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.subject().map_or(Ok(()), |subject| write!(f, ":{subject}"))
    }
}

/// Name and stream number of each kind of choice point.
pub fn kinds() -> impl Iterator<Item = (&'static str, u8)> {
    KINDS.iter().map(|(name, stream, _)| (*name, *stream))
}

/// How many alternatives [`ChoicePoint::Mode`] has.
pub const MODES: u32 = 4;
/// The bit of the answer to [`ChoicePoint::Mode`] that leaves orders open and not times.
pub const MODE_ORDER: u32 = 1;
/// The bit of the answer to [`ChoicePoint::Mode`] that leaves open where faults strike.
pub const MODE_FAULTS: u32 = 2;

/// Whom an alternative lets go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// [`Subject::PROCESS`], [`Subject::CLIENT`], or a job ([`Subject::job`]).
    pub task: u32,
    /// About how many steps it has left, at least 1.
    pub left: u32,
}

impl Subject {
    /// The task of what belongs to no job: bottom halves, the monitor.
    pub const PROCESS: u32 = 0;
    /// The task of the client.
    pub const CLIENT: u32 = 1;

    /// The task of a job, by its number.
    #[must_use]
    pub const fn job(number: u32) -> u32 {
        number.saturating_add(2)
    }
}

/// Says of an alternative which task goes on with it.
pub type Tasks<'a> = &'a dyn Fn(u32) -> Subject;
/// Says of an alternative whom it is about.
pub type AddresseeOf<'a> = &'a mut dyn FnMut(u32) -> Addressee;

/// Answers at choice points: a strategy, a list, a debugger.
pub trait Choose {
    /// Picks one of `among` alternatives, counted from 0. Callers ask only when `among` is 2 or more; the answer is
    /// always below `among`.
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32;

    /// The same for callers who can say whom an alternative is about. `about` is asked for alternatives from 1 on; where it
    /// is only a matter of how much of something, all of them have one subject. The answer of a chooser that does not look is
    /// that of [`choose`](Choose::choose).
    fn choose_about(&mut self, point: ChoicePoint, among: u32, about: AddresseeOf<'_>) -> u32 {
        _ = about;
        self.choose(point, among)
    }

    /// The same, where the caller can say of each alternative, 0 included, which task goes on with it. Only strategies that look at
    /// tasks call `of`; the others answer as [`choose_about`](Choose::choose_about).
    fn choose_of(&mut self, point: ChoicePoint, among: u32, of: Tasks<'_>, about: AddresseeOf<'_>) -> u32 {
        _ = of;
        self.choose_about(point, among, about)
    }

    /// Whether [`ChoicePoint::Mode`] is to be asked. Those who say no leave times open and faults where they are.
    fn wants_mode(&self) -> bool {
        false
    }

    /// Whether the first [`ChoicePoint::BhOrder`] is to be asked. Those who say no find requests done before and after bottom halves only.
    fn wants_bh_order(&self) -> bool {
        false
    }

    /// Where a replay stopped to fit, if this is one and it did. The runner looks after each step.
    fn diverged(&self) -> Option<&Divergence> {
        None
    }

    /// Whether the timer that is next must wait for something outside of the run, a wall clock. It is passed over then, and nothing
    /// happens where only timers are left.
    fn sleeps_wait(&self) -> bool {
        false
    }

    /// The last answer could not be followed, because a timer that must wait was picked: this one was taken in its place.
    fn amend(&mut self, _pick: u32) {}
}

impl<C: Choose + ?Sized> Choose for &mut C {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        (**self).choose(point, among)
    }

    fn choose_about(&mut self, point: ChoicePoint, among: u32, about: AddresseeOf<'_>) -> u32 {
        (**self).choose_about(point, among, about)
    }

    fn choose_of(&mut self, point: ChoicePoint, among: u32, of: Tasks<'_>, about: AddresseeOf<'_>) -> u32 {
        (**self).choose_of(point, among, of, about)
    }

    fn wants_mode(&self) -> bool {
        (**self).wants_mode()
    }

    fn wants_bh_order(&self) -> bool {
        (**self).wants_bh_order()
    }

    fn diverged(&self) -> Option<&Divergence> {
        (**self).diverged()
    }

    fn sleeps_wait(&self) -> bool {
        (**self).sleeps_wait()
    }

    fn amend(&mut self, pick: u32) {
        (**self).amend(pick);
    }
}

/// The calm schedule: always alternative 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Calm;

impl Choose for Calm {
    fn choose(&mut self, _point: ChoicePoint, _among: u32) -> u32 {
        0
    }
}

/// Keeps what it asked `inner` and what it got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recorder<C> {
    /// Who decides.
    pub inner: C,
    /// All that was chosen so far, calm picks included.
    pub log: ChoiceLog,
}

impl<C: Choose> Recorder<C> {
    /// A recorder with an empty log.
    pub fn new(inner: C) -> Self {
        Recorder { inner, log: ChoiceLog::default() }
    }
}

impl<C: Choose> Choose for Recorder<C> {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        let pick = self.inner.choose(point, among);
        self.log.push(Choice { point, among, pick });
        pick
    }

    fn choose_about(&mut self, point: ChoicePoint, among: u32, about: AddresseeOf<'_>) -> u32 {
        let pick = self.inner.choose_about(point, among, about);
        self.log.push(Choice { point, among, pick });
        pick
    }

    fn choose_of(&mut self, point: ChoicePoint, among: u32, of: Tasks<'_>, about: AddresseeOf<'_>) -> u32 {
        let pick = self.inner.choose_of(point, among, of, about);
        self.log.push(Choice { point, among, pick });
        pick
    }

    fn wants_mode(&self) -> bool {
        self.inner.wants_mode()
    }

    fn wants_bh_order(&self) -> bool {
        self.inner.wants_bh_order()
    }

    fn diverged(&self) -> Option<&Divergence> {
        self.inner.diverged()
    }
}

/// Any of the strategies, for callers that pick one while they run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Chooser {
    /// [`Calm`].
    Calm,
    /// [`Walk`].
    Walk(Box<Walk>),
    /// [`Even`].
    Even(Box<Even>),
    /// [`Pct`].
    Pct(Box<Pct>),
    /// [`Urw`].
    Urw(Box<Urw>),
    /// [`Bounded`].
    Bounded(Box<Bounded>),
    /// [`Replay`].
    Replay(Replay),
    /// [`Deviate`].
    Preempt(Box<Deviate>),
    /// [`Bytes`].
    Bytes(Bytes),
}

impl Chooser {
    /// Choices drawn from a seed, as `run --seed` makes them ([`Walk`]).
    #[must_use]
    pub fn seed(seed: u64) -> Chooser {
        Chooser::Walk(Box::new(Walk::new(seed)))
    }
}

/// Does the same for whichever variant it is.
macro_rules! each {
    ($self:expr, $inner:ident => $what:expr, $calm:expr) => {
        match $self {
            Chooser::Calm => $calm,
            Chooser::Walk($inner) => $what,
            Chooser::Even($inner) => $what,
            Chooser::Pct($inner) => $what,
            Chooser::Urw($inner) => $what,
            Chooser::Bounded($inner) => $what,
            Chooser::Replay($inner) => $what,
            Chooser::Preempt($inner) => $what,
            Chooser::Bytes($inner) => $what,
        }
    };
}

impl Choose for Chooser {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        each!(self, inner => inner.choose(point, among), 0)
    }

    fn choose_about(&mut self, point: ChoicePoint, among: u32, about: AddresseeOf<'_>) -> u32 {
        each!(self, inner => inner.choose_about(point, among, about), 0)
    }

    fn choose_of(&mut self, point: ChoicePoint, among: u32, of: Tasks<'_>, about: AddresseeOf<'_>) -> u32 {
        each!(self, inner => inner.choose_of(point, among, of, about), 0)
    }

    fn wants_mode(&self) -> bool {
        each!(self, inner => inner.wants_mode(), false)
    }

    fn wants_bh_order(&self) -> bool {
        each!(self, inner => inner.wants_bh_order(), false)
    }

    fn diverged(&self) -> Option<&Divergence> {
        match self {
            Chooser::Replay(replay) => replay.diverged(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_streams_agree_with_the_table() {
        for (i, (name, stream, make)) in KINDS.iter().enumerate() {
            let point = match make {
                Make::Plain(point) => *point,
                Make::About(make) => make(7),
            };
            assert_eq!((usize::from(*stream), point.stream(), point.name()), (i + 1, *stream, *name));
            assert_eq!(ChoicePoint::parse(&point.to_string()), Some(point));
        }
        assert_eq!(KINDS.len() + 1, STREAMS);
        assert_eq!(ChoicePoint::parse("latency"), None);
        assert_eq!(ChoicePoint::parse("bh-order:1"), None);
    }

    #[test]
    fn a_recorder_keeps_calm_picks_too() {
        let mut recorder = Recorder::new(Chooser::Calm);
        assert_eq!(recorder.choose(ChoicePoint::BhOrder, 2), 0);
        assert_eq!(recorder.log.len(), 1);
    }
}
