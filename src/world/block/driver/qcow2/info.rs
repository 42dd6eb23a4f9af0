//! What a qcow2 image says of itself, and its part in copies by the host.

use super::Qcow2Frame;
use crate::base::Json;
use crate::block::qcow2::{ListedBitmap, Qcow2, Qcow2Call};
use crate::host::{Frozen, FrozenImage};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::driver::Driver;
use crate::world::block::driver::info::DriverInfo;
use crate::world::block::driver::rows::ZeroSupport;
use crate::world::block::io::copy_range::CopyRange;
use crate::world::frame::Flow;

impl World {
    fn qcow2_of(&self, node: NodeId) -> &Qcow2 {
        match self.graph.nodes[node].drv() {
            Driver::Qcow2(q) => &q.q,
            other => unreachable!("{other:?} is not qcow2"),
        }
    }

    /// `qcow2_co_get_info`
    pub(in crate::world::block::driver) fn qcow2_get_info(&self, node: NodeId) -> Option<DriverInfo> {
        let q = self.qcow2_of(node);
        let (cluster_size, vm_state_offset, is_dirty) = (q.cluster_size(), q.vm_state_offset(), q.is_dirty());
        Some(DriverInfo { cluster_size, vm_state_offset, is_dirty })
    }

    /// `qcow2_get_specific_info`
    pub(in crate::world::block::driver) fn qcow2_get_specific_info(&self, node: NodeId) -> Json {
        let q = self.qcow2_of(node);
        let path = self.host_path(node);
        let read = |offset, size| path.map(|path| self.files.pread(&path, offset, size)).unwrap_or_default();
        let data = qcow2_info(q, &q.listed_bitmaps(read).unwrap_or_default());
        Json::dict(vec![("type", "qcow2".into()), ("data", data)])
    }

    /// Zero writes with flags need version 3 (`qcow2_do_open`).
    pub(in crate::world::block::driver) fn qcow2_zero_flags(&self, node: NodeId) -> ZeroSupport {
        if self.qcow2_of(node).version() >= 3 { ZeroSupport::ALL } else { ZeroSupport::default() }
    }

    /// `qcow2_co_copy_range_from`
    pub(in crate::world::block::driver) fn qcow2_copy_range_from(&mut self, copy: CopyRange) -> Flow {
        self.qcow2_copy(copy.src, copy, Qcow2Call::copy_range_from(copy.src_offset, copy.bytes))
    }

    /// `qcow2_co_copy_range_to`
    pub(in crate::world::block::driver) fn qcow2_copy_range_to(&mut self, copy: CopyRange) -> Flow {
        self.qcow2_copy(copy.dst, copy, Qcow2Call::copy_range_to(copy.dst_offset, copy.bytes))
    }

    /// An operation that takes part in a copy by the host.
    fn qcow2_copy(&mut self, node: NodeId, copy: CopyRange, op: Qcow2Call) -> Flow {
        let co = self.current();
        self.qcow2(node).copies.push((co, copy));
        self.push(Qcow2Frame::Qcow2Copied(node).into());
        self.qcow2_start(node, op)
    }

    /// The end of such an operation.
    pub(super) fn qcow2_copied(&mut self, node: NodeId) -> Flow {
        let co = self.current();
        let copies = &mut self.qcow2(node).copies;
        let last = copies.iter().rposition(|(of, _)| *of == co).expect("a copy of this coroutine was under way");
        copies.remove(last);
        Flow::Go
    }

    /// The image with what is below it. One that is the file of another grows with what is written behind its end, and its driver is not told: what
    /// stands there cannot be read through a copy of the driver.
    pub(in crate::world::block::driver) fn qcow2_frozen(&self, node: NodeId) -> Frozen {
        let n = &self.graph.nodes[node];
        if n.size > self.qcow2_of(node).size().next_multiple_of(512) {
            return Frozen::Unknown;
        }
        let below = |edge: Option<_>| edge.map(|edge| self.frozen(self.graph.bs(edge)));
        Frozen::Qcow2(Box::new(FrozenImage {
            driver: self.qcow2_of(node).clone(),
            file: below(n.file).unwrap_or(Frozen::Unknown),
            backing: below(n.backing),
        }))
    }
}

/// `qcow2_get_specific_info`
fn qcow2_info(q: &Qcow2, bitmaps: &[ListedBitmap]) -> Json {
    let v3 = q.version() >= 3;
    let mut info = vec![("compat", if v3 { "1.1" } else { "0.10" }.into())];
    if v3 {
        info.push(("extended-l2", false.into()));
        info.push(("lazy-refcounts", q.lazy_refcounts().into()));
        info.push(("corrupt", q.is_corrupt().into()));
    }
    info.push(("refcount-bits", u64::from(q.refcount_bits()).into()));
    if !bitmaps.is_empty() {
        info.push(("bitmaps", Json::list(bitmaps.iter().map(bitmap_info).collect())));
    }
    info.push(("compression-type", q.compression_type().into()));
    Json::dict(info)
}

/// `get_bitmap_info_flags`
fn bitmap_info(bitmap: &ListedBitmap) -> Json {
    let flags = [(bitmap.in_use, "in-use"), (bitmap.auto, "auto")];
    let flags = flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).into()).collect();
    Json::dict(vec![
        ("name", bitmap.name.as_str().into()),
        ("granularity", bitmap.granularity.into()),
        ("flags", Json::list(flags)),
    ])
}
