//! Partial matching of JSON: what `returns:` and an event's `data:` mean.
//!
//! * An object matches if each member of the pattern is there and matches; others may be there too.
//! * A list matches if its elements match those of the pattern, in this order; further elements may stand anywhere between.
//!   The empty list matches the empty list alone.
//! * `exact: VALUE`, an object with this one member, matches what is equal to VALUE through and through (the order of an
//!   object's members does not count).
//! * Texts are equal, but digits after `#block` (QEMU's generated node names) do not count, and two `json:` file names are
//!   compared as what they say.
//! * Numbers, booleans and null match themselves.

use crate::base::Json;
use crate::trace::canonical;
use crate::trace::compare::{same, same_text};
use std::fmt;

/// The first place where a value does not fit its pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The place, as in `[0].dirty-bitmaps[1].count`; empty for the whole value.
    pub path: String,
    /// What the pattern wants there.
    pub expected: String,
    /// What is there.
    pub got: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "at {}: ", self.path.trim_start_matches('.'))?;
        }
        write!(f, "expected {}, got {}", self.expected, self.got)
    }
}

/// Whether `got` fits `pattern`.
#[must_use]
pub fn matches(pattern: &Json, got: &Json) -> bool {
    match (pattern, got) {
        (Json::Dict(members), _) if exact(pattern).is_none() => {
            got.as_dict().is_some() && members.iter().all(|(key, p)| got.get(key).is_some_and(|g| matches(p, g)))
        }
        (Json::List(wanted), Json::List(items)) => {
            let mut items = items.iter();
            (!wanted.is_empty() || items.len() == 0) && wanted.iter().all(|p| items.any(|g| matches(p, g)))
        }
        _ => same(exact(pattern).unwrap_or(pattern), got),
    }
}

/// [`matches()`] for an object whose members are texts, which need not be made for it.
#[must_use]
pub fn matches_texts(pattern: &Json, got: &[(&str, &str)]) -> bool {
    let Some(wanted) = pattern.as_dict().filter(|_| exact(pattern).is_none()) else {
        return matches(pattern, &Json::dict(got.iter().map(|(key, text)| (*key, (*text).into())).collect()));
    };
    wanted.iter().all(|(key, p)| {
        got.iter().find(|(name, _)| *name == &**key).is_some_and(|(_, text)| match p {
            Json::Str(p) => same_text(p, text),
            p => matches(p, &(*text).into()),
        })
    })
}

/// Whether `got` fits `pattern`, and where not.
///
/// # Errors
/// The first place that does not fit.
pub fn check(pattern: &Json, got: &Json) -> Result<(), Mismatch> {
    if matches(pattern, got) { Ok(()) } else { Err(explain(pattern, got, String::new())) }
}

/// How many members of an object do not fit; of another value, 0 or 1.
#[must_use]
pub fn differing(pattern: &Json, got: &Json) -> usize {
    match pattern.as_dict() {
        Some(members) if exact(pattern).is_none() => {
            members.iter().filter(|(key, wanted)| !got.get(key).is_some_and(|value| matches(wanted, value))).count()
        }
        _ => usize::from(!matches(pattern, got)),
    }
}

/// What stands behind `exact`.
fn exact(pattern: &Json) -> Option<&Json> {
    match pattern.as_dict()? {
        [(key, value)] if &**key == "exact" => Some(value),
        _ => None,
    }
}

/// Finds the place in a value that is known not to fit.
fn explain(pattern: &Json, got: &Json, path: String) -> Mismatch {
    if exact(pattern).is_none() {
        match (pattern, got) {
            (Json::Dict(members), Json::Dict(_)) => {
                for (key, wanted) in members.iter() {
                    let path = format!("{path}.{key}");
                    match got.get(key) {
                        None => return Mismatch { path, expected: short(wanted), got: "nothing".to_owned() },
                        Some(value) if !matches(wanted, value) => return explain(wanted, value, path),
                        Some(_) => {}
                    }
                }
            }
            (Json::List(wanted), Json::List(items)) if wanted.len() == items.len() => {
                for (i, (wanted, item)) in wanted.iter().zip(items.iter()).enumerate() {
                    if !matches(wanted, item) {
                        return explain(wanted, item, format!("{path}[{i}]"));
                    }
                }
            }
            (Json::List(wanted), Json::List(items)) if !wanted.is_empty() => {
                let mut rest = items.iter();
                for (i, wanted) in wanted.iter().enumerate() {
                    if !rest.any(|item| matches(wanted, item)) {
                        let place = if i == 0 { "an element" } else { "after those before, an element" };
                        let expected = format!("{place} that matches {}", short(wanted));
                        return Mismatch { path, expected, got: short(got) };
                    }
                }
            }
            _ => {}
        }
    }
    Mismatch { path, expected: short(pattern), got: short(got) }
}

/// A value's text, cut where it gets long.
fn short(value: &Json) -> String {
    let text = canonical::to_string(value);
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        canonical::parse(text).unwrap()
    }

    fn verdict(pattern: &str, got: &str) -> String {
        check(&json(pattern), &json(got)).map_or_else(|m| m.to_string(), |()| "fits".to_owned())
    }

    #[test]
    fn what_fits() {
        for (pattern, got) in [
            (r#"{"a": 1}"#, r#"{"b": 2, "a": 1}"#),
            ("{}", r#"{"b": 2}"#),
            ("[]", "[]"),
            ("[1, 3]", "[1, 2, 3]"),
            (r##"{"node-name": "#block"}"##, r##"{"node-name": "#block123"}"##),
            (r##""#block999-x""##, r##""#block1-x""##),
            (r#""json:{\"a\": 1, \"b\": 2}""#, r#""json:{\"b\":2,\"a\":1}""#),
            (r#"{"exact": {"a": 1, "b": []}}"#, r#"{"b": [], "a": 1}"#),
            (r#"{"x": {"exact": []}}"#, r#"{"x": []}"#),
        ] {
            assert_eq!(verdict(pattern, got), "fits", "{pattern}");
        }
    }

    #[test]
    fn texts_fit_as_the_object_of_them_does() {
        let texts = [("id", "job0"), ("status", "paused")];
        let object = json(r#"{"id": "job0", "status": "paused"}"#);
        for (pattern, fits) in [
            ("{}", true),
            (r#"{"id": "job0"}"#, true),
            (r#"{"status": "paused", "id": "job0"}"#, true),
            (r#"{"id": "job1"}"#, false),
            (r#"{"id": "job0", "speed": 0}"#, false),
            (r#"{"id": 0}"#, false),
            (r#"{"id": {"exact": "job0"}}"#, true),
            (r#"{"exact": {"status": "paused", "id": "job0"}}"#, true),
            (r#"{"exact": {"id": "job0"}}"#, false),
            ("[]", false),
        ] {
            let pattern = json(pattern);
            assert_eq!((matches(&pattern, &object), matches_texts(&pattern, &texts)), (fits, fits), "{pattern:?}");
        }
    }

    #[test]
    fn what_does_not_is_named() {
        for (pattern, got, message) in [
            (r#"{"a": {"b": 1}}"#, r#"{"a": {"b": 2}}"#, "at a.b: expected 1, got 2"),
            (r#"{"a": 1}"#, r#"{}"#, "at a: expected 1, got nothing"),
            (r#"[{"a": 1}, 2]"#, r#"[{"a": 2}, 2]"#, "at [0].a: expected 1, got 2"),
            ("[]", "[1]", "expected [], got [1]"),
            ("[3, 1]", "[1, 2, 3]", "expected after those before, an element that matches 1, got [1, 2, 3]"),
            (r#"{"exact": {"a": 1}}"#, r#"{"a": 1, "b": 2}"#, r#"expected {"exact": {"a": 1}}, got {"a": 1, "b": 2}"#),
            ("5", "5.0", "expected 5, got 5.0"),
            ("null", "0", "expected null, got 0"),
            ("{}", "[]", "expected {}, got []"),
        ] {
            assert_eq!(verdict(pattern, got), message, "{pattern}");
        }
    }
}
