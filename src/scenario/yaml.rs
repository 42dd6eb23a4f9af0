//! Values on their way to becoming text: YAML that a person can read. What fits on a line stands on a line, everything else in blocks.

use crate::base::Json;
use crate::base::time;
use crate::base::units::size_text;
use std::fmt::Write;
use std::sync::Arc;

/// Columns that a line has at most, where a value can be broken at all.
const WIDTH: usize = 118;

/// A value on its way to becoming text.
#[derive(Clone)]
pub(super) enum Yaml {
    /// As it is written.
    Scalar(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    pub(super) fn plain(text: impl Into<String>) -> Yaml {
        Yaml::Scalar(text.into())
    }

    /// A text that nothing is filled into.
    pub(super) fn text(text: &str) -> Yaml {
        Yaml::Scalar(scalar(text))
    }

    /// A text in steps or files, where `$` would begin a parameter.
    pub(super) fn filled(text: &str) -> Yaml {
        Yaml::Scalar(scalar(&text.replace('$', "$$")))
    }

    pub(super) fn bool(value: bool) -> Yaml {
        Yaml::plain(if value { "true" } else { "false" })
    }

    pub(super) fn size(bytes: u64) -> Yaml {
        Yaml::plain(size_text(bytes))
    }

    pub(super) fn texts(texts: &[Arc<str>]) -> Yaml {
        Yaml::List(texts.iter().map(|text| Yaml::filled(text)).collect())
    }

    pub(super) fn members(members: Vec<(&'static str, Yaml)>) -> Yaml {
        Yaml::Map(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    pub(super) fn map<'a>(members: impl IntoIterator<Item = (&'a str, Option<Yaml>)>) -> Yaml {
        Yaml::Map(members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
    }
}

/// A JSON value in which nothing is a parameter.
pub(super) fn json(value: &Json) -> Yaml {
    value_of(value, true)
}

/// A JSON value; in `filled` places `$` would begin a parameter.
pub(super) fn value_of(value: &Json, filled: bool) -> Yaml {
    match value {
        Json::Null => Yaml::plain("null"),
        Json::Bool(b) => Yaml::bool(*b),
        Json::Int(n) => Yaml::plain(n.to_string()),
        Json::Uint(n) => Yaml::plain(n.to_string()),
        Json::Number(n) => Yaml::plain(&**n),
        Json::Str(s) if filled => Yaml::filled(s),
        Json::Str(s) => Yaml::text(s),
        Json::List(items) => Yaml::List(items.iter().map(|item| value_of(item, filled)).collect()),
        Json::Dict(members) => {
            Yaml::Map(members.iter().map(|(key, value)| (scalar(key), value_of(value, filled))).collect())
        }
    }
}

/// A duration in the largest unit that leaves no rest.
pub(super) fn duration(span: time::Span) -> String {
    use time::Span;
    let units = [
        ("h", Span::from_secs(3600)),
        ("m", Span::from_secs(60)),
        ("s", Span::SECOND),
        ("ms", Span::MILLISECOND),
        ("us", Span::MICROSECOND),
    ];
    let unit = units.iter().find(|(_, unit)| span >= *unit && span % *unit == Span::ZERO);
    unit.map_or_else(|| format!("{}ns", span.as_nanos()), |(name, unit)| format!("{}{name}", span / *unit))
}

/// A text as a scalar: bare where nothing can mistake it, in single quotes where it can be read so, in double quotes otherwise.
fn scalar(text: &str) -> String {
    if is_bare(text) {
        return text.to_owned();
    }
    let printable =
        |c: char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    if text.chars().all(|c| printable(c) && c != '\'') {
        return format!("'{text}'");
    }
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if printable(c) => out.push(c),
            c => _ = write!(out, "\\U{:08x}", u32::from(c)),
        }
    }
    out.push('"');
    out
}

/// Whether a text may stand without quotes, also between brackets, and is still read as a text.
fn is_bare(text: &str) -> bool {
    const WORDS: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let mut chars = text.chars();
    let first = chars.next();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == '/')
        && chars.all(|c| is_name(c) || c == ' ')
        && !text.ends_with(' ')
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
        && !["inf", "nan", ".inf", ".nan"].iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// The whole value on one line.
pub(super) fn flow(value: &Yaml) -> String {
    match value {
        Yaml::Scalar(text) => text.clone(),
        Yaml::List(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Yaml::Map(members) => {
            let members: Vec<String> = members.iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect();
            format!("{{{}}}", members.join(", "))
        }
    }
}

/// A member of the top level.
pub(super) fn member(key: &str, value: &Yaml, out: &mut String) {
    _ = write!(out, "{key}:");
    behind_key(value, "", key.len() + 2, out);
}

/// An entry of a list at `indent`.
pub(super) fn item(value: &Yaml, indent: &str, out: &mut String) {
    match value {
        // The first key says what the entry is; further keys stand below it.
        Yaml::Map(members) if !members.is_empty() => {
            let line = flow(value);
            if members.len() > 1 && indent.len() + 2 + line.len() <= WIDTH {
                _ = writeln!(out, "{indent}- {line}");
                return;
            }
            let inner = format!("{indent}  ");
            for (i, (key, value)) in members.iter().enumerate() {
                _ = write!(out, "{indent}{}{key}:", if i == 0 { "- " } else { "  " });
                behind_key(value, &inner, inner.len() + key.len() + 2, out);
            }
        }
        Yaml::List(items) if indent.len() + 2 + flow(value).len() > WIDTH && !items.is_empty() => {
            _ = writeln!(out, "{indent}-");
            items.iter().for_each(|nested| item(nested, &format!("{indent}  "), out));
        }
        _ => _ = writeln!(out, "{indent}- {}", flow(value)),
    }
}

/// What stands behind `key:`, which is at `indent`; `used` columns of the line are taken.
fn behind_key(value: &Yaml, indent: &str, used: usize, out: &mut String) {
    let line = flow(value);
    let inner = format!("{indent}  ");
    match value {
        Yaml::List(items) if used + line.len() > WIDTH && !items.is_empty() => {
            out.push('\n');
            items.iter().for_each(|nested| item(nested, &inner, out));
        }
        Yaml::Map(members) if used + line.len() > WIDTH && !members.is_empty() => {
            out.push('\n');
            for (key, value) in members {
                _ = write!(out, "{inner}{key}:");
                behind_key(value, &inner, inner.len() + key.len() + 2, out);
            }
        }
        _ => _ = writeln!(out, " {line}"),
    }
}
