//! Fleets with pools: what is laid over what, and what is refused with which message.

use super::*;
use crate::engine::fleet::rules::Outage;

/// A fleet of two pools that is right, to be made wrong one line at a time.
const POOLS: &str = r#"
[model]
name = "llama-3.1-8b"

[hardware]
price-kind = "on-demand"

[engine]
name = "vllm-0.32"

[engine.vllm]
max-model-len = 4096

[fleet]
router = "round-robin"

[fleet.pools.large]
machines = 2
hardware.instance = "g5.12xlarge"
engine.tensor-parallel-size = 4

[fleet.pools.small]
weight = 0.5
hardware.instance = "g6.2xlarge"
engine.vllm.max-num-seqs = 32

[workload]
num-requests = 10

[workload.poisson]
request-rate = 1.0

[workload.lengths]
fixed = { input = 100, output = 10 }
"#;

fn load_pools(replaced: &[(&str, &str)], flags: &[Override]) -> Result<Scenario, String> {
    let mut text = POOLS.to_owned();
    for (from, to) in replaced {
        assert_eq!(text.matches(from).count(), 1, "{from:?} should stand in the file once");
        text = text.replace(from, to);
    }
    load_text(&text, flags)
}

fn error(from: &str, to: &str) -> String {
    load_pools(&[(from, to)], &[]).expect_err(to)
}

fn set(key: &str) -> Vec<Override> {
    vec![Override::set(key)]
}

#[test]
fn a_pool_lays_its_own_over_the_scenario_as_flags_do() {
    let scenario = load_pools(&[], &[]).unwrap();
    assert_eq!(scenario.name, "llama-3.1-8b on g5.12xlarge and g6.2xlarge, vllm-0.32");
    assert_eq!((scenario.machines(), scenario.replicas()), (3, 3));
    let kinds = scenario.kinds();
    let names: Vec<_> = kinds.iter().map(|kind| kind.pool.unwrap()).collect();
    assert_eq!(names, ["large", "small"]);
    let [large, small] = [&kinds[0], &kinds[1]];
    assert_eq!(large.hardware.instance.name, "g5.12xlarge");
    assert_eq!((large.engine.tensor_parallel_size, small.engine.tensor_parallel_size), (4, 1));
    assert_eq!((large.rules.weight, small.rules.weight), (1.0, 0.5));
    let seats = |kind: &Kind<'_>| match &kind.engine.effective {
        EffectiveSettings::Vllm(settings) => (settings.max_model_len, settings.max_num_seqs),
        other => panic!("{other:?}"),
    };
    assert_eq!(seats(large).0, 4096);
    assert_eq!(seats(small), (4096, 32), "its own beside the scenario's");
    let usd = 2.0 * 5.672 + 0.978;
    assert!((scenario.usd_per_hour().unwrap().get() - usd).abs() < 0.01, "{usd}");
    // What a pool's machine excludes goes, and another engine takes no settings of the first.
    let priced = ("price-kind = \"on-demand\"", "price = \"9 USD/h\"");
    let scenario = load_pools(&[priced], &[]).unwrap();
    let price = scenario.kinds()[1].hardware.price.clone().unwrap();
    assert!(price.catalogue.is_some(), "the pinned price is that of another machine");
    let tgi = ("engine.vllm.max-num-seqs = 32", "engine.name = \"tgi-v3\"");
    let scenario = load_pools(&[tgi], &[]).unwrap();
    assert!(matches!(scenario.kinds()[1].engine.effective, EffectiveSettings::Tgi(_)));
}

#[test]
fn each_mistake_in_a_pool_is_named_with_its_place_and_a_remedy() {
    // What to replace, by what, and what the message must say.
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "weight = 0.5",
            "weight = 0",
            &["`fleet.pools.small.weight` must be above 0", "s.toml:23:10"],
        ),
        ("weight = 0.5", "[fleet.pools.large]\nweight = 0.5", &["duplicate key", "s.toml:23:14"]),
        (
            "hardware.instance = \"g6.2xlarge\"",
            "hardware.instance = \"g6.2xlarg\"",
            &["unknown instance", "s.toml:24:21", "in the pool small", "instance = \"g6.2xlarge\""],
        ),
        (
            "hardware.instance = \"g6.2xlarge\"",
            "instance = \"g6.2xlarge\"",
            &["unknown key `instance`", "`instance` belongs in [fleet.pools.small.hardware]"],
        ),
        (
            "hardware.instance = \"g6.2xlarge\"\n",
            "",
            &["`instance` is missing in [fleet.pools.small.hardware]", "in the pool small"],
        ),
        (
            "engine.tensor-parallel-size = 4",
            "engine.tensor-parallel-size = 3",
            &["tensor-parallel-size does not divide", "s.toml:20:31", "in the pool large"],
        ),
        (
            "engine.vllm.max-num-seqs = 32",
            "engine.pipeline-parallel-size = 2",
            &["`pipeline-parallel-size` is not modelled", "s.toml:25:8"],
        ),
        (
            "router = \"round-robin\"",
            "machines = 3",
            &["each pool has its own `machines`", "s.toml:15:1", "set fleet.pools.NAME.machines"],
        ),
        (
            "router = \"round-robin\"",
            "autoscaling = { target = 1, max-machines = 3 }",
            &["each pool has its own `autoscaling`", "s.toml:15:1"],
        ),
        (
            "weight = 0.5",
            "autoscaling = { target = 1 }",
            &["`max-machines` is missing in [fleet.pools.small.autoscaling]", "s.toml:23:1"],
        ),
        (
            "[workload]",
            "[fleet.outages.one]\nmachine = 0\nat = \"9s\"\nduration = \"9s\"\n[workload]",
            &["`pool` is missing in [fleet.outages.one]", "say of which pool: large, small"],
        ),
        (
            "[workload]",
            "[fleet.outages.one]\nmachine = 1\npool = \"smal\"\nat = \"9s\"\nduration = \"9s\"\n[workload]",
            &["there is no such pool", "s.toml:29:8", "pool = \"small\""],
        ),
        (
            "[workload]",
            "[fleet.outages.one]\nmachine = 1\npool = \"small\"\nat = \"9s\"\nduration = \"9s\"\n[workload]",
            &["there is no such machine", "s.toml:28:11", "the pool small has 1"],
        ),
        (
            "[workload]",
            "[fleet.outages.one]\nmachine = 1\nreplica = 2\nat = \"9s\"\nduration = \"9s\"\n[workload]",
            &["the machine is named twice", "s.toml:29:11", "by its number"],
        ),
        (
            "engine.vllm.max-num-seqs = 32",
            "model.name = \"llama-2-7b\"",
            &[
                "nothing says which model a request asks for",
                "llama-3.1-8b and llama-2-7b",
                "[workload.tenants.one] with model = \"llama-3.1-8b\"",
            ],
        ),
        (
            "[workload.poisson]",
            "[workload.tenants.chat]\nmodel = \"llama-3.1-8\"\n[workload.poisson]",
            &["nobody serves llama-3.1-8", "model = \"llama-3.1-8b\"", "add a pool"],
        ),
    ];
    for (from, to, parts) in cases {
        let text = error(from, to);
        for part in *parts {
            assert!(text.contains(part), "{to}: {part:?} is not in\n{text}");
        }
    }
    let twice = [("[model]\nname = \"llama-3.1-8b\"", "[model]\nname = \"llama-3.1-8\"")];
    let text = load_pools(&twice, &[]).unwrap_err();
    assert_eq!(text.matches("unknown model").count(), 1, "said once for both pools: {text}");
}

#[test]
fn with_two_models_every_tenant_names_its_own_and_who_is_not_asked_is_idle() {
    let two = ("engine.vllm.max-num-seqs = 32", "model.name = \"llama-2-7b\"");
    let tenants = |text: &'static str| ("[workload.poisson]", text);
    let silent = tenants(
        "[workload.tenants.a]\nmodel = \"llama-2-7b\"\n[workload.tenants.b]\n[workload.poisson]",
    );
    let text = load_pools(&[two, silent], &[]).unwrap_err();
    assert!(text.contains("the tenant b does not say which model it asks for"), "{text}");
    let one = tenants("[workload.tenants.a]\nmodel = \"llama-2-7b\"\n[workload.poisson]");
    let scenario = load_pools(&[two, one], &[]).unwrap();
    let idle = "nobody asks for llama-3.1-8b: the pool large is idle, and paid for";
    assert!(scenario.notes.iter().any(|note| note == idle), "{:?}", scenario.notes);
    assert_eq!(scenario.fleet_rules(1).unwrap().serving, [[1]]);
}

#[test]
fn flags_reach_pools_and_are_told_where_they_do_not() {
    let scenario = load_pools(&[], &set("fleet.pools.small.hardware.instance=g5.xlarge")).unwrap();
    assert_eq!(scenario.kinds()[1].hardware.instance.name, "g5.xlarge");
    let unpriced = ("price-kind = \"on-demand\"", "");
    let gpu = load_pools(&[unpriced], &set("fleet.pools.small.hardware.gpu=h100-80gb")).unwrap();
    assert_eq!(gpu.kinds()[1].hardware.gpu().name, "h100-80gb", "the instance went");
    let all = load_pools(&[], &set("engine.vllm.max-num-seqs=16")).unwrap();
    assert!(all.kinds().iter().any(|kind| matches!(
        &kind.engine.effective,
        EffectiveSettings::Vllm(settings) if settings.max_num_seqs == 16
    )));
    let flag = [Override::flag("--instance", "hardware.instance", "g5.xlarge")];
    let text = load_pools(&[], &flag).unwrap_err();
    for part in [
        "`hardware.instance` has no effect",
        "command line:1:1",
        "every pool has its own",
        "--set fleet.pools.NAME.hardware.instance=",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    // A file's own keys are there to be laid over.
    let file = ("price-kind = \"on-demand\"", "instance = \"g5.xlarge\"");
    assert!(load_pools(&[file], &[]).is_ok());
}

#[test]
fn outages_count_machines_over_all_pools() {
    let outage =
        "[fleet.outages.one]\nmachine = 0\npool = \"small\"\nat = \"9s\"\nduration = \"3s\"\n";
    let text = format!("{outage}[workload]");
    let scenario = load_pools(&[("[workload]", &text)], &[]).unwrap();
    let rules = scenario.fleet_rules(1).unwrap();
    let seconds = SimDuration::from_secs;
    assert_eq!(rules.outages, [Outage { machine: 2, at: seconds(9), duration: seconds(3) }]);
    assert_eq!(rules.replicas(), 3);
    // The pools' own failures come before those of all.
    let text = "[fleet.failures]\nmtbf = \"9h\"\nmttr = \"1s\"\n\
                [fleet.pools.small.failures]\nmtbf = \"1h\"\nmttr = \"1s\"\n[workload]";
    let scenario = load_pools(&[("[workload]", text)], &[]).unwrap();
    let rules = scenario.fleet_rules(1).unwrap();
    let mtbf = |pool: usize| rules.pools[pool].failures.unwrap().mtbf;
    assert_eq!((mtbf(0), mtbf(1)), (seconds(9 * 3600), seconds(3600)));
}
