//! Clients of the NBD server, as a scenario drives them. Each has a connection of its own; what it is sent it reads at once, unless it
//! stalls.

use crate::nbd::{Answer, Greeting, NbdMode, Talk, cmd, errno_to_wire};
use crate::scenario::nbd::{NbdAction, NbdAnswer, Replies};
use crate::world::World;
use crate::world::arena::ConnId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Actor {
    /// Its connection; `None` if nobody listened, so that it never had one.
    conn: Option<ConnId>,
    talk: Talk,
    /// It reads nothing.
    stalls: bool,
    /// It says nothing, either.
    silent: bool,
    /// The server has closed the connection.
    closed: bool,
    /// It is gone.
    left: bool,
}

/// All clients, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct NbdClients {
    actors: BTreeMap<Arc<str>, Actor>,
}

impl NbdClients {
    /// Whether the scenario has none.
    pub(super) fn is_empty(&self) -> bool {
        self.actors.is_empty()
    }

    /// Lets bytes through, both ways.
    pub(super) fn pump(&mut self, world: &mut World) {
        for actor in self.actors.values_mut().filter(|actor| !actor.left) {
            let Some(conn) = actor.conn else { continue };
            if !actor.stalls && !actor.silent && world.nbd_has_output(conn) {
                let bytes = world.nbd_take(conn);
                actor.talk.receive(&bytes);
            }
            let out = actor.talk.take_out();
            if !out.is_empty() {
                world.nbd_receive(conn, &out);
            }
            if world.nbd_is_shut(conn) && (actor.silent || !world.nbd_has_output(conn)) {
                actor.closed = true;
            }
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// Nobody listens, or there is such a client.
    pub(super) fn connect(
        &mut self,
        world: &mut World,
        name: &Arc<str>,
        export: &Arc<str>,
        (replies, contexts): (Replies, &[Arc<str>]),
        silent: bool,
    ) -> Result<(), String> {
        let mode = match replies {
            Replies::Simple => NbdMode::Simple,
            Replies::Structured => NbdMode::Structured,
            Replies::Extended => NbdMode::Extended,
        };
        let talk = Talk::new(Greeting { export: export.clone(), mode, contexts: contexts.to_vec() });
        if let Some(actor) = self.actors.get_mut(name).filter(|actor| actor.silent && !actor.left && !actor.closed) {
            (actor.talk, actor.silent) = (talk, silent);
            return Ok(());
        }
        if self.actors.get(name).is_some_and(|actor| !actor.left && !actor.closed) {
            return Err(format!("the NBD client '{name}' is connected already"));
        }
        let Some(conn) = world.nbd_connect() else { return Err("no NBD server listens".to_owned()) };
        let conn = Some(conn);
        self.actors.insert(name.clone(), Actor { conn, talk, stalls: false, silent, closed: false, left: false });
        Ok(())
    }

    /// A client that found nobody: to it the connection has ended before it began.
    pub(super) fn nobody_listens(&mut self, name: &Arc<str>) {
        let talk = Talk::new(Greeting { export: "".into(), mode: NbdMode::Simple, contexts: Vec::new() });
        let nobody = Actor { conn: None, talk, stalls: false, silent: false, closed: true, left: false };
        self.actors.entry(name.clone()).or_insert(nobody);
    }

    fn actor(&mut self, name: &str) -> Result<&mut Actor, String> {
        match self.actors.get_mut(name) {
            Some(actor) if !actor.left => Ok(actor),
            _ => Err(format!("there is no NBD client '{name}'")),
        }
    }

    /// Whether the client has negotiated: `None` while it does.
    ///
    /// # Errors
    /// The server refuses it, or has closed the connection.
    pub(super) fn negotiated(&mut self, name: &str) -> Result<Option<()>, String> {
        let actor = self.actor(name)?;
        match &actor.talk.failure {
            Some(why) => Err(why.to_string()),
            None if actor.talk.is_ready() => Ok(Some(())),
            None if actor.closed => Err("the server closed the connection".to_owned()),
            None => Ok(None),
        }
    }

    /// Sends a request. To a server that has closed the connection, or has refused the client, nothing is sent.
    ///
    /// # Errors
    /// There is no such client, or it has not negotiated.
    pub(super) fn ask(
        &mut self,
        world: &mut World,
        name: &str,
        (kind, flags): (u16, u16),
        (offset, length): (u64, u64),
        pattern: u8,
    ) -> Result<(), String> {
        let actor = self.actor(name)?;
        if actor.closed || actor.talk.failure.is_some() {
            return Ok(());
        }
        if !actor.talk.is_ready() {
            return Err(format!("the NBD client '{name}' has not negotiated"));
        }
        let data =
            if kind == cmd::WRITE { vec![pattern; usize::try_from(length).unwrap_or_default()] } else { Vec::new() };
        actor.talk.ask(kind, flags, offset, length, &data);
        self.pump(world);
        Ok(())
    }

    /// The client leaves, with a word or without.
    ///
    /// # Errors
    /// There is no such client.
    pub(super) fn leave(&mut self, world: &mut World, name: &str, says_so: bool) -> Result<(), String> {
        if says_so {
            let actor = self.actor(name)?;
            if actor.talk.is_ready() {
                actor.talk.ask(cmd::DISC, 0, 0, 0, &[]);
            }
            self.pump(world);
        }
        let actor = self.actor(name)?;
        actor.left = true;
        if let Some(conn) = actor.conn {
            world.nbd_forget(conn);
        }
        Ok(())
    }

    /// The client reads no more, or reads on.
    ///
    /// # Errors
    /// There is no such client.
    pub(super) fn stall(&mut self, name: &str, on: bool) -> Result<(), String> {
        self.actor(name)?.stalls = on;
        Ok(())
    }

    /// Whether an answer came that is as expected: `None` while there is none.
    ///
    /// # Errors
    /// It is another one, or none can come.
    pub(super) fn answered(&mut self, name: &str, expected: &NbdAnswer) -> Result<Option<Arc<str>>, String> {
        let actor = self.actor(name)?;
        if let Some(answer) = actor.talk.answer() {
            return check(&answer, expected).map(|()| Some(answer.shown().into()));
        }
        if let (NbdAnswer::Any, Some(_)) = (expected, &actor.talk.failure) {
            return Ok(Some("closed".into()));
        }
        if let Some(why) = &actor.talk.failure {
            return Err(format!("the NBD client '{name}' does not understand the server: {why}"));
        }
        match (actor.closed, expected) {
            (true, NbdAnswer::Closed | NbdAnswer::Any) => Ok(Some("closed".into())),
            (true, _) => Err("the server closed the connection".to_owned()),
            (false, NbdAnswer::Closed) => Ok(None),
            (false, _) if actor.talk.open() == 0 => Err(format!("the NBD client '{name}' has asked for nothing")),
            (false, _) => Ok(None),
        }
    }
}

/// A server on the host starts, or changes its state.
///
/// # Errors
/// There is no such file, or no such server.
pub(super) fn serve(world: &mut World, address: &Arc<str>, action: &NbdAction) -> Result<(), String> {
    match action {
        NbdAction::Serve(server) if !world.files.exists(&server.file) => {
            return Err(format!("there is no file '{}' that a server could serve", server.file));
        }
        NbdAction::Serve(server) => world.files.start_nbd_server(address, server.clone()),
        NbdAction::Server(state) if !world.files.set_nbd_server(address, *state) => {
            return Err(format!("no server was started at '{address}'"));
        }
        _ => {}
    }
    world.nbd_server_changed(address);
    Ok(())
}

fn check(answer: &Answer, expected: &NbdAnswer) -> Result<(), String> {
    let fits = match expected {
        NbdAnswer::Any => true,
        NbdAnswer::Ok => answer.error.is_none(),
        NbdAnswer::Closed => false,
        NbdAnswer::Pattern(byte) => answer.error.is_none() && answer.data.iter().all(|found| found == byte),
        NbdAnswer::Error(errno) => answer.error == Some(errno_to_wire(*errno)),
        NbdAnswer::Extents(wanted) => answer.extents.first().is_some_and(|(_, found)| found == wanted),
    };
    if fits { Ok(()) } else { Err(format!("expected the answer {expected:?}, got {}", answer.shown())) }
}
