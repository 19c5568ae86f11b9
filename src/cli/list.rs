//! `servesim list`: the names that scenarios and flags take, with what one chooses by.

use serde_json::Value;

use super::args::{Format, ListArgs, Listed};
use super::{Failure, Outcome, output, sweep};
use crate::deploy;
use crate::engine_name::EngineName;
use crate::hardware::{self, PriceKind};
use crate::model::{self, KvCacheDtype};
use crate::report::{Listing, rules};
use crate::scenario::{self, DiskFiles, Registry, Source};
use crate::units::FlopRate;

pub fn run(args: &ListArgs, registry: &Registry) -> Result<Outcome, Failure> {
    let listing = match args.what {
        Listed::Gpus => gpus()?,
        Listed::Instances => instances()?,
        Listed::Models => models()?,
        Listed::Engines => engines(registry),
        Listed::Rules => all_rules(),
        Listed::Scenarios => scenarios()?,
        Listed::Sweeps => sweeps(),
    };
    print(&listing, args.format)?;
    Ok(Outcome::Done)
}

pub fn print(listing: &Listing, format: Format) -> Result<(), Failure> {
    output::print(&match format {
        Format::Table => listing.to_table().into_bytes(),
        Format::Json => listing.to_json(),
        Format::Csv => listing.to_csv(),
    })
}

/// To two decimals: catalogue figures are not known better.
fn rounded(value: f64) -> Value {
    ((value * 100.0).round() / 100.0).into()
}

fn tflops(rate: Option<FlopRate>) -> Value {
    rate.map_or(Value::Null, |rate| rounded(rate.as_tflops()))
}

fn gpus() -> Result<Listing, Failure> {
    let mut listing = Listing::new(&[
        ("name", "GPU"),
        ("memory_gib", "GiB"),
        ("usable_gib", "usable"),
        ("bandwidth_gb_per_s", "GB/s"),
        ("fp16_tflops", "fp16 TFLOP/s"),
        ("bf16_tflops", "bf16"),
        ("fp8_tflops", "fp8"),
        ("int8_tops", "int8"),
        ("l2_mib", "L2 MiB"),
        ("sms", "SMs"),
        ("compute_capability", "CC"),
        ("nvlink_gb_per_s", "NVLink GB/s"),
        ("product", "product"),
    ]);
    for name in hardware::gpu_names() {
        let gpu = hardware::gpu(name).map_err(Failure::bad_input)?;
        listing.push(vec![
            name.into(),
            rounded(gpu.memory.total.as_gib()),
            rounded(gpu.memory.usable.as_gib()),
            rounded(gpu.memory.bandwidth.as_gb_per_s()),
            tflops(Some(gpu.peak.fp16)),
            tflops(gpu.peak.bf16),
            tflops(gpu.peak.fp8),
            tflops(gpu.peak.int8),
            rounded(gpu.memory.l2.as_gib() * 1024.0),
            gpu.chip.streaming_multiprocessors.into(),
            gpu.chip.compute_capability.to_string().into(),
            gpu.links.nvlink.map_or(Value::Null, |nvlink| rounded(nvlink.as_gb_per_s())),
            gpu.product.into(),
        ]);
    }
    Ok(listing)
}

fn instances() -> Result<Listing, Failure> {
    let mut listing = Listing::new(&[
        ("name", "instance"),
        ("cloud", "cloud"),
        ("num_gpus", "GPUs"),
        ("gpu", "GPU"),
        ("gpu_memory_gib", "GiB in all"),
        ("link", "link"),
        ("link_gb_per_s", "GB/s"),
        ("vcpus", "vCPUs"),
        ("ram_gib", "RAM GiB"),
        ("usd_per_hour", "USD/h"),
        ("region", "region"),
        ("price_date", "price of"),
    ]);
    for name in hardware::instance_names() {
        let instance = hardware::instance(name).map_err(Failure::bad_input)?;
        let price = instance.price(PriceKind::OnDemand);
        let memory = instance.gpu.memory.total.as_gib() * f64::from(instance.num_gpus);
        let link = instance.interconnect.as_ref();
        let cpu = instance.cpu.as_ref();
        listing.push(vec![
            name.into(),
            instance.cloud.clone().into(),
            instance.num_gpus.into(),
            instance.gpu.name.clone().into(),
            rounded(memory),
            link.map(|l| l.link.name()).into(),
            link.map_or(Value::Null, |l| rounded(l.bandwidth.as_gb_per_s())),
            cpu.map(|c| c.vcpus).into(),
            cpu.map_or(Value::Null, |c| rounded(c.ram.as_gib())),
            price.map(|p| p.usd.get()).into(),
            price.map(|p| p.region.clone()).into(),
            price.map(|p| p.date.to_string()).into(),
        ]);
    }
    Ok(listing)
}

fn models() -> Result<Listing, Failure> {
    let mut listing = Listing::new(&[
        ("name", "model"),
        ("parameters", "parameters"),
        ("weights_fp16_gib", "fp16 GiB"),
        ("kv_kib_per_token", "KV KiB/token"),
        ("layers", "layers"),
        ("hidden_size", "hidden"),
        ("attention_heads", "heads"),
        ("kv_heads", "KV heads"),
        ("head_dim", "head"),
        ("vocab_size", "vocabulary"),
        ("max_position_embeddings", "context"),
        ("experts", "experts"),
        ("architecture", "architecture"),
    ]);
    for name in model::presets() {
        let model = model::find(name).map_err(Failure::bad_input)?;
        let kv = model.kv_bytes_per_token(KvCacheDtype::Auto, model::Dtype::Float16, 1);
        // "2 of 8" is what a token touches.
        let experts = model
            .moe
            .as_ref()
            .map(|moe| format!("{} of {}", moe.experts_per_token, moe.num_experts));
        listing.push(vec![
            name.into(),
            model.parameter_count().into(),
            rounded(model.parameter_count() as f64 * 2.0 / 1024f64.powi(3)),
            rounded(kv.as_f64() / 1024.0),
            model.num_hidden_layers.into(),
            model.hidden_size.into(),
            model.num_attention_heads.into(),
            model.num_key_value_heads.into(),
            model.head_dim.into(),
            model.vocab_size.into(),
            model.max_position_embeddings.into(),
            experts.into(),
            model.architecture.name().into(),
        ]);
    }
    Ok(listing)
}

fn engines(registry: &Registry) -> Listing {
    let mut listing =
        Listing::new(&[("name", "engine"), ("settings", "settings in"), ("is", "what it is")]);
    for &engine in EngineName::ALL {
        let table = format!("[engine.{}]", engine.family());
        listing.push(vec![engine.name().into(), table.into(), describe(engine).into()]);
    }
    for (engine, about) in registry.custom() {
        let tables = format!("[engine.{}], [engine.{engine}]", engine.family());
        let about = format!("{about} (else like {})", engine.base());
        listing.push(vec![engine.name().into(), tables.into(), about.into()]);
    }
    listing
}

fn all_rules() -> Listing {
    rules::listing(&deploy::rules::of_all_engines())
}

/// One line on what sets a generation apart.
const fn describe(engine: EngineName) -> &'static str {
    match engine {
        EngineName::Tgis2023 => {
            "IBM TGIS of 2023: KV rebuilt at every step, batches limited by weight"
        }
        EngineName::Tgis2024 => "IBM TGIS of 2024: the same with a fitted memory model",
        EngineName::TgiV2 => "Hugging Face TGI 1.x and 2.x: paged KV, prefill pauses decode",
        EngineName::TgiV3 => "Hugging Face TGI 3.x: chunked prefill, prefix caching",
        EngineName::Vllm0_2_7 => {
            "vLLM 0.2.7: prefill first, prompt batches limited by their padding"
        }
        EngineName::Vllm0_4_2 => "vLLM up to 0.4: prefill first, preemption by recompute or swap",
        EngineName::Vllm0_13 => {
            "vLLM 0.10 to 0.19: one token budget, chunked prefill, prefix caching"
        }
        EngineName::Vllm0_32 => "vLLM 0.20 and later: the same with asynchronous scheduling",
        EngineName::Static => {
            "the teaching baseline: a batch runs to its end before the next starts"
        }
    }
}

fn scenarios() -> Result<Listing, Failure> {
    let mut listing = Listing::new(&[
        ("name", "scenario"),
        ("model", "model"),
        ("engine", "engine"),
        ("hardware", "hardware"),
        ("shows", "what it shows"),
    ]);
    for name in scenario::embedded_names() {
        let Some(source) = scenario::embedded(&name) else { continue };
        let shows = match &source {
            Source::File { text, .. } => first_comment(&String::from_utf8_lossy(text)),
            Source::Flags => String::new(),
        };
        let scenario = scenario::load(&source, &[], &DiskFiles)?;
        listing.push(vec![
            name.into(),
            scenario.model.name.into(),
            scenario.engine.name.name().into(),
            scenario.hardware.instance.name.into(),
            shows.into(),
        ]);
    }
    Ok(listing)
}

fn sweeps() -> Listing {
    let mut listing = Listing::new(&[("name", "sweep"), ("shows", "what it shows")]);
    for name in sweep::names() {
        let shows = match sweep::embedded(&name) {
            Some(Source::File { text, .. }) => first_comment(&String::from_utf8_lossy(&text)),
            _ => String::new(),
        };
        listing.push(vec![name.into(), shows.into()]);
    }
    listing
}

/// The first sentence of the comment that a scenario file begins with.
fn first_comment(text: &str) -> String {
    let lines: Vec<_> = text
        .lines()
        .skip_while(|line| line.starts_with("#:"))
        .map_while(|line| line.strip_prefix('#'))
        .map(str::trim)
        .collect();
    let comment = lines.join(" ");
    match comment.split_once(". ") {
        Some((sentence, _)) => format!("{sentence}."),
        None => comment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_scenario_shows_is_its_first_sentence() {
        let text = "#:schema x.json\n# Table 2, row 1 of\n# a study. More.\nname = \"a\"\n# no\n";
        assert_eq!(first_comment(text), "Table 2, row 1 of a study.");
        assert_eq!(first_comment("name = \"a\"\n"), "");
    }

    #[test]
    fn every_list_has_rows() {
        let built_in = [engines(&Registry::builtin()), all_rules(), sweeps()].map(Ok);
        for listing in [gpus(), instances(), models(), scenarios()].into_iter().chain(built_in) {
            assert!(!listing.expect("catalogues that parse").is_empty());
        }
    }
}
