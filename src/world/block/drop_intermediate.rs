//! Layers are left out of a chain, and the headers of those above name the new backing file (`block.c:bdrv_drop_intermediate`).

use super::edges::{Parent, Role};
use super::open::reopen::Reopen;
use crate::base::errno::Errno;
use crate::world::World;
use crate::world::arena::{ChildId, NodeId};
use crate::world::block::backing_name::BackingNameFrame;
use crate::world::block::drain::DrainFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::open::reopen::ReopenFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// What `bdrv_drop_intermediate` is given, and how far it is carried out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DropIntermediate {
    top: NodeId,
    base: NodeId,
    /// What headers are to say; if nothing was given, the base's file name.
    backing_file: Option<Arc<str>>,
    mask_protocol: bool,
    /// `base->inherits_from` in the end, if that changes.
    inherits_from: Option<Option<NodeId>>,
    /// Edges that were moved to the base and whose parents are still to be told, the next one last.
    left: Vec<ChildId>,
    /// The overlay that is being told was read-only.
    read_only: bool,
}

/// The rest of `bdrv_drop_intermediate`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum DropFrame {
    Replace(Box<DropIntermediate>),
    Next(Box<DropIntermediate>),
    Writable(Box<DropIntermediate>, NodeId),
    Changed(Box<DropIntermediate>, NodeId),
    Told(Box<DropIntermediate>, Option<Errno>),
}

impl DropFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            DropFrame::Replace(drop) => w.drop_replace(drop),
            DropFrame::Next(drop) => w.drop_next(drop),
            DropFrame::Writable(drop, overlay) => w.drop_writable(drop, overlay),
            DropFrame::Changed(drop, overlay) => w.drop_changed(drop, overlay),
            DropFrame::Told(drop, failed) => match failed {
                Some(errno) => w.drop_end(&drop, Err(errno)),
                None => w.drop_next(drop),
            },
        }
    }
}

impl World {
    /// `bdrv_drop_intermediate`: those above `top` get `base` instead. Leaves `Val::Ret`.
    pub(in crate::world) fn bdrv_drop_intermediate(
        &mut self,
        top: NodeId,
        base: NodeId,
        backing_file: Option<Arc<str>>,
        mask_protocol: bool,
    ) -> Flow {
        self.bdrv_ref(top);
        let (inherits_from, left, read_only) = (None, Vec::new(), false);
        let drop = DropIntermediate { top, base, backing_file, mask_protocol, inherits_from, left, read_only };
        self.seq([
            DrainFrame::DrainedBegin(base).into(),
            GraphLockFrame::GraphWrlock.into(),
            Frame::DropIntermediate(DropFrame::Replace(Box::new(drop))),
        ])
    }

    /// With the graph locked: the edges are moved.
    fn drop_replace(&mut self, mut drop: Box<DropIntermediate>) -> Flow {
        let (top, base) = (drop.top, drop.base);
        if self.graph.nodes[base].dropped || !self.graph.chain_contains(top, base) {
            self.drop_end(&drop, Err(Errno::EIO));
            return self.seq([GraphLockFrame::GraphWrunlock.into()]);
        }
        let explicit_top = self.graph.skip_implicit_filters(top);
        if self.graph.inherits_from_recursive(base, explicit_top) {
            drop.inherits_from = Some(self.graph.nodes[explicit_top].inherits_from);
        }
        let base_name = self.filename_of(base);
        drop.backing_file.get_or_insert(base_name);
        drop.left.clone_from(&self.graph.nodes[top].parents);
        if let Err(err) = self.replace_node_strictly(top, base) {
            self.report_somewhere(&err.desc);
            self.drop_end(&drop, Err(Errno::EIO));
        } else {
            self.push(Frame::DropIntermediate(DropFrame::Next(drop)));
        }
        self.seq([GraphLockFrame::GraphWrunlock.into()])
    }

    /// Tells the next overlay (`bdrv_child_cb_update_filename`), the oldest first.
    fn drop_next(&mut self, mut drop: Box<DropIntermediate>) -> Flow {
        let Some(edge) = drop.left.pop() else { return self.drop_end(&drop, Ok(())) };
        let overlay = self.graph.children.get(edge).filter(|child| child.role == Role::Cow).map(|child| child.parent);
        let Some(Parent::Node(overlay)) = overlay else { return self.drop_next(drop) };
        drop.read_only = !self.graph.nodes[overlay].flags.rdwr;
        if drop.read_only {
            let writable = Reopen::set_read_only(self, overlay, false);
            return self.seq([
                ReopenFrame::Reopen(Box::new(writable)).into(),
                Frame::DropIntermediate(DropFrame::Writable(drop, overlay)),
            ]);
        }
        self.drop_writable(drop, overlay)
    }

    /// `bdrv_backing_update_filename`, once the overlay can be written to.
    fn drop_writable(&mut self, drop: Box<DropIntermediate>, overlay: NodeId) -> Flow {
        if let Err(err) = self.take_done() {
            self.report_somewhere(&err.desc);
            return self.drop_end(&drop, Err(Errno::EINVAL));
        }
        let driver = self.graph.nodes[drop.base].drv();
        let format = if drop.mask_protocol && driver.has_protocol_name() { "raw" } else { driver.format_name() };
        let (file, format) = (drop.backing_file.clone(), Some(format.into()));
        self.seq([
            BackingNameFrame::ChangeBackingFile { node: overlay, file, format }.into(),
            Frame::DropIntermediate(DropFrame::Changed(drop, overlay)),
        ])
    }

    /// The same, after the header was written.
    fn drop_changed(&mut self, drop: Box<DropIntermediate>, overlay: NodeId) -> Flow {
        let failed = self.take_ret().err();
        let read_only = drop.read_only;
        // The error is told by whoever called, when the overlay is read-only again.
        self.push(Frame::DropIntermediate(DropFrame::Told(drop, failed)));
        if read_only {
            self.push(Frame::Give(Box::new(Val::None)));
            self.push(ReopenFrame::ReopenReadOnly(overlay).into());
        }
        Flow::Go
    }

    fn drop_end(&mut self, drop: &DropIntermediate, ret: Result<(), Errno>) -> Flow {
        let (top, base) = (drop.top, drop.base);
        if let (Ok(()), Some(inherits_from)) = (ret, drop.inherits_from) {
            self.graph.nodes[base].inherits_from = inherits_from;
        }
        self.seq([
            DrainFrame::DrainedEnd(base).into(),
            GraphFrame::BdrvUnref(top).into(),
            Frame::Give(Box::new(Val::Ret(ret))),
        ])
    }

    /// `error_report_err`: behind the program's name, unless a command is being carried out.
    pub(in crate::world) fn report_somewhere(&mut self, text: &str) {
        if self.monitor.current_client().is_some() && !self.quitting {
            self.console_error(text);
        } else {
            self.error_report(text);
        }
    }
}
