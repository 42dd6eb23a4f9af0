//! The steps of scenarios: of each, in one place, its key, what stands behind and beside it, how that is read and written back, what the JSON
//! Schema and `help scenario` say of it, and which names in it `check` looks up. What a step does is an arm of `sim::client`.

mod files;
mod host;
mod looks;
mod talk;

use super::error::{Fault, Read};
use super::fields::{Fields, unknown};
use super::form::{EachName, Form, Member, ValueKind, ValueType, Written, form, opt};
use super::kinds::{Count, Duration, Moment, SignalName, Text, Texts, True};
use super::plan::{FileOp, ProcessOp, StepKind};
use super::tree::{Node, Value};
use super::yaml::Yaml;
use std::sync::Arc;

pub(crate) use super::form::NameOf;

/// Reads what stands behind a step's first key; the whole step is at hand for keys beside it.
type Reader = fn(&Node, &mut Fields<'_>) -> Read<StepKind>;

/// A kind of step.
pub(super) struct Step {
    pub name: &'static str,
    /// A sentence for the JSON Schema.
    pub about: &'static str,
    /// What `help scenario` says of it, lines with their ends.
    pub help: &'static str,
    /// How seldom it is written by hand, from 0: `help scenario` lists what is written most first.
    seldom: u8,
    /// It does nothing itself: the JSON Schema and `help scenario` list it last.
    pub marker: bool,
    /// It may stand under `files`, too.
    on_files: bool,
    /// What stands behind its key.
    pub of: ValueType,
    /// What may stand beside its key.
    pub beside: &'static [Member],
    /// `None` for what is replaced by other steps before steps are read.
    read: Option<Reader>,
    /// What stands behind and beside its key; `None` if it is another step.
    write: fn(&StepKind) -> Option<(Yaml, Written)>,
    names: for<'a> fn(&'a StepKind, EachName<'_, 'a>),
}

impl Step {
    /// What most steps have in common.
    const EMPTY: Step = Step {
        name: "",
        about: "",
        help: "",
        seldom: 0,
        marker: false,
        on_files: false,
        of: ValueType::True,
        beside: &[],
        read: None,
        write: |_| None,
        names: |_, _| {},
    };
}

/// A step that is one value of a kind. The value in parentheses is both how the step is put together and how it is taken apart.
macro_rules! step {
    ($name:literal, $about:literal, $help:literal, $kind:ty as $value:ident => ($($shape:tt)+)) => {
        Step {
            name: $name,
            about: $about,
            help: $help,
            of: <$kind as ValueKind>::TYPE,
            read: Some(|node, _| {
                let $value = <$kind as ValueKind>::read(node)?;
                Ok($($shape)+)
            }),
            write: |kind| match kind {
                $($shape)+ => Some((<$kind as ValueKind>::write($value)?, Vec::new())),
                _ => None,
            },
            names: |kind, each| {
                if let $($shape)+ = kind {
                    <$kind as ValueKind>::names($value, each);
                }
            },
            ..Step::EMPTY
        }
    };
    // Nothing but `true` stands behind the key.
    ($name:literal, $about:literal, $help:literal, ($($shape:tt)+)) => {
        Step {
            name: $name,
            about: $about,
            help: $help,
            of: True::TYPE,
            read: Some(|node, _| node.only_true().map(|()| $($shape)+)),
            write: |kind| match kind {
                $($shape)+ => Some((True::write(&())?, Vec::new())),
                _ => None,
            },
            ..Step::EMPTY
        }
    };
}

form! {
    /// Where a recorded run was.
    RecordedPlace: StepKind = "at" (StepKind::At { frames, time });
    frames: req Count, "dispatches since the last reply";
    time: req Moment, "virtual time since the start";
}

/// The member beside `start`.
type StartError = Option<Arc<str>>;

form! {
    /// What stands beside the arguments of a process.
    BesideStart: StartError = "start" ((error));
    error: opt Text, "it does not start, and this stands in its message";
}

const START: Step = Step {
    name: "start",
    about: "another process starts when the one before has ended",
    help: "  start: [ARGS]                     waits until the process has ended, and starts another on the same files
    error: TEXT                       it must not start, and say this
",
    of: Texts::TYPE,
    beside: BesideStart::MEMBERS,
    read: Some(|node, beside| {
        let args = node.texts()?;
        Ok(StepKind::Process(ProcessOp::Start { args, error: BesideStart::take(beside)? }))
    }),
    write: |kind| match kind {
        StepKind::Process(ProcessOp::Start { args, error }) => {
            Some((Yaml::texts(args), BesideStart::members(error).unwrap_or_default()))
        }
        _ => None,
    },
    ..Step::EMPTY
};

/// All steps.
pub(super) const STEPS: &[Step] = &[
    talk::QMP,
    talk::HMP,
    talk::SEND,
    step!(
        "event",
        "waits for the oldest queued event that fits",
        "  event: {event, data, without}     waits for the oldest queued event that fits; also `event: NAME`\n",
        talk::Event as pattern => (StepKind::Event(pattern))
    ),
    // `expand` puts other steps in its place; a test holds the members to what it reads.
    Step {
        name: "wait",
        about: "waits until the block job of this ID has completed and is gone, or is ready",
        help: "  wait: JOB                         waits for the block job's BLOCK_JOB_COMPLETED, without an error, and until the job is gone
    error: TEXT                       it completes with this error
    until: concluded                  until it has this status instead (for auto-dismiss: false)
    until: ready                      waits for BLOCK_JOB_READY instead: a mirror, or a commit of the active layer, is in sync
",
        of: ValueType::Text,
        beside: &[
            opt("error", ValueType::Text, "it must complete with this error"),
            opt("until", ValueType::Word(super::expand::STATUSES), "the status to wait for"),
        ],
        ..Step::EMPTY
    },
    step!(
        "sleep",
        "lets virtual time pass",
        "  sleep: 300ms                      lets virtual time pass\n",
        Duration as span => (StepKind::Sleep(span))
    ),
    Step {
        name: "at",
        about: "waits until the process is where it was in a recorded run",
        help: "  at: {frames, time}                waits until the process is where it was in a recorded run (docs/serve.md)\n",
        of: RecordedPlace::TYPE,
        read: Some(|node, _| RecordedPlace::read(node)),
        write: |kind| Some((RecordedPlace::write(kind)?, Vec::new())),
        ..Step::EMPTY
    },
    step!(
        "idle",
        "waits until QEMU is at rest and all is read",
        "  idle: true                        waits until QEMU is at rest and all is read\n",
        (StepKind::Idle)
    ),
    step!(
        "bitmap",
        "looks at a dirty bitmap from outside",
        "  bitmap: {node, name, count, granularity, busy, recording, persistent, inconsistent}
                                    looks at a bitmap from outside; `absent: true` for none;
                                    `ranges: [[OFFSET, LENGTH], ...]` are all its dirty areas
",
        looks::Bitmap as check => (StepKind::Bitmap(check))
    ),
    step!(
        "same",
        "images read the same through their backing chains",
        "  same: [A, B]                      images read the same, through their backing chains\n",
        looks::Images as images => (StepKind::Same(images))
    ),
    files::CREATE,
    files::WRITE,
    files::ZERO,
    files::DISCARD,
    files::REBASE,
    files::CONTENT,
    files::TEXT,
    files::HOST,
    step!(
        "nbd",
        "what a client of the NBD server does or expects; a server that `nbd` nodes are clients of",
        "  nbd: {client: NAME, connect: EXPORT, replies, contexts, refused}
                                    a client of the NBD server connects and negotiates (replies: simple, structured, extended);
                                    `silent: true`: it says nothing until it connects once more; `refused: any`: it may be refused
  nbd: {client, read: OFFSET, length, flags}
                                    it asks; also write (with `pattern`), zero, trim, cache, status, `flush: true`
  nbd: {client, answer: ok}         it waits for an answer; also any, closed, {pattern: BYTE}, {error: EIO}, {extents: [[LENGTH, FLAGS], ...]}
  nbd: {client, leave: disconnect}  it leaves; also `gone`; `stall: true`: it reads nothing from now on
  nbd: {server: SOCKET, file: FILE, export, read-only, unmap, exact}
                                    a server starts outside of the process (`qemu-nbd`) and serves a raw file to `nbd` nodes
  nbd: {server, state: killed}      it is gone, its socket stays; also `ended`, `stalled`, and `up` again
",
        super::nbd::Nbd as step => (StepKind::Nbd(step))
    ),
    step!(
        "no-jobs",
        "no job is left",
        "  no-jobs: true                     no job is left\n",
        (StepKind::NoJobs)
    ),
    step!(
        "no-events",
        "no event is queued",
        "  no-events: true                   no event is queued; also `no-events: {except: [NAME]}`\n",
        looks::NoEvents as except => (StepKind::NoEvents { except })
    ),
    Step {
        marker: true,
        ..step!(
            "mark",
            "a named place; exploring starts at `start`",
            "  mark: NAME                        a named place; exploring starts at `start`\n",
            Text as name => (StepKind::Mark(name))
        )
    },
    files::BYTES,
    files::RESIZE,
    files::CHECK,
    files::QEMU_IMG,
    START,
    step!(
        "kill",
        "SIGKILL: what is not written is lost",
        "  kill: true                        SIGKILL: what is not written yet is lost\n",
        (StepKind::Process(ProcessOp::Kill))
    ),
    step!(
        "signal",
        "a signal that asks the process to end",
        "  signal: TERM                      asks the process to end, as `quit` does; also INT, HUP\n",
        SignalName as signal => (StepKind::Process(ProcessOp::Signal(signal)))
    ),
    // `expand` puts the steps of the procedure in its place.
    Step {
        name: "call",
        about: "the steps of a procedure",
        help: "  call: {NAME: {PARAMETER: VALUE}}  the steps of a procedure\n",
        marker: true,
        of: ValueType::Or(&[ValueType::Text, ValueType::Object]),
        ..Step::EMPTY
    },
];

/// Reads a step.
pub(super) fn step(node: &Node) -> Read<StepKind> {
    let first = match &node.value {
        Value::Map(members) => members.first(),
        _ => None,
    };
    let Some((key, value)) = first else {
        let expected = format!("expected `kind: …`, found {}", node.describe());
        return Err(Fault::new(node.span, "a step is a mapping whose first key says what it does", expected));
    };
    let known = STEPS.iter().find(|step| *step.name == *key.name);
    let Some((name, read)) = known.and_then(|step| Some((step.name, step.read?))) else {
        if &*key.name == "call" {
            return Err(Fault::new(key.span, "nothing may stand beside `call`", "expected this key alone"));
        }
        let mut steps: Vec<&Step> = STEPS.iter().collect();
        steps.sort_by_key(|step| step.read.is_none());
        let names: Vec<&str> = steps.iter().map(|step| step.name).collect();
        return Err(unknown(key, "kind of step", &names));
    };
    let mut fields = Fields::of(name, node)?;
    fields.opt(name);
    let kind = read(value, &mut fields)?;
    fields.end()?;
    Ok(kind)
}

/// Reads an entry of `files`.
pub(super) fn file_op(node: &Node) -> Read<FileOp> {
    match step(node)? {
        StepKind::File(op) => Ok(op),
        _ => {
            let fault = Fault::new(node.span, "this step needs a running QEMU", "expected something done to a file");
            let names: Vec<&str> = STEPS.iter().filter(|step| step.on_files).map(|step| step.name).collect();
            Err(fault.help(format!("under `files` stand {}, and calls of procedures made of these", names.join(", "))))
        }
    }
}

/// The step as it is written.
pub(super) fn written(kind: &StepKind) -> Yaml {
    let found = STEPS.iter().find_map(|step| Some((step.name, (step.write)(kind)?)));
    let Some((name, (value, beside))) = found else { unreachable!("{kind:?} is of no form") };
    Yaml::members(std::iter::once((name, value)).chain(beside).collect())
}

/// Gets the names in a step that `check` looks up.
pub(crate) fn names<'a>(kind: &'a StepKind, each: EachName<'_, 'a>) {
    STEPS.iter().for_each(|step| (step.names)(kind, each));
}

/// The same of something that is done to files.
pub(crate) fn names_on_files(op: &FileOp, each: &mut dyn FnMut(NameOf, &str)) {
    let kind = StepKind::File(op.clone());
    STEPS.iter().for_each(|step| (step.names)(&kind, &mut |of, name| each(of, name)));
}

/// What `help scenario` says of steps that are done on files from outside, or of all others.
#[must_use]
pub fn help(on_files: bool) -> String {
    let mut steps: Vec<&Step> = STEPS.iter().filter(|step| step.on_files == on_files).collect();
    steps.sort_by_key(|step| (step.marker, step.seldom));
    steps.iter().map(|step| step.help).collect()
}
