//! Published serving measurements of other people: TGI 1.0.3 on SageMaker, vLLM on A100-40
//! (Argonne), A100-80 (Splitwise) and L4.
//!
//! All of them are runs of equal requests, so a prediction needs one run and no seeds.

use rayon::prelude::*;
use serde::Deserialize;

use crate::cost::trust::Trust;
use crate::deploy::Deployment;
use crate::engine::observer::{Observer, RequestRecord};
use crate::metrics::Recorder;
use crate::scenario::{self, DiskFiles, Override, Scenario, Source};
use crate::uncertainty::{self, Deviation};

use super::{Check, Report, Row, Suite, ValidateError};

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
    #[serde(default)]
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

/// What is compared of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    /// Mean time to the first token.
    Ttft,
    /// Mean over requests of the time between two tokens.
    Tpot,
    /// Median over requests of the time on the GPU by the number of tokens, as TGI logs it.
    TimePerToken,
    /// From the start to the last answer, by output tokens of one request.
    BatchPerToken,
    /// From the start to the last answer.
    Batch,
}

impl Quantity {
    const fn name(self) -> &'static str {
        match self {
            Self::Ttft => "TTFT",
            Self::Tpot => "TPOT",
            Self::TimePerToken => "inference time per token",
            Self::BatchPerToken => "time per output token",
            Self::Batch => "batch latency",
        }
    }

    const fn measured(self, row: &Published) -> Option<f64> {
        match self {
            Self::Ttft => row.ttft_ms,
            Self::Tpot | Self::TimePerToken | Self::BatchPerToken => row.ms_per_token,
            Self::Batch => row.e2e_ms,
        }
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
}

/// The TGI of SageMaker's container: 90 s of N clients asking for 50 tokens each. The prompt is
/// "Write a 500 word long story about llamas", about 12 tokens.
const SAGEMAKER: Table = Table {
    suite: Suite::TgiSagemaker,
    title: "TGI 1.0.3 on SageMaker: Llama-2, 90 s, short prompts, 50 tokens",
    csv: include_bytes!("../../calibration/published/tgi-1.0.3-sagemaker.csv"),
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
            bound: Ok(0.12),
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
};

/// Positions of Llama-2: longer sequences are in the table, and no engine of today serves them.
const POSITIONS: u32 = 4096;

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
            takes: within_positions,
            quantity: Quantity::Ttft,
            bound: Err("a fork of vLLM before its own all-reduce, of unknown settings"),
        },
        Group {
            name: "tokens",
            takes: within_positions,
            quantity: Quantity::Tpot,
            bound: Err("a fork of vLLM before its own all-reduce, of unknown settings"),
        },
    ],
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
        .map(|row| Outcome::of(&scenario(&table, row)?, bands))
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
            let Some(measured) = group.quantity.measured(row) else { continue };
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
                quantity: group.quantity.name(),
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

/// What a run of equal requests comes to, in milliseconds.
struct Outcome {
    gpu: String,
    trust: Option<Trust>,
    requests: Result<Vec<RequestRecord>, String>,
    /// Of each quantity, if they were asked for.
    deviations: Vec<Option<Deviation>>,
}

#[derive(Default)]
struct Collected(Vec<RequestRecord>);

impl Observer for Collected {
    fn on_request(&mut self, record: &RequestRecord) {
        if record.outcome.is_success() {
            self.0.push(*record);
        }
    }
}

impl Outcome {
    fn of(scenario: &Scenario, bands: bool) -> Result<Self, ValidateError> {
        let gpu = scenario.hardware.gpu().name.clone();
        let (mut trust, mut deviations) = (None, Vec::new());
        let requests = match Deployment::new(scenario) {
            Ok(deployment) => {
                let observer = (Collected::default(), Recorder::new(deployment.measure()));
                let run = deployment.simulate_noting(1, observer, false);
                let (Collected(requests), recorder) = run.observer;
                trust = recorder.trusted(&run.cost.grades()).grade();
                if bands && !requests.is_empty() {
                    deviations = uncertainty::deviations(&deployment, |varied| {
                        let (_, Collected(requests)) =
                            varied.simulate(1, Collected::default(), false);
                        Quantity::ALL.map(|quantity| quantity.of(&requests)).to_vec()
                    });
                }
                if requests.is_empty() { Err("no request is served".into()) } else { Ok(requests) }
            }
            Err(error) => Err(error.to_string()),
        };
        Ok(Self { gpu, trust, requests, deviations })
    }

    fn why(&self) -> &str {
        self.requests.as_ref().err().map_or("", String::as_str)
    }

    fn get(&self, quantity: Quantity) -> Option<f64> {
        quantity.of(self.requests.as_ref().ok()?)
    }

    fn deviation(&self, quantity: Quantity) -> Option<Deviation> {
        let place = Quantity::ALL.iter().position(|known| *known == quantity)?;
        self.deviations.get(place).copied().flatten()
    }
}

impl Quantity {
    const ALL: [Self; 5] =
        [Self::Ttft, Self::Tpot, Self::TimePerToken, Self::BatchPerToken, Self::Batch];

    /// In milliseconds; nothing of no requests.
    fn of(self, requests: &[RequestRecord]) -> Option<f64> {
        if requests.is_empty() {
            return None;
        }
        let mean = |of: &dyn Fn(&RequestRecord) -> Option<f64>| {
            let values: Vec<f64> = requests.iter().filter_map(of).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let last = requests.iter().map(|r| r.ended.as_secs_f64()).fold(0.0, f64::max) * 1e3;
        match self {
            Self::Ttft => mean(&|r| Some(r.ttft()?.as_secs_f64() * 1e3)),
            Self::Tpot => mean(&|r| {
                let decoding = r.e2e().as_secs_f64() - r.ttft()?.as_secs_f64();
                Some(decoding * 1e3 / f64::from(r.output_tokens.checked_sub(1)?.max(1)))
            }),
            Self::TimePerToken => {
                let mut times: Vec<f64> = requests
                    .iter()
                    .filter_map(|r| {
                        let on_gpu = r.e2e().as_secs_f64() - r.queue()?.as_secs_f64();
                        Some(on_gpu * 1e3 / f64::from(r.output_tokens))
                    })
                    .collect();
                times.sort_by(f64::total_cmp);
                times.get(times.len() / 2).copied()
            }
            Self::BatchPerToken => {
                Some(last / f64::from(requests.iter().map(|r| r.output_tokens).max()?))
            }
            Self::Batch => Some(last),
        }
    }
}
