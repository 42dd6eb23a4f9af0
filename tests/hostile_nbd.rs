//! Bytes that nobody who means well puts on the wire: seeded conversations of NBD clients with the server, and of servers with an `nbd`
//! node, with bytes changed, dropped, doubled and cut off. None may panic, run for ever, fill the memory, or leave anything behind.
//!
//! `common/budget.rs` says how many conversations, or for how long, and which is the first; `tests/hostile.sh` gives each kind ten million.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/budget.rs"]
mod budget;
#[path = "common/random.rs"]
mod random;

use blockjob_sim::base::errno::Errno;
use blockjob_sim::choice::Calm;
use blockjob_sim::host::HostFiles;
use blockjob_sim::nbd::Extents;
use blockjob_sim::nbd::{
    Handshake, HandshakeStep, Header, NbdMode, Offer, chunk_done, chunk_error, chunk_hole, chunk_read, chunk_status,
    cmd, simple,
};
use blockjob_sim::qmp::json::parse_one;
use blockjob_sim::world::World;
use blockjob_sim::world::aio::Stepped;
use budget::Budget;
use random::Random;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Conversations of a run without `HOSTILE_INPUTS`.
const INPUTS: u64 = if cfg!(debug_assertions) { 1_500 } else { 20_000 };
/// Dispatches that one piece of a conversation may take.
const STEPS: u64 = 50_000;
/// Length of the export.
const SIZE: u64 = 64 << 10;
/// Bytes by which the memory of the process may grow from the thousandth conversation on; both tests may run in it.
const GROWTH: u64 = 64 << 20;
/// Bytes that the server may have sent and nobody has taken.
const OUTPUT: usize = 4 << 20;

impl Random {
    /// Changes a message, or not.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() || !self.one_in(4) {
            return;
        }
        for _ in 0..=self.below(3) {
            let at = usize::try_from(self.below(bytes.len() as u64)).unwrap();
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                2 => bytes.truncate(at.max(1)),
                3 => drop(bytes.remove(at)),
                4 => bytes.insert(at, 0),
                _ => {
                    let odd: [u8; 4] =
                        self.pick(&[0_u32, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 33 << 20]).to_be_bytes();
                    for (place, byte) in bytes[at..].iter_mut().zip(odd) {
                        *place = byte;
                    }
                }
            }
            if bytes.is_empty() {
                return;
            }
        }
    }
}

/// Bytes that the process holds in memory, where `/proc` tells it.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}

/// Runs conversations; a harmful one is told by its seed. What is in memory after the first thousand is all that it takes.
fn converse(what: &str, one: impl Fn(&mut Random)) {
    let mut budget = Budget::of_environment(INPUTS, 1);
    let mut early = None;
    while let Some(number) = budget.next() {
        let seed = budget.seed + number;
        let done = catch_unwind(AssertUnwindSafe(|| one(&mut Random(seed))));
        assert!(done.is_ok(), "{what}: HOSTILE_SEED={seed} HOSTILE_INPUTS=1 does harm");
        if number == 1_000 {
            early = resident();
        }
    }
    budget.tell(what);
    if let (Some(early), Some(late)) = (early, resident()) {
        assert!(late < early + GROWTH, "{what}: {early} bytes in memory after 1,000 conversations, {late} at the end");
    }
}

/// Lets the world do what it has to do.
fn settle(world: &mut World) {
    for _ in 0..STEPS {
        if world.step(&mut Calm) != Stepped::Ran {
            return;
        }
        world.out.clear();
    }
    panic!("it does not come to rest");
}

fn ask(world: &mut World, command: &str) {
    world.submit(0, parse_one(command).expect("a command"));
    settle(world);
}

fn booted(files: HostFiles, args: &[&str]) -> World {
    let mut world = World::new(files);
    let args: Vec<Arc<str>> = args.iter().map(|arg| Arc::from(*arg)).collect();
    world.boot(&args).expect("it starts");
    world.connect(false);
    ask(&mut world, r#"{"execute": "qmp_capabilities"}"#);
    world
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [b"IHAVEOPT".as_slice(), &option.to_be_bytes(), &length, data].concat()
}

fn named(name: &str) -> Vec<u8> {
    [&u32::try_from(name.len()).unwrap().to_be_bytes()[..], name.as_bytes()].concat()
}

/// What a client may say while it negotiates.
fn some_option(random: &mut Random) -> Vec<u8> {
    let name = random.pick(&["e", "", "nope"]);
    match random.below(9) {
        0 => option(8, &[]),
        1 => option(11, &[]),
        2 => option(3, &[]),
        3 => option(2, &[]),
        4 => option(5, &[]),
        5 => option(1, name.as_bytes()),
        6 => option(random.pick(&[6, 7]), &[&named(name)[..], &[0, 1, 0, 3]].concat()),
        7 => {
            let query = random.pick(&["base:allocation", "qemu:", "qemu:dirty-bitmap:b", "base:", "x"]);
            option(random.pick(&[9, 10]), &[&named(name)[..], &1_u32.to_be_bytes(), &named(query)].concat())
        }
        _ => option(random.pick(&[0, 4, 12, 99]), &vec![0; usize::try_from(random.below(40)).unwrap()]),
    }
}

/// What it may ask.
fn some_request(random: &mut Random, extended: bool) -> Vec<u8> {
    let kind = random.pick(&[0_u16, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
    let kind = if kind == cmd::DISC && !random.one_in(8) { 0 } else { kind };
    let from = random.pick(&[0, 512, 4096, SIZE - 512, SIZE, u64::MAX - 511, 3]);
    let len = random.pick(&[0, 1, 512, 4096, SIZE, SIZE + 1, (32 << 20) + 1, u64::from(u32::MAX)]);
    let flags = random.pick(&[0_u16, 0, 1, 2, 4, 8, 16, 32, 0x40]);
    let mut bytes = (if extended { 0x21e4_1c71_u32 } else { 0x2560_9513 }).to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(random.next().to_be_bytes());
    bytes.extend(from.to_be_bytes());
    if extended {
        bytes.extend(len.to_be_bytes());
    } else {
        bytes.extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    }
    if kind == cmd::WRITE && len <= SIZE + 1 {
        bytes.resize(bytes.len() + usize::try_from(len).unwrap(), 7);
    }
    bytes
}

#[test]
fn clients_of_the_server() {
    let mut files = HostFiles::new();
    files.create("d.raw", SIZE);
    let args = ["-blockdev", "driver=raw,node-name=n,file.driver=file,file.filename=d.raw"];
    let mut world = booted(files, &args);
    ask(&mut world, r#"{"execute": "block-dirty-bitmap-add", "arguments": {"node": "n", "name": "b"}}"#);
    let start = r#"{"execute": "nbd-server-start", "arguments": {"addr": {"type": "unix", "data": {"path": "s"}}}}"#;
    ask(&mut world, start);
    let add = r#"{"execute": "block-export-add", "arguments": {"type": "nbd", "id": "e", "node-name": "n", "name": "e", "writable": true, "bitmaps": ["b"]}}"#;
    ask(&mut world, add);
    assert!(world.nbd_listens(), "there is a server to be talked to");
    converse("server", |random| {
        let mut world = world.clone();
        let conn = world.nbd_connect().expect("it listens");
        settle(&mut world);
        let (extended, chosen) = (random.one_in(3), !random.one_in(5));
        let mut pieces = vec![3_u32.to_be_bytes().to_vec()];
        for _ in 0..random.below(4) {
            pieces.push(some_option(random));
        }
        if chosen {
            pieces.push(option(if extended { 11 } else { 8 }, &[]));
            pieces.push(option(7, &[&named("e")[..], &[0, 0]].concat()));
        }
        for _ in 0..random.below(8) {
            pieces.push(some_request(random, extended));
        }
        for mut piece in pieces {
            random.spoil(&mut piece);
            let cut = usize::try_from(random.below(piece.len() as u64 + 1)).unwrap();
            for part in [&piece[..cut], &piece[cut..]] {
                world.nbd_receive(conn, part);
                settle(&mut world);
                assert!(world.nbd_take(conn).len() <= OUTPUT, "more was sent than asked for");
            }
        }
        world.nbd_forget(conn);
        settle(&mut world);
        assert!(world.exports.clients.is_empty(), "a client is left");
        ask(&mut world, r#"{"execute": "nbd-server-stop"}"#);
        assert!(world.exports.list.is_empty() && world.at_rest(), "an export is left");
    });
}

/// A server that answers well what it understands.
#[derive(Default)]
struct Server {
    handshake: Handshake,
    chosen: bool,
    input: Vec<u8>,
}

impl Server {
    fn answers(&mut self, bytes: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
        let offer = Offer {
            id: 0,
            name: "e".into(),
            description: None,
            size: SIZE,
            flags: 0xd6d,
            alignment: 1,
            max_transfer: 32 << 20,
            allocation_depth: false,
            bitmaps: Vec::new(),
        };
        self.input.extend(bytes);
        let mut answers = Vec::new();
        while !self.chosen {
            let mut out = Vec::new();
            match self.handshake.step(&self.input, std::slice::from_ref(&offer), &mut out) {
                HandshakeStep::Went(n) => drop(self.input.drain(..n)),
                HandshakeStep::Chosen(n, _) => {
                    self.input.drain(..n);
                    self.chosen = true;
                }
                HandshakeStep::More | HandshakeStep::Ends(_) => {
                    answers.push(out);
                    return answers;
                }
            }
            answers.push(out);
        }
        let mode = self.handshake.mode;
        while self.input.len() >= Header::len(mode) {
            let (request, _) = Header::parse(mode, &self.input);
            let payload = if request.kind == cmd::WRITE { usize::try_from(request.len).unwrap_or(0) } else { 0 };
            if self.input.len() < Header::len(mode) + payload {
                break;
            }
            self.input.drain(..Header::len(mode) + payload);
            if random.one_in(6) {
                answers.push(chunk_error(mode.max(NbdMode::Structured), &request, Errno::EIO, "no"));
                continue;
            }
            answers.push(match request.kind {
                cmd::READ => {
                    let half = (request.len / 2).max(1);
                    let data = vec![7; usize::try_from(half).unwrap()];
                    let mut bytes = chunk_read(mode, &request, request.from, &data, half == request.len);
                    if half < request.len {
                        bytes.extend(chunk_hole(mode, &request, request.from + half, request.len - half, true));
                    }
                    bytes
                }
                cmd::BLOCK_STATUS => {
                    let mut extents = Extents::new(true, mode);
                    extents.add(request.len.max(1), random.pick(&[0, 1, 2, 3]));
                    chunk_status(mode, &request, 0, &extents, true)
                }
                cmd::DISC => Vec::new(),
                _ if mode == NbdMode::Extended => chunk_done(mode, &request),
                _ => simple(&request, None),
            });
        }
        answers
    }
}

/// Gives the node what the server says, until neither says more.
fn exchange(world: &mut World, server: &mut Server, random: &mut Random) {
    for _ in 0..60 {
        settle(world);
        let Some(link) = world.nbd_links().map(|(link, _)| link).last() else { return };
        world.link_connected(link, Ok(()));
        let sent = world.link_take(link);
        let mut answers = server.answers(&sent, random);
        if sent.is_empty() && server.input.is_empty() && answers.is_empty() {
            return;
        }
        for answer in &mut answers {
            random.spoil(answer);
            world.link_receive(link, answer);
        }
        if answers.is_empty() || random.one_in(30) {
            world.link_hang_up(link);
        }
    }
}

#[test]
fn servers_of_a_node() {
    let mut files = HostFiles::new();
    files.connect();
    let world = booted(files, &[]);
    converse("node", |random| {
        let mut world = world.clone();
        let mut server = Server::default();
        let delay = random.pick(&[0, 0, 1]);
        let add = format!(
            r#"{{"execute": "blockdev-add", "arguments": {{"driver": "nbd", "node-name": "t", "export": "e", "reconnect-delay": {delay}, "server": {{"type": "unix", "path": "s"}}}}}}"#
        );
        world.submit(0, parse_one(&add).expect("a command"));
        settle(&mut world);
        if let Some(link) = world.nbd_links().map(|(link, _)| link).last() {
            world.link_connected(link, Ok(()));
            let mut greeting = Handshake::greeting().to_vec();
            random.spoil(&mut greeting);
            world.link_receive(link, &greeting);
        }
        exchange(&mut world, &mut server, random);
        for line in ["read 0 64k", "write -P 1 0 4k", "write -z 0 32k", "discard 0 64k", "flush", "read 3 700"] {
            if world.in_main_loop() && world.at_rest() {
                let command = format!(
                    r#"{{"execute": "human-monitor-command", "arguments": {{"command-line": "qemu-io t \"{line}\""}}}}"#
                );
                world.submit(0, parse_one(&command).expect("a command"));
            }
            exchange(&mut world, &mut server, random);
        }
        // The server is gone, for good: requests fail when reconnect-delay is over.
        without_server(&mut world);
        assert!(world.in_main_loop(), "it waits for a server that is gone: {:?}", world.waiting());
        world.submit(
            0,
            parse_one(r#"{"execute": "blockdev-del", "arguments": {"node-name": "t"}}"#).expect("a command"),
        );
        without_server(&mut world);
        let left: Vec<_> = world.nbd_links().map(|(link, _)| link).collect();
        for link in left {
            world.link_take(link);
            world.link_gone(link);
        }
        let left: Vec<_> = world.nbd_links().map(|(_, link)| link.phase).collect();
        assert!(left.is_empty(), "sockets are left: {left:?}");
    });
}

/// Runs until nothing is to be done but what waits for a server; there is none.
fn without_server(world: &mut World) {
    for _ in 0..STEPS {
        let links: Vec<_> = world.nbd_links().map(|(link, _)| link).collect();
        for link in links {
            world.link_connected(link, Err("gone".to_owned()));
            world.link_hang_up(link);
        }
        world.out.clear();
        if world.step(&mut Calm) != Stepped::Ran && (world.in_main_loop() || world.nbd_links().next().is_none()) {
            return;
        }
        if world.at_rest() {
            return;
        }
    }
}
