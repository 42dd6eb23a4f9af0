//! The few events that matter: what happened before the failure and led to it.

use super::{sends, traced};
use crate::choice::Deviation;
use crate::scenario::plan::Plan;
use crate::scenario::write::Remarks;
use crate::sim::outcome::RunOptions;
use crate::trace::{Record, RecordKind, text};
use std::collections::BTreeSet;

/// How many records before the end are looked at for what led to them.
const LAST: usize = 6;
/// How many events are told.
const TOLD: usize = 40;

/// Notes which steps led to the failure, and the events on the way from them.
pub(super) fn mark(plan: &Plan, list: &[Deviation], options: &RunOptions, remarks: &mut Remarks) {
    let Some(sim) = traced(plan, list, options) else { return };
    let records: Vec<&Record> = sim.world.trace.iter().collect();
    let mut matter = BTreeSet::new();
    for end in records.len().saturating_sub(LAST)..records.len() {
        let mut at = Some(end);
        while let Some(number) = at {
            if !matter.insert(number) {
                break;
            }
            // A record's cause comes before it.
            at = records[number].cause.map(|cause| cause as usize).filter(|cause| *cause < number);
        }
    }
    let sending: Vec<usize> = (0..plan.steps.len()).filter(|step| sends(&plan.steps[*step].kind)).collect();
    let commands = (0..records.len()).filter(|number| matches!(records[*number].kind, RecordKind::Command(_)));
    for (number, step) in commands.zip(sending) {
        if matter.contains(&number) {
            remarks.steps.push((step, "this matters:".to_owned()));
        }
    }
    remarks.tail.push("What led to it:".to_owned());
    let told = matter.iter().rev().take(TOLD).rev();
    for number in told {
        let mut line = String::new();
        text::write_line(records[*number], &mut line);
        remarks.tail.push(format!("  {}", short(line.trim_end())));
    }
}

fn short(line: &str) -> String {
    match line.char_indices().nth(110) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
