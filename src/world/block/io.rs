//! Requests to a node: alignment, tracking, dirty bits, flush generations (`block/io.c`). Reads are in `read.rs`.

use super::driver::Driver;
use super::graph::{DetectZeroes, TrackedRequest};
use crate::base::errno::{Errno, Ret};
use crate::base::units::BDRV_MAX_LENGTH;
use crate::base::units::{align_down, align_up};
use crate::block::content::Data;
use crate::block::event::BlkdebugEvent;
use crate::choice::Subject;
use crate::quirk::Quirk;
use crate::trace::{Level, Phase, RecordKind};
use crate::world::World;
use crate::world::aio::Wait;
use crate::world::arena::{JobId, NodeId};
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use crate::world::watch::feed::Seen;

/// `BDRV_REQ_*` flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IoFlags(u8);

impl IoFlags {
    /// No flag.
    pub const NONE: IoFlags = IoFlags(0);
    /// `BDRV_REQ_ZERO_WRITE`
    pub const ZERO_WRITE: IoFlags = IoFlags(1);
    /// `BDRV_REQ_MAY_UNMAP`
    pub const MAY_UNMAP: IoFlags = IoFlags(2);
    /// `BDRV_REQ_NO_FALLBACK`
    pub const NO_FALLBACK: IoFlags = IoFlags(4);
    /// `BDRV_REQ_FUA`
    pub const FUA: IoFlags = IoFlags(8);
    /// `BDRV_REQ_WRITE_COMPRESSED`
    pub const COMPRESSED: IoFlags = IoFlags(16);
    /// `BDRV_REQ_SERIALISING`
    pub const SERIALISING: IoFlags = IoFlags(32);
    /// `BDRV_REQ_COPY_ON_READ`
    pub const COPY_ON_READ: IoFlags = IoFlags(64);
    /// `BDRV_REQ_PREFETCH`: the reader does not want the data, only that it is copied.
    pub const PREFETCH: IoFlags = IoFlags(128);

    /// Whether all of these flags are set.
    #[must_use]
    pub const fn has(self, other: IoFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Without these flags.
    #[must_use]
    pub const fn without(self, other: IoFlags) -> IoFlags {
        IoFlags(self.0 & !other.0)
    }
}

impl std::ops::BitOr for IoFlags {
    type Output = IoFlags;
    fn bitor(self, other: IoFlags) -> IoFlags {
        IoFlags(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for IoFlags {
    fn bitor_assign(&mut self, other: IoFlags) {
        self.0 |= other.0;
    }
}

/// A write under way. For zero writes there is no payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WriteReq {
    /// The node written to.
    pub node: NodeId,
    /// Byte offset.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// What to write; `None` with [`IoFlags::ZERO_WRITE`].
    pub data: Option<Data>,
    /// Flags.
    pub flags: IoFlags,
    /// Its tracked request, once it has begun.
    pub tracked: u32,
    /// The original offset and length, where padding widened the request.
    pub unpadded: Option<(u64, u64)>,
}

/// A write of data.
#[must_use]
pub fn write(node: NodeId, offset: u64, data: Data, flags: IoFlags) -> Box<WriteReq> {
    let bytes = data.len();
    Box::new(WriteReq { node, offset, bytes, data: Some(data), flags, tracked: 0, unpadded: None })
}

/// A write of zeroes.
#[must_use]
pub fn write_zeroes(node: NodeId, offset: u64, bytes: u64, flags: IoFlags) -> Box<WriteReq> {
    let flags = flags | IoFlags::ZERO_WRITE;
    Box::new(WriteReq { node, offset, bytes, data: None, flags, tracked: 0, unpadded: None })
}

/// `INT_MAX`, the largest request that carries a buffer (`BDRV_REQUEST_MAX_BYTES`, cut to sectors).
pub(super) const REQUEST_MAX_BYTES: u64 = i32::MAX as u64 / 512 * 512;
/// `MAX_BOUNCE_BUFFER`
pub(super) const MAX_BOUNCE_BUFFER: u64 = 32768 << 9;

impl World {
    /// `bdrv_getlength`
    #[must_use]
    pub fn bdrv_getlength(&self, node: NodeId) -> u64 {
        self.graph.nodes[node].size
    }

    /// `tracked_request_begin`
    pub(super) fn tracked_begin(&mut self, node: NodeId, op: &'static str, offset: u64, bytes: u64) -> u32 {
        let co = self.current();
        let n = &mut self.graph.nodes[node];
        n.in_flight += 1;
        let id = match n.tracked_ids.trailing_ones() {
            128 => lowest_free(n.tracked.iter().map(|t| t.id)),
            id => {
                n.tracked_ids |= 1 << id;
                id
            }
        };
        n.tracked.push(TrackedRequest {
            id,
            op,
            overlap_offset: offset,
            overlap_bytes: bytes,
            serialising: false,
            co,
            waiting: false,
            wait_queue: Vec::new(),
        });
        self.trace_tracked(node, id, Phase::Submit);
        id
    }

    /// Notes the begin or the end of a request, but for files: there it is the request to the device that is noted.
    fn trace_tracked(&mut self, node: NodeId, id: u32, phase: Phase) {
        if !self.trace.wants(Level::Io) {
            return;
        }
        let n = &self.graph.nodes[node];
        let Some(t) = n.tracked.iter().find(|t| t.id == id).filter(|_| !matches!(n.drv(), Driver::File(_))) else {
            return;
        };
        let (op, offset, bytes) = (t.op, t.overlap_offset, t.overlap_bytes);
        let (node, who, id) = (n.node_name.clone(), format!("{:?}", t.co).into(), u64::from(id));
        self.trace.emit(Level::Io, self.now, || RecordKind::Request { id, node, op, offset, bytes, who, phase });
    }

    /// A read, write or discard begins; whoever changes a node's size drains it himself. Those of a job that is cancelled do not count:
    /// QEMU wakes it from its pause whoever else wants it to be quiet, and a backup that an error had stopped begins to copy again
    /// before it looks (`backup_loop`).
    pub(super) fn see_request(&mut self, node: NodeId) {
        let n = &self.graph.nodes[node];
        if self.feed.on && n.quiesce_counter > 0 && !self.works_for_cancelled() {
            let name = n.node_name.clone();
            self.feed.seen.push(Seen::RequestInDrain { node, name });
        }
    }

    /// Whether the running coroutine works for a job that is cancelled.
    fn works_for_cancelled(&self) -> bool {
        let task = self.cos[self.current()].task;
        let job = task.checked_sub(Subject::job(0)).and_then(|job| self.jobs.get(JobId(job)));
        job.is_some_and(|job| job.cancelled)
    }

    /// `tracked_request_end` and `bdrv_dec_in_flight`
    pub(super) fn tracked_end(&mut self, node: NodeId, id: u32, errno: Option<Errno>) {
        self.trace_tracked(node, id, Phase::Complete(errno));
        let n = &mut self.graph.nodes[node];
        let i = n.tracked.iter().position(|t| t.id == id).expect("the request was tracked");
        let request = n.tracked.remove(i);
        n.tracked_ids &= !1u128.checked_shl(id).unwrap_or(0);
        n.tracked_apart -= u32::from(request.is_apart());
        for co in request.wait_queue {
            self.aio_co_wake(co);
        }
        self.node_dec_in_flight(node);
    }

    /// `bdrv_wait_serialising_requests`: yields if this request overlaps one that it must wait for.
    pub(super) fn wait_serialising(&mut self, node: NodeId, id: u32) -> Option<Wait> {
        let co = self.current();
        let n = &mut self.graph.nodes[node];
        if n.tracked_apart == 0 {
            return None;
        }
        let own = n.tracked.iter().find(|t| t.id == id).expect("the request is tracked").clone();
        let end = |t: &TrackedRequest| t.overlap_offset + t.overlap_bytes;
        let other = n.tracked.iter_mut().find(|t| {
            t.id != id
                && (t.serialising || own.serialising)
                && !t.waiting
                && t.overlap_offset < end(&own)
                && own.overlap_offset < end(t)
        })?;
        other.wait_queue.push(co);
        self.set_apart(node, id, |own| own.waiting = true);
        Some(Wait::Queue("an overlapping request"))
    }

    pub(super) fn make_serialising(&mut self, node: NodeId, id: u32, align: u64) {
        self.set_apart(node, id, |own| {
            let end = align_up(own.overlap_offset + own.overlap_bytes, align);
            own.serialising = true;
            own.overlap_offset = align_down(own.overlap_offset, align);
            own.overlap_bytes = end - own.overlap_offset;
        });
    }

    pub(super) fn stop_waiting(&mut self, node: NodeId, id: u32) {
        if self.graph.nodes[node].tracked_apart > 0 {
            self.set_apart(node, id, |own| own.waiting = false);
        }
    }

    /// Changes whether a request is serialising or waits.
    fn set_apart(&mut self, node: NodeId, id: u32, change: impl FnOnce(&mut TrackedRequest)) {
        let n = &mut self.graph.nodes[node];
        let own = n.tracked.iter_mut().find(|t| t.id == id).expect("the request is tracked");
        let before = own.is_apart();
        change(own);
        n.tracked_apart = n.tracked_apart + u32::from(own.is_apart()) - u32::from(before);
    }

    /// `bdrv_co_pwritev_part`
    pub(in crate::world) fn bdrv_co_pwritev(&mut self, mut req: Box<WriteReq>) -> Flow {
        if !self.graph.is_inserted(req.node) {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        let zero = req.flags.has(IoFlags::ZERO_WRITE);
        if (!zero && req.bytes > REQUEST_MAX_BYTES) || req.offset > i64::MAX as u64 - req.bytes {
            return self.ret(Val::err(Errno::EIO));
        }
        let align = self.graph.nodes[req.node].bl.request_alignment;
        let unaligned = !(req.offset | req.bytes).is_multiple_of(align);
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
        self.stack.push(Frame::PwritevEnd { node: req.node, id: req.tracked });
        if unaligned && zero {
            self.make_serialising(req.node, req.tracked, align);
            return self.zero_pwritev_parts(&req, align);
        }
        if unaligned {
            self.make_serialising(req.node, req.tracked, align);
            return self.seq([Frame::PwritevPad(req)]);
        }
        self.seq([Frame::PwritevAligned(req)])
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
            Frame::PwritevPad(Box::new(part))
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
            frames.push(Frame::PwritevAligned(Box::new(middle)));
        }
        if last < end {
            frames.push(piece(last, end));
        }
        for (i, frame) in frames.into_iter().enumerate().rev() {
            self.stack.push(frame);
            if i > 0 {
                self.stack.push(Frame::StopOnError(1));
            }
        }
        Flow::Go
    }

    /// `bdrv_padding_rmw_read`: reads what stands around the data.
    pub(in crate::world) fn pwritev_pad(&mut self, req: Box<WriteReq>) -> Flow {
        let node = req.node;
        self.stop_waiting(node, req.tracked);
        if let Some(wait) = self.wait_serialising(node, req.tracked) {
            self.stack.push(Frame::PwritevPad(req));
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
            frames.extend(before.iter().map(|event| Frame::BlkdebugEvent { node, event: *event }));
            frames.push(Frame::PaddingRead { node, offset: from, bytes });
            frames.extend(after.iter().map(|event| Frame::BlkdebugEvent { node, event: *event }));
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
        self.stack.push(Frame::PwritevPadded(req));
        self.stack.extend(frames.into_iter().rev());
        Flow::Go
    }

    /// A read for padding. Its result goes to `self.padding`; an error is ignored, as QEMU does, and leaves zeroes.
    pub(in crate::world) fn padding_read(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let total = self.graph.nodes[node].size;
        let inside = align_up(total.saturating_sub(offset), self.graph.nodes[node].bl.request_alignment).min(bytes);
        self.stack.push(Frame::PaddingReadDone { node, offset, bytes });
        if inside == 0 {
            return self.ret(Val::Data(Ok(Data::new())));
        }
        self.driver_preadv(node, offset, inside, IoFlags::NONE)
    }

    /// After that read.
    pub(in crate::world) fn padding_read_done(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
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
    pub(in crate::world) fn pwritev_padded(&mut self, mut req: Box<WriteReq>) -> Flow {
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
        self.seq([Frame::PwritevAligned(req)])
    }

    /// `bdrv_aligned_pwritev`
    pub(in crate::world) fn pwritev_aligned(&mut self, mut req: Box<WriteReq>) -> Flow {
        let node = req.node;
        if self.graph.nodes[node].dropped {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        if self.graph.nodes[node].bitmaps.has_readonly() {
            return self.ret(Val::err(Errno::EPERM));
        }
        if let Some(wait) = self.write_req_prepare(node, req.tracked, req.flags) {
            self.stack.push(Frame::PwritevAligned(req));
            return Flow::Yield(wait);
        }
        let n = &self.graph.nodes[node];
        let read_only = !n.flags.rdwr;
        let detect = n.detect_zeroes;
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
        self.stack.push(Frame::PwritevFinish { node, offset, bytes });
        self.stack.push(Frame::BlkdebugEvent { node, event: BlkdebugEvent::PwritevDone });
        if read_only {
            return self.ret(Val::err(Errno::EPERM));
        }
        if req.flags.has(IoFlags::ZERO_WRITE) {
            let event = BlkdebugEvent::PwritevZero;
            return self.seq([Frame::BlkdebugEvent { node, event }, Frame::PwriteZeroes(req)]);
        }
        if req.flags.has(IoFlags::COMPRESSED) {
            return self.driver_pwritev_compressed(req);
        }
        self.seq([Frame::BlkdebugEvent { node, event: BlkdebugEvent::Pwritev }, Frame::PwritevPieces(req)])
    }

    /// `bdrv_co_write_req_prepare`, as far as overlapping requests go.
    pub(super) fn write_req_prepare(&mut self, node: NodeId, id: u32, flags: IoFlags) -> Option<Wait> {
        self.stop_waiting(node, id);
        if flags.has(IoFlags::SERIALISING) {
            self.make_serialising(node, id, self.serialising_align(node));
        }
        self.wait_serialising(node, id)
    }

    /// `bdrv_get_cluster_size`: how far a serialising request reaches.
    pub(super) fn serialising_align(&self, node: NodeId) -> u64 {
        self.cluster_size_of(node).unwrap_or(1).max(self.graph.nodes[node].bl.request_alignment)
    }

    /// The loop of `bdrv_aligned_pwritev` over pieces that the driver takes; the request shrinks from its front.
    pub(in crate::world) fn pwritev_pieces(&mut self, mut req: Box<WriteReq>) -> Flow {
        if let Val::Ret(Err(errno)) = std::mem::take(&mut self.reg) {
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
        self.stack.push(Frame::PwritevPieces(req));
        self.driver_pwritev(piece)
    }

    /// `bdrv_driver_pwritev`: the driver's write, and a flush where it has to stand for FUA.
    pub(in crate::world) fn driver_pwritev(&mut self, req: Box<WriteReq>) -> Flow {
        if req.flags.has(IoFlags::FUA) {
            self.stack.push(Frame::FlushAfterWrite(req.node));
        }
        self.driver_write(req)
    }

    /// `bdrv_driver_pwritev` with FUA emulated.
    pub(in crate::world) fn flush_after_write(&mut self, node: NodeId) -> Flow {
        match self.take_ret() {
            Ok(()) => self.seq([Frame::BdrvCoFlush(node)]),
            Err(errno) => self.ret(Val::err(errno)),
        }
    }

    /// `bdrv_co_do_pwrite_zeroes`: pieces that the driver can take, with a fallback to buffers of zeroes.
    pub(in crate::world) fn pwrite_zeroes(&mut self, req: Box<WriteReq>) -> Flow {
        if let Val::Ret(Err(errno)) = std::mem::take(&mut self.reg) {
            return self.ret(Val::err(errno));
        }
        if req.bytes == 0 {
            if req.flags.has(IoFlags::FUA) {
                return self.seq([Frame::BdrvCoFlush(req.node)]);
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
        if flags.has(IoFlags::NO_FALLBACK) && !self.supports_zero_no_fallback(req.node) {
            return self.ret(Val::err(Errno::ENOTSUP));
        }
        self.bsc_invalidate_range(req.node, req.offset, req.bytes);
        let n = &self.graph.nodes[req.node];
        let align = n.bl.pwrite_zeroes_alignment.max(n.bl.request_alignment);
        let max = if n.bl.max_pwrite_zeroes == 0 { i64::MAX as u64 } else { n.bl.max_pwrite_zeroes };
        let (head, tail) = (req.offset % align, (req.offset + req.bytes) % align);
        let max_transfer = self.max_bounce(req.node);
        let mut num = req.bytes;
        if head > 0 {
            num = num.min(max_transfer).min(align - head);
        } else if tail > 0 && num > align {
            num -= tail;
        }
        num = num.min(align_down(max, align));
        let mut piece = req.clone();
        piece.bytes = num;
        piece.flags = flags;
        self.stack.push(Frame::PwriteZeroesPiece { rest: req, num });
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
    pub(in crate::world) fn pwrite_zeroes_piece(&mut self, mut rest: Box<WriteReq>, num: u64) -> Flow {
        match self.take_ret() {
            Err(errno) if errno == Errno::ENOTSUP && !rest.flags.has(IoFlags::NO_FALLBACK) => {
                let num = num.min(self.max_bounce(rest.node));
                let mut piece = rest.clone();
                piece.bytes = num;
                piece.data = Some(Data::zeroes(num).with_tag(self.writer));
                piece.flags = IoFlags::NONE;
                rest.offset += num;
                rest.bytes -= num;
                self.stack.push(Frame::PwriteZeroes(rest));
                self.driver_write(piece)
            }
            Err(errno) => self.ret(Val::err(errno)),
            Ok(()) => {
                rest.offset += num;
                rest.bytes -= num;
                self.seq([Frame::PwriteZeroes(rest)])
            }
        }
    }

    /// `bdrv_co_write_req_finish`
    pub(in crate::world) fn pwritev_finish(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let ret = self.take_ret();
        self.write_req_finish(node, offset, bytes, ret, false);
        self.ret(Val::Ret(ret))
    }

    fn write_req_finish(&mut self, node: NodeId, offset: u64, bytes: u64, ret: Ret, truncate: bool) {
        let n = &mut self.graph.nodes[node];
        n.write_gen += 1;
        let end = align_up(offset + bytes, 512);
        if !truncate && bytes > 0 {
            n.wr_highest_offset = n.wr_highest_offset.max(offset + bytes);
        }
        if ret.is_ok() && (truncate || end > n.size) {
            n.size = end.max(if truncate { offset + bytes } else { 0 });
            let size = n.size;
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
    pub(in crate::world) fn pwritev_end(&mut self, node: NodeId, id: u32) -> Flow {
        let ret = self.take_ret();
        self.tracked_end(node, id, ret.err());
        self.ret(Val::Ret(ret))
    }

    /// `bdrv_co_pdiscard`
    pub(in crate::world) fn bdrv_co_pdiscard(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        if !self.graph.is_inserted(node) {
            return self.ret(Val::err(Errno::ENOMEDIUM));
        }
        if self.quirks.has(Quirk::DiscardBypassesCbw) && matches!(self.graph.nodes[node].drv(), Driver::Cbw(_)) {
            return self.pass_discard(node, offset, bytes);
        }
        let n = &self.graph.nodes[node];
        if n.bitmaps.has_readonly() {
            return self.ret(Val::err(Errno::EPERM));
        }
        if offset > i64::MAX as u64 - bytes {
            return self.ret(Val::err(Errno::EIO));
        }
        if !n.flags.unmap || !n.drv().has_pdiscard() {
            return self.ret(Val::Ret(Ok(())));
        }
        let read_only = !n.flags.rdwr;
        self.bsc_invalidate_range(node, offset, bytes);
        self.see_request(node);
        let id = self.tracked_begin(node, "discard", offset, bytes);
        self.stack.push(Frame::PdiscardEnd { node, offset, bytes, id });
        if read_only {
            return self.ret(Val::err(Errno::EPERM));
        }
        self.seq([Frame::PdiscardBegin { node, offset, bytes, id }])
    }

    /// `bdrv_co_pdiscard`, after overlapping requests.
    pub(in crate::world) fn pdiscard_begin(&mut self, node: NodeId, offset: u64, bytes: u64, id: u32) -> Flow {
        self.stop_waiting(node, id);
        if let Some(wait) = self.wait_serialising(node, id) {
            self.stack.push(Frame::PdiscardBegin { node, offset, bytes, id });
            return Flow::Yield(wait);
        }
        self.write_threshold_check(node, offset, bytes);
        self.seq([Frame::PdiscardPiece { node, offset, bytes }])
    }

    /// One piece of a discard.
    pub(in crate::world) fn pdiscard_piece(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        if let Val::Ret(Err(errno)) = std::mem::take(&mut self.reg)
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
        self.stack.push(Frame::PdiscardPiece { node, offset: offset + num, bytes: bytes - num });
        self.driver_pdiscard(node, offset, num)
    }

    /// The end of a discard.
    pub(in crate::world) fn pdiscard_end(&mut self, node: NodeId, offset: u64, bytes: u64, id: u32) -> Flow {
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
    pub(in crate::world) fn bdrv_co_truncate(&mut self, node: NodeId, size: u64) -> Flow {
        let n = &self.graph.nodes[node];
        let fail = |text: &str| Val::Done(Err(crate::qmp::error::QmpError::generic(text)));
        if n.dropped {
            return self.ret(fail("No medium inserted"));
        }
        if size > BDRV_MAX_LENGTH {
            return self.ret(fail(&format!("offset({size}) exceeds maximum({BDRV_MAX_LENGTH})")));
        }
        if !n.flags.rdwr {
            return self.ret(fail("Image is read-only"));
        }
        let old = n.size;
        let new_bytes = size.saturating_sub(old);
        let backing_longer = n.backing.is_some_and(|c| self.graph.nodes[self.graph.bs(c)].size > old);
        let id = self.tracked_begin(node, "truncate", size - new_bytes, new_bytes);
        if new_bytes > 0 {
            self.make_serialising(node, id, 1);
        }
        self.seq([
            Frame::DriverTruncate { node, size, zero: new_bytes > 0 && backing_longer },
            Frame::TruncateEnd { node, size, id },
        ])
    }

    /// The end of `bdrv_co_truncate`.
    pub(in crate::world) fn truncate_end(&mut self, node: NodeId, size: u64, id: u32) -> Flow {
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

/// The lowest number that is not used.
pub(in crate::world) fn lowest_free(used: impl Iterator<Item = u32> + Clone) -> u32 {
    let mask = used.clone().filter(|id| *id < 128).fold(0u128, |mask, id| mask | 1 << id);
    if mask != u128::MAX {
        return mask.trailing_ones();
    }
    (128..).find(|id| used.clone().all(|other| other != *id)).expect("fewer than 2^32 are in use")
}

fn n_has_zeroes(driver: &Driver) -> bool {
    driver.has_pwrite_zeroes()
}
