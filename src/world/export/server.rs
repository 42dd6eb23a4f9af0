//! The NBD server: started, stopped, and connections that are accepted (`blockdev-nbd.c`).

use super::client::{ClientFrame, NbdClient};
use super::{BlockExport, ExportFrame};
use crate::nbd::{MAX_BUFFER_SIZE, Offer};
use crate::qmp::error::QmpError;
use crate::qmp::types::{
    BitmapSource, BlockExportAdd, BlockExportBase, BlockExportNbd, ExportType, NbdServerAdd, NbdServerStart,
    SocketAddress,
};
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::aio::queue::{Bh, Ctx};
use crate::world::aio::step::Cond;
use crate::world::arena::{ConnId, ExportId};
use crate::world::block::open::unsupported::not_simulated;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::collections::VecDeque;
use std::sync::Arc;

/// `NBD_DEFAULT_MAX_CONNECTIONS`
const MAX_CONNECTIONS: u32 = 100;
/// `NBD_DEFAULT_HANDSHAKE_MAX_SECS`
const HANDSHAKE_MAX_SECS: u32 = 10;

/// `NBDServerData`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NbdServer {
    /// Where it listens.
    pub addr: SocketAddress,
    /// Whether it still does: `nbd_server_free` closes the listener first.
    pub listens: bool,
    /// Connections there may be; 0 is any number.
    pub max_connections: u32,
    /// Seconds that a negotiation may take; 0 is any time.
    pub handshake_max_secs: u32,
    /// Connections there are, newest first.
    pub conns: Vec<ConnId>,
    /// Connections that wait to be accepted, oldest first.
    pub backlog: VecDeque<ConnId>,
}

impl NbdServer {
    /// Whether the next connection is accepted.
    fn accepts(&self) -> bool {
        self.listens && (self.max_connections == 0 || self.conns.len() < self.max_connections as usize)
    }
}

/// What the sockets are: simulated ones that can always be made, or those of a real host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketHost {
    /// There is a real host, which is asked to listen.
    real: bool,
    /// Negotiations there have no time limit.
    untimed: bool,
    /// `nbd_server_start` has asked it to listen.
    asked: bool,
    /// What it answered.
    answer: Option<Result<(), Arc<str>>>,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ServerFrame {
    /// `hmp_nbd_server_start -a`: the drives that are still to be exported, and whether clients may write.
    HmpExportAll(Box<(Vec<Arc<str>>, bool)>),
    /// `nbd_server_start`, until the host has answered.
    NbdServerBind(Box<NbdServerStart>),
    /// `nbd_server_free`
    NbdServerFree,
    /// The rest of it, when no connection is left.
    NbdServerFreed,
}

impl From<ServerFrame> for Frame {
    fn from(frame: ServerFrame) -> Frame {
        Frame::Export(ExportFrame::Server(frame))
    }
}

impl ServerFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ServerFrame::NbdServerBind(args) => w.nbd_server_bind(args),
            ServerFrame::HmpExportAll(left) => w.hmp_export_all(left),
            ServerFrame::NbdServerFree => w.nbd_server_free(),
            ServerFrame::NbdServerFreed => {
                w.exports.server = None;
                Flow::Go
            }
        }
    }
}

impl World {
    /// `qmp_nbd_server_start`. Leaves `Val::Done`.
    pub(in crate::world) fn nbd_server_start(&mut self, args: &NbdServerStart) -> Flow {
        if self.exports.server.is_some() {
            return self.ret(Val::Done(Err(QmpError::generic("NBD server already running"))));
        }
        if let SocketAddress::Other(what) = &args.addr {
            return self.ret(Val::Done(Err(not_simulated(what))));
        }
        if let SocketAddress::Inet { host, more, .. } = &args.addr
            && let Err(text) = more.family(host)
        {
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        let addr = match self.named_socket(&args.addr) {
            Ok(addr) => addr,
            Err(error) => return self.ret(Val::Done(Err(error))),
        };
        self.exports.server = Some(NbdServer {
            addr,
            listens: true,
            max_connections: args.max_connections.unwrap_or(MAX_CONNECTIONS),
            handshake_max_secs: args.handshake_max_seconds.unwrap_or(HANDSHAKE_MAX_SECS),
            conns: Vec::new(),
            backlog: VecDeque::new(),
        });
        self.exports.host.asked = self.exports.host.real;
        self.nbd_server_bind(Box::new(args.clone()))
    }

    /// `nbd_server_start`, once the socket is bound or not.
    fn nbd_server_bind(&mut self, args: Box<NbdServerStart>) -> Flow {
        if self.exports.host.asked {
            return self.seq([ServerFrame::NbdServerBind(args).into()]);
        }
        let bound = self.exports.host.answer.take().unwrap_or(Ok(()));
        let done = bound.map_err(QmpError::generic).and_then(|()| match &args.tls_creds {
            None => Ok(()),
            Some(id) if self.machine.object(id).is_some() => {
                Err(QmpError::generic(format!("Object with id '{id}' is not TLS credentials")))
            }
            Some(id) => Err(QmpError::generic(format!("No TLS credentials with id '{id}'"))),
        });
        if done.is_err() {
            self.exports.server = None;
        }
        self.ret(Val::Done(done))
    }

    /// `qmp_nbd_server_add`. Leaves `Val::Done`.
    pub(in crate::world) fn nbd_server_add(&mut self, args: &NbdServerAdd) -> Flow {
        let bs = match self.lookup_bs(&args.device) {
            Ok(bs) => bs,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        let name = args.name.clone().unwrap_or_else(|| args.device.clone());
        let node = &self.graph.nodes[bs];
        let base = BlockExportBase {
            kind: ExportType::Nbd,
            id: name.clone(),
            fixed_iothread: None,
            iothread: None,
            node_name: node.node_name.clone(),
            writable: if node.flags.rdwr { args.writable } else { Some(false) },
            writethrough: None,
            allow_inactive: None,
        };
        let nbd = BlockExportNbd {
            name: Some(name),
            description: args.description.clone(),
            bitmaps: Some(args.bitmap.iter().cloned().map(BitmapSource::Local).collect()),
            allocation_depth: None,
        };
        let export = BlockExportAdd { base, nbd };
        let eject = self.graph.blk_by_name(&args.device);
        self.blk_exp_add(export, eject)
    }

    /// `qmp_nbd_server_stop`. Leaves `Val::Done`.
    pub(in crate::world) fn nbd_server_stop(&mut self) -> Flow {
        if self.exports.server.is_none() {
            return self.ret(Val::Done(Err(QmpError::generic("NBD server not running"))));
        }
        self.seq([
            ExportFrame::CloseAllExports.into(),
            ServerFrame::NbdServerFree.into(),
            Frame::Give(Box::new(Val::Done(Ok(())))),
        ])
    }

    /// `hmp_nbd_server_start`. Leaves `Val::Done`.
    pub(in crate::world) fn nbd_server_start_hmp(&mut self, uri: &str, all: bool, writable: bool) -> Flow {
        if writable && !all {
            return self.ret(Val::Done(Err(QmpError::generic("-w only valid together with -a"))));
        }
        let addr = match SocketAddress::parse(uri).map_err(QmpError::generic) {
            Ok(addr) => addr,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        if all {
            let drives = self.graph.backends.iter().filter(|(_, blk)| !blk.name.is_empty() && blk.root.is_some());
            let mut drives: Vec<Arc<str>> = drives.map(|(_, blk)| blk.name.clone()).collect();
            drives.reverse();
            self.push(ServerFrame::HmpExportAll(Box::new((drives, writable))).into());
        }
        self.nbd_server_start(&NbdServerStart {
            addr,
            handshake_max_seconds: None,
            tls_creds: None,
            tls_authz: None,
            max_connections: None,
        })
    }

    /// The loop of `hmp_nbd_server_start -a`: where one drive fails, the server stops again.
    fn hmp_export_all(&mut self, mut left: Box<(Vec<Arc<str>>, bool)>) -> Flow {
        if let Err(err) = self.take_done() {
            let failed = Frame::Give(Box::new(Val::Done(Err(err))));
            return match self.exports.server {
                Some(_) => self.seq([ExportFrame::CloseAllExports.into(), ServerFrame::NbdServerFree.into(), failed]),
                None => self.seq([failed]),
            };
        }
        let Some(device) = left.0.pop() else { return self.ret(Val::Done(Ok(()))) };
        let writable = Some(left.1);
        self.push(ServerFrame::HmpExportAll(left).into());
        self.nbd_server_add(&NbdServerAdd { name: None, description: None, device, writable, bitmap: None })
    }

    /// `nbd_server_free`: no more connections, and those that there are end.
    fn nbd_server_free(&mut self) -> Flow {
        let forgets = self.quirks.has(Quirk::NbdStopForgetsClients);
        let Some(server) = &mut self.exports.server else { return Flow::Go };
        server.listens = false;
        if forgets {
            server.conns.clear();
        }
        for conn in std::mem::take(&mut server.backlog) {
            self.exports.clients[conn].shut();
        }
        for conn in self.exports.server.as_ref().map(|server| server.conns.clone()).unwrap_or_default() {
            self.client_shutdown(conn);
        }
        self.nbd_wake_shut();
        self.seq([Frame::Poll(Cond::NbdConnections), ServerFrame::NbdServerFreed.into()])
    }

    /// `nbd_accept`
    pub(in crate::world) fn nbd_accept(&mut self) -> Flow {
        let Some(server) = self.exports.server.as_mut().filter(|server| server.accepts()) else { return Flow::Go };
        let Some(conn) = server.backlog.pop_front() else { return Flow::Go };
        server.conns.insert(0, conn);
        let again = server.accepts() && !server.backlog.is_empty();
        let co = self.co_create([ClientFrame::NbdCoClientStart(conn).into()]);
        if again {
            self.aio.iohandler.schedule(Bh::NbdAccept);
        }
        self.co_enter(co, Ctx::Main);
        Flow::Go
    }

    /// `nbd_blockdev_client_closed`, `nbd_update_server_watch`
    pub(super) fn nbd_connection_closed(&mut self, conn: ConnId) {
        if self.exports.server.is_none() {
            Self::qemu_aborts(format!("{conn:?}"), "nbd_blockdev_client_closed: there is no server");
        }
        let Some(server) = &mut self.exports.server else { return };
        server.conns.retain(|listed| *listed != conn);
        if server.accepts() && !server.backlog.is_empty() {
            self.aio.iohandler.schedule(Bh::NbdAccept);
        }
    }

    /// What is told of the exports that have a name.
    pub(super) fn nbd_offers(&self) -> Vec<Offer> {
        let offer = |export: &ExportId| {
            let exp: &BlockExport = &self.exports.exports[*export];
            let bl = self.graph.blk_bs(exp.blk).map(|bs| self.graph.nodes[bs].bl).unwrap_or_default();
            let alignment = u32::try_from(bl.request_alignment.max(1)).unwrap_or(512);
            let most = match bl.max_transfer {
                0 => u64::from(i32::MAX.unsigned_abs()),
                most => most.min(u64::from(i32::MAX.unsigned_abs())),
            };
            let most = most / u64::from(alignment) * u64::from(alignment);
            Offer {
                id: export.0,
                name: exp.name.clone(),
                description: exp.description.clone(),
                size: exp.size,
                flags: exp.flags,
                alignment,
                max_transfer: u32::try_from(most.min(MAX_BUFFER_SIZE)).expect("32 MiB"),
                allocation_depth: exp.allocation_depth,
                bitmaps: exp.bitmaps.iter().map(|bitmap| bitmap.name.clone()).collect(),
            }
        };
        self.exports.named.iter().map(offer).collect()
    }
}

/// What the host's sockets, or simulated clients, do with the server.
impl World {
    /// From now on the server listens on sockets of a real host; negotiations have a time limit there, or not.
    pub fn nbd_on_real_sockets(&mut self, timed: bool) {
        self.exports.host.real = true;
        self.exports.host.untimed = !timed;
    }

    /// Where the host is asked to listen.
    #[must_use]
    pub fn nbd_wants_listener(&self) -> Option<&SocketAddress> {
        self.exports.server.as_ref().filter(|_| self.exports.host.asked).map(|server| &server.addr)
    }

    /// The host listens, or why it does not.
    pub fn nbd_listener(&mut self, answer: Result<(), String>) {
        self.exports.host.asked = false;
        self.exports.host.answer = Some(answer.map_err(Into::into));
    }

    /// Whether negotiations have a time limit.
    pub(super) fn nbd_is_timed(&self) -> bool {
        !self.exports.host.untimed
    }

    /// Whether the step ends because the host is asked.
    pub(in crate::world) fn nbd_asks_host(&self) -> bool {
        self.exports.host.asked
    }

    /// Whether the server has a listening socket.
    #[must_use]
    pub fn nbd_listens(&self) -> bool {
        self.exports.server.as_ref().is_some_and(|server| server.listens)
    }

    /// Somebody connects; `None` where nobody listens.
    pub fn nbd_connect(&mut self) -> Option<ConnId> {
        if !self.nbd_listens() {
            return None;
        }
        let conn = self.exports.clients.insert(NbdClient::default());
        let server = self.exports.server.as_mut().filter(|server| server.listens)?;
        server.backlog.push_back(conn);
        if server.accepts() {
            self.aio.iohandler.schedule(Bh::NbdAccept);
        }
        Some(conn)
    }

    /// Bytes arrive from a client.
    pub fn nbd_receive(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(client) = self.exports.clients.get_mut(conn).filter(|client| !client.is_shut()) else { return };
        client.input.extend(bytes);
        self.nbd_wake_reader(conn);
    }

    /// A client has closed its end.
    pub fn nbd_hang_up(&mut self, conn: ConnId) {
        let Some(client) = self.exports.clients.get_mut(conn) else { return };
        client.hang_up();
        self.nbd_wake_reader(conn);
        self.nbd_wake_writer(conn);
    }

    /// How many more bytes of a client the process takes in: what it does not read stays in the socket.
    #[must_use]
    pub fn nbd_room(&self, conn: ConnId) -> usize {
        self.exports.clients.get(conn).map_or(0, NbdClient::room)
    }

    /// Takes what the process sent to a client.
    pub fn nbd_take(&mut self, conn: ConnId) -> Vec<u8> {
        if self.exports.clients.get(conn).is_none_or(|client| client.output.is_empty()) {
            return Vec::new();
        }
        let bytes = std::mem::take(&mut self.exports.clients[conn].output);
        self.nbd_wake_writer(conn);
        bytes
    }

    /// Whether there is something to take.
    #[must_use]
    pub fn nbd_has_output(&self, conn: ConnId) -> bool {
        self.exports.clients.get(conn).is_some_and(|client| !client.output.is_empty())
    }

    /// Whether the process has closed its end: what it sent before can still be read.
    #[must_use]
    pub fn nbd_is_shut(&self, conn: ConnId) -> bool {
        self.exports.clients.get(conn).is_none_or(NbdClient::is_shut)
    }

    /// Nobody looks at a connection any more. It goes when the process has let it go, too.
    pub fn nbd_forget(&mut self, conn: ConnId) {
        self.nbd_hang_up(conn);
        if let Some(client) = self.exports.clients.get_mut(conn) {
            client.forgotten = true;
            client.output.clear();
        }
        let exports = &mut *self.exports;
        if let Some(server) = &mut exports.server {
            server.backlog.retain(|waiting| *waiting != conn || !exports.clients[conn].is_free());
        }
        self.nbd_free(conn);
    }
}
