//! A flush that succeeds has flushed.

use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};

/// [`Invariant::Flushed`]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flushed {
    /// Nodes, and the last write that a flush which succeeded came after.
    nodes: Vec<(NodeId, u64)>,
    /// Nodes of which a flush has failed since that had something of the node's own to do.
    failed: Vec<NodeId>,
}

impl Watch for Flushed {
    const INVARIANT: Invariant = Invariant::Flushed;
    const HEARS: SeenKinds = SeenKinds::of(&[SeenKind::FlushSkipped, SeenKind::Flushed]);

    fn see(&mut self, seen: &Seen, _world: &World) -> Result<(), Broken> {
        match seen {
            Seen::FlushSkipped { node, name, generation } => {
                let known = self.nodes.iter().find(|(n, _)| n == node).map(|(_, done)| *done);
                // A node that was not watched from its start may have been flushed before.
                let seen_failing = self.failed.contains(node);
                if known.map_or(seen_failing, |done| done < *generation) {
                    let reason = "a flush does nothing though the one before it failed, and nothing was flushed".into();
                    return Self::broken(format!("node {name}"), reason);
                }
            }
            Seen::Flushed { node, generation, ok: true, .. } => {
                self.failed.retain(|n| n != node);
                match self.nodes.iter_mut().find(|(n, _)| n == node) {
                    Some((_, done)) => *done = (*done).max(*generation),
                    None => self.nodes.push((*node, *generation)),
                }
            }
            // Where a node has nothing of its own to do, its driver writes what it holds, and the nodes below are flushed. What fails there
            // says nothing of this one: a format's metadata is written to its file without a write to the format.
            Seen::Flushed { node, ok: false, own: true, .. } if !self.failed.contains(node) => self.failed.push(*node),
            _ => {}
        }
        Ok(())
    }
}
