//! The sockets of the NBD server: bytes of clients go to the world, and what it sends goes back.

use super::chardev::{listen_private, plain};
use crate::qmp::types::{Family, InetOptions, SocketAddress};
use crate::world::World;
use crate::world::arena::ConnId;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, ipproto, sockopt,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// The longest path of a socket.
const LONGEST: usize = 107;

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

/// The listening sockets, and those of the clients.
#[derive(Debug, Default)]
pub(super) struct NbdSockets {
    /// One for each address that a name stands for.
    listeners: Vec<OwnedFd>,
    /// To be removed when the server stops.
    path: Option<String>,
    sockets: Vec<Socket>,
    /// Something was taken from the world since somebody asked: who waited for room in a socket goes on.
    took: bool,
}

/// What a descriptor of a poll is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NbdSource {
    /// Somebody connects to the socket of this number.
    Listener(usize),
    /// The client of this number.
    Client(usize),
}

impl NbdSockets {
    /// To be called before each step of the world: listens if it wants that. Sockets that were handed over are among the descriptors.
    pub(super) fn before_step(&mut self, world: &mut World, fds: &mut Vec<OwnedFd>) {
        let Some(address) = world.nbd_wants_listener().cloned() else { return };
        let bound = match &address {
            SocketAddress::Unix { path, is_abstract: true, tight } => {
                listen_abstract(path, *tight).map(|listener| (vec![listener], None))
            }
            SocketAddress::Unix { path, .. } if path.len() > LONGEST => Err(too_long(path)),
            SocketAddress::Unix { path, .. } => listen_private(path)
                .map(|listener| (vec![listener.into()], Some(path.to_string())))
                .map_err(|error| format!("Failed to bind socket to {path}: {}", plain(&error))),
            SocketAddress::Inet { host, port, more } => listen_inet(host, port, more).map(|found| (found, None)),
            SocketAddress::Fd { name, number } => handed_over(world, fds, name, *number)
                .and_then(listen_on)
                .map(|(listener, path)| (vec![listener], path)),
            SocketAddress::Other(what) => Err(format!("not simulated: {what}")),
        };
        let answer = bound.map(|(listeners, path): (Vec<OwnedFd>, Option<String>)| {
            for listener in &listeners {
                let _ = rustix::io::ioctl_fionbio(listener, true);
            }
            (self.listeners, self.path) = (listeners, path);
        });
        world.nbd_listener(answer);
    }

    /// What to wait for.
    pub(super) fn sources(&self, world: &World) -> Vec<(NbdSource, BorrowedFd<'_>, PollFlags)> {
        let mut sources = Vec::new();
        for (i, listener) in self.listeners.iter().enumerate() {
            sources.push((NbdSource::Listener(i), listener.as_fd(), PollFlags::IN));
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
            NbdSource::Listener(i) => self.accept(world, i),
            NbdSource::Client(i) => self.read(world, i),
        }
    }

    fn accept(&mut self, world: &mut World, i: usize) -> bool {
        let Some(listener) = self.listeners.get(i) else { return false };
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
        if !self.listeners.is_empty() && !world.nbd_listens() {
            self.close();
        }
    }

    /// Whether the world may have more to do since the last delivery.
    pub(super) fn took(&mut self) -> bool {
        std::mem::take(&mut self.took)
    }

    /// The server does not listen any more.
    pub(super) fn close(&mut self) {
        self.listeners.clear();
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

pub(super) fn too_long(path: &str) -> String {
    format!("UNIX socket path '{path}' is too long")
}

fn with_reason(what: &str, errno: Errno) -> String {
    format!("{what}: {}", plain(&errno.into()))
}

/// An abstract name, filled up with zeroes where it is not tight.
pub(super) fn abstract_name(path: &str, tight: bool) -> Result<SocketAddrUnix, String> {
    let mut name = path.as_bytes().to_vec();
    if !tight && name.len() < LONGEST {
        name.resize(LONGEST, 0);
    }
    SocketAddrUnix::new_abstract_name(&name).map_err(|_| too_long(path))
}

fn listen_abstract(path: &str, tight: bool) -> Result<OwnedFd, String> {
    let name = abstract_name(path, tight)?;
    let made = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = made.map_err(|errno| with_reason("Failed to create Unix socket", errno))?;
    rustix::net::bind(&socket, &name)
        .map_err(|errno| with_reason(&format!("Failed to bind socket to {path}"), errno))?;
    rustix::net::listen(&socket, BACKLOG).map_err(|errno| with_reason("Failed to listen on socket", errno))?;
    Ok(socket)
}

/// The socket that a client passed. It is used once: later there is none of that number.
pub(super) fn handed_over(
    world: &mut World,
    fds: &mut Vec<OwnedFd>,
    name: &str,
    number: Option<i64>,
) -> Result<OwnedFd, String> {
    let at = fds.iter().position(|fd| Some(fd.as_raw_fd().into()) == number);
    let taken = at.map(|at| fds.swap_remove(at));
    world.passed.taken.retain(|known| Some(*known) != number);
    let Some(fd) = taken else {
        let shown = number.map_or_else(|| name.to_owned(), |number| number.to_string());
        return Err(format!("File descriptor '{shown}' is not a socket"));
    };
    match sockopt::socket_type(&fd) {
        Ok(_) => Ok(fd),
        Err(_) => Err(format!("File descriptor '{name}' is not a socket")),
    }
}

/// Listens on a socket that was bound by somebody else; its path, if it has one, is removed when the server stops.
fn listen_on(socket: OwnedFd) -> Result<(OwnedFd, Option<String>), String> {
    rustix::net::listen(&socket, BACKLOG).map_err(|errno| with_reason("Failed to listen on fd socket", errno))?;
    let local = rustix::net::getsockname(&socket).ok().and_then(|any| SocketAddrUnix::try_from(any).ok());
    let path = local.and_then(|local| local.path().and_then(|path| path.to_str().ok().map(str::to_owned)));
    Ok((socket, path))
}

/// Listens on all addresses that a name stands for and that can be listened on (`qio_net_listener_open_sync`).
fn listen_inet(host: &str, port: &str, more: &InetOptions) -> Result<Vec<OwnedFd>, String> {
    let mut first_error = None;
    let mut listeners = Vec::new();
    for address in resolve(host, port, more, true)? {
        match listen_at(address, more) {
            Ok(listener) => listeners.push(listener),
            Err(text) => {
                first_error.get_or_insert(text);
            }
        }
    }
    match first_error {
        Some(text) if listeners.is_empty() => Err(text),
        _ => Ok(listeners),
    }
}

/// `inet_listen_saddr`: the first port of the range that is free.
fn listen_at(address: SocketAddr, more: &InetOptions) -> Result<OwnedFd, String> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let only_v6 = !matches!((more.ipv4, more.ipv6), (None, None) | (Some(true), Some(true)));
    let protocol = (more.mptcp == Some(true)).then_some(ipproto::MPTCP);
    let mut last = None;
    for port in address.port()..=more.to.unwrap_or(address.port()) {
        let address = SocketAddr::new(address.ip(), port);
        let made = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, protocol);
        let socket = made.map_err(|errno| with_reason("Failed to create a socket", errno))?;
        let _ = sockopt::set_socket_reuseaddr(&socket, true);
        if address.is_ipv6() {
            let _ = sockopt::set_ipv6_v6only(&socket, only_v6);
        }
        let mut bound = rustix::net::bind(&socket, &address);
        if bound == Err(Errno::ADDRINUSE) && address.is_ipv6() && !only_v6 {
            // It may be the port of IPv4 alone that is taken.
            let _ = sockopt::set_ipv6_v6only(&socket, true);
            bound = rustix::net::bind(&socket, &address);
        }
        let listens = match bound {
            Ok(()) => rustix::net::listen(&socket, BACKLOG).map_err(|errno| ("Failed to listen on socket", errno)),
            Err(errno) => Err(("Failed to bind socket", errno)),
        };
        match listens {
            Ok(()) => return Ok(socket),
            Err((_, Errno::ADDRINUSE)) => last = Some(Errno::ADDRINUSE),
            Err((what, errno)) => return Err(with_reason(what, errno)),
        }
    }
    Err(match last {
        Some(errno) => with_reason("Failed to find an available port", errno),
        // The range is empty: QEMU adds the error of whatever failed before.
        None => "Failed to create a socket".to_owned(),
    })
}

/// The addresses that a name and a port stand for, as the C library says them to one who listens (`AI_PASSIVE`), or connects (`AI_V4MAPPED`).
pub(super) fn resolve(host: &str, port: &str, more: &InetOptions, listens: bool) -> Result<Vec<SocketAddr>, String> {
    let family = more.family(host)?;
    let fails = |why: &str| Err(format!("address resolution failed for {host}:{port}: {why}"));
    let unknown = "Name or service not known";
    let numeric = listens && more.numeric == Some(true);
    let Some(number) = service(port, !numeric) else {
        return fails(if numeric { unknown } else { "Servname not supported for ai_socktype" });
    };
    let literal = host.parse::<IpAddr>().is_ok();
    let found: Vec<IpAddr> = if host.is_empty() && listens {
        vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
    } else if numeric && !literal {
        Vec::new()
    } else {
        (host, number).to_socket_addrs().map(|all| all.map(|address| address.ip()).collect()).unwrap_or_default()
    };
    let fits = |ip: &IpAddr| match family {
        Family::Any => true,
        Family::V4 => ip.is_ipv4(),
        Family::V6 => ip.is_ipv6(),
    };
    let mut fitting: Vec<IpAddr> = found.iter().copied().filter(fits).collect();
    if fitting.is_empty() && family == Family::V6 && !listens {
        let mapped = |ip: &IpAddr| match ip {
            IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
            IpAddr::V6(_) => *ip,
        };
        fitting = found.iter().map(mapped).collect();
    }
    if fitting.is_empty() {
        return fails(if literal { "Address family for hostname not supported" } else { unknown });
    }
    Ok(fitting.into_iter().map(|ip| SocketAddr::new(ip, number)).collect())
}

/// The number of a port or, where `named` ones may be, of a service. Of too high a number the lower 16 bits are taken.
fn service(port: &str, named: bool) -> Option<u16> {
    if port.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = if port.is_empty() { 0 } else { port.parse::<i32>().ok()? };
        let low = number.to_le_bytes();
        return Some(u16::from_le_bytes([low[0], low[1]]));
    }
    let known = std::fs::read_to_string("/etc/services").ok().filter(|_| named)?;
    known.lines().find_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let (name, number) = (words.next()?, words.next()?.strip_suffix("/tcp")?);
        (name == port || words.any(|alias| alias == port)).then(|| number.parse().ok())?
    })
}
