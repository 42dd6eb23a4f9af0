//! The raw format (`block/raw-format.c`).

use crate::world::World;
use crate::world::arena::NodeId;

/// `BDRVRawState` of `raw-format.c`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RawDriver {
    /// Bytes skipped in the file.
    pub offset: u64,
    /// `size` was given.
    pub size: Option<u64>,
    /// The format was guessed (`bs->probed`).
    pub probed: bool,
}

impl World {
    /// `raw_apply_options`
    pub(in crate::world) fn open_raw(&mut self, bs: NodeId, raw: &RawDriver) -> Result<(), String> {
        let below = self.bdrv_getlength(self.below(bs));
        if below < raw.offset {
            return Err(format!(
                "Offset ({}) cannot be greater than size of the containing file ({below})",
                raw.offset
            ));
        }
        if let Some(size) = raw.size
            && below - raw.offset < size
        {
            return Err(format!(
                "The sum of offset ({}) and size ({size}) has to be smaller or equal to the actual size of the \
                 containing file ({below})",
                raw.offset
            ));
        }
        self.graph.nodes[bs].size = raw.size.unwrap_or(below - raw.offset);
        Ok(())
    }
}
