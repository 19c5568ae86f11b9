//! The flags of `servesim accuracy`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Format;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim accuracy
  servesim accuracy --committed --section operators
  servesim accuracy --section rows --format csv > rows.csv
  servesim accuracy --from-tables tables/ --section left-out

The runs of all suites, each varied to say where its measurement is expected, take a minute; with
--committed the figures are those that were computed when the program was made.")]
pub struct AccuracyArgs {
    /// Simulate nothing: the figures that were computed when the program was made
    #[arg(long)]
    pub committed: bool,

    /// Operator tables (CSV), or folders of them: hold every GPU's rows against profiles that are
    /// made without them
    #[arg(long, value_name = "FILE|DIR", num_args = 1..)]
    pub from_tables: Vec<PathBuf>,

    /// Write the figures into the marked section of this page
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,

    /// Only this part of it
    #[arg(long, value_enum, value_name = "SECTION")]
    pub section: Option<Section>,

    /// How it is printed; CSV needs a section
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// Parts of what is said of accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Errors of serving runs by suite, GPU, engine, model and trust
    Groups,
    /// Each published number beside its prediction
    Rows,
    /// Errors of single operators on rows held out from their fits
    Operators,
    /// The same of profiles made without the GPU's own tables
    LeftOut,
}
