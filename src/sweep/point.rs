//! One point of a sweep: its scenario, its run, its row.

use xxhash_rust::xxh3::Xxh3;

use super::bound::Pressure;
use super::{Bound, Point, Sweep, columns};
use crate::deploy::{DeployError, Deployment};
use crate::metrics::{Recorder, Slo, Summary};
use crate::named::named_enum;
use crate::scenario::document::{Table, Value};
use crate::scenario::{ArrivalSpec, Diagnostics, Kind, ReadFile, Scenario};
use crate::units::UsdPerHour;
use crate::workload::{ArrivalProcess, LengthSource};

named_enum! {
    /// What became of a point.
    pub enum PointStatus as "status" {
        Ok = "ok",
        /// Ran, and missed its latency targets.
        SloMissed = "slo-missed",
        /// Ran, and answered nobody.
        NothingServed = "nothing-served",
        /// The engine would not start.
        DoesNotFit = "does-not-fit",
        /// The values contradict each other.
        Impossible = "impossible",
        /// The simulator has no coefficients for it.
        NotCalibrated = "not-calibrated",
    }
}

impl PointStatus {
    /// Whether there are figures.
    pub const fn ran(self) -> bool {
        matches!(self, Self::Ok | Self::SloMissed | Self::NothingServed)
    }
}

/// A scenario's run, over all its seeds.
#[derive(Clone, Debug)]
pub struct Run {
    pub summary: Summary,
    pub bound: Bound,
    /// Why the objective was missed, worst limit first; empty if it was met or there is none.
    pub missed: Vec<String>,
}

/// Runs a deployment once for each of its seeds, one after the other.
pub fn run_scenario(deployment: &Deployment<'_>) -> Run {
    let scenario = deployment.scenario();
    let first = scenario.workload.seed;
    let mut pressure = Pressure::new(scenario);
    let mut summaries = Vec::new();
    let measure = deployment.measure();
    let mut at_percentile = Vec::new();
    for i in 0..u64::from(scenario.measure.seeds) {
        let observer = (Recorder::new(measure.clone()), pressure);
        let run = deployment.simulate_noting(first.wrapping_add(i), observer, false);
        let (recorder, watched) = run.observer;
        pressure = watched;
        if let Some(slo) = &measure.slo {
            at_percentile.push(recorder.latencies_at(slo.percentile));
        }
        summaries.push(run.priced.summary(recorder));
    }
    let summary = Summary::over_seeds(&summaries).expect("at least one seed");
    let bound = pressure.bound(&summary);
    let missed = match &measure.slo {
        Some(slo) if summary.slo.as_ref().is_some_and(|slo| !slo.met) => {
            missed(slo, &summary, &at_percentile)
        }
        _ => Vec::new(),
    };
    Run { summary, bound, missed }
}

/// By how much each limit is missed.
fn missed(slo: &Slo, summary: &Summary, at_percentile: &[[Option<f64>; 4]]) -> Vec<String> {
    let limits = [("TTFT", slo.ttft), ("TPOT", slo.tpot), ("ITL", None), ("E2E", slo.e2el)];
    let mut missed: Vec<(f64, String)> = Vec::new();
    for (i, (name, limit)) in limits.into_iter().enumerate() {
        let Some(limit) = limit else { continue };
        let values: Vec<f64> = at_percentile.iter().filter_map(|values| values[i]).collect();
        if values.is_empty() {
            continue;
        }
        let value = values.iter().sum::<f64>() / values.len() as f64;
        let limit = limit.as_millis_f64();
        if value > limit {
            let over = value / limit - 1.0;
            let percentile = slo.percentile;
            missed.push((
                over,
                format!(
                    "p{percentile} {name} {} over {} (+{:.0} %)",
                    duration(value),
                    duration(limit),
                    over * 100.0
                ),
            ));
        }
    }
    missed.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut missed: Vec<String> = missed.into_iter().map(|(_, text)| text).collect();
    if missed.is_empty() {
        // Failed requests miss every limit, and a limit can be missed in one seed of several.
        missed.push(if summary.failed.get() > 0.0 {
            format!("{} requests failed", summary.failed.get())
        } else {
            "missed in some of the seeds".into()
        });
    }
    missed
}

/// Milliseconds as people read them.
pub fn duration(ms: f64) -> String {
    if ms >= 999.5 { format!("{:.2} s", ms / 1000.0) } else { format!("{ms:.1} ms") }
}

/// What is known of a point after it has been tried.
struct Tried {
    status: PointStatus,
    reason: String,
    run: Option<Run>,
}

impl Sweep {
    /// The scenario of a point, or why its values make none.
    pub fn scenario(&self, point: Point, files: &dyn ReadFile) -> Result<Scenario, Diagnostics> {
        self.parsed.template.with(&self.values(point), files)
    }

    /// Runs a point: its line of `points.csv`.
    pub fn row(&self, point: Point, files: &dyn ReadFile) -> Vec<u8> {
        let (scenario, tried) = match self.scenario(point, files) {
            Ok(scenario) => {
                let tried = tried(&scenario);
                (Some(scenario), tried)
            }
            Err(problems) => {
                let reason = problems.iter().map(short).collect::<Vec<_>>().join("; ");
                (None, Tried { status: PointStatus::Impossible, reason, run: None })
            }
        };
        let mut cells = vec![point.number.to_string()];
        cells.push(scenario.as_ref().map_or_else(String::new, |s| self.content_hash(s)));
        cells.extend(self.values(point).iter().map(|(_, node)| cell(&node.value)));
        cells.push(tried.status.name().to_owned());
        cells.push(tried.reason.clone());
        cells.extend(match &scenario {
            Some(scenario) => deployment_cells(scenario, &tried),
            None => vec![String::new(); columns::DEPLOYMENT.len() - 2],
        });
        let summary = tried.run.as_ref().map(|run| &run.summary);
        cells.extend(columns::metrics().map(|(_, get)| {
            summary.and_then(get).map_or_else(String::new, |value| value.to_string())
        }));
        debug_assert_eq!(cells.len(), self.header().len());
        csv_line(&cells)
    }
}

fn tried(scenario: &Scenario) -> Tried {
    let deployment = match Deployment::new(scenario) {
        Ok(deployment) => deployment,
        Err(error) => {
            let (status, reason) = match &error {
                DeployError::DoesNotFit { pool, plan } => {
                    let why = plan.verdict.refusal.as_ref().map_or("", |r| r.message.as_str());
                    let whose =
                        pool.as_ref().map_or(String::new(), |name| format!("pool {name}: "));
                    let reason = match &plan.verdict.smallest_change {
                        Some(change) => format!("{whose}{why}; would fit with {change}"),
                        None => format!("{whose}{why}"),
                    };
                    (PointStatus::DoesNotFit, reason)
                }
                DeployError::Refuses { .. } => (PointStatus::DoesNotFit, error.to_string()),
                DeployError::Cost { .. } => (PointStatus::NotCalibrated, error.to_string()),
            };
            return Tried { status, reason, run: None };
        }
    };
    let run = run_scenario(&deployment);
    let nobody = run.summary.completed.get() == 0.0;
    let (status, reason) = match (nobody, run.missed.is_empty()) {
        (true, _) => (PointStatus::NothingServed, "no request was answered".to_owned()),
        (false, false) => (PointStatus::SloMissed, run.missed.join("; ")),
        (false, true) => (PointStatus::Ok, String::new()),
    };
    Tried { status, reason, run: Some(run) }
}

fn deployment_cells(scenario: &Scenario, tried: &Tried) -> Vec<String> {
    let kinds = scenario.kinds();
    // What pools have in common once, else one after the other.
    let each = |of: &dyn Fn(&Kind<'_>) -> String| {
        let mut values: Vec<String> = kinds.iter().map(of).collect();
        if values.iter().all(|value| *value == values[0]) {
            values.truncate(1);
        }
        values.join(" + ")
    };
    // What was paid, where machines come and go; else what is to be paid.
    let run = tried.run.as_ref();
    let paid = run.and_then(|run| run.summary.usd_per_hour);
    let price = paid.or_else(|| scenario.usd_per_hour().map(UsdPerHour::get));
    let load = match &scenario.workload.arrivals {
        ArrivalSpec::ClosedLoop { clients, .. } => format!("{clients} clients"),
        ArrivalSpec::Open(process) => open_load(process),
        ArrivalSpec::Trace(trace) => trace.file.clone(),
    };
    vec![
        each(&|kind| kind.model.name.clone()),
        each(&|kind| kind.hardware.instance.name.clone()),
        each(&|kind| kind.hardware.gpu().name.clone()),
        each(&|kind| kind.hardware.instance.num_gpus.to_string()),
        each(&|kind| kind.engine.tensor_parallel_size.to_string()),
        each(&|kind| kind.engine.replicas.to_string()),
        kinds.iter().map(|k| k.rules.machines.to_string()).collect::<Vec<_>>().join(" + "),
        each(&|kind| kind.engine.name.to_string()),
        each(&|kind| kind.precision.format.to_string()),
        each(&|kind| kind.kv_cache_dtype.to_string()),
        load,
        price.map_or_else(String::new, |usd| usd.to_string()),
        run.map_or_else(String::new, |run| run.bound.to_string()),
        run.and_then(|run| run.summary.trust).map_or_else(String::new, |t| t.to_string()),
    ]
}

/// The kind of arrivals, with the rate where there is one.
fn open_load(process: &ArrivalProcess) -> String {
    let json = serde_json::to_value(process).expect("arrivals have only string keys");
    let Some((kind, settings)) = json.as_object().and_then(|kinds| kinds.iter().next()) else {
        return String::new();
    };
    match settings.get("request-rate") {
        Some(rate) => format!("{kind} {rate} requests/s"),
        None => kind.clone(),
    }
}

/// A diagnostic in one line.
fn short(problem: &crate::scenario::diagnostic::Diagnostic) -> String {
    let label = problem.primary.as_ref().map_or("", |label| label.text.as_str());
    let context: Vec<&str> = problem.context.iter().map(|label| label.text.as_str()).collect();
    let parts = [problem.title.as_str(), label].into_iter().chain(context);
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// A value as a cell of the table.
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Integer(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Boolean(b) => b.to_string(),
        Value::Datetime => String::new(),
        Value::Array(items) => {
            items.iter().map(|item| cell(&item.value)).collect::<Vec<_>>().join(" ")
        }
        Value::Table(Table { entries }) => entries
            .iter()
            .map(|(key, node)| format!("{key}={}", cell(&node.value)))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// One line without its end: a row is a line of the journal too.
fn csv_line(cells: &[String]) -> Vec<u8> {
    let mut line = Vec::new();
    let mut writer = csv::WriterBuilder::new().from_writer(&mut line);
    let cells = cells.iter().map(|cell| cell.replace(['\n', '\r'], " "));
    writer.write_record(cells).and_then(|()| Ok(writer.flush()?)).expect("memory takes all bytes");
    drop(writer);
    line.pop();
    line
}

impl Sweep {
    /// Of everything that a row depends on besides the code: the scenario with all defaults filled
    /// in, its list of lengths, and what the program prices with.
    fn content_hash(&self, scenario: &Scenario) -> String {
        let mut hash = Xxh3::new();
        hash.update(&self.program.to_le_bytes());
        let json = serde_json::to_vec(scenario).expect("a scenario has only string keys");
        hash.update(&json);
        if let ArrivalSpec::Trace(trace) = &scenario.workload.arrivals {
            hash.update(format!("{:?}", trace.scan).as_bytes());
        }
        for asker in scenario.workload.askers() {
            if let LengthSource::Pairs { pairs, .. } = &asker.lengths {
                for pair in pairs.iter() {
                    hash.update(&pair.input.to_le_bytes());
                    hash.update(&pair.output.to_le_bytes());
                }
            }
        }
        format!("{:032x}", hash.digest128())
    }
}
