//! Model, machine, price, precision, and how the engine is spread over the GPUs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::PriceSpec;
use super::super::diagnostic::Diagnostic;
use super::super::raw::{RawEngine, RawHardware, RawModel};
use super::files::{self, Named};
use super::{Context, looks_like_path};
use crate::cost::profile::{DeploymentProfile, GpuProfile};
use crate::hardware::{self, CatalogError, Gpu, InstanceType, PriceKind};
use crate::model::{
    self, Dtype, DtypeSetting, ModelConfig, ModelError, WeightFormat, WeightPrecision,
};
use crate::named::UnknownName;

pub(super) fn model(raw: &RawModel, context: &mut Context<'_>) -> Option<ModelConfig> {
    match (&raw.name, &raw.config) {
        (Some(_), Some(_)) => {
            let problem = context
                .problem_at(
                    "model.config",
                    "a model has a name or a config, not both",
                    "and a config",
                )
                .help("keep one of them");
            let problem = context.because(problem, "model.name", "a preset");
            context.report(problem);
            None
        }
        (None, None) => {
            if !context.taken.covers("model.config") {
                context.missing("model.name", "give a preset of `servesim list models`, as in name = \"llama-2-7b\" (flag: --model)");
            }
            None
        }
        // `--model` takes both, so a path may stand under either key.
        (Some(name), None) if model::preset(name).is_none() && looks_like_path(name) => {
            model_file("model.name", name, context)
        }
        (None, Some(path)) => model_file("model.config", path, context),
        (Some(name), None) => match model::find(name) {
            Ok(model) => Some(model),
            Err(ModelError::UnknownPreset { suggestion, known, .. }) => {
                let problem =
                    unknown(context, "model.name", "model", suggestion.as_deref(), &known)
                        .help("or give the path of a Hugging Face config.json");
                context.report(problem);
                None
            }
            Err(error) => {
                let problem =
                    context.problem_at("model.name", "the model cannot be used", error.to_string());
                context.report(problem);
                None
            }
        },
    }
}

fn model_file(key: &str, name: &str, context: &mut Context<'_>) -> Option<ModelConfig> {
    let (path, bytes) = context.read(key, name);
    let problem = match bytes {
        Err(error) => context
            .problem_at(key, format!("cannot read the model {}", path.display()), error.to_string())
            .help("give the path of a Hugging Face config.json, or a preset of `servesim list models`"),
        Ok(bytes) => {
            // The folder is the checkpoint's name: .../Llama-2-7b-hf/config.json.
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("model");
            let folder = path.parent().and_then(|dir| dir.file_name()).and_then(|dir| dir.to_str());
            let called = if stem == "config" { folder.unwrap_or(stem) } else { stem };
            match ModelConfig::from_hf_json(called, &bytes) {
                Ok(model) => return Some(model),
                Err(error) => {
                    files::model(&Named { key, path: &path, bytes: &bytes }, &error, context);
                    return None;
                }
            }
        }
    };
    context.report(problem);
    None
}

fn unknown(
    context: &Context<'_>,
    key: &str,
    what: &str,
    near: Option<&str>,
    known: &[impl AsRef<str>],
) -> Diagnostic {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let problem = context.problem_at(key, format!("unknown {what}"), "not in the catalogue");
    match (near, context.span(key)) {
        (Some(near), Some(span)) => {
            // A flag's value stands without quotes.
            let quoted = context.sources.slice(&span).starts_with(['"', '\'']);
            let replacement = if quoted { format!("\"{near}\"") } else { near.to_owned() };
            problem.suggest("a similar name exists", span, replacement)
        }
        _ => problem.note(format!("known: {}", known.join(", "))),
    }
}

pub(super) fn instance(raw: &RawHardware, context: &mut Context<'_>) -> Option<InstanceType> {
    match (&raw.instance, &raw.gpu) {
        (Some(_), Some(_)) => {
            let problem = context
                .problem_at(
                    "hardware.gpu",
                    "a machine is an instance or GPUs, not both",
                    "and GPUs",
                )
                .help("an instance brings its GPUs: keep one of the two keys");
            let problem = context.because(problem, "hardware.instance", "an instance");
            context.report(problem);
            None
        }
        (None, None) => {
            if !context.taken.covers("hardware.gpu") {
                context.missing(
                    "hardware.instance",
                    "give an instance of `servesim list instances`, as in instance = \
                     \"g5.2xlarge\" (flag: --instance), or gpu and num-gpus (flags: --gpu, \
                     --num-gpus)",
                );
            }
            None
        }
        (Some(name), None) => {
            if raw.num_gpus.is_some() {
                let problem = context
                    .problem_at(
                        "hardware.num-gpus",
                        "an instance has the GPUs it has",
                        "not needed",
                    )
                    .help("leave num-gpus out, or give gpu in place of instance");
                let problem = context.because(problem, "hardware.instance", "an instance");
                context.report(problem);
            }
            const KEY: &str = "hardware.instance";
            let known = hardware::instance_names().any(|known| known == name);
            if !known && looks_like_path(name) {
                let (path, bytes) = file(KEY, name, context)?;
                let read = InstanceType::from_toml(stem(&path, "instance"), &bytes);
                return of_file(&Named { key: KEY, path: &path, bytes: &bytes }, read, context);
            }
            usable(KEY, name, hardware::instance(name), context)
        }
        (None, Some(name)) => {
            const KEY: &str = "hardware.gpu";
            let known = hardware::gpu_names().any(|known| known == name);
            let gpu = if !known && looks_like_path(name) {
                let (path, bytes) = file(KEY, name, context)?;
                let named = Named { key: KEY, path: &path, bytes: &bytes };
                let read = Gpu::from_toml(stem(&path, "gpu"), &bytes);
                let gpu = of_file(&named, read, context)?;
                // A run reads it again, and finds nothing wrong any more.
                if let Err(error) = GpuProfile::from_gpu_file(&gpu.name, &bytes) {
                    files::profile(&named, "calibration", &error, context);
                    return None;
                }
                gpu
            } else {
                usable(KEY, name, hardware::gpu(name), context)?
            };
            let custom = InstanceType::custom(gpu, raw.num_gpus.unwrap_or(1));
            usable("hardware.num-gpus", name, custom, context)
        }
    }
}

/// The bytes of a file of hardware; reports where they cannot be had.
fn file(key: &str, name: &str, context: &mut Context<'_>) -> Option<(PathBuf, Vec<u8>)> {
    let (path, bytes) = context.read(key, name);
    match bytes {
        Ok(bytes) => Some((path, bytes)),
        Err(error) => {
            let problem =
                context.problem_at(key, format!("cannot read {name}"), error.to_string()).help(
                    "see `servesim list instances` and `servesim list gpus` for what is built in",
                );
            context.report(problem);
            None
        }
    }
}

/// What a machine is called after its file.
fn stem<'a>(path: &'a Path, otherwise: &'a str) -> &'a str {
    path.file_stem().and_then(|stem| stem.to_str()).unwrap_or(otherwise)
}

fn of_file<T>(
    file: &Named<'_>,
    read: Result<T, CatalogError>,
    context: &mut Context<'_>,
) -> Option<T> {
    read.map_err(|error| files::hardware(file, error, context)).ok()
}

fn usable<T>(
    key: &str,
    name: &str,
    found: Result<T, CatalogError>,
    context: &mut Context<'_>,
) -> Option<T> {
    let problem = match found {
        Ok(thing) => return Some(thing),
        Err(CatalogError::UnknownGpu(UnknownName { what, known, suggestion, .. })) => {
            unknown(context, key, what, suggestion, &known)
                .help("or give the path of a GPU file of your own")
        }
        Err(CatalogError::UnknownInstance(UnknownName { what, known, suggestion, .. })) => {
            unknown(context, key, what, suggestion, &known)
                .help("or give gpu and num-gpus, or the path of an instance file of your own")
        }
        Err(error) => context.problem_at(key, format!("{name} cannot be used"), error.to_string()),
    };
    context.report(problem);
    None
}

/// The deployment profile, where the key names a file and not an environment.
pub(super) fn profile(
    raw: &RawHardware,
    context: &mut Context<'_>,
) -> Option<Arc<DeploymentProfile>> {
    const KEY: &str = "hardware.deployment";
    let name = raw.deployment.as_deref().filter(|name| looks_like_path(name))?;
    let (path, bytes) = context.read(KEY, name);
    let shown = path.display().to_string();
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            let problem = context
                .problem_at(
                    KEY,
                    format!("cannot read the deployment profile {shown}"),
                    error.to_string(),
                )
                .help(
                    "give the path of a profile that `servesim calibrate --fit-deployment` has \
                     written, or the name of an environment, which has no slash and no extension",
                );
            context.report(problem);
            return None;
        }
    };
    match DeploymentProfile::from_toml(&shown, &bytes) {
        Ok(profile) => Some(Arc::new(profile)),
        Err(error) => {
            files::profile(&Named { key: KEY, path: &path, bytes: &bytes }, "", &error, context);
            None
        }
    }
}

pub(super) fn price(
    raw: &RawHardware,
    instance: &InstanceType,
    context: &mut Context<'_>,
) -> Option<PriceSpec> {
    if let Some(usd) = raw.price {
        for other in ["hardware.price-kind", "hardware.price-list"] {
            if context.node(other).is_some() {
                let problem = context
                    .problem_at(other, "a price is given or looked up, not both", "look it up here")
                    .help("keep one of them");
                let problem = context.because(problem, "hardware.price", "the price itself");
                context.report(problem);
            }
        }
        return Some(PriceSpec { usd, catalogue: None });
    }
    let kind = raw.price_kind.unwrap_or(PriceKind::OnDemand);
    let found = match &raw.price_list {
        Some(list) => instance.price_in_list(list, kind),
        None => instance.price(kind),
    };
    if let Some(price) = found {
        return Some(PriceSpec { usd: price.usd, catalogue: Some(price.clone()) });
    }
    // Asked for and not there is an error; a machine without a price just has no costs.
    let asked = [
        ("hardware.price-list", raw.price_list.is_some()),
        ("hardware.price-kind", raw.price_kind.is_some()),
    ];
    if let Some((key, _)) = asked.into_iter().find(|(_, asked)| *asked) {
        let known: Vec<String> = instance
            .prices
            .iter()
            .map(|price| match &price.price_list {
                Some(list) => format!("{} in list {list}", price.kind),
                None => price.kind.to_string(),
            })
            .collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        let problem = context
            .problem_at(key, format!("{} has no such price", instance.name), "not in the catalogue")
            .note(format!("prices of {}: {known}", instance.name))
            .help("pin it, as in price = \"1.212 USD/h\"");
        context.report(problem);
    }
    None
}

pub(super) fn precision(
    raw: &RawModel,
    model: &ModelConfig,
    instance: Option<&InstanceType>,
    context: &mut Context<'_>,
) -> Option<WeightPrecision> {
    let own = model.checkpoint_format;
    let format = raw.quantize.unwrap_or(own);
    // Marlin kernels run checkpoints of the GPTQ and AWQ formats.
    let repacked =
        format == WeightFormat::Marlin && matches!(own, WeightFormat::Gptq | WeightFormat::Awq);
    if own.is_quantized() && format != own && !repacked {
        let problem = context
            .problem_at(
                "model.quantize",
                "the checkpoint is stored in another format",
                format!("the checkpoint is {own}"),
            )
            .help(format!("leave quantize out, or set it to \"{own}\""));
        context.report(problem);
        return None;
    }
    let setting = raw.dtype.unwrap_or(DtypeSetting::Auto);
    let precision = WeightPrecision::resolve(setting, format, model.dtype);
    if let Some(instance) = instance
        && instance.gpu.peak_for(precision.dtype).is_none()
    {
        let gpu = &instance.gpu.name;
        let key = if context.node("model.dtype").is_some() { "model.dtype" } else { "model.name" };
        let problem = context
            .problem_at(
                key,
                format!("{gpu} does not compute in {}", precision.dtype),
                format!("this model is served in {}", precision.dtype),
            )
            .help(format!("set dtype = \"{}\"", Dtype::Float16));
        context.report(problem);
        return None;
    }
    Some(precision)
}

/// Tensor-parallel size and replicas; 1 where unusable, which is reported.
pub(super) fn spread(
    raw: &RawEngine,
    model: Option<&ModelConfig>,
    instance: Option<&InstanceType>,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> (u32, u32) {
    const TP: &str = "engine.tensor-parallel-size";
    let (tp, replicas) = (raw.tensor_parallel_size.unwrap_or(1), raw.replicas.unwrap_or(1));
    let mut sound = true;
    if let Some(model) = model
        && let Err(error) = model.check_tensor_parallel(tp)
    {
        let possible: Vec<String> = error.possible.iter().map(u32::to_string).collect();
        let problem = context
            .problem_at(
                TP,
                format!("tensor-parallel-size does not divide {}", model.name),
                error.reason.clone(),
            )
            .help(format!("sizes that do: {}", possible.join(", ")));
        let key =
            if context.node("model.config").is_some() { "model.config" } else { "model.name" };
        let heads = format!(
            "this model has {} attention heads and {} KV heads",
            model.num_attention_heads, model.num_key_value_heads
        );
        let problem = context.because(problem, key, heads);
        context.report(problem);
        sound = false;
    }
    if let Some(instance) = instance {
        let (used, there) = (u64::from(tp) * u64::from(replicas), u64::from(instance.num_gpus));
        let gpus = |n: u64| if n == 1 { "1 GPU".to_owned() } else { format!("{n} GPUs") };
        if used > there {
            let too_wide = u64::from(tp) > there;
            let (key, title, label) = if too_wide {
                (
                    TP,
                    "tensor-parallel-size is larger than the machine",
                    format!("needs {}", gpus(tp.into())),
                )
            } else {
                (
                    "engine.replicas",
                    "the replicas need more GPUs than there are",
                    format!("{replicas} replicas of {} need {}", gpus(tp.into()), gpus(used)),
                )
            };
            let key_of_machine = if context.node("hardware.gpu").is_some() {
                "hardware.gpu"
            } else {
                "hardware.instance"
            };
            let problem = context.problem_at(key, title, label);
            let problem = context
                .because(problem, key_of_machine, format!("{} has {}", instance.name, gpus(there)))
                .help("choose a larger instance, or fewer GPUs");
            context.report(problem);
            sound = false;
        } else if used < there {
            notes.push(format!(
                "{} of {} on {} are idle, and paid for",
                there - used,
                gpus(there),
                instance.name
            ));
        }
    }
    if sound { (tp, replicas) } else { (1, 1) }
}
