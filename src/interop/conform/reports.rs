//! What a client was told of bitmaps, and whether it fits what it did between two looks.

use super::commands::{actions, job_id, text};
use super::contract::{End, Job, Pending};
use crate::base::Json;
use crate::invariant::{Broken, Invariant};
use crate::job::status::JobStatus;

/// A dirty bitmap, as a query shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bitmap {
    /// Its node, and the drive above, if there is one.
    node: String,
    device: String,
    name: String,
    count: u64,
    /// All else: granularity, and whether it is persistent, records, or is in use.
    flags: Vec<Json>,
    busy: bool,
}

/// The bitmaps that a query showed.
pub(super) struct Report {
    bitmaps: Vec<Bitmap>,
}

fn owned(json: &Json, key: &str) -> String {
    text(json, key).unwrap_or_default().to_owned()
}

impl Report {
    /// What a command returned, if it is one that shows bitmaps.
    pub(super) fn of(command: &str, returned: Option<&Json>) -> Option<Report> {
        let mut bitmaps = Vec::new();
        for entry in returned?.as_list()? {
            let (device, node) = match command {
                "query-block" => (owned(entry, "device"), entry.get("inserted")),
                "query-named-block-nodes" => (String::new(), Some(entry)),
                _ => return None,
            };
            let Some(node) = node else { continue };
            for bitmap in node.get("dirty-bitmaps").and_then(Json::as_list).unwrap_or_default() {
                let flags = ["granularity", "persistent", "recording", "busy"];
                bitmaps.push(Bitmap {
                    node: owned(node, "node-name"),
                    device: device.clone(),
                    name: owned(bitmap, "name"),
                    count: bitmap.get("count").and_then(Json::as_u64).unwrap_or_default(),
                    flags: flags.iter().filter_map(|key| bitmap.get(key).cloned()).collect(),
                    busy: bitmap.get("busy").and_then(Json::as_bool).unwrap_or_default(),
                });
            }
        }
        Some(Report { bitmaps })
    }
}

/// The last answer to a query, and what happened since.
struct Look {
    query: String,
    report: Report,
    /// How many jobs there had been; none of them was left.
    jobs: Option<usize>,
    /// A transaction, or one of the commands that are one of a single action, failed.
    refused: bool,
    /// Backups that were begun.
    backups: Vec<Json>,
    /// Something else was done that may change bitmaps.
    other: bool,
}

/// Commands that add an export.
const EXPORTS: [&str; 2] = ["block-export-add", "nbd-server-add"];

/// The last answer to each query.
#[derive(Default)]
pub(super) struct Reports {
    looks: Vec<Look>,
    /// An export was added: it may use bitmaps, and goes when its clients do.
    exports: bool,
}

impl Reports {
    /// A command has its reply.
    ///
    /// # Errors
    /// What it shows to be broken.
    pub(super) fn reply(
        &mut self,
        pending: &Pending,
        done: bool,
        report: Option<Report>,
        jobs: &[Job],
    ) -> Result<(), Broken> {
        self.exports |= done && EXPORTS.contains(&&*owned(&pending.command, "execute"));
        let Some(report) = report else {
            self.looks.iter_mut().for_each(|look| look.note(&pending.command, done));
            return Ok(());
        };
        let quiet = pending.no_jobs && jobs.iter().all(|job| job.status == JobStatus::Null);
        if let Some(bitmap) = report.bitmaps.iter().find(|bitmap| bitmap.busy && quiet && !self.exports) {
            return Err(bitmap.broken(Invariant::NothingLeft, "it is in use, though there is no job".to_owned()));
        }
        let query = owned(&pending.command, "execute");
        let before = self.looks.iter().position(|look| look.query == query).map(|at| self.looks.swap_remove(at));
        let checked = before.map_or(Ok(()), |before| before.fits(&report, jobs));
        let jobs = quiet.then_some(jobs.len());
        self.looks.push(Look { query, report, jobs, refused: false, backups: Vec::new(), other: false });
        checked
    }
}

impl Look {
    fn note(&mut self, command: &Json, done: bool) {
        let name = text(command, "execute").unwrap_or_default();
        let actions = actions(command);
        let one = name.ends_with("-backup") || name.starts_with("block-dirty-bitmap-");
        let verb = name.starts_with("job-") || name.starts_with("block-job-");
        if name.starts_with("query-") || verb {
            return;
        }
        if (name == "transaction" || one) && !done {
            self.refused = true;
        } else if !actions.is_empty() && actions.iter().all(|(name, _)| name.ends_with("-backup")) {
            self.backups.extend(actions.into_iter().map(|(_, data)| data.clone()));
        } else {
            self.other = true;
        }
    }

    /// Whether what is shown now can have come of what was shown then.
    fn fits(&self, now: &Report, jobs: &[Job]) -> Result<(), Broken> {
        let Some(then) = self.jobs.filter(|_| !self.other) else { return Ok(()) };
        let made = &jobs[then..];
        match (self.refused, &self.backups[..]) {
            (true, []) if made.iter().all(|job| job.status == JobStatus::Null && job.end.is_none()) => self.undone(now),
            (false, [backup]) => self.after(backup, made, now),
            _ => Ok(()),
        }
    }

    /// A transaction was refused, and nothing else was done.
    fn undone(&self, now: &Report) -> Result<(), Broken> {
        let lost = self.report.bitmaps.iter().find(|was| !now.bitmaps.contains(was));
        let Some(bitmap) = lost.or_else(|| now.bitmaps.iter().find(|is| !self.report.bitmaps.contains(is))) else {
            return Ok(());
        };
        let show = |report: &Report| match report.bitmaps.iter().find(|other| other.is(bitmap)) {
            Some(bitmap) => format!("count {}, flags {:?}", bitmap.count, bitmap.flags),
            None => "absent".to_owned(),
        };
        let reason = format!("a transaction failed, and it is {} instead of {}", show(now), show(&self.report));
        Err(bitmap.broken(Invariant::TransactionUndone, reason))
    }

    /// One backup was made since, and nothing was written.
    fn after(&self, backup: &Json, made: &[Job], now: &Report) -> Result<(), Broken> {
        let [job] = made else { return Ok(()) };
        let (Some(end), Some(id)) = (job.end, job_id(backup)) else { return Ok(()) };
        if *job.id != *id || !matches!(job.status, JobStatus::Concluded | JobStatus::Null) {
            return Ok(());
        }
        let (device, name) = (owned(backup, "device"), owned(backup, "bitmap"));
        let incremental = text(backup, "sync") == Some("incremental");
        let mode = if incremental { "on-success" } else { text(backup, "bitmap-mode").unwrap_or_default() };
        let of = |report: &Report| {
            let mut bitmaps = report.bitmaps.iter();
            bitmaps.find(|bitmap| bitmap.name == name && (bitmap.node == device || bitmap.device == device)).cloned()
        };
        let (Some(was), Some(is)) = (of(&self.report), of(now)) else { return Ok(()) };
        let fits = match (end, mode) {
            (End::Failure, "on-success") => is.count >= was.count,
            (End::Success, "on-success" | "always") => is.count == 0,
            (_, "never") => is.count == was.count,
            _ => true,
        };
        if fits && !is.busy {
            return Ok(());
        }
        let how = if end == End::Success { "succeeded" } else { "failed" };
        let flags = if is.busy { " and is in use" } else { "" };
        let reason =
            format!("job {id} {how}, bitmap-mode is {mode}, and its count is {}{flags}, after {}", is.count, was.count);
        Err(is.broken(Invariant::BitmapAfterJob, reason))
    }
}

impl Bitmap {
    fn is(&self, other: &Bitmap) -> bool {
        self.node == other.node && self.name == other.name
    }

    fn broken(&self, invariant: Invariant, reason: String) -> Broken {
        Broken::new(invariant, format!("bitmap {} of {}", self.name, self.node), reason)
    }
}
