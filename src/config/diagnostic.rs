//! What is wrong with a pipeline file, each thing at its place, and how that is shown. Pure.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// More than this many diagnostics are not shown: the first ones explain most of the rest.
const SHOWN_MAX: usize = 50;

/// The width that plain output is laid out for, in columns.
const WIDTH: usize = 140;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing can be run.
    Error,
    /// It can be run, but perhaps not as meant.
    Warning,
}

/// Which text a place is in. File comes before overrides in every list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The pipeline file.
    File,
    /// The n-th `--set`, from 0.
    Set(usize),
}

/// A range of bytes in one of the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which text.
    pub origin: Origin,
    /// Which bytes of it.
    pub span: Range<usize>,
}

impl Place {
    /// A place in the pipeline file.
    pub fn file(span: Range<usize>) -> Self {
        Self { origin: Origin::File, span }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What is wrong and why.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Collects diagnostics while a file is read.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub list: Vec<Diagnostic>,
    /// Values that must not be shown: a password where the name of its hiding place should stand.
    pub concealed: Vec<Place>,
}

impl Report {
    /// Notes an error. The help may be empty.
    pub fn error(&mut self, place: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, place, message.into(), help.into());
    }

    /// Notes a warning. The help may be empty.
    pub fn warning(&mut self, place: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Warning, place, message.into(), help.into());
    }

    fn push(&mut self, severity: Severity, place: &Place, message: String, help: String) {
        let help = (!help.is_empty()).then_some(help);
        self.list.push(Diagnostic { severity, place: place.clone(), message, help });
    }

    /// How many errors there are so far.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }
}

/// All that is wrong with a pipeline file, in the order of the file, with what is needed to show it.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    file: String,
    text: String,
    set: Vec<String>,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Takes over what was collected; the texts lose what must not be shown.
    pub(super) fn new(file: &str, text: &str, set: &[String], report: Report) -> Self {
        let Report { mut list, concealed } = report;
        list.sort_by_key(|diagnostic| (diagnostic.place.origin, diagnostic.place.span.start));
        list.dedup();
        let mut all = Self { file: file.to_owned(), text: text.to_owned(), set: set.to_vec(), list };
        for place in concealed {
            let text = match place.origin {
                Origin::File => Some(&mut all.text),
                Origin::Set(index) => all.set.get_mut(index),
            };
            if let Some(text) = text {
                conceal(text, &place.span);
            }
        }
        all
    }

    /// The warnings at these places, as errors; all others are left out.
    pub(super) fn only_errors_at(mut self, places: &[Place]) -> Self {
        self.list.retain(|diagnostic| places.contains(&diagnostic.place));
        self.list.iter_mut().for_each(|diagnostic| diagnostic.severity = Severity::Error);
        self
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Line and column of a place, both from 1, the column in characters.
    pub fn line_and_column(&self, place: &Place) -> (usize, usize) {
        let text = self.text(place.origin);
        let start = clamp(text, &place.span).start;
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// All of them as text with source lines and carets; `styled` adds colours for a terminal.
    pub fn render(&self, styled: bool) -> String {
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() }.term_width(WIDTH);
        let mut shown: Vec<String> = self
            .list
            .iter()
            .take(SHOWN_MAX)
            .map(|diagnostic| renderer.render(&[self.group(diagnostic)]).trim_end().to_owned())
            .collect();
        if self.list.len() > SHOWN_MAX {
            shown.push(format!("… and {} more", self.list.len() - SHOWN_MAX));
        }
        shown.join("\n\n")
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let text = self.text(diagnostic.place.origin);
        let path = match diagnostic.place.origin {
            Origin::File => &self.file,
            Origin::Set(_) => "--set",
        };
        let annotation = AnnotationKind::Primary.span(clamp(text, &diagnostic.place.span));
        let group = level
            .primary_title(&diagnostic.message)
            .element(Snippet::source(text).path(path).annotation(annotation));
        match &diagnostic.help {
            Some(help) => group.element(Level::HELP.message(help)),
            None => group,
        }
    }

    fn text(&self, origin: Origin) -> &str {
        match origin {
            Origin::File => &self.text,
            Origin::Set(index) => self.set.get(index).map_or("", String::as_str),
        }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// A span that lies in the text, on whole characters and on one line.
fn clamp(text: &str, span: &Range<usize>) -> Range<usize> {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let line_end = text[start..].find(['\n', '\r']).map_or(text.len(), |length| start + length);
    let mut end = span.end.clamp(start, line_end);
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

/// Puts `*` over a range. The length in bytes and the line breaks stay, so that all places stay right.
fn conceal(text: &mut String, span: &Range<usize>) {
    let masked: String = text
        .char_indices()
        .flat_map(|(index, character)| {
            let hide = span.contains(&index) && !matches!(character, '\n' | '\r' | '"' | '\'');
            let (character, times) = if hide { ('*', character.len_utf8()) } else { (character, 1) };
            std::iter::repeat_n(character, times)
        })
        .collect();
    *text = masked;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostics(text: &str, span: Range<usize>) -> Diagnostics {
        let mut report = Report::default();
        report.error(&Place::file(span), "wrong", "do it right");
        Diagnostics::new("a.toml", text, &[], report)
    }

    #[test]
    fn places_are_shown_with_line_column_and_caret() {
        let shown = diagnostics("a = 1\nñandú = [1,\n 2]\n", 6..13).to_string();
        let expected =
            "error: wrong\n --> a.toml:2:1\n  |\n2 | ñandú = [1,\n  | ^^^^^\n  |\n  = help: do it right";
        assert_eq!(shown, expected);
    }

    #[test]
    fn any_span_can_be_shown() {
        for text in ["", "\n", "é", "a\r\nb", "\t\u{200b}x\u{7}", "a\n\n"] {
            for start in 0..text.len() + 3 {
                for end in start..text.len() + 4 {
                    let all = diagnostics(text, start..end);
                    assert!(all.render(false).contains("wrong"));
                    let (line, column) = all.line_and_column(&all.list[0].place);
                    assert!(line >= 1 && column >= 1);
                }
            }
        }
    }

    #[test]
    fn a_concealed_value_is_not_shown() {
        let mut report = Report::default();
        let place = Place::file(4..14);
        report.error(&place, "wrong", "");
        report.concealed.push(place);
        let all = Diagnostics::new("a.toml", "p = \"hünter2\"", &[], report);
        assert!(all.to_string().contains("p = \"********\""), "{all}");
    }

    #[test]
    fn a_flood_is_cut() {
        let mut report = Report::default();
        (0..SHOWN_MAX + 7).for_each(|at| report.error(&Place::file(at..at), "wrong", ""));
        let all = Diagnostics::new("a.toml", &"x".repeat(100), &[], report);
        assert!(all.to_string().ends_with("… and 7 more"));
        assert_eq!(all.len(), SHOWN_MAX + 7);
    }
}
