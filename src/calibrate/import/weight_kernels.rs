//! Profiles of kernels for quantised weights from timed products.

use crate::cost::profile::{DirectSurface, PassSurface, WeightKernelProfile};
use crate::cost::sourced::{Coefficient, Provenance, Sourced, significant};
use crate::cost::weight_kernel::DirectForm;
use crate::hardware;

use super::super::surfaces::{QuantisedProducts, Surface};
use super::Tables;

/// A file of `calibration/fitted/weight-kernels` that comes from tables.
#[derive(Debug)]
struct Kernel {
    name: &'static str,
    note: &'static str,
    /// Whose rows, and whose 16-bit surface they stand beside.
    gpu: &'static str,
    products: QuantisedProducts,
    /// Why rows are padded to the granule.
    granule: (Provenance, &'static str),
    /// What the rows are of, where that is another kernel.
    from: Option<&'static str>,
}

/// 4 bits, and a 16-bit scale for each 128 of them.
const MARLIN: QuantisedProducts = QuantisedProducts {
    dtype: "w4a16-marlin",
    source: "rgs",
    weight: 4.125 / 8.0,
    row_granule: 16.0,
    pass: Some(64.0),
    least: 0.0,
};

/// TensorRT-LLM's int8 weight-only kernel; 16-bit weights of 16 MB and more.
const INT8: QuantisedProducts = QuantisedProducts {
    dtype: "int8_wo",
    source: "aic/trtllm",
    weight: 1.0,
    row_granule: 16.0,
    pass: None,
    least: 8e6,
};

const FLAT: (Provenance, &str) =
    (Provenance::Measured, "time is flat below 16 rows and grows in steps of 16 beyond");

const KERNELS: [Kernel; 3] = [
    Kernel {
        name: "marlin",
        note: "4-bit weights with fp16 activations, timed on an A10G beside its own fp16 products. \
               Other GPUs: transferred",
        gpu: "a10g",
        products: MARLIN,
        granule: FLAT,
        from: None,
    },
    Kernel {
        name: "marlin-fp8",
        note: "8-bit weights with 16-bit activations on GPUs without 8-bit tensor cores",
        gpu: "a10g",
        products: MARLIN,
        granule: FLAT,
        from: Some("marlin"),
    },
    Kernel {
        name: "eetq",
        note: "int8 weights with fp16 activations; EETQ takes its kernels from TensorRT-LLM",
        gpu: "a100-80gb",
        products: INT8,
        granule: (Provenance::Assumed, "tensor-core tile"),
        from: Some("int8 weight-only of TensorRT-LLM"),
    },
];

/// Names of the kernels whose profiles tables give.
pub fn weight_kernel_names() -> impl Iterator<Item = &'static str> {
    KERNELS.iter().map(|kernel| kernel.name)
}

impl Tables<'_> {
    /// The profile of the kernel of that name; `None` without rows of it.
    pub fn weight_kernel(&self, name: &str) -> Option<WeightKernelProfile> {
        let kernel = KERNELS.iter().find(|kernel| kernel.name == name)?;
        let own = self.gpus.get(kernel.gpu)?;
        let gpu = hardware::gpu(kernel.gpu).expect("a name of the catalogue");
        let gemm = own.gemm()?.form.with_limits(gpu.peak.fp16, gpu.memory.bandwidth);
        let fitted = kernel.products.fit(&own.rows(), &gemm)?;
        Some(kernel.profile(&fitted))
    }
}

impl Kernel {
    fn profile(&self, fitted: &Surface<DirectForm>) -> WeightKernelProfile {
        let provenance = self
            .from
            .map_or(Provenance::Fitted, |from| Provenance::TransferredFrom(from.to_owned()));
        let form = &fitted.form;
        let source = &fitted.source;
        fn number<T: Coefficient>(value: f64, provenance: &Provenance, source: &str) -> Sourced<T> {
            Sourced::new(T::from_base(significant(value)), provenance.clone(), source)
        }
        let (granule, why) = &self.granule;
        WeightKernelProfile {
            note: Some(self.note.to_owned()),
            direct: DirectSurface {
                rate: number(form.rate, &provenance, source),
                bandwidth: number(form.bandwidth, &provenance, source),
                floor: number(form.floor, &provenance, source),
                row_granule: number(form.row_granule, granule, why),
            },
            passes: form.passes.map(|passes| PassSurface {
                rows: number(
                    passes.rows,
                    &Provenance::Measured,
                    "time doubles with each doubling from 64 rows on",
                ),
                start_up: number(passes.start_up, &provenance, source),
                join: number(passes.join, &provenance, source),
            }),
            unpack: None,
            fits: fitted.fits.clone(),
        }
    }
}
