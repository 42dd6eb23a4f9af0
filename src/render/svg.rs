//! The still picture: an SVG for a document, readable on light and on dark ground.

use super::model::{Bitmap, Job, Model, Node, RecordSpan, Regions, positions};
use super::read::{RecKind, ShownRun, errno_name};
use super::style::{STATES, escape, millis, notable, state_colour};
use crate::base::units::size_text;
use std::fmt::Write;

/// Where the plot begins, from the left.
const LEFT: u64 = 118;
/// Width of the whole, unless asked for otherwise.
const WIDTH: u64 = 1000;
/// What is left free on the right.
const RIGHT: u64 = 14;

const CSS: &str = "\
text{font:11px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1d2730}\
.h{font-size:14px;font-weight:600}.d{fill:#66717c}.l{font-weight:600}.g{stroke:#dfe4e8}.b{fill:#ffffff}\
.a{fill:#b9c7d3}.m{fill:#cfc3ea;stroke:#8b62cf}.c{fill:#33414e}.e{fill:#d64550}.v{fill:none;stroke:#8a97a3}\
.x{stroke:#d64550;stroke-width:2.2;fill:none}.k{fill:none;stroke:#d64550;stroke-width:1.3;opacity:.75}\
.q{fill:none;stroke:#8a97a3;opacity:.6}.r{fill:#d64550;font-weight:600}.s{font-size:10px}.o{fill:none;stroke:#8a97a3;opacity:.7}\
.f{fill:#1f9ba8;opacity:.8}.p{fill:none;stroke:#1f9ba8;stroke-width:1.6;stroke-dasharray:5 3}.pt{fill:#1f9ba8;font-weight:600}\
@media(prefers-color-scheme:dark){text{fill:#e3e8ec}.d{fill:#97a3ad}.g{stroke:#2c353d}.b{fill:#12181d}\
.a{fill:#45545f}.m{fill:#4b3d6b;stroke:#a98be0}.c{fill:#b4c0ca}.r{fill:#ff7b84}.x,.k{stroke:#ff7b84}.e{fill:#ff7b84}}";

/// What a picture shows and what stands above it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The record to begin with.
    pub from: Option<usize>,
    /// A heading instead of the run's own.
    pub heading: Option<String>,
    /// Width in pixels; at least 400.
    pub width: Option<u64>,
}

/// Draws a run.
#[must_use]
pub fn draw(source: &ShownRun, options: &Options) -> String {
    let model = Model::of(source);
    let range = super::model::range(source, options.from);
    let width = options.width.unwrap_or(WIDTH).max(400);
    let mut x = positions(source, range, width - LEFT - RIGHT);
    x.iter_mut().for_each(|at| *at += LEFT);
    x.push(width - RIGHT);
    let mut drawing = Drawing { source, model: &model, range, width, x, y: 0, out: String::new(), lanes: Vec::new() };
    drawing.all(options.heading.as_deref());
    let height = drawing.y;
    let label = escape(&format!("Timeline of {}", source.title));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{label}\"><style>{CSS}</style><rect class=\"b\" width=\"{width}\" height=\"{height}\"/>\n{}</svg>\n",
        drawing.out
    )
}

/// Width of a text of 11 pixels, as far as it can be known without the font.
fn text_width(text: &str) -> u64 {
    text.chars().map(|c| if c.is_ascii_uppercase() || c == '_' { 80 } else { 64 }).sum::<u64>() / 10 + 2
}

/// Rows of labels that must not overlap.
struct Labels {
    ends: Vec<u64>,
    width: u64,
}

impl Labels {
    fn new(rows: usize, width: u64) -> Labels {
        Labels { ends: vec![0; rows], width }
    }

    /// The row for a label, if one has room; its place, moved left where the picture ends.
    fn place(&mut self, at: u64, text: &str) -> Option<(usize, u64)> {
        let width = text_width(text);
        let at = at.min((self.width - 4).saturating_sub(width));
        let row = self.ends.iter().position(|end| *end <= at)?;
        self.ends[row] = at + width + 6;
        Some((row, at))
    }
}

/// A lane, for arrows: who, and where its middle is.
struct Lane {
    name: String,
    middle: u64,
}

struct Drawing<'a> {
    source: &'a ShownRun,
    model: &'a Model,
    range: RecordSpan,
    width: u64,
    /// Where each record stands; one more for the end.
    x: Vec<u64>,
    y: u64,
    out: String,
    lanes: Vec<Lane>,
}

impl Drawing<'_> {
    fn at(&self, record: usize) -> u64 {
        self.x[record.min(self.x.len() - 1)]
    }

    fn shown(&self, record: usize) -> bool {
        record >= self.range.from
    }

    fn put(&mut self, markup: &str) {
        self.out.push_str(markup);
        self.out.push('\n');
    }

    fn text(&mut self, class: &str, x: u64, y: u64, text: &str) {
        let text = escape(text);
        self.put(&format!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"));
    }

    /// The name of a lane, cut to its column, its whole in a title.
    fn label(&mut self, y: u64, name: &str, about: &str) {
        let cut: String = if name.chars().count() > 16 {
            format!("{}…", name.chars().take(15).collect::<String>())
        } else {
            name.to_owned()
        };
        let (cut, whole) = (escape(&cut), escape(name));
        let title = if cut == whole { String::new() } else { format!("<title>{whole}</title>") };
        self.put(&format!("<text class=\"l\" x=\"8\" y=\"{y}\">{cut}{title}</text>"));
        if !about.is_empty() {
            self.text("d s", 8, y + 12, about);
        }
    }

    fn all(&mut self, heading: Option<&str>) {
        self.header(heading);
        let top = self.y;
        let grid = self.out.len();
        self.client();
        for job in &self.model.jobs {
            if job.states.iter().any(|(span, _)| span.to > self.range.from) {
                self.job(job);
                for regions in self.model.regions.iter().filter(|regions| regions.job == job.id && regions.len > 0) {
                    self.regions(regions);
                }
            }
        }
        self.filters();
        // Files have names that nobody gave; together they say enough, but for those that failed.
        let mut others = Node { name: "other nodes".into(), requests: Vec::new(), faults: Vec::new(), rows: 0 };
        for node in &self.model.nodes {
            let faults = node.faults.iter().any(|fault| self.shown(*fault));
            if node.name.starts_with('#') && !faults {
                others.requests.extend(node.requests.iter().cloned());
            } else if faults || node.requests.iter().any(|request| self.shown(request.span.to)) {
                self.node(node);
            }
        }
        if others.requests.iter().any(|request| self.shown(request.span.to)) {
            self.node(&others);
        }
        for bitmap in &self.model.bitmaps {
            self.bitmap(bitmap);
        }
        let ticks = self.ticks(top);
        self.out.insert_str(grid, &ticks);
        if self.bad_end() {
            let (x, y) = (self.at(self.range.to), self.y);
            self.put(&format!(
                "<path class=\"x\" d=\"M{x}.5 {}V{y}\"><title>the run ends here</title></path>",
                top - 4
            ));
        }
        self.pivots(top);
        self.arrows();
        self.legend();
    }

    /// What a mirror has still to copy: the disk from top to bottom.
    fn regions(&mut self, regions: &Regions) {
        let (y, height, len) = (self.y, 44_u64, regions.len);
        self.label(y + 12, "its disk", &format!("{}, top to bottom", size_text(len)));
        let (left, right) = (LEFT, self.width - RIGHT - LEFT);
        self.put(&format!("<rect class=\"o\" x=\"{left}\" y=\"{y}\" width=\"{right}\" height=\"{height}\"/>"));
        let begin = self.range.from;
        for (class, what, all) in [("m", "dirty", &regions.dirty), ("f", "in flight", &regions.active)] {
            for (span, offset, bytes) in all.iter().filter(|(span, ..)| span.to > begin) {
                let (a, b) = (self.at(span.from.max(begin)), self.at(span.to));
                let (from, to) = (y + offset * height / len, y + (offset + bytes).min(len) * height / len);
                let range = format!("{what}: {} at {}", size_text(*bytes), size_text(*offset));
                self.put(&format!(
                    "<rect class=\"{class}\" x=\"{a}\" y=\"{from}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>",
                    (b - a).max(1),
                    (to - from).max(1),
                    escape(&range)
                ));
            }
        }
        self.y = y + height + 12;
    }

    /// Filters of jobs, from when they enter to when they leave.
    fn filters(&mut self) {
        let begin = self.range.from;
        for filter in self.model.filters.iter().filter(|filter| filter.span.to > begin) {
            let y = self.y;
            self.label(y + 10, &filter.name, "filter");
            let (a, b) = (self.at(filter.span.from.max(begin)), self.at(filter.span.to));
            self.put(&format!(
                "<rect class=\"o\" x=\"{a}\" y=\"{y}\" width=\"{}\" height=\"14\" rx=\"7\"/>",
                (b - a).max(3)
            ));
            let words = format!("over {}", filter.over);
            if text_width(&words) + 12 < b - a {
                self.text("d", a + 8, y + 11, &words);
            }
            self.y = y + 30;
        }
    }

    /// Lines through all lanes where a target takes the place of its source.
    fn pivots(&mut self, top: u64) {
        let begin = self.range.from;
        for pivot in self.model.pivots.iter().copied().filter(|pivot| *pivot >= begin) {
            let RecKind::Graph { node, other, .. } = &self.source.records[pivot].kind else { continue };
            let words = format!("pivot: {node} → {other}");
            let (x, y) = (self.at(pivot), self.y);
            self.put(&format!(
                "<path class=\"p\" d=\"M{x}.5 {}V{y}\"><title>{}</title></path>",
                top - 4,
                escape(&words)
            ));
            let at = (x + 4).min(self.width.saturating_sub(text_width(&words)));
            self.text("pt", at, y.saturating_sub(2), &words);
        }
    }

    /// Whether the run ended as it should not.
    fn bad_end(&self) -> bool {
        self.source.outcome.as_deref().is_some_and(|outcome| outcome != "passed")
    }

    fn header(&mut self, heading: Option<&str>) {
        let title = heading.map_or_else(|| self.source.title.clone(), str::to_owned);
        self.text("h", 8, 20, &title);
        let mut about = vec![self.source.schedule.clone()];
        about.extend(self.source.outcome.clone());
        let about = about.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" · ");
        let class = if self.bad_end() { "r" } else { "d" };
        let start = 8 + title.chars().count() as u64 * 96 / 10 + 16;
        if start + text_width(&about) < self.width {
            self.text(class, start, 20, &about);
            self.y = 46;
        } else {
            let room = usize::try_from(self.width / 7).unwrap_or(0);
            let cut: String = about.chars().take(room).collect();
            let more = if cut.len() < about.len() { "…" } else { "" };
            self.text(class, 8, 36, &format!("{cut}{more}"));
            self.y = 62;
        }
    }

    /// Lines of time through all lanes.
    fn ticks(&self, top: u64) -> String {
        let mut out = String::new();
        let (mut free, mut shown) = (LEFT, String::new());
        for i in self.range.from..=self.range.to {
            let Some(record) = self.source.records.get(i) else { break };
            let x = self.at(i);
            if x < free || matches!(record.kind, RecKind::Pause { .. } | RecKind::Progress { .. } | RecKind::Txn { .. })
            {
                continue;
            }
            let text = millis(record.time, 3);
            _ = writeln!(out, "<path class=\"g\" d=\"M{x}.5 {}V{}\"/>", top - 6, self.y);
            if text != shown {
                let anchor = x.min(self.width - 60);
                _ = writeln!(out, "<text class=\"d s\" x=\"{anchor}\" y=\"{}\">{text}</text>", top - 9);
            }
            shown = text;
            free = x + 92;
        }
        _ = writeln!(out, "<text class=\"d s\" x=\"8\" y=\"{}\">milliseconds</text>", top - 9);
        out
    }

    fn client(&mut self) {
        let labels_top = self.y;
        let mut labels = Labels::new(3, self.width);
        let bar = labels_top + 3 * 13 + 4;
        let mut rows = 0;
        let mut marks = String::new();
        for command in self.model.commands.iter().filter(|command| self.shown(command.span.from)) {
            let (x, end) = (self.at(command.span.from), self.at(command.span.to));
            let class = if command.error.is_some() { "e" } else { "c" };
            let mut words = format!("{} {}", command.name, command.subject).trim().to_owned();
            if command.error.is_some() {
                words.push_str(" ✗");
            }
            _ = writeln!(
                marks,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{bar}\" width=\"{}\" height=\"9\" rx=\"2\"/>",
                (end - x).max(3)
            );
            if let Some((row, at)) = labels.place(x, &words) {
                rows = rows.max(row + 1);
                let y = labels_top + 10 + (2 - row as u64) * 13;
                if at == x {
                    _ = writeln!(marks, "<path class=\"q\" d=\"M{x}.5 {}V{bar}\"/>", y + 2);
                }
                _ = writeln!(marks, "<text x=\"{}\" y=\"{y}\">{}</text>", at + 2, escape(&words));
            }
        }
        self.label(bar + 9, "client", "");
        self.lanes.push(Lane { name: "client".to_owned(), middle: bar + 4 });
        self.put(marks.trim_end());
        let events = bar + 14;
        let mut labels = Labels::new(3, self.width);
        let mut rows = 0;
        let mut marks = String::new();
        for event in self.model.events.iter().copied().filter(|event| self.shown(*event)) {
            let RecKind::Event { name, subject, status, error, .. } = &self.source.records[event].kind else {
                continue;
            };
            let x = self.at(event);
            if !notable(name) {
                let colour = status.as_deref().map_or("#8a97a3", state_colour);
                _ = writeln!(marks, "<path d=\"M{x} {events}v7\" stroke=\"{colour}\" stroke-width=\"2\"/>");
                continue;
            }
            let bad = error.is_some() || name.ends_with("ERROR") || name.ends_with("CANCELLED");
            let class = if bad { "r" } else { "" };
            _ = writeln!(marks, "<path d=\"M{x} {events}l4 7h-8z\" class=\"{}\"/>", if bad { "e" } else { "c" });
            let words = format!("{name} {subject}");
            if let Some((row, at)) = labels.place(x.saturating_sub(4), &words) {
                rows = rows.max(row + 1);
                let y = events + 19 + row as u64 * 13;
                _ = writeln!(marks, "<text class=\"{class}\" x=\"{at}\" y=\"{y}\">{}</text>", escape(words.trim()));
            }
        }
        self.put(marks.trim_end());
        self.y = events + 14 + rows as u64 * 13 + 8;
    }

    fn job(&mut self, job: &Job) {
        let y = self.y;
        let group = job.groups.last().filter(|(from, _)| job.states.iter().any(|(span, _)| span.to > *from));
        self.label(y + 13, &job.id, &group.map_or(String::new(), |(_, group)| format!("job, group {group}")));
        self.lanes.push(Lane { name: format!("job {}", job.id), middle: y + 10 });
        let mut text_over = String::new();
        let begin = self.range.from;
        for (span, state) in job.states.iter().filter(|(span, _)| span.to > begin) {
            let from = self.at(span.from.max(begin));
            let width = (self.at(span.to) - from).max(1);
            let (_, fill, ink) =
                STATES.iter().find(|(name, _, _)| name == state).unwrap_or(&("", "#7a7a7a", "#ffffff"));
            self.put(&format!(
                "<rect x=\"{from}\" y=\"{y}\" width=\"{width}\" height=\"20\" fill=\"{fill}\"><title>{state}</title></rect>"
            ));
            if text_width(state) + 2 <= width {
                _ = writeln!(
                    text_over,
                    "<text x=\"{}\" y=\"{}\" style=\"fill:{ink}\">{state}</text>",
                    from + 4,
                    y + 14
                );
            }
        }
        self.put(text_over.trim_end());
        for (from, group) in job.groups.iter().filter(|(from, _)| *from >= begin) {
            let (a, b) = (self.at(*from), self.at(job.group_end(*from)));
            self.put(&format!(
                "<path class=\"v\" d=\"M{a} {}H{b}\" stroke-width=\"2\" stroke-dasharray=\"2 3\"><title>in group {group}</title></path>",
                y + 23
            ));
        }
        self.y = y + 32;
    }

    fn node(&mut self, node: &Node) {
        let (y, height) = (self.y, 22_u64);
        let base = y + height;
        // How many are in flight at each pixel: the most that were.
        let mut steps: Vec<(u64, i64)> = Vec::new();
        for request in node.requests.iter().filter(|request| self.shown(request.span.to)) {
            let (a, b) = (self.at(request.span.from.max(self.range.from)), self.at(request.span.to));
            steps.push((a, 1));
            steps.push((b.max(a + 1), -1));
        }
        steps.sort_unstable_by_key(|(x, change)| (*x, *change));
        let peak =
            steps.iter().scan(0_i64, |count, (_, change)| Some(*count + change).inspect(|now| *count = *now)).max();
        let peak = peak.unwrap_or(1).max(1).unsigned_abs();
        let about = if peak == 1 { "requests".to_owned() } else { format!("requests, up to {peak}") };
        let about = self.source.nodes.get(&node.name).map_or_else(|| about.clone(), |what| format!("{what}, {about}"));
        self.label(y + 11, &node.name, &about);
        let mut path = format!("M{LEFT} {base}");
        let (mut count, mut drawn) = (0_i64, 0_i64);
        let mut i = 0;
        while i < steps.len() {
            let x = steps[i].0;
            while i < steps.len() && steps[i].0 == x {
                count += steps[i].1;
                i += 1;
            }
            if count != drawn {
                _ = write!(path, "H{x}V{}", base - count.unsigned_abs() * height / peak);
                drawn = count;
            }
        }
        _ = write!(path, "H{}V{base}z", self.width - RIGHT);
        self.put(&format!("<path class=\"a\" d=\"{path}\"/>"));
        self.lanes.push(Lane { name: format!("node {}", node.name), middle: y + 11 });
        let mut labels = Labels::new(1, self.width);
        let begin = self.range.from;
        for fault in node.faults.iter().copied().filter(|fault| *fault >= begin) {
            let source = self.source;
            let RecKind::Fault { errno, op, .. } = &source.records[fault].kind else { continue };
            let (x, m) = (self.at(fault), y + 11);
            self.put(&format!(
                "<path class=\"x\" d=\"M{} {}l10 10m0 -10l-10 10\"><title>{} fails: {}</title></path>",
                x.saturating_sub(5),
                m - 5,
                escape(op),
                escape(&errno_name(*errno))
            ));
            if let Some((_, at)) = labels.place(x + 9, "fault 5") {
                self.text("r", at, m + 4, &format!("{op}: {}", errno_name(*errno)));
            }
        }
        self.y = base + 10;
    }

    fn bitmap(&mut self, bitmap: &Bitmap) {
        let (y, height) = (self.y, 20_u64);
        self.label(y + 10, &bitmap.name, &format!("on {}, ≤ {}", bitmap.node, size_text(bitmap.max)));
        let base = y + height;
        let mut path = String::new();
        let (mut started, max) = (false, bitmap.max.max(1));
        for (i, count) in &bitmap.counts {
            let x = self.at(*i).max(LEFT);
            match count {
                Some(count) => {
                    let level = base - (count * (height - 2) / max).max(u64::from(*count > 0));
                    _ = write!(path, "{}{x}", if started { "H" } else { "M" });
                    _ = write!(path, "{}{level}", if started { "V" } else { " " });
                    started = true;
                }
                None => {
                    _ = write!(path, "H{x}V{base}");
                    started = false;
                }
            }
        }
        if started {
            _ = write!(path, "H{}V{base}", self.width - RIGHT);
        }
        self.put(&format!("<path class=\"m\" d=\"{path}\"/>"));
        let begin = self.range.from;
        for span in bitmap.busy.iter().filter(|span| span.to >= begin) {
            let (a, b) = (self.at(span.from.max(self.range.from)), self.at(span.to));
            self.put(&format!(
                "<path d=\"M{a} {}H{b}\" stroke=\"#8b62cf\" stroke-width=\"3\"><title>in use by a job</title></path>",
                base + 3
            ));
        }
        self.y = base + 14;
    }

    /// The lane that a record belongs to.
    fn lane_of(&self, record: usize) -> Option<(String, u64)> {
        let name = match &self.source.records[record].kind {
            RecKind::Command { .. } => "client".to_owned(),
            RecKind::Status { job, .. } | RecKind::Group { job, .. } => format!("job {job}"),
            RecKind::Fault { node, .. } => format!("node {node}"),
            _ => return None,
        };
        let lane = self.lanes.iter().find(|lane| lane.name == name)?;
        Some((name, lane.middle))
    }

    /// From what made a job change to the change: a command, a fault, another job.
    fn arrows(&mut self) {
        let mut curves = String::new();
        for i in self.range.from..self.model.len.min(self.range.to.saturating_add(1)) {
            let RecKind::Status { to, .. } = &self.source.records[i].kind else { continue };
            if !matches!(&**to, "created" | "aborting") {
                continue;
            }
            let Some((own, y)) = self.lane_of(i) else { continue };
            let Some((from, (other, y0))) = self.ancestor(i, &own) else { continue };
            let (x0, x) = (self.at(from), self.at(i));
            let class = if to == "aborting" { "k" } else { "q" };
            let half = y0.abs_diff(y) / 2;
            let (c0, c1) = if y0 < y { (y0 + half, y - half) } else { (y0 - half, y + half) };
            let edge = if y0 < y { y.saturating_sub(10) } else { y + 10 };
            _ = writeln!(
                curves,
                "<path class=\"{class}\" d=\"M{x0} {y0}C{x0} {c0} {x} {c1} {x} {edge}\"><title>{} → {}</title></path>\
                 <circle cx=\"{x}\" cy=\"{edge}\" r=\"2.5\" class=\"{}\"/>",
                escape(&other),
                escape(&own),
                if to == "aborting" { "e" } else { "c" }
            );
        }
        self.put(curves.trim_end());
    }

    /// What led to a record, in another lane: the group's abort if there was one, else the nearest.
    fn ancestor(&self, record: usize, own: &str) -> Option<(usize, (String, u64))> {
        let (mut at, mut nearest) = (record, None);
        while let Some(cause) = self.source.records[at].cause.filter(|cause| *cause < at && *cause >= self.range.from) {
            at = cause;
            let Some(lane) = self.lane_of(at).filter(|(name, _)| name != own) else { continue };
            match &self.source.records[at].kind {
                RecKind::Group { what, .. } if what == "aborts" => return Some((at, lane)),
                // Before a fault or a command, what went on did not yet lead here.
                RecKind::Fault { .. } | RecKind::Command { .. } => return nearest.or(Some((at, lane))),
                _ => nearest = nearest.or(Some((at, lane))),
            }
        }
        nearest
    }

    fn legend(&mut self) {
        let y = self.y + 6;
        let mut x = 8;
        for (state, fill, _) in STATES {
            let used = self.model.jobs.iter().flat_map(|job| &job.states);
            if used.into_iter().any(|(span, name)| name == state && span.to > self.range.from) {
                self.put(&format!("<rect x=\"{x}\" y=\"{y}\" width=\"11\" height=\"11\" fill=\"{fill}\"/>"));
                self.text("d", x + 15, y + 10, state);
                x += 15 + text_width(state) + 12;
            }
        }
        self.y = y + 22;
    }
}
