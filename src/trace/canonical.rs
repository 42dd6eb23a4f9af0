//! JSON text in one fixed form: members sorted by key, `", "` and `": "` between them, everything but ASCII escaped. Two equal
//! values have the same text, which is the one that the recorded traces of the real QEMU use (Python's `json.dumps` with
//! `sort_keys`).

use crate::base::Json;
use std::fmt::Write;
use std::sync::Arc;

/// Text of a value.
#[must_use]
pub fn to_string(value: &Json) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// Appends the text of a value.
pub fn write(value: &Json, out: &mut String) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Json::Int(n) => _ = write!(out, "{n}"),
        Json::Uint(n) => _ = write!(out, "{n}"),
        Json::Number(n) => out.push_str(n),
        Json::Str(s) => write_str(s, out),
        Json::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write(item, out);
            }
            out.push(']');
        }
        Json::Dict(members) => {
            let mut sorted: Vec<&(Arc<str>, Json)> = members.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
            out.push('{');
            for (i, (key, value)) in sorted.into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_str(key, out);
                out.push_str(": ");
                write(value, out);
            }
            out.push('}');
        }
    }
}

/// Appends a text in quotes.
pub fn write_str(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// Reads JSON text (strict JSON, not QEMU's dialect). Members keep the order they have in the text; of equal keys the last counts.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<Json, String> {
    serde_json::from_str::<Wrapped>(text).map(|wrapped| wrapped.0).map_err(|error| error.to_string())
}

/// Lets `serde_json` read straight into our values, in the order of the text.
struct Wrapped(Json);

impl<'de> serde::Deserialize<'de> for Wrapped {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Wrapped, D::Error> {
        deserializer.deserialize_any(JsonVisitor).map(Wrapped)
    }
}

struct JsonVisitor;

impl<'de> serde::de::Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Json, E> {
        Ok(Json::Bool(b))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Json, E> {
        Ok(Json::Int(n))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Json, E> {
        Ok(Json::uint(n))
    }
    fn visit_f64<E>(self, n: f64) -> Result<Json, E> {
        Ok(Json::Number(format!("{n:?}").into()))
    }
    fn visit_str<E>(self, s: &str) -> Result<Json, E> {
        Ok(Json::str(s))
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(Wrapped(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Json::list(items))
    }
    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut members: Vec<(Arc<str>, Json)> = Vec::new();
        while let Some((key, Wrapped(value))) = access.next_entry::<String, Wrapped>()? {
            match members.iter_mut().find(|(known, _)| **known == *key) {
                Some(member) => member.1 = value,
                None => members.push((key.into(), value)),
            }
        }
        Ok(Json::Dict(Arc::new(members)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_for_equal_values() {
        let text = r#"{"b":[1,-2,18446744073709551615,5.0,null,true],"a":"é\n\"\\\u0001😀"}"#;
        let value = parse(text).unwrap();
        let fixed = "{\"a\": \"\\u00e9\\n\\\"\\\\\\u0001\\ud83d\\ude00\", \"b\": [1, -2, 18446744073709551615, 5.0, null, true]}";
        assert_eq!(to_string(&value), fixed);
        assert_eq!(to_string(&parse(fixed).unwrap()), fixed);
        assert!(parse("{\"a\": }").is_err());
    }
}
