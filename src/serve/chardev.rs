//! Character devices: what stands between a monitor and its client (`chardev/char.c`, `char-socket.c`).

use super::fds;
use crate::qmp::drive::split_options;
use rustix::fs::Mode;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A path in the file system.
    Unix(String),
    /// A host and a port.
    Tcp(String, String),
    /// A descriptor that the process was started with.
    Fd(i32),
}

/// What a character device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChardevKind {
    /// `null`: nobody is there.
    Null,
    /// `stdio`
    Stdio,
    /// `socket`
    Socket {
        /// Where.
        address: Address,
        /// `server`: listens, and takes one client after the other.
        server: bool,
        /// `wait`: the process does not start before the first client is there.
        wait: bool,
    },
    /// `file`: output goes there, no input comes.
    File(String),
    /// `pty`: a terminal of its own. Nothing is read from it.
    Pty,
    /// `spicevmc`, and the name of its channel: nobody is there.
    Spice(String),
}

/// A character device of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chardev {
    /// `id` of `-chardev`.
    pub id: String,
    /// What it is.
    pub kind: ChardevKind,
    /// The option as it was given, for messages.
    pub option: String,
}

/// Drivers of QEMU that are not simulated; all are known by name.
const OTHERS: [&str; 15] = [
    "chardev",
    "console",
    "dbus",
    "hub",
    "memory",
    "msmouse",
    "mux",
    "parallel",
    "pipe",
    "qemu-vdagent",
    "ringbuf",
    "serial",
    "spiceport",
    "testdev",
    "udp",
];

/// Reads `-chardev BACKEND,id=…`.
///
/// # Errors
/// What QEMU says about it.
pub fn parse(text: &str) -> Result<Chardev, String> {
    let mut options = split_options(text);
    // The first option may stand without its key.
    let bare = text.split([',', '=']).next().unwrap_or_default().to_owned();
    if let Some(first) = options.first_mut()
        && !text[bare.len()..].starts_with('=')
    {
        *first = ("backend".to_owned(), bare);
    }
    let option = format!("-chardev {text}");
    let Some(id) = take(&mut options, "id") else { return Err("chardev: no id specified".to_owned()) };
    let Some(backend) = take(&mut options, "backend") else {
        return Err(format!("chardev: \"{id}\" missing backend"));
    };
    for key in ["mux", "logfile", "logappend"] {
        if take(&mut options, key).is_some_and(|value| value != "off") {
            return Err(format!("not simulated: chardev option {key}"));
        }
    }
    let kind = match backend.as_str() {
        "null" => ChardevKind::Null,
        "stdio" => {
            take(&mut options, "signal");
            ChardevKind::Stdio
        }
        "file" => ChardevKind::File(take(&mut options, "path").ok_or("chardev: file: no filename given")?),
        "socket" => socket(&mut options)?,
        "pty" => {
            take(&mut options, "path");
            ChardevKind::Pty
        }
        "spicevmc" => ChardevKind::Spice(take(&mut options, "name").ok_or("chardev: spice channel: no name given")?),
        other if OTHERS.contains(&other) => return Err(format!("not simulated: chardev {other}")),
        other => return Err(format!("'{other}' is not a valid char driver name")),
    };
    match options.first() {
        Some((key, _)) => Err(format!("Invalid parameter '{key}'")),
        None => Ok(Chardev { id, kind, option }),
    }
}

fn take(options: &mut Vec<(String, String)>, key: &str) -> Option<String> {
    // The last one counts.
    let value = options.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    options.retain(|(k, _)| k != key);
    value
}

fn switch(options: &mut Vec<(String, String)>, key: &str, default: bool) -> Result<bool, String> {
    match take(options, key).as_deref() {
        None => Ok(default),
        Some("on" | "yes" | "true" | "y") => Ok(true),
        Some("off" | "no" | "false" | "n") => Ok(false),
        Some(_) => Err(format!("Parameter '{key}' expects 'on' or 'off'")),
    }
}

/// `qemu_chr_parse_socket`
fn socket(options: &mut Vec<(String, String)>) -> Result<ChardevKind, String> {
    let (path, host) = (take(options, "path"), take(options, "host"));
    let (port, fd) = (take(options, "port"), take(options, "fd"));
    if [&path, &host, &fd].into_iter().flatten().count() > 1 {
        return Err("None or one of 'path', 'host' or 'fd' can be specified".to_owned());
    }
    let address = match (path, host, fd) {
        (Some(path), _, _) => Address::Unix(path),
        (_, Some(host), _) => Address::Tcp(host, port.ok_or("chardev: socket: no port given")?),
        (_, _, fd) => {
            let fd = fd.unwrap_or_default();
            Address::Fd(fd.parse().map_err(|_| format!("Unable to parse FD number {fd}"))?)
        }
    };
    let server = switch(options, "server", false)?;
    let given = options.iter().any(|(key, _)| key == "wait");
    let wait = switch(options, "wait", server)?;
    if given && !server {
        return Err("'wait' option is incompatible with socket in client connect mode".to_owned());
    }
    for key in ["telnet", "tn3270", "websocket"] {
        if switch(options, key, false)? {
            return Err(format!("not simulated: chardev option {key}"));
        }
    }
    for key in ["reconnect", "reconnect-ms"] {
        if take(options, key).is_some_and(|value| value != "0") {
            return Err(format!("not simulated: chardev option {key}"));
        }
    }
    for key in ["nodelay", "delay", "ipv4", "ipv6", "to", "abstract", "tight", "keep-alive"] {
        take(options, key);
    }
    for key in ["tls-creds", "tls-authz"] {
        if take(options, key).is_some() {
            return Err(format!("not simulated: chardev option {key}"));
        }
    }
    Ok(ChardevKind::Socket { address, server, wait })
}

/// Reads the short form that `-qmp`, `-monitor`, `-serial` and `-qtest` take: `unix:PATH,server=on`, `stdio`, `chardev:ID`…
/// (`qemu_chr_parse_compat`). `Ok(Err(id))` names a device that was made elsewhere.
///
/// # Errors
/// It is none of them.
pub fn parse_compat(id: &str, text: &str, option: &str) -> Result<Result<Chardev, String>, String> {
    if let Some(id) = text.strip_prefix("chardev:") {
        return Ok(Err(id.to_owned()));
    }
    let long = if matches!(text, "null" | "stdio" | "none" | "pty") {
        format!("{},id={id}", if text == "none" { "null" } else { text })
    } else if let Some(rest) = text.strip_prefix("unix:") {
        // The path is the first option, by name or without one.
        let named = rest.split(',').next().is_some_and(|first| first.contains('='));
        format!("socket,id={id},{}{rest}", if named { "" } else { "path=" })
    } else if let Some(rest) = text.strip_prefix("tcp:") {
        let (place, options) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
        let Some((host, port)) = place.rsplit_once(':') else {
            return Err(format!("'{text}' is not a valid char driver"));
        };
        let host = if host.is_empty() { "127.0.0.1" } else { host.trim_matches(['[', ']']) };
        format!("socket,id={id},host={host},port={port}{options}")
    } else if let Some(rest) = text.strip_prefix("file:") {
        format!("file,id={id},path={rest}")
    } else {
        let name = text.split([',', ':']).next().unwrap_or_default();
        if matches!(text, "vc") || text.starts_with("vc:") {
            format!("null,id={id}")
        } else if OTHERS.contains(&name) || name == "mon" || name == "telnet" {
            return Err(format!("not simulated: chardev {name}"));
        } else {
            return Err(format!("'{text}' is not a valid char driver"));
        }
    };
    let mut chardev = parse(&long)?;
    chardev.option = option.to_owned();
    Ok(Ok(chardev))
}

/// The reading and the writing end of a connection.
#[derive(Debug)]
pub(super) enum Conn {
    /// One descriptor for both.
    Socket(OwnedFd),
    /// Standard input and output.
    Stdio,
    /// Only to be written to.
    Sink(OwnedFd),
}

/// An open character device.
#[derive(Debug)]
pub(super) struct Open {
    /// Takes the next client, when there is none.
    pub listener: Option<OwnedFd>,
    /// The path to remove in the end.
    pub path: Option<String>,
    /// One at a time, as at QEMU's socket character devices.
    pub conn: Option<Conn>,
    /// A terminal, and its name.
    pub pty: Option<(OwnedFd, String)>,
}

/// What the system says of an error, without Rust's `(os error N)`.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

impl Chardev {
    /// The device in words, as QEMU shows it while nobody is connected.
    pub fn shown(&self) -> String {
        match &self.kind {
            ChardevKind::Socket { address: Address::Unix(path), server, .. } => {
                format!("disconnected:unix:{path}{}", if *server { ",server=on" } else { "" })
            }
            ChardevKind::Socket { address: Address::Tcp(host, port), server, .. } => {
                format!("disconnected:tcp:{host}:{port}{}", if *server { ",server=on" } else { "" })
            }
            _ => self.id.clone(),
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// What QEMU says when it can't.
    pub(super) fn open(&self) -> Result<Open, String> {
        let none = Open { listener: None, path: None, conn: None, pty: None };
        let ChardevKind::Socket { address, server, .. } = &self.kind else {
            return match &self.kind {
                ChardevKind::Stdio => Ok(Open { conn: Some(Conn::Stdio), ..none }),
                ChardevKind::File(path) => {
                    let mut options = std::fs::OpenOptions::new();
                    let file = options.write(true).create(true).truncate(true).open(path);
                    let file = file.map_err(|e| format!("Unable to open '{path}': {}", plain(&e)))?;
                    Ok(Open { conn: Some(Conn::Sink(file.into())), ..none })
                }
                ChardevKind::Pty => {
                    let (fd, name) = open_pty().map_err(|errno| format!("Failed to create PTY: {errno}"))?;
                    Ok(Open { pty: Some((fd, name)), ..none })
                }
                _ => Ok(none),
            };
        };
        match (address, server) {
            (Address::Fd(number), server) => {
                let fd = fds::take(*number).map_err(|_| format!("File descriptor '{number}' is not a socket"))?;
                if rustix::net::sockopt::socket_type(&fd).is_err() {
                    return Err(format!("File descriptor '{number}' is not a socket"));
                }
                Ok(if *server {
                    Open { listener: Some(fd), ..none }
                } else {
                    Open { conn: Some(Conn::Socket(fd)), ..none }
                })
            }
            (Address::Unix(path), true) => {
                let listener =
                    listen_private(path).map_err(|e| format!("Failed to bind socket to {path}: {}", plain(&e)))?;
                Ok(Open { listener: Some(listener.into()), path: Some(path.clone()), ..none })
            }
            (Address::Unix(path), false) => {
                let stream =
                    UnixStream::connect(path).map_err(|e| format!("Failed to connect to '{path}': {}", plain(&e)))?;
                Ok(Open { conn: Some(Conn::Socket(stream.into())), ..none })
            }
            (Address::Tcp(host, port), server) => {
                let number: u16 = port.parse().map_err(|_| {
                    format!("address resolution failed for {host}:{port}: Servname not supported for ai_socktype")
                })?;
                let place = (host.as_str(), number);
                if *server {
                    let listener =
                        TcpListener::bind(place).map_err(|e| format!("Failed to bind socket: {}", plain(&e)))?;
                    return Ok(Open { listener: Some(listener.into()), ..none });
                }
                let stream = TcpStream::connect(place)
                    .map_err(|e| format!("Failed to connect to '{host}:{port}': {}", plain(&e)))?;
                Ok(Open { conn: Some(Conn::Socket(stream.into())), ..none })
            }
        }
    }
}

/// The side of a new terminal that is ours, and the name of the other one.
fn open_pty() -> rustix::io::Result<(OwnedFd, String)> {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let fd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&fd)?;
    unlockpt(&fd)?;
    let name = ptsname(&fd, Vec::new())?;
    Ok((fd, name.to_string_lossy().into_owned()))
}

/// A listening socket that only this user can connect to. What stands at the path before is removed, as QEMU does.
pub(super) fn listen_private(path: &str) -> io::Result<UnixListener> {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|m| std::os::unix::fs::FileTypeExt::is_socket(&m.file_type()));
    if is_socket {
        let _ = std::fs::remove_file(path);
    }
    // The process has one thread here: nobody else makes files meanwhile.
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    listener
}
