//! Rows of published tables, from `calibration/published`.

use serde::Deserialize;

/// A row of Red Hat's Table 2.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Table2Row {
    /// Name under `scenarios/redhat`.
    pub scenario: String,
    pub instance: String,
    pub throughput_tok_s: f64,
    pub minutes_per_1m: f64,
    pub usd_per_1m: f64,
    pub published_usd_per_hour: f64,
    pub list_usd_per_hour: f64,
}

const TABLE_2: &[u8] = include_bytes!("../../calibration/published/redhat-2024-table2.csv");

pub(super) fn table_2() -> Result<Vec<Table2Row>, csv::Error> {
    csv::Reader::from_reader(TABLE_2).deserialize().collect()
}
