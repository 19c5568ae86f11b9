//! Operator tables: timed kernels as CSV, one row per kernel and shape.
//!
//! The columns tell the kind of a table. What `--device` measures and what others have published
//! have the same rows, so that one fit serves both.

use std::fmt;

use crate::hardware;
use crate::scenario::diagnostic::{Diagnostic, SourceId};

use super::rows::{self, Header, Read, Row};

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

const OPERATOR_TABLE: rows::Kind =
    rows::Kind { name: "operator table", example: "gpu,dtype,m,n,k,seconds,source" };

/// Reads a table; `source` is where messages point.
pub fn read(source: SourceId, text: &str) -> Result<(TableKind, Vec<Timing>), Vec<Diagnostic>> {
    rows::read(OPERATOR_TABLE, source, text, kind_of, |kind, row| timing(row, *kind))
}

/// What a table measures, from its header.
fn kind_of(header: &Header) -> Read<TableKind> {
    let has = |name: &&&str| header.has(name);
    let best = TableKind::ALL.into_iter().max_by_key(|kind| {
        // Ties go to the first kind: `max_by_key` takes the last.
        (kind.marks().iter().filter(has).count(), std::cmp::Reverse(*kind))
    });
    let Some(kind) = best.filter(|kind| kind.marks().iter().filter(has).count() >= 2) else {
        let known: Vec<String> = TableKind::ALL
            .iter()
            .map(|kind| format!("{kind}: {}", kind.columns().join(",")))
            .collect();
        let problem = Diagnostic::new("this is no operator table that servesim knows")
            .at(header.span.clone(), "columns found")
            .help(format!("the kinds of table and their columns are\n{}", known.join("\n")));
        return Err(Box::new(problem));
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
    .at(header.span.clone(), "columns found")
    .help(format!("it needs {}", kind.columns().join(",")));
    let time = ["ms", "us", "ns", "time", "latency", "micros", "millis"];
    let other_unit = header.columns.keys().find(|name| time.iter().any(|unit| name.contains(unit)));
    if let (true, Some(other)) = (missing.contains(&"seconds"), other_unit) {
        error = error.help(format!("convert `{other}` to seconds and call the column `seconds`"));
    }
    Err(Box::new(error))
}

fn timing(row: &Row<'_>, kind: TableKind) -> Read<Timing> {
    let seconds = row.positive(
        "seconds",
        "no duration",
        "write seconds without a unit, such as 1.25e-5 for 12.5 us",
    )?;
    let operator = match kind {
        TableKind::Gemm => {
            Operator::Gemm { m: row.count("m", 1)?, n: row.count("n", 1)?, k: row.count("k", 1)? }
        }
        TableKind::Attention => {
            let (batch, new) = (row.count("batch", 1)?, row.count("new_tokens", 1)?);
            let past = row.count("past_tokens", 0)?;
            // A batch of single tokens is what engines run their decode kernel for.
            let decode = new == 1;
            let (chunks, sequences) = if decode { (0, batch) } else { (batch, 0) };
            Operator::Attention(AttentionBatch {
                chunks,
                chunk_tokens: if decode { 0 } else { new },
                chunk_past: if decode { 0 } else { past },
                sequences,
                context: if decode { past + 1 } else { 0 },
                heads: row.count("num_heads", 1)?,
                kv_heads: row.count("num_kv_heads", 1)?,
                head_dim: row.count("head_dim", 1)?,
                kv_dtype: row.text("kv_dtype")?.to_owned(),
                window: row.count("window", 0)?,
            })
        }
        TableKind::MixedAttention => {
            let chunk = row.count("prefill_chunk", 0)?;
            let sequences = row.count("n_decode", 0)?;
            if chunk == 0 && sequences == 0 {
                return Err(row.fault("n_decode", "an empty batch", "give the batch tokens"));
            }
            Operator::Attention(AttentionBatch {
                chunks: u64::from(chunk > 0),
                chunk_tokens: chunk,
                chunk_past: row.count("kv_prefill", 0)?,
                sequences,
                context: row.count("kv_decode", 0)?,
                heads: row.count("num_heads", 1)?,
                kv_heads: row.count("num_kv_heads", 1)?,
                head_dim: row.count("head_dim", 1)?,
                kv_dtype: row.optional("kv_dtype").unwrap_or("bf16").to_owned(),
                window: 0,
            })
        }
        TableKind::Elementwise => Operator::Elementwise {
            op: row.text("op")?.to_owned(),
            tokens: row.count("tokens", 1)?,
            hidden: row.count("hidden", 1)?,
            ffn: row.count("ffn", 0)?,
            tp: row.count_u32("tp", 1)?,
        },
        TableKind::AllReduce => Operator::AllReduce {
            link: row.text("link")?.to_owned(),
            implementation: row.text("impl")?.to_owned(),
            ranks: row.count_u32("num_gpus", 2)?,
            bytes: row.count("bytes", 1)?,
        },
    };
    Ok(Timing {
        gpu: row.text("gpu")?.to_owned(),
        dtype: row.optional("dtype").unwrap_or("bf16").to_owned(),
        operator,
        seconds,
        source: row.text("source")?.to_owned(),
    })
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
