//! Servers on the simulated host, outside of the process: each serves a file to whoever connects.

use super::HostFiles;
use std::sync::Arc;

/// How things stand with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerState {
    /// It serves.
    Up,
    /// It accepts connections and is sent requests, and does nothing.
    Stalled,
    /// It was killed: its socket is there, and nobody listens.
    Killed,
    /// It has ended, and taken its socket with it.
    Ended,
}

/// A server of NBD, as `qemu-nbd --format=raw --persistent --shared=0` is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NbdServer {
    /// The file that it serves.
    pub file: Arc<str>,
    /// What clients call it.
    pub export: Arc<str>,
    /// Clients may not write.
    pub read_only: bool,
    /// Whether discards, and zeroes that may become holes, make holes.
    pub unmaps: bool,
    /// It tells the file's length to the byte, and no block sizes, as nbdkit does. `qemu-nbd` tells whole sectors.
    pub exact: bool,
    /// How things stand with it.
    pub state: ServerState,
}

impl HostFiles {
    /// The server at a path, or at `HOST:PORT`.
    #[must_use]
    pub fn nbd_server(&self, address: &str) -> Option<&NbdServer> {
        self.servers.get(address)
    }

    /// A server starts, in the place of the one that was there.
    pub fn start_nbd_server(&mut self, address: &Arc<str>, server: NbdServer) {
        self.servers.insert(address.clone(), server);
    }

    /// A server changes its state. False if there is none.
    pub fn set_nbd_server(&mut self, address: &str, state: ServerState) -> bool {
        self.servers.get_mut(address).map(|server| server.state = state).is_some()
    }
}
