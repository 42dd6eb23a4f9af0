//! What the workers of a search found, put together: as if one had searched alone, always taking the first transition that is left of
//! the state that it entered last. So nothing tells how many there were, or who was faster.

use super::graph::Graph;
use crate::choice::Choice;
use crate::sim::outcome::Outcome;
use rustc_hash::FxHashMap;

/// A transition that was taken.
#[derive(Debug)]
pub(super) struct Taking {
    pub to: u128,
    pub asked: Vec<Choice>,
    pub records: Vec<u64>,
}

/// What one worker found: its states with their transitions in order, and ends.
#[derive(Debug, Default)]
pub struct WorkerStates {
    pub(super) states: Vec<(u128, Vec<Taking>)>,
    pub(super) ends: Vec<(u128, Outcome)>,
}

impl WorkerStates {
    /// The ends that were found, in the order of their texts.
    pub(super) fn ends(parts: &[WorkerStates]) -> Vec<Outcome> {
        let mut ends: Vec<Outcome> = parts.iter().flat_map(|part| &part.ends).map(|(_, end)| end.clone()).collect();
        ends.sort_by_key(|end| format!("{end:?}"));
        ends
    }
}

/// All that was found, and how far it is numbered.
struct Joining {
    states: FxHashMap<u128, Vec<Taking>>,
    ends: FxHashMap<u128, Outcome>,
    numbers: FxHashMap<u128, u32>,
    graph: Graph,
}

impl Joining {
    /// The number of a state, and its transitions if it is come to for the first time; an end has none.
    fn arrive(&mut self, state: u128) -> (u32, Option<Vec<Taking>>) {
        if let Some(number) = self.numbers.get(&state) {
            return (*number, None);
        }
        let number = u32::try_from(self.numbers.len()).expect("capped far below");
        self.numbers.insert(state, number);
        self.graph.add_node(self.ends.remove(&state));
        (number, self.states.remove(&state))
    }
}

/// The graph from the state `root` on.
pub(super) fn join(root: u128, root_records: Vec<u64>, parts: Vec<WorkerStates>) -> Graph {
    let mut joining = Joining {
        states: FxHashMap::default(),
        ends: FxHashMap::default(),
        numbers: FxHashMap::default(),
        graph: Graph::default(),
    };
    for part in parts {
        joining.states.extend(part.states);
        joining.ends.extend(part.ends);
    }
    let (number, taken) = joining.arrive(root);
    joining.graph.set_root(number, root_records);
    let mut stack = Vec::new();
    let mut entered = taken.map(|taken| (number, taken));
    loop {
        if let Some((number, taken)) = entered.take() {
            joining.graph.open(number);
            stack.push((number, taken.into_iter()));
        }
        let Some((from, left)) = stack.last_mut() else { return joining.graph };
        match left.next() {
            Some(Taking { to, asked, records }) => {
                let from = *from;
                let (to, taken) = joining.arrive(to);
                joining.graph.add_edge(from, to, &asked, &records);
                entered = taken.map(|taken| (to, taken));
            }
            None => {
                joining.graph.close(*from);
                stack.pop();
            }
        }
    }
}
