//! Writing to a node: padding, alignment, pieces, zero writes (`block/io.c:bdrv_co_pwritev` and what it calls).

use crate::base::errno::{Errno, Ret};
use crate::base::units::{align_down, align_up, is_aligned};
use crate::block::content::Data;
use crate::block::event::BlkdebugEvent;
use crate::trace::Level;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::arena::{ChildId, NodeId};
use crate::world::block::driver::Driver;
use crate::world::block::driver::blkdebug::BlkdebugFrame;
use crate::world::block::graph::DetectZeroes;
use crate::world::block::io::REQUEST_MAX_BYTES;
use crate::world::block::io::flush::FlushFrame;
use crate::world::block::io::request::{IoFlags, WriteReq};
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use crate::world::watch::feed::Seen;

/// `MAX_BOUNCE_BUFFER`
pub(super) const MAX_BOUNCE_BUFFER: u64 = 32768 << 9;

fn n_has_zeroes(driver: &Driver) -> bool {
    driver.has_pwrite_zeroes()
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum WriteFrame {
    DriverPwritev(Box<WriteReq>),
    Pwritev(Box<WriteReq>),
    PwritevPad(Box<WriteReq>),
    PaddingRead { node: NodeId, offset: u64, bytes: u64 },
    PaddingReadDone { node: NodeId, offset: u64, bytes: u64 },
    PwritevPadded(Box<WriteReq>),
    PwritevAligned(Box<WriteReq>),
    PwritevPieces(Box<WriteReq>),
    PwritevFinish { node: NodeId, offset: u64, bytes: u64 },
    PwritevEnd { node: NodeId, id: u32 },
    FlushAfterWrite(NodeId),
    PwriteZeroes(Box<WriteReq>),
    PwriteZeroesPiece { rest: Box<WriteReq>, num: u64 },
}

impl WriteFrame {
    /// Runs the frame.
    #[inline(always)]
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            WriteFrame::DriverPwritev(req) => w.driver_pwritev(req),
            WriteFrame::Pwritev(req) => w.bdrv_co_pwritev(req),
            WriteFrame::PwritevPad(req) => w.pwritev_pad(req),
            WriteFrame::PaddingRead { node, offset, bytes } => w.padding_read(node, offset, bytes),
            WriteFrame::PaddingReadDone { node, offset, bytes } => w.padding_read_done(node, offset, bytes),
            WriteFrame::PwritevPadded(req) => w.pwritev_padded(req),
            WriteFrame::PwritevAligned(req) => w.pwritev_aligned(req),
            WriteFrame::PwritevPieces(req) => w.pwritev_pieces(req),
            WriteFrame::PwritevFinish { node, offset, bytes } => w.pwritev_finish(node, offset, bytes),
            WriteFrame::PwritevEnd { node, id } => w.pwritev_end(node, id),
            WriteFrame::FlushAfterWrite(node) => w.flush_after_write(node),
            WriteFrame::PwriteZeroes(req) => w.pwrite_zeroes(req),
            WriteFrame::PwriteZeroesPiece { rest, num } => w.pwrite_zeroes_piece(rest, num),
        }
    }
}

impl World {
    /// `bdrv_co_pwritev_part`
    fn bdrv_co_pwritev(&mut self, mut req: Box<WriteReq>) -> Flow {
        if !self.graph.is_inserted(req.node) {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        let zero = req.flags.has(IoFlags::ZERO_WRITE);
        if (!zero && req.bytes > REQUEST_MAX_BYTES) || req.offset > i64::MAX as u64 - req.bytes {
            return self.ret(Val::err(Errno::EIO));
        }
        let align = self.graph.nodes[req.node].bl.request_alignment;
        let unaligned = !is_aligned(req.offset | req.bytes, align);
        if req.flags.has(IoFlags::NO_FALLBACK) && unaligned {
            return self.ret(Val::err(Errno::ENOTSUP));
        }
        if req.bytes == 0 && unaligned {
            return self.ret(Val::Ret(Ok(())));
        }
        let start = align_down(req.offset, align);
        let len = align_up(req.offset + req.bytes, align) - start;
        self.see_request(req.node);
        let op = if zero { "write-zeroes" } else { "write" };
        let (from, length) = if zero { (req.offset, req.bytes) } else { (start, len) };
        req.tracked = self.tracked_begin(req.node, op, from, length);
        self.push(WriteFrame::PwritevEnd { node: req.node, id: req.tracked }.into());
        if unaligned && zero {
            self.make_serialising(req.node, req.tracked, align);
            return self.zero_pwritev_parts(&req, align);
        }
        if unaligned {
            self.make_serialising(req.node, req.tracked, align);
            return self.seq([WriteFrame::PwritevPad(req).into()]);
        }
        self.seq([WriteFrame::PwritevAligned(req).into()])
    }

    /// `bdrv_co_do_zero_pwritev`: an unaligned zero write is a padded head, an aligned middle and a padded tail.
    fn zero_pwritev_parts(&mut self, req: &WriteReq, align: u64) -> Flow {
        let end = req.offset + req.bytes;
        let (first, last) = (align_up(req.offset, align), align_down(end, align));
        let piece = |from: u64, to: u64| {
            let mut part = req.clone();
            (part.offset, part.bytes) = (from, to - from);
            part.data = Some(Data::zeroes(to - from));
            part.flags = part.flags.without(IoFlags::ZERO_WRITE);
            WriteFrame::PwritevPad(Box::new(part)).into()
        };
        if first > last {
            return self.seq([piece(req.offset, end)]);
        }
        let mut frames = Vec::new();
        if req.offset < first {
            frames.push(piece(req.offset, first));
        }
        if first < last {
            let mut middle = req.clone();
            (middle.offset, middle.bytes) = (first, last - first);
            frames.push(WriteFrame::PwritevAligned(Box::new(middle)).into());
        }
        if last < end {
            frames.push(piece(last, end));
        }
        // Each piece only if those before it went well.
        let mut pieces = frames.into_iter();
        let first = pieces.next();
        let frames = first.into_iter().chain(pieces.map(|piece| Frame::if_ok([piece]))).collect();
        self.push_all(frames);
        Flow::Go
    }

    /// `bdrv_padding_rmw_read`: reads what stands around the data.
    fn pwritev_pad(&mut self, req: Box<WriteReq>) -> Flow {
        let node = req.node;
        self.stop_waiting(node, req.tracked);
        if let Some(wait) = self.wait_serialising(node, req.tracked) {
            self.push(WriteFrame::PwritevPad(req).into());
            return Flow::Yield(wait);
        }
        let align = self.graph.nodes[node].bl.request_alignment;
        let (offset, end) = (req.offset, req.offset + req.bytes);
        let (start, stop) = (align_down(offset, align), align_up(end, align));
        let (head, tail) = (offset > start, end < stop);
        let (rmw_head, after_head) = (BlkdebugEvent::PwritevRmwHead, BlkdebugEvent::PwritevRmwAfterHead);
        let (rmw_tail, after_tail) = (BlkdebugEvent::PwritevRmwTail, BlkdebugEvent::PwritevRmwAfterTail);
        let merged = stop - start == align || (head && tail && stop - start == 2 * align);
        let mut frames = Vec::new();
        let mut read = |from: u64, bytes: u64, before: &[BlkdebugEvent], after: &[BlkdebugEvent]| {
            frames.extend(before.iter().map(|event| BlkdebugFrame::BlkdebugEvent { node, event: *event }.into()));
            frames.push(WriteFrame::PaddingRead { node, offset: from, bytes }.into());
            frames.extend(after.iter().map(|event| BlkdebugFrame::BlkdebugEvent { node, event: *event }.into()));
        };
        if merged {
            let pick =
                |h, t| [(head, h), (tail, t)].into_iter().filter(|(on, _)| *on).map(|(_, e)| e).collect::<Vec<_>>();
            read(start, stop - start, &pick(rmw_head, rmw_tail), &pick(after_head, after_tail));
        } else {
            if head {
                read(start, align, &[rmw_head], &[after_head]);
            }
            if tail {
                read(stop - align, align, &[rmw_tail], &[after_tail]);
            }
        }
        self.push(WriteFrame::PwritevPadded(req).into());
        self.push_all(frames);
        Flow::Go
    }

    /// A read for padding. Its result goes to `self.padding`; an error is ignored, as QEMU does, and leaves zeroes.
    fn padding_read(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let total = self.graph.nodes[node].size;
        let inside = align_up(total.saturating_sub(offset), self.graph.nodes[node].bl.request_alignment).min(bytes);
        self.push(WriteFrame::PaddingReadDone { node, offset, bytes }.into());
        if inside == 0 {
            return self.ret(Val::Data(Ok(Data::new())));
        }
        self.driver_preadv(node, offset, inside, IoFlags::NONE)
    }

    /// After that read.
    fn padding_read_done(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let mut data = self.take_data().unwrap_or_else(|_| {
            self.see(|| Seen::PaddingLost);
            Data::new()
        });
        data.append(&Data::zeroes(bytes - data.len()));
        let co = self.current();
        self.padding.push((co, node, offset, data));
        Flow::Go
    }

    /// Puts the padding around the data and writes the whole.
    fn pwritev_padded(&mut self, mut req: Box<WriteReq>) -> Flow {
        let co = self.current();
        let align = self.graph.nodes[req.node].bl.request_alignment;
        let (offset, end) = (req.offset, req.offset + req.bytes);
        let (start, stop) = (align_down(offset, align), align_up(end, align));
        let mut pieces = Vec::new();
        self.padding.retain(|(owner, node, at, data)| {
            let own = *owner == co && *node == req.node;
            if own {
                pieces.push((*at, data.clone()));
            }
            !own
        });
        let around = |from: u64, to: u64| {
            pieces.iter().find(|(at, d)| *at <= from && to <= at + d.len()).map(|(at, d)| d.slice(from - at, to - from))
        };
        let mut data = around(start, offset).unwrap_or_default();
        data.append(req.data.as_ref().expect("padded writes carry data"));
        data.append(&around(end, stop).unwrap_or_default());
        req.unpadded = Some((offset, req.bytes));
        (req.offset, req.bytes) = (start, stop - start);
        req.data = Some(data);
        self.seq([WriteFrame::PwritevAligned(req).into()])
    }

    /// `bdrv_aligned_pwritev`
    fn pwritev_aligned(&mut self, mut req: Box<WriteReq>) -> Flow {
        let node = req.node;
        if self.graph.nodes[node].dropped {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        if self.graph.nodes[node].bitmaps.has_readonly() {
            return self.ret(Val::err(Errno::EPERM));
        }
        if let Some(wait) = self.write_req_prepare(node, req.tracked, req.flags) {
            self.push(WriteFrame::PwritevAligned(req).into());
            return Flow::Yield(wait);
        }
        let read_only = !self.graph.nodes[node].flags.rdwr;
        if !read_only {
            if self.graph.nodes[node].flags.inactive {
                self.write_to_inactive(node);
            }
            self.within_its_size(node, req.offset, req.bytes);
        }
        let detect = self.graph.nodes[node].detect_zeroes;
        self.write_threshold_check(node, req.offset, req.bytes);
        if detect != DetectZeroes::Off
            && !req.flags.has(IoFlags::ZERO_WRITE)
            && self.graph.nodes[node].drv().has_pwrite_zeroes()
            && req.data.as_ref().is_some_and(Data::is_zero)
        {
            req.flags |= IoFlags::ZERO_WRITE;
            if detect == DetectZeroes::Unmap {
                req.flags |= IoFlags::MAY_UNMAP;
            }
        }
        let (offset, bytes) = (req.offset, req.bytes);
        self.push(WriteFrame::PwritevFinish { node, offset, bytes }.into());
        self.push(BlkdebugFrame::BlkdebugEvent { node, event: BlkdebugEvent::PwritevDone }.into());
        if read_only {
            return self.ret(Val::err(Errno::EPERM));
        }
        if req.flags.has(IoFlags::ZERO_WRITE) {
            let event = BlkdebugEvent::PwritevZero;
            return self
                .seq([BlkdebugFrame::BlkdebugEvent { node, event }.into(), WriteFrame::PwriteZeroes(req).into()]);
        }
        if req.flags.has(IoFlags::COMPRESSED) {
            return self.driver_pwritev_compressed(req);
        }
        self.seq([
            BlkdebugFrame::BlkdebugEvent { node, event: BlkdebugEvent::Pwritev }.into(),
            WriteFrame::PwritevPieces(req).into(),
        ])
    }

    /// `bdrv_co_write_req_prepare`, as far as overlapping requests go.
    pub(in crate::world) fn write_req_prepare(&mut self, node: NodeId, id: u32, flags: IoFlags) -> Option<Wait> {
        self.stop_waiting(node, id);
        if flags.has(IoFlags::SERIALISING) {
            self.make_serialising(node, id, self.serialising_align(node));
        }
        self.wait_serialising(node, id)
    }

    /// What `bdrv_co_write_req_prepare` asserts: a write stays within the node, unless who writes may resize it. A filter keeps the size that
    /// the node below it had when it came.
    pub(super) fn within_its_size(&self, node: NodeId, offset: u64, bytes: u64) {
        let n = &self.graph.nodes[node];
        let protocol = n.driver.as_ref().is_none_or(Driver::is_protocol);
        let resizes = |edge: &ChildId| self.graph.children[*edge].perm & perm::RESIZE != 0;
        if !protocol && offset + bytes > n.size.next_multiple_of(512) && !n.parents.iter().any(resizes) {
            let reason = "bdrv_co_write_req_prepare: a filter above it is longer, and writes beyond its end";
            Self::qemu_is_known_to_abort("smaller-below-a-filter", format!("node {}", n.node_name), reason);
        }
    }

    /// The loop of `bdrv_aligned_pwritev` over pieces that the driver takes; the request shrinks from its front.
    fn pwritev_pieces(&mut self, mut req: Box<WriteReq>) -> Flow {
        if let Some(errno) = self.take_val().errno() {
            return self.ret(Val::err(errno));
        }
        let bl = self.graph.nodes[req.node].bl;
        let max = if bl.max_transfer == 0 { u64::MAX } else { align_down(bl.max_transfer, bl.request_alignment) };
        if req.bytes <= max {
            return self.driver_pwritev(req);
        }
        let mut piece = req.clone();
        let data = req.data.take().expect("a write carries data");
        piece.bytes = max;
        piece.data = Some(data.slice(0, max));
        req.offset += max;
        req.bytes -= max;
        req.data = Some(data.slice(max, req.bytes));
        self.push(WriteFrame::PwritevPieces(req).into());
        self.driver_pwritev(piece)
    }

    /// `bdrv_driver_pwritev`: the driver's write, and a flush where it has to stand for FUA.
    fn driver_pwritev(&mut self, req: Box<WriteReq>) -> Flow {
        if req.flags.has(IoFlags::FUA) && !self.supports_fua(req.node) {
            self.push(WriteFrame::FlushAfterWrite(req.node).into());
        }
        self.driver_write(req)
    }

    /// `bdrv_driver_pwritev` with FUA emulated.
    fn flush_after_write(&mut self, node: NodeId) -> Flow {
        match self.take_ret() {
            Ok(()) => self.seq([FlushFrame::BdrvCoFlush(node).into()]),
            Err(errno) => self.ret(Val::err(errno)),
        }
    }

    /// `bdrv_co_do_pwrite_zeroes`: pieces that the driver can take, with a fallback to buffers of zeroes.
    pub(in crate::world) fn pwrite_zeroes(&mut self, req: Box<WriteReq>) -> Flow {
        if let Some(errno) = self.take_val().errno() {
            return self.ret(Val::err(errno));
        }
        if req.bytes == 0 {
            if req.flags.has(IoFlags::FUA) && !self.supports_fua(req.node) {
                return self.seq([FlushFrame::BdrvCoFlush(req.node).into()]);
            }
            return self.ret(Val::Ret(Ok(())));
        }
        if self.graph.nodes[req.node].dropped {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        let n = &self.graph.nodes[req.node];
        let mut flags = req.flags;
        if !n.flags.unmap {
            flags = flags.without(IoFlags::MAY_UNMAP);
        }
        if flags.has(IoFlags::NO_FALLBACK) && !self.supported_zero_flags(req.node).no_fallback {
            return self.ret(Val::err(Errno::ENOTSUP));
        }
        self.bsc_invalidate_range(req.node, req.offset, req.bytes);
        let n = &self.graph.nodes[req.node];
        let align = n.bl.pwrite_zeroes_alignment.max(n.bl.request_alignment);
        let max = if n.bl.max_pwrite_zeroes == 0 { i64::MAX as u64 } else { n.bl.max_pwrite_zeroes };
        let end = req.offset + req.bytes;
        let (head, tail) = (req.offset - align_down(req.offset, align), end - align_down(end, align));
        let max_transfer = self.max_bounce(req.node);
        let mut num = req.bytes;
        if head > 0 {
            num = num.min(max_transfer).min(align - head);
        } else if tail > 0 && num > align {
            num -= tail;
        }
        num = num.min(align_down(max, align));
        let piece = WriteReq { bytes: num, flags, ..WriteReq::clone(&req) };
        self.push(WriteFrame::PwriteZeroesPiece { rest: req, num }.into());
        if n_has_zeroes(self.graph.nodes[piece.node].drv()) {
            self.driver_pwrite_zeroes(piece)
        } else {
            self.ret(Val::err(Errno::ENOTSUP))
        }
    }

    fn max_bounce(&self, node: NodeId) -> u64 {
        match self.graph.nodes[node].bl.max_transfer {
            0 => MAX_BOUNCE_BUFFER,
            max => max.min(MAX_BOUNCE_BUFFER),
        }
    }

    /// After a piece of a zero write.
    fn pwrite_zeroes_piece(&mut self, mut rest: Box<WriteReq>, num: u64) -> Flow {
        match self.take_ret() {
            Err(errno) if errno == Errno::ENOTSUP && !rest.flags.has(IoFlags::NO_FALLBACK) => {
                let num = num.min(self.max_bounce(rest.node));
                let mut piece = rest.clone();
                piece.bytes = num;
                piece.data = Some(Data::zeroes(num).with_tag(self.writer));
                piece.flags = IoFlags::NONE;
                rest.offset += num;
                rest.bytes -= num;
                self.push(WriteFrame::PwriteZeroes(rest).into());
                self.driver_write(piece)
            }
            Err(errno) => self.ret(Val::err(errno)),
            Ok(()) => {
                rest.offset += num;
                rest.bytes -= num;
                self.seq([WriteFrame::PwriteZeroes(rest).into()])
            }
        }
    }

    /// `bdrv_co_write_req_finish`
    fn pwritev_finish(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let ret = self.take_ret();
        self.write_req_finish(node, offset, bytes, ret, false);
        self.ret(Val::Ret(ret))
    }

    pub(in crate::world) fn write_req_finish(
        &mut self,
        node: NodeId,
        offset: u64,
        bytes: u64,
        ret: Ret,
        truncate: bool,
    ) {
        let n = &mut self.graph.nodes[node];
        n.write_gen += 1;
        let end = align_up(offset + bytes, 512);
        if !truncate && bytes > 0 {
            n.wr_highest_offset = n.wr_highest_offset.max(offset + bytes);
        }
        if ret.is_ok() && (truncate || end > n.size) {
            n.size = end.max(if truncate { offset + bytes } else { 0 });
            let size = n.size;
            let in_use = n.bitmaps.iter().find(|bitmap| bitmap.busy());
            if let Some(name) = in_use.map(|bitmap| bitmap.name().map_or("", |name| name)) {
                let reason = "bdrv_dirty_bitmap_truncate: it is in use";
                Self::qemu_is_known_to_abort("backup-below-a-growing-format", format!("bitmap {name}"), reason);
            }
            n.bitmaps.truncate(size);
        }
        if bytes > 0 && !truncate {
            self.graph.nodes[node].bitmaps.set_dirty(offset, bytes);
            self.see_write(node, offset, bytes);
            if self.trace.wants(Level::Io) && self.graph.nodes[node].bitmaps.has_named() {
                self.trace_bitmap_set(node, offset, bytes);
            }
        }
    }

    /// The end of a write: no longer tracked.
    fn pwritev_end(&mut self, node: NodeId, id: u32) -> Flow {
        let ret = self.take_ret();
        self.tracked_end(node, id, ret.err());
        self.ret(Val::Ret(ret))
    }
}
