//! The name of the backing file in an image (`block.c:bdrv_change_backing_file`).

use crate::base::Errno;
use crate::block::qcow2::{Qcow2Call, backing_format};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::driver::qcow2::Qcow2Frame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// Longest name that qcow2 can hold, in bytes.
const MAX_BACKING_FILE: usize = 1023;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum BackingNameFrame {
    ChangeBackingFile { node: NodeId, file: Option<Arc<str>>, format: Option<Arc<str>> },
    HeaderChanged,
}

impl BackingNameFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BackingNameFrame::ChangeBackingFile { node, file, format } => {
                w.bdrv_change_backing_file(node, file, format)
            }
            BackingNameFrame::HeaderChanged => w.header_changed(),
        }
    }
}

impl World {
    /// `bdrv_change_backing_file`: the name of the backing file in an image, or none. Leaves `Val::Ret`.
    fn bdrv_change_backing_file(&mut self, node: NodeId, file: Option<Arc<str>>, format: Option<Arc<str>>) -> Flow {
        if file.is_none() && format.is_some() {
            return self.ret(Val::err(Errno::EINVAL));
        }
        if !self.graph.nodes[node].drv().row().has_change_backing_file {
            return self.ret(Val::err(Errno::ENOTSUP));
        }
        if file.as_ref().is_some_and(|file| file.len() > MAX_BACKING_FILE) {
            return self.ret(Val::err(Errno::EINVAL));
        }
        let op = Box::new(Qcow2Call::change_backing_file(file.as_deref(), format.as_deref()));
        // What is noted of the image changes even where the header can't be written (`qcow2_co_change_backing_file`).
        let n = &mut self.graph.nodes[node];
        n.auto_backing_file = file.clone().unwrap_or_default();
        n.backing_file = file.unwrap_or_default();
        n.backing_format = format.map(|name| backing_format(&name).into()).unwrap_or_default();
        self.leave(Val::None);
        self.seq([
            Frame::RunCo(Box::new(Qcow2Frame::Qcow2Op { node, op }.into())),
            BackingNameFrame::HeaderChanged.into(),
        ])
    }

    /// After the header was written.
    fn header_changed(&mut self) -> Flow {
        let ret = match self.take_val() {
            Val::Opened(Err(fault)) => Err(fault.errno),
            Val::Ret(Err(errno)) => Err(errno),
            _ => Ok(()),
        };
        self.ret(Val::Ret(ret))
    }
}
