//! What is in a picture: lanes for the client, each job, each node and each bitmap, made from the records.

use super::read::{RecKind, RequestState, ShownRun};
use crate::base::time::{self, Instant};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A stretch of records; `to` is the record that ends it, or the number of records where nothing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSpan {
    /// The record that begins it.
    pub from: usize,
    /// The record that ends it.
    pub to: usize,
}

/// A command of the client's, to its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// From the command to the reply.
    pub span: RecordSpan,
    /// `execute`.
    pub name: String,
    /// What it is about.
    pub subject: String,
    /// The error it was answered with.
    pub error: Option<String>,
}

/// A job, with all its lives: QEMU lets an ID be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The job's ID.
    pub id: Arc<str>,
    /// Its states, one after the other.
    pub states: Vec<(RecordSpan, String)>,
    /// The group it is in, with the record where that began.
    pub groups: Vec<(usize, u64)>,
}

impl Job {
    /// The record at which the life ends in which the job was at record `from`.
    #[must_use]
    pub fn group_end(&self, from: usize) -> usize {
        let mut end = from;
        for (span, _) in &self.states {
            if span.from <= end && end < span.to {
                end = span.to;
            }
        }
        end
    }
}

/// A request at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// From its begin to its end.
    pub span: RecordSpan,
    /// The row it stands in, so that those in flight together stand below each other.
    pub row: usize,
    /// The errno it failed with.
    pub failed: Option<u64>,
    /// `read`, `write`, …
    pub op: String,
}

/// A node with its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `node-name`.
    pub name: Arc<str>,
    /// Requests, by their begin.
    pub requests: Vec<Request>,
    /// Records of injected faults.
    pub faults: Vec<usize>,
    /// How many rows are needed.
    pub rows: usize,
}

/// A dirty bitmap over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Name of its node.
    pub node: Arc<str>,
    /// The bitmap's name.
    pub name: Arc<str>,
    /// From which record on how many bytes are dirty; `None` where there is no such bitmap.
    pub counts: Vec<(usize, Option<u64>)>,
    /// While a job uses it.
    pub busy: Vec<RecordSpan>,
    /// The most that was dirty.
    pub max: u64,
}

/// What a mirror has still to copy, over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    /// The job's ID.
    pub job: Arc<str>,
    /// Length of the disk in bytes.
    pub len: u64,
    /// From which record to which what is dirty, as first byte and length.
    pub dirty: Vec<(RecordSpan, u64, u64)>,
    /// And what is in flight.
    pub active: Vec<(RecordSpan, u64, u64)>,
}

impl Regions {
    fn take(open: &mut Vec<(RecordSpan, u64, u64)>, i: usize, end: usize, now: &[(u64, u64)]) {
        for (span, offset, bytes) in open.iter_mut().filter(|(span, ..)| span.to == end) {
            if !now.contains(&(*offset, *bytes)) {
                span.to = i;
            }
        }
        for (offset, bytes) in now {
            if !open.iter().any(|(span, o, b)| span.to == end && o == offset && b == bytes) {
                open.push((RecordSpan { from: i, to: end }, *offset, *bytes));
            }
        }
    }
}

/// A filter of a job, from when it enters to when it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The node name, which QEMU may have made up (`#block123`).
    pub name: Arc<str>,
    /// The node below it at first.
    pub over: Arc<str>,
    /// While it is there.
    pub span: RecordSpan,
}

/// All that is in a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Number of records.
    pub len: usize,
    /// What the client sent.
    pub commands: Vec<Command>,
    /// Records of events the client read.
    pub events: Vec<usize>,
    /// Jobs in order of their first appearance.
    pub jobs: Vec<Job>,
    /// Nodes in order of their first request or fault.
    pub nodes: Vec<Node>,
    /// Bitmaps in order of their first appearance.
    pub bitmaps: Vec<Bitmap>,
    /// What mirrors have still to copy.
    pub regions: Vec<Regions>,
    /// Filters of mirrors, commits and streams.
    pub filters: Vec<Filter>,
    /// Records of pivots.
    pub pivots: Vec<usize>,
    /// Records of marks in the scenario.
    pub marks: Vec<usize>,
}

impl Model {
    /// Sorts records into lanes.
    #[must_use]
    pub fn of(source: &ShownRun) -> Model {
        let records = &source.records;
        let has_status = records.iter().any(|record| matches!(record.kind, RecKind::Status { .. }));
        let mut builder = Builder { model: Model { len: records.len(), ..Model::default() }, ..Builder::default() };
        for (i, record) in records.iter().enumerate() {
            builder.take(i, &record.kind, has_status);
        }
        builder.model
    }

    /// The state of a job at a record.
    #[must_use]
    pub fn state_at(job: &Job, at: usize) -> Option<&str> {
        job.states.iter().find(|(span, _)| span.from <= at && at < span.to).map(|(_, state)| state.as_str())
    }
}

#[derive(Default)]
struct Builder {
    model: Model,
    jobs: BTreeMap<Arc<str>, usize>,
    nodes: BTreeMap<Arc<str>, usize>,
    bitmaps: BTreeMap<(Arc<str>, Arc<str>), usize>,
    /// By node and number of the request: which of the node's it is.
    open: BTreeMap<(usize, u64), usize>,
    /// By node: which rows are taken.
    rows: Vec<Vec<bool>>,
    /// The command that waits for its reply.
    waiting: Option<usize>,
}

impl Builder {
    fn take(&mut self, i: usize, kind: &RecKind, has_status: bool) {
        let end = self.model.len;
        match kind {
            RecKind::Command { name, subject, .. } => {
                self.waiting = Some(self.model.commands.len());
                let (name, subject) = (name.clone(), subject.clone());
                self.model.commands.push(Command { span: RecordSpan { from: i, to: end }, name, subject, error: None });
            }
            RecKind::Reply { error, .. } => {
                if let Some(command) = self.waiting.take() {
                    self.model.commands[command].span.to = i;
                    self.model.commands[command].error.clone_from(error);
                }
            }
            RecKind::Event { name, subject, status, .. } => {
                self.model.events.push(i);
                if let ("JOB_STATUS_CHANGE", Some(status), false) = (&**name, status, has_status) {
                    self.status(i, &subject.as_str().into(), status);
                }
            }
            RecKind::Status { job, to, .. } => self.status(i, job, to),
            RecKind::Group { job, what, group } if what == "joins" => {
                let job = self.job(job);
                self.model.jobs[job].groups.push((i, *group));
            }
            RecKind::Request { id, node, op, phase, .. } => self.request(i, *id, node, op, *phase),
            RecKind::Fault { node, .. } => {
                let node = self.node(node);
                self.model.nodes[node].faults.push(i);
            }
            RecKind::Bitmap { node, name, what, count, .. } => self.bitmap(i, node, name, what, *count),
            RecKind::Graph { what, .. } if what == "pivot" => self.model.pivots.push(i),
            RecKind::Graph { what, node, other } => self.filter(i, what, node, other),
            RecKind::Copying { job, len, dirty, active } => {
                let regions = self.regions(job);
                regions.len = regions.len.max(*len);
                Regions::take(&mut regions.dirty, i, end, dirty);
                Regions::take(&mut regions.active, i, end, active);
            }
            RecKind::Note { what, .. } if what == "mark" => self.model.marks.push(i),
            _ => {}
        }
    }

    fn job(&mut self, id: &Arc<str>) -> usize {
        *self.jobs.entry(id.clone()).or_insert_with(|| {
            self.model.jobs.push(Job { id: id.clone(), states: Vec::new(), groups: Vec::new() });
            self.model.jobs.len() - 1
        })
    }

    fn status(&mut self, i: usize, job: &Arc<str>, to: &str) {
        let (job, end) = (self.job(job), self.model.len);
        let states = &mut self.model.jobs[job].states;
        if let Some((span, _)) = states.last_mut().filter(|(span, _)| span.to == end) {
            span.to = i;
        }
        if to != "null" {
            states.push((RecordSpan { from: i, to: end }, to.to_owned()));
        }
    }

    fn node(&mut self, name: &Arc<str>) -> usize {
        *self.nodes.entry(name.clone()).or_insert_with(|| {
            self.rows.push(Vec::new());
            self.model.nodes.push(Node { name: name.clone(), requests: Vec::new(), faults: Vec::new(), rows: 0 });
            self.model.nodes.len() - 1
        })
    }

    fn request(&mut self, i: usize, id: u64, name: &Arc<str>, op: &str, phase: RequestState) {
        let (node, end) = (self.node(name), self.model.len);
        if phase == RequestState::Submit {
            let rows = &mut self.rows[node];
            let row = rows.iter().position(|taken| !taken).unwrap_or(rows.len());
            rows.resize(rows.len().max(row + 1), false);
            rows[row] = true;
            let node_lane = &mut self.model.nodes[node];
            node_lane.rows = node_lane.rows.max(row + 1);
            self.open.insert((node, id), node_lane.requests.len());
            let span = RecordSpan { from: i, to: end };
            node_lane.requests.push(Request { span, row, failed: None, op: op.to_owned() });
            return;
        }
        let failed = if let RequestState::Failed(errno) = phase { Some(errno) } else { None };
        match self.open.remove(&(node, id)) {
            Some(request) => {
                let request = &mut self.model.nodes[node].requests[request];
                self.rows[node][request.row] = false;
                request.span.to = i;
                request.failed = failed;
            }
            // A trace that tells of ends only.
            None => {
                let node = &mut self.model.nodes[node];
                node.rows = node.rows.max(1);
                node.requests.push(Request { span: RecordSpan { from: i, to: i }, row: 0, failed, op: op.to_owned() });
            }
        }
    }

    fn filter(&mut self, i: usize, what: &str, node: &Arc<str>, other: &Arc<str>) {
        let end = self.model.len;
        let open = self.model.filters.iter_mut().find(|filter| filter.name == *node && filter.span.to == end);
        match open {
            Some(filter) if what == "leaves" => filter.span.to = i,
            Some(_) => {}
            None => {
                let span = RecordSpan { from: i, to: end };
                self.model.filters.push(Filter { name: node.clone(), over: other.clone(), span });
            }
        }
    }

    fn regions(&mut self, job: &Arc<str>) -> &mut Regions {
        let at = self.model.regions.iter().position(|regions| regions.job == *job).unwrap_or_else(|| {
            self.model.regions.push(Regions { job: job.clone(), len: 0, dirty: Vec::new(), active: Vec::new() });
            self.model.regions.len() - 1
        });
        &mut self.model.regions[at]
    }

    fn bitmap(&mut self, i: usize, node: &Arc<str>, name: &Arc<str>, what: &str, count: u64) {
        let end = self.model.len;
        let index = *self.bitmaps.entry((node.clone(), name.clone())).or_insert_with(|| {
            let (node, name) = (node.clone(), name.clone());
            self.model.bitmaps.push(Bitmap { node, name, counts: Vec::new(), busy: Vec::new(), max: 0 });
            self.model.bitmaps.len() - 1
        });
        let bitmap = &mut self.model.bitmaps[index];
        let now = (what != "remove").then_some(count);
        if bitmap.counts.last().is_none_or(|(_, last)| *last != now) {
            bitmap.counts.push((i, now));
        }
        bitmap.max = bitmap.max.max(count);
        match (what, bitmap.busy.last_mut()) {
            ("busy", _) => bitmap.busy.push(RecordSpan { from: i, to: end }),
            ("free" | "remove", Some(span)) if span.to == end => span.to = i,
            _ => {}
        }
    }
}

/// Where records stand on a line of some width, so that what matters can be seen and time still shows.
///
/// In a run a job may be created, started and paused within no time, and then nothing happens for ten milliseconds. So a record takes
/// some room by what it is, and the time that passes takes room by its logarithm.
#[must_use]
pub fn positions(source: &ShownRun, range: RecordSpan, width: u64) -> Vec<u64> {
    let mut sums = Vec::with_capacity(source.records.len());
    let (mut sum, mut last) = (0_u64, source.records.get(range.from).map_or(Instant::START, |record| record.time));
    for (i, record) in source.records.iter().enumerate() {
        if i > range.from && i <= range.to {
            let micros = (record.time - last) / time::Span::MICROSECOND;
            let gap = if micros == 0 { 0 } else { 2 + 3 * u64::from((micros / 4).max(1).ilog2()) };
            sum += gap + weight(&source.records[i - 1].kind);
        }
        last = record.time;
        sums.push(sum);
    }
    let total = sum + source.records.get(range.to.min(source.records.len().saturating_sub(1))).map_or(1, |_| 14);
    for at in &mut sums {
        *at = *at * width / total.max(1);
    }
    sums
}

/// Room that a record takes.
fn weight(kind: &RecKind) -> u64 {
    match kind {
        RecKind::Status { .. } => 60,
        RecKind::Command { .. } => 60,
        RecKind::Event { .. } | RecKind::Reply { .. } => 14,
        RecKind::Fault { .. } => 40,
        RecKind::Bitmap { .. } | RecKind::Txn { .. } | RecKind::Group { .. } | RecKind::Blkdebug { .. } => 4,
        RecKind::Request { .. } => 1,
        RecKind::Graph { .. } => 30,
        RecKind::Copying { .. } => 2,
        RecKind::Pause { .. }
        | RecKind::Progress { .. }
        | RecKind::Drain { .. }
        | RecKind::Co { .. }
        | RecKind::Note { .. } => 0,
    }
}

/// What a picture shows of a run: from the record, or the mark, where it is to begin.
#[must_use]
pub fn range(source: &ShownRun, from: Option<usize>) -> RecordSpan {
    let last = source.records.len().saturating_sub(1);
    RecordSpan { from: from.unwrap_or(0).min(last), to: last }
}
