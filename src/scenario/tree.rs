//! YAML as a tree whose every node knows its place.
//!
//! The reading of steps works on this tree and not on `serde` types, so that parameters can stand in place of any value and
//! each message can name its place. All that touches the YAML package is in this file.

use super::error::{Fault, Read, SourceSpan};
use crate::base::Json;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;
use std::sync::Arc;

/// How deeply a file may nest.
const MAX_DEPTH: usize = 64;
/// How many values a file may hold, aliases counted each time.
const MAX_NODES: usize = 200_000;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub span: SourceSpan,
    pub value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    /// Any other number, as it was written.
    Number(Arc<str>),
    Str(Arc<str>),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

impl Value {
    /// How many values there are in it, itself included.
    pub fn count(&self) -> usize {
        match self {
            Value::List(items) => items.iter().fold(1, |sum, item| sum + item.value.count()),
            Value::Map(members) => members.iter().fold(1, |sum, (_, item)| sum + item.value.count()),
            _ => 1,
        }
    }
}

/// The key of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub span: SourceSpan,
    pub name: Arc<str>,
}

impl Node {
    /// The node as a JSON value.
    pub fn json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(n) => Json::Int(*n),
            Value::Uint(n) => Json::Uint(*n),
            Value::Number(n) => Json::Number(n.clone()),
            Value::Str(s) => Json::Str(s.clone()),
            Value::List(items) => Json::list(items.iter().map(Node::json).collect()),
            Value::Map(members) => {
                Json::Dict(Arc::new(members.iter().map(|(k, v)| (k.name.clone(), v.json())).collect()))
            }
        }
    }

    /// The member of that name, of a mapping.
    pub fn member(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(members) => members.iter().find(|(key, _)| &*key.name == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// What the node is, for messages.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing (null)".to_owned(),
            Value::Bool(b) => format!("the boolean `{b}`"),
            Value::Int(n) => format!("the number {n}"),
            Value::Uint(n) => format!("the number {n}"),
            Value::Number(n) => format!("the number {n}"),
            Value::Str(s) if s.chars().count() <= 40 => format!("the text `{s}`"),
            Value::Str(_) => "a text".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Reads the text of file number `file`.
pub(super) fn parse(file: u32, text: &str) -> Read<Node> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_nodes: MAX_NODES, },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(raw) => Ok(convert(&FileBeingRead { file, text }, raw)),
        Err(error) => {
            let at = error.location().map_or_else(SourceSpan::default, |at| FileBeingRead { file, text }.span(&at));
            let whole = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            // The first line, without the place before or after it and the snippet: our own report shows those.
            let message = whole.lines().next().unwrap_or("").trim_start_matches("error: ");
            let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
            let message = match message.split_once(": ") {
                Some((place, message)) if place.starts_with("line ") => message,
                _ => message,
            };
            Err(Fault::new(SourceSpan { file, ..at }, "this is not well-formed YAML", message.replace('`', "'")))
        }
    }
}

/// Turns the parser's places into ours: it counts characters where we need bytes.
struct FileBeingRead<'a> {
    file: u32,
    text: &'a str,
}

impl FileBeingRead<'_> {
    fn span(&self, at: &serde_saphyr::Location) -> SourceSpan {
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let bytes = at.span();
        let (offset, len) = match (bytes.byte_offset(), bytes.byte_len()) {
            (Some(offset), Some(len)) => (offset, len),
            _ => {
                // Syntax errors come with characters only.
                let offset = self.text.chars().take(bytes.offset() as usize).map(|c| c.len_utf8() as u64).sum();
                (offset, 1)
            }
        };
        let len = len.min((self.text.len() as u64).saturating_sub(offset));
        SourceSpan {
            file: self.file,
            line: small(at.line()),
            column: small(at.column()),
            offset: small(offset),
            len: small(len),
        }
    }
}

/// A node as the YAML package gives it.
enum Raw {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Str(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn convert(place: &FileBeingRead<'_>, raw: Spanned<Raw>) -> Node {
    let mut span = place.span(&raw.referenced);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(b) => Value::Bool(b),
        Raw::Int(n) => Value::Int(n),
        Raw::Uint(n) => i64::try_from(n).map_or(Value::Uint(n), Value::Int),
        Raw::Float(f) => {
            let defined = place.span(&raw.defined);
            let written = place.text.get(defined.offset as usize..(defined.offset + defined.len) as usize);
            Value::Number(written.map_or_else(|| f.to_string(), str::to_owned).into())
        }
        Raw::Str(s) => Value::Str(s.into()),
        Raw::List(items) => Value::List(items.into_iter().map(|item| convert(place, item)).collect()),
        Raw::Map(members) => {
            let members = members.into_iter().map(|(key, value)| {
                let name = Key { span: place.span(&key.referenced), name: key.value.into() };
                (name, convert(place, value))
            });
            Value::Map(members.collect())
        }
    };
    // A block mapping has no text of its own; its first key is where people look.
    if let (Value::Map(members), 0) = (&value, span.len)
        && let Some((key, _)) = members.first()
    {
        span = key.span;
    }
    Node { span, value }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(b))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Raw, E> {
        Ok(Raw::Int(n))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Raw, E> {
        Ok(Raw::Uint(n))
    }
    fn visit_f64<E>(self, f: f64) -> Result<Raw, E> {
        Ok(Raw::Float(f))
    }
    fn visit_str<E>(self, s: &str) -> Result<Raw, E> {
        Ok(Raw::Str(s.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            members.push(member);
        }
        Ok(Raw::Map(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_spelling_and_place() {
        let text = "a: off\nb: [0x41, 5.0, -3, 18446744073709551615, 'null', null, 010]\n";
        let node = parse(0, text).unwrap();
        let Value::Map(members) = &node.value else { panic!("{node:?}") };
        assert_eq!(members[0].1.value, Value::Str("off".into()));
        let Value::List(items) = &members[1].1.value else { panic!("{node:?}") };
        let values: Vec<_> = items.iter().map(|item| item.value.clone()).collect();
        let expected = [
            Value::Int(65),
            Value::Number("5.0".into()),
            Value::Int(-3),
            Value::Uint(u64::MAX),
            Value::Str("null".into()),
            Value::Null,
            Value::Str("010".into()),
        ];
        assert_eq!(values, expected);
        assert_eq!((items[1].span.line, items[1].span.column, items[1].span.offset, items[1].span.len), (2, 11, 17, 3));
    }
}
