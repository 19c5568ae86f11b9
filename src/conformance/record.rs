//! Schedules of our own, in the golden format of the engine's family.
//!
//! A real recording holds a linear cost, so that its steps' times can be computed again. A run under
//! the calibrated cost model has no such coefficients, and coefficients fitted to it would make
//! another run of it. So here the recording says `"cost": "recorded"`: a replay takes the duration
//! of each step from the recorded step. What is compared is then what a scheduler decides, and a
//! better calibration does not break a schedule that somebody has committed.
//!
//! Requests stand in it at the instants at which they arrived, in a closed loop too. A reply that
//! leaves at a boundary comes back as a request only behind that boundary (see [`crate::engine`]),
//! which an instant alone cannot say: such a request arrives a nanosecond later, in the recorded run
//! as in the recording.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use serde_json::{Value, json};

use crate::cost::StepCost;
use crate::deploy::{Deployment, EngineConfig};
use crate::engine_name::EngineName;
use crate::request::RequestSpec;
use crate::scheduler::Scheduler;
use crate::time::SimTime;
use crate::workload::{Taken, Taped, Workload};

use super::replay::{Drive, RECORDED_COST, Steps, Watch};
use super::router::{self, Dialect, millis};
use super::vllm::{self, request_name};
use super::{tgi, tgis, vllm_v0, vllm_v1};

/// Ids of tokens that no other request shares, from here on; those that a workload gives are below.
const FIRST_UNSHARED: u64 = 1 << 40;

/// Why a run is not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(
        "a recording holds the schedule of one scheduler, and this scenario has {0} replicas; set \
         engine.replicas = 1 and leave fleet out"
    )]
    Replicas(u32),
    #[error(
        "a recording holds the schedule of one scheduler, and around this one there are limits, \
         failures or clients that give up; leave fleet and patience out"
    )]
    Fleet,
    #[error(
        "a replay could not build the scheduler of {0}: only those of built-in engines are recorded"
    )]
    Custom(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a recording holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub steps: u64,
    pub requests: usize,
    /// Invariants that did not hold.
    pub broken: Vec<String>,
}

/// A run to be recorded: `config` says which scheduler it is, and `scheduler` is one.
pub struct Run<'a> {
    pub name: &'a str,
    pub engine: EngineName,
    pub config: &'a EngineConfig,
    pub scheduler: Box<dyn Scheduler>,
    pub cost: Box<dyn StepCost>,
    pub workload: Box<dyn Workload>,
    /// Clients that go away: (time, `uid`), in order of time.
    pub aborts: Vec<(SimTime, u64)>,
    pub stop_at: Option<SimTime>,
}

/// Runs a scenario with `seed` and writes its schedule to `out`.
pub fn record_scenario(
    deployment: &Deployment<'_>,
    seed: u64,
    out: &mut dyn Write,
) -> Result<Recorded, RecordError> {
    let scenario = deployment.scenario();
    if scenario.engine.name.is_custom() {
        return Err(RecordError::Custom(scenario.engine.name.name().to_owned()));
    }
    if scenario.replicas() != 1 {
        return Err(RecordError::Replicas(scenario.replicas().into()));
    }
    if scenario.fleet_rules(seed).is_some() {
        return Err(RecordError::Fleet);
    }
    let run = Run {
        name: &scenario.name,
        engine: scenario.engine.name.base(),
        config: deployment.engine_config(),
        scheduler: deployment.scheduler(),
        cost: deployment.step_cost(),
        workload: deployment.workload(seed),
        aborts: Vec::new(),
        stop_at: deployment.stop_at(),
    };
    record(run, out)
}

/// Runs and writes the schedule to `out`, steps as they come. Memory grows with the requests, which
/// stand behind the steps.
pub fn record(run: Run<'_>, out: &mut dyn Write) -> Result<Recorded, RecordError> {
    let recorded = match run.config {
        EngineConfig::Custom(..) => return Err(RecordError::Custom(run.engine.name().into())),
        EngineConfig::Tgis(config) => {
            router_file(run, tgis::written(config), &tgis::TgisDialect, out)
        }
        EngineConfig::Tgi(config) => router_file(run, tgi::written(config), &tgi::TgiDialect, out),
        EngineConfig::Static(config) => {
            router_file(run, tgis::written_static(config), &tgis::TgisDialect, out)
        }
        EngineConfig::VllmV0(config) => {
            let config = vllm_v0::written(config);
            vllm_file::<vllm_v0::V0>(run, vllm_v0::FORMAT, config, &mut v0_request, out)
        }
        EngineConfig::VllmV1(config) => {
            let config = vllm_v1::written(config);
            let mut unshared = FIRST_UNSHARED;
            let request = |spec: &RequestSpec| v1_request(spec, &mut unshared);
            vllm_file::<vllm_v1::V1>(run, vllm_v1::FORMAT, config, request, out)
        }
    };
    Ok(recorded?)
}

fn router_file(
    run: Run<'_>,
    config: Value,
    dialect: &dyn Dialect,
    out: &mut dyn Write,
) -> io::Result<Recorded> {
    let (name, engine) = (run.name, run.engine.name());
    write!(out, "{{\"format\":1,\n\"recorder\":{},\n\"steps\":[", recorder())?;
    let (aborts, stop_at) = (run.aborts.clone(), run.stop_at);
    let mut observer = router::Recorder::new(dialect, Steps::written(out));
    observer.cancelled = aborts.iter().map(|&(at, uid)| (uid, at)).collect();
    let watch = Watch::unlimited();
    let (drive, taken) = run.drive();
    let router::Recorder { steps, finished, cancelled, .. } = drive.run(watch.clone(), observer);
    let steps = steps.finish()?;

    let taken = taken.take();
    let arrivals: serde_json::Map<String, Value> =
        (0..).zip(&taken).map(|(id, (at, _)): (u64, _)| (id.to_string(), millis(*at))).collect();
    let requests = (0u64..).zip(&taken).map(|(id, (at, spec))| {
        let mut request = json!({
            "id": id,
            "arrival_ms": millis(*at),
            "input_len": spec.prompt_tokens,
            "max_new_tokens": spec.max_output_tokens,
            "output_len": spec.stop_at,
        });
        if let Some(deadline) = spec.deadline {
            request["deadline_ms"] = millis(deadline);
        }
        if let Some(&at) = cancelled.get(&id) {
            request["cancel_ms"] = millis(at);
        }
        if let Some(content) = &spec.content {
            request["prompt_runs"] = content.runs.iter().map(|r| json!([r.first, r.len])).collect();
        }
        request
    });
    let scenario = json!({
        "name": name,
        "engine": engine,
        "cost": RECORDED_COST,
        "config": config,
        "stop_ms": stop_at.map(millis),
    });
    write!(out, "\n],\n\"finished\":[")?;
    lines(out, finished)?;
    write!(out, "],\n\"arrivals\":{},\n\"scenario\":", Value::Object(arrivals))?;
    // The requests one by one, so that two recordings can be compared line by line.
    let scenario = scenario.to_string();
    let open = scenario.strip_suffix('}').expect("an object ends with a brace");
    write!(out, "{open},\"requests\":[")?;
    lines(out, requests)?;
    writeln!(out, "]}}}}")?;
    let broken = std::mem::take(&mut watch.log.borrow_mut().broken);
    Ok(Recorded { steps, requests: taken.len(), broken })
}

fn vllm_file<D: vllm::Dialect>(
    run: Run<'_>,
    format: &str,
    config: Value,
    mut request: impl FnMut(&RequestSpec) -> Value,
    out: &mut dyn Write,
) -> io::Result<Recorded> {
    let engine = run.engine.name();
    let version = engine.strip_prefix("vllm-").expect("an engine of this family");
    // As the real recordings write it: of the newer ones the full version.
    let full =
        if version.matches('.').count() < 2 { format!("{version}.0") } else { version.into() };
    let oracle = json!({
        "package": recorder()["package"],
        "version": full,
        "scheduler": recorder()["version"],
    });
    let name = json!(run.name);
    writeln!(out, "{{\"format\":\"{format}\",\n\"oracle\":{oracle},\n\"name\":{name},")?;
    write!(out, "\"config\":{config},\n\"cost\":\"{RECORDED_COST}\",\n\"steps\":[")?;
    let (aborts, stop_at) = (run.aborts.clone(), run.stop_at);
    let watch = Watch::unlimited();
    let observer = vllm::Recorder::new(D::default(), Steps::written(out), &watch);
    let (drive, taken) = run.drive();
    let mut ours = drive.run(watch.clone(), observer);
    ours.flush();
    let taken = taken.take();
    ours.make_results(taken.len());
    let (summary, results) = (ours.summary(), ours.results);
    let steps = ours.steps.finish()?;

    write!(out, "\n],\n\"summary\":{summary},\n")?;
    if let Some(at) = stop_at {
        writeln!(out, "\"stop_ns\":{},", at.as_nanos())?;
    }
    if !aborts.is_empty() {
        let aborts: Vec<_> = aborts.iter().map(|&(at, uid)| (at.as_nanos(), uid)).collect();
        writeln!(out, "\"aborts\":{},", json!(aborts))?;
    }
    let requests = taken.iter().enumerate().map(|(index, (at, spec))| {
        let mut request = request(spec);
        request["id"] = request_name(index).into();
        request["arrival_ns"] = at.as_nanos().into();
        request["max_tokens"] = spec.max_output_tokens.into();
        if spec.stop_at <= spec.max_output_tokens {
            request["stop_at"] = spec.stop_at.into();
        }
        request
    });
    write!(out, "\"requests\":[")?;
    lines(out, requests)?;
    write!(out, "],\n\"results\":[")?;
    lines(out, results)?;
    writeln!(out, "]}}")?;
    let broken = std::mem::take(&mut watch.log.borrow_mut().broken);
    Ok(Recorded { steps, requests: taken.len(), broken })
}

/// Who has made a recording.
fn recorder() -> Value {
    json!({ "package": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") })
}

fn v0_request(spec: &RequestSpec) -> Value {
    json!({ "prompt_len": spec.prompt_tokens })
}

/// With token ids; a prompt that nobody shares gets ids that nobody has.
fn v1_request(spec: &RequestSpec, unshared: &mut u64) -> Value {
    let (prompt, out_base) = match &spec.content {
        Some(content) => {
            let runs = content.runs.iter().map(|run| (run.first, run.len)).collect();
            (runs, content.output_base)
        }
        None => {
            let first = *unshared;
            let out_base = first + u64::from(spec.prompt_tokens);
            *unshared = out_base + u64::from(spec.max_output_tokens);
            (vec![(first, spec.prompt_tokens)], out_base)
        }
    };
    json!({ "prompt": prompt, "out_base": out_base, "priority": spec.priority })
}

/// The entries of a list, one a line.
fn lines(out: &mut dyn Write, entries: impl IntoIterator<Item = Value>) -> io::Result<()> {
    for (at, entry) in entries.into_iter().enumerate() {
        let separator = if at == 0 { "\n" } else { ",\n" };
        write!(out, "{separator}{entry}")?;
    }
    writeln!(out)
}

impl Run<'_> {
    fn drive(self) -> (Drive, Rc<RefCell<Taken>>) {
        let (workload, taken) = Taped::new(self.workload, usize::MAX);
        let drive = Drive {
            scheduler: self.scheduler,
            cost: self.cost,
            workload: Box::new(workload),
            aborts: self.aborts,
            stop_at: self.stop_at,
        };
        (drive, taken)
    }
}
