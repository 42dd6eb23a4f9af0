//! The world and who decides for it: runs it up to where the next command may be looked at.
//!
//! A calm world comes to rest before each command, so that a client which waits for its replies and events gets the same answers
//! on a fast machine and on a slow one. With a seed the world may also stop earlier, at a place that the seed decides, and
//! [`Next::Holds`] there until a client sends something or all of them are seen to wait.

use super::nbd::NbdSockets;
use super::nbd_links::NbdLinks;
use super::pace::{ServePace, Sleeps};
use super::record::Recording;
use super::sim_options::SimOptions;
use crate::base::Json;
use crate::base::time::{self, Span};
use crate::check::Checker;
use crate::choice::{Choice, ChoiceLog, ChoicePoint, Choose, Chooser, Walk};
use crate::images::Images;
use crate::invariant::Broken;
use crate::scenario::plan::{Signal, StepKind};
use crate::sim::{self, note_read, note_sent, panic_text};
use crate::trace::{Level, Trace};
use crate::world::World;
use crate::world::aio::Stepped;
use crate::world::out::Output;
use crate::world::system::board::CharDevice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Frames after which a command is looked at though the world is not at rest: some jobs never come to rest, such as those that ignore
/// errors which do not end.
const PATIENCE: u64 = 300_000;
/// Events without a command after which the world goes on in small steps, and so no faster than its clients take in what it puts out.
const FLOOD: u64 = 20_000;
/// The frames of such a step.
const SMALL_STEP: u64 = 500;
/// How long clients may think where time passes anyhow.
const THINKS: Duration = Duration::from_millis(25);
/// Records that a trace holds.
const MAX_TRACE: usize = 10_000_000;
/// How long the world runs before what it put out is handed on and the sockets are looked at.
const SLICE: Duration = Duration::from_millis(5);

/// How long a command that is under way may take to come to its end when the process is to end.
const PATIENT: Duration = Duration::from_secs(5);
/// Slices that the world gets when qtest moves the clock.
const SLICES: u32 = 400;

/// How the world's run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It has more to do at once.
    Runs,
    /// A command may be looked at; else nothing happens.
    Rests,
    /// A command may be looked at; else it goes on then.
    Sleeps(Instant),
    /// A command may be looked at; else it goes on when all clients are seen to wait.
    Holds,
    /// The process has ended.
    Ended,
}

/// Makes the choices of a served run and notes them.
#[derive(Debug)]
pub(super) struct Decider {
    inner: Chooser,
    /// Timers wait for the wall clock.
    pub sleeps_wait: bool,
    /// All choices, if wanted.
    pub log: Option<ChoiceLog>,
    /// A pick could not be followed because a sleep had to wait: the seed alone does not tell the run any more.
    pub amended: bool,
}

impl Choose for Decider {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        let pick = self.inner.choose(point, among);
        if let Some(log) = &mut self.log {
            log.push(Choice { point, among, pick });
        }
        pick
    }

    fn sleeps_wait(&self) -> bool {
        self.sleeps_wait
    }

    fn amend(&mut self, pick: u32) {
        self.amended = true;
        if let Some(log) = &mut self.log {
            log.amend(pick);
        }
    }
}

/// The world thread's state.
#[derive(Debug)]
pub(super) struct Engine {
    /// All that is simulated.
    pub world: World,
    /// Who makes its choices.
    pub decider: Decider,
    /// What the host files of the world stand for on this machine.
    pub images: Images,
    /// The sockets of its NBD server.
    pub nbd: NbdSockets,
    /// The sockets of its `nbd` nodes.
    pub links: NbdLinks,
    /// What it put out and nobody was sent yet.
    pub out: Vec<Output>,
    /// Descriptors that clients passed and that are in no set.
    fds: Vec<OwnedFd>,
    /// The client whose command runs.
    pub serving: Option<u32>,
    /// Decides how far the world runs before the next command; `None`: to its rest.
    stops: Option<Walk>,
    /// How long clients may think before they count as waiting.
    pub thinks: Duration,
    /// It stopped early.
    holds: bool,
    /// Something was put out since it last held.
    fresh: bool,
    sleeps: Sleeps,
    /// Frames run when the last command ended.
    since: u64,
    /// Frames after which a command is looked at.
    patience: u64,
    /// Events put out since the last command ended.
    events: u64,
    /// And when that was.
    replied: time::Instant,
    /// The next command is sent as by a calm client of a scenario: when the world first rests.
    plain: bool,
    /// What the trace's client has not read yet.
    unread: Vec<Output>,
    /// The run as a scenario.
    recording: Option<Recording>,
    /// What the trace tells.
    level: Option<Level>,
    /// Whether invariants are watched.
    checks: bool,
    /// Who watches them.
    check: Option<Box<Checker>>,
    /// The one that was found broken.
    pub broken: Option<Broken>,
}

impl Engine {
    pub(super) fn new(mut world: World, options: &SimOptions) -> Engine {
        let seed = options.seed;
        world.quirks = options.quirks;
        let inner = seed.map_or(Chooser::Calm, |seed| Chooser::Walk(Box::new(Walk::new(seed))));
        let log = options.record.is_some().then(ChoiceLog::default);
        let images = Images::connect(&mut world);
        let mut recording = options.record.is_some().then(Recording::default);
        if let ServePace::Disk(rates) = options.pace {
            world.files.set_disk(Some(rates));
            if let Some(recording) = &mut recording {
                recording.disk(rates);
            }
        }
        // Where sleeps take no time, no client could be as fast as a time limit asks.
        world.nbd_on_real_sockets(options.pace == ServePace::Real);
        Engine {
            world,
            decider: Decider { inner, sleeps_wait: false, log, amended: false },
            images,
            nbd: NbdSockets::default(),
            links: NbdLinks::default(),
            out: Vec::new(),
            fds: Vec::new(),
            serving: None,
            stops: seed.map(Walk::new),
            thinks: if matches!(options.pace, ServePace::Disk(_)) { THINKS } else { Duration::ZERO },
            holds: false,
            fresh: false,
            sleeps: Sleeps::new(options.pace),
            since: 0,
            patience: PATIENCE,
            events: 0,
            replied: time::Instant::START,
            plain: seed.is_none(),
            unread: Vec::new(),
            recording,
            level: options.trace.is_some().then_some(options.level),
            checks: options.check,
            check: None,
            broken: None,
        }
    }

    /// Carries out the block options of the command line.
    pub(super) fn boot(&mut self, args: &[Arc<str>]) -> Result<(), String> {
        let (images, recording, links) = (&mut self.images, &mut self.recording, &mut self.links);
        if let Some(recording) = recording {
            recording.boot(args);
        }
        let booted = self.world.boot_with(args, &mut |world| {
            images.before_step(world);
            let sleeps_wait = links.exchange(world);
            note_found(images, recording);
            sleeps_wait
        });
        self.out.extend(
            self.world.out.drain(..).filter(|output| !matches!(output, Output::Event { .. } | Output::Reply { .. })),
        );
        booted?;
        self.world.trace = Trace::new(self.level, MAX_TRACE);
        self.world.steps = 0;
        if self.checks {
            self.check = Some(Box::new(Checker::watching(&mut self.world)));
        }
        Ok(())
    }

    /// What clients are told of the character devices.
    pub(super) fn describe(&mut self, chardevs: Vec<CharDevice>) {
        let board = &mut self.world.machine.board;
        if board.chardevs != chardevs {
            Arc::make_mut(board).chardevs = chardevs;
        }
    }

    /// A descriptor that came with the command which is handed over next.
    pub(super) fn pass(&mut self, fd: Option<OwnedFd>) {
        self.world.passed.arriving = fd.as_ref().map(|fd| fd.as_raw_fd().into());
        self.fds.extend(fd);
    }

    /// Those that the world has put into sets go to where files are opened through them; those that it has given up are closed.
    fn sort_fds(&mut self) {
        let passed = &self.world.passed;
        let number = |fd: &OwnedFd| i64::from(fd.as_raw_fd());
        for fd in std::mem::take(&mut self.fds) {
            match passed.set_of(number(&fd)) {
                Some(set) => self.images.add_fd(set, fd),
                None if passed.holds(number(&fd)) => self.fds.push(fd),
                None => {}
            }
        }
        self.images.retain_fds(|fd| passed.holds(number(fd)));
    }

    /// Hands a command to the world.
    pub(super) fn submit(&mut self, client: u32, command: Json) {
        let slept = self.sleeps.catch_up(&mut self.world);
        self.images.refresh_locks(&mut self.world);
        if let Some(recording) = &mut self.recording {
            let (frames, time) = (self.world.steps - self.since, self.world.now);
            let simple = self.plain && !slept && time - self.replied <= sim::PATIENCE;
            recording.submit((!simple).then_some(StepKind::At { frames, time }), &command);
        }
        for output in std::mem::take(&mut self.unread) {
            note_read(&mut self.world, &output);
        }
        note_sent(&mut self.world, &command);
        self.world.submit(client, command);
        self.serving = Some(client);
        self.holds = false;
        self.fresh = false;
        self.collect();
    }

    /// Whether the world can take a command.
    pub(super) fn ready(&self) -> bool {
        self.serving.is_none() && self.world.in_main_loop() && !self.world.quitting
    }

    /// Has a request answered that concerns the connection only. The trace does not know of it.
    pub(super) fn at_once(&mut self, client: u32, request: &Json) {
        self.world.answer_at_once(client, request);
        self.out.extend(self.world.out.drain(..));
    }

    /// The locks on the real files become what the world's nodes need.
    pub(super) fn sync(&mut self) {
        self.images.sync(&mut self.world);
    }

    /// Takes what the world put out. The trace has it read as a client does that waits for its reply, and reads on when it sends again.
    fn collect(&mut self) {
        let mut sorting = false;
        while let Some(output) = self.world.out.pop_front() {
            if self.world.trace.level().is_some() {
                match self.serving {
                    Some(_) => note_read(&mut self.world, &output),
                    None => self.unread.push(output.clone()),
                }
            }
            match &output {
                Output::Event { .. } => {
                    self.fresh = true;
                    self.events += 1;
                }
                Output::Reply { client, .. } if self.serving == Some(*client) => {
                    self.fresh = true;
                    self.serving = None;
                    if !self.fds.is_empty() || self.images.has_fds() {
                        sorting = true;
                    }
                    self.since = self.world.steps;
                    self.patience = self.since + PATIENCE;
                    self.events = 0;
                    self.replied = self.world.now;
                    self.plain = self.stops.is_none();
                }
                _ => {}
            }
            self.out.push(output);
        }
        if sorting {
            self.sort_fds();
        }
    }

    /// The run is over: the trace, and the recording as a scenario.
    ///
    /// The recording is an error where no scenario can hold it.
    pub(super) fn finish(&mut self) -> (Trace, Option<Result<String, String>>) {
        for output in std::mem::take(&mut self.unread) {
            note_read(&mut self.world, &output);
        }
        let seed = self.stops.as_ref().map(Walk::seed);
        let choices = self.decider.log.as_ref().filter(|_| self.decider.amended);
        let yaml = self.recording.as_ref().map(|recording| recording.to_yaml(seed, choices, self.world.quirks));
        (std::mem::replace(&mut self.world.trace, Trace::off()), yaml)
    }

    /// Bytes of an NBD client have come: the world need not hold any more.
    pub(super) fn nbd_arrived(&mut self) {
        self.holds = false;
    }

    /// All clients wait: the world need not hold any more.
    pub(super) fn go_on(&mut self) {
        self.holds = false;
        self.fresh = false;
        if self.world.steps >= self.patience {
            self.patience = self.world.steps + if self.events > FLOOD { SMALL_STEP } else { PATIENCE };
        }
    }

    /// The host asks the process to end. False if it can't, because it polls for something that does not come.
    pub(super) fn shut_down(&mut self, signal: Signal) -> bool {
        let began = Instant::now();
        while !self.world.in_main_loop() {
            if self.step() != Stepped::Ran || began.elapsed() > PATIENT {
                return false;
            }
        }
        if !self.world.quitting {
            if let Some(recording) = &mut self.recording {
                let (frames, time) = (self.world.steps - self.since, self.world.now);
                recording.signal(StepKind::At { frames, time }, signal);
            }
            self.world.host_shutdown();
        }
        true
    }

    /// Moves virtual time on by so much, or to the next timer; gives how far. What sleeps until then goes on.
    pub(super) fn clock_step(&mut self, by: Option<Span>) -> Span {
        let next = self.world.timers().map(|(_, deadline)| deadline).min();
        let by = by.unwrap_or_else(|| next.map_or(Span::ZERO, |next| next - self.world.now));
        let target = self.world.now + by;
        self.sleeps.allow(target);
        // What never comes to rest is not waited for.
        for _ in 0..SLICES {
            if self.run() != Next::Runs {
                break;
            }
        }
        if self.world.at_rest() {
            self.world.now = self.world.now.max(target);
        }
        by
    }

    fn step(&mut self) -> Stepped {
        self.images.before_step(&mut self.world);
        self.nbd.before_step(&mut self.world, &mut self.fds);
        note_found(&mut self.images, &mut self.recording);
        self.decider.sleeps_wait = self.sleeps.must_wait(&self.world);
        let stepped = match self.watched() {
            Ok(stepped) => stepped,
            Err(broken) => {
                self.broken.get_or_insert(broken);
                return Stepped::Idle;
            }
        };
        if let Some(check) = &mut self.check
            && let Err(broken) = check.step(&mut self.world)
        {
            self.broken.get_or_insert(broken);
        }
        self.collect();
        stepped
    }

    /// A step of the world. Where the process would abort because an invariant is broken, it says which.
    fn watched(&mut self) -> Result<Stepped, Broken> {
        if self.check.is_none() {
            return Ok(self.world.step(&mut self.decider));
        }
        let (world, decider) = (&mut self.world, &mut self.decider);
        catch_unwind(AssertUnwindSafe(|| world.step(decider)))
            .map_err(|payload| Broken::from_panic(&panic_text(&*payload)).unwrap_or_else(|| resume_unwind(payload)))
    }

    /// Whether the step that has just found nothing to do would find something now, as a timer need not wait.
    fn goes_on(&mut self) -> bool {
        self.decider.sleeps_wait && self.world.timers().next().is_some() && !self.sleeps.must_wait(&self.world)
    }

    /// Runs the world until a command may be looked at, or for a while.
    pub(super) fn run(&mut self) -> Next {
        let began = Instant::now();
        loop {
            for _ in 0..64 {
                self.links.dial(&mut self.world, &mut self.fds);
                if let Some(next) = self.look(began) {
                    return next;
                }
                match self.step() {
                    Stepped::Ran => {}
                    Stepped::Idle | Stepped::Hang if self.broken.is_some() => return Next::Ended,
                    Stepped::Idle | Stepped::Hang if self.links.dial(&mut self.world, &mut self.fds) => {}
                    // A timer was set that is due already.
                    Stepped::Idle | Stepped::Hang if self.goes_on() => {}
                    // Nothing can happen but what a client or a timer brings.
                    Stepped::Idle | Stepped::Hang => return self.sleeps.until().map_or(Next::Rests, Next::Sleeps),
                }
            }
            if began.elapsed() > SLICE {
                return Next::Runs;
            }
        }
    }

    /// Whether the world stands where a command may be looked at.
    fn look(&mut self, began: Instant) -> Option<Next> {
        if let Some(client) = self.serving
            && self.world.monitor.clients[client as usize].closed
            && !self.world.monitor.busy()
        {
            // Whoever asked has gone, and what was asked is done: there will be no reply.
            (self.serving, self.since, self.replied, self.plain) = (None, self.world.steps, self.world.now, false);
            (self.patience, self.events) = (self.since + PATIENCE, 0);
        }
        if self.broken.is_some() {
            return Some(Next::Ended);
        }
        if self.world.quitting {
            return (self.serving.is_none() && self.world.in_main_loop()).then_some(Next::Ended);
        }
        // A moment that has passed is none to wait for; but now and then commands are looked at though there is always more to do.
        let blocks = self.sleeps.blocks(&mut self.world, &mut self.decider);
        let blocks = blocks.filter(|until| *until > Instant::now() || began.elapsed() > SLICE).map(Next::Sleeps);
        if self.serving.is_some() || !self.world.in_main_loop() {
            return blocks;
        }
        if self.holds {
            return Some(Next::Holds);
        }
        if blocks.is_some() {
            self.plain = false;
            return blocks;
        }
        if self.world.at_rest() {
            if self.world.next_deadline().is_none() {
                self.sleeps.idle();
                return Some(Next::Rests);
            }
            let next = self.sleeps.rest(&self.world);
            // A client of a scenario would send here.
            self.plain &= next.is_some();
            return next;
        }
        if self.world.steps > self.patience {
            self.plain = false;
            return Some(Next::Holds);
        }
        let stops = self.stops.as_mut()?;
        if self.fresh && stops.choose(ChoicePoint::ClientSend, 2) != 0 {
            self.holds = true;
            self.plain = false;
            return Some(Next::Holds);
        }
        None
    }
}

/// Files that came in are part of the recording.
fn note_found(images: &mut Images, recording: &mut Option<Recording>) {
    let found = images.take_found();
    let refused = images.take_refused();
    if let Some(recording) = recording {
        found.iter().for_each(|path| recording.found(path));
        refused.into_iter().for_each(|(path, failing)| recording.refused(path, failing));
    }
}
