//! The summary of a run for people.

use comfy_table::{CellAlignment, Table};

use super::listing::{plain_table, tidy};
use super::style::{Style, count, number};
use super::{fleet_table, tenant_table};
use crate::cost::trust::Trust;
use crate::metrics::{Stats, Summary};

/// Everything that fits on one screen, most wanted first.
/// `profiles` says what priced the steps.
pub fn render(name: &str, summary: &Summary, profiles: &str, style: Style) -> String {
    let mut text = format!("{}\n\n", style.bold(name));
    text.push_str(&figures(summary, profiles));
    text.push('\n');
    text.push_str(&latencies(summary));
    if !summary.prediction_intervals.is_empty() {
        text.push('\n');
        text.push_str(&expected(summary));
    }
    let time = where_time_went(summary);
    if !time.is_empty() {
        text.push('\n');
        text.push_str(&time);
    }
    text.push_str(&where_requests_spent_it(summary));
    text.push_str(&fleet_table::pools(summary));
    text.push_str(&fleet_table::replicas(summary));
    text.push_str(&tenant_table::tenants(summary, style));
    text.push_str(&fleet_table::machines(summary));
    if let Some(slo) = &summary.slo {
        let verdict = if slo.met { style.good("met") } else { style.bad("missed") };
        let share = slo.attainment.map_or("-".into(), |a| format!("{} %", number(a * 100.0, 4)));
        text.push_str(&format!(
            "\nobjective ({}) {verdict}: {share} of the requests within all limits, goodput {} requests/s\n",
            objective(slo),
            number(summary.goodput.unwrap_or(0.0), 4),
        ));
    }
    for note in &summary.notes {
        text.push_str(&style.dim(&format!("note: {note}")));
        text.push('\n');
    }
    text
}

/// The key figures, two columns.
fn figures(summary: &Summary, profiles: &str) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    let per_second = |key: &str, value: f64| with_interval(summary, key, value, 4);
    let mut throughput = format!(
        "{} output tokens/s, {} requests/s, {} tokens/s in and out",
        per_second("output_throughput", summary.output_throughput),
        per_second("request_throughput", summary.request_throughput),
        per_second("total_token_throughput", summary.total_token_throughput),
    );
    if let Some(answered) = summary.output_throughput_answered {
        throughput.push_str(&format!(
            "\n{} output tokens/s of requests answered in time",
            per_second("output_throughput_answered", answered)
        ));
    }
    rows.push(("throughput", throughput));
    if let Some(minutes) = summary.minutes_per_1m_output_tokens {
        let time = with_interval(summary, "minutes_per_1m_output_tokens", minutes, 4);
        let cost = summary.usd_per_1m_output_tokens.map_or(String::new(), |usd| {
            let usd = with_interval(summary, "usd_per_1m_output_tokens", usd, 4);
            format!(", {usd} USD")
        });
        rows.push(("per 1M output tokens", format!("{time} minutes{cost}")));
    }
    let mut requests = format!(
        "{} completed, {} failed, {} unfinished in {} s",
        count(summary.completed.get()),
        count(summary.failed.get()),
        count(summary.unfinished.get()),
        number(summary.duration_s, 4),
    );
    let failures: Vec<_> = summary
        .failed_by_reason
        .iter()
        .filter(|(_, n)| n.get() > 0.0)
        .map(|(reason, n)| format!("{} {reason}", count(n.get())))
        .collect();
    if !failures.is_empty() {
        requests.push_str(&format!("\nfailed: {}", failures.join(", ")));
    }
    rows.push(("requests", requests));
    rows.push((
        "tokens",
        format!(
            "{} in, {} out of completed requests; {} generated",
            count(summary.total_input_tokens.get()),
            count(summary.total_output_tokens.get()),
            count(summary.generated_tokens.get()),
        ),
    ));
    rows.push((
        "batch size",
        format!(
            "{} on average, {} at most; {} preemptions",
            summary.batch_size.mean.map_or("-".into(), |mean| number(mean, 3)),
            count(summary.batch_size.max.get()),
            count(summary.preemptions.get()),
        ),
    ));
    rows.push((
        "KV cache",
        format!(
            "{} of {} used at most",
            percent(summary.kv_usage_peak),
            count(summary.kv_blocks_total.get()),
        ),
    ));
    if let Some(trust) = summary.trust {
        rows.push(("trust", format!("{trust}: {}", grounds(summary))));
    }
    if !profiles.is_empty() {
        rows.push(("profiles", profiles.to_owned()));
    }
    if let Some(seeds) = summary.seeds {
        rows.push(("seeds", format!("{seeds}; means with 95 % intervals")));
    }
    let mut table = plain_table();
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    pad(&mut table, |_| CellAlignment::Left);
    tidy(&table)
}

/// Shares of the busy time by the grade of the numbers behind them, and what keeps the grade down.
pub(super) fn grounds(summary: &Summary) -> String {
    let shares = Trust::ALL.iter().filter_map(|grade| {
        let share = *summary.trust_shares.get(grade.name())?;
        (share >= 0.0005).then(|| format!("{} {grade}", percent(share)))
    });
    let shares = shares.collect::<Vec<_>>().join(", ");
    let limits: Vec<_> =
        summary.trust_limits.iter().take(3).map(|term| term.replace('_', "-")).collect();
    format!("of the busy time {shares}\nlimited by {}", limits.join(", "))
}

/// One row per latency.
fn latencies(summary: &Summary) -> String {
    let rows = [
        ("TTFT", &summary.ttft_ms),
        ("TPOT", &summary.tpot_ms),
        ("ITL", &summary.itl_ms),
        ("E2E", &summary.e2el_ms),
        ("E2E per token", &summary.normalized_latency_ms),
        ("queue", &summary.queue_ms),
    ];
    let mut table = plain_table();
    table.set_header(["latency in ms", "mean", "median", "p90", "p95", "p99", "max"]);
    let mut approximate = None;
    for (name, stats) in rows {
        let Stats { mean, median, p90, p95, p99, max, .. } = stats;
        if stats.approximate {
            approximate = stats.relative_error.or(approximate);
        }
        let cells =
            [mean, median, p90, p95, p99, max].map(|v| v.map_or("-".into(), |v| number(v, 4)));
        table.add_row(std::iter::once(name.to_owned()).chain(cells));
    }
    pad(&mut table, |i| if i == 0 { CellAlignment::Left } else { CellAlignment::Right });
    let mut text = tidy(&table);
    if let Some(error) = approximate {
        text.push_str(&format!("percentiles within {}\n", percent(error)));
    }
    text
}

/// Where measurements of the main figures are expected.
fn expected(summary: &Summary) -> String {
    const FIGURES: [(&str, &str); 9] = [
        ("output_throughput", "output tokens/s"),
        ("request_throughput", "requests/s"),
        ("usd_per_1m_output_tokens", "USD per 1M output tokens"),
        ("ttft_ms.mean", "mean TTFT, ms"),
        ("ttft_ms.p99", "p99 TTFT, ms"),
        ("tpot_ms.mean", "mean TPOT, ms"),
        ("tpot_ms.p99", "p99 TPOT, ms"),
        ("e2el_ms.mean", "mean E2E, ms"),
        ("e2el_ms.p99", "p99 E2E, ms"),
    ];
    let mut table = plain_table();
    table.set_header(["a measurement is expected in", "80 % of runs", "95 %"]);
    for (key, name) in FIGURES {
        let Some(band) = summary.prediction_intervals.get(key) else { continue };
        let range = |low, high| format!("{} .. {}", number(low, 3), number(high, 3));
        let cells = [range(band.low_80, band.high_80), range(band.low_95, band.high_95)];
        table.add_row(std::iter::once(name.to_owned()).chain(cells));
    }
    pad(&mut table, |i| if i == 0 { CellAlignment::Left } else { CellAlignment::Right });
    tidy(&table)
}

/// Shares of the busy time by cost term, largest first.
fn where_time_went(summary: &Summary) -> String {
    let busy = summary.time.busy_s;
    if busy <= 0.0 {
        return String::new();
    }
    let available = busy + summary.time.idle_s;
    let mut terms: Vec<_> = summary.time.terms_s.iter().filter(|(_, s)| **s > 0.0).collect();
    terms.sort_by(|a, b| b.1.total_cmp(a.1));
    let terms: Vec<_> = terms
        .iter()
        .map(|(term, seconds)| format!("{} {}", term.replace('_', "-"), percent(*seconds / busy)))
        .collect();
    format!("busy {} of the time: {}\n", percent(busy / available), terms.join(", "))
}

/// By cause, the largest first; nothing where nobody asked.
fn where_requests_spent_it(summary: &Summary) -> String {
    let all: f64 = summary.blame_ms.values().sum();
    if all <= 0.0 {
        return String::new();
    }
    let mut causes: Vec<_> = summary.blame_ms.iter().filter(|(_, ms)| **ms > 0.0).collect();
    causes.sort_by(|a, b| b.1.total_cmp(a.1));
    let mut table = plain_table();
    table.set_header(["an answered request's time", "mean ms", "share"]);
    for (cause, ms) in causes {
        table.add_row([cause.replace('_', "-"), number(*ms, 4), percent(ms / all)]);
    }
    pad(&mut table, |column| match column {
        0 => CellAlignment::Left,
        _ => CellAlignment::Right,
    });
    format!("\n{}", tidy(&table))
}

fn objective(slo: &crate::metrics::summary::SloResult) -> String {
    let limits = [("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("E2E", slo.e2el_ms)];
    limits
        .iter()
        .filter_map(|(name, limit)| Some((name, (*limit)?)))
        .map(|(name, ms)| format!("p{} {name} <= {} ms", slo.percentile, number(ms, 4)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The figure, and how far its interval reaches to either side where there are several seeds.
fn with_interval(summary: &Summary, key: &str, value: f64, digits: u32) -> String {
    let text = number(value, digits);
    match summary.intervals.get(key) {
        Some(interval) => format!("{text} ± {}", number(interval.half_width, 2)),
        None => text,
    }
}

pub(super) fn percent(share: f64) -> String {
    format!("{} %", number(share * 100.0, 3))
}

pub(super) fn pad(table: &mut Table, alignment: impl Fn(usize) -> CellAlignment) {
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        column.set_cell_alignment(alignment(i));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Interval;
    use crate::metrics::summary::{Count, SloResult};

    fn summary() -> Summary {
        let mut summary = Summary {
            completed: Count::new(388),
            output_throughput: 161.304,
            minutes_per_1m_output_tokens: Some(103.32),
            usd_per_1m_output_tokens: Some(2.087),
            kv_usage_peak: 0.434,
            kv_blocks_total: Count::new(8436),
            ..Summary::default()
        };
        summary.time.busy_s = 3.0;
        summary.time.idle_s = 1.0;
        summary.time.terms_s = [("linear", 2.0), ("host", 1.0), ("sampling", 0.0)]
            .map(|(term, s)| (term.to_owned(), s))
            .into();
        summary
    }

    #[test]
    fn the_wanted_figures_stand_out() {
        let text = render("7B on g5.2xlarge", &summary(), "GPU a10g", Style::PLAIN);
        for part in [
            "7B on g5.2xlarge",
            "161.3 output tokens/s",
            "103.3 minutes, 2.087 USD",
            "388 completed",
            "43.4 % of 8,436",
            "busy 75.0 % of the time: linear 66.7 %, host 33.3 %",
            "profiles              GPU a10g",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        assert!(!text.contains("objective") && !text.contains('\x1b') && !text.contains(" \n"));
    }

    #[test]
    fn an_objective_has_a_verdict() {
        let mut summary = summary();
        summary.slo = Some(SloResult {
            attainment: Some(0.5),
            met: false,
            percentile: 99.0,
            ttft_ms: Some(2000.0),
            ..SloResult::default()
        });
        let text = render("a", &summary, "", Style::PLAIN);
        assert!(text.contains("objective (p99 TTFT <= 2,000 ms) missed: 50.00 %"), "{text}");
    }

    #[test]
    fn intervals_stand_beside_their_figures() {
        let mut summary = summary();
        summary.seeds = Some(32);
        let interval = Interval { mean: 161.304, low: 160.0, high: 162.6, half_width: 1.3 };
        summary.intervals.insert("output_throughput".into(), interval);
        let text = render("a", &summary, "", Style::PLAIN);
        assert!(text.contains("161.3 ± 1.3 output tokens/s"), "{text}");
        assert!(text.contains("32; means with 95 % intervals"), "{text}");
    }
}
