//! The ways to choose schedules, by name.

use crate::choice::{Bounded, Chooser, Even, MODE_ORDER, Pct, Urw, Walk};
use std::fmt;
use std::str::FromStr;

/// How schedules are drawn. Strategy and seed are all that is needed to have a schedule again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strategy {
    /// `calm`: what QEMU does on a quiet machine.
    Calm,
    /// `walk`: latencies and orders at random, each kind of choice as wild as the seed says ([`Walk`]).
    Walk,
    /// `uniform`: orders at random, each alternative equally likely ([`Even`]).
    Uniform,
    /// `pct:D`: priorities at random, with D - 1 change points ([`Pct`]).
    Pct(u32),
    /// `urw`: orders at random, weighted by the work each job has left ([`Urw`]).
    Urw,
    /// `preempt:N`: calm but for up to N choices at random moments ([`Bounded`]).
    Preempt(u32),
    /// `delay:N`: calm but for N times that the first in line is put back by one ([`Bounded`]).
    Delay(u32),
}

/// What takes its own bound when none is given.
const DEFAULT_BOUND: u32 = 2;
/// Bounds above this one are mistakes.
const MAX_BOUND: u32 = 1000;

impl Strategy {
    /// Each of them, bounded ones as they stand without a bound.
    pub const ALL: [Strategy; 7] = [
        Strategy::Calm,
        Strategy::Walk,
        Strategy::Uniform,
        Strategy::Pct(DEFAULT_BOUND + 1),
        Strategy::Urw,
        Strategy::Preempt(DEFAULT_BOUND),
        Strategy::Delay(DEFAULT_BOUND),
    ];

    /// Who makes the choices of the schedule `seed`.
    #[must_use]
    pub fn chooser(self, seed: u64) -> Chooser {
        self.chooser_in(MODE_ORDER, seed)
    }

    /// The same with another answer to [`ChoicePoint::Mode`](crate::choice::ChoicePoint::Mode). `calm` and `walk` are never asked.
    #[must_use]
    pub fn chooser_in(self, mode: u32, seed: u64) -> Chooser {
        match self {
            Strategy::Calm => Chooser::Calm,
            Strategy::Walk => Chooser::Walk(Box::new(Walk::new(seed))),
            Strategy::Uniform => Chooser::Even(Box::new(Even::new(seed).with_mode(mode))),
            Strategy::Pct(depth) => Chooser::Pct(Box::new(Pct::new(depth, seed).with_mode(mode))),
            Strategy::Urw => Chooser::Urw(Box::new(Urw::new(seed).with_mode(mode))),
            Strategy::Preempt(n) => Chooser::Bounded(Box::new(Bounded::deviations(n, seed).with_mode(mode))),
            Strategy::Delay(n) => Chooser::Bounded(Box::new(Bounded::delays(n, seed).with_mode(mode))),
        }
    }

    /// The name without a bound.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Strategy::Calm => "calm",
            Strategy::Walk => "walk",
            Strategy::Uniform => "uniform",
            Strategy::Pct(_) => "pct",
            Strategy::Urw => "urw",
            Strategy::Preempt(_) => "preempt",
            Strategy::Delay(_) => "delay",
        }
    }

    fn bound(self) -> Option<u32> {
        match self {
            Strategy::Pct(n) | Strategy::Preempt(n) | Strategy::Delay(n) => Some(n),
            _ => None,
        }
    }

    fn with_bound(self, bound: u32) -> Strategy {
        match self {
            Strategy::Pct(_) => Strategy::Pct(bound),
            Strategy::Preempt(_) => Strategy::Preempt(bound),
            Strategy::Delay(_) => Strategy::Delay(bound),
            other => other,
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        self.bound().map_or(Ok(()), |bound| write!(f, ":{bound}"))
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Strategy, String> {
        let (name, bound) = match text.split_once(':') {
            Some((name, bound)) => (name, Some(bound)),
            None => (text, None),
        };
        let Some(strategy) = Strategy::ALL.into_iter().find(|strategy| strategy.kind() == name) else {
            let known: Vec<&str> = Strategy::ALL.iter().map(|strategy| strategy.kind()).collect();
            return Err(format!("`{text}` is no strategy: expected one of {}", known.join(", ")));
        };
        let Some(bound) = bound else { return Ok(strategy) };
        if strategy.bound().is_none() {
            return Err(format!("`{text}`: {name} takes no number"));
        }
        match bound.parse() {
            Ok(0) if strategy.kind() == "pct" => {
                Err(format!("`{text}`: pct has at least one priority: expected 1 to {MAX_BOUND}"))
            }
            Ok(bound) if bound <= MAX_BOUND => Ok(strategy.with_bound(bound)),
            _ => Err(format!("`{text}`: expected a number up to {MAX_BOUND} behind the colon")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
            assert_eq!(strategy.kind().parse(), Ok(strategy));
        }
        assert_eq!("pct:5".parse(), Ok(Strategy::Pct(5)));
        let wrong = |text: &str| text.parse::<Strategy>().unwrap_err();
        assert_eq!(wrong("dfs"), "`dfs` is no strategy: expected one of calm, walk, uniform, pct, urw, preempt, delay");
        assert_eq!(wrong("urw:1"), "`urw:1`: urw takes no number");
        assert_eq!(wrong("pct:0"), "`pct:0`: pct has at least one priority: expected 1 to 1000");
        assert_eq!(wrong("pct:many"), "`pct:many`: expected a number up to 1000 behind the colon");
    }
}
