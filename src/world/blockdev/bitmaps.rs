//! Commands and actions about dirty bitmaps (`block/monitor/bitmap-qmp-cmds.c`).

use crate::base::errno::Errno;
use crate::bitmap::{BitmapId, CheckFlags, HBitmap, check_granularity, check_name_given, default_granularity};
use crate::block::qcow2::Op;
use crate::qmp::error::QmpError;
use crate::qmp::types::{BitmapAdd, BitmapMerge, BitmapRef, BitmapSource};
use crate::trace::{Level, RecordKind};
use crate::world::World;
use crate::world::arena::{NodeId, used_after_free};
use crate::world::block::driver::Driver;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::collections::BTreeMap;
use std::sync::Arc;

impl World {
    /// `block_dirty_bitmap_lookup`
    ///
    /// # Errors
    /// The node or the bitmap does not exist.
    pub fn bitmap_lookup(&self, at: &BitmapRef) -> Result<(NodeId, BitmapId), QmpError> {
        let Some(bs) = self.graph.lookup(Some(&at.node), Some(&at.node)) else {
            return Err(QmpError::generic(format!("Node '{}' not found", at.node)));
        };
        let id = self.graph.nodes[bs].bitmaps.lookup(&at.name).map_err(QmpError::generic)?;
        Ok((bs, id))
    }

    /// `bdrv_dirty_bitmap_check`
    ///
    /// # Errors
    /// The flag that stands in the way.
    pub fn bitmap_check(&self, bs: NodeId, id: BitmapId, flags: CheckFlags) -> Result<(), QmpError> {
        let bitmap = self.graph.nodes[bs].bitmaps.get(id).expect("the bitmap was just found");
        bitmap.check(flags).map_err(QmpError::generic)
    }

    /// `qmp_block_dirty_bitmap_add`
    ///
    /// # Errors
    /// A bad name, node or granularity, or an image that can't store bitmaps.
    pub fn bitmap_add(&mut self, args: &BitmapAdd) -> Result<(NodeId, BitmapId), QmpError> {
        check_name_given(&args.name).map_err(QmpError::generic)?;
        let bs = self.lookup_bs(&args.node)?;
        let granularity = match args.granularity {
            Some(n) => {
                check_granularity(u64::from(n)).map_err(QmpError::generic)?;
                u64::from(n)
            }
            None => default_granularity(self.cluster_size_of(bs).unwrap_or(0)),
        };
        let persistent = args.persistent.unwrap_or(false);
        if persistent {
            self.can_store_bitmap(bs, &args.name, granularity)?;
        }
        let n = &mut self.graph.nodes[bs];
        if n.dropped && n.bitmaps.find(&args.name).is_none() {
            return Err(QmpError::generic(format!("could not get length of device: {}", Errno::ENOMEDIUM)));
        }
        let size = n.size;
        let id = n.bitmaps.add(Some(&args.name), size, granularity).map_err(QmpError::generic)?;
        let bitmap = n.bitmaps.get_mut(id).expect("just added");
        bitmap.set_enabled(!args.disabled.unwrap_or(false));
        bitmap.set_persistence(persistent);
        self.see_fresh_bitmap(bs, id);
        Ok((bs, id))
    }

    /// `bdrv_can_store_new_dirty_bitmap`
    fn can_store_bitmap(&self, bs: NodeId, name: &str, granularity: u64) -> Result<(), QmpError> {
        let n = &self.graph.nodes[bs];
        let cannot = |errno: Errno| {
            let device = self.graph.device_or_node_name(bs);
            Err(QmpError::generic(format!("Can't store persistent bitmaps to {device}: {errno}")))
        };
        if n.dropped {
            return cannot(Errno::ENOMEDIUM);
        }
        let Driver::Qcow2(q) = n.drv() else { return cannot(Errno::ENOTSUP) };
        if n.bitmaps.find(name).is_some() {
            return Err(QmpError::generic(format!("Bitmap already exists: {name}")));
        }
        let pending: Vec<&str> =
            n.bitmaps.iter().filter(|b| b.persistent()).filter_map(|b| b.name().map(|name| &**name)).collect();
        let device = self.graph.device_or_node_name(bs);
        q.q.can_store_bitmap(name, granularity, pending.iter().copied()).map_err(|reason| {
            QmpError::generic(format!("Can't make bitmap '{name}' persistent in '{device}': {reason}"))
        })
    }

    /// `block_dirty_bitmap_merge`: all sources or none. Gives the data from before.
    ///
    /// # Errors
    /// The first source that does not fit; the target is then as before.
    pub fn bitmap_merge(&mut self, args: &BitmapMerge) -> Result<(NodeId, BitmapId, HBitmap), QmpError> {
        let target = BitmapRef { node: args.node.clone(), name: args.target.clone() };
        let (bs, id) = self.bitmap_lookup(&target)?;
        let before = self.graph.nodes[bs].bitmaps.get(id).expect("just found").bitmap().clone();
        for source in &args.bitmaps {
            if let Err(err) = self.bitmap_merge_one(bs, id, source) {
                self.graph.nodes[bs].bitmaps.get_mut(id).expect("just found").restore(before);
                return Err(err);
            }
        }
        Ok((bs, id, before))
    }

    fn bitmap_merge_one(&mut self, bs: NodeId, id: BitmapId, source: &BitmapSource) -> Result<(), QmpError> {
        match source {
            BitmapSource::Local(name) => {
                let bitmaps = &mut self.graph.nodes[bs].bitmaps;
                let src = bitmaps.lookup(name).map_err(QmpError::generic)?;
                bitmaps.merge_local(id, src, false).map_err(QmpError::generic)?;
            }
            BitmapSource::External(at) => {
                let (src_bs, src) = self.bitmap_lookup(at)?;
                let src = self.graph.nodes[src_bs].bitmaps.get(src).expect("just found").clone();
                self.graph.nodes[bs].bitmaps.merge(id, &src, false).map_err(QmpError::generic)?;
            }
        }
        Ok(())
    }

    /// `qmp_block_dirty_bitmap_remove`. Leaves `Val::Done`.
    pub(in crate::world) fn bitmap_remove(&mut self, at: &BitmapRef) -> Flow {
        let found = self.bitmap_lookup(at).and_then(|(bs, id)| {
            self.bitmap_check(bs, id, CheckFlags::REMOVE)?;
            Ok((bs, id))
        });
        let (bs, id) = match found {
            Ok(found) => found,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        self.stack.push(Frame::BitmapRelease(bs, id));
        if self.graph.nodes[bs].bitmaps.get(id).is_some_and(|b| b.persistent()) {
            return self.remove_stored_bitmap(bs, &at.name);
        }
        self.ret(Val::Done(Ok(())))
    }

    /// `bdrv_remove_persistent_dirty_bitmap`. Leaves `Val::Done`.
    pub(super) fn remove_stored_bitmap(&mut self, bs: NodeId, name: &str) -> Flow {
        if self.qcow2_ref(bs).is_none() {
            return self.ret(Val::Done(Ok(())));
        }
        let op = Box::new(Op::remove_bitmap(name));
        self.reg = Val::None;
        self.seq([Frame::RunCo(Box::new(Frame::Qcow2Op { node: bs, op })), Frame::BitmapStoreRemoved])
    }

    /// After the stored copy was removed.
    pub(in crate::world) fn bitmap_store_removed(&mut self) -> Flow {
        let done = match std::mem::take(&mut self.reg) {
            Val::Opened(Err(fault)) => Err(QmpError::generic(fault.to_string())),
            Val::Ret(Err(errno)) => Err(QmpError::generic(errno.to_string())),
            _ => Ok(()),
        };
        self.ret(Val::Done(done))
    }

    /// The end of `qmp_block_dirty_bitmap_remove`.
    pub(in crate::world) fn bitmap_release(&mut self, bs: NodeId, id: BitmapId) -> Flow {
        let done = self.take_done();
        if done.is_ok() {
            let released = self.graph.nodes[bs].bitmaps.release(id);
            self.see_stale_bitmap(bs, released.and_then(|bitmap| bitmap.name().cloned()));
        }
        self.ret(Val::Done(done))
    }

    /// The bits of a bitmap.
    #[must_use]
    pub fn bits(&self, node: NodeId, id: BitmapId) -> &HBitmap {
        self.graph.nodes[node].bitmaps.get(id).unwrap_or_else(|| used_after_free(&id)).bitmap()
    }

    /// The bits of a bitmap, to be changed.
    pub fn bits_mut(&mut self, node: NodeId, id: BitmapId) -> &mut HBitmap {
        self.graph.nodes[node].bitmaps.get_mut(id).unwrap_or_else(|| used_after_free(&id)).bitmap_mut()
    }

    /// Notes in the trace what a write did to the bitmaps of a node.
    pub(in crate::world) fn trace_bitmap_set(&mut self, node: NodeId, offset: u64, bytes: u64) {
        let n = &self.graph.nodes[node];
        let name = n.node_name.clone();
        let bitmaps: Vec<(Arc<str>, u64, bool)> =
            n.bitmaps.query().filter_map(|b| b.name.clone().map(|bitmap| (bitmap, b.count, b.busy))).collect();
        for (bitmap, count, busy) in bitmaps {
            let seen = (name.clone(), bitmap.clone());
            let Some(known) = self.trace.bitmaps.get_mut(&seen) else {
                self.trace.bitmaps.insert(seen, (count, busy));
                self.trace_bitmap(&name, &bitmap, "add", 0, 0, count);
                continue;
            };
            known.0 = count;
            self.trace_bitmap(&name, &bitmap, "set", offset, bytes, count);
        }
    }

    fn trace_bitmap(
        &mut self,
        node: &Arc<str>,
        name: &Arc<str>,
        what: &'static str,
        offset: u64,
        bytes: u64,
        count: u64,
    ) {
        let (node, name) = (node.clone(), name.clone());
        self.trace.emit(Level::Io, self.now, || RecordKind::Bitmap { node, name, what, offset, bytes, count });
    }

    /// Notes in the trace what has become of the bitmaps with names since the last look: for whoever steps this world. Does nothing
    /// unless the trace wants it.
    pub fn watch_bitmaps(&mut self) {
        if !self.trace.wants(Level::Io) {
            return;
        }
        let mut now: BTreeMap<(Arc<str>, Arc<str>), (u64, bool)> = BTreeMap::new();
        for (_, node) in self.graph.nodes.iter() {
            for info in node.bitmaps.query() {
                if let Some(name) = info.name {
                    now.insert((node.node_name.clone(), name), (info.count, info.busy));
                }
            }
        }
        if now == self.trace.bitmaps {
            return;
        }
        let before = std::mem::replace(&mut self.trace.bitmaps, now.clone());
        for ((node, name), (count, busy)) in &now {
            let what = match before.get(&(node.clone(), name.clone())) {
                None => "add",
                Some((_, was_busy)) if was_busy != busy => {
                    if *busy {
                        "busy"
                    } else {
                        "free"
                    }
                }
                Some((was, _)) if was != count => "change",
                Some(_) => continue,
            };
            self.trace_bitmap(node, name, what, 0, 0, *count);
        }
        for ((node, name), (count, _)) in &before {
            if !now.contains_key(&(node.clone(), name.clone())) {
                self.trace_bitmap(node, name, "remove", 0, 0, *count);
            }
        }
    }
}
