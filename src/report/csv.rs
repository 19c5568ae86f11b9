//! CSV: one header, one row per thing.

use serde_json::Value;

use crate::metrics::Summary;

/// A summary as one header and one row; nested keys are joined by dots (`ttft_ms.mean`). Notes and
/// intervals stay in the JSON, where their number does not make the columns differ from run to run.
pub fn summary(name: &str, summary: &Summary) -> Vec<u8> {
    let mut value = serde_json::to_value(summary).expect("a summary has only string keys");
    if let Some(object) = value.as_object_mut() {
        object.shift_remove("notes");
        object.shift_remove("intervals");
        object.shift_remove("prediction_intervals");
    }
    let mut leaves = vec![("scenario".to_owned(), name.to_owned())];
    flatten("", &value, &mut leaves);
    let (keys, cells): (Vec<_>, Vec<_>) = leaves.into_iter().unzip();
    let mut bytes = Vec::new();
    write_row(&mut bytes, keys.into_iter());
    write_row(&mut bytes, cells.into_iter());
    bytes
}

fn flatten(prefix: &str, value: &Value, leaves: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&path, member, leaves);
            }
        }
        leaf => leaves.push((prefix.to_owned(), field(leaf))),
    }
}

/// A value as a field: nothing for null, text without JSON's quotes.
pub fn field(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(field).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// Appends a row, quoting as RFC 4180 asks.
pub fn write_row(bytes: &mut Vec<u8>, fields: impl Iterator<Item = String>) {
    for (i, text) in fields.enumerate() {
        if i > 0 {
            bytes.push(b',');
        }
        if text.contains([',', '"', '\n', '\r']) {
            bytes.push(b'"');
            bytes.extend_from_slice(text.replace('"', "\"\"").as_bytes());
            bytes.push(b'"');
        } else {
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_one_header_and_one_row() {
        let bytes = summary("7b, ten users", &Summary::default());
        let mut reader = ::csv::Reader::from_reader(bytes.as_slice());
        let header = reader.headers().unwrap().clone();
        let rows: Vec<_> = reader.records().collect::<Result<_, _>>().unwrap();
        assert_eq!(rows.len(), 1);
        let cell = |key: &str| &rows[0][header.iter().position(|h| h == key).unwrap()];
        assert_eq!((cell("scenario"), cell("completed")), ("7b, ten users", "0"));
        assert_eq!(cell("ttft_ms.mean"), "");
    }

    #[test]
    fn quotes_are_doubled() {
        let mut bytes = Vec::new();
        write_row(&mut bytes, ["a \"b\"".to_owned(), "c".to_owned()].into_iter());
        assert_eq!(bytes, b"\"a \"\"b\"\"\",c\n");
    }
}
