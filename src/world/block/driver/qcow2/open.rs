//! Opening and closing a qcow2 node, with the bitmaps that are stored in its image.

use super::{Qcow2Frame, load_bits, serialized};
use crate::block::qcow2::{FileTraits, OpenOptions, Qcow2, Qcow2Call, StoreBitmap, StoredBitmap};
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::driver::Driver;
use crate::world::block::open::spec::DriverSpec;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

impl World {
    /// `qcow2_open`, as a frame for a coroutine of its own. Leaves `Val::Done`.
    pub(in crate::world) fn qcow2_open_frame(&self, node: NodeId) -> Frame {
        Qcow2Frame::Qcow2Open(node).into()
    }

    /// `qcow2_open`
    pub(super) fn qcow2_open(&mut self, node: NodeId) -> Flow {
        let n = &self.graph.nodes[node];
        let file = self.below(node);
        let spec = n.spec.clone().expect("the node is being opened");
        let DriverSpec::Qcow2 { discard_request, discard_no_unref, lazy_refcounts, caches } = &spec.driver else {
            unreachable!("a qcow2 node has qcow2 options")
        };
        let options = OpenOptions {
            writable: n.flags.rdwr,
            inactive: n.flags.inactive,
            discard_request: discard_request.unwrap_or(n.flags.unmap),
            discard_no_unref: *discard_no_unref,
            lazy_refcounts: *lazy_refcounts,
            cache_size: caches[0],
            l2_cache_size: caches[1],
            l2_cache_entry_size: caches[2],
            refcount_cache_size: caches[3],
            cache_clean_interval: spec.explicit.unsigned("cache-clean-interval").unwrap_or(0),
            refused: spec.refused.as_ref().map(|wrong| wrong.text(self.quirks)),
        };
        let traits = FileTraits {
            events: matches!(self.graph.nodes[file].drv(), Driver::Blkdebug(_)),
            zero_no_fallback: self.supported_zero_flags(file).no_fallback,
            request_alignment: u32::try_from(self.graph.nodes[file].bl.request_alignment).unwrap_or(1),
        };
        let has_backing = self.graph.nodes[node].backing.is_some();
        self.qcow2(node).q = Qcow2::new(traits);
        self.qcow2(node).q.has_backing = has_backing;
        self.push(Qcow2Frame::Qcow2Opened(node).into());
        self.qcow2_start(node, Qcow2Call::open(options))
    }

    /// The end of `qcow2_open`.
    pub(super) fn qcow2_opened(&mut self, node: NodeId) -> Flow {
        if let Some(text) = self.qcow2(node).q.lost_bitmaps() {
            self.error_report(&format!("warning: {text}"));
            self.console_error_raw("Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.");
        }
        let bitmaps = match self.take_val() {
            Val::Opened(Ok(bitmaps)) => bitmaps,
            Val::Opened(Err(fault)) => return self.ret(Val::Done(Err(QmpError::generic(fault.to_string())))),
            Val::Ret(Err(errno)) => {
                return self.ret(Val::Done(Err(QmpError::generic(format!("Could not open image: {errno}")))));
            }
            other => panic!("no result of opening: {other:?}"),
        };
        let q = &self.qcow2(node).q;
        let (size, backing) = (q.size(), q.backing_file().unwrap_or_default().to_owned());
        let format = q.backing_format().unwrap_or_default().to_owned();
        let n = &mut self.graph.nodes[node];
        n.size = size;
        // One that is opened anew, to be active, keeps the name that its backing file has now.
        if *n.backing_file != *backing {
            n.backing_file = backing.into();
            n.auto_backing_file = n.backing_file.clone();
        }
        n.backing_format = format.into();
        self.load_bitmaps(node, bitmaps);
        self.ret(Val::Done(Ok(())))
    }

    /// `qcow2_load_dirty_bitmaps`, what becomes of them in memory.
    fn load_bitmaps(&mut self, node: NodeId, bitmaps: Vec<StoredBitmap>) {
        let n = &mut self.graph.nodes[node];
        let size = n.size;
        for stored in bitmaps {
            let Ok(id) = n.bitmaps.add(Some(&stored.name), size, stored.granularity) else { continue };
            let bitmap = n.bitmaps.get_mut(id).expect("just added");
            bitmap.set_persistence(true);
            if stored.inconsistent {
                bitmap.set_inconsistent();
            } else {
                load_bits(bitmap.bitmap_mut(), &stored.bits);
                bitmap.set_enabled(stored.enabled);
                bitmap.set_readonly(stored.readonly);
            }
        }
    }

    /// The bitmaps that closing an image stores.
    pub(in crate::world) fn bitmaps_to_store(&self, node: NodeId) -> Vec<StoreBitmap> {
        let store = |b: &crate::bitmap::DirtyBitmap| StoreBitmap {
            name: b.name().map(ToString::to_string).unwrap_or_default(),
            granularity: b.granularity(),
            enabled: b.enabled(),
            readonly: b.readonly(),
            bits: serialized(b.bitmap()),
        };
        let bitmaps = &self.graph.nodes[node].bitmaps;
        bitmaps.iter().filter(|b| b.name().is_some() && b.to_be_stored() && !b.inconsistent()).map(store).collect()
    }

    /// `qcow2_inactivate`. Leaves `Val::Ret`.
    pub(super) fn qcow2_inactivate(&mut self, node: NodeId) -> Flow {
        self.push(Qcow2Frame::Qcow2Inactivated(node).into());
        self.qcow2_close(node)
    }

    /// The end of `qcow2_inactivate`.
    pub(super) fn qcow2_inactivated(&mut self, node: NodeId) -> Flow {
        let done = self.take_ret();
        if done.is_ok() {
            self.release_stored_bitmaps(node);
        }
        self.ret(Val::Ret(done))
    }

    /// `qcow2_close`
    pub(super) fn qcow2_close(&mut self, node: NodeId) -> Flow {
        let bitmaps: Arc<[StoreBitmap]> = self.bitmaps_to_store(node).into();
        let name = self.graph.nodes[node].node_name.clone();
        self.qcow2_start(node, Qcow2Call::close(bitmaps, &name))
    }
}
