//! The bits of a node's dirty bitmaps, and what the trace tells of them (`block/dirty-bitmap.c`).

use crate::base::errno::Errno;
use crate::bitmap::{BitmapId, HBitmap};
use crate::qmp::error::QmpError;
use crate::trace::{Level, RecordKind};
use crate::world::World;
use crate::world::arena::{NodeId, used_after_free};
use crate::world::block::driver::Driver;
use std::collections::BTreeMap;
use std::sync::Arc;

impl World {
    /// `bdrv_can_store_new_dirty_bitmap`
    pub(in crate::world) fn can_store_bitmap(&self, bs: NodeId, name: &str, granularity: u64) -> Result<(), QmpError> {
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

    /// The bits of a bitmap.
    #[must_use]
    pub fn bits(&self, node: NodeId, id: BitmapId) -> &HBitmap {
        self.graph.nodes[node].bitmaps.get(id).unwrap_or_else(|| used_after_free(&id)).bitmap()
    }

    /// The bits of a bitmap, to be changed.
    pub(in crate::world) fn bits_mut(&mut self, node: NodeId, id: BitmapId) -> &mut HBitmap {
        self.graph.nodes[node].bitmaps.get_mut(id).unwrap_or_else(|| used_after_free(&id)).bitmap_mut()
    }

    /// Notes in the trace what a write did to the bitmaps of a node.
    pub(super) fn trace_bitmap_set(&mut self, node: NodeId, offset: u64, bytes: u64) {
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
        self.watch_chains();
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
