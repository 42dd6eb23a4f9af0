//! A scenario that was read and checked: what images there are, how QEMU is started, and what happens then.
//!
//! Nothing here knows of YAML. Sizes and offsets are bytes, durations virtual time, file names those of the
//! scenario's own directory.

use crate::base::Json;
use crate::base::time::{Instant, Span};
use crate::choice::{ChoiceLog, Deviations};
use crate::host::HostChange;
use crate::invariant::Invariant;
use crate::quirk::Quirks;
use crate::scenario::nbd::NbdStep;
use std::fmt;
use std::sync::Arc;

/// Where in the scenario's files something stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pos {
    /// Name of the file.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A whole scenario.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// What it shows, in a sentence.
    pub about: Arc<str>,
    /// Images and other files, in the order in which they are made.
    pub files: Vec<PlannedFile>,
    /// QEMU's arguments that have to do with the block layer (`-drive`, `-blockdev`).
    pub args: Vec<Arc<str>>,
    /// What happens, in order.
    pub steps: Arc<[PlannedStep]>,
    /// When to give up.
    pub limits: Limits,
    /// The quirks in force.
    pub quirks: Quirks,
    /// The invariant that it breaks on purpose: then it must.
    pub expect_violation: Option<Invariant>,
    /// The schedules under which it holds.
    pub schedule: Schedule,
}

/// The schedules under which what a scenario expects comes about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// All of them.
    #[default]
    Any,
    /// Only the calm one, as when a scenario looks at a job in mid-flight.
    Calm,
    /// Only that of one seed, as when it needs a client that does not wait.
    Seed(u64),
    /// Only that of these choices, counted over the whole run.
    Choices(Arc<ChoiceLog>),
    /// Only that of these deviations, each counted by its own subject.
    Deviations(Arc<Deviations>),
}

impl Schedule {
    /// The seed to run it under when none is asked for.
    #[must_use]
    pub fn seed(&self) -> Option<u64> {
        match self {
            Self::Seed(seed) => Some(*seed),
            _ => None,
        }
    }
}

impl Plan {
    /// The plan without the places of its files and steps: what is left is what a run depends on.
    #[must_use]
    pub fn without_places(mut self) -> Plan {
        let pos = Pos { file: "".into(), line: 0, column: 0 };
        for file in &mut self.files {
            (file.pos, file.calls) = (pos.clone(), Arc::new([]));
        }
        self.steps = self.steps.iter().map(|step| PlannedStep::new(step.kind.clone())).collect();
        self
    }
}

impl PlannedFile {
    /// A file operation that stands in no file.
    #[must_use]
    pub fn new(op: FileOp) -> PlannedFile {
        PlannedFile { pos: Pos { file: "".into(), line: 0, column: 0 }, calls: Arc::new([]), op }
    }
}

impl PlannedStep {
    /// A step that stands in no file.
    #[must_use]
    pub fn new(kind: StepKind) -> PlannedStep {
        PlannedStep { pos: Pos { file: "".into(), line: 0, column: 0 }, calls: Arc::new([]), kind }
    }
}

/// A file operation and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlannedFile {
    /// Where it stands.
    pub pos: Pos,
    /// The `call` steps that led there, outermost first.
    pub calls: Arc<[Pos]>,
    /// What is done.
    pub op: FileOp,
}

/// A step and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlannedStep {
    /// Where it stands.
    pub pos: Pos,
    /// The `call` steps that led there, outermost first.
    pub calls: Arc<[Pos]>,
    /// What is done or expected.
    pub kind: StepKind,
}

/// Bounds of a run; `None` leaves the runner's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Dispatches of the main loop.
    pub steps: Option<u64>,
    /// Virtual time.
    pub time: Option<Span>,
    /// Records in the trace.
    pub trace: Option<u64>,
}

/// A disk image format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// `raw`
    Raw,
    /// `qcow2`
    Qcow2,
}

/// A backing file as an image names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backing {
    /// As the header has it: relative to the image, or with a protocol.
    pub file: Arc<str>,
    /// As the header of the image above says it.
    pub format: ImageFormat,
}

/// qcow2 creation options that were given; `None` leaves `qemu-img`'s default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Qcow2Options {
    /// `cluster_size` in bytes.
    pub cluster_size: Option<u64>,
    /// `compat`: true for `1.1`, false for `0.10`.
    pub compat_v3: Option<bool>,
    /// `lazy_refcounts`
    pub lazy_refcounts: Option<bool>,
}

/// Something done to files from outside of QEMU, as `qemu-img` and `qemu-io` do it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FileOp {
    /// `qemu-img create`
    Create {
        /// Made in the host's directory; what stood there is gone.
        file: Arc<str>,
        /// `-f`
        format: ImageFormat,
        /// Virtual size in bytes; `None`: that of the backing file.
        size: Option<u64>,
        /// Format options.
        options: Qcow2Options,
        /// The backing file, if any.
        backing: Option<Backing>,
    },
    /// `qemu-io -c "write -P pattern offset length"`, or `write -z` and `discard`.
    Write {
        /// The image.
        file: Arc<str>,
        /// The format it is opened with.
        format: ImageFormat,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// What is put there.
        data: WriteData,
    },
    /// `qemu-img rebase -u`: another backing file is named, nothing is copied.
    Rebase {
        /// The image.
        file: Arc<str>,
        /// The new backing file; `None`: none.
        backing: Option<Backing>,
    },
    /// A file as it was found.
    Content {
        /// The name that it had.
        file: Arc<str>,
        /// In bytes, holes included.
        size: u64,
        /// What stands in it; all else is a hole.
        data: Vec<Extent>,
    },
    /// A text file.
    Text {
        /// Made in the host's directory; what stood there is gone.
        file: Arc<str>,
        /// All it holds.
        content: Arc<str>,
    },
    /// Bytes of a file are changed, as by a hex editor.
    Bytes {
        /// An image, or any other.
        file: Arc<str>,
        /// Where it is written, in bytes from the start.
        at: u64,
        /// What stands there then; not empty.
        bytes: Vec<u8>,
    },
    /// `qemu-img resize`, with `--shrink` where that is needed.
    Resize {
        /// The image.
        file: Arc<str>,
        /// Its virtual size from then on.
        size: u64,
    },
    /// `qemu-img check`, and what it must find.
    Check {
        /// The image.
        file: Arc<str>,
        /// Clusters whose refcount is too high.
        leaks: u64,
        /// Errors.
        corruptions: u64,
    },
    /// A command of qemu-img, word by word.
    QemuImg(QemuImg),
    /// What the host refuses from now on, or what somebody else does to a file that is open.
    Host(HostChange),
}

/// A command of qemu-img, and how it must end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QemuImg {
    /// Its words, without `qemu-img`.
    pub words: Vec<Arc<str>>,
    /// 0 to 255.
    pub status: u64,
    /// A part of what it must print on its standard output; empty: it prints nothing.
    pub prints: Option<Arc<str>>,
    /// A part of what it must say on its standard error.
    pub says: Option<Arc<str>>,
}

impl QemuImg {
    /// Whether it ended as it must.
    ///
    /// # Errors
    /// What is otherwise.
    pub fn fits(&self, status: u64, out: &str, err: &str) -> Result<(), String> {
        if self.status != status {
            let expected = self.status;
            let line = self.words.join(" ");
            return Err(format!("qemu-img {line}: expected exit status {expected}, got {status}: {}", err.trim_end()));
        }
        for (wanted, got) in [(&self.prints, out), (&self.says, err)] {
            if let Some(wanted) = wanted
                && (!got.contains(&**wanted) || (wanted.is_empty() && !got.is_empty()))
            {
                return Err(format!("qemu-img {}: expected {wanted:?}, got {got:?}", self.words.join(" ")));
            }
        }
        Ok(())
    }
}

/// Bytes of a file: a pattern, and how often it stands there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First byte.
    pub at: u64,
    /// The pattern; not empty.
    pub bytes: Vec<u8>,
    /// How often; a pattern that is repeated is one byte long.
    pub times: u64,
}

/// What a write puts in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteData {
    /// This byte everywhere.
    Pattern(u8),
    /// Zeroes, as a write-zeroes request.
    Zero,
    /// `qemu-io -c "discard offset length"`
    Discard,
}

/// What a step does or expects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// Sends a QMP command and reads its reply.
    Qmp {
        /// `{"execute": …, "arguments": …}` as written; anything at all where an error is expected.
        command: Json,
        /// What must come back.
        expect: Expect,
    },
    /// Sends `human-monitor-command`.
    Hmp {
        /// `command-line`
        line: Arc<str>,
        /// A part of the text that must come back.
        output: Option<Arc<str>>,
        /// The whole text that must come back, compared with [`crate::trace::compare::same_text`].
        returns: Option<Arc<str>>,
        /// Whether the command may fail.
        fails: Fails,
    },
    /// Sends bytes to the monitor as they are, and reads the replies to all values that end among them.
    Send {
        /// What is sent; no line end is added.
        bytes: Arc<[u8]>,
        /// Patterns that the replies must match, in order ([`super::pattern`]); `None`: any replies.
        replies: Option<Vec<Json>>,
    },
    /// Waits for the oldest queued event that fits, and takes it from the queue.
    Event(EventPattern),
    /// Lets virtual time pass.
    Sleep(Span),
    /// Goes on once the process has run so far, at rest or not: for runs that were recorded.
    At {
        /// Frames since the last reply, or since the start.
        frames: u64,
        /// What time it is; it may be ahead, where nothing happened meanwhile.
        time: Instant,
    },
    /// Waits until the process is at rest and the client has read everything.
    Idle,
    /// Looks at a dirty bitmap from outside; no command is sent.
    Bitmap(BitmapCheck),
    /// All these images read the same through their backing chains.
    Same(Vec<Arc<str>>),
    /// Something done to files from outside.
    File(FileOp),
    /// No job is left.
    NoJobs,
    /// No event is queued, but for those of these names.
    NoEvents {
        /// Names of events that do not matter.
        except: Vec<Arc<str>>,
    },
    /// What a client of the NBD server does or expects.
    Nbd(NbdStep),
    /// A named place: exploring starts at `start`.
    Mark(Arc<str>),
    /// Something done to the process as a whole.
    Process(ProcessOp),
}

/// What can be done to a process from outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProcessOp {
    /// Waits until the one before has ended, and starts another on the same files.
    Start {
        /// As on a command line, `-drive` and its like.
        args: Vec<Arc<str>>,
        /// It must fail to start, with a message in which this stands.
        error: Option<Arc<str>>,
    },
    /// `SIGKILL`: what it has written stays, all else is lost.
    Kill,
    /// A signal that asks it to end: `SIGTERM`, `SIGINT` or `SIGHUP`.
    Signal(Signal),
}

/// Signals that ask a process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// `SIGTERM`
    Term,
    /// `SIGINT`
    Int,
    /// `SIGHUP`
    Hup,
}

impl Signal {
    /// All of them by name.
    pub const NAMES: &[(&str, Signal)] = &[("TERM", Signal::Term), ("INT", Signal::Int), ("HUP", Signal::Hup)];

    /// Its name, without `SIG`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Signal::NAMES.iter().find(|(_, signal)| *signal == self).map_or("", |(name, _)| name)
    }
}

/// Whether a command of the human monitor may fail. Its reply does not tell: what qemu-io says of a request that failed goes to QEMU's
/// standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fails {
    /// It must succeed.
    #[default]
    No,
    /// It must fail.
    Yes,
    /// Either is fine.
    Any,
}

impl Fails {
    /// What is meant where a step does not say it: a step that expects a text says enough.
    #[must_use]
    pub fn unsaid(output: Option<&str>, returns: Option<&str>) -> Fails {
        if output.is_some() || returns.is_some_and(|text| !text.is_empty()) { Fails::Any } else { Fails::No }
    }
}

/// What reply a command must have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// Any at all: what comes is for whoever reads the trace.
    Any,
    /// A return value; if a pattern is given, one that it matches ([`super::pattern`]).
    Return(Option<Json>),
    /// An error; class and text are compared where given.
    Error {
        /// `class`
        class: Option<Arc<str>>,
        /// `desc`, the whole text.
        desc: Option<Arc<str>>,
    },
}

/// Which event is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventPattern {
    /// The event's name.
    pub name: Arc<str>,
    /// Pattern for its `data` ([`super::pattern`]).
    pub data: Option<Json>,
    /// Members that `data` may not have.
    pub without: Vec<Arc<str>>,
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.data.as_ref().map_or(Ok(()), |data| write!(f, " {}", crate::trace::canonical::to_string(data)))
    }
}

impl EventPattern {
    /// Whether the event `name` with `data` is one that is meant.
    #[must_use]
    pub fn matches(&self, name: &str, data: &Json) -> bool {
        *self.name == *name
            && self.data.as_ref().is_none_or(|pattern| super::pattern::matches(pattern, data))
            && self.without.iter().all(|member| data.get(member).is_none())
    }

    /// The same of an event whose data are texts alone.
    #[must_use]
    pub fn matches_texts(&self, name: &str, data: &[(&str, &str)]) -> bool {
        *self.name == *name
            && self.data.as_ref().is_none_or(|pattern| super::pattern::matches_texts(pattern, data))
            && self.without.iter().all(|member| data.iter().all(|(name, _)| *name != &**member))
    }
}

/// What must hold of a dirty bitmap; `None` is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BitmapCheck {
    /// Node or device name.
    pub node: Arc<str>,
    /// Name of the bitmap.
    pub name: Arc<str>,
    /// There is no such bitmap.
    pub absent: bool,
    /// All dirty areas in order: offset and length in bytes.
    pub ranges: Option<Vec<(u64, u64)>>,
    /// Dirty bytes.
    pub count: Option<u64>,
    /// Bytes a bit stands for.
    pub granularity: Option<u64>,
    /// In use by a job.
    pub busy: Option<bool>,
    /// Notes new writes.
    pub recording: Option<bool>,
    /// Is to be stored in the image.
    pub persistent: Option<bool>,
    /// Was found inconsistent.
    pub inconsistent: Option<bool>,
}
