//! Mistakes in scenario files as people see them: the line, a caret, advice.

use crate::base::counted;
use crate::scenario::{ScenarioError, SourcePlace};
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

/// How many of the calls that led to a mistake are shown.
const MAX_CALLS: usize = 3;

/// Characters of a line that are shown.
const MAX_LINE: usize = 200;
/// Characters before a mistake that are shown of a longer line.
const MAX_BEFORE: usize = 80;
/// Stands where something was cut off.
const ELLIPSIS: char = '…';

/// The mistake as text of some `width` columns, coloured or not.
#[must_use]
pub fn render(error: &ScenarioError, width: usize, colour: bool) -> String {
    let place = &error.place;
    // Line 0 stands for a file that could not be read at all.
    if place.span.line == 0 {
        return format!("error: {}: {}\n", place.file, place.label);
    }
    let excerpt = Excerpt::of(place);
    let mark = AnnotationKind::Primary.span(excerpt.wrong.clone()).label(&*place.label);
    let snippet = Snippet::source(&*excerpt.text).line_start(excerpt.first).fold(false).annotation(mark);
    let title = Level::ERROR.primary_title(&*error.message);
    let mut group = match excerpt.whole {
        true => title.element(snippet.path(&*place.file)),
        // The place in the excerpt is not that in the file.
        false => {
            let origin = Origin::path(&*place.file).line(place.span.line as usize);
            title.element(origin.char_column(place.span.column as usize)).element(snippet)
        }
    };
    if let Some(help) = &error.help {
        group = group.element(Level::HELP.message(wrapped(help, width.saturating_sub(14))));
    }
    for call in error.calls.iter().take(MAX_CALLS) {
        group = group.element(Level::NOTE.message(format!("called from {call}")));
    }
    if error.calls.len() > MAX_CALLS {
        let more = counted((error.calls.len() - MAX_CALLS) as u64, "more call");
        group = group.element(Level::NOTE.message(format!("and through {more}")));
    }
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    // Lines are cut to what is worth showing already.
    renderer.term_width(width.max(2 * MAX_LINE)).render(&[group]) + "\n"
}

/// The line of a mistake between its neighbours, none of them longer than is worth showing.
struct Excerpt {
    text: String,
    /// Number of its first line.
    first: usize,
    /// What is wrong in it.
    wrong: std::ops::Range<usize>,
    /// Nothing was cut off before that.
    whole: bool,
}

impl Excerpt {
    fn of(place: &SourcePlace) -> Excerpt {
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
        let before = format!("{}{}", if skip > 0 { "…" } else { "" }, &line[skip..at]);
        let wrong = shortened(&text[line_begin + at..end], MAX_LINE - MAX_BEFORE);
        let room = MAX_LINE.saturating_sub(before.chars().count() + wrong.chars().count());
        let after = &line[(end - line_begin).max(at)..];
        let after = if wrong.ends_with(ELLIPSIS) { String::new() } else { shortened(after, room) };
        let (mut shown, mut first) = (String::new(), number);
        if number > 1 && line_begin > 0 {
            let neighbour = text[..line_begin - 1].rsplit('\n').next().unwrap_or_default().trim_end_matches('\r');
            shown.push_str(&format!("{}\n", shortened(neighbour, MAX_LINE)));
            first -= 1;
        }
        let from = shown.len() + before.len();
        shown.push_str(&format!("{before}{wrong}{after}"));
        // Where nothing is wrong but that something is missing, the next character is marked.
        let next = shown[from..].chars().next().map_or(0, char::len_utf8);
        let wrong = from..from + wrong.len().max(next);
        if let Some(next) = text[line_begin..].split('\n').nth(1).filter(|next| !next.is_empty()) {
            shown.push_str(&format!("\n{}", shortened(next.trim_end_matches('\r'), MAX_LINE)));
        }
        Excerpt { text: shown, first, wrong, whole: skip == 0 }
    }
}

/// At most so many characters of a text.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}{ELLIPSIS}", &text[..end]),
        None => text.to_owned(),
    }
}

/// A text in lines of at most `width` characters, unless a word is longer.
fn wrapped(text: &str, width: usize) -> String {
    let mut lines = Vec::new();
    for part in text.lines() {
        let (mut line, mut length) = (String::new(), 0);
        for word in part.split(' ') {
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
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{SourceSpan, load_str};

    #[test]
    fn the_frame_of_a_mistake() {
        let error = load_str("a.yaml", "about: x\nsteps:\n  - idel: true\n  - mark: m\n").expect_err("a mistake");
        let wanted = "error: `idel` is no kind of step\n --> a.yaml:3:5\n  |\n2 | steps:\n3 |   - idel: true\n  |     ^^^^ did you mean \
                      `idle`?\n4 |   - mark: m\n  |\n  = help: known are: ";
        let shown = render(&error, 120, false);
        assert!(shown.starts_with(wanted) && shown.lines().all(|line| line.chars().count() <= 120), "{shown}");
        assert!(render(&error, 120, true).contains("\x1b["), "no colours");
    }

    #[test]
    fn what_no_terminal_can_show_and_what_is_long() {
        let text = format!("steps: \x1b{} \u{e9}wrong{}\nnext", "a".repeat(300), "b".repeat(500));
        let offset = u32::try_from(text.find("wrong").unwrap_or_default()).unwrap_or_default();
        let span = SourceSpan { offset, len: 1000, line: 1, column: 311, ..SourceSpan::default() };
        let place =
            |span| SourcePlace { file: "f".into(), text: text.as_str().into(), span, label: "what\tis it".to_owned() };
        let error = |span| ScenarioError { message: "m".to_owned(), place: place(span), help: None, calls: Vec::new() };
        let shown = render(&error(span), 80, false);
        assert!(shown.contains("f:1:311") && shown.contains("1 | …a") && shown.contains("a éwrongb"), "{shown}");
        assert!(!shown.contains('\x1b') && shown.lines().all(|line| line.chars().count() < 220), "{shown}");
        // A place without a length before a character of several bytes.
        let wide = SourcePlace {
            file: "f".into(),
            text: "a\u{1f574}b".into(),
            span: SourceSpan { offset: 1, line: 1, column: 2, ..SourceSpan::default() },
            label: "l".into(),
        };
        let wide = ScenarioError { message: "m".to_owned(), place: wide, help: None, calls: Vec::new() };
        assert!(render(&wide, 80, false).contains("1 | a\u{1f574}b"), "{}", render(&wide, 80, false));
        // At the very end, and behind it.
        for offset in [text.len(), text.len() + 9] {
            let span = SourceSpan {
                offset: u32::try_from(offset).unwrap_or_default(),
                line: 2,
                column: 5,
                ..SourceSpan::default()
            };
            let shown = render(&error(span), 80, false);
            assert!(shown.contains("2 | next\n  |     ^"), "{shown}");
        }
    }
}
