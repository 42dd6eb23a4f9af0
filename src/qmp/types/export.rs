//! Exports and the NBD server (qapi/block-export.json).

use super::{BitmapSource, SocketAddress};
use crate::qmp::declare::{enums, members};
use crate::qmp::visit::{ValueAt, Visit};
use std::sync::Arc;

enums! {
    /// How clients come to what is exported (`BlockExportType`).
    pub enum ExportType {
        Nbd = "nbd",
        VhostUserBlk = "vhost-user-blk",
        Fuse = "fuse",
        VduseBlk = "vduse-blk",
    }
    /// Whether clients are sent away when an export goes (`BlockExportRemoveMode`).
    pub enum RemoveMode {
        Safe = "safe",
        Hard = "hard",
    }
}

members! {
    /// `nbd-server-start` (`NbdServerOptionsLegacy`).
    pub struct NbdServerStart {
        /// Default 10, 0 for no limit.
        handshake_max_seconds: Option<u32> [since HandshakeMaxSeconds],
        /// Name of an object.
        tls_creds: Option<Arc<str>>,
        /// Name of an object.
        tls_authz: Option<Arc<str>>,
        /// Default 100, 0 for no limit.
        max_connections: Option<u32>,
        /// Where it listens.
        addr: SocketAddress [with SocketAddress::legacy],
    }
}

members! {
    /// `nbd-server-add` (`NbdServerAddOptions`).
    pub struct NbdServerAdd {
        /// Default: the device.
        name: Option<Arc<str>>,
        /// What clients are told of it.
        description: Option<Arc<str>>,
        /// Device or node.
        device: Arc<str>,
        /// Default false.
        writable: Option<bool>,
        /// A bitmap to offer.
        bitmap: Option<Arc<str>>,
    }
}

members! {
    /// What all exports have (`BlockExportOptions`).
    pub struct BlockExportBase {
        /// How clients come to it.
        kind as "type": ExportType,
        /// Name of the export.
        id: Arc<str>,
        /// Default false.
        fixed_iothread: Option<bool>,
        /// Name of an iothread.
        iothread: Option<Arc<str>>,
        /// What is exported; a node, no device.
        node_name: Arc<str>,
        /// Default false.
        writable: Option<bool>,
        /// Default false.
        writethrough: Option<bool>,
        /// Default false.
        allow_inactive: Option<bool> [since NodeActive],
    }

    /// What is told of an export by NBD (`BlockExportOptionsNbd`).
    #[derive(Default)]
    pub struct BlockExportNbd {
        /// What clients call it; default the node's name.
        name: Option<Arc<str>>,
        /// What clients are told of it.
        description: Option<Arc<str>>,
        /// Bitmaps to offer.
        bitmaps: Option<Vec<BitmapSource>>,
        /// Default false.
        allocation_depth: Option<bool>,
    }
}

/// `block-export-add` (`BlockExportOptions`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockExportAdd {
    /// What all kinds have.
    pub base: BlockExportBase,
    /// What is told of one by NBD; of other kinds, which the model lacks, nothing is looked at.
    pub nbd: BlockExportNbd,
}

impl BlockExportAdd {
    /// Reads the members. Those of a kind that the model lacks are not looked at.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(at: ValueAt<'_>) -> Visit<BlockExportAdd> {
        let mut v = at.object()?;
        let base = BlockExportBase::visit(&mut v)?;
        if base.kind != ExportType::Nbd {
            v.leave();
            return Ok(BlockExportAdd { base, nbd: BlockExportNbd::default() });
        }
        let nbd = BlockExportNbd::visit(&mut v)?;
        v.finish()?;
        Ok(BlockExportAdd { base, nbd })
    }
}
