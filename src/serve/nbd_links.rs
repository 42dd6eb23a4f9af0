//! The sockets of `nbd` nodes: each is connected where the world wants it, what the server sends goes to the world, and what the world sends goes
//! to the server.

use super::chardev::plain;
use super::nbd::{abstract_name, handed_over, resolve, too_long};
use crate::base::time::Span;
use crate::qmp::types::SocketAddress;
use crate::world::World;
use crate::world::arena::LinkId;
use crate::world::block::driver::nbd::link::LinkPhase;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, ipproto};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// How long a process that starts waits for a server before it looks at its timers again.
const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// One socket.
#[derive(Debug)]
struct Socket {
    link: LinkId,
    fd: OwnedFd,
    /// How it is called where connecting fails.
    shown: String,
    /// Other addresses of the same name.
    others: Vec<SocketAddr>,
    /// Multipath TCP.
    mptcp: bool,
    /// Probes of a connection on which nothing happens.
    keep_alive: bool,
    /// The connection is being made.
    dials: bool,
    /// What the world sent and the socket did not take yet, from that byte on.
    out: (Vec<u8>, usize),
    /// The server sends no more.
    ended: bool,
    /// Nobody needs it.
    gone: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct NbdLinks {
    sockets: Vec<Socket>,
}

impl NbdLinks {
    /// To be called before the world is looked at: connects what it wants to be connected. Whether there was something.
    pub(super) fn dial(&mut self, world: &mut World, fds: &mut Vec<OwnedFd>) -> bool {
        let dials = |this: &NbdLinks, link| !this.sockets.iter().any(|socket| socket.link == link);
        let wanted: Vec<(LinkId, SocketAddress)> = world
            .nbd_links()
            .filter(|(id, link)| link.phase == LinkPhase::Dials && dials(self, *id))
            .map(|(id, link)| (id, link.address.clone()))
            .collect();
        let any = !wanted.is_empty();
        for (link, address) in wanted {
            match dial(world, fds, link, &address) {
                Ok(socket) => {
                    if !socket.dials {
                        world.link_connected(link, Ok(()));
                    }
                    self.sockets.push(socket);
                }
                Err(text) => world.link_connected(link, Err(text)),
            }
        }
        any
    }

    /// While the process starts: all that there is to do. Where the world waits for a server, so does this, until the world's next timer is
    /// due by the wall clock. Whether that timer must not go off yet.
    pub(super) fn exchange(&mut self, world: &mut World) -> bool {
        self.dial(world, &mut Vec::new());
        self.deliver(world);
        let waits = world.polls_in_vain();
        if world.nbd_links().next().is_none() {
            // The next step may make one, and then poll.
            return !waits;
        }
        let timeout = match world.next_deadline().filter(|_| waits) {
            Some(due) => span(due - world.now),
            None if waits => MOMENT,
            None => NO_TIME,
        };
        let sources = self.sources(world);
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let _ = poll(&mut fds, Some(&timeout));
        let places = sources.iter().map(|(i, ..)| *i).zip(&fds);
        let ready: Vec<usize> = places.filter(|(_, fd)| !fd.revents().is_empty()).map(|(i, _)| i).collect();
        let slept = waits && ready.is_empty();
        for i in ready {
            self.ready(world, i);
        }
        !slept
    }

    /// What to wait for: which socket, its descriptor, and what it is to be ready for.
    pub(super) fn sources(&self, world: &World) -> Vec<(usize, BorrowedFd<'_>, PollFlags)> {
        let mut sources = Vec::new();
        for (i, socket) in self.sockets.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if socket.dials || socket.out.1 < socket.out.0.len() {
                flags |= PollFlags::OUT;
            }
            if !socket.dials && !socket.ended && world.link_room(socket.link) > 0 {
                flags |= PollFlags::IN;
            }
            if !flags.is_empty() {
                sources.push((i, socket.fd.as_fd(), flags));
            }
        }
        sources
    }

    /// Takes in what is there. Whether the world has more to do.
    pub(super) fn ready(&mut self, world: &mut World, i: usize) -> bool {
        let Some(socket) = self.sockets.get_mut(i) else { return false };
        if socket.dials { socket.dialled(world) } else { socket.read(world) }
    }

    /// Sends what the world has put out, and closes what it has closed.
    pub(super) fn deliver(&mut self, world: &mut World) {
        for socket in &mut self.sockets {
            while !socket.dials && !socket.gone {
                if socket.out.1 == socket.out.0.len() {
                    socket.out = (world.link_take(socket.link), 0);
                }
                if socket.out.0.is_empty() || !socket.send(world) {
                    break;
                }
            }
            let sent = socket.out.1 == socket.out.0.len();
            let phase = world.nbd_links().find(|(id, _)| *id == socket.link).map(|(_, link)| link.phase);
            if phase.is_none() || (phase == Some(LinkPhase::Closed) && sent) {
                let _ = rustix::net::shutdown(&socket.fd, Shutdown::Both);
                world.link_gone(socket.link);
                socket.gone = true;
            }
        }
        self.sockets.retain(|socket| !socket.gone);
    }
}

fn span(span: Span) -> Timespec {
    let nanos = i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    Timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 }
}

/// Begins to connect. A socket that was handed over is among the descriptors.
///
/// # Errors
/// What QEMU says.
fn dial(world: &mut World, fds: &mut Vec<OwnedFd>, link: LinkId, address: &SocketAddress) -> Result<Socket, String> {
    match address {
        SocketAddress::Unix { path, is_abstract, tight } => {
            let shown = format!("'{path}'");
            let fails = |errno: Errno| failed(&shown, errno);
            let name = match is_abstract {
                true => abstract_name(path, *tight)?,
                false if path.len() > 107 => return Err(too_long(path)),
                false => SocketAddrUnix::new(&**path).map_err(fails)?,
            };
            let flags = SocketFlags::CLOEXEC;
            let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(fails)?;
            // It blocks where the server has many waiting already, as QEMU's thread does.
            rustix::net::connect(&fd, &name).map_err(fails)?;
            let _ = rustix::io::ioctl_fionbio(&fd, true);
            Ok(Socket::new(link, fd, shown, Vec::new(), false))
        }
        SocketAddress::Inet { host, port, more } => {
            let shown = format!("'{host}:{port}'");
            let mut socket = connect(link, shown, resolve(host, port, more, false)?, more.mptcp == Some(true))?;
            socket.keep_alive = more.keep_alive == Some(true);
            Ok(socket)
        }
        SocketAddress::Fd { name, number } => {
            let fd = handed_over(world, fds, name, *number)?;
            let _ = rustix::io::ioctl_fionbio(&fd, true);
            Ok(Socket::new(link, fd, format!("'{name}'"), Vec::new(), false))
        }
        SocketAddress::Other(what) => Err(format!("not simulated: {what}")),
    }
}

fn failed(shown: &str, errno: Errno) -> String {
    let error: std::io::Error = errno.into();
    format!("Failed to connect to {shown}: {}", plain(&error))
}

/// Begins to connect to the first of some addresses.
fn connect(link: LinkId, shown: String, mut addresses: Vec<SocketAddr>, mptcp: bool) -> Result<Socket, String> {
    let protocol = mptcp.then_some(ipproto::MPTCP);
    let mut last = Errno::CONNREFUSED;
    while !addresses.is_empty() {
        let address = addresses.remove(0);
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = rustix::net::socket_with(family, SocketType::STREAM, flags, protocol);
        let begun = made.and_then(|fd| match rustix::net::connect(&fd, &address) {
            Ok(()) => Ok((fd, false)),
            Err(Errno::INPROGRESS) => Ok((fd, true)),
            Err(errno) => Err(errno),
        });
        match begun {
            Ok((fd, dials)) => return Ok(Socket { mptcp, ..Socket::new(link, fd, shown, addresses, dials) }),
            Err(errno) => last = errno,
        }
    }
    Err(failed(&shown, last))
}

impl Socket {
    fn new(link: LinkId, fd: OwnedFd, shown: String, others: Vec<SocketAddr>, dials: bool) -> Socket {
        let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
        Socket {
            link,
            fd,
            shown,
            others,
            mptcp: false,
            keep_alive: false,
            dials,
            out: (Vec::new(), 0),
            ended: false,
            gone: false,
        }
    }

    /// The connection is there, or is not.
    fn dialled(&mut self, world: &mut World) -> bool {
        self.dials = false;
        let answer = match rustix::net::sockopt::socket_error(&self.fd) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(errno)) | Err(errno) => {
                let others = std::mem::take(&mut self.others);
                if let Ok(next) = connect(self.link, self.shown.clone(), others, self.mptcp) {
                    *self = Socket { keep_alive: self.keep_alive, ..next };
                    if self.dials {
                        return false;
                    }
                    Ok(())
                } else {
                    self.gone = true;
                    Err(failed(&self.shown, errno))
                }
            }
        };
        if self.keep_alive && answer.is_ok() {
            let _ = rustix::net::sockopt::set_socket_keepalive(&self.fd, true);
        }
        world.link_connected(self.link, answer);
        true
    }

    fn read(&mut self, world: &mut World) -> bool {
        let room = world.link_room(self.link).min(CHUNK);
        if self.ended || room == 0 {
            return false;
        }
        let mut buffer = vec![0; room];
        match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((n, _)) if n > 0 => world.link_receive(self.link, &buffer[..n]),
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Ok(_) | Err(_) => {
                self.ended = true;
                world.link_hang_up(self.link);
            }
        }
        true
    }

    /// Sends what the socket takes. Whether it took all.
    fn send(&mut self, world: &mut World) -> bool {
        while self.out.1 < self.out.0.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.fd, &self.out.0[self.out.1..], flags) {
                Ok(n) => self.out.1 += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => {
                    // What the server said before it went can still be read.
                    self.out = (Vec::new(), 0);
                    if !self.ended {
                        self.ended = true;
                        world.link_hang_up(self.link);
                    }
                    return false;
                }
            }
        }
        true
    }
}
