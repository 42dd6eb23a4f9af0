//! Traces that others wrote: our recorder's JSON lines, QMP logs of QEMU's iotests, libvirt's log.
//!
//! QEMU's iotests log a message a line, as Python writes a dictionary, behind `DEBUG:qemu.qmp.protocol…:-->` (sent) or `<--` (read),
//! in `check -d`'s output also behind `QMP>` and `QMP<`; text logs of `log=True` are `{"execute": …}` and `{"return": …}` alone, which
//! is the order of the client too. libvirt notes `QEMU_MONITOR_IO_WRITE: … buf={…}` and `QEMU_MONITOR_RECV_REPLY: … reply={…}`,
//! `QEMU_MONITOR_RECV_EVENT: … event={…}`.
//!
//! Ids, timestamps, the greeting, the negotiation, the `SHUTDOWN` of a process that a signal ended, and directories of file names are no
//! part of a trace.

use crate::base::Json;
use crate::trace::canonical;
use crate::trace::compare::ClientLine;
use crate::trace::jsonl;
use std::sync::Arc;

/// Reads the traces of a file.
///
/// # Errors
/// If there is none in it, or a line of one is not well formed.
pub fn read(text: &str) -> Result<Vec<Vec<ClientLine>>, String> {
    let foreign = text.lines().any(|line| direction(line).is_some());
    let traces = if foreign { vec![messages(text)?] } else { ours(text)? };
    let traces: Vec<Vec<ClientLine>> = traces.into_iter().filter(|trace| !trace.is_empty()).collect();
    if traces.is_empty() {
        return Err("no trace is in it: expected JSON lines with `command`, `reply`, `event`, or a QMP log".to_owned());
    }
    Ok(traces)
}

/// JSON lines; each line with the member `qemu` begins another trace.
fn ours(text: &str) -> Result<Vec<Vec<ClientLine>>, String> {
    let mut traces = vec![String::new()];
    for line in text.lines() {
        if canonical::parse(line).is_ok_and(|json| json.get("qemu").is_some()) {
            traces.push(String::new());
        }
        let last = traces.last_mut().expect("there is one");
        last.push_str(line);
        last.push('\n');
    }
    traces.iter().map(|text| jsonl::parse_client(text).map_err(|error| error.to_string())).collect()
}

/// Who a line of a log is from, and the text of the message.
fn direction(line: &str) -> Option<(bool, &str)> {
    const SENT: [&str; 4] = ["QEMU_MONITOR_IO_WRITE:", "QMP>", "-->", "DEBUG:QMP:>>>"];
    const READ: [&str; 5] = ["QEMU_MONITOR_RECV_REPLY:", "QEMU_MONITOR_RECV_EVENT:", "QMP<", "<--", "DEBUG:QMP:<<<"];
    let after = |marks: &[&str]| {
        let at = marks.iter().find_map(|mark| line.find(mark).map(|at| at + mark.len()))?;
        let open = line[at..].find('{')?;
        Some(&line[at + open..])
    };
    after(&SENT).map(|text| (true, text)).or_else(|| after(&READ).map(|text| (false, text)))
}

fn messages(text: &str) -> Result<Vec<ClientLine>, String> {
    let mut trace = Vec::new();
    let mut negotiates = false;
    for (number, line) in text.lines().enumerate() {
        let Some((sent, message)) = direction(line) else { continue };
        let json = message_of(message).map_err(|problem| format!("line {}: {problem}", number + 1))?;
        let json = plain(&json);
        if json.get("QMP").is_some() {
            continue;
        }
        if sent {
            negotiates = json.get("execute").and_then(Json::as_str) == Some("qmp_capabilities");
            if !negotiates {
                trace.push(ClientLine::Command(json));
            }
        } else if let Some(name) = json.get("event").and_then(Json::as_str) {
            let data = json.get("data").cloned().unwrap_or_else(Json::empty);
            // The signal came from outside, and has no command.
            let signal = data.get("reason").and_then(Json::as_str) == Some("host-signal");
            if name != "SHUTDOWN" || !signal {
                trace.push(ClientLine::Event { name: name.into(), data });
            }
        } else if !std::mem::take(&mut negotiates) {
            trace.push(ClientLine::Reply(json));
        }
    }
    Ok(trace)
}

/// A message as JSON, or as Python writes a dictionary.
fn message_of(text: &str) -> Result<Json, String> {
    let text = text.trim().trim_end_matches("\\r\\n").trim_end_matches("\\n");
    canonical::parse(text).or_else(|error| canonical::parse(&from_python(text)).map_err(|_| error))
}

/// `{'a': True, "it's": None}` as JSON.
fn from_python(text: &str) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut word = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            Some(open) if c == open => {
                out.push('"');
                quote = None;
            }
            Some(_) if c == '\\' => match chars.next() {
                Some('\'') => out.push('\''),
                Some(other) => out.extend(['\\', other]),
                None => {}
            },
            Some(_) if c == '"' => out.push_str("\\\""),
            Some(_) => out.push(c),
            None if c.is_ascii_alphabetic() => word.push(c),
            None => {
                flush(&mut word, &mut out);
                if c == '\'' || c == '"' {
                    quote = Some(c);
                    out.push('"');
                } else {
                    out.push(c);
                }
            }
        }
    }
    flush(&mut word, &mut out);
    out
}

fn flush(word: &mut String, out: &mut String) {
    match std::mem::take(word).as_str() {
        "True" => out.push_str("true"),
        "False" => out.push_str("false"),
        "None" => out.push_str("null"),
        other => out.push_str(other),
    }
}

/// A message without what only that connection, clock and directory have.
fn plain(json: &Json) -> Json {
    let Json::Dict(members) = json else { return json.clone() };
    let kept = members.iter().filter(|(key, _)| !matches!(&**key, "id" | "timestamp"));
    Json::Dict(Arc::new(kept.map(|(key, value)| (key.clone(), in_place(value))).collect()))
}

/// A value whose file names have no directories.
fn in_place(json: &Json) -> Json {
    match json {
        Json::Str(text) if text.starts_with('/') => Json::str(text.rsplit('/').next().unwrap_or(text)),
        Json::List(items) => Json::list(items.iter().map(in_place).collect()),
        Json::Dict(members) => {
            Json::Dict(Arc::new(members.iter().map(|(key, value)| (key.clone(), in_place(value))).collect()))
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOTESTS: &str = r#"
DEBUG:qemu.qmp.protocol.qemu-7:<-- {'QMP': {'version': {'qemu': {'micro': 2, 'minor': 0, 'major': 10}}, 'capabilities': ['oob']}}
DEBUG:qemu.qmp.qmp_client.qemu-7:--> {'execute': 'qmp_capabilities', 'arguments': {'enable': []}}
DEBUG:qemu.qmp.qmp_client.qemu-7:<-- {'return': {}}
DEBUG:qemu.qmp.qmp_client.qemu-7:--> {'execute': 'job-cancel', 'arguments': {'id': 'it\'s'}, 'id': '__qmp#00002'}
DEBUG:qemu.qmp.qmp_client.qemu-7:<-- {'timestamp': {'seconds': 1, 'microseconds': 2}, 'event': 'JOB_STATUS_CHANGE', 'data': {'status': 'aborting', 'id': 'j'}}
DEBUG:qemu.qmp.qmp_client.qemu-7:<-- {'return': {}, 'id': '__qmp#00002'}
"#;

    const LIBVIRT: &str = r#"
2024-05-01 10:00:00.123+0000: 77: info : qemuMonitorIOWrite:366 : QEMU_MONITOR_IO_WRITE: mon=0x7f buf={"execute":"blockdev-add","arguments":{"driver":"file","filename":"/var/lib/libvirt/images/a.img","node-name":"f"},"id":"libvirt-41"}\r\n
2024-05-01 10:00:00.124+0000: 77: info : qemuMonitorJSONIOProcessLine:210 : QEMU_MONITOR_RECV_REPLY: mon=0x7f reply={"return": {}, "id": "libvirt-41"}
2024-05-01 10:00:00.125+0000: 77: info : qemuMonitorJSONIOProcessLine:205 : QEMU_MONITOR_RECV_EVENT: mon=0x7f event={"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}
2024-05-01 10:00:00.126+0000: 77: info : qemuMonitorJSONIOProcessLine:205 : QEMU_MONITOR_RECV_EVENT: mon=0x7f event={"timestamp": {"seconds": 1, "microseconds": 3}, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}
2024-05-01 10:00:00.127+0000: 77: info : qemuMonitorJSONIOProcessLine:205 : QEMU_MONITOR_RECV_EVENT: mon=0x7f event={"timestamp": {"seconds": 1, "microseconds": 4}, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}
"#;

    fn lines(text: &str) -> Vec<String> {
        read(text).unwrap()[0].iter().map(ToString::to_string).collect()
    }

    #[test]
    fn logs_of_iotests() {
        assert_eq!(
            lines(IOTESTS),
            [
                r#"{"command": {"arguments": {"id": "it's"}, "execute": "job-cancel"}}"#,
                r#"{"data": {"id": "j", "status": "aborting"}, "event": "JOB_STATUS_CHANGE"}"#,
                r#"{"reply": {"return": {}}}"#,
            ]
        );
    }

    #[test]
    fn logs_of_libvirt() {
        assert_eq!(
            lines(LIBVIRT),
            [
                r#"{"command": {"arguments": {"driver": "file", "filename": "a.img", "node-name": "f"}, "execute": "blockdev-add"}}"#,
                r#"{"reply": {"return": {}}}"#,
                r#"{"data": {}, "event": "STOP"}"#,
                r#"{"data": {"guest": false, "reason": "host-qmp-quit"}, "event": "SHUTDOWN"}"#,
            ]
        );
    }

    #[test]
    fn what_is_no_trace_is_said() {
        assert!(read("hello\n").is_err());
        assert!(read("").unwrap_err().starts_with("no trace is in it"));
        assert!(read("QMP< {'return': \n").unwrap_err().starts_with("line 1:"));
    }
}
