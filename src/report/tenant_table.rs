//! The tenants of a summary for people.

use comfy_table::CellAlignment;

use super::listing::{plain_table, tidy};
use super::style::{Style, count, number};
use super::summary_table::{pad, percent};
use crate::metrics::Summary;

/// Rows that still fit on a screen; `--format json` has them all.
const MOST_ROWS: usize = 16;

/// One row per tenant; nothing where requests are of one kind.
pub(super) fn tenants(summary: &Summary, style: Style) -> String {
    if summary.tenants.is_empty() {
        return String::new();
    }
    let mut table = plain_table();
    let judged = summary.tenants.values().any(|tenant| tenant.slo.is_some());
    let header = [
        "tenant",
        "completed",
        "failed",
        "unfinished",
        "tokens in",
        "out",
        "TTFT p50",
        "p99",
        "TPOT p50",
        "p99",
        "E2E p50",
        "p99 ms",
    ];
    table.set_header(header.into_iter().chain(judged.then_some("SLO")));
    for (name, tenant) in summary.tenants.iter().take(MOST_ROWS) {
        let counts = [
            tenant.completed,
            tenant.failed,
            tenant.unfinished,
            tenant.total_input_tokens,
            tenant.total_output_tokens,
        ];
        let latencies = [&tenant.ttft_ms, &tenant.tpot_ms, &tenant.e2el_ms];
        let latencies = latencies.into_iter().flat_map(|stats| [stats.median, stats.p99]);
        let cells = counts.map(|n| count(n.get())).into_iter();
        let cells = cells.chain(latencies.map(|ms| ms.map_or("-".into(), |ms| number(ms, 4))));
        let verdict = tenant.slo.as_ref().map_or("-".to_owned(), |slo| {
            let word = if slo.met { style.good("met") } else { style.bad("missed") };
            format!("{word}, {} within", slo.attainment.map_or("-".into(), percent))
        });
        let cells = cells.chain(judged.then_some(verdict));
        table.add_row(std::iter::once(name.clone()).chain(cells));
    }
    pad(&mut table, |i| {
        if i == 0 || i == header.len() { CellAlignment::Left } else { CellAlignment::Right }
    });
    let mut text = format!("\n{}", tidy(&table));
    if let Some(more) = summary.tenants.len().checked_sub(MOST_ROWS).filter(|&more| more > 0) {
        text.push_str(&format!("... and {more} more tenants; --format json has them all\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::summary::Count;
    use crate::metrics::tenants::TenantSummary;

    #[test]
    fn each_tenant_has_a_row_and_requests_of_one_kind_have_none() {
        let mut summary = Summary::default();
        assert_eq!(tenants(&summary, Style::PLAIN), "");
        let mut chat = TenantSummary { completed: Count::new(1234), ..TenantSummary::default() };
        chat.ttft_ms.median = Some(81.44);
        summary.tenants.insert("chat".into(), chat);
        let text = tenants(&summary, Style::PLAIN);
        assert!(text.contains("chat        1,234       0           0"), "{text}");
        assert!(text.contains("81.44    -"), "{text}");
    }
}
