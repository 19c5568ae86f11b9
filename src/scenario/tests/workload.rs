//! Arrivals and lengths: what is taken, and what is refused with which message.

use super::*;
use crate::workload::{LengthDistribution, RampStrategy, Turns};

/// A file without arrivals and lengths; `workload` goes between.
fn with(workload: &str) -> Result<Scenario, String> {
    let text = GOOD.replace("duration = \"240s\"\n\n[workload.closed-loop]\nclients = 10\n", "");
    let text = text.replace("[workload]\n", "");
    let head = &text[..text.find("[workload.lengths]").unwrap()];
    load_text(&format!("{head}{workload}"), &[])
}

/// The same with lengths that are right.
fn arriving(workload: &str) -> Result<ArrivalProcess, String> {
    let lengths = "\n[workload.lengths]\nfixed = { input = 9, output = 9 }\n";
    match with(&format!("{workload}{lengths}"))?.workload.arrivals {
        ArrivalSpec::Open(process) => Ok(process),
        other => panic!("{other:?}"),
    }
}

fn lengths(lengths: &str) -> Result<LengthSource, String> {
    let text = format!("[workload.poisson]\nrequest-rate = 1\n[workload.lengths]\n{lengths}");
    Ok(with(&text)?.workload.lengths.unwrap().source)
}

#[test]
fn every_kind_of_arrivals_has_its_defaults() {
    let secs = SimDuration::from_secs;
    let cases = [
        (
            "[workload.gamma]\nrequest-rate = 2",
            ArrivalProcess::Gamma { request_rate: 2.0, burstiness: 1.0, rescale: false },
        ),
        (
            "[workload.weibull]\nrequest-rate = 2\nburstiness = 0.5\nrescale = true",
            ArrivalProcess::Weibull { request_rate: 2.0, burstiness: 0.5, rescale: true },
        ),
        (
            "[workload.mmpp]\nrequest-rates = [0, 20]\nmean-dwell = [\"60s\", \"5s\"]",
            ArrivalProcess::Mmpp {
                request_rates: vec![0.0, 20.0],
                mean_dwell: vec![secs(60), secs(5)],
            },
        ),
        (
            "[workload.diurnal]\nrequest-rate = 2",
            ArrivalProcess::Diurnal {
                request_rate: 2.0,
                amplitude: 0.5,
                period: secs(86_400),
                peak_at: secs(43_200),
                burstiness: 1.0,
            },
        ),
        (
            "[workload]\nduration = \"60s\"\n[workload.ramp]\nstart-rate = 1\nend-rate = 9",
            ArrivalProcess::Ramp {
                start_rate: 1.0,
                end_rate: 9.0,
                over: secs(60),
                strategy: RampStrategy::Linear,
                burstiness: 1.0,
            },
        ),
        (
            "[workload.spike]\nrequest-rate = 1\nspike-rate = 9\nspike-start = \"5s\"\nspike-duration = \"2s\"",
            ArrivalProcess::Spike {
                request_rate: 1.0,
                spike_rate: 9.0,
                spike_start: secs(5),
                spike_duration: secs(2),
                spike_every: None,
                burstiness: 1.0,
            },
        ),
    ];
    for (text, process) in cases {
        assert_eq!(arriving(text), Ok(process), "{text}");
    }
}

#[test]
fn arrivals_that_make_no_sense_are_refused_with_the_reason() {
    let cases: &[(&str, &[&str])] = &[
        ("[workload.gamma]\nburstiness = 2", &["`request-rate` is missing in [workload.gamma]"]),
        (
            "[workload.gamma]\nrequest-rate = 2\nburstiness = 0",
            &["`workload.gamma.burstiness` must be at least 0.05", "zero"],
        ),
        (
            "[workload]\nduration = \"9s\"\n[workload.gamma]\nrequest-rate = 2\nrescale = true",
            &["rescaled to a number of requests", "the run ends by time", "num-requests"],
        ),
        (
            "[workload.mmpp]\nrequest-rates = [2, 20]\nmean-dwell = [\"60s\"]",
            &["each state has a rate and a stay", "1 stays", "2 rates"],
        ),
        (
            "[workload.mmpp]\nrequest-rates = [2]\nmean-dwell = [\"60s\"]",
            &["two states or more", "[workload.poisson]"],
        ),
        (
            "[workload.mmpp]\nrequest-rates = [2, -1]\nmean-dwell = [\"60s\", \"1s\"]",
            &["must be at least 0", "negative"],
        ),
        (
            "[workload.mmpp]\nrequest-rates = [2, 1]\nmean-dwell = [60, \"1s\"]",
            &["`workload.mmpp.mean-dwell` has no unit"],
        ),
        (
            "[workload.mmpp]\nrequest-rates = [1, 3]\nmean-dwell = [\"1ns\", \"1ns\"]",
            &["over a thousand times", "request-rate = 2"],
        ),
        ("[workload.diurnal]\nrequest-rate = 2\namplitude = 1.5", &["at most 1", "too large"]),
        ("[workload.ramp]\nstart-rate = 1\nend-rate = 9", &["`over` is missing", "duration"]),
        (
            "[workload.ramp]\nstart-rate = 0\nend-rate = 9\nover = \"9s\"\nstrategy = \"exponential\"",
            &["equal factors do not lead to or from zero", "\"linear\""],
        ),
        (
            "[workload.ramp]\nstart-rate = 0\nend-rate = 0\nover = \"9s\"",
            &["no request ever arrives"],
        ),
        (
            "[workload.ramp]\nstart-rps = 1\nend-rate = 2\nover = \"9s\"",
            &["unknown key `start-rps`", "+ start-rate ="],
        ),
        (
            "[workload.spike]\nrequest-rate = 1\nspike-rate = 9\nspike-start = \"5s\"\nspike-duration = \"20s\"\nspike-every = \"10s\"",
            &["begins before the last has ended", "lasts this long"],
        ),
        (
            "[workload.gamma]\nrequest-rate = 1\n[workload.ramp]\nstart-rate = 1",
            &["one kind of arrivals"],
        ),
    ];
    for (text, said) in cases {
        let message = arriving(text).expect_err(text);
        for part in *said {
            assert!(message.contains(part), "{text}: no {part:?} in\n{message}");
        }
        assert_eq!(message.matches("error: ").count(), 1, "{message}");
    }
}

#[test]
fn prompt_and_output_may_be_of_different_kinds() {
    let got =
        lengths("log-normal.input = { median = 512, sigma = 0.8, max = 4096 }\nfixed.output = 128");
    let want = LengthSource::Drawn {
        input: LengthDistribution::LogNormal { median: 512.0, sigma: 0.8, min: 1, max: 4096 },
        output: LengthDistribution::Fixed(128),
    };
    assert_eq!(got, Ok(want));
    let got = lengths("uniform = { input = { min = 4, max = 9 }, output = { max = 3 } }");
    let want = LengthSource::Drawn {
        input: LengthDistribution::Uniform { min: 4, max: 9 },
        output: LengthDistribution::Uniform { min: 1, max: 3 },
    };
    assert_eq!(got, Ok(want));
    let got = lengths(
        "zipf.input = { max = 9 }\n[workload.lengths.histogram.output]\nedges = [1, 10, 100]\ncounts = [3, 1]",
    );
    let want = LengthSource::Drawn {
        input: LengthDistribution::Zipf { exponent: 1.0, min: 1, max: 9 },
        output: LengthDistribution::Histogram { edges: vec![1, 10, 100], counts: vec![3.0, 1.0] },
    };
    assert_eq!(got, Ok(want));
}

#[test]
fn lengths_that_make_no_sense_are_refused_with_the_reason() {
    let cases: &[(&str, &[&str])] = &[
        ("fixed.input = 5", &["[workload.lengths.fixed]", "`output`", "--output-len"]),
        ("fixed = { input = 0, output = 5 }", &["must be at least 1", "zero"]),
        (
            "fixed.input = 5\nuniform.input = { max = 3 }\nfixed.output = 5",
            &["the input has two distributions", "and another"],
        ),
        (
            "dataset = \"openorca-006\"\nuniform.input = { max = 3 }",
            &["a data set or from a distribution", "and a distribution"],
        ),
        (
            "uniform.input = { min = 9, max = 3 }\nfixed.output = 5",
            &["max is below min", "at least this many"],
        ),
        ("uniform.input = {}\nfixed.output = 5", &["`max` is missing"]),
        ("normal.input = { mean = 9 }\nfixed.output = 5", &["`stddev` is missing"]),
        (
            "normal.input = { mean = 90, stddev = 1, max = 9 }\nfixed.output = 5",
            &["the cuts leave nothing of the distribution", "below max"],
        ),
        (
            "histogram.input = { edges = [1, 9], counts = [1, 2] }\nfixed.output = 5",
            &["one edge more than bins", "2 bins", "2 edges"],
        ),
        (
            "histogram.input = { edges = [1, 9, 9], counts = [1, 2] }\nfixed.output = 5",
            &["edges of a histogram rise"],
        ),
        (
            "histogram.input = { edges = [1, 9], counts = [0] }\nfixed.output = 5",
            &["all counts are zero"],
        ),
        ("fixed = 5", &["`fixed` is a table"]),
    ];
    for (text, said) in cases {
        let message = lengths(text).expect_err(text);
        for part in *said {
            assert!(message.contains(part), "{text}: no {part:?} in\n{message}");
        }
        assert_eq!(message.matches("error: ").count(), 1, "{message}");
    }
}

#[test]
fn a_flag_for_one_side_leaves_the_other() {
    let text = GOOD.replace(
        "dataset = \"openorca-006\"",
        "uniform = { input = { max = 9 }, output = { max = 7 } }",
    );
    let flag = Override::flag("--input-len", "workload.lengths.fixed.input", "64");
    let source = load_text(&text, &[flag]).unwrap().workload.lengths.unwrap().source;
    let want = LengthSource::Drawn {
        input: LengthDistribution::Fixed(64),
        output: LengthDistribution::Uniform { min: 1, max: 7 },
    };
    assert_eq!(source, want);
    let whole =
        Override::set("workload.lengths.zipf={ input = { max = 5 }, output = { max = 6 } }");
    let source = load_text(&text, &[whole]).unwrap().workload.lengths.unwrap().source;
    assert!(matches!(source, LengthSource::Drawn { input: LengthDistribution::Zipf { .. }, .. }));
    let gamma = Override::set("workload.gamma.request-rate=3");
    let scenario = load_text(&text, &[gamma]).unwrap();
    assert!(matches!(scenario.workload.arrivals, ArrivalSpec::Open(ArrivalProcess::Gamma { .. })));
}

#[test]
fn tenants_take_from_the_workload_what_they_do_not_say() {
    let text = "[workload.gamma]\nrequest-rate = 1\n[workload.lengths]\nfixed = { input = 9, output = 9 }\n\
        [workload.shared-prefix]\ntokens = 100\n\
        [workload.tenants.chat]\nshare = 3\nsessions = { turns = 4, think-time = \"5s\" }\n\
        [workload.tenants.batch]\npriority = 2\nlengths.uniform = { input = { max = 9 }, output = { max = 8 } }\n\
        shared-prefix = { tokens = 7, count = 2 }\n";
    let scenario = with(text).unwrap();
    let [batch, chat] = scenario.workload.tenants.as_slice() else { panic!("by name") };
    assert_eq!((batch.name.as_str(), batch.share, batch.priority), ("batch", 1.0, 2));
    assert_eq!((chat.share, chat.priority), (3.0, 0));
    assert_eq!(chat.lengths.name, "fixed");
    assert_eq!(batch.lengths.name, "uniform");
    assert_eq!(chat.shared_prefix, Some(SharedPrefix { tokens: 100, count: 1 }));
    assert_eq!(batch.shared_prefix, Some(SharedPrefix { tokens: 7, count: 2 }));
    assert_eq!(chat.sessions.unwrap().turns, Turns::Fixed(4));
    assert_eq!(batch.sessions, None);
    assert!(scenario.notes.iter().any(|n| n.contains("scheduling-policy")), "{:?}", scenario.notes);
    assert_eq!(scenario.workload.askers().len(), 2);

    let own = text.replace("[workload.lengths]\nfixed = { input = 9, output = 9 }\n", "");
    let message = with(&own).unwrap_err();
    assert!(message.contains("[workload.lengths] with `dataset` is missing"), "{message}");
    let share = Override::set("workload.tenants.chat.share=9");
    let scenario = load_text(
        &GOOD.replace("[workload.lengths]", "[workload.tenants.chat]\n[workload.lengths]"),
        &[share],
    );
    assert_eq!(scenario.unwrap().workload.tenants[0].share, 9.0);
}

#[test]
fn tenants_and_conversations_that_make_no_sense_are_refused_with_the_reason() {
    let cases: &[(&str, &[&str])] = &[
        (
            "[workload.sessions]\nthink-time = \"1s\"",
            &["`turns` is missing in [workload.sessions]"],
        ),
        (
            "[workload.sessions]\nturns = 2\nmean-turns = 3.0",
            &["turns are fixed or scatter around a mean", "fixed"],
        ),
        (
            "[workload.shared-prefix]\ncount = 2",
            &["`tokens` is missing in [workload.shared-prefix]"],
        ),
        (
            "[workload.tenants.chat]\nshare = 0",
            &["`workload.tenants.chat.share` must be above 0", "zero"],
        ),
        ("[workload.tenants.chat]\nshares = 2", &["unknown key `shares`", "+ share ="]),
        ("[workload.tenants.\"a b\"]\nshare = 2", &["\"a b\" is no name for a tenant"]),
        ("[workload.tenants]\nchat = 2", &["`chat` is a table"]),
        (
            "[workload.tenants.chat.lengths]\nuniform.input = { max = 3 }",
            &["[workload.tenants.chat.lengths.fixed]", "`output`"],
        ),
    ];
    for (text, said) in cases {
        let message =
            arriving(&format!("[workload.constant]\nrequest-rate = 1\n{text}")).expect_err(text);
        for part in *said {
            assert!(message.contains(part), "{text}: no {part:?} in\n{message}");
        }
        assert_eq!(message.matches("error: ").count(), 1, "{message}");
    }
}

/// A scenario with `[workload.trace] file = "t.csv"` and more keys, over a trace of this text.
fn traced(trace: &str, keys: &str) -> Result<Scenario, String> {
    let text = &GOOD[..GOOD.find("[workload]").unwrap()];
    let text = format!("{text}[workload.trace]\nfile = \"t.csv\"\n{keys}");
    let mut files = MemoryFiles::default();
    files.0.insert("dir/t.csv".into(), trace.into());
    load(&Source::file("dir/s.toml", text), &[], &files).map_err(|d| d.render(false))
}

const TRACE: &str =
    "arrival_s,input_tokens,output_tokens\n0,10,5\n10,20,5\n20,30,5\n40,40,0\n60,50,5\n";

fn spec(scenario: &Scenario) -> &TraceSpec {
    match &scenario.workload.arrivals {
        ArrivalSpec::Trace(trace) => trace,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_trace_is_counted_and_scaled() {
    let scenario = traced(TRACE, "").unwrap();
    assert_eq!(scenario.workload.num_requests, Some(4));
    assert_eq!(scenario.notes.iter().filter(|n| n.contains("1 of 5 rows")).count(), 1);
    let scenario = traced(TRACE, "rate-scale = 2.5\ntime-scale = 0.5").unwrap();
    assert_eq!(scenario.workload.num_requests, Some(10));
    let scenario = traced(TRACE, "start = \"10s\"\nend = \"60s\"").unwrap();
    assert_eq!(scenario.workload.num_requests, Some(2));
    // Four requests in 60 s: three gaps of 20 s.
    let scenario = traced(TRACE, "request-rate = 0.5").unwrap();
    assert_eq!(spec(&scenario).time_scale, 0.1);
    let scenario = traced(TRACE, "repeat = true\n[workload]\nduration = \"1h\"").unwrap();
    assert_eq!(scenario.workload.num_requests, None);
    assert_eq!(spec(&scenario).repeat_after, Some(SimDuration::from_secs(80)));
    let json = serde_json::to_value(&scenario).unwrap();
    assert_eq!(json["workload"]["arrivals"]["trace"]["file"], "t.csv");
}

#[test]
fn a_trace_given_by_a_flag_replaces_arrivals_and_lengths() {
    let mut files = MemoryFiles::default();
    files.0.insert("t.csv".into(), TRACE.into());
    let flag = Override::flag("--trace", "workload.trace.file", "t.csv");
    let scenario = load(&Source::file("dir/s.toml", GOOD), &[flag], &files).unwrap();
    assert!(scenario.workload.lengths.is_none());
    assert_eq!(spec(&scenario).requests(), 4);
}

#[test]
fn a_trace_given_by_a_flag_is_sent_to_its_end_unless_a_flag_ends_it() {
    let mut files = MemoryFiles::default();
    files.0.insert("t.csv".into(), TRACE.into());
    let with = |text: &str, more: &[Override]| {
        let flag = Override::flag("--trace", "workload.trace.file", "t.csv");
        let flags = [&[flag], more].concat();
        load(&Source::file("dir/s.toml", text), &flags, &files).unwrap().workload
    };
    let end = |workload: WorkloadSpec| (workload.duration, workload.num_requests);
    assert_eq!(end(with(GOOD, &[])), (None, Some(4)));
    let redhat = format!("{GOOD}[measure]\nconvention = \"redhat-2023\"\n");
    assert_eq!(end(with(&redhat, &[])), (None, Some(4)));
    let minute = Override::flag("--duration", "workload.duration", "60s");
    assert_eq!(end(with(GOOD, &[minute])), (Some(SimDuration::from_secs(60)), Some(4)));
    // A duration that was written beside a trace is the trace's.
    files.0.insert("u.csv".into(), TRACE.into());
    let text = GOOD.replace("[workload.closed-loop]\nclients = 10", "trace.file = \"u.csv\"");
    let text = text.replace("[workload.lengths]\ndataset = \"openorca-006\"\n", "");
    let load = |flags: &[Override]| load(&Source::file("s.toml", text.as_str()), flags, &files);
    let flag = Override::flag("--trace", "workload.trace.file", "t.csv");
    let kept = load(&[flag]).unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert_eq!(kept.workload.duration, Some(SimDuration::from_secs(240)));
}

#[test]
fn a_bad_row_of_a_trace_is_shown_with_its_line_and_the_key_that_names_the_file() {
    let message = traced(&TRACE.replace("20,30,5", "20,many,5"), "").unwrap_err();
    let expected = "\
error: `input_tokens` cannot be read
  --> dir/t.csv:4:4
   |
 4 | 20,many,5
   |    ^^^^ this is \"many\"
   |
  ::: dir/s.toml:17:8
   |
17 | file = \"t.csv\"
   |        ------- the trace
   |
   = help: write a whole number of tokens";
    assert_eq!(message, expected);
}

#[test]
fn traces_that_make_no_sense_are_refused_with_the_reason() {
    let cases: &[(&str, &str, &[&str])] = &[
        (TRACE, "file = 3", &["duplicate key"]),
        (TRACE, "start = \"9s\"\nend = \"9s\"", &["the window ends before it begins"]),
        (
            TRACE,
            "start = \"2h\"",
            &["the window holds no request", "from 0.000000 s to 60.000000 s"],
        ),
        (TRACE, "repeat = true", &["a repeated trace has no end", "workload.duration"]),
        (TRACE, "rate-scale = 0.1", &["nothing of the trace is sent", "less than one of 4"]),
        (TRACE, "time-scale = 0", &["must be above 0"]),
        (TRACE, "time-scale = 2.0\nrequest-rate = 3.0", &["by a factor or to a rate"]),
        (TRACE, "speed = 2", &["unknown key `speed`"]),
        (
            TRACE,
            "[workload.lengths]\nfixed = { input = 1, output = 1 }",
            &["a trace has its own lengths", "the trace"],
        ),
        ("", "", &["the trace is empty"]),
        ("arrival_s,input_tokens,output_tokens\n", "", &["the trace is empty", "no rows"]),
        ("arrival_s,input_tokens,output_tokens\n0,0,5\n", "", &["both a prompt and an answer"]),
        ("0,10,5\n", "", &["no column of prompt lengths", "dir/t.csv:1:1"]),
        (
            "arrival_s,input_tokens,output_tokens\n5,1,1\n3,1,1\n",
            "",
            &["not in order", "dir/t.csv:3:1", "sort the file"],
        ),
        (
            "arrival_s,input_tokens,output_tokens\n5,1,1\n",
            "request-rate = 2.0",
            &["no rate that could be scaled"],
        ),
    ];
    for (trace, keys, said) in cases {
        let message = traced(trace, keys).expect_err(keys);
        for part in *said {
            assert!(message.contains(part), "{keys}: no {part:?} in\n{message}");
        }
        assert_eq!(message.matches("error: ").count(), 1, "{message}");
    }
    let message = traced(TRACE, "").map(|_| ());
    assert_eq!(message, Ok(()));
    let text =
        GOOD.replace("[workload.closed-loop]\nclients = 10", "[workload.trace]\nfile = \"no.csv\"");
    let text = &text[..text.find("[workload.lengths]").unwrap()];
    let message = load_text(text, &[]).unwrap_err();
    assert!(message.contains("cannot read the trace no.csv"), "{message}");
}

#[test]
fn a_hole_in_a_trace_is_a_remark() {
    let notes = |requests: u32, hole: u32| {
        let at = |i: u32| i + hole * u32::from(i >= requests / 2);
        let rows: String = (0..requests).map(|i| format!("{},5,5\n", at(i))).collect();
        traced(&format!("arrival_s,input_tokens,output_tokens\n{rows}"), "").unwrap().notes
    };
    for requests in [30, 300] {
        let notes = notes(requests, 1000);
        let hole = "has a hole: no request for 1001.000 s";
        assert!(notes.iter().any(|note| note.contains(hole)), "{requests}: {notes:?}");
    }
    // Longer than the others, and no recorder that stopped.
    for (requests, gap) in [(2, 3600), (300, 60)] {
        assert!(!notes(requests, gap).iter().any(|note| note.contains("hole")), "{requests} {gap}");
    }
}
