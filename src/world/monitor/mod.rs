//! The QMP monitor: requests in, replies and events out (`monitor/qmp.c`, `qapi/qmp-dispatch.c`).
//!
//! The dispatcher takes one request at a time, runs its handler in a bottom half of the outermost event loop, and writes the reply
//! one round later: what the handler left to do comes first. The few commands that are coroutines run in `qemu_aio_context` instead,
//! so that the nested polls of whoever polls run them, too. What it does not find or allow it answers where it stands.

pub(in crate::world) mod commands;
pub mod fdsets;
pub(super) mod hmp;
pub(super) mod hmp_drives;
mod hmp_info;
pub mod qemu_io;
pub mod qemu_io_map;
pub mod qemu_io_reopen;

use crate::base::{Json, Kept};
use crate::qmp::command::Command;
use crate::qmp::error::{ErrorClass, QmpError};
use crate::qmp::json::Parsed;
use crate::qmp::names::COROUTINE_COMMANDS;
use crate::qmp::request::{Request, parse_request, reply};
use crate::trace::LaterWork;
use crate::world::World;
use crate::world::aio::queue::{Bh, Ctx};
use crate::world::frame::Flow;
use crate::world::out::Output;
use crate::world::value::Val;
use std::collections::VecDeque;

/// One connected client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Client {
    /// Has sent `qmp_capabilities`.
    pub negotiated: bool,
    /// Out-of-band execution was enabled.
    pub oob: bool,
    /// Requests that wait, oldest first.
    pub requests: VecDeque<Parsed>,
    /// The connection is closed.
    pub closed: bool,
}

/// The monitors and their one dispatcher.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Monitor {
    /// Clients by number.
    pub clients: Vec<Client>,
    /// The order in which the dispatcher looks at clients; the one just served goes last (`mon_list`).
    turn: Vec<u32>,
    /// `qmp_dispatcher_co_busy`: it is at work, or will look for requests.
    busy: bool,
    /// It has just written a reply and found no further request; nothing has happened since.
    looked: bool,
    /// The command that runs.
    current: Option<Kept<(u32, Request)>>,
    /// What it gave.
    result: Option<Result<Json, QmpError>>,
}

impl Monitor {
    /// The client whose command runs.
    #[must_use]
    pub fn current_client(&self) -> Option<u32> {
        self.current.as_ref().map(|current| current.0)
    }

    /// Whether a command is being carried out or waits.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.busy
    }

    /// Whether nothing has happened since the dispatcher wrote a reply and found no further request. A client that is quick may
    /// have sent its next one before that look ([`World::submit_soon`]).
    #[must_use]
    pub fn just_looked(&self) -> bool {
        self.looked
    }

    /// Something happens.
    pub(super) fn goes_on(&mut self) {
        self.looked = false;
    }
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum MonitorFrame {
    QmpCommand,
    QmpCommandDone,
}

impl MonitorFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            MonitorFrame::QmpCommand => w.qmp_command(),
            MonitorFrame::QmpCommandDone => w.qmp_command_done(),
        }
    }
}

impl World {
    /// A client connects; it must negotiate first unless `negotiated`.
    pub fn connect(&mut self, negotiated: bool) -> u32 {
        let client = u32::try_from(self.monitor.clients.len()).expect("few clients");
        self.monitor.clients.push(Client { negotiated, ..Client::default() });
        self.monitor.turn.push(client);
        client
    }

    /// What a client reads first.
    #[must_use]
    pub fn greeting(&self) -> Json {
        let version = super::blockdev::query::version(self.quirks.version());
        let members = vec![("version", version), ("capabilities", Json::list(vec!["oob".into()]))];
        Json::dict(vec![("QMP", Json::dict(members))])
    }

    /// A client's connection ends; what it asked for and was not begun is dropped.
    pub fn disconnect(&mut self, client: u32) {
        let c = &mut self.monitor.clients[client as usize];
        c.closed = true;
        c.requests.clear();
        self.monitor.turn.retain(|t| *t != client);
    }

    /// A request arrives (`handle_qmp_command`).
    pub fn submit(&mut self, client: u32, request: Json) {
        self.submit_parsed(client, Ok(request));
    }

    /// What a client's bytes came to: a value, or what was wrong with them, which is the reply when its turn comes.
    pub fn submit_parsed(&mut self, client: u32, parsed: Parsed) {
        self.monitor.clients[client as usize].requests.push_back(parsed);
        self.trace.keep_cause(LaterWork::Command);
        if !self.monitor.busy {
            self.monitor.busy = true;
            self.aio.iohandler.schedule(Bh::QmpPop);
        }
    }

    /// A request that arrived after the last reply was written and before the dispatcher looked for another one
    /// (`monitor_qmp_dispatcher_pop_any`), as when the host has the main thread wait in between: the dispatcher takes it a round earlier
    /// than one that has to wake it up. Only where it [`just_looked`](Monitor::just_looked).
    pub fn submit_soon(&mut self, client: u32, request: Parsed) {
        assert!(self.monitor.looked && !self.monitor.busy, "the dispatcher has not just looked");
        self.monitor.clients[client as usize].requests.push_back(request);
        self.trace.keep_cause(LaterWork::Command);
        (self.monitor.busy, self.monitor.looked) = (true, false);
        let _ = self.qmp_pop();
    }

    /// Answers a request without the dispatcher, and without time passing: capabilities negotiation, and what is to be executed out of
    /// band. Neither has to do with the block layer.
    pub fn answer_at_once(&mut self, client: u32, request: &Json) {
        let c = &self.monitor.clients[client as usize];
        let answer = match parse_request(request, c.oob) {
            Err((err, id)) => reply(Err(err), id),
            Ok(request) => {
                let result = match request.typed(c.negotiated, self.quirks.version()) {
                    Ok(Command::QmpCapabilities { enable }) => {
                        self.negotiate(client, enable.is_some_and(|list| !list.is_empty())).map(|()| Json::empty())
                    }
                    Ok(_) => out_of_band(&request),
                    Err(err) => Err(err),
                };
                reply(result, request.id)
            }
        };
        self.put_reply(client, answer);
    }

    /// `monitor_qmp_dispatcher_co`: takes the next request.
    fn qmp_pop(&mut self) -> Flow {
        let waiting = |w: &World, t: &u32| !w.monitor.clients[*t as usize].requests.is_empty();
        let Some(i) = self.monitor.turn.iter().position(|t| waiting(self, t)) else {
            self.monitor.busy = false;
            return Flow::Go;
        };
        let client = self.monitor.turn.remove(i);
        self.monitor.turn.push(client);
        let version = self.quirks.version();
        let c = &mut self.monitor.clients[client as usize];
        let next = c.requests.pop_front().expect("just looked").map_err(|err| (err, None));
        let parsed = next.and_then(|json| parse_request(&json, c.oob)).and_then(|request| {
            match request.dispatchable(c.negotiated, version) {
                Ok(()) => Ok(request),
                Err(err) => Err((err, request.id)),
            }
        });
        match parsed {
            Ok(request) => {
                let coroutine = COROUTINE_COMMANDS.contains(&&*request.command);
                self.monitor.current = Some(Kept::new((client, request)));
                if coroutine {
                    let co = self.co_create([MonitorFrame::QmpCommandDone.into(), MonitorFrame::QmpCommand.into()]);
                    self.aio_co_schedule(Ctx::Main, co);
                } else {
                    self.aio.iohandler.schedule(Bh::QmpDispatch);
                }
            }
            Err(err) => {
                self.put_reply(client, reply(Err(err.0), err.1));
                return self.qmp_pop();
            }
        }
        Flow::Go
    }

    /// The handler of the current command. Leaves its result in the register.
    fn qmp_command(&mut self) -> Flow {
        let current = self.monitor.current.clone().expect("a command is being dispatched");
        let (client, request) = (current.0, &current.1);
        let negotiated = self.monitor.clients[client as usize].negotiated;
        match request.typed(negotiated, self.quirks.version()) {
            Ok(command) => self.run_command(client, command),
            Err(err) => self.ret(Val::Json(Err(err))),
        }
    }

    /// After the handler: the dispatcher goes on in the next round.
    fn qmp_command_done(&mut self) -> Flow {
        let result = match self.take_val() {
            Val::Json(result) => result,
            Val::Done(done) => done.map(|()| Json::empty()),
            Val::None | Val::Ret(Ok(())) => Ok(Json::empty()),
            Val::Opened(Err(fault)) => Err(QmpError::generic(fault.to_string())),
            Val::Job(job) => job.map(|_| Json::empty()),
            Val::Node(node) => node.map(|_| Json::empty()),
            other => panic!("a command ended with {other:?}"),
        };
        self.monitor.result = Some(result);
        self.aio.iohandler.schedule(Bh::QmpReply);
        Flow::Go
    }

    /// Writes the reply and looks for the next request.
    fn qmp_reply(&mut self) -> Flow {
        let (client, request) = self.monitor.current.take().expect("a command was dispatched").take();
        let result = self.monitor.result.take().expect("it has ended");
        self.put_reply(client, reply(result, request.id));
        let flow = self.qmp_pop();
        self.monitor.looked = !self.monitor.busy;
        flow
    }

    fn put_reply(&mut self, client: u32, reply: Json) {
        let time = self.now;
        if !self.monitor.clients[client as usize].closed {
            self.out.push_back(Output::Reply { time, client, reply });
        }
    }

    /// The bottom halves of this module.
    pub(super) fn monitor_bh(&mut self, bh: &Bh, ctx: Ctx) -> Flow {
        assert_eq!(ctx, Ctx::Iohandler);
        match bh {
            Bh::QmpPop => self.qmp_pop(),
            Bh::QmpReply => self.qmp_reply(),
            _ => self.seq([MonitorFrame::QmpCommand.into(), MonitorFrame::QmpCommandDone.into()]),
        }
    }

    /// `qmp_qmp_capabilities`
    fn negotiate(&mut self, client: u32, oob: bool) -> Result<(), QmpError> {
        let c = &mut self.monitor.clients[client as usize];
        if c.negotiated {
            let text = "Capabilities negotiation is already complete, command ignored";
            return Err(QmpError::new(ErrorClass::CommandNotFound, text));
        }
        c.negotiated = true;
        c.oob = oob;
        Ok(())
    }
}

/// The out-of-band commands. There is no migration, and nothing to yank.
fn out_of_band(request: &Request) -> Result<Json, QmpError> {
    let lacks = |name: &str| match request.args.get(name) {
        None => Err(QmpError::generic(format!("Parameter '{name}' is missing"))),
        Some(_) => Ok(()),
    };
    match &*request.command {
        "query-yank" => Ok(Json::list(Vec::new())),
        "yank" => lacks("instances").map(|()| Json::empty()),
        "migrate-pause" => Err(QmpError::generic(
            "migrate-pause is currently only supported during postcopy-active or postcopy-recover state",
        )),
        _ => lacks("uri")
            .and_then(|()| Err(QmpError::generic("Migrate recover can only be run when postcopy is paused."))),
    }
}
