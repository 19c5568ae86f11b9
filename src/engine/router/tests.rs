use std::sync::Arc;

use super::*;
use crate::request::{PromptContent, RequestSpec, TokenRun};
use crate::time::SimTime;

fn request(client: u32, spec: RequestSpec) -> Request {
    Request::new(0, RequestSpec { client, ..spec }, SimTime::ZERO)
}

/// A prompt of token ids from `first` on.
fn prompt(first: u64, len: u32) -> Request {
    let content = PromptContent { runs: vec![TokenRun { first, len }], output_base: u64::MAX / 2 };
    request(0, RequestSpec { content: Some(Arc::new(content)), ..RequestSpec::fixed(len, 1) })
}

fn plain() -> Request {
    request(0, RequestSpec::fixed(1, 1))
}

fn loads<const N: usize>(outstanding: [u32; N]) -> [ReplicaLoad; N] {
    let mut replica = 0;
    outstanding.map(|outstanding| {
        replica += 1;
        ReplicaLoad { replica: replica - 1, outstanding, kv_total: 100, ..ReplicaLoad::default() }
    })
}

fn settings(policy: RouterPolicy) -> RouterSettings {
    RouterSettings { policy, sessions: true, kv_tokens: vec![16_000], ..RouterSettings::default() }
}

#[test]
fn round_robin_takes_turns_and_least_outstanding_prefers_the_idle() {
    let loads = loads([2, 0, 0]);
    let mut turns = RoundRobin::default();
    let order: Vec<usize> = (0..4).map(|_| turns.route(&plain(), &loads)).collect();
    assert_eq!(order, [0, 1, 2, 0]);
    assert_eq!(LeastOutstanding.route(&plain(), &loads), 1);
}

#[test]
fn random_choices_repeat_by_seed_and_reach_everybody_alike() {
    let draw = |seed| -> Vec<usize> {
        let mut router = settings(RouterPolicy::Random).router(seed);
        (0..4000).map(|_| router.route(&plain(), &loads([9, 0, 0, 0]))).collect()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    for replica in 0..4 {
        // Within five standard deviations of a quarter.
        let hits = draw(1).iter().filter(|&&chosen| chosen == replica).count();
        assert!((863..=1137).contains(&hits), "{replica}: {hits}");
    }
}

#[test]
fn the_emptiest_cache_is_the_one_with_the_smallest_share_in_use() {
    let mut loads = loads([5, 5, 0]);
    for (load, (used, total)) in loads.iter_mut().zip([(40, 100), (50, 200), (30, 100)]) {
        (load.kv_used, load.kv_total) = (used, total);
    }
    assert_eq!(LeastKv.route(&plain(), &loads), 1);
    loads[2].kv_used = 25;
    assert_eq!(LeastKv.route(&plain(), &loads), 2, "an equal share, and fewer requests");
    assert!(LeastKv.looks_at_kv() && !LeastOutstanding.looks_at_kv());
}

#[test]
fn power_of_two_never_takes_the_worst_of_three_and_not_always_the_best() {
    let mut router = settings(RouterPolicy::PowerOfTwo).router(3);
    let mut hits = [0; 3];
    for _ in 0..3000 {
        hits[router.route(&plain(), &loads([0, 4, 9]))] += 1;
    }
    assert_eq!(hits[2], 0);
    // The best is drawn in two of three pairs.
    assert!((1871..=2129).contains(&hits[0]), "{hits:?}");
    assert_eq!(router.route(&plain(), &loads([7])), 0);
}

#[test]
fn a_session_stays_and_moves_only_when_its_replica_goes() {
    let all = loads([0; 5]);
    let without_2: Vec<ReplicaLoad> = all.iter().copied().filter(|l| l.replica != 2).collect();
    let mut used = [0; 5];
    for client in 0..500 {
        let request = request(client, RequestSpec::fixed(1, 1));
        let before = all[SessionSticky.route(&request, &all)].replica;
        let after = without_2[SessionSticky.route(&request, &without_2)].replica;
        used[usize::from(before)] += 1;
        if before != 2 {
            assert_eq!(before, after, "client {client} moved without need");
        }
    }
    assert!(used.iter().all(|&n| (50..=150).contains(&n)), "{used:?}");
}

#[test]
fn without_sessions_the_load_decides() {
    let settings = RouterSettings { sessions: false, ..settings(RouterPolicy::SessionSticky) };
    assert_eq!(settings.router(1).route(&plain(), &loads([3, 1, 2])), 1);
}

#[test]
fn a_prompt_follows_its_beginning() {
    let mut router = settings(RouterPolicy::PrefixAware).router(1);
    assert_eq!(router.route(&prompt(0, 320), &loads([1, 0, 5])), 1);
    assert_eq!(router.route(&prompt(0, 640), &loads([1, 9, 5])), 1, "half of it is known there");
    assert_eq!(router.route(&prompt(9_000, 640), &loads([1, 9, 5])), 0, "nobody has seen this");
    assert_eq!(router.route(&prompt(0, 6400), &loads([1, 9, 5])), 0, "a tenth is not enough");
    assert_eq!(router.route(&plain(), &loads([1, 9, 0])), 2, "nothing to compare");
}

#[test]
fn a_prompt_leaves_a_replica_that_is_far_busier() {
    let mut router = settings(RouterPolicy::PrefixAware).router(1);
    assert_eq!(router.route(&prompt(0, 320), &loads([0, 0])), 0);
    assert_eq!(router.route(&prompt(0, 320), &loads([64, 0])), 0);
    assert_eq!(router.route(&prompt(0, 320), &loads([65, 0])), 1);
    // By the factor 65 of 1 is uneven, 300 of 210 is not.
    let mut router = settings(RouterPolicy::PrefixAware).router(1);
    assert_eq!(router.route(&prompt(0, 320), &loads([0, 0])), 0);
    assert_eq!(router.route(&prompt(0, 320), &loads([300, 210])), 0);
}

#[test]
fn what_a_replica_has_lost_or_can_no_longer_hold_does_not_count() {
    let mut router = settings(RouterPolicy::PrefixAware).router(1);
    assert_eq!(router.route(&prompt(0, 320), &loads([0, 3])), 0);
    router.forget(0);
    assert_eq!(router.route(&prompt(0, 320), &loads([3, 0])), 1);
    // A thousand chunks fit; those of other prompts push the first out.
    for other in 1..100 {
        router.route(&prompt(other * 1_000_000, 320), &loads([9, 0]));
    }
    assert_eq!(router.route(&prompt(0, 320), &loads([0, 3])), 0);
}

#[test]
fn heavier_replicas_get_more_in_proportion() {
    let weighted = |loads: &mut [ReplicaLoad]| {
        for (load, weight) in loads.iter_mut().zip([1.0, 2.5, 0.5]) {
            load.weight = weight;
        }
    };
    let mut idle = loads([0; 3]);
    weighted(&mut idle);
    let shares = |policy: RouterPolicy| -> [usize; 3] {
        let mut router = settings(policy).router(5);
        let mut hits = [0; 3];
        for client in 0..8000 {
            hits[router.route(&request(client, RequestSpec::fixed(1, 1)), &idle)] += 1;
        }
        hits
    };
    assert_eq!(shares(RouterPolicy::RoundRobin), [2000, 5000, 1000]);
    for policy in [RouterPolicy::Random, RouterPolicy::SessionSticky] {
        // Within five standard deviations.
        for (hits, share) in shares(policy).into_iter().zip([2000.0, 5000.0, 1000.0f64]) {
            let deviation = (share * (1.0 - share / 8000.0)).sqrt();
            assert!((hits as f64 - share).abs() < 5.0 * deviation, "{policy}: {hits} of {share}");
        }
    }
    // (outstanding + 1) / weight: 4, 3.6, 4 and then 4, 4, 4.
    let mut busy = loads([3, 8, 1]);
    weighted(&mut busy);
    assert_eq!(LeastOutstanding.route(&plain(), &busy), 1);
    busy[1].outstanding = 9;
    assert_eq!(LeastOutstanding.route(&plain(), &busy), 0, "the first among equals");
}

#[test]
fn requests_of_two_models_do_not_take_each_others_turns() {
    let all = loads([0; 4]);
    let (one, other) = (&all[..2], &all[2..]);
    let mut turns = RoundRobin::default();
    let order: Vec<u16> = (0..8)
        .map(|i| {
            let loads = if i % 2 == 0 { one } else { other };
            loads[turns.route(&plain(), loads)].replica
        })
        .collect();
    assert_eq!(order, [0, 2, 1, 3, 0, 2, 1, 3]);
}
