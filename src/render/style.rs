//! Colours and words that all pictures share.

use crate::base::time::Instant;

/// Colours of job states: name, fill, text on it.
pub const STATES: &[(&str, &str, &str)] = &[
    ("created", "#8fa3b5", "#0b1620"),
    ("running", "#2f9e63", "#ffffff"),
    ("paused", "#e8b118", "#2a2000"),
    ("ready", "#1f9ba8", "#ffffff"),
    ("standby", "#b98a1e", "#ffffff"),
    ("waiting", "#3d84c6", "#ffffff"),
    ("pending", "#8b62cf", "#ffffff"),
    ("aborting", "#d64550", "#ffffff"),
    ("concluded", "#5f6b76", "#ffffff"),
];

/// The colour of a state; grey for one that is not known.
#[must_use]
pub fn state_colour(state: &str) -> &'static str {
    STATES.iter().find(|(name, _, _)| *name == state).map_or("#7a7a7a", |(_, fill, _)| fill)
}

/// The letter that stands for a state where there is little room: its first, but `R` is running, `Y` ready and `X` aborting.
#[must_use]
pub fn state_letter(state: &str) -> char {
    match state {
        "ready" => 'Y',
        "aborting" => 'X',
        "pending" => 'F',
        "concluded" => 'E',
        other => other.chars().next().map_or('?', |c| c.to_ascii_uppercase()),
    }
}

/// An instant in milliseconds, with as many places as `places`.
#[must_use]
pub fn millis(time: Instant, places: usize) -> String {
    let text = time.to_string();
    let text = text.trim_end_matches(" ms");
    let keep = text.len() - (6 - places.min(6));
    text[..keep].trim_end_matches('.').to_owned()
}

/// Text in markup.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // No character that XML 1.0 does not have.
            c if c < ' ' && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Whether an event deserves words in a still picture.
#[must_use]
pub fn notable(event: &str) -> bool {
    event != "JOB_STATUS_CHANGE"
}
