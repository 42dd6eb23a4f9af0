//! Clients of a real NBD server, for the steps of a scenario that has some, and servers for its nodes: `qemu-nbd`. What they are answered is compared with what the scenario
//! expects by the model's client alone; here they only do the same at the same places.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "clients of a real QEMU's NBD server, and servers for it"
)]

use crate::base::Json;
use crate::host::network::{NbdServer, ServerState};
use crate::nbd::{Answer, Greeting, NbdMode, Talk, cmd};
use crate::scenario::nbd::{MAY_BE_REFUSED, NbdAction, NbdStep, Replies};
use rustix::process::{Pid, Signal};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A client has waited in vain: what it asks for may be held up by a drained section that lasts until a job is finalised.
pub(super) const NO_ANSWER: &str = "no answer came from the NBD server";

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The clients, by name, and where the server listens.
#[derive(Debug, Default)]
pub(super) struct NbdClients {
    socket: Option<PathBuf>,
    clients: BTreeMap<Arc<str>, (UnixStream, Talk)>,
    /// Those that found nobody who listened.
    alone: BTreeSet<Arc<str>>,
    /// What they were answered, in words.
    pub(super) answers: Vec<String>,
    /// Those that have not said anything.
    silent: BTreeMap<Arc<str>, UnixStream>,
    /// The directory of the scenario's files.
    dir: PathBuf,
    /// Servers, by where they listen.
    servers: BTreeMap<Arc<str>, Served>,
}

/// A `qemu-nbd`, and what it serves.
#[derive(Debug)]
struct Served {
    server: NbdServer,
    child: Option<Child>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}

impl NbdClients {
    /// None, of a scenario whose files are in `dir`.
    pub(super) fn of(dir: &Path) -> NbdClients {
        NbdClients { dir: dir.to_owned(), ..NbdClients::default() }
    }

    /// A command is about to be sent: it may start the server.
    pub(super) fn note(&mut self, command: &Json, dir: &Path) {
        let path = command.get("arguments").and_then(|arguments| arguments.get("addr")?.get("data")?.get("path"));
        if let Some(path) = path.and_then(Json::as_str) {
            self.socket = Some(dir.join(path));
        }
    }

    /// Does a step.
    ///
    /// # Errors
    /// No answer came, or there is no connection.
    pub(super) fn step(&mut self, step: &NbdStep) -> Result<(), String> {
        let name = &step.client;
        if let NbdAction::Connect { export, replies, contexts, refused, silent } = &step.action {
            let lenient = refused.as_deref() == Some(MAY_BE_REFUSED);
            let stream = match self.silent.remove(name).map_or_else(|| self.dial(), Ok) {
                Ok(stream) => stream,
                Err(_) if lenient => {
                    self.alone.insert(name.clone());
                    return Ok(());
                }
                Err(why) => return Err(why),
            };
            self.alone.remove(name);
            if *silent {
                self.silent.insert(name.clone(), stream);
                return Ok(());
            }
            return self.negotiate(name, stream, (export, *replies, contexts), refused.is_some());
        }
        if let NbdAction::Serve(server) = &step.action {
            return self.serve(name, server);
        }
        if let NbdAction::Server(state) = &step.action {
            return self.server(name, *state);
        }
        if self.alone.contains(name) {
            self.answered(name, &step.action, None);
            return Ok(());
        }
        if matches!(step.action, NbdAction::Gone) {
            self.clients.remove(name);
            self.silent.remove(name);
            return Ok(());
        }
        if let (NbdAction::Answer(_), Some(stream)) = (&step.action, self.silent.get_mut(name)) {
            // All that it can be answered is the end of the connection.
            std::io::copy(stream, &mut std::io::sink()).map_err(|error| error.to_string())?;
            self.answered(name, &step.action, None);
            return Ok(());
        }
        let Some((stream, talk)) = self.clients.get_mut(name) else { return Err(format!("no NBD client '{name}'")) };
        let ready = talk.is_ready();
        match &step.action {
            NbdAction::Ask { .. } | NbdAction::Answer(_) if !ready => {
                self.answered(name, &step.action, None);
                return Ok(());
            }
            NbdAction::Ask { kind, offset, length, pattern, flags } => {
                let bytes = if *kind == cmd::WRITE { usize::try_from(*length).unwrap_or_default() } else { 0 };
                talk.ask(*kind, *flags, *offset, *length, &vec![*pattern; bytes]);
            }
            NbdAction::Answer(_) => {
                let answer = loop {
                    match talk.answer() {
                        None if exchange(stream, talk)? => {}
                        answer => break answer,
                    }
                };
                self.answered(name, &step.action, answer.as_ref());
                return Ok(());
            }
            NbdAction::Disconnect if ready => talk.ask(cmd::DISC, 0, 0, 0, &[]),
            NbdAction::Disconnect => {}
            NbdAction::Stall(false) => {
                // All that waits is read, so that the server can go on.
                let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
                while exchange(stream, talk).unwrap_or(false) {}
                let _ = stream.set_read_timeout(Some(PATIENCE));
                return Ok(());
            }
            NbdAction::Stall(true)
            | NbdAction::Gone
            | NbdAction::Connect { .. }
            | NbdAction::Serve(_)
            | NbdAction::Server(_) => return Ok(()),
        }
        let _ = stream.write_all(&talk.take_out());
        if matches!(step.action, NbdAction::Disconnect) {
            self.clients.remove(name);
        }
        Ok(())
    }

    /// Starts `qemu-nbd`, and waits until it listens.
    fn serve(&mut self, socket: &Arc<str>, server: &NbdServer) -> Result<(), String> {
        let path = self.dir.join(&**socket);
        let _ = std::fs::remove_file(&path);
        let mut command = Command::new("qemu-nbd");
        command.current_dir(&self.dir).stdin(Stdio::null()).stderr(Stdio::null());
        command.args(["--format=raw", "--persistent", "--shared=0", "--export-name", &server.export]);
        command.arg("--socket").arg(&path);
        if server.read_only {
            command.arg("--read-only");
        }
        if server.unmaps {
            command.arg("--discard=unmap");
        }
        let child = command.arg(&*server.file).spawn().map_err(|error| format!("qemu-nbd: {error}"))?;
        let mut served = Served { server: server.clone(), child: Some(child) };
        for _ in 0..500 {
            if UnixStream::connect(&path).is_ok() {
                self.servers.insert(socket.clone(), served);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        served.end(Signal::KILL);
        Err(format!("qemu-nbd does not listen at {socket}"))
    }

    fn server(&mut self, socket: &Arc<str>, state: ServerState) -> Result<(), String> {
        let served = self.servers.get_mut(socket).ok_or_else(|| format!("no server was started at '{socket}'"))?;
        match state {
            ServerState::Stalled => served.signal(Signal::STOP),
            ServerState::Killed => served.end(Signal::KILL),
            ServerState::Ended => served.end(Signal::TERM),
            ServerState::Up if served.child.is_some() => served.signal(Signal::CONT),
            ServerState::Up => {
                let server = served.server.clone();
                return self.serve(socket, &server);
            }
        }
        Ok(())
    }

    /// Notes an answer, as the simulated client does; `None`: the connection has ended.
    fn answered(&mut self, name: &Arc<str>, action: &NbdAction, answer: Option<&Answer>) {
        if matches!(action, NbdAction::Answer(_)) {
            let text = answer.map_or_else(|| "closed".to_owned(), Answer::shown);
            self.answers.push(format!("{name}: {text}"));
        }
    }

    fn dial(&self) -> Result<UnixStream, String> {
        let socket = self.socket.as_ref().ok_or("no NBD server was started")?;
        let stream = UnixStream::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        Ok(stream)
    }

    fn negotiate(
        &mut self,
        name: &Arc<str>,
        mut stream: UnixStream,
        (export, replies, contexts): (&Arc<str>, Replies, &[Arc<str>]),
        refused: bool,
    ) -> Result<(), String> {
        let mode = match replies {
            Replies::Simple => NbdMode::Simple,
            Replies::Structured => NbdMode::Structured,
            Replies::Extended => NbdMode::Extended,
        };
        let mut talk = Talk::new(Greeting { export: export.clone(), mode, contexts: contexts.to_vec() });
        while !talk.is_ready() && talk.failure.is_none() {
            if !exchange(&mut stream, &mut talk)? {
                break;
            }
        }
        match (talk.is_ready(), refused) {
            (false, false) => Err(talk.failure.map_or_else(|| "the server closed".to_owned(), |why| why.to_string())),
            _ => {
                self.clients.insert(name.clone(), (stream, talk));
                Ok(())
            }
        }
    }
}

/// Sends what is to be sent and takes in what comes. False at the end of the connection.
fn exchange(stream: &mut UnixStream, talk: &mut Talk) -> Result<bool, String> {
    let _ = stream.write_all(&talk.take_out());
    let mut buffer = vec![0; 1 << 16];
    match stream.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(n) => {
            talk.receive(&buffer[..n]);
            let _ = stream.write_all(&talk.take_out());
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(false),
        Err(_) => Err(NO_ANSWER.to_owned()),
    }
}

impl Served {
    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}
