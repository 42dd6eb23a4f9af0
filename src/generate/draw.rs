//! Drawing from a seed: integers only, and a stream of its own for each part of a scenario, so that a new draw in one place does not
//! change what another part comes to.

use crate::choice::Stream;

/// The parts of a scenario. Numbers are never reused: seeds would change their meaning. Those below 1,000 belong to choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// How much there is of everything.
    Knobs = 1000,
    /// Drives, images, targets.
    Shape = 1001,
    /// Which command comes next.
    Program = 1002,
    /// Arguments of commands.
    Arguments = 1003,
    /// What is wrong on purpose.
    Wrong = 1004,
    /// Fault rules.
    Faults = 1005,
    /// Mirrors, commits, streams, and the chains they work on.
    Jobs = 1006,
    /// What programs of block jobs seldom have.
    Odd = 1007,
    /// How much of that there is.
    OddKnobs = 1008,
    /// What jobs stumble over: empty disks, targets that hold old data, backing files that are missing, faults that strike late.
    Traps = 1009,
    /// What a guest does right behind a command.
    Heels = 1010,
    /// Exports, and their clients.
    Exports = 1011,
    /// How much there is of that.
    ExportKnobs = 1012,
}

/// Draws for one part.
#[derive(Clone, Debug)]
pub(super) struct Draw(Stream);

impl Draw {
    pub(super) fn new(seed: u64, part: Part) -> Draw {
        Draw(Stream::new(seed, part as u64))
    }

    /// A number below `among`; 0 where there is nothing to choose from.
    pub(super) fn below(&mut self, among: usize) -> usize {
        self.0.below(u32::try_from(among).unwrap_or(u32::MAX)) as usize
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn range(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True once in `n`; never for 0.
    pub(super) fn one_in(&mut self, n: u32) -> bool {
        n > 0 && self.0.below(n) == 0
    }

    /// One of these.
    pub(super) fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// One of these, by weight. The weights may not all be 0.
    pub(super) fn weighted<T: Clone>(&mut self, items: &[(u32, T)]) -> T {
        let mut rest = self.0.below(items.iter().map(|(weight, _)| weight).sum());
        for (weight, item) in items {
            if rest < *weight {
                return item.clone();
            }
            rest -= weight;
        }
        items[items.len() - 1].1.clone()
    }
}
