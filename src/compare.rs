//! Two scenarios under the same requests: what differs, by how much, and from which step on.
//!
//! A **comparison** runs A and B with the same seeds. Random numbers have one stream for each use, so
//! both sides get the same arrivals and lengths, and what one seed adds to both cancels in the
//! difference: [`paired`]. A replayed trace draws nothing; there the requests of one run are cut into
//! sections in the order of their arrival, and the sections are the pairs.
//!
//! Some metrics **judge** ([`metric::Judge`]): B is worse if one of them is worse by more than its
//! tolerance, and surely so, with Holm's adjustment for their number. All others are told and do not
//! judge: of forty figures, one looks different by chance.

pub mod class;
pub mod metric;
pub mod paired;
pub mod schedule;
pub mod shrink;
pub mod witness;

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::cost::calibrated::{Extrapolation, merge};
use crate::deploy::{Deployment, Simulated};
use crate::engine::RunTotals;
use crate::engine::invariants::Invariants;
use crate::metrics::{Recorder, Summary};
use crate::named::named_enum;
use crate::scenario::{ArrivalSpec, Scenario};

use class::{Census, Class, Parts, Summaries};
use metric::{Better, Judge, Metric};
use paired::{ALPHA, Estimate, Paired, holm};

/// Pairs of runs where the scenario does not ask for more than one.
pub const SEEDS: u32 = 20;
/// Sections of a trace, and the fewest requests of one.
const SECTIONS: u64 = 30;
const SECTION_REQUESTS: u64 = 20;
/// What does not judge differs by more than this share, so that no difference is told that does not
/// show in the figures.
const TOLD: f64 = 1e-4;
/// Fewer sections say too little of their spread.
const FEWEST_SECTIONS: u64 = 5;

named_enum! {
    /// How B does against A, by a metric or in all.
    pub enum Verdict as "verdict" {
        /// By more than the tolerance.
        Worse = "worse",
        Better = "better",
        /// The difference is surely within the tolerance.
        Same = "same",
        /// Neither: the interval reaches across the tolerance.
        Unclear = "unclear",
        /// It differs, and is neither good nor bad.
        Different = "different",
    }
}

/// How a comparison is made.
#[derive(Clone, Debug)]
pub struct Plan {
    pub judges: Vec<Judge>,
    /// Tokens from which on a prompt counts as long; half of the prompts are below where it is not
    /// set.
    pub split: Option<u32>,
    pub step_by_step: bool,
    /// Check the engine's invariants at every step.
    pub check: bool,
}

/// Where pairs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairs {
    /// Runs with different seeds.
    Seeds(u32),
    /// Sections of one run.
    Sections(u32),
}

/// One metric of one class.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    pub metric: &'static str,
    pub class: String,
    pub better: Option<Better>,
    pub a: f64,
    pub b: f64,
    /// `b - a`, in the metric's unit.
    pub difference: Estimate,
    /// `b / a - 1`; null where `a` is zero.
    pub relative: Option<Estimate>,
    pub verdict: Verdict,
    /// Set if it judges.
    pub judged: Option<Judged>,
}

/// What a judge says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Judged {
    pub tolerance: f64,
    /// Probability of such a difference if B were not worse than the tolerance allows, as it counts
    /// among all judges.
    pub p_worse: f64,
    pub p_better: f64,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub verdict: Verdict,
    pub pairs: Pairs,
    pub classes: Vec<ClassSize>,
    /// All requests first, judges first among them.
    pub metrics: Vec<Compared>,
    /// Judges that one side has no figure for.
    pub missing: Vec<Missing>,
    /// A and B.
    #[serde(skip)]
    pub sides: [Side; 2],
    #[serde(skip)]
    pub broken: Vec<String>,
    #[serde(skip)]
    pub totals: RunTotals,
    /// Of all runs: (pair from 0, class, metric, A, B).
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

/// All runs of A, or of B.
#[derive(Clone, Debug)]
pub struct Side {
    /// Their means, and what their figures rest on.
    pub summary: Summary,
    /// Where the cost models left the range of their measurements.
    pub extrapolations: Vec<Extrapolation>,
}

impl Side {
    fn of<'a>(runs: impl Iterator<Item = &'a OneRun> + Clone) -> Self {
        let all: Vec<Summary> = runs.clone().map(|run| run.summaries.whole[0].clone()).collect();
        let mut extrapolations = Vec::new();
        runs.for_each(|run| merge(&mut extrapolations, &run.extrapolations));
        let summary = Summary::over_seeds(&all).expect("each side runs at least once");
        Self { summary, extrapolations }
    }
}

/// A class, and how many of its requests were answered under A and B, on average.
#[derive(Clone, Debug, Serialize)]
pub struct ClassSize {
    pub class: String,
    pub completed_a: f64,
    pub completed_b: f64,
}

/// A judge without a figure under A or B.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missing {
    pub metric: &'static str,
    pub under_a: bool,
    pub under_b: bool,
}

/// One pair's figures.
#[derive(Clone, Debug)]
pub struct Sample {
    pub pair: u64,
    pub class: String,
    pub metric: &'static str,
    pub a: Option<f64>,
    pub b: Option<f64>,
}

/// Whether every run is the same, whatever its seed: a trace, on machines that no router draws lots
/// for.
fn draws_nothing(scenario: &Scenario) -> bool {
    matches!(scenario.workload.arrivals, ArrivalSpec::Trace(_)) && scenario.fleet.is_none()
}

/// Runs of each side in a comparison of `a` and `b`.
pub fn seeds(a: &Scenario, b: &Scenario) -> u32 {
    match a.measure.seeds {
        _ if draws_nothing(a) && draws_nothing(b) => 1,
        1 => SEEDS,
        seeds => seeds,
    }
}

/// Runs both and compares them. `one_more` is called after each run, from any thread.
pub fn compare(
    (a, b): (&Deployment<'_>, &Deployment<'_>),
    plan: &Plan,
    one_more: &(dyn Fn() + Sync),
) -> Comparison {
    let scenario = a.scenario();
    let first = scenario.workload.seed;
    let census = Census::of(a, first);
    let classes = census.classes(plan.split, &scenario.workload.tenant_names());
    let seeds = seeds(scenario, b.scenario());
    let sections = if seeds == 1 {
        let most = (census.requests / SECTION_REQUESTS).min(SECTIONS);
        if most < FEWEST_SECTIONS { 0 } else { most as usize }
    } else {
        0
    };
    // Collected in order, so that the figures do not depend on the threads.
    let runs: Vec<(u64, bool)> =
        (0..u64::from(seeds)).flat_map(|i| [(i, false), (i, true)]).collect();
    let runs: Vec<OneRun> = runs
        .into_par_iter()
        .map(|(i, is_b)| {
            let deployment = if is_b { b } else { a };
            let parts = Parts::new(&classes, deployment.measure(), census.requests, sections);
            let run = one_run(deployment, first.wrapping_add(i), parts, plan);
            one_more();
            run
        })
        .collect();
    let mut totals = RunTotals::default();
    let mut broken = Vec::new();
    for run in &runs {
        totals.steps += run.totals.steps;
        totals.output_tokens += run.totals.output_tokens;
        totals.requests += run.totals.requests;
        broken.extend(run.broken.iter().cloned());
    }
    let pairs: Vec<(&Summaries, &Summaries)> =
        runs.chunks_exact(2).map(|pair| (&pair[0].summaries, &pair[1].summaries)).collect();
    let figures = Figures { pairs, classes: &classes };
    let (metrics, missing) = figures.judged(&plan.judges);
    Comparison {
        verdict: in_all(&metrics, &missing),
        pairs: match sections {
            0 => Pairs::Seeds(seeds),
            n => Pairs::Sections(u32::try_from(n).expect("a few sections")),
        },
        classes: figures.sizes(),
        samples: figures.samples(),
        metrics,
        missing,
        sides: [0, 1].map(|side| Side::of(runs.iter().skip(side).step_by(2))),
        broken,
        totals,
    }
}

struct OneRun {
    summaries: Summaries,
    extrapolations: Vec<Extrapolation>,
    totals: RunTotals,
    broken: Vec<String>,
}

fn one_run(deployment: &Deployment<'_>, seed: u64, parts: Parts<'_>, plan: &Plan) -> OneRun {
    let invariants = plan.check.then(Invariants::default);
    let observer = (Recorder::new(deployment.measure()), (parts, invariants));
    let Simulated { totals, observer, priced } =
        deployment.simulate_noting(seed, observer, plan.step_by_step);
    let (recorder, (parts, invariants)) = observer;
    OneRun {
        summaries: parts.finish(priced.summary(recorder)),
        extrapolations: priced.extrapolations(),
        totals,
        broken: invariants.map_or_else(Vec::new, Invariants::finish),
    }
}

/// B is worse if one judge says so, and better if one says so and none the contrary.
fn in_all(metrics: &[Compared], missing: &[Missing]) -> Verdict {
    let judges = || metrics.iter().filter(|metric| metric.judged.is_some());
    let any = |verdict| judges().any(|metric| metric.verdict == verdict);
    let lost = missing.iter().any(|missing| missing.under_a && !missing.under_b);
    let found = missing.iter().any(|missing| missing.under_b && !missing.under_a);
    match () {
        () if lost || any(Verdict::Worse) => Verdict::Worse,
        () if found || any(Verdict::Better) => Verdict::Better,
        () if judges().all(|metric| metric.verdict == Verdict::Same) => Verdict::Same,
        () => Verdict::Unclear,
    }
}

/// The figures of all runs, to be put in order.
struct Figures<'a> {
    pairs: Vec<(&'a Summaries, &'a Summaries)>,
    classes: &'a [Class],
}

impl Figures<'_> {
    fn sizes(&self) -> Vec<ClassSize> {
        let n = self.pairs.len() as f64;
        let of = |i: usize, side: fn(&(&Summaries, &Summaries)) -> Vec<Summary>| {
            self.pairs.iter().map(|pair| side(pair)[i].completed.get()).sum::<f64>() / n
        };
        let classes = self.classes.iter().enumerate();
        classes
            .map(|(i, class)| ClassSize {
                class: class.name(),
                completed_a: of(i, |pair| pair.0.whole.clone()),
                completed_b: of(i, |pair| pair.1.whole.clone()),
            })
            .collect()
    }

    fn metrics_of(&self) -> impl Iterator<Item = (usize, Metric)> + '_ {
        (0..self.classes.len()).flat_map(|i| {
            metric::all()
                .filter(move |metric| i == 0 || metric::is_of_requests(metric.key))
                .map(move |metric| (i, metric))
        })
    }

    /// One metric of one class: both figures, and their spread.
    fn paired(&self, class: usize, metric: &Metric) -> Option<Paired> {
        let both = |a: &Summary, b: &Summary| Some(((metric.get)(a)?, (metric.get)(b)?));
        match self.pairs.as_slice() {
            [(a, b)] => {
                let whole = both(&a.whole[class], &b.whole[class])?;
                // What comes from steps is not told by section.
                if !metric::is_of_sections(metric.key) {
                    return Paired::of_repetitions(&[whole]);
                }
                let sections = a.sections[class].iter().zip(&b.sections[class]);
                let sections: Vec<_> = sections.filter_map(|(a, b)| both(a, b)).collect();
                Some(Paired::of_sections(whole, &sections))
            }
            pairs => {
                let pairs: Vec<_> = pairs
                    .iter()
                    .filter_map(|(a, b)| both(&a.whole[class], &b.whole[class]))
                    .collect();
                Paired::of_repetitions(&pairs)
            }
        }
    }

    fn missing(&self, judge: &Judge) -> Option<Missing> {
        let metric = metric::all().find(|metric| metric.key == judge.metric)?;
        let there = |summaries: &Summaries| (metric.get)(&summaries.whole[0]).is_some();
        let (under_a, under_b) = (
            self.pairs.iter().any(|pair| there(pair.0)),
            self.pairs.iter().any(|pair| there(pair.1)),
        );
        (!(under_a && under_b)).then_some(Missing { metric: judge.metric, under_a, under_b })
    }

    fn judged(&self, judges: &[Judge]) -> (Vec<Compared>, Vec<Missing>) {
        let mut metrics = Vec::new();
        let mut said: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for (class, metric) in self.metrics_of() {
            let Some(paired) = self.paired(class, &metric) else { continue };
            let judge = judges.iter().find(|judge| class == 0 && judge.metric == metric.key);
            let tolerance = judge.map_or(TOLD, |judge| judge.tolerance);
            let p = chances(&paired, metric.better, tolerance);
            if judge.is_some() {
                said.insert(metrics.len(), p);
            }
            metrics.push(Compared {
                metric: metric.key,
                class: self.classes[class].name(),
                better: metric.better,
                a: paired.a,
                b: paired.b,
                difference: paired.difference(),
                relative: paired.relative(),
                verdict: verdict(&paired, metric.better, tolerance, p),
                judged: judge.map(|judge| Judged {
                    tolerance: judge.tolerance,
                    p_worse: p.0,
                    p_better: p.1,
                }),
            });
        }
        // Each side's probabilities as they count among all judges.
        let (places, p): (Vec<usize>, Vec<(f64, f64)>) = said.into_iter().unzip();
        let worse = holm(&p.iter().map(|p| p.0).collect::<Vec<_>>());
        let better = holm(&p.iter().map(|p| p.1).collect::<Vec<_>>());
        for ((place, p_worse), p_better) in places.into_iter().zip(worse).zip(better) {
            let compared = &mut metrics[place];
            let judged = compared.judged.as_mut().expect("its place was noted as a judge's");
            (judged.p_worse, judged.p_better) = (p_worse, p_better);
            compared.verdict = match compared.verdict {
                _ if p_worse < ALPHA => Verdict::Worse,
                _ if p_better < ALPHA => Verdict::Better,
                Verdict::Same => Verdict::Same,
                _ => Verdict::Unclear,
            };
        }
        // Judges first, and otherwise as they come: a stable sort.
        metrics.sort_by_key(|metric| metric.judged.is_none());
        (metrics, judges.iter().filter_map(|judge| self.missing(judge)).collect())
    }

    fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (pair, (a, b)) in (0..).zip(&self.pairs) {
            samples.extend(self.metrics_of().map(|(class, metric)| Sample {
                pair,
                class: self.classes[class].name(),
                metric: metric.key,
                a: (metric.get)(&a.whole[class]),
                b: (metric.get)(&b.whole[class]),
            }));
        }
        samples
    }
}

/// Probabilities of such figures if B were not worse, or not better, than the tolerance allows.
fn chances(paired: &Paired, better: Option<Better>, tolerance: f64) -> (f64, f64) {
    // Less is better unless something else is said; of what is neither, both directions count.
    let above = paired.p_above(1.0 + tolerance);
    let below = paired.p_below(1.0 - tolerance);
    match better {
        Some(Better::Higher) => (below, above),
        Some(Better::Lower) | None => (above, below),
    }
}

fn verdict(
    paired: &Paired,
    better: Option<Better>,
    tolerance: f64,
    (p_worse, p_better): (f64, f64),
) -> Verdict {
    let surely = |p: f64| p < ALPHA;
    if better.is_none() && (surely(p_worse) || surely(p_better)) {
        return Verdict::Different;
    }
    let room = tolerance * paired.a.abs();
    let Estimate { value, low, high } = paired.difference();
    let within = low.unwrap_or(value) >= -room && high.unwrap_or(value) <= room;
    match () {
        () if surely(p_worse) => Verdict::Worse,
        () if surely(p_better) => Verdict::Better,
        () if within => Verdict::Same,
        () => Verdict::Unclear,
    }
}
