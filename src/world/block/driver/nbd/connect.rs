//! How a node comes by its connection: what QEMU's helper thread does (`nbd/client-connection.c`), and the waiting for it
//! (`block/nbd.c:nbd_co_do_establish_connection`).

use super::{ClientState, NbdFrame};
use crate::base::errno::Errno;
use crate::base::time::Span;
use crate::nbd::{ExportInfo, Negotiation, Progress, cmd, flag};
use crate::qmp::error::QmpError;
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::queue::Ctx;
use crate::world::aio::timer::TimerKind;
use crate::world::arena::{CoId, LinkId, NodeId, used_after_free};
use crate::world::frame::Flow;
use crate::world::value::Val;
use std::sync::Arc;

/// The longest sleep between two attempts, in seconds.
const MAX_TIMEOUT: u64 = 16;

/// `NBDClientConnection`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Connection {
    /// The helper thread runs.
    pub running: bool,
    /// It tries again where an attempt fails.
    pub do_retry: bool,
    /// How long it sleeps before the next attempt, in seconds.
    timeout: u64,
    /// The socket that it is about to connect.
    pub link: Option<LinkId>,
    /// What is said over it.
    negotiation: Option<Box<Negotiation>>,
    /// A connection that nobody has taken yet.
    pub found: Option<(LinkId, ExportInfo)>,
    /// Why the last attempt failed.
    err: Option<Arc<str>>,
    /// The coroutine that waits.
    wait_co: Option<CoId>,
}

impl World {
    /// `nbd_co_do_establish_connection`, up to where it waits. Leaves `Val::Done`.
    pub(super) fn nbd_do_establish_connection(&mut self, node: NodeId, blocking: bool) -> Flow {
        let co = self.current();
        let Some(nbd) = self.nbd_mut(node) else { return self.ret(Val::err(Errno::EIO)) };
        if !nbd.conn.running {
            if nbd.conn.found.is_some() {
                return self.nbd_take_connection(node);
            }
            (nbd.conn.running, nbd.conn.timeout) = (true, 1);
            self.nbd_connect_attempt(node);
        }
        let conn = &mut self.nbd_mut(node).expect("it was there").conn;
        if !blocking {
            let text = conn.err.clone().unwrap_or_else(|| "No connection at the moment".into());
            return self.ret(Val::Done(Err(QmpError::generic(&*text).with_errno(Errno::ECONNREFUSED))));
        }
        conn.wait_co = Some(co);
        self.push(NbdFrame::NbdConnected(node).into());
        Flow::Yield(Wait::Queue("the connection to an NBD server"))
    }

    /// `nbd_co_establish_connection`, when it goes on.
    pub(super) fn nbd_connected(&mut self, node: NodeId) -> Flow {
        let Some(nbd) = self.nbd_mut(node) else { return self.ret(Val::err(Errno::EIO)) };
        let cancelled = nbd.conn.running.then(|| Arc::from("Connection attempt cancelled by timeout"));
        match nbd.conn.err.clone().or(cancelled) {
            Some(text) => self.ret(Val::Done(Err(QmpError::generic(&*text).with_errno(Errno::ECONNREFUSED)))),
            None => self.nbd_take_connection(node),
        }
    }

    /// `nbd_co_do_establish_connection`, with a connection.
    fn nbd_take_connection(&mut self, node: NodeId) -> Flow {
        let nbd = self.nbd_mut(node).expect("it has a connection");
        let (link, info) = nbd.conn.found.take().expect("the thread has found one");
        nbd.info = info;
        if let Err(errno) = self.nbd_handle_updated_info(node) {
            let mode = self.nbd(node).map(|nbd| nbd.info.mode).unwrap_or_default();
            let goodbye = crate::nbd::Request { kind: cmd::DISC, ..crate::nbd::Request::default() };
            let _ = self.link_send(link, &crate::nbd::request_bytes(mode, &goodbye));
            self.link_close(link);
            return self.ret(Val::Done(Err(QmpError::generic("").with_errno(errno))));
        }
        let nbd = self.nbd_mut(node).expect("it was there");
        (nbd.link, nbd.state, nbd.reader) = (Some(link), ClientState::Connected, None);
        self.ret(Val::Done(Ok(())))
    }

    /// `nbd_handle_updated_info`
    fn nbd_handle_updated_info(&mut self, node: NodeId) -> Result<(), Errno> {
        let nbd = self.nbd(node).expect("it has a connection");
        let read_only = nbd.offers(flag::READ_ONLY);
        if nbd.config.x_dirty_bitmap.is_some() && nbd.info.context.is_none() {
            return Err(Errno::EINVAL);
        }
        let flags = &mut self.graph.nodes[node].flags;
        if read_only && flags.rdwr {
            if !flags.auto_read_only {
                return Err(Errno::EACCES);
            }
            flags.rdwr = false;
        }
        Ok(())
    }

    /// `connect_thread_func`: one more attempt.
    pub(in crate::world) fn nbd_connect_attempt(&mut self, node: NodeId) {
        let Some(nbd) = self.nbd_mut(node).filter(|nbd| nbd.conn.running) else { return };
        let config = &nbd.config;
        let export = config.export.clone().unwrap_or_default();
        let negotiation = Negotiation::new(&export, config.x_dirty_bitmap.as_ref());
        let address = config.server.clone();
        nbd.conn.negotiation = Some(Box::new(negotiation));
        let link = self.link_dial(node, address);
        if let Some(nbd) = self.nbd_mut(node) {
            nbd.conn.link = Some(link);
        }
    }

    /// An attempt has failed.
    pub(super) fn nbd_connect_failed(&mut self, node: NodeId, link: LinkId, text: String) {
        let Some(nbd) = self.nbd_mut(node).filter(|nbd| nbd.conn.link == Some(link)) else { return };
        let conn = &mut nbd.conn;
        (conn.link, conn.negotiation, conn.err) = (None, None, Some(text.into()));
        if conn.do_retry {
            let sleep = Span::from_secs(conn.timeout);
            conn.timeout = if conn.timeout < MAX_TIMEOUT { conn.timeout * 2 } else { conn.timeout };
            self.timer_set(self.now + sleep, TimerKind::NbdRetry(node));
        } else {
            self.nbd_thread_ends(node);
        }
        self.link_close(link);
    }

    fn nbd_thread_ends(&mut self, node: NodeId) {
        let Some(nbd) = self.nbd_mut(node) else { return };
        nbd.conn.running = false;
        if let Some(co) = nbd.conn.wait_co.take() {
            // From another thread, a coroutine is entered by its context.
            self.aio_co_schedule(Ctx::Main, co);
        }
    }

    /// `nbd_receive_negotiate`, as far as the bytes go that are there.
    pub(super) fn nbd_negotiates(&mut self, node: NodeId) {
        loop {
            let Some(nbd) = self.nbd_mut(node) else { return };
            let (Some(link), Some(mut negotiation)) = (nbd.conn.link, nbd.conn.negotiation.take()) else { return };
            let mut out = Vec::new();
            let socket = &mut self.links[link];
            let progress = negotiation.step(socket.input.make_contiguous(), &mut out);
            let (ended, cut_off) = (socket.ended, negotiation.cut_off(socket.input.make_contiguous()));
            if let Progress::Went(used) | Progress::Done(used) = progress {
                socket.input.drain(..used);
            }
            let info = negotiation.info.clone();
            if !matches!(progress, Progress::Failed(_)) {
                self.nbd_mut(node).expect("it was there").conn.negotiation = Some(negotiation);
            }
            if !out.is_empty() {
                let _ = self.link_send(link, &out);
            }
            match progress {
                Progress::Went(_) => {}
                Progress::More if ended => return self.nbd_connect_failed(node, link, cut_off),
                Progress::More => return,
                Progress::Failed(text) => return self.nbd_connect_failed(node, link, text),
                Progress::Done(_) => {
                    let conn = &mut self.nbd_mut(node).expect("it was there").conn;
                    (conn.link, conn.negotiation, conn.err) = (None, None, None);
                    conn.found = Some((link, info));
                    return self.nbd_thread_ends(node);
                }
            }
        }
    }

    /// `nbd_co_establish_connection_cancel`: whoever waits goes on, the thread as well.
    pub(super) fn nbd_establish_connection_cancel(&mut self, node: NodeId) {
        if let Some(co) = self.nbd_mut(node).and_then(|nbd| nbd.conn.wait_co.take()) {
            self.aio_co_wake(co);
        }
    }

    /// The helper thread has slept.
    pub(in crate::world) fn nbd_retry_timer(&mut self, node: NodeId) {
        if !self.nbd_stands_still(node) {
            self.nbd_connect_attempt(node);
        }
    }

    /// Whether nothing is done about the connection as the node is drained.
    fn nbd_stands_still(&self, node: NodeId) -> bool {
        let drained = self.graph.nodes.get(node).is_some_and(|node| node.quiesce_counter > 0);
        drained && self.quirks.has(Quirk::NbdReconnectSleepsInDrain)
    }

    /// `open_timer_cb`
    pub(in crate::world) fn nbd_open_timer(&mut self, node: NodeId) {
        if self.graph.nodes.get(node).is_none() {
            used_after_free(&node);
        }
        self.nbd_establish_connection_cancel(node);
    }

    /// `reconnect_delay_timer_cb`
    pub(in crate::world) fn nbd_delay_timer(&mut self, node: NodeId) {
        if self.graph.nodes.get(node).is_none() {
            used_after_free(&node);
        }
        if self.nbd_stands_still(node) {
            return;
        }
        let Some(nbd) = self.nbd_mut(node).filter(|nbd| nbd.state == ClientState::ConnectingWait) else { return };
        nbd.state = ClientState::ConnectingNowait;
        self.nbd_establish_connection_cancel(node);
    }
}
