//! The `copy-on-read` filter (`block/copy-on-read.c`): what is read through it and comes from below is written to its node, too.

use super::Driver;
use crate::block::content::Data;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::chain::ChainFrame;
use crate::world::block::driver::DriverFrame;
use crate::world::block::edges::{EdgesFrame, Role};
use crate::world::block::graph::{GraphFrame, Node, OpenFlags};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::IoFrame;
use crate::world::block::io::request::IoFlags;
use crate::world::block::io::status::{StatusFrame, StatusReq};
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;

/// `BDRVStateCOR`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CopyOnRead {
    /// `bottom`: data below this node is not copied.
    pub bottom: Option<NodeId>,
    /// The chain from the filter down to `bottom` is frozen.
    pub chain_frozen: bool,
}

/// What the frame waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum CorStage {
    /// Nothing: the next piece is looked at.
    Next,
    /// Whether the node below has it.
    Allocated,
    /// Whether those from there down to the bottom have it.
    AllocatedAbove,
    /// What there is is known: the data is read.
    Read,
}

/// A read through a filter that has a bottom (`cor_co_preadv_part`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CorPreadv {
    node: NodeId,
    offset: u64,
    /// Bytes that are left.
    bytes: u64,
    flags: IoFlags,
    at: CorStage,
    /// `n`: bytes of the piece that is looked at, or copied.
    n: u64,
    /// What is allocated could not be found out.
    failed: bool,
    data: Data,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum CopyOnReadFrame {
    CorAttached { cor: NodeId, bottom: NodeId },
    CorPreadv(Box<CorPreadv>),
}

impl CopyOnReadFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            CopyOnReadFrame::CorAttached { cor, bottom } => w.cor_attached(cor, bottom),
            CopyOnReadFrame::CorPreadv(read) => w.cor_preadv(read),
        }
    }
}

/// `cor_child_perm`
pub(super) fn child_perm(node: &Node, _: Role, taken: u8, shared: u8) -> (u8, u8) {
    let copies = if node.flags.inactive { 0 } else { perm::WRITE_UNCHANGED };
    (taken & !perm::WRITE_UNCHANGED | copies, shared | perm::WRITE_UNCHANGED)
}

impl World {
    /// The `copy-on-read` driver of a node.
    pub(in crate::world) fn cor_mut(&mut self, node: NodeId) -> Option<&mut CopyOnRead> {
        match self.graph.nodes[node].driver.as_mut() {
            Some(Driver::CopyOnRead(cor)) => Some(cor),
            _ => None,
        }
    }

    /// `cor_open`, once the node below is attached.
    ///
    /// # Errors
    /// The bottom is no node in reach, or the chain to it can't be frozen.
    pub(in crate::world) fn cor_open(&mut self, node: NodeId, bottom: Option<&str>) -> Result<(), QmpError> {
        self.graph.nodes[node].size = self.bdrv_getlength(self.below(node));
        let Some(name) = bottom else { return Ok(()) };
        let fail = |what: &str| Err(QmpError::generic(format!("Bottom node '{name}' {what}")));
        let Some(bottom) = self.graph.find_node(name) else { return fail("not found") };
        match &self.graph.nodes[bottom].driver {
            None => return fail("not opened"),
            Some(driver) if driver.is_filter() => return fail("is a filter"),
            Some(_) => {}
        }
        if !self.graph.chain_contains(node, bottom) {
            // Unlike QEMU, which looks for it for ever (`bdrv_is_backing_chain_frozen`).
            return fail("is not in the chain");
        }
        self.graph.freeze_backing_chain(node, Some(bottom))?;
        self.bdrv_ref(bottom);
        let cor = self.cor_mut(node).expect("it is being opened");
        (cor.bottom, cor.chain_frozen) = (Some(bottom), true);
        Ok(())
    }

    /// `bdrv_insert_node` of a filter with a bottom: opens it and puts it above a node. Leaves `Val::Node`.
    pub(in crate::world) fn cor_insert(&mut self, below: NodeId, bottom: NodeId, name: Option<&str>) -> Flow {
        let mut node = Node::new();
        node.flags = OpenFlags { rdwr: true, ..OpenFlags::default() };
        let cor = self.bdrv_new(node);
        if let Err(text) = self.assign_node_name(cor, name) {
            let err = QmpError::generic(format!("Could not create node: {text}"));
            self.push(Frame::Give(Box::new(Val::Node(Err(err)))));
            return self.seq([GraphFrame::BdrvUnref(cor).into()]);
        }
        self.graph.nodes[cor].driver = Some(Driver::CopyOnRead(CopyOnRead::default()));
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            EdgesFrame::AttachToNode { parent: cor, name: "file", role: Role::Filtered, bs: below }.into(),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
            Frame::if_ok([CopyOnReadFrame::CorAttached { cor, bottom }.into()]),
            ChainFrame::InsertNode { node: cor, below }.into(),
        ])
    }

    /// The filter's `cor_open`, after its edge is there. Leaves `Val::Done`.
    fn cor_attached(&mut self, cor: NodeId, bottom: NodeId) -> Flow {
        let bottom = self.graph.nodes[bottom].node_name.clone();
        let done = self.cor_open(cor, Some(&bottom));
        self.refresh_limits(cor);
        self.ret(Val::Done(done))
    }

    /// The chain down to the bottom may change again (`cor_close`, `bdrv_cor_filter_drop`).
    pub(in crate::world) fn cor_unfreeze(&mut self, node: NodeId) {
        let Some(cor) = self.cor_mut(node) else { return };
        let bottom = cor.bottom;
        if std::mem::take(&mut cor.chain_frozen) {
            self.graph.unfreeze_backing_chain(node, bottom);
        }
    }

    /// `cor_close`
    pub(in crate::world) fn cor_close(&mut self, node: NodeId) -> Flow {
        self.cor_unfreeze(node);
        match self.cor_mut(node).and_then(|cor| cor.bottom.take()) {
            Some(bottom) => self.seq([GraphFrame::BdrvUnref(bottom).into(), DriverFrame::DriverClosed(node).into()]),
            None => self.driver_closed(node),
        }
    }

    /// `cor_co_preadv_part`. Leaves `Val::Data`.
    pub(super) fn cor_co_preadv(&mut self, node: NodeId, offset: u64, bytes: u64, flags: IoFlags) -> Flow {
        let Driver::CopyOnRead(cor) = self.graph.nodes[node].drv() else { unreachable!("it is one") };
        if cor.bottom.is_none() {
            let flags = flags | IoFlags::COPY_ON_READ;
            let below = self.below(node);
            return self.seq([IoFrame::Preadv { node: below, offset, bytes, flags }.into()]);
        }
        let read = CorPreadv { node, offset, bytes, flags, at: CorStage::Next, n: 0, failed: false, data: Data::new() };
        self.seq([CopyOnReadFrame::CorPreadv(Box::new(read)).into()])
    }

    /// The loop of `cor_co_preadv_part`.
    fn cor_preadv(&mut self, mut r: Box<CorPreadv>) -> Flow {
        let below = self.below(r.node);
        match r.at {
            CorStage::Next => {
                if r.bytes == 0 {
                    return self.ret(Val::Data(Ok(r.data)));
                }
                let (offset, bytes) = (r.offset, r.bytes);
                r.at = CorStage::Allocated;
                self.seq([
                    StatusFrame::Status { node: below, offset, bytes, want_zero: false }.into(),
                    CopyOnReadFrame::CorPreadv(r).into(),
                ])
            }
            CorStage::Allocated => {
                let status = self.take_allocated();
                r.failed = status.is_err();
                let (allocated, n) = status.unwrap_or((false, 0));
                r.n = n;
                if allocated {
                    let flags = r.flags;
                    return self.cor_preadv_piece(r, flags);
                }
                let Some(next) = self.graph.backing_chain_next(below) else { self.cor_passes_the_end(r.node) };
                let bottom = self.cor_bottom(r.node);
                // Where the node below is the bottom itself, QEMU looks for it underneath, and copies from there.
                let end = if self.is_above(next, bottom) { self.graph.filter_or_cow_bs(bottom) } else { None };
                r.at = CorStage::AllocatedAbove;
                let status = StatusReq::new(next, end, r.offset, n, false);
                self.seq([StatusFrame::StatusAbove(status).into(), CopyOnReadFrame::CorPreadv(r).into()])
            }
            CorStage::AllocatedAbove => {
                let mut flags = r.flags;
                match self.take_allocated() {
                    Ok((true, n)) => {
                        r.n = n;
                        flags |= IoFlags::COPY_ON_READ;
                    }
                    Ok((false, n)) => {
                        let next = self.graph.backing_chain_next(below).expect("the chain is frozen");
                        if n > 0 && !self.is_above(next, self.cor_bottom(r.node)) {
                            self.cor_passes_the_end(r.node);
                        }
                        r.n = n;
                    }
                    Err(_) => {
                        (r.n, r.failed) = (0, true);
                        flags |= IoFlags::COPY_ON_READ;
                    }
                }
                self.cor_preadv_piece(r, flags)
            }
            CorStage::Read => match self.take_data() {
                Err(errno) => self.ret(Val::Data(Err(errno))),
                Ok(data) => {
                    r.data.append(&data);
                    self.cor_preadv_advance(r)
                }
            },
        }
    }

    fn cor_bottom(&self, node: NodeId) -> NodeId {
        match self.graph.nodes[node].drv() {
            Driver::CopyOnRead(cor) => cor.bottom.expect("it has a bottom"),
            other => unreachable!("{other:?} copies nothing"),
        }
    }

    fn is_above(&self, node: NodeId, bottom: NodeId) -> bool {
        self.graph.chain_contains(node, bottom)
    }

    /// `bdrv_co_common_block_status_above` comes to the end of the chain and has not met its base.
    fn cor_passes_the_end(&self, node: NodeId) -> ! {
        let subject = format!("node {}", self.graph.nodes[node].node_name);
        let reason = "bdrv_co_is_allocated_above: the chain ends before the bottom is found";
        Self::qemu_is_known_to_segfault("copy-on-read-above-its-bottom", subject, reason)
    }

    /// Reads the piece, unless neither read nor write is needed.
    fn cor_preadv_piece(&mut self, mut r: Box<CorPreadv>, flags: IoFlags) -> Flow {
        if r.n == 0 {
            // The end of a backing file. QEMU stops here, where a status query failed, too, and reports success.
            if r.failed || !flags.has(IoFlags::PREFETCH) {
                self.see_read_undone(r.node);
            }
            r.data.append(&Data::untouched(r.bytes));
            return self.ret(Val::Data(Ok(r.data)));
        }
        if flags.has(IoFlags::PREFETCH) && !flags.has(IoFlags::COPY_ON_READ) {
            r.data.append(&Data::zeroes(r.n));
            return self.cor_preadv_advance(r);
        }
        let (node, offset, bytes) = (self.below(r.node), r.offset, r.n);
        r.at = CorStage::Read;
        self.seq([IoFrame::Preadv { node, offset, bytes, flags }.into(), CopyOnReadFrame::CorPreadv(r).into()])
    }

    fn cor_preadv_advance(&mut self, mut r: Box<CorPreadv>) -> Flow {
        r.offset += r.n;
        r.bytes -= r.n;
        r.at = CorStage::Next;
        self.seq([CopyOnReadFrame::CorPreadv(r).into()])
    }
}
