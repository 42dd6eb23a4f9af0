//! A QMP monitor on a connection: from bytes to requests, and from what the world puts out to bytes (`monitor/qmp.c`).

use crate::base::Json;
use crate::qmp::error::QmpError;
use crate::qmp::json::{Parsed, Parser};
use crate::qmp::print::{MemberOrder, write_value};
use std::collections::VecDeque;

/// Requests that may wait when out-of-band execution is enabled (`QMP_REQ_QUEUE_LEN_MAX`).
const QUEUE: usize = 8;

/// One monitor.
#[derive(Debug)]
pub(in crate::serve) struct Qmp {
    /// The port it listens at.
    pub port: usize,
    /// Its number in the world, while somebody is connected.
    pub client: Option<u32>,
    /// `pretty=on`
    pub pretty: bool,
    parser: Parser,
    queue: VecDeque<Parsed>,
}

impl Qmp {
    pub(in crate::serve) fn new(port: usize, pretty: bool) -> Qmp {
        Qmp { port, client: None, pretty, parser: Parser::new(), queue: VecDeque::new() }
    }

    /// Takes bytes in.
    pub(in crate::serve) fn feed(&mut self, bytes: &[u8]) {
        self.queue.extend(self.parser.feed(bytes));
    }

    /// Everything that was begun is dropped: the client has gone.
    pub(in crate::serve) fn reset(&mut self) {
        self.client = None;
        self.parser = Parser::new();
        self.queue.clear();
    }

    /// Whether more input can be taken (`monitor_suspend`): without out-of-band execution one request at a time.
    pub(in crate::serve) fn open(&self, oob: bool) -> bool {
        self.queue.len() < if oob { QUEUE } else { 1 }
    }

    /// `monitor_qmp_requests_pop_any_with_lock`
    pub(in crate::serve) fn take(&mut self) -> Option<Parsed> {
        self.queue.pop_front()
    }

    /// Takes the out-of-band requests out of the queue, wherever they stand.
    pub(in crate::serve) fn take_oob(&mut self) -> Vec<Json> {
        let is_oob = |parsed: &Parsed| {
            parsed.as_ref().is_ok_and(|json| json.get("exec-oob").is_some() && json.get("execute").is_none())
        };
        if !self.queue.iter().any(is_oob) {
            return Vec::new();
        }
        let (oob, rest): (VecDeque<Parsed>, VecDeque<Parsed>) = self.queue.drain(..).partition(is_oob);
        self.queue = rest;
        oob.into_iter().flatten().collect()
    }

    /// A value as a line of the wire.
    pub(in crate::serve) fn line(&self, value: &Json) -> Vec<u8> {
        let mut text = String::with_capacity(128);
        if self.pretty {
            crate::serve::pretty::write(value, 0, &mut text);
        } else {
            write_value(value, MemberOrder::Wire, &mut text);
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

/// The reply to input that is no request at all.
pub(in crate::serve) fn parse_error(error: &QmpError) -> Json {
    Json::dict(vec![("error", error.to_json())])
}
