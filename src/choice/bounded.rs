//! Schedules with a bound: calm but for a few moments, drawn at random.
//!
//! A *deviation* is a choice other than the calm one. With a bound on deviations each of the moments takes any other alternative; with
//! a bound on *delays* (Emmi and others, 2011) it takes the next one in calm order, so that the first is put back behind it.

use super::even::Even;
use super::stream::Stream;
use super::{ChoicePoint, Choose, MODE_ORDER};

/// Deviates from calm at no more than so many choices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bounded {
    stream: Stream,
    mode: u32,
    delays: bool,
    /// The numbers of the choices that are not calm, largest first.
    moments: Vec<u32>,
    made: u32,
}

impl Bounded {
    /// The schedule of `seed` with up to `bound` deviations.
    #[must_use]
    pub fn deviations(bound: u32, seed: u64) -> Bounded {
        let mut stream = Stream::new(seed, Even::STREAM);
        // The length of a run is not known beforehand: a range of a drawn length.
        let range = 8 << stream.below(10);
        let mut moments: Vec<u32> = (0..bound.min(1000)).map(|_| stream.below(range)).collect();
        moments.sort_unstable_by(|a, b| b.cmp(a));
        Bounded { stream, mode: MODE_ORDER, delays: false, moments, made: 0 }
    }

    /// The schedule of `seed` with up to `bound` delays.
    #[must_use]
    pub fn delays(bound: u32, seed: u64) -> Bounded {
        Bounded { delays: true, ..Bounded::deviations(bound, seed) }
    }

    /// The same with this answer to [`ChoicePoint::Mode`].
    #[must_use]
    pub fn with_mode(mut self, mode: u32) -> Bounded {
        self.mode = mode;
        self
    }
}

impl Choose for Bounded {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        match point {
            ChoicePoint::Mode => return self.mode,
            ChoicePoint::Latency(_) => return 0,
            ChoicePoint::Fault(_) => return self.stream.below(among),
            _ => {}
        }
        let mut pick = 0;
        while self.moments.last().is_some_and(|at| *at <= self.made) {
            self.moments.pop();
            // Two moments at one choice: a delay each, or one deviation.
            pick = match self.delays {
                true => (pick + 1).min(among - 1),
                false => 1 + self.stream.below(among - 1),
            };
        }
        self.made += 1;
        pick
    }

    fn wants_mode(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_bound() {
        let mut most = [0; 4];
        for bound in 0..4 {
            for seed in 0..300 {
                let mut choose = Bounded::deviations(bound, seed);
                let picks: Vec<u32> = (0..100).map(|_| choose.choose(ChoicePoint::CompleteNext, 3)).collect();
                let deviations = picks.iter().filter(|pick| **pick != 0).count();
                most[bound as usize] = most[bound as usize].max(deviations);
                let mut choose = Bounded::delays(bound, seed);
                let delays: u32 = (0..100).map(|_| choose.choose(ChoicePoint::CompleteNext, 3)).sum();
                assert!(delays <= bound);
            }
        }
        assert_eq!(most, [0, 1, 2, 3]);
    }
}
