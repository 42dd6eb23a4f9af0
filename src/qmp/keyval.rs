//! QEMU's `key=value,…` options (util/keyval.c) and the scalars written in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::QmpError;
use crate::base::Json;

/// Longest key fragment in bytes.
const MAX_FRAGMENT: usize = 127;
/// How many fragments a key may have. QEMU sets no limit but that of its stack.
const MAX_DEPTH: usize = 256;

/// The tree under construction; lists are still objects with numeric keys. `BTreeMap` keeps no
/// order QEMU has, but order matters only between errors.
#[derive(Debug)]
enum Tree {
    Leaf(String),
    Node(BTreeMap<String, Tree>),
}

/// Parses `text` into an object whose scalars are all strings (util/keyval.c:keyval_parse).
/// With an `implied_key`, the first parameter may be the value alone.
///
/// # Errors
/// QEMU's own texts.
pub fn parse_keyval(text: &str, implied_key: Option<&str>) -> Result<Json, QmpError> {
    let mut root = BTreeMap::new();
    let mut rest = text;
    let mut implied = implied_key;
    let mut help = false;
    while !rest.is_empty() {
        rest = parse_one(&mut root, rest, implied, &mut help)?;
        implied = None;
    }
    if help {
        return Err(QmpError::generic("Help is not available for this option"));
    }
    listify(root, "")
}

/// One parameter; gives what follows it.
fn parse_one<'t>(
    root: &mut BTreeMap<String, Tree>,
    text: &'t str,
    implied: Option<&str>,
    help: &mut bool,
) -> Result<&'t str, QmpError> {
    let len = text.find(['=', ',']).unwrap_or(text.len());
    let first = &text[..len];
    if len > 0 && !text[len..].starts_with('=') {
        let rest = &text[len..];
        let rest = rest.strip_prefix(',').unwrap_or(rest);
        if matches!(first, "help" | "?") {
            *help = true;
            return Ok(rest);
        }
        if let Some(key) = implied {
            put(root, key, first.to_string())?;
            return Ok(rest);
        }
    }
    check_key(first)?;
    let Some(value) = text[len..].strip_prefix('=') else {
        return Err(QmpError::generic(format!("Expected '=' after parameter '{first}'")));
    };
    let (value, rest) = take_value(value);
    put(root, first, value)?;
    Ok(rest)
}

/// The value up to the next single comma, with doubled commas made one, and what follows.
pub(super) fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let Some(comma) = rest.find(',') else {
            value.push_str(rest);
            return (value, "");
        };
        value.push_str(&rest[..comma]);
        rest = &rest[comma + 1..];
        match rest.strip_prefix(',') {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, rest),
        }
    }
}

/// Length of the QAPI name at the start of `text` (qapi/qapi-util.c:parse_qapi_name), 0 if there is none.
fn qapi_name_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let run = |from: usize, also: &[u8]| {
        from + bytes[from..].iter().take_while(|b| b.is_ascii_alphanumeric() || also.contains(b)).count()
    };
    let mut at = 0;
    if bytes.first() == Some(&b'_') {
        if bytes.get(1) != Some(&b'_') {
            return 0;
        }
        at = run(2, b"-.");
        if bytes.get(at) != Some(&b'_') {
            return 0;
        }
        at += 1;
    }
    if bytes.get(at).is_some_and(u8::is_ascii_alphabetic) { run(at, b"-_") } else { 0 }
}

/// Splits a key into its fragments, or says what is wrong with it.
fn fragments(key: &str) -> Result<Vec<&str>, QmpError> {
    let mut found = Vec::new();
    let mut rest = key;
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let len = if !found.is_empty() && digits > 0 { digits } else { qapi_name_len(rest) };
        let after = &rest[len..];
        if len == 0 || !(after.is_empty() || after.starts_with('.')) {
            return Err(QmpError::generic(format!("Invalid parameter '{key}'")));
        }
        if len > MAX_FRAGMENT {
            let what = if len == key.len() { "" } else { " fragment" };
            return Err(QmpError::generic(format!("Parameter{what} '{}' is too long", &rest[..len])));
        }
        if found.len() >= MAX_DEPTH {
            return Err(QmpError::generic("Parameter name has too many fragments"));
        }
        found.push(&rest[..len]);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None => return Ok(found),
        }
    }
}

fn check_key(key: &str) -> Result<(), QmpError> {
    fragments(key).map(|_| ())
}

/// Puts a value at the place `key` names, making objects on the way.
fn put(root: &mut BTreeMap<String, Tree>, key: &str, value: String) -> Result<(), QmpError> {
    let parts = fragments(key)?;
    let mut here = root;
    let mut prefix = 0;
    for (i, part) in parts.iter().enumerate() {
        prefix += part.len() + usize::from(i > 0);
        let clash = || QmpError::generic(format!("Parameters '{}.*' used inconsistently", &key[..prefix]));
        if i + 1 == parts.len() {
            match here.get(*part) {
                Some(Tree::Node(_)) => return Err(clash()),
                _ => here.insert((*part).to_string(), Tree::Leaf(value)),
            };
            return Ok(());
        }
        match here.entry((*part).to_string()).or_insert_with(|| Tree::Node(BTreeMap::new())) {
            Tree::Node(next) => here = next,
            Tree::Leaf(_) => return Err(clash()),
        }
    }
    Ok(())
}

/// The list index a key fragment is, capped like QEMU's.
fn index_of(key: &str) -> Option<usize> {
    let all_digits = key.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| key.parse::<u32>().unwrap_or(u32::MAX).min(i32::MAX.cast_unsigned()) as usize)
}

/// Makes lists of the objects that have numeric keys. `path` ends in a dot unless it is empty.
fn listify(node: BTreeMap<String, Tree>, path: &str) -> Result<Json, QmpError> {
    let indexed = node.keys().filter(|key| index_of(key).is_some()).count();
    let total = node.len();
    let mut members: Vec<(Arc<str>, Json)> = Vec::with_capacity(total);
    for (key, tree) in node {
        let value = match tree {
            Tree::Leaf(text) => Json::Str(text.into()),
            Tree::Node(inner) => listify(inner, &format!("{path}{key}."))?,
        };
        members.push((key.into(), value));
    }
    if indexed == 0 {
        return Ok(Json::Dict(Arc::new(members)));
    }
    if indexed < total {
        return Err(QmpError::generic(format!("Parameters '{path}*' used inconsistently")));
    }
    let mut items: Vec<Option<Json>> = vec![None; total];
    let mut greatest = 0;
    for (key, value) in members {
        let index = index_of(&key).unwrap_or(0);
        greatest = greatest.max(index);
        if let Some(slot) = items.get_mut(index) {
            *slot = Some(value);
        }
    }
    let missing = items.iter().take(greatest + 1).position(Option::is_none);
    match missing.or((greatest >= total).then_some(total)) {
        Some(index) => Err(QmpError::generic(format!("Parameter '{path}{index}' missing"))),
        None => Ok(Json::list(items.into_iter().flatten().collect())),
    }
}

/// `qapi_bool_parse`.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

fn is_c_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t'..=b'\r')
}

/// What `strtoll`/`strtoull` with base 0 read: sign and magnitude of the whole text.
fn strto(text: &str) -> Option<(bool, u64)> {
    let text = text.trim_start_matches(|c: char| c.is_ascii() && is_c_space(c as u8));
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match lower.as_deref() {
        Some("0x") => (16, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    plain.then_some((negative, magnitude))
}

/// `qemu_strtoi64` with base 0, of the whole text.
#[must_use]
pub fn parse_i64(text: &str) -> Option<i64> {
    match strto(text)? {
        (false, n) => i64::try_from(n).ok(),
        (true, n) => 0_i64.checked_sub_unsigned(n),
    }
}

/// `qemu_strtou64` with base 0, of the whole text. Negative numbers wrap.
#[must_use]
pub fn parse_u64(text: &str) -> Option<u64> {
    let (negative, n) = strto(text)?;
    Some(if negative { n.wrapping_neg() } else { n })
}

/// `qemu_strtosz`: bytes, with an optional fraction and one of the suffixes `B K M G T P E`.
#[must_use]
pub fn parse_strosz(text: &str) -> Option<u64> {
    let text = text.trim_start_matches(|c: char| c.is_ascii() && is_c_space(c as u8));
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let plain = hex.bytes().all(|b| b.is_ascii_hexdigit());
        return u64::from_str_radix(hex, 16).ok().filter(|_| plain);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, mut rest) = text.split_at(digits);
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        let len = after.bytes().take_while(u8::is_ascii_digit).count();
        (fraction, rest) = after.split_at(len);
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let shift = match rest.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        _ => return None,
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fixed = fraction_fixed(fraction);
    if shift == 0 {
        return (fixed == 0).then_some(whole);
    }
    // 64.64 fixed point, half rounded up.
    let part = (u128::from(fixed) << shift).wrapping_add(1 << 63) >> 64;
    u64::try_from((u128::from(whole) << shift) + part).ok()
}

/// The fraction `0.digits` in units of 2^-64, not 0 unless it is.
fn fraction_fixed(digits: &str) -> u64 {
    let kept = &digits[..digits.len().min(19)];
    let numerator: u128 = kept.parse().unwrap_or(0);
    let denominator = 10_u128.pow(u32::try_from(kept.len()).unwrap_or(0));
    let fixed = u64::try_from((numerator << 64) / denominator).unwrap_or(u64::MAX);
    if fixed == 0 && digits.bytes().any(|b| b != b'0') { 1 } else { fixed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_like_c_does() {
        for (text, value) in [
            ("5", Some(5)),
            (" +7", Some(7)),
            ("-0x10", Some(-16)),
            ("010", Some(8)),
            ("0", Some(0)),
            ("09", None),
            ("0x", None),
            ("", None),
            ("-", None),
            ("--5", None),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
        ] {
            assert_eq!(parse_i64(text), value, "{text:?}");
        }
        assert_eq!(parse_u64("-1"), Some(u64::MAX));
        for (text, value) in [
            ("1.5k", Some(1536)),
            (".5k", Some(512)),
            ("1.", Some(1)),
            ("0.1", None),
            ("16E", None),
            ("15E", Some(15 << 60)),
            ("0x1k", None),
            ("0.5b", None),
            ("k", None),
        ] {
            assert_eq!(parse_strosz(text), value, "{text:?}");
        }
    }

    #[test]
    fn a_very_deep_key_is_refused() {
        let key = "a.".repeat(100_000);
        assert!(parse_keyval(&format!("{key}a=1"), None).is_err());
    }
}
