//! The `nbd` driver: a node whose data another server has (`block/nbd.c`).
//!
//! [`link`] is the socket, [`connect`] what QEMU's helper thread does (`nbd/client-connection.c`), [`request`] the requests and the state
//! of the connection. In a scenario the other end is a server on the simulated host, which [`remote`] plays.

pub mod connect;
pub mod link;
pub mod remote;
pub mod request;

use super::Driver;
use crate::base::errno::Errno;
use crate::base::units::{SECTOR, align_down};
use crate::block::content::Data;
use crate::nbd::{ExportInfo, NbdMode, cmd, cmd_flag, flag};
use crate::qmp::error::QmpError;
use crate::qmp::types::SocketAddress;
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::aio::timer::TimerKind;
use crate::world::arena::{CoId, LinkId, NodeId};
use crate::world::block::driver::rows::ZeroSupport;
use crate::world::block::filename::{Described, filename};
use crate::world::block::graph::BlockLimits;
use crate::world::block::io::request::{IoFlags, WriteReq};
use crate::world::frame::{Flow, Frame};
use crate::world::value::{BlockStatus, Val};
use connect::Connection;
use remote::RemoteFrame;
use request::{NbdRequest, Slot};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a node was told of its server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NbdConfig {
    /// `server`
    pub server: SocketAddress,
    /// `export`
    pub export: Option<Arc<str>>,
    /// `x-dirty-bitmap`
    pub x_dirty_bitmap: Option<Arc<str>>,
    /// `tls-creds`
    pub tls_creds: Option<Arc<str>>,
    /// `reconnect-delay`, in seconds.
    pub reconnect_delay: u32,
    /// `open-timeout`, in seconds.
    pub open_timeout: u32,
}

/// `NBDClientState`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientState {
    /// `NBD_CLIENT_CONNECTING_WAIT`: requests wait for a new connection.
    ConnectingWait,
    /// `NBD_CLIENT_CONNECTING_NOWAIT`: they fail unless there is one.
    ConnectingNowait,
    /// `NBD_CLIENT_CONNECTED`
    Connected,
    /// `NBD_CLIENT_QUIT`: they fail for ever.
    Quit,
}

/// `BDRVNBDState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NbdDriver {
    /// How it was opened.
    pub config: NbdConfig,
    /// What the server says of the export.
    pub info: ExportInfo,
    /// How things stand with the connection.
    pub state: ClientState,
    /// `requests`: those that were sent, by their cookies.
    pub requests: [Option<Box<Slot>>; MAX_REQUESTS],
    /// `in_flight`: those that have a place, sent or not.
    pub in_flight: u32,
    /// `free_sema`: coroutines that wait for a place, oldest first.
    pub free_sema: VecDeque<CoId>,
    /// Which request reads replies (`receive_mutex`).
    pub reader: Option<usize>,
    /// `ioc`
    pub link: Option<LinkId>,
    /// A bottom half will look at what came.
    pub looks: bool,
    /// `conn`
    pub conn: Connection,
}

/// `MAX_NBD_REQUESTS`
pub const MAX_REQUESTS: usize = 16;

/// The frames of this folder: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum NbdFrame {
    NbdCoDoEstablishConnection { node: NodeId, blocking: bool },
    NbdConnected(NodeId),
    NbdCoSendRequest(Box<NbdRequest>),
    NbdReconnectAttempt(NodeId),
    NbdReconnectAttempted(NodeId),
    NbdReconnected(Box<NbdRequest>),
    NbdReplied { asked: Box<NbdRequest>, slot: usize },
    NbdStatusDone { node: NodeId, offset: u64, want_zero: bool },
    Remote(RemoteFrame),
}

impl NbdFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            NbdFrame::NbdCoDoEstablishConnection { node, blocking } => w.nbd_do_establish_connection(node, blocking),
            NbdFrame::NbdConnected(node) => w.nbd_connected(node),
            NbdFrame::NbdCoSendRequest(asked) => w.nbd_co_send_request(asked),
            NbdFrame::NbdReconnectAttempt(node) => w.nbd_reconnect_attempt(node),
            NbdFrame::NbdReconnectAttempted(node) => w.nbd_reconnect_attempted(node),
            NbdFrame::NbdReconnected(asked) => w.nbd_reconnected(asked),
            NbdFrame::NbdReplied { asked, slot } => w.nbd_request_replied(asked, slot),
            NbdFrame::NbdStatusDone { node, offset, want_zero } => w.nbd_status_done(node, offset, want_zero),
            NbdFrame::Remote(frame) => frame.run(w),
        }
    }
}

impl NbdDriver {
    /// A node that is not connected.
    fn new(config: NbdConfig) -> NbdDriver {
        NbdDriver {
            config,
            info: ExportInfo::default(),
            state: ClientState::ConnectingWait,
            requests: Default::default(),
            in_flight: 0,
            free_sema: VecDeque::new(),
            reader: None,
            link: None,
            looks: false,
            conn: Connection::default(),
        }
    }

    /// Whether the server offers this.
    pub(in crate::world) fn offers(&self, bit: u16) -> bool {
        self.info.flags & bit != 0
    }

    /// `nbd_refresh_limits`. `whole_sectors`: a server that says nothing of block sizes is asked for whole sectors, whatever it tells of
    /// its blocks.
    #[must_use]
    pub fn limits(&self, whole_sectors: bool) -> BlockLimits {
        let info = &self.info;
        let min = match info.min_block {
            0 if whole_sectors => SECTOR,
            0 if !info.size.is_multiple_of(SECTOR) || info.context.is_some() => 1,
            0 => SECTOR,
            min => u64::from(min),
        };
        let max = match info.max_block {
            0 => crate::nbd::MAX_BUFFER_SIZE,
            max => u64::from(max).min(crate::nbd::MAX_BUFFER_SIZE),
        };
        let extended = info.mode == NbdMode::Extended;
        BlockLimits {
            request_alignment: min,
            max_pdiscard: if extended { 0 } else { align_down(u64::from(i32::MAX.unsigned_abs()), min) },
            max_pwrite_zeroes: if extended { 0 } else { max },
            max_transfer: max,
            ..BlockLimits::default()
        }
    }

    /// `nbd_refresh_filename`; empty where no name says it.
    fn exact_filename(&self) -> String {
        match (&self.config.server, &self.config.export) {
            (SocketAddress::Unix { path, .. }, Some(export)) => format!("nbd+unix:///{export}?socket={path}"),
            (SocketAddress::Unix { path, .. }, None) => format!("nbd+unix://?socket={path}"),
            (SocketAddress::Inet { more, .. }, _) if !more.fits_in_a_name() => String::new(),
            (SocketAddress::Inet { host, port, .. }, Some(export)) => format!("nbd://{host}:{port}/{export}"),
            (SocketAddress::Inet { host, port, .. }, None) => format!("nbd://{host}:{port}"),
            (SocketAddress::Fd { .. } | SocketAddress::Other(_), _) => String::new(),
        }
    }
}

impl World {
    /// The `nbd` driver of a node.
    pub(in crate::world) fn nbd_mut(&mut self, node: NodeId) -> Option<&mut NbdDriver> {
        match self.graph.nodes.get_mut(node)?.driver.as_mut()? {
            Driver::Nbd(nbd) => Some(nbd),
            _ => None,
        }
    }

    /// `nbd_refresh_filename`
    pub(super) fn nbd_refresh_filename(&self, node: NodeId, _: Described<'_>) -> Arc<str> {
        self.nbd(node).map_or_else(|| "".into(), |nbd| filename(nbd.exact_filename()))
    }

    /// Those that the server has.
    pub(super) fn nbd_zero_flags(&self, node: NodeId) -> ZeroSupport {
        let offers = |flag| self.nbd(node).is_some_and(|nbd| nbd.offers(flag));
        let may_unmap = offers(flag::SEND_WRITE_ZEROES);
        ZeroSupport { may_unmap, no_fallback: may_unmap && offers(flag::SEND_FAST_ZERO) }
    }

    /// The same, to be looked at.
    pub(in crate::world) fn nbd(&self, node: NodeId) -> Option<&NbdDriver> {
        match self.graph.nodes.get(node)?.driver.as_ref()? {
            Driver::Nbd(nbd) => Some(nbd),
            _ => None,
        }
    }

    /// `nbd_open`, up to the connection. Leaves `Val::Done`.
    pub(in crate::world) fn nbd_open(&mut self, node: NodeId, config: &NbdConfig) -> Flow {
        let fail = |text: &str| Val::Done(Err(QmpError::generic(text)));
        if let SocketAddress::Other(what) = &config.server {
            return self.ret(fail(&format!("not simulated: {what}")));
        }
        let too_long = |name: Option<&Arc<str>>| name.is_some_and(|n| n.len() > crate::nbd::MAX_STRING_SIZE);
        if too_long(config.export.as_ref()) {
            return self.ret(fail("export name too long to send to server"));
        }
        if let Some(id) = &config.tls_creds {
            let text = match self.machine.object(id) {
                Some(_) => format!("Object with id '{id}' is not TLS credentials"),
                None => format!("No TLS credentials with id '{id}'"),
            };
            return self.ret(fail(&text));
        }
        if too_long(config.x_dirty_bitmap.as_ref()) {
            return self.ret(fail("x-dirty-bitmap query too long to send to server"));
        }
        let mut config = config.clone();
        match self.named_socket(&config.server) {
            Ok(server) => config.server = server,
            Err(error) => return self.ret(Val::Done(Err(error))),
        }
        let open_timeout = config.open_timeout;
        let mut driver = NbdDriver::new(config);
        driver.conn.do_retry = open_timeout > 0;
        self.graph.nodes[node].driver = Some(Driver::Nbd(Box::new(driver)));
        if open_timeout > 0 {
            let timeout = crate::base::time::Span::from_secs(open_timeout.into());
            self.timer_set(self.now + timeout, TimerKind::NbdOpen(node));
        }
        let establish = NbdFrame::NbdCoDoEstablishConnection { node, blocking: true };
        self.seq([Frame::RunCo(Box::new(establish.into()))])
    }

    /// The end of `nbd_open`.
    pub(in crate::world) fn nbd_opened(&mut self, node: NodeId) {
        if !self.quirks.has(Quirk::NbdOpenTimerOutlives) {
            self.timer_del(TimerKind::NbdOpen(node));
        }
        if let Some(nbd) = self.nbd_mut(node) {
            nbd.conn.do_retry = true;
        }
    }

    /// `nbd_clear_bdrvstate`, and the connection if there is one: the server is told, and nobody waits any more.
    pub(in crate::world) fn nbd_close(&mut self, node: NodeId) {
        self.timer_del(TimerKind::NbdRetry(node));
        let timers = [
            (TimerKind::NbdOpen(node), Quirk::NbdOpenTimerOutlives),
            (TimerKind::NbdDelay(node), Quirk::NbdReconnectTimerOutlives),
        ];
        for (kind, outlives) in timers {
            if !self.quirks.has(outlives) {
                self.timer_del(kind);
            }
        }
        let Some(nbd) = self.nbd_mut(node) else { return };
        nbd.state = ClientState::Quit;
        let mode = nbd.info.mode;
        let link = nbd.link.take();
        let others = [nbd.conn.link.take(), nbd.conn.found.take().map(|found| found.0)];
        nbd.conn = Connection::default();
        if let Some(link) = link {
            let goodbye = crate::nbd::Request { kind: cmd::DISC, ..crate::nbd::Request::default() };
            let _ = self.link_send(link, &crate::nbd::request_bytes(mode, &goodbye));
            self.link_close(link);
        }
        for link in others.into_iter().flatten() {
            self.link_close(link);
        }
    }

    /// `nbd_client_co_preadv`
    pub(super) fn nbd_preadv(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let size = self.nbd(node).map_or(0, |nbd| nbd.info.size);
        if bytes == 0 || offset >= size {
            return self.ret(Val::Data(Ok(Data::zeroes(bytes))));
        }
        // The block layer counts in sectors: what it takes to be behind the end reads as zeroes.
        let mut asked = NbdRequest::new(node, cmd::READ, offset, bytes.min(size - offset));
        asked.slop = bytes - asked.request.len;
        self.seq([NbdFrame::NbdCoSendRequest(Box::new(asked)).into()])
    }

    /// `nbd_client_co_pwritev`
    pub(super) fn nbd_pwritev(&mut self, req: &WriteReq) -> Flow {
        if req.bytes == 0 {
            return self.ret(Val::Ret(Ok(())));
        }
        let mut asked = NbdRequest::new(req.node, cmd::WRITE, req.offset, req.bytes);
        asked.data.clone_from(&req.data);
        if req.flags.has(IoFlags::FUA) {
            asked.request.flags |= cmd_flag::FUA;
        }
        self.seq([NbdFrame::NbdCoSendRequest(Box::new(asked)).into()])
    }

    /// `nbd_client_co_pwrite_zeroes`
    pub(super) fn nbd_pwrite_zeroes(&mut self, req: &WriteReq) -> Flow {
        if !self.nbd(req.node).is_some_and(|nbd| nbd.offers(flag::SEND_WRITE_ZEROES)) {
            return self.ret(Val::err(Errno::ENOTSUP));
        }
        if req.bytes == 0 {
            return self.ret(Val::Ret(Ok(())));
        }
        let mut asked = NbdRequest::new(req.node, cmd::WRITE_ZEROES, req.offset, req.bytes);
        for (bit, on) in [
            (cmd_flag::FUA, req.flags.has(IoFlags::FUA)),
            (cmd_flag::NO_HOLE, !req.flags.has(IoFlags::MAY_UNMAP)),
            (cmd_flag::FAST_ZERO, req.flags.has(IoFlags::NO_FALLBACK)),
        ] {
            asked.request.flags |= if on { bit } else { 0 };
        }
        self.seq([NbdFrame::NbdCoSendRequest(Box::new(asked)).into()])
    }

    /// `nbd_client_co_flush`, `nbd_client_co_pdiscard`
    pub(super) fn nbd_simple(&mut self, node: NodeId, kind: u16, offset: u64, bytes: u64) -> Flow {
        let bit = if kind == cmd::FLUSH { flag::SEND_FLUSH } else { flag::SEND_TRIM };
        let offered = self.nbd(node).is_some_and(|nbd| nbd.offers(bit));
        if !offered || (kind == cmd::TRIM && bytes == 0) {
            return self.ret(Val::Ret(Ok(())));
        }
        self.seq([NbdFrame::NbdCoSendRequest(Box::new(NbdRequest::new(node, kind, offset, bytes))).into()])
    }

    /// `nbd_client_co_block_status`, or what the block-status cache has, as for every protocol driver.
    pub(super) fn nbd_block_status(&mut self, node: NodeId, offset: u64, bytes: u64, want_zero: bool) -> Flow {
        let status = |data, pnum| BlockStatus { data, map: Some(offset), pnum, ..BlockStatus::default() };
        if let Some((start, end)) = self.graph.nodes[node].block_status_cache
            && (start..end).contains(&offset)
        {
            return self.ret(Val::Status(Ok(status(true, end - offset))));
        }
        let align = self.graph.nodes[node].bl.request_alignment;
        let Some(info) = self.nbd(node).map(|nbd| nbd.info.clone()) else {
            return self.ret(Val::Status(Err(Errno::EIO)));
        };
        self.push(NbdFrame::NbdStatusDone { node, offset, want_zero }.into());
        if info.context.is_none() {
            return self.ret(Val::Status(Ok(status(true, bytes))));
        }
        if offset >= info.size {
            return self.ret(Val::Status(Ok(BlockStatus { zero: true, pnum: bytes, ..BlockStatus::default() })));
        }
        let mut length = bytes.min(info.size - offset);
        if info.mode < NbdMode::Extended {
            length = length.min(align_down(u64::from(i32::MAX.unsigned_abs()), align));
        }
        let mut asked = NbdRequest::new(node, cmd::BLOCK_STATUS, offset, length);
        asked.request.flags = cmd_flag::REQ_ONE;
        asked.status_of = bytes;
        self.seq([NbdFrame::NbdCoSendRequest(Box::new(asked)).into()])
    }

    /// `bdrv_co_do_block_status`, where it fills the cache.
    fn nbd_status_done(&mut self, node: NodeId, offset: u64, want_zero: bool) -> Flow {
        let align = self.graph.nodes[node].bl.request_alignment.max(1);
        if let Val::Status(Ok(status)) = self.peek()
            && !status.pnum.is_multiple_of(align)
        {
            let subject = format!("node {}", self.graph.nodes[node].node_name);
            Self::qemu_aborts(subject, "bdrv_co_do_block_status: *pnum is no multiple of the alignment");
        }
        if let Val::Status(Ok(status)) = self.peek()
            && want_zero
            && (status.data, status.zero, status.map.is_some()) == (true, false, true)
        {
            let end = offset + status.pnum;
            self.graph.nodes[node].block_status_cache = Some((offset, end));
        }
        Flow::Go
    }

    /// `nbd_co_truncate`: it changes nothing. Nobody asks for an exact length here, so that being shorter is none of its errors.
    pub(super) fn nbd_truncate(&mut self, node: NodeId, size: u64) -> Flow {
        let now = self.nbd(node).map_or(0, |nbd| nbd.info.size);
        let grown = || QmpError::generic("Cannot grow NBD nodes").with_errno(Errno::EINVAL);
        let done = if size > now { Err(grown()) } else { Ok(()) };
        self.ret(Val::Done(done))
    }

    /// Whether writes of a node with FUA reach its driver (`supported_write_flags`).
    #[must_use]
    pub(in crate::world) fn supports_fua(&self, node: NodeId) -> bool {
        match self.graph.nodes[node].driver.as_ref() {
            Some(Driver::Nbd(nbd)) => nbd.offers(flag::SEND_FUA),
            Some(Driver::Raw(_)) => self.graph.primary_child(node).is_some_and(|c| self.supports_fua(self.graph.bs(c))),
            _ => false,
        }
    }

    /// `bdrv_cancel_in_flight`
    pub(in crate::world) fn bdrv_cancel_in_flight(&mut self, node: NodeId) {
        match self.graph.nodes[node].driver.as_ref() {
            Some(Driver::Nbd(_)) => self.nbd_cancel_in_flight(node),
            Some(Driver::Raw(_)) => {
                if let Some(edge) = self.graph.primary_child(node) {
                    self.bdrv_cancel_in_flight(self.graph.bs(edge));
                }
            }
            _ => {}
        }
    }

    /// `nbd_cancel_in_flight`
    fn nbd_cancel_in_flight(&mut self, node: NodeId) {
        self.timer_del(TimerKind::NbdDelay(node));
        if let Some(nbd) = self.nbd_mut(node)
            && nbd.state == ClientState::ConnectingWait
        {
            nbd.state = ClientState::ConnectingNowait;
        }
        self.nbd_establish_connection_cancel(node);
    }
}
