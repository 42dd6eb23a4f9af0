//! An event when a write goes beyond a mark (`block/write-threshold.c`).

use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::frame::Flow;
use crate::world::value::Val;

impl World {
    /// `bdrv_write_threshold_check_write`
    pub(in crate::world) fn write_threshold_check(&mut self, node: NodeId, offset: u64, bytes: u64) {
        let n = &mut self.graph.nodes[node];
        let end = offset + bytes;
        if n.write_threshold > 0 && end > n.write_threshold {
            let threshold = std::mem::take(&mut n.write_threshold);
            let data = crate::base::Json::dict(vec![
                ("node-name", crate::base::Json::Str(n.node_name.clone())),
                ("amount-exceeded", crate::base::Json::uint(end - threshold)),
                ("write-threshold", crate::base::Json::uint(threshold)),
            ]);
            self.emit("BLOCK_WRITE_THRESHOLD", data);
        }
    }

    pub(in crate::world) fn set_write_threshold(&mut self, name: &str, threshold: u64) -> Flow {
        let done = match self.graph.find_node(name) {
            Some(bs) => {
                self.graph.nodes[bs].write_threshold = threshold;
                Ok(())
            }
            None => Err(QmpError::generic(format!("Device '{name}' not found"))),
        };
        self.ret(Val::Done(done))
    }
}
