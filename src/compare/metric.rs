//! What is compared, which way is better, and what judges.

use serde::Serialize;

use crate::metrics::Summary;
use crate::named::nearest;
use crate::sweep::columns;

/// A figure of a run, by the key that it has in the summary.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub key: &'static str,
    /// `None` where it says nothing of better and worse.
    pub better: Option<Better>,
    pub get: fn(&Summary) -> Option<f64>,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

/// Requests that ended without the answer that was asked for, of all that ended.
const FAILED_SHARE: Metric = Metric {
    key: "failed_share",
    better: Some(Better::Lower),
    get: |summary| {
        let failed = summary.failed.get();
        let ended = failed + summary.completed.get();
        (ended > 0.0).then(|| failed / ended)
    },
};

/// All metrics in the order in which they are shown.
pub fn all() -> impl Iterator<Item = Metric> {
    let columns = columns::metrics().map(|(key, get)| {
        let better = match key {
            "preemptions" => Some(Better::Lower),
            _ => columns::less_is_better(key)
                .map(|less| if less { Better::Lower } else { Better::Higher }),
        };
        Metric { key, better, get }
    });
    columns.chain([FAILED_SHARE])
}

/// Whether a metric can be told for a part of the requests: what comes from their own records can,
/// what comes from steps cannot.
pub fn is_of_requests(key: &str) -> bool {
    ["completed", "failed"].contains(&key) || is_of_sections(key)
}

/// Whether the figure of a part is an estimate of that of the whole, as a count is not.
pub fn is_of_sections(key: &str) -> bool {
    let latencies = ["ttft_ms.", "tpot_ms.", "e2el_ms.", "normalized_latency_ms.", "queue_ms."];
    ["failed_share", "slo_attainment"].contains(&key)
        || latencies.iter().any(|latency| key.starts_with(latency))
}

/// What judges where nobody says: throughput, each request latency at its mean and its tail, and
/// whether requests fail. Few, since each one more makes a difference by chance harder to exclude.
pub const JUDGES: [&str; 8] = [
    "output_throughput",
    "ttft_ms.mean",
    "ttft_ms.p99",
    "tpot_ms.mean",
    "tpot_ms.p99",
    "e2el_ms.mean",
    "e2el_ms.p99",
    "failed_share",
];

/// And where the scenario has an objective.
pub const JUDGES_WITH_SLO: &str = "slo_attainment";

/// A metric that judges, and how much worse is let pass, as a share of A's figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judge {
    pub metric: &'static str,
    pub tolerance: f64,
}

/// How much worse is let pass where nobody says.
pub const TOLERANCE: f64 = 0.01;

impl Judge {
    /// The judges that `wanted` names (`KEY` or `KEY=TOLERANCE`), or the usual ones.
    pub fn parse(wanted: &[String], tolerance: f64, slo: bool) -> Result<Vec<Self>, String> {
        if wanted.is_empty() {
            let more = slo.then_some(JUDGES_WITH_SLO);
            let keys = JUDGES.into_iter().chain(more);
            return Ok(keys.map(|metric| Self { metric, tolerance }).collect());
        }
        let mut judges: Vec<Self> = Vec::new();
        for wanted in wanted {
            let (key, own) = match wanted.split_once('=') {
                Some((key, share)) => (key.trim(), parse_tolerance(share)?),
                None => (wanted.trim(), tolerance),
            };
            let metric = find(key)?;
            if judges.iter().any(|judge| judge.metric == metric) {
                return Err(format!("{key} is named twice"));
            }
            judges.push(Self { metric, tolerance: own });
        }
        Ok(judges)
    }
}

/// A share, as `2%` or `0.02`.
pub fn parse_tolerance(text: &str) -> Result<f64, String> {
    let text = text.trim();
    if let Some(percent) = text.parse::<f64>().ok().filter(|share| *share > 1.0) {
        return Err(format!(
            "{text} is a share of {} %: write {text}% for {text} %",
            percent * 100.0
        ));
    }
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    match number.trim().parse::<f64>() {
        Ok(share) if (0.0..=10.0).contains(&(share * scale)) => Ok(share * scale),
        _ => Err(format!("{text:?} is no tolerance: give a share of A's figure, as in 2% or 0.02")),
    }
}

fn find(key: &str) -> Result<&'static str, String> {
    match all().find(|metric| metric.key == key) {
        Some(Metric { better: None, .. }) => Err(format!("{key} says nothing of better and worse")),
        Some(metric) => Ok(metric.key),
        None => {
            let judging = all().filter(|metric| metric.better.is_some()).map(|metric| metric.key);
            let near = nearest(key, judging).map(|near| format!("; a similar one is {near}"));
            let near = near.unwrap_or_else(|| "; `--format csv` lists all of them".into());
            Err(format!("there is no metric {key:?}{near}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_judges_are_metrics_that_know_better_from_worse() {
        for key in JUDGES.iter().chain([&JUDGES_WITH_SLO]) {
            assert_eq!(find(key), Ok(*key));
        }
        assert_eq!(Judge::parse(&[], 0.02, true).unwrap().len(), JUDGES.len() + 1);
    }

    #[test]
    fn a_judge_may_have_a_tolerance_of_its_own() {
        let wanted = ["ttft_ms.p99=5%".to_owned(), "goodput".to_owned()];
        let judges = Judge::parse(&wanted, 0.01, false).unwrap();
        let want = |metric, tolerance| Judge { metric, tolerance };
        assert_eq!(judges, [want("ttft_ms.p99", 0.05), want("goodput", 0.01)]);
    }

    #[test]
    fn what_cannot_judge_is_named() {
        let complaint = |wanted: &str| Judge::parse(&[wanted.to_owned()], 0.0, false).unwrap_err();
        assert!(complaint("completed").contains("better and worse"));
        assert!(complaint("ttft_ms.p98").contains("ttft_ms.p9"), "{}", complaint("ttft_ms.p98"));
        assert!(complaint("goodput=-1%").contains("no tolerance"));
        assert!(complaint("goodput=lots").contains("no tolerance"));
        let twice = ["goodput".to_owned(), "goodput=1%".to_owned()];
        assert!(Judge::parse(&twice, 0.0, false).unwrap_err().contains("twice"));
    }
}
