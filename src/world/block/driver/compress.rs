//! `compress`: a filter that has all that is written through it compressed (`block/filter-compress.c`).

use super::Driver;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::io::request::{IoFlags, WriteReq};
use crate::world::frame::Flow;

impl World {
    /// `compress_open`, once the node below is attached.
    ///
    /// # Errors
    /// The format below can't compress.
    pub(in crate::world) fn compress_open(&mut self, node: NodeId) -> Result<(), String> {
        let below = self.below(node);
        let driver = self.graph.nodes[below].drv();
        // `block_driver_can_compress`
        if !matches!(driver, Driver::Qcow2(_) | Driver::Throttle(_) | Driver::CopyOnRead(_)) {
            let format = driver.format_name();
            return Err(format!("Compression is not supported for underlying format: {format}"));
        }
        self.graph.nodes[node].size = self.bdrv_getlength(below);
        Ok(())
    }

    /// `compress_co_pwritev_part`. Leaves `Val::Ret`.
    pub(super) fn compress_pwritev(&mut self, mut req: Box<WriteReq>) -> Flow {
        req.flags |= IoFlags::COMPRESSED;
        self.pass_write(req, 0)
    }
}
