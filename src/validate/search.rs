//! The search for a schedule that gives a trace.
//!
//! A state is a clone of the run in the middle. States are kept by how much of the trace they have given. The search takes one of
//! those that got far (mostly the furthest, now and then an earlier one), goes on from there with random choices until an output
//! does not fit, and keeps what it met on its way. When a command is to be sent, and how much the client has read by then, is not drawn
//! at random but taken from the trace as far as it says so.

use super::target::{Target, line, timeless};
use crate::choice::{Choice, ChoiceLog, ChoicePoint, Choose, STREAMS, Stream};
use crate::scenario::plan::Plan;
use crate::sim::Sim;
use crate::sim::outcome::{Outcome, RunOptions};
use crate::trace::Trace;
use crate::trace::compare::ClientLine;
use crate::world::monitor::Output;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

/// How long a search may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Attempts: continuations from a kept state.
    pub tries: u32,
    /// Steps of the model, over all attempts.
    pub steps: u64,
    /// Where random choices come from. Only with 0 is the calm schedule tried first: others find others.
    pub seed: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Effort { tries: 3_000, steps: 20_000_000, seed: 0 }
    }
}

/// The answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The trace is one of the model's: these choices give it.
    Possible(ChoiceLog),
    /// No schedule was found.
    Refused(Box<Refusal>),
}

/// How far a trace fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Lines at the trace's start that a schedule was found for.
    pub matched: usize,
    /// What came instead, in the trace; `None`: its end.
    pub came: Option<ClientLine>,
    /// What the model gave there, in one schedule or another.
    pub allowed: Vec<ClientLine>,
    /// Attempts that were made.
    pub tries: u32,
    /// Another reason than a line that does not fit.
    pub reason: Option<String>,
}

/// States kept for one place of the trace.
const KEPT: usize = 12;
/// What the model gave at one place, as far as it is told.
const TOLD: usize = 8;

/// A run in the middle, with the choices that led there.
#[derive(Clone)]
struct State {
    sim: Sim,
    log: ChoiceLog,
    /// Outputs that the process has given.
    given: usize,
    /// Commands that were sent.
    sent: usize,
    /// Lines that the process printed.
    printed: usize,
}

/// Answers the choices of an attempt.
struct Guide<'a> {
    /// Choices to begin with: those of a run whose trace is the same for a while.
    hint: Option<&'a ChoiceLog>,
    log: &'a mut ChoiceLog,
    stream: &'a mut Stream,
    /// By stream number: one answer in so many is drawn; 0: all are calm.
    knobs: [u32; STREAMS],
    /// The answer at [`ChoicePoint::ClientSend`]: false if it is too early.
    may_send: bool,
    /// The answer at [`ChoicePoint::ClientRead`].
    left: u32,
    /// The trace cannot go on from here.
    dead: bool,
}

impl Choose for Guide<'_> {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        let pick = match point {
            ChoicePoint::ClientSend if !self.may_send => 0,
            ChoicePoint::ClientRead => {
                if self.left >= among {
                    self.dead = true;
                }
                self.left.min(among - 1)
            }
            point => match self.hinted(point, among) {
                Some(pick) => pick,
                None => self.drawn(point, among),
            },
        };
        self.log.push(Choice { point, among, pick });
        pick
    }
}

impl Guide<'_> {
    /// What the hint has for this choice.
    fn hinted(&self, point: ChoicePoint, among: u32) -> Option<u32> {
        let at = self.log.len();
        let hinted = self.hint?.entries().get(at)?.choice;
        (hinted.point == point && hinted.among == among).then_some(hinted.pick)
    }

    fn drawn(&mut self, point: ChoicePoint, among: u32) -> u32 {
        match self.knobs[usize::from(point.stream())] {
            0 => 0,
            1 => self.stream.below(among),
            n if self.stream.below(n) == 0 => self.stream.below(among),
            _ => 0,
        }
    }
}

struct Search<'a> {
    hint: Option<ChoiceLog>,
    target: &'a Target,
    stream: Stream,
    /// By progress.
    kept: Vec<Vec<State>>,
    seen: BTreeSet<u64>,
    steps: u64,
    best: usize,
    allowed: Vec<ClientLine>,
    reason: Option<String>,
}

/// How an attempt ended.
enum Attempt {
    Found(ChoiceLog),
    Failed,
}

/// Looks for a schedule in which `plan` ([bare](super::bare)) gives `trace`.
#[must_use]
pub fn validate(plan: &Plan, trace: &[ClientLine], effort: Effort) -> Answer {
    validate_printed(plan, trace, None, effort)
}

/// [`validate`], with what the process printed too, line by line.
#[must_use]
pub fn validate_printed(plan: &Plan, trace: &[ClientLine], console: Option<Vec<String>>, effort: Effort) -> Answer {
    search(plan, &Target { console, ..Target::new(trace) }, trace, None, effort)
}

/// [`validate`], for a trace that is at first the same as another one: it begins with the choices that gave that one, all of them.
#[must_use]
pub fn validate_like(plan: &Plan, trace: &[ClientLine], like: ChoiceLog, effort: Effort) -> Answer {
    search(plan, &Target::new(trace), trace, Some(like), effort)
}

/// [`validate`], for any target.
#[must_use]
pub fn search(plan: &Plan, target: &Target, trace: &[ClientLine], hint: Option<ChoiceLog>, effort: Effort) -> Answer {
    let refused = |matched, came, allowed, tries, reason| {
        Answer::Refused(Box::new(Refusal { matched, came, allowed, tries, reason }))
    };
    let mut sim = match Sim::new(plan, &RunOptions::default()) {
        Ok(sim) => sim,
        Err(outcome) => return refused(0, trace.first().cloned(), Vec::new(), 0, Some(outcome.to_string())),
    };
    sim.world.trace = Trace::off();
    let mut search = Search {
        hint,
        target,
        stream: Stream::new(effort.seed, 300),
        kept: vec![Vec::new(); target.outputs.len() + target.sent.len() + 1],
        seen: BTreeSet::new(),
        steps: 0,
        best: 0,
        allowed: Vec::new(),
        reason: None,
    };
    let start = State { sim, log: ChoiceLog::default(), given: 0, sent: 0, printed: 0 };
    search.kept[0].push(start);
    let mut tries = 0;
    while tries < effort.tries && search.steps < effort.steps {
        let state = search.pick(tries);
        let knobs = search.knobs(tries > 0 || effort.seed > 0);
        tries += 1;
        let found = search.attempt(state, knobs);
        search.hint = None;
        if let Attempt::Found(log) = found {
            return Answer::Possible(log);
        }
    }
    // Progress counts outputs and commands; the trace's lines do just that.
    let matched = search.best.min(trace.len());
    refused(matched, trace.get(matched).cloned(), search.allowed, tries, search.reason)
}

impl Search<'_> {
    /// Where to go on from.
    fn pick(&mut self, tries: u32) -> State {
        if tries == 0 {
            return self.kept[0][0].clone();
        }
        let mut at = self.best;
        match self.stream.below(8) {
            // Far back: the choice that counts may have been made long ago.
            0 => at = self.stream.below(u32::try_from(at + 1).unwrap_or(u32::MAX)) as usize,
            _ => {
                while at > 0 && self.stream.below(3) != 0 {
                    at -= 1;
                }
            }
        }
        while self.kept[at].is_empty() {
            at -= 1;
        }
        let n = self.stream.below(u32::try_from(self.kept[at].len()).unwrap_or(1)) as usize;
        self.kept[at][n].clone()
    }

    /// How wild an attempt is, for each kind of choice.
    fn knobs(&mut self, wild: bool) -> [u32; STREAMS] {
        const WILD: [u32; 8] = [0, 0, 1, 1, 2, 4, 16, 64];
        let mut knobs = [0; STREAMS];
        if wild {
            for knob in &mut knobs {
                *knob = WILD[self.stream.below(8) as usize];
            }
        }
        knobs
    }

    fn attempt(&mut self, mut state: State, knobs: [u32; STREAMS]) -> Attempt {
        loop {
            let (may_send, left) = self.client(&state);
            let mut stream = self.stream.clone();
            let hint = self.hint.as_ref();
            let mut guide =
                Guide { hint, log: &mut state.log, stream: &mut stream, knobs, may_send, left, dead: false };
            let before = state.sim.client.taken() + state.sim.world.out.len();
            let outcome = state.sim.step(&mut guide);
            let dead = guide.dead;
            self.stream = stream;
            self.steps += 1;
            let progress = state.given + state.sent;
            if !self.took(&mut state, before) || dead {
                return Attempt::Failed;
            }
            match outcome {
                None => {}
                Some(Outcome::Passed) => return self.ended(state),
                Some(Outcome::Stuck { .. }) if self.target.hangs => return self.ended(state),
                Some(other) => {
                    self.fail(progress, None, Some(other.to_string()));
                    return Attempt::Failed;
                }
            }
            if state.given + state.sent > progress && !self.keep(&state) {
                return Attempt::Failed;
            }
        }
    }

    /// When the next command may be sent, and how many outputs stand unread then.
    fn client(&self, state: &State) -> (bool, u32) {
        let Some((read, _, _)) = self.target.sent.get(state.sent) else { return (false, 0) };
        // Outputs on the console stand among the others and do not count.
        let mut over = state.given.saturating_sub(*read);
        let mut left = 0;
        for output in state.sim.world.out.iter().rev() {
            if over == 0 && line(output).is_some() {
                break;
            }
            left += 1;
            if line(output).is_some() {
                over -= 1;
            } else if over == 0 {
                left -= 1;
                break;
            }
        }
        // A number that nobody can leave unread: too much was read already.
        let left = if over > 0 { u32::MAX } else { left };
        (state.given >= *read, left)
    }

    /// Looks at what a step gave. Whether it fits.
    fn took(&mut self, state: &mut State, before: usize) -> bool {
        let progress = state.given + state.sent;
        if state.sim.client.sent() > state.sent {
            let Some((read, wanted, _)) = self.target.sent.get(state.sent) else {
                self.fail(progress, state.sim.client.last_command().cloned().map(ClientLine::Command), None);
                return false;
            };
            let command = state.sim.client.last_command().cloned().unwrap_or(crate::base::Json::Null);
            let unread = state.sim.world.out.iter().filter(|output| line(output).is_some()).count();
            if !crate::trace::compare::same(wanted, &command) || state.given - unread != *read {
                self.fail(progress, Some(ClientLine::Command(command)), None);
                return false;
            }
            state.sent += 1;
            return true;
        }
        // A step may take in what is there before it gives more.
        let new = before - state.sim.client.taken();
        let new: Vec<Output> = state.sim.world.out.iter().skip(new).cloned().collect();
        for output in &new {
            if let Output::Stdout(text) = output {
                let lines = timeless(text);
                if !self.target.printed(state.printed, &lines) {
                    self.fail(state.given + state.sent, None, Some(format!("the model prints {}", lines.join(" / "))));
                    return false;
                }
                state.printed += lines.len();
            }
            let Some(shown) = line(output) else { continue };
            if !self.target.fits(state.given, output) {
                // It may be read only after the commands that the trace has before it.
                self.fail(state.given + state.sent, Some(shown), None);
                return false;
            }
            state.given += 1;
        }
        true
    }

    fn ended(&mut self, state: State) -> Attempt {
        let printed = self.target.console.as_ref().is_none_or(|lines| lines.len() == state.printed);
        let all = printed && state.given == self.target.outputs.len() && state.sent == self.target.sent.len();
        if all {
            return Attempt::Found(state.log);
        }
        self.fail(state.given + state.sent, None, Some("the model's run is over".to_owned()));
        Attempt::Failed
    }

    fn fail(&mut self, progress: usize, instead: Option<ClientLine>, reason: Option<String>) {
        if progress > self.best {
            self.best = progress;
            self.allowed.clear();
            self.reason = None;
        }
        if progress == self.best {
            if let Some(line) = instead
                && self.allowed.len() < TOLD
                && !self.allowed.contains(&line)
            {
                self.allowed.push(line);
            }
            if reason.is_some() {
                self.reason = reason;
            }
        }
    }

    /// Keeps a state that got on. Whether it is a new one.
    fn keep(&mut self, state: &State) -> bool {
        let progress = state.given + state.sent;
        let mut hasher = rustc_hash::FxHasher::default();
        state.sim.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return false;
        }
        if progress > self.best {
            self.best = progress;
            self.allowed.clear();
            self.reason = None;
        }
        let full = self.kept[progress].len() >= KEPT;
        if full {
            let n = self.stream.below(KEPT as u32) as usize;
            self.kept[progress][n] = state.clone();
        } else {
            self.kept[progress].push(state.clone());
        }
        true
    }
}
