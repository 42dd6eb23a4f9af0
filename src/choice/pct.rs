//! Probabilistic concurrency testing (Burckhardt and others, 2010): tasks have random priorities, the highest one that can goes on, and
//! at a few random moments the one that goes on is put behind all others.
//!
//! A bug that needs `d` ordered moments is hit with a chance of at least one in (tasks × choices^(d-1)), however rare it is in a
//! uniform walk. The number of choices of a run is not known beforehand, so the moments are drawn from a range whose length is drawn
//! too, from 8 to 4096.

use super::even::Even;
use super::stream::Stream;
use super::{AddresseeOf, ChoicePoint, Choose, MODE_ORDER, Subject, Tasks};

/// Schedules by priorities with `depth - 1` change points.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pct {
    stream: Stream,
    mode: u32,
    /// By task number; drawn when the task is first seen. Larger goes first.
    priorities: Vec<Option<u32>>,
    /// The numbers of the choices at which somebody is put back, largest first.
    changes: Vec<u32>,
    /// Choices between tasks made so far.
    made: u32,
    /// Who was let on last.
    last: u32,
}

impl Pct {
    /// The schedule of `seed`, with `depth - 1` change points.
    #[must_use]
    pub fn new(depth: u32, seed: u64) -> Pct {
        let mut stream = Stream::new(seed, Even::STREAM);
        let range = 8 << stream.below(10);
        let mut changes: Vec<u32> = (1..depth.min(1000)).map(|_| stream.below(range)).collect();
        changes.sort_unstable_by(|a, b| b.cmp(a));
        Pct { stream, mode: MODE_ORDER, priorities: Vec::new(), changes, made: 0, last: Subject::PROCESS }
    }

    /// The same with this answer to [`ChoicePoint::Mode`].
    #[must_use]
    pub fn with_mode(mut self, mode: u32) -> Pct {
        self.mode = mode;
        self
    }

    fn priority(&mut self, task: u32) -> u32 {
        let slot = task as usize;
        if self.priorities.len() <= slot {
            self.priorities.resize(slot + 1, None);
        }
        // Low numbers belong to those that were put back.
        *self.priorities[slot].get_or_insert_with(|| 1000 + self.stream.below(1 << 30))
    }

    /// The first of those with the highest priority.
    fn highest(&mut self, among: u32, of: &dyn Fn(u32) -> Subject) -> (u32, u32) {
        let mut best = (0, of(0).task);
        for i in 1..among {
            let task = of(i).task;
            if task != best.1 && self.priority(task) > self.priority(best.1) {
                best = (i, task);
            }
        }
        best
    }
}

impl Choose for Pct {
    /// Choices that are none between tasks are calm in three cases of four.
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        match point {
            ChoicePoint::Mode => self.mode,
            ChoicePoint::Latency(_) => 0,
            ChoicePoint::Fault(_) => self.stream.below(among),
            _ if self.stream.below(4) == 0 => self.stream.below(among),
            _ => 0,
        }
    }

    fn choose_of(&mut self, point: ChoicePoint, among: u32, of: Tasks<'_>, _about: AddresseeOf<'_>) -> u32 {
        // When the client decides whether to send, it is up against whoever went on last.
        let last = Subject { task: self.last, left: 1 };
        let of = |i| if point == ChoicePoint::ClientSend && i == 0 { last } else { of(i) };
        let (mut pick, mut task) = self.highest(among, &of);
        while self.changes.last().is_some_and(|at| *at <= self.made) {
            self.changes.pop();
            self.priority(task);
            self.priorities[task as usize] = Some(self.changes.len() as u32);
            (pick, task) = self.highest(among, &of);
        }
        self.made += 1;
        if point != ChoicePoint::ClientSend || pick != 0 {
            self.last = task;
        }
        pick
    }

    fn wants_mode(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::Addressee;
    use super::*;

    /// Two tasks of ten steps each; gives who went, step by step.
    fn order(choose: &mut dyn Choose) -> String {
        let mut left = [10u32; 2];
        let mut text = String::new();
        while left != [0, 0] {
            let pick = match left {
                [0, _] => 1,
                [_, 0] => 0,
                _ => {
                    let of = |i: u32| Subject { task: Subject::job(i), left: left[i as usize] };
                    choose.choose_of(ChoicePoint::CompleteNext, 2, &of, &mut |_| Addressee::Nobody) as usize
                }
            };
            left[pick] -= 1;
            text.push(if pick == 0 { 'a' } else { 'b' });
        }
        text
    }

    /// How often another task goes on than before.
    fn switches(order: &str) -> usize {
        order.as_bytes().windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    #[test]
    fn depth_bounds_the_switches() {
        for depth in 1..5 {
            let most = (0..500).map(|seed| switches(&order(&mut Pct::new(depth, seed)))).max().unwrap();
            assert!(most <= depth as usize, "depth {depth}: {most} switches");
        }
        let both: Vec<String> = (0..20).map(|seed| order(&mut Pct::new(1, seed))).collect();
        assert!(both.iter().any(|o| o.starts_with('a')) && both.iter().any(|o| o.starts_with('b')));
        assert!((0..200).any(|seed| switches(&order(&mut Pct::new(3, seed))) == 3));
    }

    #[test]
    fn a_seed_means_one_schedule() {
        for seed in 0..50 {
            assert_eq!(order(&mut Pct::new(3, seed)), order(&mut Pct::new(3, seed)));
        }
    }
}
