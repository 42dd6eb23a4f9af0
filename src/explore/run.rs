//! One run of a campaign: what is kept of it.

use super::digest::{TraceDigest, mix};
use super::exhaust::StartPoint;
use crate::base::counted;
use crate::choice::{AddresseeOf, ChoiceLog, ChoicePoint, Choose, Divergence, Recorder, Tasks};
use crate::sim::Sim;
use crate::sim::outcome::Outcome;
use crate::world::watch::marks::Marks;

/// What is kept of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub outcome: Outcome,
    /// Digest of all its choices that were not calm.
    pub schedule: u64,
    /// Digest of what the client saw.
    pub trace: TraceDigest,
    /// What it reached.
    pub marks: Marks,
    /// Choices it made.
    pub choices: u64,
}

/// Asks somebody else, and keeps a digest of what was not calm.
pub(super) struct Digesting<C> {
    inner: C,
    digest: u64,
    made: u64,
}

impl<C> Digesting<C> {
    pub(super) fn new(inner: C) -> Self {
        Digesting { inner, digest: 0, made: 0 }
    }

    /// What is kept of the run whose choices it made.
    pub(super) fn ran(&self, outcome: Outcome, trace: TraceDigest, marks: Marks) -> Ran {
        Ran { outcome, schedule: self.digest, trace, marks, choices: self.made }
    }

    fn note(&mut self, pick: u32) -> u32 {
        if pick != 0 {
            self.digest = mix(self.digest, self.made << 16 ^ u64::from(pick));
        }
        self.made += 1;
        pick
    }
}

impl<C: Choose> Choose for Digesting<C> {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        let pick = self.inner.choose(point, among);
        if point == ChoicePoint::Mode { pick } else { self.note(pick) }
    }
    fn choose_about(&mut self, point: ChoicePoint, among: u32, about: AddresseeOf<'_>) -> u32 {
        let pick = self.inner.choose_about(point, among, about);
        self.note(pick)
    }
    fn choose_of(&mut self, point: ChoicePoint, among: u32, of: Tasks<'_>, about: AddresseeOf<'_>) -> u32 {
        let pick = self.inner.choose_of(point, among, of, about);
        self.note(pick)
    }
    fn wants_mode(&self) -> bool {
        self.inner.wants_mode()
    }
    fn diverged(&self) -> Option<&Divergence> {
        self.inner.diverged()
    }
}

/// Runs from where exploring starts to the end.
pub fn run(start: &StartPoint, choose: impl Choose) -> Ran {
    finish(start.sim.clone(), choose)
}

/// Runs to the end, from wherever the run stands. Its trace must hold the client's records from there on.
pub fn finish(sim: Sim, choose: impl Choose) -> Ran {
    finish_in(sim, Digesting::new(choose), TraceDigest::default(), Marks::default())
}

/// The same, where a part of the choices was made already; what came of those is given.
pub(super) fn finish_in<C: Choose>(
    mut sim: Sim,
    mut choose: Digesting<C>,
    trace: TraceDigest,
    mut marks: Marks,
) -> Ran {
    let outcome = sim.finish_caught(&mut choose);
    let trace = sim.world.trace.iter().fold(trace, |digest, record| digest.then(&record.kind));
    marks.join(&sim.world.feed.marks);
    choose.ran(outcome, trace, marks)
}

/// The same run once more, with its choices: from the scenario's start on.
pub fn recorded(start: &StartPoint, choose: impl Choose) -> (ChoiceLog, Sim, Outcome) {
    let mut sim = start.sim.clone();
    let mut recorder = Recorder { inner: choose, log: start.log.clone() };
    let outcome = sim.finish_caught(&mut recorder);
    (recorder.log, sim, outcome)
}

/// Runs twice and says where the two first differ: in what was asked, in what happened, or in what is left.
pub fn differs(start: &StartPoint, choose: impl Choose + Clone) -> Option<String> {
    let (log, sim, outcome) = recorded(start, choose.clone());
    let (other_log, other, other_outcome) = recorded(start, choose);
    let apart = log.entries().iter().zip(other_log.entries()).find(|(a, b)| a != b);
    if let Some((a, b)) = apart {
        return Some(format!("choice {}: first {}, then {}", a.index, a.choice, b.choice));
    }
    if log.len() != other_log.len() {
        return Some(format!("first {}, then {}", counted(log.len() as u64, "choice"), other_log.len()));
    }
    let mut records = sim.world.trace.iter().zip(other.world.trace.iter()).enumerate();
    if let Some((number, (a, b))) = records.find(|(_, (a, b))| a != b) {
        return Some(format!("record {number} of the trace: first {a:?}, then {b:?}"));
    }
    if sim.world.trace.len() != other.world.trace.len() {
        return Some(format!(
            "first {}, then {}",
            counted(sim.world.trace.len() as u64, "record"),
            other.world.trace.len()
        ));
    }
    if outcome != other_outcome {
        return Some(format!("first it {}, then it {}", outcome.word(), other_outcome.word()));
    }
    (sim != other).then(|| "the same choices and traces, but another final state".to_owned())
}
