//! Rows of a CSV of measurements, with what is needed to complain about a field.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::scenario::diagnostic::{Diagnostic, SourceId, Span};

/// Reports beyond this many lines are noise: a wrong file is wrong everywhere.
const MAX_ERRORS: usize = 10;

pub(super) type Read<T> = Result<T, Box<Diagnostic>>;

/// A kind of CSV.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// As in "the operator table is empty".
    pub name: &'static str,
    /// A header that would do.
    pub example: &'static str,
}

/// The columns of a file and where they are named.
pub(super) struct Header {
    /// Number of each column, in lower case.
    pub columns: BTreeMap<String, usize>,
    pub span: Span,
}

impl Header {
    pub fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }
}

/// One record.
pub(super) struct Row<'a> {
    kind: Kind,
    source: SourceId,
    text: &'a str,
    start: usize,
    header: &'a Header,
    record: &'a csv::StringRecord,
}

/// Reads a file: `known` says what its header makes it, `row` reads a row of that.
pub(super) fn read<K, T>(
    kind: Kind,
    source: SourceId,
    text: &str,
    known: impl FnOnce(&Header) -> Read<K>,
    row: impl Fn(&K, &Row<'_>) -> Read<T>,
) -> Result<(K, Vec<T>), Vec<Diagnostic>> {
    let name = kind.name;
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .from_reader(text.as_bytes());
    let names = match reader.headers() {
        Ok(names) if !names.is_empty() => names.clone(),
        _ => {
            return Err(vec![
                Diagnostic::new(format!("the {name} is empty"))
                    .within(source)
                    .help(format!("it needs a header line and rows, such as {}", kind.example)),
            ]);
        }
    };
    let start = names.position().map_or(0, |p| usize::try_from(p.byte()).unwrap_or(0));
    let columns = names
        .iter()
        .enumerate()
        .map(|(i, name)| (name.trim_start_matches('\u{feff}').to_ascii_lowercase(), i))
        .collect();
    let header = Header { columns, span: Span::new(source, line_at(text, start)) };
    let known = known(&header).map_err(|problem| vec![*problem])?;

    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    for record in reader.records() {
        if errors.len() >= MAX_ERRORS {
            break;
        }
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let problem = Diagnostic::new(format!("the {name} is not CSV: {error}"));
                errors.push(problem.within(source));
                break;
            }
        };
        let start = record.position().map_or(0, |p| usize::try_from(p.byte()).unwrap_or(0));
        if record.iter().skip(names.len()).any(|field| !field.is_empty()) {
            let label = format!("{} fields for {} columns", record.len(), names.len());
            errors.push(
                Diagnostic::new(format!("a row of the {name} has more fields than columns"))
                    .at(Span::new(source, line_at(text, start)), label)
                    .help("write numbers without separators, and text that holds commas in quotes"),
            );
            continue;
        }
        match row(&known, &Row { kind, source, text, start, header: &header, record: &record }) {
            Ok(read) => rows.push(read),
            Err(error) => errors.push(*error),
        }
    }
    if errors.is_empty() && rows.is_empty() {
        errors.push(
            Diagnostic::new(format!("the {name} has no rows"))
                .within(source)
                .help("the header is there and nothing below it; is the file complete?"),
        );
    }
    if errors.is_empty() { Ok((known, rows)) } else { Err(errors) }
}

impl Row<'_> {
    /// The field, if the column is there and something stands in it.
    pub fn optional(&self, column: &str) -> Option<&str> {
        self.record.get(*self.header.columns.get(column)?).filter(|field| !field.is_empty())
    }

    pub fn text(&self, column: &str) -> Read<&str> {
        self.optional(column).ok_or_else(|| {
            let help = "each row needs all columns of the header; is the file complete?";
            self.fault(column, "nothing here", help)
        })
    }

    /// A number above zero; `none` says what zero would be, `help` how it is written.
    pub fn positive(&self, column: &str, none: &str, help: &str) -> Read<f64> {
        match self.text(column)?.parse::<f64>() {
            Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
            Ok(_) => Err(self.fault(column, none, "it must be above zero")),
            Err(_) => Err(self.fault(column, "not a plain number", help)),
        }
    }

    pub fn count(&self, column: &str, least: u64) -> Read<u64> {
        match self.text(column)?.parse::<u64>() {
            Ok(count) if count >= least && count <= 1 << 48 => Ok(count),
            _ => Err(self.fault(
                column,
                "not a count",
                &format!("write a whole number from {least} on"),
            )),
        }
    }

    pub fn count_u32(&self, column: &str, least: u64) -> Read<u32> {
        let help = format!("write a whole number from {least} on");
        let count = self.count(column, least)?;
        u32::try_from(count).map_err(|_| self.fault(column, "not a count", &help))
    }

    /// Where the column's field stands in the text; the whole line if it is not there.
    pub fn span(&self, column: &str) -> Span {
        let line = line_at(self.text, self.start);
        let index = self.header.columns.get(column).copied().unwrap_or(0);
        let mut begin = line.start;
        let mut range = line.clone();
        for (i, field) in self.text[line].split(',').enumerate() {
            if i == index {
                range = begin..begin + field.len();
            }
            begin += field.len() + 1;
        }
        Span::new(self.source, range)
    }

    pub fn fault(&self, column: &str, label: &str, help: &str) -> Box<Diagnostic> {
        let title = format!("`{column}` of the {} cannot be read", self.kind.name);
        Box::new(Diagnostic::new(title).at(self.span(column), label).help(help))
    }
}

fn line_at(text: &str, start: usize) -> Range<usize> {
    let start = floor_boundary(text, start);
    let skipped = text[start..].len() - text[start..].trim_start_matches(['\n', '\r']).len();
    let start = start + skipped;
    let line = text[start..].split(['\n', '\r']).next().unwrap_or("");
    start..start + line.len()
}

fn floor_boundary(text: &str, byte: usize) -> usize {
    let mut byte = byte.min(text.len());
    while !text.is_char_boundary(byte) {
        byte -= 1;
    }
    byte
}
