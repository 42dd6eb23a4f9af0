//! Random schedules from a seed.

use super::stream::Stream;
use super::{ChoicePoint, Choose, STREAMS};

/// How wild a kind of point may be, drawn for each seed and kind: `n` means that one answer in `n` is drawn evenly from
/// all alternatives and the others are calm. Runs that are wild everywhere look all alike; rare deviations in one kind find
/// what they miss.
pub const KNOBS: [u32; 6] = [1, 1, 2, 4, 16, 64];

/// Draws from one stream for each kind of choice point, so that a new kind does not shift the others' draws.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Walk {
    seed: u64,
    calm_in: [u32; STREAMS],
    /// By stream number, made at the first draw.
    streams: [Option<Stream>; STREAMS],
}

impl Walk {
    /// The schedule of `seed`, with knobs drawn from [`KNOBS`].
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut walk = Walk::even(seed);
        let mut knobs = Stream::new(seed, 0);
        for knob in &mut walk.calm_in[1..] {
            *knob = KNOBS[knobs.below(KNOBS.len() as u32) as usize];
        }
        walk
    }

    /// A schedule where all alternatives of each point are equally likely.
    #[must_use]
    pub fn even(seed: u64) -> Self {
        Walk { seed, calm_in: [1; STREAMS], streams: [const { None }; STREAMS] }
    }

    /// Sets how often the points of this kind are drawn at all: once in `n` (see [`KNOBS`]); 0 means never.
    #[must_use]
    pub fn calm_in(mut self, kind: ChoicePoint, n: u32) -> Self {
        self.calm_in[usize::from(kind.stream())] = n;
        self
    }

    /// What all streams are drawn from, as `run --seed` takes it.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

impl Choose for Walk {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        let number = point.stream();
        let slot = usize::from(number);
        let stream = self.streams[slot].get_or_insert_with(|| Stream::new(self.seed, u64::from(number)));
        match self.calm_in[slot] {
            0 => 0,
            1 => stream.below(among),
            n if stream.below(n) == 0 => stream.below(among),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(walk: &mut Walk, point: ChoicePoint, n: usize) -> Vec<u32> {
        (0..n).map(|_| walk.choose(point, 5)).collect()
    }

    #[test]
    fn kinds_do_not_disturb_each_other() {
        let mut a = Walk::even(3);
        let mut b = Walk::even(3);
        picks(&mut b, ChoicePoint::Latency(1), 50);
        assert_eq!(picks(&mut a, ChoicePoint::BhOrder, 50), picks(&mut b, ChoicePoint::BhOrder, 50));
    }

    #[test]
    fn a_walk_is_golden() {
        let mut walk = Walk::new(42);
        assert_eq!(walk.calm_in, GOLDEN_KNOBS);
        assert_eq!(picks(&mut walk, ChoicePoint::ClientSend, 10), GOLDEN_PICKS);
    }

    const GOLDEN_KNOBS: [u32; STREAMS] = [1, 16, 1, 1, 4, 16, 2, 16, 2, 64, 4, 1, 1, 16, 16];
    const GOLDEN_PICKS: [u32; 10] = [3, 3, 4, 3, 3, 0, 3, 3, 0, 3];

    #[test]
    fn calm_in_zero_is_calm() {
        let mut walk = Walk::even(3).calm_in(ChoicePoint::BhOrder, 0);
        assert_eq!(picks(&mut walk, ChoicePoint::BhOrder, 50), vec![0; 50]);
        assert_ne!(picks(&mut walk, ChoicePoint::WorkNext, 50), vec![0; 50]);
    }
}
