//! Nothing is left of a job that was dismissed, and at rest nothing is left that nobody holds.

use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::world::World;
use crate::world::block::blockers::Blocker;
use crate::world::block::edges::Parent;
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};

/// [`Invariant::NothingLeft`]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NothingLeft;

impl Watch for NothingLeft {
    const INVARIANT: Invariant = Invariant::NothingLeft;
    const HEARS: SeenKinds = SeenKinds::of(&[SeenKind::JobFreed]);

    fn see(&mut self, seen: &Seen, world: &World) -> Result<(), Broken> {
        let Seen::JobFreed { job, id } = seen else { return Ok(()) };
        let left = |what: String| Self::broken(format!("job {id}"), format!("it was dismissed, and {what}"));
        for (_, node) in world.graph.nodes.iter() {
            if node.op_blockers.contains(&Blocker::Job(*job)) {
                return left(format!("it still blocks node {}", node.node_name));
            }
        }
        if let Some((_, edge)) = world.graph.children.iter().find(|(_, edge)| edge.parent == Parent::Job(*job)) {
            return left(format!("it still holds an edge '{}'", edge.name));
        }
        Ok(())
    }
}

impl NothingLeft {
    /// Looks at a process that is at rest.
    pub(in crate::check) fn at_rest(world: &World) -> Result<(), Broken> {
        let busy = !world.jobs.list.is_empty() || !world.exports.list.is_empty() || world.monitor.busy();
        for (_, node) in world.graph.nodes.iter() {
            if node.parents.is_empty() && !node.monitor_owned && !busy {
                let reason = format!("nobody holds it any more ({} references)", node.refcnt);
                return Self::broken(format!("node {}", node.node_name), reason);
            }
            if node.quiesce_counter > 0 && !busy {
                let reason = format!("it is still drained ({} times)", node.quiesce_counter);
                return Self::broken(format!("node {}", node.node_name), reason);
            }
            if let Some(bitmap) = node.bitmaps.iter().find(|bitmap| bitmap.busy() && !busy) {
                let name = bitmap.name().map_or("(without a name)", |name| name);
                let reason = "it is still in use, and there is no job".to_owned();
                return Self::broken(format!("bitmap {name} of {}", node.node_name), reason);
            }
            if node.in_flight > 0 && !busy && !suspended(world) {
                let reason = format!("{} requests are still under way", node.in_flight);
                return Self::broken(format!("node {}", node.node_name), reason);
            }
        }
        if !busy && let Some((txn, group)) = world.jobs.txns.iter().next() {
            let reason = format!("it is left, with {} jobs", group.jobs.len());
            return Self::broken(format!("group {txn:?}"), reason);
        }
        Ok(())
    }
}

/// Whether blkdebug holds a request because a client asked for it.
pub(in crate::check) fn suspended(world: &World) -> bool {
    world.cos.iter().any(|(_, co)| matches!(co.wait, Some(crate::world::aio::coroutine::Wait::Suspended(_))))
}
