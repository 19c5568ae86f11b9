//! Lists of prompt and output lengths: text -> pairs, or the lines that are wrong.

mod json;

use std::ops::Range;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::LengthSpec;
use super::diagnostic::{Diagnostic, SourceId, Span};
use crate::embedded::{self, DATASETS};
use crate::workload::{LengthPair, LengthSource};

/// Names of the embedded data sets.
pub fn dataset_names() -> impl Iterator<Item = &'static str> {
    DATASETS.iter().map(|(name, _)| *name)
}

/// An embedded data set.
pub fn dataset(name: &str) -> Option<Arc<[LengthPair]>> {
    let pairs: Vec<(u32, u32)> =
        embedded::find(DATASETS, name)?.read().expect("the build has made pairs of it");
    Some(pairs.into_iter().map(|(input, output)| LengthPair { input, output }).collect())
}

/// Pairs of columns that hold prompt and output lengths, by the tools that write them: this
/// project, our count of llm-load-test's OpenOrca subset (outputs there are forced to
/// `max_new_tokens`), llm-load-test's JSON fields of 2023, and those of 2024, Mooncake, Azure, BurstGPT.
const COLUMNS: [(&str, &str); 7] = [
    ("input_tokens", "output_tokens"),
    ("llama2_input_tokens", "max_new_tokens"),
    ("prompt_len", "max_new_tokens"),
    ("tok_input_length", "tok_output_length"),
    ("input_length", "output_length"),
    ("ContextTokens", "GeneratedTokens"),
    ("Request tokens", "Response tokens"),
];

/// Longest prompt or output; the limit of a model's positions (`max_position_embeddings`).
pub const MAX_TOKENS: u32 = 1 << 30;

/// Reports beyond this many lines are noise: a wrong file is wrong everywhere.
const MAX_ERRORS: usize = 10;

/// Pairs, and what is to be said of how they were made.
pub type Read = Result<(Arc<[LengthPair]>, Option<String>), Vec<Diagnostic>>;

/// Reads a CSV with a header line, or JSON; a remark if the lengths rest on an assumption.
pub fn parse(source: SourceId, text: &str) -> Read {
    if text.trim_start_matches('\u{feff}').trim_start().starts_with(['[', '{']) {
        return json::parse(source, text);
    }
    csv(source, text).map(|pairs| (pairs, None))
}

/// Reads a CSV with a header line. `#` starts a comment line.
fn csv(source: SourceId, text: &str) -> Result<Arc<[LengthPair]>, Vec<Diagnostic>> {
    let mut reader = ::csv::ReaderBuilder::new()
        .flexible(true)
        .trim(::csv::Trim::All)
        .comment(Some(b'#'))
        .from_reader(text.as_bytes());
    let at = |range: Range<usize>| Span::new(source, range);
    let whole_line = |start: usize| {
        let line = text[start..].split(['\n', '\r']).next().unwrap_or("");
        at(start..start + line.len())
    };

    let header =
        match reader.headers() {
            Ok(header) if !header.is_empty() => header.clone(),
            _ => {
                return Err(vec![Diagnostic::new("the data set is empty").within(source).help(
                    "it needs a header line input_tokens,output_tokens and at least one row",
                )]);
            }
        };
    let column = |name: &str| header.iter().position(|field| field.eq_ignore_ascii_case(name));
    let Some((input, output)) =
        COLUMNS.iter().find_map(|(input, output)| Some((column(input)?, column(output)?)))
    else {
        let start = header.position().map_or(0, |p| usize::try_from(p.byte()).unwrap_or(0));
        let start = start.min(text.len());
        let start =
            start + text[start..].len() - text[start..].trim_start_matches('\u{feff}').len();
        let known = COLUMNS.map(|(input, output)| format!("{input},{output}")).join("; ");
        return Err(vec![
            Diagnostic::new("the data set has no columns of lengths")
                .at(whole_line(start), "columns found")
                .help(format!("name the columns input_tokens,output_tokens (also known: {known})")),
        ]);
    };

    let mut pairs = Vec::new();
    let mut errors: Vec<Diagnostic> = Vec::new();
    for record in reader.records() {
        if errors.len() >= MAX_ERRORS {
            if let Some(last) = errors.last_mut() {
                last.notes.push("rows after this one were not read".into());
            }
            break;
        }
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                errors.push(
                    Diagnostic::new(format!("the data set is not CSV: {error}")).within(source),
                );
                break;
            }
        };
        let start = record.position().map_or(0, |p| usize::try_from(p.byte()).unwrap_or(0));
        let start = skip_blank(text, start);
        if record.iter().skip(header.len()).any(|field| !field.is_empty()) {
            errors.push(
                Diagnostic::new("a row has more fields than there are columns")
                    .at(
                        whole_line(start),
                        format!("{} fields for {} columns", record.len(), header.len()),
                    )
                    .help("write numbers without separators, and text that holds commas in quotes"),
            );
            continue;
        }
        let tokens = |index: usize, errors: &mut Vec<Diagnostic>| {
            let name = &header[index];
            let Some(field) = record.get(index) else {
                errors.push(
                    Diagnostic::new(format!("a row has no `{name}`"))
                        .at(
                            whole_line(start),
                            format!("{} of {} columns", record.len(), header.len()),
                        )
                        .help("each row needs all columns of the header; is the file complete?"),
                );
                return None;
            };
            match field.parse::<u64>() {
                Ok(n) if (1..=u64::from(MAX_TOKENS)).contains(&n) => Some(n as u32),
                parsed => {
                    let label = match parsed {
                        Ok(0) => "zero tokens".into(),
                        Ok(_) => "more tokens than any model takes".into(),
                        Err(_) if field.is_empty() => "nothing".into(),
                        Err(_) => format!("{:?} is no whole number", shorten(field)),
                    };
                    errors.push(
                        Diagnostic::new(format!("`{name}` is not a number of tokens"))
                            .at(at(field_range(text, start, index)), label)
                            .help(format!("write a whole number from 1 to {MAX_TOKENS}")),
                    );
                    None
                }
            }
        };
        let (input, output) = (tokens(input, &mut errors), tokens(output, &mut errors));
        if let (Some(input), Some(output)) = (input, output) {
            pairs.push(LengthPair { input, output });
        }
    }
    if errors.is_empty() && pairs.is_empty() {
        errors.push(
            Diagnostic::new("the data set is empty")
                .within(source)
                .note("it has a header line and no rows")
                .help("add at least one row of two numbers"),
        );
    }
    if errors.is_empty() { Ok(pairs.into()) } else { Err(errors) }
}

/// The reader counts blank and comment lines to the record after them.
fn skip_blank(text: &str, start: usize) -> usize {
    let mut start = start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    loop {
        let rest = &text[start..];
        let blank = rest.len() - rest.trim_start_matches(['\n', '\r']).len();
        start += blank;
        match text[start..].strip_prefix('#') {
            Some(comment) => start += 1 + comment.find('\n').unwrap_or(comment.len()),
            None => return start,
        }
    }
}

/// Where field `index` of the record at `start` stands, quotes included; surrounding blanks not.
fn field_range(text: &str, start: usize, index: usize) -> Range<usize> {
    let (mut field, mut begin, mut quoted) = (0, start, false);
    let mut end = text.len();
    for (offset, c) in text[start..].char_indices() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted && field == index => {
                end = start + offset;
                break;
            }
            ',' if !quoted => {
                field += 1;
                begin = start + offset + 1;
            }
            '\n' | '\r' if !quoted => {
                end = start + offset;
                break;
            }
            _ => {}
        }
    }
    let raw = &text[begin.min(end)..end];
    let begin = begin.min(end) + raw.len() - raw.trim_start().len();
    begin..begin + raw.trim().len()
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

impl Serialize for LengthSpec {
    /// A list may have millions of pairs: JSON gets its size and its means.
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        let mut out = ser.serialize_struct("Lengths", 3)?;
        out.serialize_field("name", &self.name)?;
        match &self.source {
            LengthSource::Pairs { pairs, order } => {
                out.serialize_field("pairs", &PairsSummary::of(pairs))?;
                out.serialize_field("order", order)?;
            }
            LengthSource::Drawn { input, output } => {
                out.serialize_field("input", input)?;
                out.serialize_field("output", output)?;
            }
        }
        out.end()
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct PairsSummary {
    count: usize,
    mean_input: f64,
    mean_output: f64,
    max_input: u32,
    max_output: u32,
}

impl PairsSummary {
    fn of(pairs: &[LengthPair]) -> Self {
        let count = pairs.len().max(1) as f64;
        let mean = |get: fn(&LengthPair) -> u32| {
            pairs.iter().map(|pair| f64::from(get(pair))).sum::<f64>() / count
        };
        let max = |get: fn(&LengthPair) -> u32| pairs.iter().map(get).max().unwrap_or(0);
        Self {
            count: pairs.len(),
            mean_input: mean(|pair| pair.input),
            mean_output: mean(|pair| pair.output),
            max_input: max(|pair| pair.input),
            max_output: max(|pair| pair.output),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::diagnostic::{Diagnostics, Sources};
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<(u32, u32)>, String> {
        let mut sources = Sources::default();
        let id = sources.add("lengths.csv", text);
        match parse(id, text) {
            Ok((pairs, _)) => Ok(pairs.iter().map(|pair| (pair.input, pair.output)).collect()),
            Err(list) => Err(Diagnostics::new(sources, list).render(false)),
        }
    }

    #[test]
    fn columns_are_found_by_name_in_any_order() {
        assert_eq!(read("id,output_tokens,input_tokens\na,2,1\n"), Ok(vec![(1, 2)]));
        assert_eq!(read("llama2_input_tokens,max_new_tokens\n313,8\n"), Ok(vec![(313, 8)]));
        assert_eq!(read("\u{feff}Input_Tokens , Output_Tokens\r\n 5 , 6 \r\n"), Ok(vec![(5, 6)]));
        assert_eq!(read("# from a log\ninput_tokens,output_tokens\n\n# x\n5,6"), Ok(vec![(5, 6)]));
    }

    #[test]
    fn the_embedded_openorca_set_is_that_of_the_published_runs() {
        let text = std::fs::read_to_string("scenarios/data/openorca-006.csv").unwrap();
        let pairs = read(&text).unwrap();
        let embedded = dataset("openorca-006").unwrap();
        assert!(embedded.iter().map(|pair| (pair.input, pair.output)).eq(pairs.iter().copied()));
        assert_eq!(pairs.len(), 32);
        assert_eq!(pairs.iter().map(|pair| pair.1).sum::<u32>(), 3093);
        assert_eq!(pairs.iter().map(|pair| pair.0).max(), Some(1688));
        assert_eq!(pairs.iter().map(|pair| pair.1).max(), Some(377));
    }

    #[test]
    fn text_in_a_number_column_is_shown_with_its_line_and_column() {
        let error = read("input_tokens,output_tokens\n10,20\n30,many\n0,5\n").unwrap_err();
        let expected = "\
error: `output_tokens` is not a number of tokens
 --> lengths.csv:3:4
  |
3 | 30,many
  |    ^^^^ \"many\" is no whole number
  |
  = help: write a whole number from 1 to 1073741824

error: `input_tokens` is not a number of tokens
 --> lengths.csv:4:1
  |
4 | 0,5
  | ^ zero tokens
  |
  = help: write a whole number from 1 to 1073741824";
        assert_eq!(error, expected);
    }

    #[test]
    fn the_caret_is_right_behind_quotes_blanks_and_comments() {
        let error = read("input_tokens,note,output_tokens\n# x,y\n\n1,\"a, b\", x \n").unwrap_err();
        assert!(error.contains("lengths.csv:4:11"), "{error}");
    }

    #[test]
    fn empty_and_truncated_files_say_so() {
        assert!(read("").unwrap_err().contains("the data set is empty"));
        assert!(read("input_tokens,output_tokens\n").unwrap_err().contains("no rows"));
        assert!(read("a,b\n1,2\n").unwrap_err().contains("no columns of lengths"));
        let error = read("input_tokens,output_tokens\n1,2\n3").unwrap_err();
        assert!(
            error.contains("a row has no `output_tokens`") && error.contains(":3:1"),
            "{error}"
        );
    }

    #[test]
    fn data_sets_of_the_load_testers_are_read() {
        let v1 = r#"{"dataset": [
            {"id": 0, "prompt_len": 12, "response_len": 5, "input": {"text": "a", "max_new_tokens": 7}},
            {"id": 1, "prompt_len": 30, "input": {"text": "b", "min_new_tokens": 9, "max_new_tokens": 9}}
        ], "metadata": {}, "license": "none"}"#;
        assert_eq!(read(v1), Ok(vec![(12, 7), (30, 9)]));
        let v2 = "{\"name\": \"made up\", \"version\": \"1\"}\n\
            {\"index\": 0, \"question\": \"a\", \"tok_input_length\": 8, \"tok_output_length\": 3}\n";
        assert_eq!(read(v2), Ok(vec![(8, 3)]));
        let error = read(&format!("{v2}{{\"question\": \"b\"}}\n")).unwrap_err();
        assert!(error.contains("a row has no lengths") && error.contains(":3:1"), "{error}");
        let error = read("{\"dataset\": [\n {\"prompt_len\": -1}]}").unwrap_err();
        assert!(error.contains("lengths.csv:2:") && error.contains("cannot be read"), "{error}");
    }

    #[test]
    fn a_sharegpt_file_is_read_by_the_stated_rule() {
        let said = |n: usize| format!("{{\"from\": \"human\", \"value\": \"{}\"}}", "x".repeat(n));
        let list = format!(
            "[{{\"id\": \"a\", \"conversations\": [{}, {}, {}]}}, {{\"conversations\": [{}]}}, \
             {{\"conversations\": [{}, {}]}}, {{\"conversations\": [{}, {}]}}]",
            said(41),
            said(80),
            said(9),
            said(50),
            said(8),
            said(90),
            said(4100),
            said(90),
        );
        assert_eq!(
            read(&list),
            Ok(vec![(11, 20)]),
            "one turn, a short prompt and a long one are out"
        );
        let mut sources = Sources::default();
        let (_, note) = parse(sources.add("s.json", ""), &list).unwrap();
        assert!(note.unwrap().contains("1 of 4 conversations"));
        assert!(read("[]").unwrap_err().contains("the data set is empty"));
        assert!(read("[{\"conversations\": 3}]").unwrap_err().contains("cannot be read"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[\\x00-\\x7f\u{feff}é]{0,200}|[\\[{][{}\\[\\]:,\"a-z0-9\n]{0,60}") {
            let _ = read(&text);
            let _ = read(&format!("input_tokens,output_tokens\n{text}"));
        }
    }
}
