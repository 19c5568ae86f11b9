//! Rows of published tables, from `calibration/published`.

use std::path::Path;

use serde::Deserialize;

use super::ValidateError;
use crate::calibrate::deployment::measurements::{self, Flags, Measurements};
use crate::scenario::{DiskFiles, Registry};

/// A row of Red Hat's Table 2.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Table2Row {
    /// The embedded scenario.
    pub scenario: String,
    pub instance: String,
    pub throughput_tok_s: f64,
    pub minutes_per_1m: f64,
    pub usd_per_1m: f64,
    pub published_usd_per_hour: f64,
    pub list_usd_per_hour: f64,
}

/// A published table by name and text.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub name: &'static str,
    pub text: &'static str,
}

pub(super) const TABLE_2: Table = Table {
    name: "redhat-2024-table2.csv",
    text: include_str!("../../calibration/published/redhat-2024-table2.csv"),
};

pub(super) const TGI_SAGEMAKER: Table = Table {
    name: "tgi-1.0.3-sagemaker.csv",
    text: include_str!("../../calibration/published/tgi-1.0.3-sagemaker.csv"),
};

pub(super) fn table_2() -> Result<Vec<Table2Row>, csv::Error> {
    csv::Reader::from_reader(TABLE_2.text.as_bytes()).deserialize().collect()
}

impl Table {
    /// Its rows on one family of instances, as `calibrate --fit-deployment` reads them.
    pub fn measurements(self, instance: &str, engine: &str) -> Result<Measurements, ValidateError> {
        let flags = Flags {
            instance: Some(instance),
            engine: Some(engine),
            overrides: Vec::new(),
            registry: &Registry::builtin(),
        };
        measurements::read(Path::new(self.name), self.text, &flags, &DiskFiles)
            .map_err(|d| ValidateError::Scenario { name: self.name.into(), why: d.render(false) })
    }
}
