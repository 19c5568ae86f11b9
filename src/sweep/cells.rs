//! A row of the table, taken apart.

/// The cells of one row after the other. A parser is as long to make as fifty rows are to read, so it
/// is kept.
#[derive(Debug)]
pub struct Cells {
    parser: csv_core::Reader,
    text: Vec<u8>,
    /// Where in `text` each cell ends.
    ends: Vec<usize>,
}

impl Default for Cells {
    fn default() -> Self {
        // Its own default has no automaton.
        Self { parser: csv_core::Reader::new(), text: Vec::new(), ends: Vec::new() }
    }
}

impl Cells {
    /// Whether there is a row in the line.
    pub fn read(&mut self, line: &[u8]) -> bool {
        self.parser.reset();
        // Cells are no longer than what they were written as, and no more than its separators.
        self.text.resize(line.len(), 0);
        self.ends.resize(line.len() + 1, 0);
        let (_, _, written, cells) = self.parser.read_record(line, &mut self.text, &mut self.ends);
        // An end of the input ends the row.
        let (text, ends) = (&mut self.text[written..], &mut self.ends[cells..]);
        let (result, _, _, last) = self.parser.read_record(&[], text, ends);
        self.ends.truncate(cells + last);
        matches!(result, csv_core::ReadRecordResult::Record)
    }

    /// Empty where there is no such cell, or no text in it.
    pub fn get(&self, cell: usize) -> &str {
        let end = self.ends.get(cell).copied().unwrap_or(0);
        let start = cell.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let bytes = self.text.get(start.unwrap_or(0)..end).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_row_has_no_cells() {
        let mut cells = Cells::default();
        assert!(!cells.read(b""));
        assert_eq!(cells.get(0), "");
    }

    proptest! {
        #[test]
        fn a_row_is_read_back_as_it_was_written(
            rows in prop::collection::vec(prop::collection::vec("[a-z0-9,\" é]{0,9}", 2..9), 1..4)
        ) {
            let mut cells = Cells::default();
            for row in rows {
                let mut writer = csv::Writer::from_writer(Vec::new());
                writer.write_record(&row).unwrap();
                let line = writer.into_inner().unwrap();
                let line = line.strip_suffix(b"\n").unwrap();
                prop_assert!(cells.read(line));
                for (at, cell) in row.iter().enumerate() {
                    prop_assert_eq!(cells.get(at), cell);
                }
                prop_assert_eq!(cells.get(row.len()), "");
            }
        }
    }
}
