//! Clients of a real NBD server, for the steps of a scenario that has some. What they are answered is compared with what the scenario
//! expects by the model's client alone; here they only do the same at the same places.
#![expect(clippy::disallowed_types, reason = "clients of a real QEMU's NBD server")]

use crate::base::Json;
use crate::nbd::{Greeting, Mode, Talk, cmd};
use crate::scenario::nbd::{NbdAction, NbdStep, Replies};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The clients, by name, and where the server listens.
#[derive(Debug, Default)]
pub(super) struct NbdClients {
    socket: Option<PathBuf>,
    clients: BTreeMap<Arc<str>, (UnixStream, Talk)>,
}

impl NbdClients {
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
        if let NbdAction::Connect { export, replies, contexts, refused } = &step.action {
            return self.connect(name, export, *replies, contexts, refused.is_some());
        }
        if matches!(step.action, NbdAction::Gone) {
            self.clients.remove(name);
            return Ok(());
        }
        let Some((stream, talk)) = self.clients.get_mut(name) else { return Err(format!("no NBD client '{name}'")) };
        match &step.action {
            NbdAction::Ask { kind, offset, length, pattern, flags } => {
                let bytes = if *kind == cmd::WRITE { usize::try_from(*length).unwrap_or_default() } else { 0 };
                talk.ask(*kind, *flags, *offset, *length, &vec![*pattern; bytes]);
            }
            NbdAction::Answer(_) => {
                while talk.answer().is_none() && exchange(stream, talk)? {}
                return Ok(());
            }
            NbdAction::Disconnect => talk.ask(cmd::DISC, 0, 0, 0, &[]),
            NbdAction::Stall(_) | NbdAction::Gone | NbdAction::Connect { .. } => return Ok(()),
        }
        let _ = stream.write_all(&talk.take_out());
        if matches!(step.action, NbdAction::Disconnect) {
            self.clients.remove(name);
        }
        Ok(())
    }

    fn connect(
        &mut self,
        name: &Arc<str>,
        export: &Arc<str>,
        replies: Replies,
        contexts: &[Arc<str>],
        refused: bool,
    ) -> Result<(), String> {
        let socket = self.socket.as_ref().ok_or("no NBD server was started")?;
        let mut stream = UnixStream::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        let mode = match replies {
            Replies::Simple => Mode::Simple,
            Replies::Structured => Mode::Structured,
            Replies::Extended => Mode::Extended,
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
        Err(_) => Err("no answer came from the NBD server".to_owned()),
    }
}
