//! Printing JSON: as QEMU sends it, or in an order that does not depend on QEMU's hash tables.

use super::hash_order::wire_order;
use crate::base::Json;

/// In which order the members of objects are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberOrder {
    /// As QEMU's dictionaries list them (qobject/qjson.c:qobject_to_json).
    Wire,
    /// By name.
    Sorted,
    /// As they were put.
    Insertion,
}

/// Prints a value on one line, with `", "` and `": "` between things and everything but printable ASCII escaped.
#[must_use]
pub fn to_text(value: &Json, order: MemberOrder) -> String {
    let mut out = String::with_capacity(128);
    write_value(value, order, &mut out);
    out
}

/// [`to_text`], appended to `out`.
pub fn write_value(value: &Json, order: MemberOrder, out: &mut String) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Json::Int(n) => out.push_str(&n.to_string()),
        Json::Uint(n) => out.push_str(&n.to_string()),
        Json::Number(text) => out.push_str(text),
        Json::Str(text) => write_string(text, order, out),
        Json::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_value(item, order, out);
            }
            out.push(']');
        }
        Json::Dict(members) => {
            out.push('{');
            let indices = match order {
                MemberOrder::Wire => wire_order(members),
                MemberOrder::Insertion => (0..members.len()).collect(),
                MemberOrder::Sorted => {
                    let mut indices: Vec<usize> = (0..members.len()).collect();
                    indices.sort_by_key(|i| &members[*i].0);
                    indices
                }
            };
            for (i, index) in indices.into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_string(&members[index].0, order, out);
                out.push_str(": ");
                write_value(&members[index].1, order, out);
            }
            out.push('}');
        }
    }
}

/// `quoted_str`: QEMU escapes all but printable ASCII, with upper-case digits; and it prints the characters it
/// regards as invalid (noncharacters) as U+FFFD. The canonical form keeps those and has lower-case digits
/// and a bare DEL, like Python's `json.dumps`.
fn write_string(text: &str, order: MemberOrder, out: &mut String) {
    let canonical = order == MemberOrder::Sorted;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            '\u{7f}' if canonical => out.push(c),
            _ => {
                let c = if canonical || !is_noncharacter(c) { c } else { char::REPLACEMENT_CHARACTER };
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str("\\u");
                    for shift in [12, 8, 4, 0] {
                        let digit = char::from_digit(u32::from(*unit >> shift & 15), 16).unwrap_or('0');
                        out.push(if canonical { digit } else { digit.to_ascii_uppercase() });
                    }
                }
            }
        }
    }
    out.push('"');
}

/// One of the 66 code points Unicode keeps free of characters.
#[must_use]
pub fn is_noncharacter(c: char) -> bool {
    let c = u32::from(c);
    (0xFDD0..=0xFDEF).contains(&c) || c & 0xFFFE == 0xFFFE
}
