//! What is drained is drained.

use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};

/// [`Invariant::Drained`]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Drained {
    /// Nodes with a drained section that is there, as requests were waited for, and has not ended; once for each such section.
    nodes: Vec<NodeId>,
}

impl Watch for Drained {
    const INVARIANT: Invariant = Invariant::Drained;
    const HEARS: SeenKinds =
        SeenKinds::of(&[SeenKind::Drained, SeenKind::DrainEnds, SeenKind::Undrained, SeenKind::RequestInDrain]);

    fn see(&mut self, seen: &Seen, _world: &World) -> Result<(), Broken> {
        match seen {
            Seen::Drained { node, name, in_flight } => {
                if *in_flight > 0 {
                    let reason = format!("it is drained with {in_flight} requests under way");
                    return Self::broken(format!("node {name}"), reason);
                }
                self.nodes.push(*node);
            }
            Seen::DrainEnds(node) => {
                if let Some(at) = self.nodes.iter().position(|drained| drained == node) {
                    self.nodes.remove(at);
                }
            }
            Seen::Undrained(node) => self.nodes.retain(|drained| drained != node),
            Seen::RequestInDrain { node, name } if self.nodes.contains(node) => {
                return Self::broken(format!("node {name}"), "a request begins though it is drained".into());
            }
            _ => {}
        }
        Ok(())
    }
}
