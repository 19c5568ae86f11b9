//! Rows of named columns, shown as a table, JSON or CSV: what `list` prints, and memory plans.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value};

use super::csv::{field, write_row};
use super::style;

/// A table whose cells keep their type until they are shown.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    columns: Vec<Column>,
    rows: Vec<Vec<Value>>,
}

#[derive(Clone, Debug)]
struct Column {
    /// The key in JSON and CSV.
    key: &'static str,
    /// The heading for people.
    heading: &'static str,
    numeric: bool,
}

impl Listing {
    /// Columns as (key, heading); numeric columns are told by their cells.
    pub fn new(columns: &[(&'static str, &'static str)]) -> Self {
        let columns =
            columns.iter().map(|&(key, heading)| Column { key, heading, numeric: false }).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub fn push(&mut self, cells: Vec<Value>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        for (column, cell) in self.columns.iter_mut().zip(&cells) {
            column.numeric |= cell.is_number();
        }
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn to_table(&self) -> String {
        let mut table = plain_table();
        table.set_header(self.columns.iter().map(|column| column.heading));
        for row in &self.rows {
            table.add_row(row.iter().map(text_for_people));
        }
        for (i, column) in self.columns.iter().enumerate() {
            let alignment = if column.numeric { CellAlignment::Right } else { CellAlignment::Left };
            let column = table.column_mut(i).expect("as many columns as were declared");
            column.set_cell_alignment(alignment);
            column.set_padding((0, 2));
        }
        tidy(&table)
    }

    /// An array of objects.
    pub fn to_json(&self) -> Vec<u8> {
        let objects: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let members = self.columns.iter().zip(row);
                members.map(|(c, cell)| (c.key.to_owned(), cell.clone())).collect::<Map<_, _>>()
            })
            .map(Value::Object)
            .collect();
        super::json::pretty(&Value::Array(objects))
    }

    pub fn to_csv(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_row(&mut bytes, self.columns.iter().map(|column| column.key.to_owned()));
        for row in &self.rows {
            write_row(&mut bytes, row.iter().map(field));
        }
        bytes
    }
}

fn text_for_people(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => match number.as_f64() {
            Some(value) if !number.is_f64() => style::count(value),
            Some(value) => plain_decimal(value),
            None => number.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text_for_people).collect::<Vec<_>>().join(", "),
        Value::Object(_) => value.to_string(),
    }
}

/// At most four decimals, none of them a trailing zero.
fn plain_decimal(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A table without lines, as wide as it needs to be.
pub(super) fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// A table's text without blanks at the ends of its lines, ending in a newline.
pub(super) fn tidy(table: &Table) -> String {
    table.lines().flat_map(|line| [line.trim_end().to_owned(), "\n".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing() -> Listing {
        let mut listing =
            Listing::new(&[("name", "NAME"), ("memory_gib", "GiB"), ("price", "USD/h")]);
        listing.push(vec!["a10g".into(), 22.0.into(), Value::Null]);
        listing.push(vec!["h100, sxm".into(), 79.65.into(), 1234.into()]);
        listing
    }

    #[test]
    fn tables_align_numbers_to_the_right() {
        let want = " NAME        GiB  USD/h\n a10g         22      -\n h100, sxm  79.65  1,234\n";
        let table = listing().to_table();
        let squeeze = |text: &str| {
            text.lines()
                .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        assert_eq!(squeeze(&table), squeeze(want));
        let ends: Vec<_> = table.lines().map(str::len).collect();
        assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }

    #[test]
    fn json_and_csv_keep_the_types() {
        let json: Value = serde_json::from_slice(&listing().to_json()).unwrap();
        assert_eq!(json[1]["price"], 1234);
        assert!(json[0]["price"].is_null());
        let csv = String::from_utf8(listing().to_csv()).unwrap();
        assert_eq!(csv, "name,memory_gib,price\na10g,22.0,\n\"h100, sxm\",79.65,1234\n");
    }
}
