//! An atlas: the states that runs of a scenario went through, so that later runs need not go there again.
//!
//! Many runs of one scenario pass through the same states: all of them share their first steps, and orders that do not matter lead
//! back to where others have been. From one choice to the next a run is a function of its state and of the answers, so an atlas
//! keeps, for each state, what was asked there, and for each answer what came of it: the records that the client saw, the marks that
//! were reached, and the state at the next choice. A run asks its strategy the same questions in the same order as ever, and carries
//! out only what no run did before it. What is a state, and that equal ones go on equally, is as in an exhaustive search
//! ([`super::search`]).

use super::digest::{Fingerprint, TraceDigest};
use super::exhaust::StartPoint;
use super::run::{Digesting, Ran, finish_in, run};
use crate::choice::{Addressee, AddresseeOf, ChoicePoint, Choose, Subject, Tasks};
use crate::sim::Sim;
use crate::sim::outcome::Outcome;
use crate::trace::{Level, Trace};
use crate::world::watch::marks::Marks;
use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;

/// States that an atlas keeps; runs that leave them behind go on without it.
pub const STATES: usize = 4096;

/// Transitions after which a run is made without the atlas: it may go in circles, and then only its limits end it.
const TRANSITIONS: usize = 100_000;

/// No node yet.
const UNKNOWN: u32 = u32::MAX;

/// What is known of a state, of a question in it, or of a transition.
#[derive(Debug)]
enum Node {
    /// A question is asked; where each answer leads.
    Asks(Question, Box<[u32]>),
    /// Nothing more is asked up to the next state.
    Goes(Way, u32),
    /// Nothing more is asked up to the end, and whether the run passed.
    Ends(Way, bool),
}

/// What is asked.
#[derive(Clone, Debug)]
struct Question {
    point: ChoicePoint,
    among: u32,
    /// Of each alternative, which task goes on with it; nothing where the process does not say.
    subjects: Option<Box<[Subject]>>,
}

impl Question {
    fn ask(&self, choose: &mut impl Choose) -> u32 {
        match &self.subjects {
            Some(subjects) => {
                let of = |i: u32| subjects[i as usize];
                choose.choose_of(self.point, self.among, &of, &mut |_| Addressee::Nobody)
            }
            None => choose.choose(self.point, self.among),
        }
    }
}

/// What happens between two states.
#[derive(Clone, Debug, Default)]
struct Way {
    /// Hashes of the client's records.
    records: Vec<u64>,
    marks: Marks,
}

/// What an earlier run came to, as it stood there.
#[derive(Debug)]
struct KnownState {
    /// The run just before something is asked.
    before: Sim,
    /// The first question's node.
    first: u32,
}

/// What one run has gathered on its way.
struct Gathered {
    trace: TraceDigest,
    marks: Marks,
    transitions: usize,
}

impl Gathered {
    fn take(&mut self, way: &Way) {
        self.trace = way.records.iter().fold(self.trace, |trace, record| trace.then_hash(*record));
        self.marks.join(&way.marks);
        self.transitions += 1;
    }
}

/// Asks somebody else behind the answers that were given already, and keeps what is asked.
struct Asking<'a, C> {
    inner: &'a mut C,
    /// What was answered while the atlas knew the way.
    given: std::vec::IntoIter<u32>,
    asked: Vec<(Question, u32)>,
}

impl<C: Choose> Asking<'_, C> {
    fn note(&mut self, question: Question) -> u32 {
        let pick = match self.given.next() {
            Some(pick) => pick,
            None => question.ask(self.inner),
        };
        self.asked.push((question, pick));
        pick
    }
}

impl<C: Choose> Choose for Asking<'_, C> {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        if point == ChoicePoint::Mode {
            return self.inner.choose(point, among);
        }
        self.note(Question { point, among, subjects: None })
    }
    fn choose_of(&mut self, point: ChoicePoint, among: u32, of: Tasks<'_>, _: AddresseeOf<'_>) -> u32 {
        let subjects = (0..among).map(of).collect();
        self.note(Question { point, among, subjects: Some(subjects) })
    }
    fn wants_mode(&self) -> bool {
        self.inner.wants_mode()
    }
}

/// Where a run left what is known: the state, and its answers there.
struct Edge {
    place: u32,
    answers: Vec<u32>,
}

/// How far a run got on known ground.
enum Walked {
    Over(bool),
    Off(Edge),
    TooLong,
}

/// The states of a scenario that were met so far.
#[derive(Debug)]
pub struct Atlas {
    /// Fingerprints of states, by the numbers of their places.
    known: IndexSet<u128, FxBuildHasher>,
    places: Vec<KnownState>,
    nodes: Vec<Node>,
    room: usize,
}

impl Atlas {
    /// An atlas of the runs from here, all of them with the same answer to [`ChoicePoint::Mode`]; it keeps so many states.
    #[must_use]
    pub fn new(start: &StartPoint, room: usize) -> Atlas {
        let mut atlas = Atlas { known: IndexSet::default(), places: Vec::new(), nodes: Vec::new(), room: room.max(1) };
        atlas.place(start.sim.clone());
        atlas
    }

    /// How many states it knows.
    #[must_use]
    pub fn states(&self) -> usize {
        self.places.len()
    }

    /// A run from the start: what [`run`] gives. `start` is the atlas's own. Times must not be open, as they are no part of a state.
    pub fn run<C: Choose>(&mut self, start: &StartPoint, choose: impl Fn() -> C) -> Ran {
        let mut choosing = Digesting::new(choose());
        if !choosing.wants_mode() {
            return run(start, choose());
        }
        let mut gathered = Gathered {
            trace: TraceDigest::of(&start.sim.world.trace),
            marks: start.sim.world.feed.marks,
            transitions: 0,
        };
        let mut at = Edge { place: 0, answers: Vec::new() };
        loop {
            match self.walk(at, &mut choosing, &mut gathered) {
                Walked::Over(true) => {
                    return choosing.ran(Outcome::Passed, gathered.trace, gathered.marks);
                }
                // What there is to say of a failure depends on the very way: how long it took, for one.
                Walked::Over(false) | Walked::TooLong => return run(start, choose()),
                Walked::Off(edge) => match self.explore(edge, &mut choosing, &mut gathered) {
                    Ok(edge) => at = edge,
                    Err(sim) => {
                        let ran = finish_in(*sim, choosing, gathered.trace, gathered.marks);
                        return if ran.outcome == Outcome::Passed { ran } else { run(start, choose()) };
                    }
                },
            }
        }
    }

    /// Goes on as far as the way is known.
    fn walk(&self, from: Edge, choose: &mut impl Choose, gathered: &mut Gathered) -> Walked {
        let Edge { mut place, mut answers } = from;
        let mut given = std::mem::take(&mut answers).into_iter();
        let mut node = self.places[place as usize].first;
        loop {
            match self.nodes.get(node as usize) {
                None => {
                    answers.extend(given);
                    return Walked::Off(Edge { place, answers });
                }
                Some(Node::Asks(question, next)) => {
                    let pick = given.next().unwrap_or_else(|| question.ask(choose));
                    answers.push(pick);
                    node = next[pick as usize];
                }
                Some(Node::Goes(way, to)) => {
                    gathered.take(way);
                    if gathered.transitions > TRANSITIONS {
                        return Walked::TooLong;
                    }
                    place = *to;
                    answers.clear();
                    node = self.places[place as usize].first;
                }
                Some(Node::Ends(way, passed)) => {
                    gathered.take(way);
                    return Walked::Over(*passed);
                }
            }
        }
    }

    /// Carries out what no run did before: from a state up to the next one, or to the end. Gives where to go on, on known ground, or the
    /// run itself where there is no more room.
    fn explore<C: Choose>(&mut self, edge: Edge, choose: &mut C, gathered: &mut Gathered) -> Result<Edge, Box<Sim>> {
        let Edge { place, answers } = edge;
        let mut sim = self.places[place as usize].before.clone();
        if self.places.len() >= self.room {
            let mut asking = Asking { inner: choose, given: answers.into_iter(), asked: Vec::new() };
            return match sim.step_caught(&mut asking) {
                None => Err(Box::new(sim)),
                Some(outcome) => Ok(self.note(place, asking.asked, Way::of(&mut sim), Err(outcome))),
            };
        }
        let mut asking = Asking { inner: choose, given: answers.into_iter(), asked: Vec::new() };
        let mut outcome = sim.step_caught(&mut asking);
        let asked = std::mem::take(&mut asking.asked);
        let mut way = Way::of(&mut sim);
        loop {
            if let Some(outcome) = outcome {
                return Ok(self.note(place, asked, way, Err(outcome)));
            }
            let before = sim.may_choose().then(|| sim.clone());
            outcome = sim.step_caught(&mut asking);
            if !asking.asked.is_empty() {
                let before = before.expect("a choice was asked for where none could be");
                let to = self.place(before);
                let next = std::mem::take(&mut asking.asked);
                gathered.take(&way);
                self.note(place, asked, way, Ok(to));
                let answers = next.into_iter().map(|(_, pick)| pick).collect();
                return Ok(Edge { place: to, answers });
            }
            way.join(Way::of(&mut sim));
        }
    }

    /// The number of a state.
    fn place(&mut self, mut before: Sim) -> u32 {
        before.rebase();
        before.world.trace = Trace::new(Some(Level::Client), usize::MAX);
        before.world.feed.marks = Marks::default();
        let (number, new) = self.known.insert_full(Fingerprint::of(&before));
        if new {
            self.places.push(KnownState { before, first: UNKNOWN });
        }
        u32::try_from(number).expect("there is less room")
    }

    /// Notes a transition; gives the way into it.
    fn note(&mut self, place: u32, asked: Vec<(Question, u32)>, way: Way, to: Result<u32, Outcome>) -> Edge {
        let mut slot = Slot::First(place);
        let mut answers = Vec::with_capacity(asked.len());
        for (question, pick) in asked {
            let node = match self.get(slot) {
                UNKNOWN => {
                    let next = vec![UNKNOWN; question.among as usize].into();
                    self.put(slot, Node::Asks(question, next))
                }
                known => known,
            };
            answers.push(pick);
            slot = Slot::Answer(node, pick);
        }
        if self.get(slot) == UNKNOWN {
            let node = match to {
                Ok(to) => Node::Goes(way, to),
                Err(outcome) => Node::Ends(way, outcome == Outcome::Passed),
            };
            self.put(slot, node);
        }
        Edge { place, answers }
    }

    fn get(&self, slot: Slot) -> u32 {
        match slot {
            Slot::First(place) => self.places[place as usize].first,
            Slot::Answer(node, pick) => match &self.nodes[node as usize] {
                Node::Asks(_, next) => next[pick as usize],
                Node::Goes(..) | Node::Ends(..) => panic!("the same state asks for more than it did before"),
            },
        }
    }

    fn put(&mut self, slot: Slot, node: Node) -> u32 {
        let number = u32::try_from(self.nodes.len()).expect("there is less room");
        self.nodes.push(node);
        match slot {
            Slot::First(place) => self.places[place as usize].first = number,
            Slot::Answer(node, pick) => {
                if let Node::Asks(_, next) = &mut self.nodes[node as usize] {
                    next[pick as usize] = number;
                }
            }
        }
        number
    }
}

/// Where the number of a node stands.
#[derive(Clone, Copy)]
enum Slot {
    First(u32),
    Answer(u32, u32),
}

impl Way {
    /// Takes out of a run what happened in it.
    fn of(sim: &mut Sim) -> Way {
        let marks = std::mem::take(&mut sim.world.feed.marks);
        let trace = &sim.world.trace;
        if trace.is_empty() {
            return Way { records: Vec::new(), marks };
        }
        let records = trace.iter().filter(|record| record.kind.level() == Level::Client);
        let records = records.map(|record| Fingerprint::of(&record.kind) as u64).collect();
        sim.world.trace = Trace::new(Some(Level::Client), usize::MAX);
        Way { records, marks }
    }

    fn join(&mut self, other: Way) {
        self.records.extend(other.records);
        self.marks.join(&other.marks);
    }
}
