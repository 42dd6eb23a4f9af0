//! Addresses of sockets (qapi/sockets.json).

use crate::qmp::declare::enums;
use crate::qmp::visit::{ValueAt, Visit, Visitor};
use std::sync::Arc;

enums! {
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
        /// In the file system, relative to the working directory; an abstract one without its leading zero byte.
        path: Arc<str>,
        /// `abstract`
        is_abstract: bool,
        /// An abstract name ends where it ends, and is not filled up with zeroes.
        tight: bool,
    },
    /// TCP.
    Inet {
        /// Host name or address.
        host: Arc<str>,
        /// Port or service.
        port: Arc<str>,
        /// What else is asked.
        more: InetOptions,
    },
    /// A socket that was handed over.
    Fd {
        /// The name that `getfd` gave to it.
        name: Arc<str>,
        /// Its number, once it was looked up: the name is free then.
        number: Option<i64>,
    },
    /// Another kind, which the model lacks, by its name.
    Other(&'static str),
}

/// Options of a TCP address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InetOptions {
    /// No name is looked up.
    pub numeric: Option<bool>,
    /// The last port that a server tries.
    pub to: Option<u16>,
    /// Whether it may be an address of IPv4.
    pub ipv4: Option<bool>,
    /// Whether it may be an address of IPv6.
    pub ipv6: Option<bool>,
    /// Probes of a connection on which nothing happens.
    pub keep_alive: Option<bool>,
    /// Multipath TCP.
    pub mptcp: Option<bool>,
}

/// The addresses that a name may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Of both kinds.
    Any,
    /// `AF_INET`
    V4,
    /// `AF_INET6`
    V6,
}

impl InetOptions {
    /// `inet_ai_family_from_address`
    ///
    /// # Errors
    /// None is left.
    pub fn family(&self, host: &str) -> Result<Family, String> {
        match (self.ipv4, self.ipv6) {
            (Some(false), Some(false)) => Err("Cannot disable IPv4 and IPv6 at same time".to_owned()),
            (Some(true), Some(true)) if host.is_empty() => Ok(Family::V6),
            (Some(true), Some(true)) | (None, None) => Ok(Family::Any),
            (_, Some(true)) | (Some(false), _) => Ok(Family::V6),
            (Some(true), _) | (_, Some(false)) => Ok(Family::V4),
        }
    }

    /// Whether a name of the form `nbd://HOST:PORT` says all of it (`nbd_refresh_filename`).
    #[must_use]
    pub fn fits_in_a_name(&self) -> bool {
        self.to.is_none() && self.ipv4.is_none() && self.ipv6.is_none()
    }
}

impl SocketAddress {
    /// A path in the file system.
    #[must_use]
    pub fn unix(path: &str) -> SocketAddress {
        SocketAddress::Unix { path: path.into(), is_abstract: false, tight: true }
    }

    /// The members of one kind of address.
    fn of(kind: AddressType, v: &mut Visitor<'_>) -> Visit<SocketAddress> {
        Ok(match kind {
            AddressType::Unix => {
                let path = v.str("path")?;
                let is_abstract = v.opt_bool("abstract")?.unwrap_or(false);
                let tight = v.opt_bool("tight")?.unwrap_or(true);
                SocketAddress::Unix { path, is_abstract, tight }
            }
            AddressType::Inet => {
                let (host, port) = (v.str("host")?, v.str("port")?);
                let more = InetOptions {
                    numeric: v.opt_bool("numeric")?,
                    to: v.opt_with("to", |at| at.uint16())?,
                    ipv4: v.opt_bool("ipv4")?,
                    ipv6: v.opt_bool("ipv6")?,
                    keep_alive: v.opt_bool("keep-alive")?,
                    mptcp: v.opt_bool("mptcp")?,
                };
                SocketAddress::Inet { host, port, more }
            }
            AddressType::Vsock => {
                v.str("cid")?;
                v.str("port")?;
                SocketAddress::Other("vsock")
            }
            AddressType::Fd => SocketAddress::Fd { name: v.str("str")?, number: None },
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

    /// `socket_parse`: `unix:PATH`, `fd:NAME`, or an address of TCP.
    ///
    /// # Errors
    /// What QEMU says about the text.
    pub fn parse(text: &str) -> Result<SocketAddress, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let none = path.is_empty().then(|| "invalid Unix socket address".to_owned());
            return none.map_or_else(|| Ok(SocketAddress::unix(path)), Err);
        }
        if let Some(name) = text.strip_prefix("fd:") {
            let none = name.is_empty().then(|| "invalid file descriptor address".to_owned());
            return none.map_or_else(|| Ok(SocketAddress::Fd { name: name.into(), number: None }), Err);
        }
        if text.starts_with("vsock:") {
            return Ok(SocketAddress::Other("vsock"));
        }
        SocketAddress::parse_inet(text.strip_prefix("tcp:").unwrap_or(text))
    }

    /// `inet_parse`: `HOST:PORT`, and options behind it.
    ///
    /// # Errors
    /// What QEMU says about the text.
    pub fn parse_inet(text: &str) -> Result<SocketAddress, String> {
        let (said, parts) = match text.as_bytes().first() {
            Some(b':') => ("error parsing port in address", Some(("", &text[1..]))),
            Some(b'[') => ("error parsing IPv6 address", text[1..].split_once("]:").filter(|(host, _)| fits(host))),
            _ => ("error parsing address", text.split_once(':').filter(|(host, _)| fits(host))),
        };
        let wrong = || format!("{said} '{text}'");
        let (host, rest) = parts.ok_or_else(wrong)?;
        // No more than 32 bytes are read as the port.
        let end = rest.find(',').unwrap_or(rest.len()).min(32);
        let (port, options) = rest.split_at_checked(end).ok_or_else(wrong)?;
        if port.is_empty() {
            return Err(wrong());
        }
        let mut more = InetOptions::default();
        if let Some((_, to)) = options.split_once(",to=") {
            let number = to.split(',').next().unwrap_or_default().trim_ascii_start().parse::<i32>();
            let low = number.map_err(|_| "error parsing to= argument".to_owned())?.to_le_bytes();
            more.to = Some(u16::from_le_bytes([low[0], low[1]]));
        }
        more.ipv4 = flag("ipv4", options)?;
        more.ipv6 = flag("ipv6", options)?;
        more.keep_alive = flag("keep-alive", options)?;
        more.mptcp = flag("mptcp", options)?;
        Ok(SocketAddress::Inet { host: host.into(), port: port.into(), more })
    }
}

/// Whether a host is as long as one may be.
fn fits(host: &str) -> bool {
    !host.is_empty() && host.len() <= 64
}

/// `inet_parse_flag`
fn flag(name: &str, options: &str) -> Result<Option<bool>, String> {
    let Some((_, rest)) = options.split_once(&format!(",{name}")) else { return Ok(None) };
    let (value, next) = rest.split_once(',').unwrap_or((rest, ""));
    match value {
        "" | "=on" if !next.starts_with(',') => Ok(Some(true)),
        "=off" if !next.starts_with(',') => Ok(Some(false)),
        _ => Err(format!("error parsing '{name}' flag '{rest}'")),
    }
}
