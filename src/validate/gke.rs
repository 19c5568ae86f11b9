//! What Google's guide on optimising LLM inference on GKE says about memory on L4 GPUs.

use crate::deploy::memory_plan;
use crate::kv_cache::memory_plan::MemoryPlan;

use super::{Check, Report, Suite, ValidateError, load};

/// One deployment of the guide: claim id, what it says, scenario, replaced keys, whether it starts.
struct Fact {
    id: &'static str,
    claim: &'static str,
    scenario: &'static str,
    overrides: &'static [&'static str],
    starts: bool,
}

const fn fact(
    id: &'static str,
    claim: &'static str,
    scenario: &'static str,
    overrides: &'static [&'static str],
    starts: bool,
) -> Fact {
    Fact { id, claim, scenario, overrides, starts }
}

/// The vLLM of early 2024 on one L4; the guide's deployment.
const VLLM: &str = "gke/gemma-7b-vllm-l4";

const FACTS: [Fact; 9] = [
    fact(
        "GK-9",
        "Gemma 7B on one L4 under vLLM with the model's own 8192 tokens does not start",
        VLLM,
        &["engine.vllm.max-model-len=8192"],
        false,
    ),
    fact(
        "GK-10",
        "... with max-model-len 600 it starts",
        VLLM,
        &["engine.vllm.max-model-len=600"],
        true,
    ),
    fact(
        "GK-6",
        "... with KV in fp8_e5m2, max-model-len 1200 starts",
        VLLM,
        &["engine.vllm.max-model-len=1200", "engine.vllm.kv-cache-dtype=fp8_e5m2"],
        true,
    ),
    fact(
        "GK-15",
        "... and without fp8, 1200 does not",
        VLLM,
        &["engine.vllm.max-model-len=1200"],
        false,
    ),
    fact(
        "GK-7",
        "Gemma 7B on two L4, TP 2, starts with 8192 tokens",
        VLLM,
        &[
            "engine.vllm.max-model-len=8192",
            "hardware.instance=g2-standard-24",
            "engine.tensor-parallel-size=2",
        ],
        true,
    ),
    fact(
        "GK-5",
        "Gemma 7B AWQ starts on one L4 under vLLM",
        VLLM,
        &["engine.vllm.max-model-len=8192", "model.quantize=awq"],
        true,
    ),
    fact(
        "GK-11",
        "Gemma 7B starts on one L4 under TGI with 512 + 2560 tokens, prefill 512",
        "gke/gemma-7b-tgi-l4",
        &[],
        true,
    ),
    fact(
        "GK-1a",
        "Llama-2 13B in fp16 does not fit one L4",
        "gke/llama-2-13b-gptq-l4",
        &["model.quantize=none"],
        false,
    ),
    fact("GK-1", "... its GPTQ does", "gke/llama-2-13b-gptq-l4", &[], true),
];

/// The guide says "below 640" and uses 600; blocks of 16 make it 640.
const ROOM: std::ops::RangeInclusive<u64> = 560..=720;

pub(super) fn report() -> Result<Report, ValidateError> {
    let mut report = Report::new(Suite::GkeMemory, "Google, GKE guide: what fits on L4 GPUs");
    for fact in &FACTS {
        let plan = plan(fact.scenario, fact.overrides)?;
        let verdict = &plan.verdict;
        let evidence = match &verdict.refusal {
            None => format!("starts; {} KV tokens", plan.kv_tokens),
            Some(refusal) => format!("refuses: {}", refusal.message),
        };
        report.checks.push(Check::new(fact.id, fact.claim, verdict.fits == fact.starts, evidence));
    }
    let room = plan(VLLM, &["engine.vllm.max-model-len=8192"])?.kv_tokens;
    report.checks.push(Check::new(
        "GK-9b",
        format!("the refusal reports room for {} to {} tokens", ROOM.start(), ROOM.end()),
        ROOM.contains(&room),
        format!("{room} tokens"),
    ));
    report.notes.push(
        "The sampler's share of vLLM's profile run (13.6 copies of its logits) is fitted to GK-9; \
         the other facts are predictions."
            .into(),
    );
    Ok(report)
}

fn plan(scenario: &str, overrides: &[&str]) -> Result<MemoryPlan, ValidateError> {
    Ok(memory_plan(&load(scenario, overrides)?))
}
