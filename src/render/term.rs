//! The timeline for a terminal: first the whole run in a few lines, then what happened, from top to bottom, a column for each job.

use super::model::{Bitmap, Job, Model, Node, positions, range};
use super::read::{RecKind, RequestState, ShownRun, errno_name};
use super::style::{STATES, millis, notable, state_letter};
use crate::base::units::size_text;
use anstyle::{AnsiColor, Style};
use std::fmt::Write;

/// How it is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Columns of the terminal.
    pub width: usize,
    /// Whether colours may be used.
    pub colour: bool,
    /// The record to begin with.
    pub from: Option<usize>,
}

/// How a job's state looks.
fn style_of(state: &str) -> Style {
    let colour = match state {
        "running" => AnsiColor::Green,
        "paused" | "standby" => AnsiColor::Yellow,
        "ready" => AnsiColor::Cyan,
        "waiting" => AnsiColor::Blue,
        "pending" => AnsiColor::Magenta,
        "aborting" => AnsiColor::Red,
        _ => return Style::new().dimmed(),
    };
    Style::new().fg_color(Some(colour.into()))
}

/// Draws a run.
#[must_use]
pub fn draw(source: &ShownRun, options: &Options) -> String {
    let model = Model::of(source);
    let mut drawing = Drawing { source, model: &model, options, out: String::new() };
    drawing.header();
    if !source.records.is_empty() {
        drawing.overview();
        drawing.details();
    }
    drawing.out
}

struct Drawing<'a> {
    source: &'a ShownRun,
    model: &'a Model,
    options: &'a Options,
    out: String,
}

/// Exactly `width` characters.
fn fit(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return format!("{text}{}", " ".repeat(width - count));
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

impl Drawing<'_> {
    fn paint(&self, style: Style, text: &str) -> String {
        if self.options.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn header(&mut self) {
        let bold = self.paint(Style::new().bold(), &self.source.title);
        let about: Vec<&str> = [self.source.schedule.as_str(), self.source.outcome.as_deref().unwrap_or("")]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect();
        _ = writeln!(self.out, "{bold}  {}\n", about.join(" · "));
    }

    fn overview(&mut self) {
        let job_label = |id: &str| match self.model.nodes.iter().any(|node| &*node.name == id) {
            true => format!("job {id}"),
            false => id.to_owned(),
        };
        let names = self.model.jobs.iter().map(|job| job_label(&job.id).chars().count());
        let names = names.chain(self.model.nodes.iter().map(|node| self.source.node_label(&node.name).chars().count()));
        let names = names.chain(self.model.bitmaps.iter().map(|b| b.name.chars().count() + b.node.chars().count() + 1));
        let column = names.max().unwrap_or(0).clamp(6, 28);
        let width = self.options.width.saturating_sub(column + 3).max(20);
        let range = range(self.source, self.options.from);
        let x = positions(self.source, range, width as u64);
        let at = |record: usize| x.get(record).map_or(width - 1, |at| usize::try_from(*at).unwrap_or(0).min(width - 1));
        let from = range.from;
        let line = |this: &mut Self, name: &str, cells: String| {
            _ = writeln!(this.out, "{}  {}", this.paint(Style::new().bold(), &fit(name, column)), cells.trim_end());
        };
        line(self, "client", self.client_cells(width, from, &at));
        for job in &self.model.jobs {
            line(self, &job_label(&job.id), self.job_cells(job, width, from, &at));
        }
        for node in &self.model.nodes {
            line(self, &self.source.node_label(&node.name), self.node_cells(node, width, from, &at));
        }
        for bitmap in &self.model.bitmaps {
            let name = format!("{}/{}", bitmap.node, bitmap.name);
            line(self, &name, bitmap_cells(bitmap, width, &at));
        }
        let legend: Vec<String> = STATES
            .iter()
            .filter(|(state, _, _)| self.model.jobs.iter().any(|job| job.states.iter().any(|(_, s)| s == state)))
            .map(|(state, _, _)| self.paint(style_of(state), &format!("{} {state}", state_letter(state))))
            .collect();
        let marks = "> command  < reply  ! event  1-9 requests in flight  ✗ fault";
        _ = writeln!(self.out, "{}  {}\n{}  {marks}\n", " ".repeat(column), legend.join("  "), " ".repeat(column));
    }

    fn client_cells(&self, width: usize, from: usize, at: &dyn Fn(usize) -> usize) -> String {
        let mut cells = vec![' '; width];
        for event in self.model.events.iter().filter(|event| **event >= from) {
            let RecKind::Event { name, .. } = &self.source.records[*event].kind else { continue };
            let cell = &mut cells[at(*event)];
            if notable(name) {
                *cell = '!';
            } else if *cell == ' ' {
                *cell = '·';
            }
        }
        for command in self.model.commands.iter().filter(|command| command.span.from >= from) {
            if command.span.to < self.model.len {
                let cell = &mut cells[at(command.span.to)];
                *cell = if *cell == '!' { '!' } else { '<' };
            }
            cells[at(command.span.from)] = '>';
        }
        cells.into_iter().collect()
    }

    fn job_cells(&self, job: &Job, width: usize, from: usize, at: &dyn Fn(usize) -> usize) -> String {
        let mut cells = vec![(' ', ""); width];
        for (span, state) in job.states.iter().filter(|(span, _)| span.to >= from) {
            let (a, b) = (at(span.from.max(from)), at(span.to));
            for cell in &mut cells[a..=b.max(a)] {
                *cell = ('─', state);
            }
            cells[a] = (state_letter(state), state);
            if span.to < self.model.len && b > a {
                cells[b] = (' ', "");
            }
        }
        cells
            .into_iter()
            .map(|(c, state)| if c == ' ' { " ".to_owned() } else { self.paint(style_of(state), &c.to_string()) })
            .collect()
    }

    fn node_cells(&self, node: &Node, width: usize, from: usize, at: &dyn Fn(usize) -> usize) -> String {
        let mut steps = vec![0_i64; width + 1];
        for request in node.requests.iter().filter(|request| request.span.to >= from) {
            let a = at(request.span.from.max(from));
            let b = at(request.span.to).max(a + 1).min(width);
            steps[a] += 1;
            steps[b] -= 1;
        }
        let mut cells = Vec::with_capacity(width);
        let mut count = 0_i64;
        for step in &steps[..width] {
            count += step;
            cells.push(match count {
                0 => ' ',
                1..=9 => char::from_digit(u32::try_from(count).unwrap_or(0), 10).unwrap_or('?'),
                _ => '+',
            });
        }
        for fault in node.faults.iter().filter(|fault| **fault >= from) {
            cells[at(*fault)] = '✗';
        }
        let red = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
        cells.into_iter().map(|c| if c == '✗' { self.paint(red, "✗") } else { c.to_string() }).collect()
    }

    fn details(&mut self) {
        let jobs = self.model.jobs.len().min(6);
        let column = 12;
        let client = self.options.width.saturating_sub(14 + jobs * (column + 2)).max(30);
        let names: String = self.model.jobs[..jobs].iter().map(|job| format!("  {}", fit(&job.id, column))).collect();
        let heading = format!("{:>12}  {}{names}", "ms", fit("client and devices", client));
        _ = writeln!(self.out, "{}", self.paint(Style::new().bold(), heading.trim_end()));
        let from = range(self.source, self.options.from).from;
        let mut states: Vec<Option<String>> =
            self.model.jobs.iter().map(|job| Model::state_at(job, from).map(str::to_owned)).collect();
        let mut i = from;
        while i < self.source.records.len() {
            let record = &self.source.records[i];
            let mut changed = None;
            let (style, words) = match &record.kind {
                RecKind::Event { name, subject, status: Some(_), .. } if !notable(name) => {
                    let (words, next) = self.status_events(i, subject);
                    if let Some(job) = self.changed_by_event(i, &mut states) {
                        changed = Some(job);
                    }
                    i = next - 1;
                    (Style::new().fg_color(Some(AnsiColor::Cyan.into())), words)
                }
                RecKind::Status { job, to, .. } => {
                    let index = self.model.jobs.iter().position(|known| known.id == *job);
                    if let Some(index) = index {
                        states[index] = (to != "null").then(|| to.clone());
                        changed = Some(index);
                    }
                    (Style::new(), String::new())
                }
                other => match words_of(other) {
                    Some((style, words)) => (style, words),
                    None => {
                        i += 1;
                        continue;
                    }
                },
            };
            let cells: String = (0..jobs).map(|job| self.cell(job, changed == Some(job), &states, column)).collect();
            let line = format!("{:>12}  {}{cells}", millis(record.time, 6), self.paint(style, &fit(&words, client)));
            _ = writeln!(self.out, "{}", line.trim_end());
            i += 1;
        }
    }

    /// Status events that stand side by side and tell of one job, as one line; and the record after them. Where no record tells of
    /// states but these events, each stands by itself.
    fn status_events(&self, at: usize, job: &str) -> (String, usize) {
        let alone = !self.source.records.iter().any(|record| matches!(record.kind, RecKind::Status { .. }));
        let mut words = Vec::new();
        let mut next = at;
        while let Some(record) = self.source.records.get(next) {
            match &record.kind {
                RecKind::Event { name, subject, status: Some(status), .. } if !notable(name) && subject == job => {
                    if alone && next > at {
                        break;
                    }
                    words.push(status.as_str());
                    next += 1;
                }
                _ => break,
            }
        }
        (format!("! {job}: {}", words.join(", ")), next)
    }

    fn changed_by_event(&self, at: usize, states: &mut [Option<String>]) -> Option<usize> {
        let RecKind::Event { subject, status: Some(status), .. } = &self.source.records[at].kind else { return None };
        let index = self.model.jobs.iter().position(|job| *job.id == **subject)?;
        let job = &self.model.jobs[index];
        // Only where the lane itself is made from events.
        if status != "null" && !job.states.iter().any(|(span, _)| span.from == at) {
            return None;
        }
        if status == "null" && !job.states.iter().any(|(span, _)| span.to == at) {
            return None;
        }
        states[index] = (status != "null").then(|| status.clone());
        Some(index)
    }

    fn cell(&self, job: usize, changed: bool, states: &[Option<String>], column: usize) -> String {
        let text = match (&states[job], changed) {
            (Some(state), true) => self.paint(style_of(state), &fit(&format!("● {state}"), column)),
            (Some(state), false) => self.paint(style_of(state), &fit("│", column)),
            (None, true) => fit("○ null", column),
            (None, false) => fit("", column),
        };
        format!("  {text}")
    }
}

fn bitmap_cells(bitmap: &Bitmap, width: usize, at: &dyn Fn(usize) -> usize) -> String {
    const LEVELS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut cells = vec![' '; width];
    for (n, (from, count)) in bitmap.counts.iter().enumerate() {
        let end = bitmap.counts.get(n + 1).map_or(width, |(next, _)| at(*next));
        let level = count.map_or(' ', |count| {
            let level = (count * 8).div_ceil(bitmap.max.max(1)).min(8);
            LEVELS[usize::try_from(level).unwrap_or(0)]
        });
        let from = at(*from);
        for cell in &mut cells[from..end.max(from + 1).min(width)] {
            *cell = level;
        }
    }
    cells.into_iter().collect()
}

/// The words for a record that has a line of its own.
fn words_of(kind: &RecKind) -> Option<(Style, String)> {
    let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    Some(match kind {
        RecKind::Command { name, subject, .. } => (Style::new().bold(), format!("> {name} {subject}")),
        RecKind::Reply { error: None, .. } => (Style::new().dimmed(), "< return".to_owned()),
        RecKind::Reply { error: Some(error), .. } => (colour(AnsiColor::Red), format!("< error: {error}")),
        RecKind::Event { name, subject, error, .. } => {
            let bad = error.is_some() || name.ends_with("ERROR") || name.ends_with("CANCELLED");
            let mut words = format!("! {name} {subject}");
            if let Some(error) = error {
                _ = write!(words, ": {error}");
            }
            (colour(if bad { AnsiColor::Red } else { AnsiColor::Cyan }), words)
        }
        RecKind::Fault { node, errno, op, bytes, offset, .. } => {
            let at = format!("+{} @{}", size_text(*bytes), size_text(*offset));
            (colour(AnsiColor::Red).bold(), format!("✗ {node}: {op} {at}: {}", errno_name(*errno)))
        }
        RecKind::Request { node, op, phase: RequestState::Failed(errno), .. } => {
            (colour(AnsiColor::Red), format!("✗ {node}: {op} fails: {}", errno_name(*errno)))
        }
        RecKind::Group { job, what, group } if what == "joins" || what == "aborts" => {
            (colour(AnsiColor::Magenta), format!("· {job} {what} group {group}"))
        }
        RecKind::Bitmap { node, name, what, count, .. } if what != "set" => {
            (colour(AnsiColor::Magenta), format!("· {node}/{name}: {what}, {} dirty", size_text(*count)))
        }
        RecKind::Note { what, text } => (colour(AnsiColor::Yellow), format!("· {what}: {}", text.replace('\n', " "))),
        _ => return None,
    })
}
