//! The sockets of the NBD server: bytes of clients go to the world, and what it sends goes back.

use super::chardev::{listen_private, plain};
use crate::qmp::types::SocketAddress;
use crate::world::World;
use crate::world::arena::ConnId;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// A client's socket.
#[derive(Debug)]
struct Socket {
    conn: ConnId,
    fd: OwnedFd,
    /// What the world sent and the socket did not take yet, from that byte on.
    out: (Vec<u8>, usize),
    /// The client sends no more.
    ended: bool,
    /// The client has gone.
    gone: bool,
}

/// The listening socket, and those of the clients.
#[derive(Debug, Default)]
pub(super) struct NbdSockets {
    listener: Option<OwnedFd>,
    /// To be removed when the server stops.
    path: Option<String>,
    sockets: Vec<Socket>,
    /// Something was taken from the world since somebody asked: who waited for room in a socket goes on.
    took: bool,
}

/// What a descriptor of a poll is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NbdSource {
    /// Somebody connects.
    Listener,
    /// The client of this number.
    Client(usize),
}

impl NbdSockets {
    /// To be called before each step of the world: listens if it wants that.
    pub(super) fn before_step(&mut self, world: &mut World) {
        let Some(address) = world.nbd_wants_listener() else { return };
        let bound = match address {
            SocketAddress::Unix { is_abstract: true, .. } => Err("not simulated: abstract sockets".to_owned()),
            SocketAddress::Unix { path, .. } => listen_private(path)
                .map(|listener| (listener.into(), Some(path.to_string())))
                .map_err(|error| format!("Failed to bind socket to {path}: {}", plain(&error))),
            SocketAddress::Inet { host, port } => TcpListener::bind((&**host, port.parse().unwrap_or(0)))
                .map(|listener| (listener.into(), None))
                .map_err(|error| format!("Failed to bind socket: {}", plain(&error))),
            SocketAddress::Other(what) => Err(format!("not simulated: {what}")),
        };
        let answer = bound.map(|(listener, path): (OwnedFd, Option<String>)| {
            let _ = rustix::io::ioctl_fionbio(&listener, true);
            (self.listener, self.path) = (Some(listener), path);
        });
        world.nbd_listener(answer);
    }

    /// What to wait for.
    pub(super) fn sources(&self, world: &World) -> Vec<(NbdSource, BorrowedFd<'_>, PollFlags)> {
        let mut sources = Vec::new();
        if let Some(listener) = &self.listener {
            sources.push((NbdSource::Listener, listener.as_fd(), PollFlags::IN));
        }
        for (i, socket) in self.sockets.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if !socket.ended && world.nbd_room(socket.conn) > 0 {
                flags |= PollFlags::IN;
            }
            if socket.out.1 < socket.out.0.len() {
                flags |= PollFlags::OUT;
            }
            if !flags.is_empty() {
                sources.push((NbdSource::Client(i), socket.fd.as_fd(), flags));
            }
        }
        sources
    }

    /// Takes in what is there. Whether the world has more to do.
    pub(super) fn ready(&mut self, world: &mut World, source: NbdSource) -> bool {
        match source {
            NbdSource::Listener => self.accept(world),
            NbdSource::Client(i) => self.read(world, i),
        }
    }

    fn accept(&mut self, world: &mut World) -> bool {
        let Some(listener) = &self.listener else { return false };
        let Ok(fd) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            return false;
        };
        let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
        let Some(conn) = world.nbd_connect() else { return false };
        self.sockets.push(Socket { conn, fd, out: (Vec::new(), 0), ended: false, gone: false });
        true
    }

    fn read(&mut self, world: &mut World, i: usize) -> bool {
        let Some(socket) = self.sockets.get_mut(i) else { return false };
        let room = world.nbd_room(socket.conn).min(CHUNK);
        if socket.ended || room == 0 {
            return false;
        }
        let mut buffer = vec![0; room];
        match rustix::net::recv(&socket.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                socket.ended = true;
                world.nbd_hang_up(socket.conn);
                true
            }
            Ok((n, _)) => {
                world.nbd_receive(socket.conn, &buffer[..n]);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => {
                (socket.ended, socket.gone) = (true, true);
                world.nbd_forget(socket.conn);
                true
            }
        }
    }

    /// Sends what the world has put out, and closes what it has closed.
    pub(super) fn deliver(&mut self, world: &mut World) {
        for socket in &mut self.sockets {
            loop {
                if socket.out.1 == socket.out.0.len() {
                    socket.out = (world.nbd_take(socket.conn), 0);
                    self.took |= !socket.out.0.is_empty();
                }
                if socket.out.0.is_empty() || !socket.send() {
                    break;
                }
            }
            let sent = socket.out.1 == socket.out.0.len();
            let over = world.nbd_is_shut(socket.conn) && !world.nbd_has_output(socket.conn) && sent;
            if over {
                let _ = rustix::net::shutdown(&socket.fd, Shutdown::Both);
                socket.gone = true;
            }
            if socket.gone {
                world.nbd_forget(socket.conn);
            }
        }
        self.sockets.retain(|socket| !socket.gone);
        if self.listener.is_some() && !world.nbd_listens() {
            self.close();
        }
    }

    /// Whether the world may have more to do since the last delivery.
    pub(super) fn took(&mut self) -> bool {
        std::mem::take(&mut self.took)
    }

    /// The server does not listen any more.
    pub(super) fn close(&mut self) {
        self.listener = None;
        if let Some(path) = self.path.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Socket {
    /// Sends what the socket takes. Whether it took all.
    fn send(&mut self) -> bool {
        while self.out.1 < self.out.0.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.fd, &self.out.0[self.out.1..], flags) {
                Ok(n) => self.out.1 += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => {
                    self.gone = true;
                    return false;
                }
            }
        }
        true
    }
}
