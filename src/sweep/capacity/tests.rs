//! Searches on small deployments, held against what theory and brute force say.

use super::*;
use crate::scenario::{self, DiskFiles, Override, Source};

fn scenario(set: &[&str]) -> Scenario {
    let base = [
        "model.name=llama-3.1-8b",
        "hardware.instance=g5.xlarge",
        "engine.name=vllm-0.32",
        "engine.vllm.max-model-len=4096",
        "workload.lengths.fixed.input=256",
        "workload.lengths.fixed.output=64",
        "workload.num-requests=300",
        "workload.poisson.request-rate=1",
    ];
    let overrides: Vec<Override> = base.iter().chain(set).map(|text| Override::set(text)).collect();
    scenario::load(&Source::Flags, &overrides, &DiskFiles).expect("a sound scenario")
}

fn objective(text: &str) -> Objective {
    Objective::parse(&[text.to_owned()]).expect("a sound objective")
}

#[test]
fn the_load_that_is_found_meets_the_objective_and_a_little_more_does_not() {
    let scenario = scenario(&[]);
    let objective = objective("ttft<1s,tpot<80ms");
    let found = search(&scenario, SearchedLoad::Rate, &objective).expect("it fits");
    let (at, beyond) = (found.at.expect("some load"), found.beyond.expect("a limit"));
    assert!(at.met && !beyond.met);
    assert!(beyond.load / at.load <= 1.0 + PRECISION + 1e-9, "{} {}", at.load, beyond.load);
    assert!(!beyond.missed.is_empty());
    assert!(at.limits.iter().all(|limit| limit.value_ms.is_some_and(|v| v <= limit.most_ms)));
    assert!(found.trials < 20, "{}", found.trials);
}

#[test]
fn a_stricter_objective_allows_less() {
    let scenario = scenario(&[]);
    let loads: Vec<f64> = ["tpot<100ms", "tpot<60ms", "tpot<45ms"]
        .iter()
        .map(|text| {
            let found = search(&scenario, SearchedLoad::Rate, &objective(text));
            found.expect("it fits").load.unwrap_or(0.0)
        })
        .collect();
    assert!(loads.windows(2).all(|pair| pair[0] > pair[1]), "{loads:?}");
}

#[test]
fn the_number_of_users_is_found_to_the_user() {
    let scenario = scenario(&[]);
    let objective = objective("tpot<50ms");
    let found = search(&scenario, SearchedLoad::Concurrency, &objective).expect("it fits");
    let users = found.load.expect("some users");
    assert_eq!(users.fract(), 0.0);
    assert_eq!(found.beyond.expect("a limit").load, users + 1.0);
}

#[test]
fn an_objective_that_no_load_meets_says_what_is_in_the_way() {
    let found =
        search(&scenario(&[]), SearchedLoad::Rate, &objective("tpot<5ms")).expect("it fits");
    assert_eq!(found.load, None);
    let missed = &found.beyond.expect("a trial").missed;
    assert!(missed[0].starts_with("p99 TPOT is "), "{missed:?}");
}

#[test]
fn a_deployment_that_does_not_fit_is_no_offer_and_says_so() {
    let instances = ["g5.xlarge".to_owned(), "g5.4xlarge".to_owned(), "g5.12xlarge".to_owned()];
    let scenario_for = |instance: &str, tp: u32| {
        let set = [
            format!("hardware.instance={instance}"),
            format!("engine.tensor-parallel-size={tp}"),
            "model.name=llama-2-13b".to_owned(),
        ];
        Ok(scenario(&set.each_ref().map(String::as_str)))
    };
    let objective = objective("ttft<2s,tpot<100ms");
    let offers = cheapest(&instances, SearchedLoad::Rate, &objective, Some(3.0), &scenario_for);
    // g5.4xlarge has g5.xlarge's GPU for more money.
    assert!(offers.iter().all(|offer| offer.instance != "g5.4xlarge"));
    let (best, last) = (&offers[0], offers.last().expect("offers"));
    let (machines, load) = (best.machines.expect("some"), best.load.expect("some"));
    assert!(machines as f64 * load >= 3.0 && (machines - 1) as f64 * load < 3.0);
    assert_eq!((last.tensor_parallel_size, last.load), (1, None));
    assert!(last.why.starts_with("does not fit: "), "{}", last.why);
}
