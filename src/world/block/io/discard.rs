//! Discarding, and setting the length of a node (`block/io.c:bdrv_co_pdiscard`, `bdrv_co_truncate`).

use crate::base::errno::Errno;
use crate::base::units::{BDRV_MAX_LENGTH, align_down};
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::driver::DriverFrame;
use crate::world::frame::Flow;
use crate::world::value::Val;
use crate::world::watch::feed::Seen;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum DiscardFrame {
    Pdiscard { node: NodeId, offset: u64, bytes: u64 },
    PdiscardBegin { node: NodeId, offset: u64, bytes: u64, id: u32 },
    PdiscardPiece { node: NodeId, offset: u64, bytes: u64 },
    PdiscardEnd { node: NodeId, offset: u64, bytes: u64, id: u32 },
    Truncate { node: NodeId, size: u64 },
    TruncateEnd { node: NodeId, size: u64, id: u32 },
}

impl DiscardFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            DiscardFrame::Pdiscard { node, offset, bytes } => w.bdrv_co_pdiscard(node, offset, bytes),
            DiscardFrame::PdiscardBegin { node, offset, bytes, id } => w.pdiscard_begin(node, offset, bytes, id),
            DiscardFrame::PdiscardPiece { node, offset, bytes } => w.pdiscard_piece(node, offset, bytes),
            DiscardFrame::PdiscardEnd { node, offset, bytes, id } => w.pdiscard_end(node, offset, bytes, id),
            DiscardFrame::Truncate { node, size } => w.bdrv_co_truncate(node, size),
            DiscardFrame::TruncateEnd { node, size, id } => w.truncate_end(node, size, id),
        }
    }
}

impl World {
    /// `bdrv_co_pdiscard`
    fn bdrv_co_pdiscard(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        if !self.graph.is_inserted(node) {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        if self.quirks.has(Quirk::DiscardBypassesCbw) && self.graph.nodes[node].drv().row().copies_before_write {
            return self.pass_discard(node, offset, bytes);
        }
        let n = &self.graph.nodes[node];
        if n.bitmaps.has_readonly() {
            return self.ret(Val::err(Errno::EPERM));
        }
        if offset > i64::MAX as u64 - bytes {
            return self.ret(Val::err(Errno::EIO));
        }
        let mut takes = n.flags.unmap && n.drv().has_pdiscard();
        if !takes && n.drv().is_filter() && self.is_job_filter(node) {
            takes = n.drv().has_pdiscard() && !self.quirks.has(Quirk::FilterSwallowsDiscard);
            if !takes && self.feed.on {
                self.see_swallowed();
            }
        }
        if !takes {
            return self.ret(Val::Ret(Ok(())));
        }
        let n = &self.graph.nodes[node];
        let read_only = !n.flags.rdwr;
        if n.flags.inactive && !read_only {
            self.write_to_inactive(node);
        }
        self.bsc_invalidate_range(node, offset, bytes);
        self.see_request(node);
        if self.feed.on {
            let co = self.current();
            self.feed.seen.push(Seen::Discards { co, node });
        }
        let id = self.tracked_begin(node, "discard", offset, bytes);
        self.push(DiscardFrame::PdiscardEnd { node, offset, bytes, id }.into());
        if read_only {
            return self.ret(Val::err(Errno::EPERM));
        }
        self.seq([DiscardFrame::PdiscardBegin { node, offset, bytes, id }.into()])
    }

    /// `bdrv_co_pdiscard`, after overlapping requests.
    fn pdiscard_begin(&mut self, node: NodeId, offset: u64, bytes: u64, id: u32) -> Flow {
        self.stop_waiting(node, id);
        if let Some(wait) = self.wait_serialising(node, id) {
            self.push(DiscardFrame::PdiscardBegin { node, offset, bytes, id }.into());
            return Flow::Yield(wait);
        }
        self.within_its_size(node, offset, bytes);
        self.write_threshold_check(node, offset, bytes);
        self.seq([DiscardFrame::PdiscardPiece { node, offset, bytes }.into()])
    }

    /// One piece of a discard.
    fn pdiscard_piece(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        if let Some(errno) = self.take_val().errno()
            && errno != Errno::ENOTSUP
        {
            return self.ret(Val::err(errno));
        }
        if bytes == 0 {
            return self.ret(Val::Ret(Ok(())));
        }
        if self.graph.nodes[node].dropped {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        let bl = self.graph.nodes[node].bl;
        let align = bl.pdiscard_alignment.max(bl.request_alignment);
        let max = if bl.max_pdiscard == 0 { i64::MAX as u64 } else { bl.max_pdiscard };
        let (head, tail) = (offset % align, (offset + bytes) % align);
        let mut num = bytes;
        if head > 0 {
            num = num.min(align - head);
            if !num.is_multiple_of(bl.request_alignment) {
                num %= bl.request_alignment;
            }
        } else if tail > 0 {
            if num > align {
                num -= tail;
            } else if tail % bl.request_alignment != 0 && tail > bl.request_alignment {
                num -= tail % bl.request_alignment;
            }
        }
        num = num.min(align_down(max, align));
        self.push(DiscardFrame::PdiscardPiece { node, offset: offset + num, bytes: bytes - num }.into());
        self.driver_pdiscard(node, offset, num)
    }

    /// The end of a discard.
    fn pdiscard_end(&mut self, node: NodeId, offset: u64, bytes: u64, id: u32) -> Flow {
        let ret = self.take_ret();
        let n = &mut self.graph.nodes[node];
        n.write_gen += 1;
        if !self.quirks.has(Quirk::DiscardNotDirty) {
            n.bitmaps.set_dirty(offset, bytes);
        }
        self.see_write(node, offset, bytes);
        self.tracked_end(node, id, ret.err());
        self.ret(Val::Ret(ret))
    }

    /// `bdrv_co_truncate`. Leaves `Val::Done`.
    fn bdrv_co_truncate(&mut self, node: NodeId, size: u64) -> Flow {
        let n = &self.graph.nodes[node];
        let fail = |errno, text: &str| Val::Done(Err(crate::qmp::error::QmpError::generic(text).with_errno(errno)));
        if n.dropped {
            return self.ret(fail(Errno::ENOMEDIUM, "No medium inserted"));
        }
        if size > BDRV_MAX_LENGTH {
            return self.ret(fail(Errno::EIO, &format!("offset({size}) exceeds maximum({BDRV_MAX_LENGTH})")));
        }
        if !n.flags.rdwr {
            return self.ret(fail(Errno::EACCES, "Image is read-only"));
        }
        if n.flags.inactive {
            self.write_to_inactive(node);
        }
        let old = n.size;
        let new_bytes = size.saturating_sub(old);
        let backing_longer = n.backing.is_some_and(|c| self.graph.nodes[self.graph.bs(c)].size > old);
        let id = self.tracked_begin(node, "truncate", size - new_bytes, new_bytes);
        if new_bytes > 0 {
            self.make_serialising(node, id, 1);
        }
        self.seq([
            DriverFrame::DriverTruncate { node, size, zero: new_bytes > 0 && backing_longer }.into(),
            DiscardFrame::TruncateEnd { node, size, id }.into(),
        ])
    }

    /// The end of `bdrv_co_truncate`.
    fn truncate_end(&mut self, node: NodeId, size: u64, id: u32) -> Flow {
        let done = self.take_done();
        if done.is_ok() {
            self.write_req_finish(node, size, 0, Ok(()), true);
            self.refresh_total_sectors(node);
        }
        // Also where it failed: what lies behind the new end may be discarded already.
        self.see(|| Seen::Changed(node));
        self.tracked_end(node, id, done.is_err().then_some(Errno::EIO));
        self.ret(Val::Done(done))
    }
}
