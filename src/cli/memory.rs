//! `servesim memory`: where the memory of a GPU goes, and whether the engine starts.

use serde_json::{Value, json};

use super::args::{Format, MemoryArgs};
use super::output::{Content, OutDir};
use super::{Failure, Outcome, input, list, output};
use crate::deploy;
use crate::kv_cache::memory_plan::MemoryPlan;
use crate::report::style::count;
use crate::report::{Listing, Style};
use crate::scenario::{Registry, Scenario};
use crate::units::Bytes;

pub fn run(args: &MemoryArgs, registry: &Registry) -> Result<Outcome, Failure> {
    let scenario = input::scenario(&args.scenario, registry)?;
    let plan = deploy::memory_plan(&scenario);
    if let Some(out) = &args.out {
        let file = |name, bytes| (name, vec![Content::Bytes(bytes)]);
        OutDir::create(out)?.write(vec![
            file("memory.json", json_bytes(&scenario, &plan)),
            file("memory.csv", items(&plan).to_csv()),
        ])?;
    }
    print(&scenario, &plan, args.format)?;
    Ok(if plan.fits() { Outcome::Done } else { Outcome::Negative })
}

/// Prints a plan and its verdict.
pub fn print(scenario: &Scenario, plan: &MemoryPlan, format: Format) -> Result<(), Failure> {
    match format {
        Format::Table => output::print(render(scenario, plan, output::stdout_style()).as_bytes()),
        Format::Json => output::print(&json_bytes(scenario, plan)),
        Format::Csv => list::print(&items(plan), Format::Csv),
    }
}

fn json_bytes(scenario: &Scenario, plan: &MemoryPlan) -> Vec<u8> {
    crate::report::json::pretty(&json!({ "scenario": scenario, "memory": plan }))
}

/// One row per item; the signed bytes of all rows add up to zero.
fn items(plan: &MemoryPlan) -> Listing {
    let mut listing = Listing::new(&[
        ("item", "per GPU"),
        ("bytes", "bytes"),
        ("gib", "GiB"),
        ("provenance", "number is"),
        ("detail", "from"),
    ]);
    let mut row = |item: &str, negative: bool, bytes: Bytes, provenance: Value, detail: String| {
        let sign = if negative { -1.0 } else { 1.0 };
        let gib = (bytes.as_gib() * 1000.0).round() / 1000.0;
        let signed = if negative { -(bytes.get() as i64) } else { bytes.get() as i64 };
        listing.push(vec![
            item.into(),
            signed.into(),
            (sign * gib).into(),
            provenance,
            detail.into(),
        ]);
    };
    let memory = format!("{}, as PyTorch sees it", plan.gpu);
    row("memory", false, plan.gpu_memory, Value::Null, memory);
    for term in plan.terms.iter().filter(|term| term.bytes > Bytes::ZERO) {
        let name = term.name.name();
        row(name, true, term.bytes, term.provenance.name().into(), term.detail.clone());
    }
    let cache = format!(
        "{} blocks of {} tokens at {} a token",
        count(plan.kv_blocks as f64),
        plan.block_size,
        plan.kv_bytes_per_token
    );
    row("KV cache", true, plan.kv_budget, Value::Null, cache);
    if plan.shortfall > Bytes::ZERO {
        row("missing", false, plan.shortfall, Value::Null, String::new());
    }
    listing
}

fn render(scenario: &Scenario, plan: &MemoryPlan, style: Style) -> String {
    let ranks = plan.tensor_parallel_size;
    let spread = if ranks == 1 { String::new() } else { format!(", on each of {ranks} GPUs") };
    let title = format!(
        "{} ({}) under {} on {}{spread}",
        plan.model, plan.precision, scenario.engine.name, scenario.hardware.instance.name
    );
    let mut text = format!("{}\n\n", style.bold(&title));
    text.push_str(&items(plan).to_table());
    text.push('\n');
    let verdict = &plan.verdict;
    match &verdict.refusal {
        None => text.push_str(&format!(
            "{}: room for {} tokens of KV cache\n",
            style.good("starts"),
            count(plan.kv_tokens as f64)
        )),
        Some(refusal) => {
            text.push_str(&format!("{}: {}\n", style.bad("does not start"), refusal.message));
        }
    }
    text.push_str(&format!("{}\n", verdict.arithmetic));
    if let Some((smallest, others)) = verdict.changes.split_first() {
        text.push_str(&format!(
            "smallest change: {smallest} (then {} tokens)\n",
            count(smallest.kv_tokens as f64)
        ));
        for change in others {
            let tokens = count(change.kv_tokens as f64);
            text.push_str(&format!("           or: {change} (then {tokens} tokens)\n"));
        }
    } else if verdict.refusal.is_some() {
        text.push_str("no change of one or two settings would make it fit\n");
    }
    // The load that is assumed where none is given has no part in this.
    let of_load = |note: &&String| note.starts_with("no load") || note.starts_with("no lengths");
    for note in plan.notes.iter().chain(scenario.notes.iter().filter(|note| !of_load(note))) {
        text.push_str(&style.dim(&format!("note: {note}")));
        text.push('\n');
    }
    text
}
