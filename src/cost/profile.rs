//! Calibrated coefficients, each with its provenance: of a GPU, of a machine's links, of a
//! deployment (host and engine), and of the kernels for quantised weights.
//!
//! The files under `calibration/fitted` are embedded; each reader also takes a user's own text.

mod deployment;
mod gpu;
mod interconnect;
pub mod lookup;
mod weight_kernel;

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, Deserializer, ValueDeserializer};

use crate::embedded::Value;

pub use deployment::{DeploymentProfile, FitRecord, FittedConstant};
pub use gpu::{
    AttentionSurfaces, DecodeSurface, ElementwiseSurface, Fit, GemmSurface, GpuProfile,
    RaggedSurface, SamplerSurface, SkewSurface,
};
pub use interconnect::{AllReduceSurface, InterconnectProfile, RankBandwidth};
pub use lookup::{Found, Match};
pub use weight_kernel::{DirectSurface, PassSurface, UnpackSurface, WeightKernelProfile};

/// Why a profile could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// `span` is the range of bytes that the message is about.
    #[error("calibration profile {name}: {message}")]
    Syntax { name: String, message: String, span: Option<Range<usize>> },
    #[error(
        "calibration profile {name}: it is of format {found}, and this servesim reads format \
         {FORMAT}; measure or fit it again with `servesim calibrate`, or use the servesim that wrote it"
    )]
    Format { name: String, found: String, span: Range<usize> },
    #[error("calibration profile {name}: {field} is {value}; it must be {expected}")]
    Value { name: String, field: String, value: String, expected: &'static str },
    #[error("no coefficient {name:?}; there are {}", .known.join(", "))]
    UnknownName { name: String, known: Vec<String> },
    #[error(
        "no deployment profile for engine {engine} on {instance}; add \
         calibration/fitted/deployments/{engine}.toml or give a profile of your own"
    )]
    NoDeployment { engine: String, instance: String },
    #[error(
        "no interconnect profile for {instance} (link {link}); add \
         calibration/fitted/interconnects/{instance}.toml or give a profile of your own"
    )]
    NoInterconnect { instance: String, link: String },
    #[error("no profile of the weight kernel {kernel}; give a profile of your own")]
    NoWeightKernel { kernel: String },
}

/// What the coefficients of a profile mean. It goes up when one is taken to mean something else, so
/// that numbers measured for the old meaning are refused and not misread. A file that says nothing
/// is taken as of this one: its unknown and missing keys are told.
pub const FORMAT: u32 = 2;

/// Takes the `format` out of a profile's table; it must be ours, if it is there.
fn take_format(name: &str, text: &str, table: &mut DeTable<'_>) -> Result<(), ProfileError> {
    let Some(format) = table.remove("format") else { return Ok(()) };
    let found = text.get(format.span()).unwrap_or_default();
    if found == FORMAT.to_string() {
        return Ok(());
    }
    Err(ProfileError::Format {
        name: name.to_owned(),
        found: found.to_owned(),
        span: format.span(),
    })
}

/// Reads a profile's text; `name` is what messages call it.
fn read_toml<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ProfileError> {
    let (text, mut table) = parse(name, bytes)?;
    take_format(name, text, table.get_mut())?;
    T::deserialize(Deserializer::from(table)).map_err(|error| syntax(name, &error))
}

/// Reads the profile in the table `key` of a text, if there is one; places in errors are of the text.
fn read_toml_table<T: DeserializeOwned>(
    name: &str,
    key: &str,
    bytes: &[u8],
) -> Result<Option<T>, ProfileError> {
    let (text, mut document) = parse(name, bytes)?;
    let Some(mut value) = document.get_mut().remove(key) else { return Ok(None) };
    if let DeValue::Table(table) = value.get_mut() {
        take_format(name, text, table)?;
    }
    let read = T::deserialize(ValueDeserializer::from(value));
    read.map(Some).map_err(|error| syntax(name, &error))
}

fn parse<'a>(
    name: &str,
    bytes: &'a [u8],
) -> Result<(&'a str, toml::Spanned<DeTable<'a>>), ProfileError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let message = format!("not UTF-8 text at byte {at}");
        ProfileError::Syntax { name: name.to_owned(), message, span: Some(at..at + 1) }
    })?;
    Ok((text, DeTable::parse(text).map_err(|error| syntax(name, &error))?))
}

fn syntax(name: &str, error: &toml::de::Error) -> ProfileError {
    let message = error.message().to_owned();
    ProfileError::Syntax { name: name.to_owned(), message, span: error.span() }
}

/// What a coefficient may be, beyond what its unit already says (finite and not negative).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// Any: zero switches the effect off.
    Any,
    /// A divisor.
    AboveZero,
    /// The exponent of a blend.
    AtLeastOne,
}

impl Bound {
    fn fault(self, value: f64) -> Option<&'static str> {
        match self {
            _ if !value.is_finite() || value < 0.0 => Some("a finite number, zero or more"),
            Self::AboveZero if value == 0.0 => Some("above zero"),
            Self::AtLeastOne if value < 1.0 => Some("at least 1"),
            _ => None,
        }
    }
}

/// Reads a profile that comes with the program.
fn read_embedded<T: DeserializeOwned>(name: &str, file: Value) -> Result<T, ProfileError> {
    let syntax = |message| ProfileError::Syntax { name: name.to_owned(), message, span: None };
    file.read().map_err(|error| syntax(error.to_string()))
}

/// Declares a group of coefficients: a struct of [`Sourced`](super::sourced::Sourced) numbers that
/// is read from a TOML table and can be read and written by name in base units.
macro_rules! coefficients {
    ($(#[$meta:meta])* pub struct $Type:ident {
        $($(#[$field_meta:meta])* $field:ident: $Unit:ty = $name:literal, $bound:ident),+ $(,)?
    } $(beside { $($(#[$extra_meta:meta])* $extra:ident: $Extra:ty),+ $(,)? })?) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $Type {
            $($(#[$field_meta])* #[serde(rename = $name)]
            pub $field: $crate::cost::sourced::Sourced<$Unit>,)+
            $($($(#[$extra_meta])* #[serde(default, skip_serializing_if = "Option::is_none")]
            pub $extra: Option<$Extra>,)+)?
        }

        impl $Type {
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The coefficient in base units (seconds, bytes, operations).
            pub fn get(&self, name: &str) -> Option<f64> {
                use $crate::cost::sourced::Coefficient;
                match name {
                    $($name => Some(self.$field.value.base()),)+
                    _ => None,
                }
            }

            /// Replaces a coefficient, in base units; says `fitted` and `source` from then on.
            pub fn set(
                &mut self,
                name: &str,
                value: f64,
                source: &str,
            ) -> Result<(), super::ProfileError> {
                use $crate::cost::sourced::{Coefficient, Provenance, Sourced};
                match name {
                    $($name => {
                        if let Some(expected) = super::Bound::$bound.fault(value) {
                            return Err(super::ProfileError::Value {
                                name: stringify!($Type).into(),
                                field: name.to_owned(),
                                value: value.to_string(),
                                expected,
                            });
                        }
                        self.$field = Sourced::new(
                            <$Unit>::from_base(value), Provenance::Fitted, source,
                        );
                        Ok(())
                    })+
                    _ => Err(super::ProfileError::UnknownName {
                        name: name.to_owned(),
                        known: Self::NAMES.iter().map(|name| (*name).to_owned()).collect(),
                    }),
                }
            }

            /// The least trusted of the coefficients.
            pub fn provenance(&self) -> $crate::cost::sourced::Provenance {
                [$(&self.$field.provenance),+].into_iter().max().expect("has fields").clone()
            }

            #[allow(dead_code)]
            fn check(&self, profile: &str, table: &str) -> Result<(), super::ProfileError> {
                use $crate::cost::sourced::Coefficient;
                $(if let Some(expected) = super::Bound::$bound.fault(self.$field.value.base()) {
                    return Err(super::ProfileError::Value {
                        name: profile.to_owned(),
                        field: [table, $name].into_iter().filter(|s| !s.is_empty())
                            .collect::<Vec<_>>().join("."),
                        value: self.$field.value.base().to_string(),
                        expected,
                    });
                })+
                Ok(())
            }
        }
    };
}

use coefficients;

#[cfg(test)]
mod tests;
