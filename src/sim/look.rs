//! What steps look at beside replies and events: bitmaps and images from outside, and what a command of the human monitor printed.

use crate::block::qemu_io;
use crate::qmp::hmp::{self, HmpLine};
use crate::scenario::pattern;
use crate::scenario::plan::{BitmapCheck, EventPattern, Fails, PlannedStep, StepKind};
use crate::trace::canonical;
use crate::world::World;
use crate::world::block::driver::Driver;
use crate::world::out::Event;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a command of the human monitor failed, with its reply and what was printed meanwhile; `None` if it did not.
pub(super) fn hmp_failure(line: &str, reply: &str, printed: &str) -> Option<String> {
    if let Some(message) = reply.strip_prefix("Error: ") {
        return Some(message.trim_end().to_owned());
    }
    let line = hmp::parse(line);
    if let Some(why) = refusal(&line) {
        return Some(why);
    }
    match line {
        HmpLine::QemuIo { command, .. } => {
            let words = command.split(' ').find(|word| !word.is_empty()).unwrap_or_default();
            // What `info` knows of a format goes to the monitor too.
            if !reply.is_empty() && !matches!(words, "info" | "i") {
                return Some(first_line(reply, printed));
            }
            qemu_io::text::failure(printed).map(str::to_owned)
        }
        _ => None,
    }
}

/// Why QEMU does not even begin to carry out a line of the human monitor; `None` if it does.
pub(super) fn hmp_refusal(line: &str) -> Option<String> {
    refusal(&hmp::parse(line))
}

fn refusal(line: &HmpLine) -> Option<String> {
    match line {
        HmpLine::Refused(refusal) => Some(first_line(&refusal.stdout, &refusal.reply)),
        HmpLine::QemuIo { command, .. } => {
            let output = qemu_io::parse(command)?.what.err()?;
            let said = format!("{}{}{}", output.stderr, output.report.unwrap_or_default(), output.stdout);
            // `-i` only counts a request as invalid.
            output.invalid.is_none().then(|| first_line(&said, ""))
        }
        _ => None,
    }
}

fn first_line(text: &str, otherwise: &str) -> String {
    let text = if text.trim().is_empty() { otherwise } else { text };
    text.trim().lines().next().unwrap_or("it was refused").trim().to_owned()
}

/// Whether the guest sends requests without waiting for them, and all of them must succeed: else it is not known which one failed. Of what
/// a step `qmp` has qemu-io do, nothing is asked.
pub(super) fn all_must_succeed(steps: &[PlannedStep]) -> bool {
    let mut sent = steps.iter().filter_map(|step| match &step.kind {
        StepKind::Hmp { line, fails, .. } if line.contains("aio_") => Some(*fails),
        StepKind::Qmp { command, .. } if canonical::to_string(command).contains("qemu-io") => Some(Fails::Any),
        _ => None,
    });
    let some = sent.clone().next().is_some();
    some && sent.all(|fails| fails == Fails::No)
}

/// The event among `queue` that comes next to what a step waits for, and in which member it differs; a line for people.
pub(super) fn near_miss<'a>(wanted: &EventPattern, queue: impl Iterator<Item = &'a Event>) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    for event in queue {
        if *event.name() != *wanted.name {
            continue;
        }
        let data = event.data();
        let stray = wanted.without.iter().find(|member| data.get(member).is_some());
        let differing = wanted.data.as_ref().map_or(0, |pattern| pattern::differing(pattern, &data));
        let how = match (wanted.data.as_ref().and_then(|pattern| pattern::check(pattern, &data).err()), stray) {
            (Some(mismatch), _) => mismatch.to_string(),
            (None, Some(member)) => {
                let value = data.get(member).map_or_else(String::new, canonical::to_string);
                format!("at {member}: expected no such member, got {value}")
            }
            // One that fits was read before by another step, or is still to be read.
            (None, None) => continue,
        };
        let differing = differing + usize::from(stray.is_some());
        if best.as_ref().is_none_or(|(least, _)| differing < *least) {
            let shown = canonical::to_string(&data);
            best = Some((differing, format!("client: read {} {shown}, which differs {how}", wanted.name)));
        }
    }
    best.map(|(_, line)| line)
}

fn areas(areas: &[(u64, u64)]) -> String {
    let shown: Vec<String> = areas.iter().map(|(offset, length)| format!("{offset}+{length}")).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

/// What a `bitmap` step expects.
pub(super) fn bitmap(world: &World, check: &BitmapCheck) -> Result<(), String> {
    let Some(bs) = world.graph.lookup(Some(&check.node), Some(&check.node)) else {
        return Err(format!("there is no node '{}'", check.node));
    };
    let bitmaps = &world.graph.nodes[bs].bitmaps;
    let info = bitmaps.query().find(|info| info.name.as_deref() == Some(&*check.name));
    let Some(info) = info else {
        return if check.absent { Ok(()) } else { Err(format!("there is no bitmap '{}'", check.name)) };
    };
    if check.absent {
        return Err(format!("there is a bitmap '{}'", check.name));
    }
    let differs = |what: &str, wanted: String, got: String| Err(format!("{what}: expected {wanted}, got {got}"));
    for (what, wanted, got) in
        [("count", check.count, info.count), ("granularity", check.granularity, info.granularity)]
    {
        if let Some(wanted) = wanted.filter(|w| *w != got) {
            return differs(what, wanted.to_string(), got.to_string());
        }
    }
    if let Some(wanted) = &check.ranges {
        let found = bitmaps.find(&check.name).and_then(|id| bitmaps.get(id));
        let got: Vec<(u64, u64)> = found.map(|bitmap| bitmap.bitmap().areas().collect()).unwrap_or_default();
        if *wanted != got {
            return differs("ranges", areas(wanted), areas(&got));
        }
    }
    for (what, wanted, got) in [
        ("busy", check.busy, info.busy),
        ("recording", check.recording, info.recording),
        ("persistent", check.persistent, info.persistent),
        ("inconsistent", check.inconsistent, info.inconsistent),
    ] {
        if let Some(wanted) = wanted.filter(|w| *w != got) {
            return differs(what, wanted.to_string(), got.to_string());
        }
    }
    Ok(())
}

/// What a `no-jobs` step expects.
pub(super) fn no_jobs(world: &World) -> Result<(), String> {
    match world.jobs.list.first() {
        None => Ok(()),
        Some(job) => {
            let j = &world.jobs[*job];
            Err(format!("expected no job, found '{}' in state '{}'", j.id, j.status.name()))
        }
    }
}

/// What a `no-events` step expects of the events that were read and not waited for.
pub(super) fn no_events<'a>(queue: impl IntoIterator<Item = &'a Event>, except: &[Arc<str>]) -> Result<(), String> {
    match queue.into_iter().find(|e| !except.iter().any(|name| **name == *e.name())) {
        None => Ok(()),
        Some(e) => Err(format!("expected no further event, found {} {}", e.name(), canonical::to_string(&e.data()))),
    }
}

/// Images that the process has open are compared as they are on the host, with what it keeps in its caches written first in a copy of
/// the world that is then thrown away.
pub(super) fn same(world: &World, images: &[Arc<str>]) -> Result<(), String> {
    let mut files = world.flushed_files();
    for pair in images.windows(2) {
        match files.compare(&pair[0], &pair[1]) {
            Ok(Ok(())) => {}
            Ok(Err(mismatch)) => {
                let writers = mismatch.writers(&world.writers);
                return Err(format!("'{}' and '{}' differ: {mismatch}{writers}", pair[0], pair[1]));
            }
            Err(err) => return Err(err.to_string()),
        }
    }
    Ok(())
}

/// What the nodes of a process are, by name: driver, and for those that open a file its name.
pub(super) fn nodes(world: &World) -> BTreeMap<Arc<str>, String> {
    let known = world.graph.nodes.iter().filter_map(|(_, node)| {
        let driver = node.driver.as_ref()?;
        let about = match driver {
            Driver::File(file) => format!("file {}", file.path),
            other => other.format_name().to_owned(),
        };
        Some((node.node_name.clone(), about))
    });
    known.collect()
}
