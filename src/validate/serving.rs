//! Published serving measurements of other people: TGI 1.0.3 on SageMaker, vLLM on A100-40
//! (Argonne), A100-80 (Splitwise) and L4.
//!
//! All of them are runs of equal requests, so a prediction needs one run and no seeds. Constants of
//! the host and the links are fitted on rows of the first, and on no others.

use rayon::prelude::*;
use serde::Deserialize;

use crate::calibrate::deployment::quantity::{Outcome as Run, Quantity};
use crate::cost::trust::Trust;
use crate::deploy::Deployment;
use crate::metrics::Recorder;
use crate::scenario::{self, DiskFiles, Override, Scenario, Source};
use crate::uncertainty::{self, Deviation};

use super::published::TGI_SAGEMAKER;
use super::{Check, Report, Row, Suite, ValidateError, fits};

/// A row of a published table. A column that the table lacks is `None`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Published {
    pub model: String,
    #[serde(default)]
    pub quantize: Option<String>,
    #[serde(default)]
    pub instance: Option<String>,
    pub gpus: u32,
    pub clients: u32,
    #[serde(default)]
    pub input_tokens: Option<u32>,
    pub output_tokens: u32,
    #[serde(default)]
    pub ttft_ms: Option<f64>,
    #[serde(default, alias = "inference_ms_per_token")]
    pub ms_per_token: Option<f64>,
    #[serde(default)]
    pub e2e_ms: Option<f64>,
    /// The table's author contradicts himself about it.
    #[serde(default)]
    pub suspect: Option<String>,
}

impl Published {
    fn quantize(&self) -> &str {
        self.quantize.as_deref().unwrap_or("none")
    }

    fn label(&self) -> String {
        let instance = self.instance.as_ref().map_or(String::new(), |i| format!(" {i}"));
        let quantize = match self.quantize() {
            "none" => String::new(),
            format => format!(" {format}"),
        };
        let input = self.input_tokens.map_or(String::new(), |n| format!("{n}+"));
        format!(
            "{}{quantize}{instance} tp {} x {} {input}{}",
            self.model, self.gpus, self.clients, self.output_tokens
        )
    }
}

/// What the table says of a quantity.
const fn measured(quantity: Quantity, row: &Published) -> Option<f64> {
    match quantity {
        Quantity::Ttft => row.ttft_ms,
        Quantity::Tpot | Quantity::TimePerToken | Quantity::BatchPerToken => row.ms_per_token,
        Quantity::Batch => row.e2e_ms,
        Quantity::Throughput | Quantity::E2e => None,
    }
}

/// Rows that are judged together.
struct Group {
    name: &'static str,
    takes: fn(&Published) -> bool,
    quantity: Quantity,
    /// Largest mean absolute error that passes; `None`: reported only, and why.
    bound: Result<f64, &'static str>,
}

/// One table and the deployment that stands for it.
struct Table {
    suite: Suite,
    title: &'static str,
    csv: &'static [u8],
    engine: &'static str,
    /// Scenario keys of a row besides model, engine and parallelism.
    settings: fn(&Published) -> Vec<String>,
    groups: &'static [Group],
    /// Families of instances whose constants are fitted on rows of the table, and the largest mean
    /// absolute error of a row that is left out.
    fits: &'static [(&'static str, Option<f64>)],
}

/// The TGI of SageMaker's container: 90 s of N clients asking for 50 tokens each. The prompt is
/// "Write a 500 word long story about llamas", about 12 tokens.
const SAGEMAKER: Table = Table {
    suite: Suite::TgiSagemaker,
    title: "TGI 1.0.3 on SageMaker: Llama-2, 90 s, short prompts, 50 tokens",
    csv: TGI_SAGEMAKER.text.as_bytes(),
    engine: "tgi-v2",
    settings: |row| {
        vec![
            format!("hardware.instance={}", row.instance.as_deref().unwrap_or_default()),
            "hardware.deployment=sagemaker".into(),
            "engine.tgi.cuda-graphs=false".into(),
            "workload.duration=90s".into(),
        ]
    },
    groups: &[
        Group {
            name: "A10G fp16",
            takes: |row| is_a10g(row) && row.quantize() == "none",
            quantity: Quantity::TimePerToken,
            bound: Ok(0.05),
        },
        Group {
            name: "A10G GPTQ",
            takes: |row| is_a10g(row) && row.quantize() != "none",
            quantity: Quantity::TimePerToken,
            bound: Err("no kernel of GPTQ before Marlin was ever timed"),
        },
        Group {
            name: "p4d fp16",
            takes: |row| !is_a10g(row) && row.quantize() == "none",
            quantity: Quantity::TimePerToken,
            bound: Err("host bound, and 7B is slower than 13B in the same table"),
        },
        Group {
            name: "p4d GPTQ",
            takes: |row| !is_a10g(row) && row.quantize() != "none",
            quantity: Quantity::TimePerToken,
            bound: Err("no kernel of GPTQ before Marlin was ever timed"),
        },
    ],
    fits: &[("g5", Some(0.06)), ("p4d", None)],
};

fn is_a10g(row: &Published) -> bool {
    row.instance.as_ref().is_some_and(|instance| instance.starts_with("g5."))
}

fn is_suspect(row: &Published) -> bool {
    row.suspect.as_ref().is_some_and(|mark| !mark.is_empty())
}

fn within_positions(row: &Published) -> bool {
    row.input_tokens.unwrap_or(0) + row.output_tokens <= POSITIONS
}

/// Every request at once.
fn at_once(row: &Published) -> Vec<String> {
    vec![format!("workload.num-requests={}", row.clients)]
}

const ARGONNE: Table = Table {
    suite: Suite::ArgonneA10040,
    title: "Argonne LLM-Inference-Bench: vLLM on A100-40 (Polaris), one batch at once",
    csv: include_bytes!("../../calibration/published/argonne-a100-40.csv"),
    engine: "vllm-0.4.2",
    settings: |row| {
        let mut keys = at_once(row);
        keys.extend(["hardware.gpu=a100-40gb".into(), format!("hardware.num-gpus={}", row.gpus)]);
        keys
    },
    groups: &[Group {
        name: "all rows",
        takes: |_| true,
        quantity: Quantity::Batch,
        bound: Ok(0.12),
    }],
    fits: &[],
};

/// Positions of Llama-2: longer sequences are in the table, and no engine of today serves them.
const POSITIONS: u32 = 4096;

/// Whether the first tokens came before the tensor cores of the row's A100s could have multiplied
/// half of its prompts by the weights. Half: the time is a mean over the requests, which may have been
/// taken one after the other.
fn beats_the_peak(row: &Published) -> bool {
    const PARAMETERS: f64 = 69e9;
    const PEAK: f64 = 312e12;
    let tokens = f64::from(row.clients) * f64::from(row.input_tokens.unwrap_or(0));
    let fastest = 2.0 * PARAMETERS * tokens / (PEAK * f64::from(row.gpus));
    row.ttft_ms.is_some_and(|ms| ms * 1e-3 < fastest / 2.0)
}

const SPLITWISE: Table = Table {
    suite: Suite::SplitwiseA10080,
    title: "Splitwise: Llama-2-70B under vLLM of 2023 on A100-80, one batch at once",
    csv: include_bytes!("../../calibration/published/splitwise-a100-80.csv"),
    engine: "vllm-0.2.7",
    settings: |row| {
        let mut keys = at_once(row);
        keys.extend([
            "hardware.gpu=a100-80gb".into(),
            format!("hardware.num-gpus={}", row.gpus),
            // Up to 64 prompts of 512 tokens went in as one.
            "engine.vllm.max-num-batched-tokens=32768".into(),
            "engine.vllm.enforce-eager=true".into(),
        ]);
        keys
    },
    groups: &[
        Group {
            name: "prompts",
            takes: |row| within_positions(row) && !beats_the_peak(row),
            quantity: Quantity::Ttft,
            bound: Err("a fork of vLLM before its own all-reduce, of unknown settings"),
        },
        Group {
            name: "prompts faster than the peak",
            takes: |row| within_positions(row) && beats_the_peak(row),
            quantity: Quantity::Ttft,
            bound: Err("no A100 multiplies so fast; the prompts cannot all have been in it"),
        },
        Group {
            name: "tokens",
            takes: within_positions,
            quantity: Quantity::Tpot,
            bound: Err("a fork of vLLM before its own all-reduce, of unknown settings"),
        },
    ],
    fits: &[],
};

/// The prompts' lengths are not published ("short fixed prompts").
const L4_PROMPT: u32 = 16;

const L4: Table = Table {
    suite: Suite::L4Mistral,
    title: "Mistral-7B under vLLM 0.16 on one L4, offline batches",
    csv: include_bytes!("../../calibration/published/l4-mistral.csv"),
    engine: "vllm-0.13",
    settings: |row| {
        let mut keys = at_once(row);
        keys.extend(["hardware.gpu=l4".into(), "engine.vllm.max-model-len=4096".into()]);
        keys
    },
    groups: &[
        Group {
            name: "rows not suspect",
            takes: |row| !is_suspect(row),
            quantity: Quantity::BatchPerToken,
            bound: Ok(0.12),
        },
        Group {
            name: "suspect rows",
            takes: is_suspect,
            quantity: Quantity::BatchPerToken,
            bound: Err("their author gives latencies that contradict their throughput"),
        },
    ],
    fits: &[],
};

pub(super) fn report(suite: Suite, bands: bool) -> Result<Report, ValidateError> {
    let table = match suite {
        Suite::TgiSagemaker => SAGEMAKER,
        Suite::ArgonneA10040 => ARGONNE,
        Suite::SplitwiseA10080 => SPLITWISE,
        _ => L4,
    };
    let mut published: Vec<Published> =
        csv::Reader::from_reader(table.csv).deserialize().collect::<Result<_, _>>()?;
    let all = published.len();
    published.retain(|row| table.groups.iter().any(|group| (group.takes)(row)));
    let outcomes: Vec<Outcome> = published
        .par_iter()
        .map(|row| Ok(Outcome::of(&scenario(&table, row)?, bands)))
        .collect::<Result<_, ValidateError>>()?;

    let mut report = Report::new(table.suite, table.title);
    if published.len() < all {
        let out = all - published.len();
        report.notes.push(format!("{out} rows are longer than the model's {POSITIONS} positions"));
    }
    for group in table.groups {
        let mut errors = Vec::new();
        for (row, outcome) in published.iter().zip(&outcomes).filter(|(row, _)| (group.takes)(row))
        {
            let Some(measured) = measured(group.quantity, row) else { continue };
            let Some(predicted) = outcome.get(group.quantity) else {
                report.notes.push(format!("{}: does not run: {}", row.label(), outcome.why()));
                continue;
            };
            let error = predicted / measured - 1.0;
            errors.push(error);
            report.rows.push(Row {
                group: group.name,
                gpu: outcome.gpu.clone(),
                engine: table.engine.to_owned(),
                model: row.model.clone(),
                quantity: group.quantity.label(),
                unit: "ms",
                measured,
                predicted,
                error,
                expected: outcome.deviation(group.quantity).map(|d| d.around(predicted)),
                trust: outcome.trust,
                ..Row::new(row.label())
            });
        }
        judge(&mut report, group, &errors);
    }
    for &(instance, bound) in table.fits {
        fits::add(&mut report, TGI_SAGEMAKER, (instance, table.engine), bound)?;
    }
    Ok(report)
}

fn judge(report: &mut Report, group: &Group, errors: &[f64]) {
    let mean =
        |of: fn(f64) -> f64| errors.iter().map(|e| of(*e)).sum::<f64>() / errors.len() as f64;
    let worst = errors.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
    let evidence = format!(
        "{} rows: mean {:.1} %, bias {:+.1} %, worst {:+.1} %",
        errors.len(),
        mean(f64::abs) * 100.0,
        mean(|e| e) * 100.0,
        worst * 100.0
    );
    let slug = format!("{}.{}", report.suite, group.name.to_ascii_lowercase().replace(' ', "-"));
    match group.bound {
        Ok(bound) => report.checks.push(Check::new(
            slug,
            format!("{}: mean absolute error is at most {:.0} %", group.name, bound * 100.0),
            !errors.is_empty() && mean(f64::abs) <= bound,
            evidence,
        )),
        Err(why) => report.notes.push(format!("{}, no bound ({why}): {evidence}", group.name)),
    }
}

/// The scenario that stands for a row.
fn scenario(table: &Table, row: &Published) -> Result<Scenario, ValidateError> {
    let input = row.input_tokens.unwrap_or(L4_PROMPT);
    let mut keys = vec![
        format!("model.name={}", row.model),
        format!("model.quantize={}", row.quantize()),
        format!("engine.name={}", table.engine),
        format!("engine.tensor-parallel-size={}", row.gpus),
        format!("workload.closed-loop.clients={}", row.clients),
        format!("workload.lengths.fixed={{ input = {input}, output = {} }}", row.output_tokens),
    ];
    keys.extend((table.settings)(row));
    let overrides: Vec<Override> = keys.iter().map(|key| Override::set(key)).collect();
    scenario::load(&Source::Flags, &overrides, &DiskFiles)
        .map_err(|d| ValidateError::Scenario { name: row.label(), why: d.render(false) })
}

/// What a run of equal requests comes to.
struct Outcome {
    gpu: String,
    trust: Option<Trust>,
    run: Result<Run, String>,
    /// Of each quantity, if they were asked for.
    deviations: Vec<Option<Deviation>>,
}

impl Outcome {
    fn of(scenario: &Scenario, bands: bool) -> Self {
        let gpu = scenario.hardware.gpu().name.clone();
        let (mut trust, mut deviations) = (None, Vec::new());
        let run = match Deployment::new(scenario) {
            Ok(mut deployment) => {
                let recorder = Recorder::new(deployment.measure());
                let (run, recorder) = Run::observed(&mut deployment, 1, recorder);
                trust = recorder.trusted(&deployment.pools()[0].cost().grades()).grade();
                if bands && run.answered() > 0 {
                    deviations = uncertainty::deviations(&deployment, |varied| {
                        let run = Run::once(varied, 1);
                        Quantity::ALL.iter().map(|quantity| run.get(*quantity)).collect()
                    });
                }
                if run.answered() == 0 { Err("no request is served".into()) } else { Ok(run) }
            }
            Err(error) => Err(error.to_string()),
        };
        Self { gpu, trust, run, deviations }
    }

    fn why(&self) -> &str {
        self.run.as_ref().err().map_or("", String::as_str)
    }

    fn get(&self, quantity: Quantity) -> Option<f64> {
        self.run.as_ref().ok()?.get(quantity)
    }

    fn deviation(&self, quantity: Quantity) -> Option<Deviation> {
        let place = Quantity::ALL.iter().position(|known| *known == quantity)?;
        self.deviations.get(place).copied().flatten()
    }
}
