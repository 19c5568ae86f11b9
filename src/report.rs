//! Results as bytes: tables for people, JSON and CSV for programs.
//!
//! Nothing here opens a file or prints: exporters return bytes or write to a writer that they are
//! given. Nothing written holds a wall-clock figure, except the `simulator` object of
//! [`json::run_object`].

pub mod accuracy_table;
pub mod blame;
pub mod capacity_table;
pub mod chrome_trace;
pub mod compare_table;
pub mod csv;
mod fleet_table;
pub mod html;
pub mod json;
mod lanes;
pub mod listing;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod parting_table;
pub mod plot_data;
pub mod plots;
pub mod requests;
mod row;
pub mod rules;
pub mod run_records;
pub mod steps;
pub mod style;
pub mod summary_table;
pub mod sweep_table;
pub mod tenant_table;
pub mod workload_table;

pub use blame::BlameCsv;
pub use json::SimulatorFigures;
pub use listing::Listing;
pub use requests::RequestsCsv;
pub use steps::StepsCsv;
pub use style::Style;
