//! How long a step takes, from the aggregates of its batch.
//!
//! A step is priced from [`StepShape`], never by walking the members of the batch, so pricing is
//! O(1) whatever the batch size. [`StepTime`] is a sum of named terms in whole nanoseconds: the
//! terms add up exactly to the step.

pub mod attention;
pub mod calibrated;
pub mod collectives;
pub mod elementwise;
pub mod gemm;
pub mod host;
pub mod profile;
pub mod sourced;
pub mod spread;
pub mod trust;
pub mod weight_kernel;

use crate::time::SimDuration;

/// The aggregates of a batch that its cost depends on. All counts are of tokens or sequences.
///
/// A sequence that processes exactly one token is a decode sequence, whatever the engine calls it,
/// except where the engine picks its kernels by the call: there the last token of a prompt is a
/// prefill chunk of one (TGIS, TGI).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepShape {
    /// Sequences that process a chunk of a prompt.
    pub prefill_seqs: u32,
    /// Tokens in those chunks, padding included where the engine computes it.
    pub prefill_tokens: u64,
    /// Sum over chunks of `new * (2 * past + new)`: twice the number of attended pairs.
    pub prefill_pairs: u64,
    /// Sum over chunks of `past + new`: the context that stands in the cache after the step.
    pub prefill_context: u64,
    /// Sequences that process one token.
    pub decode_seqs: u32,
    /// Sum over decode sequences of their context, the new token included.
    pub decode_context: u64,
    /// Sum over decode sequences of the square of their context. Zero where the scheduler does not
    /// keep it: the contexts then count as equal.
    pub decode_squares: u128,
    /// Rows that go through the LM head and come back as logits: the sampled sequences, or all
    /// prompt tokens where the engine computes those too (TGIS, TGI).
    pub logits_rows: u64,
    /// Sequences that sample a token.
    pub sampled_seqs: u32,
    /// Tokens whose KV is read and written once more because the engine rebuilds its cache tensor
    /// (TGIS 2023 concatenates; `engines/tgis-tgi.md` A8).
    pub kv_copy_tokens: u64,
}

impl StepShape {
    /// A batch in which each of `seqs` sequences decodes one token over `context` tokens in all.
    pub const fn decode(seqs: u32, context: u64) -> Self {
        Self {
            prefill_seqs: 0,
            prefill_tokens: 0,
            prefill_pairs: 0,
            prefill_context: 0,
            decode_seqs: seqs,
            decode_context: context,
            decode_squares: 0,
            logits_rows: seqs as u64,
            sampled_seqs: seqs,
            kv_copy_tokens: 0,
        }
    }

    /// Adds a sequence that processes `new` tokens after `past` ones (its KV is cached).
    pub fn push(&mut self, past: u32, new: u32) {
        if new == 1 {
            self.decode_seqs += 1;
            let context = u64::from(past) + 1;
            self.decode_context += context;
            self.decode_squares += u128::from(context) * u128::from(context);
        } else {
            self.push_prefill(past, new);
        }
    }

    /// Adds a prompt chunk of `new` tokens after `past` ones, even if it is a single token.
    pub fn push_prefill(&mut self, past: u32, new: u32) {
        let (past, new) = (u64::from(past), u64::from(new));
        self.prefill_seqs += 1;
        self.prefill_tokens += new;
        self.prefill_pairs += new * (2 * past + new);
        self.prefill_context += past + new;
    }

    /// Standard deviation of the decode sequences' contexts, in whole tokens. It does not change
    /// while all of them advance together: it is taken from whole numbers, of which that is true
    /// exactly.
    pub fn decode_spread(&self) -> u32 {
        let (n, sum) = (u128::from(self.decode_seqs), u128::from(self.decode_context));
        // Below the square of the sum only where the squares are not kept.
        let scaled = (n * self.decode_squares).saturating_sub(sum * sum);
        if scaled == 0 {
            return 0;
        }
        let scaled = u64::try_from(scaled).map_or_else(|_| float(scaled), |small| small as f64);
        (scaled.sqrt() / f64::from(self.decode_seqs) + 0.5) as u32
    }

    /// The same batch `turns` decode steps later.
    #[must_use]
    pub fn after(&self, turns: u64) -> Self {
        let seqs = u64::from(self.decode_seqs);
        let grown = turns * seqs;
        // Each context grows by `turns`: c^2 becomes c^2 + 2 c turns + turns^2.
        let squares = u128::from(turns) * u128::from(2 * self.decode_context + grown);
        let (squared, copied) = (self.decode_squares > 0, self.kv_copy_tokens > 0);
        Self {
            decode_context: self.decode_context + grown,
            decode_squares: self.decode_squares + if squared { squares } else { 0 },
            kv_copy_tokens: self.kv_copy_tokens + if copied { grown } else { 0 },
            ..*self
        }
    }

    /// Tokens that the GEMMs of the layers work on.
    pub const fn tokens(&self) -> u64 {
        self.prefill_tokens + self.decode_seqs as u64
    }

    pub const fn is_empty(&self) -> bool {
        self.prefill_tokens == 0 && self.decode_seqs == 0
    }

    pub const fn is_pure_decode(&self) -> bool {
        self.prefill_seqs == 0 && self.decode_seqs > 0
    }
}

/// The named parts of a step's duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum CostTerm {
    /// Weight GEMMs of the layers: qkv, o, gate/up, down.
    Linear,
    /// Extra work of quantised weights beyond reading their bytes.
    Dequantise,
    /// The LM head GEMM.
    LmHead,
    /// Attention over the KV cache, prefill and decode.
    Attention,
    /// Norms, rotary embedding, activation, residual.
    Elementwise,
    /// Turning logits into tokens.
    Sampling,
    /// Collectives of tensor parallelism.
    AllReduce,
    /// Rebuilding a contiguous KV tensor (TGIS 2023).
    KvCopy,
    /// Host time that the GPU does not hide: `max(0, host - GPU)`.
    Host,
    /// Work in series with the GPU: scheduling, sampling loops, detokenising, RPC.
    Serial,
}

impl CostTerm {
    pub const COUNT: usize = 10;
    pub const ALL: [Self; Self::COUNT] = [
        Self::Linear,
        Self::Dequantise,
        Self::LmHead,
        Self::Attention,
        Self::Elementwise,
        Self::Sampling,
        Self::AllReduce,
        Self::KvCopy,
        Self::Host,
        Self::Serial,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Dequantise => "dequantise",
            Self::LmHead => "lm_head",
            Self::Attention => "attention",
            Self::Elementwise => "elementwise",
            Self::Sampling => "sampling",
            Self::AllReduce => "all_reduce",
            Self::KvCopy => "kv_copy",
            Self::Host => "host",
            Self::Serial => "serial",
        }
    }

    /// Whether the term is GPU time (the host runs beside it): all but the last two.
    pub const fn is_gpu(self) -> bool {
        (self as usize) < Self::Host as usize
    }
}

/// A step's duration by term, each in whole nanoseconds; the terms add up to the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTime {
    nanos: [u64; CostTerm::COUNT],
}

impl StepTime {
    pub const ZERO: Self = Self { nanos: [0; CostTerm::COUNT] };

    pub const fn get(&self, term: CostTerm) -> SimDuration {
        SimDuration::from_nanos(self.nanos[term as usize])
    }

    pub fn set(&mut self, term: CostTerm, time: SimDuration) {
        self.nanos[term as usize] = time.as_nanos();
    }

    pub fn add(&mut self, term: CostTerm, time: SimDuration) {
        self.nanos[term as usize] += time.as_nanos();
    }

    pub fn total(&self) -> SimDuration {
        SimDuration::from_nanos(self.nanos.iter().sum())
    }

    /// The GPU terms only.
    pub fn gpu(&self) -> SimDuration {
        SimDuration::from_nanos(self.nanos[..CostTerm::Host as usize].iter().sum())
    }

    /// Adds `other` taken `times` times, term by term.
    pub fn accumulate(&mut self, other: &Self, times: u64) {
        for (sum, part) in self.nanos.iter_mut().zip(other.nanos) {
            *sum += part * times;
        }
    }

    pub fn terms(&self) -> impl Iterator<Item = (CostTerm, SimDuration)> + '_ {
        CostTerm::ALL.into_iter().map(|term| (term, self.get(term)))
    }
}

/// The price of steps. Implementations may memoise, but equal shapes must always cost the same.
pub trait StepCost {
    /// The duration of one step; a step without tokens takes no time.
    fn step(&mut self, shape: &StepShape) -> StepTime;

    /// The price of pure decode steps of `seqs` sequences as a function of their total context.
    ///
    /// `decode(n).of(shape)` must equal `step(shape)`: the engine uses it to walk long stretches of
    /// decoding without building a shape for each step.
    fn decode(&mut self, seqs: u32) -> DecodeCost;

    /// Hears of the last shape of a stretch that the engine has priced by [`StepCost::decode`] alone.
    /// Contexts only grow in it, so that one stands for all of them.
    fn stretched_to(&mut self, _shape: &StepShape) {}
}

/// The price of a pure decode step at a fixed batch size: a constant part and what depends on the
/// total context. Evaluating it takes a few nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct DecodeCost {
    /// All terms that do not depend on context; attention, KV copy and host are zero here.
    pub fixed: StepTime,
    /// Sum of the GPU terms of `fixed`.
    pub fixed_gpu: SimDuration,
    /// Sum of all terms of `fixed`.
    pub fixed_total: SimDuration,
    /// Host time of the step, hidden as far as the GPU is busy.
    pub host: SimDuration,
    pub attention: ContextCost,
    /// Nanoseconds of attention for each token of [`StepShape::decode_spread`].
    pub per_spread: f64,
    pub kv_copy: ContextCost,
}

/// A cost as a function of the total context `c` in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ContextCost {
    Zero,
    /// `constant + per_token * c + per_sqrt * sqrt(c)` in nanoseconds, rounded once.
    Curve {
        constant: f64,
        per_token: f64,
        per_sqrt: f64,
    },
    /// As `Curve`, plus what layers with a sliding window read: their context stops counting at
    /// `window` tokens in all.
    Windowed {
        constant: f64,
        per_token: f64,
        per_sqrt: f64,
        window: f64,
        window_per_token: f64,
        window_per_sqrt: f64,
    },
    /// `floor(c * numerator / denominator) * unit` nanoseconds, for the recorded schedules' cost.
    Integer {
        numerator: u64,
        denominator: u64,
        unit: u64,
    },
}

impl ContextCost {
    /// The same `factor` times as long; a recorded schedule's cost stays as it was recorded.
    #[must_use]
    fn times(mut self, factor: f64) -> Self {
        match &mut self {
            Self::Zero | Self::Integer { .. } => {}
            Self::Curve { constant, per_token, per_sqrt } => {
                [constant, per_token, per_sqrt].into_iter().for_each(|c| *c *= factor);
            }
            Self::Windowed {
                constant,
                per_token,
                per_sqrt,
                window: _,
                window_per_token,
                window_per_sqrt,
            } => [constant, per_token, per_sqrt, window_per_token, window_per_sqrt]
                .into_iter()
                .for_each(|c| *c *= factor),
        }
        self
    }

    #[inline]
    pub fn at(&self, context: u64) -> SimDuration {
        self.at_plus(context, 0.0)
    }

    /// The same and `more` nanoseconds, rounded with the rest; a recorded schedule's cost knows no
    /// fractions and leaves them out.
    #[inline(always)]
    pub fn at_plus(&self, context: u64, more: f64) -> SimDuration {
        SimDuration::from_nanos(match *self {
            Self::Zero => 0,
            Self::Curve { constant, per_token, per_sqrt } => {
                let c = tokens(context);
                nanos((constant + more) + per_token * c + per_sqrt * c.sqrt())
            }
            Self::Windowed {
                constant,
                per_token,
                per_sqrt,
                window,
                window_per_token,
                window_per_sqrt,
            } => {
                let c = tokens(context);
                let seen = c.min(window);
                let full = per_token * c + per_sqrt * c.sqrt();
                let sliding = window_per_token * seen + window_per_sqrt * seen.sqrt();
                nanos((constant + more) + full + sliding)
            }
            Self::Integer { numerator, denominator, unit } => {
                context * numerator / denominator * unit
            }
        })
    }
}

/// Of 128 bits that is a long call, which must not be made where 64 are enough.
#[cold]
#[inline(never)]
fn float(number: u128) -> f64 {
    number as f64
}

/// Signed conversions are one instruction each, unsigned ones six; no context has 2^63 tokens and no
/// step 2^63 nanoseconds.
#[inline]
fn tokens(context: u64) -> f64 {
    context.cast_signed() as f64
}

/// To the nearest nanosecond, halves up.
#[inline]
fn nanos(time: f64) -> u64 {
    ((time + 0.5) as i64).max(0).cast_unsigned()
}

/// The parts of a decode step that depend on its context.
#[derive(Clone, Copy, Debug, Default)]
pub struct DecodeStep {
    pub attention: SimDuration,
    pub kv_copy: SimDuration,
    pub host: SimDuration,
    pub total: SimDuration,
}

impl DecodeCost {
    /// Nanoseconds of attention that the unequal contexts of `shape` add
    /// ([`StepShape::decode_spread`]). They stay as they are while the batch only decodes.
    #[inline]
    pub fn skew(&self, shape: &StepShape) -> f64 {
        if self.per_spread > 0.0 { self.per_spread * f64::from(shape.decode_spread()) } else { 0.0 }
    }

    /// The step over `context` tokens in all, the new ones included, with `skew` nanoseconds more of
    /// attention; `kv_copy_tokens` of them are copied.
    // In the loop over steady turns a call costs as much as what it computes.
    #[inline(always)]
    pub fn at(&self, context: u64, skew: f64, kv_copy_tokens: u64) -> DecodeStep {
        let attention = self.attention.at_plus(context, skew);
        let kv_copy =
            if kv_copy_tokens == 0 { SimDuration::ZERO } else { self.kv_copy.at(kv_copy_tokens) };
        let varying = attention + kv_copy;
        let host = self.host.saturating_sub(self.fixed_gpu + varying);
        DecodeStep { attention, kv_copy, host, total: self.fixed_total + varying + host }
    }

    /// The step of `shape`, which is one of these.
    #[inline]
    pub fn of(&self, shape: &StepShape) -> DecodeStep {
        self.at(shape.decode_context, self.skew(shape), shape.kv_copy_tokens)
    }

    /// The same step with all its terms.
    pub fn time(&self, step: &DecodeStep) -> StepTime {
        let mut time = self.fixed;
        time.set(CostTerm::Attention, step.attention);
        time.set(CostTerm::KvCopy, step.kv_copy);
        time.set(CostTerm::Host, step.host);
        time
    }
}
