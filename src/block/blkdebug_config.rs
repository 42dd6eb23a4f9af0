//! blkdebug's rule files: QEMU's ini dialect (`util/qemu-config.c:qemu_config_foreach`) and what blkdebug makes of its
//! groups (`block/blkdebug.c:read_config`).
//!
//! QEMU scans lines with `sscanf`, whose loose ends are part of the dialect: unquoted values are empty, what follows a
//! value is ignored, and a line of one word is a key.

use crate::base::Errno;
use crate::base::id::id_wellformed;
use crate::block::blkdebug::{Action, InjectError, IoType, IoTypeMask, Rule};
use crate::block::cvtnum::{c_int, is_space};
use crate::block::event::BlkdebugEvent;

/// The error for a config file that cannot be opened (`blkdebug.c:read_config`).
#[must_use]
pub fn open_error(errno: Errno) -> String {
    format!("Could not read blkdebug config file: {errno}")
}

/// Reads the text of a rule file: all inject-error rules as listed, then all set-state rules as listed.
///
/// # Errors
/// QEMU's text for the first error that QEMU reports: groups are checked as they end, events and request kinds after
/// the whole file was read.
pub fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let mut groups = Groups::default();
    scan(text.as_bytes(), &mut groups)?;
    let inject = groups.inject.iter().map(inject_rule);
    let set_state = groups.set_state.iter().map(set_state_rule);
    inject.chain(set_state).collect()
}

/// `qemu_config_foreach` reads lines into 1024 bytes; what is longer goes on as the next line.
const LINE_MAX: usize = 1023;
/// Longest group, key and ID.
const WORD_MAX: usize = 63;

fn scan(text: &[u8], groups: &mut Groups) -> Result<(), String> {
    let (mut group, mut prev_group) = (Vec::new(), Vec::new());
    let mut open: Option<Dict> = None;
    for line in text.split_inclusive(|b| *b == b'\n').flat_map(|l| l.chunks(LINE_MAX)) {
        if line[0] == b'\n' || line[0] == b'#' {
            continue;
        }
        if let Some(dict) = group_header(line, &mut group) {
            if let Some(done) = open.replace(dict) {
                groups.add(&prev_group, &done)?;
            }
            prev_group.clone_from(&group);
            continue;
        }
        let Some((key, value)) = key_value(line) else {
            return Err("parse error".to_owned());
        };
        match &mut open {
            Some(dict) => dict.put(&key, &value),
            None => return Err("no group defined".to_owned()),
        }
    }
    match open {
        // A line that is only half a header leaves its word in `group`, and the last group then goes by that name.
        Some(dict) => groups.add(&group, &dict),
        None => Ok(()),
    }
}

/// Reads `[group "id"]` or `[group]`; `group` is overwritten as far as the scan gets, as in QEMU.
fn group_header(line: &[u8], group: &mut Vec<u8>) -> Option<Dict> {
    let rest = line.strip_prefix(b"[")?;
    if let Some((word, after)) = word(rest) {
        *group = word.to_vec();
        let id = skip_space(after).strip_prefix(b"\"").map(|id| until(id, b'"', WORD_MAX));
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            let mut dict = Dict::default();
            dict.put("id", &lossy(id));
            return Some(dict);
        }
    }
    let name = until(rest, b']', WORD_MAX);
    if name.is_empty() {
        return None;
    }
    *group = name.to_vec();
    Some(Dict::default())
}

/// Reads `key = "value"`; anything else after the key makes the value empty.
fn key_value(line: &[u8]) -> Option<(String, String)> {
    let (key, rest) = word(line)?;
    let value = skip_space(rest).strip_prefix(b"=").and_then(|r| skip_space(r).strip_prefix(b"\""));
    Some((lossy(key), lossy(until(value.unwrap_or_default(), b'"', LINE_MAX))))
}

fn skip_space(text: &[u8]) -> &[u8] {
    let n = text.iter().take_while(|b| is_space(**b)).count();
    &text[n..]
}

/// `%63s`: the next word, and what follows it.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = skip_space(text);
    let n = text.iter().take(WORD_MAX).take_while(|b| !is_space(**b) && **b != 0).count();
    if n == 0 { None } else { Some(text.split_at(n)) }
}

/// `%<max>[^<stop>]`, possibly empty.
fn until(text: &[u8], stop: u8, max: usize) -> &[u8] {
    let n = text.iter().take(max).take_while(|b| **b != stop && **b != 0).count();
    &text[..n]
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// The keys of one group in QDict's iteration order, which decides which of several errors is reported.
#[derive(Default)]
struct Dict(Vec<(String, String)>);

impl Dict {
    fn put(&mut self, key: &str, value: &str) {
        if let Some((_, old)) = self.0.iter_mut().find(|(k, _)| k == key) {
            value.clone_into(old);
            return;
        }
        let at = self.0.partition_point(|(k, _)| bucket(k) < bucket(key));
        self.0.insert(at, (key.to_owned(), value.to_owned()));
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| &**v)
    }
}

/// The hash bucket of a QDict key (`qobject/qdict.c:tdb_hash`).
fn bucket(key: &str) -> u32 {
    let seed = 0x238f_13af_u32.wrapping_mul(key.len() as u32);
    let sum = key.bytes().zip(0u32..).fold(seed, |sum, (b, i)| sum.wrapping_add(u32::from(b) << (i * 5 % 24)));
    sum.wrapping_mul(1_103_515_243).wrapping_add(12345) % 512
}

#[derive(Clone, Copy)]
enum ValueKind {
    Text,
    Number,
    Bool,
}

const INJECT_KEYS: [(&str, ValueKind); 7] = [
    ("event", ValueKind::Text),
    ("state", ValueKind::Number),
    ("iotype", ValueKind::Text),
    ("errno", ValueKind::Number),
    ("sector", ValueKind::Number),
    ("once", ValueKind::Bool),
    ("immediately", ValueKind::Bool),
];
const SET_STATE_KEYS: [(&str, ValueKind); 3] =
    [("event", ValueKind::Text), ("state", ValueKind::Number), ("new_state", ValueKind::Number)];

/// A group whose keys and values are of the right form.
#[derive(Default)]
struct Group {
    id: Option<String>,
    texts: Vec<(&'static str, String)>,
    numbers: Vec<(&'static str, u64)>,
}

impl Group {
    fn text(&self, key: &str) -> Option<&str> {
        self.texts.iter().find(|(k, _)| *k == key).map(|(_, v)| &**v)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.numbers.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }
}

#[derive(Default)]
struct Groups {
    inject: Vec<Group>,
    set_state: Vec<Group>,
}

impl Groups {
    /// Checks a group that has ended (`qemu-config.c:qemu_config_do_parse`).
    fn add(&mut self, name: &[u8], dict: &Dict) -> Result<(), String> {
        let name = lossy(name);
        let (list, keys): (&mut Vec<Group>, &[_]) = match &*name {
            "inject-error" => (&mut self.inject, &INJECT_KEYS),
            "set-state" => (&mut self.set_state, &SET_STATE_KEYS),
            _ => return Err(format!("There is no option group '{name}'")),
        };
        let mut group = Group::default();
        if let Some(id) = dict.get("id") {
            if !id_wellformed(id) {
                return Err("Parameter 'id' expects an identifier".to_owned());
            }
            if list.iter().any(|g| g.id.as_deref() == Some(id)) {
                return Err(format!("Duplicate ID '{id}' for {name}"));
            }
            group.id = Some(id.to_owned());
        }
        for (key, value) in dict.0.iter().filter(|(k, _)| k != "id") {
            let Some((key, kind)) = keys.iter().find(|(k, _)| k == key) else {
                return Err(format!("Invalid parameter '{key}'"));
            };
            match kind {
                ValueKind::Text => group.texts.push((*key, value.clone())),
                ValueKind::Number => group.numbers.push((*key, number(key, value)?)),
                ValueKind::Bool => group.numbers.push((*key, u64::from(boolean(key, value)?))),
            }
        }
        list.push(group);
        Ok(())
    }
}

/// A number as `strtoull` with base 0 reads it, so that negative ones wrap
/// (`util/qemu-option.c:parse_option_number`).
fn number(key: &str, value: &str) -> Result<u64, String> {
    let n = c_int(value).ok_or_else(|| format!("Parameter '{key}' expects a number"))?;
    let magnitude = n.magnitude.ok_or_else(|| format!("Value '{value}' is too large for parameter '{key}'"))?;
    Ok(if n.negative { magnitude.wrapping_neg() } else { magnitude })
}

/// `qapi/qapi-util.c:qapi_bool_parse`
fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(format!("Parameter '{key}' expects 'on' or 'off'")),
    }
}

fn rule_event(group: &Group) -> Result<BlkdebugEvent, String> {
    let name = group.text("event").ok_or("Missing event name for rule")?;
    BlkdebugEvent::from_name(name).ok_or_else(|| format!("invalid parameter value: {name}"))
}

/// The option as an `int` of QEMU: cut down to 32 bits.
fn int(group: &Group, key: &str) -> i32 {
    group.number(key).unwrap_or(0) as i32
}

/// `blkdebug.c:add_rule` for an inject-error group.
fn inject_rule(group: &Group) -> Result<Rule, String> {
    let event = rule_event(group)?;
    let mut inject = InjectError::default();
    if let Some(n) = group.number("errno") {
        inject.errno = InjectError::errno_option(n as i64);
    }
    if let Some(n) = group.number("sector") {
        inject.sector = InjectError::sector_option(n as i64);
    }
    inject.once = group.number("once") == Some(1);
    inject.immediately = group.number("immediately") == Some(1);
    if let Some(name) = group.text("iotype") {
        let iotype = IoType::from_name(name).ok_or_else(|| format!("invalid parameter value: {name}"))?;
        inject.iotype = IoTypeMask::only(iotype);
    }
    Ok(Rule { event, state: int(group, "state"), action: Action::InjectError(inject) })
}

/// `blkdebug.c:add_rule` for a set-state group.
fn set_state_rule(group: &Group) -> Result<Rule, String> {
    let event = rule_event(group)?;
    let action = Action::SetState { new_state: int(group, "new_state") };
    Ok(Rule { event, state: int(group, "state"), action })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts and the errors that qemu-io 10.0.2 gave for them.
    const REFUSED: &[(&str, &str)] = &[
        ("[zap]\n", "There is no option group 'zap'"),
        ("[zap]\n[inject-error]\nevent = \"write_aio\"\n", "There is no option group 'zap'"),
        ("[inject-error]\nevent = \"zap\"\n", "invalid parameter value: zap"),
        ("[inject-error]\n", "Missing event name for rule"),
        ("[inject-error]\nfoo = \"1\"\n", "Invalid parameter 'foo'"),
        ("event = \"x\"\n", "no group defined"),
        ("\r\n", "parse error"),
        (" \n", "parse error"),
        ("[] = \"x\"\n", "no group defined"),
        ("[inject-error]\nevent = \"none\"\n[] = \"x\"\n", "There is no option group ']'"),
        ("[inject-error]\nerrno = \"0b11\"\n", "Parameter 'errno' expects a number"),
        ("[inject-error]\nerrno = \"28 \"\n", "Parameter 'errno' expects a number"),
        ("[inject-error]\nerrno = 28\n", "Parameter 'errno' expects a number"),
        (
            "[inject-error]\nerrno = \"99999999999999999999\"\n",
            "Value '99999999999999999999' is too large for parameter 'errno'",
        ),
        (
            "[inject-error]\nerrno = \"-99999999999999999999\"\n",
            "Value '-99999999999999999999' is too large for parameter 'errno'",
        ),
        ("[inject-error]\nonce = \"maybe\"\n", "Parameter 'once' expects 'on' or 'off'"),
        ("[inject-error]\nonce = \"\"\n", "Parameter 'once' expects 'on' or 'off'"),
        ("[inject-error]\nevent = \"none\"\niotype = \"zap\"\n", "invalid parameter value: zap"),
        ("[inject-error \"a\"]\nevent = \"none\"\n[inject-error \"a\"]\n", "Duplicate ID 'a' for inject-error"),
        ("[inject-error \"a b\"]\n", "Parameter 'id' expects an identifier"),
        ("[inject-error]\nid = \"a b\"\n", "Parameter 'id' expects an identifier"),
        ("[ inject-error ]\n", "There is no option group ' inject-error '"),
        ("[inject-error\nevent = \"none\"\n", "There is no option group 'inject-error\n'"),
        ("[inject-error x]\n", "There is no option group 'inject-error x'"),
        ("[inject-error \"\"]\n", "There is no option group 'inject-error \"\"'"),
        ("[inject-error]\nevent=\"x\"\n", "Invalid parameter 'event=\"x\"'"),
        // Which of several errors comes first is QDict's order.
        (
            "[inject-error]\nevent = \"none\"\naaa = \"1\"\nbbb = \"2\"\nccc = \"3\"\nerrno = \"x\"\nonce = \"x\"\n",
            "Invalid parameter 'ccc'",
        ),
        (
            "[inject-error]\nevent = \"none\"\nerrno = \"x\"\nonce = \"x\"\nstate = \"x\"\n",
            "Parameter 'once' expects 'on' or 'off'",
        ),
    ];

    #[test]
    fn refuses_what_qemu_refuses_in_its_words() {
        for (text, error) in REFUSED {
            assert_eq!(parse(text).as_ref().map_err(|e| &**e), Err(*error), "{text:?}");
        }
        assert_eq!(open_error(Errno::ENOENT), "Could not read blkdebug config file: No such file or directory");
    }

    #[test]
    fn reads_rules_in_registration_order() {
        let text = "# a comment\n\n[set-state \"s\"]\nevent = \"flush_to_disk\"\nstate = \"1\"\nnew_state = \"2\"\n\
            [inject-error] junk\nevent = \"read_aio\" junk\nerrno = \"1\"\nerrno = \" +0x1c\"\nonce = \"y\"\n\
            sector = \"-1\"\niotype = \"flush\"\n[inject-error]\n event\t=\t\"none\"\nsector=\nsector = \"034\"";
        // `sector=` is a key of its own, and unknown.
        assert_eq!(parse(text), Err("Invalid parameter 'sector='".to_owned()));
        let rules = parse(&text.replace("sector=\n", "")).unwrap();
        let first = InjectError {
            errno: Errno::ENOSPC,
            iotype: IoTypeMask::only(IoType::Flush),
            once: true,
            ..InjectError::default()
        };
        let second = InjectError { sector: Some(28), ..InjectError::default() };
        assert_eq!(
            rules,
            [
                Rule { event: BlkdebugEvent::ReadAio, state: 0, action: Action::InjectError(first) },
                Rule { event: BlkdebugEvent::None, state: 0, action: Action::InjectError(second) },
                Rule { event: BlkdebugEvent::FlushToDisk, state: 1, action: Action::SetState { new_state: 2 } },
            ]
        );
        assert_eq!(parse(""), Ok(vec![]));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([\\[\\]\"= \na-z0#_]|inject-error|event|\\PC){0,80}") {
            let _ = parse(&text);
        }
    }
}
