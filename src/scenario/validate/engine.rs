//! The engine's name, and its settings against each other, its version, and the model: what the
//! real server refuses at start.

use std::sync::Arc;

use super::super::defaults::{EffectiveSettings, Place, VllmEffective};
use super::super::raw::RawEngine;
use super::super::registry::{
    BadSetting, Configured, EngineId, Registry, SettingsFault, inherited_settings,
};
use super::super::schema::Schema;
use super::super::settings::{AutoOr, EngineSettings};
use super::Context;
use crate::engine_name::{EngineFamily, EngineName};
use crate::hardware::Gpu;
use crate::model::ModelConfig;

pub(super) fn name(raw: &RawEngine, context: &mut Context<'_>) -> Option<EngineId> {
    let Some(name) = &raw.name else {
        context.missing(
            "engine.name",
            "give one of `servesim list engines`, as in name = \"vllm-0.32\" (flag: --engine)",
        );
        return None;
    };
    match context.registry.find(name) {
        Ok(engine) => Some(engine),
        // The schema lists the names of the registry, so that this is reported before.
        Err(error) => {
            let problem = context.problem_at("engine.name", "unknown engine", error.to_string());
            context.report(problem);
            None
        }
    }
}

/// The table of another engine would be ignored, which is never what was meant; nor is a setting
/// that this engine does not have.
pub(super) fn foreign_settings(engine: EngineId, context: &mut Context<'_>) {
    for (path, whose) in foreign_tables(engine, context.registry) {
        if let Some(span) = context.key_span(&path) {
            let own = match engine.is_custom() {
                true => format!("[engine.{}] or [engine.{engine}]", engine.family()),
                false => format!("[engine.{}]", engine.family()),
            };
            let problem = context
                .pointing(Some(span), format!("[{path}] does not belong to {engine}"), whose)
                .help(format!("put settings of {engine} in {own}"));
            let problem = context.because(problem, "engine.name", "the engine");
            context.report(problem);
        }
    }
    for (path, absence) in absent_settings(engine, context.registry) {
        let key = path.rsplit('.').next().unwrap_or(&path);
        if let Some(span) = context.key_span(&path) {
            let (label, help) = match absence {
                Absence::OnlyOf(engines) => {
                    let names: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
                    let label = format!("only {}", names.join(", "));
                    (label, "leave it out, or choose another engine".to_owned())
                }
                Absence::Replaced => (
                    format!("a rule of {}'s scheduler, which {engine} replaces", engine.base()),
                    format!("leave it out; the scheduler's own settings are in [engine.{engine}]"),
                ),
            };
            let problem = context
                .pointing(Some(span), format!("{engine} has no setting `{key}`"), label)
                .help(help);
            let problem = context.because(problem, "engine.name", "the engine");
            context.report(problem);
        }
    }
}

/// The tables of settings that are not this engine's, each with whose they are.
pub fn foreign_tables(engine: EngineId, registry: &Registry) -> Vec<(String, String)> {
    let families = EngineFamily::ALL.iter().filter(|&&family| family != engine.family());
    let families = families
        .map(|family| (format!("engine.{family}"), format!("settings of the {family} engines")));
    let custom = registry.custom().filter(|(other, _)| *other != engine);
    families
        .chain(custom.map(|(other, _)| (format!("engine.{other}"), format!("settings of {other}"))))
        .collect()
}

use EngineName::{TgiV3, Tgis2023, Tgis2024, Vllm0_2_7, Vllm0_4_2, Vllm0_13, Vllm0_32};

/// Settings that only some engines of a family have. Rules of V1 that came or went between the
/// releases may be set for every V1 engine, since they stand in for the releases between them.
const VERSIONED: &[(EngineFamily, &str, &[EngineName])] = &[
    (EngineFamily::Tgis, "max-batch-weight", &[Tgis2023]),
    (EngineFamily::Tgis, "max-prefill-weight", &[Tgis2023]),
    (EngineFamily::Tgis, "max-prefill-padding", &[Tgis2024]),
    (EngineFamily::Tgis, "batch-safety-margin", &[Tgis2024]),
    (EngineFamily::Tgi, "prefill-chunking", &[TgiV3]),
    (EngineFamily::Tgi, "prefix-caching", &[TgiV3]),
    (EngineFamily::Tgi, "attention", &[TgiV3]),
    (EngineFamily::Vllm, "max-num-scheduled-tokens", &[Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "max-num-active-seqs", &[Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "enable-prefix-caching", &[Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "scheduling-policy", &[Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "async-scheduling", &[Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "watermark", &[Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "long-prefill-token-threshold", &[Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "long-prefill-token-threshold-adaptive", &[Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "scheduler-reserve-full-isl", &[Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "kv-cache-dtype", &[Vllm0_4_2, Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "num-gpu-blocks-override", &[Vllm0_4_2, Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "enable-chunked-prefill", &[Vllm0_4_2, Vllm0_13, Vllm0_32]),
    (EngineFamily::Vllm, "max-paddings", &[Vllm0_2_7]),
    (EngineFamily::Vllm, "swap-space", &[Vllm0_2_7, Vllm0_4_2]),
];

/// Why an engine does not have a setting of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Only these versions have it.
    OnlyOf(&'static [EngineName]),
    /// It is a rule of the scheduler that a custom engine replaces.
    Replaced,
}

/// Settings of the engine's family that this engine does not have, by path.
pub fn absent_settings(engine: EngineId, registry: &Registry) -> Vec<(String, Absence)> {
    let (base, family) = (engine.base(), engine.family());
    let mut absent: Vec<_> = VERSIONED
        .iter()
        .filter(|(of, _, engines)| *of == family && !engines.contains(&base))
        .map(|(_, key, engines)| (format!("engine.{family}.{key}"), Absence::OnlyOf(engines)))
        .collect();
    if engine.is_custom() {
        let table = format!("engine.{family}");
        let keys = registry.schema().at(&table).into_iter().flat_map(Schema::properties);
        for (key, _) in keys {
            let path = format!("{table}.{key}");
            let known = inherited_settings(family).contains(&key);
            if !known && !absent.iter().any(|(other, _)| *other == path) {
                absent.push((path, Absence::Replaced));
            }
        }
    }
    absent
}

/// What `[engine.NAME]` of a custom engine means; `Ok(None)` for a built-in engine, `Err` if
/// something was reported.
pub(super) fn custom(
    engine: EngineId,
    table: serde_json::Value,
    context: &mut Context<'_>,
) -> Result<Option<Arc<dyn Configured>>, ()> {
    let fault = match context.registry.configure(engine, table) {
        None => return Ok(None),
        Some(Ok(configured)) => return Ok(Some(configured)),
        Some(Err(fault)) => fault,
    };
    let table = format!("engine.{engine}");
    // A key that was taken out is why the rest cannot be read.
    if context.taken.any_in(&table, &[]) {
        return Err(());
    }
    let place = if context.node(&table).is_some() { table.as_str() } else { "engine.name" };
    let problem = match fault {
        SettingsFault::Unreadable(why) => context
            .pointing(context.key_span(place), format!("[{table}] cannot be used"), why)
            .help("`servesim schema` describes its keys"),
        SettingsFault::Bad(BadSetting { key, problem, help }) => {
            let path = format!("{table}.{key}");
            let span = context.table.find(&path).map(|node| node.span.clone());
            let span = span.or_else(|| context.key_span(place));
            context.pointing(span, format!("`{path}` cannot be used"), problem).help(help)
        }
    };
    context.report(problem);
    Err(())
}

pub(super) fn settings(name: EngineName, raw: &RawEngine) -> EngineSettings {
    match name.family() {
        EngineFamily::Tgis => EngineSettings::Tgis(raw.tgis.clone().unwrap_or_default()),
        EngineFamily::Tgi => EngineSettings::Tgi(raw.tgi.clone().unwrap_or_default()),
        EngineFamily::Vllm => EngineSettings::Vllm(raw.vllm.clone().unwrap_or_default()),
        EngineFamily::Static => {
            EngineSettings::Static(raw.static_batch.clone().unwrap_or_default())
        }
    }
}

pub(super) fn effective(
    name: EngineName,
    settings: &EngineSettings,
    model: &ModelConfig,
    gpu: &Gpu,
    tensor_parallel_size: u32,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> EffectiveSettings {
    let place = Place { engine: name, model, gpu, tensor_parallel_size };
    let effective = EffectiveSettings::resolve(settings, place);
    match &effective {
        EffectiveSettings::Tgis(s) => {
            if name == EngineName::Tgis2023 && s.max_batch_weight == AutoOr::Auto {
                notes.push(
                    "max-batch-weight = auto is assumed: the tokens that fit in half of the free \
                     KV memory, as each decode step holds two copies of the KV cache"
                        .into(),
                );
            }
            // The router panics at start if the longest request could never run: engines A7.
            if let (EngineName::Tgis2023, AutoOr::Value(weight), true) =
                (name, s.max_batch_weight, s.flash_attention)
                && weight < u64::from(s.max_sequence_length)
            {
                at_most(
                    context,
                    ("engine.tgis.max-sequence-length", u64::from(s.max_sequence_length)),
                    ("engine.tgis.max-batch-weight", weight),
                );
            }
            if let (AutoOr::Value(weight), true) = (s.max_prefill_weight, s.flash_attention)
                && weight > 0
                && weight < u64::from(s.max_sequence_length)
            {
                at_most(
                    context,
                    ("engine.tgis.max-sequence-length", u64::from(s.max_sequence_length)),
                    ("engine.tgis.max-prefill-weight", weight),
                );
            }
        }
        EffectiveSettings::Tgi(s) => {
            if let (Some(input), Some(total)) = (s.max_input_tokens, s.max_total_tokens)
                && input >= total
            {
                at_most(
                    context,
                    ("engine.tgi.max-input-tokens", u64::from(input)),
                    ("engine.tgi.max-total-tokens", u64::from(total) - 1),
                );
            }
            if let Some(input) = s.max_input_tokens
                && s.max_batch_prefill_tokens < input
                && !s.prefill_chunking
            {
                at_most(
                    context,
                    ("engine.tgi.max-input-tokens", u64::from(input)),
                    ("engine.tgi.max-batch-prefill-tokens", u64::from(s.max_batch_prefill_tokens)),
                );
            }
        }
        EffectiveSettings::Vllm(s) => vllm(s, model, context),
        EffectiveSettings::Static(s) => {
            model_length("engine.static.max-model-len", s.max_model_len, model, context);
        }
    }
    effective
}

/// vLLM's own validation of its arguments.
fn vllm(s: &VllmEffective, model: &ModelConfig, context: &mut Context<'_>) {
    let budget = ("engine.vllm.max-num-batched-tokens", u64::from(s.max_num_batched_tokens));
    if s.max_num_batched_tokens < s.max_num_seqs {
        at_most(context, ("engine.vllm.max-num-seqs", u64::from(s.max_num_seqs)), budget);
    }
    if !s.enable_chunked_prefill && s.max_num_batched_tokens < s.max_model_len {
        at_most(context, ("engine.vllm.max-model-len", u64::from(s.max_model_len)), budget);
    }
    model_length("engine.vllm.max-model-len", s.max_model_len, model, context);
}

fn model_length(path: &str, length: u32, model: &ModelConfig, context: &mut Context<'_>) {
    let own = model.max_position_embeddings;
    if length > own {
        let problem = context
            .problem_at(path, "max-model-len is longer than the model", format!("over {own}"))
            .help(format!("{} has {own} positions: set at most that", model.name));
        context.report(problem);
    }
}

/// Reports that the first setting may be at most the second; the places are those that are written.
fn at_most(context: &mut Context<'_>, low: (&str, u64), high: (&str, u64)) {
    let short = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let (written, other) = if context.node(low.0).is_some() { (low, high) } else { (high, low) };
    let problem = context
        .problem_at(
            written.0,
            format!("{} must be at most {}", short(low.0), short(high.0)),
            format!("{} is {}", short(written.0), written.1),
        )
        .help("the engine would refuse to start with these settings");
    let label = match context.node(other.0) {
        Some(_) => format!("{} is {}", short(other.0), other.1),
        None => format!("{} is {} by default", short(other.0), other.1),
    };
    let problem = context.because(problem, other.0, label);
    context.report(problem);
}
