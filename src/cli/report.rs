//! Mistakes in scenario files as people see them: the line, a caret, advice.

use crate::scenario::{Place, ScenarioError};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode, SourceSpan};
use std::fmt;

/// How many of the calls that led to a mistake are shown.
const MAX_CALLS: usize = 3;

/// A scenario error dressed for `miette`.
#[derive(Debug)]
struct Report {
    message: String,
    help: Option<String>,
    source: NamedSource<String>,
    label: Option<LabeledSpan>,
}

impl Report {
    fn new(message: String, place: &Place, help: Option<String>) -> Report {
        let span = SourceSpan::new((place.span.offset as usize).into(), place.span.len.max(1) as usize);
        // Line 0 stands for a file that could not be read at all.
        let label = (place.span.line > 0).then(|| LabeledSpan::new_primary_with_span(Some(place.label.clone()), span));
        let message = if label.is_some() { message } else { format!("{}: {message}: {}", place.file, place.label) };
        // A final new line lets a caret stand at the very end of the text.
        let source = NamedSource::new(&*place.file, format!("{}\n", place.text));
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
