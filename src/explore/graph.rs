//! The graph of states that a search found, and what follows from it: how many schedules there are, which client traces they produce,
//! and whether all of them come to rest.

use super::count::Count;
use super::digest::TraceDigest;
use crate::choice::Choice;
use crate::sim::outcome::Outcome;
use std::collections::BTreeMap;

/// A state.
#[derive(Clone, Debug, Default)]
struct Node {
    edges: Vec<Edge>,
    /// How a run ends that is here.
    outcome: Option<Outcome>,
    /// The search stands in it or behind it.
    open: bool,
}

/// A transition.
#[derive(Clone, Copy, Debug)]
struct Edge {
    to: u32,
    /// Where its answers begin, in the pool of all.
    picks: u32,
    /// Where its client records begin.
    records: u32,
    n_picks: u16,
    n_records: u16,
    /// Leads back to where the search came from: closes a cycle.
    back: bool,
}

/// States and transitions.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    root: u32,
    root_records: Vec<u64>,
    picks: Vec<u32>,
    records: Vec<u64>,
    transitions: usize,
    /// Nodes in the order in which the search was done with them: without back edges, each stands behind all it leads to.
    done: Vec<u32>,
}

impl Graph {
    pub(super) fn add_node(&mut self, outcome: Option<Outcome>) {
        if outcome.is_some() {
            self.done.push(u32::try_from(self.nodes.len()).expect("capped far below"));
        }
        self.nodes.push(Node { edges: Vec::new(), outcome, open: false });
    }

    pub(super) fn set_root(&mut self, node: u32, records: Vec<u64>) {
        (self.root, self.root_records) = (node, records);
    }

    pub(super) fn open(&mut self, node: u32) {
        self.nodes[node as usize].open = true;
    }

    pub(super) fn close(&mut self, node: u32) {
        self.nodes[node as usize].open = false;
        self.done.push(node);
    }

    pub(super) fn add_edge(&mut self, from: u32, to: u32, asked: &[Choice], records: &[u64]) {
        let small = |n: usize| u32::try_from(n).expect("capped far below");
        let edge = Edge {
            to,
            picks: small(self.picks.len()),
            records: small(self.records.len()),
            n_picks: u16::try_from(asked.len()).expect("few choices in a step"),
            n_records: u16::try_from(records.len()).expect("few records between choices"),
            back: self.nodes[to as usize].open,
        };
        self.picks.extend(asked.iter().map(|choice| choice.pick));
        self.records.extend(records);
        self.transitions += 1;
        self.nodes[from as usize].edges.push(edge);
    }

    /// How many states there are, ends included.
    #[must_use]
    pub fn states(&self) -> usize {
        self.nodes.len()
    }

    /// How many transitions there are.
    #[must_use]
    pub fn transitions(&self) -> usize {
        self.transitions
    }

    fn picks(&self, edge: &Edge) -> &[u32] {
        &self.picks[edge.picks as usize..][..usize::from(edge.n_picks)]
    }

    fn records(&self, edge: &Edge) -> &[u64] {
        &self.records[edge.records as usize..][..usize::from(edge.n_records)]
    }

    /// Transitions that close a cycle.
    #[must_use]
    pub fn cycles(&self) -> usize {
        self.nodes.iter().flat_map(|node| &node.edges).filter(|edge| edge.back).count()
    }

    /// States from which no end can be reached.
    #[must_use]
    pub fn without_end(&self) -> usize {
        let mut into: Vec<Vec<u32>> = vec![Vec::new(); self.nodes.len()];
        for (from, node) in self.nodes.iter().enumerate() {
            for edge in &node.edges {
                into[edge.to as usize].push(from as u32);
            }
        }
        let mut reaches: Vec<bool> = self.nodes.iter().map(|node| node.outcome.is_some()).collect();
        let mut open: Vec<usize> = (0..self.nodes.len()).filter(|i| reaches[*i]).collect();
        while let Some(node) = open.pop() {
            for from in std::mem::take(&mut into[node]) {
                if !std::mem::replace(&mut reaches[from as usize], true) {
                    open.push(from as usize);
                }
            }
        }
        reaches.iter().filter(|reaches| !**reaches).count()
    }

    /// Transitions of the longest schedule that goes round no cycle.
    #[must_use]
    pub fn depth(&self) -> usize {
        let mut depth = vec![0usize; self.nodes.len()];
        for node in &self.done {
            let edges = self.nodes[*node as usize].edges.iter().filter(|edge| !edge.back);
            depth[*node as usize] = edges.map(|edge| depth[edge.to as usize] + 1).max().unwrap_or(0);
        }
        depth.get(self.root as usize).copied().unwrap_or(0)
    }

    /// How many complete schedules there are, not counting those that go round a cycle.
    #[must_use]
    pub fn schedules(&self) -> Count {
        let mut ways = vec![Count::default(); self.nodes.len()];
        for node in &self.done {
            let mut sum = Count::from(u128::from(self.nodes[*node as usize].outcome.is_some()));
            for edge in self.nodes[*node as usize].edges.iter().filter(|edge| !edge.back) {
                sum.add(&ways[edge.to as usize]);
            }
            ways[*node as usize] = sum;
        }
        ways.into_iter().nth(self.root as usize).unwrap_or_default()
    }

    /// All client traces with their ends. `None` if a state and a trace up to it come together in more than `cap` ways.
    ///
    /// A state that was reached with several traces behind it has them all, and each goes on from there with what its transitions add.
    #[must_use]
    pub fn traces(&self, cap: usize) -> Option<Vec<ClientTrace>> {
        let mut known: Vec<BTreeMap<TraceDigest, Way>> = vec![BTreeMap::new(); self.nodes.len()];
        let first = self.root_records.iter().fold(TraceDigest::default(), |digest, record| digest.then_hash(*record));
        let start = Way { deviations: 0, choices: 0, schedules: Count::from(1), from: None };
        known[self.root as usize].insert(first, start);
        let mut total = 1;
        let mut ends = Vec::new();
        // Done last is nearest to the start: all that leads to a node was done after it.
        for node in self.done.iter().rev() {
            let here = std::mem::take(&mut known[*node as usize]);
            for (number, edge) in self.nodes[*node as usize].edges.iter().enumerate().filter(|(_, edge)| !edge.back) {
                let deviations = self.picks(edge).iter().filter(|pick| **pick != 0).count() as u32;
                for (digest, way) in &here {
                    let then = self.records(edge).iter().fold(*digest, |digest, record| digest.then_hash(*record));
                    let new = Way {
                        deviations: way.deviations + deviations,
                        choices: way.choices + u32::from(edge.n_picks),
                        schedules: way.schedules.clone(),
                        from: Some((*node, *digest, number as u32)),
                    };
                    let there = &mut known[edge.to as usize];
                    match there.get_mut(&then) {
                        Some(old) => old.join(new),
                        None => {
                            there.insert(then, new);
                            total += 1;
                        }
                    }
                }
            }
            if self.nodes[*node as usize].outcome.is_some() {
                ends.extend(here.keys().map(|digest| (*node, *digest)));
            }
            known[*node as usize] = here;
            if total > cap {
                return None;
            }
        }
        let trace = |(node, digest): (u32, TraceDigest)| {
            let way = &known[node as usize][&digest];
            ClientTrace {
                digest,
                outcome: self.nodes[node as usize].outcome.clone().expect("an end"),
                schedules: way.schedules.clone(),
                deviations: way.deviations,
                choices: way.choices,
                picks: self.way_to(&known, node, digest),
            }
        };
        let mut traces: Vec<ClientTrace> = ends.into_iter().map(trace).collect();
        traces.sort_by_key(|trace| (trace.deviations, trace.choices, trace.digest));
        Some(traces)
    }

    /// The answers along the shortest way.
    fn way_to(&self, known: &[BTreeMap<TraceDigest, Way>], node: u32, digest: TraceDigest) -> Vec<u32> {
        let mut edges = Vec::new();
        let mut at = (node, digest);
        while let Some((node, digest, edge)) = known[at.0 as usize][&at.1].from {
            edges.push(&self.nodes[node as usize].edges[edge as usize]);
            at = (node, digest);
        }
        edges.into_iter().rev().flat_map(|edge| self.picks(edge)).copied().collect()
    }

    /// The answers that lead to an end of that kind with the fewest deviations, whatever the trace.
    #[must_use]
    pub fn ends(&self) -> Vec<Outcome> {
        self.nodes.iter().filter_map(|node| node.outcome.clone()).collect()
    }
}

/// The best way to a state with a trace behind it, and how many there are.
#[derive(Clone, Debug)]
struct Way {
    deviations: u32,
    choices: u32,
    schedules: Count,
    /// The state before, its trace, the number of the transition.
    from: Option<(u32, TraceDigest, u32)>,
}

impl Way {
    fn join(&mut self, mut other: Way) {
        if (other.deviations, other.choices, other.from) < (self.deviations, self.choices, self.from) {
            std::mem::swap(self, &mut other);
        }
        self.schedules.add(&other.schedules);
    }
}

/// What a client can see, and how it comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTrace {
    /// Of commands, replies and events in the order in which the client sees them.
    pub digest: TraceDigest,
    /// How runs with it end.
    pub outcome: Outcome,
    /// How many schedules give it.
    pub schedules: Count,
    /// How few choices have to be other than calm.
    pub deviations: u32,
    /// Of how many choices in that schedule.
    pub choices: u32,
    /// That schedule: all answers from where exploring starts, without that to [`ChoicePoint::Mode`](crate::choice::ChoicePoint::Mode).
    pub picks: Vec<u32>,
}
