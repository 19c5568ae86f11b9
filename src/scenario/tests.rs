use proptest::prelude::*;

use super::*;

/// A file that is right, to be made wrong one line at a time.
const GOOD: &str = r#"name = "a test"

[model]
name = "llama-2-7b"

[hardware]
instance = "g5.12xlarge"

[engine]
name = "vllm-0.32"
tensor-parallel-size = 2

[engine.vllm]
max-num-seqs = 64

[workload]
duration = "240s"

[workload.closed-loop]
clients = 10

[workload.lengths]
dataset = "openorca-006"
"#;

fn load_text(text: &str, overrides: &[Override]) -> Result<Scenario, String> {
    load(&Source::file("s.toml", text), overrides, &MemoryFiles::default())
        .map_err(|diagnostics| diagnostics.render(false))
}

/// What the messages say when `from` is replaced by `to`.
fn errors(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} should stand in the file once");
    load_text(&GOOD.replace(from, to), &[]).expect_err(to)
}

#[test]
fn each_mistake_is_named_with_its_place_and_a_remedy() {
    // What to replace, by what, and what the message must say.
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "max-num-seqs = 64",
            "max-num-sequences = 64",
            &[
                "unknown key `max-num-sequences` in [engine.vllm]",
                "s.toml:14:1",
                "+ max-num-seqs =",
            ],
        ),
        ("[engine.vllm]", "[engine.vlm]", &["unknown key `vlm`", "s.toml:13:9", "[engine.vllm]"]),
        (
            "duration = \"240s\"",
            "duration = 240",
            &["`workload.duration` has no unit", "s.toml:17:12", "\"240s\""],
        ),
        (
            "duration = \"240s\"",
            "duration = \"240 sec\"",
            &["unknown unit \"sec\"", "s.toml:17:12", "ms, s, min"],
        ),
        ("duration = \"240s\"", "duration = \"0s\"", &["above zero", "s.toml:17:12"]),
        (
            "tensor-parallel-size = 2",
            "tensor-parallel-size = 3",
            &[
                "does not divide llama-2-7b",
                "s.toml:11:24",
                "32 attention heads are not a multiple of 3",
                "------------ this model has 32 attention heads",
                "sizes that do: 1, 2, 4",
            ],
        ),
        (
            "tensor-parallel-size = 2",
            "tensor-parallel-size = 8",
            &["larger than the machine", "s.toml:11:24", "g5.12xlarge has 4 GPUs"],
        ),
        (
            "tensor-parallel-size = 2",
            "tensor-parallel-size = 2\nreplicas = 3",
            &["3 replicas of 2 GPUs need 6 GPUs", "s.toml:12:12"],
        ),
        (
            "[workload]",
            "[fleet]\nrouter = \"prefix\"\n[workload]",
            &["unknown value of `fleet.router`", "s.toml:17:10", "\"prefix-aware\""],
        ),
        (
            "[workload]",
            "[fleet]\nmachines = 0\n[workload]",
            &["`fleet.machines` must be at least 1", "s.toml:17:12"],
        ),
        (
            "[workload]",
            "[fleet]\nrouter = \"random\"\n[fleet.prefix-aware]\ncache-threshold = 0.5\n[workload]",
            &["settings of the router prefix-aware", "s.toml:18:8", "- the router is random"],
        ),
        (
            "[workload]",
            "[fleet.outages.one]\nreplica = 2\nat = \"9s\"\nduration = \"9s\"\n[workload]",
            &["there is no such replica", "s.toml:17:11", "the fleet has 1, numbered from 0"],
        ),
        (
            "[workload]",
            "[fleet.outages.one]\nreplica = 0\nat = \"9s\"\n[workload]",
            &["`duration` is missing in [fleet.outages.one]", "s.toml:16:16"],
        ),
        (
            "[workload]",
            "[fleet.failures]\nmtbf = \"1us\"\nmttr = \"1s\"\n[workload]",
            &["`fleet.failures.mtbf` must be at least 1.000 ms", "s.toml:17:8"],
        ),
        (
            "[workload]",
            "[fleet.autoscaling]\ntarget = 8\n[workload]",
            &["`max-machines` is missing in [fleet.autoscaling]", "s.toml:16:8"],
        ),
        (
            "[workload]",
            "[fleet]\nmachines = 9\nautoscaling = { target = 8, max-machines = 4 }\n[workload]",
            &["starts outside of its own limits", "s.toml:17:12", "- 1 to 4 machines"],
        ),
        (
            "[workload]",
            "[fleet.autoscaling]\nmetric = \"kv\"\ntarget = 8\nmax-machines = 4\n[workload]",
            &["never more than full", "s.toml:18:10", "- a share of the cache"],
        ),
        (
            "[workload.lengths]",
            "[workload.patience]\nretry-delay = \"1s\"\n[workload.lengths]",
            &["the patience has no limit", "s.toml:22:11"],
        ),
        (
            "[workload.lengths]",
            "[workload.tenants.a]\npatience.timeout = \"0s\"\n[workload.lengths]",
            &["the time-out must be above zero", "s.toml:23:20"],
        ),
        (
            "[workload.lengths]",
            "[workload.tenants.a]\nslo = { percentile = 90 }\n[workload.lengths]",
            &["the SLO has no target", "s.toml:23:1"],
        ),
        ("clients = 10", "clients = 0", &["must be at least 1", "s.toml:20:11", "zero"]),
        ("clients = 10", "clients = 1.5", &["must be a whole number", "a fraction"]),
        ("clients = 10", "clients = inf", &["must be a whole number"]),
        ("clients = 10", "clients = 99999999999999999999", &["too large", "s.toml:20:11"]),
        ("clients = 10", "", &["`clients` is missing in [workload.closed-loop]", "s.toml:19:11"]),
        (
            "[workload.closed-loop]\nclients = 10",
            "[workload.poisson]\nrequest-rate = -1",
            &["must be above 0", "negative", "s.toml:20:16"],
        ),
        (
            "[workload.closed-loop]\nclients = 10",
            "[workload.poisson]\nrequest-rate = nan",
            &["not a finite number"],
        ),
        (
            "clients = 10",
            "clients = 10\n[workload.poisson]\nrequest-rate = 1",
            &["one kind of arrivals", "s.toml:21:11", "^ and another", "- one kind"],
        ),
        (
            "[workload.closed-loop]\nclients = 10",
            "[workload.trace]\nfile = 10",
            &["`workload.trace.file` must be text in quotes"],
        ),
        ("[workload.closed-loop]\nclients = 10", "", &["no arrivals", "s.toml:16:2"]),
        ("llama-2-7b", "llama2-7b", &["unknown model", "s.toml:4:8", "\"llama-2-7b\""]),
        ("g5.12xlarge", "g5.12xlarg", &["unknown instance", "s.toml:7:12", "\"g5.12xlarge\""]),
        (
            "vllm-0.32",
            "vllm-0.33",
            &["unknown value of `engine.name`", "\"vllm-0.32\"", "s.toml:10:8"],
        ),
        (
            "vllm-0.32",
            "tgis-2023",
            &["[engine.vllm] does not belong to tgis-2023", "s.toml:13:9", "[engine.tgis]"],
        ),
        (
            "instance = \"g5.12xlarge\"",
            "instance = \"g5.12xlarge\"\ngpu = \"a10g\"",
            &["an instance or GPUs, not both", "s.toml:8:7"],
        ),
        ("[hardware]\ninstance = \"g5.12xlarge\"", "", &["[hardware] with `instance` is missing"]),
        (
            "instance = \"g5.12xlarge\"",
            "instance = g5.12xlarge",
            &["not TOML", "s.toml:7:12", "text stands in quotes", "\"g5.12xlarge\""],
        ),
        (
            "openorca-006",
            "no/lengths.csv",
            &["cannot read the data set no/lengths.csv", "s.toml:23:11"],
        ),
        ("\"openorca-006\"", "\"openorca-006", &["s.toml:23:24", "is the file complete?"]),
        ("dataset = \"openorca-006\"\n", "datas", &["s.toml:23:6", "is the file complete?"]),
        (
            "max-num-seqs = 64",
            "max-num-seqs = 64\nspeculative-config = {}",
            &["`speculative-config` is not modelled", "s.toml:15:1"],
        ),
        (
            "tensor-parallel-size = 2",
            "pipeline-parallel-size = 2",
            &["`pipeline-parallel-size` is not modelled", "set it to 1"],
        ),
        (
            "max-num-seqs = 64",
            "max-num-seqs = 64\nmax-num-batched-tokens = 32",
            &["max-num-seqs must be at most max-num-batched-tokens", "s.toml:14:16"],
        ),
        (
            "max-num-seqs = 64",
            "max-model-len = 8192",
            &["longer than the model", "s.toml:14:17", "4096 positions"],
        ),
        (
            "max-num-seqs = 64",
            "swap-space = \"4 GiB\"",
            &["vllm-0.32 has no setting `swap-space`", "only vllm-0.2.7, vllm-0.4.2"],
        ),
        ("max-num-seqs = 64", "max-num-seqs = \"64\"", &["must be a whole number", "this is text"]),
        (
            "duration",
            "num_requests = 3\nduration",
            &["unknown key `num_requests`", "num-requests ="],
        ),
        ("duration", "clients = 3\nduration", &["`clients` belongs in [workload.closed-loop]"]),
        ("[workload]\n", "engine = 3\n[workload]\n", &["`engine`"]),
        ("duration = \"240s\"", "drain = true", &["a closed loop does not drain"]),
    ];
    for (from, to, said) in cases {
        let message = errors(from, to);
        for text in *said {
            assert!(message.contains(text), "{to:?}: no {text:?} in\n{message}");
        }
    }
}

#[test]
fn all_mistakes_are_reported_in_one_go() {
    let text = GOOD
        .replace("llama-2-7b", "llama-2-8b")
        .replace("clients = 10", "clients = 0\nthink-time = 3")
        .replace("tensor-parallel-size = 2", "tensor-parallel-size = 8")
        .replace("max-num-seqs", "max-seqs")
        .replace("openorca-006", "x.csv");
    let message = load_text(&text, &[]).unwrap_err();
    assert_eq!(message.matches("error: ").count(), 6, "{message}");
}

#[test]
fn all_syntax_errors_are_reported_in_one_go() {
    let text = GOOD.replace("= 64", "=").replace("= 10", "= ten").replace("[model]", "[model");
    let message = load_text(&text, &[]).unwrap_err();
    assert_eq!(message.matches("error: this is not TOML").count(), 3, "{message}");
}

#[test]
fn a_wrong_row_of_the_data_set_is_shown_with_the_key_that_names_it() {
    let mut files = MemoryFiles::default();
    files.0.insert("dir/rows.csv".into(), b"input_tokens,output_tokens\n12,many\n".to_vec());
    files.0.insert("dir/empty.csv".into(), b"".to_vec());
    let message = |name: &str| {
        let source = Source::file("dir/s.toml", GOOD.replace("openorca-006", name));
        load(&source, &[], &files).unwrap_err().render(false)
    };
    let expected = "\
error: `output_tokens` is not a number of tokens
  --> dir/rows.csv:2:4
   |
 2 | 12,many
   |    ^^^^ \"many\" is no whole number
   |
  ::: dir/s.toml:23:11
   |
23 | dataset = \"rows.csv\"
   |           ---------- the data set
   |
   = help: write a whole number from 1 to 1073741824";
    assert_eq!(message("rows.csv"), expected);
    assert!(message("empty.csv").contains("the data set is empty"), "{}", message("empty.csv"));
}

#[test]
fn a_flag_replaces_the_line_of_the_file_and_is_shown_where_it_is_wrong() {
    let tp = |n: &str| Override::flag("--tp", "engine.tensor-parallel-size", n);
    assert_eq!(load_text(GOOD, &[tp("4")]).unwrap().engine.tensor_parallel_size, 4);
    let expected = "\
error: tensor-parallel-size does not divide llama-2-7b
 --> command line:1:6
  |
1 | --tp 3
  |      ^ 32 attention heads are not a multiple of 3
  |
 ::: s.toml:4:8
  |
4 | name = \"llama-2-7b\"
  |        ------------ this model has 32 attention heads and 32 KV heads
  |
  = help: sizes that do: 1, 2, 4, 8, 16, 32";
    assert_eq!(load_text(GOOD, &[tp("3")]).unwrap_err(), expected);
}

#[test]
fn set_takes_toml_and_bare_words() {
    let set = |text: &str| load_text(GOOD, &[Override::set(text)]);
    assert_eq!(set("workload.seed=7").unwrap().workload.seed, 7);
    assert_eq!(set("model.name=llama-2-13b").unwrap().model.name, "llama-2-13b");
    assert_eq!(set("model.name=\"llama-2-13b\"").unwrap().model.name, "llama-2-13b");
    assert_eq!(set("name=7").unwrap().name, "7");
    let slo = set("measure.slo={ ttft = \"2s\" }").unwrap().measure.slo.unwrap();
    assert_eq!(slo.ttft, Some(SimDuration::from_secs(2)));
    let cases = [
        ("workload.seed", "no `=` here"),
        ("..=3", "not a key"),
        ("workload.closed_loop.clients=3", "command line:1:16"),
        ("engine.tensor-parallel-size=x", "command line:1:35"),
        ("workload.duration=240", "it has no unit"),
        ("measure.slo={ ttft", "not TOML"),
        ("model=3", "`model` is a table"),
    ];
    for (text, said) in cases {
        let message = set(text).unwrap_err();
        assert!(message.contains(said), "{text}: no {said:?} in\n{message}");
    }
}

fn poisson(request_rate: f64) -> ArrivalSpec {
    ArrivalSpec::Open(ArrivalProcess::Poisson { request_rate, rescale: false })
}

#[test]
fn a_flag_drops_what_it_excludes() {
    let rate = Override::flag("--request-rate", "workload.poisson.request-rate", "2.5");
    let scenario = load_text(GOOD, &[rate]).unwrap();
    assert_eq!(scenario.workload.arrivals, poisson(2.5));

    let engine = Override::flag("--engine", "engine.name", "tgis-2023");
    let len = Override::flag("--max-model-len", "engine.*.max-model-len", "1024");
    let scenario = load_text(GOOD, &[len, engine.clone()]).unwrap();
    let EffectiveSettings::Tgis(settings) = scenario.engine.effective else { panic!() };
    assert_eq!(settings.max_sequence_length, 1024);

    let caching =
        Override::switch("--enable-prefix-caching", "engine.*.enable-prefix-caching", true);
    let message = load_text(GOOD, &[engine.clone(), caching]).unwrap_err();
    assert!(message.contains("tgis-2023 has no setting `enable-prefix-caching`"), "{message}");
    for key in ["engine.*.enable-prefix-caching", "engine.*.enable-chunked-prefill"] {
        let off = Override::switch("--no-...", key, false);
        assert!(load_text(GOOD, &[engine.clone(), off.clone()]).is_ok(), "it has none to turn off");
        let older = Override::flag("--engine", "engine.name", "vllm-0.2.7");
        assert!(load_text(GOOD, &[older, off]).is_ok(), "nor has that");
    }

    let tgis = GOOD
        .replace("vllm]\nmax-num-seqs", "tgis]\nmax-batch-weight")
        .replace("= 64", "= 8192")
        .replace("vllm-0.32", "tgis-2023");
    assert!(load_text(&tgis, &[]).is_ok());
    let newer = Override::flag("--engine", "engine.name", "tgis-2024");
    assert!(load_text(&tgis, &[newer]).is_ok(), "the weight is a setting of 2023");

    let priced = GOOD.replace("[engine]", "price = \"9 USD/h\"\n[engine]");
    let instance = Override::flag("--instance", "hardware.instance", "g5.48xlarge");
    let price = load_text(&priced, &[instance]).unwrap().hardware.price.unwrap();
    assert_eq!(price.usd.get(), 16.288, "the pinned price was the other machine's");
}

#[test]
fn flags_alone_make_a_scenario() {
    let flags = [
        Override::flag("--model", "model.name", "gemma-7b"),
        Override::flag("--instance", "hardware.instance", "g2-standard-4"),
        Override::flag("--engine", "engine.name", "vllm-0.4.2"),
    ];
    let scenario = load(&Source::Flags, &flags, &MemoryFiles::default()).unwrap();
    assert_eq!(scenario.name, "gemma-7b on g2-standard-4, vllm-0.4.2");
    assert_eq!(scenario.notes.len(), 2, "load and lengths are assumed: {:?}", scenario.notes);

    let message = load(&Source::Flags, &[], &MemoryFiles::default()).unwrap_err().render(false);
    for flag in ["--model", "--instance", "--engine"] {
        assert!(message.contains(flag), "{message}");
    }
}

#[test]
fn a_misspelt_key_is_not_reported_as_missing_too() {
    for (from, to) in [
        ("clients = 10", "client = 10"),
        ("[workload.closed-loop]", "[workload.closed-lop]"),
        ("dataset =", "datset ="),
        ("instance =", "instnce ="),
    ] {
        let message = errors(from, to);
        assert_eq!(message.matches("error: ").count(), 1, "{message}");
    }
}

#[test]
fn tgi_takes_cuda_graphs_as_a_switch_or_as_sizes() {
    let tgi = |setting: &str| {
        let text = GOOD
            .replace("vllm-0.32", "tgi-v2")
            .replace("[engine.vllm]\nmax-num-seqs = 64", &format!("[engine.tgi]\n{setting}"));
        load_text(&text, &[]).map(|scenario| scenario.engine.effective)
    };
    let graphs = |setting| match tgi(setting).unwrap() {
        EffectiveSettings::Tgi(settings) => settings.cuda_graphs,
        other => panic!("{other:?}"),
    };
    assert!(graphs("cuda-graphs = false").is_empty());
    assert_eq!(graphs("cuda-graphs = [1, 2]"), [1, 2]);
    assert_eq!(graphs(""), [1, 2, 4, 8, 16, 32]);
    let message = tgi("cuda-graphs = \"1,2\"").unwrap_err();
    assert!(
        message.contains("true or false or a list in which each item is a whole number"),
        "{message}"
    );
    let message = tgi("cuda-graphs = [1, 0]").unwrap_err();
    assert!(message.contains("must be at least 1"), "{message}");
    let message = tgi("max-total-tokens = 600").unwrap_err();
    assert!(message.contains("max-input-tokens is 1024 by default"), "{message}");
}

#[test]
fn idle_gpus_are_noted() {
    let scenario = load_text(GOOD, &[]).unwrap();
    assert_eq!(scenario.notes, ["2 of 4 GPUs on g5.12xlarge are idle, and paid for"]);
}

#[test]
fn a_checkpoint_of_one_s_own_is_read_beside_the_scenario() {
    let mut files = MemoryFiles::default();
    let config = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 4096,
        "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "vocab_size": 32000, "max_position_embeddings": 4096, "torch_dtype": "float16"}"#;
    files.0.insert("dir/my-model/config.json".into(), config.into());
    let text = GOOD.replace("name = \"llama-2-7b\"", "config = \"my-model/config.json\"");
    let scenario = load(&Source::file("dir/s.toml", text), &[], &files).unwrap();
    assert_eq!(scenario.model.name, "my-model");
    assert_eq!(scenario.model.parameter_count(), 6_738_415_616);
}

#[test]
fn a_gpu_that_lacks_the_dtype_is_refused_with_the_one_that_works() {
    let text = GOOD.replace("llama-2-7b", "llama-3.1-8b").replace("g5.12xlarge", "g4dn.12xlarge");
    let message = load_text(&text, &[]).unwrap_err();
    assert!(message.contains("t4 does not compute in bfloat16"), "{message}");
    assert!(message.contains("dtype = \"float16\""), "{message}");
}

#[test]
fn the_default_scenario_is_the_first_published_run() {
    let scenario =
        load(&embedded(DEFAULT_SCENARIO).unwrap(), &[], &MemoryFiles::default()).unwrap();
    assert_eq!(scenario.model.name, "llama-2-7b");
    assert_eq!(scenario.hardware.gpu().name, "a10g");
    let LengthSource::Pairs { pairs, .. } = &scenario.workload.lengths.as_ref().unwrap().source
    else {
        panic!()
    };
    assert_eq!(pairs.len(), 32);
    let [note] = scenario.notes.as_slice() else { panic!("{:?}", scenario.notes) };
    assert!(note.contains("max-batch-weight = auto is assumed"), "{note}");
}

#[test]
fn as_json_a_scenario_has_the_file_s_keys_and_the_defaults() {
    let json = serde_json::to_value(load_text(GOOD, &[]).unwrap()).unwrap();
    assert_eq!(json["engine"]["settings"], serde_json::json!({ "max-num-seqs": 64 }));
    assert_eq!(json["engine"]["effective"]["max-num-seqs"], 64);
    assert_eq!(json["engine"]["effective"]["block-size"], 16);
    assert_eq!(json["workload"]["arrivals"]["closed-loop"]["clients"], 10);
    assert_eq!(json["workload"]["duration"], "240 s");
    assert_eq!(json["workload"]["lengths"]["pairs"]["count"], 32);
    assert_eq!(json["measure"]["convention"], "vllm");
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_are_no_obstacle() {
    load_text(&format!("\u{feff}{}", GOOD.replace('\n', "\r\n")), &[]).unwrap();
    let message = load_text(&GOOD.replace('\n', "\r\n").replace("= 10", "= 0"), &[]).unwrap_err();
    assert!(message.contains("s.toml:20:11"), "{message}");
}

#[test]
fn every_embedded_scenario_loads_and_says_what_it_shows() {
    let names = embedded_names();
    assert!(!names.is_empty());
    for name in names {
        let source = embedded(&name).unwrap();
        let Source::File { text, .. } = &source else { panic!("{name} is a file") };
        assert!(text.starts_with(b"# "), "{name} starts with a comment that says what it shows");
        if let Err(diagnostics) = load(&source, &[], &MemoryFiles::default()) {
            panic!("{name}:\n{diagnostics}");
        }
    }
}

#[test]
fn names_of_embedded_scenarios_are_those_of_their_files() {
    for name in [DEFAULT_SCENARIO, "scenarios/redhat/llama-2-7b-g5.2xlarge.toml"] {
        assert!(open(name, &MemoryFiles::default()).is_ok(), "{name}");
    }
    let message = open("redhat/lama-2-7b-g5.2xlarge", &MemoryFiles::default()).unwrap_err();
    assert!(message.render(false).contains(DEFAULT_SCENARIO), "{message}");
}

mod pools;
mod workload;

/// Values that some key takes, and values that none does.
const VALUES: [&str; 24] = [
    "0",
    "1",
    "2",
    "8",
    "64",
    "100000",
    "4294967295",
    "-1",
    "0.5",
    "1e400",
    "nan",
    "true",
    "false",
    "auto",
    "\"\"",
    "{}",
    "[]",
    "[1, \"a\"]",
    "1s",
    "0s",
    "1 GiB",
    "tgis-2023",
    "vllm-0.2.7",
    "static",
];

proptest! {
    #[test]
    fn no_bytes_make_the_loader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = load(&Source::file("x", bytes), &[], &MemoryFiles::default()).map_err(|d| d.render(true));
    }

    #[test]
    fn no_damage_to_a_good_file_makes_the_loader_panic(
        at in 0..GOOD.len(), len in 0usize..40, put in "[\\x00-\\x7f\u{e9}]{0,12}"
    ) {
        let text = [&GOOD[..at], &put, &GOOD[(at + len).min(GOOD.len())..]].concat();
        let _ = load(&Source::file("x", text), &[], &MemoryFiles::default()).map_err(|d| d.render(true));
    }

    #[test]
    fn no_values_of_known_keys_make_the_loader_panic(
        picks in proptest::collection::vec((any::<prop::sample::Index>(), 0..VALUES.len()), 1..7)
    ) {
        let keys = schema::Schema::scenario().keys();
        let set = |(key, value): &(prop::sample::Index, usize)| {
            Override::set(&format!("{}={}", keys[key.index(keys.len())].0, VALUES[*value]))
        };
        let flags: Vec<Override> = picks.iter().map(set).collect();
        for source in [Source::Flags, Source::file("x", GOOD)] {
            match load(&source, &flags, &MemoryFiles::default()) {
                Ok(scenario) => { serde_json::to_string(&scenario).unwrap(); }
                Err(problems) => prop_assert!(!problems.is_empty() && !problems.render(true).is_empty()),
            }
        }
    }

    #[test]
    fn no_flag_makes_the_loader_panic(
        set in "\\PC{0,40}|[a-z.*-]{0,30}=[\\x00-\\x7f]{0,20}|(engine|workload|model|measure)\\.[a-z-]{0,12}=\\PC{0,9}",
        key in "engine\\.\\*\\.[a-z-]{0,20}|[a-z.-]{0,20}",
        value in "\\PC{0,20}",
    ) {
        let flags = [Override::set(&set), Override::flag("--x", &key, &value)];
        for source in [Source::Flags, Source::file("x", GOOD)] {
            let _ = load(&source, &flags, &MemoryFiles::default()).map_err(|d| d.render(true));
        }
    }
}
