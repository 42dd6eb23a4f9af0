//! The block graph: nodes, the edges between them, backends, permissions and op blockers (`block.c`, `block/block-backend.c`).

use super::driver::Driver;
use crate::base::Kept;
use crate::bitmap::DirtyBitmaps;
use crate::block::accounting::Accounting;
use crate::world::arena::{Arena, BackendId, ChildId, CoId, JobId, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `BLK_PERM_*` bits.
pub mod perm {
    /// `BLK_PERM_CONSISTENT_READ`
    pub const CONSISTENT_READ: u8 = 1;
    /// `BLK_PERM_WRITE`
    pub const WRITE: u8 = 2;
    /// `BLK_PERM_WRITE_UNCHANGED`
    pub const WRITE_UNCHANGED: u8 = 4;
    /// `BLK_PERM_RESIZE`
    pub const RESIZE: u8 = 8;
    /// `BLK_PERM_ALL`
    pub const ALL: u8 = 15;

    const NAMES: [(u8, &str); 4] = [
        (CONSISTENT_READ, "consistent read"),
        (WRITE, "write"),
        (WRITE_UNCHANGED, "write unchanged"),
        (RESIZE, "resize"),
    ];

    /// `bdrv_perm_names`: the names in a message, separated by commas.
    #[must_use]
    pub fn names(perm: u8) -> String {
        let named: Vec<&str> = NAMES.iter().filter(|(bit, _)| perm & bit != 0).map(|(_, name)| *name).collect();
        named.join(", ")
    }
}

/// What a node needs a child for (`BdrvChildRole`, as far as permissions depend on it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `BDRV_CHILD_FILTERED`: the parent passes requests on.
    Filtered,
    /// `BDRV_CHILD_IMAGE`: data and metadata of a format.
    Image,
    /// `BDRV_CHILD_FILTERED` for a raw node without offset and size: `raw_child_perm` trims what it does not need.
    RawImage,
    /// `BDRV_CHILD_DATA`: data only.
    Data,
    /// `BDRV_CHILD_COW`: a backing file.
    Cow,
    /// The parent is no node.
    Root,
}

/// Who holds the upper end of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parent {
    /// A node (`child_of_bds`).
    Node(NodeId),
    /// A backend (`child_root`).
    Backend(BackendId),
    /// A block job (`child_job`).
    Job(JobId),
}

/// `BdrvChild`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Child {
    /// `file`, `backing`, `image`, `target`, `root`, `main node`
    pub name: &'static str,
    /// What the parent needs it for.
    pub role: Role,
    /// The upper end.
    pub parent: Parent,
    /// The lower end.
    pub bs: NodeId,
    /// Permissions taken.
    pub perm: u8,
    /// Permissions left to others.
    pub shared: u8,
    /// `quiesced_parent`: the parent was told to be quiet because of this edge.
    pub quiesced_parent: bool,
    /// `frozen`: a job relies on where the edge leads to.
    pub frozen: bool,
}

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

/// `BdrvTrackedRequest`: a request that is under way at a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrackedRequest {
    /// Distinguishes requests of one node; the lowest free number.
    pub id: u32,
    /// `read`, `write`, `discard`, `truncate`.
    pub op: &'static str,
    /// Byte range that must not overlap with a serialising one.
    pub overlap_offset: u64,
    /// Its length.
    pub overlap_bytes: u64,
    /// Nobody may overlap with it.
    pub serialising: bool,
    /// The coroutine that carries it out.
    pub co: CoId,
    /// `waiting_for`: it waits for another one itself.
    pub waiting: bool,
    /// Coroutines that wait for its end, oldest first.
    pub wait_queue: Vec<CoId>,
}

impl TrackedRequest {
    /// Whether others must look at it: no request waits for another but next to such a one.
    pub(super) fn is_apart(&self) -> bool {
        self.serialising || self.waiting
    }
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
    pub tracked: Vec<TrackedRequest>,
    /// Which of the ids below 128 they have, a bit each.
    pub(super) tracked_ids: u128,
    /// How many of them are serialising or wait for another one.
    pub(super) tracked_apart: u32,
    /// Its dirty bitmaps.
    pub bitmaps: DirtyBitmaps,
    /// Jobs that block operations on it, newest first.
    pub op_blockers: Vec<JobId>,
    /// Reasons of backing-chain users: nodes whose backing file it is (`bdrv_backing_attach`), by the names they had then, newest
    /// first.
    pub cow_blockers: Vec<(NodeId, Arc<str>)>,
    /// Made by `blockdev-add`.
    pub monitor_owned: bool,
    /// The name was made up.
    pub auto_named: bool,
    /// How it was opened.
    pub spec: Option<Kept<Arc<super::open::spec::OpenSpec>>>,
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
            tracked: Vec::new(),
            tracked_ids: 0,
            tracked_apart: 0,
            bitmaps: DirtyBitmaps::default(),
            op_blockers: Vec::new(),
            cow_blockers: Vec::new(),
            monitor_owned: false,
            auto_named: false,
            spec: None,
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

/// `BlockBackend`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// `drive0`, or empty for one that only QEMU knows.
    pub name: Arc<str>,
    /// The edge to its node.
    pub root: Option<ChildId>,
    /// Permissions it takes.
    pub perm: u8,
    /// Permissions it leaves to others.
    pub shared: u8,
    /// Open drained sections.
    pub quiesce_counter: u32,
    /// Requests under way.
    pub in_flight: u32,
    /// Coroutines whose requests wait for the end of a drained section, oldest first.
    pub queued_requests: Vec<CoId>,
    /// `enable_write_cache`: false makes every write be followed by a flush.
    pub write_cache: bool,
    /// `blk_set_allow_write_beyond_eof`, as of one who formats an image.
    pub allow_write_beyond_eof: bool,
    /// `blk_set_disable_request_queuing`: its requests do not wait for the end of a drained section, as those of a job that is told to
    /// pause.
    pub disable_request_queuing: bool,
    /// A guest device is attached, by its path or id.
    pub dev: Option<Arc<str>>,
    /// The device's media can be taken out.
    pub removable: bool,
    /// The device has a tray.
    pub tray: bool,
    /// It is open.
    pub tray_open: bool,
    /// The device says how its last request failed (`blk_iostatus_enable`).
    pub iostatus_enabled: bool,
    /// `root_state`: how the last medium was opened.
    pub last_flags: OpenFlags,
    /// What its guest did.
    pub stats: Arc<Accounting>,
}

/// How far a walk over all images got (`BdrvNextIterator`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BdrvNext {
    /// Whether it is at the monitor's nodes.
    monitor: bool,
    blk: Option<BackendId>,
    bs: Option<NodeId>,
}

impl BdrvNext {
    /// The node that was given last.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        self.bs
    }
}

/// All nodes, edges and backends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Graph {
    /// `bdrv_drain_all_count`
    pub drain_all_count: u32,
    /// Nodes; `all_bdrv_states` is their order of creation.
    pub nodes: Arena<NodeId, Node>,
    /// Edges.
    pub children: Arena<ChildId, Child>,
    /// Backends.
    pub backends: Arena<BackendId, Backend>,
    /// `graph_bdrv_states`: named nodes, oldest first.
    pub named: Vec<NodeId>,
    /// Counter behind `#block` names.
    pub next_auto_name: u32,
    /// Locks that other processes of the host hold on files: what they use, and what they do not share.
    pub foreign_locks: BTreeMap<Arc<str>, (u8, u8)>,
    /// Nodes that were writable before they were reopened, while that is not settled.
    pub reopening: Vec<NodeId>,
    /// Some node has lost its driver.
    pub any_dropped: bool,
}

impl Default for Graph {
    fn default() -> Self {
        Graph {
            drain_all_count: 0,
            nodes: Arena::unique(),
            children: Arena::unique(),
            backends: Arena::unique(),
            named: Vec::new(),
            next_auto_name: 0,
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
                Parent::Node(above) if self.nodes[above].implicit => self.device_name(above),
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

    /// `bdrv_next`: the roots of backends, then the monitor's own nodes that no backend has. It looks for the latter behind the last of the
    /// former on the monitor's list, and a root that is not on that list has none behind it: where there is a `-drive`, nodes of
    /// `-blockdev` are passed over.
    pub fn bdrv_next(&self, it: &mut BdrvNext) -> Option<NodeId> {
        while !it.monitor {
            let Some((blk, _)) = self.backends.iter().find(|(blk, _)| it.blk.is_none_or(|last| *blk > last)) else {
                it.monitor = true;
                break;
            };
            it.blk = Some(blk);
            match self.blk_bs(blk) {
                Some(node) if self.first_blk(node) == Some(blk) => {
                    it.bs = Some(node);
                    return it.bs;
                }
                _ => {}
            }
        }
        let owned = || self.named.iter().rev().filter(|node| self.nodes[**node].monitor_owned);
        let behind = match it.bs {
            None => 0,
            Some(last) => owned().position(|node| *node == last)? + 1,
        };
        it.bs = owned().skip(behind).find(|node| !self.has_blk(**node)).copied();
        it.bs
    }

    /// `bdrv_first_blk`
    fn first_blk(&self, node: NodeId) -> Option<BackendId> {
        self.nodes[node].parents.iter().find_map(|c| match self.children[*c].parent {
            Parent::Backend(blk) => Some(blk),
            _ => None,
        })
    }

    /// `bdrv_get_cumulative_perm`
    #[must_use]
    pub fn cumulative_perm(&self, node: NodeId) -> (u8, u8) {
        self.nodes[node].parents.iter().fold((0, perm::ALL), |(taken, shared), c| {
            let child = &self.children[*c];
            (taken | child.perm, shared & child.shared)
        })
    }

    /// `bdrv_child_user_desc`
    fn user_desc(&self, child: ChildId, job_desc: &dyn Fn(JobId) -> String) -> String {
        match self.children[child].parent {
            Parent::Node(n) => format!("node '{}'", self.nodes[n].node_name),
            Parent::Job(job) => job_desc(job),
            Parent::Backend(blk) => {
                let b = &self.backends[blk];
                match (&*b.name, &b.dev) {
                    ("", Some(dev)) if !dev.is_empty() => format!("block device '{dev}'"),
                    ("", _) => "an unnamed block device".to_owned(),
                    (name, _) => format!("block device '{name}'"),
                }
            }
        }
    }

    /// `bdrv_parent_perms_conflict`: the text of the first conflict among the users of a node.
    fn parents_conflict(&self, node: NodeId, job_desc: &dyn Fn(JobId) -> String) -> Option<String> {
        let parents = &self.nodes[node].parents;
        for a in parents {
            for b in parents {
                let (user_a, user_b) = (&self.children[*a], &self.children[*b]);
                let missing = user_b.perm & !user_a.shared;
                if a != b && missing != 0 {
                    let name = &self.nodes[node].node_name;
                    return Some(format!(
                        "Permission conflict on node '{name}': permissions '{}' are both required by {} (uses node \
                         '{name}' as '{}' child) and unshared by {} (uses node '{name}' as '{}' child).",
                        perm::names(missing),
                        self.user_desc(*b, job_desc),
                        user_b.name,
                        self.user_desc(*a, job_desc),
                        user_a.name,
                    ));
                }
            }
        }
        None
    }

    /// `bdrv_list_refresh_perms`: recomputes the permissions below the given nodes; on a conflict nothing is changed.
    ///
    /// # Errors
    /// The text of the conflict.
    pub fn refresh_perms(&mut self, roots: &[NodeId], job_desc: &dyn Fn(JobId) -> String) -> Result<(), String> {
        let order = self.topological(roots);
        let mut old = Vec::new();
        for node in &order {
            let result = match self.parents_conflict(*node, job_desc) {
                Some(text) => Err(text),
                None => self.node_refresh_perm(*node, &mut old),
            };
            if let Err(text) = result {
                for (child, perm, shared) in old.into_iter().rev() {
                    let child: &mut Child = &mut self.children[child];
                    child.perm = perm;
                    child.shared = shared;
                }
                return Err(text);
            }
        }
        Ok(())
    }

    /// Parents before children.
    fn topological(&self, roots: &[NodeId]) -> Vec<NodeId> {
        fn visit(graph: &Graph, node: NodeId, found: &mut Vec<NodeId>, order: &mut Vec<NodeId>) {
            if found.contains(&node) {
                return;
            }
            found.push(node);
            for child in &graph.nodes[node].children {
                visit(graph, graph.bs(*child), found, order);
            }
            order.push(node);
        }
        let (mut found, mut order) = (Vec::new(), Vec::new());
        for root in roots {
            visit(self, *root, &mut found, &mut order);
        }
        order.reverse();
        order
    }

    /// `bdrv_node_refresh_perm`
    fn node_refresh_perm(&mut self, node: NodeId, old: &mut Vec<(ChildId, u8, u8)>) -> Result<(), String> {
        let (taken, shared) = self.cumulative_perm(node);
        let n = &self.nodes[node];
        let writes = taken & (perm::WRITE | perm::WRITE_UNCHANGED) != 0;
        if writes && !n.flags.rdwr {
            if self.reopening.contains(&node) {
                return Err(format!("Read-only block node '{}' cannot support read-write users", n.node_name));
            }
            return Err("Block node is read-only".to_owned());
        }
        if writes && taken & perm::RESIZE == 0 && !n.size.is_multiple_of(n.bl.request_alignment) {
            return Err("Cannot get 'write' permission without 'resize': Image size is not a multiple of request \
                        alignment"
                .to_owned());
        }
        if n.driver.is_none() {
            return Ok(());
        }
        if let Some(Driver::File(file)) = &n.driver
            && !n.flags.force_share
            && file.locking
            && let Some(text) = self.file_lock_conflict(&file.path, Some(node), taken, shared)
        {
            return Err(text);
        }
        for child in n.children.clone() {
            let (p, s) = self.child_perm(node, child, taken, shared);
            let c = &self.children[child];
            if (c.perm, c.shared) != (p, s) {
                old.push((child, c.perm, c.shared));
                let c = &mut self.children[child];
                c.perm = p;
                c.shared = s;
            }
        }
        Ok(())
    }

    /// `raw_check_lock_bytes`: what the locks of other nodes with the same host file say against these permissions.
    #[must_use]
    pub fn file_lock_conflict(&self, path: &str, own: Option<NodeId>, taken: u8, shared: u8) -> Option<String> {
        let (mut others_taken, others_unshared) = self.foreign_locks.get(path).copied().unwrap_or((0, 0));
        let mut others_shared = perm::ALL & !others_unshared;
        for (id, node) in self.nodes.iter() {
            if let Some(Driver::File(file)) = &node.driver
                && Some(id) != own
                && *file.path == *path
                && !node.flags.force_share
                && file.locking
            {
                let (t, s) = self.cumulative_perm(id);
                others_taken |= t;
                others_shared &= s;
            }
        }
        // The first bit in QEMU's order is the one that is named.
        let named = |bits: u8| perm::names(bits & bits.wrapping_neg());
        let (not_shared, not_left) = (taken & !others_shared, others_taken & !shared);
        if not_shared != 0 {
            return Some(format!("Failed to get \"{}\" lock", named(not_shared)));
        }
        if not_left != 0 {
            return Some(format!("Failed to get shared \"{}\" lock", named(not_left)));
        }
        None
    }

    /// `bdrv_child_perm`: what a node asks of one child.
    fn child_perm(&self, node: NodeId, child: ChildId, taken: u8, shared: u8) -> (u8, u8) {
        let n = &self.nodes[node];
        let role = self.children[child].role;
        match n.drv() {
            Driver::Cbw(cbw) if role == Role::Filtered => {
                let discard = if cbw.discard_source { perm::WRITE } else { 0 };
                if n.parents.is_empty() {
                    (taken, shared)
                } else {
                    (taken | perm::CONSISTENT_READ | discard, shared & !(perm::WRITE | perm::RESIZE))
                }
            }
            Driver::Cbw(_) => (perm::WRITE, perm::ALL & !perm::RESIZE),
            Driver::SnapshotAccess | Driver::CommitTop => (0, perm::ALL),
            // `cor_child_perm`
            Driver::CopyOnRead(_) => (taken | perm::WRITE_UNCHANGED, shared | perm::WRITE_UNCHANGED),
            Driver::Blkdebug(blkdebug) => (taken | blkdebug.take_child_perms, shared & !blkdebug.unshare_child_perms),
            Driver::Raw(_) => {
                let role = if role == Role::RawImage { Role::Filtered } else { role };
                let (p, s) = default_perms(n.flags, role, taken, shared);
                let own = perm::WRITE | perm::RESIZE;
                ((p & !own) | (taken & own), s)
            }
            _ => default_perms(n.flags, role, taken, shared),
        }
    }
}

/// `bdrv_default_perms`
fn default_perms(flags: OpenFlags, role: Role, taken: u8, shared: u8) -> (u8, u8) {
    let (mut p, mut s) = (taken, shared);
    match role {
        Role::Filtered | Role::RawImage | Role::Root => {}
        Role::Cow => {
            p &= perm::CONSISTENT_READ;
            s = if shared & perm::WRITE != 0 { perm::WRITE | perm::RESIZE } else { 0 };
            s |= perm::CONSISTENT_READ | perm::WRITE_UNCHANGED;
        }
        Role::Image | Role::Data => {
            if role == Role::Image {
                if flags.rdwr {
                    p |= perm::WRITE | perm::RESIZE;
                }
                p |= perm::CONSISTENT_READ;
                s &= !perm::WRITE;
            }
            s &= !perm::RESIZE;
            if p & perm::WRITE_UNCHANGED != 0 {
                p |= perm::WRITE;
            }
            if p & perm::WRITE != 0 {
                p |= perm::RESIZE;
            }
        }
    }
    (p, s)
}
