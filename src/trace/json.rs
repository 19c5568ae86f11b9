//! Rows of a JSON Lines file: Mooncake's, and our own with the names of the CSV columns.

use serde::Deserialize;
use serde_json::Value;

use super::{RawRow, RawTime, RowFault, TimeUnit, csv, hash};

/// One line. `timestamp` is in milliseconds where it is a number (Mooncake); `arrival_s` in seconds.
#[derive(Debug, Deserialize)]
struct JsonRow {
    arrival_s: Option<f64>,
    timestamp: Option<Value>,
    #[serde(alias = "input_length")]
    input_tokens: Option<u64>,
    #[serde(alias = "output_length")]
    output_tokens: Option<u64>,
    #[serde(alias = "session_id")]
    session: Option<Value>,
    hash_ids: Option<Vec<u64>>,
    prefix: Option<Value>,
    prefix_tokens: Option<u32>,
    priority: Option<i32>,
    tenant: Option<String>,
}

pub(super) fn row(line: &str, unit: Option<TimeUnit>) -> Result<RawRow, RowFault> {
    let row: JsonRow = serde_json::from_str(line).map_err(|error| {
        let at = error.column().saturating_sub(1).min(line.len().saturating_sub(1));
        let message = error.to_string();
        // The line is shown with its own number.
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        let help = "each line is one object with arrival_s, input_tokens and output_tokens, or \
                    with Mooncake's timestamp, input_length, output_length and hash_ids";
        RowFault::new("a row cannot be read", at..at + 1, message, help)
    })?;
    let whole = 0..line.len();
    let missing = |name: &str, also: &str| {
        let help = format!("each line needs it ({also} in Mooncake's files)");
        RowFault::new(format!("a row has no `{name}`"), whole.clone(), "not in here", help)
    };
    let (key, time) = match (row.arrival_s, &row.timestamp) {
        (Some(seconds), _) => {
            ("arrival_s", RawTime::Since(seconds * unit.unwrap_or(TimeUnit::Seconds).nanos()))
        }
        (None, Some(Value::Number(number))) => {
            let ns = number.as_f64().unwrap_or(f64::NAN)
                * unit.unwrap_or(TimeUnit::Milliseconds).nanos();
            let on_clock = (0.0..9e18).contains(&ns);
            let time =
                if on_clock { RawTime::OnClock(ns.round() as i128) } else { RawTime::Since(ns) };
            ("timestamp", time)
        }
        (None, Some(Value::String(text))) => {
            let ns = csv::date(text).ok_or_else(|| {
                let help = "write a number, or a time such as 2023-11-16 18:15:46.68";
                let range = find(line, "timestamp");
                RowFault::new("`timestamp` cannot be read", range, "no time", help)
            })?;
            ("timestamp", RawTime::OnClock(ns))
        }
        _ => return Err(missing("arrival_s", "timestamp")),
    };
    let name = |value: &Value| match value {
        Value::String(text) => hash(text),
        other => hash(&other.to_string()),
    };
    let prefix = row.prefix.as_ref().filter(|value| !value.is_null()).map(name);
    if prefix.is_some() && row.prefix_tokens.is_none() {
        let help = "say how many tokens of the prompt are the prefix";
        let range = find(line, "prefix");
        return Err(RowFault::new(
            "a prefix has no `prefix_tokens`",
            range,
            "how long is it?",
            help,
        ));
    }
    Ok(RawRow {
        time,
        time_range: find(line, key),
        input: row.input_tokens.ok_or_else(|| missing("input_tokens", "input_length"))?,
        output: row.output_tokens.ok_or_else(|| missing("output_tokens", "output_length"))?,
        session: row.session.as_ref().filter(|value| !value.is_null()).map(name),
        prefix,
        prefix_tokens: row.prefix_tokens.unwrap_or(0),
        blocks: row.hash_ids.unwrap_or_default(),
        priority: row.priority.unwrap_or(0),
        tenant: row.tenant,
    })
}

/// Where a key's value stands, or the key, or the line.
pub(super) fn find(line: &str, key: &str) -> std::ops::Range<usize> {
    let quoted = format!("\"{key}\"");
    let Some(at) = line.find(&quoted) else { return 0..line.len() };
    let after = &line[at + quoted.len()..];
    let value = after.trim_start_matches([' ', ':']);
    let start = line.len() - value.len();
    let end = start + value.find([',', '}']).unwrap_or(value.len());
    start..end.max(start + 1).min(line.len())
}

const AS_LENGTHS: &str =
    "use it as workload.lengths.dataset, with arrivals such as [workload.poisson]";

/// The first line of a data set that is no trace.
pub(super) fn not_a_trace(line: &str) -> Option<RowFault> {
    let data_set = ["\"dataset\"", "\"tok_input_length\"", "\"metadata\""];
    let lone = line.trim() == "{";
    (lone || data_set.iter().any(|key| line.contains(key))).then(|| {
        let range = 0..line.len().min(80);
        RowFault::new("this is a data set and no trace", range, "it has no times", AS_LENGTHS)
    })
}

/// A JSON list, which ShareGPT's files are.
pub(super) fn a_list() -> RowFault {
    RowFault::new("this is a list and no trace", 0..1, "no rows with times", AS_LENGTHS)
}
