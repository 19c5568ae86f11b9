//! `servesim run`: one scenario, once per seed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom};

use rayon::prelude::*;
use serde_json::{Map, Value, json as object};

use super::args::{Format, RunArgs};
use super::output::{Content, OutDir};
use super::progress::{Goal, Progress, RunsDone};
use super::stopwatch::Stopwatch;
use super::{Failure, Outcome, input, memory, output, report};
use crate::cost::calibrated::{Extrapolation, merge};
use crate::cost::profile::lookup::{Match, Profiles};
use crate::deploy::{DeployError, Deployment, Pool, Simulated};
use crate::engine::RunTotals;
use crate::engine::invariants::Invariants;
use crate::load_test::{self, Log, ResultFormat};
use crate::metrics::{Band, Interval, Recorder, Summary};
use crate::report::blame::blame_header;
use crate::report::plot_data::{TIMELINE_HEADER, timeline_rows};
use crate::report::requests::REQUESTS_HEADER;
use crate::report::steps::steps_header;
use crate::report::{BlameCsv, RequestsCsv, SimulatorFigures, StepsCsv, csv, json, summary_table};
use crate::scenario::{Registry, Scenario};
use crate::sweep::columns;
use crate::time::SimTime;
use crate::uncertainty::{self, Deviation};

/// All that a run can leave in its folder. A tool's result besides is asked for by name.
const FILES: [&str; 9] = [
    "summary.json",
    "requests.csv",
    "timeline.csv",
    "steps.csv",
    "blame.csv",
    "requests.parquet",
    "timeline.parquet",
    "steps.parquet",
    "blame.parquet",
];

/// Seeds that run before their rows are gathered, which bounds the files open at once.
const BATCH: u64 = 64;

pub fn run(args: &RunArgs, registry: &Registry) -> Result<Outcome, Failure> {
    let scenario = input::scenario(&args.scenario, registry)?;
    output::check_parquet(args.parquet)?;
    if args.result_format.is_some() && scenario.measure.seeds > 1 {
        return Err(Failure::bad_input(format!(
            "a load tester's result is of one run, and the scenario asks for {} seeds\n\
             help: leave out --result-format, or add --seeds 1",
            scenario.measure.seeds
        )));
    }
    if let Some(format) = args.result_format.filter(|_| args.save_detailed)
        && format != ResultFormat::Vllm
    {
        return Err(Failure::bad_input(format!(
            "--save-detailed is a flag of vllm, and the result is asked for as {format}\n\
             help: leave it out, or use --result-format vllm",
        )));
    }
    let Some(deployment) = deploy(&scenario, args.format)? else {
        return Ok(Outcome::Negative);
    };
    // Only now: what cannot run leaves no folder behind.
    let out = args.out.as_deref().map(OutDir::create).transpose()?;

    let watch = Stopwatch::start();
    let mut series = Series::run(args, &deployment, out.as_ref(), &watch)?;
    if let Some(failure) = scenario.workload.trace_failure() {
        return Err(Failure::Environment(format!("error: {failure}")));
    }
    let figures = SimulatorFigures {
        steps: series.totals.steps,
        output_tokens: series.totals.output_tokens,
        cpu_s: watch.cpu_s(),
        wall_s: watch.wall_s(),
    };
    let mut summary = Summary::over_seeds(&series.summaries).expect("at least one seed");
    if args.intervals {
        summary.prediction_intervals = expected(&deployment, &series.summaries, &summary, &watch);
    }
    summary.notes = notes(&scenario, &deployment, &series.extrapolations);

    let provenance = provenance(&deployment);
    let result = args
        .result_format
        .zip(series.seen.take())
        .map(|(format, seen)| (format.file_name(), json::pretty(&format.document(&seen))));
    let mut printed = None;
    if let Some(out) = &out {
        series.write(out, json::run_object(&scenario, &summary, &provenance, None), result)?;
        if args.parquet {
            let tables = [
                ("requests", true),
                ("timeline", true),
                ("steps", args.steps),
                ("blame", args.blame),
            ];
            let written = tables.iter().filter(|(_, written)| *written).map(|(name, _)| *name);
            out.write_parquet(&written.collect::<Vec<_>>())?;
        }
    } else {
        printed = result.map(|(_, bytes)| bytes);
    }
    output::print(&match args.format {
        _ if printed.is_some() => printed.unwrap_or_default(),
        Format::Table => {
            let profiles = profiles(&deployment);
            let style = output::stdout_style();
            summary_table::render(&scenario.name, &summary, &profiles, style).into_bytes()
        }
        Format::Json => json::run_object(&scenario, &summary, &provenance, Some(&figures)),
        Format::Csv => csv::summary(&scenario.name, &summary),
    })?;
    Ok(verdict(&summary, &series.broken))
}

/// The scenario as it would be deployed; `None` where it does not start, which has been said.
pub(super) fn deploy(
    scenario: &Scenario,
    format: Format,
) -> Result<Option<Deployment<'_>>, Failure> {
    match Deployment::new(scenario) {
        Ok(deployment) => Ok(Some(deployment)),
        Err(DeployError::DoesNotFit { pool, plan }) => {
            memory::print(scenario, pool.as_deref(), &plan, format)?;
            Ok(None)
        }
        Err(error @ DeployError::Refuses { .. }) => {
            output::complain(&format!("does not start: {error}"));
            Ok(None)
        }
        // What the simulator has no coefficients for is refused, not guessed.
        Err(error @ DeployError::Cost { .. }) => Err(Failure::bad_input(error)),
    }
}

/// Seeds with which each variation is simulated.
const MOST_SEEDS: u64 = 8;

/// Where a measurement of each figure is expected: what the numbers behind the prediction may be off
/// by, and, of several seeds, how single runs scatter.
fn expected(
    deployment: &Deployment<'_>,
    runs: &[Summary],
    summary: &Summary,
    watch: &Stopwatch,
) -> BTreeMap<String, Band> {
    let figures: Vec<_> =
        columns::metrics().filter(|(name, _)| columns::less_is_better(name).is_some()).collect();
    let first = deployment.scenario().workload.seed;
    let seeds = MOST_SEEDS.min(runs.len() as u64);
    let variations = 2 * uncertainty::parts(deployment).len() as u64 + 1;
    let done = RunsDone::new(variations, watch.started());
    let deviations = uncertainty::deviations(deployment, |varied| {
        let summaries: Vec<Summary> = (0..seeds)
            .map(|i| {
                let recorder = Recorder::new(varied.measure());
                varied.simulate(first.wrapping_add(i), recorder, false).1.summary()
            })
            .collect();
        done.one_more();
        let mean = Summary::over_seeds(&summaries).expect("at least one seed");
        figures.iter().map(|(_, get)| get(&mean)).collect()
    });
    let band = |((name, get), deviation): (columns::Metric, _)| {
        let (value, deviation): (f64, Deviation) = (get(summary)?, deviation?);
        let single: Vec<f64> = runs.iter().filter_map(get).collect();
        let scatter = Interval::standard_deviation(&single).unwrap_or(0.0) / value;
        Some((name.to_owned(), deviation.with_scatter(scatter).around(value)))
    };
    figures.iter().copied().zip(deviations).filter_map(band).collect()
}

/// Whether the run answers its question, and if not, why, on standard error.
fn verdict(summary: &Summary, broken: &[String]) -> Outcome {
    let mut outcome = Outcome::Done;
    for line in broken {
        output::complain(&format!("invariant broken: {line}"));
        outcome = Outcome::Negative;
    }
    let counted = summary.completed.get() + summary.failed.get();
    if counted == 0.0 && summary.warm_up_requests.get() > 0.0 {
        output::complain("nothing was measured: the warm-up lasts as long as the run");
        outcome = Outcome::Negative;
    }
    if summary.completed.get() == 0.0 && summary.failed.get() > 0.0 {
        output::complain("no request of this scenario can be served");
        outcome = Outcome::Negative;
    }
    outcome
}

/// What was assumed, and where the cost model left the range of its measurements.
pub(super) fn notes(
    scenario: &Scenario,
    deployment: &Deployment<'_>,
    extrapolations: &[Extrapolation],
) -> Vec<String> {
    let mut notes = scenario.notes.clone();
    let kinds = scenario.kinds();
    let of_pools: Vec<Vec<String>> = deployment
        .pools()
        .iter()
        .zip(&kinds)
        .map(|(pool, kind)| {
            let named = &kind.hardware.deployment;
            let plan = pool.plan().notes.iter().cloned();
            plan.chain(of_another_environment(named, pool.profiles())).collect()
        })
        .collect();
    for (pool, noted) in deployment.pools().iter().zip(&of_pools) {
        for note in noted {
            let of_all = of_pools.iter().all(|others| others.contains(note));
            let line = match pool.name().filter(|_| !of_all) {
                Some(name) => format!("pool {name}: {note}"),
                None => note.clone(),
            };
            if !notes.contains(&line) {
                notes.push(line);
            }
        }
    }
    notes.extend(extrapolations.iter().map(|e| format!("extrapolated: {e}")));
    notes
}

/// That nothing was measured in the environment that the scenario names: a slip of the pen would pass
/// for one.
fn of_another_environment(named: &str, profiles: &Profiles) -> Option<String> {
    let Profiles { interconnect, deployment, .. } = profiles;
    let links = interconnect.as_ref().is_some_and(|links| links.matched == Match::Exact);
    if named == "auto" || deployment.matched == Match::Exact || links {
        return None;
    }
    let file = deployment.file.as_deref().unwrap_or("nominal figures");
    Some(format!(
        "no profile of the environment {named} is for this machine and engine: took {file}"
    ))
}

/// What priced the steps, in words; one line for each pool.
fn profiles(deployment: &Deployment<'_>) -> String {
    let line = |pool: &Pool| {
        let Profiles { gpu, interconnect, deployment } = pool.profiles();
        let gpu = found("gpus", &gpu.file, gpu.matched);
        let host = found("deployments", &deployment.file, deployment.matched);
        let links = interconnect.as_ref().map(|links| {
            // Links may be those of a deployment.
            let folder = match &links.file {
                Some(file) if file.starts_with("deployments/") => "deployments",
                _ => "interconnects",
            };
            found(folder, &links.file, links.matched)
        });
        let host_and_links = match links {
            None => format!("host {host}"),
            Some(links) if links == host => format!("host and links {host}"),
            Some(links) => format!("host {host}, links {links}"),
        };
        let pool = pool.name().map_or(String::new(), |name| format!("{name}: "));
        format!("{pool}GPU {gpu}, {host_and_links}")
    };
    deployment.pools().iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A profile by its name, and from where it stands in where it is not for this very machine.
fn found(folder: &str, file: &Option<String>, matched: Match) -> String {
    let Some(file) = file else { return "from its datasheet".to_owned() };
    let embedded = file.strip_prefix(folder).and_then(|name| name.strip_prefix('/'));
    let name = embedded.and_then(|name| name.strip_suffix(".toml")).unwrap_or(file);
    match matched {
        Match::Generic => format!("{name} (of other machines)"),
        _ => name.to_owned(),
    }
}

/// The profiles that price the steps, how near they are to what was asked for, and the least trusted
/// number behind each term.
fn provenance(deployment: &Deployment<'_>) -> Value {
    match deployment.pools() {
        [one] => provenance_of(one),
        pools => {
            let name = |pool: &Pool| pool.name().unwrap_or_default().to_owned();
            let pools: Map<_, _> = pools.iter().map(|p| (name(p), provenance_of(p))).collect();
            object!({ "pools": pools })
        }
    }
}

fn provenance_of(pool: &Pool) -> Value {
    let found =
        |file: &Option<String>, matched: Match| object!({ "file": file, "match": matched.name() });
    let Profiles { gpu, interconnect, deployment: of_deployment } = pool.profiles();
    let terms: Map<_, _> = pool
        .cost()
        .provenance()
        .iter()
        .map(|(term, provenance)| (term.name().to_owned(), provenance.to_string().into()))
        .collect();
    object!({
        "profiles": {
            "gpu": found(&gpu.file, gpu.matched),
            "interconnect": interconnect.as_ref().map(|i| found(&i.file, i.matched)),
            "deployment": found(&of_deployment.file, of_deployment.matched),
        },
        "terms": terms,
    })
}

/// The runs of all seeds.
#[derive(Debug)]
struct Series {
    summaries: Vec<Summary>,
    totals: RunTotals,
    broken: Vec<String>,
    extrapolations: Vec<Extrapolation>,
    /// Rows of all seeds in order, if files are wanted.
    rows: Option<Rows>,
    /// What the clients saw, if a load tester's result is wanted.
    seen: Option<load_test::Run>,
}

impl Series {
    fn run(
        args: &RunArgs,
        deployment: &Deployment<'_>,
        out: Option<&OutDir>,
        watch: &Stopwatch,
    ) -> Result<Self, Failure> {
        let scenario = deployment.scenario();
        let first = scenario.workload.seed;
        let seeds = u64::from(scenario.measure.seeds);
        let mut series = Self {
            summaries: Vec::new(),
            totals: RunTotals::default(),
            broken: Vec::new(),
            extrapolations: Vec::new(),
            rows: None,
            seen: None,
        };
        if seeds == 1 {
            series.add(one_seed(args, deployment, first, out, Some(watch))?, out)?;
            return Ok(series);
        }
        let done = RunsDone::new(seeds, watch.started());
        let one = |i| {
            let run = one_seed(args, deployment, first.wrapping_add(i), out, None);
            done.one_more();
            run
        };
        for batch in (0..seeds).step_by(BATCH as usize) {
            // Collected in order of the seeds, so that the bytes do not depend on the threads.
            let batch = batch..seeds.min(batch + BATCH);
            let runs: Vec<_> = batch.into_par_iter().map(one).collect::<Result<_, _>>()?;
            for run in runs {
                series.add(run, out)?;
            }
        }
        Ok(series)
    }

    fn add(&mut self, run: OneRun, out: Option<&OutDir>) -> Result<(), Failure> {
        self.summaries.push(run.summary);
        self.totals.steps += run.totals.steps;
        self.totals.output_tokens += run.totals.output_tokens;
        self.totals.requests += run.totals.requests;
        self.totals.end = self.totals.end.max(run.totals.end);
        self.broken.extend(run.broken);
        self.seen = run.seen;
        merge(&mut self.extrapolations, &run.extrapolations);
        if let (Some(out), Some(rows)) = (out, run.rows) {
            match &mut self.rows {
                None => self.rows = Some(rows),
                Some(all) => all.append(rows).map_err(|error| out.failure(&error))?,
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        out: &OutDir,
        summary: Vec<u8>,
        result: Option<(&str, Vec<u8>)>,
    ) -> Result<(), Failure> {
        let rows = self.rows.take().expect("rows are gathered where files are wanted");
        let header = |text: &str| Content::Bytes(text.as_bytes().to_vec());
        let mut files = vec![
            ("summary.json", vec![Content::Bytes(summary)]),
            ("requests.csv", vec![header(REQUESTS_HEADER), Content::Scratch(rows.requests)]),
            ("timeline.csv", vec![header(TIMELINE_HEADER), Content::Bytes(rows.timeline)]),
        ];
        if let Some(steps) = rows.steps {
            files.push(("steps.csv", vec![header(&steps_header()), Content::Scratch(steps)]));
        }
        if let Some(blame) = rows.blame {
            files.push(("blame.csv", vec![header(&blame_header()), Content::Scratch(blame)]));
        }
        files.extend(result.map(|(name, bytes)| (name, vec![Content::Bytes(bytes)])));
        // A report of an earlier run goes with it.
        let all: Vec<&str> = FILES.into_iter().chain(report::FILES).collect();
        out.write_of(&all, files)
    }
}

/// Rows without headers.
#[derive(Debug)]
struct Rows {
    requests: File,
    steps: Option<File>,
    blame: Option<File>,
    timeline: Vec<u8>,
}

impl Rows {
    fn append(&mut self, mut other: Self) -> io::Result<()> {
        append(&mut self.requests, &mut other.requests)?;
        if let (Some(all), Some(more)) = (&mut self.steps, &mut other.steps) {
            append(all, more)?;
        }
        if let (Some(all), Some(more)) = (&mut self.blame, &mut other.blame) {
            append(all, more)?;
        }
        self.timeline.extend(other.timeline);
        Ok(())
    }
}

fn append(all: &mut File, more: &mut File) -> io::Result<()> {
    more.seek(SeekFrom::Start(0))?;
    all.seek(SeekFrom::End(0))?;
    io::copy(more, all).map(|_| ())
}

#[derive(Debug)]
struct OneRun {
    summary: Summary,
    totals: RunTotals,
    broken: Vec<String>,
    extrapolations: Vec<Extrapolation>,
    rows: Option<Rows>,
    seen: Option<load_test::Run>,
}

/// Simulates one seed. Progress is shown where there is a `watch`.
fn one_seed(
    args: &RunArgs,
    deployment: &Deployment<'_>,
    seed: u64,
    out: Option<&OutDir>,
    watch: Option<&Stopwatch>,
) -> Result<OneRun, Failure> {
    let requests = out.map(|out| out.scratch()).transpose()?;
    let steps = out.filter(|_| args.steps).map(|out| out.scratch()).transpose()?;
    let blame_rows = out.filter(|_| args.blame).map(|out| out.scratch()).transpose()?;
    let measure = deployment.measure();
    let blame = args.blame.then(|| BlameCsv::new(seed, measure.warm_up, blame_rows));
    let workload = &deployment.scenario().workload;
    let goal = match (workload.duration, workload.num_requests) {
        (_, Some(requests)) => Goal::Requests(requests),
        (Some(duration), None) => Goal::Until(SimTime::ZERO + duration),
        (None, None) => unreachable!("a workload ends by time or by count"),
    };
    let observer = (
        Recorder::new(measure).with_tenants(deployment.tenants()),
        (
            (
                requests.map(|w| RequestsCsv::new(seed, workload.tenant_names(), w)),
                steps.map(|w| StepsCsv::new(seed, w)),
            ),
            (
                (args.check.then(Invariants::default), blame),
                (
                    watch.and_then(|watch| Progress::new(goal, watch.started())),
                    args.result_format.map(|_| {
                        let log = Log::new(deployment.measure());
                        if args.save_detailed { log.with_each_gap() } else { log }
                    }),
                ),
            ),
        ),
    );
    let Simulated { totals, observer, priced } =
        deployment.simulate_noting(seed, observer, args.step_by_step);
    let (recorder, ((requests, steps), ((invariants, blame), (progress, log)))) = observer;
    drop(progress);
    let (blame_ms, blame) = match blame.map(BlameCsv::finish).transpose() {
        Ok(finished) => finished.unwrap_or_default(),
        Err(error) => {
            let out = out.expect("only rows can fail, and they have a folder");
            return Err(out.failure(&error));
        }
    };

    let rows = match (out, requests) {
        (Some(out), Some(requests)) => {
            let failed = |error: io::Error| out.failure(&error);
            Some(Rows {
                requests: requests.finish().and_then(into_file).map_err(failed)?,
                steps: steps
                    .map(|steps| steps.finish().and_then(into_file))
                    .transpose()
                    .map_err(failed)?,
                blame: blame.map(into_file).transpose().map_err(failed)?,
                timeline: timeline_rows(seed, recorder.timeline()),
            })
        }
        _ => None,
    };
    let broken = invariants.map_or_else(Vec::new, Invariants::finish);
    let mut summary = priced.summary(recorder);
    summary.blame_ms = blame_ms;
    Ok(OneRun {
        summary,
        totals,
        broken,
        extrapolations: priced.extrapolations(),
        rows,
        seen: log.map(|log| log.run(deployment.scenario(), seed)),
    })
}

fn into_file(writer: BufWriter<File>) -> io::Result<File> {
    writer.into_inner().map_err(io::IntoInnerError::into_error)
}
