//! When two observations of a program are the same: what the host decides is left out, and where the client did not wait for rest, when it
//! read an event.

#![allow(dead_code, reason = "each test takes what it needs")]

use serde_json::Value;

/// The lines of a recording. Which parts of a raw file are allocated is its file system's affair.
pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| same_on_all_hosts(serde_json::from_str(line).expect("JSON"))).collect()
}

pub fn same_on_all_hosts(mut line: Value) -> Value {
    if line.get("image").is_some() {
        // Some recordings say of each range whether it is data, zero and allocated, the others only the last.
        for range in line["map"].as_array_mut().into_iter().flatten() {
            let range = range.as_array_mut().expect("a range");
            if range.len() > 4 {
                range.drain(3..5);
            }
        }
        if line["format"] == "raw" {
            line["map"] = Value::Null;
        }
    }
    line
}

/// The way to the first value that differs, and both.
pub fn deep(way: &str, real: &Value, ours: &Value) -> String {
    match (real, ours) {
        (Value::Object(a), Value::Object(b)) => {
            if a.keys().ne(b.keys()) {
                return format!("at {way}\nQEMU: {real}\nours: {ours}");
            }
            let names = a.keys().chain(b.keys());
            let differs = |name: &&String| a.get(*name) != b.get(*name);
            let name = names.into_iter().find(differs).expect("they differ");
            let of = |members: &serde_json::Map<String, Value>| members.get(name).cloned().unwrap_or(Value::Null);
            deep(&format!("{way}.{name}"), &of(a), &of(b))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let i = (0..a.len()).find(|&i| a[i] != b[i]).expect("they differ");
            deep(&format!("{way}[{i}]"), &a[i], &b[i])
        }
        _ => format!("at {way}\nQEMU: {real}\nours: {ours}"),
    }
}

/// Replies and all else in order, and events in order: what does not depend on when the client read.
pub fn apart(lines: &[Value]) -> (Vec<&Value>, Vec<&Value>) {
    lines.iter().partition(|line| line.get("event").is_none())
}

/// Where the lists differ first.
pub fn difference(real: &[&Value], ours: &[&Value]) -> Option<String> {
    let length = real.len().max(ours.len());
    let place = (0..length).find(|&i| real.get(i) != ours.get(i))?;
    let end = Value::from("(the end)");
    let before = place.checked_sub(1).map_or(String::new(), |i| format!("after {}\n", real[i]));
    let found = deep("", real.get(place).unwrap_or(&&end), ours.get(place).unwrap_or(&&end));
    Some(format!("line {}: {before}{found}", place + 1))
}

/// Where two observations of a program differ. A client that sends without waiting for the process to come to rest may read events sooner
/// or later.
pub fn differs(program: &Value, real: &[Value], ours: &[Value]) -> Option<String> {
    if program.get("calm").is_some() {
        return difference(&real.iter().collect::<Vec<_>>(), &ours.iter().collect::<Vec<_>>());
    }
    let ((real, events), (ours, our_events)) = (apart(real), apart(ours));
    difference(&real, &ours).or_else(|| difference(&events, &our_events))
}
