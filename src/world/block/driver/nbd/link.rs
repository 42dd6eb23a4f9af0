//! Sockets of clients: bytes that came and were not read, bytes that were sent and not taken.
//!
//! Where the sockets are real ones, the shell connects them, fills and empties them between two steps. Where they are not, the simulated host has the
//! servers ([`super::remote`]).

use super::remote::Remote;
use crate::base::errno::{Errno, Ret};
use crate::qmp::types::SocketAddress;
use crate::world::World;
use crate::world::arena::{LinkId, NodeId};
use std::collections::VecDeque;

/// What is taken in of a server whose replies wait: two of the longest.
const ROOM: usize = 66 << 20;

/// How things stand with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkPhase {
    /// It is to be connected.
    Dials,
    /// Bytes go both ways.
    Open,
    /// The process has closed it: what it sent before still goes out.
    Closed,
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// The node that it belongs to.
    pub node: NodeId,
    /// Where the server listens.
    pub address: SocketAddress,
    /// How things stand with it.
    pub phase: LinkPhase,
    /// What came and was not read yet.
    pub(super) input: VecDeque<u8>,
    /// What was sent and not taken yet.
    pub(super) output: Vec<u8>,
    /// The server sends no more.
    pub(super) ended: bool,
    /// The server, where it is a simulated one.
    pub(super) remote: Option<Box<Remote>>,
}

impl World {
    /// `qio_channel_socket_connect_sync`, as far as it can be done at once.
    pub(super) fn link_dial(&mut self, node: NodeId, address: SocketAddress) -> LinkId {
        let link = self.links.insert(Link {
            node,
            address,
            phase: LinkPhase::Dials,
            input: VecDeque::new(),
            output: Vec::new(),
            ended: false,
            remote: None,
        });
        if !self.files.is_connected() {
            self.remote_dial(link);
        }
        link
    }

    /// Writes to a socket.
    ///
    /// # Errors
    /// The other end is known to be gone.
    pub(super) fn link_send(&mut self, link: LinkId, bytes: &[u8]) -> Ret {
        let Some(socket) = self.links.get_mut(link).filter(|socket| socket.phase == LinkPhase::Open && !socket.ended)
        else {
            return Err(Errno::EIO);
        };
        socket.output.extend(bytes);
        self.remote_pump(link);
        Ok(())
    }

    /// The process closes a socket.
    pub(super) fn link_close(&mut self, link: LinkId) {
        let Some(socket) = self.links.get_mut(link) else { return };
        socket.phase =
            if socket.phase == LinkPhase::Open { LinkPhase::Closed } else { return drop(self.links.remove(link)) };
        if !self.files.is_connected() {
            self.links.remove(link);
        }
    }

    /// `qio_channel_shutdown`: whoever reads finds the end.
    pub(super) fn link_shutdown(&mut self, link: LinkId) {
        if let Some(socket) = self.links.get_mut(link) {
            socket.ended = true;
            socket.input.clear();
        }
    }

    /// Something came, or nothing more will.
    pub(super) fn link_arrived(&mut self, link: LinkId) {
        let Some(node) = self.links.get(link).map(|socket| socket.node) else { return };
        let Some(nbd) = self.nbd(node) else { return };
        if nbd.conn.link == Some(link) {
            self.nbd_negotiates(node);
        } else if nbd.link == Some(link) {
            self.nbd_look(node);
        }
    }
}

/// What the host does with sockets.
impl World {
    /// All sockets.
    pub fn nbd_links(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter()
    }

    /// A socket is connected, or why it is not, in QEMU's words.
    pub fn link_connected(&mut self, link: LinkId, answer: Result<(), String>) {
        let Some(socket) = self.links.get_mut(link).filter(|socket| socket.phase == LinkPhase::Dials) else { return };
        let node = socket.node;
        match answer {
            Ok(()) => socket.phase = LinkPhase::Open,
            Err(text) => self.nbd_connect_failed(node, link, text),
        }
    }

    /// Bytes arrive from a server.
    pub fn link_receive(&mut self, link: LinkId, bytes: &[u8]) {
        let Some(socket) = self.links.get_mut(link).filter(|socket| socket.phase == LinkPhase::Open && !socket.ended)
        else {
            return;
        };
        socket.input.extend(bytes);
        self.link_arrived(link);
    }

    /// A server has closed its end.
    pub fn link_hang_up(&mut self, link: LinkId) {
        if let Some(socket) = self.links.get_mut(link) {
            socket.ended = true;
            self.link_arrived(link);
        }
    }

    /// Takes what the process sent.
    pub fn link_take(&mut self, link: LinkId) -> Vec<u8> {
        if self.links.get(link).is_none_or(|socket| socket.output.is_empty()) {
            return Vec::new();
        }
        self.links.get_mut(link).map(|socket| std::mem::take(&mut socket.output)).unwrap_or_default()
    }

    /// How many more bytes the process takes in.
    #[must_use]
    pub fn link_room(&self, link: LinkId) -> usize {
        let open = self.links.get(link).filter(|socket| socket.phase == LinkPhase::Open);
        open.map_or(0, |socket| ROOM.saturating_sub(socket.input.len()))
    }

    /// A socket that the process has closed is gone: nothing goes out any more.
    pub fn link_gone(&mut self, link: LinkId) {
        if self.links.get(link).is_some_and(|socket| socket.phase == LinkPhase::Closed) {
            self.links.remove(link);
        }
    }
}
