//! Sweeps as their authors meet them: what a file means, and what is said of one that is wrong.

use super::*;
use crate::scenario::{MemoryFiles, Registry};

const BASE: &str = "base = \"redhat/llama-2-7b-g5.2xlarge\"\n";

fn load(text: &str) -> Result<Sweep, String> {
    load_with(text, &[])
}

fn load_with(text: &str, set: &[&str]) -> Result<Sweep, String> {
    let source = Source::file("s.toml", text);
    let overrides: Vec<Override> = set.iter().map(|text| Override::set(text)).collect();
    Sweep::load(&source, &overrides, &MemoryFiles::default(), &Registry::builtin())
        .map_err(|d| d.render(false))
}

fn sweep(text: &str) -> Sweep {
    load(&format!("{BASE}{text}")).unwrap_or_else(|problem| panic!("{problem}"))
}

/// What is said of a file, as (file and line, text).
fn fault(text: &str) -> String {
    match load(&format!("{BASE}{text}")) {
        Ok(_) => panic!("{text} should be refused"),
        Err(problem) => problem,
    }
}

fn count(sweep: &Sweep) -> usize {
    sweep.points().collect::<Result<Vec<_>, _>>().expect("sound conditions").len()
}

/// The cells of a row by column.
fn row(sweep: &Sweep, number: u64) -> BTreeMap<String, String> {
    let point = sweep.points().map(|p| p.unwrap()).find(|p| p.number == number).unwrap();
    let row = sweep.row(point, &MemoryFiles::default());
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&row[..]);
    let record = reader.records().next().unwrap().unwrap();
    sweep.header().into_iter().zip(record.iter().map(str::to_owned)).collect()
}

#[test]
fn axes_are_crossed_and_zipped_keys_move_together() {
    let sweep = sweep(
        "[axes]\nworkload.seed = [1, 2]\nworkload.closed-loop.clients = { from = 1, to = 9, step = 4 }\n\
         [[zip]]\nhardware.instance = ['g5.2xlarge', 'g5.12xlarge']\nengine.tensor-parallel-size = [1, 4]\n",
    );
    assert_eq!((sweep.combinations(), count(&sweep)), (12, 12));
    let cells = row(&sweep, 11);
    let get = |key: &str| cells[key].as_str();
    assert_eq!(get("workload.seed"), "2");
    assert_eq!(get("workload.closed-loop.clients"), "9");
    assert_eq!((get("instance"), get("tensor_parallel_size")), ("g5.12xlarge", "4"));
    assert_eq!((get("status"), get("load")), ("ok", "9 clients"));
}

#[test]
fn ranges_are_linear_or_logarithmic_and_whole_where_the_key_is() {
    let clients = |range: &str| -> Vec<String> {
        let sweep = sweep(&format!("[axes.workload.closed-loop]\nclients = {range}\n"));
        sweep.points().map(|p| point_value(&sweep, p.unwrap())).collect()
    };
    assert_eq!(clients("{ from = 1, to = 10, steps = 4 }"), ["1", "4", "7", "10"]);
    assert_eq!(clients("{ from = 1, to = 64, steps = 4, scale = 'log' }"), ["1", "4", "16", "64"]);
    // Neighbours that round to one number are one value.
    assert_eq!(clients("{ from = 1, to = 4, steps = 9, scale = 'log' }"), ["1", "2", "3", "4"]);
    assert_eq!(clients("{ from = 10, to = 1, step = -5 }"), ["10", "5"]);
}

fn point_value(sweep: &Sweep, point: Point) -> String {
    match &sweep.values(point)[0].1.value {
        Value::Integer(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_axis_replaces_what_excludes_it_in_the_base() {
    let sweep = sweep(
        "[scenario]\nworkload.num-requests = 5\n\
         [axes]\nworkload.poisson.request-rate = [2.0]\nengine.name = ['vllm-0.32', 'tgi-v3']\n\
         'engine.*.max-model-len' = [1024]\nmeasure.convention = ['vllm']\n",
    );
    let cells = row(&sweep, 1);
    assert_eq!(cells["load"], "poisson 2.0 requests/s");
    assert_eq!((cells["engine"].as_str(), cells["status"].as_str()), ("tgi-v3", "ok"));
}

#[test]
fn a_point_that_cannot_be_is_a_result_with_its_reason() {
    let sweep = sweep(
        "[scenario]\nworkload.duration = '5s'\n[axes]\nmodel.name = ['llama-2-7b', 'llama-2-13b']\n\
         engine.tensor-parallel-size = [1, 4]\n",
    );
    let status = |number| {
        let cells = row(&sweep, number);
        (cells["status"].clone(), cells["reason"].clone())
    };
    assert_eq!(status(0).0, "ok");
    let (impossible, why) = status(1);
    assert_eq!(impossible, "impossible");
    assert!(why.contains("larger than the machine") && why.contains("1 GPU"), "{why}");
    let (unfit, why) = status(2);
    assert_eq!(unfit, "does-not-fit");
    assert!(why.contains("out of memory") && why.contains("would fit with"), "{why}");
}

#[test]
fn a_missed_objective_says_by_how_much() {
    let sweep = sweep(
        "[scenario]\nworkload.duration = '20s'\nmeasure.slo = { ttft = '10s', tpot = '10ms' }\n",
    );
    let cells = row(&sweep, 0);
    assert_eq!(cells["status"], "slo-missed");
    assert!(cells["reason"].starts_with("p99 TPOT "), "{}", cells["reason"]);
    assert!(cells["reason"].contains("over 10.0 ms (+"), "{}", cells["reason"]);
}

#[test]
fn conditions_leave_the_meant_combinations() {
    let axes = "[axes]\nhardware.instance = ['g5.2xlarge', 'g5.12xlarge', 'g5.48xlarge']\n\
                engine.tensor-parallel-size = [1, 2, 4, 8]\n";
    let left = |condition: &str| count(&sweep(&format!("where = [\"{condition}\"]\n{axes}")));
    assert_eq!(left("engine.tensor-parallel-size == gpus"), 3);
    assert_eq!(left("tensor-parallel-size <= gpus and usd-per-hour < 10"), 4);
    assert_eq!(left("instance in ['g5.2xlarge'] or workload.closed-loop.clients > 10"), 4);
    let empty = sweep(&format!("where = ['gpus > 8']\n{axes}"));
    assert_eq!(count(&empty), 0);
    let said = empty.nothing_left().render(false);
    assert!(said.contains("s.toml:2") && said.contains("excludes all 12 combinations"), "{said}");
}

#[test]
fn what_is_wrong_with_a_file_is_shown_in_its_place() {
    let cases = [
        ("[axes]\nworkload.closed-loop.client = [1]\n", 3, "workload.closed-loop.clients"),
        ("[axes]\nconcurrency = [1]\n", 3, "workload.closed-loop.clients"),
        ("[axes]\nmodel.name = ['llama-2-7c']\n", 3, "llama-2-7b"),
        ("[axes]\nmodel.name = ['llama-2-7b', 3]\n", 3, "must be text"),
        ("[axes]\nworkload.seed = 3\n", 3, "takes a list or a range"),
        ("[axes]\nworkload.seed = []\n", 3, "no values"),
        ("[axes]\nworkload.closed-loop.clients = [0]\n", 3, "must be at least 1"),
        ("[axes]\nworkload.seed = { from = 1, to = 9 }\n", 3, "`steps` says how many"),
        ("[axes]\nworkload.seed = { from = 1, to = 9, stop = 2 }\n", 3, "no part of a range"),
        ("[axes]\nworkload.seed = { from = 1, to = 9, step = -1 }\n", 3, "does not lead"),
        (
            "[axes]\nworkload.seed = { from = 0, to = 9, steps = 3, scale = 'log' }\n",
            3,
            "above zero",
        ),
        ("[[zip]]\nworkload.seed = [1]\nengine.replicas = [1, 2]\n", 4, "lists of one length"),
        ("[axes]\nworkload.seed = [1]\n[[zip]]\nworkload.seed = [2]\n", 5, "swept twice"),
        ("axis = 3\n", 2, "axes"),
        ("workload = { seed = 1 }\n", 2, "[scenario.workload]"),
        ("where = ['tp <= gpus']\n", 2, "`tp` is no key"),
        ("where = ['gpus = 4']\n", 2, "write `==`"),
        ("where = [4]\n", 2, "a condition is text"),
        ("[rank]\nby = 'usd_per_1m_output_token'\n", 3, "usd_per_1m_output_tokens"),
        ("[rank]\nwithin = ['model.name']\n", 3, "no axis"),
        ("[scenario]\nmodel.nome = 'x'\n", 3, "model.name"),
        ("[scenario]\nmodel.name = 'gpt-5'\n", 3, "unknown model"),
        ("name = [", 2, "not TOML"),
    ];
    for (text, line, what) in cases {
        let said = fault(text);
        assert!(said.contains(&format!("s.toml:{line}:")), "{text}: {said}");
        assert!(said.contains(what), "{text}: {said}");
    }
    let said = load("base = 'redhat/llama-2-7b-g5.2xlrge'\n").unwrap_err();
    assert!(said.contains("s.toml:1:") && said.contains("llama-2-7b-g5.2xlarge"), "{said}");
}

#[test]
fn a_flag_for_an_axis_is_refused_and_one_for_the_base_is_taken() {
    let text = format!("{BASE}[axes]\nworkload.seed = [1, 2]\n");
    let said = load_with(&text, &["workload.seed=3"]).unwrap_err();
    assert!(said.contains("is an axis") && said.contains("s.toml:3"), "{said}");
    let sweep = load_with(&text, &["workload.closed-loop.clients=3"]).unwrap();
    assert_eq!(row(&sweep, 0)["load"], "3 clients");
    assert_ne!(sweep.fingerprint(), load(&text).unwrap().fingerprint());
}

#[test]
fn the_fingerprint_follows_what_is_run_and_not_how_it_is_written() {
    let of = |text: &str| load(&format!("{BASE}{text}")).unwrap().fingerprint().to_owned();
    let plain = of("[axes]\nworkload.seed = [1, 2]\n");
    assert_eq!(plain, of("# a comment\naxes.workload.seed = [1, 2]\n[rank]\ntop = 3\n"));
    assert_ne!(plain, of("[axes]\nworkload.seed = [1, 3]\n"));
    assert_ne!(plain, of("where = ['workload.seed < 9']\n[axes]\nworkload.seed = [1, 2]\n"));
}

#[test]
fn points_that_differ_in_anything_have_different_hashes() {
    let sweep = sweep("[scenario]\nworkload.duration = '1s'\n[axes]\nworkload.seed = [1, 2, 1]\n");
    let hash = |number| row(&sweep, number)["hash"].clone();
    assert_ne!(hash(0), hash(1));
    assert_eq!(hash(0), hash(2));
}
