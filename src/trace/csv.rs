//! Rows of a CSV, its columns found by their names.

use std::ops::Range;

use super::{RawRow, RawTime, RowFault, TimeUnit, hash};

/// Where a row has what.
#[derive(Debug)]
pub(super) struct Columns {
    names: Vec<String>,
    time: usize,
    /// The unit of a time that is a number, and whether it counts from the start of the trace.
    unit: TimeUnit,
    absolute: bool,
    input: usize,
    output: usize,
    session: Option<usize>,
    prefix: Option<(usize, usize)>,
    priority: Option<usize>,
    tenant: Option<usize>,
}

/// Names of columns, in lower case: ours; Azure LLM inference traces of 2023 and 2024; BurstGPT, of
/// whose layouts the second has more columns in front; Vidur.
const TIME: [&str; 3] = ["arrival_s", "timestamp", "arrived_at"];
const INPUT: [&str; 5] =
    ["input_tokens", "contexttokens", "request tokens", "input_length", "num_prefill_tokens"];
const OUTPUT: [&str; 5] =
    ["output_tokens", "generatedtokens", "response tokens", "output_length", "num_decode_tokens"];

impl Columns {
    pub(super) fn find(header: &str, unit: Option<TimeUnit>) -> Result<Self, RowFault> {
        let names: Vec<String> =
            fields(header).map(|range| header[range].trim().to_lowercase()).collect();
        let one = |known: &[&str]| {
            known.iter().find_map(|name| names.iter().position(|column| column == name))
        };
        let twice = |column: usize| names[..column].iter().any(|name| *name == names[column]);
        if let Some((column, range)) = fields(header)
            .enumerate()
            .find(|(column, _)| !names[*column].is_empty() && twice(*column))
        {
            return Err(RowFault::new(
                format!("the trace has two columns `{}`", names[column]),
                range,
                "the second",
                "give each column a name of its own",
            ));
        }
        let missing = |what: &str, known: &[&str]| {
            RowFault::new(
                format!("the trace has no column of {what}"),
                0..header.len(),
                "columns found",
                format!("name it {} (known too: {})", known[0], known[1..].join(", ")),
            )
        };
        let (Some(input), Some(output)) = (one(&INPUT), one(&OUTPUT)) else {
            return Err(if one(&INPUT).is_none() {
                missing("prompt lengths", &INPUT)
            } else {
                missing("output lengths", &OUTPUT)
            });
        };
        let Some(time) = one(&TIME) else {
            let mut fault = missing("times", &TIME);
            fault.help.push_str(
                "; lengths alone are a data set: workload.lengths.dataset with [workload.poisson]",
            );
            return Err(fault);
        };
        let prefix = match (one(&["prefix"]), one(&["prefix_tokens"])) {
            (Some(id), Some(tokens)) => Some((id, tokens)),
            (Some(_), None) => {
                return Err(missing("the lengths of the prefixes", &["prefix_tokens"]));
            }
            (None, _) => None,
        };
        Ok(Self {
            time,
            unit: unit.unwrap_or(TimeUnit::Seconds),
            absolute: names[time] == "arrival_s",
            input,
            output,
            // BurstGPT has a `Session ID`, but does not say whether prompts hold the history.
            session: one(&["session", "session_id"]),
            prefix,
            priority: one(&["priority"]),
            tenant: one(&["tenant"]),
            names,
        })
    }

    pub(super) fn row(&self, line: &str) -> Result<RawRow, RowFault> {
        let fields: Vec<Range<usize>> = fields(line).collect();
        // Thousands set off by commas would shift all that follows.
        let beyond = fields.iter().skip(self.names.len());
        if let Some(extra) = beyond.into_iter().find(|&r| !line[r.clone()].trim().is_empty()) {
            return Err(RowFault::new(
                "a row has more fields than there are columns",
                extra.start..line.len(),
                format!("{} fields for {} columns", fields.len(), self.names.len()),
                "write numbers without separators, and text that holds commas in quotes",
            ));
        }
        let field = |column: usize| -> Result<(&str, Range<usize>), RowFault> {
            let Some(range) = fields.get(column).cloned() else {
                return Err(RowFault::new(
                    format!("a row has no `{}`", self.names[column]),
                    0..line.len(),
                    format!("{} of {} columns", fields.len(), self.names.len()),
                    "each row needs all columns of the header; is the file complete?",
                ));
            };
            let text = &line[range.clone()];
            let start = range.start + text.len() - text.trim_start().len();
            let text = text.trim();
            if text.is_empty() {
                return Err(RowFault::new(
                    format!("a row has no `{}`", self.names[column]),
                    range.start..(range.end.max(range.start + 1)).min(line.len()),
                    "nothing",
                    "the trace has a hole here: fill it, or take the row out",
                ));
            }
            Ok((text, start..start + text.len()))
        };
        let refused = |what: &str, (text, range): (&str, Range<usize>), help: &str| {
            let shown: String = text.chars().take(40).collect();
            RowFault::new(
                format!("`{what}` cannot be read"),
                range,
                format!("this is {shown:?}"),
                help,
            )
        };
        let tokens = |column: usize| -> Result<u64, RowFault> {
            let (text, range) = field(column)?;
            // Data frames with holes write whole numbers as 12.0.
            let number = text.parse::<u64>().ok().or_else(|| {
                let x = text.parse::<f64>().ok()?;
                (x >= 0.0 && x.fract() == 0.0 && x < 1e15).then_some(x as u64)
            });
            number.ok_or_else(|| {
                let help = "write a whole number of tokens";
                refused(&self.names[column], (text, range), help)
            })
        };
        let number = |column: usize, most: u64| -> Result<u64, RowFault> {
            let found = tokens(column)?;
            let help = "write a smaller number";
            let (text, range) = field(column)?;
            if found <= most {
                Ok(found)
            } else {
                Err(refused(&self.names[column], (text, range), help))
            }
        };
        // An optional column may be empty.
        let filled = |column: Option<usize>| {
            column.filter(|&c| {
                fields.get(c).is_some_and(|range| !line[range.clone()].trim().is_empty())
            })
        };
        let (text, time_range) = field(self.time)?;
        let time = match text.parse::<f64>() {
            Ok(number) if self.absolute => RawTime::Since(number * self.unit.nanos()),
            Ok(number) if number >= 0.0 && number * self.unit.nanos() < 9e18 => {
                RawTime::OnClock((number * self.unit.nanos()).round() as i128)
            }
            Ok(number) => RawTime::Since(number * self.unit.nanos()),
            Err(_) => RawTime::OnClock(date(text).ok_or_else(|| {
                let help = "write seconds such as 12.5, or a time such as 2023-11-16 18:15:46.68";
                refused(&self.names[self.time], (text, time_range.clone()), help)
            })?),
        };
        let mut row = RawRow {
            time,
            time_range,
            input: tokens(self.input)?,
            output: tokens(self.output)?,
            ..RawRow::default()
        };
        if let Some(column) = filled(self.session) {
            row.session = Some(hash(field(column)?.0));
        }
        if let Some((id, tokens)) = self.prefix
            && filled(Some(id)).is_some()
        {
            row.prefix = Some(hash(field(id)?.0));
            row.prefix_tokens = number(tokens, u64::from(u32::MAX))? as u32;
        }
        if let Some(column) = filled(self.priority) {
            let (text, range) = field(column)?;
            row.priority = text.parse().map_err(|_| {
                refused("priority", (text, range), "write a whole number; smaller is more urgent")
            })?;
        }
        if let Some(column) = filled(self.tenant) {
            row.tenant = Some(field(column)?.0.to_owned());
        }
        Ok(row)
    }
}

/// The fields of a line, quotes left out. A field in quotes may hold commas, and no line ends.
fn fields(line: &str) -> impl Iterator<Item = Range<usize>> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let start = next?;
        let rest = &line[start..];
        let quoted = rest.trim_start().strip_prefix('"');
        if let Some(inner) = quoted
            && let Some(length) = inner.find('"')
        {
            let begin = line.len() - inner.len();
            let end = begin + length;
            next = line[end..].find(',').map(|comma| end + comma + 1);
            return Some(begin..end);
        }
        let end = rest.find(',').map_or(line.len(), |comma| start + comma);
        next = (end < line.len()).then_some(end + 1);
        Some(start..end)
    })
}

/// Nanoseconds of a date and time since some day; with or without an offset from UTC, which a file
/// has in all rows or in none.
pub(super) fn date(text: &str) -> Option<i128> {
    let when: toml::value::Datetime = text.parse().ok()?;
    let (date, time) = (when.date?, when.time?);
    let offset = match when.offset {
        Some(toml::value::Offset::Custom { minutes }) => i128::from(minutes),
        Some(toml::value::Offset::Z) | None => 0,
    };
    // Days since 0000-03-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let (mut year, month) = (i128::from(date.year), i128::from(date.month));
    if month <= 2 {
        year -= 1;
    }
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + i128::from(date.day) - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    let second = time.second.unwrap_or(0);
    let seconds = i128::from(time.hour) * 3600 + i128::from(time.minute) * 60 + i128::from(second);
    let nanos = i128::from(time.nanosecond.unwrap_or(0));
    Some((days * 86_400 + seconds - offset * 60) * 1_000_000_000 + nanos)
}
