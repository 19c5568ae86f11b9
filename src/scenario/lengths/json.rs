//! Data sets as JSON: ShareGPT, llm-load-test's two formats, and JSON Lines with lengths.

use std::sync::Arc;

use serde::Deserialize;

use super::{MAX_ERRORS, MAX_TOKENS, Read};
use crate::scenario::diagnostic::{Diagnostic, SourceId, Span};
use crate::workload::LengthPair;

/// llm-load-test of 2023: one object. Outputs are forced to `max_new_tokens`.
#[derive(Deserialize)]
struct LoadTestV1 {
    dataset: Vec<LoadTestInput>,
}

#[derive(Deserialize)]
struct LoadTestInput {
    prompt_len: u32,
    input: LoadTestPrompt,
}

#[derive(Deserialize)]
struct LoadTestPrompt {
    max_new_tokens: u32,
}

/// llm-load-test of 2024, Mooncake, and our own traces: one object a line.
#[derive(Deserialize)]
struct Line {
    #[serde(alias = "tok_input_length", alias = "input_length")]
    input_tokens: Option<u32>,
    #[serde(alias = "tok_output_length", alias = "output_length")]
    output_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Conversation {
    #[serde(default)]
    conversations: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    value: String,
}

pub(super) fn parse(source: SourceId, text: &str) -> Read {
    let start = text.len() - text.trim_start_matches(['\u{feff}', ' ', '\n', '\r', '\t']).len();
    let json = &text[start..];
    if json.starts_with('[') {
        return share_gpt(source, text, start);
    }
    let first = json.lines().next().unwrap_or_default();
    if serde_json::from_str::<Line>(first).is_ok() && !first.contains("\"dataset\"") {
        return lines(source, text);
    }
    let read: LoadTestV1 =
        serde_json::from_str(json).map_err(|error| vec![fault(source, text, start, &error)])?;
    let pairs = read.dataset.iter().map(|row| (row.prompt_len, row.input.max_new_tokens));
    Ok((checked(source, pairs)?, None))
}

fn lines(source: SourceId, text: &str) -> Read {
    let (mut pairs, mut errors, mut at) = (Vec::new(), Vec::new(), 0);
    for (number, line) in text.split('\n').enumerate() {
        let span = at..at + line.len();
        at += line.len() + 1;
        let trimmed = line.trim_matches(['\u{feff}', ' ', '\r', '\t']);
        if trimmed.is_empty() || errors.len() >= MAX_ERRORS {
            continue;
        }
        match serde_json::from_str::<Line>(trimmed) {
            Ok(Line { input_tokens: Some(input), output_tokens: Some(output) }) => {
                pairs.push((input, output));
            }
            // The first line may describe the data set (llm-load-test of 2024).
            Ok(_) if number == 0 => {}
            Ok(_) => errors.push(
                Diagnostic::new("a row has no lengths")
                    .at(Span::new(source, span), "neither of the known names")
                    .help(
                        "each line needs tok_input_length and tok_output_length, or input_tokens \
                         and output_tokens",
                    ),
            ),
            Err(error) => errors.push(fault(source, text, span.start, &error)),
        }
    }
    if errors.is_empty() { Ok((checked(source, pairs.into_iter())?, None)) } else { Err(errors) }
}

/// Characters of English text to a token of today's vocabularies, roughly.
const CHARS_PER_TOKEN: usize = 4;

/// Text has no lengths in tokens without a tokeniser: four characters are taken for one token. The
/// choice of turns and the limits are those of `vllm bench serve` (vLLM 0.32.0
/// `benchmarks/datasets.py`, `ShareGPTDataset` and `is_valid_sequence`).
fn share_gpt(source: SourceId, text: &str, start: usize) -> Read {
    let read: Vec<Conversation> = serde_json::from_str(&text[start..])
        .map_err(|error| vec![fault(source, text, start, &error)])?;
    let tokens = |said: &Said| said.value.chars().count().div_ceil(CHARS_PER_TOKEN) as u32;
    let kept: Vec<(u32, u32)> = read
        .iter()
        .filter_map(|conversation| match conversation.conversations.as_slice() {
            [prompt, answer, ..] => Some((tokens(prompt), tokens(answer))),
            _ => None,
        })
        .filter(|&(input, output)| {
            input >= 4 && output >= 4 && input <= 1024 && input + output <= 2048
        })
        .collect();
    let note = format!(
        "lengths of a ShareGPT file are {CHARS_PER_TOKEN} characters to a token, not those of a \
         tokeniser; {} of {} conversations are kept, by the rules of vllm bench serve",
        kept.len(),
        read.len()
    );
    Ok((checked(source, kept.into_iter())?, Some(note)))
}

fn checked(
    source: SourceId,
    pairs: impl Iterator<Item = (u32, u32)>,
) -> Result<Arc<[LengthPair]>, Vec<Diagnostic>> {
    let pairs: Vec<LengthPair> =
        pairs.map(|(input, output)| LengthPair { input, output }).collect();
    let wrong = pairs.iter().position(|pair| {
        let range = 1..=MAX_TOKENS;
        !range.contains(&pair.input) || !range.contains(&pair.output)
    });
    if let Some(row) = wrong {
        let LengthPair { input, output } = pairs[row];
        return Err(vec![
            Diagnostic::new("a length is out of range")
                .within(source)
                .note(format!("request {} has {input} and {output} tokens", row + 1))
                .help(format!("lengths are whole numbers from 1 to {MAX_TOKENS}")),
        ]);
    }
    if pairs.is_empty() {
        return Err(vec![
            Diagnostic::new("the data set is empty")
                .within(source)
                .note("nothing in it has a prompt and an answer of usable length")
                .help("give another file"),
        ]);
    }
    Ok(pairs.into())
}

fn fault(source: SourceId, text: &str, start: usize, error: &serde_json::Error) -> Diagnostic {
    // The error counts lines and columns from the start of what was parsed, both from 1.
    let rest = &text[start..];
    let line_start: usize =
        rest.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let at = (start + line_start + error.column().saturating_sub(1)).min(text.len());
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default().to_owned();
    Diagnostic::new("the data set cannot be read").at(Span::new(source, at..at + 1), message).help(
        "known are ShareGPT's list, llm-load-test's {\"dataset\": [...]} and its JSON Lines with \
         tok_input_length and tok_output_length",
    )
}
