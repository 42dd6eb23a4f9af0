//! Guests read what was last written.

use super::disk::{Disk, Requests};
use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::backend::BlkRequest;
use crate::world::block::driver::Driver;
use crate::world::block::graph::Node;
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};

/// [`Invariant::LastWrite`]
///
/// QEMU itself breaks it in one case, which is left out: when what stands around an unaligned write cannot be read, it goes on and
/// writes zeroes there (`bdrv_padding_rmw_read`). Nor is anything said of ranges whose last write failed, met others on the way, or
/// was a discard, and of what a backup with `discard-source` takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LastWrite {
    /// Nodes that guests use, from the first request on that goes there.
    disks: Vec<(NodeId, Disk)>,
    requests: Requests,
}

/// Whether a backup that is there discards what it has copied of that node, or of what its filters stand on.
fn discarded(node: NodeId, world: &World) -> bool {
    let mut below = Some(node);
    while let Some(bs) = below {
        let takes = |of: &Node| of.driver.as_ref().is_some_and(Driver::discards_source);
        if world.graph.nodes.iter().any(|(id, of)| takes(of) && (id == bs || world.graph.filter_bs(id) == Some(bs))) {
            return true;
        }
        below = world.graph.filter_bs(bs);
    }
    false
}

impl Watch for LastWrite {
    const INVARIANT: Invariant = Invariant::LastWrite;
    const HEARS: SeenKinds = SeenKinds::of(&[
        SeenKind::BackupBegins,
        SeenKind::GuestBegin,
        SeenKind::GuestEnd,
        SeenKind::Changed,
        SeenKind::PaddingLost,
        SeenKind::ReadUndone,
        SeenKind::ChainBegins,
    ]);

    fn see(&mut self, seen: &Seen, world: &World) -> Result<(), Broken> {
        match seen {
            Seen::GuestBegin { co, node, request, content, .. } => {
                if let Some(content) = content
                    && content.keeps_writes()
                    && !discarded(*node, world)
                {
                    self.disks.push((*node, Disk::new((**content).clone())));
                }
                // Another guest's device may stand on the same node, or below this one.
                if matches!(**request, BlkRequest::Write { .. } | BlkRequest::Discard { .. }) {
                    self.disks.retain(|(disk, _)| {
                        disk == node || !world.stands_on(*disk, *node) && !world.stands_on(*node, *disk)
                    });
                }
                self.requests.begin(*co, *node, request);
            }
            Seen::GuestEnd { co, ok, data } => {
                if let Some(request) = self.requests.end(*co)
                    && let Some((_, disk)) = self.disks.iter_mut().find(|(node, _)| *node == request.node)
                {
                    let held = disk.ended(request, *ok, data.as_ref());
                    return held.or_else(|reason| Self::broken("a guest's read".into(), reason));
                }
            }
            Seen::PaddingLost | Seen::ReadUndone => self.disks.clear(),
            Seen::Changed(node) => self.disks.retain(|(disk, _)| !world.stands_on(*disk, *node)),
            Seen::BackupBegins(begins) => {
                let changed =
                    |disk: NodeId| disk == begins.target_node || begins.discards && disk == begins.source_node;
                self.disks.retain(|(disk, _)| !changed(*disk));
            }
            // What a job writes changes all that stands on it, but its own device.
            Seen::ChainBegins(begins) => {
                let target = begins.target;
                let changed = |disk: NodeId| target.is_some_and(|target| world.stands_on(disk, target));
                self.disks.retain(|(disk, _)| begins.leaves(*disk) || !changed(*disk));
            }
            _ => {}
        }
        Ok(())
    }
}
