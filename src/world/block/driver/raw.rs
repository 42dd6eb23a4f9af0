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
    /// `raw_apply_options`, and the size that the node has then.
    pub(in crate::world) fn raw_apply_options(
        &self,
        bs: NodeId,
        offset: u64,
        size: Option<u64>,
    ) -> Result<u64, String> {
        let below = self.bdrv_getlength(self.below(bs));
        if below < offset {
            return Err(format!("Offset ({offset}) cannot be greater than size of the containing file ({below})"));
        }
        if let Some(size) = size
            && below - offset < size
        {
            // The two spaces are QEMU's.
            return Err(format!(
                "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  actual size of the \
                 containing file ({below})"
            ));
        }
        if size.is_some_and(|size| !size.is_multiple_of(512)) {
            return Err("Specified size is not multiple of 512".to_owned());
        }
        Ok(size.unwrap_or(below - offset))
    }

    /// `raw_open`
    pub(in crate::world) fn open_raw(&mut self, bs: NodeId, raw: &RawDriver) -> Result<(), String> {
        self.graph.nodes[bs].size = self.raw_apply_options(bs, raw.offset, raw.size)?.next_multiple_of(512);
        Ok(())
    }
}
