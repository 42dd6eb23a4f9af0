//! Repeating a recorded run.

use super::{Choice, ChoiceLog, ChoicePoint, Choose};
use crate::base::counted;
use std::fmt;
use std::sync::Arc;

/// What a replay does when its log no longer fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplayMode {
    /// The run is to end: [`Choose::diverged`] says where.
    Strict,
    /// A choice that does not fit is answered calmly, and the run goes on.
    Lenient,
}

/// The first place where a log and a run disagree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Divergence {
    /// How many choices were made before.
    pub index: u32,
    /// What the log has there; `None`: its end.
    pub expected: Option<Choice>,
    /// What the run asked and among how many; `None`: its end.
    pub offered: Option<(ChoicePoint, u32)>,
    /// The deviation that could not be carried out, where the schedule is a list of these.
    pub missed: Option<Arc<str>>,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(missed) = &self.missed {
            return write!(
                f,
                "after {}: `{missed}` could not be carried out",
                counted(u64::from(self.index), "choice")
            );
        }
        write!(f, "choice {}: the log has ", self.index)?;
        match self.expected {
            Some(Choice { point, among, .. }) => write!(f, "{point} among {among}")?,
            None => f.write_str("come to its end")?,
        }
        match self.offered {
            Some((point, among)) => write!(f, ", the run asks {point} among {among}"),
            None => f.write_str(", the run has come to its end"),
        }
    }
}

/// Answers from a log; calm where the log holds nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replay {
    log: Arc<ChoiceLog>,
    mode: ReplayMode,
    /// Choices made so far.
    index: u32,
    /// The next entry of the log.
    next: usize,
    /// The first place that did not fit, in either mode.
    divergence: Option<Divergence>,
}

impl Replay {
    /// A replay of `log` from its start.
    #[must_use]
    pub fn new(log: Arc<ChoiceLog>, mode: ReplayMode) -> Self {
        Replay { log, mode, index: 0, next: 0, divergence: None }
    }

    /// What happens where the log does not fit.
    #[must_use]
    pub fn mode(&self) -> ReplayMode {
        self.mode
    }

    /// The first place that did not fit, in either mode.
    #[must_use]
    pub fn first_difference(&self) -> Option<&Divergence> {
        self.divergence.as_ref()
    }

    /// To be called when the run has ended: a log that has more is a divergence too.
    pub fn finish(&mut self) {
        let expected = self.log.entries().get(self.next).map(|entry| entry.choice);
        let short = self.log.total().is_some_and(|total| total > self.index);
        if expected.is_some() || short {
            self.differ(Divergence { index: self.index, expected, offered: None, missed: None });
        }
    }

    fn differ(&mut self, divergence: Divergence) {
        self.divergence.get_or_insert(divergence);
    }
}

impl Choose for Replay {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        let index = self.index;
        self.index += 1;
        let entry = self.log.entries().get(self.next).filter(|entry| entry.index == index);
        let Some(choice) = entry.map(|entry| entry.choice) else {
            if self.log.total().is_some_and(|total| index >= total) {
                self.differ(Divergence { index, expected: None, offered: Some((point, among)), missed: None });
            }
            return 0;
        };
        self.next += 1;
        if (choice.point, choice.among) == (point, among) {
            return choice.pick;
        }
        self.differ(Divergence { index, expected: Some(choice), offered: Some((point, among)), missed: None });
        0
    }

    fn wants_mode(&self) -> bool {
        let next = self.log.entries().get(self.next);
        next.is_some_and(|entry| entry.index == self.index && entry.choice.point == ChoicePoint::Mode)
    }

    fn wants_bh_order(&self) -> bool {
        let next = self.log.entries().get(self.next);
        next.is_some_and(|entry| entry.index == self.index && entry.choice.point == ChoicePoint::BhOrder)
    }

    fn diverged(&self) -> Option<&Divergence> {
        self.divergence.as_ref().filter(|_| self.mode == ReplayMode::Strict)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Recorder, Walk};
    use super::*;

    const QUESTIONS: [(ChoicePoint, u32); 5] = [
        (ChoicePoint::CompleteNext, 4),
        (ChoicePoint::Latency(2), 3),
        (ChoicePoint::BhOrder, 2),
        (ChoicePoint::CompleteNext, 9),
        (ChoicePoint::ClientRead, 2),
    ];

    fn ask(chooser: &mut impl Choose, questions: &[(ChoicePoint, u32)]) -> Vec<u32> {
        questions.iter().map(|(point, among)| chooser.choose(*point, *among)).collect()
    }

    fn recorded() -> (Vec<u32>, ChoiceLog) {
        let mut recorder = Recorder::new(Walk::even(11));
        let picks = ask(&mut recorder, &QUESTIONS);
        (picks, recorder.log)
    }

    #[test]
    fn whole_and_thinned_logs_replay_exactly() {
        let (picks, log) = recorded();
        for log in [log.deviations(), log] {
            let mut replay = Replay::new(Arc::new(log), ReplayMode::Strict);
            assert_eq!(ask(&mut replay, &QUESTIONS), picks);
            replay.finish();
            assert_eq!(replay.diverged(), None);
        }
    }

    #[test]
    fn a_replay_says_where_it_stops_to_fit() {
        let (_, log) = recorded();
        let mut other = QUESTIONS;
        other[3].1 = 8;
        let mut replay = Replay::new(Arc::new(log.clone()), ReplayMode::Strict);
        ask(&mut replay, &other);
        assert_eq!(
            replay.diverged().map(ToString::to_string).as_deref(),
            Some("choice 3: the log has complete-next among 9, the run asks complete-next among 8")
        );

        let mut replay = Replay::new(Arc::new(log.clone()), ReplayMode::Strict);
        ask(&mut replay, &QUESTIONS);
        replay.choose(ChoicePoint::BhOrder, 2);
        assert_eq!(
            replay.diverged().map(ToString::to_string).as_deref(),
            Some("choice 5: the log has come to its end, the run asks bh-order among 2")
        );

        let mut replay = Replay::new(Arc::new(log), ReplayMode::Lenient);
        ask(&mut replay, &QUESTIONS[..4]);
        replay.finish();
        assert_eq!(replay.diverged(), None);
        assert_eq!(
            replay.first_difference().map(ToString::to_string).as_deref(),
            Some("choice 4: the log has client-read among 2, the run has come to its end")
        );
    }
}
