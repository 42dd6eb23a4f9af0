//! The served world: a QEMU that real clients talk to.
//!
//! One thread owns the [`World`](crate::world::World) and the connections. It lets the world come to rest, sends its output to the clients,
//! waits for input, and submits the next command. [`cmdline`] reads QEMU's options, [`chardev`] opens what they name, `wire` is the loop,
//! `engine` runs the world and decides when it looks at the next command, `pace` lets sleeps pass. Real image
//! files come from [`images`](crate::images).
//!
//! This is part of the shell: it opens sockets and files and knows the time of day. None of that reaches the world, but for the moment
//! at which a command comes.
#![expect(
    clippy::disallowed_macros,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the shell serves real clients over real sockets, in real time"
)]

pub mod chardev;
pub mod cmdline;
mod engine;
pub mod help;
mod monitor;
mod nbd;
mod nbd_links;
pub mod options;
pub mod pace;
mod port;
mod process;
mod record;
pub mod sim_options;
mod waiting;
mod wire;

use crate::host::HostFiles;
pub use crate::qmp::names::commands;
use crate::trace::jsonl::{self, Header};
use crate::world::World;
use chardev::ChardevKind;
use cmdline::{AddFd, ChardevMode, Config, Invocation};
use console::Console;
use engine::Engine;
use hmp::Hmp;
use monitor::{console, describe, hmp, pretty, qmp, qtest, readline};
use pidfile::PidFile;
use port::Port;
pub use process::outfile;
use process::{daemon, fds, pidfile, signals};
use qmp::Qmp;
use qtest::Qtest;
use signals::Signals;
use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use wire::{Users, Wire};

/// Does what QEMU's arguments ask for. The exit code.
#[must_use]
pub fn main(program: &str, args: &[String]) -> u8 {
    let done = match cmdline::parse(program, args) {
        Ok(Invocation::Print(text)) => {
            let mut stdout = std::io::stdout();
            let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
            match written {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    Err(format!("Could not write to standard output: {}", chardev::plain(&error)))
                }
                _ => return 0,
            }
        }
        Ok(Invocation::Serve(config)) if config.daemonize && !config.daemon_child => match daemon::start() {
            Ok(code) => return code,
            Err(why) => Err(why),
        },
        Ok(Invocation::Serve(config)) => serve(&config),
        Err(why) => Err(why),
    };
    match done {
        Ok(()) => 0,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "{program}: {why}");
            1
        }
    }
}

/// Serves until the process is asked to end.
///
/// # Errors
/// What is wrong with the configuration, or why the process ends before its time.
pub fn serve(config: &Config) -> Result<(), String> {
    if config.daemon_child {
        daemon::begin();
    }
    for path in [&config.sim.record, &config.sim.trace].into_iter().flatten() {
        outfile::probe(path).map_err(|error| unwritten(path, &chardev::plain(&error)))?;
    }
    // Before anything else is made, as in QEMU; it goes with this function, however that ends.
    let _pidfile = config.pidfile.as_deref().map(PidFile::write).transpose()?;
    let fds = take_fds(config)?;
    let ports = open_ports(config)?;
    // As QEMU's, the process that still waits for its clients ends as signals end processes.
    let signals = Signals::catch()?;
    let (mut qmps, mut hmps, mut qtests) = (Vec::new(), Vec::new(), Vec::new());
    for user in &config.users {
        let port = config.chardevs.iter().position(|chardev| chardev.id == user.chardev).expect("checked before");
        match user.mode {
            ChardevMode::Control { pretty } => qmps.push(Qmp::new(port, pretty)),
            ChardevMode::Readline => hmps.push(Hmp::new(port)),
            ChardevMode::Qtest => qtests.push(Qtest::new(port)),
            ChardevMode::Nobody => {}
        }
    }
    let mut engine = Engine::new(World::new(HostFiles::new()), &config.sim);
    for ((set, fd), add) in fds.into_iter().zip(&config.fds) {
        engine.world.passed.add(set, fd.as_raw_fd().into(), add.opaque.as_deref().map(Into::into));
        engine.images.add_fd(set, fd);
    }
    engine.world.machine.name = config.name.as_deref().map(Into::into);
    engine.world.machine.uuid = config.uuid.as_deref().map(Into::into);
    let chardevs = describe::all(config, &ports);
    engine.describe(chardevs);
    Arc::make_mut(&mut engine.world.machine.board).thread = u64::from(std::process::id());
    let booted = engine.boot(&config.block);
    let mut console = Console::new(&config.program);
    for output in std::mem::take(&mut engine.out) {
        console.put(&output);
    }
    booted?;
    // Images are locked from here on, whether anybody asks for something or not.
    engine.sync();
    if !config.stopped {
        engine.world.start();
    }
    let mut wire = Wire::new(console, engine, ports, Users { qmps, hmps, qtests }, signals);
    wire.config = config.clone();
    wire.qtest_log = qtest::Log::of(config.qtest_log.as_deref());
    if config.daemon_child {
        daemon::ready()?;
    }
    let served = wire.serve();
    wire.sync();
    if wire.engine.broken.is_none() {
        wire.close_qtests();
    }
    wire.drain();
    wire.clean_up();
    keep(config, &mut wire.engine)?;
    let Some(broken) = &wire.engine.broken else { return served.and_then(|()| wire.trouble().map_or(Ok(()), Err)) };
    Err(match &config.sim.record {
        Some(file) => format!("{broken}\nagain: blockjob-sim run --check {}", file.display()),
        None => format!("{broken}\nwith --sim-record FILE the run can be reproduced"),
    })
}

/// Writes the trace and the recording; a failure of one does not prevent the other.
fn keep(config: &Config, engine: &mut Engine) -> Result<(), String> {
    let (trace, yaml) = engine.finish();
    let write = |path: &Path, text: &str| {
        outfile::write(path, text.as_bytes()).map_err(|error| unwritten(path, &chardev::plain(&error)))
    };
    let mut troubles = Vec::new();
    if let (Some(path), Some(yaml)) = (&config.sim.record, yaml) {
        troubles.extend(yaml.map_err(|why| unwritten(path, &why)).and_then(|yaml| write(path, &yaml)).err());
    }
    if let Some(path) = &config.sim.trace {
        let schedule = config.sim.seed.map_or_else(|| "calm".to_owned(), |seed| format!("seed {seed}"));
        let header = Header { scenario: "served".into(), schedule: schedule.into(), level: config.sim.level };
        troubles.extend(write(path, &jsonl::to_string(&header, &trace, true)).err());
    }
    if troubles.is_empty() { Ok(()) } else { Err(troubles.join("\n")) }
}

/// A file that could not be written.
fn unwritten(path: &Path, why: &str) -> String {
    format!("Could not write '{}': {why}", path.display())
}

/// Takes the descriptors of `-add-fd` over.
fn take_fds(config: &Config) -> Result<Vec<(i64, OwnedFd)>, String> {
    let take = |add: &AddFd| {
        let fd = fds::take(add.fd).map_err(|_| format!("{}: fd is not valid or already in use", add.option))?;
        Ok((add.set, fd))
    };
    config.fds.iter().map(take).collect()
}

/// Opens the character devices, inherited descriptors first, and waits for clients where that is asked for.
fn open_ports(config: &Config) -> Result<Vec<Port>, String> {
    let mut ports: Vec<Option<Port>> = config.chardevs.iter().map(|_| None).collect();
    let inherited = |kind: &ChardevKind| matches!(kind, ChardevKind::Socket { address: chardev::Address::Fd(_), .. });
    for wanted in [true, false] {
        for (port, chardev) in ports.iter_mut().zip(&config.chardevs) {
            if inherited(&chardev.kind) == wanted {
                let open = chardev.open().map_err(|why| format!("{}: {why}", chardev.option))?;
                *port = Some(Port::new(open));
            }
        }
    }
    let mut ports: Vec<Port> = ports.into_iter().flatten().collect();
    for (port, chardev) in ports.iter_mut().zip(&config.chardevs) {
        if matches!(chardev.kind, ChardevKind::Socket { server: true, wait: true, .. }) {
            let text = format!("{}: info: QEMU waiting for connection on: {}", chardev.option, chardev.shown());
            let _ = writeln!(std::io::stderr(), "{}: {text}", config.program);
            while !port.accept() {}
        }
    }
    Ok(ports)
}
