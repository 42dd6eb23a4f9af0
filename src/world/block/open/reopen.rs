//! Changing nodes that are open: `blockdev-reopen`, and what makes a backing file read-only (`block.c:bdrv_reopen_multiple`).

use super::reopen_child::Swap;
use super::reopen_options::{UNMAP_WITHOUT_DISCARD, child_spec, flat_options, take_of_child};
use super::runtime_options::RuntimeOptions;
use super::spec::{BackingSpec, DriverSpec, OpenSpec};
use super::unsupported::not_simulated;
use crate::base::{Json, Kept};
use crate::block::qcow2::{MemoryBitmap, OpenOptions, Qcow2Call};
use crate::nbd::flag;
use crate::qmp::error::QmpError;
use crate::qmp::hash_order::wire_order;
use crate::qmp::types::BlockdevOptions;
use crate::quirk::Quirks;
use crate::world::World;
use crate::world::arena::{ChildId, NodeId};
use crate::world::block::drain::DrainFrame;
use crate::world::block::driver::Driver;
use crate::world::block::driver::qcow2::Qcow2Frame;
use crate::world::block::driver::raw::RawDriver;
use crate::world::block::edges::no_backing;
use crate::world::block::graph::{DetectZeroes, OpenFlags};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::flush::FlushFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use crate::world::watch::feed::Seen;
use std::sync::Arc;

/// `BDRVReopenState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReopenEntry {
    /// `BDRVReopenState.state.bs`
    bs: NodeId,
    /// Its new options; without, it keeps those it has.
    pub(super) spec: Option<Arc<OpenSpec>>,
    flags: OpenFlags,
    /// Its options then, and those of them that were given.
    options: RuntimeOptions,
    explicit: RuntimeOptions,
    /// Options that neither the driver nor a child takes.
    left: Vec<(Arc<str>, Json)>,
    old_flags: OpenFlags,
    /// The command names it.
    named: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ReopenStage {
    Drain(usize),
    Flush(usize),
    Flushed(usize),
    Prepare(usize),
    Prepared(usize),
    Swap(usize),
    Swapping(usize),
    Permissions,
    Commit,
    Bitmaps(usize),
    BitmapsDone(usize),
    Undo,
}

/// `BlockReopenQueue`, and how far it is carried out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reopen {
    entries: Vec<ReopenEntry>,
    drains: Vec<NodeId>,
    /// Children that the node being prepared wants changed.
    pub(super) wanted: Vec<Swap>,
    pub(super) swaps: Vec<Swap>,
    pub(super) at: ReopenStage,
    pub(super) error: Option<QmpError>,
}

impl Reopen {
    pub(super) fn new() -> Reopen {
        let (entries, drains, wanted, swaps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Reopen { entries, drains, wanted, swaps, at: ReopenStage::Drain(0), error: None }
    }

    /// `bdrv_reopen_set_read_only`
    #[must_use]
    pub fn set_read_only(world: &World, bs: NodeId, read_only: bool) -> Reopen {
        let mut reopen = Reopen::new();
        let options = RuntimeOptions { read_only: Some(read_only), ..RuntimeOptions::default() };
        reopen.queue(world, bs, Wanted { spec: None, options, below: Vec::new(), keep: true, parent: None });
        reopen
    }

    /// `bdrv_reopen` that keeps the old options; `given` is flat, and its values are texts.
    ///
    /// # Errors
    /// QEMU's complaint about a value.
    pub fn with_texts(world: &World, bs: NodeId, given: &[(Arc<str>, Json)]) -> Result<Reopen, QmpError> {
        let mut reopen = Reopen::new();
        let (options, below) = RuntimeOptions::of_texts(given)?;
        reopen.queue(world, bs, Wanted { spec: None, options, below, keep: true, parent: None });
        reopen.error.take().map_or(Ok(reopen), Err)
    }

    /// `bdrv_reopen_queue_child`: the node, and those below it that were described in its options.
    fn queue(&mut self, world: &World, bs: NodeId, wanted: Wanted) {
        let node = &world.graph.nodes[bs];
        let Wanted { spec, mut options, mut below, keep, parent } = wanted;
        self.drains.push(bs);
        let mut left = if spec.is_none() { node.options.not_taken(&options, node.drv()) } else { Vec::new() };
        if spec.is_none() && options.changes_driver(node.drv()) {
            self.error = Some(not_simulated("qemu-io reopen -o"));
        }
        let known = self.entries.iter().position(|entry| entry.bs == bs);
        // What was given stays given; then comes what is inherited, then what it had.
        match known {
            Some(known) => options.join(&self.entries[known].explicit),
            None if keep => options.join(&node.explicit_options),
            None => {}
        }
        let explicit = options.clone();
        let mut flags = node.flags;
        if let Some((parent, above, backing)) = &parent {
            options.inherit(parent, *backing);
            flags.unmap = above.unmap;
        }
        if keep {
            options.join(&node.options);
        }
        let flags = options.flags(flags);
        let (inherited, spec_below) = (options.clone(), spec.clone());
        let child_of = |edge: &ChildId| (world.graph.children[*edge].name, world.graph.bs(*edge));
        let inherits = |child: NodeId| world.graph.nodes[child].inherits_from == Some(bs);
        let children: Vec<_> = node.children.iter().map(child_of).filter(|(_, child)| inherits(*child)).collect();
        let mut of_children: Vec<_> = children.iter().map(|(name, _)| take_of_child(&mut below, name)).collect();
        left.extend(below);
        let (old_flags, named) = (node.flags, parent.is_none());
        let entry = ReopenEntry { bs, spec, flags, options, explicit, left, old_flags, named };
        match known {
            Some(known) => {
                let spec = entry.spec.clone().or_else(|| self.entries[known].spec.clone());
                self.entries[known] = ReopenEntry { spec, ..entry };
            }
            None => self.entries.push(entry),
        }
        for (i, (name, child)) in children.into_iter().enumerate() {
            let parent = Some((inherited.clone(), flags, name == "backing"));
            let named = |wanted: &OpenSpec| wanted.reference.clone();
            match spec_below.as_ref().map(|spec| child_spec(spec, name)) {
                // Another node comes in its place, or none.
                Some(Some(None)) => {}
                Some(Some(Some(wanted))) => match named(wanted) {
                    Some(reference) if reference != world.graph.nodes[child].node_name => {}
                    Some(_) => {
                        let (options, below) = (RuntimeOptions::default(), Vec::new());
                        self.queue(world, child, Wanted { spec: None, options, below, keep: true, parent });
                    }
                    None => {
                        let (spec, options) = (Some(wanted.clone()), wanted.explicit.clone());
                        self.queue(world, child, Wanted { spec, options, below: Vec::new(), keep: false, parent });
                    }
                },
                // Nothing is said of it, or some options.
                Some(None) | None => match RuntimeOptions::of_texts(&std::mem::take(&mut of_children[i])) {
                    Ok((options, below)) => {
                        self.queue(world, child, Wanted { spec: None, options, below, keep, parent });
                    }
                    Err(err) => self.error = Some(err),
                },
            }
        }
    }
}

/// What a node is to become: the arguments of `bdrv_reopen_queue_child`.
struct Wanted {
    spec: Option<Arc<OpenSpec>>,
    options: RuntimeOptions,
    /// Options for children, flat.
    below: Vec<(Arc<str>, Json)>,
    /// `keep_old_opts`
    keep: bool,
    /// Options and flags of the node above, and whether this one is its backing file.
    parent: Option<(RuntimeOptions, OpenFlags, bool)>,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ReopenFrame {
    Reopen(Box<Reopen>),
    ReopenUnswap(Box<Reopen>),
    /// `bdrv_reopen_set_read_only` to read-only.
    ReopenReadOnly(NodeId),
}

impl ReopenFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ReopenFrame::Reopen(reopen) => w.reopen(reopen),
            ReopenFrame::ReopenReadOnly(bs) => {
                let reopen = Reopen::set_read_only(w, bs, true);
                w.reopen(Box::new(reopen))
            }
            ReopenFrame::ReopenUnswap(reopen) => w.reopen_unswap(reopen),
        }
    }
}

impl World {
    /// `qmp_blockdev_reopen`. Unlike QEMU, which aborts, it takes an empty list.
    pub(in crate::world) fn blockdev_reopen(&mut self, list: &[BlockdevOptions]) -> Flow {
        let mut reopen = Reopen::new();
        for options in list {
            let Some(name) = &options.node_name else {
                return self.ret(Val::Done(Err(QmpError::generic("node-name not specified"))));
            };
            let Some(bs) = self.graph.find_node(name) else {
                let text = format!("Failed to find node with node-name='{name}'");
                return self.ret(Val::Done(Err(QmpError::generic(text))));
            };
            let spec = OpenSpec::from_options(options, None);
            let options = spec.explicit.clone();
            let (spec, below) = (Some(Arc::new(spec)), Vec::new());
            reopen.queue(self, bs, Wanted { spec, options, below, keep: false, parent: None });
        }
        self.reopen(Box::new(reopen))
    }

    /// `bdrv_reopen_multiple`, one step. Leaves `Val::Done` in the end.
    pub(in crate::world) fn reopen(&mut self, mut r: Box<Reopen>) -> Flow {
        let gone = |entry: &&ReopenEntry| self.graph.nodes.get(entry.bs).is_none();
        if !matches!(r.at, ReopenStage::Drain(_))
            && let Some(entry) = r.entries.iter().find(gone)
        {
            let reason = "bdrv_reopen_multiple: a job that ended meanwhile took the node along";
            Self::qemu_is_known_to_use_freed("reopen-as-a-mirror-ends", format!("{:?}", entry.bs), reason);
        }
        match r.at {
            ReopenStage::Drain(i) => match r.drains.get(i).copied() {
                // A job that ended while others were drained took it along.
                Some(bs) if self.graph.nodes.get(bs).is_none() => self.reopen_at(r, ReopenStage::Drain(i + 1)),
                Some(bs) => {
                    r.at = ReopenStage::Drain(i + 1);
                    self.seq([DrainFrame::DrainedBegin(bs).into(), ReopenFrame::Reopen(r).into()])
                }
                None => {
                    self.see_work_in_drain();
                    // A child is looked for when its parent is drained, and not found.
                    r.entries.retain(|entry| entry.named || self.graph.nodes.get(entry.bs).is_some());
                    self.reopen_at(r, ReopenStage::Flush(0))
                }
            },
            ReopenStage::Flush(i) => match r.entries.get(i).map(|entry| entry.bs) {
                Some(bs) => {
                    r.at = ReopenStage::Flushed(i);
                    self.seq([
                        Frame::RunCo(Box::new(FlushFrame::BdrvCoFlush(bs).into())),
                        ReopenFrame::Reopen(r).into(),
                    ])
                }
                None => self.reopen_at(r, ReopenStage::Prepare(0)),
            },
            ReopenStage::Flushed(i) => match self.take_ret() {
                Ok(()) => self.reopen_at(r, ReopenStage::Flush(i + 1)),
                Err(errno) => self.reopen_fail(r, QmpError::generic(format!("Error flushing drive: {errno}"))),
            },
            ReopenStage::Prepare(i) => self.reopen_prepare(r, i),
            ReopenStage::Prepared(i) => match self.reopen_prepared(&mut r, i) {
                Ok(()) => self.reopen_at(r, ReopenStage::Swap(i)),
                Err(err) => self.reopen_fail(r, err),
            },
            ReopenStage::Swap(i) => self.reopen_swap(r, i),
            ReopenStage::Swapping(i) => self.reopen_swapping(r, i),
            ReopenStage::Permissions => self.reopen_permissions(r),
            ReopenStage::Commit => self.reopen_commit(r),
            ReopenStage::Bitmaps(left) => self.reopen_bitmaps(r, left),
            ReopenStage::BitmapsDone(left) => {
                self.reopen_bitmaps_done(&r, left);
                self.reopen_at(r, ReopenStage::Bitmaps(left))
            }
            // `bdrv_reopen_abort`: the drivers have what they had.
            ReopenStage::Undo => self.reopen_end(&r),
        }
    }

    pub(super) fn reopen_at(&mut self, mut r: Box<Reopen>, at: ReopenStage) -> Flow {
        r.at = at;
        self.reopen(r)
    }

    fn reopen_fail(&mut self, mut r: Box<Reopen>, err: QmpError) -> Flow {
        r.error = Some(err);
        r.at = ReopenStage::Undo;
        self.seq([GraphLockFrame::GraphWrlock.into(), ReopenFrame::ReopenUnswap(r).into()])
    }

    /// `bdrv_reopen_prepare`, up to the driver's own.
    fn reopen_prepare(&mut self, mut r: Box<Reopen>, i: usize) -> Flow {
        let Some(entry) = r.entries.get(i) else { return self.reopen_at(r, ReopenStage::Permissions) };
        let (bs, flags) = (entry.bs, entry.flags);
        let node = &self.graph.nodes[bs];
        if node.dropped {
            // Unlike QEMU, which aborts (`assert(reopen_state->bs->drv != NULL)`).
            let text = format!("Device '{}' has no medium", self.graph.device_or_node_name(bs));
            return self.reopen_fail(r, QmpError::generic(text));
        }
        if entry.options.detect_zeroes == Some(DetectZeroes::Unmap) && !flags.unmap {
            return self.reopen_fail(r, QmpError::generic(UNMAP_WITHOUT_DISCARD));
        }
        if node.copy_on_read > 0 && !flags.rdwr {
            let name = self.graph.device_or_node_name(bs);
            let text = format!("Can't set node '{name}' to r/o with copy-on-read enabled");
            return self.reopen_fail(r, QmpError::generic(text));
        }
        let driver = match node.drv() {
            driver if !driver.row().can_reopen => {
                let (format, name) = (node.drv().format_name(), self.graph.device_or_node_name(bs));
                let text = format!("Block format '{format}' used by node '{name}' does not support reopening files");
                return self.reopen_fail(r, QmpError::generic(text));
            }
            driver => driver,
        };
        if let Some(name) = node.options.cannot_reset(&entry.options, driver) {
            let text = format!("Option '{name}' cannot be reset to its default value");
            return self.reopen_fail(r, QmpError::generic(text));
        }
        if let Err(text) = self.reopen_driver(bs, entry.spec.as_deref(), flags) {
            return self.reopen_fail(r, QmpError::generic(text));
        }
        if let Some(file) = driver.file()
            && flags.rdwr
            && !entry.old_flags.rdwr
            && let Some(Err(errno)) = self.files.look_at(&file.filename).map(|look| look.write)
        {
            let err = QmpError::generic(format!("Could not reopen file: {errno}"));
            return self.reopen_fail(r, err);
        }
        if !driver.row().reopen_does_io {
            self.leave(Val::None);
            return self.reopen_at(r, ReopenStage::Prepared(i));
        }
        let spec = entry.spec.clone().or_else(|| node.spec.as_deref().cloned());
        let op = Box::new(Qcow2Call::reopen(
            Self::qcow2_options(self.quirks, spec.as_deref(), flags),
            self.bitmaps_to_store(bs).into(),
        ));
        r.at = ReopenStage::Prepared(i);
        self.leave(Val::None);
        self.seq([Frame::RunCo(Box::new(Qcow2Frame::Qcow2Op { node: bs, op }.into())), ReopenFrame::Reopen(r).into()])
    }

    /// `bdrv_reopen_prepare` of drivers that do no I/O there.
    fn reopen_driver(&self, bs: NodeId, spec: Option<&OpenSpec>, flags: OpenFlags) -> Result<(), String> {
        if let Some(wrong) = spec.and_then(|spec| spec.refused.as_ref()) {
            return Err(wrong.text(self.quirks).to_string());
        }
        match (self.graph.nodes[bs].drv(), spec.map(|spec| &spec.driver)) {
            (Driver::Raw(_), Some(DriverSpec::Raw { offset, size })) => {
                self.raw_apply_options(bs, *offset, *size).map(drop)
            }
            (Driver::Nbd(nbd), _) if flags.rdwr && nbd.offers(flag::READ_ONLY) => {
                Err("Can't reopen read-only NBD mount as read/write".to_owned())
            }
            (Driver::Throttle(_), Some(DriverSpec::Throttle { group })) if self.throttling.group(group).is_none() => {
                Err(format!("Throttle group '{group}' does not exist"))
            }
            _ => Ok(()),
        }
    }

    fn qcow2_options(quirks: Quirks, spec: Option<&OpenSpec>, flags: OpenFlags) -> OpenOptions {
        let (discard, no_unref, lazy_refcounts, caches) = match spec.map(|spec| &spec.driver) {
            Some(DriverSpec::Qcow2 { discard_request, discard_no_unref, lazy_refcounts, caches }) => {
                (*discard_request, *discard_no_unref, *lazy_refcounts, *caches)
            }
            _ => (None, false, None, [None; 4]),
        };
        OpenOptions {
            writable: flags.rdwr,
            inactive: flags.inactive,
            discard_request: discard.unwrap_or(flags.unmap),
            discard_no_unref: no_unref,
            lazy_refcounts,
            cache_size: caches[0],
            l2_cache_size: caches[1],
            l2_cache_entry_size: caches[2],
            refcount_cache_size: caches[3],
            cache_clean_interval: spec.and_then(|spec| spec.explicit.unsigned("cache-clean-interval")).unwrap_or(0),
            refused: spec.and_then(|spec| spec.refused.as_ref()).map(|wrong| wrong.text(quirks)),
        }
    }

    /// The rest of `bdrv_reopen_prepare`: what may not change, and which children are to.
    fn reopen_prepared(&mut self, r: &mut Reopen, i: usize) -> Result<(), QmpError> {
        if let Some(err) = self.take_val().error() {
            return Err(err);
        }
        let entry = &r.entries[i];
        let (bs, spec, writable) = (entry.bs, entry.spec.clone(), entry.flags.rdwr);
        if !writable && entry.old_flags.rdwr {
            for bitmap in self.graph.nodes[bs].bitmaps.iter_mut().filter(|bitmap| bitmap.persistent()) {
                bitmap.set_readonly(true);
            }
        }
        let Some(spec) = spec else {
            let mut changed = entry.options.changed_by_keeping(self.graph.nodes[bs].drv());
            changed.extend(entry.left.iter().cloned());
            return match wire_order(&changed).first() {
                None => Ok(()),
                Some(&first) => Err(QmpError::generic(format!("Cannot change the option '{}'", changed[first].0))),
            };
        };
        let node = &self.graph.nodes[bs];
        let has_backing = node.backing.is_some() || !node.backing_file.is_empty();
        if node.drv().supports_backing() && spec.backing == BackingSpec::FromImage && has_backing {
            return Err(QmpError::generic(format!("backing is missing for '{}'", node.node_name)));
        }
        if node.drv().is_filter() && spec.backing != BackingSpec::FromImage {
            let (format, name) = (node.drv().format_name(), &node.node_name);
            let text = format!("'{name}' is a {format} filter node that does not support a backing child");
            return Err(QmpError::generic(text));
        }
        if !node.drv().supports_backing() && spec.backing != BackingSpec::FromImage {
            return Err(no_backing(node));
        }
        // Options of children that were not described in this node's: nobody takes them.
        let mut left = Vec::new();
        for (name, key) in [("backing", "backing"), ("file", "file"), ("image", "image")] {
            let edge = if name == "backing" { node.backing } else { node.file };
            if name != "backing" && edge.is_none_or(|edge| self.graph.children[edge].name != name) {
                continue;
            }
            let wanted = child_spec(&spec, name);
            match wanted.flatten().filter(|spec| spec.reference.is_none()) {
                Some(spec) => {
                    if edge.is_none_or(|edge| self.graph.nodes[self.graph.bs(edge)].inherits_from != Some(bs)) {
                        flat_options(spec, key, &mut left);
                    }
                }
                // Another node can't come in its place.
                None if name == "image" => {
                    let name = wanted.flatten().and_then(|spec| spec.reference.clone());
                    let now = edge.map(|edge| &self.graph.nodes[self.graph.bs(edge)].node_name);
                    left.extend(name.filter(|name| now != Some(name)).map(|name| (key.into(), Json::Str(name))));
                }
                None => r.wanted.extend(self.reopen_child(bs, name, key, edge, wanted)?),
            }
        }
        match node.options.cannot_change(&r.entries[i].options, node.drv(), &left) {
            Some(name) => Err(QmpError::generic(format!("Cannot change the option '{name}'"))),
            None => spec.error.clone().map_or(Ok(()), Err),
        }
    }

    /// The permissions that all nodes need together.
    fn reopen_permissions(&mut self, r: Box<Reopen>) -> Flow {
        self.graph.reopening =
            r.entries.iter().filter(|entry| entry.old_flags.rdwr && !entry.flags.rdwr).map(|entry| entry.bs).collect();
        for entry in &r.entries {
            self.graph.nodes[entry.bs].flags = entry.flags;
        }
        let mut roots: Vec<NodeId> = r.entries.iter().rev().map(|entry| entry.bs).collect();
        roots.extend(r.swaps.iter().filter_map(|swap| swap.old));
        let result = self.perms_of(&roots);
        self.graph.reopening.clear();
        match result {
            Ok(()) => self.reopen_at(r, ReopenStage::Commit),
            Err(err) => {
                for entry in &r.entries {
                    self.graph.nodes[entry.bs].flags = entry.old_flags;
                }
                self.reopen_fail(r, err)
            }
        }
    }

    /// `bdrv_reopen_commit`, and the end of the transaction about children.
    fn reopen_commit(&mut self, mut r: Box<Reopen>) -> Flow {
        for entry in r.entries.iter().rev() {
            let bs = entry.bs;
            let spec = entry.spec.clone().or_else(|| self.graph.nodes[bs].spec.as_deref().cloned());
            let node = &mut self.graph.nodes[bs];
            if let Some(Driver::Qcow2(qcow2)) = &mut node.driver {
                qcow2.q.reopen_commit(&Self::qcow2_options(self.quirks, spec.as_deref(), entry.flags));
            }
            node.detect_zeroes = entry.options.detect_zeroes.unwrap_or(DetectZeroes::Off);
            node.options = Kept::new(entry.options.clone());
            node.explicit_options = Kept::new(entry.explicit.clone());
            if entry.spec.is_some() && entry.flags.rdwr != entry.old_flags.rdwr {
                self.see(|| Seen::Changed(bs));
            } else if entry.flags.rdwr && !entry.old_flags.rdwr {
                self.see(|| Seen::Opened(bs));
            }
            if let Some(spec) = &entry.spec {
                if let (Driver::Raw(raw), DriverSpec::Raw { offset, size }) = (self.graph.nodes[bs].drv(), &spec.driver)
                {
                    let moved = (raw.offset, raw.size) != (*offset, *size);
                    let raw = RawDriver { offset: *offset, size: *size, probed: raw.probed };
                    let below = self.bdrv_getlength(self.below(bs));
                    let node = &mut self.graph.nodes[bs];
                    node.size = size.unwrap_or_else(|| below.saturating_sub(*offset)).next_multiple_of(512);
                    node.driver = Some(Driver::Raw(raw));
                    if moved {
                        self.see(|| Seen::Changed(bs));
                    }
                }
                if let DriverSpec::Throttle { group } = &spec.driver {
                    self.throttle_move(bs, group);
                }
                self.graph.nodes[bs].spec = Some(Kept::new(spec.clone()));
            }
            self.refresh_limits(bs);
        }
        if !r.swaps.is_empty() {
            self.see_all_changed();
        }
        for swap in std::mem::take(&mut r.swaps) {
            if let Some(old) = swap.old {
                self.bh_schedule(crate::world::aio::queue::Bh::BdrvUnref(old));
            }
        }
        let left = r.entries.len();
        r.at = ReopenStage::Bitmaps(left);
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            GraphLockFrame::GraphWrunlock.into(),
            ReopenFrame::Reopen(r).into(),
        ])
    }

    /// `qcow2_reopen_commit_post`, from the last node to the first.
    fn reopen_bitmaps(&mut self, mut r: Box<Reopen>, left: usize) -> Flow {
        let Some(index) = left.checked_sub(1) else { return self.reopen_end(&r) };
        let entry = &r.entries[index];
        let bs = entry.bs;
        if !entry.flags.rdwr || self.qcow2_ref(bs).is_none() {
            return self.reopen_at(r, ReopenStage::Bitmaps(index));
        }
        let memory = |bitmap: &crate::bitmap::DirtyBitmap| {
            Some(MemoryBitmap {
                name: bitmap.name()?.to_string(),
                readonly: bitmap.readonly(),
                inconsistent: bitmap.inconsistent(),
            })
        };
        let bitmaps: Vec<MemoryBitmap> = self.graph.nodes[bs].bitmaps.iter().filter_map(memory).collect();
        let op = Box::new(Qcow2Call::bitmaps_writable(bitmaps.into()));
        r.at = ReopenStage::BitmapsDone(index);
        self.leave(Val::None);
        self.seq([Frame::RunCo(Box::new(Qcow2Frame::Qcow2Op { node: bs, op }.into())), ReopenFrame::Reopen(r).into()])
    }

    fn reopen_bitmaps_done(&mut self, r: &Reopen, index: usize) {
        let bs = r.entries[index].bs;
        match self.take_val().error() {
            Some(err) => {
                let name = &self.graph.nodes[bs].node_name;
                let text = format!("{name}: Failed to make dirty bitmaps writable: {}", err.desc);
                self.console_error(&text);
            }
            None => {
                for bitmap in self.graph.nodes[bs].bitmaps.iter_mut().filter(|bitmap| bitmap.readonly()) {
                    bitmap.set_readonly(false);
                }
            }
        }
    }

    /// The children are as they were: `tran_abort`, with the graph locked.
    fn reopen_unswap(&mut self, mut r: Box<Reopen>) -> Flow {
        for swap in std::mem::take(&mut r.swaps).into_iter().rev() {
            if let (Some(edge), Some(new)) = (swap.edge, swap.new) {
                self.detach_child(edge);
                self.bh_schedule(crate::world::aio::queue::Bh::BdrvUnref(new));
            }
            if let Some(old) = swap.old {
                self.put_edge(&swap, old);
            }
        }
        let roots: Vec<NodeId> = r.entries.iter().map(|entry| entry.bs).collect();
        self.perms_of(&roots).expect("it was so before");
        self.seq([GraphLockFrame::GraphWrunlock.into(), ReopenFrame::Reopen(r).into()])
    }

    /// `bdrv_reopen_queue_free`
    fn reopen_end(&mut self, r: &Reopen) -> Flow {
        if r.error.is_some() {
            // Who wanted a node read-only again has it writable still.
            r.entries.iter().for_each(|entry| self.see(|| Seen::Changed(entry.bs)));
        }
        for bs in r.drains.iter().filter(|bs| self.graph.nodes.get(**bs).is_some()).copied().collect::<Vec<_>>() {
            self.polled_section_ends(bs);
        }
        self.ret(Val::Done(r.error.clone().map_or(Ok(()), Err)))
    }
}
