//! The flags of `servesim report`.

use std::path::PathBuf;

use clap::Args;

use crate::time::SimDuration;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim run scenario.toml --steps --out results && servesim report results
  servesim report results --from 30s --until 35s

Writes report.html (a page that needs nothing else), trace.json (for ui.perfetto.dev) and the plots as
SVG. Steps are drawn where the run was made with --steps. Of long runs the beginning is drawn one
request and one step at a time; --from and --until choose another part.")]
pub struct ReportArgs {
    /// The folder that `servesim run --out` wrote
    #[arg(value_name = "RUN_DIR")]
    pub run: PathBuf,

    /// Where to write; the same folder if not given
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Draw requests and steps from this time of the run on
    #[arg(long, value_name = "TIME")]
    pub from: Option<SimDuration>,

    /// Draw them up to this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<SimDuration>,
}
