//! The search for a schedule that gives a trace.
//!
//! A state is a clone of the run in the middle. States are kept by how much of the trace they have given. The search takes one of
//! those that got far (mostly the furthest, now and then an earlier one), goes on from there with random choices until an output
//! does not fit, and keeps what it met on its way. When a command is to be sent, and how much the client has read by then, is not drawn
//! at random but taken from the trace as far as it says so. Where nothing gets on for a while, what got furthest is forgotten: a choice
//! further back was wrong, and the trace did not tell.

use super::Effort;
use super::guide::{Guide, NEVER_CALM};
use super::target::{Target, line, timeless};
use crate::base::time::{Instant, Span};
use crate::choice::{ChoiceLog, ChoicePoint, Choose, STREAMS, Stream};
use crate::invariant::{Broken, Invariant};
use crate::scenario::plan::{Plan, StepKind};
use crate::sim::outcome::{Outcome, RunOptions};
use crate::sim::{Sim, panic_text};
use crate::trace::Trace;
use crate::trace::compare::ClientLine;
use crate::world::out::Output;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Whether the model allows what a real QEMU did.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The trace is one of the model's: these choices give it.
    Possible(ChoiceLog),
    /// The trace is the model's up to its end, where a signal ended the real process: with these choices the model's ends there too, of
    /// what gives that signal.
    Dies(ChoiceLog, Broken),
    /// No schedule was found.
    Refused(Box<Refusal>),
}

impl Answer {
    /// Whether a schedule was found.
    #[must_use]
    pub fn is_found(&self) -> bool {
        !matches!(self, Answer::Refused(_))
    }
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
    /// Freed memory that was used in a schedule which fits as far as any does: what QEMU does from there on is not defined.
    pub freed: Option<Broken>,
}

/// States kept for one place of the trace.
const KEPT: usize = 12;
/// Attempts without getting further, after which the states that got furthest are given up.
const STUCK: u32 = 500;
/// Attempts among schedules of one kind before the first of the other kind.
const TURN: u32 = 500;
/// A process that owes a reply and does nothing for this long hangs, as far as a client can tell.
pub const HANG: Span = Span::from_secs(4);
/// What the model gave at one place, as far as it is told.
const TOLD: usize = 8;

/// A run in the middle, with the choices that led there.
#[derive(Clone)]
struct Branch {
    sim: Sim,
    log: ChoiceLog,
    /// Outputs that the process has given.
    given: usize,
    /// Commands that were sent.
    sent: usize,
    /// Lines that the process printed.
    printed: usize,
    /// When the trace last got on.
    since: Instant,
}

struct Search<'a> {
    hint: Option<ChoiceLog>,
    /// By number, whether a step waits for an event.
    waits: Vec<bool>,
    /// By number, whether it is one of an NBD client: when it acts leaves nothing in the trace.
    unseen: Vec<bool>,
    /// By number, whether a step sends a signal.
    signals: Vec<bool>,
    target: &'a Target,
    /// Orders are open instead of times.
    order: bool,
    /// Also between bottom halves.
    bh_order: bool,
    stream: Stream,
    /// By progress.
    kept: Vec<Vec<Branch>>,
    seen: BTreeSet<u64>,
    tries: u32,
    steps: u64,
    best: usize,
    /// How far the states got that are kept.
    front: usize,
    /// Attempts since it was further.
    stuck: u32,
    allowed: Vec<ClientLine>,
    reason: Option<String>,
    /// Freed memory that was used, and how much of the trace fits until then: the most of all attempts.
    freed: Option<(usize, Broken)>,
}

/// How an attempt ended.
enum Attempt {
    Found(ChoiceLog),
    /// At the trace's end the process dies, of this.
    Died(ChoiceLog, Broken),
    Failed,
}

/// A step; where the process would end because something is broken in it, that.
fn stepped(sim: &mut Sim, choose: &mut dyn Choose) -> Result<Option<Outcome>, Broken> {
    catch_unwind(AssertUnwindSafe(|| sim.step(choose)))
        .map_err(|payload| Broken::from_panic(&panic_text(&*payload)).unwrap_or_else(|| resume_unwind(payload)))
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

/// [`validate`], for any target: among schedules in which requests take some time, among those in which any may be done at any moment,
/// and among those in which that is so even between two bottom halves.
#[must_use]
pub fn search(plan: &Plan, target: &Target, trace: &[ClientLine], hint: Option<ChoiceLog>, effort: Effort) -> Answer {
    let new = |order: bool, bh_order: bool| {
        let hint = hint.clone().filter(|_| !order);
        Ok(Search { order, bh_order, ..Search::new(plan, target, hint, effort)? })
    };
    let mut searches = match [(false, false), (true, false), (true, true)].map(|(order, bh)| new(order, bh)) {
        [Ok(timed), Ok(ordered), Ok(between)] => [timed, ordered, between],
        [Err(outcome), ..] | [_, Err(outcome), _] | [.., Err(outcome)] => {
            let outcome: Outcome = outcome;
            let (came, reason) = (trace.first().cloned(), Some(outcome.to_string()));
            let refusal = Refusal { matched: 0, came, allowed: Vec::new(), tries: 0, reason, freed: None };
            return Answer::Refused(Box::new(refusal));
        }
    };
    if effort.seed % 2 == 1 {
        searches.rotate_left(1);
    }
    // By turns that grow, as nobody knows which of them will find it.
    let mut turn = TURN;
    while searches.iter().any(|search| search.may_go_on(effort)) {
        for search in &mut searches {
            let until = Effort { tries: effort.tries.min(search.tries.saturating_add(turn)), ..effort };
            match search.run(until) {
                Attempt::Found(log) => return Answer::Possible(log),
                Attempt::Died(log, broken) => return Answer::Dies(log, broken),
                Attempt::Failed => {}
            }
        }
        turn = turn.saturating_mul(2);
    }
    let tries = searches.iter().map(|search| search.tries).sum();
    let [mut further, others @ ..] = searches;
    for mut other in others {
        let freed = [further.freed.take(), other.freed.take()].into_iter().flatten().max_by_key(|(at, _)| *at);
        if other.best > further.best {
            further = other;
        }
        further.freed = freed;
    }
    Answer::Refused(Box::new(Refusal { tries, ..further.refusal(trace) }))
}

impl<'a> Search<'a> {
    fn new(plan: &Plan, target: &'a Target, hint: Option<ChoiceLog>, effort: Effort) -> Result<Search<'a>, Outcome> {
        let mut sim = Sim::new(plan, &RunOptions::default())?;
        sim.world.trace = Trace::off();
        let mut kept = vec![Vec::new(); target.outputs.len() + target.sent.len() + 1];
        kept[0].push(Branch { sim, log: ChoiceLog::default(), given: 0, sent: 0, printed: 0, since: Instant::START });
        Ok(Search {
            hint,
            waits: plan.steps.iter().map(|step| matches!(step.kind, StepKind::Event(_))).collect(),
            unseen: plan.steps.iter().map(|step| matches!(step.kind, StepKind::Nbd(_))).collect(),
            signals: plan.steps.iter().map(|step| matches!(step.kind, StepKind::Process(_))).collect(),
            target,
            order: false,
            bh_order: false,
            stream: Stream::new(effort.seed, 300),
            kept,
            seen: BTreeSet::new(),
            tries: 0,
            steps: 0,
            best: 0,
            front: 0,
            stuck: 0,
            allowed: Vec::new(),
            reason: None,
            freed: None,
        })
    }

    fn may_go_on(&self, effort: Effort) -> bool {
        self.tries < effort.tries && self.steps < effort.steps
    }

    /// Goes on until so much was tried.
    fn run(&mut self, effort: Effort) -> Attempt {
        while self.may_go_on(effort) {
            let state = self.pick();
            let knobs = self.knobs(self.tries > 0 || effort.seed > 0 || self.order);
            self.tries += 1;
            let found = self.attempt(state, knobs);
            self.hint = None;
            if !matches!(found, Attempt::Failed) {
                return found;
            }
        }
        Attempt::Failed
    }

    fn refusal(self, trace: &[ClientLine]) -> Refusal {
        // Progress counts outputs and commands; the trace's lines do just that.
        let matched = self.best.min(trace.len());
        let (came, allowed, reason) = (trace.get(matched).cloned(), self.allowed, self.reason);
        let freed = self.freed.filter(|(at, _)| *at >= self.best).map(|(_, broken)| broken);
        Refusal { matched, came, allowed, tries: self.tries, reason, freed }
    }

    /// Where to go on from.
    fn pick(&mut self) -> Branch {
        if self.tries == 0 {
            return self.kept[0][0].clone();
        }
        if self.stuck >= STUCK {
            self.retreat();
        }
        self.stuck += 1;
        let mut at = self.front;
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

    /// Forgets what got furthest: it may be that none of it can go on, as where a copy failed early and only the length that the job
    /// tells at its end shows it. How far back the choice was is anybody's guess, so each scale is as likely.
    fn retreat(&mut self) {
        let scale = self.stream.below(self.front.checked_ilog2().map_or(1, |scales| scales + 1));
        let back = 1 + self.stream.below(1 << scale) as usize;
        self.front = self.front.saturating_sub(back);
        for states in &mut self.kept[self.front + 1..] {
            states.clear();
        }
        self.seen.clear();
        self.stuck = 0;
    }

    /// How wild an attempt is, for each kind of choice.
    fn knobs(&mut self, wild: bool) -> [u32; STREAMS] {
        const WILD: [u32; 8] = [0, 0, 1, 1, 2, 4, 16, 64];
        let mut knobs = [0; STREAMS];
        if wild {
            for knob in &mut knobs {
                *knob = WILD[self.stream.below(8) as usize];
            }
            // A job whose requests are done faster than the main thread looks has a long chain of them behind it in one round.
            if self.order && self.stream.below(16) == 0 {
                knobs[usize::from(ChoicePoint::WorkNext.stream())] = NEVER_CALM;
            }
        }
        knobs
    }

    fn attempt(&mut self, mut state: Branch, knobs: [u32; STREAMS]) -> Attempt {
        loop {
            let (sends, left) = self.client(&state);
            let may_send = sends || self.unseen.get(state.sim.client.step) == Some(&true);
            let mut stream = self.stream.clone();
            let hint = self.hint.as_ref();
            let signal = self.signals.get(state.sim.client.step) == Some(&true);
            let more = !signal
                && state.given < self.target.sent.get(state.sent).map_or(self.target.outputs.len(), |sent| sent.0);
            let mut guide = Guide {
                more,
                hint,
                log: &mut state.log,
                stream: &mut stream,
                knobs,
                may_send,
                left,
                order: self.order,
                bh_order: self.bh_order,
                dead: false,
            };
            let before = state.sim.client.taken() + state.sim.world.out.len();
            let asleep_since = state.sim.world.now;
            let stepped = stepped(&mut state.sim, &mut guide);
            let dead = guide.dead;
            self.stream = stream;
            self.steps += 1;
            let progress = state.given + state.sent;
            if !self.took(&mut state, before) || dead {
                return Attempt::Failed;
            }
            let outcome = match stepped {
                Ok(outcome) => outcome,
                Err(broken) => return self.died(state, broken),
            };
            match outcome {
                None if self.target.hangs && self.sleeps_on(&state, asleep_since) => return self.ended(state),
                None if self.waits_on(&state) => return self.ended(state),
                None => {}
                Some(Outcome::Passed) => return self.ended(state),
                Some(Outcome::Stuck { .. }) if self.target.hangs => return self.ended(state),
                // The trace ends where its client waited for an event that did not come, as it does not come here.
                Some(Outcome::Stuck { .. }) if self.over(&state) && !state.sim.client.waits_for_reply() => {
                    return self.ended(state);
                }
                Some(other) => {
                    self.fail(progress, None, Some(other.to_string()));
                    return Attempt::Failed;
                }
            }
            if state.given + state.sent > progress {
                state.since = state.sim.world.now;
                if !self.keep(&state) {
                    return Attempt::Failed;
                }
            }
        }
    }

    /// Whether the last step waited for a timer for so long that a client which waits for a reply takes the process for one that hangs.
    fn sleeps_on(&self, state: &Branch, since: Instant) -> bool {
        self.over(state) && state.sim.client.waits_for_reply() && state.sim.world.now - since > HANG
    }

    /// Whether nothing came for so long that a client which waits for an event gives it up, though a timer goes on: that of a job that is ready.
    fn waits_on(&self, state: &Branch) -> bool {
        self.over(state)
            && !state.sim.client.waits_for_reply()
            && self.waits.get(state.sim.client.step) == Some(&true)
            && state.sim.world.now - state.since > HANG
    }

    /// Whether all of the trace came.
    fn over(&self, state: &Branch) -> bool {
        state.given == self.target.outputs.len() && state.sent == self.target.sent.len()
    }

    /// When the next command may be sent, and how many outputs stand unread then.
    fn client(&self, state: &Branch) -> (bool, u32) {
        // When a signal was sent is in no trace, so that any moment will do.
        if self.signals.get(state.sim.client.step) == Some(&true) {
            return (true, 0);
        }
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
    fn took(&mut self, state: &mut Branch, before: usize) -> bool {
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
        let Some(new) = before.checked_sub(state.sim.client.taken()) else {
            self.fail(progress, None, Some("the client read in one step what the process gave in it".to_owned()));
            return false;
        };
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

    fn ended(&mut self, state: Branch) -> Attempt {
        let printed = self.target.console.as_ref().is_none_or(|lines| lines.len() == state.printed);
        let alive = self.target.killed.is_none();
        let all = alive && printed && state.given == self.target.outputs.len() && state.sent == self.target.sent.len();
        if all {
            return Attempt::Found(state.log);
        }
        self.fail(state.given + state.sent, None, Some("the model's run is over".to_owned()));
        Attempt::Failed
    }

    /// The model's process is at its end, for what is broken in it. The real one died there too if the trace ends there, and a signal
    /// that this gives ended it. It may have been sent a command that it never looked at.
    fn died(&mut self, state: Branch, broken: Broken) -> Attempt {
        let killed = self.target.killed.as_deref().is_some_and(|signal| broken.signals().contains(&signal));
        let ends = state.given == self.target.outputs.len();
        if killed && ends {
            return Attempt::Died(state.log, broken);
        }
        let progress = state.given + state.sent;
        if broken.invariant == Invariant::UsedAfterFree && self.freed.as_ref().is_none_or(|(at, _)| *at < progress) {
            self.freed = Some((progress, broken.clone()));
        }
        self.fail(progress, None, Some(broken.to_string()));
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
    fn keep(&mut self, state: &Branch) -> bool {
        let progress = state.given + state.sent;
        let mut hasher = rustc_hash::FxHasher::default();
        state.sim.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return false;
        }
        if progress > self.front {
            self.front = progress;
            self.stuck = 0;
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
