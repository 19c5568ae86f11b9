//! From the file of a load tester to its figures under our names.

use std::borrow::Cow;

use serde_json::Value;

use super::{Request, ResultFormat, aiperf, guidellm, llm_load_test, vllm};

/// A figure that a file states.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Ours, as in a run's summary: `ttft_ms.median`, `output_throughput`.
    pub name: String,
    /// Where it stands in the file.
    pub place: String,
    pub value: f64,
}

/// What a file tells about the load that was sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    pub model: Option<String>,
    pub requests: Option<f64>,
    /// Clients that wait for their answers.
    pub concurrency: Option<f64>,
    /// Requests per second.
    pub rate: Option<f64>,
    /// Configured, without warm-up and cool-down.
    pub duration_s: Option<f64>,
    /// Tokens.
    pub mean_input: Option<f64>,
    pub mean_output: Option<f64>,
}

/// A load test that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub format: ResultFormat,
    pub figures: Vec<Figure>,
    /// None where the file has no data of single requests.
    pub requests: Vec<Request>,
    pub told: Told,
}

impl Measured {
    pub(super) const fn new(format: ResultFormat) -> Self {
        let told = Told {
            model: None,
            requests: None,
            concurrency: None,
            rate: None,
            duration_s: None,
            mean_input: None,
            mean_output: None,
        };
        Self { format, figures: Vec::new(), requests: Vec::new(), told }
    }

    /// Adds the figure if it is a number; tools write null or text for what they have not measured.
    pub(super) fn take(&mut self, name: &str, place: &str, value: Option<&Value>, scale: f64) {
        if let Some(value) = value.and_then(Value::as_f64) {
            let (name, place) = (name.to_owned(), place.to_owned());
            self.figures.push(Figure { name, place, value: value * scale });
        }
    }

    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}

/// Why a file is no load test's result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("not JSON: {message}")]
    NotJson { message: String, line: usize, column: usize },
    #[error("no load tester's result is recognised in it")]
    Unknown { found: Vec<String> },
    /// Several benchmarks in one file.
    #[error("it holds {} benchmarks", labels.len())]
    Several { labels: Vec<String> },
    #[error("it holds {count} benchmarks, from 0 to {}; there is no {wanted}", count - 1)]
    OutOfRange { wanted: usize, count: usize },
    #[error("it is a result of {format}, which is of one run; leave out --benchmark")]
    OneRun { format: ResultFormat },
    #[error("{place} is negative, and nothing that a load test measures is")]
    Negative { place: String },
    #[error("it is a result of {format}, and holds no figure that a simulation has")]
    Empty { format: ResultFormat },
}

/// Reads a result of any of the formats. `benchmark` picks one of a file that holds several.
pub fn read(bytes: &[u8], benchmark: Option<usize>) -> Result<Measured, ReadError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let document: Value =
        serde_json::from_slice(&without_nan(bytes)).map_err(|error| ReadError::NotJson {
            message: error.to_string(),
            line: error.line(),
            column: error.column(),
        })?;
    let format = recognise(&document).ok_or_else(|| ReadError::Unknown {
        found: document
            .as_object()
            .map(|members| members.keys().take(12).cloned().collect())
            .unwrap_or_default(),
    })?;
    let measured = match format {
        ResultFormat::Vllm => vllm::read(&document),
        ResultFormat::Guidellm => guidellm::read(&document, benchmark)?,
        ResultFormat::LlmLoadTest => llm_load_test::read(&document),
        ResultFormat::Aiperf => aiperf::read(&document),
    };
    if benchmark.is_some() && format != ResultFormat::Guidellm {
        return Err(ReadError::OneRun { format });
    }
    if let Some(figure) = measured.figures.iter().find(|figure| figure.value < 0.0) {
        return Err(ReadError::Negative { place: figure.place.clone() });
    }
    if measured.figures.is_empty() {
        return Err(ReadError::Empty { format });
    }
    Ok(measured)
}

/// Python writes what it could not compute as NaN and Infinity, which are not JSON: null says the
/// same.
fn without_nan(text: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut made = Vec::new();
    let (mut quoted, mut at, mut copied) = (false, 0, 0);
    while at < text.len() {
        match text[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'-' | b'I' | b'N' if !quoted => {
                if let Some(word) = WORDS.into_iter().find(|word| text[at..].starts_with(word)) {
                    made.extend_from_slice(&text[copied..at]);
                    made.extend_from_slice(b"null");
                    copied = at + word.len();
                    at = copied - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    made.extend_from_slice(&text[copied..]);
    Cow::Owned(made)
}

fn recognise(document: &Value) -> Option<ResultFormat> {
    ResultFormat::ALL.iter().copied().find(|format| match format {
        ResultFormat::Vllm => vllm::recognises(document),
        ResultFormat::Guidellm => guidellm::recognises(document),
        ResultFormat::LlmLoadTest => llm_load_test::recognises(document),
        ResultFormat::Aiperf => aiperf::recognises(document),
    })
}

/// What each format is told by, for those whose file is none of them.
pub const TOLD_BY: [(ResultFormat, &str); 4] = [
    (ResultFormat::Vllm, "numbers \"duration\", \"completed\" and \"output_throughput\""),
    (ResultFormat::Guidellm, "a list \"benchmarks\" whose entries have \"metrics\""),
    (ResultFormat::LlmLoadTest, "a list \"results\" and \"summary\" with \"throughput\""),
    (ResultFormat::Aiperf, "\"request_throughput\" and \"request_latency\" with \"avg\""),
];

/// The numbers of a list; what is no number is not among them.
pub(super) fn numbers(list: Option<&Value>) -> Vec<f64> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"duration": 1.0, "completed": 2, "output_throughput": 3.5"#;

    fn read_with(more: &str, benchmark: Option<usize>) -> Result<Measured, ReadError> {
        read(format!("{RESULT}{more}}}").as_bytes(), benchmark)
    }

    #[test]
    fn what_python_could_not_compute_is_not_there() {
        let more = r#", "mean_itl_ms": NaN, "x": [-Infinity, Infinity], "model_id": "a \"NaN""#;
        let measured = read_with(more, None).unwrap();
        assert!(measured.figure("itl_ms.mean").is_none());
        assert_eq!(measured.told.model.as_deref(), Some("a \"NaN"));
    }

    #[test]
    fn a_mark_of_utf_8_is_no_part_of_the_result() {
        assert!(read(format!("\u{feff}{RESULT}}}").as_bytes(), None).is_ok());
    }

    #[test]
    fn figures_that_cannot_be_are_refused_and_so_is_a_choice_of_one() {
        let negative = read_with(r#", "mean_ttft_ms": -5"#, None).unwrap_err();
        assert_eq!(negative, ReadError::Negative { place: "mean_ttft_ms".into() });
        let one = read_with("", Some(1)).unwrap_err();
        assert_eq!(one, ReadError::OneRun { format: ResultFormat::Vllm });
    }
}
