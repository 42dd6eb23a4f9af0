//! A fault that is to happen once happens once.

use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::{SeenKind, SeenKinds};

/// [`Invariant::FaultsOnce`]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FaultsOnce {
    fired: Vec<(NodeId, u32)>,
}

impl Watch for FaultsOnce {
    const INVARIANT: Invariant = Invariant::FaultsOnce;
    const HEARS: SeenKinds = SeenKinds::of(&[SeenKind::Fault]);

    fn see(&mut self, seen: &Seen, _world: &World) -> Result<(), Broken> {
        match seen {
            Seen::Fault { node, name, rule, once: true } => {
                if self.fired.contains(&(*node, *rule)) {
                    let reason = format!("rule {rule} says `once`, and fires again");
                    return Self::broken(format!("node {name}"), reason);
                }
                self.fired.push((*node, *rule));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
