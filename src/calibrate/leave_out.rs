//! What a profile would be worth without the GPU's own tables: its surfaces carried over from other
//! GPUs, or made from the datasheet, held against the rows that were kept from them.

use crate::cost::profile::{Fit, GpuProfile};
use crate::hardware::{self, Gpu};

use super::import::{HALF, import};
use super::surfaces;
use super::table::{Timing, catalogue_gpu};

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
    let named = hardware::gpu_names()
        .filter(|name| rows.iter().any(|row| catalogue_gpu(&row.gpu) == Some(name)));
    named.flat_map(|name| of_gpu(rows, name)).collect()
}

fn of_gpu(rows: &[Timing], name: &str) -> Vec<LeftOut> {
    let gpu = hardware::gpu(name).expect("a name of the catalogue");
    let is_own = |row: &&Timing| catalogue_gpu(&row.gpu) == Some(name);
    let own: Vec<&Timing> = rows.iter().filter(is_own).collect();
    let others: Vec<Timing> = rows.iter().filter(|row| !is_own(row)).cloned().collect();
    let transfer = import(&others, &gpu);
    let from = |surface: &str| {
        let origin = transfer.transferred.iter().find(|(what, _)| *what == surface);
        origin.map_or_else(|| DATASHEET.to_owned(), |(_, from)| from.clone())
    };
    let mut errors = Vec::new();
    for fit in judge(&own, &gpu, &transfer.profile) {
        errors.push(LeftOut { gpu: name.to_owned(), from: from(&fit.surface), fit });
    }
    // Surfaces that nobody stands in for are made from nominal figures already.
    errors.retain(|error| error.from != DATASHEET);
    for fit in judge(&own, &gpu, &GpuProfile::from_datasheet(&gpu)) {
        errors.push(LeftOut { gpu: name.to_owned(), from: DATASHEET.to_owned(), fit });
    }
    errors
}

/// The errors of all surfaces of a profile on rows that it was not fitted to.
fn judge(own: &[&Timing], gpu: &Gpu, profile: &GpuProfile) -> Vec<Fit> {
    let attention = profile.attention.form(gpu);
    let gemm = profile.gemm.form(gpu, gpu.peak.fp16);
    let mut fits = surfaces::gemm_errors(own, gpu, &HALF, 2.0, &gemm);
    if let (Some(surface), Some(peak)) = (&profile.gemm_fp8, gpu.peak.fp8) {
        let form = surface.form(gpu, peak);
        fits.extend(surfaces::gemm_errors(own, gpu, &["fp8"], 1.0, &form));
    }
    fits.extend(surfaces::prefill_errors(own, gpu, attention.prefill));
    fits.extend(surfaces::decode_errors(own, gpu, attention.decode));
    fits.extend(surfaces::mixed_errors(own, &attention));
    fits.extend(surfaces::elementwise_errors(own, &profile.elementwise.form()));
    fits.retain(|fit| fit.rows as usize >= surfaces::FEWEST_ROWS);
    fits
}
