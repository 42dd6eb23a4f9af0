//! `blockjob-sim schema`.

use crate::cli::output::Output;
use crate::scenario::schema::json_schema;
use crate::trace::canonical;

/// Prints the JSON Schema of scenario files.
pub(in crate::cli) fn schema(out: &mut Output) -> u8 {
    let text = canonical::to_string(&json_schema());
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    out.print(&format!("{value:#}\n"));
    0
}
