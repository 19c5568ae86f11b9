//! `servesim memory`: where the memory of a GPU goes, and whether the engine starts.

use serde_json::{Map, Value, json};

use super::args::{Format, MemoryArgs};
use super::output::{Content, OutDir};
use super::{Failure, Outcome, input, list, output};
use crate::deploy;
use crate::kv_cache::memory_plan::MemoryPlan;
use crate::report::style::count;
use crate::report::{Listing, Style};
use crate::scenario::{Kind, Registry, Scenario};
use crate::units::Bytes;

pub fn run(args: &MemoryArgs, registry: &Registry) -> Result<Outcome, Failure> {
    let scenario = input::scenario(&args.scenario, registry)?;
    let kinds = scenario.kinds();
    let plans: Vec<_> = kinds.iter().map(|kind| (*kind, deploy::memory_plan_of(kind))).collect();
    if let Some(out) = &args.out {
        let file = |name, bytes| (name, vec![Content::Bytes(bytes)]);
        OutDir::create(out)?.write(vec![
            file("memory.json", json_bytes(&scenario, &plans)),
            file("memory.csv", csv_items(&plans).to_csv()),
        ])?;
    }
    print_all(&scenario, &plans, args.format)?;
    let all_fit = plans.iter().all(|(_, plan)| plan.fits());
    Ok(if all_fit { Outcome::Done } else { Outcome::Negative })
}

/// Prints the plan of a pool, or of a deployment without pools, and its verdict.
pub fn print(
    scenario: &Scenario,
    pool: Option<&str>,
    plan: &MemoryPlan,
    format: Format,
) -> Result<(), Failure> {
    let kind = scenario.kinds().into_iter().find(|kind| kind.pool == pool);
    let kind = kind.expect("a pool of the scenario");
    print_all(scenario, &[(kind, plan.clone())], format)
}

fn print_all(
    scenario: &Scenario,
    plans: &[(Kind<'_>, MemoryPlan)],
    format: Format,
) -> Result<(), Failure> {
    match format {
        Format::Table => {
            let style = output::stdout_style();
            let texts: Vec<String> =
                plans.iter().map(|(kind, plan)| render(kind, plan, style)).collect();
            let mut text = texts.join("\n");
            // The load that is assumed where none is given has no part in this.
            let of_load =
                |note: &&String| note.starts_with("no load") || note.starts_with("no lengths");
            for note in scenario.notes.iter().filter(|note| !of_load(note)) {
                text.push_str(&style.dim(&format!("note: {note}")));
                text.push('\n');
            }
            output::print(text.as_bytes())
        }
        Format::Json => output::print(&json_bytes(scenario, plans)),
        Format::Csv => list::print(&csv_items(plans), Format::Csv),
    }
}

fn json_bytes(scenario: &Scenario, plans: &[(Kind<'_>, MemoryPlan)]) -> Vec<u8> {
    crate::report::json::pretty(&match plans {
        [(Kind { pool: None, .. }, plan)] => json!({ "scenario": scenario, "memory": plan }),
        plans => {
            let row = |(kind, plan): &(Kind<'_>, MemoryPlan)| {
                (kind.pool.unwrap_or_default().to_owned(), json!(plan))
            };
            let pools: Map<_, _> = plans.iter().map(row).collect();
            json!({ "scenario": scenario, "pools": pools })
        }
    })
}

fn csv_items(plans: &[(Kind<'_>, MemoryPlan)]) -> Listing {
    let plans: Vec<_> = plans.iter().map(|(kind, plan)| (kind.pool, plan)).collect();
    items(&plans)
}

/// One row per item; the signed bytes of all rows of a plan add up to zero.
fn items(plans: &[(Option<&str>, &MemoryPlan)]) -> Listing {
    let of_pool = plans.iter().any(|(pool, _)| pool.is_some());
    let first = if of_pool { &[("pool", "pool")][..] } else { &[] };
    let columns = [
        ("item", "per GPU"),
        ("bytes", "bytes"),
        ("gib", "GiB"),
        ("provenance", "number is"),
        ("detail", "from"),
    ];
    let mut listing = Listing::new(&[first, &columns].concat());
    for (pool, plan) in plans {
        let pool = pool.filter(|_| of_pool).map(Value::from);
        items_of(pool.as_ref(), plan, &mut listing);
    }
    listing
}

fn items_of(pool: Option<&Value>, plan: &MemoryPlan, listing: &mut Listing) {
    let mut row = |item: &str, negative: bool, bytes: Bytes, provenance: Value, detail: String| {
        let sign = if negative { -1.0 } else { 1.0 };
        let gib = (bytes.as_gib() * 1000.0).round() / 1000.0;
        let signed = if negative { -(bytes.get() as i64) } else { bytes.get() as i64 };
        let cells = [item.into(), signed.into(), (sign * gib).into(), provenance, detail.into()];
        listing.push(pool.cloned().into_iter().chain(cells).collect());
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
}

fn render(kind: &Kind<'_>, plan: &MemoryPlan, style: Style) -> String {
    let ranks = plan.tensor_parallel_size;
    let spread = if ranks == 1 { String::new() } else { format!(", on each of {ranks} GPUs") };
    let whose = kind.pool.map_or(String::new(), |name| format!("pool {name}: "));
    let title = format!(
        "{whose}{} ({}) under {} on {}{spread}",
        plan.model, plan.precision, kind.engine.name, kind.hardware.instance.name
    );
    let mut text = format!("{}\n\n", style.bold(&title));
    text.push_str(&items(&[(None, plan)]).to_table());
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
    for note in &plan.notes {
        text.push_str(&style.dim(&format!("note: {note}")));
        text.push('\n');
    }
    text
}
