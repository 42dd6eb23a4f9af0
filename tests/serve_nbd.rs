//! Addresses of a served NBD server, and of its clients.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests run programs, use sockets and read the path of their own program"
)]

#[path = "common/served.rs"]
mod served;

use blockjob_sim::base::Json;
use blockjob_sim::qmp::types::{InetOptions, SocketAddress};
use served::{Client, Served, said, send_with_fd};
use std::io::Read;

/// `nbd-server-start` with members of an address, of which `type` is the first.
fn listens(kind: &str, data: &str) -> String {
    let addr = format!(r#"{{"type": "{kind}", "data": {{{data}}}}}"#);
    format!(r#"{{"execute": "nbd-server-start", "arguments": {{"addr": {addr}}}}}"#)
}

/// A node that is a client of such an address.
fn connects(kind: &str, data: &str) -> String {
    let file = format!(r#"{{"driver": "nbd", "export": "n", "server": {{"type": "{kind}", {data}}}}}"#);
    format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"driver": "raw", "node-name": "c", "read-only": true, "file": {file}}}}}"#
    )
}

const EXPORTED: &str =
    r#"{"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "n", "size": 65536}}"#;
const EXPORT: &str = r#"{"execute": "nbd-server-add", "arguments": {"device": "n"}}"#;
const STOP: &str = r#"{"execute": "nbd-server-stop"}"#;

/// The file name of the node that `connects` made, which is removed.
fn name_of_client(client: &mut Client) -> String {
    let nodes = client.ok(r#"{"execute": "query-named-block-nodes"}"#);
    let mut nodes = nodes.as_list().expect("a list").iter();
    let node = nodes.find(|node| node.get("node-name").and_then(Json::as_str) == Some("c")).expect("the node");
    let name = node.get("file").and_then(Json::as_str).expect("a name").to_owned();
    client.ok(r#"{"execute": "blockdev-del", "arguments": {"node-name": "c"}}"#);
    name
}

/// Each as QEMU 10.0.2 says it of `nbd_server_start`.
#[test]
fn addresses_have_a_text() {
    let inet = |host: &str, port: &str, more| SocketAddress::Inet { host: host.into(), port: port.into(), more };
    let none = InetOptions::default();
    let good = [
        ("tcp:127.0.0.1:1,to=5", inet("127.0.0.1", "1", InetOptions { to: Some(5), ..none })),
        (":33001", inet("", "33001", none)),
        ("[::1]:33001", inet("::1", "33001", none)),
        ("localhost:1,ipv4", inet("localhost", "1", InetOptions { ipv4: Some(true), ..none })),
        ("localhost:1,ipv4=off,foo", inet("localhost", "1", InetOptions { ipv4: Some(false), ..none })),
        ("a:b:c", inet("a", "b:c", none)),
        ("unix:/x,y", SocketAddress::unix("/x,y")),
        ("fd:x", SocketAddress::Fd { name: "x".into(), number: None }),
    ];
    for (text, address) in good {
        assert_eq!(SocketAddress::parse(text), Ok(address), "{text}");
    }
    let bad = [
        ("127.0.0.1:33110,to=x", "error parsing to= argument"),
        ("[::1]33001", "error parsing IPv6 address '[::1]33001'"),
        ("localhost:33001,ipv6=bad", "error parsing 'ipv6' flag '=bad'"),
        ("localhost", "error parsing address 'localhost'"),
        ("localhost:", "error parsing address 'localhost:'"),
        (":", "error parsing port in address ':'"),
        ("fd:", "invalid file descriptor address"),
        ("unix:", "invalid Unix socket address"),
    ];
    for (text, error) in bad {
        assert_eq!(SocketAddress::parse(text), Err(error.to_owned()), "{text}");
    }
}

/// The names and texts are those of QEMU 10.0.2.
#[test]
fn nbd_listens_on_and_connects_to_addresses_of_all_forms() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    // The name may have been given to another socket since, but hardly to all.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let v6 = std::net::TcpListener::bind("[::1]:0").and_then(|listener| listener.local_addr()).map(|at| at.port());
    let (server, other) = (Served::start(&[]), Served::start(&[]));
    let (mut server, mut other) = (server.connect().negotiate(), other.connect().negotiate());
    server.ok(EXPORTED);
    let name = format!("blockjob-sim-{}", std::process::id());
    let mut good = vec![
        (
            "inet",
            format!(r#""host": "127.0.0.1", "port": "{free}", "ipv4": true"#),
            format!(
                r#"json:{{"driver": "raw", "file": {{"server.port": "{free}", "server.host": "127.0.0.1", "driver": "nbd", "export": "n", "server.type": "inet", "server.ipv4": true}}}}"#
            ),
        ),
        (
            "inet",
            format!(r#""host": "127.0.0.1", "port": "{free}", "numeric": true, "keep-alive": true"#),
            format!("nbd://127.0.0.1:{free}/n"),
        ),
        ("unix", format!(r#""path": "{name}", "abstract": true"#), format!("nbd+unix:///n?socket={name}")),
        (
            "unix",
            format!(r#""path": "{name}", "abstract": true, "tight": false"#),
            format!("nbd+unix:///n?socket={name}"),
        ),
    ];
    if let Ok(v6) = v6 {
        good.push((
            "inet",
            format!(r#""host": "::1", "port": "{v6}", "ipv4": false, "ipv6": true"#),
            format!(
                r#"json:{{"driver": "raw", "file": {{"server.port": "{v6}", "server.host": "::1", "server.ipv6": true, "driver": "nbd", "export": "n", "server.type": "inet", "server.ipv4": false}}}}"#
            ),
        ));
        good.push(("inet", format!(r#""host": "::1", "port": "{v6}""#), format!("nbd://::1:{v6}/n")));
    }
    for (kind, data, filename) in &good {
        server.ok(&listens(kind, data));
        server.ok(EXPORT);
        other.ok(&connects(kind, data));
        assert_eq!(name_of_client(&mut other), *filename, "{data}");
        server.ok(STOP);
    }
    // An abstract name that is filled up is another one.
    let (tight, filled) = (&good[2].1, &good[3].1);
    server.ok(&listens("unix", filled));
    assert_eq!(
        said(&mut other, &connects("unix", tight)),
        format!("Failed to connect to '{name}': Connection refused")
    );
    server.ok(STOP);
    // The first port of a range that nobody has.
    let range = |last: u16| format!(r#""host": "127.0.0.1", "port": "{port}", "to": {last}"#);
    server.ok(&listens("inet", &range(port.saturating_add(50))));
    let found = (port + 1..=port.saturating_add(50)).any(|port| {
        let mut magic = [0; 8];
        let stream = std::net::TcpStream::connect(("127.0.0.1", port));
        stream.and_then(|mut stream| stream.read_exact(&mut magic)).is_ok() && &magic == b"NBDMAGIC"
    });
    assert!(found, "nobody listens above {port}");
    server.ok(STOP);
    let resolution = |host: &str, port: &str, why| format!("address resolution failed for {host}:{port}: {why}");
    let at = |host: &str, port: &str, more: &str| format!(r#""host": "{host}", "port": "{port}"{more}"#);
    let long = "a".repeat(108);
    let bad = [
        (range(port), "Failed to find an available port: Address already in use".to_owned()),
        (range(0).replace(": 0", ": 70000"), "Parameter 'to' expects uint16_t".to_owned()),
        (at("::1", "1", r#", "ipv4": true"#), resolution("::1", "1", "Address family for hostname not supported")),
        (
            at("127.0.0.1", "1", r#", "ipv6": true"#),
            resolution("127.0.0.1", "1", "Address family for hostname not supported"),
        ),
        (
            at("localhost", "1", r#", "ipv4": false, "ipv6": false"#),
            "Cannot disable IPv4 and IPv6 at same time".to_owned(),
        ),
        (at("localhost", "1", r#", "numeric": true"#), resolution("localhost", "1", "Name or service not known")),
        (at("127.0.0.1", "-1", ""), resolution("127.0.0.1", "-1", "Servname not supported for ai_socktype")),
        (at("192.0.2.1", "33001", ""), "Failed to bind socket: Cannot assign requested address".to_owned()),
    ];
    for (data, text) in bad {
        assert_eq!(said(&mut server, &listens("inet", &data)), text, "{data}");
    }
    for (data, text) in [
        (format!(r#""path": "{long}", "abstract": true"#), format!("UNIX socket path '{long}' is too long")),
        (
            r#""path": "/nosuch/x""#.to_owned(),
            "Failed to bind socket to /nosuch/x: No such file or directory".to_owned(),
        ),
    ] {
        assert_eq!(said(&mut server, &listens("unix", &data)), text, "{data}");
    }
    let refused = format!("Failed to connect to '127.0.0.1:{free}': Connection refused");
    assert_eq!(said(&mut other, &connects("inet", &at("127.0.0.1", &free.to_string(), r#", "ipv6": true"#))), refused);
}

/// The texts are those of QEMU 10.0.2.
#[test]
fn nbd_takes_sockets_that_were_passed() {
    let (served, other) = (Served::start(&[]), Served::start(&[]));
    let (mut server, mut other) = (served.connect().negotiate(), other.connect().negotiate());
    server.ok(EXPORTED);
    let get = |client: &mut Client, fd: std::os::fd::OwnedFd| {
        send_with_fd(client, r#"{"execute": "getfd", "arguments": {"fdname": "a"}}"#, &fd.into());
        assert!(client.json().get("return").is_some());
    };
    let (listen, connect) = (listens("fd", r#""str": "a""#), connects("fd", r#""str": "a""#));
    let missing = "File descriptor named 'a' has not been found";
    let file = || std::fs::File::open(std::env::current_exe().expect("a path")).expect("a file").into();
    for (client, command) in [(&mut server, &listen), (&mut other, &connect)] {
        assert_eq!(said(client, command), missing);
        get(client, file());
        assert_eq!(said(client, command), "File descriptor 'a' is not a socket");
        // It was used up.
        assert_eq!(said(client, command), missing);
    }
    let path = served.dir.path().join("nbd.sock");
    let bound = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let used = std::os::unix::net::UnixStream::connect(&path).expect("a listener");
    get(&mut server, used.into());
    assert_eq!(said(&mut server, &listen), "Failed to listen on fd socket: Invalid argument");
    drop(bound);
    std::fs::remove_file(&path).expect("it is there");
    get(&mut server, std::os::unix::net::UnixListener::bind(&path).expect("a socket").into());
    server.ok(&listen);
    server.ok(EXPORT);
    get(&mut other, std::os::unix::net::UnixStream::connect(&path).expect("a listener").into());
    other.ok(&connect);
    other.ok(r#"{"execute": "human-monitor-command", "arguments": {"command-line": "qemu-io c \"read -P 0 0 64k\""}}"#);
    let shown =
        r#"json:{"driver": "raw", "file": {"server.str": "a", "driver": "nbd", "export": "n", "server.type": "fd"}}"#;
    assert_eq!(name_of_client(&mut other), shown);
    server.ok(STOP);
    assert!(!path.exists(), "the path is removed with the server");
}
