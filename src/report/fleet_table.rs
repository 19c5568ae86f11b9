//! The replicas of a summary for people.

use comfy_table::CellAlignment;

use super::listing::{plain_table, tidy};
use super::style::count;
use super::summary_table::{pad, percent};
use crate::metrics::Summary;

/// Rows that still fit on a screen; `--format json` has them all.
const MOST_ROWS: usize = 16;

/// One row per replica; nothing where there is only one.
pub(super) fn replicas(summary: &Summary) -> String {
    if summary.replicas.is_empty() {
        return String::new();
    }
    let mut table = plain_table();
    table.set_header(["replica", "requests", "output tokens", "busy"]);
    for (number, replica) in summary.replicas.iter().take(MOST_ROWS).enumerate() {
        table.add_row([
            number.to_string(),
            count(replica.requests.get()),
            count(replica.output_tokens.get()),
            percent(replica.utilization),
        ]);
    }
    pad(&mut table, |_| CellAlignment::Right);
    let mut text = format!("\n{}", tidy(&table));
    if let Some(more) = summary.replicas.len().checked_sub(MOST_ROWS).filter(|&more| more > 0) {
        text.push_str(&format!("... and {more} more replicas; --format json has them all\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ReplicaSummary;
    use crate::metrics::summary::Count;

    #[test]
    fn each_replica_has_a_row_and_one_alone_has_none() {
        let row = ReplicaSummary {
            requests: Count::new(1234),
            output_tokens: Count::new(56_789),
            utilization: 0.5,
            ..ReplicaSummary::default()
        };
        let mut summary = Summary::default();
        assert_eq!(replicas(&summary), "");
        summary.replicas = vec![row; 18];
        let text = replicas(&summary);
        assert!(text.contains("replica  requests  output tokens    busy"), "{text}");
        assert!(text.contains("     15     1,234         56,789  50.0 %"), "{text}");
        assert!(text.ends_with("... and 2 more replicas; --format json has them all\n"), "{text}");
    }
}
