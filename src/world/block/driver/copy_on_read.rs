//! The `copy-on-read` filter (`block/copy-on-read.c`): what is read through it and comes from below is written to its node, too.

use crate::world::arena::NodeId;

/// `BDRVStateCOR`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CopyOnRead {
    /// `bottom`: data below this node is not copied.
    pub bottom: Option<NodeId>,
    /// The chain from the filter down to `bottom` is frozen.
    pub chain_frozen: bool,
}
