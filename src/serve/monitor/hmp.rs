//! A human monitor on a connection: a line editor in front of `human-monitor-command` (`monitor/hmp.c`).

use crate::base::Json;
use crate::serve::readline::{PROMPT, Readline};
use crate::version::Version;
use std::collections::VecDeque;

/// What the monitor says first.
pub(in crate::serve) fn banner(version: Version) -> String {
    format!("QEMU {} monitor - type 'help' for more information\r\n", version.full())
}

/// One monitor.
#[derive(Debug)]
pub(in crate::serve) struct Hmp {
    /// The port it listens at.
    pub port: usize,
    /// Its number in the world, while somebody is connected.
    pub client: Option<u32>,
    editor: Readline,
    /// Bytes that came while a line was being carried out.
    waiting: VecDeque<u8>,
    /// A line that is complete.
    line: Option<String>,
    /// A line is being carried out: there is no prompt.
    busy: bool,
}

impl Hmp {
    pub(in crate::serve) fn new(port: usize) -> Hmp {
        Hmp { port, client: None, editor: Readline::default(), waiting: VecDeque::new(), line: None, busy: false }
    }

    /// Whether more input can be taken.
    pub(in crate::serve) fn open(&self) -> bool {
        !self.busy && self.line.is_none()
    }

    /// Takes bytes in; gives what is echoed.
    pub(in crate::serve) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.waiting.extend(bytes);
        self.read_on()
    }

    fn read_on(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.open() {
            let Some(byte) = self.waiting.pop_front() else { break };
            self.line = self.editor.key(byte, &mut out);
        }
        out
    }

    /// The line to carry out, as a command.
    pub(in crate::serve) fn take(&mut self) -> Option<Json> {
        let line = self.line.take()?;
        self.busy = true;
        let arguments = Json::dict(vec![("command-line", Json::str(&line))]);
        Some(Json::dict(vec![("execute", "human-monitor-command".into()), ("arguments", arguments)]))
    }

    /// The line is done: what to print, with the next prompt and what was typed meanwhile, unless the process ends.
    pub(in crate::serve) fn done(&mut self, reply: &Json, ends: bool) -> Vec<u8> {
        self.busy = false;
        let text = match (reply.get("return"), reply.get("error")) {
            (Some(text), _) => text.as_str().unwrap_or_default().to_owned(),
            (_, Some(error)) => format!("Error: {}\r\n", error.get("desc").and_then(Json::as_str).unwrap_or_default()),
            _ => String::new(),
        };
        let mut out = text.into_bytes();
        if ends {
            return out;
        }
        out.extend(PROMPT.as_bytes());
        out.extend(self.read_on());
        out
    }

    /// A client has gone.
    pub(in crate::serve) fn reset(&mut self) {
        *self = Hmp::new(self.port);
    }
}
