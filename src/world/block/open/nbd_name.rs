//! File names of NBD servers (`block/nbd.c:nbd_parse_filename`).

use super::spec::{DriverSpec, OpenSpec};
use super::strong_options::strong_of_flat;
use crate::base::Json;
use crate::qmp::error::QmpError;
use crate::qmp::types::{InetOptions, NbdOptions, SocketAddress};
use crate::world::block::driver::nbd::NbdConfig;
use crate::world::block::graph::OpenFlags;
use std::sync::Arc;

/// `NBD_DEFAULT_PORT`
const PORT: &str = "10809";

/// Options of a node as its driver keeps them.
#[must_use]
pub(super) fn nbd_config(options: &NbdOptions) -> NbdConfig {
    NbdConfig {
        server: options.server.clone(),
        export: options.export.clone(),
        x_dirty_bitmap: options.x_dirty_bitmap.clone(),
        tls_creds: options.tls_creds.clone(),
        reconnect_delay: options.reconnect_delay.unwrap_or(0),
        open_timeout: options.open_timeout.unwrap_or(0),
    }
}

impl OpenSpec {
    /// Whether a file name is one of an NBD server.
    #[must_use]
    pub fn is_nbd_name(name: &str) -> bool {
        name.split_once(':').is_some_and(|(protocol, _)| matches!(protocol, "nbd" | "nbd+tcp" | "nbd+unix"))
    }

    /// Drives, and what is opened by its name for their jobs, may turn out to be read-only (`blockdev_init` sets `auto-read-only`).
    pub(super) fn nbd_may_be_read_only(&mut self) {
        if matches!(self.driver, DriverSpec::Nbd(_)) && self.explicit.auto_read_only.is_none() {
            self.flags.auto_read_only = true;
        }
        if let Some(file) = &mut self.file {
            Arc::make_mut(file).nbd_may_be_read_only();
        }
    }

    /// `nbd_parse_filename`
    pub(super) fn nbd_by_name(name: &str, flags: OpenFlags) -> OpenSpec {
        match parse(name) {
            Err(text) => OpenSpec::failing(QmpError::generic(text)),
            Ok((server, export)) => {
                let export: Option<Arc<str>> = export.map(Into::into);
                let mut flat: Vec<(Arc<str>, Json)> = Vec::new();
                let mut put = |key: &str, value: Json| flat.push((key.into(), value));
                if let Some(export) = &export {
                    put("export", Json::Str(export.clone()));
                }
                match &server {
                    SocketAddress::Unix { path, .. } => {
                        put("server.type", "unix".into());
                        put("server.path", Json::Str(path.clone()));
                    }
                    SocketAddress::Inet { host, port, more } => {
                        put("server.type", "inet".into());
                        put("server.host", Json::Str(host.clone()));
                        put("server.port", Json::Str(port.clone()));
                        if let Some(to) = more.to {
                            put("server.to", Json::Int(to.into()));
                        }
                        let flags = [
                            ("server.ipv4", more.ipv4),
                            ("server.ipv6", more.ipv6),
                            ("server.keep-alive", more.keep_alive),
                            ("server.mptcp", more.mptcp),
                        ];
                        for (key, value) in flags {
                            if let Some(value) = value {
                                put(key, Json::Bool(value));
                            }
                        }
                    }
                    SocketAddress::Fd { .. } | SocketAddress::Other(_) => {}
                }
                let config = NbdConfig {
                    server,
                    export,
                    x_dirty_bitmap: None,
                    tls_creds: None,
                    reconnect_delay: 0,
                    open_timeout: 0,
                };
                let given = strong_of_flat("nbd", &flat, "");
                let by_name = Some(name.into());
                let flags = OpenFlags { auto_read_only: true, ..flags };
                OpenSpec { given, by_name, ..OpenSpec::new(DriverSpec::Nbd(Box::new(config)), flags) }
            }
        }
    }
}

/// Where the server listens, and the export, if one is named.
fn parse(name: &str) -> Result<(SocketAddress, Option<String>), String> {
    if name.contains("://") {
        return uri(name).ok_or_else(|| "No valid URL specified".to_owned());
    }
    let (host, export) = match name.split_once(":exportname=") {
        // QEMU takes nothing at all out of such a name.
        Some((_, "")) => return Err("NBD server address missing".to_owned()),
        Some((host, export)) => (host, Some(export.to_owned())),
        None => (name, None),
    };
    let Some(host) = host.strip_prefix("nbd:") else {
        return Err("File name string for NBD must start with 'nbd:'".to_owned());
    };
    if host.is_empty() {
        return Err("NBD server address missing".to_owned());
    }
    if let Some(path) = host.strip_prefix("unix:") {
        return Ok((SocketAddress::unix(path), export));
    }
    Ok((SocketAddress::parse_inet(host)?, export))
}

/// `nbd_parse_uri`
fn uri(name: &str) -> Option<(SocketAddress, Option<String>)> {
    let (scheme, rest) = name.split_once("://")?;
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.find('/').map_or((rest, ""), |i| (&rest[..i], &rest[i..]));
    let export = decoded(path.strip_prefix('/').unwrap_or(path))?;
    let export = Some(export).filter(|export| !export.is_empty());
    let params: Vec<(&str, &str)> = query
        .unwrap_or_default()
        .split('&')
        .filter(|param| !param.is_empty())
        .map(|param| param.split_once('='))
        .collect::<Option<_>>()?;
    if scheme == "nbd+unix" {
        let [("socket", socket)] = params[..] else { return None };
        let path = decoded(socket)?;
        return authority.is_empty().then(|| (SocketAddress::unix(&path), export));
    }
    if !matches!(scheme, "nbd" | "nbd+tcp") || !params.is_empty() {
        return None;
    }
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']')?;
            (host, rest.strip_prefix(':').unwrap_or(rest))
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    if host.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let port = match port.trim_start_matches('0') {
        "" => PORT,
        port => port,
    };
    Some((SocketAddress::Inet { host: decoded(host)?.into(), port: port.into(), more: InetOptions::default() }, export))
}

/// A part of a URI without its escapes.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(more.get(..2)?).ok()?;
            let byte = u8::from_str_radix(hex, 16).ok().filter(|byte| *byte != 0)?;
            bytes.push(byte);
            rest = &more[2..];
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    String::from_utf8(bytes).ok()
}
