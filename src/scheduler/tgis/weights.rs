//! TGIS's measure of how much a batch will weigh, by generation and batch type.
//!
//! Source: IBM text-generation-inference 6645b7a (2023-11-22) and 006006d (2025-05-08),
//! `router/src/batch_types.rs`; rules in words in `engines/tgis-tgi.md` A3 and A4.

/// How the shard lays sequences out in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchType {
    /// Concatenated without padding (`FlashCausalLM`).
    Flash,
    /// A rectangle as wide as the longest sequence (`CausalLM`).
    Padded,
}

/// The limits that admission is held to, by generation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightRules {
    /// Nov 2023: weights in tokens (flash) or tokens squared (padded), set by hand.
    Tgis2023 {
        max_batch_weight: u64,
        /// 0 turns the prefill limit off.
        max_prefill_weight: u64,
    },
    /// Since 2024-01-29: bytes, from a memory model fitted at start-up.
    Tgis2024 {
        weight_limit: u64,
        prefill_linear: f64,
        prefill_quadratic: [f64; 2],
        nexttoken: [f64; 2],
        /// Largest share of a prefill that may be padding; 1 is no limit.
        max_prefill_padding: f32,
    },
}

impl WeightRules {
    pub fn weight_limit(&self) -> u64 {
        match *self {
            Self::Tgis2023 { max_batch_weight, .. } => max_batch_weight,
            Self::Tgis2024 { weight_limit, .. } => weight_limit,
        }
    }

    /// The prefill limit before it is scaled by the free share; 0 is no limit.
    pub fn prefill_limit(&self) -> u64 {
        match *self {
            Self::Tgis2023 { max_prefill_weight, .. } => max_prefill_weight,
            Self::Tgis2024 { weight_limit, .. } => weight_limit,
        }
    }

    /// `MAX_BATCH_WEIGHT` where it is not set: what `MAX_BATCH_SIZE` requests of the greatest
    /// length weigh at their start.
    pub fn default_batch_weight(batch: BatchType, sequence_length: u32, batch_size: u32) -> u64 {
        let length = u64::from(sequence_length);
        let one = match batch {
            BatchType::Flash => length,
            BatchType::Padded => length * length,
        };
        one * u64::from(batch_size)
    }

    /// `MAX_PREFILL_WEIGHT` where it is not set.
    pub const fn default_prefill_weight(batch: BatchType) -> u64 {
        match batch {
            BatchType::Flash => 8192,
            BatchType::Padded => 300_000,
        }
    }
}

/// Sums and maxima over a set of sequences: `input` tokens that stand in memory, `output` tokens
/// still to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStats {
    pub sum_input: u64,
    pub sum_output: u64,
    pub max_input: u64,
    pub max_output: u64,
}

impl BatchStats {
    pub fn push(&mut self, input: u64, output: u64) {
        self.sum_input += input;
        self.sum_output += output;
        self.max_input = self.max_input.max(input);
        self.max_output = self.max_output.max(output);
    }
}

/// The weights of a batch under one rule set.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub batch: BatchType,
    pub rules: WeightRules,
}

impl Weights {
    /// Bytes per token of a growing sequence (2024): flash takes the second coefficient, padded the
    /// larger of the two.
    fn growth(&self) -> f64 {
        match (self.rules, self.batch) {
            (WeightRules::Tgis2023 { .. }, _) => 1.0,
            (WeightRules::Tgis2024 { nexttoken, .. }, BatchType::Flash) => nexttoken[1],
            (WeightRules::Tgis2024 { nexttoken, .. }, BatchType::Padded) => {
                nexttoken[0].max(nexttoken[1])
            }
        }
    }

    /// An upper bound of what `n` sequences will ever weigh together.
    pub fn max_weight(&self, stats: &BatchStats, n: u64) -> u64 {
        match (self.rules, self.batch) {
            (WeightRules::Tgis2023 { .. }, BatchType::Flash) => stats.sum_input + stats.sum_output,
            (WeightRules::Tgis2023 { .. }, BatchType::Padded) => {
                n * (stats.max_input + stats.max_output).pow(2)
            }
            (WeightRules::Tgis2024 { .. }, BatchType::Flash) => {
                ((stats.sum_input + stats.sum_output) as f64 * self.growth()) as u64
            }
            (WeightRules::Tgis2024 { .. }, BatchType::Padded) => {
                ((stats.max_input + stats.max_output) as f64 * n as f64 * self.growth()) as u64
            }
        }
    }

    /// What `n` sequences weigh now.
    pub fn initial_weight(&self, stats: &BatchStats, n: u64) -> u64 {
        match (self.rules, self.batch) {
            (WeightRules::Tgis2023 { .. }, BatchType::Flash) => stats.sum_input,
            (WeightRules::Tgis2023 { .. }, BatchType::Padded) => n * stats.max_input.pow(2),
            (WeightRules::Tgis2024 { .. }, BatchType::Flash) => {
                (stats.sum_input as f64 * self.growth()) as u64
            }
            (WeightRules::Tgis2024 { .. }, BatchType::Padded) => {
                (stats.max_input as f64 * n as f64 * self.growth()) as u64
            }
        }
    }

    /// What the prefill of `n` prompts weighs.
    pub fn prefill_weight(&self, stats: &BatchStats, n: u64) -> u64 {
        match (self.rules, self.batch) {
            (WeightRules::Tgis2023 { .. }, BatchType::Flash) => stats.sum_input,
            (WeightRules::Tgis2023 { .. }, BatchType::Padded) => {
                n * (stats.max_input.pow(3) as f64).sqrt() as u64
            }
            (WeightRules::Tgis2024 { prefill_linear, .. }, BatchType::Flash) => {
                (stats.sum_input as f64 * prefill_linear) as u64
            }
            (
                WeightRules::Tgis2024 { prefill_linear, prefill_quadratic, .. },
                BatchType::Padded,
            ) => {
                let input = stats.max_input as f64;
                let tokens = n as f64 * input;
                let quadratic =
                    tokens * prefill_quadratic[0] + tokens * input * prefill_quadratic[1];
                (tokens * prefill_linear).max(quadratic) as u64
            }
        }
    }

    /// Whether the prefill of `n` prompts holds more padding than allowed (2024, padded models).
    pub fn too_much_padding(&self, stats: &BatchStats, n: u64) -> bool {
        match (self.rules, self.batch) {
            (WeightRules::Tgis2024 { max_prefill_padding, .. }, BatchType::Padded) => {
                let rectangle = n * stats.max_input;
                let padding = (rectangle - stats.sum_input) as f32 / rectangle as f32;
                padding > max_prefill_padding
            }
            _ => false,
        }
    }

    /// Whether the sequences `(output, input)`, those with most output first, will at some time weigh
    /// more than the limit together with `newcomer`, looking only at times up to its end: at each
    /// end of a sequence until then, all with at least as much left are still alive.
    pub fn exceeds(&self, sequences: &[(u64, u64)], newcomer: (u64, u64)) -> bool {
        let limit = self.rules.weight_limit();
        let outlasting = sequences.partition_point(|&(output, _)| output > newcomer.0);
        let (outlasting, rest) = sequences.split_at(outlasting);
        let mut sum = outlasting.iter().map(|&(_, input)| input).sum::<u64>();
        let mut longest = outlasting.iter().map(|&(_, input)| input).max().unwrap_or(0);
        let alive = u64::try_from(outlasting.len()).expect("a batch fits u64") + 1;
        // Among those that end together only the last matters: neither sum nor count falls.
        (alive..).zip([newcomer].iter().chain(rest)).any(|(alive, &(output, input))| {
            sum += input;
            longest = input.max(longest);
            match (self.rules, self.batch) {
                (WeightRules::Tgis2023 { .. }, BatchType::Flash) => sum + alive * output > limit,
                (WeightRules::Tgis2023 { .. }, BatchType::Padded) => {
                    alive * (longest + output).pow(2) > limit
                }
                (WeightRules::Tgis2024 { .. }, BatchType::Flash) => {
                    (sum + alive * output) as f64 * self.growth() > limit as f64
                }
                (WeightRules::Tgis2024 { .. }, BatchType::Padded) => {
                    ((longest + output) * alive) as f64 * self.growth() > limit as f64
                }
            }
        })
    }
}
