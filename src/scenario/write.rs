//! Plans as scenario files: YAML that a person can read, and that loads back to the same plan.
//!
//! Procedures are gone from a plan, so the text is longer than the file it came from; places are those of the new text.

use super::form::Form;
use super::plan::{Plan, StepKind};
use super::steps;
use super::top::{Bounds, written_schedule};
use super::yaml::{Yaml, flow, item, member, value_of};
use crate::base::Json;
use std::fmt::Write;

/// Remarks that are written as comments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// Above everything else, line by line.
    pub head: Vec<String>,
    /// Above steps: number of the step from 0, and a line. By ascending number.
    pub steps: Vec<(usize, String)>,
    /// Below the last step.
    pub tail: Vec<String>,
}

/// The text of a scenario file for `plan`.
#[must_use]
pub fn to_yaml(plan: &Plan) -> String {
    with_remarks(plan, &Remarks::default())
}

/// The same, with comments.
#[must_use]
pub fn with_remarks(plan: &Plan, remarks: &Remarks) -> String {
    let mut out = String::new();
    comments(&remarks.head, "", &mut out);
    member("about", &Yaml::text(&plan.about), &mut out);
    if let Some(version) = plan.quirks.asked() {
        member("qemu", &Yaml::plain(version.name()), &mut out);
    }
    if !plan.quirks.is_empty() {
        member("quirks", &Yaml::List(plan.quirks.names().map(|name| Yaml::plain(&name)).collect()), &mut out);
    }
    if let Some(invariant) = plan.expect_violation {
        member("expect-violation", &Yaml::plain(invariant.name()), &mut out);
    }
    if let Some(schedule) = written_schedule(&plan.schedule) {
        member("schedule", &schedule, &mut out);
    }
    let limits = Bounds::members(&plan.limits).unwrap_or_default();
    if !limits.is_empty() {
        member("limits", &Yaml::members(limits), &mut out);
    }
    if !plan.files.is_empty() {
        out.push_str("files:\n");
        for file in &plan.files {
            item(&steps::written(&StepKind::File(file.op.clone())), "  ", &mut out);
        }
    }
    if !plan.args.is_empty() {
        out.push_str("args:\n");
        for arg in &plan.args {
            item(&Yaml::text(arg), "  ", &mut out);
        }
    }
    if plan.steps.is_empty() {
        out.push_str("steps: []\n");
    } else {
        out.push_str("steps:\n");
    }
    let mut above = remarks.steps.iter().peekable();
    for (number, planned) in plan.steps.iter().enumerate() {
        while let Some((_, line)) = above.next_if(|(at, _)| *at <= number) {
            comments(std::slice::from_ref(line), "  ", &mut out);
        }
        item(&steps::written(&planned.kind), "  ", &mut out);
    }
    comments(&remarks.tail, "", &mut out);
    out
}

/// The text of one step on one line, as in messages.
#[must_use]
pub fn step_line(kind: &StepKind) -> String {
    flow(&steps::written(kind)).trim_start_matches('{').trim_end_matches('}').to_owned()
}

fn comments(lines: &[String], indent: &str, out: &mut String) {
    for line in lines {
        // A remark may come from anywhere; a control character would end the comment or the file's being YAML, and for readers of
        // YAML 1.1 so do the separators of Unicode.
        let ends = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
        let clean: String = line.chars().map(|c| if ends(c) { ' ' } else { c }).collect();
        _ = writeln!(out, "{}", format!("{indent}# {clean}").trim_end());
    }
}

/// A document that is no scenario: nothing is filled into its texts. The blocks come last, line by line as they are.
#[must_use]
pub fn document(members: &[(&str, Json)], blocks: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (key, value) in members {
        member(key, &value_of(value, false), &mut out);
    }
    for (key, text) in blocks {
        _ = writeln!(out, "{key}: |");
        text.lines().for_each(|line| _ = writeln!(out, "{}", format!("  {line}").trim_end()));
    }
    out
}
