//! Which files the backups of a run wrote, as far as its client can tell.

use super::commands::{actions, job_id, text};
use crate::base::Json;
use crate::scenario::plan::Plan;
use crate::trace::canonical;
use crate::trace::compare::ClientLine;
use std::collections::BTreeMap;

/// The files that successful backups wrote, and no other backup, by the job that did. Only of backups whose command had its reply within
/// the first `alike` lines.
#[must_use]
pub fn written(plan: &Plan, lines: &[ClientLine], alike: usize) -> BTreeMap<String, String> {
    let mut nodes = BTreeMap::new();
    for pair in plan.args.windows(2).filter(|pair| &*pair[0] == "-blockdev") {
        if let Ok(options) = canonical::parse(&pair[1]) {
            note(&options, &mut nodes);
        }
    }
    let mut by_file: BTreeMap<String, Vec<(&str, bool)>> = BTreeMap::new();
    // The last command of those lines may not have been carried out.
    let known = lines[..alike].iter().rposition(|line| matches!(line, ClientLine::Reply(_))).unwrap_or(0);
    for (at, line) in lines.iter().enumerate() {
        let ClientLine::Command(command) = line else { continue };
        for (name, data) in actions(command) {
            if name == "blockdev-add" {
                note(data, &mut nodes);
            }
            let (true, Some(id), Some(target)) = (name.ends_with("-backup"), job_id(data), text(data, "target")) else {
                continue;
            };
            let file = if name == "drive-backup" { Some(target.to_owned()) } else { nodes.get(target).cloned() };
            by_file.entry(file.unwrap_or_default()).or_default().push((id, at < known));
        }
    }
    let alone = by_file.into_iter().filter(|(_, ids)| ids.len() == 1 && ids[0].1 && succeeded(ids[0].0, lines));
    alone.map(|(file, ids)| (file, ids[0].0.to_owned())).collect()
}

/// Notes in which file a node is, and the nodes below it.
fn note(options: &Json, nodes: &mut BTreeMap<String, String>) -> Option<String> {
    let file = match (text(options, "filename"), options.get("file")) {
        (Some(file), _) => Some(file.to_owned()),
        (None, Some(Json::Str(name))) => nodes.get(&**name).cloned(),
        (None, Some(below)) => note(below, nodes),
        (None, None) => None,
    }?;
    if let Some(name) = text(options, "node-name") {
        nodes.insert(name.to_owned(), file.clone());
    }
    Some(file)
}

/// Whether all that is told of the ends of jobs of that name is success.
fn succeeded(id: &str, lines: &[ClientLine]) -> bool {
    let mut ends = lines.iter().filter_map(|line| match line {
        ClientLine::Event { name, data } if text(data, "device") == Some(id) => match &**name {
            "BLOCK_JOB_COMPLETED" => Some(data.get("error").is_none()),
            "BLOCK_JOB_CANCELLED" => Some(false),
            _ => None,
        },
        _ => None,
    });
    ends.next() == Some(true) && ends.next().is_none()
}
