//! How far a prediction may be off, from how far the numbers behind it may be.
//!
//! Each part of a step's price ([`Part`]) has a relative error of its own, which does not depend on
//! the others': that of the residuals where it was fitted, that of a transfer where it was carried
//! over. A deployment is simulated again with one part after the other slower and faster by that
//! error, under the same random numbers, and the changes of each figure add up in squares. So queues
//! and full batches amplify an error here as they do in the simulation, which no sum over the busy
//! time would show.
//!
//! Not in it: the memory plan (the room for KV), the scheduler, and the workload's own assumptions.

use rayon::prelude::*;

use crate::cost::CostTerm;
use crate::cost::profile::lookup::Match;
use crate::cost::spread::{Part, Scales};
use crate::cost::trust::{Phase, Trust};
use crate::deploy::{Deployment, Pool};
use crate::hardware::LinkKind;
use crate::metrics::Band;

/// Standard deviations that a normal deviate lies within with probability 80 and 95 %.
const Z80: f64 = 1.281_552;
const Z95: f64 = 1.959_964;

/// Standard deviation of a normal deviate by the median of its magnitude.
const SD_BY_MEDIAN: f64 = 1.482_602;

/// A profiling run and a serving run on one machine are 3-6 % apart without any constant that
/// would explain it (`../shared/physics/operator-surfaces.md` 1).
const STEP: f64 = 0.05;

/// Median errors where a surface is carried over from another GPU, and where it is made from the
/// datasheet: the medians over `calibration/leave-one-gpu-out.csv`, which a test holds them to. The
/// fractions of nominal figures were chosen with those GPUs in sight, so a surface made of them is
/// trusted no more than one carried over.
struct Operator {
    part: Part,
    surface: &'static str,
    transferred: f64,
    nominal: f64,
}

const OPERATORS: [Operator; 5] = [
    Operator { part: Part::Gemm, surface: "gemm", transferred: 0.105, nominal: 0.105 },
    Operator {
        part: Part::Prefill,
        surface: "attention.prefill",
        transferred: 0.14,
        nominal: 0.14,
    },
    Operator {
        part: Part::Decode,
        surface: "attention.decode",
        transferred: 0.172,
        nominal: 0.172,
    },
    Operator { part: Part::Mixed, surface: "attention.mixed", transferred: 0.218, nominal: 0.218 },
    Operator { part: Part::Small, surface: "elementwise", transferred: 0.159, nominal: 0.391 },
];

/// How far one part of the price may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub part: Part,
    /// Standard deviation of the logarithm of its time.
    pub sd: f64,
    pub trust: Trust,
}

/// The parts that a step of this pool has, each with its error.
pub fn spreads(pool: &Pool) -> Vec<Spread> {
    let grades = pool.cost().grades();
    let ranks = pool.tensor_parallel();
    let parts = Part::ALL.iter().copied().filter(|part| *part != Part::Links || ranks > 1);
    parts
        .map(|part| {
            let (phase, term) = match part {
                Part::Gemm => (Phase::Decode, CostTerm::Linear),
                Part::Prefill => (Phase::Prefill, CostTerm::Attention),
                Part::Decode => (Phase::Decode, CostTerm::Attention),
                Part::Mixed => (Phase::Mixed, CostTerm::Attention),
                Part::Small => (Phase::Decode, CostTerm::Elementwise),
                Part::Links => (Phase::Decode, CostTerm::AllReduce),
                Part::Copies => (Phase::Decode, CostTerm::KvCopy),
                Part::Host => (Phase::Mixed, CostTerm::Host),
                Part::Serial => (Phase::Mixed, CostTerm::Serial),
                Part::Step => return Spread { part, sd: STEP, trust: Trust::Fitted },
            };
            let trust = grades.get(phase, term);
            Spread { part, sd: sd(pool, part, trust), trust }
        })
        .collect()
}

fn sd(pool: &Pool, part: Part, trust: Trust) -> f64 {
    if let Some(operator) = OPERATORS.iter().find(|operator| operator.part == part) {
        let median = match trust {
            Trust::Measured | Trust::Fitted => own_median(pool, operator),
            Trust::Transferred => operator.transferred,
            Trust::Datasheet => operator.nominal,
            // Kernels that nobody timed: GPTQ before Marlin is 26 % off in the middle.
            Trust::Extrapolated => operator.nominal.max(0.25),
        };
        return median * SD_BY_MEDIAN;
    }
    let of_grade: f64 = match trust {
        Trust::Measured => 0.05,
        Trust::Fitted => 0.10,
        // Host times of one instance type were 1.34 times those measured elsewhere.
        Trust::Transferred | Trust::Datasheet => 0.30,
        Trust::Extrapolated => 0.50,
    };
    match part {
        // Copies reach between 0.45 and 0.82 of the bandwidth, whoever makes them.
        Part::Copies => of_grade.min(0.25),
        Part::Links => of_grade.max(of_links(pool)),
        _ => of_grade,
    }
}

/// Collectives through host memory differ 3-5 times between environments on one instance type: the
/// middle of 4 is two standard deviations.
fn of_links(pool: &Pool) -> f64 {
    let through_host = pool.link() == Some(LinkKind::PcieHostMemory);
    let found = pool.profiles().interconnect.as_ref();
    let exact = found.is_some_and(|found| found.matched == Match::Exact);
    if through_host && !exact { 0.70 } else { 0.0 }
}

/// The median residual of the GPU's own surface on rows held out from its fit, over its sources.
fn own_median(pool: &Pool, operator: &Operator) -> f64 {
    /// What surfaces of this kind come to that do not say.
    const UNSAID: f64 = 0.06;
    let fits = &pool.profiles().gpu.profile.fits;
    let medians: Vec<f64> = fits
        .iter()
        .filter(|fit| fit.surface == operator.surface)
        .map(|fit| fit.median_percent / 100.0)
        .collect();
    if medians.is_empty() {
        return UNSAID;
    }
    medians.iter().sum::<f64>() / medians.len() as f64
}

/// How far a figure may be off to either side, as standard deviations of its logarithm.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    pub down: f64,
    pub up: f64,
}

impl Deviation {
    /// With what single runs scatter besides, from seed to seed.
    #[must_use]
    pub fn with_scatter(self, sd: f64) -> Self {
        Self { down: self.down.hypot(sd), up: self.up.hypot(sd) }
    }

    pub fn around(self, value: f64) -> Band {
        Band {
            low_80: value * (-Z80 * self.down).exp(),
            high_80: value * (Z80 * self.up).exp(),
            low_95: value * (-Z95 * self.down).exp(),
            high_95: value * (Z95 * self.up).exp(),
        }
    }
}

/// The parts that the steps of any pool have.
pub fn parts(deployment: &Deployment<'_>) -> Vec<Part> {
    let of_pools: Vec<Spread> = deployment.pools().iter().flat_map(spreads).collect();
    let has = |part: &Part| of_pools.iter().any(|spread| spread.part == *part && spread.sd > 0.0);
    Part::ALL.iter().copied().filter(has).collect()
}

/// The deviation of each figure that `evaluate` gives of a deployment. It is called for the
/// deployment and for some twenty variations of it, on all threads of the current pool. `None` for a
/// figure that is not above zero.
///
/// A part is slower in all pools at once, in each by its own error: what is wrong with the model of
/// a kernel is wrong wherever that runs.
pub fn deviations(
    deployment: &Deployment<'_>,
    evaluate: impl Fn(&Deployment<'_>) -> Vec<Option<f64>> + Sync,
) -> Vec<Option<Deviation>> {
    let of_pools: Vec<Vec<Spread>> = deployment.pools().iter().map(spreads).collect();
    let varied = |part: Part, sign: f64| -> Vec<Scales> {
        let scales = |spreads: &Vec<Spread>| {
            let own = spreads.iter().find(|spread| spread.part == part);
            own.map_or(Scales::ONE, |own| Scales::ONE.with(part, (sign * own.sd).exp()))
        };
        of_pools.iter().map(scales).collect()
    };
    let variations = parts(deployment).into_iter();
    let variations = variations.flat_map(|part| [1.0, -1.0].map(|sign| varied(part, sign)));
    let mut figures: Vec<Vec<Option<f64>>> = std::iter::once(vec![Scales::ONE; of_pools.len()])
        .chain(variations)
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|scales| evaluate(&deployment.scaled(&scales)))
        .collect();
    let base = figures.remove(0);
    let of = |place: usize| {
        let value = base[place].filter(|value| *value > 0.0)?;
        let change = |figures: &Vec<Option<f64>>| {
            let varied = figures[place].filter(|varied| *varied > 0.0)?;
            Some((varied / value).ln())
        };
        let mut deviation = Deviation::default();
        // Slower and faster: whichever moves the figure further up counts upwards.
        for pair in figures.chunks(2) {
            let changes = || pair.iter().filter_map(change);
            deviation.up = deviation.up.hypot(changes().fold(0.0, f64::max));
            deviation.down = deviation.down.hypot(changes().fold(0.0, f64::min));
        }
        Some(deviation)
    };
    (0..base.len()).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Recorder;
    use crate::scenario::{self, DiskFiles, Override, Source};

    fn with_deployment(keys: &[&str], test: impl FnOnce(&Deployment<'_>)) {
        let overrides: Vec<Override> = keys.iter().map(|key| Override::set(key)).collect();
        let scenario = scenario::load(&Source::Flags, &overrides, &DiskFiles)
            .unwrap_or_else(|diagnostics| panic!("{}", diagnostics.render(false)));
        test(&Deployment::new(&scenario).unwrap());
    }

    fn keys(clients: u32) -> Vec<String> {
        [
            "model.name=llama-3.1-8b",
            "hardware.gpu=h100-80gb",
            "engine.name=vllm-0.32",
            "workload.num-requests=64",
            "workload.lengths.fixed={ input = 512, output = 64 }",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("workload.closed-loop.clients={clients}")])
        .collect()
    }

    fn throughput(deployment: &Deployment<'_>) -> Vec<Option<f64>> {
        let recorder = Recorder::new(deployment.measure());
        let summary = deployment.simulate(1, recorder, false).1.summary();
        vec![Some(summary.output_throughput), summary.ttft_ms.mean, None]
    }

    #[test]
    fn a_busy_gpu_is_as_uncertain_as_its_kernels() {
        let keys = keys(16);
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        with_deployment(&keys, |deployment| {
            let found = deviations(deployment, throughput);
            let rate = found[0].unwrap();
            // At least the step's own 5 %, at most that and every part all wrong at once.
            let most: f64 = spreads(&deployment.pools()[0]).iter().map(|spread| spread.sd).sum();
            assert!((STEP..most).contains(&rate.up) && (STEP..most).contains(&rate.down));
            assert_eq!(found[2], None);
            let band = rate.around(100.0);
            assert!(band.low_95 < band.low_80 && band.low_80 < 100.0);
            assert!(band.high_80 > 100.0 && band.high_95 > band.high_80);
            assert!(band.holds_80(100.0) && !band.holds_95(1000.0));
        });
    }

    #[test]
    fn a_part_that_a_deployment_lacks_has_no_error() {
        with_deployment(
            &[
                "model.name=llama-3.1-8b",
                "hardware.gpu=h100-80gb",
                "engine.name=vllm-0.32",
                "workload.num-requests=1",
                "workload.closed-loop.clients=1",
                "workload.lengths.fixed={ input = 8, output = 8 }",
            ],
            |deployment| {
                let parts: Vec<Part> =
                    spreads(&deployment.pools()[0]).iter().map(|s| s.part).collect();
                assert!(!parts.contains(&Part::Links) && parts.contains(&Part::Gemm));
            },
        );
    }

    #[test]
    fn errors_of_transfers_are_those_of_the_gpus_that_were_left_out() {
        let errors = crate::accuracy::committed_left_out().unwrap();
        let median = |surface: &str, transferred: bool| {
            let mut medians: Vec<f64> = errors
                .iter()
                .filter(|e| e.surface == surface && e.is_transfer() == transferred)
                .map(|e| e.median_percent / 100.0)
                .collect();
            medians.sort_by(f64::total_cmp);
            let half = medians.len() / 2;
            if medians.len() % 2 == 1 {
                medians[half]
            } else {
                f64::midpoint(medians[half - 1], medians[half])
            }
        };
        for Operator { surface, transferred, nominal, .. } in OPERATORS {
            let (carried, made) = (median(surface, true), median(surface, false));
            assert!((carried - transferred).abs() < 0.006, "{surface}: {carried} carried over");
            let worse = made.max(carried);
            assert!((worse - nominal).abs() < 0.006, "{surface}: {worse} from nominal figures");
        }
    }

    #[test]
    fn scatter_adds_in_squares() {
        let deviation = Deviation { down: 0.03, up: 0.0 }.with_scatter(0.04);
        assert!((deviation.down - 0.05).abs() < 1e-12 && deviation.up == 0.04);
    }
}
