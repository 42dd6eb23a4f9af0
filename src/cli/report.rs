//! Mistakes in scenario files as people see them: the line, a caret, advice.

use crate::scenario::{Place, ScenarioError};
use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, NamedSource,
    SourceCode, SourceSpan, SpanContents,
};
use std::fmt;

/// How many of the calls that led to a mistake are shown.
const MAX_CALLS: usize = 3;

/// Characters of a line that are shown.
const MAX_LINE: usize = 200;
/// Characters before a mistake that are shown of a longer line.
const MAX_BEFORE: usize = 80;
/// Lines that a mistake spans at most.
const MAX_LINES: usize = 10;

/// The text around a mistake, with long lines cut: `miette` can show no column beyond 65535.
#[derive(Debug)]
struct Excerpt {
    text: NamedSource<String>,
    /// Where the mistake is in it.
    at: SourceSpan,
    /// Columns that were cut off before it.
    cut: usize,
}

impl Excerpt {
    fn of(place: &Place) -> Excerpt {
        let text = &*place.text;
        let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let begin = boundary(place.span.offset as usize);
        let end = boundary(begin + place.span.len.max(1) as usize).max(begin);
        let (mut shown, mut from, mut to, mut cut, mut at) = (String::new(), 0, 0, 0, 0);
        for line in text.split_inclusive('\n') {
            let (low, high) = (at, at + line.len());
            let here = (low..high).contains(&begin);
            // The part of the line that is kept: around the mistake, or its beginning.
            let skip = match line[..if here { begin - low } else { 0 }].char_indices().rev().nth(MAX_BEFORE) {
                Some((skip, _)) if line.len() > MAX_LINE => skip,
                _ => 0,
            };
            let kept = line[skip..].char_indices().nth(MAX_LINE).map_or(line.len(), |(n, _)| skip + n);
            if here {
                cut = line[..skip].chars().count();
                from = shown.len() + (begin - low - skip) + if skip > 0 { ELLIPSIS.len() } else { 0 };
                cut = cut.saturating_sub(usize::from(skip > 0));
            }
            if here || (low..high).contains(&end) || low > begin && low < end {
                to = shown.len() + if skip > 0 { ELLIPSIS.len() } else { 0 };
                to += end.min(low + kept).saturating_sub(low + skip);
            }
            shown.push_str(if skip > 0 { ELLIPSIS } else { "" });
            shown.push_str(&line[skip..kept]);
            if kept < line.len() {
                shown.push_str(ELLIPSIS);
                shown.push_str(if line.ends_with('\n') { "\n" } else { "" });
            }
            at = high;
        }
        if begin >= text.len() {
            from = shown.len();
        }
        // A final new line lets a caret stand at the very end of the text.
        shown.push('\n');
        if let Some((n, _)) = shown[from..].match_indices('\n').nth(MAX_LINES) {
            to = to.min(from + n);
        }
        let len = to.saturating_sub(from).max(1);
        Excerpt { text: NamedSource::new(&*place.file, shown), at: SourceSpan::new(from.into(), len), cut }
    }
}

/// Stands where something was cut off.
const ELLIPSIS: &str = "…";

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let read = self.text.read_span(span, before, after)?;
        // Asked for the place alone, it says where that is in the file.
        let cut = if before == 0 && after == 0 { self.cut } else { 0 };
        let name = read.name().unwrap_or_default().to_owned();
        let column = read.column() + cut;
        let (line, count) = (read.line(), read.line_count());
        Ok(Box::new(MietteSpanContents::new_named(name, read.data(), *read.span(), line, column, count)))
    }
}

/// Whether a mistake stands in a line: line 0 stands for a file that could not be read at all.
fn placed(place: &Place) -> bool {
    place.span.line > 0
}

/// A scenario error dressed for `miette`.
#[derive(Debug)]
struct Report {
    message: String,
    help: Option<String>,
    source: Excerpt,
    label: Option<LabeledSpan>,
}

impl Report {
    fn new(message: String, place: &Place, help: Option<String>) -> Report {
        let source = Excerpt::of(place);
        let label = placed(place).then(|| LabeledSpan::new_primary_with_span(Some(place.label.clone()), source.at));
        Report { message, help, source, label }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Report {}

impl Diagnostic for Report {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.label.as_ref().map(|_| &self.source as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.label
            .as_ref()
            .map(|label| Box::new(std::iter::once(label.clone())) as Box<dyn Iterator<Item = LabeledSpan>>)
    }
}

/// The mistake as text of at most `width` columns, coloured or not.
#[must_use]
pub fn render(error: &ScenarioError, width: usize, colour: bool) -> String {
    if !placed(&error.place) && error.help.is_none() && error.calls.is_empty() {
        return format!("error: {}: {}: {}\n", error.place.file, error.message, error.place.label);
    }
    let mut help: Vec<String> = error.help.iter().cloned().collect();
    help.extend(error.calls.iter().take(MAX_CALLS).map(|call| format!("called from {call}")));
    if error.calls.len() > MAX_CALLS {
        help.push(format!("and through {} more calls", error.calls.len() - MAX_CALLS));
    }
    let help = (!help.is_empty()).then(|| help.join("\n"));
    let report = Report::new(error.message.clone(), &error.place, help);
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let mut out = String::new();
    let handler = GraphicalReportHandler::new_themed(theme).with_width(width).with_links(false);
    if handler.render_report(&mut out, &report).is_err() {
        out = error.to_string();
    }
    out
}
