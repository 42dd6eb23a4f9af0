//! A client of the NBD server: its socket, its negotiation, and the coroutines that read its requests (`nbd/server.c`).

use super::ExportFrame;
use super::trip::TripFrame;
use crate::base::time::Span;
use crate::nbd::{Handshake, HandshakeStep, NbdMode};
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::queue::{Bh, Ctx};
use crate::world::aio::timer::TimerKind;
use crate::world::arena::{BackendId, CoId, ConnId, ExportId};
use crate::world::frame::{Flow, Frame};
use std::collections::VecDeque;

/// `MAX_NBD_REQUESTS`
pub const MAX_REQUESTS: u32 = 16;
/// What a socket holds before whoever writes to it must wait.
const SOCKET_BUFFER: usize = 212_992;
/// What is taken in of a client whose requests wait: the longest of them.
const INPUT_ROOM: usize = 33 << 20;

/// `NBDClient`, and the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NbdClient {
    /// What was agreed on.
    pub handshake: Handshake,
    /// What came and was not read yet.
    pub input: VecDeque<u8>,
    /// What was sent and not taken yet.
    pub output: Vec<u8>,
    /// The client sends no more.
    ended: bool,
    /// The process has shut the socket down.
    shut: bool,
    /// Nobody looks at the socket any more.
    pub forgotten: bool,
    /// Its export, once it has negotiated.
    pub export: Option<ExportId>,
    /// References: the server's, and one of each request.
    refs: u32,
    /// `closing`
    pub closing: bool,
    /// `quiescing`: no further requests are read.
    pub quiescing: bool,
    /// `nb_requests`
    pub nb_requests: u32,
    /// `recv_coroutine`: it reads the next request.
    pub recv: Option<CoId>,
    /// The coroutine that waits for bytes.
    reader: Option<CoId>,
    /// `read_yielding`: it waits for the header of a request.
    pub read_yielding: bool,
    /// What is there of a header that did not come in one piece.
    pub header: Vec<u8>,
    /// `send_lock` is held.
    pub send_locked: bool,
    /// Coroutines that wait for it, oldest first.
    pub send_waiters: Vec<CoId>,
    /// The coroutine that waits for room in the socket.
    writer: Option<CoId>,
    /// It was never accepted, or has been let go.
    begun: bool,
}

impl NbdClient {
    /// What was agreed on about replies.
    #[must_use]
    pub fn mode(&self) -> NbdMode {
        self.handshake.mode
    }

    /// The socket is shut down.
    pub(super) fn shut(&mut self) {
        self.shut = true;
        self.input.clear();
    }

    /// Whether it is.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.shut
    }

    /// The client sends no more.
    pub(super) fn hang_up(&mut self) {
        self.ended = true;
    }

    /// Whether no byte comes any more.
    #[must_use]
    pub fn at_eof(&self) -> bool {
        self.ended || self.shut
    }

    /// How many bytes are taken in.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.shut { 0 } else { INPUT_ROOM.saturating_sub(self.input.len()) }
    }

    /// Whether the process knows nothing of it.
    pub(super) fn is_free(&self) -> bool {
        !self.begun
    }

    /// Whether what is written is lost.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.shut || self.forgotten
    }

    /// Whether who waits to write goes on: there is room, or the client is gone. That the process has shut the socket down does not wake it:
    /// a unix socket whose peer has not read is not writable then, either.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.forgotten || self.output.len() < SOCKET_BUFFER
    }
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ClientFrame {
    NbdCoClientStart(ConnId),
    NbdNegotiate(ConnId),
}

impl From<ClientFrame> for Frame {
    fn from(frame: ClientFrame) -> Frame {
        Frame::Export(ExportFrame::Client(frame))
    }
}

impl ClientFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ClientFrame::NbdCoClientStart(conn) => w.nbd_co_client_start(conn),
            ClientFrame::NbdNegotiate(conn) => w.nbd_negotiate(conn),
        }
    }
}

impl World {
    /// `nbd_co_client_start`
    fn nbd_co_client_start(&mut self, conn: ConnId) -> Flow {
        let seconds = self.exports.server.as_ref().map_or(0, |server| server.handshake_max_secs);
        let timed = seconds > 0 && self.nbd_is_timed();
        let client = &mut self.exports.clients[conn];
        (client.refs, client.begun) = (1, true);
        client.output.extend(Handshake::greeting());
        if timed {
            self.timer_set(self.now + Span::from_secs(u64::from(seconds)), TimerKind::NbdHandshake(conn));
        }
        self.nbd_negotiate(conn)
    }

    /// `nbd_negotiate_options`, option by option.
    fn nbd_negotiate(&mut self, conn: ConnId) -> Flow {
        loop {
            if !self.exports.clients[conn].writable() {
                return self.wait_to_write(conn, ClientFrame::NbdNegotiate(conn).into());
            }
            let offers = self.nbd_offers();
            let client = &mut self.exports.clients[conn];
            let mut out = Vec::new();
            let step = client.handshake.step(client.input.make_contiguous(), &offers, &mut out);
            if !client.is_broken() {
                client.output.extend(out);
            }
            match step {
                HandshakeStep::Went(n) => drop(client.input.drain(..n)),
                HandshakeStep::More if client.at_eof() => {
                    let text = client.handshake.cut_off(client.input.make_contiguous());
                    return self.negotiation_fails(conn, text);
                }
                HandshakeStep::More => return self.wait_to_read(conn, ClientFrame::NbdNegotiate(conn).into()),
                HandshakeStep::Ends(text) => return self.negotiation_fails(conn, text),
                HandshakeStep::Chosen(n, export) => {
                    client.input.drain(..n);
                    let export = ExportId(offers[export].id);
                    client.export = Some(export);
                    let exp = &mut self.exports.exports[export];
                    exp.clients.push(conn);
                    exp.refcount += 1;
                    self.timer_del(TimerKind::NbdHandshake(conn));
                    self.receive_next_request(conn);
                    return Flow::Go;
                }
            }
        }
    }

    fn negotiation_fails(&mut self, conn: ConnId, text: Option<String>) -> Flow {
        if let Some(text) = text {
            self.error_report(&text);
        }
        self.timer_del(TimerKind::NbdHandshake(conn));
        self.client_close(conn);
        Flow::Go
    }

    /// Yields until bytes come, or the end of them.
    pub(super) fn wait_to_read(&mut self, conn: ConnId, then: Frame) -> Flow {
        let co = self.current();
        self.exports.clients[conn].reader = Some(co);
        self.exports.readers.push(conn);
        self.push(then);
        Flow::Yield(Wait::Queue("bytes of an NBD client"))
    }

    /// Yields until the client has read.
    pub(super) fn wait_to_write(&mut self, conn: ConnId, then: Frame) -> Flow {
        let co = self.current();
        self.exports.clients[conn].writer = Some(co);
        self.push(then);
        Flow::Yield(Wait::Queue("an NBD client to read"))
    }

    /// Something can be read: the coroutine that waits for it goes on in the next round.
    pub(super) fn nbd_wake_reader(&mut self, conn: ConnId) {
        if let Some(co) = self.nbd_take_reader(conn) {
            self.aio_co_schedule(Ctx::Main, co);
        }
    }

    fn nbd_take_reader(&mut self, conn: ConnId) -> Option<CoId> {
        self.exports.readers.retain(|waits| *waits != conn);
        self.exports.clients.get_mut(conn)?.reader.take()
    }

    /// Whoever reads from a socket that was shut down finds its end: in the order in which they began to wait, and not in that in which the
    /// sockets were shut down.
    pub(super) fn nbd_wake_shut(&mut self) {
        for conn in self.exports.readers.clone() {
            if self.exports.clients.get(conn).is_some_and(NbdClient::is_shut) {
                self.nbd_wake_reader(conn);
            }
        }
    }

    pub(super) fn nbd_wake_writer(&mut self, conn: ConnId) {
        let client = &mut self.exports.clients[conn];
        if client.writable()
            && let Some(co) = client.writer.take()
        {
            self.aio_co_schedule(Ctx::Main, co);
        }
    }

    /// `qio_channel_shutdown`: whoever writes finds the end; whoever reads is still to be woken ([`nbd_wake_shut`](World::nbd_wake_shut)).
    pub(super) fn client_shutdown(&mut self, conn: ConnId) {
        self.exports.clients[conn].shut();
        self.nbd_wake_writer(conn);
    }

    /// `nbd_handshake_timer_cb`
    pub(in crate::world) fn nbd_handshake_timer(&mut self, conn: ConnId) {
        if self.exports.clients.get(conn).is_some() {
            self.client_shutdown(conn);
            self.nbd_wake_shut();
        }
    }

    /// `client_close`
    pub(super) fn client_close(&mut self, conn: ConnId) {
        self.client_close_unwoken(conn);
        self.nbd_wake_shut();
    }

    /// The same; whoever reads from it is still to be woken.
    pub(super) fn client_close_unwoken(&mut self, conn: ConnId) {
        let client = &mut self.exports.clients[conn];
        if client.closing {
            return;
        }
        client.closing = true;
        self.client_shutdown(conn);
        self.nbd_connection_closed(conn);
        self.nbd_client_put(conn);
    }

    /// `nbd_client_put`
    pub(super) fn nbd_client_put(&mut self, conn: ConnId) {
        let client = &mut self.exports.clients[conn];
        assert!(client.refs > 0, "{conn:?} has no reference left");
        client.refs -= 1;
        if client.refs > 0 {
            return;
        }
        assert!(client.closing, "{conn:?} goes and was not closed");
        client.begun = false;
        if let Some(export) = client.export.take() {
            self.exports.exports[export].clients.retain(|listed| *listed != conn);
            self.blk_exp_unref(export);
        }
        self.nbd_free(conn);
    }

    /// Forgets a connection that neither end knows any more.
    pub(super) fn nbd_free(&mut self, conn: ConnId) {
        let waits = |server: &super::server::NbdServer| server.backlog.contains(&conn);
        let free = self.exports.clients.get(conn).is_some_and(|client| client.forgotten && client.is_free());
        if free && !self.exports.server.as_ref().is_some_and(waits) {
            self.exports.clients.remove(conn);
        }
    }

    /// `nbd_client_receive_next_request`
    pub(super) fn receive_next_request(&mut self, conn: ConnId) {
        let client = &mut self.exports.clients[conn];
        if client.recv.is_some() || client.nb_requests >= MAX_REQUESTS || client.quiescing {
            return;
        }
        client.refs += 1;
        client.nb_requests += 1;
        let co = self.co_create([TripFrame::NbdTrip(conn).into()]);
        self.exports.clients[conn].recv = Some(co);
        self.aio_co_schedule(Ctx::Main, co);
    }

    /// `nbd_drained_begin`
    pub(in crate::world) fn nbd_drained_begin(&mut self, blk: BackendId) {
        for conn in self.clients_of(blk) {
            self.exports.clients[conn].quiescing = true;
        }
    }

    /// `nbd_drained_end`
    pub(in crate::world) fn nbd_drained_end(&mut self, blk: BackendId) {
        for conn in self.clients_of(blk) {
            self.exports.clients[conn].quiescing = false;
            self.receive_next_request(conn);
        }
    }

    fn clients_of(&self, blk: BackendId) -> Vec<ConnId> {
        let export = self.graph.backends.get(blk).and_then(|backend| backend.export);
        export.map(|export| self.exports.exports[export].clients.clone()).unwrap_or_default()
    }

    /// `nbd_drained_poll`, without its bottom halves.
    #[must_use]
    pub(in crate::world) fn nbd_drained_poll(&self, blk: BackendId) -> bool {
        let Some(export) = self.graph.backends[blk].export else { return false };
        self.exports.exports[export].clients.iter().any(|conn| self.exports.clients[*conn].nb_requests != 0)
    }

    /// The bottom halves of `nbd_drained_poll`: coroutines that wait for a request are woken, as it may never come.
    pub(in crate::world) fn nbd_wake_quiescing(&mut self) {
        for export in self.exports.list.clone() {
            let busy = |conn: &&ConnId| self.exports.clients[**conn].nb_requests != 0;
            let Some(conn) = self.exports.exports[export].clients.iter().find(busy).copied() else { continue };
            let client = &self.exports.clients[conn];
            if client.quiescing && client.recv.is_some() && client.read_yielding && client.reader.is_some() {
                self.bh_schedule(Bh::NbdWakeRead(conn));
            }
        }
    }

    /// `nbd_wake_read_bh`
    pub(in crate::world) fn nbd_wake_read(&mut self, conn: ConnId) {
        if let Some(co) = self.nbd_take_reader(conn) {
            self.aio_co_wake(co);
        }
    }
}
