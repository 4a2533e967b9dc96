//! Where a setting was written: a file, a preset, or the command line, and which characters of it.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

/// A text that settings come from.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// What a message calls it: a path, or the argument itself.
    pub label: String,
    /// The text.
    pub text: String,
}

/// A piece of a [`Source`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Of which text.
    pub source: Arc<Source>,
    /// Which bytes of it.
    pub span: Range<usize>,
}

impl Source {
    /// A text under the name that messages give it.
    pub fn new(label: impl Into<String>, text: impl Into<String>) -> Arc<Source> {
        Arc::new(Source { label: label.into(), text: text.into() })
    }
}

impl Origin {
    /// These bytes of this text.
    pub fn new(source: &Arc<Source>, span: Range<usize>) -> Origin {
        Origin { source: source.clone(), span }
    }

    /// Line and column, both from 1; columns count characters.
    pub fn line_column(&self) -> (usize, usize) {
        let before = &self.source.text[..self.start()];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    fn start(&self) -> usize {
        let mut start = self.span.start.min(self.source.text.len());
        while !self.source.text.is_char_boundary(start) {
            start -= 1;
        }
        start
    }

    /// The place, and its line with the piece underlined.
    pub fn excerpt(&self) -> String {
        // The whole text, such as where a key is missing at the top.
        if self.span.end == 0 {
            return format!(" --> {}", printable(&self.source.label));
        }
        let (line, column) = self.line_column();
        let start = self.start();
        let text = &self.source.text;
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let shown = text[line_start..].lines().next().unwrap_or("");
        let end = self.span.end.min(line_start + shown.len()).max(start);
        let marked = text.get(start..end).unwrap_or("").chars().count().max(1);
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let mut out = String::new();
        let _ = writeln!(out, "{margin}--> {}:{line}:{column}", printable(&self.source.label));
        let _ = writeln!(out, "{margin} |");
        let _ = writeln!(out, "{number} | {}", printable(shown));
        let _ = write!(out, "{margin} | {}{}", " ".repeat(column - 1), "^".repeat(marked));
        out
    }
}

/// A foreign text as a terminal may show it: one cell a character, and no control characters.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c == '\t' {
                ' '
            } else if c.is_control() {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_underlines_what_it_is_about() {
        let source = Source::new("a.toml", "x = 1\n\tkey = \"väl\" # \u{1b}[31m\n");
        let start = source.text.find("\"väl").unwrap();
        let origin = Origin::new(&source, start..start + 6);
        assert_eq!(origin.excerpt(), " --> a.toml:2:8\n  |\n2 |  key = \"väl\" # \u{fffd}[31m\n  |        ^^^^^");
    }

    #[test]
    fn a_span_beyond_the_text_does_no_harm() {
        let source = Source::new("a.toml", "ä");
        assert!(Origin::new(&source, 1..900).excerpt().contains("a.toml:1:1"));
    }
}
