//! Null devices (`block/null.c`).

use super::Driver;
use crate::base::time::Span;
use crate::host::Frozen;
use crate::world::World;
use crate::world::aio::device::DeviceOp;
use crate::world::arena::NodeId;
use crate::world::block::filename::Described;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

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
    /// `null_refresh_filename`: the name says nothing of options.
    pub(super) fn null_refresh_filename(&self, node: NodeId, described: Described<'_>) -> Arc<str> {
        let scheme = self.graph.nodes[node].drv().format_name();
        if described.is_plain() { format!("{scheme}://").into() } else { "".into() }
    }

    /// Zeroes, or whatever the buffer held.
    pub(super) fn null_frozen(&self, node: NodeId) -> Frozen {
        match self.graph.nodes[node].drv() {
            Driver::Null(null) if null.read_zeroes => Frozen::Zero,
            _ => Frozen::Unknown,
        }
    }

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
