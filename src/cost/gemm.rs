//! Matrix multiplication: the time of `C[m,n] = A[m,k] x B[k,n]` on one GPU.
//!
//! Form "H" of `../shared/physics/operator-surfaces.md` 4.1: the cheapest of a menu of tiles and
//! splits, blended with the time to move the operands. The tile menu is what pays against a plain
//! roofline: it makes the steps in `m` and the loss on narrow matrices come out.

use crate::units::{Bandwidth, FlopRate};

/// Output tiles (rows, columns) that GEMM libraries choose among.
const TILES: [(f64, f64); 10] = [
    (256.0, 128.0),
    (128.0, 256.0),
    (128.0, 128.0),
    (128.0, 64.0),
    (64.0, 128.0),
    (64.0, 64.0),
    (32.0, 64.0),
    (16.0, 64.0),
    (16.0, 128.0),
    (64.0, 32.0),
];

/// Ways to split the sum over `k` among thread blocks.
const SPLITS: [f64; 7] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0];

/// The extra launch that adds up a split sum.
const SPLIT_SECONDS: f64 = 2e-6;

/// Tiles advance along `k` in slices of this many elements.
const SLICE: f64 = 32.0;

/// One matrix multiplication, or `groups` equal ones in one kernel (the experts of a layer).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GemmWork {
    /// Rows per group: tokens, or an expert's share of them.
    pub m: f64,
    pub n: f64,
    pub k: f64,
    pub groups: f64,
    /// Bytes of one group's weights.
    pub weight_bytes: f64,
    /// Bytes of one element of the input; the output has two bytes per element.
    pub input_bytes: f64,
}

impl GemmWork {
    /// A dense product with `bytes` per element on both sides.
    pub fn dense(m: f64, n: f64, k: f64, bytes: f64) -> Self {
        Self { m, n, k, groups: 1.0, weight_bytes: n * k * bytes, input_bytes: bytes }
    }

    pub fn flops(&self) -> f64 {
        2.0 * self.m * self.n * self.k * self.groups
    }

    /// Bytes moved at least once.
    pub fn bytes(&self) -> f64 {
        let output_bytes = self.input_bytes.max(2.0);
        self.groups
            * (self.weight_bytes
                + self.input_bytes * self.m * self.k
                + output_bytes * self.m * self.n)
    }
}

/// The seven parameters of form "H" and the limits that no result may pass, in SI units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GemmForm {
    /// Asymptotic rate in operations per second: with `tile_loss` and `start_up` it is not itself
    /// reached.
    pub peak: f64,
    pub bandwidth: f64,
    /// Seconds that any kernel takes.
    pub floor: f64,
    /// Exponent of the blend of compute and memory time; large means the maximum.
    pub blend: f64,
    /// Loss of small tiles: efficiency `1 / (1 + loss (64/rows + 64/columns))`.
    pub tile_loss: f64,
    /// Seconds that a tile takes besides its operations.
    pub start_up: f64,
    /// Bandwidth lost as `m` grows: bytes cost `1 + loss * m / (m + 32)`.
    pub row_loss: f64,
    pub multiprocessors: f64,
    /// Operations per second that the GPU can do at all.
    pub peak_limit: f64,
    /// DRAM bytes per second that the GPU can move at all.
    pub bandwidth_limit: f64,
}

impl GemmForm {
    pub fn with_limits(mut self, peak: FlopRate, bandwidth: Bandwidth) -> Self {
        self.peak_limit = peak.per_s();
        self.bandwidth_limit = bandwidth.bytes_per_s();
        self
    }

    /// Seconds; zero without rows.
    pub fn seconds(&self, work: &GemmWork) -> f64 {
        if work.m <= 0.0 { 0.0 } else { self.beside_memory(work, self.compute(work)) }
    }

    /// With the seconds of the tiles known.
    fn beside_memory(&self, work: &GemmWork, compute: f64) -> f64 {
        let blended = self.floor + blend(compute, self.memory(work), self.blend);
        // The fit is a curve through noisy points; the hardware's limits are not.
        blended.max(work.flops() / self.peak_limit).max(work.bytes() / self.bandwidth_limit)
    }

    fn memory(&self, work: &GemmWork) -> f64 {
        work.bytes() / self.bandwidth * (1.0 + self.row_loss * work.m / (work.m + 32.0))
    }

    /// The cheapest tile and split: waves of tiles over the multiprocessors, with thread blocks of
    /// a partly filled wave overlapping its neighbours by 30 %.
    fn compute(&self, work: &GemmWork) -> f64 {
        let per_multiprocessor = self.peak / self.multiprocessors;
        // Of each tile: its operations per unit of depth, its rate, and how many there are.
        let menu = TILES.map(|(rows, columns)| {
            let efficiency = 1.0 / (1.0 + self.tile_loss * (64.0 / rows + 64.0 / columns));
            let tiles = work.groups * ceil(work.m / rows) * ceil(work.n / columns);
            (2.0 * rows * columns, per_multiprocessor * efficiency, tiles)
        });
        let mut best = f64::INFINITY;
        for split in SPLITS {
            let depth = SLICE * ceil(work.k / (SLICE * split));
            let join = if split > 1.0 { SPLIT_SECONDS } else { 0.0 };
            for (flops, rate, tiles) in menu {
                let tile = flops * depth / rate + self.start_up;
                let filled = split * tiles / self.multiprocessors;
                // At least so many waves, rounded up or not: most of the menu ends here.
                let fewest = if filled > 1.0 { filled } else { 1.0 };
                if fewest * tile + join < best {
                    let waves = 0.3 * fewest + 0.7 * ceil(filled);
                    let time = waves * tile + join;
                    best = if time < best { time } else { best };
                }
            }
        }
        best
    }
}

/// Rows by which every tile of the menu is cut: as long as they are no more, they are all alike.
const ROW_STEP: f64 = 16.0;

/// Products with one more row step each are remembered up to here: 16,384 rows.
const REMEMBERED: usize = 1024;

/// The products with weights of one shape. It gives what [`GemmForm::seconds`] gives, and
/// remembers what the best tiles take, which changes only every [`ROW_STEP`] rows.
#[derive(Clone, Debug)]
pub struct Weights {
    form: GemmForm,
    n: f64,
    k: f64,
    /// By row steps; NaN where it was not asked for.
    compute: Vec<f64>,
}

impl Weights {
    /// Of `n` columns and depth `k`.
    pub fn new(form: GemmForm, n: f64, k: f64) -> Self {
        Self { form, n, k, compute: Vec::new() }
    }

    pub fn form(&self) -> &GemmForm {
        &self.form
    }

    /// Seconds of a product with these weights; zero without rows.
    pub fn seconds(&mut self, work: &GemmWork) -> f64 {
        debug_assert!(work.n == self.n && work.k == self.k, "{work:?} has other weights");
        let steps = ceil(work.m / ROW_STEP) as usize;
        if work.groups != 1.0 || !(1..=REMEMBERED).contains(&steps) {
            return self.form.seconds(work);
        }
        if self.compute.len() < steps {
            self.compute.resize(steps, f64::NAN);
        }
        let compute = &mut self.compute[steps - 1];
        if compute.is_nan() {
            *compute = self.form.compute(work);
        }
        self.form.beside_memory(work, *compute)
    }
}

/// Rounds up a number that is not negative and below 2^63. `f64::ceil` is a call where the target's
/// baseline has no instruction for it, and it is most of a product's price.
fn ceil(x: f64) -> f64 {
    let whole = x as i64 as f64;
    if whole < x { whole + 1.0 } else { whole }
}

/// `(a^p + b^p)^(1/p)` without overflow; the maximum for large `p`, the sum for 1.
pub(super) fn blend(a: f64, b: f64, p: f64) -> f64 {
    // Adding is enough for many surfaces, and a power costs as much as the rest of the form.
    if p == 1.0 {
        return a + b;
    }
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if high <= 0.0 { 0.0 } else { high * (1.0 + (low / high).powf(p)).powf(1.0 / p) }
}

#[cfg(test)]
impl GemmForm {
    /// operator-surfaces.md 4.1, row A10 (taken as A10G), with A10G's nominal limits.
    pub(crate) const A10G: Self = Self {
        peak: 76.5e12,
        bandwidth: 487e9,
        floor: 7.5e-6,
        blend: 7.0,
        tile_loss: 0.194,
        start_up: 2.06e-6,
        row_loss: 0.16,
        multiprocessors: 80.0,
        peak_limit: 70e12,
        bandwidth_limit: 600e9,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn published_points_come_out_within_the_stated_residuals() {
        // robertgshaw2-neuralmagic/vllm-benchmarking, A10 fp16: (m, n, k, microseconds). The
        // page states a median of 3.4 % and a p90 of 11.9 % on held-out shapes.
        let points = [
            (1.0, 12288.0, 4096.0, 217.05),
            (64.0, 10240.0, 8192.0, 390.0),
            (256.0, 15360.0, 5120.0, 630.0),
            (8192.0, 12288.0, 4096.0, 12219.0),
        ];
        for (m, n, k, micros) in points {
            let seconds = GemmForm::A10G.seconds(&GemmWork::dense(m, n, k, 2.0));
            let error = seconds * 1e6 / micros - 1.0;
            assert!(error.abs() < 0.12, "m {m} n {n} k {k}: {:.1} us, {error:+.3}", seconds * 1e6);
        }
    }

    #[test]
    fn a_blend_is_between_the_maximum_and_the_sum() {
        assert_eq!(blend(3.0, 4.0, 1.0), 7.0);
        assert_eq!(blend(3.0, 4.0, 2.0), 5.0);
        assert_eq!(blend(0.0, 0.0, 2.0), 0.0);
        assert!((blend(3.0, 4.0, 60.0) - 4.0).abs() < 1e-6);
    }

    #[test]
    fn experts_in_one_kernel_cost_less_than_as_many_kernels() {
        let one = GemmWork::dense(8.0, 28672.0, 4096.0, 2.0);
        let together = GemmForm::A10G.seconds(&GemmWork { groups: 6.0, ..one });
        let apart = 6.0 * GemmForm::A10G.seconds(&one);
        assert!(together < apart && together > 0.8 * apart, "{together} {apart}");
    }

    proptest! {
        #[test]
        fn time_grows_with_every_dimension(
            m in 1u32..4096, n in 1u32..256, k in 1u32..256, dm in 0u32..512, dn in 0u32..8, dk in 0u32..8,
        ) {
            let form = GemmForm::A10G;
            let (n, k) = (f64::from(n * 64), f64::from(k * 64));
            let base = form.seconds(&GemmWork::dense(f64::from(m), n, k, 2.0));
            let more = [
                GemmWork::dense(f64::from(m + dm), n, k, 2.0),
                GemmWork::dense(f64::from(m), n + f64::from(dn * 64), k, 2.0),
                GemmWork::dense(f64::from(m), n, k + f64::from(dk * 64), 2.0),
            ];
            for work in more {
                prop_assert!(form.seconds(&work) >= base * (1.0 - 1e-12), "{work:?}");
            }
        }

        #[test]
        fn what_is_remembered_of_weights_changes_no_product(
            ms in prop::collection::vec(1u32..20_000, 1..9), n in 1u32..60_000, k in 1u32..30_000,
        ) {
            let (n, k) = (f64::from(n), f64::from(k));
            let mut weights = Weights::new(GemmForm::A10G, n, k);
            for m in ms {
                for m in [m, m + 1, m + 15] {
                    let work = GemmWork::dense(f64::from(m), n, k, 2.0);
                    prop_assert_eq!(weights.seconds(&work), GemmForm::A10G.seconds(&work));
                }
            }
        }

        #[test]
        fn no_product_beats_the_hardware(m in 1u32..20_000, n in 1u32..60_000, k in 1u32..30_000) {
            let form = GemmForm::A10G;
            let work = GemmWork::dense(f64::from(m), f64::from(n), f64::from(k), 2.0);
            let seconds = form.seconds(&work);
            prop_assert!(work.flops() / seconds <= form.peak_limit * (1.0 + 1e-12));
            prop_assert!(work.bytes() / seconds <= form.bandwidth_limit * (1.0 + 1e-12));
        }
    }
}
