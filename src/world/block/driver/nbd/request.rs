//! Requests of an `nbd` node: sent, answered, and sent again over a new connection (`block/nbd.c:nbd_co_request`).
//!
//! In QEMU the coroutines of the requests read the replies by turns. Here a bottom half takes what came apart and enters the
//! coroutine of each request that is answered; the order in which they go on is the same.

use super::{ClientState, MAX_REQUESTS, NbdFrame};
use crate::base::errno::{Errno, Ret};
use crate::base::time::Span;
use crate::block::content::{Data, WriteTag};
use crate::nbd::{self, Chunk, NbdMode, Reply, Request, cmd, errno_from_wire, next_reply, request_bytes};
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::queue::{Bh, Ctx};
use crate::world::aio::timer::TimerKind;
use crate::world::arena::{CoId, LinkId, NodeId};
use crate::world::frame::Flow;
use crate::world::value::{BlockStatus, Val};

/// A request on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NbdRequest {
    /// The nbd node whose connection it goes over.
    pub node: NodeId,
    /// What is asked.
    pub request: Request,
    /// What is written.
    pub data: Option<Data>,
    /// Bytes behind the end of the export, which read as zeroes.
    pub slop: u64,
    /// Of how many bytes block status is wanted.
    pub status_of: u64,
}

impl NbdRequest {
    /// A request without flags.
    pub(super) fn new(node: NodeId, kind: u16, from: u64, len: u64) -> NbdRequest {
        let request = Request { kind, from, len, ..Request::default() };
        NbdRequest { node, request, data: None, slop: 0, status_of: 0 }
    }
}

/// A request that was sent (`NBDClientRequest`), and what came for it so far (`NBDReplyChunkIter`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    co: CoId,
    request: Request,
    /// The bytes of a read.
    data: Vec<u8>,
    /// The first extent of block status.
    extent: Option<(u64, u64)>,
    /// Further replies must be chunks.
    only_structured: bool,
    /// `request_ret`: what the server says.
    refused: Option<Errno>,
    /// `ret`: the connection is no use.
    broken: Option<Errno>,
}

/// What is done with the reply at the front.
enum Next {
    /// It is not there yet, and may come.
    Wait,
    /// Nothing comes any more.
    Ended,
    /// It makes no sense: no request is sent over this connection again.
    Nonsense,
    /// It is one for the request in this place, and so long.
    For(usize, Reply, usize),
}

impl World {
    /// `nbd_co_send_request`
    pub(super) fn nbd_co_send_request(&mut self, asked: Box<NbdRequest>) -> Flow {
        let co = self.current();
        let node = asked.node;
        let Some(nbd) = self.nbd_mut(node) else { return self.ret(failed(&asked.request, Errno::EIO)) };
        let connected = nbd.state == ClientState::Connected;
        if nbd.in_flight as usize == MAX_REQUESTS || (!connected && nbd.in_flight > 0) {
            nbd.free_sema.push_back(co);
            self.push(NbdFrame::NbdCoSendRequest(asked).into());
            return Flow::Yield(Wait::Queue("a place among the requests to an NBD server"));
        }
        nbd.in_flight += 1;
        match nbd.state {
            ClientState::Connected => self.nbd_send(asked),
            ClientState::Quit => self.nbd_send_failed(asked, None),
            _ => self.seq([NbdFrame::NbdReconnectAttempt(node).into(), NbdFrame::NbdReconnected(asked).into()]),
        }
    }

    /// `nbd_reconnect_attempt`
    pub(super) fn nbd_reconnect_attempt(&mut self, node: NodeId) -> Flow {
        let nbd = self.nbd_mut(node).expect("a request is under way");
        assert!(nbd.in_flight == 1, "{node:?} reconnects with {} requests in flight", nbd.in_flight);
        let blocking = nbd.state == ClientState::ConnectingWait;
        let delay = Span::from_secs(nbd.config.reconnect_delay.into());
        let old = nbd.link.take();
        if blocking && !self.timer_pending(TimerKind::NbdDelay(node)) {
            self.timer_set(self.now + delay, TimerKind::NbdDelay(node));
        }
        if let Some(old) = old {
            self.link_close(old);
        }
        self.seq([
            NbdFrame::NbdCoDoEstablishConnection { node, blocking }.into(),
            NbdFrame::NbdReconnectAttempted(node).into(),
        ])
    }

    /// Its end, and `qemu_co_queue_restart_all`.
    pub(super) fn nbd_reconnect_attempted(&mut self, node: NodeId) -> Flow {
        self.take_val();
        if !self.quirks.has(Quirk::NbdReconnectTimerOutlives) {
            self.timer_del(TimerKind::NbdDelay(node));
        }
        let waiting = self.nbd_mut(node).map(|nbd| std::mem::take(&mut nbd.free_sema)).unwrap_or_default();
        for co in waiting {
            self.aio_co_wake(co);
        }
        Flow::Go
    }

    /// `nbd_co_send_request`, after the attempt.
    pub(super) fn nbd_reconnected(&mut self, asked: Box<NbdRequest>) -> Flow {
        if self.nbd(asked.node).is_some_and(|nbd| nbd.state == ClientState::Connected) {
            return self.nbd_send(asked);
        }
        self.nbd_send_failed(asked, None)
    }

    /// `nbd_co_send_request`, over the connection that there is.
    fn nbd_send(&mut self, mut asked: Box<NbdRequest>) -> Flow {
        let co = self.current();
        let node = asked.node;
        let nbd = self.nbd_mut(node).expect("it is connected");
        let slot = nbd.requests.iter().position(Option::is_none).expect("a place is free");
        asked.request.cookie = slot as u64 + 1;
        let (mode, link) = (nbd.info.mode, nbd.link.expect("it is connected"));
        let request = asked.request;
        let data = if request.kind == cmd::READ {
            vec![0; usize::try_from(request.len).unwrap_or_default()]
        } else {
            Vec::new()
        };
        nbd.requests[slot] = Some(Box::new(Slot {
            co,
            request,
            data,
            extent: None,
            only_structured: mode >= NbdMode::Structured && request.kind == cmd::READ,
            refused: None,
            broken: None,
        }));
        nbd.reader.get_or_insert(slot);
        let mut bytes = request_bytes(mode, &request);
        if let Some(data) = &asked.data {
            bytes.extend(data.to_bytes());
        }
        if self.link_send(link, &bytes).is_err() {
            return self.nbd_send_failed(asked, Some(slot));
        }
        self.push(NbdFrame::NbdReplied { asked, slot }.into());
        self.nbd_look(node);
        Flow::Yield(Wait::Queue("the reply of an NBD server"))
    }

    /// `nbd_co_send_request`, at `err`.
    fn nbd_send_failed(&mut self, asked: Box<NbdRequest>, slot: Option<usize>) -> Flow {
        self.nbd_channel_error(asked.node, Errno::EIO);
        if let Some(slot) = slot {
            self.nbd_slot_goes(asked.node, slot);
        }
        self.nbd_place_free(asked.node);
        self.nbd_again(asked, Errno::EIO)
    }

    /// The end of the loop of `nbd_co_request` where the connection failed.
    fn nbd_again(&mut self, asked: Box<NbdRequest>, errno: Errno) -> Flow {
        // `nbd_client_will_reconnect`
        if self.nbd(asked.node).is_some_and(|nbd| nbd.state == ClientState::ConnectingWait) {
            return self.seq([NbdFrame::NbdCoSendRequest(asked).into()]);
        }
        self.ret(failed(&asked.request, errno))
    }

    /// `nbd_channel_error`
    fn nbd_channel_error(&mut self, node: NodeId, errno: Errno) {
        let Some(nbd) = self.nbd_mut(node) else { return };
        let connected = nbd.state == ClientState::Connected;
        let link = nbd.link.filter(|_| connected);
        if errno != Errno::EIO {
            nbd.state = ClientState::Quit;
        } else if connected {
            nbd.state = match nbd.config.reconnect_delay {
                0 => ClientState::ConnectingNowait,
                _ => ClientState::ConnectingWait,
            };
        }
        if let Some(link) = link {
            self.link_shutdown(link);
        }
    }

    /// A place has become free: the oldest who waits for one goes on (`qemu_co_queue_next`).
    fn nbd_place_free(&mut self, node: NodeId) {
        let Some(nbd) = self.nbd_mut(node) else { return };
        nbd.in_flight -= 1;
        if let Some(co) = nbd.free_sema.pop_front() {
            self.aio_co_wake(co);
        }
    }

    /// A request is not waited for any more. If it was the one that read replies, the first of the others does that now.
    fn nbd_slot_goes(&mut self, node: NodeId, slot: usize) -> Option<Box<Slot>> {
        let nbd = self.nbd_mut(node)?;
        let gone = nbd.requests[slot].take();
        nbd.reader = nbd.requests.iter().position(Option::is_some);
        gone
    }

    /// Something came, or somebody began to wait: a bottom half looks at what is there.
    pub(super) fn nbd_look(&mut self, node: NodeId) {
        let Some(nbd) = self.nbd(node) else { return };
        let Some(socket) = nbd.link.and_then(|link| self.links.get(link)) else { return };
        let waiting = nbd.requests.iter().any(Option::is_some);
        if waiting && !nbd.looks && (socket.ended || !socket.input.is_empty()) {
            self.nbd_mut(node).expect("it was there").looks = true;
            self.bh_schedule(Bh::NbdReplies(node));
        }
    }

    /// `nbd_receive_replies`: takes what came apart, as far as it goes.
    pub(in crate::world) fn nbd_replies(&mut self, node: NodeId) {
        if let Some(nbd) = self.nbd_mut(node) {
            nbd.looks = false;
        }
        while let Some(link) = self.nbd(node).filter(|nbd| nbd.reader.is_some()).and_then(|nbd| nbd.link) {
            match self.nbd_next(node, link) {
                Next::Wait => return,
                Next::Ended => {
                    self.nbd_channel_error(node, Errno::EIO);
                    self.nbd_reader_fails(node);
                }
                Next::Nonsense => {
                    self.nbd_channel_error(node, Errno::EINVAL);
                    self.nbd_reader_fails(node);
                }
                Next::For(slot, reply, used) => self.nbd_reply(node, link, slot, reply, used),
            }
        }
    }

    /// What stands at the front of what came.
    fn nbd_next(&mut self, node: NodeId, link: LinkId) -> Next {
        let Some(socket) = self.links.get_mut(link) else { return Next::Ended };
        let ended = socket.ended;
        let more = if ended { Next::Ended } else { Next::Wait };
        let input = socket.input.make_contiguous();
        let (reply, head) = match next_reply(input) {
            Ok(None) => return more,
            Ok(Some(found)) => found,
            Err(_) => return Next::Nonsense,
        };
        let there = input.len();
        let Some(nbd) = self.nbd(node) else { return Next::Ended };
        let slot = usize::try_from(reply.cookie().wrapping_sub(1)).unwrap_or(usize::MAX);
        let Some(Some(asked)) = nbd.requests.get(slot) else { return Next::Nonsense };
        let payload = match reply {
            Reply::Chunk { .. } if nbd.info.mode < NbdMode::Structured => return Next::Nonsense,
            Reply::Chunk { length, .. } => length,
            Reply::Simple { error: 0, .. } if !asked.only_structured => asked.data.len(),
            Reply::Simple { .. } => 0,
        };
        if there < head + payload { more } else { Next::For(slot, reply, head) }
    }

    /// The request that reads the replies finds that none comes.
    fn nbd_reader_fails(&mut self, node: NodeId) {
        let Some(nbd) = self.nbd_mut(node) else { return };
        let Some(slot) = nbd.reader else { return };
        if let Some(waiting) = nbd.requests[slot].as_mut() {
            waiting.broken = Some(Errno::EIO);
        }
        self.nbd_wake(node, slot);
    }

    /// A request has all that it gets.
    fn nbd_wake(&mut self, node: NodeId, slot: usize) {
        let Some(nbd) = self.nbd_mut(node) else { return };
        let Some(waiting) = &nbd.requests[slot] else { return };
        let co = waiting.co;
        // Its place is free once it goes on; who reads meanwhile is the first of the others.
        let others = nbd.requests.iter().enumerate().find(|(i, other)| *i != slot && other.is_some());
        nbd.reader = others.map(|(i, _)| i);
        self.co_enter(co, Ctx::Main);
    }

    /// `nbd_co_do_receive_one_chunk`, and what the request makes of it.
    fn nbd_reply(&mut self, node: NodeId, link: LinkId, slot: usize, reply: Reply, head: usize) {
        let x_depth = self.nbd(node).and_then(|nbd| nbd.config.x_dirty_bitmap.as_deref()) == Some(DEPTH);
        let socket = &mut self.links[link];
        let payload = match reply {
            Reply::Chunk { length, .. } => length,
            Reply::Simple { .. } => 0,
        };
        let mut bytes: Vec<u8> = socket.input.drain(..head + payload).skip(head).collect();
        let Some(nbd) = self.nbd_mut(node) else { return };
        let (context, align) = (nbd.info.context, nbd.info.min_block);
        let Some(waiting) = nbd.requests[slot].as_mut() else { return };
        let (done, broken) = match reply {
            Reply::Simple { .. } if waiting.only_structured => (true, true),
            Reply::Simple { error, .. } => {
                waiting.refused = waiting.refused.or(errno_from_wire(error));
                let length = if error == 0 { waiting.data.len() } else { 0 };
                bytes = self.links[link].input.drain(..length).collect();
                if let Some(waiting) = self.nbd_mut(node).and_then(|nbd| nbd.requests[slot].as_mut())
                    && length > 0
                {
                    waiting.data = bytes;
                }
                (true, false)
            }
            Reply::Chunk { done, kind, .. } => {
                waiting.only_structured = true;
                let status =
                    (waiting.request.kind == cmd::BLOCK_STATUS).then_some((context.unwrap_or_default(), align));
                let read = (waiting.request.kind == cmd::READ).then_some(waiting.data.len());
                match nbd::take_chunk(kind, done, &bytes, &waiting.request, read, status) {
                    Err(_) => (true, true),
                    Ok(chunk) => (done, !waiting.take(chunk, x_depth)),
                }
            }
        };
        if broken {
            if let Some(waiting) = self.nbd_mut(node).and_then(|nbd| nbd.requests[slot].as_mut()) {
                waiting.broken = Some(Errno::EINVAL);
            }
            self.nbd_channel_error(node, Errno::EINVAL);
        }
        if done || broken {
            self.nbd_wake(node, slot);
        }
    }

    /// The coroutine of a request goes on with what came for it.
    pub(super) fn nbd_request_replied(&mut self, asked: Box<NbdRequest>, slot: usize) -> Flow {
        let node = asked.node;
        let reader = self.nbd(node).and_then(|nbd| nbd.reader);
        let waited = self.nbd_slot_goes(node, slot);
        if let Some(nbd) = self.nbd_mut(node) {
            nbd.reader = reader;
        }
        self.nbd_place_free(node);
        let Some(waited) = waited else { return self.ret(failed(&asked.request, Errno::EIO)) };
        let no_extent = asked.request.kind == cmd::BLOCK_STATUS && waited.extent.is_none() && waited.refused.is_none();
        match waited.broken.or(no_extent.then_some(Errno::EIO)) {
            Some(errno) => self.nbd_again(asked, errno),
            None => {
                // Nobody whom the world knows wrote what another server sends.
                self.ret(answer(&asked, &waited, WriteTag(0)))
            }
        }
    }
}

/// The context whose flags are depths.
const DEPTH: &str = "qemu:allocation-depth";

impl Slot {
    /// Takes what a chunk holds. False where there may be no such chunk.
    fn take(&mut self, chunk: Chunk<'_>, depth: bool) -> bool {
        match chunk {
            Chunk::None => {}
            Chunk::Data(at, bytes) => self.data[at..at + bytes.len()].copy_from_slice(bytes),
            Chunk::Hole(at, length) => self.data[at..at + length].fill(0),
            Chunk::Error(errno) => self.refused = self.refused.or(Some(errno)),
            Chunk::Status(..) if self.extent.is_some() => return false,
            Chunk::Status(length, flags) => {
                // Depths beyond the second are all the same to who asks for two bits.
                self.extent = Some((length, if depth { flags.min(2) } else { flags }));
            }
        }
        true
    }
}

/// The result of a request that failed.
fn failed(request: &Request, errno: Errno) -> Val {
    match request.kind {
        cmd::READ => Val::Data(Err(errno)),
        cmd::BLOCK_STATUS => Val::Status(Err(errno)),
        _ => Val::err(errno),
    }
}

/// The result of a request that was answered.
fn answer(asked: &NbdRequest, waited: &Slot, tag: WriteTag) -> Val {
    if let Some(errno) = waited.refused {
        return failed(&asked.request, errno);
    }
    match asked.request.kind {
        cmd::READ => {
            let mut data = as_data(&waited.data, tag);
            data.append(&Data::zeroes(asked.slop));
            Val::Data(Ok(data))
        }
        cmd::BLOCK_STATUS => {
            let (length, flags) = waited.extent.unwrap_or_default();
            let map = Some(asked.request.from);
            let pnum = length.min(asked.status_of);
            Val::Status(Ok(BlockStatus {
                data: flags & 1 == 0,
                zero: flags & 2 != 0,
                map,
                pnum,
                ..BlockStatus::default()
            }))
        }
        _ => {
            let ret: Ret = Ok(());
            Val::Ret(ret)
        }
    }
}

/// Bytes as data: in runs where they are all alike.
fn as_data(bytes: &[u8], tag: WriteTag) -> Data {
    const PIECE: usize = 4096;
    let mut data = Data::new();
    for piece in bytes.chunks(PIECE) {
        let first = piece[0];
        if piece.iter().all(|byte| *byte == first) {
            let length = piece.len() as u64;
            data.append(&if first == 0 { Data::zeroes(length) } else { Data::pattern(first, length, tag) });
        } else {
            data.append(&Data::bytes(piece.into(), tag));
        }
    }
    data
}
