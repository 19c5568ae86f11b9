//! What is wrong with a scenario, where, why, and what to write instead.
//!
//! A scenario has several texts: its file, the flags that override it, the CSV of lengths. A
//! [`Span`] names a place in any of them, so one diagnostic can point at a flag and at the line of
//! the file that it contradicts.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Patch, Renderer, Snippet};

/// A text that diagnostics can point into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(u32);

/// Bytes `range` of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub source: SourceId,
    pub range: Range<usize>,
}

impl Span {
    pub fn new(source: SourceId, range: Range<usize>) -> Self {
        Self { source, range }
    }
}

/// The texts of one scenario by name, in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    texts: Vec<SourceText>,
}

#[derive(Clone, Debug)]
struct SourceText {
    name: String,
    text: String,
    /// Lines of the file before this text.
    lines_before: usize,
}

impl Sources {
    /// The id that the next text will get.
    pub fn next_id(&self) -> SourceId {
        SourceId(u32::try_from(self.texts.len()).expect("fewer than 2^32 texts"))
    }

    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> SourceId {
        self.add_excerpt(name, text, 1)
    }

    /// A piece of a file that is too long to keep, from line `first_line` on.
    pub fn add_excerpt(
        &mut self,
        name: impl Into<String>,
        text: impl Into<String>,
        first_line: u64,
    ) -> SourceId {
        let id = self.next_id();
        let lines_before = usize::try_from(first_line.saturating_sub(1)).unwrap_or(usize::MAX);
        self.texts.push(SourceText { name: name.into(), text: text.into(), lines_before });
        id
    }

    fn lines_before(&self, id: SourceId) -> usize {
        self.texts[id.0 as usize].lines_before
    }

    pub fn name(&self, id: SourceId) -> &str {
        &self.texts[id.0 as usize].name
    }

    pub fn text(&self, id: SourceId) -> &str {
        &self.texts[id.0 as usize].text
    }

    /// The text that a span covers; empty if it lies outside.
    pub fn slice(&self, span: &Span) -> &str {
        self.text(span.source).get(span.range.clone()).unwrap_or("")
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub fn line_column(&self, id: SourceId, byte: usize) -> (usize, usize) {
        let text = self.text(id);
        let before = &text[..floor_char_boundary(text, byte)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            self.lines_before(id) + before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }
}

/// A span with what to say beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    pub text: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub title: String,
    /// The place to change; without one the problem is that something is missing altogether.
    pub primary: Option<Label>,
    /// The text in which something is missing, where there is no place to point at.
    pub within: Option<SourceId>,
    /// Other places that explain the problem.
    pub context: Vec<Label>,
    pub notes: Vec<String>,
    /// What to do about it.
    pub help: Vec<String>,
    /// A replacement that is likely to be what was meant.
    pub suggestion: Option<Suggestion>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    pub title: String,
    pub span: Span,
    pub replacement: String,
}

impl Diagnostic {
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            primary: None,
            within: None,
            context: Vec::new(),
            notes: Vec::new(),
            help: Vec::new(),
            suggestion: None,
        }
    }

    #[must_use]
    pub fn at(mut self, span: Span, label: impl Into<String>) -> Self {
        self.primary = Some(Label { span, text: label.into() });
        self
    }

    #[must_use]
    pub fn within(mut self, source: SourceId) -> Self {
        self.within = Some(source);
        self
    }

    #[must_use]
    pub fn because(mut self, span: Span, label: impl Into<String>) -> Self {
        self.context.push(Label { span, text: label.into() });
        self
    }

    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    #[must_use]
    pub fn suggest(
        mut self,
        title: impl Into<String>,
        span: Span,
        replacement: impl Into<String>,
    ) -> Self {
        self.suggestion =
            Some(Suggestion { title: title.into(), span, replacement: replacement.into() });
        self
    }
}

/// Everything that is wrong with a scenario, with the texts that it was read from.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    sources: Sources,
    list: Vec<Diagnostic>,
}

/// Beyond this many, further messages are noise: a binary file read as TOML has thousands.
const MAX_SHOWN: usize = 20;

impl Diagnostics {
    /// Sorted by place: file, then flags, in the order of the text.
    pub fn new(sources: Sources, mut list: Vec<Diagnostic>) -> Self {
        let place = |d: &Diagnostic| {
            d.primary.as_ref().map(|label| (label.span.source, label.span.range.start))
        };
        list.sort_by_key(place);
        Self { sources, list }
    }

    /// One problem without a place in any text, such as a file that cannot be read.
    pub fn without_place(title: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(Sources::default(), vec![Diagnostic::new(title).help(help)])
    }

    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// File, line and column of a diagnostic.
    pub fn location(&self, diagnostic: &Diagnostic) -> Option<(&str, usize, usize)> {
        let span = &diagnostic.primary.as_ref()?.span;
        let (line, column) = self.sources.line_column(span.source, span.range.start);
        Some((self.sources.name(span.source), line, column))
    }

    /// The messages as a terminal shows them, with ANSI colours only if `color`.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out: Vec<String> = self
            .list
            .iter()
            .take(MAX_SHOWN)
            .map(|diagnostic| renderer.render(&groups(&self.sources, diagnostic)))
            .collect();
        if self.list.len() > MAX_SHOWN {
            out.push(format!("... and {} more errors", self.list.len() - MAX_SHOWN));
        }
        out.join("\n\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

fn groups<'a>(sources: &'a Sources, diagnostic: &'a Diagnostic) -> Vec<Group<'a>> {
    let mut elements: Vec<Element<'a>> = Vec::new();
    let labels = diagnostic
        .primary
        .iter()
        .map(|label| (AnnotationKind::Primary, label))
        .chain(diagnostic.context.iter().map(|label| (AnnotationKind::Context, label)));
    // One snippet per text, the primary one first.
    let mut by_source: Vec<(SourceId, Vec<(AnnotationKind, &Label)>)> = Vec::new();
    for (kind, label) in labels {
        match by_source.iter_mut().find(|(id, _)| *id == label.span.source) {
            Some((_, labels)) => labels.push((kind, label)),
            None => by_source.push((label.span.source, vec![(kind, label)])),
        }
    }
    for (id, labels) in by_source {
        let text = sources.text(id);
        if text.is_empty() {
            elements.push(Origin::path(sources.name(id)).into());
            continue;
        }
        let window = Window::around(text, labels.iter().map(|(_, label)| &label.span.range));
        let annotations = labels.iter().map(|(kind, label)| {
            let annotation = kind.span(window.relative(&label.span.range));
            if label.text.is_empty() { annotation } else { annotation.label(label.text.as_str()) }
        });
        let snippet = Snippet::source(window.text)
            .line_start(sources.lines_before(id) + window.first_line)
            .path(sources.name(id))
            .annotations(annotations);
        elements.push(snippet.into());
    }
    if let (Some(id), true) = (diagnostic.within, elements.is_empty()) {
        elements.push(Origin::path(sources.name(id)).into());
    }
    let notes = diagnostic.notes.iter().map(|note| Level::NOTE.message(note.as_str()).into());
    let help = diagnostic.help.iter().map(|help| Level::HELP.message(help.as_str()).into());
    elements.extend(notes.chain(help));

    let title = Level::ERROR.primary_title(diagnostic.title.as_str());
    let mut groups = vec![Group::with_title(title).elements(elements)];
    if let Some(suggestion) = &diagnostic.suggestion {
        let text = sources.text(suggestion.span.source);
        let window = Window::around(text, std::iter::once(&suggestion.span.range));
        let patch =
            Patch::new(window.relative(&suggestion.span.range), suggestion.replacement.as_str());
        let snippet = Snippet::source(window.text)
            .line_start(window.first_line)
            .path(sources.name(suggestion.span.source))
            .patch(patch);
        let title = Level::HELP.secondary_title(suggestion.title.as_str());
        groups.push(Group::with_title(title).element(snippet));
    }
    groups
}

/// The whole lines around some spans: the renderer looks at all that it is given, and a CSV may
/// have millions of lines.
struct Window<'a> {
    text: &'a str,
    /// Byte of the whole text at which the window starts.
    start: usize,
    /// Line number of its first line, from 1.
    first_line: usize,
}

impl<'a> Window<'a> {
    fn around<'r>(text: &'a str, spans: impl Iterator<Item = &'r Range<usize>>) -> Self {
        let (low, high) = spans.fold((text.len(), 0), |(low, high), span| {
            (low.min(span.start), high.max(span.start).max(span.end))
        });
        let low = floor_char_boundary(text, low);
        let high = floor_char_boundary(text, high).max(low);
        let start = text[..low].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[high..].find('\n').map_or(text.len(), |newline| high + newline);
        let first_line = text[..start].matches('\n').count() + 1;
        Self { text: &text[start..end.max(start)], start, first_line }
    }

    /// `span` within the window, moved onto character boundaries.
    fn relative(&self, span: &Range<usize>) -> Range<usize> {
        let clamp = |byte: usize| floor_char_boundary(self.text, byte.saturating_sub(self.start));
        let (start, mut end) = (clamp(span.start), clamp(span.end));
        // An empty span at a character still gets its caret.
        if end <= start {
            end = start + self.text[start..].chars().next().map_or(0, char::len_utf8);
        }
        start..end
    }
}

fn floor_char_boundary(text: &str, byte: usize) -> usize {
    let mut byte = byte.min(text.len());
    while !text.is_char_boundary(byte) {
        byte -= 1;
    }
    byte
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_shows_file_line_caret_cause_and_remedy() {
        let mut sources = Sources::default();
        let file = sources.add("a.toml", "[model]\nname = \"llama-2-7b\"\n\n[engine]\ntp = 3\n");
        let flag = sources.add("command line", "--tp 3");
        let diagnostic = Diagnostic::new("tensor parallelism does not divide the heads")
            .at(Span::new(flag, 5..6), "3 does not divide 32")
            .because(Span::new(file, 15..27), "32 heads")
            .help("use 1, 2, 4 or 8");
        let diagnostics = Diagnostics::new(sources, vec![diagnostic]);
        let expected = "\
error: tensor parallelism does not divide the heads
 --> command line:1:6
  |
1 | --tp 3
  |      ^ 3 does not divide 32
  |
 ::: a.toml:2:8
  |
2 | name = \"llama-2-7b\"
  |        ------------ 32 heads
  |
  = help: use 1, 2, 4 or 8";
        assert_eq!(diagnostics.render(false), expected);
        assert!(diagnostics.render(true).contains("\u{1b}["), "colours only on request");
    }

    #[test]
    fn a_long_list_is_cut() {
        let many = (0..50).map(|n| Diagnostic::new(format!("problem {n}"))).collect();
        let text = Diagnostics::new(Sources::default(), many).render(false);
        assert!(text.ends_with("... and 30 more errors"), "{text}");
    }

    proptest! {
        #[test]
        fn any_span_in_any_text_renders(text in "\\PC*|[\\x00-\\x7f\u{e9}\r\n\t]*", a: u8, b: u8, c: u8) {
            let mut sources = Sources::default();
            let id = sources.add("x", text);
            let diagnostic = Diagnostic::new("t")
                .at(Span::new(id, a.into()..b.into()), "primary")
                .because(Span::new(id, c.into()..a.into()), "context")
                .suggest("s", Span::new(id, b.into()..c.into()), "r");
            let diagnostics = Diagnostics::new(sources, vec![diagnostic]);
            prop_assert!(!diagnostics.render(false).is_empty());
            prop_assert!(!diagnostics.render(true).is_empty());
        }
    }
}
