//! Errors of rows that have something in common.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ServingRow;
use crate::named::named_enum;

named_enum! {
    /// What the rows of a group have in common.
    pub enum By as "grouping" {
        Suite = "suite",
        Gpu = "gpu",
        Engine = "engine",
        Model = "model",
        Trust = "trust",
        /// All of them.
        All = "all",
    }
}

/// Errors in per cent over the rows of a group, of predictions that have not seen them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    pub by: By,
    pub name: String,
    pub rows: usize,
    pub mean_percent: f64,
    pub median_percent: f64,
    pub p90_percent: f64,
    /// With its sign.
    pub bias_percent: f64,
    pub worst_percent: f64,
    /// Share of the rows that have a band, in per cent, whose measurement lies in it.
    pub within_80_percent: Option<f64>,
    pub within_95_percent: Option<f64>,
}

/// The groups in the order in which their first rows come.
pub fn groups(rows: &[ServingRow], by: By) -> Vec<Group> {
    let mut order: Vec<String> = Vec::new();
    let mut members: BTreeMap<String, Vec<&ServingRow>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.error_percent.is_some()) {
        let name = match by {
            By::Suite if row.group.is_empty() => row.suite.clone(),
            By::Suite => format!("{}, {}", row.suite, row.group),
            By::Gpu => row.gpu.clone(),
            By::Engine => row.engine.clone(),
            By::Model => row.model.clone(),
            By::Trust => row.trust.map_or_else(|| "unknown".to_owned(), |t| t.to_string()),
            By::All => "all".to_owned(),
        };
        if !members.contains_key(&name) {
            order.push(name.clone());
        }
        members.entry(name).or_default().push(row);
    }
    order.into_iter().map(|name| group(by, &members[&name], name)).collect()
}

fn group(by: By, rows: &[&ServingRow], name: String) -> Group {
    let errors: Vec<f64> = rows.iter().filter_map(|row| row.error_percent).collect();
    let mut magnitudes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    magnitudes.sort_by(f64::total_cmp);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let at = |share: f64| magnitudes[((magnitudes.len() - 1) as f64 * share).round() as usize];
    let worst = errors.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
    let covered: Vec<(bool, bool)> = rows.iter().filter_map(|row| row.covered()).collect();
    let share = |holds: fn(&(bool, bool)) -> bool| {
        let held = covered.iter().filter(|pair| holds(pair)).count();
        (!covered.is_empty()).then(|| 100.0 * held as f64 / covered.len() as f64)
    };
    Group {
        by,
        name,
        rows: rows.len(),
        mean_percent: mean(&magnitudes),
        median_percent: at(0.5),
        p90_percent: at(0.9),
        bias_percent: mean(&errors),
        worst_percent: worst.expect("a group has rows"),
        within_80_percent: share(|pair| pair.0),
        within_95_percent: share(|pair| pair.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(gpu: &str, error: Option<f64>, band: Option<(f64, f64)>) -> ServingRow {
        ServingRow {
            suite: "s".into(),
            group: String::new(),
            row: String::new(),
            gpu: gpu.into(),
            engine: String::new(),
            model: String::new(),
            quantity: String::new(),
            measured: 100.0,
            predicted: 100.0,
            error_percent: error,
            fitted: false,
            trust: None,
            low_80: band.map(|band| band.0),
            high_80: band.map(|band| band.1),
            low_95: band.map(|band| band.0 - 10.0),
            high_95: band.map(|band| band.1 + 10.0),
        }
    }

    #[test]
    fn errors_are_summed_up_by_what_rows_have_in_common() {
        let rows = [
            row("l4", Some(-4.0), Some((90.0, 110.0))),
            row("a10g", Some(30.0), None),
            row("l4", Some(8.0), Some((103.0, 120.0))),
            row("l4", None, None),
        ];
        let found = groups(&rows, By::Gpu);
        let names: Vec<&str> = found.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["l4", "a10g"]);
        let l4 = &found[0];
        assert_eq!((l4.rows, l4.mean_percent, l4.bias_percent), (2, 6.0, 2.0));
        assert_eq!((l4.worst_percent, l4.within_80_percent), (8.0, Some(50.0)));
        assert_eq!(l4.within_95_percent, Some(100.0));
        assert_eq!(found[1].within_80_percent, None);
        assert_eq!(groups(&rows, By::All)[0].rows, 3);
    }
}
