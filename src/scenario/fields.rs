//! Taking a mapping apart: members by name, each read as what it has to be, nothing left over.

use super::error::{Fault, Read, Span};
use super::tree::{Key, Node, Value};
use crate::base::Json;
use crate::base::nearest;
use crate::base::time;
use crate::base::units::parse_size;
use std::sync::Arc;

/// The longest duration, so that times can be added to each other.
const MAX_DURATION: time::Span = time::Span::from_nanos(1 << 62);
/// How sizes are written.
const SIZES: &str = "sizes are written 512, 0x200, 64K, 4M, 1G";

/// The members of a mapping that have not been taken yet.
pub(super) struct Fields<'a> {
    /// What the mapping describes, for messages: `create`, `the scenario`.
    what: &'a str,
    span: Span,
    members: &'a [(Key, Node)],
    /// What was asked for so far.
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The members of `node`, which describes `what`.
    pub fn of(what: &'a str, node: &'a Node) -> Read<Fields<'a>> {
        match &node.value {
            Value::Map(members) => Ok(Fields { what, span: node.span, members, known: Vec::new() }),
            _ => {
                let found = format!("expected `{{…}}`, found {}", node.describe());
                Err(Fault::new(node.span, format!("{} needs a mapping", quoted(what)), found))
            }
        }
    }

    /// The member `name`, if it is there.
    pub fn opt(&mut self, name: &'static str) -> Option<&'a Node> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.members.iter().find(|(key, _)| &*key.name == name).map(|(_, node)| node)
    }

    /// A member by which another kind of file is told; it is none that is known here.
    pub fn foreign(&self, name: &str) -> Option<&'a Node> {
        self.members.iter().find(|(key, _)| &*key.name == name).map(|(_, node)| node)
    }

    /// The member `name`.
    pub fn req(&mut self, name: &'static str) -> Read<&'a Node> {
        let (span, what, members) = (self.span, self.what, self.members);
        self.opt(name).ok_or_else(|| {
            if let Some((key, _)) = members.iter().find(|(key, _)| nearest(&key.name, &[name]).is_some()) {
                let message = format!("`{}` is no member of {}", key.name, quoted(what));
                return Fault::new(key.span, message, format!("did you mean `{name}`?"));
            }
            let message = format!("{} lacks the member `{name}`", quoted(what));
            Fault::new(span, message, format!("expected `{name}` in this mapping"))
        })
    }

    /// Ends the reading: a member that nobody asked for is a mistake.
    pub fn end(self) -> Read {
        let Some((key, _)) = self.members.iter().find(|(key, _)| !self.known.contains(&&*key.name)) else {
            return Ok(());
        };
        Err(unknown(key, &format!("member of {}", quoted(self.what)), &self.known))
    }
}

/// The name of a thing in quotes, a description as it is.
fn quoted(what: &str) -> String {
    if what.contains(' ') { what.to_owned() } else { format!("`{what}`") }
}

/// A mistake: `key` is no known `what`.
pub(super) fn unknown(key: &Key, what: &str, known: &[&str]) -> Box<Fault> {
    let expected = match nearest(&key.name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "not known here".to_owned(),
    };
    let fault = Fault::new(key.span, format!("`{}` is no {what}", key.name), expected);
    if known.is_empty() { fault } else { fault.help(format!("known are: {}", known.join(", "))) }
}

impl Node {
    fn expected(&self, what: &str) -> Box<Fault> {
        let message = match what.strip_prefix("a list") {
            Some(_) => "this needs a list".to_owned(),
            None => format!("this is not {what}"),
        };
        Fault::new(self.span, message, format!("expected {what}, found {}", self.describe()))
    }

    /// A text.
    pub fn text(&self) -> Read<Arc<str>> {
        match &self.value {
            Value::Str(s) => Ok(s.clone()),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Number(_) => {
                Err(self.expected("a text").help("quotes make a text of it"))
            }
            _ => Err(self.expected("a text")),
        }
    }

    /// A list.
    pub fn list(&self) -> Read<&[Node]> {
        match &self.value {
            Value::List(items) => Ok(items),
            _ => Err(self.expected("a list")),
        }
    }

    /// A list of texts.
    pub fn texts(&self) -> Read<Vec<Arc<str>>> {
        self.list()?.iter().map(Node::text).collect()
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Read<bool> {
        match self.value {
            Value::Bool(b) => Ok(b),
            _ => Err(self.expected("`true` or `false`")),
        }
    }

    /// The value `true` behind a step that needs no more.
    pub fn only_true(&self) -> Read {
        match self.value {
            Value::Bool(true) => Ok(()),
            _ => Err(Fault::new(self.span, "nothing but `true` may stand here", format!("found {}", self.describe()))),
        }
    }

    /// A number that is not negative.
    pub fn uint(&self) -> Read<u64> {
        match self.value {
            Value::Int(n) if n >= 0 => Ok(n.unsigned_abs()),
            Value::Uint(n) => Ok(n),
            _ => Err(self.expected("a whole number that is not negative")),
        }
    }

    /// A number of bytes: digits, or a text such as `64K`.
    pub fn size(&self) -> Read<u64> {
        match &self.value {
            Value::Str(s) => parse_size(s).map_err(|_| self.expected("a size in bytes").help(SIZES)),
            Value::Int(n) if *n >= 0 => Ok(n.unsigned_abs()),
            Value::Uint(n) => Ok(*n),
            _ => Err(self.expected("a size in bytes").help(SIZES)),
        }
    }

    /// A duration such as `300ms`.
    pub fn duration(&self) -> Read<time::Span> {
        const SECOND: u64 = time::Span::SECOND.as_nanos();
        let units = [
            ("ns", 1),
            ("us", SECOND / 1_000_000),
            ("µs", SECOND / 1_000_000),
            ("ms", SECOND / 1_000),
            ("s", SECOND),
            ("m", 60 * SECOND),
            ("h", 3600 * SECOND),
        ];
        let text = match &self.value {
            Value::Str(text) => &**text,
            Value::Int(0) => "0s",
            _ => "",
        };
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = units.iter().find(|(name, _)| *name == text[digits.len()..].trim());
        unit.and_then(|(_, nanos)| digits.parse::<u64>().ok()?.checked_mul(*nanos))
            .map(time::Span::from_nanos)
            .filter(|span| *span <= MAX_DURATION)
            .ok_or_else(|| {
                self.expected("a duration")
                    .help("durations are written 300ms, 5us, 2s, 10m, 1h; the longest is 146 years")
            })
    }

    /// One of the words of a table.
    pub fn word<T: Copy>(&self, table: &[(&'static str, T)]) -> Read<T> {
        let text = self.text()?;
        table.iter().find(|(word, _)| *word == &*text).map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
            let expected = match nearest(&text, &words) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("expected one of: {}", words.join(", ")),
            };
            Fault::new(self.span, format!("`{text}` is not known here"), expected)
        })
    }

    /// A mapping as a JSON object.
    pub fn object(&self) -> Read<Json> {
        match &self.value {
            Value::Map(_) => Ok(self.json()),
            _ => Err(self.expected("a mapping")),
        }
    }
}
