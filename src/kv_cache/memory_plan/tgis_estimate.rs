//! The memory estimation of TGIS 2024 (`ESTIMATE_MEMORY=auto`): after loading, the server runs
//! prefills and decodes, notes their peaks, and fits the coefficients by which the router bills
//! requests (`engines/tgis-tgi.md` A9; IBM text-generation-inference 006006d, server
//! `utils/memory_characterizer.py`).
//!
//! What it would measure we compute, from the tensors that stand at the peak; what it fits, we fit
//! in the same way. The coefficients travel to the router as 32-bit floats.

use crate::units::Bytes;

use super::TgisMemoryModel;

/// Sequences of every prefill that is tried (`ESTIMATE_MEMORY_BATCH_SIZE`).
pub(super) const BATCH: f64 = 16.0;
/// Shortest and longest prompts that are tried.
pub(super) const SHORTEST: u32 = 100;
const LONGEST: u32 = 1500;
/// Searches stop at this distance.
const SEARCH_STOP: u32 = 10;
/// Peaks are linear as long as they stay this near to the line.
const LINEAR_TOLERANCE: f64 = 0.02;
/// Samples above the inflection that the quadratic is fitted to.
const QUADRATIC_SAMPLES: u32 = 5;

/// What stands at the peak of a prefill beyond the loaded model, in bytes for each prompt token. Of
/// a layer's two halves and the logits only one stands at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PrefillPeak {
    pub kv: f64,
    pub mlp: f64,
    pub attention: f64,
    /// For each token attended, padding included: the scores that eager attention writes out. Flash
    /// attention has none.
    pub scores: f64,
    pub logits: f64,
}

impl PrefillPeak {
    /// Bytes for each token of prompts of `length`.
    fn per_token(&self, length: f64) -> f64 {
        self.kv + (self.attention + self.scores * length).max(self.mlp).max(self.logits)
    }

    /// Bytes of a prefill of the estimation.
    pub fn bytes(&self, length: u32) -> f64 {
        let length = f64::from(length);
        BATCH * length * self.per_token(length)
    }
}

/// The router's memory model, or `None` if no prefill that is tried fits in `free`. `next_token` is
/// what a resident token takes while decoding.
pub(super) fn estimate(
    peak: PrefillPeak,
    next_token: Bytes,
    free: Bytes,
    budget: Bytes,
) -> Option<TgisMemoryModel> {
    let mut samples = Samples { peak, taken: Vec::new() };
    let stop = samples.find_longest(free)?;
    let (longest_linear, slope) = samples.find_linear_part();
    let inflection = if SHORTEST < longest_linear && longest_linear < stop {
        samples.find_inflection(longest_linear, stop, slope)
    } else {
        longest_linear
    };
    let quadratic = match inflection == stop {
        true => [0.0, 0.0],
        false => samples.fit_quadratic(inflection, stop),
    };
    Some(TgisMemoryModel {
        free,
        budget,
        prefill_bytes_per_token: as_f32(slope),
        prefill_quadratic: quadratic.map(as_f32),
        next_token_bytes_per_token: as_f32(next_token.as_f64()),
    })
}

/// The peaks that were measured so far, by length of the prompts.
struct Samples {
    peak: PrefillPeak,
    taken: Vec<(u32, f64)>,
}

impl Samples {
    fn take(&mut self, length: u32) -> f64 {
        let bytes = self.peak.bytes(length);
        let at = self.taken.partition_point(|&(other, _)| other < length);
        self.taken.insert(at, (length, bytes));
        bytes
    }

    /// The longest prompts that were seen to fit.
    fn find_longest(&mut self, free: Bytes) -> Option<u32> {
        let (mut low, mut high, mut tried) = (SHORTEST, LONGEST, LONGEST);
        while high - low > SEARCH_STOP {
            if self.peak.bytes(tried) > free.as_f64() {
                high = tried;
                tried = (tried + low) / 2;
            } else {
                self.take(tried);
                low = tried;
                tried = (tried + high) / 2;
            }
        }
        (!self.taken.is_empty()).then_some(low)
    }

    /// The end of the range in which the peak is proportional to the tokens, and the bytes for each
    /// there; both 0 if there is none. The search comes down from the shortest prompts that were
    /// tried, as short ones are cheap to try.
    fn find_linear_part(&mut self) -> (u32, f64) {
        let (mut upper, mut bytes) = self.taken[0];
        let lower = SHORTEST.min(upper);
        let gradient = loop {
            if lower >= upper {
                return (0, 0.0);
            }
            let gradient = bytes / f64::from(upper);
            let target = (lower + upper) / 2;
            let measured = self.take(target);
            if (measured - gradient * f64::from(target)).abs() <= LINEAR_TOLERANCE * measured {
                break gradient;
            }
            (upper, bytes) = (target, measured);
        };
        // Longer ones that were tried before may lie on the line as well.
        let on_the_line = |&&(length, bytes): &&(u32, f64)| {
            length <= upper
                || (bytes / f64::from(length) / gradient - 1.0).abs() <= LINEAR_TOLERANCE
        };
        let count = self.taken.iter().take_while(on_the_line).count();
        let (longest, _) = self.taken[count - 1];
        // The fit leaves the last of them out, and is through the origin.
        let (mut products, mut squares) = (0.0, 0.0);
        for &(length, bytes) in &self.taken[..count - 1] {
            let tokens = BATCH * f64::from(length);
            products += tokens * bytes;
            squares += tokens * tokens;
        }
        (longest, products / squares)
    }

    /// Where the peak leaves the line.
    fn find_inflection(&mut self, longest_linear: u32, stop: u32, slope: f64) -> u32 {
        let (mut low, mut high) = (longest_linear, stop);
        while high - low > SEARCH_STOP {
            let middle = (low + high) / 2;
            let measured = self.take(middle);
            let line = slope * BATCH * f64::from(middle);
            if (measured - line).abs() <= LINEAR_TOLERANCE * measured {
                low = middle;
            } else {
                high = middle;
            }
        }
        let middle = (low + high) / 2;
        if stop - middle < SEARCH_STOP { stop } else { middle }
    }

    /// Non-negative least squares of `peak = q1 * batch * length + q2 * batch * length^2` above the
    /// inflection.
    fn fit_quadratic(&mut self, inflection: u32, stop: u32) -> [f64; 2] {
        let above = |samples: &Self| {
            let above = samples.taken.iter().filter(|&&(length, _)| length > inflection);
            above.copied().collect::<Vec<_>>()
        };
        let known = u32::try_from(above(self).len()).expect("a few");
        if let Some(missing) = QUADRATIC_SAMPLES.checked_sub(known).filter(|&n| n > 0) {
            let start = inflection + 1;
            let stride = ((stop - start) / missing).max(1);
            for length in (start..stop).step_by(stride as usize) {
                self.take(length);
            }
        }
        // Normal equations with the length in units of `stop`, so that they are well conditioned.
        let unit = f64::from(stop);
        let (mut a, mut b, mut c, mut x, mut y) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (length, bytes) in above(self) {
            let u = f64::from(length) / unit;
            let v = u * u;
            a += u * u;
            b += u * v;
            c += v * v;
            x += u * bytes;
            y += v * bytes;
        }
        let determinant = a * c - b * b;
        let (q1, q2) = ((x * c - y * b) / determinant, (y * a - x * b) / determinant);
        let (q1, q2) = match (q1 >= 0.0, q2 >= 0.0) {
            (true, true) => (q1, q2),
            (false, _) => (0.0, y / c),
            (true, false) => (x / a, 0.0),
        };
        [q1 / BATCH / unit, q2 / BATCH / (unit * unit)]
    }
}

fn as_f32(x: f64) -> f64 {
    f64::from(x as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = Bytes::GIB;

    fn flash() -> PrefillPeak {
        PrefillPeak { kv: 5e5, mlp: 8e4, attention: 5e4, scores: 0.0, logits: 6e4 }
    }

    fn padded() -> PrefillPeak {
        PrefillPeak { scores: 256.0, ..flash() }
    }

    fn model(peak: PrefillPeak, free: u64) -> TgisMemoryModel {
        let free = Bytes::new(free * GIB);
        estimate(peak, Bytes::new(1_000_000), free, free.scale(0.8)).expect("the shortest fits")
    }

    #[test]
    fn without_scores_the_peak_is_linear() {
        let model = model(flash(), 40);
        assert_eq!(model.prefill_quadratic, [0.0, 0.0]);
        assert_eq!(model.prefill_bytes_per_token, 580_000.0);
    }

    #[test]
    fn the_scores_of_eager_attention_are_the_quadratic_coefficient() {
        let model = model(padded(), 40);
        let [q1, q2] = model.prefill_quadratic;
        assert!((q1 / 550_000.0 - 1.0).abs() < 1e-3, "{q1}");
        assert!((q2 / 256.0 - 1.0).abs() < 1e-3, "{q2}");
        // Linear while the layer's other half is the larger, and a little further.
        assert!((model.prefill_bytes_per_token / 580_000.0 - 1.0).abs() < LINEAR_TOLERANCE);
    }

    #[test]
    fn a_bill_is_never_far_below_the_peak_within_the_range_that_was_tried() {
        for peak in [flash(), padded()] {
            let model = model(peak, 40);
            for length in (SHORTEST..=LONGEST).step_by(7) {
                let tokens = BATCH * f64::from(length);
                let [q1, q2] = model.prefill_quadratic;
                let linear = tokens * model.prefill_bytes_per_token;
                let bill = linear.max(tokens * q1 + tokens * f64::from(length) * q2);
                let off = bill / peak.bytes(length) - 1.0;
                assert!(off.abs() < 1.1 * LINEAR_TOLERANCE, "{length}: {off}");
            }
        }
    }

    #[test]
    fn little_memory_shortens_the_range_and_less_refuses() {
        // 16 x 100 take 0.9 GiB: 1 GiB ends the search before the inflection near 120.
        assert_eq!(model(padded(), 1).prefill_quadratic, [0.0, 0.0]);
        let tiny = Bytes::new(GIB / 2);
        assert_eq!(estimate(padded(), Bytes::new(1), tiny, tiny), None);
    }
}
