//! A transaction that fails leaves nothing behind.

use crate::base::Kept;
use crate::bitmap::DirtyBitmap;
use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::world::World;
use crate::world::arena::{NodeId, TranId};
use crate::world::watch::feed::{Seen, Standing};
use crate::world::watch::kinds::{SeenKind, SeenKinds};

/// [`Invariant::TransactionUndone`]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TransactionUndone {
    /// How things stood before the transactions that are under way.
    before: Vec<(TranId, Kept<Standing>)>,
}

impl TransactionUndone {
    fn take(&mut self, tran: TranId) -> Option<Kept<Standing>> {
        let at = self.before.iter().position(|(t, _)| *t == tran)?;
        Some(self.before.swap_remove(at).1)
    }
}

impl Watch for TransactionUndone {
    const INVARIANT: Invariant = Invariant::TransactionUndone;
    const HEARS: SeenKinds = SeenKinds::of(&[SeenKind::TranBegin, SeenKind::TranEnd, SeenKind::TranFailed]);

    fn see(&mut self, seen: &Seen, world: &World) -> Result<(), Broken> {
        match seen {
            Seen::TranBegin(tran, before) => self.before.push((*tran, Kept::new((**before).clone()))),
            Seen::TranEnd(tran) => drop(self.take(*tran)),
            Seen::TranFailed(tran, after) => {
                if let Some(before) = self.take(*tran) {
                    return compare(&before, after, world);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn flags(bitmap: &DirtyBitmap) -> String {
    let words = [("enabled", bitmap.enabled()), ("busy", bitmap.busy()), ("persistent", bitmap.persistent())];
    let set: Vec<&str> = words.iter().filter(|(_, set)| *set).map(|(word, _)| *word).collect();
    format!("({})", set.join(", "))
}

fn compare(before: &Standing, after: &Standing, world: &World) -> Result<(), Broken> {
    for (node, node_name, was) in &before.bitmaps {
        // A job of before that holds it may end meanwhile, with its own rules for bitmaps.
        if was.busy() {
            continue;
        }
        // So may a job of another node; bitmaps of its filter, which is what its drive's name meant then, go with that.
        let Some(size) = world.graph.nodes.get(*node).map(|node| node.size) else { continue };
        let subject = || format!("bitmap {} of {node_name}", was.name().map_or("", |name| name));
        let Some((.., is)) = after.bitmaps.iter().find(|(n, _, is)| n == node && is.name() == was.name()) else {
            return TransactionUndone::broken(subject(), "it is gone after a transaction that failed".into());
        };
        if flags(was) != flags(is) {
            let reason =
                format!("it was {} before a transaction that failed and is {} after it", flags(was), flags(is));
            return TransactionUndone::broken(subject(), reason);
        }
        // Writes to nodes that the transaction does not drain go on meanwhile: what was dirty must still be, and more may. A resize that
        // failed late leaves bitmaps that are longer than their node: what is behind its end does not count.
        if let Some(lost) = was.bitmap().first_not_in(is.bitmap()).filter(|lost| *lost < size) {
            let reason = format!("byte {lost} was dirty before a transaction that failed and is clean after it");
            return TransactionUndone::broken(subject(), reason);
        }
    }
    for (node, node_name, is) in &after.bitmaps {
        if !before.bitmaps.iter().any(|(n, _, was)| n == node && is.name() == was.name()) {
            let subject = format!("bitmap {} of {node_name}", is.name().map_or("", |name| name));
            return TransactionUndone::broken(subject, "it is left over from a transaction that failed".into());
        }
    }
    if let Some((_, id)) = after.jobs.iter().find(|job| !before.jobs.contains(job)) {
        return TransactionUndone::broken(format!("job {id}"), "it is left over from a transaction that failed".into());
    }
    // A mirror that ends has a drained section of its own.
    let of_a_mirror = |node: NodeId| world.draining_mirrors().any(|source| world.stands_on(node, source));
    for (node, name, is) in after.drained.iter().filter(|(node, ..)| !of_a_mirror(*node)) {
        let was = before.drained.iter().find(|(n, ..)| n == node).map_or(0, |(.., count)| *count);
        if was < *is {
            let reason = format!("it is drained {is} times after a transaction that failed, {was} times before");
            return TransactionUndone::broken(format!("node {name}"), reason);
        }
    }
    Ok(())
}
