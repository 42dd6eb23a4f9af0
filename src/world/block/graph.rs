//! The block graph: nodes, the edges between them, backends, permissions and op blockers (`block.c`, `block/block-backend.c`).

use crate::base::Kept;
use crate::bitmap::DirtyBitmaps;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::{Arena, BackendId, ChildId, CoId, JobId, NodeId};
use crate::world::block::backend::Backend;
use crate::world::block::backend::BackendFrame;
use crate::world::block::blockers::Blocker;
use crate::world::block::drain::DrainFrame;
use crate::world::block::driver::Driver;
use crate::world::block::driver::DriverFrame;
use crate::world::block::edges::{Child, Parent};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::flush::FlushFrame;
use crate::world::block::io::request::TrackedRequest;
use crate::world::block::open::runtime_options::RuntimeOptions;
use crate::world::frame::{Flow, Frame};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How a node was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OpenFlags {
    /// `BDRV_O_RDWR`
    pub rdwr: bool,
    /// `BDRV_O_UNMAP`: `discard=unmap`
    pub unmap: bool,
    /// `BDRV_O_NO_FLUSH`: `cache.no-flush`
    pub no_flush: bool,
    /// `BDRV_O_NOCACHE`: `cache.direct`
    pub nocache: bool,
    /// `BDRV_O_NO_BACKING`
    pub no_backing: bool,
    /// `force-share`
    pub force_share: bool,
    /// `BDRV_O_AUTO_RDONLY`
    pub auto_read_only: bool,
    /// `BDRV_O_COPY_ON_READ`
    pub copy_on_read: bool,
    /// `BDRV_O_INACTIVE`: another process may be using the image, and nothing is written to it.
    pub inactive: bool,
}

/// `detect-zeroes`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DetectZeroes {
    /// Zeroes are written like other data.
    #[default]
    Off,
    /// Buffers of zeroes become zero writes.
    On,
    /// They may also be unmapped.
    Unmap,
}

impl DetectZeroes {
    /// QMP's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DetectZeroes::Off => "off",
            DetectZeroes::On => "on",
            DetectZeroes::Unmap => "unmap",
        }
    }
}

/// `BlockLimits`, as far as requests of the simulated drivers depend on them; 0 means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockLimits {
    /// Alignment of all requests, in bytes.
    pub request_alignment: u64,
    /// Largest read or write.
    pub max_transfer: u64,
    /// Alignment of zero writes.
    pub pwrite_zeroes_alignment: u64,
    /// Largest zero write.
    pub max_pwrite_zeroes: u64,
    /// Alignment of discards.
    pub pdiscard_alignment: u64,
    /// Largest discard.
    pub max_pdiscard: u64,
}

/// `BlockDriverState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its name; made up by QEMU where nobody gave one.
    pub node_name: Arc<str>,
    /// The driver with its state; `None` while it is not open.
    pub driver: Option<Driver>,
    /// `bs->drv == NULL` though it is open: its image was found corrupt. The driver's state stays for what is under way.
    pub dropped: bool,
    /// Edges to its children, newest first.
    pub children: Vec<ChildId>,
    /// Edges from its parents, newest first.
    pub parents: Vec<ChildId>,
    /// The edge `bs->file`.
    pub file: Option<ChildId>,
    /// The edge `bs->backing`.
    pub backing: Option<ChildId>,
    /// Reference count.
    pub refcnt: u32,
    /// Open drained sections.
    pub quiesce_counter: u32,
    /// Requests under way.
    pub in_flight: u32,
    /// `total_sectors`, in bytes.
    pub size: u64,
    /// `wr_highest_offset`: the end of the highest write, in bytes.
    pub wr_highest_offset: u64,
    /// How it was opened.
    pub flags: OpenFlags,
    /// `detect-zeroes`
    pub detect_zeroes: DetectZeroes,
    /// Limits of its requests.
    pub bl: BlockLimits,
    /// Counts writes that ended.
    pub write_gen: u64,
    /// `write_gen` at the start of the last flush that succeeded.
    pub flushed_gen: u64,
    /// A flush is under way.
    pub active_flush: bool,
    /// Flushes that wait for it, oldest first.
    pub flush_queue: Vec<CoId>,
    /// Requests under way.
    pub tracked: VecDeque<TrackedRequest>,
    /// Which of the ids below 128 they have, a bit each.
    pub(super) tracked_ids: u128,
    /// How many of them are serialising or wait for another one.
    pub(super) tracked_apart: u32,
    /// `dirty_bitmaps`, with those that have no name.
    pub bitmaps: DirtyBitmaps,
    /// Jobs and overlays that block operations on it, newest first.
    pub op_blockers: Vec<Blocker>,
    /// Mirrors that were told to end and will replace it, newest first (`replace_blocker`).
    pub replace_blockers: Vec<JobId>,
    /// Made by `blockdev-add`.
    pub monitor_owned: bool,
    /// The name was made up.
    pub auto_named: bool,
    /// How it was opened.
    pub spec: Option<Kept<Arc<crate::world::block::open::spec::OpenSpec>>>,
    /// `options`
    pub options: Kept<RuntimeOptions>,
    /// `explicit_options`
    pub explicit_options: Kept<RuntimeOptions>,
    /// The backing file name in the image header.
    pub backing_file: Arc<str>,
    /// The backing format in the image header.
    pub backing_format: Arc<str>,
    /// `auto_backing_file`: the file name of the backing node that the image alone would have given.
    pub auto_backing_file: Arc<str>,
    /// `write_threshold_offset`, 0 is none.
    pub write_threshold: u64,
    /// `block_status_cache`: the last range of a file that was found to be data, from its start to its end.
    pub block_status_cache: Option<(u64, u64)>,
    /// `inherits_from`: the node in whose options it was described.
    pub inherits_from: Option<NodeId>,
    /// `copy_on_read`: how many want that what is read and comes from below is written to the node, too.
    pub copy_on_read: u32,
    /// `implicit`: a filter that a job put there and nobody named; queries pass over it.
    pub implicit: bool,
    /// `never_freeze`: the filter of a job that takes itself away.
    pub never_freeze: bool,
}

crate::base::time::rebase!(Node {
    moves: driver; rest: node_name, dropped, children, parents, file, backing, refcnt, quiesce_counter, in_flight, size,
        wr_highest_offset, flags, detect_zeroes, bl, write_gen, flushed_gen, active_flush, flush_queue, tracked,
        tracked_ids, tracked_apart, bitmaps, op_blockers, replace_blockers, monitor_owned, auto_named,
        spec, options, explicit_options, backing_file, backing_format, auto_backing_file, write_threshold,
        block_status_cache, inherits_from, copy_on_read, implicit, never_freeze
});

impl Node {
    /// A node that is not open yet (`bdrv_new`).
    #[must_use]
    pub fn new() -> Node {
        Node {
            node_name: Arc::default(),
            driver: None,
            dropped: false,
            children: Vec::new(),
            parents: Vec::new(),
            file: None,
            backing: None,
            refcnt: 1,
            quiesce_counter: 0,
            in_flight: 0,
            size: 0,
            wr_highest_offset: 0,
            flags: OpenFlags::default(),
            detect_zeroes: DetectZeroes::Off,
            bl: BlockLimits { request_alignment: 1, ..BlockLimits::default() },
            write_gen: 0,
            flushed_gen: 0,
            active_flush: false,
            flush_queue: Vec::new(),
            tracked: VecDeque::new(),
            tracked_ids: 0,
            tracked_apart: 0,
            bitmaps: DirtyBitmaps::default(),
            op_blockers: Vec::new(),
            replace_blockers: Vec::new(),
            monitor_owned: false,
            auto_named: false,
            spec: None,
            options: Kept::new(RuntimeOptions::default()),
            explicit_options: Kept::new(RuntimeOptions::default()),
            backing_file: Arc::default(),
            backing_format: Arc::default(),
            auto_backing_file: Arc::default(),
            write_threshold: 0,
            block_status_cache: None,
            inherits_from: None,
            copy_on_read: 0,
            implicit: false,
            never_freeze: false,
        }
    }

    /// Whether it has a driver (`bs->drv`).
    #[must_use]
    pub fn has_drv(&self) -> bool {
        self.driver.is_some() && !self.dropped
    }

    /// The open driver.
    ///
    /// # Panics
    /// If the node is closed.
    #[must_use]
    pub fn drv(&self) -> &Driver {
        self.driver.as_ref().expect("the node is open")
    }
}

impl Default for Node {
    fn default() -> Self {
        Node::new()
    }
}

/// All nodes, edges and backends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Graph {
    /// `bdrv_drain_all_count`
    pub drain_all_count: u32,
    /// Nodes; `all_bdrv_states` is their order of creation.
    pub nodes: Arena<NodeId, Node>,
    /// `BdrvChild`, those of nodes, backends and jobs alike.
    pub children: Arena<ChildId, Child>,
    /// `block_backends`: all, those of exports and jobs too, which have no name.
    pub backends: Arena<BackendId, Backend>,
    /// `graph_bdrv_states`: named nodes, oldest first.
    pub named: Vec<NodeId>,
    /// `wrlock_quiesced_counter`: for how many holders of the lock all is drained until they give it back.
    pub wrlock_quiesced: u32,
    /// Counter behind `#block` names.
    pub next_auto_name: u32,
    /// Locks that other processes of the host hold on files: what they use, and what they do not share.
    pub foreign_locks: BTreeMap<Arc<str>, (u8, u8)>,
    /// Nodes that were writable before they were reopened, while that is not settled.
    pub reopening: Vec<NodeId>,
    /// Some node has lost its driver.
    pub any_dropped: bool,
}

crate::base::time::rebase!(Graph {
    moves: nodes, backends; rest: drain_all_count, children, named, next_auto_name, wrlock_quiesced, foreign_locks, reopening, any_dropped
});

impl Default for Graph {
    fn default() -> Self {
        Graph {
            drain_all_count: 0,
            nodes: Arena::unique(),
            children: Arena::unique(),
            backends: Arena::unique(),
            named: Vec::new(),
            next_auto_name: 0,
            wrlock_quiesced: 0,
            foreign_locks: BTreeMap::new(),
            reopening: Vec::new(),
            any_dropped: false,
        }
    }
}

impl Graph {
    /// `all_bdrv_states`, oldest first.
    #[must_use]
    pub fn all_states(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|(id, _)| id).collect()
    }

    /// The oldest node whose number is `first` or more.
    #[must_use]
    pub fn state_from(&self, first: u32) -> Option<NodeId> {
        self.nodes.next_from(NodeId(first))
    }

    /// `bdrv_find_node`
    #[must_use]
    pub fn find_node(&self, name: &str) -> Option<NodeId> {
        self.named.iter().copied().find(|id| &*self.nodes[*id].node_name == name)
    }

    /// `blk_by_name`
    #[must_use]
    pub fn blk_by_name(&self, name: &str) -> Option<BackendId> {
        if name.is_empty() {
            return None;
        }
        self.backends.iter().find(|(_, b)| &*b.name == name).map(|(id, _)| id)
    }

    /// `blk_bs`
    #[must_use]
    pub fn blk_bs(&self, blk: BackendId) -> Option<NodeId> {
        self.backends.get(blk)?.root.map(|c| self.children[c].bs)
    }

    /// `bdrv_lookup_bs(name, name)`: a device first, then a node.
    #[must_use]
    pub fn lookup(&self, device: Option<&str>, node: Option<&str>) -> Option<NodeId> {
        if let Some(bs) = device.and_then(|d| self.blk_by_name(d)).map(|blk| self.blk_bs(blk)) {
            return bs;
        }
        node.and_then(|n| self.find_node(n))
    }

    /// The node of a backend that has a medium, and a tray that is closed, if it has one (`blk_is_available`).
    #[must_use]
    pub fn available(&self, blk: BackendId) -> Option<NodeId> {
        let backend = self.backends.get(blk)?;
        if backend.tray && backend.tray_open { None } else { self.blk_bs(blk).filter(|bs| self.is_inserted(*bs)) }
    }

    /// The node at the lower end of an edge.
    #[must_use]
    pub fn bs(&self, child: ChildId) -> NodeId {
        self.children[child].bs
    }

    /// `bdrv_get_device_name`: the backend at the root, or nothing.
    #[must_use]
    pub fn device_name(&self, node: NodeId) -> Arc<str> {
        for parent in &self.nodes[node].parents {
            let name = match self.children[*parent].parent {
                Parent::Backend(blk) => self.backends[blk].name.clone(),
                Parent::Node(_) | Parent::Job(_) => continue,
            };
            if !name.is_empty() {
                return name;
            }
        }
        "".into()
    }

    /// `bdrv_get_device_or_node_name`
    #[must_use]
    pub fn device_or_node_name(&self, node: NodeId) -> Arc<str> {
        let device = self.device_name(node);
        if device.is_empty() { self.nodes[node].node_name.clone() } else { device }
    }

    /// Whether a backend sits on the node (`bdrv_has_blk`).
    #[must_use]
    pub fn has_blk(&self, node: NodeId) -> bool {
        self.nodes[node].parents.iter().any(|c| matches!(self.children[*c].parent, Parent::Backend(_)))
    }
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum GraphFrame {
    BdrvUnref(NodeId),
    BdrvClose(NodeId),
    BdrvFree(NodeId),
    UnrefChildren(NodeId),
    UnrefFile(NodeId),
    CloseAll,
}

impl GraphFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            GraphFrame::BdrvUnref(bs) => w.bdrv_unref(bs),
            GraphFrame::BdrvClose(bs) => w.bdrv_close(bs),
            GraphFrame::BdrvFree(bs) => w.bdrv_free(bs),
            GraphFrame::UnrefChildren(bs) => w.unref_children(bs),
            // `bdrv_open_driver` takes `bs->file` back where the driver can't be opened; other children go as the node is closed.
            GraphFrame::UnrefFile(bs) => {
                w.graph.nodes[bs].file.into_iter().for_each(|file| w.root_unref_child(file));
                Flow::Go
            }
            GraphFrame::CloseAll => w.close_all(),
        }
    }
}

impl World {
    /// `bdrv_ref`
    pub(in crate::world) fn bdrv_ref(&mut self, bs: NodeId) {
        self.graph.nodes[bs].refcnt += 1;
    }

    /// `bdrv_unref`
    fn bdrv_unref(&mut self, bs: NodeId) -> Flow {
        let node = &mut self.graph.nodes[bs];
        assert!(node.refcnt > 0, "{bs:?} has no reference left");
        node.refcnt -= 1;
        if node.refcnt > 0 {
            return Flow::Go;
        }
        let was_named = self.graph.named.iter().position(|n| *n == bs);
        if let Some(i) = was_named {
            self.graph.named.remove(i);
        }
        self.seq([GraphFrame::BdrvClose(bs).into(), GraphFrame::BdrvFree(bs).into()])
    }

    /// `bdrv_close`
    fn bdrv_close(&mut self, bs: NodeId) -> Flow {
        self.seq([
            DrainFrame::DrainedBegin(bs).into(),
            Frame::RunCo(Box::new(FlushFrame::BdrvCoFlush(bs).into())),
            DrainFrame::DrainedBegin(bs).into(),
            DrainFrame::DrainedEnd(bs).into(),
            DriverFrame::DriverClose(bs).into(),
            GraphLockFrame::GraphWrlock.into(),
            GraphFrame::UnrefChildren(bs).into(),
            GraphLockFrame::GraphWrunlock.into(),
        ])
    }

    /// `bdrv_close`'s loop over the children.
    fn unref_children(&mut self, bs: NodeId) -> Flow {
        for child in self.graph.nodes[bs].children.clone() {
            self.root_unref_child(child);
        }
        Flow::Go
    }

    /// The end of `bdrv_close`, and `bdrv_delete`.
    fn bdrv_free(&mut self, bs: NodeId) -> Flow {
        self.drained_end(bs);
        while self.graph.nodes[bs].quiesce_counter > 0 {
            self.drained_end(bs);
        }
        self.graph.nodes.remove(bs);
        Flow::Go
    }

    /// `bdrv_new`: a node that comes while all are drained is drained as often.
    pub(in crate::world) fn bdrv_new(&mut self, mut node: Node) -> NodeId {
        node.quiesce_counter = self.graph.drain_all_count;
        self.graph.nodes.insert(node)
    }

    /// `bdrv_assign_node_name`
    ///
    /// # Errors
    /// The text that refuses the name.
    pub(in crate::world) fn assign_node_name(&mut self, bs: NodeId, name: Option<&str>) -> Result<(), String> {
        let name: Arc<str> = match name {
            None => {
                let n = self.graph.next_auto_name;
                self.graph.next_auto_name += 1;
                self.graph.nodes[bs].auto_named = true;
                format!("#block{n}00").into()
            }
            Some(name) => {
                if !crate::base::id::id_wellformed(name) {
                    return Err(format!("Invalid node-name: '{name}'"));
                }
                if self.graph.blk_by_name(name).is_some() {
                    return Err(format!("node-name={name} is conflicting with a device id"));
                }
                if self.graph.find_node(name).is_some() {
                    return Err(format!("Duplicate nodes with node-name='{name}'"));
                }
                if name.len() > 31 {
                    return Err("Node name too long".to_owned());
                }
                name.into()
            }
        };
        self.graph.nodes[bs].node_name = name;
        self.graph.named.push(bs);
        Ok(())
    }

    /// The node of a name, for commands that take either a device or a node.
    ///
    /// # Errors
    /// There is neither.
    pub(in crate::world) fn lookup_bs(&self, name: &str) -> Result<NodeId, QmpError> {
        self.bdrv_lookup_bs(Some(name), Some(name))
    }

    /// `qmp_get_root_bs`: a node that neither another node nor a job stands on (`bdrv_is_root_node`).
    ///
    /// # Errors
    /// There is none of that name, it is no root, or a node below has lost its driver.
    pub(in crate::world) fn qmp_get_root_bs(&self, name: &str) -> Result<NodeId, QmpError> {
        let bs = self.lookup_bs(name)?;
        if !self.graph.is_root_node(bs) {
            return Err(QmpError::generic("Need a root block node"));
        }
        if !self.graph.is_inserted(bs) {
            return Err(QmpError::generic("Device has no medium"));
        }
        Ok(bs)
    }

    /// `bdrv_lookup_bs`
    ///
    /// # Errors
    /// There is neither, or the device has no medium.
    pub(in crate::world) fn bdrv_lookup_bs(
        &self,
        device: Option<&str>,
        node: Option<&str>,
    ) -> Result<NodeId, QmpError> {
        self.graph.lookup(device, node).ok_or_else(|| {
            let (device, node) = (device.unwrap_or_default(), node.unwrap_or_default());
            QmpError::generic(match self.graph.blk_by_name(device) {
                Some(_) => format!("Device '{device}' has no medium"),
                None => format!("Cannot find device='{device}' nor node-name='{node}'"),
            })
        })
    }

    /// `bdrv_close_all`: after the jobs, every backend and every node that the monitor owns goes.
    ///
    /// Unlike QEMU, a command that is a coroutine and still waits for a bottom half goes no further: QEMU's would go on with nodes that
    /// are gone.
    fn close_all(&mut self) -> Flow {
        self.aio.closing = true;
        let backends: Vec<BackendId> = self.graph.backends.iter().map(|(id, _)| id).collect();
        for node in self.graph.named.clone() {
            if std::mem::take(&mut self.graph.nodes[node].monitor_owned) {
                self.push(GraphFrame::BdrvUnref(node).into());
            }
        }
        for blk in backends {
            self.push(BackendFrame::BlkUnref(blk).into());
        }
        Flow::Go
    }
}
