//! Whether the intervals hold for runs that had no part in making them: suite by suite, with what the
//! other suites ask for.

use std::collections::BTreeMap;

use super::ServingRow;

/// A normal deviate is within so many standard deviations with probability 95 %.
const Z95: f64 = 1.959_964;

/// Suites are content with their intervals when so many rows lie in those of 95 %.
const CONTENT: f64 = 0.95;

/// Intervals of one suite.
#[derive(Clone, Debug, PartialEq)]
pub struct Coverage {
    pub suite: String,
    /// Rows with an interval.
    pub rows: usize,
    /// Share of them within the interval of 95 %, in per cent.
    pub within_95_percent: f64,
    /// Standard deviation, as a share of the figure, that would have to be added to the intervals of
    /// all other suites for 95 % of their rows to lie within; each suite counts alike.
    pub others_ask: f64,
    /// The share within if that is added here.
    pub then_95_percent: f64,
}

/// A row's error and the deviation that was expected to its side, of the logarithm.
struct Deviate {
    error: f64,
    expected: f64,
}

impl Deviate {
    fn of(row: &ServingRow) -> Option<Self> {
        let error = (row.measured / row.predicted).ln();
        let end = if error > 0.0 { row.high_95? } else { row.low_95? };
        let expected = (end / row.predicted).ln().abs() / Z95;
        error.is_finite().then_some(Self { error, expected })
    }

    fn is_within(&self, more: f64) -> bool {
        self.error.abs() <= Z95 * self.expected.hypot(more)
    }
}

fn share_within(rows: &[Deviate], more: f64) -> f64 {
    rows.iter().filter(|row| row.is_within(more)).count() as f64 / rows.len() as f64
}

/// The least deviation, in hundredths, that makes the suites content.
fn asked<'a>(suites: impl Iterator<Item = &'a Vec<Deviate>> + Clone) -> f64 {
    let count = suites.clone().count().max(1) as f64;
    let content = |more: &f64| {
        suites.clone().map(|rows| share_within(rows, *more)).sum::<f64>() / count >= CONTENT
    };
    (0..100).map(|hundredths| f64::from(hundredths) / 100.0).find(content).unwrap_or(1.0)
}

/// Of each suite, in order of their names.
pub fn coverage(rows: &[ServingRow]) -> Vec<Coverage> {
    let mut suites: BTreeMap<&str, Vec<Deviate>> = BTreeMap::new();
    for row in rows {
        if let Some(deviate) = Deviate::of(row) {
            suites.entry(&row.suite).or_default().push(deviate);
        }
    }
    let of = |(suite, rows): (&&str, &Vec<Deviate>)| {
        let others = suites.iter().filter(|(name, _)| *name != suite).map(|(_, rows)| rows);
        let others_ask = asked(others);
        Coverage {
            suite: (*suite).to_owned(),
            rows: rows.len(),
            within_95_percent: 100.0 * share_within(rows, 0.0),
            others_ask,
            then_95_percent: 100.0 * share_within(rows, others_ask),
        }
    };
    suites.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prediction of 100 within 80 .. 125 at 95 %.
    fn row(suite: &str, measured: f64) -> ServingRow {
        let first = super::super::committed_rows().unwrap().remove(0);
        ServingRow {
            suite: suite.into(),
            measured,
            predicted: 100.0,
            low_95: Some(80.0),
            high_95: Some(125.0),
            ..first
        }
    }

    #[test]
    fn a_suite_is_widened_by_what_the_others_ask_for_and_never_by_itself() {
        let rows = [row("near", 105.0), row("near", 98.0), row("far", 140.0), row("far", 90.0)];
        let found = coverage(&rows);
        let [far, near] = found.as_slice() else { panic!("{found:?}") };
        // The near ones are content with what they have, and do not help the far ones.
        assert_eq!((far.within_95_percent, far.others_ask, far.then_95_percent), (50.0, 0.0, 50.0));
        // ln 1.4 = 1.96 hypot(0.114, 0.13).
        assert!((near.others_ask - 0.13).abs() < 0.011, "{near:?}");
        assert_eq!((near.within_95_percent, near.then_95_percent), (100.0, 100.0));
    }

    #[test]
    fn rows_without_an_interval_do_not_count() {
        let without = ServingRow { low_95: None, high_95: None, ..row("near", 100.0) };
        assert_eq!(coverage(&[without]), []);
    }
}
