//! Servers of the simulated host, as far as the process meets them: they answer as `qemu-nbd` does for a raw file.
//!
//! Each request takes its time as one to a device does, so that the order in which replies come is a choice like any other.

use super::NbdFrame;
use super::link::LinkPhase;
use crate::base::errno::{Errno, Ret};
use crate::block::content::Data;
use crate::host::network::{NbdServer, ServerState};
use crate::host::{Frozen, HostOp};
use crate::nbd::{
    Checked, Extents, Handshake, HandshakeStep, Header, Limits, NbdMode, Offer, Payload, Request, chunk_done,
    chunk_error, chunk_hole, chunk_read, chunk_status, cmd, cmd_flag, flag, meta, simple, what_comes,
};
use crate::qmp::types::SocketAddress;
use crate::world::World;
use crate::world::aio::device::DeviceOp;
use crate::world::aio::queue::Ctx;
use crate::world::arena::LinkId;
use crate::world::arena::NodeId;
use crate::world::frame::{Flow, Frame};
use std::sync::Arc;

/// What it takes to connect, and to have a short request answered, in nanoseconds.
const TRIP: u64 = 100_000;

/// A server's end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Until the client has chosen an export, it gets what is read.
    handshake: Handshake,
    /// The client has chosen the export.
    chosen: bool,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum RemoteFrame {
    RemoteDials(LinkId),
    RemoteAccepts(LinkId),
    RemoteServes(LinkId, Box<(Request, Vec<u8>)>),
    RemoteAnswers(LinkId, Box<(Request, Vec<u8>)>),
}

impl From<RemoteFrame> for Frame {
    fn from(frame: RemoteFrame) -> Frame {
        Frame::Nbd(NbdFrame::Remote(frame))
    }
}

impl RemoteFrame {
    /// Runs the frame.
    pub(super) fn run(self, w: &mut World) -> Flow {
        match self {
            RemoteFrame::RemoteDials(link) => {
                w.push(RemoteFrame::RemoteAccepts(link).into());
                w.remote_takes(link, TRIP)
            }
            RemoteFrame::RemoteAccepts(link) => w.remote_accepts(link),
            RemoteFrame::RemoteServes(link, asked) => {
                let per_kib = if matches!(asked.0.kind, cmd::READ | cmd::WRITE) { asked.0.len / 1024 * 100 } else { 0 };
                w.push(RemoteFrame::RemoteAnswers(link, asked).into());
                w.remote_takes(link, TRIP + per_kib)
            }
            RemoteFrame::RemoteAnswers(link, asked) => w.remote_answers(link, &asked.0, &asked.1),
        }
    }
}

/// Under which name the host knows the server that listens there.
fn key(address: &SocketAddress) -> Arc<str> {
    match address {
        SocketAddress::Unix { path, .. } => path.clone(),
        SocketAddress::Inet { host, port, .. } => format!("{host}:{port}").into(),
        SocketAddress::Fd { name, .. } => name.clone(),
        SocketAddress::Other(what) => (*what).into(),
    }
}

impl World {
    /// Lets time pass in which a server, or the way to it, is busy.
    fn remote_takes(&mut self, link: LinkId, nanos: u64) -> Flow {
        match self.links.get(link).map(|socket| socket.node) {
            Some(node) => self.device_submit(node, DeviceOp::Nothing, 0, nanos),
            None => Flow::Go,
        }
    }

    /// Somebody connects.
    pub(super) fn remote_dial(&mut self, link: LinkId) {
        let co = self.co_create([RemoteFrame::RemoteDials(link).into()]);
        self.aio_co_schedule(Ctx::Main, co);
    }

    fn remote_of(&self, link: LinkId) -> Option<&NbdServer> {
        let socket = self.links.get(link)?;
        self.files
            .nbd_server(&key(&socket.address))
            .filter(|server| matches!(server.state, ServerState::Up | ServerState::Stalled))
    }

    /// The server accepts a connection, if there is one.
    fn remote_accepts(&mut self, link: LinkId) -> Flow {
        self.take_val();
        let Some(socket) = self.links.get(link).filter(|socket| socket.phase == LinkPhase::Dials) else {
            return Flow::Go;
        };
        let shown = key(&socket.address);
        let answer = match (self.files.nbd_server(&shown).map(|server| server.state), &socket.address) {
            (Some(ServerState::Up | ServerState::Stalled), _) => Ok(()),
            (Some(ServerState::Killed), _) | (_, SocketAddress::Inet { .. }) => Err(Errno::ECONNREFUSED),
            _ => Err(Errno::ENOENT),
        };
        if answer.is_ok()
            && let Some(socket) = self.links.get_mut(link)
        {
            socket.remote = Some(Box::default());
            socket.input.extend(Handshake::greeting());
        }
        let answer = answer.map_err(|errno| format!("Failed to connect to '{shown}': {errno}"));
        let connected = answer.is_ok();
        self.link_connected(link, answer);
        if connected && self.remote_of(link).is_some_and(|server| server.state == ServerState::Up) {
            self.link_arrived(link);
        }
        Flow::Go
    }

    /// What the server tells of its export.
    fn remote_offer(&self, server: &NbdServer) -> Offer {
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::CAN_MULTI_CONN | flag::SEND_CACHE;
        flags |= match server.read_only {
            true => flag::READ_ONLY,
            false => flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO,
        };
        let length = self.files.size(&server.file);
        let (size, alignment) = if server.exact { (length, 0) } else { (length.next_multiple_of(512), 1) };
        Offer {
            id: 0,
            name: server.export.clone(),
            description: None,
            size,
            flags,
            alignment,
            max_transfer: 32 << 20,
            allocation_depth: false,
            bitmaps: Vec::new(),
        }
    }

    /// The server reads what it was sent, unless it stalls.
    pub(super) fn remote_pump(&mut self, link: LinkId) {
        let Some(server) = self.remote_of(link).filter(|server| server.state == ServerState::Up).cloned() else {
            return;
        };
        let offer = self.remote_offer(&server);
        let mut sent = Vec::new();
        let mut requests = Vec::new();
        {
            let Some(socket) = self.links.get_mut(link) else { return };
            let Some(remote) = &mut socket.remote else { return };
            while !remote.chosen {
                match remote.handshake.step(&socket.output, std::slice::from_ref(&offer), &mut sent) {
                    HandshakeStep::Went(n) => drop(socket.output.drain(..n)),
                    HandshakeStep::Chosen(n, _) => {
                        socket.output.drain(..n);
                        remote.chosen = true;
                    }
                    HandshakeStep::More => break,
                    HandshakeStep::Ends(_) => {
                        socket.ended = true;
                        break;
                    }
                }
            }
            let mode = remote.handshake.mode;
            let limits = Limits { mode, flags: offer.flags, size: offer.size };
            let contexts = remote.handshake.contexts.count as usize;
            while remote.chosen && socket.output.len() >= Header::len(mode) {
                let (mut request, _) = Header::parse(mode, &socket.output);
                let checked = what_comes(&mut request, limits, contexts);
                let Some(payload) = payload_of(&checked, &socket.output[Header::len(mode)..]) else { break };
                socket.output.drain(..Header::len(mode) + payload.len());
                if request.kind == cmd::DISC {
                    socket.ended = true;
                    break;
                }
                requests.push((request, payload));
            }
            socket.input.extend(&sent);
        }
        for asked in requests {
            let co = self.co_create([RemoteFrame::RemoteServes(link, Box::new(asked)).into()]);
            self.aio_co_schedule(Ctx::Main, co);
        }
        if !sent.is_empty() {
            self.link_arrived(link);
        }
    }

    /// The server carries out a request and answers.
    fn remote_answers(&mut self, link: LinkId, request: &Request, payload: &[u8]) -> Flow {
        self.take_val();
        let Some(server) = self.remote_of(link).cloned() else { return Flow::Go };
        if server.state == ServerState::Stalled {
            // It would answer if it went on.
            self.remote_holds(link, request, payload);
            return Flow::Go;
        }
        let Some(mode) = self.links.get(link).and_then(|socket| Some(socket.remote.as_ref()?.handshake.mode)) else {
            return Flow::Go;
        };
        let bytes = match request.kind {
            cmd::READ => self.remote_reads(&server, mode, request),
            cmd::BLOCK_STATUS => self.remote_status(&server, mode, request),
            _ => {
                let ret = self.remote_changes(&server, request, payload);
                match ret {
                    Err((errno, text)) if mode >= NbdMode::Structured => chunk_error(mode, request, errno, text),
                    Err((errno, _)) => simple(request, Some(errno)),
                    Ok(()) if mode == NbdMode::Extended => chunk_done(mode, request),
                    Ok(()) => simple(request, None),
                }
            }
        };
        if let Some(socket) = self.links.get_mut(link).filter(|socket| !socket.ended) {
            socket.input.extend(&bytes);
        }
        self.link_arrived(link);
        Flow::Go
    }

    /// A server that stalls finds the request when it goes on.
    fn remote_holds(&mut self, link: LinkId, request: &Request, payload: &[u8]) {
        let Some(socket) = self.links.get_mut(link) else { return };
        let mode = socket.remote.as_ref().map(|remote| remote.handshake.mode).unwrap_or_default();
        let mut bytes = crate::nbd::request_bytes(mode, request);
        bytes.extend(payload);
        socket.output.extend(bytes);
    }

    fn remote_verdict(&mut self, server: &NbdServer, op: &HostOp) -> Ret {
        if self.files.has_rules() { self.files.verdict(&server.file, op) } else { Ok(()) }
    }

    /// A read: what is a hole of the file is told as one.
    fn remote_reads(&mut self, server: &NbdServer, mode: NbdMode, request: &Request) -> Vec<u8> {
        let (offset, len) = (request.from, request.len);
        if let Err(errno) = self.remote_verdict(server, &HostOp::Read(offset, len)) {
            return match mode {
                NbdMode::Structured | NbdMode::Extended => {
                    chunk_error(mode, request, errno, "reading from file failed")
                }
                _ => simple(request, Some(errno)),
            };
        }
        if mode < NbdMode::Structured {
            let mut bytes = simple(request, None);
            bytes.extend(self.files.pread(&server.file, offset, len).to_bytes());
            return bytes;
        }
        let (mut bytes, mut at) = (Vec::new(), 0);
        while at < len {
            let (data, run) = self.files.status(&server.file, offset + at, len - at);
            let run = run.clamp(1, len - at);
            let last = at + run == len;
            bytes.extend(match data {
                true => {
                    let data = self.files.pread(&server.file, offset + at, run).to_bytes();
                    chunk_read(mode, request, offset + at, &data, last)
                }
                false => chunk_hole(mode, request, offset + at, run, last),
            });
            at += run;
        }
        bytes
    }

    /// Block status: data, or a hole that reads as zeroes.
    fn remote_status(&mut self, server: &NbdServer, mode: NbdMode, request: &Request) -> Vec<u8> {
        let mut extents = Extents::new(request.flags & cmd_flag::REQ_ONE != 0, mode);
        let mut at = 0;
        while at < request.len {
            let (data, run) = self.files.status(&server.file, request.from + at, request.len - at);
            let run = run.clamp(1, request.len - at);
            if !extents.add(run, if data { 0 } else { 3 }) {
                break;
            }
            at += run;
        }
        chunk_status(mode, request, meta::BASE_ALLOCATION, &extents, true)
    }

    /// What changes the file, and flushes.
    fn remote_changes(
        &mut self,
        server: &NbdServer,
        request: &Request,
        payload: &[u8],
    ) -> Result<(), (Errno, &'static str)> {
        let (offset, bytes) = (request.from, request.len);
        let unmap = request.flags & cmd_flag::NO_HOLE == 0 && server.unmaps;
        let file = server.file.clone();
        let (op, text) = match request.kind {
            cmd::WRITE => {
                let tag = self.new_nbd_writer(request);
                (HostOp::Write(offset, Data::bytes(payload.into(), tag)), "writing to file failed")
            }
            cmd::WRITE_ZEROES => (HostOp::Zero { offset, bytes, unmap }, "writing to file failed"),
            cmd::TRIM if server.unmaps => (HostOp::Punch(offset, bytes), "discard failed"),
            cmd::FLUSH => (HostOp::Flush, "flush failed"),
            _ => return Ok(()),
        };
        self.remote_verdict(server, &op).map_err(|errno| (errno, text))?;
        match op {
            HostOp::Write(offset, data) => self.files.pwrite(&file, offset, &data),
            HostOp::Zero { offset, bytes, .. } => self.files.zero(&file, offset, bytes),
            HostOp::Punch(offset, bytes) => self.files.punch(&file, offset, bytes),
            _ => {}
        }
        Ok(())
    }

    fn new_nbd_writer(&mut self, request: &Request) -> crate::block::content::WriteTag {
        self.writers.change().push(format!("write over NBD at {}+{}", request.from, request.len).into());
        crate::block::content::WriteTag(u32::try_from(self.writers.len()).expect("few writers"))
    }

    /// A server starts, stalls, goes on, or is gone.
    pub fn nbd_server_changed(&mut self, address: &str) {
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| *key(&link.address) == *address).map(|(id, _)| id).collect();
        let state = self.files.nbd_server(address).map(|server| server.state);
        for link in links {
            match state {
                Some(ServerState::Up) => {
                    self.link_arrived(link);
                    self.remote_pump(link);
                }
                Some(ServerState::Stalled) => {}
                _ => {
                    if self.links.get(link).is_some_and(|link| link.remote.is_some()) {
                        self.link_hang_up(link);
                    }
                }
            }
        }
    }
}

/// What stands behind a header, if all of it came.
fn payload_of(checked: &Checked, rest: &[u8]) -> Option<Vec<u8>> {
    let length = match checked.payload {
        Payload::Data(len) | Payload::Dropped(len) | Payload::Contexts(len) => len,
        Payload::None | Payload::Unread => 0,
    };
    rest.get(..usize::try_from(length).ok()?).map(<[u8]>::to_vec)
}

impl World {
    /// What the file of a server of the simulated host reads as.
    pub(in crate::world::block::driver) fn nbd_frozen(&self, node: NodeId) -> Frozen {
        let Some(nbd) = self.nbd(node) else { return Frozen::Unknown };
        let server = self.files.nbd_server(&key(&nbd.config.server)).filter(|_| !self.files.is_connected());
        let path = server.map(|server| server.file.clone());
        match path.and_then(|path| Some((path.clone(), self.files.get(&path)?.clone()))) {
            Some((path, file)) => Frozen::File { path, file },
            None => Frozen::Unknown,
        }
    }
}
