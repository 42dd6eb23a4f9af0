//! Exports and the NBD server (qapi/block-export.json, qapi/sockets.json).

use super::BitmapSource;
use crate::qmp::visit::{At, QapiEnum, Visit, Visitor};
use std::sync::Arc;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)+ })+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $(#[doc = concat!("`", $text, "`")] $variant,)+ }

        impl QapiEnum for $name {
            const TABLE: &'static [($name, &'static str)] = &[$(($name::$variant, $text),)+];
        }
    )+ };
}

names! {
    /// How clients come to what is exported (`BlockExportType`).
    ExportType {
        Nbd = "nbd",
        VhostUserBlk = "vhost-user-blk",
        Fuse = "fuse",
        VduseBlk = "vduse-blk",
    }
    /// Whether clients are sent away when an export goes (`BlockExportRemoveMode`).
    RemoveMode {
        Safe = "safe",
        Hard = "hard",
    }
    /// `SocketAddressType`
    AddressType {
        Inet = "inet",
        Unix = "unix",
        Vsock = "vsock",
        Fd = "fd",
    }
}

impl ExportType {
    /// The name in QMP.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

/// Where a server listens, or a client connects to (`SocketAddress`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    /// A socket in the file system, or with `abstract` in a name space of its own.
    Unix {
        /// Its path.
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
    pub fn legacy(at: At<'_>) -> Visit<SocketAddress> {
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
    pub fn flat(at: At<'_>) -> Visit<SocketAddress> {
        let mut v = at.object()?;
        let kind: AddressType = v.enum_("type")?;
        let address = SocketAddress::of(kind, &mut v)?;
        v.finish()?;
        Ok(address)
    }
}

/// `nbd-server-start` (`NbdServerOptionsLegacy`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NbdServerStart {
    /// Where it listens.
    pub addr: SocketAddress,
    /// Default 10, 0 for no limit.
    pub handshake_max_seconds: Option<u32>,
    /// Name of an object.
    pub tls_creds: Option<Arc<str>>,
    /// Name of an object.
    pub tls_authz: Option<Arc<str>>,
    /// Default 100, 0 for no limit.
    pub max_connections: Option<u32>,
}

impl NbdServerStart {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<NbdServerStart> {
        let handshake_max_seconds = v.opt_uint32("handshake-max-seconds")?;
        let tls_creds = v.opt_str("tls-creds")?;
        let tls_authz = v.opt_str("tls-authz")?;
        let max_connections = v.opt_uint32("max-connections")?;
        let addr = v.with("addr", SocketAddress::legacy)?;
        Ok(NbdServerStart { addr, handshake_max_seconds, tls_creds, tls_authz, max_connections })
    }
}

/// `nbd-server-add` (`NbdServerAddOptions`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NbdServerAdd {
    /// Default: the device.
    pub name: Option<Arc<str>>,
    /// What clients are told of it.
    pub description: Option<Arc<str>>,
    /// Device or node.
    pub device: Arc<str>,
    /// Default false.
    pub writable: Option<bool>,
    /// A bitmap to offer.
    pub bitmap: Option<Arc<str>>,
}

impl NbdServerAdd {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<NbdServerAdd> {
        Ok(NbdServerAdd {
            name: v.opt_str("name")?,
            description: v.opt_str("description")?,
            device: v.str("device")?,
            writable: v.opt_bool("writable")?,
            bitmap: v.opt_str("bitmap")?,
        })
    }
}

/// `block-export-add` (`BlockExportOptions`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockExportAdd {
    /// The kind.
    pub kind: ExportType,
    /// Name of the export.
    pub id: Arc<str>,
    /// Default false.
    pub fixed_iothread: Option<bool>,
    /// Name of an iothread.
    pub iothread: Option<Arc<str>>,
    /// The node.
    pub node_name: Arc<str>,
    /// Default false.
    pub writable: Option<bool>,
    /// Default false.
    pub writethrough: Option<bool>,
    /// Default false.
    pub allow_inactive: Option<bool>,
    /// What clients call it; default the node's name.
    pub name: Option<Arc<str>>,
    /// What clients are told of it.
    pub description: Option<Arc<str>>,
    /// Bitmaps to offer.
    pub bitmaps: Vec<BitmapSource>,
    /// Default false.
    pub allocation_depth: Option<bool>,
}

impl BlockExportAdd {
    /// Reads the members. Those of a kind that the model lacks are not looked at.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(at: At<'_>) -> Visit<BlockExportAdd> {
        let mut v = at.object()?;
        let mut options = BlockExportAdd {
            kind: v.enum_("type")?,
            id: v.str("id")?,
            fixed_iothread: v.opt_bool("fixed-iothread")?,
            iothread: v.opt_str("iothread")?,
            node_name: v.str("node-name")?,
            writable: v.opt_bool("writable")?,
            writethrough: v.opt_bool("writethrough")?,
            allow_inactive: v.opt_bool("allow-inactive")?,
            name: None,
            description: None,
            bitmaps: Vec::new(),
            allocation_depth: None,
        };
        if options.kind != ExportType::Nbd {
            v.leave();
            return Ok(options);
        }
        options.name = v.opt_str("name")?;
        options.description = v.opt_str("description")?;
        options.bitmaps = v.opt_list("bitmaps", BitmapSource::visit)?.unwrap_or_default();
        options.allocation_depth = v.opt_bool("allocation-depth")?;
        v.finish()?;
        Ok(options)
    }
}
