//! What it takes to have an order of events on a real QEMU: who is held back, by what, and until when.
//!
//! The order comes from a run of the model. Two jobs that a command starts end one after the other; the later one is held back until the
//! client has seen what the earlier one did. The source of the held job gets nodes for that below its format: blkdebug, where a
//! breakpoint suspends a read until it is resumed, and a throttling filter. A breakpoint needs a drive with a name that `qemu-io` of the
//! human monitor can use while requests are in flight, and a client that QEMU listens to. Where QEMU itself waits for the held job, in
//! the middle of ending the other, nobody could resume it: there its reads are made slow instead.

use crate::base::Json;
use crate::scenario::plan::{Plan, StepKind};
use crate::trace::canonical;
use crate::trace::compare::ClientLine;
use std::sync::Arc;

/// A job that is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The command that starts it, counted from 0 among the commands.
    pub command: usize,
    /// Its source: a drive or a node.
    pub source: Arc<str>,
    /// By what.
    pub by: HeldBy,
}

/// By what a job is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// A breakpoint, until this status of another job was read.
    Break {
        /// Id of the job that must get ahead.
        job: Arc<str>,
        /// As `query-jobs` and `JOB_STATUS_CHANGE` call it.
        status: Arc<str>,
    },
    /// So many reads a second, until the next command is sent.
    Throttle(u32),
}

/// How an order is forced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forced {
    /// Who is held back.
    pub holds: Vec<Hold>,
    /// What cannot be forced, and why.
    pub cannot: Vec<String>,
}

/// What of a job counts for the order.
#[derive(Clone, Debug)]
struct Course {
    job: Arc<str>,
    source: Arc<str>,
    /// Lines of the trace.
    error: Option<usize>,
    waiting: Option<usize>,
    aborting: Option<usize>,
}

impl Course {
    /// Where its work ends.
    fn end(&self) -> Option<usize> {
        [self.error, self.waiting, self.aborting].into_iter().flatten().min()
    }
}

/// The jobs that a command starts, with their sources.
fn started(command: &Json) -> Vec<(Arc<str>, Arc<str>)> {
    let arguments = command.get("arguments");
    let actions = arguments.and_then(|a| a.get("actions")).and_then(Json::as_list).unwrap_or_default();
    let mut all: Vec<(&str, &Json)> =
        actions.iter().filter_map(|action| Some((action.get("type")?.as_str()?, action.get("data")?))).collect();
    all.extend(command.get("execute").and_then(Json::as_str).zip(arguments));
    let backups = all.into_iter().filter(|(name, _)| name.ends_with("-backup"));
    backups
        .filter_map(|(_, data)| {
            let device: Arc<str> = data.get("device")?.as_str()?.into();
            Some((data.get("job-id").and_then(Json::as_str).map_or(device.clone(), Arc::from), device))
        })
        .collect()
}

/// How a job of the command in line `from` goes on, up to its conclusion.
fn course(lines: &[ClientLine], from: usize, (job, source): (Arc<str>, Arc<str>)) -> Course {
    let mut course = Course { job: job.clone(), source, error: None, waiting: None, aborting: None };
    for (number, line) in lines.iter().enumerate().skip(from) {
        let ClientLine::Event { name, data } = line else { continue };
        let of = data.get("id").or_else(|| data.get("device")).and_then(Json::as_str);
        if of != Some(&*job) {
            continue;
        }
        let place = match (&**name, data.get("status").and_then(Json::as_str)) {
            ("BLOCK_JOB_ERROR", _) => &mut course.error,
            (_, Some("waiting")) => &mut course.waiting,
            (_, Some("aborting")) => &mut course.aborting,
            (_, Some("concluded" | "null")) => break,
            _ => continue,
        };
        place.get_or_insert(number);
    }
    course
}

/// How the order of `lines` is had. `drive` says whether a source is a drive with a name of its own.
#[must_use]
pub fn force(lines: &[ClientLine], drive: impl Fn(&str) -> bool) -> Forced {
    let mut forced = Forced::default();
    let mut command = 0;
    for (number, line) in lines.iter().enumerate() {
        let ClientLine::Command(sent) = line else { continue };
        let mut courses: Vec<Course> =
            started(sent).into_iter().map(|job| course(lines, number, job)).filter(|c| c.end().is_some()).collect();
        courses.sort_by_key(|course| course.end());
        for (rank, pair) in courses.windows(2).enumerate() {
            hold(&pair[0], &pair[1], command, rank, &drive, &mut forced);
        }
        command += 1;
    }
    forced
}

/// `later` is held back for `earlier`.
fn hold(
    earlier: &Course,
    later: &Course,
    command: usize,
    rank: usize,
    drive: &impl Fn(&str) -> bool,
    forced: &mut Forced,
) {
    let source = later.source.clone();
    // The reads of one chunk each then take some seconds, which a busy machine does not.
    let slow = HeldBy::Throttle(if rank == 0 { 2 } else { 1 });
    if let (Some(error), Some(aborting), Some(waiting)) = (earlier.error, earlier.aborting, later.waiting)
        && error < waiting
        && waiting < aborting
    {
        forced.cannot.push(format!(
            "`{}` is told of its error, then `{}` waits, then `{}` is aborting: the last requests of both must be found done in one \
             round of QEMU's main loop, and nothing that a client can do decides that",
            earlier.job, later.job, earlier.job
        ));
        return;
    }
    let by = match earlier.waiting {
        Some(_) if drive(&source) => HeldBy::Break { job: earlier.job.clone(), status: "waiting".into() },
        _ => slow,
    };
    forced.holds.push(Hold { command, source, by });
}

/// Name of the throttling group of a source.
#[must_use]
pub fn group(source: &str) -> String {
    format!("hold-{source}")
}

/// The plan with nodes below the sources that are held, so that they can be.
#[must_use]
pub fn prepared(plan: &Plan, forced: &Forced) -> Plan {
    let mut plan = plan.clone();
    let mut sources: Vec<Arc<str>> = forced.holds.iter().map(|hold| hold.source.clone()).collect();
    sources.sort();
    sources.dedup();
    for source in sources {
        for arg in &mut plan.args {
            if let Some(changed) = drive_option(arg, &source) {
                *arg = changed.into();
            } else if let Some(json) = arg.starts_with('{').then(|| canonical::parse(arg).ok()).flatten()
                && json.get("node-name").and_then(Json::as_str) == Some(&*source)
            {
                *arg = canonical::to_string(&throttled(&json, &group(&source))).into();
            }
        }
        let mut steps = plan.steps.to_vec();
        for step in &mut steps {
            if let StepKind::Qmp { command, .. } = &mut step.kind
                && command.get("execute").and_then(Json::as_str) == Some("blockdev-add")
                && let Some(arguments) = command.get("arguments")
                && arguments.get("node-name").and_then(Json::as_str) == Some(&*source)
            {
                let arguments = throttled(arguments, &group(&source));
                *command = Json::dict(vec![("execute", "blockdev-add".into()), ("arguments", arguments)]);
            }
        }
        plan.steps = steps.into();
        plan.args.push("-object".into());
        plan.args.push(format!("throttle-group,id={}", group(&source)).into());
    }
    plan
}

/// Whether the option of `-drive` defines this drive or node.
#[must_use]
pub fn defines(option: &str, source: &str) -> bool {
    option.split(',').any(|part| part == format!("id={source}") || part == format!("node-name={source}"))
}

/// The option of `-drive` with blkdebug and a throttling filter below its format.
fn drive_option(option: &str, source: &str) -> Option<String> {
    if option.starts_with('{') || !defines(option, source) {
        return None;
    }
    let parts = option.split(',').flat_map(|part| match part.strip_prefix("file=") {
        None => vec![part.to_owned()],
        Some(file) => vec![
            "file.driver=blkdebug".to_owned(),
            "file.image.driver=throttle".to_owned(),
            format!("file.image.throttle-group={}", group(source)),
            "file.image.file.driver=file".to_owned(),
            format!("file.image.file.filename={file}"),
        ],
    });
    Some(parts.collect::<Vec<_>>().join(","))
}

/// The definition of a node with a throttling filter above each host file in it.
fn throttled(node: &Json, group: &str) -> Json {
    let Some(members) = node.as_dict() else { return node.clone() };
    if node.get("driver").and_then(Json::as_str) == Some("file") {
        return Json::dict(vec![
            ("driver", "throttle".into()),
            ("throttle-group", Json::str(group)),
            ("file", node.clone()),
        ]);
    }
    let deeper = |(key, value): &(Arc<str>, Json)| {
        let below = matches!(&**key, "file" | "image") && value.as_dict().is_some();
        (key.clone(), if below { throttled(value, group) } else { value.clone() })
    };
    Json::Dict(Arc::new(members.iter().map(deeper).collect()))
}
