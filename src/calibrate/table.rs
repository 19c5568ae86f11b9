//! Operator tables: timed kernels as CSV, one row per kernel and shape.
//!
//! The columns tell the kind of a table. What `--device` measures and what others have published
//! have the same rows, so that one fit serves both.

use std::collections::BTreeMap;
use std::fmt;

use crate::hardware;
use crate::scenario::diagnostic::{Diagnostic, SourceId, Span};

/// One kernel, timed.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// As the table names it; see [`catalogue_gpu`].
    pub gpu: String,
    /// Of weights and activations: `fp16`, `bf16`, `fp8`, `w4a16-marlin`, ...
    pub dtype: String,
    pub operator: Operator,
    pub seconds: f64,
    /// Who measured it, with what.
    pub source: String,
}

/// A kernel and its shape, on one GPU; counts of tokens, sequences, heads.
#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    /// `C[m,n] = A[m,k] x B[k,n]`.
    Gemm { m: u64, n: u64, k: u64 },
    /// One layer's attention.
    Attention(AttentionBatch),
    /// One small kernel of a layer (`op`), on the shard of one of `tp` ranks.
    Elementwise { op: String, tokens: u64, hidden: u64, ffn: u64, tp: u32 },
    /// `bytes` held by each of `ranks` GPUs, added up.
    AllReduce { link: String, implementation: String, ranks: u32, bytes: u64 },
}

/// A batch of equal prefill chunks and equal decode sequences; one of the two may be empty.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionBatch {
    pub chunks: u64,
    /// New tokens of each chunk, and tokens of it that the cache holds before.
    pub chunk_tokens: u64,
    pub chunk_past: u64,
    pub sequences: u64,
    /// Context of each decode sequence, the new token included.
    pub context: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub kv_dtype: String,
    /// Tokens that a layer looks back; 0 for all.
    pub window: u64,
}

/// The kinds of table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableKind {
    Gemm,
    Attention,
    MixedAttention,
    Elementwise,
    AllReduce,
}

impl TableKind {
    pub const ALL: [Self; 5] =
        [Self::Gemm, Self::Attention, Self::MixedAttention, Self::Elementwise, Self::AllReduce];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Gemm => "GEMM",
            Self::Attention => "attention",
            Self::MixedAttention => "mixed attention",
            Self::Elementwise => "elementwise",
            Self::AllReduce => "all-reduce",
        }
    }

    /// The columns that it needs; it may have others.
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Gemm => &["gpu", "dtype", "m", "n", "k", "seconds", "source"],
            Self::Attention => &[
                "gpu",
                "dtype",
                "kv_dtype",
                "batch",
                "new_tokens",
                "past_tokens",
                "num_heads",
                "num_kv_heads",
                "head_dim",
                "window",
                "seconds",
                "source",
            ],
            Self::MixedAttention => &[
                "gpu",
                "prefill_chunk",
                "kv_prefill",
                "n_decode",
                "kv_decode",
                "num_heads",
                "num_kv_heads",
                "head_dim",
                "seconds",
                "source",
            ],
            Self::Elementwise => {
                &["gpu", "dtype", "op", "tokens", "hidden", "ffn", "tp", "seconds", "source"]
            }
            Self::AllReduce => {
                &["gpu", "link", "num_gpus", "bytes", "dtype", "seconds", "impl", "source"]
            }
        }
    }

    /// The columns that no other kind has.
    const fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Gemm => &["m", "n", "k"],
            Self::Attention => &["batch", "new_tokens", "past_tokens"],
            Self::MixedAttention => &["prefill_chunk", "n_decode", "kv_decode"],
            Self::Elementwise => &["op", "tokens", "ffn"],
            Self::AllReduce => &["num_gpus", "bytes", "link"],
        }
    }
}

impl fmt::Display for TableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Names that published tables use for GPUs of the catalogue.
const ALIASES: [(&str, &str); 14] = [
    ("a10", "a10g"),
    ("a100", "a100-80gb"),
    ("a100-sxm4-80gb", "a100-80gb"),
    ("a100-sxm4-40gb", "a100-40gb"),
    ("h100", "h100-80gb"),
    ("h100-sxm5-80gb", "h100-80gb"),
    ("h200", "h200-141gb"),
    ("h200-sxm5-141gb", "h200-141gb"),
    ("rtx4090", "rtx-4090"),
    ("rtx-4090-24gb", "rtx-4090"),
    ("rtxpro6000", "rtx-pro-6000"),
    ("rtx-pro-6000-blackwell", "rtx-pro-6000"),
    ("nvidia-h100-80gb-hbm3", "h100-80gb"),
    ("nvidia-h200", "h200-141gb"),
];

/// The catalogue's name of a table's GPU. The `A10` of vllm-benchmarking plateaus at 67 TFLOP/s,
/// 96 % of the A10G's tensor cores and half of the A10's, and so is an A10G.
pub fn catalogue_gpu(name: &str) -> Option<&'static str> {
    let plain: String = name.trim().to_ascii_lowercase().replace([' ', '_'], "-");
    let alias = ALIASES.iter().find(|(alias, _)| *alias == plain).map(|(_, known)| *known);
    alias.or_else(|| hardware::gpu_names().find(|known| *known == plain))
}

/// Reports beyond this many lines are noise: a wrong file is wrong everywhere.
const MAX_ERRORS: usize = 10;

/// Reads a table; `source` is where messages point.
pub fn read(source: SourceId, text: &str) -> Result<(TableKind, Vec<Timing>), Vec<Diagnostic>> {
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .from_reader(text.as_bytes());
    let header = match reader.headers() {
        Ok(header) if !header.is_empty() => header.clone(),
        _ => {
            return Err(vec![
                Diagnostic::new("the operator table is empty")
                    .within(source)
                    .help(format!("it needs a header line and rows, such as {}", example())),
            ]);
        }
    };
    let start = header.position().map_or(0, |p| usize::try_from(p.byte()).unwrap_or(0));
    let columns: BTreeMap<String, usize> = header
        .iter()
        .enumerate()
        .map(|(i, name)| (name.trim_start_matches('\u{feff}').to_ascii_lowercase(), i))
        .collect();
    let kind = kind_of(source, text, start, &columns)?;

    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for record in reader.records() {
        if errors.len() >= MAX_ERRORS {
            break;
        }
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                errors.push(
                    Diagnostic::new(format!("the operator table is not CSV: {error}"))
                        .within(source),
                );
                break;
            }
        };
        let at = record.position().map_or(0, |p| usize::try_from(p.byte()).unwrap_or(0));
        let row = Row { source, text, start: at, columns: &columns, record: &record };
        match row.timing(kind) {
            Ok(timing) => rows.push(timing),
            Err(error) => errors.push(*error),
        }
    }
    if errors.is_empty() && rows.is_empty() {
        errors.push(
            Diagnostic::new("the operator table has no rows")
                .within(source)
                .help("the header is there and nothing below it; is the file complete?"),
        );
    }
    if errors.is_empty() { Ok((kind, rows)) } else { Err(errors) }
}

fn example() -> String {
    TableKind::Gemm.columns().join(",")
}

/// What a table measures, from its header.
fn kind_of(
    source: SourceId,
    text: &str,
    start: usize,
    columns: &BTreeMap<String, usize>,
) -> Result<TableKind, Vec<Diagnostic>> {
    let has = |name: &&&str| columns.contains_key(**name);
    let line = line_at(text, start);
    let header = Span::new(source, line);
    let best = TableKind::ALL.into_iter().max_by_key(|kind| {
        // Ties go to the first kind: `max_by_key` takes the last.
        (kind.marks().iter().filter(has).count(), std::cmp::Reverse(*kind))
    });
    let Some(kind) = best.filter(|kind| kind.marks().iter().filter(has).count() >= 2) else {
        let known: Vec<String> = TableKind::ALL
            .iter()
            .map(|kind| format!("{kind}: {}", kind.columns().join(",")))
            .collect();
        return Err(vec![
            Diagnostic::new("this is no operator table that servesim knows")
                .at(header, "columns found")
                .help(format!("the kinds of table and their columns are\n{}", known.join("\n"))),
        ]);
    };
    let missing: Vec<&str> = kind.columns().iter().filter(|name| !has(name)).copied().collect();
    if missing.is_empty() {
        return Ok(kind);
    }
    let mut error = Diagnostic::new(format!(
        "the {kind} table has no column{} {}",
        if missing.len() == 1 { "" } else { "s" },
        missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    ))
    .at(header, "columns found")
    .help(format!("it needs {}", kind.columns().join(",")));
    let time = ["ms", "us", "ns", "time", "latency", "micros", "millis"];
    let other_unit = columns.keys().find(|name| time.iter().any(|unit| name.contains(unit)));
    if let (true, Some(other)) = (missing.contains(&"seconds"), other_unit) {
        error = error.help(format!("convert `{other}` to seconds and call the column `seconds`"));
    }
    Err(vec![error])
}

fn line_at(text: &str, start: usize) -> std::ops::Range<usize> {
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

/// One record with what is needed to complain about it.
struct Row<'a> {
    source: SourceId,
    text: &'a str,
    start: usize,
    columns: &'a BTreeMap<String, usize>,
    record: &'a csv::StringRecord,
}

type Read<T> = Result<T, Box<Diagnostic>>;

impl Row<'_> {
    fn timing(&self, kind: TableKind) -> Read<Timing> {
        let seconds = self.seconds()?;
        let operator = match kind {
            TableKind::Gemm => Operator::Gemm {
                m: self.count("m", 1)?,
                n: self.count("n", 1)?,
                k: self.count("k", 1)?,
            },
            TableKind::Attention => {
                let (batch, new) = (self.count("batch", 1)?, self.count("new_tokens", 1)?);
                let past = self.count("past_tokens", 0)?;
                // A batch of single tokens is what engines run their decode kernel for.
                let decode = new == 1;
                let (chunks, sequences) = if decode { (0, batch) } else { (batch, 0) };
                Operator::Attention(AttentionBatch {
                    chunks,
                    chunk_tokens: if decode { 0 } else { new },
                    chunk_past: if decode { 0 } else { past },
                    sequences,
                    context: if decode { past + 1 } else { 0 },
                    heads: self.count("num_heads", 1)?,
                    kv_heads: self.count("num_kv_heads", 1)?,
                    head_dim: self.count("head_dim", 1)?,
                    kv_dtype: self.text("kv_dtype")?.to_owned(),
                    window: self.count("window", 0)?,
                })
            }
            TableKind::MixedAttention => {
                let chunk = self.count("prefill_chunk", 0)?;
                let sequences = self.count("n_decode", 0)?;
                if chunk == 0 && sequences == 0 {
                    return Err(self.fault("n_decode", "an empty batch", "give the batch tokens"));
                }
                Operator::Attention(AttentionBatch {
                    chunks: u64::from(chunk > 0),
                    chunk_tokens: chunk,
                    chunk_past: self.count("kv_prefill", 0)?,
                    sequences,
                    context: self.count("kv_decode", 0)?,
                    heads: self.count("num_heads", 1)?,
                    kv_heads: self.count("num_kv_heads", 1)?,
                    head_dim: self.count("head_dim", 1)?,
                    kv_dtype: self.optional("kv_dtype").unwrap_or("bf16").to_owned(),
                    window: 0,
                })
            }
            TableKind::Elementwise => Operator::Elementwise {
                op: self.text("op")?.to_owned(),
                tokens: self.count("tokens", 1)?,
                hidden: self.count("hidden", 1)?,
                ffn: self.count("ffn", 0)?,
                tp: self.count_u32("tp", 1)?,
            },
            TableKind::AllReduce => Operator::AllReduce {
                link: self.text("link")?.to_owned(),
                implementation: self.text("impl")?.to_owned(),
                ranks: self.count_u32("num_gpus", 2)?,
                bytes: self.count("bytes", 1)?,
            },
        };
        Ok(Timing {
            gpu: self.text("gpu")?.to_owned(),
            dtype: self.optional("dtype").unwrap_or("bf16").to_owned(),
            operator,
            seconds,
            source: self.text("source")?.to_owned(),
        })
    }

    fn optional(&self, column: &str) -> Option<&str> {
        self.record.get(*self.columns.get(column)?).filter(|field| !field.is_empty())
    }

    fn text(&self, column: &str) -> Read<&str> {
        self.optional(column).ok_or_else(|| {
            let help = "each row needs all columns of the header; is the file complete?";
            self.fault(column, "nothing here", help)
        })
    }

    fn seconds(&self) -> Read<f64> {
        let field = self.text("seconds")?;
        match field.parse::<f64>() {
            Ok(seconds) if seconds.is_finite() && seconds > 0.0 => Ok(seconds),
            Ok(_) => Err(self.fault("seconds", "no duration", "a kernel takes some time")),
            Err(_) => Err(self.fault(
                "seconds",
                "not a plain number",
                "write seconds without a unit, such as 1.25e-5 for 12.5 us",
            )),
        }
    }

    fn count(&self, column: &str, least: u64) -> Read<u64> {
        match self.text(column)?.parse::<u64>() {
            Ok(count) if count >= least && count <= 1 << 48 => Ok(count),
            _ => Err(self.fault(
                column,
                "not a count",
                &format!("write a whole number from {least} on"),
            )),
        }
    }

    fn count_u32(&self, column: &str, least: u64) -> Read<u32> {
        let help = format!("write a whole number from {least} on");
        let count = self.count(column, least)?;
        u32::try_from(count).map_err(|_| self.fault(column, "not a count", &help))
    }

    fn fault(&self, column: &str, label: &str, help: &str) -> Box<Diagnostic> {
        let line = line_at(self.text, self.start);
        let index = self.columns.get(column).copied().unwrap_or(0);
        let text = &self.text[line.clone()];
        let mut begin = line.start;
        let mut range = line.clone();
        for (i, field) in text.split(',').enumerate() {
            if i == index {
                range = begin..begin + field.len();
            }
            begin += field.len() + 1;
        }
        Box::new(
            Diagnostic::new(format!("`{column}` of an operator table cannot be read"))
                .at(Span::new(self.source, range), label)
                .help(help),
        )
    }
}

/// Rows of one kind as CSV, with the columns that [`read`] takes. Rows of other kinds are left out.
pub fn to_csv(kind: TableKind, rows: &[Timing]) -> Vec<u8> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let faultless = "writing to memory does not fail";
    out.write_record(kind.columns()).expect(faultless);
    for row in rows.iter().filter(|row| row.operator.kind() == kind) {
        out.write_record(row.fields(kind)).expect(faultless);
    }
    out.into_inner().expect(faultless)
}

impl Operator {
    /// The table that holds it.
    pub const fn kind(&self) -> TableKind {
        match self {
            Self::Gemm { .. } => TableKind::Gemm,
            Self::Attention(batch) if batch.chunks > 0 && batch.sequences > 0 => {
                TableKind::MixedAttention
            }
            Self::Attention(_) => TableKind::Attention,
            Self::Elementwise { .. } => TableKind::Elementwise,
            Self::AllReduce { .. } => TableKind::AllReduce,
        }
    }
}

impl Timing {
    /// Fields in the order of the kind's columns.
    fn fields(&self, kind: TableKind) -> Vec<String> {
        kind.columns().iter().map(|column| self.field(column)).collect()
    }

    fn field(&self, column: &str) -> String {
        match column {
            "gpu" => return self.gpu.clone(),
            "dtype" => return self.dtype.clone(),
            "source" => return self.source.clone(),
            "seconds" => return format!("{:e}", self.seconds),
            _ => {}
        }
        match (&self.operator, column) {
            (Operator::Gemm { m, .. }, "m") => m.to_string(),
            (Operator::Gemm { n, .. }, "n") => n.to_string(),
            (Operator::Gemm { k, .. }, "k") => k.to_string(),
            (Operator::Attention(batch), _) => batch.field(column),
            (Operator::Elementwise { op, .. }, "op") => op.clone(),
            (Operator::Elementwise { tokens, .. }, "tokens") => tokens.to_string(),
            (Operator::Elementwise { hidden, .. }, "hidden") => hidden.to_string(),
            (Operator::Elementwise { ffn, .. }, "ffn") => ffn.to_string(),
            (Operator::Elementwise { tp, .. }, "tp") => tp.to_string(),
            (Operator::AllReduce { link, .. }, "link") => link.clone(),
            (Operator::AllReduce { implementation, .. }, "impl") => implementation.clone(),
            (Operator::AllReduce { ranks, .. }, "num_gpus") => ranks.to_string(),
            (Operator::AllReduce { bytes, .. }, "bytes") => bytes.to_string(),
            (operator, column) => unreachable!("{operator:?} has no column {column}"),
        }
    }
}

impl AttentionBatch {
    fn field(&self, column: &str) -> String {
        let decode = self.chunks == 0;
        match column {
            "kv_dtype" => return self.kv_dtype.clone(),
            "batch" if decode => self.sequences,
            "batch" => self.chunks,
            "new_tokens" if decode => 1,
            "new_tokens" | "prefill_chunk" => self.chunk_tokens,
            "past_tokens" if decode => self.context - 1,
            "past_tokens" | "kv_prefill" => self.chunk_past,
            "n_decode" => self.sequences,
            "kv_decode" => self.context,
            "num_heads" => self.heads,
            "num_kv_heads" => self.kv_heads,
            "head_dim" => self.head_dim,
            "window" => self.window,
            column => unreachable!("attention has no column {column}"),
        }
        .to_string()
    }
}

#[cfg(test)]
mod tests;
