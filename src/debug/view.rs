//! What there is to see at a place in a run, as lines of text: the terminal and scripts show the same.

use super::Debugger;
use crate::base::counted;
use crate::base::units::size_text;
use crate::sim;
use crate::trace::Record;
use crate::trace::text::write_line;

/// How many records ahead alternatives are held against each other.
const AHEAD: usize = 24;

/// Lines of a view.
pub type Lines = Vec<String>;

/// What can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Where the run stands.
    Where,
    /// Each job with its status and how far it is.
    Jobs,
    /// Groups of jobs.
    Groups,
    /// Dirty bitmaps.
    Bitmaps,
    /// Requests at devices and at nodes.
    Requests,
    /// Who waits for what.
    Waiting,
    /// The block nodes with what stands below each.
    Graph,
    /// The choices that come next, with their alternatives.
    Choices,
    /// The last twelve records.
    Trace,
}

impl View {
    /// All of them, with the words that name them.
    pub const ALL: [(&'static str, View); 9] = [
        ("where", View::Where),
        ("jobs", View::Jobs),
        ("groups", View::Groups),
        ("bitmaps", View::Bitmaps),
        ("requests", View::Requests),
        ("waiting", View::Waiting),
        ("graph", View::Graph),
        ("choices", View::Choices),
        ("trace", View::Trace),
    ];
}

/// A record in few words.
fn short(record: &Record) -> String {
    let mut line = String::new();
    write_line(record, &mut line);
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Debugger {
    /// What a view shows.
    #[must_use]
    pub fn view(&self, view: View) -> Lines {
        match view {
            View::Where => self.view_where(),
            View::Jobs => self.view_jobs(),
            View::Groups => self.view_groups(),
            View::Bitmaps => self.view_bitmaps(),
            View::Requests => self.view_requests(),
            View::Waiting => self.sim().world.waiting(),
            View::Graph => sim::graph::lines(&self.sim().world),
            View::Choices => self.view_choices(),
            View::Trace => self.view_trace(12),
        }
    }

    fn view_where(&self) -> Lines {
        let (sim, log) = (self.sim(), self.choices());
        let few = log.deviations().len();
        let mut lines = vec![format!(
            "dispatch {}, {}, step {} of the scenario, {}, {} ({few} not calm)",
            self.step(),
            sim.world.now,
            sim.client.step + 1,
            counted(sim.world.trace.len() as u64, "record"),
            counted(log.len() as u64, "choice")
        )];
        if let Some(outcome) = self.outcome() {
            lines.extend(outcome.to_string().lines().map(|line| format!("the run is over: {line}")));
        }
        lines
    }

    fn view_jobs(&self) -> Lines {
        let world = &self.sim().world;
        let jobs = world.jobs.list.iter().rev().map(|id| &world.jobs[*id]);
        let line = |job: &crate::world::job::Job| {
            let mut text = format!("{:<12} {:<10}", job.id, job.status.name());
            let mut add = |word: String| {
                text.push(' ');
                text.push_str(&word);
            };
            add(format!("{} of {}", size_text(job.progress_current), size_text(job.progress_total)));
            if job.pause_count > 0 {
                add(format!("pause-count {}", job.pause_count));
            }
            for (on, word) in [
                (job.busy, "busy"),
                (job.paused, "at a pause point"),
                (job.user_paused, "paused by the user"),
                (job.cancelled, "cancelled"),
                (job.force_cancel, "by force"),
                (job.deferred_to_main_loop, "has returned"),
            ] {
                if on {
                    add(word.to_owned());
                }
            }
            if let Some(errno) = job.ret {
                add(format!("result: {errno}"));
            }
            text
        };
        jobs.map(line).collect()
    }

    fn view_groups(&self) -> Lines {
        let world = &self.sim().world;
        let groups = world.jobs.txns.iter().filter(|(_, txn)| txn.grouped || txn.jobs.len() > 1);
        groups
            .map(|(id, txn)| {
                let members: Vec<String> = txn
                    .jobs
                    .iter()
                    .map(|job| format!("{} ({})", world.jobs[*job].id, world.jobs[*job].status.name()))
                    .collect();
                let aborting = if txn.aborting { ", aborting" } else { "" };
                format!("group {}{aborting}: {}", id.0, members.join(", "))
            })
            .collect()
    }

    fn view_bitmaps(&self) -> Lines {
        let mut lines = Vec::new();
        for (_, node) in self.sim().world.graph.nodes.iter() {
            for info in node.bitmaps.query() {
                let name = info.name.as_deref().unwrap_or("(without a name)");
                let mut line = format!(
                    "{}/{name}: {} dirty, granularity {}",
                    node.node_name,
                    size_text(info.count),
                    size_text(info.granularity)
                );
                for (on, word) in [
                    (info.busy, "busy"),
                    (info.recording, "recording"),
                    (info.persistent, "persistent"),
                    (info.inconsistent, "inconsistent"),
                ] {
                    if on {
                        line.push_str(", ");
                        line.push_str(word);
                    }
                }
                lines.push(line);
            }
        }
        lines
    }

    fn view_requests(&self) -> Lines {
        let world = &self.sim().world;
        let mut lines = Vec::new();
        for request in &world.aio.in_flight {
            let node = world.graph.nodes.get(request.node).map_or("?", |node| &*node.node_name);
            let op = format!("{:?}", request.op).split(['(', ' ', '{']).next().unwrap_or_default().to_lowercase();
            let due = request.due.map_or("not yet".to_owned(), |due| due.to_string());
            lines.push(format!(
                "device of {node}: {op} +{} @{} for {:?}, sent {}, due {due}",
                size_text(request.bytes),
                size_text(request.offset),
                request.co,
                request.sent
            ));
        }
        for (_, node) in world.graph.nodes.iter() {
            for request in &node.tracked {
                lines.push(format!(
                    "{}: {} +{} @{} for {:?}{}{}",
                    node.node_name,
                    request.op,
                    size_text(request.overlap_bytes),
                    size_text(request.overlap_offset),
                    request.co,
                    if request.serialising { ", serialising" } else { "" },
                    if request.waiting { ", waits for another" } else { "" }
                ));
            }
        }
        lines
    }

    fn view_choices(&self) -> Lines {
        let mut lines = Vec::new();
        for asked in self.coming() {
            let choice = asked.choice;
            lines.push(format!("@{} {} among {}, will take {}", asked.index, choice.point, choice.among, choice.pick));
            let calm = self.what_if(asked.index, 0, AHEAD);
            for pick in 0..choice.among.min(16) {
                let mark = if pick == choice.pick { '*' } else { ' ' };
                let words = if pick == 0 {
                    format!("(calm) next: {}", calm.first().map_or_else(|| "nothing".to_owned(), short))
                } else {
                    let other = self.what_if(asked.index, pick, AHEAD);
                    let differs = (0..calm.len().max(other.len())).find(|i| calm.get(*i) != other.get(*i));
                    match differs.map(|i| other.get(i)) {
                        None => "the same, as far as can be seen from here".to_owned(),
                        Some(None) => "other than calm: the run ends".to_owned(),
                        Some(Some(record)) => format!("other than calm: {}", short(record)),
                    }
                };
                lines.push(format!("{mark} {pick} {words}"));
            }
        }
        lines
    }

    /// The last records, in the columns of `run`.
    #[must_use]
    pub fn view_trace(&self, count: usize) -> Lines {
        let from = self.sim().world.trace.len().saturating_sub(count);
        let line = |record| {
            let mut line = String::new();
            write_line(record, &mut line);
            line.trim_end().to_owned()
        };
        self.records(from).map(line).collect()
    }
}
