//! A sequence diagram of client, jobs and drives, in Mermaid's language: for documents that draw it themselves.

use super::model::{Model, RecordSpan, range};
use super::read::{RecKind, RequestState, ShownRun, errno_name};
use super::style::{millis, notable};
use std::fmt::Write;

/// Writes a run as a sequence diagram, from a record on.
#[must_use]
pub fn draw(source: &ShownRun, from: Option<usize>) -> String {
    let model = Model::of(source);
    let range = range(source, from);
    let nodes: Vec<usize> = (0..model.nodes.len())
        .filter(|node| {
            let node = &model.nodes[*node];
            let shown = node.requests.iter().any(|request| request.span.from >= range.from);
            node.faults.iter().any(|fault| *fault >= range.from) || (shown && !node.name.starts_with('#'))
        })
        .collect();
    let mut diagram =
        Diagram { source, model: &model, range, nodes, owners: Vec::new(), out: String::new(), open: Vec::new() };
    diagram.owners();
    diagram.all();
    diagram.out
}

/// Text as it may stand in a message.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '#' => out.push_str("#35;"),
            ';' => out.push_str("#59;"),
            ':' => out.push_str("#58;"),
            '<' => out.push_str("#lt;"),
            '>' => out.push_str("#gt;"),
            '"' => out.push_str("#quot;"),
            '{' | '}' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Requests of one asker to one node, not told yet: asker, node, then each operation with how often.
type Open = (String, usize, Vec<(String, u32)>);

struct Diagram<'a> {
    source: &'a ShownRun,
    model: &'a Model,
    range: RecordSpan,
    /// Nodes that take part.
    nodes: Vec<usize>,
    /// For each record the job on whose behalf it happened.
    owners: Vec<Option<usize>>,
    out: String,
    open: Vec<Open>,
}

impl Diagram<'_> {
    fn owners(&mut self) {
        for (i, record) in self.source.records.iter().enumerate() {
            let own = match &record.kind {
                RecKind::Status { job, .. }
                | RecKind::Pause { job, .. }
                | RecKind::Progress { job, .. }
                | RecKind::Group { job, .. } => self.model.jobs.iter().position(|known| known.id == *job),
                RecKind::Command { .. } => None,
                _ => record.cause.filter(|cause| *cause < i).and_then(|cause| self.owners[cause]),
            };
            self.owners.push(own);
        }
    }

    fn line(&mut self, text: &str) {
        self.flush();
        _ = writeln!(self.out, "    {text}");
    }

    /// Tells of the requests that were gathered.
    fn flush(&mut self) {
        for (who, node, ops) in std::mem::take(&mut self.open) {
            let words: Vec<String> =
                ops.iter().map(|(op, n)| if *n == 1 { op.clone() } else { format!("{op} ×{n}") }).collect();
            _ = writeln!(self.out, "    {who}->>n{node}: {}", plain(&words.join(", ")));
        }
    }

    fn all(&mut self) {
        _ = writeln!(self.out, "sequenceDiagram");
        _ = writeln!(self.out, "    %% {} {}", plain(&self.source.title), self.source.schedule);
        self.out.push_str("    participant c as client\n    participant q as QEMU\n");
        let shown = |job: &&super::model::Job| job.states.iter().any(|(span, _)| span.to > self.range.from);
        let jobs: Vec<(usize, String)> = self
            .model
            .jobs
            .iter()
            .enumerate()
            .filter(|(_, job)| shown(job))
            .map(|(i, job)| (i, job.id.to_string()))
            .collect();
        for (i, id) in jobs {
            _ = writeln!(self.out, "    participant j{i} as job {}", plain(&id));
        }
        for node in self.nodes.clone() {
            _ = writeln!(self.out, "    participant n{node} as node {}", plain(&self.model.nodes[node].name));
        }
        let source = self.source;
        let mut i = self.range.from;
        while i < source.records.len() {
            i = self.record(i);
        }
        self.flush();
    }

    /// Tells of a record, and of those behind it that go with it. The next one.
    fn record(&mut self, i: usize) -> usize {
        let source = self.source;
        match &source.records[i].kind {
            RecKind::Command { name, subject, .. } => {
                let time = millis(source.records[i].time, 3);
                self.line(&format!("c->>q: {} ({time} ms)", plain(format!("{name} {subject}").trim())));
            }
            RecKind::Reply { error, .. } => {
                let words = error.as_ref().map_or("return".to_owned(), |error| format!("error: {error}"));
                self.line(&format!("q-->>c: {}", plain(&words)));
            }
            RecKind::Event { name, subject, error, .. } if notable(name) => {
                let job = self.model.jobs.iter().position(|job| *job.id == **subject);
                let from = job.map_or("q".to_owned(), |job| format!("j{job}"));
                let error = error.as_ref().map_or(String::new(), |error| format!(": {error}"));
                self.line(&format!("{from}-->>c: {}", plain(&format!("{name}{error}"))));
            }
            RecKind::Event { subject, status: Some(status), .. } => {
                let has_status = source.records.iter().any(|record| matches!(record.kind, RecKind::Status { .. }));
                let job = self.model.jobs.iter().position(|job| *job.id == **subject);
                if let (false, Some(job)) = (has_status, job) {
                    self.line(&format!("Note over j{job}: {}", plain(status)));
                }
            }
            RecKind::Status { .. } => return self.statuses(i),
            RecKind::Group { job, what, group } if what == "aborts" => {
                let members: Vec<String> = (0..self.model.jobs.len())
                    .filter(|n| self.model.jobs[*n].groups.iter().any(|(from, g)| *from <= i && g == group))
                    .map(|n| format!("j{n}"))
                    .collect();
                let over = match &members[..] {
                    [] => "q".to_owned(),
                    [only] => only.clone(),
                    [first, .., last] => format!("{first},{last}"),
                };
                self.line(&format!("Note over {over}: {}", plain(&format!("{job} aborts group {group}"))));
            }
            RecKind::Request { node, op, phase: RequestState::Submit, .. } => self.request(i, node, op),
            RecKind::Fault { node, op, errno, .. } => {
                if let Some(node) = self.taking_part(node) {
                    let to = self.owners[i].map_or("q".to_owned(), |job| format!("j{job}"));
                    self.line(&format!("n{node}-x{to}: {}", plain(&format!("{op}: {}", errno_name(*errno)))));
                }
            }
            RecKind::Note { what, text } if what == "mark" => self.line(&format!("Note over c: {}", plain(text))),
            _ => {}
        }
        i + 1
    }

    /// Changes of one job's state that follow each other at once, as one note.
    fn statuses(&mut self, at: usize) -> usize {
        let source = self.source;
        let RecKind::Status { job: own, .. } = &source.records[at].kind else { return at + 1 };
        let (mut words, mut next) = (Vec::new(), at);
        while let Some(record) = source.records.get(next) {
            match &record.kind {
                RecKind::Status { job, to, .. } if job == own => words.push(to.clone()),
                RecKind::Pause { .. } | RecKind::Progress { .. } | RecKind::Txn { .. } => {}
                RecKind::Group { what, .. } if what != "aborts" => {}
                _ => break,
            }
            next += 1;
        }
        if let Some(job) = self.model.jobs.iter().position(|job| job.id == *own) {
            self.line(&format!("Note over j{job}: {}", plain(&words.join(" → "))));
        }
        next
    }

    fn taking_part(&self, name: &str) -> Option<usize> {
        self.nodes.iter().copied().find(|node| *self.model.nodes[*node].name == *name)
    }

    fn request(&mut self, i: usize, name: &str, op: &str) {
        let Some(node) = self.taking_part(name) else { return };
        let who = self.owners[i].map_or("q".to_owned(), |job| format!("j{job}"));
        let found = self.open.iter().position(|(w, n, _)| *w == who && *n == node);
        let at = found.unwrap_or_else(|| {
            self.open.push((who, node, Vec::new()));
            self.open.len() - 1
        });
        let ops = &mut self.open[at].2;
        match ops.iter_mut().find(|(known, _)| known == op) {
            Some((_, count)) => *count += 1,
            None => ops.push((op.to_owned(), 1)),
        }
    }
}
