//! `servesim compare`: two scenarios under the same requests.

use serde_json::{Value, json as object};

use super::args::{CompareArgs, Format, Side};
use super::output::{Content, OutDir};
use super::progress::RunsDone;
use super::stopwatch::Stopwatch;
use super::{Failure, Outcome, input, memory, output};
use crate::compare::metric::{Judge, parse_tolerance};
use crate::compare::schedule::{Contest, Schedules};
use crate::compare::witness::Witness;
use crate::compare::{self, Comparison, Plan, Verdict};
use crate::deploy::{DeployError, Deployment};
use crate::metrics::Summary;
use crate::report::compare_table::{self, Names};
use crate::report::{SimulatorFigures, json, parting_table};
use crate::scenario::{self, DiskFiles, Registry, Scenario};

pub fn run(args: &CompareArgs, registry: &Registry) -> Result<Outcome, Failure> {
    let tolerance = parse_tolerance(&args.tolerance)
        .map_err(|problem| Failure::bad_input(format!("--tolerance: {problem}")))?;
    let (a, b, mut notes) = scenarios(args, registry)?;
    let judges = Judge::parse(&args.metric, tolerance, a.measure.slo.is_some())
        .map_err(|problem| Failure::bad_input(format!("--metric: {problem}")))?;
    let Some(in_a) = deployment(&a, "A", args.format)? else { return Ok(Outcome::Negative) };
    let Some(in_b) = deployment(&b, "B", args.format)? else { return Ok(Outcome::Negative) };
    let out = args.out.as_deref().map(OutDir::create).transpose()?;

    let watch = Stopwatch::start();
    let plan =
        Plan { judges, split: args.split, step_by_step: args.step_by_step, check: args.check };
    let done = RunsDone::new(u64::from(compare::seeds(&a, &b)) * 2, watch.started());
    let compared = compare::compare((&in_a, &in_b), &plan, &|| done.one_more());
    drop(done);
    let contest = Contest::new(&in_a, &in_b);
    let (schedules, requests) = contest.follow(a.workload.seed);
    let witness = match &schedules {
        Schedules::Part(parting) => Witness::find(&contest, &requests, parting),
        Schedules::Agree(_) => None,
    };
    for scenario in [&a, &b] {
        if let Some(failure) = scenario.workload.trace_failure() {
            return Err(Failure::Environment(format!("error: {failure}")));
        }
    }
    let figures = SimulatorFigures {
        steps: compared.totals.steps,
        output_tokens: compared.totals.output_tokens,
        cpu_s: watch.cpu_s(),
        wall_s: watch.wall_s(),
    };
    let names = Names::of(&a, &b);
    let [noted_a, noted_b] = [(&in_a, 0), (&in_b, 1)].map(|(deployment, side)| {
        let extrapolations = &compared.sides[side].extrapolations;
        super::run::notes(deployment.scenario(), deployment, extrapolations)
    });
    notes.extend(of_sides(&noted_a, &noted_b));
    let mut document = document(&a, &b, &compared, &notes);
    document["schedules"] = object!(schedules);
    document["witness"] = object!(witness);
    if let Some(out) = &out {
        let file = |name, bytes| (name, vec![Content::Bytes(bytes)]);
        let mut files = vec![
            file("comparison.json", json::pretty(&document)),
            file("comparison.csv", compare_table::rows(&compared).to_csv()),
            file("pairs.csv", compare_table::pairs(&compared).to_csv()),
        ];
        files.extend(witness.iter().map(|witness| file("witness.jsonl", witness.trace())));
        out.write_of(&["witness.jsonl"], files)?;
    }
    match (&args.witness, &witness) {
        (Some(path), Some(witness)) => output::replace(path, &witness.trace())?,
        (Some(path), None) => {
            output::complain(&format!(
                "{} is not written: no workload shows a parting",
                path.display()
            ));
        }
        (None, _) => {}
    }
    output::print(&match args.format {
        Format::Table => {
            let style = output::stdout_style();
            let mut text = compare_table::render(&names, &compared, style);
            text.push_str(&parting_table::render(&schedules, witness.as_ref(), style));
            text.push_str(&compare_table::notes(&notes, style));
            text.into_bytes()
        }
        Format::Json => {
            document["simulator"] = object!(figures);
            json::pretty(&document)
        }
        Format::Csv => compare_table::rows(&compared).to_csv(),
    })?;
    for line in &compared.broken {
        output::complain(&format!("invariant broken: {line}"));
    }
    let negative = compared.verdict == Verdict::Worse || !compared.broken.is_empty();
    Ok(if negative { Outcome::Negative } else { Outcome::Done })
}

fn document(a: &Scenario, b: &Scenario, compared: &Comparison, notes: &[String]) -> Value {
    let side = |scenario: &Scenario, summary: &Summary| {
        object!({
            "scenario": scenario,
            "trust": summary.trust,
            "trust_shares": summary.trust_shares,
            "trust_limits": summary.trust_limits,
        })
    };
    let [of_a, of_b] = &compared.sides;
    let mut document = object!({ "a": side(a, &of_a.summary), "b": side(b, &of_b.summary) });
    let Value::Object(members) = object!(compared) else { unreachable!("a struct is an object") };
    document.as_object_mut().expect("an object").extend(members);
    document["level"] = object!(crate::metrics::confidence::LEVEL);
    document["notes"] = object!(notes);
    document
}

/// Both scenarios, the second measured as the first, and what is to be said of that.
fn scenarios(
    args: &CompareArgs,
    registry: &Registry,
) -> Result<(Scenario, Scenario, Vec<String>), Failure> {
    if !args.names_two() {
        return Err(Failure::bad_input(
            "there is nothing to compare with\n  = help: give a second scenario, or what is to be \
             changed: --engines vllm-0.13,vllm-0.32 or --set-b KEY=VALUE",
        ));
    }
    let source_a = input::source(&args.scenario)?;
    let source_b = match &args.other {
        Some(name) => scenario::open(name, &DiskFiles)?,
        None => source_a.clone(),
    };
    let load =
        |source, side| scenario::load_with(source, &args.overrides(side), &DiskFiles, registry);
    let a = load(&source_a, Side::A)?;
    let mut b = load(&source_b, Side::B)?;
    if args.scenario.workload.seeds.is_some() && a.measure.seeds < 2 {
        return Err(Failure::bad_input(
            "one pair of runs says nothing about chance\n  = help: give --seeds 2 or more; without \
             it there are 20",
        ));
    }
    let mut notes = Vec::new();
    let measured = |scenario: &Scenario| object!(scenario.measure);
    if measured(&a) != measured(&b) {
        notes.push("B is measured as [measure] of A says".to_owned());
        b.measure = a.measure.clone();
    }
    if a.workload.seed != b.workload.seed {
        notes.push(format!("B runs with the seed of A, {}", a.workload.seed));
        b.workload.seed = a.workload.seed;
    }
    let different = different_keys(&object!(a.workload), &object!(b.workload));
    if !different.is_empty() {
        notes.push(format!(
            "A and B do not get the same requests: their workloads differ in {}",
            different.join(", ")
        ));
    }
    Ok((a, b, notes))
}

/// What is to be said of both, then of one.
fn of_sides(a: &[String], b: &[String]) -> Vec<String> {
    let (of_both, of_a): (Vec<_>, Vec<_>) = a.iter().partition(|note| b.contains(note));
    let of_b = b.iter().filter(|note| !a.contains(note)).map(|note| format!("B: {note}"));
    let of_a = of_a.into_iter().map(|note| format!("A: {note}"));
    of_both.into_iter().cloned().chain(of_a).chain(of_b).collect()
}

/// Keys of two objects whose values differ.
fn different_keys(a: &Value, b: &Value) -> Vec<String> {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return Vec::new() };
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    keys.filter(|key| a.get(*key) != b.get(*key)).cloned().collect()
}

/// A side put together; nothing, and why, where its engine does not start.
fn deployment<'a>(
    scenario: &'a Scenario,
    side: &str,
    format: Format,
) -> Result<Option<Deployment<'a>>, Failure> {
    match Deployment::new(scenario) {
        Ok(deployment) => Ok(Some(deployment)),
        Err(DeployError::DoesNotFit { pool, plan }) => {
            memory::print(scenario, pool.as_deref(), &plan, format)?;
            output::complain(&format!("{side} does not start"));
            Ok(None)
        }
        Err(error @ DeployError::Refuses { .. }) => {
            output::complain(&format!("{side} does not start: {error}"));
            Ok(None)
        }
        Err(error @ DeployError::Cost { .. }) => Err(Failure::bad_input(error)),
    }
}
