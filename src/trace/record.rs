//! The records themselves.

use super::{Cause, Level};
use crate::base::time::Instant;
use crate::base::{Errno, Json};
use std::sync::Arc;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// When.
    pub time: Instant,
    /// What it was.
    pub kind: RecordKind,
    /// The record that led to it, where that is known.
    pub cause: Cause,
}

/// What happened. Offsets and lengths are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// The client sent a command, `{"execute": …, "arguments": …}`.
    Command(Json),
    /// The client read a reply, `{"return": …}` or `{"error": …}`.
    Reply(Json),
    /// The client read an event.
    Event {
        /// QEMU's name of it, such as `BLOCK_JOB_COMPLETED`.
        name: &'static str,
        /// Its `data`.
        data: Json,
    },
    /// A job changed its status (`job_state_transition_locked`).
    JobStatus {
        /// Id of the job.
        job: Arc<str>,
        /// Old status.
        from: &'static str,
        /// New status.
        to: &'static str,
    },
    /// A job's pause count changed.
    JobPause {
        /// Id of the job.
        job: Arc<str>,
        /// How many reasons there are to stand still from now on; 0 is none.
        count: u32,
    },
    /// A job got on.
    JobProgress {
        /// Id of the job.
        job: Arc<str>,
        /// Bytes done.
        current: u64,
        /// Bytes in all, as far as known.
        total: u64,
    },
    /// A step of a `transaction` command.
    Txn {
        /// Which step.
        phase: TxnPhase,
        /// Number of the action, from 0.
        index: u32,
        /// Its `type`.
        action: &'static str,
    },
    /// Something happened to a job's group (`JobTxn`).
    Group {
        /// Id of the job.
        job: Arc<str>,
        /// What: `joins`, `aborts`, `commit`, `abort`, `clean`.
        what: &'static str,
        /// Number of the group.
        group: u32,
    },
    /// A request at a node.
    Request {
        /// Number of the request, the same when it ends.
        id: u64,
        /// Name of the node.
        node: Arc<str>,
        /// `read`, `write`, `write-zeroes`, `discard`, `flush`
        op: &'static str,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        bytes: u64,
        /// Who asked for it.
        who: Arc<str>,
        /// Start or end.
        phase: RequestPhase,
    },
    /// A blkdebug rule made a request fail.
    Fault {
        /// Name of the blkdebug node.
        node: Arc<str>,
        /// Number of the rule, from 0, in the order of the options.
        rule: u32,
        /// What the request ended with.
        errno: Errno,
        /// The request's kind, as in [`RecordKind::Request`].
        op: &'static str,
        /// First byte of the request.
        offset: u64,
        /// Bytes of the request.
        bytes: u64,
    },
    /// A blkdebug event changed the node's state.
    BlkdebugState {
        /// Name of the blkdebug node.
        node: Arc<str>,
        /// Name of the `blkdebug` event.
        event: &'static str,
        /// Old state.
        from: u32,
        /// New state.
        to: u32,
    },
    /// A dirty bitmap changed.
    Bitmap {
        /// Name of its node.
        node: Arc<str>,
        /// Its name; empty for one without.
        name: Arc<str>,
        /// What: `set` by a write; `add`, `remove`; `busy` and `free` as a job takes it and lets it go; `change` of its count by
        /// anything else.
        what: &'static str,
        /// First byte concerned.
        offset: u64,
        /// Bytes concerned.
        bytes: u64,
        /// Dirty bytes afterwards.
        count: u64,
    },
    /// A drained section began or ended.
    Drain {
        /// Name of the node; empty for all.
        node: Arc<str>,
        /// `begin`, `drained`, `end`
        what: &'static str,
    },
    /// The node graph changed by a job on a chain.
    Graph {
        /// What: a filter `enters` above its node or `leaves` it; `pivot`, the target takes the place of the source.
        what: &'static str,
        /// Name of the filter, or of the source.
        node: Arc<str>,
        /// Name of the node below the filter, or of the target.
        other: Arc<str>,
    },
    /// What a mirror, or the commit of an active layer, has still to do.
    Copying {
        /// Id of the job.
        job: Arc<str>,
        /// What there is to copy.
        copying: Copying,
    },
    /// A coroutine switch.
    Co {
        /// Number of the coroutine.
        co: u32,
        /// Entry function, under QEMU's name.
        entry: &'static str,
        /// `enter`, `yield`, `end`
        what: &'static str,
    },
    /// Something of the scenario's own.
    Note(ScenarioNote),
}

/// Ranges of a mirror: first byte and length of each, in order; the first 64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Copying {
    /// Length of the disk in bytes; 0 as long as it is not known, and at the end.
    pub len: u64,
    /// Dirty: they have to be copied, perhaps again.
    pub dirty: Vec<(u64, u64)>,
    /// In flight: they are being copied, or a guest writes them to both sides.
    pub active: Vec<(u64, u64)>,
}

/// A word on the scenario: a step, a mark, an expectation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScenarioNote {
    /// `mark`, `met`, `failed`, `outside`, …
    pub what: &'static str,
    /// What there is to say.
    pub text: Arc<str>,
}

/// Start or end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestPhase {
    /// It was handed in.
    Submit,
    /// It has ended, well or with an error.
    Complete(Option<Errno>),
}

/// A step of a transaction (`TransactionActionDrv`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TxnPhase {
    /// The action is checked and made ready; it may still fail.
    Prepare,
    /// The action failed in its prepare.
    Refuse,
    /// The action takes effect.
    Commit,
    /// The action is taken back.
    Abort,
    /// What is left of the action is cleared away.
    Clean,
}

impl TxnPhase {
    /// The word in traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TxnPhase::Prepare => "prepare",
            TxnPhase::Refuse => "refuse",
            TxnPhase::Commit => "commit",
            TxnPhase::Abort => "abort",
            TxnPhase::Clean => "clean",
        }
    }
}

impl RequestPhase {
    /// The word in traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RequestPhase::Submit => "submit",
            RequestPhase::Complete(None) => "done",
            RequestPhase::Complete(Some(_)) => "failed",
        }
    }
}

impl RecordKind {
    /// Whether what comes after it in the same breath comes of it. Progress, pause counts and bits that are set lead to nothing.
    #[must_use]
    pub fn leads(&self) -> bool {
        !matches!(
            self,
            RecordKind::JobPause { .. }
                | RecordKind::JobProgress { .. }
                | RecordKind::Bitmap { .. }
                | RecordKind::Graph { .. }
                | RecordKind::Copying { .. }
                | RecordKind::Reply(_)
                | RecordKind::Event { .. }
                | RecordKind::Note(_)
                | RecordKind::Co { .. }
        )
    }

    /// The level that shows it.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            RecordKind::Command(_) | RecordKind::Reply(_) | RecordKind::Event { .. } => Level::Client,
            RecordKind::JobStatus { .. }
            | RecordKind::JobPause { .. }
            | RecordKind::JobProgress { .. }
            | RecordKind::Txn { .. }
            | RecordKind::Group { .. }
            | RecordKind::Note(_) => Level::Job,
            RecordKind::Request { .. }
            | RecordKind::Fault { .. }
            | RecordKind::BlkdebugState { .. }
            | RecordKind::Bitmap { .. }
            | RecordKind::Graph { .. }
            | RecordKind::Copying { .. }
            | RecordKind::Drain { .. } => Level::Io,
            RecordKind::Co { .. } => Level::Co,
        }
    }
}
