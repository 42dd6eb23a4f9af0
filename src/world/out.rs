//! What the process puts out: replies, events, its console (`qapi/qapi-emit-events.c`, `monitor/monitor.c`).

use super::World;
use crate::base::Json;
use crate::base::time::{Instant, Rebase, Shift, timeless};
use crate::job::status::JobStatus;
use crate::trace::Cause;
use std::sync::Arc;

/// Something that the process puts out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// An event, to every client that has negotiated.
    Event {
        /// When it was created.
        time: Instant,
        /// What happened.
        event: Event,
        /// The record of the trace that led to it.
        cause: Cause,
    },
    /// A reply to one client.
    Reply {
        /// When it was put out.
        time: Instant,
        /// Number of the monitor's client that gets it.
        client: u32,
        /// The whole object: `return` or `error`, and `id`.
        reply: Json,
    },
    /// Text on the standard output of the process.
    Stdout(Arc<str>),
    /// Text on its standard error.
    Stderr(Arc<str>),
    /// A line on its standard error, behind the name by which the program was called.
    Report(Arc<str>),
}

/// When exactly something was put out makes no difference to what comes of it: all that stands there was put out just now.
impl Rebase for Output {
    fn has_instants(&self) -> bool {
        matches!(self, Output::Event { .. } | Output::Reply { .. })
    }

    fn rebase(&mut self, shift: Shift) {
        match self {
            Output::Event { time, event, cause } => {
                timeless(&(event, cause));
                *time = shift.to;
            }
            Output::Reply { time, client, reply } => {
                timeless(&(client, reply));
                *time = shift.to;
            }
            Output::Stdout(text) | Output::Stderr(text) | Output::Report(text) => timeless(text),
        }
    }
}

/// An event. The most frequent one is spelled out so that it costs nothing to make.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// `JOB_STATUS_CHANGE`
    JobStatus {
        /// `id`: what the client called the job.
        id: Arc<str>,
        /// `status`
        status: JobStatus,
    },
    /// Any other.
    Other {
        /// QEMU's name of it, such as `BLOCK_IO_ERROR`.
        name: &'static str,
        /// Its data; an empty object if it has none.
        data: Json,
    },
}

impl Event {
    /// The event's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Event::JobStatus { .. } => "JOB_STATUS_CHANGE",
            Event::Other { name, .. } => name,
        }
    }

    /// The event's data.
    #[must_use]
    pub fn data(&self) -> Json {
        match self {
            Event::JobStatus { id, status } => {
                Json::dict(vec![("id", Json::Str(id.clone())), ("status", status.name().into())])
            }
            Event::Other { data, .. } => data.clone(),
        }
    }
}

impl World {
    /// `qapi_event_send_*`
    pub fn emit(&mut self, name: &'static str, data: Json) {
        let time = self.now;
        let cause = self.trace.cause();
        self.out.push_back(Output::Event { time, event: Event::Other { name, data }, cause });
    }

    /// `qapi_event_send_job_status_change`
    pub(in crate::world) fn emit_job_status(&mut self, id: Arc<str>, status: JobStatus) {
        let time = self.now;
        let cause = self.trace.cause();
        self.out.push_back(Output::Event { time, event: Event::JobStatus { id, status }, cause });
    }

    /// Text on the standard output of the process, without its last line end.
    pub fn console(&mut self, text: &str) {
        self.out.push_back(Output::Stdout(format!("{text}\n").into()));
    }

    /// Text on the standard output, as it is.
    pub(in crate::world) fn console_raw(&mut self, text: &str) {
        if !text.is_empty() {
            self.out.push_back(Output::Stdout(text.into()));
        }
    }

    /// `error_report` where no monitor command is being carried out (`print_loc`): behind the program's name.
    pub(in crate::world) fn error_report(&mut self, text: &str) {
        self.out.push_back(Output::Report(text.into()));
    }

    /// Text on the standard error, as it is (`error_printf`).
    pub(in crate::world) fn console_error_raw(&mut self, text: &str) {
        self.out.push_back(Output::Stderr(text.into()));
    }

    /// Text on the standard error, without its last line end.
    pub(in crate::world) fn console_error(&mut self, text: &str) {
        self.out.push_back(Output::Stderr(format!("{text}\n").into()));
    }
}
