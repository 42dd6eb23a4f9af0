//! Null devices (`block/null.c`).

use super::Driver;
use crate::base::time::Span;
use crate::world::World;
use crate::world::aio::device::DeviceOp;
use crate::world::arena::NodeId;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;

/// `BDRVNullState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NullDriver {
    /// It is `null-aio`.
    pub aio: bool,
    /// `latency-ns`: how long a request takes.
    pub latency: Span,
    /// `read-zeroes`
    pub read_zeroes: bool,
}

impl World {
    /// A request to a null device: at once, or after its latency.
    pub(super) fn null_request(&mut self, node: NodeId, latency: Span, result: Val) -> Flow {
        if latency == Span::ZERO {
            let aio = matches!(self.graph.nodes[node].drv(), Driver::Null(n) if n.aio);
            if !aio {
                return self.ret(result);
            }
        }
        self.push(Frame::Give(Box::new(result)));
        self.device_submit(node, DeviceOp::Nothing, 0, latency.as_nanos())
    }
}
