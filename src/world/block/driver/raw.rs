//! The raw format (`block/raw-format.c`).

use crate::base::errno::{Errno, Ret};
use crate::block::event::BlkdebugEvent;
use crate::block::probe::{PROBE_SIZE, probe};
use crate::host::Frozen;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::driver::DriverFrame;
use crate::world::block::driver::blkdebug::BlkdebugFrame;
use crate::world::block::edges::Role;
use crate::world::block::graph::Node;
use crate::world::block::io::IoFrame;
use crate::world::block::io::copy_range::{CopyRange, CopyRangeFrame};
use crate::world::block::io::discard::DiscardFrame;
use crate::world::block::io::request::{IoFlags, WriteReq};
use crate::world::block::perms::{default_child_perm, perm};
use crate::world::frame::Flow;
use crate::world::value::Val;

/// `BDRVRawState` of `raw-format.c`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RawDriver {
    /// Bytes skipped in the file.
    pub offset: u64,
    /// `size` was given.
    pub size: Option<u64>,
    /// The format was guessed (`bs->probed`).
    pub probed: bool,
}

impl RawDriver {
    /// `raw_adjust_offset`: where a request is in the file below.
    ///
    /// # Errors
    /// It goes beyond the size that was given; then there is no space for a write, and nothing to read.
    pub fn adjust_offset(&self, offset: u64, bytes: u64, is_write: bool) -> Ret<u64> {
        if self.size.is_some_and(|size| offset > size || bytes > size - offset) {
            return Err(if is_write { Errno::ENOSPC } else { Errno::EINVAL });
        }
        offset.checked_add(self.offset).filter(|offset| i64::try_from(*offset).is_ok()).ok_or(Errno::EINVAL)
    }
}

/// `raw_child_perm`: writes and resizes only where its users do.
pub(super) fn child_perm(node: &Node, role: Role, taken: u8, shared: u8) -> (u8, u8) {
    let role = if role == Role::RawImage { Role::Filtered } else { role };
    let (p, s) = default_child_perm(node, role, taken, shared);
    let own = perm::WRITE | perm::RESIZE;
    ((p & !own) | (taken & own), s)
}

impl World {
    /// `raw_co_copy_range_from`
    pub(super) fn raw_copy_range_from(&mut self, mut copy: CopyRange) -> Flow {
        match self.raw_adjust_offset(copy.src, copy.src_offset, copy.bytes, false) {
            Ok(offset) => copy.src_offset = offset,
            Err(errno) => return self.ret(Val::err(errno)),
        }
        copy.src = self.below(copy.src);
        self.seq([CopyRangeFrame::CopyRangeFrom(copy).into()])
    }

    /// `raw_co_copy_range_to`
    pub(super) fn raw_copy_range_to(&mut self, mut copy: CopyRange) -> Flow {
        match self.raw_adjust_offset(copy.dst, copy.dst_offset, copy.bytes, true) {
            Ok(offset) => copy.dst_offset = offset,
            Err(errno) => return self.ret(Val::err(errno)),
        }
        copy.dst = self.below(copy.dst);
        self.seq([CopyRangeFrame::CopyRangeTo(copy).into()])
    }

    /// A part of the file below.
    pub(super) fn raw_frozen(&self, node: NodeId) -> Frozen {
        let n = &self.graph.nodes[node];
        let super::Driver::Raw(raw) = n.drv() else { unreachable!("it is its driver's hook") };
        let below = n.file.map_or(Frozen::Unknown, |edge| self.frozen(self.graph.bs(edge)));
        Frozen::Shifted { offset: raw.offset, size: raw.size, below: Box::new(below) }
    }

    fn raw_adjust_offset(&self, node: NodeId, offset: u64, bytes: u64, is_write: bool) -> Ret<u64> {
        match self.graph.nodes[node].drv() {
            super::Driver::Raw(raw) => raw.adjust_offset(offset, bytes, is_write),
            other => unreachable!("{other:?} is not raw"),
        }
    }

    /// `raw_co_preadv`. Leaves `Val::Data`.
    pub(super) fn raw_preadv(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let offset = match self.raw_adjust_offset(node, offset, bytes, false) {
            Ok(offset) => offset,
            Err(errno) => return self.ret(Val::Data(Err(errno))),
        };
        let below = self.below(node);
        self.seq([
            BlkdebugFrame::ChildEvent { node, event: BlkdebugEvent::ReadAio }.into(),
            IoFrame::Preadv { node: below, offset, bytes, flags: IoFlags::NONE }.into(),
        ])
    }

    /// `raw_co_pwritev`. Leaves `Val::Ret`.
    pub(super) fn raw_pwritev(&mut self, req: Box<WriteReq>) -> Flow {
        let node = req.node;
        if let (super::Driver::Raw(raw), Some(data)) = (self.graph.nodes[node].drv(), &req.data)
            && raw.probed
            && req.offset < PROBE_SIZE
            && probe(&data.slice(0, data.len().min(PROBE_SIZE)).to_bytes()) != "raw"
        {
            // The next one who guesses the format would take the image for another one.
            return self.ret(Val::err(Errno::EPERM));
        }
        match self.raw_adjust_offset(node, req.offset, req.bytes, true) {
            Ok(offset) => {
                let shift = offset - req.offset;
                self.seq([
                    BlkdebugFrame::ChildEvent { node, event: BlkdebugEvent::WriteAio }.into(),
                    DriverFrame::PassWrite { req, shift }.into(),
                ])
            }
            Err(errno) => self.ret(Val::err(errno)),
        }
    }

    /// `raw_co_pwrite_zeroes`. Leaves `Val::Ret`.
    pub(super) fn raw_pwrite_zeroes(&mut self, req: Box<WriteReq>) -> Flow {
        match self.raw_adjust_offset(req.node, req.offset, req.bytes, true) {
            Ok(offset) => {
                let shift = offset - req.offset;
                self.pass_write(req, shift)
            }
            Err(errno) => self.ret(Val::err(errno)),
        }
    }

    /// `raw_co_pdiscard`. Leaves `Val::Ret`.
    pub(super) fn raw_pdiscard(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        match self.raw_adjust_offset(node, offset, bytes, true) {
            Ok(offset) => {
                let below = self.below(node);
                self.seq([DiscardFrame::Pdiscard { node: below, offset, bytes }.into()])
            }
            Err(errno) => self.ret(Val::err(errno)),
        }
    }

    /// `raw_apply_options`, and the size that the node has then.
    pub(in crate::world) fn raw_apply_options(
        &self,
        bs: NodeId,
        offset: u64,
        size: Option<u64>,
    ) -> Result<u64, String> {
        let below = self.bdrv_getlength(self.below(bs));
        if below < offset {
            return Err(format!("Offset ({offset}) cannot be greater than size of the containing file ({below})"));
        }
        if let Some(size) = size
            && below - offset < size
        {
            // The two spaces are QEMU's.
            return Err(format!(
                "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  actual size of the \
                 containing file ({below})"
            ));
        }
        if size.is_some_and(|size| !size.is_multiple_of(512)) {
            return Err("Specified size is not multiple of 512".to_owned());
        }
        Ok(size.unwrap_or(below - offset))
    }

    /// `raw_open`
    pub(in crate::world) fn open_raw(&mut self, bs: NodeId, raw: &RawDriver) -> Result<(), String> {
        self.graph.nodes[bs].size = self.raw_apply_options(bs, raw.offset, raw.size)?.next_multiple_of(512);
        Ok(())
    }
}
