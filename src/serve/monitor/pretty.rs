//! `pretty=on`: JSON on several lines, indented by four, with an empty container on two lines (`qobject_to_json_pretty`).

use crate::base::Json;
use crate::qmp::hash_order::wire_order;
use crate::qmp::print::{MemberOrder, write_value};

/// Prints `value` with its inner lines indented below `depth`.
pub(in crate::serve) fn write(value: &Json, depth: usize, out: &mut String) {
    let line = |out: &mut String, depth: usize| {
        out.push_str("\r\n");
        out.extend(std::iter::repeat_n("    ", depth));
    };
    match value {
        Json::Dict(members) => {
            out.push('{');
            for (i, index) in wire_order(members).into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                line(out, depth + 1);
                let (key, value) = &members[index];
                write_value(&Json::Str(key.clone()), MemberOrder::Wire, out);
                out.push_str(": ");
                write(value, depth + 1, out);
            }
            line(out, depth);
            out.push('}');
        }
        Json::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                line(out, depth + 1);
                write(item, depth + 1, out);
            }
            line(out, depth);
            out.push(']');
        }
        other => write_value(other, MemberOrder::Wire, out),
    }
}
