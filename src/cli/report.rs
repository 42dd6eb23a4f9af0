//! Mistakes in scenario files as people see them: the line, a caret, advice.

use crate::scenario::{ScenarioError, SourcePlace};
use anstyle::{AnsiColor, Style};

/// How many of the calls that led to a mistake are shown.
const MAX_CALLS: usize = 3;

/// Characters of a line that are shown.
const MAX_LINE: usize = 200;
/// Characters before a mistake that are shown of a longer line.
const MAX_BEFORE: usize = 80;
/// Stands where something was cut off.
const ELLIPSIS: char = '…';

/// How the parts of a report look.
#[derive(Default)]
struct Looks {
    mistake: Style,
    number: Style,
    mark: Style,
    help: Style,
}

impl Looks {
    fn coloured() -> Looks {
        let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        let (mistake, help) = (colour(AnsiColor::Red), colour(AnsiColor::Cyan));
        Looks { mistake, number: Style::new().dimmed(), mark: colour(AnsiColor::Magenta).bold(), help }
    }
}

/// The mistake as text of at most `width` columns, coloured or not.
#[must_use]
pub fn render(error: &ScenarioError, width: usize, colour: bool) -> String {
    let looks = if colour { Looks::coloured() } else { Looks::default() };
    let place = &error.place;
    // Line 0 stands for a file that could not be read at all.
    let placed = place.span.line > 0;
    let mut out = match placed {
        true => {
            let style = looks.mistake;
            let message = wrapped(&error.message, width.saturating_sub(4)).join("\n  │ ");
            format!("  {style}×{style:#} {message}\n{}", excerpt(place, &looks))
        }
        false => format!("error: {}: {}: {}\n", place.file, error.message, place.label),
    };
    let mut help: Vec<String> = error.help.iter().cloned().collect();
    help.extend(error.calls.iter().take(MAX_CALLS).map(|call| format!("called from {call}")));
    if error.calls.len() > MAX_CALLS {
        help.push(format!("and through {} more calls", error.calls.len() - MAX_CALLS));
    }
    let help: Vec<String> = help.iter().flat_map(|text| wrapped(text, width.saturating_sub(8))).collect();
    if !help.is_empty() {
        let style = looks.help;
        out.push_str(&format!("  {style}help:{style:#} {}\n", help.join("\n        ")));
    }
    out
}

/// The line of a mistake between its neighbours, with what is wrong underlined.
fn excerpt(place: &SourcePlace, looks: &Looks) -> String {
    let (text, number) = (&*place.text, place.span.line as usize);
    let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let begin = boundary(place.span.offset as usize);
    let line_begin = text[..begin].rfind('\n').map_or(0, |end| end + 1);
    let line = text[line_begin..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
    let at = (begin - line_begin).min(line.len());
    let end = boundary(begin + place.span.len.max(1) as usize).clamp(line_begin + at, line_begin + line.len());
    // The part of the line that is kept: around the mistake, or its beginning.
    let long = line.chars().count() > MAX_LINE;
    let skip = line[..at].char_indices().rev().nth(MAX_BEFORE).filter(|_| long).map_or(0, |(skip, _)| skip);
    let before = format!("{}{}", if skip > 0 { "…" } else { "" }, plain(&line[skip..at]));
    let wrong = shortened(&plain(&text[line_begin + at..end]), MAX_LINE - MAX_BEFORE);
    let after = &line[(end - line_begin).max(at)..];
    let room = MAX_LINE.saturating_sub(before.chars().count() + wrong.chars().count());
    let after = if wrong.ends_with(ELLIPSIS) { String::new() } else { shortened(&plain(after), room) };
    let last = text[line_begin..].split('\n').nth(1);
    let gutter = (number + usize::from(last.is_some())).to_string().len();
    let Looks { number: dim, mark, .. } = looks;
    let shown = |number: usize, line: &str| format!(" {dim}{number:>gutter$}{dim:#} │ {line}\n");
    let mut out = format!("{:1$}╭─[{2}:{number}:{3}]\n", "", gutter + 2, place.file, place.span.column);
    if number > 1 && line_begin > 0 {
        let before = text[..line_begin - 1].rsplit('\n').next().unwrap_or_default();
        out.push_str(&shown(number - 1, &shortened(&plain(before), MAX_LINE)));
    }
    out.push_str(&shown(number, &format!("{before}{wrong}{after}")));
    let (indent, len) = (before.chars().count(), wrong.chars().count().max(1));
    let (left, right) = ("─".repeat(len / 2), "─".repeat(len - len / 2 - 1));
    let margin = format!("{:1$}· ", "", gutter + 2);
    out.push_str(&format!("{margin}{:indent$}{mark}{left}┬{right}{mark:#}\n", ""));
    let indent = indent + len / 2;
    out.push_str(&format!("{margin}{:indent$}{mark}╰── {}{mark:#}\n", "", plain(&place.label)));
    if let Some(next) = last {
        out.push_str(&shown(number + 1, &shortened(&plain(next), MAX_LINE)));
    }
    out.push_str(&format!("{:1$}╰────\n", "", gutter + 2));
    out
}

/// A part of a line as a terminal can show it: a tab has a width, and other control characters have none.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\t' => out.push_str("    "),
            '\r' => {}
            letter if letter.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            letter => out.push(letter),
        }
    }
    out
}

/// At most so many characters of a text.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}{ELLIPSIS}", &text[..end]),
        None => text.to_owned(),
    }
}

/// A text in lines of at most `width` characters, unless a word is longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for part in text.lines() {
        let (mut line, mut length) = (String::new(), 0);
        for word in plain(part).split(' ') {
            let letters = word.chars().count();
            if length > 0 && length + 1 + letters > width {
                lines.push(std::mem::take(&mut line));
                length = 0;
            }
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            line.push_str(word);
            length += letters;
        }
        lines.push(line);
    }
    if lines.is_empty() { vec![String::new()] } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Span, load_str};

    #[test]
    fn the_frame_of_a_mistake() {
        let error = load_str("a.yaml", "about: x\nsteps:\n  - idel: true\n  - mark: m\n").expect_err("a mistake");
        let wanted = "  × `idel` is no kind of step\n   ╭─[a.yaml:3:5]\n 2 │ steps:\n 3 │   - idel: true\n   ·     ──┬─\n   ·       ╰── did \
                      you mean `idle`?\n 4 │   - mark: m\n   ╰────\n  help: known are: ";
        let shown = render(&error, 120, false);
        assert!(shown.starts_with(wanted) && shown.lines().all(|line| line.chars().count() <= 120), "{shown}");
        let coloured = render(&error, 120, true);
        assert!(coloured.contains("\x1b[31m×\x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn what_no_terminal_can_show_and_what_is_long() {
        let text = format!("steps: \x1b{} \u{e9}wrong{}\nnext", "a".repeat(300), "b".repeat(500));
        let offset = u32::try_from(text.find("wrong").unwrap_or_default()).unwrap_or_default();
        let span = Span { offset, len: 1000, line: 1, column: 311, ..Span::default() };
        let place =
            |span| SourcePlace { file: "f".into(), text: text.as_str().into(), span, label: "what\tis it".to_owned() };
        let error = |span| ScenarioError { message: "m".to_owned(), place: place(span), help: None, calls: Vec::new() };
        let shown = render(&error(span), 80, false);
        assert!(shown.contains("[f:1:311]") && shown.contains(" 1 │ …a") && shown.contains("a éwrongb"), "{shown}");
        assert!(!shown.contains('\x1b') && shown.lines().all(|line| line.chars().count() < 220), "{shown}");
        // At the very end, and behind it.
        for offset in [text.len(), text.len() + 9] {
            let span =
                Span { offset: u32::try_from(offset).unwrap_or_default(), line: 2, column: 5, ..Span::default() };
            assert!(render(&error(span), 80, false).contains(" 2 │ next\n   ·     ┬\n"), "{offset}");
        }
    }
}
