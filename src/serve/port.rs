//! Connections: bytes in, bytes out, one client after the other.

use super::chardev::{Conn, Open};
use super::console::write_now;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// Bytes read at once.
const CHUNK: usize = 4096;
/// What a client leaves unread before its commands are left unread too.
const PLENTY: usize = 1 << 20;
/// What a client leaves unread before the connection is given up: QEMU would keep it for ever.
const TOO_MUCH: usize = 256 << 20;
/// Descriptors a client sent that no command took yet.
const MAX_FDS: usize = 16;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// As they were read from the socket; a line may come in parts.
    Bytes(Vec<u8>),
    /// The client has gone.
    End,
    /// Nothing, this time.
    Nothing,
}

/// A character device with whoever is connected to it.
#[derive(Debug)]
pub(super) struct Port {
    open: Open,
    out: VecDeque<u8>,
    /// Descriptors that came with the client's bytes.
    pub fds: VecDeque<OwnedFd>,
    /// Why what was sent could not be written to standard output or a file.
    pub failed: Option<Errno>,
}

impl Port {
    pub(super) fn new(open: Open) -> Port {
        Port { open, out: VecDeque::new(), fds: VecDeque::new(), failed: None }
    }

    /// The path of its socket, to be removed in the end.
    pub(super) fn path(&self) -> Option<&str> {
        self.open.path.as_deref()
    }

    /// The name of its terminal.
    pub(super) fn pty(&self) -> Option<&str> {
        self.open.pty.as_ref().map(|(_, name)| name.as_str())
    }

    /// The path that its socket is bound to.
    pub(super) fn own_path(&self) -> Option<String> {
        let socket = self.open.listener.as_ref().map(|fd| fd.as_fd()).or_else(|| self.socket())?;
        let name = rustix::net::SocketAddrUnix::try_from(rustix::net::getsockname(socket).ok()?).ok()?;
        Some(name.path()?.to_string_lossy().into_owned())
    }

    /// Whether somebody is there.
    pub(super) fn connected(&self) -> bool {
        self.open.conn.is_some()
    }

    /// The listening socket, while nobody is there.
    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        if self.connected() { None } else { self.open.listener.as_ref().map(|l| l.as_fd()) }
    }

    /// Where the client's bytes come from, unless it leaves too much unread.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        match &self.open.conn {
            _ if self.out.len() > PLENTY => None,
            Some(Conn::Socket(fd)) => Some(fd.as_fd()),
            Some(Conn::Stdio) => Some(rustix::stdio::stdin()),
            Some(Conn::Sink(_)) | None => None,
        }
    }

    /// Where bytes can't be put just now.
    pub(super) fn clogged(&self) -> Option<BorrowedFd<'_>> {
        match &self.open.conn {
            _ if self.out.is_empty() => None,
            Some(Conn::Socket(fd) | Conn::Sink(fd)) => Some(fd.as_fd()),
            Some(Conn::Stdio) => Some(rustix::stdio::stdout()),
            None => None,
        }
    }

    /// Whether it is at the standard streams of the process.
    pub(super) fn is_stdio(&self) -> bool {
        matches!(self.open.conn, Some(Conn::Stdio))
    }

    /// The socket of the client.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.open.conn {
            Some(Conn::Socket(fd)) => Some(fd.as_fd()),
            _ => None,
        }
    }

    /// Takes the client that waits at the listener, if there is one.
    pub(super) fn accept(&mut self) -> bool {
        let Some(listener) = &self.open.listener else { return false };
        let flags = rustix::net::SocketFlags::CLOEXEC;
        match rustix::net::accept_with(listener, flags) {
            Ok(fd) => {
                let unix = rustix::net::getsockname(&fd).is_ok_and(|name| name.address_family() == AddressFamily::UNIX);
                if !unix {
                    let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
                }
                self.open.conn = Some(Conn::Socket(fd));
                true
            }
            Err(_) => false,
        }
    }

    /// The client has gone, or is sent away. What was not sent is lost.
    pub(super) fn hang_up(&mut self) {
        self.open.conn = None;
        self.out.clear();
        self.fds.clear();
    }

    /// Reads what is there.
    pub(super) fn read(&mut self) -> Input {
        let mut buffer = vec![0; CHUNK];
        let read = match &self.open.conn {
            Some(Conn::Socket(fd)) => {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
                let read = rustix::net::recvmsg(fd, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags);
                let mut came = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        came.extend(fds);
                    }
                }
                if !came.is_empty() {
                    // As in QEMU, those that no command took are closed when others come.
                    self.fds = came.into();
                }
                read.map(|message| message.bytes)
            }
            Some(Conn::Stdio) => rustix::io::read(rustix::stdio::stdin(), &mut buffer),
            _ => return Input::Nothing,
        };
        match read {
            Ok(0) => Input::End,
            Ok(n) => {
                buffer.truncate(n);
                Input::Bytes(buffer)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Input::Nothing,
            Err(_) => Input::End,
        }
    }

    /// Puts bytes behind what waits to be sent.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        if self.connected() {
            self.out.extend(bytes);
        }
    }

    /// Sends what can be sent now. False when the client has gone, or leaves too much unread.
    pub(super) fn flush(&mut self) -> bool {
        while !self.out.is_empty() {
            let (bytes, _) = self.out.as_slices();
            let sent = match &self.open.conn {
                Some(Conn::Socket(fd)) => rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
                Some(Conn::Sink(fd)) => write_now(fd.as_fd(), bytes),
                Some(Conn::Stdio) => write_now(rustix::stdio::stdout(), bytes),
                None => Ok(bytes.len()),
            };
            match sent {
                Ok(n) => drop(self.out.drain(..n)),
                Err(rustix::io::Errno::AGAIN) => return self.out.len() <= TOO_MUCH,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    // A client that has gone is none to be sorry for.
                    if errno != Errno::PIPE && !matches!(self.open.conn, Some(Conn::Socket(_))) {
                        self.failed = Some(errno);
                    }
                    self.out.clear();
                    return false;
                }
            }
        }
        true
    }
}
