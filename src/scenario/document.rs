//! TOML text -> a tree whose every key and value knows where it was written.
//!
//! The parser recovers from errors, so that one run reports all of them.

use std::ops::Range;

use toml::de::{DeInteger, DeTable, DeValue};

use super::diagnostic::{Diagnostic, SourceId, Span};

/// A value with the place of its key and its own.
#[derive(Clone, Debug)]
pub struct Node {
    pub key_span: Span,
    pub span: Span,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// No key of a scenario takes a date; kept so that the message can say what was found.
    Datetime,
    Array(Vec<Node>),
    Table(Table),
}

/// Entries in the order of the text as far as the parser keeps it; keys are unique.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub entries: Vec<(String, Node)>,
}

impl Table {
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.iter_mut().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    pub fn insert(&mut self, key: &str, node: Node) {
        match self.get_mut(key) {
            Some(slot) => *slot = node,
            None => self.entries.push((key.to_owned(), node)),
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.entries.retain(|(name, _)| name != key);
    }

    /// The node at a dotted path of bare keys.
    pub fn find(&self, path: &str) -> Option<&Node> {
        let (first, rest) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
        let node = self.get(first)?;
        match (rest, &node.value) {
            (None, _) => Some(node),
            (Some(rest), Value::Table(table)) => table.find(rest),
            (Some(_), _) => None,
        }
    }

    /// Removes the node at a dotted path of bare keys, if it is there.
    pub fn remove_path(&mut self, path: &str) {
        match path.split_once('.') {
            None => self.remove(path),
            Some((first, rest)) => {
                if let Some(Node { value: Value::Table(table), .. }) = self.get_mut(first) {
                    table.remove_path(rest);
                }
            }
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        let entries = self.entries.iter().map(|(key, node)| (key.clone(), node.value.to_json()));
        serde_json::Value::Object(entries.collect())
    }
}

impl Value {
    pub const fn as_table_mut(&mut self) -> Option<&mut Table> {
        match self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    /// What the value is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number with a fraction",
            Self::Boolean(_) => "true or false",
            Self::Datetime => "a date",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// Dates and numbers that are not finite become null, which no key accepts.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::String(text) => text.as_str().into(),
            Self::Integer(n) => (*n).into(),
            Self::Float(x) => (*x).into(),
            Self::Boolean(b) => (*b).into(),
            Self::Datetime => serde_json::Value::Null,
            Self::Array(items) => items.iter().map(|node| node.value.to_json()).collect(),
            Self::Table(table) => table.to_json(),
        }
    }
}

/// Parses a whole file. What could be read comes back beside the errors.
pub fn parse(source: SourceId, text: &str) -> (Table, Vec<Diagnostic>) {
    let mut reader = Reader { source, shift: 0, errors: Vec::new() };
    let (document, errors) = DeTable::parse_recoverable(text);
    let table = reader.table(document.get_ref());
    reader.errors.extend(errors.iter().map(|error| syntax_error(source, text, 0, error)));
    (table, reader.errors)
}

/// Parses one value that stands at byte `at` of the text of `source`.
pub fn parse_value(source: SourceId, at: usize, text: &str) -> Result<Value, Vec<Diagnostic>> {
    let mut reader = Reader { source, shift: at, errors: Vec::new() };
    let (value, errors) = DeValue::parse_recoverable(text);
    let value = reader.value(value.get_ref(), at..at + text.len());
    reader.errors.extend(errors.iter().map(|error| syntax_error(source, text, at, error)));
    if reader.errors.is_empty() { Ok(value) } else { Err(reader.errors) }
}

fn syntax_error(source: SourceId, text: &str, shift: usize, error: &toml::de::Error) -> Diagnostic {
    let message = error.message();
    let range = error.span().unwrap_or(text.len()..text.len());
    // At the end of a file the caret belongs behind the last thing written.
    let written = text.trim_end().len();
    let start = range.start.min(written);
    let range = start..range.end.max(start);
    let unquoted = message.contains("must be quoted");
    let span = Span::new(source, shift + range.start..shift + range.end);
    let mut diagnostic = Diagnostic::new("this is not TOML").at(span.clone(), message);
    if start == written && written > 0 {
        diagnostic = diagnostic.help("the text ends here: is the file complete?");
    } else if unquoted {
        let quoted = format!("\"{}\"", text.get(range).unwrap_or(""));
        diagnostic = diagnostic.suggest("text stands in quotes", span, quoted);
    }
    diagnostic
}

struct Reader {
    source: SourceId,
    shift: usize,
    errors: Vec<Diagnostic>,
}

impl Reader {
    fn span(&self, range: Range<usize>) -> Span {
        Span::new(self.source, range.start + self.shift..range.end + self.shift)
    }

    fn table(&mut self, table: &DeTable<'_>) -> Table {
        let mut entries: Vec<(String, Node)> = table
            .iter()
            .map(|(key, value)| {
                let node = Node {
                    key_span: self.span(key.span()),
                    span: self.span(value.span()),
                    value: self.value(value.get_ref(), value.span()),
                };
                (key.get_ref().to_string(), node)
            })
            .collect();
        // The parser sorts keys; messages follow the text.
        entries.sort_by_key(|(_, node)| node.key_span.range.start);
        Table { entries }
    }

    fn value(&mut self, value: &DeValue<'_>, range: Range<usize>) -> Value {
        match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(n) => match integer(n) {
                Some(n) => Value::Integer(n),
                None => {
                    let span = self.span(range);
                    self.errors
                        .push(Diagnostic::new("this number is too large").at(span, "over 64 bits"));
                    Value::Integer(0)
                }
            },
            // The parser has checked the form; what a float cannot hold becomes infinite and is
            // refused with the key that it belongs to.
            DeValue::Float(x) => Value::Float(x.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(b) => Value::Boolean(*b),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| {
                        let span = self.span(item.span());
                        let value = self.value(item.get_ref(), item.span());
                        Node { key_span: span.clone(), span, value }
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }
}

fn integer(n: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(n.as_str(), n.radix()).ok()
}
