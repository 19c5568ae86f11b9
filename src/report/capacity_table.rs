//! What a search for capacity found, for people.

use serde_json::Value;

use super::Listing;
use super::style::{Style, count, number};
use crate::sweep::capacity::{Capacity, Offer, SearchedLoad};
use crate::sweep::slo::Objective;
use crate::sweep::trial::Trial;

fn amount(over: SearchedLoad, load: f64) -> String {
    match over {
        SearchedLoad::Rate => number(load, 3),
        SearchedLoad::Concurrency => count(load),
    }
}

/// Rows of offers that are printed.
const MOST_OFFERS: usize = 20;

fn assumptions(notes: &[String], style: Style) -> String {
    let note = |note: &String| format!("{}\n", style.dim(&format!("note: {note}")));
    notes.iter().filter(|note| !note.starts_with("no load given")).map(note).collect()
}

/// One deployment; `notes` are the scenario's assumptions.
pub fn render(
    name: &str,
    objective: &Objective,
    found: &Capacity,
    notes: &[String],
    style: Style,
) -> String {
    let mut text = format!("{}\nobjective: {objective}\n\n", style.bold(name));
    let unit = found.over.unit();
    match (&found.at, found.load) {
        (Some(at), Some(load)) => {
            let most = style.good(&format!("{} {unit}", amount(found.over, load)));
            text.push_str(&format!("meets it up to {most}\n"));
            text.push_str(&limits(at, "there"));
            let mut figures = vec![
                format!("{} output tokens/s", number(at.output_throughput, 4)),
                format!("{} requests/s answered", number(at.request_throughput, 3)),
            ];
            figures.extend(
                at.usd_per_1m_output_tokens
                    .map(|usd| format!("{} USD per 1M output tokens", number(usd, 3))),
            );
            text.push_str(&format!("  {}\n", figures.join(", ")));
            if let Some(e2e) = &at.e2el_ms {
                text.push_str(&format!(
                    "  steady: mean E2E {} +- {} ms over 10 batches after the warm-up\n",
                    number(e2e.mean, 3),
                    number(e2e.half_width, 2)
                ));
            }
        }
        _ => text.push_str(&format!("{}\n", style.bad("no load meets it"))),
    }
    match &found.beyond {
        Some(beyond) => text.push_str(&format!(
            "at {} {unit}: {}\n",
            amount(found.over, beyond.load),
            beyond.missed.join("; ")
        )),
        None => text.push_str("nothing breaks up to the highest load that was tried\n"),
    }
    text.push_str(&format!("{}\n", found.bound.explain()));
    if let Some(trust) = found.trust {
        text.push_str(&format!("trust: {trust}\n"));
    }
    let trials = if found.trials == 1 { "trial" } else { "trials" };
    let line = format!("{} {trials} with the same random numbers\n", found.trials);
    text.push_str(&style.dim(&line));
    text.push_str(&assumptions(notes, style));
    text
}

fn limits(trial: &Trial, when: &str) -> String {
    let mut text = String::new();
    for limit in &trial.limits {
        let value = limit.value_ms.map_or("-".into(), |ms| format!("{} ms", number(ms, 4)));
        text.push_str(&format!("  {}: {value} {when}\n", limit.limit));
    }
    if let Some(share) = trial.goodput {
        text.push_str(&format!("  {:.2} % of the requests within all limits\n", share * 100.0));
    }
    text
}

/// The same as one row.
pub fn row(name: &str, objective: &Objective, found: &Capacity) -> Listing {
    let mut listing = Listing::new(&[
        ("scenario", "scenario"),
        ("objective", "objective"),
        ("over", "over"),
        ("load", "load"),
        ("output_throughput", "tok/s"),
        ("request_throughput", "requests/s"),
        ("usd_per_1m_output_tokens", "USD/1M out"),
        ("bound", "bound"),
        ("trust", "trust"),
        ("breaks", "what breaks first"),
        ("trials", "trials"),
    ]);
    let at = found.at.as_ref();
    listing.push(vec![
        name.into(),
        objective.to_string().into(),
        found.over.name().into(),
        found.load.into(),
        at.map(|at| at.output_throughput).into(),
        at.map(|at| at.request_throughput).into(),
        at.and_then(|at| at.usd_per_1m_output_tokens).into(),
        found.bound.name().into(),
        found.trust.map(|trust| trust.name()).into(),
        found.beyond.as_ref().map(|beyond| beyond.missed.join("; ")).into(),
        found.trials.into(),
    ]);
    listing
}

/// Machines, cheapest first.
pub fn render_offers(
    title: &str,
    objective: &Objective,
    (over, wanted): (SearchedLoad, Option<f64>),
    offers: &[Offer],
    notes: &[String],
    style: Style,
) -> String {
    let mut text = format!("{}\nobjective: {objective}\n", style.bold(title));
    let unit = over.unit();
    let best = offers.first().filter(|offer| offer.load.is_some());
    match (best, wanted) {
        (None, _) => text.push_str(&style.bad("no machine of the catalogue meets it at any load")),
        (Some(best), Some(wanted)) => text.push_str(&format!(
            "{} for {} {unit}: {}",
            style.good("cheapest"),
            amount(over, wanted),
            style.bold(&format!(
                "{} x {}, {} USD/h",
                best.machines.unwrap_or(1),
                best.label(),
                number(best.total_usd_per_hour.unwrap_or(0.0), 4)
            ))
        )),
        (Some(best), None) => text.push_str(&format!(
            "{} for each token on a full machine: {}",
            style.good("cheapest"),
            style.bold(&best.label())
        )),
    }
    text.push_str("\n\n");
    let (fit, unfit): (Vec<&Offer>, Vec<&Offer>) =
        offers.iter().partition(|offer| offer.load.is_some());
    let mut columns = vec![
        ("deployment", "machine"),
        ("gpus", "GPUs"),
        ("usd_per_hour", "USD/h"),
        ("load", unit),
    ];
    if wanted.is_some() {
        columns.extend([("machines", "machines"), ("total", "USD/h in all")]);
    }
    columns.extend([
        ("usd", "USD/1M out"),
        ("bound", "bound"),
        ("trust", "trust"),
        ("why", "what breaks first"),
    ]);
    let mut listing = Listing::new(&columns);
    let more = fit.len().saturating_sub(MOST_OFFERS);
    for offer in fit.into_iter().take(MOST_OFFERS) {
        let figure = |value: Option<f64>| -> Value {
            value.map_or(Value::Null, |value| number(value, 4).into())
        };
        let mut cells = vec![
            offer.label().into(),
            format!("{} {}", offer.gpus, offer.gpu).into(),
            number(offer.usd_per_hour, 4).into(),
            offer.load.map_or(Value::Null, |load| amount(over, load).into()),
        ];
        if wanted.is_some() {
            cells.extend([offer.machines.into(), figure(offer.total_usd_per_hour)]);
        }
        cells.extend([
            figure(offer.usd_per_1m_output_tokens),
            offer.bound.map(|bound| bound.name()).into(),
            offer.trust.map(|trust| trust.name()).into(),
            offer.why.clone().into(),
        ]);
        listing.push(cells);
    }
    if !listing.is_empty() {
        text.push_str(&listing.to_table());
    }
    if more > 0 {
        text.push_str(&format!("... and {more} more (--format csv)\n"));
    }
    if !unfit.is_empty() {
        text.push_str(&format!("\n{} others are none:\n", unfit.len()));
        for offer in unfit {
            text.push_str(&style.dim(&format!("  {}: {}", offer.label(), offer.why)));
            text.push('\n');
        }
    }
    text.push_str(&style.dim(
        "note: the copies of a machine, and the machines, are taken to share the load evenly; of \
         instances with the same GPUs only the cheapest is shown\n",
    ));
    text.push_str(&assumptions(notes, style));
    text
}

/// The same as rows.
pub fn offers(offers: &[Offer], over: SearchedLoad) -> Listing {
    let mut listing = Listing::new(&[
        ("instance", "instance"),
        ("gpu", "GPU"),
        ("gpus", "GPUs"),
        ("tensor_parallel_size", "tp"),
        ("replicas", "copies"),
        ("usd_per_hour", "USD/h"),
        ("over", "over"),
        ("load", "load"),
        ("machines", "machines"),
        ("total_usd_per_hour", "USD/h in all"),
        ("usd_per_1m_output_tokens", "USD/1M out"),
        ("bound", "bound"),
        ("trust", "trust"),
        ("why", "why"),
    ]);
    for offer in offers {
        listing.push(vec![
            offer.instance.clone().into(),
            offer.gpu.clone().into(),
            offer.gpus.into(),
            offer.tensor_parallel_size.into(),
            offer.replicas.into(),
            offer.usd_per_hour.into(),
            over.name().into(),
            offer.load.into(),
            offer.machines.into(),
            offer.total_usd_per_hour.into(),
            offer.usd_per_1m_output_tokens.into(),
            offer.bound.map(|bound| bound.name()).into(),
            offer.trust.map(|trust| trust.name()).into(),
            offer.why.clone().into(),
        ]);
    }
    listing
}
