//! Virtual time: points of it, stretches of it, and clocks that are set to another time.
//!
//! Exploring sets the clock of a world back, so that worlds which differ only in what time it is become equal ([`Rebase`]). A field that is
//! forgotten there does not compile: `rebase!` takes a value apart without `..`, and a field that it is told holds no instant
//! has to be [`Timeless`], which the compiler looks up through all that the field is made of.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Add, AddAssign, Div, Mul, Rem, Sub};
use std::panic::RefUnwindSafe;
use std::sync::Arc;

/// A stretch of virtual time, to the nanosecond. Sums that are longer than 584 years are that long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);
    /// The longest one.
    pub const MAX: Span = Span(u64::MAX);
    /// 1 µs
    pub const MICROSECOND: Span = Span(1_000);
    /// 1 ms
    pub const MILLISECOND: Span = Span(1_000_000);
    /// 1 s
    pub const SECOND: Span = Span(1_000_000_000);

    /// So many nanoseconds.
    #[must_use]
    pub const fn from_nanos(n: u64) -> Span {
        Span(n)
    }

    /// So many microseconds.
    #[must_use]
    pub const fn from_micros(n: u64) -> Span {
        Span(n.saturating_mul(Span::MICROSECOND.0))
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(n: u64) -> Span {
        Span(n.saturating_mul(Span::MILLISECOND.0))
    }

    /// So many seconds.
    #[must_use]
    pub const fn from_secs(n: u64) -> Span {
        Span(n.saturating_mul(Span::SECOND.0))
    }

    /// How many nanoseconds it lasts.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How many whole milliseconds it lasts.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / Span::MILLISECOND.0
    }
}

impl Add for Span {
    type Output = Span;
    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Span {
    fn add_assign(&mut self, other: Span) {
        *self = *self + other;
    }
}

impl Mul<u64> for Span {
    type Output = Span;
    fn mul(self, times: u64) -> Span {
        Span(self.0.saturating_mul(times))
    }
}

impl Div<u64> for Span {
    type Output = Span;
    fn div(self, by: u64) -> Span {
        Span(self.0 / by)
    }
}

/// How many times the other one goes into it.
impl Div for Span {
    type Output = u64;
    fn div(self, by: Span) -> u64 {
        self.0 / by.0
    }
}

/// What is left then.
impl Rem for Span {
    type Output = Span;
    fn rem(self, by: Span) -> Span {
        Span(self.0 % by.0)
    }
}

/// A point of virtual time: how long after the start of the simulated process.
///
/// It is no `RefUnwindSafe`, for [`Timeless`] to see it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    since_start: Span,
    clock: PhantomData<dyn Send + Sync + Unpin>,
}

impl Instant {
    /// When the process starts.
    pub const START: Instant = Instant::from_nanos(0);
    /// The last of all, which nothing reaches.
    pub const MAX: Instant = Instant::from_nanos(u64::MAX);

    /// So many nanoseconds after the start.
    #[must_use]
    pub const fn from_nanos(n: u64) -> Instant {
        Instant { since_start: Span(n), clock: PhantomData }
    }

    /// How many nanoseconds after the start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.since_start.0
    }

    /// The last instant before it; of the first one, itself.
    #[must_use]
    pub const fn just_before(self) -> Instant {
        Instant::from_nanos(self.as_nanos().saturating_sub(1))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Instant").field(&self.as_nanos()).finish()
    }
}

/// In milliseconds, with all places.
impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06} ms", self.as_nanos() / 1_000_000, self.as_nanos() % 1_000_000)
    }
}

impl Add<Span> for Instant {
    type Output = Instant;
    fn add(self, span: Span) -> Instant {
        Instant { since_start: self.since_start + span, clock: PhantomData }
    }
}

impl AddAssign<Span> for Instant {
    fn add_assign(&mut self, span: Span) {
        *self = *self + span;
    }
}

/// How long ago an instant was; no time, if it is still to come.
impl Sub for Instant {
    type Output = Span;
    fn sub(self, earlier: Instant) -> Span {
        Span(self.as_nanos().saturating_sub(earlier.as_nanos()))
    }
}

/// A clock that is set to another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shift {
    /// What it showed.
    pub from: Instant,
    /// What it shows from now on.
    pub to: Instant,
}

impl Shift {
    /// An instant on the new clock; what was before its beginning is its beginning.
    #[must_use]
    pub fn of(self, time: Instant) -> Instant {
        if self.to >= self.from {
            time + (self.to - self.from)
        } else {
            Instant::from_nanos(time.as_nanos().saturating_sub((self.from - self.to).as_nanos()))
        }
    }
}

/// What holds instants, which move when its world's clock is set to another time.
pub trait Rebase {
    /// Whether it holds an instant. What does not is left alone, and so stays shared with other worlds.
    fn has_instants(&self) -> bool;

    /// Moves all its instants.
    fn rebase(&mut self, shift: Shift);
}

impl Rebase for Instant {
    fn has_instants(&self) -> bool {
        true
    }

    fn rebase(&mut self, shift: Shift) {
        *self = shift.of(*self);
    }
}

macro_rules! rebase_each {
    ($($many:ty),*) => {
        $(
            impl<T: Rebase> Rebase for $many {
                fn has_instants(&self) -> bool {
                    self.iter().any(T::has_instants)
                }

                fn rebase(&mut self, shift: Shift) {
                    self.iter_mut().for_each(|one| one.rebase(shift));
                }
            }
        )*
    };
}

rebase_each!(Option<T>, Vec<T>, VecDeque<T>, [T]);

impl<T: Rebase + ?Sized> Rebase for Box<T> {
    fn has_instants(&self) -> bool {
        (**self).has_instants()
    }

    fn rebase(&mut self, shift: Shift) {
        (**self).rebase(shift);
    }
}

impl<T: Rebase + Clone> Rebase for Arc<T> {
    fn has_instants(&self) -> bool {
        (**self).has_instants()
    }

    fn rebase(&mut self, shift: Shift) {
        if self.has_instants() {
            Arc::make_mut(self).rebase(shift);
        }
    }
}

/// What holds no [`Instant`], however deep.
///
/// The compiler finds out: an auto trait holds for a type if it holds for all that the type is made of, behind boxes and in collections too.
/// There is no way to declare one in stable Rust. `RefUnwindSafe` serves: nothing else in a world lacks it, and nobody needs it of one. The
/// error of a field that is no such thing tells the way from there down to its `Instant`: list the field under `moves`, and give the types on
/// that way a `rebase!` of their own.
pub trait Timeless: RefUnwindSafe {}

impl<T: RefUnwindSafe + ?Sized> Timeless for T {}

/// Says nothing; does not compile for a type that may hold an instant.
#[inline]
pub fn timeless<T: Timeless + ?Sized>(_: &T) {}

/// Says how a type is rebased: what in it holds instants that move with the clock. All else must be [`Timeless`].
///
/// A struct names all its fields: `moves` are rebased themselves, `stays` keep their instants as they are, `rest` holds none. An enum names all
/// its variants with their values; those behind which `moves` stands are rebased.
macro_rules! rebase {
    (@has; $($value:ident),*) => {{
        $($crate::base::time::timeless($value);)*
        false
    }};
    (@has moves; $value:ident) => { $crate::base::time::Rebase::has_instants($value) };
    (@shift $shift:ident; $($value:ident),*) => {{
        $($crate::base::time::timeless($value);)*
    }};
    (@shift $shift:ident moves; $value:ident) => { $crate::base::time::Rebase::rebase($value, $shift) };
    ($name:ident { moves: $($moves:ident),*; $(stays: $($stays:ident),*;)? rest: $($rest:ident),* $(,)? }) => {
        impl $crate::base::time::Rebase for $name {
            fn has_instants(&self) -> bool {
                let $name { $($moves,)* .. } = self;
                false $(|| $crate::base::time::Rebase::has_instants($moves))*
            }

            fn rebase(&mut self, shift: $crate::base::time::Shift) {
                let $name { $($moves,)* $($($stays: _,)*)? $($rest,)* } = self;
                $($crate::base::time::timeless($rest);)*
                $($crate::base::time::Rebase::rebase($moves, shift);)*
            }
        }
    };
    (enum $name:ident { $($(#[$attr:meta])* $variant:ident $(($($value:ident),+))? $($moves:ident)?),* $(,)? }) => {
        impl $crate::base::time::Rebase for $name {
            fn has_instants(&self) -> bool {
                match self {
                    $($(#[$attr])* $name::$variant $(($($value),+))? => $crate::base::time::rebase!(@has $($moves)?; $($($value),+)?),)*
                }
            }

            fn rebase(&mut self, shift: $crate::base::time::Shift) {
                match self {
                    $($(#[$attr])* $name::$variant $(($($value),+))? => $crate::base::time::rebase!(@shift shift $($moves)?; $($($value),+)?),)*
                }
            }
        }
    };
}

pub(crate) use rebase;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn sums_end_where_time_ends() {
        assert_eq!(at(5) + Span::from_nanos(3), at(8));
        assert_eq!(Instant::MAX + Span::SECOND, Instant::MAX);
        assert_eq!(Span::MAX + Span::SECOND, Span::MAX);
        assert_eq!((at(8) - at(5), at(5) - at(8)), (Span::from_nanos(3), Span::ZERO));
        assert_eq!((at(8).just_before(), Instant::START.just_before()), (at(7), Instant::START));
    }

    #[test]
    fn instants_print_as_milliseconds() {
        assert_eq!(at(12_000_034).to_string(), "12.000034 ms");
    }

    #[derive(Clone, Debug, PartialEq)]
    struct Clock {
        alarms: Vec<Option<Instant>>,
        engraved: Instant,
        ring: Ring,
        owner: &'static str,
    }

    #[derive(Clone, Debug, PartialEq)]
    enum Ring {
        Off,
        Tune(u8),
        Until(Box<Instant>),
    }

    rebase!(Clock { moves: alarms, ring; stays: engraved; rest: owner });
    rebase!(enum Ring { Off, Tune(number), Until(end) moves });

    #[test]
    fn a_clock_is_set() {
        let clock = |shown: u64, ring| Clock {
            alarms: vec![Some(at(shown + 2)), None, Some(at(shown - 3))],
            engraved: at(7),
            ring,
            owner: "somebody",
        };
        for (from, to) in [(10, 100), (100, 10), (10, 10)] {
            let shift = Shift { from: at(from), to: at(to) };
            let mut set = clock(from, Ring::Until(Box::new(at(from))));
            assert!(set.has_instants());
            set.rebase(shift);
            assert_eq!(set, clock(to, Ring::Until(Box::new(at(to)))));
        }
        let mut early = Some(at(4));
        early.rebase(Shift { from: at(10), to: at(5) });
        assert_eq!(early, Some(Instant::START), "what was before the beginning of the clock is its beginning");
        assert!(![Ring::Off, Ring::Tune(3)].has_instants());
    }
}
