//! The trace-event format that Perfetto and chrome://tracing open: jobs as tracks, requests as async slices, faults as instants.

use super::model::{Model, RecordSpan};
use super::read::{RecKind, ShownRun, errno_name};
use crate::trace::canonical;
use std::fmt::Write;

/// Processes of the picture.
const CLIENT: u32 = 1;
const JOBS: u32 = 2;
const NODES: u32 = 3;
const BITMAPS: u32 = 4;

/// Writes a run as a JSON object with `traceEvents`, an event a line.
#[must_use]
pub fn draw(source: &ShownRun) -> String {
    let model = Model::of(source);
    let mut events = Events { source, out: Vec::new() };
    events.names(&model);
    events.client(&model);
    events.jobs(&model);
    events.nodes(&model);
    events.bitmaps(&model);
    let mut out = String::from("{\"displayTimeUnit\": \"ns\", \"otherData\": {\"schedule\": ");
    canonical::write_str(&source.schedule, &mut out);
    out.push_str(", \"title\": ");
    canonical::write_str(&source.title, &mut out);
    out.push_str("}, \"traceEvents\": [\n");
    // By time; what a track begins stands before what it ends.
    events.out.sort_by_key(|(time, _)| *time);
    for (i, (_, event)) in events.out.iter().enumerate() {
        _ = write!(out, "{}{event}", if i == 0 { "" } else { ",\n" });
    }
    out.push_str("\n]}\n");
    out
}

struct Events<'a> {
    source: &'a ShownRun,
    /// Events with their time in nanoseconds.
    out: Vec<(u64, String)>,
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    canonical::write_str(text, &mut out);
    out
}

/// Microseconds, as the format wants them, exact to the nanosecond.
fn micros(time: u64) -> String {
    match time % 1000 {
        0 => (time / 1000).to_string(),
        rest => format!("{}.{rest:03}", time / 1000),
    }
}

impl Events<'_> {
    fn time(&self, record: usize) -> u64 {
        let records = &self.source.records;
        records.get(record).or(records.last()).map_or(0, |record| record.time.as_nanos())
    }

    fn put(&mut self, time: u64, phase: char, name: &str, pid: u32, tid: usize, more: &str) {
        let (name, ts) = (quoted(name), micros(time));
        let event =
            format!("{{\"name\": {name}, \"ph\": \"{phase}\", \"pid\": {pid}, \"tid\": {tid}, \"ts\": {ts}{more}}}");
        self.out.push((time, event));
    }

    fn names(&mut self, model: &Model) {
        for (pid, name) in [(CLIENT, "client"), (JOBS, "jobs"), (NODES, "nodes"), (BITMAPS, "bitmaps")] {
            self.put(0, 'M', "process_name", pid, 0, &format!(", \"args\": {{\"name\": \"{name}\"}}"));
            self.put(0, 'M', "process_sort_index", pid, 0, &format!(", \"args\": {{\"sort_index\": {pid}}}"));
        }
        let thread = |this: &mut Self, pid, tid, name: &str| {
            this.put(0, 'M', "thread_name", pid, tid, &format!(", \"args\": {{\"name\": {}}}", quoted(name)));
        };
        thread(self, CLIENT, 1, "commands");
        for (i, job) in model.jobs.iter().enumerate() {
            thread(self, JOBS, i + 1, &format!("job {}", job.id));
        }
        for (i, node) in model.nodes.iter().enumerate() {
            thread(self, NODES, i + 1, &format!("node {}", node.name));
        }
    }

    fn slice(&mut self, span: RecordSpan, name: &str, category: &str, pid: u32, tid: usize, arguments: &str) {
        let (from, to) = (self.time(span.from), self.time(span.to));
        let more = format!(", \"cat\": \"{category}\", \"dur\": {}, \"args\": {{{arguments}}}", micros(to - from));
        self.put(from, 'X', name, pid, tid, &more);
    }

    fn client(&mut self, model: &Model) {
        let source = self.source;
        for command in &model.commands {
            let RecKind::Command { detail, .. } = &source.records[command.span.from].kind else { continue };
            let error = command.error.as_ref().map_or(String::new(), |error| format!(", \"error\": {}", quoted(error)));
            let arguments = format!("\"arguments\": {}{error}", quoted(detail));
            let name = format!("{} {}", command.name, command.subject);
            self.slice(command.span, name.trim(), "command", CLIENT, 1, &arguments);
        }
        for event in &model.events {
            let RecKind::Event { name, subject, status, detail, .. } = &source.records[*event].kind else { continue };
            let name = format!("{name} {subject} {}", status.as_deref().unwrap_or(""));
            let more = format!(", \"cat\": \"event\", \"s\": \"t\", \"args\": {{\"data\": {}}}", quoted(detail));
            self.put(self.time(*event), 'i', name.trim(), CLIENT, 1, &more);
        }
    }

    fn jobs(&mut self, model: &Model) {
        for (i, job) in model.jobs.iter().enumerate() {
            for (span, state) in &job.states {
                self.slice(*span, state, "job", JOBS, i + 1, &format!("\"job\": {}", quoted(&job.id)));
            }
        }
    }

    fn nodes(&mut self, model: &Model) {
        let source = self.source;
        let mut number = 0;
        for (i, node) in model.nodes.iter().enumerate() {
            for request in &node.requests {
                number += 1;
                let (from, to) = (self.time(request.span.from), self.time(request.span.to));
                let common = format!(", \"cat\": \"request\", \"id\": \"0x{number:x}\"");
                let RecKind::Request { offset, bytes, who, .. } = &source.records[request.span.from].kind else {
                    continue;
                };
                let begin = format!(
                    "{common}, \"args\": {{\"node\": {}, \"offset\": {offset}, \"bytes\": {bytes}, \"who\": {}}}",
                    quoted(&node.name),
                    quoted(who)
                );
                let end = match request.failed {
                    Some(errno) => format!("{common}, \"args\": {{\"error\": {}}}", quoted(&errno_name(errno))),
                    None if request.span.to >= model.len => format!("{common}, \"args\": {{\"unfinished\": true}}"),
                    None => common,
                };
                let name = format!("{} {}", node.name, request.op);
                self.put(from, 'b', &name, NODES, i + 1, &begin);
                self.put(to, 'e', &name, NODES, i + 1, &end);
            }
            for fault in &node.faults {
                let RecKind::Fault { rule, errno, op, offset, bytes, .. } = &source.records[*fault].kind else {
                    continue;
                };
                let more = format!(
                    ", \"cat\": \"fault\", \"s\": \"t\", \"args\": {{\"rule\": {rule}, \"offset\": {offset}, \"bytes\": {bytes}}}"
                );
                self.put(self.time(*fault), 'i', &format!("{op}: {}", errno_name(*errno)), NODES, i + 1, &more);
            }
        }
    }

    fn bitmaps(&mut self, model: &Model) {
        for bitmap in &model.bitmaps {
            let name = format!("{}/{}", bitmap.node, bitmap.name);
            for (at, count) in &bitmap.counts {
                let more = format!(", \"args\": {{\"dirty\": {}}}", count.unwrap_or(0));
                self.put(self.time(*at), 'C', &name, BITMAPS, 0, &more);
            }
        }
    }
}
