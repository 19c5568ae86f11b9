//! Kernels for quantised weights, relative to a GPU's 16-bit GEMM.

use serde::{Deserialize, Serialize};

use crate::cost::sourced::{Provenance, Seconds};
use crate::cost::weight_kernel::{DirectForm, PassForm, UnpackForm, WeightKernelForm};
use crate::embedded::Value;

use super::{Fit, ProfileError, coefficients, read_embedded, read_toml};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WeightKernelProfile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    pub direct: DirectSurface,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passes: Option<PassSurface>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpack: Option<UnpackSurface>,
    /// What it was fitted to, and how well.
    #[serde(default, rename = "fit", skip_serializing_if = "Vec::is_empty")]
    pub fits: Vec<Fit>,
}

coefficients! {
    /// See [`DirectForm`].
    pub struct DirectSurface {
        rate: f64 = "rate", AboveZero,
        bandwidth: f64 = "bandwidth", AboveZero,
        floor: Seconds = "floor", Any,
        row_granule: f64 = "row-granule", AtLeastOne,
    }
}

coefficients! {
    /// See [`PassForm`].
    pub struct PassSurface {
        rows: f64 = "rows", AtLeastOne,
        start_up: Seconds = "start-up", Any,
        join: Seconds = "join", Any,
    }
}

coefficients! {
    /// See [`UnpackForm`].
    pub struct UnpackSurface {
        bandwidth: f64 = "bandwidth", AboveZero,
        floor: Seconds = "floor", Any,
    }
}

impl WeightKernelProfile {
    /// Reads a profile; `name` is what messages call it.
    pub fn from_toml(name: &str, bytes: &[u8]) -> Result<Self, ProfileError> {
        read_toml::<Self>(name, bytes)?.checked(name)
    }

    /// Reads a profile that comes with the program.
    pub fn from_embedded(name: &str, file: Value) -> Result<Self, ProfileError> {
        read_embedded::<Self>(name, file)?.checked(name)
    }

    fn checked(self, name: &str) -> Result<Self, ProfileError> {
        self.direct.check(name, "direct")?;
        if let Some(passes) = &self.passes {
            passes.check(name, "passes")?;
        }
        if let Some(unpack) = &self.unpack {
            unpack.check(name, "unpack")?;
        }
        Ok(self)
    }

    pub fn form(&self) -> WeightKernelForm {
        WeightKernelForm {
            direct: DirectForm {
                rate: self.direct.rate.value,
                bandwidth: self.direct.bandwidth.value,
                floor: self.direct.floor.value.get(),
                row_granule: self.direct.row_granule.value,
                passes: self.passes.as_ref().map(|passes| PassForm {
                    rows: passes.rows.value,
                    start_up: passes.start_up.value.get(),
                    join: passes.join.value.get(),
                }),
            },
            unpack: self.unpack.as_ref().map(|unpack| UnpackForm {
                bandwidth: unpack.bandwidth.value,
                floor: unpack.floor.value.get(),
            }),
        }
    }

    pub fn provenance(&self) -> Provenance {
        let unpack = self.unpack.as_ref().map_or(Provenance::Measured, UnpackSurface::provenance);
        let passes = self.passes.as_ref().map_or(Provenance::Measured, PassSurface::provenance);
        self.direct.provenance().max(passes).max(unpack)
    }
}
