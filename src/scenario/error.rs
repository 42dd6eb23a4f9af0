//! Mistakes in scenario files, with their place.

use std::fmt;
use std::sync::Arc;

/// A place in one of the files of a scenario.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SourceSpan {
    /// Index into the list of files that were read.
    pub file: u32,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Where it begins, in bytes from the start of the file.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

/// A mistake before it is joined with the text of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub span: SourceSpan,
    pub message: String,
    /// What stands at the caret.
    pub label: String,
    pub help: Option<String>,
    /// The `call` steps that led here, innermost first.
    pub via: Vec<SourceSpan>,
}

/// Result of reading a part of a scenario.
pub(super) type Read<T = ()> = Result<T, Box<Fault>>;

impl Fault {
    /// A mistake at `span`: what is wrong, and what was expected there instead.
    pub fn new(span: SourceSpan, message: impl Into<String>, expected: impl Into<String>) -> Box<Fault> {
        let (message, label) = (shortened(message.into()), shortened(expected.into()));
        Box::new(Fault { span, message, label, help: None, via: Vec::new() })
    }

    /// Adds a line of advice.
    pub fn help(mut self: Box<Self>, help: impl Into<String>) -> Box<Fault> {
        self.help = Some(shortened(help.into()));
        self
    }
}

/// A place with what a diagnostic needs to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePlace {
    /// Name of the file, as it was given or included.
    pub file: Arc<str>,
    /// The whole text of the file.
    pub text: Arc<str>,
    /// Where in it.
    pub span: SourceSpan,
    /// What stands at the caret.
    pub label: String,
}

impl fmt::Display for SourcePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.span.line, self.span.column)
    }
}

/// A mistake in a scenario file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}: {}", place.label)]
pub struct ScenarioError {
    /// What is wrong.
    pub message: String,
    /// Where, and what was expected there.
    pub place: SourcePlace,
    /// Advice, where there is some.
    pub help: Option<String>,
    /// The `call` steps that led to the place, innermost first.
    pub calls: Vec<SourcePlace>,
}

/// The files read so far: name and text.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    pub files: Vec<(Arc<str>, Arc<str>)>,
}

impl Sources {
    /// Joins a mistake with the text around it.
    pub fn error(&self, fault: Fault) -> ScenarioError {
        let place = |span: SourceSpan, label: String| {
            let (file, text) = self.files.get(span.file as usize).cloned().unwrap_or_default();
            SourcePlace { file, text, span, label }
        };
        ScenarioError {
            message: fault.message,
            place: place(fault.span, fault.label),
            help: fault.help,
            calls: fault.via.into_iter().map(|span| place(span, "called here".to_owned())).collect(),
        }
    }
}

/// Characters of a message that are shown: it may hold a key or a text of any length.
const MAX_SHOWN: usize = 500;

/// A message without its middle, if it is long.
fn shortened(text: String) -> String {
    if text.len() <= MAX_SHOWN {
        return text;
    }
    let count = text.chars().count();
    if count <= MAX_SHOWN {
        return text;
    }
    let part = |from: usize, n: usize| text.chars().skip(from).take(n).collect::<String>();
    format!("{} … {}", part(0, MAX_SHOWN * 2 / 3), part(count - MAX_SHOWN / 3, MAX_SHOWN))
}
