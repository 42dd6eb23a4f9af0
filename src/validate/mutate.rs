//! Wrong traces, made from right ones: a search that finds a schedule for anything would be worth nothing.

use crate::base::Json;
use crate::trace::compare::ClientLine;
use std::sync::Arc;

/// A wrong trace, and what was done to it.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// What was done.
    pub what: &'static str,
    /// The first line that is not as it was, from 0.
    pub line: usize,
    /// All lines, with the one that was changed.
    pub trace: Vec<ClientLine>,
}

/// The job that an event is about.
fn job(line: &ClientLine) -> Option<&str> {
    match line {
        ClientLine::Event { data, .. } => data.get("id").or_else(|| data.get("device")).and_then(Json::as_str),
        _ => None,
    }
}

/// Makes one wrong trace, at a line.
type Mutation = fn(&[ClientLine], usize) -> Option<Mutant>;

/// Up to `most` wrong traces, spread over the trace and over what can be wrong.
#[must_use]
pub fn mutants(trace: &[ClientLine], most: usize) -> Vec<Mutant> {
    let kinds: [Mutation; 5] = [swap, drop, double, across, number];
    let mut all: Vec<Mutant> = Vec::new();
    // Strides that reach every line in an order that begins with distant ones.
    let step = (trace.len() * 5 / 8).max(1) | 1;
    for round in 0..trace.len() {
        for (nth, kind) in kinds.iter().enumerate() {
            let at = (round * step + nth * trace.len() / kinds.len()) % trace.len();
            let Some(mutant) = kind(trace, at) else { continue };
            if mutant.trace != trace && all.iter().all(|known| known.trace != mutant.trace) {
                all.push(mutant);
            }
            if all.len() == most {
                return all;
            }
        }
    }
    all
}

/// Two records of one job change places.
fn swap(trace: &[ClientLine], at: usize) -> Option<Mutant> {
    let of = job(trace.get(at)?)?;
    let other = (at + 1..trace.len()).find(|i| job(&trace[*i]) == Some(of))?;
    let mut wrong = trace.to_vec();
    wrong.swap(at, other);
    Some(Mutant { what: "two records of a job swapped", line: at, trace: wrong })
}

/// An event or a reply is missing.
fn drop(trace: &[ClientLine], at: usize) -> Option<Mutant> {
    if matches!(trace.get(at)?, ClientLine::Command(_)) {
        return None;
    }
    let mut wrong = trace.to_vec();
    wrong.remove(at);
    Some(Mutant { what: "a record dropped", line: at, trace: wrong })
}

/// An event or a reply comes twice.
fn double(trace: &[ClientLine], at: usize) -> Option<Mutant> {
    if matches!(trace.get(at)?, ClientLine::Command(_)) {
        return None;
    }
    let mut wrong = trace.to_vec();
    wrong.insert(at, trace[at].clone());
    Some(Mutant { what: "a record doubled", line: at + 1, trace: wrong })
}

/// The event before a reply comes behind it.
fn across(trace: &[ClientLine], at: usize) -> Option<Mutant> {
    let event = matches!(trace.get(at)?, ClientLine::Event { .. });
    let reply = matches!(trace.get(at + 1)?, ClientLine::Reply(_));
    if !event || !reply {
        return None;
    }
    let mut wrong = trace.to_vec();
    wrong.swap(at, at + 1);
    Some(Mutant { what: "a record moved across a reply", line: at, trace: wrong })
}

/// A number is another one.
fn number(trace: &[ClientLine], at: usize) -> Option<Mutant> {
    let mut wrong = trace.to_vec();
    let changed = match &trace[at] {
        ClientLine::Command(_) => None,
        ClientLine::Reply(reply) => other_number(reply).map(ClientLine::Reply),
        ClientLine::Event { name, data } => {
            other_number(data).map(|data| ClientLine::Event { name: name.clone(), data })
        }
    }?;
    wrong[at] = changed;
    Some(Mutant { what: "a number changed", line: at, trace: wrong })
}

/// The value with its first number one higher.
fn other_number(json: &Json) -> Option<Json> {
    match json {
        Json::Int(n) => Some(Json::Int(n + 1)),
        Json::Uint(n) => n.checked_add(1).map(Json::Uint),
        Json::List(items) => {
            let (at, changed) = items.iter().enumerate().find_map(|(i, item)| Some((i, other_number(item)?)))?;
            let mut items = items.to_vec();
            items[at] = changed;
            Some(Json::list(items))
        }
        Json::Dict(members) => {
            let usable = |key: &str| !crate::trace::compare::ignored(key);
            let change = |(i, (key, value)): (usize, &(Arc<str>, Json))| {
                usable(key).then(|| other_number(value)).flatten().map(|changed| (i, changed))
            };
            let (at, changed) = members.iter().enumerate().find_map(change)?;
            let mut members = members.to_vec();
            members[at].1 = changed;
            Some(Json::Dict(Arc::new(members)))
        }
        _ => None,
    }
}
