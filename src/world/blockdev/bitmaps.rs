//! Commands and actions about dirty bitmaps (`block/monitor/bitmap-qmp-cmds.c`).

use crate::base::Json;
use crate::base::errno::Errno;
use crate::bitmap::{BitmapId, CheckFlags, HBitmap, check_granularity, check_name_given, default_granularity};
use crate::block::qcow2::Qcow2Call;
use crate::qmp::error::QmpError;
use crate::qmp::types::{BitmapAdd, BitmapMerge, BitmapRef, BitmapSource};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::driver::qcow2::Qcow2Frame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum BitmapsFrame {
    BitmapRelease(NodeId, BitmapId),
    BitmapStoreRemoved,
}

impl BitmapsFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BitmapsFrame::BitmapRelease(bs, id) => w.bitmap_release(bs, id),
            BitmapsFrame::BitmapStoreRemoved => w.bitmap_store_removed(),
        }
    }
}

impl World {
    /// `block_dirty_bitmap_lookup`
    ///
    /// # Errors
    /// The node or the bitmap does not exist.
    pub(in crate::world) fn bitmap_lookup(&self, at: &BitmapRef) -> Result<(NodeId, BitmapId), QmpError> {
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
    pub(in crate::world) fn bitmap_check(&self, bs: NodeId, id: BitmapId, flags: CheckFlags) -> Result<(), QmpError> {
        let bitmap = self.graph.nodes[bs].bitmaps.get(id).expect("the bitmap was just found");
        bitmap.check(flags).map_err(QmpError::generic)
    }

    /// `qmp_block_dirty_bitmap_add`
    ///
    /// # Errors
    /// A bad name, node or granularity, or an image that can't store bitmaps.
    pub(in crate::world) fn bitmap_add(&mut self, args: &BitmapAdd) -> Result<(NodeId, BitmapId), QmpError> {
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

    /// `block_dirty_bitmap_merge`: all sources or none. Gives the data from before.
    ///
    /// # Errors
    /// The first source that does not fit; the target is then as before.
    pub(in crate::world) fn bitmap_merge(
        &mut self,
        args: &BitmapMerge,
    ) -> Result<(NodeId, BitmapId, HBitmap), QmpError> {
        let target = BitmapRef { node: args.node.clone(), name: args.target.clone() };
        let (bs, id) = self.bitmap_lookup(&target)?;
        let before = self.graph.nodes[bs].bitmaps.get(id).expect("just found").bitmap().clone();
        for (merged, source) in args.bitmaps.iter().enumerate() {
            if let Err(err) = self.bitmap_merge_one(bs, id, source) {
                // A bitmap of a read-only node has nothing merged into it, and must not be written.
                if merged > 0 {
                    self.graph.nodes[bs].bitmaps.get_mut(id).expect("just found").restore(before);
                }
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
        self.push(BitmapsFrame::BitmapRelease(bs, id).into());
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
        let op = Box::new(Qcow2Call::remove_bitmap(name));
        self.leave(Val::None);
        self.seq([
            Frame::RunCo(Box::new(Qcow2Frame::Qcow2Op { node: bs, op }.into())),
            BitmapsFrame::BitmapStoreRemoved.into(),
        ])
    }

    /// After the stored copy was removed.
    fn bitmap_store_removed(&mut self) -> Flow {
        let done = self.take_val().error().map_or(Ok(()), Err);
        self.ret(Val::Done(done))
    }

    /// The end of `qmp_block_dirty_bitmap_remove`.
    fn bitmap_release(&mut self, bs: NodeId, id: BitmapId) -> Flow {
        let done = self.take_done();
        if done.is_ok() {
            let released = self.graph.nodes[bs].bitmaps.release(id);
            self.see_stale_bitmap(bs, released.and_then(|bitmap| bitmap.name().cloned()));
        }
        self.ret(Val::Done(done))
    }

    pub(in crate::world) fn bitmap_simple(
        &mut self,
        at: &crate::qmp::types::BitmapRef,
        flags: CheckFlags,
        act: fn(&mut crate::bitmap::DirtyBitmap),
    ) -> Flow {
        let done = self.bitmap_lookup(at).and_then(|(bs, id)| {
            self.bitmap_check(bs, id, flags)?;
            let bitmap = self.graph.nodes[bs].bitmaps.get_mut(id).expect("just found");
            let was = bitmap.enabled();
            act(bitmap);
            if bitmap.enabled() == was && bitmap.bitmap().is_empty() {
                self.see_fresh_bitmap(bs, id);
            } else {
                let name = bitmap.name().cloned();
                self.see_stale_bitmap(bs, name);
            }
            Ok(())
        });
        self.ret(Val::Done(done))
    }

    pub(in crate::world) fn bitmap_sha256(&mut self, at: &crate::qmp::types::BitmapRef) -> Flow {
        let result = self.bitmap_lookup(at).map(|(bs, id)| {
            let hash = crate::base::sha256::of_words(self.bits(bs, id).serialized_words());
            Json::dict(vec![("sha256", hash.into())])
        });
        self.ret(Val::Json(result))
    }
}
