//! The loop of the served process: sockets, signals and the world, in one thread.

use super::cmdline::Config;
use super::console::{self, Console};
use super::engine::{Engine, Next};
use super::hmp::{self, Hmp};
use super::nbd::NbdSource;
use super::port::{Input, Port};
use super::qmp::{Qmp, parse_error};
use super::qtest::{self, Qtest};
use super::readline;
use super::signals::Signals;
use super::waiting::Watch;
use crate::base::Json;
use crate::base::time::Span;
use crate::world::out::{Event, Output};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::{Duration, Instant, SystemTime};

/// How often clients are looked at while the world holds.
const GLANCE: Duration = Duration::from_millis(1);
/// A signal that comes so long after the first ends the process at once.
const IMPATIENT: Duration = Duration::from_secs(1);

/// Who uses the connections.
#[derive(Debug)]
pub(super) struct Users {
    /// QMP monitors.
    pub qmps: Vec<Qmp>,
    /// Human monitors.
    pub hmps: Vec<Hmp>,
    /// Test protocols.
    pub qtests: Vec<Qtest>,
}

/// Everything that the process is.
#[derive(Debug)]
pub(super) struct Wire {
    /// Standard output and standard error.
    pub console: Console,
    /// Runs the world, at the pace that was asked for.
    pub engine: Engine,
    /// Connections.
    pub ports: Vec<Port>,
    /// Who uses them.
    pub users: Users,
    /// SIGINT, SIGTERM and SIGHUP: each ends the process as it ends QEMU.
    pub signals: Signals,
    /// The command line, for those who ask about character devices.
    pub config: Config,
    /// Where qtest's log goes.
    pub qtest_log: qtest::Log,
    /// The monitor whose turn it is to be looked at first.
    turn: usize,
    watch: Watch,
    /// When a signal first asked the process to end.
    ends: Option<Instant>,
}

/// What a descriptor of a poll is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Signals,
    Listener(usize),
    Client(usize),
    Nbd(NbdSource),
    /// The socket of an `nbd` node.
    Link(usize),
    /// Somebody can be written to.
    Writable,
}

impl Wire {
    pub(super) fn new(console: Console, engine: Engine, ports: Vec<Port>, users: Users, signals: Signals) -> Wire {
        Wire {
            console,
            engine,
            ports,
            users,
            signals,
            config: Config::default(),
            qtest_log: qtest::Log::Nobody,
            turn: 0,
            watch: Watch::default(),
            ends: None,
        }
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// Why it ends before its time.
    pub(super) fn serve(&mut self) -> Result<(), String> {
        for port in 0..self.ports.len() {
            if self.ports[port].connected() {
                self.opened(port);
            }
        }
        loop {
            let mut next = self.engine.run();
            self.deliver();
            if next == Next::Ended {
                return Ok(());
            }
            if next != Next::Runs && self.engine.ready() && self.command() {
                next = Next::Runs;
            }
            self.deliver();
            self.wait(next)?;
        }
    }

    /// Waits for what comes next, and takes it in.
    fn wait(&mut self, next: Next) -> Result<(), String> {
        let took = self.engine.nbd.took();
        let timeout = match next {
            Next::Runs | Next::Ended => Some(Duration::ZERO),
            _ if took => Some(Duration::ZERO),
            Next::Rests => None,
            Next::Sleeps(until) => Some(until.saturating_duration_since(Instant::now())),
            Next::Holds => Some(GLANCE),
        };
        let ready = self.poll(timeout)?;
        if ready.is_empty() && next == Next::Holds && self.watch.all_wait(&self.ports, self.engine.thinks) {
            self.engine.go_on();
        }
        for (source, flags) in ready {
            match source {
                Source::Signals => self.signalled()?,
                Source::Listener(port) => {
                    if self.ports[port].accept() {
                        self.opened(port);
                    }
                }
                Source::Nbd(source) => {
                    if self.engine.nbd.ready(&mut self.engine.world, source) {
                        self.engine.nbd_arrived();
                    }
                }
                Source::Link(i) => {
                    if self.engine.links.ready(&mut self.engine.world, i) {
                        self.engine.nbd_arrived();
                    }
                }
                // All of it is written in `deliver`.
                Source::Writable => {}
                Source::Client(port) => {
                    if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                        self.read(port);
                    }
                }
            }
        }
        Ok(())
    }

    fn poll(&mut self, timeout: Option<Duration>) -> Result<Vec<(Source, PollFlags)>, String> {
        let mut sources = vec![Source::Signals];
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN)];
        for (i, port) in self.ports.iter().enumerate() {
            if let Some(listener) = port.listener() {
                sources.push(Source::Listener(i));
                fds.push(PollFd::from_borrowed_fd(listener, PollFlags::IN));
            }
            let wanted = if self.wants(i) { port.source() } else { None };
            // That a client has gone is noticed also while its command runs, if it was at a socket.
            let gone = if wanted.is_none() && self.serves(i) { port.socket() } else { None };
            if let Some(fd) = port.clogged() {
                sources.push(Source::Writable);
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
            }
            if let Some(fd) = wanted.or(gone) {
                sources.push(Source::Client(i));
                let flags = if wanted.is_some() { PollFlags::IN } else { PollFlags::empty() };
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        for (source, fd, flags) in self.engine.nbd.sources(&self.engine.world) {
            sources.push(Source::Nbd(source));
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        for (i, fd, flags) in self.engine.links.sources(&self.engine.world) {
            sources.push(Source::Link(i));
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        for fd in self.console.clogged() {
            sources.push(Source::Writable);
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        }
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(format!("poll: {errno}")),
        }
        let found = sources.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(found.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Whether input of a port can be taken now.
    fn wants(&self, port: usize) -> bool {
        let qmp = self.users.qmps.iter().find(|qmp| qmp.port == port);
        let hmp = self.users.hmps.iter().find(|hmp| hmp.port == port);
        qmp.is_none_or(|qmp| qmp.open(self.oob(qmp)) && (self.oob(qmp) || !self.serves(port)))
            && hmp.is_none_or(Hmp::open)
    }

    /// Whether a command of the monitor at a port is being carried out: its input waits, the end of it as well.
    fn serves(&self, port: usize) -> bool {
        let serving = self.engine.serving;
        serving.is_some() && self.users.qmps.iter().any(|qmp| qmp.port == port && qmp.client == serving)
    }

    fn oob(&self, qmp: &Qmp) -> bool {
        qmp.client.is_some_and(|client| self.engine.world.monitor.clients[client as usize].oob)
    }

    /// A client is there.
    fn opened(&mut self, port: usize) {
        let mut first = Vec::new();
        for qmp in self.users.qmps.iter_mut().filter(|qmp| qmp.port == port) {
            qmp.client = Some(self.engine.world.connect(false));
            first.extend(qmp.line(&self.engine.world.greeting()));
        }
        for hmp in self.users.hmps.iter_mut().filter(|hmp| hmp.port == port) {
            hmp.client = Some(self.engine.world.connect(true));
            first.extend(hmp::banner(self.engine.world.quirks.version()).as_bytes());
            first.extend(readline::PROMPT.as_bytes());
        }
        let said: Vec<String> =
            self.users.qtests.iter_mut().filter(|qtest| qtest.port == port).map(Qtest::opened).collect();
        self.log_qtest(said);
        self.ports[port].send(&first);
        self.flush(port);
    }

    /// A client has gone.
    fn closed(&mut self, port: usize) {
        self.ports[port].hang_up();
        for qmp in self.users.qmps.iter_mut().filter(|qmp| qmp.port == port) {
            if let Some(client) = qmp.client {
                self.engine.world.disconnect(client);
            }
            qmp.reset();
        }
        for hmp in self.users.hmps.iter_mut().filter(|hmp| hmp.port == port) {
            if let Some(client) = hmp.client {
                self.engine.world.disconnect(client);
            }
            hmp.reset();
        }
        let said: Vec<String> =
            self.users.qtests.iter_mut().filter(|qtest| qtest.port == port).filter_map(Qtest::closed).collect();
        self.log_qtest(said);
    }

    /// Clients of the test protocol are hung up on, as the process ends.
    pub(super) fn close_qtests(&mut self) {
        let said: Vec<String> = self.users.qtests.iter_mut().filter_map(Qtest::closed).collect();
        self.log_qtest(said);
    }

    fn log_qtest(&mut self, said: Vec<String>) {
        for text in said {
            if let Some(text) = self.qtest_log.put(text) {
                self.console.put(&Output::Stderr(text.into()));
            }
        }
    }

    fn read(&mut self, port: usize) {
        let bytes = match self.ports[port].read() {
            Input::Nothing => return,
            Input::End => return self.closed(port),
            Input::Bytes(bytes) => bytes,
        };
        if let Some(i) = self.users.qmps.iter().position(|qmp| qmp.port == port) {
            self.users.qmps[i].feed(&bytes);
            self.out_of_band(i);
        } else if let Some(hmp) = self.users.hmps.iter_mut().find(|hmp| hmp.port == port) {
            let echo = hmp.feed(&bytes);
            self.ports[port].send(&echo);
        } else if let Some(i) = self.users.qtests.iter().position(|qtest| qtest.port == port) {
            for line in self.users.qtests[i].feed(&bytes) {
                let answer = self.qtest(i, &line);
                self.ports[port].send(answer.as_bytes());
                let said = self.users.qtests[i].heard(&line, &answer);
                self.log_qtest(vec![said]);
            }
        }
    }

    /// Carries out a line of the test protocol.
    fn qtest(&mut self, i: usize, line: &str) -> String {
        let clock = self.users.qtests[i].clock;
        let by = match qtest::parse(line) {
            qtest::Asked::Answer(answer) => return answer,
            qtest::Asked::ClockStep(by) => by,
            qtest::Asked::ClockSet(time) => Some(time.saturating_sub(clock)),
        };
        if by.is_some_and(|by| by > qtest::LAST.saturating_sub(clock.max(self.engine.world.now.as_nanos()))) {
            return format!("FAIL the clock goes up to {} ns\n", qtest::LAST);
        }
        let by = self.engine.clock_step(by.map(Span::from_nanos)).as_nanos();
        let qtest = &mut self.users.qtests[i];
        qtest.clock = qtest.clock.saturating_add(by);
        format!("OK {}\n", qtest.clock)
    }

    /// Requests that do not wait for their turn.
    fn out_of_band(&mut self, i: usize) {
        if !self.oob(&self.users.qmps[i]) {
            return;
        }
        let Some(client) = self.users.qmps[i].client else { return };
        for request in self.users.qmps[i].take_oob() {
            self.engine.at_once(client, &request);
        }
    }

    /// Hands the next command to the world, if one waits: one of each monitor in turn.
    fn command(&mut self) -> bool {
        for k in 0..self.users.qmps.len() {
            let i = (self.turn + k) % self.users.qmps.len();
            let Some(client) = self.users.qmps[i].client else { continue };
            if let Some(parsed) = self.users.qmps[i].take() {
                self.turn = (i + 1) % self.users.qmps.len();
                match parsed {
                    Ok(json) if json.get("execute").and_then(Json::as_str) == Some("qmp_capabilities") => {
                        self.engine.at_once(client, &json);
                    }
                    Ok(json) => {
                        if json.get("execute").and_then(Json::as_str) == Some("query-chardev") {
                            self.engine.describe(super::describe::all(&self.config, &self.ports));
                        }
                        let takes = matches!(json.get("execute").and_then(Json::as_str), Some("add-fd" | "getfd"));
                        let fd = if takes { self.ports[self.users.qmps[i].port].fds.pop_front() } else { None };
                        self.engine.pass(fd);
                        self.engine.submit(client, json);
                    }
                    Err(error) => {
                        let line = self.users.qmps[i].line(&parse_error(&error));
                        self.ports[self.users.qmps[i].port].send(&line);
                    }
                }
                return true;
            }
        }
        for hmp in &mut self.users.hmps {
            if let (Some(client), Some(command)) = (hmp.client, hmp.take()) {
                self.engine.submit(client, command);
                return true;
            }
        }
        false
    }

    /// Sends what the world put out to whom it concerns, once the locks on real files are as they must be.
    fn deliver(&mut self) {
        if !self.engine.out.is_empty() {
            self.sync();
            for output in std::mem::take(&mut self.engine.out) {
                self.put(&output);
            }
        }
        self.engine.nbd.deliver(&mut self.engine.world);
        self.engine.links.deliver(&mut self.engine.world);
        for port in 0..self.ports.len() {
            self.flush(port);
        }
        self.console.flush();
    }

    /// Waits until all is written to the standard streams, or a signal comes: the process ends then, whoever does not read.
    pub(super) fn drain(&mut self) {
        while self.ends.is_none() {
            self.deliver();
            let stdio = self.ports.iter().filter(|port| port.is_stdio()).filter_map(Port::clogged);
            let out: Vec<_> = stdio.chain(self.console.clogged()).collect();
            if out.is_empty() {
                return;
            }
            let mut fds = vec![PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN)];
            fds.extend(out.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
            if !matches!(poll(&mut fds, None), Ok(_) | Err(rustix::io::Errno::INTR)) || !fds[0].revents().is_empty() {
                return;
            }
        }
    }

    /// Why something could not be written.
    pub(super) fn trouble(&self) -> Option<String> {
        let port = self.ports.iter().find_map(|port| Some(format!("Could not write: {}", console::text(port.failed?))));
        port.or_else(|| self.console.trouble())
    }

    /// Brings the locks on the real files up to date.
    pub(super) fn sync(&mut self) {
        self.engine.sync();
    }

    fn put(&mut self, output: &Output) {
        match output {
            Output::Stdout(text) => match self.ports.iter_mut().find(|port| port.is_stdio()) {
                // A monitor is there too: one after the other.
                Some(port) => port.send(text.as_bytes()),
                None => self.console.put(output),
            },
            Output::Stderr(_) | Output::Report(_) => self.console.put(output),
            Output::Reply { client, reply, .. } => {
                let ends = self.engine.world.quitting;
                if let Some(qmp) = self.users.qmps.iter().find(|qmp| qmp.client == Some(*client)) {
                    let line = qmp.line(reply);
                    self.ports[qmp.port].send(&line);
                }
                if let Some(hmp) = self.users.hmps.iter_mut().find(|hmp| hmp.client == Some(*client)) {
                    let text = hmp.done(reply, ends);
                    self.ports[hmp.port].send(&text);
                }
            }
            Output::Event { event, .. } => {
                let json = event_json(event);
                for qmp in &self.users.qmps {
                    let client = qmp.client.map(|client| &self.engine.world.monitor.clients[client as usize]);
                    if client.is_some_and(|client| client.negotiated) {
                        self.ports[qmp.port].send(&qmp.line(&json));
                    }
                }
            }
        }
    }

    fn flush(&mut self, port: usize) {
        if !self.ports[port].flush() {
            self.closed(port);
        }
    }

    /// A signal came: the process ends as after `quit`.
    fn signalled(&mut self) -> Result<(), String> {
        let Some((signal, text)) = self.signals.read() else { return Ok(()) };
        self.console.complain(&text);
        let first = *self.ends.get_or_insert_with(Instant::now);
        if first.elapsed() > IMPATIENT {
            // Something goes on for ever, and somebody asks again.
            return Err("ended in the middle of what goes on".to_owned());
        }
        if self.engine.shut_down(signal) { Ok(()) } else { Err("ended in the middle of a command".to_owned()) }
    }

    /// Removes what was put into the file system.
    pub(super) fn clean_up(&mut self) {
        // A QEMU that ends leaves the socket of its NBD server.
        for path in self.ports.iter().filter_map(Port::path) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// An event as clients see it, with the time of day.
fn event_json(event: &Event) -> Json {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time =
        vec![("seconds", Json::uint(now.as_secs())), ("microseconds", Json::uint(u64::from(now.subsec_micros())))];
    let mut members = vec![("timestamp", Json::dict(time)), ("event", event.name().into())];
    let data = event.data();
    if data.as_dict().is_some_and(|members| !members.is_empty()) {
        members.push(("data", data));
    }
    Json::dict(members)
}
