//! Pools, replicas and machines of a summary for people.

use comfy_table::CellAlignment;

use super::listing::{plain_table, tidy};
use super::style::{count, number};
use super::summary_table::{pad, percent};
use crate::metrics::Summary;

/// What machines did, in a line; nothing where all were there all the time.
pub(super) fn machines(summary: &Summary) -> String {
    let Some(fleet) = &summary.fleet else { return String::new() };
    let cost = fleet.usd.map_or(String::new(), |usd| format!(", {} USD", number(usd, 4)));
    let mut text = format!(
        "\nmachines: {} on average, {} at most; {} machine hours{cost}",
        number(fleet.machines, 4),
        count(fleet.most_machines.get()),
        number(fleet.machine_hours, 4),
    );
    if fleet.failures.get() > 0.0 {
        text.push_str(&format!("; failures of machines: {}", count(fleet.failures.get())));
    }
    if fleet.retries.get() > 0.0 {
        text.push_str(&format!("; attempts lost and tried again: {}", count(fleet.retries.get())));
    }
    text.push('\n');
    text
}

/// One row per pool; nothing where all machines are of one kind.
pub(super) fn pools(summary: &Summary) -> String {
    if summary.pools.is_empty() {
        return String::new();
    }
    let mut table = plain_table();
    table.set_header([
        "pool",
        "model",
        "instance",
        "machines",
        "requests",
        "output tokens",
        "busy",
        "USD",
        "per 1M",
        "trust",
    ]);
    let usd = |usd: Option<f64>| usd.map_or("-".into(), |usd| number(usd, 4));
    for (name, pool) in summary.pools.iter().take(MOST_ROWS) {
        table.add_row([
            name.clone(),
            pool.model.clone(),
            pool.instance.clone(),
            number(pool.machines, 3),
            count(pool.served.requests.get()),
            count(pool.served.output_tokens.get()),
            percent(pool.served.utilization),
            usd(pool.usd),
            usd(pool.usd_per_1m_output_tokens),
            pool.trust.map_or("-".into(), |trust| trust.to_string()),
        ]);
    }
    let words = [0, 1, 2, 9];
    pad(
        &mut table,
        |i| if words.contains(&i) { CellAlignment::Left } else { CellAlignment::Right },
    );
    let mut text = format!("\n{}", tidy(&table));
    text.push_str(&more(summary.pools.len(), "pools"));
    text
}

/// What is not shown.
fn more(rows: usize, what: &str) -> String {
    match rows.checked_sub(MOST_ROWS) {
        None | Some(0) => String::new(),
        Some(more) => format!("... and {more} more {what}; --format json has them all\n"),
    }
}

/// Rows that still fit on a screen; `--format json` has them all.
const MOST_ROWS: usize = 16;

/// One row per replica; nothing where there is only one.
pub(super) fn replicas(summary: &Summary) -> String {
    if summary.replicas.is_empty() {
        return String::new();
    }
    let mut table = plain_table();
    let of_pools = summary.replicas.iter().any(|replica| replica.pool.is_some());
    let pool = ["pool"].into_iter().filter(|_| of_pools);
    table.set_header(pool.chain(["replica", "requests", "output tokens", "busy"]));
    // Machines that were never needed have nothing to show.
    let there =
        summary.replicas.iter().enumerate().filter(|(_, replica)| replica.served.up_s > 0.0);
    for (number, replica) in there.clone().take(MOST_ROWS) {
        let cells = [
            number.to_string(),
            count(replica.served.requests.get()),
            count(replica.served.output_tokens.get()),
            percent(replica.served.utilization),
        ];
        table.add_row(replica.pool.iter().cloned().chain(cells));
    }
    let left = usize::from(of_pools);
    pad(&mut table, |i| if i < left { CellAlignment::Left } else { CellAlignment::Right });
    let mut text = format!("\n{}", tidy(&table));
    text.push_str(&more(there.count(), "replicas"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::summary::Count;
    use crate::metrics::{ReplicaSummary, Served};

    #[test]
    fn each_replica_has_a_row_and_one_alone_has_none() {
        let served = Served {
            requests: Count::new(1234),
            output_tokens: Count::new(56_789),
            utilization: 0.5,
            up_s: 1.0,
            ..Served::default()
        };
        let row = ReplicaSummary { served, pool: None };
        let mut summary = Summary::default();
        assert_eq!(replicas(&summary), "");
        summary.replicas = vec![row; 18];
        let text = replicas(&summary);
        assert!(text.contains("replica  requests  output tokens    busy"), "{text}");
        assert!(text.contains("     15     1,234         56,789  50.0 %"), "{text}");
        assert!(text.ends_with("... and 2 more replicas; --format json has them all\n"), "{text}");
    }
}
