//! Attention over the KV cache, from the aggregates of a batch.
//!
//! Engines run a batch that holds any prompt chunk through one kernel for ragged queries, in which a
//! decode row occupies a tile of its own and each query head reads its own KV: its decode share costs
//! several times what a pure decode batch costs, which is why the two are priced apart
//! (`../shared/physics/operator-surfaces.md` 4.4). [`RaggedForm`] is the former, [`DecodeForm`] (form
//! "D3", 4.3 there) the latter.
//!
//! The ragged kernel is counted in thread blocks, as it runs. vLLM's FlashAttention over a paged cache
//! takes 64 rows of one query head of one chunk to a block (`kBlockM = 64` of its split-KV kernel,
//! which a block table enforces), so a chunk of 16 tokens costs as much as one of 64. Blocks go over
//! the multiprocessors; their keys, queries and outputs come from L2 as long as all of them fit, and
//! the layer also writes the new keys and values into the cache. On rows held out from the fit that is
//! 5-7 % in the middle and 11-18 % at the 90th percentile on A100, H100, L40S, RTX 4090 and RTX PRO
//! 6000. A smooth sum of compute, one walk along the context and memory, as it was before, came to
//! 20-43 %, worst where many short chunks meet. Tiles of 128 rows, two blocks to a multiprocessor and
//! whole waves in place of the tail were tried and are worse on most of the five.
//!
//! Only aggregates are known: contexts inside a batch count as equal to their mean, and what the
//! longest takes beyond it is added by [`SkewForm`] (4.4), 2-4 % of a run on the two GPUs where that
//! was seen.

use super::gemm::blend;
use super::{ContextCost, StepShape};

/// Query rows of one thread block, all of which are computed however few are asked for.
pub const TILE: f64 = 64.0;

/// What a byte from L2 takes beside one from DRAM. The five GPUs' L2 is 2-5 times as fast, and the
/// fits are flat between 0.2 and 0.6.
const CACHED: f64 = 0.4;

/// What a rank's attention looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    pub heads: f64,
    pub kv_heads: f64,
    pub head_dim: f64,
    /// Bytes of one element of the KV cache; queries and outputs have two.
    pub kv_bytes: f64,
    pub full_layers: f64,
    /// Layers that look back at most `window` tokens.
    pub window_layers: f64,
    pub window: f64,
}

impl AttentionShape {
    pub fn layers(&self) -> f64 {
        self.full_layers + self.window_layers
    }

    /// Bytes of keys and values of one token in one layer.
    pub fn kv_bytes_per_token(&self) -> f64 {
        2.0 * self.kv_bytes * self.kv_heads * self.head_dim
    }

    /// Bytes of a new token in one layer, besides reading its context: query and output, and its key
    /// and value, which are read in 16 bits and written to the cache.
    fn token_bytes(&self) -> f64 {
        4.0 * (self.heads + self.kv_heads) * self.head_dim + self.kv_bytes_per_token()
    }
}

/// Prompt chunks in one kernel, alone or with decoding sequences: `f + (C^p + M^p)^(1/p)`.
///
/// `C` is the time of the thread blocks: their keys at `peak` and a `start_up` each, spread over the
/// multiprocessors, and at the end `tail` times the longest block, which starts late; never less than
/// the longest block alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RaggedForm {
    pub floor: f64,
    pub peak: f64,
    /// Seconds of a thread block besides its keys.
    pub start_up: f64,
    /// Part of the longest block during which the others are done.
    pub tail: f64,
    pub blend: f64,
    pub bandwidth: f64,
}

/// D3: `f + c_n n + bytes / B + c_s sqrt(L)` for `n` sequences of mean context `L`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeForm {
    pub floor: f64,
    /// Seconds per sequence with 32 query and 8 KV heads.
    pub per_sequence: f64,
    pub bandwidth: f64,
    pub per_sqrt_context: f64,
}

/// What unequal contexts add: while the longest sequences finish, part of the GPU idles.
///
/// `alpha (t(longest) - t(mean))` with `alpha` a number of sequences by the batch size. The longest
/// context is taken as that of `n` draws from an exponential distribution, which lengths of prompts
/// and answers resemble more than any symmetric one: `mean + spread (ln n + 0.577 - 1)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SkewForm {
    /// Sequences whose excess is felt in a pure decode batch of 32 or more. Smaller batches leave
    /// room to split the long ones over more thread blocks: the number falls with the square.
    pub decode: f64,
    /// The same in a mixed batch, whose kernel splits nothing.
    pub mixed: f64,
}

/// Decode batches from this size on fill the GPU.
const FULL_DECODE: f64 = 32.0;

const EULER_MASCHERONI: f64 = 0.577_215_665;

/// The largest part of the difference that a mixed batch feels.
const MIXED_SHARE: f64 = 0.7;

impl SkewForm {
    /// Tokens that the longest of `seqs` contexts is over their mean, for each token of spread.
    fn excess(seqs: f64) -> f64 {
        // The harmonic number of `seqs`, less one.
        (seqs.max(1.0).ln() + EULER_MASCHERONI - 1.0).max(0.0)
    }
}

/// The surfaces of one GPU. All in SI units, per layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionForm {
    pub prefill: RaggedForm,
    pub decode: DecodeForm,
    pub mixed: RaggedForm,
    pub skew: SkewForm,
    /// Query rows of one thread block: [`TILE`] on GPUs, one on a processor, which pads nothing.
    pub tile: f64,
    pub multiprocessors: f64,
    /// Bytes that L2 holds of what all multiprocessors read.
    pub cache: f64,
}

/// What the ragged kernel has to do.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    count: f64,
    /// Keys that they walk along, added up.
    keys: f64,
    /// Keys of the longest.
    longest: f64,
    /// Bytes that it moves at least once.
    bytes: f64,
}

/// The prompt chunks of a step and the seconds of one layer for them alone.
#[derive(Clone, Copy, Debug)]
pub struct PrefillAlone {
    full: (Blocks, f64),
    windowed: Option<(Blocks, f64)>,
}

impl Blocks {
    /// Of `seqs` chunks of `tokens` in all that attend to `pairs` pairs over a `context` that is in
    /// the cache afterwards.
    ///
    /// They count as alike: each has the mean number of tokens, and the cached context that keeps the
    /// number of pairs.
    fn of_chunks(
        (shape, tile): (&AttentionShape, f64),
        seqs: f64,
        tokens: f64,
        pairs: f64,
        context: f64,
    ) -> Self {
        let rows = (tokens / seqs / tile).ceil() * tile;
        let count = shape.heads * seqs * rows / tile;
        // past + rows / 2, where past + tokens / 2 = pairs / tokens.
        let seen = pairs / tokens + (rows - tokens / seqs) / 2.0;
        let bytes = shape.kv_bytes_per_token() * context + shape.token_bytes() * tokens;
        Self { count, keys: count * seen, longest: context / seqs, bytes }
    }

    /// The same and `seqs` decoding sequences of `context` tokens in all.
    fn and_decoding(self, shape: &AttentionShape, seqs: f64, context: f64, cache: f64) -> Self {
        // Blocks of one head follow on each other: the next query head of the group finds its KV in
        // L2 if that of the whole batch fits.
        let of_head = 2.0 * shape.kv_bytes * shape.head_dim * context;
        let past_cache = (of_head / cache).powi(2);
        let again = past_cache / (1.0 + past_cache);
        let readers = shape.kv_heads + (shape.heads - shape.kv_heads) * again;
        Self {
            count: self.count + shape.heads * seqs,
            keys: self.keys + shape.heads * context,
            longest: self.longest.max(context / seqs),
            bytes: self.bytes + readers * of_head + shape.token_bytes() * seqs,
        }
    }
}

impl AttentionForm {
    /// Seconds of all layers for a batch that holds prefill chunks.
    pub fn with_prefill(&self, shape: &AttentionShape, step: &StepShape) -> f64 {
        self.beside_prefill(shape, step, &self.prefill_alone(shape, step))
    }

    /// What the prefill chunks of a step come to on their own. It depends on nothing else in the
    /// step, so whoever prices many steps with equal chunks keeps it.
    pub fn prefill_alone(&self, shape: &AttentionShape, step: &StepShape) -> PrefillAlone {
        let tokens = step.prefill_tokens as f64;
        let (seqs, context) = (f64::from(step.prefill_seqs), step.prefill_context as f64);
        let pairs = step.prefill_pairs as f64 / 2.0;
        let priced = |pairs: f64, context: f64| {
            let blocks = Blocks::of_chunks((shape, self.tile), seqs, tokens, pairs, context);
            (blocks, self.ragged(&self.prefill, shape, &blocks))
        };
        let full = priced(pairs, context);
        let windowed = (shape.window_layers > 0.0).then(|| {
            priced(pairs.min(tokens * shape.window), context.min(seqs * shape.window + tokens))
        });
        PrefillAlone { full, windowed }
    }

    /// As [`AttentionForm::with_prefill`], with the chunks priced already.
    pub fn beside_prefill(
        &self,
        shape: &AttentionShape,
        step: &StepShape,
        alone: &PrefillAlone,
    ) -> f64 {
        let (seqs, context) = (f64::from(step.decode_seqs), step.decode_context as f64);
        let mut layer = self.layer(shape, alone.full, seqs, context);
        let spread = if self.skew.mixed > 0.0 { step.decode_spread() } else { 0 };
        if spread > 0 {
            let longest = context + seqs * f64::from(spread) * SkewForm::excess(seqs);
            let more = self.layer(shape, alone.full, seqs, longest) - layer;
            layer += (self.skew.mixed / seqs).min(MIXED_SHARE) * more;
        }
        let mut seconds = shape.full_layers * layer;
        if let Some(windowed) = alone.windowed {
            let context = context.min(seqs * shape.window);
            seconds += shape.window_layers * self.layer(shape, windowed, seqs, context);
        }
        seconds
    }

    fn layer(
        &self,
        shape: &AttentionShape,
        (chunks, alone): (Blocks, f64),
        seqs: f64,
        context: f64,
    ) -> f64 {
        if seqs == 0.0 {
            return alone;
        }
        let blocks = chunks.and_decoding(shape, seqs, context, self.cache);
        // The surfaces are separate fits: a batch never costs less than a part of it.
        self.ragged(&self.mixed, shape, &blocks)
            .max(alone)
            .max(self.decode_layer(shape, seqs, context))
    }

    fn ragged(&self, form: &RaggedForm, shape: &AttentionShape, blocks: &Blocks) -> f64 {
        let key = 4.0 * self.tile * shape.head_dim * self.multiprocessors / form.peak;
        let longest = blocks.longest * key + form.start_up;
        let spread = (blocks.keys * key + blocks.count * form.start_up) / self.multiprocessors;
        let compute = longest.max(spread + form.tail * longest);
        let past_cache = (blocks.bytes / self.cache).powi(4);
        let missed = past_cache / (1.0 + past_cache);
        let memory = blocks.bytes * (CACHED + (1.0 - CACHED) * missed) / form.bandwidth;
        form.floor + blend(compute, memory, form.blend)
    }

    /// Seconds of one layer for `seqs` decode sequences of `context` tokens in all.
    pub fn decode_seconds(&self, shape: &AttentionShape, seqs: u32, context: u64) -> f64 {
        self.decode_layer(shape, f64::from(seqs), context as f64)
    }

    fn decode_layer(&self, shape: &AttentionShape, seqs: f64, context: f64) -> f64 {
        let form = &self.decode;
        form.floor
            + form.per_sequence * seqs * head_factor(shape)
            + shape.kv_bytes_per_token() * context / form.bandwidth
            + form.per_sqrt_context * (context / seqs).sqrt()
    }

    /// Nanoseconds of a pure decode batch for each token of spread between its contexts.
    pub fn decode_per_spread(&self, shape: &AttentionShape, seqs: u32) -> f64 {
        let seqs = f64::from(seqs);
        let felt = self.skew.decode * (seqs / FULL_DECODE).powi(2).min(1.0);
        let per_token = shape.kv_bytes_per_token() / self.decode.bandwidth;
        shape.full_layers * felt * per_token * SkewForm::excess(seqs) * 1e9
    }

    /// Pure decode of `seqs` sequences over all layers, as a function of their total context.
    pub fn decode_curve(&self, shape: &AttentionShape, seqs: u32) -> ContextCost {
        let form = &self.decode;
        let seqs = f64::from(seqs);
        let nanos = 1e9;
        let constant =
            shape.layers() * (form.floor + form.per_sequence * seqs * head_factor(shape)) * nanos;
        // Of one layer: per token of total context, and per square root of it.
        let per_token = shape.kv_bytes_per_token() / form.bandwidth * nanos;
        let per_sqrt = form.per_sqrt_context / seqs.sqrt() * nanos;
        if shape.window_layers > 0.0 {
            ContextCost::Windowed {
                constant,
                per_token: shape.full_layers * per_token,
                per_sqrt: shape.full_layers * per_sqrt,
                window: seqs * shape.window,
                window_per_token: shape.window_layers * per_token,
                window_per_sqrt: shape.window_layers * per_sqrt,
            }
        } else {
            ContextCost::Curve {
                constant,
                per_token: shape.full_layers * per_token,
                per_sqrt: shape.full_layers * per_sqrt,
            }
        }
    }
}

/// Work per sequence relative to 32 query and 8 KV heads: kernels that pack the query heads of a
/// KV head launch one block per KV head, and combine per query head. Fitted on the A100 and L40S
/// tables, which vary the heads; 1 for the RTX tables, which do not.
fn head_factor(shape: &AttentionShape) -> f64 {
    (shape.kv_heads + shape.heads / 64.0) / 8.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RTX PRO 6000: decode of operator-surfaces.md 4.3, the others from the same tables.
    fn pro() -> AttentionForm {
        AttentionForm {
            prefill: RaggedForm {
                floor: 0.1e-6,
                peak: 293e12,
                start_up: 6.75e-6,
                tail: 0.374,
                blend: 2.57,
                bandwidth: 538e9,
            },
            decode: DecodeForm {
                floor: 11.8e-6,
                per_sequence: 108e-9,
                bandwidth: 1469e9,
                per_sqrt_context: 47e-9,
            },
            mixed: RaggedForm {
                floor: 0.1e-6,
                peak: 283e12,
                start_up: 6.05e-6,
                tail: 0.476,
                blend: 8.0,
                bandwidth: 1792e9,
            },
            skew: SkewForm { decode: 4.0, mixed: 2.5 },
            tile: TILE,
            multiprocessors: 188.0,
            cache: 128e6,
        }
    }

    /// One layer of Llama-3.1-8B.
    const LLAMA: AttentionShape = AttentionShape {
        heads: 32.0,
        kv_heads: 8.0,
        head_dim: 128.0,
        kv_bytes: 2.0,
        full_layers: 1.0,
        window_layers: 0.0,
        window: f64::INFINITY,
    };

    fn decode_micros(shape: &AttentionShape, seqs: u32, context: u64) -> f64 {
        pro().decode_curve(shape, seqs).at(context).as_secs_f64() * 1e6
    }

    #[test]
    fn a_published_decode_point_comes_out_within_the_stated_residual() {
        // Terms of D3 at n = 32, L = 1024: 11.8 + 3.456 + 91.36 + 1.504 us.
        let micros = decode_micros(&LLAMA, 32, 32 * 1024);
        assert!((micros - 108.12).abs() < 0.1, "{micros}");
    }

    #[test]
    fn halving_the_kv_dtype_halves_the_bytes_read() {
        let half = AttentionShape { kv_bytes: 1.0, ..LLAMA };
        let grows = |shape| decode_micros(&shape, 64, 64 * 8192) - decode_micros(&shape, 64, 0);
        let sqrt = 47e-3 * (8192f64).sqrt();
        assert!(((grows(LLAMA) - sqrt) / (grows(half) - sqrt) - 2.0).abs() < 1e-3);
    }

    #[test]
    fn a_mixed_batch_costs_more_than_its_parts_priced_apart() {
        // operator-surfaces.md 4.4: adding the two pure times is 18-30 % too low in the median.
        for seqs in [32u32, 128] {
            let context = u64::from(seqs) * 1024;
            let mut prefill = StepShape::default();
            prefill.push(0, 512);
            let apart =
                pro().with_prefill(&LLAMA, &prefill) * 1e6 + decode_micros(&LLAMA, seqs, context);
            let mixed = StepShape { decode_seqs: seqs, decode_context: context, ..prefill };
            let together = pro().with_prefill(&LLAMA, &mixed) * 1e6;
            assert!(together > apart, "{seqs}: {together} {apart}");
        }
    }

    #[test]
    fn unequal_contexts_take_a_few_per_cent_longer() {
        let mut step = StepShape::decode(64, 64 * 1000);
        step.push_prefill(0, 512);
        let even = pro().with_prefill(&LLAMA, &step);
        // Half of them 500 tokens shorter than the mean, half longer.
        let decode_squares = 32 * (500 * 500 + 1500 * 1500);
        let unequal = StepShape { decode_squares, ..step };
        assert_eq!(unequal.decode_spread(), 500);
        let skewed = pro().with_prefill(&LLAMA, &unequal);
        assert!((1.01..1.15).contains(&(skewed / even)), "{}", skewed / even);
        let curve = decode_micros(&LLAMA, 64, 64 * 1000);
        let more = pro().decode_per_spread(&LLAMA, 64) * 500.0 * 1e-3;
        assert!((0.01..0.15).contains(&(more / curve)), "{}", more / curve);
        // A single sequence is as long as itself.
        assert_eq!(pro().decode_per_spread(&LLAMA, 1), 0.0);
    }

    #[test]
    fn a_window_caps_what_sliding_layers_read() {
        let sliding =
            AttentionShape { full_layers: 0.0, window_layers: 1.0, window: 4096.0, ..LLAMA };
        assert_eq!(decode_micros(&sliding, 4, 4 * 4000), decode_micros(&LLAMA, 4, 4 * 4000));
        assert_eq!(decode_micros(&sliding, 4, 4 * 9000), decode_micros(&LLAMA, 4, 4 * 4096));
        let mut long = StepShape::default();
        long.push(30_000, 512);
        assert!(pro().with_prefill(&sliding, &long) < 0.3 * pro().with_prefill(&LLAMA, &long));
    }

    fn chunks(seqs: u32, tokens: u32) -> StepShape {
        let mut shape = StepShape::default();
        (0..seqs).for_each(|_| shape.push_prefill(0, tokens));
        shape
    }

    #[test]
    fn a_short_chunk_takes_the_blocks_of_a_whole_tile() {
        // 256 chunks of 16 tokens make as many blocks as 256 of 64, not as 64 of them.
        let prefill = RaggedForm { bandwidth: 1e15, ..pro().prefill };
        let [short, whole, few] = [chunks(256, 16), chunks(256, 64), chunks(64, 64)]
            .map(|step| AttentionForm { prefill, ..pro() }.with_prefill(&LLAMA, &step));
        assert!(short > 0.9 * whole && short < whole, "{short} {whole}");
        assert!(short > 3.0 * few, "{short} {few}");
        // A processor computes the rows that there are.
        let host = AttentionForm { prefill, tile: 1.0, ..pro() };
        let [short, whole] =
            [chunks(256, 16), chunks(256, 64)].map(|step| host.with_prefill(&LLAMA, &step));
        assert!(short < 0.3 * whole, "{short} {whole}");
    }

    #[test]
    fn what_the_cache_holds_is_faster_than_what_it_does_not() {
        let slow = |cache| {
            let bound = RaggedForm { bandwidth: 100e9, ..pro().prefill };
            AttentionForm { prefill: bound, cache, ..pro() }.with_prefill(&LLAMA, &chunks(64, 64))
        };
        // 4,096 tokens of 28 KiB each: 117 MB.
        let (held, missed) = (slow(500e6), slow(20e6));
        assert!((0.35..0.6).contains(&(held / missed)), "{held} {missed}");
    }

    #[test]
    fn chunks_of_one_batch_do_not_attend_to_each_other() {
        let (mut apart, mut together) = (StepShape::default(), StepShape::default());
        (0..4).for_each(|_| apart.push(0, 512));
        together.push(0, 2048);
        assert!(pro().with_prefill(&LLAMA, &apart) < 0.5 * pro().with_prefill(&LLAMA, &together));
    }

    proptest! {
        #[test]
        fn time_grows_with_context_and_batch(
            seqs in 1u32..256, mean in 1u64..20_000, more in 0u64..5_000,
            past in 0u32..20_000, new in 2u32..4096,
        ) {
            let n = u64::from(seqs);
            prop_assert!(decode_micros(&LLAMA, seqs, n * (mean + more)) >= decode_micros(&LLAMA, seqs, n * mean));
            prop_assert!(decode_micros(&LLAMA, seqs + 1, (n + 1) * mean) >= decode_micros(&LLAMA, seqs, n * mean));
            let mut shape = StepShape::default();
            shape.push(past, new);
            let mut longer = StepShape::default();
            longer.push(past + more as u32, new + more as u32);
            let seconds = |shape: &StepShape| pro().with_prefill(&LLAMA, shape);
            prop_assert!(seconds(&longer) >= seconds(&shape));
            let joined = StepShape { decode_seqs: seqs, decode_context: n * mean, ..shape };
            prop_assert!(seconds(&joined) >= seconds(&shape));
            prop_assert!(seconds(&joined) * 1e6 >= decode_micros(&LLAMA, seqs, n * mean) - 0.01);
        }
    }
}
