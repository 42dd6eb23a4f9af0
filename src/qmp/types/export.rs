//! Exports and the NBD server (qapi/block-export.json, qapi/sockets.json).

use super::BitmapSource;
use crate::qmp::declare::{enums, members};
use crate::qmp::visit::{ValueAt, Visit, Visitor};
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
    /// `SocketAddressType`
    pub enum AddressType {
        Inet = "inet",
        Unix = "unix",
        Vsock = "vsock",
        Fd = "fd",
    }
}

/// Where a server listens, or a client connects to (`SocketAddress`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    /// A socket in the file system, or with `abstract` in a name space of its own.
    Unix {
        /// `UnixSocketAddress.path`
        path: Arc<str>,
        /// `abstract`
        is_abstract: bool,
    },
    /// TCP.
    Inet {
        /// Host name or address.
        host: Arc<str>,
        /// Port or service.
        port: Arc<str>,
    },
    /// Another kind, which the model lacks, by its name.
    Other(&'static str),
}

impl SocketAddress {
    /// The members of one kind of address.
    fn of(kind: AddressType, v: &mut Visitor<'_>) -> Visit<SocketAddress> {
        Ok(match kind {
            AddressType::Unix => {
                let path = v.str("path")?;
                let is_abstract = v.opt_bool("abstract")?.unwrap_or(false);
                v.opt_bool("tight")?;
                SocketAddress::Unix { path, is_abstract }
            }
            AddressType::Inet => {
                let (host, port) = (v.str("host")?, v.str("port")?);
                v.opt_bool("numeric")?;
                let to = v.opt_uint32("to")?;
                let (v4, v6) = (v.opt_bool("ipv4")?, v.opt_bool("ipv6")?);
                v.opt_bool("keep-alive")?;
                let mptcp = v.opt_bool("mptcp")? == Some(true);
                let more = mptcp || to.is_some() || v4.is_some() || v6.is_some();
                if more { SocketAddress::Other("options of a TCP address") } else { SocketAddress::Inet { host, port } }
            }
            AddressType::Vsock => {
                v.str("cid")?;
                v.str("port")?;
                SocketAddress::Other("vsock")
            }
            AddressType::Fd => {
                v.str("str")?;
                SocketAddress::Other("a socket by its descriptor")
            }
        })
    }

    /// `SocketAddressLegacy`: what belongs to the kind stands in a member `data`.
    ///
    /// # Errors
    /// What QEMU says about the address.
    pub fn legacy(at: ValueAt<'_>) -> Visit<SocketAddress> {
        let mut v = at.object()?;
        let kind: AddressType = v.enum_("type")?;
        let address = v.with("data", |at| {
            let mut v = at.object()?;
            let address = SocketAddress::of(kind, &mut v)?;
            v.finish()?;
            Ok(address)
        })?;
        v.finish()?;
        Ok(address)
    }

    /// `SocketAddress`
    ///
    /// # Errors
    /// What QEMU says about the address.
    pub fn flat(at: ValueAt<'_>) -> Visit<SocketAddress> {
        let mut v = at.object()?;
        let kind: AddressType = v.enum_("type")?;
        let address = SocketAddress::of(kind, &mut v)?;
        v.finish()?;
        Ok(address)
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
