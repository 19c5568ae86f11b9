//! What Red Hat's study says in words about its figures of latency and throughput against the
//! number of users. The figures' data are not published; the statements can still be checked.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::deploy::{Deployment, memory_plan};
use crate::kv_cache::memory_plan::TermName;
use crate::metrics::{Recorder, Summary};

use super::{Check, Report, Suite, ValidateError, load};

/// Concurrency levels that the statements speak of.
const USERS: [u32; 8] = [1, 5, 10, 15, 20, 25, 30, 40];
const SEEDS: u64 = 4;

const SEVEN_B: &str = "llama-2-7b-g5.2xlarge";
const SEVEN_B_WIDE: &str = "llama-2-7b-g5.12xlarge";
const THIRTEEN_B: &str = "llama-2-13b-g5.12xlarge";
const SEVENTY_B: &str = "llama-2-70b-g5.48xlarge";
const SEVENTY_B_A100: &str = "llama-2-70b-p4d.24xlarge";

/// One point of a curve, means over seeds.
#[derive(Clone, Copy, Debug)]
struct Point {
    throughput: f64,
    /// E2E / output tokens, in milliseconds.
    ms_per_token: f64,
    queue_ms: f64,
    usd_per_1m: f64,
}

/// Curves by deployment, then by number of users.
type Curves = BTreeMap<&'static str, BTreeMap<u32, Point>>;

fn point(scenario: &str, users: u32) -> Result<Point, ValidateError> {
    let name = format!("redhat/{scenario}");
    let clients = format!("workload.closed-loop.clients={users}");
    let scenario = load(&name, &[&clients])?;
    let deployment =
        Deployment::new(&scenario).map_err(|source| ValidateError::Deploy { name, source })?;
    let runs: Vec<Summary> = (1..=SEEDS)
        .map(|seed| {
            let recorder = Recorder::new(deployment.measure());
            deployment.simulate(seed, recorder, false).1.summary()
        })
        .collect();
    let mean = |of: &dyn Fn(&Summary) -> f64| runs.iter().map(of).sum::<f64>() / SEEDS as f64;
    Ok(Point {
        throughput: mean(&|s| s.output_throughput),
        ms_per_token: mean(&|s| s.normalized_latency_ms.mean.unwrap_or(f64::NAN)),
        queue_ms: mean(&|s| s.queue_ms.mean.unwrap_or(f64::NAN)),
        usd_per_1m: mean(&|s| s.usd_per_1m_output_tokens.unwrap_or(f64::NAN)),
    })
}

pub(super) fn report() -> Result<Report, ValidateError> {
    let mut report =
        Report::new(Suite::RedhatClaims, "Red Hat: what the study says about its curves");
    let mut wanted: Vec<(&'static str, u32)> = [SEVEN_B, THIRTEEN_B, SEVENTY_B, SEVENTY_B_A100]
        .into_iter()
        .flat_map(|scenario| USERS.map(|users| (scenario, users)))
        .collect();
    wanted.push((SEVEN_B_WIDE, 10));
    let points: Vec<Point> = wanted
        .par_iter()
        .map(|&(scenario, users)| point(scenario, users))
        .collect::<Result<_, ValidateError>>()?;
    let mut curves = Curves::new();
    for ((scenario, users), point) in wanted.into_iter().zip(points) {
        curves.entry(scenario).or_default().insert(users, point);
    }
    report.checks.push(knee(&curves));
    report.checks.push(knee_is_memory()?);
    report.checks.push(first_latency(&curves));
    report.checks.push(scales(&curves, "RH-Q-3", "13B on g5.12xlarge", THIRTEEN_B));
    report.checks.push(slower_throughout(&curves));
    report.checks.push(weights_of_70b()?);
    report.checks.push(faster_throughout(&curves));
    report.checks.push(scales(&curves, "RH-Q-7", "70B on p4d.24xlarge", SEVENTY_B_A100));
    report.checks.push(cheap_or_fast(&curves));
    Ok(report)
}

fn series(curve: &BTreeMap<u32, Point>, of: impl Fn(&Point) -> f64) -> String {
    let parts: Vec<String> =
        curve.iter().map(|(users, point)| format!("{:.0}({users})", of(point))).collect();
    parts.join(" ")
}

/// Growth of throughput by more than this, in per cent, counts as scaling on.
const GROWTH: f64 = 5.0;

fn growth(curve: &BTreeMap<u32, Point>, from: u32, to: u32) -> f64 {
    (curve[&to].throughput / curve[&from].throughput - 1.0) * 100.0
}

fn knee(curves: &Curves) -> Check {
    let curve = &curves[SEVEN_B];
    let holds = growth(curve, 10, 20) > GROWTH
        && growth(curve, 20, 40) < 2.0 * GROWTH
        && curve[&40].queue_ms > 10.0 * curve[&10].queue_ms;
    Check::new(
        "RH-Q-1",
        "7B on g5.2xlarge: throughput rises up to about 20 users, then requests queue",
        holds,
        format!(
            "tok/s {}; queue ms {}",
            series(curve, |p| p.throughput),
            series(curve, |p| p.queue_ms)
        ),
    )
}

fn knee_is_memory() -> Result<Check, ValidateError> {
    let batch = |weight: &str| -> Result<f64, ValidateError> {
        let weight = format!("engine.tgis.max-batch-weight={weight}");
        let scenario =
            load(&format!("redhat/{SEVEN_B}"), &["workload.closed-loop.clients=40", &weight])?;
        let name = SEVEN_B.to_owned();
        let deployment =
            Deployment::new(&scenario).map_err(|source| ValidateError::Deploy { name, source })?;
        let recorder = Recorder::new(deployment.measure());
        Ok(deployment.simulate(1, recorder, false).1.summary().batch_size.mean.unwrap_or(f64::NAN))
    };
    let scenario = load(&format!("redhat/{SEVEN_B}"), &[])?;
    let plan = memory_plan(&scenario);
    let (full, half) = (batch("\"auto\"")?, batch(&(plan.kv_tokens / 2).to_string())?);
    Ok(Check::new(
        "RH-Q-1b",
        "... because of KV memory: about 20 requests fit, and half the memory holds half",
        (16.0..=23.0).contains(&full) && (0.4..=0.65).contains(&(half / full)),
        format!(
            "mean batch at 40 users {full:.1} with {} KV tokens, {half:.1} with half",
            plan.kv_tokens
        ),
    ))
}

fn first_latency(curves: &Curves) -> Check {
    let (large, small) = (curves[THIRTEEN_B][&1], curves[SEVEN_B][&1]);
    Check::new(
        "RH-Q-2",
        "13B on g5.12xlarge starts with a lower latency per token than 7B on g5.2xlarge",
        large.ms_per_token < small.ms_per_token,
        format!("{:.1} against {:.1} ms at 1 user", large.ms_per_token, small.ms_per_token),
    )
}

fn scales(curves: &Curves, id: &str, what: &str, scenario: &str) -> Check {
    let curve = &curves[scenario];
    let holds = growth(curve, 10, 20) > GROWTH && growth(curve, 20, 30) > GROWTH;
    Check::new(
        id,
        format!("{what}: throughput still rises up to 30 users"),
        holds,
        format!("tok/s {}", series(curve, |p| p.throughput)),
    )
}

fn slower_throughout(curves: &Curves) -> Check {
    let slow = &curves[SEVENTY_B];
    let holds = [SEVEN_B, THIRTEEN_B].iter().all(|fast| {
        USERS.iter().all(|users| slow[users].ms_per_token > curves[fast][users].ms_per_token)
    });
    Check::new(
        "RH-Q-4",
        "70B on g5.48xlarge: latency per token higher throughout than the two before",
        holds,
        format!("ms/token {}", series(slow, |p| p.ms_per_token)),
    )
}

fn weights_of_70b() -> Result<Check, ValidateError> {
    let plan = memory_plan(&load(&format!("redhat/{SEVENTY_B}"), &[])?);
    let share = plan.term(TermName::Weights).as_f64() / plan.gpu_memory.as_f64();
    Ok(Check::new(
        "RH-Q-5",
        "70B in fp16 takes most of the memory of 8 A10G (73 %)",
        (0.70..=0.76).contains(&share),
        format!("{:.1} % of each GPU", share * 100.0),
    ))
}

fn faster_throughout(curves: &Curves) -> Check {
    let (fast, slow) = (&curves[SEVENTY_B_A100], &curves[SEVENTY_B]);
    let holds = USERS.iter().all(|users| fast[users].ms_per_token < slow[users].ms_per_token)
        && fast[&10].ms_per_token < 0.6 * slow[&10].ms_per_token;
    Check::new(
        "RH-Q-6",
        "70B on p4d.24xlarge: much lower latency than on g5.48xlarge at the same users",
        holds,
        format!("ms/token {}", series(fast, |p| p.ms_per_token)),
    )
}

fn cheap_or_fast(curves: &Curves) -> Check {
    let (cheap, fast) = (curves[SEVEN_B][&10], curves[SEVEN_B_WIDE][&10]);
    let holds = cheap.usd_per_1m < fast.usd_per_1m
        && cheap.ms_per_token > fast.ms_per_token
        && cheap.throughput < fast.throughput;
    Check::new(
        "RH-Q-8",
        "7B is cheapest on g5.2xlarge; g5.12xlarge has better latency and throughput",
        holds,
        format!(
            "{:.2} against {:.2} USD per 1M; {:.1} against {:.1} ms/token",
            cheap.usd_per_1m, fast.usd_per_1m, cheap.ms_per_token, fast.ms_per_token
        ),
    )
}
