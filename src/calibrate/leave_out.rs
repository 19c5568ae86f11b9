//! What a profile would be worth without the GPU's own tables: its surfaces carried over from other
//! GPUs, or made from the datasheet, held against the rows that were kept from them.

use crate::cost::profile::{Fit, GpuProfile};
use crate::hardware;

use super::import::Tables;
use super::surfaces::{self, Precision, Rows};
use super::table::Timing;

/// Errors of one surface on one source's rows of a GPU that it was not fitted to.
#[derive(Clone, Debug)]
pub struct LeftOut {
    pub gpu: String,
    /// The GPU whose tables stand in, or the datasheet.
    pub from: String,
    /// `rows` are those that were judged.
    pub fit: Fit,
}

/// Who stands in where nothing was measured at all.
pub const DATASHEET: &str = "the datasheet";

/// The errors of every surface of every GPU in the tables, by transfer and from nominal figures.
pub fn leave_one_out(rows: &[Timing]) -> Vec<LeftOut> {
    let tables = Tables::new(rows);
    tables.names().flat_map(|name| of_gpu(&tables, name)).collect()
}

fn of_gpu(tables: &Tables<'_>, name: &str) -> Vec<LeftOut> {
    let gpu = hardware::gpu(name).expect("a name of the catalogue");
    let own = tables.rows(name).expect("it has rows");
    let transfer = tables.transfer(&gpu);
    let from = |surface: &str| {
        let origin = transfer.transferred.iter().find(|(what, _)| *what == surface);
        origin.map_or_else(|| DATASHEET.to_owned(), |(_, from)| from.clone())
    };
    let mut errors = Vec::new();
    for fit in judge(&own, &transfer.profile) {
        errors.push(LeftOut { gpu: name.to_owned(), from: from(&fit.surface), fit });
    }
    // Surfaces that nobody stands in for are made from nominal figures already.
    errors.retain(|error| error.from != DATASHEET);
    for fit in judge(&own, &GpuProfile::from_datasheet(&gpu)) {
        errors.push(LeftOut { gpu: name.to_owned(), from: DATASHEET.to_owned(), fit });
    }
    errors
}

/// The errors of all surfaces of a profile on rows that it was not fitted to.
fn judge(own: &Rows<'_>, profile: &GpuProfile) -> Vec<Fit> {
    let gpu = own.gpu;
    let attention = profile.attention.form(gpu);
    let gemm = profile.gemm.form(gpu, gpu.peak.fp16);
    let mut fits = surfaces::gemm_errors(own, &Precision::HALF, &gemm);
    if let (Some(surface), Some(peak)) = (&profile.gemm_fp8, gpu.peak.fp8) {
        fits.extend(surfaces::gemm_errors(own, &Precision::FP8, &surface.form(gpu, peak)));
    }
    fits.extend(surfaces::prefill_errors(own, attention.prefill));
    fits.extend(surfaces::decode_errors(own, attention.decode));
    fits.extend(surfaces::mixed_errors(own, &attention));
    fits.extend(surfaces::elementwise_errors(own, &profile.elementwise.form()));
    fits.retain(|fit| fit.rows as usize >= surfaces::FEWEST_ROWS);
    fits
}
