//! The members at the top of a scenario file: read, written back, and as the JSON Schema says them.

use super::error::{Fault, Read};
use super::fields::Fields;
use super::form::{Member, ValueKind, ValueType, form, opt};
use super::kinds::{Count, Duration};
use super::plan::{Limits, Schedule};
use super::tree::{Node, Value};
use super::yaml::Yaml;
use crate::invariant::Invariant;
use crate::quirk::{self, Quirk, Quirks, Switch};
use crate::version::Version;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

form! {
    /// Bounds of a run.
    Bounds: Limits = "limits" (Limits { steps, time, trace });
    steps: opt Count, "dispatches of the main loop";
    time: opt Duration, "virtual time";
    trace: opt Count, "records of the trace";
}

/// All of them; a test holds them to what [`super::load`] asks for.
pub(super) const TOP: &[Member] = &[
    opt("about", ValueType::Text, "one sentence that says what is shown"),
    opt("include", ValueType::Texts, "files with procedures, relative to this one"),
    opt("define", ValueType::Object, "procedures: name: {params: […], steps: […]}"),
    opt("files", ValueType::Steps, "images and other files that are made before QEMU starts"),
    opt("args", ValueType::Texts, "QEMU's arguments"),
    opt("steps", ValueType::Steps, "what happens"),
    opt("limits", Bounds::TYPE, "when a run is given up"),
    opt("qemu", ValueType::Any, "the version of QEMU, 10.0 without it (`blockjob-sim versions`)"),
    opt("quirks", ValueType::Texts, "bugs of older QEMUs that are switched on (`blockjob-sim quirks`)"),
    opt("expect-violation", ValueType::Text, "the invariant that it breaks on purpose (`quirks --invariants`)"),
    opt(
        "schedule",
        ValueType::Or(&[
            ValueType::Text,
            ValueType::Map(&[opt("choices", ValueType::Any, "a list"), opt("preemptions", ValueType::Any, "a list")]),
        ]),
        "the only schedule in which it holds: `calm`, `seed N`, or a list",
    ),
];

/// Reads the `schedule` of a scenario: `calm`, `seed N`, `{choices: …}` or `{preemptions: …}`.
pub(super) fn schedule(node: &Node) -> Read<Schedule> {
    if let Value::Map(_) = &node.value {
        let mut fields = Fields::of("schedule", node)?;
        let (choices, deviations) = (fields.opt("choices"), fields.opt("preemptions"));
        fields.end()?;
        return match (choices, deviations) {
            (Some(list), None) => Ok(Schedule::Choices(Arc::new(parsed(list)?))),
            (None, Some(list)) => Ok(Schedule::Deviations(Arc::new(parsed(list)?))),
            _ => Err(Fault::new(node.span, "this is not a schedule", "expected `choices` or `preemptions`")),
        };
    }
    let text = node.text()?;
    if &*text == "calm" {
        return Ok(Schedule::Calm);
    }
    let seed = text.strip_prefix("seed ").and_then(|seed| seed.parse().ok());
    let expected = format!("expected `calm`, `seed N`, `{{choices: …}}` or `{{preemptions: …}}`, found `{text}`");
    seed.map(Schedule::Seed).ok_or_else(|| Fault::new(node.span, "this is not a schedule", expected))
}

/// The value of `schedule`; `None` where it may be left out.
pub(super) fn written_schedule(schedule: &Schedule) -> Option<Yaml> {
    let lines = |key: &str, text: String| {
        let lines = text.lines().map(Yaml::text).collect();
        Some(Yaml::Map(vec![(key.to_owned(), Yaml::List(lines))]))
    };
    match schedule {
        Schedule::Any => None,
        Schedule::Calm => Some(Yaml::plain("calm")),
        Schedule::Seed(seed) => Some(Yaml::plain(format!("seed {seed}"))),
        Schedule::Choices(log) => lines("choices", log.to_string()),
        Schedule::Deviations(list) => lines("preemptions", list.to_string()),
    }
}

/// A list in its text form, or as a YAML list of its lines.
fn parsed<T: FromStr<Err: Display>>(node: &Node) -> Read<T> {
    let text = match &node.value {
        Value::List(_) => node.texts()?.join("\n"),
        _ => node.text()?.to_string(),
    };
    text.parse().map_err(|error: T::Err| Fault::new(node.span, "this list cannot be read", error.to_string()))
}

/// Reads the `qemu` of a scenario.
pub(super) fn version(node: &Node) -> Read<Option<Version>> {
    let text = match &node.value {
        // As YAML has it, most are numbers with a point; the digits are as they were written.
        Value::Number(digits) => digits.clone(),
        _ => node.text()?,
    };
    text.parse().map(Some).map_err(|why| Fault::new(node.span, "this version of QEMU is not simulated", why))
}

/// Reads the `quirks` of a scenario.
pub(super) fn quirks(node: &Node) -> Read<Quirks> {
    let table: Vec<(&'static str, Quirk)> = quirk::TABLE.iter().map(|about| (about.name, about.quirk)).collect();
    let switch = |name: &Node| match name.text()?.parse() {
        Ok(switch) => Ok(switch),
        Err(_) => name.word(&table).map(Switch::On),
    };
    node.list()?.iter().map(switch).collect()
}

/// Reads what stands behind `expect-violation`.
pub(super) fn invariant(node: &Node) -> Read<Invariant> {
    let table: Vec<(&'static str, Invariant)> = Invariant::ALL.iter().map(|known| (known.name(), *known)).collect();
    node.word(&table)
}
